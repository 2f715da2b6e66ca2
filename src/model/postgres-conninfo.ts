/** Key words of a libpq connection string, either `key=value` or a URI. null: it is neither, and is not touched. */
export function parseConninfo(text: string): Map<string, string> | null {
  return /^postgres(ql)?:\/\//.test(text) ? parseUri(text) : parsePairs(text);
}

function parsePairs(text: string): Map<string, string> | null {
  const found = new Map<string, string>();
  // Source: PostgreSQL documentation, 34.1.1.1 "Keyword/Value Connection Strings".
  const pair = /\s*([\w]+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^\s'\\]|\\.)*))(?=\s|$)/sy;
  while (pair.lastIndex < text.length) {
    if (/^\s*$/.test(text.slice(pair.lastIndex))) break;
    const match = pair.exec(text);
    if (match === null) return null;
    const value = (match[2] ?? match[3] ?? '').replaceAll(/\\(.)/gs, '$1');
    // The last word counts, and an empty one takes back what stood before.
    if (value === '') found.delete(match[1]!);
    else found.set(match[1]!, value);
  }
  return found;
}

function parseUri(text: string): Map<string, string> | null {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return null; // Several hosts in one URI, among others.
  }
  const found = new Map<string, string>();
  const put = (key: string, value: string): void => {
    if (value !== '') found.set(key, decodeURIComponent(value));
  };
  put('host', url.hostname.replaceAll(/^\[|\]$/g, ''));
  put('port', url.port);
  put('user', url.username);
  put('password', url.password);
  put('dbname', url.pathname.replace(/^\//, ''));
  for (const [key, value] of url.searchParams) found.set(key, value);
  return found;
}

export function formatConninfo(values: ReadonlyMap<string, string>): string {
  return [...values].map(([key, value]) => `${key}=${conninfoValue(value)}`).join(' ');
}

/** A value in a libpq connection string. */
export function conninfoValue(value: string): string {
  return /^[\w.:/-]+$/.test(value) ? value : `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}

/** A value in postgresql.conf: a backslash escapes there too. Source: GUC_scanstr in PostgreSQL's guc-file.l. */
export function settingValue(value: string): string {
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`;
}

/** The same login at another address. */
export function redirectConninfo(values: ReadonlyMap<string, string>, host: string, port: number): Map<string, string> {
  const moved = new Map(values);
  // An address given as number would win over the name.
  moved.delete('hostaddr');
  moved.set('host', host);
  moved.set('port', String(port));
  return moved;
}
