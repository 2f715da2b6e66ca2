import { createSocket, type Socket } from 'node:dgram';
import { PutMetricDataCommand } from '@aws-sdk/client-cloudwatch';
import type { ResourceRecordSet, Route53Client } from '@aws-sdk/client-route-53';
import { ChangeResourceRecordSetsCommand, CreateHealthCheckCommand, CreateHostedZoneCommand, GetHealthCheckCommand, ListResourceRecordSetsCommand, UpdateHealthCheckCommand } from '@aws-sdk/client-route-53';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { edgeSteps } from '../../activities/edge.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import { recordSets } from '../../src/systems/record-sets.ts';
import type { Context } from '../../src/systems/context.ts';
import { awsProxy, THROTTLED_XML, xmlError, type AwsProxy } from '../aws-proxy.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

let context: Context;
let proxy: AwsProxy;
let client: Route53Client;
let zone: string;
let domain: string;

beforeAll(async () => {
  proxy = await awsProxy(suite().aws.endpoint);
  context = await testConfig({ aws: { endpoint: proxy.url } });
  // What a second operator and the assertions use: past the proxy.
  client = await (await testConfig()).aws.route53();
  domain = `${uniqueName('edge')}.example.`;
  zone = (await client.send(new CreateHostedZoneCommand({ Name: domain, CallerReference: domain }))).HostedZone!.Id!.replace('/hostedzone/', '');
});
afterAll(() => proxy?.close());
beforeEach(() => proxy.clear());

async function put(...sets: ResourceRecordSet[]): Promise<void> {
  await client.send(new ChangeResourceRecordSetsCommand({ HostedZoneId: zone, ChangeBatch: { Changes: sets.map((set) => ({ Action: 'UPSERT', ResourceRecordSet: set })) } }));
}

async function setsOf(name: string): Promise<ResourceRecordSet[]> {
  const { ResourceRecordSets } = await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: zone }));
  return ResourceRecordSets!.filter((set) => set.Name === name).sort((a, b) => a.SetIdentifier!.localeCompare(b.SetIdentifier!));
}

const weighted = (name: string, id: string, weight: number, more: Partial<ResourceRecordSet> = {}): ResourceRecordSet => ({ Name: name, Type: 'CNAME', SetIdentifier: id, Weight: weight, TTL: 60, ResourceRecords: [{ Value: `${id}.example.net` }], ...more });

/** The emulator deletes by set identifier in the whole zone: the names of a test are of that test alone. */
async function pair(): Promise<{ name: string; old: string; next: string; input: Record<string, unknown> }> {
  const key = uniqueName('w');
  const name = `${key}.${domain}`;
  const [old, next] = [`${key}-a`, `${key}-b`];
  await put(weighted(name, old, 100), weighted(name, next, 0, { TTL: 30 }));
  return { name, old, next, input: { hostedZoneId: zone, name, type: 'CNAME', weights: { [old]: 0, [next]: 100 }, wait: '3s' } };
}

function run(uses: string, phase: Phase, input: Record<string, unknown>, call: Parameters<typeof runStep>[5] = {}): Promise<PhaseResult> {
  return runStep(edgeSteps, context, uses, phase, input, call);
}

const weightsIn = async (name: string): Promise<unknown> => Object.fromEntries((await setsOf(name)).map((set) => [set.SetIdentifier, set.Weight]));

it('weights are moved in one batch and put back, and TTL, values and alias of each set survive', async () => {
  const { name, old, next, input } = await pair();
  const before = await setsOf(name);
  const inspected = await run('route53.weights', 'inspect', input);
  expect(inspected.satisfied).toBe(false);
  expect((await run('route53.weights', 'guard', input)).checks!.filter((check) => !check.ok)).toEqual([]);
  const applied = await run('route53.weights', 'apply', input, { before: inspected.before! });
  expect(applied).toMatchObject({ outcome: 'changed', summary: `${name}: ${old} 100, ${next} 0 -> ${old} 0, ${next} 100` });
  expect(await setsOf(name)).toEqual(before.map((set) => ({ ...set, Weight: set.SetIdentifier === next ? 100 : 0 })));
  const verified = await run('route53.weights', 'verify', input, { before: applied.before!, facts: applied.facts! });
  expect(verified.checks!.filter((check) => !check.ok)).toEqual([]);
  expect(verified.facts!['insyncMs']).toEqual(expect.any(Number));
  // Idempotent: what is there already is not written again.
  proxy.clear();
  expect(await run('route53.weights', 'apply', input, { before: inspected.before! })).toMatchObject({ outcome: 'already-satisfied' });
  expect(proxy.seen.filter((call) => call.method === 'POST')).toEqual([]);
  expect(await run('route53.weights', 'undo', input, { before: applied.before!, facts: applied.facts! })).toMatchObject({ outcome: 'changed' });
  expect(await setsOf(name)).toEqual(before);
  expect(await run('route53.weights', 'undo', input, { before: applied.before!, facts: applied.facts! })).toMatchObject({ outcome: 'already-satisfied' });
});

