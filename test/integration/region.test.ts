import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectClient } from '../../src/engine/connection.ts';
import { startWorker } from '../../src/local/environment.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startRegionEstate, type RegionEstate } from '../../src/local/region.ts';
import { failOver, lookAround, prepare, startVisitor, type RegionRun, type Visitor } from '../../src/local/region-scenario.ts';
import { verifyEvidenceFolder } from '../../src/systems/evidence-folder.ts';
import { trustOnly } from '../../src/systems/evidence-keys.ts';
import { testDirectory } from '../support.ts';

/** Runbook B on the emulated estate: both Regions on this machine, every server in them real, AWS by the emulator. */
let processes: Processes;
let estate: RegionEstate;
let client: Client;
let visitor: Visitor;
let run: RegionRun;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('region') });
  estate = await startRegionEstate({ processes, evidenceDirectory: join(processes.directory, 'evidence'), ui: false, products: 500, keys: 800, deadLetters: 23, step: (_, work) => work() });
  client = await connectClient(estate.context.config, estate.context.secrets);
  await startWorker(processes, estate.configPath, client, estate.context.config.temporal.taskQueue);
  await prepare(estate, client);
  visitor = startVisitor(estate);
  await visitor.served;
  await estate.loseHome();
  run = await failOver(estate, client, { mode: 'forced', watchFor: '15s' });
}, 400_000);

afterAll(async () => {
  await visitor?.stop();
  await client?.connection.close();
  await estate?.close();
  await processes?.end();
});

describe('a Region is lost', () => {
  it('the runbook ends well, by two facts and two approvals', () => {
    expect(run.whole).toMatchObject({ outcome: 'succeeded', failure: null });
    expect(run.whole.steps.find(({ id }) => id === 'confirm')!.summary).toContain('us-east-1 is down by 2 independent fact(s)');
  });

  it('services come back in the order they depend on each other, beside each other where they do not', async () => {
    expect(Object.fromEntries(Object.entries(run.services).map(([name, { outcome }]) => [name, outcome]))).toEqual({ auth: 'succeeded', orders: 'succeeded', catalogue: 'succeeded' });
    const time = async (name: string) => client.workflow.getHandle(`failover/${name}`).describe();
    const [auth, orders, catalogue] = await Promise.all(['auth', 'orders', 'catalogue'].map(time));
    expect(orders!.startTime.getTime()).toBeGreaterThanOrEqual(auth!.closeTime!.getTime());
    expect(catalogue!.startTime.getTime()).toBeLessThan(auth!.closeTime!.getTime());
  });

  it.each(['auth', 'orders'] as const)('%s writes in the other Region, and its old primary is behind a fence and stopped', async (name) => {
    const result = run.services[name]!;
    expect(result).toMatchObject({ promoted: true, primary: 'home', candidate: 'away' });
    const connection = new pg.Client({ connectionString: estate.databases[name].away.connectionString(name) });
    await connection.connect();
    try {
      expect((await connection.query("insert into events (what) values ('test') returning what")).rows).toEqual([{ what: 'test' }]);
      expect((await connection.query('select count(*)::int as n from events')).rows[0].n).toBeGreaterThan(1000);
    } finally {
      await connection.end();
    }
    await expect.poll(() => estate.databases[name].home.status, { timeout: 30_000 }).toBe('stopped');
    expect(result.measurements.find((one) => one.name.startsWith('RTO'))!.measured).toBeGreaterThan(0);
  });

  it('front door, queue, flag, cache, search and workloads are there, as the systems themselves say', async () => {
    expect(await lookAround(estate)).toMatchObject({ healthCheck: { inverted: true, disabled: true }, origin: 'away', dead: 0, queued: 23, flag: 'off', documents: 500 });
    // The key beside them says whose substitute it is.
    expect(await estate.caches.away.command('EXISTS', ...Array.from({ length: 800 }, (_, at) => `session:${at}`))).toBe(800);
    const { spec } = await estate.kubernetes.call<{ spec: { template: { metadata: { annotations?: Record<string, string> } } } }>('GET', '/apis/apps/v1/namespaces/default/deployments/orders');
    expect(Object.keys(spec.template.metadata.annotations ?? {}).join()).toContain('holdfast');
  });

  it('a visitor is served again, and the watch measured it', () => {
    const { lastAtHomeMs, firstAwayMs } = visitor.seen();
    expect(firstAwayMs! - lastAtHomeMs!).toBeGreaterThan(0);
    expect(run.whole.steps.find(({ id }) => id === 'watch')).toMatchObject({ outcome: 'already-satisfied' });
  });

  it('every run left evidence that holds offline', async () => {
    for (const { evidence } of [run.whole, ...Object.values(run.services)]) expect(await verifyEvidenceFolder(evidence!, trustOnly(estate.publicKey))).toMatchObject({ ok: true, authentic: true });
  });
});
