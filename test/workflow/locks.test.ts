import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { bundleWorkflowCode } from '@temporalio/worker';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { backupFolder } from '../../src/model/manifest.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { LockRequest, LockState, Run } from '../../src/model/lock.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import { listBackups } from '../../src/systems/backup-catalogue.ts';
import { acquireLock, checkStanding, readLock, releaseLock, tellLock, type LockPlace } from '../../src/systems/lock.ts';
import { openStore } from '../../src/systems/store.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { runHere, secretsOfTest, startHoldfast } from '../cli/program.ts';
import { databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { applicationFailureOf, approve, connectTemporal, failureOf, queryOnce, runningWorker, testDirectory, toxiproxy, uniqueName } from '../support.ts';

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let place: LockPlace;
let taskQueue: string;
let configPath: string;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('locks') });
  const made = await databasePair(processes);
  const runbookDirectory = testDirectory('runbooks');
  cpSync(made.context.runbookDirectory, runbookDirectory, { recursive: true });
  const shipped = readFileSync(join(runbookDirectory, 'database-failover.yaml'), 'utf8').replace(/^name: .*/m, 'name: held-failover');
  // Stands still while writes are refused: long enough for somebody to take its lock away.
  const held = shipped.replace('  - id: await-replay\n', '  - id: hold\n    title: Hold\n    uses: operator.wait\n    narrative: Hold.\n    with: {duration: 5s}\n\n  - id: await-replay\n');
  if (held === shipped) throw new Error('the shipped runbook has no step await-replay any more');
  writeFileSync(join(runbookDirectory, 'held-failover.yaml'), held);
  pair = { ...made, context: { ...made.context, runbookDirectory } };
  const { services } = pair.context.config;
  Object.assign(services[pair.service]!.runbooks, { held: 'held-failover' });
  services['billing'] = structuredClone(services[pair.service]!);
  taskQueue = pair.context.config.temporal.taskQueue;
  // The program reads the same services and runbooks from files.
  const document = parse(readFileSync(pair.context.configPath, 'utf8')) as { services: Record<string, object> };
  Object.assign(document.services[pair.service]!, { cooldown: '1h' });
  document.services['billing'] = structuredClone(document.services[pair.service]!);
  configPath = join(testDirectory('config'), 'holdfast.yaml');
  writeFileSync(configPath, stringify(document));
  client = await connectTemporal(pair.context);
  place = { client, environment: pair.context.config.environment, datastore: 'shop' };
  const { code } = await bundleWorkflowCode({ workflowsPath: fileURLToPath(new URL('./nesting.ts', import.meta.url)), logger: { log() {}, trace() {}, debug() {}, info() {}, warn() {}, error() {} } });
  worker = await runningWorker(pair.context, { workflowBundle: { code, sourceMap: '' } });
  await queryOnce(pair.servers.a.connectionString('shop'), 'insert into orders (id) select generate_series(1000000, 1001000)');
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

/** A failover that waits for one approval, or goes on at once. */
async function failover(service: string, more: { wait?: boolean; purpose?: string; mode?: string; dryRun?: boolean; overrides?: readonly object[]; parameters?: object } = {}): Promise<WorkflowHandle> {
  const { wait = false, ...input } = more;
  Object.assign(pair.context.config.services[service]!, { approval: { planned: wait ? 1 : 0, forced: wait ? 1 : 0, expires: 600_000 } });
  return client.workflow.start('failover', { taskQueue, workflowId: `failover/${uniqueName(service)}`, args: [{ service, mode: 'planned', reason: 'test', requestedBy: 'ann', ...input }] });
}

async function waiting(handle: WorkflowHandle): Promise<WorkflowHandle> {
  await expect.poll(() => statusOf(handle, 'approve'), { timeout: 60_000, interval: 20 }).toBe('running');
  return handle;
}

async function statusOf(handle: WorkflowHandle, id: string): Promise<string | undefined> {
  return (await handle.query<Progress>('progress')).state?.steps.find((step) => step.id === id)?.status;
}

async function say(handle: WorkflowHandle, action: string): Promise<void> {
  await handle.executeUpdate(action, { args: [{ by: 'bob', reason: 'test' }] });
}

async function resultOf(handle: WorkflowHandle): Promise<ExecutionResult> {
  return failureOf(handle);
}

async function lockNow(): Promise<LockState> {
  const state = await readLock(place);
  if (state === null) throw new Error('nothing ever locked it');
  return state;
}

