import type { Client } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import { listSnapshots } from '../../src/systems/rds-snapshots.ts';
import type { Context } from '../../src/systems/context.ts';
import { mortalWorker } from '../mortal.ts';
import { connectTemporal, runningWorker, type ConfigOverrides } from '../support.ts';
import { backupsOf, OTHER_REGION, rdsFixture, REGION, startBackup, type RdsFixture } from './rds-fixture.ts';

let fixture: RdsFixture;
const closing: (() => Promise<void> | void)[] = [];

beforeAll(async () => {
  fixture = await rdsFixture('fall');
});
afterAll(() => fixture.end());
afterEach(async () => {
  fixture.snapshots.release();
  for (const close of closing.splice(0).reverse()) await close();
});

async function started(snapshots: ConfigOverrides = {}, options: { datastore?: ConfigOverrides } = {}): Promise<{ context: Context; client: Client }> {
  const context = await fixture.context({ snapshots, ...options });
  const client = await connectTemporal(context);
  closing.push(() => context.close(), () => client.connection.close());
  const worker = await runningWorker(context);
  closing.push(() => worker.stop());
  return { context, client };
}

const ours = (context: Context, region = REGION): Promise<{ identifier: string; status: string }[]> => listSnapshots(context, region, { environment: context.config.environment, datastore: 'shop' });
const told = (context: Context, ...texts: string[]): Promise<unknown> => fixture.webhook.waitFor((message) => [context.config.environment, ...texts].every((text) => JSON.stringify(message.body).includes(text)));

/** A dump was committed, says why, and people were told twice: as it began and as it was committed. */
async function expectFallback(context: Context, client: Client, why: RegExp): Promise<void> {
  const backup = await (await startBackup(context, client)).result;
  // The shop's two, and the marker rows of the attempt.
  expect(Number(backup.rows)).toBeGreaterThan(1500);
  expect(backup.managed).toBeUndefined();
  expect(backup.degraded).toMatch(why);
  const { store, backups } = await backupsOf(context);
  expect(backups).toMatchObject([{ id: backup.id, degraded: backup.degraded, proof: 'unproved' }]);
  const manifest = postgresManifestOf(await readManifest(store, backup.location));
  expect(manifest.format).toBe(1);
  expect(manifest.objects.map((object) => object.role)).toEqual(['data', 'globals']);
  await told(context, 'Managed snapshot of shop failed; a dump runs instead');
  await told(context, 'Backup of shop committed', 'logical dump instead of a managed snapshot');
  // Nothing but the dump is left in the store.
  const keys: string[] = [];
  for await (const object of store.list(store.prefix)) if (!object.key.startsWith(backup.location) && !object.key.includes('runs/')) keys.push(object.key);
  expect(keys).toEqual([]);
}

test('a snapshot that fails: a dump is committed as degraded and the failed snapshot goes', async () => {
  const { context, client } = await started();
  fixture.snapshots.misbehave('fails');
  await expectFallback(context, client, /managed snapshot failed: .* ended as failed/);
  expect(await ours(context)).toEqual([]);
});

test('a snapshot that is late: a dump is committed as degraded while it is still being taken', async () => {
  const { context, client } = await started({ completeWithin: '3s' });
  fixture.snapshots.misbehave('stuck');
  await expectFallback(context, client, /managed snapshot is late: .* still creating at \d+ %/);
  expect(await ours(context)).toMatchObject([{ status: 'creating' }]);
});

test('a snapshot that RDS refuses did not start', async () => {
  const { context, client } = await started();
  fixture.rds.inject({ action: 'CreateDBSnapshot', how: 'deny', times: 1 });
  await expectFallback(context, client, /did not start: .*AccessDenied/);
  expect(await ours(context)).toEqual([]);
});

test('a snapshot that is throttled for longer than allowed did not start', async () => {
  const { context, client } = await started({ startWithin: '4s' });
  const before = fixture.rds.calls.filter(({ action }) => action === 'CreateDBSnapshot').length;
  fixture.rds.inject({ action: 'CreateDBSnapshot', how: 'throttle', times: 6 });
  await expectFallback(context, client, /did not start/);
  expect(fixture.rds.calls.filter(({ action }) => action === 'CreateDBSnapshot').length).toBeGreaterThan(before + 1);
  expect(await ours(context)).toEqual([]);
});

test('a request whose answer is lost, and an account throttled for a while, make one snapshot and no fallback', async () => {
  const { context, client } = await started();
  fixture.rds.inject({ action: 'CreateDBSnapshot', how: 'throttle', times: 1 });
  fixture.rds.inject({ action: 'CreateDBSnapshot', how: 'cut-after', times: 1 });
  const backup = await (await startBackup(context, client)).result;
  expect(backup.degraded).toBeUndefined();
  expect(await ours(context)).toMatchObject([{ identifier: backup.managed!.identifier, status: 'available' }]);
});

