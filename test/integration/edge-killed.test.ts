import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { CreateDistributionCommand, GetDistributionCommand } from '@aws-sdk/client-cloudfront';
import { ChangeResourceRecordSetsCommand, CreateHealthCheckCommand, CreateHostedZoneCommand, GetHealthCheckCommand, ListResourceRecordSetsCommand, type ResourceRecordSet } from '@aws-sdk/client-route-53';
import { CreateSecretCommand, DescribeSecretCommand, GetSecretValueCommand, RemoveRegionsFromReplicationCommand, ReplicateSecretToRegionsCommand } from '@aws-sdk/client-secrets-manager';
import { CreateQueueCommand, GetQueueAttributesCommand, ReceiveMessageCommand, SendMessageBatchCommand } from '@aws-sdk/client-sqs';
import { GetParameterCommand, GetParameterHistoryCommand, PutParameterCommand } from '@aws-sdk/client-ssm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Context } from '../../src/systems/context.ts';
import { awsProxy, type AwsProxy } from '../aws-proxy.ts';
import { surviveDeath } from '../survive-death.ts';
import { suite, testConfig, testDirectory, uniqueName } from '../support.ts';

const away = 'eu-west-1';
const proxies: AwsProxy[] = [];
let direct: Context;

beforeAll(async () => {
  direct = await testConfig();
});
afterAll(() => Promise.all(proxies.map((proxy) => proxy.close())));

async function place(): Promise<{ context: Context; proxy: AwsProxy }> {
  const proxy = await awsProxy(suite().aws.endpoint);
  proxies.push(proxy);
  return { proxy, context: await testConfig({ aws: { endpoint: proxy.url } }) };
}

/** Before the point of no return: what was done goes back. */
const FAILS = { id: 'fails', uses: 'rollout.command', with: { argv: ['false'] } };
const after = (at: string) => ({ at });

