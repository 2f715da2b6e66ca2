/** What is to be done next, asked again after every event. */
import type { Phase, StepKind } from './catalogue.ts';
import { conditionOf, isIncluded, isReady, kindOf, mayBePromoted, stepInput, taintsOf, type ExecutionState, type FinalOutcome, type Plan, type StepState } from './execution-state.ts';

export type Action =
  | { readonly type: 'phase'; readonly step: number; readonly phase: Phase }
  | { readonly type: 'preflight'; readonly calls: readonly PreflightCall[] }
  | { readonly type: 'approval'; readonly step: number; readonly needed: number; readonly expiresAtMs: number | null; readonly deadlineMs: number | null }
  | { readonly type: 'wait'; readonly step: number; readonly durationMs: number; readonly deadlineMs: number | null }
  /** The next attempt of the step is not begun before `untilMs` (epoch milliseconds). */
  | { readonly type: 'delay'; readonly step: number; readonly untilMs: number; readonly deadlineMs: number | null }
  /** The turn of a step with conditions has come. */
  | { readonly type: 'condition'; readonly step: number; readonly holds: 'yes' | 'no' | 'unknown'; readonly why: string }
  /** Nothing to do until an operator decides. `deadlineMs` here and above: until when writes may stay refused (epoch milliseconds). */
  | { readonly type: 'park'; readonly step: number | null; readonly why: string; readonly deadlineMs: number | null }
  /** Something is under way that must end first. */
  | { readonly type: 'settle' }
  /** Nothing is under way any more: go on in forced mode. */
  | { readonly type: 'switch' }
  | { readonly type: 'finish'; readonly outcome: FinalOutcome };

export interface PreflightCall {
  readonly step: number;
  readonly phase: 'inspect' | 'guard';
}

/** All that can be begun now. More than one entry only for phases, waits and delays of steps that may run beside each other. */
export function nextActions(plan: Plan, state: ExecutionState): readonly Action[] {
  if (state.status === 'finished') return [{ type: 'finish', outcome: state.final ?? 'failed' }];
  const active = state.steps.some((step) => step.active);
  if (state.switching) return [active ? { type: 'settle' } : { type: 'switch' }];
  if (state.status === 'undoing') return [active ? { type: 'settle' } : nextUndo(state)];

  const deadlineMs = deadMan(plan, state);
  const open = state.steps.flatMap((step, index) => (step.status !== 'done' && !step.active && isReady(plan, state, index) ? [index] : []));
  const stuck = open.flatMap((index) => {
    const why = needsOperator(plan, state, index);
    return why === null ? [] : [{ type: 'park' as const, step: index, why, deadlineMs }];
  });
  const free = open.filter((index) => !stuck.some((park) => park.step === index));

  const due = state.steps.findIndex((step) => step.verifyDue && !step.active);
  if (due >= 0 && open.every((index) => state.steps[index]!.status === 'pending' && !kindOf(plan.steps[index]!.uses).critical)) return [{ type: 'phase', step: due, phase: 'verify' }];

  const begin: Action[] = [];
  let alone: Action | null = null;
  let held = false;
  for (const index of free) {
    const step = state.steps[index]!;
    const planned = plan.steps[index]!;
    const kind = kindOf(planned.uses);
    const pending = step.status === 'pending';
    // What the mode leaves out is said by `leftOut`.
    if (!isIncluded(plan, state, index)) continue;
    if (pending && !step.conditionMet && planned.when !== undefined) {
      return [{ type: 'condition', step: index, ...conditionOf(plan, state, index) }];
    }
    if (state.paused && pending) {
      held = true;
      continue;
    }
    // Before the first change: every later guard, so that nothing is found out while writes are refused.
    const first = !state.preflightDone && (kind.phases.includes('apply') || kind.runsIn === 'workflow');
    // Facts have come up and the world has moved since: what would fail late is found while everything can still be undone.
    const again = state.preflightDone && !state.preflightRepeated && kind.disruptive && !state.dryRun;
    if (pending && (first || again)) {
      alone ??= { type: 'preflight', calls: preflightCalls(plan, state) };
      continue;
    }
    if (state.dryRun && state.preflightDone) {
      alone ??= { type: 'finish', outcome: 'checked' };
      continue;
    }
    if (step.notBeforeMs !== null) begin.push({ type: 'delay', step: index, untilMs: step.notBeforeMs, deadlineMs });
    else if (kind.runsIn !== 'workflow') begin.push({ type: 'phase', step: index, phase: nextPhase(kind, step) });
    else {
      const input = workflowInput(plan, state, index).value;
      if (planned.uses === 'operator.wait') begin.push({ type: 'wait', step: index, durationMs: Number(input['duration']), deadlineMs });
      else {
        const expiresMs = typeof input['expires'] === 'number' ? input['expires'] : plan.approval.expiresMs;
        alone ??= { type: 'approval', step: index, needed: approvalsNeeded(plan, state, index), expiresAtMs: state.approvalSinceMs === null ? null : state.approvalSinceMs + expiresMs, deadlineMs };
      }
    }
  }
  if (alone?.type === 'preflight' || alone?.type === 'finish') return [active ? { type: 'settle' } : alone];
  if (begin.length > 0) return begin;
  if (stuck.length > 0) return [stuck[0]!];
  if (alone !== null) return [active ? { type: 'settle' } : alone];
  if (active) return [{ type: 'settle' }];
  if (held) return [{ type: 'park', step: null, why: 'paused by an operator', deadlineMs }];
  return [{ type: 'finish', outcome: state.dryRun ? 'checked' : 'succeeded' }];
}

