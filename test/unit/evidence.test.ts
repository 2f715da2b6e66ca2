import { spawnSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { createPrivateKey } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkChains, type ChainLink } from '../../src/model/evidence-chain.ts';
import { REPORT_LAYOUT, canonicalJson, chainFacts, evidenceFolder, judge, serialiseReport, type EvidenceInput, type Fact } from '../../src/model/evidence.ts';
import { renderTimeline } from '../../src/model/evidence-plot.ts';
import { listEvidence, listPending, markPending, prepareEvidence, verifyEvidenceFolder, writeEvidenceFolder } from '../../src/systems/evidence-folder.ts';
import { generateSigningKey, readPublicKey, readSigningKey, trustOnly, trustedKey, type Trust } from '../../src/systems/evidence-keys.ts';
import { pushPending } from '../../src/systems/evidence-store.ts';
import { EVIDENCE_FILES, sha256Hex, verifyEvidence } from '../../src/systems/evidence-verify.ts';
import type { Context } from '../../src/systems/context.ts';
import { registerSecret } from '../../src/systems/log.ts';

const KEY = generateSigningKey();
const TRUSTED = trustOnly(KEY.publicPem);
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
  facts: [{ at: '2026-11-21T03:00:05.000Z', kind: 'backup-chosen', data: { rows: '12', id: 'b1' } }],
};

const LAYOUT = { layout: 2, html: '55f683a19de3faa66d020d7212f1a2779b04f7dc235df52e99777771c8b57708', md: '78434318c98cfcf793eb5ad30b367e15d934392085f4b019448b528a60ea337c' };

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

    const pinned = await verifyEvidenceFolder(directory, TRUSTED);
    expect(pinned).toMatchObject({ ok: true, authentic: true, notes: [] });
    const other = await verifyEvidenceFolder(directory, trustOnly(generateSigningKey().publicPem));
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
    expect((await verifyEvidenceFolder(unsigned, TRUSTED)).ok).toBe(false);
  });

  test.each([['signed', KEY.privatePem], ['unsigned', undefined]])('every changed byte of every file is found and its file named, in report.json its fact (%s)', { timeout: 90_000 }, (_, key) => {
    const { files } = prepareEvidence(INPUT, 'test', key);
    const contents: Record<string, Buffer> = Object.fromEntries(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)]));
    const options = key === undefined ? {} : { trust: TRUSTED };
    let tried = 0;
    for (const file of EVIDENCE_FILES) {
      const original = contents[file]!;
      for (let offset = 0; offset < original.length; offset += file === 'report.html' ? 3 : 1) {
        const changed = Buffer.from(original);
        changed[offset] = original[offset]! ^ (1 << (offset % 8));
        const { ok, problems } = verifyEvidence({ ...contents, [file]: changed }, [], options);
        tried += 1;
        if (ok) throw new Error(`${file} byte ${offset} was changed and not found`);
        if (!problems.some((problem) => problem.includes(file))) throw new Error(`${file} byte ${offset} was changed, but only this was said: ${problems.join('; ')}`);
        // The readable reports can be made anew from the facts, so the very byte is known.
        if (file !== 'report.json' && file !== 'signature.json' && !problems.some((problem) => problem.includes(`first at byte ${offset} `))) throw new Error(`${file} byte ${offset} was changed, but this was said: ${problems.join('; ')}`);
        if (file === 'report.json') {
          const line = original.subarray(0, offset).toString('latin1').split('\n').length;
          const lines = original.toString('latin1').split('\n').length;
          const isFact = line >= 2 && line <= lines - 2;
          if (isFact && original[offset] !== 0x0a && !problems.some((problem) => problem.startsWith(`fact ${line - 2} `))) throw new Error(`fact ${line - 2} was changed at byte ${offset}, but this was said: ${problems.join('; ')}`);
        }
      }
      for (const [how, changed] of [['cut short', original.subarray(0, -1)], ['longer', Buffer.concat([original, Buffer.from('\n')])], ['empty', Buffer.alloc(0)]] as const) {
        const { problems } = verifyEvidence({ ...contents, [file]: changed }, [], options);
        if (!problems.some((problem) => problem.includes(file))) throw new Error(`${file} was ${how}, but this was said: ${problems.join('; ')}`);
      }
    }
    expect(tried).toBeGreaterThan(6000);
    expect(verifyEvidence(contents, [], options)).toMatchObject({ ok: true, problems: [] });
  });

  test('a missing file, an added one, a link and a folder in its place are found', async () => {
    const directory = await written('files');
    await writeFile(join(directory, 'REPORT.md'), 'read me instead');
    await mkdir(join(directory, 'annex'));
    expect((await verifyEvidenceFolder(directory, TRUSTED)).problems).toEqual([expect.stringMatching(/^REPORT\.md is not part of the evidence/), expect.stringMatching(/^annex is not part of the evidence/)]);
    await rm(join(directory, 'REPORT.md'));
    await rm(join(directory, 'annex'), { recursive: true });
    for (const name of EVIDENCE_FILES) {
      const elsewhere = join(root, `elsewhere-${name}`);
      await rename(join(directory, name), elsewhere);
      expect((await verifyEvidenceFolder(directory)).problems).toContain(`${name} is missing`);
      await symlink(elsewhere, join(directory, name));
      expect((await verifyEvidenceFolder(directory)).problems.join()).toContain(`${name} (a link or device) is not part of the evidence`);
      await rm(join(directory, name));
      await mkdir(join(directory, name));
      expect((await verifyEvidenceFolder(directory)).ok).toBe(false);
      await rm(join(directory, name), { recursive: true });
      await rename(elsewhere, join(directory, name));
    }
    expect((await verifyEvidenceFolder(directory, TRUSTED)).ok).toBe(true);
    await truncate(join(directory, 'report.html'), 65 * 1024 * 1024);
    await expect(verifyEvidenceFolder(directory)).rejects.toMatchObject({ code: 'evidence-size' });
  });
  test('openssl alone checks the signature over what sha256sum prints', async () => {
    const directory = await written('openssl');
    const signature = JSON.parse(await readFile(join(directory, 'signature.json'), 'utf8')) as { signature: string; publicKey: string };
    await writeFile(join(root, 'signature.bin'), Buffer.from(signature.signature, 'base64'));
    await writeFile(join(root, 'public.pem'), signature.publicKey);
    const sums = spawnSync('sha256sum', ['facts.sha256', 'report.html', 'report.json', 'report.md'], { cwd: directory, encoding: 'utf8' });
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
    expect(listed[0]!.problem).toContain('report.md');
    expect(await listEvidence(join(root, 'nowhere'))).toEqual([]);
  });
});

