/** The calendar of rehearsals: when each is due, what counts as held, which are overdue. Pure: whoever asks hands in the runs and the time. */
import type { Config, ScheduleConfig } from './config-schema.ts';
import type { RehearsalConfig } from './config-rehearsals.ts';
import type { ReadinessCheck } from './readiness.ts';
import { scheduledTimes } from './schedule.ts';
import { formatDuration } from './units.ts';

const MONTHS_BETWEEN: Readonly<Record<RehearsalConfig['every'], number>> = { monthly: 1, quarterly: 3, 'half-yearly': 6 };
/** Half a year, and what months differ by. */
const LOOK_MS = 200 * 86_400_000;

export function rehearsalCron({ every, month, day, time }: Pick<RehearsalConfig, 'every' | 'month' | 'day' | 'time'>): string {
  const between = MONTHS_BETWEEN[every];
  const months = Array.from({ length: 12 / between }, (_, index) => ((month - 1 + index * between) % 12) + 1).sort((a, b) => a - b);
  const [hour, minute] = time.split(':').map(Number);
  return `${minute} ${hour} ${day} ${between === 1 ? '*' : months.join(',')} *`;
}

/** Its name among the schedules. */
export function rehearsalScheduleName(service: string, rehearsal: string): string {
  return `rehearsal-${service}-${rehearsal}`;
}

/** Every rehearsal that runs by itself, as a schedule, with what its workflow ids begin with: two services may rehearse one runbook at the same minute. */
export function rehearsalSchedules(config: Pick<Config, 'services'>): { name: string; schedule: ScheduleConfig; workflowId: string; reason: string }[] {
  return Object.entries(config.services).flatMap(([service, { rehearsals }]) =>
    rehearsals.filter(({ scheduled }) => scheduled).map((rehearsal) => {
      const name = rehearsalScheduleName(service, rehearsal.name);
      const common = { cron: rehearsalCron(rehearsal), timezone: rehearsal.timezone, jitter: 0, catchUp: 24 * 3_600_000, overlap: 'skip' as const, paused: false };
      const schedule: ScheduleConfig = rehearsal.drill === undefined
        ? { run: 'runbook', runbook: rehearsal.runbook!, service, mode: rehearsal.mode, parameters: rehearsal.parameters, ...common }
        : { run: 'restoreDrill', datastore: rehearsal.drill, service, ...common };
      return { name, schedule, workflowId: rehearsal.drill === undefined ? `runbook/${rehearsal.runbook}/${name}` : `drill/${rehearsal.drill}/${name}`, reason: `rehearsal ${rehearsal.name}` };
    }),
  );
}

/** A run that ended, as it was found in history or in evidence. */
export interface RehearsalRun {
  readonly workflowId: string;
  readonly finishedAt: string;
  /** `succeeded` or `verified`; anything else did not succeed. */
  readonly outcome: string;
  readonly objectivesMet: boolean | null;
  /** Folder of its record; null: there is none. */
  readonly evidence: string | null;
  /** Steps that a person skipped or declared done: nobody rehearsed them. */
  readonly byPeople: readonly string[];
}

/** Why a run does not count; null: it does. */
export function whyNotRehearsed(run: RehearsalRun): string | null {
  if (run.outcome !== 'succeeded' && run.outcome !== 'verified') return `it ended as ${run.outcome}`;
  if (run.byPeople.length > 0) return `${run.byPeople.join(', ')} was skipped or declared by a person`;
  if (run.evidence === null) return 'there is no evidence of it';
  if (run.objectivesMet === false) return 'an objective was missed';
  return null;
}

export interface RehearsalState {
  readonly service: string;
  readonly name: string;
  readonly what: string;
  readonly every: RehearsalConfig['every'];
  readonly scheduled: boolean;
  /** `due`: the time has come and the grace has not passed. */
  readonly state: 'held' | 'due' | 'overdue' | 'never';
  readonly last: { readonly workflowId: string; readonly finishedAt: string; readonly evidence: string | null } | null;
  /** The newest run since, which does not count, and why. */
  readonly notCounted: { readonly workflowId: string; readonly finishedAt: string; readonly why: string } | null;
  /** First time after the last success; null: never held, or no day of the calendar fits. */
  readonly dueAt: string | null;
  readonly nextAt: string | null;
  readonly graceMs: number;
}

export function judgeRehearsal(service: string, rehearsal: RehearsalConfig, runs: readonly RehearsalRun[], nowMs: number): RehearsalState {
  const when = { cron: rehearsalCron(rehearsal), timezone: rehearsal.timezone };
  const firstAfter = (atMs: number): number | null => scheduledTimes(when, atMs + 1, atMs + LOOK_MS)[0]?.atMs ?? null;
  const newest = runs.toSorted((a, b) => b.finishedAt.localeCompare(a.finishedAt));
  const last = newest.find((run) => whyNotRehearsed(run) === null) ?? null;
  const tried = newest.find((run) => whyNotRehearsed(run) !== null && (last === null || run.finishedAt > last.finishedAt)) ?? null;
  const dueMs = last === null ? null : firstAfter(Date.parse(last.finishedAt));
  const iso = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());
  return {
    service,
    name: rehearsal.name,
    what: rehearsal.drill === undefined ? `runbook ${rehearsal.runbook}` : `restore drill of ${rehearsal.drill}`,
    every: rehearsal.every,
    scheduled: rehearsal.scheduled,
    state: last === null || dueMs === null ? 'never' : nowMs > dueMs + rehearsal.grace ? 'overdue' : nowMs >= dueMs ? 'due' : 'held',
    last: last === null ? null : { workflowId: last.workflowId, finishedAt: last.finishedAt, evidence: last.evidence },
    notCounted: tried === null ? null : { workflowId: tried.workflowId, finishedAt: tried.finishedAt, why: whyNotRehearsed(tried)! },
    dueAt: iso(dueMs),
    nextAt: iso(firstAfter(nowMs)),
    graceMs: rehearsal.grace,
  };
}

/** For readiness: one that is overdue, or was never held, lowers it. */
export function rehearsalReadiness(state: RehearsalState, how: string): ReadinessCheck {
  const ok = state.state === 'held' || state.state === 'due';
  const last = state.last === null ? 'it never succeeded' : `last success ${state.last.finishedAt} (${state.last.workflowId})`;
  const due = state.dueAt === null ? `next due ${state.nextAt ?? 'never'}` : state.state === 'held' ? `due ${state.dueAt}` : `due since ${state.dueAt}`;
  const tried = state.notCounted === null ? '' : `; ${state.notCounted.workflowId} of ${state.notCounted.finishedAt} does not count: ${state.notCounted.why}`;
  return { name: `rehearsal ${state.name}`, weight: 'lowers', ok, expected: `${state.what}, ${state.every}, at most ${formatDuration(state.graceMs)} late`, found: `${last}; ${due}${tried}`, ...(ok ? {} : { next: how }) };
}
