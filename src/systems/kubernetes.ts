import { dirname } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { AppsV1Api, AuthorizationV1Api, CoreV1Api, V1Container, V1LabelSelector, V1Pod } from '@kubernetes/client-node';
import { HoldfastError } from '../model/errors.ts';
import type { Context } from './context.ts';
import { unknownName } from './context.ts';
import { registerSecret } from './log.ts';

/** A cluster of the configuration, for the length of one phase: credentials are read anew each time, since they rotate. */
export interface Kubernetes {
  /** Its name in the configuration. */
  readonly name: string;
  /** Where a step works that names no namespace. */
  readonly namespace: string;
  readonly apps: AppsV1Api;
  readonly core: CoreV1Api;
  readonly authorization: AuthorizationV1Api;
  /** A call that only reads: repeated when the server is busy or the connection breaks. `what` is for the error. */
  read<T>(what: string, send: () => Promise<T>): Promise<T>;
  /** The same for what may not exist. */
  find<T>(what: string, send: () => Promise<T>): Promise<T | undefined>;
  /** A call that changes something: repeated only when the server refused to look at it (429). */
  write<T>(what: string, send: () => Promise<T>): Promise<T>;
  readonly signal: AbortSignal;
}

const READ_ATTEMPTS = 4;
const LONGEST_PAUSE_MS = 5000;

export async function connectKubernetes(context: Context, name: string, signal: AbortSignal): Promise<Kubernetes> {
  const clusters = context.config.kubernetes;
  const settings = Object.hasOwn(clusters, name) ? clusters[name] : undefined;
  if (settings === undefined) throw unknownName('kubernetes cluster', name, Object.keys(clusters));
  const { AppsV1Api, AuthorizationV1Api, CoreV1Api, KubeConfig, ServerConfiguration, createConfiguration } = await import('@kubernetes/client-node');
  const kubeconfig = new KubeConfig();
  const wrong = (why: string, next: string): HoldfastError => new HoldfastError('kubernetes-config', `kubernetes.${name}: ${why}`, { next });
  if (settings.kubeconfig === undefined) {
    kubeconfig.loadFromCluster();
  } else {
    const text = await context.secrets.resolve(settings.kubeconfig);
    try {
      kubeconfig.loadFromString(text);
    } catch {
      // The parser's own message quotes the text.
      throw wrong(`what ${settings.kubeconfig} holds is no kubeconfig`, 'store the whole file, as `kubectl config view --raw --minify` prints it');
    }
    if (settings.kubeconfig.startsWith('file:')) kubeconfig.makePathsAbsolute(dirname(settings.kubeconfig.slice('file:'.length)));
    for (const user of kubeconfig.getUsers()) for (const value of [user.token, user.password, user.keyData]) if (typeof value === 'string' && value !== '') registerSecret(value);
  }
  if (settings.context !== undefined) {
    const contexts = kubeconfig.getContexts().map((entry) => entry.name);
    if (!contexts.includes(settings.context)) throw wrong(`the kubeconfig has no context "${settings.context}"`, `use one of: ${contexts.join(', ') || '(it has none)'}`);
    kubeconfig.setCurrentContext(settings.context);
  }
  const server = kubeconfig.getCurrentCluster()?.server;
  if (server === undefined || !URL.canParse(server)) {
    throw wrong(
      settings.kubeconfig === undefined ? 'it has no kubeconfig, and the worker does not run in a cluster' : `context "${kubeconfig.getCurrentContext()}" of the kubeconfig names no cluster with a server`,
      settings.kubeconfig === undefined ? 'give kubeconfig, or run the worker in the cluster with a service account' : 'give context, or correct the kubeconfig',
    );
  }
  if (server.startsWith('http:') && kubeconfig.getCurrentCluster()?.skipTLSVerify !== true) throw wrong(`the server ${server} would be given the credentials in the clear`, 'give an https server, or insecure-skip-tls-verify: true where it is meant so');
  const configuration = createConfiguration({
    baseServer: new ServerConfiguration(server, {}),
    authMethods: { default: kubeconfig },
    promiseMiddleware: [
      {
        pre(request) {
          request.setSignal(AbortSignal.any([signal, AbortSignal.timeout(settings.timeout)]));
          return Promise.resolve(request);
        },
        post: (response) => Promise.resolve(response),
      },
    ],
  });

  async function call<T>(what: string, send: () => Promise<T>, again: (failure: CallFailure) => boolean): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await send();
      } catch (error) {
        signal.throwIfAborted();
        const failure = failureOf(error);
        if (attempt >= READ_ATTEMPTS || !again(failure)) throw callError(name, server!, what, failure, error, settings!.timeout);
        await pause(Math.min(failure.retryAfterMs ?? 200 * 2 ** attempt, LONGEST_PAUSE_MS), undefined, { signal });
      }
    }
  }
  const read: Kubernetes['read'] = (what, send) => call(what, send, ({ status }) => status === undefined || status === 429 || status >= 500);
  return {
    name,
    namespace: settings.namespace ?? kubeconfig.getContextObject(kubeconfig.getCurrentContext())?.namespace ?? 'default',
    apps: new AppsV1Api(configuration),
    core: new CoreV1Api(configuration),
    authorization: new AuthorizationV1Api(configuration),
    read,
    async find(what, send) {
      try {
        return await read(what, send);
      } catch (error) {
        if (error instanceof HoldfastError && error.code === 'kubernetes-not-found') return undefined;
        throw error;
      }
    },
    write: (what, send) => call(what, send, ({ status }) => status === 429),
    signal,
  };
}