/** The files of a record with report.json rewritten by `change`, every hash of the chain made anew: what an attacker without the key can do. */
function forge(files: Readonly<Record<string, string>>, change: (facts: Fact[]) => Fact[]): Record<string, Buffer> {
  const facts = chainFacts(change((JSON.parse(files['report.json']!) as { facts: Fact[] }).facts), sha256Hex);
  return Object.fromEntries(Object.entries(files).map(([name, content]) => [name, Buffer.from(name === 'report.json' ? serialiseReport(facts) : content)]));
}

describe('an attacker without the key', () => {
  const { files } = prepareEvidence({ ...INPUT, facts: Array.from({ length: 4 }, (_, n) => ({ at: INPUT.startedAt, kind: 'step', data: { n } })) }, 'test', KEY.privatePem);
  const buffers = Object.fromEntries(Object.entries(files).map(([name, content]) => [name, Buffer.from(content)]));
  const problemsOf = (contents: Record<string, Buffer>, trust: Trust = TRUSTED): string[] => [...verifyEvidence(contents, [], { trust }).problems];
  const replace = (name: string, text: string): Record<string, Buffer> => ({ ...buffers, [name]: Buffer.from(text) });

  test('nothing is found in what was written', () => {
    expect(problemsOf(buffers)).toEqual([]);
  });

  test('a fact replaced together with all hashes after it is named', () => {
    const forged = forge(files, (facts) => facts.map((fact) => (fact.index === 7 ? { ...fact, data: { n: 99 } } : fact)));
    expect(problemsOf(forged)).toEqual([
      expect.stringMatching(/^fact 7 \(step, report\.json line 9\) is not the one that was signed: it was replaced/),
      // What follows carries its hash.
      expect.stringContaining('fact 8 '), expect.stringContaining('fact 9 '),
      expect.stringMatching(/^report\.json was changed/),
    ]);
  });

  test('facts that are swapped, removed, added or cut off are named, however well the chain was made anew', () => {
    const swapped = forge(files, (facts) => facts.map((fact) => (fact.index === 6 ? facts[8]! : fact.index === 8 ? facts[6]! : fact)));
    expect(problemsOf(swapped)[0]).toMatch(/^fact 6 .*is not the one that was signed/);
    // Without making the chain anew, swapped lines say which facts they are.
    const lines = files['report.json'].split('\n');
    const plain = [...lines];
    [plain[7], plain[8]] = [plain[8]!, plain[7]!];
    expect(problemsOf(replace('report.json', plain.join('\n'))).join('\n')).toMatch(/fact 6 .* says it is fact 7.*\n.*fact 6 .*does not follow.*\n.*it is fact 7, moved here/);
    expect(problemsOf(forge(files, (facts) => facts.filter((fact) => fact.index !== 7)))[0]).toMatch(/^fact 7 .*it was replaced/);
    expect(problemsOf(forge(files, (facts) => [...facts, { ...facts[8]!, data: 'more' }])).join('\n')).toMatch(/fact 10 .*it was added/);
    expect(problemsOf(forge(files, (facts) => facts.slice(0, -1)))).toContain('fact 9 cut off: 10 facts were signed, report.json holds 9');
    expect(problemsOf(forge(files, (facts) => facts.slice(0, -3)))).toContain('fact 7 to 9 cut off: 10 facts were signed, report.json holds 7');
    const cut = [...lines.slice(0, 9).with(8, lines[8]!.replace(/,$/, '')), ...lines.slice(-2)].join('\n');
    expect(problemsOf(replace('report.json', cut))).toContain('fact 8 to 9 cut off: 10 facts were signed, report.json holds 8');
    expect(problemsOf({ ...buffers, 'facts.sha256': Buffer.from(files['facts.sha256'].split('\n').slice(0, -2).join('\n') + '\n') }).join('\n')).toMatch(/facts\.sha256 was changed.*first at byte \d+ \(line 10\)/);
  });

  test('another text of the same JSON is another text', () => {
    const [header, fact, ...rest] = files['report.json'].split('\n');
    const change = (line: string): string => [header, line, ...rest].join('\n');
    for (const text of [
      change(fact!.replace('{"at":', '{ "at":')),
      change(fact!.replace('"kind":"header"', '"kind":"header","kind":"header"')),
      change(fact!.replace('"header"', '"\\u0068eader"')),
      change(fact!.replace('"index":0', '"index":0.0')),
      change(fact!.replace('"index":0', '"index":-0')),
      change(`${fact!} `),
      `\uFEFF${files['report.json']}`,
      files['report.json'].replaceAll('\n', '\r\n'),
      `${files['report.json']}\n`,
      files['report.json'].slice(0, -1),
      files['report.json'].replace('{"format":2', '{"format":1'),
    ]) expect(problemsOf(replace('report.json', text)).length).toBeGreaterThan(0);
    for (const text of [files['signature.json'].replace('"format": 2', '"format":2'), files['signature.json'].replace('"format": 2,', '"format": 2, "format": 2,'), ` ${files['signature.json']}`, `${files['signature.json']}\n`, files['signature.json'].replace('ed25519', '\\u0065d25519')]) {
      expect(problemsOf(replace('signature.json', text))[0]).toMatch(/^signature\.json was changed: it is not in the form in which it was written, first at byte \d+/);
    }
    // An encoding of base64 with other padding bits decodes to the same bytes.
    const signature = (JSON.parse(files['signature.json']) as { signature: string }).signature;
    expect(signature.endsWith('==')).toBe(true);
    const twin = signature.slice(0, -3) + String.fromCharCode(signature.charCodeAt(signature.length - 3) + 1) + '==';
    expect(Buffer.from(twin, 'base64').equals(Buffer.from(signature, 'base64'))).toBe(true);
    expect(problemsOf(replace('signature.json', files['signature.json'].replace(signature, twin)))).toEqual([expect.stringContaining('the signature does not hold')]);
  });

  test('a page that says other things than the facts is found, also where nobody signed', () => {
    const unsigned = prepareEvidence(INPUT, 'test', undefined);
    for (const name of ['report.html', 'report.md', 'facts.sha256'] as const) {
      const lie = unsigned.files[name].replace(/MISSED|42\.00 s|[0-9a-f]{64}/, (found) => 'x'.repeat(found.length));
      const contents = Object.fromEntries(Object.entries({ ...unsigned.files, [name]: lie, 'signature.json': unsigned.files['signature.json'].replace(sha256Hex(unsigned.files[name]), sha256Hex(lie)) }).map(([file, text]) => [file, Buffer.from(text)]));
      expect(verifyEvidence(contents, []).problems.join('\n')).toContain(name === 'facts.sha256' ? 'fact 0 (header, report.json line 2) is not the one that was signed' : `${name} does not say what the facts of report.json say; first at byte`);
    }
  });

  test('a signature that was taken away, or another one, is found by whoever knows the key', () => {
    const stripped = prepareEvidence(INPUT, 'test', undefined).files['signature.json'];
    expect(problemsOf(replace('signature.json', stripped)).join('\n')).toMatch(/says that the record was signed by [0-9a-f]{16}, but it is not signed/);
    const other = generateSigningKey();
    const forged = prepareEvidence({ ...INPUT, outcome: 'all well' }, 'test', other.privatePem);
    const contents = Object.fromEntries(Object.entries(forged.files).map(([name, text]) => [name, Buffer.from(text)]));
    expect(verifyEvidence(contents, [], { trust: TRUSTED })).toMatchObject({ ok: false, authentic: false, problems: [expect.stringContaining(`signed by key ${other.keyId}, not by the given key ${KEY.keyId}`)] });
    // With no key that is trusted it cannot be known, and is said.
    expect(verifyEvidence(contents, [])).toMatchObject({ ok: true, authentic: false, notes: [expect.stringContaining('only against the key embedded')] });
    // The other key's document over our own reports.
    expect(problemsOf({ ...buffers, 'signature.json': contents['signature.json']! }, { keys: [], revoked: [] }).join('\n')).toMatch(/signed by [0-9a-f]{16}, but it is signed by/);
    const doctored = files['signature.json'].replace(/"signature": "[^"]+"/, `"signature": "${Buffer.alloc(64).toString('base64')}"`);
    expect(problemsOf(replace('signature.json', doctored))).toEqual(['signature.json: the signature does not hold for the hashes it names, so they or it were changed']);
  });

  test('an old record under a new name is found; a copy under a name of no record is said', async () => {
    const directory = await written('replay');
    const newer = join(dirname(directory), basename(directory).replace('2026-11-21', '2026-12-21'));
    await cp(directory, newer, { recursive: true });
    expect((await verifyEvidenceFolder(newer, TRUSTED)).problems).toEqual([expect.stringMatching(/an old record was put under a new name/)]);
    await cp(directory, join(root, 'for-the-auditor'), { recursive: true });
    expect(await verifyEvidenceFolder(join(root, 'for-the-auditor'), TRUSTED)).toMatchObject({ ok: true, notes: [expect.stringContaining("the record's own name is 2026-11-21-orders-drill-")] });
    const lying = forge(files, (facts) => facts.map((fact) => (fact.index === 0 ? { ...fact, data: { ...(fact.data as object), id: '0123456789' } } : fact)));
    delete lying['facts.sha256'];
    expect(problemsOf(lying).join('\n')).toContain('id "0123456789" is not that of run "run-1"');
  });
});

