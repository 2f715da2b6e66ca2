import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UUID, type Document } from 'mongodb';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { BackupResult } from '../../src/model/api.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import type { MongodbManifest } from '../../src/model/manifest-mongodb.ts';
import { sameMajor } from '../../src/model/mongodb-version.ts';
import { openObject, readManifest } from '../../src/systems/backup-catalogue.ts';
import type { Context } from '../../src/systems/context.ts';
import { drillName, type DrillIdentity } from '../../src/systems/drill-folder.ts';
import { withMongodb } from '../../src/systems/mongodb.ts';
import { createMongodbTarget, destroyMongodbTarget, openMongodbTarget } from '../../src/systems/mongodb-drill-target.ts';
import { mongodbEngine } from '../../src/systems/mongodb-engine.ts';
import { interruptedRestore } from '../../src/systems/mongodb-mark.ts';
import { restoreMongodb, type MongodbRestoreOptions } from '../../src/systems/mongodb-restore.ts';
import { openState } from '../../src/systems/mongodb-state.ts';
import { alreadyThere, openStore, type Store } from '../../src/systems/store.ts';
import { refusal, scriptedServer, type ScriptedServer } from '../mongodb-script.ts';

const LOCATION = 'shop/2026/01/02/030405Z-one/';
let server: ScriptedServer;
let folder: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-scripted-'));
  server = await scriptedServer();
  server.collection('shop.orders', [{ _id: 1, a: 1 }, { _id: 2, a: 2 }]);
  server.collection('shop.people', [{ _id: 'x' }]);
});
afterEach(async () => {
  await server.close();
  rmSync(folder, { recursive: true });
});

function contextOf(backup: object = {}): Context {
  const config = configSchema.parse({ version: 1, stores: { main: { type: 'folder', path: folder } }, datastores: { shop: { engine: 'mongodb', uri: server.uri, store: 'main', backup: { concurrency: 1, ...backup } } }, services: {} });
  return { config, secrets: { resolve: async () => 'secret' }, log: { warn() {}, info() {}, error() {} }, workDirectory: folder } as unknown as Context;
}

function backUp(context: Context, attempt = 1): Promise<BackupResult> {
  const request = { datastore: 'shop', id: 'one', location: LOCATION, reason: 'test', workflowId: 'w', runId: 'r', attempt };
  return mongodbEngine.backUp(context, request, { signal: new AbortController().signal });
}

async function manifestOf(context: Context): Promise<MongodbManifest> {
  return (await readManifest(await openStore(context, 'main'), LOCATION)) as MongodbManifest;
}

async function keys(context: Context): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of (await openStore(context, 'main')).list(LOCATION)) found.push(key.slice(LOCATION.length));
  return found;
}

/** When the documents of a collection are read as of the moment; not the read that is given the moment. */
const dumps = (command: Document, name: string): boolean => command['find'] === name && command['limit'] === undefined;

