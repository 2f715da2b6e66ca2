import { afterAll, beforeAll, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { rdsFleet, type RdsFleet } from '../rds-fleet.ts';
import { queryOnce, testDirectory } from '../support.ts';
import { surviveDeath, type ShortStep } from '../survive-death.ts';

let processes: Processes;
let fleet: RdsFleet;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('rds-killed') });
  fleet = await rdsFleet(processes);
});

afterAll(async () => {
  await fleet?.rds.close();
  await processes?.end();
  fleet?.context.close();
});

const CONFIRM: ShortStep = { id: 'confirm', uses: 'postgres.health', with: { datastore: 'shop' } };
const READ_ONLY: ShortStep = { id: 'read-only', uses: 'postgres.readOnly', with: { datastore: 'shop', primary: '${steps.confirm.primary}' } };

function callsOf(action: string, identifier: string, sinceMs: number) {
  return fleet.rds.calls.filter((call) => call.action === action && call.atMs >= sinceMs && call.parameters['DBInstanceIdentifier'] === identifier);
}

async function applicationWrites(node: 'a' | 'b'): Promise<boolean> {
  return queryOnce(fleet.applicationUrl(node), 'begin; insert into orders (id) values (-1); rollback').then(() => true, () => false);
}

async function groupsOf(node: 'a' | 'b'): Promise<(string | undefined)[]> {
  return (await fleet.describe(node)).VpcSecurityGroups!.map((group) => group.VpcSecurityGroupId);
}

it('a worker killed after the groups were changed, and one as they are given back: writes are allowed again, with the groups from before', async () => {
  const result = await surviveDeath(
    fleet.context,
    [CONFIRM, READ_ONLY, { id: 'fails', uses: 'rollout.command', with: { argv: ['false'] } }],
    [
      { at: 'postgres.readOnly:apply', afterRequest: 'ModifyDBInstanceCommand' },
      { at: 'postgres.readOnly:undo', afterRequest: 'ModifyDBInstanceCommand' },
    ],
  );
  expect(result.outcome).toBe('failed');
  expect(await groupsOf('a')).toEqual([fleet.groups.a.application]);
  expect(await fleet.tags('a')).not.toHaveProperty('holdfast:epoch');
  expect(await applicationWrites('a')).toBe(true);
});

it('a worker killed while RDS promotes: the next one finds it under way, waits for it, and promotes once', async () => {
  fleet.rds.delays.promoteMs = 3000;
  const started = Date.now();
  const result = await surviveDeath(
    fleet.context,
    [
      CONFIRM,
      READ_ONLY,
      { id: 'await-replay', uses: 'postgres.awaitReplay', with: { datastore: 'shop', candidate: '${steps.confirm.candidate}', lsn: '${steps.read-only.lsn}' } },
      { id: 'promote', uses: 'postgres.promote', with: { datastore: 'shop', primary: '${steps.confirm.primary}', candidate: '${steps.confirm.candidate}' } },
    ],
    [{ at: 'postgres.promote:apply', afterRequest: 'PromoteReadReplicaCommand' }],
  );
  fleet.rds.delays.promoteMs = 300;
  expect(result.outcome).toBe('succeeded');
  expect(callsOf('PromoteReadReplica', fleet.identifiers.b, started)).toHaveLength(1);
  expect(await queryOnce(fleet.instances.b().insideString(), "select pg_is_in_recovery() as r, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline")).toEqual([{ r: false, timeline: '00000002' }]);
  expect(await applicationWrites('a')).toBe(false);
});

it('a worker killed after the rename and after the new replica was asked for: one replica, under the old name, with the old groups', async () => {
  const started = Date.now();
  const result = await surviveDeath(
    fleet.context,
    [{ id: 'rebuild', uses: 'postgres.rebuildStandby', with: { datastore: 'shop', primary: 'b', node: 'a' } }],
    [
      { at: 'postgres.rebuildStandby:apply', afterRequest: 'ModifyDBInstanceCommand' },
      { at: 'postgres.rebuildStandby:apply', afterRequest: 'CreateDBInstanceReadReplicaCommand' },
    ],
  );
  expect(result.outcome).toBe('succeeded');
  expect(callsOf('CreateDBInstanceReadReplica', fleet.identifiers.a, started)).toHaveLength(1);
  expect(await groupsOf('a')).toEqual([fleet.groups.a.application]);
  expect(fleet.instances.a().source).toBe(fleet.instances.b());
  expect(await queryOnce(fleet.instances.a().insideString(), 'select pg_is_in_recovery() as r')).toEqual([{ r: true }]);
});
