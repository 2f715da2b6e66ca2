import { createHash } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import { CreateBackupCommand, CreateTableCommand, DeleteTableCommand, DescribeTableCommand, DynamoDBClient, ListBackupsCommand, ListExportsCommand, UpdateContinuousBackupsCommand, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb';
import { GetObjectCommand, ListObjectsV2Command, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { dynamodbCopySteps } from '../../activities/dynamodb-copy.ts';
import { dynamodbMomentSteps } from '../../activities/dynamodb-moment.ts';
import { s3Client } from '../../src/local/stack.ts';
import { createBucket } from '../../src/local/versity.ts';
import type { Item } from '../../src/model/dynamodb-item.ts';
import type { DynamodbManifest } from '../../src/model/manifest-dynamodb.ts';
import { backupFolder } from '../../src/model/manifest.ts';
import { listBackups, readManifest, storeNameOf } from '../../src/systems/backup-catalogue.ts';
import { runRetention } from '../../src/systems/backup-retention.ts';
import type { Context } from '../../src/systems/context.ts';
import { backupSources } from '../../src/systems/dynamodb-import.ts';
import { dynamodbEngine } from '../../src/systems/dynamodb-engine.ts';
import { createWireClient } from '../../src/systems/dynamodb-wire.ts';
import { openStore } from '../../src/systems/store.ts';
import { awsProxy, type AwsProxy, type Verdict } from '../aws-proxy.ts';
import { asCaller } from '../aws-calls.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

// DynamoDB Local knows none of this, so moto stands for the service. It takes exports, backups and restores; what it leaves out is said where
// it matters: an export of it has a data file and no manifests, and a restore to a moment restores what is there now.

let s3: S3Client;
let proxy: AwsProxy;
let client: DynamoDBClient;
let items: DynamoDBClient;
let context: Context;
let bucket: string;
let table: string;
const signal = new AbortController().signal;

beforeAll(async () => {
  const { aws } = suite();
  const config = { region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } };
  s3 = s3Client(aws);
  client = new DynamoDBClient(config);
  items = createWireClient(config);
  proxy = await awsProxy(aws.endpoint);
});

afterAll(async () => {
  s3?.destroy();
  client?.destroy();
  items?.destroy();
  await proxy?.close();
});

beforeEach(async () => {
  const { aws } = suite();
  bucket = uniqueName('exports');
  table = uniqueName('orders');
  await createBucket(aws, bucket, {});
  await client.send(new CreateTableCommand({ TableName: table, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }], Tags: [{ Key: 'team', Value: 'orders' }] }));
  await client.send(new UpdateContinuousBackupsCommand({ TableName: table, PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true } }));
  await client.send(new UpdateTimeToLiveCommand({ TableName: table, TimeToLiveSpecification: { Enabled: true, AttributeName: 'until' } }));
  await put(50);
});

afterEach(async () => {
  proxy.clear();
  context?.close();
  await client.send(new DeleteTableCommand({ TableName: table })).catch(() => {});
});

async function put(count: number): Promise<void> {
  const { BatchWriteItemCommand } = await import('@aws-sdk/client-dynamodb');
  const all = Array.from({ length: count }, (_, at): Item => ({ id: { S: `order-${at}` }, n: { N: String(at) } }));
  for (let from = 0; from < count; from += 25) await items.send(new BatchWriteItemCommand({ RequestItems: { [table]: all.slice(from, from + 25).map((Item) => ({ PutRequest: { Item: Item as never } })) } }));
}

