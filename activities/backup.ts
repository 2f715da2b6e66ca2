import { randomBytes } from 'node:crypto';
import { Context as ActivityContext } from '@temporalio/activity';
import type { BackupResult } from '../src/model/api.ts';
import type { ManagedSnapshots } from '../src/model/config-snapshots.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { backupFolder } from '../src/model/manifest.ts';
import { storeNameOf } from '../src/systems/backup-catalogue.ts';
import type { BackupProgress } from '../src/systems/backup-engine.ts';
import { orphanAgeMs, reapOrphans, settleAttempt } from '../src/systems/backup-write.ts';
import { backedUpOf, storeOf, type Context } from '../src/systems/context.ts';
import { engineOfDatastore } from '../src/systems/engines.ts';
import { checkStanding } from '../src/systems/lock.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

/** What one backup run is to do, fixed at its start. */
export interface BackupPlan {
  readonly datastore: string;
  readonly reason: string;
  readonly environment: string;
  readonly baseId: string;
  readonly startedAtMs: number;
  /** For one attempt. */
  readonly timeoutMs: number;
  readonly store: string;
  readonly retention: boolean;
  /** Of its hold on the datastore's lock; none: it is older than locks. */
  readonly lockEpoch?: number;
  /** The backup is a managed snapshot, and a dump only its second or its substitute. */
  readonly managed?: ManagedPlan;
  /** Of a dump that stands in for a managed snapshot. */
  readonly degraded?: string;
}

export interface ManagedPlan {
  readonly startWithinMs: number;
  /** Epoch milliseconds: then it is late. */
  readonly deadlineMs: number;
  readonly copyWithinMs: number;
  readonly copies: readonly { readonly region: string; readonly kmsKeyId?: string | undefined }[];
  readonly share: boolean;
  readonly also: 'none' | 'dump';
}

const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz';

/** Ids and folders of all attempts follow from the plan, so that whoever comes later knows where a dead attempt wrote. Those of a resumable engine are one. */
export function attemptOf(context: Context, plan: BackupPlan, attempt: number, resumable = false): { id: string; location: string } {
  const id = attempt === 1 || resumable ? plan.baseId : `${plan.baseId}-${attempt}`;
  return { id, location: backupFolder(storeOf(context.config, plan.store).prefix, plan.datastore, plan.startedAtMs, id) };
}

/** What gave way to a recovery commits nothing: whoever reads the store later would take it for a backup that was let finish. */
export async function mayCommit(context: Context, datastore: string, epoch: number): Promise<void> {
  const { client, info } = ActivityContext.current();
  try {
    await checkStanding({ client, environment: context.config.environment, datastore }, info.workflowExecution!, epoch);
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'stale-epoch') throw new HoldfastError('preempted', `not committed: ${error.message}`, { cause: error, next: 'back up again once the recovery has ended' });
    throw error;
  }
}

function managedPlan(snapshots: ManagedSnapshots | undefined, startedAtMs: number): { managed?: ManagedPlan } {
  if (snapshots === undefined) return {};
  const { startWithin, completeWithin, copyWithin, copies, share, also } = snapshots;
  return { managed: { startWithinMs: startWithin, deadlineMs: startedAtMs + completeWithin, copyWithinMs: copyWithin, copies, share: share.length > 0, also } };
}

export function createBackupActivities(context: Context) {
  /**
   * Adopts what attempts 1..last committed, or removes what they left, and ends their sessions.
   * @param more another attempt follows: what a resumable one has begun or finished stays for it, at the source as well.
   */
  async function settle(plan: BackupPlan, last: number, more: boolean): Promise<BackupResult | null> {
    let adopted: BackupResult | null = null;
    const engine = await engineOfDatastore(context, plan.datastore);
    const attempts = Array.from({ length: engine.resumable ? Math.min(last, 1) : last }, (_, index) => attemptOf(context, plan, index + 1, engine.resumable));
    for (const { location } of attempts) adopted ??= (await settleAttempt(context, plan.datastore, location, engine.resumable && more)) ?? null;
    if (attempts.length > 0 && !(engine.resumable && more)) await engine.endSessions(context, plan.datastore, attempts.map(({ id }) => id));
    return adopted;
  }

  return withActivityFailures({
    async planBackup(input: { datastore: string; reason: string }): Promise<BackupPlan> {
      const datastore = backedUpOf(context.config, input.datastore);
      const startedAtMs = Date.now();
      return {
        datastore: input.datastore,
        reason: input.reason,
        environment: context.config.environment,
        baseId: [...randomBytes(8)].map((byte) => ALPHABET[byte % ALPHABET.length]).join(''),
        startedAtMs,
        timeoutMs: datastore.backup.timeout,
        store: storeNameOf(context, input.datastore),
        retention: datastore.retention !== undefined,
        ...managedPlan(datastore.engine === 'postgres' ? datastore.managed?.snapshots : undefined, startedAtMs),
      };
    },

    runBackup: async (plan: BackupPlan): Promise<BackupResult> => {
      const { attempt, workflowExecution } = ActivityContext.current().info;
      const engine = await engineOfDatastore(context, plan.datastore);
      const { id, location } = attemptOf(context, plan, attempt, engine.resumable);
      const start: BackupProgress = { phase: 'connect', location, plainBytes: 0, storedBytes: 0, bytesPerSecond: 0, tables: 0, ofTables: 0 };
      return withHeartbeat(start, async (signal, report) => {
        const adopted = attempt === 1 ? null : await settle(plan, attempt - 1, true);
        if (adopted !== null) return adopted;
        // Whatever earlier runs left when even their cleaning up died with them.
        await reapOrphans(context, plan.datastore, orphanAgeMs(plan.timeoutMs), Date.now(), signal).catch((error: unknown) => {
          context.log.warn({ datastore: plan.datastore, error: messageOf(error) }, 'leftovers of earlier backups could not be looked for');
        });
        signal.throwIfAborted();
        return engine.backUp(
          context,
          { datastore: plan.datastore, id, location, reason: plan.reason, workflowId: workflowExecution?.workflowId ?? '', runId: workflowExecution?.runId ?? '', degraded: plan.degraded, attempt },
          { signal, onProgress: report, ...(plan.lockEpoch === undefined ? {} : { mayCommit: () => mayCommit(context, plan.datastore, plan.lockEpoch!) }) },
        );
      });
    },

    /** After the last attempt, or a cancellation. Gives the backup if one was committed after all. */
    settleBackup: (input: { plan: BackupPlan; attempts: number }): Promise<BackupResult | null> => withHeartbeat(null, () => settle(input.plan, input.attempts, false)),
  });
}
