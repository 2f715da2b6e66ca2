import { createHash } from 'node:crypto';
import type { V1DaemonSet, V1Deployment, V1LabelSelector, V1PodTemplateSpec, V1StatefulSet } from '@kubernetes/client-node';
import { HoldfastError } from '../model/errors.ts';
import { configOf, listAll, listPods, selectorText, whyNotReady, type Kubernetes } from './kubernetes.ts';

export type WorkloadKind = 'deployment' | 'statefulset' | 'daemonset';
export const RESOURCE: Readonly<Record<WorkloadKind, string>> = { deployment: 'deployments', statefulset: 'statefulsets', daemonset: 'daemonsets' };

/** On the pod template: whose restart its pods come from, and which configuration they were to take. */
const RESTART = 'holdfast/restart';
const CONFIG = 'holdfast/config';
/** On the workload itself: what both were before the restart of the execution that it names. */
const BEFORE = 'holdfast/before-restart';

/** A workload as it is now. */
export interface Workload {
  /** `deployment/web`. */
  readonly id: string;
  readonly kind: WorkloadKind;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly resourceVersion: string;
  readonly replicas: number;
  readonly template: V1PodTemplateSpec | undefined;
  readonly selector: V1LabelSelector | undefined;
  readonly restartedBy: string | null;
  readonly config: string | null;
  readonly before: string | null;
  /** Why a changed template would not restart all of its pods. */
  readonly problem: { readonly found: string; readonly next: string } | null;
  /** `available`, `failed`, or what is still missing. */
  readonly rollout: { readonly state: 'available' | 'failed' | 'under way'; readonly found: string };
}

type Raw = { readonly kind: 'deployment'; readonly object: V1Deployment } | { readonly kind: 'statefulset'; readonly object: V1StatefulSet } | { readonly kind: 'daemonset'; readonly object: V1DaemonSet };

/** The named ones and those that carry the selector, each once; and the named ones that are not there. */
export async function findWorkloads(kubernetes: Kubernetes, namespace: string, ids: readonly string[], selector: string | undefined): Promise<{ workloads: Workload[]; missing: string[] }> {
  const found = new Map<string, Workload>();
  const missing: string[] = [];
  for (const id of new Set(ids)) {
    const [kind, name] = id.split('/') as [WorkloadKind, string];
    const workload = await readWorkload(kubernetes, namespace, kind, name);
    if (workload === undefined) missing.push(id);
    else found.set(id, workload);
  }
  if (selector !== undefined) for (const workload of await listWorkloads(kubernetes, namespace, selector)) found.set(workload.id, workload);
  return { workloads: [...found.values()].sort((a, b) => (a.id < b.id ? -1 : 1)), missing };
}

async function readWorkload(kubernetes: Kubernetes, namespace: string, kind: WorkloadKind, name: string): Promise<Workload | undefined> {
  const { apps } = kubernetes;
  const what = `read ${kind} ${namespace}/${name}`;
  switch (kind) {
    case 'deployment': {
      const object = await kubernetes.find(what, () => apps.readNamespacedDeployment({ name, namespace }));
      return object && workloadOf({ kind, object });
    }
    case 'statefulset': {
      const object = await kubernetes.find(what, () => apps.readNamespacedStatefulSet({ name, namespace }));
      return object && workloadOf({ kind, object });
    }
    case 'daemonset': {
      const object = await kubernetes.find(what, () => apps.readNamespacedDaemonSet({ name, namespace }));
      return object && workloadOf({ kind, object });
    }
    default:
      return kind satisfies never;
  }
}