async function configured(method: 'export' | 'on-demand'): Promise<void> {
  const credentials = { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' };
  context = await testConfig({
    stores: { main: { type: 's3', bucket, endpoint: suite().aws.endpoint, region: suite().aws.region, forcePathStyle: true, credentials } },
    datastores: { items: { engine: 'dynamodb', tables: [table], store: 'main', endpoint: proxy.url, region: suite().aws.region, credentials, backup: { method, pollEvery: '50ms' }, drill: { writeShare: 1, drift: false }, retention: { last: 1 } } },
  });
}

let startedAtMs = Date.parse('2026-11-20T03:00:00Z');

/** As the workflow calls it, with a folder and an id of its own. */
async function backUp(attempt = 1, id = uniqueName('id').replaceAll('-', '')): Promise<{ id: string; location: string; manifest: DynamodbManifest }> {
  const location = backupFolder('', 'items', startedAtMs, id);
  await asCaller({ activity: 'runBackup' }, () => dynamodbEngine.backUp(context, { datastore: 'items', id, location, reason: 'test', workflowId: 'backup/items', runId: 'r', attempt }, { signal }));
  return { id, location, manifest: (await readManifest(await openStore(context, 'main'), location)) as DynamodbManifest };
}

async function keys(prefix: string): Promise<string[]> {
  return ((await s3.send(new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix }))).Contents ?? []).map(({ Key }) => Key!);
}

/**
 * The manifests that the service writes beside the data, in its documented layout; moto writes only the data. They are written when the
 * export is asked for, as soon as its data is there.
 */
function writesManifests(damage: { md5?: boolean; items?: number; truncated?: boolean } = {}): void {
  const written = new Set<string>();
  proxy.rule(async ({ target, body }): Promise<Verdict> => {
    if (!target.endsWith('.DescribeExport')) return undefined;
    const { ExportArn: arn } = JSON.parse(body) as { ExportArn: string };
    if (written.has(arn)) return undefined;
    const exportId = arn.slice(arn.lastIndexOf('/') + 1);
    const data = (await keys('')).filter((key) => key.endsWith('.gz'));
    for (const key of data) {
      const prefix = key.slice(0, key.indexOf('/AWSDynamoDB/'));
      const stored = Buffer.from(await (await s3.send(new GetObjectCommand({ Bucket: bucket, Key: key }))).Body!.transformToByteArray());
      if (stored.length === 0) return undefined;
      const count = gunzipSync(stored).toString('utf8').split('\n').filter((line) => line !== '').length;
      const folder = `${prefix}/AWSDynamoDB/${exportId}/`;
      const files = `${JSON.stringify({ itemCount: count, md5Checksum: createHash('md5').update(damage.md5 === true ? 'other' : stored).digest('base64'), etag: 'x-1', dataFileS3Key: key })}\n`;
      const tableArn = (await client.send(new DescribeTableCommand({ TableName: table }))).Table!.TableArn;
      const summary = JSON.stringify({ version: '2020-06-30', exportArn: arn, startTime: '2026-11-21T03:00:00Z', endTime: '2026-11-21T03:01:00Z', tableArn, tableId: 'x', exportTime: '2026-11-21T03:00:00Z', s3Bucket: bucket, s3Prefix: prefix, s3SseAlgorithm: 'AES256', s3SseKmsKeyId: null, manifestFilesS3Key: `${folder}manifest-files.json`, billedSizeBytes: 0, itemCount: count + (damage.items ?? 0), outputFormat: 'DYNAMODB_JSON' });
      for (const [name, text] of [['manifest-files', files], ['manifest-summary', summary]] as const) {
        await s3.send(new PutObjectCommand({ Bucket: bucket, Key: `${folder}${name}.json`, Body: text }));
        await s3.send(new PutObjectCommand({ Bucket: bucket, Key: `${folder}${name}.md5`, Body: createHash('md5').update(text).digest('base64') }));
      }
      written.add(arn);
      if (damage.truncated === true) await s3.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: stored.subarray(0, stored.length - 20) }));
    }
    // moto says COMPLETED with its own count, which is what the service does as well.
    return undefined;
  });
}

