/** Documents that lie in runbooks/, run as they are: by the workflow and the worker, on DynamoDB Local, on moto for what that does not know, and on VersityGW. */
import { setTimeout as pause } from 'node:timers/promises';
import { CreateTableCommand, DeleteItemCommand, DescribeTableCommand, DynamoDBClient, PutItemCommand, ScanCommand, UpdateContinuousBackupsCommand, UpdateTimeToLiveCommand, type AttributeValue } from '@aws-sdk/client-dynamodb';
import { DeleteObjectCommand, GetObjectCommand, ListObjectsV2Command, ListObjectVersionsCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createProcesses, s3Client, startDynamo, type DynamoServer, type Processes } from '../../src/local/stack.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { awsProxy, type AwsProxy } from '../aws-proxy.ts';
import { dynamoHands } from '../dynamo.ts';
import { approve, connectTemporal, failureOf, runningWorker, suite, testBucket, testConfig, uniqueName } from '../support.ts';

const THERE = 'eu-west-1';

let processes: Processes;
let server: DynamoServer;
const closing: (() => unknown)[] = [];

beforeAll(async () => {
  processes = createProcesses();
  server = await startDynamo({ processes, directory: processes.directory });
  process.env['HOLDFAST_TEST_DYNAMO_KEY'] = server.accessKeyId;
  process.env['HOLDFAST_TEST_DYNAMO_SECRET'] = server.secretAccessKey;
});

afterAll(async () => {
  for (const close of closing.reverse()) await close();
  await processes?.end();
});

async function started(context: Context, runbook: string, parameters: Readonly<Record<string, unknown>>): Promise<{ handle: WorkflowHandle; result: Promise<ExecutionResult> }> {
  const client: Client = await connectTemporal(context);
  const worker = await runningWorker(context);
  closing.push(() => context.close(), () => client.connection.close(), () => worker.stop());
  const handle = await client.workflow.start('runbook', { taskQueue: context.config.temporal.taskQueue, workflowId: uniqueName(`runbook/${runbook}`), args: [{ runbook, reason: 'test', requestedBy: 'ann', parameters }] });
  return { handle, result: handle.result() as Promise<ExecutionResult> };
}

async function waitingFor(handle: WorkflowHandle, step: string): Promise<void> {
  await expect.poll(async () => {
    const { approval, state } = await handle.query<Progress>('progress');
    return approval == null ? 'no approval is waited for' : state?.steps.find(({ status }) => status === 'running')?.id;
  }, { timeout: 60_000, interval: 200 }).toBe(step);
}

describe('the runbook table-copy', () => {
  it('copies a table that people write to, waits until they stop, proves the copy and gives it the settings', async () => {
    const [here, there] = [dynamoHands(server), dynamoHands(server, THERE)];
    closing.push(() => here.close(), () => there.close());
    const table = uniqueName('orders');
    await here.client.send(new CreateTableCommand({
      TableName: table, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }],
      StreamSpecification: { StreamEnabled: true, StreamViewType: 'NEW_AND_OLD_IMAGES' },
    }));
    await here.client.send(new UpdateTimeToLiveCommand({ TableName: table, TimeToLiveSpecification: { Enabled: true, AttributeName: 'until' } }));
    await here.put(table, Array.from({ length: 500 }, (_, at) => ({ id: { S: `order-${at}` }, n: { N: String(at) } })));
    const credentials = { accessKeyId: 'env:HOLDFAST_TEST_DYNAMO_KEY', secretAccessKey: 'env:HOLDFAST_TEST_DYNAMO_SECRET' };
    const place = { engine: 'dynamodb', tables: ['orders'], endpoint: server.endpoint, credentials, backup: { readShare: 1 }, restore: { writeShare: 1 } };
    const context = await testConfig({ datastores: { here: { ...place, region: server.region }, there: { ...place, region: THERE } } });
    const stop = new AbortController();
    let writes = 0;
    const writing = (async () => {
      for (let at = 0; !stop.signal.aborted; at += 1) {
        const id = { S: `order-${(at * 7) % 600}` };
        if (at % 5 === 0) await here.client.send(new DeleteItemCommand({ TableName: table, Key: { id } }));
        else await here.client.send(new PutItemCommand({ TableName: table, Item: { id, text: { S: `written ${at}` } } }));
        writes += 1;
        await pause(20);
      }
    })();
    const { handle, result } = await started(context, 'table-copy', { source: 'here', table, datastore: 'there', targetTable: table });
    await waitingFor(handle, 'stop');
    stop.abort();
    await writing;
    await approve(handle, 'bob');
    expect(await result).toMatchObject({ outcome: 'succeeded', failure: null });
    expect(writes).toBeGreaterThan(50);
    expect(await there.sums(table)).toEqual(await here.sums(table));
    const { steps } = await result;
    expect(steps.map(({ id, outcome }) => [id, outcome])).toEqual([['create', 'changed'], ['copy', 'changed'], ['follow', 'changed'], ['stop', 'changed'], ['drain', expect.any(String)], ['verify', 'already-satisfied'], ['settings', 'changed'], ['tell', 'skipped']]);
    expect((await there.client.send(new DescribeTableCommand({ TableName: table }))).Table?.StreamSpecification).toEqual({ StreamEnabled: true, StreamViewType: 'NEW_AND_OLD_IMAGES' });
  }, 180_000);
});

