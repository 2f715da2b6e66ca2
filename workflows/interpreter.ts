import {
  ActivityCancellationType,
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  CancelledFailure,
  ChildWorkflowCancellationType,
  ChildWorkflowFailure,
  ParentClosePolicy,
  TimeoutFailure,
  WorkflowIdReusePolicy,
  allHandlersFinished,
  condition,
  defineQuery,
  defineUpdate,
  isCancellation,
  executeChild,
  log,
  patched,
  proxyActivities,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import { WORKFLOW_IDS, type CheckResult, type Notice } from '../src/model/api.ts';
import { phaseActivity, stepKind, type Phase } from '../src/model/catalogue.ts';
import {
  MOST_REFUSALS,
  OPERATOR_ACTIONS,
  approvalNeeded,
  deadlineFrom,
  leftOut,
  nextActions,
  parkedSteps,
  reduce,
  refusal,
  startExecution,
  stepInput,
  type Action,
  type ApprovalNeeded,
  type ExecutionEvent,
  type ExecutionState,
  type OperatorAction,
  type OperatorRequest,
  type PhaseResult,
  type Plan,
  type PreflightResult,
  type Progress,
} from '../src/model/execution.ts';
import type { Override } from '../src/model/rules.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import type { PhaseCall } from '../src/model/step-call.ts';
import { formatDuration } from '../src/model/units.ts';

export const progressQuery = defineQuery<Progress>('progress');
/** What an approval must carry, alone: for those who approve with Temporal's own command line. */
export const approvalQuery = defineQuery<ApprovalNeeded | null>('approval');

const READ_PHASE_MS = 45_000;
const HEARTBEAT_MS = 10_000;
const BACKGROUND_KINDS: Readonly<Record<string, string>> = { 'canary.start': 'canary.start:write' };

/** The canary: runs beside the steps; `canary.verify` collects its findings. */
interface Background {
  readonly scope: CancellationScope;
  readonly result: Promise<PhaseResult>;
}

/** More characters than this are refused without a trace, too. */
const LONGEST_REQUEST = 20_000;

export interface ExecutionStart {
  readonly epoch: number;
  readonly requestedBy: string;
  readonly reason: string;
  readonly dryRun: boolean;
  readonly overrides?: readonly Override[];
  /** What it holds. */
  readonly locks?: PhaseCall['locks'];
}

/** What a nested run gives back; the result of the workflow types failover and runbook. */
export interface NestedResult {
  readonly outcome: string;
  readonly failure: string | null;
  readonly primary: string | null;
  readonly candidate: string | null;
  readonly evidence: string | null;
  readonly promoted?: boolean;
  readonly checks: readonly CheckResult[];
}

export interface Execution {
  /** Reports what is going on while no plan is there yet. */
  setPlan(plan: Plan, start: ExecutionStart): void;
  /** Ends it before it began. */
  refuse(why: string): ExecutionState;
  /** Carries the plan out to its end; never throws for a failed step: the outcome is in the state. */
  run(): Promise<ExecutionState>;
}

/**
 * Sets all handlers at once: call it before the first await of the workflow.
 * @param tell is called when people are needed; it must not throw and is not waited for.
 */
export function createExecution(tell: (notice: Notice) => void = () => {}): Execution {
  let plan: Plan | null = null;
  let state: ExecutionState | null = null;
  let locks: PhaseCall['locks'];
  /** Grows with every event: what waits looks again. */
  let version = 0;
  let waitingFor: string | null = 'the plan';
  let started: ExecutionStart | null = null;
  const background = new Map<string, Background>();
  /** Phases, nested runs and waits that are under way. */
  const underWay = new Map<number, CancellationScope>();
  const told = new Set<string>();
  const startedAtMs = workflowInfo().runStartTime.getTime();

  function dispatch(event: ExecutionEvent): void {
    if (plan === null || state === null) return;
    state = reduce(plan, state, event);
    version += 1;
  }

  setHandler(progressQuery, () => ({
    plan: plan && { hash: plan.hash, kind: plan.kind, runbook: plan.runbook, title: plan.title, service: plan.service, mode: plan.mode, objectives: plan.objectives },
    state,
    startedAtMs,
    waitingFor,
    approval: plan === null || state === null ? null : approvalNeeded(plan, state),
    parked: plan === null || state === null ? [] : parkedSteps(plan, state),
  }));
  setHandler(approvalQuery, () => (plan === null || state === null ? null : approvalNeeded(plan, state)));
  for (const action of OPERATOR_ACTIONS) {
    setHandler(
      defineUpdate<string, [OperatorRequest]>(action),
      async (request) => {
        await settled();
        // Refused here and not by the validator, so that history keeps who tried what. Older executions refused before.
        const why = patched('refusals-recorded') ? refusal(plan!, state!, action, request) : null;
        if (why !== null) {
          dispatch({ type: 'refused', action, request, why, atMs: Date.now() });
          throw ApplicationFailure.nonRetryable(why, 'refused');
        }
        const kept = action === 'retry' && plan!.steps.some((step) => step.id === request.step && step.deadlineMs != null) && !patched('deadline-anew');
        dispatch({ type: 'operator', action, request, atMs: Date.now(), ...(kept ? { deadlineKept: true } : {}) });
        return `${action} by ${request.by} taken`;
      },
      { validator: (request) => refuseWithoutTrace(action, request) },
    );
  }
  /** What history cannot or need not keep. */
  function refuseWithoutTrace(action: OperatorAction, request: OperatorRequest): void {
    const why =
      plan === null || state === null
        ? 'the plan is not there yet'
        : state.status === 'finished'
          ? 'the execution has ended'
          : JSON.stringify(request ?? null).length > LONGEST_REQUEST
            ? `the request is longer than ${LONGEST_REQUEST} characters`
            : state.refusals.length >= MOST_REFUSALS
              ? refusal(plan, state, action, request)
              : null;
    if (why !== null) throw ApplicationFailure.nonRetryable(why, 'refused');
  }

  function phaseCall(step: number, phase: Phase, preflight: boolean): PhaseCall {
    const planned = plan!.steps[step]!;
    const info = workflowInfo();
    return {
      step: planned.id,
      uses: planned.uses,
      phase,
      preflight,
      with: stepInput(plan!, state!, step).value,
      mode: state!.mode,
      service: plan!.service,
      environment: plan!.environment,
      workflowId: info.workflowId,
      runId: info.runId,
      epoch: state!.epoch,
      ...(locks === undefined ? {} : { locks }),
      ...(state!.overrides.length === 0 ? {} : { overrides: state!.overrides.map(({ rule }) => rule) }),
      key: `${info.workflowId}/${planned.id}/${state!.epoch}`,
      before: state!.steps[step]!.before,
      ...(state!.steps[step]!.lastReport === undefined ? {} : { lastReport: state!.steps[step]!.lastReport }),
      facts: state!.facts[planned.id] ?? {},
    };
  }

  async function callPhase(step: number, phase: Phase, preflight: boolean): Promise<PhaseResult> {
    const planned = plan!.steps[step]!;
    const kind = stepKind(planned.uses)!;
    if (kind.runsIn === 'child') return runNested(step, phase);
    const call = phaseCall(step, phase, preflight);
    const changing = phase === 'apply' || phase === 'undo';
    let limitMs = changing ? planned.applyMs : phase === 'verify' ? kind.verifyMs : READ_PHASE_MS;
    const refusedSince = state!.writesRefusedSinceMs;
    const hurry = refusedSince !== null && !state!.pastPointOfNoReturn && phase !== 'undo' && !kind.pointOfNoReturn;
    if (hurry) {
      // Nothing may wait longer than writes may be refused.
      limitMs = Math.max(1000, Math.min(limitMs, refusedSince + plan!.readOnlyDeadlineMs - Date.now()));
    }
    const { deadlineMs } = planned;
    const begunAtMs = deadlineFrom(state!.steps[step]!);
    // The step's own deadline ends an attempt; an undo is not bound by it.
    if (deadlineMs != null && begunAtMs !== null && phase !== 'undo') limitMs = Math.max(1000, Math.min(limitMs, begunAtMs + deadlineMs - Date.now()));
    // An undo is tried on: what it waits for (a worker, a network) comes back, and until then nobody else lifts what we did.
    const attempts = phase === 'apply' ? 1 : phase === 'undo' ? 100 : 3;
    // After a lost answer a network that is cut for a while refuses every look at once: it is looked at until the time is over.
    const patient = phase === 'inspect' && state!.steps[step]!.inDoubt;
    const activities = proxyActivities<Record<string, (call: PhaseCall) => Promise<PhaseResult>>>({
      startToCloseTimeout: limitMs,
      // All attempts together, when writes are refused meanwhile. An undo waits for a worker as long as it takes.
      ...(phase === 'undo' ? {} : { scheduleToCloseTimeout: hurry ? limitMs : limitMs * attempts + 10_000 }),
      heartbeatTimeout: HEARTBEAT_MS,
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      retry: { maximumAttempts: patient ? 100 : attempts, initialInterval: 200, maximumInterval: patient ? 2000 : 5000 },
    });
    return activities[phaseActivity(planned.uses, phase)]!(call);
  }

  /** Another runbook as an execution of its own. Its guards are asked by a dry run of it. */
  async function runNested(step: number, phase: Phase): Promise<PhaseResult> {
    const planned = plan!.steps[step]!;
    const parsed = stepKind(planned.uses)!.input.safeParse(stepInput(plan!, state!, step).value);
    if (!parsed.success) throw ApplicationFailure.nonRetryable(`step ${planned.id}: its inputs do not fit: ${parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ')}`, 'step-input');
    const input = parsed.data as { runbook?: string; service?: string; purpose?: string; mode?: string; parameters: Record<string, unknown> };
    const info = workflowInfo();
    const dryRun = phase === 'guard';
    const type = input.purpose === undefined ? 'runbook' : 'failover';
    const own = `${info.workflowId}/${planned.id}/${state!.steps[step]!.attempt}`;
    const workflowId = dryRun ? `${own}/guards` : type === 'failover' ? WORKFLOW_IDS.failover(input.service!) : own;
    const { runbook, service, purpose, parameters } = input;
    const args = [
      {
        ...(runbook === undefined ? {} : { runbook }), ...(service === undefined ? {} : { service }), ...(purpose === undefined ? {} : { purpose }), parameters,
        mode: input.mode ?? state!.mode,
        reason: `step ${planned.id} of ${info.workflowId}: ${started!.reason}`,
        requestedBy: started!.requestedBy,
        dryRun,
        overrides: state!.overrides.map(({ rule, reason }) => ({ rule, reason })),
        ...(planned.nestedDocument == null ? {} : { expectedDocument: planned.nestedDocument }),
      },
    ];
    let result: NestedResult;
    try {
      result = await executeChild<(input: unknown) => Promise<NestedResult>>(type, {
        workflowId,
        args: args as [unknown],
        parentClosePolicy: ParentClosePolicy.REQUEST_CANCEL,
        cancellationType: ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      });
    } catch (error) {
      if (error instanceof WorkflowExecutionAlreadyStartedError) throw ApplicationFailure.nonRetryable(`${workflowId} is running already: two runs would act on the same thing`, 'already-running');
      throw error;
    }
    const facts = { execution: workflowId, evidence: result.evidence, primary: result.primary, candidate: result.candidate };
    if (!dryRun) return { outcome: 'changed', summary: `${workflowId} ${result.outcome}${result.primary === null ? '' : `: ${result.primary} -> ${result.candidate ?? '?'}`}`, after: facts, facts, pointOfNoReturn: result.promoted === true };
    const holds = result.outcome === 'checked';
    return { summary: holds ? `the guards of ${workflowId} hold` : 'its guards do not hold', checks: [...result.checks, { name: 'guards of the nested run', ok: holds, expected: 'all hold', found: result.failure ?? 'all hold' }] };
  }

  function startBackground(step: number): void {
    const planned = plan!.steps[step]!;
    const activityName = BACKGROUND_KINDS[planned.uses];
    if (activityName === undefined || background.has(planned.id)) return;
    const scope = new CancellationScope({ cancellable: true });
    const result = scope.run(() => {
      const activities = proxyActivities<Record<string, (call: PhaseCall) => Promise<PhaseResult>>>({
        startToCloseTimeout: '2 hours',
        heartbeatTimeout: HEARTBEAT_MS,
        cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        retry: { maximumAttempts: 20, initialInterval: 100, maximumInterval: 1000 },
      });
      return activities[activityName]!(phaseCall(step, 'apply', false));
    });
    result.catch(() => {}); // Looked at where it is collected.
    background.set(planned.id, { scope, result });
  }

  async function runPhase(step: number, phase: Phase): Promise<void> {
    const uses = plan!.steps[step]!.uses;
    dispatch({ type: 'began', step, phase, atMs: Date.now() });
    waitingFor = `${plan!.steps[step]!.id}: ${phase}`;
    try {
      if (phase === 'apply' && BACKGROUND_KINDS[uses] !== undefined) {
        const result = await callPhase(step, phase, false);
        startBackground(step);
        dispatch({ type: 'phaseDone', step, phase, result, atMs: Date.now() });
        return;
      }
      if (phase === 'undo' && BACKGROUND_KINDS[uses] !== undefined) {
        background.get(plan!.steps[step]!.id)?.scope.cancel();
        background.delete(plan!.steps[step]!.id);
      }
      const collected = phase === 'verify' && uses === 'canary.verify' ? await collectBackground(step) : null;
      const result = await callPhase(step, phase, false);
      dispatch({ type: 'phaseDone', step, phase, result: collected === null ? result : merge(collected, result), atMs: Date.now() });
    } catch (error) {
      const { how, text, code, report } = classify(error);
      log.warn('phase did not succeed', { step: plan!.steps[step]!.id, phase, how, error: text });
      // Earlier histories went back here.
      const promoted = phase === 'apply' && promotedIn(error) && patched('promoted-nested-run-parks');
      dispatch({ type: 'phaseFailed', step, phase, how, error: text, ...(code === undefined ? {} : { code }), ...(report === undefined ? {} : { report }), ...(promoted ? { promoted: true } : {}), atMs: Date.now() });
    }
  }

  /** The canary ends by itself after good writes on the new primary; when it does not in time, it is ended. */
  async function collectBackground(step: number): Promise<PhaseResult> {
    const parsed = stepKind('canary.verify')!.input.parse(stepInput(plan!, state!, step).value) as { wait: number };
    const [entry] = background.values();
    if (entry === undefined) return { summary: 'no canary was running', facts: { note: 'no canary was running' } };
    let ended = false;
    const settled = entry.result.then(
      (result) => result,
      (error: unknown): PhaseResult => ({ summary: `the canary did not report: ${classify(error).text}`, facts: { note: `the canary did not report: ${classify(error).text}` } }),
    );
    void settled.then(() => {
      ended = true;
    });
    if (!(await condition(() => ended, parsed.wait))) entry.scope.cancel();
    const result = await settled;
    // Its findings belong to this step's facts, where the verification of the acknowledged writes reads them.
    state = { ...state!, facts: { ...state!.facts, [plan!.steps[step]!.id]: { ...result.facts } } };
    return result;
  }

  async function runPreflight(action: Extract<Action, { type: 'preflight' }>): Promise<void> {
    waitingFor = 'all guards before the first change';
    const results: PreflightResult[] = await Promise.all(
      action.calls.map(async ({ step, phase }): Promise<PreflightResult> => {
        try {
          return { step, phase, result: await callPhase(step, phase, true), error: null };
        } catch (error) {
          return { step, phase, result: null, error: classify(error).text };
        }
      }),
    );
    dispatch({ type: 'preflightDone', results, atMs: Date.now() });
  }

  async function approval(action: Extract<Action, { type: 'approval' }>): Promise<void> {
    if (state!.approvals.length >= action.needed) {
      dispatch({ type: 'approvalSettled', step: action.step, outcome: 'approved', atMs: Date.now() });
      return;
    }
    if (action.expiresAtMs === null) {
      dispatch({ type: 'approvalBegan', step: action.step, atMs: Date.now() });
      return;
    }
    waitingFor = `${action.needed - state!.approvals.length} approval(s)`;
    alert(`approval/${action.step}/${action.expiresAtMs}`, `${plan!.title}: ${waitingFor} needed`, `Look at it: holdfast status ${workflowInfo().workflowId}; then: holdfast approve ${workflowInfo().workflowId} --reason "...". It expires at ${new Date(action.expiresAtMs).toISOString()} into denied.`);
    const seen = version;
    const deadMan = action.deadlineMs !== null && action.deadlineMs < action.expiresAtMs;
    const left = (deadMan ? action.deadlineMs! : action.expiresAtMs) - Date.now();
    if (left > 0 && (await condition(() => version !== seen, left))) return;
    dispatch(deadMan ? { type: 'deadManExpired', atMs: Date.now() } : { type: 'approvalSettled', step: action.step, outcome: 'expired', atMs: Date.now() });
  }

  async function park(action: Extract<Action, { type: 'park' }>): Promise<void> {
    const step = action.step === null ? null : state!.steps[action.step]!;
    waitingFor = `an operator: ${action.why}`;
    log.error('parked for an operator', { step: step?.id ?? null, why: action.why });
    alertParked(action);
    const seen = version;
    if (action.deadlineMs === null) {
      await condition(() => version !== seen);
      return;
    }
    const left = action.deadlineMs - Date.now();
    if (left <= 0 || !(await condition(() => version !== seen, left))) dispatch({ type: 'deadManExpired', atMs: Date.now() });
  }

  function alertParked(action: Extract<Action, { type: 'park' }>): void {
    if (action.step === null) return;
    const step = state!.steps[action.step]!;
    const until = action.deadlineMs === null ? '' : `. Writes are refused; they are let in again at ${new Date(action.deadlineMs).toISOString()}`;
    alert(`${step.id}/${step.attempt}`, `${plan!.title}: step ${step.id} needs an operator`, `${action.why}\nSee: holdfast status ${workflowInfo().workflowId}; then retry, skip or markDone${until}`);
  }

  /** Tells people once. */
  function alert(key: string, title: string, text: string): void {
    if (told.has(key)) return;
    told.add(key);
    if (patched('operators-told')) tell({ level: 'attention', title, text, fields: { workflow: workflowInfo().workflowId, mode: state!.mode, ...(plan!.service === null ? {} : { service: plan!.service }) } });
  }

  async function sleepFor(step: number, durationMs: number, deadlineMs: number | null, over: 'waited' | 'delayOver'): Promise<void> {
    waitingFor = `${formatDuration(durationMs)} to pass`;
    const untilDeadline = deadlineMs === null ? Number.POSITIVE_INFINITY : Math.max(1, deadlineMs - Date.now());
    const stopped = (): boolean => state!.status !== 'running' || state!.switching;
    await condition(stopped, Math.max(1, Math.min(durationMs, untilDeadline)));
    if (!stopped() && untilDeadline < durationMs) dispatch({ type: 'deadManExpired', atMs: Date.now() });
    // Nothing is under way any more, whatever ended it.
    dispatch({ type: state!.status === 'running' && !state!.switching ? over : 'delayOver', step, atMs: Date.now() });
  }

  function launch(step: number, work: () => Promise<void>): void {
    const scope = new CancellationScope({ cancellable: true });
    underWay.set(step, scope);
    void scope.run(work).finally(() => {
      // The next phase of the step may have begun by now.
      if (underWay.get(step) === scope) underWay.delete(step);
      version += 1;
    });
  }

  async function run(): Promise<ExecutionState> {
    for (;;) {
      const skipped = leftOut(plan!, state!);
      if (skipped !== null) {
        dispatch({ type: 'skippedByMode', step: skipped, atMs: Date.now() });
        continue;
      }
      const actions = nextActions(plan!, state!);
      const [action] = actions;
      if (action === undefined || action.type === 'finish') break;
      if (action.type === 'preflight') await runPreflight(action);
      else if (action.type === 'approval') await approval(action);
      else if (action.type === 'condition') dispatch({ type: 'conditionSettled', step: action.step, holds: action.holds, why: action.why, atMs: Date.now() });
      else if (action.type === 'switch') dispatch({ type: 'switched', atMs: Date.now() });
      else if (action.type === 'park' && underWay.size === 0) await park(action);
      else {
        for (const one of actions) {
          if (one.type === 'park') alertParked(one);
          else if (one.type === 'phase') launch(one.step, () => runPhase(one.step, one.phase));
          else if (one.type === 'wait' || one.type === 'delay') {
            dispatch({ type: 'waitBegan', step: one.step, atMs: Date.now() });
            launch(one.step, () => sleepFor(one.step, one.type === 'wait' ? one.durationMs : Math.max(1, one.untilMs - Date.now()), one.deadlineMs, one.type === 'wait' ? 'waited' : 'delayOver'));
          }
        }
        // What goes over to another mode does not wait for what may never answer.
        if (state!.switching) for (const scope of underWay.values()) scope.cancel();
        const seen = version;
        await condition(() => version !== seen);
      }
    }
    waitingFor = null;
    const final: ExecutionState = { ...state!, status: 'finished', final: state!.final ?? (state!.dryRun ? 'checked' : 'succeeded') };
    state = final;
    for (const entry of background.values()) {
      entry.scope.cancel();
      await entry.result.catch(() => {});
    }
    await condition(allHandlersFinished);
    return final;
  }

  return {
    setPlan(newPlan, start) {
      plan = newPlan;
      started = start;
      locks = start.locks;
      state = startExecution(newPlan, start);
    },
    refuse(why) {
      // As state of the execution, so that nobody is told that it runs, and no decision is taken for it any more.
      state = { ...state!, status: 'finished', final: 'denied', failure: why };
      waitingFor = null;
      return state;
    },
    run() {
      const outer = CancellationScope.current();
      // A cancellation is a wish, not a kill: it undoes before the point of no return and changes nothing after it.
      outer.cancelRequested.catch(() => {
        dispatch({ type: 'cancelRequested', atMs: Date.now() });
        // A nested run decides for itself whether it can still go back.
        for (const [step, scope] of underWay) if (stepKind(plan!.steps[step]!.uses)?.runsIn === 'child') scope.cancel();
      });
      return CancellationScope.nonCancellable(run);
    },
  };
}

/**
 * Lets everything that came with the same workflow task take effect before a decision is judged. The SDK hands updates over before
 * the results of activities; but a query that was asked while that task was waiting (its worker was lost) has taken the results in
 * before. Judged at once, a decision would be taken in the one order and refused in the other, and the execution could not be replayed.
 */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 100; turn += 1) await Promise.resolve();
}

