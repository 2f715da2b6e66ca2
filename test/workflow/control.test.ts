/** The interpreter's control on the real Temporal and real servers: steps beside each other, nested runs, the change of mode. */
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Client, type WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { resultIn } from '../../src/engine/executions.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startWebhook, type Webhook } from '../../src/local/webhook.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { approve, connectTemporal, runningWorker, testDirectory, uniqueName } from '../support.ts';

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let folder: string;
let webhook: Webhook;

const step = (id: string, argv: readonly string[], more: Record<string, unknown> = {}): Record<string, unknown> => ({ id, title: id, uses: 'rollout.command', narrative: 'Run it.', with: { argv }, ...more });

function runbook(name: string, steps: readonly Record<string, unknown>[], more: Record<string, unknown> = {}): void {
  writeFileSync(join(pair.context.runbookDirectory, `${name}.yaml`), stringify({ name, title: name, summary: 'A test.', steps, ...more }));
}

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('control') });
  webhook = await startWebhook();
  process.env['HOLDFAST_TEST_CONTROL_WEBHOOK'] = webhook.url;
  const made = await databasePair(processes, { notify: { team: { type: 'slack', url: 'env:HOLDFAST_TEST_CONTROL_WEBHOOK' } } });
  const runbookDirectory = testDirectory('runbooks');
  cpSync(made.context.runbookDirectory, runbookDirectory, { recursive: true });
  pair = { ...made, context: { ...made.context, runbookDirectory } };
  folder = testDirectory('marks');
  const text = readFileSync(join(runbookDirectory, 'database-failover.yaml'), 'utf8').replace(/^name: .*/m, 'name: held-failover');
  const held = text.replace('  - id: await-replay\n', '  - id: hold\n    title: Hold\n    uses: operator.wait\n    modes: [planned]\n    narrative: Hold.\n    with: {duration: 50s}\n\n  - id: await-replay\n');
  if (held === text) throw new Error('the shipped runbook has no step await-replay any more');
  writeFileSync(join(runbookDirectory, 'held-failover.yaml'), held);
  Object.assign(pair.context.config.services[pair.service]!.runbooks, { held: 'held-failover' });
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  await webhook?.close();
  pair?.context.close();
});

const mark = (name: string): string => join(folder, name);
const touch = (name: string): string[] => ['sh', '-c', `date +%s%N > ${mark(name)}`];

function start(name: string, more: Record<string, unknown> = {}): Promise<WorkflowHandle> {
  const { taskQueue } = pair.context.config.temporal;
  return client.workflow.start('runbook', { taskQueue, workflowId: `runbook/${uniqueName(name)}`, args: [{ runbook: name, reason: 'test', requestedBy: 'ann', ...more }] });
}

async function resultOf(handle: WorkflowHandle): Promise<ExecutionResult> {
  try {
    return (await handle.result()) as ExecutionResult;
  } catch (error) {
    const result = resultIn(error);
    if (result !== undefined) return result;
    throw error;
  }
}

/** People were told of it. */
const told = (text: string): Promise<unknown> => webhook.waitFor((message) => JSON.stringify(message.body).includes(text));

const outcomes = (result: ExecutionResult): Record<string, string> => Object.fromEntries(result.steps.map((item) => [item.id, item.outcome]));

describe('steps', () => {
  it('run beside each other, and what waits for all of them runs after all of them', async () => {
    const meet = (mine: string, other: string): string[] => ['sh', '-c', `touch ${mark(mine)}; for i in $(seq 200); do test -e ${mark(other)} && exit 0; sleep 0.05; done; exit 1`];
    runbook('beside', [step('first', touch('first')), step('left', meet('left', 'right'), { needs: ['first'] }), step('right', meet('right', 'left'), { needs: ['first'] }), step('last', touch('last'))]);
    // Each of the two only ends once it has seen the other.
    expect(outcomes(await resultOf(await start('beside')))).toEqual({ first: 'changed', left: 'changed', right: 'changed', last: 'changed' });
  });

  it('whose condition does not hold are left out and say why', async () => {
    runbook('maybe', [step('first', touch('a')), step('only-forced', touch('never'), { when: [{ value: '${mode}', equals: 'forced' }] }), step('always', touch('always'), { when: [{ value: '${parameters.really}', equals: true }] })], { parameters: { really: { type: 'boolean', default: true, description: 'really?' } } });
    const result = await resultOf(await start('maybe'));
    expect(outcomes(result)).toEqual({ first: 'changed', 'only-forced': 'skipped', always: 'changed' });
    expect(result.steps[1]!.summary).toBe('its condition does not hold: mode is "planned", the condition asks for "forced"');
    expect(existsSync(mark('never'))).toBe(false);
  });
});

