import { createHash } from 'node:crypto';
import { gunzipSync, gzipSync } from 'node:zlib';
import { DescribeTableCommand } from '@aws-sdk/client-dynamodb';
import { afterAll, afterEach, beforeAll, describe, expect, it, test } from 'vitest';
import { createProcesses, startDynamo, type DynamoServer, type Processes } from '../../src/local/stack.ts';
import { canonicalText, type Item } from '../../src/model/dynamodb-item.ts';
import type { DynamodbManifest } from '../../src/model/manifest-dynamodb.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import type { Context } from '../../src/systems/context.ts';
import { dynamodbEngine } from '../../src/systems/dynamodb-engine.ts';
import { openExport } from '../../src/systems/dynamodb-export-read.ts';
import { backupSources, checkTargets, importTable, type ImportTarget, type TableSource } from '../../src/systems/dynamodb-import.ts';
import { dynamoOf, openTables } from '../../src/systems/dynamodb-place.ts';
import { openStore, type Store } from '../../src/systems/store.ts';
import { AWKWARD_ITEMS, dynamoDatastore, dynamoHands, numberedItems, type DynamoHands } from '../dynamo.ts';
import { runHere, type ProgramExit } from '../cli/program.ts';
import { suite, testConfig, toxiproxy, uniqueName, type ConfigOverrides } from '../support.ts';

let processes: Processes;
let server: DynamoServer;
let hands: DynamoHands;
/** The same server as another Region: other tables. */
let west: DynamoHands;
const contexts: Context[] = [];
const { signal } = new AbortController();
const bytesOf = async (store: Store, key: string): Promise<Buffer> => {
  const chunks: Buffer[] = [];
  for await (const chunk of await store.get(key)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
};
const bucketOf = (context: Context): string => (context.config.stores['main'] as { bucket: string }).bucket;
const md5 = (bytes: Buffer | string): string => createHash('md5').update(bytes).digest('base64');

beforeAll(async () => {
  processes = createProcesses();
  server = await startDynamo({ processes, directory: processes.directory });
  hands = dynamoHands(server);
  west = dynamoHands(server, 'us-west-2');
  await hands.create('orders', {
    AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }, { AttributeName: 'n', AttributeType: 'N' }], ProvisionedThroughput: { ReadCapacityUnits: 20_000, WriteCapacityUnits: 20_000 },
    GlobalSecondaryIndexes: [{ IndexName: 'by-n', KeySchema: [{ AttributeName: 'n', KeyType: 'HASH' }], Projection: { ProjectionType: 'KEYS_ONLY' }, ProvisionedThroughput: { ReadCapacityUnits: 10, WriteCapacityUnits: 20_000 } }],
    StreamSpecification: { StreamEnabled: true, StreamViewType: 'NEW_IMAGE' },
  });
  await hands.put('orders', numberedItems(0, 600));
  await hands.create('people', { BillingMode: 'PAY_PER_REQUEST' });
  await hands.put('people', AWKWARD_ITEMS);
  await hands.create('nobody', { BillingMode: 'PAY_PER_REQUEST' });
});

afterAll(async () => {
  for (const context of contexts) context.close();
  hands?.close();
  west?.close();
  await processes?.end();
});

const made: string[] = [];
afterEach(async () => {
  for (const table of made.splice(0)) await west.drop(table);
});

async function contextOf(overrides: ConfigOverrides = {}, store: ConfigOverrides = {}): Promise<Context> {
  const context = await testConfig({ stores: { main: store }, datastores: { items: dynamoDatastore(server, ['orders', 'people', 'nobody'], { backup: { segments: 2, fileSize: '30KiB', pageItems: 50, readShare: 1 }, ...overrides }) } });
  contexts.push(context);
  return context;
}

interface Backup {
  readonly context: Context;
  readonly store: Store;
  readonly location: string;
  readonly manifest: DynamodbManifest;
}

async function back(context: Context, attempt = 1, id = uniqueName('b')): Promise<Backup> {
  const location = `items/2026/01/02/030405Z-${id}/`;
  await dynamodbEngine.backUp(context, { datastore: 'items', id, location, reason: 'test', workflowId: 'w', runId: 'r', attempt }, { signal });
  const store = await openStore(context, 'main');
  return { context, store, location, manifest: (await readManifest(store, location)) as DynamodbManifest };
}

