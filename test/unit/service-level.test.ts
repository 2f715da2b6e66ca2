import { describe, expect, it } from 'vitest';
import { addSample, availability, beginWatch, percentile, resumeWatch, showShare, watchedFrom, type Watched } from '../../src/model/service-level.ts';

function watched(latencies: readonly number[], errors: readonly string[] = []): Watched {
  let seen = beginWatch(1000);
  for (const [index, latencyMs] of latencies.entries()) seen = addSample(seen, { atMs: 1000 + index, latencyMs, error: null });
  for (const error of errors) seen = addSample(seen, { atMs: 2000, latencyMs: null, error });
  return seen;
}

describe('percentiles', () => {
  it('are never below the true one, at most 5 % and one millisecond above it, and never above the longest', () => {
    let random = 12345;
    const next = (): number => (random = (random * 1103515245 + 12345) % 2 ** 31) / 2 ** 31;
    for (let round = 0; round < 50; round += 1) {
      const values = Array.from({ length: 1 + Math.floor(next() * 400) }, () => 0.2 + next() ** 4 * 30_000);
      const sorted = [...values].sort((a, b) => a - b);
      const seen = watched(values);
      for (const share of [0.5, 0.95, 0.99, 1]) {
        const truth = sorted[Math.max(1, Math.ceil(share * sorted.length)) - 1]!;
        const found = percentile(seen, share)!;
        expect(found).toBeGreaterThanOrEqual(truth - 1e-6);
        expect(found).toBeLessThanOrEqual(Math.max(1, truth * 1.05) + 1);
        expect(found).toBeLessThanOrEqual(Math.ceil(sorted.at(-1)!));
      }
    }
  });
  it('of nothing that answered there are none', () => {
    expect(percentile(watched([], ['silent']), 0.95)).toBeNull();
    expect(percentile(watched([]), 0.5)).toBeNull();
  });
});

describe('availability', () => {
  it('is good of all, and not measured without a sample', () => {
    expect(availability(watched([]))).toBeNull();
    expect(availability(watched([1, 2, 3], ['HTTP 503']))).toBe(0.75);
  });
  it('is never shown better than it is', () => {
    expect(showShare(0.99999999)).toBe('99.9999 %');
    expect(showShare(1)).toBe('100 %');
    expect(showShare(0.9995)).toBe('99.95 %');
    expect(showShare(0)).toBe('0 %');
    expect(showShare(null)).toBe('not measured');
  });
});

describe('a report that goes from worker to worker', () => {
  it('stays small, however long it is watched and however many kinds of errors there are', () => {
    let seen = beginWatch(0);
    for (let index = 0; index < 20_000; index += 1) seen = addSample(seen, { atMs: index, latencyMs: (index * 7919) % 60_000, error: index % 3 === 0 ? `error ${index}` : null });
    for (let index = 0; index < 100; index += 1) seen = resumeWatch(seen, 1_000_000 + index);
    expect(JSON.stringify(seen).length).toBeLessThan(6000);
    expect(seen.samples).toBe(20_000);
    expect(Object.values(seen.errors).reduce((sum, count) => sum + count, 0) + seen.otherErrors).toBe(seen.samples - seen.good);
  });
  it('counts the time that nobody looked from the last sample on, once for each worker', () => {
    const first = watched([5, 5]);
    const second = resumeWatch(first, 11_001);
    expect(second.gapMs).toBe(10_000);
    expect(second.gaps).toEqual([{ fromMs: 1001, toMs: 11_001 }]);
    expect(resumeWatch(addSample(second, { atMs: 11_100, latencyMs: 1, error: null }), 12_100).gapMs).toBe(11_000);
    // A clock that is behind makes no time.
    expect(resumeWatch(first, 500).gapMs).toBe(0);
    expect(resumeWatch(beginWatch(700), 900).gapMs).toBe(200);
  });
  it('is only taken from what is one', () => {
    expect(watchedFrom(null)).toBeNull();
    expect(watchedFrom({ changeId: 'x' })).toBeNull();
    expect(watchedFrom(JSON.parse(JSON.stringify(watched([3]))))).toEqual(watched([3]));
  });
});
