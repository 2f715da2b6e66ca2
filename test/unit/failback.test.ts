import { join } from 'node:path';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { resolvePlan, type PlanRequest } from '../../activities/plan.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { parseDocument } from '../../src/model/document.ts';
import { HoldfastError } from '../../src/model/errors.ts';
import type { ExecutionState, Plan } from '../../src/model/execution.ts';
import { generateFailback, originOf, type GeneratedFailback } from '../../src/model/failback.ts';
import { inputIssues, runbookOf } from '../../src/model/runbook-check.ts';
import type { Json, Runbook } from '../../src/model/runbook-schema.ts';
import type { Context } from '../../src/systems/context.ts';
import { loadRunbook } from '../../src/systems/runbook-file.ts';
import { badChecks, planOf, Run, shippedPlan } from './execution-plans.ts';

const RUNBOOKS = join(import.meta.dirname, '..', '..', 'runbooks');
const RUN = { workflowId: 'failover/orders', runId: '0198-run', atMs: Date.parse('2026-11-21T10:00:00Z') };

let planned: Plan;
let forced: Plan;
let back: Plan;
beforeAll(async () => {
  [planned, forced, back] = (await Promise.all([shippedPlan('failover', 'planned'), shippedPlan('failover', 'forced'), shippedPlan('failback', 'planned')])).map((plan) =>
    having(plan, { rolloutCommand: ['true'], rolloutUrl: 'https://shop.example/reload' }),
  ) as [Plan, Plan, Plan];
});

type Facts = Readonly<Record<string, Readonly<Record<string, Json>>>>;

function withFacts(state: ExecutionState, facts: Facts): ExecutionState {
  return { ...state, facts: Object.fromEntries([...new Set([...Object.keys(state.facts), ...Object.keys(facts)])].map((id) => [id, { ...state.facts[id], ...facts[id] }])) };
}

/** The plan with other parameters, frozen as resolvePlan would. */
function having(plan: Plan, parameters: Readonly<Record<string, Json>>): Plan {
  return { ...plan, parameters: { ...plan.parameters, ...parameters } };
}

/** The generated runbook, without a single error. */
function runbook(generated: GeneratedFailback): Runbook {
  expect(generated.reason).toBeNull();
  const name = `generated-${generated.origin!.purpose}`;
  const { runbook, findings } = runbookOf(parseDocument('failback.yaml', generated.document!), name);
  expect(findings.filter(({ level }) => level === 'error')).toEqual([]);
  const required = Object.fromEntries(Object.entries(runbook!.parameters).map(([key, { default: given }]) => [key, given ?? 'a']));
  expect(inputIssues(runbook!, { service: 'orders', mode: 'planned', parameters: required })).toEqual([]);
  return runbook!;
}

const generate = (plan: Plan, state: ExecutionState): GeneratedFailback => generateFailback(plan, state, RUN);
const kinds = (found: Runbook): string[] => found.steps.map(({ uses }) => uses);
const step = (found: Runbook, id: string): Runbook['steps'][number] => found.steps.find((item) => item.id === id)!;

