import { execFile } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ApplicationFailure, WorkflowFailedError, WorkflowExecutionAlreadyStartedError, type Client } from '@temporalio/client';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { findTool } from '../../src/local/tools.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import type { ReadinessResult } from '../../workflows/readiness.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory } from '../support.ts';
import { postgresOf } from '../../src/systems/context.ts';

/** Even, so that it ends where it began. */
const SWITCHES = process.env['HOLDFAST_TEST_ROUNDS'] === 'long' ? 20 : 6;

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let taskQueue: string;
let workflowId: string;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('failover') });
  pair = await databasePair(processes);
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
  taskQueue = pair.context.config.temporal.taskQueue;
  workflowId = `failover/${pair.service}-${taskQueue}`;
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

function input(more: Record<string, unknown>): Record<string, unknown> {
  return { service: pair.service, mode: 'planned', reason: 'test', requestedBy: 'tester', ...more };
}

async function run(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  return client.workflow.execute('failover', { taskQueue, workflowId, args: [input(more)] });
}

/** The result that a failed execution carries. */
async function runToFailure(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  try {
    await run(more);
  } catch (error) {
    if (error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure) return error.cause.details![0] as ExecutionResult;
    throw error;
  }
  throw new Error('the failover succeeded, a refusal was expected');
}

function outcomeOf(result: ExecutionResult, step: string): string | undefined {
  return result.steps.find((item) => item.id === step)?.outcome;
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))!.measured;
}

describe('guards that would fail late', () => {
  it('finds a missing DNS zone before writes are refused, and the primary stays writable', async () => {
    const dns = postgresOf(pair.context.config, 'shop').endpoint!.dns!;
    const zone = dns.hostedZoneId;
    dns.hostedZoneId = 'ZMISSING';
    try {
      const result = await runToFailure();
      expect(result.failure).toMatch(/refused before the first change: .*dns.*NoSuchHostedZone/s);
      expect(outcomeOf(result, 'read-only')).toBe('not begun');
    } finally {
      dns.hostedZoneId = zone;
    }
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  });

  it('finds a missing secret before writes are refused', async () => {
    const endpoint = postgresOf(pair.context.config, 'shop').endpoint!;
    const secret = endpoint.secret;
    endpoint.secret = 'no-such-secret';
    try {
      const result = await runToFailure();
      expect(result.failure).toMatch(/no-such-secret/);
      expect(outcomeOf(result, 'read-only')).toBe('not begun');
    } finally {
      endpoint.secret = secret;
    }
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  });

  it('finds a lagging candidate before writes are refused', async () => {
    const { a, b } = pair.servers;
    await queryOnce(b.connectionString(), 'select pg_wal_replay_pause()');
    try {
      await queryOnce(a.connectionString('shop'), 'insert into orders (id) values (-100)');
      const result = await runToFailure();
      expect(result.failure).toMatch(/replay not paused: expected replay running, found paused/);
      expect(outcomeOf(result, 'read-only')).toBe('not begun');
    } finally {
      await queryOnce(b.connectionString(), 'select pg_wal_replay_resume()');
    }
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  });

  it('lifts read-only again when the candidate stops replaying after writes were refused', async () => {
    const { a, b } = pair.servers;
    const handle = await client.workflow.start('failover', { taskQueue, workflowId, args: [input({})] });
    // Pause replay in the moment in which the guards have held and writes are refused.
    for (;;) {
      const progress = await handle.query<Progress>('progress');
      const step = progress.state?.steps.find((item) => item.id === 'canary');
      if (step?.status === 'running' || step?.status === 'done') break;
    }
    await queryOnce(b.connectionString(), 'select pg_wal_replay_pause()');
    try {
      await expect(handle.result()).rejects.toThrow(WorkflowFailedError);
    } finally {
      await queryOnce(b.connectionString(), 'select pg_wal_replay_resume()');
    }
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
    expect((await queryOnce(a.connectionString(), 'show default_transaction_read_only'))[0]).toEqual({ default_transaction_read_only: 'off' });
    expect((await queryOnce(b.connectionString(), 'select pg_is_in_recovery() as recovering'))[0]).toEqual({ recovering: true });
    expect(await pair.pointsTo()).toBe('a');
  });

  it('refuses a forced failover while the primary is alive', async () => {
    const result = await runToFailure({ mode: 'forced' });
    expect(result.failure).toMatch(/primary is down: expected no sign of life, found a answers/);
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
  });
});

