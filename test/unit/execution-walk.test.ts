import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CATALOGUE, type Phase } from '../../src/model/catalogue.ts';
import {
  leftOut, mayBePromoted, OPERATOR_ACTIONS, reduce, refusal, startExecution, type ExecutionEvent, type ExecutionState, type OperatorRequest, type PhaseResult, type Plan,
} from '../../src/model/execution.ts';
import { parseDocument } from '../../src/model/document.ts';
import { generateFailback } from '../../src/model/failback.ts';
import { inputIssues, runbookOf } from '../../src/model/runbook-check.ts';
import type { Json, Mode, Runbook } from '../../src/model/runbook-schema.ts';
import { loadRunbook } from '../../src/systems/runbook-file.ts';
import { nextAction } from './execution-plans.ts';

const RUNBOOKS = join(import.meta.dirname, '..', '..', 'runbooks');
const failover = (await loadRunbook(RUNBOOKS, 'database-failover')).runbook;
const failback = (await loadRunbook(RUNBOOKS, 'database-failback')).runbook;

function planOf(runbook: Runbook, mode: Mode, approvals: number): Plan {
  return {
    hash: 'x', kind: 'failover', runbook: runbook.name, title: runbook.title, service: 'orders', environment: 'test', mode, parameters: { datastore: 'db', node: 'a' }, objectives: null,
    approval: { count: approvals, expiresMs: 60_000 }, readOnlyDeadlineMs: runbook.readOnlyDeadline, datastores: ['db'],
    steps: runbook.steps.map((step) => ({
      id: step.id, title: step.title, uses: step.uses, with: step.with as Record<string, Json>, included: step.modes.includes(mode), after: step.after ?? null,
      applyMs: step.timeout ?? CATALOGUE[step.uses]!.applyMs, attempts: step.attempts ?? CATALOGUE[step.uses]!.attempts,
    })),
  };
}

interface Walk {
  readonly plan: Plan;
  readonly end: ExecutionState;
  readonly events: readonly { event: ExecutionEvent; before: ExecutionState; after: ExecutionState }[];
  readonly ended: boolean;
}

