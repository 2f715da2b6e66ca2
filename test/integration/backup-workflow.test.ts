import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { main } from '../../src/cli/main.ts';
import { createProcesses, startPostgres, type PostgresServer, type Processes } from '../../src/local/stack.ts';
import { startWebhook, type Webhook } from '../../src/local/webhook.ts';
import { WORKFLOW_IDS, type BackupInput, type BackupResult, type RetentionResult } from '../../src/model/api.ts';
import { listBackups } from '../../src/systems/backup-catalogue.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore } from '../../src/systems/store.ts';
import { connectTemporal, queryOnce, runningWorker, suite, testConfig, testDirectory, testSecret, toxiproxy, uniqueName, type ConfigOverrides } from '../support.ts';
import { BULKY, childrenNamed, expectNothingLeft, keysIn, uploadsIn } from './backup-broken.ts';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

let processes: Processes;
let server: PostgresServer;
let webhook: Webhook;

beforeAll(async () => {
  processes = createProcesses();
  [server, webhook] = await Promise.all([startPostgres({ processes, directory: processes.directory, name: 'victim', settings: { fsync: 'off' } }), startWebhook()]);
  process.env['HOLDFAST_TEST_VICTIM_PASSWORD'] = server.password;
  process.env['HOLDFAST_TEST_WEBHOOK'] = webhook.url;
  await queryOnce(server.connectionString('postgres'), 'create database shop');
  await queryOnce(server.connectionString('shop'), BULKY);
});

afterAll(async () => {
  await webhook.close();
  await processes.end();
});

function config(datastore: ConfigOverrides = {}, store: ConfigOverrides = {}): Promise<Context> {
  return testConfig({
    stores: { main: { partSize: '5MiB', uploadConcurrency: 1, ...store } },
    notify: { people: { type: 'slack', url: 'env:HOLDFAST_TEST_WEBHOOK' } },
    datastores: {
      shop: {
        engine: 'postgres', database: 'shop', store: 'main', binDirectory: suite().postgres.binDirectory,
        admin: { username: server.superuser, password: 'env:HOLDFAST_TEST_VICTIM_PASSWORD' },
        nodes: { a: { host: server.host, port: server.port } },
        ...datastore,
      },
    },
  });
}

async function start(context: Context, client: Client, reason: string): Promise<{ workflowId: string; result: Promise<BackupResult> }> {
  const input: BackupInput = { datastore: 'shop', reason };
  const handle = await client.workflow.start('backup', { taskQueue: context.config.temporal.taskQueue, workflowId: WORKFLOW_IDS.backup('shop', uniqueName('t')), args: [input] });
  const result = handle.result() as Promise<BackupResult>;
  result.catch(() => {});
  return { workflowId: handle.workflowId, result };
}

const told = (title: string, text = ''): Promise<unknown> => {
  const from = seen;
  return webhook.waitFor((message) => webhook.messages.indexOf(message) >= from && JSON.stringify(message.body).includes(title) && JSON.stringify(message.body).includes(text));
};
let seen = 0;

