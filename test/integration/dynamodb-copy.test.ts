import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CreateTableCommand, DeleteItemCommand, DeleteTableCommand, PutItemCommand, UpdateItemCommand, UpdateTableCommand, UpdateTimeToLiveCommand, type DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { dynamodbCopySteps } from '../../activities/dynamodb-copy.ts';
import { createProcesses, startDynamo, type DynamoServer, type Processes } from '../../src/local/stack.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { Item } from '../../src/model/dynamodb-item.ts';
import { beginCopy } from '../../src/model/dynamodb-copy.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { copyTable } from '../../src/systems/dynamodb-copy.ts';
import { createThrottle } from '../../src/systems/dynamodb-throttle.ts';
import { awsProxy, type AwsProxy, type AwsRequest, type Verdict } from '../aws-proxy.ts';
import { AWKWARD_ITEMS, dynamoHands, virtualClock, type DynamoHands } from '../dynamo.ts';
import { runStep } from '../step-run.ts';
import { surviveDeath } from '../survive-death.ts';
import { testConfig, testDirectory, uniqueName } from '../support.ts';

let processes: Processes;
let server: DynamoServer;
let here: DynamoHands;
let there: DynamoHands;
/** Before source and target, for faults of either. */
let sourceProxy: AwsProxy;
let targetProxy: AwsProxy;
let context: Context;

const THERE = 'eu-west-1';

beforeAll(async () => {
  processes = createProcesses();
  server = await startDynamo({ processes, directory: processes.directory });
  here = dynamoHands(server);
  // The server keeps the tables of each Region apart.
  there = dynamoHands(server, THERE);
  sourceProxy = await awsProxy(server.endpoint);
  targetProxy = await awsProxy(server.endpoint);
  process.env['HOLDFAST_TEST_DYNAMO_KEY'] = server.accessKeyId;
  process.env['HOLDFAST_TEST_DYNAMO_SECRET'] = server.secretAccessKey;
});

afterAll(async () => {
  here?.close();
  there?.close();
  await sourceProxy?.close();
  await targetProxy?.close();
  await processes?.end();
});

beforeEach(async () => {
  context = await testConfig({ datastores: places(sourceProxy.url, targetProxy.url) });
});

afterEach(() => {
  sourceProxy.clear();
  targetProxy.clear();
  context.close();
});

function places(from: string, to: string) {
  const credentials = { accessKeyId: 'env:HOLDFAST_TEST_DYNAMO_KEY', secretAccessKey: 'env:HOLDFAST_TEST_DYNAMO_SECRET' };
  return {
    here: { engine: 'dynamodb', tables: ['orders'], region: server.region, endpoint: from, credentials, backup: { readShare: 1 }, restore: { writeShare: 1 } },
    there: { engine: 'dynamodb', tables: ['orders'], region: THERE, endpoint: to, credentials, backup: { readShare: 1 }, restore: { writeShare: 1 } },
  };
}

async function table(hands: DynamoHands, name: string, more: { stream?: string; key?: 'S' | 'N' } = {}): Promise<void> {
  await hands.client.send(
    new CreateTableCommand({
      TableName: name, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: more.key ?? 'S' }],
      ...(more.stream === undefined ? {} : { StreamSpecification: { StreamEnabled: true, StreamViewType: more.stream as 'NEW_IMAGE' } }),
    }),
  );
}

const item = (at: number, text = 'first'): Item => ({ id: { S: `order-${at}` }, text: { S: text }, n: { N: String(at) } });
const items = (count: number): Item[] => Array.from({ length: count }, (_, at) => item(at));

function step(uses: string, phase: Phase, name: string, more: Record<string, unknown> = {}, call: Parameters<typeof runStep>[5] = {}): Promise<PhaseResult> {
  return runStep(dynamodbCopySteps, context, uses, phase, { source: 'here', table: name, datastore: 'there', ...more }, call);
}

/** Both phases, the second with what the first has found. */
async function verified(name: string, more: Record<string, unknown> = {}): Promise<PhaseResult> {
  const read = await step('dynamodb.verifyCopy', 'apply', name, more);
  return { ...(await step('dynamodb.verifyCopy', 'verify', name, more, { facts: read.facts! })), facts: read.facts! };
}

