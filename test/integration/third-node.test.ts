import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startStandby, type PostgresServer } from '../../src/local/stack.ts';
import { postgresSteps } from '../../activities/postgres.ts';
import { pause } from '../../activities/step-definition.ts';
import { postgresByHand } from '../../src/model/by-hand/postgres.ts';
import type { ByHandCall } from '../../src/model/by-hand/words.ts';
import type { Progress } from '../../src/model/execution.ts';
import { formatConninfo, parseConninfo } from '../../src/model/postgres-conninfo.ts';
import type { Json } from '../../src/model/runbook-schema.ts';
import { postgresOf } from '../../src/systems/context.ts';
import { nodeByAddress } from '../../src/systems/postgres-node.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { databasePair, type DatabasePair } from '../database-pair.ts';
import { mortalWorker, type MortalWorker } from '../mortal.ts';
import { runStep } from '../step-run.ts';
import { connectTemporal, endOf, queryOnce, runningWorker, suite, testDirectory, uniqueName } from '../support.ts';

type Name = 'a' | 'b' | 'c';

let processes: Processes;
let pair: DatabasePair;
let servers: Record<Name, PostgresServer>;
let client: Client;
let worker: { stop(): Promise<void> };
const mortals: MortalWorker[] = [];

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('three') });
  pair = await databasePair(processes);
  const { a, b } = pair.servers;
  const c = await startStandby({ processes, directory: testDirectory('third'), name: 'c', primary: a, settings: { shared_buffers: '32MB', fsync: 'off' } });
  servers = { a, b, c };
  const { nodes } = postgresOf(pair.context.config, 'shop');
  // No replication user in its configuration: it keeps the login it has.
  nodes['c'] = { host: c.host, port: c.port, dataDirectory: c.dataDirectory, binDirectory: c.binDirectory, exec: c.exec };
  // Workers in processes of their own read it from the file.
  const document = parse(readFileSync(pair.context.configPath, 'utf8')) as { datastores: { shop: { nodes: Record<string, unknown> } } };
  document.datastores.shop.nodes['c'] = nodes['c'];
  writeFileSync(pair.context.configPath, stringify(document));
  client = await connectTemporal(pair.context);
});

afterAll(async () => {
  for (const one of mortals) await one.stop();
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

async function primary(): Promise<Name> {
  const { readEndpoint } = await import('../../src/systems/endpoint.ts');
  const { host, port } = await readEndpoint(pair.context, pair.secretId);
  return nodeByAddress(postgresOf(pair.context.config, 'shop'), host, port) as Name;
}

function begin(input: Record<string, unknown>): Promise<WorkflowHandle> {
  return client.workflow.start('failover', { taskQueue: pair.context.config.temporal.taskQueue, workflowId: `failover/${uniqueName('three')}`, args: [{ service: pair.service, mode: 'planned', reason: 'test', requestedBy: 'tester', ...input }] });
}

async function run(input: Record<string, unknown>): Promise<ExecutionResult> {
  return endOf(await begin(input));
}

async function rebuild(node: Name): Promise<void> {
  await client.workflow.execute('runbook', { taskQueue: pair.context.config.temporal.taskQueue, workflowId: `runbook/${uniqueName('three')}`, args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node } }] });
}

/** Does what is written on the primary arrive there? */
async function follows(node: Name, of: Name): Promise<void> {
  const id = -Math.floor(Math.random() * 1e9) - 1000;
  await queryOnce(servers[of].connectionString('shop'), 'insert into orders (id) values ($1)', [id]);
  await expect.poll(async () => (await queryOnce(servers[node].connectionString('shop'), 'select 1 from orders where id = $1', [id])).length, { timeout: 30_000 }).toBe(1);
}

const summaryOf = (result: ExecutionResult, step: string): string => result.steps.find((item) => item.id === step)!.summary;

/** Whom the node receives from, by its own receiver. */
async function upstream(node: Name): Promise<Name | undefined> {
  const [row] = await queryOnce<{ port: number | null }>(servers[node].connectionString(), 'select sender_port as port from pg_stat_wal_receiver');
  return (Object.keys(servers) as Name[]).find((name) => servers[name].port === row?.port);
}