describe('with a worker', () => {
  let context: Context;
  let client: Client;
  let worker: { stop(): Promise<void> };
  const ran: string[] = [];

  beforeAll(async () => {
    const secret = await testSecret('victim', { username: server.superuser, password: server.password });
    context = await config({ retention: { last: 2 }, admin: { username: server.superuser, password: `aws-sm:${secret}#password` } });
    client = await connectTemporal(context);
    worker = await runningWorker(context);
  });
  afterAll(async () => {
    await worker.stop();
    await client.connection.close();
    context.close();
  });

  test('a backup is committed and told, and retention follows it', async () => {
    for (const reason of ['first', 'second', 'third']) {
      seen = webhook.messages.length;
      const { workflowId, result } = await start(context, client, reason);
      ran.push(workflowId);
      const backup = await result;
      expect(backup).toMatchObject({ datastore: 'shop', rows: '2000', tables: 1 });
      await told('Backup of shop committed', backup.id);
      const retained = (await client.workflow.getHandle(WORKFLOW_IDS.retention('shop')).result()) as RetentionResult;
      expect(retained).toMatchObject({ applied: true });
    }
    const store = await openStore(context, 'main');
    const left = await listBackups(store, store.prefix, 'shop');
    expect(left.map((backup) => backup.reason)).toEqual(['second', 'third']);
    expect((await keysIn(context)).filter((key) => key.endsWith('COMMIT'))).toHaveLength(2);
  });

  test('neither the password nor the webhook address is in the history', async () => {
    expect(ran).toHaveLength(3);
    for (const workflowId of ran) {
      const history = JSON.stringify((await client.workflow.getHandle(workflowId).fetchHistory()).events);
      const plain = history + [...history.matchAll(/"data":"([^"]*)"/g)].map((match) => Buffer.from(match[1]!, 'base64').toString('utf8')).join('\n');
      expect(plain).not.toContain(server.password);
      expect(plain).not.toContain('receiver-token');
    }
  });

  test('wrong input is refused with every finding and not tried again', async () => {
    const handle = await client.workflow.start('backup', { taskQueue: context.config.temporal.taskQueue, workflowId: uniqueName('wrong'), args: [{ datastor: 'shop', reason: '' }] });
    const error = (await handle.result().catch((error: unknown) => error)) as { cause: Error };
    expect(error.cause.message).toMatch(/datastore.*reason.*datastor/s);
  });

  test('a cancelled backup leaves nothing and is told', async () => {
    seen = webhook.messages.length;
    const before = (await keysIn(context)).filter((key) => key.endsWith('COMMIT')).length;
    const proxy = await toxiproxy().proxy(uniqueName('slow'), new URL(suite().s3.endpoint).host);
    const slow = await config({}, { endpoint: `http://${proxy.address}`, bucket: bucketOf(context) });
    const slowWorker = await runningWorker(slow);
    try {
      await proxy.addToxic({ type: 'bandwidth', stream: 'upstream', attributes: { rate: 1500 } });
      const { workflowId, result } = await start(slow, client, 'to be cancelled');
      await expect.poll(() => uploadsIn(slow), { timeout: 30_000, interval: 50 }).toBe(1);
      await client.workflow.getHandle(workflowId).cancel();
      await expect(result).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
      await told('Backup of shop was cancelled', 'Nothing was committed');
      expect(await uploadsIn(slow)).toBe(0);
      await proxy.removeToxics();
      await expectNothingLeft(context, server, before);
    } finally {
      await slowWorker.stop();
      await proxy.delete();
      slow.close();
    }
  });
});

test('a failing backup is told with its cause, once, and without a second try where that cannot help', async () => {
  process.env['HOLDFAST_TEST_WRONG'] = 'surely-not-the-password';
  const context = await config({ admin: { username: server.superuser, password: 'env:HOLDFAST_TEST_WRONG' } });
  const client = await connectTemporal(context);
  const worker = await runningWorker(context);
  try {
    seen = webhook.messages.length;
    const { workflowId, result } = await start(context, client, 'wrong password');
    const failure = (await result.catch((error: unknown) => error)) as Error & { cause: { cause: Error } };
    expect(failure.cause.cause.message).toContain('password authentication failed');
    await told('Backup of shop failed', 'password authentication failed');
    const { events } = await client.workflow.getHandle(workflowId).fetchHistory();
    expect(JSON.stringify(events)).not.toContain('surely-not');
    const attempts = events!.filter((event) => event.activityTaskStartedEventAttributes).map((event) => event.activityTaskStartedEventAttributes!.attempt);
    expect(Math.max(...attempts.map(Number))).toBe(1);
  } finally {
    await worker.stop();
    await client.connection.close();
    context.close();
  }
});

test('a worker killed with SIGKILL midway: another one finishes, and nothing of the first is left', async () => {
  const proxy = await toxiproxy().proxy(uniqueName('slow'), new URL(suite().s3.endpoint).host);
  const context = await config({}, { endpoint: `http://${proxy.address}` });
  const client = await connectTemporal(context);
  const workers: ChildProcess[] = [];
  try {
    await proxy.addToxic({ type: 'bandwidth', stream: 'upstream', attributes: { rate: 1500 } });
    workers.push(startWorker(context));
    const { result } = await start(context, client, 'survives');
    await expect.poll(async () => (workers[0]!.exitCode === null ? await uploadsIn(context) : 'the worker ended'), { timeout: 60_000, interval: 100 }).toBe(1);
    const children = childrenNamed(['pg_dump', 'pg_restore'], workers[0]!.pid);
    expect(children.map(({ name }) => name).sort()).toEqual(['pg_dump', 'pg_restore']);
    workers[0]!.kill('SIGKILL');
    await once(workers[0]!, 'exit');
    await expect.poll(() => children.filter(({ pid }) => running(pid)), { timeout: 10_000, interval: 50 }).toEqual([]);
    expect(await uploadsIn(context), 'what the dead worker left').toBe(1);
    await proxy.removeToxics();
    workers.push(startWorker(context));
    const backup = await result;
    expect(backup.id).toMatch(/-2$/);
    await expectNothingLeft(context, server, 1);
    const store = await openStore(context, 'main');
    expect((await listBackups(store, store.prefix, 'shop')).map(({ id }) => id)).toEqual([backup.id]);
  } finally {
    for (const worker of workers) {
      if (worker.exitCode === null && worker.signalCode === null) {
        worker.kill('SIGKILL');
        await once(worker, 'exit');
      }
    }
    await client.connection.close();
    await proxy.delete();
    context.close();
  }
});

