import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createClient } from '@redis/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { redisSteps } from '../../activities/redis.ts';
import { createProcesses, startRedis, type Processes, type RedisServer } from '../../src/local/stack.ts';
import { freePort } from '../../src/systems/free-port.ts';
import { rdbKeys } from '../../src/systems/rdb.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore } from '../../src/systems/store.ts';
import { runStep } from '../step-run.ts';
import { testConfig, testDatabase, testDatastore, testDirectory, type ConfigOverrides } from '../support.ts';
import { surviveDeath } from '../survive-death.ts';

let processes: Processes;
let directory: string;
let east: RedisServer;
let west: RedisServer;
let context: Context;
let asked: string[] = [];
let application: Server;
let applicationUrl: string;

/** Bulk load on one connection, values of every kind that Redis 7 writes. */
async function fill(server: RedisServer, strings: number): Promise<void> {
  const client = createClient({ socket: { host: server.host, port: server.port }, password: server.password });
  client.on('error', () => {});
  await client.connect();
  const waiting: Promise<unknown>[] = [];
  const run = (...words: (string | Buffer)[]): void => void waiting.push(client.sendCommand(words));
  for (let index = 0; index < strings; index += 1) run('SET', `session:${index}`, index % 3 === 0 ? String(index) : 'x'.repeat(index % 400));
  for (let index = 0; index < 400; index += 1) {
    run('RPUSH', 'list', `v${index}`, 'w'.repeat(index * 20));
    run('SADD', 'integers', String(index * 70_000));
    run('SADD', 'set', `member${index}`);
    run('ZADD', 'ranking', String(index / 3), `member${index}`);
    run('HSET', 'hash', `field${index}`, 'v'.repeat(index));
    run('XADD', 'stream', '*', 'n', String(index));
  }
  for (let index = 0; index < 5; index += 1) {
    run('RPUSH', 'small:list', 'a', 'b');
    run('SADD', 'small:integers', String(index));
    run('SADD', 'small:set', `m${index}`);
    run('ZADD', 'small:ranking', String(index), `m${index}`);
    run('HSET', 'small:hash', `f${index}`, 'v');
  }
  run('XGROUP', 'CREATE', 'stream', 'readers', '0');
  run('XREADGROUP', 'GROUP', 'readers', 'one', 'COUNT', '10', 'STREAMS', 'stream', '>');
  run('SET', Buffer.from([0, 255, 13, 10, 7]), Buffer.from([1, 0, 2]));
  run('SET', 'large', 'y'.repeat(3_000_000));
  run('SETBIT', 'bits', '100000', '1');
  run('PFADD', 'visitors', 'a', 'b');
  run('SET', 'kept', '1', 'EX', '5000');
  run('FUNCTION', 'LOAD', 'REPLACE', "#!lua name=lib\nredis.register_function('answer', function() return 42 end)");
  run('SELECT', '3');
  run('SET', 'elsewhere', 'in another database');
  await Promise.all(waiting);
  client.destroy();
}

const digest = (server: RedisServer): Promise<unknown> => server.command('DEBUG', 'DIGEST');
const node = (server: RedisServer): object => ({ host: server.host, port: server.port });
const SETTINGS = { 'enable-debug-command': 'local' };

function cacheConfig(nodes: Readonly<Record<string, RedisServer>>, more: ConfigOverrides = {}): ConfigOverrides {
  return {
    datastores: {
      cache: {
        engine: 'redis',
        // Reaches workers of other processes too: as a file.
        password: `file:${passwordFile(Object.values(nodes)[0]!)}`,
        nodes: Object.fromEntries(Object.entries(nodes).map(([name, server]) => [name, node(server)])),
        snapshots: { store: 'main', prefix: 'cache' },
        ...more,
      },
    },
  };
}

function passwordFile(server: RedisServer): string {
  const path = join(server.dataDirectory, 'password');
  writeFileSync(path, server.password, { mode: 0o600 });
  return path;
}

