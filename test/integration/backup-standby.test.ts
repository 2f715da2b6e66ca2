import { afterAll, beforeAll, expect, test } from 'vitest';
import { createProcesses, startPostgres, startStandby, type PostgresServer, type Processes } from '../../src/local/stack.ts';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import { restoreInto } from '../../src/systems/postgres-restore.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import type { Context } from '../../src/systems/context.ts';
import { withPostgres } from '../../src/systems/postgres.ts';
import { fingerprintDatabase } from '../../src/systems/postgres-fingerprint.ts';
import { openStore } from '../../src/systems/store.ts';
import { queryOnce, suite, testConfig, testDatabase } from '../support.ts';

let processes: Processes;
let primary: PostgresServer;
let standby: PostgresServer;
let context: Context;

beforeAll(async () => {
  processes = createProcesses();
  primary = await startPostgres({ processes, directory: processes.directory, name: 'primary', settings: { fsync: 'off' } });
  await queryOnce(primary.connectionString('postgres'), 'create database shop');
  await queryOnce(primary.connectionString('shop'), "create table t as select i, md5(i::text) as m from generate_series(1, 20000) i; create unlogged table cache as select 1 as x; create sequence s; select nextval('s'); select lo_from_bytea(5001, 'abc')");
  standby = await startStandby({ processes, directory: processes.directory, name: 'standby', primary });
  process.env['HOLDFAST_TEST_PAIR_PASSWORD'] = primary.password;
  context = await testConfig({
    datastores: {
      shop: {
        engine: 'postgres', database: 'shop', store: 'main', binDirectory: suite().postgres.binDirectory,
        admin: { username: primary.superuser, password: 'env:HOLDFAST_TEST_PAIR_PASSWORD' },
        nodes: { a: { host: primary.host, port: primary.port }, b: { host: standby.host, port: standby.port } },
        backup: { from: 'standby' },
      },
    },
  });
});
afterAll(async () => {
  context.close();
  await processes.end();
});

async function back(id: string): Promise<{ location: string; manifest: PostgresManifest }> {
  const { location } = await runBackup(context, { datastore: 'shop', id, location: `shop/2026/01/02/030405Z-${id}/`, reason: 'test', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
  return { location, manifest: postgresManifestOf(await readManifest(await openStore(context, 'main'), location)) };
}

test('a backup of the standby is exact while the primary is written, and leaves unlogged rows out', async () => {
  const stop = new AbortController();
  let written = 0;
  const writer = withPostgres({ host: primary.host, port: primary.port, user: primary.superuser, password: primary.password, database: 'shop', sslmode: 'disable' }, async (client) => {
    while (!stop.signal.aborted) {
      await client.query('insert into t values ($1, $2)', [1_000_000 + written, 'live']);
      written += 1;
    }
  });
  await expect.poll(() => written).toBeGreaterThan(10);
  const { manifest, location } = await back('s');
  stop.abort();
  await writer;
  expect(manifest.source).toMatchObject({ node: 'b', role: 'standby' });
  expect(manifest.degraded).toBeUndefined();
  expect(manifest.fingerprint.tables.find(({ name }) => name === 'cache')).toMatchObject({ rows: '0' });
  const target = await testDatabase('from_standby');
  try {
    await restoreInto(context, { storeName: 'main', location, manifest, target: target.target, binDirectory: suite().postgres.binDirectory, globals: false, noOwner: true });
    const found = await withPostgres(target.target, (client) => fingerprintDatabase([client]));
    expect(found.tables).toEqual(manifest.fingerprint.tables);
    expect(BigInt(found.tables.find(({ name }) => name === 't')!.rows)).toBeGreaterThanOrEqual(20_000n);
    expect(found.largeObjects.bytes).toBe('3');
  } finally {
    await target.drop();
  }
});

test('without a standby the primary is read, and the backup says so', async () => {
  await standby.stop();
  try {
    const { manifest } = await back('p');
    expect(manifest.source).toMatchObject({ node: 'a', role: 'primary' });
    expect(manifest.degraded).toContain('no standby could be reached');
    expect(manifest.fingerprint.tables.find(({ name }) => name === 'cache')).toMatchObject({ rows: '1' });
  } finally {
    await standby.start();
  }
});
