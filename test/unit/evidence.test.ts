import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { canonicalJson, evidenceFolder, judge, type EvidenceInput } from '../../src/model/evidence.ts';
import { renderTimeline } from '../../src/model/evidence-report.ts';
import { EVIDENCE_FILES, generateSigningKey, listEvidence, prepareEvidence, verifyEvidenceFolder, writeEvidenceFolder } from '../../src/systems/evidence-folder.ts';
import { registerSecret } from '../../src/systems/log.ts';

const KEY = generateSigningKey();
const INPUT: EvidenceInput = {
  kind: 'drill', subject: 'orders-db', service: 'orders', outcome: 'verified', title: 'Restore drill of orders-db', summary: 'The backup was restored & proved <exactly>.',
  workflowId: 'drill/orders-db/2026-11-21T03:00:00Z', runId: 'run-1', requestedBy: 'ana', reason: 'monthly',
  startedAt: '2026-11-21T03:00:00.000Z', finishedAt: '2026-11-21T03:01:00.000Z', planHash: null,
  measurements: [
    { name: 'RTO', unit: 'ms', objective: 900_000, measured: 42_000 },
    { name: 'RPO', unit: 'ms', objective: 1000, measured: 60_000 },
    { name: 'lost writes', unit: 'count', objective: 0, measured: null, note: 'no canary ran' },
  ],
  timeline: [
    { label: 'restore data', startMs: 1_000, endMs: 31_000, outcome: 'ok', group: 'Restore' },
    { label: 'checks', startMs: 31_000, endMs: 31_040, outcome: 'failed', group: 'Proof' },
  ],
  checks: [{ name: 'orders exist', ok: true, found: '7', expected: 'at least 1' }],
  facts: [{ at: '2026-11-21T03:00:05.000Z', kind: 'backup-chosen', data: { id: 'b1', rows: '12' } }],
};

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-evidence-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

async function written(name: string, input: EvidenceInput = INPUT): Promise<string> {
  return (await writeEvidenceFolder(join(root, name), prepareEvidence(input, 'test', KEY.privatePem))).directory;
}

