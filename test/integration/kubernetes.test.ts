import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { kubernetesSteps } from '../../activities/kubernetes.ts';
import { runDoctor } from '../../src/engine/doctor.ts';
import { createProcesses, startKubernetes, type KubernetesServer, type Processes } from '../../src/local/stack.ts';
import type { CheckResult } from '../../src/model/api.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { awaitReplacement, connectKubernetes, deletePods, readyPods, type Kubernetes } from '../../src/systems/kubernetes.ts';
import { findWorkloads, restartWorkload, takeBackRestart } from '../../src/systems/kubernetes-rollout.ts';
import { runStep } from '../step-run.ts';
import { surviveDeath } from '../survive-death.ts';
import { testConfig, testDirectory, testSecret, uniqueName } from '../support.ts';

const NAMESPACE = '/api/v1/namespaces/default';
const APPS = '/apis/apps/v1/namespaces/default';
const RBAC = '/apis/rbac.authorization.k8s.io/v1/namespaces/default';
const PASSWORD = 'p/w:d-tk8s';

let processes: Processes;
let server: KubernetesServer;
let context: Context;
let second: Context;
let admin: Kubernetes;
let secretId: string;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('kubernetes') });
  server = await startKubernetes({ processes, directory: processes.directory, users: ['ops', 'nobody'] });
  secretId = await testSecret('shop', { host: 'a.example', port: 5432, username: 'shop', password: 'secret', dbname: 'shop' });
  const datastore = {
    engine: 'postgres', database: 'shop', admin: { username: 'x', password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, endpoint: { secret: secretId },
    nodes: { a: { host: '10.0.0.1', applicationHost: 'a.example', dataDirectory: '/a' }, b: { host: '10.0.0.2', applicationHost: 'b.example', applicationPort: 6432, dataDirectory: '/b' } },
  };
  const overrides = {
    kubernetes: {
      eu: { kubeconfig: `file:${server.kubeconfigs['admin']}`, context: 'local' },
      ops: { kubeconfig: `file:${server.kubeconfigs['ops']}` },
      nobody: { kubeconfig: `file:${server.kubeconfigs['nobody']}` },
    },
    datastores: { shop: datastore },
  };
  // Two, since each run of workers has a folder of runbooks of its own.
  [context, second] = [await testConfig(overrides), await testConfig(overrides)];
  admin = await connectKubernetes(context, 'eu', new AbortController().signal);
});
afterAll(async () => {
  await processes?.end();
  context?.close();
  second?.close();
});

interface Meta {
  readonly metadata: { readonly name: string; readonly uid: string; readonly resourceVersion: string; readonly annotations?: Readonly<Record<string, string>> };
}
type PodObject = Meta & { readonly spec: { readonly containers: readonly { readonly image: string }[] } };

/** Pods that take the whole Secret as their environment. */
function template(name: string, secret: string, image = 'shop:1'): object {
  return { metadata: { labels: { app: name } }, spec: { containers: [{ name: 'app', image, envFrom: [{ secretRef: { name: secret } }], env: [{ name: 'HOST', valueFrom: { secretKeyRef: { name: secret, key: 'host' } } }] }] } };
}

async function secret(data: Readonly<Record<string, string>> = { host: 'a.example', port: '5432', url: `postgresql://shop:${encodeURIComponent(PASSWORD)}@a.example:5432/shop?sslmode=require`, password: PASSWORD }): Promise<string> {
  const name = uniqueName('db');
  await server.call('POST', `${NAMESPACE}/secrets`, { metadata: { name }, stringData: data });
  return name;
}

async function secretData(name: string): Promise<Record<string, string>> {
  const { data } = await server.call<{ data: Record<string, string> }>('GET', `${NAMESPACE}/secrets/${name}`);
  return Object.fromEntries(Object.entries(data).map(([key, value]) => [key, Buffer.from(value, 'base64').toString()]));
}

