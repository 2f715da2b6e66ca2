import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createEvidenceActivities } from '../../activities/evidence.ts';
import type { EvidenceInput } from '../../src/model/evidence.ts';
import { listBackups } from '../../src/systems/backup-catalogue.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore } from '../../src/systems/store.ts';
import { testConfig, testDatabase, testDatastore, type TestDatabase } from '../support.ts';
import { runHere, secretsOfTest, type ProgramExit } from './program.ts';

const PRICES = `currency: EUR
asOf: 2026-11-21
source: figures of a test
gigabyte: 1kB
monthHours: 720
prices:
  - { unit: instance-hour, class: db.large, price: 0.3 }
  - { unit: volume-gb-month, price: 0 }
  - { unit: object-gb-month, price: 0.1 }
  - { unit: put-1000, price: 1 }
`;

let database: TestDatabase;
let context: Context;
let prices: string;

beforeAll(async () => {
  database = await testDatabase('cost');
  await database.query('create table orders as select g as id, md5(g::text) as note from generate_series(1, 500) g');
  const other = { host: '127.0.0.1', port: 1, dataDirectory: '/b' };
  const nodes = { a: { host: database.host, port: database.port, dataDirectory: '/a' }, b: other };
  context = await testConfig({
    datastores: { shop: testDatastore(database, { nodes }), idle: testDatastore(database, { nodes: { a: { host: database.host, port: database.port } } }) },
    services: {
      orders: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'] },
      notes: { objectives: { rto: '2h', rpo: '26h' }, datastores: ['idle'] },
    },
    schedules: { nightly: { run: 'backup', datastore: 'shop', cron: '0 3 * * *' }, more: { run: 'backup', datastore: 'shop', every: '12h', paused: true } },
    costs: { datastores: { shop: { replica: { class: 'db.large', volume: { size: '1kB' } }, pilot: { class: 'db.small' } } } },
  });
  prices = join(dirname(context.configPath), 'prices.yaml');
  for (const id of ['one', 'two']) await runBackup(context, { datastore: 'shop', id, location: `shop/2026/01/02/030405Z-${id}/`, reason: 'test', workflowId: 'w', runId: 'r' }, { signal: new AbortController().signal });
});
afterAll(async () => {
  context?.close();
  await database?.drop();
});

function cost(...args: string[]): Promise<ProgramExit> {
  return runHere(['cost', ...args, '--config', context.configPath], { env: secretsOfTest() });
}

interface Shown {
  readonly services: readonly {
    readonly service: string;
    readonly total: string;
    readonly complete: boolean;
    readonly incomplete: readonly string[];
    readonly datastores: readonly { readonly tier: string; readonly tiers: readonly { readonly tier: string; readonly total: string; readonly rto: object; readonly rpo: object; readonly lines: readonly { readonly name: string; readonly quantity: string | null; readonly amount: string | null; readonly basis: string }[] }[] }[];
  }[];
}

async function shown(...args: string[]): Promise<Shown> {
  const { out } = await cost(...args, '--json');
  return JSON.parse(out) as Shown;
}

const tierOf = (found: Shown, tier: string) => found.services[0]!.datastores[0]!.tiers.find((item) => item.tier === tier)!;

function evidence(more: Partial<EvidenceInput>): EvidenceInput {
  return {
    kind: 'drill', subject: 'shop', service: 'orders', outcome: 'verified', title: 'A test', summary: 'A test.', workflowId: 'w', runId: String(Math.random()), requestedBy: 'ann', reason: 'test',
    startedAt: '2026-11-20T03:00:00.000Z', finishedAt: '2026-11-20T03:01:00.000Z', planHash: null, measurements: [], timeline: [], checks: [], facts: [], ...more,
  };
}

