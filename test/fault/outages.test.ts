import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { WorkflowFailedError, type Client, type WorkflowHandle } from '@temporalio/client';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resultIn } from '../../src/engine/executions.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startTemporal, type TemporalServer } from '../../src/local/temporal.ts';
import type { ToxicProxy } from '../../src/local/toxiproxy.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { mortalWorker, type MortalWorker } from '../mortal.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory, toxiproxy, uniqueName } from '../support.ts';
import { postgresOf } from '../../src/systems/context.ts';

/** `npm test` takes the cuts that matter most, `npm run test:fault` all of them, short and long. */
const LONG = process.env['HOLDFAST_TEST_ROUNDS'] === 'long';
const DEADLINE_MS = 60_000;

type NodeName = 'a' | 'b';
const other = (node: NodeName): NodeName => (node === 'a' ? 'b' : 'a');

let processes: Processes;
beforeAll(() => {
  processes = createProcesses({ directory: testDirectory('outages') });
});
afterAll(() => processes?.end());

/** The shipped runbooks, and each with a wait of so many seconds while writes are refused. */
function withHeld(pair: DatabasePair, seconds: number, deadline?: string): DatabasePair {
  const runbookDirectory = testDirectory('runbooks');
  cpSync(pair.context.runbookDirectory, runbookDirectory, { recursive: true });
  for (const name of ['database-failover', 'database-failback']) {
    const text = readFileSync(join(runbookDirectory, `${name}.yaml`), 'utf8');
    const hold = (wait: string): string => text.replace('  - id: await-replay\n', `  - id: hold\n    title: Hold\n    uses: operator.wait\n    narrative: Hold.\n    with: {duration: ${wait}}\n\n  - id: await-replay\n`);
    if (hold('1s') === text) throw new Error(`${name} has no step await-replay any more`);
    writeFileSync(join(runbookDirectory, `held-${name}.yaml`), hold(`${seconds}s`).replace(/^name: .*/m, `name: held-${name}`));
    if (deadline !== undefined) writeFileSync(join(runbookDirectory, `stalled-${name}.yaml`), hold('50s').replace(/^name: .*/m, `name: stalled-${name}`).replace(/^readOnlyDeadline: .*/m, `readOnlyDeadline: ${deadline}`));
  }
  return { ...pair, context: { ...pair.context, runbookDirectory } };
}

/** Switches to `to`; `variant` is a prefix of the runbook's name. A node that was left behind is rebuilt first. */
async function begin(client: Client, pair: DatabasePair, to: NodeName, variant = ''): Promise<WorkflowHandle> {
  const [standby] = await queryOnce<{ streams: boolean }>(pair.servers[other(to)].connectionString(), 'select exists (select from pg_stat_replication) as streams');
  const runbook = `${variant}${standby!.streams ? 'database-failover' : 'database-failback'}`;
  const parameters = standby!.streams ? { candidate: to } : { node: to };
  return client.workflow.start('runbook', { taskQueue: pair.context.config.temporal.taskQueue, workflowId: `runbook/${uniqueName('outage')}`, args: [{ runbook, service: pair.service, mode: 'planned', parameters, reason: 'test', requestedBy: 'ann' }] });
}

type Step = NonNullable<Progress['state']>['steps'][number];

/** Asked again when nobody answers: that is what happens here. */
async function stepsOf(handle: WorkflowHandle): Promise<readonly Step[]> {
  return (await handle.query<Progress>('progress').catch(() => null))?.state?.steps ?? [];
}

async function reaches(handle: WorkflowHandle, id: string, statuses: RegExp): Promise<void> {
  await expect.poll(async () => (await stepsOf(handle)).find((step) => step.id === id)?.status, { timeout: 60_000, interval: 20 }).toMatch(statuses);
}