const RESOURCES = { deployment: 'deployments', statefulset: 'statefulsets', daemonset: 'daemonsets' } as const;

async function workload(kind: keyof typeof RESOURCES, options: { secret: string; name?: string; spec?: object; labels?: object }): Promise<string> {
  const name = options.name ?? uniqueName(kind);
  const spec = { selector: { matchLabels: { app: name } }, template: template(name, options.secret), ...(kind === 'daemonset' ? {} : { replicas: 2 }), ...(kind === 'statefulset' ? { serviceName: name } : {}), ...options.spec };
  await server.call('POST', `${APPS}/${RESOURCES[kind]}`, { metadata: { name, labels: options.labels ?? {} }, spec });
  await expect.poll(async () => (await readyPods(admin, 'default', `app=${name}`)).length, { timeout: 30_000 }).toBe(kind === 'daemonset' ? 1 : 2);
  return name;
}

async function templateOf(kind: keyof typeof RESOURCES, name: string): Promise<Readonly<Record<string, string>>> {
  const object = await server.call<{ spec: { template: { metadata: { annotations?: Record<string, string> } } } }>('GET', `${APPS}/${RESOURCES[kind]}/${name}`);
  return object.spec.template.metadata.annotations ?? {};
}

/** What each pod's environment was made of when it started, as the node recorded it. */
async function startedWith(app: string): Promise<string[]> {
  const { items } = await server.call<{ items: PodObject[] }>('GET', `${NAMESPACE}/pods?labelSelector=app%3D${app}`);
  return [...new Set(items.map((pod) => pod.metadata.annotations?.['holdfast.local/started-with'] ?? 'nothing'))];
}

async function versionOf(name: string): Promise<string> {
  const { metadata } = await server.call<Meta>('GET', `${NAMESPACE}/secrets/${name}`);
  return `secret/${name}@${metadata.resourceVersion}`;
}

function phase(uses: string, name: Phase, input: object, options: { epoch?: number } = {}): Promise<PhaseResult> {
  return runStep(kubernetesSteps, context, uses, name, input as Record<string, unknown>, options);
}

function failing(result: PhaseResult): CheckResult[] {
  return (result.checks ?? []).filter(({ ok }) => !ok);
}

const ROLLOUT = 'kubernetes.rollout';
const CONFIG = 'kubernetes.config';
const KEYS = { hostKeys: ['host'], portKeys: ['port'], urlKeys: ['url'] };

