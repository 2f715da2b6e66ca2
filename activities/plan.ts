import { createHash } from 'node:crypto';
import { postgresNamed, type Config, type ServiceConfig } from '../src/model/config-schema.ts';
import { stepKind } from '../src/model/catalogue.ts';
import { parseDocument, pathText, valueAt } from '../src/model/document.ts';
import { formatFinding, HoldfastError } from '../src/model/errors.ts';
import { canonicalJson } from '../src/model/evidence.ts';
import type { Plan, PlannedStep } from '../src/model/execution.ts';
import { expandForEach } from '../src/model/for-each.ts';
import { originOf } from '../src/model/failback.ts';
import { inputIssues, parameterProblem, runbookOf } from '../src/model/runbook-check.ts';
import { MODES, type Json, type Mode, type Runbook } from '../src/model/runbook-schema.ts';
import { serviceOf, unknownName, type Context } from '../src/systems/context.ts';
import { MASK } from '../src/systems/log.ts';
import { loadRunbook } from '../src/systems/runbook-file.ts';
import { withActivityFailures } from './failure.ts';

export interface PlanRequest {
  readonly type: 'failover' | 'runbook';
  readonly service: string | null;
  /** failover: which of the service's runbooks. */
  readonly purpose: string | null;
  /** runbook: its name. */
  readonly runbook: string | null;
  readonly mode: Mode;
  readonly parameters: Readonly<Record<string, unknown>>;
  /** SHA-256 that the runbook's document must have. */
  readonly expectedDocument?: string;
  /** failover: a runbook as YAML text, instead of the service's own. */
  readonly document?: string;
}

/** Deeper nesting is a circle, or nobody understands it any more. */
const DEEPEST_NESTING = 4;

/** Resolves runbook and configuration once, at the start: an edit never changes a recovery under way. */
export function createPlanActivities(context: Context) {
  return withActivityFailures({
    resolvePlan: (request: PlanRequest): Promise<Plan> => resolvePlan(context, request),
  });
}

export async function resolvePlan(context: Context, request: PlanRequest): Promise<Plan> {
  const { config } = context;
  if (!(MODES as readonly string[]).includes(request.mode)) throw unknownName('mode', String(request.mode), MODES);
  const service = request.service === null ? null : serviceOf(config, request.service);
  const runbook = request.document === undefined ? await namedRunbook(context, request, service) : givenRunbook(request, request.document);
  const parameters = resolveParameters(context, runbook, service, request.parameters);
  const expanded = expandForEach(runbook, parameters, config.services);
  const misfits = inputIssues(expanded, { service: request.service, mode: request.mode, parameters });
  if (misfits.length > 0) {
    throw new HoldfastError('parameters', misfits.map(({ path, message, found, allowed }) => `${pathText(path)}: ${message}; found ${found ?? 'nothing'}; allowed: ${allowed ?? 'see the step kind'}`).join('\n'), { next: 'correct the parameters and start again' });
  }
  const document = documentHash(runbook);
  if (request.expectedDocument !== undefined && request.expectedDocument !== document) {
    throw new HoldfastError('runbook-changed', `runbook ${runbook.name} was changed since the run that calls it began`, { next: 'what runs now is not what was planned: look at the change, then start anew' });
  }
  const nested = await nestedDocuments(context, expanded, service);
  const indexOf = new Map(expanded.steps.map((step, index) => [step.id, index]));
  const managedBy = (step: { readonly with: Readonly<Record<string, unknown>> }): PlannedStep['managed'] => {
    const given = step.with['datastore'];
    const reference = typeof given === 'string' ? /^\$\{parameters\.([^}]+)\}$/.exec(given)?.[1] : undefined;
    const name = reference === undefined ? given : parameters[reference];
    return typeof name === 'string' ? postgresNamed(config.datastores, name)?.managed?.type : undefined;
  };
  const steps = expanded.steps.map((step): PlannedStep => {
    const kind = stepKind(step.uses);
    const managed = managedBy(step);
    if (kind === undefined) throw new HoldfastError('unknown-step-kind', `step ${step.id} uses "${step.uses}", which is no step kind`, { next: 'run `holdfast validate`' });
    return {
      id: step.id,
      title: step.title,
      uses: step.uses,
      with: step.with as Record<string, Json>,
      included: step.modes.includes(request.mode),
      modes: step.modes,
      ...(step.needs === undefined ? {} : { needs: step.needs.map((id) => indexOf.get(id)!) }),
      ...(step.when === undefined ? {} : { when: step.when }),
      ...(step.after === undefined ? {} : { after: step.after }),
      applyMs: step.timeout ?? (managed === undefined ? kind.applyMs : (kind.managedApplyMs ?? kind.applyMs)),
      ...(managed === undefined ? {} : { managed }),
      attempts: step.attempts ?? kind.attempts,
      ...(step.retryDelay === undefined ? {} : { retryDelayMs: step.retryDelay }),
      ...(step.deadline === undefined ? {} : { deadlineMs: step.deadline }),
      ...(nested.has(step.id) ? { nestedDocument: nested.get(step.id)! } : {}),
    };
  });
  const counts = approvalCounts(service, request.purpose);
  const body: Omit<Plan, 'hash'> = {
    document,
    kind: request.type === 'runbook' ? 'runbook' : request.purpose === 'failback' ? 'failback' : 'failover',
    runbook: runbook.name,
    title: runbook.title,
    service: request.service,
    environment: config.environment,
    mode: request.mode,
    parameters,
    objectives:
      service === null
        ? null
        : { rtoMs: service.objectives.rto, rpoMs: service.objectives.rpo, refusedWritesMs: service.objectives.refusedWrites ?? null, lostWrites: service.objectives.lostWrites },
    approval: {
      count: counts[request.mode],
      counts,
      approvers: service?.approval.approvers ?? [],
      expiresMs: service?.approval.expires ?? 1_800_000,
    },
    readOnlyDeadlineMs: runbook.readOnlyDeadline,
    retryBudget: runbook.retryBudget,
    datastores: service?.datastores ?? [],
    steps,
    ...(service === null ? {} : { configuration: configurationHash(config, service) }),
    ...(service === null || request.type !== 'failover' ? {} : { gate: service.gate[request.mode] }),
  };
  return { ...body, hash: sha256(body) };
}

