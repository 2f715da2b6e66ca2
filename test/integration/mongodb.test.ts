import { BSON, Timestamp } from 'mongodb';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createProcesses, startFerret, type FerretServer, type Processes } from '../../src/local/stack.ts';
import { FINGERPRINT_METHOD, type MongodbFingerprint } from '../../src/model/manifest-mongodb.ts';
import { selectNamespaces, type Names } from '../../src/model/mongodb-selection.ts';
import { compareMongodb } from '../../src/model/proof-mongodb.ts';
import { factsOf, withMongodb } from '../../src/systems/mongodb.ts';
import { collectionEntry, dumpCollection, listNamespaces, readDefinition, takeSnapshot } from '../../src/systems/mongodb-dump.ts';
import { interruptedRestore } from '../../src/systems/mongodb-mark.ts';
import { fingerprintMongodb } from '../../src/systems/mongodb-proof.ts';
import { insertRaw } from '../../src/systems/mongodb-raw.ts';
import { contentsOf, restoreMongodb, type MongodbRestoreOptions } from '../../src/systems/mongodb-restore.ts';
import { documentsOf, everyType, fillShop, insertDocuments, onServer, orderDocument, targetOf, wireProxy } from '../mongodb-support.ts';

const none: Names = { databases: [], collections: [] };
const complete = { complete: true, include: { databases: [], collections: [] }, exclude: { databases: [], collections: [] } };
const settings = { batchDocuments: 500, concurrency: 2, writeConcern: 'majority' } as const;
let processes: Processes;
let source: FerretServer;
let dumped: { fingerprint: MongodbFingerprint; files: Map<string, Buffer> };
let servers = 0;

beforeAll(async () => {
  processes = createProcesses();
  source = await startFerret({ processes, directory: processes.directory, name: 'source' });
  await fillShop(source);
  dumped = await dump(source);
});

afterAll(() => processes.end());

async function emptyServer(): Promise<FerretServer> {
  servers += 1;
  return startFerret({ processes, directory: processes.directory, name: `target-${servers}` });
}

/** Everything, in memory. */
async function dump(server: { readonly uri: string }): Promise<{ fingerprint: MongodbFingerprint; files: Map<string, Buffer> }> {
  const files = new Map<string, Buffer>();
  return onServer(server, async (client) => {
    const { collections } = selectNamespaces(await listNamespaces(client, none, none), none, none);
    const entries = [];
    for (const namespace of collections) {
      const definition = await readDefinition(client, namespace);
      const one = dumpCollection(client, definition, { batchDocuments: 200 });
      files.set(`${namespace.database}.${namespace.name}`, Buffer.concat(await one.stream.toArray() as Buffer[]));
      entries.push(collectionEntry(definition, one.result()));
    }
    return { files, fingerprint: { method: FINGERPRINT_METHOD, collections: entries, views: [] } };
  });
}

/** Chunks that end anywhere. */
function restoreOptions(more: Partial<MongodbRestoreOptions> = {}, from = dumped): MongodbRestoreOptions {
  return {
    backupId: 'one', fingerprint: from.fingerprint, settings,
    async open({ database, name }) {
      const bytes = from.files.get(`${database}.${name}`)!;
      return (async function* chunks() {
        for (let at = 0; at < bytes.length; at += 4099) yield bytes.subarray(at, at + 4099);
      })();
    },
    ...more,
  };
}

const found = (server: { readonly uri: string }): Promise<MongodbFingerprint> => onServer(server, (client) => fingerprintMongodb(client, { wanted: dumped.fingerprint, ownDatabases: false, batchDocuments: 500, concurrency: 2 }));
const differences = async (server: { readonly uri: string }): Promise<string[]> => compareMongodb({ fingerprint: dumped.fingerprint, selection: complete }, await found(server)).differences.map(({ kind, object }) => `${kind} ${object}`);

