import { ActivityCancellationType, ApplicationFailure, CancellationScope, log, patched, proxyActivities, sleep, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import type { createEvidenceActivities } from '../activities/evidence.ts';
import type { createNotifyActivities } from '../activities/notify.ts';
import type { createPlanActivities, PlanRequest } from '../activities/plan.ts';
import type { createReadinessActivities } from '../activities/readiness.ts';
import { SEARCH_ATTRIBUTES, failoverInputSchema, runbookInputSchema, type CheckResult, type FailoverInput, type Notice, type RunbookInput } from '../src/model/api.ts';
import type { EvidenceInput, EvidenceLocation, Measurement } from '../src/model/evidence.ts';
import type { ExecutionState, FinalOutcome, Plan } from '../src/model/execution.ts';
import { failbackText, generateFailback, originOf, type GeneratedFailback } from '../src/model/failback.ts';
import { measureDrill } from '../src/model/measure-drill.ts';
import { checksOf, factsOf, marksOf, measureFailover, timelineOf } from '../src/model/measure.ts';
import { GATE_RULES, gate } from '../src/model/readiness.ts';
import type { Override } from '../src/model/rules.ts';
import { formatDuration } from '../src/model/units.ts';
import { holdForPlan, lookAtLocks } from './hold.ts';
import { classify, createExecution } from './interpreter.ts';
import { parseInput } from './input.ts';

const { resolvePlan } = proxyActivities<ReturnType<typeof createPlanActivities>>({
  startToCloseTimeout: '30 seconds',
  scheduleToCloseTimeout: '5 minutes',
  retry: { maximumAttempts: 5, initialInterval: 500 },
});
const { writeEvidence } = proxyActivities<ReturnType<typeof createEvidenceActivities>>({
  startToCloseTimeout: '2 minutes',
  scheduleToCloseTimeout: '10 minutes',
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  retry: { maximumAttempts: 5, initialInterval: 500 },
});
const { notify } = proxyActivities<ReturnType<typeof createNotifyActivities>>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '3 minutes',
  retry: { maximumAttempts: 3 },
});
/** The start gate. Bounded: a planned failover waits for it at its start, a forced one at its end. */
const { checkProofs, checkRehearsals } = proxyActivities<ReturnType<typeof createReadinessActivities>>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '90 seconds',
  retry: { maximumAttempts: 2 },
});

export interface ExecutionResult {
  readonly outcome: FinalOutcome;
  /** It passed the point of no return. */
  readonly promoted: boolean;
  readonly service: string | null;
  readonly runbook: string;
  readonly mode: string;
  readonly planHash: string;
  /** Hashes of the runbook document and of the service's configuration, so that a later run is known to be of the same ones. */
  readonly document: string | null;
  readonly configuration: string | null;
  readonly failure: string | null;
  readonly primary: string | null;
  readonly candidate: string | null;
  readonly measurements: readonly Measurement[];
  readonly objectivesMet: boolean | null;
  readonly missed: readonly string[];
  /** Folder of the evidence, or why there is none. */
  readonly evidence: string | null;
  /** What is wrong with it although it was written: not signed, not copied to the store, in no chain. */
  readonly evidenceProblem?: string | null;
  readonly checks: readonly CheckResult[];
  /** The way back, generated from what was changed, or why there is none; null for a dry run. */
  readonly failback?: GeneratedFailback | null;
  /** Steps that a person skipped or declared done: whoever counts rehearsals does not count them. */
  readonly byPeople?: readonly string[];
  readonly steps: readonly { id: string; uses: string; outcome: string; ms: number | null; summary: string }[];
}

/** Fails a service over: plan, guards, approval, the service's runbook, measurement, evidence. */
export async function failover(input: FailoverInput): Promise<ExecutionResult> {
  const parsed = parseInput('failover', failoverInputSchema, input);
  return execute(
    { type: 'failover', service: parsed.service, purpose: parsed.purpose, runbook: null, mode: parsed.mode, parameters: parsed.parameters, ...(parsed.document === undefined ? {} : { document: parsed.document }), ...(parsed.expectedDocument === undefined ? {} : { expectedDocument: parsed.expectedDocument }) },
    whoOf(parsed),
  );
}

