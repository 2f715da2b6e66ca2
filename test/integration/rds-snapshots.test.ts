import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { BackupResult } from '../../src/model/api.ts';
import { retentionSchema } from '../../src/model/config-schema.ts';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import { readBack } from '../../src/systems/postgres-restore.ts';
import { runRetention } from '../../src/systems/backup-retention.ts';
import { postgresOf, type Context } from '../../src/systems/context.ts';
import { createSnapshot, describeSnapshot } from '../../src/systems/rds-snapshots.ts';
import { connectTemporal, runningWorker } from '../support.ts';
import { backupsOf, OTHER_REGION, rdsFixture, REGION, startBackup, type RdsFixture } from './rds-fixture.ts';

let fixture: RdsFixture;

beforeAll(async () => {
  fixture = await rdsFixture('snap');
});
afterAll(() => fixture.end());

describe('a managed snapshot as the backup', () => {
  let context: Context;
  let client: Client;
  let worker: { stop(): Promise<void> };
  beforeAll(async () => {
    context = await fixture.context({ snapshots: { copies: [{ region: OTHER_REGION }], share: ['111122223333'], tags: { team: 'data' } } });
    client = await connectTemporal(context);
    worker = await runningWorker(context);
  });
  afterAll(async () => {
    await worker.stop();
    await client.connection.close();
    context.close();
  });

  test('is taken, marked around, copied, shared and committed with what is known of it', async () => {
    const { result } = await startBackup(context, client, 'first');
    const backup = await result;
    expect(backup.degraded).toBeUndefined();
    const { store, backups } = await backupsOf(context);
    expect(backups).toMatchObject([{ id: backup.id, kind: 'managed-snapshot', complete: true, proof: 'unproved' }]);
    const manifest = postgresManifestOf(await readManifest(store, backup.location));
    expect(manifest).toMatchObject({ format: 2, objects: [], managed: { region: REGION, instance: fixture.instance.identifier, fingerprinted: true, moving: [], sharedWith: ['111122223333'], copies: [{ region: OTHER_REGION }] } });
    expect(manifest.managed!.markers!.present.length).toBe(2);
    expect(manifest.managed!.markers!.absent.length).toBe(1);
    expect(manifest.fingerprint.tables.map(({ name, rows }) => `${name} ${rows}`)).toEqual(['customers 500', 'orders 1000']);
    expect(fixture.snapshots.snapshots.map(({ region, identifier, status }) => [region, identifier, status])).toEqual([[REGION, backup.managed!.identifier, 'available'], [OTHER_REGION, backup.managed!.identifier, 'available']]);
  });

  test('attempts of one commit, of which one was taken for lost and was not, leave one manifest and its COMMIT', async () => {
    const { result } = await startBackup(context, client, 'attempts');
    const backup = await result;
    const { store } = await backupsOf(context);
    const before = postgresManifestOf(await readManifest(store, backup.location));
    const { commitManaged } = await import('../../src/systems/managed-backup.ts');
    const request = { datastore: 'shop', id: backup.id, location: backup.location, reason: before.reason, workflowId: before.workflowId!, runId: before.runId!, startedAtMs: Date.parse(before.startedAt) };
    const commit = async (degraded: string[]): Promise<BackupResult> => commitManaged(context, request, { ref: before.managed!, copies: before.managed!.copies, sharedWith: before.managed!.sharedWith, degraded }, { signal: new AbortController().signal });
    for (const manifestIsThere of [true, false, false]) {
      await store.delete(`${backup.location}COMMIT`);
      if (!manifestIsThere) await store.delete(`${backup.location}manifest.json`);
      const [first, second] = await Promise.all([commit(['seen by the first']), commit(['seen by the second'])]);
      const committed = postgresManifestOf(await readManifest(store, backup.location));
      expect([first.degraded, second.degraded]).toEqual([committed.degraded, committed.degraded]);
      expect(committed.degraded ?? 'in full').toMatch(manifestIsThere ? /^in full$/ : /^seen by the (first|second)$/);
    }
  });
});

