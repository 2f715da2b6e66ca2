import { CreateHostedZoneCommand } from '@aws-sdk/client-route-53';
import { DescribeSecretCommand } from '@aws-sdk/client-secrets-manager';
import { PutParameterCommand } from '@aws-sdk/client-ssm';
import { PutBucketLifecycleConfigurationCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createBucket } from '../../src/local/versity.ts';
import { createAwsClients, readManagedSecret, type AwsClients } from '../../src/systems/aws.ts';
import type { Context } from '../../src/systems/context.ts';
import { secretVersions, stageEndpoint } from '../../src/systems/endpoint.ts';
import { recordSets } from '../../src/systems/record-sets.ts';
import { describeInstance } from '../../src/systems/rds.ts';
import { openBucket } from '../../src/systems/s3-bucket.ts';
import { readLifecycle } from '../../src/systems/s3-lifecycle.ts';
import { keysAtMoment } from '../../src/systems/s3-versions.ts';
import { openStore, readText } from '../../src/systems/store.ts';
import { awsProxy, type AwsProxy, type AwsRequest, type Verdict } from '../aws-proxy.ts';
import { suite, testConfig, testSecret, uniqueName } from '../support.ts';

let proxy: AwsProxy;
let context: Context;
let secret: string;
let zone: string;
let parameter: string;
let plain: Context;
const clients: AwsClients[] = [];

/** Clients of their own for each fault: one that was throttled goes on more slowly. The limits of production would have every silence last for many seconds. */
function fresh(callMs = 5000): void {
  const aws = createAwsClients(plain.config.aws, plain.secrets, { connectMs: 5000, callMs, storeMs: callMs });
  clients.push(aws);
  context = { ...plain, aws };
}

