import { beforeAll, describe, expect, it } from 'vitest';
import { approvalNeeded, NOT_BEGUN, refusal, stepInput, type Plan } from '../../src/model/execution.ts';
import { Run, badChecks, planOf, shippedPlan } from './execution-plans.ts';

let planned: Plan;
let forced: Plan;
beforeAll(async () => {
  [planned, forced] = await Promise.all([shippedPlan('failover', 'planned'), shippedPlan('failover', 'forced')]);
});

/** Read-only, then promotion, then a swap: the least that has everything. */
function small(): Plan {
  return planOf([
    { id: 'stage', uses: 'secret.stage' },
    { id: 'canary', uses: 'canary.start' },
    { id: 'read-only', uses: 'postgres.readOnly' },
    { id: 'promote', uses: 'postgres.promote' },
    { id: 'swap', uses: 'secret.swap' },
    { id: 'tell', uses: 'notify.send', with: { title: 'done' } },
  ]);
}

describe('the order of things', () => {
  it('a planned failover begins its phases in the order of the runbook, once each', () => {
    const run = new Run(planned).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
    expect(new Set(run.begun).size).toBe(run.begun.length);
    const applies = run.begun.filter((name) => name.endsWith(':apply'));
    expect(applies).toEqual(['stage-secret:apply', 'pause-controller:apply', 'checkpoint:apply', 'canary:apply', 'read-only:apply', 'promote:apply', 'swap-secret:apply', 'repoint:apply', 'dns:apply', 'fence:apply', 'rollout:apply', 'rollout-http:apply', 'resume-controller:apply', 'tell:apply']);
    expect(run.step('fence-first').outcome).toBe('skipped');
    expect(run.state.pastPointOfNoReturn).toBe(true);
  });

  it('a forced failover fences before it promotes and never makes anything read-only', () => {
    const run = new Run(forced).until();
    expect(run.begun).not.toContain('read-only:apply');
    expect(run.begun.indexOf('fence-first:apply')).toBeGreaterThan(-1);
    expect(run.begun.indexOf('fence-first:verify')).toBeLessThan(run.begun.indexOf('promote:apply'));
  });

  it('between read-only and promotion nothing is done that could be done before', () => {
    const run = new Run(planned).until();
    const from = run.begun.indexOf('read-only:apply');
    expect(run.begun.slice(from, run.begun.indexOf('promote:apply') + 1)).toEqual(['read-only:apply', 'await-replay:verify', 'promote:apply']);
  });

  it('what was done in a hurry is verified as soon as there is time, and before the end', () => {
    const run = new Run(planned).until();
    const from = run.begun.indexOf('swap-secret:apply');
    expect(run.begun.slice(from, from + 5)).toEqual(['swap-secret:apply', 'read-only:verify', 'promote:verify', 'swap-secret:verify', 'repoint:inspect']);
    const last = new Run(planOf([{ id: 'stage', uses: 'secret.stage' }, { id: 'read-only', uses: 'postgres.readOnly' }])).until();
    expect(last.begun.at(-1)).toBe('read-only:verify');
  });

  it('each effect is in the ledger with before, after, epoch and attempt', () => {
    const run = new Run(small()).until();
    expect(run.effects()).toEqual(['stage', 'canary', 'read-only', 'promote', 'swap', 'tell'].map((step) => `${step}:apply:changed`));
    expect(run.state.ledger[0]).toMatchObject({ uses: 'secret.stage', epoch: 7, attempt: 1, before: 'before', after: 'after' });
  });

  it('what inspection finds done is shown as already satisfied, and verified', () => {
    const run = new Run(small()).until('stage:inspect').good({ satisfied: true });
    expect(run.next()).toMatchObject({ type: 'phase', phase: 'verify' });
    run.good();
    expect(run.step('stage')).toMatchObject({ status: 'done', outcome: 'already-satisfied', changed: false });
    expect(run.effects()).toEqual([]);
  });

  it('inputs are filled from facts; what is not known yet is left out', () => {
    const run = new Run(planned);
    expect(stepInput(planned, run.state, run.index('read-only'))).toEqual({ value: { datastore: 'shop' }, missing: ['steps.confirm.primary', 'steps.confirm.candidate'] });
    run.until('read-only:apply');
    expect(stepInput(planned, run.state, run.index('read-only'))).toEqual({ value: { datastore: 'shop', primary: 'a', candidate: 'b' }, missing: [] });
  });

  it('a dry run ends after the guards and begins nothing that changes', () => {
    const run = new Run(planned, { dryRun: true }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'checked' });
    expect(run.begun.filter((name) => /:(apply|undo)$/.test(name))).toEqual([]);
  });
});

