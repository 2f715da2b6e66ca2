import {
  ActivityCancellationType,
  ApplicationFailure,
  CancellationScope,
  isCancellation,
  log,
  ParentClosePolicy,
  patched,
  proxyActivities,
  startChild,
  upsertSearchAttributes,
  workflowInfo,
  WorkflowIdReusePolicy,
} from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { ComplianceActivities, EndedRun } from '../activities/compliance.ts';
import type { BackupPlan, createBackupActivities } from '../activities/backup.ts';
import { backupInputSchema, SEARCH_ATTRIBUTES, WORKFLOW_IDS, type BackupInput, type BackupResult, type Notice } from '../src/model/api.ts';
import { formatBytes, formatDuration } from '../src/model/units.ts';
import { holdShared, type Held } from './hold.ts';
import { causeText, parseInput } from './input.ts';
import { commitManaged, NotTaken, settleManaged, takeManaged } from './managed-backup.ts';

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

/** Short: a store that is away must not keep the end of a backup from being told. */
const recording = proxyActivities<ComplianceActivities>({ startToCloseTimeout: '30 seconds', scheduleToCloseTimeout: '2 minutes', heartbeatTimeout: '15 seconds', retry: { maximumAttempts: 4, initialInterval: '1 second' } });

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
    const holding = held === null ? plan : { ...plan, lockEpoch: held.epoch };
    result = plan.managed !== undefined && patched('managed-snapshots') ? await backUpManaged(holding) : await dump(holding);
    await held?.release();
  } catch (error) {
    const failed = plan;
    const adopted = await CancellationScope.nonCancellable(async () => {
      const settled = failed === undefined ? null : await settleAll(failed).catch((inner: unknown) => causeText(inner));
      const committed = settled !== null && typeof settled !== 'string' ? settled : undefined;
      const taken = (await held?.release())?.find((answer) => answer.superseded !== null)?.superseded;
      const cancelled = isCancellation(error);
      // It was cancelled by the lock, not by a person.
      if (taken != null) preempted = ApplicationFailure.nonRetryable(`pre-empted by ${taken.by}: a recovery does not wait for a backup`, 'preempted');
      if (committed === undefined || cancelled) {
        setOutcome(preempted !== undefined ? 'pre-empted' : cancelled ? 'cancelled' : 'failed');
        await tell(failureNotice(datastore, failed?.environment, cancelled && preempted === undefined, preempted ?? error, committed, typeof settled === 'string' ? settled : undefined));
        await record({
          datastore, outcome: committed !== undefined ? 'committed' : preempted !== undefined ? 'pre-empted' : cancelled ? 'cancelled' : 'failed', degraded: committed?.degraded ?? null, backups: committed === undefined ? [] : [committed.id],
          why: cancelled && preempted === undefined ? null : causeText(preempted ?? error).slice(0, 2000),
        });
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
    await record({ datastore, outcome: 'committed', degraded: result.degraded ?? null, backups: [result.id, ...(result.also === undefined ? [] : [result.also.id])], why: null });
    if (plan!.retention) await startRetention(datastore);
  });
  return result;
}

function dump(plan: BackupPlan): Promise<BackupResult> {
  return proxyActivities<BackupActivities>({
    startToCloseTimeout: plan.timeoutMs,
    scheduleToCloseTimeout: plan.timeoutMs * 2,
    heartbeatTimeout: '15 seconds',
    retry: RETRY,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  }).runBackup(plan);
}

/** Of the dump beside or instead of a managed snapshot: folders of its own. */
function dumpOf(plan: BackupPlan, degraded?: string): BackupPlan {
  return { ...plan, baseId: `${plan.baseId}-dump`, ...(degraded === undefined ? {} : { degraded }) };
}

/** A managed snapshot; a logical dump beside it where that is configured, and instead of it when it was not to be had. */
async function backUpManaged(plan: BackupPlan): Promise<BackupResult> {
  let why: string;
  try {
    const taken = await takeManaged(plan);
    if (plan.managed!.also === 'none') return await commitManaged(plan, taken);
    // Before the commit, so that the manifest of the one can say that the other is missing.
    const beside = await dump(dumpOf(plan)).catch((error: unknown) => {
      if (isCancellation(error)) throw error;
      return causeText(error);
    });
    if (typeof beside === 'string') return await commitManaged(plan, { ...taken, degraded: [...taken.degraded, `the dump beside it failed: ${beside.split('\n')[0]!}`] });
    try {
      return { ...(await commitManaged(plan, taken)), also: beside };
    } catch (error) {
      if (isCancellation(error)) throw error;
      return { ...beside, degraded: `the managed snapshot could not be committed: ${causeText(error)}` };
    }
  } catch (error) {
    if (isCancellation(error)) throw error;
    why = error instanceof NotTaken ? error.message : `the managed snapshot could not be committed: ${causeText(error).split('\n')[0]!}`;
  }
  log.warn('no managed snapshot: a logical dump stands in for it', { datastore: plan.datastore, why });
  await tell({ level: 'attention', title: `Managed snapshot of ${plan.datastore} failed; a dump runs instead`, text: `${why}\nA logical dump began by itself; the backup counts as degraded.`, fields: { datastore: plan.datastore, environment: plan.environment } });
  const result = await dump(dumpOf(plan, `logical dump instead of a managed snapshot: ${why}`));
  // What the snapshot left: its readings in the store, and itself if RDS lets it go.
  await settleManaged(plan).catch((error: unknown) => {
    if (isCancellation(error)) throw error;
    log.warn('what the managed snapshot left could not be removed; a later retention run will', { error: causeText(error) });
  });
  return result;
}

/** What was committed after all; the rest is removed. */
async function settleAll(plan: BackupPlan): Promise<BackupResult | null> {
  if (plan.managed === undefined || !patched('managed-snapshots')) return settling.settleBackup({ plan, attempts: ATTEMPTS });
  const [managed, dumped] = [await settleManaged(plan), await settling.settleBackup({ plan: dumpOf(plan), attempts: ATTEMPTS })];
  return managed ?? dumped;
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

/** For compliance, which is asked for when this backup and this history are long gone. */
async function record(run: Omit<EndedRun, 'startedAt' | 'finishedAt'>): Promise<void> {
  if (!patched('backup-run-records')) return;
  try {
    await recording.recordBackupRun({ ...run, startedAt: workflowInfo().startTime.toISOString(), finishedAt: new Date(Date.now()).toISOString() });
  } catch (error) {
    log.warn('what this run came to could not be recorded in the store; compliance will not count it as more than its backups show', { error: causeText(error) });
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
      ...(result.managed === undefined
        ? { size: `${formatBytes(result.plainBytes)}, stored ${formatBytes(result.storedBytes)}` }
        : { 'managed snapshot': `${result.managed.identifier} in ${result.managed.region}${result.managed.copies.length === 0 ? '' : `, copies in ${result.managed.copies.join(', ')}`}`, ...(result.also === undefined ? {} : { dump: `${result.also.id}, stored ${formatBytes(result.also.storedBytes)}` }) }),
      took: formatDuration(result.durationMs),
      [result.words?.rows ?? 'rows']: `${result.rows} in ${result.tables} ${result.words?.tables ?? 'tables'}`,
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
