import { Context as ActivityContext } from '@temporalio/activity';
import type { BackupResult } from '../src/model/api.ts';
import type { ManagedSnapshot } from '../src/model/manifest-postgres.ts';
import { awaitSnapshot, beginSnapshot, commitManaged, copyTo, findSnapshot, managedOf, readAfter, readBefore, settleManaged, share, type ManagedRequest, type SnapshotRef } from '../src/systems/managed-backup.ts';
import type { Context } from '../src/systems/context.ts';
import { attemptOf, mayCommit, type BackupPlan } from './backup.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

/** What a managed snapshot came to before it is committed. */
export interface Taken {
  readonly ref: SnapshotRef;
  readonly copies: ManagedSnapshot['copies'];
  readonly sharedWith: readonly string[];
  readonly degraded: readonly string[];
}

/** The phases of a backup that is a managed snapshot. Each finds what an earlier attempt of it did. */
export function createManagedBackupActivities(context: Context) {
  function requestOf(plan: BackupPlan): ManagedRequest {
    const { workflowExecution } = ActivityContext.current().info;
    return { datastore: plan.datastore, ...attemptOf(context, plan, 1), reason: plan.reason, workflowId: workflowExecution?.workflowId ?? '', runId: workflowExecution?.runId ?? '', startedAtMs: plan.startedAtMs };
  }
  const pollOf = (plan: BackupPlan): number => managedOf(context, plan.datastore).snapshots.pollEvery;

  return withActivityFailures({
    readBeforeSnapshot: (plan: BackupPlan): Promise<void> => withHeartbeat('connecting', (signal, onProgress) => readBefore(context, requestOf(plan), { signal, onProgress })),
    beginManagedSnapshot: (plan: BackupPlan): Promise<SnapshotRef> => withHeartbeat('', (signal) => beginSnapshot(context, requestOf(plan), signal)),
    /** null: RDS knows none of that name. */
    findManagedSnapshot: (plan: BackupPlan): Promise<SnapshotRef | null> => withHeartbeat('', () => findSnapshot(context, requestOf(plan))),
    awaitManagedSnapshot: (plan: BackupPlan, ref: SnapshotRef): Promise<void> =>
      withHeartbeat('', async (signal, onProgress) => {
        await awaitSnapshot(context, requestOf(plan), ref, { deadlineMs: plan.managed!.deadlineMs, pollMs: pollOf(plan), markers: true, signal, onProgress });
      }),
    readAfterSnapshot: (plan: BackupPlan): Promise<void> => withHeartbeat('connecting', (signal, onProgress) => readAfter(context, requestOf(plan), { signal, onProgress })),
    copyManagedSnapshot: (plan: BackupPlan, ref: SnapshotRef, to: { region: string; kmsKeyId?: string | undefined }, deadlineMs: number): Promise<ManagedSnapshot['copies'][number]> =>
      withHeartbeat('', (signal, onProgress) => copyTo(context, requestOf(plan), ref, to, { deadlineMs, pollMs: pollOf(plan), signal, onProgress })),
    shareManagedSnapshot: (plan: BackupPlan, ref: SnapshotRef): Promise<string[]> => withHeartbeat('', () => share(context, requestOf(plan), ref)),
    commitManagedSnapshot: (plan: BackupPlan, taken: Taken): Promise<BackupResult> =>
      withHeartbeat('', (signal) => commitManaged(context, requestOf(plan), taken, { signal, ...(plan.lockEpoch === undefined ? {} : { mayCommit: () => mayCommit(context, plan.datastore, plan.lockEpoch!) }) })),
    /** Gives the backup if it was committed after all; else removes what it left. */
    settleManagedBackup: (plan: BackupPlan): Promise<BackupResult | null> => withHeartbeat('', () => settleManaged(context, requestOf(plan))),
  });
}

export type ManagedBackupActivities = ReturnType<typeof createManagedBackupActivities>;
