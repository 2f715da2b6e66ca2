/** Tables and stores of another account, reached by a role. moto keeps accounts apart; it asks nobody whether a role may be assumed. */
import { CreateTableCommand, DescribeTableCommand, DynamoDBClient, PutItemCommand } from '@aws-sdk/client-dynamodb';
import { CreateBucketCommand, ListBucketsCommand, type S3Client } from '@aws-sdk/client-s3';
import { fromTemporaryCredentials } from '@aws-sdk/credential-providers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dynamodbCopySteps } from '../../activities/dynamodb-copy.ts';
import { s3Client } from '../../src/local/stack.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import { dynamodbEngine } from '../../src/systems/dynamodb-engine.ts';
import type { S3Place } from '../../src/systems/aws.ts';
import type { Context } from '../../src/systems/context.ts';
import { listBackups } from '../../src/systems/backup-catalogue.ts';
import { openStore } from '../../src/systems/store.ts';
import { awsProxy, type AwsProxy } from '../aws-proxy.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

const OTHER = '210987654321';
const ROLE = `arn:aws:iam::${OTHER}:role/holdfast`;
const CREDENTIALS = { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' };

let ours: DynamoDBClient;
let theirs: DynamoDBClient;
let proxy: AwsProxy;

beforeAll(async () => {
  const { aws } = suite();
  const config = { region: aws.region, endpoint: aws.endpoint };
  const own = { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey };
  ours = new DynamoDBClient({ ...config, credentials: own });
  theirs = new DynamoDBClient({ ...config, credentials: fromTemporaryCredentials({ params: { RoleArn: ROLE, RoleSessionName: 'test' }, masterCredentials: own, clientConfig: config }) });
  proxy = await awsProxy(aws.endpoint);
});
afterAll(async () => {
  ours?.destroy();
  theirs?.destroy();
  await proxy?.close();
});

async function table(): Promise<string> {
  const name = uniqueName('orders');
  await ours.send(new CreateTableCommand({ TableName: name, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }], StreamSpecification: { StreamEnabled: true, StreamViewType: 'NEW_AND_OLD_IMAGES' } }));
  for (let at = 0; at < 40; at += 1) await ours.send(new PutItemCommand({ TableName: name, Item: { id: { S: `order-${at}` }, n: { N: String(at) } } }));
  return name;
}

/** Everything goes through the proxy, STS as well. */
async function contextFor(name: string, more: Readonly<Record<string, unknown>> = {}): Promise<Context> {
  const place = { engine: 'dynamodb', tables: [name], credentials: CREDENTIALS, backup: { readShare: 1 }, restore: { writeShare: 1 } };
  return testConfig({ aws: { endpoint: proxy.url }, datastores: { ours: place, theirs: { ...place, assumeRole: { arn: ROLE, externalId: 'holdfast-test' } } }, ...more });
}

describe('a copy into another account', () => {
  it('is made, proved by reading both, and is not in our own', async () => {
    const name = await table();
    const copy = `${name}-copy`;
    const context = await contextFor(name);
    const step = (uses: string, phase: Phase, facts: PhaseResult['facts'] = {}): Promise<PhaseResult> => runStep(dynamodbCopySteps, context, uses, phase, { source: 'ours', table: name, datastore: 'theirs', targetTable: copy }, { facts });
    await step('dynamodb.createTarget', 'apply');
    expect((await step('dynamodb.copy', 'guard')).checks!.filter(({ ok }) => !ok)).toEqual([]);
    expect((await step('dynamodb.copy', 'apply')).facts).toMatchObject({ items: 40 });
    const read = await step('dynamodb.verifyCopy', 'apply');
    expect((await step('dynamodb.verifyCopy', 'verify', read.facts)).checks!.every(({ ok }) => ok)).toBe(true);
    expect((await theirs.send(new DescribeTableCommand({ TableName: copy }))).Table?.TableArn).toContain(`:${OTHER}:table/${copy}`);
    await expect(ours.send(new DescribeTableCommand({ TableName: copy }))).rejects.toMatchObject({ name: 'ResourceNotFoundException' });
    expect(proxy.seen.some(({ body }) => body.includes('AssumeRole') && body.includes('holdfast-test'))).toBe(true);
    context.close();
  });

  it('says which role it was that could not be assumed', async () => {
    const name = await table();
    const context = await contextFor(name);
    proxy.rule((call) => (call.body.includes('Action=AssumeRole') ? { answer: { status: 403, headers: { 'content-type': 'text/xml' }, body: `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: arn:aws:iam::123456789012:user/worker is not authorized to perform: sts:AssumeRole on resource: ${ROLE}</Message></Error><RequestId>1</RequestId></ErrorResponse>` } } : undefined));
    const failed = await runStep(dynamodbCopySteps, context, 'dynamodb.createTarget', 'apply', { source: 'ours', table: name, datastore: 'theirs', targetTable: name }).catch((error: unknown) => error);
    proxy.clear();
    expect(failed).toMatchObject({ code: 'role-not-assumed', retryable: false, message: expect.stringContaining(`sts:AssumeRole on ${ROLE}: AccessDenied`) as string, next: expect.stringContaining('trust policy') as string });
    context.close();
  });
});

describe('a store in another account', () => {
  it('keeps the backups of a table of ours out of our own account, and gives them back', async () => {
    const name = await table();
    const bucket = uniqueName('vault');
    const { aws } = suite();
    const place = { type: 's3', bucket, endpoint: aws.endpoint, region: aws.region, forcePathStyle: true, credentials: CREDENTIALS, assumeRole: { arn: ROLE } };
    const context = await contextFor(name, { stores: { main: place } });
    const vault = await context.aws.s3(context.config.stores['main'] as S3Place);
    await vault.send(new CreateBucketCommand({ Bucket: bucket }));
    const own = s3Client(aws);
    const bucketsOf = async (client: S3Client): Promise<boolean> => ((await client.send(new ListBucketsCommand({}))).Buckets ?? []).some(({ Name }) => Name === bucket);
    expect([await bucketsOf(own), await bucketsOf(vault)]).toEqual([false, true]);
    own.destroy();
    await dynamodbEngine.backUp(context, { datastore: 'ours', id: 'abc', location: 'ours/2026/11/28/000000Z-abc/', reason: 'test', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
    const store = await openStore(context, 'main');
    expect(await listBackups(store, store.prefix, 'ours')).toMatchObject([{ id: 'abc' }]);
    context.close();
  });
});