async function step(of: Context, uses: string, phase: 'inspect' | 'guard' | 'apply' | 'verify' | 'undo', input: Record<string, unknown>, more: { epoch?: number; mode?: 'planned' | 'forced'; facts?: PhaseResult['facts'] } = {}): Promise<Awaited<ReturnType<typeof runStep>>> {
  return runStep(redisSteps, of, uses, phase, { datastore: 'cache', ...input }, more);
}

const failed = (result: { checks?: readonly { ok: boolean; name: string }[] }): string[] => (result.checks ?? []).filter(({ ok }) => !ok).map(({ name }) => name);

beforeAll(async () => {
  directory = testDirectory('redis');
  processes = createProcesses({ directory });
  east = await startRedis({ processes, directory, name: 'east', settings: SETTINGS });
  west = await startRedis({ processes, directory, name: 'west', password: east.password, settings: SETTINGS });
  await fill(east, 20_000);
  context = await testConfig(cacheConfig({ east, west }));
  application = createServer((request, response) => {
    asked.push(request.url!);
    void Promise.resolve(request.url!.startsWith('/fill/') ? west.command('SET', request.url!.slice(6), 'warm') : undefined).then(() => response.writeHead(request.url!.includes('bad') ? 500 : 200).end());
  });
  await new Promise<void>((resolve) => {
    application.listen(0, '127.0.0.1', resolve);
  });
  applicationUrl = `http://127.0.0.1:${(application.address() as AddressInfo).port}`;
});

afterAll(async () => {
  application?.close();
  await processes?.end();
});