it('alias sets with a health target keep their alias', async () => {
  const key = uniqueName('alias');
  const name = `${key}.${domain}`;
  const alias = (id: string): NonNullable<ResourceRecordSet['AliasTarget']> => ({ HostedZoneId: 'Z35SXDOTRQ7X7K', DNSName: `${id}.elb.amazonaws.com.`, EvaluateTargetHealth: true });
  await put({ Name: name, Type: 'A', SetIdentifier: `${key}-a`, Weight: 100, AliasTarget: alias('a') }, { Name: name, Type: 'A', SetIdentifier: `${key}-b`, Weight: 0, AliasTarget: alias('b') });
  const input = { hostedZoneId: zone, name, type: 'A', weights: { [`${key}-a`]: 0, [`${key}-b`]: 255 }, wait: '3s' };
  expect((await run('route53.weights', 'guard', input)).checks!.filter((check) => !check.ok)).toEqual([]);
  await run('route53.weights', 'apply', input);
  expect(await setsOf(name)).toMatchObject([{ Weight: 0, AliasTarget: alias('a') }, { Weight: 255, AliasTarget: alias('b') }]);
});

it('a second operator between guard and apply is not overwritten, nor by the undo', async () => {
  const { name, old, next, input } = await pair();
  const inspected = await run('route53.weights', 'inspect', input);
  await put(weighted(name, old, 50));
  await expect(run('route53.weights', 'apply', input, { before: inspected.before! })).rejects.toMatchObject({ code: 'dns-changed', message: expect.stringContaining(`it had ${old} 100, ${next} 0, and has ${old} 50, ${next} 0 now`) });
  expect(await weightsIn(name)).toEqual({ [old]: 50, [next]: 0 });
  // Another value under the same weights is another record as well.
  const again = await run('route53.weights', 'inspect', input);
  await put(weighted(name, next, 0, { ResourceRecords: [{ Value: 'elsewhere.example.net' }] }));
  await expect(run('route53.weights', 'apply', input, { before: again.before! })).rejects.toMatchObject({ code: 'dns-changed' });
  const anew = await run('route53.weights', 'inspect', input);
  const applied = await run('route53.weights', 'apply', input, { before: anew.before! });
  await put(weighted(name, old, 7));
  await expect(run('route53.weights', 'undo', input, { before: applied.before!, facts: applied.facts! })).rejects.toMatchObject({ code: 'dns-changed' });
  expect(await weightsIn(name)).toEqual({ [old]: 7, [next]: 100 });
});

it('what comes between reading and writing is refused by the service itself (answers as the API documents them)', async () => {
  const { name, old, next, input } = await pair();
  const inspected = await run('route53.weights', 'inspect', input);
  let refused = 0;
  proxy.rule(async (call) => {
    if (call.method !== 'POST' || !call.body.includes('<Action>DELETE</Action>') || refused > 0) return undefined;
    refused += 1;
    // The emulator compares no weights; Route 53 does, and says so.
    expect(call.body).toContain('<Weight>100</Weight>');
    await put(weighted(name, old, 50));
    return xmlError(400, 'InvalidChangeBatch', `[Tried to delete resource record set [name='${name}', type='CNAME', set identifier='${old}'] but the values provided do not match the current values]`);
  });
  await expect(run('route53.weights', 'apply', input, { before: inspected.before! })).rejects.toMatchObject({ code: 'dns-changed', retryable: false });
  expect(refused).toBe(1);
  expect(await weightsIn(name)).toEqual({ [old]: 50, [next]: 0 });
});

