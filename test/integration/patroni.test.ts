import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { WorkflowFailedError, type Client, type WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { createProcesses, startPatroni, type PatroniCluster, type Processes } from '../../src/local/stack.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { secretsOfTest, startHoldfast } from '../cli/program.ts';
import { ApplicationWriter, SECOND_ADDRESS, pairOn, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { mortalWorker, type Death, type MortalWorker } from '../mortal.ts';
import { connectTemporal, failureOf, queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';

type Node = 'a' | 'b';

/** In front of each REST interface, so that a test can hold back the answer to a change that was carried out. */
interface Door {
  readonly url: string;
  readonly server: Server;
  readonly port: number;
}

let processes: Processes;
let patroni: PatroniCluster;
let doors: Record<Node, Door>;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
const mortals: MortalWorker[] = [];
let taskQueue: string;
/** Called with each change that was carried out; what it returns is waited for before the answer is passed on. */
let carriedOut: ((body: string) => Promise<void>) | undefined;
const upMs = { cluster: 0 };

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('patroni') });
  const started = Date.now();
  patroni = await startPatroni({ processes, directory: processes.directory, names: ['a', 'b'], listen: { b: SECOND_ADDRESS } });
  upMs.cluster = Date.now() - started;
  doors = { a: await openDoor('a'), b: await openDoor('b') };
  process.env['HOLDFAST_TEST_PATRONI_PASSWORD'] = patroni.api.password;
  process.env['HOLDFAST_TEST_PATRONI_WRONG'] = 'not-the-password';
  const made = await pairOn(member('a'), async () => member('b'), {}, { controller: declared() });
  const runbookDirectory = testDirectory('runbooks');
  cpSync(made.context.runbookDirectory, runbookDirectory, { recursive: true });
  // The shipped runbook with a wait while Patroni is paused and nothing else was changed.
  const text = readFileSync(join(runbookDirectory, 'database-failover.yaml'), 'utf8').replace(/^name: .*/m, 'name: held-failover');
  const held = text.replace('  - id: checkpoint\n', '  - id: hold\n    title: Hold\n    uses: operator.wait\n    narrative: Hold.\n    with: {duration: 2s}\n\n  - id: checkpoint\n');
  if (held === text) throw new Error('the shipped runbook has no step checkpoint any more');
  writeFileSync(join(runbookDirectory, 'held-failover.yaml'), held);
  pair = { ...made, context: { ...made.context, runbookDirectory } };
  Object.assign(pair.context.config.services[pair.service]!.runbooks, { held: 'held-failover' });
  // Workers in processes of their own read it from the file.
  const document = parse(readFileSync(pair.context.configPath, 'utf8')) as { services: Record<string, { runbooks: Record<string, string> }> };
  document.services[pair.service]!.runbooks['held'] = 'held-failover';
  writeFileSync(pair.context.configPath, stringify(document));
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
  taskQueue = pair.context.config.temporal.taskQueue;
});

afterAll(async () => {
  for (const one of mortals) await one.stop();
  await worker?.stop();
  await client?.connection.close();
  for (const door of Object.values(doors ?? {})) {
    door.server.closeAllConnections();
    door.server.close();
  }
  await processes?.end();
  pair?.context.close();
});

function member(node: Node): PatroniCluster['members'][string] {
  return patroni.members[node]!;
}

function declared(more: Record<string, unknown> = {}): Record<string, unknown> {
  return { type: 'patroni', members: { a: { api: doors.a.url }, b: { api: doors.b.url } }, username: patroni.api.username, password: 'env:HOLDFAST_TEST_PATRONI_PASSWORD', wait: '30s', ...more };
}

