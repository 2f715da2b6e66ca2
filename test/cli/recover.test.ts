import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { queryProgress } from '../../src/engine/executions.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { StepState } from '../../src/model/execution.ts';
import type { ShownReadiness } from '../../src/cli/readiness-view.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { databasePair, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';
import { runHere, type ProgramExit } from './program.ts';

const service = uniqueName('orders');
const id = `failover/${service}`;
let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let flag: string;

beforeAll(async () => {
  const directory = testDirectory('recover');
  flag = join(directory, 'rolled-out');
  processes = createProcesses({ directory });
  pair = await databasePair(processes, {
    services: {
      [service]: {
        objectives: { rto: '15m', rpo: '1m', refusedWrites: '30s', lostWrites: 0, backupAge: '1h' },
        datastores: ['shop'],
        runbooks: { failover: 'database-failover', failback: 'database-failback' },
        cooldown: '0s',
        // The application's rollout fails until somebody has put the flag there.
        parameters: { recentQuery: 'select max(id) as newest from orders', rolloutCommand: ['test', '-e', flag] },
      },
    },
  });
  // A standby that never replayed a commit cannot say how far behind it is.
  await queryOnce(pair.servers.a.connectionString('shop'), 'insert into orders (id) values (1)');
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

function run(...args: string[]): Promise<ProgramExit> {
  return runHere([...args, '--config', pair.context.configPath, '--runbooks', pair.context.runbookDirectory]);
}

/** The parked step, once it is at this attempt or beyond. */
async function parked(attempt: number): Promise<StepState> {
  const find = async (): Promise<StepState | undefined> => (await queryProgress(client, id)).state?.steps.find((step) => step.status === 'parked' && step.attempt >= attempt);
  await expect.poll(find, { timeout: 60_000 }).toBeTruthy();
  return (await find())!;
}

describe('a real failover, operated from the command line', () => {
  test('ready, planned, failed over, parked after the point of no return, retried once and not twice, done, audited', async () => {
    // Nothing was ever restored from: that is no readiness.
    expect(await run('readiness', service)).toMatchObject({ code: 1, out: expect.stringMatching(/NO +not-ready +now[\s\S]*none was proved/) });
    expect(await run('backup', 'shop')).toMatchObject({ code: 0 });
    expect(await run('drill', 'shop')).toMatchObject({ code: 0 });
    // Recoverable; but its runbooks never ran.
    const ready = await run('readiness');
    expect(ready).toMatchObject({ code: 6, out: expect.stringMatching(new RegExp(`${service} +yes +degraded +now[\\s\\S]*database-failover: rehearsed`)) });
    expect(ready.out).toMatch(/if a \(shop\) were down now: b would be promoted; 0 bytes were on their way to it/);
    // Without a worker it says what was known last, and how old that is.
    const last = async (): Promise<ProgramExit> => run('readiness', service, '--task-queue', 'nobody-polls-this');
    await expect.poll(async () => (await last()).code, { timeout: 20_000 }).toBe(6);
    expect(await last()).toMatchObject({ out: expect.stringMatching(/yes +degraded +\S+ m?s ago[\s\S]*the last known result, of /), err: expect.stringContaining('no worker answers') });
    const [asJson] = JSON.parse((await run('readiness', service, '--last', '--json')).out) as [ShownReadiness];
    expect(asJson).toMatchObject({ service, level: 'degraded', recoverable: true, fresh: false, old: null, result: { service, level: 'degraded' } });
    expect(await run('readiness', service, '--last', '--now')).toMatchObject({ code: 2 });
    expect(await run('readiness', 'nix')).toMatchObject({ code: 3 });
    const plan = await run('plan', service);
    expect(plan).toMatchObject({ code: 0, out: expect.stringMatching(/checked \(database-failover, planned, a -> b/) });
    expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as standby')).toEqual([{ standby: true }]);

    expect(await run('failover', service, '--mode', 'planned', '--reason', 'disk is dying', '--by', 'alice', '--no-wait')).toMatchObject({ code: 0 });
    const first = await parked(1);
    expect(first).toMatchObject({ id: 'rollout', uses: 'rollout.command' });
    const shown = (await run('status', service)).out;
    expect(shown).toMatch(/past the point of no return[\s\S]*RTO clock [\s\S]*PARKED \(unknown\)/);
    expect(shown).toContain(`holdfast retry ${id} --step ${first.id} --attempt ${first.attempt} --reason "..."`);
    expect(await run('abort', service, '--reason', 'panic', '--by', 'bob')).toMatchObject({ code: 4, err: expect.stringContaining('point of no return is passed') });

    // It fails again: the attempt that was looked at before is stale now, so a second click does nothing.
    const again = ['retry', service, '--step', first.id, '--attempt', String(first.attempt), '--reason', 'perhaps now', '--by', 'bob'];
    expect(await run(...again)).toMatchObject({ code: 0 });
    const second = await parked(first.attempt + 1);
    expect(await run(...again)).toMatchObject({ code: 4, err: expect.stringContaining(`attempt ${first.attempt} is stale: step ${first.id} is at attempt ${second.attempt}`) });

    writeFileSync(flag, '');
    expect(await run('retry', service, '--reason', 'rolled out by hand', '--by', 'bob')).toMatchObject({ code: 0, out: expect.stringContaining(`step ${first.id} (attempt ${second.attempt}) accepted, by bob`) });
    const result = (await client.workflow.getHandle(id).result()) as ExecutionResult;
    expect(result).toMatchObject({ outcome: 'succeeded', primary: 'a', candidate: 'b', objectivesMet: true });
    expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as standby')).toEqual([{ standby: false }]);

    const audit = (await run('audit', id)).out;
    expect(audit).toMatch(/operator decisions[\s\S]*retry +bob +completed +perhaps now\n.*retry +bob +refused +perhaps now .*is stale.*\n.*retry +bob +completed +rolled out by hand/);
    expect(audit).toMatch(/postgres\.promote:apply +1 +completed/);
    expect(await run('evidence', 'verify', result.evidence!)).toMatchObject({ code: 0, out: expect.stringContaining('intact') });
    expect((await run('readiness', service)).code).toBe(1);
  });
});