it('a lost answer: the change is there, the next look finds it, and nothing is written twice', async () => {
  const { name, old, next, input } = await pair();
  const inspected = await run('route53.weights', 'inspect', input);
  let cut = false;
  proxy.rule((call) => {
    if (cut || call.method !== 'POST') return undefined;
    cut = true;
    return { cut: true };
  });
  // The client sends the batch again: what it would delete is not there any more. Route 53 refuses that; it is looked again.
  proxy.rule((call) => (cut && call.method === 'POST' ? xmlError(400, 'InvalidChangeBatch', 'but the values provided do not match the current values') : undefined));
  expect(await run('route53.weights', 'apply', input, { before: inspected.before! })).toMatchObject({ outcome: 'changed', facts: { changeId: null, weightsBefore: `${old} 100, ${next} 0` } });
  expect(await weightsIn(name)).toEqual({ [old]: 0, [next]: 100 });
  expect(await run('route53.weights', 'inspect', input)).toMatchObject({ satisfied: true });
});

it('what the service refuses although nobody changed anything is shown in its own words', async () => {
  const { name, old, next, input } = await pair();
  proxy.rule((call) => (call.method === 'POST' ? xmlError(400, 'InvalidChangeBatch', `[RRSet with DNS name ${name}, type CNAME already exists]`) : undefined));
  await expect(run('route53.weights', 'apply', input)).rejects.toMatchObject({ code: 'dns-refused', retryable: false, message: expect.stringContaining('already exists') });
  expect(await weightsIn(name)).toEqual({ [old]: 100, [next]: 0 });
});

it('throttling is waited out; when it goes on, nobody knows, and it is tried again', async () => {
  const { name, old, next, input } = await pair();
  let throttled = 0;
  proxy.rule((call) => (call.method === 'POST' && throttled++ < 2 ? { answer: THROTTLED_XML } : undefined));
  expect(await run('route53.weights', 'apply', input)).toMatchObject({ outcome: 'changed' });
  expect(await weightsIn(name)).toEqual({ [old]: 0, [next]: 100 });
  proxy.clear();
  proxy.rule((call) => (call.method === 'GET' ? { answer: THROTTLED_XML } : undefined));
  await expect(run('route53.weights', 'inspect', input)).rejects.toMatchObject({ code: 'dns-call', retryable: true });
}, 60_000);

it('the guard refuses what would not do what it says', async () => {
  const { name, old, next, input } = await pair();
  const failing = async (change: Record<string, unknown>): Promise<string[]> => (await run('route53.weights', 'guard', { ...input, ...change })).checks!.filter((check) => !check.ok).map((check) => check.name);
  expect(await failing({ weights: { [next]: 100 } })).toEqual(['no other share']);
  expect(await failing({ weights: { [old]: 0, nobody: 100 } })).toEqual(['named sets']);
  expect(await failing({ name: `nothing.${domain}` })).toEqual(['record sets']);
  await expect(failing({ hostedZoneId: 'ZNOTHERE' })).rejects.toMatchObject({ code: 'dns-call', retryable: false });
  await put({ Name: `plain.${domain}`, Type: 'CNAME', TTL: 60, ResourceRecords: [{ Value: 'x.example.net' }] });
  expect(await failing({ name: `plain.${domain}` })).toEqual(expect.arrayContaining(['weighted']));
  proxy.rule((call) => (call.method === 'POST' ? xmlError(403, 'AccessDenied', 'not authorized to perform: route53:ChangeResourceRecordSets') : undefined));
  expect(await failing({})).toEqual(['DNS permission']);
  expect(() => run('route53.weights', 'inspect', { ...input, weights: { [old]: 0, [next]: 0 } })).toThrow(/at least one weight over 0/);
  expect(name).toBeTruthy();
});

