import { amountOf, ceiling, exactText, per, sum, times, type Amount } from './amount.ts';
import { TIERS, type DatastoreCosts, type PriceTable, type PriceUnit, type Tier } from './config-cost.ts';
import { formatDuration } from './units.ts';

/** Where a figure comes from. `assumed`: calculated from others by a rule that stands beside it. */
export type Basis = 'measured' | 'declared' | 'assumed';

/** What is known of a datastore, whatever its source. Pure input of the calculation. */
export interface CostInput {
  readonly datastore: string;
  readonly region: string;
  readonly tier: Tier;
  readonly declared: DatastoreCosts;
  /** Its dumps in an object store; null: none is configured, or it is a folder of a host. */
  readonly dumps: DumpInput | null;
  /** Best evidence there is; null: never measured. */
  readonly measured: { readonly failoverRto: MeasuredFigure | null; readonly failoverRpo: MeasuredFigure | null; readonly restore: MeasuredFigure | null; readonly snapshotRestore: MeasuredFigure | null };
  readonly objectives: { readonly rtoMs: number; readonly rpoMs: number };
}

export interface DumpInput {
  readonly store: string;
  readonly region: string;
  /** What lies there now; null: the store could not be read, and `why` says so. */
  readonly stored: { readonly bytes: number; readonly count: number; readonly newestBytes: number; readonly newestTookMs: number } | null;
  readonly why?: string;
  /** By the schedules; null: none is scheduled. */
  readonly schedule: { readonly runsPerDay: Amount; readonly longestGapMs: number } | null;
  readonly partBytes: number;
}

export interface MeasuredFigure {
  readonly ms: number;
  /** Which record says so. */
  readonly from: string;
}

export interface CostLine {
  readonly name: string;
  readonly unit: PriceUnit;
  /** null: it is not known, and `why` says what is missing. */
  readonly quantity: Amount | null;
  readonly basis: Basis;
  readonly how: string;
  readonly price: Amount | null;
  /** quantity x price; null when either is missing: never 0 for want of a figure. */
  readonly amount: Amount | null;
  /** What is missing. */
  readonly missing: string | null;
}

export interface Consequence {
  readonly ms: number | null;
  readonly basis: Basis | 'not known';
  readonly how: string;
  /** null: not known. */
  readonly meets: boolean | null;
}

export interface TierCost {
  readonly tier: Tier;
  readonly current: boolean;
  /** null: it can be built from what is declared; else what is missing. */
  readonly impossible: string | null;
  readonly lines: readonly CostLine[];
  readonly total: Amount;
  readonly incomplete: readonly string[];
  readonly rto: Consequence;
  readonly rpo: Consequence;
}

export interface DatastoreCost {
  readonly datastore: string;
  readonly tier: Tier;
  readonly tiers: readonly TierCost[];
}

const DAY_MS = 86_400_000;
/** Requests of one backup besides its parts: begin and end of the uploads, manifest, commit, globals. */
const OTHER_PUTS = 8;
const WAL_SEGMENT_BYTES = 16 * 1024 ** 2;

/** The price of the most specific entry that fits; undefined: there is none. */
export function priceOf(table: PriceTable, wanted: { unit: PriceUnit; class?: string | undefined; region?: string | undefined; to?: string | undefined }): Amount | undefined {
  const fits = table.prices.filter((price) => price.unit === wanted.unit && (['class', 'region', 'to'] as const).every((key) => price[key] === undefined || price[key] === wanted[key]));
  const specific = (price: PriceTable['prices'][number]): number => (price.class === undefined ? 0 : 4) + (price.region === undefined ? 0 : 2) + (price.to === undefined ? 0 : 1);
  const [best] = fits.sort((a, b) => specific(b) - specific(a));
  return best === undefined ? undefined : amountOf(best.price);
}

/** Entries that say the same thing twice: which one counts could not be told. */
export function priceTwins(table: PriceTable): number[] {
  const seen = new Set<string>();
  return table.prices.flatMap((price, index) => {
    const key = JSON.stringify([price.unit, price.class, price.region, price.to]);
    if (seen.has(key)) return [index];
    seen.add(key);
    return [];
  });
}

