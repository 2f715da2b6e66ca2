import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { RetentionDecision } from '../../src/model/api.ts';
import type { RetentionPolicy } from '../../src/model/config-schema.ts';
import type { BackupSummary } from '../../src/model/manifest.ts';
import { isoWeek, planRetention } from '../../src/model/retention.ts';

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const NOW_MS = Date.parse('2026-11-21T12:00:00Z');

function backup(id: string, at: string | number, changes: Partial<BackupSummary> = {}): BackupSummary {
  const snapshotAtMs = typeof at === 'number' ? at : Date.parse(at);
  return {
    id, datastore: 'orders', location: `orders/${id}/`, snapshotAtMs, committedAtMs: snapshotAtMs + 60_000, storedBytes: 1, plainBytes: 2, reason: 'scheduled',
    degraded: undefined, complete: true, proof: 'unproved', provedAtMs: undefined, pinned: false, inUse: false, lockedUntilMs: undefined, ...changes,
  };
}

function policy(changes: Partial<RetentionPolicy>): RetentionPolicy {
  return { minVerified: 1, maxDeletions: 1000, timezone: 'UTC', ...changes };
}

function plan(backups: readonly BackupSummary[], rules: Partial<RetentionPolicy>, nowMs = NOW_MS) {
  return planRetention({ backups, policy: policy(rules), nowMs });
}

function ids(decisions: readonly RetentionDecision[], action: RetentionDecision['action']): string[] {
  return decisions.filter((decision) => decision.action === action).map((decision) => decision.id).sort();
}

function reasonsOf(decisions: readonly RetentionDecision[], id: string): readonly string[] {
  return decisions.find((decision) => decision.id === id)!.reasons;
}

/** One backup each six hours, newest first: b0 is now. */
function series(count: number, stepMs = 6 * HOUR_MS): BackupSummary[] {
  return Array.from({ length: count }, (_, index) => backup(`b${index}`, NOW_MS - index * stepMs));
}

describe('keep rules', () => {
  it('last keeps the newest ones and numbers them', () => {
    const { decisions } = plan(series(5), { last: 2 });
    expect(ids(decisions, 'keep')).toEqual(['b0', 'b1']);
    expect(reasonsOf(decisions, 'b1')).toEqual(['last 2 of 2']);
    expect(reasonsOf(decisions, 'b2')).toEqual(['no rule keeps it']);
  });

  it('daily keeps the newest of each day that has a backup, so gaps do not count', () => {
    const backups = [backup('a', '2026-11-21T03:00:00Z'), backup('b', '2026-11-21T09:00:00Z'), backup('c', '2026-11-18T09:00:00Z'), backup('d', '2026-11-10T09:00:00Z')];
    const { decisions } = plan(backups, { daily: 2 });
    expect(ids(decisions, 'keep')).toEqual(['b', 'c']);
    expect(reasonsOf(decisions, 'b')).toContain('daily 2026-11-21');
  });

  it('days begin where the policy says', () => {
    const backups = [backup('a', '2026-11-20T14:30:00Z'), backup('b', '2026-11-20T15:30:00Z')];
    expect(ids(plan(backups, { daily: 2 }).decisions, 'keep')).toEqual(['b']);
    const seoul = plan(backups, { daily: 2, timezone: 'Asia/Seoul' }).decisions;
    expect(ids(seoul, 'keep')).toEqual(['a', 'b']);
    expect(reasonsOf(seoul, 'b')).toContain('daily 2026-11-21');
  });

  it('the hour that clocks repeat in autumn is two hours', () => {
    const backups = [backup('summer', '2026-10-25T00:30:00Z'), backup('winter', '2026-10-25T01:30:00Z')];
    const { decisions } = plan(backups, { hourly: 2, timezone: 'Europe/Berlin' });
    expect(ids(decisions, 'keep')).toEqual(['summer', 'winter']);
    expect(reasonsOf(decisions, 'summer')).toEqual(['hourly 2026-10-25 02h']);
  });

  it.each([
    [2026, 1, 1, '2026-W01'], [2027, 1, 1, '2026-W53'], [2024, 12, 30, '2025-W01'], [2026, 11, 21, '2026-W47'], [2026, 11, 22, '2026-W47'], [2026, 11, 23, '2026-W48'],
  ])('week of %i-%i-%i is %s', (year, month, day, week) => {
    expect(isoWeek(year, month, day)).toBe(week);
  });

  it('weekly, monthly and yearly keep the newest of theirs', () => {
    const { decisions } = plan(series(3000), { weekly: 3, monthly: 2, yearly: 3 });
    const kept = decisions.filter((decision) => decision.action === 'keep').map((decision) => decision.snapshotAt.slice(0, 10));
    // Weeks end on Sunday; 2024 is the oldest year there is, kept by its newest.
    expect(kept).toEqual(['2026-11-21', '2026-11-15', '2026-11-08', '2026-10-31', '2025-12-31', '2024-12-31']);
  });

  it('within counts from the newest backup, so that a stopped schedule does not empty the store', () => {
    const old = series(10).map((entry) => ({ ...entry, snapshotAtMs: entry.snapshotAtMs - 100 * DAY_MS }));
    expect(ids(plan(old, { within: DAY_MS }).decisions, 'keep')).toEqual(['b0', 'b1', 'b2', 'b3', 'b4']);
  });
});

