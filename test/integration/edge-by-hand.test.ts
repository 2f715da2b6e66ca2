import { execFile } from 'node:child_process';
import { CreateDistributionCommand, GetDistributionCommand } from '@aws-sdk/client-cloudfront';
import { ChangeResourceRecordSetsCommand, CreateHealthCheckCommand, CreateHostedZoneCommand, GetHealthCheckCommand, ListResourceRecordSetsCommand } from '@aws-sdk/client-route-53';
import { CreateSecretCommand, DescribeSecretCommand } from '@aws-sdk/client-secrets-manager';
import { CreateQueueCommand, SendMessageCommand } from '@aws-sdk/client-sqs';
import { GetParameterCommand, PutParameterCommand } from '@aws-sdk/client-ssm';
import { beforeAll, expect, it } from 'vitest';
import { byHand } from '../../src/model/by-hand.ts';
import type { ByHandBlock } from '../../src/model/by-hand/words.ts';
import { stepKind } from '../../src/model/catalogue.ts';
import type { Context } from '../../src/systems/context.ts';
import { suite, testConfig, testDirectory, uniqueName } from '../support.ts';

let context: Context;
const away = 'eu-west-1';

beforeAll(async () => {
  context = await testConfig();
  if ((await shell('aws --version && python3 --version', '/')).code !== 0) throw new Error('this test types a checklist into a shell, which needs the AWS command line and python3');
});

function shell(command: string, folder: string): Promise<{ code: number; out: string; err: string }> {
  const { accessKeyId, secretAccessKey } = suite().aws;
  return new Promise((resolve) => {
    execFile('sh', ['-c', command], { env: { PATH: process.env['PATH'], HF: folder, AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, AWS_PAGER: '' }, timeout: 120_000 }, (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code ?? 1), out: out.trim(), err }));
  });
}

/** Types the blocks of these kinds in order, holds each against what the paper says it prints, and gives the way back. */
async function type(uses: string, inputs: Record<string, unknown>): Promise<{ undo: () => Promise<void>; printed: string[] }> {
  const parsed = stepKind(uses)!.input.parse(inputs) as Record<string, unknown>;
  const paper = byHand({ step: 'step', uses, mode: 'planned', service: null, inputs: parsed, kept: {}, roles: { primary: null, candidate: null }, approvals: 0, readOnlyDeadlineMs: 60_000, config: context.config })!;
  const folder = testDirectory('paper');
  const printed: string[] = [];
  const enter = async (block: ByHandBlock): Promise<void> => {
    const { out, err, code } = await shell(block.sh, folder);
    const last = out.split('\n').at(-1)!;
    expect({ block: block.text, code, err }).toMatchObject({ code: 0 });
    expect({ block: block.text, last, right: block.prints?.includes(last) ?? true }).toMatchObject({ right: true });
    printed.push(last);
  };
  for (const block of paper.blocks.filter((one) => one.kind === 'check' || one.kind === 'do')) await enter(block);
  return { printed, undo: async () => {
    for (const block of paper.blocks.filter((one) => one.kind === 'undo')) await enter(block);
  } };
}

it('names are switched and put back as the checklist says', async () => {
  const client = await context.aws.route53();
  const domain = `${uniqueName('hand')}.example.`;
  const zone = (await client.send(new CreateHostedZoneCommand({ Name: domain, CallerReference: domain }))).HostedZone!.Id!.replace('/hostedzone/', '');
  const check = (await client.send(new CreateHealthCheckCommand({ CallerReference: uniqueName('check'), HealthCheckConfig: { Type: 'HTTP', FullyQualifiedDomainName: 'a.example.net', Port: 80 } }))).HealthCheck!.Id!;
  const [name, www] = [`api.${domain}`, `www.${domain}`];
  const weighted = (id: string, Weight: number, TTL: number) => ({ Name: name, Type: 'CNAME' as const, SetIdentifier: id, Weight, TTL, ResourceRecords: [{ Value: `${id}.example.net` }] });
  const failover = (id: string, Failover: 'PRIMARY' | 'SECONDARY', more: object) => ({ Name: www, Type: 'A' as const, SetIdentifier: id, Failover, TTL: 30, ResourceRecords: [{ Value: '192.0.2.1' }], ...more });
  await client.send(new ChangeResourceRecordSetsCommand({ HostedZoneId: zone, ChangeBatch: { Changes: [weighted('ha', 100, 60), weighted('hb', 0, 30), failover('fa', 'PRIMARY', { HealthCheckId: check }), failover('fb', 'SECONDARY', {})].map((set) => ({ Action: 'UPSERT', ResourceRecordSet: set })) } }));
  const sets = async (): Promise<unknown> => (await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: zone }))).ResourceRecordSets!.filter((set) => set.Name === name).map((set) => [set.SetIdentifier, set.Weight, set.TTL, set.ResourceRecords![0]!.Value]).sort();
  const { undo } = await type('route53.weights', { hostedZoneId: zone, name: name.slice(0, -1), type: 'CNAME', weights: { ha: 0, hb: 100 } });
  expect(await sets()).toEqual([['ha', 0, 60, 'ha.example.net'], ['hb', 100, 30, 'hb.example.net']]);
  await undo();
  expect(await sets()).toEqual([['ha', 100, 60, 'ha.example.net'], ['hb', 0, 30, 'hb.example.net']]);
  const flags = async (): Promise<unknown> => {
    const { Disabled, Inverted } = (await client.send(new GetHealthCheckCommand({ HealthCheckId: check }))).HealthCheck!.HealthCheckConfig!;
    return [Disabled, Inverted];
  };
  // Its last check asks DNS, where this zone is not.
  const paper = byHand({ step: 'f', uses: 'route53.failoverRecord', mode: 'planned', service: null, inputs: { hostedZoneId: zone, name: www, type: 'A', to: 'secondary' }, kept: {}, roles: { primary: null, candidate: null }, approvals: 0, readOnlyDeadlineMs: 1, config: context.config })!;
  const folder = testDirectory('paper');
  const [look, change, back] = paper.blocks;
  expect((await shell(look!.sh, folder)).out).toBe(check);
  expect(change!.prints).toContain((await shell(change!.sh, folder)).out);
  expect(await flags()).toEqual([true, true]);
  await shell(back!.sh, folder);
  expect(await flags()).toEqual([false, false]);
}, 300_000);

