import { describe, expect, it } from 'vitest';
import { consistencyChecks, importedOutcome, importedRecord, promoted, resultsProblems, type BreakGlassResults } from '../../src/model/break-glass-results.ts';
import { judge } from '../../src/model/evidence.ts';

const NOW = Date.parse('2026-11-21T04:00:00Z');

function results(more: Partial<BreakGlassResults> = {}): BreakGlassResults {
  const step = (id: string, uses: string, at: string): BreakGlassResults['steps'][number] => ({ id, uses, outcome: 'done', by: 'ann', at, output: 'f' });
  return {
    format: 1, service: 'orders', runbook: 'database-failover', kind: 'failover', mode: 'planned', environment: 'test', parameters: { datastore: 'shop' }, planHash: 'abc', madeAt: '2026-11-20T00:00:00Z',
    primary: 'a', candidate: 'b', by: 'ann', reason: 'Temporal was down', startedAt: '2026-11-21T03:00:00Z', finishedAt: '2026-11-21T12:30:00+09:00', lastGoodWriteAt: '', firstGoodWriteAt: '', lostTransactions: null,
    steps: [step('read-only', 'postgres.readOnly', '2026-11-21T03:05:00Z'), step('promote', 'postgres.promote', '2026-11-21T03:06:00Z')],
    ...more,
  };
}

const CONTEXT = { importedBy: 'bob', importedAt: '2026-11-21T04:00:00.000Z', workflowId: 'imported/orders/x', runId: 'r', title: 'Database failover', objectives: { rtoMs: 900_000, rpoMs: 60_000, refusedWritesMs: 1000, lostWrites: 0 }, checks: [] };

describe('a filled-in file of results', () => {
  it('that is right has no problems, whatever the zone of its times', () => {
    expect(resultsProblems(results(), NOW)).toEqual([]);
  });

  it('says everything that is wrong at once, with where and what is expected', () => {
    const [first, second] = results().steps;
    const problems = resultsProblems(
      results({
        by: ' ', reason: '', startedAt: '2026-11-21 03:00', finishedAt: '2026-11-21T05:30:00Z', lastGoodWriteAt: '2026-11-21T03:07:00Z', firstGoodWriteAt: '2026-11-21T03:06:00Z', lostTransactions: -1.5, primary: null,
        steps: [{ ...first!, outcome: '' }, { ...second!, by: '' }, { ...second!, outcome: 'skipped', output: '' }, { ...first!, id: 'x', uses: 'postgres.promotion', outcome: 'not begun' }],
      }),
      NOW,
    );
    expect(problems.map((problem) => problem.split(/[:;]/)[0])).toEqual([
      'by', 'reason', 'startedAt', 'finishedAt', 'firstGoodWriteAt', 'lostTransactions', 'steps.0 (read-only).outcome', 'steps.1 (promote).by', 'steps.2 (promote)', 'steps.2 (promote).output', 'steps.3 (x).uses', 'primary, candidate',
    ]);
    expect(problems.join('\n')).toMatch(/finishedAt: .*is in the future[\s\S]*expected one of done, skipped, failed, not begun/);
  });

  it('of another shape names every key', () => {
    const { service: _, ...rest } = results();
    const problems = resultsProblems({ ...rest, format: 2, extra: true }, NOW);
    expect(problems.join('\n')).toMatch(/format[\s\S]*service[\s\S]*extra/);
    expect(resultsProblems(null, NOW)).toHaveLength(1);
  });

  it('whose steps lie outside of its time is refused', () => {
    const [first, second] = results().steps;
    expect(resultsProblems(results({ steps: [{ ...first!, at: '2026-11-21T02:00:00Z' }, second!] }), NOW)).toEqual([expect.stringContaining('not between startedAt and finishedAt')]);
  });
});

