import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { listBackups, readManifest, removeMark, writeMark } from '../../src/systems/backup-catalogue.ts';
import { runRetention } from '../../src/systems/backup-retention.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore, type Store } from '../../src/systems/store.ts';
import { backupFolder } from '../../src/model/manifest.ts';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import { suite, testBucket, testConfig, testDatabase, testDatastore, testDirectory, type ConfigOverrides, type TestDatabase } from '../support.ts';
import { startBreakingProxy } from './backup-broken.ts';

const NOW = Date.parse('2026-03-20T12:00:00Z');
const DAY = 86_400_000;

let database: TestDatabase;
let model: PostgresManifest;
let data: Buffer;

beforeAll(async () => {
  database = await testDatabase('kept');
  await database.query('create table t as select generate_series(1, 100) as id');
  const of = await config({ last: 1 });
  const { location } = await runBackup(of, { datastore: 'shop', id: 'model', location: 'shop/2026/01/01/000000Z-model/', reason: 'model', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
  const store = await openStore(of, 'main');
  model = postgresManifestOf(await readManifest(store, location));
  data = await bytesOf(store, `${location}data.dump.zst`);
  of.close();
});
afterAll(() => database.drop());

async function config(retention: ConfigOverrides, store: ConfigOverrides = {}): Promise<Context> {
  return testConfig({ datastores: { shop: testDatastore(database, { retention }) }, stores: { main: store } });
}

async function bytesOf(store: Store, key: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of await store.get(key)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** A committed backup as Holdfast writes it, dated `daysAgo`: the objects of a real one under another date. */
async function planted(of: Context, id: string, daysAgo: number, lockUntilMs?: number): Promise<string> {
  const store = await openStore(of, 'main');
  const at = NOW - daysAgo * DAY;
  const location = backupFolder('', 'shop', at, id);
  const manifest = `${JSON.stringify({ ...model, id, snapshotAt: new Date(at).toISOString() })}\n`;
  const lock = lockUntilMs === undefined ? {} : { lockUntilMs };
  await store.put(`${location}data.dump.zst`, data, lock);
  await store.put(`${location}manifest.json`, manifest, lock);
  await store.put(`${location}COMMIT`, JSON.stringify({ format: 1, id, manifestSha256: createHash('sha256').update(manifest).digest('hex'), committedAt: new Date(at).toISOString() }), lock);
  return location;
}

async function ids(of: Context): Promise<string[]> {
  const store = await openStore(of, 'main');
  return (await listBackups(store, '', 'shop', { nowMs: NOW })).map((backup) => backup.id);
}

test('keeps what the rules keep, deletes the rest whole, and says why of each', async () => {
  const of = await config({ daily: 2, last: 1 });
  try {
    for (const [id, daysAgo] of [['a', 10], ['b', 5], ['c', 1.1], ['d', 1], ['e', 0]] as const) await planted(of, id, daysAgo);
    const planned = await runRetention(of, { datastore: 'shop', apply: false, nowMs: NOW });
    expect(planned).toMatchObject({ applied: false, deleted: [] });
    expect(await ids(of)).toEqual(['a', 'b', 'c', 'd', 'e']);
    const result = await runRetention(of, { datastore: 'shop', apply: true, nowMs: NOW });
    expect(await ids(of)).toEqual(['d', 'e']);
    expect([...result.deleted].sort()).toEqual(['a', 'b', 'c']);
    expect(result.freedBytes).toBeGreaterThan(0);
    for (const decision of result.decisions) expect(decision.reasons.length).toBeGreaterThan(0);
    expect(planned.decisions.map(({ id, action }) => [id, action])).toEqual(result.decisions.map(({ id, action }) => [id, action]));
    const store = await openStore(of, 'main');
    const left: string[] = [];
    for await (const object of store.list('shop/')) left.push(object.key);
    expect(left).toHaveLength(6);
    expect((await runRetention(of, { datastore: 'shop', apply: true, nowMs: NOW })).deleted).toEqual([]);
  } finally {
    of.close();
  }
});

test('pinned, in use and newest verified stay; when the pin goes, the backup goes', async () => {
  const of = await config({ last: 1 });
  try {
    const store = await openStore(of, 'main');
    const mark = (name: 'pinned' | 'in-use' | 'verified') => ({ mark: name, at: new Date(NOW - DAY).toISOString(), by: 'test', reason: 'because' });
    for (const [index, id] of ['pin', 'use', 'good', 'gone', 'last'].entries()) {
      const location = await planted(of, id, 10 - index);
      if (id === 'pin') await writeMark(store, location, mark('pinned'));
      if (id === 'use') await writeMark(store, location, mark('in-use'), 'in-use-drill-1');
      if (id === 'good') await writeMark(store, location, mark('verified'));
    }
    const result = await runRetention(of, { datastore: 'shop', apply: true, nowMs: NOW });
    expect(result.deleted).toEqual(['gone']);
    expect(Object.fromEntries(result.decisions.map(({ id, reasons }) => [id, reasons.join()]))).toMatchObject({ pin: expect.stringContaining('pinned'), use: expect.stringContaining('in use'), good: expect.stringContaining('newest verified') });
    await removeMark(store, result.decisions.find(({ id }) => id === 'pin')!.location, 'pinned');
    // A drill that died long ago protects nothing.
    await writeMark(store, result.decisions.find(({ id }) => id === 'use')!.location, { ...mark('in-use'), at: new Date(NOW - 8 * DAY).toISOString() }, 'in-use-drill-1');
    expect([...(await runRetention(of, { datastore: 'shop', apply: true, nowMs: NOW })).deleted]).toEqual(['pin']);
  } finally {
    of.close();
  }
});

test('object-locked backups are kept and said, until the lock ends', async () => {
  const bucket = await testBucket({ objectLock: true });
  const of = await config({ last: 1 }, { bucket, objectLock: { mode: 'GOVERNANCE', retain: '30d' } });
  try {
    // The store judges locks by its own clock.
    const until = Date.now() + 3_600_000;
    await planted(of, 'locked', 5, until);
    await planted(of, 'free', 4);
    await planted(of, 'newest', 0);
    const before = await runRetention(of, { datastore: 'shop', apply: true, nowMs: Math.min(NOW, until - 1) });
    expect(before.deleted).toEqual(['free']);
    expect(before.decisions.find(({ id }) => id === 'locked')).toMatchObject({ action: 'keep', reasons: [expect.stringContaining('locked until')] });
    expect(await (await openStore(of, 'main')).head(`${before.decisions.find(({ id }) => id === 'locked')!.location}COMMIT`)).toMatchObject({ lockedUntilMs: Math.floor(until / 1000) * 1000 });
  } finally {
    of.close();
  }
});

test('a real backup into a store with object lock is locked', async () => {
  const bucket = await testBucket({ objectLock: true });
  const of = await config({ last: 1 }, { bucket, objectLock: { mode: 'GOVERNANCE', retain: '2h' } });
  try {
    const { location } = await runBackup(of, { datastore: 'shop', id: 'l', location: 'shop/2026/01/01/000000Z-l/', reason: 'test', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
    const store = await openStore(of, 'main');
    for (const name of ['data.dump.zst', 'globals.sql.zst', 'manifest.json', 'COMMIT']) {
      const head = await store.head(location + name);
      expect(head!.lockedUntilMs! - Date.now()).toBeGreaterThan(7_000_000);
    }
    expect((await listBackups(store, '', 'shop'))[0]!.lockedUntilMs).toBeGreaterThan(Date.now());
  } finally {
    of.close();
  }
});

test('nothing is deleted when the listing fails, a read fails or the policy is empty', async () => {
  const proxy = await startBreakingProxy(suite().s3.endpoint);
  const of = await config({ last: 1 }, { endpoint: proxy.endpoint });
  const empty = await config({ last: 0 });
  try {
    for (const [id, daysAgo] of [['a', 3], ['b', 2], ['c', 1]] as const) {
      await planted(of, id, daysAgo);
      await planted(empty, id, daysAgo);
    }
    proxy.answer = (request) => (request.url?.includes('list-type=2') === true ? 500 : undefined);
    await expect(runRetention(of, { datastore: 'shop', apply: true, nowMs: NOW })).rejects.toMatchObject({ code: 'store-s3' });
    proxy.answer = (request) => (request.method === 'GET' && request.url?.includes('Z-b/manifest.json') === true ? 503 : undefined);
    await expect(runRetention(of, { datastore: 'shop', apply: true, nowMs: NOW })).rejects.toMatchObject({ code: 'store-s3' });
    proxy.answer = () => undefined;
    expect(await ids(of)).toEqual(['a', 'b', 'c']);
    const refused = await runRetention(empty, { datastore: 'shop', apply: true, nowMs: NOW });
    expect(refused.deleted).toEqual([]);
    expect(await ids(empty)).toEqual(['a', 'b', 'c']);
  } finally {
    of.close();
    empty.close();
    await proxy.close();
  }
});

test('a deletion that breaks off midway leaves no backup that looks whole, and the next run removes the rest', async () => {
  const proxy = await startBreakingProxy(suite().s3.endpoint);
  const of = await config({ last: 1 }, { endpoint: proxy.endpoint });
  try {
    await planted(of, 'old', 3);
    await planted(of, 'new', 1);
    proxy.answer = (request) => (request.method === 'DELETE' && !request.url!.includes('COMMIT') ? 500 : undefined);
    await expect(runRetention(of, { datastore: 'shop', apply: true, nowMs: NOW })).rejects.toMatchObject({ code: 'store-s3' });
    proxy.answer = () => undefined;
    expect(await ids(of)).toEqual(['new']);
    const later = await runRetention(of, { datastore: 'shop', apply: true, nowMs: Date.now() + 30 * DAY });
    expect(later).toMatchObject({ deleted: [], reapedUploads: 1 });
    const store = await openStore(of, 'main');
    for await (const object of store.list('shop/')) expect(object.key).toContain('Z-new/');
  } finally {
    of.close();
    await proxy.close();
  }
});

test('a folder store is thinned out too, and its empty folders go', async () => {
  const path = testDirectory('thin');
  const of = await testConfig({ stores: { disk: { type: 'folder', path } }, datastores: { shop: testDatastore(database, { store: 'disk', retention: { last: 1 } }) } });
  try {
    const store = await openStore(of, 'disk');
    for (const id of ['one', 'two']) {
      await runBackup(of, { datastore: 'shop', id, location: `shop/2026/01/0${id.length === 3 && id === 'one' ? 1 : 2}/000000Z-${id}/`, reason: id, workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
    }
    expect((await runRetention(of, { datastore: 'shop', apply: true, nowMs: Date.now() + 1000 })).deleted).toEqual(['one']);
    expect((await listBackups(store, '', 'shop')).map(({ id }) => id)).toEqual(['two']);
    expect(() => readFileSync(`${path}/shop/2026/01/01`)).toThrow('ENOENT');
  } finally {
    of.close();
  }
});
