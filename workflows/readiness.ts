import { ActivityCancellationType, patched, proxyActivities, setHandler, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import type { createNotifyActivities } from '../activities/notify.ts';
import type { createPlanActivities } from '../activities/plan.ts';
import type { ReadinessPlan, Roles, createReadinessActivities } from '../activities/readiness.ts';
import { SEARCH_ATTRIBUTES, readinessInputSchema, type ReadinessInput } from '../src/model/api.ts';
import { phaseActivity, stepKind, type Phase } from '../src/model/catalogue.ts';
import { conditionOf, describeCheck, startExecution, stepInput, type ExecutionState, type PhaseResult, type Plan } from '../src/model/execution.ts';
import { checksOf } from '../src/model/measure.ts';
import { NOT_ASKED, judgeReadiness, notLookedAt, onlyNew, readinessNotice, sinceWhen, unanswered, type ForcedOutlook, type ReadinessCheck, type Since } from '../src/model/readiness.ts';
import type { Json, Mode } from '../src/model/runbook-schema.ts';
import type { PhaseCall } from '../src/model/step-call.ts';
import { lookAtLocks } from './hold.ts';
import { classify, createExecution, progressQuery } from './interpreter.ts';
import { parseInput } from './input.ts';

const { resolvePlan } = proxyActivities<ReturnType<typeof createPlanActivities>>({
  startToCloseTimeout: '30 seconds',
  scheduleToCloseTimeout: '2 minutes',
  retry: { maximumAttempts: 3 },
});
const { readinessSubjects, readinessPlan, checkProofs, checkRehearsals, checkSurroundings, checkForced, lastReadiness } = proxyActivities<ReturnType<typeof createReadinessActivities>>({
  startToCloseTimeout: '1 minute',
  scheduleToCloseTimeout: '2 minutes',
  retry: { maximumAttempts: 2 },
});
const { notify } = proxyActivities<ReturnType<typeof createNotifyActivities>>({ startToCloseTimeout: '1 minute', scheduleToCloseTimeout: '2 minutes', retry: { maximumAttempts: 2 } });

export interface ReadinessResult extends Since {
  readonly service: string;
  /** null: something that decides could not be asked. */
  readonly recoverable: boolean | null;
  readonly why: readonly string[];
  readonly checks: readonly ReadinessCheck[];
  /** What a forced failover would meet if the primary went silent now. */
  readonly forced: readonly ForcedOutlook[];
  /** Said, so that silence is not taken for health. */
  readonly notChecked: readonly string[];
  readonly checkedAt: string;
}

/** Could the service be recovered right now? Every guard of every runbook that can hold now, and what a recovery counts on; read-only. */
export async function readiness(input: ReadinessInput): Promise<ReadinessResult> {
  const { service } = parseInput('readiness', readinessInputSchema, input);
  if (!patched('readiness-levels')) return beforeLevels(service);
  let waitingFor: string | null = 'the configuration';
  setHandler(progressQuery, () => ({ plan: null, state: null, startedAtMs: workflowInfo().runStartTime.getTime(), waitingFor }));
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.service]: [service] });
  const subjects = await readinessSubjects(service);
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.environment]: [subjects.environment] });
  waitingFor = 'every guard';
  const asker = createAsker(service, subjects.environment);
  const [earlier, proofs, rehearsals, surroundings, planned] = await Promise.all([
    lastReadiness(service).catch(() => null),
    orUnknown('backups', checkProofs(service, Date.now())),
    orUnknown('rehearsals', checkRehearsals(service, null)),
    orUnknown('what this worker needs', checkSurroundings(service)),
    subjects.purposes.includes('failover') ? askRunbook(asker, service, 'failover', 'planned', {}) : noFailover(service),
  ]);
  const roles = planned.roles;
  const [forced, ...others] = await Promise.all([
    checkForced(service, roles).catch((error: unknown) => ({ checks: [couldNotAsk('forced mode', error)], outlooks: [], notChecked: [] })),
    ...(subjects.purposes.includes('failover') ? [askRunbook(asker, service, 'failover', 'forced', roles)] : []),
    ...subjects.purposes.filter((purpose) => purpose !== 'failover').map((purpose) => askRunbook(asker, service, purpose, 'planned', roles)),
  ]);
  const unseen = notLookedAt(subjects.datastores, Object.keys(roles), [...planned.checks, ...forced.checks]);
  // Asked only where it would say something: the level decides whether somebody is told.
  const unlooked = unseen.length > 0 && patched('readiness-not-looked-at') ? unseen : [];
  const checks = [...planned.checks, ...unlooked, ...forced.checks, ...onlyNew(planned.checks, others.flatMap((asked) => asked.checks)), ...proofs, ...rehearsals, ...surroundings];
  const notChecked = [...new Set([...planned.notChecked, ...forced.notChecked, ...others.flatMap((asked) => asked.notChecked)])];
  const verdict = judgeReadiness(checks);
  const checkedAt = new Date(Date.now()).toISOString();
  const since = sinceWhen(earlier, verdict.level, checkedAt);
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.outcome]: [verdict.level] });
  const notice = readinessNotice(service, earlier, verdict, since);
  // Whoever cannot be told is in the worker's log; the result stands all the same.
  if (notice !== null) await notify(notice).catch(() => {});
  waitingFor = null;
  return { service, ...verdict, ...since, checks, forced: forced.outlooks, notChecked, checkedAt };
}

