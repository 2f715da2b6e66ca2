import { beforeAll, describe, expect, it } from 'vitest';
import type { Measurement } from '../../src/model/evidence.ts';
import type { ExecutionState, Plan } from '../../src/model/execution.ts';
import { checksOf, factsOf, measureFailover, timelineOf } from '../../src/model/measure.ts';
import type { Json } from '../../src/model/runbook-schema.ts';
import { Run, badChecks, shippedPlan } from './execution-plans.ts';

let planned: Plan;
let forced: Plan;
beforeAll(async () => {
  [planned, forced] = await Promise.all([shippedPlan('failover', 'planned'), shippedPlan('failover', 'forced')]);
});

const STARTED = Date.parse('2026-11-21T10:00:00Z');

/** A run that succeeded, with these facts in addition to its own. */
function ran(plan: Plan, facts: Readonly<Record<string, Readonly<Record<string, Json>>>> = {}): ExecutionState {
  const run = new Run(plan);
  run.atMs = STARTED;
  const { state } = run.until();
  const merged = Object.fromEntries([...new Set([...Object.keys(state.facts), ...Object.keys(facts)])].map((id) => [id, { ...state.facts[id], ...facts[id] }]));
  return { ...state, facts: merged };
}

function figure(plan: Plan, state: ExecutionState, name: string): Measurement {
  const found = measureFailover(plan, state, STARTED).measurements.filter((item) => item.name.startsWith(name));
  expect(found).toHaveLength(1);
  return found[0]!;
}

const canary = { acknowledged: 900, lost: 0, refusedWindowMs: 310, firstGoodWriteAtMs: STARTED + 4200 };
const good = { 'verify-canary': canary, promote: { promotedAtMs: STARTED + 4000 }, dns: { insyncMs: 77 } };