async function free(): Promise<void> {
  expect(await lockNow()).toMatchObject({ exclusive: null, shared: [] });
}

async function end(handle: WorkflowHandle): Promise<void> {
  await say(handle, 'abort');
  await handle.result().catch(() => {});
}

function program(...args: string[]) {
  return runHere([...args, '--config', configPath, '--runbooks', pair.context.runbookDirectory, '--by', 'bob'], { env: { ...secretsOfTest(), PATH: process.env['PATH']! } });
}

/** A run that is none: a name to hold a lock by. */
function stranger(name: string): Run {
  return { workflowId: uniqueName(name), runId: randomUUID() };
}

function wish(run: Run, more: Partial<LockRequest> = {}): LockRequest {
  return { ...run, mode: 'exclusive', what: 'test', by: 'ann', heedsCooldown: false, ancestors: [], floor: null, overrides: [], ...more };
}

async function expectUntouched(): Promise<void> {
  expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as recovering')).toEqual([{ recovering: true }]);
  expect(await pair.pointsTo()).toBe('a');
}

describe('two services with one datastore', () => {
  it('the second failover is refused, forced or not, and told who holds it and what to do; a dry run says so beforehand', async () => {
    const first = await waiting(await failover('orders', { wait: true }));
    const second = await applicationFailureOf(await failover('billing'));
    expect(second).toMatchObject({ type: 'lock-refused', nonRetryable: true });
    expect(second.message).toMatch(new RegExp(`datastore shop: ${first.workflowId} \\(planned failover of orders, by ann\\) holds it since 20.*\\n  next: wait until it has ended \\(holdfast status ${first.workflowId} --watch\\)`));
    expect((await applicationFailureOf(await failover('billing', { mode: 'forced' }))).type).toBe('lock-refused');
    const dry = (await (await failover('billing', { dryRun: true })).result()) as ExecutionResult;
    expect(dry.checks).toContainEqual(expect.objectContaining({ name: 'lock of shop', ok: false, found: expect.stringContaining(first.workflowId) }));

    const listed = await program('locks', '--json');
    expect(JSON.parse(listed.out)).toMatchObject([{ datastore: 'shop', lock: { exclusive: { workflowId: first.workflowId, mode: 'exclusive', epoch: expect.any(Number) } } }]);
    expect((await program('locks', 'shop')).out).toMatch(new RegExp(`shop +${first.workflowId} \\(planned failover of orders, by ann\\) +exclusive +\\d+`));

    const { state } = await first.query<Progress>('progress');
    expect(state!.epoch).toBe((await lockNow()).exclusive!.epoch);
    await end(first);
    await free();
    const after = (await (await failover('billing', { dryRun: true })).result()) as ExecutionResult;
    expect(after.checks).toContainEqual(expect.objectContaining({ name: 'lock of shop', ok: true }));
    await expectUntouched();
  }, 60_000);

  it('the epoch of the next one is higher', async () => {
    const { lastEpoch } = await lockNow();
    const next = await waiting(await failover('billing', { wait: true }));
    expect((await lockNow()).exclusive!.epoch).toBeGreaterThan(lastEpoch);
    await end(next);
    await free();
  }, 60_000);
});

