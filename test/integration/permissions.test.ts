import { MockActivityEnvironment } from '@temporalio/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createStepActivities } from '../../activities/steps.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startMoto } from '../../src/local/stack.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { PhaseCall } from '../../src/model/step-call.ts';
import { mayWrite } from '../../src/systems/store-rights.ts';
import { testConfig, testDirectory } from '../support.ts';

// AWS emulators of their own, since enforcing permissions concerns all who use it.
let processes: Processes;
beforeAll(() => {
  processes = createProcesses({ directory: testDirectory('dns') });
});
afterAll(() => processes?.end());

it('a role that may read the zone and not change it is found by the guard, and nothing is changed by asking', async () => {
  const moto = await startMoto({ processes, directory: processes.directory });
  const settings = { region: moto.region, endpoint: moto.endpoint, credentials: { accessKeyId: moto.accessKeyId, secretAccessKey: moto.secretAccessKey } };
  const { ChangeResourceRecordSetsCommand, CreateHostedZoneCommand, ListResourceRecordSetsCommand, Route53Client } = await import('@aws-sdk/client-route-53');
  const owner = new Route53Client(settings);
  const zone = (await owner.send(new CreateHostedZoneCommand({ Name: 'shop.example', CallerReference: 'one' }))).HostedZone!.Id!.replace('/hostedzone/', '');
  await owner.send(
    new ChangeResourceRecordSetsCommand({ HostedZoneId: zone, ChangeBatch: { Changes: [{ Action: 'CREATE', ResourceRecordSet: { Name: 'db.shop.example', Type: 'A', TTL: 5, ResourceRecords: [{ Value: '127.0.0.1' }] } }] } }),
  );
  const records = async (): Promise<unknown> => (await owner.send(new ListResourceRecordSetsCommand({ HostedZoneId: zone }))).ResourceRecordSets;
  const before = await records();
  const key = await restrictedUser(moto.endpoint, { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: ['route53:List*', 'route53:Get*'], Resource: '*' }] });
  process.env['HOLDFAST_TEST_DNS_KEY'] = key.id;
  process.env['HOLDFAST_TEST_DNS_SECRET'] = key.secret;
  const context = await testConfig({
    aws: { endpoint: moto.endpoint, credentials: { accessKeyId: 'env:HOLDFAST_TEST_DNS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_DNS_SECRET' } },
    datastores: {
      shop: {
        engine: 'postgres',
        database: 'shop',
        admin: { username: 'holdfast', password: 'env:HOLDFAST_TEST_PG_PASSWORD' },
        nodes: { a: { host: '127.0.0.1' }, b: { host: '127.0.0.2' } },
        endpoint: { secret: 'none', dns: { hostedZoneId: zone, name: 'db.shop.example', type: 'A' } },
      },
    },
  });
  const guard = async (): Promise<PhaseResult> =>
    new MockActivityEnvironment().run(createStepActivities(context)['route53.change:guard']!, {
      step: 'dns', uses: 'route53.change', phase: 'guard', preflight: true, with: { datastore: 'shop' }, mode: 'planned', service: 'orders', environment: 'test',
      workflowId: 'failover/orders', runId: 'run', epoch: 1, key: 'failover/orders/dns/1', before: null, facts: {},
    } satisfies PhaseCall) as Promise<PhaseResult>;

  expect((await guard()).checks!.filter((check) => !check.ok)).toEqual([]);
  await enforce(moto.endpoint, 0);
  const refused = (await guard()).checks!.filter((check) => !check.ok);
  await enforce(moto.endpoint, 'inf');
  expect(refused).toEqual([expect.objectContaining({ name: 'DNS permission', found: expect.stringMatching(/HTTP 403/) })]);
  expect(await records()).toEqual(before);
  owner.destroy();
  context.close();
});