describe('a planned failover', () => {
  it('is measured from its own record, each figure against its objective', () => {
    const state = ran(planned, good);
    expect(figure(planned, state, 'RTO')).toMatchObject({ unit: 'ms', objective: 900_000, measured: 4200 });
    expect(figure(planned, state, 'RPO')).toMatchObject({ objective: 60_000, measured: 0 });
    expect(figure(planned, state, 'refused-write window')).toMatchObject({ objective: 1000, measured: 310 });
    expect(figure(planned, state, 'acknowledged writes lost')).toMatchObject({ unit: 'count', objective: 0, measured: 0, note: expect.stringContaining('900') });
    expect(figure(planned, state, 'promoted to first good write')).toMatchObject({ measured: 200 });
    expect(figure(planned, state, 'DNS')).toMatchObject({ measured: 77 });
    expect(measureFailover(planned, state, STARTED)).toMatchObject({ objectivesMet: true, missed: [] });
  });

  it('what a person declared is in the record and meets no objective', () => {
    const state = ran(planned, good);
    const at = state.steps.find((step) => step.id === 'verify-canary')!.endedAtMs!;
    const declared: ExecutionState = { ...state, decisions: [...state.decisions, { action: 'markDone', by: 'ann', reason: 'the canary hung', step: 'verify-canary', evidence: 'counted by hand', atMs: at }] };
    const { measurements, objectivesMet } = measureFailover(planned, declared, STARTED);
    for (const name of ['RTO', 'RPO', 'refused-write window', 'acknowledged writes lost']) {
      expect(measurements.find((item) => item.name.startsWith(name))).toMatchObject({ measured: null, note: expect.stringMatching(/verify-canary .*declared by ann, not measured/) });
    }
    expect(objectivesMet).toBe(false);
    expect(timelineOf(declared).find((entry) => entry.label === 'verify-canary')).toMatchObject({ outcome: 'declared by hand' });
    // It ran again afterwards: what it then found is a finding.
    const again: ExecutionState = { ...declared, steps: declared.steps.map((step) => (step.id === 'verify-canary' ? { ...step, startedAtMs: at + 1, endedAtMs: at + 2 } : step)) };
    expect(measureFailover(planned, again, STARTED).objectivesMet).toBe(true);
  });

  it('what was not measured is null and says why, and an objective without a figure is missed', () => {
    const state = ran(planned);
    const { measurements, missed, objectivesMet } = measureFailover(planned, state, STARTED);
    expect(measurements.filter((item) => item.measured === null && (item.note ?? '') === '')).toEqual([]);
    expect(figure(planned, state, 'RTO').measured).toBeNull();
    expect(figure(planned, state, 'RPO')).toMatchObject({ measured: null, note: 'the canary could not be read back' });
    expect(figure(planned, state, 'refused-write window').measured).toBeNull();
    expect(figure(planned, state, 'acknowledged writes lost').measured).toBeNull();
    // Changed by a try whose answer was lost: nobody saw when.
    expect(figure(planned, state, 'DNS')).toMatchObject({ measured: null, note: expect.stringContaining('nobody saw when') });
    expect(figure(planned, state, 'promotion')).toMatchObject({ measured: null, note: expect.stringContaining('nobody saw when') });
    const untouched: ExecutionState = { ...state, steps: state.steps.map((step) => (step.id === 'dns' ? { ...step, outcome: 'already-satisfied' } : step.id === 'promote' ? { ...step, outcome: 'failed' } : step)) };
    expect(figure(planned, untouched, 'DNS').note).toBe('no record was changed');
    expect(figure(planned, untouched, 'promotion').note).toBe('not promoted');
    expect(objectivesMet).toBe(false);
    expect(missed.join('\n')).toMatch(/RTO.*not measured[\s\S]*RPO.*not measured[\s\S]*refused-write window.*not measured[\s\S]*writes lost.*not measured/);
  });

  it.each([
    ['the window', { ...canary, refusedWindowMs: 1001 }, /refused-write window: 1001 ms, objective 1000 ms/],
    ['a lost write', { ...canary, lost: 1 }, /acknowledged writes lost: 1 count, objective 0 count/],
    ['the time', { ...canary, firstGoodWriteAtMs: STARTED + 900_001 }, /RTO.*: 900001 ms, objective 900000 ms/],
  ])('%s misses its objective by the least there is', (_, facts, text) => {
    const { missed, objectivesMet } = measureFailover(planned, ran(planned, { ...good, 'verify-canary': facts }), STARTED);
    expect(objectivesMet).toBe(false);
    expect(missed.join('\n')).toMatch(text);
  });

  it('exactly the objective meets it', () => {
    const facts = { ...canary, refusedWindowMs: 1000, firstGoodWriteAtMs: STARTED + 900_000 };
    expect(measureFailover(planned, ran(planned, { ...good, 'verify-canary': facts }), STARTED).missed).toEqual([]);
  });

  it('lost writes are never turned into a recovery point', () => {
    const state = ran(planned, { ...good, 'verify-canary': { ...canary, lost: 3 } });
    expect(figure(planned, state, 'RPO')).toMatchObject({ measured: null, note: '3 acknowledged writes are missing' });
  });

  it('facts of a wrong type are no figures', () => {
    const state = ran(planned, { ...good, 'verify-canary': { ...canary, refusedWindowMs: '310', lost: null } });
    expect(figure(planned, state, 'refused-write window').measured).toBeNull();
    expect(figure(planned, state, 'acknowledged writes lost').measured).toBeNull();
  });

  it('without objectives nothing is missed, and nothing is hidden', () => {
    const { measurements, missed } = measureFailover({ ...planned, objectives: null }, ran(planned, good), STARTED);
    expect(missed).toEqual([]);
    expect(measurements.every((item) => item.objective === null)).toBe(true);
    expect(measurements.find((item) => item.name.startsWith('RTO'))!.measured).toBe(4200);
  });

  it('the decision took as long as the approval waited; none, when none was asked for', () => {
    const state = ran(planned, good);
    const step = state.steps.find((item) => item.uses === 'operator.approval')!;
    expect(figure(planned, state, 'decide').measured).toBe(step.endedAtMs! - step.startedAtMs!);
    const alone = { ...planned, approval: { ...planned.approval, count: 0 } };
    expect(figure(alone, ran(alone, good), 'decide')).toMatchObject({ measured: null, note: 'no approval was asked for' });
  });
});

describe('a failback', () => {
  it('is measured from when its standby was rebuilt: the service ran until then, and the rebuild has a figure of its own', async () => {
    const plan = await shippedPlan('failback', 'planned');
    const state = ran(plan, { ...good, rebuild: { method: 'pg_rewind' } });
    const rebuild = state.steps.find((step) => step.id === 'rebuild')!;
    expect(figure(plan, state, 'RTO')).toMatchObject({ name: 'RTO: standby rebuilt to first good write', measured: STARTED + 4200 - rebuild.endedAtMs! });
    expect(figure(plan, state, 'rebuild')).toMatchObject({ measured: rebuild.endedAtMs! - rebuild.startedAtMs!, note: 'by pg_rewind', objective: null });
    expect(figure(plan, state, 'execute').measured).toBe(STARTED + 4000 - state.ledger.find((entry) => entry.uses === 'secret.stage')!.atMs);
    expect(figure(plan, state, 'refused-write window')).toMatchObject({ objective: 1000, measured: 310 });
    expect(figure(plan, state, 'acknowledged writes lost').measured).toBe(0);
    // One that was never rebuilt has no such figure.
    expect(measureFailover(planned, ran(planned, good), STARTED).measurements.map(({ name }) => name)).not.toContain('rebuild: standby rebuilt and caught up');
  });
});