describe('a backup of a replica set', () => {
  test('is of one moment, which every read asks for', async () => {
    const context = contextOf({ consistency: 'required' });
    await backUp(context);
    const { source } = await manifestOf(context);
    expect(source).toMatchObject({ topology: 'replica set', consistency: 'snapshot', consistencyNote: null, atClusterTime: expect.stringMatching(/^17\d+,1$/) as string });
    const reads = server.commands.filter((command) => command['find'] !== undefined && command['limit'] === undefined);
    expect(reads.map((command) => String(command['readConcern'].atClusterTime.t ?? command['readConcern'].atClusterTime.getHighBits()))).toEqual([source.atClusterTime!.split(',')[0], source.atClusterTime!.split(',')[0]]);
  });

  test('a user who may not list all databases gets no backup of some of them, unless they are named', async () => {
    server.collection('hidden.things', [{ _id: 1 }]);
    // The documented answer: with authorizedDatabases left out, only those that may be read.
    server.script = (command) => (command['listDatabases'] === undefined ? undefined : command['authorizedDatabases'] === false ? refusal(13, 'not authorized on admin') : { ok: 1, databases: [{ name: 'shop' }] });
    await expect(backUp(contextOf())).rejects.toMatchObject({ code: 'mongodb-denied', retryable: false, next: expect.stringContaining('role backup') as string });
    const context = contextOf({ include: { databases: ['shop'] } });
    await expect(backUp(context)).resolves.toMatchObject({ tables: 2 });
  });

  test.each(['index', 'drop and make anew'])('a definition of later is not put to documents of the moment: %s', async (what) => {
    server.script = (command) => {
      if (dumps(command, 'orders')) {
        const people = server.collections.get('shop.people')!;
        if (what === 'index') people.indexes.push({ v: 2, key: { late: 1 }, name: 'late', unique: true });
        else people.uuid = new UUID();
        server.script = () => undefined;
      }
      return undefined;
    };
    const context = contextOf({ consistency: 'required' });
    await expect(backUp(context)).rejects.toMatchObject({ code: 'snapshot-gone', retryable: true, message: expect.stringContaining('shop.people') as string });
    // The next attempt has a new moment.
    await backUp(context, 2);
    expect(await manifestOf(context)).toMatchObject({ source: { consistency: 'snapshot' }, fingerprint: { collections: [{ name: 'orders' }, { name: 'people', indexes: what === 'index' ? [{ name: '_id_' }, { name: 'late' }] : [{ name: '_id_' }] }] } });
  });

  test('a collection dropped after the moment is left out by name, and the backup is degraded; required begins with a new moment', async () => {
    const dropPeople = (): void => {
      server.collection('shop.people', [{ _id: 'x' }]);
      server.script = (command) => {
        if (dumps(command, 'orders')) server.collections.delete('shop.people');
        return undefined;
      };
    };
    dropPeople();
    const preferred = contextOf();
    await expect(backUp(preferred)).resolves.toMatchObject({ tables: 1, degraded: expect.stringMatching(/left out: shop\.people/) as string });
    expect(await manifestOf(preferred)).toMatchObject({ source: { consistency: 'per collection', atClusterTime: null } });
    rmSync(join(folder, 'shop'), { recursive: true });
    dropPeople();
    const required = contextOf({ consistency: 'required' });
    await expect(backUp(required)).rejects.toMatchObject({ code: 'snapshot-gone', retryable: true });
    await backUp(required, 2);
    expect(await manifestOf(required)).toMatchObject({ source: { consistency: 'snapshot' }, fingerprint: { collections: [{ name: 'orders' }] } });
  });

  test('one capped collection, which servers before 8.0 show as it is now only, does not cost the others their moment', async () => {
    server.collection('shop.a-log', [{ _id: 2 }, { _id: 1 }], { capped: true, size: 4096 });
    server.script = (command) => (command['find'] === 'a-log' && command['readConcern'] !== undefined ? refusal(246, 'SnapshotUnavailable') : undefined);
    const context = contextOf();
    await backUp(context);
    const manifest = await manifestOf(context);
    expect(manifest).toMatchObject({ source: { consistency: 'snapshot', consistencyNote: expect.stringContaining('shop.a-log') as string }, fingerprint: { collections: [{ name: 'a-log', documents: '2' }, { name: 'orders' }, { name: 'people' }] } });
    expect(manifest).not.toHaveProperty('degraded');
    rmSync(join(folder, 'shop'), { recursive: true });
    await expect(backUp(contextOf({ consistency: 'required' }))).rejects.toMatchObject({ code: 'snapshot-required', retryable: false, message: expect.stringContaining('shop.a-log') as string });
  });

  test('without a moment nobody reads a member that lags', async () => {
    server.script = (command) => (command['hello'] !== undefined && command['$db'] === 'admin' ? undefined : command['readConcern']?.level === 'snapshot' ? refusal(123) : undefined);
    const context = contextOf({ from: 'secondary' });
    await backUp(context);
    const reads = server.commands.filter((command) => command['find'] !== undefined);
    expect(reads.length).toBeGreaterThan(2);
    for (const command of reads) expect(command['$readPreference']?.mode ?? 'primary').not.toMatch(/^secondary/);
    const lagging = await scriptedServer({ secondary: true, isWritablePrimary: false, ismaster: false });
    lagging.collection('shop.orders', [{ _id: 1 }]);
    lagging.script = (command) => (command['readConcern']?.level === 'snapshot' ? refusal(123) : undefined);
    try {
      const other = contextOf();
      (other.config.datastores['shop'] as { uri: string }).uri = lagging.uri;
      rmSync(join(folder, 'shop'), { recursive: true });
      await expect(backUp(other)).rejects.toMatchObject({ code: 'source-lags' });
    } finally {
      await lagging.close();
    }
  });

  test('names as long as a server takes them, in any script, lie in a folder store; the plain commands put them where mongorestore looks', async () => {
    const names = ['я'.repeat(100), 'x'.repeat(238)];
    for (const name of names) server.collection(`shop.${name}`, [{ _id: 1 }]);
    const context = contextOf();
    await backUp(context);
    const manifest = await manifestOf(context);
    expect(await mongodbEngine.readBack(context, { storeName: 'main', location: LOCATION, manifest }, {})).toMatchObject({ objects: 8 });
    expect(Math.max(...(await keys(context)).map((key) => Buffer.byteLength(key.split('/').at(-1)!)))).toBeLessThanOrEqual(251);
    const places = manifest.commands.flatMap(({ command }) => />\s*'?(dump\/[^' ]+)/.exec(command)?.[1] ?? []);
    expect(places).toContain(`dump/shop/${'x'.repeat(238)}.bson`);
    expect(places.some((place) => /^dump\/shop\/(%D1%8F)+.*%24.{27}\.metadata\.json$/.test(place))).toBe(true);
  });
});

