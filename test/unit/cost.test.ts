import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { amountOf, ceiling, exactText, minus, per, plus, shownAmount, sum, times } from '../../src/model/amount.ts';
import { datastoreCostsSchema, priceTableSchema, type PriceTable, type Tier } from '../../src/model/config-cost.ts';
import { costOf, priceOf, priceTwins, serviceTotal, type CostInput, type DumpInput, type TierCost } from '../../src/model/cost.ts';
import { scheduleRuns } from '../../src/model/schedule.ts';

const HOUR = 3_600_000;

const PRICES = [
  { unit: 'instance-hour', class: 'large', price: 0.3 },
  { unit: 'instance-hour', class: 'small', price: '0.08' },
  { unit: 'volume-gb-month', price: 0.12 },
  { unit: 'snapshot-gb-month', price: 0.1 },
  { unit: 'object-gb-month', price: 0.024 },
  { unit: 'transfer-gb', price: 0.02 },
  { unit: 'put-1000', price: 0.005 },
];

function table(prices: readonly object[] = PRICES): PriceTable {
  return priceTableSchema.parse({ currency: 'USD', asOf: '2026-11-21', source: 'test', gigabyte: '1GB', monthHours: 720, prices });
}

const DUMPS: DumpInput = {
  store: 'main', region: 'eu-central-1', partBytes: 8 * 1024 ** 2,
  stored: { bytes: 12_500_000_000, count: 3, newestBytes: 4_000_000_000, newestTookMs: 120_000 },
  schedule: { runsPerDay: amountOf(1), longestGapMs: 24 * HOUR },
};
const REPLICA = { class: 'large', region: 'eu-west-1', volume: { size: '100GB' } };

function input(declared: object = {}, more: Partial<CostInput> = {}): CostInput {
  return {
    datastore: 'shop', region: 'eu-central-1', tier: 'warm-standby', declared: datastoreCostsSchema.parse(declared), dumps: DUMPS,
    measured: { failoverRto: null, failoverRpo: null, restore: null, snapshotRestore: null }, objectives: { rtoMs: 900_000, rpoMs: 60_000 }, ...more,
  };
}

function tier(of: CostInput, name: Tier, prices = table()): TierCost {
  return costOf(of, prices).tiers.find((item) => item.tier === name)!;
}

function lines(cost: TierCost): Record<string, string> {
  return Object.fromEntries(cost.lines.map((line) => [line.name, line.amount === null ? `? ${line.missing}` : exactText(line.amount)]));
}

describe('amounts', () => {
  it('are exact where floating point is not, and rounded only when shown', () => {
    expect(exactText(sum(Array.from({ length: 10 }, () => amountOf(0.1))))).toBe('1');
    expect(exactText(plus(amountOf('0.1'), amountOf(0.2)))).toBe('0.3');
    expect(exactText(minus(amountOf('0.3'), amountOf('0.1')))).toBe('0.2');
    expect(exactText(times(amountOf('1.005'), amountOf(100)))).toBe('100.5');
    // Three thirds are one: nothing was rounded on the way.
    const third = per(amountOf(1), amountOf(3));
    expect(exactText(sum([third, third, third]))).toBe('1');
    expect(exactText(third)).toBe('0.333333333333');
    expect(exactText(amountOf(1e-7))).toBe('0.0000001');
    expect(['0.005', '0.0049', '1234.995', '0'].map((text) => shownAmount(amountOf(text), 2))).toEqual(['0.01', '0.00', '1235.00', '0.00']);
    expect(shownAmount(amountOf('2.5'), 0)).toBe('3');
    expect([ceiling(amountOf('2.0001')), ceiling(amountOf(2)), ceiling(amountOf(0))].map(exactText)).toEqual(['3', '2', '0']);
    for (const wrong of ['', '-1', 'NaN', '1,5', 'Infinity', '0x1']) expect(() => amountOf(wrong)).toThrow(RangeError);
    expect(() => per(amountOf(1), amountOf(0))).toThrow(RangeError);
  });

  it('add up to the same in any order, and never to a rounding', () => {
    const cents = fc.array(fc.integer({ min: 0, max: 10_000_000 }), { maxLength: 50 });
    fc.assert(fc.property(cents, (values) => {
      const amounts = values.map((value) => per(amountOf(value), amountOf(1000)));
      const whole = values.reduce((total, value) => total + value, 0);
      expect(sum(amounts)).toEqual(per(amountOf(whole), amountOf(1000)));
      expect(sum(amounts.toReversed())).toEqual(sum(amounts));
    }));
  });
});

