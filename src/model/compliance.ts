/**
 * Compliance: of the backups that the schedules required in a period, how many there were. Pure: whoever asks hands in the schedules, the
 * records that each run left in the store, and the backups that are there. What nobody can know is counted as such, never as a success.
 */
import { z } from 'zod';
import type { ScheduleConfig } from './config-schema.ts';
import { scheduledTimes } from './schedule.ts';
import { formatDuration } from './units.ts';

/** `<prefix>runs/<datastore>/<yyyy>/<mm>/<dd>/<HHMMSS>Z-<run id>.json`: what a backup run came to. It outlives the backup and Temporal's history. */
export const runRecordSchema = z.strictObject({
  format: z.literal(1),
  datastore: z.string(),
  environment: z.string(),
  workflowId: z.string(),
  runId: z.string(),
  startedAt: z.string(),
  finishedAt: z.string(),
  outcome: z.enum(['committed', 'failed', 'cancelled', 'pre-empted']),
  degraded: z.string().nullable(),
  /** Ids of what it committed. */
  backups: z.array(z.string()),
  why: z.string().nullable(),
});
export type RunRecord = z.infer<typeof runRecordSchema>;

export interface RequiredSchedule extends Pick<ScheduleConfig, 'cron' | 'every' | 'timezone' | 'jitter' | 'catchUp' | 'paused'> {
  readonly name: string;
  /** Since when Temporal has it; null: that could not be asked, or it does not have it. */
  readonly createdAtMs: number | null;
}

export interface ComplianceBackup {
  readonly id: string;
  readonly workflowId?: string | undefined;
  readonly degraded: string | undefined;
  readonly proof: 'verified' | 'bad' | 'unproved';
}

export interface ComplianceInput {
  readonly datastore: string;
  readonly schedules: readonly RequiredSchedule[];
  readonly records: readonly RunRecord[];
  readonly backups: readonly ComplianceBackup[];
  /** Ids of folders with a COMMIT that cannot be trusted. */
  readonly damaged: readonly string[];
  /** The first record there is, of any time; null: none. */
  readonly recordedSinceMs: number | null;
  readonly fromMs: number;
  readonly nowMs: number;
  /** How long a run may take before a missing one is known to be missing. */
  readonly runMs: number;
  readonly target: { readonly percent: number; readonly degraded: 'count' | 'miss'; readonly by: string };
}

export type OccurrenceState = 'successful' | 'degraded' | 'missed' | 'unknown' | 'pending';

export interface Occurrence {
  readonly at: string;
  readonly state: OccurrenceState;
  readonly backup: string | null;
  readonly why: string | null;
}

export interface Compliance {
  readonly datastore: string;
  readonly from: string;
  readonly to: string;
  readonly target: number;
  readonly targetBy: string;
  /** Without those that may still come. */
  readonly required: number;
  /** In full. */
  readonly successful: number;
  readonly degraded: number;
  readonly missed: number;
  /** Neither a record nor a backup, from before records were kept. */
  readonly unknown: number;
  readonly pending: number;
  /** Per cent, rounded down to two digits; null: nothing was required. */
  readonly percent: number | null;
  readonly meets: boolean | null;
  /** Committed runs that no schedule required. */
  readonly additional: number;
  readonly notes: readonly string[];
  readonly occurrences: readonly Occurrence[];
}

/** The moment a scheduled run was due: Temporal appends it to the workflow id, without jitter and delay. */
export function scheduledFor(workflowId: string): number | null {
  const text = /-(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z)$/.exec(workflowId)?.[1];
  return text === undefined ? null : Date.parse(text);
}