/** Runs any runbook. */
export async function runbook(input: RunbookInput): Promise<ExecutionResult> {
  const parsed = parseInput('runbook', runbookInputSchema, input);
  return execute(
    { type: 'runbook', service: parsed.service ?? null, purpose: null, runbook: parsed.runbook, mode: parsed.mode, parameters: parsed.parameters, ...(parsed.expectedDocument === undefined ? {} : { expectedDocument: parsed.expectedDocument }) },
    whoOf(parsed),
  );
}

interface Who {
  readonly requestedBy: string;
  readonly reason: string;
  readonly dryRun: boolean;
  readonly overrides: readonly Override[];
}

function whoOf(input: { requestedBy: string; reason: string; dryRun: boolean; overrides: readonly Pick<Override, 'rule' | 'reason'>[] }): Who {
  return { requestedBy: input.requestedBy, reason: input.reason, dryRun: input.dryRun, overrides: input.overrides.map(({ rule, reason }) => ({ rule, reason, by: input.requestedBy })) };
}

async function execute(request: PlanRequest, who: Who): Promise<ExecutionResult> {
  const execution = createExecution((notice) => void send(notice));
  const info = workflowInfo();
  const startedAtMs = info.runStartTime.getTime();
  upsertSearchAttributes({
    ...(request.service === null ? {} : { [SEARCH_ATTRIBUTES.service]: [request.service] }),
    [SEARCH_ATTRIBUTES.mode]: [request.mode],
    [SEARCH_ATTRIBUTES.requestedBy]: [who.requestedBy],
  });
  const plan = await resolvePlan(request);
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.runbook]: [plan.runbook], [SEARCH_ATTRIBUTES.environment]: [plan.environment] });
  const gated = request.type === 'failover' && !who.dryRun && patched('start-gate') ? CancellationScope.nonCancellable(() => startGate(plan, who)) : null;
  // What stops nothing is asked beside the run: nobody waits for a store at three in the morning.
  const refusal = gated === null || (plan.gate ?? []).length === 0 ? null : (await gated).refusal;
  // A dry run takes no lock: it only says what it would meet.
  const held = who.dryRun || refusal !== null ? null : await holdForPlan(plan, who);
  const met = held?.checks ?? (who.dryRun ? await lookAtLocks(plan) : []);
  execution.setPlan(plan, { epoch: held?.epoch ?? startedAtMs, ...who, ...(held === null ? (who.dryRun || refusal !== null || !patched('resource-locks') ? {} : { locks: {} }) : { locks: held.locks }) });
  const clock = new CancellationScope({ cancellable: true });
  if (!who.dryRun && plan.objectives !== null && plan.kind !== 'runbook' && !rebuildsFirst(plan) && patched('rto-alert')) void clock.run(() => watchRto(plan, startedAtMs)).catch(() => {});
  const state: ExecutionState = refusal === null ? await execution.run() : execution.refuse(refusal);
  clock.cancel();
  // Whatever happens to the execution now, its end is recorded and told. Nothing of it acts on a datastore any more.
  return CancellationScope.nonCancellable(async () => {
    // A nested run that promoted says so itself, to the lock of what it promoted.
    const promoted = state.pastPointOfNoReturn && plan.steps.some((step) => step.uses === 'postgres.promote');
    const released = held?.release(promoted ? { service: plan.service } : undefined);
    // A lock that does not answer is asked for an hour: nobody waits that long to be told how it ended.
    if (held !== null && !patched('told-beside-release')) await released;
    try {
      return await conclude(plan, state, startedAtMs, who, [...met, ...(gated === null ? [] : (await gated).checks)], request.document);
    } finally {
      await released;
    }
  });
}

