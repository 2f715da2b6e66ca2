import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProcesses, startDynamo, type DynamoServer, type Processes } from '../../src/local/stack.ts';
import { canonicalText, type Item } from '../../src/model/dynamodb-item.ts';
import { createSums } from '../../src/systems/dynamodb-hash.ts';
import { createWireClient } from '../../src/systems/dynamodb-wire.ts';
import { scanSegment, type ScanPage } from '../../src/systems/dynamodb-scan.ts';
import { createThrottle } from '../../src/systems/dynamodb-throttle.ts';
import { createWriter } from '../../src/systems/dynamodb-write.ts';
import { AWKWARD_ITEMS, dynamoHands, virtualClock, type DynamoHands } from '../dynamo.ts';

let processes: Processes;
let server: DynamoServer;
let hands: DynamoHands;
const { signal } = new AbortController();

const sized = (count: number, bytes: number): Item[] => Array.from({ length: count }, (_, at): Item => ({ id: { S: `item-${at}` }, text: { S: 'x'.repeat(bytes) } }));

beforeAll(async () => {
  processes = createProcesses();
  server = await startDynamo({ processes, directory: processes.directory });
  hands = dynamoHands(server);
});

afterAll(async () => {
  hands?.close();
  await processes?.end();
});

/** Four segments at once. */
async function readAll(table: string, share: number, consistentRead = false) {
  const clock = virtualClock();
  const throttle = await createThrottle({ client: hands.client, table, unit: 'read', share, signal, clock });
  const sums = createSums();
  let reported = 0;
  await Promise.all(
    Array.from({ length: 4 }, async (_, segment) => {
      for await (const page of scanSegment({ items: hands.items, table, segment, segments: 4, consistentRead, after: null, throttle, signal })) {
        for (const item of page.items) sums.add(item);
        reported += page.consumedUnits;
      }
    }),
  );
  return { sums: sums.sums(), reported, kept: throttle.kept() };
}

