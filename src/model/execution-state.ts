/** What an execution is made of: the frozen plan, the state of each step, the ledger and the decisions. Pure data and questions about it. */
import type { CheckResult } from './api.ts';
import { stepKind, type Phase, type StepKind } from './catalogue.ts';
import type { GateRule } from './readiness.ts';
import { fillReferences, lookUp, referencesIn, unmetBy, type Condition, type Json, type Mode } from './runbook-schema.ts';
import type { Override, RuleName } from './rules.ts';

/** Runbook and configuration as resolved at the start: frozen, hashed, and in history. Optional fields are absent in plans of older executions. */
export interface Plan {
  readonly hash: string;
  /** SHA-256 of the runbook document alone: tells whether a runbook was changed since it last ran. */
  readonly document?: string;
  /** SHA-256 of what the configuration says of the service's nodes, endpoints and parameters. */
  readonly configuration?: string;
  /** Rules whose breach stops the run at its start. */
  readonly gate?: readonly GateRule[];
  readonly kind: 'failover' | 'failback' | 'runbook';
  readonly runbook: string;
  readonly title: string;
  readonly service: string | null;
  readonly environment: string;
  /** The mode it was started in; `ExecutionState.mode` is the one in force. */
  readonly mode: Mode;
  readonly parameters: Readonly<Record<string, Json>>;
  readonly objectives: { readonly rtoMs: number; readonly rpoMs: number; readonly refusedWritesMs: number | null; readonly lostWrites: number } | null;
  readonly approval: {
    /** How many the policy asks for in the mode of the start. */
    readonly count: number;
    readonly expiresMs: number;
    /** How many in each mode. */
    readonly counts?: Readonly<Record<Mode, number>>;
    /** Only these may approve; absent or empty: anybody but the requester. */
    readonly approvers?: readonly string[];
  };
  readonly readOnlyDeadlineMs: number;
  /** How many automatic retries all steps together may use. */
  readonly retryBudget?: number;
  readonly datastores: readonly string[];
  readonly steps: readonly PlannedStep[];
}

export interface PlannedStep {
  readonly id: string;
  readonly title: string;
  readonly uses: string;
  readonly with: Readonly<Record<string, Json>>;
  /** false: the mode of the start leaves it out. */
  readonly included: boolean;
  /** The modes it is part of; absent: only `included` is known, and the mode cannot be switched. */
  readonly modes?: readonly Mode[];
  /** Indexes of the steps that must be done before it; absent: all before it. */
  readonly needs?: readonly number[];
  readonly when?: readonly Condition[];
  /** Its guards can only hold once this step is done; without it they are asked before the first change. */
  readonly after?: string | null;
  readonly applyMs: number;
  /** Who runs the servers of its datastore; undefined: the user. */
  readonly managed?: 'rds' | 'aurora' | 'aurora-global';
  readonly attempts: number;
  /** Between an attempt that did not succeed and the next. */
  readonly retryDelayMs?: number;
  /** From its begin; no attempt is begun automatically after it. */
  readonly deadlineMs?: number | null;
  /** `runbook.run`: SHA-256 of the nested runbook's document when the parent began. */
  readonly nestedDocument?: string | null;
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
  /** apply of a nested run: it passed a point of no return of its own, so nothing here is undone any more. */
  readonly pointOfNoReturn?: boolean;
}

export type StepStatus = 'pending' | 'running' | 'done' | 'parked' | 'undone';

export interface StepState {
  readonly id: string;
  readonly uses: string;
  readonly title: string;
  readonly status: StepStatus;
  readonly outcome: Outcome | null;
  readonly phase: Phase | null;
  /** A phase, a wait or a delay is under way: nothing else of this step is begun. */
  readonly active: boolean;
  /** Grows with every attempt of apply and with every operator decision; a stale number is refused. */
  readonly attempt: number;
  /** Apply is not begun beyond this attempt; an operator's retry grants one more. */
  readonly lastAttempt: number;
  /** The next attempt is not begun before (epoch milliseconds). */
  readonly notBeforeMs: number | null;
  /** apply was begun: undo must look at it even if its outcome is not known. */
  readonly applied: boolean;
  /** apply said that it changed something. */
  readonly changed: boolean;
  /** The last try of apply did not end: inspect before anything else. */
  readonly inDoubt: boolean;
  readonly preflighted: boolean;
  /** Applied within the refused-write window; verified as soon as that is over. */
  readonly verifyDue: boolean;
  /** Why its facts are nobody's finding: it was skipped or declared done, or works with such facts itself. */
  readonly tainted: string | null;
  /** An operator lets it work with tainted inputs. */
  readonly taintAccepted: boolean;
  /** Its conditions were evaluated and hold. */
  readonly conditionMet: boolean;
  readonly summary: string;
  readonly checks: readonly CheckResult[];
  readonly before: Json;
  readonly after: Json;
  readonly error: string | null;
  readonly startedAtMs: number | null;
  /** An operator's retry begins the step's deadline anew. */
  readonly deadlineFromMs?: number | null;
  /** What an apply that did not end had reported last. */
  readonly lastReport?: Json;
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
  /** Who declared it done by hand. */
  readonly declaredBy?: string;
}

