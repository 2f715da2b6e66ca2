import { isDeepStrictEqual } from 'node:util';
import {
  ScheduleAlreadyRunning,
  ScheduleNotFoundError,
  type CalendarSpec,
  type Client,
  type ScheduleDescription,
  type ScheduleOptions,
  type ScheduleOverlapPolicy,
} from '@temporalio/client';
import { workflowInputSchemas, type WorkflowType } from '../model/api.ts';
import type { Config, ScheduleConfig } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { rehearsalSchedules } from '../model/rehearsal.ts';
import { parseCron, scheduleIdOf, type Cron } from '../model/schedule.ts';
import { formatDuration } from '../model/units.ts';
import { unknownName } from '../systems/context.ts';

/** How a schedule should be, with everything explicit: Temporal's own defaults are a year of catch-up and local habits. */
export interface DesiredSchedule {
  readonly name: string;
  readonly scheduleId: string;
  readonly cron: { readonly text: string; readonly fields: Cron } | null;
  readonly everyMs: number | null;
  readonly timezone: string;
  readonly jitterMs: number;
  readonly catchUpMs: number;
  readonly overlap: ScheduleOverlapPolicy;
  readonly workflowType: WorkflowType;
  /** The server appends the scheduled time: `backup/orders/scheduled-2026-11-21T03:00:00Z`. */
  readonly workflowId: string;
  readonly input: Readonly<Record<string, unknown>>;
  readonly taskQueue: string;
  readonly paused: boolean;
}

export type ScheduleChange =
  | { readonly name: string; readonly scheduleId: string; readonly action: 'create'; readonly details: readonly string[] }
  | { readonly name: string; readonly scheduleId: string; readonly action: 'update' | 'pause' | 'unpause' | 'keep'; readonly details: readonly string[] };

/** On every schedule that is ours; one without it is never touched, whatever its id. */
const MARKER = 'holdfast';
const NOTE = 'holdfast:';
const LEFT = `${NOTE} left the configuration`;
const PAUSED = `${NOTE} paused by the configuration`;
const MANAGED = `${NOTE} managed by schedules sync`;
/** Temporal refuses a shorter catch-up window. */
const MINIMUM_CATCH_UP_MS = 10_000;
const DAYS = ['SUNDAY', 'MONDAY', 'TUESDAY', 'WEDNESDAY', 'THURSDAY', 'FRIDAY', 'SATURDAY'] as const;
const MONTHS = ['JANUARY', 'FEBRUARY', 'MARCH', 'APRIL', 'MAY', 'JUNE', 'JULY', 'AUGUST', 'SEPTEMBER', 'OCTOBER', 'NOVEMBER', 'DECEMBER'] as const;
const OVERLAPS: Readonly<Record<ScheduleConfig['overlap'], ScheduleOverlapPolicy>> = {
  skip: 'SKIP',
  bufferOne: 'BUFFER_ONE',
  cancelOther: 'CANCEL_OTHER',
  terminateOther: 'TERMINATE_OTHER',
  allowAll: 'ALLOW_ALL',
};

export function scheduleIdPrefix(config: Config): string {
  return scheduleIdOf(config.environment, '');
}

export function desiredSchedules(config: Config): DesiredSchedule[] {
  const rehearsals = rehearsalSchedules(config);
  const all = [...Object.entries(config.schedules).map(([name, schedule]) => ({ name, schedule, workflowId: undefined, reason: 'scheduled' })), ...rehearsals];
  return all.map(({ name, schedule, workflowId, reason }) => {
    const parsed = schedule.cron === undefined ? undefined : parseCron(schedule.cron);
    if (parsed !== undefined && 'problem' in parsed) {
      throw new HoldfastError('config-invalid', `schedules.${name}.cron "${schedule.cron}": ${parsed.problem}`, { next: 'correct it and run `holdfast validate`' });
    }
    if (parsed === undefined && schedule.every === undefined) throw new HoldfastError('config-invalid', `schedules.${name} has neither cron nor every`, { next: 'give one of them' });
    return {
      name,
      scheduleId: `${scheduleIdPrefix(config)}${name}`,
      cron: parsed === undefined ? null : { text: schedule.cron!, fields: parsed.cron },
      everyMs: schedule.every ?? null,
      timezone: schedule.timezone,
      jitterMs: schedule.jitter,
      catchUpMs: Math.max(MINIMUM_CATCH_UP_MS, schedule.catchUp),
      overlap: OVERLAPS[schedule.overlap],
      ...actionOf(schedule, reason),
      ...(workflowId === undefined ? {} : { workflowId }),
      taskQueue: config.temporal.taskQueue,
      paused: schedule.paused,
    };
  });
}

