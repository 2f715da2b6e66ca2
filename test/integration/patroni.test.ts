import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ApplicationFailure, WorkflowFailedError, type Client, type WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProcesses, startPatroni, type PatroniCluster, type Processes } from '../../src/local/stack.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter, SECOND_ADDRESS, pairOn, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { mortalWorker } from '../mortal.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';

type Node = 'a' | 'b';

let processes: Processes;
let patroni: PatroniCluster;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let taskQueue: string;
/** Where the shipped failover stands still for a while once Patroni is paused. */
let heldRunbooks: string;
const upMs = { cluster: 0 };

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('patroni') });
  const started = Date.now();
  patroni = await startPatroni({ processes, directory: processes.directory, names: ['a', 'b'], listen: { b: SECOND_ADDRESS } });
  upMs.cluster = Date.now() - started;
  process.env['HOLDFAST_TEST_PATRONI_PASSWORD'] = patroni.api.password;
  process.env['HOLDFAST_TEST_PATRONI_WRONG'] = 'not-the-password';
  const made = await pairOn(member('a'), async () => member('b'), {}, { controller: declared() });
  pair = made;
  heldRunbooks = testDirectory('runbooks');
  cpSync(made.context.runbookDirectory, heldRunbooks, { recursive: true });
  const path = join(heldRunbooks, 'database-failover.yaml');
  const text = readFileSync(path, 'utf8');
  const held = text.replace('  - id: checkpoint\n', '  - id: hold\n    title: Hold\n    uses: operator.wait\n    narrative: Hold.\n    with: {duration: 4s}\n\n  - id: checkpoint\n');
  if (held === text) throw new Error('the shipped runbook has no step checkpoint any more');
  writeFileSync(path, held);
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
  taskQueue = pair.context.config.temporal.taskQueue;
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

function member(node: Node): PatroniCluster['members'][string] {
  return patroni.members[node]!;
}

function declared(more: Record<string, unknown> = {}): Record<string, unknown> {
  return { type: 'patroni', members: { a: { api: member('a').apiUrl }, b: { api: member('b').apiUrl } }, username: patroni.api.username, password: 'env:HOLDFAST_TEST_PATRONI_PASSWORD', wait: '30s', ...more };
}

/** As an operator would, by Patroni's own interface. */
async function patch(change: object): Promise<void> {
  const answer = await fetch(`${member('b').apiUrl}/config`, { method: 'PATCH', headers: { authorization: `Basic ${Buffer.from(`${patroni.api.username}:${patroni.api.password}`).toString('base64')}` }, body: JSON.stringify(change) });
  expect(answer.status).toBe(200);
}

/** What Patroni itself shows: its leader, who is paused, and what stands in its configuration. */
async function patroniNow(): Promise<{ leader: string | undefined; roles: string; paused: boolean[]; configured: unknown; mark: unknown }> {
  const { members } = (await member('b').read('/cluster')) as { members: { name: string; role: string; state: string }[] };
  const config = await member('b').read('/config');
  const paused = await Promise.all((['a', 'b'] as const).map(async (node) => (await member(node).read('/patroni'))['pause'] === true));
  return { leader: members.find((one) => one.role === 'leader')?.name, roles: members.map((one) => `${one.name} ${one.role} ${one.state}`).sort().join(', '), paused, configured: config['pause'] ?? null, mark: config['holdfast'] ?? null };
}

function controllerOf(value: Record<string, unknown> | undefined): void {
  const datastore = pair.context.config.datastores['shop']! as { controller?: unknown };
  datastore.controller = value === undefined ? undefined : { wait: 30_000, ...value, ...(value['wait'] === undefined ? {} : { wait: 30_000 }) };
}

function start(more: Record<string, unknown> = {}): Promise<WorkflowHandle> {
  return client.workflow.start('failover', { taskQueue, workflowId: `failover/${uniqueName('patroni')}`, args: [{ service: pair.service, mode: 'planned', reason: 'test', requestedBy: 'tester', ...more }] });
}

/** By a worker that reads the held runbook: it stands still once Patroni is paused. */
async function startHeld(): Promise<WorkflowHandle> {
  await worker.stop();
  worker = await runningWorker({ ...pair.context, runbookDirectory: heldRunbooks });
  return start();
}

