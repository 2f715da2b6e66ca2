import type { Client } from 'pg';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { messageOf } from '../model/errors.ts';
import type { Context } from './context.ts';
import { readEndpoint, type Endpoint } from './endpoint.ts';
import { connectPostgres, quoteIdentifier } from './postgres.ts';
import { nodeByAddress, withNode } from './postgres-node.ts';
import { FENCE_TAGS, lookAtInstance } from './rds.ts';

/** Acknowledged sequence numbers as closed ranges: bounded whatever the run's length. */
export type Ranges = readonly (readonly [number, number])[];

const MAX_RANGES = 500;
/** How long a failing application waits before it asks for its endpoint again. */
const RECONNECT_MS = 20;
/** The same, where asking costs a call of the RDS API. */
const KEPT_OUT_MS = 250;
const UNDEFINED_TABLE = new Set(['42P01', '3F000']);
const KEEP_DAYS = 30;

/** State that outlives a lost worker: it travels in heartbeats. */
export interface CanaryState {
  readonly ranges: Ranges;
  readonly nextSequence: number;
  readonly acknowledged: number;
  /** Epoch milliseconds, worker clock; null: none yet. */
  readonly lastOnOldMs: number | null;
  readonly firstOnNewMs: number | null;
  readonly refusedSinceMs: number | null;
  /** Longest time between two acknowledged writes. */
  readonly longestGapMs: number;
  readonly lastAcknowledgedMs: number | null;
  /** Writes sent whose answer never came: neither acknowledged nor lost. */
  readonly unanswered: number;
  readonly lastError: string | null;
}

export const EMPTY_CANARY: CanaryState = {
  ranges: [], nextSequence: 1, acknowledged: 0, lastOnOldMs: null, firstOnNewMs: null, refusedSinceMs: null, longestGapMs: 0, lastAcknowledgedMs: null, unanswered: 0, lastError: null,
};

export interface CanaryOptions {
  readonly execution: string;
  readonly datastore: PostgresDatastore;
  readonly secretId: string;
  readonly secretRegion?: string | undefined;
  /** Node that holds the primary role when it starts; null when none does (forced). */
  readonly oldPrimary: string | null;
  readonly intervalMs: number;
  readonly settleMs: number;
  readonly maximumMs: number;
  readonly signal: AbortSignal;
  readonly nowMs: () => number;
  readonly onState: (state: CanaryState) => void;
  readonly start: CanaryState;
}

/**
 * Writes as the application would: its secret, its endpoint, one row at a time, each acknowledged or not. Ends after
 * `settleMs` of good writes on another node than `oldPrimary`, on cancellation, or after `maximumMs`.
 */
export async function runCanary(context: Context, options: CanaryOptions): Promise<CanaryState> {
  let state: CanaryState = options.start;
  let client: Client | null = null;
  let node: string | null = null;
  const began = options.nowMs();
  const put = (change: Partial<CanaryState>): void => {
    state = { ...state, ...change };
    options.onState(state);
  };

  try {
    while (!options.signal.aborted && options.nowMs() - began < options.maximumMs) {
      if (client === null) {
        try {
          const endpoint = await readEndpoint(context, options.secretId, options.secretRegion);
          node = nodeByAddress(options.datastore, endpoint.host, endpoint.port);
          if (node !== null && node === options.oldPrimary && (await keptOut(context, options.datastore, node))) {
            put({ lastError: `${node} is behind its fencing groups, which let applications in no more`, refusedSinceMs: state.refusedSinceMs ?? options.nowMs() });
            await sleepUnlessAborted(KEPT_OUT_MS, options.signal);
            continue;
          }
          client = await connect(options.datastore, endpoint);
        } catch (error) {
          put({ lastError: messageOf(error).split('\n')[0]!, refusedSinceMs: state.refusedSinceMs ?? options.nowMs() });
          await sleepUnlessAborted(RECONNECT_MS, options.signal);
          continue;
        }
      }
      const sequence = state.nextSequence;
      put({ nextSequence: sequence + 1 });
      try {
        await client.query('insert into holdfast.canary (execution, seq) values ($1, $2)', [options.execution, sequence]);
      } catch (error) {
        const code = (error as { code?: string }).code;
        // An error of the server (a SQLSTATE) is a refusal; a lost connection leaves it open whether the row is there.
        put({ lastError: messageOf(error), refusedSinceMs: state.refusedSinceMs ?? options.nowMs(), ...(code !== undefined && /^[0-9A-Z]{5}$/.test(code) ? {} : { unanswered: state.unanswered + 1 }) });
        await client.end().catch(() => {});
        client = null;
        if (code !== undefined && UNDEFINED_TABLE.has(code) && node !== null) {
          await ensureCanaryTable(context, options.datastore, node, options.secretId, options.secretRegion).catch((why: unknown) => put({ lastError: `the canary's table could not be made: ${messageOf(why)}` }));
        }
        await sleepUnlessAborted(RECONNECT_MS, options.signal);
        continue;
      }
      const now = options.nowMs();
      const onOld = options.oldPrimary !== null && node === options.oldPrimary;
      put({
        ranges: addToRanges(state.ranges, sequence),
        acknowledged: state.acknowledged + 1,
        refusedSinceMs: null,
        longestGapMs: Math.max(state.longestGapMs, state.lastAcknowledgedMs === null ? 0 : now - state.lastAcknowledgedMs),
        lastAcknowledgedMs: now,
        ...(onOld ? { lastOnOldMs: now } : { firstOnNewMs: state.firstOnNewMs ?? now }),
      });
      if (state.firstOnNewMs !== null && now - state.firstOnNewMs >= options.settleMs) break;
      await sleepUnlessAborted(options.intervalMs, options.signal);
    }
  } finally {
    await client?.end().catch(() => {});
  }
  return state;
}

