/**
 * The interpreter against a model of the world: lost answers, effects that land late, cancellations in the middle of a phase,
 * operators who do whatever they are allowed to. Not sampled only: every run with up to a number of deviations is walked.
 */
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { stepKind } from '../../src/model/catalogue.ts';
import {
  NOT_BEGUN, OPERATOR_ACTIONS, isIncluded, leftOut, reduce, refusal, startExecution, stepInput,
  type Action, type ExecutionEvent, type ExecutionState, type OperatorAction, type OperatorRequest, type PhaseResult, type Plan,
} from '../../src/model/execution.ts';
import { nextAction, badChecks, goodResult, shippedPlan } from './execution-plans.ts';

/** What really is, which the interpreter only sees through answers. */
interface World {
  readonly readOnly: boolean;
  readonly fenced: boolean;
  readonly promoted: boolean;
  /** Changes whose answer was lost and which have not landed yet. */
  readonly landing: readonly ('readOnly' | 'fenced' | 'promoted')[];
}

interface Node {
  readonly state: ExecutionState;
  readonly world: World;
  readonly inFlight: Extract<Action, { type: 'phase' | 'preflight' }> | null;
  readonly memory: {
    readonly promoteBegun: boolean;
    /** A try of it was answered by anything but that it had not begun. */
    readonly promoteTried: boolean;
    /** An operator said that something is done or not needed: from here the world is the operator's word. */
    readonly declared: boolean;
    readonly stopped: boolean;
    /** Events since someone outside did something. */
    readonly alone: number;
    readonly applyAnswers: number;
  };
}

interface Move {
  readonly name: string;
  /** 0 when all goes well. */
  readonly cost: 0 | 1;
  readonly to: () => Node;
}

/** Far more than the longest run there is: each step has at most a few phases and attempts. */
const MOST_EVENTS_ALONE = 400;
const AT = 1_000;

class Broken extends Error {}
function hold(rule: string, holds: boolean, node: Node): void {
  if (holds) return;
  const { status, final, failure, paused, preflightRepeated, pastPointOfNoReturn, writesRefusedSinceMs } = node.state;
  const steps = node.state.steps.filter((step) => step.status !== 'pending').map((step) => `${step.id}: ${step.status}, ${step.phase}, ${step.outcome}, attempt ${step.attempt}${step.inDoubt ? ', in doubt' : ''}`);
  throw new Broken([rule, JSON.stringify({ status, final, failure, paused, preflightRepeated, pastPointOfNoReturn, writesRefusedSinceMs }), ...steps, JSON.stringify({ world: node.world, memory: node.memory })].join('\n'));
}

const effectOf = { 'postgres.readOnly': 'readOnly', 'postgres.fence': 'fenced', 'postgres.promote': 'promoted' } as const;
function effect(uses: string): 'readOnly' | 'fenced' | 'promoted' | null {
  return Object.hasOwn(effectOf, uses) ? effectOf[uses as keyof typeof effectOf] : null;
}

function first(plan: Plan): Node {
  return {
    state: startExecution(plan, { epoch: 1, requestedBy: 'requester', dryRun: false }), inFlight: null,
    world: { readOnly: false, fenced: false, promoted: false, landing: [] },
    memory: { promoteBegun: false, promoteTried: false, declared: false, stopped: false, alone: 0, applyAnswers: 0 },
  };
}

function send(plan: Plan, node: Node, event: ExecutionEvent, change: { world?: World; inFlight?: Node['inFlight']; memory?: Partial<Node['memory']>; outside?: boolean } = {}): Node {
  const state = reduce(plan, node.state, event);
  const next: Node = {
    state, world: change.world ?? node.world, inFlight: change.inFlight === undefined ? node.inFlight : change.inFlight,
    memory: { ...node.memory, alone: change.outside === true ? 0 : node.memory.alone + 1, ...change.memory },
  };
  hold('the point of no return is never taken back', !node.state.pastPointOfNoReturn || state.pastPointOfNoReturn, next);
  hold('the ledger only grows', node.state.ledger.every((entry, index) => state.ledger[index] === entry), next);
  hold('attempts only grow', node.state.steps.every((step, index) => state.steps[index]!.attempt >= step.attempt), next);
  hold('what is done stays done, or is verified', event.type === 'switched' || node.state.steps.every((step, index) => step.status !== 'done' || step.verifyDue || ['done', 'undone'].includes(state.steps[index]!.status) || state.status === 'undoing'), next);
  hold('each answer of apply is in the ledger', state.ledger.filter((entry) => entry.phase === 'apply').length >= next.memory.applyAnswers, next);
  hold('on its own it comes to an end or to an operator', next.memory.alone < MOST_EVENTS_ALONE, next);
  return next;
}

