import { CreateBackupCommand, CreateTableCommand, DeleteBackupCommand, DeleteTableCommand, DescribeTableCommand, DescribeTimeToLiveCommand, DynamoDBClient, ListBackupsCommand, ListTablesCommand, RestoreTableFromBackupCommand, UpdateTimeToLiveCommand, type TableDescription } from '@aws-sdk/client-dynamodb';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createBackupActivities, type BackupPlan } from '../../activities/backup.ts';
import { createDrillActivities } from '../../activities/drill.ts';
import type { Io } from '../../src/cli/io.ts';
import { openTarget, restoreTables } from '../../src/cli/restore-dynamodb.ts';
import type { BackupResult } from '../../src/model/api.ts';
import type { ServiceCheck } from '../../src/model/config-schema.ts';
import type { Item } from '../../src/model/dynamodb-item.ts';
import { backupFolder } from '../../src/model/manifest.ts';
import type { DynamodbManifest } from '../../src/model/manifest-dynamodb.ts';
import { readManifest, removeMark, writeMark } from '../../src/systems/backup-catalogue.ts';
import type { DrillCall } from '../../src/systems/backup-engine.ts';
import type { Context } from '../../src/systems/context.ts';
import { drillTable } from '../../src/systems/dynamodb-drill.ts';
import { dynamodbEngine } from '../../src/systems/dynamodb-engine.ts';
import { backupSources } from '../../src/systems/dynamodb-import.ts';
import { applySettings, readSettings } from '../../src/systems/dynamodb-settings.ts';
import { describeTable } from '../../src/systems/dynamodb.ts';
import { openStore } from '../../src/systems/store.ts';
import { awsProxy, type AwsProxy, type Verdict } from '../aws-proxy.ts';
import { asCaller } from '../aws-calls.ts';
import { suite, testConfig, uniqueName, type ConfigOverrides } from '../support.ts';

// moto stands for the service, which keeps tags and on-demand backups; faults are answers put in between.

let proxy: AwsProxy;
let client: DynamoDBClient;
let context: Context;
let table: string;
const signal = new AbortController().signal;
const options = { signal, onProgress: () => {} };

beforeAll(async () => {
  const { aws } = suite();
  client = new DynamoDBClient({ region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
  proxy = await awsProxy(aws.endpoint);
});

afterAll(async () => {
  client?.destroy();
  await proxy?.close();
});

beforeEach(async () => {
  table = uniqueName('orders');
  await create(table);
  await put(table, 20);
});

afterEach(async () => {
  proxy.clear();
  context?.close();
  for (const name of ((await client.send(new ListTablesCommand({}))).TableNames ?? []).filter((one) => one.endsWith(table))) await client.send(new DeleteTableCommand({ TableName: name }));
});

async function create(name: string): Promise<void> {
  await client.send(new CreateTableCommand({ TableName: name, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }] }));
}

async function put(name: string, count: number): Promise<void> {
  const { BatchWriteItemCommand } = await import('@aws-sdk/client-dynamodb');
  const items = Array.from({ length: count }, (_, at): Item => ({ id: { S: `order-${at}` }, n: { N: String(at) } }));
  await client.send(new BatchWriteItemCommand({ RequestItems: { [name]: items.map((Item) => ({ PutRequest: { Item: Item as never } })) } }));
}