describe("a backup by the service's own export to S3", () => {
  it('is begun once although the answer was lost, proved file by file, read back, and restored by a drill', async () => {
    await configured('export');
    writesManifests();
    let lost = 0;
    proxy.rule(({ target }) => (target.endsWith('.ExportTableToPointInTime') && (lost += 1) === 1 ? { cut: true } : undefined));
    const { location, manifest } = await backUp();
    expect(lost).toBe(1);
    expect((await client.send(new ListExportsCommand({ TableArn: manifest.tables[0]!.arn }))).ExportSummaries).toHaveLength(1);
    expect(manifest).toMatchObject({ source: { method: 'export', consistency: 'point-in-time' }, fingerprint: { tables: [{ name: table, items: 50 }] }, tables: [{ settings: { timeToLive: 'until' } }] });
    expect(manifest.objects.filter(({ role }) => role === 'data')).toHaveLength(1);
    expect(await dynamodbEngine.readBack(context, { storeName: storeNameOf(context, 'items'), location, manifest }, {})).toMatchObject({ how: expect.stringContaining('50 items') });
    const call = { datastore: 'items', service: null, workflowId: 'drill/items', runId: uniqueName('run'), storeName: 'main', location, targetName: uniqueName('drill') };
    const options = { signal, onProgress: () => {} };
    await dynamodbEngine.drill.start(context, call, manifest, options);
    expect(await dynamodbEngine.drill.restore(context, call, manifest, options)).toMatchObject({ bad: null });
    expect(await dynamodbEngine.drill.prove(context, call, manifest, options)).toMatchObject({ exact: true, differences: [], compared: { rows: '50' } });
    expect(await dynamodbEngine.drill.destroy(context, call)).toEqual({ existed: true });
  });

  it('goes on with the export that a lost worker had begun', async () => {
    await configured('export');
    const ended = new AbortController();
    proxy.rule(({ target }) => {
      if (target.endsWith('.DescribeExport')) ended.abort(new Error('the worker was lost'));
      return undefined;
    });
    const id = 'same0000';
    const location = backupFolder('', 'items', startedAtMs, id);
    const request = { datastore: 'items', id, location, reason: 'test', workflowId: 'backup/items', runId: 'r' };
    await expect(dynamodbEngine.backUp(context, request, { signal: ended.signal })).rejects.toThrow('the worker was lost');
    proxy.clear();
    writesManifests();
    await backUp(2, id);
    const arn = (await client.send(new DescribeTableCommand({ TableName: table }))).Table!.TableArn;
    expect((await client.send(new ListExportsCommand({ TableArn: arn }))).ExportSummaries).toHaveLength(1);
  });

  it.each([
    ['an MD5 that is not that of the file', { md5: true }, 'MD5'],
    ['a count that its files do not hold', { items: 1 }, '51 items'],
    ['a file that was cut off', { truncated: true }, 'cannot be unpacked'],
  ])('is not committed with %s', async (_, damage, words) => {
    await configured('export');
    writesManifests(damage);
    await expect(backUp()).rejects.toMatchObject({ code: 'export-damaged', message: expect.stringContaining(words) });
    expect((await keys('')).filter((key) => key.endsWith('COMMIT'))).toEqual([]);
  });

  it('is refused before it begins without point-in-time recovery', async () => {
    await configured('export');
    await client.send(new UpdateContinuousBackupsCommand({ TableName: table, PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: false } }));
    await expect(backUp()).rejects.toMatchObject({ code: 'export-refused', message: expect.stringContaining('is off') });
    expect((await keys('')).filter((key) => key.endsWith('.gz'))).toEqual([]);
  });
});

async function ours(): Promise<string[]> {
  return ((await client.send(new ListBackupsCommand({ TableName: table }))).BackupSummaries ?? []).map(({ BackupName }) => BackupName!).sort();
}

