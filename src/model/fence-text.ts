/** The fence in pg_hba.conf, as text. */
export const FENCE_BEGIN = '# BEGIN HOLDFAST FENCE';
export const FENCE_END = '# END HOLDFAST FENCE';
const NOTE = '# Writes are refused: only the recovery administrator and replication are let in. Remove this block and reload to lift it by hand.';
/** At the end of each rule of the fence: it is known as ours even when somebody removed the lines around it. */
const MARK = ' # holdfast fence';

/** The rules themselves. md5 as a method accepts SCRAM verifiers too and is thus right for either password encryption. */
function fenceRules(admin: string): string[] {
  const quoted = `"${admin.replaceAll('"', '""')}"`;
  return [`local all ${quoted} md5`, `host all ${quoted} all md5`, 'local all all reject', 'host all all all reject'];
}

/**
 * Refusing writes by pg_hba.conf: survives a restart, is not replicated to the standby (as ALTER ROLE and ALTER DATABASE
 * would be), and no session can switch it off (as it can default_transaction_read_only). Replication connections pass,
 * since `all` does not match `replication`. Source: PostgreSQL documentation, 21.1 "The pg_hba.conf File".
 */
export function withFence(hba: string, options: FenceOptions): string {
  return `${fenceBlock(options).join('\n')}\n${withoutFence(hba)}`;
}

export interface FenceOptions {
  readonly admin: string;
  /** A text where the number is filled in later. */
  readonly epoch: number | string;
  readonly execution: string;
}

/** The lines of the fence alone. */
export function fenceBlock(options: FenceOptions): string[] {
  return [
    `${FENCE_BEGIN} epoch=${options.epoch} execution=${options.execution.replaceAll(/[^\w./:-]/g, '_')}`,
    NOTE,
    ...fenceRules(options.admin).map((rule) => `${rule}${MARK}`),
    FENCE_END,
  ];
}

/** The rules without the fence, whatever is left of it: its lines are known one by one, so that a lost END takes nobody else's rules along. */
export function withoutFence(hba: string): string {
  const kept: string[] = [];
  let inside = false;
  for (const line of hba.split('\n')) {
    if (line.startsWith(FENCE_BEGIN)) {
      inside = true;
      continue;
    }
    if (line.startsWith(FENCE_END)) {
      inside = false;
      continue;
    }
    if (line.endsWith(MARK) || line === NOTE) continue;
    // A fence of an earlier version has no marks.
    if (inside && (line.startsWith('# Writes are refused:') || /^(local all|host all) ("(?:[^"]|"")*"( all)? md5|all( all)? reject)$/.test(line))) continue;
    inside = false;
    kept.push(line);
  }
  return kept.join('\n');
}

/** Epoch of the fence in these rules, null when there is none. */
export function fenceEpoch(hba: string): number | null {
  const match = /^# BEGIN HOLDFAST FENCE epoch=(\d+)/m.exec(hba);
  return match === null ? null : Number(match[1]);
}

/** The fence's rules are the first of all, and all there: the first rule that fits decides, so one line above them opens it. */
export function fenceWhole(hba: string, admin: string): boolean {
  const rules = hba.split('\n').map((line) => line.replace(/#.*$/, '').trim()).filter((line) => line !== '');
  return fenceRules(admin).every((rule, index) => rules[index] === rule);
}
