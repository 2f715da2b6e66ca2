import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ApplicationFailure, WorkflowFailedError, type Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { findTool } from '../../src/local/tools.ts';
import type { Progress } from '../../src/model/execution.ts';
import { originOf } from '../../src/model/failback.ts';
import { verifyEvidenceFolder } from '../../src/systems/evidence-folder.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { runHere, type ProgramExit } from '../cli/program.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';

const service = uniqueName('orders');
const workflowId = `failover/${service}`;
let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let taskQueue: string;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('failback') });
  pair = await databasePair(processes, {
    services: {
      [service]: {
        objectives: { rto: '15m', rpo: '1m', refusedWrites: '30s', lostWrites: 0 },
        datastores: ['shop'],
        // Nothing is backed up here, and one switch follows the other.
        cooldown: '0s',
        gate: { planned: [] },
        runbooks: { failover: 'database-failover', failback: 'database-failback' },
        parameters: { recentQuery: 'select max(id) as newest from orders' },
        // The failover is one person's decision here, the way back is not.
        approval: { planned: 0, forced: 0, failback: 1 },
      },
    },
  });
  await queryOnce(pair.servers.a.connectionString('shop'), 'insert into orders (id) values (-2)');
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

function holdfast(...args: string[]): Promise<ProgramExit> {
  return runHere([...args, '--config', pair.context.configPath, '--runbooks', pair.context.runbookDirectory, '--by', 'ann']);
}

function failover(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  return client.workflow.execute('failover', { taskQueue, workflowId, args: [{ service, mode: 'planned', reason: 'test', requestedBy: 'ann', ...more }] });
}

/** Why the execution did not succeed. */
async function refused(more: Record<string, unknown>): Promise<{ message: string; result: ExecutionResult | undefined }> {
  try {
    await failover(more);
  } catch (error) {
    if (!(error instanceof WorkflowFailedError)) throw error;
    let cause: Error = error;
    while (cause.cause instanceof Error) cause = cause.cause;
    return { message: cause.message, result: cause instanceof ApplicationFailure ? (cause.details?.[0] as ExecutionResult | undefined) : undefined };
  }
  throw new Error('it succeeded, a refusal was expected');
}

/** Approves as another person whenever it is asked for, until the execution ends. Gives the steps that were approved. */
async function approving(): Promise<{ result: ExecutionResult; approved: string[] }> {
  const handle = client.workflow.getHandle(workflowId);
  const approved: string[] = [];
  const result = handle.result() as Promise<ExecutionResult>;
  const ended = result.then(() => true, () => true);
  const later = (): Promise<false> => new Promise((resolve) => {
    setTimeout(() => resolve(false), 20);
  });
  while (!(await Promise.race([ended, later()]))) {
    const { approval } = await handle.query<Progress>('progress');
    if (approval != null && approval.given.length === 0) {
      approved.push(approval.step);
      await handle.executeUpdate('approve', { args: [{ by: 'bob', reason: 'seen', plan: approval.plan, observed: approval.observed }] });
    }
  }
  return { result: await result, approved };
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))!.measured;
}

const summaryOf = (result: ExecutionResult, step: string): string => result.steps.find(({ id }) => id === step)?.summary ?? 'no such step';
const documentOf = (result: ExecutionResult): string => result.failback!.document!;

let first: ExecutionResult;