describe('what a tier costs', () => {
  it('as calculated by hand: a standby in another Region, dumps beside it', () => {
    const cost = tier(input({ replica: REPLICA, changePerDay: '2GB' }), 'warm-standby');
    expect(lines(cost)).toEqual({
      'standby instances': '216', //             720 h x 0.3
      'their volumes': '12', //                  100 GB x 0.12
      'replication to the other Region': '1.2', // 2 GB x 30 days x 0.02
      'dumps stored': '0.3', //                  12.5 GB x 0.024
      'requests of the dumps': '0.07275', //     (ceil(4,000,000,000 / 8,388,608) + 8) = 485; x 30 / 1000 x 0.005
    });
    expect(exactText(cost.total)).toBe('229.57275');
    expect(cost).toMatchObject({ current: true, impossible: null, incomplete: [] });
    expect(Object.fromEntries(cost.lines.map(({ name, basis }) => [name, basis]))).toEqual({ 'standby instances': 'declared', 'their volumes': 'declared', 'replication to the other Region': 'declared', 'dumps stored': 'measured', 'requests of the dumps': 'assumed' });
  });

  it('as calculated by hand: smaller standby, snapshots with a copy, dumps only', () => {
    const of = input({ replica: REPLICA, pilot: { class: 'small', count: 2, resize: '20m' }, changePerDay: '2GB', snapshots: { size: '80GB', change: '5GB', keep: 3, every: '24h', copyTo: ['eu-west-1'], copy: '30m', restore: '45m' } });
    expect(lines(tier(of, 'pilot-light'))).toMatchObject({ 'pilot instances': '115.2', 'their volumes': '24', 'replication to the other Region': '2.4' });
    // 80 + 2 x 5 = 90 GB in each Region; 5 GB x 30 sent.
    expect(lines(tier(of, 'snapshot-copy'))).toEqual({ snapshots: '9', 'snapshot copies': '9', 'snapshots sent': '3', 'dumps stored': '0.3', 'requests of the dumps': '0.07275' });
    expect(exactText(tier(of, 'dump-only').total)).toBe('0.37275');
    // What exists beside the standby is paid for beside the standby.
    expect(exactText(tier(of, 'warm-standby').total)).toBe('250.57275');
  });

  it('a WAL archive, and dumps that go to another Region', () => {
    const of = input({ changePerDay: '16.777216GB', walArchive: { keep: '10d', interval: '1m', region: 'eu-west-1' } }, { dumps: { ...DUMPS, region: 'eu-west-1' }, tier: 'snapshot-copy' });
    expect(lines(tier(of, 'snapshot-copy'))).toMatchObject({
      'WAL archive': '4.02653184', //                167.77216 GB x 0.024
      'requests of the WAL archive': '0.15', //      1000 segments a day x 30 / 1000 x 0.005
      'WAL sent': '10.0663296', //                   503.31648 GB x 0.02
      'dumps sent': '2.4', //                        4 GB x 30 x 0.02
    });
  });

  it('a missing price or figure is never 0: it is named, and the sum says that it is incomplete', () => {
    const of = input({ replica: { class: 'huge', region: 'eu-west-1' } }, { dumps: { ...DUMPS, stored: null, why: 'store main could not be read: ECONNREFUSED' } });
    const cost = tier(of, 'warm-standby');
    expect(lines(cost)).toEqual({
      'standby instances': '? no price for instance-hour huge eu-west-1',
      'their volumes': '? replica.volume is not declared',
      'replication to the other Region': '? changePerDay is not declared',
      'dumps stored': '? store main could not be read: ECONNREFUSED',
      'requests of the dumps': '? store main could not be read: ECONNREFUSED',
    });
    expect(cost.incomplete).toHaveLength(5);
    expect(cost.lines.every(({ amount }) => amount === null)).toBe(true);
    expect(serviceTotal([costOf(of, table())]).incomplete).toHaveLength(5);
    // Nothing is scheduled: how many dumps a month will be made is not known, what lies there is.
    expect(lines(tier(input({}, { dumps: { ...DUMPS, schedule: null } }), 'dump-only'))).toEqual({ 'dumps stored': '0.3', 'requests of the dumps': '? no backup is scheduled' });
    expect(tier(input(), 'pilot-light').impossible).toBe('no pilot is declared');
    expect(tier(input({}, { dumps: null }), 'dump-only').impossible).toBe('no object store is configured for its dumps');
    // A service whose tier cannot be calculated is not complete either.
    expect(serviceTotal([costOf(input(), table())]).incomplete).toEqual(['shop: no replica is declared']);
  });

  it('declared extras count in the tiers that need them', () => {
    const of = input({ also: [{ name: 'idle cache', unit: 'instance-hour', class: 'small', quantity: '720', tiers: ['warm-standby'] }] });
    expect(lines(tier(of, 'warm-standby'))).toMatchObject({ 'idle cache': '57.6' });
    expect(lines(tier(of, 'dump-only'))).not.toHaveProperty('idle cache');
  });

  it('the entry that says most wins, and two that say the same are found', () => {
    const prices = table([
      { unit: 'transfer-gb', price: 9 }, { unit: 'transfer-gb', region: 'a', price: 2 }, { unit: 'transfer-gb', region: 'a', to: 'b', price: 1 },
      { unit: 'object-gb-month', region: 'a', price: 3 }, { unit: 'object-gb-month', class: 'cold', price: 4 }, { unit: 'object-gb-month', class: 'cold', price: 5 },
    ]);
    const shown = (wanted: Parameters<typeof priceOf>[1]): string | undefined => { const price = priceOf(prices, wanted); return price === undefined ? undefined : exactText(price); };
    expect(shown({ unit: 'transfer-gb', region: 'a', to: 'b' })).toBe('1');
    expect(shown({ unit: 'transfer-gb', region: 'a', to: 'c' })).toBe('2');
    expect(shown({ unit: 'transfer-gb', region: 'x', to: 'b' })).toBe('9');
    expect(shown({ unit: 'object-gb-month', class: 'cold', region: 'a' })).toBe('4');
    expect(shown({ unit: 'object-gb-month', region: 'b' })).toBeUndefined();
    expect(shown({ unit: 'put-1000' })).toBeUndefined();
    expect(priceTwins(prices)).toEqual([5]);
  });
});

