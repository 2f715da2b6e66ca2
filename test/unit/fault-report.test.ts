import { describe, expect, it } from 'vitest';
import { faultReport, figures, histogram, timeDisagreement, type Machine, type Round } from '../fault/report.ts';

const about: Machine = { command: 'npm run test:fault', commit: 'abc', cores: 2, loadAtStart: 0.5, lines: ['2 cores'] };
const times = { startedAt: '2026-11-21T10:00:00Z', endedAt: '2026-11-21T10:20:00Z', loadAtEnd: 1 };

function round(number: number, change: Partial<Round> = {}): Round {
  return { mode: 'planned', number, from: 'a', to: 'b', outcome: 'succeeded', rtoMs: 4000 + number, refusedWindowMs: 200 + number, promotionMs: 90, lost: 0, writer: { acknowledged: 1000, refused: 20, unanswered: 1, lost: 0, longestGapMs: 210 + number }, disagreements: [], wrong: [], ...change };
}

describe('figures', () => {
  it('are values that occurred, by nearest rank', () => {
    expect(figures([])).toBeNull();
    expect(figures([7])).toEqual({ count: 1, min: 7, median: 7, p95: 7, max: 7 });
    expect(figures(Array.from({ length: 100 }, (_, index) => 100 - index))).toEqual({ count: 100, min: 1, median: 50, p95: 95, max: 100 });
  });

  it('a histogram counts every value once, the outlier on a line of its own', () => {
    const values = [...Array.from({ length: 99 }, (_, index) => 200 + index), 5000];
    const lines = histogram(values, 'ms');
    expect(lines.map((line) => Number(/ (\d+)$/.exec(line)?.[1] ?? 0)).reduce((sum, count) => sum + count, 0)).toBe(100);
    expect(lines.at(-1)).toMatch(/above \d+ ms \|/);
  });
});

describe('the engine against the writer', () => {
  it('agrees within a second, and within half of the larger', () => {
    expect(timeDisagreement('refused', 300, 1250)).toBeNull();
    expect(timeDisagreement('refused', 6000, 4000)).toBeNull();
    expect(timeDisagreement('refused', 300, 1500)).toBe('refused: the engine measured 300 ms, the writer 1500 ms');
    expect(timeDisagreement('refused', null, 1500)).toMatch(/the engine measured nothing/);
  });
});

describe('the report', () => {
  it('of a good run says so, with sums and the command', () => {
    const text = faultReport([round(1), round(2)], { planned: 2, forced: 0 }, about, times);
    expect(text).toContain('2 of 2 planned and 0 of 0 forced');
    expect(text).toContain('Wrong ends: 0. Disagreements between the engine\'s figures and the writer\'s own record: 0.');
    expect(text).toContain('| acknowledged | 2000 |');
    expect(text).toContain('npm run test:fault');
    expect(text).not.toMatch(/Incomplete|inflates/);
  });

  it('lists what failed, what disagrees, what was not run, and that others used the machine', () => {
    const text = faultReport([round(1, { disagreements: ['lost writes: the engine counted 0, the writer 3'] }), round(2, { outcome: 'failed: parked', wrong: ['a takes writes too: application'], rtoMs: null, refusedWindowMs: null })], { planned: 3, forced: 0 }, { ...about, loadAtStart: 9 }, times);
    expect(text).toMatch(/Incomplete run.*2 of 3 planned/);
    expect(text).toContain('- planned 1: lost writes: the engine counted 0, the writer 3');
    expect(text).toContain('- planned 2: failed: parked');
    expect(text).toContain('- planned 2: a takes writes too: application');
    expect(text).toContain('1 succeeded, 1 did not succeed');
    expect(text).toContain('| writes refused, measured by the engine | 1 of 2 |');
    expect(text).toContain('others were using the machine');
  });
});
