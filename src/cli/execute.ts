import type { WorkflowType } from '../model/api.ts';
import type { Io } from './io.ts';

/**
 * Start one execution and, unless told otherwise, follow it to its end.
 * @returns its result, also when it ended badly with one; undefined when it was not waited for (--no-wait, Ctrl-C): then that was said.
 */
export async function execute<T>(io: Io, start: { type: WorkflowType; workflowId: string; input: unknown }, options: { wait: boolean }): Promise<T | undefined> {
  const { startExecution } = await import('../engine/executions.ts');
  const { config } = await io.context();
  const client = await io.temporal();
  const handle = await startExecution(client, config, start);
  const started = { workflowId: handle.workflowId, runId: handle.firstExecutionRunId };
  if (!options.wait) {
    io.result(started, () => `started ${started.workflowId} (run ${started.runId})\n  look at it: holdfast status ${started.workflowId} --watch`);
    return undefined;
  }
  io.note(`started ${started.workflowId} (run ${started.runId})`);
  const { follow } = await import('./follow.ts');
  try {
    const followed = await follow<T>(io, client, started.workflowId, started.runId);
    if (followed.ended) return followed.result;
  } catch (error) {
    const carried = await resultIn<T>(error);
    if (carried === undefined) throw error;
    return carried;
  }
  io.result({ ...started, ended: false }, () => `${started.workflowId} goes on`);
  return undefined;
}

/** A runbook that did not succeed fails its workflow, so that Temporal shows it as failed, and carries its result in the failure. */
async function resultIn<T>(error: unknown): Promise<T | undefined> {
  const { WorkflowFailedError } = await import('@temporalio/client');
  const { ApplicationFailure } = await import('@temporalio/common');
  if (!(error instanceof WorkflowFailedError) || !(error.cause instanceof ApplicationFailure)) return undefined;
  return error.cause.type?.startsWith('execution-') === true ? (error.cause.details?.[0] as T | undefined) : undefined;
}

/** For ids: sorts, and is the same in a file name. */
export function timeId(now: Date): string {
  return now.toISOString().replace(/\.\d+Z$/, 'Z');
}
