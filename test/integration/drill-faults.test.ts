import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { compareFingerprints, type Difference, type Proof } from '../../src/model/proof.ts';
import type { BackupSummary } from '../../src/model/manifest.ts';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import { restoreInto } from '../../src/systems/postgres-restore.ts';
import { createDrillTarget, destroyDrillTarget, type DrillTarget } from '../../src/systems/drill-target.ts';
import { withPostgres } from '../../src/systems/postgres.ts';
import { fingerprintTarget } from '../../src/systems/proof-postgres.ts';
import { drillFixture, type DrillFixture } from './drill-fixture.ts';

let fixture: DrillFixture;
let backup: BackupSummary;
let manifest: PostgresManifest;
let target: DrillTarget;

beforeAll(async () => {
  fixture = await drillFixture('faults');
  backup = await fixture.backUp();
  manifest = postgresManifestOf(await readManifest(fixture.store, backup.location));
  target = await createDrillTarget(fixture.context, { datastore: 'shop', workflowId: 'drill/faults', runId: 'faults' }, manifest);
  await restoreInto(fixture.context, { storeName: 'main', location: backup.location, manifest, target: target.connection, create: true });
});
afterAll(async () => {
  if (target !== undefined) await destroyDrillTarget(fixture.context, target.name);
  await fixture?.end();
});

async function prove(): Promise<Proof> {
  return compareFingerprints(manifest, await fingerprintTarget(target.connection));
}

async function change(sql: string): Promise<void> {
  await withPostgres(target.connection, (client) => client.query(sql));
}

function differences(proof: Proof): [Difference['kind'], string][] {
  return proof.differences.map((difference) => [difference.kind, difference.object]);
}

test('an untouched restore of everything a real schema has is exact', async () => {
  const proof = await prove();
  expect(proof.differences).toEqual([]);
  expect(proof.exact).toBe(true);
  expect(proof.compared.tables).toBeGreaterThan(12);
  expect(Number(proof.compared.rows)).toBeGreaterThan(2000);
  expect(Number(proof.compared.largeObjects)).toBeGreaterThan(4);
  expect(proof.compared.sequences).toBeGreaterThan(3);
  expect(proof.compared.extensions).toBe(4);
  expect(proof.compared.roles).toBeGreaterThanOrEqual(4);
  expect(proof.compared.schemaObjects).toBeGreaterThan(60);
});