describe('keys', () => {
  const contents = Object.fromEntries(Object.entries(prepareEvidence(INPUT, 'test', KEY.privatePem).files).map(([name, text]) => [name, Buffer.from(text)]));
  const verdict = (trust: Trust, storedAtMs?: number) => verifyEvidence(contents, [], { trust, ...(storedAtMs === undefined ? {} : { storedAtMs }) });

  test('keys of the past stay trusted for their time', () => {
    const [old, now] = [trustedKey(KEY.publicBase64, 'evidence.trustedKeys'), trustedKey(generateSigningKey().publicBase64, 'evidence.trustedKeys')];
    expect(verdict({ keys: [now, old], revoked: [] })).toMatchObject({ ok: true, authentic: true });
    expect(verdict({ keys: [now], revoked: [] })).toMatchObject({ ok: false, authentic: false });
    expect(verdict({ keys: [now, { ...old, validUntilMs: Date.parse('2026-11-21T03:00:59Z') }], revoked: [] }).problems).toEqual([expect.stringContaining('is trusted until 2026-11-21T03:00:59.000Z, the record says it ended at 2026-11-21T03:01:00.000Z')]);
    expect(verdict({ keys: [{ ...old, validFromMs: Date.parse('2026-11-22') }], revoked: [] }).problems).toEqual([expect.stringContaining('is trusted from 2026-11-22')]);
  });

  test('a key that leaked vouches for nothing, but for what a store took before', () => {
    const trust: Trust = { ...TRUSTED, revoked: [{ keyId: KEY.keyId, sinceMs: Date.parse('2026-12-01'), reason: 'laptop stolen' }] };
    expect(verdict(trust).problems).toEqual([expect.stringMatching(/is revoked since 2026-12-01.*laptop stolen.*cannot be told from a forged one/)]);
    expect(verdict(trust, Date.parse('2026-11-22'))).toMatchObject({ ok: true, notes: [expect.stringContaining('the store took this record before')] });
    expect(verdict(trust, Date.parse('2026-12-02')).ok).toBe(false);
    expect(verdict({ ...trust, keys: [] }).ok).toBe(false);
  });

  test('what is no Ed25519 key is refused by name', () => {
    for (const text of ['', 'rubbish', KEY.privatePem, '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n']) expect(() => readPublicKey(text)).toThrow(expect.objectContaining({ code: 'public-key' }));
    for (const text of ['', 'rubbish', KEY.publicPem]) expect(() => readSigningKey(text)).toThrow(expect.objectContaining({ code: 'signing-key' }));
    expect(createPrivateKey(KEY.privatePem).asymmetricKeyType).toBe('ed25519');
  });
});

