import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { expect } from 'vitest';
import { stringify } from 'yaml';
import type { Context } from '../src/systems/context.ts';
import type { ExecutionResult } from '../workflows/failover.ts';
import { mortalWorker, type Death } from './mortal.ts';
import { connectTemporal, failureOf, testDirectory, uniqueName } from './support.ts';

/** A step as in a runbook; title and narrative are filled in. */
export type ShortStep = { readonly id: string; readonly uses: string } & Readonly<Record<string, unknown>>;

/**
 * Runs these steps as a runbook and kills the worker at each of the moments, in order; the next worker goes on. Gives what came of
 * it, succeeded or not: what must hold afterwards (done once, undone once) is asked of the real system by the test.
 * A kill costs the 10 s after which the server misses a heartbeat: put several into one run.
 */
export async function surviveDeath(context: Context, steps: readonly ShortStep[], deaths: readonly Death[], input: Readonly<Record<string, unknown>> = {}): Promise<ExecutionResult> {
  const runbookDirectory = join(testDirectory('deaths'), 'runbooks');
  // With those that the configuration names.
  cpSync(context.runbookDirectory, runbookDirectory, { recursive: true });
  const runbook = uniqueName('deaths');
  writeFileSync(join(runbookDirectory, `${runbook}.yaml`), stringify({ name: runbook, title: 'Deaths', summary: 'A test.', steps: steps.map((step) => ({ title: step.id, narrative: 'A test.', ...step })) }));
  const of = { configPath: context.configPath, runbookDirectory };
  const client: Client = await connectTemporal(context);
  const workers = [await mortalWorker(of, deaths[0] ?? null)];
  try {
    await workers[0]!.go();
    const handle = await client.workflow.start('runbook', { taskQueue: context.config.temporal.taskQueue, workflowId: `runbook/${runbook}`, args: [{ runbook, reason: 'test', requestedBy: 'ann', ...input }] });
    const ended = handle.result().then((result) => `it ended first: ${JSON.stringify(result)}`, (error: unknown) => `it ended first: ${String((error as Error).cause ?? error)}`);
    for (const [index, death] of deaths.entries()) {
      const heir = await mortalWorker(of, deaths[index + 1] ?? null);
      workers.push(heir);
      expect({ at: death.at, signal: await Promise.race([workers[index]!.ended, ended]) }).toEqual({ at: death.at, signal: 'SIGKILL' });
      await heir.go();
    }
    return await (handle.result() as Promise<ExecutionResult>).catch(() => failureOf(handle));
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()));
    await client.connection.close();
  }
}
