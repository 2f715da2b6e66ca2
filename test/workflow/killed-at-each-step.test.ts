import { chmodSync, cpSync, existsSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type Client, type WorkflowHandle } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startWebhook, type Webhook } from '../../src/local/webhook.ts';
import { CATALOGUE } from '../../src/model/catalogue.ts';
import type { OperatorAction, Progress } from '../../src/model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { mortalWorker, type Death, type MortalWorker } from '../mortal.ts';
import { connectTemporal, failureOf, queryOnce, suite, testDirectory, uniqueName, type ConfigOverrides } from '../support.ts';

/**
 * For every step kind that changes something: the worker is killed after the change and before the server hears of it. Each
 * kill costs the 10 s after which the server misses a heartbeat, so an execution loses one worker after another, and the groups run side by side.
 */
const KILLED_AFTER = {
  planned: ['postgres.promote:apply', 'secret.swap:apply', 'route53.change:apply', 'postgres.fence:apply', 'rollout.command:apply', 'rollout.http:apply', 'notify.send:apply'],
  back: ['canary.start:apply', 'canary.start:undo', 'secret.stage:undo'],
  checkpoint: ['postgres.checkpoint:apply'],
  lifted: ['postgres.readOnly:undo'],
  forced: ['secret.stage:apply', 'postgres.fence:apply'],
  failback: ['postgres.rebuildStandby:apply', 'postgres.readOnly:apply'],
} as const;

