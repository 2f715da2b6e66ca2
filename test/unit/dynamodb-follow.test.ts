import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DynamoDBStreamsClient } from '@aws-sdk/client-dynamodb-streams';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Item } from '../../src/model/dynamodb-item.ts';
import { beginAt, type StreamPosition } from '../../src/model/dynamodb-stream.ts';
import { followStream, type FollowOptions, type FollowProgress } from '../../src/systems/dynamodb-follow.ts';
import type { Clock } from '../../src/systems/dynamodb.ts';
import { describeStream } from '../../src/systems/dynamodb-stream.ts';
import { onWire } from '../../src/systems/dynamodb-wire.ts';
import { createThrottle } from '../../src/systems/dynamodb-throttle.ts';
import { createWriter, type Writer } from '../../src/systems/dynamodb-write.ts';
import { awsProxy, type AwsProxy, type Verdict } from '../aws-proxy.ts';
import { virtualClock } from '../dynamo.ts';

// DynamoDB Local splits no shard and trims no record. So what the service says is said here in the shapes of its API: shards that split,
// listings in pages and late, empty pages, iterators that expire, records that are gone.

const STREAM = 'arn:aws:dynamodb:eu-central-1:123456789012:table/orders/stream/2026-11-28T00:00:00.000';

interface Shard {
  readonly id: string;
  readonly parent?: string;
  readonly records: { key: string; value: string | null; expired?: boolean; at?: number }[];
  closed: boolean;
  /** Listings that do not show it yet. */
  hidden?: number;
}

let proxy: AwsProxy;
let client: DynamoDBStreamsClient;
let shards: Shard[];
let status: string;
let copy: Map<string, string>;
/** Of every page that was written. */
let pages: number;
/** Records that one answer gives at most. */
let pageRecords: number;
/** When each shard gave an answer, on the follower's clock. */
let readAtMs: [string, number][];
let followerClock: Clock;
const order: string[] = [];

beforeEach(async () => {
  proxy = await awsProxy(null);
  client = onWire(new DynamoDBStreamsClient({ endpoint: proxy.url, region: 'eu-central-1', credentials: { accessKeyId: 'x', secretAccessKey: 'x' }, maxAttempts: 1 }));
  shards = [];
  status = 'ENABLED';
  copy = new Map();
  pages = 0;
  pageRecords = 2;
  readAtMs = [];
  followerClock = virtualClock();
  order.length = 0;
  proxy.rule(({ target, body }) => answer(target.split('.').at(-1)!, JSON.parse(body) as Record<string, string>));
});

afterEach(async () => {
  client.destroy();
  await proxy.close();
});

const json = (body: unknown, code = 200): Verdict => ({ answer: { status: code, headers: { 'content-type': 'application/x-amz-json-1.0' }, body: JSON.stringify(body) } });
const error = (type: string): Verdict => json({ __type: `com.amazonaws.dynamodb.v20120810#${type}`, message: type }, 400);

function sequenceOf(shard: Shard, index: number): string {
  return String(shards.indexOf(shard) * 1000 + index + 1).padStart(21, '0');
}

