import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { startKubernetes, type KubernetesServer } from '../../src/local/kubernetes.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { Progress } from '../../src/model/execution.ts';
import { createContext, type Context } from '../../src/systems/context.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { mortalWorker, type Death, type MortalWorker } from '../mortal.ts';
import { connectTemporal, failureOf, queryOnce, runningWorker, suite, testDirectory, toxiproxy, uniqueName } from '../support.ts';

let processes: Processes;
let pair: DatabasePair;
let kubernetes: KubernetesServer;
let context: Context;
let client: Client;
const mortals: MortalWorker[] = [];
const workers: { stop(): Promise<void> }[] = [];

const RUNBOOKS = new URL('../../runbooks/', import.meta.url).pathname;
const step = (id: string, uses: string, inputs: Record<string, unknown>, more: Record<string, unknown> = {}): object => ({ id, title: id, uses, narrative: 'for a test', with: inputs, ...more });
const fails = step('fails', 'rollout.command', { argv: ['false'] }, { attempts: 1 });
const OWN = {
  'kill-and-fail': [step('confirm', 'postgres.health', { datastore: 'shop' }), step('kill', 'chaos.killPrimary', { datastore: 'shop', primary: '${steps.confirm.primary}' }), fails],
  'kill-only': [step('confirm', 'postgres.health', { datastore: 'shop' }), step('kill', 'chaos.killPrimary', { datastore: 'shop', primary: '${steps.confirm.primary}' })],
  'cut-and-fail': [step('cut', 'chaos.proxyLink', { link: 'database', effect: 'cut' }), fails],
  'slow-and-heal': [step('slow', 'chaos.proxyLink', { link: 'database', effect: 'latency', latency: '250ms' }), step('hold', 'rollout.command', { argv: ['sleep', '1'] }), step('heal', 'chaos.proxyLink', { link: 'database', effect: 'restore' }, { after: 'slow' })],
  pods: [step('delete', 'chaos.pod', { cluster: 'apps', selector: 'app=shop', count: 1 })],
};

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('chaos') });
  const proxyName = uniqueName('database');
  await toxiproxy().proxy(proxyName, `127.0.0.1:${suite().postgres.port}`);
  kubernetes = await startKubernetes({ processes, directory: testDirectory('chaos-kube') });
  await kubernetes.call('POST', '/apis/apps/v1/namespaces/default/deployments', { apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: 'shop' }, spec: { replicas: 2, selector: { matchLabels: { app: 'shop' } }, template: { metadata: { labels: { app: 'shop' } }, spec: { containers: [{ name: 'shop', image: 'shop:1' }] } } } });
  const chaos = { allowed: ['killPrimary', 'proxyLink', 'pod'], links: { database: { api: suite().toxiproxyUrl, proxy: proxyName } } };
  const service = { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], runbooks: { failover: 'database-failover' }, cooldown: '0s', gate: { planned: [] } };
  pair = await databasePair(processes, {
    kubernetes: { apps: { kubeconfig: `file:${kubernetes.kubeconfigs['admin']}`, context: 'local', namespace: 'default' } },
    services: { orders: { ...service, chaos }, quiet: service },
  });
  const runbooks = testDirectory('chaos-runbooks');
  for (const name of ['database-failover', 'chaos-drill']) writeFileSync(join(runbooks, `${name}.yaml`), readFileSync(join(RUNBOOKS, `${name}.yaml`)));
  for (const [name, steps] of Object.entries(OWN)) writeFileSync(join(runbooks, `${name}.yaml`), stringify({ name, title: name, summary: 'for a test', steps }));
  context = createContext({ ...pair.context, runbookDirectory: runbooks });
  client = await connectTemporal(context);
});

afterAll(async () => {
  for (const one of mortals) await one.stop();
  for (const one of workers) await one.stop();
  await client?.connection.close();
  await processes?.end();
  context?.close();
  pair?.context.close();
});

