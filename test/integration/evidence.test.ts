import { spawn } from 'node:child_process';
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DeleteObjectCommand, GetObjectCommand, HeadObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { beforeAll, describe, expect, test } from 'vitest';
import { createEvidenceActivities } from '../../activities/evidence.ts';
import { startWebhook } from '../../src/local/webhook.ts';
import type { EvidenceInput } from '../../src/model/evidence.ts';
import { generateSigningKey } from '../../src/systems/evidence-keys.ts';
import { surveyStore } from '../../src/systems/evidence-store.ts';
import { openStore } from '../../src/systems/store.ts';
import type { Context } from '../../src/systems/context.ts';
import { suite, testBucket, testConfig, testDirectory, toxiproxy, uniqueName, type ConfigOverrides } from '../support.ts';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const INPUT: EvidenceInput = {
  kind: 'failover', subject: 'orders-db', service: 'orders', outcome: 'succeeded', title: 'Planned failover of orders', summary: 'db-b is primary; nothing was lost.',
  workflowId: 'failover/orders', runId: '1', requestedBy: 'ana', reason: 'rehearsal', startedAt: '2026-11-21T03:00:00.000Z', finishedAt: '2026-11-21T03:00:14.000Z', planHash: 'ab12',
  measurements: [{ name: 'refused-write window', unit: 'ms', objective: 1000, measured: 210 }], timeline: [{ label: 'promote', startMs: 0, endMs: 210, outcome: 'changed' }], checks: [], facts: [], appendix: '## Failback plan\n\n1. rebuild db-a',
};

/** One environment for all of them: contexts stand for the hosts of one. */
const ownConfig = (overrides: ConfigOverrides): Promise<Context> => testConfig({ environment: 'test', ...overrides });

let directory: string;
beforeAll(() => {
  directory = testDirectory('evidence');
});

/** The real program, without a configuration, without a network to speak to. */
function holdfast(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...args], { cwd: directory, env: Object.fromEntries(Object.entries(process.env).filter(([name]) => name === 'PATH' || name.startsWith('HOLDFAST_TEST_'))), stdio: ['ignore', 'pipe', 'pipe'] });
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

    const context = await ownConfig({ evidence: { signingKey: `file:${directory}/keys/evidence.pem`, directory: join(directory, 'dr') } });
    const { writeEvidence } = createEvidenceActivities(context);
    const location = await writeEvidence(INPUT);
    expect(location.signed).toBe(true);
    // Another attempt of the activity, e.g. after its worker was lost.
    expect(await writeEvidence(INPUT)).toEqual(location);
    expect(readdirSync(join(directory, 'dr')).filter((name) => !name.startsWith('.'))).toEqual([`2026-11-21-orders-failover-${location.id}`]);

    const embedded = await holdfast('evidence', 'verify', location.directory);
    expect(embedded).toMatchObject({ code: 0, out: expect.stringContaining('checked only against the key embedded') });
    const pinned = await holdfast('evidence', 'verify', location.directory, '--public-key', join(directory, 'keys', 'evidence.pem.pub'));
    expect(pinned).toMatchObject({ code: 0, out: expect.stringMatching(/^intact, signed by the trusted key [0-9a-f]{16}/) });
    expect(pinned.out).toMatch(/refused-write window +at most 1\.00 s +210 ms +met/);
    expect(pinned.out).not.toContain('note:');

    expect(await holdfast('evidence', 'list', '--directory', join(directory, 'dr'))).toMatchObject({ code: 0, out: expect.stringContaining('intact, signed') });
    expect(await holdfast('evidence', 'show', location.id, '--directory', join(directory, 'dr'))).toMatchObject({ code: 0, out: expect.stringContaining('## Failback plan') });

    const report = join(location.directory, 'report.json');
    writeFileSync(report, readFileSync(report, 'utf8').replace('"measured":210', '"measured":110'));
    const changed = await holdfast('evidence', 'verify', location.directory, '--json');
    expect(changed.code).toBe(1);
    expect(JSON.parse(changed.out)).toMatchObject({ ok: false, problems: [expect.stringMatching(/^fact 1 \(measurements, report\.json line 3\) was changed/), expect.stringContaining('fact 1 (measurements, report.json line 3) is not the one that was signed: it was replaced'), expect.stringContaining('report.json was changed')] });
    expect(await holdfast('evidence', 'list', '--directory', join(directory, 'dr'))).toMatchObject({ code: 1, out: expect.stringContaining('NOT GOOD: fact 1') });
    expect((await holdfast('evidence', 'verify', join(directory, 'nowhere'))).code).toBe(3);
  });
});

