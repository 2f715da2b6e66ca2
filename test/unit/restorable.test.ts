import { describe, expect, it } from 'vitest';
import { describeRestorable, restorableMoments } from '../../src/model/restorable.ts';

const day = (n: number): number => Date.UTC(2026, 8, n);
const backup = (id: string, n: number, proof: 'verified' | 'bad' | 'unproved' = 'unproved') => ({ id, snapshotAtMs: day(n), proof });

describe('what can be restored', () => {
  it('begins with the oldest good backup that is kept, and says what was given up', () => {
    const found = restorableMoments([backup('d', 9), backup('a', 1), backup('b', 2, 'bad'), backup('c', 5, 'verified')], new Set(['a']));
    expect(found).toEqual({ moments: 2, oldest: '2026-09-05T00:00:00.000Z', newest: '2026-09-09T00:00:00.000Z', longestGapMs: 4 * 86_400_000, givenUp: { moments: 1, from: '2026-09-01T00:00:00.000Z', to: '2026-09-01T00:00:00.000Z' } });
    expect(describeRestorable(found, true)).toEqual([
      'restorable: 2 moments from 2026-09-05T00:00:00.000Z to 2026-09-09T00:00:00.000Z',
      'no longer restorable: anything before 2026-09-05T00:00:00.000Z; between two moments only the earlier one is (they are up to 4d 00h apart)',
      'given up by this run: the moment 2026-09-01T00:00:00.000Z',
    ]);
  });

  it('is nothing when every backup is bad or gone', () => {
    const found = restorableMoments([backup('a', 1, 'bad'), backup('b', 2)], new Set(['b']));
    expect(found).toMatchObject({ moments: 0, oldest: null, newest: null, longestGapMs: 0 });
    expect(describeRestorable(found, false)).toEqual(['NOTHING can be restored: there is no good backup', 'would be given up: the moment 2026-09-02T00:00:00.000Z']);
  });

  it('ignores a time that is none', () => {
    expect(restorableMoments([{ id: 'x', snapshotAtMs: Number.NaN, proof: 'unproved' }, backup('a', 3)], new Set())).toMatchObject({ moments: 1, oldest: '2026-09-03T00:00:00.000Z', givenUp: null });
  });
});