/** How it ended. A parked step is tried again, as a person would who sees that the network is back; says how often. */
async function conclude(handle: WorkflowHandle): Promise<{ result: ExecutionResult; retries: string[] }> {
  const retries: string[] = [];
  for (;;) {
    const ended = await Promise.race([
      handle.result().then(
        (result: unknown) => result as ExecutionResult,
        (error: unknown) => {
          const result = resultIn(error);
          if (result !== undefined) return result;
          // The server was away; ask again.
          if (error instanceof WorkflowFailedError) throw error;
          return null;
        },
      ),
      sleep(500, null),
    ]);
    if (ended !== null) return { result: ended, retries };
    const parked = (await stepsOf(handle)).find((step) => step.status === 'parked');
    if (parked === undefined) continue;
    retries.push(`${parked.id}: ${parked.error}`);
    await handle.executeUpdate('retry', { args: [{ by: 'bob', reason: 'the network is back', step: parked.id, attempt: parked.attempt }] });
  }
}

async function recovering(pair: DatabasePair, node: NodeName): Promise<boolean> {
  return (await queryOnce<{ recovering: boolean }>(pair.servers[node].connectionString(), 'select pg_is_in_recovery() as recovering'))[0]!.recovering;
}

/** Resolves as soon as the node is a primary, without going through what the worker goes through. */
async function promoted(pair: DatabasePair, node: NodeName): Promise<void> {
  const direct = new pg.Client({ connectionString: pair.servers[node].connectionString() });
  await direct.connect();
  try {
    while ((await direct.query<{ recovering: boolean }>('select pg_is_in_recovery() as recovering')).rows[0]!.recovering) await new Promise((resolve) => setImmediate(resolve));
  } finally {
    await direct.end();
  }
}

/** Whatever happened: one node takes writes, secret and DNS name it, nothing is staged, nothing acknowledged is lost, and the refusal was bounded. */
async function expectRight(pair: DatabasePair, primary: NodeName, writer: ApplicationWriter, sinceMs: number, boundMs: number): Promise<void> {
  const from = writer.acknowledged.length;
  await expect.poll(() => writer.acknowledged.length, { timeout: 20_000 }).toBeGreaterThan(from);
  await writer.stop();
  expect({ [primary]: await tryToWrite(pair, primary), [other(primary)]: await tryToWrite(pair, other(primary)) }).toEqual({ [primary]: ['application', 'superuser'], [other(primary)]: [] });
  expect(await pair.pointsTo()).toBe(primary);
  expect(await pair.record()).toBe(primary === 'a' ? '127.0.0.1' : '127.0.0.2');
  const labels = await pair.secretLabels();
  expect({ current: labels.current.length, staged: labels.staged }).toEqual({ current: 1, staged: [] });
  expect(await writer.lostOn(primary)).toEqual([]);
  expect(writer.longestGapMs(sinceMs)).toBeLessThan(boundMs);
}

let nextId = 1;
function writerFor(pair: DatabasePair): ApplicationWriter {
  nextId += 10_000_000;
  return new ApplicationWriter(pair, nextId);
}

describe('the Temporal server is killed and started again', () => {
  let pair: DatabasePair;
  let client: Client;
  let worker: { stop(): Promise<void> };
  let server: TemporalServer;
  const databaseFile = (): string => join(processes.directory, 'temporal.db');

  beforeAll(async () => {
    server = await startTemporal({ processes, directory: processes.directory, databaseFile: databaseFile() });
    pair = withHeld(await databasePair(processes, { temporal: { address: server.address } }), 5, '15s');
    client = await connectTemporal(pair.context);
    worker = await runningWorker(pair.context);
  });
  afterAll(async () => {
    await worker?.stop();
    await client?.connection.close();
    pair?.context.close();
  });

  async function outage(ms: number): Promise<void> {
    const port = Number(server.address.split(':')[1]);
    await server.kill();
    await sleep(ms);
    server = await startTemporal({ processes, directory: processes.directory, databaseFile: databaseFile(), port });
  }

  it('for longer than writes may be refused: they are let in again as soon as it is back', async () => {
    const writer = writerFor(pair);
    const sinceMs = Date.now();
    const handle = await begin(client, pair, 'b', 'stalled-');
    await reaches(handle, 'read-only', /done/);
    await outage(20_000);
    const { result } = await conclude(handle);
    expect(result).toMatchObject({ outcome: 'failed', failure: expect.stringContaining('writes were refused for longer than the deadline of 15000 ms') });
    expect(await recovering(pair, 'b')).toBe(true);
    // Deadline, outage, and what the server needs until its timers fire again.
    await expectRight(pair, 'a', writer, sinceMs, 15_000 + 20_000 + 25_000);
  }, 180_000);

  it('while writes are refused: the failover goes on and ends well', async () => {
    const writer = writerFor(pair);
    const sinceMs = Date.now();
    const handle = await begin(client, pair, 'b', 'held-');
    await reaches(handle, 'read-only', /done/);
    await outage(2000);
    const { result } = await conclude(handle);
    expect(result.outcome).toBe('succeeded');
    await expectRight(pair, 'b', writer, sinceMs, DEADLINE_MS);
  }, 180_000);

  it('right after the promotion: it was promoted once, and the application gets there', async () => {
    const writer = writerFor(pair);
    const sinceMs = Date.now();
    const timeline = await pair.timeline('b');
    const handle = await begin(client, pair, 'a');
    await reaches(handle, 'canary', /running|done/);
    await promoted(pair, 'a');
    await outage(2000);
    const { result } = await conclude(handle);
    expect(result.outcome).toBe('succeeded');
    expect(await pair.timeline('a')).toBe(timeline + 1);
    await expectRight(pair, 'a', writer, sinceMs, DEADLINE_MS);
  }, 180_000);
});