test('the command line backs up, lists, verifies, pins, explains and restores', async () => {
  const context = await config({ retention: { last: 1 } });
  const worker = await runningWorker(context);
  const holdfast = (...argv: string[]): Promise<CliOutcome> => cli(context, argv);
  try {
    const made = await holdfast('backup', 'shop', '--reason', 'by hand', '--json');
    expect(made).toMatchObject({ code: 0 });
    const { id } = JSON.parse(made.stdout) as BackupResult;
    const listed = await holdfast('backups', 'shop');
    expect(listed.stdout).toMatch(new RegExp(`${id}.*unproved.*by hand`));
    const verified = await holdfast('verify', id);
    expect(verified.stdout).toContain('was read back whole');
    expect((await holdfast('backups', 'shop', '--pin', id, '--reason', 'keep', '--json')).stdout).toContain('"pinned": true');
    expect((await holdfast('retention', 'shop', '--explain')).stdout).toMatch(new RegExp(`${id}.*keep.*pinned`));

    await queryOnce(server.connectionString('postgres'), 'create database restored');
    const to = `postgres://${server.superuser}@${server.host}:${server.port}/restored`;
    const restore = await holdfast('restore', id, '--to', to, '--password-from', 'env:HOLDFAST_TEST_VICTIM_PASSWORD');
    expect(restore).toMatchObject({ code: 0 });
    expect(await queryOnce(server.connectionString('restored'), 'select count(*)::int as n from bulky')).toEqual([{ n: 2000 }]);
    const again = await holdfast('restore', id, '--to', to, '--password-from', 'env:HOLDFAST_TEST_VICTIM_PASSWORD');
    expect(again.code).toBe(4);
    expect(again.stderr).toContain('is not empty');
    await queryOnce(server.connectionString('restored'), 'drop table bulky');
    await queryOnce(server.connectionString('restored'), 'create table other (id int)');
    const table = await holdfast('restore', id, '--to', to, '--password-from', 'env:HOLDFAST_TEST_VICTIM_PASSWORD', '--allow-non-empty', '--table', 'public.bulky');
    expect(table).toMatchObject({ code: 0 });
    expect(await queryOnce(server.connectionString('restored'), 'select count(*)::int as n from bulky')).toEqual([{ n: 2000 }]);

    // As plain SQL, for whoever has nothing but psql.
    const file = join(testDirectory('sql'), 'shop.sql.zst');
    expect(await holdfast('restore', id, '--sql', file)).toMatchObject({ code: 0, stdout: expect.stringContaining('psql --no-psqlrc --set=ON_ERROR_STOP=1') });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    await queryOnce(server.connectionString('postgres'), 'create database scripted');
    execFileSync('sh', ['-c', `zstd -dc ${file} | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --single-transaction "$0" > /dev/null`, server.connectionString('scripted')]);
    expect(await queryOnce(server.connectionString('scripted'), 'select count(*)::int as n from bulky')).toEqual([{ n: 2000 }]);
    expect(await holdfast('restore', id, '--sql', file)).toMatchObject({ code: 4, stderr: expect.stringContaining('exists already') });
    expect(readdirSync(dirname(file))).toEqual(['shop.sql.zst']);
    expect((await holdfast('restore', id)).code).toBe(2);

    const withPassword = await holdfast('restore', id, '--to', `postgres://a:secret@${server.host}/x`, '--password-from', 'env:X');
    expect(withPassword.code).toBe(2);
    expect(withPassword.stderr).not.toContain('secret@');
    expect((await holdfast('verify', 'no-such-id')).code).toBe(3);
    expect((await holdfast('backups', 'nowhere')).code).toBe(3);
  } finally {
    await worker.stop();
    context.close();
  }
});

function bucketOf(context: Context): string {
  const store = context.config.stores['main']!;
  return store.type === 's3' ? store.bucket : '';
}

function startWorker(context: Context): ChildProcess {
  return spawn(process.execPath, [MAIN, '--config', context.configPath, 'worker'], { env: { ...process.env, HOLDFAST_LOG_LEVEL: 'error' }, stdio: ['ignore', 'ignore', 'inherit'] });
}

interface CliOutcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The whole program, in this process: starting Node for each call would take most of the time. */
async function cli(context: Context, argv: readonly string[]): Promise<CliOutcome> {
  let stdout = '';
  let stderr = '';
  const code = await main(['--config', context.configPath, ...argv], {
    env: process.env, cwd: process.cwd(), terminal: false,
    out: (text) => void (stdout += text),
    err: (text) => void (stderr += text),
    exit: (code) => {
      throw new Error(`exit ${code}`);
    },
    onSignal: () => () => {},
  });
  return { code, stdout, stderr };
}

function running(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
