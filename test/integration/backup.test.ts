import { execFileSync } from 'node:child_process';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createProcesses, startPostgres } from '../../src/local/stack.ts';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { listBackups, openObject, readManifest } from '../../src/systems/backup-catalogue.ts';
import { readBack, restoreInto } from '../../src/systems/postgres-restore.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import { withPostgres } from '../../src/systems/postgres.ts';
import { fingerprintDatabase, readSequences, schemaObjects } from '../../src/systems/postgres-fingerprint.ts';
import { selectRelations } from '../../src/systems/postgres-selection.ts';
import { EVERYTHING } from '../../src/systems/postgres-fingerprint.ts';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore } from '../../src/systems/store.ts';
import { queryOnce, suite, testConfig, testDatabase, testDatastore, testDirectory, uniqueName, type ConfigOverrides, type TestDatabase } from '../support.ts';
import { FOREIGN_SCHEMA, rolesFor } from './backup-schema.ts';

let database: TestDatabase;
let context: Context;
let location: string;
let manifest: PostgresManifest;
const roles = rolesFor(uniqueName('r').replaceAll('-', '_'));

beforeAll(async () => {
  database = await testDatabase('foreign');
  await database.query(FOREIGN_SCHEMA);
  await database.query(roles.create);
  context = await testConfig({ datastores: { shop: testDatastore(database) } });
  const request = { datastore: 'shop', id: 'one', location: 'shop/2026/01/02/030405Z-one/', reason: 'test', workflowId: 'w', runId: 'r' };
  const result = await runBackup(context, request, { signal: new AbortController().signal });
  location = result.location;
  manifest = postgresManifestOf(await readManifest(await openStore(context, 'main'), location));
});

afterAll(async () => {
  await database.query(roles.drop);
  await database.drop();
  context.close();
});

async function restored(name: string, options: Partial<Parameters<typeof restoreInto>[1]> = {}): Promise<TestDatabase> {
  const target = await testDatabase(name);
  await restoreInto(context, { storeName: 'main', location, manifest, target: target.target, binDirectory: suite().postgres.binDirectory, ...options });
  return target;
}

test('a backup is listed with sizes, reason and no proof yet', async () => {
  const store = await openStore(context, 'main');
  const [only, ...others] = await listBackups(store, store.prefix, 'shop');
  expect(others).toEqual([]);
  expect(only).toMatchObject({ id: 'one', location, reason: 'test', proof: 'unproved', complete: true, pinned: false, inUse: false });
  expect(only!.storedBytes).toBeGreaterThan(1000);
  expect(only!.plainBytes).toBeGreaterThan(only!.storedBytes);
});

test('everything of a foreign schema comes back exactly', async () => {
  const target = await restored('foreign_restored');
  try {
    const found = await withPostgres(target.target, async (client) => {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      return fingerprintDatabase([client]);
    });
    expect(manifest.fingerprint.tables.map((table) => [table.name, table.rows])).toEqual(expect.arrayContaining([['no_columns', '2'], ['Mixed Case $1;', '2000'], ['cache', '500'], ['wide', '3']]));
    expect(found.tables).toEqual(manifest.fingerprint.tables);
    expect(found.largeObjects).toEqual(manifest.fingerprint.largeObjects);
    expect(found.largeObjects.count).toBe('3');
    expect(found.extensions).toEqual(manifest.fingerprint.extensions);
    const schema = await schemaObjects(target.target, { binDirectory: suite().postgres.binDirectory });
    expect(withoutDatabase(schema.objects)).toEqual(withoutDatabase(manifest.fingerprint.schemaObjects));
    const sequences = await withPostgres(target.target, async (client) => readSequences(client, (await selectRelations(client, EVERYTHING)).sequences));
    for (const sequence of manifest.fingerprint.sequences) {
      expect(sequences).toContainEqual({ schema: sequence.schema, name: sequence.name, lastValue: sequence.before.lastValue, isCalled: sequence.before.isCalled });
    }
  } finally {
    await target.drop();
  }
});

