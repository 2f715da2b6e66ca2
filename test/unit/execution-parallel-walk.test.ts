/** Random runbooks with steps beside each other, conditions, delays and nested runs, carried out in random order by a driver that may do several things at once. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CATALOGUE, type Phase } from '../../src/model/catalogue.ts';
import {
  leftOut, mayBePromoted, nextActions, OPERATOR_ACTIONS, parkedSteps, reduce, refusal, startExecution,
  type ExecutionEvent, type ExecutionState, type OperatorRequest, type Plan, type PlannedStep,
} from '../../src/model/execution.ts';
import { goodResult, planOf } from './execution-plans.ts';

const KINDS = ['rollout.command', 'secret.stage', 'route53.change', 'runbook.run', 'operator.wait', 'notify.send', 'canary.start'] as const;
const INPUTS: Readonly<Record<string, PlannedStep['with']>> = { 'operator.wait': { duration: '1s' }, 'runbook.run': { runbook: 'x' }, 'notify.send': { title: 't' } };

const arbitraryPlan = fc
  .array(fc.record({ kind: fc.constantFrom(...KINDS), barrier: fc.boolean(), needs: fc.array(fc.nat(20), { maxLength: 3 }), maybe: fc.nat(5), feeds: fc.nat(3), delay: fc.boolean() }), { minLength: 2, maxLength: 7 })
  .map((steps) =>
    planOf(
      steps.map(({ kind, barrier, needs, maybe, feeds, delay }, index) => {
        const own = [...new Set(needs.map((need) => need % Math.max(1, index)))].filter((need) => need < index);
        const from = own[0];
        return {
          id: `s${index}`, uses: kind,
          with: kind === 'rollout.command' && from !== undefined && feeds === 0 ? { argv: [`\${steps.s${from}.changeId}`] } : (INPUTS[kind] ?? { datastore: 'shop' }),
          ...(barrier ? {} : { needs: own }),
          ...(maybe === 0 ? { when: [{ value: '${mode}', equals: 'forced' }] } : {}),
          ...(delay ? { retryDelayMs: 10 } : {}),
        };
      }),
      { retryBudget: 5 },
    ),
  );

interface Moment {
  readonly event: ExecutionEvent;
  readonly before: ExecutionState;
  readonly after: ExecutionState;
}

/** Ends when the execution does, or when only an operator could go on and none does. */
function carryOut(plan: Plan, choose: (below: number) => number, calm: number): { moments: Moment[]; end: ExecutionState; ended: boolean } {
  let state = startExecution(plan, { epoch: 1, requestedBy: 'ann', dryRun: false });
  const moments: Moment[] = [];
  let atMs = 1000;
  const dispatch = (event: ExecutionEvent): void => {
    const before = state;
    state = reduce(plan, state, event);
    moments.push({ event, before, after: state });
    atMs += 1 + choose(50);
  };
  const active = new Map<number, Phase | 'wait' | 'delay'>();
  const rarely = (): boolean => choose(calm) === 0;
  for (let turn = 0; turn < 800; turn += 1) {
    if (rarely()) {
      const action = OPERATOR_ACTIONS[choose(OPERATOR_ACTIONS.length)]!;
      const parked = parkedSteps(plan, state)[0];
      const request: OperatorRequest = { by: 'bob', reason: 'r', evidence: 'e', rule: 'tainted-input', ...(parked === undefined ? {} : { step: parked.step, attempt: parked.attempt }) };
      if (refusal(plan, state, action, request) === null) dispatch({ type: 'operator', action, request, atMs });
    }
    if (rarely() && choose(4) === 0) dispatch({ type: 'cancelRequested', atMs });
    const skipped = leftOut(plan, state);
    if (skipped !== null) {
      dispatch({ type: 'skippedByMode', step: skipped, atMs });
      continue;
    }
    const actions = nextActions(plan, state);
    const [first] = actions;
    if (first === undefined || first.type === 'finish') return { moments, end: state, ended: true };
    // Either something that is under way ends, or something more is begun.
    const ending = [...active.keys()];
    const alone = first.type === 'preflight' || first.type === 'condition' || first.type === 'switch';
    if (!alone && ending.length > 0 && (first.type === 'settle' || first.type === 'park' || choose(2) === 0)) {
      const step = ending[choose(ending.length)]!;
      const what = active.get(step)!;
      active.delete(step);
      if (what === 'wait') dispatch({ type: state.status === 'running' ? 'waited' : 'delayOver', step, atMs });
      else if (what === 'delay') dispatch({ type: 'delayOver', step, atMs });
      else if (rarely()) dispatch({ type: 'phaseFailed', step, phase: what, how: choose(2) === 0 ? 'failed' : 'unknown', error: 'e', atMs });
      else {
        const { uses } = plan.steps[step]!;
        const promoted = uses === 'runbook.run' && what === 'apply' && choose(3) === 0;
        dispatch({ type: 'phaseDone', step, phase: what, atMs, result: { ...goodResult(uses, what), satisfied: what === 'inspect' && choose(6) === 0, ...(promoted ? { pointOfNoReturn: true } : {}) } });
      }
      continue;
    }
    if (first.type === 'preflight') dispatch({ type: 'preflightDone', atMs, results: first.calls.map((call) => ({ ...call, result: goodResult(plan.steps[call.step]!.uses, call.phase), error: null })) });
    else if (first.type === 'condition') dispatch({ type: 'conditionSettled', step: first.step, holds: first.holds, why: first.why, atMs });
    else if (first.type === 'switch') dispatch({ type: 'switched', atMs });
    else if (first.type === 'park') {
      if (ending.length === 0 && choose(30) === 0) return { moments, end: state, ended: false };
    } else if (first.type === 'settle') expect(ending.length).toBeGreaterThan(0);
    else {
      const one = actions[choose(actions.length)]!;
      if (one.type === 'phase') {
        dispatch({ type: 'began', step: one.step, phase: one.phase, atMs });
        active.set(one.step, one.phase);
      } else if (one.type === 'wait' || one.type === 'delay') {
        dispatch({ type: 'waitBegan', step: one.step, atMs });
        active.set(one.step, one.type);
      }
    }
  }
  throw new Error('it does not come to an end');
}

