import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { secretsOfTest, startHoldfast } from '../cli/program.ts';
import { databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, testDirectory, toxiproxy, uniqueName } from '../support.ts';

/** How long after the promotion the worker hears of it: time enough to be killed in between. */
const LATE_MS = 700;

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let configPath: string;
let proxy: Awaited<ReturnType<ReturnType<typeof toxiproxy>['proxy']>>;
const workers: ChildProcess[] = [];

beforeAll(async () => {
  const directory = testDirectory('killed');
  processes = createProcesses({ directory });
  pair = await databasePair(processes);
  const { b } = pair.servers;
  proxy = await toxiproxy().proxy(uniqueName('candidate'), `${b.host}:${b.port}`);
  // The workers reach the candidate through a proxy, the test does not: so it knows first.
  const document = parse(readFileSync(pair.context.configPath, 'utf8')) as { datastores: { shop: { nodes: { b: { port: number; applicationHost: string } } } } };
  const [host, port] = proxy.address.split(':') as [string, string];
  Object.assign(document.datastores.shop.nodes.b, { host, applicationHost: host, port: Number(port) });
  configPath = join(directory, 'proxied.yaml');
  writeFileSync(configPath, stringify(document));
  client = await connectTemporal(pair.context);
});

afterAll(async () => {
  for (const child of workers) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
  await proxy?.delete();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

function startWorker(): ChildProcess {
  const { child } = startHoldfast(['worker', '--config', configPath, '--runbooks', pair.context.runbookDirectory, '--grace', '1'], { env: secretsOfTest() });
  workers.push(child);
  return child;
}

it('a worker killed after it promoted and before it could say so: it is promoted once, and the failover ends well', async () => {
  const first = startWorker();
  const { taskQueue } = pair.context.config.temporal;
  const handle = await client.workflow.start('failover', { taskQueue, workflowId: `failover/${uniqueName('killed')}`, args: [{ service: pair.service, mode: 'planned', reason: 'test', requestedBy: 'ann' }] });
  const step = async (id: string): Promise<NonNullable<Progress['state']>['steps'][number] | undefined> => (await handle.query<Progress>('progress')).state?.steps.find((item) => item.id === id);
  await expect.poll(async () => (await step('canary'))?.status, { timeout: 60_000, interval: 20 }).toMatch(/running|done/);
  await proxy.addToxic({ name: 'late', type: 'latency', stream: 'downstream', attributes: { latency: LATE_MS } });

  const direct = new pg.Client({ connectionString: pair.servers.b.connectionString() });
  await direct.connect();
  try {
    while ((await direct.query<{ recovering: boolean }>('select pg_is_in_recovery() as recovering')).rows[0]!.recovering) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    first.kill('SIGKILL');
    await direct.end();
  }
  await once(first, 'exit');
  expect(first.signalCode).toBe('SIGKILL');
  // Nobody heard of it: its apply is still open.
  const open = await handle.fetchHistory();
  const scheduled = open.events!.filter((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'postgres.promote:apply');
  expect(scheduled).toHaveLength(1);
  expect(open.events!.some((event) => String(event.activityTaskCompletedEventAttributes?.scheduledEventId) === String(scheduled[0]!.eventId))).toBe(false);
  await proxy.removeToxics();

  startWorker();
  const result = (await handle.result()) as ExecutionResult;
  expect(result.outcome).toBe('succeeded');
  expect(result.steps.find((item) => item.id === 'promote')).toMatchObject({ outcome: 'changed', summary: expect.stringContaining('its answer was lost; inspection shows that it happened') });
  const { state } = await handle.query<Progress>('progress');
  expect(state!.ledger.filter((entry) => entry.step === 'promote').map((entry) => entry.outcome)).toEqual(['unknown', 'changed']);
  expect(state!.ledger.filter((entry) => entry.phase === 'undo')).toEqual([]);
  const ended = await handle.fetchHistory();
  expect(ended.events!.filter((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'postgres.promote:apply')).toHaveLength(1);

  // Each promotion begins a timeline: there was one.
  expect(await queryOnce(pair.servers.b.connectionString(), "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline")).toEqual([{ timeline: '00000002' }]);
  expect(await pair.pointsTo()).toBe('b');
  expect(await tryToWrite(pair, 'a')).toEqual([]);
  expect(await tryToWrite(pair, 'b')).toEqual(['application', 'superuser']);
}, 120_000);