describe('a backup', () => {
  const start = (): Promise<WorkflowHandle> => client.workflow.start('backup', { taskQueue, workflowId: `backup/${uniqueName('shop')}`, args: [{ datastore: 'shop' }] });
  const committed = async (): Promise<number> => (await listBackups(await openStore(pair.context, 'main'), '', 'shop')).length;

  it('gives way to a failover at once and commits nothing', async () => {
    const blocker = new pg.Client({ connectionString: pair.servers.a.connectionString('shop') });
    await blocker.connect();
    await blocker.query('begin');
    await blocker.query('lock table orders in access exclusive mode');
    try {
      const running = await start();
      await expect.poll(async () => (await readLock(place))?.shared.map((hold) => hold.workflowId), { timeout: 30_000, interval: 50 }).toEqual([running.workflowId]);
      // It stands at a locked table all the while: the failover does not wait for it.
      const first = await waiting(await failover('orders', { wait: true }));
      // Told to stop at once; on a machine with time to spare it is gone before this is read.
      const by = `${first.workflowId} (planned failover of orders)`;
      await expect.poll(async () => (await lockNow()).superseded.filter((one) => one.workflowId !== running.workflowId || one.stop !== 'asked' || one.by !== by), { timeout: 30_000, interval: 50 }).toEqual([]);
      await blocker.end();
      const failure = await applicationFailureOf(running);
      expect(failure).toMatchObject({ type: 'preempted', message: expect.stringContaining(`pre-empted by ${first.workflowId} (planned failover of orders)`) });
      await expect.poll(async () => (await lockNow()).superseded).toEqual([]);
      expect(await committed()).toBe(0);
      await end(first);
    } finally {
      await blocker.end().catch(() => {});
    }
    await free();
  }, 90_000);

  it('that had not heard of it yet does not commit either', async () => {
    const late = stranger('backup');
    const taken = await acquireLock(place, taskQueue, wish(late, { mode: 'shared' }), '1');
    const { epoch } = taken as { epoch: number };
    const location = backupFolder('', 'shop', Date.now(), 'late');
    const request = { datastore: 'shop', id: 'late', location, reason: 'test', ...late };
    let winner: Run | undefined;
    const mayCommit = async (): Promise<void> => {
      // In the last moment: all is written but COMMIT.
      winner = stranger('failover');
      expect(await acquireLock(place, taskQueue, wish(winner), '1')).toMatchObject({ granted: true });
      await checkStanding(place, late, epoch);
    };
    await expect(runBackup(pair.context, request, { signal: new AbortController().signal, mayCommit })).rejects.toMatchObject({ code: 'stale-epoch', message: expect.stringMatching(/taken away at .* by failover-/) });
    const left: string[] = [];
    for await (const object of (await openStore(pair.context, 'main')).list(location)) left.push(object.key);
    expect(left).toEqual([]);
    await releaseLock(place, { ...winner!, promoted: null, epoch: null });
    await free();
  }, 60_000);

  it('that begins while a failover runs waits for its end, and is committed then', async () => {
    const first = await waiting(await failover('orders', { wait: true }));
    const running = await start();
    await expect.poll(async () => (await lockNow()).log.some(({ text }) => text.startsWith(running.workflowId) && text.includes('was refused')), { timeout: 30_000, interval: 100 }).toBe(true);
    await end(first);
    expect(await running.result()).toMatchObject({ datastore: 'shop' });
    expect(await committed()).toBe(1);
    await free();
  }, 90_000);

  it('a restore drill gives way as well', async () => {
    const drill = await client.workflow.start('restoreDrill', { taskQueue, workflowId: `drill/${uniqueName('shop')}`, args: [{ datastore: 'shop' }] });
    await expect.poll(async () => (await readLock(place))?.shared.map((hold) => hold.workflowId), { timeout: 30_000, interval: 20 }).toEqual([drill.workflowId]);
    const first = await waiting(await failover('orders', { wait: true }));
    expect(await applicationFailureOf(drill)).toMatchObject({ type: 'preempted', message: expect.stringContaining(first.workflowId) });
    await end(first);
    await free();
  }, 90_000);
});

