import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { DeleteObjectCommand, GetObjectCommand, GetObjectTaggingCommand, HeadObjectCommand, ListObjectVersionsCommand, PutObjectCommand, type PutObjectCommandInput, type S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { s3Steps } from '../../activities/s3.ts';
import { s3Client } from '../../src/local/stack.ts';
import { createBucket } from '../../src/local/versity.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { openBucket } from '../../src/systems/s3-bucket.ts';
import { planPrefix, planRefusal, provePrefix, restorePrefix, restoreVersion } from '../../src/systems/s3-restore.ts';
import { keyAtMoment, keysAtMoment } from '../../src/systems/s3-versions.ts';
import { runStep } from '../step-run.ts';
import { suite, testBucket, testConfig, uniqueName } from '../support.ts';

const signal = new AbortController().signal;
let client: S3Client;
let motoClient: S3Client;
const contexts: Context[] = [];

beforeAll(() => {
  client = s3Client(suite().s3);
  motoClient = s3Client(suite().aws);
});
afterAll(() => {
  for (const context of contexts) context.close();
  client?.destroy();
  motoClient?.destroy();
});

async function made(bucket: string, more: Readonly<Record<string, unknown>> = {}, endpoint = suite().s3.endpoint): Promise<Context> {
  const context = await testConfig({
    datastores: { files: { engine: 's3', bucket, region: suite().s3.region, endpoint, forcePathStyle: true, versionTime: 'ulid', credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' }, ...more } },
  });
  contexts.push(context);
  return context;
}

/** Stamps with whole seconds and keeps them, as Amazon S3 does. */
async function onMoto(more: Readonly<Record<string, unknown>> = {}): Promise<{ bucket: string; context: Context; moto: S3Client }> {
  const bucket = uniqueName('moto');
  await createBucket(suite().aws, bucket, { versioning: true });
  const context = await made(bucket, { versionTime: 'stamp', credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' }, ...more }, suite().aws.endpoint);
  return { bucket, context, moto: motoClient };
}

async function put(Bucket: string, Key: string, Body: string | Buffer, more: Partial<PutObjectCommandInput> = {}): Promise<string> {
  return (await client.send(new PutObjectCommand({ Bucket, Key, Body, ...more }))).VersionId!;
}

async function textOf(Bucket: string, Key: string, from = client): Promise<string | undefined> {
  try {
    return await (await from.send(new GetObjectCommand({ Bucket, Key }))).Body!.transformToString();
  } catch (error) {
    if ((error as Error).name === 'NoSuchKey') return undefined;
    throw error;
  }
}

async function versionsOf(Bucket: string, Prefix = '', of = client): Promise<string[]> {
  const page = await of.send(new ListObjectVersionsCommand({ Bucket, Prefix }));
  expect(page.IsTruncated).toBe(false);
  return [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])].map((entry) => entry.VersionId!);
}

function failed(result: PhaseResult): string[] {
  return (result.checks ?? []).filter((check) => !check.ok).map((check) => `${check.name}: ${check.found}`);
}

/** Into the next second of the clock, since stores stamp with whole ones. Gives a moment between what was before and what comes. */
async function nextSecond(): Promise<string> {
  const now = Date.now();
  const moment = Math.ceil((now + 1) / 1000) * 1000;
  await new Promise((resolve) => setTimeout(resolve, moment - now + 1020));
  return new Date(moment).toISOString();
}

describe('s3.check', () => {
  it('reports what a bucket has, and what this store does not support is never taken for fine', async () => {
    const bucket = await testBucket({ objectLock: true });
    const context = await made(bucket, { expect: { objectLock: { mode: 'GOVERNANCE', days: 7 }, publicAccessBlocked: true } });
    const found = await runStep(s3Steps, context, 's3.check', 'guard', { datastore: 'files' });
    expect(found.facts).toMatchObject({ versioning: 'Enabled', mfaDelete: 'off', objectLock: 'on, without a default retention', publicAccess: 'not supported by this store', replication: 'not supported by this store' });
    expect(failed(found)).toEqual(['object lock: on, without a default retention', 'public access: not supported by this store']);
  });

  it('finds a bucket without versioning, and refuses to restore into it', async () => {
    const bucket = await testBucket();
    const context = await made(bucket, { expect: { publicAccessBlocked: false } });
    expect(failed(await runStep(s3Steps, context, 's3.check', 'guard', { datastore: 'files' }))).toEqual(['versioning: Off']);
    const input = { datastore: 'files', moment: new Date().toISOString() };
    expect(failed(await runStep(s3Steps, context, 's3.restorePrefix', 'guard', input))).toEqual(['versioning: Off']);
    await expect(runStep(s3Steps, context, 's3.restorePrefix', 'apply', input)).rejects.toMatchObject({ code: 's3-versioning', message: expect.stringContaining('nothing was changed') });
  });
});

describe('s3.restoreObject', () => {
  const key = 'orders/2026/ä +?&%#".txt';

  it('brings a deleted object back with metadata, tags and content headers, proves it, and loses no version', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await made(bucket, { prefix: 'orders' });
    const first = await put(bucket, key, 'the first content', { ContentType: 'text/x-order', Metadata: { owner: 'ann' }, Tagging: 'kind=order&year=2026', CacheControl: 'max-age=7', ContentDisposition: 'inline', ContentLanguage: 'de' });
    await put(bucket, key, 'overwritten');
    await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: key }));
    const before = await versionsOf(bucket);
    const input = { datastore: 'files', key, versionId: first };
    expect((await runStep(s3Steps, context, 's3.restoreObject', 'inspect', input)).satisfied).toBe(false);
    expect(failed(await runStep(s3Steps, context, 's3.restoreObject', 'guard', input))).toEqual([]);
    expect(await runStep(s3Steps, context, 's3.restoreObject', 'apply', input)).toMatchObject({ outcome: 'changed', facts: { versionId: first, replaced: null, bytes: 17 } });
    expect(await textOf(bucket, key)).toBe('the first content');
    expect(await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }))).toMatchObject({ ContentType: 'text/x-order', Metadata: { owner: 'ann' }, CacheControl: 'max-age=7', ContentDisposition: 'inline', ContentLanguage: 'de' });
    // Tags are a set: a store gives them in any order.
    expect(new Map((await client.send(new GetObjectTaggingCommand({ Bucket: bucket, Key: key }))).TagSet!.map(({ Key, Value }) => [Key, Value]))).toEqual(new Map([['kind', 'order'], ['year', '2026']]));
    expect(await versionsOf(bucket)).toEqual(expect.arrayContaining(before));
    expect(failed(await runStep(s3Steps, context, 's3.restoreObject', 'verify', input))).toEqual([]);
    // Whoever comes after a lost worker finds it done, and does not do it twice.
    const count = (await versionsOf(bucket)).length;
    expect(await runStep(s3Steps, context, 's3.restoreObject', 'inspect', input)).toMatchObject({ satisfied: true, facts: { versionId: first } });
    expect(await runStep(s3Steps, context, 's3.restoreObject', 'apply', input)).toMatchObject({ outcome: 'already-satisfied' });
    expect(await versionsOf(bucket)).toHaveLength(count);
    // The same bytes with another content type are not what it was.
    await put(bucket, key, 'the first content', { ContentType: 'text/plain' });
    expect(failed(await runStep(s3Steps, context, 's3.restoreObject', 'verify', input))).toEqual([expect.stringMatching(/content: .*contentType.*metadata/)]);
  });

  it('takes the version of a moment', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await made(bucket);
    await put(bucket, 'a', 'good');
    const moment = await nextSecond();
    await put(bucket, 'a', 'bad');
    expect(await runStep(s3Steps, context, 's3.restoreObject', 'apply', { datastore: 'files', key: 'a', moment })).toMatchObject({ outcome: 'changed' });
    expect(await textOf(bucket, 'a')).toBe('good');
    expect(failed(await runStep(s3Steps, context, 's3.restoreObject', 'guard', { datastore: 'files', key: 'a', moment: '2001-01-01T00:00:00Z' }))).toEqual([expect.stringContaining('it did not exist at that moment')]);
    expect(() => runStep(s3Steps, context, 's3.restoreObject', 'guard', { datastore: 'files', key: 'a', moment: '2026-02-31' })).toThrow('expected a time with its zone');
  });

  it('copies a large object in the parts of the original, so that it gets the same ETag', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await made(bucket);
    const place = await openBucket(context, 'files');
    const latest = async (key: string) => (await keyAtMoment(place, key, { momentMs: Date.now(), sameSecond: 'before' }))!.latest;
    const { CompleteMultipartUploadCommand, CreateMultipartUploadCommand, UploadPartCommand } = await import('@aws-sdk/client-s3');
    const body = randomBytes(16 * 1024 ** 2 + 77);
    const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key: 'big', ContentType: 'a/b', Metadata: { m: 'v' }, Tagging: 'p=q' }));
    const size = 6 * 1024 ** 2;
    const parts = await Promise.all([0, 1, 2].map(async (index) => ({ PartNumber: index + 1, ETag: (await client.send(new UploadPartCommand({ Bucket: bucket, Key: 'big', UploadId, PartNumber: index + 1, Body: body.subarray(index * size, (index + 1) * size) }))).ETag! })));
    const first = (await client.send(new CompleteMultipartUploadCommand({ Bucket: bucket, Key: 'big', UploadId, MultipartUpload: { Parts: parts } }))).VersionId!;
    await put(bucket, 'big', 'broken');
    await restoreVersion(place, 'big', first, await latest('big'), { signal, wholeBytes: 8 * 1024 ** 2 });
    const now = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: 'big' }));
    expect(now).toMatchObject({ ContentType: 'a/b', Metadata: { m: 'v' }, TagCount: 1, ContentLength: body.length, ETag: (await client.send(new HeadObjectCommand({ Bucket: bucket, Key: 'big', VersionId: first }))).ETag });
    expect(Buffer.from(await (await client.send(new GetObjectCommand({ Bucket: bucket, Key: 'big' }))).Body!.transformToByteArray()).equals(body)).toBe(true);
    // Cut otherwise, the ETag says nothing: checksum or a full read proves it.
    await restoreVersion(place, 'big', first, await latest('big'), { signal });
    const proof = await runStep(s3Steps, context, 's3.restoreObject', 'verify', { datastore: 'files', key: 'big', versionId: first });
    expect(failed(proof)).toEqual([]);
    expect(proof.facts!['proof']).toMatch(/checksum|reading/);
  });

  it('refuses what lies in an archive, with what to do, and copies it once it was restored from there', async () => {
    // moto knows storage classes and the restore of an archived object; VersityGW has neither.
    const { bucket, context, moto } = await onMoto();
    const cold = (await moto.send(new PutObjectCommand({ Bucket: bucket, Key: 'cold', Body: 'archived', StorageClass: 'GLACIER' }))).VersionId!;
    const input = { datastore: 'files', key: 'cold', versionId: cold };
    expect(failed(await runStep(s3Steps, context, 's3.restoreObject', 'guard', input))).toEqual(['readable: it lies in GLACIER']);
    await expect(restoreVersion(await openBucket(context, 'files'), 'cold', cold, undefined, { signal })).rejects.toMatchObject({ code: 's3-archived', next: expect.stringContaining('restore-object') });
    const { RestoreObjectCommand } = await import('@aws-sdk/client-s3');
    await moto.send(new RestoreObjectCommand({ Bucket: bucket, Key: 'cold', RestoreRequest: { Days: 1 } }));
    await moto.send(new PutObjectCommand({ Bucket: bucket, Key: 'cold', Body: 'bad' }));
    expect(failed(await runStep(s3Steps, context, 's3.restoreObject', 'guard', input))).toEqual([]);
    expect(await runStep(s3Steps, context, 's3.restoreObject', 'apply', input)).toMatchObject({ outcome: 'changed' });
    expect((await moto.send(new HeadObjectCommand({ Bucket: bucket, Key: 'cold' }))).StorageClass).toBe('GLACIER');
  });
});

