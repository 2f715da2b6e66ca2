/**
 * What an execution would do, step by step, against live state: made of a plan and of what the reading phases answered.
 * The same for `plan`, which asks them itself, and for `--dry-run`, whose worker asked them.
 */
import type { CheckResult } from './api.ts';
import { stepKind } from './catalogue.ts';
import { conditionOf, describeCheck, startExecution, type ExecutionState, type PhaseResult, type Plan } from './execution.ts';
import { fillReferences, referencesIn, type Json } from './runbook-schema.ts';
import { stepText } from './step-text.ts';

/** One call of a reading phase. */
export interface Look {
  readonly step: string;
  readonly phase: string;
  readonly result: PhaseResult | null;
  readonly error: string | null;
}

export interface PlanViewStep {
  readonly id: string;
  readonly title: string;
  readonly uses: string;
  readonly included: boolean;
  /** Why it is not part of this run. */
  readonly leftOut: string | null;
  /** null: it has none. `unknown`: a fact that comes up in the run decides. */
  readonly condition: { readonly holds: 'yes' | 'no' | 'unknown'; readonly why: string } | null;
  /** Steps it waits for, null: all before it. */
  readonly needs: readonly string[] | null;
  readonly inputs: readonly { readonly name: string; readonly value: Json; readonly from: string | null }[];
  /** Inputs that only come up in the run, with the reference that gives them. */
  readonly comesUp: readonly { readonly name: string; readonly reference: string }[];
  /** `not asked`: there is nothing to inspect, or its inputs come up only in the run. */
  readonly finds: 'already satisfied' | 'would change' | 'reads only' | 'not asked' | 'no answer';
  readonly found: string | null;
  readonly before: Json;
  readonly checks: readonly CheckResult[];
  readonly errors: readonly string[];
  readonly does: string;
  readonly undo: string | null;
  readonly pointOfNoReturn: boolean;
  readonly refusesWrites: boolean;
  readonly skippable: boolean;
  /** null: it changes nothing. */
  readonly deadlineMs: number | null;
  readonly attempts: number | null;
  /** For the whole step, from its begin; null: none. */
  readonly stepDeadlineMs: number | null;
  /** From evidence of earlier runs; null: not known. */
  readonly took: StepTimes | null;
  readonly unknown: readonly string[];
}

export interface StepTimes {
  readonly runs: number;
  readonly leastMs: number;
  readonly mostMs: number;
}

export interface PlanView {
  readonly service: string | null;
  readonly runbook: string;
  readonly title: string;
  readonly kind: Plan['kind'];
  readonly mode: Plan['mode'];
  readonly environment: string;
  readonly planHash: string;
  readonly primary: string | null;
  readonly candidate: string | null;
  /** Every guard that could be asked holds. Not a promise: see `unknown`. */
  readonly couldStart: boolean;
  readonly why: readonly string[];
  readonly readOnlyDeadlineMs: number;
  readonly approvals: number;
  readonly steps: readonly PlanViewStep[];
  /** What cannot be known in advance. */
  readonly unknown: readonly string[];
}

const IN_GENERAL = [
  'whether the nodes, the secret manager and DNS answer then as they do now: every guard is asked again before writes are refused',
];

