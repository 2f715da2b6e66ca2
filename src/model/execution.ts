/**
 * The interpreter of runbooks: pure state and transitions. The workflow only carries out what `nextAction` says and
 * reports back by `reduce`, so every interleaving can be checked without Temporal.
 */
import type { CheckResult } from './api.ts';
import { stepKind, type Phase, type StepKind } from './catalogue.ts';
import { fillReferences, type Json, type Mode } from './runbook-schema.ts';

/** Runbook and configuration as resolved at the start: frozen, hashed, and in history. */
export interface Plan {
  readonly hash: string;
  readonly kind: 'failover' | 'failback' | 'runbook';
  readonly runbook: string;
  readonly title: string;
  readonly service: string | null;
  readonly environment: string;
  readonly mode: Mode;
  readonly parameters: Readonly<Record<string, Json>>;
  readonly objectives: { readonly rtoMs: number; readonly rpoMs: number; readonly refusedWritesMs: number | null; readonly lostWrites: number } | null;
  readonly approval: { readonly count: number; readonly expiresMs: number };
  readonly readOnlyDeadlineMs: number;
  readonly datastores: readonly string[];
  readonly steps: readonly PlannedStep[];
}

export interface PlannedStep {
  readonly id: string;
  readonly title: string;
  readonly uses: string;
  readonly with: Readonly<Record<string, Json>>;
  /** false: this mode leaves it out. */
  readonly included: boolean;
  /** Its guards can only hold once this step is done; without it they are asked before the first change. */
  readonly after?: string | null;
  readonly applyMs: number;
  readonly attempts: number;
}

export type Outcome = 'changed' | 'already-satisfied' | 'skipped' | 'failed' | 'unknown';

/** What a phase activity returns. */
export interface PhaseResult {
  /** inspect: true when nothing is left to do. */
  readonly satisfied?: boolean;
  /** guard, verify: all of them must be ok. */
  readonly checks?: readonly CheckResult[];
  /** apply: `changed` or `already-satisfied`; a kind that has nothing to do here says `skipped`. */
  readonly outcome?: 'changed' | 'already-satisfied' | 'skipped';
  readonly summary: string;
  readonly before?: Json;
  readonly after?: Json;
  readonly facts?: Readonly<Record<string, Json>>;
}

export type StepStatus = 'pending' | 'running' | 'done' | 'parked' | 'undone';

export interface StepState {
  readonly id: string;
  readonly uses: string;
  readonly title: string;
  readonly status: StepStatus;
  readonly outcome: Outcome | null;
  readonly phase: Phase | null;
  /** Grows with every attempt of apply and with every operator decision; a stale number is refused. */
  readonly attempt: number;
  /** Apply is not begun beyond this attempt; an operator's retry grants one more. */
  readonly lastAttempt: number;
  /** apply was begun: undo must look at it even if its outcome is not known. */
  readonly applied: boolean;
  /** apply said that it changed something. */
  readonly changed: boolean;
  /** The last try of apply did not end: inspect before anything else. */
  readonly inDoubt: boolean;
  readonly preflighted: boolean;
  /** Applied within the refused-write window; verified as soon as that is over. */
  readonly verifyDue: boolean;
  readonly summary: string;
  readonly checks: readonly CheckResult[];
  readonly before: Json;
  readonly after: Json;
  readonly error: string | null;
  readonly startedAtMs: number | null;
  readonly endedAtMs: number | null;
}

export interface LedgerEntry {
  readonly step: string;
  readonly uses: string;
  readonly phase: 'apply' | 'undo';
  readonly epoch: number;
  readonly attempt: number;
  readonly before: Json;
  readonly after: Json;
  readonly atMs: number;
  readonly outcome: Outcome;
}

export interface Decision {
  readonly action: OperatorAction;
  readonly by: string;
  readonly reason: string;
  readonly step: string | null;
  readonly atMs: number;
  readonly evidence?: string;
}

export const OPERATOR_ACTIONS = ['approve', 'reject', 'retry', 'skip', 'markDone', 'pause', 'resume', 'abort'] as const;
export type OperatorAction = (typeof OPERATOR_ACTIONS)[number];

export interface OperatorRequest {
  readonly by: string;
  readonly reason: string;
  readonly step?: string;
  readonly attempt?: number;
  readonly evidence?: string;
}

export type FinalOutcome = 'succeeded' | 'failed' | 'denied' | 'aborted' | 'checked';