describe('guards', () => {
  it('all of them are asked before the first change and again right before writes are refused', () => {
    const run = new Run(planned).until('preflight');
    const asked = (): string[] => {
      const action = run.next();
      return action.type === 'preflight' ? action.calls.filter(({ phase }) => phase === 'guard').map(({ step }) => planned.steps[step]!.id) : [];
    };
    expect(run.effects()).toEqual([]);
    expect(asked()).toEqual(expect.arrayContaining(['stage-secret', 'read-only', 'await-replay', 'promote', 'swap-secret', 'dns', 'fence', 'rollout']));
    run.preflight().until('preflight');
    expect(run.begun.at(-1)).toBe('canary:verify');
    expect(run.begun).not.toContain('read-only:apply');
    expect(asked()).toEqual(expect.arrayContaining(['read-only', 'promote', 'swap-secret', 'dns']));
    run.preflight();
    expect(run.next()).toEqual({ type: 'phase', step: run.index('read-only'), phase: 'apply' });
  });

  it('forced: they are asked again right before the old primary is stopped for good', () => {
    const run = new Run(forced).until('preflight').preflight().until('preflight');
    expect(run.begun.at(-1)).toBe('canary:verify');
    expect(run.begun.some((name) => name.startsWith('fence-first'))).toBe(false);
  });

  it('one that does not hold at first: nothing was changed and nothing is undone', () => {
    const run = new Run(planned).until('preflight').preflight('dns').until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.state.failure).toBe('refused before the first change: dns: holds: expected it, found something else');
    expect(run.state.ledger).toEqual([]);
  });

  it('one that cannot be asked counts as one that does not hold', () => {
    const run = new Run(planned).until('preflight');
    run.send({ type: 'preflightDone', results: [{ step: run.index('dns'), phase: 'guard', result: null, error: 'no answer in time' }] }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.state.failure).toContain('dns (guard): no answer in time');
  });

  it('one that does not hold the second time: what was done is undone in reverse order, writes were never refused', () => {
    const run = new Run(planned).until('preflight').preflight().until('preflight').preflight('promote').until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.begun.filter((name) => name.endsWith(':undo'))).toEqual(['canary:undo', 'pause-controller:undo', 'stage-secret:undo']);
    expect(run.begun).not.toContain('read-only:apply');
  });

  it('are asked again when an operator paused between them and the refusal of writes', () => {
    const run = new Run(planned).until('preflight').preflight().until('preflight').preflight();
    run.operator('pause');
    expect(run.next()).toMatchObject({ type: 'park', why: 'paused by an operator' });
    run.operator('resume');
    expect(run.next().type).toBe('preflight');
  });

  it("that can only hold after another step are asked with it done, not before", () => {
    const plan = planOf([{ id: 'rebuild', uses: 'postgres.rebuildStandby', with: { datastore: 'shop', node: 'a' } }, { id: 'confirm', uses: 'postgres.health', after: 'rebuild' }, { id: 'read-only', uses: 'postgres.readOnly' }]);
    const run = new Run(plan).until('preflight');
    const first = run.next();
    expect(first.type === 'preflight' && first.calls.map(({ step }) => plan.steps[step]!.id)).not.toContain('confirm');
    run.preflight().until('preflight');
    expect(run.begun).toContain('confirm:guard');
  });
});