async function targetOf(context: Context, table: string, more: Partial<ImportTarget> = {}): Promise<ImportTarget> {
  const { endpoint, credentials } = dynamoOf(context, 'items');
  return { tables: await openTables(context, { region: 'us-west-2', endpoint, credentials }), table, create: { onDemand: true, keepEncryption: false, tags: {} }, allowNonEmpty: false, ...more };
}

async function restore(context: Context, sources: readonly TableSource[], more: Partial<ImportTarget> = {}): Promise<void> {
  const pairs = await Promise.all(sources.map(async (source) => ({ source, target: await targetOf(context, source.table, more) })));
  await checkTargets(pairs, signal);
  for (const { source, target } of pairs) {
    if (!made.includes(target.table)) made.push(target.table);
    await importTable(source, target, { writeShare: 1, concurrency: 3, signal, onProgress: () => {} });
  }
}

describe('a backup of DynamoDB by scan', () => {
  let backup: Backup;
  beforeAll(async () => {
    backup = await back(await contextOf());
  });

  it('lies in the layout of the service: anybody reads it from the manifests alone', async () => {
    const { store, location, manifest } = backup;
    const bucket = bucketOf(backup.context);
    for (const table of manifest.tables) {
      const root = `${location}${table.export}`;
      const summaryText = await store.getText(`${root}manifest-summary.json`);
      const filesText = await store.getText(`${root}manifest-files.json`);
      expect(await store.getText(`${root}manifest-summary.md5`)).toBe(md5(summaryText));
      expect(await store.getText(`${root}manifest-files.md5`)).toBe(md5(filesText));
      expect((await store.head(`${root}_started`))?.bytes).toBe(0);
      const summary = JSON.parse(summaryText) as Record<string, unknown>;
      expect(summary).toMatchObject({ version: '2020-06-30', tableArn: table.arn, s3Bucket: bucket, manifestFilesS3Key: `${root}manifest-files.json`, outputFormat: 'DYNAMODB_JSON' });
      const items: Item[] = [];
      for (const line of filesText.split('\n').filter((one) => one !== '')) {
        const file = JSON.parse(line) as { itemCount: number; md5Checksum: string; etag: string; dataFileS3Key: string };
        const stored = await bytesOf(store, file.dataFileS3Key);
        expect(file.dataFileS3Key).toMatch(new RegExp(`^${root}data/[^/]+\\.json\\.gz$`));
        expect(md5(stored)).toBe(file.md5Checksum);
        const lines = gunzipSync(stored).toString('utf8').split('\n').slice(0, -1);
        expect(lines.length).toBe(file.itemCount);
        items.push(...lines.map((one) => (JSON.parse(one) as { Item: Item }).Item));
      }
      expect(items.length).toBe(summary['itemCount']);
      expect(items.map(canonicalText).sort()).toEqual((await hands.all(table.name)).map(canonicalText).sort());
    }
    expect(manifest.tables.find(({ name }) => name === 'orders')!.files.length).toBeGreaterThan(4);
    expect(manifest.tables.find(({ name }) => name === 'nobody')!.files).toEqual([]);
  });

  it('says that it is a scan and no snapshot, from when to when, what share it kept, and what the table is', () => {
    const { manifest } = backup;
    expect(manifest.source).toMatchObject({ method: 'scan', consistency: 'scan', consistencyText: expect.stringContaining('no snapshot') as string });
    const orders = manifest.tables.find(({ name }) => name === 'orders')!;
    expect(Date.parse(orders.readFrom)).toBeLessThanOrEqual(Date.parse(orders.readTo));
    expect(orders.capacity).toMatchObject({ share: 1, unitsPerSecond: 20_000, source: 'provisioned capacity' });
    expect(orders.capacity!.consumedUnits).toBeGreaterThan(10);
    expect(orders.settings).toMatchObject({ key: [{ name: 'id', kind: 'HASH' }], billing: 'provisioned', stream: 'NEW_IMAGE', globalIndexes: [{ name: 'by-n', projection: { type: 'KEYS_ONLY' } }], tags: null });
    expect(manifest.fingerprint.tables.map(({ name, items }) => `${name} ${items}`)).toEqual(['orders 600', `people ${AWKWARD_ITEMS.length}`, 'nobody 0']);
  });

  it('leaves no notes behind, since they hold keys', async () => {
    const named = new Set(['manifest.json', 'COMMIT', ...backup.manifest.objects.map(({ name }) => name)]);
    for await (const { key } of backup.store.list(backup.location)) expect(named).toContain(key.slice(backup.location.length));
  });

  it('is read back whole, and restored exactly, with its indexes, into tables that are made for it', async () => {
    const { context, manifest, location } = backup;
    expect((await dynamodbEngine.readBack(context, { storeName: 'main', location, manifest }, {})).how).toContain('605 items');
    await restore(context, backupSources(context, { storeName: 'main', location, manifest }));
    for (const table of ['orders', 'people', 'nobody']) expect(await west.sums(table)).toEqual(await hands.sums(table));
    expect((await west.all('people')).map(canonicalText).sort()).toEqual(AWKWARD_ITEMS.map(canonicalText).sort());
  });

  it('restored twice over itself is the same: nothing lost, nothing doubled', async () => {
    const { context, manifest, location } = backup;
    const [orders] = backupSources(context, { storeName: 'main', location, manifest });
    // A worker that was lost after some of the files.
    const target = await targetOf(context, 'orders');
    await expect(importTable({ ...orders!, files: orders!.files.slice(0, 3) }, target, { writeShare: 1, concurrency: 1, signal, onProgress: () => {} })).rejects.toMatchObject({ code: 'object-damaged' });
    expect((await west.sums('orders')).items).toBeGreaterThan(0);
    await restore(context, [orders!], { allowNonEmpty: true });
    expect(await west.sums('orders')).toEqual(await hands.sums('orders'));
  });

  it('is refused before the first write by tables of another key, by such that hold items, and by missing ones', async () => {
    const { context, manifest, location } = backup;
    const sources = backupSources(context, { storeName: 'main', location, manifest });
    await west.create('people', { KeySchema: [{ AttributeName: 'name', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'name', AttributeType: 'S' }] });
    await west.create('orders');
    await west.put('orders', [{ id: { S: 'mine' } }]);
    made.push('people', 'orders');
    await expect(restore(context, sources, { create: null })).rejects.toMatchObject({ code: 'target-refused', message: expect.stringMatching(/orders holds items.*people: its key is name.*nobody is not there/) as string });
    expect(await west.all('orders')).toEqual([{ id: { S: 'mine' } }]);
    expect(await west.all('people')).toEqual([]);
  });

  it('and the service reads it as one of its own: the same importer takes both', async () => {
    const { context, manifest, location } = backup;
    const bucket = bucketOf(context);
    const orders = manifest.tables.find(({ name }) => name === 'orders')!;
    const source = await openExport(context, `s3://${bucket}/${location}${orders.export}`, signal);
    expect(source).toMatchObject({ table: 'orders', items: 600 });
    await west.create('orders', { BillingMode: 'PAY_PER_REQUEST' });
    await restore(context, [source]);
    expect(await west.sums('orders')).toEqual(await hands.sums('orders'));
  });
});