describe('a substitute from a snapshot', () => {
  it('holds exactly what the lost one held: every kind of value, every database, functions; counted, and refused when it is not empty', async () => {
    const taken = await step(context, 'redis.snapshot', 'apply', { node: 'east' });
    expect(taken).toMatchObject({ outcome: 'changed', facts: { keys: 20_017 } });
    expect(failed(await step(context, 'redis.snapshot', 'verify', { node: 'east' }, { facts: taken.facts! }))).toEqual([]);
    // The same step again stores nothing more.
    expect((await step(context, 'redis.snapshot', 'apply', { node: 'east' })).outcome).toBe('already-satisfied');

    expect(failed(await step(context, 'redis.substitute', 'guard', { node: 'west' }))).toEqual([]);
    const filled = await step(context, 'redis.substitute', 'apply', { node: 'west' });
    expect(filled).toMatchObject({ outcome: 'changed', facts: { keys: 20_017, expiring: 1, expiredBefore: 0 } });
    expect(failed(await step(context, 'redis.substitute', 'verify', { node: 'west' }, { facts: filled.facts! }))).toEqual([]);
    expect(await west.command('FCALL', 'answer', '0')).toBe(42);
    await west.command('DEL', 'holdfast:substitute');
    expect(await digest(west)).toBe(await digest(east));

    // Nobody's now: not filled again, not emptied.
    expect(failed(await step(context, 'redis.substitute', 'guard', { node: 'west' }))).toEqual(['empty']);
    await expect(step(context, 'redis.substitute', 'apply', { node: 'west' })).rejects.toMatchObject({ code: 'redis-not-empty' });
    expect((await step(context, 'redis.substitute', 'undo', { node: 'west' })).outcome).toBe('already-satisfied');
    expect(await digest(west)).toBe(await digest(east));
    await west.command('FLUSHALL');
  });

  it('a deleted or an added key, an eviction policy, and a restart are seen by verify; keys that expire are not taken for missing', async () => {
    await east.command('SET', 'soon', '1', 'PX', '60000');
    const taken = await step(context, 'redis.snapshot', 'apply', { node: 'east' }, { epoch: 2 });
    const filled = await step(context, 'redis.substitute', 'apply', { node: 'west', snapshot: String(taken.facts!['snapshot']) }, { epoch: 2 });
    const verify = (input: object = {}): ReturnType<typeof step> => step(context, 'redis.substitute', 'verify', { node: 'west', ...input }, { epoch: 2, facts: filled.facts! });
    // It expires as any other key does: the server counts it.
    await west.command('PEXPIRE', 'soon', '1');
    await expect.poll(async () => (await west.command('EXISTS', 'soon')) as number).toBe(0);
    expect(failed(await verify())).toEqual([]);
    expect(failed(await verify({ maxmemoryPolicy: 'allkeys-lru' }))).toEqual(['maxmemory-policy']);
    expect(failed(await verify({ minimumKeys: 1_000_000 }))).toEqual(['enough keys']);
    await west.command('DEL', 'list');
    expect(failed(await verify())).toEqual(['keys']);
    await west.command('RPUSH', 'list', 'x');
    await west.command('SET', 'application', 'writes');
    expect(failed(await verify())).toEqual(['keys']);
    // Somebody writes to it: not emptied any more.
    await expect(step(context, 'redis.substitute', 'undo', { node: 'west' }, { epoch: 2 })).rejects.toMatchObject({ code: 'redis-written-to' });
    await west.command('DEL', 'application');
    expect((await step(context, 'redis.substitute', 'undo', { node: 'west' }, { epoch: 2 })).outcome).toBe('changed');
    expect(await west.command('DBSIZE')).toBe(0);
    const again = await step(context, 'redis.substitute', 'apply', { node: 'west' }, { epoch: 2 });
    await west.kill();
    await west.start();
    const restarted = await step(context, 'redis.substitute', 'verify', { node: 'west' }, { epoch: 2, facts: again.facts! });
    expect(failed(restarted)).toEqual(['keys']);
    expect(await west.command('DBSIZE')).toBe(0);
  });

  it('a snapshot that is damaged, too old, or too large is never half believed', async () => {
    const store = await openStore(context, 'main');
    const folder = `${store.prefix}cache/`;
    const good = await step(context, 'redis.snapshot', 'apply', { node: 'east' }, { epoch: 3 });
    const chunks: Buffer[] = [];
    for await (const chunk of (await store.get(`${folder}${String(good.facts!['snapshot'])}`)) as AsyncIterable<Buffer>) chunks.push(chunk);
    const whole = Buffer.concat(chunks);
    const flipped = Buffer.from(whole);
    flipped[Math.floor(whole.length / 2)]! ^= 1;
    await store.put(`${folder}short.rdb`, whole.subarray(0, whole.length - 5000));
    await store.put(`${folder}flipped.rdb`, flipped);
    await store.put(`${folder}none.rdb`, 'no snapshot at all');
    await store.put(`${folder}longer.rdb`, Buffer.concat([whole, Buffer.from('more')]));
    for (const name of ['short.rdb', 'flipped.rdb', 'longer.rdb']) {
      await expect(step(context, 'redis.substitute', 'apply', { node: 'west', snapshot: name }, { epoch: 4 })).rejects.toMatchObject({ code: expect.stringMatching(/^(rdb-broken|rdb-unsupported)$/) });
      // What it left is this step's own, and goes.
      expect((await step(context, 'redis.substitute', 'undo', { node: 'west' }, { epoch: 4 })).outcome).toBe('changed');
      expect(await west.command('DBSIZE')).toBe(0);
    }
    expect(failed(await step(context, 'redis.substitute', 'guard', { node: 'west', snapshot: 'none.rdb' }))).toEqual(['snapshot']);
    expect(failed(await step(context, 'redis.substitute', 'guard', { node: 'west', snapshot: 'missing.rdb' }))).toEqual(['snapshot']);
    expect(failed(await step(context, 'redis.substitute', 'guard', { node: 'west', snapshot: String(good.facts!['snapshot']), maxAge: '0s' }))).toEqual(['age of the snapshot']);
    await west.command('CONFIG', 'SET', 'maxmemory', '3mb', 'maxmemory-policy', 'allkeys-lru');
    expect(failed(await step(context, 'redis.substitute', 'guard', { node: 'west', snapshot: String(good.facts!['snapshot']) }))).toEqual(['memory']);
    await expect(step(context, 'redis.substitute', 'apply', { node: 'west', snapshot: String(good.facts!['snapshot']) }, { epoch: 5 })).rejects.toMatchObject({ code: 'redis-full' });
    await west.command('CONFIG', 'SET', 'maxmemory', '256mb', 'maxmemory-policy', 'noeviction');
    await west.command('FLUSHALL');
  });

  it('every cut of a file is found, wherever it is', async () => {
    const small = await startRedis({ processes, directory, name: 'small' });
    for (const words of [['SET', 'a', '1'], ['HSET', 'h', 'f', 'v'], ['XADD', 's', '*', 'a', 'b'], ['SET', 'e', '1', 'EX', '100'], ['SET', 'packed', 'z'.repeat(500)]]) await small.command(...words);
    await small.command('SAVE');
    const whole = readFileSync(join(small.dataDirectory, 'dump.rdb'));
    const read = async (bytes: Buffer): Promise<number> => {
      let keys = 0;
      for await (const batch of rdbKeys((async function* () { for (const byte of bytes) yield Buffer.of(byte); })())) keys += batch.length;
      return keys;
    };
    expect(await read(whole)).toBe(5);
    for (let length = 0; length < whole.length; length += 1) await expect(read(whole.subarray(0, length))).rejects.toMatchObject({ code: 'rdb-broken' });
    await small.kill();
  });
});

