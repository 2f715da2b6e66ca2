/** Not a test of its own: run by record.ts. Each `it` leaves one history in ./histories. */
import { hostname } from 'node:os';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { WorkflowFailedError, type Client, type WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { Progress } from '../../src/model/execution.ts';
import { WORKFLOW_IDS, type WorkflowType } from '../../src/model/api.ts';
import { retentionSchema } from '../../src/model/config-schema.ts';
import { databasePair, type DatabasePair } from '../database-pair.ts';
import { approve, connectTemporal, queryOnce, runningWorker, suite, testDirectory } from '../support.ts';
import { HISTORIES, History } from './histories.ts';
import { postgresOf } from '../../src/systems/context.ts';

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };

beforeAll(async () => {
  rmSync(HISTORIES, { recursive: true, force: true });
  mkdirSync(HISTORIES, { recursive: true });
  processes = createProcesses({ directory: testDirectory('recording') });
  const made = await databasePair(processes, {
    services: {
      orders: {
        objectives: { rto: '15m', rpo: '1m', refusedWrites: '30s', lostWrites: 0, backupAge: '1h' },
        datastores: ['shop'],
        runbooks: { failover: 'database-failover', failback: 'database-failback' },
        cooldown: '0s',
        approval: { planned: 2, forced: 0, expires: '10m' },
        checks: [{ name: 'orders are there', sql: 'select count(*) from orders', expect: { atLeast: 1 } }],
      },
    },
  });
  // A queue named after this host would be in every history of a drill.
  pair = { ...made, context: { ...made.context, hostTaskQueue: `${made.context.config.temporal.taskQueue}-host-recorder` } };
  postgresOf(made.context.config, 'shop').retention = retentionSchema.parse({ last: 3 });
  await queryOnce(pair.servers.a.connectionString('shop'), 'insert into orders (id) select generate_series(1, 1000)');
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

function start(type: WorkflowType, name: string, args: Record<string, unknown>): Promise<WorkflowHandle> {
  return client.workflow.start(type, { taskQueue: pair.context.config.temporal.taskQueue, workflowId: `${type}/${name}`, args: [args] });
}

const failover = { service: 'orders', mode: 'planned', reason: 'recorded for replay', requestedBy: 'ann' };

async function save(handle: WorkflowHandle, name: string): Promise<void> {
  const history = await handle.fetchHistory();
  scrub(history);
  const bytes = History.encode(History.fromObject(history)).finish();
  const text = Buffer.from(bytes).toString('latin1');
  for (const [what, value] of Object.entries(unwanted())) expect(text.includes(value), `${name}: ${what} is in the history`).toBe(false);
  writeFileSync(join(HISTORIES, `${name}.binpb`), bytes);
  console.log(`${name}: ${history.events?.length} events, ${bytes.length} bytes`);
}

/** Who polled and where code lay when an error was thrown is of no use to a replay. */
function scrub(value: unknown): void {
  if (Array.isArray(value)) for (const item of value) scrub(item);
  else if (value !== null && typeof value === 'object' && !(value instanceof Uint8Array)) {
    const fields = value as Record<string, unknown>;
    if (typeof fields['identity'] === 'string') fields['identity'] = 'recorder';
    if (typeof fields['stackTrace'] === 'string') fields['stackTrace'] = '';
    for (const [key, item] of Object.entries(fields)) {
      // Sticky queues are named after the worker.
      if (typeof item === 'string') fields[key] = item.replaceAll(new RegExp(`[\\w-]*@${hostname()}`, 'g'), 'recorder');
      else scrub(item);
    }
  }
}

function unwanted(): Record<string, string> {
  const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
  const secrets = Object.entries(process.env).filter(([name, value]) => name.startsWith('HOLDFAST_TEST_') && (value ?? '').length > 3) as [string, string][];
  const application = new URL(pair.applicationUrl('a')).password;
  return { ...Object.fromEntries(secrets), 'password of the superuser': pair.servers.a.password, 'password of the application': application, 'password of the base server': suite().postgres.password, 'host name': `@${hostname()}`, 'queue of this host': `-host-${hostname()}`, 'folder of the checkout': root, 'binary of this machine': process.execPath };
}

async function step(handle: WorkflowHandle, id: string): Promise<NonNullable<Progress['state']>['steps'][number] | undefined> {
  return (await handle.query<Progress>('progress')).state?.steps.find((item) => item.id === id);
}

it('restoreDrill without a backup', async () => {
  const handle = await start('restoreDrill', 'no-backup', { datastore: 'shop' });
  expect(await handle.result()).toMatchObject({ outcome: 'failed' });
  await save(handle, 'restoreDrill.no-backup');
});

it('backup', async () => {
  const handle = await start('backup', 'good', { datastore: 'shop' });
  expect(await handle.result()).toMatchObject({ datastore: 'shop' });
  await save(handle, 'backup.committed');
});

it('backup that fails', async () => {
  const handle = await start('backup', 'bad', { datastore: 'no-such-datastore' });
  await expect(handle.result()).rejects.toThrow(WorkflowFailedError);
  await save(handle, 'backup.failed');
});

it('retention', async () => {
  const handle = await start('retention', 'good', { datastore: 'shop', apply: true });
  expect(await handle.result()).toMatchObject({ applied: true });
  await save(handle, 'retention.applied');
});

it('restoreDrill', async () => {
  const handle = await start('restoreDrill', 'verified', { datastore: 'shop' });
  expect(await handle.result()).toMatchObject({ outcome: 'verified' });
  await save(handle, 'restoreDrill.verified');
});

it('readiness', async () => {
  const handle = await start('readiness', 'good', { service: 'orders' });
  expect(await handle.result()).toMatchObject({ level: 'degraded', recoverable: true, why: [expect.stringMatching(/rehearsed/), expect.stringMatching(/rehearsed/)] });
  await save(handle, 'readiness.ready');
});

it('failover that goes back: the candidate stops replaying after the first look', async () => {
  const handle = await start('failover', 'undone', failover);
  await expect.poll(async () => (await step(handle, 'approve'))?.status, { timeout: 60_000 }).toBe('running');
  await queryOnce(pair.servers.b.connectionString(), 'select pg_wal_replay_pause()');
  await approve(handle, 'bob');
  await approve(handle, 'cid');
  await expect(handle.result()).rejects.toThrow(WorkflowFailedError);
  await queryOnce(pair.servers.b.connectionString(), 'select pg_wal_replay_resume()');
  expect((await step(handle, 'stage-secret'))?.status).toBe('undone');
  await save(handle, 'failover.undone');
});

it('failover that nobody approves: rejected', async () => {
  const handle = await start('failover', 'rejected', failover);
  await expect.poll(async () => (await step(handle, 'approve'))?.status, { timeout: 60_000 }).toBe('running');
  await handle.executeUpdate('reject', { args: [{ by: 'bob', reason: 'not today' }] });
  await expect(handle.result()).rejects.toThrow(WorkflowFailedError);
  await save(handle, 'failover.rejected');
});

it('failover, planned', async () => {
  const handle = await start('failover', 'planned', failover);
  await expect.poll(async () => (await step(handle, 'approve'))?.status, { timeout: 60_000 }).toBe('running');
  await approve(handle, 'bob');
  await approve(handle, 'cid');
  expect(await handle.result()).toMatchObject({ outcome: 'succeeded', candidate: 'b' });
  await save(handle, 'failover.planned');
});

it('runbook: the old primary becomes a standby', async () => {
  const handle = await start('runbook', 'rebuild', { runbook: 'standby-rebuild', service: 'orders', parameters: { node: 'a' }, requestedBy: 'ann', reason: 'recorded for replay' });
  expect(await handle.result()).toMatchObject({ outcome: 'succeeded' });
  await save(handle, 'runbook.standby-rebuild');
});

it('failover, forced', async () => {
  await pair.servers.b.kill();
  const handle = await start('failover', 'forced', { ...failover, mode: 'forced' });
  expect(await handle.result()).toMatchObject({ outcome: 'succeeded', candidate: 'a' });
  await save(handle, 'failover.forced');
});

it('failback, to the node that was killed', async () => {
  const handle = await start('failover', 'failback', { ...failover, purpose: 'failback', parameters: { node: 'b' } });
  await expect.poll(async () => (await step(handle, 'approve'))?.status, { timeout: 60_000 }).toBe('running');
  await approve(handle, 'bob');
  await approve(handle, 'cid');
  expect(await handle.result()).toMatchObject({ outcome: 'succeeded', candidate: 'b' });
  await save(handle, 'failover.failback');
});

it('what was done by hand, recorded afterwards', async () => {
  const at = new Date(Date.now() - 60_000).toISOString();
  const step = (id: string, uses: string): object => ({ id, uses, outcome: 'done', by: 'ann', at, output: '' });
  const results = {
    format: 1, service: 'orders', runbook: 'database-failover', kind: 'failover', mode: 'planned', environment: pair.context.config.environment, parameters: { datastore: 'shop' }, planHash: 'of another day', madeAt: at,
    primary: 'b', candidate: 'a', by: 'ann', reason: 'recorded for replay', startedAt: at, finishedAt: at, lastGoodWriteAt: '', firstGoodWriteAt: '', lostTransactions: null,
    steps: [step('read-only', 'postgres.readOnly'), step('promote', 'postgres.promote'), step('swap-secret', 'secret.swap')],
  };
  const handle = await start('imported', 'by-hand', { results, importedBy: 'ann' });
  expect(await handle.result()).toMatchObject({ service: 'orders', confirmed: false });
  await save(handle, 'imported.by-hand');
});

it('the lock that all of them took', async () => {
  const handle = client.workflow.getHandle(WORKFLOW_IDS.lock(pair.context.config.environment, 'shop'));
  expect((await handle.describe()).status.name).toBe('RUNNING');
  await save(handle, 'resourceLock.held');
});

it('all are there', () => {
  expect(readdirSync(HISTORIES)).toHaveLength(14);
});
