import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listSchedules, syncSchedules, triggerSchedule } from '../../src/engine/schedules.ts';
import type { Config } from '../../src/model/config-schema.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { connectTemporal, testConfig, uniqueName } from '../support.ts';

let client: Client;
let base: Config;

beforeAll(async () => {
  const context = await testConfig();
  base = context.config;
  client = await connectTemporal(context);
});
afterAll(() => client?.connection.close());

/** A configuration of an environment of its own, so that tests do not see each other's schedules. */
function configWith(environment: string, schedules: Record<string, unknown>): Config {
  return { ...base, environment, schedules: configSchema.shape.schedules.parse(schedules) };
}

const HOURLY = { run: 'backup', datastore: 'shop', cron: '15 * * * *', timezone: 'Asia/Seoul', jitter: '2m', catchUp: '30m', overlap: 'skip' };
const ALL = {
  hourly: HOURLY,
  tidy: { run: 'retention', datastore: 'shop', cron: '30 3 * * *' },
  monthly: { run: 'restoreDrill', datastore: 'shop', service: 'orders', backup: 'random', cron: '0 4 1-7 * sat', overlap: 'bufferOne' },
  ready: { run: 'readiness', service: 'orders', every: '10m', catchUp: '1m' },
  rehearsal: { run: 'runbook', runbook: 'database-failover', parameters: { dry: true }, cron: '0 9 1 */3 *' },
};