/** Carries a plan out as the workflow does, with the world and the operators decided by `next`. */
function walk(plan: Plan, dryRun: boolean, calm: number, random: (below: number) => number): Walk {
  const next = random;
  /** Rarer in a calm world, so that walks of all lengths come up. */
  const rarely = (below: number): boolean => random(below * calm) === 0;
  let state = startExecution(plan, { epoch: 1, requestedBy: 'ann', dryRun });
  let atMs = 1000;
  const events: { event: ExecutionEvent; before: ExecutionState; after: ExecutionState }[] = [];
  const dispatch = (event: ExecutionEvent): void => {
    const before = state;
    state = reduce(plan, state, event);
    events.push({ event, before, after: state });
    atMs += next(2000);
  };
  const meddle = (): void => {
    const action = OPERATOR_ACTIONS[next(OPERATOR_ACTIONS.length)]!;
    const parked = state.steps.find((step) => step.status === 'parked') ?? state.steps[next(state.steps.length)]!;
    const request: OperatorRequest = { by: ['ann', 'bob', 'cy'][next(3)]!, reason: 'r', step: parked.id, attempt: parked.attempt - (next(8) === 0 ? 1 : 0), evidence: next(4) === 0 ? '' : 'seen' };
    if (refusal(plan, state, action, request) === null) dispatch({ type: 'operator', action, request, atMs });
  };
  const result = (uses: string, phase: Phase): PhaseResult => ({
    summary: 's', satisfied: phase === 'inspect' && next(5) === 0,
    ...(phase === 'guard' || phase === 'verify' ? { checks: [{ name: 'c', ok: !rarely(12), found: 'f', expected: 'e' }] } : {}),
    ...(phase === 'apply' ? { outcome: (['changed', 'changed', 'changed', 'already-satisfied', CATALOGUE[uses]!.skippable ? 'skipped' : 'changed'] as const)[next(5)]! } : {}),
    facts: { primary: 'a', candidate: 'b', lsn: '0/1' },
  });
  for (let turn = 0; turn < 600; turn++) {
    if (rarely(10)) meddle();
    if (rarely(80)) dispatch({ type: 'cancelRequested', atMs });
    const skipped = leftOut(plan, state);
    if (skipped !== null) {
      dispatch({ type: 'skippedByMode', step: skipped, atMs });
      continue;
    }
    const action = nextAction(plan, state);
    if (action.type === 'finish') return { plan, end: state, events, ended: true };
    if (action.type === 'phase') {
      dispatch({ type: 'began', step: action.step, phase: action.phase, atMs });
      if (rarely(12)) meddle(); // While the activity is under way.
      const answer = random(10 * calm);
      if (answer === 0) dispatch({ type: 'phaseFailed', step: action.step, phase: action.phase, how: 'failed', error: 'e', atMs });
      else if (answer === 1) dispatch({ type: 'phaseFailed', step: action.step, phase: action.phase, how: 'unknown', error: 'e', atMs });
      else dispatch({ type: 'phaseDone', step: action.step, phase: action.phase, result: result(plan.steps[action.step]!.uses, action.phase), atMs });
    } else if (action.type === 'preflight') {
      const fails = rarely(8);
      dispatch({ type: 'preflightDone', atMs, results: action.calls.map((call, index) => ({ ...call, result: { summary: '', checks: [{ name: 'c', ok: !(fails && index === 0), found: 'f', expected: 'e' }] }, error: null })) });
    } else if (action.type === 'wait') dispatch({ type: 'waited', step: action.step, atMs });
    else if (action.type === 'approval') {
      if (action.expiresAtMs === null) dispatch({ type: 'approvalBegan', step: action.step, atMs });
      if (state.approvals.length >= action.needed) dispatch({ type: 'approvalSettled', step: action.step, outcome: 'approved', atMs });
      else if (next(10) === 0) dispatch({ type: 'approvalSettled', step: action.step, outcome: 'expired', atMs });
      else meddle();
    } else if (action.type === 'switch') dispatch({ type: 'switched', atMs });
    else if (action.type === 'delay') dispatch({ type: 'delayOver', step: action.step, atMs });
    else if (action.type === 'condition') dispatch({ type: 'conditionSettled', step: action.step, holds: action.holds, why: action.why, atMs });
    else if (action.type === 'settle') throw new Error('something is under way for ever');
    else if (action.deadlineMs !== null && next(3) === 0) dispatch({ type: 'deadManExpired', atMs: action.deadlineMs });
    else meddle();
  }
  return { plan, end: state, events, ended: false };
}

/** A walk as a failure shows it: what happened, not the whole state after each event. */
function withName(done: Walk): Walk {
  const text = done.events.map(({ event }) => `${event.type}${'step' in event ? ` ${done.plan.steps[event.step]!.id}` : ''}${'phase' in event ? ` ${event.phase}` : ''}${event.type === 'operator' ? ` ${event.action} ${event.request.step}` : ''}`).join('\n');
  return Object.defineProperty(done, fc.toStringMethod, { value: () => `${done.plan.runbook} ${done.plan.mode}\n${text}` });
}

