import { once } from 'node:events';
import { chmodSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { postgresSteps } from '../../activities/postgres.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import { fenceEpoch } from '../../src/model/fence-text.ts';
import { databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { runStep } from '../step-run.ts';
import { queryOnce, testDirectory } from '../support.ts';
import { postgresOf } from '../../src/systems/context.ts';

let processes: Processes;
let pair: DatabasePair;
let hbaFile: string;
let rules: string;
const epoch = 100;
const open: { end(): Promise<void> | void }[] = [];

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('fence') });
  pair = await databasePair(processes);
  hbaFile = join(pair.servers.a.dataDirectory, 'pg_hba.conf');
  rules = readFileSync(hbaFile, 'utf8');
});

afterEach(async () => {
  for (const session of open.splice(0)) await Promise.resolve(session.end()).catch(() => {});
  const { a } = pair.servers;
  await a.start();
  overwrite(hbaFile, rules);
  rmSync(join(a.dataDirectory, 'standby.signal'), { force: true });
  await queryOnce(a.connectionString(), 'alter system reset all');
  await queryOnce(a.connectionString(), 'select pg_reload_conf()');
  if ((await queryOnce<{ recovering: boolean }>(a.connectionString(), 'select pg_is_in_recovery() as recovering'))[0]!.recovering) {
    await a.stop('fast');
    await a.start();
  }
  if ((await tryToWrite(pair, 'a')).length !== 2) throw new Error('a is not as it was before the test');
});

afterAll(async () => {
  await processes?.end();
  pair?.context.close();
});

function run(uses: string, phase: Phase, call: { epoch?: number; mode?: 'planned' | 'forced' } = {}): Promise<PhaseResult> {
  return runStep(postgresSteps, pair.context, uses, phase, { datastore: 'shop', ...(uses === 'postgres.readOnly' ? { primary: 'a' } : { node: 'a' }) }, { epoch, ...call });
}

/** Owner and mode stay: the server reads it. */
function overwrite(file: string, text: string): void {
  const { mode } = statSync(file);
  writeFileSync(file, text);
  chmodSync(file, mode);
}

async function reload(): Promise<void> {
  // Times of files have whole seconds here.
  await new Promise((resolve) => {
    setTimeout(resolve, 1100);
  });
  const [{ before }] = (await queryOnce<{ before: string }>(pair.servers.a.connectionString(), 'select pg_conf_load_time()::text as before')) as [{ before: string }];
  await queryOnce(pair.servers.a.connectionString(), 'select pg_reload_conf()');
  await expect.poll(async () => (await queryOnce<{ loaded: boolean }>(pair.servers.a.connectionString(), 'select pg_conf_load_time() > $1::timestamptz as loaded', [before]))[0]!.loaded).toBe(true);
}

async function session(url = pair.applicationUrl('a')): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  open.push(client);
  return client;
}

async function count(id: number): Promise<number> {
  return (await queryOnce(pair.servers.a.connectionString('shop'), 'select 1 from orders where id = $1', [id])).length;
}

/** A COPY whose rows never end; the driver itself would break it off at once. */
function copyWithoutEnd(client: pg.Client): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const query = new pg.Query('copy orders (id) from stdin', (...answer: unknown[]) => (answer[0] instanceof Error ? reject(answer[0]) : resolve(null)));
    Object.assign(query, { handleCopyInResponse: () => {} });
    client.query(query);
  });
}

/** A connection in the middle of its login: what PostgreSQL calls authenticating. `hello: false`: it has not even said who it is. */
async function dawdler(hello: boolean): Promise<Socket> {
  const { host, port } = pair.servers.a;
  const socket = connect(port, host);
  socket.on('error', () => {});
  open.push({ end: () => void socket.destroy() });
  await once(socket, 'connect');
  if (hello) {
    const body = Buffer.from(`user\0shop_app\0database\0shop\0\0`);
    const head = Buffer.alloc(8);
    head.writeInt32BE(body.length + 8, 0);
    head.writeInt32BE(196_608, 4);
    socket.write(Buffer.concat([head, body]));
    const [answer] = (await once(socket, 'data')) as [Buffer];
    if (answer.toString('latin1', 0, 1) !== 'R') throw new Error('it does not ask for the password');
  } else {
    // The server has forked for it.
    await new Promise((resolve) => {
      setTimeout(resolve, 200);
    });
  }
  return socket;
}

