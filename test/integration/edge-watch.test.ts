import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PutMetricDataCommand } from '@aws-sdk/client-cloudwatch';
import { CreateHealthCheckCommand } from '@aws-sdk/client-route-53';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { edgeSteps } from '../../activities/edge.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { awsProxy, type AwsProxy } from '../aws-proxy.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, testDatabase, testDatastore, testSecret, uniqueName, type TestDatabase } from '../support.ts';

let context: Context;
let proxy: AwsProxy;
let service: Server;
let url: string;
/** What the service does with its next request. */
let answer: () => { status: number; afterMs?: number; body?: string };
let asked = 0;
let database: TestDatabase;

beforeAll(async () => {
  proxy = await awsProxy(suite().aws.endpoint);
  database = await testDatabase('watched');
  const secret = await testSecret('watched', { host: database.host, port: database.port, username: database.user, password: database.password, dbname: database.database });
  context = await testConfig({ aws: { endpoint: proxy.url }, datastores: { shop: testDatastore(database, { endpoint: { secret } }) } });
  service = createServer((request, reply) => {
    asked += 1;
    const { status, afterMs = 0, body = 'well' } = answer();
    setTimeout(() => reply.writeHead(status, { 'x-authorization': request.headers.authorization ?? '' }).end(body), afterMs);
  });
  await new Promise<void>((resolve) => service.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(service.address() as AddressInfo).port}/health`;
});
afterAll(async () => {
  service?.closeAllConnections();
  service?.close();
  await proxy?.close();
  await database?.drop();
});
beforeEach(() => {
  proxy.clear();
  asked = 0;
  answer = () => ({ status: 200 });
});

const watch = (input: Record<string, unknown>, call: Parameters<typeof runStep>[5] = {}): Promise<PhaseResult> => runStep(edgeSteps, context, 'service.watch', 'verify', { duration: '3s', interval: '50ms', timeout: '10s', minSamples: 5, ...input }, call);
const failing = (result: PhaseResult): string[] => result.checks!.filter((check) => !check.ok).map((check) => check.name);
interface Figures { samples: number; good: number; availability: number; p50Ms: number; p95Ms: number; maxMs: number; errors: Record<string, number>; gapMs: number; gaps: unknown[] }
const figures = (result: PhaseResult, name = 'http'): Figures => result.facts![name] as unknown as Figures;

it('a service that is well meets its objective, by as many samples as it was really asked', async () => {
  const result = await watch({ http: { url, contains: 'well' } });
  expect(failing(result)).toEqual([]);
  const seen = figures(result);
  expect(seen).toMatchObject({ samples: asked, good: asked, availability: 1, errors: {}, gapMs: 0 });
  expect(asked).toBeGreaterThanOrEqual(5);
  expect(seen.p50Ms).toBeLessThanOrEqual(seen.p95Ms);
  expect(seen.p95Ms).toBeLessThanOrEqual(seen.maxMs);
});

it('errors, slow answers and silence are counted as what they are, and fail the step under the objective', async () => {
  let request = 0;
  answer = () => {
    request += 1;
    return request % 4 === 0 ? { status: 503 } : request % 4 === 1 ? { status: 200, afterMs: 1000 } : { status: 200, afterMs: 60 };
  };
  const result = await watch({ duration: '3s', timeout: '300ms', http: { url }, availability: 0.9, p95: 20 });
  expect(failing(result)).toEqual(['http: availability', 'http: p95']);
  const seen = figures(result);
  expect(Object.keys(seen.errors).sort()).toEqual(['HTTP 503', 'no answer within 300 ms']);
  expect(seen.samples).toBe(seen.good + seen.errors['HTTP 503']! + seen.errors['no answer within 300 ms']!);
  // Measured to the end of the body; what never answered has no latency.
  expect(seen.p95Ms).toBeGreaterThanOrEqual(60);
  expect(seen.p95Ms).toBeLessThan(300);
});

it('a service that is not there has no latency and is available 0 %; too few samples are not judged as good', async () => {
  const silent = await watch({ http: { url: 'http://127.0.0.1:9/' } });
  expect(figures(silent)).toMatchObject({ good: 0, availability: 0, p50Ms: null, p95Ms: null });
  expect(failing(silent)).toEqual(['http: availability']);
  expect(failing(await watch({ duration: '100ms', minSamples: 50, http: { url } }))).toEqual(['http: samples']);
  expect(failing(await watch({ http: { url, contains: 'something else' } }))).toEqual(['http: availability']);
  expect(failing(await watch({ http: { url, statuses: [418] } }))).toEqual(['http: availability']);
});

it('the next worker goes on with what the lost one had counted, and says what nobody saw', async () => {
  let last: unknown;
  const controller = new AbortController();
  const lost = watch({ duration: '10s', http: { url } }, { signal: controller.signal, heartbeat: (details) => { last = details; } });
  await expect.poll(() => asked, { timeout: 30_000 }).toBeGreaterThan(8);
  controller.abort(new Error('the worker is gone'));
  await expect(lost).rejects.toThrow('the worker is gone');
  const before = (last as { watch: { http: { samples: number; startedAtMs: number; lastSampleAtMs: number } } }).watch.http;
  const size = JSON.stringify(last).length;
  // As of a watch of ten seconds that has two left.
  const resumed = { watch: { http: { ...before, startedAtMs: before.lastSampleAtMs - 8000 } } };
  await new Promise((resolve) => setTimeout(resolve, 500));
  const result = await watch({ duration: '10s', http: { url } }, { previousDetails: JSON.parse(JSON.stringify(resumed)), attempt: 2 });
  const seen = figures(result);
  // The one that was under way when the worker went may have been asked and is in nobody's count.
  expect([asked, asked - 1]).toContain(seen.samples);
  expect(seen.samples).toBeGreaterThan(before.samples);
  expect(seen.gapMs).toBeGreaterThanOrEqual(500);
  expect(seen.gaps).toHaveLength(1);
  expect(result.summary).toMatch(/NOT WATCHED for .* in 1 gap/);
  expect(size).toBeLessThan(3000);
});

it('the Authorization header comes from a secret and is nowhere in what is kept', async () => {
  process.env['HOLDFAST_TEST_WATCH'] = 'Bearer watch-secret-value';
  const seen: string[] = [];
  const guarded = createServer((request, reply) => {
    seen.push(request.headers.authorization ?? '');
    reply.writeHead(request.headers.authorization === 'Bearer watch-secret-value' ? 200 : 401).end();
  });
  await new Promise<void>((resolve) => guarded.listen(0, '127.0.0.1', resolve));
  const heartbeats: unknown[] = [];
  const result = await watch({ http: { url: `http://127.0.0.1:${(guarded.address() as AddressInfo).port}/`, authorization: 'env:HOLDFAST_TEST_WATCH' } }, { heartbeat: (details) => heartbeats.push(details) });
  guarded.close();
  expect(failing(result)).toEqual([]);
  expect(seen.every((value) => value === 'Bearer watch-secret-value')).toBe(true);
  expect(JSON.stringify([result, heartbeats])).not.toContain('watch-secret-value');
});