describe('a planned failover and its generated way back', () => {
  it('returns with its own approval and figures, and loses no acknowledged write', async () => {
    const writer = new ApplicationWriter(pair);
    first = await failover();
    expect(first).toMatchObject({ outcome: 'succeeded', candidate: 'b', failback: { reason: null, cautions: [] } });
    expect(originOf(documentOf(first))).toMatchObject({ service, purpose: 'failback', workflowId, primary: 'b', returnsTo: 'a', planHash: first.planHash });

    const printed = await holdfast('failback', service, '--print');
    expect(printed).toMatchObject({ code: 0, out: documentOf(first) });
    expect(await holdfast('failback', service)).toMatchObject({ code: 2, err: expect.stringContaining('needs a reason') });
    // What can be asked now, without touching the fenced node.
    expect(await holdfast('failback', service, '--reason', 'look', '--dry-run')).toMatchObject({ code: 0, out: expect.stringMatching(/checked \(generated-failback, planned/) });

    const started = await holdfast('failback', service, '--reason', 'a is mended', '--no-wait');
    expect(started).toMatchObject({ code: 0, err: expect.stringContaining('failback from b to a') });
    // While it runs, what it will change is not known.
    expect(await holdfast('failback', service, '--reason', 'again')).toMatchObject({ code: 4, err: expect.stringContaining('is running') });
    const { result, approved } = await approving();
    const until = writer.acknowledged.length;
    await expect.poll(() => writer.acknowledged.length).toBeGreaterThan(until + 20);
    await writer.stop();

    expect(result).toMatchObject({ outcome: 'succeeded', runbook: 'generated-failback', primary: 'b', candidate: 'a', objectivesMet: true, missed: [] });
    expect(approved).toEqual(['approve']);
    expect(summaryOf(result, 'rebuild')).toMatch(/rebuilt by pg_rewind/);
    expect([await pair.pointsTo(), await pair.record()]).toEqual(['a', '127.0.0.1']);
    expect(await tryToWrite(pair, 'b')).toEqual([]);
    expect(writer.acknowledged.length).toBeGreaterThan(50);
    expect(await writer.lostOn('a')).toEqual([]);

    expect(measured(result, 'acknowledged writes lost')).toBe(0);
    expect(measured(result, 'refused-write window')).toBeGreaterThan(0);
    expect(measured(result, 'RTO: standby rebuilt to first good write')).toBeGreaterThan(0);
    expect(measured(result, 'rebuild')).toBeGreaterThan(0);
    expect(result.measurements).not.toEqual(first.measurements);
    console.log(`failback: ${writer.acknowledged.length} acknowledged, 0 lost; refused ${measured(result, 'refused-write window')} ms, rebuilt in ${measured(result, 'rebuild')} ms`);
  });

  it('its evidence carries the document and notices a changed byte of it', async () => {
    const file = join(first.evidence!, 'failback.yaml');
    expect(readFileSync(file, 'utf8')).toBe(documentOf(first));
    expect(await verifyEvidenceFolder(first.evidence!)).toMatchObject({ ok: true, problems: [] });
    writeFileSync(file, documentOf(first).replace('node: a', 'node: b'));
    expect(await verifyEvidenceFolder(first.evidence!)).toMatchObject({ ok: false, problems: [expect.stringMatching(/failback\.yaml was changed/)] });
    expect(await holdfast('failback', service, '--from', first.evidence!, '--print')).toMatchObject({ code: 4, err: expect.stringContaining('is not what was written') });
    rmSync(file);
    expect((await verifyEvidenceFolder(first.evidence!)).problems).toEqual([expect.stringMatching(/failback\.yaml is missing/)]);
    writeFileSync(file, documentOf(first));
    expect(await verifyEvidenceFolder(first.evidence!)).toMatchObject({ ok: true });
  });

  it('its evidence says failback, and from which document it ran', async () => {
    const last = await client.workflow.getHandle(workflowId).result() as ExecutionResult;
    const { report } = await verifyEvidenceFolder(last.evidence!);
    expect(report!.header).toMatchObject({ kind: 'failback', planHash: last.planHash });
    expect(report!.facts.find(({ kind }) => kind === 'given document')!.data).toMatchObject({ origin: { returnsTo: 'a', planHash: first.planHash } });
  });

  it('is refused once it is no longer about the present: by the command line, and by the guards', async () => {
    expect(await holdfast('failback', service, '--reason', 'twice')).toMatchObject({ code: 4, err: expect.stringMatching(/was a failback[\s\S]*--forth/) });
    const stale = await holdfast('failback', service, '--reason', 'x', '--from', first.evidence!);
    expect(stale).toMatchObject({ code: 4, err: expect.stringMatching(/is not the last that promoted a node of .* \(b -> a\)/) });
    const run = originOf(documentOf(first))!.runId;
    expect(await holdfast('failback', service, '--reason', 'x', '--run', run)).toMatchObject({ code: 4, err: expect.stringContaining('is not the last') });

    const { message, result } = await refused({ purpose: 'failback', document: documentOf(first) });
    expect(message).toMatch(/refused before the first change: .*secret points to the primary: expected b, found .*\(a\)/s);
    expect(result!.steps.every(({ outcome }) => outcome !== 'changed')).toBe(true);
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  });

  it.each([
    ['an unknown step kind', (text: string) => text.replace('uses: postgres.promote', 'uses: postgres.promot'), /document:\d+ steps\[\d+\]\.uses: there is no step kind/],
    ['no YAML', () => 'name: [', /1 error\(s\) in the document[\s\S]*document:\d+ \(syntax\)/],
    ['for another service', (text: string) => text.replaceAll(service, 'billing'), /generated for the failback of billing, not for the failback of/],
    ['too much', (text: string) => `${text}#${'x'.repeat(300_000)}`, /document: at most 262144 characters/],
    ['masked', (text: string) => text.replace('10s', '[redacted]'), /was masked/],
  ])('a document with %s is refused by name', async (_, change, why) => {
    expect((await refused({ purpose: 'failback', document: change(documentOf(first)) })).message).toMatch(why);
  });

  it('a document is for failover and failback only, and a generated one for what it was generated for', async () => {
    expect((await refused({ purpose: 'cleanup', document: documentOf(first) })).message).toMatch(/for the purpose "cleanup"/);
    expect((await refused({ document: documentOf(first) })).message).toMatch(/generated for the failback of .*, not for the failover/);
  });
});

describe('a forced failover whose primary was killed', () => {
  it('generates a way back that rebuilds it by pg_rewind and switches back', async () => {
    // b is fenced since the failback above.
    await client.workflow.execute('runbook', { taskQueue, workflowId: `runbook/${service}`, args: [{ runbook: 'standby-rebuild', service, parameters: { node: 'b' } }] });
    const writer = new ApplicationWriter(pair, 10_000_000);
    await expect.poll(() => writer.acknowledged.length, { interval: 5 }).toBeGreaterThan(100);
    // What it acknowledges from now on it can no longer send.
    const [sender] = await queryOnce<{ pid: number }>(pair.servers.a.connectionString(), 'select pid from pg_stat_replication');
    process.kill(sender!.pid, 'SIGSTOP');
    const sent = writer.acknowledged.length;
    await expect.poll(() => writer.acknowledged.length, { interval: 5 }).toBeGreaterThan(sent + 20);
    await pair.servers.a.kill();
    const forced = await failover({ mode: 'forced', reason: 'killed' });
    expect(forced).toMatchObject({ outcome: 'succeeded', candidate: 'b' });
    await writer.stop();
    expect(measured(forced, 'acknowledged writes lost')).toBeGreaterThanOrEqual(20);
    const forcedDocument = documentOf(forced);
    expect(forcedDocument).toMatch(/server stopped and standby\.signal and pg_hba\.conf left on its host/);
    const kept = new ApplicationWriter(pair, 20_000_000);
    expect(await holdfast('failback', service, '--reason', 'a is mended', '--no-wait', '--run', originOf(forcedDocument)!.runId)).toMatchObject({ code: 0 });
    const { result, approved } = await approving();
    await expect.poll(() => kept.acknowledged.length).toBeGreaterThan(50);
    await kept.stop();
    // Whoever discards the only copy of lost transactions is asked for it.
    expect(approved).toEqual(['approve-discard', 'approve']);
    expect(result).toMatchObject({ outcome: 'succeeded', objectivesMet: true });
    expect(summaryOf(result, 'rebuild')).toMatch(/rebuilt by pg_rewind/);
    expect(await pair.pointsTo()).toBe('a');
    expect(await kept.lostOn('a')).toEqual([]);
    expect(await tryToWrite(pair, 'b')).toEqual([]);
  });
});

describe('an old primary that cannot be rewound', () => {
  it('whose data directory is gone gets a base backup; started with plain JSON by Temporal’s own command line', async () => {
    await client.workflow.execute('runbook', { taskQueue, workflowId: `runbook/${service}`, args: [{ runbook: 'standby-rebuild', service, parameters: { node: 'b' } }] });
    const switched = await failover();
    expect(switched.outcome).toBe('succeeded');
    expect(pair.servers.a.running()).toBe(false);
    rmSync(pair.servers.a.dataDirectory, { recursive: true });

    const writer = new ApplicationWriter(pair, 30_000_000);
    const file = join(testDirectory('document'), 'input.json');
    writeFileSync(file, JSON.stringify({ service, mode: 'planned', purpose: 'failback', reason: 'new disk', requestedBy: 'ann', document: readFileSync(join(switched.evidence!, 'failback.yaml'), 'utf8') }));
    await promisify(execFile)(findTool('temporal'), ['workflow', 'start', '--address', pair.context.config.temporal.address, '--type', 'failover', '--workflow-id', workflowId, '--task-queue', taskQueue, '--input-file', file]);
    const { result } = await approving();
    await expect.poll(() => writer.acknowledged.length).toBeGreaterThan(50);
    await writer.stop();
    expect(result).toMatchObject({ outcome: 'succeeded', objectivesMet: true });
    expect(summaryOf(result, 'rebuild')).toMatch(/rebuilt by base backup/);
    expect(result.measurements.find(({ name }) => name.startsWith('rebuild'))).toMatchObject({ note: 'by base backup' });
    expect(await pair.pointsTo()).toBe('a');
    expect(await writer.lostOn('a')).toEqual([]);
  });

  it('the way forth again is a failover, by the document of the failback', async () => {
    expect(await holdfast('failback', service, '--reason', 'forth', '--forth', '--no-wait')).toMatchObject({ code: 0, err: expect.stringContaining('failover from a to b') });
    const { result, approved } = await approving();
    // A failover is one person's decision here.
    expect(approved).toEqual([]);
    expect(result).toMatchObject({ outcome: 'succeeded', runbook: 'generated-failover', primary: 'a', candidate: 'b' });
    expect(originOf(documentOf(result))).toMatchObject({ purpose: 'failback', primary: 'b', returnsTo: 'a' });
    expect(await pair.pointsTo()).toBe('b');
  });

  it('whose WAL is gone gets a base backup as well', async () => {
    for (const file of readdirSync(join(pair.servers.a.dataDirectory, 'pg_wal'))) if (/^[0-9A-F]{24}$/.test(file)) rmSync(join(pair.servers.a.dataDirectory, 'pg_wal', file));
    expect(await holdfast('failback', service, '--reason', 'back', '--no-wait')).toMatchObject({ code: 0 });
    const { result } = await approving();
    expect(summaryOf(result, 'rebuild')).toMatch(/rebuilt by base backup/);
    expect(result).toMatchObject({ outcome: 'succeeded', runbook: 'generated-failback', objectivesMet: true });
    expect(await pair.pointsTo()).toBe('a');
    expect(await tryToWrite(pair, 'b')).toEqual([]);
  });
});

describe('a failover that left no result', () => {
  it('is not taken for none: after a promotion was asked for, nothing older is returned from', async () => {
    const last = (await client.workflow.getHandle(workflowId).result()) as ExecutionResult;
    const handle = await client.workflow.start('failover', { taskQueue, workflowId, args: [{ service, mode: 'planned', purpose: 'failover', reason: 'forth', requestedBy: 'ann', document: documentOf(last) }] });
    await expect.poll(async () => (await handle.query<Progress>('progress')).state?.pastPointOfNoReturn, { interval: 20, timeout: 60_000 }).toBe(true);
    await handle.terminate('by mistake');
    expect(await holdfast('failback', service, '--reason', 'x', '--forth')).toMatchObject({ code: 4, err: expect.stringMatching(/ended as TERMINATED after it had asked for a promotion[\s\S]*by hand/) });
    expect(await holdfast('failback', service, '--reason', 'x', '--forth', '--from', last.evidence!)).toMatchObject({ code: 4 });
    expect(await holdfast('failback', service, '--print', '--from', last.evidence!)).toMatchObject({ code: 0, out: documentOf(last), err: expect.stringMatching(/is not known: .*TERMINATED/) });
  });
});
