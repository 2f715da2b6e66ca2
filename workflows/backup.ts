import {
  ActivityCancellationType,
  ApplicationFailure,
  CancellationScope,
  isCancellation,
  log,
  ParentClosePolicy,
  proxyActivities,
  startChild,
  upsertSearchAttributes,
  WorkflowIdReusePolicy,
} from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { createBackupActivities } from '../activities/backup.ts';
import { backupInputSchema, SEARCH_ATTRIBUTES, WORKFLOW_IDS, type BackupInput, type BackupResult, type Notice } from '../src/model/api.ts';
import { formatBytes, formatDuration } from '../src/model/units.ts';
import { holdShared, type Held } from './hold.ts';
import { causeText, parseInput } from './input.ts';

type BackupActivities = ReturnType<typeof createBackupActivities>;

/** The first at once, then after 2 s, 8 s and 32 s: a database that restarts, or a store that hiccups, is back by then. */
const ATTEMPTS = 4;
const RETRY = { maximumAttempts: ATTEMPTS, initialInterval: '2 seconds', backoffCoefficient: 4 } as const;

const quick = proxyActivities<BackupActivities & { notify(notice: Notice): Promise<unknown> }>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '5 minutes',
  retry: { maximumAttempts: 3 },
});
const settling = proxyActivities<BackupActivities>({
  startToCloseTimeout: '10 minutes',
  heartbeatTimeout: '15 seconds',
  retry: { maximumAttempts: 3 },
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
});

/** One backup of a datastore: tried again when that can help, told either way, and nothing half done left behind. */
export async function backup(input: BackupInput): Promise<BackupResult> {
  const { datastore, reason } = parseInput('backup', backupInputSchema, input);
  setOutcome('running', datastore);
  let plan: Awaited<ReturnType<BackupActivities['planBackup']>> | undefined;
  let held: Held | null = null;
  let preempted: ApplicationFailure | undefined;
  let result: BackupResult;
  try {
    plan = await quick.planBackup({ datastore, reason });
    held = await holdShared(datastore, 'backup', reason);
    const { runBackup } = proxyActivities<BackupActivities>({
      startToCloseTimeout: plan.timeoutMs,
      scheduleToCloseTimeout: plan.timeoutMs * 2,
      heartbeatTimeout: '15 seconds',
      retry: RETRY,
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    });
    result = await runBackup(held === null ? plan : { ...plan, lockEpoch: held.epoch });
    await held?.release();
  } catch (error) {
    const failed = plan;
    const adopted = await CancellationScope.nonCancellable(async () => {
      const settled = failed === undefined ? null : await settling.settleBackup({ plan: failed, attempts: ATTEMPTS }).catch((inner: unknown) => causeText(inner));
      const committed = settled !== null && typeof settled !== 'string' ? settled : undefined;
      const taken = (await held?.release())?.find((answer) => answer.superseded !== null)?.superseded;
      const cancelled = isCancellation(error);
      // It was cancelled by the lock, not by a person.
      if (taken != null) preempted = ApplicationFailure.nonRetryable(`pre-empted by ${taken.by}: a recovery does not wait for a backup`, 'preempted');
      if (committed === undefined || cancelled) {
        setOutcome(preempted !== undefined ? 'pre-empted' : cancelled ? 'cancelled' : 'failed');
        await tell(failureNotice(datastore, failed?.environment, cancelled && preempted === undefined, preempted ?? error, committed, typeof settled === 'string' ? settled : undefined));
        return undefined;
      }
      return committed;
    });
    if (adopted === undefined) throw preempted ?? error;
    result = adopted;
  }
  setOutcome('succeeded');
  await CancellationScope.nonCancellable(async () => {
    await tell(successNotice(result, plan!.environment));
    if (plan!.retention) await startRetention(datastore);
  });
  return result;
}

/** Only after a committed backup, and on its own: a failing retention is no failed backup. */
async function startRetention(datastore: string): Promise<void> {
  try {
    await startChild('retention', {
      args: [{ datastore, apply: true }],
      workflowId: WORKFLOW_IDS.retention(datastore),
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      parentClosePolicy: ParentClosePolicy.ABANDON,
    });
  } catch (error) {
    log.info('retention was not started; one is running already, or it will be by the next backup', { datastore, error: causeText(error) });
  }
}

async function tell(notice: Notice): Promise<void> {
  try {
    await quick.notify(notice);
  } catch (error) {
    log.warn('the notification could not be sent', { title: notice.title, error: causeText(error) });
  }
}

function successNotice(result: BackupResult, environment: string): Notice {
  return {
    level: result.degraded === undefined ? 'success' : 'attention',
    title: `Backup of ${result.datastore} committed`,
    text: result.degraded === undefined ? `Backup ${result.id} is committed at ${result.location}` : `Backup ${result.id} is committed at ${result.location}, but: ${result.degraded}`,
    fields: {
      datastore: result.datastore,
      environment,
      backup: result.id,
      'snapshot at': result.snapshotAt,
      size: `${formatBytes(result.plainBytes)}, stored ${formatBytes(result.storedBytes)}`,
      took: formatDuration(result.durationMs),
      rows: `${result.rows} in ${result.tables} tables`,
    },
  };
}

function failureNotice(datastore: string, environment: string | undefined, cancelled: boolean, error: unknown, committed: BackupResult | undefined, leftovers: string | undefined): Notice {
  const texts = [cancelled ? 'The backup was cancelled.' : causeText(error)];
  texts.push(committed === undefined ? 'Nothing was committed; earlier backups are untouched.' : `It had been committed before that as ${committed.id}.`);
  if (leftovers !== undefined) texts.push(`What it left in the store could not be removed now (${leftovers}); the reaper of the next retention run will.`);
  return {
    level: 'failure',
    title: `Backup of ${datastore} ${cancelled ? 'was cancelled' : 'failed'}`,
    text: texts.join('\n'),
    fields: { datastore, ...(environment === undefined ? {} : { environment }) },
  };
}

function setOutcome(outcome: string, datastore?: string): void {
  upsertSearchAttributes([
    { key: defineSearchAttributeKey(SEARCH_ATTRIBUTES.outcome, 'KEYWORD'), value: outcome },
    ...(datastore === undefined ? [] : [{ key: defineSearchAttributeKey(SEARCH_ATTRIBUTES.datastore, 'KEYWORD'), value: datastore }]),
  ]);
}
