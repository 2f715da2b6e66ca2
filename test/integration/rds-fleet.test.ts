import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter } from '../database-pair.ts';
import { rdsFleet, type RdsFleet } from '../rds-fleet.ts';
import { postgresOf } from '../../src/systems/context.ts';
import { connectTemporal, failureOf, queryOnce, runningWorker, testDirectory } from '../support.ts';

let processes: Processes;
let fleet: RdsFleet;
let client: Client;
let worker: { stop(): Promise<void> };

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('rds-fleet') });
  fleet = await rdsFleet(processes);
  client = await connectTemporal(fleet.context);
  worker = await runningWorker(fleet.context);
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await fleet?.rds.close();
  await processes?.end();
  fleet?.context.close();
});

const workflowId = (): string => `failover/${fleet.service}-${fleet.context.config.temporal.taskQueue}`;

const request = (more: Record<string, unknown>) => ({ taskQueue: fleet.context.config.temporal.taskQueue, workflowId: workflowId(), args: [{ service: fleet.service, mode: 'planned', reason: 'test', requestedBy: 'tester', ...more }] as const });

async function run(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  return client.workflow.execute('failover', request(more));
}

/** The result that a failed execution carries. */
async function runToFailure(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  return failureOf(await client.workflow.start('failover', request(more)));
}

async function rebuild(node: 'a' | 'b'): Promise<ExecutionResult> {
  const { taskQueue } = fleet.context.config.temporal;
  return client.workflow.execute('runbook', { taskQueue, workflowId: `runbook/rebuild-${taskQueue}-${Date.now()}`, args: [{ runbook: 'standby-rebuild', parameters: { datastore: 'shop', node }, reason: 'test', requestedBy: 'tester' }] });
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))!.measured;
}

function stepOf(result: ExecutionResult, id: string) {
  return result.steps.find((step) => step.id === id)!;
}

function callsOf(action: string, identifier: string, sinceMs = 0) {
  return fleet.rds.calls.filter((call) => call.action === action && call.atMs >= sinceMs && call.parameters['DBInstanceIdentifier'] === identifier);
}

/** Whether the application's role gets in and writes. */
async function applicationWrites(node: 'a' | 'b'): Promise<boolean> {
  return queryOnce(fleet.applicationUrl(node), 'begin; insert into orders (id) values (-1); rollback').then(() => true, () => false);
}

async function timeline(node: 'a' | 'b'): Promise<number> {
  const [row] = await queryOnce<{ timeline: string }>(fleet.instances[node]().insideString(), 'select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline');
  return Number.parseInt(row!.timeline, 16);
}

async function recovering(node: 'a' | 'b'): Promise<boolean> {
  return (await queryOnce<{ r: boolean }>(fleet.instances[node]().insideString(), 'select pg_is_in_recovery() as r'))[0]!.r;
}

it('readiness asks RDS what it asks the hosts of other servers', async () => {
  const { taskQueue } = fleet.context.config.temporal;
  const result = await client.workflow.execute<(input: object) => Promise<{ checks: readonly { name: string; ok: boolean; found: string }[] }>>('readiness', { taskQueue, workflowId: `readiness/${taskQueue}`, args: [{ service: fleet.service }] });
  const found = (name: string) => result.checks.find((check) => check.name.includes(name));
  expect(found('a way to fence it when it is silent')).toMatchObject({ ok: true, found: `its fencing groups, by RDS in ${fleet.regions.a}` });
  expect(found('rebuild shop/b: instance')).toMatchObject({ ok: true, found: 'available' });
  expect(result.checks.filter((check) => !check.ok && /fence|rebuild|candidate|lag|groups/.test(check.name))).toEqual([]);
});