describe('the command line', () => {
  test('restores the newest into tables it makes, refuses the second time, and imports an export', async () => {
    const { context, manifest, location } = await back(await contextOf({ restore: { writeShare: 1 } }));
    const run = (...args: string[]): Promise<ProgramExit> => runHere([...args, '--config', context.configPath, '--runbooks', context.runbookDirectory]);
    made.push('new-orders', 'new-people', 'new-nobody', 'imported');
    const restored = await run('restore', 'newest', '--datastore', 'items', '--to', 'dynamodb://us-west-2/new-', '--create', '--settings', '--json');
    expect({ code: restored.code, err: restored.err }).toEqual({ code: 0, err: expect.not.stringContaining('rror') as string });
    expect((JSON.parse(restored.out) as { tables: { table: string; items: number; created: boolean; settings: string[] }[] }).tables).toMatchObject([{ table: 'new-orders', items: 600, created: true, settings: ['stream NEW_IMAGE'] }, { table: 'new-people' }, { table: 'new-nobody', items: 0 }]);
    for (const table of ['orders', 'people', 'nobody']) expect(await west.sums(`new-${table}`)).toEqual(await hands.sums(table));
    const { Table } = await west.client.send(new DescribeTableCommand({ TableName: 'new-orders' }));
    expect(Table).toMatchObject({ StreamSpecification: { StreamViewType: 'NEW_IMAGE' }, ProvisionedThroughput: { ReadCapacityUnits: 20_000 }, GlobalSecondaryIndexes: [{ IndexName: 'by-n' }] });
    const again = await run('restore', 'newest', '--datastore', 'items', '--to', 'dynamodb://us-west-2/new-');
    expect(again.code).not.toBe(0);
    expect(again.err).toMatch(/new-orders holds items already; table new-people holds items already/);
    for (const [args, why] of [[['--to', 'postgres://a@b/c'], 'not a complete target'], [['--to', 'dynamodb://us-west-2/new-', '--no-roles'], 'says nothing'], [['--to', 'dynamodb://us-west-2/new-', '--table', 'nothing'], 'holds no table nothing']] as const) expect((await run('restore', 'newest', '--datastore', 'items', ...args)).err).toContain(why);
    await west.create('imported', { BillingMode: 'PAY_PER_REQUEST' });
    const people = manifest.tables.find(({ name }) => name === 'people')!;
    const imported = await run('import', `s3://${bucketOf(context)}/${location}${people.export}`, '--datastore', 'items', '--to', 'dynamodb://us-west-2/', '--table', 'imported');
    expect(imported.err).not.toContain('rror');
    expect(imported.out).toContain(`imported  ${AWKWARD_ITEMS.length} items`);
    expect(await west.sums('imported')).toEqual(await hands.sums('people'));
  });
});

