import type { Client } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { sweepEndedDrills } from '../../src/engine/drill-sweep.ts';
import type { RestoreDrillInput, RestoreDrillResult } from '../../src/model/api.ts';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import type { Context } from '../../src/systems/context.ts';
import { listDrillInstances } from '../../src/systems/rds-snapshots.ts';
import { mortalWorker } from '../mortal.ts';
import { connectTemporal, runningWorker, uniqueName, type ConfigOverrides } from '../support.ts';
import { backupsOf, OTHER_REGION, rdsFixture, REGION, startBackup, type RdsFixture } from './rds-fixture.ts';

let fixture: RdsFixture;
const closing: (() => Promise<void> | void)[] = [];

beforeAll(async () => {
  fixture = await rdsFixture('rdrill');
  await fixture.snapshots.keepBase(REGION, fixture.instance.identifier);
});
afterAll(() => fixture.end());
afterEach(async () => {
  fixture.snapshots.delays.snapshotMs = 100;
  for (const close of closing.splice(0).reverse()) await close();
});

async function started(snapshots: ConfigOverrides = {}, worker = true): Promise<{ context: Context; client: Client }> {
  const context = await fixture.context({ snapshots });
  const client = await connectTemporal(context);
  closing.push(() => context.close(), () => client.connection.close());
  if (worker) {
    const running = await runningWorker(context);
    closing.push(() => running.stop());
  }
  return { context, client };
}

function drill(context: Context, client: Client, input: Partial<RestoreDrillInput> = {}): Promise<RestoreDrillResult> {
  return client.workflow.execute('restoreDrill', { taskQueue: context.config.temporal.taskQueue, workflowId: uniqueName('drill/shop'), args: [{ datastore: 'shop', ...input }] }) as Promise<RestoreDrillResult>;
}

const left = (context: Context): Promise<unknown[]> => listDrillInstances(context, REGION, context.config.environment);
const restores = (): Readonly<Record<string, string>>[] => fixture.rds.calls.filter(({ action }) => action.startsWith('RestoreDBInstance')).map(({ parameters }) => parameters);

test('a snapshot of a quiet database is restored apart from production, proved exactly, timed and destroyed', async () => {
  const { context, client } = await started();
  const backup = await (await startBackup(context, client)).result;
  const result = await drill(context, client);
  expect(result).toMatchObject({ outcome: 'verified', backup: backup.id, proof: { exact: true, differences: [] }, checks: [{ ok: true }] });
  expect(result.proof!.compared).toMatchObject({ tables: 2, rows: '1500' });
  expect(result.proof!.notes.join()).toContain('marker rows: the 2 acknowledged before the snapshot there, the 1 written after it not');
  expect(result.measuredRtoMs).toBeGreaterThan(0);
  expect(restores().at(-1)).toMatchObject({ DBSubnetGroupName: `${fixture.instance.identifier}-drills`, PubliclyAccessible: 'false', DeletionProtection: 'false', DBInstanceClass: 'db.t4g.small' });
  expect(await left(context)).toEqual([]);
  const { backups } = await backupsOf(context);
  expect(backups).toMatchObject([{ proof: 'verified', inUse: false }]);
});

test('what changes while the snapshot is taken is not called proved: the drill says what is exact and what is not', async () => {
  const { context, client } = await started();
  fixture.snapshots.delays.snapshotMs = 1500;
  const { result: taken } = await startBackup(context, client);
  await expect.poll(() => fixture.snapshots.snapshots.some(({ status }) => status === 'creating'), { timeout: 20_000, interval: 20 }).toBe(true);
  await fixture.sql('insert into orders (customer) select 7 from generate_series(1, 10)');
  const backup = await taken;
  const { store } = await backupsOf(context);
  const { managed } = postgresManifestOf(await readManifest(store, backup.location));
  expect(managed!.moving).toEqual([{ what: 'table', object: 'public.orders', why: '1000 rows before, 1010 after' }]);
  expect(managed!.markers!.between.length).toBeGreaterThan(1);
  const result = await drill(context, client);
  expect(result).toMatchObject({ outcome: 'verified', proof: { exact: false, differences: [] } });
  expect(result.proof!.unproved![0]).toBe('table public.orders (1000 rows before, 1010 after)');
  // The sequence lies between its readings, or as far ahead as recovery leaves it.
  expect(result.proof!.unproved!.slice(1).every((text) => text.startsWith('sequence public.orders_id_seq'))).toBe(true);
  expect(result.message).toMatch(/no difference, but not exact: 1 tables with 500 rows.*not proved: table public.orders/);
  expect(await left(context)).toEqual([]);
  await fixture.sql('delete from orders where customer = 7 and id > 1000');
});