describe('cold', () => {
  it('an empty primary is enough, a replica or a filled one is not', async () => {
    expect(await step(context, 'redis.substitute', 'inspect', { node: 'west', from: 'cold' })).toMatchObject({ satisfied: true });
    expect(failed(await step(context, 'redis.substitute', 'verify', { node: 'west', from: 'cold' }))).toEqual([]);
    expect(failed(await step(context, 'redis.substitute', 'guard', { node: 'east', from: 'cold' }))).toEqual(['empty']);
  });

  it('is warmed by the application: items of a query, of a command, of a list; failures are counted', async () => {
    const database = await testDatabase('warm');
    try {
      await database.query('create table items as select generate_series(1, 40) as id');
      const warm = await testConfig({ datastores: { ...(cacheConfig({ east, west })['datastores'] as object), items: testDatastore(database) } });
      asked = [];
      const input = { node: 'west', url: `${applicationUrl}/fill/{item}`, query: 'select id from items order by id', database: 'items', ratePerSecond: 1000, minimumKeys: 40 };
      const done = await step(warm, 'redis.warmUp', 'apply', input);
      expect(done.facts).toMatchObject({ requests: 40, failed: 0, left: 0 });
      expect(await west.command('DBSIZE')).toBe(40);
      expect(failed(await step(warm, 'redis.warmUp', 'verify', input, { facts: done.facts! }))).toEqual([]);
      expect(failed(await step(warm, 'redis.warmUp', 'verify', { ...input, minimumKeys: 41 }, { facts: done.facts! }))).toEqual(['keys']);
      await west.command('FLUSHALL');
      const half = await step(warm, 'redis.warmUp', 'apply', { url: `${applicationUrl}/{item}`, command: ['printf', 'a b\\nbad\\n'], urls: [`${applicationUrl}/page`], allowFailed: 0.5 });
      expect(half.facts).toMatchObject({ requests: 3, failed: 1 });
      expect(asked.slice(-3).sort()).toEqual(['/a%20b', '/bad', '/page']);
      expect(failed(await step(warm, 'redis.warmUp', 'verify', { urls: [`${applicationUrl}/page`], allowFailed: 0.5 }, { facts: half.facts! }))).toEqual([]);
      expect(failed(await step(warm, 'redis.warmUp', 'verify', { urls: [`${applicationUrl}/page`] }, { facts: half.facts! }))).toEqual(['requests']);
    } finally {
      await database.drop();
    }
  });
});

