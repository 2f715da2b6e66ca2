import type { DynamoDBClient, WriteRequest } from '@aws-sdk/client-dynamodb';
import { itemBytes, keyOf, keyText, MAXIMUM_BATCH_BYTES, MAXIMUM_BATCH_ITEMS, MAXIMUM_ITEM_BYTES, canonicalText, type Item, type KeyAttribute } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import { errorName } from './aws-failure.ts';
import { CLOCK, consumedOf, RETRY_WITHIN_MS, type Clock } from './dynamodb.ts';
import type { Throttle } from './dynamodb-throttle.ts';

export interface WriteOptions {
  /** Of `AwsClients.dynamoItems`. */
  readonly items: DynamoDBClient;
  readonly table: string;
  readonly key: readonly KeyAttribute[];
  readonly throttle: Throttle;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

export interface Writer {
  /** Waits while enough batches are under way. A later item of the same key is written after the earlier one. */
  put(item: Item): Promise<void>;
  delete(key: Item): Promise<void>;
  /** All that was put is written when it returns. Nothing is under way any more when it returns or throws. @returns how many writes that were. */
  end(): Promise<number>;
}

/** Batches under way at once. Each holds at most 16 MB. */
const BATCHES = 4;
/** As the service counts items. On the wire they are up to four times that, and a request must stay below its limit there as well. */
const BATCH_BYTES = MAXIMUM_BATCH_BYTES / 4;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 5000;

type Request = { readonly PutRequest: { readonly Item: Item } } | { readonly DeleteRequest: { readonly Key: Item } };

interface Pending {
  readonly id: string;
  readonly request: Request;
  readonly units: number;
}

/**
 * Whole items, written until none is left unprocessed. Writing one again gives the same item, so that whoever starts over loses and
 * doubles nothing. @throws HoldfastError that names the key of an item the service will not take.
 */
export function createWriter(options: WriteOptions): Writer {
  const { items: client, table, key, throttle, signal, clock = CLOCK } = options;
  let batch = new Map<string, Pending>();
  let batchBytes = 0;
  let batchUnits = 0;
  let written = 0;
  let failure: { readonly error: unknown } | undefined;
  /** Keys of batches under way: two writes of one key must not overtake each other. */
  const busy = new Set<string>();
  const running = new Set<Promise<void>>();
  /** Ends what waits to be sent, or sent again, once one batch has failed: it would arrive after whatever comes next. What is sent is waited for. */
  const failed = new AbortController();
  const stop = AbortSignal.any([signal, failed.signal]);

  /** Several may put at the same time: whatever happened while one waited is looked at again. */
  async function add(pending: Pending, bytes: number): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (failure !== undefined) throw failure.error;
      const full = batch.size >= MAXIMUM_BATCH_ITEMS || batchBytes + bytes > BATCH_BYTES || (batch.size > 0 && batchUnits + pending.units > throttle.unitsPerWrite) || batch.has(pending.id);
      if ((full && running.size >= BATCHES) || busy.has(pending.id)) {
        await Promise.race(running);
        continue;
      }
      if (full) send();
      if (busy.has(pending.id)) continue;
      batch.set(pending.id, pending);
      batchBytes += bytes;
      batchUnits += pending.units;
      return;
    }
  }

  function send(): void {
    if (batch.size === 0) return;
    const sending = [...batch.values()];
    batch = new Map();
    batchBytes = 0;
    batchUnits = 0;
    for (const { id } of sending) busy.add(id);
    const run: Promise<void> = writeAll(sending)
      .catch((error: unknown) => {
        failure ??= { error };
        failed.abort(failure.error);
      })
      .finally(() => {
        running.delete(run);
        for (const { id } of sending) busy.delete(id);
      });
    running.add(run);
  }

  async function writeAll(sending: readonly Pending[]): Promise<void> {
    const { BatchWriteItemCommand } = await import('@aws-sdk/client-dynamodb');
    let left = sending;
    /** Since the last item was taken, without what we waited for our share. */
    let stuckMs = 0;
    let pauseMs = FIRST_PAUSE_MS;
    while (left.length > 0) {
      stop.throwIfAborted();
      const asked = left;
      let sentMs = clock.nowMs();
      try {
        left = await throttle.call('dynamodb:BatchWriteItem', asked.reduce((sum, one) => sum + one.units, 0), async () => {
          sentMs = clock.nowMs();
          const answer = await client.send(
            new BatchWriteItemCommand({ RequestItems: { [table]: asked.map(({ request }) => request) as unknown as WriteRequest[] }, ReturnConsumedCapacity: 'INDEXES' }),
            { abortSignal: signal },
          );
          const unprocessed = new Set(((answer.UnprocessedItems?.[table] ?? []) as unknown as Request[]).map((request) => idOf(subjectOf(request))));
          return { answer: asked.filter(({ id }) => unprocessed.has(id)), consumed: consumedOf(answer.ConsumedCapacity ?? []) };
        }, stop);
      } catch (error) {
        stop.throwIfAborted();
        if (!isOfOneItem(error)) throw error;
        if (asked.length === 1) throw refusedItem(error, asked[0]!);
        // The whole batch is refused for one item: alone, the one that is meant shows itself.
        for (const one of asked) await writeAll([one]);
        return;
      }
      written += asked.length - left.length;
      if (left.length === 0) return;
      stuckMs += clock.nowMs() - sentMs;
      if (left.length < asked.length) {
        stuckMs = 0;
        pauseMs = FIRST_PAUSE_MS;
      } else if (stuckMs >= RETRY_WITHIN_MS) {
        throw new HoldfastError('dynamodb-unprocessed', `${table} has left ${left.length} items unprocessed for ${Math.round(RETRY_WITHIN_MS / 1000)} s, the first with ${keyText(subjectOf(left[0]!.request), key)}`, { retryable: true, next: 'lower the write share, or give the table more write capacity' });
      }
      const pausedMs = clock.nowMs();
      await clock.sleep(pauseMs / 2 + (Math.random() * pauseMs) / 2, stop);
      stuckMs += clock.nowMs() - pausedMs;
      pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }

  function idOf(item: Item): string {
    return canonicalText(keyOf(item, key));
  }

  function refusedItem(error: unknown, { request }: Pending): HoldfastError {
    const item = subjectOf(request);
    const cause = error instanceof HoldfastError ? error.cause : error;
    const full = errorName(cause) === 'ItemCollectionSizeLimitExceededException';
    return new HoldfastError('dynamodb-item-refused', `${table} does not take the item ${keyText(item, key)}: ${(cause as Error).name}: ${(cause as Error).message}`, {
      next: full ? 'items of one partition key may hold 10 GB together with their local indexes: restore into a table without local secondary indexes, or spread the partition' : 'compare the keys and indexes of the table with those of the source',
      cause: error,
    });
  }

  return {
    async put(item) {
      const bytes = itemBytes(item);
      if (bytes > MAXIMUM_ITEM_BYTES) throw new HoldfastError('dynamodb-item-too-large', `the item ${keyText(item, key)} has ${bytes} bytes; ${table} takes ${MAXIMUM_ITEM_BYTES} at most`, { next: 'the export is not of DynamoDB, or was changed' });
      let id: string;
      try {
        id = idOf(item);
      } catch (error) {
        throw new HoldfastError('dynamodb-item-key', `an item has no key for ${table}: ${keyText(item, key)}`, { next: 'the items are of a table with another key', cause: error });
      }
      await add({ id, request: { PutRequest: { Item: item } }, units: Math.ceil(bytes / 1024) }, bytes);
    },
    async delete(of) {
      await add({ id: idOf(of), request: { DeleteRequest: { Key: of } }, units: 1 }, itemBytes(of));
    },
    async end() {
      if (failure === undefined) send();
      while (running.size > 0) await Promise.race(running);
      if (failure !== undefined) throw failure.error;
      return written;
    },
  };
}

function subjectOf(request: Request): Item {
  return 'PutRequest' in request ? request.PutRequest.Item : request.DeleteRequest.Key;
}

function isOfOneItem(error: unknown): boolean {
  return ['ValidationException', 'ItemCollectionSizeLimitExceededException'].includes(errorName(error instanceof HoldfastError ? error.cause : error));
}