describe('going back', () => {
  it('a change that fails is undone too, then all before it in reverse order', () => {
    const run = new Run(small()).until('read-only:apply').bad('failed', 'cannot').until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.begun.slice(-3)).toEqual(['read-only:undo', 'canary:undo', 'stage:undo']);
    expect(run.effects().slice(-4)).toEqual(['read-only:apply:failed', 'read-only:undo:changed', 'canary:undo:changed', 'stage:undo:changed']);
    expect(run.state.writesRefusedSinceMs).toBeNull();
  });

  it('what was found already satisfied is not ours to undo', () => {
    const run = new Run(small()).until('stage:inspect').good({ satisfied: true }).until('read-only:apply').bad('failed').until();
    expect(run.begun).not.toContain('stage:undo');
    expect(run.begun).toContain('canary:undo');
  });

  it('a verification that fails undoes the change it looked at', () => {
    const run = new Run(small()).until('canary:verify').good({ checks: badChecks }).until();
    expect(run.begun.slice(-2)).toEqual(['canary:undo', 'stage:undo']);
    expect(run.state.failure).toBe('step canary: verification: holds: expected it, found something else');
  });

  it('an undo that fails parks without a deadline; the operator tries again, or says with evidence that it is done', () => {
    const run = new Run(small()).until('read-only:apply').bad('failed').bad('unknown', 'no answer').until();
    expect(run.next()).toEqual({ type: 'park', step: run.index('read-only'), why: 'undo: no answer', deadlineMs: null });
    const request = { by: 'operator', reason: 'r', step: 'read-only', attempt: run.step('read-only').attempt };
    expect(refusal(run.plan, run.state, 'skip', request)).toMatch(/may not be skipped/);
    expect(refusal(run.plan, run.state, 'retry', request)).toBeNull();
    run.operator('retry', request);
    expect(run.next()).toMatchObject({ type: 'phase', phase: 'undo' });
    run.bad('unknown').operator('markDone', { step: 'read-only', attempt: run.step('read-only').attempt, evidence: 'looked by hand' }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.step('read-only').status).toBe('undone');
    expect(run.state.writesRefusedSinceMs).toBeNull();
    expect(run.begun.slice(-2)).toEqual(['canary:undo', 'stage:undo']);
  });

  it('a change that an earlier, lost try made is undone, though the second try found it there', () => {
    const run = new Run(small()).until('read-only:apply').bad('unknown').good({ satisfied: false }).good({ outcome: 'already-satisfied' });
    run.send({ type: 'cancelRequested' }).until();
    expect(run.begun).toContain('read-only:undo');
  });
});