it('a name whose sets go over several pages is read to its end, by set identifier (answers as the API documents them)', async () => {
  const name = `many.${domain}`;
  const sets = Array.from({ length: 7 }, (_, index) => `<ResourceRecordSet><Name>${name}</Name><Type>A</Type><SetIdentifier>s${index}</SetIdentifier><Weight>${index}</Weight><TTL>60</TTL><ResourceRecords><ResourceRecord><Value>192.0.2.${index}</Value></ResourceRecord></ResourceRecords></ResourceRecordSet>`);
  const page = (from: number, to: number): string => `<?xml version="1.0"?><ListResourceRecordSetsResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ResourceRecordSets>${sets.slice(from, to).join('')}</ResourceRecordSets><IsTruncated>${to < 7}</IsTruncated>${to < 7 ? `<NextRecordName>${name}</NextRecordName><NextRecordType>A</NextRecordType><NextRecordIdentifier>s${to}</NextRecordIdentifier>` : ''}<MaxItems>3</MaxItems></ListResourceRecordSetsResponse>`;
  proxy.rule((call) => {
    if (call.method !== 'GET') return undefined;
    const from = Number(/[?&]identifier=s(\d)/.exec(call.path)?.[1] ?? 0);
    return { answer: { status: 200, headers: { 'content-type': 'text/xml' }, body: page(from, Math.min(from + 3, 7)) } };
  });
  expect((await recordSets(context, { hostedZoneId: zone, name, type: 'A' })).map((set) => set.SetIdentifier)).toEqual(['s0', 's1', 's2', 's3', 's4', 's5', 's6']);
  expect(proxy.seen.length).toBe(3);
  // A listing that does not go on is not acted on.
  proxy.clear();
  proxy.rule(() => ({ answer: { status: 200, headers: { 'content-type': 'text/xml' }, body: page(0, 3).replace('s3</NextRecordIdentifier>', 's0</NextRecordIdentifier>') } }));
  await expect(recordSets(context, { hostedZoneId: zone, name, type: 'A' })).rejects.toMatchObject({ code: 'dns-call' });
});

async function failoverPair(): Promise<{ name: string; check: string; input: Record<string, unknown> }> {
  const key = uniqueName('f');
  const name = `${key}.${domain}`;
  const make = async (): Promise<string> => (await client.send(new CreateHealthCheckCommand({ CallerReference: uniqueName('check'), HealthCheckConfig: { Type: 'HTTP', FullyQualifiedDomainName: 'a.example.net', Port: 80 } }))).HealthCheck!.Id!;
  const [check, other] = [await make(), await make()];
  const set = (id: string, Failover: 'PRIMARY' | 'SECONDARY', address: string, HealthCheckId: string): ResourceRecordSet => ({ Name: name, Type: 'A', SetIdentifier: `${key}-${id}`, Failover, TTL: 30, HealthCheckId, ResourceRecords: [{ Value: address }] });
  await put(set('a', 'PRIMARY', '192.0.2.10', check), set('b', 'SECONDARY', '192.0.2.20', other));
  return { name, check, input: { hostedZoneId: zone, name, type: 'A', wait: '2s' } };
}

const flagsOf = async (id: string): Promise<unknown> => {
  const { HealthCheckConfig } = (await client.send(new GetHealthCheckCommand({ HealthCheckId: id }))).HealthCheck!;
  return { disabled: HealthCheckConfig!.Disabled, inverted: HealthCheckConfig!.Inverted };
};

it('a failover record is forced by disabling and inverting the health check of the primary, and let go again', async () => {
  const { name, check, input } = await failoverPair();
  const records = await setsOf(name);
  const inspected = await run('route53.failoverRecord', 'inspect', input);
  expect((await run('route53.failoverRecord', 'guard', input)).checks!.filter((one) => !one.ok)).toEqual([]);
  // The permission check has changed nothing.
  expect(await flagsOf(check)).toEqual({ disabled: false, inverted: false });
  const applied = await run('route53.failoverRecord', 'apply', input, { before: inspected.before! });
  expect(applied.outcome).toBe('changed');
  expect(await flagsOf(check)).toEqual({ disabled: true, inverted: true });
  expect(await run('route53.failoverRecord', 'inspect', input)).toMatchObject({ satisfied: true });
  expect((await run('route53.failoverRecord', 'verify', input)).checks!.every((one) => one.ok)).toBe(true);
  await run('route53.failoverRecord', 'undo', input, { before: applied.before! });
  expect(await flagsOf(check)).toEqual({ disabled: false, inverted: false });
  expect(await setsOf(name)).toEqual(records);
});