describe('on-demand backups', () => {
  it('are begun once although the answer was lost, drilled, and deleted by the same retention; what is not ours stays', async () => {
    await configured('on-demand');
    await client.send(new CreateBackupCommand({ TableName: table, BackupName: 'before-the-release' }));
    let lost = 0;
    proxy.rule(({ target }) => (target.endsWith('.CreateBackup') && (lost += 1) === 1 ? { cut: true } : undefined));
    const first = await backUp();
    expect(lost).toBe(1);
    expect(await ours()).toEqual(['before-the-release', `holdfast-items-${first.id}`]);
    expect(first.manifest).toMatchObject({ objects: [], managed: { kind: 'dynamodb-on-demand', backups: [{ table, name: `holdfast-items-${first.id}` }] } });
    expect(await dynamodbEngine.readBack(context, { storeName: 'main', location: first.location, manifest: first.manifest }, {})).toMatchObject({ how: expect.stringContaining('available') });

    // Importing its files, of which there are none, would leave an empty table that looks restored.
    expect(() => backupSources(context, { storeName: 'main', location: first.location, manifest: first.manifest })).toThrow('kept by the service itself');
    const call = { datastore: 'items', service: null, workflowId: 'drill/items', runId: uniqueName('run'), storeName: 'main', location: first.location, targetName: uniqueName('drill') };
    const options = { signal, onProgress: () => {} };
    await dynamodbEngine.drill.start(context, call, first.manifest, options);
    expect(await dynamodbEngine.drill.restore(context, call, first.manifest, options)).toMatchObject({ bad: null });
    const proof = await dynamodbEngine.drill.prove(context, call, first.manifest, options);
    // What it holds cannot be known without a reading at the time: said, not claimed.
    expect(proof).toMatchObject({ exact: false, differences: [], notes: [expect.stringContaining('50 items'), expect.anything()], unproved: [expect.stringContaining('content')] });
    expect(await dynamodbEngine.drill.destroy(context, call)).toEqual({ existed: true });

    startedAtMs += 86_400_000;
    const second = await backUp();
    const store = await openStore(context, 'main');
    expect(await listBackups(store, store.prefix, 'items', { nowMs: Date.now() })).toHaveLength(2);
    // Retention keeps a proved one: this one is marked as a drill would.
    const { writeMark } = await import('../../src/systems/backup-catalogue.ts');
    await writeMark(store, second.location, { mark: 'verified', at: new Date().toISOString(), by: 'test', reason: 'test' }, 'verified-test');
    const kept = await asCaller({ activity: 'applyRetention' }, () => runRetention(context, { datastore: 'items', apply: true, nowMs: Date.now() }));
    expect(kept.deleted).toEqual([first.id]);
    expect(await ours()).toEqual(['before-the-release', `holdfast-items-${second.id}`]);
    expect(await keys(first.location)).toEqual([]);
  });

  it('of a run that gave up are removed; those of a person and of a committed backup are not', async () => {
    await configured('on-demand');
    await client.send(new CreateBackupCommand({ TableName: table, BackupName: 'holdfast-items-of-somebody' }));
    const committed = await backUp();
    await expect(asCaller({ activity: 'runBackup' }, () => dynamodbEngine.backUp(context, { datastore: 'items', id: 'gone0000', location: backupFolder('', 'items', startedAtMs + 1000, 'gone0000'), reason: 'test', workflowId: 'w', runId: 'r' }, { signal, mayCommit: () => Promise.reject(new Error('preempted')) }))).rejects.toThrow('preempted');
    expect(await ours()).toContain('holdfast-items-gone0000');
    expect(await asCaller({ activity: 'settleBackup' }, () => dynamodbEngine.endSessions(context, 'items', [committed.id, 'gone0000']))).toBe(1);
    expect(await ours()).toEqual(['holdfast-items-of-somebody', `holdfast-items-${committed.id}`].sort());
  });

  it('are not deleted when the manifest names what does not carry our name', async () => {
    await configured('on-demand');
    const { BackupDetails } = await client.send(new CreateBackupCommand({ TableName: table, BackupName: 'before-the-release' }));
    const { manifest } = await backUp();
    const forged: DynamodbManifest = { ...manifest, managed: { ...manifest.managed!, backups: [{ ...manifest.managed!.backups[0]!, arn: BackupDetails!.BackupArn! }] } };
    expect(await dynamodbEngine.outside!.mayDelete(context, forged)).toContain('before-the-release');
    await expect(dynamodbEngine.outside!.delete(context, forged)).rejects.toMatchObject({ code: 'on-demand-left' });
    expect(await ours()).toContain('before-the-release');
  });
});