test('the copy in the other Region is what is restored where the drill names that Region', async () => {
  const { context, client } = await started({ copies: [{ region: OTHER_REGION }], drill: { region: OTHER_REGION, instanceClass: 'db.t4g.small', subnetGroup: `${fixture.instance.identifier}-drills`, securityGroups: [fixture.drillGroup] } });
  const backup = await (await startBackup(context, client)).result;
  const result = await drill(context, client);
  expect(result).toMatchObject({ outcome: 'verified', backup: backup.id, proof: { differences: [] } });
  expect(fixture.rds.calls.filter(({ action }) => action === 'RestoreDBInstanceFromDBSnapshot').at(-1)!.region).toBe(OTHER_REGION);
  expect(await listDrillInstances(context, OTHER_REGION, context.config.environment)).toEqual([]);
});

test('a snapshot whose content is not what was read is found bad', async () => {
  const { context, client } = await started();
  const backup = await (await startBackup(context, client)).result;
  // The source is read as it never was in the snapshot: its record is changed before the drill by taking the snapshot of another moment.
  const snapshot = fixture.snapshots.snapshots.find(({ identifier }) => identifier === backup.managed!.identifier)!;
  await fixture.sql('update customers set name = upper(name) where id = 3');
  const second = await (await startBackup(context, client)).result;
  const other = fixture.snapshots.snapshots.find(({ identifier }) => identifier === second.managed!.identifier)!;
  Object.assign(snapshot, { files: other.files });
  const result = await drill(context, client, { backup: backup.id });
  expect(result.outcome).toBe('bad');
  expect(result.proof!.differences).toEqual(expect.arrayContaining([expect.objectContaining({ kind: 'content', object: 'public.customers' }), expect.objectContaining({ object: expect.stringContaining(`${backup.id}/`), expected: 'not there: it was written afterwards' })]));
  expect(await left(context)).toEqual([]);
  expect((await backupsOf(context)).backups.find(({ id }) => id === backup.id)).toMatchObject({ proof: 'bad' });
  await fixture.sql('update customers set name = lower(name) where id = 3');
});

test('a committed backup whose snapshot somebody deleted is found bad', async () => {
  const { context, client } = await started();
  const backup = await (await startBackup(context, client)).result;
  const { DeleteDBSnapshotCommand } = await import('@aws-sdk/client-rds');
  await (await context.aws.rds(REGION)).send(new DeleteDBSnapshotCommand({ DBSnapshotIdentifier: backup.managed!.identifier }));
  const result = await drill(context, client);
  expect(result).toMatchObject({ outcome: 'bad', message: expect.stringMatching(/committed, but its snapshot .* is not there/) });
});

test.each([
  ['the subnet group of production', { subnetGroup: 'production' }, /subnet group .* is that of/],
  ['a security group of production', { securityGroups: 'production' }, /security group .* is also on/],
])('a drill into %s is refused before anything is restored', async (_, wrong, why) => {
  const { context, client } = await started({
    drill: {
      instanceClass: 'db.t4g.small',
      subnetGroup: `${fixture.instance.identifier}-${'subnetGroup' in wrong ? 'production' : 'drills'}`,
      securityGroups: 'securityGroups' in wrong ? [...fixture.instance.groups] : [fixture.drillGroup],
    },
  });
  await (await startBackup(context, client)).result;
  const before = restores().length;
  const result = await drill(context, client);
  expect(result).toMatchObject({ outcome: 'failed', message: expect.stringMatching(why) });
  expect(restores()).toHaveLength(before);
  expect((await backupsOf(context)).backups).toMatchObject([{ proof: 'unproved', inUse: false }]);
});

