import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import type { Context } from '../../src/systems/context.ts';
import { secretsOfTest, startHoldfast } from '../cli/program.ts';
import { connectTemporal, testConfig, testDirectory, uniqueName } from '../support.ts';

let context: Context;
let client: Client;

beforeAll(async () => {
  const runbookDirectory = testDirectory('runbooks');
  const act = { id: 'act', title: 'Act', uses: 'rollout.command', narrative: 'Run it.', timeout: '10m', with: { argv: '${parameters.command}', timeout: '10m' } };
  writeFileSync(
    join(runbookDirectory, 'long.yaml'),
    stringify({ name: 'long', title: 'Long', summary: 'Runs long.', parameters: { command: { type: 'list', required: true, description: 'what to run' } }, steps: [act] }),
  );
  context = await testConfig({}, { runbookDirectory });
  client = await connectTemporal(context);
});
afterAll(() => client?.connection.close());

interface WorkerProcess {
  readonly log: () => string;
  readonly signal: (signal: NodeJS.Signals) => void;
  readonly said: (text: string) => Promise<void>;
  readonly exited: Promise<{ code: number | null }>;
}

async function startWorker(graceSeconds: number): Promise<WorkerProcess> {
  const { child, exited } = startHoldfast(['worker', '--config', context.configPath, '--runbooks', context.runbookDirectory, '--grace', String(graceSeconds)], { env: secretsOfTest() });
  let log = '';
  child.stderr!.on('data', (text: string) => (log += text));
  const worker: WorkerProcess = {
    log: () => log,
    signal: (signal) => child.kill(signal),
    said: (text) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (log.includes(text)) resolve();
        };
        child.stderr!.on('data', look);
        child.once('close', () => reject(new Error(`the worker ended without saying "${text}": ${log}`)));
        look();
      }),
    exited,
  };
  await worker.said('worker started');
  return worker;
}

/** Pids of processes with this argument; zombies have none. */
function processesWith(argument: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      return words[0] === 'sleep' && words.includes(argument);
    } catch {
      return false; // It ended meanwhile.
    }
  });
}

/** An execution whose one activity runs `sleep` with a number of its own, so that it can be found. */
async function startLong(): Promise<{ workflowId: string; argument: string }> {
  const argument = String(100_000 + Math.floor(Math.random() * 1e9));
  const workflowId = `runbook/${uniqueName('long')}`;
  await client.workflow.start('runbook', { taskQueue: context.config.temporal.taskQueue, workflowId, args: [{ runbook: 'long', parameters: { command: ['sleep', argument] }, reason: 'test', requestedBy: 'alice' }] });
  await expect.poll(() => processesWith(argument).length, { timeout: 30_000 }).toBe(1);
  return { workflowId, argument };
}

describe('a worker process', () => {
  test('SIGTERM: after the grace time its activities are cancelled, their children end, and it exits with 0', async () => {
    const worker = await startWorker(1);
    const { workflowId, argument } = await startLong();
    worker.signal('SIGTERM');
    expect(await worker.exited).toMatchObject({ code: 0 });
    expect(worker.log()).toContain('worker stopped');
    expect(processesWith(argument)).toEqual([]);
    await client.workflow.getHandle(workflowId).terminate('test over');
  });

  test('a second signal ends it at once, and its children with it', async () => {
    const worker = await startWorker(600);
    const { workflowId, argument } = await startLong();
    worker.signal('SIGTERM');
    await worker.said('stopping');
    expect(processesWith(argument)).toHaveLength(1);
    worker.signal('SIGINT');
    expect(await worker.exited).toMatchObject({ code: 130 });
    await expect.poll(() => processesWith(argument), { timeout: 10_000 }).toEqual([]);
    await client.workflow.getHandle(workflowId).terminate('test over');
  });

  test('SIGKILL leaves no child behind, and another worker takes the execution up', async () => {
    const worker = await startWorker(1);
    const { workflowId, argument } = await startLong();
    worker.signal('SIGKILL');
    await worker.exited;
    await expect.poll(() => processesWith(argument), { timeout: 10_000 }).toEqual([]);
    const second = await startWorker(1);
    try {
      // Nobody knows what the command did: the missing heartbeat is no failure but an unknown outcome, and the run goes back.
      await expect(client.workflow.getHandle(workflowId).result()).rejects.toThrow('Workflow execution failed');
      expect(await client.workflow.getHandle(workflowId).query('progress')).toMatchObject({ state: { final: 'failed', steps: [{ id: 'act', outcome: 'unknown', attempt: 1 }] } });
    } finally {
      second.signal('SIGTERM');
      await second.exited;
    }
    expect(processesWith(argument)).toEqual([]);
  });
});
