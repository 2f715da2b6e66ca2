/** What a restore needs of a server's version: `7.0` and `7.3` are of major version 7, `4.2` and `4.4` are two. undefined: not known. */
export function majorVersion(version: string): string | undefined {
  const found = /^(\d+)\.(\d+)/.exec(version);
  if (found === null) return undefined;
  return Number(found[1]) < 5 ? `${found[1]}.${found[2]}` : found[1];
}

/** undefined: one of them is not known. */
export function sameMajor(a: string, b: string): boolean | undefined {
  const [one, other] = [majorVersion(a), majorVersion(b)];
  return one === undefined || other === undefined ? undefined : one === other;
}
