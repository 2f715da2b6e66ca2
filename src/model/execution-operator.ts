/** What operators may decide, when it is refused and why, and what it does. */
import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js';
import type { Phase } from './catalogue.ts';
import { canonicalJson } from './evidence.ts';
import { approvalsNeeded, lossAtStake, needsOperator, nextActions, taintOf } from './execution-next.ts';
import { kindOf, mayBePromoted, OPERATOR_ACTIONS, update, type ApprovalNeeded, type Decision, type ExecutionState, type OperatorAction, type OperatorRequest, type ParkedStep, type Plan, type StepState } from './execution-state.ts';
import { goBack, recordEffect } from './execution-transitions.ts';
import { RULE_NAMES, RULES } from './rules.ts';
import type { Json } from './runbook-schema.ts';

/** Longest texts that are taken into history. */
const LONGEST_NAME = 200;
const LONGEST_TEXT = 4000;

/** What was found out before the approval: another finding is another decision. */
export function observedDigest(plan: Plan, state: ExecutionState): string {
  const steps = state.steps.flatMap((step) => (step.status === 'done' ? [{ id: step.id, outcome: step.outcome, checks: step.checks }] : []));
  return bytesToHex(sha256(utf8ToBytes(canonicalJson({ plan: plan.hash, mode: state.mode, overrides: state.overrides, steps, facts: state.facts })))).slice(0, 16);
}

/** What waits for approval now, and what an approval must carry; null when nothing does. */
export function approvalNeeded(plan: Plan, state: ExecutionState): ApprovalNeeded | null {
  const action = nextActions(plan, state).find((one) => one.type === 'approval');
  if (action === undefined) return null;
  const loss = lossAtStake(plan, state);
  return { step: plan.steps[action.step]!.id, needed: approvalsNeeded(plan, state, action.step), given: state.approvals, plan: plan.hash, observed: observedDigest(plan, state), expiresAtMs: action.expiresAtMs, ...(loss === null ? {} : { loss }) };
}

/** Every step that only goes on by an operator's decision, and which decisions would be taken. */
export function parkedSteps(plan: Plan, state: ExecutionState): ParkedStep[] {
  if (state.status === 'finished' || state.switching) return [];
  return state.steps.flatMap((step, index): ParkedStep[] => {
    const why = needsOperator(plan, state, index);
    if (why === null) return [];
    const tainted = state.status === 'running' && step.status === 'pending' && taintOf(plan, state, index).length > 0;
    const rule = tainted ? 'tainted-input' : (step.checks.find((check) => !check.ok)?.rule ?? null);
    const tried: OperatorRequest = { by: '?', reason: '?', step: step.id, attempt: step.attempt, evidence: '?', ...(rule === null ? {} : { rule }) };
    const actions = (['retry', 'markDone', 'skip', 'override'] as const).filter((action) => refusal(plan, state, action, tried) === null);
    return [{ step: step.id, attempt: step.attempt, why, actions, rule: actions.includes('override') ? rule : null }];
  });
}