/** What the datastore's tier costs a month, and each other tier with what it would lose. */
export function costOf(input: CostInput, table: PriceTable): DatastoreCost {
  return { datastore: input.datastore, tier: input.tier, tiers: TIERS.map((tier) => tierCost(input, table, tier)) };
}

function tierCost(input: CostInput, table: PriceTable, tier: Tier): TierCost {
  const lines = linesOf(input, table, tier);
  return {
    tier,
    current: tier === input.tier,
    impossible: whyImpossible(input, tier),
    lines,
    total: sum(lines.flatMap(({ amount }) => amount ?? [])),
    incomplete: lines.flatMap(({ name, missing }) => (missing === null ? [] : [`${name}: ${missing}`])),
    ...consequences(input, tier),
  };
}

function whyImpossible(input: CostInput, tier: Tier): string | null {
  const { replica, pilot, snapshots, walArchive } = input.declared;
  switch (tier) {
    case 'warm-standby':
      return replica === undefined ? 'no replica is declared' : null;
    case 'pilot-light':
      return pilot === undefined ? 'no pilot is declared' : null;
    case 'snapshot-copy':
      return snapshots === undefined && walArchive === undefined ? 'neither snapshots nor a WAL archive are declared' : null;
    case 'dump-only':
      return input.dumps === null ? 'no object store is configured for its dumps' : null;
    default:
      return tier satisfies never;
  }
}

