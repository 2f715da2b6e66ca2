import { writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { resolve } from 'node:path';
import { type Client } from '@temporalio/client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { resultIn } from '../../src/engine/executions.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory } from '../support.ts';
import { faultReport, figures, machine, timeDisagreement, type Machine, type Round } from './report.ts';

/** `npm test` runs a few rounds, `npm run test:fault` as many as a distribution needs, and writes docs/fault-report.md. */
const LONG = process.env['HOLDFAST_TEST_ROUNDS'] === 'long';
const PLANNED = Number(process.env['HOLDFAST_FAULT_PLANNED'] ?? (LONG ? 100 : 2));
const FORCED = Number(process.env['HOLDFAST_FAULT_FORCED'] ?? (LONG ? 30 : 2));
const REPORT = process.env['HOLDFAST_FAULT_REPORT'] ?? (LONG ? 'docs/fault-report.md' : undefined);
/** A run that fails again and again has nothing more to tell. */
const MOST_FAILURES = 3;

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let about: Machine;
const startedAt = new Date().toISOString();
const rounds: Round[] = [];

beforeAll(async () => {
  about = machine(`${Object.entries(process.env).filter(([name]) => name.startsWith('HOLDFAST_FAULT_')).map(([name, value]) => `${name}=${value} `).join('')}npm run test:fault`);
  processes = createProcesses({ directory: testDirectory('fault') });
  pair = await databasePair(processes);
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
  // Also of a run that failed: what it found is what people want to see.
  if (REPORT !== undefined && rounds.length > 0) {
    const path = resolve(import.meta.dirname, '../..', REPORT);
    writeFileSync(path, faultReport(rounds, { planned: PLANNED, forced: FORCED }, about, { startedAt, endedAt: new Date().toISOString(), loadAtEnd: loadavg()[0]! }));
    console.log(`${rounds.length} rounds: ${path}`);
  }
});

function execute(type: string, input: Record<string, unknown>): Promise<ExecutionResult> {
  const taskQueue = pair.context.config.temporal.taskQueue;
  return client.workflow.execute(type, { taskQueue, workflowId: `${type}/${pair.service}-${taskQueue}`, args: [{ service: pair.service, requestedBy: 'tester', reason: 'fault test', ...input }] });
}

/** The result of an execution that may have failed. */
async function outcomeOf(running: Promise<ExecutionResult>): Promise<ExecutionResult> {
  try {
    return await running;
  } catch (error) {
    const result = resultIn(error);
    if (result !== undefined) return result;
    throw error;
  }
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))?.measured ?? null;
}

/** What must hold whatever happened: one node takes writes, applications are told of it, the other refuses everybody. */
async function wrongEnds(primary: 'a' | 'b'): Promise<string[]> {
  const old = primary === 'a' ? 'b' : 'a';
  const wrong: string[] = [];
  const writable = await tryToWrite(pair, primary);
  if (writable.join() !== 'application,superuser') wrong.push(`${primary} is to be the primary and takes writes of: ${writable.join(', ') || 'nobody'}`);
  const twice = await tryToWrite(pair, old);
  if (twice.length > 0) wrong.push(`${old} takes writes too: ${twice.join(', ')}`);
  const [points, record, labels] = await Promise.all([pair.pointsTo(), pair.record(), pair.secretLabels()]);
  if (points !== primary) wrong.push(`the secret points to ${points}`);
  if (record !== (primary === 'a' ? '127.0.0.1' : '127.0.0.2')) wrong.push(`DNS says ${record}`);
  if (labels.current.length !== 1 || labels.staged.length > 0) wrong.push(`the secret has ${labels.current.length} current and ${labels.staged.length} staged version(s)`);
  return wrong;
}

interface Tally {
  readonly acknowledged: number;
  readonly refused: number;
  readonly unanswered: number;
}

function tally(writer: ApplicationWriter): Tally {
  return { acknowledged: writer.acknowledged.length, refused: writer.refused, unanswered: writer.unanswered.length };
}

async function lossesSince(writer: ApplicationWriter, before: Tally, node: 'a' | 'b', sinceMs: number): Promise<NonNullable<Round['writer']>> {
  const now = tally(writer);
  const lost = await writer.missingOn(node, writer.acknowledged.slice(before.acknowledged, now.acknowledged));
  return { acknowledged: now.acknowledged - before.acknowledged, refused: now.refused - before.refused, unanswered: now.unanswered - before.unanswered, lost: lost.length, longestGapMs: writer.longestGapMs(sinceMs) };
}

/** Waits for an acknowledgement from now on. One that does not come shows in the figures and at the end. */
async function writesAgain(writer: ApplicationWriter): Promise<void> {
  const [from, until] = [writer.acknowledged.length, Date.now() + 20_000];
  while (writer.acknowledged.length === from && Date.now() < until) {
    await new Promise((done) => {
      setTimeout(done, 5);
    });
  }
}

function record(round: Round): void {
  rounds.push(round);
  if (round.outcome !== 'succeeded' || round.wrong.length > 0 || round.disagreements.length > 0) console.log(`${round.mode} ${round.number}: ${round.outcome}; ${[...round.wrong, ...round.disagreements].join('; ')}`);
}

function failed(mode: Round['mode']): Round[] {
  return rounds.filter((round) => round.mode === mode && round.outcome !== 'succeeded');
}

function expectGood(mode: Round['mode'], count: number): void {
  const of = rounds.filter((round) => round.mode === mode);
  expect(of.flatMap((round) => [...(round.outcome === 'succeeded' ? [] : [`${round.number}: ${round.outcome}`]), ...round.wrong, ...round.disagreements])).toEqual([]);
  expect(of).toHaveLength(count);
}