describe('of two workers one is lost', () => {
  let pair: DatabasePair;
  let client: Client;
  const workers: MortalWorker[] = [];

  beforeAll(async () => {
    pair = withHeld(await databasePair(processes), 3);
    client = await connectTemporal(pair.context);
  });
  afterAll(async () => {
    await Promise.all(workers.map((worker) => worker.stop()));
    await client?.connection.close();
    pair?.context.close();
  });

  async function ready(...roles: Parameters<typeof mortalWorker>[2][]): Promise<void> {
    await Promise.all(workers.map((worker) => worker.stop()));
    workers.splice(0, workers.length, ...(await Promise.all(roles.map((role) => mortalWorker(pair.context, null, role)))));
    for (const worker of workers) await worker.go();
  }

  it.each([
    ['the one that runs the canary, while writes are refused', 'b', ['both', 'both'], 'activity'],
    ['the one that holds the execution in memory, and the activities go on elsewhere', 'a', ['workflows', 'workflows', 'activities'], 'workflow'],
  ] as const)('%s', async (_, to, roles, lost) => {
    await ready(...roles);
    const writer = writerFor(pair);
    const sinceMs = Date.now();
    const handle = await begin(client, pair, to, 'held-');
    await reaches(handle, 'read-only', /done/);
    const identity =
      lost === 'activity'
        ? (await handle.describe()).raw.pendingActivities!.find((activity) => activity.activityType?.name === 'canary.start:write')!.lastWorkerIdentity
        : (await handle.fetchHistory()).events!.findLast((event) => event.workflowTaskStartedEventAttributes != null)!.workflowTaskStartedEventAttributes!.identity;
    const victim = workers.find((worker) => worker.identity === identity)!;
    expect({ identity, known: victim !== undefined }).toEqual({ identity, known: true });
    await victim.kill();
    const { result, retries } = await conclude(handle);
    expect(result.outcome).toBe('succeeded');
    expect(retries).toEqual([]);
    await expectRight(pair, to, writer, sinceMs, DEADLINE_MS);
    // The other one did the rest.
    const { events } = await handle.fetchHistory();
    const last = events!.findLast((event) => event.workflowTaskStartedEventAttributes != null)!.workflowTaskStartedEventAttributes!.identity;
    expect(workers.some((worker) => worker !== victim && worker.identity === last)).toBe(true);
  }, 180_000);
});

