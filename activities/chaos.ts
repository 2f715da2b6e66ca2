import { createHash } from 'node:crypto';
import { Context as ActivityContext } from '@temporalio/activity';
import type { CheckResult } from '../src/model/api.ts';
import { isProduction } from '../src/model/config-chaos.ts';
import type { ServiceConfig } from '../src/model/config-schema.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import type { PhaseResult, Progress } from '../src/model/execution.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatDuration } from '../src/model/units.ts';
import { serviceOf, unknownName } from '../src/systems/context.ts';
import { awaitReplacement, connectKubernetes, deletePods, mayDo, readyPods, type Kubernetes, type PodIdentity } from '../src/systems/kubernetes.ts';
import { readFence } from '../src/systems/postgres-fence.ts';
import { forgetKill, killServer, killedBefore } from '../src/systems/postgres-kill.ts';
import { hasHostAccess, hostState, nodeStatus, startOnHost, withNode } from '../src/systems/postgres-node.ts';
import { lookAtRoles } from '../src/systems/postgres-roles.ts';
import { linkAt, type Link } from '../src/systems/toxiproxy.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

type Breakable = NonNullable<ServiceConfig['chaos']>['allowed'][number];

const HOST_MS = 30_000;

// --- may it be broken at all -------------------------------------------------------------------------------------------------------

function allowedChecks(step: StepRun, what: Breakable): CheckResult[] {
  const { service, environment } = step.call;
  if (service === null) return [check('service', false, 'a service that allows it', 'the run is for none', 'start it with --service <name>')];
  const { chaos } = serviceOf(step.context.config, service);
  return [
    check('allowed', chaos?.allowed.includes(what) === true, `services.${service}.chaos.allowed names ${what}`, chaos === undefined ? 'no chaos is allowed' : chaos.allowed.join(', '), `add ${what} to services.${service}.chaos.allowed, if this service may be broken on purpose`),
    ...(isProduction(environment) ? [check('production', chaos?.production === true, `services.${service}.chaos.production: true, since the environment is ${environment}`, String(chaos?.production ?? false), 'rehearse it elsewhere first')] : []),
  ];
}

/** Asked again right before something is broken; in production somebody else must have approved this very run. */
async function mayBreak(step: StepRun, what: Breakable): Promise<void> {
  const refused = allowedChecks(step, what).find(({ ok }) => !ok);
  if (refused !== undefined) throw new HoldfastError('chaos-refused', `nothing was broken: ${refused.name}: expected ${refused.expected}, found ${refused.found}`, { next: refused.next! });
  if (!isProduction(step.call.environment)) return;
  const approved = await approvedBy(step);
  if (approved.length === 0) throw new HoldfastError('chaos-refused', `nothing was broken: the environment is ${step.call.environment} and nobody other than the requester has approved this run`, { next: 'put an operator.approval step with count 1 or more before it' });
}

/** As the run itself says; the engine takes no approval from the one who asked. */
async function approvedBy(step: StepRun): Promise<readonly string[]> {
  try {
    const { client } = ActivityContext.current();
    const { state } = await client.workflow.getHandle(step.call.workflowId, step.call.runId).query<Progress>('progress');
    return state === null ? [] : state.decisions.filter(({ action }) => action === 'approve').map(({ by }) => by);
  } catch (error) {
    throw new HoldfastError('chaos-refused', `nothing was broken: whether the run was approved could not be asked: ${messageOf(error)}`, { next: 'try again when Temporal answers', retryable: true, cause: error });
  }
}

// --- the primary -------------------------------------------------------------------------------------------------------------------

function hostOf(step: StepRun, node: string) {
  const found = datastoreFor(step).nodes[node]!;
  if (!hasHostAccess(found)) throw new HoldfastError('chaos-host', `${node} has no dataDirectory: its server cannot be killed from here`, { next: `give nodes.${node} dataDirectory and exec` });
  return found;
}

const limited = (step: StepRun): AbortSignal => AbortSignal.any([step.signal, AbortSignal.timeout(HOST_MS)]);