describe('DynamoDB within a share of its capacity', () => {
  it('is read by four segments within a quarter of the provisioned units, as the server reports them', async () => {
    const items = sized(2000, 1500);
    await hands.create('shared');
    await hands.put('shared', items);
    const { sums, reported, kept } = await readAll('shared', 0.25);
    const expected = createSums();
    for (const item of items) expected.add(item);
    expect(sums).toEqual(expected.sums());
    expect(kept).toMatchObject({ capacity: 40, source: 'provisioned capacity', consumedUnits: reported, throttled: 0 });
    // 2000 items of 1.5 KB are about 370 units: at 10 a second more than half a minute, of the clock that the bucket reads.
    expect(reported).toBeGreaterThan(300);
    expect(kept.seconds).toBeGreaterThan(30);
    expect(kept.used).toBeLessThanOrEqual(0.25 * (1 + 2 / kept.seconds));
    expect(kept.used).toBeGreaterThan(0.2);
    const consistent = await readAll('shared', 0.25, true);
    expect(consistent.reported).toBeGreaterThan(reported * 1.8);
    expect(consistent.kept.used).toBeLessThanOrEqual(0.25 * (1 + 2 / consistent.kept.seconds));
  });

  it('is written within a share of the table and of its smallest index', async () => {
    await hands.create('indexed', {
      AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }, { AttributeName: 'text', AttributeType: 'S' }],
      GlobalSecondaryIndexes: [{ IndexName: 'by-text', KeySchema: [{ AttributeName: 'text', KeyType: 'HASH' }], Projection: { ProjectionType: 'ALL' }, ProvisionedThroughput: { ReadCapacityUnits: 1, WriteCapacityUnits: 10 } }],
    });
    const clock = virtualClock();
    const throttle = await createThrottle({ client: hands.client, table: 'indexed', unit: 'write', share: 0.5, signal, clock });
    const writer = createWriter({ items: hands.items, table: 'indexed', key: throttle.facts.key, throttle, signal, clock });
    for (const item of sized(400, 100)) await writer.put(item);
    expect(await writer.end()).toBe(400);
    // 400 units of the index at 5 a second, although the table alone would take 20.
    expect(throttle.kept().seconds).toBeGreaterThan(400 / 5 - 20);
    expect((await hands.sums('indexed')).items).toBe(400);
  });

  it('gives and takes items exactly as they stand on the wire', async () => {
    await hands.create('awkward');
    await hands.put('awkward', AWKWARD_ITEMS);
    const found = await hands.all('awkward');
    expect(found.map(canonicalText).sort()).toEqual(AWKWARD_ITEMS.map(canonicalText).sort());
    expect(found.find((item) => (item['id'] as { S: string }).S === 'names')).toSatisfy((item: Item) => Object.hasOwn(item, '__proto__'));
  });

  it('goes on after the key of any page without losing or doubling an item', async () => {
    const seen: string[] = [];
    let after: Item | null = null;
    for (let pages = 0; ; pages += 1) {
      const throttle = await createThrottle({ client: hands.client, table: 'shared', unit: 'read', share: 1, signal, clock: virtualClock() });
      // One page of each generator: as if the worker had been lost after every one.
      const page: ScanPage | void = (await scanSegment({ items: hands.items, table: 'shared', segment: 0, segments: 1, consistentRead: false, after, throttle, signal }).next()).value;
      if (page == null) break;
      seen.push(...page.items.map((item: Item) => (item['id'] as { S: string }).S));
      after = page.lastKey;
      if (after === null) break;
      expect(pages).toBeLessThan(500);
    }
    expect(seen.length).toBe(2000);
    expect(new Set(seen).size).toBe(2000);
  });

  it('names the key of an item that is not taken, and has written the others', async () => {
    await hands.create('refusing', { AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }, { AttributeName: 'day', AttributeType: 'N' }], GlobalSecondaryIndexes: [{ IndexName: 'by-day', KeySchema: [{ AttributeName: 'day', KeyType: 'HASH' }], Projection: { ProjectionType: 'ALL' }, ProvisionedThroughput: { ReadCapacityUnits: 1, WriteCapacityUnits: 1 } }] });
    const throttle = await createThrottle({ client: hands.client, table: 'refusing', unit: 'write', share: 1, signal, clock: virtualClock() });
    const writer = createWriter({ items: hands.items, table: 'refusing', key: throttle.facts.key, throttle, signal, clock: virtualClock() });
    for (const item of [{ id: { S: 'good' }, day: { N: '1' } }, { id: { S: 'wrong' }, day: { S: 'monday' } }]) await writer.put(item);
    await expect(writer.end()).rejects.toMatchObject({ code: 'dynamodb-item-refused', message: expect.stringContaining('id = "wrong"') as string });
    expect((await hands.all('refusing')).map(({ id }) => id)).toEqual([{ S: 'good' }]);
    const again = createWriter({ items: hands.items, table: 'refusing', key: throttle.facts.key, throttle, signal });
    await expect(again.put({ id: { S: 'huge' }, text: { S: 'x'.repeat(410 * 1024) } })).rejects.toMatchObject({ code: 'dynamodb-item-too-large', message: expect.stringContaining('id = "huge"') as string });
    await expect(again.put({ day: { N: '1' } })).rejects.toMatchObject({ code: 'dynamodb-item-key' });
  });
});

/** The real server behind a proxy that answers some requests itself. */
async function faulty(answer: (target: string, count: number) => { status?: number; body?: string; cut?: boolean; damage?: boolean } | undefined): Promise<{ client: ReturnType<typeof createWireClient>; close(): void }> {
  let count = 0;
  const proxy = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', async () => {
      const target = String(request.headers['x-amz-target']).split('.')[1]!;
      count += 1;
      const fault = answer(target, count);
      if (fault?.status !== undefined) return void response.writeHead(fault.status, { 'content-type': 'application/x-amz-json-1.0' }).end(fault.body);
      const answered = await fetch(server.endpoint, { method: 'POST', headers: Object.fromEntries(['x-amz-target', 'content-type', 'authorization', 'x-amz-date'].map((name) => [name, String(request.headers[name])])), body: Buffer.concat(chunks) });
      const bytes = Buffer.from(await answered.arrayBuffer());
      if (fault?.damage === true) bytes[bytes.indexOf('item-') + 5] = 0x39;
      response.writeHead(answered.status, { 'content-type': 'application/x-amz-json-1.0', 'x-amz-crc32': answered.headers.get('x-amz-crc32') ?? '', 'content-length': String(bytes.length) });
      if (fault?.cut === true) {
        response.write(bytes.subarray(0, Math.floor(bytes.length / 2)), () => response.destroy());
        return;
      }
      response.end(bytes);
    });
  });
  await new Promise<void>((resolve) => void proxy.listen(0, '127.0.0.1', resolve));
  const client = createWireClient({ region: server.region, endpoint: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, credentials: { accessKeyId: server.accessKeyId, secretAccessKey: server.secretAccessKey }, maxAttempts: 1 });
  return {
    client,
    close() {
      client.destroy();
      proxy.close();
      proxy.closeAllConnections();
    },
  };
}

