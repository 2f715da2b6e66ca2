import type { DynamoDBStreamsClient } from '@aws-sdk/client-dynamodb-streams';
import type { Item } from '../model/dynamodb-item.ts';
import type { ListedShard } from '../model/dynamodb-stream.ts';
import { HoldfastError } from '../model/errors.ts';
import { errorName } from './aws-failure.ts';
import { CLOCK, isPassing, retried, type Clock } from './dynamodb.ts';

/** One change of one item, as it stands on the wire. */
export interface StreamRecord {
  readonly sequence: string;
  readonly key: Item;
  /** What the item became; null: it was deleted. */
  readonly image: Item | null;
  /** When, to the second or coarser, rounded down. */
  readonly atMs: number;
  /** Deleted by time to live, not by a writer. */
  readonly expired: boolean;
}

export interface StreamFacts {
  readonly status: string;
  readonly view: string | undefined;
  readonly shards: readonly ListedShard[];
}

interface Access {
  /** Of `AwsClients.dynamoStreams`. */
  readonly client: DynamoDBStreamsClient;
  readonly stream: string;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

/** Every shard that is kept, over all pages. @throws HoldfastError `stream-gone`. */
export async function describeStream(access: Access): Promise<StreamFacts> {
  const { DescribeStreamCommand } = await import('@aws-sdk/client-dynamodb-streams');
  const { client, stream, signal } = access;
  const shards: ListedShard[] = [];
  let status = 'unknown';
  let view: string | undefined;
  for (let after: string | undefined; ; ) {
    const page = await asked(access, 'dynamodb:DescribeStream', () => client.send(new DescribeStreamCommand({ StreamArn: stream, ...(after === undefined ? {} : { ExclusiveStartShardId: after }) }), { abortSignal: signal }));
    const found = page.StreamDescription;
    if (found === undefined) throw new HoldfastError('stream-answer', `${stream} was described without its description`, { retryable: true });
    status = found.StreamStatus ?? 'unknown';
    view = found.StreamViewType;
    for (const { ShardId, ParentShardId, SequenceNumberRange } of found.Shards ?? []) if (ShardId !== undefined) shards.push({ id: ShardId, parent: ParentShardId, open: SequenceNumberRange?.EndingSequenceNumber === undefined });
    after = found.LastEvaluatedShardId;
    if (after === undefined) return { status, view, shards };
  }
}

export interface ShardPage {
  /** May be empty, also when more follow. */
  readonly records: readonly StreamRecord[];
  /** The shard is closed, and this was its end. */
  readonly ended: boolean;
}

export interface ShardReader {
  next(): Promise<ShardPage>;
}

/** The most that one call may give. Source: DynamoDB API reference, GetRecords. */
const PAGE = 1000;

/** One shard from after a record on; null: from the oldest that is kept. An iterator is good for 15 minutes and for one page, so it stays in here. */
export function readShard(access: Access, shard: string, after: string | null, limit = PAGE): ShardReader {
  const { client, stream, signal } = access;
  let iterator: string | undefined;
  let last = after;

  async function begin(): Promise<string> {
    const { GetShardIteratorCommand } = await import('@aws-sdk/client-dynamodb-streams');
    const place = last === null ? { ShardIteratorType: 'TRIM_HORIZON' as const } : { ShardIteratorType: 'AFTER_SEQUENCE_NUMBER' as const, SequenceNumber: last };
    const answer = await asked(access, 'dynamodb:GetShardIterator', () => client.send(new GetShardIteratorCommand({ StreamArn: stream, ShardId: shard, ...place }), { abortSignal: signal }));
    if (answer.ShardIterator === undefined) throw new HoldfastError('stream-answer', `shard ${shard} of ${stream} gave no iterator`, { retryable: true });
    return answer.ShardIterator;
  }

  return {
    async next() {
      const { GetRecordsCommand } = await import('@aws-sdk/client-dynamodb-streams');
      for (let tries = 0; ; tries += 1) {
        const from = (iterator ??= await begin());
        try {
          const page = await asked(access, 'dynamodb:GetRecords', () => client.send(new GetRecordsCommand({ ShardIterator: from, Limit: limit }), { abortSignal: signal }));
          // Without it an empty answer would look like a quiet shard.
          if (!Array.isArray(page.Records)) throw new HoldfastError('stream-answer', `a page of shard ${shard} of ${stream} came without records`, { retryable: true });
          const records = (page.Records as unknown as readonly WireRecord[]).map((record) => recordOf(record, stream));
          iterator = page.NextShardIterator;
          last = records.at(-1)?.sequence ?? last;
          return { records, ended: iterator === undefined };
        } catch (error) {
          if (errorName(causeOf(error)) !== 'ExpiredIteratorException' || tries > 3) throw error;
          iterator = undefined;
        }
      }
    },
  };
}

interface WireRecord {
  readonly eventName?: string;
  readonly userIdentity?: { readonly type?: string; readonly Type?: string; readonly principalId?: string; readonly PrincipalId?: string };
  readonly dynamodb?: { readonly Keys?: Item; readonly NewImage?: Item; readonly SequenceNumber?: string; readonly ApproximateCreationDateTime?: number };
}

function recordOf(record: WireRecord, stream: string): StreamRecord {
  const { eventName, dynamodb: change, userIdentity: by } = record;
  const { Keys: key, NewImage: image, SequenceNumber: sequence, ApproximateCreationDateTime: at } = change ?? {};
  const removed = eventName === 'REMOVE';
  if (key === undefined || sequence === undefined || (!removed && image === undefined)) {
    throw new HoldfastError('stream-record', `a record (${eventName ?? 'of no name'}) of ${stream} does not say what an item became`, { next: 'the stream needs the view NEW_IMAGE or NEW_AND_OLD_IMAGES; changing it makes a new stream: begin the copy anew' });
  }
  return { sequence, key, image: removed ? null : image!, atMs: (at ?? 0) * 1000, expired: removed && (by?.principalId ?? by?.PrincipalId) === 'dynamodb.amazonaws.com' };
}

function causeOf(error: unknown): unknown {
  return error instanceof HoldfastError ? (error.cause ?? error) : error;
}

/** Streams answer so when they are read too often; elsewhere it is a quota, which no waiting helps. */
function isStreamPassing(error: unknown): boolean {
  return isPassing(error) || errorName(error) === 'LimitExceededException';
}

/** @throws HoldfastError `stream-trimmed`, `stream-gone`: neither is mended by another try. */
async function asked<T>(access: Access, action: string, run: () => Promise<T>): Promise<T> {
  try {
    return await retried(action, access.stream, run, { signal: access.signal, clock: access.clock ?? CLOCK, passing: isStreamPassing });
  } catch (error) {
    const name = errorName(causeOf(error));
    if (name === 'TrimmedDataAccessException') {
      throw new HoldfastError('stream-trimmed', `records of ${access.stream} are gone that were not read: DynamoDB keeps them for 24 hours`, { next: 'begin the copy anew into an empty table: with more of the capacity, or at a quieter time', cause: error });
    }
    if (name === 'ResourceNotFoundException') throw new HoldfastError('stream-gone', `${access.stream} is not there any more`, { next: 'somebody turned the stream off, or deleted the table: begin the copy anew', cause: error });
    throw error;
  }
}
