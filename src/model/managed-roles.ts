import { formatDuration } from './units.ts';

/** What SQL says of an instance; it is asked where applications ask. */
export interface SqlSaw {
  readonly reachable: boolean;
  readonly inRecovery: boolean | null;
  /** Why it did not answer. */
  readonly error: string | null;
}

/** What the RDS API says of it, which may be minutes behind, and may not answer at all when its Region is lost. */
export type RdsSaw =
  | { readonly answers: true; readonly found: true; readonly status: string; /** What it replicates from, in RDS's words; null: nothing. */ readonly source: string | null }
  | { readonly answers: true; readonly found: false }
  | { readonly answers: false; readonly error: string };

export interface JudgedRole {
  readonly role: 'primary' | 'standby' | 'unknown';
  /** Whose word it is. */
  readonly basis: 'sql' | 'rds' | 'nobody';
  /** Where the sources contradict each other, in words. */
  readonly disagreements: readonly string[];
}

/**
 * Who takes writes is what the server itself says: RDS describes what it was told to bring about, and goes on describing it while
 * that is not so yet, or no longer. Where the server does not answer RDS's word is all there is, and it is called that.
 */
export function judgeRole(node: string, sql: SqlSaw, rds: RdsSaw): JudgedRole {
  const byRds = rds.answers && rds.found ? (rds.source === null ? 'primary' : 'standby') : 'unknown';
  if (sql.reachable && sql.inRecovery !== null) {
    const role = sql.inRecovery ? 'standby' : 'primary';
    const disagreements: string[] = [];
    if (!rds.answers) disagreements.push(`RDS cannot be asked about ${node} (${rds.error})`);
    else if (!rds.found) disagreements.push(`${node} answers, but RDS knows no such instance: is nodes.${node}.rds right?`);
    else if (byRds !== role) {
      disagreements.push(
        role === 'primary'
          ? `RDS still calls ${node} a replica of ${rds.source} (${rds.status}), but it is not in recovery: it takes writes`
          : `RDS calls ${node} no replica (${rds.status}), but it is in recovery: it takes no writes`,
      );
    } else if (rds.status !== 'available') disagreements.push(`${node} answers, and RDS says that it is ${rds.status}`);
    return { role, basis: 'sql', disagreements };
  }
  const why = sql.error?.split('\n')[0] ?? 'no answer';
  if (byRds === 'unknown') return { role: 'unknown', basis: 'nobody', disagreements: [`nobody can be asked about ${node}: the server does not answer (${why}), and RDS ${rds.answers ? 'knows no such instance' : `does not either (${rds.error})`}`] };
  const { status } = rds as Extract<RdsSaw, { found: true }>;
  return { role: byRds, basis: 'rds', disagreements: status === 'available' ? [`RDS says that ${node} is available, but it does not answer (${why})`] : [] };
}

/** The states in which an instance takes no writes whoever asks; any other says nothing for sure. */
const DOWN = new Set(['stopped', 'failed', 'inaccessible-encryption-credentials', 'inaccessible-encryption-credentials-recoverable', 'incompatible-network', 'incompatible-restore', 'incompatible-parameters', 'deleting', 'storage-full', 'restore-error']);

/** RDS's part in the question whether the primary is down: a place of its own, as a host is. */
export function rdsSign(primary: string, rds: RdsSaw): { readonly fact: string | null; readonly unclear: string | null } {
  if (!rds.answers) return { fact: null, unclear: `RDS cannot be asked about ${primary} (${rds.error})` };
  if (!rds.found) return { fact: `RDS says that there is no instance ${primary} any more`, unclear: null };
  if (DOWN.has(rds.status)) return { fact: `RDS says that ${primary} is ${rds.status}`, unclear: null };
  return { fact: null, unclear: `RDS says that ${primary} is ${rds.status}` };
}

/**
 * CloudWatch's figure beside the measured one. It is a minute old, and on an idle primary the time since the last transaction grows
 * although nothing is missing: it never overrules what was measured, and is never passed over in silence.
 */
export function describeLag(measuredMs: number | null, cloudWatchMs: number | null, limitMs: number): string {
  const cloud = cloudWatchMs === null ? 'CloudWatch has no figure' : cloudWatchMs < 0 ? 'CloudWatch says that replication is not active (-1)' : `CloudWatch says ${formatDuration(cloudWatchMs)}`;
  const measured = measuredMs === null ? 'not measured' : `measured ${formatDuration(measuredMs)}`;
  const apart = measuredMs !== null && cloudWatchMs !== null && ((measuredMs <= limitMs && (cloudWatchMs > limitMs || cloudWatchMs < 0)) || (measuredMs > limitMs && cloudWatchMs >= 0 && cloudWatchMs <= limitMs));
  return `${measured}; ${cloud}${apart ? '. They disagree: the measured one counts' : ''}`;
}

/** Tag values take letters, digits, spaces and `_ . : / = + - @`, at most 256. */
export function tagValue(text: string): string {
  return text.replaceAll(/[^\p{L}\p{Z}\p{N}_.:/=+\-@]/gu, '_').slice(0, 256);
}

/** The name under which the instance that a rebuild replaces goes on: at most 63 characters, no double hyphen, no hyphen at the end. */
export function replacedName(instance: string, epoch: number): string {
  const suffix = `-old-${epoch}`;
  return `${instance.slice(0, 63 - suffix.length).replace(/-+$/, '')}${suffix}`;
}