describe.concurrent('the worker is killed after each change, and after each undo', () => {
  it('a worker killed after names were switched, and after they were switched back', async () => {
    const { context, proxy } = await place();
    const client = await direct.aws.route53();
    const domain = `${uniqueName('killed')}.example.`;
    const zone = (await client.send(new CreateHostedZoneCommand({ Name: domain, CallerReference: domain }))).HostedZone!.Id!.replace('/hostedzone/', '');
    const check = async (): Promise<string> => (await client.send(new CreateHealthCheckCommand({ CallerReference: uniqueName('check'), HealthCheckConfig: { Type: 'HTTP', FullyQualifiedDomainName: 'a.example.net', Port: 80 } }))).HealthCheck!.Id!;
    const [first, second] = [await check(), await check()];
    const weighted = (id: string, Weight: number): ResourceRecordSet => ({ Name: `api.${domain}`, Type: 'CNAME', SetIdentifier: id, Weight, TTL: 60, ResourceRecords: [{ Value: `${id}.example.net` }] });
    const failover = (id: string, Failover: 'PRIMARY' | 'SECONDARY', HealthCheckId: string): ResourceRecordSet => ({ Name: `www.${domain}`, Type: 'A', SetIdentifier: id, Failover, TTL: 60, HealthCheckId, ResourceRecords: [{ Value: Failover === 'PRIMARY' ? '192.0.2.1' : '192.0.2.2' }] });
    await client.send(new ChangeResourceRecordSetsCommand({ HostedZoneId: zone, ChangeBatch: { Changes: [weighted('wa', 100), weighted('wb', 0), failover('fa', 'PRIMARY', first), failover('fb', 'SECONDARY', second)].map((set) => ({ Action: 'UPSERT', ResourceRecordSet: set })) } }));
    const sets = async (): Promise<unknown> => (await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: zone }))).ResourceRecordSets!.filter((set) => set.SetIdentifier !== undefined).sort((a, b) => a.SetIdentifier!.localeCompare(b.SetIdentifier!));
    const before = await sets();
    const result = await surviveDeath(context, [
      { id: 'weights', uses: 'route53.weights', with: { hostedZoneId: zone, name: `api.${domain}`, type: 'CNAME', weights: { wa: 0, wb: 100 } } },
      { id: 'failover', uses: 'route53.failoverRecord', with: { hostedZoneId: zone, name: `www.${domain}` } },
      FAILS,
    ], [after('route53.weights:apply'), after('route53.failoverRecord:apply'), after('route53.failoverRecord:undo'), after('route53.weights:undo')]);
    expect(result.outcome).toBe('failed');
    expect(await sets()).toEqual(before);
    expect((await client.send(new GetHealthCheckCommand({ HealthCheckId: first }))).HealthCheck!.HealthCheckConfig).toMatchObject({ Disabled: false, Inverted: false });
    // Each was changed once and put back once, whatever died: the other batches are the guards' and delete what is not there.
    const batches = proxy.seen.filter((call) => call.method === 'POST' && call.path.includes('/rrset') && call.body.includes('<Action>CREATE</Action>'));
    expect(batches.map((call) => /<SetIdentifier>wb<\/SetIdentifier><Weight>(\d+)/.exec(call.body.slice(call.body.indexOf('CREATE')))?.[1] ?? call.body)).toEqual(['100', '0']);
    const flags = proxy.seen.filter((call) => call.method === 'POST' && /\/healthcheck\//.test(call.path) && call.body.includes('<Inverted>'));
    expect(flags.map((call) => /<Inverted>(\w+)</.exec(call.body)![1])).toEqual(['true', 'false']);
  }, 480_000);

  it('a worker killed after an origin and a flag were switched, and after they were switched back', async () => {
    const { context, proxy } = await place();
    const [cdn, ssm] = [await direct.aws.cloudFront(), await direct.aws.ssm(away)];
    const origin = (id: string) => ({ Id: id, DomainName: `${id}.example.net`, CustomOriginConfig: { HTTPPort: 80, HTTPSPort: 443, OriginProtocolPolicy: 'https-only' as const } });
    const { Distribution } = await cdn.send(new CreateDistributionCommand({ DistributionConfig: { CallerReference: uniqueName('cdn'), Comment: '', Enabled: true, Origins: { Quantity: 2, Items: [origin('region-a'), origin('region-b')] }, DefaultCacheBehavior: { TargetOriginId: 'region-a', ViewerProtocolPolicy: 'https-only', ForwardedValues: { QueryString: false, Cookies: { Forward: 'none' } }, MinTTL: 0 } } }));
    const id = Distribution!.Id!;
    const flag = `/${uniqueName('killed')}/search`;
    await ssm.send(new PutParameterCommand({ Name: flag, Value: 'on', Type: 'String' }));
    const result = await surviveDeath(context, [
      { id: 'origin', uses: 'cloudfront.origin', with: { distributionId: id, origin: 'region-b', pollMs: 100 } },
      { id: 'degrade', uses: 'flag.set', with: { name: flag, value: 'off', region: away } },
      FAILS,
    ], [after('cloudfront.origin:apply'), after('flag.set:apply'), after('flag.set:undo'), after('cloudfront.origin:undo')]);
    expect(result.outcome).toBe('failed');
    expect((await cdn.send(new GetDistributionCommand({ Id: id }))).Distribution!.DistributionConfig!.DefaultCacheBehavior!.TargetOriginId).toBe('region-a');
    const targets = proxy.seen.filter((call) => call.method === 'PUT').map((call) => /<TargetOriginId>(.*?)</.exec(call.body)![1]);
    // The guard writes what is there under a tag that it does not have; the emulator takes even that.
    expect(targets.filter((target, index) => target !== (targets[index - 1] ?? 'region-a'))).toEqual(['region-b', 'region-a']);
    const { Parameters } = await ssm.send(new GetParameterHistoryCommand({ Name: flag }));
    expect(Parameters!.map((one) => one.Value)).toEqual(['on', 'off', 'on']);
  }, 480_000);

  it('a worker killed after a secret was replicated, and after its replica was taken away; after one was promoted, and after a flag was restored', async () => {
    const { context, proxy } = await place();
    const [here, there] = [await direct.aws.secretsManager('us-east-1'), await direct.aws.secretsManager(away)];
    const ssm = await direct.aws.ssm();
    const [fresh, replica, flag] = [uniqueName('fresh'), uniqueName('replica'), uniqueName('flag')];
    await here.send(new CreateSecretCommand({ Name: fresh, SecretString: '{"password":"one"}' }));
    await here.send(new CreateSecretCommand({ Name: replica, SecretString: '{"password":"two"}' }));
    await here.send(new ReplicateSecretToRegionsCommand({ SecretId: replica, AddReplicaRegions: [{ Region: away }] }));
    await ssm.send(new PutParameterCommand({ Name: flag, Value: 'off', Type: 'String' }));
    let promotions = 0;
    // Not in the emulator: the documented answer, with its effect.
    proxy.rule(async (call) => {
      if (call.target !== 'secretsmanager.StopReplicationToReplica') return undefined;
      promotions += 1;
      const { ARN } = await there.send(new DescribeSecretCommand({ SecretId: replica }));
      await here.send(new RemoveRegionsFromReplicationCommand({ SecretId: replica, RemoveReplicaRegions: [away] }));
      await there.send(new CreateSecretCommand({ Name: replica, SecretString: '{"password":"two"}' }));
      return { answer: { status: 200, headers: { 'content-type': 'application/x-amz-json-1.1' }, body: JSON.stringify({ ARN }) } };
    });
    const result = await surviveDeath(context, [
      { id: 'replicate', uses: 'secret.replicate', with: { secret: fresh, region: away } },
      { id: 'promote', uses: 'secret.promoteReplica', with: { secret: replica, region: away } },
      { id: 'restore', uses: 'flag.restore', with: { name: flag, previous: 'on', existed: true, version: 1 } },
      FAILS,
    ], [after('secret.replicate:apply'), after('secret.promoteReplica:apply'), after('flag.restore:apply'), after('secret.replicate:undo')]);
    expect(result.outcome).toBe('failed');
    expect((await here.send(new DescribeSecretCommand({ SecretId: fresh }))).ReplicationStatus ?? []).toEqual([]);
    expect(promotions).toBe(1);
    const own = await there.send(new DescribeSecretCommand({ SecretId: replica }));
    expect(own.PrimaryRegion).toBeUndefined();
    expect((await there.send(new GetSecretValueCommand({ SecretId: replica, VersionStage: 'AWSCURRENT' }))).SecretString).toBe('{"password":"two"}');
    expect((await ssm.send(new GetParameterCommand({ Name: flag }))).Parameter).toMatchObject({ Value: 'on', Version: 2 });
  }, 480_000);

  it('a worker killed between sending and deleting, and another in the middle of sending: no message is lost or doubled', async () => {
    const { context, proxy } = await place();
    const client = await direct.aws.sqs();
    const [deadLetter, queue] = [uniqueName('dead'), uniqueName('orders')];
    const dead = (await client.send(new CreateQueueCommand({ QueueName: deadLetter }))).QueueUrl!;
    const { Attributes } = await client.send(new GetQueueAttributesCommand({ QueueUrl: dead, AttributeNames: ['QueueArn'] }));
    const url = (await client.send(new CreateQueueCommand({ QueueName: queue, Attributes: { RedrivePolicy: JSON.stringify({ deadLetterTargetArn: Attributes!.QueueArn, maxReceiveCount: 3 }) } }))).QueueUrl!;
    const bodies = Array.from({ length: 25 }, (_, index) => `order ${index}`);
    for (const from of [0, 10, 20]) await client.send(new SendMessageBatchCommand({ QueueUrl: dead, Entries: bodies.slice(from, from + 10).map((MessageBody, index) => ({ Id: String(index), MessageBody })) }));
    const marks = testDirectory('marks');
    let [sends, deletions] = [0, 0];
    proxy.rule(async (call) => {
      const entries = call.target.startsWith('AmazonSQS.') ? ((JSON.parse(call.body) as { Entries?: unknown[] }).Entries ?? []).length : 0;
      if (entries === 0) return undefined;
      if (call.target === 'AmazonSQS.DeleteMessageBatch' && ++deletions === 1) {
        // It never comes to deleting: the worker dies meanwhile.
        writeFileSync(join(marks, 'deleting'), 'now');
        await new Promise((resolve) => setTimeout(resolve, 1000));
        return { answer: { status: 500, body: '' } };
      }
      if (call.target === 'AmazonSQS.SendMessageBatch' && ++sends === 2) {
        // It takes effect, and whoever sent it never hears of it.
        writeFileSync(join(marks, 'sending'), 'now');
        return { cut: true };
      }
      return undefined;
    });
    const result = await surviveDeath(context, [{ id: 'redrive', uses: 'sqs.redrive', with: { deadLetterQueue: deadLetter, queue, method: 'batches', visibility: '5s' } }], [
      { at: 'sqs.redrive:apply', whenFile: { path: join(marks, 'deleting'), has: 'now' } },
      { at: 'sqs.redrive:apply', whenFile: { path: join(marks, 'sending'), has: 'now' } },
    ]);
    // Ten that a lost worker was about to send stay where they are, and the step says so: it fails for a person to look.
    expect(result.outcome).toBe('failed');
    expect(result.failure).toMatch(/10 may be in both queues/);
    const drained = async (from: string): Promise<string[]> => {
      const found: string[] = [];
      for (let empty = 0; empty < 2;) {
        const { Messages = [] } = await client.send(new ReceiveMessageCommand({ QueueUrl: from, MaxNumberOfMessages: 10, VisibilityTimeout: 60, WaitTimeSeconds: 0 }));
        if (Messages.length === 0) empty += 1;
        found.push(...Messages.map((message) => message.Body!));
      }
      return found.sort();
    };
    const arrived = await drained(url);
    expect(arrived).toEqual([...bodies].sort());
    expect((await drained(dead)).length).toBe(10);
    // 10 + 10 + 5 were sent, each message in one batch only.
    expect(sends).toBe(3);
  }, 480_000);

  it('a worker killed while it watches: the next one goes on counting, and says for how long nobody looked', async () => {
    const { context } = await place();
    const mark = join(testDirectory('marks'), 'watching');
    let asked = 0;
    const service = createServer((_, reply) => {
      asked += 1;
      // Long enough that a report of it is at the server.
      if (asked === 30) writeFileSync(mark, 'now');
      reply.writeHead(200).end();
    });
    await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve));
    try {
      const url = `http://127.0.0.1:${(service.address() as AddressInfo).port}/`;
      const result = await surviveDeath(context, [{ id: 'watch', uses: 'service.watch', with: { duration: '6s', interval: '100ms', http: { url }, minSamples: 20 } }], [{ at: 'service.watch:verify', whenFile: { path: mark, has: 'now' } }]);
      expect(result.outcome).toBe('succeeded');
      const { summary } = result.steps.find((step) => step.id === 'watch')!;
      const [, samples, gap] = /^http: 100 % of (\d+), .*NOT WATCHED for ([\d.]+) s in 1 gap/.exec(summary)!;
      // What came after the last report is not counted, and nothing is counted that was not asked.
      expect(Number(samples)).toBeLessThanOrEqual(asked);
      expect(Number(samples)).toBeGreaterThan(asked - 30);
      // The server waits 10 s for a heartbeat before it gives the watch to another worker.
      expect(Number(gap)).toBeGreaterThan(5);
    } finally {
      service.closeAllConnections();
      service.close();
    }
  }, 480_000);
});