describe('what cannot be so', () => {
  it('a first write on the new primary before the beginning, and a secret in what was printed', () => {
    const [first, second] = results().steps;
    expect(resultsProblems(results({ firstGoodWriteAt: '2026-11-21T02:59:59Z' }), NOW)).toEqual([expect.stringContaining('firstGoodWriteAt: before startedAt')]);
    expect(resultsProblems(results({ steps: [{ ...first!, output: 'PGPASSWORD=correct-horse psql' }, second!] }), NOW)).toEqual([expect.stringContaining('steps.0 (read-only).output: it looks like a password')]);
  });

  it('steps that were taken out of the file, of a checklist that is known', () => {
    const [first, second] = results().steps;
    expect(consistencyChecks(results(), 'abc', [first!, second!]).every((check) => check.ok)).toBe(true);
    expect(consistencyChecks(results({ steps: [second!] }), 'abc', [first!, second!]).find((check) => check.name === 'steps of the checklist')).toMatchObject({ ok: false, found: 'promote (postgres.promote)' });
  });

  it('success without the promotion', () => {
    const [first, second] = results().steps;
    expect(importedOutcome(results({ steps: [first!, { ...second!, outcome: 'skipped', output: 'no time' }] }), [])).toBe('not completed by hand');
  });

  it('a forced recovery that took no longer than its people', () => {
    const times = { mode: 'forced' as const, firstGoodWriteAt: '2026-11-21T03:07:00Z' };
    const rto = (more: Partial<BreakGlassResults>): number | null => importedRecord(results({ ...times, ...more }), CONTEXT).measurements[0]!.measured;
    expect(rto({})).toBeNull();
    expect(rto({ lastGoodWriteAt: '2026-11-21T02:07:00Z' })).toBe(3_600_000);
  });
});

describe('what it comes to', () => {
  it('a promotion without a fence before it is a finding, not an error', () => {
    const [first, second] = results().steps;
    const late = results({ steps: [{ ...first!, at: '2026-11-21T03:10:00Z' }, second!] });
    expect(consistencyChecks(results(), 'abc').map((check) => check.ok)).toEqual([true, true]);
    expect(consistencyChecks(late, 'abc')[0]).toMatchObject({ ok: false });
    expect(consistencyChecks(results({ steps: [second!] }), 'other').map((check) => check.ok)).toEqual([false, false]);
    expect(promoted(results({ steps: [first!, { ...second!, outcome: 'failed' }] }))).toBe(false);
  });

  it('says by hand, and whether anything contradicts it', () => {
    const [first, second] = results().steps;
    expect(importedOutcome(results(), [])).toBe('succeeded by hand');
    expect(importedOutcome(results({ steps: [first!, { ...second!, outcome: 'not begun' }] }), [])).toBe('not completed by hand');
    expect(importedOutcome(results({ steps: [first!, { ...second!, outcome: 'failed' }] }), [{ name: 'x', ok: false, expected: '', found: '' }])).toBe('failed by hand, not confirmed');
  });

  it('has figures only where times were written down, and marks them', () => {
    const none = importedRecord(results(), CONTEXT);
    expect(none.measurements.every((item) => item.measured === null && judge(item) === 'not measured')).toBe(true);
    const some = importedRecord(results({ lastGoodWriteAt: '2026-11-21T03:05:00Z', firstGoodWriteAt: '2026-11-21T03:08:20Z', lostTransactions: 0 }), CONTEXT);
    expect(some.measurements.map(({ name, measured, note }) => ({ name, measured, note }))).toEqual([
      { name: 'RTO by hand: start to first good write', measured: 500_000, note: 'as written down by ann' },
      { name: 'RPO: work lost', measured: null, note: expect.stringContaining('no canary') },
      { name: 'refused-write window', measured: 200_000, note: 'as written down by ann' },
      { name: 'acknowledged writes lost', measured: 0, note: 'as written down by ann' },
    ]);
    expect(some).toMatchObject({ requestedBy: 'ann', title: 'Database failover: orders (planned, BY HAND)', finishedAt: '2026-11-21T03:30:00.000Z' });
    expect(some.facts[0]).toMatchObject({ kind: 'source', data: { source: 'imported, by hand', importedBy: 'bob' } });
    // A moment was written down for a step, never how long it took.
    expect(some.timeline.every((entry) => entry.startMs === entry.endMs)).toBe(true);
  });
});
