import { describe, expect, test } from 'vitest';
import { describeCompliance, judgeCompliance, scheduledFor, type ComplianceInput, type RunRecord } from '../../src/model/compliance.ts';
import { complianceCheck } from '../../src/model/readiness.ts';
import { scheduledTimes } from '../../src/model/schedule.ts';

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const NOW = Date.parse('2026-11-21T12:30:00Z');

const hourly = { name: 'hourly', every: HOUR, timezone: 'UTC', jitter: 0, catchUp: 600_000, paused: false, createdAtMs: 0 };

function at(ms: number): string {
  return new Date(ms).toISOString().replace('.000Z', 'Z');
}
function record(dueMs: number, more: Partial<RunRecord> = {}): RunRecord {
  return { format: 1, datastore: 'shop', environment: 'test', workflowId: `backup/shop/scheduled-${at(dueMs)}`, runId: `run-${dueMs}`, startedAt: at(dueMs), finishedAt: at(dueMs + 60_000), outcome: 'committed', degraded: null, backups: [`b${dueMs}`], why: null, ...more };
}
function input(more: Partial<ComplianceInput> = {}): ComplianceInput {
  return { datastore: 'shop', schedules: [hourly], records: [], backups: [], damaged: [], recordedSinceMs: 0, fromMs: NOW - DAY, nowMs: NOW, runMs: HOUR, target: { percent: 99, degraded: 'count', by: 'test' }, ...more };
}
const timesOf = (...args: Parameters<typeof scheduledTimes>): number[] => scheduledTimes(...args).map(({ atMs }) => atMs);
const dues = timesOf(hourly, NOW - DAY, NOW);

