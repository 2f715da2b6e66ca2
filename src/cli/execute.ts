import type { WorkflowType } from '../model/api.ts';
import type { Io } from './io.ts';

/**
 * Start one execution and, unless told otherwise, follow it to its end.
 * @returns its result, or undefined when it was not waited for (--no-wait, Ctrl-C): then that was said.
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
  const followed = await follow<T>(io, client, started.workflowId, started.runId);
  if (followed.ended) return followed.result;
  io.result({ ...started, ended: false }, () => `${started.workflowId} goes on`);
  return undefined;
}

/** For ids: sorts, and is the same in a file name. */
export function timeId(now: Date): string {
  return now.toISOString().replace(/\.\d+Z$/, 'Z');
}