async function openDoor(node: Node): Promise<Door> {
  const server = createServer((incoming, outgoing) => {
    const forward = request(`${member(node).apiUrl}${incoming.url}`, { method: incoming.method, headers: incoming.headers, agent: false }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => {
        void (incoming.method === 'PATCH' && carriedOut !== undefined ? carriedOut(body) : Promise.resolve()).then(() => outgoing.writeHead(answer.statusCode!, answer.headers).end(Buffer.concat(chunks)));
      });
    });
    forward.on('error', () => outgoing.destroy());
    let body = '';
    incoming.on('data', (chunk: Buffer) => (body += chunk.toString()));
    incoming.on('end', () => forward.end(body));
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, server, port };
}

/** As an operator would, by Patroni's own interface. */
async function patch(change: object): Promise<void> {
  const answer = await fetch(`${member('b').apiUrl}/config`, { method: 'PATCH', headers: { authorization: `Basic ${Buffer.from(`${patroni.api.username}:${patroni.api.password}`).toString('base64')}` }, body: JSON.stringify(change) });
  expect(answer.status).toBe(200);
}

/** What Patroni itself shows: its leader, who is paused, and what stands in its configuration. */
async function patroniNow(): Promise<{ leader: string | undefined; roles: string; paused: boolean[]; configured: unknown; mark: unknown }> {
  const { members } = (await member('b').read('/cluster')) as { members: { name: string; role: string; state: string }[] };
  const config = await member('b').read('/config');
  const paused = await Promise.all((['a', 'b'] as const).map(async (node) => (await member(node).read('/patroni'))['pause'] === true));
  return { leader: members.find((one) => one.role === 'leader')?.name, roles: members.map((one) => `${one.name} ${one.role} ${one.state}`).sort().join(', '), paused, configured: config['pause'] ?? null, mark: config['holdfast'] ?? null };
}

function controllerOf(value: Record<string, unknown> | undefined): void {
  const datastore = pair.context.config.datastores['shop']! as { controller?: unknown };
  datastore.controller = value === undefined ? undefined : { wait: 30_000, ...value, ...(value['wait'] === undefined ? {} : { wait: 30_000 }) };
}

async function mortal(death: Death | null = null): Promise<MortalWorker> {
  const one = await mortalWorker(pair.context, death);
  mortals.push(one);
  return one;
}

function start(more: Record<string, unknown> = {}): Promise<WorkflowHandle> {
  return client.workflow.start('failover', { taskQueue, workflowId: `failover/${uniqueName('patroni')}`, args: [{ service: pair.service, mode: 'planned', reason: 'test', requestedBy: 'tester', ...more }] });
}

async function run(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  const handle = await start(more);
  return (await handle.result().catch((error: unknown) => {
    throw error instanceof WorkflowFailedError ? new Error(`the failover failed: ${String(error.cause?.message)}`, { cause: error }) : error;
  })) as ExecutionResult;
}

function stepOf(result: ExecutionResult, id: string): ExecutionResult['steps'][number] {
  return result.steps.find((step) => step.id === id)!;
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))!.measured;
}

async function reaches(handle: WorkflowHandle, id: string, status: string): Promise<void> {
  await expect.poll(async () => (await handle.query<Progress>('progress')).state?.steps.find((step) => step.id === id)?.status, { timeout: 30_000, interval: 20 }).toBe(status);
}

/** Patroni acts, a leads, b follows, nothing of ours is left, and the application writes. */
async function expectAsBefore(): Promise<void> {
  await expect.poll(patroniNow, { timeout: 30_000 }).toEqual({ leader: 'a', roles: 'a leader running, b replica running', paused: [false, false], configured: null, mark: null });
  expect(await pair.pointsTo()).toBe('a');
  expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  expect(await queryOnce(member('b').connectionString(), 'select pg_is_in_recovery() as recovering')).toEqual([{ recovering: true }]);
}

/** The other node is a replica that Patroni runs: it streams, and nothing would keep the application out once Patroni promotes it. */
async function expectFollows(node: Node, leader: Node): Promise<void> {
  expect(await queryOnce(member(leader).connectionString(), 'select application_name, state from pg_stat_replication')).toEqual([{ application_name: node, state: 'streaming' }]);
  expect(await queryOnce(pair.applicationUrl(node), "select pg_is_in_recovery() as recovering, current_setting('default_transaction_read_only') as read_only")).toEqual([{ recovering: true, read_only: 'off' }]);
  expect(await tryToWrite(pair, node)).toEqual([]);
}