describe('before anything changes', () => {
  it('a dry run names what would hold and changes nothing', async () => {
    const result = await run({ dryRun: true });
    expect(result.outcome).toBe('checked');
    expect(result.checks.map((check) => check.name)).toEqual(expect.arrayContaining(['confirm: lag', 'dns: DNS permission', 'promote: promotion right', 'read-only: right to fence']));
    expect(result.checks.every((check) => check.ok)).toBe(true);
    expect(await pair.pointsTo()).toBe('a');
  });

  it('readiness asks every guard, wants a backup proved by a restore, and says what was not checked', async () => {
    const ready = (): Promise<ReadinessResult> => client.workflow.execute('readiness', { taskQueue, workflowId: `readiness/${workflowId}`, args: [{ service: pair.service }] });
    const before = await ready();
    expect(before).toMatchObject({ level: 'not-ready', recoverable: false });
    expect(before.why).toEqual([expect.stringMatching(/shop: newest backup: .*none/), expect.stringMatching(/shop: restore drill: .*none was proved/), expect.stringMatching(/database-failover: rehearsed/), expect.stringMatching(/database-failback: rehearsed/)]);
    await client.workflow.execute('backup', { taskQueue, workflowId: `backup/${workflowId}`, args: [{ datastore: 'shop' }] });
    await client.workflow.execute('restoreDrill', { taskQueue, workflowId: `drill/${workflowId}`, args: [{ datastore: 'shop' }] });
    const after = await ready();
    expect(after).toMatchObject({ level: 'degraded', recoverable: true });
    expect(after.why).toEqual([expect.stringMatching(/^database-failover: rehearsed: .*no run in full is known/), expect.stringMatching(/^database-failback: rehearsed: /)]);
    expect(after.checks.map((check) => check.name)).toEqual(expect.arrayContaining(['confirm: lag', 'dns: DNS permission', 'shop: restore drill']));
    expect(after.notChecked.length).toBeGreaterThan(0);
  });

  it('wrong input is refused at once with what is allowed', async () => {
    await expect(run({ mode: 'quick' })).rejects.toMatchObject({ cause: { message: expect.stringMatching(/mode: .*planned.*forced/) } });
    await expect(run({ parameters: { datastor: 'shop' } })).rejects.toMatchObject({ cause: { cause: { message: expect.stringMatching(/no parameter "datastor"; it has: datastore/) } } });
  });
});

describe('planned failover under a live writer', () => {
  it(`goes back and forth ${SWITCHES} times without losing an acknowledged write`, async () => {
    const writer = new ApplicationWriter(pair);
    const windows: number[] = [];
    let primary: 'a' | 'b' = 'a';
    for (let round = 1; round <= SWITCHES; round += 1) {
      const next: 'a' | 'b' = primary === 'a' ? 'b' : 'a';
      const result = await run(round === 1 ? {} : { purpose: 'failback', parameters: { node: next } });
      expect(result.outcome).toBe('succeeded');
      expect(await pair.pointsTo()).toBe(next);
      expect(await pair.record()).toBe(next === 'a' ? '127.0.0.1' : '127.0.0.2');
      expect(measured(result, 'acknowledged writes lost')).toBe(0);
      const window = measured(result, 'refused-write window');
      expect(window).not.toBeNull();
      windows.push(window!);
      expect(await tryToWrite(pair, primary)).toEqual([]);
      primary = next;
    }
    await writer.stop();
    expect(writer.acknowledged.length).toBeGreaterThan(SWITCHES);
    expect(await writer.lostOn(primary)).toEqual([]);
    const sorted = [...windows].sort((x, y) => x - y);
    console.log(`${SWITCHES} planned failovers, ${writer.acknowledged.length} acknowledged writes, 0 lost; refused-write window ms: min ${sorted[0]}, median ${sorted[SWITCHES / 2]}, max ${sorted.at(-1)}: ${windows.join(' ')}`);
  }, 400_000);
});

