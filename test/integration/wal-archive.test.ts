import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { walSteps } from '../../activities/wal.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startPostgres, type PostgresServer } from '../../src/local/stack.ts';
import { startWalArchive, type LocalWalArchive } from '../../src/local/wal-archive.ts';
import type { CheckResult } from '../../src/model/api.ts';
import type { Context } from '../../src/systems/context.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import type { ReadinessResult } from '../../workflows/readiness.ts';
import { runHere, secretsOfTest } from '../cli/program.ts';
import { mortalWorker, type MortalWorker } from '../mortal.ts';
import { runStep } from '../step-run.ts';
import { connectTemporal, failureOf, queryOnce, runningWorker, testConfig, testDirectory, uniqueName } from '../support.ts';

let processes: Processes;
let archive: LocalWalArchive;
let server: PostgresServer;
let context: Context;
let client: Client;
let worker: { stop(): Promise<void> } | undefined;
const mortals: MortalWorker[] = [];

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('wal') });
  archive = await startWalArchive({ processes, directory: testDirectory('wal-archive') });
  server = await startPostgres({ processes, directory: testDirectory('wal-server'), name: 'a', settings: { shared_buffers: '32MB', fsync: 'off', ...archive.settings } });
  await archive.attach(server);
  await queryOnce(server.connectionString(), 'create database shop');
  await queryOnce(server.connectionString('shop'), 'create table orders (id bigint generated always as identity primary key, at timestamptz not null default clock_timestamp())');
  await queryOnce(server.connectionString('shop'), 'insert into orders default values');
  await archive.backup(server);
  process.env['HOLDFAST_TEST_WAL_PASSWORD'] = server.password;
  const [key, secret] = Object.values(archive.secrets);
  Object.assign(process.env, { HOLDFAST_TEST_WAL_KEY: key, HOLDFAST_TEST_WAL_SECRET: secret });
  context = await testConfig({
    datastores: {
      shop: {
        engine: 'postgres', database: 'shop', store: 'main', admin: { username: server.superuser, password: 'env:HOLDFAST_TEST_WAL_PASSWORD' }, binDirectory: server.binDirectory,
        nodes: { a: { host: server.host, port: server.port, dataDirectory: server.dataDirectory, binDirectory: server.binDirectory, exec: server.exec } },
        walArchive: {
          tool: 'pgbackrest', stanza: archive.stanza, configFile: archive.configFile, node: { configFile: archive.nodeConfigFile },
          secrets: { PGBACKREST_REPO1_S3_KEY: 'env:HOLDFAST_TEST_WAL_KEY', PGBACKREST_REPO1_S3_KEY_SECRET: 'env:HOLDFAST_TEST_WAL_SECRET' },
          proof: { upTo: 'select max(id) from orders where at <= $1', after: 'select min(id) from orders where at > $1' },
        },
      },
    },
    services: { orders: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], checks: [{ name: 'orders are there', sql: 'select count(*) from orders', expect: { atLeast: 1 } }], rehearsals: [{ name: 'wal', every: 'monthly', runbook: 'wal-rehearsal' }, { name: 'restore', every: 'quarterly', drill: 'shop' }] } },
  });
  client = await connectTemporal(context);
});

afterAll(async () => {
  for (const one of mortals) await one.stop();
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  context?.close();
});

async function rehearse(parameters: Readonly<Record<string, unknown>> = {}): Promise<WorkflowHandle> {
  return client.workflow.start('runbook', {
    taskQueue: context.config.temporal.taskQueue, workflowId: `runbook/wal-rehearsal/${uniqueName('test')}`,
    args: [{ runbook: 'wal-rehearsal', service: 'orders', parameters: { datastore: 'shop', ...parameters }, reason: 'test', requestedBy: 'tester' }],
  });
}

function drillFolders(): string[] {
  const folder = join(context.workDirectory, 'drills');
  return existsSync(folder) ? readdirSync(folder) : [];
}

/** Server processes that work in a drill's folder. */
/** Process id and command line of each that works below the folder of drills. */
function drillProcesses(): string[] {
  return readdirSync('/proc').filter((pid) => /^\d+$/.test(pid)).flatMap((pid) => {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      return line.includes(join(context.workDirectory, 'drills')) ? [`${pid} ${line}`] : [];
    } catch {
      return [];
    }
  });
}

async function now(): Promise<string> {
  const [row] = await queryOnce<{ at: string }>(server.connectionString('shop'), `select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at`);
  return row!.at;
}

