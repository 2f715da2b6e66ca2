import {
  ActivityCancellationType,
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  TimeoutFailure,
  defineQuery,
  defineUpdate,
  isCancellation,
  log,
  proxyActivities,
  setHandler,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { DrillActivities, DrillCall, DrillSubject, Restored } from '../activities/drill.ts';
import type { ManagedDrillActivities } from '../activities/managed-drill.ts';
import type { EvidenceActivities } from '../activities/evidence.ts';
import { SEARCH_ATTRIBUTES, restoreDrillInputSchema, type CheckResult, type Notice, type RestoreDrillInput, type RestoreDrillResult } from '../src/model/api.ts';
import { STORED_FAULTS } from '../src/model/errors.ts';
import { judge, type FactInput, type Measurement, type TimelineEntry } from '../src/model/evidence.ts';
import { measurementRow } from '../src/model/evidence-report.ts';
import { startExecution, type ExecutionState, type OperatorRequest, type Outcome, type Plan, type Progress, type StepState } from '../src/model/execution.ts';
import { describeProof, holds, nothingCompared, type Proof } from '../src/model/proof.ts';
import { holdShared, type Held } from './hold.ts';
import { causeText, parseInput } from './input.ts';

const ATTEMPTS = 3;
const STEPS = [
  ['choose', 'Choose the backup'],
  ['target', 'Start an isolated target'],
  ['restore', 'Restore roles and data'],
  ['prove', 'Compare with the manifest'],
  ['checks', 'Run the checks of the service'],
  ['destroy', 'Destroy the target'],
  ['mark', 'Mark the backup'],
  ['evidence', 'Write the evidence'],
] as const;
type StepId = (typeof STEPS)[number][0];

/** Failures of these types say that what is stored cannot be trusted. */
const BACKUP_FAULTS = new Set<string>([...STORED_FAULTS, 'snapshot-gone']);
/** Nothing to record: the request itself is wrong. */
const REQUEST_FAULTS = new Set(['not-managed', 'drill-unset', 'unknown-datastore', 'unknown-service', 'service-mismatch', 'unknown-store', 'store-unclear']);

export const progressQuery = defineQuery<Progress>('progress');
/** Ends the drill where it is; the target is destroyed and the record written all the same. */
export const abortUpdate = defineUpdate<string, [OperatorRequest]>('abort');

const shared = proxyActivities<Pick<DrillActivities, 'chooseDrillBackup' | 'concludeDrill'>>({
  startToCloseTimeout: '10 minutes',
  scheduleToCloseTimeout: '30 minutes',
  heartbeatTimeout: '15 seconds',
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  retry: { maximumAttempts: 4, initialInterval: '1 second', maximumInterval: '20 seconds' },
});
const MANAGED = {
  heartbeatTimeout: '15 seconds', cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED, retry: { maximumAttempts: 10, initialInterval: '1 second', maximumInterval: '30 seconds' },
} as const;
const managing = proxyActivities<Pick<ManagedDrillActivities, 'choosePointInTime'>>({ ...MANAGED, startToCloseTimeout: '10 minutes', scheduleToCloseTimeout: '30 minutes' });
const recording = proxyActivities<Pick<EvidenceActivities, 'writeEvidence'>>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '10 minutes',
  retry: { maximumAttempts: 5, initialInterval: '1 second' },
});
const telling = proxyActivities<{ notify(notice: Notice): Promise<unknown> }>({
  startToCloseTimeout: '30 seconds',
  scheduleToCloseTimeout: '2 minutes',
  retry: { maximumAttempts: 3, initialInterval: '1 second' },
});

type HostActivities = Pick<DrillActivities, 'startDrillTarget' | 'restoreDrillBackup' | 'proveDrillRestore' | 'runDrillChecks' | 'destroyDrillTarget'>;

/** What touches the target runs where the target is. */
function onHost(taskQueue: string, startToCloseMs: number, maximumAttempts: number) {
  return proxyActivities<HostActivities>({
    taskQueue,
    startToCloseTimeout: startToCloseMs,
    // A host whose worker does not come back must not hold the drill for ever.
    scheduleToStartTimeout: '10 minutes',
    heartbeatTimeout: '15 seconds',
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { maximumAttempts, initialInterval: '1 second', maximumInterval: '10 seconds', nonRetryableErrorTypes: ['drill-target-gone', 'drill-target-refused'] },
  });
}