/** A step whose turn has come and which the mode leaves out; the driver reports `skippedByMode`. */
export function leftOut(plan: Plan, state: ExecutionState): number | null {
  if (state.status !== 'running' || state.switching) return null;
  const index = state.steps.findIndex((step, at) => step.status !== 'done' && !step.active && !isIncluded(plan, state, at) && isReady(plan, state, at));
  return index < 0 ? null : index;
}

/** Why the step can only go on by an operator's decision, or null. */
export function needsOperator(plan: Plan, state: ExecutionState, index: number): string | null {
  const step = state.steps[index]!;
  if (step.status === 'parked') return step.error ?? 'needs an operator';
  if (state.status !== 'running' || step.status !== 'pending' || !isIncluded(plan, state, index) || !isReady(plan, state, index)) return null;
  const taints = taintOf(plan, state, index);
  if (taints.length > 0) return `step ${step.id} would work with facts that nobody found out (${taints.join('; ')}); give them (markDone with facts on that step), or override the rule tainted-input`;
  if (step.conditionMet || plan.steps[index]!.when === undefined) {
    const problem = kindOf(step.uses).runsIn === 'workflow' ? workflowInput(plan, state, index).problem : null;
    // Plans are checked when they are made, but not what a fact turns out to be. Throwing here would stop the workflow for good.
    if (problem !== null) return problem;
  }
  return null;
}

/** Taints that stop the step. What only tells people may tell that as well. */
export function taintOf(plan: Plan, state: ExecutionState, index: number): string[] {
  return state.steps[index]!.taintAccepted || plan.steps[index]!.uses === 'notify.send' ? [] : taintsOf(plan, state, index);
}

function workflowInput(plan: Plan, state: ExecutionState, index: number): { value: Readonly<Record<string, unknown>>; problem: string | null } {
  const { id, uses } = plan.steps[index]!;
  const parsed = kindOf(uses).input.safeParse(stepInput(plan, state, index).value);
  if (parsed.success) return { value: parsed.data as Readonly<Record<string, unknown>>, problem: null };
  return { value: {}, problem: `step ${id}: its inputs do not fit: ${parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ')}` };
}

/** How many approvals the step waits for. With the rule two-facts broken at least one, which accepts the loss. */
export function approvalsNeeded(plan: Plan, state: ExecutionState, index: number): number {
  const { count } = workflowInput(plan, state, index).value;
  const needed = typeof count === 'number' ? count : (state.mode === plan.mode ? plan.approval.count : (plan.approval.counts?.[state.mode] ?? plan.approval.count));
  return lossAtStake(plan, state) === null ? needed : Math.max(1, needed);
}

/** What a forced run that breaks the rule two-facts may lose, as its guards found; null when that rule is not broken. */
export function lossAtStake(plan: Plan, state: ExecutionState): { readonly mayLoseMs: number | null } | null {
  const broken = state.steps.flatMap((step, index) => (isIncluded(plan, state, index) && step.checks.some((check) => check.rule === 'two-facts' && check.overridden !== undefined) ? [step] : []));
  if (broken.length === 0) return null;
  const losses = broken.map((step) => state.facts[step.id]?.['mayLoseMs']);
  return { mayLoseMs: losses.every((loss) => typeof loss === 'number') ? Math.max(...(losses as number[])) : null };
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

function preflightCalls(plan: Plan, state: ExecutionState): PreflightCall[] {
  const calls: PreflightCall[] = [];
  if (state.preflightDone) {
    // What the run was begun (and approved) on must still be so: the roles, the lag, or that the primary is down.
    for (const [index, step] of state.steps.entries()) {
      if (step.status === 'done' && step.outcome !== 'skipped' && isIncluded(plan, state, index) && kindOf(step.uses).askedAgain) calls.push({ step: index, phase: 'guard' });
    }
  }
  for (const [index, step] of state.steps.entries()) {
    if (!isIncluded(plan, state, index) || step.status !== 'pending') continue;
    const { uses, after, when } = plan.steps[index]!;
    if (after != null && state.steps.some((other) => other.id === after && other.status !== 'done')) continue;
    // Nobody knows yet whether it will be carried out, or its inputs are nobody's finding: it is asked when its turn comes.
    if (when !== undefined && conditionOf(plan, state, index).holds !== 'yes') continue;
    if (taintOf(plan, state, index).length > 0) continue;
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
  for (let index = state.pastPointOfNoReturn ? -1 : state.steps.length - 1; index >= 0; index -= 1) {
    if (needsUndo(state.steps[index]!)) return { type: 'phase', step: index, phase: 'undo' };
  }
  return { type: 'finish', outcome: state.final ?? 'failed' };
}

function needsUndo(step: StepState): boolean {
  if (!kindOf(step.uses).phases.includes('undo') || step.status === 'undone') return false;
  // What was found already satisfied is not ours to undo; what is in doubt must be looked at.
  return step.applied && (step.changed || step.outcome === null || step.outcome === 'failed' || step.outcome === 'unknown');
}