/**
 * The canary stands for an application, but runs where the workers are, which the fencing groups of a managed instance let in. So it
 * asks whether the instance is fenced, and does not try when it is, or when nobody says.
 */
async function keptOut(context: Context, datastore: PostgresDatastore, node: string): Promise<boolean> {
  if (datastore.managed?.type !== 'rds') return false;
  const { instance, saw } = await lookAtInstance(context, datastore, node);
  return !saw.answers || instance?.tags.has(FENCE_TAGS.epoch) === true;
}

function connect(datastore: PostgresDatastore, endpoint: Endpoint): Promise<Client> {
  return connectPostgres(
    { ...endpoint, sslmode: datastore.admin.sslmode, sslrootcert: datastore.admin.sslrootcert },
    { applicationName: 'holdfast-canary', connectTimeoutMs: 1000, queryTimeoutMs: 3000 },
  );
}

/** The table the canary writes to, writable for the application's role. Idempotent; also drops old rows. */
export async function ensureCanaryTable(context: Context, datastore: PostgresDatastore, node: string, secretId: string, region?: string): Promise<void> {
  const endpoint = await readEndpoint(context, secretId, region);
  const role = quoteIdentifier(endpoint.user);
  await withNode(
    context,
    datastore,
    node,
    async (client) => {
      await client.query('select pg_advisory_lock(7206542)');
      await client.query('create schema if not exists holdfast');
      await client.query('create table if not exists holdfast.canary (execution text not null, seq bigint not null, at timestamptz not null default clock_timestamp(), primary key (execution, seq))');
      await client.query(`grant usage on schema holdfast to ${role}`);
      await client.query(`grant insert, select on holdfast.canary to ${role}`);
      await client.query(`delete from holdfast.canary where at < now() - interval '${KEEP_DAYS} days'`);
      await client.query('select pg_advisory_unlock(7206542)');
    },
    { database: endpoint.database },
  );
}

/** How many canary rows of this execution are there, by range. */
export async function countCanaryRows(client: Client, execution: string, ranges: Ranges): Promise<number> {
  const lows = ranges.map(([low]) => low);
  const highs = ranges.map(([, high]) => high);
  const row = (
    await client.query(
      `select count(*)::bigint as found from unnest($2::bigint[], $3::bigint[]) as r(low, high)
       join holdfast.canary c on c.execution = $1 and c.seq between r.low and r.high`,
      [execution, lows, highs],
    )
  ).rows[0] as { found: string };
  return Number(row.found);
}

export function addToRanges(ranges: Ranges, sequence: number): Ranges {
  const last = ranges.at(-1);
  if (last !== undefined && last[1] + 1 === sequence) return [...ranges.slice(0, -1), [last[0], sequence]];
  // Never reached but by an endless storm of refusals; then the oldest ranges are given up and the count says so.
  return [...(ranges.length >= MAX_RANGES ? ranges.slice(1) : ranges), [sequence, sequence]];
}

export function countOfRanges(ranges: Ranges): number {
  return ranges.reduce((sum, [low, high]) => sum + high - low + 1, 0);
}

function sleepUnlessAborted(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve();
      return;
    }
    const timer = setTimeout(finish, ms);
    function finish(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', finish);
      resolve();
    }
    signal.addEventListener('abort', finish, { once: true });
  });
}