interface Findings {
  restored: Restored | null;
  proof: Proof | null;
  checks: readonly CheckResult[];
  checkedAtMs: number | null;
}

/** Restore a backup into an isolated target, prove it, time it, and destroy the target in every outcome. */
export async function restoreDrill(input: RestoreDrillInput): Promise<RestoreDrillResult> {
  const request = parseInput('restoreDrill', restoreDrillInputSchema, input);
  const { workflowId, runId, startTime } = workflowInfo();
  const startedAtMs = startTime.getTime();
  const record = createRecord(request.datastore, request.service ?? null, request.requestedBy);
  setOutcome('running', { datastore: request.datastore, service: request.service, requestedBy: request.requestedBy });

  let subject: DrillSubject | null = null;
  const found: Findings = { restored: null, proof: null, checks: [], checkedAtMs: null };
  let outcome: RestoreDrillResult['outcome'] = 'failed';
  let message = '';
  let cancelled: unknown;
  let aborted: OperatorRequest | undefined;
  let settled = false;
  const lock: { held: Held | null } = { held: null };
  const work = new CancellationScope();
  setHandler(
    abortUpdate,
    (operator) => {
      aborted = operator;
      record.note('aborted', operator);
      work.cancel();
      return `abort by ${operator.by} taken; the target is destroyed now`;
    },
    {
      validator(operator) {
        if (!operator?.by || !operator.reason) throw ApplicationFailure.nonRetryable('an abort says by whom and why: {by, reason}', 'refused');
        if (settled || aborted !== undefined) throw ApplicationFailure.nonRetryable('the drill is ending already', 'refused');
      },
    },
  );
  try {
    await work.run(async () => {
      const asked = { datastore: request.datastore, backup: request.backup ?? null, service: request.service ?? null, workflowId, runId };
      const { pointInTime } = request;
      subject = await record.step('choose', () => (pointInTime === undefined ? shared.chooseDrillBackup(asked) : managing.choosePointInTime({ ...asked, pointInTime })), (chosen) =>
        chosen.backup === null ? chosen.problem! : pointInTime !== undefined ? `${chosen.backup.id}, restorable up to ${chosen.backup.snapshotAt ?? 'an unknown time'}` : `${chosen.backup.id}${chosen.backup.snapshotAt === null ? '' : `, snapshot of ${chosen.backup.snapshotAt}`} (${request.backup} of ${chosen.committed})`,
      );
      record.about(subject);
      setOutcome('running', { environment: subject.environment, ...(subject.service === null ? {} : { service: subject.service }) });
      if (subject.backup === null) {
        message = subject.problem!;
      } else if (subject.backup.damaged !== null) {
        outcome = 'bad';
        found.proof = unreadable(subject.backup.damaged);
        message = `the backup is damaged: ${subject.backup.damaged}`;
      } else {
        lock.held = await holdShared(request.datastore, 'restore drill', request.requestedBy);
        const call = callOf(subject, workflowId, runId);
        ({ outcome, message } = subject.managed === undefined ? await drillOnHost(subject, call, found, record) : await drillManaged(subject, call, found, record));
      }
    });
  } catch (error) {
    const type = typeOf(error);
    if (subject === null && type !== undefined && REQUEST_FAULTS.has(type)) throw error;
    if (isCancellation(error) && aborted === undefined) cancelled = error;
    if (type !== undefined && BACKUP_FAULTS.has(type)) {
      outcome = 'bad';
      found.proof ??= unreadable(causeText(error));
    }
    message = isCancellation(error) ? (aborted === undefined ? 'the drill was cancelled' : `the drill was aborted by ${aborted.by}: ${aborted.reason}`) : causeText(error);
  }

  settled = true;
  return CancellationScope.nonCancellable(async () => {
    const destroyed = await destroyTarget(subject, record, workflowId, runId);
    const taken = (await lock.held?.release())?.find((answer) => answer.superseded !== null)?.superseded;
    if (taken != null && cancelled !== undefined) {
      message = `the drill was pre-empted by ${taken.by}: a recovery does not wait for a drill`;
      cancelled = ApplicationFailure.nonRetryable(message, 'preempted');
    }
    await conclude(subject, workflowId, runId, cancelled === undefined ? outcome : 'failed', message, record);
    const measurements = measure(subject, found, outcome, startedAtMs, message);
    const missed = measurements.filter((measurement) => judge(measurement) === 'MISSED').map((measurement) => measurement.name);
    if (outcome === 'verified' && missed.length > 0) message = `${message}; but the objective was MISSED: ${missed.join(', ')}`;
    if (!destroyed) message = `${message}; the target could not be destroyed: the sweep of the next worker on that host will`;
    const finalOutcome = cancelled instanceof ApplicationFailure ? 'pre-empted' : cancelled !== undefined ? 'cancelled' : aborted !== undefined && outcome === 'failed' ? 'aborted' : outcome;
    let evidenceProblem = false;
    const evidence = await writeEvidence();
    setOutcome(finalOutcome === 'verified' && missed.length > 0 ? 'objective-missed' : finalOutcome);
    record.finish(finalOutcome === 'verified');
    const result: RestoreDrillResult = {
      datastore: request.datastore,
      backup: subject?.backup?.id ?? '',
      outcome,
      proof: found.proof,
      checks: found.checks,
      measuredRtoMs: measurements[0]!.measured,
      measuredRpoMs: measurements[1]!.measured,
      objectives: subject?.objectives ?? null,
      evidence,
      message,
    };
    await tell(noticeOf(result, subject, measurements, cancelled !== undefined, missed.length > 0 || evidence === null || evidenceProblem || !destroyed));
    if (cancelled !== undefined) throw cancelled;
    return result;

    async function writeEvidence(): Promise<string | null> {
      try {
        const input = {
          kind: 'drill', subject: request.datastore, service: subject?.service ?? request.service ?? null, outcome: finalOutcome, title: `Restore drill of ${request.datastore}`, summary: message,
          workflowId, runId, requestedBy: request.requestedBy, reason: request.reason, startedAt: startTime.toISOString(), finishedAt: new Date(Date.now()).toISOString(), planHash: null,
          measurements, timeline: record.timeline(startedAtMs), checks: found.checks, facts: record.facts(subject, found),
        } as const;
        const written = await record.step('evidence', () => recording.writeEvidence(input), ({ directory, signed, problem }) => `${directory}, ${signed ? 'signed' : 'NOT SIGNED'}${problem == null ? '' : `; ${problem}`}`);
        if (written.problem != null) {
          evidenceProblem = true;
          message = `${message}; the evidence needs attention: ${written.problem}`;
        }
        return written.directory;
      } catch (error) {
        message = `${message}; the evidence could not be written: ${causeText(error)}`;
        return null;
      }
    }
  });
}