describe('nobody stays inside', () => {
  it('idle in a transaction, within a long COPY, asleep: all end, and nothing of them is committed', async () => {
    const idle = await session();
    await idle.query('begin');
    await idle.query('insert into orders (id) values (-501)');
    const copying = await session();
    const copied = copyWithoutEnd(copying).catch((error: unknown) => error);
    const asleep = await session();
    const slept = asleep.query('select pg_sleep(1000)').catch((error: unknown) => error);
    await new Promise((resolve) => {
      setTimeout(resolve, 100);
    });
    const result = await run('postgres.readOnly', 'apply');
    expect(result.facts).toMatchObject({ limits: [] });
    expect(result.facts!['sessionsEnded']).toBeGreaterThanOrEqual(3);
    for (const ended of [copied, slept]) expect(await ended).toBeInstanceOf(Error);
    await expect(idle.query('commit')).rejects.toThrow(/terminat|not queryable/);
    expect(await count(-501)).toBe(0);
    expect((await run('postgres.readOnly', 'verify')).checks!.filter((check) => !check.ok)).toEqual([]);
    expect(await tryToWrite(pair, 'a')).toEqual(['superuser']);
  });

  it.each([['waits for its password', true], ['has not said who it is', false]])('a connection that %s when the rules change is not let in by the old ones', async (_what, hello) => {
    const socket = await dawdler(hello);
    let closed = false;
    socket.once('close', () => {
      closed = true;
    });
    socket.resume();
    const { facts } = await run('postgres.readOnly', 'apply');
    // Nobody born under the old rules is left; the server itself would drop it after authentication_timeout, 60 s.
    await expect.poll(() => closed, { timeout: 20_000 }).toBe(true);
    expect(facts).toMatchObject({ limits: [] });
  });

  it('where its process cannot be ended, writes are not taken for refused', async () => {
    const node = postgresOf(pair.context.config, 'shop').nodes['a']!;
    const { dataDirectory } = node;
    delete node.dataDirectory;
    try {
      await dawdler(false);
      await expect(run('postgres.readOnly', 'apply')).rejects.toMatchObject({ code: 'sessions-remain', message: expect.stringMatching(/still logging in/) });
    } finally {
      node.dataDirectory = dataDirectory;
    }
  });

  it('what was prepared before waits on both, and the old primary lets nobody commit it', async () => {
    const { a } = pair.servers;
    await queryOnce(a.connectionString(), "alter system set max_prepared_transactions = '5'");
    await a.stop('fast');
    await a.start();
    const client = await session();
    await client.query('begin');
    await client.query('insert into orders (id) values (-502)');
    await client.query("prepare transaction 'two phases'");
    expect((await run('postgres.readOnly', 'guard')).checks).toContainEqual(expect.objectContaining({ name: 'no prepared transactions', ok: false, found: '1' }));
    // Prepared after the guard looked.
    const result = await run('postgres.readOnly', 'apply');
    expect(result.summary).toMatch(/1 prepared transaction\(s\) left, which wait on the new primary too/);
    await expect(session()).rejects.toThrow(/pg_hba.conf rejects/);
    expect(await count(-502)).toBe(0);
    const [{ before }] = (await queryOnce<{ before: boolean }>(a.connectionString(), "select prepared < pg_conf_load_time() as before from pg_prepared_xacts")) as [{ before: boolean }];
    expect(before).toBe(true);
    await queryOnce(a.connectionString('shop'), "rollback prepared 'two phases'");
  });

  it('an enabled subscription writes past every rule: refused before, and found if it comes up in between', async () => {
    const { a } = pair.servers;
    await queryOnce(a.connectionString('shop'), `create subscription passing connection 'host=127.0.0.1 port=1 dbname=x' publication x with (connect = false)`);
    try {
      expect((await run('postgres.readOnly', 'guard')).checks!.find((check) => check.name === 'no subscriptions')!.ok).toBe(true);
      await queryOnce(a.connectionString('shop'), 'alter subscription passing enable');
      expect((await run('postgres.readOnly', 'guard')).checks!.find((check) => check.name === 'no subscriptions')!.ok).toBe(false);
      await expect(run('postgres.readOnly', 'apply')).rejects.toMatchObject({ code: 'writers-remain' });
      expect((await run('postgres.readOnly', 'undo')).outcome).toBe('changed');
      expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
    } finally {
      await queryOnce(a.connectionString('shop'), 'alter subscription passing disable');
      await queryOnce(a.connectionString('shop'), 'alter subscription passing set (slot_name = none)');
      await queryOnce(a.connectionString('shop'), 'drop subscription passing');
    }
  });

  it('an application that logs in as the administrator cannot be held, which is found before anything changes', async () => {
    const { admin } = postgresOf(pair.context.config, 'shop');
    const { username } = admin;
    const { dataDirectory } = pair.servers.a;
    const before = await run('postgres.readOnly', 'guard');
    expect(before.checks!.every((check) => check.ok)).toBe(true);
    await queryOnce(pair.servers.a.connectionString(), 'alter role shop_app superuser');
    const { readEndpoint } = await import('../../src/systems/endpoint.ts');
    process.env['HOLDFAST_TEST_SHOP_PASSWORD'] = (await readEndpoint(pair.context, pair.secretId)).password;
    const { password } = admin;
    Object.assign(admin, { username: 'shop_app', password: 'env:HOLDFAST_TEST_SHOP_PASSWORD' });
    try {
      expect((await run('postgres.readOnly', 'guard')).checks!.filter((check) => !check.ok).map((check) => check.name)).toEqual(['the application is not the administrator']);
      const node = postgresOf(pair.context.config, 'shop').nodes['a']!;
      delete node.dataDirectory;
      try {
        expect((await run('postgres.fence', 'guard')).checks!.filter((check) => !check.ok).map((check) => check.name)).toEqual(['a way to fence']);
      } finally {
        node.dataDirectory = dataDirectory;
      }
    } finally {
      Object.assign(admin, { username, password });
      await queryOnce(pair.servers.a.connectionString(), 'alter role shop_app nosuperuser');
    }
  });
});