describe('evidence folder', () => {
  test('is whole, verifies offline, and says whose key it was checked against', async () => {
    const directory = await written('whole');
    expect((await readdir(directory)).toSorted()).toEqual([...EVIDENCE_FILES].toSorted());
    expect(await readdir(join(root, 'whole'))).toEqual([evidenceFolder(INPUT, prepareEvidence(INPUT, 'test', undefined).id)]);

    const embedded = await verifyEvidenceFolder(directory);
    expect(embedded).toMatchObject({ ok: true, problems: [], keyId: KEY.keyId, authentic: false });
    expect(embedded.notes.join()).toContain('only against the key embedded');
    expect(embedded.report?.header).toMatchObject({ outcome: 'verified', environment: 'test', requestedBy: 'ana' });

    const pinned = await verifyEvidenceFolder(directory, KEY.publicPem);
    expect(pinned).toMatchObject({ ok: true, authentic: true, notes: [] });
    const other = await verifyEvidenceFolder(directory, generateSigningKey().publicPem);
    expect(other.ok).toBe(false);
    expect(other.problems.join()).toContain('not by the given key');
  });

  test('another attempt of the same run writes nothing new; other facts under the same name are refused', async () => {
    const directory = await written('retry');
    const before = await readFile(join(directory, 'signature.json'), 'utf8');
    expect(await written('retry')).toBe(directory);
    expect(await readFile(join(directory, 'signature.json'), 'utf8')).toBe(before);
    await expect(written('retry', { ...INPUT, outcome: 'bad' })).rejects.toThrow('never overwritten');
    expect(await readdir(join(root, 'retry'))).toHaveLength(1);
  });

  test('unsigned evidence says that it is, and is refused where a signature is asked for', async () => {
    const { directory: unsigned } = await writeEvidenceFolder(join(root, 'unsigned'), prepareEvidence(INPUT, 'test', undefined));
    const verdict = await verifyEvidenceFolder(unsigned);
    expect(verdict).toMatchObject({ ok: true, keyId: undefined, authentic: false });
    expect(verdict.notes.join()).toContain('NOT SIGNED');
    expect((await verifyEvidenceFolder(unsigned, KEY.publicPem)).ok).toBe(false);
  });

  test.each([['signed', KEY.privatePem], ['unsigned', undefined]])('every changed byte of every file is found and its file named (%s)', { timeout: 90_000 }, async (name, key) => {
    const { directory } = await writeEvidenceFolder(join(root, `bytes-${name}`), prepareEvidence(INPUT, 'test', key));
    let tried = 0;
    for (const file of EVIDENCE_FILES) {
      const path = join(directory, file);
      const original = await readFile(path);
      const step = file === 'report.html' ? 11 : name === 'signed' ? 1 : 3;
      for (let offset = 0; offset < original.length; offset += step) {
        const changed = Buffer.from(original);
        changed[offset] = original[offset]! ^ (1 << (offset % 7));
        await writeFile(path, changed);
        const verdict = await verifyEvidenceFolder(directory, key === undefined ? undefined : KEY.publicPem);
        tried += 1;
        if (verdict.ok) throw new Error(`${file} byte ${offset} was changed and not found`);
        if (!verdict.problems.some((problem) => problem.includes(file))) throw new Error(`${file} byte ${offset} was changed, but only this was said: ${verdict.problems.join('; ')}`);
        if (file === 'report.json') {
          const line = original.subarray(0, offset).toString('utf8').split('\n').length;
          const lines = original.toString('utf8').split('\n').length;
          const isFact = line >= 2 && line <= lines - 2;
          if (isFact && original[offset] !== 0x0a && !verdict.problems.some((problem) => problem.startsWith(`fact ${line - 2} `))) {
            throw new Error(`fact ${line - 2} was changed at byte ${offset}, but this was said: ${verdict.problems.join('; ')}`);
          }
        }
      }
      await writeFile(path, original);
    }
    expect(tried).toBeGreaterThan(name === 'signed' ? 4000 : 1500);
    expect((await verifyEvidenceFolder(directory)).ok).toBe(true);
  });

  test('a fact that was rewritten with all hashes after it, a removed fact and a missing file are found', async () => {
    const directory = await written('rewritten');
    const forged = prepareEvidence({ ...INPUT, outcome: 'verified by nobody' }, 'test', undefined);
    await writeFile(join(directory, 'report.json'), forged.files['report.json']);
    expect((await verifyEvidenceFolder(directory)).problems).toEqual([expect.stringContaining('report.json was changed')]);

    const lines = prepareEvidence(INPUT, 'test', KEY.privatePem).files['report.json'].split('\n');
    await writeFile(join(directory, 'report.json'), [...lines.slice(0, 3), ...lines.slice(4)].join('\n'));
    expect((await verifyEvidenceFolder(directory)).problems.join('\n')).toMatch(/fact 2 \(checks.*says it is fact 3/);

    await rm(join(directory, 'report.md'));
    expect((await verifyEvidenceFolder(directory)).problems).toContain('report.md is missing');
  });

  test('openssl alone checks the signature over what sha256sum prints', async () => {
    const directory = await written('openssl');
    const signature = JSON.parse(await readFile(join(directory, 'signature.json'), 'utf8')) as { signature: string; publicKey: string };
    await writeFile(join(root, 'signature.bin'), Buffer.from(signature.signature, 'base64'));
    await writeFile(join(root, 'public.pem'), signature.publicKey);
    const sums = spawnSync('sha256sum', ['report.html', 'report.json', 'report.md'], { cwd: directory, encoding: 'utf8' });
    await writeFile(join(root, 'sums'), sums.stdout);
    const checked = spawnSync('openssl', ['pkeyutl', '-verify', '-rawin', '-pubin', '-inkey', join(root, 'public.pem'), '-sigfile', join(root, 'signature.bin'), '-in', join(root, 'sums')], { encoding: 'utf8' });
    expect(checked.stdout + checked.stderr).toContain('Signature Verified Successfully');
  });

  test('secrets never reach any file', async () => {
    registerSecret('hunter2-evidence-secret');
    const directory = await written('secret', { ...INPUT, runId: 'run-secret', reason: 'it said hunter2-evidence-secret', facts: [{ at: INPUT.startedAt, kind: 'x', data: { deep: ['postgres://u:hunter2-evidence-secret@h/db'] } }] });
    for (const file of EVIDENCE_FILES) expect(await readFile(join(directory, file), 'utf8')).not.toContain('hunter2');
    expect((await verifyEvidenceFolder(directory)).ok).toBe(true);
  });

  test('the reports say in words what was missed and why something was not measured', async () => {
    const { files } = prepareEvidence(INPUT, 'test', undefined);
    for (const name of ['report.md', 'report.html'] as const) {
      expect(files[name]).toContain('MISSED');
      expect(files[name]).toContain('not measured: no canary ran');
      expect(files[name]).toContain('at most 15m 00s');
    }
    expect(files['report.html']).toContain('&lt;exactly&gt;');
    expect(files['report.html']).not.toMatch(/<(script|link|img)|https?:\/\//);
    expect(files['report.html']).toContain('FAILED');
  });

  test('the listing verifies each folder and shows the newest first', async () => {
    await written('list', { ...INPUT, runId: 'old', startedAt: '2026-10-01T00:00:00.000Z' });
    const changed = await written('list', { ...INPUT, runId: 'new' });
    await writeFile(join(changed, 'report.md'), 'nothing to see');
    const listed = await listEvidence(join(root, 'list'));
    expect(listed.map((entry) => [entry.startedAt, entry.ok])).toEqual([['2026-11-21T03:00:00.000Z', false], ['2026-10-01T00:00:00.000Z', true]]);
    expect(listed[0]!.problem).toContain('report.md was changed');
    expect(await listEvidence(join(root, 'nowhere'))).toEqual([]);
  });
});

test('canonical JSON is one text for one value', () => {
  expect(canonicalJson({ b: [1, undefined, { z: null, a: 'é"' }], a: 1.5, c: undefined })).toBe('{"a":1.5,"b":[1,null,{"a":"é\\"","z":null}]}');
  expect(() => canonicalJson({ a: Number.NaN })).toThrow('no form in JSON');
  expect(() => canonicalJson(1n)).toThrow('no form in JSON');
});

test('an objective is met by an equal figure and never by an unmeasured one', () => {
  expect(judge({ name: 'x', unit: 'ms', objective: 5, measured: 5 })).toBe('met');
  expect(judge({ name: 'x', unit: 'ms', objective: 5, measured: 6 })).toBe('MISSED');
  expect(judge({ name: 'x', unit: 'ms', objective: 5, measured: null })).toBe('not measured');
  expect(judge({ name: 'x', unit: 'ms', objective: null, measured: 6 })).toBe('no objective');
});

test('an empty timeline and one of no duration can be drawn', () => {
  expect(renderTimeline([])).toContain('No steps');
  expect(renderTimeline([{ label: 'a', startMs: 5, endMs: 5, outcome: 'ok' }])).not.toContain('NaN');
});
