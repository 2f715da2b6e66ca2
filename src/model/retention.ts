import type { RetentionDecision } from './api.ts';
import type { RetentionPolicy } from './config-schema.ts';
import type { BackupSummary } from './manifest.ts';
import { formatDuration } from './units.ts';

/** A plan for every backup that was listed, newest first. With `refused` every action is `keep`. */
export interface RetentionPlan {
  readonly decisions: RetentionDecision[];
  /** Why nothing at all is deleted. */
  readonly refused?: string;
}

export const BUCKET_RULES = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
type BucketRule = (typeof BUCKET_RULES)[number];

/** Milliseconds that `Date` can express; anything else is no moment. */
const MAX_TIME_MS = 8.64e15;

/** True when no rule keeps anything: then nothing may be deleted, since everything would be. */
export function isEmptyPolicy(policy: RetentionPolicy): boolean {
  return [policy.last, policy.within, ...BUCKET_RULES.map((rule) => policy[rule])].every((value) => value === undefined || value <= 0);
}

/** True for a name that this runtime's time zone data knows. */
export function isTimezone(timezone: string): boolean {
  try {
    return new Intl.DateTimeFormat('en-US', { timeZone: timezone }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
}

/**
 * Which backups of one datastore are kept, and why. Pure: the same backups in any order give the same plan.
 *
 * A bucket rule keeps the newest backup of each of the N newest hours, days, ISO weeks, months or years that have one (days
 * without a backup do not count, so a stopped schedule never empties the store). `within` counts from the newest good backup,
 * for the same reason. What fills a rule:
 * - a bad backup (a drill found differences) never does, but `within` keeps it like any other;
 * - a partial backup only fills a bucket that has no complete one, and never takes a place from a complete one;
 * - a backup dated in the future never does: its clock cannot be trusted, so it is kept and said.
 * Kept whatever the policy says: pinned, in use, locked; the newest good, the newest good not in use, the newest complete, the newest verified and
 * `minVerified` verified ones; bad ones newer than every good one, since they may hold data nothing else holds.
 */
export function planRetention(input: { backups: readonly BackupSummary[]; policy: RetentionPolicy; nowMs: number }): RetentionPlan {
  const { policy, nowMs } = input;
  const backups = [...input.backups].sort(newestFirst);
  const refused = refusal(backups, policy, nowMs);
  if (refused !== undefined) {
    return { decisions: backups.map((backup) => decision(backup, 'keep', [`nothing is deleted: ${refused}`])), refused };
  }

  const reasons = new Map<BackupSummary, string[]>(backups.map((backup) => [backup, []]));
  const keep = (backup: BackupSummary | undefined, reason: string): void => {
    if (backup !== undefined) reasons.get(backup)!.push(reason);
  };

  const dated = backups.filter((backup) => isMoment(backup.snapshotAtMs) && backup.snapshotAtMs <= nowMs);
  const good = dated.filter((backup) => backup.proof !== 'bad');
  const complete = good.filter((backup) => backup.complete);

  if (policy.last !== undefined) {
    const places = policy.last;
    complete.slice(0, places).forEach((backup, index) => keep(backup, `last ${index + 1} of ${places}`));
    // Counted among all good ones: a complete one in the first `places` of all is there among the complete ones too.
    good.slice(0, places).forEach((backup, index) => {
      if (!backup.complete) keep(backup, `last ${index + 1} of ${places} (partial)`);
    });
  }
  const parts = localParts(policy.timezone);
  for (const rule of BUCKET_RULES) {
    const places = policy[rule];
    if (places === undefined || places <= 0) continue;
    const bucketOf = (backup: BackupSummary): Bucket => bucket(rule, parts(backup.snapshotAtMs));
    const ofComplete = newestOfEach(complete, bucketOf);
    const ofAll = newestOfEach(good, bucketOf);
    for (const [, { backup, label }] of [...ofComplete].slice(0, places)) keep(backup, `${rule} ${label}`);
    for (const [key, { backup, label }] of [...ofAll].slice(0, places)) {
      if (!ofComplete.has(key)) keep(backup, `${rule} ${label} (partial: there is no complete one)`);
    }
  }
  if (policy.within !== undefined && policy.within > 0 && good[0] !== undefined) {
    const from = good[0].snapshotAtMs - policy.within;
    for (const backup of dated) if (backup.snapshotAtMs >= from) keep(backup, `within ${formatDuration(policy.within)} of the newest`);
  }

  keep(good[0], 'newest good');
  if (complete[0] !== good[0]) keep(complete[0], 'newest complete');
  // What is in use may be on its way to be found bad: until then the next one is not superseded.
  const settled = complete.find((backup) => !backup.inUse) ?? good.find((backup) => !backup.inUse);
  if (complete[0]?.inUse === true || good[0]?.inUse === true) keep(settled, 'newest good that is not in use: a drill may find the newer one bad');
  const verified = good.filter((backup) => backup.proof === 'verified');
  keep(verified[0], 'newest verified');
  const preferred = [...verified.filter((backup) => backup.complete), ...verified.filter((backup) => !backup.complete)];
  if (policy.minVerified > 1) {
    preferred.slice(0, policy.minVerified).forEach((backup, index) => keep(backup, `verified ${index + 1} of at least ${policy.minVerified}`));
  } else if (preferred[0] !== verified[0]) {
    keep(preferred[0], 'newest verified that is complete');
  }

  for (const backup of backups) {
    if (backup.pinned) keep(backup, 'pinned');
    if (backup.inUse) keep(backup, 'in use');
    if (backup.lockedUntilMs !== undefined && !(backup.lockedUntilMs <= nowMs)) keep(backup, isMoment(backup.lockedUntilMs) ? `locked until ${momentText(backup.lockedUntilMs)}` : 'locked without an end');
    if (!isMoment(backup.snapshotAtMs)) keep(backup, 'its time cannot be read');
    else if (backup.snapshotAtMs > nowMs) keep(backup, `dated in the future, by ${formatDuration(backup.snapshotAtMs - nowMs)}: check the clocks`);
    else if (backup.proof === 'bad') {
      const rival = backup.complete ? complete[0] : good[0];
      if (rival === undefined) keep(backup, 'bad, but there is no good one');
      else if (backup.snapshotAtMs > rival.snapshotAtMs) keep(backup, 'bad, but newer than every good one');
    }
  }

  // Oldest first: what is deferred by the cap is what is worth most.
  const unwanted = backups.filter((backup) => reasons.get(backup)!.length === 0).reverse();
  const now = new Set(unwanted.slice(0, Math.max(0, policy.maxDeletions)));
  return {
    decisions: backups.map((backup) => {
      const kept = reasons.get(backup)!;
      if (kept.length > 0) return decision(backup, 'keep', kept);
      const why = ['no rule keeps it'];
      if (backup.proof === 'bad') why.push('bad: it counts for no rule');
      if (!backup.complete) why.push('partial: it takes no place from a complete one');
      return now.has(backup) ? decision(backup, 'delete', why) : decision(backup, 'deferred', [...why, `at most ${policy.maxDeletions} are deleted in one run`]);
    }),
  };
}

function refusal(backups: readonly BackupSummary[], policy: RetentionPolicy, nowMs: number): string | undefined {
  if (isEmptyPolicy(policy)) return 'the policy keeps nothing; give at least one of last, hourly, daily, weekly, monthly, yearly, within';
  if (!isMoment(nowMs)) return 'the present time is unknown';
  if (!isTimezone(policy.timezone)) return `time zone "${policy.timezone}" is unknown`;
  const datastores = [...new Set(backups.map((backup) => backup.datastore))].sort();
  if (datastores.length > 1) return `the list mixes datastores: ${datastores.join(', ')}`;
  return undefined;
}

function decision(backup: BackupSummary, action: RetentionDecision['action'], reasons: readonly string[]): RetentionDecision {
  return { id: backup.id, location: backup.location, snapshotAt: momentText(backup.snapshotAtMs), action, reasons };
}

/** Newest first; ties are broken by what cannot be equal, so that the order of the listing never matters. */
function newestFirst(a: BackupSummary, b: BackupSummary): number {
  return compare(sortable(b.snapshotAtMs), sortable(a.snapshotAtMs)) || compare(sortable(b.committedAtMs), sortable(a.committedAtMs)) || compare(b.id, a.id) || compare(b.location, a.location);
}

function compare<T extends number | string>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function sortable(ms: number): number {
  return isMoment(ms) ? ms : Number.POSITIVE_INFINITY;
}

function isMoment(ms: number): boolean {
  return Number.isFinite(ms) && Math.abs(ms) <= MAX_TIME_MS;
}

function momentText(ms: number): string {
  return isMoment(ms) ? new Date(ms).toISOString() : 'unknown';
}

interface Bucket {
  readonly key: string;
  readonly label: string;
}

/** Bucket key -> its newest backup, newest bucket first. */
function newestOfEach(sorted: readonly BackupSummary[], bucketOf: (backup: BackupSummary) => Bucket): Map<string, { backup: BackupSummary; label: string }> {
  const newest = new Map<string, { backup: BackupSummary; label: string }>();
  for (const backup of sorted) {
    const { key, label } = bucketOf(backup);
    if (!newest.has(key)) newest.set(key, { backup, label });
  }
  return newest;
}

interface LocalParts {
  readonly year: number;
  readonly month: number;
  readonly day: number;
  readonly hour: number;
  /** Local time minus UTC, so that the hour that clocks repeat in autumn is two hours. */
  readonly offsetMs: number;
}

function localParts(timezone: string): (ms: number) => LocalParts {
  const format = new Intl.DateTimeFormat('en-US-u-ca-gregory-nu-latn', {
    timeZone: timezone, hourCycle: 'h23', era: 'short', year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric',
  });
  return (ms) => {
    const found: Record<string, string> = {};
    for (const { type, value } of format.formatToParts(ms)) found[type] = value;
    const number = (type: string): number => Number(found[type]);
    const year = found['era'] === 'BC' ? 1 - number('year') : number('year');
    const local = utcMs(year, number('month'), number('day')) + (number('hour') * 3600 + number('minute') * 60 + number('second')) * 1000;
    return { year, month: number('month'), day: number('day'), hour: number('hour'), offsetMs: local - Math.floor(ms / 1000) * 1000 };
  };
}

function bucket(rule: BucketRule, { year, month, day, hour, offsetMs }: LocalParts): Bucket {
  const dayLabel = `${pad(year, 4)}-${pad(month, 2)}-${pad(day, 2)}`;
  switch (rule) {
    case 'hourly': {
      const label = `${dayLabel} ${pad(hour, 2)}h`;
      return { key: `${label} ${offsetMs}`, label };
    }
    case 'daily':
      return { key: dayLabel, label: dayLabel };
    case 'weekly': {
      const label = isoWeek(year, month, day);
      return { key: label, label };
    }
    case 'monthly': {
      const label = `${pad(year, 4)}-${pad(month, 2)}`;
      return { key: label, label };
    }
    case 'yearly':
      return { key: pad(year, 4), label: pad(year, 4) };
  }
}

/** `2026-W47`. An ISO week belongs to the year of its Thursday. */
export function isoWeek(year: number, month: number, day: number): string {
  const DAY_MS = 86_400_000;
  const date = utcMs(year, month, day);
  const weekday = (new Date(date).getUTCDay() + 6) % 7; // Monday is 0.
  const thursday = new Date(date + (3 - weekday) * DAY_MS);
  const firstOfYear = utcMs(thursday.getUTCFullYear(), 1, 1);
  return `${pad(thursday.getUTCFullYear(), 4)}-W${pad(1 + Math.floor((thursday.getTime() - firstOfYear) / (7 * DAY_MS)), 2)}`;
}

/** Like Date.UTC, without its reading of the years 0-99 as 1900-1999. */
function utcMs(year: number, month: number, day: number): number {
  return new Date(0).setUTCFullYear(year, month - 1, day);
}

function pad(value: number, width: number): string {
  return value < 0 ? `-${String(-value).padStart(width, '0')}` : String(value).padStart(width, '0');
}