describe('what a tier means for recovery', () => {
  const declared = { replica: REPLICA, pilot: { class: 'small', resize: '20m' }, snapshots: { size: '80GB', keep: 3, every: '24h', copyTo: ['eu-west-1'], copy: '30m', restore: '45m' } };

  it('without a failover and a drill nothing is measured, and nothing claims to meet an objective it is not known to meet', () => {
    for (const name of ['warm-standby', 'pilot-light', 'snapshot-copy', 'dump-only'] as const) {
      const { rto, rpo } = tier(input(declared), name);
      expect([rto.basis, rpo.basis]).not.toContain('measured');
      expect(rto.meets === null || rto.ms !== null).toBe(true);
    }
    expect(tier(input(declared), 'warm-standby').rto).toMatchObject({ ms: null, how: 'no failover has measured it' });
    expect(tier(input(declared), 'dump-only').rto).toMatchObject({ ms: null, how: 'no drill has measured a restore' });
    expect(tier(input(declared), 'snapshot-copy').rpo).toMatchObject({ ms: 24.5 * HOUR, basis: 'declared', meets: false });
    expect(tier(input(declared), 'snapshot-copy').rto).toMatchObject({ ms: 0.75 * HOUR, basis: 'declared', meets: false });
  });

  it('what was measured counts for the tier it was measured in; for another it is an assumption that says so', () => {
    const figure = (ms: number, from: string) => ({ ms, from });
    const of = input(declared, { measured: { failoverRto: figure(120_000, 'evidence f'), failoverRpo: figure(0, 'evidence f'), restore: figure(3 * HOUR, 'evidence d'), snapshotRestore: null } });
    expect(tier(of, 'warm-standby')).toMatchObject({ rto: { ms: 120_000, basis: 'measured', how: 'evidence f', meets: true }, rpo: { ms: 0, basis: 'measured', meets: true } });
    expect(tier(of, 'pilot-light')).toMatchObject({ rto: { ms: 1_320_000, basis: 'assumed', meets: false }, rpo: { basis: 'assumed', how: 'as measured with warm-standby: evidence f' } });
    expect(tier(of, 'snapshot-copy').rto.basis).toBe('declared');
    expect(tier(of, 'dump-only')).toMatchObject({ rto: { ms: 3 * HOUR, basis: 'measured', meets: false }, rpo: { ms: 24 * HOUR + 120_000, basis: 'assumed', meets: false } });
    // The estate runs with a pilot light: its failover says nothing of a full standby.
    const pilot = { ...of, tier: 'pilot-light' as const };
    expect(tier(pilot, 'pilot-light').rto).toMatchObject({ ms: 120_000, basis: 'measured' });
    expect(tier(pilot, 'warm-standby').rto).toMatchObject({ ms: null, basis: 'not known' });
    const snapshot = { ...of, measured: { ...of.measured, snapshotRestore: figure(HOUR, 'evidence s') } };
    expect(tier(snapshot, 'snapshot-copy').rto).toMatchObject({ ms: HOUR, basis: 'measured', how: 'restore of a snapshot, evidence s' });
  });

  it('a WAL archive loses what has not arrived in it', () => {
    const of = input({ ...declared, walArchive: { keep: '7d', interval: '1m', replay: '10m' }, changePerDay: '1GB' });
    expect(tier(of, 'snapshot-copy')).toMatchObject({ rpo: { ms: 60_000, basis: 'declared', meets: true }, rto: { ms: 55 * 60_000, basis: 'declared' } });
    expect(tier(input({ ...declared, walArchive: { keep: '7d', interval: '1m' } }), 'snapshot-copy').rto).toMatchObject({ ms: null, how: 'walArchive.replay is not declared' });
  });
});

