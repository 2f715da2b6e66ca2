/**
 * How much of a table's capacity somebody may use: a token bucket over the capacity units that the service REPORTS as consumed. Pure: the
 * clock is handed in, in milliseconds, and must never go back.
 *
 * A call is let in for what it is expected to cost and settled for what it did cost. So the units used until any moment are at most
 * `rate x time + burst + what the calls under way cost more than was expected of them`, however many calls are under way at once.
 */
export interface CapacityShare {
  /** Books `units` for a call. @returns how long the call has to wait, in milliseconds. */
  reserve(units: number, nowMs: number): number;
  /** The call that was booked with `reserved` units has cost `consumed`. */
  settle(reserved: number, consumed: number, nowMs: number): void;
  /** Autoscaling and people change a table's capacity while it is read. */
  setRate(unitsPerSecond: number, nowMs: number): void;
  readonly unitsPerSecond: number;
  /** Settled so far. */
  readonly consumedUnits: number;
}

/** A second's worth may be used at once: what was not used a moment ago, and enough for a page of a small table. */
const BURST_SECONDS = 1;

export function createCapacityShare(unitsPerSecond: number, nowMs: number): CapacityShare {
  let rate = checked(unitsPerSecond);
  let balance = rate * BURST_SECONDS;
  let atMs = nowMs;
  let consumed = 0;
  function advance(nowMs: number): void {
    if (nowMs > atMs) {
      balance = Math.min(rate * BURST_SECONDS, balance + (rate * (nowMs - atMs)) / 1000);
      atMs = nowMs;
    }
  }
  return {
    reserve(units, nowMs) {
      advance(nowMs);
      balance -= units;
      return balance >= 0 ? 0 : Math.ceil((-balance / rate) * 1000);
    },
    settle(reserved, used, nowMs) {
      advance(nowMs);
      balance = Math.min(rate * BURST_SECONDS, balance + reserved - used);
      consumed += used;
    },
    setRate(unitsPerSecond, nowMs) {
      advance(nowMs);
      rate = checked(unitsPerSecond);
      balance = Math.min(balance, rate * BURST_SECONDS);
    },
    get unitsPerSecond() {
      return rate;
    },
    get consumedUnits() {
      return consumed;
    },
  };
}

function checked(rate: number): number {
  if (!(rate > 0) || !Number.isFinite(rate)) throw new RangeError(`a rate of ${rate} units a second`);
  return rate;
}

/** What an on-demand table takes from its first moment. Source: DynamoDB developer guide, "On-demand capacity mode". */
export const ON_DEMAND_READ_UNITS = 12_000;
export const ON_DEMAND_WRITE_UNITS = 4000;

/** Of a table or an index: null or 0 where it has none of its own. */
export interface Capacity {
  readonly mode: 'provisioned' | 'on-demand';
  readonly provisioned: number | null;
  /** The limit that was put on an on-demand table; -1 and null: none. */
  readonly maximum: number | null;
  /** What the service is warmed up for, where it says so. */
  readonly warm: number | null;
}

/** Units a second that `share` of it are, and where the figure comes from. `configured` is for on-demand tables only. */
export function shareOf(capacity: Capacity, share: number, unit: 'read' | 'write', configured?: number): { readonly unitsPerSecond: number; readonly of: number; readonly source: string } {
  const [of, source] = base(capacity, unit, configured);
  return { unitsPerSecond: of * share, of, source };
}

function base({ mode, provisioned, maximum, warm }: Capacity, unit: 'read' | 'write', configured: number | undefined): [number, string] {
  if (mode === 'provisioned' && provisioned !== null && provisioned > 0) return [provisioned, 'provisioned capacity'];
  if (configured !== undefined) return [configured, 'configured'];
  if (maximum !== null && maximum > 0) return [maximum, 'on-demand maximum'];
  if (warm !== null && warm > 0) return [warm, 'warm throughput'];
  return unit === 'read' ? [ON_DEMAND_READ_UNITS, 'default of on-demand tables'] : [ON_DEMAND_WRITE_UNITS, 'default of on-demand tables'];
}

/**
 * How many items a page may have so that it costs no more than about a quarter of a second's units: a full page of 1 MB costs 128 units
 * at once, which a table of 5 units a second would feel for half a minute. But never so few that it costs less than `leastUnits`: what a page
 * costs is rounded up to half a unit, so that pages of a small item each would cost sixteen times what it is worth, and tell no other size of it.
 */
export function pageLimit(unitsPerSecond: number, unitsPerItem: number, leastUnits = LEAST_PAGE_UNITS): number {
  return Math.max(1, Math.min(100_000, Math.floor(Math.max(unitsPerSecond / 4, leastUnits) / Math.max(unitsPerItem, 1 / 4096))));
}

/** 16 KB read eventually consistently: of what is rounded up at most a quarter. */
export const LEAST_PAGE_UNITS = 2;
