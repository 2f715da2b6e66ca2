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
