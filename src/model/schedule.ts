import type { ScheduleConfig } from './config-schema.ts';
import { nearest } from './document.ts';

/**
 * Five-field cron as Temporal reads it: all fields must match, also day of month and day of week together (cron daemons
 * take either). Checked here, because Temporal would only refuse it when the schedule is made.
 */
export interface Cron {
  readonly minutes: readonly number[];
  readonly hours: readonly number[];
  readonly daysOfMonth: readonly number[];
  readonly months: readonly number[];
  /** 0 is Sunday. */
  readonly daysOfWeek: readonly number[];
  /** Both day fields restrict: worth a warning, since many expect "either". */
  readonly bothDays: boolean;
}

const MONTHS = ['january', 'february', 'march', 'april', 'may', 'june', 'july', 'august', 'september', 'october', 'november', 'december'];
const DAYS = ['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'];
const FIELDS = [
  { name: 'minute', min: 0, max: 59, names: [], nameOffset: 0, shortest: 0 },
  { name: 'hour', min: 0, max: 23, names: [], nameOffset: 0, shortest: 0 },
  { name: 'day of month', min: 1, max: 31, names: [], nameOffset: 0, shortest: 0 },
  { name: 'month', min: 1, max: 12, names: MONTHS, nameOffset: 1, shortest: 3 },
  { name: 'day of week', min: 0, max: 7, names: DAYS, nameOffset: 0, shortest: 2 },
] as const;
type Field = (typeof FIELDS)[number];

/** The parsed expression, or in words what is wrong with it. */
export function parseCron(text: string): { cron: Cron } | { problem: string } {
  const fields = text.trim().split(/\s+/);
  if (text.trim().startsWith('@')) return { problem: 'shorthands such as @daily are not taken; write the five fields, or use `every`' };
  if (fields.length !== 5) return { problem: `it has ${text.trim() === '' ? 'no' : fields.length} fields; five are expected: minute hour day-of-month month day-of-week` };
  const values: number[][] = [];
  for (const [index, field] of FIELDS.entries()) {
    const parsed = parseField(fields[index]!, field);
    if (typeof parsed === 'string') return { problem: `${field.name}: ${parsed}` };
    values.push(parsed);
  }
  const [minutes, hours, daysOfMonth, months, weekdays] = values as [number[], number[], number[], number[], number[]];
  const daysOfWeek = [...new Set(weekdays.map((day) => day % 7))].sort((a, b) => a - b);
  return { cron: { minutes, hours, daysOfMonth, months, daysOfWeek, bothDays: daysOfMonth.length < 31 && daysOfWeek.length < 7 } };
}

function parseField(text: string, field: Field): number[] | string {
  const values = new Set<number>();
  for (const part of text.split(',')) {
    const match = /^(\*|[A-Za-z0-9]+)(?:-([A-Za-z0-9]+))?(?:\/(\d{1,4}))?$/.exec(part);
    if (match === null) return `"${part}" is none of *, a, a-b, a/n, a-b/n`;
    const [, from, to, step] = match as unknown as [string, string, string | undefined, string | undefined];
    if (from === '*' && to !== undefined) return `"${part}" is none of *, a, a-b, a/n, a-b/n`;
    const first = from === '*' ? field.min : value(from, field);
    const last = from === '*' ? field.max : to === undefined ? (step === undefined ? first : field.max) : value(to, field);
    for (const bound of [first, last]) if (typeof bound === 'string') return bound;
    const every = step === undefined ? 1 : Number(step);
    if (every < 1) return `"${part}" steps by 0`;
    if ((last as number) < (first as number)) return `"${part}" ends before it begins`;
    for (let at = first as number; at <= (last as number); at += every) values.add(at);
  }
  return [...values].sort((a, b) => a - b);
}

