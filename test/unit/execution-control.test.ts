/** Steps beside each other, conditions, budgets, taint, broken rules, nested runs and the change of mode: one rule at a time. */
import { describe, expect, it } from 'vitest';
import { approvalNeeded, deadlineFrom, nextActions, observedDigest, parkedSteps, reduce, refusal, type Action, type OperatorAction, type PlannedStep } from '../../src/model/execution.ts';
import { badChecks, goodResult, planOf, Run, shippedPlan } from './execution-plans.ts';

const command = (id: string, more: Partial<PlannedStep> = {}): Partial<PlannedStep> & Pick<PlannedStep, 'id' | 'uses'> => ({ id, uses: 'rollout.command', with: {}, ...more });
const names = (run: Run, actions: readonly Action[] = nextActions(run.plan, run.state)): string[] => actions.map((action) => ('step' in action && action.step !== null ? `${run.plan.steps[action.step]!.id}:${action.type === 'phase' ? action.phase : action.type}` : action.type));
function say(run: Run, action: OperatorAction, request: Record<string, unknown> = {}): string | null {
  return refusal(run.plan, run.state, action, { by: 'operator', reason: 'because', ...request });
}

describe('steps beside each other', () => {
  // first; then left and right beside each other; then last.
  const plan = planOf([command('first'), command('left', { needs: [0] }), command('right', { needs: [0] }), command('last')]);
  const begun = (): Run => new Run(plan).until('left:guard');

  it('begin together once what they wait for is done, and the next waits for both', () => {
    const run = begun();
    expect(names(run)).toEqual(['left:guard', 'right:guard']);
    run.send({ type: 'began', step: 1, phase: 'guard' });
    expect(names(run)).toEqual(['right:guard']);
    run.send({ type: 'began', step: 2, phase: 'guard' });
    expect(names(run)).toEqual(['settle']);
    run.send({ type: 'phaseDone', step: 2, phase: 'guard', result: goodResult('rollout.command', 'guard') });
    expect(names(run)).toEqual(['right:apply']);
    for (const phase of ['apply', 'verify']) run.send({ type: 'began', step: 2, phase }).send({ type: 'phaseDone', step: 2, phase, result: goodResult('rollout.command', phase) });
    expect(run.step('right').status).toBe('done');
    expect(names(run)).toEqual(['settle']);
    run.send({ type: 'phaseDone', step: 1, phase: 'guard', result: goodResult('rollout.command', 'guard') });
    run.until();
    expect(run.begun.filter((name) => name.startsWith('last'))).toHaveLength(3);
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it('one that fails takes everything back, but only once nothing is under way any more', () => {
    const undoable = planOf([command('first'), { id: 'left', uses: 'secret.stage', needs: [0] }, command('right', { needs: [0] })]);
    const run = new Run(undoable).until('left:inspect');
    run.send({ type: 'began', step: 1, phase: 'inspect' }).send({ type: 'phaseDone', step: 1, phase: 'inspect', result: goodResult('secret.stage', 'inspect') });
    run.send({ type: 'began', step: 1, phase: 'guard' }).send({ type: 'phaseDone', step: 1, phase: 'guard', result: goodResult('secret.stage', 'guard') });
    run.send({ type: 'began', step: 1, phase: 'apply' });
    run.send({ type: 'began', step: 2, phase: 'guard' }).send({ type: 'phaseDone', step: 2, phase: 'guard', result: { summary: '', checks: badChecks } });
    expect(run.state.status).toBe('undoing');
    expect(names(run)).toEqual(['settle']);
    run.send({ type: 'phaseDone', step: 1, phase: 'apply', result: goodResult('secret.stage', 'apply') });
    expect(names(run)).toEqual(['left:undo']);
  });

  it('one that is parked after the point of no return does not hold the others up', () => {
    const after = planOf([{ id: 'fence', uses: 'postgres.fence' }, { id: 'promote', uses: 'postgres.promote' }, command('left', { needs: [0, 1] }), command('right', { needs: [0, 1] }), command('last')]);
    const run = new Run(after).until('left:guard');
    run.send({ type: 'began', step: 2, phase: 'guard' }).send({ type: 'phaseDone', step: 2, phase: 'guard', result: { summary: '', checks: badChecks } });
    expect(run.step('left').status).toBe('parked');
    expect(names(run)).toEqual(['right:guard']);
    for (const phase of ['guard', 'apply', 'verify']) run.send({ type: 'began', step: 3, phase }).send({ type: 'phaseDone', step: 3, phase, result: goodResult('rollout.command', phase) });
    expect(names(run)).toEqual(['left:park']);
    expect(parkedSteps(run.plan, run.state)).toMatchObject([{ step: 'left', actions: ['retry', 'markDone', 'skip'] }]);
  });
});

describe('conditions', () => {
  const plan = (when: PlannedStep['when']): Run => new Run(planOf([{ id: 'confirm', uses: 'postgres.health' }, command('first'), command('maybe', { when: when! }), command('last')]));
  const facts = (found: Record<string, unknown>) => (run: Run): Run => {
    run.until('confirm:verify');
    return run.good({ facts: found as never });
  };

  it.each([
    [{ value: '${steps.confirm.lagMs}', atMost: 5 }, { lagMs: 5 }, true],
    [{ value: '${steps.confirm.lagMs}', atMost: 5 }, { lagMs: 6 }, false],
    [{ value: '${steps.confirm.lagMs}', atLeast: 5 }, { lagMs: null }, false],
    [{ value: '${steps.confirm.primary}', equals: 'a' }, { primary: 'a' }, true],
    [{ value: '${steps.confirm.primary}', not: 'a' }, { primary: 'a' }, false],
    [{ value: '${steps.confirm.primary}', oneOf: ['a', 'b'] }, { primary: 'b' }, true],
    [{ value: '${steps.confirm.candidate}', exists: false }, { candidate: null }, true],
    [{ value: '${mode}', equals: 'forced' }, {}, false],
  ])('%j with %j: %s', (condition, found, holds) => {
    const run = facts(found)(plan([condition as never])).until();
    expect(run.begun.includes('maybe:apply')).toBe(holds);
    expect(run.step('maybe').outcome).toBe(holds ? 'changed' : 'skipped');
    expect(run.step('maybe').summary.includes('its condition does not hold')).toBe(!holds);
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it('on a fact that nobody gave goes back, and does not guess', () => {
    const run = facts({})(plan([{ value: '${steps.confirm.lastCommitAt}', equals: 'x' }])).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.state.failure).toMatch(/steps.confirm.lastCommitAt is not there/);
  });

  it('on a fact of a step that was left out on purpose leaves out too', () => {
    const run = new Run(planOf([{ id: 'dns', uses: 'route53.change', included: false }, command('first'), command('maybe', { when: [{ value: '${steps.dns.insyncMs}', atLeast: 0 }] })])).until();
    expect(run.step('maybe')).toMatchObject({ outcome: 'skipped' });
  });
});

describe('budgets', () => {
  const stage = (more: Partial<PlannedStep>) => planOf([{ id: 'stage', uses: 'secret.stage', attempts: 5, ...more }]);
  const lose = (run: Run): Run => run.bad('unknown').until('stage:inspect').good({ satisfied: false });

  it('a retry waits as long as the runbook says', () => {
    const run = lose(new Run(stage({ retryDelayMs: 500 })).until('stage:apply'));
    expect(run.next()).toMatchObject({ type: 'delay', untilMs: run.atMs + 500 });
    run.send({ type: 'waitBegan', step: 0 });
    expect(names(run)).toEqual(['settle']);
    run.send({ type: 'delayOver', step: 0 });
    expect(names(run)).toEqual(['stage:apply']);
  });

  it('no attempt is begun by itself after the deadline of the step', () => {
    const run = new Run(stage({ deadlineMs: 50 })).until('stage:apply');
    run.atMs += 100;
    lose(run).until();
    expect(run.begun.filter((name) => name === 'stage:apply')).toHaveLength(1);
    expect(run.state.failure).toMatch(/deadline of 50 ms is over/);
    expect(run.begun.at(-1)).toBe('stage:undo');
  });

  it('all steps together use no more retries than the run has', () => {
    const run = new Run(planOf([{ id: 'stage', uses: 'secret.stage', attempts: 9 }], { retryBudget: 2 })).until('stage:apply');
    for (let round = 0; round < 2; round += 1) lose(run);
    lose(run).until();
    expect(run.begun.filter((name) => name === 'stage:apply')).toHaveLength(3);
    expect(run.state.failure).toMatch(/retry budget of the run \(2\) is used up/);
  });
});

describe('facts that nobody found out', () => {
  // Past the point of no return, so that a step parks and can be skipped.
  const plan = planOf([
    { id: 'fence', uses: 'postgres.fence' }, { id: 'promote', uses: 'postgres.promote' }, { id: 'dns', uses: 'route53.change', with: { datastore: 'shop' } },
    command('uses', { with: { argv: ['echo', '${steps.dns.changeId}'] } }), command('after', { with: { argv: ['${steps.uses.x}'] } }), { id: 'tell', uses: 'notify.send', with: { title: 't', text: '${steps.dns.changeId}' } },
  ]);
  const skipped = (): Run => {
    const run = new Run(plan).until('dns:apply').bad('failed').until();
    expect(say(run, 'skip', { step: 'dns', attempt: run.step('dns').attempt })).toBeNull();
    return run.operator('skip', { step: 'dns', attempt: run.step('dns').attempt });
  };

  it('of a skipped step do not feed a guard silently: the step that works with them stops and says so', () => {
    const run = skipped();
    expect(run.next()).toMatchObject({ type: 'park', why: expect.stringMatching(/facts that nobody found out \(dns: it was skipped by operator\)/) });
    expect(say(run, 'retry', { step: 'uses', attempt: 1 })).toMatch(/has not begun/);
    expect(parkedSteps(run.plan, run.state)).toMatchObject([{ step: 'uses', actions: ['markDone', 'skip', 'override'], rule: 'tainted-input' }]);
  });

  it('go on by the exact rule, which taints what comes of it and stands in the record', () => {
    const run = skipped();
    expect(say(run, 'override', { step: 'uses', attempt: 1, rule: 'max-lag' })).toMatch(/because of the rule tainted-input, not max-lag/);
    expect(say(run, 'override', { step: 'uses', attempt: 1, rule: 'everything' })).toMatch(/names the rule it breaks, one of: two-facts/);
    run.operator('override', { step: 'uses', attempt: 1, rule: 'tainted-input' });
    expect(say(run, 'override', { step: 'uses', attempt: 1, rule: 'tainted-input' })).not.toBeNull();
    run.until('uses:apply').good().good();
    expect(run.step('uses').tainted).toMatch(/worked with dns/);
    expect(run.step('uses').checks).toContainEqual(expect.objectContaining({ rule: 'tainted-input', overridden: 'operator: because' }));
    expect(run.next()).toMatchObject({ type: 'park', step: 4 });
    expect(run.state.decisions.at(-1)).toMatchObject({ action: 'override', rule: 'tainted-input', by: 'operator' });
  });

  it('may be given later, with evidence; then it goes on', () => {
    const run = skipped();
    const facts = { changeId: 'C1', insyncMs: 3 };
    expect(say(run, 'markDone', { step: 'dns', attempt: run.step('dns').attempt, evidence: 'console', facts: { nix: 1 } })).toMatch(/yields no fact nix/);
    expect(say(run, 'markDone', { step: 'dns', attempt: run.step('dns').attempt, evidence: 'console', facts })).toBeNull();
    run.operator('markDone', { step: 'dns', attempt: run.step('dns').attempt, evidence: 'console', facts });
    expect(names(run)).toEqual(['uses:guard']);
    expect(run.state.facts['dns']).toMatchObject(facts);
  });

  it('may be told to people', () => {
    const run = skipped();
    run.operator('skip', { step: 'uses', attempt: 1 }).operator('skip', { step: 'after', attempt: 1 }).until();
    expect(run.begun).toContain('tell:apply');
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it('declared done without them taints as a skip does; the declared effect is in the ledger with who declared it', () => {
    const run = new Run(planOf([{ id: 'fence', uses: 'postgres.fence' }, { id: 'promote', uses: 'postgres.promote' }, { id: 'loss', uses: 'postgres.measureLoss', with: { datastore: 'shop', forkLsn: '${steps.promote.forkLsn}' } }])).until('promote:apply');
    run.bad('unknown').until('promote:inspect').bad('failed').until();
    run.operator('markDone', { step: 'promote', attempt: run.step('promote').attempt, evidence: 'pg_is_in_recovery() is false' });
    expect(run.state.ledger.at(-1)).toMatchObject({ step: 'promote', declaredBy: 'operator', after: 'pg_is_in_recovery() is false' });
    expect(run.next()).toMatchObject({ type: 'park', why: expect.stringMatching(/promote: it was declared done by operator without saying what it found/) });
  });
});

describe('rules broken on purpose', () => {
  const checks = (rule?: 'max-lag') => [{ name: 'lag', ok: false, expected: 'small', found: 'large', ...(rule === undefined ? {} : { rule }) }];
  const plan = planOf([{ id: 'confirm', uses: 'postgres.health' }, command('act')]);
  const started = (): Run => {
    const run = new Run(plan);
    run.state = { ...run.state, overrides: [{ rule: 'max-lag', by: 'ann', reason: 'disk dies' }] };
    return run;
  };

  it('let pass the checks of that rule only, and say so', () => {
    const run = started().until('confirm:guard').good({ checks: checks('max-lag') });
    expect(run.state.status).toBe('running');
    expect(run.step('confirm').checks).toContainEqual(expect.objectContaining({ ok: true, overridden: 'ann: disk dies' }));
    const other = started().until('confirm:guard').good({ checks: checks() });
    expect(other.state.status).toBe('undoing');
  });

  it('nothing is broken that was not named', () => {
    expect(new Run(plan).until('confirm:guard').good({ checks: checks('max-lag') }).state).toMatchObject({ status: 'undoing', failure: expect.stringContaining('[rule max-lag]') });
  });

  it('a verification after the point of no return goes on by the rule that keeps it from holding, not by another', () => {
    const late = new Run(planOf([{ id: 'fence', uses: 'postgres.fence' }, { id: 'promote', uses: 'postgres.promote' }, { id: 'lag', uses: 'postgres.verifyLag' }])).until('lag:verify').good({ checks: checks('max-lag') });
    const { attempt } = late.step('lag');
    expect(say(late, 'override', { step: 'lag', attempt, rule: 'cooldown' })).toMatch(/does not wait because of the rule cooldown/);
    expect(say(late, 'override', { step: 'lag', attempt: attempt + 1, rule: 'max-lag' })).toMatch(/is stale/);
    late.operator('override', { step: 'lag', attempt, rule: 'max-lag' });
    expect(late.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
    const hard = new Run(late.plan).until('lag:verify').good({ checks: checks() });
    expect(say(hard, 'override', { step: 'lag', attempt: 1, rule: 'max-lag' })).toMatch(/no rule that could be broken/);
  });
});

describe('a forced failover with fewer than two facts', () => {
  const two = [{ name: 'down', ok: false, expected: 'two facts', found: 'one', rule: 'two-facts' as const }];
  const plan = planOf([{ id: 'confirm', uses: 'postgres.health' }, { id: 'approve', uses: 'operator.approval', with: { count: 0 } }, { id: 'fence', uses: 'postgres.fence' }, { id: 'promote', uses: 'postgres.promote' }], { mode: 'forced' });
  const started = (mayLoseMs: number | null): Run => {
    const run = new Run(plan);
    run.state = { ...run.state, overrides: [{ rule: 'two-facts', by: 'requester', reason: 'site is dark' }] };
    return run.good({ checks: two, facts: { primary: 'a', candidate: 'b', mayLoseMs } }).until('approval');
  };
  const bound = (run: Run) => {
    const { plan: hash, observed } = approvalNeeded(run.plan, run.state)!;
    return { by: 'bob', plan: hash, observed };
  };

  it('asks for an approval even where the policy asks for none, and that it accepts the loss', () => {
    const run = started(4000);
    expect(approvalNeeded(run.plan, run.state)).toMatchObject({ needed: 1, loss: { mayLoseMs: 4000 } });
    expect(say(run, 'approve', bound(run))).toMatch(/4000 ms of acknowledged writes may be lost/);
    expect(say(run, 'approve', { ...bound(run), acceptLossMs: 3999 })).toMatch(/4000 ms/);
    expect(say(run, 'approve', { ...bound(run), acceptLossMs: '5000' })).toMatch(/number of milliseconds/);
    expect(say(run, 'approve', { ...bound(run), acceptLossMs: 10_000 })).toBeNull();
    expect(say(started(null), 'approve', { ...bound(started(null)), acceptLossMs: 5 })).toMatch(/"unknown"/);
  });

  it('goes back when by then more may be lost than was accepted', () => {
    const again = (mayLoseMs: number): Run => {
      const run = started(4000);
      run.operator('approve', { ...bound(run), acceptLossMs: 10_000 }).until('preflight');
      const action = run.next();
      if (action.type !== 'preflight') throw new Error('no second look');
      return run.send({ type: 'preflightDone', results: action.calls.map(({ step, phase }) => ({ step, phase, error: null, result: step === 0 ? { summary: '', checks: two, facts: { primary: 'a', candidate: 'b', mayLoseMs } } : goodResult(run.plan.steps[step]!.uses, phase) })) });
    };
    expect(again(9000).state.status).toBe('running');
    expect(again(11_000).state).toMatchObject({ status: 'undoing', failure: expect.stringMatching(/a loss of 10000 ms was accepted; by now 11000 ms/) });
  });

  it('is refused where no approval comes after the finding', () => {
    const bare = new Run(planOf([{ id: 'confirm', uses: 'postgres.health' }, { id: 'promote', uses: 'postgres.promote' }], { mode: 'forced' }));
    bare.state = { ...bare.state, overrides: [{ rule: 'two-facts', by: 'r', reason: 'x' }] };
    expect(bare.good({ checks: two, facts: { mayLoseMs: 1 } }).state).toMatchObject({ status: 'undoing', failure: expect.stringMatching(/put a step operator.approval/) });
  });
});

describe('an approval', () => {
  const plan = planOf([{ id: 'confirm', uses: 'postgres.health' }, { id: 'approve', uses: 'operator.approval', with: { count: 2 } }, { id: 'read-only', uses: 'postgres.readOnly' }, { id: 'promote', uses: 'postgres.promote' }]);

  it('is bound to the plan and to what was found', () => {
    const run = new Run(plan).until('approval');
    const waiting = approvalNeeded(run.plan, run.state)!;
    expect(say(run, 'approve', { by: 'bob' })).toMatch(/it does not say: look again/);
    expect(say(run, 'approve', { by: 'bob', plan: 'other', observed: waiting.observed })).toMatch(/it says something else/);
    expect(say(run, 'approve', { by: 'bob', plan: waiting.plan, observed: waiting.observed })).toBeNull();
    const elsewhere = new Run(plan).until('confirm:verify').good({ facts: { primary: 'a', candidate: 'c' } }).until('approval');
    expect(observedDigest(elsewhere.plan, elsewhere.state)).not.toBe(waiting.observed);
    expect(say(elsewhere, 'approve', { by: 'bob', plan: waiting.plan, observed: waiting.observed })).toMatch(/bound to what was looked at/);
  });

  it('is given only by those whom the service names', () => {
    const run = new Run({ ...plan, approval: { count: 2, expiresMs: 1000, approvers: ['Bob', 'Cid'] } }).until('approval');
    const { plan: hash, observed } = approvalNeeded(run.plan, run.state)!;
    expect(say(run, 'approve', { by: 'eve', plan: hash, observed })).toMatch(/not among the approvers of this service: Bob, Cid/);
    expect(say(run, 'reject', { by: 'eve' })).toMatch(/not among the approvers/);
    expect(say(run, 'approve', { by: 'bob', plan: hash, observed })).toBeNull();
  });

  it('does not carry over to other roles: found otherwise right before the change, it goes back', () => {
    const run = new Run(plan).until('preflight').preflight().until('preflight');
    const action = run.next();
    if (action.type !== 'preflight') throw new Error('no second look');
    run.send({ type: 'preflightDone', results: action.calls.map(({ step, phase }) => ({ step, phase, error: null, result: step === 0 ? { ...goodResult('postgres.health', 'guard'), facts: { primary: 'a', candidate: 'c' } } : goodResult(run.plan.steps[step]!.uses, phase) })) });
    expect(run.state).toMatchObject({ status: 'undoing', failure: expect.stringMatching(/candidate was "b" when this was decided and is "c" now/) });
  });
});

describe('a refused attempt', () => {
  it('changes nothing but the record, which does not grow without bound', () => {
    const run = new Run(planOf([command('act')]));
    const before = run.state;
    for (let round = 0; round < 150; round += 1) run.send({ type: 'refused', action: 'resume', request: { by: 'x'.repeat(5000), reason: 'r' }, why: 'it is not paused' });
    expect(run.state.refusals).toHaveLength(100);
    expect(run.state.refusals[0]!.by).toHaveLength(200);
    expect({ ...run.state, refusals: [] }).toEqual(before);
  });
});

describe('a nested run', () => {
  const plan = planOf([{ id: 'stage', uses: 'secret.stage' }, { id: 'inner', uses: 'runbook.run', with: { runbook: 'other' } }, command('after')]);
  const under = (): Run => {
    const run = new Run(plan).until('inner:apply');
    run.begin();
    return run;
  };
  const ends = (result: Record<string, unknown>): Run => under().send({ type: 'phaseDone', step: 1, phase: 'apply', result: { outcome: 'changed', summary: 's', ...result } });

  it('that passed a point of no return makes this one go forward only', () => {
    expect(ends({ pointOfNoReturn: true }).state.pastPointOfNoReturn).toBe(true);
    const run = ends({ pointOfNoReturn: true }).until('after:apply').bad('failed').until();
    expect(run.step('after').status).toBe('parked');
    expect(run.begun).not.toContain('stage:undo');
  });

  it('that changed nothing for good leaves it free to go back', () => {
    const run = ends({}).until('after:apply').bad('failed').until();
    expect(run.begun.at(-1)).toBe('stage:undo');
  });

  it('while it is under way nobody stops the outer one: nobody knows whether it has promoted', () => {
    const run = under();
    expect(say(run, 'abort')).toMatch(/point of no return/);
    expect(reduce(run.plan, run.state, { type: 'cancelRequested', atMs: 1 })).toBe(run.state);
  });

  it('that promoted and failed after it, or was rejected by people, is never undone from outside: the outer one waits for a person', () => {
    const run = under().send({ type: 'phaseFailed', step: 1, phase: 'apply', how: 'failed', error: 'rejected by ann', promoted: true }).until();
    expect(run.step('inner')).toMatchObject({ status: 'parked', error: 'rejected by ann' });
    expect(run.state).toMatchObject({ pastPointOfNoReturn: true, status: 'running' });
    expect(run.begun).not.toContain('stage:undo');
    expect(say(run, 'abort')).toMatch(/point of no return/);
  });

  it('that failed has undone itself: the outer one goes back', () => {
    const run = under().send({ type: 'phaseFailed', step: 1, phase: 'apply', how: 'failed', error: 'refused' }).until();
    expect(run.begun.at(-1)).toBe('stage:undo');
  });

  it('that was terminated is unknown: an operator looks, and nothing is undone meanwhile', () => {
    const run = under().send({ type: 'phaseFailed', step: 1, phase: 'apply', how: 'unknown', error: 'terminated' });
    expect(run.next()).toMatchObject({ type: 'park', step: 1 });
    expect(say(run, 'abort')).toMatch(/may have begun/);
    expect(say(run, 'markDone', { step: 'inner', attempt: 1, evidence: 'looked' })).toBeNull();
  });
});

describe('going over to forced mode', () => {
  it('when the primary is lost with writes refused: guards and approvals of the forced mode, its fence, and nothing twice', async () => {
    const plan = await shippedPlan('failover', 'planned', 1);
    const run = new Run(plan).until('await-replay:verify');
    run.begin();
    expect(say(run, 'switchToForced')).toBeNull();
    run.operator('switchToForced', { reason: 'the primary burns' });
    // The wait for replay is ended first.
    expect(names(run)).toEqual(['settle']);
    run.send({ type: 'phaseFailed', step: run.index('await-replay'), phase: 'verify', how: 'unknown', error: 'cancelled' });
    expect(names(run)).toEqual(['switch']);
    run.send({ type: 'switched' });
    expect(run.state).toMatchObject({ mode: 'forced', status: 'running', failure: null, preflightDone: false });
    const before = run.begun.length;
    run.until();
    const forced = run.begun.slice(before);
    expect(forced.filter((name) => name.endsWith(':apply'))).toEqual(expect.arrayContaining(['fence-first:apply', 'promote:apply', 'swap-secret:apply']));
    expect(forced).toContain('confirm:guard');
    // Prepared before and still good.
    expect(forced).not.toContain('stage-secret:apply');
    expect(forced).not.toContain('read-only:apply');
    expect(run.state.decisions.map(({ action }) => action)).toEqual(['approve', 'switchToForced', 'approve']);
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it('also when it was going back already because the primary was lost: what was undone is prepared anew', async () => {
    const run = new Run(await shippedPlan('failover', 'planned', 0)).until('await-replay:verify').bad('failed');
    while (run.next().type === 'phase' && !run.begun.includes('stage-secret:undo')) run.good();
    run.operator('switchToForced').until();
    expect(run.begun.filter((name) => name === 'stage-secret:apply')).toHaveLength(2);
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it('is refused after the point of no return, twice, for what people stopped, and where there is no forced mode', async () => {
    const plan = await shippedPlan('failover', 'planned', 1);
    expect(say(new Run(plan).until('swap-secret:apply'), 'switchToForced')).toMatch(/point of no return/);
    expect(say(new Run(plan).until('approval').operator('abort'), 'switchToForced')).toMatch(/stopped on purpose/);
    const forced = await shippedPlan('failover', 'forced', 1);
    expect(say(new Run(forced).until('approval'), 'switchToForced')).toMatch(/forced already/);
    expect(say(new Run(await shippedPlan('failback', 'planned', 1)).until('approval'), 'switchToForced')).toMatch(/no forced mode/);
    const promoting = new Run(plan).until('promote:apply');
    promoting.begin();
    expect(say(promoting, 'switchToForced')).toMatch(/promotion may have begun/);
  });
});

describe('after a nested run has promoted', () => {
  const plan = planOf([
    { id: 'stage', uses: 'secret.stage' }, { id: 'inner', uses: 'runbook.run', with: { runbook: 'x' } }, { id: 'confirm', uses: 'postgres.health' },
    { id: 'approve', uses: 'operator.approval', with: { count: 2 } }, { id: 'fence', uses: 'postgres.fence' }, { id: 'promote', uses: 'postgres.promote' },
  ]);
  const promoted = (): Run => {
    const run = new Run(plan).until('inner:apply').good({ pointOfNoReturn: true });
    expect(run.state.pastPointOfNoReturn).toBe(true);
    return run.until('approval');
  };

  it('a rejected or expired approval ends the run and takes nothing back', () => {
    const rejected = promoted().operator('reject');
    expect(rejected.next()).toEqual({ type: 'finish', outcome: 'denied' });
    expect(rejected.state.failure).toMatch(/nothing is undone: the point of no return was passed/);
    const run = promoted();
    expect(run.send({ type: 'approvalSettled', step: run.index('approve'), outcome: 'expired' }).next()).toEqual({ type: 'finish', outcome: 'denied' });
  });

  it('a guard that fails on the second look parks before the next change; a retry asks them all again', () => {
    const run = promoted();
    run.until('preflight').preflight('confirm');
    expect(run.state.status).toBe('running');
    expect(run.next()).toMatchObject({ type: 'park', step: run.index('fence'), why: expect.stringMatching(/confirm: holds/) });
    expect(say(run, 'retry', { step: 'fence', attempt: run.step('fence').attempt })).toBeNull();
    run.operator('retry', { step: 'fence', attempt: run.step('fence').attempt });
    expect(run.next().type).toBe('preflight');
    run.preflight();
    expect(run.next()).toMatchObject({ type: 'phase', step: run.index('fence'), phase: 'inspect' });
  });
});

describe('a decision that was taken on something else', () => {
  it('a retry of a wait or an approval whose inputs do not fit looks at them again, and never goes on with a default', () => {
    const wait = new Run(planOf([{ id: 'ask', uses: 'canary.verify' }, { id: 'wait', uses: 'operator.wait', with: { duration: '${steps.ask.lost}' } }])).until('ask:verify').good({ facts: { lost: 'many' } });
    expect(wait.next()).toMatchObject({ type: 'park', why: expect.stringMatching(/its inputs do not fit/) });
    wait.operator('retry', { step: 'wait', attempt: 1 });
    expect(wait.next()).toMatchObject({ type: 'park', why: expect.stringMatching(/its inputs do not fit/) });
    const approval = new Run(planOf([{ id: 'ask', uses: 'canary.verify' }, { id: 'approve', uses: 'operator.approval', with: { count: '${steps.ask.lost}' } }], { approval: { count: 0, expiresMs: 1000 } })).until('ask:verify').good({ facts: { lost: 'many' } });
    approval.operator('retry', { step: 'approve', attempt: 1 });
    expect(approval.next()).toMatchObject({ type: 'park', step: 1 });
  });

  it('an approval does not count once other facts were declared', () => {
    const run = new Run(planOf([{ id: 'dns', uses: 'route53.change' }, { id: 'approve', uses: 'operator.approval', with: { count: 2 } }, command('act')]));
    run.until('dns:apply');
    run.state = { ...run.state, steps: run.state.steps.map((step) => (step.id === 'dns' ? { ...step, status: 'parked', error: 'x' } : step)) };
    run.operator('skip', { step: 'dns', attempt: 1 }).until('approval').operator('approve', { by: 'bob' });
    const before = observedDigest(run.plan, run.state);
    const request = { step: 'dns', attempt: run.step('dns').attempt, evidence: 'console', facts: { changeId: 'C1', insyncMs: 3 } };
    expect(say(run, 'markDone', request)).toBeNull();
    run.operator('markDone', request);
    expect(observedDigest(run.plan, run.state)).not.toBe(before);
    expect(approvalNeeded(run.plan, run.state)).toMatchObject({ needed: 2, given: [] });
  });

  it('an approval after the fence does not accept what the fence would lose', () => {
    const run = new Run(planOf([{ id: 'confirm', uses: 'postgres.health' }, { id: 'fence', uses: 'postgres.fence' }, { id: 'approve', uses: 'operator.approval' }, { id: 'promote', uses: 'postgres.promote' }], { mode: 'forced' }));
    run.state = { ...run.state, overrides: [{ rule: 'two-facts', by: 'r', reason: 'x' }] };
    expect(run.good({ checks: [{ name: 'down', ok: false, expected: 'two facts', found: 'one', rule: 'two-facts' }], facts: { mayLoseMs: 1 } }).state).toMatchObject({ status: 'undoing', failure: expect.stringMatching(/between this one and the first/) });
  });

  it("an operator's retry begins the step's deadline anew", () => {
    const run = new Run(planOf([{ id: 'fence', uses: 'postgres.fence' }, { id: 'promote', uses: 'postgres.promote' }, { id: 'dns', uses: 'route53.change', deadlineMs: 1000 }])).until('dns:apply');
    run.atMs += 5000;
    run.bad('unknown').until('dns:inspect').good().until();
    expect(run.next()).toMatchObject({ type: 'park', why: expect.stringMatching(/deadline of 1000 ms is over/) });
    run.operator('retry', { step: 'dns', attempt: run.step('dns').attempt });
    expect(deadlineFrom(run.step('dns'))).toBe(run.atMs);
    run.until('dns:apply').bad('unknown').until('dns:inspect').good();
    expect(run.next()).toMatchObject({ type: 'phase', phase: 'apply' });
  });
});