/** [what, how it is planted, how it is taken back, what must be found]. */
const FAULTS: [string, string, string, Difference['kind'], RegExp][] = [
  ['a missing row', "create table public.aside as select * from shop.order_lines where (order_id, line) = (7, 1); delete from shop.order_lines where (order_id, line) = (7, 1)", 'insert into shop.order_lines select * from public.aside; drop table public.aside', 'rows', /^shop\.order_lines$/],
  ['a changed row with the same count', 'update shop.order_lines set quantity = 9 - quantity + 1 where (order_id, line) = (7, 1)', 'update shop.order_lines set quantity = 9 - quantity + 1 where (order_id, line) = (7, 1)', 'content', /^shop\.order_lines$/],
  ['two rows that swapped a value', "update shop.products p set name = q.name from shop.products q where p.id in (1, 2) and q.id = 3 - p.id", "update shop.products p set name = q.name from shop.products q where p.id in (1, 2) and q.id = 3 - p.id", 'content', /^shop\.products$/],
  ['a row in the wrong partition of a name', "alter table shop.orders detach partition shop.orders_2026_q1; update shop.orders_2026_q1 set total = total + 0.01 where id = (select min(id) from shop.orders_2026_q1); alter table shop.orders attach partition shop.orders_2026_q1 for values from ('2026-01-01Z') to ('2026-04-01Z')", 'update shop.orders_2026_q1 set total = total - 0.01 where id = (select min(id) from shop.orders_2026_q1)', 'content', /^shop\.orders_2026_q1$/],
  ['a missing index', 'drop index shop.orders_by_customer', 'create index orders_by_customer on shop.orders (customer_id); alter table shop.orders owner to shop_owner', 'schema-missing', /^INDEX shop orders_by_customer$/],
  ['a missing large object', 'create table public.aside as select d.content as oid, lo_get(d.content) as bytes from shop.documents d where d.id = 3; select lo_unlink(oid::oid) from public.aside', 'select lo_from_bytea(oid, bytes) from public.aside; do $$ begin execute format(\'alter large object %s owner to \' || (select quote_ident(pg_get_userbyid(lomowner)) from pg_largeobject_metadata where oid <> (select oid from public.aside) limit 1), (select oid from public.aside)); end $$; drop table public.aside', 'large-objects', /^large objects$/],
  ['a changed byte in a large object', "select lo_put(content, 100, '\\x00') from shop.documents where id = 2", "select lo_put(content, 100, substr(decode(repeat(md5('2'), 128 + 2 * 128), 'hex'), 101, 1)) from shop.documents where id = 2", 'large-objects', /^large objects$/],
  ['a lost grant on a table', 'revoke select on shop.products from shop_reader', 'grant select on shop.products to shop_reader', 'schema-changed', /^ACL shop TABLE products$/],
  ['a lost grant on a column', 'revoke update (tags) on shop.customers from "Shop Auditor"', 'grant update (tags) on shop.customers to "Shop Auditor"', 'schema-missing', /^ACL shop COLUMN customers\.tags$/],
  ['lost default privileges', 'alter default privileges for role shop_owner in schema shop revoke select on tables from shop_reader', 'alter default privileges for role shop_owner in schema shop grant select on tables to shop_reader', 'schema-missing', /^DEFAULT ACL shop /],
  ['a changed sequence', "select setval('shop.invoice_number', 100000)", "select setval('shop.invoice_number', (select last_value from public.aside)); drop table public.aside", 'sequence', /^shop\.invoice_number$/],
  ['a lost trigger', 'drop trigger touch_customer on shop.customers', 'create trigger touch_customer before update on shop.customers for each row execute function shop.touch()', 'schema-missing', /^TRIGGER shop customers touch_customer$/],
  ['a disabled trigger', 'alter table shop.customers disable trigger touch_customer', 'alter table shop.customers enable trigger touch_customer', 'schema-changed', /^TRIGGER shop customers touch_customer$/],
  ['disabled row-level security', 'alter table shop.customers disable row level security', 'alter table shop.customers enable row level security', 'schema-missing', /^ROW SECURITY shop customers$/],
  ['a lost policy', 'alter policy change_own on shop.customers using (false)', 'alter policy change_own on shop.customers using (true)', 'schema-changed', /^POLICY shop customers change_own$/],
  ['a changed owner', 'alter table shop.changes owner to "Shop Auditor"', 'alter table shop.changes owner to shop_owner', 'schema-changed', /^TABLE shop changes$/],
  ['a lost constraint', 'alter table shop.order_lines drop constraint sensible_price', 'alter table shop.order_lines add constraint sensible_price check (price >= 0 and price < 100000)', 'schema-changed', /^TABLE shop order_lines$/],
  ['a changed function', "create or replace function shop.touch() returns trigger language plpgsql as 'begin return new; end'", '', 'schema-changed', /^FUNCTION shop touch\(\)$/],
  ['an object that was not backed up', 'create table public.extra ()', 'drop table public.extra', 'table-unexpected', /^public\.extra$/],
  ['a role with other rights', 'alter role shop_reader createdb', 'alter role shop_reader nocreatedb', 'role', /^shop_reader$/],
  ['a lost membership', 'revoke shop_reader from "Shop Auditor"', 'grant shop_reader to "Shop Auditor"', 'role', /^Shop Auditor$/],
  ['a lost extension', 'drop extension pg_trgm cascade', '', 'extension', /^pg_trgm$/],
];

describe('each planted fault is caught and named', () => {
  test.each(FAULTS)('%s', async (_name, plant, takeBack, kind, object) => {
    if (kind === 'sequence') await change('create table public.aside as select last_value from shop.invoice_number');
    await change(plant);
    const found = await prove();
    expect(found.exact).toBe(false);
    expect(differences(found)).toContainEqual([kind, expect.stringMatching(object)]);
    if (takeBack !== '') await change(takeBack);
  });
});

test('with every fault taken back, only the two that cannot be are left', async () => {
  const left = differences(await prove()).filter(([kind, object]) => !(kind === 'schema-changed' && object === 'FUNCTION shop touch()') && !/pg_trgm|customers_name_trigram/.test(object));
  expect(left).toEqual([]);
});