/** Whom it is to receive from, by its settings as they are in force. */
async function conninfoOf(node: Name): Promise<Map<string, string> | null> {
  return parseConninfo((await queryOnce<{ text: string }>(servers[node].connectionString(), "select current_setting('primary_conninfo') as text"))[0]!.text);
}

/** The whole server, postmaster and children. */
function signalAll(server: PostgresServer, signal: NodeJS.Signals): void {
  const postmaster = Number(readFileSync(join(server.dataDirectory, 'postmaster.pid'), 'utf8').split('\n')[0]);
  process.kill(postmaster, signal);
  // Stopped first, it makes no more of them; one may have ended since it was listed.
  const children = readFileSync(`/proc/${postmaster}/task/${postmaster}/children`, 'utf8').trim().split(' ').filter((pid) => pid !== '').map(Number);
  for (const pid of children) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}

/** WAL that no application asks for, as checkpoints and snapshots for standbys are, all the time until `stop`. */
function chatter(node: Name): { stop(): Promise<number> } {
  const stopping = new AbortController();
  const done = (async () => {
    let records = 0;
    while (!stopping.signal.aborted) {
      await queryOnce(servers[node].connectionString(), "select pg_create_restore_point('chatter')").then(() => (records += 1), () => {});
      await pause(10);
    }
    return records;
  })();
  return {
    stop: () => {
      stopping.abort();
      return done;
    },
  };
}

it('a planned failover takes the third node along, and so does the way back, while the old primary goes on writing WAL by itself', async () => {
  worker = await runningWorker(pair.context);
  let noise = chatter('a');
  const there = await run({ parameters: { candidate: 'b' } });
  expect(await noise.stop()).toBeGreaterThan(20);
  expect(there.outcome).toBe('succeeded');
  expect(await primary()).toBe('b');
  expect(summaryOf(there, 'read-only')).toMatch(/c turned to b/);
  expect(summaryOf(there, 'read-only')).not.toMatch(/not turned/);
  expect(summaryOf(there, 'repoint')).toMatch(/c follows/);
  expect(summaryOf(there, 'verify-lag')).toMatch(/1 of 1 standby\(s\) stream/);
  await follows('c', 'b');
  noise = chatter('b');
  const back = await run({ purpose: 'failback', parameters: { node: 'a' } });
  expect(await noise.stop()).toBeGreaterThan(20);
  expect(back.outcome).toBe('succeeded');
  expect(await primary()).toBe('a');
  expect(summaryOf(back, 'repoint')).toMatch(/c follows/);
  await follows('c', 'a');
  // It is found before the first change that a node could not be repointed.
  const [{ text }] = await queryOnce<{ text: string }>(servers.c.connectionString(), "select current_setting('primary_conninfo') as text") as [{ text: string }];
  await queryOnce(servers.c.connectionString(), "alter system set primary_conninfo = 'host'");
  await queryOnce(servers.c.connectionString(), 'select pg_reload_conf()');
  await rebuild('b');
  await expect(run({ parameters: { candidate: 'b' } })).rejects.toMatchObject({ cause: { message: expect.stringMatching(/refused before the first change: .*c can be repointed: .*primary_conninfo of c is not understood/s) } });
  await queryOnce(servers.c.connectionString(), `alter system set primary_conninfo = '${text}'`);
  await queryOnce(servers.c.connectionString(), 'select pg_reload_conf()');
  expect(await primary()).toBe('a');
  await worker.stop();
}, 480_000);

