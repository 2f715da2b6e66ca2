/**
 * The interpreter of runbooks: pure state and transitions. The workflow only carries out what `nextActions` says and
 * reports back by `reduce`, so every interleaving can be checked without Temporal.
 */
import type { CheckResult } from './api.ts';
import type { Phase, StepKind } from './catalogue.ts';
import { operate } from './execution-operator.ts';
import {
  describeCheck, isIncluded, kindOf, deadlineFrom, mayBePromoted, NEVER_BEGUN, taintsOf, update,
  type ExecutionState, type OperatorAction, type OperatorRequest, type Outcome, type PhaseResult, type Plan, type StepState,
} from './execution-state.ts';
import { done, giveUp, goBack, recordEffect } from './execution-transitions.ts';
import type { Json } from './runbook-schema.ts';

export * from './execution-next.ts';
export * from './execution-operator.ts';
export * from './execution-state.ts';

export type ExecutionEvent =
  | { readonly type: 'began'; readonly step: number; readonly phase: Phase; readonly atMs: number }
  | { readonly type: 'phaseDone'; readonly step: number; readonly phase: Phase; readonly result: PhaseResult; readonly atMs: number }
  /** `failed`: it certainly did not happen or said so itself. `unknown`: it timed out or its worker was lost. */
  | { readonly type: 'phaseFailed'; readonly step: number; readonly phase: Phase; readonly how: 'failed' | 'unknown'; readonly error: string; readonly code?: string; readonly report?: Json; /** Of a nested run that failed: it had promoted before. */ readonly promoted?: true; readonly atMs: number }
  | { readonly type: 'preflightDone'; readonly results: readonly PreflightResult[]; readonly atMs: number }
  | { readonly type: 'approvalBegan'; readonly step: number; readonly atMs: number }
  | { readonly type: 'skippedByMode'; readonly step: number; readonly atMs: number }
  | { readonly type: 'conditionSettled'; readonly step: number; readonly holds: 'yes' | 'no' | 'unknown'; readonly why: string; readonly atMs: number }
  /** A wait, or the delay before an attempt, is under way. */
  | { readonly type: 'waitBegan'; readonly step: number; readonly atMs: number }
  | { readonly type: 'waited'; readonly step: number; readonly atMs: number }
  | { readonly type: 'delayOver'; readonly step: number; readonly atMs: number }
  | { readonly type: 'approvalSettled'; readonly step: number; readonly outcome: 'approved' | 'expired'; readonly atMs: number }
  | { readonly type: 'deadManExpired'; readonly atMs: number }
  | { readonly type: 'cancelRequested'; readonly atMs: number }
  | { readonly type: 'switched'; readonly atMs: number }
  | { readonly type: 'operator'; readonly action: OperatorAction; readonly request: OperatorRequest; readonly atMs: number; readonly deadlineKept?: true }
  /** An operator's attempt that was refused; it changes nothing but the record. */
  | { readonly type: 'refused'; readonly action: OperatorAction; readonly request: OperatorRequest; readonly why: string; readonly atMs: number };

export interface PreflightResult {
  readonly step: number;
  readonly phase: 'inspect' | 'guard';
  readonly result: PhaseResult | null;
  readonly error: string | null;
}

/** More refused decisions than this are refused without a trace: history must not grow without bound. */
export const MOST_REFUSALS = 100;

