import { createHash, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib';
import { WorkflowFailedError, type Client } from '@temporalio/client';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { RestoreDrillResult } from '../../src/model/api.ts';
import type { Progress } from '../../src/model/execution.ts';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import { postgresManifestOf } from '../../src/model/manifest.ts';
import { listBackups, readManifest } from '../../src/systems/backup-catalogue.ts';
import { createDrillTarget, openDrillTarget, sweepDrillTargets } from '../../src/systems/drill-target.ts';
import { verifyEvidenceFolder } from '../../src/systems/evidence-folder.ts';
import { trustOnly } from '../../src/systems/evidence-keys.ts';
import { readText } from '../../src/systems/store.ts';
import { connectTemporal, runningWorker } from '../support.ts';
import { drillFixture, expectNoTargets, holdfast, startWorkerProcess, type DrillFixture } from './drill-fixture.ts';

let fixture: DrillFixture;
let client: Client;

beforeAll(async () => {
  fixture = await drillFixture('drills');
  client = await connectTemporal(fixture.context);
});
afterAll(async () => {
  await client?.connection.close();
  await fixture?.end();
});
beforeEach(() => {
  fixture.notices.length = 0;
});

async function bytesOf(key: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of await fixture.store.get(key)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function sha256(content: Buffer | string): string {
  return createHash('sha256').update(content).digest('hex');
}

describe('with a worker', () => {
  let worker: { stop(): Promise<void> };
  beforeAll(async () => {
    worker = await runningWorker(fixture.context);
  });
  afterAll(() => worker?.stop());

  test('a datastore without any backup is a failed drill, with evidence and a notification', async () => {
    const result = await fixture.drill();
    expect(result).toMatchObject({ outcome: 'failed', backup: '', proof: null, measuredRtoMs: null, measuredRpoMs: null, objectives: { rtoMs: 900_000, rpoMs: 1_800_000 } });
    expect(result.message).toContain('there is no committed backup of shop');
    expect(await verifyEvidenceFolder(result.evidence!)).toMatchObject({ ok: true, report: { header: { outcome: 'failed' } } });
    expect(fixture.notices.join()).toContain('Restore drill of shop failed');
  });

  test('a clean backup is verified through the command line, end to end, and its evidence holds offline', async () => {
    const backup = await fixture.backUp();
    expect(backup.proof).toBe('unproved');
    const { code, out, err } = await holdfast(['drill', 'shop', '--config', fixture.context.configPath, '--by', 'ana', '--reason', 'monthly', '--json']);
    expect(err).toMatch(/restore +changed/);
    const result = JSON.parse(out) as RestoreDrillResult & { workflowId: string };
    expect(result.message).toMatch(/^exact: /);
    expect(code).toBe(0);
    expect(result).toMatchObject({ outcome: 'verified', backup: backup.id, proof: { exact: true, differences: [] }, objectives: { rtoMs: 900_000, rpoMs: 1_800_000 } });
    expect(result.checks).toEqual([
      { name: 'customers are there', ok: true, found: '200', expected: 'equal to 200' },
      { name: 'orders are recent', ok: true, found: 'true', expected: 'a row with a true value' },
    ]);
    expect(result.measuredRtoMs).toBeGreaterThan(100);
    expect(result.measuredRpoMs).toBeGreaterThan(0);

    expect(await fixture.find(backup.id)).toMatchObject({ proof: 'verified', inUse: false });
    expectNoTargets(fixture.context);

    const verdict = await verifyEvidenceFolder(result.evidence!, trustOnly(readFileSync(fixture.publicKeyFile, 'utf8')));
    expect(verdict).toMatchObject({ ok: true, authentic: true, problems: [] });
    expect(verdict.report).toMatchObject({ header: { kind: 'drill', service: null, subject: 'shop', outcome: 'verified', requestedBy: 'ana', reason: 'monthly', environment: expect.stringMatching(/^test-/) } });
    expect(verdict.report!.measurements.map((measurement) => measurement.measured)).toEqual([result.measuredRtoMs, result.measuredRpoMs]);
    expect(verdict.report!.timeline.map((entry) => [entry.label, entry.outcome])).toEqual([
      ['Choose the backup', 'done'], ['Start an isolated target', 'done'], ['Restore roles and data', 'done'], ['Compare with the manifest', 'done'],
      ['Run the checks of the service', 'done'], ['Destroy the target', 'done'], ['Mark the backup', 'done'],
    ]);
    const copies: string[] = [];
    for await (const object of fixture.store.list(`${fixture.store.prefix}evidence/`)) copies.push(object.key);
    const folder = result.evidence!.split('/').at(-1)!;
    expect(copies.filter((key) => key.includes(folder)).map((key) => key.split('/').at(-1))).toEqual(['facts.sha256', 'report.html', 'report.json', 'report.md', 'signature.json']);
    expect(await fixture.store.getText(copies.find((key) => key.endsWith(`${folder}/report.json`))!)).toBe(readFileSync(join(result.evidence!, 'report.json'), 'utf8'));
    expect(fixture.notices.join()).toContain('verified the backup');

    // The history says no secret, and the progress stays to be asked for.
    const handle = client.workflow.getHandle(result.workflowId);
    expect(JSON.stringify(await handle.fetchHistory())).not.toContain(fixture.source.password);
    const progress = await handle.query<Progress>('progress');
    expect(progress.state?.final).toBe('succeeded');
  });

  test('a missed objective fails the drill in the result, the notice and the exit code, not the backup', async () => {
    const backup = await fixture.backUp();
    const config = readFileSync(fixture.context.configPath, 'utf8');
    expect(config).toContain('rpo: 30m');
    const services = fixture.context.config.services as Record<string, { objectives: { rpo: number } }>;
    const before = services['reporting']!.objectives.rpo;
    services['reporting']!.objectives.rpo = 1;
    try {
      const result = await fixture.drill({ backup: backup.id });
      expect(result.outcome).toBe('verified');
      expect(result.message).toContain('the objective was MISSED: RPO');
      expect(await fixture.find(backup.id)).toMatchObject({ proof: 'verified' });
      expect(readFileSync(join(result.evidence!, 'report.md'), 'utf8')).toMatch(/RPO.*\| MISSED \|/);
      expect(fixture.notices.join()).toContain('needs attention');
    } finally {
      services['reporting']!.objectives.rpo = before;
    }
  });

  test('a flipped byte in the stored object makes the backup bad', async () => {
    const backup = await fixture.backUp();
    const manifest = postgresManifestOf(await readManifest(fixture.store, backup.location));
    const data = manifest.objects.find((object) => object.role === 'data')!;
    const bytes = await bytesOf(backup.location + data.name);
    bytes[Math.floor(bytes.length / 2)]! ^= 0x10;
    await fixture.store.put(backup.location + data.name, bytes);
    const result = await fixture.drill();
    expect(result).toMatchObject({ outcome: 'bad', backup: backup.id, proof: { exact: false }, measuredRtoMs: null });
    expect(result.message).toMatch(/cannot be restored: .*(damaged|pg_restore)/s);
    expect(await fixture.find(backup.id)).toMatchObject({ proof: 'bad', inUse: false });
    expect(fixture.notices.join()).toContain('found a BAD backup');
    expect(await verifyEvidenceFolder(result.evidence!)).toMatchObject({ ok: true, report: { header: { outcome: 'bad' } } });
    expectNoTargets(fixture.context);
  });

  test('changed rows behind checksums that were all made anew are found by the fingerprints', async () => {
    const backup = await fixture.backUp();
    const manifest = structuredClone(postgresManifestOf(await readManifest(fixture.store, backup.location)));
    const data = manifest.objects.find((object) => object.role === 'data')!;
    const plain = zstdDecompressSync(await bytesOf(backup.location + data.name));
    const at = plain.indexOf('Grace ', plain.indexOf('customer1@example.com'));
    expect(at).toBeGreaterThan(0);
    plain.write('Grate ', at);
    const stored = zstdCompressSync(plain);
    Object.assign(data, { storedBytes: stored.length, storedSha256: sha256(stored), plainSha256: sha256(plain) });
    const text = JSON.stringify(manifest);
    await fixture.store.put(backup.location + data.name, stored);
    await fixture.store.put(`${backup.location}manifest.json`, text);
    await fixture.store.put(`${backup.location}COMMIT`, JSON.stringify({ format: 1, id: backup.id, manifestSha256: sha256(text), committedAt: new Date().toISOString() }));
    const result = await fixture.drill({ backup: backup.id });
    expect(result.outcome).toBe('bad');
    expect(result.proof!.differences).toEqual([{ kind: 'content', object: 'shop.customers', expected: expect.any(String), found: expect.stringContaining('as many rows with other content') }]);
    expect(await fixture.find(backup.id)).toMatchObject({ proof: 'bad' });
    expectNoTargets(fixture.context);
  });

  test('a manifest that was changed after the commit is bad and is not passed over for an older backup', async () => {
    const backup = await fixture.backUp();
    const text = await readText(await fixture.store.get(`${backup.location}manifest.json`));
    await fixture.store.put(`${backup.location}manifest.json`, text.replace('"reason": "test"', '"reason": "best"').replace('"reason":"test"', '"reason":"best"'));
    const result = await fixture.drill({ backup: 'newest' });
    expect(result).toMatchObject({ outcome: 'bad', backup: backup.id });
    expect(result.message).toMatch(/manifest\.json has SHA-256/);
    // What is left must not stand in the way of the tests after this one.
    await fixture.store.delete(`${backup.location}COMMIT`);
    expectNoTargets(fixture.context);
  });

  test('a check of the service that does not hold makes the drill bad, though every byte came back', async () => {
    await fixture.sql('create table shop.flags (name text primary key, on_ boolean)');
    const backup = await fixture.backUp();
    const checks = fixture.context.config.services['orders']!.checks as { name: string; sql: string; expect: object }[];
    checks.push({ name: 'checkout is on', sql: "select on_ from shop.flags where name = 'checkout'", expect: {} }, { name: 'no writes', sql: 'delete from shop.flags returning 1', expect: {} });
    try {
      const result = await fixture.drill({ backup: backup.id });
      expect(result).toMatchObject({ outcome: 'bad', proof: { exact: true } });
      expect(result.checks.slice(2)).toEqual([
        expect.objectContaining({ name: 'checkout is on', ok: false, found: 'no row' }),
        expect.objectContaining({ name: 'no writes', ok: false, found: expect.stringContaining('read-only transaction') }),
      ]);
      expect(result.measuredRtoMs).toBeNull();
    } finally {
      checks.splice(2);
    }
  });

  test('a fault of this host fails the drill without a word against the backup', async () => {
    const backup = await fixture.backUp();
    const manifest = structuredClone(postgresManifestOf(await readManifest(fixture.store, backup.location)));
    manifest.source.collate = 'xx_YY.UTF-8';
    const text = JSON.stringify(manifest);
    await fixture.store.put(`${backup.location}manifest.json`, text);
    await fixture.store.put(`${backup.location}COMMIT`, JSON.stringify({ format: 1, id: backup.id, manifestSha256: sha256(text), committedAt: new Date().toISOString() }));
    const result = await fixture.drill({ backup: backup.id });
    expect(result).toMatchObject({ outcome: 'failed', proof: null });
    expect(result.message).toContain('cannot have a database like the source');
    expect(await fixture.find(backup.id)).toMatchObject({ proof: 'unproved', inUse: false });
    expectNoTargets(fixture.context);
  });

  test('random takes one of all backups; an unknown id is a failed drill; an unknown datastore is refused', async () => {
    const ids = (await fixture.backups()).map((backup) => backup.id);
    expect(ids).toContain((await fixture.drill({ backup: 'random' })).backup);
    expect(await fixture.drill({ backup: 'nosuch' })).toMatchObject({ outcome: 'failed', message: expect.stringContaining('no committed backup nosuch') });
    const unknown = await fixture.drill({ datastore: 'shap' }).catch((error: unknown) => error);
    expect(unknown).toBeInstanceOf(WorkflowFailedError);
    expect(String(((unknown as Error).cause as Error).cause)).toContain('there is no datastore named "shap"');
  });
});

test('a worker that starts removes what drills that ended have left, and leaves running ones alone', async () => {
  const [backup] = await listBackups(fixture.store, fixture.store.prefix, 'shop');
  const manifest = postgresManifestOf(await readManifest(fixture.store, backup!.location));
  const ended = await createDrillTarget(fixture.context, { datastore: 'shop', workflowId: 'drill/ended', runId: randomUUID() }, manifest);
  const running = await createDrillTarget(fixture.context, { datastore: 'shop', workflowId: 'drill/running', runId: randomUUID() }, manifest);
  expect(await sweepDrillTargets(fixture.context, async (workflowId) => workflowId === 'drill/running')).toEqual([ended.name]);
  expect(await openDrillTarget(fixture.context, running.name)).toMatchObject({ name: running.name });
  await expect(openDrillTarget(fixture.context, ended.name)).rejects.toThrow('does not run any more');
  // The worker as people start it asks Temporal, which knows neither.
  const worker = startWorkerProcess(fixture.context);
  try {
    while (existsSync(running.directory)) {
      worker.check();
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  } finally {
    await worker.kill('SIGTERM');
  }
  expectNoTargets(fixture.context);
});

test('a target that is the source itself, or not the server made for the drill, is refused', async () => {
  const [backup] = await listBackups(fixture.store, fixture.store.prefix, 'shop');
  const manifest = postgresManifestOf(await readManifest(fixture.store, backup!.location));
  const target = await createDrillTarget(fixture.context, { datastore: 'shop', workflowId: 'drill/refused', runId: '1' }, manifest);
  const connection = join(target.directory, 'connection.json');
  writeFileSync(connection, JSON.stringify({ ...JSON.parse(readFileSync(connection, 'utf8')), sourceSystemIdentifier: target.systemIdentifier }));
  await expect(openDrillTarget(fixture.context, target.name)).rejects.toThrow('is that of the source of the backup');
  expect(await sweepDrillTargets(fixture.context, async () => false)).toEqual([target.name]);
});

test('a host that cannot hold or run the restore says so before anything is made', async () => {
  const [backup] = await listBackups(fixture.store, fixture.store.prefix, 'shop');
  const manifest = postgresManifestOf(await readManifest(fixture.store, backup!.location));
  const identity = { datastore: 'shop', workflowId: 'drill/impossible', runId: '1' };
  const made = (source: Partial<PostgresManifest['source']>): Promise<unknown> => createDrillTarget(fixture.context, identity, { ...manifest, source: { ...manifest.source, ...source } });
  await expect(made({ serverVersionNumber: 990_001 })).rejects.toMatchObject({ code: 'drill-server-missing', next: expect.stringContaining('postgresql-99') });
  await expect(made({ databaseBytes: 1e15 })).rejects.toMatchObject({ code: 'drill-disk', message: expect.stringContaining('this drill needs about') });
  expectNoTargets(fixture.context);
});
