import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { main } from '../../src/cli/main.ts';
import { syncSchedules } from '../../src/engine/schedules.ts';
import type { Compliance } from '../../src/model/compliance.ts';
import { configSchema, retentionSchema } from '../../src/model/config-schema.ts';
import { scheduledTimes, scheduleIdOf } from '../../src/model/schedule.ts';
import { listBackups } from '../../src/systems/backup-catalogue.ts';
import { measureCompliance } from '../../src/systems/backup-records.ts';
import type { Context } from '../../src/systems/context.ts';
import { runRetention } from '../../src/systems/backup-retention.ts';
import { openStore } from '../../src/systems/store.ts';
import { connectTemporal, runningWorker, suite, testConfig, testDatabase, type TestDatabase } from '../support.ts';

let database: TestDatabase;
let context: Context;
let client: Client;
let worker: { stop(): Promise<void> };
const HOUR = 3_600_000;

const shop = () => ({
  engine: 'postgres', database: database.database, store: 'main', binDirectory: suite().postgres.binDirectory, retention: { last: 1 },
  admin: { username: database.user, password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, nodes: { a: { host: database.host, port: database.port } },
});

beforeAll(async () => {
  database = await testDatabase('shop');
  await database.query('create table t as select generate_series(1, 10) n');
  context = await testConfig({
    datastores: { shop: shop() },
    services: { orders: { objectives: { rto: '15m', rpo: '1h', compliance: { target: 75, period: '4h' } }, datastores: ['shop'] } },
    schedules: { hourly: { run: 'backup', datastore: 'shop', every: '1h', catchUp: '10s' } },
  });
  client = await connectTemporal(context);
  worker = await runningWorker(context);
});
afterAll(async () => {
  await worker.stop();
  await client.connection.close();
  context.close();
  await database.drop();
});

/** A run as the schedule starts it for that moment. */
async function runFor(dueMs: number, taskQueue = context.config.temporal.taskQueue): Promise<unknown> {
  const workflowId = `backup/shop/scheduled-${new Date(dueMs).toISOString().replace('.000Z', 'Z')}`;
  return client.workflow.execute('backup', { taskQueue, workflowId, args: [{ datastore: 'shop', reason: 'scheduled' }] }).catch((error: unknown) => error);
}

async function cli(...argv: string[]): Promise<{ code: number; stdout: string }> {
  let stdout = '';
  let exit = 0;
  const code = await main(['--config', context.configPath, ...argv], { env: process.env, cwd: process.cwd(), terminal: false, out: (text) => void (stdout += text), err: () => {}, exit: (given) => { exit = given; throw new Error(`exit ${given}`); }, onSignal: () => () => {} });
  return { code: code === 0 ? exit : code, stdout };
}

test('counts what ran from the records in the store, also after retention has deleted the backups', async () => {
  const last = Math.floor(Date.now() / HOUR) * HOUR;
  const dues = [3, 2, 1, 0].map((back) => last - back * HOUR);
  await runFor(dues[0]!);
  await runFor(dues[1]!);
  await database.query('alter table t rename to hidden');
  // A run that fails leaves a record too.
  const broken = await testConfig({ environment: context.config.environment, stores: { main: { bucket: (context.config.stores['main'] as { bucket: string }).bucket } }, datastores: { shop: { engine: 'postgres', database: 'nowhere', store: 'main', admin: { username: database.user, password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, nodes: { a: { host: database.host, port: database.port } } } } });
  const brokenWorker = await runningWorker(broken);
  await runFor(dues[2]!, broken.config.temporal.taskQueue);
  await brokenWorker.stop();
  broken.close();
  await runFor(dues[3]!);
  await runRetention(context, { datastore: 'shop', apply: true, nowMs: Date.now() });
  const store = await openStore(context, 'main');
  expect(await listBackups(store, store.prefix, 'shop')).toHaveLength(1);

  // Records began with the first of them; the moment just after the last due time is asked for, so that no fifth falls due.
  const found = await measureCompliance(context, null, 'shop', { nowMs: Math.max(Date.now(), last + 1), periodMs: Date.now() - dues[0]! + 1000 });
  expect(found.occurrences.map(({ state }) => state)).toEqual(['successful', 'successful', 'missed', 'successful']);
  expect(found.occurrences[2]!.why).toMatch(/^failed: .*nowhere/);
  expect(found).toMatchObject({ required: 4, successful: 3, percent: 75, meets: true, target: 75, targetBy: 'service orders' });

  const shown = await cli('compliance', 'shop', '--json', '--period', '4h');
  expect((JSON.parse(shown.stdout) as Compliance[])[0]).toMatchObject({ datastore: 'shop', successful: 3 });
  const text = await cli('compliance', '--period', '4h');
  expect(text.stdout).toMatch(/shop: 75 % of 4 required backups .*3 in full, 0 degraded, 1 missed.*target 75 %: met/);
  expect(text.stdout).toContain('when schedule hourly was made is not known');
  const day = await cli('compliance', '--period', '24h');
  expect(day.code).toBe(1);
  expect(day.stdout).toMatch(/cannot be known and count as not successful/);
  expect((await cli('compliance', '--period', 'soon')).code).toBe(2);
});

test('a backup that a drill found bad stays missed when retention has deleted it, and one that a later drill found good does not', async () => {
  const { createDrillActivities } = await import('../../activities/drill.ts');
  const { MockActivityEnvironment } = await import('@temporalio/testing');
  const other = await testConfig({ datastores: { shop: { ...shop(), retention: undefined } }, schedules: { hourly: { run: 'backup', datastore: 'shop', every: '1h', catchUp: '10s' } } });
  const otherWorker = await runningWorker(other);
  const last = Math.floor(Date.now() / HOUR) * HOUR;
  const dues = [2, 1, 0].map((back) => last - back * HOUR);
  for (const due of dues) await runFor(due, other.config.temporal.taskQueue);
  const store = await openStore(other, 'main');
  const backups = (await listBackups(store, store.prefix, 'shop')).sort((a, b) => a.snapshotAtMs - b.snapshotAtMs);
  const { concludeDrill } = createDrillActivities(other);
  const conclude = async (index: number, mark: 'verified' | 'bad'): Promise<unknown> => new MockActivityEnvironment().run(concludeDrill as never, { datastore: 'shop', storeName: 'main', location: backups[index]!.location, workflowId: 'drill/shop/x', runId: 'x' } as never, { mark, reason: 'for a test' } as never);
  await conclude(0, 'bad');
  await conclude(1, 'bad');
  await conclude(1, 'verified');
  const compliance = async (): Promise<Compliance> => measureCompliance(other, null, 'shop', { nowMs: Math.max(Date.now(), last + 1), periodMs: Date.now() - dues[0]! + 1000 });
  const before = await compliance();
  Object.assign(other.config.datastores['shop']!, { retention: retentionSchema.parse({ last: 1 }) });
  await runRetention(other, { datastore: 'shop', apply: true, nowMs: Date.now() });
  expect((await listBackups(store, store.prefix, 'shop')).map(({ id }) => id)).not.toContain(backups[0]!.id);
  const after = await compliance();
  for (const found of [before, after]) expect(found.occurrences.map(({ state, why }) => [state, why])).toEqual([['missed', 'a drill found its backup bad'], ['successful', null], ['successful', null]]);
  await otherWorker.stop();
  other.close();
});

test('readiness says whether the target is met', async () => {
  const { createReadinessActivities } = await import('../../activities/readiness.ts');
  const { MockActivityEnvironment } = await import('@temporalio/testing');
  const { checkProofs } = createReadinessActivities(context);
  const environment = new MockActivityEnvironment(undefined, { client });
  const checks = (await environment.run(checkProofs as never, 'orders' as never, Date.now() as never)) as { name: string; ok: boolean; found: string }[];
  expect(checks.find(({ name }) => name === 'shop: backup compliance')).toMatchObject({ ok: true, found: expect.stringMatching(/^75 % of 4, 1 missed/) });
});

test('reckons the times of a schedule as Temporal does, also where clocks change', async () => {
  const schedules = {
    spring: { run: 'backup', datastore: 'shop', cron: '15,45 1-3 * * *', timezone: 'America/New_York' },
    half: { run: 'backup', datastore: 'shop', cron: '0 */2 * * *', timezone: 'Australia/Sydney' },
    weekly: { run: 'backup', datastore: 'shop', cron: '30 2 * * 0', timezone: 'Europe/Berlin' },
    monthly: { run: 'backup', datastore: 'shop', cron: '0 0 1-7 * 1', timezone: 'Asia/Seoul' },
    interval: { run: 'backup', datastore: 'shop', every: '7h' },
  };
  const config = configSchema.parse({ version: 1, environment: context.config.environment, temporal: context.config.temporal, stores: {}, datastores: {}, services: {}, schedules });
  await syncSchedules(client, config, { dryRun: false });
  for (const [from, to] of [['2027-03-10', '2027-04-06'], ['2027-10-01', '2027-11-12']] as const) {
    for (const [name, schedule] of Object.entries(config.schedules)) {
      const [startMs, endMs] = [Date.parse(from), Date.parse(to)];
      const answer = await client.workflowService.listScheduleMatchingTimes({ namespace: config.temporal.namespace, scheduleId: scheduleIdOf(config.environment, name), startTime: { seconds: startMs / 1000 as never }, endTime: { seconds: endMs / 1000 as never } });
      const theirs = answer.startTime!.map(({ seconds }) => Number(seconds) * 1000).filter((at) => at > startMs && at < endMs);
      // Of two equal local times the server takes one or both, by the fields of the cron; everything else is the same.
      const ours = scheduledTimes(schedule, startMs + 1, endMs);
      const repeated = new Set(ours.flatMap(({ orMs }) => orMs ?? []));
      const known = new Set(theirs);
      const agreed = ours.map(({ atMs, orMs }) => (orMs !== null && !known.has(atMs) && known.has(orMs) ? orMs : atMs));
      expect(repeated.size).toBeLessThan(5);
      expect({ name, times: agreed.map((at) => new Date(at).toISOString()) }).toEqual({ name, times: theirs.filter((at) => !repeated.has(at) || agreed.includes(at)).map((at) => new Date(at).toISOString()) });
    }
  }
});