describe('a forced failover', () => {
  const down = { confirm: { lastCommitAt: '2026-11-21T09:59:30.000Z' } };
  const lost = { 'count-loss': { lostTransactions: 2, lastLostAt: '2026-11-21T09:59:42.500Z', note: 'from its WAL' } };

  it('is counted from the last commit that the candidate has, not from when somebody noticed', () => {
    const state = ran(forced, { ...good, ...down, 'count-loss': { lostTransactions: 0 } });
    expect(figure(forced, state, 'RTO')).toMatchObject({ measured: 34_200, note: expect.stringMatching(/idle service overstates/) });
    expect(figure(forced, state, 'detect')).toMatchObject({ measured: 30_000, objective: null });
    expect(figure(forced, state, 'RPO')).toMatchObject({ measured: 0 });
  });

  it('is not detected before it was: the run had begun as planned', () => {
    const late = { ...good, confirm: { lastCommitAt: new Date(STARTED + 1000).toISOString() } };
    expect(figure(forced, ran(forced, late), 'detect')).toMatchObject({ measured: null, note: 'the run had begun before the last commit' });
    expect(figure(forced, ran(forced, late), 'RTO')).toMatchObject({ measured: 3200 });
    expect(figure(forced, ran(forced, { ...late, 'verify-canary': { ...canary, firstGoodWriteAtMs: STARTED + 500 } }), 'RTO')).toMatchObject({ measured: null, note: expect.stringContaining('clocks differ') });
  });

  it('what was lost comes from the old primary, as a count and as the time of the last of it', () => {
    const state = ran(forced, { ...good, ...down, ...lost });
    expect(figure(forced, state, 'acknowledged writes lost')).toMatchObject({ measured: 2, objective: null, note: 'from its WAL' });
    expect(figure(forced, state, 'RPO')).toMatchObject({ measured: 12_500, objective: 60_000 });
  });

  it('an old primary that cannot be read leaves the loss unknown, and that misses the objective', () => {
    const state = ran(forced, { ...good, ...down, 'count-loss': { lostTransactions: null, note: 'its host does not answer' } });
    expect(figure(forced, state, 'acknowledged writes lost')).toMatchObject({ measured: null, note: 'its host does not answer' });
    expect(figure(forced, state, 'RPO')).toMatchObject({ measured: null, note: 'its host does not answer' });
    expect(measureFailover(forced, state, STARTED).missed.join('\n')).toMatch(/RPO: work lost: not measured \(its host does not answer\)/);
  });

  it('lost transactions without times are counted, not dated', () => {
    const state = ran(forced, { ...good, ...down, 'count-loss': { lostTransactions: 2 } });
    expect(figure(forced, state, 'RPO')).toMatchObject({ measured: null, note: '2 transactions are lost; their times could not be read' });
  });

  it('a candidate that never replayed a transaction gives no beginning to count from', () => {
    const state = ran(forced, { ...good, 'count-loss': { lostTransactions: 0 } });
    expect(figure(forced, state, 'RTO')).toMatchObject({ measured: null, note: 'the candidate had replayed no transaction' });
    expect(figure(forced, state, 'detect').measured).toBeNull();
  });

  it('has no window of refused writes: nothing was there to refuse them', () => {
    expect(figure(forced, ran(forced, { ...good, ...down }), 'refused-write window')).toMatchObject({ measured: null, objective: null, note: expect.stringMatching(/down before the canary/) });
  });
});

describe('the record', () => {
  it('a timeline of what was done; what was left out is not on it, what was undone is called so', () => {
    const timeline = timelineOf(ran(planned, good));
    expect(timeline.map((entry) => entry.label)).not.toContain('fence-first');
    expect(timeline.every((entry) => entry.endMs >= entry.startMs)).toBe(true);
    const back = new Run(planned).until('canary:verify').good({ checks: badChecks }).until();
    expect(timelineOf(back.state).find((entry) => entry.label === 'canary')?.outcome).toBe('undone');
    expect(checksOf(back.state).filter((check) => !check.ok).map((check) => check.name)).toEqual(['canary: holds']);
  });

  it('facts hold the plan, every step, every effect and every decision', () => {
    const state = ran(planned, good);
    const kinds = factsOf(planned, state, STARTED).map((fact) => fact.kind);
    const count = (kind: string): number => kinds.filter((other) => other === kind).length;
    expect(count('plan')).toBe(1);
    expect(count('step')).toBe(planned.steps.length);
    expect(count('effect')).toBe(state.ledger.length);
    expect(count('decision')).toBe(1);
  });
});
