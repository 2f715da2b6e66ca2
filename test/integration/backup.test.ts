import { afterAll, beforeAll, expect, test } from 'vitest';
import { listBackups, openObject, readBack, readManifest, restoreInto } from '../../src/systems/backup-catalogue.ts';
import { runBackup } from '../../src/systems/backup-run.ts';
import { withPostgres } from '../../src/systems/postgres.ts';
import { fingerprintDatabase, readSequences, schemaObjects } from '../../src/systems/postgres-fingerprint.ts';
import { selectRelations } from '../../src/systems/postgres-selection.ts';
import { EVERYTHING } from '../../src/systems/postgres-fingerprint.ts';
import type { Manifest } from '../../src/model/manifest.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore } from '../../src/systems/store.ts';
import { suite, testConfig, testDatabase, testDatastore, uniqueName, type TestDatabase } from '../support.ts';
import { FOREIGN_SCHEMA, rolesFor } from './backup-schema.ts';

let database: TestDatabase;
let context: Context;
let location: string;
let manifest: Manifest;
const roles = rolesFor(uniqueName('r').replaceAll('-', '_'));

beforeAll(async () => {
  database = await testDatabase('foreign');
  await database.query(FOREIGN_SCHEMA);
  await database.query(roles.create);
  context = await testConfig({ datastores: { shop: testDatastore(database) } });
  const request = { datastore: 'shop', id: 'one', location: 'shop/2026/01/02/030405Z-one/', reason: 'test', workflowId: 'w', runId: 'r' };
  const result = await runBackup(context, request, { signal: new AbortController().signal });
  location = result.location;
  manifest = await readManifest(await openStore(context, 'main'), location);
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
