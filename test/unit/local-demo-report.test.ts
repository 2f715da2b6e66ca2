import { describe, expect, it } from 'vitest';
import { formatFigures, isMissed, reasonsToFail, type Figure } from '../../src/local/demo-report.ts';

const met: Figure = { of: 'planned failover', what: 'refused-write window', unit: 'ms', objective: 1000, measured: 420 };
const missed: Figure = { ...met, measured: 1400 };
const unmeasured: Figure = { ...met, measured: null };
const lost: Figure = { of: 'forced failover', what: 'acknowledged writes lost', unit: 'count', objective: null, measured: 3 };

describe("the demo's figures", () => {
  it('miss when they exceed the objective or were not measured, and only then', () => {
    expect([met, { ...met, measured: 1000 }, missed, unmeasured, lost].map(isMissed)).toEqual([false, false, true, true, false]);
  });

  it('give every reason to fail, and nothing measured is one', () => {
    expect(reasonsToFail([met, lost], [])).toEqual([]);
    expect(reasonsToFail([missed, unmeasured], ['the drill failed'])).toEqual([
      'the drill failed',
      'planned failover: refused-write window: 1.40 s, objective 1.00 s',
      'planned failover: refused-write window: not measured, objective 1.00 s',
    ]);
    expect(reasonsToFail([lost], [])).toEqual(['nothing was measured against an objective']);
  });

  it('stand beside their objectives', () => {
    expect(formatFigures([met, missed, lost]).split('\n').slice(2)).toEqual([
      '  planned failover  refused-write window      <= 1.00 s  420 ms    met',
      '  planned failover  refused-write window      <= 1.00 s  1.40 s    MISSED',
      '  forced failover   acknowledged writes lost  -          3',
    ]);
  });
});
