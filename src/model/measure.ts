/** What an execution's own record says, put into figures. Pure: nothing is estimated, what is not there is null with a note. */
import type { CheckResult } from './api.ts';
import type { FactInput, Measurement, TimelineEntry, TimelineMark } from './evidence.ts';
import type { ExecutionState, Plan, StepState } from './execution.ts';
import type { Json } from './runbook-schema.ts';

export interface FailoverMeasurements {
  readonly measurements: readonly Measurement[];
  /** Every measured figure with an objective meets it, and every objective was measured. */
  readonly objectivesMet: boolean;
  readonly missed: readonly string[];
}

function stepUsing(state: ExecutionState, uses: string): StepState | undefined {
  return state.steps.find((step) => step.uses === uses);
}

/** Who said what a step found, when it was not the step itself; a try that came after counts as itself again. */
function declaredBy(state: ExecutionState, step: StepState | undefined): string | null {
  return state.decisions.findLast((decision) => step !== undefined && decision.action === 'markDone' && decision.step === step.id && decision.atMs >= (step.startedAtMs ?? 0))?.by ?? null;
}

/** Only what was found: what a person declared stands in the record, and is no figure. */
function factOf(state: ExecutionState, uses: string, fact: string): Json | undefined {
  const step = stepUsing(state, uses);
  const facts = step === undefined || declaredBy(state, step) !== null ? undefined : state.facts[step.id];
  return facts !== undefined && Object.hasOwn(facts, fact) ? facts[fact] : undefined;
}

function numberFact(state: ExecutionState, uses: string, fact: string): number | null {
  const value = factOf(state, uses, fact);
  return typeof value === 'number' ? value : null;
}

function took(step: StepState | undefined): number | null {
  return step?.startedAtMs == null || step.endedAtMs === null || step.outcome === 'skipped' ? null : step.endedAtMs - step.startedAtMs;
}

/** The rebuild that came before the promotion, when it ended. */
function rebuildBefore(state: ExecutionState): StepState | undefined {
  const promote = state.steps.findIndex((step) => step.uses === 'postgres.promote');
  return state.steps.find((step, index) => step.uses === 'postgres.rebuildStandby' && index < promote && step.endedAtMs !== null && step.outcome !== 'skipped');
}

/** @param startedAtMs start of the execution, epoch milliseconds */
export function measureFailover(plan: Plan, state: ExecutionState, startedAtMs: number): FailoverMeasurements {
  const forced = state.mode === 'forced';
  const objectives = plan.objectives;
  const firstGood = numberFact(state, 'canary.verify', 'firstGoodWriteAtMs');
  const lastCommit = factOf(state, 'postgres.health', 'lastCommitAt');
  const lastCommitMs = typeof lastCommit === 'string' ? Date.parse(lastCommit) : null;
  const promotedAt = numberFact(state, 'postgres.promote', 'promotedAtMs');
  const promoteStart = stepUsing(state, 'postgres.promote')?.startedAtMs ?? null;
  // While a standby is rebuilt the service runs: what comes after that is the recovery.
  const rebuild = rebuildBefore(state);
  // What was changed to rebuild came before the roles were confirmed, and is no part of the switch.
  const begin = rebuild === undefined ? -1 : Math.max(state.steps.indexOf(rebuild), state.steps.findIndex((step) => step.uses === 'postgres.health'));
  const firstChange = state.ledger.find((entry) => entry.phase === 'apply' && state.steps.findIndex((step) => step.id === entry.step) > begin)?.atMs ?? null;
  const waits = state.steps.filter((step) => step.uses === 'operator.approval').map(took).filter((ms) => ms !== null);
  const decided = waits.length === 0 ? null : waits.reduce((sum, ms) => sum + ms, 0);
  const failureBegan = forced ? lastCommitMs : (rebuild?.endedAtMs ?? startedAtMs);
  const noWrite = declaredNote(state, 'canary.verify') ?? 'no acknowledged write on the new primary was seen';
  const promotion = stepUsing(state, 'postgres.promote');
  const promotedHow = promotedAt !== null ? null : promotion?.outcome !== 'changed' ? 'not promoted' : "promoted, but nobody saw when: its answer was lost or a person declared it";
  const canaries = canaryNotes(state);
  const noteOf = (...parts: readonly (string | null)[]): { note?: string } => {
    const said = parts.filter((part) => part !== null);
    return said.length === 0 ? {} : { note: said.join('; ') };
  };
  const measurements: Measurement[] = [
    {
      name: forced ? 'RTO: last commit before the failure to first good write' : rebuild === undefined ? 'RTO: start to first good write' : 'RTO: standby rebuilt to first good write',
      unit: 'ms',
      objective: objectives?.rtoMs ?? null,
      measured: firstGood === null || failureBegan === null || firstGood < failureBegan ? null : firstGood - failureBegan,
      ...(firstGood === null ? { note: noWrite } : failureBegan !== null && firstGood < failureBegan ? { note: 'the first good write is older than what it is counted from: clocks differ' } : failureBegan === null ? { note: 'the candidate had replayed no transaction' } : noteOf(forced ? 'an idle service overstates it: counted from the last commit the candidate replayed' : null, ...canaries)),
    },
    recoveryPoint(plan, state),
    {
      name: 'refused-write window',
      unit: 'ms',
      objective: forced ? null : (objectives?.refusedWritesMs ?? null),
      measured: forced ? null : numberFact(state, 'canary.verify', 'refusedWindowMs'),
      ...(forced ? { note: 'the primary was down before the canary could write; RTO says how long writes were refused' } : noteOf(numberFact(state, 'canary.verify', 'refusedWindowMs') === null ? (declaredNote(state, 'canary.verify') ?? 'the canary did not write on both sides') : null, ...canaries)),
    },
    lostWrites(plan, state),
    ...(forced ? [detection(lastCommitMs, startedAtMs)] : []),
    ...(rebuild === undefined ? [] : [{ name: 'rebuild: standby rebuilt and caught up', unit: 'ms' as const, objective: null, measured: took(rebuild), note: `by ${String(factOf(state, 'postgres.rebuildStandby', 'method') ?? 'an unknown method')}` }]),
    { name: 'decide: waiting for approval', unit: 'ms', objective: null, measured: decided, ...(decided === null ? { note: 'no approval was asked for' } : {}) },
    { name: 'execute: first change to promoted', unit: 'ms', objective: null, measured: promotedAt === null || firstChange === null ? null : Math.max(0, promotedAt - firstChange), ...noteOf(promotedHow) },
    { name: 'promotion', unit: 'ms', objective: null, measured: promotedAt === null || promoteStart === null ? null : promotedAt - promoteStart, ...noteOf(promotedHow) },
    { name: 'promoted to first good write', unit: 'ms', objective: null, measured: promotedAt === null || firstGood === null ? null : Math.max(0, firstGood - promotedAt), ...(firstGood === null ? { note: noWrite } : noteOf(promotedHow, ...canaries)) },
    dnsConvergence(state),
  ];
  const missed: string[] = [];
  for (const item of measurements) {
    if (item.objective === null) continue;
    if (item.measured === null) missed.push(`${item.name}: not measured (${item.note ?? 'no reason known'})`);
    else if (item.measured > item.objective) missed.push(`${item.name}: ${item.measured} ${item.unit}, objective ${item.objective} ${item.unit}`);
  }
  return { measurements, missed, objectivesMet: missed.length === 0 };
}