test('connections to the source and to the store that are cut again and again cost retries, and neither an item nor a file', async () => {
  const [source, stored] = await Promise.all([toxiproxy().proxy(uniqueName('dynamo'), new URL(server.endpoint).host), toxiproxy().proxy(uniqueName('s3'), new URL(suite().s3.endpoint).host)]);
  try {
    // A page has about 8 KB, a file about 4: every third or so ends in the middle.
    await Promise.all([source.addToxic({ type: 'limit_data', stream: 'downstream', attributes: { bytes: 25_000 } }), stored.addToxic({ type: 'limit_data', stream: 'upstream', attributes: { bytes: 25_000 } })]);
    const { context, manifest, location } = await back(await contextOf({ endpoint: `http://${source.address}`, backup: { segments: 2, fileSize: '30KiB', pageItems: 20, readShare: 1 } }, { endpoint: `http://${stored.address}` }));
    const orders = manifest.tables.find(({ name }) => name === 'orders')!;
    expect(orders.capacity!.retries).toBeGreaterThan(3);
    expect(manifest.fingerprint.tables[0]).toEqual({ name: 'orders', ...(await hands.sums('orders')) });
    expect((await dynamodbEngine.readBack(context, { storeName: 'main', location, manifest }, {})).how).toContain('605 items');
  } finally {
    await Promise.all([source.delete(), stored.delete()]);
  }
});

/** An export as the service writes it, by hand. */
async function foreignExport(store: Store, bucket: string, items: readonly Item[], change: { summary?: object; file?: object; line?: string; md5?: string; drop?: boolean } = {}): Promise<string> {
  const folder = `${uniqueName('foreign')}/AWSDynamoDB/01693685827463-2d8752fd/`;
  const files = [items.slice(0, 3), items.slice(3)].map((part, index) => {
    const bytes = gzipSync(part.map((item) => `${JSON.stringify({ Item: item })}\n`).join('') + (index === 1 ? (change.line ?? '') : ''));
    return { bytes, entry: { itemCount: part.length, md5Checksum: md5(bytes), etag: 'x-1', dataFileS3Key: `${folder}data/asdl${index}.json.gz`, ...(index === 1 ? change.file : {}) } };
  });
  const text = files.map(({ entry }) => `${JSON.stringify(entry)}\n`).join('');
  const summary = JSON.stringify({
    version: '2020-06-30', exportArn: 'arn:aws:dynamodb:us-east-1:1:table/foreign/export/01693685827463-2d8752fd', startTime: '2023-09-02T20:17:07.463Z', endTime: '2023-09-02T20:22:07.463Z', tableArn: 'arn:aws:dynamodb:us-east-1:1:table/foreign', tableId: 'x', exportTime: '2023-09-02T20:17:07Z',
    s3Bucket: bucket, s3Prefix: null, s3SseAlgorithm: 'AES256', s3SseKmsKeyId: null, manifestFilesS3Key: `${folder}manifest-files.json`, billedSizeBytes: 0, itemCount: items.length, outputFormat: 'DYNAMODB_JSON', exportType: 'FULL_EXPORT', ...change.summary,
  });
  for (const [index, { bytes }] of files.entries()) if (!(change.drop === true && index === 1)) await store.put(`${folder}data/asdl${index}.json.gz`, bytes);
  for (const [name, body] of [['manifest-files.json', text], ['manifest-files.md5', change.md5 ?? md5(text)], ['manifest-summary.json', summary], ['manifest-summary.md5', md5(summary)]] as const) await store.put(`${folder}${name}`, body);
  return `s3://${bucket}/${folder}`;
}