export interface Decision {
  readonly action: OperatorAction;
  readonly by: string;
  readonly reason: string;
  readonly step: string | null;
  readonly atMs: number;
  readonly evidence?: string;
  /** override: the rule that was broken. */
  readonly rule?: RuleName;
  /** approve: what may be lost, as the approver accepted it. */
  readonly acceptLossMs?: number | 'unknown';
}

/** An operator's attempt that was refused. */
export interface Refusal {
  readonly action: OperatorAction;
  readonly by: string;
  readonly step: string | null;
  readonly why: string;
  readonly atMs: number;
}

export const OPERATOR_ACTIONS = ['approve', 'reject', 'retry', 'skip', 'markDone', 'pause', 'resume', 'abort', 'switchToForced', 'override'] as const;
export type OperatorAction = (typeof OPERATOR_ACTIONS)[number];

export interface OperatorRequest {
  readonly by: string;
  readonly reason: string;
  readonly step?: string;
  readonly attempt?: number;
  /** markDone: what shows that it is done. */
  readonly evidence?: string;
  /** markDone: what the step would have found out, for the steps that work with it. */
  readonly facts?: Readonly<Record<string, Json>>;
  /** approve: hash of the plan that was looked at. */
  readonly plan?: string;
  /** approve: digest of the state that was looked at. */
  readonly observed?: string;
  /** approve, when the rule two-facts is broken: the loss that is accepted. */
  readonly acceptLossMs?: number | 'unknown';
  /** override: the rule. */
  readonly rule?: RuleName;
}

export type FinalOutcome = 'succeeded' | 'failed' | 'denied' | 'aborted' | 'checked';

export interface ExecutionState {
  readonly status: 'running' | 'undoing' | 'finished';
  readonly mode: Mode;
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
  /** An operator asked for the forced mode; carried out as soon as nothing is under way. */
  readonly switching: boolean;
  readonly steps: readonly StepState[];
  readonly facts: Readonly<Record<string, Readonly<Record<string, Json>>>>;
  readonly ledger: readonly LedgerEntry[];
  readonly decisions: readonly Decision[];
  /** Refused attempts of operators; the first hundred. */
  readonly refusals: readonly Refusal[];
  readonly overrides: readonly Override[];
  readonly approvals: readonly string[];
  /** What the approvers accept to lose at most, when the rule two-facts is broken. */
  readonly acceptedLossMs: number | 'unknown' | null;
  readonly approvalSinceMs: number | null;
  readonly retriesUsed: number;
  /** Writes are refused by us since then. */
  readonly writesRefusedSinceMs: number | null;
}

/** What the query `progress` answers. */
export interface Progress {
  readonly plan: Pick<Plan, 'hash' | 'kind' | 'runbook' | 'title' | 'service' | 'mode' | 'objectives'> | null;
  readonly state: ExecutionState | null;
  readonly startedAtMs: number;
  readonly waitingFor: string | null;
  /** What an approval must carry, while one is waited for. */
  readonly approval?: ApprovalNeeded | null;
  /** Steps that only go on by an operator's decision. */
  readonly parked?: readonly ParkedStep[];
}

export interface ParkedStep {
  readonly step: string;
  readonly attempt: number;
  readonly why: string;
  /** What may be asked for it now, in the order in which it should be considered. */
  readonly actions: readonly OperatorAction[];
  /** The rule that an override would have to name. */
  readonly rule: RuleName | null;
}

/** What waits for approval, and what an approval is bound to. */
export interface ApprovalNeeded {
  readonly step: string;
  readonly needed: number;
  readonly given: readonly string[];
  readonly plan: string;
  readonly observed: string;
  readonly expiresAtMs: number | null;
  /** Set when the rule two-facts is broken: an approval must accept at least this, null: `unknown`. */
  readonly loss?: { readonly mayLoseMs: number | null };
}

/** Code of an error by which an apply says that it ended before its first effect. */
export const NOT_BEGUN = 'not-begun';
/** Codes that say the same: the lock was asked before the change, and did not let it begin. */
export const NEVER_BEGUN: ReadonlySet<string> = new Set([NOT_BEGUN, 'stale-epoch', 'lock-unanswered', 'lock-missing']);