test('a note of a finished collection whose answer was lost is no failure; another one under its name is', async () => {
  const context = contextOf();
  const store = await openStore(context, 'main');
  const lossy: Store = {
    ...store,
    async put(key, body, options) {
      await store.put(key, body, options);
      throw alreadyThere(key); // What the SDK's own second try finds.
    },
  };
  await backUp(context);
  const [collection] = (await manifestOf(context)).fingerprint.collections;
  const done = { format: 1 as const, collection: collection!, atClusterTime: null, objects: [] };
  const state = await openState(lossy, 'elsewhere/', 1, new AbortController().signal);
  await state.finished(done);
  expect((await openState(store, 'elsewhere/', 2, new AbortController().signal)).done).toHaveLength(1);
  const other = await openState(store, 'elsewhere/', 1, new AbortController().signal);
  await expect(other.finished({ ...done, atClusterTime: '1,1' })).rejects.toMatchObject({ code: 'object-exists' });
});

describe('a write concern', () => {
  async function restore(options: Partial<MongodbRestoreOptions> = {}): Promise<ScriptedServer> {
    const context = contextOf();
    await backUp(context);
    const { fingerprint, objects } = await manifestOf(context);
    for (const name of ['shop.orders', 'shop.people']) server.collections.delete(name);
    server.commands.length = 0;
    await withMongodb({ what: 'target', uri: server.uri }, (client) => restoreMongodb(client, {
      backupId: 'one', fingerprint, settings: { batchDocuments: 100, concurrency: 1, writeConcern: 'majority' },
      open: (one) => openObject(context, 'main', LOCATION, objects.find(({ name }) => name === one.data)!, {}), ...options,
    }));
    return server;
  }
  const behind = (times: number, code: number): void => {
    let left = times;
    const usual = server.script;
    server.script = (command) => {
      if (command['insert'] !== 'orders' || left === 0) return usual(command);
      left -= 1;
      server.script = usual;
      const into = server.collections.get('shop.orders')!;
      for (const document of command['documents'] as Document[]) if (!into.documents.some(({ _id }) => _id === document['_id'])) into.documents.push(document);
      if (left > 0) behind(left, code);
      return { ok: 1, n: 2, writeConcernError: { code, errmsg: 'waiting for replication timed out' } };
    };
  };

  test('that was not met is asked for again until it is, though the documents are there', async () => {
    behind(2, 64);
    await restore();
    // Twice not met, once met.
    expect(server.commands.filter((command) => command['insert'] === 'orders')).toHaveLength(3);
    expect(server.collections.get('shop.orders')!.documents).toHaveLength(2);
    expect([...server.collections.keys()].filter((name) => name.startsWith('holdfast_restore'))).toEqual([]);
  });

  test('that can never be met fails at once, and the mark stays', async () => {
    behind(1, 100);
    await expect(restore()).rejects.toMatchObject({ code: 'write-concern', retryable: false });
    expect(server.commands.filter((command) => command['insert'] === 'orders')).toHaveLength(1);
    expect(server.collections.get('holdfast_restore.under_way')!.documents.map(({ _id }) => String(_id))).toContain('restore');
  });

  test('the rights of the roles backup and restore are enough', async () => {
    await restore();
    const used = new Set(server.commands.map((command) => Object.keys(command)[0]!));
    expect([...used].filter((verb) => ['update', 'delete', 'findAndModify', 'dropDatabase', 'aggregate'].includes(verb))).toEqual([]);
  });
});