/** Where another test kills the worker at the same moment: its file, and words of its name. */
const ELSEWHERE: Readonly<Record<string, { readonly file: string; readonly test: string }>> = {
  'controller.pause:apply': { file: 'test/integration/patroni.test.ts', test: 'a worker killed after the pause and before it said so' },
  'controller.pause:undo': { file: 'test/integration/patroni.test.ts', test: 'a worker killed after the pause was undone' },
  'controller.resume:apply': { file: 'test/integration/patroni.test.ts', test: 'a worker killed after Patroni was resumed' },
  ...Object.fromEntries(['redis.snapshot:apply', 'redis.substitute:apply', 'redis.substitute:undo', 'redis.warmUp:apply'].map((at) => [at, { file: 'test/integration/redis.test.ts', test: 'after a snapshot was stored, a substitute was filled and emptied, and a cache was warmed, before it said so' }])),
  ...Object.fromEntries(['redis.promote:apply', 'redis.promote:undo'].map((at) => [at, { file: 'test/integration/redis.test.ts', test: 'after a replica was promoted and demoted again, before it said so' }])),
  's3.drillMarker:apply': { file: 'test/integration/s3-killed.test.ts', test: 'after each change of the object drill' },
  's3.restoreObject:apply': { file: 'test/integration/s3-killed.test.ts', test: 'after each change of the object drill' },
  's3.removeMarker:apply': { file: 'test/integration/s3-killed.test.ts', test: 'after each change of the object drill' },
  's3.drillMarker:undo': { file: 'test/integration/s3-killed.test.ts', test: 'in the middle of the drill object, and after it was undone' },
  's3.restorePrefix:apply': { file: 'test/integration/s3-killed.test.ts', test: 'in the middle of a prefix and at its end' },
  's3.lifecycle:apply': { file: 'test/integration/s3-killed.test.ts', test: 'after the lifecycle rules were changed, and after that was undone' },
  's3.lifecycle:undo': { file: 'test/integration/s3-killed.test.ts', test: 'after the lifecycle rules were changed, and after that was undone' },
  ...Object.fromEntries(['search.snapshot:apply', 'search.restore:apply', 'search.restore:undo', 'search.alias:apply', 'search.alias:undo'].map((at) => [at, { file: 'test/integration/opensearch.test.ts', test: 'after a snapshot was taken, restored, put behind the alias, and all of that undone, before it said so' }])),
  ...Object.fromEntries(['search.reindex:apply', 'search.reindex:undo'].map((at) => [at, { file: 'test/integration/opensearch.test.ts', test: 'after an index was filled and removed again, and in the middle of filling it' }])),
  'wal.check:apply': { file: 'test/integration/wal-archive.test.ts', test: "at: 'wal.check:apply'" },
  'wal.mark:apply': { file: 'test/integration/wal-archive.test.ts', test: "at: 'wal.mark:apply'" },
  'wal.restoreToTime:apply': { file: 'test/integration/wal-archive.test.ts', test: 'in the middle of the recovery: the run goes on' },
  'chaos.killPrimary:apply': { file: 'test/integration/chaos.test.ts', test: "at: 'chaos.killPrimary:apply'" },
  'chaos.killPrimary:undo': { file: 'test/integration/chaos.test.ts', test: "at: 'chaos.killPrimary:undo'" },
  'chaos.proxyLink:apply': { file: 'test/integration/chaos.test.ts', test: "at: 'chaos.proxyLink:apply'" },
  'chaos.proxyLink:undo': { file: 'test/integration/chaos.test.ts', test: "at: 'chaos.proxyLink:undo'" },
  'chaos.pod:apply': { file: 'test/integration/chaos.test.ts', test: "at: 'chaos.pod:apply'" },
  ...Object.fromEntries(['search.snapshot:apply', 'search.restore:apply', 'search.restore:undo'].map((at) => [at, { file: 'test/integration/opensearch.test.ts', test: 'after a snapshot was taken, restored, and the restore was undone, before it said so' }])),
  ...Object.fromEntries(['search.reindex:apply', 'search.reindex:undo', 'search.alias:apply', 'search.alias:undo'].map((at) => [at, { file: 'test/integration/opensearch.test.ts', test: 'after an index was filled, an alias was pointed to it, and both were undone, before it said so' }])),
  'postgres.repointStandbys:apply': { file: 'test/integration/third-node.test.ts', test: 'a worker killed after it turned the third node, or told it to follow' },
  'kubernetes.rollout:apply': { file: 'test/integration/kubernetes.test.ts', test: 'a worker killed after the Secret was changed and after the restart' },
  'kubernetes.rollout:undo': { file: 'test/integration/kubernetes.test.ts', test: 'a worker killed after the Secret was changed and after the restart' },
  'kubernetes.config:apply': { file: 'test/integration/kubernetes.test.ts', test: 'a worker killed after the Secret was changed and after the restart' },
  'kubernetes.config:undo': { file: 'test/integration/kubernetes.test.ts', test: 'a worker killed after the Secret was changed and after the restart' },
  'route53.weights:apply': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed after names were switched' },
  'route53.weights:undo': { file: 'test/integration/edge-killed.test.ts', test: 'and after they were switched back' },
  'route53.failoverRecord:apply': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed after names were switched' },
  'route53.failoverRecord:undo': { file: 'test/integration/edge-killed.test.ts', test: 'and after they were switched back' },
  'cloudfront.origin:apply': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed after an origin and a flag were switched' },
  'cloudfront.origin:undo': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed after an origin and a flag were switched, and after they were switched back' },
  'flag.set:apply': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed after an origin and a flag were switched' },
  'flag.set:undo': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed after an origin and a flag were switched, and after they were switched back' },
  'secret.replicate:apply': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed after a secret was replicated' },
  'secret.replicate:undo': { file: 'test/integration/edge-killed.test.ts', test: 'and after its replica was taken away' },
  'secret.promoteReplica:apply': { file: 'test/integration/edge-killed.test.ts', test: 'after one was promoted' },
  'flag.restore:apply': { file: 'test/integration/edge-killed.test.ts', test: 'and after a flag was restored' },
  ...Object.fromEntries(['createTarget', 'copy', 'follow', 'verifyCopy'].map((kind) => [`dynamodb.${kind}:apply`, { file: 'test/integration/dynamodb-copy.test.ts', test: `at: 'dynamodb.${kind}:apply'` }])),
  ...Object.fromEntries(['marker:apply', 'restoreToMoment:apply', 'settings:apply', 'removeRestored:apply', 'removeMarker:apply', 'marker:undo'].map((at) => [`dynamodb.${at}`, { file: 'test/integration/dynamodb-killed.test.ts', test: `at: 'dynamodb.${at}'` }])),
  'sqs.redrive:apply': { file: 'test/integration/edge-killed.test.ts', test: 'a worker killed between sending and deleting' },
};