function actionOf(schedule: ScheduleConfig, reason: string): Pick<DesiredSchedule, 'workflowType' | 'workflowId' | 'input'> {
  const made = (() => {
    switch (schedule.run) {
      case 'backup':
        return { workflowType: 'backup' as const, workflowId: `backup/${schedule.datastore}/scheduled`, input: { datastore: schedule.datastore, reason: 'scheduled' } };
      case 'retention':
        return { workflowType: 'retention' as const, workflowId: `retention/${schedule.datastore}`, input: { datastore: schedule.datastore, apply: true } };
      case 'restoreDrill':
        return {
          workflowType: 'restoreDrill' as const,
          workflowId: `drill/${schedule.datastore}/scheduled`,
          input: { datastore: schedule.datastore, ...(schedule.backup === undefined ? {} : { backup: schedule.backup }), ...(schedule.pointInTime === undefined ? {} : { pointInTime: schedule.pointInTime }), ...(schedule.service === undefined ? {} : { service: schedule.service }), reason },
        };
      case 'readiness':
        return { workflowType: 'readiness' as const, workflowId: `readiness/${schedule.service}`, input: { service: schedule.service } };
      case 'runbook':
        return {
          workflowType: 'runbook' as const,
          workflowId: `runbook/${schedule.runbook}/scheduled`,
          input: { runbook: schedule.runbook, ...(schedule.service === undefined ? {} : { service: schedule.service }), ...(schedule.mode === undefined ? {} : { mode: schedule.mode }), parameters: schedule.parameters, reason, requestedBy: 'schedule' },
        };
      default:
        return schedule satisfies never;
    }
  })();
  // What the workflow would refuse at three in the morning is refused now.
  workflowInputSchemas[made.workflowType].parse(made.input);
  return made;
}

/**
 * Make the server's schedules what the configuration says: create, update, pause what left. Nothing is ever deleted, and
 * nothing without our marker is touched. A schedule paused by hand stays paused: somebody had a reason.
 * @param dryRun only say what would be done.
 */
export async function syncSchedules(client: Client, config: Config, options: { dryRun: boolean }): Promise<ScheduleChange[]> {
  const desired = desiredSchedules(config);
  const changes: ScheduleChange[] = [];
  for (const want of desired) {
    const live = await describe(client, want.scheduleId);
    if (live === undefined) {
      if (!options.dryRun) await create(client, config, want);
      changes.push({ name: want.name, scheduleId: want.scheduleId, action: 'create', details: summaryOf(want) });
      continue;
    }
    if (!isOurs(live)) {
      throw new HoldfastError('schedule-refused', `schedule ${want.scheduleId} exists but was not made by Holdfast`, { next: 'rename the schedule in holdfast.yaml, or delete the other one yourself' });
    }
    changes.push(await reconcile(client, want, live, options.dryRun));
  }
  const wanted = new Set(desired.map(({ scheduleId }) => scheduleId));
  const prefix = scheduleIdPrefix(config);
  for await (const { scheduleId } of client.schedule.list()) {
    if (!scheduleId.startsWith(prefix) || wanted.has(scheduleId)) continue;
    const live = await describe(client, scheduleId);
    if (live === undefined || !isOurs(live)) continue;
    const name = scheduleId.slice(prefix.length);
    if (live.state.paused) {
      changes.push({ name, scheduleId, action: 'keep', details: [`paused: ${live.state.note ?? ''}`] });
      continue;
    }
    if (!options.dryRun) await client.schedule.getHandle(scheduleId).pause(LEFT);
    changes.push({ name, scheduleId, action: 'pause', details: ['left the configuration'] });
  }
  return changes;
}

async function create(client: Client, config: Config, want: DesiredSchedule): Promise<void> {
  try {
    await client.schedule.create({
      scheduleId: want.scheduleId,
      ...definitionOf(want),
      memo: { [MARKER]: { environment: config.environment, schedule: want.name } },
      state: { paused: want.paused, note: want.paused ? PAUSED : MANAGED },
    });
  } catch (error) {
    if (!(error instanceof ScheduleAlreadyRunning)) throw error;
    throw new HoldfastError('schedule-refused', `schedule ${want.scheduleId} was made by somebody else at this moment`, { next: 'run the command again', retryable: true, cause: error });
  }
}