describe('a nested runbook', () => {
  it('is an execution of its own, and its guards are asked before the first change of the outer one', async () => {
    runbook('inner', [step('act', touch('inner'))]);
    runbook('outer', [step('before', touch('before')), { id: 'inside', title: 'Inside', uses: 'runbook.run', narrative: 'Run it.', with: { runbook: 'inner' } }]);
    const handle = await start('outer');
    expect(outcomes(await resultOf(handle))).toEqual({ before: 'changed', inside: 'changed' });
    expect(existsSync(mark('inner'))).toBe(true);
    const inner = await client.workflow.getHandle(`${handle.workflowId}/inside/1`).describe();
    expect(inner).toMatchObject({ type: 'runbook', status: { name: 'COMPLETED' } });

    runbook('inner-bad', [step('act', ['/no/such/program'])]);
    runbook('outer-bad', [step('before', touch('before-bad')), { id: 'inside', title: 'Inside', uses: 'runbook.run', narrative: 'Run it.', with: { runbook: 'inner-bad' } }]);
    const refused = await resultOf(await start('outer-bad'));
    expect(refused).toMatchObject({ outcome: 'failed', failure: expect.stringMatching(/refused before the first change: inside:.*no\/such\/program/s) });
    expect(existsSync(mark('before-bad'))).toBe(false);
  });

  it('that runs itself is refused at the start', async () => {
    runbook('circle', [{ id: 'again', title: 'Again', uses: 'runbook.run', narrative: 'Run it.', with: { runbook: 'circle' } }]);
    await expect((await start('circle')).result()).rejects.toMatchObject({ cause: { cause: { message: expect.stringContaining('circle -> circle: it runs itself') } } });
  });

  it('that was changed after the outer one began does not run', async () => {
    runbook('edited', [step('act', touch('edited'))]);
    runbook('around', [{ id: 'ask', title: 'Ask', uses: 'operator.approval', narrative: 'Ask.', with: { count: 1 } }, { id: 'inside', title: 'Inside', uses: 'runbook.run', narrative: 'Run it.', with: { runbook: 'edited' } }]);
    const handle = await start('around');
    await expect.poll(async () => (await handle.query<Progress>('progress')).approval?.needed, { timeout: 30_000 }).toBe(1);
    await told(`holdfast approve ${handle.workflowId}`);
    runbook('edited', [step('act', touch('other'))]);
    await approve(handle, 'bob');
    expect(await resultOf(handle)).toMatchObject({ outcome: 'failed', failure: expect.stringMatching(/runbook edited was changed since the run that calls it began/) });
    expect(existsSync(mark('other'))).toBe(false);
  });

  it('ends with the outer one when that is cancelled, and has undone itself then', async () => {
    runbook('waits', [{ id: 'hold', title: 'Hold', uses: 'operator.wait', narrative: 'Hold.', with: { duration: '5m' } }]);
    runbook('cancelled', [step('before', touch('before-cancelled')), { id: 'inside', title: 'Inside', uses: 'runbook.run', narrative: 'Run it.', with: { runbook: 'waits' } }, step('after', touch('after-cancelled'))]);
    const handle = await start('cancelled');
    const inner = client.workflow.getHandle(`${handle.workflowId}/inside/1`);
    await expect.poll(async () => (await inner.query<Progress>('progress').catch(() => null))?.waitingFor, { timeout: 30_000 }).toMatch(/to pass/);
    await handle.cancel();
    expect(await resultOf(handle)).toMatchObject({ outcome: 'failed', failure: expect.stringMatching(/inside: waits: aborted: the execution was cancelled/) });
    expect((await inner.describe()).status.name).toBe('FAILED');
    expect(existsSync(mark('after-cancelled'))).toBe(false);
  });
});

describe('switchToForced', () => {
  it('fails over when the primary is lost while writes are refused by a planned failover', async () => {
    const { taskQueue } = pair.context.config.temporal;
    pair.context.config.services[pair.service]!.objectives.rto = 1000;
    const handle = await client.workflow.start('failover', { taskQueue, workflowId: `failover/${uniqueName('switched')}`, args: [{ service: pair.service, mode: 'planned', purpose: 'held', reason: 'test', requestedBy: 'ann' }] });
    const held = async (): Promise<string | undefined> => (await handle.query<Progress>('progress')).state?.steps.find(({ id }) => id === 'hold')?.status;
    await expect.poll(held, { timeout: 60_000, interval: 50 }).toBe('running');
    // It goes on all the same: half a promotion is worse than a late one.
    await told('the RTO of orders has passed');
    await pair.servers.a.kill();
    await handle.executeUpdate('switchToForced', { args: [{ by: 'bob', reason: 'the primary burns' }] });
    const result = await resultOf(handle);
    expect(result).toMatchObject({ outcome: 'succeeded', mode: 'forced', primary: 'a', candidate: 'b', promoted: true });
    expect(outcomes(result)).toMatchObject({ 'read-only': 'changed', 'fence-first': 'changed', promote: 'changed', 'swap-secret': 'changed', fence: 'already-satisfied' });
    expect(await pair.pointsTo()).toBe('b');
    expect(await tryToWrite(pair, 'b')).toEqual(['application', 'superuser']);
    // It cannot be taken back, and not be asked for twice.
    await expect(handle.executeUpdate('switchToForced', { args: [{ by: 'bob', reason: 'again' }] })).rejects.toThrow(/completed|not found/);
    const { state } = await handle.query<Progress>('progress');
    expect(state!.decisions.map(({ action, by }) => ({ action, by }))).toEqual([{ action: 'switchToForced', by: 'bob' }]);
  });
});
