import { gunzipSync, gzipSync } from 'node:zlib';
import { DeleteTableCommand, ListTablesCommand, UpdateTableCommand } from '@aws-sdk/client-dynamodb';
import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createProcesses, startDynamo, type DynamoServer, type Processes } from '../../src/local/stack.ts';
import { WORKFLOW_IDS, type BackupResult, type RestoreDrillResult, type RetentionResult } from '../../src/model/api.ts';
import type { BackupSummary } from '../../src/model/manifest.ts';
import type { DynamodbManifest } from '../../src/model/manifest-dynamodb.ts';
import { listBackups, readManifest } from '../../src/systems/backup-catalogue.ts';
import type { DrillCall } from '../../src/systems/backup-engine.ts';
import type { Context } from '../../src/systems/context.ts';
import { drillTable, dynamodbDrill } from '../../src/systems/dynamodb-drill.ts';
import { openStore } from '../../src/systems/store.ts';
import { dynamoDatastore, dynamoHands, numberedItems, type DynamoHands } from '../dynamo.ts';
import { mortalWorker } from '../mortal.ts';
import { connectTemporal, runningWorker, suite, testConfig, uniqueName, type ConfigOverrides } from '../support.ts';

let processes: Processes;
let server: DynamoServer;
let hands: DynamoHands;
const { signal } = new AbortController();
const SERVICE = { objectives: { rto: '15m', rpo: '1h' }, datastores: ['items'], checks: [{ name: 'the first order is there', dynamodb: { table: 'orders', statement: `SELECT n FROM "{table}" WHERE id = 'item-0'` }, expect: { equals: 0 } }] };

beforeAll(async () => {
  processes = createProcesses();
  server = await startDynamo({ processes, directory: processes.directory });
  hands = dynamoHands(server);
  await hands.create('orders', {
    AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }, { AttributeName: 'n', AttributeType: 'N' }], ProvisionedThroughput: { ReadCapacityUnits: 20_000, WriteCapacityUnits: 20_000 },
    GlobalSecondaryIndexes: [{ IndexName: 'by-n', KeySchema: [{ AttributeName: 'n', KeyType: 'HASH' }], Projection: { ProjectionType: 'ALL' }, ProvisionedThroughput: { ReadCapacityUnits: 10, WriteCapacityUnits: 20_000 } }],
  });
  await hands.put('orders', numberedItems(0, 400));
});

afterAll(async () => {
  hands?.close();
  await processes?.end();
});

function contextOf(datastore: ConfigOverrides = {}, more: ConfigOverrides = {}): Promise<Context> {
  return testConfig({ datastores: { items: dynamoDatastore(server, ['orders'], { backup: { segments: 2, fileSize: '30KiB', pageItems: 40, readShare: 1 }, ...datastore }) }, services: { orders: SERVICE }, ...more });
}

async function run<T>(context: Context, client: Client, workflow: string, args: object): Promise<T> {
  return client.workflow.execute(workflow, { taskQueue: context.config.temporal.taskQueue, workflowId: uniqueName(`${workflow}/items`), args: [{ datastore: 'items', ...args }] }) as Promise<T>;
}

async function committed(context: Context): Promise<BackupSummary[]> {
  const store = await openStore(context, 'main');
  return listBackups(store, store.prefix, 'items');
}

const drillTables = async (of: DynamoHands = hands): Promise<string[]> => ((await of.client.send(new ListTablesCommand({}))).TableNames ?? []).filter((name) => name.startsWith('holdfast-drill-'));

describe('with a worker', () => {
  let context: Context;
  let client: Client;
  let worker: { stop(): Promise<void> };

  beforeAll(async () => {
    context = await contextOf({ retention: { last: 2 } });
    client = await connectTemporal(context);
    worker = await runningWorker(context);
  });
  afterAll(async () => {
    await worker.stop();
    await client.connection.close();
    context.close();
  });

  test('backups are committed and kept by the same retention', async () => {
    for (const reason of ['first', 'second', 'third']) {
      const backup = await run<BackupResult>(context, client, 'backup', { reason });
      expect(backup).toMatchObject({ datastore: 'items', tables: 1, rows: '400', words: { rows: 'items' } });
      expect((await client.workflow.getHandle(WORKFLOW_IDS.retention('items')).result()) as RetentionResult).toMatchObject({ applied: true });
    }
    expect((await committed(context)).map(({ reason }) => reason)).toEqual(['second', 'third']);
  });

  test('a drill proves the newest exactly, says how far the live table has moved on, and leaves no table', async () => {
    await hands.put('orders', numberedItems(400, 410));
    const result = await run<RestoreDrillResult>(context, client, 'restoreDrill', {});
    expect(result).toMatchObject({ outcome: 'verified', message: expect.stringMatching(/exact: 1 tables with 400 items, 3 keys and indexes/) as string });
    expect(JSON.stringify(result)).toContain('the first order is there');
    expect(result.proof!.notes.join('\n')).toMatch(/drift of orders: the live table.* holds 410 items \(10 more than the backup\)/);
    expect(await drillTables()).toEqual([]);
    expect((await committed(context)).at(-1)).toMatchObject({ proof: 'verified', inUse: false });
  });

  test('a drill of a backup of which one item was changed says that it is bad', async () => {
    const backup = await run<BackupResult>(context, client, 'backup', { reason: 'to be spoiled' });
    const store = await openStore(context, 'main');
    const manifest = (await readManifest(store, backup.location)) as DynamodbManifest;
    const key = `${backup.location}${manifest.tables[0]!.files[0]!.object}`;
    const chunks: Buffer[] = [];
    for await (const chunk of await store.get(key)) chunks.push(chunk as Buffer);
    await store.put(key, gzipSync(Buffer.from(gunzipSync(Buffer.concat(chunks)).toString('utf8').replace(/"n":\{"N":"\d+"\}/, '"n":{"N":"7777"}'))));
    const result = await run<RestoreDrillResult>(context, client, 'restoreDrill', {});
    expect(result).toMatchObject({ outcome: 'bad', backup: backup.id, message: expect.stringContaining('is damaged') as string });
    expect(await drillTables()).toEqual([]);
  });
});