async function run(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  const handle = await start(more);
  return (await handle.result().catch((error: unknown) => {
    throw error instanceof WorkflowFailedError ? new Error(`the failover failed: ${String(error.cause?.message)}`, { cause: error }) : error;
  })) as ExecutionResult;
}

async function failureOf(handle: WorkflowHandle): Promise<ExecutionResult> {
  try {
    await handle.result();
  } catch (error) {
    if (error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure) return error.cause.details![0] as ExecutionResult;
    throw error;
  }
  throw new Error('the failover succeeded, a refusal was expected');
}

function stepOf(result: ExecutionResult, id: string): ExecutionResult['steps'][number] {
  return result.steps.find((step) => step.id === id)!;
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))!.measured;
}

async function reaches(handle: WorkflowHandle, id: string, status: string): Promise<void> {
  await expect.poll(async () => (await handle.query<Progress>('progress')).state?.steps.find((step) => step.id === id)?.status, { timeout: 30_000, interval: 20 }).toBe(status);
}

/** Patroni acts, a leads, b follows, nothing of ours is left, and the application writes. */
async function expectAsBefore(): Promise<void> {
  await expect.poll(patroniNow, { timeout: 15_000 }).toEqual({ leader: 'a', roles: 'a leader running, b replica running', paused: [false, false], configured: null, mark: null });
  expect(await pair.pointsTo()).toBe('a');
  expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  expect(await queryOnce(member('b').connectionString(), 'select pg_is_in_recovery() as recovering')).toEqual([{ recovering: true }]);
}

/** The other node is a replica that Patroni runs: it streams, and nothing would keep the application out once Patroni promotes it. */
async function expectFollows(node: Node, leader: Node): Promise<void> {
  expect(await queryOnce(member(leader).connectionString(), 'select application_name, state from pg_stat_replication')).toEqual([{ application_name: node, state: 'streaming' }]);
  expect(await queryOnce(pair.applicationUrl(node), "select pg_is_in_recovery() as recovering, current_setting('default_transaction_read_only') as read_only")).toEqual([{ recovering: true, read_only: 'off' }]);
  expect(await tryToWrite(pair, node)).toEqual([]);
}

describe('a Patroni that cannot be paused stops the run before the first change', () => {
  it('one that nobody declared, by what shows on the servers', async () => {
    controllerOf(undefined);
    try {
      const result = await failureOf(await start());
      expect(result.failure).toMatch(/^refused before the first change: pause-controller: no other controller: expected none, or one that can be paused, found Patroni by a: a session of Patroni \(patroni_admin\); b: a session of Patroni/);
      expect(result.failure).toContain("a: patroni.dynamic.json in its data directory; a: postgresql.base.conf beside its postgresql.conf; a: a server started with Patroni's command line");
      expect(result.failure).toContain('add to holdfast.yaml: datastores.shop.controller: { type: patroni, members: { a: { api: "http://<host of a>:8008" }');
      expect(stepOf(result, 'stage-secret').outcome).toBe('not begun');
    } finally {
      controllerOf(declared());
    }
    await expectAsBefore();
  });

  it('one that was declared not to be there, and is connected', async () => {
    controllerOf({ type: 'none' });
    try {
      expect((await failureOf(await start())).failure).toMatch(/pause-controller: .*controller\.type is none, but it is connected now/);
    } finally {
      controllerOf(declared());
    }
  });

  it('one that refuses the credentials', async () => {
    controllerOf(declared({ password: 'env:HOLDFAST_TEST_PATRONI_WRONG' }));
    try {
      const { failure } = await failureOf(await start());
      expect(failure).toMatch(/^refused before the first change: pause-controller: right to pause Patroni of a: expected a change that changes nothing is accepted, found .* answered 401/);
      expect(failure).not.toContain('not-the-password');
    } finally {
      controllerOf(declared());
    }
  });

  it('one whose interface cannot be reached, on one node only, and in a rebuild too', async () => {
    controllerOf(declared({ members: { a: { api: member('a').apiUrl }, b: { api: 'http://127.0.0.1:1' } } }));
    try {
      expect((await failureOf(await start())).failure).toMatch(/^refused before the first change: pause-controller: Patroni of b answers: expected GET .*, found .*cannot be reached/);
      await expect(client.workflow.execute('runbook', { taskQueue, workflowId: uniqueName('rebuild'), args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node: 'b' } }] })).rejects.toMatchObject({
        cause: { message: expect.stringMatching(/pause-controller: Patroni of b answers/) },
      });
    } finally {
      controllerOf(declared());
    }
    await expectAsBefore();
  });
});