export function operate(plan: Plan, state: ExecutionState, event: { readonly action: OperatorAction; readonly request: OperatorRequest; readonly atMs: number; /** As executions did before the retry began it anew. */ readonly deadlineKept?: true }): ExecutionState {
  const { action, request, atMs } = event;
  const decision: Decision = {
    action, by: request.by, reason: request.reason, step: request.step ?? null, atMs,
    ...(request.evidence === undefined ? {} : { evidence: request.evidence }),
    ...(request.rule === undefined ? {} : { rule: request.rule }),
    ...(request.acceptLossMs === undefined ? {} : { acceptLossMs: request.acceptLossMs }),
  };
  const next: ExecutionState = { ...state, decisions: [...state.decisions, decision] };
  const index = request.step === undefined ? -1 : next.steps.findIndex((step) => step.id === request.step);
  switch (action) {
    case 'approve':
      return { ...next, approvals: [...new Set([...next.approvals, request.by])], acceptedLossMs: least(next.acceptedLossMs, request.acceptLossMs) };
    case 'reject':
      return goBack(next, 'denied', `rejected by ${request.by}: ${request.reason}`, atMs);
    case 'pause':
      return { ...next, paused: true };
    case 'resume':
      // The guards held before the pause; they are asked again before writes are refused.
      return { ...next, paused: false, preflightRepeated: next.preflightRepeated && (next.writesRefusedSinceMs !== null || mayBePromoted(next)) };
    case 'abort':
      return goBack(next, 'aborted', `aborted by ${request.by}: ${request.reason}`, atMs);
    case 'switchToForced':
      return { ...next, switching: true, paused: false };
    case 'retry':
      // A parked undo is tried again as undo; anything else begins with a new inspection.
      return update(next, index, (step) => ({
        ...step,
        // Its conditions could not be told, its inputs did not fit, or a guard before it did not hold: all of that is looked at again.
        status: next.status === 'running' && ((!step.conditionMet && plan.steps[index]!.when !== undefined) || (step.phase === null && step.startedAtMs === null)) ? 'pending' : 'running',
        attempt: step.attempt + 1,
        error: null,
        notBeforeMs: null,
        ...(event.deadlineKept === true ? {} : { deadlineFromMs: atMs }),
        lastAttempt: Math.max(step.lastAttempt, step.attempt + 2),
        phase: next.status === 'running' && step.phase === null && step.startedAtMs === null ? null : retryPhase(next, step),
        // What this try will find replaces what the last one found wrong: a step that then succeeds must not be reported as failed.
        outcome: step.outcome === 'changed' || step.outcome === 'already-satisfied' ? step.outcome : null,
        checks: step.checks.filter((check) => check.ok),
      }));
    case 'skip':
      return update(next, index, (step) => ({
        ...step,
        status: next.status === 'undoing' ? 'undone' : 'done',
        outcome: 'skipped',
        attempt: step.attempt + 1,
        tainted: `it was skipped by ${request.by}`,
        summary: `skipped by ${request.by}: ${request.reason}`,
        startedAtMs: step.startedAtMs ?? atMs,
        endedAtMs: atMs,
      }));
    case 'markDone':
      return markDone(next, index, request, atMs);
    case 'override':
      return override(plan, next, index, request, atMs);
    default:
      return action satisfies never;
  }
}

/** The smallest loss that anybody accepted. */
function least(before: ExecutionState['acceptedLossMs'], given: number | 'unknown' | undefined): ExecutionState['acceptedLossMs'] {
  if (given === undefined) return before;
  if (before === null || before === 'unknown') return given;
  return given === 'unknown' ? before : Math.min(before, given);
}

function markDone(state: ExecutionState, index: number, request: OperatorRequest, atMs: number): ExecutionState {
  const before = state.steps[index]!;
  const kind = kindOf(before.uses);
  const facts = request.facts ?? {};
  const told = Object.keys(kind.facts).every((fact) => Object.hasOwn(facts, fact));
  const said = `${request.by}: ${request.reason} (evidence: ${request.evidence ?? 'none'})`;
  let next: ExecutionState = Object.keys(facts).length === 0 ? state : { ...state, facts: { ...state.facts, [before.id]: { ...state.facts[before.id], ...facts } } };
  // Skipped before: it only now becomes known what it would have found.
  // Approvals given so far are of what was known until now.
  if (before.status === 'done') return update({ ...next, approvals: [], acceptedLossMs: next.approvals.length > 0 ? null : next.acceptedLossMs }, index, (step) => ({ ...step, tainted: null, attempt: step.attempt + 1, summary: `${step.summary}; its facts were declared by ${said}` }));
  const undoing = state.status === 'undoing';
  if (kind.phases.includes('apply')) next = recordEffect(next, index, undoing ? 'undo' : 'apply', { before: before.before, after: request.evidence ?? null, atMs, outcome: 'changed', declaredBy: request.by });
  next = update(next, index, (step) => ({
    ...step,
    status: undoing ? 'undone' : 'done',
    outcome: 'changed',
    inDoubt: false,
    attempt: step.attempt + 1,
    tainted: undoing || told ? step.tainted : `it was declared done by ${request.by} without saying what it found`,
    summary: `declared done by ${said}`,
    startedAtMs: step.startedAtMs ?? atMs,
    endedAtMs: atMs,
  }));
  if (undoing) return kind.refusesWrites ? { ...next, writesRefusedSinceMs: null } : next;
  return kind.pointOfNoReturn ? { ...next, pastPointOfNoReturn: true } : next;
}