function sha256(value: unknown): string {
  return createHash('sha256').update(canonicalJson(value)).digest('hex');
}

/** Of what a run depends on beside its document; secrets stand there as references only. */
export function configurationHash(config: Config, service: ServiceConfig): string {
  const datastores = service.datastores.map((name) => {
    const datastore = config.datastores[name];
    return datastore === undefined || datastore.engine === 'postgres' ? { name, nodes: datastore?.nodes, endpoint: datastore?.endpoint ?? null, ...(datastore?.managed === undefined ? {} : { managed: datastore.managed }) } : { name, ...datastore };
  });
  return sha256({ datastores, parameters: service.parameters });
}

/** SHA-256 of a runbook's document, whatever its comments and spaces. */
export function documentHash(runbook: Runbook): string {
  return sha256(runbook);
}

/** The documents of nested runbooks as they are now, by step: what runs later must still be the same. @throws HoldfastError for a circle. */
async function nestedDocuments(context: Context, runbook: Runbook, service: ServiceConfig | null, above: readonly string[] = []): Promise<Map<string, string>> {
  const documents = new Map<string, string>();
  const path = [...above, runbook.name];
  for (const step of runbook.steps.filter(({ uses }) => uses === 'runbook.run')) {
    const { runbook: direct, purpose, service: named } = step.with;
    // What only a parameter or a fact will say is checked when it is known.
    const of = typeof named === 'string' && !named.includes('${') ? serviceOf(context.config, named) : service;
    const name = typeof direct === 'string' ? direct : typeof purpose === 'string' && of !== null ? of.runbooks[purpose] : undefined;
    if (name === undefined || name.includes('${')) continue;
    if (path.includes(name) || path.length >= DEEPEST_NESTING) {
      throw new HoldfastError('runbook-nesting', `runbook ${path.join(' -> ')} -> ${name}: ${path.includes(name) ? 'it runs itself' : `nested deeper than ${DEEPEST_NESTING}`}`, { next: 'let the steps of the inner runbook stand in the outer one' });
    }
    const inner = (await loadRunbook(context.runbookDirectory, name)).runbook;
    documents.set(step.id, documentHash(inner));
    await nestedDocuments(context, inner, of, path);
  }
  return documents;
}

