import { describe, expect, it } from 'vitest';
import { createCapacityShare, pageLimit, shareOf } from '../../src/model/capacity-share.ts';

/** Calls of several readers on a clock that only the bucket's waits move. @returns the units used by each second. */
function simulate(readers: number, cost: (call: number) => { expected: number; used: number }, rate: (second: number) => number, seconds: number): number[] {
  const share = createCapacityShare(rate(0), 0);
  const free = Array.from({ length: readers }, () => 0);
  const used: number[] = [];
  for (let call = 0; ; call += 1) {
    const reader = free.indexOf(Math.min(...free));
    const now = free[reader]!;
    if (now >= seconds * 1000) return used;
    share.setRate(rate(Math.floor(now / 1000)), now);
    const { expected, used: units } = cost(call);
    const startMs = now + share.reserve(expected, now);
    share.settle(expected, units, startMs);
    const second = Math.floor(startMs / 1000);
    used[second] = (used[second] ?? 0) + units;
    free[reader] = startMs + 1;
  }
}

const total = (units: readonly number[], from: number, to: number): number => units.slice(from, to).reduce((sum, one) => sum + (one ?? 0), 0);

describe('a share of capacity', () => {
  it('is kept whatever calls cost, also when they cost more than was expected', () => {
    for (const [expected, used] of [[1, 1], [1, 3], [12, 12], [0.5, 40]] as const) {
      const units = simulate(8, () => ({ expected, used }), () => 25, 60);
      // 60 s at 25 units, a second's burst, and eight calls under way.
      expect(total(units, 0, 60)).toBeLessThanOrEqual(25 * 61 + 8 * used);
      expect(total(units, 0, 60)).toBeGreaterThan(25 * 60 * 0.95 - 8 * used);
    }
  });

  it('follows a capacity that changes under way', () => {
    const units = simulate(4, () => ({ expected: 2, used: 2 }), (second) => (second < 30 ? 20 : 60), 60);
    expect(total(units, 0, 30)).toBeLessThanOrEqual(20 * 31 + 8);
    expect(total(units, 31, 60)).toBeGreaterThan(60 * 29 * 0.95);
    expect(total(units, 31, 60)).toBeLessThanOrEqual(60 * 30 + 8);
  });

  it('gives back what was booked and not used, and no more than a burst', () => {
    const share = createCapacityShare(10, 0);
    expect(share.reserve(10, 0)).toBe(0);
    expect(share.reserve(10, 0)).toBe(1000);
    share.settle(10, 0, 0);
    share.settle(10, 0, 0);
    expect(share.reserve(10, 3_600_000)).toBe(0);
    expect(share.reserve(1, 3_600_000)).toBe(100);
    expect(share.consumedUnits).toBe(0);
  });

  it('is of the provisioned capacity, or of what is known of an on-demand table, in a stated order', () => {
    const demand = { mode: 'on-demand', provisioned: 0, maximum: null, warm: null } as const;
    expect(shareOf({ mode: 'provisioned', provisioned: 400, maximum: null, warm: 12_000 }, 0.25, 'read', 9)).toEqual({ unitsPerSecond: 100, of: 400, source: 'provisioned capacity' });
    expect(shareOf(demand, 0.25, 'read', 40)).toMatchObject({ unitsPerSecond: 10, source: 'configured' });
    expect(shareOf({ ...demand, maximum: 800, warm: 2000 }, 0.5, 'read')).toMatchObject({ unitsPerSecond: 400, source: 'on-demand maximum' });
    expect(shareOf({ ...demand, maximum: -1, warm: 2000 }, 0.5, 'read')).toMatchObject({ unitsPerSecond: 1000, source: 'warm throughput' });
    expect(shareOf(demand, 0.25, 'read').of).toBe(12_000);
    expect(shareOf(demand, 0.25, 'write').of).toBe(4000);
    expect(() => createCapacityShare(0, 0)).toThrow(RangeError);
  });

  it('asks a small table for small pages', () => {
    expect(pageLimit(1.25, 0.5)).toBe(4);
    expect(pageLimit(1.25, 8)).toBe(1);
    expect(pageLimit(100, 0.5)).toBe(50);
    expect(pageLimit(12_000, 0.001)).toBe(100_000);
  });

  it('on the smallest table learns how small its items are, and wastes little by what is rounded up', () => {
    const [bytes, items, share] = [250, 5000, 1.25];
    let [perItem, units, read, pages] = [1, 0, 0, 0];
    while (read < items) {
      const page = Math.min(pageLimit(share, perItem), items - read);
      // Eventually consistent: half a unit for each 4 KB begun.
      const cost = Math.ceil((page * bytes) / 4096) / 2;
      perItem = cost / page;
      units += cost;
      read += page;
      pages += 1;
    }
    const worth = (items * bytes) / 8192;
    expect(units / worth).toBeLessThan(1.25);
    expect(units / pages).toBeGreaterThan(1);
  });
});