function override(plan: Plan, state: ExecutionState, index: number, request: OperatorRequest, atMs: number): ExecutionState {
  const rule = request.rule!;
  if (rule === 'tainted-input') return update(state, index, (step) => ({ ...step, taintAccepted: true, attempt: step.attempt + 1, checks: [...step.checks, { name: 'inputs are found, not assumed', ok: true, rule, expected: 'facts that a step found out', found: taintOf(plan, state, index).join('; '), overridden: `${request.by}: ${request.reason}` }] }));
  // A verification after the point of no return that only this rule keeps from holding.
  const next: ExecutionState = { ...state, overrides: [...state.overrides, { rule, by: request.by, reason: request.reason }] };
  return update(next, index, (step) => ({
    ...step,
    status: 'done',
    attempt: step.attempt + 1,
    error: null,
    outcome: step.outcome === 'changed' ? 'changed' : 'already-satisfied',
    checks: step.checks.map((check) => (check.ok ? check : { ...check, ok: true, overridden: `${request.by}: ${request.reason}` })),
    summary: `rule ${rule} broken by ${request.by}: ${request.reason}`,
    endedAtMs: atMs,
  }));
}

function retryPhase(state: ExecutionState, step: StepState): Phase | null {
  if (state.status === 'undoing') return 'undo';
  const kind = kindOf(step.uses);
  // Verification failed after a good apply: verify again; never apply again what is known to have happened.
  if (step.outcome === 'changed' || step.outcome === 'already-satisfied') return 'verify';
  return kind.phases.includes('inspect') ? 'inspect' : (kind.phases[0] ?? null);
}