/** Every cheaper tier leaves something out; dumps are the last resort of all of them. */
function linesOf(input: CostInput, table: PriceTable, tier: Tier): CostLine[] {
  const lines: CostLine[] = [];
  const { declared, region } = input;
  const hours = amountOf(table.monthHours);
  const days = per(hours, amountOf(24));
  const gigabytes = (bytes: number): Amount => per(amountOf(BigInt(bytes)), amountOf(BigInt(table.gigabyte)));
  const add = (name: string, unit: PriceUnit, at: { class?: string | undefined; region?: string | undefined; to?: string | undefined }, quantity: Amount | null, basis: Basis, how: string, missing?: string): void => {
    const price = priceOf(table, { unit, ...at }) ?? null;
    const where = [at.class, at.region, at.to === undefined ? undefined : `to ${at.to}`].filter((part) => part !== undefined).join(' ');
    const lacks = quantity === null ? (missing ?? 'its quantity is not declared') : price === null ? `no price for ${unit}${where === '' ? '' : ` ${where}`}` : null;
    lines.push({ name, unit, quantity, basis, how, price, amount: quantity === null || price === null ? null : times(quantity, price), missing: lacks });
  };

  if (tier === 'warm-standby' || tier === 'pilot-light') {
    const size = tier === 'warm-standby' ? declared.replica : declared.pilot;
    const at = declared.replica?.region ?? region;
    if (size !== undefined) {
      const hoursOfAll = times(hours, amountOf(size.count));
      add(tier === 'warm-standby' ? 'standby instances' : 'pilot instances', 'instance-hour', { class: size.class, region: at }, hoursOfAll, 'declared', `${size.count} x ${table.monthHours} h of ${size.class}`);
      const volume = declared.replica?.volume;
      add('their volumes', 'volume-gb-month', { class: volume?.class, region: at }, volume === undefined ? null : times(gigabytes(volume.size), amountOf(size.count)), 'declared', volume === undefined ? '' : `${size.count} volume(s)`, 'replica.volume is not declared');
      if (at !== region) add('replication to the other Region', 'transfer-gb', { region, to: at }, declared.changePerDay === undefined ? null : times(times(gigabytes(declared.changePerDay), days), amountOf(size.count)), 'declared', 'changePerDay x days of a month', 'changePerDay is not declared');
    }
  }
  if (tier !== 'dump-only') {
    const { snapshots, walArchive } = declared;
    if (snapshots !== undefined) {
      const kept = gigabytes(snapshots.size + snapshots.change * (snapshots.keep - 1));
      const sent = snapshots.every === 0 ? null : times(gigabytes(snapshots.change === 0 ? snapshots.size : snapshots.change), per(times(hours, amountOf(3_600_000)), amountOf(snapshots.every)));
      for (const at of [region, ...snapshots.copyTo]) add(at === region ? 'snapshots' : 'snapshot copies', 'snapshot-gb-month', { region: at }, kept, 'assumed', `size + change x (${snapshots.keep} - 1)`);
      for (const to of snapshots.copyTo) add('snapshots sent', 'transfer-gb', { region, to }, sent, 'assumed', `${snapshots.change === 0 ? 'size' : 'change'} x snapshots a month`, 'snapshots.every is 0');
    }
    if (walArchive !== undefined) {
      const at = walArchive.region ?? region;
      const change = declared.changePerDay;
      add('WAL archive', 'object-gb-month', { class: walArchive.class, region: at }, change === undefined ? null : times(gigabytes(change), per(amountOf(walArchive.keep), amountOf(DAY_MS))), 'assumed', 'changePerDay x days kept, uncompressed', 'changePerDay is not declared');
      add('requests of the WAL archive', 'put-1000', { region: at }, change === undefined ? null : per(times(per(amountOf(BigInt(change)), amountOf(WAL_SEGMENT_BYTES)), days), amountOf(1000)), 'assumed', 'one for each 16 MiB', 'changePerDay is not declared');
      if (at !== region) add('WAL sent', 'transfer-gb', { region, to: at }, change === undefined ? null : times(gigabytes(change), days), 'assumed', 'changePerDay x days of a month', 'changePerDay is not declared');
    }
  }
  const { dumps } = input;
  if (dumps !== null) {
    const { stored, schedule } = dumps;
    const unread = dumps.why ?? 'the store was not read';
    add('dumps stored', 'object-gb-month', { class: declared.storeClass, region: dumps.region }, stored === null ? null : gigabytes(stored.bytes), 'measured', stored === null ? '' : `${stored.count} backup(s) in store ${dumps.store} now`, unread);
    const runs = schedule === null ? null : times(schedule.runsPerDay, days);
    const lacks = schedule === null ? 'no backup is scheduled' : stored === null ? unread : 'no backup was made yet';
    const known = runs !== null && stored !== null && stored.count > 0;
    const puts = known ? ceiling(per(amountOf(BigInt(stored.newestBytes)), amountOf(BigInt(dumps.partBytes)))) : null;
    add('requests of the dumps', 'put-1000', { region: dumps.region }, puts === null ? null : per(times(sum([puts, amountOf(OTHER_PUTS)]), runs!), amountOf(1000)), 'assumed', `backups a month x (parts of the newest + ${OTHER_PUTS})`, lacks);
    if (dumps.region !== region) add('dumps sent', 'transfer-gb', { region, to: dumps.region }, known ? times(gigabytes(stored.newestBytes), runs) : null, 'assumed', 'backups a month x the newest', lacks);
  }
  for (const item of declared.also) if (item.tiers.includes(tier)) add(item.name, item.unit, { class: item.class, region: item.region ?? region, to: item.to }, amountOf(item.quantity), 'declared', 'as declared');
  return lines;
}

type Known = Pick<Consequence, 'ms' | 'basis' | 'how'>;
const unknown = (how: string): Known => ({ ms: null, basis: 'not known', how });

/** What the tier means for recovery. Only what a failover or a drill has measured is called measured, and only for the tier it was measured in. */
function consequences(input: CostInput, tier: Tier): { rto: Consequence; rpo: Consequence } {
  const { rtoMs, rpoMs } = input.objectives;
  const judged = (known: Known, objective: number): Consequence => ({ ...known, meets: known.ms === null ? null : known.ms <= objective });
  const { rto, rpo } = known(input, tier);
  return { rto: judged(rto, rtoMs), rpo: judged(rpo, rpoMs) };
}