async function configured(method: 'scan' | 'on-demand', drill: ConfigOverrides = {}): Promise<void> {
  const credentials = { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' };
  context = await testConfig({ datastores: { items: { engine: 'dynamodb', tables: [table], store: 'main', endpoint: proxy.url, region: suite().aws.region, credentials, backup: { method, pollEvery: '50ms', segments: 1, readShare: 1 }, drill } } });
}

const startedAtMs = Date.parse('2026-11-20T03:00:00Z');
const planOf = (id: string): BackupPlan => ({ datastore: 'items', reason: 'test', environment: 'test', baseId: id, startedAtMs, timeoutMs: 60_000, store: 'main', retention: false });

function runBackup(plan: BackupPlan, attempt: number): Promise<BackupResult> {
  return new MockActivityEnvironment({ attempt }).run(createBackupActivities(context).runBackup, plan);
}

async function backUp(): Promise<{ location: string; manifest: DynamodbManifest }> {
  const { location } = await runBackup(planOf(uniqueName('id').replaceAll(/[^a-z0-9]/g, '')), 1);
  return { location, manifest: (await readManifest(await openStore(context, 'main'), location)) as DynamodbManifest };
}

function callOf(location: string, run = uniqueName('run')): DrillCall {
  return { datastore: 'items', service: null, workflowId: 'drill/items', runId: run, storeName: 'main', location, targetName: `items-${Buffer.from(run).toString('hex').slice(-12)}` };
}

const tables = async (): Promise<string[]> => ((await client.send(new ListTablesCommand({}))).TableNames ?? []).filter((name) => name.endsWith(table) && name !== table);
const described = async (name: string): Promise<TableDescription> => (await client.send(new DescribeTableCommand({ TableName: name }))).Table!;
const refused = (name: string, message = 'no'): Verdict => ({ answer: { status: 400, headers: { 'content-type': 'application/x-amz-json-1.0' }, body: JSON.stringify({ __type: `com.amazonaws.dynamodb.v20120810#${name}`, message }) } });

describe('a check of a drill', () => {
  const checkOf = (statement: string): ServiceCheck => ({ name: 'the first order', dynamodb: { table, statement }, expect: { equals: 0 } }) as ServiceCheck;
  const first = (): ServiceCheck => checkOf(`SELECT n FROM "{table}" WHERE id = 'order-0'`);

  async function prepared(): Promise<DrillCall> {
    await configured('scan');
    const call = callOf('x/');
    await create(drillTable(context, call, table));
    await put(drillTable(context, call, table), 1);
    return call;
  }

  it('is asked again when its answer was throttled, cut off or damaged: none of this is a fault of the backup', async () => {
    const call = await prepared();
    const verdicts: Verdict[] = [refused('ProvisionedThroughputExceededException'), { cut: true }, { torn: true }, { answer: { status: 500, body: '{}' } }];
    proxy.rule(({ target }) => (target.endsWith('.ExecuteStatement') ? verdicts.shift() : undefined));
    expect(await dynamodbEngine.drill.check(context, call, [first()], { ...options, timeoutMs: 60_000 })).toEqual([expect.objectContaining({ ok: true })]);
    expect(verdicts).toEqual([]);
  });

  it.each([
    ['nobody answers', { silent: true } as Verdict, true],
    ['its refusal is damaged', { answer: { status: 400, headers: { 'content-type': 'application/x-amz-json-1.0' }, body: '{"__type":"com.ama' } } as Verdict, true],
    ['the service throttles it to the end', refused('ThrottlingException'), true],
    ['the worker may not ask it', refused('AccessDeniedException'), false],
  ])('is no result when %s', async (_, verdict, retryable) => {
    const call = await prepared();
    proxy.rule(({ target }) => (target.endsWith('.ExecuteStatement') ? verdict : undefined));
    await expect(dynamodbEngine.drill.check(context, call, [first()], { ...options, timeoutMs: 500 })).rejects.toMatchObject({ code: 'check-not-run', retryable });
  });

  it('fails when the service answers that it cannot be', async () => {
    const call = await prepared();
    proxy.rule(({ target }) => (target.endsWith('.ExecuteStatement') ? refused('ValidationException', 'where is no attribute') : undefined));
    expect(await dynamodbEngine.drill.check(context, call, [first()], { ...options, timeoutMs: 60_000 })).toMatchObject([{ ok: false, found: expect.stringContaining('where is no attribute') }]);
  });
});

describe('the drift of the live tables', () => {
  const liveIsSilent = (): void => proxy.rule(({ target, body }) => (target.endsWith('.Scan') && (JSON.parse(body) as { TableName: string }).TableName === table ? { silent: true } : undefined));

  it('is read after the checks, and what is not read in time is a note: neither the proof nor the measured time waits for it', async () => {
    await configured('scan');
    const { location, manifest } = await backUp();
    const call = callOf(location);
    await dynamodbEngine.drill.start(context, call, manifest, options);
    await dynamodbEngine.drill.restore(context, call, manifest, options);
    liveIsSilent();
    expect(await dynamodbEngine.drill.prove(context, call, manifest, options)).toMatchObject({ exact: true });
    const activities = createDrillActivities(context);
    const checked = await new MockActivityEnvironment({ startToCloseTimeoutMs: 60_000 + 500 }).run(activities.runDrillChecks, call);
    expect(checked).toMatchObject({ checks: [], notes: [expect.stringMatching(/^drift.*not known/)] });

    // What a lost worker had found stays: the recovery is not measured anew.
    proxy.clear();
    await put(table, 21);
    const before = { checked: { checks: [], finishedAtMs: 1_700_000_000_000 }, drift: '' };
    expect(await new MockActivityEnvironment({ startToCloseTimeoutMs: 3_600_000, heartbeatDetails: before }).run(activities.runDrillChecks, call)).toEqual({ ...before.checked, notes: [expect.stringContaining('1 more than the backup')] });
    expect(await dynamodbEngine.drill.destroy(context, call)).toEqual({ existed: true });
  });
});

describe('a drill of an on-demand backup', () => {
  it('that was cut off goes on with what the service restores already, on demand, and counts from when that began', async () => {
    await configured('on-demand');
    const { location, manifest } = await backUp();
    const call = callOf(location);
    proxy.rule(({ target }) => (target.endsWith('.TagResource') ? refused('AccessDeniedException') : undefined));
    await dynamodbEngine.drill.start(context, call, manifest, options);
    await expect(dynamodbEngine.drill.restore(context, call, manifest, options)).rejects.toMatchObject({ code: 'dynamodb-tag' });
    // moto keeps the capacity of the source whatever is asked, so what was asked is all there is to see.
    expect(JSON.parse(proxy.seen.find(({ target }) => target.endsWith('.RestoreTableFromBackup'))!.body)).toMatchObject({ BillingModeOverride: 'PAY_PER_REQUEST' });
    proxy.clear();
    const name = drillTable(context, call, table);
    const { TableId, CreationDateTime } = await described(name);
    await dynamodbEngine.drill.start(context, call, manifest, options);
    const restored = await dynamodbEngine.drill.restore(context, call, manifest, options);
    expect(restored).toMatchObject({ bad: null, startedAtMs: CreationDateTime!.getTime() });
    expect((await described(name)).TableId).toBe(TableId);
    expect(await dynamodbEngine.drill.destroy(context, call)).toEqual({ existed: true });
  });

  it('may take as long to be destroyed as to be restored, since no table is deleted while it is restored', async () => {
    await configured('on-demand', { timeout: '7h' });
    await backUp();
    const asked = { datastore: 'items', backup: 'newest', service: null, workflowId: 'drill/items', runId: uniqueName('run') };
    expect(await new MockActivityEnvironment().run(createDrillActivities(context).chooseDrillBackup, asked)).toMatchObject({ destroyMs: 7 * 3_600_000 });
    const call = callOf('x/');
    const name = drillTable(context, call, table);
    const { BackupDetails } = await client.send(new CreateBackupCommand({ TableName: table, BackupName: 'for-the-drill' }));
    await client.send(new RestoreTableFromBackupCommand({ TargetTableName: name, BackupArn: BackupDetails!.BackupArn! }));
    let asks = 0;
    proxy.rule(({ target, body }) => {
      if (!target.endsWith('.DeleteTable') || (JSON.parse(body) as { TableName: string }).TableName !== name) return undefined;
      return (asks += 1) < 3 ? refused('ResourceInUseException', 'it is being restored') : undefined;
    });
    expect(await dynamodbEngine.drill.destroy(context, call)).toEqual({ existed: true });
    expect(asks).toBe(3);
    expect(await tables()).toEqual([]);
  });

  it('leaves nothing that the next worker does not sweep, and nothing of somebody else is swept', async () => {
    await configured('on-demand');
    const { location, manifest } = await backUp();
    const [ended, running, foreign] = [callOf(location, 'run-ended'), callOf(location, 'run-running'), callOf(location, 'run-foreign')].map((call) => ({ call, name: drillTable(context, call, table) })) as [{ call: DrillCall; name: string }, { call: DrillCall; name: string }, { call: DrillCall; name: string }];
    const { BackupDetails } = await client.send(new CreateBackupCommand({ TableName: table, BackupName: 'of-somebody' }));
    // As the service leaves them when a worker is killed before it has set the tags.
    for (const { name } of [ended, running]) await client.send(new RestoreTableFromBackupCommand({ TargetTableName: name, BackupArn: manifest.managed!.backups[0]!.arn }));
    await client.send(new RestoreTableFromBackupCommand({ TargetTableName: foreign.name, BackupArn: BackupDetails!.BackupArn! }));
    const store = await openStore(context, 'main');
    const mark = `in-use-${running.call.targetName.slice(-12)}`;
    await writeMark(store, location, { mark: 'in-use', at: new Date().toISOString(), by: running.call.workflowId, reason: 'test' }, mark);
    expect(await dynamodbEngine.drill.sweep(context, () => Promise.resolve(false))).toEqual([ended.name]);
    expect((await tables()).sort()).toEqual([running.name, foreign.name].sort());
    await removeMark(store, location, mark);
    expect(await dynamodbEngine.drill.sweep(context, () => Promise.resolve(false))).toEqual([running.name]);
    expect(await tables()).toEqual([foreign.name]);
  });
});

describe('an on-demand backup', () => {
  const arns = async (): Promise<(string | undefined)[]> => ((await client.send(new ListBackupsCommand({ TableName: table }))).BackupSummaries ?? []).map(({ BackupArn }) => BackupArn);

  it('that one attempt has begun is taken by the next, not removed', async () => {
    await configured('on-demand');
    const plan = planOf('tworuns0');
    proxy.rule(({ target }) => (target.endsWith('.DescribeBackup') ? refused('AccessDeniedException') : undefined));
    await expect(runBackup(plan, 1)).rejects.toThrow('AccessDenied');
    const begun = await arns();
    expect(begun).toHaveLength(1);
    proxy.clear();
    const { location } = await runBackup(plan, 2);
    expect(((await readManifest(await openStore(context, 'main'), location)) as DynamodbManifest).managed!.backups.map(({ arn }) => arn)).toEqual(begun);
    expect(await arns()).toEqual(begun);
  });

  it('is not committed when it was deleted right before', async () => {
    await configured('on-demand');
    const location = backupFolder('', 'items', startedAtMs, 'deleted0');
    const mayCommit = async (): Promise<void> => void (await client.send(new DeleteBackupCommand({ BackupArn: (await arns())[0]! })));
    await expect(asCaller({ activity: 'runBackup' }, () => dynamodbEngine.backUp(context, { datastore: 'items', id: 'deleted0', location, reason: 'test', workflowId: 'w', runId: 'r' }, { signal, mayCommit }))).rejects.toMatchObject({ code: 'on-demand-gone', retryable: true });
    expect(await (await openStore(context, 'main')).head(`${location}COMMIT`)).toBeUndefined();
  });

  it('that the service lists as deleted is none: another is taken', async () => {
    await configured('on-demand');
    const { BackupDetails } = await client.send(new CreateBackupCommand({ TableName: table, BackupName: 'holdfast-items-listed00' }));
    proxy.rule(({ target }) => (target.endsWith('.ListBackups') ? { rewrite: (body) => JSON.stringify({ BackupSummaries: (JSON.parse(body) as { BackupSummaries: { BackupArn: string }[] }).BackupSummaries.map((one) => (one.BackupArn === BackupDetails!.BackupArn ? { ...one, BackupStatus: 'DELETED' } : one)) }) } : undefined));
    const { location } = await runBackup(planOf('listed00'), 1);
    const { managed } = (await readManifest(await openStore(context, 'main'), location)) as DynamodbManifest;
    expect(managed!.backups.map(({ arn }) => arn)).toEqual((await arns()).filter((arn) => arn !== BackupDetails!.BackupArn));
  });
});

it('settings that are there already are not set again: the service refuses time to live that is on', async () => {
  await configured('scan');
  await client.send(new UpdateTimeToLiveCommand({ TableName: table, TimeToLiveSpecification: { Enabled: true, AttributeName: 'until' } }));
  const through = await context.aws.dynamo({ endpoint: proxy.url, region: suite().aws.region, credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' } });
  // moto takes it again, which the service does not.
  proxy.rule(({ target }) => (target.endsWith('.UpdateTimeToLive') ? refused('ValidationException', 'TimeToLive is already enabled') : undefined));
  const settings = await readSettings(through, await describeTable(through, table), signal);
  expect(settings.timeToLive).toBe('until');
  expect(await applySettings(through, table, settings, signal)).toEqual([]);
  await expect(applySettings(through, table, { ...settings, timeToLive: 'other' }, signal)).rejects.toThrow('already enabled');
});

it('a restore sets settings only when all tables are there, and may be repeated when some are set', async () => {
  await configured('scan');
  await client.send(new UpdateTimeToLiveCommand({ TableName: table, TimeToLiveSpecification: { Enabled: true, AttributeName: 'until' } }));
  const { location, manifest } = await backUp();
  const [source] = backupSources(context, { storeName: 'main', location, manifest });
  const sources = [source!, { ...source!, table: `other-${table}` }];
  const { tables: to, prefix } = await openTarget(context, 'items', `dynamodb://${suite().aws.region}/restored-`);
  const said: string[] = [];
  const io = { interrupted: signal, note: () => {}, result: (_: unknown, text: () => string) => void said.push(text()) } as unknown as Io;
  const restore = (): Promise<void> => restoreTables(io, context, { label: 'it', datastore: 'items', id: 'x' }, sources, to, prefix, { create: true, allowNonEmpty: true, settings: true }, true);
  const timeToLive = async (): Promise<(string | undefined)[]> => Promise.all(sources.map(async (one) => (await client.send(new DescribeTimeToLiveCommand({ TableName: prefix + one.table }))).TimeToLiveDescription?.TimeToLiveStatus));
  proxy.rule(({ target, body }) => (target.endsWith('.BatchWriteItem') && body.includes(`restored-other-${table}`) ? refused('AccessDeniedException') : undefined));
  await expect(restore()).rejects.toThrow('AccessDenied');
  expect(await timeToLive()).toEqual(['DISABLED', 'DISABLED']);
  proxy.clear();
  const on = new Set<string>();
  proxy.rule(({ target, body }) => {
    if (!target.endsWith('.UpdateTimeToLive')) return undefined;
    const { TableName } = JSON.parse(body) as { TableName: string };
    if (on.has(TableName)) return refused('ValidationException', 'TimeToLive is already enabled');
    on.add(TableName);
    return undefined;
  });
  for (const set of [true, false]) {
    await restore();
    expect(said.at(-1)!.includes('time to live by until')).toBe(set);
    expect(await timeToLive()).toEqual(['ENABLED', 'ENABLED']);
  }
});