const arbitraryRun = fc.record({ plan: arbitraryPlan, calm: fc.constantFrom(4, 15, 60), choices: fc.infiniteStream(fc.nat(1_000_000)) }).map(({ plan, calm, choices }) => {
  const choose = (below: number): number => (choices.next().value as number) % below;
  const run = { plan, ...carryOut(plan, choose, calm) };
  // As a failure shows it: what happened, not the whole state after each event.
  const text = (): string => [...plan.steps.map(({ id, uses, needs, when }) => `${id} ${uses}${needs === undefined ? '' : ` needs ${needs.join(',')}`}${when === undefined ? '' : ' when forced'}`), ...run.moments.map(({ event }) => `${event.type}${'step' in event ? ` s${event.step}` : ''}${'phase' in event ? ` ${event.phase}` : ''}${'how' in event ? ` ${event.how}` : ''}${event.type === 'operator' ? ` ${event.action}` : ''}`)].join('\n');
  return Object.defineProperty(run, fc.toStringMethod, { value: text });
});
const RUNS = { numRuns: Number(process.env['WALKS'] ?? 600) };
const begins = (moment: Moment): moment is Moment & { event: Extract<ExecutionEvent, { type: 'began' }> } => moment.event.type === 'began';

describe('any execution of any runbook whose steps may run beside each other', () => {
  it('begins a step only when all it needs is done, each once at a time, and really several together', () => {
    let together = 0;
    fc.assert(fc.property(arbitraryRun, ({ plan, moments }) => {
      for (const { event, before } of moments.filter(begins)) {
        const step = before.steps[event.step]!;
        expect(step.active).toBe(false);
        if (before.steps.some((other) => other.active)) together += 1;
        const needs = plan.steps[event.step]!.needs ?? before.steps.slice(0, event.step).map((_, index) => index);
        expect(event.phase === 'undo' || needs.every((index) => before.steps[index]!.status === 'done')).toBe(true);
      }
    }), RUNS);
    expect(together).toBeGreaterThan(100);
  });

  it('undoes only when nothing else is under way, in reverse, and never after a point of no return', () => {
    let undone = 0;
    fc.assert(fc.property(arbitraryRun, ({ moments }) => {
      for (const { event, before } of moments.filter(begins).filter(({ event }) => event.phase === 'undo')) {
        undone += 1;
        expect(mayBePromoted(before)).toBe(false);
        expect(before.steps.some((step) => step.active)).toBe(false);
        expect(before.steps.slice(event.step + 1).filter((step) => CATALOGUE[step.uses]!.phases.includes('undo') && step.applied && step.changed && step.status !== 'undone')).toEqual([]);
      }
    }), RUNS);
    expect(undone).toBeGreaterThan(20);
  });

  it('goes back or is parked whole: nothing applied is left behind by an end that says it went back, and every change is in the ledger', () => {
    fc.assert(fc.property(arbitraryRun, ({ end, ended }) => {
      const left = end.steps.filter((step) => CATALOGUE[step.uses]!.phases.includes('undo') && step.applied && step.changed && step.status !== 'undone');
      expect(ended && end.status === 'undoing' ? left : []).toEqual([]);
      expect(end.steps.filter((step) => step.changed && !end.ledger.some((entry) => entry.step === step.id && entry.phase === 'apply'))).toEqual([]);
      expect(ended && end.status === 'running' ? end.steps.filter((step) => step.status !== 'done' || step.active) : []).toEqual([]);
    }), RUNS);
  });

  it('never asks a guard with a fact that nobody found out, unless somebody broke the rule for it', () => {
    fc.assert(fc.property(arbitraryRun, ({ plan, moments }) => {
      for (const { event, before } of moments.filter(begins)) {
        const tainted = (plan.steps[event.step]!.with['argv'] as readonly string[] | undefined)?.some((text) => before.steps.find((step) => text.includes(`steps.${step.id}.`))?.tainted != null) === true;
        expect(tainted && !before.steps[event.step]!.taintAccepted && before.steps[event.step]!.status === 'pending').toBe(false);
      }
    }), RUNS);
  });
});