it('the third node goes back to whom it followed when writes are let in again, also when the answer of the step was lost', async () => {
  await follows('c', 'a');
  const before = await conninfoOf('c');
  const input = { datastore: 'shop', primary: 'a', candidate: 'b' };
  for (const answer of ['known', 'lost'] as const) {
    const epoch = answer === 'known' ? 1_000_000 : 1_000_001;
    const reports: Json[] = [];
    const { facts } = await runStep(postgresSteps, pair.context, 'postgres.readOnly', 'apply', input, { epoch, heartbeat: (report) => void reports.push(report as Json) });
    expect(facts!['turns']).toEqual({ c: { host: before!.get('host'), hostaddr: null, port: String(servers.a.port), to: 'b' } });
    expect(await upstream('c')).not.toBe('a');
    await expect.poll(() => upstream('c'), { timeout: 30_000 }).toBe('b');
    // Another attempt does not take what the first one did for what was there before.
    const again = await runStep(postgresSteps, pair.context, 'postgres.readOnly', 'apply', input, { epoch, previousDetails: reports.at(-1) });
    expect(again.facts!['turns']).toEqual(facts!['turns']);
    const undone = await runStep(postgresSteps, pair.context, 'postgres.readOnly', 'undo', input, { epoch, ...(answer === 'known' ? { facts: facts! } : { lastReport: reports.at(-1)! }) });
    expect(undone).toMatchObject({ outcome: 'changed', summary: 'writes are allowed on a again; c follows as before' });
    await expect.poll(() => upstream('c'), { timeout: 30_000 }).toBe('a');
    expect(await conninfoOf('c')).toEqual(before);
    await follows('c', 'a');
  }
}, 120_000);

it('a third node that hangs, or whose replay is paused, holds nothing up and is named; what could not be taken back is taken back by the next try', async () => {
  const { a, c } = servers;
  const input = { datastore: 'shop', primary: 'a', candidate: 'b' };
  const before = await conninfoOf('c');
  let epoch = 1_000_010;
  const phase = (name: 'apply' | 'undo', call: Parameters<typeof runStep>[5] = {}): ReturnType<typeof runStep> => runStep(postgresSteps, pair.context, 'postgres.readOnly', name, input, { epoch, ...call });

  await queryOnce(c.connectionString(), 'select pg_wal_replay_pause()');
  expect((await phase('apply')).summary).toMatch(/WAL position \S+; third node not turned, it may have to be rebuilt: c \(its replay is paused\)$/);
  expect(await phase('undo')).toMatchObject({ outcome: 'changed', summary: 'writes are allowed on a again' });
  await queryOnce(c.connectionString(), 'select pg_wal_replay_resume()');

  // It hangs once everything about it is known.
  epoch += 1;
  const stopped = await phase('apply', { heartbeat: () => signalAll(c, 'SIGSTOP') }).finally(() => signalAll(c, 'SIGCONT'));
  expect(stopped.summary).toMatch(/third node not turned, it may have to be rebuilt: c \(still another receiver after 2000 ms\)$/);
  expect((await phase('undo', { facts: stopped.facts! })).summary).toMatch(/^writes are allowed on a again(; c follows as before)?$/);
  await expect.poll(() => conninfoOf('c')).toEqual(before);

  epoch += 1;
  const turned = await phase('apply');
  expect(turned.summary).toMatch(/c turned to b/);
  signalAll(c, 'SIGSTOP');
  const first = await phase('undo', { facts: turned.facts! }).finally(() => signalAll(c, 'SIGCONT'));
  expect(first.summary).toMatch(/^writes are allowed on a again; c (may still|still) follows? b .*by hand/);
  await queryOnce(a.connectionString('shop'), 'insert into orders (id) values (-20)');
  expect((await phase('undo', { facts: turned.facts! })).summary).toBe('writes are allowed on a; c follows as before');
  await expect.poll(() => upstream('c')).toBe('a');
  expect(await phase('undo', { facts: turned.facts! })).toEqual({ outcome: 'already-satisfied', summary: 'writes are allowed' });
  await follows('c', 'a');
}, 120_000);

