import { createHash } from 'node:crypto';
import { BSON } from 'mongodb';
import { describe, expect, it } from 'vitest';
import { mongodbDatastoreSchema } from '../../src/model/config-schema.ts';
import type { MongodbFingerprint } from '../../src/model/manifest-mongodb.ts';
import { escapedName, selectNamespaces, selectionOf, type Names, type Namespace } from '../../src/model/mongodb-selection.ts';
import { clusterTimeText, noSnapshotBecause, parseClusterTime, snapshotConcern, snapshotVerdict, topologyOf, usableOf } from '../../src/model/mongodb-snapshot.ts';
import { compareMongodb } from '../../src/model/proof-mongodb.ts';
import { hostsOf } from '../../src/systems/mongodb.ts';
import { findCommand, metadataText, type Definition } from '../../src/systems/mongodb-dump.ts';
import { createCommand, createIndexesCommand } from '../../src/systems/mongodb-restore.ts';
import { createThrottle } from '../../src/systems/mongodb-throttle.ts';

const none: Names = { databases: [], collections: [] };
const collection = (database: string, name: string, more: Partial<Namespace> = {}): Namespace => ({ database, name, type: 'collection', options: {}, ...more });

describe('what belongs to a backup', () => {
  const all = [
    collection('shop', 'orders'), collection('shop', 'log-1'), collection('shop', 'log-2'), collection('shop', 'recent', { type: 'view', options: { viewOn: 'orders' } }), collection('shop', 'system.js'), collection('shop', 'system.views'),
    collection('other', 'things'), collection('admin', 'system.users'), collection('local', 'oplog.rs'), collection('holdfast_restore', 'under_way'),
  ];
  const names = (include = none, exclude = none): string[] => {
    const { collections, views } = selectNamespaces(all, include, exclude);
    return [...collections, ...views].map(({ database, name }) => `${database}.${name}`);
  };

  it('everything but databases of the server and system collections, unless they are asked for by name', () => {
    expect(names()).toEqual(['other.things', 'shop.log-1', 'shop.log-2', 'shop.orders', 'shop.recent']);
    expect(names({ databases: ['sh*'], collections: [] })).toEqual(['shop.log-1', 'shop.log-2', 'shop.orders', 'shop.recent']);
    expect(names({ databases: [], collections: ['shop.orders', 'shop.system.js'] })).toEqual(['shop.orders', 'shop.system.js']);
    expect(names(none, { databases: ['other'], collections: ['shop.log-*'] })).toEqual(['shop.orders', 'shop.recent']);
    expect(selectionOf({ include: none, exclude: none }).complete).toBe(true);
    expect(selectionOf({ include: none, exclude: { databases: [], collections: ['a.b'] } }).complete).toBe(false);
  });

  it('a name that selects nothing, and an empty selection, are errors', () => {
    expect(() => names({ databases: ['shop', 'gone'], collections: [] })).toThrowError(/nothing on the server matches gone/);
    expect(() => names(none, { databases: ['*'], collections: [] })).toThrowError(expect.objectContaining({ code: 'selection-empty' }));
  });

  it('time series, queryable encryption and hidden collections are refused by name, all at once, unless they are excluded', () => {
    const bad = [collection('m', 'cpu', { type: 'timeseries', options: { timeseries: { timeField: 't' } } }), collection('m', 'secret', { options: { encryptedFields: {} } }), collection('m', 'ok')];
    expect(() => selectNamespaces(bad, none, none)).toThrowError(expect.objectContaining({ code: 'collection-unsupported', message: expect.stringMatching(/m\.cpu \(a time-series.*m\.secret \(queryable encryption/) as string, next: expect.stringContaining('backup.exclude.collections') as string }));
    expect(selectNamespaces(bad, none, { databases: [], collections: ['m.cpu', 'm.secret'] }).collections).toHaveLength(1);
    expect(() => selectNamespaces(all, { databases: [], collections: ['shop.system.views'] }, none)).toThrowError(/kept by the server itself/);
  });

  it('file names are those of mongodump', () => {
    const sha1 = (text: string): string => createHash('sha1').update(text).digest('base64url');
    expect(escapedName('orders', sha1)).toBe('orders');
    expect(escapedName('a/b c%d;é,?#$&+=:@-_.~', sha1)).toBe('a%2Fb%20c%25d%3B%C3%A9%2C%3F%23$&+=:@-_.~');
    const long = escapedName('x'.repeat(240), sha1);
    expect(long).toBe(`${'x'.repeat(208)}%24${sha1('x'.repeat(240))}`);
    expect(long).toHaveLength(238);
    expect(escapedName('x'.repeat(238), sha1)).toBe('x'.repeat(238));
  });
});

describe('snapshots, by the documented answers of servers', () => {
  it('only members of replica sets and routers of 5.0 and newer have them', () => {
    expect(topologyOf({ maxWireVersion: 21 })).toBe('standalone');
    expect(noSnapshotBecause({ maxWireVersion: 21 })).toMatch(/no member of a replica set/);
    expect(noSnapshotBecause({ setName: 'rs0', maxWireVersion: 9 })).toMatch(/older than MongoDB 5\.0/);
    expect(noSnapshotBecause({ setName: 'rs0', maxWireVersion: 13 })).toBeUndefined();
    expect(noSnapshotBecause({ msg: 'isdbgrid', maxWireVersion: 25 })).toBeUndefined();
  });

  it('the first read is given a moment, all others ask for it', () => {
    expect(snapshotConcern(undefined)).toEqual({ level: 'snapshot' });
    expect(snapshotConcern('moment')).toEqual({ level: 'snapshot', atClusterTime: 'moment' });
    expect(parseClusterTime(clusterTimeText({ seconds: 1764000000, increment: 7 }))).toEqual({ seconds: 1764000000, increment: 7 });
  });

  it('a later attempt goes on with what was read at the same moment, and never calls a moment what was not', () => {
    const [same, other, without] = [{ atClusterTime: '5,1' }, { atClusterTime: '4,1' }, { atClusterTime: null }];
    expect(usableOf('5,1', [same, other])).toEqual({ usable: [same], lost: false });
    expect(usableOf('5,1', [same, without])).toEqual({ usable: [same, without], lost: true });
    expect(usableOf('5,1', [same, { ...without, alone: true }])).toMatchObject({ lost: false });
    expect(usableOf(null, [without, other])).toEqual({ usable: [without], lost: false });
  });

  it('a moment that is gone is told from a server that has none and from any other error', () => {
    expect([239, 246, 72, 123, 6, undefined].map(snapshotVerdict)).toEqual(['gone', 'gone', 'not-offered', 'not-offered', 'other', 'other']);
  });
});

const definition: Definition = {
  database: 'shop', name: 'orders', type: 'collection', options: {}, uuid: 'ab'.repeat(16), capped: false, clustered: false, optionsText: '{}', optionsRaw: Buffer.from(BSON.serialize(new Map([['validator', new Map([['2', 1], ['1', 2]])]]))),
  indexes: [
    { name: '_id_', text: '', raw: Buffer.from(BSON.serialize({ v: 2, key: { _id: 1 }, name: '_id_' })) },
    { name: 'n', text: '', raw: Buffer.from(BSON.serialize(new Map<string, unknown>([['v', 2], ['key', new Map([['2', 1], ['1', -1]])], ['name', 'n'], ['ns', 'shop.orders'], ['background', true], ['expireAfterSeconds', 60]]))) },
  ],
};

describe('commands and files', () => {
  it('a dump without a snapshot goes along _id, so that nothing is met twice; capped and clustered collections keep their order', () => {
    expect(findCommand(definition, { batchDocuments: 5 })).toEqual({ find: 'orders', filter: {}, batchSize: 5, hint: { _id: 1 } });
    for (const other of [{ ...definition, capped: true }, { ...definition, clustered: true }]) expect(findCommand(other, { batchDocuments: 5 })).not.toHaveProperty('hint');
    const at = 'moment' as unknown as Parameters<typeof findCommand>[1]['at'];
    expect(findCommand(definition, { batchDocuments: 5, at })).toEqual({ find: 'orders', filter: {}, batchSize: 5, readConcern: { level: 'snapshot', atClusterTime: 'moment' } });
  });

  it('collections, indexes and views are made as they were, keys in their order', () => {
    const create = Buffer.from(BSON.serialize(createCommand({ name: 'orders', optionsBson: definition.optionsRaw.toString('base64') })));
    expect(create.includes(definition.optionsRaw.subarray(4, -1))).toBe(true);
    const indexes = createIndexesCommand({ name: 'orders', indexes: definition.indexes.map(({ name, text, raw }) => ({ name, text, bson: raw.toString('base64') })) })!;
    const sent = Buffer.from(BSON.serialize(indexes));
    expect(sent.includes(Buffer.from('\x102\0\x01\0\0\0\x101\0\xff\xff\xff\xff', 'latin1'))).toBe(true);
    expect((indexes['indexes'] as Map<string, unknown>[]).map((index) => [...index.keys()])).toEqual([['key', 'name', 'expireAfterSeconds']]);
    expect(createIndexesCommand({ name: 'x', indexes: [{ name: '_id_', text: '', bson: definition.indexes[0]!.raw.toString('base64') }] })).toBeUndefined();
    const view = createCommand({ name: 'recent', optionsBson: Buffer.from(BSON.serialize({ viewOn: 'orders', pipeline: [{ $match: { a: 1 } }] })).toString('base64') });
    expect(Object.keys(view)).toEqual(['create', 'viewOn', 'pipeline']);
    expect(BSON.deserialize(BSON.serialize(view))).toEqual({ create: 'recent', viewOn: 'orders', pipeline: [{ $match: { a: 1 } }] });
  });

  it('metadata.json is what mongorestore reads', () => {
    const read = BSON.EJSON.parse(metadataText(definition)) as Record<string, unknown>;
    expect(read).toMatchObject({ uuid: 'ab'.repeat(16), collectionName: 'orders', type: 'collection', options: { validator: { 1: 2, 2: 1 } } });
    expect(read['indexes']).toHaveLength(2);
    expect(metadataText(definition)).toContain('"key":{"2":{"$numberInt":"1"},"1":{"$numberInt":"-1"}}');
    expect(metadataText({ ...definition, optionsRaw: Buffer.from('0500000000', 'hex') })).not.toContain('"options"');
  });
});

describe('the configuration', () => {
  const parse = (more: object): string => {
    const parsed = mongodbDatastoreSchema.safeParse({ engine: 'mongodb', uri: 'mongodb://a:27017/', ...more });
    return parsed.success ? 'accepted' : parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('\n');
  };

  it('takes no secret in the URI', () => {
    expect(parse({})).toBe('accepted');
    expect(parse({ uri: 'mongodb+srv://cluster.example.net/?replicaSet=a' })).toBe('accepted');
    expect(parse({ uri: 'mongodb://me:secret@a/' })).toMatch(/takes no user and no password/);
    expect(parse({ uri: 'mongodb://a/?tlsCertificateKeyFilePassword=x' })).toMatch(/takes no password among its options/);
    expect(parse({ uri: 'mongodb://a/?tls=true&tlsCertificateKeyFile=/x.pem' })).toBe('accepted');
    expect(parse({ password: 'secret' })).toMatch(/expected a reference/);
  });

  it('says what does not go together', () => {
    expect(parse({ backup: { tool: 'mongodump', consistency: 'required' } })).toMatch(/mongodump reads collection by collection/);
    expect(parse({ backup: { tool: 'mongodump', from: 'secondary' } })).toMatch(/backup\.from: mongodump holds no moment/);
    expect(parse({ backup: { compression: 'gzip', compressionLevel: 12 } })).toMatch(/gzip knows the levels 1 to 9/);
    expect(parse({ backup: { include: { collections: ['orders'] } } })).toMatch(/expected database\.collection/);
    expect(parse({ drill: { server: ['mongod', '--dbpath', '{directory}'] } })).toMatch(/says nowhere on which \{port\} or \{socket\}/);
    expect(parse({ drill: { server: ['x', '{port}'], uri: 'mongodb://b/' } })).toMatch(/one of server and uri/);
    expect(parse({ drill: { username: 'x' } })).toMatch(/belong to uri/);
  });

  it('hosts are read without what else stands in a URI', () => {
    expect(hostsOf('mongodb://A,b:27018/db?replicaSet=x')).toEqual(['a:27017', 'b:27018']);
    expect(hostsOf('mongodb+srv://cluster.example.net')).toEqual(['cluster.example.net']);
  });
});

describe('the proof', () => {
  const entry = { kind: 'collection' as const, database: 'shop', name: 'orders', capped: false, uuid: null, options: '{}', optionsBson: '', indexes: [{ name: '_id_', text: '{"_id"}', bson: '' }, { name: 'ttl', text: '{"expireAfterSeconds":1}', bson: '' }], documents: '2', bytes: '20', sum1: '1', sum2: '2' };
  const view = { kind: 'view' as const, database: 'shop', name: 'recent', options: '{"viewOn":"orders"}', optionsBson: '', viewOn: 'orders' };
  const fingerprint: MongodbFingerprint = { method: 'sha256-sum/1', collections: [entry], views: [view] };
  const selection = selectionOf({ include: none, exclude: none });
  const compare = (found: Partial<MongodbFingerprint>): string[] => compareMongodb({ fingerprint, selection }, { ...fingerprint, ...found }).differences.map(({ kind, object }) => `${kind} ${object}`);

  it('is exact only when nothing differs', () => {
    const proof = compareMongodb({ fingerprint, selection }, fingerprint);
    expect(proof).toMatchObject({ exact: true, differences: [], compared: { tables: 1, rows: '2', schemaObjects: 4 } });
    expect(compareMongodb({ fingerprint: { ...fingerprint, collections: [], views: [] }, selection }, { ...fingerprint, collections: [], views: [] }).exact).toBe(false);
  });

  it('names every kind of difference', () => {
    expect(compare({ collections: [] })).toEqual(['table-missing shop.orders']);
    expect(compare({ collections: [entry, { ...entry, name: 'more' }] })).toEqual(['table-unexpected shop.more']);
    expect(compare({ collections: [{ ...entry, documents: '1' }] })).toEqual(['rows shop.orders']);
    expect(compare({ collections: [{ ...entry, sum2: '3' }] })).toEqual(['content shop.orders']);
    expect(compare({ collections: [{ ...entry, options: '{"a":1}' }] })).toEqual(['schema-changed options of shop.orders']);
    expect(compare({ collections: [{ ...entry, indexes: [entry.indexes[0]!, { name: 'x', text: '', bson: '' }] }] })).toEqual(['schema-missing index ttl of shop.orders', 'schema-unexpected index x of shop.orders']);
    expect(compare({ views: [{ ...view, options: '{}' }] })).toEqual(['schema-changed view shop.recent']);
    expect(compare({ views: [] })).toEqual(['schema-missing view shop.recent']);
    const capped = { ...entry, orderedSha256: 'a' };
    expect(compareMongodb({ fingerprint: { ...fingerprint, collections: [capped] }, selection }, { ...fingerprint, collections: [{ ...capped, orderedSha256: 'b' }] }).differences).toMatchObject([{ kind: 'content', found: 'the same documents in another order' }]);
  });

  it('says where a TTL index may be the reason', () => {
    const proof = compareMongodb({ fingerprint, selection }, { ...fingerprint, collections: [{ ...entry, documents: '1' }] });
    expect(proof.differences[0]!.found).toMatch(/lets documents expire/);
  });
});

describe('the throttle', () => {
  it('lets all takers together have the rate, and saves up a second at most', async () => {
    let now = 0;
    const waits: number[] = [];
    const throttle = createThrottle(1000, { now: () => now, wait: async (ms) => void waits.push(Math.round(ms)) });
    await throttle.take(500);
    await throttle.take(500); // Nobody has waited in truth: the clock stands still.
    now = 60_000;
    await throttle.take(250); // Within the second that was saved up.
    await throttle.take(2000);
    expect(waits).toEqual([500, 1000, 1250]);
    expect(throttle.waitedMs()).toBe(2750);
    await createThrottle(undefined, { now: () => 0, wait: () => Promise.reject(new Error('no rate was asked for')) }).take(1e12);
  });
});
