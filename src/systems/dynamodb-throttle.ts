import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { createCapacityShare, shareOf, type Capacity, type CapacityShare } from '../model/capacity-share.ts';
import { messageOf } from '../model/errors.ts';
import { isThrottled } from './aws-failure.ts';
import { CLOCK, describeTable, retried, type Clock, type Consumed, type TableFacts } from './dynamodb.ts';

export interface ThrottleOptions {
  /** For its settings, which are read again while it works. */
  readonly client: DynamoDBClient;
  readonly table: string;
  readonly unit: 'read' | 'write';
  /** Of the capacity, above 0 and at most 1. */
  readonly share: number;
  /** Units a second of an on-demand table, where the configuration says them. */
  readonly configured?: number | undefined;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
  readonly refreshMs?: number;
  readonly retryWithinMs?: number;
  readonly onNote?: (note: string) => void;
}

/** What the share was and what was used of it, for the manifest, the evidence and the bench. */
export interface ShareKept {
  readonly share: number;
  /** Of the table, units a second when it was last looked at, and where that comes from. */
  readonly capacity: number;
  readonly source: string;
  readonly consumedUnits: number;
  readonly seconds: number;
  /** consumedUnits / (capacity x seconds). */
  readonly used: number;
  readonly throttled: number;
  readonly retries: number;
}

export interface Throttle {
  readonly facts: TableFacts;
  /** Of our share. */
  readonly unitsPerSecond: number;
  /** What one write may cost: a quarter of a second of the table's share, or of an index's where that is used up first. */
  readonly unitsPerWrite: number;
  /**
   * One call, again and again until it is answered, each try within the share. A try that was refused for throttling costs nothing; one
   * that got no answer is counted with what was expected of it, since the service may have done it. `stop`, given instead of the
   * throttle's own signal, ends waiting and trying again, not the try under way.
   */
  call<T>(action: string, expectedUnits: number, run: () => Promise<{ readonly answer: T; readonly consumed: Consumed }>, stop?: AbortSignal): Promise<T>;
  kept(): ShareKept;
}

const REFRESH_MS = 60_000;

export async function createThrottle(options: ThrottleOptions): Promise<Throttle> {
  const { client, table, unit, share, signal, clock = CLOCK, refreshMs = REFRESH_MS } = options;
  let facts = await describeTable(client, table, signal);
  const startedMs = clock.nowMs();
  let readMs = startedMs;
  const rateOf = (capacity: Capacity): ReturnType<typeof shareOf> => shareOf(capacity, share, unit, options.configured);
  let base = rateOf(facts[unit]);
  const main = createCapacityShare(base.unitsPerSecond, startedMs);
  /** Indexes of a provisioned table: writes to the table are refused when one of them is exhausted. `per`: units for each of the table's. */
  const indexes = new Map<string, { readonly share: CapacityShare; per: number }>();
  if (unit === 'write' && facts.mode === 'provisioned') for (const { name, write } of facts.indexes) indexes.set(name, { share: createCapacityShare(rateOf(write).unitsPerSecond, startedMs), per: 1 });
  let throttled = 0;
  let retries = 0;
  let refreshing: Promise<void> | undefined;

  /** A table that cannot be described just now keeps the rate it had; what is wrong with it its calls will say. */
  async function refresh(): Promise<void> {
    try {
      facts = await describeTable(client, table, signal);
      const before = base;
      base = rateOf(facts[unit]);
      main.setRate(base.unitsPerSecond, clock.nowMs());
      for (const { name, write } of facts.indexes) indexes.get(name)?.share.setRate(rateOf(write).unitsPerSecond, clock.nowMs());
      if (before.of !== base.of) options.onNote?.(`${table}: the ${unit} capacity changed from ${before.of} to ${base.of} units a second (${base.source})`);
    } catch (error) {
      signal.throwIfAborted();
      options.onNote?.(`${table}: its capacity could not be read again: ${messageOf(error)}`);
    }
  }

  /** @returns what was booked with each index. */
  async function enter(expected: number, ends: AbortSignal): Promise<readonly number[]> {
    if (clock.nowMs() - readMs >= refreshMs) {
      readMs = clock.nowMs();
      // It throws only when all of it ends, which whoever waits below hears as well.
      refreshing ??= refresh().catch(() => {}).finally(() => {
        refreshing = undefined;
      });
    }
    const booked = [...indexes.values()].map((index) => ({ index, units: expected * index.per }));
    const waits = [main.reserve(expected, clock.nowMs()), ...booked.map(({ index, units }) => index.share.reserve(units, clock.nowMs()))];
    const waitMs = Math.max(...waits);
    const units = booked.map((one) => one.units);
    try {
      if (waitMs > 0) await clock.sleep(waitMs, ends);
    } catch (error) {
      // Given back: others may go on with the same share.
      leave(expected, units, 'nothing');
      throw error;
    }
    return units;
  }

  function leave(expected: number, booked: readonly number[], consumed: Consumed | 'as-expected' | 'nothing'): void {
    const nowMs = clock.nowMs();
    main.settle(expected, consumed === 'nothing' ? 0 : consumed === 'as-expected' ? expected : consumed.table, nowMs);
    let at = 0;
    for (const [name, index] of indexes) {
      const units = booked[at]!;
      at += 1;
      const used = consumed === 'nothing' ? 0 : consumed === 'as-expected' ? units : (consumed.indexes.get(name) ?? 0);
      index.share.settle(units, used, nowMs);
      if (typeof consumed === 'object' && consumed.table > 0) index.per = (index.per + used / consumed.table) / 2;
    }
  }

  return {
    get facts() {
      return facts;
    },
    get unitsPerSecond() {
      return main.unitsPerSecond;
    },
    get unitsPerWrite() {
      return Math.min(main.unitsPerSecond, ...[...indexes.values()].map((index) => index.share.unitsPerSecond / Math.max(index.per, 1))) / 4;
    },
    async call(action, expectedUnits, run, stop) {
      const ends = stop ?? signal;
      let waitedMs = 0;
      return retried(
        action,
        table,
        async () => {
          const askedMs = clock.nowMs();
          const booked = await enter(expectedUnits, ends);
          waitedMs += clock.nowMs() - askedMs;
          try {
            const { answer, consumed } = await run();
            leave(expectedUnits, booked, consumed);
            return answer;
          } catch (error) {
            const refused = isThrottled(error);
            leave(expectedUnits, booked, refused ? 'nothing' : 'as-expected');
            if (refused) throttled += 1;
            throw error;
          }
        },
        {
          signal: ends, clock,
          waitedMs: () => waitedMs,
          ...(options.retryWithinMs === undefined ? {} : { withinMs: options.retryWithinMs }),
          onRetry: () => {
            retries += 1;
          },
        },
      );
    },
    kept() {
      const seconds = (clock.nowMs() - startedMs) / 1000;
      return { share, capacity: base.of, source: base.source, consumedUnits: main.consumedUnits, seconds, used: seconds > 0 ? main.consumedUnits / (base.of * seconds) : 0, throttled, retries };
    },
  };
}
