import type { Client } from '@temporalio/client';
import { afterAll, describe, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter } from '../database-pair.ts';
import { rdsFleet, type FleetType, type RdsFleet } from '../rds-fleet.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory } from '../support.ts';

const processes: Processes = createProcesses({ directory: testDirectory('rds-aurora') });
const open: { fleet: RdsFleet; client: Client; worker: { stop(): Promise<void> } }[] = [];

afterAll(async () => {
  for (const { fleet, client, worker } of open) {
    await worker.stop();
    await client.connection.close();
    await fleet.rds.close();
    fleet.context.close();
  }
  await processes.end();
});

async function start(type: FleetType): Promise<{ fleet: RdsFleet; run(more?: Record<string, unknown>): Promise<ExecutionResult> }> {
  const fleet = await rdsFleet(processes, type);
  const client = await connectTemporal(fleet.context);
  open.push({ fleet, client, worker: await runningWorker(fleet.context) });
  const { taskQueue } = fleet.context.config.temporal;
  return { fleet, run: (more = {}) => client.workflow.execute('failover', { taskQueue, workflowId: `failover/${fleet.service}-${taskQueue}`, args: [{ service: fleet.service, mode: 'planned', reason: 'test', requestedBy: 'tester', ...more }] }) };
}

async function applicationWrites(fleet: RdsFleet, node: 'a' | 'b'): Promise<boolean> {
  return queryOnce(fleet.applicationUrl(node), 'begin; insert into orders (id) values (-1); rollback').then(() => true, () => false);
}

function summaryOf(result: ExecutionResult, id: string): string {
  return result.steps.find((step) => step.id === id)!.summary;
}

describe('Aurora', () => {
  it('fails a cluster over to its reader and back with the same runbooks, and loses nothing acknowledged', async () => {
    const { fleet, run } = await start('aurora');
    const writer = new ApplicationWriter(fleet);
    const result = await run();
    expect(result).toMatchObject({ outcome: 'succeeded', primary: 'a', candidate: 'b' });
    expect(await applicationWrites(fleet, 'b')).toBe(true);
    expect(await applicationWrites(fleet, 'a')).toBe(false);
    expect(fleet.rds.calls.filter((call) => call.action === 'FailoverDBCluster').map((call) => call.parameters['TargetDBInstanceIdentifier'])).toEqual([fleet.identifiers.b]);
    expect(result.measurements.find((item) => item.name === 'acknowledged writes lost')!.measured).toBe(0);
    expect(summaryOf(result, 'read-only')).toMatch(/Aurora itself refuses writes/);
    const back = await run({ purpose: 'failback', parameters: { node: 'a' } });
    await writer.stop();
    expect(back).toMatchObject({ outcome: 'succeeded', primary: 'b', candidate: 'a' });
    expect(await writer.lostOn('a')).toEqual([]);
  });

  it('switches a global database over to another Region, and fails it over when the first one is gone', async () => {
    const { fleet, run } = await start('aurora-global');
    const writer = new ApplicationWriter(fleet);
    const result = await run();
    expect(result).toMatchObject({ outcome: 'succeeded', primary: 'a', candidate: 'b' });
    expect(await writer.missingOn('b', [...writer.acknowledged])).toEqual([]);
    expect(await applicationWrites(fleet, 'a')).toBe(false);
    const moved = fleet.rds.calls.filter((call) => ['SwitchoverGlobalCluster', 'FailoverGlobalCluster'].includes(call.action));
    expect(moved.map((call) => [call.action, call.region])).toEqual([['SwitchoverGlobalCluster', fleet.regions.b]]);
    await writer.stop();
    // Now the other Region's server is gone; Aurora has the first one as its secondary.
    await fleet.instances.b().server!.kill();
    fleet.instances.b().status = 'failed';
    const forced = await run({ mode: 'forced', reason: 'its Region is gone' });
    expect(forced).toMatchObject({ outcome: 'succeeded', primary: 'b', candidate: 'a' });
    expect(await applicationWrites(fleet, 'a')).toBe(true);
    expect(await applicationWrites(fleet, 'b')).toBe(false);
    expect(fleet.rds.calls.find((call) => call.action === 'FailoverGlobalCluster')).toMatchObject({ region: fleet.regions.a, parameters: { AllowDataLoss: 'true' } });
  });
});