describe('compliance', () => {
  test('every required run that left a record counts, whether its backup is still there or retention deleted it', () => {
    const found = judgeCompliance(input({ records: dues.map((due) => record(due)) }));
    expect(found).toMatchObject({ required: 24, successful: 24, percent: 100, meets: true, missed: 0, pending: 0 });
  });

  test('a run without a record is missed, a failed one is missed with its reason, a degraded one is shown as degraded', () => {
    const records = dues.slice(0, -1).map((due, index) => record(due, index === 3 ? { outcome: 'failed', backups: [], why: 'no space' } : index === 4 ? { degraded: 'a dump stood in' } : {})).filter((_, index) => index !== 5);
    const found = judgeCompliance(input({ records, nowMs: NOW, runMs: 60_000 }));
    expect(found).toMatchObject({ required: 24, successful: 20, degraded: 1, missed: 3, percent: 87.5, meets: false });
    expect(found.occurrences[3]).toMatchObject({ state: 'missed', why: 'failed: no space' });
    expect(found.occurrences[4]).toMatchObject({ state: 'degraded', why: 'a dump stood in' });
    expect(describeCompliance(found)).toContain('20 in full, 1 degraded, 3 missed');
  });

  test('degraded ones count as misses where the service says so', () => {
    const found = judgeCompliance(input({ records: dues.map((due) => record(due, { degraded: 'why' })), target: { percent: 99, degraded: 'miss', by: 'test' } }));
    expect(found).toMatchObject({ required: 24, degraded: 24, successful: 0, percent: 0, meets: false });
  });

  test('a backup without a record counts by its run; a run found bad by a drill or damaged does not', () => {
    const backups = dues.map((due, index) => ({ id: `b${due}`, workflowId: `backup/shop/scheduled-${at(due)}`, degraded: undefined, proof: index === 0 ? ('bad' as const) : ('unproved' as const) }));
    expect(judgeCompliance(input({ backups }))).toMatchObject({ successful: 23, missed: 1 });
    expect(judgeCompliance(input({ records: dues.map((due) => record(due)), damaged: [`b${dues[1]}`] }))).toMatchObject({ successful: 23, missed: 1 });
  });

  test('what was due before records were kept is not known, and never a success', () => {
    const since = dues[10]!;
    const found = judgeCompliance(input({ recordedSinceMs: since, records: dues.filter((due) => due >= since).map((due) => record(due)) }));
    expect(found).toMatchObject({ required: 24, successful: 14, unknown: 10, missed: 0, meets: false });
    expect(found.notes.join()).toContain('10 of 24 cannot be known');
    expect(judgeCompliance(input({ recordedSinceMs: null }))).toMatchObject({ successful: 0, unknown: 23, pending: 1, meets: false });
  });

  test('the last one may still come; the ones before it are missed, also while one run takes for hours', () => {
    const found = judgeCompliance(input({ records: dues.slice(0, -3).map((due) => record(due)), runMs: 12 * HOUR }));
    expect(found).toMatchObject({ required: 23, pending: 1, missed: 2 });
  });

  test('nothing is required before a schedule was made, of a paused one, or without one: that is no compliance', () => {
    expect(judgeCompliance(input({ schedules: [{ ...hourly, createdAtMs: NOW - 3 * HOUR }], records: dues.map((due) => record(due)) }))).toMatchObject({ required: 3, successful: 3, additional: 21 });
    for (const schedules of [[], [{ ...hourly, paused: true }]]) {
      const found = judgeCompliance(input({ schedules }));
      expect(found).toMatchObject({ required: 0, percent: null, meets: null });
      expect(complianceCheck(found).ok).toBe(false);
    }
  });

  test('runs by hand are no required ones', () => {
    const found = judgeCompliance(input({ records: [...dues.map((due) => record(due)).slice(1), record(dues[0]!, { workflowId: 'backup/shop/2026-11-20T13:00:00.000Z' })] }));
    expect(found).toMatchObject({ successful: 23, missed: 1, additional: 1 });
  });

  test('two runs of one moment: the better one counts', () => {
    const records = dues.flatMap((due) => [record(due, { outcome: 'failed', backups: [], runId: 'first' }), record(due)]);
    expect(judgeCompliance(input({ records }))).toMatchObject({ successful: 24, missed: 0 });
  });

  test('98.999 % is not shown as 99 %', () => {
    const minutes = { ...hourly, every: 60_000, catchUp: 0 };
    const all = timesOf(minutes, NOW - DAY, NOW);
    const records = all.slice(0, Math.ceil(all.length * 0.99) - 1).map((due) => record(due));
    const found = judgeCompliance(input({ schedules: [minutes], records, runMs: 0, nowMs: NOW + 1, fromMs: NOW - DAY + 1 }));
    expect(found.meets).toBe(false);
    expect(found.percent).toBeLessThan(99);
  });

  test('a due time is read from the id that Temporal gives a scheduled run', () => {
    expect(scheduledFor('backup/shop/scheduled-2026-11-21T03:00:00Z')).toBe(Date.parse('2026-11-21T03:00:00Z'));
    expect(scheduledFor('backup/shop/2026-11-21T03:00:00.000Z')).toBeNull();
  });
});

describe('scheduled times', () => {
  test('a cron in a time zone with a changing clock', () => {
    const times = timesOf({ cron: '15 2 * * *', timezone: 'Europe/Berlin', every: undefined }, Date.parse('2026-03-27T00:00:00Z'), Date.parse('2026-03-31T00:00:00Z'));
    // 29 March has no 02:15.
    expect(times.map(at)).toEqual(['2026-03-27T01:15:00Z', '2026-03-28T01:15:00Z', '2026-03-30T00:15:00Z']);
  });

  test('of a local time that the clocks repeat one is required, whichever Temporal took', () => {
    const schedule = { ...hourly, every: undefined, cron: '30 2 * * *', timezone: 'Europe/Berlin' };
    const [fromMs, nowMs] = [Date.parse('2026-10-25T00:00:00Z'), Date.parse('2026-10-25T12:00:00Z')];
    for (const ran of ['2026-10-25T00:30:00Z', '2026-10-25T01:30:00Z']) {
      expect(judgeCompliance(input({ schedules: [schedule], records: [record(Date.parse(ran))], fromMs, nowMs }))).toMatchObject({ required: 1, successful: 1, additional: 0 });
    }
  });

  test('only within the bounds: the first counts, the end does not', () => {
    expect(timesOf({ cron: '0 * * * *', timezone: 'UTC', every: undefined }, Date.parse('2026-01-01T00:00:00Z'), Date.parse('2026-01-01T02:00:00Z')).map(at)).toEqual(['2026-01-01T00:00:00Z', '2026-01-01T01:00:00Z']);
  });
});