describe('before the final fence it holds through', () => {
  it('a restart, SIGKILL and a start, another superuser, the socket, and ALTER SYSTEM RESET ALL', async () => {
    const { a } = pair.servers;
    await queryOnce(a.connectionString(), "create role root_of_all superuser login password 'geheim'").catch(() => {});
    const socket = (await queryOnce<{ dir: string }>(a.connectionString(), "select current_setting('unix_socket_directories') as dir"))[0]!.dir;
    const holds = async (): Promise<void> => {
      expect(await tryToWrite(pair, 'a')).toEqual(['superuser']);
      await expect(session(`postgresql://root_of_all:geheim@127.0.0.1:${a.port}/shop`)).rejects.toThrow(/pg_hba.conf rejects/);
      await expect(session(`postgresql://root_of_all:geheim@/shop?host=${encodeURIComponent(socket)}&port=${a.port}`)).rejects.toThrow(/pg_hba.conf rejects/);
      const verdict = await run('postgres.verifyFence', 'verify');
      expect(verdict.checks).toMatchObject([{ ok: true }]);
      expect(verdict.summary).toMatch(/NOT held: it runs: whoever has the password of holdfast can write to it/);
    };
    await run('postgres.readOnly', 'apply');
    await holds();
    await a.stop('fast');
    await a.start();
    await holds();
    await a.kill();
    await a.start();
    await holds();
    await queryOnce(a.connectionString(), 'alter system reset all');
    await queryOnce(a.connectionString(), 'select pg_reload_conf()');
    await holds();
  });

  it.each([
    ['a rule above the block', (text: string) => `host all shop_app all scram-sha-256\n${text}`],
    ['the block removed', () => rules],
    ['a rule of the block removed', (text: string) => text.split('\n').filter((line) => !line.startsWith('host all all all reject')).join('\n')],
  ])('and what opens it is seen: %s', async (_what, change) => {
    await run('postgres.readOnly', 'apply');
    overwrite(hbaFile, change(readFileSync(hbaFile, 'utf8')));
    // Written and not loaded: not what was agreed, whoever gets in.
    expect((await run('postgres.verifyFence', 'verify')).checks).toMatchObject([{ ok: false }]);
    await reload();
    expect(await tryToWrite(pair, 'a')).toContain('application');
    expect((await run('postgres.verifyFence', 'verify')).checks).toMatchObject([{ ok: false }]);
    const promoted = runStep(postgresSteps, pair.context, 'postgres.promote', 'apply', { datastore: 'shop', primary: 'a', candidate: 'b' }, { epoch });
    await expect(promoted).rejects.toMatchObject({ code: 'not-begun' });
    expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as recovering')).toEqual([{ recovering: true }]);
  });
});

