import type { SSMClient } from '@aws-sdk/client-ssm';
import { DeleteParameterCommand, DescribeParametersCommand, GetParameterCommand, PutParameterCommand } from '@aws-sdk/client-ssm';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { edgeSteps } from '../../activities/edge.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { awsProxy, THROTTLED_JSON, type AwsProxy } from '../aws-proxy.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

let context: Context;
let proxy: AwsProxy;
let client: SSMClient;
const region = 'eu-west-1';

beforeAll(async () => {
  proxy = await awsProxy(suite().aws.endpoint);
  context = await testConfig({ aws: { endpoint: proxy.url } });
  client = await (await testConfig()).aws.ssm(region);
});
afterAll(() => proxy?.close());
beforeEach(() => proxy.clear());

const run = (uses: string, phase: Phase, input: Record<string, unknown>, call: Parameters<typeof runStep>[5] = {}): Promise<PhaseResult> => runStep(edgeSteps, context, uses, phase, { region, ...input }, call);
const put = async (name: string, Value: string, more: object = {}): Promise<number> => (await client.send(new PutParameterCommand({ Name: name, Value, Type: 'String', Overwrite: true, ...more }))).Version!;
const now = (name: string): Promise<string | null> => client.send(new GetParameterCommand({ Name: name })).then((answer) => `${answer.Parameter!.Version} ${answer.Parameter!.Value}`, () => null);
const puts = (): number => proxy.seen.filter((call) => call.target === 'AmazonSSM.PutParameter' && call.body.includes('"Overwrite":true')).length;

it('a flag is set upon the version that was seen, in its Region, and put back; its description stays', async () => {
  const name = `/${uniqueName('flag')}/recommendations`;
  await client.send(new PutParameterCommand({ Name: name, Value: 'on', Type: 'String', Description: 'kill switch', AllowedPattern: 'on|off' }));
  const input = { name, value: 'off' };
  const inspected = await run('flag.set', 'inspect', input);
  expect(inspected).toMatchObject({ satisfied: false, before: { exists: true, version: 1, value: 'on' } });
  expect((await run('flag.set', 'guard', input)).checks!.every((check) => check.ok)).toBe(true);
  expect(await now(name)).toBe('1 on');
  const applied = await run('flag.set', 'apply', input, { before: inspected.before! });
  expect(applied).toMatchObject({ outcome: 'changed', facts: { version: 2, existed: true, previous: 'on', previousVersion: 1 } });
  expect(await now(name)).toBe('2 off');
  const { Parameters } = await client.send(new DescribeParametersCommand({ ParameterFilters: [{ Key: 'Name', Option: 'Equals', Values: [name] }] }));
  expect(Parameters![0]).toMatchObject({ Description: 'kill switch', AllowedPattern: 'on|off' });
  expect(proxy.seen.every((call) => call.region === region)).toBe(true);
  expect((await run('flag.set', 'verify', input)).checks).toMatchObject([{ ok: true }]);
  expect(await run('flag.set', 'apply', input, { before: inspected.before! })).toMatchObject({ outcome: 'already-satisfied' });
  expect(await now(name)).toBe('2 off');
  expect(await run('flag.set', 'undo', input, { before: applied.before! })).toMatchObject({ outcome: 'changed' });
  expect(await now(name)).toBe('3 on');
  expect(await run('flag.set', 'undo', input, { before: applied.before! })).toMatchObject({ outcome: 'already-satisfied' });
});

it('a flag that was not there is made, and the undo takes it away', async () => {
  const input = { name: uniqueName('flag'), value: 'degraded' };
  const inspected = await run('flag.set', 'inspect', input);
  expect((await run('flag.set', 'guard', input)).checks!.every((check) => check.ok)).toBe(true);
  const applied = await run('flag.set', 'apply', input, { before: inspected.before! });
  expect(await now(input.name)).toBe('1 degraded');
  expect(applied.facts).toMatchObject({ existed: false, previous: null });
  await run('flag.set', 'undo', input, { before: applied.before! });
  expect(await now(input.name)).toBeNull();
});

it('what a second operator has put is neither overwritten nor undone', async () => {
  const input = { name: uniqueName('flag'), value: 'off' };
  await put(input.name, 'on');
  const inspected = await run('flag.set', 'inspect', input);
  await put(input.name, 'maintenance');
  await expect(run('flag.set', 'apply', input, { before: inspected.before! })).rejects.toMatchObject({ code: 'flag-changed', message: expect.stringContaining('Nothing was put'), retryable: false });
  expect(await now(input.name)).toBe('2 maintenance');
  expect(puts()).toBe(0);
  const applied = await run('flag.set', 'apply', input, { before: (await run('flag.set', 'inspect', input)).before! });
  await put(input.name, 'a third');
  await expect(run('flag.set', 'undo', input, { before: applied.before! })).rejects.toMatchObject({ code: 'flag-changed' });
  expect(await now(input.name)).toBe('4 a third');
  // Made by somebody else between the look and the write.
  const fresh = { name: uniqueName('flag'), value: 'off' };
  proxy.rule(async (call) => {
    if (call.target === 'AmazonSSM.PutParameter') await put(fresh.name, 'on');
    return undefined;
  });
  await expect(run('flag.set', 'apply', fresh)).rejects.toMatchObject({ code: 'flag-changed' });
  expect(await now(fresh.name)).toBe('1 on');
});