describe('history', () => {
  it('holds neither the administrator’s nor the application’s password', async () => {
    const history = await client.workflow.getHandle(workflowId).fetchHistory();
    const raw = JSON.stringify(history);
    const text = `${raw}${[...raw.matchAll(/"data":"([A-Za-z0-9+/=]+)"/g)].map((match) => Buffer.from(match[1]!, 'base64').toString('utf8')).join('\n')}`;
    expect(text).toContain('postgres.promote:apply');
    expect(text).toContain('stagedVersion');
    const { readEndpoint } = await import('../../src/systems/endpoint.ts');
    for (const secret of [pair.servers.a.password, pair.servers.a.replication.password, (await readEndpoint(pair.context, pair.secretId)).password]) {
      expect(text).not.toContain(secret);
    }
  });
});

describe('forced failover', () => {
  it('fences a primary that was killed under writes; started again it takes no write', async () => {
    const old = await pair.pointsTo();
    const next = old === 'a' ? 'b' : 'a';
    // After the rounds above the other node is fenced: make it a standby again without switching.
    await client.workflow.execute('runbook', { taskQueue, workflowId: `runbook/${workflowId}`, args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node: next } }] });
    const writer = new ApplicationWriter(pair, 10_000_000);
    await expect.poll(() => writer.acknowledged.length, { interval: 5 }).toBeGreaterThan(200);
    // The primary goes on acknowledging what it can no longer send: these writes must be lost, and be counted.
    const [sender] = await queryOnce<{ pid: number }>(pair.servers[old].connectionString(), 'select pid from pg_stat_replication');
    process.kill(sender!.pid, 'SIGSTOP');
    const sent = writer.acknowledged.length;
    await expect.poll(() => writer.acknowledged.length, { interval: 5 }).toBeGreaterThan(sent + 50);
    await pair.servers[old].kill();
    // From Temporal's own command line with plain JSON.
    const { stdout } = await promisify(execFile)(findTool('temporal'), [
      'workflow', 'execute', '--address', pair.context.config.temporal.address, '--type', 'failover', '--workflow-id', workflowId, '--task-queue', taskQueue,
      '--input', JSON.stringify(input({ mode: 'forced', reason: 'the primary was killed' })), '--output', 'json',
    ]).catch(async (error: unknown) => {
      throw new Error(`${String(error)}: ${JSON.stringify(await client.workflow.getHandle(workflowId).result().catch((cause: WorkflowFailedError) => String(cause.cause)))}`);
    });
    const answer = JSON.parse(stdout) as { result: ExecutionResult };
    const result = answer.result;
    expect(result.outcome).toBe('succeeded');
    await expect.poll(() => writer.acknowledged.at(-1), { timeout: 20_000 }).not.toBe(undefined);
    await writer.stop();
    const lost = await writer.lostOn(next);
    const counted = measured(result, 'acknowledged writes lost');
    // The canary adds rows of its own to the old primary only before it was killed: none. So both counts speak of the same writes.
    expect(result.steps.find((step) => step.id === 'count-loss')!.summary).toMatch(/^\d+ transaction/);
    expect(counted).not.toBeNull();
    expect(lost.length).toBeGreaterThanOrEqual(50);
    // One that was committed and whose answer was lost with the server is counted by the WAL and not by the application.
    expect(counted! - lost.length).toBeGreaterThanOrEqual(0);
    expect(counted! - lost.length).toBeLessThanOrEqual(1);
    expect(measured(result, 'RPO')).toBeGreaterThan(0);
    console.log(`forced failover: RTO ${measured(result, 'RTO')} ms, ${writer.acknowledged.length} acknowledged, ${lost.length} lost by the writer's own record, ${counted} COMMIT records after the fork in the old primary's WAL`);
    await pair.servers[old].start();
    expect(await tryToWrite(pair, old)).toEqual([]);
    expect(await tryToWrite(pair, next)).toEqual(['application', 'superuser']);
  });
});