describe('a Patroni that cannot be paused stops the run before the first change', () => {
  it('one that nobody declared, by what shows on the servers', async () => {
    controllerOf(undefined);
    try {
      const result = await failureOf(await start());
      expect(result.failure).toMatch(/^refused before the first change: pause-controller: no other controller: expected none, or one that can be paused, found Patroni by a: a session of Patroni \(patroni_admin\); b: a session of Patroni/);
      expect(result.failure).toContain("a: patroni.dynamic.json in its data directory; a: postgresql.base.conf beside its postgresql.conf; a: a server started with Patroni's command line");
      expect(result.failure).toContain('add to holdfast.yaml: datastores.shop.controller: { type: patroni, members: { a: { api: "http://<host of a>:8008" }');
      expect(stepOf(result, 'stage-secret').outcome).toBe('not begun');
    } finally {
      controllerOf(declared());
    }
    await expectAsBefore();
  });

  it('one that was declared not to be there, and is connected', async () => {
    controllerOf({ type: 'none' });
    try {
      expect((await failureOf(await start())).failure).toMatch(/pause-controller: .*controller\.type is none, but it is connected now/);
    } finally {
      controllerOf(declared());
    }
  });

  it('one that refuses the credentials', async () => {
    controllerOf(declared({ password: 'env:HOLDFAST_TEST_PATRONI_WRONG' }));
    try {
      const { failure } = await failureOf(await start());
      expect(failure).toMatch(/^refused before the first change: pause-controller: right to pause Patroni of a: expected a change that changes nothing is accepted, found .* answered 401/);
      expect(failure).not.toContain('not-the-password');
    } finally {
      controllerOf(declared());
    }
  });

  it('one whose interface cannot be reached, on one node only, and in a rebuild too', async () => {
    controllerOf(declared({ members: { a: { api: doors.a.url }, b: { api: 'http://127.0.0.1:1' } } }));
    try {
      expect((await failureOf(await start())).failure).toMatch(/^refused before the first change: pause-controller: Patroni of b answers: expected GET .*, found .*cannot be reached/);
      await expect(client.workflow.execute('runbook', { taskQueue, workflowId: uniqueName('rebuild'), args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node: 'b' } }] })).rejects.toMatchObject({
        cause: { message: expect.stringMatching(/pause-controller: Patroni of b answers/) },
      });
    } finally {
      controllerOf(declared());
    }
    await expectAsBefore();
  });
});

