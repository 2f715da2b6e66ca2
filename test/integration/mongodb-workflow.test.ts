import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { BSON } from 'mongodb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { createProcesses, startFerret, type FerretServer, type Processes } from '../../src/local/stack.ts';
import { ferretArgv } from '../../src/local/ferretdb.ts';
import { WORKFLOW_IDS, type BackupResult, type RestoreDrillResult } from '../../src/model/api.ts';
import type { MongodbManifest } from '../../src/model/manifest-mongodb.ts';
import { listBackups, readManifest } from '../../src/systems/backup-catalogue.ts';
import { settleAttempt } from '../../src/systems/backup-write.ts';
import type { Context } from '../../src/systems/context.ts';
import { drillName } from '../../src/systems/drill-folder.ts';
import { createMongodbTarget, openMongodbTarget } from '../../src/systems/mongodb-drill-target.ts';
import { mongodbEngine } from '../../src/systems/mongodb-engine.ts';
import { openStore } from '../../src/systems/store.ts';
import { runHere, startHoldfast, secretsOfTest } from '../cli/program.ts';
import { documentsOf, fillShop, insertDocuments, onServer, orderDocument } from '../mongodb-support.ts';
import { connectTemporal, runningWorker, suite, testConfig, testDirectory, toxiproxy, uniqueName, type ConfigOverrides } from '../support.ts';
import { keysIn, uploadsIn } from './backup-broken.ts';

let processes: Processes;
let source: FerretServer;
let servers = 0;
const contexts: Context[] = [];
const execute = promisify(execFile);

beforeAll(async () => {
  processes = createProcesses();
  source = await startFerret({ processes, directory: processes.directory, name: 'source' });
  await fillShop(source);
});
afterAll(async () => {
  for (const context of contexts) context.close();
  await processes.end();
});

async function config(datastore: ConfigOverrides = {}, more: ConfigOverrides = {}): Promise<Context> {
  const context = await testConfig({ datastores: { shop: { engine: 'mongodb', uri: source.uri, store: 'main', drill: { server: ferretArgv() }, ...datastore } }, ...more });
  contexts.push(context);
  return context;
}

async function emptyServer(): Promise<FerretServer> {
  servers += 1;
  return startFerret({ processes, directory: processes.directory, name: `target-${servers}` });
}

const signal = (): AbortSignal => new AbortController().signal;
const LOCATION = 'shop/2026/01/02/030405Z-one/';

function backUp(context: Context, options: { attempt?: number; signal?: AbortSignal; onProgress?: (tables: number) => void } = {}): Promise<BackupResult> {
  const request = { datastore: 'shop', id: 'one', location: LOCATION, reason: 'test', workflowId: 'w', runId: 'r', attempt: options.attempt ?? 1 };
  return mongodbEngine.backUp(context, request, { signal: options.signal ?? signal(), onProgress: ({ tables }) => options.onProgress?.(tables) });
}

async function manifestOf(context: Context, location = LOCATION): Promise<MongodbManifest> {
  return (await readManifest(await openStore(context, 'main'), location)) as MongodbManifest;
}