/** The target is found again by its name, so whatever worker is lost, another goes on where it was. */
async function drillManaged(subject: DrillSubject, call: DrillCall, found: Findings, record: DrillRecord): Promise<{ outcome: 'verified' | 'bad'; message: string }> {
  const managed = proxyActivities<ManagedDrillActivities>({ ...MANAGED, startToCloseTimeout: subject.timeoutMs, scheduleToCloseTimeout: subject.timeoutMs * 2 });
  const startedAtMs = Date.now();
  await record.step('target', () => managed.startManagedTarget(call), (made) => `${made.name}: PostgreSQL ${made.serverVersion}, ${made.isolation}`);
  const { availableAtMs } = await record.step('restore', () => managed.awaitManagedTarget(call), () => 'available');
  found.restored = { startedAtMs, finishedAtMs: availableAtMs, globalsMs: null, dataMs: null, plainBytes: 0, bad: null };
  found.proof = await record.step('prove', () => managed.proveManagedRestore(call), describeProof, holds);
  if (subject.backup!.location !== '' && nothingCompared(found.proof)) throw ApplicationFailure.nonRetryable(`nothing could be compared, so the backup is neither proved nor bad: ${describeProof(found.proof)}`, 'nothing-compared');
  if (!holds(found.proof)) return { outcome: 'bad', message: `the restored data is not what ${subject.backup!.location === '' ? 'was there at that moment' : 'was backed up'}: ${describeProof(found.proof)}` };
  const checked = await record.step('checks', () => managed.runManagedChecks(call), ({ checks }) => `${checks.filter((check) => check.ok).length} of ${checks.length} hold`, ({ checks }) => checks.every((check) => check.ok));
  found.checks = checked.checks;
  const broken = checked.checks.filter((check) => !check.ok);
  if (broken.length > 0) return { outcome: 'bad', message: brokenChecks(broken, checked.checks.length) };
  found.checkedAtMs = checked.finishedAtMs;
  return { outcome: 'verified', message: describeProof(found.proof) };
}

