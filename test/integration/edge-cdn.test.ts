import type { CloudFrontClient, DistributionConfig } from '@aws-sdk/client-cloudfront';
import { CreateDistributionCommand, GetDistributionCommand, ListInvalidationsCommand, UpdateDistributionCommand } from '@aws-sdk/client-cloudfront';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { edgeSteps } from '../../activities/edge.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { awsProxy, THROTTLED_XML, xmlError, type AwsProxy } from '../aws-proxy.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

let context: Context;
let proxy: AwsProxy;
let client: CloudFrontClient;

beforeAll(async () => {
  proxy = await awsProxy(suite().aws.endpoint);
  context = await testConfig({ aws: { endpoint: proxy.url } });
  client = await (await testConfig()).aws.cloudFront();
});
afterAll(() => proxy?.close());
beforeEach(() => proxy.clear());

const origin = (id: string) => ({ Id: id, DomainName: `${id}.example.net`, OriginPath: '/app', CustomHeaders: { Quantity: 1, Items: [{ HeaderName: 'x-key', HeaderValue: id }] }, CustomOriginConfig: { HTTPPort: 80, HTTPSPort: 443, OriginProtocolPolicy: 'https-only' as const, OriginSslProtocols: { Quantity: 1, Items: ['TLSv1.2' as const] } } });
const behavior = { TargetOriginId: 'region-a', ViewerProtocolPolicy: 'redirect-to-https' as const, ForwardedValues: { QueryString: true, Cookies: { Forward: 'all' as const } }, MinTTL: 0, DefaultTTL: 120 };

async function distribution(): Promise<string> {
  const { Distribution } = await client.send(new CreateDistributionCommand({ DistributionConfig: {
    CallerReference: uniqueName('cdn'), Comment: 'shop', Enabled: true,
    Origins: { Quantity: 2, Items: [origin('region-a'), origin('region-b')] },
    OriginGroups: { Quantity: 1, Items: [{ Id: 'both', FailoverCriteria: { StatusCodes: { Quantity: 1, Items: [503] } }, Members: { Quantity: 2, Items: [{ OriginId: 'region-a' }, { OriginId: 'region-b' }] } }] },
    DefaultCacheBehavior: behavior,
    CacheBehaviors: { Quantity: 2, Items: [{ ...behavior, PathPattern: '/api/*' }, { ...behavior, PathPattern: '/static/*' }] },
  } }));
  return Distribution!.Id!;
}

async function configOf(id: string): Promise<DistributionConfig> {
  return (await client.send(new GetDistributionCommand({ Id: id }))).Distribution!.DistributionConfig!;
}

async function change(id: string, how: (config: DistributionConfig) => DistributionConfig): Promise<void> {
  const { ETag, Distribution } = await client.send(new GetDistributionCommand({ Id: id }));
  await client.send(new UpdateDistributionCommand({ Id: id, IfMatch: ETag!, DistributionConfig: how(Distribution!.DistributionConfig!) }));
}

const run = (phase: Phase, input: Record<string, unknown>, call: Parameters<typeof runStep>[5] = {}): Promise<PhaseResult> => runStep(edgeSteps, context, 'cloudfront.origin', phase, { pollMs: 100, wait: '10s', ...input }, call);
const targets = (config: DistributionConfig): unknown => [config.DefaultCacheBehavior!.TargetOriginId, ...config.CacheBehaviors!.Items!.map((one) => `${one.PathPattern} ${one.TargetOriginId}`)];