async function listWorkloads(kubernetes: Kubernetes, namespace: string, labelSelector: string): Promise<Workload[]> {
  const { apps } = kubernetes;
  const what = (kind: WorkloadKind): string => `list ${RESOURCE[kind]} of ${namespace} with ${labelSelector}`;
  const [deployments, statefulSets, daemonSets] = await Promise.all([
    listAll(kubernetes, what('deployment'), (page) => apps.listNamespacedDeployment({ namespace, labelSelector, ...page })),
    listAll(kubernetes, what('statefulset'), (page) => apps.listNamespacedStatefulSet({ namespace, labelSelector, ...page })),
    listAll(kubernetes, what('daemonset'), (page) => apps.listNamespacedDaemonSet({ namespace, labelSelector, ...page })),
  ]);
  return [
    ...deployments.map((object) => workloadOf({ kind: 'deployment', object })),
    ...statefulSets.map((object) => workloadOf({ kind: 'statefulset', object })),
    ...daemonSets.map((object) => workloadOf({ kind: 'daemonset', object })),
  ];
}

function workloadOf(raw: Raw): Workload {
  const { kind, object } = raw;
  const { name, namespace, uid, resourceVersion, annotations } = object.metadata!;
  const template = object.spec?.template;
  return {
    id: `${kind}/${name}`,
    kind,
    name: name!,
    namespace: namespace!,
    uid: uid!,
    resourceVersion: resourceVersion!,
    replicas: kind === 'daemonset' ? (object.status?.desiredNumberScheduled ?? 0) : (object.spec?.replicas ?? 1),
    template,
    selector: object.spec?.selector,
    restartedBy: template?.metadata?.annotations?.[RESTART] ?? null,
    config: template?.metadata?.annotations?.[CONFIG] ?? null,
    before: annotations?.[BEFORE] ?? null,
    problem: problemOf(raw),
    rollout: rolloutOf(raw),
  };
}

function problemOf(raw: Raw): Workload['problem'] {
  if (raw.object.metadata?.deletionTimestamp !== undefined) return { found: 'it is being deleted', next: 'find out who deletes it' };
  switch (raw.kind) {
    case 'deployment':
      return raw.object.spec?.paused === true ? { found: 'paused: a changed template starts no pod', next: `kubectl rollout resume deployment/${raw.object.metadata?.name}, when whoever paused it agrees` } : null;
    case 'statefulset': {
      const { type, rollingUpdate } = raw.object.spec?.updateStrategy ?? {};
      if (type === 'OnDelete') return { found: 'updateStrategy OnDelete: pods are replaced only when somebody deletes them', next: 'delete its pods by the command or by hand, or set RollingUpdate' };
      if ((rollingUpdate?.partition ?? 0) > 0) return { found: `partition ${rollingUpdate!.partition}: pods below it are not replaced`, next: 'set updateStrategy.rollingUpdate.partition to 0' };
      return null;
    }
    case 'daemonset':
      return raw.object.spec?.updateStrategy?.type === 'OnDelete' ? { found: 'updateStrategy OnDelete: pods are replaced only when somebody deletes them', next: 'delete its pods by the command or by hand, or set RollingUpdate' } : null;
    default:
      return raw satisfies never;
  }
}