function brokenChecks(broken: readonly CheckResult[], of: number): string {
  return `${broken.length} of ${of} checks do not hold: ${broken.map((check) => `${check.name}: found ${check.found}, expected ${check.expected}`).join('; ')}`;
}

/** Start over with a new target when the worker, and with it the target, was lost midway. */
async function drillOnHost(subject: DrillSubject, call: DrillCall, found: Findings, record: DrillRecord): Promise<{ outcome: 'verified' | 'bad'; message: string }> {
  const once = onHost(subject.hostTaskQueue, subject.timeoutMs, 1);
  const short = onHost(subject.hostTaskQueue, 5 * 60_000, 2);
  const reading = onHost(subject.hostTaskQueue, subject.timeoutMs, 3);
  for (let attempt = 1; ; attempt += 1) {
    try {
      await record.step('target', () => short.startDrillTarget(call), (made) => `${made.serverVersion}, ${made.isolation}`);
      found.restored = await record.step('restore', () => once.restoreDrillBackup(call), (restored) => restored.bad ?? `${restored.plainBytes} bytes`, (restored) => restored.bad === null);
      if (found.restored.bad !== null) {
        found.proof = unreadable(found.restored.bad);
        return { outcome: 'bad', message: `the backup cannot be restored: ${found.restored.bad}` };
      }
      found.proof = await record.step('prove', () => reading.proveDrillRestore(call), describeProof, holds);
      if (!holds(found.proof)) return { outcome: 'bad', message: `the restored data is not what was backed up: ${describeProof(found.proof)}` };
      const checked = await record.step('checks', () => reading.runDrillChecks(call), ({ checks }) => `${checks.filter((check) => check.ok).length} of ${checks.length} hold`, ({ checks }) => checks.every((check) => check.ok));
      found.checks = checked.checks;
      const broken = checked.checks.filter((check) => !check.ok);
      if (broken.length > 0) return { outcome: 'bad', message: brokenChecks(broken, checked.checks.length) };
      // No row could be compared with anything: then only what a service knows of its data can say that it is there.
      if (!found.proof.exact && BigInt(found.proof.compared.rows) === 0n && checked.checks.length === 0) throw ApplicationFailure.nonRetryable(`no content could be compared, and no service has a check, so the backup is neither proved nor bad: ${describeProof(found.proof)}`, 'nothing-compared');
      found.checkedAtMs = checked.finishedAtMs;
      if (checked.notes !== undefined) found.proof = { ...found.proof, notes: [...found.proof.notes, ...checked.notes] };
      return { outcome: 'verified', message: describeProof(found.proof) };
    } catch (error) {
      if (isCancellation(error) || !lostTarget(error) || attempt >= ATTEMPTS) throw error;
      log.warn('the drill target was lost; starting over with a new one', { attempt, error: causeText(error) });
      record.note('target-lost', { attempt, error: causeText(error) });
      Object.assign(found, { restored: null, proof: null, checks: [], checkedAtMs: null });
      record.again();
    }
  }
}

/** The target went with its worker, or the worker itself was lost. */
function lostTarget(error: unknown): boolean {
  if (typeOf(error) === 'drill-target-gone') return true;
  return error instanceof ActivityFailure && error.cause instanceof TimeoutFailure && error.cause.timeoutType === 'HEARTBEAT';
}

function typeOf(error: unknown): string | undefined {
  if (!(error instanceof ActivityFailure)) return undefined;
  return error.cause instanceof ApplicationFailure ? (error.cause.type ?? undefined) : undefined;
}

function callOf(subject: DrillSubject, workflowId: string, runId: string): DrillCall {
  const { storeName, location } = subject.backup!;
  return { datastore: subject.datastore, service: subject.service, workflowId, runId, storeName, location, targetName: subject.targetName, ...(subject.managed === undefined ? {} : { managed: subject.managed }) };
}