/** Why an operator's request is refused, or null. Bears whatever somebody typed as JSON. */
export function refusal(plan: Plan, state: ExecutionState, action: OperatorAction, request: OperatorRequest): string | null {
  const malformed = misshapen(action, request);
  if (malformed !== null) return malformed;
  if (state.status === 'finished') return 'the execution has ended';
  if (state.switching) return 'it is going over to forced mode; wait until it has';
  const waiting = nextActions(plan, state);
  switch (action) {
    case 'approve':
    case 'reject':
      return approvalRefusal(plan, state, action, request);
    case 'pause':
      if (state.status !== 'running') return 'it is being undone and cannot be paused';
      if (state.writesRefusedSinceMs !== null && !state.pastPointOfNoReturn) return 'writes are being refused: pausing now would prolong that; abort instead';
      return state.paused ? 'it is paused already' : null;
    case 'resume':
      return state.paused ? null : 'it is not paused';
    case 'abort':
      if (state.status === 'undoing') return 'it is being undone already';
      return mayBePromoted(state) ? 'the point of no return is passed, or promotion may have begun: nothing is undone any more; repair forward or run the failback runbook' : null;
    case 'switchToForced':
      return switchRefusal(plan, state);
    case 'retry':
    case 'skip':
    case 'markDone':
    case 'override': {
      const index = state.steps.findIndex((step) => step.id === request.step);
      if (index < 0) return `${action} needs "step", one of: ${state.steps.map((step) => step.id).join(', ')}`;
      const step = state.steps[index]!;
      const factsLater = action === 'markDone' && step.status === 'done' && step.tainted !== null && request.facts !== undefined && state.status === 'running';
      // A step whose inputs do not fit, or are nobody's finding, waits for an operator without having begun.
      const why = needsOperator(plan, state, index) ?? (waiting.some((one) => one.type === 'park' && one.step === index) ? 'parked' : null);
      if (why === null && !factsLater) return `step ${step.id} is ${step.status}, not parked`;
      if (request.attempt !== step.attempt) return `attempt ${String(request.attempt)} is stale: step ${step.id} is at attempt ${step.attempt}; look at it again and decide anew`;
      const tainted = state.status === 'running' && step.status === 'pending' && taintOf(plan, state, index).length > 0;
      if (action === 'retry' && tainted) return `step ${step.id} has not begun: give the facts it works with (markDone with facts on the skipped step), or override the rule tainted-input`;
      if (action === 'skip' && (!kindOf(step.uses).skippable || state.status === 'undoing')) return `step ${step.id} (${step.uses}) may not be skipped; retry it, or markDone with evidence`;
      if (action === 'markDone' && step.uses === 'operator.approval') return `step ${step.id} is an approval: it is given by other people, not declared`;
      if (action === 'markDone' && (request.evidence ?? '').trim() === '') return 'markDone needs "evidence": what shows that it is done';
      if (action === 'markDone') return factsRefusal(step, request.facts ?? {});
      if (action === 'override') return overrideRefusal(state, step, tainted, request);
      return null;
    }
    default:
      return action satisfies never;
  }
}

function misshapen(action: OperatorAction, request: OperatorRequest): string | null {
  if (!OPERATOR_ACTIONS.includes(action)) return `there is no action ${String(action)}; there are: ${OPERATOR_ACTIONS.join(', ')}`;
  if (typeof request !== 'object' || request === null || Array.isArray(request)) return `${action} takes one JSON object with "by" and "reason"`;
  if (typeof request.by !== 'string' || request.by.trim() === '') return `${action} needs "by": who decides`;
  if (typeof request.reason !== 'string' || request.reason.trim() === '') return `${action} needs "reason": why`;
  if (request.by.length > LONGEST_NAME) return `"by" is longer than ${LONGEST_NAME} characters`;
  for (const [name, longest] of [['reason', LONGEST_TEXT], ['step', LONGEST_NAME], ['evidence', LONGEST_TEXT], ['plan', LONGEST_NAME], ['observed', LONGEST_NAME], ['rule', LONGEST_NAME]] as const) {
    const value: unknown = request[name];
    if (value !== undefined && typeof value !== 'string') return `"${name}" is a text, found ${JSON.stringify(value)?.slice(0, 80)}`;
    if (typeof value === 'string' && value.length > longest) return `"${name}" is longer than ${longest} characters`;
  }
  if (request.attempt !== undefined && !Number.isInteger(request.attempt)) return `"attempt" is a whole number, found ${JSON.stringify(request.attempt)?.slice(0, 80)}`;
  if (request.facts !== undefined && (typeof request.facts !== 'object' || request.facts === null || Array.isArray(request.facts) || JSON.stringify(request.facts).length > LONGEST_TEXT)) return `"facts" is an object of at most ${LONGEST_TEXT} characters`;
  const loss: unknown = request.acceptLossMs;
  if (loss !== undefined && loss !== 'unknown' && !(typeof loss === 'number' && Number.isFinite(loss) && loss >= 0)) return '"acceptLossMs" is a number of milliseconds or "unknown"';
  return null;
}