function detection(lastCommitMs: number | null, startedAtMs: number): Measurement {
  const base = { name: 'detect: last commit to start', unit: 'ms' as const, objective: null };
  if (lastCommitMs === null) return { ...base, measured: null, note: 'the candidate had replayed no transaction' };
  // Switched to forced on the way: nobody was there to detect anything before it.
  return lastCommitMs > startedAtMs ? { ...base, measured: null, note: 'the run had begun before the last commit' } : { ...base, measured: startedAtMs - lastCommitMs };
}

function dnsConvergence(state: ExecutionState): Measurement {
  const insync = numberFact(state, 'route53.change', 'insyncMs');
  const changed = stepUsing(state, 'route53.change')?.outcome === 'changed';
  return { name: 'DNS: change to INSYNC', unit: 'ms', objective: null, measured: insync, ...(insync !== null ? {} : { note: changed ? 'the record was changed, but nobody saw when it was INSYNC: its answer was lost or a person declared it' : 'no record was changed' }) };
}

function lostWrites(plan: Plan, state: ExecutionState): Measurement {
  const base = { name: 'acknowledged writes lost', unit: 'count' as const };
  if (state.mode === 'planned') {
    const lost = canaryLost(state);
    return { ...base, objective: plan.objectives?.lostWrites ?? null, measured: lost, ...(lost === null ? { note: declaredNote(state, 'canary.verify') ?? 'the canary could not be read back' } : { note: [`of ${String(factOf(state, 'canary.verify', 'acknowledged'))} that the canary wrote`, ...canaryNotes(state)].join('; ') }) };
  }
  const lost = numberFact(state, 'postgres.measureLoss', 'lostTransactions');
  return { ...base, objective: null, measured: lost, note: declaredNote(state, 'postgres.measureLoss') ?? String(factOf(state, 'postgres.measureLoss', 'note') ?? 'the old primary could not be read') };
}

/** null as well when nothing was acknowledged: none of none proves nothing. */
function canaryLost(state: ExecutionState): number | null {
  const acknowledged = numberFact(state, 'canary.verify', 'acknowledged');
  return acknowledged === null || acknowledged === 0 ? null : numberFact(state, 'canary.verify', 'lost');
}

function canaryNotes(state: ExecutionState): string[] {
  const notes = factOf(state, 'canary.verify', 'notes');
  return Array.isArray(notes) ? notes.map(String) : [];
}

function declaredNote(state: ExecutionState, uses: string): string | null {
  const step = stepUsing(state, uses);
  const by = declaredBy(state, step);
  return by === null ? null : `what ${step!.id} would have found was declared by ${by}, not measured`;
}

