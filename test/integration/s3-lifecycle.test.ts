import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { GetBucketLifecycleConfigurationCommand, PutBucketLifecycleConfigurationCommand, type LifecycleRule, type S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { s3Steps } from '../../activities/s3.ts';
import { createBucket, s3Client } from '../../src/local/versity.ts';
import { openBucket } from '../../src/systems/s3-bucket.ts';
import { readLifecycle, replaceLifecycle } from '../../src/systems/s3-lifecycle.ts';
import { runHere, secretsOfTest } from '../cli/program.ts';
import { runStep } from '../step-run.ts';
import { runningWorker, suite, testBucket, testConfig, uniqueName } from '../support.ts';

// moto has lifecycle documents; VersityGW has none.
let moto: S3Client;
beforeAll(() => {
  moto = s3Client(suite().aws);
});
afterAll(() => moto?.destroy());

const others: LifecycleRule[] = [
  { ID: 'theirs', Status: 'Enabled', Filter: { And: { Prefix: 'logs/', Tags: [{ Key: 'a', Value: 'b' }] } }, Expiration: { Days: 9 } },
  { ID: 'holdfast-another.tmp', Status: 'Disabled', Filter: { Prefix: 'x/' }, Expiration: { Date: new Date('2030-01-01T00:00:00Z') } },
];

function datastore(bucket: string, lifecycle: readonly object[]): Readonly<Record<string, unknown>> {
  return { engine: 's3', bucket, prefix: 'shop', endpoint: suite().aws.endpoint, region: suite().aws.region, forcePathStyle: true, credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' }, lifecycle };
}

async function rulesOf(bucket: string): Promise<LifecycleRule[]> {
  return (await moto.send(new GetBucketLifecycleConfigurationCommand({ Bucket: bucket }))).Rules ?? [];
}

it('the command shows the difference and changes nothing; --apply makes it so, and rules of others stay as they are', async () => {
  const bucket = uniqueName('lifecycle');
  await createBucket(suite().aws, bucket);
  await moto.send(new PutBucketLifecycleConfigurationCommand({ Bucket: bucket, LifecycleConfiguration: { Rules: [...others, { ID: 'holdfast-files.gone', Status: 'Enabled', Filter: { Prefix: 'y/' }, Expiration: { Days: 1 } }] } }));
  const before = await rulesOf(bucket);
  const context = await testConfig({ datastores: { files: datastore(bucket, [{ id: 'tmp', prefix: 'tmp/', expireAfterDays: 7, abortUploadsAfterDays: 2 }, { id: 'old', noncurrent: { expireAfterDays: 90, transitions: [{ afterDays: 30, to: 'GLACIER' }] } }]) } });
  const worker = await runningWorker(context);
  const run = (...args: string[]) => runHere(['--config', context.configPath, '--runbooks', context.runbookDirectory, ...args], { env: secretsOfTest() });
  try {
    const shown = await run('lifecycle', 'files');
    expect(shown).toMatchObject({ code: 0, err: '' });
    expect(shown.out).toContain('2 to add, 0 to change, 1 to remove, 0 as wanted, 2 of others');
    expect(shown.out).toMatch(/\+ holdfast-files\.tmp {2}shop\/tmp\/\*: expire after 7 d; uploads that never ended go after 2 d/);
    expect(shown.out).toContain('- holdfast-files.gone');
    expect(shown.out).toContain('theirs  not ours');
    expect(await rulesOf(bucket)).toEqual(before);

    const applied = await run('lifecycle', 'files', '--apply', '--json');
    expect(applied.code).toBe(0);
    const rules = await rulesOf(bucket);
    expect(rules.slice(0, 2)).toEqual(before.slice(0, 2));
    expect(rules.slice(2).map(({ ID }) => ID)).toEqual(['holdfast-files.tmp', 'holdfast-files.old']);
    expect(rules[3]).toMatchObject({ Filter: { Prefix: 'shop/' }, NoncurrentVersionExpiration: { NoncurrentDays: 90 }, NoncurrentVersionTransitions: [{ NoncurrentDays: 30, StorageClass: 'GLACIER' }] });
    expect((await run('lifecycle', 'files')).out).toContain('as the configuration says');
    expect(await run('lifecycle', 'nothing')).toMatchObject({ code: 3 });
  } finally {
    await worker.stop();
    context.close();
  }
});

it('what a store does not keep is said, and rules that somebody changed meanwhile are not overwritten', async () => {
  const bucket = uniqueName('lifecycle');
  await createBucket(suite().aws, bucket);
  await moto.send(new PutBucketLifecycleConfigurationCommand({ Bucket: bucket, LifecycleConfiguration: { Rules: others } }));
  const context = await testConfig({ datastores: { files: datastore(bucket, [{ id: 'old', noncurrent: { expireAfterDays: 90 } }]) } });
  const place = await openBucket(context, 'files');
  const seen = await readLifecycle(place);
  await moto.send(new PutBucketLifecycleConfigurationCommand({ Bucket: bucket, LifecycleConfiguration: { Rules: [...others, { ID: 'newer', Status: 'Enabled', Filter: { Prefix: 'z/' }, Expiration: { Days: 1 } }] } }));
  const now = await rulesOf(bucket);
  await expect(replaceLifecycle(place, seen, { rules: [] })).rejects.toMatchObject({ code: 'lifecycle-contended', message: expect.stringContaining('newer is there and was not expected') });
  expect(await rulesOf(bucket)).toEqual(now);
  // Undone without anything there before: no rule of ours stays, and the document goes when it was the only one.
  const empty = uniqueName('lifecycle');
  await createBucket(suite().aws, empty);
  const alone = await testConfig({ datastores: { files: datastore(empty, [{ id: 'old', noncurrent: { expireAfterDays: 90 } }]) } });
  await runStep(s3Steps, alone, 's3.lifecycle', 'apply', { datastore: 'files' });
  expect(await rulesOf(empty)).toHaveLength(1);
  await replaceLifecycle(await openBucket(alone, 'files'), await readLifecycle(await openBucket(alone, 'files')), { rules: [] });
  await expect(rulesOf(empty)).rejects.toMatchObject({ name: 'NoSuchLifecycleConfiguration' });
  // A store without lifecycles says so.
  const bare = await testConfig({ datastores: { files: { ...datastore(await testBucket(), [{ id: 'old', expireAfterDays: 1 }]), endpoint: suite().s3.endpoint, credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' } } } });
  await expect(runStep(s3Steps, bare, 's3.lifecycle', 'guard', { datastore: 'files' })).rejects.toMatchObject({ code: 'lifecycle-unsupported' });
  for (const made of [context, alone, bare]) made.close();
});

it('replication: what failed and what waits too long is named, with its age', async () => {
  // No emulator here replicates: a server that answers as the S3 API reference says (ListObjectsV2, HeadObject with x-amz-replication-status).
  const status: Record<string, string> = { done: 'COMPLETED', copy: 'REPLICA', fresh: 'PENDING', late: 'PENDING', bad: 'FAILED', none: '' };
  const at = (key: string): Date => new Date(Math.floor(Date.now() / 1000) * 1000 - (key === 'late' ? 3_600_000 : 1000));
  const server = createServer((request, response) => {
    const url = new URL(request.url!, 'http://x');
    if (request.method === 'HEAD') {
      const key = url.pathname.split('/').at(-1)!;
      response.writeHead(200, { etag: '"e"', 'content-length': '1', 'last-modified': at(key).toUTCString(), ...(status[key] === '' ? {} : { 'x-amz-replication-status': status[key]! }) }).end();
      return;
    }
    response.writeHead(200, { 'content-type': 'application/xml' });
    response.end(`<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>${Object.keys(status).map((key) => `<Contents><Key>${key}</Key><Size>1</Size><LastModified>${at(key).toISOString()}</LastModified></Contents>`).join('')}</ListBucketResult>`);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const context = await testConfig({ datastores: { files: { ...datastore('any', []), prefix: '', endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, expect: { replication: { bucket: 'other', maxPending: '15m' } } } } });
  try {
    const found = await runStep(s3Steps, context, 's3.check', 'verify', { datastore: 'files' });
    expect(found.facts).toMatchObject({ replicated: 2, replicationPending: 2, replicationFailed: 1 });
    expect(found.facts!['oldestPendingMs']).toBeGreaterThan(3_500_000);
    expect(found.checks!.map(({ name, ok, found }) => ({ name, ok, found: found.split(',')[0] }))).toEqual([
      { name: 'replication failed', ok: false, found: '1 (bad' },
      { name: 'replication pending', ok: false, found: '1 (late' },
      { name: 'replication seen', ok: true, found: '1 (none' },
    ]);
  } finally {
    server.close();
    server.closeAllConnections();
    context.close();
  }
});