describe("the service's own export", () => {
  test('is imported exactly, also with numbers in another spelling, and refused before the first write when it is not whole', async () => {
    const context = await contextOf();
    const store = await openStore(context, 'main');
    const bucket = bucketOf(context);
    const items = [...AWKWARD_ITEMS, ...numberedItems(0, 40)];
    await west.create('foreign');
    await restore(context, [await openExport(context, await foreignExport(store, bucket, items), signal)]);
    expect((await west.all('foreign')).map(canonicalText).sort()).toEqual(items.map(canonicalText).sort());
    for (const [change, code] of [
      [{ summary: { itemCount: 7 } }, 'export-invalid'], [{ summary: { exportType: 'INCREMENTAL_EXPORT' } }, 'export-invalid'], [{ summary: { outputFormat: 'ION' } }, 'export-invalid'], [{ md5: 'AAAA' }, 'object-damaged'], [{ drop: true }, 'object-missing'],
    ] as const) await expect(openExport(context, await foreignExport(store, bucket, items, change), signal)).rejects.toMatchObject({ code });
    await west.create('foreign2');
    made.push('foreign2');
    for (const [change, code] of [[{ line: '{"Item":' }, 'export-line'], [{ line: '{"Item":{"id":{"S":"more"}}}\n' }, 'object-damaged'], [{ file: { md5Checksum: 'AAAA' } }, 'object-damaged']] as const) {
      const source = { ...(await openExport(context, await foreignExport(store, bucket, items, change), signal)), table: 'foreign2' };
      await expect(importTable(source, await targetOf(context, 'foreign2'), { writeShare: 1, concurrency: 1, signal, onProgress: () => {} })).rejects.toMatchObject({ code });
    }
  });
});

/** Breaks off at the nth object that is stored: before it is, or when it is there and nobody has heard of it. */
function breakAt(context: Context, nth: number, when: 'before' | 'after'): Promise<{ count: () => number }> {
  const config = context.config.stores['main'] as never;
  let count = 0;
  return context.aws.s3(config).then((client) => {
    client.middlewareStack.add(
      (next, about) => async (args) => {
        if ((about as { commandName?: string }).commandName !== 'PutObjectCommand') return next(args);
        count += 1;
        if (count >= nth && when === 'before') throw Object.assign(new Error('the worker is lost'), { name: 'Lost' });
        const answer = await next(args);
        if (count >= nth) throw Object.assign(new Error('the worker is lost'), { name: 'Lost' });
        return answer;
      },
      { step: 'initialize', name: 'lost', override: true },
    );
    return { count: () => count };
  });
}

describe('a worker that is lost after any object', () => {
  test.each([['before', [1, 3, 7, 12, 16, 18, 19, 20, 21]], ['after', [2, 5, 9, 14, 17, 18, 19, 20, 21]]] as const)('(%s it is stored) loses at most the files under way: another goes on, no item is lost or there twice', async (when, points) => {
    const expected = await hands.sums('orders');
    const one = dynamoDatastore(server, ['orders'], { backup: { segments: 2, fileSize: '30KiB', pageItems: 50, readShare: 1 } });
    for (const nth of points) {
      const lost = await testConfig({ datastores: { items: one } });
      const id = uniqueName('lost');
      await breakAt(lost, nth, when);
      const failed = await back(lost, 1, id).then(() => false, () => true);
      lost.close();
      const heir = await testConfig({ stores: { main: { bucket: bucketOf(lost) } }, datastores: { items: one } });
      contexts.push(heir);
      const store = await openStore(heir, 'main');
      const before = `items/2026/01/02/030405Z-${id}/`;
      if (!failed || (await store.head(`${before}COMMIT`)) !== undefined) {
        // Committed after all, the answer alone was lost: then it is whole, since the workflow takes it for the backup.
        await dynamodbEngine.readBack(heir, { storeName: 'main', location: before, manifest: (await readManifest(store, before)) as DynamodbManifest }, {});
        continue;
      }
      await store.delete(`items/2026/01/02/030405Z-${id}/manifest.json`);
      const { count } = await breakAt(heir, Infinity, 'after');
      const { manifest, location } = await back(heir, 2, id);
      expect(manifest.fingerprint.tables).toEqual([{ name: 'orders', ...expected }]);
      expect((await dynamodbEngine.readBack(heir, { storeName: 'main', location, manifest }, {})).how).toContain('600 items');
      // The notes of an earlier attempt spare this one what was finished: a file and its note each.
      expect(count()).toBeLessThan(nth > 12 ? 24 : 40);
      for await (const { key } of store.list(location)) expect(key).not.toContain('/state/');
    }
  });
});