/** mulberry32: the same seed gives the same walk. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

const arbitraryWalk = fc
  .record({ runbook: fc.constantFrom(failover, failback), mode: fc.constantFrom<Mode>('planned', 'forced'), approvals: fc.nat(2), dryRun: fc.integer({ min: 0, max: 9 }).map((n) => n === 0), calm: fc.constantFrom(1, 3, 10, 40), seed: fc.integer() })
  .map(({ runbook, mode, approvals, dryRun, calm, seed }) => withName(walk(planOf(runbook, mode, approvals), dryRun, calm, generator(seed))));

function undone({ events }: Walk): number[] {
  return events.flatMap(({ event }) => (event.type === 'began' && event.phase === 'undo' ? [event.step] : []));
}

function firstIndex({ events }: Walk, test: (entry: Walk['events'][number]) => boolean): number {
  const index = events.findIndex(test);
  return index < 0 ? Infinity : index;
}

const RUNS = { numRuns: Number(process.env['WALKS'] ?? 300) };

describe('any execution of the failover and failback runbooks', () => {
  it('comes to every end there is, so that what follows says something', () => {
    const ends = new Map<string, number>();
    for (const done of fc.sample(arbitraryWalk, { ...RUNS, seed: 7 })) {
      const last = nextAction(done.plan, done.end);
      const end = last.type === 'finish' ? last.outcome : 'parked';
      ends.set(end, (ends.get(end) ?? 0) + 1);
      if (done.end.pastPointOfNoReturn) ends.set('promoted', (ends.get('promoted') ?? 0) + 1);
      if (undone(done).length > 0) ends.set('undone', (ends.get('undone') ?? 0) + 1);
    }
    for (const end of ['succeeded', 'failed', 'denied', 'aborted', 'checked', 'promoted', 'undone']) expect({ end, often: (ends.get(end) ?? 0) >= 3 }).toEqual({ end, often: true });
  });

  it('undoes nothing once the point of no return is passed or promotion may have begun', () => {
    fc.assert(fc.property(arbitraryWalk, ({ events }) => {
      expect(events.filter(({ event, before }) => event.type === 'began' && event.phase === 'undo' && mayBePromoted(before))).toEqual([]);
      // Passed is passed.
      expect(events.filter(({ before, after }) => before.pastPointOfNoReturn && !after.pastPointOfNoReturn)).toEqual([]);
    }), RUNS);
  });

  it('changes nothing before the guards of all that can be asked were asked, and nothing at all in a dry run', () => {
    fc.assert(fc.property(arbitraryWalk, (done) => {
      const preflight = firstIndex(done, ({ event }) => event.type === 'preflightDone');
      const change = firstIndex(done, ({ event }) => event.type === 'began' && event.phase === 'apply');
      expect(change === Infinity || preflight < change).toBe(true);
      expect(change === Infinity || !done.end.dryRun).toBe(true);
    }), RUNS);
  });

  it('never parks without a deadline while writes are refused and can be allowed again, and never ends so', () => {
    fc.assert(fc.property(arbitraryWalk, (done) => {
      const states = done.events.map(({ after }) => after).filter((state) => state.status === 'running' && state.writesRefusedSinceMs !== null && !mayBePromoted(state));
      const stuck = states.map((state) => nextAction(done.plan, state)).filter((action) => action.type === 'park' && action.deadlineMs === null);
      expect(stuck).toEqual([]);
      // Not ours to undo: what was refused already, and what an operator declared done.
      const ours = done.end.steps.some((step) => CATALOGUE[step.uses]!.refusesWrites && step.changed) && !done.events.some(({ event }) => event.type === 'operator' && event.action === 'markDone');
      expect(ours && nextAction(done.plan, done.end).type === 'finish' && !done.end.pastPointOfNoReturn ? done.end.writesRefusedSinceMs : null).toBeNull();
    }), RUNS);
  });

  it('undoes in reverse order, each that was applied, or parks', () => {
    fc.assert(fc.property(arbitraryWalk, (done) => {
      const order = undone(done).filter((step, index, all) => step !== all[index - 1]);
      expect(order).toEqual([...order].sort((a, b) => b - a));
      const open = done.end.steps.filter((step) => CATALOGUE[step.uses]!.phases.includes('undo') && step.applied && step.changed && step.status !== 'undone');
      expect(done.ended && done.end.status === 'undoing' ? open : []).toEqual([]);
    }), RUNS);
  });

  it('calls itself succeeded only when every step of its mode is done, and keeps the ledger whole', () => {
    fc.assert(fc.property(arbitraryWalk, (done) => {
      const last = nextAction(done.plan, done.end);
      const succeeded = last.type === 'finish' && last.outcome === 'succeeded';
      expect(succeeded ? done.end.steps.filter((step) => step.status !== 'done' || step.outcome === 'failed' || step.outcome === 'unknown') : []).toEqual([]);
      const answered = done.events.filter(({ event, before }) => (event.type === 'phaseDone' && (event.phase === 'apply' || event.phase === 'undo')) || (event.type === 'phaseFailed' && event.phase === 'apply') || (event.type === 'phaseDone' && event.phase === 'inspect' && before.steps[event.step]!.inDoubt && event.result.satisfied === true));
      // What was declared done by hand stands beside them, with who declared it.
      expect(done.end.ledger.filter((entry) => entry.declaredBy === undefined)).toHaveLength(answered.length);
    }), RUNS);
  });

  it('does not report as failed what an operator retried and what then succeeded', () => {
    fc.assert(fc.property(arbitraryWalk, ({ end }) => {
      // A guard that was asked again and no longer held stays visible on its step, and is why the run went back.
      const shown = (step: (typeof end.steps)[number]): boolean => CATALOGUE[step.uses]!.askedAgain && end.failure !== null;
      expect(end.steps.filter((step) => step.status === 'done' && !shown(step) && (step.outcome === 'failed' || step.outcome === 'unknown' || step.outcome === null || (step.outcome !== 'skipped' && !step.summary.startsWith('declared done') && step.checks.some((check) => !check.ok)))).map(({ id, outcome, checks }) => ({ id, outcome, checks }))).toEqual([]);
    }), RUNS);
  });

  it('skips only what may be skipped, and takes a decision once', () => {
    fc.assert(fc.property(arbitraryWalk, ({ plan, events }) => {
      for (const { event, before, after } of events) {
        if (event.type !== 'operator') continue;
        const step = before.steps.find((entry) => entry.id === event.request.step)!;
        expect(event.action !== 'skip' || CATALOGUE[step.uses]!.skippable).toBe(true);
        expect(event.action === 'approve' && event.request.by === before.requestedBy).toBe(false);
        // The same request again, as a double click sends it, is refused.
        expect(refusal(plan, after, event.action, event.request)).not.toBeNull();
      }
    }), RUNS);
  });

  it('has a valid way back once it is past the point of no return, and none before', () => {
    fc.assert(fc.property(arbitraryWalk, ({ plan, end }) => {
      const { document, reason, origin } = generateFailback(plan, end, { workflowId: 'failover/orders', runId: 'r', atMs: 1 });
      expect({ document: document !== null, reason: reason === null }).toEqual({ document: end.pastPointOfNoReturn, reason: end.pastPointOfNoReturn });
      if (document === null) return;
      const { runbook, findings } = runbookOf(parseDocument('failback.yaml', document), `generated-${origin!.purpose}`);
      expect(findings.filter(({ level }) => level === 'error')).toEqual([]);
      expect(inputIssues(runbook!, { service: 'orders', mode: 'planned', parameters: {} })).toEqual([]);
      // Whatever was left undone: the rebuild comes before the refused writes, and those before the promotion.
      const at = (uses: string): number => runbook!.steps.findIndex((step) => step.uses === uses);
      expect([at('postgres.rebuildStandby'), at('postgres.readOnly'), at('postgres.promote')]).toEqual([at('postgres.rebuildStandby'), at('postgres.readOnly'), at('postgres.promote')].sort((a, b) => a - b));
    }), RUNS);
  });

  it('has a state that history can carry', () => {
    fc.assert(fc.property(arbitraryWalk, ({ end }) => {
      expect(JSON.parse(JSON.stringify(end))).toEqual(end);
    }), RUNS);
  });
});