export function startExecution(plan: Plan, start: { epoch: number; requestedBy: string; dryRun: boolean; overrides?: readonly Override[] }): ExecutionState {
  return {
    status: 'running',
    mode: plan.mode,
    final: null,
    failure: null,
    epoch: start.epoch,
    requestedBy: start.requestedBy,
    dryRun: start.dryRun,
    preflightDone: false,
    preflightRepeated: false,
    pastPointOfNoReturn: false,
    paused: false,
    switching: false,
    steps: plan.steps.map((step) => ({
      id: step.id,
      uses: step.uses,
      title: step.title,
      status: 'pending',
      outcome: null,
      phase: null,
      active: false,
      attempt: 1,
      lastAttempt: step.attempts,
      notBeforeMs: null,
      applied: false,
      changed: false,
      inDoubt: false,
      preflighted: false,
      verifyDue: false,
      tainted: null,
      taintAccepted: false,
      conditionMet: false,
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
    refusals: [],
    overrides: start.overrides ?? [],
    approvals: [],
    acceptedLossMs: null,
    approvalSinceMs: null,
    retriesUsed: 0,
    writesRefusedSinceMs: null,
  };
}

/** True when the mode in force has the step. */
export function isIncluded(plan: Plan, state: ExecutionState, step: number): boolean {
  const { modes, included } = plan.steps[step]!;
  return modes === undefined ? included : modes.includes(state.mode);
}

/** True when everything that must be done before the step is done. */
export function isReady(plan: Plan, state: ExecutionState, step: number): boolean {
  const { needs } = plan.steps[step]!;
  return needs === undefined ? state.steps.slice(0, step).every((earlier) => earlier.status === 'done') : needs.every((index) => state.steps[index]!.status === 'done');
}

/** From when the step's own deadline counts (epoch milliseconds). */
export function deadlineFrom(step: StepState): number | null {
  return step.deadlineFromMs ?? step.startedAtMs;
}

/** The inputs of a step with every reference filled in that is known by now. */
export function stepInput(plan: Plan, state: ExecutionState, step: number): { value: Readonly<Record<string, unknown>>; missing: string[] } {
  const filled = fillReferences(plan.steps[step]!.with, scopeOf(plan, state));
  return { value: filled.value as Readonly<Record<string, unknown>>, missing: filled.missing };
}

function scopeOf(plan: Plan, state: ExecutionState) {
  return { service: plan.service, mode: state.mode, parameters: plan.parameters, steps: state.facts };
}

/** Whether the step's conditions hold; `unknown` when a fact that one of them asks for is not there. */
export function conditionOf(plan: Plan, state: ExecutionState, step: number): { holds: 'yes' | 'no' | 'unknown'; why: string } {
  for (const condition of plan.steps[step]!.when ?? []) {
    const reference = referencesIn(condition.value)[0] ?? condition.value;
    const found = lookUp(reference, scopeOf(plan, state)) as Json | undefined;
    if (found === undefined && condition.exists === undefined) {
      // A step that the mode or its own condition left out has no facts: what rests on them does not apply either.
      const id = reference.startsWith('steps.') ? reference.split('.')[1] : undefined;
      const source = state.steps.find((other) => other.id === id);
      if (source?.status === 'done' && source.outcome === 'skipped' && source.tainted === null) return { holds: 'no', why: `${reference} is not there: step ${id} did not run` };
      return { holds: 'unknown', why: `${reference} is not there` };
    }
    const asked = unmetBy(condition, found);
    if (asked !== null) return { holds: 'no', why: `${reference} is ${found === undefined ? 'not there' : JSON.stringify(found)}, the condition asks for ${asked}` };
  }
  return { holds: 'yes', why: '' };
}

/** Steps whose facts the step works with although nobody found them out: `id: why`. */
export function taintsOf(plan: Plan, state: ExecutionState, step: number): string[] {
  const planned = plan.steps[step]!;
  const ids = new Set([...referencesIn(planned.with), ...(planned.when ?? []).flatMap((condition) => referencesIn(condition.value))].filter((reference) => reference.startsWith('steps.')).map((reference) => reference.split('.')[1]!));
  return [...ids].flatMap((id) => {
    const source = state.steps.find((other) => other.id === id);
    return source?.tainted == null ? [] : [`${id}: ${source.tainted}`];
  });
}

/** True from the moment a promotion was begun whose effect is not known to be absent; a nested run may hold one. */
export function mayBePromoted(state: ExecutionState): boolean {
  return state.pastPointOfNoReturn || state.steps.some((step) => mayPromote(step) && (step.inDoubt || (step.applied && step.status === 'running' && step.phase === 'apply')));
}

function mayPromote(step: StepState): boolean {
  const kind = kindOf(step.uses);
  return kind.pointOfNoReturn || kind.runsIn === 'child';
}

export function describeCheck(check: CheckResult): string {
  return `${check.name}: expected ${check.expected}, found ${check.found}${check.next === undefined ? '' : ` (${check.next})`}${check.rule === undefined ? '' : ` [rule ${check.rule}]`}`;
}

export function kindOf(uses: string): StepKind {
  const kind = stepKind(uses);
  // Plans are checked when they are made; this is a plan that was not.
  if (kind === undefined) throw new Error(`step kind ${uses} is not in the catalogue`);
  return kind;
}

export function update(state: ExecutionState, index: number, change: (step: StepState) => StepState): ExecutionState {
  return { ...state, steps: state.steps.map((step, at) => (at === index ? change(step) : step)) };
}
