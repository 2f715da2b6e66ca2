import type { CheckResult } from '../src/model/api.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { HoldfastError } from '../src/model/errors.ts';
import { formatDuration } from '../src/model/units.ts';
import { secretVersions } from '../src/systems/endpoint.ts';
import { changeKeys, endpointKeys, keyOf, readKeys, type KeyChange } from '../src/systems/kubernetes-config.ts';
import { connectKubernetes, mayDo, type Kubernetes } from '../src/systems/kubernetes.ts';
import { checksumOf, findWorkloads, progressOf, restartWorkload, RESOURCE, takeBackRestart, takenBy, type Workload } from '../src/systems/kubernetes-rollout.ts';
import { applicationAddress } from '../src/systems/postgres-node.ts';
import { check, datastoreFor, endpointSecret, guarded, nodeInput, optionalText, pause, secretRegion, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

async function clusterOf(step: StepRun): Promise<{ cluster: Kubernetes; namespace: string }> {
  const cluster = await connectKubernetes(step.context, textInput(step, 'cluster'), step.signal);
  return { cluster, namespace: optionalText(step, 'namespace') ?? cluster.namespace };
}

// ---------------------------------------------------------------- rollout

async function workloadsOf(step: StepRun, cluster: Kubernetes, namespace: string): Promise<{ workloads: Workload[]; missing: string[] }> {
  return findWorkloads(cluster, namespace, (step.input['workloads'] as string[] | undefined) ?? [], optionalText(step, 'selector'));
}

/** The version of the application's secret in Secrets Manager, where the step names the datastore whose secret it is. */
async function managedVersion(step: StepRun): Promise<string | null> {
  return optionalText(step, 'datastore') === undefined ? null : (await secretVersions(step.context, endpointSecret(step), secretRegion(step))).current;
}

async function wantedOf(step: StepRun, cluster: Kubernetes, workloads: readonly Workload[]): Promise<Map<string, string>> {
  const managed = await managedVersion(step);
  return new Map(await Promise.all(workloads.map(async (workload) => [workload.id, await checksumOf(cluster, workload, managed)] as const)));
}

const none = (step: StepRun): HoldfastError =>
  new HoldfastError('kubernetes-not-found', `step ${step.call.step}: nothing is there to restart${optionalText(step, 'selector') === undefined ? '' : `: no Deployment, StatefulSet or DaemonSet carries ${textInput(step, 'selector')}`}`, { next: 'correct workloads or selector' });

const rollout: StepDefinition = {
  async inspect(step) {
    const { cluster, namespace } = await clusterOf(step);
    const { workloads } = await workloadsOf(step, cluster, namespace);
    const wanted = await wantedOf(step, cluster, workloads);
    const done = workloads.filter((workload) => workload.restartedBy === step.call.key && workload.config === wanted.get(workload.id));
    return {
      satisfied: workloads.length > 0 && done.length === workloads.length,
      summary: workloads.length === 0 ? 'nothing is there to restart' : `${done.length} of ${workloads.length} restarted by this execution`,
      before: { namespace, workloads: workloads.map((workload) => ({ id: workload.id, replicas: workload.replicas, restartedBy: workload.restartedBy })) },
    };
  },
  async guard(step) {
    const { cluster, namespace } = await clusterOf(step);
    const { workloads, missing } = await workloadsOf(step, cluster, namespace);
    const checks: CheckResult[] = missing.map((id) => check(id, false, `${id} in namespace ${namespace}`, 'missing', 'correct workloads or namespace'));
    if (workloads.length === 0 && missing.length === 0) checks.push(check('workloads', false, `something in ${namespace} that carries ${optionalText(step, 'selector') ?? ''}`, 'nothing', 'correct selector or namespace'));
    for (const workload of workloads) {
      checks.push(check(workload.id, workload.problem === null, 'a restart takes effect by itself', workload.problem?.found ?? `${workload.replicas} replica(s)`, workload.problem?.next));
    }
    const asks = new Map<string, Parameters<typeof mayDo>[1]>();
    const ask = (verb: string, group: string, resource: string, name?: string): void => void asks.set(`${verb} ${resource}${name === undefined ? '' : `/${name}`}`, { verb, group, resource, namespace, ...(name === undefined ? {} : { name }) });
    for (const { kind, name } of workloads) ask('patch', 'apps', RESOURCE[kind], name);
    for (const { kind, name } of workloads) ask('get', 'apps', RESOURCE[kind], name);
    ask('list', '', 'pods');
    for (const workload of workloads) {
      const taken = takenBy(workload);
      for (const name of taken.secrets) ask('get', '', 'secrets', name);
      for (const name of taken.configMaps) ask('get', '', 'configmaps', name);
    }
    checks.push(...(await rights(cluster, namespace, asks)));
    if (optionalText(step, 'datastore') !== undefined) checks.push(check('secret readable', true, endpointSecret(step), `version ${(await managedVersion(step)) ?? ''}`));
    return guarded(checks);
  },
  async apply(step) {
    const { cluster, namespace } = await clusterOf(step);
    const { workloads, missing } = await workloadsOf(step, cluster, namespace);
    if (missing.length > 0 || workloads.length === 0) throw missing.length === 0 ? none(step) : new HoldfastError('kubernetes-not-found', `step ${step.call.step}: ${missing.join(', ')} is not in namespace ${namespace}`, { next: 'correct workloads or namespace' });
    const wanted = await wantedOf(step, cluster, workloads);
    const changed: string[] = [];
    for (const workload of workloads) {
      step.heartbeat({ restarted: changed });
      if (await restartWorkload(cluster, workload, { key: step.call.key, config: wanted.get(workload.id)! })) changed.push(workload.id);
    }
    const names = workloads.map(({ id }) => id);
    const facts = { workloads: names, config: [...new Set(wanted.values())].join(' '), restartedAtMs: step.nowMs() };
    if (changed.length === 0) return { outcome: 'already-satisfied', summary: `${names.join(', ')} restarted by this execution already`, facts };
    return { outcome: 'changed', summary: `restarted ${changed.join(', ')}`, before: workloads.map((workload) => ({ id: workload.id, restartedBy: workload.restartedBy, config: workload.config })), after: { restartedBy: step.call.key }, facts };
  },
  async verify(step) {
    const { cluster, namespace } = await clusterOf(step);
    // Measured from the restart, so that a worker that was lost meanwhile does not give it more time.
    const begunMs = typeof step.call.facts['restartedAtMs'] === 'number' ? step.call.facts['restartedAtMs'] : step.nowMs();
    const deadlineMs = begunMs + (step.input['timeout'] as number);
    for (;;) {
      const { workloads, missing } = await workloadsOf(step, cluster, namespace);
      if (missing.length > 0 || workloads.length === 0) throw none(step);
      const seen = await Promise.all(workloads.map(async (workload) => ({ workload, ...(await progressOf(cluster, workload)) })));
      const open = seen.filter(({ state }) => state !== 'available');
      if (open.length === 0) return verified(step, cluster, workloads);
      const late = step.nowMs() >= deadlineMs;
      if (late || open.some(({ state }) => state !== 'under way')) {
        const checks = seen.map(({ workload, state, found, pods }) =>
          check(workload.id, state === 'available', 'its new pods are available', [found, ...pods].join('; '), state === 'taken back' ? 'whatever manages it (Argo CD, Flux, an operator) undoes the restart: have it restart the workload, or pause it, then retry' : 'correct what the pod says, then retry; or skip'),
        );
        return { checks, summary: late ? `not available within ${formatDuration(step.input['timeout'] as number)}` : `the rollout of ${open.map(({ workload }) => workload.id).join(', ')} failed` };
      }
      step.heartbeat({ waitingFor: open.map(({ workload, found, pods }) => [workload.id, found, ...pods.slice(0, 2)].join(': ')) });
      await pause(500, step.signal);
    }
  },
  async undo(step) {
    const { cluster, namespace } = await clusterOf(step);
    const { workloads } = await workloadsOf(step, cluster, namespace);
    const back: string[] = [];
    for (const workload of workloads) if (await takeBackRestart(cluster, workload, step.call.key)) back.push(workload.id);
    if (back.length === 0) return { outcome: 'already-satisfied', summary: 'nothing was restarted by this execution, or it was restarted again since' };
    return { outcome: 'changed', summary: `${back.join(', ')}: the pod template is as before, so pods start once more with the configuration of now; not waited for` };
  },
};

/** All are available; and with the configuration of now? */
async function verified(step: StepRun, cluster: Kubernetes, workloads: readonly Workload[]): Promise<PhaseResult> {
  const wanted = await wantedOf(step, cluster, workloads);
  const checks = workloads.flatMap((workload) => [
    check(workload.id, true, 'its new pods are available', `${workload.replicas} available`),
    check(`${workload.id}: configuration`, workload.config === wanted.get(workload.id), 'the version of now', workload.config === wanted.get(workload.id) ? 'the version of now' : 'it was changed after the restart', 'look who changed it; retry restarts the workload once more'),
  ]);
  const availableAtMs = step.nowMs();
  return { checks, summary: `${workloads.map(({ id }) => id).join(', ')} available`, facts: { availableAtMs } };
}

async function rights(cluster: Kubernetes, namespace: string, asks: ReadonlyMap<string, Parameters<typeof mayDo>[1]>): Promise<CheckResult[]> {
  const answers = await Promise.all([...asks].map(async ([what, ask]) => ({ what, ...(await mayDo(cluster, ask)) })));
  const denied = answers.filter(({ allowed }) => !allowed);
  if (denied.length === 0) return [check('rights', true, `${answers.length} right(s) in ${namespace}`, 'all granted')];
  return denied.map(({ what, found }) => check(`right to ${what}`, false, `${what} in ${namespace} is allowed`, found, 'grant it by a Role; docs/kubernetes.md has one'));
}

// ---------------------------------------------------------------- Secret or ConfigMap

function keysInput(step: StepRun) {
  const keys = (name: string): string[] => (step.input[name] as string[] | undefined) ?? [];
  return endpointKeys({ hostKeys: keys('hostKeys'), portKeys: keys('portKeys'), addressKeys: keys('addressKeys'), urlKeys: keys('urlKeys') });
}

async function objectOf(step: StepRun) {
  const { cluster, namespace } = await clusterOf(step);
  const secret = optionalText(step, 'secret');
  const place = { kind: secret === undefined ? ('configmap' as const) : ('secret' as const), name: secret ?? textInput(step, 'configMap'), namespace };
  return { cluster, place, what: `${place.kind} ${namespace}/${place.name}` };
}

const config: StepDefinition = {
  async inspect(step) {
    const { cluster, place, what } = await objectOf(step);
    const { nodes } = datastoreFor(step);
    const object = await readKeys(cluster, place);
    if (object === undefined) return { satisfied: false, summary: `${what} is missing` };
    const points = keysInput(step).map((key) => keyOf(object, key, nodes));
    const candidate = optionalText(step, 'candidate');
    const wanted = candidate === undefined ? undefined : applicationAddress(nodes[nodeInput(step, 'candidate')]!);
    return {
      satisfied: wanted !== undefined && points.every((point) => point.fits(wanted)),
      summary: `${what}: ${points.map((point) => `${point.key} ${point.said}`).join(', ')}`,
      before: { resourceVersion: object.resourceVersion, points: points.map((point) => `${point.key} ${point.said}`) },
    };
  },
  async guard(step) {
    const { cluster, place, what } = await objectOf(step);
    const { nodes } = datastoreFor(step);
    const object = await readKeys(cluster, place);
    const checks = [check(what, object !== undefined, 'it exists', object === undefined ? 'missing' : `version ${object.resourceVersion}`, 'create it, or correct the name')];
    if (object !== undefined) {
      checks.push(check('changeable', !object.immutable, 'not immutable', object.immutable ? 'immutable: true' : 'changeable', 'an immutable one can only be replaced under another name: use another way to tell the application'));
      for (const key of keysInput(step)) {
        const point = keyOf(object, key, nodes);
        // Whatever else stands there may be a secret, and must not be overwritten with an address.
        checks.push(check(`key ${key.key}`, point.known, `${key.as === 'url' ? 'a URL with the address' : `the ${key.as}`} of a node of ${textInput(step, 'datastore')}`, point.said, 'correct the key, or the node addresses'));
      }
    }
    const resource = place.kind === 'secret' ? 'secrets' : 'configmaps';
    checks.push(...(await rights(cluster, place.namespace, new Map(['get', 'patch'].map((verb) => [`${verb} ${resource}/${place.name}`, { verb, resource, namespace: place.namespace, name: place.name }])))));
    return guarded(checks);
  },
  async apply(step) {
    const { cluster, place, what } = await objectOf(step);
    const { nodes } = datastoreFor(step);
    const candidate = nodeInput(step, 'candidate');
    const change: KeyChange = await changeKeys(cluster, place, keysInput(step), nodes, applicationAddress(nodes[candidate]!), step.call.key);
    const facts = { resourceVersion: change.resourceVersion, from: change.from };
    if (!change.changed) return { outcome: 'already-satisfied', summary: `${what} points to ${candidate} already`, facts };
    return { outcome: 'changed', summary: `${what} points to ${candidate}; pods take it when they start`, before: { points: change.from }, after: { points: candidate, resourceVersion: change.resourceVersion }, facts };
  },
  async verify(step) {
    const { cluster, place, what } = await objectOf(step);
    const { nodes } = datastoreFor(step);
    const candidate = nodeInput(step, 'candidate');
    const object = await readKeys(cluster, place);
    const wanted = applicationAddress(nodes[candidate]!);
    const checks = keysInput(step).map((key) => {
      const point = object === undefined ? undefined : keyOf(object, key, nodes);
      return check(`key ${key.key}`, point?.fits(wanted) === true, `points to ${candidate}`, point?.said ?? 'missing', 'something put it back (GitOps, an operator of secrets)? Change it at its source, then retry');
    });
    return { checks, summary: `${what} is read back` };
  },
  async undo(step) {
    const { cluster, place, what } = await objectOf(step);
    const back = await changeKeys(cluster, place, keysInput(step), datastoreFor(step).nodes, 'before', step.call.key);
    if (!back.changed) return { outcome: 'already-satisfied', summary: `${what} was not changed by this execution, or was changed again since` };
    return { outcome: 'changed', summary: `${what} points to ${back.from} again` };
  },
};

export const kubernetesSteps: Readonly<Record<string, StepDefinition>> = { 'kubernetes.rollout': rollout, 'kubernetes.config': config };
