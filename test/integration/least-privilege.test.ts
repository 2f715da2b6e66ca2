import { afterAll, beforeAll, expect, it } from 'vitest';
import { settleAttempt } from '../../src/systems/backup-write.ts';
import { openStore } from '../../src/systems/store.ts';
import { awsProxy, type AwsProxy } from '../aws-proxy.ts';
import { asCaller } from '../aws-calls.ts';
import { declared, undeclared } from '../aws-permissions.ts';
import { suite, testConfig } from '../support.ts';

let proxy: AwsProxy;
beforeAll(async () => {
  proxy = await awsProxy(suite().s3.endpoint);
});
afterAll(() => proxy?.close());

it('a backup that may not delete leaves what failed to retention, and is not held up by it', async () => {
  const context = await testConfig({ stores: { main: { endpoint: proxy.url } }, datastores: { shop: { engine: 'postgres', database: 'shop', store: 'main', admin: { username: 'x', password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, nodes: { a: { host: '127.0.0.1' } } } } });
  const store = await openStore(context, 'main');
  const location = 'shop/2026/11/21/030000Z-abc/';
  for (const name of ['manifest.json', 'data.dump.zst']) await store.put(location + name, 'x', { ifAbsent: true });
  proxy.rule((call) => (call.method === 'DELETE' ? { answer: { status: 403, headers: { 'content-type': 'application/xml' }, body: '<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>' } } : undefined));
  expect(await settleAttempt(context, 'shop', location)).toBeUndefined();
  expect(proxy.seen.some((call) => call.method === 'DELETE')).toBe(true);
  expect(await store.head(`${location}data.dump.zst`)).toBeDefined();
  proxy.clear();
  // Who may, does.
  await settleAttempt(context, 'shop', location);
  expect(await store.head(`${location}data.dump.zst`)).toBeUndefined();
  context.close();
});

it('a call that no policy allows is found by the tests themselves', async () => {
  const context = await testConfig({ datastores: { shop: { engine: 'postgres', database: 'shop', store: 'main', admin: { username: 'x', password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, nodes: { a: { host: '127.0.0.1' } } } } });
  const store = await openStore(context, 'main');
  const before = undeclared.size;
  await asCaller({ activity: 'runBackup' }, () => store.put('shop/2026/11/21/030000Z-abc/data', 'new', { ifAbsent: true }));
  expect([undeclared.size, declared.has('runBackup s3:PutObject')]).toEqual([before, true]);
  // Writing over what is there, writing elsewhere, deleting as a step that does not, and a part of Holdfast that has no role.
  await asCaller({ activity: 'runBackup' }, () => store.put('shop/2026/11/21/030000Z-abc/data', 'over'));
  await asCaller({ activity: 'runBackup' }, () => store.put('elsewhere', 'new', { ifAbsent: true }));
  await asCaller({ activity: 'applyRetention' }, () => store.put('shop/x', 'new', { ifAbsent: true }));
  await asCaller({ activity: 'postgres.promote:apply' }, () => store.delete('shop/x'));
  await asCaller({ activity: 'somethingNew' }, () => store.head('shop/x'));
  const found = [...undeclared].slice(before).map((text) => text.replaceAll(/bucket-\w+/g, 'B'));
  expect(found).toEqual([
    'runBackup: s3:PutObject on arn:aws:s3:::B/shop/2026/11/21/030000Z-abc/data',
    'runBackup: s3:PutObject on arn:aws:s3:::B/elsewhere',
    'applyRetention: s3:PutObject on arn:aws:s3:::B/shop/x',
    'postgres.promote:apply: s3:DeleteObject on arn:aws:s3:::B/shop/x',
    'somethingNew: s3:GetObject on arn:aws:s3:::B/shop/x (this activity has no role)',
  ]);
  // These were meant; what is left is not.
  for (const text of [...undeclared].slice(before)) undeclared.delete(text);
  context.close();
});
