import { fileURLToPath } from 'node:url';
import { resolvePlan } from '../../activities/plan.ts';
import { stepKind } from '../../src/model/catalogue.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import {
  leftOut, nextActions, reduce, startExecution,
  type Action, type ExecutionEvent, type ExecutionState, type PhaseResult, type Plan, type PlannedStep,
} from '../../src/model/execution.ts';
import type { Json, Mode } from '../../src/model/runbook-schema.ts';
import type { Context } from '../../src/systems/context.ts';

const RUNBOOKS = fileURLToPath(new URL('../../runbooks', import.meta.url));

/** The plan that a worker would make of the shipped runbook. */
export function shippedPlan(purpose: 'failover' | 'failback', mode: Mode, approvals = 1): Promise<Plan> {
  const config = configSchema.parse({
    version: 1,
    environment: 'test',
    datastores: {
      shop: {
        engine: 'postgres', database: 'shop', store: 'main', admin: { username: 'holdfast', password: 'env:NOBODY_READS_THIS' },
        nodes: { a: { host: '127.0.0.1', port: 1 }, b: { host: '127.0.0.1', port: 2 } }, endpoint: { secret: 'shop-app' },
      },
    },
    stores: { main: { type: 'folder', path: '/nowhere' } },
    services: {
      orders: {
        objectives: { rto: '15m', rpo: '1m', refusedWrites: '1s', lostWrites: 0 }, datastores: ['shop'],
        runbooks: { failover: 'database-failover', failback: 'database-failback' }, approval: { planned: approvals, forced: approvals, expires: '30m' },
      },
    },
  });
  // Resolving a plan reads configuration and runbook, nothing else.
  const context = { config, runbookDirectory: RUNBOOKS } as unknown as Context;
  return resolvePlan(context, { type: 'failover', service: 'orders', purpose, runbook: null, mode, parameters: purpose === 'failback' ? { node: 'a' } : {} });
}

type Step = Partial<PlannedStep> & Pick<PlannedStep, 'id' | 'uses'>;

/** A plan of the given steps, for one rule at a time. */
export function planOf(steps: readonly Step[], more: Partial<Plan> = {}): Plan {
  return {
    hash: 'h', kind: 'failover', runbook: 'test', title: 'Test', service: 'orders', environment: 'test', mode: 'planned', parameters: {}, objectives: null,
    approval: { count: 1, expiresMs: 60_000 }, readOnlyDeadlineMs: 60_000, datastores: ['shop'],
    steps: steps.map((step) => ({ title: step.id, with: { datastore: 'shop' }, included: true, applyMs: 1000, attempts: stepKind(step.uses)!.attempts, ...step })),
    ...more,
  };
}

/** What a step's phase reports when all is well. */
export function goodResult(uses: string, phase: string): PhaseResult {
  const facts: Record<string, Json> = uses === 'postgres.health' ? { primary: 'a', candidate: 'b' } : uses === 'secret.stage' ? { secretId: 's', currentVersion: 'v1', stagedVersion: 'v2' } : uses === 'postgres.readOnly' && phase === 'apply' ? { lsn: '0/1' } : {};
  const checks = phase === 'guard' || phase === 'verify' ? [{ name: 'holds', ok: true, expected: 'it', found: 'it' }] : [];
  return { summary: `${phase} is well`, satisfied: false, checks, facts, ...(phase === 'apply' || phase === 'undo' ? { outcome: 'changed' as const, before: 'before', after: 'after' } : {}) };
}

export const badChecks = [{ name: 'holds', ok: false, expected: 'it', found: 'something else' }];

/** Drives the transitions as the workflow does, with a clock of its own; every phase goes well unless told otherwise. */
export class Run {
  state: ExecutionState;
  /** `step:phase` of all phases that were begun, in order. */
  readonly begun: string[] = [];
  atMs = 1000;
  readonly plan: Plan;

  constructor(plan: Plan, start: { requestedBy?: string; dryRun?: boolean } = {}) {
    this.plan = plan;
    this.state = startExecution(plan, { epoch: 7, requestedBy: start.requestedBy ?? 'requester', dryRun: start.dryRun ?? false });
  }