it('one who writes between the read and the put is noticed by the version, and his value is put back', async () => {
  const input = { name: uniqueName('flag'), value: 'off' };
  await put(input.name, 'on');
  let raced = false;
  proxy.rule(async (call) => {
    if (raced || call.target !== 'AmazonSSM.PutParameter') return undefined;
    raced = true;
    await put(input.name, 'maintenance');
    return undefined;
  });
  await expect(run('flag.set', 'apply', input)).rejects.toMatchObject({ code: 'flag-changed', message: expect.stringContaining('version 2 came while version 3 was being put; the value of version 2 is back') });
  expect(await now(input.name)).toBe('4 maintenance');
});

it('a lost answer and throttling change nothing of that', async () => {
  const input = { name: uniqueName('flag'), value: 'off' };
  await put(input.name, 'on');
  let sent = 0;
  proxy.rule((call) => {
    if (call.target !== 'AmazonSSM.PutParameter') return undefined;
    sent += 1;
    return sent === 1 ? { answer: THROTTLED_JSON } : sent === 2 ? { cut: true } : undefined;
  });
  expect(await run('flag.set', 'apply', input)).toMatchObject({ outcome: 'changed', facts: { previous: 'on', previousVersion: 1 } });
  expect(sent).toBe(3);
  expect(await now(input.name)).toBe('3 off');
  proxy.clear();
  proxy.rule((call) => (call.target === 'AmazonSSM.GetParameter' ? { answer: THROTTLED_JSON } : undefined));
  await expect(run('flag.set', 'inspect', input)).rejects.toMatchObject({ code: 'parameter-call', retryable: true });
}, 60_000);

it('an encrypted parameter is refused, and its value is never asked for nor shown', async () => {
  const input = { name: uniqueName('flag'), value: 'off' };
  await put(input.name, 'a-very-secret-value', { Type: 'SecureString' });
  const results = [await run('flag.set', 'inspect', input), await run('flag.set', 'guard', input)];
  expect(results[1]!.checks!.filter((check) => !check.ok).map((check) => check.name)).toEqual(['type']);
  const refused = await run('flag.set', 'apply', input).catch((error: unknown) => error as Error);
  expect(refused).toMatchObject({ code: 'flag-encrypted' });
  expect(JSON.stringify([results, refused])).not.toContain('a-very-secret-value');
  expect(proxy.seen.some((call) => call.body.includes('"WithDecryption":true'))).toBe(false);
  expect(await client.send(new GetParameterCommand({ Name: input.name, WithDecryption: true }))).toMatchObject({ Parameter: { Version: 1, Value: 'a-very-secret-value' } });
});

it('a right that is missing is found beforehand', async () => {
  const input = { name: uniqueName('flag'), value: 'off' };
  await put(input.name, 'on');
  proxy.rule((call) => (call.target === 'AmazonSSM.PutParameter' ? { answer: { status: 400, headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amzn-errortype': 'AccessDeniedException' }, body: '{"__type":"AccessDeniedException","Message":"not authorized to perform: ssm:PutParameter"}' } } : undefined));
  expect((await run('flag.set', 'guard', input)).checks!.filter((check) => !check.ok)).toMatchObject([{ name: 'flag permission', found: expect.stringContaining('AccessDenied') }]);
  expect(await now(input.name)).toBe('1 on');
});

it('flag.restore puts back what flag.set replaced, deletes what it made, and leaves what somebody changed since', async () => {
  const name = uniqueName('flag');
  await put(name, 'on');
  const { facts } = await run('flag.set', 'apply', { name, value: 'off' });
  const back = { name, previous: facts!['previous'], existed: facts!['existed'], version: facts!['version'] };
  expect(await run('flag.restore', 'inspect', back)).toMatchObject({ satisfied: false });
  await put(name, 'maintenance');
  await expect(run('flag.restore', 'apply', back)).rejects.toMatchObject({ code: 'flag-changed' });
  expect(await now(name)).toBe('3 maintenance');
  const again = await run('flag.set', 'apply', { name, value: 'off' });
  expect(await run('flag.restore', 'apply', { name, previous: again.facts!['previous'], existed: true, version: again.facts!['version'] })).toMatchObject({ outcome: 'changed' });
  expect(await now(name)).toBe('5 maintenance');
  const made = { name: uniqueName('flag'), value: 'off' };
  const { facts: fresh } = await run('flag.set', 'apply', made);
  const gone = { name: made.name, previous: fresh!['previous'], existed: fresh!['existed'], version: fresh!['version'] };
  expect(await run('flag.restore', 'apply', gone)).toMatchObject({ outcome: 'changed' });
  expect(await now(made.name)).toBeNull();
  expect((await run('flag.restore', 'verify', gone)).checks).toMatchObject([{ ok: true }]);
  expect(await run('flag.restore', 'apply', gone)).toMatchObject({ outcome: 'already-satisfied' });
  await client.send(new DeleteParameterCommand({ Name: name }));
});