test('whatever differs in the restored tables is found: an item changed, removed or added, an index that is missing, a table that has gone', async () => {
  const context = await contextOf({ drill: { drift: false } });
  const client = await connectTemporal(context);
  const worker = await runningWorker(context);
  try {
    const backup = await run<BackupResult>(context, client, 'backup', { reason: 'test' });
    const manifest = (await readManifest(await openStore(context, 'main'), backup.location)) as DynamodbManifest;
    const call: DrillCall = { datastore: 'items', service: null, workflowId: 'w', runId: 'r', storeName: 'main', location: backup.location, targetName: `items-${uniqueName('x').slice(-8)}0000` };
    const options = { signal, onProgress: () => {} };
    await dynamodbDrill.start(context, call, manifest, options);
    expect((await dynamodbDrill.restore(context, call, manifest, options)).bad).toBeNull();
    const found = async (): Promise<string[]> => (await dynamodbDrill.prove(context, call, manifest, options)).differences.map(({ kind, object, found: what }) => `${kind} ${object}: ${what}`);
    const table = drillTable(context, call, 'orders');
    const [first, second] = await hands.all(table);
    expect(await found()).toEqual([]);
    await hands.put(table, [{ ...first!, n: { N: '7777' } }]);
    expect(await found()).toEqual([expect.stringMatching(/^content orders: as many items with other content/)]);
    await hands.put(table, [first!, { id: { S: 'added' }, n: { N: '1' } }]);
    expect(await found()).toEqual([`rows orders: ${Number(backup.rows) + 1} items`]);
    const { DeleteItemCommand } = await import('@aws-sdk/client-dynamodb');
    for (const id of [{ S: 'added' }, second!['id'] as { S: string }]) await hands.client.send(new DeleteItemCommand({ TableName: table, Key: { id } }));
    expect(await found()).toEqual([`rows orders: ${Number(backup.rows) - 1} items`]);
    await hands.put(table, [second!]);
    await hands.client.send(new UpdateTableCommand({ TableName: table, GlobalSecondaryIndexUpdates: [{ Delete: { IndexName: 'by-n' } }] }));
    expect(await found()).toContainEqual(expect.stringMatching(/^schema-missing orders global index by-n/));
    // A cut-off restore is never taken up: the drill starts over.
    await expect(dynamodbDrill.restore(context, call, manifest, options)).rejects.toMatchObject({ code: 'drill-target-gone' });
    await hands.client.send(new DeleteTableCommand({ TableName: table }));
    await expect(found()).rejects.toMatchObject({ code: 'drill-target-gone' });
    expect(await dynamodbDrill.destroy(context, call)).toEqual({ existed: false });
  } finally {
    await worker.stop();
    await client.connection.close();
    context.close();
  }
});

test('a cancelled backup leaves nothing in the store', async () => {
  await hands.create('slow');
  await hands.put('slow', numberedItems(0, 300));
  const context = await testConfig({ datastores: { items: dynamoDatastore(server, ['slow'], { backup: { segments: 2, fileSize: '1KiB', readShare: 0.01 } }) } });
  const client = await connectTemporal(context);
  const worker = await runningWorker(context);
  try {
    const handle = await client.workflow.start('backup', { taskQueue: context.config.temporal.taskQueue, workflowId: uniqueName('backup/items'), args: [{ datastore: 'items', reason: 'to be cancelled' }] });
    const store = await openStore(context, 'main');
    const keys = async (): Promise<string[]> => {
      const found: string[] = [];
      for await (const { key } of store.list('items/')) found.push(key);
      return found;
    };
    await expect.poll(async () => (await keys()).filter((key) => key.includes('/state/')).length, { timeout: 60_000, interval: 100 }).toBeGreaterThan(1);
    await handle.cancel();
    await expect(handle.result()).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
    expect(await keys()).toEqual([]);
  } finally {
    await worker.stop();
    await client.connection.close();
    context.close();
    await hands.drop('slow');
  }
});

