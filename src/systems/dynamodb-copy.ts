import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { missingSegments, withSegment, type CopyState } from '../model/dynamodb-copy.ts';
import { retried, type TableFacts } from './dynamodb.ts';
import { scanSegment } from './dynamodb-scan.ts';
import type { Throttle } from './dynamodb-throttle.ts';
import { createWriter } from './dynamodb-write.ts';

export interface CopyOptions {
  readonly source: { readonly items: DynamoDBClient; readonly table: string; readonly throttle: Throttle };
  readonly target: { readonly items: DynamoDBClient; readonly facts: TableFacts; readonly throttle: Throttle };
  readonly state: CopyState;
  readonly parallel: number;
  /** Needed when the table is written to: a stale read may be older than the position in the stream. */
  readonly consistentRead: boolean;
  readonly signal: AbortSignal;
  /** Everything in it is written. */
  readonly onState: (state: CopyState, underWay: number) => void;
}

/**
 * Every segment that is not done: read, written, then counted as done. A segment that was cut off is read again from its start, so that no
 * key of a customer has to be kept in the execution's history; writing an item again gives the same item.
 * @returns the state with all segments done. Nothing is written once this has returned or thrown.
 */
export async function copyTable(options: CopyOptions): Promise<CopyState> {
  const { source, target, parallel, consistentRead } = options;
  let { state } = options;
  // Neighbouring segments lie on one partition, here and, in a copy, there: spread, so that none is the only one written to.
  const left = missingSegments(state).sort((a, b) => spread(a) - spread(b));
  const failed = new AbortController();
  const signal = AbortSignal.any([options.signal, failed.signal]);
  let underWay = 0;

  async function copySegment(segment: number): Promise<void> {
    const writer = createWriter({ items: target.items, table: target.facts.name, key: target.facts.key, throttle: target.throttle, signal });
    let items = 0;
    try {
      for await (const page of scanSegment({ items: source.items, table: source.table, segment, segments: state.segments, consistentRead, after: null, throttle: source.throttle, signal })) {
        for (const item of page.items) await writer.put(item);
        items += page.items.length;
        underWay += page.items.length;
        options.onState(state, underWay);
      }
    } finally {
      await writer.end();
    }
    underWay -= items;
    state = withSegment(state, segment, items);
    options.onState(state, underWay);
  }

  async function lane(): Promise<void> {
    for (let segment = left.shift(); segment !== undefined; segment = left.shift()) {
      signal.throwIfAborted();
      state = { ...state, begun: [...state.begun, segment] };
      await copySegment(segment);
    }
  }

  const lanes = Array.from({ length: Math.min(parallel, left.length) }, () =>
    lane().catch((error: unknown) => {
      failed.abort(error);
      throw error;
    }),
  );
  const ended = await Promise.allSettled(lanes);
  options.signal.throwIfAborted();
  if (failed.signal.aborted) throw failed.signal.reason;
  for (const one of ended) if (one.status === 'rejected') throw one.reason;
  return state;
}

function spread(segment: number): number {
  return Math.imul(segment, 0x9e3779b1) >>> 0;
}

/** Consistently, and without a share: it ends at the first item. */
export async function isEmpty(items: DynamoDBClient, table: string, signal: AbortSignal): Promise<boolean> {
  const { ScanCommand } = await import('@aws-sdk/client-dynamodb');
  for (let after: unknown; ; ) {
    const page = await retried('dynamodb:Scan', table, () => items.send(new ScanCommand({ TableName: table, Limit: 1, ConsistentRead: true, ...(after === undefined ? {} : { ExclusiveStartKey: after as never }) }), { abortSignal: signal }), { signal });
    if ((page.Items ?? []).length > 0) return false;
    after = page.LastEvaluatedKey;
    if (after === undefined) return true;
  }
}