it('a health check that somebody else changed is left alone: seen by its settings, and by its version as the API documents it', async () => {
  const { check, input } = await failoverPair();
  const inspected = await run('route53.failoverRecord', 'inspect', input);
  await client.send(new UpdateHealthCheckCommand({ HealthCheckId: check, Inverted: true }));
  await expect(run('route53.failoverRecord', 'apply', input, { before: inspected.before! })).rejects.toMatchObject({ code: 'health-check-changed' });
  expect(await flagsOf(check)).toEqual({ disabled: false, inverted: true });
  await client.send(new UpdateHealthCheckCommand({ HealthCheckId: check, Inverted: false }));
  // Between reading and writing: the version that is sent is not the newest any more.
  proxy.rule(async (call) => {
    if (call.method !== 'POST' || !call.path.includes('/healthcheck/')) return undefined;
    expect(call.body).toContain('<HealthCheckVersion>1</HealthCheckVersion>');
    await client.send(new UpdateHealthCheckCommand({ HealthCheckId: check, Disabled: true }));
    return xmlError(409, 'HealthCheckVersionMismatch', 'The value of HealthCheckVersion is not the current one');
  });
  await expect(run('route53.failoverRecord', 'apply', input, { before: inspected.before! })).rejects.toMatchObject({ code: 'health-check-changed', message: expect.stringContaining('it was enabled, not inverted, and is disabled, not inverted now') });
  expect(await flagsOf(check)).toEqual({ disabled: true, inverted: false });
});

it('the guard refuses a health check that decides on other names, a secondary that is unhealthy, and a primary without one', async () => {
  const { name, check, input } = await failoverPair();
  const failing = async (): Promise<string[]> => (await run('route53.failoverRecord', 'guard', input)).checks!.filter((one) => !one.ok).map((one) => one.name);
  const other = `${uniqueName('shares')}.${domain}`;
  await put({ Name: other, Type: 'A', SetIdentifier: other, Failover: 'PRIMARY', TTL: 30, HealthCheckId: check, ResourceRecords: [{ Value: '192.0.2.99' }] });
  expect(await failing()).toEqual(['health check decides on nothing else']);
  expect((await run('route53.failoverRecord', 'guard', { ...input, sharedHealthCheck: true })).checks!.every((one) => one.ok)).toBe(true);
  await client.send(new ChangeResourceRecordSetsCommand({ HostedZoneId: zone, ChangeBatch: { Changes: [{ Action: 'DELETE', ResourceRecordSet: { Name: other, Type: 'A', SetIdentifier: other, Failover: 'PRIMARY', TTL: 30, HealthCheckId: check, ResourceRecords: [{ Value: '192.0.2.99' }] } }] } }));
  const observed = (status: string, agoMs: number): string => `<HealthCheckObservation><Region>eu-west-1</Region><IPAddress>192.0.2.1</IPAddress><StatusReport><Status>${status}</Status><CheckedTime>${new Date(Date.now() - agoMs).toISOString()}</CheckedTime></StatusReport></HealthCheckObservation>`;
  const answer = (observations: string[]): { answer: { status: number; headers: Record<string, string>; body: string } } => ({ answer: { status: 200, headers: { 'content-type': 'text/xml' }, body: `<?xml version="1.0"?><GetHealthCheckStatusResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HealthCheckObservations>${observations.join('')}</HealthCheckObservations></GetHealthCheckStatusResponse>` } });
  // 1 of 8 checkers is less than 18 %; 2 of 8 are more. Observations of long ago are none.
  const good = 'Success: HTTP Status Code 200, OK';
  const bad = 'Failure: Resolved IP: 192.0.2.20. Connection timed out.';
  let observations = [observed(good, 1000), ...Array.from({ length: 7 }, () => observed(bad, 1000))];
  proxy.rule((call) => (call.path.endsWith('/status') ? answer(observations) : undefined));
  expect(await failing()).toEqual(['health of the secondary']);
  observations = [observed(good, 1000), observed(good, 1000), ...Array.from({ length: 6 }, () => observed(bad, 1000))];
  expect(await failing()).toEqual([]);
  observations = [observed(good, 600_000)];
  expect(await failing()).toEqual(['health of the secondary']);
  proxy.clear();
  const [primary] = await setsOf(name);
  const { HealthCheckId: _, ...bare } = primary!;
  await put(bare);
  expect(await failing()).toEqual(['health check of the primary']);
});