export function judgeCompliance(input: ComplianceInput): Compliance {
  const { datastore, nowMs, fromMs } = input;
  const notes: string[] = [];
  const due = new Map<number, { waitMs: number }>();
  const instead = new Map<number, number>();
  const active = input.schedules.filter((schedule) => !schedule.paused);
  if (input.schedules.length === 0) notes.push('no schedule backs it up: nothing was required of anybody');
  for (const { name } of input.schedules.filter((schedule) => schedule.paused)) notes.push(`schedule ${name} is paused by the configuration: it required nothing`);
  for (const schedule of active) {
    if (schedule.createdAtMs === null) notes.push(`when schedule ${schedule.name} was made is not known: all of the period is required of it`);
    else if (schedule.createdAtMs > fromMs) notes.push(`schedule ${schedule.name} was made ${new Date(schedule.createdAtMs).toISOString()}: it required nothing before`);
    for (const { atMs, orMs } of scheduledTimes(schedule, Math.max(fromMs, schedule.createdAtMs ?? fromMs), nowMs)) {
      due.set(atMs, { waitMs: Math.max(due.get(atMs)?.waitMs ?? 0, schedule.jitter + schedule.catchUp) });
      if (orMs !== null) instead.set(orMs, atMs);
    }
  }
  const backups = new Map(input.backups.map((backup) => [backup.id, backup]));
  const damaged = new Set(input.damaged);
  const runs = new Map<string, { records: RunRecord[]; backups: ComplianceBackup[] }>();
  const runOf = (workflowId: string): { records: RunRecord[]; backups: ComplianceBackup[] } => {
    const run = runs.get(workflowId) ?? { records: [], backups: [] };
    runs.set(workflowId, run);
    return run;
  };
  for (const record of input.records) runOf(record.workflowId).records.push(record);
  for (const backup of input.backups) if (backup.workflowId !== undefined) runOf(backup.workflowId).backups.push(backup);
  const byTime = new Map<number, { records: RunRecord[]; backups: ComplianceBackup[] }[]>();
  let additional = 0;
  for (const [workflowId, run] of runs) {
    const named = scheduledFor(workflowId);
    const at = named !== null && !due.has(named) ? (instead.get(named) ?? named) : named;
    if (at !== null && due.has(at)) byTime.set(at, [...(byTime.get(at) ?? []), run]);
    else if ((at === null || at >= fromMs) && (run.backups.length > 0 || run.records.some(({ outcome, startedAt }) => outcome === 'committed' && Date.parse(startedAt) >= fromMs))) additional += 1;
  }
  const last = Math.max(-Infinity, ...due.keys());
  const occurrences = [...due.entries()].sort(([a], [b]) => a - b).map(([at, { waitMs }]): Occurrence => {
    const states = (byTime.get(at) ?? []).map((run) => stateOf(run, backups, damaged));
    const best = (['successful', 'degraded', 'missed'] as const).flatMap((state) => states.filter((one) => one.state === state))[0];
    const time = new Date(at).toISOString();
    if (best !== undefined) return { at: time, ...best };
    // Only the last one can still be running: the ones before were skipped by its overlap policy, or it is.
    if (at + waitMs > nowMs || (at === last && at + waitMs + input.runMs > nowMs)) return { at: time, state: 'pending', backup: null, why: null };
    const unknown = input.recordedSinceMs === null || at < input.recordedSinceMs;
    return { at: time, state: unknown ? 'unknown' : 'missed', backup: null, why: unknown ? 'no backup is there, and no records were kept then: it failed, never ran, or retention has deleted it' : 'no run left a record: it never ran, was skipped because an earlier one still ran, or the store could not be written' };
  });
  const count = (state: OccurrenceState): number => occurrences.filter((one) => one.state === state).length;
  const [successful, degraded, missed, unknown, pending] = [count('successful'), count('degraded'), count('missed'), count('unknown'), count('pending')];
  const required = occurrences.length - pending;
  const good = successful + (input.target.degraded === 'count' ? degraded : 0);
  if (unknown > 0) notes.push(`${unknown} of ${required} cannot be known and count as not successful: records of runs are kept ${input.recordedSinceMs === null ? 'from now on' : `since ${new Date(input.recordedSinceMs).toISOString()}`}`);
  if (damaged.size > 0) notes.push(`${damaged.size} backups in the store are damaged and count for nothing`);
  if (nowMs - fromMs > 0 && active.length > 0) notes.push('required is what the schedules of the present configuration should have run');
  return {
    datastore, from: new Date(fromMs).toISOString(), to: new Date(nowMs).toISOString(), target: input.target.percent, targetBy: input.target.by, required, successful, degraded, missed, unknown, pending,
    // Rounded down: 98.999 must not be read as 99.
    percent: required === 0 ? null : Math.floor((good * 10_000) / required) / 100,
    meets: required === 0 ? null : good * 100 >= input.target.percent * required,
    additional, notes, occurrences,
  };
}

function stateOf(run: { records: RunRecord[]; backups: ComplianceBackup[] }, known: ReadonlyMap<string, ComplianceBackup>, damaged: ReadonlySet<string>): Pick<Occurrence, 'backup' | 'why'> & { state: 'successful' | 'degraded' | 'missed' } {
  const committed = run.records.filter((record) => record.outcome === 'committed');
  const ids = [...new Set([...committed.flatMap((record) => record.backups), ...run.backups.map((backup) => backup.id)])];
  if (ids.length === 0) {
    const failed = run.records.at(-1);
    return { state: 'missed', backup: null, why: failed === undefined ? null : `${failed.outcome}${failed.why === null ? '' : `: ${failed.why}`}` };
  }
  const broken = ids.filter((id) => damaged.has(id) || known.get(id)?.proof === 'bad');
  const whole = ids.filter((id) => !broken.includes(id));
  if (whole.length === 0) return { state: 'missed', backup: ids[0]!, why: damaged.has(ids[0]!) ? 'its backup is damaged' : 'a drill found its backup bad' };
  const degraded = [...committed.map((record) => record.degraded), ...whole.map((id) => known.get(id)?.degraded ?? null), ...(broken.length > 0 ? [`${broken.join(', ')} of the same run is bad or damaged`] : [])].find((why) => why !== null && why !== undefined);
  return degraded === undefined || degraded === null ? { state: 'successful', backup: whole[0]!, why: null } : { state: 'degraded', backup: whole[0]!, why: degraded };
}

/** One line for people. */
export function describeCompliance(found: Compliance): string {
  const period = formatDuration(Date.parse(found.to) - Date.parse(found.from));
  if (found.required === 0) return `${found.datastore}: nothing was required in the last ${period}`;
  const parts = [`${found.successful} in full`, `${found.degraded} degraded`, `${found.missed} missed`, ...(found.unknown > 0 ? [`${found.unknown} not known`] : []), ...(found.pending > 0 ? [`${found.pending} may still come`] : [])];
  return `${found.datastore}: ${found.percent} % of ${found.required} required backups in the last ${period} (${parts.join(', ')}); target ${found.target} %: ${found.meets === true ? 'met' : 'MISSED'}`;
}