test('into a database that is made for it, with the encoding and locale of the source', async () => {
  const name = uniqueName('made').replaceAll('-', '_');
  const target = { ...database.target, database: name };
  await restoreInto(context, { storeName: 'main', location, manifest, target, create: true, binDirectory: suite().postgres.binDirectory });
  try {
    expect((await withPostgres(target, (client) => fingerprintDatabase([client]))).tables).toEqual(manifest.fingerprint.tables);
    const facts = "select pg_encoding_to_char(encoding) as e, datcollate as c, datctype as t from pg_database where datname = current_database()";
    expect(await withPostgres(target, async (client) => (await client.query(facts)).rows)).toEqual(await database.query(facts));
    const again = restoreInto(context, { storeName: 'main', location, manifest, target, create: true, binDirectory: suite().postgres.binDirectory });
    await expect(again).rejects.toMatchObject({ code: 'target-exists' });
  } finally {
    await database.query(`drop database ${name}`);
  }
});

/** A restore into a database of another name makes no database itself. */
function withoutDatabase(objects: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(objects).filter(([key]) => !key.endsWith('<database>')));
}

test('reading a backup back checks every object', async () => {
  const read = await readBack(context, { storeName: 'main', location, manifest, binDirectory: suite().postgres.binDirectory });
  expect(read.objects).toBe(2);
  const globals = manifest.objects.find((object) => object.role === 'globals')!;
  let text = '';
  for await (const chunk of await openObject(context, 'main', location, globals)) text += String(chunk);
  expect(text).toContain(roles.writer);
});

test('the plain commands in the manifest restore it on a bare server, without Holdfast', async () => {
  const processes = createProcesses();
  try {
    const bare = await startPostgres({ processes, directory: processes.directory, name: 'bare', settings: { fsync: 'off' } });
    let password = bare.password;
    const { s3, postgres } = suite();
    for (const { what, command } of manifest.commands) {
      if (what.startsWith('Or into')) await queryOnce(`postgresql://${bare.superuser}:${password}@${bare.host}:${bare.port}/postgres`, 'create database by_hand');
      const filled = command
        .replaceAll('<host>', bare.host).replaceAll('<port>', String(bare.port)).replaceAll('<superuser>', bare.superuser).replaceAll('<database>', 'by_hand');
      expect(filled).not.toMatch(/<[a-z-]+>/);
      const output = execFileSync('bash', ['-c', `set -o pipefail; ${filled}`], {
        encoding: 'utf8',
        env: { ...process.env, PATH: `${postgres.binDirectory}:${process.env['PATH']}`, PGPASSWORD: password, AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey },
      });
      expect(output).toContain(/must print ([0-9a-f]{64})/.exec(what)?.[1] ?? '');
      if (what.startsWith('Roles')) password = postgres.password; // As that line says.
    }
    for (const name of [database.database, 'by_hand']) {
      const target = { host: bare.host, port: bare.port, user: bare.superuser, password, database: name, sslmode: 'disable' as const };
      const found = await withPostgres(target, (client) => fingerprintDatabase([client]));
      expect(found.tables).toEqual(manifest.fingerprint.tables);
      expect(found.largeObjects).toEqual(manifest.fingerprint.largeObjects);
      const expected = new Map(manifest.fingerprint.roles.map((role) => [role.name, role]));
      for (const name of [roles.reader, roles.writer]) expect(found.roles.find((role) => role.name === name)).toEqual(expected.get(name));
      const schema = await schemaObjects(target, { binDirectory: postgres.binDirectory });
      const whole = name === database.database;
      expect(whole ? schema.objects : withoutDatabase(schema.objects)).toEqual(whole ? manifest.fingerprint.schemaObjects : withoutDatabase(manifest.fingerprint.schemaObjects));
    }
  } finally {
    await processes.end();
  }
});