describe('going back', () => {
  it('after a guard that fails late Patroni acts again', async () => {
    const handle = await startHeld();
    await reaches(handle, 'pause-controller', 'done');
    expect(await patroniNow()).toMatchObject({ leader: 'a', paused: [true, true], configured: true, mark: { execution: handle.workflowId } });
    await queryOnce(member('b').connectionString(), 'select pg_wal_replay_pause()');
    try {
      const result = await failureOf(handle);
      expect(result.failure).toMatch(/replay not paused/);
      expect(stepOf(result, 'pause-controller')).toMatchObject({ outcome: 'undone', summary: expect.stringMatching(/^undone: Patroni resumed with a as leader/) });
    } finally {
      await queryOnce(member('b').connectionString(), 'select pg_wal_replay_resume()');
    }
    await expectAsBefore();
  });

  it('resumed by somebody else midway: the repeated guards find it, and writes were never refused', async () => {
    const handle = await startHeld();
    await reaches(handle, 'pause-controller', 'done');
    await patch({ pause: null });
    const result = await failureOf(handle);
    expect(result.failure).toMatch(/pause-controller: Patroni is still paused: expected paused, found resumed by somebody else/);
    expect(stepOf(result, 'read-only').outcome).toBe('not begun');
    await patch({ holdfast: null });
    await expectAsBefore();
  });

  it('a worker killed after the pause, and one after the undo of it, before anybody heard: inspection finds both', async () => {
    await worker.stop();
    const held = { configPath: pair.context.configPath, runbookDirectory: heldRunbooks };
    const first = await mortalWorker(held, { at: 'controller.pause:apply' });
    await first.go();
    const handle = await start();
    const second = await mortalWorker(held, { at: 'controller.pause:undo' });
    expect(await first.ended).toBe('SIGKILL');
    expect(await patroniNow()).toMatchObject({ configured: true, mark: { execution: handle.workflowId } });
    await second.go();
    // The killed one's activity is given up after 10 s without a heartbeat.
    await expect.poll(async () => (await handle.query<Progress>('progress')).state?.steps.find((step) => step.id === 'pause-controller')?.summary, { timeout: 60_000, interval: 50 }).toMatch(/^its answer was lost; inspection shows that it happened: Patroni is paused/);
    await handle.executeUpdate('abort', { args: [{ by: 'dan', reason: 'test' }] });
    expect(await second.ended).toBe('SIGKILL');
    worker = await runningWorker(pair.context);
    const result = await failureOf(handle);
    expect(stepOf(result, 'pause-controller')).toMatchObject({ outcome: 'undone', summary: expect.stringMatching(/^undone: Patroni acts/) });
    await expectAsBefore();
  });
});