describe('kubernetes.rollout', () => {
  it('restarts Deployment, StatefulSet and DaemonSet by label, and every pod then runs with the changed Secret', async () => {
    const name = await secret();
    const tier = uniqueName('tier');
    const made = await Promise.all((['deployment', 'statefulset', 'daemonset'] as const).map((kind) => workload(kind, { secret: name, labels: { tier } })));
    const input = { cluster: 'eu', selector: `tier=${tier}`, datastore: 'shop', timeout: '20s' };
    await server.call('PATCH', `${NAMESPACE}/secrets/${name}`, { stringData: { host: 'b.example' } });
    const changed = await versionOf(name);
    for (const app of made) expect((await startedWith(app)).join(' ')).not.toContain(changed);

    expect(await phase(ROLLOUT, 'inspect', input)).toMatchObject({ satisfied: false });
    expect(failing(await phase(ROLLOUT, 'guard', input))).toEqual([]);
    expect(await phase(ROLLOUT, 'apply', input)).toMatchObject({ outcome: 'changed', facts: { workloads: expect.arrayContaining([`deployment/${made[0]}`, `statefulset/${made[1]}`, `daemonset/${made[2]}`]) } });
    expect(failing(await phase(ROLLOUT, 'verify', input))).toEqual([]);
    for (const app of made) expect(await startedWith(app)).toEqual([`${changed} ${changed}`]);

    // The same execution once more starts nothing; another one does.
    const pods = await readyPods(admin, 'default', `app=${made[0]}`);
    expect(await phase(ROLLOUT, 'inspect', input)).toMatchObject({ satisfied: true });
    expect(await phase(ROLLOUT, 'apply', input)).toMatchObject({ outcome: 'already-satisfied' });
    expect(await readyPods(admin, 'default', `app=${made[0]}`)).toEqual(pods);
    expect(await phase(ROLLOUT, 'apply', input, { epoch: 2 })).toMatchObject({ outcome: 'changed' });
    expect((await templateOf('deployment', made[0]!))['holdfast/restart']).toBe('test/step/2');
    // It is restarted again by somebody else: the first one does not take that back.
    expect(await phase(ROLLOUT, 'undo', input)).toMatchObject({ outcome: 'already-satisfied' });
    expect((await templateOf('deployment', made[0]!))['holdfast/restart']).toBe('test/step/2');
  });

  it('says which pod does not start and why, and does not call it available', async () => {
    const name = await secret();
    const app = await workload('deployment', { secret: name, spec: { progressDeadlineSeconds: 2 } });
    const input = { cluster: 'eu', workloads: [`deployment/${app}`], timeout: '20s' };
    await server.call('PATCH', `${NAMESPACE}/secrets/${name}`, { data: { host: null } });
    await phase(ROLLOUT, 'apply', input);
    const result = await phase(ROLLOUT, 'verify', input);
    expect(failing(result)).toHaveLength(1);
    expect(failing(result)[0]!.found).toMatch(new RegExp(`ProgressDeadlineExceeded after 2 s: .*; pod ${app}-\\S+: container app: CreateContainerConfigError: couldn't find key host in Secret default/${name}`));

    // The usual beginning of a failover: the rollout before has failed. Once the cause is gone, that is no verdict on the new one.
    await server.call('PATCH', `${NAMESPACE}/secrets/${name}`, { stringData: { host: 'b.example' } });
    await phase(ROLLOUT, 'apply', input, { epoch: 2 });
    expect(failing(await phase(ROLLOUT, 'verify', input, { epoch: 2 }))).toEqual([]);

    // What it waits for and how long is the step's; a workload without a deadline of its own ends there.
    const set = await workload('statefulset', { secret: await secret() });
    await server.call('PATCH', `${APPS}/statefulsets/${set}`, { spec: { template: { spec: { containers: [{ name: 'app', image: 'shop:crashes' }] } } } });
    const stuck = { cluster: 'eu', workloads: [`statefulset/${set}`], timeout: '0s' };
    await phase(ROLLOUT, 'apply', stuck);
    await expect.poll(async () => failing(await phase(ROLLOUT, 'verify', stuck))[0]?.found, { timeout: 30_000 }).toMatch(/pod \S+, of an earlier template: container app: CrashLoopBackOff: .*ended 3 time\(s\), last with exit code 1.*or delete the pod/);
    expect((await phase(ROLLOUT, 'verify', stuck)).summary).toBe('not available within 0 ms');
  });

  it('a configuration changed after the restart is found, and a retry restarts once more', async () => {
    const name = await secret();
    const app = await workload('deployment', { secret: name });
    const input = { cluster: 'eu', workloads: [`deployment/${app}`], timeout: '20s' };
    await phase(ROLLOUT, 'apply', input);
    await server.call('PATCH', `${NAMESPACE}/secrets/${name}`, { stringData: { host: 'c.example' } });
    const found = failing(await phase(ROLLOUT, 'verify', input));
    expect(found.map((item) => item.name)).toEqual([`deployment/${app}: configuration`]);
    expect(await phase(ROLLOUT, 'inspect', input)).toMatchObject({ satisfied: false });
    expect(await phase(ROLLOUT, 'apply', input)).toMatchObject({ outcome: 'changed' });
    expect(failing(await phase(ROLLOUT, 'verify', input))).toEqual([]);
    expect(await startedWith(app)).toEqual([`${await versionOf(name)} ${await versionOf(name)}`]);
    // Two changes of one execution are taken back to what was before the first.
    expect(await phase(ROLLOUT, 'undo', input)).toMatchObject({ outcome: 'changed' });
    expect(await templateOf('deployment', app)).toEqual({});
  });

  it('a restart that is taken away by whatever manages the workload is said, not waited for', async () => {
    const app = await workload('deployment', { secret: await secret() });
    const input = { cluster: 'eu', workloads: [`deployment/${app}`], timeout: '20s' };
    await phase(ROLLOUT, 'apply', input);
    await server.call('PATCH', `${APPS}/deployments/${app}`, { spec: { template: { metadata: { annotations: null } } } });
    const [found] = failing(await phase(ROLLOUT, 'verify', input));
    expect(found).toMatchObject({ found: 'the restart is gone from its pod template', next: expect.stringContaining('Argo CD') });
  });

  it('what somebody else changes between reading and writing is kept', async () => {
    const app = await workload('deployment', { secret: await secret() });
    const { workloads: [stale] } = await findWorkloads(admin, 'default', [`deployment/${app}`], undefined);
    await server.call('PATCH', `${APPS}/deployments/${app}`, { spec: { template: { metadata: { annotations: { theirs: 'kept' } } } } });
    expect(await restartWorkload(admin, stale!, { key: 'one', config: 'x' })).toBe(true);
    expect(await templateOf('deployment', app)).toEqual({ theirs: 'kept', 'holdfast/restart': 'one', 'holdfast/config': 'x' });
    expect(await takeBackRestart(admin, stale!, 'other')).toBe(false);
  });

  it('refuses beforehand what would restart nothing, and what it may not do, each with what to do', async () => {
    const name = await secret();
    const paused = await workload('deployment', { secret: name });
    await server.call('PATCH', `${APPS}/deployments/${paused}`, { spec: { paused: true } });
    const onDelete = await workload('statefulset', { secret: name, spec: { updateStrategy: { type: 'OnDelete' } } });
    const split = await workload('statefulset', { secret: name, spec: { updateStrategy: { type: 'RollingUpdate', rollingUpdate: { partition: 1 } } } });
    const workloads = [`deployment/${paused}`, `statefulset/${onDelete}`, `statefulset/${split}`, 'deployment/nowhere'];
    const found = failing(await phase(ROLLOUT, 'guard', { cluster: 'eu', workloads }));
    expect(found.map((item) => [item.name.replace(/-[0-9a-f]{8}$/, ''), item.found.split(':')[0]])).toEqual([
      ['deployment/nowhere', 'missing'], ['deployment/deployment', 'paused'], ['statefulset/statefulset', expect.stringMatching(/^updateStrategy OnDelete|^partition 1/)], ['statefulset/statefulset', expect.stringMatching(/^updateStrategy OnDelete|^partition 1/)],
    ]);
    expect(failing(await phase(ROLLOUT, 'guard', { cluster: 'eu', selector: 'tier=none' }))[0]).toMatchObject({ name: 'workloads', found: 'nothing' });

    // A user who may read and not patch: said before anything is changed, right by right.
    await server.call('POST', `${RBAC}/roles`, { metadata: { name: 'reader' }, rules: [{ apiGroups: ['apps'], resources: ['deployments'], verbs: ['get'] }, { apiGroups: [''], resources: ['pods'], verbs: ['list'] }] });
    await server.call('POST', `${RBAC}/rolebindings`, { metadata: { name: 'reader' }, subjects: [{ kind: 'User', name: 'ops', apiGroup: 'rbac.authorization.k8s.io' }], roleRef: { kind: 'Role', name: 'reader', apiGroup: 'rbac.authorization.k8s.io' } });
    const app = await workload('deployment', { secret: name });
    const denied = failing(await phase(ROLLOUT, 'guard', { cluster: 'ops', workloads: [`deployment/${app}`] }));
    expect(denied.map((item) => item.name).sort()).toEqual([`right to get secrets/${name}`, `right to patch deployments/${app}`]);
    await expect(phase(ROLLOUT, 'guard', { cluster: 'ops', selector: 'tier=none' })).rejects.toMatchObject({ code: 'kubernetes-denied', message: expect.stringContaining('403') });
  });

  it('the Role of docs/kubernetes.md is enough', async () => {
    const name = await secret();
    const app = await workload('deployment', { secret: name });
    const text = readFileSync(join(import.meta.dirname, '../../docs/kubernetes.md'), 'utf8');
    const { parseAllDocuments } = await import('yaml');
    const documents = [...text.matchAll(/```yaml\n(# role[\s\S]*?)```/g)].flatMap(([, yaml]) => parseAllDocuments(yaml!).map((document) => document.toJS() as { kind: string; metadata: { name: string; namespace?: string }; subjects?: object[] }));
    expect(documents.map(({ kind }) => kind)).toEqual(['Role', 'RoleBinding']);
    for (const document of documents) {
      const body = { ...document, metadata: { name: 'documented' }, ...(document.kind === 'RoleBinding' ? { subjects: [{ kind: 'User', name: 'ops', apiGroup: 'rbac.authorization.k8s.io' }], roleRef: { kind: 'Role', name: 'documented', apiGroup: 'rbac.authorization.k8s.io' } } : {}) };
      await server.call('POST', `${RBAC}/${document.kind.toLowerCase()}s`, body);
    }
    await server.call('PATCH', `${APPS}/deployments/${app}`, { metadata: { labels: { tier: app } } });
    const input = { cluster: 'ops', selector: `tier=${app}`, timeout: '20s' };
    expect(failing(await phase(ROLLOUT, 'guard', input))).toEqual([]);
    await phase(ROLLOUT, 'apply', input);
    expect(failing(await phase(ROLLOUT, 'verify', input))).toEqual([]);
    const other = { cluster: 'ops', datastore: 'shop', candidate: 'b', secret: name, ...KEYS };
    expect(failing(await phase(CONFIG, 'guard', other))).toEqual([]);
    expect(await phase(CONFIG, 'apply', other)).toMatchObject({ outcome: 'changed' });
  });
});

