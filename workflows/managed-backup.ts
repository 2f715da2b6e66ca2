import { ActivityCancellationType, ActivityFailure, TimeoutFailure, isCancellation, proxyActivities } from '@temporalio/workflow';
import type { BackupPlan } from '../activities/backup.ts';
import type { ManagedBackupActivities, Taken } from '../activities/managed-backup.ts';
import type { BackupResult } from '../src/model/api.ts';
import { causeText } from './input.ts';

/** The managed snapshot failed, is late or did not start; a cancellation is none of these. */
export class NotTaken extends Error {}

const COMMON = { heartbeatTimeout: '15 seconds', cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED } as const;
/** RDS throttles an account as a whole, so it is asked again for as long as the deadline allows, ever more seldom. */
const PATIENT = { initialInterval: '2 seconds', backoffCoefficient: 2, maximumInterval: '30 seconds' } as const;
const LOOK = { startToCloseTimeout: '2 minutes', scheduleToCloseTimeout: '5 minutes', retry: { maximumAttempts: 4, initialInterval: '2 seconds' }, ...COMMON } as const;
/** Beyond the deadline that the activity itself keeps, for a worker that was lost: it looks once more. */
const MARGIN_MS = 60_000;

const looking = proxyActivities<ManagedBackupActivities>(LOOK);
const settling = proxyActivities<ManagedBackupActivities>({ startToCloseTimeout: '10 minutes', retry: { maximumAttempts: 3 }, ...COMMON });

/** Take, wait for, copy and share the managed snapshot of this backup. @throws NotTaken when a dump must stand in. */
export async function takeManaged(plan: BackupPlan): Promise<Taken> {
  const managed = plan.managed!;
  // The snapshot counts more than the reading before it: that gets half of the time at most.
  const beforeMs = Math.max(MARGIN_MS, Math.floor((managed.deadlineMs - Date.now()) / 2));
  const before = proxyActivities<ManagedBackupActivities>({ startToCloseTimeout: beforeMs, scheduleToCloseTimeout: beforeMs, retry: { maximumAttempts: 2, initialInterval: '2 seconds' }, ...COMMON });
  const after = proxyActivities<ManagedBackupActivities>({ startToCloseTimeout: plan.timeoutMs, retry: { maximumAttempts: 2, initialInterval: '2 seconds' }, ...COMMON });
  const beginning = proxyActivities<ManagedBackupActivities>({ startToCloseTimeout: '2 minutes', scheduleToCloseTimeout: managed.startWithinMs, retry: PATIENT, ...COMMON });
  const degraded: string[] = [];
  const orDegraded = async <T>(what: string, work: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await work();
    } catch (error) {
      if (isCancellation(error)) throw error;
      degraded.push(`${what}: ${firstLine(error)}`);
      return undefined;
    }
  };

  await orDegraded('the database could not be read before the snapshot', () => before.readBeforeSnapshot(plan));
  const ref = await beginning.beginManagedSnapshot(plan).catch(async (error: unknown) => {
    if (isCancellation(error)) throw error;
    // Its answer may have been lost, not the snapshot.
    const found = await looking.findManagedSnapshot(plan).catch((inner: unknown) => {
      if (isCancellation(inner)) throw inner;
      return null;
    });
    if (found === null) throw new NotTaken(`the managed snapshot did not start: ${firstLine(error)}`);
    return found;
  });
  const leftMs = Math.max(1000, managed.deadlineMs - Date.now());
  const waiting = proxyActivities<ManagedBackupActivities>({ startToCloseTimeout: leftMs + MARGIN_MS, scheduleToCloseTimeout: leftMs + MARGIN_MS, retry: PATIENT, ...COMMON });
  await waiting
    .awaitManagedSnapshot(plan, ref)
    .catch((error: unknown) => {
      // Nobody could look for so long: that says nothing of the snapshot.
      if (!timedOut(error)) throw error;
      return looking.awaitManagedSnapshot(plan, ref);
    })
    .catch((error: unknown) => {
      if (isCancellation(error)) throw error;
      throw new NotTaken(`the managed snapshot ${typeOf(error) === 'snapshot-late' || timedOut(error) ? 'is late' : 'failed'}: ${firstLine(error)}`);
    });
  await orDegraded('the database could not be read after the snapshot', () => after.readAfterSnapshot(plan));
  const copyDeadlineMs = Date.now() + managed.copyWithinMs;
  const copying = proxyActivities<ManagedBackupActivities>({ startToCloseTimeout: managed.copyWithinMs + MARGIN_MS, scheduleToCloseTimeout: managed.copyWithinMs + MARGIN_MS, retry: PATIENT, ...COMMON });
  const copies = await Promise.all(managed.copies.map((to) => orDegraded(`no copy in ${to.region}`, () => copying.copyManagedSnapshot(plan, ref, to, copyDeadlineMs))));
  const sharedWith = managed.share ? await orDegraded('not shared', () => looking.shareManagedSnapshot(plan, ref)) : [];
  return { ref, copies: copies.filter((copy) => copy !== undefined), sharedWith: sharedWith ?? [], degraded };
}

export function commitManaged(plan: BackupPlan, taken: Taken): Promise<BackupResult> {
  return settling.commitManagedSnapshot(plan, taken);
}

export function settleManaged(plan: BackupPlan): Promise<BackupResult | null> {
  return settling.settleManagedBackup(plan);
}

function timedOut(error: unknown): boolean {
  return error instanceof ActivityFailure && error.cause instanceof TimeoutFailure;
}

function typeOf(error: unknown): string | undefined {
  return error instanceof ActivityFailure ? ((error.cause as { type?: string } | undefined)?.type ?? undefined) : undefined;
}

function firstLine(error: unknown): string {
  return causeText(error).split('\n')[0]!;
}