export interface ExecutionState {
  readonly status: 'running' | 'undoing' | 'finished';
  readonly final: FinalOutcome | null;
  /** Why it goes or went back. */
  readonly failure: string | null;
  readonly epoch: number;
  readonly requestedBy: string;
  readonly dryRun: boolean;
  readonly preflightDone: boolean;
  /** The guards were asked again right before writes are refused or the candidate is promoted. */
  readonly preflightRepeated: boolean;
  readonly pastPointOfNoReturn: boolean;
  readonly paused: boolean;
  readonly steps: readonly StepState[];
  readonly facts: Readonly<Record<string, Readonly<Record<string, Json>>>>;
  readonly ledger: readonly LedgerEntry[];
  readonly decisions: readonly Decision[];
  readonly approvals: readonly string[];
  readonly approvalSinceMs: number | null;
  /** Writes are refused by us since then. */
  readonly writesRefusedSinceMs: number | null;
}

/** What the query `progress` answers. */
export interface Progress {
  readonly plan: Pick<Plan, 'hash' | 'kind' | 'runbook' | 'title' | 'service' | 'mode' | 'objectives'> | null;
  readonly state: ExecutionState | null;
  readonly startedAtMs: number;
  readonly waitingFor: string | null;
}

export type Action =
  | { readonly type: 'phase'; readonly step: number; readonly phase: Phase }
  | { readonly type: 'preflight'; readonly calls: readonly { readonly step: number; readonly phase: 'inspect' | 'guard' }[] }
  | { readonly type: 'approval'; readonly step: number; readonly needed: number; readonly expiresAtMs: number | null; readonly deadlineMs: number | null }
  | { readonly type: 'wait'; readonly step: number; readonly durationMs: number; readonly deadlineMs: number | null }
  /** Nothing to do until an operator decides. `deadlineMs` here and above: until when writes may stay refused (epoch milliseconds). */
  | { readonly type: 'park'; readonly step: number | null; readonly why: string; readonly deadlineMs: number | null }
  | { readonly type: 'finish'; readonly outcome: FinalOutcome };

export type ExecutionEvent =
  | { readonly type: 'began'; readonly step: number; readonly phase: Phase; readonly atMs: number }
  | { readonly type: 'phaseDone'; readonly step: number; readonly phase: Phase; readonly result: PhaseResult; readonly atMs: number }
  /** `failed`: it certainly did not happen or said so itself. `unknown`: it timed out or its worker was lost. */
  | { readonly type: 'phaseFailed'; readonly step: number; readonly phase: Phase; readonly how: 'failed' | 'unknown'; readonly error: string; readonly code?: string; readonly atMs: number }
  | { readonly type: 'preflightDone'; readonly results: readonly PreflightResult[]; readonly atMs: number }
  | { readonly type: 'approvalBegan'; readonly step: number; readonly atMs: number }
  | { readonly type: 'skippedByMode'; readonly step: number; readonly atMs: number }
  | { readonly type: 'waited'; readonly step: number; readonly atMs: number }
  | { readonly type: 'approvalSettled'; readonly step: number; readonly outcome: 'approved' | 'expired'; readonly atMs: number }
  | { readonly type: 'deadManExpired'; readonly atMs: number }
  | { readonly type: 'cancelRequested'; readonly atMs: number }
  | { readonly type: 'operator'; readonly action: OperatorAction; readonly request: OperatorRequest; readonly atMs: number };

export interface PreflightResult {
  readonly step: number;
  readonly phase: 'inspect' | 'guard';
  readonly result: PhaseResult | null;
  readonly error: string | null;
}

/** Code of an error by which an apply says that it ended before its first effect. */
export const NOT_BEGUN = 'not-begun';

export function startExecution(plan: Plan, start: { epoch: number; requestedBy: string; dryRun: boolean }): ExecutionState {
  return {
    status: 'running',
    final: null,
    failure: null,
    epoch: start.epoch,
    requestedBy: start.requestedBy,
    dryRun: start.dryRun,
    preflightDone: false,
    preflightRepeated: false,
    pastPointOfNoReturn: false,
    paused: false,
    steps: plan.steps.map((step) => ({
      id: step.id,
      uses: step.uses,
      title: step.title,
      status: 'pending',
      outcome: null,
      phase: null,
      attempt: 1,
      lastAttempt: step.attempts,
      applied: false,
      changed: false,
      inDoubt: false,
      preflighted: false,
      verifyDue: false,
      summary: '',
      checks: [],
      before: null,
      after: null,
      error: null,
      startedAtMs: null,
      endedAtMs: null,
    })),
    facts: {},
    ledger: [],
    decisions: [],
    approvals: [],
    approvalSinceMs: null,
    writesRefusedSinceMs: null,
  };
}

