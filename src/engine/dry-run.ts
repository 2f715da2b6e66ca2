import { resolvePlan } from '../../activities/plan.ts';
import { createPhaseReader } from '../../activities/steps.ts';
import { stepKind, type Phase } from '../model/catalogue.ts';
import { messageOf } from '../model/errors.ts';
import { describeCheck, leftOut, nextActions, reduce, startExecution, stepInput, type PhaseResult, type Plan, type PreflightResult } from '../model/execution.ts';
import type { Look } from '../model/plan-view.ts';
import type { Mode } from '../model/runbook-schema.ts';
import type { PhaseCall } from '../model/step-call.ts';
import type { Context } from '../systems/context.ts';
import { redact } from '../systems/log.ts';
import type { AuditedActivity } from './history.ts';

const READ_PHASE_MS = 45_000;

interface DryRunOptions {
  readonly requestedBy: string;
  readonly nowMs: () => number;
  readonly signal: AbortSignal;
}

/**
 * Asks every reading phase of a plan before its first change, in this process, without Temporal: the same interpreter decides what is
 * asked. A check that does not hold is noted and not obeyed, so that one finding does not hide the others.
 */
export async function dryRun(context: Context, plan: Plan, options: DryRunOptions): Promise<Look[]> {
  const read = createPhaseReader(context);
  const looks: Look[] = [];
  const epoch = options.nowMs();
  let state = startExecution(plan, { epoch, requestedBy: options.requestedBy, dryRun: true });

  async function look(step: number, phase: Phase, preflight: boolean): Promise<PhaseResult> {
    const planned = plan.steps[step]!;
    const limitMs = phase === 'verify' ? (stepKind(planned.uses)?.verifyMs ?? READ_PHASE_MS) : READ_PHASE_MS;
    const call = {
      step: planned.id, uses: planned.uses, phase, preflight, with: stepInput(plan, state, step).value, mode: plan.mode, service: plan.service, environment: plan.environment,
      workflowId: `plan/${plan.service ?? plan.runbook}`, runId: '', epoch, key: `plan/${planned.id}/${epoch}`, before: state.steps[step]!.before, facts: state.facts[planned.id] ?? {},
    };
    try {
      const result = stepKind(planned.uses)?.runsIn === 'child' ? await nestedGuards(context, plan, call.with, planned.nestedDocument ?? null, options) : await read(call, AbortSignal.any([options.signal, AbortSignal.timeout(limitMs)]));
      looks.push({ step: planned.id, phase, result, error: null });
      return { ...result, checks: [] };
    } catch (error) {
      options.signal.throwIfAborted();
      looks.push({ step: planned.id, phase, result: null, error: redact(messageOf(error)) });
      return { summary: '', checks: [] };
    }
  }

  for (;;) {
    const skipped = leftOut(plan, state);
    if (skipped !== null) {
      state = reduce(plan, state, { type: 'skippedByMode', step: skipped, atMs: options.nowMs() });
      continue;
    }
    const [action] = nextActions(plan, state);
    if (action?.type === 'phase' && action.phase !== 'apply' && action.phase !== 'undo') {
      const { step, phase } = action;
      state = reduce(plan, state, { type: 'began', step, phase, atMs: options.nowMs() });
      state = reduce(plan, state, { type: 'phaseDone', step, phase, result: await look(step, phase, false), atMs: options.nowMs() });
    } else if (action?.type === 'condition') {
      // What cannot be told yet is carried out in a run, or ends it; here the step is merely not asked.
      state = reduce(plan, state, { type: 'conditionSettled', step: action.step, holds: action.holds === 'yes' ? 'yes' : 'no', why: action.why, atMs: options.nowMs() });
    } else if (action?.type === 'preflight') {
      const results = await Promise.all(action.calls.map(async ({ step, phase }): Promise<PreflightResult> => ({ step, phase, result: await look(step, phase, true), error: null })));
      state = reduce(plan, state, { type: 'preflightDone', results, atMs: options.nowMs() });
    } else {
      // The end, a wait or a decision: nothing further can be asked before something changes.
      return looks;
    }
  }
}


/** The guards of a nested runbook, asked the same way. */
async function nestedGuards(context: Context, outer: Plan, given: Readonly<Record<string, unknown>>, expectedDocument: string | null, options: DryRunOptions): Promise<PhaseResult> {
  const input = stepKind('runbook.run')!.input.parse(given) as { runbook?: string; service?: string; purpose?: string; mode?: Mode; parameters: Record<string, unknown> };
  const service = input.service ?? null;
  const request = input.purpose === undefined ? { type: 'runbook' as const, service, purpose: null, runbook: input.runbook! } : { type: 'failover' as const, service, purpose: input.purpose, runbook: null };
  const plan = await resolvePlan(context, { ...request, mode: input.mode ?? outer.mode, parameters: input.parameters, ...(expectedDocument === null ? {} : { expectedDocument }) });
  const looks = await dryRun(context, plan, options);
  const checks = looks.flatMap(({ step, result }) => (result?.checks ?? []).map((check) => ({ ...check, name: `${step}: ${check.name}` })));
  const wrong = [...checks.filter((check) => !check.ok).map(describeCheck), ...looks.flatMap(({ step, phase, error }) => (error === null ? [] : [`${step} (${phase}: ${error})`]))];
  return { summary: `runbook ${plan.runbook}`, checks: [...checks, { name: 'guards of the nested run', ok: wrong.length === 0, expected: 'all hold', found: wrong.join('; ') || 'all hold' }] };
}

/** The same from an execution that a worker made: its plan and what its reading phases answered, out of its history. */
export function looksOf(activities: readonly Pick<AuditedActivity, 'activity' | 'input' | 'result' | 'failure' | 'outcome'>[]): { plan: Plan | null; looks: Look[] } {
  let plan: Plan | null = null;
  const looks: Look[] = [];
  for (const { activity, input, result, failure, outcome } of activities) {
    if (activity === 'resolvePlan') plan = (result as Plan | null) ?? plan;
    const call = input as Partial<PhaseCall> | null;
    if (typeof call?.step !== 'string' || typeof call.phase !== 'string') continue;
    looks.push({ step: call.step, phase: call.phase, result: result as PhaseResult | null, error: outcome === 'completed' ? null : (failure ?? outcome) });
  }
  return { plan, looks };
}
