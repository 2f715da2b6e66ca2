/** What drills that promote nothing themselves have measured: a restore to a moment, and how long a service was gone after something was broken. */
import type { Measurement } from './evidence.ts';
import type { ExecutionState, Plan, StepState } from './execution.ts';
import type { FailoverMeasurements } from './measure.ts';

/** A figure counts only for a step that ended by itself: skipped, undone and declared ones measured nothing. */
function steps(state: ExecutionState, uses: string): StepState[] {
  return state.steps.filter((step) => step.uses === uses);
}

function fact(state: ExecutionState, step: StepState | undefined, name: string): number | null {
  if (step === undefined || step.outcome === 'skipped' || state.decisions.some((decision) => decision.action === 'markDone' && decision.step === step.id && decision.atMs >= (step.startedAtMs ?? 0))) return null;
  const facts = state.facts[step.id];
  const value = facts !== undefined && Object.hasOwn(facts, name) ? facts[name] : undefined;
  return typeof value === 'number' ? value : null;
}

const NAMED = (step: StepState, all: readonly StepState[]): string => (all.length > 1 ? ` (${step.id})` : '');

/** null: the run holds no drill. */
export function measureDrill(plan: Plan, state: ExecutionState): FailoverMeasurements | null {
  const measurements: Measurement[] = [...restores(plan, state), ...kills(state), ...pods(state)];
  if (measurements.length === 0) return null;
  const missed = measurements.flatMap((item) => {
    if (item.objective === null) return [];
    if (item.measured === null) return [`${item.name}: not measured (${item.note ?? 'no reason known'})`];
    return item.measured > item.objective ? [`${item.name}: ${item.measured} ${item.unit}, objective ${item.objective} ${item.unit}`] : [];
  });
  return { measurements, missed, objectivesMet: missed.length === 0 };
}

function restores(plan: Plan, state: ExecutionState): Measurement[] {
  const all = steps(state, 'wal.restoreToTime');
  return all.flatMap((step): Measurement[] => {
    const took = (name: string): number | null => fact(state, step, name);
    const note = took('rtoMs') === null ? 'the restore did not end, or a person declared it' : undefined;
    const of = NAMED(step, all);
    const proved = step.outcome !== 'failed';
    return [
      { name: `RTO: restore begun to proved${of}`, unit: 'ms', objective: plan.objectives?.rtoMs ?? null, measured: proved ? took('rtoMs') : null, ...(proved ? (note === undefined ? {} : { note }) : { note: 'the restore was not proved' }) },
      { name: `base backup restored${of}`, unit: 'ms', objective: null, measured: took('restoreMs'), ...(note === undefined ? {} : { note }) },
      { name: `WAL replayed to the moment${of}`, unit: 'ms', objective: null, measured: took('recoverMs'), ...(took('walFiles') === null ? {} : { note: `${took('walFiles')} WAL file(s)` }) },
      { name: `proof${of}`, unit: 'ms', objective: null, measured: took('proveMs') },
    ];
  });
}

function kills(state: ExecutionState): Measurement[] {
  const killed = steps(state, 'chaos.killPrimary')[0];
  if (killed === undefined) return [];
  const at = fact(state, killed, 'killedAtMs');
  const good = fact(state, steps(state, 'canary.verify')[0], 'firstGoodWriteAtMs');
  const canary = fact(state, steps(state, 'canary.verify')[0], 'refusedWindowMs');
  const lost = fact(state, steps(state, 'canary.verify')[0], 'lost');
  const objective = fact(state, killed, 'objectiveMs');
  const none = 'no acknowledged write on another node was seen';
  const name = 'chaos: primary killed to first good write';
  const total: Measurement =
    at === null ? { name, unit: 'ms', objective, measured: null, note: 'nothing was killed, or its answer was lost' }
    : good === null ? { name, unit: 'ms', objective, measured: null, note: none }
    : good < at ? { name, unit: 'ms', objective, measured: null, note: 'the first good write is older than the kill: clocks of the worker and of the host differ' }
    : { name, unit: 'ms', objective, measured: good - at, note: "from the clock of the killed server's host to that of the worker" };
  return [
    total,
    { name: 'chaos: last acknowledged write to first good write', unit: 'ms', objective: null, measured: canary, ...(canary === null ? { note: none } : { note: 'as the canary saw it, on one clock' }) },
    { name: 'chaos: acknowledged writes lost', unit: 'count', objective: null, measured: lost, ...(lost === null ? { note: 'the canary could not be read back' } : {}) },
  ];
}

function pods(state: ExecutionState): Measurement[] {
  const all = steps(state, 'chaos.pod');
  return all.map((step) => {
    const measured = fact(state, step, 'recoveredMs');
    return { name: `chaos: pods deleted to as many ready as before${NAMED(step, all)}`, unit: 'ms', objective: fact(state, step, 'objectiveMs'), measured, ...(measured === null ? { note: 'they were not replaced, or it was not seen when they were deleted' } : {}) };
  });
}