interface CallFailure {
  /** Undefined: no answer came. */
  readonly status?: number;
  readonly text: string;
  readonly retryAfterMs?: number;
  readonly timedOut: boolean;
}

/** The client's own message holds headers and the whole body: only the status's own words are taken. */
function failureOf(error: unknown): CallFailure {
  const { code, body, headers } = error as { code?: unknown; body?: unknown; headers?: Record<string, string> };
  // A time-out has a number of its own, 23.
  if (typeof code === 'number' && code >= 100) {
    let status: { message?: unknown; reason?: unknown } = {};
    try {
      status = (typeof body === 'string' ? JSON.parse(body) : body) as typeof status;
    } catch {
      // A proxy's page, not the API's answer.
    }
    const seconds = Number(headers?.['retry-after']);
    const text = typeof status?.message === 'string' ? status.message : typeof status?.reason === 'string' ? status.reason : 'no reason was given';
    return { status: code, text: text.slice(0, 300), timedOut: false, ...(Number.isFinite(seconds) && seconds > 0 ? { retryAfterMs: seconds * 1000 } : {}) };
  }
  const cause = (error as { cause?: { code?: string; message?: string } }).cause;
  const timedOut = (error as Error).name === 'TimeoutError';
  return { text: timedOut ? 'no answer in time' : (cause?.code ?? cause?.message ?? (error as Error).message), timedOut };
}

function callError(cluster: string, server: string, what: string, failure: CallFailure, cause: unknown, timeoutMs: number): HoldfastError {
  const where = `cluster ${cluster} (${server})`;
  const { status, text } = failure;
  const error = (code: string, message: string, next: string, retryable: boolean): HoldfastError => new HoldfastError(code, `${where}: ${what}: ${message}`, { next, retryable, cause });
  switch (status) {
    case undefined:
      return error('kubernetes-unreachable', failure.timedOut ? `no answer within ${timeoutMs} ms` : text, `check that the worker reaches the API server and trusts its certificate (kubernetes.${cluster})`, true);
    case 401:
      return error('kubernetes-denied', `the credentials were not accepted (401: ${text})`, 'renew them in the kubeconfig', false);
    case 403:
      return error('kubernetes-denied', `not allowed (403: ${text})`, 'grant it by a Role; docs/kubernetes.md has one', false);
    case 404:
      return error('kubernetes-not-found', `there is no such thing (404: ${text})`, 'check name and namespace', false);
    case 409:
      return error('kubernetes-conflict', `it was changed meanwhile (409: ${text})`, 'look who else changes it; then retry this step', true);
    default:
      return error('kubernetes-call', `HTTP ${status}: ${text}`, status >= 500 || status === 429 ? 'try again when the API server is well' : 'correct the step', status >= 500 || status === 429);
  }
}