/** The inputs of a step with every reference filled in that is known by now. */
export function stepInput(plan: Plan, state: ExecutionState, step: number): { value: Readonly<Record<string, unknown>>; missing: string[] } {
  const filled = fillReferences(plan.steps[step]!.with, { service: plan.service, mode: plan.mode, parameters: plan.parameters, steps: state.facts });
  return { value: filled.value as Readonly<Record<string, unknown>>, missing: filled.missing };
}

/** What is to be done next. Asked again after every event. */
export function nextAction(plan: Plan, state: ExecutionState): Action {
  if (state.status === 'finished') return { type: 'finish', outcome: state.final ?? 'failed' };
  if (state.status === 'undoing') return nextUndo(state);

  const parked = state.steps.findIndex((step) => step.status === 'parked');
  if (parked >= 0) return { type: 'park', step: parked, why: state.steps[parked]!.error ?? 'needs an operator', deadlineMs: deadMan(plan, state) };

  const index = state.steps.findIndex((step) => step.status !== 'done');
  const due = state.steps.findIndex((step) => step.verifyDue);
  if (due >= 0 && (index < 0 || (state.steps[index]!.status === 'pending' && !kindOf(plan.steps[index]!.uses).critical))) return { type: 'phase', step: due, phase: 'verify' };
  if (index < 0) return { type: 'finish', outcome: state.dryRun ? 'checked' : 'succeeded' };
  const step = state.steps[index]!;
  const planned = plan.steps[index]!;
  const kind = kindOf(planned.uses);

  if (state.paused && step.status === 'pending') return { type: 'park', step: null, why: 'paused by an operator', deadlineMs: deadMan(plan, state) };
  // Before the first change: every later guard, so that nothing is found out while writes are refused.
  if (!state.preflightDone && planned.included && (changes(kind) || kind.runsIn === 'workflow') && step.status === 'pending') {
    return { type: 'preflight', calls: preflightCalls(plan, state, index) };
  }
  if (state.dryRun && state.preflightDone) return { type: 'finish', outcome: 'checked' };
  // Facts have come up and the world has moved since: what would fail late is found while everything can still be undone.
  if (!state.preflightRepeated && planned.included && kind.disruptive && step.status === 'pending') {
    return { type: 'preflight', calls: preflightCalls(plan, state, index) };
  }
  if (kind.runsIn === 'workflow') {
    const parsed = kind.input.safeParse(stepInput(plan, state, index).value);
    // Plans are checked when they are made, but not what a fact turns out to be. Throwing here would stop the workflow for good.
    if (!parsed.success) return { type: 'park', step: index, why: `step ${step.id}: its inputs do not fit: ${parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ')}`, deadlineMs: deadMan(plan, state) };
    const input = parsed.data as Readonly<Record<string, unknown>>;
    if (planned.uses === 'operator.wait') return { type: 'wait', step: index, durationMs: Number(input['duration']), deadlineMs: deadMan(plan, state) };
    const needed = typeof input['count'] === 'number' ? input['count'] : plan.approval.count;
    const expiresMs = typeof input['expires'] === 'number' ? input['expires'] : plan.approval.expiresMs;
    return { type: 'approval', step: index, needed, expiresAtMs: state.approvalSinceMs === null ? null : state.approvalSinceMs + expiresMs, deadlineMs: deadMan(plan, state) };
  }
  return { type: 'phase', step: index, phase: nextPhase(kind, step) };
}

/** True when the mode leaves the step out; the driver reports `skippedByMode`. */
export function leftOut(plan: Plan, state: ExecutionState): number | null {
  const index = state.steps.findIndex((step) => step.status !== 'done');
  return index >= 0 && !plan.steps[index]!.included && state.status === 'running' ? index : null;
}

function nextPhase(kind: StepKind, step: StepState): Phase {
  const has = (phase: Phase): boolean => kind.phases.includes(phase);
  if (step.phase === null) {
    // In the refused-write window only what has to happen there; apply inspects for itself.
    if (kind.critical && step.preflighted) return has('apply') ? 'apply' : 'verify';
    return kind.phases[0]!;
  }
  if (step.inDoubt && has('inspect')) return 'inspect';
  return step.phase;
}