it('rows of the canary are writes that succeed: as long as new ones come the sample is good', async () => {
  await database.query('create schema if not exists holdfast');
  await database.query('create table holdfast.canary (execution text not null, seq bigint not null, at timestamptz not null default clock_timestamp(), primary key (execution, seq))');
  let seq = 0;
  const writer = setInterval(() => void database.query('insert into holdfast.canary values ($1, $2)', ['test/step/test', (seq += 1)]).catch(() => {}), 40);
  try {
    const result = await watch({ duration: '12s', interval: '2s', timeout: '10s', canary: { datastore: 'shop' }, minSamples: 4 });
    expect(failing(result)).toEqual([]);
  } finally {
    clearInterval(writer);
  }
  const stopped = await watch({ duration: '4s', interval: '100ms', timeout: '10s', canary: { datastore: 'shop' }, minSamples: 3 });
  expect(failing(stopped)).toEqual(['canary: availability']);
  expect(figures(stopped, 'canary').errors).toEqual({ 'no new row of the canary': expect.any(Number) });
});

it('a metric counts by its points: within bounds, out of bounds, and none at all is no sample', async () => {
  const client = await context.aws.cloudWatch('eu-west-1');
  const name = uniqueName('errors');
  const metric = { region: 'eu-west-1', namespace: 'Shop', name, statistic: 'Maximum', period: '1s', atMost: 5 };
  const put = (Value: number): Promise<unknown> => client.send(new PutMetricDataCommand({ Namespace: 'Shop', MetricData: [{ MetricName: name, Value, Timestamp: new Date(), Unit: 'Count' }] }));
  const watched = async (...values: number[]): Promise<string[]> => {
    const watching = watch({ metric, duration: '4s' });
    for (const value of values) {
      await put(value);
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    return failing(await watching);
  };
  expect(await watched()).toEqual(['metric: samples', 'metric: availability']);
  expect(await watched(3, 3, 4, 3)).toEqual([]);
  expect(await watched(3, 30, 3, 3)).toEqual(['metric: availability']);
  expect(proxy.seen.filter((call) => call.region === 'eu-west-1').length).toBeGreaterThan(0);
});

it('a point that CloudWatch gives again, since it rounds the start down to a minute, counts once, and only those out of bounds are wrong', async () => {
  const second = Math.floor(Date.now() / 1000) * 1000;
  const given: number[] = [];
  const send = async ({ input }: { input: { StartTime: Date; EndTime: Date } }): Promise<object> => {
    const points = [];
    // Out of its bounds is the third second, as is seen only when it is over.
    for (let at = Math.floor(input.StartTime.getTime() / 60_000) * 60_000; at < input.EndTime.getTime(); at += 1000) points.push({ Timestamp: new Date(at), Maximum: at === second + 2000 && at + 1000 <= input.EndTime.getTime() ? 30 : 3 });
    given.push(points.length);
    return { Datapoints: points };
  };
  const rounding = { ...context, aws: { ...context.aws, cloudWatch: async () => ({ send }) as never } };
  const metric = { region: 'eu-west-1', namespace: 'Shop', name: 'errors', statistic: 'Maximum', period: '1s', atMost: 5, minSamples: 2 };
  const seen = figures(await runStep(edgeSteps, rounding, 'service.watch', 'verify', { duration: '5s', interval: '50ms', timeout: '10s', metric }), 'metric');
  expect(given.length).toBeGreaterThan(1);
  expect(seen.samples).toBeLessThan(given.reduce((sum, count) => sum + count, 0));
  expect(seen.samples - seen.good).toBe(1);
});

const health = (input: Record<string, unknown>, mode: 'planned' | 'forced'): Promise<PhaseResult> => runStep(edgeSteps, context, 'region.health', 'guard', { region: 'us-east-1', other: 'eu-west-1', timeout: '3s', attempts: 1, ...input }, { mode });
const observation = (status: string): string => `<?xml version="1.0"?><GetHealthCheckStatusResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HealthCheckObservations>${['eu-west-1', 'ap-southeast-1'].map((region) => `<HealthCheckObservation><Region>${region}</Region><StatusReport><Status>${status}</Status><CheckedTime>${new Date().toISOString()}</CheckedTime></StatusReport></HealthCheckObservation>`).join('')}</HealthCheckObservations></GetHealthCheckStatusResponse>`;

it('a Region is down by facts of two places, and one sign of life refuses', async () => {
  const route53 = await context.aws.route53();
  const check = (await route53.send(new CreateHealthCheckCommand({ CallerReference: uniqueName('check'), HealthCheckConfig: { Type: 'HTTP', FullyQualifiedDomainName: 'a.example.net', Port: 80 } }))).HealthCheck!.Id!;
  const both = { healthChecks: [check], endpoints: ['http://127.0.0.1:9/'], otherEndpoints: [url] };
  // The emulator's checkers always succeed: a sign of life.
  const alive = await health(both, 'forced');
  expect(failing(alive)).toEqual(['Region is down', 'two independent facts']);
  proxy.rule((call) => (call.path.endsWith('/status') ? { answer: { status: 200, headers: { 'content-type': 'text/xml' }, body: observation('Failure: Connection timed out.') } } : undefined));
  const down = await health(both, 'forced');
  expect(failing(down)).toEqual([]);
  expect(down.facts).toMatchObject({ downFactCount: 2, mayLoseMs: null });
  expect((down.facts!['unclear'] as string[]).join()).toMatch(/the API of us-east-1 answers/);
  expect(failing(await health(both, 'planned'))).toEqual([`health check ${check}`, 'endpoint in us-east-1']);
  // Checkers that say nothing are no fact, and what answers well is a sign of life whatever else fails.
  expect(failing(await health({ ...both, endpoints: [url] }, 'forced'))).toEqual(['Region is down', 'two independent facts']);
  // Nothing to go to.
  expect(failing(await health({ ...both, otherEndpoints: ['http://127.0.0.1:9/'] }, 'forced'))).toContain('endpoint in eu-west-1');
});

it('an API that is silent while the other one answers is a place of its own', async () => {
  proxy.rule((call) => (call.region === 'us-east-1' && call.body.includes('DescribeDBInstances') ? { answer: { status: 503, body: '' } } : undefined));
  const down = await health({ endpoints: ['http://127.0.0.1:9/'] }, 'forced');
  expect(failing(down)).toEqual([]);
  expect(down.facts!['downFacts']).toEqual([expect.stringMatching(/^worker: /), expect.stringMatching(/^API of us-east-1: /)]);
  expect(failing(await health({ endpoints: [url] }, 'planned'))).toEqual(['API of us-east-1']);
}, 30_000);