it('a lost answer of the health check is our own change, and the undo leaves what somebody set since', async () => {
  const { check, input } = await failoverPair();
  const inspected = await run('route53.failoverRecord', 'inspect', input);
  let sent = 0;
  proxy.rule((call) => {
    if (call.method !== 'POST') return undefined;
    sent += 1;
    return sent === 1 ? { cut: true } : xmlError(409, 'HealthCheckVersionMismatch', 'The value of HealthCheckVersion is not the current one');
  });
  const applied = await run('route53.failoverRecord', 'apply', input, { before: inspected.before! });
  expect(applied).toMatchObject({ outcome: 'changed', before: { inverted: false, disabled: false } });
  expect(await flagsOf(check)).toEqual({ disabled: true, inverted: true });
  proxy.clear();
  await client.send(new UpdateHealthCheckCommand({ HealthCheckId: check, Inverted: false }));
  await expect(run('route53.failoverRecord', 'undo', input, { before: applied.before! })).rejects.toMatchObject({ code: 'health-check-changed' });
  expect(await flagsOf(check)).toEqual({ disabled: true, inverted: false });
});

it('a calculated health check has no checkers: its metric says how it is, and no metric says nothing', async () => {
  const { name, input } = await failoverPair();
  const calculated = (await client.send(new CreateHealthCheckCommand({ CallerReference: uniqueName('check'), HealthCheckConfig: { Type: 'CALCULATED', HealthThreshold: 1, ChildHealthChecks: [] } }))).HealthCheck!.Id!;
  const [primary, secondary] = await setsOf(name);
  await put(primary!, { ...secondary!, HealthCheckId: calculated });
  const failing = async (): Promise<string[]> => (await run('route53.failoverRecord', 'guard', input)).checks!.filter((one) => !one.ok).map((one) => `${one.name}: ${one.found}`);
  const metrics = await context.aws.cloudWatch('us-east-1');
  const say = (Value: number): Promise<unknown> => metrics.send(new PutMetricDataCommand({ Namespace: 'AWS/Route53', MetricData: [{ MetricName: 'HealthCheckStatus', Dimensions: [{ Name: 'HealthCheckId', Value: calculated }], Value, Timestamp: new Date() }] }));
  expect(await failing()).toEqual(['health of the secondary: no observation of the last 5 minutes']);
  await say(1);
  expect(await failing()).toEqual([]);
  await say(0);
  expect(await failing()).toEqual(['health of the secondary: 0 of 1 succeed (HealthCheckStatus is 0)']);
});

/** A name server that gives one address for everything, and can change its mind. */
async function nameServer(answer: () => string): Promise<{ at: string; socket: Socket }> {
  const socket = createSocket('udp4');
  socket.on('message', (query, from) => {
    const question = query.subarray(12, query.indexOf(0, 12) + 5);
    const header = Buffer.from([query[0]!, query[1]!, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    const record = Buffer.from([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, ...answer().split('.').map(Number)]);
    socket.send(Buffer.concat([header, question, record]), from.port, from.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  return { at: `127.0.0.1:${socket.address().port}`, socket };
}

it('a name server is asked until it answers with the secondary; one that never does fails the verification', async () => {
  const { input } = await failoverPair();
  await run('route53.failoverRecord', 'apply', input);
  let asked = 0;
  const server = await nameServer(() => ((asked += 1) < 2 ? '192.0.2.10' : '192.0.2.20'));
  try {
    const verified = await run('route53.failoverRecord', 'verify', { ...input, resolver: server.at, wait: '10s' });
    expect(verified.checks!.filter((one) => !one.ok)).toEqual([]);
    expect(verified.facts).toMatchObject({ answer: '192.0.2.20', answerMs: expect.any(Number) });
    expect(asked).toBe(2);
    asked = Number.NEGATIVE_INFINITY;
    const stale = await run('route53.failoverRecord', 'verify', { ...input, resolver: server.at, wait: '1s' });
    expect(stale.checks!.find((one) => one.name === 'DNS answer')).toMatchObject({ ok: false, found: '192.0.2.10' });
  } finally {
    server.socket.close();
  }
});