/** Complete as `kubectl rollout status` counts it: the controller has seen this template, all pods are of it and available, none is old. */
function rolloutOf(raw: Raw): Workload['rollout'] {
  const { generation } = raw.object.metadata!;
  const missing = (found: string): Workload['rollout'] => ({ state: 'under way', found });
  if ((raw.object.status?.observedGeneration ?? 0) < (generation ?? 0)) return missing('its controller has not looked at the change yet');
  switch (raw.kind) {
    case 'deployment': {
      const { spec, status } = raw.object;
      if (spec?.paused === true) return missing('it is paused');
      const progressing = status?.conditions?.find(({ type }) => type === 'Progressing');
      const failure = status?.conditions?.find(({ type, status: value }) => type === 'ReplicaFailure' && value === 'True');
      const [wanted, updated, all, available] = [spec?.replicas ?? 1, status?.updatedReplicas ?? 0, status?.replicas ?? 0, status?.availableReplicas ?? 0];
      const counts = `${updated} of ${wanted} started anew, ${Math.max(0, all - updated)} old left, ${available} available${failure === undefined ? '' : `; ${failure.reason ?? 'ReplicaFailure'}: ${(failure.message ?? '').slice(0, 200)}`}`;
      if (progressing?.status === 'False' && progressing.reason === 'ProgressDeadlineExceeded') return { state: 'failed', found: `ProgressDeadlineExceeded after ${spec?.progressDeadlineSeconds ?? 600} s: ${counts}` };
      return updated >= wanted && all <= updated && available >= updated ? { state: 'available', found: counts } : missing(counts);
    }
    case 'statefulset': {
      const { spec, status } = raw.object;
      const [wanted, updated, ready, available] = [spec?.replicas ?? 1, status?.updatedReplicas ?? 0, status?.readyReplicas ?? 0, status?.availableReplicas ?? 0];
      const counts = `${updated} of ${wanted} started anew, ${ready} ready, ${available} available`;
      const complete = wanted === 0 || (status?.updateRevision === status?.currentRevision && ready >= wanted && available >= wanted);
      return complete ? { state: 'available', found: counts } : missing(counts);
    }
    case 'daemonset': {
      const { status } = raw.object;
      const [wanted, updated, available] = [status?.desiredNumberScheduled ?? 0, status?.updatedNumberScheduled ?? 0, status?.numberAvailable ?? 0];
      const counts = `${updated} of ${wanted} started anew, ${available} available`;
      return updated >= wanted && available >= wanted ? { state: 'available', found: counts } : missing(counts);
    }
    default:
      return raw satisfies never;
  }
}

export function takenBy(workload: Workload): { secrets: string[]; configMaps: string[] } {
  return configOf(workload.template?.spec);
}

/**
 * Checksum of the versions of what the pods take when they start: Secrets and ConfigMaps of the template, and a version of Secrets Manager.
 * Made of versions, not of values: a short value could be guessed from a checksum of it.
 */
export async function checksumOf(kubernetes: Kubernetes, workload: Workload, managedVersion: string | null): Promise<string> {
  const taken = takenBy(workload);
  const parts = await Promise.all([
    ...taken.secrets.map(async (name) => `secret/${name}@${await versionOf(kubernetes, workload.namespace, 'secret', name)}`),
    ...taken.configMaps.map(async (name) => `configmap/${name}@${await versionOf(kubernetes, workload.namespace, 'configmap', name)}`),
  ]);
  if (managedVersion !== null) parts.push(`secretsmanager@${managedVersion}`);
  return createHash('sha256').update(parts.sort().join('\n')).digest('hex').slice(0, 16);
}

/** Only the metadata is asked for: values stay where they are. */
async function versionOf(kubernetes: Kubernetes, namespace: string, kind: 'secret' | 'configmap', name: string): Promise<string> {
  const { setHeaderOptions } = await import('@kubernetes/client-node');
  const metadataOnly = setHeaderOptions('Accept', 'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1');
  const object = await kubernetes.find(`read the version of ${kind} ${namespace}/${name}`, () => (kind === 'secret' ? kubernetes.core.readNamespacedSecret({ name, namespace }, metadataOnly) : kubernetes.core.readNamespacedConfigMap({ name, namespace }, metadataOnly)));
  return object === undefined ? 'absent' : `${object.metadata?.uid}.${object.metadata?.resourceVersion}`;
}

const MAX_CONFLICTS = 5;

/** @returns false when this execution's restart stands there already. */
export async function restartWorkload(kubernetes: Kubernetes, workload: Workload, restart: { key: string; config: string }): Promise<boolean> {
  return changeTemplate(kubernetes, workload, (now) => {
    if (now.restartedBy === restart.key && now.config === restart.config) return null;
    // A second try of the same execution must not take its own restart for what was before.
    const before = beforeOf(now, restart.key) ?? { key: restart.key, restart: now.restartedBy, config: now.config };
    return { before: JSON.stringify(before), annotations: { [RESTART]: restart.key, [CONFIG]: restart.config } };
  });
}

/** @returns false when the template does not carry this execution's restart. */
export async function takeBackRestart(kubernetes: Kubernetes, workload: Workload, key: string): Promise<boolean> {
  return changeTemplate(kubernetes, workload, (now) => {
    const before = beforeOf(now, key);
    if (now.restartedBy !== key || before === null) return null;
    return { before: null, annotations: { [RESTART]: before.restart, [CONFIG]: before.config } };
  });
}

