import type { CheckResult } from '../src/model/api.ts';
import { consistencyChecks, promoted, type BreakGlassResults } from '../src/model/break-glass-results.ts';
import { stepKind, type Phase } from '../src/model/catalogue.ts';
import { inputSchema } from '../src/model/document.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import type { PhaseResult, Plan } from '../src/model/execution.ts';
import type { Context } from '../src/systems/context.ts';
import { redact } from '../src/systems/log.ts';
import { withActivityFailures } from './failure.ts';
import { resolvePlan } from './plan.ts';
import { createPhaseReader } from './steps.ts';

const ASK_MS = 20_000;

/** Step kinds whose effect can still be seen afterwards, with the reading phase that sees it. */
const VISIBLE: Readonly<Record<string, Phase>> = {
  'postgres.promote': 'verify',
  'postgres.verifyFence': 'verify',
  'postgres.fence': 'verify',
  'postgres.rebuildStandby': 'verify',
  'secret.swap': 'verify',
  'route53.change': 'verify',
};

export interface ImportedView {
  readonly title: string;
  readonly objectives: Plan['objectives'];
  readonly checks: readonly CheckResult[];
}

/** Holds what was written down against what the systems show now. A contradiction is a finding of the record, not a reason to lose it. */
export function createImportedActivities(context: Context) {
  return withActivityFailures({
    verifyImported: (results: BreakGlassResults): Promise<ImportedView> => verifyImported(context, results),
  });
}

export async function verifyImported(context: Context, results: BreakGlassResults): Promise<ImportedView> {
  if (results.environment !== context.config.environment) {
    throw new HoldfastError('wrong-environment', `these results are of environment ${results.environment}, this worker is of ${context.config.environment}`, { next: 'import them where they belong' });
  }
  const plan = await presentPlan(context, results);
  const live = (await Promise.all(results.steps.filter((step) => step.outcome === 'done' && VISIBLE[step.uses] !== undefined).map((step) => look(context, results, step)))).flat();
  if (!promoted(results)) live.push(...(await unchanged(context, results)));
  return { title: plan?.title ?? results.runbook, objectives: plan?.objectives ?? null, checks: [...consistencyChecks(results, plan?.hash ?? null, plan?.steps.filter((step) => step.included)), ...live] };
}

async function presentPlan(context: Context, results: BreakGlassResults): Promise<Plan | null> {
  const { service, runbook, mode, parameters } = results;
  const configured = service !== null && Object.hasOwn(context.config.services, service) ? context.config.services[service]! : null;
  const purpose = Object.entries(configured?.runbooks ?? {}).find(([, name]) => name === runbook)?.[0] ?? results.kind;
  try {
    return await resolvePlan(context, results.kind === 'runbook' ? { type: 'runbook', service, purpose: null, runbook, mode, parameters } : { type: 'failover', service, purpose, runbook: null, mode, parameters });
  } catch (error) {
    context.log.warn({ err: error }, 'the plan of imported results cannot be made any more');
    return null;
  }
}

async function look(context: Context, results: BreakGlassResults, step: BreakGlassResults['steps'][number]): Promise<CheckResult[]> {
  const parameters = results.parameters;
  const rebuilt = step.uses === 'postgres.rebuildStandby';
  const given: Record<string, unknown> = { datastore: postgresOf(context, results), primary: rebuilt ? undefined : results.primary, candidate: results.candidate, node: rebuilt ? parameters['node'] : results.primary, ...(rebuilt ? { wait: '5s' } : {}) };
  try {
    const { checks } = await read(context, results, step.id, step.uses, VISIBLE[step.uses]!, given);
    return (checks ?? []).map((check) => ({ ...check, name: `${step.id} now: ${check.name}` }));
  } catch (error) {
    return [{ name: `${step.id} now`, ok: false, expected: 'an answer of the live systems', found: redact(messageOf(error)), next: 'look for yourself; the record says that nobody could confirm it' }];
  }
}

/** Nothing was promoted: then writes are let in where they were. */
async function unchanged(context: Context, results: BreakGlassResults): Promise<CheckResult[]> {
  const datastore = postgresOf(context, results);
  if (results.primary === null || datastore === undefined) return [];
  try {
    const { before, summary } = await read(context, results, 'primary', 'postgres.readOnly', 'inspect', { datastore, primary: results.primary });
    const epoch = (before as { epoch?: unknown } | undefined)?.epoch ?? null;
    return [{ name: `${results.primary} now: writes`, ok: epoch === null, expected: 'writes are allowed, since nothing was promoted', found: summary, next: `follow "Going back" of the checklist on ${results.primary}` }];
  } catch (error) {
    return [{ name: `${results.primary} now: writes`, ok: false, expected: 'an answer', found: redact(messageOf(error)) }];
  }
}

function postgresOf(context: Context, results: BreakGlassResults): string | undefined {
  const named = results.parameters['datastore'];
  if (typeof named === 'string') return named;
  return results.service !== null && Object.hasOwn(context.config.services, results.service) ? context.config.services[results.service]!.datastores[0] : undefined;
}

/** Only the inputs that the kind knows are given to it. */
function read(context: Context, results: BreakGlassResults, step: string, uses: string, phase: Phase, inputs: Readonly<Record<string, unknown>>): Promise<PhaseResult> {
  const known = new Set(Object.keys(inputSchema(stepKind(uses)!.input).properties ?? {}));
  const given = Object.fromEntries(Object.entries(inputs).filter(([name, value]) => known.has(name) && value !== undefined && value !== null));
  return createPhaseReader(context)(
    { step, uses, phase, preflight: false, with: given, mode: results.mode, service: results.service, environment: results.environment, workflowId: 'imported', runId: '', epoch: 0, key: `imported/${step}`, before: null, facts: {} },
    AbortSignal.timeout(ASK_MS),
  );
}