export function reduce(plan: Plan, state: ExecutionState, event: ExecutionEvent): ExecutionState {
  switch (event.type) {
    case 'began': {
      const kind = kindOf(state.steps[event.step]!.uses);
      const applying = event.phase === 'apply';
      const taints = taintsOf(plan, state, event.step);
      const next = update(state, event.step, (step) => ({
        ...step,
        status: 'running',
        phase: event.phase,
        active: true,
        verifyDue: event.phase === 'verify' ? false : step.verifyDue,
        // Undo is registered before apply begins.
        applied: step.applied || applying,
        tainted: taints.length > 0 ? `it worked with ${taints.join('; ')}` : step.tainted,
        startedAtMs: step.startedAtMs ?? event.atMs,
      }));
      if (!applying || !kind.refusesWrites) return next;
      return { ...next, writesRefusedSinceMs: next.writesRefusedSinceMs ?? event.atMs };
    }
    case 'skippedByMode':
      return leave(state, event.step, `not part of a ${state.mode} run`, event.atMs);
    case 'conditionSettled':
      if (event.holds === 'yes') return update(state, event.step, (step) => ({ ...step, conditionMet: true }));
      if (event.holds === 'no') return leave(state, event.step, `its condition does not hold: ${event.why}`, event.atMs);
      return giveUp(update(state, event.step, (step) => ({ ...step, startedAtMs: event.atMs })), event.step, `whether it is to be carried out cannot be told: ${event.why}`, event.atMs);
    case 'waitBegan':
      return update(state, event.step, (step) => ({ ...step, status: 'running', active: true, startedAtMs: step.startedAtMs ?? event.atMs }));
    case 'waited':
      return update(state, event.step, (step) => ({ ...step, status: 'done', active: false, outcome: 'changed', summary: 'waited', startedAtMs: step.startedAtMs ?? event.atMs, endedAtMs: event.atMs }));
    case 'delayOver':
      return update(state, event.step, (step) => ({ ...step, active: false, notBeforeMs: null }));
    case 'approvalBegan':
      return { ...update(state, event.step, (step) => ({ ...step, status: 'running', startedAtMs: event.atMs })), approvalSinceMs: event.atMs };
    case 'approvalSettled':
      return settleApproval(state, event);
    case 'preflightDone':
      return settlePreflight(plan, state, event.results, event.atMs);
    case 'phaseDone':
      return phaseDone(plan, update(state, event.step, (step) => ({ ...step, active: false })), event);
    case 'phaseFailed':
      return phaseFailed(update(state, event.step, (step) => ({ ...step, active: false, ...(event.phase === 'apply' && event.report != null ? { lastReport: event.report } : {}) })), event);
    case 'deadManExpired':
      if (state.status !== 'running' || state.switching || mayBePromoted(state)) return state;
      return goBack(state, 'failed', `writes were refused for longer than the deadline of ${plan.readOnlyDeadlineMs} ms before the point of no return`, event.atMs);
    case 'cancelRequested':
      if (state.status !== 'running' || mayBePromoted(state)) return state;
      return goBack({ ...state, switching: false }, 'aborted', 'the execution was cancelled', event.atMs);
    case 'switched':
      return switchToForced(plan, state, event.atMs);
    case 'operator':
      return operate(plan, state, event);
    case 'refused':
      if (state.refusals.length >= MOST_REFUSALS) return state;
      return { ...state, refusals: [...state.refusals, { action: event.action, by: said(event.request?.by), step: typeof event.request?.step === 'string' ? said(event.request.step) : null, why: event.why, atMs: event.atMs }] };
    default:
      return event satisfies never;
  }
}

/** What somebody typed, kept short. */
function said(value: unknown): string {
  return typeof value === 'string' ? value.slice(0, 200) : '(nobody)';
}

function leave(state: ExecutionState, step: number, summary: string, atMs: number): ExecutionState {
  return update(state, step, (item) => ({ ...item, status: 'done', outcome: 'skipped', summary, startedAtMs: atMs, endedAtMs: atMs }));
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
    const { id, uses } = plan.steps[step]!;
    if (error !== null) problems.push(`${id} (${phase}): ${error}`);
    const checks = judged(plan, next, result);
    for (const check of checks) if (!check.ok) problems.push(`${id}: ${describeCheck(check)}`);
    // What people approved, and what the steps will work with, is what was found before: another finding is another run.
    const known = state.steps[step]!.status === 'done' ? state.facts[id] : undefined;
    for (const fact of kindOf(uses).boundFacts) {
      const now = result?.facts?.[fact];
      if (known?.[fact] != null && now != null && now !== known[fact]) problems.push(`${id}: ${fact} was ${JSON.stringify(known[fact])} when this was decided and is ${JSON.stringify(now)} now`);
    }
    next = update(next, step, (item) => ({ ...item, preflighted: true, checks: result?.checks === undefined ? item.checks : checks, before: result?.before ?? item.before }));
  }
  if (problems.length === 0) return next;
  // A nested run has promoted: what comes before the next disruptive step is asked, and waits for an operator. Asked anew by a retry.
  const waiting = mayBePromoted(next) ? next.steps.findIndex((step, index) => step.status === 'pending' && isIncluded(plan, next, index) && kindOf(step.uses).disruptive) : -1;
  if (waiting >= 0) return update({ ...next, preflightRepeated: false }, waiting, (step) => ({ ...step, status: 'parked', error: `refused before it began: ${problems.join('; ')}` }));
  return goBack(next, 'failed', `refused before the first change: ${problems.join('; ')}`, atMs);
}

/** The checks of a result, those of rules that were broken on purpose marked so and let pass. */
function judged(plan: Plan, state: ExecutionState, result: PhaseResult | null): CheckResult[] {
  return (result?.checks ?? []).map((check) => {
    const override = check.ok ? undefined : state.overrides.find((one) => one.rule === check.rule);
    if (override === undefined) return check;
    if (check.rule === 'two-facts') {
      const problem = lossNotAccepted(plan, state, result!.facts ?? {});
      if (problem !== null) return { ...check, next: problem };
    }
    return { ...check, ok: true, overridden: `${override.by}: ${override.reason}` };
  });
}