describe('an answer that was lost', () => {
  it('is looked for; what inspection shows is a change, not tried again', () => {
    const run = new Run(small()).until('stage:apply').bad('unknown');
    expect(run.next()).toMatchObject({ type: 'phase', phase: 'inspect' });
    run.good({ satisfied: true });
    expect(run.effects()).toEqual(['stage:apply:unknown', 'stage:apply:changed']);
    run.until();
    expect(run.begun.filter((name) => name === 'stage:apply')).toHaveLength(1);
    expect(run.step('stage')).toMatchObject({ status: 'done', outcome: 'changed' });
  });

  it('is tried again within the budget when inspection does not show it, then everything goes back', () => {
    const run = new Run(small()).until('read-only:apply');
    run.bad('unknown').good({ satisfied: false }).bad('unknown').good({ satisfied: false }).until();
    expect(run.begun.filter((name) => name === 'read-only:apply')).toHaveLength(2);
    expect(run.begun.slice(-3)).toEqual(['read-only:undo', 'canary:undo', 'stage:undo']);
  });

  it('parks when it cannot even be looked at, until the deadline for refused writes', () => {
    const run = new Run(small()).until('read-only:apply').bad('unknown');
    const refusedAt = run.state.writesRefusedSinceMs!;
    run.bad('unknown', 'nothing answers');
    expect(run.next()).toMatchObject({ type: 'park', step: run.index('read-only'), deadlineMs: refusedAt + 60_000 });
    run.send({ type: 'deadManExpired' }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.begun).toContain('read-only:undo');
    expect(run.state.failure).toMatch(/longer than the deadline of 60000 ms/);
  });

  it('of a kind that cannot be inspected is not repeated: everything goes back', () => {
    const run = new Run(small()).until('canary:apply').bad('unknown').until();
    expect(run.begun.filter((name) => name === 'canary:apply')).toHaveLength(1);
    expect(run.begun.slice(-2)).toEqual(['canary:undo', 'stage:undo']);
  });

  it('that arrives after a cancellation changes nothing about going back', () => {
    const run = new Run(small()).until('read-only:apply');
    const { step, phase } = run.begin();
    run.send({ type: 'cancelRequested' }).send({ type: 'phaseFailed', step, phase, how: 'unknown', error: 'lost' }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'aborted' });
    expect(run.begun.slice(-3)).toEqual(['read-only:undo', 'canary:undo', 'stage:undo']);
  });

  it('and cannot be inspected while a cancellation arrives: writes are let in again, it does not park', () => {
    const run = new Run(small()).until('read-only:apply').bad('unknown');
    const { step, phase } = run.begin();
    run.send({ type: 'cancelRequested' }).send({ type: 'phaseFailed', step, phase, how: 'unknown', error: 'lost' });
    expect(run.next()).toMatchObject({ type: 'phase', step: run.index('read-only'), phase: 'undo' });
  });
});

