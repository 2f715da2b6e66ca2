import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { WorkflowUpdateFailedError } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { OperatorAction, Progress } from '../../src/model/execution.ts';
import { databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { approve, connectTemporal, failureOf, queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('operator') });
  const made = await databasePair(processes);
  const runbookDirectory = testDirectory('runbooks');
  cpSync(made.context.runbookDirectory, runbookDirectory, { recursive: true });
  // The shipped runbook with a wait while writes are refused: what is cancelled there is known to stand there.
  const text = readFileSync(join(runbookDirectory, 'database-failover.yaml'), 'utf8').replace(/^name: .*/m, 'name: held-failover');
  const held = text.replace('  - id: await-replay\n', '  - id: hold\n    title: Hold\n    uses: operator.wait\n    narrative: Hold.\n    with: {duration: 50s}\n\n  - id: await-replay\n');
  if (held === text) throw new Error('the shipped runbook has no step await-replay any more');
  writeFileSync(join(runbookDirectory, 'held-failover.yaml'), held);
  writeFileSync(join(runbookDirectory, 'stalled-failover.yaml'), held.replace(/^name: .*/m, 'name: stalled-failover').replace(/^readOnlyDeadline: .*/m, 'readOnlyDeadline: 15s'));
  pair = { ...made, context: { ...made.context, runbookDirectory } };
  Object.assign(pair.context.config.services[pair.service]!.runbooks, { held: 'held-failover', stalled: 'stalled-failover' });
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

function start(approval: { planned: number; expires?: number }, purpose = 'failover'): Promise<WorkflowHandle> {
  const service = pair.context.config.services[pair.service]!;
  service.approval = { planned: approval.planned, forced: 0, approvers: [], expires: approval.expires ?? 600_000 };
  const { taskQueue } = pair.context.config.temporal;
  return client.workflow.start('failover', { taskQueue, workflowId: `failover/${uniqueName('operated')}`, args: [{ service: pair.service, mode: 'planned', purpose, reason: 'test', requestedBy: 'ann' }] });
}

async function statusOf(handle: WorkflowHandle, id: string): Promise<string | undefined> {
  return (await handle.query<Progress>('progress')).state?.steps.find((step) => step.id === id)?.status;
}

async function reaches(handle: WorkflowHandle, id: string, status: string): Promise<void> {
  await expect.poll(() => statusOf(handle, id), { timeout: 60_000, interval: 20 }).toBe(status);
}

function say(handle: WorkflowHandle, action: OperatorAction, by: string): Promise<string> {
  return action === 'approve' ? approve(handle, by) : handle.executeUpdate(action, { args: [{ by, reason: 'test' }] });
}

async function refused(answer: Promise<string>): Promise<string> {
  try {
    await answer;
  } catch (error) {
    if (error instanceof WorkflowUpdateFailedError && error.cause instanceof Error) return error.cause.message;
    throw error;
  }
  throw new Error('it was taken, a refusal was expected');
}

/** The result that an execution which did not succeed carries. */
/** Nothing is left of an execution that went back: the application writes to a, b follows it, no version of the secret waits. */
async function expectAsBefore(): Promise<void> {
  expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as recovering')).toEqual([{ recovering: true }]);
  expect(await pair.pointsTo()).toBe('a');
  expect(await stagedVersions()).toEqual([]);
}

/** Versions of the application's secret that are prepared for a swap. */
async function stagedVersions(): Promise<string[]> {
  const { ListSecretVersionIdsCommand, SecretsManagerClient } = await import('@aws-sdk/client-secrets-manager');
  const { aws } = pair.context.config;
  const secrets = new SecretsManagerClient({ region: aws.region!, endpoint: aws.endpoint!, credentials: { accessKeyId: process.env['HOLDFAST_TEST_AWS_KEY']!, secretAccessKey: process.env['HOLDFAST_TEST_AWS_SECRET']! } });
  try {
    const { Versions } = await secrets.send(new ListSecretVersionIdsCommand({ SecretId: pair.secretId }));
    return (Versions ?? []).filter((version) => version.VersionStages?.some((stage) => stage.startsWith('HOLDFAST'))).map((version) => version.VersionId!);
  } finally {
    secrets.destroy();
  }
}

describe('approval', () => {
  it('needs two different people, neither of them the requester; before that nothing is changed', async () => {
    const handle = await start({ planned: 2 });
    await reaches(handle, 'approve', 'running');
    expect(await refused(say(handle, 'approve', 'ann'))).toBe('ann requested this and cannot approve it');
    await say(handle, 'approve', 'bob');
    expect(await refused(say(handle, 'approve', 'bob'))).toMatch(/bob approved already/);
    expect(await statusOf(handle, 'approve')).toBe('running');
    expect(await stagedVersions()).toEqual([]);
    // The second one lets it go on: it is paused at once, so that this test ends where it began.
    await say(handle, 'pause', 'dan');
    await say(handle, 'approve', 'cid');
    await reaches(handle, 'approve', 'done');
    expect(await refused(say(handle, 'approve', 'eve'))).toBe('nothing waits for approval');
    await say(handle, 'abort', 'dan');
    const result = await failureOf(handle);
    expect(result.outcome).toBe('aborted');
    expect(result.steps.find((step) => step.id === 'approve')?.summary).toBe('approved by bob, cid');
    await expectAsBefore();
  });

  it('that comes too late is a denial', async () => {
    const handle = await start({ planned: 1, expires: 1500 });
    const result = await failureOf(handle);
    expect(result.outcome).toBe('denied');
    expect(result.failure).toMatch(/expired/);
    await expectAsBefore();
  });
});

describe('going back', () => {
  it('abort takes the prepared secret away again', async () => {
    const handle = await start({ planned: 0 });
    // Held between the steps, so that it is known what was done: the secret is staged, writes are not refused.
    await expect.poll(() => statusOf(handle, 'stage-secret'), { timeout: 60_000, interval: 20 }).toMatch(/running|done/);
    await say(handle, 'pause', 'dan');
    await reaches(handle, 'stage-secret', 'done');
    expect(await stagedVersions()).toHaveLength(1);
    await say(handle, 'abort', 'dan');
    const result = await failureOf(handle);
    expect(result.steps.find((step) => step.id === 'stage-secret')?.outcome).toBe('undone');
    await expectAsBefore();
  });

  it('a run that stands while writes are refused lets them in again by itself', async () => {
    const handle = await start({ planned: 0 }, 'stalled');
    const result = await failureOf(handle);
    expect(result).toMatchObject({ outcome: 'failed', failure: 'writes were refused for longer than the deadline of 15000 ms before the point of no return' });
    expect(result.steps.find((step) => step.id === 'read-only')?.outcome).toBe('undone');
    expect(result.steps.find((step) => step.id === 'promote')?.outcome).toBe('not begun');
    await expectAsBefore();
  });

  it('cancellation before the point of no return lets writes in again', async () => {
    const handle = await start({ planned: 0 }, 'held');
    await reaches(handle, 'read-only', 'done');
    expect(await tryToWrite(pair, 'a')).not.toContain('application');
    await handle.cancel();
    const result = await failureOf(handle);
    expect(result).toMatchObject({ outcome: 'aborted', failure: 'the execution was cancelled' });
    expect(result.steps.find((step) => step.id === 'read-only')?.outcome).toBe('undone');
    expect(result.steps.find((step) => step.id === 'promote')?.outcome).toBe('not begun');
    await expectAsBefore();
  });
});
