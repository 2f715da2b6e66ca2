import { spawn } from 'node:child_process';
import { readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { createEvidenceActivities } from '../../activities/evidence.ts';
import type { EvidenceInput } from '../../src/model/evidence.ts';
import { openStore } from '../../src/systems/store.ts';
import { testBucket, testConfig, testDirectory, suite } from '../support.ts';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const INPUT: EvidenceInput = {
  kind: 'failover', subject: 'orders-db', service: 'orders', outcome: 'succeeded', title: 'Planned failover of orders', summary: 'db-b is primary; nothing was lost.',
  workflowId: 'failover/orders', runId: '1', requestedBy: 'ana', reason: 'rehearsal', startedAt: '2026-11-21T03:00:00.000Z', finishedAt: '2026-11-21T03:00:14.000Z', planHash: 'ab12',
  measurements: [{ name: 'refused-write window', unit: 'ms', objective: 1000, measured: 210 }], timeline: [{ label: 'promote', startMs: 0, endMs: 210, outcome: 'changed' }], checks: [], facts: [], appendix: '## Failback plan\n\n1. rebuild db-a',
};

let directory: string;
beforeAll(() => {
  directory = testDirectory('evidence');
});

/** The real program, without a configuration, without a network to speak to. */
function holdfast(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...args], { cwd: directory, env: { PATH: process.env['PATH'] }, stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text));
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, out, err }));
  });
}

describe('from key to verdict with the command line', () => {
  test('keygen, sign, verify, show, list; a changed byte is exit code 1 and named', async () => {
    const made = await holdfast('evidence', 'keygen', join(directory, 'keys', 'evidence.pem'));
    expect(made).toMatchObject({ code: 0, out: expect.stringContaining(`signingKey: file:${directory}/keys/evidence.pem`) });
    expect(statSync(join(directory, 'keys', 'evidence.pem')).mode & 0o777).toBe(0o600);
    expect(await holdfast('evidence', 'keygen', join(directory, 'keys', 'evidence.pem'))).toMatchObject({ code: 4, err: expect.stringContaining('never overwritten') });

    const context = await testConfig({ evidence: { signingKey: `file:${directory}/keys/evidence.pem`, directory: join(directory, 'dr') } });
    const { writeEvidence } = createEvidenceActivities(context);
    const location = await writeEvidence(INPUT);
    expect(location.signed).toBe(true);
    // Another attempt of the activity, e.g. after its worker was lost.
    expect(await writeEvidence(INPUT)).toEqual(location);
    expect(readdirSync(join(directory, 'dr'))).toEqual([`2026-11-21-orders-failover-${location.id}`]);

    const embedded = await holdfast('evidence', 'verify', location.directory);
    expect(embedded).toMatchObject({ code: 0, out: expect.stringContaining('checked only against the key embedded') });
    const pinned = await holdfast('evidence', 'verify', location.directory, '--public-key', join(directory, 'keys', 'evidence.pem.pub'));
    expect(pinned).toMatchObject({ code: 0, out: expect.stringMatching(/^intact, signed by the given key [0-9a-f]{16}/) });
    expect(pinned.out).toMatch(/refused-write window +at most 1\.00 s +210 ms +met/);
    expect(pinned.out).not.toContain('note:');

    expect(await holdfast('evidence', 'list', '--directory', join(directory, 'dr'))).toMatchObject({ code: 0, out: expect.stringContaining('intact, signed') });
    expect(await holdfast('evidence', 'show', location.id, '--directory', join(directory, 'dr'))).toMatchObject({ code: 0, out: expect.stringContaining('## Failback plan') });

    const report = join(location.directory, 'report.json');
    writeFileSync(report, readFileSync(report, 'utf8').replace('"measured":210', '"measured":110'));
    const changed = await holdfast('evidence', 'verify', location.directory, '--json');
    expect(changed.code).toBe(1);
    expect(JSON.parse(changed.out)).toMatchObject({ ok: false, problems: [expect.stringMatching(/^fact 1 \(measurements, report\.json line 3\) was changed/), expect.stringContaining('report.json was changed')] });
    expect(await holdfast('evidence', 'list', '--directory', join(directory, 'dr'))).toMatchObject({ code: 1, out: expect.stringContaining('CHANGED: fact 1') });
    expect((await holdfast('evidence', 'verify', join(directory, 'nowhere'))).code).toBe(3);
  });
});

describe('the copy in a store', () => {
  test('lies under object lock where the store is configured so, and is never written over', async () => {
    const { s3 } = suite();
    const bucket = await testBucket({ objectLock: true });
    const context = await testConfig({
      stores: { locked: { type: 's3', bucket, prefix: 'team', endpoint: s3.endpoint, region: s3.region, forcePathStyle: true, credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' }, objectLock: { mode: 'GOVERNANCE', retain: '1d' } } },
      evidence: { store: 'locked' },
    });
    const { writeEvidence } = createEvidenceActivities(context);
    const location = await writeEvidence(INPUT);
    const store = await openStore(context, 'locked');
    const key = `team/evidence/${location.directory.split('/').at(-1)}/report.json`;
    expect(await store.getText(key)).toBe(readFileSync(join(location.directory, 'report.json'), 'utf8'));
    expect((await store.head(key))!.lockedUntilMs).toBeGreaterThan(Date.now() + 80_000_000);
    expect(await writeEvidence(INPUT)).toEqual(location);

    // Another host has no folder yet, but the store holds other evidence under that name.
    const elsewhere = createEvidenceActivities({ ...context, config: { ...context.config, evidence: { ...context.config.evidence, directory: testDirectory('elsewhere') } } });
    await expect(elsewhere.writeEvidence({ ...INPUT, outcome: 'failed' })).rejects.toThrow('already holds other evidence');
  });

  test('a folder store takes it too', async () => {
    const path = testDirectory('folder-store');
    const context = await testConfig({ stores: { folder: { type: 'folder', path } }, evidence: { store: 'folder' } });
    const location = await createEvidenceActivities(context).writeEvidence({ ...INPUT, runId: '2' });
    expect(location.signed).toBe(false);
    const copy = join(path, 'evidence', location.directory.split('/').at(-1)!);
    expect(readdirSync(copy).toSorted()).toEqual(['report.html', 'report.json', 'report.md', 'signature.json']);
    expect(await holdfast('evidence', 'verify', copy)).toMatchObject({ code: 0, out: expect.stringContaining('NOT SIGNED') });
  });
});