describe('promotion', () => {
  const promoteEnds = ['failed', 'unknown'] as const;
  it.each(promoteEnds)('that %s and is seen to have happened is not applied again and nothing is undone', (how) => {
    const run = new Run(small()).until('promote:apply').bad(how).good({ satisfied: true }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
    expect(run.begun.filter((name) => name === 'promote:apply')).toHaveLength(1);
    expect(run.begun.filter((name) => name.endsWith(':undo'))).toEqual([]);
    expect(run.state.pastPointOfNoReturn).toBe(true);
  });

  it.each(promoteEnds)('that %s as often as it may be tried parks without a deadline; nothing is undone, abort and cancellation do nothing', (how) => {
    const run = new Run(small()).until('promote:apply');
    for (let attempt = 0; attempt < 3; attempt += 1) run.bad(how).good({ satisfied: false });
    expect(run.next()).toMatchObject({ type: 'park', step: run.index('promote'), deadlineMs: null });
    expect(refusal(run.plan, run.state, 'abort', { by: 'o', reason: 'r' })).toMatch(/promotion may have begun/);
    run.send({ type: 'cancelRequested' }).send({ type: 'deadManExpired' });
    expect(run.state.status).toBe('running');
    expect(run.next().type).toBe('park');
  });

  it('parked in doubt: retry looks first and, when it has not happened, tries again', () => {
    const run = new Run(small()).until('promote:apply');
    for (let attempt = 0; attempt < 3; attempt += 1) run.bad('unknown').good({ satisfied: false });
    run.operator('retry', { step: 'promote', attempt: run.step('promote').attempt });
    expect(run.begin().name).toBe('promote:inspect');
    run.send({ type: 'phaseDone', step: run.index('promote'), phase: 'inspect', result: { summary: 'a standby', satisfied: false } });
    expect(run.next()).toEqual({ type: 'phase', step: run.index('promote'), phase: 'apply' });
    run.until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it.each([NOT_BEGUN, 'stale-epoch', 'lock-unanswered', 'lock-missing'])('that says it never began (%s) goes back; after an earlier try, which may still land, it parks', (code) => {
    const never = { type: 'phaseFailed', phase: 'apply', how: 'failed', error: 'the primary lets writes in', code } as const;
    const run = new Run(small()).until('promote:apply');
    run.send({ ...never, step: run.begin().step }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'failed' });
    expect(run.begun.slice(-3)).toEqual(['read-only:undo', 'canary:undo', 'stage:undo']);
    for (const how of promoteEnds) {
      const again = new Run(small()).until('promote:apply').bad(how).good({ satisfied: false });
      again.send({ ...never, step: again.begin().step });
      expect(again.state.status).toBe('running');
      expect(again.next()).toMatchObject({ type: 'phase', phase: 'inspect' });
    }
  });

  it('whose verification fails is verified again by retry, never applied again', () => {
    const run = new Run(small()).until('promote:verify').good({ checks: badChecks });
    expect(run.next()).toMatchObject({ type: 'park' });
    run.operator('retry', { step: 'promote', attempt: 1 });
    expect(run.begin().name).toBe('promote:verify');
  });

  it('declared done by an operator is the point of no return', () => {
    const run = new Run(small()).until('promote:apply').bad('unknown').bad('unknown');
    run.operator('markDone', { step: 'promote', attempt: run.step('promote').attempt, evidence: 'select pg_is_in_recovery() says false' });
    expect(run.state.pastPointOfNoReturn).toBe(true);
    run.until('swap:apply').bad('failed');
    expect(run.next()).toMatchObject({ type: 'park', step: run.index('swap') });
    expect(run.begun.filter((name) => name.endsWith(':undo'))).toEqual([]);
  });

  it('after it a step that fails parks for an operator', () => {
    const run = new Run(small()).until('swap:apply').bad('failed', 'access denied');
    expect(run.next()).toEqual({ type: 'park', step: run.index('swap'), why: 'access denied', deadlineMs: null });
    run.send({ type: 'cancelRequested' });
    expect(run.next().type).toBe('park');
    run.operator('retry', { step: 'swap', attempt: 1 }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });
});

describe('cancellation', () => {
  it('before the point of no return undoes everything; the end is aborted', () => {
    const run = new Run(small()).until('promote:apply').send({ type: 'cancelRequested' }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'aborted' });
    expect(run.begun.slice(-3)).toEqual(['read-only:undo', 'canary:undo', 'stage:undo']);
    expect(run.begun).not.toContain('promote:apply');
  });

  it('while the promotion is under way changes nothing, and nothing after it', () => {
    const run = new Run(small()).until('promote:apply');
    const { step, phase } = run.begin();
    run.send({ type: 'cancelRequested' }).send({ type: 'phaseDone', step, phase, result: { summary: 's', outcome: 'changed' } }).send({ type: 'cancelRequested' }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it('stays the reason, whatever the guards then say', () => {
    const run = new Run(planned).until('preflight').send({ type: 'cancelRequested' });
    run.send({ type: 'preflightDone', results: [{ step: run.index('dns'), phase: 'guard', result: null, error: 'no answer' }] }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'aborted' });
    expect(run.state.failure).toBe('the execution was cancelled');
  });
});

describe('approval', () => {
  const plan = planOf([{ id: 'stage', uses: 'secret.stage' }, { id: 'approve', uses: 'operator.approval', with: { count: 2 } }, { id: 'read-only', uses: 'postgres.readOnly' }]);
  const bound = (run: Run): { plan?: string; observed?: string } => {
    const waiting = approvalNeeded(run.plan, run.state);
    return waiting === null ? {} : { plan: waiting.plan, observed: waiting.observed };
  };
  const say = (run: Run, by: string): string | null => refusal(plan, run.state, 'approve', { by, reason: 'r', ...bound(run) });

  it('needs as many different people as asked for, none of them the requester', () => {
    const run = new Run(plan, { requestedBy: 'ann' }).until('approval');
    expect(say(run, 'ann')).toBe('ann requested this and cannot approve it');
    expect(say(run, ' Ann ')).toMatch(/cannot approve it/);
    expect(say(run, 'bob')).toBeNull();
    run.operator('approve', { by: 'bob' });
    expect(say(run, 'bob')).toMatch(/approved already/);
    expect(say(run, 'Bob ')).toMatch(/approved already/);
    expect(run.next()).toMatchObject({ type: 'approval', needed: 2 });
    run.operator('approve', { by: 'cid' }).until('preflight').preflight();
    expect(run.step('approve')).toMatchObject({ status: 'done', summary: 'approved by bob, cid' });
    expect(run.state.facts['approve']).toEqual({ approvedBy: ['bob', 'cid'] });
    expect(say(run, 'dan')).toBe('nothing waits for approval');
  });

  it.each([['expiry', (run: Run) => run.send({ type: 'approvalSettled', step: 1, outcome: 'expired' })], ['rejection', (run: Run) => run.operator('reject', { by: 'eve' })]])('%s is a denial and undoes what was prepared', (_, deny) => {
    const run = deny(new Run(plan).until('approval')).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'denied' });
    expect(run.begun.at(-1)).toBe('stage:undo');
  });

  it('is not asked for when the policy asks for none', () => {
    const run = new Run(planOf([{ id: 'approve', uses: 'operator.approval', with: {} }, { id: 'stage', uses: 'secret.stage' }], { approval: { count: 0, expiresMs: 1 } })).until();
    expect(run.step('approve').outcome).toBe('skipped');
  });

  it('abort while it waits undoes what was prepared', () => {
    const run = new Run(plan).until('approval').operator('abort').until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'aborted' });
    expect(run.begun.at(-1)).toBe('stage:undo');
  });

  it('that waits while writes are refused waits no longer than the dead-man deadline', () => {
    const late = planOf([{ id: 'read-only', uses: 'postgres.readOnly' }, { id: 'approve', uses: 'operator.approval', with: { expires: '1h' } }, { id: 'promote', uses: 'postgres.promote' }]);
    const run = new Run(late).until('approval');
    expect(run.next()).toMatchObject({ type: 'approval', deadlineMs: run.state.writesRefusedSinceMs! + 60_000 });
    const waiting = new Run(planOf([{ id: 'read-only', uses: 'postgres.readOnly' }, { id: 'wait', uses: 'operator.wait', with: { duration: '1h' } }, { id: 'promote', uses: 'postgres.promote' }])).until('read-only:verify').good();
    expect(waiting.next()).toMatchObject({ type: 'wait', deadlineMs: waiting.state.writesRefusedSinceMs! + 60_000 });
    waiting.send({ type: 'deadManExpired' }).until();
    expect(waiting.begun.at(-1)).toBe('read-only:undo');
  });
});