/** May these credentials do it? Asked of the API server itself. */
export async function mayDo(kubernetes: Kubernetes, ask: { verb: string; group?: string; resource: string; namespace: string; name?: string }): Promise<{ allowed: boolean; found: string }> {
  const { verb, group, resource, namespace, name } = ask;
  const answer = await kubernetes.read('SelfSubjectAccessReview', () =>
    kubernetes.authorization.createSelfSubjectAccessReview({ body: { spec: { resourceAttributes: { verb, group: group ?? '', resource, namespace, ...(name === undefined ? {} : { name }) } } } }),
  );
  return answer.status?.allowed === true ? { allowed: true, found: 'allowed' } : { allowed: false, found: `not allowed${answer.status?.reason ? `: ${answer.status.reason}` : ''}` };
}

/** matchLabels and matchExpressions as the text that lists take. */
export function selectorText(selector: V1LabelSelector | undefined): string {
  const parts = Object.entries(selector?.matchLabels ?? {}).map(([key, value]) => `${key}=${value}`);
  for (const { key, operator, values } of selector?.matchExpressions ?? []) {
    if (operator === 'In' || operator === 'NotIn') parts.push(`${key} ${operator === 'In' ? 'in' : 'notin'} (${(values ?? []).join(',')})`);
    else parts.push(operator === 'Exists' ? key : `!${key}`);
  }
  return parts.join(',');
}

const PAGE = 500;

export interface Page {
  readonly limit: number;
  readonly _continue?: string;
}

/** A list, page by page. */
export async function listAll<T>(kubernetes: Kubernetes, what: string, list: (page: Page) => Promise<{ items: T[]; metadata?: { _continue?: string } }>): Promise<T[]> {
  const items: T[] = [];
  let token: string | undefined;
  do {
    const answer = await kubernetes.read(what, () => list({ limit: PAGE, ...(token === undefined ? {} : { _continue: token }) }));
    items.push(...answer.items);
    const { _continue: next } = answer.metadata ?? {};
    token = next === '' ? undefined : next;
  } while (token !== undefined);
  return items;
}

/** Pods by label selector. */
export function listPods(kubernetes: Kubernetes, namespace: string, selector: string): Promise<V1Pod[]> {
  return listAll(kubernetes, `list pods of ${namespace} with ${selector}`, (page) => kubernetes.core.listNamespacedPod({ namespace, labelSelector: selector, ...page }));
}

export function isReady(pod: V1Pod): boolean {
  return pod.metadata?.deletionTimestamp === undefined && pod.status?.conditions?.some((condition) => condition.type === 'Ready' && condition.status === 'True') === true;
}

/** Why a pod is not ready, by its own status; null when it is. No container's log or termination message is taken: either may hold secrets. */
export function whyNotReady(pod: V1Pod): string | null {
  if (isReady(pod)) return null;
  if (pod.metadata?.deletionTimestamp !== undefined) return 'it is being deleted';
  const unscheduled = pod.status?.conditions?.find((condition) => condition.type === 'PodScheduled' && condition.status === 'False');
  if (unscheduled !== undefined) return `${unscheduled.reason ?? 'not scheduled'}: ${clip(unscheduled.message)}`;
  const containers = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
  const whys = containers.flatMap(({ name, state, ready, lastState, restartCount }) => {
    const last = lastState?.terminated;
    const ended = last === undefined ? '' : `, ended ${restartCount} time(s), last with exit code ${last.exitCode}${last.reason === undefined ? '' : ` (${last.reason})`}`;
    if (state?.waiting !== undefined) return [`container ${name}: ${state.waiting.reason ?? 'waiting'}${state.waiting.message === undefined ? '' : `: ${clip(state.waiting.message)}`}${ended}`];
    if (state?.terminated !== undefined) return state.terminated.exitCode === 0 ? [] : [`container ${name}: exit code ${state.terminated.exitCode}${state.terminated.reason === undefined ? '' : ` (${state.terminated.reason})`}`];
    return ready ? [] : [`container ${name}: running, its readiness probe does not succeed${ended}`];
  });
  return whys.join('; ') || `phase ${pod.status?.phase ?? 'unknown'}`;
}

function clip(text: string | undefined): string {
  return (text ?? 'no message').replaceAll(/\s+/g, ' ').slice(0, 200);
}

/** A pod, told from a later one of the same name (StatefulSet). */
export interface PodIdentity {
  readonly name: string;
  readonly uid: string;
}

/** The pods that are ready now. */
export async function readyPods(kubernetes: Kubernetes, namespace: string, selector: string): Promise<PodIdentity[]> {
  const pods = await listPods(kubernetes, namespace, selector);
  return pods.filter(isReady).map((pod) => ({ name: pod.metadata!.name!, uid: pod.metadata!.uid! }));
}