describe('drills in a place that knows tags', () => {
  test('mark their tables, sweep those of drills that have ended, and touch no other', async () => {
    const { aws } = suite();
    const there = dynamoHands({ ...server, endpoint: aws.endpoint, accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } as DynamoServer, 'eu-central-1');
    const context = await contextOf({ drill: { drift: false, endpoint: aws.endpoint, region: 'eu-central-1', credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' } } });
    const client = await connectTemporal(context);
    const worker = await runningWorker(context);
    try {
      const backup = await run<BackupResult>(context, client, 'backup', { reason: 'test' });
      expect(await run<RestoreDrillResult>(context, client, 'restoreDrill', { service: 'orders' })).toMatchObject({ outcome: 'verified' });
      expect(await drillTables(there)).toEqual([]);
      // Two drills that were cut off: one still runs.
      const manifest = (await readManifest(await openStore(context, 'main'), backup.location)) as DynamodbManifest;
      const call = (name: string): DrillCall => ({ datastore: 'items', service: null, workflowId: `drill/${name}`, runId: name, storeName: 'main', location: backup.location, targetName: `items-${name}`.padEnd(18, '0') });
      const options = { signal, onProgress: () => {} };
      for (const name of ['ended0', 'running']) {
        await dynamodbDrill.start(context, call(name), manifest, options);
        await dynamodbDrill.restore(context, call(name), manifest, options);
      }
      await there.create('holdfast-drill-000000000000-orders');
      expect(await dynamodbDrill.sweep(context, (workflowId) => Promise.resolve(workflowId === 'drill/running'))).toEqual([drillTable(context, call('ended0'), 'orders')]);
      expect((await drillTables(there)).sort()).toEqual(['holdfast-drill-000000000000-orders', drillTable(context, call('running'), 'orders')].sort());
      // Of the name of a drill's, without its tags: somebody's.
      const foreign = { ...call('x'), targetName: 'items-000000000000' };
      await expect(dynamodbDrill.start(context, foreign, manifest, options)).rejects.toMatchObject({ code: 'drill-target-refused' });
      await expect(dynamodbDrill.destroy(context, foreign)).rejects.toMatchObject({ code: 'drill-target-refused' });
      expect(await dynamodbDrill.destroy(context, call('running'))).toEqual({ existed: true });
      expect(await drillTables(there)).toEqual(['holdfast-drill-000000000000-orders']);
    } finally {
      await there.drop('holdfast-drill-000000000000-orders').catch(() => {});
      there.close();
      await worker.stop();
      await client.connection.close();
      context.close();
    }
  });
});

describe('a worker that is killed', () => {
  test.concurrent.each([
    ['in a backup, right after a file was stored', 'backup', { at: 'runBackup', afterRequest: 'PutObjectCommand', nth: 6 }],
    ['in a drill, while it writes items', 'restoreDrill', { at: 'restoreDrillBackup', afterRequest: 'BatchWriteItemCommand', nth: 3 }],
  ] as const)('%s: another finishes, and no item is lost or there twice', async (_, workflow, death) => {
    const table = uniqueName('killed');
    await hands.create(table, { BillingMode: 'PAY_PER_REQUEST' });
    await hands.put(table, numberedItems(0, 300));
    const context = await testConfig({ datastores: { items: dynamoDatastore(server, [table], { backup: { segments: 2, fileSize: '20KiB', pageItems: 30, readShare: 1 }, drill: { drift: false, prefix: `${table}-drill-` } }) } });
    const client = await connectTemporal(context);
    const workers = [await mortalWorker(context, death), await mortalWorker(context)];
    try {
      if (workflow === 'restoreDrill') {
        const first = await runningWorker(context);
        await run<BackupResult>(context, client, 'backup', { reason: 'test' });
        await first.stop();
      }
      await workers[0]!.go();
      const result = run<BackupResult & RestoreDrillResult>(context, client, workflow, { reason: 'killed' });
      result.catch(() => {});
      expect(await workers[0]!.ended).toBe('SIGKILL');
      await workers[1]!.go();
      expect(await result).toMatchObject(workflow === 'backup' ? { rows: '300' } : { outcome: 'verified' });
      const backups = await committed(context);
      expect(backups.length).toBe(1);
      const manifest = (await readManifest(await openStore(context, 'main'), backups[0]!.location)) as DynamodbManifest;
      expect(manifest.fingerprint.tables).toEqual([{ name: table, ...(await hands.sums(table)) }]);
      // In the layout a folder for each attempt that wrote.
      expect(new Set(manifest.objects.map(({ name }) => name.split('/')[2])).size).toBe(workflow === 'backup' ? 2 : 1);
      expect(((await hands.client.send(new ListTablesCommand({}))).TableNames ?? []).filter((name) => name.startsWith(`${table}-drill-`))).toEqual([]);
    } finally {
      await Promise.all(workers.map((one) => one.stop()));
      await client.connection.close();
      context.close();
    }
  });
});
