import type { ConsumedCapacity, DynamoDBClient, TableDescription } from '@aws-sdk/client-dynamodb';
import type { Capacity } from '../model/capacity-share.ts';
import type { KeyAttribute } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName, isThrottled } from './aws-failure.ts';

/** Time, handed in so that tests need no sleeping. `nowMs` never goes back. */
export interface Clock {
  nowMs(): number;
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

export const CLOCK: Clock = {
  nowMs: () => performance.now(),
  async sleep(ms, signal) {
    const { setTimeout } = await import('node:timers/promises');
    await setTimeout(ms, undefined, { signal }).catch((error: unknown) => {
      signal.throwIfAborted();
      throw error;
    });
  },
};

/** What everybody here needs to know of a table. */
export interface TableFacts {
  readonly name: string;
  readonly arn: string;
  readonly id: string | null;
  readonly status: string;
  readonly key: readonly KeyAttribute[];
  readonly mode: 'provisioned' | 'on-demand';
  readonly read: Capacity;
  readonly write: Capacity;
  /** Indexes with a capacity of their own, which writing to the table uses as well. */
  readonly indexes: readonly { readonly name: string; readonly write: Capacity }[];
  /** Hours old, so only ever a first guess; null: the service knows of no item. */
  readonly bytesPerItem: number | null;
  readonly description: TableDescription;
}

/** @returns undefined when there is no such table. */
export async function findTable(client: DynamoDBClient, table: string, signal?: AbortSignal): Promise<TableFacts | undefined> {
  const { DescribeTableCommand } = await import('@aws-sdk/client-dynamodb');
  try {
    const { Table } = await client.send(new DescribeTableCommand({ TableName: table }), { abortSignal: signal });
    if (Table === undefined) throw new HoldfastError('dynamodb-answer', `${table} was described without its description`, { retryable: true });
    return factsOf(table, Table);
  } catch (error) {
    signal?.throwIfAborted();
    if (errorName(error) === 'ResourceNotFoundException') return undefined;
    throw awsFailure('dynamodb-table', 'dynamodb:DescribeTable', table, error);
  }
}

/** @throws HoldfastError `dynamodb-table-missing`. */
export async function describeTable(client: DynamoDBClient, table: string, signal?: AbortSignal): Promise<TableFacts> {
  const found = await findTable(client, table, signal);
  if (found === undefined) throw new HoldfastError('dynamodb-table-missing', `there is no table ${table} here`, { next: 'correct its name, or the region and endpoint it is looked for in' });
  return found;
}

function factsOf(name: string, description: TableDescription): TableFacts {
  const mode = (description.BillingModeSummary?.BillingMode ?? 'PROVISIONED') === 'PAY_PER_REQUEST' ? 'on-demand' : 'provisioned';
  const { ProvisionedThroughput: provisioned, OnDemandThroughput: demand, WarmThroughput: warm } = description;
  return {
    name,
    arn: description.TableArn ?? '',
    id: description.TableId ?? null,
    status: description.TableStatus ?? 'unknown',
    key: keyAttributes(description.KeySchema),
    mode,
    read: { mode, provisioned: provisioned?.ReadCapacityUnits ?? null, maximum: demand?.MaxReadRequestUnits ?? null, warm: warm?.ReadUnitsPerSecond ?? null },
    write: { mode, provisioned: provisioned?.WriteCapacityUnits ?? null, maximum: demand?.MaxWriteRequestUnits ?? null, warm: warm?.WriteUnitsPerSecond ?? null },
    indexes: (description.GlobalSecondaryIndexes ?? []).map((index) => ({
      name: index.IndexName ?? '',
      write: { mode, provisioned: index.ProvisionedThroughput?.WriteCapacityUnits ?? null, maximum: index.OnDemandThroughput?.MaxWriteRequestUnits ?? null, warm: index.WarmThroughput?.WriteUnitsPerSecond ?? null },
    })),
    bytesPerItem: (description.ItemCount ?? 0) > 0 ? (description.TableSizeBytes ?? 0) / description.ItemCount! : null,
    description,
  };
}

export function keyAttributes(schema: TableDescription['KeySchema']): KeyAttribute[] {
  return (schema ?? []).map(({ AttributeName, KeyType }): KeyAttribute => ({ name: AttributeName ?? '', kind: KeyType === 'RANGE' ? 'RANGE' : 'HASH' })).sort((a, b) => (a.kind === b.kind ? 0 : a.kind === 'HASH' ? -1 : 1));
}

/** Units of a table, and of its indexes by name, that answers say were consumed. */
export interface Consumed {
  readonly table: number;
  readonly indexes: ReadonlyMap<string, number>;
}

export function consumedOf(reported: readonly ConsumedCapacity[]): Consumed {
  let table = 0;
  const indexes = new Map<string, number>();
  for (const one of reported) {
    // With INDEXES the total is that of all; the table's own stands beside it.
    table += one.Table?.CapacityUnits ?? one.CapacityUnits ?? 0;
    // A local index has no capacity of its own: what it takes is the table's, and is said beside it.
    if (one.Table !== undefined) for (const { CapacityUnits } of Object.values(one.LocalSecondaryIndexes ?? {})) table += CapacityUnits ?? 0;
    for (const [name, { CapacityUnits }] of Object.entries(one.GlobalSecondaryIndexes ?? {})) indexes.set(name, (indexes.get(name) ?? 0) + (CapacityUnits ?? 0));
  }
  return { table, indexes };
}

/** A fault that the same call may get over: too much asked, no answer, a damaged answer, a fault of the service. */
export function isPassing(error: unknown): boolean {
  if (error instanceof HoldfastError) return error.retryable;
  const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
  // 200 with an error: an answer that was cut or damaged on its way.
  return isThrottled(error) || status === undefined || status < 300 || status >= 500;
}

export interface RetryOptions {
  readonly signal: AbortSignal;
  readonly clock?: Clock;
  /** So long may one call fail in a passing way; after it the whole run fails, and is retried as a run. */
  readonly withinMs?: number;
  readonly onRetry?: (error: unknown) => void;
  /** Of that time, what the call waited for its turn here, unsent: it does not count. */
  readonly waitedMs?: () => number;
  /** Which faults the same call may get over; default: `isPassing`. */
  readonly passing?: (error: unknown) => boolean;
}

export const RETRY_WITHIN_MS = 5 * 60_000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 10_000;

/** The same call until it is answered. Pauses double, with jitter so that segments that were throttled together do not come back together. */
export async function retried<T>(action: string, on: string, run: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { signal, clock = CLOCK, withinMs = RETRY_WITHIN_MS, waitedMs = () => 0, passing = isPassing } = options;
  const startedMs = clock.nowMs();
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(LONGEST_PAUSE_MS, pauseMs * 2)) {
    signal.throwIfAborted();
    try {
      return await run();
    } catch (error) {
      signal.throwIfAborted();
      if (!passing(error) || clock.nowMs() - startedMs - waitedMs() >= withinMs) throw awsFailure('dynamodb-call', action, on, error);
      options.onRetry?.(error);
      await clock.sleep(pauseMs / 2 + (Math.random() * pauseMs) / 2, signal);
    }
  }
}