interface Asked {
  readonly checks: readonly ReadinessCheck[];
  readonly notChecked: readonly string[];
  readonly roles: Roles;
}

function noFailover(service: string): Asked {
  return { checks: [{ name: 'runbooks', ok: false, expected: 'a failover runbook', found: 'none', next: `add services.${service}.runbooks.failover` }], notChecked: ['failover: there is no runbook'], roles: {} };
}

function couldNotAsk(name: string, error: unknown): ReadinessCheck {
  return unanswered(name, classify(error).text);
}

async function orUnknown(name: string, asked: Promise<ReadinessCheck[]>): Promise<ReadinessCheck[]> {
  return asked.catch((error: unknown) => [couldNotAsk(name, error)]);
}

const AFTERWARDS = 'can only hold once what stands before it is done';

type Ask = (plan: Plan, state: ExecutionState, step: number, phase: Phase) => Promise<PhaseResult> | null;

/** Calls reading phases; what was asked once with the same inputs is not asked again (null). */
function createAsker(service: string, environment: string): Ask {
  const asked = new Set<string>();
  const info = workflowInfo();
  return (plan, state, index, phase) => {
    const step = plan.steps[index]!;
    const { value } = stepInput(plan, state, index);
    const same = JSON.stringify([step.uses, phase, plan.mode, value]);
    if (asked.has(same)) return null;
    asked.add(same);
    const limitMs = phase === 'verify' ? stepKind(step.uses)!.verifyMs : 45_000;
    const activities = proxyActivities<Record<string, (call: PhaseCall) => Promise<PhaseResult>>>({
      startToCloseTimeout: limitMs,
      scheduleToCloseTimeout: limitMs * 2 + 10_000,
      heartbeatTimeout: 10_000,
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      retry: { maximumAttempts: 2, initialInterval: 500 },
    });
    return activities[phaseActivity(step.uses, phase)]!({
      step: step.id, uses: step.uses, phase, preflight: true, with: value, mode: plan.mode, service, environment, workflowId: info.workflowId, runId: info.runId,
      epoch: state.epoch, key: `${info.workflowId}/${step.id}/${state.epoch}`, before: null, facts: {},
    });
  };
}

/**
 * Every guard of one runbook as far as it can hold now. Unlike a dry run it goes on after the first that fails: all that is wrong is to
 * be seen at once. Forced mode asks what only it has; what asks for a primary that is down is answered by `checkForced` instead.
 */
