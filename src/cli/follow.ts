import { setTimeout as pause } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { queryProgress } from '../engine/executions.ts';
import { HoldfastError } from '../model/errors.ts';
import type { Progress } from '../model/execution.ts';
import type { Io } from './io.ts';
import { changedSteps, formatRtoClock } from './progress-view.ts';

const LOOK_EVERY_MS = 500;

export type Followed<T> = { readonly ended: true; readonly result: T } | { readonly ended: false };

/**
 * Print what changes until the execution ends. Ctrl-C stops looking, never the execution.
 * @throws WorkflowFailedError when it failed.
 */
export async function follow<T>(io: Io, client: Client, workflowId: string, runId: string): Promise<Followed<T>> {
  const handle = client.workflow.getHandle<() => Promise<T>>(workflowId, runId);
  const ended: Promise<{ value: T } | { error: unknown }> = handle.result().then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  let last: Progress | undefined;
  const show = async (): Promise<void> => {
    const now = await queryProgress(client, workflowId, runId);
    for (const line of changedSteps(last, now, Date.now())) io.note(line);
    last = now;
  };
  for (;;) {
    if (io.interrupted.aborted) {
      io.note(`no longer looking; ${workflowId} goes on. Look again: holdfast status ${workflowId} --watch; stop it: holdfast abort ${workflowId} --reason "..."`);
      return { ended: false };
    }
    try {
      await show();
    } catch (error) {
      // Not planned yet, or no worker for a moment: what matters is the end, which is awaited beside this.
      if (!(error instanceof HoldfastError)) throw error;
      if (error.code === 'no-worker') io.note(error.describe());
    }
    const result = await Promise.race([ended, pause(LOOK_EVERY_MS, undefined, { signal: io.interrupted }).catch(() => undefined)]);
    if (result === undefined) continue;
    await show().catch((error: unknown) => {
      if (!(error instanceof HoldfastError)) throw error;
    });
    if ('error' in result) throw result.error;
    if (last !== undefined) io.note(formatRtoClock(last, Date.now()));
    return { ended: true, result: result.value };
  }
}