describe('s3.restorePrefix', () => {
  it('brings a prefix back to a moment over many pages: restores, replaces, hides, leaves alone; loses no version; proves every key', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await made(bucket, { restore: { concurrency: 4, requestsPerSecond: 500 } });
    const place = await openBucket(context, 'files');
    for (let index = 0; index < 12; index += 1) {
      await put(bucket, `data/${index}`, `good ${index}`, { Metadata: { n: String(index) } });
      if (index % 3 === 0) await put(bucket, `data/${index}`, `better ${index}`, { Metadata: { n: String(index) } });
    }
    await put(bucket, 'data/gone', 'was gone');
    await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: 'data/gone' }));
    await put(bucket, 'elsewhere', 'not below the prefix');
    const moment = await nextSecond();
    const good = Object.fromEntries(await Promise.all(Array.from({ length: 12 }, async (_, index) => [`data/${index}`, await textOf(bucket, `data/${index}`)] as const)));
    for (let index = 0; index < 6; index += 1) await put(bucket, `data/${index}`, 'bad');
    for (let index = 4; index < 8; index += 1) await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: `data/${index}` }));
    await put(bucket, 'data/8', good['data/8']!, { Metadata: { n: 'changed' } });
    await put(bucket, 'data/gone', 'came again');
    await put(bucket, 'data/new', 'was not there');
    await put(bucket, 'elsewhere', 'changed');
    const before = await versionsOf(bucket);

    const momentMs = Date.parse(moment);
    const options = { momentMs, sameSecond: 'refuse' as const, signal, pageSize: 3 };
    const plan = await planPrefix(place, 'data/', options);
    expect(plan).toMatchObject({ keys: 14, existed: 12, bringBack: { count: 4 }, replace: { count: 4 }, remove: { count: 2 }, same: 3, sameContent: { count: 1, first: ['data/8'] }, sameSecond: { count: 0 }, undecided: { count: 0 } });
    // The same whatever the pages are cut to.
    for (const pageSize of [2, 5, 1000]) expect(await planPrefix(place, 'data/', { ...options, pageSize })).toEqual(plan);

    const input = { datastore: 'files', prefix: 'data/', moment };
    const planned = await runStep(s3Steps, context, 's3.planPrefix', 'verify', input);
    expect(planned.facts).toMatchObject({ keys: 14, bringBack: 4, replace: 4, remove: 2, unchanged: 4 });
    expect(await runStep(s3Steps, context, 's3.restorePrefix', 'inspect', input)).toMatchObject({ satisfied: false });
    expect(failed(await runStep(s3Steps, context, 's3.restorePrefix', 'verify', input))).toHaveLength(1);
    const applied = await runStep(s3Steps, context, 's3.restorePrefix', 'apply', input);
    expect(applied).toMatchObject({ outcome: 'changed', facts: { restored: 9, removed: 2 } });

    for (const [key, text] of Object.entries(good)) expect({ key, text: await textOf(bucket, key) }).toEqual({ key, text });
    expect((await client.send(new HeadObjectCommand({ Bucket: bucket, Key: 'data/8' }))).Metadata).toEqual({ n: '8' });
    expect([await textOf(bucket, 'data/gone'), await textOf(bucket, 'data/new'), await textOf(bucket, 'elsewhere')]).toEqual([undefined, undefined, 'changed']);
    expect(await versionsOf(bucket)).toEqual(expect.arrayContaining(before));

    const proved = await runStep(s3Steps, context, 's3.restorePrefix', 'verify', input);
    expect(failed(proved)).toEqual([]);
    expect(proved.facts).toMatchObject({ keys: 14, right: 12, gone: 2 });
    // Found done by whoever comes after a lost worker; nothing is written twice.
    const count = (await versionsOf(bucket)).length;
    expect(await runStep(s3Steps, context, 's3.restorePrefix', 'inspect', input)).toMatchObject({ satisfied: true });
    expect(await runStep(s3Steps, context, 's3.restorePrefix', 'apply', input)).toMatchObject({ outcome: 'already-satisfied', facts: { restored: 0, removed: 0 } });
    expect(await versionsOf(bucket)).toHaveLength(count);

    // A writer that goes on is found by the verification, with the key's name.
    await put(bucket, 'data/3', 'written meanwhile');
    await put(bucket, 'data/late', 'written meanwhile');
    const disturbed = await runStep(s3Steps, context, 's3.restorePrefix', 'verify', input);
    expect(failed(disturbed)).toEqual([expect.stringMatching(/data\/3: version .* differs in content.*data\/late: it did not exist then/)]);
  });

  it('begins nothing when the moment cannot be decided, or when nothing existed then', async () => {
    const { bucket, context, moto } = await onMoto();
    await moto.send(new PutObjectCommand({ Bucket: bucket, Key: 'a', Body: '1' }));
    const stamped = (await moto.send(new HeadObjectCommand({ Bucket: bucket, Key: 'a' }))).LastModified!.getTime();
    const within = new Date(stamped + 400).toISOString();
    await nextSecond();
    await moto.send(new PutObjectCommand({ Bucket: bucket, Key: 'a', Body: '2' }));
    const count = (await versionsOf(bucket, '', moto)).length;
    await expect(runStep(s3Steps, context, 's3.restorePrefix', 'apply', { datastore: 'files', moment: within })).rejects.toMatchObject({ code: 's3-plan', message: expect.stringContaining('within the second') });
    await expect(runStep(s3Steps, context, 's3.restorePrefix', 'apply', { datastore: 'files', moment: within, sameSecond: 'after' })).rejects.toMatchObject({ code: 's3-plan', message: expect.stringContaining('nothing existed') });
    await expect(runStep(s3Steps, context, 's3.restorePrefix', 'apply', { datastore: 'files', moment: '2020-01-01T00:00:00Z' })).rejects.toMatchObject({ code: 's3-plan', message: expect.stringContaining('nothing existed') });
    expect(await versionsOf(bucket, '', moto)).toHaveLength(count);
    expect(failed(await runStep(s3Steps, context, 's3.restorePrefix', 'guard', { datastore: 'files', moment: '2999-01-01T00:00:00Z' }))).toEqual(['moment: 2999-01-01T00:00:00.000Z']);
    expect(await runStep(s3Steps, context, 's3.restorePrefix', 'apply', { datastore: 'files', moment: within, sameSecond: 'before' })).toMatchObject({ outcome: 'changed' });
    expect(await textOf(bucket, 'a', moto)).toBe('1');
    // The same for one object.
    await expect(runStep(s3Steps, context, 's3.restoreObject', 'apply', { datastore: 'files', key: 'a', moment: within })).rejects.toMatchObject({ code: 's3-undecided' });
  });

  it('finds out that a store stamps versions anew, and begins nothing by such stamps', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await made(bucket, { versionTime: 'stamp' });
    const [place, good] = [await openBucket(context, 'files'), await put(bucket, 'a', 'good')];
    await nextSecond();
    await put(bucket, 'a', 'bad');
    // Twelve seconds later the id and the stamp of the old version are that far apart: shown on a clock that is moved, not waited for.
    const { entryTime, ulidMs } = await import('../../src/model/s3-versions.ts');
    expect(Math.abs(Date.now() - ulidMs(good)!)).toBeLessThan(60_000);
    expect(entryTime(good, ulidMs(good)! + 12_000, 'stamp').restamped).toBe(true);
    const stamp = (await client.send(new HeadObjectCommand({ Bucket: bucket, Key: 'a', VersionId: good }))).LastModified!.getTime();
    expect(stamp - ulidMs(good)!).toBeGreaterThan(1000);
    const plan = await planPrefix(place, '', { momentMs: Date.now(), sameSecond: 'before', signal });
    expect(planRefusal({ ...plan, restamped: { count: 1, first: ['a'] } }, place, '', { momentMs: 0, sameSecond: 'before', archived: 'refuse' })!.next).toContain('versionTime: ulid');
  });

  it('asks the store for the order of a version and a delete marker of the same second', async () => {
    const { bucket, context, moto } = await onMoto();
    const place = await openBucket(context, 'files');
    const write = (Key: string, Body: string): Promise<unknown> => moto.send(new PutObjectCommand({ Bucket: bucket, Key, Body }));
    // Within one second: written, deleted, written; written, deleted.
    await nextSecond();
    await write('there', '1');
    await moto.send(new DeleteObjectCommand({ Bucket: bucket, Key: 'there' }));
    await write('there', '2');
    await write('gone', '1');
    await moto.send(new DeleteObjectCommand({ Bucket: bucket, Key: 'gone' }));
    const moment = await nextSecond();
    // So that neither is the latest any more.
    await write('there', '3');
    await write('gone', '3');
    const stamps = (await moto.send(new ListObjectVersionsCommand({ Bucket: bucket, Prefix: 'gone' })));
    expect(stamps.DeleteMarkers![0]!.LastModified!.getTime()).toBe(Math.floor(stamps.DeleteMarkers![0]!.LastModified!.getTime() / 1000) * 1000);
    const found: Record<string, string> = {};
    for await (const state of keysAtMoment(place, '', { momentMs: Date.parse(moment), sameSecond: 'refuse' })) found[state.key] = state.unordered !== undefined ? 'undecided' : state.was?.marker === true ? 'gone' : 'there';
    expect(found).toEqual({ there: 'there', gone: 'gone' });
  });

  it('ends at the first error of the store without hanging, and an abort ends it', async () => {
    const bucket = await testBucket({ versioning: true });
    const context = await made(bucket);
    const place = await openBucket(context, 'files');
    for (let index = 0; index < 5; index += 1) await put(bucket, `k${index}`, 'good');
    const moment = await nextSecond();
    for (let index = 0; index < 5; index += 1) await put(bucket, `k${index}`, 'bad');
    const controller = new AbortController();
    const options = { momentMs: Date.parse(moment), sameSecond: 'refuse' as const, concurrency: 1, requestsPerSecond: 1000, signal: controller.signal };
    await expect(restorePrefix(place, '', { ...options, onProgress: ({ restored }) => (restored === 2 ? controller.abort(new Error('enough')) : undefined) })).rejects.toThrow('enough');
    // Half of it is done; whoever comes next does the rest.
    const rest = await restorePrefix(place, '', { ...options, signal });
    expect(rest).toMatchObject({ restored: 3, unchanged: 2 });
    expect(await provePrefix(place, '', { ...options, signal, sinceMs: 0 })).toMatchObject({ right: 5, wrong: { count: 0 } });
  });

  it('takes no condition for kept where the store refuses it, and does not overwrite where it keeps it', async () => {
    // S3 answers a condition on a copy with 412 when somebody else wrote; stores that do not have it with 501. Neither VersityGW nor moto
    // does either on a copy: a proxy gives the documented answers.
    const bucket = await testBucket({ versioning: true });
    const seen: string[] = [];
    let answer: 412 | 501 = 501;
    const server = createServer((request, response) => {
      const copy = request.headers['x-amz-copy-source'] !== undefined;
      const conditional = request.headers['if-match'] ?? request.headers['if-none-match'];
      if (copy) seen.push(conditional === undefined ? 'plain' : 'conditional');
      if (copy && conditional !== undefined) {
        request.resume();
        response.writeHead(answer, { 'content-type': 'application/xml' }).end(`<?xml version="1.0"?><Error><Code>${answer === 412 ? 'PreconditionFailed' : 'NotImplemented'}</Code><Message>x</Message></Error>`);
        return;
      }
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        void (async () => {
          const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => !['connection', 'content-length', 'transfer-encoding', 'expect'].includes(name)).map(([name, value]) => [name, String(value)]));
          const { request: send } = await import('node:http');
          const target = new URL(suite().s3.endpoint);
          const upstream = send({ host: target.hostname, port: target.port, method: request.method, path: request.url, headers: { ...headers, host: request.headers.host!, ...(chunks.length > 0 ? { 'content-length': String(Buffer.concat(chunks).length) } : {}) } }, (back) => {
            response.writeHead(back.statusCode!, back.headers);
            back.pipe(response);
          });
          upstream.end(Buffer.concat(chunks));
        })();
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const good = await put(bucket, 'a', 'good');
      await put(bucket, 'a', 'bad');
      const context = await made(bucket, {}, endpoint);
      expect(await runStep(s3Steps, context, 's3.restoreObject', 'apply', { datastore: 'files', key: 'a', versionId: good })).toMatchObject({ outcome: 'changed' });
      expect(seen).toEqual(['conditional', 'plain']);
      expect(await textOf(bucket, 'a')).toBe('good');
      answer = 412;
      await put(bucket, 'a', 'of somebody else');
      const another = await made(bucket, {}, endpoint);
      await expect(runStep(s3Steps, another, 's3.restoreObject', 'apply', { datastore: 'files', key: 'a', versionId: good })).rejects.toMatchObject({ code: 's3-overtaken', retryable: true });
      expect(await textOf(bucket, 'a')).toBe('of somebody else');
    } finally {
      server.close();
      server.closeAllConnections();
    }
  });
});