function start(runbook: string, more: Readonly<Record<string, unknown>> = {}, of: Context = context): Promise<WorkflowHandle> {
  return client.workflow.start('runbook', { taskQueue: of.config.temporal.taskQueue, workflowId: `runbook/${runbook}/${uniqueName('chaos')}`, args: [{ runbook, service: 'orders', parameters: {}, reason: 'test', requestedBy: 'tester', ...more }] });
}

/** Each worker dies at its moment, the last one lives. */
async function through(handle: WorkflowHandle, deaths: readonly Death[]): Promise<void> {
  // Whoever is left of the run before would take its tasks.
  for (const one of mortals) await one.stop();
  for (const death of [...deaths, null]) {
    const mortal = await mortalWorker(context, death);
    mortals.push(mortal);
    await mortal.go();
    if (death === null) return;
    const end = await Promise.race([mortal.ended, handle.result().then(() => 'the run ended first', (error: Error) => `the run ended first: ${String(error.cause)}`)]);
    expect({ ...death, end }).toEqual({ ...death, end: 'SIGKILL' });
  }
}

async function ledgerOf(handle: WorkflowHandle): Promise<string[]> {
  const { state } = await handle.query<Progress>('progress');
  return state!.ledger.map(({ step: id, phase, outcome }) => `${id}:${phase} ${outcome}`);
}

async function linkState(): Promise<{ enabled: boolean; toxics: unknown[] }> {
  const { api, proxy } = context.config.services['orders']!.chaos!.links['database']!;
  return (await (await fetch(`${api}/proxies/${proxy}`, { headers: { 'user-agent': 'test' } })).json()) as { enabled: boolean; toxics: unknown[] };
}

const pidOf = (node: 'a' | 'b'): string => readFileSync(join(pair.servers[node].dataDirectory, 'postmaster.pid'), 'utf8').split('\n')[0]!;

it('workers killed after the kill and after its undo: one kill, the server is started again, and takes writes', async () => {
  const before = pidOf('a');
  const handle = await start('kill-and-fail');
  await through(handle, [{ at: 'chaos.killPrimary:apply' }, { at: 'chaos.killPrimary:undo' }]);
  const result = await failureOf(handle);
  expect(result.steps.find(({ id }) => id === 'kill')?.outcome).toBe('undone');
  expect((await ledgerOf(handle)).filter((entry) => entry.startsWith('kill:apply'))).toEqual(['kill:apply unknown', 'kill:apply changed']);
  expect(pair.servers.a.running()).toBe(true);
  expect(pidOf('a')).not.toBe(before);
  // It was no orderly stop.
  expect(readFileSync(pair.servers.a.logFile, 'utf8') + logOfStart()).toMatch(/was interrupted|not properly shut down/);
  expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  expect(await tryToWrite(pair, 'b')).toEqual([]);
});

function logOfStart(): string {
  try {
    return readFileSync(join(pair.servers.a.dataDirectory, 'holdfast-start.log'), 'utf8');
  } catch {
    return '';
  }
}

it('workers killed after a link was cut and after it was healed: it is whole in the end', async () => {
  const handle = await start('cut-and-fail');
  await through(handle, [{ at: 'chaos.proxyLink:apply' }, { at: 'chaos.proxyLink:undo' }]);
  await failureOf(handle);
  expect(await ledgerOf(handle)).toContain('cut:apply changed');
  expect(await linkState()).toMatchObject({ enabled: true, toxics: [] });
});

it('a link is slowed for real and healed; what somebody else had cut is refused', async () => {
  const handle = await start('slow-and-heal');
  const seen: number[] = [];
  const watching = (async () => {
    while ((await handle.describe()).status.name === 'RUNNING') seen.push((await linkState()).toxics.length);
  })();
  await through(handle, []);
  const result = (await handle.result()) as ExecutionResult;
  await watching;
  expect(result.outcome).toBe('succeeded');
  expect(Math.max(...seen)).toBe(2);
  expect(await linkState()).toMatchObject({ enabled: true, toxics: [] });
  const { api, proxy } = context.config.services['orders']!.chaos!.links['database']!;
  const set = (enabled: boolean): Promise<Response> => fetch(`${api}/proxies/${proxy}`, { method: 'POST', headers: { 'user-agent': 'test' }, body: JSON.stringify({ enabled }) });
  await set(false);
  expect((await failureOf(await start('cut-and-fail'))).failure).toContain('otherwise nobody knows who cut it');
  expect(await linkState()).toMatchObject({ enabled: false });
  await set(true);
});