/** A store on the suite's S3 server, as it stands in holdfast.yaml. */
function s3Store(bucket: string, more: object = {}): object {
  const { s3 } = suite();
  return { type: 's3', bucket, prefix: 'team', endpoint: s3.endpoint, region: s3.region, forcePathStyle: true, credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' }, ...more };
}

async function withS3<T>(run: (client: S3Client) => Promise<T>): Promise<T> {
  const { s3 } = suite();
  const client = new S3Client({ region: s3.region, endpoint: s3.endpoint, forcePathStyle: true, credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey } });
  try {
    return await run(client);
  } finally {
    client.destroy();
  }
}

const TRUST_NOBODY = { keys: [], revoked: [] };
const LOCKED = { objectLock: { mode: 'GOVERNANCE', retain: '1d' } };

describe('the copy in a store', () => {
  test('lies under object lock for as long as evidence is to be kept; deleting it is refused, and a version over it is found', async () => {
    const bucket = await testBucket({ objectLock: true });
    const context = await ownConfig({ stores: { locked: s3Store(bucket, LOCKED) }, evidence: { store: 'locked', retain: '30d' } });
    const { writeEvidence } = createEvidenceActivities(context);
    const location = await writeEvidence(INPUT);
    expect(location).toMatchObject({ problem: null, stored: expect.stringContaining(bucket) });
    const store = await openStore(context, 'locked');
    const name = location.directory.split('/').at(-1)!;
    const key = `team/evidence/${name}/report.json`;
    expect(await store.getText(key)).toBe(readFileSync(join(location.directory, 'report.json'), 'utf8'));
    // The store's own day is for backups; the chain's link is kept as long as the record.
    for (const object of [key, `team/evidence/${name}/signature.json`, 'team/evidence/chain/test/orders/00000001.json']) expect((await store.head(object))!.lockedUntilMs).toBeGreaterThan(Date.now() + 29 * 86_400_000);
    expect(await writeEvidence(INPUT)).toEqual(location);
    expect(await holdfast('evidence', 'verify', name, '--store', 'locked', '--config', context.configPath)).toMatchObject({ code: 0, out: expect.stringMatching(/under object lock until 20\d\d-/) });

    await withS3(async (client) => {
      const { VersionId } = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key }));
      await expect(client.send(new DeleteObjectCommand({ Bucket: bucket, Key: key, VersionId }))).rejects.toThrow(/WORM|locked|retention|AccessDenied|Access Denied/i);
      await expect(client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: 'other', IfNoneMatch: '*' }))).rejects.toThrow(/pre-?condition/i);
      // Without the condition a bucket takes another version over it; what was locked is not lost, and verification finds it.
      await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: 'other' }));
      const first = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key, VersionId }));
      expect(await first.Body!.transformToString()).toBe(readFileSync(join(location.directory, 'report.json'), 'utf8'));
    });
    const after = await surveyStore(context, 'locked', context.config.evidence.directory, TRUST_NOBODY);
    const [found] = after.records;
    expect(found!.verdict.problems.join('\n')).toMatch(/report\.json was changed[^]*report\.json was written over: an older version of/);
    await store.delete(key);
    expect((await surveyStore(context, 'locked', context.config.evidence.directory, TRUST_NOBODY)).records[0]!.verdict.problems.join('\n')).toMatch(/report\.json is missing[^]*report\.json was deleted at .*its versions are still in the bucket/);
  });

  test('other evidence under that name stays as it is; ours stays here, and somebody is told', async () => {
    const webhook = await startWebhook();
    process.env['HOLDFAST_TEST_EVIDENCE_WEBHOOK'] = webhook.url;
    try {
      const bucket = await testBucket();
      const overrides = { stores: { copies: s3Store(bucket) }, evidence: { store: 'copies' }, notify: { team: { type: 'slack', url: 'env:HOLDFAST_TEST_EVIDENCE_WEBHOOK' } } };
      const first = await createEvidenceActivities(await ownConfig(overrides)).writeEvidence(INPUT);
      const context = await ownConfig(overrides);
      const second = await createEvidenceActivities(context).writeEvidence({ ...INPUT, outcome: 'failed' });
      expect(second.stored).toBeNull();
      expect(second.problem).toMatch(/not in the chain of records.*NOT COPIED to store copies.*already holds other evidence/);
      expect(await holdfast('evidence', 'verify', second.directory)).toMatchObject({ code: 0 });
      const store = await openStore(context, 'copies');
      expect(await store.getText(`team/evidence/${first.directory.split('/').at(-1)}/report.json`)).toBe(readFileSync(join(first.directory, 'report.json'), 'utf8'));
      expect(JSON.stringify((await webhook.waitFor((message) => JSON.stringify(message.body).includes('Evidence needs attention'))).body)).toContain('NOT COPIED');
    } finally {
      await webhook.close();
    }
  });

  test('a store that does not answer keeps no record from being written; the copy is made as soon as it answers', async () => {
    const webhook = await startWebhook();
    process.env['HOLDFAST_TEST_EVIDENCE_WEBHOOK'] = webhook.url;
    const bucket = await testBucket();
    const proxy = await toxiproxy().proxy(uniqueName('evidence'), new URL(suite().s3.endpoint).host);
    try {
      const context = await ownConfig({ stores: { copies: s3Store(bucket, { endpoint: `http://${proxy.address}` }) }, evidence: { store: 'copies' }, notify: { team: { type: 'slack', url: 'env:HOLDFAST_TEST_EVIDENCE_WEBHOOK' } } });
      const { writeEvidence } = createEvidenceActivities(context);
      const before = await writeEvidence({ ...INPUT, runId: 'before' });
      expect(before.problem).toBeNull();
      await proxy.setEnabled(false);
      const location = await writeEvidence({ ...INPUT, runId: 'while-cut' });
      expect(location).toMatchObject({ stored: null, problem: expect.stringMatching(/not in the chain of records: .*NOT COPIED to store copies/) });
      expect(await holdfast('evidence', 'verify', location.directory)).toMatchObject({ code: 0 });
      expect((await holdfast('evidence', 'list', '--directory', context.config.evidence.directory)).out).toMatch(/intact, NOT SIGNED, NOT COPIED +2026.*\n.*intact, NOT SIGNED  +2026|intact, NOT SIGNED  +2026.*\n.*intact, NOT SIGNED, NOT COPIED +2026/);
      expect(readFileSync(join(location.directory, 'report.md'), 'utf8')).toMatch(/stands in no chain/i);
      await webhook.waitFor((message) => JSON.stringify(message.body).includes('NOT COPIED'));
      expect((await holdfast('evidence', 'push', '--config', context.configPath)).code).toBe(1);

      await proxy.setEnabled(true);
      // The record after it takes it along.
      const later = await writeEvidence({ ...INPUT, runId: 'after' });
      expect(later.problem).toBeNull();
      expect(await holdfast('evidence', 'push', '--config', context.configPath)).toMatchObject({ code: 0, out: expect.stringContaining('nothing waits') });
      const survey = await holdfast('evidence', 'verify', '--store', 'copies', '--config', context.configPath);
      expect(survey).toMatchObject({ code: 0, out: expect.stringContaining('3 records in') });
      for (const number of [1, 2]) expect(survey.out).toContain(`number ${number} of test/orders`);
      expect(survey.out).toMatch(/note: .*stands in no chain, so nobody would miss it: /);
    } finally {
      await proxy.delete();
      await webhook.close();
    }
  });

  test('many workers that write at once get numbers without gap and fork; a record taken away is missed', async () => {
    const bucket = await testBucket();
    const contexts = await Promise.all(Array.from({ length: 4 }, () => ownConfig({ stores: { copies: s3Store(bucket) }, evidence: { store: 'copies' } })));
    const locations = await Promise.all(Array.from({ length: 12 }, (_, n) => createEvidenceActivities(contexts[n % 4]!).writeEvidence({ ...INPUT, runId: `run-${n}` })));
    expect(locations.map((location) => location.problem)).toEqual(locations.map(() => null));
    const context = contexts[0]!;
    const look = () => surveyStore(context, 'copies', context.config.evidence.directory, TRUST_NOBODY);
    const whole = await look();
    expect(whole).toMatchObject({ problems: [], notes: [] });
    expect(whole.records.map(({ verdict }) => verdict.report!.header.position!.sequence).sort((a, b) => a - b)).toEqual(Array.from({ length: 12 }, (_, n) => n + 1));

    const store = await openStore(context, 'copies');
    const { folder } = whole.records.find(({ verdict }) => verdict.report!.header.position!.sequence === 5)!;
    for await (const { key } of store.list(`team/evidence/${folder}/`)) await store.delete(key);
    expect((await look()).problems.join('\n')).toContain(`number 5 (${folder}) is not there: the record was taken away`);
    await store.delete('team/evidence/chain/test/orders/00000005.json');
    expect((await look()).problems.join('\n')).toContain('number 5 is missing before 6: its link was taken away');
    // A host that wrote a record misses it too, also the newest one.
    const newest = whole.records.find(({ verdict }) => verdict.report!.header.position!.sequence === 12)!;
    for await (const { key } of store.list(`team/evidence/${newest.folder}/`)) await store.delete(key);
    await store.delete('team/evidence/chain/test/orders/00000012.json');
    const writer = contexts[locations.findIndex((location) => location.directory.endsWith(newest.folder)) % 4]!;
    expect((await surveyStore(writer, 'copies', writer.config.evidence.directory, TRUST_NOBODY)).problems.join('\n')).toContain(`${newest.folder} is on this host, but not in the store`);
    await store.put('team/evidence/chain/test/orders/00000013.json', 'rubbish');
    expect((await look()).problems.join('\n')).toContain('00000013.json');
    expect((await holdfast('evidence', 'verify', '--store', 'copies', '--config', context.configPath)).code).toBe(1);
  });

  test('another attempt of the same run keeps its number, also on another host', async () => {
    const bucket = await testBucket();
    const overrides = { stores: { copies: s3Store(bucket) }, evidence: { store: 'copies' } };
    const one = await createEvidenceActivities(await ownConfig(overrides)).writeEvidence(INPUT);
    const other = await createEvidenceActivities(await ownConfig(overrides)).writeEvidence(INPUT);
    expect(other).toMatchObject({ id: one.id, sha256: one.sha256, stored: one.stored, problem: null });
  });

  test('what leaked does not vouch, but for what the store took before', async () => {
    const { privatePem, publicBase64, keyId } = generateSigningKey();
    process.env['HOLDFAST_TEST_SIGNING_KEY'] = privatePem;
    const bucket = await testBucket();
    const evidence = { store: 'copies', signingKey: 'env:HOLDFAST_TEST_SIGNING_KEY', trustedKeys: [{ publicKey: publicBase64 }] };
    const context = await ownConfig({ stores: { copies: s3Store(bucket) }, evidence });
    const location = await createEvidenceActivities(context).writeEvidence(INPUT);
    const verify = (config: string, ...args: string[]) => holdfast('evidence', 'verify', ...args, '--config', config);
    expect(await verify(context.configPath, location.directory)).toMatchObject({ code: 0, out: expect.stringContaining(`signed by the trusted key ${keyId}`) });
    for (const [since, code] of [[new Date(Date.now() + 3_600_000), 0], [new Date(Date.now() - 3_600_000), 1]] as const) {
      const revoked = await ownConfig({ stores: { copies: s3Store(bucket) }, evidence: { ...evidence, revokedKeys: [{ keyId, since: `${since.toISOString().slice(0, 19)}Z`, reason: 'laptop stolen' }] } });
      expect(await verify(revoked.configPath, location.directory)).toMatchObject({ code: 1, out: expect.stringContaining('laptop stolen') });
      expect(await verify(revoked.configPath, location.directory.split('/').at(-1)!, '--store', 'copies')).toMatchObject({ code, out: expect.stringContaining('laptop stolen') });
    }
  });

  test('a key that cannot be read costs the signature, not the record, and is said in it', async () => {
    const context = await ownConfig({ evidence: { signingKey: 'env:HOLDFAST_TEST_NO_SUCH_KEY' } });
    const location = await createEvidenceActivities(context).writeEvidence(INPUT);
    expect(location).toMatchObject({ signed: false, problem: expect.stringMatching(/^NOT SIGNED: the signing key could not be used: .*HOLDFAST_TEST_NO_SUCH_KEY/) });
    for (const file of ['report.md', 'report.html']) expect(readFileSync(join(location.directory, file), 'utf8')).toMatch(/NOT SIGNED.*HOLDFAST_TEST_NO_SUCH_KEY/);
    expect(await createEvidenceActivities(context).writeEvidence(INPUT)).toEqual(location);
  });

  test('a folder store takes it too, and a folder alone has a chain of its own', async () => {
    const path = testDirectory('folder-store');
    const context = await ownConfig({ stores: { folder: { type: 'folder', path } }, evidence: { store: 'folder' } });
    const location = await createEvidenceActivities(context).writeEvidence({ ...INPUT, runId: '2' });
    expect(location.signed).toBe(false);
    const copy = join(path, 'evidence', location.directory.split('/').at(-1)!);
    expect(readdirSync(copy).toSorted()).toEqual(['facts.sha256', 'report.html', 'report.json', 'report.md', 'signature.json']);
    expect(await holdfast('evidence', 'verify', copy)).toMatchObject({ code: 0, out: expect.stringContaining('NOT SIGNED') });

    const alone = await ownConfig({});
    const written = await Promise.all(['3', '4', '5'].map((runId) => createEvidenceActivities(alone).writeEvidence({ ...INPUT, runId })));
    expect(written.map((one) => one.problem)).toEqual([null, null, null]);
    expect(await holdfast('evidence', 'verify', '--config', alone.configPath)).toMatchObject({ code: 0, out: expect.stringContaining('3 records in') });
    const second = written.find((one) => readFileSync(join(one.directory, 'report.json'), 'utf8').includes('"sequence":2'))!;
    rmSync(second.directory, { recursive: true });
    expect(await holdfast('evidence', 'verify', '--config', alone.configPath)).toMatchObject({ code: 1, out: expect.stringContaining('number 2 (') });
  });
});