describe('switching under Patroni', () => {
  let writer: ApplicationWriter;
  beforeAll(() => {
    writer = new ApplicationWriter(pair);
  });
  afterAll(() => writer.stop());

  it('a planned failover pauses it, promotes, and resumes it, also past a worker killed right then; the old primary follows as its replica, and no write is lost', async () => {
    await expect.poll(() => writer.acknowledged.length).toBeGreaterThan(100);
    await worker.stop();
    const mortal = await mortalWorker(pair.context, { at: 'controller.resume:apply' });
    await mortal.go();
    const handle = await start();
    expect(await mortal.ended).toBe('SIGKILL');
    worker = await runningWorker(pair.context);
    const result = (await handle.result()) as ExecutionResult;
    expect(stepOf(result, 'pause-controller')).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/paused: a, b/) });
    const resumed = stepOf(result, 'resume-controller');
    expect(resumed).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/^its answer was lost; inspection shows that it happened: Patroni acts; b leads, and nothing moved/) });
    expect(measured(result, 'acknowledged writes lost')).toBe(0);
    expect(await pair.pointsTo()).toBe('b');
    expect(await patroniNow()).toEqual({ leader: 'b', roles: 'a replica running, b leader running', paused: [false, false], configured: null, mark: null });
    await expectFollows('a', 'b');
    const window = measured(result, 'refused-write window');
    console.log(`Patroni and etcd up in ${upMs.cluster} ms; planned failover under Patroni: refused-write window ${window} ms; ${resumed.summary}`);
  });

  it('one that was paused before is left paused, and its leader is the new primary all the same', async () => {
    await patch({ pause: true });
    await expect.poll(async () => (await patroniNow()).paused).toEqual([true, true]);
    const result = await run({ purpose: 'failback', parameters: { node: 'a' } });
    expect(stepOf(result, 'rebuild').outcome).toBe('already-satisfied');
    expect(stepOf(result, 'pause-controller')).toMatchObject({ outcome: 'already-satisfied', summary: expect.stringMatching(/paused already, by somebody else/) });
    expect(stepOf(result, 'resume-controller')).toMatchObject({ outcome: 'already-satisfied', summary: expect.stringMatching(/left paused/) });
    expect(await patroniNow()).toMatchObject({ leader: 'a', paused: [true, true], configured: true, mark: null });
    expect(measured(result, 'acknowledged writes lost')).toBe(0);
    expect(await tryToWrite(pair, 'b')).toEqual([]);
    await patch({ pause: null });
    await expect.poll(async () => (await patroniNow()).roles, { timeout: 20_000 }).toBe('a leader running, b replica running');
    await expect.poll(() => expectFollows('b', 'a').then(() => 'follows', String), { timeout: 10_000 }).toBe('follows');
    expect(await pair.pointsTo()).toBe('a');
  });

  it('nothing acknowledged under it was lost', async () => {
    await writer.stop();
    expect(writer.acknowledged.length).toBeGreaterThan(300);
    expect(await writer.lostOn('a')).toEqual([]);
  });

  it('forced: the machine of the leader is gone, its Patroni with it; it comes back as a replica of the new one', async () => {
    // At once, as when the machine loses its power: Patroni's own failover would begin once the leader's key has run out.
    process.kill(-member('a').patroni.pid, 'SIGKILL');
    await member('a').kill();
    const result = await run({ mode: 'forced', reason: 'the machine is gone' });
    expect(stepOf(result, 'pause-controller').outcome).toBe('changed');
    expect(stepOf(result, 'pause-controller').summary).toMatch(/paused: b in .*; a silent/);
    expect(stepOf(result, 'resume-controller')).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/Patroni resumed with b as leader.*a does not follow yet/) });
    expect(await pair.pointsTo()).toBe('b');
    expect((await member('b').read('/config'))['pause'] ?? null).toBeNull();
    await member('a').restartPatroni();
    await expect.poll(() => expectFollows('a', 'b').then(() => 'follows', String), { timeout: 30_000 }).toBe('follows');
    console.log(`forced failover under Patroni: RTO ${measured(result, 'RTO')} ms; ${stepOf(result, 'pause-controller').summary}`);
  });

  it('a standby is rebuilt while Patroni is paused, and Patroni takes it over', async () => {
    await member('a').kill();
    rmSync(join(member('a').dataDirectory, 'global', 'pg_control'));
    const result = (await client.workflow.execute('runbook', { taskQueue, workflowId: uniqueName('rebuild'), args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node: 'a' } }] })) as ExecutionResult;
    expect(stepOf(result, 'rebuild').summary).toMatch(/^a rebuilt by Patroni \(reinitialize\) from b/);
    expect(stepOf(result, 'resume-controller')).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/b as leader.*; a follows/) });
    await expect.poll(patroniNow, { timeout: 10_000 }).toEqual({ leader: 'b', roles: 'a replica running, b leader running', paused: [false, false], configured: null, mark: null });
    await expectFollows('a', 'b');
  });
});