async function archived(): Promise<void> {
  const { wal } = (await queryOnce<{ wal: string }>(server.connectionString('shop'), 'select pg_walfile_name(pg_switch_wal()) as wal'))[0]!;
  await expect.poll(async () => (await queryOnce<{ last: string }>(server.connectionString('shop'), 'select last_archived_wal as last from pg_stat_archiver'))[0]!.last >= wal, { timeout: 20_000 }).toBe(true);
}

it('restores to the moment between two commits, has the first and not the second, and leaves nothing behind', async () => {
  worker = await runningWorker(context);
  const result = (await (await rehearse()).result()) as ExecutionResult;
  expect(result.outcome).toBe('succeeded');
  expect(result.steps.map(({ id, outcome }) => `${id} ${outcome}`)).toEqual(['check changed', 'mark changed', 'restore changed', 'tell skipped']);
  expect(result.checks.filter(({ name }) => name.startsWith('restore: ')).map(({ name, ok }) => `${name} ${ok}`)).toEqual(expect.arrayContaining([
    'restore: recovery stopped at the moment true', 'restore: last row before the moment true', 'restore: first row after the moment true', 'restore: both rows on the primary true', 'restore: shop: orders are there true',
  ]));
  expect(drillFolders()).toEqual([]);
  expect(drillProcesses()).toEqual([]);
  expect(result.measurements[0]).toMatchObject({ name: 'RTO: restore begun to proved', objective: 900_000, measured: expect.any(Number) });
  expect(result.objectivesMet).toBe(true);
  expect(result.evidence).toContain(context.config.evidence.directory);
});

it('the calendar counts that run, and says in readiness and on the command line what was never held', async () => {
  const { code, out } = await runHere(['rehearsals', '--config', context.configPath, '--json'], { env: secretsOfTest() });
  expect(code).toBe(6);
  expect(JSON.parse(out)).toMatchObject([
    { service: 'orders', name: 'wal', state: 'held', last: { workflowId: expect.stringContaining('runbook/wal-rehearsal/'), evidence: expect.any(String) } },
    { service: 'orders', name: 'restore', state: 'never', last: null },
  ]);
  const { checks, level, why } = (await client.workflow.execute('readiness', { taskQueue: context.config.temporal.taskQueue, workflowId: uniqueName('readiness'), args: [{ service: 'orders' }] })) as ReadinessResult;
  expect(level).not.toBe('ready');
  expect(checks.find(({ name }) => name === 'rehearsal wal')).toMatchObject({ ok: true });
  expect(checks.find(({ name }) => name === 'rehearsal restore')).toMatchObject({ ok: false, weight: 'lowers', next: 'holdfast drill shop' });
  expect(why.join()).toContain('rehearsal restore');
});

it('restores to a given moment by the queries of the service, and says when the moment proves nothing', async () => {
  await queryOnce(server.connectionString('shop'), 'insert into orders default values');
  const time = await now();
  await queryOnce(server.connectionString('shop'), 'insert into orders default values');
  await archived();
  const result = (await (await rehearse({ time })).result()) as ExecutionResult;
  const newest = (await queryOnce<{ id: string }>(server.connectionString('shop'), 'select max(id) as id from orders'))[0]!.id;
  const of = (name: string) => result.checks.find((check) => check.name === `restore: ${name}`);
  expect(of('last row up to the moment')).toMatchObject({ ok: true, found: String(Number(newest) - 1) });
  expect(of('first row after the moment is absent')).toMatchObject({ ok: true, found: 'none' });
  expect(of('first row after the moment, on the primary')).toMatchObject({ ok: true, found: newest });
  // Nothing was ordered after this moment: that none is there would show nothing.
  const late = await now();
  await queryOnce(server.connectionString('shop'), 'create table nothing_ordered ()');
  await archived();
  const { facts } = await runStep(walSteps, context, 'wal.restoreToTime', 'apply', { source: 'shop', moment: late });
  expect((facts!['proof'] as unknown as CheckResult[]).filter(({ ok }) => !ok).map(({ name }) => name)).toEqual(['first row after the moment, on the primary']);
  expect(drillFolders()).toEqual([]);
});