describe('how often a schedule runs', () => {
  it.each([
    ['0 3 * * *', '1'],
    ['0 */6 * * *', '4'],
    ['30 1,13 * * mon-fri', '1.428571428571'],
    ['0 0 1 * *', '0.032854884084'], // 12 a year of 365.2425 days
    ['0 0 29 2 *', '0.000663942449'], // 97 in 400 years
  ])('%s: %s a day', (cron, runs) => {
    const found = scheduleRuns({ cron })!;
    expect(exactText(per(amountOf(found.runs), amountOf(found.days)))).toBe(runs);
  });

  it('an interval exactly, and what never runs not at all', () => {
    const found = scheduleRuns({ every: 7 * HOUR })!;
    expect(per(amountOf(found.runs), amountOf(found.days))).toEqual(per(amountOf(24), amountOf(7)));
    expect(scheduleRuns({ cron: '0 0 30 2 *' })).toBeUndefined();
    expect(scheduleRuns({ cron: 'nonsense' })).toBeUndefined();
  });
});

it('prices.example.yaml is a table, and says that its figures are examples', () => {
  const text = readFileSync(join(import.meta.dirname, '../../prices.example.yaml'), 'utf8');
  const example = priceTableSchema.parse(parse(text));
  expect(priceTwins(example)).toEqual([]);
  expect(example.source).toContain('example figures');
});