describe('kubernetes.config', () => {
  it('changes host and port and nothing else, also within a URL, shows no value, and goes back', async () => {
    const name = await secret();
    const before = await secretData(name);
    const input = { cluster: 'eu', datastore: 'shop', candidate: 'b', secret: name, ...KEYS };
    const results = [await phase(CONFIG, 'inspect', input), await phase(CONFIG, 'guard', input), await phase(CONFIG, 'apply', input), await phase(CONFIG, 'verify', input)];
    expect(results[0]).toMatchObject({ satisfied: false });
    for (const result of results) expect(failing(result)).toEqual([]);
    expect(await secretData(name)).toEqual({ ...before, host: 'b.example', port: '6432', url: `postgresql://shop:${encodeURIComponent(PASSWORD)}@b.example:6432/shop?sslmode=require` });
    expect(await phase(CONFIG, 'inspect', input)).toMatchObject({ satisfied: true });
    expect(await phase(CONFIG, 'apply', input)).toMatchObject({ outcome: 'already-satisfied' });
    results.push(await phase(CONFIG, 'undo', input));
    expect(await secretData(name)).toEqual(before);
    expect(await phase(CONFIG, 'undo', input)).toMatchObject({ outcome: 'already-satisfied' });
    const text = JSON.stringify(results);
    for (const value of [PASSWORD, encodeURIComponent(PASSWORD), 'sslmode']) expect(text).not.toContain(value);
    const { metadata } = await server.call<Meta>('GET', `${NAMESPACE}/secrets/${name}`);
    expect(JSON.stringify(metadata.annotations ?? {})).not.toContain('%2F');
  });

  it('never overwrites what is no address of a node, and keeps what somebody else wrote meanwhile', async () => {
    const name = await secret();
    const wrong = { cluster: 'eu', datastore: 'shop', candidate: 'b', secret: name, hostKeys: ['password', 'hots'] };
    const found = failing(await phase(CONFIG, 'guard', wrong));
    expect(found.map((item) => item.found)).toEqual(['holds something else than the address of a node (not shown)', 'is missing']);
    await expect(phase(CONFIG, 'apply', wrong)).rejects.toMatchObject({ code: 'kubernetes-key' });
    expect((await secretData(name))['password']).toBe(PASSWORD);

    const input = { cluster: 'eu', datastore: 'shop', candidate: 'b', secret: name, ...KEYS };
    await phase(CONFIG, 'apply', input);
    await server.call('PATCH', `${NAMESPACE}/secrets/${name}`, { stringData: { password: 'rotated', host: 'theirs.example' } });
    expect(failing(await phase(CONFIG, 'verify', input)).map((item) => item.name)).toEqual(['key host']);
    // Only what still is ours goes back.
    await phase(CONFIG, 'undo', input);
    expect(await secretData(name)).toMatchObject({ password: 'rotated', host: 'theirs.example', port: '5432' });
  });

  it('a ConfigMap too, and an immutable one is refused', async () => {
    const name = uniqueName('map');
    await server.call('POST', `${NAMESPACE}/configmaps`, { metadata: { name }, data: { address: 'a.example:5432' } });
    const input = { cluster: 'eu', datastore: 'shop', candidate: 'b', configMap: name, addressKeys: ['address'] };
    expect(await phase(CONFIG, 'apply', input)).toMatchObject({ outcome: 'changed', facts: { from: 'a' } });
    expect((await server.call<{ data: object }>('GET', `${NAMESPACE}/configmaps/${name}`)).data).toEqual({ address: 'b.example:6432' });
    await server.call('PATCH', `${NAMESPACE}/configmaps/${name}`, { immutable: true });
    expect(failing(await phase(CONFIG, 'guard', { ...input, candidate: 'a' })).map((item) => item.name)).toEqual(['changeable']);
  });
});