describe('safety rules', () => {
  it('an empty policy deletes nothing and says so', () => {
    for (const empty of [{}, { last: 0, daily: 0 }]) {
      const { decisions, refused } = plan(series(3), empty);
      expect(refused).toMatch(/keeps nothing/);
      expect(ids(decisions, 'keep')).toHaveLength(3);
    }
  });

  it('refuses an unknown time zone, an unknown time and a list that mixes datastores', () => {
    expect(plan(series(3), { last: 1, timezone: 'Mars/Olympus' }).refused).toMatch(/Mars\/Olympus/);
    expect(plan(series(3), { last: 1 }, Number.NaN).refused).toMatch(/time/);
    expect(plan([...series(2), backup('x', NOW_MS, { datastore: 'auth' })], { last: 1 }).refused).toMatch(/auth, orders/);
  });

  it('pinned, in use and locked are kept and said; a lock that ended does not hold', () => {
    const backups = [
      backup('new', NOW_MS), backup('pinned', NOW_MS - 1 * DAY_MS, { pinned: true }), backup('used', NOW_MS - 2 * DAY_MS, { inUse: true }),
      backup('locked', NOW_MS - 3 * DAY_MS, { lockedUntilMs: NOW_MS + DAY_MS }), backup('unlocked', NOW_MS - 4 * DAY_MS, { lockedUntilMs: NOW_MS - 1 }),
    ];
    const { decisions } = plan(backups, { last: 1 });
    expect(ids(decisions, 'delete')).toEqual(['unlocked']);
    expect(reasonsOf(decisions, 'pinned')).toEqual(['pinned']);
    expect(reasonsOf(decisions, 'used')).toEqual(['in use']);
    expect(reasonsOf(decisions, 'locked')).toEqual(['locked until 2026-11-22T12:00:00.000Z']);
  });

  it('keeps the newest verified one and as many as minVerified asks', () => {
    const backups = series(8).map((entry, index) => (index >= 4 ? { ...entry, proof: 'verified' as const } : entry));
    expect(ids(plan(backups, { last: 1 }).decisions, 'keep')).toEqual(['b0', 'b4']);
    const three = plan(backups, { last: 1, minVerified: 3 }).decisions;
    expect(ids(three, 'keep')).toEqual(['b0', 'b4', 'b5', 'b6']);
    expect(reasonsOf(three, 'b5')).toEqual(['verified 2 of at least 3']);
  });

  it('keeps the next good one while the newest is in use, since a drill may find it bad', () => {
    const backups = series(4).map((entry, index) => (index === 0 ? { ...entry, inUse: true } : entry));
    const { decisions } = plan(backups, { last: 1 });
    expect(ids(decisions, 'keep')).toEqual(['b0', 'b1']);
    // The drill ends badly after the deletions: something good is left.
    const after = remaining(backups, decisions).map((entry) => (entry.id === 'b0' ? { ...entry, inUse: false, proof: 'bad' as const } : entry));
    expect(ids(plan(after, { last: 1 }).decisions, 'keep')).toEqual(['b0', 'b1']);
  });

  it('a lock without an end is kept and said', () => {
    const { decisions } = plan([backup('new', NOW_MS), backup('held', NOW_MS - DAY_MS, { lockedUntilMs: Infinity })], { last: 1 });
    expect(reasonsOf(decisions, 'held')).toEqual(['locked without an end']);
  });

  it('a bad backup fills no place of a good one', () => {
    const backups = [backup('today', '2026-11-21T01:00:00Z'), backup('bad', '2026-11-20T09:00:00Z', { proof: 'bad' }), backup('good', '2026-11-20T01:00:00Z')];
    const { decisions } = plan(backups, { daily: 2 });
    expect(ids(decisions, 'keep')).toEqual(['good', 'today']);
    expect(reasonsOf(decisions, 'bad').join()).toMatch(/bad/);
  });

  it('bad ones stay while nothing good is newer, and when there is nothing else', () => {
    const bad = { proof: 'bad' as const };
    const newest = plan([backup('x', NOW_MS, bad), backup('y', NOW_MS - DAY_MS), backup('z', NOW_MS - 2 * DAY_MS, bad)], { last: 1 }).decisions;
    expect(ids(newest, 'delete')).toEqual(['z']);
    expect(reasonsOf(newest, 'x')).toEqual(['bad, but newer than every good one']);
    expect(ids(plan([backup('x', NOW_MS, bad)], { last: 1 }).decisions, 'keep')).toEqual(['x']);
  });

  it('a partial backup takes no place from a complete one, yet fills a bucket of its own', () => {
    const partial = { complete: false };
    const backups = [
      backup('p1', '2026-11-21T09:00:00Z', partial), backup('c1', '2026-11-21T01:00:00Z'), backup('p2', '2026-11-20T09:00:00Z', partial),
      backup('p3', '2026-11-20T01:00:00Z', partial), backup('c2', '2026-11-19T01:00:00Z'), backup('c3', '2026-11-18T01:00:00Z'),
    ];
    const { decisions } = plan(backups, { daily: 2 });
    // p1 is kept for another reason: it is the newest of all.
    expect(ids(decisions, 'keep')).toEqual(['c1', 'c2', 'p1', 'p2']);
    expect(reasonsOf(decisions, 'p1')).toEqual(['newest good']);
    expect(reasonsOf(decisions, 'p2')).toEqual(['daily 2026-11-20 (partial: there is no complete one)']);
    expect(reasonsOf(decisions, 'p3').join()).toMatch(/partial/);
  });

  it('partial backups of the past age out after the selection became complete', () => {
    const backups = series(8, DAY_MS).map((entry, index) => (index >= 4 ? { ...entry, complete: false } : entry));
    expect(ids(plan(backups, { daily: 3, last: 3 }).decisions, 'keep')).toEqual(['b0', 'b1', 'b2']);
  });

  it('a backup from the future is kept, said, and fills no place', () => {
    const { decisions } = plan([backup('future', NOW_MS + DAY_MS), ...series(3)], { last: 1 });
    expect(ids(decisions, 'keep')).toEqual(['b0', 'future']);
    expect(reasonsOf(decisions, 'future')).toEqual(['dated in the future, by 1d 00h: check the clocks']);
  });

  it('a backup without a readable time is kept', () => {
    const { decisions } = plan([backup('odd', Number.NaN), ...series(3)], { last: 1 });
    expect(ids(decisions, 'keep')).toEqual(['b0', 'odd']);
    expect(decisions.find((entry) => entry.id === 'odd')).toMatchObject({ snapshotAt: 'unknown', reasons: ['its time cannot be read'] });
  });

  it('the cap deletes the oldest first and defers the rest', () => {
    const { decisions } = plan(series(6), { last: 1, maxDeletions: 2 });
    expect(ids(decisions, 'delete')).toEqual(['b4', 'b5']);
    expect(ids(decisions, 'deferred')).toEqual(['b1', 'b2', 'b3']);
    expect(reasonsOf(decisions, 'b3')).toContain('at most 2 are deleted in one run');
  });
});

