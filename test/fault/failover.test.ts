import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, runningWorker, testDirectory } from '../support.ts';

/** `npm test` runs a few rounds, `npm run test:fault` as many as a distribution needs. */
const LONG = process.env['HOLDFAST_TEST_ROUNDS'] === 'long';
const PLANNED = LONG ? 100 : 2;
const FORCED = LONG ? 30 : 2;

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };

beforeAll(async () => {
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
});

function execute(type: string, input: Record<string, unknown>): Promise<ExecutionResult> {
  const taskQueue = pair.context.config.temporal.taskQueue;
  return client.workflow.execute(type, { taskQueue, workflowId: `${type}/${pair.service}-${taskQueue}`, args: [input] });
}

function distribution(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;
  return `min ${sorted[0]}, median ${at(0.5)}, p90 ${at(0.9)}, max ${sorted.at(-1)}`;
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))!.measured;
}

it(`${PLANNED} planned failovers under writes lose nothing`, async () => {
  const writer = new ApplicationWriter(pair);
  const windows: number[] = [];
  for (let round = 0; round < PLANNED; round += 1) {
    const primary = await pair.pointsTo();
    const next = primary === 'a' ? 'b' : 'a';
    const result = await execute('failover', { service: pair.service, mode: 'planned', reason: 'fault test', requestedBy: 'tester', ...(round === 0 ? {} : { purpose: 'failback', parameters: { node: next } }) });
    expect(await pair.pointsTo()).toBe(next);
    expect(measured(result, 'acknowledged writes lost')).toBe(0);
    windows.push(measured(result, 'refused-write window')!);
    expect(await tryToWrite(pair, primary)).toEqual([]);
  }
  await writer.stop();
  expect(await writer.lostOn(await pair.pointsTo())).toEqual([]);
  console.log(`${PLANNED} planned: ${writer.acknowledged.length} acknowledged writes, 0 lost; refused-write window ms: ${distribution(windows)}`);
}, PLANNED * 60_000);

it(`${FORCED} forced failovers after SIGKILL: every lost write is counted, no old primary comes back writable`, async () => {
  const rto: number[] = [];
  const lostEach: number[] = [];
  let acknowledged = 0;
  for (let round = 0; round < FORCED; round += 1) {
    const old = await pair.pointsTo();
    const next = old === 'a' ? 'b' : 'a';
    await execute('runbook', { runbook: 'standby-rebuild', service: pair.service, parameters: { node: next } });
    const writer = new ApplicationWriter(pair, 1_000_000_000 + round * 1_000_000);
    while (writer.acknowledged.length < 100) {
      await new Promise((resolve) => {
        setTimeout(resolve, 5);
      });
    }
    await pair.servers[old].kill();
    const result = await execute('failover', { service: pair.service, mode: 'forced', reason: 'killed', requestedBy: 'tester' });
    await writer.stop();
    const lost = await writer.lostOn(next);
    const counted = measured(result, 'acknowledged writes lost');
    expect(result.steps.find((step) => step.id === 'count-loss')!.summary).toMatch(/^\d+ transaction/);
    expect(counted).not.toBeNull();
    expect(counted!).toBeGreaterThanOrEqual(lost.length);
    await pair.servers[old].start();
    expect(await tryToWrite(pair, old)).toEqual([]);
    acknowledged += writer.acknowledged.length;
    lostEach.push(lost.length);
    rto.push(measured(result, 'RTO')!);
  }
  console.log(`${FORCED} forced: ${acknowledged} acknowledged writes; lost a round: ${distribution(lostEach)}; RTO ms: ${distribution(rto)}`);
}, FORCED * 120_000);
