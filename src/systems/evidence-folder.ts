/**
 * Evidence on disk: report.json (facts), report.md, report.html and signature.json in one folder.
 * The signed text is what `sha256sum report.html report.json report.md` prints, so that openssl alone can check it:
 *   sha256sum report.html report.json report.md > sums
 *   openssl pkeyutl -verify -rawin -pubin -inkey public.pem -sigfile signature.bin -in sums
 * where signature.bin is the decoded base64 of `signature` and public.pem the key you trust.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify, type KeyObject } from 'node:crypto';
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { chainFacts, checkReport, evidenceFolder, factsOf, reportOf, serialiseReport, type EvidenceInput, type Report } from '../model/evidence.ts';
import { filesInFacts } from '../model/evidence-files.ts';
import { renderHtml, renderMarkdown } from '../model/evidence-report.ts';
import { redactValue } from './log.ts';

export const REPORT_FILES = ['report.html', 'report.json', 'report.md'] as const;
export const EVIDENCE_FILES = [...REPORT_FILES, 'signature.json'] as const;
export type EvidenceFile = (typeof EVIDENCE_FILES)[number];

/** signature.json, keys in this order. */
interface SignatureDocument {
  readonly format: 1;
  readonly algorithm: 'ed25519' | 'none';
  readonly keyId: string | null;
  /** SubjectPublicKeyInfo, PEM. */
  readonly publicKey: string | null;
  readonly files: Readonly<Record<string, string>>;
  /** Base64 of the signature over `signedText`; null when no signing key was configured. */
  readonly signature: string | null;
}

