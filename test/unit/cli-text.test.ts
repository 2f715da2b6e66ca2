import { describe, expect, test } from 'vitest';
import { exitCodeOf, failureText } from '../../src/cli/failures.ts';
import { EXIT, formatTable } from '../../src/cli/io.ts';
import { collectParameters, jsonParameters } from '../../src/cli/parameters.ts';
import { changedSteps, formatRtoClock, nextCommands } from '../../src/cli/progress-view.ts';
import { desiredSchedules } from '../../src/engine/schedules.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { ConfigError, HoldfastError } from '../../src/model/errors.ts';
import { startExecution, type Plan, type Progress } from '../../src/model/execution.ts';

const PLAN: Plan = {
  hash: 'f'.repeat(64),
  kind: 'failover',
  runbook: 'r',
  title: 'R',
  service: 'orders',
  environment: 'test',
  mode: 'planned',
  parameters: {},
  objectives: { rtoMs: 60_000, rpoMs: 1000, refusedWritesMs: null, lostWrites: 0 },
  approval: { count: 1, expiresMs: 1000 },
  readOnlyDeadlineMs: 60_000,
  datastores: [],
  steps: [{ id: 'ask', title: 'Ask', uses: 'operator.approval', with: {}, included: true, after: null, applyMs: 1000, attempts: 1 }],
};

function progress(change: Partial<Progress> = {}): Progress {
  return { plan: PLAN, state: startExecution(PLAN, { epoch: 1, requestedBy: 'alice', dryRun: false }), startedAtMs: 1000, waitingFor: null, ...change };
}

describe('the RTO clock', () => {
  test('runs against the objective, says by how much it is exceeded, and stands still at the end', () => {
    expect(formatRtoClock(progress(), 31_000)).toBe('RTO clock 30.00 s of 1m 00s, 30.00 s left');
    expect(formatRtoClock(progress(), 91_000)).toBe('RTO clock 1m 30s of 1m 00s, EXCEEDED by 30.00 s');
    const state = progress().state!;
    const ended = progress({ state: { ...state, status: 'finished', steps: [{ ...state.steps[0]!, status: 'done', endedAtMs: 21_000 }] } });
    expect(formatRtoClock(ended, 999_000)).toBe('RTO clock 20.00 s of 1m 00s, 40.00 s left');
    expect(formatRtoClock(progress({ plan: { ...PLAN, objectives: null } }), 3000)).toBe('clock 2.00 s (no objective)');
  });
});

describe('following', () => {
  test('prints a step once a change, and what is waited for once', () => {
    const before = progress();
    const state = before.state!;
    const now = progress({ state: { ...state, steps: [{ ...state.steps[0]!, status: 'done', outcome: 'changed', summary: 'approved by bob', startedAtMs: 1000, endedAtMs: 3000 }] }, waitingFor: '1 approval(s)' });
    expect(changedSteps(undefined, before, 2000)).toEqual([]);
    expect(changedSteps(before, now, 4000)).toEqual(['ask                      changed 2.00 s  approved by bob', 'waiting for 1 approval(s)']);
    expect(changedSteps(now, now, 5000)).toEqual([]);
  });

  test('names the exact commands for a parked step, and none when it has ended', () => {
    const state = progress().state!;
    const parked = progress({ parked: [{ step: 'ask', attempt: 3, why: 'no answer', actions: ['retry', 'markDone', 'override'], rule: 'max-lag' }] });
    expect(nextCommands('failover/orders', parked)[2]).toBe('holdfast override failover/orders --step ask --attempt 3 --rule max-lag --reason "..."');
    expect(nextCommands('failover/orders', parked)[0]).toBe('holdfast retry failover/orders --step ask --attempt 3 --reason "..."');
    expect(nextCommands('failover/orders', progress({ state: { ...state, status: 'finished' } }))).toEqual([]);
    const approval = { step: 'ask', needed: 1, given: [], plan: 'p', observed: 'abc', expiresAtMs: null };
    expect(nextCommands('failover/orders', progress({ approval }))[0]).toBe('holdfast approve failover/orders --observed abc --reason "..."');
    expect(nextCommands('failover/orders', progress({ approval: { ...approval, loss: { mayLoseMs: 90_000 } } }))[0]).toContain('--accept-loss 1m30s');
  });
});

describe('failures', () => {
  test('each kind has its documented exit code', () => {
    const codes = { 'already-running': EXIT.refused, 'drill-target-refused': EXIT.refused, 'unknown-service': EXIT.notFound, 'backup-missing': EXIT.notFound, 'temporal-unreachable': EXIT.unreachable, usage: EXIT.usage, interrupted: 130, 'dump-failed': EXIT.failed };
    for (const [code, exit] of Object.entries(codes)) expect([code, exitCodeOf(new HoldfastError(code, 'x'))]).toEqual([code, exit]);
    expect(exitCodeOf(new ConfigError([]))).toBe(EXIT.usage);
    expect(exitCodeOf(new Error('x'))).toBe(EXIT.failed);
  });

  test('the wrappers of Temporal are left out, what happened stays', () => {
    const inner = new Error('no space left');
    const error = new Error('Workflow execution failed', { cause: new Error('Activity task failed', { cause: inner }) });
    expect(failureText(error)).toBe('no space left');
    expect(failureText(new Error('outer', { cause: inner }))).toBe('outer\n  because: no space left');
  });
});

describe('parameters of the command line', () => {
  test('are JSON where they are JSON, else text; a wrong or doubled one is refused', () => {
    expect(jsonParameters(collectParameters('n=5', ['list=["a","b"]', 'text=a=b', 'on=true', 'empty=']))).toEqual({ list: ['a', 'b'], text: 'a=b', on: true, empty: '', n: 5 });
    expect(() => jsonParameters(['x'])).toThrow(/name=value/);
    expect(() => jsonParameters(['=x'])).toThrow(/name=value/);
    expect(() => jsonParameters(['a=1', 'a=2'])).toThrow(/twice/);
  });

  test('a table is aligned, numbers to the right', () => {
    expect(formatTable(['name', 'n'], [['a', '5'], ['long', '10']])).toBe('name   n\n----  --\na      5\nlong  10');
  });
});

describe('schedules', () => {
  test('say everything explicitly, under the id of their environment, with an input that the workflow takes', () => {
    const config = configSchema.parse({ version: 1, environment: 'staging', stores: {}, datastores: {}, services: {}, schedules: { nightly: { run: 'restoreDrill', datastore: 'shop', cron: '0 3 * * 1-5', catchUp: '1s' } } });
    expect(desiredSchedules(config)).toMatchObject([
      { scheduleId: 'holdfast/staging/nightly', workflowType: 'restoreDrill', workflowId: 'drill/shop/scheduled', input: { datastore: 'shop', reason: 'scheduled' }, timezone: 'UTC', overlap: 'SKIP', jitterMs: 0, catchUpMs: 10_000, paused: false },
    ]);
    const without = configSchema.parse({ version: 1, stores: {}, datastores: {}, services: {}, schedules: { never: { run: 'readiness', service: 'orders' } } });
    expect(() => desiredSchedules(without)).toThrow(/neither cron nor every/);
  });
});