  send(event: Record<string, unknown> & Pick<ExecutionEvent, 'type'>): this {
    this.atMs += 1;
    this.state = reduce(this.plan, this.state, { atMs: this.atMs, ...event } as ExecutionEvent);
    return this;
  }

  next(): Action {
    for (let left = leftOut(this.plan, this.state); left !== null; left = leftOut(this.plan, this.state)) this.send({ type: 'skippedByMode', step: left });
    return nextAction(this.plan, this.state);
  }

  index(id: string): number {
    return this.plan.steps.findIndex((step) => step.id === id);
  }

  step(id: string): ExecutionState['steps'][number] {
    return this.state.steps[this.index(id)]!;
  }

  /** Begins the phase that is next. */
  begin(): { step: number; phase: Extract<Action, { type: 'phase' }>['phase']; name: string } {
    const action = this.next();
    if (action.type !== 'phase') throw new Error(`expected a phase, found ${JSON.stringify(action)}`);
    const name = `${this.plan.steps[action.step]!.id}:${action.phase}`;
    this.begun.push(name);
    this.send({ type: 'began', step: action.step, phase: action.phase });
    return { step: action.step, phase: action.phase, name };
  }

  /** Goes on, all being well, until the named phase is next (not begun), or until the end or an operator is needed. */
  until(name?: string): this {
    for (let rounds = 0; rounds < 500; rounds += 1) {
      const action = this.next();
      if (action.type === 'finish' || action.type === 'park') {
        if (name !== undefined) throw new Error(`${name} is never next: ${JSON.stringify(action)}`);
        return this;
      }
      if (action.type === 'phase' && `${this.plan.steps[action.step]!.id}:${action.phase}` === name) return this;
      if (action.type === 'phase') this.good();
      else if (action.type === 'preflight') {
        if (name === 'preflight') return this;
        this.preflight();
      } else if (action.type === 'wait') this.send({ type: 'waited', step: action.step });
      else if (action.type === 'delay') this.send({ type: 'delayOver', step: action.step });
      else if (action.type === 'condition') this.send({ type: 'conditionSettled', step: action.step, holds: action.holds, why: action.why });
      else if (action.type === 'switch') this.send({ type: 'switched' });
      else if (action.type === 'settle') throw new Error('something is under way for ever');
      else if (action.expiresAtMs === null) this.send({ type: 'approvalBegan', step: action.step });
      else if (name === 'approval' && this.state.approvals.length < action.needed) return this;
      else if (this.state.approvals.length >= action.needed) this.send({ type: 'approvalSettled', step: action.step, outcome: 'approved' });
      else this.send({ type: 'operator', action: 'approve', request: { by: `approver ${this.state.approvals.length}`, reason: 'yes' } });
    }
    throw new Error('it does not come to an end');
  }

  preflight(bad: string | null = null): this {
    const action = this.next();
    if (action.type !== 'preflight') throw new Error(`expected the guards, found ${JSON.stringify(action)}`);
    const results = action.calls.map(({ step, phase }) => {
      const { id, uses } = this.plan.steps[step]!;
      const result = goodResult(uses, phase);
      return { step, phase, result: bad === id && phase === 'guard' ? { ...result, checks: badChecks } : result, error: null };
    });
    return this.send({ type: 'preflightDone', results });
  }

  /** The next phase goes well. */
  good(more: Partial<PhaseResult> = {}): this {
    const { step, phase } = this.begin();
    return this.send({ type: 'phaseDone', step, phase, result: { ...goodResult(this.plan.steps[step]!.uses, phase), ...more } });
  }

  /** The next phase does not go well. */
  bad(how: 'failed' | 'unknown', error = `it ${how}`): this {
    const { step, phase } = this.begin();
    return this.send({ type: 'phaseFailed', step, phase, how, error });
  }

  operator(action: string, request: Record<string, unknown> = {}): this {
    return this.send({ type: 'operator', action, request: { by: 'operator', reason: 'because', ...request } });
  }

  /** Outcomes of all effects: `step:phase:outcome`. */
  effects(): string[] {
    return this.state.ledger.map((entry) => `${entry.step}:${entry.phase}:${entry.outcome}`);
  }
}

/** The first of `nextActions`: all there is when no step runs beside another. */
export function nextAction(plan: Plan, state: ExecutionState): Action {
  return nextActions(plan, state)[0]!;
}