function value(text: string, field: Field): number | string {
  if (/^\d+$/.test(text)) {
    const number = Number(text);
    return number >= field.min && number <= field.max ? number : `${text} is not within ${field.min}-${field.max}`;
  }
  const names: readonly string[] = field.names;
  const found = names.findIndex((name) => text.length >= field.shortest && name.startsWith(text.toLowerCase()));
  if (found >= 0) return found + field.nameOffset;
  const near = nearest(text, names);
  return `"${text}" is no ${field.name}${near === undefined ? '' : `; did you mean "${near.slice(0, 3)}"?`}`;
}

const DAY_MS = 86_400_000;
/** A Sunday. Four hundred years repeat exactly; 28 and a leap gap of 8 cover every pattern of weekday and 29 February. */
const EPOCH_MS = Date.UTC(2000, 0, 2);
const HORIZON_DAYS = 40 * 366;
/** When only weekdays restrict, two weeks show everything. */
const WEEKLY_HORIZON_DAYS = 15;

/** Shortest and longest time between two runs, in milliseconds of local time; undefined when it never runs. */
export function cronGaps(cron: Cron): { shortestMs: number; longestMs: number } | undefined {
  const minutesOfDay = cron.hours.flatMap((hour) => cron.minutes.map((minute) => hour * 60 + minute)).sort((a, b) => a - b);
  const first = minutesOfDay[0]!;
  const last = minutesOfDay.at(-1)!;
  let shortest = Infinity;
  let longest = 0;
  for (let index = 1; index < minutesOfDay.length; index++) {
    const gap = minutesOfDay[index]! - minutesOfDay[index - 1]!;
    shortest = Math.min(shortest, gap);
    longest = Math.max(longest, gap);
  }
  let previousDay: number | undefined;
  let runs = 0;
  const months = new Set(cron.months);
  const days = new Set(cron.daysOfMonth);
  const weekdays = new Set(cron.daysOfWeek);
  const horizon = days.size === 31 && months.size === 12 ? WEEKLY_HORIZON_DAYS : HORIZON_DAYS;
  for (let day = 0; day < horizon; day++) {
    if (!weekdays.has(day % 7)) continue;
    const date = new Date(EPOCH_MS + day * DAY_MS);
    if (!days.has(date.getUTCDate()) || !months.has(date.getUTCMonth() + 1)) continue;
    runs += 1;
    if (previousDay !== undefined) {
      const gap = (day - previousDay) * 1440 + first - last;
      shortest = Math.min(shortest, gap);
      longest = Math.max(longest, gap);
    }
    previousDay = day;
  }
  return runs < 2 ? undefined : { shortestMs: shortest * 60_000, longestMs: longest * 60_000 };
}

/** The same for a schedule, whichever way it is given; undefined when its cron is wrong or it never runs. */
export function scheduleGaps(schedule: Pick<ScheduleConfig, 'cron' | 'every'>): { shortestMs: number; longestMs: number } | undefined {
  if (schedule.every !== undefined) return schedule.every > 0 ? { shortestMs: schedule.every, longestMs: schedule.every } : undefined;
  if (schedule.cron === undefined) return undefined;
  const parsed = parseCron(schedule.cron);
  return 'cron' in parsed ? cronGaps(parsed.cron) : undefined;
}

/** Name of a schedule of the configuration in Temporal. */
export function scheduleIdOf(environment: string, name: string): string {
  return `holdfast/${environment}/${name}`;
}

export interface ScheduledTime {
  readonly atMs: number;
  /** A local time that the clocks repeat: it may be this one instead, or too. */
  readonly orMs: number | null;
}

/**
 * When a schedule is to run, from `fromMs` on and before `toMs`: intervals count from the epoch, and a local time that the clocks skip does
 * not happen. Which of two equal local times Temporal takes, or both, follows from how it reckons: one of them is required. Empty for one
 * that is wrong.
 */
