import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { prepareRoles } from '../../src/systems/postgres-drill.ts';
import { createProcesses, startPostgres, type PostgresServer, type Processes } from '../../src/local/stack.ts';
import { backupFolder } from '../../src/model/manifest.ts';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import { compareFingerprints, type Proof } from '../../src/model/proof.ts';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import { restoreInto } from '../../src/systems/postgres-restore.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
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
async function prove(database: string, backup: Record<string, unknown> = {}, jobs = 1): Promise<{ proof: Proof; manifest: PostgresManifest }> {
  const context = await testConfig({
    datastores: {
      shape: { engine: 'postgres', database, store: 'main', binDirectory: source.binDirectory, admin: { username: source.superuser, password: 'env:HOLDFAST_TEST_SHAPES_PASSWORD' }, nodes: { a: { host: source.host, port: source.port } }, backup },
    },
  });
  const store = await openStore(context, 'main');
  const location = backupFolder(store.prefix, 'shape', Date.now(), 'one');
  await runBackup(context, { datastore: 'shape', id: 'one', location, reason: 'test', workflowId: 'test', runId: 'test' }, { signal: new AbortController().signal });
  const manifest = postgresManifestOf(await readManifest(store, location));
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

test('the rarer kinds of objects come back exactly', async () => {
  await sql('postgres', 'create database rare');
  await sql('postgres', 'create role rare_owner; create role rare_admin; grant rare_owner to rare_admin with admin option');
  await sql('rare', `
    create schema s authorization rare_owner; create extension postgres_fdw; create extension btree_gist with schema s;
    create server far foreign data wrapper postgres_fdw options (host '192.0.2.1', dbname 'x'); create user mapping for rare_owner server far options (user 'u', password 'mapping-secret');
    create foreign table s.remote (id int) server far; grant usage on foreign server far to rare_owner;
    create table s.t (id int primary key, during tstzrange, a int, b int, body text compression pglz, exclude using gist (a with =, during with &&)) with (fillfactor = 70);
    insert into s.t select i, tstzrange('2026-01-01Z', '2026-01-02Z'), i, i % 7, repeat('x', 100) from generate_series(1, 300) i;
    alter table s.t replica identity full; alter table s.t cluster on t_pkey; alter table s.t alter column body set storage external; alter table s.t alter column b set statistics 500;
    create statistics s.together (dependencies, mcv) on a, b from s.t; create index concurrent_like on s.t (b) include (a) where b > 2; comment on index s.concurrent_like is 'partial';
    create table s.base (id int, x text); create table s.derived (y int) inherits (s.base); insert into s.base values (1, 'a'); insert into s.derived values (2, 'b', 3);
    create view s.v with (check_option = 'cascaded') as select * from s.base where id > 0; create rule quiet as on delete to s.v do instead nothing;
    create function s.fn(int, variadic text[] default '{}') returns setof int language sql stable parallel safe cost 42 set work_mem = '8MB' as 'select $1'; create procedure s.pr(inout x int) language plpgsql as 'begin x := x + 1; end';
    create aggregate s.total (int) (sfunc = int4pl, stype = int, initcond = '0'); create operator s.=== (leftarg = int, rightarg = int, procedure = int4eq, commutator = operator(s.===));
    create type s.composite as (a int, b text); create type s.span as range (subtype = float8); create cast (s.composite as text) with inout as assignment; create domain s.code as text check (value ~ '^[a-z]+$') default 'x';
    create text search configuration s.plain (copy = simple); create collation s.c (locale = 'C'); create conversion s.conv for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
    create publication pub for table s.t (id, a) where (a > 5); create subscription sub connection 'host=192.0.2.1' publication pub with (connect = false, slot_name = none, enabled = false);
    create function s.on_ddl() returns event_trigger language plpgsql as 'begin end'; create event trigger watch on ddl_command_end execute function s.on_ddl(); alter event trigger watch disable;
    create table s.rls (id int); alter table s.rls force row level security; create policy p on s.rls as restrictive for insert to rare_owner with check (id > 0);
    create unlogged table s.fast (id int); insert into s.fast values (1); create table s.empty (); create sequence s.down increment -3 minvalue -100 maxvalue -1 start -1 cycle; select nextval('s.down'), nextval('s.down');
    create materialized view s.mv as select count(*) from s.t; create materialized view s.unfilled as select 1 as one with no data; revoke all on function s.on_ddl() from public; alter default privileges for role rare_owner revoke execute on functions from public;
    select lo_create(4711); alter large object 4711 owner to rare_owner; grant select on large object 4711 to rare_admin; comment on large object 4711 is 'kept'; revoke create on schema public from public; alter schema public owner to rare_owner`);
  const { proof } = await prove('rare');
  expect(proof.differences).toEqual([]);
  expect(proof.compared.schemaObjects).toBeGreaterThan(45);
});

test('a database without any table is proved by its schema only, and says so', async () => {
  await sql('postgres', 'create database bare');
  await sql('bare', 'create schema planned; create function planned.f() returns int language sql return 1');
  const { proof } = await prove('bare');
  expect(proof).toMatchObject({ exact: true, compared: { tables: 0 } });
  expect(proof.notes).toContain('the backup holds no tables, so no rows were compared');
});