it('a worker killed after the Secret was changed and after the restart leaves one change and one restart; and so does going back', async () => {
  const make = async (): Promise<{ name: string; app: string; steps: { id: string; uses: string; with?: object }[] }> => {
    const name = await secret();
    const made = await workload('deployment', { secret: name });
    return {
      name,
      app: made,
      steps: [
        { id: 'config', uses: CONFIG, with: { cluster: 'eu', datastore: 'shop', candidate: 'b', secret: name, ...KEYS } },
        { id: 'rollout', uses: ROLLOUT, with: { cluster: 'eu', workloads: [`deployment/${made}`], timeout: '60s' } },
      ],
    };
  };
  const [on, back] = [await make(), await make()];
  const generation = async (app: string): Promise<number> => (await server.call<{ metadata: { generation: number } }>('GET', `${APPS}/deployments/${app}`)).metadata.generation;
  const [first, earlier] = [await generation(on.app), await generation(back.app)];
  const [done, undone] = await Promise.all([
    surviveDeath(context, on.steps, [{ at: `${CONFIG}:apply` }, { at: `${ROLLOUT}:apply` }]),
    surviveDeath(second, [...back.steps, { id: 'fail', uses: 'rollout.command', with: { argv: ['false'] } }], [{ at: `${ROLLOUT}:undo` }, { at: `${CONFIG}:undo` }]),
  ]);
  expect(done.outcome).toBe('succeeded');
  expect(await secretData(on.name)).toMatchObject({ host: 'b.example', port: '6432' });
  expect(await generation(on.app)).toBe(first + 1);
  expect(await startedWith(on.app)).toEqual([`${await versionOf(on.name)} ${await versionOf(on.name)}`]);
  expect(undone.outcome).toBe('failed');
  expect(await secretData(back.name)).toMatchObject({ host: 'a.example', port: '5432' });
  expect(await generation(back.app)).toBe(earlier + 2);
  expect(await templateOf('deployment', back.app)).toEqual({});
});