const verified = async (context: Context): Promise<string> => (await mongodbEngine.readBack(context, { storeName: 'main', location: LOCATION, manifest: await manifestOf(context) }, {})).how;
const below = async (context: Context): Promise<string[]> => (await keysIn(context)).map((key) => key.replace(/^.*?Z-[a-z0-9-]+\//, '')).sort();

describe('one backup', () => {
  test.each([['gzip', 'gz', ['shop.orders', 'shop.rec*']], ['zstd', 'zst', ['stock.per place', 'shop.empty']]] as const)('is the folder that mongorestore reads, in %s; its own commands put it there', async (compression, ending, collections) => {
    const context = await config({ store: 'files', backup: { compression, include: { collections: [...collections] } } }, { stores: { files: { type: 'folder', path: testDirectory('files') } } });
    await backUp(context);
    const names = compression === 'gzip' ? ['shop/orders', 'shop/recent'] : ['shop/empty', 'stock/per%20place'];
    const store = await openStore(context, 'files');
    const keys: string[] = [];
    for await (const { key } of store.list(LOCATION)) keys.push(key.slice(LOCATION.length));
    expect(keys.sort()).toEqual([...names.flatMap((name) => [`1/${name}.bson.${ending}`, `1/${name}.metadata.json.${ending}`]), 'COMMIT', 'manifest.json']);
    const manifest = (await readManifest(store, LOCATION)) as MongodbManifest;
    expect(manifest).toMatchObject({ engine: 'mongodb', format: 3, source: { topology: 'standalone', consistency: 'per collection', atClusterTime: null, serverVersion: expect.stringMatching(/^7\./) as string } });

    // By hand, with nothing of ours.
    const folder = testDirectory('by-hand');
    const filled = manifest.commands.filter(({ command }) => !command.startsWith('mongorestore')); // Not to be had here.
    await Promise.all(filled.map(async ({ what, command }) => {
      const { stdout } = await execute('bash', ['-c', `set -o pipefail; ${command}`], { cwd: folder });
      expect(stdout).toContain(/must print ([0-9a-f]{64})/.exec(what)?.[1] ?? '');
    }));
    const plain = (path: string): Buffer => (compression === 'gzip' ? gunzipSync(readFileSync(join(folder, 'dump', `${path}.gz`))) : readFileSync(join(folder, 'dump', path)));
    const bytes = plain(`${names[compression === 'gzip' ? 0 : 1]}.bson`);
    const documents: Record<string, unknown>[] = [];
    // The library's own reader walks the file.
    for (let at = 0; at < bytes.length; at += bytes.readInt32LE(at)) documents.push(BSON.deserialize(bytes.subarray(at, at + bytes.readInt32LE(at))));
    const metadata = names.map((name) => BSON.EJSON.parse(plain(`${name}.metadata.json`).toString()) as object);
    const expected = compression === 'gzip'
      ? { documents: Array.from({ length: 2500 }, (_, index) => orderDocument(index)), metadata: [{ collectionName: 'orders', type: 'collection', indexes: [{ name: '_id_' }, { name: 'customer_at', key: { customer: 1, at: -1 } }, { name: 'number', unique: true }] }, { options: { capped: true, size: 1_000_000, max: 1000 } }] }
      : { documents: Array.from({ length: 40 }, (_, index) => ({ _id: `place ${index}`, b: index, '10': 'x', '2': 'y' })), metadata: [{ collectionName: 'empty' }, { collectionName: 'per place' }] };
    expect(documents).toEqual(expected.documents);
    expect(metadata[0]).toMatchObject({ uuid: expect.stringMatching(/^[0-9a-f]{32}$/) as string });
    expect(metadata).toMatchObject(expected.metadata);
    expect(manifest.commands.at(-1)!.command).toMatch(compression === 'gzip' ? /^mongorestore --gzip / : /^mongorestore --host/);
  });

  test('consistency: required is refused where the server has no common moment, and a selection is recorded', async () => {
    await expect(backUp(await config({ backup: { consistency: 'required' } }))).rejects.toMatchObject({ code: 'snapshot-required', retryable: false });
    const context = await config({ backup: { include: { databases: ['stock'] } } });
    await expect(backUp(context)).resolves.toMatchObject({ tables: 1, rows: '40', words: { tables: 'collections', rows: 'documents' } });
    expect((await manifestOf(context)).selection).toMatchObject({ complete: false, include: { databases: ['stock'] } });
    await expect(backUp(await config({ backup: { include: { databases: ['no-such'] } } }))).rejects.toMatchObject({ code: 'selection-unmatched' });
  });

  test('a second attempt goes on with what the first has finished; what nobody names is removed', async () => {
    const context = await config({ backup: { concurrency: 1, batchDocuments: 100 } });
    const stop = new AbortController();
    await expect(backUp(context, { signal: stop.signal, onProgress: (tables) => void (tables === 2 && stop.abort(new Error('the worker ends'))) })).rejects.toThrow('the worker ends');
    expect(await below(context)).toEqual(expect.arrayContaining(['state/1-1.json', 'state/1-2.json', 'state/begun.json', '1/shop/orders.bson.zst']));
    expect(await below(context)).not.toContain('COMMIT');
    expect(await settleAttempt(context, 'shop', LOCATION, true)).toBeUndefined();
    await backUp(context, { attempt: 2 });
    const kept = ['1/shop/empty', '1/shop/orders', '2/shop/recent', '2/stock/per%20place'];
    expect(await below(context)).toEqual(['COMMIT', 'manifest.json', ...kept.flatMap((name) => [`${name}.bson.zst`, `${name}.metadata.json.zst`])].sort());
    expect(await verified(context)).toContain('2840 documents');
  });

  test('two attempts at once, since the first was only believed dead: one is committed, and it is whole', async () => {
    const context = await config({ backup: { concurrency: 1, batchDocuments: 100, maxBytesPerSecond: '1MB' } });
    const first = backUp(context);
    await expect.poll(() => below(context), { interval: 20 }).toContain('state/begun.json');
    const outcomes = await Promise.allSettled([first, backUp(context, { attempt: 2 })]);
    // Whoever comes to the commit second finds the other's manifest, and calls that one its own.
    const ended = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    expect(ended.length).toBeGreaterThan(0);
    for (const one of ended) expect({ ...one, durationMs: 0 }).toEqual({ ...ended[0]!, durationMs: 0 });
    expect(await verified(context)).toContain('2840 documents');
    const store = await openStore(context, 'main');
    expect(await listBackups(store, store.prefix, 'shop')).toHaveLength(1);
  });

  test('a cursor or connection that is cut costs one collection; a source that is gone commits nothing', async () => {
    const proxy = await toxiproxy().proxy(uniqueName('mongo'), `127.0.0.1:${source.port}`);
    try {
      const context = await config({ uri: `mongodb://${proxy.address}/?directConnection=true&serverSelectionTimeoutMS=500`, backup: { concurrency: 1, batchDocuments: 100 } });
      // Each connection ends after 300 kB: none can read all orders.
      await proxy.addToxic({ type: 'limit_data', attributes: { bytes: 300_000 } });
      const cut = backUp(context, { onProgress: (tables) => void (tables === 1 && !lifted && lift()) });
      let lifted = false;
      const lift = (): void => {
        lifted = true;
        // After the first batches of orders went through; whatever was begun is cut.
        void pause(50).then(() => proxy.setEnabled(false)).then(() => proxy.removeToxics()).then(() => proxy.setEnabled(true));
      };
      await cut;
      expect(lifted).toBe(true);
      expect(await verified(context)).toContain('2840 documents');

      const gone = await config({ uri: `mongodb://${proxy.address}/?directConnection=true&serverSelectionTimeoutMS=300`, backup: { concurrency: 1, batchDocuments: 100, maxBytesPerSecond: '500kB' } });
      await expect(backUp(gone, { onProgress: (tables) => void (tables === 1 && proxy.setEnabled(false)) })).rejects.toMatchObject({ code: expect.stringMatching(/^mongodb-/) as string, retryable: true });
      expect(await below(gone)).not.toContain('COMMIT');
      expect(await uploadsIn(gone)).toBe(0);
    } finally {
      await proxy.delete();
    }
  });

  test('a store that is gone, and a cancellation, commit nothing and leave no upload', async () => {
    const proxy = await toxiproxy().proxy(uniqueName('store'), new URL(suite().s3.endpoint).host);
    try {
      const context = await config({ backup: { concurrency: 1, maxBytesPerSecond: '500kB' } }, { stores: { main: { endpoint: `http://${proxy.address}` } } });
      await expect(backUp(context, { onProgress: (tables) => void (tables === 1 && proxy.setEnabled(false)) })).rejects.toMatchObject({ retryable: true });
      await proxy.setEnabled(true);
      expect(await below(context)).not.toContain('COMMIT');
      const stop = new AbortController();
      const other = await config({ backup: { concurrency: 1, batchDocuments: 100, maxBytesPerSecond: '500kB' } });
      await expect(backUp(other, { signal: stop.signal, onProgress: (tables) => void (tables === 1 && stop.abort(new Error('cancelled by hand'))) })).rejects.toThrow('cancelled by hand');
      expect(await uploadsIn(other)).toBe(0);
      await settleAttempt(other, 'shop', LOCATION);
      expect(await below(other)).toEqual([]);
    } finally {
      await proxy.delete();
    }
  });
});

// Each test has its own store, queue and servers. Waiting for the heartbeat of a dead worker costs most of the time: the others run meanwhile.
describe.concurrent('through the workflows', () => {
  async function run<T>(context: Context, type: string, workflowId: string, input: object): Promise<T> {
    const client = await connectTemporal(context);
    try {
      return (await client.workflow.execute(type, { taskQueue: context.config.temporal.taskQueue, workflowId, args: [input] })) as T;
    } finally {
      await client.connection.close();
    }
  }
  const start = (context: Context): Promise<BackupResult> => run(context, 'backup', WORKFLOW_IDS.backup('shop', uniqueName('t')), { datastore: 'shop', reason: 'test' });
  const drill = (context: Context, input: object = {}): Promise<RestoreDrillResult> => run(context, 'restoreDrill', uniqueName('drill/shop'), { datastore: 'shop', ...input });

  test('backed up, retained, drilled with checks and evidence; restored by one command, and by a container that starts', async ({ expect }) => {
    const checks = [
      { name: 'orders are there', mongodb: { database: 'shop', collection: 'orders', pipeline: [{ $match: { customer: 5 } }, { $count: 'orders' }] }, expect: { equals: 26 } },
      { name: 'the newest is young', mongodb: { database: 'shop', collection: 'orders', pipeline: [{ $sort: { _id: -1 } }, { $limit: 1 }, { $project: { _id: 0, number: 1 } }] }, expect: { equals: 'N-2499' } },
    ];
    const context = await config({ retention: { last: 1 } }, { services: { orders: { objectives: { rto: '10m', rpo: '1h' }, datastores: ['shop'], checks } } });
    const worker = await runningWorker(context);
    const program = (...args: string[]): Promise<{ code: number | null; out: string; err: string }> => runHere([...args, '--config', context.configPath], { env: secretsOfTest() });
    try {
      await start(context);
      const backup = await start(context);
      expect(backup).toMatchObject({ tables: 4, rows: '2840', words: { tables: 'collections', rows: 'documents' } });
      const drilled = await drill(context);
      expect(drilled).toMatchObject({ outcome: 'verified', backup: backup.id, proof: { exact: true, compared: { tables: 4, rows: '2840' } }, checks: [{ ok: true, found: '26' }, { ok: true }], objectives: { rtoMs: 600_000 } });
      expect(readdirSync(join(context.workDirectory, 'drills-mongodb'))).toEqual([]);
      await expect.poll(async () => (await keysIn(context)).filter((key) => key.endsWith('COMMIT')), { timeout: 20_000 }).toHaveLength(1);
      expect(await program('evidence', 'verify', drilled.evidence!)).toMatchObject({ code: 0, out: expect.stringMatching(/intact[\s\S]*Restore drill of shop[\s\S]*exact: 4 collections with 2840 documents/) as string });
      expect((await program('verify', backup.id)).out).toContain('2840 documents were read to their ends');

      const target = await emptyServer();
      const args = ['restore', 'newest', '--datastore', 'shop', '--to', target.uri];
      const restored = await program(...args, '--if-empty');
      expect(restored).toMatchObject({ code: 0, out: expect.stringMatching(/is restored into 127[\s\S]*2840 documents[\s\S]*proof +exact: 4 collections with 2840 documents/) as string });
      expect(await documentsOf(target, 'shop', 'recent')).toEqual(await documentsOf(source, 'shop', 'recent'));
      expect(await program(...args, '--if-empty')).toMatchObject({ code: 0, out: expect.stringContaining('is not empty') as string });
      expect(await program(...args)).toMatchObject({ code: 4, err: expect.stringContaining('nothing was changed') as string });
      expect(await program('restore', 'newest', '--datastore', 'shop', '--to', 'mongodb://me:hunter2@127.0.0.1/')).toMatchObject({ code: 2, err: expect.not.stringContaining('hunter2') as string });
      expect(await program(...args, '--no-owner')).toMatchObject({ code: 2, err: expect.stringContaining('say') as string });
    } finally {
      await worker.stop();
    }
  });

  test('what was planted in a stored object makes the drill call the backup bad', async ({ expect }) => {
    const context = await config();
    const worker = await runningWorker(context);
    try {
      const backup = await start(context);
      const store = await openStore(context, 'main');
      const manifest = await manifestOf(context, backup.location);
      const orders = manifest.objects.find(({ name }) => name.endsWith('orders.bson.zst'))!;
      const stored = Buffer.concat((await (await store.get(backup.location + orders.name)).toArray()) as Buffer[]);
      stored[stored.length >> 1]! ^= 0xff;
      await store.put(backup.location + orders.name, stored);
      const drilled = await drill(context);
      expect(drilled).toMatchObject({ outcome: 'bad', message: expect.stringContaining('damaged') as string });
      expect(readdirSync(join(context.workDirectory, 'drills-mongodb'))).toEqual([]);
      await expect(mongodbEngine.readBack(context, { storeName: 'main', location: backup.location, manifest }, {})).rejects.toMatchObject({ code: 'object-damaged' });
    } finally {
      await worker.stop();
    }
  });

  test('a worker killed with SIGKILL: another one goes on where it stood, and nothing else is left', async ({ expect }) => {
    const context = await config({ backup: { concurrency: 1, batchDocuments: 100, maxBytesPerSecond: '30kB' } });
    const workers = [startHoldfast(['worker', '--config', context.configPath], { env: secretsOfTest() })];
    try {
      const running = start(context);
      running.catch(() => {});
      const states = async (): Promise<string[]> => (await below(context)).filter((key) => key.startsWith('state/1-'));
      // `empty` and `orders` are done; `recent` is being read.
      await expect.poll(states, { timeout: 60_000, interval: 50 }).toHaveLength(2);
      workers[0]!.child.kill('SIGKILL');
      await once(workers[0]!.child, 'exit');
      expect(await below(context)).not.toContain('COMMIT');
      const document = parse(readFileSync(context.configPath, 'utf8')) as { datastores: { shop: { backup: object } } };
      document.datastores.shop.backup = { concurrency: 1 };
      writeFileSync(context.configPath, stringify(document));
      workers.push(startHoldfast(['worker', '--config', context.configPath], { env: secretsOfTest() }));
      const backup = await running;
      const { objects } = await manifestOf(context, backup.location);
      expect(objects.map(({ name }) => name.split('.bson')[0]!).filter((name) => !name.endsWith('zst'))).toEqual(['1/shop/empty', '1/shop/orders', '2/shop/recent', '2/stock/per%20place']);
      expect(await below(context)).toEqual(['COMMIT', 'manifest.json', ...objects.map(({ name }) => name)].sort());
      expect(await uploadsIn(context)).toBe(0);
    } finally {
      for (const { child } of workers) child.kill('SIGKILL');
    }
  }, 240_000);
});

describe.concurrent('a drill target', () => {
  const identity = { datastore: 'shop', workflowId: 'drill/shop/x', runId: 'r' };

  test('of a drill that no longer runs is swept with its server; that of a running one stays', async ({ expect }) => {
    const context = await config();
    await backUp(context);
    const target = await createMongodbTarget(context, identity, await manifestOf(context), signal());
    expect(target).toMatchObject({ name: drillName(identity), isolation: 'loopback only' });
    expect(await mongodbEngine.drill.sweep(context, async () => true)).toEqual([]);
    await openMongodbTarget(context, target.name);
    expect(await mongodbEngine.drill.sweep(context, async () => false)).toEqual([target.name]);
    await expect(openMongodbTarget(context, target.name)).rejects.toMatchObject({ code: 'drill-target-gone' });
    await expect(onServer({ uri: `${target.connection.uri}&serverSelectionTimeoutMS=300` }, (client) => client.db('admin').command({ ping: 1 }))).rejects.toMatchObject({ code: 'mongodb-connect' });
    expect(await mongodbEngine.drill.destroy(context, { datastore: 'shop', targetName: target.name })).toEqual({ existed: false });
  });

  test('a server that does not start is a fault of the host, said with its own words', async ({ expect }) => {
    const context = await config({ drill: { server: ['sh', '-c', 'echo no such license >&2; exit 3', '{port}'] } });
    await backUp(context);
    await expect(createMongodbTarget(context, identity, await manifestOf(context), signal())).rejects.toMatchObject({ code: 'drill-target-start', message: expect.stringContaining('no such license') as string });
    expect(readdirSync(join(context.workDirectory, 'drills-mongodb'))).toEqual([]);
  });

  test('that is given by its address is never the source, never one in use, and is empty again afterwards', async ({ expect }) => {
    const production = await config({ drill: { uri: source.uri } });
    await backUp(production);
    const manifest = await manifestOf(production);
    await expect(createMongodbTarget(production, identity, manifest, signal())).rejects.toMatchObject({ code: 'drill-target-production' });
    expect(await documentsOf(source, 'shop', 'orders')).toHaveLength(2500);

    const given = await emptyServer();
    await insertDocuments(given, 'somebody', 'elses', [{ _id: 1 }]);
    const context = await config({ drill: { uri: given.uri } });
    await expect(createMongodbTarget(context, identity, manifest, signal())).rejects.toMatchObject({ code: 'drill-target-used' });
    expect(await documentsOf(given, 'somebody', 'elses')).toHaveLength(1);
    await onServer(given, (server) => server.db('somebody').dropDatabase());

    await backUp(context);
    const own = await manifestOf(context);
    const call = { ...identity, service: null, storeName: 'main', location: LOCATION, targetName: drillName(identity) };
    const options = { signal: signal(), onProgress: (): void => {} };
    await mongodbEngine.drill.start(context, call, own, options);
    expect(await mongodbEngine.drill.restore(context, call, own, options)).toMatchObject({ bad: null });
    await expect(mongodbEngine.drill.restore(context, call, own, options)).rejects.toMatchObject({ code: 'drill-target-gone' });
    expect(await mongodbEngine.drill.prove(context, call, own, options)).toMatchObject({ exact: true });
    const failing = [{ name: 'writes', mongodb: { database: 'shop', collection: 'orders', pipeline: [{ $out: 'copy' }] }, expect: {} }, { name: 'too few', mongodb: { database: 'shop', collection: 'empty', pipeline: [{ $count: 'n' }] }, expect: { atLeast: 1 } }];
    expect(await mongodbEngine.drill.check(context, call, failing, { ...options, timeoutMs: 10_000 })).toMatchObject([{ ok: false, found: expect.stringContaining('a check only reads') as string }, { ok: false, found: 'no row' }]);
    expect(await mongodbEngine.drill.destroy(context, call)).toEqual({ existed: true });
    expect(await onServer(given, async (server) => (await server.db('admin').command({ listDatabases: 1 }))['databases'] as unknown[])).toEqual([]);
  });

  test('readiness says what a backup would meet', async ({ expect }) => {
    expect(await mongodbEngine.ready!(await config(), 'shop', signal())).toMatchObject([{ ok: true, found: expect.stringContaining('standalone') as string }, { ok: true, found: '4 collections, 0 views' }, { ok: true }]);
    expect(await mongodbEngine.ready!(await config({ uri: 'mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200' }), 'shop', signal())).toMatchObject([{ ok: false, weight: 'unknown' }]);
  });
});

// It changes PATH, so nothing runs beside it.
describe('mongodump, stood for by a script since it cannot be had here', () => {
  const SCRIPT = `#!/bin/sh
here=$(dirname "$0")
case "$1" in --version) echo 'mongodump version: 100.9.9'; exit 0;; esac
echo "$@" >> "$here/argv"
for word in "$@"; do case "$word" in --config=*) file=\${word#--config=}; cp "$file" "$here/config"; stat -c %a "$file" > "$here/mode";; --db=*) db=\${word#--db=};; --collection=*) collection=\${word#--collection=};; esac; done
cat "$here/$db.$collection"
exit $(cat "$here/code")
`;
  function standIn(files: Readonly<Record<string, Buffer>>, code = 0): string {
    const folder = testDirectory('mongodump');
    writeFileSync(join(folder, 'mongodump'), SCRIPT);
    chmodSync(join(folder, 'mongodump'), 0o755);
    writeFileSync(join(folder, 'code'), String(code));
    for (const [name, bytes] of Object.entries(files)) writeFileSync(join(folder, name), bytes);
    return folder;
  }
  async function withTool<T>(folder: string, work: () => Promise<T>): Promise<T> {
    const before = process.env['PATH'];
    process.env['PATH'] = `${folder}${delimiter}${before}`;
    try {
      return await work();
    } finally {
      process.env['PATH'] = before;
    }
  }

  test('its output goes the same way; the password is in a file that only the worker reads, and is gone afterwards', async () => {
    const bytes = Buffer.concat((await documentsOf(source, 'stock', 'per place')).map((hex) => Buffer.from(hex, 'hex')));
    process.env['HOLDFAST_TEST_MONGO_PASSWORD'] = 'hunter2 & more';
    const context = await config({ backup: { tool: 'mongodump', include: { databases: ['stock'] } }, username: 'backup', password: 'env:HOLDFAST_TEST_MONGO_PASSWORD', uri: `mongodb://127.0.0.1:${source.port}/?directConnection=true&authMechanism=PLAIN` });
    const folder = standIn({ 'stock.per place': bytes });
    await withTool(folder, () => backUp(context));
    const argv = readFileSync(join(folder, 'argv'), 'utf8');
    expect(argv).toMatch(/^--config=\S+ --db=stock --collection=per place --readPreference=primary --out=- --quiet\n$/);
    expect(readFileSync(join(folder, 'mode'), 'utf8').trim()).toBe('600');
    expect(readFileSync(join(folder, 'config'), 'utf8')).toBe(`uri: "mongodb://backup:hunter2%20%26%20more@127.0.0.1:${source.port}/?directConnection=true&authMechanism=PLAIN&authSource=admin"\n`);
    expect(existsSync(/--config=(\S+)/.exec(argv)![1]!)).toBe(false);
    const manifest = await manifestOf(context);
    expect(manifest).toMatchObject({ tools: { mongodump: 'mongodump version: 100.9.9' }, source: { consistency: 'per collection', consistencyNote: 'mongodump reads collection by collection' } });
    expect(JSON.stringify(manifest)).not.toContain('hunter2');
    expect(await verified(context)).toContain('40 documents');
  });

  test('output that ends early, or a program that fails after its last byte, is no backup', async () => {
    const bytes = Buffer.concat((await documentsOf(source, 'stock', 'per place')).map((hex) => Buffer.from(hex, 'hex')));
    for (const [content, code, error] of [[bytes.subarray(0, -3), 0, 'bson-truncated'], [bytes, 1, 'child-failed']] as const) {
      const context = await config({ backup: { tool: 'mongodump', include: { databases: ['stock'] } } });
      await expect(withTool(standIn({ 'stock.per place': content }, code), () => backUp(context))).rejects.toMatchObject({ code: error });
      expect(await below(context)).not.toContain('COMMIT');
    }
  });
});
