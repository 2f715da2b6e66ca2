import type { Client } from '@temporalio/client';
import type { Workflow } from '@temporalio/common';
import { WorkflowNotFoundError, WorkflowUpdateFailedError, WithStartWorkflowOperation } from '@temporalio/client';
import { WORKFLOW_IDS } from '../model/api.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { MEMO, UPDATES, standing, type Acquired, type LockRequest, type LockState, type Released, type ReleaseRequest, type Run, type Seen, type Told } from '../model/lock.ts';

/** An Update is answered by a worker: all of them may be busy or just starting. */
const ANSWER_MS = 15_000;
/** A description is answered by the server alone. */
const LOOK_MS = 700;
const LOOK_ATTEMPTS = 3;

/** The lock of one datastore, as clients see it. */
export interface LockPlace {
  readonly client: Client;
  readonly environment: string;
  readonly datastore: string;
}

/**
 * Ask for the lock; its workflow is started when there is none. Asked again by the same run it gives the same hold.
 * @throws HoldfastError `lock-unanswered` (retryable).
 */
export async function acquireLock(place: LockPlace, taskQueue: string, request: LockRequest, attempt: string): Promise<Acquired> {
  const startWorkflowOperation = new WithStartWorkflowOperation('resourceLock', { workflowId: idOf(place), taskQueue, args: [{ datastore: place.datastore }], workflowIdConflictPolicy: 'USE_EXISTING' });
  return answered(place, () =>
    place.client.workflow.executeUpdateWithStart<Workflow, Acquired, [LockRequest]>(UPDATES.acquire, { args: [request], updateId: `acquire/${request.workflowId}/${request.runId}/${attempt}`, startWorkflowOperation }),
  );
}

/** @returns null when the lock's workflow does not run: there is nothing to release. */
export async function releaseLock(place: LockPlace, request: ReleaseRequest): Promise<Released | null> {
  try {
    return await answered(place, () => handleOf(place).executeUpdate<Released, [ReleaseRequest]>(UPDATES.release, { args: [request], updateId: `release/${request.workflowId}/${request.runId}` }));
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** A person's word to the lock. @throws HoldfastError `lock-refused` when it is refused, `lock-not-found`. */
export async function tellLock(place: LockPlace, what: 'takeAway' | 'acknowledge', request: { by: string; reason: string; from?: string | null }): Promise<string> {
  const told = await answered(place, () => handleOf(place).executeUpdate<Told, [typeof request]>(UPDATES[what], { args: [request] }));
  if (!told.ok) throw new HoldfastError('lock-refused', `refused: ${told.text}`, { next: told.next });
  return told.text;
}

/**
 * Who holds it, as the server knows it: no worker is asked. The memo of a running workflow is read from its own record, not from the search
 * index, so what a finished Update has changed is in it.
 * @returns null when nothing ever held it, or its workflow was ended by somebody.
 */
export async function readLock(place: LockPlace): Promise<LockState | null> {
  try {
    const description = await handleOf(place).describe();
    if (description.status.name !== 'RUNNING') return null;
    return (description.memo?.[MEMO] as LockState | undefined) ?? null;
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return null;
    throw error;
  }
}

/**
 * Before a change: does this run still hold the lock under this epoch? Costs one call of the server.
 * @throws HoldfastError `stale-epoch` when it certainly does not, `lock-unanswered` when nobody can say.
 */
export async function checkStanding(place: LockPlace, run: Run, epoch: number): Promise<void> {
  const state = await readSoon(place);
  if (state === null) {
    throw new HoldfastError('stale-epoch', `the lock of datastore ${place.datastore} is gone: nobody keeps ${idOf(place)} any more, so epoch ${epoch} of ${run.workflowId} counts for nothing`, {
      next: 'somebody ended that workflow; find out who, then start again',
    });
  }
  const now = standing(state, run, epoch);
  if (!now.held) throw new HoldfastError('stale-epoch', `nothing was changed: ${now.why}`, { next: 'see: holdfast locks; then start again' });
}

/**
 * Before something is taken back. An undo looks at what it finds (a fence carries its epoch) and reverts only what is its own, so it goes on when
 * nobody holds the lock, and when nobody answers: the writes that it lets in again may be refused since minutes.
 * @returns why it was not sure, or null.
 * @throws HoldfastError `lock-held` (retryable) while another run holds it: that one is to find what it was begun on.
 */
export async function checkUndo(place: LockPlace, run: Run, epoch: number): Promise<string | null> {
  let state: LockState | null;
  try {
    state = await readSoon(place);
  } catch (error) {
    return messageOf(error);
  }
  const now = state === null ? null : standing(state, run, epoch);
  if (now === null || now.held) return null;
  if (now.other === null) return now.why;
  throw new HoldfastError('lock-held', `not undone yet: ${now.why}`, { retryable: true, next: `it is tried again until ${now.other.workflowId} has released it` });
}

async function readSoon(place: LockPlace): Promise<LockState | null> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await place.client.withDeadline(Date.now() + LOOK_MS, () => readLock(place));
    } catch (error) {
      if (attempt === LOOK_ATTEMPTS) throw unanswered(place, error);
    }
  }
}

/** Whether workflows still run, as the server knows. */
export async function lookAtRuns(client: Client, runs: readonly Run[]): Promise<Seen[]> {
  return Promise.all(
    runs.map(async ({ workflowId, runId }): Promise<Seen> => {
      try {
        const { status, closeTime } = await client.workflow.getHandle(workflowId, runId).describe();
        return { workflowId, runId, running: status.name === 'RUNNING', how: status.name.toLowerCase().replaceAll('_', ' '), closedAtMs: closeTime?.getTime() ?? null };
      } catch (error) {
        if (!(error instanceof WorkflowNotFoundError)) throw error;
        return { workflowId, runId, running: false, how: 'gone', closedAtMs: null };
      }
    }),
  );
}

function idOf(place: LockPlace): string {
  return WORKFLOW_IDS.lock(place.environment, place.datastore);
}

function handleOf(place: LockPlace) {
  return place.client.workflow.getHandle(idOf(place));
}

function isMissing(error: unknown): boolean {
  return error instanceof HoldfastError && error.code === 'lock-not-found';
}

async function answered<T>(place: LockPlace, ask: () => Promise<T>): Promise<T> {
  try {
    return await place.client.withDeadline(Date.now() + ANSWER_MS, ask);
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) throw new HoldfastError('lock-not-found', `datastore ${place.datastore} was never locked: there is no ${idOf(place)}`, { next: 'see: holdfast locks', cause: error });
    if (error instanceof WorkflowUpdateFailedError) throw new HoldfastError('lock-refused', `refused: ${messageOf(error.cause ?? error)}`, { next: 'see: holdfast locks', cause: error });
    throw unanswered(place, error);
  }
}

function unanswered(place: LockPlace, error: unknown): HoldfastError {
  return new HoldfastError('lock-unanswered', `whether datastore ${place.datastore} is locked could not be found out: ${idOf(place)} did not answer: ${messageOf(error)}`, {
    retryable: true,
    next: 'check that Temporal and a worker run; a lock workflow that no worker can carry on (see its history) may be ended with `temporal workflow terminate`: the next run starts a new one, with a higher epoch',
    cause: error,
  });
}