/** Time of work lost. Planned: none when every acknowledged write is there. Forced: from the fork to the last lost commit, in the old primary's own WAL. */
function recoveryPoint(plan: Plan, state: ExecutionState): Measurement {
  const base = { name: 'RPO: work lost', unit: 'ms' as const, objective: plan.objectives?.rpoMs ?? null };
  if (state.mode === 'planned') {
    const lost = canaryLost(state);
    if (lost === 0) return { ...base, measured: 0, note: ['every acknowledged canary write is on the new primary, which replayed the last WAL position of the old one', ...canaryNotes(state)].join('; ') };
    return { ...base, measured: null, note: lost === null ? (declaredNote(state, 'canary.verify') ?? 'the canary could not be read back') : `${lost} acknowledged writes are missing` };
  }
  const lost = numberFact(state, 'postgres.measureLoss', 'lostTransactions');
  if (lost === null) return { ...base, measured: null, note: declaredNote(state, 'postgres.measureLoss') ?? String(factOf(state, 'postgres.measureLoss', 'note') ?? 'the old primary could not be read') };
  if (lost === 0) return { ...base, measured: 0, note: 'no commit of the old primary lies after the fork' };
  const last = factOf(state, 'postgres.measureLoss', 'lastLostAt');
  const fork = factOf(state, 'postgres.health', 'lastCommitAt');
  const lastMs = typeof last === 'string' ? Date.parse(last) : Number.NaN;
  const forkMs = typeof fork === 'string' ? Date.parse(fork) : Number.NaN;
  if (Number.isNaN(lastMs) || Number.isNaN(forkMs)) return { ...base, measured: null, note: `${lost} transactions are lost; their times could not be read` };
  return { ...base, measured: Math.max(0, lastMs - forkMs), note: `${lost} transactions after the last replayed commit` };
}

export function timelineOf(state: ExecutionState): TimelineEntry[] {
  return state.steps
    .filter((step) => step.startedAtMs !== null && step.endedAtMs !== null && step.outcome !== 'skipped')
    .map((step) => ({ label: step.id, startMs: step.startedAtMs!, endMs: step.endedAtMs!, outcome: outcomeOf(state, step), detail: step.uses }));
}

/** What a person declared is not what was seen. */
function outcomeOf(state: ExecutionState, step: StepState): string {
  if (step.status === 'undone') return 'undone';
  return declaredBy(state, step) !== null || state.ledger.some((entry) => entry.step === step.id && entry.declaredBy !== undefined) ? 'declared by hand' : (step.outcome ?? 'unknown');
}

/** What is drawn over the timeline: when writes were refused, when there was no way back, how long approval took, until when the objective reached. */
export function marksOf(plan: Plan, state: ExecutionState, startedAtMs: number): TimelineMark[] {
  const marks: TimelineMark[] = [];
  const approval = stepUsing(state, 'operator.approval');
  const waited = took(approval);
  if (approval !== undefined && waited !== null && waited > 0) marks.push({ kind: 'waiting', label: 'waiting for approval', atMs: approval.startedAtMs!, endMs: approval.endedAtMs! });
  const [lastOnOld, firstGood] = [numberFact(state, 'canary.verify', 'lastOnOldMs'), numberFact(state, 'canary.verify', 'firstGoodWriteAtMs')];
  if (state.mode === 'planned' && lastOnOld !== null && firstGood !== null && firstGood > lastOnOld) marks.push({ kind: 'window', label: 'writes were refused, as the canary saw it', atMs: lastOnOld, endMs: firstGood });
  const promoted = stepUsing(state, 'postgres.promote');
  if (state.pastPointOfNoReturn && promoted?.startedAtMs != null) marks.push({ kind: 'no-return', label: `point of no return: ${promoted.id} began`, atMs: promoted.startedAtMs });
  if (firstGood !== null) marks.push({ kind: 'moment', label: 'first good write on the new primary', atMs: firstGood });
  // A forced run counts from the failure, which is not on this clock as surely.
  if (state.mode === 'planned' && plan.objectives !== null) marks.push({ kind: 'objective', label: 'objective RTO, from the start', atMs: startedAtMs + plan.objectives.rtoMs });
  return marks;
}

export function checksOf(state: ExecutionState): CheckResult[] {
  return state.steps.flatMap((step) => step.checks.map((check) => ({ ...check, name: `${step.id}: ${check.name}` })));
}

/** The record, fact by fact, for the hash chain. */
export function factsOf(plan: Plan, state: ExecutionState, startedAtMs: number): FactInput[] {
  const at = (ms: number | null): string => new Date(ms ?? startedAtMs).toISOString();
  return [
    { at: at(startedAtMs), kind: 'plan', data: plan },
    ...state.steps.map((step) => ({ at: at(step.endedAtMs ?? step.startedAtMs), kind: 'step', data: { ...step, facts: state.facts[step.id] ?? {} } })),
    ...state.ledger.map((entry) => ({ at: at(entry.atMs), kind: 'effect', data: entry })),
    ...state.overrides.map((override) => ({ at: at(null), kind: 'override', data: override })),
    ...state.decisions.map((decision) => ({ at: at(decision.atMs), kind: 'decision', data: decision })),
    ...state.refusals.map((refusal) => ({ at: at(refusal.atMs), kind: 'refusal', data: refusal })),
  ];
}