/** What is restored, from the backup that was just taken, into another scripted server. */
async function restoring(options: Partial<MongodbRestoreOptions> & { readonly target: ScriptedServer }): Promise<ReturnType<typeof restoreMongodb>> {
  const context = contextOf();
  const { fingerprint, objects } = await manifestOf(context);
  return withMongodb({ what: 'target', uri: options.target.uri }, (client) => restoreMongodb(client, {
    backupId: 'one', fingerprint, settings: { batchDocuments: 100, concurrency: 1, writeConcern: 'majority' }, leaseTimes: { renewMs: 50, freshMs: 1500, pollMs: 20 },
    open: (one) => openObject(context, 'main', LOCATION, objects.find(({ name }) => name === one.data)!, {}), ...options,
  }));
}

describe('two restores into one server', () => {
  let target: ScriptedServer;
  beforeEach(async () => {
    await backUp(contextOf());
    target = await scriptedServer();
  });
  afterEach(() => target.close());

  test('one waits for the other, and then leaves what people have done to it alone', async () => {
    let proving!: () => void;
    let letGo!: () => void;
    const reached = new Promise<void>((resolve) => void (proving = resolve));
    const held = new Promise<void>((resolve) => void (letGo = resolve));
    const first = restoring({ target, prove: async () => {
      proving();
      await held;
      return true;
    } });
    await reached;
    let waited = 0;
    const second = restoring({ target, onWait: () => void (waited += 1) });
    second.catch(() => {}); // It is awaited below.
    // Longer than a lease that is not renewed would hold.
    await expect.poll(() => waited, { timeout: 20_000 }).toBeGreaterThan(100);
    target.collections.get('shop.orders')!.documents.pop();
    letGo();
    await first;
    await expect(second).rejects.toMatchObject({ code: 'target-not-empty' });
    expect(target.collections.get('shop.orders')!.documents).toHaveLength(1);
    expect([...target.collections.keys()].filter((name) => name.startsWith('holdfast_restore'))).toEqual([]);
  });

  test('that of a killed one is taken over when it was not heard of for long enough', async () => {
    target.collection('holdfast_restore.under_way', [{ _id: 'owner 1', kind: 'owner', n: 1, owner: 'dead', at: new Date() }, { _id: 'restore', kind: 'restore', backup: 'one', at: new Date() }]);
    target.collection('shop.orders', [{ _id: 1, a: 1 }]);
    let waited = 0;
    expect(await restoring({ target, onWait: (backup) => void (waited += Number(backup === 'one')) })).toMatchObject({ resumed: true, alreadyThere: 1, documents: 3 });
    expect(waited).toBeGreaterThan(0);
  });

  test('a restore that was not proved keeps its mark, and the next start goes on with it', async () => {
    await restoring({ target, prove: () => Promise.resolve(false) });
    expect(await withMongodb({ what: 'target', uri: target.uri }, interruptedRestore)).toBe('one');
    expect(await restoring({ target, prove: () => Promise.resolve(true) })).toMatchObject({ resumed: true, alreadyThere: 3 });
    expect(await withMongodb({ what: 'target', uri: target.uri }, interruptedRestore)).toBeUndefined();
  });
});

