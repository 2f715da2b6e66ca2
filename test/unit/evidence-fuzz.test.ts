import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkReport } from '../../src/model/evidence-check.ts';
import { chainFacts, reportOf, serialiseFactList, serialiseReport, type EvidenceInput, type Fact } from '../../src/model/evidence.ts';
import { renderHtml, renderMarkdown } from '../../src/model/evidence-report.ts';
import { listEvidence, prepareEvidence } from '../../src/systems/evidence-folder.ts';
import { generateSigningKey, readPublicKey, readSigningKey, trustOnly } from '../../src/systems/evidence-keys.ts';
import { claimPosition, folderChain, surveyFolder } from '../../src/systems/evidence-store.ts';
import { EVIDENCE_FILES, serialiseSignature, sha256Hex, verifyEvidence, type EvidenceVerdict } from '../../src/systems/evidence-verify.ts';
import { FUZZ_TIMEOUT_MS, anyBytes, anyJson, edited, edits, effort, mutatedJson, named, namedAsync } from '../fuzz.ts';

const KEY = generateSigningKey();
const INPUT: EvidenceInput = {
  kind: 'failover', subject: 'orders-db', service: 'orders', outcome: 'succeeded', title: 'Failover of orders', summary: 'db-a -> db-b', workflowId: 'failover/orders', runId: 'run-1', requestedBy: 'ana', reason: 'rehearsal',
  startedAt: '2026-11-21T03:00:00.000Z', finishedAt: '2026-11-21T03:01:00.000Z', planHash: null, measurements: [{ name: 'RTO', unit: 'ms', objective: 900_000, measured: 42_000 }],
  timeline: [{ label: 'promote', startMs: 1_000, endMs: 31_000, outcome: 'changed', detail: 'postgres.promote', group: 'all' }, { label: 'verify', startMs: 1_000, endMs: 31_000, outcome: 'failed', group: 'all' }],
  marks: [{ kind: 'window', label: 'refused', atMs: 1_000, endMs: 1_200 }], cautions: ['degraded'], checks: [{ name: 'streams', ok: true, found: 'yes', expected: 'yes' }],
  facts: [{ at: '2026-11-21T03:00:05.000Z', kind: 'decision', data: { action: 'markDone', by: 'ana', reason: 'x' } }, { at: '2026-11-21T03:00:05.000Z', kind: 'override', data: { rule: 'cooldown' } }, { at: '2026-11-21T03:00:05.000Z', kind: 'step', data: { id: 'x', tainted: 'y' } }], appendix: 'more',
};
const { files } = prepareEvidence(INPUT, 'test', KEY.privatePem);
const contents: Readonly<Record<string, Buffer>> = Object.fromEntries(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)]));
const TRUSTED = trustOnly(KEY.publicPem);

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-evidence-fuzz-'));
});
// What the time limit cut off may still be writing.
afterAll(() => rm(root, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 }));

/** Never neither: it is good, or something is said about it. */
function sound(verdict: EvidenceVerdict): boolean {
  return verdict.ok === (verdict.problems.length === 0) && verdict.problems.every((problem) => problem.length > 0 && problem.length < 5000 && !problem.includes('[object')) && (!verdict.authentic || verdict.keyId !== undefined);
}