function preflightCalls(plan: Plan, state: ExecutionState, from: number): { step: number; phase: 'inspect' | 'guard' }[] {
  const calls: { step: number; phase: 'inspect' | 'guard' }[] = [];
  if (state.preflightDone) {
    // What the run was begun (and approved) on must still be so: the roles, the lag, or that the primary is down.
    for (const [index, step] of state.steps.entries()) {
      if (step.status === 'done' && step.outcome !== 'skipped' && kindOf(step.uses).askedAgain) calls.push({ step: index, phase: 'guard' });
    }
  }
  for (let index = from; index < plan.steps.length; index += 1) {
    if (!plan.steps[index]!.included || state.steps[index]!.status !== 'pending') continue;
    const { uses, after } = plan.steps[index]!;
    if (after != null && state.steps.some((step) => step.id === after && step.status !== 'done')) continue;
    const kind = kindOf(uses);
    if (kind.phases.includes('guard')) calls.push({ step: index, phase: 'guard' });
    // A guard bears inputs that only come up later; to inspect, all must be known.
    if (kind.phases.includes('inspect') && stepInput(plan, state, index).missing.length === 0) calls.push({ step: index, phase: 'inspect' });
  }
  return calls;
}

/** Until when writes may stay refused, null when they are not, or when promotion may have begun: then lifting could make two primaries. */
function deadMan(plan: Plan, state: ExecutionState): number | null {
  if (state.writesRefusedSinceMs === null || mayBePromoted(state)) return null;
  return state.writesRefusedSinceMs + plan.readOnlyDeadlineMs;
}

function nextUndo(state: ExecutionState): Action {
  const stuck = state.steps.findIndex((step) => step.status === 'parked');
  if (stuck >= 0) return { type: 'park', step: stuck, why: state.steps[stuck]!.error ?? 'undo did not succeed', deadlineMs: null };
  for (let index = state.steps.length - 1; index >= 0; index -= 1) {
    if (needsUndo(state.steps[index]!)) return { type: 'phase', step: index, phase: 'undo' };
  }
  return { type: 'finish', outcome: state.final ?? 'failed' };
}

function needsUndo(step: StepState): boolean {
  if (!kindOf(step.uses).phases.includes('undo') || step.status === 'undone') return false;
  // What was found already satisfied is not ours to undo; what is in doubt must be looked at.
  return step.applied && (step.changed || step.outcome === null || step.outcome === 'failed' || step.outcome === 'unknown');
}

export function reduce(plan: Plan, state: ExecutionState, event: ExecutionEvent): ExecutionState {
  switch (event.type) {
    case 'began': {
      const kind = kindOf(state.steps[event.step]!.uses);
      const applying = event.phase === 'apply';
      const next = update(state, event.step, (step) => ({
        ...step,
        status: 'running',
        phase: event.phase,
        verifyDue: event.phase === 'verify' ? false : step.verifyDue,
        // Undo is registered before apply begins.
        applied: step.applied || applying,
        startedAtMs: step.startedAtMs ?? event.atMs,
      }));
      if (!applying || !kind.refusesWrites) return next;
      return { ...next, writesRefusedSinceMs: next.writesRefusedSinceMs ?? event.atMs };
    }
    case 'skippedByMode':
      return update(state, event.step, (step) => ({ ...step, status: 'done', outcome: 'skipped', summary: `not part of a ${plan.mode} run`, startedAtMs: event.atMs, endedAtMs: event.atMs }));
    case 'waited':
      return update(state, event.step, (step) => ({ ...step, status: 'done', outcome: 'changed', summary: 'waited', startedAtMs: step.startedAtMs ?? event.atMs, endedAtMs: event.atMs }));
    case 'approvalBegan':
      return { ...update(state, event.step, (step) => ({ ...step, status: 'running', startedAtMs: event.atMs })), approvalSinceMs: event.atMs };
    case 'approvalSettled':
      return settleApproval(state, event);
    case 'preflightDone':
      return settlePreflight(plan, state, event.results, event.atMs);
    case 'phaseDone':
      return phaseDone(state, event);
    case 'phaseFailed':
      return phaseFailed(state, event);
    case 'deadManExpired':
      if (state.status !== 'running' || mayBePromoted(state)) return state;
      return goBack(state, 'failed', `writes were refused for longer than the deadline of ${plan.readOnlyDeadlineMs} ms before the point of no return`, event.atMs);
    case 'cancelRequested':
      if (state.status !== 'running' || mayBePromoted(state)) return state;
      return goBack(state, 'aborted', 'the execution was cancelled', event.atMs);
    case 'operator':
      return operate(state, event);
    default:
      return event satisfies never;
  }
}