async function askRunbook(ask: Ask, service: string, purpose: string, mode: Mode, known: Roles): Promise<Asked> {
  const label = mode === 'forced' ? `${purpose}, forced` : purpose;
  const prefix = purpose === 'failover' && mode === 'planned' ? '' : `${label}: `;
  // Without a way back the service can still be recovered.
  const weight: Pick<ReadinessCheck, 'weight'> = purpose === 'failover' ? {} : { weight: 'lowers' };
  const checks: ReadinessCheck[] = [];
  const notChecked: string[] = [];
  let made: ReadinessPlan;
  try {
    made = await readinessPlan(service, purpose, mode, known);
  } catch (error) {
    return { checks: [couldNotAsk(`${prefix}plan`, error)], notChecked: [`${label}: no plan`], roles: {} };
  }
  const { plan } = made;
  if (plan === null) {
    // What it needs to be told is not known before somebody starts it, except for the failover itself, which must need nothing.
    if (purpose === 'failover') checks.push({ name: `${prefix}plan`, ok: false, expected: 'a runbook and parameters that make a plan', found: made.why ?? '' });
    else notChecked.push(`${label}: no plan can be made now: ${made.why}`);
    return { checks, notChecked, roles: {} };
  }
  if (Object.keys(made.assumed).length > 0) notChecked.push(`${label}: was asked as if started with ${Object.entries(made.assumed).map(([name, value]) => `${name}=${value}`).join(', ')}`);
  // A run that goes on just now, or a cooldown, passes: it lowers readiness and does not take it away.
  if (prefix === '') checks.push(...(await lookAtLocks(plan)).map((check): ReadinessCheck => ({ ...check, weight: 'lowers' })));
  let state = startExecution(plan, { epoch: 0, requestedBy: 'readiness', dryRun: true });
  const learn = (id: string, facts: Readonly<Record<string, Json>>): void => {
    state = { ...state, facts: { ...state.facts, [id]: { ...state.facts[id], ...facts } } };
  };
  // In the order of the steps, whoever answers first.
  const found: ReadinessCheck[][] = plan.steps.map(() => []);
  const report = (index: number, result: PhaseResult): void => {
    for (const check of result.checks ?? []) found[index]!.push({ ...check, ...weight, name: `${prefix}${plan.steps[index]!.id}: ${check.name}` });
  };
  const fail = (index: number, phase: Phase, error: unknown): void => {
    const { how, text } = classify(error);
    const { id } = plan.steps[index]!;
    found[index]!.push(unanswered(`${prefix}${id}: ${phase}`, text, { weight: how === 'unknown' ? 'unknown' : (weight.weight ?? 'hard') }));
  };

  const firstChange = plan.steps.findIndex((step) => step.included && (stepKind(step.uses)!.phases.includes('apply') || stepKind(step.uses)!.runsIn !== 'activity'));
  const roles: Record<string, { primary: string; candidate: string | null }> = {};
  const unasked: { id: string; why: string }[] = [];
  for (const [index, step] of plan.steps.entries()) {
    if (!step.included || step.uses !== 'postgres.health') continue;
    const later = index > firstChange || mode === 'forced' || step.after != null;
    const datastore = String(stepInput(plan, state, index).value['datastore']);
    if (later) {
      unasked.push({ id: step.id, why: mode === 'forced' ? 'asks for a primary that is down' : AFTERWARDS });
      // What the failover's own look has found serves the guards after it.
      const role = Object.hasOwn(known, datastore) ? known[datastore] : undefined;
      if (role !== undefined) learn(step.id, { primary: role.primary, candidate: role.candidate });
      continue;
    }
    for (const phase of ['guard', 'verify'] as const) {
      try {
        const result = await ask(plan, state, index, phase);
        if (result === null) continue;
        report(index, result);
        learn(step.id, result.facts ?? {});
        const { primary, candidate } = result.facts ?? {};
        if (typeof primary === 'string') roles[datastore] = { primary, candidate: typeof candidate === 'string' ? candidate : null };
      } catch (error) {
        fail(index, phase, error);
        if (phase === 'guard') break;
      }
    }
  }
  const asking = plan.steps.map(async (step, index) => {
    const kind = stepKind(step.uses)!;
    if (!step.included || kind.runsIn === 'workflow' || step.uses === 'postgres.health') return;
    if (kind.runsIn === 'child') {
      unasked.push({ id: step.id, why: 'the guards of the runbook it runs: they are asked where that is a runbook of a service' });
      return;
    }
    if (step.after != null || (step.when !== undefined && conditionOf(plan, state, index).holds !== 'yes')) {
      unasked.push({ id: step.id, why: step.after != null ? AFTERWARDS : 'whether its conditions will hold is not known now' });
      return;
    }
    const { value, missing } = stepInput(plan, state, index);
    const idle = (step.uses === 'rollout.command' && (value['argv'] as readonly string[] | undefined ?? []).length === 0) || (step.uses === 'rollout.http' && (value['url'] ?? '') === '');
    if (NOT_ASKED[step.uses] !== undefined && !idle) notChecked.push(`${step.id}: ${NOT_ASKED[step.uses]}`);
    if (mode === 'forced' && step.uses === 'postgres.fence') return; // Its guard would count the live primary's own answer as a way.
    if (!kind.phases.includes('guard')) {
      unasked.push({ id: step.id, why: 'only verifies what was done' });
      return;
    }
    const lost = missing.filter((reference) => plan.steps.some((other) => other.uses === 'postgres.health' && reference.startsWith(`steps.${other.id}.`)));
    if (lost.length > 0) unasked.push({ id: step.id, why: `${lost.join(', ')} is not known` });
    try {
      const result = await ask(plan, state, index, 'guard');
      if (result !== null) report(index, result);
      if (kind.phases.includes('inspect') && missing.length === 0) await ask(plan, state, index, 'inspect');
    } catch (error) {
      fail(index, 'guard', error);
    }
  });
  await Promise.all(asking);
  for (const [why, group] of Map.groupBy(unasked, (item) => item.why)) notChecked.push(`${label}: ${group.map((item) => item.id).join(', ')}: ${why}`);
  return { checks: [...checks, ...found.flat()], notChecked, roles };
}