describe('going back', () => {
  it('after a guard that fails late Patroni acts again', async () => {
    const handle = await start({ purpose: 'held' });
    await reaches(handle, 'pause-controller', 'done');
    expect(await patroniNow()).toMatchObject({ leader: 'a', paused: [true, true], configured: true, mark: { execution: handle.workflowId } });
    await queryOnce(member('b').connectionString(), 'select pg_wal_replay_pause()');
    try {
      const result = await failureOf(handle);
      expect(result.failure).toMatch(/replay not paused/);
      expect(stepOf(result, 'pause-controller')).toMatchObject({ outcome: 'undone', summary: expect.stringMatching(/^undone: Patroni resumed with a as leader/) });
    } finally {
      await queryOnce(member('b').connectionString(), 'select pg_wal_replay_resume()');
    }
    await expectAsBefore();
  });

  it('resumed by somebody else midway: the repeated guards find it, and writes were never refused', async () => {
    const handle = await start({ purpose: 'held' });
    await reaches(handle, 'pause-controller', 'done');
    await patch({ pause: null });
    const result = await failureOf(handle);
    expect(result.failure).toMatch(/pause-controller: Patroni is still paused: expected paused, found resumed by somebody else/);
    expect(stepOf(result, 'read-only').outcome).toBe('not begun');
    await patch({ holdfast: null });
    await expectAsBefore();
  });

  it('a worker killed after the pause was undone: the next one finds that Patroni acts again', async () => {
    // From here to the end of the next two tests no worker runs in this process.
    await worker.stop();
    const dying = await mortal({ at: 'controller.pause:undo' });
    await dying.go();
    const handle = await start({ purpose: 'held' });
    await expect.poll(async () => (await handle.query<Progress>('progress')).state?.steps.find((step) => step.id === 'pause-controller')?.status, { timeout: 40_000, interval: 20 }).toBe('done');
    await handle.executeUpdate('abort', { args: [{ by: 'dan', reason: 'test' }] });
    expect(await dying.ended).toBe('SIGKILL');
    const next = await mortal();
    await next.go();
    const result = await failureOf(handle);
    expect(stepOf(result, 'pause-controller').outcome).toBe('undone');
    await next.stop();
    await expectAsBefore();
  }, 180_000);

  it('a worker killed after Patroni was resumed: the next one finds it, and nothing is resumed or switched twice', async () => {
    const dying = await mortal({ at: 'controller.resume:apply' });
    await dying.go();
    const handle = await start();
    expect(await dying.ended).toBe('SIGKILL');
    const next = await mortal();
    await next.go();
    const result = (await handle.result()) as ExecutionResult;
    expect(result.outcome).toBe('succeeded');
    expect(stepOf(result, 'resume-controller').outcome).toBe('changed');
    const { state } = await handle.query<Progress>('progress');
    expect(state!.ledger.filter((entry) => entry.step === 'resume-controller').map((entry) => entry.outcome)).toEqual(['unknown', 'changed']);
    await expect.poll(patroniNow, { timeout: 30_000 }).toEqual({ leader: 'b', roles: 'a replica running, b leader running', paused: [false, false], configured: null, mark: null });
    await expectFollows('a', 'b');
    await run();
    await next.stop();
    await expectAsBefore();
  }, 180_000);

  it('a worker killed after the pause and before it said so: inspection finds the pause, and it is ours to undo', async () => {
    const { child, exited } = startHoldfast(['worker', '--config', pair.context.configPath, '--runbooks', pair.context.runbookDirectory], { env: secretsOfTest() });
    try {
      const killed = new Promise<void>((resolve) => {
        carriedOut = async (body) => {
          if (!body.includes('"pause":true')) return;
          carriedOut = undefined;
          child.kill('SIGKILL');
          await exited;
          resolve();
        };
      });
      const handle = await start();
      await killed;
      worker = await runningWorker(pair.context);
      // Its activity is given up after 10 s without a heartbeat.
      await expect.poll(async () => (await handle.query<Progress>('progress')).state?.steps.find((step) => step.id === 'pause-controller')?.summary, { timeout: 40_000, interval: 50 }).toMatch(/^its answer was lost; inspection shows that it happened: Patroni is paused/);
      await handle.executeUpdate('abort', { args: [{ by: 'dan', reason: 'test' }] });
      const result = await failureOf(handle);
      expect(stepOf(result, 'pause-controller').outcome).toBe('undone');
    } finally {
      carriedOut = undefined;
      child.kill('SIGKILL');
    }
    await expectAsBefore();
  });
});