describe('a dump', () => {
  test('is what another reader of BSON finds on the server', async () => {
    const bytes = dumped.files.get('shop.orders')!;
    // The library's own reader, which knows nothing of our frames.
    const read: unknown[] = [];
    for (let at = 0; at < bytes.length; ) {
      const length = bytes.readInt32LE(at);
      read.push(BSON.deserialize(bytes.subarray(at, at + length)));
      at += length;
    }
    expect(read).toHaveLength(2500);
    expect(read[1234]).toEqual(orderDocument(1234));
    expect(dumped.fingerprint.collections.map(({ database, name, documents, capped, indexes }) => [`${database}.${name}`, documents, capped, indexes.map((index) => index.name)])).toEqual([
      ['shop.empty', '0', false, ['_id_']], ['shop.orders', '2500', false, ['_id_', 'customer_at', 'number']], ['shop.recent', '300', true, ['_id_']], ['stock.per place', '40', false, ['_id_']],
    ]);
  });

  test('of a server without replica set says why there is no common moment', async () => {
    const facts = await onServer(source, async (client) => ({ ...(await factsOf(client)), snapshot: await takeSnapshot(client, await factsOf(client), { database: 'shop', name: 'orders' }) }));
    expect(facts).toMatchObject({ topology: 'standalone', replicaSet: null, snapshot: { none: expect.stringContaining('no member of a replica set') as string } });
  });

  test('a collection that is changed or dropped under it fails it', async () => {
    await onServer(source, async (client) => {
      const changing = client.db('changing');
      await changing.command({ create: 'c' });
      await changing.collection<{ _id: number }>('c').insertMany(Array.from({ length: 50 }, (_, _id) => ({ _id })));
      try {
        const definition = await readDefinition(client, { database: 'changing', name: 'c' });
        const one = dumpCollection(client, definition, { batchDocuments: 10 });
        await changing.command({ createIndexes: 'c', indexes: [{ key: { late: 1 }, name: 'late' }] });
        await expect(one.stream.toArray()).rejects.toMatchObject({ code: 'collection-changed', retryable: true });
      } finally {
        await changing.dropDatabase();
      }
    });
  });
});

describe('a restore', () => {
  test('puts back every byte, every index and the order of a capped collection', async () => {
    const target = await emptyServer();
    const outcome = await onServer(target, (client) => restoreMongodb(client, restoreOptions()));
    expect(outcome).toMatchObject({ collections: 4, documents: 2840, indexes: 2, alreadyThere: 0, resumed: false });
    expect(await documentsOf(target, 'shop', 'recent')).toEqual(await documentsOf(source, 'shop', 'recent'));
    for (const [database, name] of [['shop', 'orders'], ['stock', 'per place']] as const) {
      const there = new Set(await documentsOf(target, database, name));
      expect((await documentsOf(source, database, name)).filter((document) => !there.has(document))).toEqual([]);
    }
    expect(await differences(target)).toEqual([]);
    expect(await onServer(target, (client) => contentsOf(client))).toHaveLength(4);
    await expect(onServer(target, (client) => restoreMongodb(client, restoreOptions()))).rejects.toMatchObject({ code: 'target-not-empty' });
  });

  test('sends documents as they are, also those that this server refuses: integer-like and doubled keys, every type', async () => {
    const target = await emptyServer();
    const proxy = await wireProxy(target.port);
    try {
      const odd = [everyType(), Buffer.from(BSON.serialize(new Map<string, unknown>([['_id', 1], ['b', 1], ['10', 2], ['2', 3]]))), Buffer.from(BSON.serialize({ _id: 2, large: 'x'.repeat(12_000_000) }))];
      await withMongodb(targetOf(proxy), async (client) => {
        for (const document of odd) await insertRaw(client.db('odd'), 'c', [document], { ordered: true, writeConcern: 1, writeConcernTimeoutMs: 1000, keepEmptyTimestamps: false }).catch(() => {});
      });
      for (const document of odd) expect(proxy.sent().includes(document)).toBe(true);
      // What the server takes it gives back so.
      expect(await documentsOf(target, 'odd', 'c')).toEqual(odd.slice(1).map((document) => document.toString('hex')));
    } finally {
      await proxy.close();
    }
  });

  test('a batch whose answer was lost is neither doubled nor lost', async () => {
    const target = await emptyServer();
    const proxy = await wireProxy(target.port);
    try {
      // Those to the mark of the restore, too.
      proxy.loseAnswers('documents\0', 7);
      await withMongodb(targetOf(proxy), (client) => restoreMongodb(client, restoreOptions()));
      expect(proxy.lost()).toBeGreaterThan(0);
    } finally {
      await proxy.close();
    }
    expect(await differences(target)).toEqual([]);
    expect(await documentsOf(target, 'shop', 'recent')).toEqual(await documentsOf(source, 'shop', 'recent'));
  });

  test('an interrupted one says so, and goes on with the same backup only', async () => {
    const target = await emptyServer();
    let opened = 0;
    const cut = restoreOptions({
      settings: { ...settings, concurrency: 1 },
      async open(collection) {
        opened += 1;
        if (opened === 3) throw new Error('the store is gone');
        return restoreOptions().open(collection);
      },
    });
    await expect(onServer(target, (client) => restoreMongodb(client, cut))).rejects.toThrow('the store is gone');
    expect(await onServer(target, interruptedRestore)).toBe('one');
    await expect(onServer(target, (client) => restoreMongodb(client, restoreOptions({ backupId: 'two' })))).rejects.toMatchObject({ code: 'target-half-restored' });
    const outcome = await onServer(target, (client) => restoreMongodb(client, restoreOptions()));
    expect(outcome.resumed).toBe(true);
    expect(outcome.alreadyThere).toBeGreaterThan(2000);
    expect(await onServer(target, interruptedRestore)).toBeUndefined();
    expect(await differences(target)).toEqual([]);
  });

  test('another document under the same _id is an error, and nothing is overwritten', async () => {
    const target = await emptyServer();
    await insertDocuments(target, 'stock', 'per place', [{ _id: 'place 7', mine: true }]);
    await expect(onServer(target, (client) => restoreMongodb(client, restoreOptions({ allowNonEmpty: true })))).rejects.toMatchObject({ code: 'document-differs', message: expect.stringContaining('"place 7"') as string });
    expect(await documentsOf(target, 'stock', 'per place')).toContain(Buffer.from(BSON.serialize({ _id: 'place 7', mine: true })).toString('hex'));
  });

  test('a stream that is cut, damaged, or not that of the manifest never passes', async () => {
    const target = await emptyServer();
    const orders = dumped.files.get('shop.orders')!;
    const withOrders = (bytes: Buffer): MongodbRestoreOptions => restoreOptions({ allowNonEmpty: true }, { ...dumped, files: new Map([...dumped.files, ['shop.orders', bytes]]) });
    const attempt = (bytes: Buffer): Promise<unknown> => onServer(target, (client) => restoreMongodb(client, withOrders(bytes)));
    await expect(attempt(orders.subarray(0, orders.length - 3))).rejects.toMatchObject({ code: 'bson-truncated' });
    const first = orders.readInt32LE(0);
    await expect(attempt(orders.subarray(first))).rejects.toMatchObject({ code: 'object-damaged' });
    await expect(attempt(Buffer.concat([orders, Buffer.from(BSON.serialize({ _id: 'new' }))]))).rejects.toMatchObject({ code: 'object-damaged' });
  });

  test('the proof finds what was planted in the restored server', async () => {
    const target = await emptyServer();
    await onServer(target, (client) => restoreMongodb(client, restoreOptions()));
    await onServer(target, async (client) => {
      const orders = client.db('shop').collection<{ _id: number; note?: string }>('orders');
      const before = await orders.findOne({ _id: 5 });
      await orders.updateOne({ _id: 5 }, { $set: { note: 'changed' } });
      expect(await differences(target)).toEqual(['content shop.orders']);
      await orders.deleteOne({ _id: 5 });
      expect(await differences(target)).toEqual(['rows shop.orders']);
      await orders.insertOne(before!);
      expect(await differences(target)).toEqual([]);
      await orders.dropIndex('customer_at');
      expect(await differences(target)).toEqual(['schema-missing index customer_at of shop.orders']);
      await client.db('stock').collection('more').insertOne({ a: 1 });
      expect(await differences(target)).toEqual(['schema-missing index customer_at of shop.orders', 'table-unexpected stock.more']);
    });
  });
});