it('by hand: the third node is turned and taken back by what the checklist has typed, with the login it has', async () => {
  const call: ByHandCall = { step: 'read-only', uses: 'postgres.readOnly', mode: 'planned', service: 'orders', inputs: { datastore: 'shop', primary: 'a', candidate: 'b' }, kept: {}, roles: { primary: 'a', candidate: 'b' }, approvals: 0, readOnlyDeadlineMs: 60_000, config: pair.context.config };
  const { blocks } = postgresByHand['postgres.readOnly']!(call);
  const typed = (kind: string): string => blocks.find((block) => block.kind === kind && block.sh.includes('primary_conninfo'))!.sh;
  const shell = (script: string): string => execFileSync('sh', ['-c', script], { env: { PATH: `${suite().postgres.binDirectory}:${process.env['PATH']}`, PGPASSWORD: servers.c.password, LC_ALL: 'C' }, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trimEnd().split('\n').at(-1)!;
  const before = await conninfoOf('c');
  expect(shell(typed('do'))).toBe('0');
  await expect.poll(() => upstream('c')).toBe('b');
  expect(await conninfoOf('c')).toEqual(new Map([...before!, ['port', String(servers.b.port)]]));
  expect(shell(typed('undo'))).toBe('told');
  await expect.poll(() => upstream('c')).toBe('a');
  await follows('c', 'a');
  // What was typed by hand is understood by what follows.
  await queryOnce(servers.c.connectionString(), "alter system set primary_conninfo = 'postgresql://replicator@127.0.0.1:1/'");
  await queryOnce(servers.c.connectionString(), 'select pg_reload_conf()');
  expect(shell(typed('undo'))).toMatch(/^STOP: .*URI/);
  await queryOnce(servers.c.connectionString(), `alter system set primary_conninfo = '${formatConninfo(before!).replaceAll("'", "''")}'`);
  await queryOnce(servers.c.connectionString(), 'select pg_reload_conf()');
}, 120_000);

it('a worker killed after it turned the third node, or told it to follow: the next one goes on, and the node follows, with its slot', async () => {
  const { a, c } = servers;
  await queryOnce(a.connectionString(), "select pg_create_physical_replication_slot('third')");
  const conninfo = `host=${a.host} port=${a.port} user=${a.replication.username} passfile=${c.replication.passfile} application_name=c`;
  await queryOnce(c.connectionString(), `alter system set primary_conninfo = '${conninfo}'`);
  await queryOnce(c.connectionString(), "alter system set primary_slot_name = 'third'");
  await queryOnce(c.connectionString(), 'select pg_reload_conf()');
  await expect.poll(() => queryOnce(a.connectionString(), "select active from pg_replication_slots where slot_name = 'third'"), { timeout: 30_000 }).toEqual([{ active: true }]);
  for (const at of ['postgres.readOnly:apply', 'postgres.repointStandbys:apply']) {
    const [dying, next] = [await mortalWorker(pair.context, { at }), await mortalWorker(pair.context)];
    mortals.push(dying, next);
    await dying.go();
    const handle = await begin({ parameters: { candidate: 'b' } });
    expect(await dying.ended).toBe('SIGKILL');
    await next.go();
    const result = await endOf(handle);
    expect(result.outcome).toBe('succeeded');
    expect(result.steps.find((step) => step.id === 'repoint')).toMatchObject({ outcome: 'changed' });
    expect(await primary()).toBe('b');
    await follows('c', 'b');
    const { state } = await handle.query<Progress>('progress');
    // The answer was lost; what is there was seen, and is in the ledger as a change.
    const killed = at.startsWith('postgres.readOnly') ? 'read-only' : 'repoint';
    expect(state!.ledger.filter((entry) => entry.step === killed).map((entry) => entry.outcome)).toEqual(['unknown', 'changed']);
    // What does not cascade, because the candidate has no such slot, is made there once it is the primary.
    expect(await queryOnce(servers.b.connectionString(), "select slot_name, active from pg_replication_slots where slot_name = 'third'")).toEqual([{ slot_name: 'third', active: true }]);
    await next.stop();
    worker = await runningWorker(pair.context);
    if (at.startsWith('postgres.repoint')) break;
    expect((await run({ purpose: 'failback', parameters: { node: 'a' } })).outcome).toBe('succeeded');
    await rebuild('b');
    // Left of the time before: with it there would be nothing to tell the third node.
    await queryOnce(servers.b.connectionString(), 'select pg_drop_replication_slot(slot_name) from pg_replication_slots');
    await worker.stop();
  }
  await rebuild('a');
}, 480_000);

it('forced: the standby that received most becomes the primary, and the other one follows it', async () => {
  expect(await primary()).toBe('b');
  await follows('a', 'b');
  // a hears nothing any more, c gets all.
  const senders = await queryOnce<{ pid: number; name: string }>(servers.b.connectionString(), 'select pid, application_name as name from pg_stat_replication');
  process.kill(senders.find((sender) => sender.name === 'a')!.pid, 'SIGSTOP');
  await queryOnce(servers.b.connectionString('shop'), 'insert into orders (id) values (-11)');
  await expect.poll(async () => (await queryOnce(servers.c.connectionString('shop'), 'select 1 from orders where id = -11')).length).toBe(1);
  await servers.b.kill();
  const result = await run({ mode: 'forced' });
  expect(result.outcome).toBe('succeeded');
  expect(await primary()).toBe('c');
  expect(summaryOf(result, 'confirm')).toMatch(/down by [234] fact\(s\).*candidate c; what was acknowledged in the last .* may be lost/);
  expect(summaryOf(result, 'repoint')).toMatch(/a told to follow c; a follows/);
  expect(await queryOnce(servers.a.connectionString('shop'), 'select id from orders where id = -11')).toHaveLength(1);
  await follows('a', 'c');
}, 480_000);

it('a standby that has more than the one that was promoted is left alone and named, and is no candidate any more', async () => {
  await rebuild('b');
  await follows('b', 'c');
  const senders = await queryOnce<{ pid: number; name: string }>(servers.c.connectionString(), 'select pid, application_name as name from pg_stat_replication');
  process.kill(senders.find((sender) => sender.name === 'a')!.pid, 'SIGSTOP');
  await queryOnce(servers.c.connectionString('shop'), 'insert into orders (id) values (-12)');
  await expect.poll(async () => (await queryOnce(servers.b.connectionString('shop'), 'select 1 from orders where id = -12')).length).toBe(1);
  await servers.c.kill();
  // Somebody insists on the one that has less.
  const handle = await begin({ mode: 'forced', parameters: { candidate: 'a' } });
  const progress = async (): Promise<NonNullable<Progress['state']>['steps']> => (await handle.query<Progress>('progress')).state!.steps;
  await expect.poll(async () => (await progress()).find((step) => step.status === 'parked')?.id, { timeout: 180_000, interval: 200 }).toBe('verify-lag');
  const steps = await progress();
  expect(steps.find((step) => step.id === 'confirm')!.summary).toMatch(/b has received \d+ B more, which go if a is promoted/);
  expect(steps.find((step) => step.id === 'repoint')).toMatchObject({ outcome: 'already-satisfied', summary: expect.stringMatching(/b cannot follow: it has \d+ bytes of WAL of timeline \d+ beyond .* rebuild it: holdfast run standby-rebuild --parameter node=b/) });
  expect(steps.find((step) => step.id === 'verify-lag')!.error).toMatch(/b streams: .*standby-rebuild --parameter node=b/);
  expect(steps.find((step) => step.id === 'fence')).toMatchObject({ status: 'done' });
  // Untouched: it still shows what it has, and where it belonged.
  expect(await queryOnce(servers.b.connectionString('shop'), 'select id from orders where id = -12')).toHaveLength(1);
  await handle.executeUpdate('skip', { args: [{ by: 'dan', reason: 'b is rebuilt next', step: 'verify-lag', attempt: steps.find((step) => step.id === 'verify-lag')!.attempt }] });
  await handle.result().catch((error: unknown) => {
    if (!(error instanceof WorkflowFailedError)) throw error;
  });
  expect(await primary()).toBe('a');
  // An orphan of an older timeline is no candidate, however far its positions have come, and although nobody else is left.
  await queryOnce(servers.a.connectionString(), 'checkpoint');
  await servers.a.kill();
  await expect(run({ mode: 'forced' })).rejects.toMatchObject({ cause: { message: expect.stringMatching(/candidate is on the newest timeline: expected timeline \d+, found timeline \d+ \(b was left behind/) } });
  await servers.a.start();
  await queryOnce(servers.a.connectionString('shop'), 'insert into orders (id) values (-13)');
  await rebuild('b');
  await follows('b', 'a');
  expect(await queryOnce(servers.b.connectionString('shop'), 'select id from orders where id in (-12, -13)')).toEqual([{ id: '-13' }]);
}, 480_000);