/** Every third iterator has expired, every second page in a shard is empty although more follow. */
let iterators = 0;
function answer(action: string, input: Record<string, string>): Verdict {
  if (action === 'DescribeStream') {
    const listed = shards.filter((shard) => (shard.hidden ?? 0) <= 0);
    const from = input['ExclusiveStartShardId'] === undefined ? 0 : listed.findIndex(({ id }) => id === input['ExclusiveStartShardId']) + 1;
    const page = listed.slice(from, from + 2);
    const more = from + 2 < listed.length;
    if (!more) for (const shard of shards) shard.hidden = (shard.hidden ?? 0) - 1;
    return json({ StreamDescription: { StreamArn: STREAM, StreamStatus: status, StreamViewType: 'NEW_IMAGE', Shards: page.map((shard) => ({ ShardId: shard.id, ParentShardId: shard.parent, SequenceNumberRange: { StartingSequenceNumber: '1', ...(shard.closed ? { EndingSequenceNumber: '9' } : {}) } })), ...(more ? { LastEvaluatedShardId: page.at(-1)!.id } : {}) } });
  }
  if (action === 'GetShardIterator') {
    const shard = shards.find(({ id }) => id === input['ShardId'])!;
    const at = input['ShardIteratorType'] === 'TRIM_HORIZON' ? 0 : Number(input['SequenceNumber']) - shards.indexOf(shard) * 1000;
    return json({ ShardIterator: `${shard.id}|${at}|0|${(iterators += 1)}` });
  }
  const [id, at, turn, number] = input['ShardIterator']!.split('|') as [string, string, string, string];
  if (Number(number) % 3 === 0 && turn === '0') return error('ExpiredIteratorException');
  const shard = shards.find((one) => one.id === id)!;
  const found = Number(turn) % 2 === 1 ? [] : shard.records.slice(Number(at), Number(at) + Math.min(pageRecords, Number(input['Limit'])));
  const next = Number(at) + found.length;
  readAtMs.push([id, followerClock.nowMs()]);
  order.push(...found.map((_, index) => `${id}:${Number(at) + index}`));
  return json({
    Records: found.map(({ key, value, expired, at: seconds = 1 }, index) => ({
      eventName: value === null ? 'REMOVE' : 'MODIFY', ...(expired === true ? { userIdentity: { type: 'Service', principalId: 'dynamodb.amazonaws.com' } } : {}),
      dynamodb: { ApproximateCreationDateTime: seconds, Keys: { id: { S: key } }, SequenceNumber: sequenceOf(shard, Number(at) + index), ...(value === null ? {} : { NewImage: { id: { S: key }, v: { S: value } } }) },
    })),
    ...(shard.closed && next >= shard.records.length ? {} : { NextShardIterator: `${id}|${next}|${Number(turn) + 1}|${number}` }),
  });
}

const writer = (): Writer => {
  const writes: [string, string | null][] = [];
  const text = (value: Item[string]): string => (value as { S: string }).S;
  return {
    async put(item) {
      writes.push([text(item['id']!), text(item['v']!)]);
    },
    async delete(key) {
      writes.push([text(key['id']!), null]);
    },
    async end() {
      pages += 1;
      expect(new Set(writes.map(([key]) => key)).size).toBe(writes.length);
      for (const [key, value] of writes) if (value === null) copy.delete(key); else copy.set(key, value);
      return writes.length;
    },
  };
};

const HOUR = 3_600_000;

async function begin(nowMs = HOUR): Promise<StreamPosition> {
  return beginAt(STREAM, (await describeStream({ client, stream: STREAM, signal: new AbortController().signal })).shards, nowMs);
}

async function follow(position: StreamPosition, more: Partial<FollowOptions> & { readonly startMs?: number } = {}): Promise<FollowProgress> {
  const clock = virtualClock();
  followerClock = clock;
  const startMs = more.startMs ?? HOUR;
  return followStream({ client, position, writer, until: { quietMs: 2000, stoppedAtMs: startMs }, pollMs: 200, signal: new AbortController().signal, onProgress: () => {}, clock, nowMs: () => startMs + clock.nowMs(), ...more });
}