describe('a record, whatever lies in its files', { timeout: FUZZ_TIMEOUT_MS }, () => {
  test('any change of any file is found', () => {
    fc.assert(fc.property(fc.constantFrom(...EVIDENCE_FILES), edits, (file, list) => {
      const changed = edited(contents[file]!, list);
      fc.pre(!changed.equals(contents[file]!));
      const verdict = verifyEvidence({ ...contents, [file]: changed }, [], { trust: TRUSTED });
      expect(verdict.ok).toBe(false);
      expect(verdict.problems.some((problem) => problem.includes(file))).toBe(true);
      expect(sound(verdict)).toBe(true);
    }), effort(400));
  });

  test('garbage in place of any files, and names beside them, never crash it', () => {
    const garbage = fc.dictionary(fc.constantFrom(...EVIDENCE_FILES), anyBytes, { minKeys: 1, maxKeys: 5 });
    fc.assert(fc.property(garbage, fc.array(fc.string({ maxLength: 20 }), { maxLength: 2 }), fc.boolean(), fc.oneof(fc.constant(undefined), fc.string({ maxLength: 40 })), (some, extra, whole, name) => {
      const verdict = verifyEvidence({ ...(whole ? contents : {}), ...some }, extra, { ...(name === undefined ? {} : { name }), trust: TRUSTED });
      expect(verdict.ok).toBe(false);
      expect(sound(verdict)).toBe(true);
    }), effort(300));
  });

  test('facts of any shape with a good chain never crash verification, and what passes it can be shown', () => {
    const facts = (JSON.parse(files['report.json']) as { facts: Fact[] }).facts;
    // What has no canonical form cannot be chained; that verification finds it is shown by the changed bytes above.
    const shallow = mutatedJson(facts.map(({ at, kind, data }) => ({ at, kind, data }))).filter((changed) => !/[[{]{100}/.test(JSON.stringify(changed) ?? ''));
    fc.assert(fc.property(shallow, (changed) => {
      const list = Array.isArray(changed) ? changed.filter((fact): fact is Fact => fact !== null && typeof fact === 'object' && !Array.isArray(fact)) : [];
      const chained = chainFacts(list.map(({ at, kind, data }) => ({ at: at ?? null, kind: kind ?? null, data: data ?? null }) as Fact), sha256Hex);
      const json = serialiseReport(chained);
      // As an attacker without a key would: everything agrees with itself.
      const reports: Record<string, string> = { 'report.json': json, 'facts.sha256': chained.map(({ sha256, index, kind }) => `${sha256}  fact ${index} ${typeof kind === 'string' ? kind : 'x'}\n`).join(''), 'report.html': '', 'report.md': '' };
      const first = verifyEvidence({ ...contents, 'report.json': Buffer.from(json) }, []);
      expect(sound(first)).toBe(true);
      if (checkReport(json, sha256Hex).problems.length === 0) {
        const report = reportOf((JSON.parse(json) as { facts: Fact[] }).facts);
        Object.assign(reports, { 'facts.sha256': serialiseFactList(chained), 'report.html': renderHtml(report), 'report.md': renderMarkdown(report) });
      }
      const signature = serialiseSignature({ format: 2, algorithm: 'none', keyId: null, publicKey: null, files: Object.fromEntries(Object.entries(reports).map(([name, text]) => [name, sha256Hex(text)])), signature: null });
      const verdict = verifyEvidence(Object.fromEntries(Object.entries({ ...reports, 'signature.json': signature }).map(([name, text]) => [name, Buffer.from(text)])), []);
      expect(sound(verdict)).toBe(true);
      expect(verdict.authentic).toBe(false);
    }), effort(300));
  });

  test('signature.json of any shape', () => {
    fc.assert(fc.property(mutatedJson(JSON.parse(files['signature.json'])), (document) => {
      const text = `${JSON.stringify(document, null, 2)}\n`;
      fc.pre(text !== files['signature.json']);
      const verdict = verifyEvidence({ ...contents, 'signature.json': Buffer.from(text) }, [], { trust: TRUSTED });
      expect(verdict).toMatchObject({ ok: false, authentic: false });
      expect(sound(verdict)).toBe(true);
    }), effort(300));
  });

  test('keys of any text', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), anyBytes.map((bytes) => `-----BEGIN PUBLIC KEY-----\n${bytes.toString('base64')}\n-----END PUBLIC KEY-----\n`), edits.map((list) => edited(Buffer.from(KEY.publicPem), list).toString('latin1')), edits.map((list) => edited(Buffer.from(KEY.publicBase64), list).toString('latin1'))), (text) => {
      const [key, signing] = [named(() => readPublicKey(text)), named(() => readSigningKey(text))];
      expect(key === 'public-key' || (typeof key === 'object' && key.asymmetricKeyType === 'ed25519')).toBe(true);
      expect(signing).toBe('signing-key');
    }), effort(200));
  });

  test('input of any texts is written, and then verifies', () => {
    const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 60 }), fc.string({ maxLength: 60 }), fc.constantFrom('\uD800', '__proto__', '\0', '</script><svg onload=x>', '| a | b |\n---'));
    const ms = fc.oneof(fc.integer(), fc.constantFrom(0, 1, 1e15, -1e15), fc.double({ min: -1e15, max: 1e15, noNaN: true }));
    // Nobody of us writes thousands of levels; what comes back from a disk may have them.
    const shallow = anyJson.filter((value) => !/\[{50}/.test(JSON.stringify(value)));
    const inputs = fc.record({
      subject: text, service: fc.oneof(text, fc.constant(null)), outcome: text, title: text, summary: text, reason: text, cautions: fc.array(text, { maxLength: 2 }), appendix: text,
      timeline: fc.array(fc.record({ label: text, startMs: ms, endMs: ms, outcome: text, detail: text }), { maxLength: 5 }),
      marks: fc.array(fc.record({ kind: fc.constantFrom('window' as const, 'waiting' as const, 'moment' as const, 'no-return' as const), label: text, atMs: ms, endMs: ms }), { maxLength: 4 }),
      checks: fc.array(fc.record({ name: text, ok: fc.boolean(), found: text, expected: text }), { maxLength: 2 }),
      measurements: fc.array(fc.record({ name: text, unit: fc.constantFrom('ms' as const, 'count' as const, 'bytes' as const), objective: fc.oneof(ms, fc.constant(null)), measured: fc.oneof(ms, fc.constant(null)), note: text }), { maxLength: 3 }),
      facts: fc.array(fc.record({ at: fc.constant(INPUT.startedAt), kind: text, data: shallow }), { maxLength: 3 }),
    });
    fc.assert(fc.property(inputs, (input) => {
      const prepared = prepareEvidence({ ...INPUT, ...input }, 'test', KEY.privatePem);
      const verdict = verifyEvidence(Object.fromEntries(Object.entries(prepared.files).map(([name, content]) => [name, Buffer.from(content)])), [], { trust: TRUSTED, name: prepared.folder });
      expect(verdict).toMatchObject({ problems: [], ok: true, authentic: true });
      expect(prepared.files['report.html']).not.toMatch(/="[^"]*NaN|<script|<svg onload/);
    }), effort(120));
  });
});