function beforeOf(workload: Workload, key: string): { key: string; restart: string | null; config: string | null } | null {
  if (workload.before === null) return null;
  try {
    const before = JSON.parse(workload.before) as { key: string; restart: string | null; config: string | null };
    return before.key === key ? before : null;
  } catch {
    return null;
  }
}

/** By compare-and-set: what somebody else changed meanwhile is read again first. */
async function changeTemplate(kubernetes: Kubernetes, first: Workload, change: (now: Workload) => { before: string | null; annotations: Record<string, string | null> } | null): Promise<boolean> {
  let workload = first;
  for (let round = 1; ; round += 1) {
    const wanted = change(workload);
    if (wanted === null) return false;
    try {
      await patchWorkload(kubernetes, workload, {
        metadata: { resourceVersion: workload.resourceVersion, annotations: { [BEFORE]: wanted.before } },
        spec: { template: { metadata: { annotations: wanted.annotations } } },
      });
      return true;
    } catch (error) {
      if (!(error instanceof HoldfastError) || error.code !== 'kubernetes-conflict' || round >= MAX_CONFLICTS) throw error;
      const now = await readWorkload(kubernetes, workload.namespace, workload.kind, workload.name);
      if (now === undefined) throw new HoldfastError('kubernetes-not-found', `${workload.id} of namespace ${workload.namespace} was deleted meanwhile`, { next: 'find out who deleted it', cause: error });
      workload = now;
    }
  }
}

async function patchWorkload(kubernetes: Kubernetes, { kind, name, namespace }: Workload, body: object): Promise<void> {
  const { PatchStrategy, setHeaderOptions } = await import('@kubernetes/client-node');
  const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);
  const { apps } = kubernetes;
  const of = { name, namespace, body, fieldManager: 'holdfast' };
  await kubernetes.write(`restart ${kind} ${namespace}/${name}`, async () => {
    switch (kind) {
      case 'deployment':
        await apps.patchNamespacedDeployment(of, merge);
        return;
      case 'statefulset':
        await apps.patchNamespacedStatefulSet(of, merge);
        return;
      case 'daemonset':
        await apps.patchNamespacedDaemonSet(of, merge);
        return;
      default:
        kind satisfies never;
    }
  });
}

export interface RolloutProgress {
  readonly state: 'available' | 'under way' | 'failed' | 'taken back';
  readonly found: string;
  /** Pods that are not ready, each with its reason. */
  readonly pods: readonly string[];
}

const MOST_PODS = 5;

/** How far its restart is; pods are asked only when something is missing. */
export async function progressOf(kubernetes: Kubernetes, workload: Workload): Promise<RolloutProgress> {
  if (workload.restartedBy === null) return { state: 'taken back', found: 'the restart is gone from its pod template', pods: [] };
  // Restarted again by another execution: its pods are younger than ours would be.
  if (workload.rollout.state === 'available') return { ...workload.rollout, pods: [] };
  const pods = await listPods(kubernetes, workload.namespace, selectorText(workload.selector));
  const whysOf = (ours: boolean): string[] =>
    pods
      .filter((pod) => pod.metadata?.deletionTimestamp === undefined && (pod.metadata?.annotations?.[RESTART] === workload.restartedBy) === ours)
      .flatMap((pod) => {
        const why = whyNotReady(pod);
        return why === null ? [] : [`pod ${pod.metadata!.name}${ours ? '' : ', of an earlier template'}: ${why}`];
      });
  const whys = [...whysOf(true), ...whysOf(false)];
  // A StatefulSet waits for a pod of an earlier change that never becomes ready, for ever.
  if (workload.kind === 'statefulset' && whys.length > 0 && whysOf(true).length === 0) whys.push('a StatefulSet goes on only when that pod is ready: correct it, or delete the pod');
  return { ...workload.rollout, pods: whys.slice(0, MOST_PODS) };
}
