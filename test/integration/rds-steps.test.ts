import { ModifyDBInstanceCommand } from '@aws-sdk/client-rds';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { rdsRebuildSteps } from '../../activities/rds-rebuild.ts';
import { rdsSteps } from '../../activities/rds.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { Mode } from '../../src/model/runbook-schema.ts';
import { rdsFleet, type RdsFleet } from '../rds-fleet.ts';
import { runStep } from '../step-run.ts';
import { queryOnce, testDirectory } from '../support.ts';

let processes: Processes;
let fleet: RdsFleet;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('rds-steps') });
  fleet = await rdsFleet(processes);
});

afterAll(async () => {
  await fleet?.rds.close();
  await processes?.end();
  fleet?.context.close();
});

function step(uses: string, phase: Phase, more: Record<string, unknown>, call: { epoch?: number; mode?: Mode } = {}) {
  return runStep({ ...rdsSteps, ...rdsRebuildSteps }, fleet.context, `postgres.${uses}`, phase, { datastore: 'shop', ...more }, call);
}

async function groupsOf(node: 'a' | 'b'): Promise<(string | undefined)[]> {
  return (await fleet.describe(node)).VpcSecurityGroups!.map((group) => group.VpcSecurityGroupId);
}

async function applicationWrites(node: 'a' | 'b'): Promise<boolean> {
  return queryOnce(fleet.applicationUrl(node), 'begin; insert into orders (id) values (-1); rollback').then(() => true, () => false);
}

it('a lower epoch neither replaces nor lifts the fence of a higher one, and the groups from before survive both', async () => {
  const session = new pg.Client({ connectionString: fleet.applicationUrl('a') });
  session.on('error', () => {});
  await session.connect();
  const refused = await step('readOnly', 'apply', { primary: 'a' }, { epoch: 5 });
  expect(refused.facts).toMatchObject({ sessionsEnded: 1, lsn: expect.stringMatching(/^[0-9A-F]+\/[0-9A-F]+$/) });
  await expect(session.query('insert into orders (id) values (-2)')).rejects.toThrow(/terminat|closed|ended|reset|not queryable/i);
  await session.end().catch(() => {});
  await expect(step('readOnly', 'apply', { primary: 'a' }, { epoch: 4 })).rejects.toMatchObject({ code: 'stale-epoch' });
  await expect(step('fence', 'apply', { node: 'a' }, { epoch: 4, mode: 'forced' })).rejects.toMatchObject({ code: 'stale-epoch' });
  await expect(step('readOnly', 'undo', { primary: 'a' }, { epoch: 4 })).rejects.toMatchObject({ code: 'foreign-fence' });
  expect(await groupsOf('a')).toEqual([fleet.groups.a.fencing]);
  expect(await fleet.tags('a')).toMatchObject({ 'holdfast:epoch': '5' });
  // A later execution takes it over, and knows what was there before the first one.
  await step('readOnly', 'apply', { primary: 'a' }, { epoch: 6 });
  expect((await step('readOnly', 'verify', { primary: 'a' }, { epoch: 6 })).checks!.every((check) => check.ok)).toBe(true);
  expect(await step('readOnly', 'undo', { primary: 'a' }, { epoch: 6 })).toMatchObject({ outcome: 'changed' });
  expect(await groupsOf('a')).toEqual([fleet.groups.a.application]);
  expect(await applicationWrites('a')).toBe(true);
  expect(await step('readOnly', 'undo', { primary: 'a' }, { epoch: 6 })).toMatchObject({ outcome: 'already-satisfied' });
});

it('promotes nothing when somebody has given the primary its groups back meanwhile', async () => {
  await step('readOnly', 'apply', { primary: 'a' }, { epoch: 7 });
  await fleet.client(fleet.regions.a).send(new ModifyDBInstanceCommand({ DBInstanceIdentifier: fleet.identifiers.a, VpcSecurityGroupIds: [fleet.groups.a.application], ApplyImmediately: true }));
  await expect(step('promote', 'apply', { primary: 'a', candidate: 'b' }, { epoch: 7 })).rejects.toMatchObject({ code: 'not-begun', message: expect.stringMatching(/does not hold our fence/) });
  expect((await step('readOnly', 'verify', { primary: 'a' }, { epoch: 7 })).checks!.filter((check) => !check.ok).map((check) => check.name)).toContain('groups in force');
  expect(fleet.rds.calls.filter((call) => call.action === 'PromoteReadReplica')).toEqual([]);
  await step('readOnly', 'undo', { primary: 'a' }, { epoch: 7 });
});

it('takes the time it is given: a promotion that RDS does not finish is unknown, is not asked for again, and is found when it ends', async () => {
  await step('readOnly', 'apply', { primary: 'a' }, { epoch: 8 });
  const shop = fleet.context.config.datastores['shop'] as unknown as { managed: { promoteTimeout: number } };
  const { promoteTimeout } = shop.managed;
  shop.managed.promoteTimeout = 700;
  fleet.rds.delays.promoteMs = 12_000;
  try {
    await expect(step('promote', 'apply', { primary: 'a', candidate: 'b' }, { epoch: 8 })).rejects.toMatchObject({ code: 'promotion-unknown', retryable: true });
    // What a patient inspection sees meanwhile is no success; lifting the fence now could make two primaries.
    expect(await step('promote', 'inspect', { primary: 'a', candidate: 'b' }, { epoch: 8 })).toMatchObject({ satisfied: false });
    await expect(step('readOnly', 'undo', { primary: 'a' }, { epoch: 8 })).rejects.toMatchObject({ code: 'promoted-meanwhile' });
    shop.managed.promoteTimeout = promoteTimeout;
    expect(await step('promote', 'apply', { primary: 'a', candidate: 'b' }, { epoch: 8 })).toMatchObject({ outcome: 'changed', summary: expect.stringMatching(/begun by an earlier try/) });
  } finally {
    shop.managed.promoteTimeout = promoteTimeout;
    fleet.rds.delays.promoteMs = 300;
  }
  expect(fleet.rds.calls.filter((call) => call.action === 'PromoteReadReplica')).toHaveLength(1);
  expect(await step('verifyFence', 'verify', { node: 'a' }, { epoch: 8 })).toMatchObject({ checks: [{ ok: true }] });
  await expect(step('readOnly', 'undo', { primary: 'a' }, { epoch: 8 })).rejects.toMatchObject({ code: 'promoted-meanwhile' });
});

it('rebuilds nothing over a primary that lets applications in, whoever asks', async () => {
  // The secret still points to a, which is fenced; b takes the writes.
  const roles = await step('rebuildStandby', 'guard', { primary: 'a', node: 'b' }, { epoch: 9 });
  expect(roles.checks!.filter((check) => !check.ok).map((check) => check.name)).toEqual(expect.arrayContaining(['primary is not fenced', 'target is no live primary']));
  await expect(step('rebuildStandby', 'apply', { primary: 'a', node: 'b' }, { epoch: 9 })).rejects.toMatchObject({ code: 'roles-changed' });
  expect(await applicationWrites('b')).toBe(true);
});