test('facts nested without end are found, on every machine alike', () => {
  const deep = `${'['.repeat(100_000)}${']'.repeat(100_000)}`;
  for (const nested of [deep, deep.replaceAll('[', '{"a":').replaceAll(']', '}').replace('"a":}', '"a":1}'), `${'['.repeat(210)}${']'.repeat(210)}`]) {
    const report = files['report.json'].replace('"data":"more"', `"data":${nested}`);
    expect(report).not.toBe(files['report.json']);
    expect(verifyEvidence({ ...contents, 'report.json': Buffer.from(report) }, []).problems[0]).toMatch(/^fact 4 \(report\.json line 6\) is no JSON any more/);
  }
});

describe('a folder of evidence, whatever lies in it', { timeout: FUZZ_TIMEOUT_MS }, () => {
  test('folders of garbage and links of garbage are listed and surveyed by findings or a named error', async () => {
    let number = 0;
    const folder = fc.record({ name: fc.constantFrom('2026-11-21-orders-drill-0123456789', 'x', '.chain', '.pending'), file: fc.constantFrom(...EVIDENCE_FILES, 'other'), content: anyBytes });
    const link = fc.record({ key: fc.constantFrom('00000001.json', '00000002.json', '99999999999999999999.json', 'x.json', '00000001'), content: fc.oneof(anyBytes, mutatedJson({ format: 1, chain: 'test/orders', sequence: 1, id: 'a', folder: 'b', sha256: 'c', previous: null }).map((value) => Buffer.from(`${JSON.stringify(value)}\n`))) });
    await fc.assert(fc.asyncProperty(fc.array(folder, { maxLength: 4 }), fc.array(link, { maxLength: 3 }), async (folders, links) => {
      number += 1;
      const directory = join(root, String(number));
      for (const { name, file, content } of folders) {
        await mkdir(join(directory, name), { recursive: true });
        await writeFile(join(directory, name, file), content);
      }
      await mkdir(join(directory, '.chain', 'test', 'orders'), { recursive: true });
      for (const { key, content } of links) await writeFile(join(directory, '.chain', 'test', 'orders', key), content);
      await listEvidence(directory, TRUSTED);
      const survey = await surveyFolder(directory, TRUSTED);
      expect(survey.problems.length + survey.records.length).toBeGreaterThanOrEqual(links.length === 0 ? 0 : 1);
      const place = await folderChain(directory);
      const claimed = await namedAsync(() => claimPosition(place, 'test/orders', (position) => prepareEvidence(INPUT, 'test', undefined, { position, unchained: null, unsigned: 'x' }), 0));
      expect(typeof claimed === 'string' ? claimed : claimed.position!.sequence).toSatisfy((one: unknown) => one === 'evidence-chain' || one === 'store-folder' || (typeof one === 'number' && one >= 1));
    }), effort(60));
  });
});