describe('a replica', () => {
  it('takes over without losing a write: planned by FAILOVER, back by undo, forced when the primary is dead; Sentinel is not fought', async () => {
    const a = await startRedis({ processes, directory, name: 'pair-a' });
    const b = await startRedis({ processes, directory, name: 'pair-b', replicaOf: a });
    const of = await testConfig(cacheConfig({ a, b }));
    const roles = { primary: 'a', candidate: 'b' };
    await expect.poll(async () => String(await b.command('INFO', 'replication'))).toContain('master_link_status:up');
    expect(failed(await step(of, 'redis.promote', 'guard', roles))).toEqual([]);
    expect((await step(of, 'redis.promote', 'inspect', { primary: 'b', candidate: 'a' })).satisfied).toBe(true);
    expect(failed(await step(of, 'redis.promote', 'guard', roles, { mode: 'forced' }))).toEqual(['the primary is gone']);

    // A writer all the while: what was acknowledged is on the new primary.
    const client = createClient({ socket: { host: a.host, port: a.port }, password: a.password });
    client.on('error', () => {});
    await client.connect();
    let acknowledged = 0;
    const write = async (): Promise<string> => {
      for (;;) {
        try {
          acknowledged = await client.incr('writes');
        } catch (error) {
          return String(error);
        }
      }
    };
    const refused = write();
    await expect.poll(() => acknowledged).toBeGreaterThan(50);
    expect(await step(of, 'redis.promote', 'apply', roles)).toMatchObject({ outcome: 'changed' });
    expect(await refused).toContain('READONLY');
    client.destroy();
    expect(Number(await b.command('GET', 'writes'))).toBe(acknowledged);
    expect(failed(await step(of, 'redis.promote', 'verify', roles))).toEqual([]);
    await expect(a.command('SET', 'x', '1')).rejects.toThrow('READONLY');
    expect((await step(of, 'redis.promote', 'apply', roles)).outcome).toBe('already-satisfied');
    expect((await step(of, 'redis.promote', 'inspect', roles)).satisfied).toBe(true);

    await expect.poll(async () => String(await b.command('INFO', 'replication'))).toContain('state=online');
    expect((await step(of, 'redis.promote', 'undo', roles)).outcome).toBe('changed');
    expect(Number(await a.command('GET', 'writes'))).toBe(acknowledged);
    expect(await a.command('SET', 'x', '1')).toBe('OK');

    // A Sentinel connects under its name.
    const sentinel = createClient({ socket: { host: b.host, port: b.port }, password: b.password, name: 'sentinel-0123-cmd' });
    await sentinel.connect();
    expect(failed(await step(of, 'redis.promote', 'guard', roles))).toEqual(['no Sentinel']);
    sentinel.destroy();

    await a.kill();
    expect(failed(await step(of, 'redis.promote', 'guard', roles))).toEqual(['Redis a answers']);
    expect(failed(await step(of, 'redis.promote', 'guard', roles, { mode: 'forced' }))).toEqual([]);
    expect((await step(of, 'redis.promote', 'apply', roles, { mode: 'forced' })).outcome).toBe('changed');
    expect(failed(await step(of, 'redis.promote', 'verify', roles, { mode: 'forced' }))).toEqual([]);
    expect(await b.command('SET', 'x', '2')).toBe('OK');
    // It comes back as a primary with old data: apply has it follow.
    await a.start();
    expect((await step(of, 'redis.promote', 'inspect', roles, { mode: 'forced' })).satisfied).toBe(false);
    await step(of, 'redis.promote', 'apply', roles, { mode: 'forced' });
    expect(failed(await step(of, 'redis.promote', 'verify', roles, { mode: 'forced' }))).toEqual([]);
    await expect(a.command('SET', 'x', '1')).rejects.toThrow('READONLY');
  });
});