/**
 * Deletes exactly these pods, as an outage would: budgets of disruption are not asked. One that is gone, or whose name another pod has by
 * now, is left: may be repeated. @returns which of them were there.
 */
export async function deletePods(kubernetes: Kubernetes, namespace: string, pods: readonly PodIdentity[], options: { graceSeconds?: number } = {}): Promise<PodIdentity[]> {
  const deleted: PodIdentity[] = [];
  for (const pod of pods) {
    try {
      await kubernetes.write(`delete pod ${namespace}/${pod.name}`, () => kubernetes.core.deleteNamespacedPod({ name: pod.name, namespace, body: { preconditions: { uid: pod.uid }, ...(options.graceSeconds === undefined ? {} : { gracePeriodSeconds: options.graceSeconds }) } }));
      deleted.push(pod);
    } catch (error) {
      // 409: the name belongs to another pod now.
      if (!(error instanceof HoldfastError) || (error.code !== 'kubernetes-not-found' && error.code !== 'kubernetes-conflict')) throw error;
    }
  }
  return deleted;
}

export interface Replacement {
  /** As many pods as before are ready, none of them among the deleted. */
  readonly complete: boolean;
  readonly ready: readonly PodIdentity[];
  /** Of the others, each with its reason. */
  readonly notReady: readonly string[];
}

/** Looks once whether `count` pods are ready without the deleted ones. */
export async function replacementOf(kubernetes: Kubernetes, namespace: string, selector: string, gone: readonly PodIdentity[], count: number): Promise<Replacement> {
  const uids = new Set(gone.map(({ uid }) => uid));
  const pods = await listPods(kubernetes, namespace, selector);
  const left = pods.filter((pod) => uids.has(pod.metadata!.uid!));
  const ready = pods.filter((pod) => isReady(pod) && !uids.has(pod.metadata!.uid!)).map((pod) => ({ name: pod.metadata!.name!, uid: pod.metadata!.uid! }));
  return { complete: left.length === 0 && ready.length >= count, ready, notReady: pods.flatMap((pod) => whyNotReady(pod) ?? []).slice(0, 5) };
}

/** Waits until the deleted pods are replaced, or until `deadlineMs` (epoch): then what is missing stands in the answer. */
export async function awaitReplacement(kubernetes: Kubernetes, options: { namespace: string; selector: string; gone: readonly PodIdentity[]; count: number; deadlineMs: number; nowMs: () => number; heartbeat?: (details: unknown) => void }): Promise<Replacement & { atMs: number }> {
  for (;;) {
    const found = await replacementOf(kubernetes, options.namespace, options.selector, options.gone, options.count);
    const atMs = options.nowMs();
    if (found.complete || atMs >= options.deadlineMs) return { ...found, atMs };
    options.heartbeat?.({ ready: found.ready.length, notReady: found.notReady });
    await pause(250, undefined, { signal: kubernetes.signal });
  }
}

/** Secrets and ConfigMaps that a pod template's environment and volumes take, by name. */
export function configOf(spec: { containers?: V1Container[]; initContainers?: V1Container[]; volumes?: { secret?: { secretName?: string }; configMap?: { name?: string } }[] } | undefined): { secrets: string[]; configMaps: string[] } {
  const secrets = new Set<string>();
  const configMaps = new Set<string>();
  for (const container of [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])]) {
    for (const { secretRef, configMapRef } of container.envFrom ?? []) {
      if (secretRef?.name !== undefined) secrets.add(secretRef.name);
      if (configMapRef?.name !== undefined) configMaps.add(configMapRef.name);
    }
    for (const { valueFrom } of container.env ?? []) {
      if (valueFrom?.secretKeyRef?.name !== undefined) secrets.add(valueFrom.secretKeyRef.name);
      if (valueFrom?.configMapKeyRef?.name !== undefined) configMaps.add(valueFrom.configMapKeyRef.name);
    }
  }
  for (const { secret, configMap } of spec?.volumes ?? []) {
    if (secret?.secretName !== undefined) secrets.add(secret.secretName);
    if (configMap?.name !== undefined) configMaps.add(configMap.name);
  }
  return { secrets: [...secrets].sort(), configMaps: [...configMaps].sort() };
}