describe('retention of managed snapshots', () => {
  let context: Context;
  let client: Client;
  let worker: { stop(): Promise<void> };
  const HOUR = 3_600_000;
  const made: BackupResult[] = [];
  const there = (): string[] => fixture.snapshots.snapshots.filter(({ identifier }) => made.some((backup) => backup.managed?.identifier === identifier)).map(({ region, identifier }) => `${region} ${made.findIndex((backup) => backup.managed?.identifier === identifier)}`).sort();
  const both = (index: number): string[] => [`${REGION} ${index}`, `${OTHER_REGION} ${index}`];
  const retain = (nowMs = Date.now()) => runRetention(context, { datastore: 'shop', apply: true, nowMs });

  beforeAll(async () => {
    context = await fixture.context({ snapshots: { copies: [{ region: OTHER_REGION }], fingerprint: false } });
    // Made without a policy, so that nothing is deleted meanwhile.
    client = await connectTemporal(context);
    worker = await runningWorker(context);
    for (let count = 0; count < 4; count += 1) made.push(await (await startBackup(context, client)).result);
    Object.assign(postgresOf(context.config, 'shop'), { retention: retentionSchema.parse({ last: 3 }) });
  });
  afterAll(async () => {
    await worker.stop();
    await client.connection.close();
    context.close();
  });

  test('deletes the snapshot and its copies by the same rules', async () => {
    expect(there()).toHaveLength(8);
    const result = await retain();
    expect(result.deleted).toEqual([made[0]!.id]);
    expect(there()).toEqual([...both(1), ...both(2), ...both(3)].sort());
    expect((await backupsOf(context)).backups.map(({ id }) => id)).toEqual(made.slice(1).map(({ id }) => id));
  });

  test('never deletes a snapshot that does not carry its tags', async () => {
    Object.assign(postgresOf(context.config, 'shop'), { retention: retentionSchema.parse({ last: 2 }) });
    const { AddTagsToResourceCommand } = await import('@aws-sdk/client-rds');
    const arn = (await describeSnapshot(context, { region: OTHER_REGION, identifier: made[1]!.managed!.identifier }))!.arn;
    const tag = async (value: string): Promise<unknown> => (await context.aws.rds(OTHER_REGION)).send(new AddTagsToResourceCommand({ ResourceName: arn, Tags: [{ Key: 'holdfast:backup', Value: value }] }));
    await tag('somebody-elses');
    const result = await retain();
    expect(result.deleted).toEqual([]);
    expect(result.decisions.find(({ id }) => id === made[1]!.id)).toMatchObject({ action: 'keep', reasons: [expect.stringMatching(/in eu-west-1 is not ours: its tag holdfast:backup is "somebody-elses"/)] });
    expect(there()).toEqual([...both(1), ...both(2), ...both(3)].sort());
    await tag(made[1]!.id);
  });

  test('a deletion that is cut off is resumed, and one that was done by hand is fine', async () => {
    fixture.rds.inject({ action: 'DeleteDBSnapshot', region: REGION, how: 'deny' });
    await expect(retain()).rejects.toMatchObject({ code: 'rds-refused' });
    // The copy is gone, and the backup is none any more; its snapshot is still there.
    expect(there()).toEqual([`${REGION} 1`, ...both(2), ...both(3)].sort());
    expect((await backupsOf(context)).backups.map(({ id }) => id)).toEqual(made.slice(2).map(({ id }) => id));
    expect((await retain()).reapedUploads).toBe(0);
    expect((await retain(Date.now() + 2 * HOUR)).reapedUploads).toBe(1);
    expect(there()).toEqual([...both(2), ...both(3)].sort());
    for (const key of await keysOf(context)) expect(key).not.toContain(made[1]!.id);
  });

  test('a snapshot that was never committed is removed when no backup can still be running, and nobody else\'s is', async () => {
    const other = await fixture.context();
    const named = (backup: string): string => `holdfast-shop-${backup}`;
    const lost = `lost${Date.now()}`;
    const made: [string, string, Record<string, string>][] = [
      [named(lost), context.config.environment, { 'holdfast:backup': lost }],
      // A person's copy, our tags copied along; one that was committed, to a store that is another one now; one of another environment.
      [`keep-for-audit-${lost}`, context.config.environment, { 'holdfast:backup': lost }],
      [named(`${lost}c`), context.config.environment, { 'holdfast:backup': `${lost}c`, 'holdfast:committed': 's3://before' }],
      [named(`${lost}f`), other.config.environment, { 'holdfast:backup': `${lost}f` }],
    ];
    for (const [identifier, environment, tags] of made) await createSnapshot(context, { region: REGION, identifier, instance: fixture.instance.identifier, tags: { 'holdfast:environment': environment, 'holdfast:datastore': 'shop', ...tags } });
    const left = (): string[] => made.map(([identifier]) => identifier).filter((identifier) => fixture.snapshots.snapshots.some((snapshot) => snapshot.identifier === identifier));
    await expect.poll(() => fixture.snapshots.snapshots.every(({ status }) => status === 'available'), { timeout: 20_000 }).toBe(true);
    await retain(Date.now() + HOUR);
    expect(left()).toHaveLength(4);
    await retain(Date.now() + 10 * 24 * HOUR);
    expect(left()).toEqual(made.slice(1).map(([identifier]) => identifier));
    expect(there()).toEqual([...both(2), ...both(3)].sort());
    other.close();
  });

  test('nothing pretends to read a managed snapshot', async () => {
    const { store, backups } = await backupsOf(context);
    const manifest = postgresManifestOf(await readManifest(store, backups[0]!.location));
    await expect(readBack(context, { storeName: 'main', location: backups[0]!.location, manifest })).rejects.toMatchObject({ code: 'managed-snapshot' });
  });
});

async function keysOf(context: Context): Promise<string[]> {
  const { store } = await backupsOf(context);
  const keys: string[] = [];
  for await (const { key } of store.list(store.prefix)) if (!key.includes('runs/')) keys.push(key);
  return keys;
}