describe('switching under Patroni', () => {
  let writer: ApplicationWriter;
  beforeAll(() => {
    writer = new ApplicationWriter(pair);
  });
  afterAll(() => writer.stop());

  it('a planned failover pauses it, promotes, and resumes it; the old primary follows as its replica, and no write is lost', async () => {
    await expect.poll(() => writer.acknowledged.length).toBeGreaterThan(100);
    const result = await run();
    expect(stepOf(result, 'pause-controller')).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/paused: a, b/) });
    const resumed = stepOf(result, 'resume-controller');
    expect(resumed).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/Patroni resumed with b as leader.*; a follows/) });
    expect(measured(result, 'acknowledged writes lost')).toBe(0);
    expect(await pair.pointsTo()).toBe('b');
    expect(await patroniNow()).toEqual({ leader: 'b', roles: 'a replica running, b leader running', paused: [false, false], configured: null, mark: null });
    await expectFollows('a', 'b');
    const window = measured(result, 'refused-write window');
    console.log(`Patroni and etcd up in ${upMs.cluster} ms; planned failover under Patroni: refused-write window ${window} ms; ${resumed.summary}`);
  });

  it('one that was paused before is left paused, and its leader is the new primary all the same', async () => {
    await patch({ pause: true });
    await expect.poll(async () => (await patroniNow()).paused).toEqual([true, true]);
    const result = await run({ purpose: 'failback', parameters: { node: 'a' } });
    expect(stepOf(result, 'rebuild').outcome).toBe('already-satisfied');
    expect(stepOf(result, 'pause-controller')).toMatchObject({ outcome: 'already-satisfied', summary: expect.stringMatching(/paused already, by somebody else/) });
    expect(stepOf(result, 'resume-controller')).toMatchObject({ outcome: 'already-satisfied', summary: expect.stringMatching(/left paused/) });
    expect(await patroniNow()).toMatchObject({ leader: 'a', paused: [true, true], configured: true, mark: null });
    expect(measured(result, 'acknowledged writes lost')).toBe(0);
    expect(await tryToWrite(pair, 'b')).toEqual([]);
    await patch({ pause: null });
    await expect.poll(async () => (await patroniNow()).roles, { timeout: 20_000 }).toBe('a leader running, b replica running');
    await expect.poll(() => expectFollows('b', 'a').then(() => 'follows', String), { timeout: 30_000 }).toBe('follows');
    expect(await pair.pointsTo()).toBe('a');
  });

  it('nothing acknowledged under it was lost', async () => {
    await writer.stop();
    expect(writer.acknowledged.length).toBeGreaterThan(300);
    expect(await writer.lostOn('a')).toEqual([]);
  });

  it('forced: the machine of the leader is gone, its Patroni with it; it comes back as a replica of the new one', async () => {
    // At once, as when the machine loses its power: Patroni's own failover would begin once the leader's key has run out.
    process.kill(-member('a').patroni.pid, 'SIGKILL');
    await member('a').kill();
    const result = await run({ mode: 'forced', reason: 'the machine is gone' });
    expect(stepOf(result, 'pause-controller').outcome).toBe('changed');
    expect(stepOf(result, 'pause-controller').summary).toMatch(/paused: b in .*; a silent/);
    expect(stepOf(result, 'resume-controller')).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/Patroni resumed with b as leader.*a does not follow yet/) });
    expect(await pair.pointsTo()).toBe('b');
    expect((await member('b').read('/config'))['pause'] ?? null).toBeNull();
    await member('a').restartPatroni();
    await expect.poll(() => expectFollows('a', 'b').then(() => 'follows', String), { timeout: 30_000 }).toBe('follows');
    console.log(`forced failover under Patroni: RTO ${measured(result, 'RTO')} ms; ${stepOf(result, 'pause-controller').summary}`);
  });

  it('a standby is rebuilt while Patroni is paused, and Patroni takes it over', async () => {
    await member('a').kill();
    rmSync(join(member('a').dataDirectory, 'global', 'pg_control'));
    const result = (await client.workflow.execute('runbook', { taskQueue, workflowId: uniqueName('rebuild'), args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node: 'a' } }] })) as ExecutionResult;
    expect(stepOf(result, 'rebuild').summary).toMatch(/^a rebuilt by Patroni \(reinitialize\) from b/);
    expect(stepOf(result, 'resume-controller')).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/b as leader.*; a follows/) });
    await expect.poll(patroniNow, { timeout: 30_000 }).toEqual({ leader: 'b', roles: 'a replica running, b leader running', paused: [false, false], configured: null, mark: null });
    await expectFollows('a', 'b');
  });
});