it('a role that may read the secret and not move its labels is found by the guard, and nothing is changed by asking', async () => {
  const moto = await startMoto({ processes, directory: testDirectory('secret') });
  const { CreateSecretCommand, DescribeSecretCommand, SecretsManagerClient } = await import('@aws-sdk/client-secrets-manager');
  const owner = new SecretsManagerClient({ region: moto.region, endpoint: moto.endpoint, credentials: { accessKeyId: moto.accessKeyId, secretAccessKey: moto.secretAccessKey } });
  await owner.send(new CreateSecretCommand({ Name: 'shop-app', SecretString: JSON.stringify({ host: '127.0.0.1', port: 5432, username: 'x', password: 'application-password', dbname: 'shop' }) }));
  const versions = async (): Promise<unknown> => (await owner.send(new DescribeSecretCommand({ SecretId: 'shop-app' }))).VersionIdsToStages;
  const before = await versions();
  const key = await restrictedUser(moto.endpoint, { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: ['secretsmanager:Get*', 'secretsmanager:Describe*'], Resource: '*' }] });
  process.env['HOLDFAST_TEST_SECRET_KEY'] = key.id;
  process.env['HOLDFAST_TEST_SECRET_SECRET'] = key.secret;
  const context = await testConfig({
    aws: { endpoint: moto.endpoint, credentials: { accessKeyId: 'env:HOLDFAST_TEST_SECRET_KEY', secretAccessKey: 'env:HOLDFAST_TEST_SECRET_SECRET' } },
    datastores: { shop: { engine: 'postgres', database: 'shop', admin: { username: 'holdfast', password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, nodes: { a: { host: '127.0.0.1' }, b: { host: '127.0.0.2' } }, endpoint: { secret: 'shop-app' } } },
  });
  const guard = async (): Promise<PhaseResult> =>
    new MockActivityEnvironment().run(createStepActivities(context)['secret.swap:guard']!, {
      step: 'swap-secret', uses: 'secret.swap', phase: 'guard', preflight: true, with: { datastore: 'shop' }, mode: 'planned', service: 'orders', environment: 'test',
      workflowId: 'failover/orders', runId: 'run', epoch: 1, key: 'failover/orders/swap-secret/1', before: null, facts: {},
    } satisfies PhaseCall) as Promise<PhaseResult>;

  expect((await guard()).checks!.map(({ name, ok }) => ({ name, ok }))).toEqual([{ name: 'secret readable', ok: true }, { name: 'right to swap', ok: true }]);
  await enforce(moto.endpoint, 0);
  const refused = (await guard()).checks!.filter((check) => !check.ok);
  await enforce(moto.endpoint, 'inf');
  expect(refused).toEqual([expect.objectContaining({ name: 'right to swap', found: expect.stringMatching(/HTTP 403/) })]);
  expect(await versions()).toEqual(before);
  owner.destroy();
  context.close();
});

it('a role that may read a bucket and not write to it is found, and nothing is stored by asking', async () => {
  const moto = await startMoto({ processes, directory: testDirectory('bucket') });
  const { CreateBucketCommand, ListMultipartUploadsCommand, ListObjectsV2Command, S3Client } = await import('@aws-sdk/client-s3');
  const owner = new S3Client({ region: moto.region, endpoint: moto.endpoint, forcePathStyle: true, credentials: { accessKeyId: moto.accessKeyId, secretAccessKey: moto.secretAccessKey } });
  await owner.send(new CreateBucketCommand({ Bucket: 'backups', ...(moto.region === 'us-east-1' ? {} : { CreateBucketConfiguration: { LocationConstraint: moto.region as 'eu-central-1' } }) }));
  const key = await restrictedUser(moto.endpoint, { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: ['s3:Get*', 's3:List*'], Resource: '*' }] });
  process.env['HOLDFAST_TEST_BUCKET_KEY'] = key.id;
  process.env['HOLDFAST_TEST_BUCKET_SECRET'] = key.secret;
  const context = await testConfig({
    stores: { main: { type: 's3', bucket: 'backups', prefix: 'shop', endpoint: moto.endpoint, region: moto.region, forcePathStyle: true, credentials: { accessKeyId: 'env:HOLDFAST_TEST_BUCKET_KEY', secretAccessKey: 'env:HOLDFAST_TEST_BUCKET_SECRET' } } },
  });
  // Who may write is asked of VersityGW in readiness.test.ts: moto breaks (HTTP 500) on a part of an upload that is not there.
  expect((await mayWrite(context, 'main')).found).toMatch(/HTTP 500/);
  await enforce(moto.endpoint, 0);
  const refused = await mayWrite(context, 'main');
  await enforce(moto.endpoint, 'inf');
  expect(refused).toMatchObject({ allowed: false, found: expect.stringMatching(/AccessDenied|HTTP 403/) });
  expect((await owner.send(new ListObjectsV2Command({ Bucket: 'backups' }))).Contents ?? []).toEqual([]);
  expect((await owner.send(new ListMultipartUploadsCommand({ Bucket: 'backups' }))).Uploads ?? []).toEqual([]);
  owner.destroy();
  context.close();
});

/** moto asks for permissions after so many requests. Source: moto documentation, "IAM-like Access Control". */
async function enforce(endpoint: string, after: number | 'inf'): Promise<void> {
  const answer = await fetch(`${endpoint}/moto-api/reset-auth`, { method: 'POST', body: String(after) });
  expect(answer.status).toBe(200);
}

async function restrictedUser(endpoint: string, policy: object): Promise<{ id: string; secret: string }> {
  const call = async (fields: Record<string, string>): Promise<string> => {
    const answer = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/x-www-form-urlencoded', authorization: 'AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=none', host: 'iam.amazonaws.com' },
      body: new URLSearchParams({ Version: '2010-05-08', ...fields }).toString(),
    });
    const text = await answer.text();
    expect(answer.status).toBe(200);
    return text;
  };
  await call({ Action: 'CreateUser', UserName: 'worker' });
  await call({ Action: 'PutUserPolicy', UserName: 'worker', PolicyName: 'read', PolicyDocument: JSON.stringify(policy) });
  const made = await call({ Action: 'CreateAccessKey', UserName: 'worker' });
  return { id: /<AccessKeyId>(.+?)</.exec(made)![1]!, secret: /<SecretAccessKey>(.+?)</.exec(made)![1]! };
}