/** The proofs a failover counts on if it goes wrong: backups, drills, rehearsal. Never throws: what cannot be asked is no proof. */
async function startGate(plan: Plan, who: Who): Promise<{ checks: CheckResult[]; refusal: string | null }> {
  const service = plan.service!;
  const unasked = (error: unknown): CheckResult[] => GATE_RULES.map((rule) => ({ name: rule, rule, ok: false, expected: 'an answer', found: classify(error).text }));
  const [proofs, rehearsals] = await Promise.all([checkProofs(service, Date.now()).catch(unasked), checkRehearsals(service, plan.runbook).catch((error: unknown): CheckResult[] => [{ name: 'rehearsed', rule: 'runbook-rehearsed', ok: false, expected: 'an answer', found: classify(error).text }])]);
  const named = [...proofs, ...rehearsals].map((check): CheckResult => ({ ...check, name: `start gate: ${check.name}` }));
  return gate(named, plan.gate ?? [], who.overrides);
}

/** The service runs while a standby is rebuilt: that time is none of its recovery. */
function rebuildsFirst(plan: Plan): boolean {
  const of = (kind: string): number => plan.steps.findIndex(({ uses }) => uses === kind);
  return of('postgres.rebuildStandby') >= 0 && of('postgres.rebuildStandby') < of('postgres.promote');
}

/** The objective's end alerts; it never aborts: half a promotion is worse than a late one. */
async function watchRto(plan: Plan, startedAtMs: number): Promise<void> {
  const { rtoMs } = plan.objectives!;
  await sleep(Math.max(1, startedAtMs + rtoMs - Date.now()));
  await send({
    level: 'attention',
    title: `${plan.title}: the RTO of ${plan.service} has passed`,
    text: `It has been running for ${formatDuration(rtoMs)} and goes on. See: holdfast status ${workflowInfo().workflowId}`,
    fields: { workflow: workflowInfo().workflowId, mode: plan.mode },
  });
}

async function send(notice: Notice): Promise<void> {
  try {
    await notify(notice);
  } catch (error) {
    log.warn('nobody could be told', { title: notice.title, error: classify(error).text });
  }
}

async function conclude(plan: Plan, state: ExecutionState, startedAtMs: number, who: Who, gateChecks: readonly CheckResult[], document: string | undefined): Promise<ExecutionResult> {
  const info = workflowInfo();
  const outcome = state.final ?? 'failed';
  // A nested run measures itself; a runbook without a promotion or a drill of its own has nothing to measure.
  const promoted = state.pastPointOfNoReturn && state.steps.some((step) => step.uses === 'postgres.promote');
  const measured = promoted ? measureFailover(plan, state, startedAtMs) : who.dryRun ? null : measureDrill(plan, state);
  // A drill that failed has failed, whatever it measured.
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.outcome]: [measured?.objectivesMet === false && (promoted || outcome === 'succeeded') ? 'objectives-missed' : outcome] });
  const result: ExecutionResult = {
    outcome,
    promoted: state.pastPointOfNoReturn,
    service: plan.service,
    runbook: plan.runbook,
    mode: state.mode,
    planHash: plan.hash,
    document: plan.document ?? null,
    configuration: plan.configuration ?? null,
    failure: state.failure,
    primary: textFact(state, 'primary'),
    candidate: textFact(state, 'candidate'),
    measurements: measured?.measurements ?? [],
    objectivesMet: measured?.objectivesMet ?? null,
    missed: measured?.missed ?? [],
    evidence: null,
    checks: [...gateChecks, ...checksOf(state)],
    failback: who.dryRun ? null : generateFailback(plan, state, { workflowId: info.workflowId, runId: info.runId, atMs: Date.now() }),
    byPeople: [...new Set(state.decisions.filter(({ action }) => action === 'skip' || action === 'markDone').flatMap(({ step }) => step ?? []))],
    steps: state.steps.map((step) => ({
      id: step.id,
      uses: step.uses,
      outcome: step.status === 'undone' ? 'undone' : (step.outcome ?? 'not begun'),
      ms: step.startedAtMs === null || step.endedAtMs === null ? null : step.endedAtMs - step.startedAtMs,
      summary: step.error ?? step.summary,
    })),
  };
  if (who.dryRun) return result;
  const evidence = await recordEvidence(plan, state, startedAtMs, who, result, gateChecks, info.workflowId, info.runId, document);
  const complete: ExecutionResult = { ...result, evidence: evidence.where, evidenceProblem: evidence.problem };
  await tell(plan, complete, startedAtMs, gateChecks);
  if (outcome !== 'succeeded') {
    throw ApplicationFailure.create({ message: `${plan.title}: ${outcome}: ${state.failure ?? 'no reason recorded'}`, type: `execution-${outcome}`, nonRetryable: true, details: [complete] });
  }
  return complete;
}

