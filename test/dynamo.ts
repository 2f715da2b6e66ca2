import { CreateTableCommand, DeleteTableCommand, DynamoDBClient, type CreateTableCommandInput } from '@aws-sdk/client-dynamodb';
import type { DynamoServer } from '../src/local/dynamodb.ts';
import type { Item } from '../src/model/dynamodb-item.ts';
import { createWireClient } from '../src/systems/dynamodb-wire.ts';
import { createSums, type ItemSums } from '../src/systems/dynamodb-hash.ts';
import type { Clock } from '../src/systems/dynamodb.ts';
import { createThrottle, type Throttle } from '../src/systems/dynamodb-throttle.ts';
import { scanSegment } from '../src/systems/dynamodb-scan.ts';
import { createWriter } from '../src/systems/dynamodb-write.ts';

/** Clients of a server as the test itself, apart from whatever is tested. */
export interface DynamoHands {
  readonly client: DynamoDBClient;
  readonly items: DynamoDBClient;
  /** Key `id` (text) unless said otherwise, 40 units a second of each. */
  create(table: string, more?: Partial<CreateTableCommandInput>): Promise<void>;
  drop(table: string): Promise<void>;
  put(table: string, items: Iterable<Item>): Promise<void>;
  /** Every item, as the server gives it. */
  all(table: string): Promise<Item[]>;
  sums(table: string): Promise<ItemSums>;
  close(): void;
}

export function dynamoHands(server: DynamoServer, region: string = server.region): DynamoHands {
  const config = { region, endpoint: server.endpoint, credentials: { accessKeyId: server.accessKeyId, secretAccessKey: server.secretAccessKey } };
  const client = new DynamoDBClient(config);
  const items = createWireClient({ ...config, maxAttempts: 1 });
  const throttle = (table: string, unit: 'read' | 'write'): Promise<Throttle> => createThrottle({ client, table, unit, share: 1, signal: new AbortController().signal, clock: { nowMs: () => performance.now(), sleep: () => Promise.resolve() } });
  async function* pages(table: string): AsyncGenerator<readonly Item[]> {
    for await (const page of scanSegment({ items, table, segment: 0, segments: 1, consistentRead: true, after: null, throttle: await throttle(table, 'read'), signal: new AbortController().signal })) yield page.items;
  }
  return {
    client,
    items,
    async create(table, more = {}) {
      await client.send(
        new CreateTableCommand({
          TableName: table, KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
          ...(more.BillingMode === 'PAY_PER_REQUEST' ? {} : { ProvisionedThroughput: { ReadCapacityUnits: 40, WriteCapacityUnits: 40 } }), ...more,
        }),
      );
    },
    async drop(table) {
      await client.send(new DeleteTableCommand({ TableName: table }));
    },
    async put(table, some) {
      const used = await throttle(table, 'write');
      const writer = createWriter({ items, table, key: used.facts.key, throttle: used, signal: new AbortController().signal });
      for (const item of some) await writer.put(item);
      await writer.end();
    },
    async all(table) {
      const found: Item[] = [];
      for await (const page of pages(table)) found.push(...page);
      return found;
    },
    async sums(table) {
      const sums = createSums();
      for await (const page of pages(table)) for (const item of page) sums.add(item);
      return sums.sums();
    },
    close() {
      client.destroy();
      items.destroy();
    },
  };
}

/** Time that passes only while somebody waits for it, so that a share can be asserted on a machine of any speed. */
export function virtualClock(): Clock {
  let nowMs = 0;
  const waiting: { at: number; wake: () => void }[] = [];
  const tick = (): void => {
    waiting.sort((a, b) => a.at - b.at);
    const next = waiting.shift();
    if (next === undefined) return;
    nowMs = Math.max(nowMs, next.at);
    next.wake();
  };
  return {
    nowMs: () => nowMs,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return void reject(signal.reason as Error);
        waiting.push({ at: nowMs + ms, wake: resolve });
        setImmediate(tick);
      }),
  };
}

/** A few of every sort: what an encoding may lose. */
export const AWKWARD_ITEMS: readonly Item[] = [
  { id: { S: 'numbers' }, big: { N: '12345678901234567890123456789012345678' }, small: { N: '-0.00000000000000000000000000012345678901234567890123456789' }, set: { NS: ['3', '1', '2.5'] } },
  { id: { S: 'binary' }, b: { B: 'AQL/' }, none: { B: '' }, set: { BS: ['AQ==', 'AA=='] } },
  { id: { S: 'empty' }, text: { S: '' }, map: { M: {} }, list: { L: [] }, nothing: { NULL: true }, no: { BOOL: false } },
  { id: { S: 'nested' }, m: { M: { l: { L: [{ M: { x: { L: [{ N: '1' }, { S: 'é\u2028😀"\\' }] } } }] } } }, names: { SS: ['b', 'a'] } },
  JSON.parse('{"id":{"S":"names"},"__proto__":{"S":"kept"},"constructor":{"N":"1"},"a.b":{"S":"c"}}') as Item,
];

/** A datastore of holdfast.yaml on that server. For `testConfig({ datastores: { items: ... } })`. */
export function dynamoDatastore(server: DynamoServer, tables: readonly string[], overrides: Readonly<Record<string, unknown>> = {}): Readonly<Record<string, unknown>> {
  Object.assign(process.env, { HOLDFAST_TEST_DYNAMO_KEY: server.accessKeyId, HOLDFAST_TEST_DYNAMO_SECRET: server.secretAccessKey });
  return {
    engine: 'dynamodb', tables, endpoint: server.endpoint, region: server.region, store: 'main', credentials: { accessKeyId: 'env:HOLDFAST_TEST_DYNAMO_KEY', secretAccessKey: 'env:HOLDFAST_TEST_DYNAMO_SECRET' },
    ...overrides,
  };
}

/** Items whose texts are long enough that a few make a file. */
export function numberedItems(from: number, to: number, bytes = 300): Item[] {
  return Array.from({ length: to - from }, (_, at): Item => ({ id: { S: `item-${from + at}` }, n: { N: String(from + at) }, text: { S: `${from + at} `.repeat(Math.ceil(bytes / 6)) } }));
}