const killPrimary: StepDefinition = {
  async inspect(step) {
    const given = optionalText(step, 'primary');
    if (given === undefined || !hasHostAccess(datastoreFor(step).nodes[given]!)) return { satisfied: false, summary: 'not killed' };
    const primary = nodeInput(step, 'primary');
    const host = hostOf(step, primary);
    const [before, state] = [await killedBefore(host, step.call.key, limited(step)), await hostState(host, limited(step))];
    if (before === null) return { satisfied: false, summary: `the server of ${primary} is ${state}`, before: { node: primary, state } };
    // Written before the signals: a server that still runs was not reached by them.
    if (state === 'running') return { satisfied: false, summary: `the server of ${primary} runs`, before: { node: primary, state } };
    return { satisfied: true, summary: `the server of ${primary} was killed`, before: { node: primary, state }, facts: { node: primary, killedAtMs: before.atMs, processes: before.processes, objectiveMs: step.input['objective'] as number } };
  },
  async guard(step) {
    const allowed = allowedChecks(step, 'killPrimary');
    const given = optionalText(step, 'primary');
    if (given === undefined) return guarded(allowed);
    const datastore = datastoreFor(step);
    const node = datastore.nodes[nodeInput(step, 'primary')]!;
    if (!hasHostAccess(node)) return guarded([...allowed, check('host', false, `${given} can be reached on its host`, 'no dataDirectory', `give nodes.${given} dataDirectory and exec`)]);
    const [roles, state] = await Promise.all([lookAtRoles(step.context, datastore, {}), hostState(node, limited(step))]);
    const candidate = roles.candidate === null ? undefined : roles.statuses.get(roles.candidate);
    return guarded([
      ...allowed,
      check('primary', roles.primary === given, `${given} is the primary`, roles.primary),
      check('server', state === 'running', `the server of ${given} runs, as its host says`, state, 'check dataDirectory and exec'),
      check('candidate', candidate?.receiverStatus === 'streaming', 'a standby streams: without one this is an outage and no drill', roles.candidate === null ? 'none' : `${roles.candidate}: ${candidate?.receiverStatus ?? 'no stream'}`, 'rebuild a standby first'),
    ]);
  },
  async apply(step) {
    await mayBreak(step, 'killPrimary');
    const primary = nodeInput(step, 'primary');
    const host = hostOf(step, primary);
    const before = await killedBefore(host, step.call.key, limited(step));
    if (before !== null && (await hostState(host, limited(step))) === 'stopped') {
      return { outcome: 'already-satisfied', summary: `the server of ${primary} was killed by an earlier attempt`, facts: { node: primary, killedAtMs: before.atMs, processes: before.processes, objectiveMs: step.input['objective'] as number } };
    }
    const killed = await killServer(host, step.call.key, limited(step));
    step.log.warn({ node: primary, processes: killed.processes }, 'killed the primary for a drill');
    return { outcome: 'changed', summary: `killed ${killed.processes} processes of the server of ${primary}`, after: { state: 'killed' }, facts: { node: primary, killedAtMs: killed.atMs, processes: killed.processes, objectiveMs: step.input['objective'] as number } };
  },
  async verify(step) {
    const primary = nodeInput(step, 'primary');
    const [state, status] = await Promise.all([hostState(hostOf(step, primary), limited(step)), nodeStatus(step.context, datastoreFor(step), primary)]);
    return { checks: [check('killed', state === 'stopped' && !status.reachable, `${primary} does not run and does not answer`, `${state}, ${status.reachable ? 'answers' : 'does not answer'}`, 'something started it again: is there a controller or a service manager?')], summary: `${primary} is down` };
  },
  /** Only while it is still the one: after a promotion it would be a second primary. */
  async undo(step) {
    const primary = nodeInput(step, 'primary');
    const datastore = datastoreFor(step);
    const host = hostOf(step, primary);
    if ((await hostState(host, limited(step))) === 'running') {
      await forgetKill(host, limited(step));
      return { outcome: 'already-satisfied', summary: `${primary} runs` };
    }
    const { statuses, primary: pointed } = await lookAtRoles(step.context, datastore, {});
    const promoted = [...statuses.values()].find((status) => status.node !== primary && status.inRecovery === false);
    const unclear = [...statuses.values()].filter((status) => status.node !== primary && status.inRecovery === null);
    if (promoted !== undefined || pointed !== primary) return { outcome: 'already-satisfied', summary: `${primary} stays down: ${promoted?.node ?? pointed} is the primary now; rebuild it as a standby (runbook standby-rebuild)` };
    if (unclear.length > 0) throw new HoldfastError('chaos-undo-unclear', `${primary} was not started again: whether ${unclear.map(({ node }) => node).join(', ')} was promoted is not known`, { next: `look at them; if none is a primary, start ${primary} by hand`, retryable: true });
    await startOnHost(host, AbortSignal.any([step.signal, AbortSignal.timeout(50_000)]));
    const fence = await withNode(step.context, datastore, primary, (client) => readFence(client)).catch(() => null);
    await forgetKill(host, limited(step));
    return { outcome: 'changed', summary: `${primary} was started again${fence?.epoch == null ? '' : `; it is fenced (epoch ${fence.epoch})`}` };
  },
};

