import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { LEAST_PAGE_UNITS, pageLimit } from '../model/capacity-share.ts';
import type { Item } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import { consumedOf } from './dynamodb.ts';
import type { Throttle } from './dynamodb-throttle.ts';

export interface ScanOptions {
  /** Of `AwsClients.dynamoItems`. */
  readonly items: DynamoDBClient;
  readonly table: string;
  readonly segment: number;
  readonly segments: number;
  readonly consistentRead: boolean;
  /** Go on after this key; null: from the start. */
  readonly after: Item | null;
  readonly throttle: Throttle;
  /** At most so many items a page; left out: by what they cost. */
  readonly pageItems?: number | undefined;
  readonly signal: AbortSignal;
}

export interface ScanPage {
  readonly segment: number;
  /** May be empty, also when more follow. */
  readonly items: readonly Item[];
  readonly consumedUnits: number;
  /** Where to go on; null: the segment is finished. */
  readonly lastKey: Item | null;
}

/** A page ends at 1 MB, which costs as much; twice that when read consistently. */
const PAGE_UNITS = 128;

/**
 * One segment of a parallel scan, page by page. Pages come in the order of the table's own hash of the key, which does not change, so
 * that whoever goes on `after` the key of the last page sees every item that was there all the time exactly once.
 */
export async function* scanSegment(options: ScanOptions): AsyncGenerator<ScanPage> {
  const { ScanCommand } = await import('@aws-sdk/client-dynamodb');
  const { items: client, table, segment, segments, consistentRead, throttle, signal } = options;
  const factor = consistentRead ? 2 : 1;
  let perItem = throttle.facts.bytesPerItem === null ? 1 : (Math.max(throttle.facts.bytesPerItem, 1) / 8192) * factor;
  let after = options.after;
  for (;;) {
    const limit = Math.min(options.pageItems ?? Infinity, pageLimit(throttle.unitsPerSecond, perItem, LEAST_PAGE_UNITS * factor));
    const expected = Math.min(PAGE_UNITS * factor, Math.max(0.5 * factor, limit * perItem));
    const page = await throttle.call('dynamodb:Scan', expected, async () => {
      const found = await client.send(
        new ScanCommand({
          TableName: table, Segment: segment, TotalSegments: segments, ConsistentRead: consistentRead, Limit: limit, ReturnConsumedCapacity: 'TOTAL',
          ...(after === null ? {} : { ExclusiveStartKey: after as never }),
        }),
        { abortSignal: signal },
      );
      // A filter would make the two differ; there is none.
      if (!Array.isArray(found.Items) || found.Items.length !== found.Count) {
        throw new HoldfastError('dynamodb-answer', `a page of ${table} came with ${found.Items?.length ?? 'no'} items, its count says ${found.Count}`, { retryable: true, next: 'look at what stands between the worker and the service' });
      }
      const consumed = consumedOf(found.ConsumedCapacity === undefined ? [] : [found.ConsumedCapacity]);
      return { answer: { items: found.Items as unknown as readonly Item[], consumed: consumed.table, lastKey: (found.LastEvaluatedKey ?? null) as Item | null }, consumed };
    });
    if (page.items.length > 0 && page.consumed > 0) perItem = page.consumed / page.items.length;
    after = page.lastKey;
    yield { segment, items: page.items, consumedUnits: page.consumed, lastKey: page.lastKey };
    if (after === null) return;
  }
}