async function reconcile(client: Client, want: DesiredSchedule, live: ScheduleDescription, dryRun: boolean): Promise<ScheduleChange> {
  const handle = client.schedule.getHandle(want.scheduleId);
  const at = { name: want.name, scheduleId: want.scheduleId };
  const details = differences(want, live);
  const pausedByUs = live.state.paused && (live.state.note ?? '').startsWith(NOTE);
  const byHand = live.state.paused && !pausedByUs;
  if (byHand && !want.paused) details.push(...(details.length > 0 ? [`stays paused by hand: ${live.state.note ?? 'no note'}`] : []));
  const pause = want.paused && !live.state.paused;
  const unpause = !want.paused && pausedByUs;
  if (details.length > 0) {
    if (!dryRun) {
      const paused = want.paused || byHand;
      await handle.update(() => ({ ...definitionOf(want), state: { paused, note: byHand ? live.state.note : want.paused ? PAUSED : MANAGED } }));
    }
    return { ...at, action: 'update', details: [...details, ...(pause ? ['paused: no -> yes'] : []), ...(unpause ? ['paused: yes -> no'] : [])] };
  }
  if (pause) {
    if (!dryRun) await handle.pause(PAUSED);
    return { ...at, action: 'pause', details: ['paused by the configuration'] };
  }
  if (unpause) {
    if (!dryRun) await handle.unpause(MANAGED);
    return { ...at, action: 'unpause', details: [`was: ${live.state.note ?? ''}`] };
  }
  return { ...at, action: 'keep', details: byHand && !want.paused ? [`paused by hand: ${live.state.note ?? 'no note'}`] : [] };
}

function definitionOf(want: DesiredSchedule): Pick<ScheduleOptions, 'spec' | 'action' | 'policies'> {
  return {
    spec: {
      calendars: want.cron === null ? [] : [calendarOf(want.cron)],
      intervals: want.everyMs === null ? [] : [{ every: want.everyMs }],
      timezone: want.timezone,
      jitter: want.jitterMs,
    },
    policies: { overlap: want.overlap, catchupWindow: want.catchUpMs, pauseOnFailure: false },
    action: { type: 'startWorkflow', workflowType: want.workflowType, workflowId: want.workflowId, taskQueue: want.taskQueue, args: [want.input] },
  };
}

/** The calendar is given, not the cron text: the server would translate that, and what is could not be compared with what should be. */
function calendarOf({ text, fields }: NonNullable<DesiredSchedule['cron']>): CalendarSpec {
  return {
    second: 0,
    minute: ranges(fields.minutes),
    hour: ranges(fields.hours),
    dayOfMonth: ranges(fields.daysOfMonth),
    month: ranges(fields.months).map(({ start, end, step }) => ({ start: MONTHS[start - 1]!, end: MONTHS[end - 1]!, step })),
    dayOfWeek: ranges(fields.daysOfWeek).map(({ start, end, step }) => ({ start: DAYS[start]!, end: DAYS[end]!, step })),
    comment: text,
  };
}

/** Ascending values as few ranges: one with a step when they are evenly spaced. */
function ranges(values: readonly number[]): { start: number; end: number; step: number }[] {
  const [first, second] = values;
  if (first === undefined) return [];
  const step = second === undefined ? 1 : second - first;
  if (values.every((value, index) => value === first + index * step)) return [{ start: first, end: values.at(-1)!, step }];
  return values.map((value) => ({ start: value, end: value, step: 1 }));
}

/** Each thing that is not as wanted, as `what: is -> wanted`. */
function differences(want: DesiredSchedule, live: ScheduleDescription): string[] {
  const found: string[] = [];
  const compare = (what: string, is: unknown, wanted: unknown, show: (value: never) => string = (value: unknown) => JSON.stringify(value)): void => {
    if (!isDeepStrictEqual(is, wanted)) found.push(`${what}: ${show(is as never)} -> ${show(wanted as never)}`);
  };
  const duration = (ms: number | null): string => (ms === null ? 'none' : formatDuration(ms));
  const liveCalendars = (live.spec.calendars ?? []).map(normalCalendar);
  const wantCalendars = want.cron === null ? [] : [normalCalendar(calendarOf(want.cron))];
  const liveCron = live.spec.calendars?.[0]?.comment;
  if (!isDeepStrictEqual(liveCalendars, wantCalendars)) {
    found.push(`cron: ${liveCalendars.length === 0 ? 'none' : `"${liveCron ?? JSON.stringify(liveCalendars)}"`} -> ${want.cron === null ? 'none' : `"${want.cron.text}"`}`);
  }
  compare('every', live.spec.intervals?.[0]?.every ?? null, want.everyMs, duration);
  compare('timezone', live.spec.timezone || 'UTC', want.timezone);
  compare('jitter', live.spec.jitter ?? 0, want.jitterMs, duration);
  compare('catchUp', live.policies.catchupWindow, want.catchUpMs, duration);
  compare('overlap', live.policies.overlap, want.overlap);
  compare('pauseOnFailure', live.policies.pauseOnFailure, false);
  compare('workflow', live.action.workflowType, want.workflowType);
  compare('workflowId', live.action.workflowId, want.workflowId);
  compare('taskQueue', live.action.taskQueue, want.taskQueue);
  compare('input', live.action.args?.[0], want.input);
  return found;
}