/** Everything that can happen next. */
function moves(plan: Plan, node: Node): Move[] {
  const left = leftOut(plan, node.state);
  if (node.inFlight === null && left !== null) return [{ name: 'skippedByMode', cost: 0, to: () => send(plan, node, { type: 'skippedByMode', step: left, atMs: AT }) }];
  const action = node.inFlight ?? nextAction(plan, node.state);
  const found: Move[] = [];
  const outside = (): void => {
    found.push({ name: 'cancel', cost: 1, to: () => send(plan, node, { type: 'cancelRequested', atMs: AT }, { outside: true, memory: { stopped: node.memory.stopped || stops(plan, node, { type: 'cancelRequested', atMs: AT }) } }) });
    for (const operator of OPERATOR_ACTIONS) {
      if (operator !== 'approve') operatorMove(operator);
    }
  };
  const operatorMove = (operator: OperatorAction): void => {
    const parked = node.state.steps.find((step) => step.status === 'parked');
    const request: OperatorRequest = { by: 'operator', reason: 'r', evidence: 'e', ...(parked === undefined ? {} : { step: parked.id, attempt: parked.attempt }) };
    if (refusal(plan, node.state, operator, request) !== null) return;
    found.push({
      name: operator, cost: 1,
      to: () => {
        const event: ExecutionEvent = { type: 'operator', action: operator, request, atMs: AT };
        return send(plan, node, event, { outside: true, memory: { declared: node.memory.declared || operator === 'markDone' || operator === 'skip', stopped: node.memory.stopped || stops(plan, node, event) } });
      },
    });
  };

  if (node.inFlight !== null) {
    if (node.inFlight.type === 'preflight') preflightAnswers(plan, node, node.inFlight, found);
    else phaseAnswers(plan, node, node.inFlight, found);
    if (found.length > 0) outside();
    return found;
  }
  switch (action.type) {
    case 'finish':
      atTheEnd(node, action.outcome);
      return [];
    case 'phase':
      return [{ name: 'begin', cost: 0, to: () => begin(plan, node, action) }];
    case 'preflight':
      return [{ name: 'begin preflight', cost: 0, to: () => ({ ...node, inFlight: action }) }];
    case 'approval':
      if (node.state.approvals.length >= action.needed) return [{ name: 'approved', cost: 0, to: () => send(plan, node, { type: 'approvalSettled', step: action.step, outcome: 'approved', atMs: AT }) }];
      if (action.expiresAtMs === null) return [{ name: 'approval begins', cost: 0, to: () => send(plan, node, { type: 'approvalBegan', step: action.step, atMs: AT }) }];
      hold('the requester does not approve', refusal(plan, node.state, 'approve', { by: 'requester', reason: 'r' }) !== null, node);
      found.push({ name: 'approve', cost: 0, to: () => send(plan, node, { type: 'operator', action: 'approve', request: { by: `approver ${node.state.approvals.length}`, reason: 'r' }, atMs: AT }, { outside: true }) });
      found.push({ name: 'approval expires', cost: 1, to: () => send(plan, node, { type: 'approvalSettled', step: action.step, outcome: 'expired', atMs: AT }) });
      break;
    case 'wait':
      found.push({ name: 'waited', cost: 0, to: () => send(plan, node, { type: 'waited', step: action.step, atMs: AT }) });
      break;
    case 'park':
      hold('it never parks with writes refused and no deadline, unless undo failed or a promotion may have begun', !node.world.readOnly || node.memory.promoteBegun || node.memory.declared || node.state.status === 'undoing' || action.deadlineMs !== null, node);
      if (action.deadlineMs !== null) found.push({ name: 'the dead man', cost: 1, to: () => send(plan, node, { type: 'deadManExpired', atMs: AT }) });
      break;
    case 'delay':
      return [{ name: 'delay over', cost: 0, to: () => send(plan, node, { type: 'delayOver', step: action.step, atMs: AT }) }];
    case 'condition':
      return [{ name: 'condition', cost: 0, to: () => send(plan, node, { type: 'conditionSettled', step: action.step, holds: action.holds, why: action.why, atMs: AT }) }];
    case 'switch':
      return [{ name: 'switch', cost: 0, to: () => send(plan, node, { type: 'switched', atMs: AT }) }];
    case 'settle':
      hold('what it waits for is under way', false, node);
      break;
    default:
      action satisfies never;
  }
  outside();
  hold('someone can always do something', found.length > 0, node);
  return found;
}