export function scheduledTimes(schedule: Pick<ScheduleConfig, 'cron' | 'every' | 'timezone'>, fromMs: number, toMs: number): ScheduledTime[] {
  if (schedule.every !== undefined) {
    if (schedule.every < 1) return [];
    const times: ScheduledTime[] = [];
    for (let at = Math.ceil(fromMs / schedule.every) * schedule.every; at < toMs; at += schedule.every) times.push({ atMs: at, orMs: null });
    return times;
  }
  const parsed = schedule.cron === undefined ? undefined : parseCron(schedule.cron);
  if (parsed === undefined || 'problem' in parsed) return [];
  const { minutes, hours, daysOfMonth, months, daysOfWeek } = parsed.cron;
  const [days, monthsOf, weekdays] = [new Set(daysOfMonth), new Set(months), new Set(daysOfWeek)];
  const offsetAt = offsets(schedule.timezone);
  const times: ScheduledTime[] = [];
  for (let day = Math.floor(fromMs / DAY_MS) * DAY_MS - DAY_MS; day <= toMs + DAY_MS; day += DAY_MS) {
    const date = new Date(day);
    if (!days.has(date.getUTCDate()) || !monthsOf.has(date.getUTCMonth() + 1) || !weekdays.has(date.getUTCDay())) continue;
    // Clocks change once a day at most: the offsets around it are all there can be.
    const around = [...new Set([offsetAt(day - DAY_MS), offsetAt(day + 2 * DAY_MS)])];
    for (const hour of hours) {
      for (const minute of minutes) {
        const local = day + (hour * 60 + minute) * 60_000;
        const [first, second] = around.map((offset) => local - offset).filter((at, index) => offsetAt(at) === around[index]).sort((a, b) => a - b);
        if (first !== undefined && first >= fromMs && first < toMs) times.push({ atMs: first, orMs: second !== undefined && second < toMs ? second : null });
      }
    }
  }
  return times.sort((a, b) => a.atMs - b.atMs);
}

/** Local time minus UTC at a moment. */
function offsets(timezone: string): (atMs: number) => number {
  const format = new Intl.DateTimeFormat('en-US-u-ca-gregory-nu-latn', { timeZone: timezone, hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric' });
  const known = new Map<number, number>();
  return (atMs) => {
    // Offsets change on a quarter of an hour; a year of minutes is asked for often.
    const slot = Math.floor(atMs / 900_000);
    let offset = known.get(slot);
    if (offset === undefined) {
      const parts: Record<string, number> = {};
      for (const { type, value } of format.formatToParts(slot * 900_000)) parts[type] = Number(value);
      offset = Date.UTC(parts['year']!, parts['month']! - 1, parts['day'], parts['hour'], parts['minute'], parts['second']) - slot * 900_000;
      known.set(slot, offset);
    }
    return offset;
  };
}

/** Four hundred years: weekdays and leap days repeat exactly. */
const CYCLE_DAYS = 146_097;

/** How often a schedule runs: so many times in so many days, exactly; undefined when its cron is wrong or it never runs. */
export function scheduleRuns(schedule: Pick<ScheduleConfig, 'cron' | 'every'>): { runs: number; days: number } | undefined {
  if (schedule.every !== undefined) return schedule.every > 0 ? { runs: DAY_MS, days: schedule.every } : undefined;
  const parsed = schedule.cron === undefined ? undefined : parseCron(schedule.cron);
  if (parsed === undefined || !('cron' in parsed)) return undefined;
  const { cron } = parsed;
  const everyDate = cron.daysOfMonth.length === 31 && cron.months.length === 12;
  const days = everyDate ? 7 : CYCLE_DAYS;
  let found = 0;
  for (let day = 0; day < days; day++) {
    if (!cron.daysOfWeek.includes(day % 7)) continue;
    const date = new Date(EPOCH_MS + day * DAY_MS);
    if (everyDate || (cron.daysOfMonth.includes(date.getUTCDate()) && cron.months.includes(date.getUTCMonth() + 1))) found += 1;
  }
  return found === 0 ? undefined : { runs: found * cron.hours.length * cron.minutes.length, days };
}