export function planView(plan: Plan, looks: readonly Look[], times: Readonly<Record<string, StepTimes>> = {}): PlanView {
  const facts: Record<string, Record<string, Json>> = {};
  for (const look of looks) if (look.result?.facts !== undefined) facts[look.step] = { ...facts[look.step], ...look.result.facts };
  const state = stateOf(plan, facts);
  const point = plan.steps.findIndex((step) => step.included && stepKind(step.uses)?.pointOfNoReturn === true);
  const steps = plan.steps.map((planned, index): PlanViewStep => {
    const kind = stepKind(planned.uses);
    const condition = planned.included && planned.when !== undefined ? (openCondition(plan, facts, planned) ?? conditionOf(plan, state, index)) : null;
    const own = looks.filter((look) => look.step === planned.id);
    const scope = { service: plan.service, mode: plan.mode, parameters: plan.parameters, steps: facts };
    const inputs: { name: string; value: Json; from: string | null }[] = [];
    const comesUp: { name: string; reference: string }[] = [];
    for (const [name, given] of Object.entries(planned.with)) {
      const { value, missing } = fillReferences(given, scope);
      for (const reference of missing) if (reference.startsWith('steps.')) comesUp.push({ name, reference });
      if (value !== undefined) inputs.push({ name, value: value as Json, from: referencesIn(given).join(', ') || null });
    }
    const inspected = own.findLast((look) => look.phase === 'inspect');
    const asked = own.findLast((look) => look.phase === 'guard' || look.phase === 'verify');
    const before = inspected?.result?.before ?? null;
    const values = Object.fromEntries(inputs.map(({ name, value }) => [name, value]));
    const text = planned.included ? stepText({ id: planned.id, uses: planned.uses, inputs: values, before, approvals: plan.approval.count, ...(planned.managed === undefined ? {} : { managed: planned.managed }) }) : undefined;
    const applies = kind?.phases.includes('apply') === true;
    const reads = kind !== undefined && !applies;
    return {
      id: planned.id,
      title: planned.title,
      uses: planned.uses,
      included: planned.included,
      leftOut: !planned.included ? `not part of a ${plan.mode} run` : condition?.holds === 'no' ? `its condition does not hold: ${condition.why}` : null,
      condition,
      needs: planned.needs?.map((at) => plan.steps[at]!.id) ?? null,
      inputs,
      comesUp,
      finds: !planned.included ? 'not asked' : inspected === undefined ? (reads ? 'reads only' : 'not asked') : inspected.result === null ? 'no answer' : inspected.result.satisfied === true ? 'already satisfied' : 'would change',
      found: inspected?.result?.summary ?? (reads ? (own.findLast((look) => look.phase === 'verify')?.result?.summary ?? null) : null),
      before,
      checks: asked === undefined ? [] : own.flatMap((look) => (look.phase === 'guard' || look.phase === 'verify' ? (look.result?.checks ?? []) : [])),
      errors: own.flatMap((look) => (look.error === null ? [] : [`${look.phase}: ${look.error}`])),
      does: planned.included ? (text?.does ?? `${planned.uses}: nobody described this step kind`) : '',
      undo: !planned.included ? null : (text?.undo ?? null) === null || (point >= 0 && index > point) ? null : text!.undo,
      pointOfNoReturn: planned.included && kind?.pointOfNoReturn === true,
      refusesWrites: planned.included && kind?.refusesWrites === true,
      skippable: kind?.skippable === true,
      deadlineMs: applies ? planned.applyMs : (kind?.phases.includes('verify') === true ? kind.verifyMs : null),
      attempts: applies ? planned.attempts : null,
      stepDeadlineMs: planned.deadlineMs ?? null,
      took: Object.hasOwn(times, planned.id) ? times[planned.id]! : null,
      unknown: [...(condition?.holds === 'unknown' ? [`whether it is carried out: ${condition.why}`] : []), ...(text?.unknown ?? [])],
    };
  });
  const why = steps.flatMap((step) => [
    ...step.errors.map((error) => `${step.id} (${error})`),
    ...step.checks.filter((check) => !check.ok).map((check) => `${step.id}: ${describeCheck(check)}`),
  ]);
  const unknown = [
    ...IN_GENERAL,
    ...steps.filter((step) => step.included).flatMap((step) => [
      ...step.unknown.map((what) => `${step.id}: ${what}`),
      ...step.comesUp.map(({ name, reference }) => `${step.id}: its input ${name} comes up in the run (\${${reference}})`),
    ]),
  ];
  const role = (fact: string): string | null => {
    for (const step of plan.steps) {
      const value = step.uses === 'postgres.health' ? facts[step.id]?.[fact] : undefined;
      if (typeof value === 'string') return value;
    }
    return null;
  };
  return {
    service: plan.service, runbook: plan.runbook, title: plan.title, kind: plan.kind, mode: plan.mode, environment: plan.environment, planHash: plan.hash,
    primary: role('primary'), candidate: role('candidate'), couldStart: why.length === 0, why, readOnlyDeadlineMs: plan.readOnlyDeadlineMs, approvals: plan.approval.count, steps, unknown,
  };
}

/** A condition on what a step finds out that has not run yet: also `exists` is decided then, not now. */
function openCondition(plan: Plan, facts: ExecutionState['facts'], planned: Plan['steps'][number]): { holds: 'unknown'; why: string } | null {
  const references = (planned.when ?? []).flatMap((condition) => referencesIn(condition.value));
  const open = references.find((reference) => {
    const [head, id] = reference.split('.');
    return head === 'steps' && facts[id!] === undefined && plan.steps.some((step) => step.id === id && step.included);
  });
  return open === undefined ? null : { holds: 'unknown', why: `\${${open}} comes up in the run` };
}

/** As the interpreter would see it once the reading steps are done. */
function stateOf(plan: Plan, facts: ExecutionState['facts']): ExecutionState {
  const state = startExecution(plan, { epoch: 0, requestedBy: '', dryRun: true });
  return { ...state, facts, steps: state.steps.map((step, index) => (plan.steps[index]!.included ? step : { ...step, status: 'done', outcome: 'skipped' })) };
}

/** How long steps took in earlier runs of this runbook and mode: their own evidence, never an estimate. */
export function stepTimes(runs: readonly (readonly { readonly label: string; readonly startMs: number; readonly endMs: number }[])[]): Record<string, StepTimes> {
  const took = new Map<string, number[]>();
  for (const run of runs) for (const entry of run) took.set(entry.label, [...(took.get(entry.label) ?? []), entry.endMs - entry.startMs]);
  return Object.fromEntries([...took].map(([id, all]) => [id, { runs: all.length, leastMs: Math.min(...all), mostMs: Math.max(...all) }]));
}