it('refuses a moment before the first base backup, one ahead, and one without a time zone, before it changes anything', async () => {
  const folders = drillFolders();
  for (const [time, said] of [['2020-01-01T00:00:00Z', 'the first base backup'], ['2199-01-01T00:00:00+09:00', 'ahead'], ['2026-11-21T09:30:00', 'no moment with a time zone']] as const) {
    const failed = await failureOf(await rehearse({ time }));
    expect(failed.failure).toContain(said);
    expect(failed.steps.filter(({ uses, outcome }) => uses === 'wal.restoreToTime' && outcome === 'changed')).toEqual([]);
  }
  expect(drillFolders()).toEqual(folders);
});

it('workers killed after the check, after the marks were committed, and in the middle of the recovery: the run goes on with the same marks and leaves no server', async () => {
  await worker?.stop();
  worker = undefined;
  const deaths = [{ at: 'wal.check:apply' }, { at: 'wal.mark:apply' }];
  const handle = await rehearse();
  for (const death of deaths) {
    const mortal = await mortalWorker(context, death);
    mortals.push(mortal);
    await mortal.go();
    const end = await Promise.race([mortal.ended, handle.result().then(() => 'the run ended first', (error: Error) => `the run ended first: ${String(error.cause)}`)]);
    expect({ ...death, end }).toEqual({ ...death, end: 'SIGKILL' });
  }
  // In the middle: its server runs, and goes with it.
  const middle = await mortalWorker(context);
  mortals.push(middle);
  await middle.go();
  await expect.poll(drillProcesses, { timeout: 60_000, interval: 20 }).not.toEqual([]);
  await middle.kill();
  await expect.poll(drillProcesses, { timeout: 10_000 }).toEqual([]);
  worker = await runningWorker(context);
  const result = (await handle.result()) as ExecutionResult;
  expect(result.outcome).toBe('succeeded');
  expect(await queryOnce(server.connectionString('shop'), `select side from holdfast.wal_mark where key like $1 order by side`, [`${handle.workflowId}/%`])).toEqual([{ side: 'after' }, { side: 'before' }]);
  expect(drillFolders()).toEqual([]);
  expect(drillProcesses()).toEqual([]);
}, 240_000);

it('names the WAL file that is missing in the archive, and the one that is cut off', async () => {
  await archived();
  await archive.backup(server);
  const begun = new Set(archive.walFiles());
  for (let count = 0; count < 3; count += 1) {
    await queryOnce(server.connectionString('shop'), 'insert into orders default values');
    await archived();
  }
  const marked = (await runStep(walSteps, context, 'wal.mark', 'apply', { source: 'shop' })).facts!;
  await archived();
  const fresh = archive.walFiles().filter((file) => !begun.has(file));
  const middle = fresh[1]!;
  const name = /([0-9A-F]{24})-/.exec(middle)![1]!;
  const kept = readFileSync(middle);
  rmSync(middle);
  const restore = () => runStep(walSteps, context, 'wal.restoreToTime', 'apply', { source: 'shop', moment: String(marked['moment']), marks: String(marked['marks']) });
  await expect(restore()).rejects.toThrow(new RegExp(`WAL file ${name} is missing in the archive, which has [0-9A-F]{24} after it`));
  expect(drillFolders()).toEqual([]);
  writeFileSync(middle, kept.subarray(0, kept.length / 2));
  await expect(restore()).rejects.toThrow(name);
  expect(drillFolders()).toEqual([]);
  expect(drillProcesses()).toEqual([]);
  writeFileSync(middle, kept);
  const { facts } = await restore();
  expect((facts!['proof'] as unknown as CheckResult[]).filter(({ ok }) => !ok)).toEqual([]);
}, 240_000);

it('the check fails when the archiver fails, and says on which file', async () => {
  await queryOnce(server.connectionString(), `alter system set archive_command = 'false'`);
  await queryOnce(server.connectionString(), 'select pg_reload_conf()');
  try {
    await queryOnce(server.connectionString('shop'), 'insert into orders default values');
    await queryOnce(server.connectionString('shop'), 'select pg_switch_wal()');
    await expect.poll(async () => (await queryOnce<{ failed: number }>(server.connectionString(), 'select failed_count::int as failed from pg_stat_archiver'))[0]!.failed, { timeout: 20_000 }).toBeGreaterThan(0);
    const { checks } = await runStep(walSteps, context, 'wal.check', 'guard', { source: 'shop' });
    expect(checks!.find((check) => check.name === 'archiver')).toMatchObject({ ok: false, found: expect.stringMatching(/^failed on [0-9A-F]{24}$/) });
  } finally {
    await queryOnce(server.connectionString(), 'alter system reset archive_command');
    await queryOnce(server.connectionString(), 'select pg_reload_conf()');
  }
});