// --- pods --------------------------------------------------------------------------------------------------------------------------

async function clusterOf(step: StepRun): Promise<{ kubernetes: Kubernetes; namespace: string; selector: string }> {
  const kubernetes = await connectKubernetes(step.context, textInput(step, 'cluster'), step.signal);
  return { kubernetes, namespace: optionalText(step, 'namespace') ?? kubernetes.namespace, selector: textInput(step, 'selector') };
}

function chosen(value: unknown): readonly PodIdentity[] | null {
  return Array.isArray(value) && value.every((item) => typeof (item as PodIdentity | null)?.uid === 'string') ? (value as PodIdentity[]) : null;
}

const pod: StepDefinition = {
  /** Which ones is decided once: a later attempt must not delete others. */
  async inspect(step) {
    const before = chosen(step.call.facts['pods']);
    if (before !== null) return { satisfied: false, summary: `chosen before: ${before.map(({ name }) => name).join(', ')}`, before: before as unknown as Json };
    const { kubernetes, namespace, selector } = await clusterOf(step);
    const ready = [...(await readyPods(kubernetes, namespace, selector))].sort((a, b) => a.name.localeCompare(b.name));
    const pods = ready.slice(0, step.input['count'] as number).map(({ name, uid }) => ({ name, uid }));
    return { satisfied: false, summary: `${ready.length} ready; chosen: ${pods.map(({ name }) => name).join(', ')}`, before: pods, facts: { pods, readyBefore: ready.length } };
  },
  async guard(step) {
    const allowed = allowedChecks(step, 'pod');
    const { kubernetes, namespace, selector } = await clusterOf(step);
    const [ready, right] = [await readyPods(kubernetes, namespace, selector), await mayDo(kubernetes, { verb: 'delete', resource: 'pods', namespace })];
    const count = step.input['count'] as number;
    return guarded([
      ...allowed,
      check('ready pods', ready.length >= count, `at least ${count} of ${selector} in ${namespace}`, String(ready.length), 'correct the selector, or look why they are not ready'),
      check('right to delete pods', right.allowed, 'allowed', right.found, `allow the worker's account the verb delete on pods in ${namespace}`),
    ]);
  },
  async apply(step) {
    await mayBreak(step, 'pod');
    const pods = chosen(step.call.facts['pods']) ?? chosen(step.call.before);
    if (pods === null || pods.length === 0) throw new HoldfastError('chaos-pods', 'no ready pod was chosen', { next: 'look why none is ready' });
    const { kubernetes, namespace } = await clusterOf(step);
    const atMs = step.nowMs();
    const deleted = await deletePods(kubernetes, namespace, pods, { graceSeconds: step.input['graceSeconds'] as number });
    const known = step.call.facts['deletedAtMs'];
    return {
      outcome: deleted.length === 0 ? 'already-satisfied' : 'changed', summary: deleted.length === 0 ? 'they were deleted by an earlier attempt' : `deleted ${deleted.map(({ name }) => name).join(', ')}`,
      facts: { deletedAtMs: typeof known === 'number' ? known : deleted.length === 0 ? null : atMs, objectiveMs: step.input['objective'] as number },
    };
  },
  async verify(step) {
    const { kubernetes, namespace, selector } = await clusterOf(step);
    const gone = chosen(step.call.facts['pods']) ?? [];
    const count = Number(step.call.facts['readyBefore'] ?? gone.length);
    const limit = step.input['objective'] as number;
    const since = typeof step.call.facts['deletedAtMs'] === 'number' ? step.call.facts['deletedAtMs'] : null;
    const found = await awaitReplacement(kubernetes, { namespace, selector, gone, count, deadlineMs: (since ?? step.nowMs()) + limit, nowMs: step.nowMs, heartbeat: step.heartbeat });
    return {
      checks: [check('replaced', found.complete, `${count} ready pods, none of them among the deleted, within ${formatDuration(limit)}`, `${found.ready.length}${found.notReady.length === 0 ? '' : `; ${found.notReady.join('; ')}`}`, 'look at: kubectl describe pod')],
      summary: found.complete ? `${found.ready.length} are ready again` : 'not replaced in time',
      ...(found.complete && since !== null ? { facts: { recoveredMs: Math.max(0, found.atMs - since) } } : {}),
    };
  },
};