/** As it was before there were levels, for executions that began then. */
async function beforeLevels(service: string): Promise<ReadinessResult> {
  const execution = createExecution();
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.service]: [service] });
  const subjects = await readinessSubjects(service);
  const why: string[] = [];
  let checks: readonly ReadinessCheck[] = [];
  if (!subjects.purposes.includes('failover')) why.push(`service ${service} has no failover runbook`);
  else {
    try {
      const plan = await resolvePlan({ type: 'failover', service, purpose: 'failover', runbook: null, mode: 'planned', parameters: {} });
      execution.setPlan(plan, { epoch: workflowInfo().runStartTime.getTime(), requestedBy: 'readiness', reason: 'readiness', dryRun: true });
      const state = await execution.run();
      checks = checksOf(state);
      if (state.failure !== null) why.push(state.failure);
      why.push(...checks.filter((check) => !check.ok).map(describeCheck).filter((text) => !(state.failure ?? '').includes(text)));
    } catch (error) {
      why.push(classify(error).text);
    }
  }
  const proofs = await orUnknown('backups', checkProofs(service, Date.now()));
  checks = [...checks, ...proofs];
  why.push(...proofs.filter((check) => !check.ok).map(describeCheck));
  const recoverable = why.length === 0;
  const checkedAt = new Date(Date.now()).toISOString();
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.outcome]: [recoverable ? 'ready' : 'not-ready'] });
  return { service, recoverable, why, checks, forced: [], notChecked: [], checkedAt, ...sinceWhen(null, recoverable ? 'ready' : 'not-ready', checkedAt) };
}