describe('following a stream', () => {
  it('reads a shard after its parent, over splits, pages, empty answers and expired iterators', async () => {
    shards = [{ id: 'a', closed: false, records: [{ key: 'k', value: '1' }, { key: 'm', value: '1' }, { key: 'k', value: '2' }] }];
    const position = await begin();
    shards[0]!.closed = true;
    shards.push(
      { id: 'b', parent: 'a', closed: true, records: [{ key: 'k', value: '3' }, { key: 'k', value: null }] },
      // Listed only after a while.
      { id: 'c', parent: 'a', closed: false, hidden: 3, records: [{ key: 'm', value: '2' }, { key: 'n', value: '1', expired: false }] },
      { id: 'd', parent: 'b', closed: false, records: [{ key: 'k', value: '4' }, { key: 'o', value: '1' }, { key: 'o', value: null, expired: true }] },
    );
    const done = await follow(position);
    expect(Object.fromEntries(copy)).toEqual({ k: '4', m: '2', n: '1' });
    expect(done).toMatchObject({ applied: 10 });
    expect(done.position.shards.map(({ shard }) => shard).sort()).toEqual(['c', 'd']);
    const seen = (shard: string): number[] => order.flatMap((one, index) => (one.startsWith(`${shard}:`) ? [index] : []));
    for (const [parent, child] of [['a', 'b'], ['a', 'c'], ['b', 'd']] as const) expect(Math.max(...seen(parent))).toBeLessThan(Math.min(...seen(child)));
    // Nothing came since: going on from there applies nothing.
    expect(await follow(done.position)).toMatchObject({ applied: 0 });
  });

  it('goes on after a worker died anywhere: every progress it reported leads to the same copy', async () => {
    shards = [
      { id: 'a', closed: false, records: Array.from({ length: 9 }, (_, at) => ({ key: `k${at % 3}`, value: `a${at}` })) },
      { id: 'b', parent: 'a', closed: false, hidden: 1, records: [{ key: 'k0', value: 'b0' }, { key: 'k1', value: null }] },
    ];
    const position = await begin();
    shards[0]!.closed = true;
    const reported: { position: StreamPosition; copy: Map<string, string> }[] = [{ position, copy: new Map() }];
    await follow(position, { onProgress: (progress) => reported.push({ position: progress.position, copy: new Map(copy) }) });
    const expected = Object.fromEntries(copy);
    expect(expected).toEqual({ k0: 'b0', k2: 'a8' });
    expect(reported.length).toBeGreaterThan(5);
    for (const [at, then] of reported.entries()) {
      // Whatever was applied after it is there as well: it was lost with the worker, not with the table.
      for (const state of [then.copy, reported.at(-1)!.copy]) {
        copy = new Map(state);
        await follow(JSON.parse(JSON.stringify(then.position)) as StreamPosition);
        expect({ at, copy: Object.fromEntries(copy) }).toEqual({ at, copy: expected });
      }
    }
  });

  it('says that changes are missing: trimmed, turned off, behind for a day, or a shard whose parent was never read', async () => {
    shards = [{ id: 'a', closed: false, records: [{ key: 'k', value: '1' }] }];
    const position = await begin();
    await expect(follow(position, { startMs: 26 * HOUR })).rejects.toMatchObject({ code: 'stream-trimmed' });
    status = 'DISABLED';
    await expect(follow(position)).rejects.toMatchObject({ code: 'stream-off' });
    status = 'ENABLED';
    const trimmed = (call: { target: string }): Verdict => (call.target.endsWith('GetShardIterator') ? error('TrimmedDataAccessException') : undefined);
    proxy.rule(trimmed);
    await expect(follow(position)).rejects.toMatchObject({ code: 'stream-trimmed' });
    proxy.rule(({ target, body }) => answer(target.split('.').at(-1)!, JSON.parse(body) as Record<string, string>));
    shards.push({ id: 'x', parent: 'gone', closed: false, records: [] });
    await expect(follow(position)).rejects.toMatchObject({ code: 'stream-gap' });
    proxy.rule(() => error('ResourceNotFoundException'));
    await expect(follow(position)).rejects.toMatchObject({ code: 'stream-gone' });
    expect(pages).toBe(0);
  });

  it('refuses a record that does not say what the item became, and an answer without records', async () => {
    shards = [{ id: 'a', closed: false, records: [] }];
    const position = await begin();
    proxy.rule((call) => (call.target.endsWith('GetRecords') ? json({ Records: [{ eventName: 'MODIFY', dynamodb: { Keys: { id: { S: 'k' } }, SequenceNumber: '1'.padStart(21, '0') } }], NextShardIterator: 'a|1|1|1' }) : undefined));
    await expect(follow(position)).rejects.toMatchObject({ code: 'stream-record' });
    proxy.rule((call) => (call.target.endsWith('GetRecords') ? json({ NextShardIterator: 'a|0|1|1' }) : undefined));
    await expect(follow(position)).rejects.toMatchObject({ code: 'stream-answer' });
  });

  it('counts who writes after the stop, but not what time to live deletes', async () => {
    const stopped = HOUR;
    shards = [{ id: 'a', closed: false, records: [{ key: 'k', value: '1', at: 10 }, { key: 'k', value: '2', at: 3700 }, { key: 'm', value: null, expired: true, at: 3700 }] }];
    const done = await follow(await begin(), { until: { stoppedAtMs: stopped, quietMs: 1000 } });
    expect(done).toMatchObject({ applied: 3, afterStop: 1 });
  });

  it('reads a shard four times a second at most, and waits when somebody else reads it too often', async () => {
    shards = [{ id: 'a', closed: false, records: Array.from({ length: 12 }, (_, at) => ({ key: `k${at}`, value: '1' })) }];
    const position = await begin();
    let asked = 0;
    proxy.rule(({ target }) => (target.endsWith('GetRecords') && (asked += 1) % 4 === 1 ? error('LimitExceededException') : undefined));
    expect(await follow(position, { pollMs: 10 })).toMatchObject({ applied: 12 });
    expect(readAtMs.length).toBeGreaterThan(9);
    for (const [at, [, ms]] of readAtMs.slice(1).entries()) expect(ms - readAtMs[at]![1]).toBeGreaterThanOrEqual(250);
  });

  it('writes nothing any more once it has failed of one batch of a page', async () => {
    pageRecords = 200;
    shards = [{ id: 'a', closed: false, records: Array.from({ length: 200 }, (_, at) => ({ key: `k${at}`, value: '1' })) }];
    const clock = virtualClock();
    const { signal } = new AbortController();
    const landed: string[] = [];
    const items = {
      async send(command: { input: { RequestItems?: Record<string, { PutRequest: { Item: Item } }[]> } }) {
        const requests = command.input.RequestItems?.['orders'];
        if (requests === undefined) return { Table: { TableName: 'orders', TableStatus: 'ACTIVE', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], ProvisionedThroughput: { ReadCapacityUnits: 1, WriteCapacityUnits: 8 } } };
        const keys = requests.map((one) => (one.PutRequest.Item['id'] as { S: string }).S);
        // The batch that is sent first, while others wait for their turn.
        if (keys.includes('k0')) throw Object.assign(new Error('no'), { name: 'AccessDeniedException', $metadata: { httpStatusCode: 400 } });
        landed.push(...keys);
        return { UnprocessedItems: {}, ConsumedCapacity: [{ TableName: 'orders', CapacityUnits: keys.length }] };
      },
    } as unknown as DynamoDBClient;
    const throttle = await createThrottle({ client: items, table: 'orders', unit: 'write', share: 1, signal, clock });
    const real = (): Writer => createWriter({ items, table: 'orders', key: throttle.facts.key, throttle, signal, clock });
    await expect(follow(await begin(), { writer: real, clock, nowMs: () => HOUR + clock.nowMs() })).rejects.toMatchObject({ code: 'dynamodb-call' });
    const before = landed.length;
    // The next attempt begins at once, and applies newer images of the same keys.
    await clock.sleep(HOUR, signal);
    expect(landed.length).toBe(before);
    expect(before).toBeLessThan(199);
  });

  it('ends with the reason when it is cancelled, and writes nothing after it', async () => {
    shards = [{ id: 'a', closed: false, records: Array.from({ length: 50 }, (_, at) => ({ key: `k${at}`, value: '1' })) }];
    const stop = new AbortController();
    const position = await begin();
    await expect(follow(position, { signal: stop.signal, onProgress: ({ applied }) => applied > 5 && stop.abort(new Error('enough')) })).rejects.toThrow('enough');
    const before = pages;
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(pages).toBe(before);
    expect(copy.size).toBeLessThan(50);
  });
});