test('selected tables come with partitions, indexes, constraints, sequences and types, and nothing else', async () => {
  const target = await testDatabase('tables');
  try {
    const tables = [{ schema: 'public', name: 'orders' }, { schema: 'Weird "Schema"; é', name: 'Mixed Case $1;' }, { schema: 'public', name: 'child' }, { schema: 'public', name: 'bookings' }];
    const outcome = await restoreInto(context, { storeName: 'main', location, manifest, target: target.target, binDirectory: suite().postgres.binDirectory, globals: false, noOwner: true, tables });
    const names = ['Mixed Case $1;', 'bookings', 'child', 'orders', 'orders_2025', 'orders_rest', 'parent'];
    expect(outcome.tables.map(({ name }) => name).sort()).toEqual(names);
    expect(outcome.left).toEqual(expect.arrayContaining(['POLICY public bookings everyone', 'TRIGGER public parent stamp']));
    const found = await withPostgres(target.target, (client) => fingerprintDatabase([client]));
    expect(found.tables).toEqual(manifest.fingerprint.tables.filter(({ name }) => names.includes(name)));
    const schema = await schemaObjects(target.target, { binDirectory: suite().postgres.binDirectory });
    for (const key of ['INDEX public orders_by_status', 'CONSTRAINT public orders orders_pkey', 'TABLE ATTACH public orders_rest']) expect(Object.keys(schema.objects)).toContain(key);
    await target.query("insert into orders (day, status, total) values ('2025-05-05', 'paid', 1)");
    expect(await target.query('select max(id)::int as id from orders')).toEqual([{ id: 3001 }]);
    await expect(target.query("insert into orders (day, status, total) values ('2025-05-05', 'unknown', 1)")).rejects.toThrow('status_known');

    const again = restoreInto(context, { storeName: 'main', location, manifest, target: target.target, globals: false, noOwner: true, tables: tables.slice(0, 1), binDirectory: suite().postgres.binDirectory });
    await expect(again).rejects.toMatchObject({ code: 'target-not-empty' });
    const unknown = restoreInto(context, { storeName: 'main', location, manifest, target: target.target, globals: false, tables: [{ schema: 'public', name: 'ordres' }], binDirectory: suite().postgres.binDirectory });
    await expect(unknown).rejects.toMatchObject({ code: 'table-missing' });
    const partition = await testDatabase('partition');
    await restoreInto(context, { storeName: 'main', location, manifest, target: partition.target, binDirectory: suite().postgres.binDirectory, globals: false, noOwner: true, tables: [{ schema: 'public', name: 'orders_2025' }] });
    expect((await withPostgres(partition.target, (client) => fingerprintDatabase([client]))).tables.map(({ name }) => name)).toEqual(['orders_2025']);
    await partition.drop();
  } finally {
    await target.drop();
  }
});