describe('the client', () => {
  let busy: Server;
  let seen: string[];
  let answers: ((url: string) => { status: number; headers?: Record<string, string>; body: object } | 'silence')[];

  beforeAll(async () => {
    busy = createServer((request, response) => {
      seen.push(`${request.method} ${request.url}`);
      const answer = answers.shift()?.(request.url!) ?? { status: 200, body: { kind: 'PodList', apiVersion: 'v1', metadata: {}, items: [] } };
      if (answer === 'silence') return;
      response.writeHead(answer.status, { 'content-type': 'application/json', ...answer.headers }).end(JSON.stringify(answer.body));
    });
    await new Promise<void>((resolve) => {
      busy.listen(0, '127.0.0.1', resolve);
    });
  });
  afterAll(() => {
    busy.closeAllConnections();
    busy.close();
  });

  function cluster(timeout: string): Promise<Kubernetes> {
    seen = [];
    process.env['HOLDFAST_TEST_KUBECONFIG'] = stringify({ apiVersion: 'v1', kind: 'Config', clusters: [{ name: 'c', cluster: { server: `http://127.0.0.1:${(busy.address() as AddressInfo).port}`, 'insecure-skip-tls-verify': true } }], users: [{ name: 'u', user: { token: 'token-of-a-test' } }], contexts: [{ name: 'x', context: { cluster: 'c', user: 'u', namespace: 'shop' } }], 'current-context': 'x' });
    const other = { ...context, config: { ...context.config, kubernetes: { busy: { kubeconfig: 'env:HOLDFAST_TEST_KUBECONFIG', timeout: timeout === '300ms' ? 300 : 5000 } } } } as Context;
    return connectKubernetes(other, 'busy', new AbortController().signal);
  }
  const status = (code: number, message: string) => ({ status: code, headers: { 'retry-after': '0' }, body: { kind: 'Status', status: 'Failure', message, code } });

  it('asks again when the server is busy, follows every page, and takes the namespace of the context', async () => {
    const one = (name: string) => ({ metadata: { name, uid: name }, status: { conditions: [{ type: 'Ready', status: 'True' }] } });
    answers = [
      () => status(429, 'too many requests'),
      () => status(503, 'etcd leader changed'),
      () => ({ status: 200, body: { kind: 'PodList', metadata: { continue: 'next-page' }, items: [one('a')] } }),
      () => ({ status: 200, body: { kind: 'PodList', metadata: {}, items: [one('b')] } }),
    ];
    const busyCluster = await cluster('5s');
    expect(busyCluster.namespace).toBe('shop');
    expect((await readyPods(busyCluster, 'shop', 'app=x')).map(({ name }) => name)).toEqual(['a', 'b']);
    expect(seen.filter((line) => line.includes('continue=next-page'))).toHaveLength(1);
    expect(seen).toHaveLength(4);
  });

  it('a change is not sent twice, and a silent server is named with what to do', async () => {
    answers = [() => status(500, 'internal'), () => status(200, 'never asked')];
    const busyCluster = await cluster('5s');
    await expect(deletePods(busyCluster, 'shop', [{ name: 'a', uid: 'a' }])).rejects.toMatchObject({ code: 'kubernetes-call', retryable: true });
    expect(seen).toHaveLength(1);
    answers = Array.from({ length: 4 }, () => () => 'silence' as const);
    const error = await readyPods(await cluster('300ms'), 'shop', 'app=x').catch((problem: unknown) => problem as Error & { code: string });
    expect(error).toMatchObject({ code: 'kubernetes-unreachable', message: expect.stringMatching(/cluster busy .*list pods of shop.*no answer within 300 ms/) });
    expect(String(error)).not.toContain('token-of-a-test');
  });

  it('wrong configuration is said before any call: cluster, context, and what is no kubeconfig', async () => {
    const connect = (name: string, settings: object) => connectKubernetes({ ...context, config: { ...context.config, kubernetes: { eu: { timeout: 1000, ...settings } } } } as Context, name, new AbortController().signal);
    await expect(connect('us', {})).rejects.toMatchObject({ next: 'use one of: eu' });
    await expect(connect('eu', { kubeconfig: `file:${server.kubeconfigs['admin']}`, context: 'prod' })).rejects.toMatchObject({ code: 'kubernetes-config', next: 'use one of: local' });
    const path = join(testDirectory('kubeconfig'), 'config');
    writeFileSync(path, 'top secret: [');
    const error = await connect('eu', { kubeconfig: `file:${path}` }).catch((problem: unknown) => problem as Error);
    expect(String(error)).toContain('no kubeconfig');
    expect(String(error)).not.toContain('top secret');
    writeFileSync(path, stringify({ clusters: [{ name: 'c', cluster: { server: 'http://10.0.0.1' } }], contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }], users: [], 'current-context': 'x' }));
    await expect(connect('eu', { kubeconfig: `file:${path}` })).rejects.toMatchObject({ message: expect.stringContaining('in the clear') });
    await expect(connect('eu', {})).rejects.toMatchObject({ code: 'kubernetes-config', message: expect.stringContaining('does not run in a cluster') });
  });
});