it('every phase that changes something has its kill', () => {
  const changing = Object.entries(CATALOGUE).filter(([, kind]) => kind.runsIn === 'activity').flatMap(([name, kind]) => kind.phases.filter((phase) => phase === 'apply' || phase === 'undo').map((phase) => `${name}:${phase}`));
  const killed = new Set<string>(Object.values(KILLED_AFTER).flat());
  expect([...killed].filter((activity) => !changing.includes(activity))).toEqual([]);
  expect(changing.filter((activity) => !killed.has(activity) && ELSEWHERE[activity] === undefined)).toEqual([]);
  for (const { file, test } of Object.values(ELSEWHERE)) expect(readFileSync(join(import.meta.dirname, '../..', file), 'utf8')).toContain(test);
});

interface Stage {
  readonly context: { readonly configPath: string; readonly runbookDirectory: string; readonly config: { readonly temporal: { readonly taskQueue: string } } };
  readonly client: Client;
  readonly workers: MortalWorker[];
}

/** Kills to come, and what a person does once the execution has noticed. */
type Kill = Death & { readonly afterwards?: (handle: WorkflowHandle) => Promise<void> };

let processes: Processes;
const stages: Stage[] = [];

beforeAll(() => {
  processes = createProcesses({ directory: testDirectory('each-step') });
});

afterAll(async () => {
  await Promise.all(stages.flatMap((stage) => stage.workers.map((worker) => worker.stop())));
  for (const stage of stages) await stage.client.connection.close();
  await processes?.end();
});

let lastPair: Promise<unknown> = Promise.resolve();

/** One after the other: four clusters made at once on two cores look like servers that do not answer. */
function pairInTurn(overrides: ConfigOverrides = {}): Promise<DatabasePair> {
  const pair = lastPair.then(() => databasePair(processes, overrides));
  lastPair = pair.catch(() => {});
  return pair;
}

async function stageOf(context: DatabasePair['context']): Promise<Stage> {
  const stage = { context, client: await connectTemporal(context), workers: [] };
  stages.push(stage);
  return stage;
}

function start(stage: Stage, type: string, input: Record<string, unknown>): Promise<WorkflowHandle> {
  return stage.client.workflow.start(type, { taskQueue: stage.context.config.temporal.taskQueue, workflowId: `${type}/${uniqueName('killed')}`, args: [{ reason: 'test', requestedBy: 'ann', ...input }] });
}

/** One execution that loses a worker at each of these moments; the last one stays until the next call. */
async function loseWorkers(stage: Stage, begin: () => Promise<WorkflowHandle>, kills: readonly Kill[]): Promise<WorkflowHandle> {
  const next = async (death: Death | null): Promise<MortalWorker> => {
    const worker = await mortalWorker(stage.context, death);
    stage.workers.push(worker);
    return worker;
  };
  // Whoever is left of the execution before this one would take its tasks.
  await Promise.all(stage.workers.map((worker) => worker.stop()));
  let worker = await next(kills[0]!);
  // Loaded before anything begins: while the first guards ask, a process that loads beside them looks like a server that does not answer.
  const second = await next(kills[1] ?? null);
  await worker.go();
  let handle = await begin();
  for (const [index, kill] of kills.entries()) {
    const heir = index === 0 ? second : await next(kills[index + 1] ?? null);
    const end = (): Promise<string | null> => Promise.race([worker.ended, handle.result().then((result) => `the execution ended first: ${JSON.stringify(result)}`, (error: unknown) => `the execution ended first: ${String((error as Error).cause ?? error)}`)]);
    let signal = await end();
    // A loaded machine: it was refused before anything was changed, and is begun anew.
    const allowed = index === 0 ? 3 : 0;
    for (let again = 0; again < allowed && /refused before the first change.*timeout expired/s.test(String(signal)); again += 1) {
      handle = await begin();
      signal = await end();
    }
    expect({ at: kill.at, signal }).toEqual({ at: kill.at, signal: 'SIGKILL' });
    await heir.go();
    worker = heir;
    await kill.afterwards?.(handle);
  }
  return handle;
}

/**
 * The server never heard of what was done: it missed the heartbeat of each killed apply, and gave each killed undo to another worker.
 * And what came of it in this order can be replayed by the next worker.
 */