beforeAll(async () => {
  proxy = await awsProxy(suite().aws.endpoint);
  const bucket = uniqueName('faults');
  await createBucket(suite().aws, bucket, { versioning: true });
  const credentials = { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' };
  const place = { bucket, endpoint: proxy.url, region: suite().aws.region, forcePathStyle: true, credentials };
  const made = await testConfig({ aws: { endpoint: proxy.url }, stores: { main: place }, datastores: { files: { engine: 's3', ...place } } });
  plain = made;
  fresh();
  secret = await testSecret('faults', { host: '127.0.0.1', port: 5432, username: 'x', password: 'application-password', dbname: 'shop' });
  zone = (await (await made.aws.route53()).send(new CreateHostedZoneCommand({ Name: 'faults.example', CallerReference: uniqueName('zone') }))).HostedZone!.Id!;
  parameter = uniqueName('faults');
  await (await made.aws.ssm()).send(new PutParameterCommand({ Name: parameter, Value: 'on', Type: 'String' }));
  const s3 = await made.aws.s3(place as never);
  for (let index = 0; index < 20; index += 1) await s3.send(new PutObjectCommand({ Bucket: bucket, Key: `k${index}`, Body: 'x'.repeat(1000) }));
  await s3.send(new PutBucketLifecycleConfigurationCommand({ Bucket: bucket, LifecycleConfiguration: { Rules: [{ ID: 'theirs', Status: 'Enabled', Filter: { Prefix: 'logs/' }, Expiration: { Days: 9 } }] } }));
});

afterAll(async () => {
  for (const aws of clients) aws.close();
  plain?.close();
  await proxy?.close();
});

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

/** What Holdfast itself calls to look at something, with an answer that can be compared. */
const LOOKS: Readonly<Record<string, () => Promise<unknown>>> = {
  'Secrets Manager: a secret by reference': () => readManagedSecret(context.aws, secret),
  'Secrets Manager: versions of the endpoint': () => secretVersions(context, secret),
  'Route 53: record sets of a zone': () => recordSets(context, { hostedZoneId: zone.replace('/hostedzone/', ''), name: 'faults.example', type: 'NS' }),
  'S3: a listing of a store': async () => all((await openStore(context, 'main')).list('')),
  'S3: versions at a moment': async () => all(keysAtMoment(await openBucket(context, 'files'), '', { momentMs: Date.now(), sameSecond: 'before', pageSize: 7 })),
  'S3: an object': async () => readText(await (await openStore(context, 'main')).get('k1')),
  'S3: lifecycle rules': async () => readLifecycle(await openBucket(context, 'files')),
  'SSM: a parameter': async () => {
    const { GetParameterCommand } = await import('@aws-sdk/client-ssm');
    return (await (await context.aws.ssm()).send(new GetParameterCommand({ Name: parameter }))).Parameter?.Value;
  },
  'RDS: an instance that is not there': () => describeInstance(context, suite().aws.region, 'nobody'),
};

/** An error as the protocol of the service has it. */
function said(status: number, code: string): (call: AwsRequest) => Verdict {
  return (call): Verdict => {
    if (call.target !== '') return { answer: { status, headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amzn-errortype': code }, body: JSON.stringify({ __type: code, message: 'too much' }) } };
    const error = `<Error><Type>Sender</Type><Code>${code}</Code><Message>too much</Message></Error>`;
    // S3 has no envelope around its errors; the others do.
    return { answer: { status, headers: { 'content-type': 'text/xml' }, body: `<?xml version="1.0"?>${/Action=|hostedzone/.test(call.body + call.path) ? `<ErrorResponse>${error}<RequestId>test</RequestId></ErrorResponse>` : error}` } };
  };
}

const FAULTS: Readonly<Record<string, (call: AwsRequest) => Verdict>> = {
  'throttling (400)': said(400, 'ThrottlingException'),
  'throttling (429)': said(429, 'TooManyRequestsException'),
  'throttling (503)': said(503, 'SlowDown'),
  'a fault of the service': said(500, 'InternalError'),
  'a connection that is cut': () => ({ cut: true }),
  'half an answer': () => ({ half: true }),
  'no answer': () => ({ silent: true }),
};

/** The next requests, so many, meet the fault. */
function meet(fault: (call: AwsRequest) => Verdict, times: number): void {
  proxy.clear();
  // Only silence waits for the limit; whatever answers has time to, also on a loaded machine.
  fresh(fault === FAULTS['no answer'] ? 1500 : undefined);
  let left = times;
  proxy.rule((call) => (left-- > 0 ? fault(call) : undefined));
}

/** Waiting makes these slow: each look meets three of them always, and one of the others in turn. */
const ALWAYS = ['throttling (400)', 'a connection that is cut', 'half an answer'];
const IN_TURN = Object.keys(FAULTS).filter((name) => !ALWAYS.includes(name));

describe.each(Object.entries(LOOKS).map(([name, look], index) => [name, look, [...ALWAYS, IN_TURN[index % IN_TURN.length]!]] as const))('%s', (_name, look, faults) => {
  it('is retried through a fault of each sort and gives what it gives without', async () => {
    proxy.clear();
    const good = JSON.stringify(await look());
    for (const name of faults) {
      meet(FAULTS[name]!, 1);
      expect([name, JSON.stringify(await look().catch((error: unknown) => `refused: ${String(error)}`))]).toEqual([name, good]);
      expect(proxy.seen.length).toBeGreaterThan(1);
    }
  });

  it('does not take half an answer that ends well for the whole', async () => {
    proxy.clear();
    const good = JSON.stringify(await look());
    meet(() => ({ torn: true }), 1);
    const outcome = await look().then((answer) => JSON.stringify(answer), () => 'an error');
    expect(['an error', good]).toContain(outcome);
  });
});

// One of each protocol; each waits through every try.
it.each(['Secrets Manager: versions of the endpoint', 'Route 53: record sets of a zone', 'S3: a listing of a store', 'RDS: an instance that is not there'])('%s comes out as an error that may be retried where the fault stays, never as an answer', async (name) => {
  for (const fault of [FAULTS['throttling (400)']!, FAULTS['a connection that is cut']!, FAULTS['no answer']!]) {
    meet(fault, Number.POSITIVE_INFINITY);
    const outcome = await LOOKS[name]!().then((answer) => ({ answered: answer }), (error: Error & { retryable?: boolean }) => ({ error: error.name, retryable: error.retryable }));
    expect(outcome).toEqual({ error: 'HoldfastError', retryable: true });
    // Tried again, and not for ever.
    expect(proxy.seen.length).toBeGreaterThan(1);
    expect(proxy.seen.length).toBeLessThan(20);
  }
});

it('a change whose answer was lost is found, and not made twice', async () => {
  const id = await testSecret('lost', { host: '127.0.0.1', port: 5432, username: 'x', password: 'application-password', dbname: 'shop' });
  for (const fault of [{ cut: true }, { half: true }] as const) {
    proxy.clear();
    let cut = false;
    proxy.rule((call) => {
      if (cut || !call.target.endsWith('PutSecretValue')) return undefined;
      cut = true;
      return fault;
    });
    const staged = await stageEndpoint(context, id, { host: '127.0.0.2', port: 5433 }, 'run/stage/1');
    expect(proxy.seen.filter((call) => call.target.endsWith('PutSecretValue'))).toHaveLength(2);
    const versions = (await (await context.aws.secretsManager()).send(new DescribeSecretCommand({ SecretId: id }))).VersionIdsToStages!;
    expect(Object.keys(versions)).toHaveLength(2);
    expect(versions[staged.staged]).toEqual(['HOLDFAST-STAGED']);
  }
});

it('a listing that breaks off without saying where to go on is no listing', async () => {
  proxy.clear();
  proxy.rule((call) => (call.method === 'GET' && /versions|list-type|uploads/.test(call.path) ? { rewrite: (body) => body.replaceAll(/<IsTruncated>\w+<\/IsTruncated>/gi, '<IsTruncated>true</IsTruncated>').replaceAll(/<Next\w+>[^<]*<\/Next\w+>/g, '') } : undefined));
  const store = await openStore(context, 'main');
  await expect(all(store.list(''))).rejects.toMatchObject({ code: 'store-listing', retryable: true });
  await expect(all(store.superseded!(''))).rejects.toMatchObject({ code: 'store-listing', retryable: true });
  await expect(store.reapUploads('', 0, Date.now())).rejects.toMatchObject({ code: 'store-listing', retryable: true });
  await expect(all(keysAtMoment(await openBucket(context, 'files'), '', { momentMs: Date.now(), sameSecond: 'before' }))).rejects.toMatchObject({ code: 's3-listing', retryable: true });
});