describe('the runbook table-restore-drill', () => {
  let client: DynamoDBClient;
  let proxy: AwsProxy;
  let table: string;
  let context: Context;

  beforeEach(async () => {
    const { aws } = suite();
    client = new DynamoDBClient({ region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
    proxy = await awsProxy(aws.endpoint);
    // The newest moment that moto names is that at which it was told to keep moments; the service's goes on with the time.
    proxy.rule((call) => (call.target.endsWith('.DescribeContinuousBackups') ? { rewrite: (body) => body.replace(/("LatestRestorableDateTime": ?)[0-9.]+/, `$1${Date.now() / 1000}`) } : undefined));
    // And of a restored table it says when it was restored, not which moment it is of.
    let asked: number | undefined;
    proxy.rule((call) => {
      if (call.target.endsWith('.RestoreTableToPointInTime')) asked = (JSON.parse(call.body) as { RestoreDateTime?: number }).RestoreDateTime;
      return asked === undefined ? undefined : { rewrite: (body) => body.replace(/("RestoreDateTime": ?)[0-9.]+/, `$1${asked}`) };
    });
    table = uniqueName('orders');
    await client.send(new CreateTableCommand({ TableName: table, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }] }));
    await client.send(new UpdateContinuousBackupsCommand({ TableName: table, PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true } }));
    for (const id of ['a', 'b', 'c']) await client.send(new PutItemCommand({ TableName: table, Item: { id: { S: id } } }));
    context = await testConfig({ datastores: { items: { engine: 'dynamodb', tables: [table], endpoint: proxy.url, region: aws.region, credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' } } } });
  });
  afterEach(async () => {
    client.destroy();
    await proxy.close();
  });

  const idsOf = async (): Promise<string[]> => ((await client.send(new ScanCommand({ TableName: table }))).Items ?? []).map((item) => item['id']!.S!).sort();

  it('restores a table to the moment between its two markers, reads it, and leaves the table as it was', async () => {
    const as = `holdfast-moment-${table}`;
    // moto restores what is there now: what was there at the moment is put back first, and what came after it again.
    const markers: Record<string, AttributeValue>[] = [];
    proxy.rule((call) => {
      if (call.target.endsWith('.PutItem')) markers.push((JSON.parse(call.body) as { Item: Record<string, AttributeValue> }).Item);
      return undefined;
    });
    proxy.rule(async (call) => {
      if (call.target.endsWith('.RestoreTableToPointInTime')) await client.send(new PutItemCommand({ TableName: table, Item: markers[0]! }));
      return undefined;
    });
    const { result } = await started(context, 'table-restore-drill', { datastore: 'items', table, as });
    const { outcome, failure, steps } = await result;
    expect({ outcome, failure }).toEqual({ outcome: 'succeeded', failure: null });
    expect(steps.map(({ id, outcome: done }) => [id, done])).toEqual([['marker', 'changed'], ['restore', 'changed'], ['remove', 'changed'], ['clean', 'changed']]);
    expect(steps[1]!.summary).toMatch(/the marker written before the moment is there, the one after it is not; every item was read: 4$/);
    expect(markers).toHaveLength(2);
    expect(await idsOf()).toEqual(['a', 'b', 'c']);
    await expect(client.send(new DescribeTableCommand({ TableName: as }))).rejects.toMatchObject({ name: 'ResourceNotFoundException' });
  }, 120_000);

  it('fails when the service restores another moment, says so, and takes its item away', async () => {
    const as = `holdfast-moment-${table}`;
    const { result, handle } = await started(context, 'table-restore-drill', { datastore: 'items', table, as });
    const ended = await result.catch(() => failureOf(handle));
    expect(ended.outcome).toBe('failed');
    expect(ended.failure).toContain('later moment');
    expect(await idsOf()).toEqual(['a', 'b', 'c']);
    // What was restored stays for those who look at it, as the runbook says.
    expect((await client.send(new DescribeTableCommand({ TableName: as }))).Table?.TableStatus).toBe('ACTIVE');
  }, 120_000);
});

describe('the runbooks of objects', () => {
  let client: S3Client;
  let bucket: string;
  let context: Context;

  beforeEach(async () => {
    const { s3 } = suite();
    client = s3Client(s3);
    bucket = await testBucket({ versioning: true });
    context = await testConfig({ datastores: { files: { engine: 's3', bucket, region: s3.region, endpoint: s3.endpoint, forcePathStyle: true, versionTime: 'ulid', credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' }, expect: { publicAccessBlocked: false } } } });
  });
  afterEach(() => client.destroy());

  const put = (Key: string, Body: string): Promise<unknown> => client.send(new PutObjectCommand({ Bucket: bucket, Key, Body }));
  async function contents(): Promise<Record<string, string>> {
    const keys = ((await client.send(new ListObjectsV2Command({ Bucket: bucket }))).Contents ?? []).map(({ Key }) => Key!);
    return Object.fromEntries(await Promise.all(keys.map(async (Key) => [Key, await (await client.send(new GetObjectCommand({ Bucket: bucket, Key }))).Body!.transformToString()] as const)));
  }

  it('object-restore brings a prefix back to a moment', async () => {
    await put('orders/1', 'good');
    await put('orders/2', 'good');
    await put('other/1', 'other');
    const before = await contents();
    await pause(1100);
    const moment = new Date(Math.floor(Date.now() / 1000) * 1000).toISOString();
    await pause(1100);
    await put('orders/1', 'wrong');
    await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: 'orders/2' }));
    await put('orders/3', 'new');
    const { result } = await started(context, 'object-restore', { datastore: 'files', prefix: 'orders/', moment });
    expect(await result).toMatchObject({ outcome: 'succeeded', failure: null });
    expect(await contents()).toEqual(before);
  }, 60_000);

  it('object-restore-drill proves the way back and leaves nothing', async () => {
    await put('orders/1', 'good');
    const { result } = await started(context, 'object-restore-drill', { datastore: 'files' });
    const { outcome, failure, steps } = await result;
    expect({ outcome, failure }).toEqual({ outcome: 'succeeded', failure: null });
    expect(steps.map(({ id, outcome: done }) => [id, done])).toEqual([['check', expect.any(String)], ['marker', 'changed'], ['restore', 'changed'], ['prove', expect.any(String)], ['clean', 'changed']]);
    expect((await client.send(new ListObjectVersionsCommand({ Bucket: bucket }))).Versions?.map(({ Key }) => Key)).toEqual(['orders/1']);
  }, 60_000);
});