// --- links -------------------------------------------------------------------------------------------------------------------------

function linkOf(step: StepRun): Link {
  const name = textInput(step, 'link');
  const links = step.call.service === null ? {} : (serviceOf(step.context.config, step.call.service).chaos?.links ?? {});
  if (!Object.hasOwn(links, name)) throw unknownName('link', name, Object.keys(links));
  return linkAt(links[name]!, step.signal);
}

/** The same for every step of the run, so that `restore` finds what an earlier one added; of the run, so that nobody else's is removed. */
function toxicOf(step: StepRun): string {
  return `holdfast-${createHash('sha256').update(`${step.call.workflowId}\0${step.call.runId}`).digest('hex').slice(0, 12)}`;
}

async function broken(step: StepRun): Promise<{ cut: boolean; slowed: boolean }> {
  const state = await linkOf(step).look();
  return { cut: !state.enabled, slowed: state.toxics.some((toxic) => toxic.startsWith(toxicOf(step))) };
}

async function heal(step: StepRun): Promise<void> {
  const link = linkOf(step);
  await link.removeToxic(toxicOf(step));
  // A cut that somebody else made is theirs.
  if (step.input['effect'] !== 'latency') await link.setEnabled(true);
}

const proxyLink: StepDefinition = {
  async inspect(step) {
    const { cut, slowed } = await broken(step);
    const effect = step.input['effect'];
    const satisfied = effect === 'cut' ? cut : effect === 'latency' ? slowed : !cut && !slowed;
    return { satisfied, summary: cut ? 'the link is cut' : slowed ? 'the link is slowed' : 'the link is whole', before: { cut, slowed } };
  },
  async guard(step) {
    const allowed = allowedChecks(step, 'proxyLink');
    if (step.input['effect'] === 'restore') return guarded(allowed);
    const { cut } = await broken(step);
    return guarded([...allowed, check('link', !cut, 'whole: otherwise nobody knows who cut it', cut ? 'cut' : 'whole', 'heal it first')]);
  },
  async apply(step): Promise<PhaseResult> {
    await mayBreak(step, 'proxyLink');
    const effect = String(step.input['effect']);
    if (effect === 'restore') {
      await heal(step);
      return { outcome: 'changed', summary: 'the link is whole again', facts: { restoredAtMs: step.nowMs() } };
    }
    const atMs = step.nowMs();
    if (effect === 'cut') await linkOf(step).setEnabled(false);
    else await linkOf(step).addLatency(toxicOf(step), step.input['latency'] as number);
    return { outcome: 'changed', summary: effect === 'cut' ? 'the link is cut' : `each direction of the link is ${formatDuration(step.input['latency'] as number)} slower`, facts: { brokenAtMs: atMs } };
  },
  async verify(step) {
    const { cut, slowed } = await broken(step);
    const effect = step.input['effect'];
    const ok = effect === 'cut' ? cut : effect === 'latency' ? slowed : !cut && !slowed;
    return { checks: [check('link', ok, effect === 'restore' ? 'whole' : String(effect), cut ? 'cut' : slowed ? 'slowed' : 'whole')], summary: cut ? 'cut' : slowed ? 'slowed' : 'whole' };
  },
  async undo(step) {
    const { cut, slowed } = await broken(step);
    if (step.input['effect'] === 'restore' || (!cut && !slowed)) return { outcome: 'already-satisfied', summary: 'the link is whole' };
    await heal(step);
    return { outcome: 'changed', summary: 'the link is whole again' };
  },
};

export const chaosSteps: Readonly<Record<string, StepDefinition>> = { 'chaos.killPrimary': killPrimary, 'chaos.pod': pod, 'chaos.proxyLink': proxyLink };