export function sha256Hex(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

/** Derived from the run, so that another attempt of the activity writes the same folder. */
export function evidenceId(runId: string, kind: string): string {
  return sha256Hex(`${runId}/${kind}`).slice(0, 10);
}

export interface PreparedEvidence {
  readonly id: string;
  /** Name of the folder. */
  readonly folder: string;
  readonly files: Readonly<Record<EvidenceFile, string>>;
  /** Files whose text stands in a fact. */
  readonly attached: Readonly<Record<string, string>>;
  readonly signed: boolean;
}

/** All files of one evidence folder, from its input only: no clock, no randomness. Everything passes redaction first. */
export function prepareEvidence(input: EvidenceInput, environment: string, signingKeyPem: string | undefined): PreparedEvidence {
  const id = evidenceId(input.runId, input.kind);
  // Through JSON and back: what is hashed is what a reader will parse.
  const clean = redactValue(JSON.parse(JSON.stringify(input)) as EvidenceInput);
  const facts = chainFacts(factsOf(clean, id, environment), sha256Hex);
  const report = reportOf(facts);
  const reports = { 'report.html': renderHtml(report), 'report.json': serialiseReport(facts), 'report.md': renderMarkdown(report) };
  return { id, folder: evidenceFolder(clean, id), files: { ...reports, 'signature.json': signatureOf(reports, signingKeyPem) }, attached: filesInFacts(facts), signed: signingKeyPem !== undefined };
}

function signatureOf(reports: Readonly<Record<string, string>>, signingKeyPem: string | undefined): string {
  const files = Object.fromEntries(REPORT_FILES.map((name) => [name, sha256Hex(reports[name]!)]));
  if (signingKeyPem === undefined) return serialiseSignature({ format: 1, algorithm: 'none', keyId: null, publicKey: null, files, signature: null });
  const privateKey = signingKey(signingKeyPem);
  const publicKey = createPublicKey(privateKey);
  return serialiseSignature({
    format: 1,
    algorithm: 'ed25519',
    keyId: keyIdOf(publicKey),
    publicKey: publicPem(publicKey),
    files,
    signature: sign(null, Buffer.from(signedText(files)), privateKey).toString('base64'),
  });
}

function serialiseSignature({ format, algorithm, keyId, publicKey, files, signature }: SignatureDocument): string {
  const ordered = Object.fromEntries(REPORT_FILES.map((name) => [name, files[name]]));
  return `${JSON.stringify({ format, algorithm, keyId, publicKey, files: ordered, signature }, null, 2)}\n`;
}

function signedText(files: Readonly<Record<string, string>>): string {
  return REPORT_FILES.map((name) => `${files[name]}  ${name}\n`).join('');
}

function signingKey(pem: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch (error) {
    throw new HoldfastError('signing-key', 'the evidence signing key is no readable private key', { next: 'make one with `holdfast evidence keygen` and refer to it in evidence.signingKey', cause: error });
  }
  if (key.asymmetricKeyType !== 'ed25519') throw new HoldfastError('signing-key', `the evidence signing key is ${key.asymmetricKeyType}, expected ed25519`, { next: 'make one with `holdfast evidence keygen`' });
  return key;
}

function publicPem(key: KeyObject): string {
  return key.export({ type: 'spki', format: 'pem' }).toString();
}

/** The first 16 hex digits of the SHA-256 over the public key's DER form. */
export function keyIdOf(publicKey: KeyObject): string {
  return createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('hex').slice(0, 16);
}

export function generateSigningKey(): { privatePem: string; publicPem: string; keyId: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return { privatePem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(), publicPem: publicPem(publicKey), keyId: keyIdOf(publicKey) };
}

/**
 * Write to a temporary name, sync, rename: a folder is whole or not there.
 * An existing folder with the same facts is success (another attempt of the same run); with others it is an error.
 */
export async function writeEvidenceFolder(directory: string, evidence: PreparedEvidence): Promise<{ directory: string; sha256: string; signed: boolean; files: Readonly<Record<EvidenceFile, string>> }> {
  const target = join(resolve(directory), evidence.folder);
  await mkdir(dirname(target), { recursive: true });
  const temporary = await mkdtemp(join(dirname(target), `.${evidence.folder}-`));
  try {
    for (const [name, content] of Object.entries({ ...evidence.attached, ...evidence.files })) await writeSynced(join(temporary, name), content);
    await syncDirectory(temporary);
    try {
      await rename(temporary, target);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
      const files = await existingEvidence(target, evidence);
      return { directory: target, sha256: sha256Hex(files['report.json']), signed: verifyFiles(files).keyId !== undefined, files };
    }
    await syncDirectory(dirname(target));
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return { directory: target, sha256: sha256Hex(evidence.files['report.json']), signed: evidence.signed, files: evidence.files };
}

async function existingEvidence(target: string, evidence: PreparedEvidence): Promise<Record<EvidenceFile, string>> {
  const { contents } = await readFolder(target);
  const verdict = verifyFiles(contents);
  if (verdict.problems.length === 0 && contents['report.json']?.toString('utf8') === evidence.files['report.json']) {
    return Object.fromEntries(EVIDENCE_FILES.map((name) => [name, contents[name]!.toString('utf8')])) as Record<EvidenceFile, string>;
  }
  throw new HoldfastError('evidence-exists', `${target} already holds other evidence${verdict.problems.length === 0 ? '' : ` (${verdict.problems[0]})`}; evidence is never overwritten`, {
    next: 'look at it with `holdfast evidence verify`, move it away, and retry',
  });
}

async function writeSynced(path: string, content: string): Promise<void> {
  const file = await open(path, 'wx', 0o644);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export interface EvidenceVerdict {
  readonly ok: boolean;
  /** What is wrong, each naming its file and, where it can be told, its fact. */
  readonly problems: readonly string[];
  /** What a reader must know although nothing is wrong. */
  readonly notes: readonly string[];
  readonly report: Report | undefined;
  /** Of the key whose signature holds; undefined when there is none. */
  readonly keyId: string | undefined;
  /** True when the signature was made by the key that the caller gave. */
  readonly authentic: boolean;
}

/** @param publicKeyPem the key that the caller trusts; without it only the key inside the folder can be used. */
export async function verifyEvidenceFolder(path: string, publicKeyPem?: string): Promise<EvidenceVerdict> {
  const { contents, extra } = await readFolder(path);
  const verdict = verifyFiles(contents, publicKeyPem);
  const attached = filesInFacts(verdict.report?.facts ?? []);
  const changed: string[] = [];
  for (const [name, text] of Object.entries(attached)) {
    if (!extra.includes(name)) changed.push(`${name} is missing: its text stands in report.json`);
    else if (!(await readFile(join(path, name))).equals(Buffer.from(text))) changed.push(`${name} was changed: it is not the text that stands in report.json`);
  }
  const foreign = extra.filter((name) => !Object.hasOwn(attached, name));
  return { ...verdict, ok: verdict.ok && changed.length === 0, problems: [...verdict.problems, ...changed], notes: [...verdict.notes, ...foreign.map((name) => `${name} is not part of the evidence: no signature covers it`)] };
}

async function readFolder(path: string): Promise<{ contents: Partial<Record<EvidenceFile, Buffer>>; extra: string[] }> {
  let names: string[];
  try {
    names = await readdir(path);
  } catch (error) {
    throw new HoldfastError('evidence-not-found', `${path} cannot be read as a folder: ${(error as NodeJS.ErrnoException).code}`, { next: 'give the folder that holds report.json; `holdfast evidence list` shows them', cause: error });
  }
  const contents: Partial<Record<EvidenceFile, Buffer>> = {};
  for (const name of EVIDENCE_FILES) if (names.includes(name)) contents[name] = await readFile(join(path, name));
  if (Object.keys(contents).length === 0) throw new HoldfastError('evidence-not-found', `${path} holds no evidence`, { next: 'give the folder that holds report.json; `holdfast evidence list` shows them' });
  return { contents, extra: names.filter((name) => !EVIDENCE_FILES.includes(name as EvidenceFile)) };
}

function verifyFiles(contents: Partial<Record<EvidenceFile, Buffer | string>>, publicKeyPem?: string): EvidenceVerdict {
  const problems: string[] = EVIDENCE_FILES.filter((name) => contents[name] === undefined).map((name) => `${name} is missing`);
  const notes: string[] = [];
  let report: Report | undefined;
  if (contents['report.json'] !== undefined) {
    const checked = checkReport(contents['report.json'].toString('utf8'), sha256Hex);
    problems.push(...checked.problems);
    if (checked.problems.length === 0) report = reportOf(checked.facts);
  }
  const signature = contents['signature.json'] === undefined ? undefined : readSignature(contents['signature.json'].toString('utf8'), problems);
  if (signature === undefined) return { ok: false, problems, notes, report, keyId: undefined, authentic: false };

  for (const name of REPORT_FILES) {
    const content = contents[name];
    if (content !== undefined && sha256Hex(Buffer.from(content)) !== signature.files[name]) problems.push(`${name} was changed: its SHA-256 is not the one in signature.json (or signature.json was changed)`);
  }
  if (signature.algorithm === 'none') {
    if (publicKeyPem !== undefined) problems.push('signature.json: the evidence is not signed, although a public key was given to check it with');
    else notes.push('the evidence is NOT SIGNED: what was checked is only that it agrees with itself; whoever can write the folder can make another');
    return { ok: problems.length === 0, problems, notes, report, keyId: undefined, authentic: false };
  }
  const trusted = publicKeyPem === undefined ? undefined : readPublicKey(publicKeyPem);
  const holds = checkSignature(signature, trusted, problems);
  if (holds && trusted === undefined) {
    notes.push(`authenticity was checked only against the key embedded in the folder (key id ${signature.keyId}); give --public-key FILE to check who signed it`);
  }
  return { ok: problems.length === 0, problems, notes, report, keyId: holds ? (signature.keyId ?? undefined) : undefined, authentic: holds && trusted !== undefined };
}

function readSignature(text: string, problems: string[]): SignatureDocument | undefined {
  let document: SignatureDocument;
  try {
    document = JSON.parse(text) as SignatureDocument;
  } catch {
    problems.push('signature.json was changed: it is no JSON any more');
    return undefined;
  }
  const shape =
    document !== null && typeof document === 'object' && document.format === 1 && typeof document.files === 'object' && document.files !== null &&
    (document.algorithm === 'none'
      ? document.keyId === null && document.publicKey === null && document.signature === null
      : document.algorithm === 'ed25519' && [document.keyId, document.publicKey, document.signature].every((field) => typeof field === 'string'));
  if (!shape || serialiseSignature(document) !== text) {
    problems.push('signature.json was changed: it is not in the form in which it was written');
    return undefined;
  }
  return document;
}

function checkSignature(signature: SignatureDocument, trusted: KeyObject | undefined, problems: string[]): boolean {
  let embedded: KeyObject;
  try {
    embedded = readPublicKey(signature.publicKey!);
  } catch (error) {
    problems.push(`signature.json: ${messageOf(error)}`);
    return false;
  }
  if (publicPem(embedded) !== signature.publicKey || keyIdOf(embedded) !== signature.keyId) {
    problems.push('signature.json was changed: its public key and key id do not belong together');
    return false;
  }
  if (trusted !== undefined && keyIdOf(trusted) !== signature.keyId) {
    problems.push(`signature.json: signed by key ${signature.keyId}, not by the given key ${keyIdOf(trusted)}`);
    return false;
  }
  const bytes = Buffer.from(signature.signature!, 'base64');
  if (bytes.toString('base64') !== signature.signature || !verify(null, Buffer.from(signedText(signature.files)), trusted ?? embedded, bytes)) {
    problems.push('signature.json: the signature does not hold for the hashes it names, so they or it were changed');
    return false;
  }
  return true;
}

function readPublicKey(pem: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey(pem);
  } catch (error) {
    throw new HoldfastError('public-key', 'the public key is no readable key', { next: 'give the PEM file that `holdfast evidence keygen` wrote beside the private key', cause: error });
  }
  if (key.asymmetricKeyType !== 'ed25519') throw new HoldfastError('public-key', `the public key is ${key.asymmetricKeyType}, expected ed25519`);
  return key;
}

export interface EvidenceListing {
  readonly folder: string;
  readonly path: string;
  readonly ok: boolean;
  readonly signed: boolean;
  readonly kind: string;
  readonly service: string;
  readonly subject: string;
  readonly outcome: string;
  readonly startedAt: string;
  readonly problem: string | undefined;
}

/** Newest first. Every folder is verified while it is listed. */
export async function listEvidence(directory: string): Promise<EvidenceListing[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  const found: EvidenceListing[] = [];
  for (const entry of entries) {
    if (!entry.isDirectory() || entry.name.startsWith('.')) continue;
    const path = join(directory, entry.name);
    let verdict: EvidenceVerdict;
    try {
      verdict = await verifyEvidenceFolder(path);
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'evidence-not-found') continue;
      throw error;
    }
    const header = verdict.report?.header;
    found.push({
      folder: basename(path), path, ok: verdict.ok, signed: verdict.keyId !== undefined, kind: header?.kind ?? '?', service: header?.service ?? '',
      subject: header?.subject ?? '?', outcome: header?.outcome ?? '?', startedAt: header?.startedAt ?? entry.name.slice(0, 10), problem: verdict.problems[0],
    });
  }
  return found.sort((a, b) => (a.startedAt < b.startedAt ? 1 : -1));
}