describe('schedules sync', () => {
  test('creates what is configured with everything explicit; the second run changes nothing', async () => {
    const config = configWith(uniqueName('env'), ALL);
    const dry = await syncSchedules(client, config, { dryRun: true });
    expect(dry.map(({ action }) => action)).toEqual(['create', 'create', 'create', 'create', 'create']);
    expect(await listSchedules(client, config)).toEqual([]);

    await syncSchedules(client, config, { dryRun: false });
    const live = await client.schedule.getHandle(`holdfast/${config.environment}/hourly`).describe();
    expect(live.policies).toMatchObject({ overlap: 'SKIP', catchupWindow: 30 * 60_000, pauseOnFailure: false });
    expect(live.spec).toMatchObject({ timezone: 'Asia/Seoul', jitter: 120_000 });
    expect(live.action).toMatchObject({ workflowType: 'backup', workflowId: 'backup/shop/scheduled', taskQueue: config.temporal.taskQueue, args: [{ datastore: 'shop', reason: 'scheduled' }] });
    // The server's own idea of the next runs: a quarter past each hour, up to two minutes of jitter later.
    for (const at of live.info.nextActionTimes) expect([15, 16, 17]).toContain(at.getUTCMinutes());

    const monthly = await client.schedule.getHandle(`holdfast/${config.environment}/monthly`).describe();
    for (const at of monthly.info.nextActionTimes) {
      expect(at.getUTCDay()).toBe(6);
      expect(at.getUTCDate()).toBeLessThanOrEqual(7);
      expect(at.toISOString()).toMatch(/T04:00:00/);
    }

    const again = await syncSchedules(client, config, { dryRun: false });
    expect(again.map(({ action, details }) => ({ action, details }))).toEqual(ALL_KEPT);
  });

  test('updates what differs and says what, also when somebody changed it on the server', async () => {
    const environment = uniqueName('env');
    await syncSchedules(client, configWith(environment, { hourly: HOURLY }), { dryRun: false });
    const changed = configWith(environment, { hourly: { ...HOURLY, cron: '45 * * * *', overlap: 'bufferOne', jitter: '0s' } });
    const [dry] = await syncSchedules(client, changed, { dryRun: true });
    expect(dry).toMatchObject({ action: 'update', details: ['cron: "15 * * * *" -> "45 * * * *"', 'jitter: 2m 00s -> 0 ms', 'overlap: "SKIP" -> "BUFFER_ONE"'] });
    await syncSchedules(client, changed, { dryRun: false });
    const handle = client.schedule.getHandle(`holdfast/${environment}/hourly`);
    expect((await handle.describe()).policies.overlap).toBe('BUFFER_ONE');
    expect((await syncSchedules(client, changed, { dryRun: false }))[0]).toMatchObject({ action: 'keep', details: [] });

    await handle.update((live) => ({ ...live, policies: { ...live.policies, catchupWindow: 3_600_000 } }));
    expect((await syncSchedules(client, changed, { dryRun: false }))[0]).toMatchObject({ action: 'update', details: ['catchUp: 1h 00m -> 30m 00s'] });
    expect((await handle.describe()).policies.catchupWindow).toBe(30 * 60_000);
  });

  test('pauses what left the configuration, never deletes it, and brings it back', async () => {
    const environment = uniqueName('env');
    const full = configWith(environment, { hourly: HOURLY, tidy: ALL.tidy });
    await syncSchedules(client, full, { dryRun: false });
    await listed(full, 2);
    const left = configWith(environment, { hourly: HOURLY });
    expect(await syncSchedules(client, left, { dryRun: false })).toMatchObject([{ name: 'hourly', action: 'keep' }, { name: 'tidy', action: 'pause' }]);
    const handle = client.schedule.getHandle(`holdfast/${environment}/tidy`);
    expect((await handle.describe()).state).toMatchObject({ paused: true, note: 'holdfast: left the configuration' });
    expect(await syncSchedules(client, left, { dryRun: false })).toMatchObject([{ action: 'keep' }, { name: 'tidy', action: 'keep' }]);
    expect(await syncSchedules(client, full, { dryRun: false })).toMatchObject([{ action: 'keep' }, { name: 'tidy', action: 'unpause' }]);
    expect((await handle.describe()).state.paused).toBe(false);
  });

  test('leaves paused what a person paused, and never touches a schedule of others', async () => {
    const environment = uniqueName('env');
    const config = configWith(environment, { hourly: HOURLY });
    await syncSchedules(client, config, { dryRun: false });
    const handle = client.schedule.getHandle(`holdfast/${environment}/hourly`);
    await handle.pause('incident 4711');
    expect(await syncSchedules(client, config, { dryRun: false })).toMatchObject([{ action: 'keep', details: ['paused by hand: incident 4711'] }]);
    const changed = configWith(environment, { hourly: { ...HOURLY, timezone: 'UTC' } });
    expect(await syncSchedules(client, changed, { dryRun: false })).toMatchObject([{ action: 'update' }]);
    expect((await handle.describe()).state).toMatchObject({ paused: true, note: 'incident 4711' });

    const foreign = await client.schedule.create({
      scheduleId: `holdfast/${environment}/foreign`,
      spec: { intervals: [{ every: '1 day' }] },
      action: { type: 'startWorkflow', workflowType: 'other', taskQueue: 'other', args: [] },
    });
    await listedAs(`holdfast/${environment}/foreign`);
    await syncSchedules(client, changed, { dryRun: false });
    expect((await foreign.describe()).state.paused).toBe(false);
    await expect(syncSchedules(client, configWith(environment, { foreign: HOURLY }), { dryRun: false })).rejects.toMatchObject({ code: 'schedule-refused' });
    await foreign.delete();
  });

  test('a trigger obeys the overlap policy of the schedule', async () => {
    const environment = uniqueName('env');
    const config = configWith(environment, { hourly: HOURLY });
    await syncSchedules(client, config, { dryRun: false });
    const handle = client.schedule.getHandle(`holdfast/${environment}/hourly`);
    // No worker polls this queue: the first one stays open, so under SKIP the second must not start.
    expect(await triggerSchedule(client, config, 'hourly')).toMatchObject({ overlap: 'SKIP' });
    await expect.poll(async () => (await handle.describe()).info.runningActions.length, { timeout: 20_000 }).toBe(1);
    await triggerSchedule(client, config, 'hourly');
    await expect.poll(async () => (await handle.describe()).info.numActionsSkippedOverlap, { timeout: 20_000 }).toBe(1);
    const [running] = (await handle.describe()).info.runningActions;
    expect(running).toMatchObject({ type: 'startWorkflow', workflow: { workflowId: expect.stringMatching(/^backup\/shop\/scheduled-\d{4}-\d\d-\d\dT/) } });
    await handle.pause('test over');
    await client.workflow.getHandle((running as { workflow: { workflowId: string } }).workflow.workflowId).terminate('test over');
    await expect(triggerSchedule(client, config, 'nix')).rejects.toMatchObject({ code: 'unknown-schedule' });
  });

  test('a cron line that is none is refused before anything is changed', async () => {
    const config = configWith(uniqueName('env'), { hourly: HOURLY, wrong: { ...HOURLY, cron: '61 * * * *' } });
    await expect(syncSchedules(client, config, { dryRun: false })).rejects.toThrow(/schedules\.wrong\.cron "61 \* \* \* \*".*0-59/);
    expect(await listSchedules(client, configWith(config.environment, {}))).toEqual([]);
  });
});