it('doctor says whether each cluster answers and what it may not do there', async () => {
  const findings = (await runDoctor({ ...context, config: { ...context.config, kubernetes: { ...context.config.kubernetes, gone: { kubeconfig: 'file:/nowhere/kubeconfig', timeout: 1000 } } } } as Context, { fix: false, notifyTest: false })).filter(({ area }) => area.startsWith('kubernetes'));
  const of = (area: string) => findings.filter((finding) => finding.area === area).map(({ level, what }) => `${level} ${what}`).join('\n');
  expect(of('kubernetes eu')).toMatch(/^ok the API server answers; .* work in default\nok workloads of default may be restarted$/);
  expect(of('kubernetes gone')).toMatch(/^fail .*\/nowhere\/kubeconfig/);
  expect(of('kubernetes nobody')).toMatch(/^ok the API server answers; .*\nwarn in default it may not patch deployments, list pods/);
});

it('pods are deleted by identity, and their replacement is waited for', async () => {
  const app = await workload('statefulset', { secret: await secret() });
  const pods = await readyPods(admin, 'default', `app=${app}`);
  expect(await deletePods(admin, 'default', [pods[0]!])).toEqual([pods[0]]);
  const options = { namespace: 'default', selector: `app=${app}`, gone: [pods[0]!], count: 2, deadlineMs: Date.now() + 20_000, nowMs: Date.now };
  const replaced = await awaitReplacement(admin, options);
  expect(replaced.complete).toBe(true);
  // The new pod has the old one's name: asked for again, it stays.
  expect(replaced.ready.map(({ name }) => name).sort()).toEqual(pods.map(({ name }) => name).sort());
  expect(await deletePods(admin, 'default', [pods[0]!])).toEqual([]);
  expect(await readyPods(admin, 'default', `app=${app}`)).toEqual(replaced.ready);

  await server.call('PATCH', `${APPS}/statefulsets/${app}`, { spec: { template: { spec: { containers: [{ name: 'app', image: 'shop:missing' }] } } } });
  await expect.poll(async () => (await readyPods(admin, 'default', `app=${app}`)).length).toBe(1);
  await expect.poll(() => awaitReplacement(admin, { ...options, gone: [], deadlineMs: Date.now() }), { timeout: 30_000 }).toMatchObject({ complete: false, notReady: [expect.stringContaining('ImagePullBackOff')] });
});