function known(input: CostInput, tier: Tier): { rto: Known; rpo: Known } {
  const { measured, declared, dumps } = input;
  const failedOver = (figure: MeasuredFigure | null, what: string): Known => (figure === null ? unknown(`no failover has measured ${what}`) : { ms: figure.ms, basis: input.tier === tier ? 'measured' : 'assumed', how: input.tier === tier ? figure.from : `as measured with ${input.tier}: ${figure.from}` });
  switch (tier) {
    case 'warm-standby':
      return { rto: input.tier === 'warm-standby' ? failedOver(measured.failoverRto, 'it') : unknown('only a failover to a standby of this size would tell'), rpo: failedOver(measured.failoverRpo, 'what is lost') };
    case 'pilot-light': {
      if (input.tier === 'pilot-light') return { rto: failedOver(measured.failoverRto, 'it'), rpo: failedOver(measured.failoverRpo, 'what is lost') };
      const resize = declared.pilot?.resize;
      const base = measured.failoverRto;
      const rto: Known = resize === undefined ? unknown('pilot.resize is not declared') : base === null ? unknown(`the time of a failover, never measured, and ${formatDuration(resize)} (declared) to make the standby larger`) : { ms: base.ms + resize, basis: 'assumed', how: `failover as measured (${formatDuration(base.ms)}, ${base.from}) and ${formatDuration(resize)} (declared) to make the standby larger` };
      return { rto, rpo: failedOver(measured.failoverRpo, 'what is lost') };
    }
    case 'snapshot-copy': {
      const { snapshots, walArchive } = declared;
      const replay = walArchive === undefined ? 0 : (walArchive.replay ?? null);
      const restore = snapshots?.restore;
      const drilled = measured.snapshotRestore;
      const rto: Known = drilled !== null ? { ms: drilled.ms, basis: 'measured', how: `restore of a snapshot, ${drilled.from}` } : restore === undefined ? unknown('snapshots.restore is not declared') : replay === null ? unknown('walArchive.replay is not declared') : { ms: restore + replay, basis: 'declared', how: `restore ${formatDuration(restore)}${replay === 0 ? '' : ` and replay ${formatDuration(replay)}`}, declared, not measured` };
      if (walArchive !== undefined) return { rto, rpo: { ms: walArchive.interval, basis: 'declared', how: 'longest time until WAL is in the archive, declared' } };
      if (snapshots === undefined) return { rto, rpo: unknown('no snapshots are declared') };
      const copy = snapshots.copyTo.length === 0 ? 0 : snapshots.copy;
      return { rto, rpo: copy === undefined ? unknown('snapshots.copy is not declared') : { ms: snapshots.every + copy, basis: 'declared', how: `all since the last snapshot (${formatDuration(snapshots.every)})${copy === 0 ? '' : ` and its copy (${formatDuration(copy)})`}, declared` } };
    }
    case 'dump-only':
      return {
        rto: measured.restore === null ? unknown('no drill has measured a restore') : { ms: measured.restore.ms, basis: 'measured', how: `restore of a dump, ${measured.restore.from}; without finding or making a server for it` },
        rpo: dumps?.schedule == null ? unknown('no backup is scheduled') : dumps.stored === null || dumps.stored.count === 0 ? unknown('no dump was seen: how long one takes is not known') : { ms: dumps.schedule.longestGapMs + dumps.stored.newestTookMs, basis: 'assumed', how: `all since the last complete dump was read: the longest gap of its schedule (${formatDuration(dumps.schedule.longestGapMs)}) and what the newest took (${formatDuration(dumps.stored.newestTookMs)})` },
      };
    default:
      return tier satisfies never;
  }
}

/** The sum over datastores of the tier each has now. */
export function serviceTotal(costs: readonly DatastoreCost[]): { total: Amount; incomplete: string[] } {
  const now = costs.map((cost) => ({ datastore: cost.datastore, tier: cost.tiers.find(({ current }) => current)! }));
  return { total: sum(now.map(({ tier }) => tier.total)), incomplete: now.flatMap(({ datastore, tier }) => [...(tier.impossible === null ? [] : [`${datastore}: ${tier.impossible}`]), ...tier.incomplete.map((item) => `${datastore}: ${item}`)]) };
}

/** For JSON: every amount as a decimal text. */
export function jsonOfCost(cost: DatastoreCost): unknown {
  const text = (amount: Amount | null): string | null => (amount === null ? null : exactText(amount));
  return { ...cost, tiers: cost.tiers.map((tier) => ({ ...tier, total: text(tier.total), complete: tier.incomplete.length === 0 && tier.impossible === null, lines: tier.lines.map((line) => ({ ...line, quantity: text(line.quantity), price: text(line.price), amount: text(line.amount) })) })) };
}