describe('a holder that was terminated', () => {
  it('frees nothing; a person does, who has to look first', async () => {
    const first = await waiting(await failover('orders', { wait: true }));
    await first.terminate('test');
    // The next one asks, and so it is found out at once.
    expect((await applicationFailureOf(await failover('billing'))).type).toMatch(/^lock-(refused|orphaned)$/);
    await expect.poll(async () => (await lockNow()).exclusive?.orphaned?.how, { timeout: 30_000, interval: 100 }).toBe('terminated');
    const refused = await applicationFailureOf(await failover('billing'));
    expect(refused).toMatchObject({ type: 'lock-orphaned', message: expect.stringMatching(/its workflow ended \(terminated at .*without releasing it.*\n  next: look at what it left .*holdfast lock release shop/s) });
    expect((await program('locks')).out).toMatch(/ORPHANED[\s\S]*ended \(terminated\) without releasing it/);

    expect(await program('lock', 'release', 'shop', '--reason', 'looked')).toMatchObject({ code: 4, err: expect.stringContaining('may still act for') });
    expect(await program('lock', 'release', 'shop', '--reason', 'looked', '--from', 'failover/other')).toMatchObject({ code: 4, err: expect.stringContaining(`is held by ${first.workflowId}`) });
    expect(await program('lock', 'release', 'shop', '--reason', 'looked: nothing was begun', '--from', first.workflowId)).toMatchObject({ code: 0, out: expect.stringContaining('datastore shop is free') });
    expect((await lockNow()).log.at(-1)!.text).toMatch(/^bob took it from .*: looked: nothing was begun$/);
    await end(await waiting(await failover('billing', { wait: true })));
    await free();
  }, 90_000);
});

describe('a holder that lost its lock', () => {
  it('changes nothing any more: its next changing step is refused and it goes back', async () => {
    const first = await waiting(await failover('orders', { wait: true }));
    await tellLock(place, 'takeAway', { by: 'bob', reason: 'test', from: first.workflowId });
    await approve(first, 'bob');
    const result = await resultOf(first);
    expect(result).toMatchObject({ outcome: 'failed', failure: expect.stringMatching(/^step stage-secret: nothing was changed: epoch \d+ of .* does not hold datastore shop any more; it was taken away at .* by bob: test; nobody holds it now/) });
    expect(result.steps.find((step) => step.id === 'read-only')!.outcome).toBe('not begun');
    await expectUntouched();
    await free();
  }, 60_000);

  it('while writes are refused: nothing is promoted, and they are let in again', async () => {
    const first = await failover('orders', { purpose: 'held' });
    await expect.poll(() => statusOf(first, 'read-only'), { timeout: 60_000, interval: 20 }).toBe('done');
    expect(await tryToWrite(pair, 'a')).not.toContain('application');
    await tellLock(place, 'takeAway', { by: 'bob', reason: 'test', from: first.workflowId });
    const result = await resultOf(first);
    expect(result).toMatchObject({ outcome: 'failed', failure: expect.stringMatching(/^step promote: nothing was changed: epoch \d+ of/) });
    expect(result.steps.find((step) => step.id === 'read-only')!.outcome).toBe('undone');
    await expectUntouched();
    await free();
  }, 60_000);

  it('does not undo beside the one that holds it now: it waits until that one has released it', async () => {
    const first = await failover('orders', { purpose: 'held' });
    await expect.poll(() => statusOf(first, 'read-only'), { timeout: 60_000, interval: 20 }).toBe('done');
    await tellLock(place, 'takeAway', { by: 'bob', reason: 'test', from: first.workflowId });
    const other = stranger('failover');
    expect(await acquireLock(place, taskQueue, wish(other), '1')).toMatchObject({ granted: true });
    await expect.poll(async () => (await first.query<Progress>('progress')).waitingFor, { timeout: 30_000, interval: 50 }).toBe('read-only: undo');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(await tryToWrite(pair, 'a')).not.toContain('application');
    await releaseLock(place, { ...other, promoted: null, epoch: null });
    expect((await resultOf(first)).steps.find((step) => step.id === 'read-only')!.outcome).toBe('undone');
    await expectUntouched();
  }, 60_000);
});

describe('a nested runbook', () => {
  const rebuild = (): { workflowId: string; input: Readonly<Record<string, unknown>> } => ({ workflowId: `runbook/${uniqueName('nested')}`, input: { runbook: 'standby-rebuild', service: 'orders', parameters: { node: 'b' }, requestedBy: 'ann', reason: 'test' } });

  it('acts under the lock and the epoch of the run it is nested in; its end does not free it', async () => {
    const child = rebuild();
    const handle = await client.workflow.start('outer', { taskQueue, workflowId: uniqueName('outer'), args: [{ child, leave: false }] });
    const nested = client.workflow.getHandle(child.workflowId);
    await expect.poll(async () => (await nested.describe().catch(() => null))?.status.name, { timeout: 60_000, interval: 50 }).toBe('COMPLETED');
    const { state } = await nested.query<Progress>('progress');
    const lock = await lockNow();
    expect(lock.exclusive).toMatchObject({ workflowId: handle.workflowId, epoch: state!.epoch, nested: [] });
    expect(lock.log.map(({ text }) => text).join('\n')).toContain(`${child.workflowId} (runbook standby-rebuild) acts nested in ${handle.workflowId}, epoch ${state!.epoch}`);
    expect((await applicationFailureOf(await failover('billing'))).type).toBe('lock-refused');
    await handle.signal('go');
    expect(await handle.result()).toMatchObject({ epoch: state!.epoch });
    await free();
  }, 90_000);

  it('that outlives the outer run keeps the lock until it has ended', async () => {
    // Before its first change it waits for the standby to be fenced away: here simply paused as soon as it can be.
    const child = rebuild();
    const handle = await client.workflow.start('outer', { taskQueue, workflowId: uniqueName('outer'), args: [{ child, leave: true }] });
    const nested = client.workflow.getHandle(child.workflowId);
    await expect.poll(async () => (await readLock(place))?.exclusive?.nested.map((one) => one.workflowId), { timeout: 30_000, interval: 5 }).toEqual([child.workflowId]);
    // It is refused until the plan is there, a moment after the lock.
    const pause = (): Promise<string> => nested.executeUpdate('pause', { args: [{ by: 'bob', reason: 'test' }] }).then(() => 'paused', (error: unknown) => (error instanceof Error && error.cause instanceof Error ? error.cause.message : String(error)));
    await expect.poll(pause, { timeout: 30_000, interval: 5 }).toBe('paused');
    await handle.signal('go');
    await handle.result();
    expect(await lockNow()).toMatchObject({ exclusive: { workflowId: handle.workflowId, releasing: true, nested: [{ workflowId: child.workflowId }] } });
    expect((await applicationFailureOf(await failover('billing'))).message).toContain(`with ${child.workflowId} nested in it`);
    await nested.executeUpdate('resume', { args: [{ by: 'bob', reason: 'test' }] });
    await nested.result();
    await free();
  }, 90_000);
});

describe('the workflow of the lock', () => {
  it('is read without a worker as soon as an Update has answered, and begins a new run before its history grows', async () => {
    const holder = stranger('holder');
    const { epoch } = (await acquireLock(place, taskQueue, wish(holder), '1')) as { epoch: number };
    const handle = client.workflow.getHandle(`lock/${place.environment}/shop`);
    const before = (await handle.describe()).runId;
    const ms: number[] = [];
    let run = before;
    for (let at = 0; run === before; at += 1) {
      expect(at).toBeLessThan(600);
      await expect(tellLock(place, 'acknowledge', { by: `person ${at}`, reason: 'test' })).rejects.toMatchObject({ code: 'lock-refused' });
      expect((await lockNow()).log.at(-1)!.text).toContain(`person ${at} was refused`);
      const from = performance.now();
      await checkStanding(place, holder, epoch);
      ms.push(performance.now() - from);
      if (at % 20 === 19) run = (await handle.describe()).runId;
    }
    ms.sort((a, b) => a - b);
    console.log(`check of the lock before a change: median ${ms[Math.floor(ms.length / 2)]!.toFixed(1)} ms, 95 % ${ms[Math.floor(ms.length * 0.95)]!.toFixed(1)} ms, most ${ms.at(-1)!.toFixed(1)} ms, of ${ms.length}`);
    expect((await lockNow()).exclusive).toMatchObject({ ...holder, epoch });
    // Late, and for the run before: it is the same hold.
    expect(await acquireLock(place, taskQueue, wish(holder), '1')).toMatchObject({ granted: true, epoch });
    await releaseLock(place, { ...holder, promoted: null, epoch });
    const next = stranger('next');
    expect(((await acquireLock(place, taskQueue, wish(next), '1')) as { epoch: number }).epoch).toBeGreaterThan(epoch);
    await releaseLock(place, { ...next, promoted: null, epoch: null });
    await free();
  }, 120_000);

  it('looks at its holders without forgetting what it is told meanwhile', async () => {
    for (let round = 0; round < 3; round += 1) {
      const holder = stranger('holder');
      expect(await acquireLock(place, taskQueue, wish(holder), '1')).toMatchObject({ granted: true });
      // It looks when it refuses somebody, but not twice within two seconds.
      await new Promise((resolve) => setTimeout(resolve, 2100));
      const since = Date.now();
      expect(await acquireLock(place, taskQueue, wish(stranger('second')), '1')).toMatchObject({ granted: false });
      await releaseLock(place, { ...holder, promoted: null, epoch: null });
      await expect.poll(async () => (await lockNow()).lookedAtMs ?? 0, { timeout: 30_000, interval: 20 }).toBeGreaterThanOrEqual(since);
      await free();
    }
  }, 60_000);

  it('ended by somebody: whoever held it changes nothing any more, and the next one starts it anew with a higher epoch', async () => {
    const first = await waiting(await failover('orders', { wait: true }));
    const { epoch } = (await lockNow()).exclusive!;
    await client.workflow.getHandle(`lock/${place.environment}/shop`).terminate('test');
    await approve(first, 'bob');
    expect(await resultOf(first)).toMatchObject({ outcome: 'failed', failure: expect.stringContaining('the lock of datastore shop is gone') });
    const next = await waiting(await failover('billing', { wait: true }));
    expect((await lockNow()).exclusive!.epoch).toBeGreaterThan(epoch);
    await end(next);
    await expectUntouched();
  }, 60_000);
});

describe('a worker killed after the lock was given and before it heard of it', () => {
  it('the run has it all the same, once', async () => {
    const [host, port] = pair.context.config.temporal.address.split(':') as [string, string];
    const proxy = await toxiproxy().proxy(uniqueName('temporal'), `${host}:${port}`);
    const children: ChildProcess[] = [];
    const startWorker = (address: string): ChildProcess => {
      const { child } = startHoldfast(['worker', '--config', configPath, '--runbooks', pair.context.runbookDirectory, '--address', address, '--grace', '1'], { env: secretsOfTest() });
      children.push(child);
      return child;
    };
    await worker.stop();
    try {
      await proxy.addToxic({ name: 'late', type: 'latency', stream: 'downstream', attributes: { latency: 400 } });
      const first = startWorker(proxy.address);
      const handle = await failover('orders');
      await expect.poll(async () => (await readLock(place))?.exclusive?.workflowId, { timeout: 120_000, interval: 10 }).toBe(handle.workflowId);
      first.kill('SIGKILL');
      await once(first, 'exit');
      const open = await handle.fetchHistory();
      const asked = open.events!.filter((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'acquireLocks');
      expect(asked).toHaveLength(1);
      expect(open.events!.some((event) => String(event.activityTaskCompletedEventAttributes?.scheduledEventId) === String(asked[0]!.eventId))).toBe(false);
      const { epoch } = (await lockNow()).exclusive!;
      startWorker(pair.context.config.temporal.address);
      const result = (await handle.result()) as ExecutionResult;
      expect(result.outcome).toBe('succeeded');
      expect((await handle.query<Progress>('progress')).state!.epoch).toBe(epoch);
      await free();
    } finally {
      for (const child of children) {
        if (child.exitCode !== null || child.signalCode !== null) continue;
        child.kill('SIGTERM');
        await once(child, 'exit');
      }
      await proxy.delete();
      worker = await runningWorker(pair.context);
    }
  }, 480_000);
});

describe('after a failover', () => {
  it('the next one is refused until it is acknowledged, or the rule is broken by its name; a failback is not', async () => {
    // What ran before this, in a worker with a cooldown of an hour.
    expect((await lockNow()).cooldown).toMatchObject({ service: 'orders', acknowledged: null });
    expect(await pair.pointsTo()).toBe('b');
    const refused = await applicationFailureOf(await failover('billing'));
    expect(refused).toMatchObject({ type: 'cooldown', details: [{ rule: 'cooldown', ok: false, next: expect.stringContaining('holdfast acknowledge orders') }] });
    expect((await program('locks')).out).toMatch(/failover\/orders-\w+, until 20/);

    // Past the lock it is refused by the standby that there is not.
    const broken = await resultOf(await failover('billing', { overrides: [{ rule: 'cooldown', reason: 'b is failing too' }] }));
    expect(broken.checks).toContainEqual(expect.objectContaining({ rule: 'cooldown', ok: true, overridden: 'ann: b is failing too' }));
    expect(broken.failure).not.toContain('cooldown');

    const back = await failover('orders', { purpose: 'failback', parameters: { node: 'a' } });
    expect(await back.result()).toMatchObject({ outcome: 'succeeded' });
    expect(await pair.pointsTo()).toBe('a');

    expect(await program('acknowledge', 'orders', '--reason', 'the disk of a was replaced')).toMatchObject({ code: 0, out: expect.stringContaining('shop may be failed over again') });
    expect(await program('acknowledge', 'orders', '--reason', 'again')).toMatchObject({ code: 4 });
    expect((await lockNow()).cooldown!.acknowledged).toMatchObject({ by: 'bob', reason: 'the disk of a was replaced' });
    // b is no standby yet, which is what refuses it now.
    const next = await resultOf(await failover('billing'));
    expect(next.checks).toContainEqual(expect.objectContaining({ rule: 'cooldown', ok: true, found: expect.stringContaining('acknowledged by bob: the disk of a was replaced') }));
    expect(next.failure).not.toContain('cooldown');
    await free();
  }, 120_000);
});