function merge(first: PhaseResult, second: PhaseResult): PhaseResult {
  return { ...second, checks: [...(first.checks ?? []), ...(second.checks ?? [])], facts: { ...first.facts, ...second.facts }, summary: second.summary };
}

/** A timeout or a lost worker is unknown; what the activity itself called final is failed. */
export function classify(error: unknown): { how: 'failed' | 'unknown'; text: string; code?: string; report?: Json } {
  let cause = error;
  while (cause instanceof ActivityFailure || cause instanceof ChildWorkflowFailure) cause = cause.cause;
  if (cause instanceof ApplicationFailure) return { how: cause.nonRetryable === true ? 'failed' : 'unknown', text: cause.message, ...(cause.type == null ? {} : { code: cause.type }), ...(error instanceof ActivityFailure ? reportIn(cause.details?.[0]) : {}) };
  if (cause instanceof TimeoutFailure) return { how: 'unknown', text: `no answer in time (${cause.timeoutType})`, ...reportIn(cause.lastHeartbeatDetails) };
  if (cause instanceof CancelledFailure || isCancellation(cause)) return { how: 'unknown', text: 'cancelled before it answered' };
  return { how: 'unknown', text: cause instanceof Error ? cause.message : String(cause) };
}

/** A nested run that failed after it had promoted. Its failure carries its whole result. */
function promotedIn(error: unknown): boolean {
  if (!(error instanceof ChildWorkflowFailure) || !(error.cause instanceof ApplicationFailure)) return false;
  return (error.cause.details?.[0] as Partial<NestedResult> | undefined)?.promoted === true;
}

/** How far an activity had come. A nested run's failure carries its whole result instead, which stays where it is. */
function reportIn(details: unknown): { report?: Json } {
  return details === null || typeof details !== 'object' || Array.isArray(details) ? {} : { report: details as Json };
}