describe('the final fence', () => {
  it.each([
    ['nothing is touched', () => {}],
    ['standby.signal is removed', () => rmSync(join(pair.servers.a.dataDirectory, 'standby.signal'))],
    ['the rules are replaced', () => overwrite(hbaFile, rules)],
  ])('holds when the server is started again and %s', async (what, meddle) => {
    const { a } = pair.servers;
    expect((await run('postgres.fence', 'apply')).facts).toMatchObject({ problems: [] });
    expect(a.running()).toBe(false);
    expect((await run('postgres.fence', 'verify')).checks).toMatchObject([{ ok: true }]);
    expect((await run('postgres.fence', 'inspect')).satisfied).toBe(true);
    meddle();
    // Half of it is not the fence: verification says so before anybody starts it.
    expect((await run('postgres.fence', 'verify')).checks).toMatchObject([{ ok: what === 'nothing is touched' }]);
    await a.start();
    expect(await tryToWrite(pair, 'a')).not.toContain('application');
    expect((await run('postgres.verifyFence', 'verify')).checks).toMatchObject([{ ok: true }]);
    expect((await run('postgres.fence', 'inspect')).satisfied).toBe(false);
    await run('postgres.fence', 'apply');
    expect(a.running()).toBe(false);
    expect((await run('postgres.fence', 'verify')).checks).toMatchObject([{ ok: true }]);
  });

  it('of a primary that was killed leaves both on its host', async () => {
    const { a } = pair.servers;
    await a.kill();
    await run('postgres.fence', 'apply', { mode: 'forced' });
    expect(fenceEpoch(readFileSync(hbaFile, 'utf8'))).toBe(epoch);
    expect((await run('postgres.fence', 'verify')).summary).toMatch(/server stopped, standby.signal there, pg_hba.conf fenced/);
    rmSync(join(a.dataDirectory, 'standby.signal'));
    await a.start();
    expect(await tryToWrite(pair, 'a')).toEqual(['superuser']);
  });

  it('a foreign server with the number in postmaster.pid is left alone', async () => {
    const { a, b } = pair.servers;
    const pidFile = join(a.dataDirectory, 'postmaster.pid');
    const lines = readFileSync(pidFile, 'utf8').split('\n');
    await a.kill();
    // As after a reboot: the number belongs to somebody else now, here to the candidate.
    const other = readFileSync(join(b.dataDirectory, 'postmaster.pid'), 'utf8').split('\n')[0]!;
    writeFileSync(pidFile, [other, ...lines.slice(1)].join('\n'));
    await run('postgres.fence', 'apply', { mode: 'forced' });
    expect(b.running()).toBe(true);
    expect((await run('postgres.fence', 'verify')).checks).toMatchObject([{ ok: true }]);
    rmSync(pidFile);
  });
});

describe('epochs', () => {
  it('an older execution can neither replace nor lift a newer fence, running or stopped', async () => {
    const newer = { epoch: epoch + 50 };
    await run('postgres.readOnly', 'apply', newer);
    await expect(run('postgres.readOnly', 'apply')).rejects.toMatchObject({ code: 'stale-epoch' });
    await expect(run('postgres.readOnly', 'undo')).rejects.toMatchObject({ code: 'foreign-fence' });
    await expect(run('postgres.fence', 'apply')).rejects.toMatchObject({ code: 'stale-epoch' });
    expect(fenceEpoch(readFileSync(hbaFile, 'utf8'))).toBe(newer.epoch);
    expect(await tryToWrite(pair, 'a')).toEqual(['superuser']);
    await run('postgres.fence', 'apply', newer);
    await expect(run('postgres.fence', 'apply')).rejects.toMatchObject({ code: 'stale-epoch' });
    expect(fenceEpoch(readFileSync(hbaFile, 'utf8'))).toBe(newer.epoch);
  });

  it('two workers change the rules one after the other; one that hangs is ended by who fences, not by who lifts', async () => {
    await run('postgres.readOnly', 'apply');
    const hanging = await session(pair.servers.a.connectionString('shop'));
    await hanging.query("select pg_advisory_lock(hashtextextended('holdfast fence', 0))");
    await expect(run('postgres.readOnly', 'undo')).rejects.toMatchObject({ code: 'rules-busy' });
    expect((await run('postgres.readOnly', 'apply')).outcome).toBe('changed');
    await expect(hanging.query('select 1')).rejects.toThrow(/terminat|not queryable/);
    expect((await run('postgres.readOnly', 'undo')).outcome).toBe('changed');
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  });
});