describe('a server that drills are given', () => {
  const identity = (runId: string): DrillIdentity => ({ datastore: 'shop', workflowId: 'drill/shop/x', runId });
  let target: ScriptedServer;
  let context: Context;
  let manifest: MongodbManifest;
  const build: Record<string, unknown> = {};
  beforeEach(async () => {
    for (const key of Object.keys(build)) delete build[key];
    target = await scriptedServer({ setName: 'drills' });
    target.script = (command) => (command['getParameter'] === undefined ? undefined : 'ttlMonitorEnabled' in build ? { ok: 1, ttlMonitorEnabled: build['ttlMonitorEnabled'] } : refusal(72));
    context = contextOf();
    (context.config.datastores['shop'] as { drill: { uri?: string } }).drill.uri = target.uri;
    await backUp(context);
    manifest = await manifestOf(context);
  });
  afterEach(() => target.close());
  const make = (runId: string, of = manifest): Promise<{ name: string }> => createMongodbTarget(context, identity(runId), of, new AbortController().signal);

  test('is one drill\'s at a time: another one is told to wait, drops nothing, and has it afterwards', async () => {
    const first = await make('r1');
    target.collection('shop.orders', [{ _id: 1, a: 1 }]);
    await expect(make('r2')).rejects.toMatchObject({ code: 'drill-target-busy', retryable: true, message: expect.stringContaining(first.name) as string, next: expect.stringContaining('shop, holdfast_restore') as string });
    await destroyMongodbTarget(context, drillName(identity('r2')));
    expect(target.collections.get('shop.orders')!.documents).toHaveLength(1);
    await openMongodbTarget(context, first.name);
    expect(await destroyMongodbTarget(context, first.name)).toEqual({ existed: true });
    expect([...target.collections.keys()]).toEqual([]);
    await make('r2');
  });

  test('that somebody filled while it was being claimed is left as it is', async () => {
    target.script = (command) => {
      if (command['insert'] === 'drill') target.collection('shop.orders', [{ _id: 7 }]);
      return undefined;
    };
    await expect(make('r1')).rejects.toMatchObject({ code: 'drill-target-used' });
    expect([...target.collections]).toMatchObject([['shop.orders', { documents: [{ _id: 7 }] }]]);
  });

  test('is taken over from the same run on a host that was lost, and nothing is dropped once it is somebody else\'s', async () => {
    const { name } = await make('r1');
    target.collection('shop.orders', [{ _id: 1, a: 1 }]);
    rmSync(join(folder, 'drills-mongodb'), { recursive: true });
    await make('r1');
    expect(target.collections.has('shop.orders')).toBe(false);
    target.collections.get('holdfast_restore.drill')!.documents = [{ _id: 'drill', target: 'another', databases: ['shop'], collections: [], at: new Date() }];
    target.collection('shop.orders', [{ _id: 7 }]);
    await expect(openMongodbTarget(context, name)).rejects.toMatchObject({ code: 'drill-target-gone' });
    await destroyMongodbTarget(context, name);
    expect(target.collections.get('shop.orders')!.documents).toEqual([{ _id: 7 }]);
  });

  test('databases of the server itself are never dropped, only what was restored into them', async () => {
    const admin = { ...manifest, fingerprint: { ...manifest.fingerprint, collections: [{ ...manifest.fingerprint.collections[0]!, database: 'admin' }] } };
    const { name } = await make('r1', admin);
    target.collection('admin.orders', [{ _id: 1 }]);
    target.collection('admin.system.users', [{ _id: 'root' }]);
    await destroyMongodbTarget(context, name);
    expect([...target.collections.keys()]).toEqual(['admin.system.users']);
  });

  test('that would make a good backup look bad is refused before the restore', async () => {
    await expect(make('r1', { ...manifest, source: { ...manifest.source, serverVersion: '6.0.9' } })).rejects.toMatchObject({ code: 'drill-target-version' });
    const [orders] = manifest.fingerprint.collections;
    const expiring = { ...manifest, fingerprint: { ...manifest.fingerprint, collections: [{ ...orders!, indexes: [...orders!.indexes, { name: 'ttl', text: '{"expireAfterSeconds":60}', bson: '' }] }] } };
    build['ttlMonitorEnabled'] = true;
    await expect(make('r1', expiring)).rejects.toMatchObject({ code: 'drill-target-expiry' });
    expect([...target.collections.keys()]).toEqual([]);
    await destroyMongodbTarget(context, (await make('r1')).name);
    build['ttlMonitorEnabled'] = false;
    await make('r1', expiring);
    // A server that does not know the question is not refused.
    delete build['ttlMonitorEnabled'];
    await make('r1', expiring);
    expect([sameMajor('7.0.1', '7.3.0'), sameMajor('4.2.1', '4.4.0'), sameMajor('8.0.0', '7.0.0'), sameMajor('unknown', '7.0.0')]).toEqual([true, false, false, undefined]);
  });
});