function settleApproval(state: ExecutionState, event: Extract<ExecutionEvent, { type: 'approvalSettled' }>): ExecutionState {
  if (event.outcome === 'expired') {
    return goBack(update(state, event.step, (step) => ({ ...step, outcome: 'failed', error: 'not approved in time', endedAtMs: event.atMs })), 'denied', 'the approval expired: nobody or too few approved in time', event.atMs);
  }
  const approvedBy = [...state.approvals];
  const next = update(state, event.step, (step) => ({
    ...step,
    status: 'done',
    outcome: approvedBy.length === 0 ? 'skipped' : 'changed',
    summary: approvedBy.length === 0 ? 'the policy asks for no approval' : `approved by ${approvedBy.join(', ')}`,
    startedAtMs: step.startedAtMs ?? event.atMs,
    endedAtMs: event.atMs,
  }));
  return { ...next, approvals: [], approvalSinceMs: null, facts: { ...next.facts, [next.steps[event.step]!.id]: { approvedBy } } };
}

function settlePreflight(plan: Plan, state: ExecutionState, results: readonly PreflightResult[], atMs: number): ExecutionState {
  let next: ExecutionState = { ...state, preflightDone: true, preflightRepeated: state.preflightDone };
  const problems: string[] = [];
  for (const { step, phase, result, error } of results) {
    const id = plan.steps[step]!.id;
    if (error !== null) problems.push(`${id} (${phase}): ${error}`);
    for (const check of result?.checks ?? []) if (!check.ok) problems.push(`${id}: ${describeCheck(check)}`);
    next = update(next, step, (item) => ({ ...item, preflighted: true, checks: [...(result?.checks ?? item.checks)], before: result?.before ?? item.before }));
  }
  if (problems.length === 0) return next;
  return goBack(next, 'failed', `refused before the first change: ${problems.join('; ')}`, atMs);
}

function phaseDone(state: ExecutionState, event: Extract<ExecutionEvent, { type: 'phaseDone' }>): ExecutionState {
  const { step: index, phase, result, atMs } = event;
  const step = state.steps[index]!;
  const kind = kindOf(step.uses);
  let next = state;
  if (result.facts !== undefined) next = { ...next, facts: { ...next.facts, [step.id]: { ...next.facts[step.id], ...result.facts } } };
  const failedChecks = (result.checks ?? []).filter((check) => !check.ok);

  switch (phase) {
    case 'inspect': {
      if (step.inDoubt) {
        const attemptDone = result.satisfied === true;
        if (attemptDone) {
          // What we see is what our own try did: it is a change, found by looking.
          next = recordEffect(next, index, 'apply', { before: step.before, after: result.after ?? null, atMs, outcome: 'changed' });
          return passApply(next, index, { changed: true, outcome: 'changed', summary: `its answer was lost; inspection shows that it happened: ${result.summary}`, atMs });
        }
        return retryOrGiveUp(next, index, step.error ?? 'its answer was lost', true, atMs);
      }
      if (result.satisfied === true) return passApply(update(next, index, (item) => ({ ...item, before: result.before ?? item.before })), index, { changed: false, outcome: 'already-satisfied', summary: result.summary, atMs });
      return update(next, index, (item) => ({ ...item, before: result.before ?? item.before, phase: after(kind, 'inspect') }));
    }
    case 'guard':
      next = update(next, index, (item) => ({ ...item, checks: [...item.checks, ...(result.checks ?? [])] }));
      if (failedChecks.length > 0) return giveUp(next, index, failedChecks.map(describeCheck).join('; '), atMs);
      return after(kind, 'guard') === null ? done(next, index, 'already-satisfied', result.summary, atMs) : update(next, index, (item) => ({ ...item, phase: after(kind, 'guard') }));
    case 'apply': {
      const outcome = result.outcome ?? 'changed';
      next = recordEffect(next, index, 'apply', { before: result.before ?? step.before, after: result.after ?? null, atMs, outcome });
      next = update(next, index, (item) => ({ ...item, before: result.before ?? item.before, after: result.after ?? null }));
      if (outcome === 'skipped') return done(next, index, 'skipped', result.summary, atMs);
      return passApply(next, index, { changed: outcome === 'changed', outcome, summary: result.summary, atMs });
    }
    case 'verify':
      next = update(next, index, (item) => ({ ...item, checks: [...item.checks, ...(result.checks ?? [])] }));
      if (failedChecks.length > 0) return giveUp(next, index, `verification: ${failedChecks.map(describeCheck).join('; ')}`, atMs);
      // What was applied in the refused-write window ended then; that it is verified later adds nothing to the window.
      // `failed` here comes from an abort that arrived meanwhile: what was verified did not fail.
      return done(next, index, step.outcome === 'changed' ? 'changed' : 'already-satisfied', step.outcome === null || step.summary === '' ? result.summary : `${step.summary}; ${result.summary}`, kind.critical ? (step.endedAtMs ?? atMs) : atMs);
    case 'undo': {
      next = recordEffect(next, index, 'undo', { before: step.after, after: result.after ?? null, atMs, outcome: result.outcome ?? 'changed' });
      next = update(next, index, (item) => ({ ...item, status: 'undone', summary: `undone: ${result.summary}`, endedAtMs: atMs }));
      return kind.refusesWrites ? { ...next, writesRefusedSinceMs: null } : next;
    }
    default:
      return phase satisfies never;
  }
}