function stops(plan: Plan, node: Node, event: ExecutionEvent): boolean {
  return node.state.status === 'running' && reduce(plan, node.state, event).status === 'undoing';
}

function begin(plan: Plan, node: Node, action: Extract<Action, { type: 'phase' }>): Node {
  const { uses, id } = plan.steps[action.step]!;
  const step = node.state.steps[action.step]!;
  const kind = stepKind(uses)!;
  hold(`${id}:${action.phase} is a phase of its kind`, kind.phases.includes(action.phase), node);
  hold('a step that the mode leaves out is never begun', action.phase === 'undo' || isIncluded(plan, node.state, action.step), node);
  if (action.phase === 'undo') {
    hold('nothing is undone after the point of no return, or once a promotion was begun', !node.state.pastPointOfNoReturn && !node.memory.promoteBegun && !node.world.promoted, node);
    hold('only what was begun is undone', step.applied, node);
  } else {
    hold('a step that is done is not begun again, but for the verification it still owes', step.status === 'done' ? action.phase === 'verify' && step.verifyDue : step.status !== 'undone', node);
    hold('going back begins nothing but undo', node.state.status === 'running' && !node.memory.stopped, node);
    hold('all steps before it are done', node.state.steps.slice(0, action.step).every((earlier) => earlier.status === 'done'), node);
  }
  if (action.phase === 'apply') {
    hold('the guards were asked before the first change', node.state.preflightDone, node);
    hold('apply never repeats what is known to have happened', step.outcome !== 'changed' && step.outcome !== 'already-satisfied', node);
    hold('apply is not begun while its last try is in doubt', !step.inDoubt, node);
    hold('apply stays in its budget', step.attempt <= step.lastAttempt, node);
    if (kind.refusesWrites || kind.pointOfNoReturn) hold('the guards were asked again right before', node.state.preflightRepeated, node);
    if (kind.pointOfNoReturn) {
      hold('it is promoted once', !node.state.pastPointOfNoReturn, node);
      hold('nothing is promoted while the old primary may take writes', node.memory.declared || (node.state.mode === 'planned' ? node.world.readOnly : node.world.fenced), node);
      const { missing } = stepInput(plan, node.state, action.step);
      hold('it is known what to promote', missing.length === 0, node);
    }
  }
  return send(plan, node, { type: 'began', step: action.step, phase: action.phase, atMs: AT }, { inFlight: action, memory: { promoteBegun: node.memory.promoteBegun || (action.phase === 'apply' && kind.pointOfNoReturn) } });
}

function preflightAnswers(plan: Plan, node: Node, action: Extract<Action, { type: 'preflight' }>, found: Move[]): void {
  const results = (bad: number | null, unanswered: boolean): ExecutionEvent => ({
    type: 'preflightDone', atMs: AT,
    results: action.calls.map(({ step, phase }, at) => {
      if (bad !== at) return { step, phase, result: goodResult(plan.steps[step]!.uses, phase), error: null };
      return unanswered ? { step, phase, result: null, error: 'no answer' } : { step, phase, result: { summary: 's', checks: badChecks }, error: null };
    }),
  });
  const done = (event: ExecutionEvent) => () => send(plan, node, event, { inFlight: null });
  found.push({ name: 'guards hold', cost: 0, to: done(results(null, false)) });
  if (action.calls.length > 0) {
    found.push({ name: 'a guard does not hold', cost: 1, to: done(results(action.calls.length - 1, false)) });
    found.push({ name: 'a guard does not answer', cost: 1, to: done(results(0, true)) });
  }
}