it('behaviours take another origin, everything else of the distribution stays, and the undo puts them back', async () => {
  const id = await distribution();
  const input = { distributionId: id, origin: 'region-b', behaviors: ['default', '/api/*'] };
  const before = await configOf(id);
  const inspected = await run('inspect', input);
  expect(inspected).toMatchObject({ satisfied: false, before: { choice: { default: 'region-a', '/api/*': 'region-a' } } });
  expect((await run('guard', input)).checks!.filter((check) => !check.ok)).toEqual([]);
  expect(await configOf(id)).toEqual(before);
  const applied = await run('apply', input, { before: inspected.before! });
  expect(applied).toMatchObject({ outcome: 'changed', facts: { from: 'default: region-a, /api/*: region-a', to: 'default: region-b, /api/*: region-b' } });
  const after = await configOf(id);
  expect(targets(after)).toEqual(['region-b', '/api/* region-b', '/static/* region-a']);
  expect({ ...after, DefaultCacheBehavior: null, CacheBehaviors: null }).toEqual({ ...before, DefaultCacheBehavior: null, CacheBehaviors: null });
  expect({ ...after.DefaultCacheBehavior, TargetOriginId: 'region-a' }).toEqual(before.DefaultCacheBehavior);
  const verified = await run('verify', input);
  expect(verified.checks!.every((check) => check.ok)).toBe(true);
  expect(verified.facts!['deployedMs']).toEqual(expect.any(Number));
  expect(await run('apply', input, { before: inspected.before! })).toMatchObject({ outcome: 'already-satisfied' });
  expect(await run('undo', input, { before: applied.before! })).toMatchObject({ outcome: 'changed' });
  expect(await configOf(id)).toEqual(before);
  expect(await run('undo', input, { before: applied.before! })).toMatchObject({ outcome: 'already-satisfied' });
});

it('an origin group tries the other member first, and the undo turns it round', async () => {
  const id = await distribution();
  const input = { distributionId: id, originGroup: { id: 'both', first: 'region-b' } };
  const order = async (): Promise<unknown> => (await configOf(id)).OriginGroups!.Items![0]!.Members!.Items!.map((member) => member.OriginId);
  const inspected = await run('inspect', input);
  expect((await run('guard', input)).checks!.every((check) => check.ok)).toBe(true);
  const applied = await run('apply', input, { before: inspected.before! });
  expect(await order()).toEqual(['region-b', 'region-a']);
  expect((await configOf(id)).OriginGroups!.Items![0]!.FailoverCriteria!.StatusCodes!.Items).toEqual([503]);
  await run('undo', input, { before: applied.before! });
  expect(await order()).toEqual(['region-a', 'region-b']);
});

it('the guard refuses an origin, a behaviour and a group that are not there, and a missing right', async () => {
  const id = await distribution();
  const failing = async (input: Record<string, unknown>): Promise<string[]> => (await run('guard', { distributionId: id, ...input })).checks!.filter((check) => !check.ok).map((check) => check.name);
  expect(await failing({ origin: 'region-c' })).toEqual(['origin']);
  expect(await failing({ origin: 'region-b', behaviors: ['/nothing/*'] })).toEqual(['behaviour /nothing/*']);
  expect(await failing({ originGroup: { id: 'none', first: 'region-b' } })).toEqual(['origin group']);
  expect(await failing({ originGroup: { id: 'both', first: 'region-c' } })).toEqual(['member']);
  proxy.rule((call) => (call.method === 'PUT' ? xmlError(403, 'AccessDenied', 'not authorized to perform: cloudfront:UpdateDistribution') : undefined));
  expect(await failing({ origin: 'region-b' })).toEqual(['CDN permission']);
  await expect(run('guard', { distributionId: 'ENOTHERE', origin: 'region-b' })).rejects.toMatchObject({ code: 'cdn-call', retryable: false });
  expect(() => run('guard', { distributionId: id })).toThrow(/either origin or originGroup/);
});

it('two writers: another change in between is kept, one of the same origin is not overwritten', async () => {
  const id = await distribution();
  const input = { distributionId: id, origin: 'region-b' };
  const inspected = await run('inspect', input);
  let raced = 0;
  proxy.rule(async (call) => {
    if (call.method !== 'PUT' || raced > 0) return undefined;
    raced += 1;
    await change(id, (config) => ({ ...config, Comment: 'changed by somebody else' }));
    return xmlError(412, 'PreconditionFailed', 'The precondition in one or more of the request fields evaluated to false.');
  });
  expect(await run('apply', input, { before: inspected.before! })).toMatchObject({ outcome: 'changed' });
  expect(raced).toBe(1);
  expect(await configOf(id)).toMatchObject({ Comment: 'changed by somebody else', DefaultCacheBehavior: { TargetOriginId: 'region-b' } });
  const other = await distribution();
  const seen = await run('inspect', { ...input, distributionId: other });
  await change(other, (config) => ({ ...config, Origins: { Quantity: 3, Items: [...config.Origins!.Items!, origin('region-c')] }, DefaultCacheBehavior: { ...config.DefaultCacheBehavior!, TargetOriginId: 'region-c' } }));
  await expect(run('apply', { ...input, distributionId: other }, { before: seen.before! })).rejects.toMatchObject({ code: 'cdn-changed' });
  expect((await configOf(other)).DefaultCacheBehavior!.TargetOriginId).toBe('region-c');
});