test.concurrent.each(['beginManagedSnapshot', 'awaitManagedSnapshot', 'commitManagedSnapshot'])('a worker killed as %s took effect: another one finishes with the same snapshot', async (at) => {
  const context = await fixture.context();
  const client = await connectTemporal(context);
  const mortal = await mortalWorker(context, { at });
  let worker: { stop(): Promise<void> } | undefined;
  try {
    await mortal.go();
    const { result } = await startBackup(context, client);
    expect(await mortal.ended).toBe('SIGKILL');
    worker = await runningWorker(context);
    const backup = await result;
    expect(backup.degraded).toBeUndefined();
    const { store, backups } = await backupsOf(context);
    expect(backups.map(({ id }) => id)).toEqual([backup.id]);
    expect((postgresManifestOf(await readManifest(store, backup.location))).managed!.markers!.present.length).toBeGreaterThan(0);
    expect(await ours(context)).toMatchObject([{ identifier: backup.managed!.identifier, status: 'available' }]);
  } finally {
    await mortal.stop();
    await worker?.stop();
    await client.connection.close();
    context.close();
  }
}, 240_000);

test('double backup: both each time', async () => {
  const { context, client } = await started({ also: 'dump' });
  const both = await (await startBackup(context, client)).result;
  expect(both).toMatchObject({ managed: { region: REGION }, also: { tables: 3 } });
  const { backups } = await backupsOf(context);
  expect(backups.map(({ id, kind, degraded }) => [id, kind, degraded])).toEqual(expect.arrayContaining([[both.id, 'managed-snapshot', undefined], [both.also!.id, undefined, undefined]]));
  expect(backups).toHaveLength(2);
});

test('double backup whose dump is refused: the snapshot is committed and says so', async () => {
  const { context, client } = await started({ also: 'dump' }, { datastore: { backup: { minimumSize: '1GB' } } });
  const backup = await (await startBackup(context, client)).result;
  expect(backup).toMatchObject({ managed: { region: REGION }, degraded: expect.stringMatching(/^the dump beside it failed: /) });
  expect(backup.also).toBeUndefined();
  expect((await backupsOf(context)).backups).toMatchObject([{ id: backup.id, kind: 'managed-snapshot', degraded: backup.degraded }]);
});

test('a cancelled backup leaves no objects and no snapshot that RDS lets go; the copy that is being made waits for retention', async () => {
  const { context, client } = await started({ copies: [{ region: OTHER_REGION }] });
  fixture.snapshots.misbehave('stuck', { action: 'CopyDBSnapshot' });
  const { workflowId, result } = await startBackup(context, client);
  await expect.poll(() => ours(context, OTHER_REGION), { timeout: 20_000 }).toMatchObject([{ status: 'creating' }]);
  expect(await ours(context)).toMatchObject([{ status: 'available' }]);
  await client.workflow.getHandle(workflowId).cancel();
  await expect(result).rejects.toMatchObject({ cause: { name: 'CancelledFailure' } });
  expect(await ours(context)).toEqual([]);
  expect(await ours(context, OTHER_REGION)).toMatchObject([{ status: 'creating' }]);
  const { store, backups } = await backupsOf(context);
  expect(backups).toEqual([]);
  for await (const object of store.list(store.prefix)) expect(object.key).toContain('runs/');
});

test('a copy that fails leaves the backup committed and degraded', async () => {
  const { context, client } = await started({ copies: [{ region: OTHER_REGION }] });
  fixture.snapshots.misbehave('fails', { action: 'CopyDBSnapshot' });
  const backup = await (await startBackup(context, client)).result;
  expect(backup).toMatchObject({ managed: { region: REGION, copies: [] }, degraded: expect.stringMatching(/no copy in eu-west-1: .* ended as failed/) });
  await told(context, 'ATTENTION', 'Backup of shop committed', 'no copy in eu-west-1');
});

test('a snapshot of that name that somebody else made is never taken for ours, nor removed', async () => {
  const { context, client } = await started();
  const { rds } = fixture;
  rds.handle('CreateDBSnapshot', async (call) => call.forward({ 'Tags.Tag.1.Key': 'owner', 'Tags.Tag.1.Value': 'somebody', 'Tags.Tag.2.Key': null, 'Tags.Tag.2.Value': null, 'Tags.Tag.3.Key': null, 'Tags.Tag.3.Value': null }));
  await expectFallback(context, client, /did not start: .*not of this backup/);
  const all = await (await context.aws.rds(REGION)).send(new (await import('@aws-sdk/client-rds')).DescribeDBSnapshotsCommand({ DBInstanceIdentifier: fixture.instance.identifier, SnapshotType: 'manual' }));
  expect(all.DBSnapshots!.filter((snapshot) => snapshot.TagList?.some((tag) => tag.Value === 'somebody'))).toHaveLength(1);
});