function phaseAnswers(plan: Plan, node: Node, action: Extract<Action, { type: 'phase' }>, found: Move[]): void {
  const { step, phase } = action;
  const { uses } = plan.steps[step]!;
  const touched = effect(uses);
  const landed: World = { ...node.world, ...Object.fromEntries(node.world.landing.map((name) => [name, true])), landing: [] };
  const done = (name: string, cost: 0 | 1, result: Partial<PhaseResult>, world: World = node.world): void => {
    found.push({
      name: `${phase} ${name}`, cost,
      to: () => send(plan, node, { type: 'phaseDone', step, phase, result: { ...goodResult(uses, phase), ...result }, atMs: AT }, { world, inFlight: null, memory: { applyAnswers: node.memory.applyAnswers + (phase === 'apply' ? 1 : 0) } }),
    });
  };
  const failed = (how: 'failed' | 'unknown', name: string, world: World = node.world, code?: string): void => {
    const promoting = phase === 'apply' && stepKind(uses)!.pointOfNoReturn;
    const said = promoting ? (code === NOT_BEGUN ? { promoteBegun: node.memory.promoteTried } : { promoteTried: true }) : {};
    found.push({
      name: `${phase} ${how} ${name}`, cost: 1,
      to: () => send(plan, node, { type: 'phaseFailed', step, phase, how, error: `${how} ${name}`, ...(code === undefined ? {} : { code }), atMs: AT }, { world, inFlight: null, memory: { ...said, applyAnswers: node.memory.applyAnswers + (phase === 'apply' ? 1 : 0) } }),
    });
  };
  if (phase === 'inspect') {
    // Tells the truth of the moment. What other kinds change is not modelled: they may say either.
    if (touched === null) {
      done('sees nothing', 0, { satisfied: false });
      done('sees it done', 1, { satisfied: true });
    } else {
      done('tells', 0, { satisfied: node.world[touched] });
      if (node.world.landing.length > 0) done('tells, late effect landed', 1, { satisfied: landed[touched] }, landed);
    }
    failed('unknown', '');
    failed('failed', '');
    return;
  }
  if (phase === 'guard' || phase === 'verify') {
    done('holds', 0, {});
    done('does not hold', 1, { checks: badChecks });
    failed('unknown', '');
    failed('failed', '');
    return;
  }
  if (phase === 'undo') {
    // Undo looks for itself: what has landed is taken back, and what is lost on its way finds a newer epoch.
    done('done', 0, {}, touched === null ? node.world : { ...node.world, [touched]: false, landing: node.world.landing.filter((name) => name !== touched) });
    failed('unknown', '');
    failed('failed', '');
    return;
  }
  if (touched === null) {
    done('done', 0, {});
    done('says satisfied', 1, { outcome: 'already-satisfied' });
    failed('unknown', '');
    failed('failed', '');
    return;
  }
  const already = landed[touched];
  done('done', 0, { outcome: already ? 'already-satisfied' : 'changed' }, { ...landed, [touched]: true });
  failed('unknown', 'happened', { ...landed, [touched]: true });
  failed('unknown', 'did not happen');
  failed('unknown', 'will happen', { ...node.world, landing: [...new Set([...node.world.landing, touched])] });
  failed('failed', 'did not happen');
  failed('failed', 'not begun', node.world, NOT_BEGUN);
  // A client that was told of an error after the server had done its work.
  failed('failed', 'and yet happened', { ...landed, [touched]: true });
}

function atTheEnd(node: Node, outcome: string): void {
  const { state, world, memory } = node;
  hold('it does not end before its steps do', outcome !== 'succeeded' || state.steps.every((step) => step.status === 'done' && !step.verifyDue), node);
  hold('success means promoted', outcome !== 'succeeded' || memory.declared || world.promoted, node);
  hold('what was promoted is not called undone', !world.promoted || state.pastPointOfNoReturn, node);
  hold('it does not end with a primary that refuses writes and nothing promoted', !world.readOnly || state.pastPointOfNoReturn || memory.declared, node);
  hold('it does not end with a promotion under way', !world.landing.includes('promoted') || memory.declared || state.pastPointOfNoReturn, node);
  hold('it does not end with something left to undo', state.pastPointOfNoReturn || outcome === 'succeeded' || state.steps.every((step) => !stepKind(step.uses)!.phases.includes('undo') || step.status === 'undone' || !step.changed || memory.declared), node);
  hold('a stopped execution does not say it failed or succeeded', !memory.stopped || ['aborted', 'denied'].includes(outcome) || state.failure !== null, node);
  hold('every change is in the ledger', state.steps.every((step) => !step.changed || memory.declared || state.ledger.some((entry) => entry.step === step.id && entry.phase === 'apply')), node);
}