/** Without the comment, and with every default filled in, as text. */
function normalCalendar(calendar: unknown): string {
  const { comment: _, year: __, ...fields } = calendar as Record<string, unknown>;
  const normal = Object.fromEntries(
    Object.entries(fields).map(([field, value]) => {
      const ranges = (Array.isArray(value) ? value : [value]).map((range: unknown) => (typeof range === 'object' ? range : { start: range, end: range, step: 1 }) as { start: unknown; end: unknown; step: unknown });
      return [field, ranges.map(({ start, end, step }) => `${String(start)}-${String(end)}/${String(start === end ? 1 : step)}`).join(',')];
    }),
  );
  return JSON.stringify(Object.entries(normal).sort(([a], [b]) => a.localeCompare(b)));
}

function summaryOf(want: DesiredSchedule): string[] {
  return [
    want.cron === null ? `every ${formatDuration(want.everyMs!)}` : `cron "${want.cron.text}"`,
    `timezone ${want.timezone}`,
    `jitter ${formatDuration(want.jitterMs)}`,
    `catch-up ${formatDuration(want.catchUpMs)}`,
    `overlap ${want.overlap}`,
    `${want.workflowType} ${JSON.stringify(want.input)}`,
    ...(want.paused ? ['paused'] : []),
  ];
}

function isOurs(live: ScheduleDescription): boolean {
  return live.memo?.[MARKER] !== undefined;
}

async function describe(client: Client, scheduleId: string): Promise<ScheduleDescription | undefined> {
  try {
    return await client.schedule.getHandle(scheduleId).describe();
  } catch (error) {
    if (error instanceof ScheduleNotFoundError) return undefined;
    throw error;
  }
}

export interface LiveSchedule {
  readonly name: string;
  readonly scheduleId: string;
  readonly when: string;
  readonly timezone: string;
  readonly overlap: string;
  readonly workflow: string;
  readonly paused: boolean;
  readonly note: string;
  readonly next: string | null;
  readonly last: { readonly at: string; readonly workflowId: string } | null;
  readonly taken: number;
  readonly skippedByOverlap: number;
  readonly missed: number;
  readonly inConfiguration: boolean;
}

/** Our schedules of this environment as the server has them. */
export async function listSchedules(client: Client, config: Config): Promise<LiveSchedule[]> {
  const prefix = scheduleIdPrefix(config);
  const wanted = new Set(desiredSchedules(config).map(({ scheduleId }) => scheduleId));
  const found: LiveSchedule[] = [];
  for await (const { scheduleId } of client.schedule.list()) {
    if (!scheduleId.startsWith(prefix)) continue;
    const live = await describe(client, scheduleId);
    if (live === undefined || !isOurs(live)) continue;
    const last = live.info.recentActions.at(-1);
    const every = live.spec.intervals?.[0]?.every;
    found.push({
      name: scheduleId.slice(prefix.length),
      scheduleId,
      when: live.spec.calendars?.[0]?.comment ?? (typeof every === 'number' ? `every ${formatDuration(every)}` : 'calendar'),
      timezone: live.spec.timezone || 'UTC',
      overlap: String(live.policies.overlap),
      workflow: live.action.workflowType,
      paused: live.state.paused,
      note: live.state.note ?? '',
      next: live.state.paused ? null : (live.info.nextActionTimes[0]?.toISOString() ?? null),
      last: last === undefined ? null : { at: last.takenAt.toISOString(), workflowId: last.action.type === 'startWorkflow' ? last.action.workflow.workflowId : '' },
      taken: live.info.numActionsTaken,
      skippedByOverlap: live.info.numActionsSkippedOverlap,
      missed: live.info.numActionsMissedCatchupWindow,
      inConfiguration: wanted.has(scheduleId),
    });
  }
  return found.sort((a, b) => a.name.localeCompare(b.name));
}

/** Run one now, under the schedule's own overlap policy: a bare trigger would use ALLOW_ALL and could run two at once. */
export async function triggerSchedule(client: Client, config: Config, name: string): Promise<{ scheduleId: string; overlap: string }> {
  const want = desiredSchedules(config).find((schedule) => schedule.name === name);
  if (want === undefined) throw unknownName('schedule', name, desiredSchedules(config).map((schedule) => schedule.name));
  const live = await describe(client, want.scheduleId);
  if (live === undefined) throw new HoldfastError('schedule-not-found', `schedule ${want.scheduleId} is in the configuration but not on the server`, { next: 'run: holdfast schedules sync' });
  await client.schedule.getHandle(want.scheduleId).trigger(live.policies.overlap);
  return { scheduleId: want.scheduleId, overlap: String(live.policies.overlap) };
}