/** One backup with other settings, of the same database. */
async function another(id: string, datastore: ConfigOverrides, store: ConfigOverrides = {}): Promise<{ of: Context; manifest: PostgresManifest; location: string }> {
  const of = await testConfig({ datastores: { shop: testDatastore(database, datastore) }, stores: { main: store } });
  const { location } = await runBackup(of, { datastore: 'shop', id, location: `shop/2026/01/02/030405Z-${id}/`, reason: 'test', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
  return { of, location, manifest: postgresManifestOf(await readManifest(await openStore(of, 'main'), location)) };
}

/** What a partial backup's tables need and a full one would bring. */
const SURROUNDINGS = `create schema audit; create type address as (street text, number int); create type mood as enum ('sad', 'ok', 'very "happy"');
  create domain positive as int check (value > 0);`;

test.each([
  ['only two tables', { include: { tables: ['orders*', '"Weird ""Schema""; é"."Mixed Case $1;"'] } }, ['"Mixed Case $1;"', 'orders_2025', 'orders_rest']],
  ['a schema left out', { exclude: { schemas: ['"Weird ""Schema""; é"'], tables: ['public.wi?e', 'orders_20*'], tableData: ['cache'] } }, ['bookings', 'cache', 'child', 'dropped', 'no_columns', 'numbers', 'orders_rest', 'parent', 'per_day', 'unpopulated']],
  ['one schema', { include: { schemas: ['"Weird ""Schema""; é"'] } }, ['"Mixed Case $1;"']],
])('a selection is honoured by dump and proof alike: %s', async (name, selection, tables) => {
  // Extensions come along without the schema they live in, so the target must have it.
  const { of, manifest, location } = await another('part', { backup: selection });
  const target = await testDatabase('part');
  try {
    expect(manifest.selection.complete).toBe(false);
    expect(manifest.fingerprint.tables.map((table) => table.name).sort()).toEqual(tables.map((table) => table.replaceAll('"', '')).sort());
    if ('include' in selection) await target.query(SURROUNDINGS + (name === 'only two tables' ? 'create schema "Weird ""Schema""; é"' : ''));
    await restoreInto(of, { storeName: 'main', location, manifest, target: target.target, binDirectory: suite().postgres.binDirectory, globals: false });
    const found = await withPostgres(target.target, (client) => fingerprintDatabase([client]));
    // A materialised view is computed anew, here from fewer rows.
    const stored = (parts: { tables: PostgresManifest['fingerprint']['tables'] }): unknown => parts.tables.filter((table) => table.kind === 'table');
    expect(stored(found)).toEqual(stored(manifest.fingerprint));
    expect(found.largeObjects).toEqual(manifest.fingerprint.largeObjects);
    expect(found.largeObjects.count).toBe('3');
  } finally {
    await target.drop();
    of.close();
  }
});

test.each([
  ['a pattern that matches nothing', { exclude: { tables: ['no_such_table'] } }, 'selection-empty', 'no_such_table'],
  ['schemas beside tables', { include: { tables: ['wide'], schemas: ['public'] } }, 'selection-ambiguous', 'pg_dump ignores schemas'],
])('%s is refused', async (_, selection, code, text) => {
  const error = await another('refused', { backup: selection }).catch((error: unknown) => error);
  expect(error).toMatchObject({ code, retryable: false });
  expect((error as Error).message).toContain(text);
});

test('encrypted with age: restores with the identity, says what is missing without it, and a flipped byte is found', async () => {
  const identity = await generateX25519Identity();
  process.env['HOLDFAST_TEST_AGE'] = identity;
  const encryption = { recipients: [await identityToRecipient(identity)] };
  const { of, manifest, location } = await another('sealed', {}, { encryption: { ...encryption, identity: 'env:HOLDFAST_TEST_AGE' } });
  const blind = await testConfig({ datastores: { shop: testDatastore(database) }, stores: { main: { bucket: bucketOf(of), encryption } } });
  const store = await openStore(of, 'main');
  const target = await testDatabase('sealed');
  try {
    expect(manifest.objects.map((object) => object.name)).toEqual(['data.dump.zst.age', 'globals.sql.zst.age']);
    expect((await store.getText(`${location}data.dump.zst.age`)).slice(0, 21)).toBe('age-encryption.org/v1');
    await restoreInto(of, { storeName: 'main', location, manifest, target: target.target, binDirectory: suite().postgres.binDirectory });
    expect((await withPostgres(target.target, (client) => fingerprintDatabase([client]))).tables).toEqual(manifest.fingerprint.tables);
    await expect(readBack(blind, { storeName: 'main', location, manifest })).rejects.toMatchObject({ code: 'identity-missing' });
    await flipByte(of, `${location}data.dump.zst.age`);
    await expect(readBack(of, { storeName: 'main', location, manifest, binDirectory: suite().postgres.binDirectory })).rejects.toMatchObject({ code: 'object-damaged' });
  } finally {
    await target.drop();
    of.close();
    blind.close();
  }
});

test('a flipped byte, a lost byte and a changed manifest are found by verify', async () => {
  const { of, manifest, location } = await another('flipped', {});
  const store = await openStore(of, 'main');
  const verify = (): Promise<unknown> => readBack(of, { storeName: 'main', location, manifest, binDirectory: suite().postgres.binDirectory });
  try {
    await verify();
    await flipByte(of, `${location}data.dump.zst`);
    await expect(verify()).rejects.toMatchObject({ code: 'object-damaged' });
    await flipByte(of, `${location}data.dump.zst`);
    await verify();
    const globals = await readBytes(of, `${location}globals.sql.zst`);
    await store.put(`${location}globals.sql.zst`, globals.subarray(0, globals.length - 1));
    await expect(verify()).rejects.toMatchObject({ code: 'object-damaged' });
    await store.put(`${location}manifest.json`, (await store.getText(`${location}manifest.json`)).replace('"reason": "test"', '"reason": "tess"'));
    await expect(readManifest(store, location)).rejects.toMatchObject({ code: 'manifest-changed' });
    const damaged: string[] = [];
    expect(await listBackups(store, store.prefix, 'shop', { onDamaged: (where) => damaged.push(where) })).toEqual([]);
    expect(damaged).toEqual([location]);
  } finally {
    of.close();
  }
});

test.each([
  ['LATIN1', "encoding 'LATIN1' locale 'C'", "create table t as select 'é' || i as v from generate_series(1, 300) i"],
  ['SQL_ASCII with bytes that are no text', "encoding 'SQL_ASCII' locale 'C'", "create table t as select convert_from('\\xff'::bytea, 'SQL_ASCII') || i as v from generate_series(1, 300) i"],
  ['ICU', "encoding 'UTF8' locale 'C.UTF-8' locale_provider icu icu_locale 'de-u-kn-true'", "create table t as select 'ü' || i as v from generate_series(1, 300) i; create index on t (v)"],
])('a database in %s comes back exactly', async (_, options, fill) => {
  const name = uniqueName('encoded').replaceAll('-', '_');
  await database.query(`create database ${name} template template0 ${options}`);
  const source = { ...database.target, database: name };
  const target = { ...source, database: `${name}_back` };
  const of = await testConfig({ datastores: { shop: testDatastore({ ...database, database: name }) } });
  try {
    await withPostgres(source, (client) => client.query(fill));
    const { location } = await runBackup(of, { datastore: 'shop', id: 'e', location: 'shop/2026/01/02/030405Z-e/', reason: 'test', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
    const manifest = postgresManifestOf(await readManifest(await openStore(of, 'main'), location));
    expect(manifest.fingerprint.tables).toMatchObject([{ name: 't', rows: '300' }]);
    await restoreInto(of, { storeName: 'main', location, manifest, target, create: true, binDirectory: suite().postgres.binDirectory });
    expect((await withPostgres(target, (client) => fingerprintDatabase([client]))).tables).toEqual(manifest.fingerprint.tables);
    const facts = "select pg_encoding_to_char(encoding) as e, datcollate, datctype, datlocprovider, daticulocale from pg_database where datname = $1";
    expect(await database.query(facts, [target.database])).toEqual(await database.query(facts, [name]));
  } finally {
    await database.query(`drop database if exists ${target.database} with (force)`);
    await database.query(`drop database ${name} with (force)`);
    of.close();
  }
});

test('a backup into a folder store restores too, and an empty database is a backup like any other', async () => {
  const empty = await testDatabase('empty');
  const of = await testConfig({ datastores: { void: testDatastore(empty, { store: 'disk' }) }, stores: { disk: { type: 'folder', path: testDirectory('store') } } });
  const target = await testDatabase('void');
  try {
    const { location } = await runBackup(of, { datastore: 'void', id: 'none', location: 'void/2026/01/02/030405Z-none/', reason: 'test', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
    const store = await openStore(of, 'disk');
    const manifest = postgresManifestOf(await readManifest(store, location));
    expect(manifest.fingerprint.tables).toEqual([]);
    await restoreInto(of, { storeName: 'disk', location, manifest, target: target.target, binDirectory: suite().postgres.binDirectory });
    expect(await listBackups(store, '', 'void')).toHaveLength(1);
  } finally {
    await target.drop();
    await empty.drop();
    of.close();
  }
});

function bucketOf(of: Context): string {
  const store = of.config.stores['main']!;
  return store.type === 's3' ? store.bucket : '';
}

async function readBytes(of: Context, key: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of await (await openStore(of, 'main')).get(key)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

async function flipByte(of: Context, key: string): Promise<void> {
  const bytes = await readBytes(of, key);
  const middle = Math.floor(bytes.length / 2);
  bytes[middle]! ^= 1;
  await (await openStore(of, 'main')).put(key, bytes);
}
