import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { createProcesses, startPostgres, type PostgresServer, type Processes } from '../../src/local/stack.ts';
import type { BackupResult } from '../../src/model/api.ts';
import { listBackups, openObject, readManifest } from '../../src/systems/backup-catalogue.ts';
import type { BackupProgress } from '../../src/systems/backup-engine.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore } from '../../src/systems/store.ts';
import { queryOnce, suite, testConfig, toxiproxy, uniqueName, type ConfigOverrides } from '../support.ts';
import { binDirectoryWith, BULKY, childrenNamed, expectNothingLeft, startBreakingProxy, uploadsIn } from './backup-broken.ts';

let processes: Processes;
let server: PostgresServer;
let direct: Context;
let bucket: string;
let committed = 0;
const contexts: Context[] = [];

beforeAll(async () => {
  processes = createProcesses();
  server = await startPostgres({ processes, directory: processes.directory, name: 'victim', settings: { fsync: 'off' } });
  process.env['HOLDFAST_TEST_VICTIM_PASSWORD'] = server.password;
  await queryOnce(server.connectionString('postgres'), 'create database shop');
  await queryOnce(server.connectionString('shop'), BULKY);
  direct = await context({});
  bucket = bucketOf(direct);
});

afterAll(async () => {
  for (const one of contexts) one.close();
  await processes.end();
});

afterEach(async () => {
  // After each failure: nothing is left, and the next run succeeds.
  await expectNothingLeft(direct, server, committed);
  await back(direct);
  committed += 1;
  const store = await openStore(direct, 'main');
  const listed = await listBackups(store, store.prefix, 'shop');
  if (listed.length !== committed) throw new Error(`${listed.length} backups are listed, ${committed} were committed`);
});

async function context(datastore: ConfigOverrides, store: ConfigOverrides = {}): Promise<Context> {
  const made = await testConfig({
    stores: { main: { partSize: '5MiB', uploadConcurrency: 1, ...(bucket === undefined ? {} : { bucket }), ...store } },
    datastores: {
      shop: {
        engine: 'postgres', database: 'shop', store: 'main', binDirectory: suite().postgres.binDirectory,
        admin: { username: server.superuser, password: 'env:HOLDFAST_TEST_VICTIM_PASSWORD' },
        nodes: { a: { host: server.host, port: server.port } },
        ...datastore,
      },
    },
  });
  contexts.push(made);
  return made;
}

function bucketOf(of: Context): string {
  const store = of.config.stores['main']!;
  return store.type === 's3' ? store.bucket : '';
}

function back(of: Context, signal = new AbortController().signal, onProgress?: (progress: BackupProgress) => void): Promise<BackupResult> {
  const id = uniqueName('b');
  return runBackup(of, { datastore: 'shop', id, location: `shop/2026/01/02/030405Z-${id}/`, reason: 'test', workflowId: 'w', runId: 'r' }, { signal, onProgress });
}

/** Run `once` when the dump is under way and a part is stored, while a slow store holds it there. */
async function midway(of: Context, once: () => void | Promise<void>, signal?: AbortSignal): Promise<unknown> {
  let acted: void | Promise<void> | false = false;
  const error = await back(of, signal, (progress) => {
    if (acted === false && progress.phase === 'dump' && progress.storedBytes > 0) acted = once() ?? undefined;
  }).then(
    () => new Error('the backup succeeded'),
    (error: unknown) => error,
  );
  expect(acted, 'the backup got so far').not.toBe(false);
  await acted;
  return error;
}

test('pg_dump killed midway', async () => {
  const error = await midway(direct, () => {
    const [dump, ...others] = childrenNamed(['pg_dump']);
    expect(others).toEqual([]);
    process.kill(dump!.pid, 'SIGKILL');
  });
  expect(error).toMatchObject({ code: 'dump-failed', retryable: true });
  expect((error as Error).message).toContain('was ended by SIGKILL');
});

test('pg_dump that ends with 0 after a truncated stream', async () => {
  const of = await context({ binDirectory: binDirectoryWith('case "$*" in *--format=custom*) "$REAL" "$@" | head -c 20000000; exit 0;; *) exec "$REAL" "$@";; esac') });
  const error = await back(of).catch((error: unknown) => error);
  expect(error).toMatchObject({ code: 'dump-unreadable' });
  expect((error as Error).message).toContain('cannot be read back whole');
});

test('pg_dump that fails after it wrote something', async () => {
  const of = await context({ binDirectory: binDirectoryWith('case "$*" in *--format=custom*) "$REAL" "$@" | head -c 2000;  exit 3;; *) exec "$REAL" "$@";; esac') });
  expect(await back(of).catch((error: unknown) => error)).toMatchObject({ code: 'dump-failed' });
});

test('the checker dies early', async () => {
  const error = await midway(direct, () => {
    const [checker] = childrenNamed(['pg_restore']);
    process.kill(checker!.pid, 'SIGKILL');
  });
  expect(error).toMatchObject({ retryable: true });
  expect((error as { code: string }).code).toMatch(/^dump-/);
});

test('database restarted midway', async () => {
  const error = await midway(direct, async () => {
    await server.stop('immediate');
    await server.start();
  });
  expect(error).toMatchObject({ retryable: true });
  expect((error as { code: string }).code).toMatch(/^(dump-failed|snapshot-lost|fingerprint-read|child-failed|globals-truncated)$/);
});