const arbitraryBackups: fc.Arbitrary<BackupSummary[]> = fc
  .array(
    fc.record({
      // Coarse steps, so that ties and shared buckets are common; some in the future.
      hoursAgo: fc.oneof(fc.integer({ min: -5, max: 60 }), fc.integer({ min: 0, max: 20_000 })),
      proof: fc.constantFrom<BackupSummary['proof']>('unproved', 'unproved', 'verified', 'bad'),
      complete: fc.boolean(),
      pinned: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      inUse: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      lock: fc.constantFrom(undefined, undefined, undefined, -HOUR_MS, HOUR_MS),
    }),
    { maxLength: 40 },
  )
  .map((entries) =>
    entries.map(({ hoursAgo, lock, ...rest }, index) =>
      backup(`b${index}`, NOW_MS - hoursAgo * HOUR_MS, { ...rest, lockedUntilMs: lock === undefined ? undefined : NOW_MS + lock }),
    ),
  );
const count = fc.option(fc.integer({ min: 0, max: 12 }), { nil: undefined });
const arbitraryPolicy: fc.Arbitrary<RetentionPolicy> = fc.record({
  last: count, hourly: count, daily: count, weekly: count, monthly: count, yearly: count,
  within: fc.option(fc.integer({ min: 0, max: 90 * DAY_MS }), { nil: undefined }),
  minVerified: fc.integer({ min: 1, max: 5 }),
  maxDeletions: fc.integer({ min: 1, max: 50 }),
  timezone: fc.constantFrom('UTC', 'Asia/Seoul', 'America/New_York', 'Europe/Berlin', 'Pacific/Apia', 'Australia/Lord_Howe'),
});
const RUNS = { numRuns: 400 };