describe('a plain planned failover', () => {
  it('gives the steps of runbooks/database-failback.yaml in its order, with the nodes by name', async () => {
    const generated = generate(planned, new Run(planned).until().state);
    const found = runbook(generated);
    const byHand = (await loadRunbook(RUNBOOKS, 'database-failback')).runbook;
    expect(found.steps.map(({ id, uses, after }) => ({ id, uses, after: after !== undefined }))).toEqual(
      byHand.steps.map(({ id, uses }) => ({ id, uses, after: ['confirm', 'checkpoint', 'await-replay', 'promote', 'repoint'].includes(id) })),
    );
    expect(generated.cautions).toEqual([]);
    expect(step(found, 'rebuild').with).toEqual({ datastore: 'shop', primary: 'b', node: 'a' });
    expect(step(found, 'confirm').with).toMatchObject({ primary: 'b', candidate: 'a', maxLag: '10s' });
    expect(step(found, 'promote').with).toEqual({ datastore: 'shop', primary: 'b', candidate: 'a' });
    expect(step(found, 'fence').with).toEqual({ datastore: 'shop', node: 'b' });
    expect(step(found, 'rollout').with).toEqual({ argv: ['true'] });
    expect(step(found, 'verify-writes').with).toMatchObject({ query: 'select now() as newest', primary: 'a' });
    expect(found.parameters).toEqual({});
    expect(found.readOnlyDeadline).toBe(60_000);
  });

  it('says from which execution it was generated, so that a program can tell too', () => {
    const generated = generate(planned, new Run(planned).until().state);
    expect(originOf(generated.document!)).toEqual({
      service: 'orders', purpose: 'failback', workflowId: 'failover/orders', runId: '0198-run', planHash: planned.hash, epoch: 7, primary: 'b', returnsTo: 'a', generatedAt: '2026-11-21T10:00:00.000Z',
    });
    expect(generated.document).toContain(`# plan ${planned.hash}, epoch 7; at 2026-11-21T10:00:00.000Z.`);
    expect(originOf(generated.document!.replace('# holdfast-origin: {', '# holdfast-origin: {,'))).toBeNull();
    expect(originOf('name: by-hand\n')).toBeNull();
  });

  it('names what was changed, and how the old primary was fenced', () => {
    const run = new Run(planned).until('fence:apply').good({ after: { methods: ['pg_hba.conf and standby.signal by SQL', 'server stopped on its host'] } }).until();
    const found = runbook(generate(planned, run.state));
    expect(found.summary).toMatch(/- promote \(postgres\.promote\): changed, before -> after/);
    expect(step(found, 'rebuild').narrative.replaceAll('\n', ' ')).toContain('The failover fenced a: the block in pg_hba.conf; pg_hba.conf and standby.signal by SQL; server stopped on its host (epoch 7).');
  });

  it('has an approval of its own after the rebuild and before the first refused write', () => {
    const ids = runbook(generate(planned, new Run(planned).until().state)).steps.map(({ id }) => id);
    const at = ['rebuild', 'confirm', 'approve', 'stage-secret', 'read-only', 'promote'].map((id) => ids.indexOf(id));
    expect(at).toEqual([...at].sort((a, b) => a - b));
    expect(ids.filter((id) => id.startsWith('approve'))).toEqual(['approve']);
  });
});

describe('what the failover did not do is not returned', () => {
  it('a rollout that was not configured', () => {
    expect(kinds(runbook(generate(planned, new Run(planned).until('rollout:apply').good({ outcome: 'skipped' }).until('rollout-http:apply').good({ outcome: 'skipped' }).until().state)))).not.toContain('rollout.command');
  });

  it('DNS that nobody had configured leaves no word; DNS that an operator skipped does', () => {
    const none = generate(planned, new Run(planned).until('dns:apply').good({ outcome: 'skipped' }).until().state);
    expect(kinds(runbook(none))).not.toContain('route53.change');
    expect(none.cautions).toEqual([]);

    const run = new Run(planned).until('dns:apply').bad('failed').until();
    const skipped = generate(planned, run.operator('skip', { step: 'dns', by: 'ann', reason: 'no right\nto the zone', attempt: run.step('dns').attempt }).until().state);
    expect(kinds(runbook(skipped))).not.toContain('route53.change');
    expect(skipped.cautions).toEqual([expect.stringMatching(/^DNS is left alone .*skipped by ann: no right to the zone.*look by hand/)]);
    expect(runbook(skipped).summary.replaceAll('\n', ' ')).toContain('no right to the zone');
  });

  it('DNS that was changed, could not be verified and was then skipped was changed all the same', () => {
    const run = new Run(planned).until('dns:verify').good({ checks: badChecks }).until();
    expect(kinds(runbook(generate(planned, run.operator('skip', { step: 'dns' }).until().state)))).toContain('route53.change');
  });
});