describe('the client', () => {
  test('a server that does not answer, and an abort, end with an error that holds no password', async () => {
    const gone = { what: 'MongoDB shop at 127.0.0.1:1', uri: 'mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200', username: 'me', password: 'hunter2' };
    const error = await withMongodb(gone, factsOf).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'mongodb-connect', retryable: true });
    expect(String((error as Error).message)).not.toContain('hunter2');
    const stop = new AbortController();
    const slow = withMongodb(targetOf(source), async (client) => {
      stop.abort(new Error('cancelled'));
      await factsOf(client);
    }, { signal: stop.signal });
    await expect(slow).rejects.toThrow('cancelled');
  });

  test('empty timestamps stay what they are where the server can be told so, and the field is left out where it cannot', async () => {
    const target = await emptyServer();
    const document = Buffer.from(BSON.serialize({ _id: 1, at: new Timestamp({ t: 0, i: 0 }) }));
    const proxy = await wireProxy(target.port);
    try {
      const small = { fingerprint: { ...dumped.fingerprint, collections: [{ ...dumped.fingerprint.collections[0]!, documents: '0' }] }, files: new Map([['shop.empty', document]]) };
      // The manifest is not that of the stream, which is found after the insert.
      await expect(withMongodb(targetOf(proxy), (client) => restoreMongodb(client, restoreOptions({}, small)))).rejects.toMatchObject({ code: 'object-damaged' });
      expect(proxy.sent().includes('bypassEmptyTsReplacement')).toBe(true);
    } finally {
      await proxy.close();
    }
    expect(await documentsOf(target, 'shop', 'empty')).toEqual([document.toString('hex')]);
  });
});

