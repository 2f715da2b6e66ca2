import {
  ActivityCancellationType,
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  CancelledFailure,
  TimeoutFailure,
  allHandlersFinished,
  condition,
  defineQuery,
  defineUpdate,
  isCancellation,
  log,
  proxyActivities,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import { phaseActivity, stepKind, type Phase } from '../src/model/catalogue.ts';
import {
  OPERATOR_ACTIONS,
  leftOut,
  nextAction,
  reduce,
  refusal,
  startExecution,
  stepInput,
  type Action,
  type ExecutionEvent,
  type ExecutionState,
  type OperatorAction,
  type OperatorRequest,
  type PhaseResult,
  type Plan,
  type PreflightResult,
  type Progress,
} from '../src/model/execution.ts';
import type { PhaseCall } from '../src/model/step-call.ts';
import { formatDuration } from '../src/model/units.ts';

export const progressQuery = defineQuery<Progress>('progress');

const READ_PHASE_MS = 30_000;
const HEARTBEAT_MS = 10_000;
const BACKGROUND_KINDS: Readonly<Record<string, string>> = { 'canary.start': 'canary.start:write' };

/** The canary: runs beside the steps; `canary.verify` collects its findings. */
interface Background {
  readonly scope: CancellationScope;
  readonly result: Promise<PhaseResult>;
}

export interface Execution {
  /** Reports what is going on while no plan is there yet. */
  setPlan(plan: Plan, start: { epoch: number; requestedBy: string; dryRun: boolean }): void;
  /** Carries the plan out to its end; never throws for a failed step: the outcome is in the state. */
  run(): Promise<ExecutionState>;
}

/** Sets all handlers at once: call it before the first await of the workflow. */
export function createExecution(): Execution {
  let plan: Plan | null = null;
  let state: ExecutionState | null = null;
  /** Grows with every event: what waits looks again. */
  let version = 0;
  let waitingFor: string | null = 'the plan';
  const background = new Map<string, Background>();
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
  }));
  for (const action of OPERATOR_ACTIONS) {
    setHandler(
      defineUpdate<string, [OperatorRequest]>(action),
      (request) => {
        dispatch({ type: 'operator', action, request, atMs: Date.now() });
        return `${action} by ${request.by} taken`;
      },
      { validator: (request) => refuseIfNeeded(action, request) },
    );
  }
  function refuseIfNeeded(action: OperatorAction, request: OperatorRequest): void {
    const why = plan === null || state === null ? 'the plan is not there yet' : refusal(plan, state, action, request);
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
      mode: plan!.mode,
      service: plan!.service,
      environment: plan!.environment,
      workflowId: info.workflowId,
      runId: info.runId,
      epoch: state!.epoch,
      key: `${info.workflowId}/${planned.id}/${state!.epoch}`,
      before: state!.steps[step]!.before,
      facts: state!.facts[planned.id] ?? {},
    };
  }

  async function callPhase(step: number, phase: Phase, preflight: boolean): Promise<PhaseResult> {
    const planned = plan!.steps[step]!;
    const kind = stepKind(planned.uses)!;
    const call = phaseCall(step, phase, preflight);
    const changing = phase === 'apply' || phase === 'undo';
    let limitMs = changing ? planned.applyMs : phase === 'verify' ? kind.verifyMs : READ_PHASE_MS;
    const refusedSince = state!.writesRefusedSinceMs;
    const hurry = refusedSince !== null && !state!.pastPointOfNoReturn && phase !== 'undo' && !kind.pointOfNoReturn;
    if (hurry) {
      // Nothing may wait longer than writes may be refused.
      limitMs = Math.max(1000, Math.min(limitMs, refusedSince + plan!.readOnlyDeadlineMs - Date.now()));
    }
    // An undo is tried on: what it waits for (a worker, a network) comes back, and until then nobody else lifts what we did.
    const attempts = phase === 'apply' ? 1 : phase === 'undo' ? 100 : 3;
    const activities = proxyActivities<Record<string, (call: PhaseCall) => Promise<PhaseResult>>>({
      startToCloseTimeout: limitMs,
      // All attempts together, when writes are refused meanwhile. An undo waits for a worker as long as it takes.
      ...(phase === 'undo' ? {} : { scheduleToCloseTimeout: hurry ? limitMs : limitMs * attempts + 10_000 }),
      heartbeatTimeout: HEARTBEAT_MS,
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      retry: { maximumAttempts: attempts, initialInterval: 200, maximumInterval: 5000 },
    });
    return activities[phaseActivity(planned.uses, phase)]!(call);
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
      if (phase === 'undo' && BACKGROUND_KINDS[uses] !== undefined) background.get(plan!.steps[step]!.id)?.scope.cancel();
      const collected = phase === 'verify' && uses === 'canary.verify' ? await collectBackground(step) : null;
      const result = await callPhase(step, phase, false);
      dispatch({ type: 'phaseDone', step, phase, result: collected === null ? result : merge(collected, result), atMs: Date.now() });
    } catch (error) {
      const { how, text, code } = classify(error);
      log.warn('phase did not succeed', { step: plan!.steps[step]!.id, phase, how, error: text });
      dispatch({ type: 'phaseFailed', step, phase, how, error: text, ...(code === undefined ? {} : { code }), atMs: Date.now() });
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
    const seen = version;
    const deadMan = action.deadlineMs !== null && action.deadlineMs < action.expiresAtMs;
    const left = (deadMan ? action.deadlineMs! : action.expiresAtMs) - Date.now();
    if (left > 0 && (await condition(() => version !== seen, left))) return;
    dispatch(deadMan ? { type: 'deadManExpired', atMs: Date.now() } : { type: 'approvalSettled', step: action.step, outcome: 'expired', atMs: Date.now() });
  }

  async function park(action: Extract<Action, { type: 'park' }>): Promise<void> {
    waitingFor = `an operator: ${action.why}`;
    log.error('parked for an operator', { step: action.step === null ? null : plan!.steps[action.step]!.id, why: action.why });
    const seen = version;
    if (action.deadlineMs === null) {
      await condition(() => version !== seen);
      return;
    }
    const left = action.deadlineMs - Date.now();
    if (left <= 0 || !(await condition(() => version !== seen, left))) dispatch({ type: 'deadManExpired', atMs: Date.now() });
  }

  async function run(): Promise<ExecutionState> {
    for (;;) {
      const skipped = leftOut(plan!, state!);
      if (skipped !== null) {
        dispatch({ type: 'skippedByMode', step: skipped, atMs: Date.now() });
        continue;
      }
      const action = nextAction(plan!, state!);
      if (action.type === 'finish') break;
      if (action.type === 'phase') await runPhase(action.step, action.phase);
      else if (action.type === 'preflight') await runPreflight(action);
      else if (action.type === 'approval') await approval(action);
      else if (action.type === 'park') await park(action);
      else {
        waitingFor = `${formatDuration(action.durationMs)} to pass`;
        const untilDeadline = action.deadlineMs === null ? Number.POSITIVE_INFINITY : Math.max(1, action.deadlineMs - Date.now());
        await condition(() => state!.status !== 'running', Math.max(1, Math.min(action.durationMs, untilDeadline)));
        if (state!.status === 'running') dispatch(untilDeadline < action.durationMs ? { type: 'deadManExpired', atMs: Date.now() } : { type: 'waited', step: action.step, atMs: Date.now() });
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
      state = startExecution(newPlan, start);
    },
    run() {
      const outer = CancellationScope.current();
      // A cancellation is a wish, not a kill: it undoes before the point of no return and changes nothing after it.
      outer.cancelRequested.catch(() => dispatch({ type: 'cancelRequested', atMs: Date.now() }));
      return CancellationScope.nonCancellable(run);
    },
  };
}

function merge(first: PhaseResult, second: PhaseResult): PhaseResult {
  return { ...second, checks: [...(first.checks ?? []), ...(second.checks ?? [])], facts: { ...first.facts, ...second.facts }, summary: second.summary };
}

/** A timeout or a lost worker is unknown; what the activity itself called final is failed. */
export function classify(error: unknown): { how: 'failed' | 'unknown'; text: string; code?: string } {
  const cause = error instanceof ActivityFailure ? error.cause : error;
  if (cause instanceof ApplicationFailure) return { how: cause.nonRetryable === true ? 'failed' : 'unknown', text: cause.message, ...(cause.type == null ? {} : { code: cause.type }) };
  if (cause instanceof TimeoutFailure) return { how: 'unknown', text: `no answer in time (${cause.timeoutType})` };
  if (cause instanceof CancelledFailure || isCancellation(cause)) return { how: 'unknown', text: 'cancelled before it answered' };
  return { how: 'unknown', text: cause instanceof Error ? cause.message : String(cause) };
}