describe('throttled, cut and damaged answers', () => {
  it('are asked for again, and what was consumed in vain is counted', async () => {
    const throttling = JSON.stringify({ __type: 'com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException', message: 'slow down' });
    const proxy = await faulty((target, count) => (target !== 'Scan' ? undefined : count % 7 === 1 ? { status: 400, body: throttling } : count % 7 === 3 ? { cut: true } : count % 7 === 5 ? { damage: true } : count % 7 === 6 ? { status: 500, body: '{}' } : undefined));
    try {
      const throttle = await createThrottle({ client: hands.client, table: 'shared', unit: 'read', share: 0.25, signal, clock: virtualClock() });
      const sums = createSums();
      let reported = 0;
      for await (const page of scanSegment({ items: proxy.client, table: 'shared', segment: 0, segments: 1, consistentRead: false, after: null, throttle, signal })) {
        for (const item of page.items) sums.add(item);
        reported += page.consumedUnits;
      }
      expect(sums.sums()).toEqual(await hands.sums('shared'));
      const kept = throttle.kept();
      expect(kept.throttled).toBeGreaterThan(3);
      expect(kept.retries).toBeGreaterThan(kept.throttled + 3);
      expect(kept.consumedUnits).toBeGreaterThan(reported);
      expect(kept.used).toBeLessThanOrEqual(0.25 * (1 + 2 / kept.seconds));
    } finally {
      proxy.close();
    }
  });

  it('and items left unprocessed are written again until none is left', async () => {
    await hands.create('unprocessed');
    const proxy = await faulty((target, count) => {
      if (target !== 'BatchWriteItem' || count % 3 === 0) return undefined;
      return { status: 200, body: JSON.stringify({ UnprocessedItems: { unprocessed: Array.from({ length: 25 }, (_, at) => ({ PutRequest: { Item: { id: { S: `item-${at}` }, text: { S: 'x'.repeat(10) } } } })) } }) };
    });
    try {
      const throttle = await createThrottle({ client: hands.client, table: 'unprocessed', unit: 'write', share: 1, signal, clock: virtualClock() });
      const writer = createWriter({ items: proxy.client, table: 'unprocessed', key: throttle.facts.key, throttle, signal, clock: virtualClock() });
      for (const item of sized(25, 10)) await writer.put(item);
      expect(await writer.end()).toBe(25);
      expect((await hands.sums('unprocessed')).items).toBe(25);
    } finally {
      proxy.close();
    }
  });

  it('end a call that nothing helps, within its time', async () => {
    const proxy = await faulty(() => ({ status: 400, body: JSON.stringify({ __type: 'com.amazonaws.dynamodb.v20120810#RequestLimitExceeded', message: 'no' }) }));
    try {
      const clock = virtualClock();
      const throttle = await createThrottle({ client: hands.client, table: 'shared', unit: 'read', share: 1, signal, clock, retryWithinMs: 60_000 });
      await expect(scanSegment({ items: proxy.client, table: 'shared', segment: 0, segments: 1, consistentRead: false, after: null, throttle, signal }).next()).rejects.toMatchObject({ code: 'dynamodb-call', retryable: true });
      expect(clock.nowMs()).toBeLessThan(80_000);
    } finally {
      proxy.close();
    }
  });
});