async function namedRunbook(context: Context, request: PlanRequest, service: ServiceConfig | null): Promise<Runbook> {
  const name = request.type === 'runbook' ? request.runbook! : runbookFor(service!, request.service!, request.purpose ?? 'failover');
  return (await loadRunbook(context.runbookDirectory, name)).runbook;
}

/** The document of the input, under the rules of any runbook file. One that was generated says what it is for, and is held to it. */
function givenRunbook(request: PlanRequest, text: string): Runbook {
  const purpose = request.purpose ?? 'failover';
  if (purpose !== 'failover' && purpose !== 'failback') {
    throw new HoldfastError('document-purpose', `a document was given for the purpose "${purpose}"`, { next: 'use purpose failback or failover, or leave the document out' });
  }
  if (text.includes(MASK)) {
    throw new HoldfastError('document-masked', `a text of the document was masked (${MASK}) when it was written to evidence: it would not do what the failover did`, { next: 'use the document of the execution’s result (holdfast failback SERVICE --print), or put the value back' });
  }
  const document = parseDocument('document', text);
  const name = valueAt(document.value, ['name']);
  const { runbook, findings } = runbookOf(document, typeof name === 'string' ? name : '');
  if (runbook === undefined) {
    const errors = findings.filter(({ level }) => level === 'error');
    throw new HoldfastError('document-invalid', `${errors.length} error(s) in the document:\n${findings.map(formatFinding).join('\n')}`, { next: 'correct the lines above and start again' });
  }
  const origin = originOf(text);
  if (origin !== null && (origin.service !== request.service || origin.purpose !== purpose)) {
    throw new HoldfastError('document-foreign', `the document was generated for the ${origin.purpose} of ${origin.service}, not for the ${purpose} of ${request.service}`, { next: `start it with service ${origin.service} and purpose ${origin.purpose}` });
  }
  return runbook;
}

/** How many people must agree in each mode. The way back has a number of its own; forced, it is never fewer than that. */
function approvalCounts(service: ServiceConfig | null, purpose: string | null): Record<Mode, number> {
  if (service === null) return { planned: 0, forced: 0 };
  const { planned, forced, failback = planned } = service.approval;
  return purpose === 'failback' ? { planned: failback, forced: Math.max(failback, forced) } : { planned, forced };
}

function runbookFor(service: ServiceConfig, name: string, purpose: string): string {
  const runbook = Object.hasOwn(service.runbooks, purpose) ? service.runbooks[purpose] : undefined;
  if (runbook === undefined) {
    throw new HoldfastError('runbook-missing', `service ${name} has no runbook for "${purpose}"`, { next: `add it under services.${name}.runbooks; there are: ${Object.keys(service.runbooks).join(', ') || 'none'}` });
  }
  return runbook;
}

/** Request over service over default. Every problem at once. */
function resolveParameters(context: Context, runbook: Runbook, service: ServiceConfig | null, given: Readonly<Record<string, unknown>>): Record<string, Json> {
  const problems: string[] = [];
  for (const name of Object.keys(given)) if (!Object.hasOwn(runbook.parameters, name)) problems.push(`runbook ${runbook.name} has no parameter "${name}"; it has: ${Object.keys(runbook.parameters).join(', ') || 'none'}`);
  const result: Record<string, Json> = {};
  for (const [name, declared] of Object.entries(runbook.parameters)) {
    let value: unknown = Object.hasOwn(given, name) ? given[name] : undefined;
    value ??= service !== null && Object.hasOwn(service.parameters, name) ? service.parameters[name] : undefined;
    value ??= declared.default;
    // The one datastore a service has need not be said.
    if (value === undefined && name === 'datastore' && service !== null) {
      const databases = service.datastores.filter((datastore) => context.config.datastores[datastore]?.engine === 'postgres');
      if (databases.length === 1) value = databases[0];
    }
    if (value === undefined) {
      if (declared.required) problems.push(`parameter "${name}" (${declared.type}) is missing: ${declared.description}`);
      continue;
    }
    const wrong = parameterProblem(value, declared.type);
    if (wrong !== undefined) problems.push(`parameter "${name}": ${wrong}, found ${JSON.stringify(value)}`);
    else result[name] = value as Json;
  }
  if (problems.length > 0) throw new HoldfastError('parameters', problems.join('\n'), { next: 'correct the parameters and start again' });
  return result;
}