function told(name: string, values: readonly (number | null | undefined)[]): string {
  const all = figures(values.filter((value): value is number => typeof value === 'number'));
  return all === null ? `${name}: none` : `${name} min ${all.min}, median ${all.median}, p95 ${all.p95}, max ${all.max}`;
}

it(`${PLANNED} planned failovers under writes lose nothing`, async () => {
  const writer = new ApplicationWriter(pair);
  try {
    for (let number = 1; number <= PLANNED && failed('planned').length < MOST_FAILURES; number += 1) {
      const from = await pair.pointsTo();
      const to = from === 'a' ? 'b' : 'a';
      const before = tally(writer);
      const sinceMs = Date.now();
      const result = await outcomeOf(execute('failover', { mode: 'planned', ...(number === 1 ? {} : { purpose: 'failback', parameters: { node: to } }) }));
      // The gap has ended when the writer writes again.
      await writesAgain(writer);
      const end = result.outcome === 'succeeded' ? to : from;
      const wrong = await wrongEnds(end);
      const mine = await lossesSince(writer, before, end, sinceMs);
      const [window, lost] = [measured(result, 'refused-write window'), measured(result, 'acknowledged writes lost')];
      const disagreements = result.outcome !== 'succeeded' ? [] : [lost === mine.lost ? null : `lost writes: the engine counted ${lost}, the writer ${mine.lost}`, timeDisagreement('refused writes', window, mine.longestGapMs)].filter((text) => text !== null);
      if (mine.lost > 0) wrong.push(`${mine.lost} acknowledged writes are lost`);
      record({ mode: 'planned', number, from, to, outcome: result.outcome === 'succeeded' ? 'succeeded' : `${result.outcome}: ${result.failure}`, rtoMs: measured(result, 'RTO'), refusedWindowMs: window, promotionMs: measured(result, 'promotion'), lost, writer: mine, disagreements, wrong });
    }
  } finally {
    await writer.stop();
  }
  // All of them once more: none of an early round was lost by a later one.
  expect(await writer.lostOn(await pair.pointsTo())).toEqual([]);
  expectGood('planned', PLANNED);
  console.log(`${PLANNED} planned: ${writer.acknowledged.length} acknowledged writes, 0 lost; ${told('refused-write window ms:', rounds.map((round) => (round.mode === 'planned' ? round.refusedWindowMs : null)))}`);
}, PLANNED * 60_000 + 60_000);

it(`${FORCED} forced failovers after SIGKILL: every lost write is counted, no old primary comes back writable`, async () => {
  for (let number = 1; number <= FORCED && failed('forced').length < MOST_FAILURES; number += 1) {
    const from = await pair.pointsTo();
    const to = from === 'a' ? 'b' : 'a';
    const rebuilt = await outcomeOf(execute('runbook', { runbook: 'standby-rebuild', parameters: { node: to } }));
    if (rebuilt.outcome !== 'succeeded') {
      record({ mode: 'forced', number, from, to, outcome: `the standby could not be rebuilt: ${rebuilt.failure}`, rtoMs: null, refusedWindowMs: null, promotionMs: null, lost: null, writer: null, disagreements: [], wrong: await wrongEnds(from) });
      continue;
    }
    const writer = new ApplicationWriter(pair, 1_000_000_000 + number * 1_000_000);
    try {
      await expect.poll(() => writer.acknowledged.length, { timeout: 30_000, interval: 5 }).toBeGreaterThan(100);
      const none: Tally = { acknowledged: 0, refused: 0, unanswered: 0 };
      const sinceMs = Date.now();
      await pair.servers[from].kill();
      const result = await outcomeOf(execute('failover', { mode: 'forced' }));
      const good = result.outcome === 'succeeded';
      if (good) await writesAgain(writer);
      await writer.stop();
      // Before it is looked at: started again by somebody who knows of nothing, it takes no write.
      await pair.servers[from].start();
      const end = good ? to : from;
      const wrong = await wrongEnds(end);
      const mine = await lossesSince(writer, none, end, sinceMs);
      // A write that was committed and whose answer died with the server is in its WAL, and was never acknowledged.
      const unacknowledged = (await writer.missingOn(end, writer.unanswered)).length;
      const [rto, lost] = [measured(result, 'RTO'), measured(result, 'acknowledged writes lost')];
      const disagreements = !good ? [] : [
        lost !== null && lost >= mine.lost && lost <= mine.lost + unacknowledged ? null : `lost writes: the engine counted ${lost ?? 'nothing'}, the writer ${mine.lost} and ${unacknowledged} without an answer`,
        timeDisagreement('RTO', rto, mine.longestGapMs),
      ].filter((text) => text !== null);
      record({ mode: 'forced', number, from, to, outcome: good ? 'succeeded' : `${result.outcome}: ${result.failure}`, rtoMs: rto, refusedWindowMs: null, promotionMs: measured(result, 'promotion'), lost, writer: mine, disagreements, wrong });
    } finally {
      await writer.stop();
    }
  }
  expectGood('forced', FORCED);
  // What came after each failover is on the node that is the primary now.
  expect((await queryOnce(pair.servers[await pair.pointsTo()].connectionString('shop'), 'select count(*)::int as rows from orders'))[0]).not.toEqual({ rows: 0 });
  const of = rounds.filter((round) => round.mode === 'forced');
  console.log(`${FORCED} forced: ${of.reduce((sum, round) => sum + (round.writer?.acknowledged ?? 0), 0)} acknowledged writes; ${told('lost a round:', of.map((round) => round.writer?.lost))}; ${told('RTO ms:', of.map((round) => round.rtoMs))}`);
}, FORCED * 120_000 + 60_000);