describe('a planned failover to another Region and back', () => {
  it('runs the runbook as it is, loses no acknowledged write, measures the window, and fences the old primary', async () => {
    const writer = new ApplicationWriter(fleet);
    const result = await run();
    await writer.stop();
    expect(result).toMatchObject({ outcome: 'succeeded', primary: 'a', candidate: 'b' });
    expect(writer.acknowledged.length).toBeGreaterThan(100);
    expect(await writer.lostOn('b')).toEqual([]);
    expect(measured(result, 'acknowledged writes lost')).toBe(0);
    expect(measured(result, 'refused-write window')).toBeGreaterThan(fleet.rds.delays.promoteMs);
    expect(result.evidence).toMatch(/orders/);
    expect(await applicationWrites('a')).toBe(false);
    expect(await applicationWrites('b')).toBe(true);
    expect(await fleet.pointsTo()).toBe('b');
    expect(await recovering('b')).toBe(false);
    // The fence stands in the network and says whose it is; nothing of it went over to the replica.
    const old = await fleet.describe('a');
    expect(old.VpcSecurityGroups!.map((group) => group.VpcSecurityGroupId)).toEqual([fleet.groups.a.fencing]);
    expect(await fleet.tags('a')).toMatchObject({ 'holdfast:execution': workflowId(), 'holdfast:epoch': expect.stringMatching(/^\d+$/), 'holdfast:groups': fleet.groups.a.application });
    expect((await fleet.describe('b')).VpcSecurityGroups!.map((group) => group.VpcSecurityGroupId)).toEqual([fleet.groups.b.application]);
    expect(callsOf('PromoteReadReplica', fleet.identifiers.b)).toHaveLength(1);
    expect(callsOf('StopDBInstance', fleet.identifiers.a)).toHaveLength(1);
    expect(stepOf(result, 'fence').summary).toContain('RDS starts a stopped instance again after seven days');
  });

  it('fails back with the failback runbook: a new read replica of the new primary under the old name, then the roles change', async () => {
    const writer = new ApplicationWriter(fleet, 1_000_000);
    const result = await run({ purpose: 'failback', parameters: { node: 'a' } });
    await writer.stop();
    expect(result).toMatchObject({ outcome: 'succeeded', primary: 'b', candidate: 'a' });
    expect(await writer.lostOn('a')).toEqual([]);
    expect(stepOf(result, 'rebuild').summary).toMatch(/renamed to .*-old-\d+; new read replica of/);
    expect(await applicationWrites('b')).toBe(false);
    expect(await applicationWrites('a')).toBe(true);
    // The new instance has the groups that the old one had before it was fenced, and none of its tags.
    expect((await fleet.describe('a')).VpcSecurityGroups!.map((group) => group.VpcSecurityGroupId)).toEqual([fleet.groups.a.application]);
    expect(await fleet.tags('a')).not.toHaveProperty('holdfast:epoch');
    // What the old primary alone had is kept, behind its fence.
    const [old] = fleet.rds.calls.flatMap((call) => (call.parameters['NewDBInstanceIdentifier'] === undefined ? [] : [call.parameters['NewDBInstanceIdentifier']]));
    expect(fleet.rds.instance(fleet.regions.a, old!).groups).toEqual([fleet.groups.a.fencing]);
  });
});