it('an origin, and the order of an origin group, are switched and put back as the checklist says', async () => {
  const client = await context.aws.cloudFront();
  const origin = (id: string) => ({ Id: id, DomainName: `${id}.example.net`, CustomOriginConfig: { HTTPPort: 80, HTTPSPort: 443, OriginProtocolPolicy: 'https-only' as const } });
  const behavior = { TargetOriginId: 'region-a', ViewerProtocolPolicy: 'https-only' as const, ForwardedValues: { QueryString: false, Cookies: { Forward: 'none' as const } }, MinTTL: 0 };
  const id = (await client.send(new CreateDistributionCommand({ DistributionConfig: { CallerReference: uniqueName('cdn'), Comment: 'by hand', Enabled: true, Origins: { Quantity: 2, Items: [origin('region-a'), origin('region-b')] }, OriginGroups: { Quantity: 1, Items: [{ Id: 'both', FailoverCriteria: { StatusCodes: { Quantity: 1, Items: [503] } }, Members: { Quantity: 2, Items: [{ OriginId: 'region-a' }, { OriginId: 'region-b' }] } }] }, DefaultCacheBehavior: behavior, CacheBehaviors: { Quantity: 1, Items: [{ ...behavior, PathPattern: '/api/*' }] } } }))).Distribution!.Id!;
  const seen = async (): Promise<unknown> => {
    const config = (await client.send(new GetDistributionCommand({ Id: id }))).Distribution!.DistributionConfig!;
    return [config.Comment, config.DefaultCacheBehavior!.TargetOriginId, config.CacheBehaviors!.Items![0]!.TargetOriginId, config.OriginGroups!.Items![0]!.Members!.Items!.map((member) => member.OriginId)];
  };
  const order = ['region-a', 'region-b'];
  const first = await type('cloudfront.origin', { distributionId: id, origin: 'region-b', behaviors: ['default', '/api/*'] });
  expect(await seen()).toEqual(['by hand', 'region-b', 'region-b', order]);
  await first.undo();
  expect(await seen()).toEqual(['by hand', 'region-a', 'region-a', order]);
  const second = await type('cloudfront.origin', { distributionId: id, originGroup: { id: 'both', first: 'region-b' } });
  expect(await seen()).toEqual(['by hand', 'region-a', 'region-a', ['region-b', 'region-a']]);
  await second.undo();
  expect(await seen()).toEqual(['by hand', 'region-a', 'region-a', order]);
}, 300_000);

it('a flag, a replica and an empty queue in another Region, as the checklist says', async () => {
  const [ssm, sqs, here] = [await context.aws.ssm(away), await context.aws.sqs(away), await context.aws.secretsManager()];
  const now = (name: string): Promise<string | null> => ssm.send(new GetParameterCommand({ Name: name })).then((answer) => answer.Parameter!.Value!, () => null);
  const [kept, made] = [`/${uniqueName('hand')}/kept`, `/${uniqueName('hand')}/made`];
  await ssm.send(new PutParameterCommand({ Name: kept, Value: 'it is on', Type: 'String' }));
  for (const [name, before] of [[kept, 'it is on'], [made, null]] as const) {
    const { undo } = await type('flag.set', { name, value: "off, 'quoted' $HOME", region: away });
    expect(await now(name)).toBe("off, 'quoted' $HOME");
    await undo();
    expect(await now(name)).toBe(before);
  }
  const secret = uniqueName('hand');
  await here.send(new CreateSecretCommand({ Name: secret, SecretString: '{}' }));
  const { undo } = await type('secret.replicate', { secret, region: away });
  await type('secret.verifyReplica', { secret, region: away });
  await undo();
  expect((await here.send(new DescribeSecretCommand({ SecretId: secret }))).ReplicationStatus ?? []).toEqual([]);
  const queue = uniqueName('hand');
  const { QueueUrl } = await sqs.send(new CreateQueueCommand({ QueueName: queue }));
  await type('sqs.verifyEmpty', { queue, region: away });
  await sqs.send(new SendMessageCommand({ QueueUrl: QueueUrl!, MessageBody: 'one' }));
  await expect(type('sqs.verifyEmpty', { queue, region: away })).rejects.toMatchObject({ message: expect.stringContaining('right') });
}, 300_000);