async function expectUnheard(handle: WorkflowHandle, kills: readonly Kill[]): Promise<void> {
  const history = await handle.fetchHistory();
  const { events } = history;
  await Worker.runReplayHistory({ workflowBundle: { code: readFileSync(suite().workflowBundle, 'utf8'), sourceMap: '' } }, history, handle.workflowId);
  for (const { at } of kills) {
    const scheduled = events!.filter((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === at).map((event) => String(event.eventId));
    const lost = at.endsWith(':undo')
      ? events!.some((event) => scheduled.includes(String(event.activityTaskStartedEventAttributes?.scheduledEventId)) && event.activityTaskStartedEventAttributes!.attempt! >= 2)
      : events!.some((event) => scheduled.includes(String(event.activityTaskTimedOutEventAttributes?.scheduledEventId)));
    expect({ at, lost }).toEqual({ at, lost: true });
  }
}

/** Outcomes of every try that the ledger holds, by step. */
async function ledgerOf(handle: WorkflowHandle): Promise<Record<string, string[]>> {
  const { state } = await handle.query<Progress>('progress');
  const outcomes: Record<string, string[]> = {};
  for (const { step, phase, outcome } of state!.ledger) (outcomes[phase === 'undo' ? `${step} (undo)` : step] ??= []).push(outcome);
  return outcomes;
}

/** `expect.poll` knows no concurrent tests. */
async function reaches(handle: WorkflowHandle, id: string, status: string): Promise<NonNullable<Progress['state']>['steps'][number]> {
  const until = Date.now() + 60_000;
  for (;;) {
    const step = (await handle.query<Progress>('progress')).state?.steps.find((item) => item.id === id);
    if (step?.status === status) return step;
    if (Date.now() > until) throw new Error(`step ${id} is ${step?.status}, not ${status}, after 60 s`);
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
  }
}

/** Waits until the step is parked, and decides. */
function decide(step: string, action: OperatorAction, look?: () => void): (handle: WorkflowHandle) => Promise<void> {
  return async (handle) => {
    const { attempt } = await reaches(handle, step, 'parked');
    look?.();
    await handle.executeUpdate(action, { args: [{ by: 'bob', reason: 'looked', step, attempt, evidence: 'seen' }] });
  };
}

/** Exactly one node takes writes; applications, DNS and secret know it; nothing waits to be swapped. */
async function expectPrimary(pair: DatabasePair, primary: 'a' | 'b', other: 'standby' | 'fenced'): Promise<void> {
  const old = primary === 'a' ? 'b' : 'a';
  expect(await tryToWrite(pair, primary)).toEqual(['application', 'superuser']);
  expect(await tryToWrite(pair, old)).toEqual([]);
  expect(await pair.pointsTo()).toBe(primary);
  expect(await pair.record()).toBe(primary === 'a' ? '127.0.0.1' : '127.0.0.2');
  const labels = await pair.secretLabels();
  expect(labels.current).toHaveLength(1);
  expect(labels.staged).toEqual([]);
  // Fenced for good it is stopped, and starts in recovery if somebody starts it.
  expect({ running: pair.servers[old].running(), signal: existsSync(join(pair.servers[old].dataDirectory, 'standby.signal')) }).toEqual({ running: other === 'standby', signal: true });
}

/** A receiver of rollout calls that remembers their keys. */
async function receiver(): Promise<{ url: string; keys: string[]; server: Server }> {
  const keys: string[] = [];
  const server = createServer((request, response) => {
    keys.push(String(request.headers['idempotency-key']));
    request.resume();
    response.writeHead(204).end();
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  server.unref();
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/roll`, keys, server };
}

const lines = (path: string): string[] => (existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n') : []);

/** Writes were refused and are let in again, nothing is staged, the candidate was never promoted. */
async function expectAsBefore(pair: DatabasePair, result: ExecutionResult): Promise<void> {
  expect(result.outcome).toMatch(/failed|aborted/);
  expect(result.steps.find((step) => step.id === 'promote')?.outcome).toBe('not begun');
  await expectPrimary(pair, 'a', 'standby');
  expect((await queryOnce(pair.servers.a.connectionString(), 'show default_transaction_read_only'))[0]).toEqual({ default_transaction_read_only: 'off' });
}

const kinds = (kills: readonly Kill[]): string[] => kills.map((kill) => kill.at);
const outcomes = (result: ExecutionResult): Record<string, string> => Object.fromEntries(result.steps.map((step) => [step.id, step.outcome]));

describe.concurrent('a worker is killed after it changed something', () => {
  it('a planned failover goes through: each change is found by looking, what cannot be known waits for a person', async () => {
    const hook: Webhook = await startWebhook();
    process.env['HOLDFAST_TEST_HOOK'] = hook.url;
    const pair = await pairInTurn({ notify: { people: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK' } } });
    const stage = await stageOf(pair.context);
    const { url, keys, server } = await receiver();
    const counted = join(testDirectory('rollout'), 'keys');
    const writer = new ApplicationWriter(pair);
    const timeline = await pair.timeline('a');
    const kills: Kill[] = [
      { at: 'postgres.promote:apply' },
      { at: 'secret.swap:apply' },
      { at: 'route53.change:apply' },
      { at: 'postgres.fence:apply' },
      // What ran once is never run again by itself: a person looks.
      { at: 'rollout.command:apply', afterwards: decide('rollout', 'markDone', () => expect(lines(counted)).toHaveLength(1)) },
      { at: 'rollout.http:apply', afterwards: decide('rollout-http', 'retry', () => expect(keys).toHaveLength(1)) },
      { at: 'notify.send:apply', afterwards: decide('tell', 'skip', () => expect(hook.messages.filter((message) => JSON.stringify(message.body).includes('runs on b'))).toHaveLength(1)) },
    ];
    expect(kinds(kills)).toEqual(KILLED_AFTER.planned);
    const handle = await loseWorkers(stage, () => start(stage, 'failover', { service: pair.service, mode: 'planned', parameters: { rolloutCommand: ['sh', '-c', `echo "$HOLDFAST_KEY" >> ${counted}`], rolloutUrl: url } }), kills);
    const result = (await handle.result()) as ExecutionResult;
    await writer.stop();
    await hook.close();
    await new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
    await expectUnheard(handle, kills);
    expect(result.outcome).toBe('succeeded');
    // Nobody rehearsed these.
    expect(result.byPeople).toEqual(['rollout', 'tell']);
    // Once changed, once told: what was found by looking is not a second change.
    expect(await ledgerOf(handle)).toMatchObject({
      promote: ['unknown', 'changed'], 'swap-secret': ['unknown', 'changed'], dns: ['unknown', 'changed'], fence: ['unknown', 'changed'],
      rollout: ['unknown', 'changed'], 'rollout-http': ['unknown', 'changed'], tell: ['unknown'],
    });
    for (const id of ['promote', 'swap-secret', 'dns', 'fence']) expect(result.steps.find((step) => step.id === id)?.summary).toContain('its answer was lost; inspection shows that it happened');
    await expectPrimary(pair, 'b', 'fenced');
    expect(await pair.timeline('b')).toBe(timeline + 1);
    expect(await writer.lostOn('b')).toEqual([]);
    expect(lines(counted)).toHaveLength(1);
    // The second call is the operator's retry, and carries the same key.
    expect(keys).toEqual([expect.stringMatching(/rollout-http/), keys[0]]);
    // What nobody saw is not measured, and says why.
    const measured = (name: string): ExecutionResult['measurements'][number] => result.measurements.find((item) => item.name.startsWith(name))!;
    expect(measured('promotion')).toMatchObject({ measured: null, note: expect.stringContaining('its answer was lost') });
    expect(measured('DNS')).toMatchObject({ measured: null, note: expect.stringContaining('its answer was lost') });
    expect(measured('RTO')).toMatchObject({ note: expect.stringContaining('changed workers') });
    expect(measured('acknowledged writes lost')).toMatchObject({ measured: 0, note: expect.stringContaining('changed workers') });
  }, 900_000);

  it('what cannot be looked at before the point of no return goes back, and an undo whose answer was lost is looked at again', async () => {
    const made = await pairInTurn();
    const runbookDirectory = testDirectory('runbooks');
    cpSync(made.context.runbookDirectory, runbookDirectory, { recursive: true });
    const text = readFileSync(join(runbookDirectory, 'database-failover.yaml'), 'utf8').replace(/^name: .*/m, 'name: held-failover');
    const held = text.replace('  - id: await-replay\n', '  - id: hold\n    title: Hold\n    uses: operator.wait\n    narrative: Hold.\n    with: {duration: 50s}\n\n  - id: await-replay\n');
    expect(held).not.toBe(text);
    writeFileSync(join(runbookDirectory, 'held-failover.yaml'), held);
    const pair = { ...made, context: { ...made.context, runbookDirectory } };
    const stage = await stageOf(pair.context);
    const begin = () => start(stage, 'runbook', { service: pair.service, runbook: 'held-failover', mode: 'planned' });

    const back = KILLED_AFTER.back.map((at): Kill => ({ at }));
    let handle = await loseWorkers(stage, begin, back);
    let result = await failureOf(handle);
    await expectUnheard(handle, back);
    expect(result).toMatchObject({ outcome: 'failed', failure: expect.stringMatching(/^step canary: no answer in time/) });
    expect(await ledgerOf(handle)).toMatchObject({ 'stage-secret': ['changed'], checkpoint: ['changed'], canary: ['unknown'], 'canary (undo)': ['changed'], 'stage-secret (undo)': ['already-satisfied'] });
    await expectAsBefore(pair, result);

    const checkpoint = KILLED_AFTER.checkpoint.map((at): Kill => ({ at }));
    handle = await loseWorkers(stage, begin, checkpoint);
    result = await failureOf(handle);
    await expectUnheard(handle, checkpoint);
    expect(result).toMatchObject({ outcome: 'failed', failure: expect.stringMatching(/^step checkpoint: no answer in time/) });
    expect(outcomes(result)).toMatchObject({ 'stage-secret': 'undone', canary: 'not begun' });
    await expectAsBefore(pair, result);

    const lifted = KILLED_AFTER.lifted.map((at): Kill => ({ at }));
    handle = await loseWorkers(stage, async () => {
      const begun = await begin();
      await reaches(begun, 'read-only', 'done');
      expect(await tryToWrite(pair, 'a')).not.toContain('application');
      await begun.cancel();
      return begun;
    }, lifted);
    result = await failureOf(handle);
    await expectUnheard(handle, lifted);
    expect(result).toMatchObject({ outcome: 'aborted' });
    expect((await ledgerOf(handle))['read-only (undo)']).toEqual(['already-satisfied']);
    await expectAsBefore(pair, result);
  }, 900_000);

  it('a forced failover goes through, and the failback after it', async () => {
    const pair = await pairInTurn();
    const stage = await stageOf(pair.context);
    const timeline = await pair.timeline('a');
    await pair.servers.a.kill();
    const forced: Kill[] = [{ at: 'secret.stage:apply' }, { at: 'postgres.fence:apply', step: 'fence-first' }];
    expect(kinds(forced)).toEqual(KILLED_AFTER.forced);
    let handle = await loseWorkers(stage, () => start(stage, 'failover', { service: pair.service, mode: 'forced' }), forced);
    let result = (await handle.result()) as ExecutionResult;
    await expectUnheard(handle, forced);
    expect(await ledgerOf(handle)).toMatchObject({ 'stage-secret': ['unknown', 'changed'], 'fence-first': ['unknown', 'changed'], promote: ['changed'] });
    expect(outcomes(result)).toMatchObject({ 'stage-secret': 'changed', 'fence-first': 'changed', promote: 'changed' });
    await expectPrimary(pair, 'b', 'fenced');
    expect(await pair.timeline('b')).toBe(timeline + 1);

    const writer = new ApplicationWriter(pair);
    const failback: Kill[] = [{ at: 'postgres.rebuildStandby:apply' }, { at: 'postgres.readOnly:apply' }];
    expect(kinds(failback)).toEqual(KILLED_AFTER.failback);
    handle = await loseWorkers(stage, () => start(stage, 'failover', { service: pair.service, mode: 'planned', purpose: 'failback', parameters: { node: 'a' } }), failback);
    result = (await handle.result()) as ExecutionResult;
    await writer.stop();
    await expectUnheard(handle, failback);
    expect(await ledgerOf(handle)).toMatchObject({ rebuild: ['unknown', 'changed'], 'read-only': ['unknown', 'changed'], promote: ['changed'] });
    expect(result.steps.find((step) => step.id === 'rebuild')?.summary).toContain('its answer was lost; inspection shows that it happened');
    await expectPrimary(pair, 'a', 'fenced');
    expect(await pair.timeline('a')).toBe(timeline + 2);
    expect(writer.acknowledged.length).toBeGreaterThan(0);
    expect(await writer.lostOn('a')).toEqual([]);
  }, 900_000);

  it('in the middle of a change and before one the next worker ends it, without leftovers', async () => {
    const pair = await pairInTurn();
    const stage = await stageOf(pair.context);
    const timeline = await pair.timeline('a');
    const data = pair.servers.a.dataDirectory;
    const writer = new ApplicationWriter(pair);
    const kills: Kill[] = [
      // The rules are written and perhaps not loaded; no session was ended.
      { at: 'postgres.readOnly:apply', whenFile: { path: join(data, 'pg_hba.conf'), has: 'BEGIN HOLDFAST FENCE' } },
      { at: 'postgres.promote:apply', before: true },
      // Swapped, and the label not taken off.
      { at: 'secret.swap:apply', afterRequest: 'UpdateSecretVersionStageCommand' },
      // It would start in recovery, and still runs.
      { at: 'postgres.fence:apply', whenFile: { path: join(data, 'standby.signal'), has: '' } },
    ];
    let handle = await loseWorkers(stage, () => start(stage, 'failover', { service: pair.service, mode: 'planned' }), kills);
    let result = (await handle.result()) as ExecutionResult;
    await writer.stop();
    await expectUnheard(handle, kills);
    expect(await ledgerOf(handle)).toMatchObject({ 'read-only': ['unknown', 'changed'], promote: ['unknown', 'changed'], 'swap-secret': ['unknown', 'changed'], fence: ['unknown', 'changed'] });
    // Nothing had begun: promoted by the second try, not found.
    expect(result.steps.find((step) => step.id === 'promote')?.summary).toContain('b promoted in');
    await expectPrimary(pair, 'b', 'fenced');
    expect(await pair.timeline('b')).toBe(timeline + 1);
    expect(await writer.lostOn('b')).toEqual([]);

    // A copy of the data directory outlives the worker that asked for it, since it runs as another user: never two at once in one folder.
    const tools = testDirectory('tools');
    const log = join(tools, 'copies');
    for (const tool of readdirSync(pair.servers.a.binDirectory)) if (tool !== 'pg_basebackup') symlinkSync(join(pair.servers.a.binDirectory, tool), join(tools, tool));
    writeFileSync(log, '', { mode: 0o666 });
    chmodSync(log, 0o666);
    writeFileSync(join(tools, 'pg_basebackup'), `#!/bin/sh\necho begin $$ >> ${log}\n${join(pair.servers.a.binDirectory, 'pg_basebackup')} "$@" --max-rate=2M\ncode=$?\necho end $$ >> ${log}\nexit $code\n`, { mode: 0o755 });
    rmSync(join(data, 'global', 'pg_control'));
    const document = parse(readFileSync(pair.context.configPath, 'utf8')) as { datastores: { shop: { nodes: { a: { binDirectory: string } } } } };
    document.datastores.shop.nodes.a.binDirectory = tools;
    const configPath = join(tools, 'holdfast.yaml');
    writeFileSync(configPath, stringify(document));
    const slow: Stage = { ...stage, context: { ...stage.context, configPath } };
    const rebuild: Kill[] = [{ at: 'postgres.rebuildStandby:apply', whenFile: { path: log, has: 'begin' } }];
    handle = await loseWorkers(slow, () => start(slow, 'runbook', { runbook: 'standby-rebuild', service: pair.service, parameters: { node: 'a' } }), rebuild);
    result = (await handle.result()) as ExecutionResult;
    await expectUnheard(handle, rebuild);
    expect(result.steps.find((step) => step.id === 'rebuild')?.summary).toContain('rebuilt by base backup');
    expect(lines(log).map((line) => line.split(' ')[0])).toEqual(['begin', 'end', 'begin', 'end']);
    await expectPrimary(pair, 'b', 'standby');
    expect(readdirSync(join(data, '..')).filter((name) => /holdfast-(new|old)/.test(name))).toEqual([]);
  }, 900_000);
});