describe('the network between worker and databases is cut', () => {
  let pair: DatabasePair;
  let client: Client;
  let worker: { stop(): Promise<void> };
  const proxies = new Map<NodeName, ToxicProxy>();

  beforeAll(async () => {
    pair = withHeld(await databasePair(processes), 2);
    for (const name of ['a', 'b'] as const) {
      const node = postgresOf(pair.context.config, 'shop').nodes[name]!;
      const proxy = await toxiproxy().proxy(uniqueName(name), `${node.host}:${node.port}`);
      proxies.set(name, proxy);
      const [host, port] = proxy.address.split(':') as [string, string];
      // Applications reach the nodes directly: what is cut is between the worker and them.
      Object.assign(node, { applicationHost: node.applicationHost ?? node.host, applicationPort: node.port, host, port: Number(port) });
    }
    client = await connectTemporal(pair.context);
    worker = await runningWorker(pair.context);
  });
  afterAll(async () => {
    await worker?.stop();
    for (const proxy of proxies.values()) await proxy.delete();
    await client?.connection.close();
    pair?.context.close();
  });

  async function cut(ms: number): Promise<void> {
    await Promise.all([...proxies.values()].map((proxy) => proxy.setEnabled(false)));
    await sleep(ms);
    for (const proxy of proxies.values()) {
      await proxy.removeToxics();
      await proxy.setEnabled(true);
    }
  }

  const CUTS: readonly { readonly when: string; readonly variant?: string; readonly always?: true; readonly healsAlone?: true; readonly until: (handle: WorkflowHandle, to: NodeName) => Promise<void> }[] = [
    { when: 'before writes are refused', until: (handle) => reaches(handle, 'canary', /running|done/) },
    { when: 'while writes are refused', variant: 'held-', always: true, until: (handle) => reaches(handle, 'read-only', /done/) },
    {
      when: 'while the candidate is waited for',
      async until(handle, to) {
        await reaches(handle, 'canary', /running|done/);
        const direct = new pg.Client({ connectionString: pair.servers[to].connectionString() });
        await direct.connect();
        try {
          // As soon as writes are refused on the other: the candidate stands still, and then comes on after the cut began.
          const fence = join(pair.servers[other(to)].dataDirectory, 'pg_hba.conf');
          while (!readFileSync(fence, 'utf8').includes('BEGIN HOLDFAST FENCE')) await new Promise((resolve) => setImmediate(resolve));
          await direct.query('select pg_wal_replay_pause()');
          await sleep(300);
          setTimeout(() => void queryOnce(pair.servers[to].connectionString(), 'select pg_wal_replay_resume()').catch(() => {}), 1500);
        } finally {
          await direct.end();
        }
      },
    },
    {
      when: 'after the promotion was asked for and before its answer',
      always: true,
      healsAlone: true,
      async until(handle, to) {
        await reaches(handle, 'canary', /running|done/);
        await proxies.get(to)!.addToxic({ name: 'late', type: 'latency', stream: 'downstream', attributes: { latency: 400 } });
        await promoted(pair, to);
      },
    },
    { when: 'while it is verified', until: (handle) => reaches(handle, 'swap-secret', /done/) },
  ];
  const cases = CUTS.filter((one) => LONG || one.always === true).flatMap((one) => (LONG ? [3000, 15_000] : [3000]).map((ms) => ({ ...one, ms })));

  it.each(cases)('$when, for $ms ms: one primary, nothing lost', async ({ when, variant, healsAlone, until, ms }) => {
    const from = await pair.pointsTo();
    const to = other(from);
    const writer = writerFor(pair);
    const sinceMs = Date.now();
    const timeline = await pair.timeline(from);
    const handle = await begin(client, pair, to, variant);
    await until(handle, to);
    await cut(ms);
    const { result, retries } = await conclude(handle);
    console.log(`cut ${when} for ${ms} ms: ${result.outcome}${result.outcome === 'succeeded' ? '' : ` (${result.failure})`}; retried by a person: ${retries.join('; ') || 'nothing'}; writes refused for at most ${writer.longestGapMs(sinceMs)} ms`);
    const primary = result.outcome === 'succeeded' ? to : from;
    // What nobody heard the answer of is looked at until the network is back; it needs no person.
    expect(healsAlone === true ? { outcome: result.outcome, retries } : {}).toEqual(healsAlone === true ? { outcome: 'succeeded', retries: [] } : {});
    expect(await pair.timeline(primary)).toBe(result.outcome === 'succeeded' ? timeline + 1 : timeline);
    await expectRight(pair, primary, writer, sinceMs, DEADLINE_MS + ms);
  }, 240_000);
});