test('a worker killed as the instance was asked for: another one goes on with it and destroys it', async () => {
  const { context, client } = await started({}, false);
  const first = await runningWorker(context);
  await (await startBackup(context, client)).result;
  await first.stop();
  const before = restores().length;
  const mortal = await mortalWorker(context, { at: 'startManagedTarget' });
  closing.push(() => mortal.stop());
  await mortal.go();
  const result = drill(context, client);
  expect(await mortal.ended).toBe('SIGKILL');
  expect(await left(context)).toHaveLength(1);
  const worker = await runningWorker(context);
  closing.push(() => worker.stop());
  expect(await result).toMatchObject({ outcome: 'verified' });
  expect(restores()).toHaveLength(before + 1);
  expect(await left(context)).toEqual([]);
});

test('what a drill left that was ended by force is swept by the next worker, and what still runs is not', async () => {
  const { context, client } = await started({}, false);
  const first = await runningWorker(context);
  await (await startBackup(context, client)).result;
  fixture.rds.delays.createMs = 60_000;
  const workflowId = uniqueName('drill/shop');
  const handle = await client.workflow.start('restoreDrill', { taskQueue: context.config.temporal.taskQueue, workflowId, args: [{ datastore: 'shop' }] });
  await expect.poll(() => left(context), { timeout: 20_000 }).toHaveLength(1);
  expect(await sweepEndedDrills(context, client)).toEqual([]);
  await handle.terminate('a test');
  fixture.rds.delays.createMs = 100;
  expect(await sweepEndedDrills(context, client)).toHaveLength(1);
  await expect.poll(() => left(context), { timeout: 20_000 }).toEqual([]);
  await first.stop();
});

test('point in time: the last marker before the moment is there and the first after it is not', async () => {
  const { context, client } = await started();
  const result = await drill(context, client, { pointInTime: 'now' });
  expect(result).toMatchObject({ outcome: 'verified', proof: { exact: false, differences: [] }, checks: [{ ok: true }] });
  expect(result.backup).toMatch(/^point-in-time-\d{4}/);
  expect(result.proof!.notes.join()).toMatch(/marker row point-in-time\/\d+, the last before .*, is there; point-in-time\/\d+, the first after it, is not/);
  expect(result.measuredRtoMs).toBeGreaterThan(0);
  expect(await left(context)).toEqual([]);
  expect((await backupsOf(context)).backups).toEqual([]);

  // A chosen moment of the past: after the marker that the drill above wrote, before what comes now.
  const [{ at }] = (await fixture.sql<{ at: Date }>('select clock_timestamp() + interval \'2.2 seconds\' as at')) as [{ at: Date }];
  await new Promise((resolve) => setTimeout(resolve, 2500));
  await fixture.sql("insert into holdfast.recovery_marker (subject, seq, phase) values ('by-hand', 1, 'after'); create table later as select 1 as n");
  const chosen = await drill(context, client, { pointInTime: at.toISOString() });
  expect(chosen).toMatchObject({ outcome: 'verified', proof: { differences: [] } });
  expect(chosen.proof!.notes.join()).toContain('by-hand/1, the first after it, is not');
  expect(chosen.proof!.notes.join()).toContain('in 3 tables');
});

test('a moment that no marker proves is refused in words, and so are both a moment and a backup', async () => {
  const { context, client } = await started();
  const result = await drill(context, client, { pointInTime: '2020-01-01T00:00:00Z' });
  expect(result).toMatchObject({ outcome: 'failed', message: expect.stringContaining('there is no marker row before 2020-01-01T00:00:00.000Z') });
  await expect(drill(context, client, { pointInTime: 'now', backup: 'newest' })).rejects.toMatchObject({ cause: { message: expect.stringContaining('exclude each other') } });
});