async function destroyTarget(subject: DrillSubject | null, record: DrillRecord, workflowId: string, runId: string): Promise<boolean> {
  if (subject === null || subject.backup === null || subject.backup.damaged !== null) return true;
  try {
    const destroy = (): Promise<{ existed: boolean }> => {
      if (subject.managed === undefined) return onHost(subject.hostTaskQueue, subject.destroyMs ?? 2 * 60_000, 5).destroyDrillTarget({ datastore: subject.datastore, targetName: subject.targetName });
      return proxyActivities<ManagedDrillActivities>({ ...MANAGED, startToCloseTimeout: subject.timeoutMs }).destroyManagedTarget(callOf(subject, workflowId, runId));
    };
    await record.step('destroy', destroy, ({ existed }) => (existed ? 'stopped and removed' : 'there was none'));
    return true;
  } catch (error) {
    log.error('the drill target could not be destroyed', { target: subject.targetName, error: causeText(error) });
    return false;
  }
}

/** Only what says something of the backup marks it: a host without space proves nothing about it. */
async function conclude(subject: DrillSubject | null, workflowId: string, runId: string, outcome: RestoreDrillResult['outcome'], message: string, record: DrillRecord): Promise<void> {
  if (subject === null || subject.backup === null) return;
  try {
    await record.step('mark', () => shared.concludeDrill(callOf(subject, workflowId, runId), outcome === 'failed' ? null : { mark: outcome, reason: message }), () => (subject.backup!.location === '' ? 'a moment is no backup: nothing is marked' : outcome === 'failed' ? 'not marked: nothing was found out about the backup' : `marked ${outcome}`));
  } catch (error) {
    record.note('mark-failed', { error: causeText(error) });
  }
}

function measure(subject: DrillSubject | null, found: Findings, outcome: string, startedAtMs: number, message: string): [Measurement, Measurement] {
  const snapshotAt = subject?.backup?.snapshotAt ?? null;
  const objectives = subject?.objectives ?? null;
  const rto = found.restored === null || found.checkedAtMs === null ? null : found.checkedAtMs - found.restored.startedAtMs;
  return [
    { name: 'RTO (start of restore to checks green)', unit: 'ms', objective: objectives?.rtoMs ?? null, measured: rto, ...(rto === null ? { note: outcome === 'bad' ? 'the backup did not restore to a proven state' : message } : {}) },
    {
      name: subject?.managed !== undefined && 'at' in subject.managed.from ? 'RPO (drill start minus latest restorable time)' : 'RPO (drill start minus snapshot)', unit: 'ms', objective: objectives?.rpoMs ?? null, measured: snapshotAt === null ? null : startedAtMs - Date.parse(snapshotAt),
      ...(snapshotAt === null ? { note: subject?.backup == null ? 'no backup was restored' : 'its manifest cannot be trusted' } : {}),
    },
  ];
}

function unreadable(why: string): Proof {
  return {
    exact: false,
    differences: [{ kind: 'archive', object: 'backup', expected: 'an archive that restores to its end', found: why }],
    compared: { tables: 0, rows: '0', sequences: 0, largeObjects: '0', extensions: 0, roles: 0, schemaObjects: 0 },
    notes: ['nothing was compared, because the backup could not be restored'],
  };
}

async function tell(notice: Notice): Promise<void> {
  try {
    await telling.notify(notice);
  } catch (error) {
    log.warn('the notification could not be sent', { title: notice.title, error: causeText(error) });
  }
}

function noticeOf(result: RestoreDrillResult, subject: DrillSubject | null, measurements: readonly Measurement[], cancelled: boolean, missed: boolean): Notice {
  const verified = result.outcome === 'verified' && !cancelled;
  return {
    level: verified && !missed ? 'success' : 'failure',
    title: `Restore drill of ${result.datastore} ${cancelled ? 'was cancelled' : verified ? (missed ? 'verified the backup, but needs attention' : 'verified the backup') : result.outcome === 'bad' ? 'found a BAD backup' : 'failed'}`,
    text: result.message,
    fields: {
      datastore: result.datastore,
      ...(subject === null ? {} : { environment: subject.environment }),
      ...(subject?.service == null ? {} : { service: subject.service }),
      ...(result.backup === '' ? {} : { backup: result.backup }),
      ...Object.fromEntries(measurements.map((measurement) => {
        const [, objective, measured, verdict] = measurementRow(measurement);
        return [measurement.name.slice(0, 3), `${measured} (objective ${objective}: ${verdict})`];
      })),
      ...(result.evidence === null ? {} : { evidence: result.evidence }),
    },
  };
}

function setOutcome(outcome: string, more: { datastore?: string; service?: string; requestedBy?: string; environment?: string } = {}): void {
  const entries = Object.entries({ ...more, outcome }).filter((entry): entry is [keyof typeof SEARCH_ATTRIBUTES, string] => entry[1] !== undefined);
  upsertSearchAttributes(entries.map(([name, value]) => ({ key: defineSearchAttributeKey(SEARCH_ATTRIBUTES[name], 'KEYWORD'), value })));
}