it('a worker killed after a pod was deleted: no second pod goes, and the drill ends when another is ready', async () => {
  const pods = async () => (await kubernetes.call<{ items: { metadata: { name: string; uid: string }; status: { conditions?: { type: string; status: string }[] } }[] }>('GET', '/api/v1/namespaces/default/pods?labelSelector=app%3Dshop')).items;
  await expect.poll(async () => (await pods()).filter(({ status }) => status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True')).length, { timeout: 30_000 }).toBe(2);
  const before = (await pods()).map(({ metadata }) => metadata.uid);
  const handle = await start('pods');
  await through(handle, [{ at: 'chaos.pod:apply' }]);
  const result = (await handle.result()) as ExecutionResult;
  const after = (await pods()).map(({ metadata }) => metadata.uid);
  expect(after).toHaveLength(2);
  expect(after.filter((uid) => before.includes(uid))).toHaveLength(1);
  // When it was deleted was lost with the worker: it is not made up.
  expect(result.measurements).toMatchObject([{ name: 'chaos: pods deleted to as many ready as before', objective: 900_000 }]);
});

it('nothing is broken where the service does not allow it, nor in production without an approval by somebody else', async () => {
  const before = pidOf('a');
  expect((await failureOf(await start('kill-only', { service: 'quiet' }))).failure).toContain('services.quiet.chaos.allowed');
  const folder = testDirectory('production');
  mkdirSync(folder, { recursive: true });
  const production = (chaos: object): Context => createContext({ ...context, config: { ...context.config, environment: 'production', temporal: { ...context.config.temporal, taskQueue: uniqueName('queue') }, services: { ...context.config.services, orders: { ...context.config.services['orders']!, chaos: { ...context.config.services['orders']!.chaos!, ...chaos } } } } });
  for (const [chaos, said] of [[{ production: false }, 'services.orders.chaos.production'], [{ production: true }, 'nobody other than the requester has approved this run']] as const) {
    const there = production(chaos);
    const worker = await runningWorker(there);
    workers.push(worker);
    expect((await failureOf(await start('kill-only', {}, there))).failure).toContain(said);
  }
  expect(pidOf('a')).toBe(before);
  expect(pair.servers.a.running()).toBe(true);
});

it('the drill: the primary is killed, the forced failover runs, and the time to the first good write is judged', async () => {
  const handle = await start('chaos-drill', { parameters: { datastore: 'shop', approvals: 0 } });
  const result = (await handle.result()) as ExecutionResult;
  expect(result.outcome).toBe('succeeded');
  expect(result.steps.map(({ id, outcome }) => `${id} ${outcome}`)).toEqual(expect.arrayContaining(['kill changed', 'failover changed']));
  expect(pair.servers.a.running()).toBe(false);
  expect(await pair.pointsTo()).toBe('b');
  expect(await tryToWrite(pair, 'b')).toEqual(['application', 'superuser']);
  const [total] = result.measurements;
  expect(total).toMatchObject({ name: 'chaos: primary killed to first good write', objective: 900_000 });
  expect(total!.measured).toBeGreaterThan(0);
  expect(result.objectivesMet).toBe(true);
  // The canary's own row, on the new primary, is not older than the kill.
  const [row] = await queryOnce<{ first: string }>(pair.servers.b.connectionString('shop'), 'select count(*) as first from holdfast.canary');
  expect(Number(row!.first)).toBeGreaterThan(3);
  const report = JSON.parse(readFileSync(join(result.evidence!, 'report.json'), 'utf8')) as { measurements?: unknown[] };
  expect(JSON.stringify(report)).toContain('chaos: primary killed to first good write');
});