describe('what is not certain is looked at first, and said', () => {
  it('a fence that was declared done by hand', () => {
    const run = new Run(planned).until('fence:apply').bad('failed').until();
    const generated = generate(planned, run.operator('markDone', { step: 'fence', by: 'ann', reason: 'pulled the plug', evidence: 'saw it' }).until().state);
    const found = runbook(generated);
    expect(found.steps[0]).toMatchObject({ id: 'check-old-fence', uses: 'postgres.verifyFence', with: { datastore: 'shop', node: 'a' } });
    expect(found.steps[0]!.narrative).toMatch(/by hand, ann: pulled the plug/);
    expect(found.summary).toContain('- fence (postgres.fence): declared done by ann');
    expect(generated.cautions).toHaveLength(1);
  });

  it('a planned one that may have left writes behind asks before their only copy is discarded', () => {
    const { state } = new Run(planned).until();
    expect(step(runbook(generate(planned, withFacts(state, { 'verify-canary': { lost: 0 } }))), 'approve-discard')).toBeUndefined();
    const lost = runbook(generate(planned, withFacts(state, { 'verify-canary': { lost: 3 } })));
    expect(step(lost, 'approve-discard').narrative.replaceAll('\n', ' ')).toMatch(/3 write\(s\) that a acknowledged to the canary are nowhere else/);
    const declared: ExecutionState = { ...state, decisions: [...state.decisions, { action: 'markDone', by: 'ann', reason: 'it hung', step: 'await-replay', evidence: 'x', atMs: 1 }] };
    expect(step(runbook(generate(planned, declared)), 'approve-discard').narrative.replaceAll('\n', ' ')).toMatch(/await-replay: by hand, ann: it hung/);
  });

  it('a promotion that was declared done by hand: is it the primary that the application reaches?', () => {
    const run = new Run(planned).until('promote:apply');
    for (let round = 0; round < 9 && run.next().type !== 'park'; round += 1) run.bad('unknown');
    const generated = generate(planned, run.operator('markDone', { step: 'promote', evidence: 'pg_is_in_recovery is false' }).until().state);
    expect(runbook(generated).steps[0]).toMatchObject({ id: 'check-primary', uses: 'postgres.verifyRecentWrites', with: { primary: 'b' } });
    expect(generated.cautions).toEqual([expect.stringMatching(/does not show that b was promoted \(promote: by hand/)]);
  });

  it('a rollout that was declared done by hand is run with the same inputs, and said; one without inputs is not', () => {
    const plan = having(planned, { rolloutCommand: ['kubectl', 'rollout'] });
    const run = new Run(plan).until('rollout:apply').bad('failed').until();
    const generated = generate(plan, run.operator('markDone', { step: 'rollout', evidence: 'x' }).until().state);
    expect(step(runbook(generated), 'rollout').with).toEqual({ argv: ['kubectl', 'rollout'] });
    expect(step(runbook(generated), 'rollout').narrative).toMatch(/Look at the inputs/);
    const unset = having(planned, { rolloutCommand: [] });
    const empty = new Run(unset).until('rollout:apply').bad('failed').until();
    const without = generate(unset, empty.operator('markDone', { step: 'rollout', evidence: 'x' }).until().state);
    expect(step(runbook(without), 'rollout')).toBeUndefined();
    expect(without.cautions).toEqual(expect.arrayContaining([expect.stringMatching(/rollout was not done by Holdfast .*told by hand/)]));
  });

  it('nodes that the record does not name become a parameter and the secret’s word', () => {
    const state = new Run(planned).until().state;
    const generated = generate(planned, { ...state, facts: { ...state.facts, confirm: {} } });
    const found = runbook(generated);
    expect(found.parameters).toMatchObject({ node: { required: true } });
    expect(step(found, 'rebuild').with).toEqual({ datastore: 'shop', node: '${parameters.node}' });
    expect(step(found, 'promote').with).toMatchObject({ primary: '${steps.confirm.primary}', candidate: '${parameters.node}' });
    expect(generated.origin).toMatchObject({ primary: null, returnsTo: null });
  });

  it('an effect of a kind that is not returned is named', () => {
    const plan = planOf([
      { id: 'confirm', uses: 'postgres.health' }, { id: 'other', uses: 'postgres.rebuildStandby', with: { datastore: 'shop', node: 'c' } },
      { id: 'promote', uses: 'postgres.promote', with: { datastore: 'shop', primary: '${steps.confirm.primary}', candidate: '${steps.confirm.candidate}' } },
    ]);
    const generated = generate(plan, new Run(plan).until().state);
    const found = runbook(generated);
    // Nothing there has an endpoint: no secret, no canary, and that is said.
    expect(kinds(found)).not.toContain('secret.swap');
    expect(generated.cautions).toEqual([expect.stringMatching(/does not show that a is fenced \(no step did it\)/), expect.stringMatching(/nothing measures/)]);
  });
});

describe('a forced failover', () => {
  const measured = (lost: Json): Facts => ({ 'count-loss': { lostTransactions: lost } });

  it('leaves out what was of the forced run only, and asks before the only copy of lost transactions is discarded', () => {
    const generated = generate(forced, withFacts(new Run(forced).until().state, measured(12)));
    const found = runbook(generated);
    expect(found.steps[0]).toMatchObject({ id: 'approve-discard', uses: 'operator.approval' });
    expect(found.steps[0]!.narrative.replaceAll('\n', ' ')).toMatch(/^12 transaction\(s\) were acknowledged by a and are nowhere else.*only copy/);
    expect(kinds(found).indexOf('operator.approval')).toBeLessThan(kinds(found).indexOf('postgres.rebuildStandby'));
    expect(kinds(found)).not.toContain('postgres.measureLoss');
    expect(kinds(found)).toEqual(expect.arrayContaining(['postgres.readOnly', 'postgres.checkpoint']));
  });

  it('is one as well when an operator switched to it on the way', () => {
    const state = new Run(forced).until().state;
    expect(step(runbook(generate({ ...forced, mode: 'planned' }, state)), 'approve-discard')).toBeDefined();
  });

  it('with nothing lost there is nothing to ask; what was not measured is not nothing', () => {
    expect(step(runbook(generate(forced, withFacts(new Run(forced).until().state, measured(0)))), 'approve-discard')).toBeUndefined();
    const unknown = runbook(generate(forced, withFacts(new Run(forced).until().state, measured(null))));
    expect(unknown.steps[0]).toMatchObject({ id: 'approve-discard', narrative: expect.stringMatching(/was not measured/) });
  });

  it('a count that a person declared is no count', () => {
    const { state } = new Run(forced).until();
    const declared: ExecutionState = { ...state, decisions: [...state.decisions, { action: 'markDone', by: 'ann', reason: 'counted', step: 'count-loss', evidence: 'x', atMs: 1 }] };
    expect(step(runbook(generate(forced, withFacts(declared, measured(0)))), 'approve-discard').narrative).toMatch(/declared, not\s+measured \(ann: counted\)/);
  });

  it('says what a host that nobody reached needs, and that it gets a base backup', () => {
    const run = new Run(forced).until('fence-first:apply').good({ after: { methods: ['fence command'] } });
    const last = run.until('fence:apply').good({ after: { methods: ['fence command'] } }).until();
    const generated = generate(forced, withFacts(last.state, measured(null)));
    expect(generated.cautions).toEqual(expect.arrayContaining([expect.stringMatching(/nobody reached the host of a .* an empty data directory is enough/)]));
    expect(step(runbook(generated), 'rebuild').narrative.replaceAll('\n', ' ')).toMatch(/without files there is nothing to rewind, and it gets a base backup/);
    const reached = new Run(forced).until('fence-first:apply').good({ after: { methods: ['server stopped and standby.signal left on its host'] } }).until();
    expect(generate(forced, withFacts(reached.state, measured(0))).cautions).toEqual([]);
  });
});

describe('a failback', () => {
  it('gives the way forth again, and that gives the way back', () => {
    const first = generate(back, new Run(back).until().state);
    expect(first.origin).toMatchObject({ purpose: 'failover' });
    const found = runbook(first);
    expect(found).toMatchObject({ name: 'generated-failover', title: 'Way forth again to a' });
    expect(step(found, 'rebuild').with).toMatchObject({ primary: 'b', node: 'a' });

    const plan = planOf(found.steps.map((item) => ({ id: item.id, uses: item.uses, with: item.with as Record<string, Json>, after: item.after ?? null })), { kind: 'failover' });
    const second = generate(plan, new Run(plan).until().state);
    expect(second.origin).toMatchObject({ purpose: 'failback', primary: 'a', returnsTo: 'b' });
    expect(step(runbook(second), 'promote').with).toEqual({ datastore: 'shop', primary: 'a', candidate: 'b' });
    expect(kinds(runbook(second))).toEqual(kinds(found));
  });
});

describe('inputs as they ran', () => {
  it('what looks like a reference is a text again, what looks like a secret stays out', () => {
    const plan = having(planned, { rolloutCommand: ['sh', '-c', 'echo ${HOME} ${parameters.nothing}'], rolloutUrl: 'https://ann:hunter22@shop.example/reload', recentQuery: 'select \'x: "y" # z\'' });
    const generated = generate(plan, new Run(plan).until().state);
    const found = runbook(generated);
    expect(step(found, 'rollout').with).toEqual({ argv: ['sh', '-c', '${parameters.asRun1}'] });
    expect(found.parameters['asRun1']).toMatchObject({ default: 'echo ${HOME} ${parameters.nothing}' });
    expect(step(found, 'rollout-http').with).toEqual({ url: '${parameters.rolloutUrl}' });
    expect(found.parameters['rolloutUrl']).toMatchObject({ required: true });
    expect(generated.document).not.toContain('hunter22');
    expect(step(found, 'verify-writes').with['query']).toBe('select \'x: "y" # z\'');
  });

  it('references to the roles stay references: a URL that named the new primary names the new one again', () => {
    const plan = { ...planned, steps: planned.steps.map((item) => (item.id === 'rollout-http' ? { ...item, with: { url: 'https://proxy/use/${steps.confirm.candidate}?was=${steps.dns.changeId}', verifyUrl: '${parameters.absent}' }, applyMs: 7000, attempts: 4 } : item)) };
    const found = runbook(generate(plan, withFacts(new Run(plan).until().state, { dns: { changeId: 'C1' } })));
    expect(step(found, 'rollout-http')).toMatchObject({ with: { url: 'https://proxy/use/${steps.confirm.candidate}?was=${steps.dns.changeId}' }, timeout: 7000, attempts: 4 });
  });

  it.each(['a: b', '- x', '# no', 'null', 'yes', '1e3', "it's", '"', '\\', ' lead', 'trail ', 'tab\there', 'two\nlines', '\u0000', '\u0085', '\u2028', '\ud800', '🦆', '{a: 1}', '*x', '&x', '!x', '%x', '@x', '`x`', '', '=', '~', '0x10', '.5', '12:30:45', '<<'])('%j stays what it is', (text) => {
    const plan = having(planned, { rolloutCommand: ['run', text], recentQuery: text });
    const found = runbook(generate(plan, new Run(plan).until().state));
    expect(step(found, 'rollout').with).toEqual({ argv: ['run', text] });
    expect(step(found, 'verify-writes').with['query']).toBe(text);
  });

  it.each(['two\nlines', '\u0000\u0085\u2028\ud800', '|', '- x\n\n\n  y', 'password=hunter22', '-----BEGIN PRIVATE KEY-----', '${steps.x}', '    '])('a reason of %j breaks no document', (reason) => {
    const run = new Run(planned).until('dns:apply').bad('failed').until();
    const generated = generate(planned, run.operator('skip', { step: 'dns', by: reason, reason }).until().state);
    runbook(generated);
    expect(generated.document).not.toContain('hunter22');
  });
});

describe('as a document of the input', () => {
  const config = configSchema.parse({
    version: 1, stores: {}, datastores: { shop: { engine: 'postgres', database: 'shop', admin: { username: 'x', password: 'env:X' }, nodes: {} } },
    services: {
      orders: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], approval: { planned: 1, forced: 3 }, parameters: { maxLag: '1s' } },
      own: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], approval: { planned: 1, forced: 3, failback: 2 } },
    },
  });
  const resolve = (more: Partial<PlanRequest>): Promise<Plan> =>
    resolvePlan({ config, runbookDirectory: '/nowhere' } as unknown as Context, { type: 'failover', service: 'orders', purpose: 'failback', runbook: null, mode: 'planned', parameters: {}, ...more });
  const document = (): string => generate(planned, new Run(planned).until().state).document!;

  it('is frozen into the plan of a failback, as written, whatever the service’s parameters say by now', async () => {
    const plan = await resolve({ document: document() });
    expect(plan).toMatchObject({ kind: 'failback', runbook: 'generated-failback', title: 'Failback to a', service: 'orders', parameters: {}, readOnlyDeadlineMs: 60_000 });
    expect(plan.steps.find(({ id }) => id === 'confirm')).toMatchObject({ with: { primary: 'b', candidate: 'a', maxLag: '10s' }, after: 'rebuild', included: true });
    expect((await resolve({ document: document().replace('maxLag: "10s"', 'maxLag: "11s"') })).hash).not.toBe(plan.hash);
  });

  it.each([
    ['orders', 'planned', 1], ['orders', 'forced', 3], ['own', 'planned', 2], ['own', 'forced', 3],
  ] as const)('%s %s needs %i approvals', async (service, mode, count) => {
    expect((await resolve({ service, mode, document: document().replaceAll('"orders"', `"${service}"`) })).approval.count).toBe(count);
    // The way forth is a failover.
    const forth = generate(back, new Run(back).until().state).document!.replaceAll('"orders"', `"${service}"`);
    expect((await resolve({ service, mode, purpose: 'failover', document: forth })).approval.count).toBe(mode === 'planned' ? 1 : 3);
  });

  it('that is wrong is refused with all that is wrong and where', async () => {
    const wrong = document().replace('uses: postgres.promote', 'uses: postgres.promoted').replace('candidate: a', 'candidat: a');
    await expect(resolve({ document: wrong })).rejects.toMatchObject({ code: 'document-invalid', message: expect.stringMatching(/^2 error\(s\) in the document:\n.*document:\d+ steps\[\d+\]\.with\.candidat[\s\S]*document:\d+ steps\[\d+\]\.uses.*did you mean "postgres\.promote"/) });
    await expect(resolve({ purpose: 'failover', document: document() })).rejects.toMatchObject({ code: 'document-foreign' });
    await expect(resolve({ purpose: 'other', document: document() })).rejects.toMatchObject({ code: 'document-purpose' });
    await expect(resolve({ document: `${document()}# [redacted]\n` })).rejects.toMatchObject({ code: 'document-masked' });
    const secret = generate(having(planned, { rolloutUrl: 'https://ann:hunter22@shop.example' }), new Run(having(planned, { rolloutUrl: 'https://ann:hunter22@shop.example' })).until().state).document!;
    await expect(resolve({ document: secret })).rejects.toThrow(/parameter "rolloutUrl" \(string\) is missing/);
    expect((await resolve({ document: secret, parameters: { rolloutUrl: 'https://ann:hunter22@shop.example' } })).parameters).toMatchObject({ rolloutUrl: 'https://ann:hunter22@shop.example' });
  });

  it('any text at all is refused by name, never by a crash', async () => {
    await fc.assert(fc.asyncProperty(fc.oneof(fc.string(), fc.tuple(fc.nat(), fc.nat(40), fc.string()).map(([at, length, text]) => {
      const whole = document();
      const start = at % whole.length;
      return whole.slice(0, start) + text + whole.slice(start + length);
    })), async (text) => {
      const answer = await resolve({ document: text }).then(() => null, (error: unknown) => error);
      expect(answer === null || answer instanceof HoldfastError).toBe(true);
    }), { numRuns: 150 });
  });
});

describe('nothing to return from', () => {
  it('what a nested run promoted is returned by that run’s own document', () => {
    const plan = planOf([{ id: 'inner', uses: 'runbook.run', with: { service: 'orders', purpose: 'failover' } }]);
    const run = new Run(plan).until('inner:apply').good({ pointOfNoReturn: true, facts: { execution: 'failover/orders' } }).until();
    expect(generate(plan, run.state)).toMatchObject({ document: null, reason: 'what was promoted was promoted by a run of its own (inner, failover/orders): that one has its own way back' });
  });

  it.each([
    ['nothing was promoted', () => [planned, new Run(planned).until('canary:verify').good({ checks: badChecks }).until().state]],
    ['for no service', () => [{ ...planned, service: null }, new Run(planned).until().state]],
    ['not known here', () => [planned, { ...new Run(planned).until().state, steps: new Run(planned).until().state.steps.map((item) => (item.uses === 'postgres.promote' ? { ...item, status: 'running' } : item)) }]],
  ] as [string, () => [Plan, ExecutionState]][])('%s: no document, and why', (why, made) => {
    const generated = generate(...made());
    expect(generated).toMatchObject({ document: null, origin: null });
    expect(generated.reason).toContain(why);
  });
});