describe('a table restored to a moment', () => {
  const moment = (uses: string, phase: 'inspect' | 'guard' | 'apply' | 'verify' | 'undo', input: Record<string, unknown>, call: Parameters<typeof runStep>[5] = {}) => runStep(dynamodbMomentSteps, context, uses, phase, { datastore: 'items', ...input }, call);

  it('is made beside it although the answer was lost, read, given its settings, and removed; the table itself is as it was', async () => {
    await configured('export');
    const as = `holdfast-moment-${table}`;
    const wanted = { table, as, poll: '50ms' };
    expect((await moment('dynamodb.restoreToMoment', 'guard', wanted)).checks!.every(({ ok }) => ok)).toBe(true);
    let lost = 0;
    proxy.rule(({ target }) => (target.endsWith('.RestoreTableToPointInTime') && (lost += 1) === 1 ? { cut: true } : undefined));
    expect(await moment('dynamodb.restoreToMoment', 'apply', wanted)).toMatchObject({ outcome: 'changed', facts: { table: as } });
    expect(lost).toBeGreaterThan(0);
    expect(await moment('dynamodb.restoreToMoment', 'verify', wanted)).toMatchObject({ checks: [{ ok: true }], facts: { items: 50 } });
    // The table is read once and goes: it needs none of the source's capacity, whatever moto makes of that.
    expect(JSON.parse(proxy.seen.find(({ target }) => target.endsWith('.RestoreTableToPointInTime'))!.body)).toMatchObject({ BillingModeOverride: 'PAY_PER_REQUEST' });
    // Repeated by another worker: it is known for its own.
    expect(await moment('dynamodb.restoreToMoment', 'apply', wanted)).toMatchObject({ facts: { table: as } });

    const settings = (phase: 'inspect' | 'apply' | 'verify') => runStep(dynamodbCopySteps, context, 'dynamodb.settings', phase, { source: 'items', table, datastore: 'items', targetTable: as });
    expect((await settings('inspect')).summary).toBe('missing: time to live by until, tags team, point-in-time recovery');
    expect((await settings('apply')).outcome).toBe('changed');
    expect((await settings('verify')).checks).toEqual([expect.objectContaining({ ok: true })]);
    expect((await settings('inspect')).satisfied).toBe(true);

    expect((await moment('dynamodb.removeRestored', 'guard', { as: table })).checks).toEqual([expect.objectContaining({ ok: false })]);
    await expect(moment('dynamodb.removeRestored', 'apply', { as: table })).rejects.toMatchObject({ code: 'not-a-drill' });
    expect((await moment('dynamodb.removeRestored', 'apply', { as })).outcome).toBe('changed');
    expect((await moment('dynamodb.removeRestored', 'verify', { as })).checks).toEqual([expect.objectContaining({ ok: true })]);
    expect((await client.send(new DescribeTableCommand({ TableName: table }))).Table!.TableStatus).toBe('ACTIVE');
  });

  it('of a run before this is not taken for the newest moment', async () => {
    await configured('export');
    const as = `holdfast-moment-${table}`;
    const wanted = { table, as, poll: '50ms' };
    const startedAtMs = Date.now();
    expect(await moment('dynamodb.restoreToMoment', 'apply', wanted)).toMatchObject({ facts: { table: as } });
    // As if it had been made an hour ago.
    const ago = (ms: number) => proxy.rule(({ target, body }) => (target.endsWith('.DescribeTable') && (JSON.parse(body) as { TableName: string }).TableName === as ? { rewrite: (text) => JSON.stringify(JSON.parse(text, (key, value: unknown) => (key === 'CreationDateTime' || key === 'RestoreDateTime' ? (value as number) - ms / 1000 : value))) } : undefined));
    ago(3_600_000);
    expect((await moment('dynamodb.restoreToMoment', 'guard', wanted)).checks!.find(({ name }) => name === 'new table')).toMatchObject({ ok: false, found: expect.stringContaining('before this was asked for') });
    await expect(moment('dynamodb.restoreToMoment', 'apply', wanted)).rejects.toMatchObject({ code: 'restore-target' });
    // A run that began before it goes on with it, however long ago that is.
    const earlier = { previousDetails: { startedAtMs: startedAtMs - 3_600_000 } };
    expect((await moment('dynamodb.restoreToMoment', 'guard', wanted, earlier)).checks!.every(({ ok }) => ok)).toBe(true);
    expect(await moment('dynamodb.restoreToMoment', 'apply', wanted, earlier)).toMatchObject({ facts: { table: as } });
    proxy.clear();
    await moment('dynamodb.removeRestored', 'apply', { as });
  });

  it('is refused over a table that is there, and without point-in-time recovery', async () => {
    await configured('export');
    const other = uniqueName('holdfast-moment-theirs');
    await client.send(new CreateTableCommand({ TableName: other, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }] }));
    expect((await moment('dynamodb.restoreToMoment', 'guard', { table, as: other })).checks!.filter(({ ok }) => !ok).map(({ name }) => name)).toEqual(['new table']);
    await expect(moment('dynamodb.restoreToMoment', 'apply', { table, as: other, poll: '50ms' })).rejects.toMatchObject({ code: 'restore-target' });
    await expect(moment('dynamodb.removeRestored', 'apply', { as: other })).rejects.toMatchObject({ code: 'not-a-drill' });
    await client.send(new UpdateContinuousBackupsCommand({ TableName: table, PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: false } }));
    expect((await moment('dynamodb.restoreToMoment', 'guard', { table, as: `${other}-2` })).checks!.filter(({ ok }) => !ok).map(({ name }) => name)).toEqual(['point-in-time recovery']);
    await client.send(new DeleteTableCommand({ TableName: other }));
  });

  it('shows by the marker which moment it is of: a later one is found out', async () => {
    await configured('export');
    const as = `holdfast-moment-${table}`;
    const made = (await moment('dynamodb.marker', 'apply', { table, apart: '1ms' })).facts as { key: Item; before: string; after: string; moment: string };
    expect(made.before).not.toBe(made.after);
    // moto restores what is there now, whatever moment is asked for: a service that did would be found out.
    await moment('dynamodb.restoreToMoment', 'apply', { table, as, poll: '50ms' });
    const asked = { table, as, markerKey: made.key, markerBefore: made.before, markerAfter: made.after };
    expect((await moment('dynamodb.restoreToMoment', 'verify', asked)).checks!.find(({ name }) => name === 'marker')).toMatchObject({ ok: false, found: expect.stringContaining('later moment') });
    // The other way round it is of the moment: what is there now is what was written last.
    expect((await moment('dynamodb.restoreToMoment', 'verify', { ...asked, markerBefore: made.after, markerAfter: made.before })).checks!.find(({ name }) => name === 'marker')).toMatchObject({ ok: true });
    expect((await moment('dynamodb.removeMarker', 'apply', { table, key: made.key })).outcome).toBe('changed');
    expect((await moment('dynamodb.removeMarker', 'inspect', { table, key: made.key })).satisfied).toBe(true);
    // An item of a person is neither read as a marker nor deleted.
    await expect(moment('dynamodb.removeMarker', 'apply', { table, key: { id: { S: 'order-1' } } })).rejects.toThrow(/conditional|ConditionalCheckFailed/i);
    await moment('dynamodb.removeRestored', 'apply', { as });
  });
});

it('nothing of an export is left behind under another prefix', async () => {
  await configured('export');
  writesManifests();
  const { location } = await backUp();
  expect((await keys('')).filter((key) => !key.startsWith(location))).toEqual([]);
});