test('wrong password', async () => {
  process.env['HOLDFAST_TEST_WRONG'] = 'not-the-password';
  const of = await context({ admin: { username: server.superuser, password: 'env:HOLDFAST_TEST_WRONG' } });
  const error = (await back(of).catch((error: unknown) => error)) as Error;
  expect(error).toMatchObject({ code: 'postgres-connect', retryable: false });
  expect(error.message).toContain('password authentication failed');
  expect(error.message).not.toContain('not-the-password');
});

test('a role that may only read is enough; forced row-level security is named unless it may bypass that', async () => {
  await queryOnce(server.connectionString('shop'), `
    create role reader login password 'least-rights-1';
    create table guarded as select 1 as id; alter table guarded enable row level security; alter table guarded force row level security;
    grant select on bulky, guarded to reader;`);
  process.env['HOLDFAST_TEST_LEAST'] = 'least-rights-1';
  const of = await context({ admin: { username: 'reader', password: 'env:HOLDFAST_TEST_LEAST' } });
  const error = (await back(of).catch((error: unknown) => error)) as Error;
  expect(error.message).toMatch(/row-level security|row security/);
  expect(error.message).toContain('guarded');
  await expectNothingLeft(direct, server, committed);
  await queryOnce(server.connectionString('shop'), 'alter role reader bypassrls');
  const { location } = await back(of);
  committed += 1;
  const manifest = await readManifest(await openStore(of, 'main'), location);
  const globals = manifest.objects.find((object) => object.role === 'globals')!;
  let text = '';
  for await (const chunk of await openObject(of, 'main', location, globals)) text += String(chunk);
  expect(text).toContain('CREATE ROLE reader');
  expect(text).not.toContain('PASSWORD'); // It cannot read the hashes, and a backup without them is better than none.
});

test('missing bucket', async () => {
  const of = await context({}, { bucket: 'no-such-bucket-here' });
  const error = await back(of).catch((error: unknown) => error);
  expect(error).toMatchObject({ code: 'store-bucket-missing', retryable: false });
  expect((error as Error).message).toContain('no-such-bucket-here');
});

test('a client older than the server is refused before anything starts', async () => {
  const of = await context({ binDirectory: binDirectoryWith('echo "pg_dump (PostgreSQL) 13.4"') });
  expect(await back(of).catch((error: unknown) => error)).toMatchObject({ code: 'client-too-old', retryable: false });
});

test('the store answers 500: a few are retried, lasting ones fail the backup', async () => {
  const proxy = await startBreakingProxy(suite().s3.endpoint);
  try {
    const of = await context({}, { endpoint: proxy.endpoint });
    let parts = 0;
    proxy.answer = (request) => (request.method === 'PUT' && request.url?.includes('partNumber=2') === true && (parts += 1) <= 2 ? 500 : undefined);
    await back(of);
    committed += 1;
    expect(proxy.refused()).toBe(2);

    proxy.answer = (request) => (request.method === 'PUT' && request.url?.includes('partNumber=') === true ? 500 : undefined);
    const error = await back(of).catch((error: unknown) => error);
    expect(error).toMatchObject({ code: 'store-s3', retryable: true });
    expect((error as Error).message).toContain('could not be written');
  } finally {
    await proxy.close();
  }
});

test('the connection to the store is cut for good; the reaper removes what could not be abandoned', async () => {
  const proxy = await toxiproxy().proxy(uniqueName('store'), new URL(suite().s3.endpoint).host);
  try {
    const of = await context({}, { endpoint: `http://${proxy.address}` });
    const error = await midway(of, () => proxy.setEnabled(false));
    expect(error).toMatchObject({ code: 'store-s3', retryable: true });
    expect(await uploadsIn(direct)).toBe(1);
  } finally {
    await proxy.delete();
  }
});

test('cancelled midway', async () => {
  const controller = new AbortController();
  const error = await midway(direct, () => controller.abort(new Error('cancelled by hand')), controller.signal);
  expect((error as Error).message).toBe('cancelled by hand');
});

test('nothing touches the disk of the worker, and no argument shows the password', async () => {
  const before = new Set(writableFiles(process.pid));
  let looked = 0;
  await back(direct, undefined, (progress) => {
    if (progress.phase !== 'dump' || looked > 40) return;
    looked += 1;
    const children = childrenNamed(['pg_dump', 'pg_restore']).map(({ pid }) => pid);
    for (const pid of children) expect(safely(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')) ?? '').not.toContain(server.password);
    expect([process.pid, ...children].flatMap((pid) => writableFiles(pid)).filter((file) => !before.has(file))).toEqual([]);
  });
  committed += 1;
  expect(looked).toBeGreaterThan(3);
});

/** Regular files that a process has open for writing. */
function writableFiles(pid: number): string[] {
  const files: string[] = [];
  for (const fd of safely(() => readdirSync(`/proc/${pid}/fd`)) ?? []) {
    const path = safely(() => readlinkSync(`/proc/${pid}/fd/${fd}`));
    const flags = safely(() => /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1]);
    if (path?.startsWith('/') === true && !path.startsWith('/dev/') && flags !== undefined && (Number.parseInt(flags, 8) & 3) !== 0) files.push(path);
  }
  return files;
}

/** A process that looked into is allowed to end meanwhile. */
function safely<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