describe('operators', () => {
  function parked(): Run {
    return new Run(small()).until('swap:apply').bad('failed');
  }

  it('must say who they are and why', () => {
    const run = parked();
    expect(refusal(run.plan, run.state, 'retry', { by: ' ', reason: 'r', step: 'swap', attempt: 1 })).toMatch(/needs "by"/);
    expect(refusal(run.plan, run.state, 'retry', { by: 'o', reason: '', step: 'swap', attempt: 1 })).toMatch(/needs "reason"/);
    expect(refusal(run.plan, run.state, 'retry', undefined as never)).toMatch(/one JSON object with "by"/);
  });

  it('deciding on an attempt that is over is refused: a double click does nothing', () => {
    const run = parked();
    const request = { by: 'o', reason: 'r', step: 'swap', attempt: 1 };
    expect(refusal(run.plan, run.state, 'retry', request)).toBeNull();
    run.operator('retry', request);
    expect(refusal(run.plan, run.state, 'retry', request)).toBe('step swap is running, not parked');
    run.until('swap:apply').bad('failed');
    expect(refusal(run.plan, run.state, 'retry', request)).toMatch(/attempt 1 is stale: step swap is at attempt 2/);
    expect(refusal(run.plan, run.state, 'retry', { ...request, attempt: 2 })).toBeNull();
    const { attempt: _, ...without } = request;
    expect(refusal(run.plan, run.state, 'retry', without)).toMatch(/attempt undefined is stale/);
  });

  it('may skip only what may be skipped, and declare done only with evidence', () => {
    const run = parked();
    const request = { by: 'o', reason: 'r', step: 'swap', attempt: 1 };
    expect(refusal(run.plan, run.state, 'skip', request)).toMatch(/swap \(secret.swap\) may not be skipped/);
    expect(refusal(run.plan, run.state, 'markDone', request)).toMatch(/needs "evidence"/);
    expect(refusal(run.plan, run.state, 'markDone', { ...request, evidence: ' ' })).toMatch(/needs "evidence"/);
    run.operator('markDone', { ...request, evidence: 'the console shows it' });
    expect(run.step('swap')).toMatchObject({ status: 'done', outcome: 'changed', attempt: 2 });
    run.until('tell:apply').bad('failed');
    expect(refusal(run.plan, run.state, 'skip', { ...request, step: 'tell' })).toBeNull();
    run.operator('skip', { step: 'tell', attempt: 1 }).until();
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
    expect(run.step('tell').outcome).toBe('skipped');
    expect(run.state.decisions.map(({ action, by, step }) => [action, by, step])).toEqual([['markDone', 'o', 'swap'], ['skip', 'operator', 'tell']]);
  });

  it('an unknown step is answered with the known ones', () => {
    const run = parked();
    expect(refusal(run.plan, run.state, 'retry', { by: 'o', reason: 'r', step: 'no', attempt: 1 })).toMatch(/one of: stage, canary, read-only/);
  });

  it('abort is refused after the point of no return and when it goes back already', () => {
    const run = parked();
    expect(refusal(run.plan, run.state, 'abort', { by: 'o', reason: 'r' })).toMatch(/point of no return/);
    const back = new Run(small()).until('read-only:apply').bad('failed');
    expect(refusal(back.plan, back.state, 'abort', { by: 'o', reason: 'r' })).toMatch(/being undone already/);
  });

  it('pause holds the next step, never while writes are refused, and resume goes on', () => {
    const run = new Run(small()).until('canary:guard').good().operator('pause').good().good();
    expect(run.step('canary').status).toBe('done');
    expect(run.next()).toMatchObject({ type: 'park', step: null, why: 'paused by an operator' });
    expect(refusal(run.plan, run.state, 'pause', { by: 'o', reason: 'r' })).toBe('it is paused already');
    run.operator('resume');
    expect(refusal(run.plan, run.state, 'resume', { by: 'o', reason: 'r' })).toBe('it is not paused');
    run.until('promote:apply');
    expect(refusal(run.plan, run.state, 'pause', { by: 'o', reason: 'r' })).toMatch(/would prolong that/);
  });

  it('can get past a step whose inputs do not fit, once nothing is undone any more', () => {
    const plan = planOf([{ id: 'promote', uses: 'postgres.promote' }, { id: 'wait', uses: 'operator.wait', with: { duration: '${steps.promote.forkLsn}' } }]);
    const run = new Run(plan).until('promote:verify').good({ facts: { forkLsn: '0/1' } });
    expect(run.next()).toMatchObject({ type: 'park', step: 1, why: expect.stringMatching(/inputs do not fit/) });
    const request = { by: 'o', reason: 'r', step: 'wait', attempt: 1 };
    expect(refusal(plan, run.state, 'skip', request)).toBeNull();
    run.operator('skip', request);
    expect(run.next()).toEqual({ type: 'finish', outcome: 'succeeded' });
  });

  it('an approval is not got around by declaring it done', () => {
    const plan = planOf([{ id: 'promote', uses: 'postgres.promote' }, { id: 'approve', uses: 'operator.approval', with: { expires: '${steps.promote.forkLsn}' } }]);
    const run = new Run(plan).until('promote:verify').good({ facts: { forkLsn: '0/1' } });
    expect(refusal(plan, run.state, 'markDone', { by: 'o', reason: 'r', step: 'approve', attempt: 1, evidence: 'trust me' })).toMatch(/approval/);
  });

  it('nothing is taken when the execution has ended', () => {
    const run = new Run(small()).until();
    expect(refusal(run.plan, { ...run.state, status: 'finished' }, 'pause', { by: 'o', reason: 'r' })).toBe('the execution has ended');
  });
});
