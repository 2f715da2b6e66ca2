/** Transitions that events and operators share. */
import { mayBePromoted, update, type ExecutionState, type FinalOutcome, type LedgerEntry, type Outcome } from './execution-state.ts';

export function done(state: ExecutionState, index: number, outcome: Outcome, summary: string, atMs: number): ExecutionState {
  return update(state, index, (step) => ({ ...step, status: 'done', outcome, summary, error: null, inDoubt: false, endedAtMs: atMs }));
}

/** A step cannot go on. Before the point of no return everything is undone; after it an operator decides. */
export function giveUp(state: ExecutionState, index: number, error: string, atMs: number): ExecutionState {
  const next = update(state, index, (step) => ({ ...step, error, outcome: step.outcome ?? 'failed' }));
  // It was ended to go on in another mode: nothing is concluded from it.
  if (state.switching) return next;
  if (mayBePromoted(next)) return update(next, index, (step) => ({ ...step, status: 'parked' }));
  return goBack(next, 'failed', `step ${next.steps[index]!.id}: ${error}`, atMs);
}

export function goBack(state: ExecutionState, final: FinalOutcome, failure: string, atMs: number): ExecutionState {
  // What comes up on the way back is not why it goes back.
  if (state.status !== 'running') return state;
  const steps = state.steps.map((step) => (step.status === 'running' || step.status === 'parked' ? { ...step, status: 'running' as const, endedAtMs: atMs, outcome: step.outcome ?? ('failed' as const) } : step));
  // Reached by a decision of people between two changes (an approval after a nested run promoted): it ends, and takes nothing back.
  const kept = state.pastPointOfNoReturn ? '; nothing is undone: the point of no return was passed' : '';
  return { ...state, steps, status: 'undoing', final, failure: `${failure}${kept}` };
}

export function recordEffect(state: ExecutionState, index: number, phase: 'apply' | 'undo', effect: Pick<LedgerEntry, 'before' | 'after' | 'atMs' | 'outcome' | 'declaredBy'>): ExecutionState {
  const step = state.steps[index]!;
  return { ...state, ledger: [...state.ledger, { step: step.id, uses: step.uses, phase, epoch: state.epoch, attempt: step.attempt, ...effect }] };
}
