import { DeleteObjectCommand, GetBucketLifecycleConfigurationCommand, GetObjectCommand, ListObjectVersionsCommand, PutBucketLifecycleConfigurationCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { s3Client } from '../../src/local/stack.ts';
import { createBucket } from '../../src/local/versity.ts';
import { surviveDeath } from '../survive-death.ts';
import { suite, testBucket, testConfig, uniqueName } from '../support.ts';

let versity: S3Client;
let moto: S3Client;
beforeAll(() => {
  versity = s3Client(suite().s3);
  moto = s3Client(suite().aws);
});
afterAll(() => {
  versity?.destroy();
  moto?.destroy();
});

async function all(client: S3Client, Bucket: string): Promise<{ key: string; marker: boolean; latest: boolean }[]> {
  const page = await client.send(new ListObjectVersionsCommand({ Bucket }));
  return [...(page.Versions ?? []).map((entry) => ({ key: entry.Key!, marker: false, latest: entry.IsLatest === true })), ...(page.DeleteMarkers ?? []).map((entry) => ({ key: entry.Key!, marker: true, latest: entry.IsLatest === true }))];
}

const credentials = { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' };

// Each kill costs the 10 s after which the server misses a heartbeat: they run side by side.
describe.concurrent('a worker that is killed', () => {
  it('after each change of the object drill has it proved all the same, and nothing of it stays', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await testConfig({ datastores: { files: { engine: 's3', bucket, endpoint: suite().s3.endpoint, region: suite().s3.region, forcePathStyle: true, versionTime: 'ulid', credentials, expect: { publicAccessBlocked: false } } } });
    const of = { datastore: 'files', key: '${steps.marker.key}' };
    const result = await surviveDeath(
      context,
      [
        { id: 'marker', uses: 's3.drillMarker', with: { datastore: 'files' } },
        { id: 'restore', uses: 's3.restoreObject', with: { ...of, versionId: '${steps.marker.versionId}' } },
        { id: 'prove', uses: 's3.proveMarker', with: of },
        { id: 'clean', uses: 's3.removeMarker', with: of },
      ],
      [{ at: 's3.drillMarker:apply' }, { at: 's3.restoreObject:apply' }, { at: 's3.removeMarker:apply' }],
    );
    expect(result.outcome).toBe('succeeded');
    expect(result.steps.map((step) => step.outcome)).toEqual(['changed', 'changed', 'already-satisfied', 'changed']);
    expect(result.checks.find((check) => check.expected.startsWith('byte by byte'))).toMatchObject({ ok: true, found: expect.stringContaining('200000 bytes') });
    expect(await all(versity, bucket)).toEqual([]);
    context.close();
  }, 180_000);

  it('in the middle of the drill object, and after it was undone, leaves nothing', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await testConfig({ datastores: { files: { engine: 's3', bucket, endpoint: suite().s3.endpoint, region: suite().s3.region, forcePathStyle: true, versionTime: 'ulid', credentials } } });
    const result = await surviveDeath(
      context,
      [
        { id: 'marker', uses: 's3.drillMarker', with: { datastore: 'files' } },
        // It cannot succeed, so that the run goes back.
        { id: 'fail', uses: 'rollout.command', with: { argv: ['/bin/false'] } },
      ],
      [{ at: 's3.drillMarker:apply', afterRequest: 'PutObjectCommand' }, { at: 's3.drillMarker:undo' }],
    );
    expect(result.outcome).not.toBe('succeeded');
    expect(result.steps[0]).toMatchObject({ outcome: 'undone' });
    expect(await all(versity, bucket)).toEqual([]);
    context.close();
  }, 180_000);

  it('in the middle of a prefix and at its end has it restored all the same, each key once', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await testConfig({ datastores: { files: { engine: 's3', bucket, endpoint: suite().s3.endpoint, region: suite().s3.region, forcePathStyle: true, versionTime: 'ulid', credentials, restore: { concurrency: 1, requestsPerSecond: 1000 } } } });
    const keys = Array.from({ length: 6 }, (_, index) => `k${index}`);
    for (const Key of keys) await versity.send(new PutObjectCommand({ Bucket: bucket, Key, Body: `good ${Key}` }));
    await new Promise((resolve) => setTimeout(resolve, 20));
    const moment = new Date().toISOString();
    await new Promise((resolve) => setTimeout(resolve, 20));
    for (const Key of keys) await versity.send(new PutObjectCommand({ Bucket: bucket, Key, Body: 'bad' }));
    await versity.send(new PutObjectCommand({ Bucket: bucket, Key: 'new', Body: 'bad' }));
    const result = await surviveDeath(context, [{ id: 'restore', uses: 's3.restorePrefix', with: { datastore: 'files', moment } }], [{ at: 's3.restorePrefix:apply', afterRequest: 'CopyObjectCommand' }, { at: 's3.restorePrefix:apply' }]);
    expect(result.outcome).toBe('succeeded');
    for (const Key of keys) expect(await (await versity.send(new GetObjectCommand({ Bucket: bucket, Key }))).Body!.transformToString()).toBe(`good ${Key}`);
    await expect(versity.send(new GetObjectCommand({ Bucket: bucket, Key: 'new' }))).rejects.toMatchObject({ name: 'NoSuchKey' });
    // Good, bad and restored: no version is gone, none was made twice.
    const entries = await all(versity, bucket);
    for (const key of keys) expect(entries.filter((entry) => entry.key === key)).toHaveLength(3);
    expect(entries.filter((entry) => entry.key === 'new')).toHaveLength(2);
    context.close();
  }, 180_000);

  it('after the lifecycle rules were changed, and after that was undone, leaves the document as it was', async () => {
    const bucket = uniqueName('lifecycle');
    await createBucket(suite().aws, bucket, { versioning: true });
    const others = { ID: 'of-somebody-else', Status: 'Enabled' as const, Filter: { Prefix: 'logs/' }, Expiration: { Days: 9 } };
    const ours = { ID: 'holdfast-files.tmp', Status: 'Enabled' as const, Filter: { Prefix: 'tmp/' }, Expiration: { Days: 3 } };
    await moto.send(new PutBucketLifecycleConfigurationCommand({ Bucket: bucket, LifecycleConfiguration: { Rules: [others, ours] } }));
    const context = await testConfig({
      datastores: { files: { engine: 's3', bucket, endpoint: suite().aws.endpoint, region: suite().aws.region, forcePathStyle: true, credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' }, lifecycle: [{ id: 'tmp', prefix: 'tmp/', expireAfterDays: 7 }, { id: 'uploads', abortUploadsAfterDays: 2 }] } },
    });
    const result = await surviveDeath(
      context,
      [
        { id: 'lifecycle', uses: 's3.lifecycle', with: { datastore: 'files' } },
        { id: 'fail', uses: 'rollout.command', with: { argv: ['/bin/false'] } },
      ],
      [{ at: 's3.lifecycle:apply' }, { at: 's3.lifecycle:undo' }],
    );
    expect(result.steps[0]).toMatchObject({ outcome: 'undone' });
    expect((await moto.send(new GetBucketLifecycleConfigurationCommand({ Bucket: bucket }))).Rules).toEqual([expect.objectContaining(others), expect.objectContaining(ours)]);
    context.close();
  }, 180_000);
});

it('versions under object lock stay behind a delete marker, and are counted', async () => {
  const bucket = await testBucket({ objectLock: true });
  const { PutObjectLockConfigurationCommand } = await import('@aws-sdk/client-s3');
  await versity.send(new PutObjectLockConfigurationCommand({ Bucket: bucket, ObjectLockConfiguration: { ObjectLockEnabled: 'Enabled', Rule: { DefaultRetention: { Mode: 'GOVERNANCE', Days: 1 } } } }));
  const context = await testConfig({ datastores: { files: { engine: 's3', bucket, endpoint: suite().s3.endpoint, region: suite().s3.region, forcePathStyle: true, versionTime: 'ulid', credentials } } });
  const { runStep } = await import('../step-run.ts');
  const { s3Steps } = await import('../../activities/s3.ts');
  const { key, versionId } = (await runStep(s3Steps, context, 's3.drillMarker', 'apply', { datastore: 'files' })).facts as { key: string; versionId: string };
  await runStep(s3Steps, context, 's3.restoreObject', 'apply', { datastore: 'files', key, versionId });
  expect((await runStep(s3Steps, context, 's3.proveMarker', 'verify', { datastore: 'files', key })).checks).toEqual([expect.objectContaining({ ok: true }), expect.objectContaining({ ok: true })]);
  expect((await runStep(s3Steps, context, 's3.removeMarker', 'apply', { datastore: 'files', key })).facts).toEqual({ removed: 0, locked: 3 });
  expect((await runStep(s3Steps, context, 's3.removeMarker', 'inspect', { datastore: 'files', key })).satisfied).toBe(true);
  const entries = await all(versity, bucket);
  expect(entries.filter((entry) => !entry.marker)).toHaveLength(3);
  expect(entries.find((entry) => entry.latest)).toMatchObject({ key, marker: true });
  // Whatever a runbook says: nothing but the object of a drill is ever removed.
  await versity.send(new PutObjectCommand({ Bucket: bucket, Key: 'orders/1', Body: 'real' }));
  await expect(runStep(s3Steps, context, 's3.removeMarker', 'apply', { datastore: 'files', key: 'orders/1' })).rejects.toMatchObject({ code: 's3-not-a-drill' });
  expect((await all(versity, bucket)).filter((entry) => entry.key === 'orders/1')).toEqual([{ key: 'orders/1', marker: false, latest: true }]);
  await versity.send(new DeleteObjectCommand({ Bucket: bucket, Key: 'orders/1' }));
  context.close();
});