type DrillRecord = ReturnType<typeof createRecord>;

/** What happened when: answers the query `progress` and becomes timeline and facts of the evidence. */
function createRecord(datastore: string, service: string | null, requestedBy: string) {
  const lines: (TimelineEntry & { readonly summary: string })[] = [];
  const noted: FactInput[] = [];
  let plan: Plan = {
    hash: '', kind: 'runbook', runbook: 'restoreDrill', title: `Restore drill of ${datastore}`, service, environment: '', mode: 'planned', parameters: {}, objectives: null,
    approval: { count: 0, expiresMs: 0 }, readOnlyDeadlineMs: 0, datastores: [datastore],
    steps: STEPS.map(([id, title]) => ({ id, title, uses: `drill.${id}`, with: {}, included: true, after: null, applyMs: 0, attempts: 1 })),
  };
  let state: ExecutionState = startExecution(plan, { epoch: 0, requestedBy, dryRun: false });
  setHandler(progressQuery, () => ({ plan, state, startedAtMs: workflowInfo().startTime.getTime(), waitingFor: null }));

  function change(id: StepId, fields: Partial<StepState>): void {
    state = { ...state, steps: state.steps.map((step) => (step.id === id ? { ...step, ...fields } : step)) };
  }
  return {
    async step<T>(id: StepId, run: () => Promise<T>, describe: (result: T) => string, holds: (result: T) => boolean = () => true): Promise<T> {
      const startMs = Date.now();
      const end = (outcome: Outcome, summary: string, error: string | null): void => {
        const endMs = Date.now();
        change(id, { status: 'done', outcome, summary, error, endedAtMs: endMs });
        lines.push({ label: STEPS.find(([one]) => one === id)![1], startMs, endMs, outcome: outcome === 'changed' ? 'done' : outcome, summary: error ?? summary });
      };
      change(id, { status: 'running', startedAtMs: startMs, endedAtMs: null, error: null });
      try {
        const result = await run();
        const summary = describe(result);
        if (holds(result)) end('changed', summary, null);
        else end('failed', '', summary);
        return result;
      } catch (error) {
        end('failed', '', isCancellation(error) ? 'cancelled' : causeText(error));
        throw error;
      }
    },
    about(subject: DrillSubject): void {
      plan = { ...plan, service: subject.service, environment: subject.environment, objectives: subject.objectives === null ? null : { ...subject.objectives, refusedWritesMs: null, lostWrites: 0 } };
    },
    note(kind: string, data: unknown): void {
      noted.push({ at: new Date(Date.now()).toISOString(), kind, data });
    },
    again(): void {
      for (const id of ['target', 'restore', 'prove', 'checks'] as const) {
        const attempt = state.steps.find((step) => step.id === id)!.attempt + 1;
        change(id, { status: 'pending', outcome: null, summary: '', error: null, startedAtMs: null, endedAtMs: null, attempt });
      }
    },
    finish(ok: boolean): void {
      state = { ...state, status: 'finished', final: ok ? 'succeeded' : 'failed', steps: state.steps.map((step) => (step.status === 'pending' ? { ...step, status: 'done', outcome: 'skipped' } : step)) };
    },
    timeline(originMs: number): TimelineEntry[] {
      return lines.map(({ label, startMs, endMs, outcome }) => ({ label, startMs: startMs - originMs, endMs: endMs - originMs, outcome }));
    },
    facts(subject: DrillSubject | null, found: Findings): FactInput[] {
      const at = (ms: number): string => new Date(ms).toISOString();
      return [
        ...(subject === null ? [] : [{ at: at(lines[0]!.endMs), kind: 'subject', data: subject }]),
        ...lines.map(({ label, startMs, endMs, outcome, summary }) => ({ at: at(endMs), kind: 'step', data: { step: label, startedAt: at(startMs), finishedAt: at(endMs), outcome, summary } })),
        ...noted,
        ...(found.restored === null ? [] : [{ at: at(found.restored.finishedAtMs), kind: 'restored', data: found.restored }]),
        ...(found.proof === null ? [] : [{ at: at(Date.now()), kind: 'proof', data: found.proof }]),
      ].sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
    },
  };
}
