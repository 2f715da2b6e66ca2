import {
  allHandlersFinished,
  condition,
  defineUpdate,
  getExternalWorkflowHandle,
  log,
  makeContinueAsNewFunc,
  proxyActivities,
  setHandler,
  upsertMemo,
  workflowInfo,
} from '@temporalio/workflow';
import type { createLockActivities } from '../activities/lock.ts';
import type { Notice } from '../src/model/api.ts';
import * as lock from '../src/model/lock.ts';
import { causeText } from './input.ts';

const { lookAtRuns } = proxyActivities<Pick<ReturnType<typeof createLockActivities>, 'lookAtRuns'>>({ startToCloseTimeout: '30 seconds', scheduleToCloseTimeout: '2 minutes', retry: { maximumAttempts: 3 } });
const { notify } = proxyActivities<{ notify(notice: Notice): Promise<unknown> }>({ startToCloseTimeout: '1 minute', scheduleToCloseTimeout: '3 minutes', retry: { maximumAttempts: 3 } });

export const acquireUpdate = defineUpdate<lock.Acquired, [lock.LockRequest]>(lock.UPDATES.acquire);
export const releaseUpdate = defineUpdate<lock.Released, [lock.ReleaseRequest]>(lock.UPDATES.release);
export const takeAwayUpdate = defineUpdate<lock.Told, [{ by: string; reason: string; from: string | null }]>(lock.UPDATES.takeAway);
export const acknowledgeUpdate = defineUpdate<lock.Told, [{ by: string; reason: string }]>(lock.UPDATES.acknowledge);

/** A new run begins with a short history after so many events. */
const ROTATE_EVENTS = 1000;
/** A refused request has the holder looked at, but not more often than this. */
const LOOK_AGAIN_MS = 2000;

export interface ResourceLockInput {
  readonly datastore: string;
  /** From the run before. */
  readonly state?: lock.LockState;
}

/**
 * The lock of one datastore: runs for ever, one for each. All that it decides is decided by src/model/lock.ts, within one workflow task, so
 * nothing comes between; its memo says who holds it and is read by every changing step without a worker. It lives longer than
 * any deployment: whatever changes the order of its commands needs patched(), as in every workflow.
 */
export async function resourceLock(input: ResourceLockInput): Promise<never> {
  let state = input.state ?? lock.startLock(input.datastore);
  let shown = '';
  /** Grows with every change: what waits looks again. */
  let version = 0;
  let lookNow = false;
  let stopping = 0;

  function change(next: lock.LockState): void {
    state = next;
    version += 1;
    const memo = lock.memoOf(state);
    const text = JSON.stringify(memo);
    if (text === shown) return;
    shown = text;
    upsertMemo({ [lock.MEMO]: memo });
  }

  setHandler(acquireUpdate, (request) => {
    const { state: next, answer } = lock.acquire(state, request, Date.now());
    if (!answer.granted && Date.now() - (state.lookedAtMs ?? 0) > LOOK_AGAIN_MS) lookNow = true;
    change(next);
    return answer;
  });
  /** A handler that does what a rule decides. */
  function decide<Request, Answer>(rule: (state: lock.LockState, request: Request, nowMs: number) => { state: lock.LockState; answer: Answer }): (request: Request) => Answer {
    return (request) => {
      const { state: next, answer } = rule(state, request, Date.now());
      change(next);
      return answer;
    };
  }
  setHandler(releaseUpdate, decide(lock.release));
  setHandler(takeAwayUpdate, decide(lock.takeAway));
  setHandler(acknowledgeUpdate, decide(lock.acknowledge));

  async function stop(run: lock.Run): Promise<void> {
    stopping += 1;
    try {
      await getExternalWorkflowHandle(run.workflowId, run.runId).cancel();
    } catch (error) {
      log.info('what gave way had ended already', { workflowId: run.workflowId, error: causeText(error) });
    } finally {
      stopping -= 1;
      version += 1;
    }
  }

  async function look(): Promise<void> {
    lookNow = false;
    try {
      const seen = await lookAtRuns(lock.toLookAt(state));
      // Updates were answered meanwhile: the state of before the look would undo them.
      const { state: next, orphans } = lock.looked(state, seen, Date.now());
      change(next);
      for (const text of orphans) await notify({ level: 'attention', title: `The lock of ${state.datastore} is orphaned`, text, fields: { datastore: state.datastore, lock: workflowInfo().workflowId } });
    } catch (error) {
      log.warn('the holders could not be looked at', { error: causeText(error) });
      change({ ...state, lookedAtMs: Date.now() });
    }
  }

  change(state);
  for (;;) {
    for (const run of lock.toStop(state)) {
      change(lock.asked(state, run));
      void stop(run);
    }
    const due = lookNow ? 0 : lock.nextLookAtMs(state);
    if (due !== null && due <= Date.now()) {
      await look();
      continue;
    }
    const { historyLength, continueAsNewSuggested } = workflowInfo();
    if (stopping === 0 && (historyLength > ROTATE_EVENTS || continueAsNewSuggested)) {
      await condition(allHandlersFinished);
      await makeContinueAsNewFunc<typeof resourceLock>({ memo: { [lock.MEMO]: lock.memoOf(state) } })({ datastore: state.datastore, state });
    }
    const seen = version;
    if (due === null) await condition(() => version !== seen);
    else await condition(() => version !== seen, Math.max(1, due - Date.now()));
  }
}