it('a lost answer is our own change, and throttling is waited out', async () => {
  const id = await distribution();
  const input = { distributionId: id, origin: 'region-b' };
  const inspected = await run('inspect', input);
  let sent = 0;
  proxy.rule((call) => {
    if (call.method !== 'PUT') return undefined;
    sent += 1;
    if (sent === 1) return { answer: THROTTLED_XML };
    return sent === 2 ? { cut: true } : xmlError(412, 'PreconditionFailed', 'The precondition in one or more of the request fields evaluated to false.');
  });
  expect(await run('apply', input, { before: inspected.before! })).toMatchObject({ outcome: 'changed', facts: { from: 'default: region-a' } });
  expect(sent).toBe(3);
  expect(await run('undo', input, { before: inspected.before! }).catch((error: { code: string }) => error.code)).toBe('cdn-contended');
  proxy.clear();
  expect(await run('undo', input, { before: inspected.before! })).toMatchObject({ outcome: 'changed' });
  expect((await configOf(id)).DefaultCacheBehavior!.TargetOriginId).toBe('region-a');
});

it('paths are invalidated once, and only when every edge has the new origin', async () => {
  const id = await distribution();
  const input = { distributionId: id, origin: 'region-b', invalidate: ['/index.html', '/api/*'] };
  const order: string[] = [];
  let pending = 2;
  proxy.rule((call) => {
    if (call.method === 'PUT') order.push('update');
    if (call.method === 'POST' && call.path.endsWith('/invalidation')) order.push('invalidate');
    if (call.method !== 'GET' || !call.path.endsWith(id) || !order.includes('update') || order.includes('invalidate')) return undefined;
    order.push('status');
    return pending-- > 0 ? { rewrite: (body) => body.replace('<Status>Deployed</Status>', '<Status>InProgress</Status>') } : undefined;
  });
  const applied = await run('apply', input);
  expect(order).toEqual(['update', 'status', 'status', 'status', 'invalidate']);
  const { InvalidationList } = await client.send(new ListInvalidationsCommand({ DistributionId: id }));
  expect(InvalidationList!.Items!.map((one) => one.Id)).toEqual([applied.facts!['invalidation']]);
  // Whether it was made nobody can tell by looking at the origins: it is never taken for done.
  expect(await run('inspect', input)).toMatchObject({ satisfied: false });
  expect((await run('verify', input, { facts: applied.facts! })).checks!.map((check) => [check.name, check.ok])).toEqual([['origin', true], ['Deployed', true], ['invalidation', true]]);
  // Under the same reference: CloudFront gives the same invalidation again.
  const references = (): string[] => proxy.seen.filter((call) => call.path.endsWith('/invalidation')).map((call) => /<CallerReference>(.*?)<\/CallerReference>/.exec(call.body)![1]!);
  await run('apply', input);
  expect(new Set(references()).size).toBe(1);
  expect(references().length).toBe(2);
});

it('one that is not Deployed in time fails the verification', async () => {
  const id = await distribution();
  proxy.rule((call) => (call.method === 'GET' ? { rewrite: (body) => body.replace('<Status>Deployed</Status>', '<Status>InProgress</Status>') } : undefined));
  const verified = await run('verify', { distributionId: id, origin: 'region-a', wait: '300ms' });
  expect(verified.checks!.find((check) => check.name === 'Deployed')).toMatchObject({ ok: false, found: 'InProgress' });
  expect(verified.facts!['deployedMs']).toBeNull();
});