function phaseFailed(state: ExecutionState, event: Extract<ExecutionEvent, { type: 'phaseFailed' }>): ExecutionState {
  const { step: index, phase, how, error, atMs } = event;
  const step = state.steps[index]!;
  if (phase === 'undo') return update(state, index, (item) => ({ ...item, status: 'parked', error: `undo: ${error}` }));
  if (phase === 'apply') {
    const outcome: Outcome = how === 'unknown' ? 'unknown' : 'failed';
    const next = recordEffect(state, index, 'apply', { before: step.before, after: null, atMs, outcome });
    // It goes back already: undo looks for itself, and waits for nobody.
    if (state.status === 'undoing') return update(next, index, (item) => ({ ...item, outcome, error }));
    if (event.code === NOT_BEGUN && how === 'failed' && !state.ledger.some((entry) => entry.step === step.id && entry.phase === 'apply')) {
      // Its own word that it never asked for it, and no earlier try, which may still land whatever it answered: nothing can still take effect.
      return giveUp(update(next, index, (item) => ({ ...item, applied: false, phase: null, outcome: 'failed' })), index, error, atMs);
    }
    const canLook = kindOf(step.uses).phases.includes('inspect');
    if (canLook && (how === 'unknown' || kindOf(step.uses).pointOfNoReturn)) {
      // Neither failure nor success: look. A promotion that reported failure may still have been under way.
      return update(next, index, (item) => ({ ...item, inDoubt: true, outcome: 'unknown', error }));
    }
    return giveUp(update(next, index, (item) => ({ ...item, outcome })), index, error, atMs);
  }
  if (phase === 'inspect' && step.inDoubt && state.status === 'running') {
    return update(state, index, (item) => ({ ...item, status: 'parked', error: `${item.error ?? error}; and it could not be inspected: ${error}` }));
  }
  return giveUp(state, index, `${phase}: ${error}`, atMs);
}

/** After a lost or failed try whose effect inspection does not show. */
function retryOrGiveUp(state: ExecutionState, index: number, error: string, wasInDoubt: boolean, atMs: number): ExecutionState {
  const step = state.steps[index]!;
  const kind = kindOf(step.uses);
  if (step.attempt < step.lastAttempt) {
    return update(state, index, (item) => ({ ...item, attempt: item.attempt + 1, inDoubt: false, outcome: null, phase: 'apply' }));
  }
  if (kind.pointOfNoReturn && wasInDoubt) {
    // It may still take effect later: undoing now could make two primaries.
    return update(state, index, (item) => ({ ...item, status: 'parked', error: `${error}; inspection does not show it, but it may still take effect` }));
  }
  return giveUp(update(state, index, (item) => ({ ...item, inDoubt: false })), index, error, atMs);
}

function passApply(state: ExecutionState, index: number, applied: { changed: boolean; outcome: Outcome; summary: string; atMs: number }): ExecutionState {
  const { id, uses } = state.steps[index]!;
  const kind = kindOf(uses);
  // An earlier try whose answer was lost may be what is found there now: it is ours to undo.
  const tried = state.ledger.some((entry) => entry.step === id && entry.phase === 'apply' && (entry.outcome === 'unknown' || entry.outcome === 'failed'));
  let next = update(state, index, (step) => ({ ...step, changed: step.changed || applied.changed || tried, outcome: applied.outcome, inDoubt: false, error: null, summary: applied.summary, phase: 'verify' }));
  if (kind.pointOfNoReturn) next = { ...next, pastPointOfNoReturn: true };
  if (!kind.phases.includes('verify')) return done(next, index, applied.outcome, applied.summary, applied.atMs);
  // Every moment counts while writes are refused: what follows checks for itself, and this is verified right after.
  return kind.critical && state.steps[index]!.preflighted ? update(done(next, index, applied.outcome, applied.summary, applied.atMs), index, (step) => ({ ...step, verifyDue: true })) : next;
}