function key(node: Node): string {
  // What was said and when does not decide what is next.
  const { decisions: _, ledger, facts, ...rest } = node.state;
  const steps = rest.steps.map(({ id, status, outcome, phase, attempt, lastAttempt, applied, changed, inDoubt, preflighted, verifyDue }) => [id, status, outcome, phase, attempt, lastAttempt, applied, changed, inDoubt, preflighted, verifyDue]);
  const { alone: _alone, applyAnswers: _answers, ...memory } = node.memory;
  return JSON.stringify([{ ...rest, failure: null, steps }, ledger.map((entry) => [entry.step, entry.outcome]), Object.keys(facts), node.world, node.inFlight, memory]);
}

/** Every run with at most `most` deviations from all going well. */
function walkAll(plan: Plan, most: number): { nodes: number; ends: Set<string> } {
  const cheapest = new Map<string, number>();
  const ends = new Set<string>();
  const stack: { node: Node; cost: number; trail: Trail | null }[] = [{ node: first(plan), cost: 0, trail: null }];
  while (stack.length > 0) {
    const { node, cost, trail } = stack.pop()!;
    const at = key(node);
    if ((cheapest.get(at) ?? Number.POSITIVE_INFINITY) <= cost) continue;
    cheapest.set(at, cost);
    try {
      const possible = moves(plan, node);
      if (possible.length === 0) ends.add(String(node.state.final ?? 'succeeded'));
      for (const move of possible) {
        if (cost + move.cost > most) continue;
        const next = { name: move.name, before: trail };
        try {
          stack.push({ node: move.to(), cost: cost + move.cost, trail: next });
        } catch (error) {
          throw new Error(`after ${path(next)}:\n${(error as Error).message}`, { cause: error });
        }
      }
    } catch (error) {
      if (error instanceof Broken) throw new Error(`after ${path(trail)}:\n${error.message}`, { cause: error });
      throw error;
    }
  }
  return { nodes: cheapest.size, ends };
}

interface Trail {
  readonly name: string;
  readonly before: Trail | null;
}
function path(trail: Trail | null): string {
  const names: string[] = [];
  for (let at = trail; at !== null; at = at.before) names.unshift(at.name);
  return names.join(', ');
}

/** `npm run test:fault` walks one deviation further and more random runs: minutes. */
const LONG = process.env['HOLDFAST_TEST_ROUNDS'] === 'long';
const DEVIATIONS = LONG ? 3 : 2;

const CASES = [['failover', 'planned'], ['failover', 'forced'], ['failback', 'planned']] as const;
const plans = new Map<string, Plan>();
beforeAll(async () => {
  for (const [purpose, mode] of CASES) plans.set(`${purpose} ${mode}`, await shippedPlan(purpose, mode, 2));
});

describe.each(CASES)('the shipped runbook for %s, %s', (purpose, mode) => {
  it(`holds its rules in every run with up to ${DEVIATIONS} deviations`, () => {
    const { nodes, ends } = walkAll(plans.get(`${purpose} ${mode}`)!, DEVIATIONS);
    expect(nodes).toBeGreaterThan(10_000);
    expect([...ends].sort()).toEqual(['aborted', 'denied', 'failed', 'succeeded']);
  }, 240_000);

  it('holds them in random runs in which most things go wrong', () => {
    const plan = plans.get(`${purpose} ${mode}`)!;
    const ends = new Set<string>();
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), fc.array(fc.nat({ max: 1_000_000 }), { minLength: 90, maxLength: 400 }), (rarity, choices) => {
        let node = first(plan);
        const trail: string[] = [];
        for (const choice of choices) {
          const possible = moves(plan, node);
          if (possible.length === 0) {
            ends.add(node.state.final ?? 'succeeded');
            break;
          }
          // Small rarity: anything goes; large: mostly well, so that runs also get far.
          const well = possible.filter((move) => move.cost === 0);
          const from = choice % rarity === 0 || well.length === 0 ? possible : well;
          const move = from[Math.floor(choice / 61) % from.length]!;
          trail.push(move.name);
          try {
            node = move.to();
          } catch (error) {
            throw new Error(`after ${trail.join(', ')}:\n${(error as Error).message}`, { cause: error });
          }
        }
      }),
      { numRuns: LONG ? 1500 : 500 },
    );
    expect([...ends].sort()).toEqual(['aborted', 'denied', 'failed', 'succeeded']);
  }, 240_000);
});