describe('connections', () => {
  it('by TLS with a checked certificate; a wrong password is no reason to try again, and is not shown', async () => {
    const [key, certificate] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=cache.internal', '-addext', 'subjectAltName=DNS:cache.internal', '-keyout', key, '-out', certificate], { stdio: 'ignore' });
    const port = await freePort();
    const server = await startRedis({ processes, directory, name: 'tls', settings: { 'tls-port': String(port), 'tls-cert-file': certificate, 'tls-key-file': key, 'tls-ca-cert-file': certificate, 'tls-auth-clients': 'no' } });
    const secure = { host: server.host, port };
    const of = async (tls: object, more: ConfigOverrides = {}): Promise<Context> => testConfig(cacheConfig({ east: server }, { nodes: { east: secure }, tls, ...more }));
    await server.command('SET', 'a', '1');
    const good = await of({ ca: certificate, serverName: 'cache.internal' });
    expect((await step(good, 'redis.snapshot', 'apply', { node: 'east' })).facts).toMatchObject({ keys: 1 });
    expect(failed(await step(await of({ ca: certificate, serverName: 'other.internal' }), 'redis.snapshot', 'guard', { node: 'east' }))).toEqual(['Redis east answers']);
    expect(failed(await step(await of({}), 'redis.snapshot', 'guard', { node: 'east' }))).toEqual(['Redis east answers']);
    process.env['HOLDFAST_TEST_WRONG'] = 'not-the-password-9281';
    const wrong = await testConfig(cacheConfig({ east }, { password: 'env:HOLDFAST_TEST_WRONG' }));
    await expect(step(wrong, 'redis.snapshot', 'apply', { node: 'east' })).rejects.toMatchObject({ code: 'redis-sync', retryable: false, message: expect.not.stringContaining('9281') });
    await expect(step(wrong, 'redis.substitute', 'apply', { node: 'east' })).rejects.toMatchObject({ code: 'redis-connect', retryable: false, message: expect.not.stringContaining('9281') });
  });
});

describe('a worker that is killed', () => {
  it.concurrent('after a snapshot was stored, a substitute was filled and emptied, and a cache was warmed, before it said so: nothing is done twice', async () => {
    const [source, target] = [await startRedis({ processes, directory, name: 'mortal-source', password: east.password }), await startRedis({ processes, directory, name: 'mortal-target', password: east.password })];
    for (let index = 0; index < 50; index += 1) await source.command('SET', `k${index}`, String(index));
    const of = await testConfig({
      datastores: { cache: { engine: 'redis', password: `file:${passwordFile(east)}`, nodes: { source: node(source), target: node(target) }, snapshots: { store: 'main', prefix: 'cache' } } },
      services: {},
    });
    const result = await surviveDeath(
      of,
      [
        { id: 'take', uses: 'redis.snapshot', with: { datastore: 'cache', node: 'source' } },
        { id: 'fill', uses: 'redis.substitute', after: 'take', with: { datastore: 'cache', node: 'target' } },
        { id: 'warm', uses: 'redis.warmUp', with: { urls: [`${applicationUrl}/warm`] } },
        // Fails, so that what was done is undone.
        { id: 'fails', uses: 'rollout.command', with: { argv: ['false'] } },
      ],
      [{ at: 'redis.snapshot:apply' }, { at: 'redis.substitute:apply' }, { at: 'redis.warmUp:apply' }, { at: 'redis.substitute:undo' }],
    );
    expect(result.outcome).toBe('failed');
    const store = await openStore(of, 'main');
    let stored = 0;
    for await (const object of store.list(`${store.prefix}cache/`)) if (object.key.endsWith('.rdb')) stored += 1;
    expect(stored).toBe(1);
    expect(await target.command('DBSIZE')).toBe(0);
    expect(await source.command('DBSIZE')).toBe(50);
  });

  it.concurrent('after a replica was promoted and demoted again, before it said so: there is one primary', async () => {
    const a = await startRedis({ processes, directory, name: 'mortal-a', password: east.password });
    const b = await startRedis({ processes, directory, name: 'mortal-b', replicaOf: a });
    await a.command('SET', 'k', '1');
    const of = await testConfig({ datastores: { cache: { engine: 'redis', password: `file:${passwordFile(east)}`, nodes: { a: node(a), b: node(b) } } } });
    const result = await surviveDeath(of, [{ id: 'promote', uses: 'redis.promote', with: { datastore: 'cache', primary: 'a', candidate: 'b' } }, { id: 'fails', uses: 'rollout.command', with: { argv: ['false'] } }], [{ at: 'redis.promote:apply' }, { at: 'redis.promote:undo' }]);
    expect(result.outcome).toBe('failed');
    expect(result.steps.find(({ id }) => id === 'promote')).toMatchObject({ outcome: 'undone' });
    expect(await a.command('SET', 'k', '2')).toBe('OK');
    await expect(b.command('SET', 'k', '3')).rejects.toThrow('READONLY');
    expect(await b.command('GET', 'k')).toBe('2');
  });
});