/** Breaking the rule two-facts needs an approval that says how much may be lost, and what may be lost must stay within it. */
function lossNotAccepted(plan: Plan, state: ExecutionState, facts: Readonly<Record<string, Json>>): string | null {
  // Only an approval that is asked before anything is done to the primary can still accept it.
  const change = state.steps.findIndex((step, index) => step.status !== 'done' && isIncluded(plan, state, index) && kindOf(step.uses).disruptive);
  const ahead = state.steps.some((step, index) => step.uses === 'operator.approval' && isIncluded(plan, state, index) && step.status !== 'done' && (change < 0 || index < change));
  if (ahead) return null;
  if (state.acceptedLossMs === null) return 'the rule two-facts is only broken with an approval that accepts the loss: put a step operator.approval between this one and the first that fences or promotes';
  const { mayLoseMs } = facts;
  if (state.acceptedLossMs === 'unknown' || (typeof mayLoseMs === 'number' && mayLoseMs <= state.acceptedLossMs)) return null;
  return `a loss of ${state.acceptedLossMs} ms was accepted; by now ${typeof mayLoseMs === 'number' ? `${mayLoseMs} ms` : 'an unknown span'} may be lost`;
}

function phaseDone(plan: Plan, state: ExecutionState, event: Extract<ExecutionEvent, { type: 'phaseDone' }>): ExecutionState {
  const { step: index, phase, result, atMs } = event;
  const step = state.steps[index]!;
  const kind = kindOf(step.uses);
  let next = state;
  if (result.facts !== undefined) next = { ...next, facts: { ...next.facts, [step.id]: { ...next.facts[step.id], ...result.facts } } };
  const checks = judged(plan, state, result);
  const failedChecks = checks.filter((check) => !check.ok);

  switch (phase) {
    case 'inspect': {
      if (step.inDoubt) {
        const attemptDone = result.satisfied === true;
        if (attemptDone) {
          // What we see is what our own try did: it is a change, found by looking.
          next = recordEffect(next, index, 'apply', { before: step.before, after: result.after ?? null, atMs, outcome: 'changed' });
          return passApply(next, index, { changed: true, outcome: 'changed', summary: `its answer was lost; inspection shows that it happened: ${result.summary}`, atMs });
        }
        return retryOrGiveUp(plan, next, index, step.error ?? 'its answer was lost', true, atMs);
      }
      if (result.satisfied === true) return passApply(update(next, index, (item) => ({ ...item, before: result.before ?? item.before })), index, { changed: false, outcome: 'already-satisfied', summary: result.summary, atMs });
      return update(next, index, (item) => ({ ...item, before: result.before ?? item.before, phase: after(kind, 'inspect') }));
    }
    case 'guard':
      next = update(next, index, (item) => ({ ...item, checks: [...item.checks, ...checks] }));
      if (failedChecks.length > 0) return giveUp(next, index, failedChecks.map(describeCheck).join('; '), atMs);
      return after(kind, 'guard') === null ? done(next, index, 'already-satisfied', result.summary, atMs) : update(next, index, (item) => ({ ...item, phase: after(kind, 'guard') }));
    case 'apply': {
      const outcome = result.outcome ?? 'changed';
      next = recordEffect(next, index, 'apply', { before: result.before ?? step.before, after: result.after ?? null, atMs, outcome });
      next = update(next, index, (item) => ({ ...item, before: result.before ?? item.before, after: result.after ?? null }));
      if (outcome === 'skipped') return done(next, index, 'skipped', result.summary, atMs);
      return passApply(result.pointOfNoReturn === true ? { ...next, pastPointOfNoReturn: true } : next, index, { changed: outcome === 'changed', outcome, summary: result.summary, atMs });
    }
    case 'verify':
      next = update(next, index, (item) => ({ ...item, checks: [...item.checks, ...checks] }));
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
    const recorded = recordEffect(state, index, 'apply', { before: step.before, after: null, atMs, outcome });
    // Whatever it failed of, and whoever rejected it: what it promoted stays, and nothing here is undone any more.
    const next = event.promoted === true ? { ...recorded, pastPointOfNoReturn: true } : recorded;
    // It goes back already: undo looks for itself, and waits for nobody.
    if (state.status === 'undoing' || state.switching) return update(next, index, (item) => ({ ...item, outcome, error }));
    if (event.code !== undefined && NEVER_BEGUN.has(event.code) && how === 'failed' && !state.ledger.some((entry) => entry.step === step.id && entry.phase === 'apply')) {
      // Its own word that it never asked for it, and no earlier try, which may still land whatever it answered: nothing can still take effect.
      return giveUp(update(next, index, (item) => ({ ...item, applied: false, phase: null, outcome: 'failed' })), index, error, atMs);
    }
    const canLook = kindOf(step.uses).phases.includes('inspect');
    if (kindOf(step.uses).runsIn === 'child') {
      // It has undone what it did and said so; one that was terminated may have promoted, and nothing here can tell.
      if (how === 'failed') return giveUp(update(next, index, (item) => ({ ...item, outcome, phase: null })), index, error, atMs);
      return update(next, index, (item) => ({ ...item, status: 'parked', inDoubt: true, outcome, error }));
    }
    if (canLook && (how === 'unknown' || kindOf(step.uses).pointOfNoReturn)) {
      // Neither failure nor success: look. A promotion that reported failure may still have been under way.
      return update(next, index, (item) => ({ ...item, inDoubt: true, outcome: 'unknown', error }));
    }
    return giveUp(update(next, index, (item) => ({ ...item, outcome })), index, error, atMs);
  }
  if (phase === 'inspect' && step.inDoubt && state.status === 'running' && !state.switching) {
    return update(state, index, (item) => ({ ...item, status: 'parked', error: `${item.error ?? error}; and it could not be inspected: ${error}` }));
  }
  return giveUp(state, index, `${phase}: ${error}`, atMs);
}

