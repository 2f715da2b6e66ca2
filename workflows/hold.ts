import { ApplicationFailure, CancellationScope, log, patched, proxyActivities, sleep, workflowInfo } from '@temporalio/workflow';
import type { createLockActivities, LockWish } from '../activities/lock.ts';
import type { CheckResult } from '../src/model/api.ts';
import type { Plan } from '../src/model/execution.ts';
import { heedsCooldown, lockedDatastores, type Released } from '../src/model/lock.ts';
import type { Override } from '../src/model/rules.ts';
import { causeText } from './input.ts';

type LockActivities = ReturnType<typeof createLockActivities>;

const { acquireLocks, checkLocks } = proxyActivities<Pick<LockActivities, 'acquireLocks' | 'checkLocks'>>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '3 minutes',
  heartbeatTimeout: '10 seconds',
  retry: { initialInterval: 200, maximumInterval: '5 seconds' },
});
/** What was held is not freed by time: it is tried for long. */
const { releaseLocks } = proxyActivities<Pick<LockActivities, 'releaseLocks'>>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '1 hour',
  retry: { initialInterval: 200, maximumInterval: '30 seconds' },
});

/** A backup or a drill waits so long for a failover to end. */
const SHARED_WAIT_MS = 3_600_000;
const SHARED_RETRY_MS = 5000;
const SHARED_RETRY_MAX_MS = 60_000;

/** Locks that this run holds. */
export interface Held {
  readonly epoch: number;
  /** Epoch by datastore. */
  readonly locks: Readonly<Record<string, number>>;
  readonly checks: readonly CheckResult[];
  /** Once nothing of the run can act any more. Never throws: what could not be released is reported as orphaned by the lock. */
  release(promoted?: { readonly service: string | null }): Promise<readonly Released[]>;
}

/** Every datastore that the plan changes, exclusively; null when it changes none, or the run is older than locks. @throws ApplicationFailure when one is refused. */
export async function holdForPlan(plan: Plan, who: { requestedBy: string; overrides: readonly Override[] }): Promise<Held | null> {
  const datastores = lockedDatastores(plan);
  if (!patched('resource-locks') || datastores.length === 0) return null;
  const what = plan.kind === 'runbook' ? `runbook ${plan.runbook}` : `${plan.mode} ${plan.kind} of ${plan.service ?? plan.runbook}`;
  return take(datastores, { mode: 'exclusive', what, by: who.requestedBy, heedsCooldown: heedsCooldown(plan), overrides: who.overrides }, 0);
}

/** For a dry run: what `holdForPlan` would meet now. */
export async function lookAtLocks(plan: Plan): Promise<readonly CheckResult[]> {
  const datastores = lockedDatastores(plan);
  if (!patched('resource-locks') || datastores.length === 0) return [];
  try {
    return await checkLocks({ datastores, heedsCooldown: heedsCooldown(plan), ancestors: ancestors() });
  } catch (error) {
    return [{ name: 'locks', ok: false, expected: 'held by nobody', found: `could not be read: ${causeText(error)}` }];
  }
}

/** Shared with others that only read; waits while a failover goes on. Null when the run is older than locks. */
export async function holdShared(datastore: string, what: string, by: string): Promise<Held | null> {
  return patched('resource-locks') ? take([datastore], { mode: 'shared', what, by, heedsCooldown: false, overrides: [] }, SHARED_WAIT_MS) : null;
}

async function take(datastores: readonly string[], wish: Pick<LockWish, 'mode' | 'what' | 'by' | 'heedsCooldown' | 'overrides'>, waitMs: number): Promise<Held> {
  const untilMs = Date.now() + waitMs;
  const release: Held['release'] = (promoted) => letGo(datastores, promoted === undefined ? null : { service: promoted.service });
  for (let round = 1; ; round += 1) {
    let taken: Awaited<ReturnType<LockActivities['acquireLocks']>>;
    try {
      // An answer that is not waited for would be a lock that nobody knows of.
      taken = await CancellationScope.nonCancellable(() => acquireLocks({ ...wish, datastores, ancestors: ancestors(), round }));
    } catch (error) {
      await release();
      throw ApplicationFailure.nonRetryable(`nothing was begun: ${causeText(error)}`, 'lock-unanswered');
    }
    if (taken.granted) {
      const { epoch, locks, checks } = taken;
      return { epoch, locks, checks, release: (promoted) => letGo(datastores, promoted === undefined ? null : { service: promoted.service }, epoch) };
    }
    const pauseMs = Math.min(SHARED_RETRY_MAX_MS, SHARED_RETRY_MS * 2 ** (round - 1));
    if (Date.now() + pauseMs > untilMs) throw ApplicationFailure.create({ message: `nothing was begun: ${taken.message}\n  next: ${taken.next}`, type: taken.code, nonRetryable: true, details: [taken.check] });
    log.info('waiting for the lock', { why: taken.message });
    await sleep(pauseMs);
  }
}

/** As Temporal says, so that nobody can claim to be nested in what holds a lock. */
function ancestors(): LockWish['ancestors'] {
  const { parent, root } = workflowInfo();
  return [parent, root].filter((one) => one !== undefined).map(({ workflowId, runId }) => ({ workflowId, runId }));
}

function letGo(datastores: readonly string[], promoted: { service: string | null } | null, epoch: number | null = null): Promise<readonly Released[]> {
  return CancellationScope.nonCancellable(async () => {
    try {
      return await releaseLocks({ datastores, epoch, promoted });
    } catch (error) {
      log.error('locks could not be released', { datastores, error: causeText(error) });
      return [];
    }
  });
}