describe('format 1', () => {
  const FIXTURE = join(import.meta.dirname, '..', 'fixtures', 'evidence-format-1');

  test('records written before facts.sha256 still verify, and a change in them is still found', async () => {
    const trust = trustOnly(await readFile(join(FIXTURE, 'evidence.pem.pub'), 'utf8'));
    const name = '2026-11-21-orders-drill-de8f4e4efd';
    expect(await verifyEvidenceFolder(join(FIXTURE, name), trust)).toMatchObject({ ok: true, authentic: true, notes: [], report: { header: { outcome: 'verified' }, facts: [{ kind: 'backup-chosen' }] } });
    const directory = join(root, name);
    await cp(join(FIXTURE, name), directory, { recursive: true });
    const report = await readFile(join(directory, 'report.json'), 'utf8');
    await writeFile(join(directory, 'report.json'), report.replace('"measured":42000', '"measured":41000'));
    expect((await verifyEvidenceFolder(directory, trust)).problems).toEqual([expect.stringMatching(/^fact 1 \(measurements, report\.json line 3\) was changed/), expect.stringContaining('report.json was changed')]);
  });
});

describe('the chain across records', () => {
  const link = (sequence: number, more: Partial<ChainLink> = {}): ChainLink => ({
    format: 1, chain: 'test/orders', sequence, id: `id${sequence}`, folder: `r${sequence}`, sha256: `s${sequence}`, previous: sequence === 1 ? null : { id: `id${sequence - 1}`, sha256: `s${sequence - 1}` }, ...more,
  });
  const record = (sequence: number, more: object = {}) => ({ folder: `r${sequence}`, sha256: `s${sequence}`, position: { chain: 'test/orders', sequence, previous: link(sequence).previous }, unchained: null, ...more });
  const links = [1, 2, 3].map((n) => link(n));
  const records = [1, 2, 3].map((n) => record(n));

  test('whole', () => {
    expect(checkChains(links, records)).toEqual({ problems: [], notes: [] });
  });

  test.each<[string, ChainLink[], ReturnType<typeof record>[], RegExp]>([
    ['a record taken away', links, records.toSpliced(1, 1), /number 2 \(r2\) is not there/],
    ['a record and its link taken away', links.toSpliced(1, 1), records.toSpliced(1, 1), /number 2 is missing before 3/],
    ['the first taken away', links.slice(2), records.slice(2), /number 1 to 2 is missing before 3/],
    ['a link taken away', links.toSpliced(2, 1), records, /r3 says it is number 3 of chain test\/orders, but that is not there/],
    ['a record replaced', links, records.with(1, record(2, { sha256: 'other' })), /is not the record that took this place/],
    ['a record and its link replaced', links.with(1, link(2, { sha256: 'other' })), records.with(1, record(2, { sha256: 'other' })), /number 3 \(r3\) does not follow number 2/],
    ['a link that says another before', links.with(1, link(2, { previous: { id: 'x', sha256: 'y' } })), records, /number 2 \(r2\) does not follow number 1/],
    ['a link with a number beyond reason', [...links, link(Number.MAX_SAFE_INTEGER)], records, /is missing before 9007199254740991/],
  ])('%s is found', (_, changedLinks, changedRecords, expected) => {
    expect(checkChains(changedLinks, changedRecords).problems.join('\n')).toMatch(expected);
  });

  test('a record without a place is said', () => {
    const { problems, notes } = checkChains(links, [...records, { folder: 'r9', sha256: 's9', position: null, unchained: 'the store did not answer' }]);
    expect(problems).toEqual([]);
    expect(notes).toEqual(['r9 stands in no chain, so nobody would miss it: the store did not answer']);
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

describe('the readable reports', () => {
  const full: EvidenceInput = {
    ...INPUT,
    marks: [{ kind: 'window', label: 'writes were refused', atMs: 31_000, endMs: 31_040 }, { kind: 'no-return', label: 'point of no return', atMs: 31_010 }, { kind: 'objective', label: 'objective RTO', atMs: 900_000 }],
    cautions: ['readiness was degraded: the last drill is 41 days old'],
    checks: [...INPUT.checks, { name: 'drill is fresh', ok: true, found: '41 days', expected: 'at most 35', rule: 'backup-age', overridden: 'ben: disk is dying' }, { name: 'streams', ok: false, found: 'no', expected: 'yes' }],
    facts: [
      { at: INPUT.startedAt, kind: 'decision', data: { action: 'markDone', step: 'rollout', by: 'cem', reason: 'by hand', evidence: 'kubectl says 12 of 12' } },
      { at: INPUT.startedAt, kind: 'decision', data: { action: 'skip', step: 'dns', by: 'cem', reason: 'no zone' } },
      { at: INPUT.startedAt, kind: 'step', data: { id: 'verify', tainted: 'dns was skipped' } },
      { at: INPUT.startedAt, kind: 'override', data: { rule: 'cooldown', by: 'ben', reason: 'urgent' } },
      { at: INPUT.startedAt, kind: 'refusal', data: { action: 'retry', why: 'stale' } },
    ],
  };

  test('say first what must be known before the figures are believed', () => {
    const { files } = prepareEvidence(full, 'test', undefined, { position: null, unchained: 'the store did not answer', unsigned: 'no signing key is configured' });
    for (const name of ['report.md', 'report.html'] as const) {
      const text = files[name];
      const [first, rest] = [text.slice(text.indexOf('Read this first'), text.indexOf('Objective against measured')), text.slice(text.indexOf('Objective against measured'))];
      for (const words of ['NOT SIGNED: no signing key is configured', 'Objective MISSED: RPO, 1m 00s (at most 1.00 s)', 'NOT MEASURED although there is an objective: lost writes: no canary ran', 'OVERRIDDEN: the rule backup-age was broken on purpose by ben: disk is dying', '1 of 3 checks DO NOT HOLD: streams', 'DECLARED BY HAND: step rollout was said to be done by cem: by hand (shown by: kubectl says 12 of 12)', 'SKIPPED BY HAND: step dns', 'TAINTED: what step verify gives was found by nobody: dns was skipped', 'The rule cooldown was allowed to be broken by ben: urgent. No check needed it', 'readiness was degraded', '1 request of operators was refused', 'stands in no chain: the store did not answer']) {
        expect(first).toContain(words);
      }
      expect(rest).toContain('OVERRIDDEN by ben: disk is dying');
    }
    expect(prepareEvidence({ ...INPUT, measurements: [] }, 'test', KEY.privatePem, { position: { chain: 'test/orders', sequence: 1, previous: null }, unchained: null, unsigned: null }).files['report.md']).not.toContain('Read this first');
  });

  test('what people wrote is text, never markup', () => {
    const nasty = '<img src=x onerror=alert(1)> [link](http://x) | `code` \n# heading';
    const { files } = prepareEvidence({ ...full, title: nasty, summary: nasty, reason: nasty, cautions: [nasty], timeline: [{ label: nasty, detail: nasty, group: nasty, startMs: 0, endMs: 1, outcome: nasty }], marks: [{ kind: 'moment', label: nasty, atMs: 0 }], checks: [{ name: nasty, ok: false, found: nasty, expected: nasty, overridden: nasty }] }, 'test', undefined);
    expect(files['report.html']).not.toContain('<img');
    expect(files['report.md']).not.toMatch(/<img|[^\\]\[link|\n# heading/);
  });

  test('a short window is drawn once more, enlarged, with what was near the point of no return', () => {
    const svg = renderTimeline([{ label: 'long', startMs: 0, endMs: 2_400_000, outcome: 'changed' }, { label: 'promote', startMs: 2_000_000, endMs: 2_000_003, outcome: 'changed' }], [
      { kind: 'window', label: 'writes were refused', atMs: 1_999_900, endMs: 2_000_100 }, { kind: 'no-return', label: 'point of no return', atMs: 2_000_000 }, { kind: 'objective', label: 'objective', atMs: 1e9 },
    ]);
    expect(svg).toContain('Enlarged: writes were refused (A), 200 ms');
    expect(svg.match(/<svg viewBox="0 0 720/g)).toHaveLength(2);
    expect(svg).toContain('from 33:19.900 to 33:20.100, 200 ms');
    expect(svg).toContain('(outside the drawing)');
    // 3 ms of 40 minutes are still there to be seen, and 3 of 280 ms have their width.
    const widths = [...svg.matchAll(/<rect x="[\d.]+" y="\d+" width="([\d.]+)" height="14"/g)].map((found) => Number(found[1]));
    expect(Math.min(...widths)).toBeGreaterThanOrEqual(2);
    expect(widths.some((width) => width > 3.5 && width < 4.5)).toBe(true);
  });

  test('many steps with long names come in pieces that fit a page, and no text is beyond its edge', () => {
    const timeline = Array.from({ length: 40 }, (_, n) => ({ label: `restore-the-partitioned-orders-table-of-region-${n}-and-wait-until-its-replica-follows-again`, detail: 'postgres.restore', startMs: n * 60_000, endMs: n * 60_000 + [3, 40, 1200, 59_000, 2_400_000][n % 5]!, outcome: 'already-satisfied' }));
    const svg = renderTimeline(timeline);
    const heights = [...svg.matchAll(/viewBox="0 0 720 ([\d.]+)"/g)].map((found) => Number(found[1]));
    expect(heights.length).toBeGreaterThan(5);
    // A4 with its margins is 182 x 269 mm.
    for (const height of heights) expect((height * 182) / 720).toBeLessThan(130);
    for (const [, x, width] of svg.matchAll(/<rect x="([\d.]+)" y="\d+" width="([\d.]+)" height="14"/g)) expect(Number(x) + Number(width)).toBeLessThanOrEqual(563);
  });

  test('who changes how the reports come out says so: REPORT_LAYOUT grows, and these with it', () => {
    // Verification makes the pages anew and compares: pages of another layout must not look changed.
    const { files } = prepareEvidence(full, 'test', undefined);
    expect({ layout: REPORT_LAYOUT, html: sha256Hex(files['report.html']), md: sha256Hex(files['report.md']) }).toEqual(LAYOUT);
  });
});

test('an empty timeline and one of no duration can be drawn', () => {
  expect(renderTimeline([])).toContain('No steps');
  expect(renderTimeline([{ label: 'a', startMs: 5, endMs: 5, outcome: 'ok' }])).not.toContain('NaN');
});

test('a record that was changed keeps no other from its copy', async () => {
  const directory = join(root, 'left-here');
  const changed = await written('left-here', { ...INPUT, runId: 'run-1', startedAt: '2026-11-20T03:00:00.000Z' });
  const whole = await written('left-here', { ...INPUT, runId: 'run-2' });
  for (const path of [changed, whole]) await markPending(directory, basename(path));
  await writeFile(join(changed, 'report.md'), 'otherwise');
  const store = join(root, 'left-store');
  await mkdir(store, { recursive: true });
  const context = { config: { stores: { main: { type: 'folder', path: store, prefix: '' } }, evidence: { store: 'main' } }, configPath: join(root, 'holdfast.yaml') } as unknown as Context;
  const { copied, left, problem } = await pushPending(context, directory, 'main', Date.now());
  expect({ copied, left }).toEqual({ copied: [basename(whole)], left: [basename(changed)] });
  expect(problem).toContain('report.md was changed');
  expect(await listPending(directory)).toEqual([basename(changed)]);
});