function remaining(backups: readonly BackupSummary[], decisions: readonly RetentionDecision[]): BackupSummary[] {
  const deleted = new Set(ids(decisions, 'delete'));
  return backups.filter((entry) => !deleted.has(entry.id));
}

function newest(backups: readonly BackupSummary[]): number {
  return Math.max(...backups.map((entry) => entry.snapshotAtMs));
}

describe('properties', () => {
  it('never empties, and never leaves fewer good ones than one', () => {
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, (backups, rules) => {
        const left = remaining(backups, planRetention({ backups, policy: rules, nowMs: NOW_MS }).decisions);
        expect(left.length > 0).toBe(backups.length > 0);
        const good = backups.filter((entry) => entry.proof !== 'bad' && entry.snapshotAtMs <= NOW_MS);
        expect(newest(left.filter((entry) => entry.proof !== 'bad' && entry.snapshotAtMs <= NOW_MS))).toBe(newest(good));
        const complete = good.filter((entry) => entry.complete);
        expect(newest(left.filter((entry) => complete.includes(entry)))).toBe(newest(complete));
      }),
      RUNS,
    );
  });

  it('never drops the newest verified one, nor below minVerified', () => {
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, (backups, rules) => {
        const left = remaining(backups, planRetention({ backups, policy: rules, nowMs: NOW_MS }).decisions);
        const verified = (list: readonly BackupSummary[]): BackupSummary[] => list.filter((entry) => entry.proof === 'verified' && entry.snapshotAtMs <= NOW_MS);
        const before = verified(backups);
        expect(newest(verified(left))).toBe(newest(before));
        expect(verified(left).length).toBeGreaterThanOrEqual(Math.min(rules.minVerified, before.length));
      }),
      RUNS,
    );
  });

  it('leaves a good one even if everything in use is found bad afterwards', () => {
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, (backups, rules) => {
        const sure = (list: readonly BackupSummary[]): BackupSummary[] => list.filter((entry) => entry.proof !== 'bad' && !entry.inUse && entry.snapshotAtMs <= NOW_MS);
        const left = remaining(backups, planRetention({ backups, policy: rules, nowMs: NOW_MS }).decisions);
        expect(sure(left).length > 0).toBe(sure(backups).length > 0);
      }),
      RUNS,
    );
  });

  it('never deletes pinned, used, locked or future ones, and gives every backup one decision with a reason', () => {
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, (backups, rules) => {
        const { decisions } = planRetention({ backups, policy: rules, nowMs: NOW_MS });
        expect(decisions.map((entry) => entry.id).sort()).toEqual(backups.map((entry) => entry.id).sort());
        expect(decisions.every((entry) => entry.reasons.length > 0)).toBe(true);
        const gone = new Set([...ids(decisions, 'delete'), ...ids(decisions, 'deferred')]);
        const held = backups.filter((entry) => entry.pinned || entry.inUse || (entry.lockedUntilMs ?? 0) > NOW_MS || entry.snapshotAtMs > NOW_MS);
        expect(held.filter((entry) => gone.has(entry.id))).toEqual([]);
        expect(ids(decisions, 'delete').length).toBeLessThanOrEqual(rules.maxDeletions);
      }),
      RUNS,
    );
  });

  it('is idempotent: after applying it, the only thing left to delete is what was deferred', () => {
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, (backups, rules) => {
        const first = planRetention({ backups, policy: rules, nowMs: NOW_MS });
        const second = planRetention({ backups: remaining(backups, first.decisions), policy: rules, nowMs: NOW_MS });
        expect([...ids(second.decisions, 'delete'), ...ids(second.decisions, 'deferred')].sort()).toEqual(ids(first.decisions, 'deferred'));
        expect(ids(second.decisions, 'keep')).toEqual(ids(first.decisions, 'keep'));
      }),
      RUNS,
    );
  });

  it('is free of order: any order of the listing gives the same decisions', () => {
    fc.assert(
      fc.property(
        arbitraryBackups.chain((backups) => fc.tuple(fc.constant(backups), fc.shuffledSubarray(backups, { minLength: backups.length }))),
        arbitraryPolicy,
        ([backups, shuffled], rules) => {
          expect(planRetention({ backups: shuffled, policy: rules, nowMs: NOW_MS })).toEqual(planRetention({ backups, policy: rules, nowMs: NOW_MS }));
        },
      ),
      RUNS,
    );
  });

  it('a policy that asks for more never deletes more', () => {
    const more = fc.record({
      last: fc.nat(5), hourly: fc.nat(5), daily: fc.nat(5), weekly: fc.nat(5), monthly: fc.nat(5), yearly: fc.nat(5), within: fc.nat(30 * DAY_MS), minVerified: fc.nat(3),
    });
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, more, (backups, rules, extra) => {
        const larger: RetentionPolicy = { ...rules };
        for (const key of Object.keys(extra) as (keyof typeof extra)[]) larger[key] = (rules[key] ?? 0) + extra[key];
        const small = planRetention({ backups, policy: rules, nowMs: NOW_MS });
        const large = planRetention({ backups, policy: larger, nowMs: NOW_MS });
        // An empty policy is refused and keeps all: asking for anything at all then keeps less, by design.
        fc.pre(small.refused === undefined);
        const kept = new Set(ids(large.decisions, 'keep'));
        expect(ids(small.decisions, 'keep').filter((id) => !kept.has(id))).toEqual([]);
        expect(ids(large.decisions, 'delete').length).toBeLessThanOrEqual(ids(small.decisions, 'delete').length);
      }),
      RUNS,
    );
  });

  it('a higher cap deletes the same and then some', () => {
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, fc.integer({ min: 1, max: 10 }), (backups, rules, extra) => {
        const small = planRetention({ backups, policy: rules, nowMs: NOW_MS });
        const large = planRetention({ backups, policy: { ...rules, maxDeletions: rules.maxDeletions + extra }, nowMs: NOW_MS });
        const deleted = new Set(ids(large.decisions, 'delete'));
        expect(ids(small.decisions, 'delete').every((id) => deleted.has(id))).toBe(true);
        expect(ids(large.decisions, 'keep')).toEqual(ids(small.decisions, 'keep'));
      }),
      RUNS,
    );
  });

  it('repeated runs reach the end, oldest first, whatever the cap', () => {
    fc.assert(
      fc.property(arbitraryBackups, arbitraryPolicy, (backups, rules) => {
        let left = backups;
        let last = Number.NEGATIVE_INFINITY;
        for (let run = 0; run <= backups.length; run++) {
          const { decisions } = planRetention({ backups: left, policy: rules, nowMs: NOW_MS });
          const gone = left.filter((entry) => ids(decisions, 'delete').includes(entry.id));
          if (gone.length === 0) break;
          expect(Math.min(...gone.map((entry) => entry.snapshotAtMs))).toBeGreaterThanOrEqual(last);
          last = newest(gone);
          left = remaining(left, decisions);
        }
        const final = planRetention({ backups: left, policy: rules, nowMs: NOW_MS }).decisions;
        expect(ids(final, 'keep')).toEqual(left.map((entry) => entry.id).sort());
      }),
      RUNS,
    );
  });
});