/** After a lost or failed try whose effect inspection does not show. */
function retryOrGiveUp(plan: Plan, state: ExecutionState, index: number, error: string, wasInDoubt: boolean, atMs: number): ExecutionState {
  const step = state.steps[index]!;
  const kind = kindOf(step.uses);
  const { retryDelayMs, deadlineMs } = plan.steps[index]!;
  const fromMs = deadlineFrom(step);
  const late = deadlineMs != null && fromMs !== null && atMs + (retryDelayMs ?? 0) >= fromMs + deadlineMs;
  const spent = plan.retryBudget !== undefined && state.retriesUsed >= plan.retryBudget;
  if (step.attempt < step.lastAttempt && !late && !spent) {
    const next = update(state, index, (item) => ({ ...item, attempt: item.attempt + 1, inDoubt: false, outcome: null, phase: 'apply', notBeforeMs: retryDelayMs === undefined || retryDelayMs === 0 ? null : atMs + retryDelayMs }));
    return { ...next, retriesUsed: next.retriesUsed + 1 };
  }
  if (late) error = `${error}; the step's deadline of ${deadlineMs} ms is over`;
  else if (spent) error = `${error}; the retry budget of the run (${plan.retryBudget}) is used up`;
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

/** Starts anew in forced mode with what planned mode left: what holds in either mode stays, what rested on the mode is asked again. */
function switchToForced(plan: Plan, state: ExecutionState, atMs: number): ExecutionState {
  const wasIncluded = (index: number): boolean => isIncluded(plan, state, index);
  const forced: ExecutionState = {
    ...state,
    mode: 'forced',
    status: 'running',
    final: null,
    failure: null,
    switching: false,
    preflightDone: false,
    preflightRepeated: false,
    approvals: [],
    approvalSinceMs: null,
    acceptedLossMs: null,
    // An operator has just decided: it is not idle. The deadline begins anew.
    writesRefusedSinceMs: state.writesRefusedSinceMs === null ? null : atMs,
  };
  const steps = forced.steps.map((step, index): StepState => {
    const kind = kindOf(step.uses);
    const anew: StepState = { ...step, status: 'pending', phase: null, active: false, outcome: null, error: null, inDoubt: false, preflighted: false, verifyDue: false, notBeforeMs: null, checks: [], conditionMet: false, attempt: step.attempt + 1, lastAttempt: Math.max(step.lastAttempt, step.attempt + 1 + plan.steps[index]!.attempts - 1), summary: '', startedAtMs: null, deadlineFromMs: null, endedAtMs: null };
    if (!isIncluded(plan, forced, index)) {
      if (step.status === 'pending') return { ...step, active: false };
      // What it did stays and is undone if the forced run goes back; the forced steps look for themselves.
      return step.status === 'running' || step.status === 'parked' ? { ...step, status: 'done', active: false, outcome: step.outcome ?? 'unknown', error: null, inDoubt: false, verifyDue: false, summary: 'left as it was when the run went over to forced mode', endedAtMs: step.endedAtMs ?? atMs } : { ...step, verifyDue: false };
    }
    if (step.status === 'undone') return { ...anew, applied: false, changed: false, before: null, after: null };
    if (step.status !== 'done') return anew;
    const rests = kind.askedAgain || kind.runsIn === 'workflow' || !kind.phases.includes('apply') || !wasIncluded(index);
    return rests ? anew : step;
  });
  return { ...forced, steps };
}

function after(kind: StepKind, phase: Phase): Phase | null {
  return kind.phases[kind.phases.indexOf(phase) + 1] ?? null;
}