function approvalRefusal(plan: Plan, state: ExecutionState, action: 'approve' | 'reject', request: OperatorRequest): string | null {
  const waiting = approvalNeeded(plan, state);
  if (waiting === null) return 'nothing waits for approval';
  const approvers = plan.approval.approvers ?? [];
  if (approvers.length > 0 && !approvers.some((one) => samePerson(one, request.by))) return `${request.by} is not among the approvers of this service: ${approvers.join(', ')}`;
  if (action === 'reject') return null;
  if (samePerson(request.by, state.requestedBy)) return `${request.by} requested this and cannot approve it`;
  if (state.approvals.some((by) => samePerson(by, request.by))) return `${request.by} approved already; another person is needed`;
  if (request.plan !== waiting.plan || request.observed !== waiting.observed) {
    const found = request.plan === undefined || request.observed === undefined ? 'it does not say' : 'it says something else';
    return `an approval is bound to what was looked at, and ${found}: look again (query progress) and approve with "plan": "${waiting.plan}", "observed": "${waiting.observed}"`;
  }
  if (waiting.loss === undefined) return null;
  const { mayLoseMs } = waiting.loss;
  if (mayLoseMs === null) return request.acceptLossMs === 'unknown' ? null : 'the rule two-facts is broken and what may be lost is not known: an approval says "acceptLossMs": "unknown"';
  if (request.acceptLossMs === 'unknown' || (request.acceptLossMs !== undefined && request.acceptLossMs >= mayLoseMs)) return null;
  return `the rule two-facts is broken: ${mayLoseMs} ms of acknowledged writes may be lost, and more while people decide; an approval says in "acceptLossMs" how many it accepts`;
}

function switchRefusal(plan: Plan, state: ExecutionState): string | null {
  if (state.mode === 'forced') return 'it is forced already';
  if (state.status === 'undoing' && state.final !== 'failed') return `it was stopped on purpose (${state.failure ?? state.final}): start a forced run instead`;
  if (state.dryRun) return 'it is a dry run: start one in forced mode';
  if (mayBePromoted(state)) return 'the point of no return is passed, or promotion may have begun: a forced promotion would be a second one';
  const modesOf = (step: Plan['steps'][number]): readonly string[] => step.modes ?? [];
  // Without a step of its own the forced mode would promote on what only the planned one makes sure of.
  const hasForced = plan.steps.some((step) => modesOf(step).includes('forced') && kindOf(step.uses).pointOfNoReturn) && plan.steps.some((step) => step.modes?.length === 1 && step.modes[0] === 'forced');
  if (!hasForced) return `runbook ${plan.runbook} has no forced mode: start one that has, with mode forced`;
  return null;
}

function factsRefusal(step: StepState, facts: Readonly<Record<string, Json>>): string | null {
  const known = Object.keys(kindOf(step.uses).facts);
  const unknown = Object.keys(facts).filter((fact) => !known.includes(fact));
  return unknown.length === 0 ? null : `${step.uses} yields no fact ${unknown.join(', ')}; it yields: ${known.join(', ') || 'none'}`;
}

function overrideRefusal(state: ExecutionState, step: StepState, tainted: boolean, request: OperatorRequest): string | null {
  const { rule } = request;
  if (rule === undefined || !RULE_NAMES.includes(rule)) return `override names the rule it breaks, one of: ${RULE_NAMES.map((name) => `${name} (${RULES[name].says})`).join('; ')}`;
  if (tainted) return rule === 'tainted-input' ? null : `step ${step.id} waits because of the rule tainted-input, not ${rule}`;
  if (state.status !== 'running') return 'it is being undone: no rule stands in the way of that';
  const failing = step.checks.filter((check) => !check.ok);
  if (failing.length === 0 || failing.some((check) => check.rule !== rule)) return `step ${step.id} does not wait because of the rule ${rule}${failing.length === 0 ? '' : `: ${failing.map((check) => `${check.name}${check.rule === undefined ? ' (no rule that could be broken)' : ` (rule ${check.rule})`}`).join(', ')}`}`;
  return null;
}

/** Names are typed by hand: a capital or a blank does not make another person. */
function samePerson(one: string, other: string): boolean {
  return one.trim().toLowerCase() === other.trim().toLowerCase();
}