describe('what goes wrong', () => {
  it('lets writes in again when promotion is refused at the last moment', async () => {
    expect((await rebuild('b')).outcome).toBe('succeeded');
    fleet.rds.inject({ action: 'PromoteReadReplica', how: 'deny' });
    const result = await runToFailure();
    expect(result.failure).toMatch(/not promoted: rds:PromoteReadReplica .*AccessDenied/);
    expect(stepOf(result, 'read-only').summary).toMatch(/undone: writes are allowed on a again/);
    expect(await applicationWrites('a')).toBe(true);
    expect((await fleet.describe('a')).VpcSecurityGroups!.map((group) => group.VpcSecurityGroupId)).toEqual([fleet.groups.a.application]);
    expect(await fleet.tags('a')).not.toHaveProperty('holdfast:epoch');
    expect(await recovering('b')).toBe(true);
  });

  it('refuses before the first change when the fencing groups let applications in', async () => {
    const node = postgresOf(fleet.context.config, 'shop').nodes['a']!.rds!;
    const { fencingGroups } = node;
    node.fencingGroups = [fleet.groups.a.application];
    try {
      const result = await runToFailure();
      expect(result.failure).toMatch(/refused before the first change: .*fencing groups/s);
      expect(stepOf(result, 'read-only').outcome).toBe('not begun');
    } finally {
      node.fencingGroups = fencingGroups;
    }
    expect(await applicationWrites('a')).toBe(true);
  });

  it('goes through throttling and a lost answer of PromoteReadReplica, and promotes once', async () => {
    const before = await timeline('a');
    fleet.rds.inject({ action: 'DescribeDBInstances', how: 'throttle', times: 3 });
    fleet.rds.inject({ action: 'ModifyDBInstance', how: 'throttle', times: 1 });
    fleet.rds.inject({ action: 'AddTagsToResource', how: 'cut-after' });
    fleet.rds.inject({ action: 'PromoteReadReplica', how: 'cut-after' });
    const writer = new ApplicationWriter(fleet, 2_000_000);
    const result = await run();
    await writer.stop();
    expect(result).toMatchObject({ outcome: 'succeeded', primary: 'a', candidate: 'b' });
    expect(await writer.lostOn('b')).toEqual([]);
    expect(await timeline('b')).toBe(before + 1);
    expect(await applicationWrites('a')).toBe(false);
  });

  it('keeps the canary out of the fenced primary, although it runs where workers are let in', async () => {
    expect((await rebuild('a')).outcome).toBe('succeeded');
    fleet.rds.workersAre = 'everybody';
    try {
      const result = await run();
      expect(result).toMatchObject({ outcome: 'succeeded', primary: 'b', candidate: 'a' });
      expect(measured(result, 'acknowledged writes lost')).toBe(0);
      expect(measured(result, 'refused-write window')).toBeGreaterThan(fleet.rds.delays.promoteMs);
    } finally {
      fleet.rds.workersAre = 'master';
    }
  });

  it('forced: the primary’s server is gone; it is fenced by RDS and takes no write when it comes back', async () => {
    expect((await rebuild('b')).outcome).toBe('succeeded');
    const writer = new ApplicationWriter(fleet, 3_000_000);
    await writing(writer);
    await fleet.instances.a().server!.kill();
    const result = await run({ mode: 'forced', reason: 'its server is gone' });
    await writer.stop();
    expect(result).toMatchObject({ outcome: 'succeeded', primary: 'a', candidate: 'b' });
    // What its reboot could still send arrived.
    expect(await writer.lostOn('b')).toEqual([]);
    expect(await applicationWrites('b')).toBe(true);
    const old = fleet.instances.a().server!;
    if (!old.running()) await old.start();
    expect(await applicationWrites('a')).toBe(false);
    expect(stepOf(result, 'count-loss').summary).toMatch(/not measured: RDS shows the WAL/);
  });

  it('forced: the whole Region is gone; nothing is promoted unfenced unless a person breaks that rule by name', async () => {
    expect((await rebuild('a')).outcome).toBe('succeeded');
    await fleet.instances.b().server!.kill();
    fleet.rds.inject({ action: '*', region: fleet.regions.b, how: 'cut-before', times: 100_000 });
    try {
      const refused = await runToFailure({ mode: 'forced', reason: 'its Region is gone' });
      expect(refused.failure).toMatch(/refused before the first change: .*a way to fence.*\[rule unfenced\]/s);
      const result = await run({ mode: 'forced', reason: 'its Region is gone', overrides: [{ rule: 'unfenced', reason: 'the status page says so; traffic is drained' }] });
      expect(result).toMatchObject({ outcome: 'succeeded', primary: 'b', candidate: 'a' });
      expect(stepOf(result, 'fence-first').summary).toMatch(/NOT FENCED/);
      expect(await applicationWrites('a')).toBe(true);
    } finally {
      fleet.rds.heal();
    }
  });
});

async function writing(writer: ApplicationWriter): Promise<void> {
  while (writer.acknowledged.length < 50) await new Promise((resolve) => setTimeout(resolve, 10));
}