describe('an encrypted backup', () => {
  test('shows no item and no key in the store, goes on after a loss where it may decrypt, and starts over where it may not', async () => {
    const { identityToRecipient, generateIdentity } = await import('age-encryption');
    const key = await generateIdentity();
    process.env['HOLDFAST_TEST_AGE'] = key;
    const recipient = await identityToRecipient(key);
    const counts: number[] = [];
    for (const encryption of [{ recipients: [recipient], identity: 'env:HOLDFAST_TEST_AGE' }, { recipients: [recipient] }]) {
      const context = await contextOf({}, { encryption });
      const id = uniqueName('sealed');
      await breakAt(context, 12, 'after');
      await expect(back(context, 1, id)).rejects.toThrow('lost');
      const store = await openStore(context, 'main');
      for await (const object of store.list('items/')) expect((await bytesOf(store, object.key)).includes('item-')).toBe(false);
      const heir = await testConfig({ stores: { main: { bucket: bucketOf(context), encryption } }, datastores: { items: dynamoDatastore(server, ['orders', 'people', 'nobody'], { backup: { segments: 2, fileSize: '30KiB', pageItems: 50, readShare: 1 } }) } });
      contexts.push(heir);
      const { count } = await breakAt(heir, Infinity, 'after');
      const { manifest, location } = await back(heir, 2, id);
      expect(manifest.fingerprint.tables.find(({ name }) => name === 'orders')).toEqual({ name: 'orders', ...(await hands.sums('orders')) });
      counts.push(count());
      if (encryption.identity === undefined) continue;
      expect((await dynamodbEngine.readBack(heir, { storeName: 'main', location, manifest }, {})).how).toContain('605 items');
    }
    expect(counts[0]).toBeLessThan(counts[1]!);
  });
});

describe('planted faults', () => {
  test('in a stored file are caught by verify, and an item that was changed with all checksums of ours is caught by the sums', async () => {
    const { context, store, location, manifest } = await back(await contextOf());
    const verify = (of: DynamodbManifest): Promise<unknown> => dynamodbEngine.readBack(context, { storeName: 'main', location, manifest: of }, {});
    const file = manifest.objects.find(({ name, role }) => role === 'data' && name.startsWith('orders/'))!;
    const original = await bytesOf(store, `${location}${file.name}`);
    const lines = gunzipSync(original).toString('utf8').split('\n').slice(0, -1);
    const changes: Readonly<Record<string, readonly string[]>> = {
      changed: [lines[0]!.replace(/"n":\{"N":"\d+"\}/, '"n":{"N":"7777"}'), ...lines.slice(1)],
      removed: lines.slice(1),
      added: [...lines, '{"Item":{"id":{"S":"added"}}}'],
      'removed and added': [...lines.slice(1), '{"Item":{"id":{"S":"added"}}}'],
    };
    for (const changed of Object.values(changes)) {
      const plain = Buffer.from(`${changed.join('\n')}\n`);
      const bytes = gzipSync(plain);
      await store.put(`${location}${file.name}`, bytes);
      await expect(verify(manifest)).rejects.toMatchObject({ code: 'object-damaged' });
      // By somebody who can write the manifest as well, but does not know how items are summed.
      const sha256 = (of: Buffer): string => createHash('sha256').update(of).digest('hex');
      const forged = { ...manifest, objects: manifest.objects.map((entry) => (entry.name === file.name ? { ...entry, storedBytes: bytes.length, storedSha256: sha256(bytes), plainBytes: plain.length, plainSha256: sha256(plain) } : entry)), tables: manifest.tables.map((table) => ({ ...table, files: table.files.map((one) => (one.object === file.name ? { ...one, items: changed.length } : one)) })) };
      await expect(verify(forged)).rejects.toMatchObject({ code: 'object-damaged', message: expect.stringContaining('other items than were backed up') as string });
    }
    await store.put(`${location}${file.name}`, original);
    await expect(verify(manifest)).resolves.toBeDefined();
    await store.delete(`${location}${file.name}`);
    await expect(verify(manifest)).rejects.toMatchObject({ code: 'object-missing' });
  });
});