describe('rebuilding', () => {
  const rebuild = (node: string): Promise<ExecutionResult> => client.workflow.execute('runbook', { taskQueue, workflowId: `runbook/${workflowId}`, args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node } }] });
  const sizes = async (): Promise<unknown[]> => Promise.all((['a', 'b'] as const).map((node) => queryOnce(pair.servers[node].connectionString('shop'), 'select count(*) from orders')));

  it('brings the old primary back as a standby that lets applications read', async () => {
    const primary = await pair.pointsTo();
    const node = primary === 'a' ? 'b' : 'a';
    expect((await rebuild(node)).outcome).toBe('succeeded');
    expect(await queryOnce(pair.applicationUrl(node), 'select pg_is_in_recovery() as recovering')).toEqual([{ recovering: true }]);
    await expect.poll(sizes).toEqual([expect.anything(), expect.anything()]);
  });

  it('a standby that was killed mends itself instead of being rewound', async () => {
    const primary = await pair.pointsTo();
    const node = primary === 'a' ? 'b' : 'a';
    await pair.servers[node].kill();
    await queryOnce(pair.servers[primary].connectionString('shop'), 'insert into orders (id) values (-7)');
    const result = await rebuild(node);
    expect(result.steps.find((step) => step.id === 'rebuild')!.summary).toMatch(/rebuilt by restart/);
    await expect.poll(async () => (await queryOnce(pair.servers[node].connectionString('shop'), 'select id from orders where id = -7')).length).toBe(1);
  });

  it('a lost data directory is copied anew', async () => {
    const primary = await pair.pointsTo();
    const node = primary === 'a' ? 'b' : 'a';
    await pair.servers[node].kill();
    rmSync(join(pair.servers[node].dataDirectory, 'global', 'pg_control'));
    expect((await rebuild(node)).steps.find((step) => step.id === 'rebuild')!.summary).toMatch(/rebuilt by base backup/);
    expect(await queryOnce(pair.servers[node].connectionString('shop'), 'select id from orders where id = -7')).toHaveLength(1);
  });

  it('refuses to rebuild the primary', async () => {
    const primary = await pair.pointsTo();
    await expect(rebuild(primary)).rejects.toMatchObject({ cause: { message: expect.stringMatching(/another node: expected not the primary itself/) } });
    expect(await tryToWrite(pair, primary)).toEqual(['application', 'superuser']);
  });
});

describe('a hung primary', () => {
  it('is killed by the fence before the candidate is promoted', async () => {
    const old = await pair.pointsTo();
    const next = old === 'a' ? 'b' : 'a';
    const pid = Number(readFileSync(join(pair.servers[old].dataDirectory, 'postmaster.pid'), 'utf8').split('\n')[0]);
    // A standby that hears nothing believes it after 35 s. Here its stream is ended from a session that was open before.
    const session = new pg.Client({ connectionString: pair.servers[old].connectionString() });
    session.on('error', () => {});
    await session.connect();
    process.kill(pid, 'SIGSTOP');
    await session.query('select pg_terminate_backend(pid) from pg_stat_replication');
    await session.end();
    try {
      const result = await run({ mode: 'forced', reason: 'hung' });
      expect(result.outcome).toBe('succeeded');
      expect(result.steps.find((step) => step.id === 'confirm')!.summary).toMatch(/its host says that the server runs, and gets no answer from it either/);
    } finally {
      try {
        process.kill(pid, 'SIGCONT');
      } catch {
        // Killed, as it should be.
      }
    }
    expect(pair.servers[old].running()).toBe(false);
    expect(await pair.pointsTo()).toBe(next);
  });
});

describe('a second operator', () => {
  it('a second failover of the same service is refused by Temporal itself', async () => {
    const handle = await client.workflow.start('failover', { taskQueue, workflowId, args: [input({ dryRun: true })] });
    await expect(client.workflow.start('failover', { taskQueue, workflowId, args: [input({})], workflowIdConflictPolicy: 'FAIL' })).rejects.toThrow(WorkflowExecutionAlreadyStartedError);
    await handle.result();
  });
});