const ALL_KEPT = Object.keys(ALL).map(() => ({ action: 'keep', details: [] }));

/** The list of schedules is an index that follows the schedules a moment later. */
async function listed(config: Config, count: number): Promise<void> {
  await expect.poll(async () => (await listSchedules(client, config)).length, { timeout: 20_000 }).toBe(count);
}

async function listedAs(scheduleId: string): Promise<void> {
  const ids = async (): Promise<string[]> => {
    const found: string[] = [];
    for await (const schedule of client.schedule.list()) found.push(schedule.scheduleId);
    return found;
  };
  await expect.poll(ids, { timeout: 20_000 }).toContain(scheduleId);
}

describe('rehearsals', () => {
  test('become schedules with their months, for their service, and pause when they leave the configuration', async () => {
    const environment = uniqueName('env');
    const service = (rehearsals: unknown[]): Config['services'] => configSchema.shape.services.parse({ orders: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], rehearsals } });
    const drills = { name: 'chaos', every: 'quarterly', runbook: 'chaos-drill', month: 2, day: 3, time: '22:30', timezone: 'Asia/Seoul', parameters: { approvals: 2 } };
    const config: Config = { ...configWith(environment, {}), services: service([drills, { name: 'restore', every: 'half-yearly', drill: 'shop' }, { name: 'region-day', every: 'half-yearly', runbook: 'database-failover', scheduled: false }]) };
    expect((await syncSchedules(client, config, { dryRun: false })).map(({ name, action }) => `${action} ${name}`)).toEqual(['create rehearsal-orders-chaos', 'create rehearsal-orders-restore']);
    const live = await client.schedule.getHandle(`holdfast/${environment}/rehearsal-orders-chaos`).describe();
    expect(live.action).toMatchObject({ workflowType: 'runbook', workflowId: 'runbook/chaos-drill/rehearsal-orders-chaos', args: [{ runbook: 'chaos-drill', service: 'orders', mode: 'planned', parameters: { approvals: 2 }, reason: 'rehearsal chaos', requestedBy: 'schedule' }] });
    expect(live.info.nextActionTimes.length).toBeGreaterThan(3);
    for (const at of live.info.nextActionTimes) {
      expect([1, 4, 7, 10]).toContain(at.getUTCMonth());
      expect(at.toISOString()).toMatch(/-03T13:30:00/);
    }
    expect((await syncSchedules(client, config, { dryRun: false })).map(({ action }) => action)).toEqual(['keep', 'keep']);
    const moved = await syncSchedules(client, { ...config, services: service([{ ...drills, month: 3 }]) }, { dryRun: false });
    expect(moved.map(({ name, action }) => `${action} ${name}`)).toEqual(['update rehearsal-orders-chaos', 'pause rehearsal-orders-restore']);
    expect(moved[0]!.details.join()).toContain('3,6,9,12');
  });
});