describe('holdfast cost', () => {
  it('says what to write when there is no price table, and finds every fault of one with its line', async () => {
    expect(await cost()).toMatchObject({ code: 2, err: expect.stringMatching(/price table .*prices\.yaml does not exist[\s\S]*prices\.example\.yaml/) });
    writeFileSync(prices, 'currency: euro\nasOf: 2026-11-21\nsource: x\nprices:\n  - { unit: instance-hour, price: -1 }\n  - { unit: hours, price: 1 }\n  - { unit: put-1000, price: 1 }\n  - { unit: put-1000, price: 2 }\n  - { unit: put-1000, to: x, price: 2 }\n');
    const wrong = await cost();
    expect(wrong.code).toBe(2);
    for (const line of ['prices.yaml:1 currency', 'prices.yaml:5 prices', 'prices.yaml:6 prices']) expect(wrong.err).toContain(line);
    writeFileSync(prices, `${PRICES}  - { unit: put-1000, price: 2 }\n`);
    expect(await cost()).toMatchObject({ code: 2, err: expect.stringContaining('another entry above is for the same unit') });
    writeFileSync(prices, PRICES);
    expect(await cost('ordres')).toMatchObject({ code: 3, err: expect.stringContaining('use one of: orders, notes') });
  });

  it('counts what lies in the store, what is declared and what is scheduled, each named for what it is', async () => {
    writeFileSync(prices, PRICES);
    const found = await shown('orders');
    const store = await openStore(context, 'main');
    const stored = (await listBackups(store, store.prefix, 'shop')).reduce((total, backup) => total + backup.storedBytes, 0);
    expect(stored).toBeGreaterThan(1000);
    const now = tierOf(found, 'warm-standby');
    expect(found.services[0]!.datastores[0]!.tier).toBe('warm-standby');
    expect(now.lines.map(({ name, quantity, basis }) => [name, quantity, basis])).toEqual([
      ['standby instances', '720', 'declared'],
      ['their volumes', '1', 'declared'],
      ['dumps stored', String(stored / 1000), 'measured'],
      // 30 a month, one part and eight requests each: the paused schedule does not count.
      ['requests of the dumps', '0.27', 'assumed'],
    ]);
    // 216 + 0 (a price of 0 is a price) + stored x 0.1 a kB + 0.27
    expect(Number(now.total)).toBeCloseTo(216.27 + stored / 10_000, 9);
    expect(found.services[0]).toMatchObject({ complete: true, incomplete: [], total: now.total });
    expect(tierOf(found, 'pilot-light').lines[0]).toMatchObject({ amount: null });
    expect(tierOf(found, 'warm-standby')).toMatchObject({ rto: { basis: 'not known', meets: null }, rpo: { basis: 'not known' } });

    const { out, code } = await cost();
    expect(code).toBe(0);
    expect(out).toContain('EUR, as of 2026-11-21, figures of a test');
    expect(out).toMatch(/^orders: 21\d\.\d\d EUR a month {2}\(RTO 15m 00s, RPO 1m 00s\)$/m);
    expect(out).toMatch(/standby instances +720\.000 +instance-hour +declared +0\.3 +216\.00/);
    expect(out).toMatch(/^pilot-light +>= .* \(1 missing\) +\? +not known +not known$/m);
    expect(out).toContain('no price for instance-hour db.small');
    // A datastore without a second node, whose dumps nobody made yet: nothing is invented.
    expect(out).toMatch(/^notes: 0\.00 EUR a month at least: 1 figure\(s\) missing/m);
    expect(out).toMatch(/^idle, now dump-only$/m);
  });

  it('calls measured only what intact evidence has measured, and says which', async () => {
    writeFileSync(prices, PRICES);
    const { writeEvidence } = createEvidenceActivities(context);
    const ms = (name: string, measured: number | null) => ({ name, unit: 'ms' as const, objective: null, measured });
    await writeEvidence(evidence({ startedAt: '2026-10-01T00:00:00.000Z', measurements: [ms('RTO (start of restore to checks green)', 111)] }));
    await writeEvidence(evidence({ outcome: 'failed', measurements: [ms('RTO (start of restore to checks green)', 222)] }));
    await writeEvidence(evidence({ startedAt: '2026-11-19T00:00:00.000Z', facts: [{ at: '2026-11-19T00:00:00.000Z', kind: 'subject', data: { managed: { from: {} } } }], measurements: [ms('RTO (start of restore to checks green)', 333)] }));
    await writeEvidence(evidence({ kind: 'failover', outcome: 'succeeded', measurements: [ms('RTO by hand: start to first good write', 444)] }));
    const first = await shown('orders');
    expect(tierOf(first, 'dump-only').rto).toMatchObject({ ms: 111, basis: 'measured', how: expect.stringContaining('evidence 2026-10-01-') });
    expect(tierOf(first, 'snapshot-copy').rto).toMatchObject({ ms: 333, basis: 'measured' });
    expect(tierOf(first, 'warm-standby').rto).toMatchObject({ ms: null, basis: 'not known' });

    const { directory } = await writeEvidence(evidence({ kind: 'failover', outcome: 'succeeded', startedAt: '2026-11-21T00:00:00.000Z', measurements: [ms('RTO: start to first good write', 555), ms('RPO: work lost', 0)] }));
    expect(tierOf(await shown('orders'), 'warm-standby')).toMatchObject({ rto: { ms: 555, basis: 'measured', meets: true }, rpo: { ms: 0, basis: 'measured', meets: true } });
    // A record that was changed is no evidence.
    const report = join(directory, 'report.json');
    writeFileSync(report, readFileSync(report, 'utf8').replace('555', '5'));
    const changed = await cost('orders', '--json');
    expect(changed.err).toMatch(/note: evidence 2026-11-21-\S+ is not counted: /);
    expect(tierOf(JSON.parse(changed.out) as Shown, 'warm-standby').rto).toMatchObject({ ms: null, basis: 'not known' });
  });

  it('with the store out of reach, what lies there is missing and not 0', async () => {
    writeFileSync(prices, PRICES);
    const text = readFileSync(context.configPath, 'utf8');
    const path = join(dirname(context.configPath), 'unreachable.yaml');
    writeFileSync(path, text.replace(/(bucket: .*\n\s+endpoint: ).*/, '$1http://127.0.0.1:1'));
    const { out, err, code } = await runHere(['cost', 'orders', '--json', '--config', path], { env: secretsOfTest() });
    expect(code).toBe(0);
    expect(err).toMatch(/shop: store main could not be read/);
    const found = JSON.parse(out) as Shown;
    expect(found.services[0]).toMatchObject({ complete: false, total: '216' });
    expect(found.services[0]!.incomplete.join('\n')).toMatch(/shop: dumps stored: store main could not be read/);
  });
});