function done(state: ExecutionState, index: number, outcome: Outcome, summary: string, atMs: number): ExecutionState {
  return update(state, index, (step) => ({ ...step, status: 'done', outcome, summary, error: null, inDoubt: false, endedAtMs: atMs }));
}

/** A step cannot go on. Before the point of no return everything is undone; after it an operator decides. */
function giveUp(state: ExecutionState, index: number, error: string, atMs: number): ExecutionState {
  const next = update(state, index, (step) => ({ ...step, error, outcome: step.outcome ?? 'failed' }));
  if (mayBePromoted(next)) return update(next, index, (step) => ({ ...step, status: 'parked' }));
  return goBack(next, 'failed', `step ${next.steps[index]!.id}: ${error}`, atMs);
}

function goBack(state: ExecutionState, final: FinalOutcome, failure: string, atMs: number): ExecutionState {
  // What comes up on the way back is not why it goes back.
  if (state.status !== 'running') return state;
  const steps = state.steps.map((step) => (step.status === 'running' || step.status === 'parked' ? { ...step, status: 'running' as const, endedAtMs: atMs, outcome: step.outcome ?? ('failed' as const) } : step));
  const next: ExecutionState = { ...state, steps, status: 'undoing', final, failure };
  return next;
}

/** True from the moment a promotion was begun whose effect is not known to be absent. */
export function mayBePromoted(state: ExecutionState): boolean {
  return state.pastPointOfNoReturn || state.steps.some((step) => kindOf(step.uses).pointOfNoReturn && (step.inDoubt || (step.status === 'running' && step.phase === 'apply')));
}

function operate(state: ExecutionState, event: Extract<ExecutionEvent, { type: 'operator' }>): ExecutionState {
  const { action, request, atMs } = event;
  const decision: Decision = { action, by: request.by, reason: request.reason, step: request.step ?? null, atMs, ...(request.evidence === undefined ? {} : { evidence: request.evidence }) };
  const next: ExecutionState = { ...state, decisions: [...state.decisions, decision] };
  const index = request.step === undefined ? -1 : next.steps.findIndex((step) => step.id === request.step);
  switch (action) {
    case 'approve':
      return { ...next, approvals: [...new Set([...next.approvals, request.by])] };
    case 'reject':
      return goBack(next, 'denied', `rejected by ${request.by}: ${request.reason}`, atMs);
    case 'pause':
      return { ...next, paused: true };
    case 'resume':
      // The guards held before the pause; they are asked again before writes are refused.
      return { ...next, paused: false, preflightRepeated: next.preflightRepeated && (next.writesRefusedSinceMs !== null || mayBePromoted(next)) };
    case 'abort':
      return goBack(next, 'aborted', `aborted by ${request.by}: ${request.reason}`, atMs);
    case 'retry':
      // A parked undo is tried again as undo; anything else begins with a new inspection.
      return update(next, index, (step) => ({
        ...step,
        status: 'running',
        attempt: step.attempt + 1,
        error: null,
        lastAttempt: Math.max(step.lastAttempt, step.attempt + 2),
        phase: retryPhase(next, step),
        // What this try will find replaces what the last one found wrong: a step that then succeeds must not be reported as failed.
        outcome: step.outcome === 'changed' || step.outcome === 'already-satisfied' ? step.outcome : null,
        checks: step.checks.filter((check) => check.ok),
      }));
    case 'skip':
      return update(next, index, (step) => ({ ...step, status: next.status === 'undoing' ? 'undone' : 'done', outcome: 'skipped', attempt: step.attempt + 1, summary: `skipped by ${request.by}: ${request.reason}`, endedAtMs: atMs }));
    case 'markDone': {
      const kind = kindOf(next.steps[index]!.uses);
      const marked = update(next, index, (step) => ({
        ...step,
        status: next.status === 'undoing' ? 'undone' : 'done',
        outcome: 'changed',
        inDoubt: false,
        attempt: step.attempt + 1,
        summary: `declared done by ${request.by}: ${request.reason} (evidence: ${request.evidence ?? 'none'})`,
        endedAtMs: atMs,
      }));
      if (next.status === 'undoing') return kind.refusesWrites ? { ...marked, writesRefusedSinceMs: null } : marked;
      return kind.pointOfNoReturn ? { ...marked, pastPointOfNoReturn: true } : marked;
    }
    default:
      return action satisfies never;
  }
}