/** Puts, updates and deletes of a few keys until it is told to stop; some hundred a second, so that a follower on a slow machine keeps up. */
function writer(client: DynamoDBClient, name: string): { stop(): Promise<number> } {
  const stop = new AbortController();
  let writes = 0;
  const work = async (lane: number): Promise<void> => {
    for (let at = 0; !stop.signal.aborted; at += 1) {
      const id = { S: `order-${(at * 7 + lane) % 60}` };
      const kind = (at + lane) % 4;
      if (kind === 0) await client.send(new DeleteItemCommand({ TableName: name, Key: { id } }));
      else if (kind === 1) await client.send(new UpdateItemCommand({ TableName: name, Key: { id }, UpdateExpression: 'SET n = :n', ExpressionAttributeValues: { ':n': { N: String(at) } } }));
      else await client.send(new PutItemCommand({ TableName: name, Item: { id, text: { S: `written ${lane} ${at}` } } }));
      writes += 1;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const lanes = [work(0), work(1), work(2)];
  return {
    async stop() {
      stop.abort();
      await Promise.all(lanes);
      return writes;
    },
  };
}

const THROTTLED: Verdict = { answer: { status: 400, headers: { 'content-type': 'application/x-amz-json-1.0' }, body: '{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow down"}' } };
const is = (call: AwsRequest, action: string): boolean => call.target.endsWith(`.${action}`);

describe('a table that nobody writes to', () => {
  it('is created, copied and proved in another Region, every sort of item', async () => {
    const name = uniqueName('orders');
    await table(here, name);
    await here.put(name, [...items(500), ...AWKWARD_ITEMS]);
    expect((await step('dynamodb.createTarget', 'guard', name)).checks!.every(({ ok }) => ok)).toBe(true);
    expect(await step('dynamodb.createTarget', 'apply', name)).toMatchObject({ outcome: 'changed' });
    expect((await step('dynamodb.createTarget', 'inspect', name)).satisfied).toBe(true);
    expect((await step('dynamodb.copy', 'guard', name, { follow: false })).checks!.filter(({ ok }) => !ok)).toEqual([]);
    const made = await step('dynamodb.copy', 'apply', name, { follow: false, segments: 7 });
    expect(made).toMatchObject({ outcome: 'changed', facts: { items: 505, segments: 7, repeated: 0, position: null } });
    expect(made.facts!['readUnits']).toBeGreaterThan(0);
    expect(await there.sums(name)).toEqual(await here.sums(name));
    const proof = await verified(name);
    expect(proof).toMatchObject({ checks: [{ ok: true }, { ok: true }], facts: { items: 505, targetItems: 505, differing: [] } });
  });

  it('uses no more than its share of the capacity of either side', async () => {
    const name = uniqueName('orders');
    await here.create(name);
    await there.create(name);
    await here.put(name, Array.from({ length: 120 }, (_, at) => ({ ...item(at), text: { S: 'x'.repeat(3000) } })));
    // One clock for both, which passes only while somebody waits: DynamoDB Local itself throttles nobody.
    const clock = virtualClock();
    const { signal } = new AbortController();
    const read = await createThrottle({ client: here.client, table: name, unit: 'read', share: 0.5, signal, clock });
    const write = await createThrottle({ client: there.client, table: name, unit: 'write', share: 0.25, signal, clock });
    const state = beginCopy({ source: 'a', target: 'b', segments: 8, startedAtMs: 0, position: null });
    const done = await copyTable({ source: { items: here.items, table: name, throttle: read }, target: { items: there.items, facts: write.facts, throttle: write }, state, parallel: 4, consistentRead: true, signal, onState: () => {} });
    expect(done).toMatchObject({ items: 120, done: '0-7', begun: [] });
    // 120 items of 3 KB: 360 write units at 10 a second.
    expect(write.kept()).toMatchObject({ capacity: 40, share: 0.25, consumedUnits: 360 });
    expect(write.kept().seconds).toBeGreaterThan(30);
    expect(write.kept().used).toBeLessThan(0.3);
    expect(read.kept().used).toBeLessThan(0.55);
    expect(await there.sums(name)).toEqual(await here.sums(name));
  });

  it('is cancelled in the middle, and goes on from there', async () => {
    const name = uniqueName('orders');
    await table(here, name);
    await here.put(name, items(300));
    await step('dynamodb.createTarget', 'apply', name);
    const stop = new AbortController();
    let report: { done: string } = { done: '' };
    targetProxy.rule((call) => {
      if (is(call, 'BatchWriteItem') && report.done !== '') stop.abort(new Error('cancelled'));
      return undefined;
    });
    const cut = step('dynamodb.copy', 'apply', name, { follow: false, segments: 12, parallel: 1 }, { signal: stop.signal, heartbeat: (details) => { report = details as typeof report; } });
    await expect(cut).rejects.toThrow('cancelled');
    const [written, seen] = [(await there.all(name)).length, targetProxy.seen.length];
    expect(written).toBeGreaterThan(0);
    expect(written).toBeLessThan(300);
    // Of others this would be refused; by the report it is known for ours. What was done is not read again.
    targetProxy.clear();
    const scans = sourceProxy.seen.length;
    const done = await step('dynamodb.copy', 'apply', name, { follow: false, segments: 12, parallel: 1 }, { previousDetails: report });
    expect(done.facts).toMatchObject({ items: 300, segments: 12 });
    expect(sourceProxy.seen.slice(scans).filter((call) => is(call, 'Scan')).length).toBeLessThan(12);
    expect(seen).toBeGreaterThan(0);
    expect(await there.sums(name)).toEqual(await here.sums(name));
  });

  it('shows which keys differ: one changed, one missing, one too much', async () => {
    const name = uniqueName('orders');
    await table(here, name);
    await table(there, name);
    await here.put(name, items(300));
    await there.put(name, [...items(300).filter((one) => (one['id'] as { S: string }).S !== 'order-17'), item(40, 'changed'), { id: { S: 'stranger' } }]);
    const proof = await verified(name);
    // The same number of items: counting alone would have shown nothing.
    expect(proof.checks!.map(({ ok }) => ok)).toEqual([true, false]);
    expect([...(proof.facts!['differing'] as string[])].sort()).toEqual(['id = "order-17": missing in the copy', 'id = "order-40": other content', 'id = "stranger": only in the copy']);
    expect(await verified(name, { show: 1 }).then(({ facts }) => facts!['differing'])).toHaveLength(1);
  });
});

describe('refused before the first write', () => {
  it('a target with another key, with items of others, with time to live, and the source itself', async () => {
    const name = uniqueName('orders');
    await table(here, name, { stream: 'NEW_AND_OLD_IMAGES' });
    await here.put(name, items(3));
    const refused = async (more: Record<string, unknown>): Promise<string[]> => {
      const failed = ((await step('dynamodb.copy', 'guard', name, more)).checks ?? []).filter(({ ok }) => !ok);
      await expect(step('dynamodb.copy', 'apply', name, more)).rejects.toMatchObject({ code: expect.stringMatching(/copy-(refused|same-table)|dynamodb-table-missing/) });
      return failed.map(({ name: what }) => what);
    };
    expect(await refused({ targetTable: 'none-such' })).toEqual(['target']);
    await table(there, `${name}-n`, { key: 'N' });
    expect(await refused({ targetTable: `${name}-n` })).toEqual(['target']);
    await table(there, `${name}-full`);
    await there.put(`${name}-full`, [item(99, 'of somebody else')]);
    expect(await refused({ targetTable: `${name}-full` })).toEqual(['empty']);
    expect(await there.all(`${name}-full`)).toEqual([item(99, 'of somebody else')]);
    await table(there, `${name}-ttl`);
    await there.client.send(new UpdateTimeToLiveCommand({ TableName: `${name}-ttl`, TimeToLiveSpecification: { Enabled: true, AttributeName: 'until' } }));
    expect(await refused({ targetTable: `${name}-ttl` })).toEqual(['time to live']);
    expect(await refused({ datastore: 'here' })).toEqual(['another table']);
    expect(await here.all(name)).toHaveLength(3);
    const keysOnly = uniqueName('keys');
    await table(here, keysOnly, { stream: 'KEYS_ONLY' });
    await table(there, keysOnly);
    const checks = (await step('dynamodb.copy', 'guard', keysOnly)).checks!;
    expect(checks.find(({ ok }) => !ok)).toMatchObject({ name: 'stream', found: expect.stringContaining('KEYS_ONLY') });
  });
});

describe('a table that is written to all the time', () => {
  it('ends exact after the stream was followed, with throttling on both sides and cut connections', async () => {
    const name = uniqueName('orders');
    await table(here, name, { stream: 'NEW_IMAGE' });
    await here.put(name, items(400));
    await step('dynamodb.createTarget', 'apply', name);
    let seen = 0;
    const fault = (action: string) => (call: AwsRequest): Verdict => {
      if (!is(call, action)) return undefined;
      seen += 1;
      return seen % 12 === 1 ? THROTTLED : seen % 12 === 5 ? { cut: true } : seen % 12 === 9 ? { half: true } : undefined;
    };
    sourceProxy.rule(fault('Scan'));
    sourceProxy.rule(fault('GetRecords'));
    targetProxy.rule(fault('BatchWriteItem'));
    const writes = writer(here.client, name);
    const copied = await step('dynamodb.copy', 'apply', name, { segments: 16 });
    const followed = await step('dynamodb.follow', 'apply', name, { until: 'caughtUp', position: copied.facts!['position'], poll: '50ms' });
    expect(followed.facts!['applied']).toBeGreaterThan(0);
    const written = await writes.stop();
    expect(written).toBeGreaterThan(50);
    const drained = await step('dynamodb.follow', 'apply', name, { until: 'drained', position: followed.facts!['position'], poll: '50ms', quiet: '500ms' });
    expect(drained.facts).toMatchObject({ afterStop: 0 });
    const judged = async (afterStop: number): Promise<boolean[]> => (await step('dynamodb.follow', 'verify', name, { until: 'drained' }, { facts: { afterStop, stoppedAt: '2026-11-28T00:00:00Z' } })).checks!.map(({ ok }) => ok);
    expect([await judged(0), await judged(3)]).toEqual([[true], [false]]);
    expect(seen).toBeGreaterThan(10);
    sourceProxy.clear();
    targetProxy.clear();
    expect(await there.sums(name)).toEqual(await here.sums(name));
    expect((await verified(name)).checks!.map(({ ok }) => ok)).toEqual([true, true]);
  });

  it('takes what is delivered twice for once, and goes on from what an earlier attempt wrote down', async () => {
    const name = uniqueName('orders');
    await table(here, name, { stream: 'NEW_AND_OLD_IMAGES' });
    await here.put(name, items(50));
    await step('dynamodb.createTarget', 'apply', name);
    let report: unknown;
    const copied = await step('dynamodb.copy', 'apply', name, {}, { heartbeat: (details) => { report = details; } });
    // No key and no value of an item is in it.
    expect(JSON.stringify(report)).not.toContain('order-');
    // All done: an attempt that follows reads no segment again, and does not take a new position.
    const again = await step('dynamodb.copy', 'apply', name, {}, { previousDetails: report });
    expect(again.facts).toMatchObject({ items: 50, repeated: 0, position: copied.facts!['position'], readUnits: 0 });
    for (let at = 0; at < 30; at += 1) await here.put(name, [item(at % 5, `change ${at}`)]);
    await here.client.send(new DeleteItemCommand({ TableName: name, Key: { id: { S: 'order-3' } } }));
    const position = copied.facts!['position'];
    const one = await step('dynamodb.follow', 'apply', name, { until: 'drained', position, poll: '50ms', quiet: '200ms' });
    // From the same position: everything once more.
    const two = await step('dynamodb.follow', 'apply', name, { until: 'drained', position, poll: '50ms', quiet: '200ms' });
    expect(two.facts!['applied']).toBe(one.facts!['applied']);
    expect(await there.sums(name)).toEqual(await here.sums(name));
    const three = await step('dynamodb.follow', 'apply', name, { until: 'drained', position: one.facts!['position'], poll: '50ms', quiet: '200ms' });
    expect(three).toMatchObject({ outcome: 'already-satisfied', facts: { applied: 0 } });
  });
});

describe('a copy whose run failed late', () => {
  const quick = { poll: '50ms', quiet: '500ms' };

  it('is verified although somebody wrote after the drain, and while both were read', async () => {
    const name = uniqueName('orders');
    await table(here, name, { stream: 'NEW_IMAGE' });
    await here.put(name, items(40));
    await step('dynamodb.createTarget', 'apply', name);
    const copied = await step('dynamodb.copy', 'apply', name);
    const drained = await step('dynamodb.follow', 'apply', name, { ...quick, until: 'drained', position: copied.facts!['position'] });
    const position = drained.facts!['position'];
    // As time to live deletes, or a writer that was forgotten.
    await here.client.send(new DeleteItemCommand({ TableName: name, Key: { id: { S: 'order-3' } } }));
    let late: Promise<void> | undefined;
    sourceProxy.rule(async (call) => {
      if (is(call, 'Scan')) await (late ??= here.put(name, [item(99, 'written after the stream was drained once more')]));
      return undefined;
    });
    const proof = await verified(name, { ...quick, position });
    expect(proof.checks!.map(({ ok }) => ok)).toEqual([true, true]);
    expect(proof.facts).toMatchObject({ items: 40, same: true, late: 2, rounds: 2 });
    expect(await there.sums(name)).toEqual(await here.sums(name));
    // What is not of the source is not waited for: nothing came, and it is read once.
    await there.put(name, [{ id: { S: 'stranger' } }]);
    const wrong = await verified(name, { ...quick, position });
    expect(wrong.checks!.map(({ ok }) => ok)).toEqual([false, false]);
    expect(wrong.facts).toMatchObject({ same: false, rounds: 1, differing: ['id = "stranger": only in the copy'] });
  });

  it('waits for those who write after the stop, applies what they write, and gives up after its patience', async () => {
    const name = uniqueName('orders');
    await table(here, name, { stream: 'NEW_IMAGE' });
    await here.put(name, items(5));
    await step('dynamodb.createTarget', 'apply', name);
    const { position } = (await step('dynamodb.copy', 'apply', name)).facts!;
    await here.put(name, [item(1, 'late')]);
    // The service tells the time of a change coarsely: for a worker whose clock is an hour behind, all of it came after the stop.
    const nowMs = (): number => Date.now() - 3_600_000;
    const waited = await step('dynamodb.follow', 'apply', name, { ...quick, until: 'drained', position }, { nowMs });
    expect(waited.facts).toMatchObject({ afterStop: 0 });
    expect(waited.facts!['late']).toBeGreaterThan(0);
    expect(await there.sums(name)).toEqual(await here.sums(name));
    const gaveUp = await step('dynamodb.follow', 'apply', name, { ...quick, until: 'drained', position, patience: '1ms' }, { nowMs });
    expect(gaveUp.facts!['afterStop']).toBeGreaterThan(0);
  });

  it('is gone on with by another run, by its position, without reading the source again; and nothing else is', async () => {
    const name = uniqueName('orders');
    await table(here, name, { stream: 'NEW_IMAGE' });
    await here.put(name, items(40));
    await step('dynamodb.createTarget', 'apply', name);
    const position = JSON.stringify((await step('dynamodb.copy', 'apply', name)).facts!['position']);
    await here.put(name, [item(1, 'changed'), item(77)]);
    // Without it the target is somebody's.
    await expect(step('dynamodb.copy', 'apply', name)).rejects.toMatchObject({ code: 'copy-refused' });
    const scans = sourceProxy.seen.filter((call) => is(call, 'Scan')).length;
    expect((await step('dynamodb.copy', 'guard', name, { position })).checks!.filter(({ ok }) => !ok)).toEqual([]);
    const again = await step('dynamodb.copy', 'apply', name, { position });
    expect(again).toMatchObject({ outcome: 'already-satisfied', facts: { items: 0, position: JSON.parse(position) as unknown } });
    expect(sourceProxy.seen.filter((call) => is(call, 'Scan')).length).toBe(scans);
    const drained = await step('dynamodb.follow', 'apply', name, { ...quick, until: 'drained', position: again.facts!['position'] });
    expect((await verified(name, { ...quick, position: drained.facts!['position'] })).checks!.map(({ ok }) => ok)).toEqual([true, true]);

    const refused = async (): Promise<string> => {
      await expect(step('dynamodb.copy', 'apply', name, { position })).rejects.toMatchObject({ code: 'copy-refused' });
      return (await step('dynamodb.copy', 'guard', name, { position })).checks!.find(({ ok }) => !ok)!.found;
    };
    // It was given its settings: people may have been told of it, and what they wrote would be written over.
    await there.client.send(new UpdateTableCommand({ TableName: name, StreamSpecification: { StreamEnabled: true, StreamViewType: 'NEW_IMAGE' } }));
    expect(await refused()).toContain('people may write to it');
    await there.client.send(new DeleteTableCommand({ TableName: name }));
    await step('dynamodb.createTarget', 'apply', name);
    expect(await refused()).toContain('the position is of a copy of');
    await expect(step('dynamodb.follow', 'apply', name, { ...quick, until: 'drained', position })).rejects.toMatchObject({ code: 'copy-other-table' });
    expect(await there.all(name)).toEqual([]);
  });
});

describe('a worker that is killed', () => {
  it('while it copies and while it follows a live table leaves a copy that ends exact', async () => {
    const name = uniqueName('orders');
    await table(here, name, { stream: 'NEW_AND_OLD_IMAGES' });
    await here.put(name, items(300));
    const of = { source: 'here', table: name, datastore: 'there' };
    const folder = testDirectory('copy');
    const [ready, stopped] = [join(folder, 'ready'), join(folder, 'stopped')];
    const writes = writer(here.client, name);
    const run = surviveDeath(
      context,
      [
        { id: 'create', uses: 'dynamodb.createTarget', with: of },
        { id: 'copy', uses: 'dynamodb.copy', with: { ...of, segments: 12, parallel: 2 } },
        { id: 'follow', uses: 'dynamodb.follow', with: { ...of, until: 'caughtUp', poll: '50ms', position: '${steps.copy.position}' } },
        { id: 'stop', uses: 'rollout.command', with: { argv: ['/bin/sh', '-c', `touch ${ready}; until [ -e ${stopped} ]; do sleep 0.1; done`] } },
        { id: 'drain', uses: 'dynamodb.follow', with: { ...of, until: 'drained', poll: '50ms', quiet: '500ms', position: '${steps.follow.position}' } },
        { id: 'verify', uses: 'dynamodb.verifyCopy', with: { ...of, poll: '50ms', quiet: '500ms', position: '${steps.drain.position}' } },
        { id: 'settings', uses: 'dynamodb.settings', with: of },
      ],
      [{ at: 'dynamodb.createTarget:apply' }, { at: 'dynamodb.copy:apply', afterRequest: 'BatchWriteItemCommand' }, { at: 'dynamodb.follow:apply', afterRequest: 'BatchWriteItemCommand' }, { at: 'dynamodb.verifyCopy:apply' }],
    );
    let over = false;
    const ended = run.finally(() => {
      over = true;
    });
    ended.catch(() => {});
    await expect.poll(() => over || existsSync(ready), { timeout: 180_000, interval: 200 }).toBe(true);
    expect(await writes.stop()).toBeGreaterThan(100);
    writeFileSync(stopped, '');
    const result = await ended;
    expect(result.outcome).toBe('succeeded');
    expect(result.checks.filter(({ ok }) => !ok)).toEqual([]);
    expect(await there.sums(name)).toEqual(await here.sums(name));
  }, 240_000);
});
