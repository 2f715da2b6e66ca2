import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { prepareRoles } from '../../activities/drill.ts';
import { createProcesses, startPostgres, type PostgresServer, type Processes } from '../../src/local/stack.ts';
import { backupFolder, type Manifest } from '../../src/model/manifest.ts';
import { compareFingerprints, type Proof } from '../../src/model/proof.ts';
import { readManifest, restoreInto } from '../../src/systems/backup-catalogue.ts';
import { runBackup } from '../../src/systems/backup-run.ts';
import { createDrillTarget, destroyDrillTarget } from '../../src/systems/drill-target.ts';
import { fingerprintTarget } from '../../src/systems/proof-postgres.ts';
import { openStore } from '../../src/systems/store.ts';
import { testConfig, uniqueName } from '../support.ts';

let processes: Processes;
let source: PostgresServer;

beforeAll(async () => {
  processes = createProcesses();
  source = await startPostgres({ processes, directory: processes.directory, name: 'shapes', settings: { fsync: 'off' } });
  process.env['HOLDFAST_TEST_SHAPES_PASSWORD'] = source.password;
});
afterAll(() => processes?.end());

async function sql(database: string, text: string): Promise<void> {
  const client = new pg.Client({ connectionString: source.connectionString(database) });
  await client.connect();
  await client.query(text).finally(() => client.end());
}

/** Back up and prove, as a drill does it. */
async function prove(database: string, backup: Record<string, unknown> = {}, jobs = 1): Promise<{ proof: Proof; manifest: Manifest }> {
  const context = await testConfig({
    datastores: {
      shape: { engine: 'postgres', database, store: 'main', binDirectory: source.binDirectory, admin: { username: source.superuser, password: 'env:HOLDFAST_TEST_SHAPES_PASSWORD' }, nodes: { a: { host: source.host, port: source.port } }, backup },
    },
  });
  const store = await openStore(context, 'main');
  const location = backupFolder(store.prefix, 'shape', Date.now(), 'one');
  await runBackup(context, { datastore: 'shape', id: 'one', location, reason: 'test', workflowId: 'test', runId: 'test' }, { signal: new AbortController().signal });
  const manifest = await readManifest(store, location);
  const target = await createDrillTarget(context, { datastore: 'shape', workflowId: uniqueName('drill'), runId: '1' }, manifest, { binDirectory: source.binDirectory });
  try {
    await prepareRoles(target, manifest);
    await restoreInto(context, { storeName: 'main', location, manifest, target: target.connection, binDirectory: source.binDirectory, create: true, parallel: { jobs, stageDirectory: target.directory } });
    return { proof: compareFingerprints(manifest, await fingerprintTarget(target.connection, { binDirectory: source.binDirectory })), manifest };
  } finally {
    await destroyDrillTarget(context, target.name);
    context.close();
  }
}

test('the database postgres itself, with settings and grants of the database', async () => {
  await sql('postgres', `create table t (id int primary key); insert into t values (1); create role someone; grant create on database postgres to someone;
    alter database postgres set work_mem = '5MB'; alter role someone in database postgres set work_mem = '6MB'`);
  const { proof } = await prove('postgres');
  expect(proof.differences).toEqual([]);
  expect(proof.compared.tables).toBe(1);
});

test('restored by several jobs at once, from a staged archive', async () => {
  await sql('postgres', 'create database jobs');
  await sql('jobs', `create table parent (id int primary key, t text); insert into parent select i, md5(i::text) from generate_series(1, 5000) i;
    create table child (id int primary key, p int references parent); insert into child select i, i from generate_series(1, 5000) i; create index on child (p); create index on parent (t); select lo_from_bytea(0, '\\x00ff')`);
  const { proof } = await prove('jobs', {}, 3);
  expect(proof.differences).toEqual([]);
  expect(proof.compared).toMatchObject({ tables: 2, rows: '10000', largeObjects: '1' });
});

test('another encoding, collation C, and names that need quotes', async () => {
  await sql('postgres', `create database "Odd ""Name"", 'x'" template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'`);
  await sql(`Odd "Name", 'x'`.replaceAll(' ', '%20').replaceAll('"', '%22'), `create schema "S.1"; create table "S.1"."T""2" ("Ä" text, "b c" int generated always as identity); insert into "S.1"."T""2" ("Ä") values ('Grüße'), (null), ('')`);
  const { proof, manifest } = await prove(`Odd "Name", 'x'`);
  expect(manifest.source).toMatchObject({ encoding: 'LATIN1', collate: 'C' });
  expect(proof.differences).toEqual([]);
  expect(proof.compared).toMatchObject({ tables: 1, rows: '3', sequences: 1 });
});

test('an ICU database with a nondeterministic collation', async () => {
  await sql('postgres', `create database icu template template0 locale_provider icu icu_locale 'de' lc_collate 'C' lc_ctype 'C'`);
  await sql('icu', `create collation anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false); create table t (x text collate anycase primary key); insert into t values ('Straße'), ('b')`);
  const { proof } = await prove('icu');
  expect(proof.differences).toEqual([]);
  expect(proof.compared).toMatchObject({ tables: 1, rows: '2' });
});

test('a selection is honoured: what was left out is not missed, what is in it is proved', async () => {
  await sql('postgres', 'create database parts');
  await sql('parts', `create schema a; create schema b; create table a.kept (id serial primary key); insert into a.kept default values; create table a.log (x int); insert into a.log values (1), (2); create table b.other (id int); create table a.gone (id int)`);
  const { proof } = await prove('parts', { include: { schemas: ['a'] }, exclude: { tables: ['a.gone'], tableData: ['a.log'] } });
  expect(proof.differences).toEqual([]);
  expect(proof.compared).toMatchObject({ tables: 2, rows: '1', sequences: 1 });
  expect(proof.notes.join()).toContain('schemas a; without tables a.gone; without the rows of a.log');
});

test('without globals the owners and grants are proved with empty roles, and the proof says so', async () => {
  await sql('postgres', 'create database noglobals');
  await sql('postgres', 'create role "Its Owner"; create role reader');
  await sql('noglobals', 'create table t (id int); insert into t values (1); alter table t owner to "Its Owner"; grant select on t to reader');
  const { proof, manifest } = await prove('noglobals', { globals: false });
  expect(manifest.objects.some((object) => object.role === 'globals')).toBe(false);
  expect(proof.differences).toEqual([]);
  expect(proof.notes.join()).toContain('roles are not part of this backup');
});

test('a database without any table is proved by its schema only, and says so', async () => {
  await sql('postgres', 'create database bare');
  await sql('bare', 'create schema planned; create function planned.f() returns int language sql return 1');
  const { proof } = await prove('bare');
  expect(proof).toMatchObject({ exact: true, compared: { tables: 0 } });
  expect(proof.notes).toContain('the backup holds no tables, so no rows were compared');
});