function retryPhase(state: ExecutionState, step: StepState): Phase {
  if (state.status === 'undoing') return 'undo';
  const kind = kindOf(step.uses);
  // Verification failed after a good apply: verify again; never apply again what is known to have happened.
  if (step.outcome === 'changed' || step.outcome === 'already-satisfied') return 'verify';
  return kind.phases.includes('inspect') ? 'inspect' : kind.phases[0]!;
}

/** Why an operator's request is refused, or null. */
export function refusal(plan: Plan, state: ExecutionState, action: OperatorAction, request: OperatorRequest): string | null {
  if (typeof request?.by !== 'string' || request.by.trim() === '') return `${action} needs "by": who decides`;
  if (typeof request.reason !== 'string' || request.reason.trim() === '') return `${action} needs "reason": why`;
  if (state.status === 'finished') return 'the execution has ended';
  const next = nextAction(plan, state);
  switch (action) {
    case 'approve':
    case 'reject':
      if (next.type !== 'approval') return 'nothing waits for approval';
      if (action === 'approve' && samePerson(request.by, state.requestedBy)) return `${request.by} requested this and cannot approve it`;
      if (action === 'approve' && state.approvals.some((by) => samePerson(by, request.by))) return `${request.by} approved already; another person is needed`;
      return null;
    case 'pause':
      if (state.status !== 'running') return 'it is being undone and cannot be paused';
      if (state.writesRefusedSinceMs !== null && !state.pastPointOfNoReturn) return 'writes are being refused: pausing now would prolong that; abort instead';
      return state.paused ? 'it is paused already' : null;
    case 'resume':
      return state.paused ? null : 'it is not paused';
    case 'abort':
      if (state.status === 'undoing') return 'it is being undone already';
      return mayBePromoted(state) ? 'the point of no return is passed, or promotion may have begun: nothing is undone any more; repair forward or run the failback runbook' : null;
    case 'retry':
    case 'skip':
    case 'markDone': {
      const index = state.steps.findIndex((step) => step.id === request.step);
      if (index < 0) return `${action} needs "step", one of: ${state.steps.map((step) => step.id).join(', ')}`;
      const step = state.steps[index]!;
      // A step of the workflow's own whose inputs do not fit waits for an operator without having begun.
      if (step.status !== 'parked' && !(next.type === 'park' && next.step === index)) return `step ${step.id} is ${step.status}, not parked`;
      if (request.attempt !== step.attempt) return `attempt ${String(request.attempt)} is stale: step ${step.id} is at attempt ${step.attempt}; look at it again and decide anew`;
      if (action === 'skip' && (!kindOf(step.uses).skippable || state.status === 'undoing')) return `step ${step.id} (${step.uses}) may not be skipped; retry it, or markDone with evidence`;
      if (action === 'markDone' && step.uses === 'operator.approval') return `step ${step.id} is an approval: it is given by other people, not declared`;
      if (action === 'markDone' && (request.evidence ?? '').trim() === '') return 'markDone needs "evidence": what shows that it is done';
      return null;
    }
    default:
      return action satisfies never;
  }
}

/** Names are typed by hand: a capital or a blank does not make another person. */
function samePerson(one: string, other: string): boolean {
  return one.trim().toLowerCase() === other.trim().toLowerCase();
}

function recordEffect(state: ExecutionState, index: number, phase: 'apply' | 'undo', effect: { before: Json; after: Json; atMs: number; outcome: Outcome }): ExecutionState {
  const step = state.steps[index]!;
  return { ...state, ledger: [...state.ledger, { step: step.id, uses: step.uses, phase, epoch: state.epoch, attempt: step.attempt, ...effect }] };
}

function after(kind: StepKind, phase: Phase): Phase | null {
  return kind.phases[kind.phases.indexOf(phase) + 1] ?? null;
}

function changes(kind: StepKind): boolean {
  return kind.phases.includes('apply');
}

export function describeCheck(check: CheckResult): string {
  return `${check.name}: expected ${check.expected}, found ${check.found}${check.next === undefined ? '' : ` (${check.next})`}`;
}

function kindOf(uses: string): StepKind {
  const kind = stepKind(uses);
  // Plans are checked when they are made; this is a plan that was not.
  if (kind === undefined) throw new Error(`step kind ${uses} is not in the catalogue`);
  return kind;
}

function update(state: ExecutionState, index: number, change: (step: StepState) => StepState): ExecutionState {
  return { ...state, steps: state.steps.map((step, at) => (at === index ? change(step) : step)) };
}