async function recordEvidence(
  plan: Plan, state: ExecutionState, startedAtMs: number, who: Who, result: ExecutionResult, gateChecks: readonly CheckResult[], workflowId: string, runId: string, document: string | undefined,
): Promise<{ where: string; problem: string | null }> {
  const failback = result.failback ?? null;
  const at = new Date(Date.now()).toISOString();
  const record: EvidenceInput = {
    kind: plan.kind,
    subject: plan.service ?? plan.runbook,
    service: plan.service,
    outcome: result.objectivesMet === false ? `${result.outcome}, objectives missed` : result.outcome,
    title: `${plan.title}: ${plan.service ?? plan.runbook} (${state.mode})`,
    summary: state.failure ?? (result.primary === null ? 'completed' : `${result.primary} -> ${result.candidate ?? '?'}`),
    workflowId,
    runId,
    requestedBy: who.requestedBy,
    reason: who.reason,
    startedAt: new Date(startedAtMs).toISOString(),
    finishedAt: at,
    planHash: plan.hash,
    measurements: result.measurements,
    timeline: timelineOf(state),
    marks: marksOf(plan, state, startedAtMs),
    checks: result.checks,
    facts: [
      ...factsOf(plan, state, startedAtMs),
      ...(gateChecks.length === 0 ? [] : [{ at: new Date(startedAtMs).toISOString(), kind: 'start-gate', data: gateChecks }]),
      ...(document === undefined ? [] : [{ at: new Date(startedAtMs).toISOString(), kind: 'given document', data: { document, origin: originOf(document) } }]),
      ...(failback === null ? [] : [{ at, kind: 'failback', data: failback }]),
    ],
    appendix: failback === null ? undefined : `## Failback\n\n${failbackText(failback)}`,
  };
  try {
    const location: EvidenceLocation = await writeEvidence(record);
    return { where: location.directory, problem: location.problem ?? null };
  } catch (error) {
    log.error('evidence could not be written', { error: classify(error).text });
    const why = `not written: ${classify(error).text}`;
    return { where: why, problem: why };
  }
}

async function tell(plan: Plan, result: ExecutionResult, startedAtMs: number, gateChecks: readonly CheckResult[]): Promise<void> {
  const good = result.outcome === 'succeeded' && result.objectivesMet !== false;
  const figures = Object.fromEntries(
    result.measurements.filter((item) => item.objective !== null).map((item) => [item.name, item.measured === null ? `not measured: ${item.note ?? ''}` : item.unit === 'ms' ? formatDuration(item.measured) : String(item.measured)]),
  );
  const attention = gateChecks.filter((check) => !check.ok || check.overridden !== undefined).map((check) => `${check.name}: ${check.found}${check.overridden === undefined ? '' : `, overridden by ${check.overridden}`}`);
  await send({
    level: good ? (result.evidenceProblem == null ? 'success' : 'attention') : 'failure',
    title: `${plan.title}: ${plan.service ?? plan.runbook} ${result.outcome}${result.objectivesMet === false ? ', objectives missed' : ''}`,
    text: result.failure ?? (result.missed.length > 0 ? result.missed.join('\n') : `took ${formatDuration(Date.now() - startedAtMs)}`),
    fields: { mode: result.mode, workflow: workflowInfo().workflowId, evidence: result.evidence ?? '-', ...(result.evidenceProblem == null ? {} : { 'evidence needs attention': result.evidenceProblem }), ...figures, ...(attention.length === 0 ? {} : { attention: attention.join('; ') }) },
  });
}

function textFact(state: ExecutionState, fact: string): string | null {
  for (const step of state.steps) {
    if (step.uses !== 'postgres.health') continue;
    const value = state.facts[step.id]?.[fact];
    if (typeof value === 'string') return value;
  }
  return null;
}
