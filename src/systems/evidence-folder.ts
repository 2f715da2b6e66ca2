/**
 * Evidence on disk: report.json (facts), facts.sha256 (their hashes), report.md, report.html and signature.json in one folder.
 * The signed text is what `sha256sum facts.sha256 report.html report.json report.md` prints, so that openssl alone can check it:
 *   sha256sum facts.sha256 report.html report.json report.md > sums
 *   openssl pkeyutl -verify -rawin -pubin -inkey public.pem -sigfile signature.bin -in sums
 * where signature.bin is the decoded base64 of `signature` and public.pem the key you trust.
 */
import { createPublicKey, sign } from 'node:crypto';
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { HoldfastError } from '../model/errors.ts';
import { UNSEALED, chainFacts, evidenceFolder, factsOf, reportOf, serialiseFactList, serialiseReport, withoutSealing, type ChainPosition, type EvidenceInput, type Fact, type FactInput, type Sealing } from '../model/evidence.ts';
import { FILES_IN_FACTS, filesInFacts } from '../model/evidence-files.ts';
import { renderHtml, renderMarkdown } from '../model/evidence-report.ts';
import { keyIdOf, publicPem, readSigningKey, type Trust } from './evidence-keys.ts';
import { EVIDENCE_FILES, REPORT_FILES, evidenceId, serialiseSignature, sha256Hex, signedText, verifyEvidence, type EvidenceFile, type EvidenceVerdict, type VerifyOptions } from './evidence-verify.ts';
import { redactValue } from './log.ts';

/** A record is some hundred kilobytes; what is larger than this is none, and is not read into memory. */
export const MAXIMUM_FILE_BYTES = 64 * 1024 * 1024;
/** Records whose copy has not reached the store yet: a file each, named like the record. */
const PENDING = '.pending';

export interface PreparedEvidence {
  readonly id: string;
  /** Name of the folder. */
  readonly folder: string;
  readonly files: Readonly<Record<EvidenceFile, string>>;
  /** Files whose text stands in a fact. */
  readonly attached: Readonly<Record<string, string>>;
  readonly signed: boolean;
  readonly position: ChainPosition | null;
  /** What another attempt of the same run must say too. */
  readonly content: string;
}

/** All files of one evidence folder, from its input only: no clock, no randomness. Everything passes redaction first. */
export function prepareEvidence(
  input: EvidenceInput, environment: string, signingKeyPem: string | undefined, seal: Omit<Sealing, 'signedBy'> = UNSEALED,
): PreparedEvidence {
  const id = evidenceId(input.runId, input.kind);
  const privateKey = signingKeyPem === undefined ? undefined : readSigningKey(signingKeyPem);
  const publicKey = privateKey === undefined ? undefined : createPublicKey(privateKey);
  const signedBy = publicKey === undefined ? null : keyIdOf(publicKey);
  const clean = redactValue(JSON.parse(JSON.stringify(input)) as EvidenceInput);
  const inputs = factsOf(clean, id, environment, { ...seal, signedBy, unsigned: signedBy === null ? seal.unsigned : null });
  const json = serialiseReport(chainFacts(inputs, sha256Hex));
  // The pages are made of what a reader will parse, where the order of keys is another: verification makes them again.
  const { facts } = JSON.parse(json) as { facts: Fact[] };
  const report = reportOf(facts);
  const reports = { 'facts.sha256': serialiseFactList(facts), 'report.html': renderHtml(report), 'report.json': json, 'report.md': renderMarkdown(report) };
  const files = Object.fromEntries(REPORT_FILES.map((name) => [name, sha256Hex(reports[name])]));
  const signature = serialiseSignature({
    format: 2,
    algorithm: privateKey === undefined ? 'none' : 'ed25519',
    keyId: signedBy,
    publicKey: publicKey === undefined ? null : publicPem(publicKey),
    files,
    signature: privateKey === undefined ? null : sign(null, Buffer.from(signedText({ format: 2, files })), privateKey).toString('base64'),
  });
  return { id, folder: evidenceFolder(clean, id), files: { ...reports, 'signature.json': signature }, attached: filesInFacts(facts), signed: privateKey !== undefined, position: seal.position, content: withoutSealing(inputs) };
}

export interface WrittenEvidence {
  readonly directory: string;
  readonly folder: string;
  readonly sha256: string;
  readonly signed: boolean;
  readonly position: ChainPosition | null;
  /** All of them, those whose text stands in a fact included. */
  readonly files: Readonly<Record<string, string>>;
}

/**
 * Write to a temporary name, sync, rename: a folder is whole or not there.
 * An existing folder with the same facts is success (another attempt of the same run); with others it is an error.
 */
export async function writeEvidenceFolder(directory: string, evidence: PreparedEvidence): Promise<WrittenEvidence> {
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
      return (await existingEvidence(directory, evidence))!;
    }
    await syncDirectory(dirname(target));
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return { directory: target, folder: evidence.folder, sha256: sha256Hex(evidence.files['report.json']), signed: evidence.signed, position: evidence.position, files: { ...evidence.attached, ...evidence.files } };
}

/** What an earlier attempt of the same run has written here, by whatever key and place in the chain. @throws HoldfastError when it is something else. */
export async function existingEvidence(directory: string, evidence: PreparedEvidence): Promise<WrittenEvidence | undefined> {
  const target = join(resolve(directory), evidence.folder);
  const there = await stat(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (there === undefined || (there.isDirectory() && (await readdir(target)).length === 0)) return undefined;
  const { contents, extra } = await readFolder(target);
  const verdict = verifyEvidence(contents, extra);
  if (verdict.ok && verdict.report !== undefined && withoutSealing(allFacts(contents['report.json']!)) === evidence.content) {
    const files = Object.fromEntries(Object.entries(contents).map(([name, content]) => [name, content.toString('utf8')]));
    return { directory: target, folder: evidence.folder, sha256: verdict.sha256!, signed: verdict.keyId !== undefined, position: verdict.report.header.position ?? null, files };
  }
  throw new HoldfastError('evidence-exists', `${target} already holds other evidence${verdict.ok ? '' : ` (${verdict.problems[0]})`}; evidence is never overwritten`, {
    next: 'look at it with `holdfast evidence verify`, move it away, and retry',
  });
}

function allFacts(report: Buffer): FactInput[] {
  return (JSON.parse(report.toString('utf8')) as { facts: FactInput[] }).facts;
}

/** Remember, before a record is there, that its copy is still to be made: whatever happens in between, somebody will make it. */
export async function markPending(directory: string, folder: string): Promise<void> {
  await mkdir(join(resolve(directory), PENDING), { recursive: true });
  const file = await open(join(resolve(directory), PENDING, folder), 'w', 0o644);
  await file.close();
}

export async function settlePending(directory: string, folder: string): Promise<void> {
  await rm(join(resolve(directory), PENDING, folder), { force: true });
}

/** Names of the records here whose copy is still to be made. */
export async function listPending(directory: string): Promise<string[]> {
  return (await readdir(join(resolve(directory), PENDING)).catch(none)).sort();
}

function none(error: NodeJS.ErrnoException): [] {
  if (error.code === 'ENOENT') return [];
  throw error;
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

/** @param trust whose signatures count; without any, only the key inside the folder can be used. */
export async function verifyEvidenceFolder(path: string, trust?: Trust): Promise<EvidenceVerdict> {
  const { contents, extra } = await readFolder(path);
  const options: VerifyOptions = { name: basename(resolve(path)), ...(trust === undefined ? {} : { trust }) };
  return verifyEvidence(contents, extra, options);
}

/** The files of a record as they are, and the names of whatever else lies beside them. */
export async function readFolder(path: string): Promise<{ contents: Record<string, Buffer>; extra: string[] }> {
  let entries;
  try {
    entries = await readdir(path, { withFileTypes: true });
  } catch (error) {
    throw new HoldfastError('evidence-not-found', `${path} cannot be read as a folder: ${(error as NodeJS.ErrnoException).code}`, { next: 'give the folder that holds report.json; `holdfast evidence list` shows them', cause: error });
  }
  const contents: Record<string, Buffer> = {};
  const extra: string[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const known = FILES_IN_FACTS.includes(entry.name) || EVIDENCE_FILES.some((name) => name === entry.name);
    // A link may lead anywhere, and tomorrow somewhere else: only a file is evidence.
    if (!known || !entry.isFile()) extra.push(known ? `${entry.name} (a ${entry.isDirectory() ? 'folder' : 'link or device'})` : entry.name);
    else contents[entry.name] = await readBounded(join(path, entry.name));
  }
  if (Object.keys(contents).length === 0) throw new HoldfastError('evidence-not-found', `${path} holds no evidence`, { next: 'give the folder that holds report.json; `holdfast evidence list` shows them' });
  return { contents, extra };
}

async function readBounded(path: string): Promise<Buffer> {
  const { size } = await stat(path);
  if (size > MAXIMUM_FILE_BYTES) throw new HoldfastError('evidence-size', `${path} has ${size} bytes; no file of a record has more than ${MAXIMUM_FILE_BYTES}`, { next: 'this is not what was written; get the record from the store' });
  return readFile(path);
}

export interface EvidenceListing {
  readonly folder: string;
  readonly path: string;
  readonly ok: boolean;
  readonly signed: boolean;
  /** Signed by a key that is trusted. */
  readonly authentic: boolean;
  readonly kind: string;
  readonly service: string;
  readonly subject: string;
  readonly outcome: string;
  readonly startedAt: string;
  readonly problem: string | undefined;
  /** Its copy has not reached the store. */
  readonly pending: boolean;
}

/** Newest first. Every folder is verified while it is listed. */
export async function listEvidence(directory: string, trust?: Trust): Promise<EvidenceListing[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch(none);
  const pending = await listPending(directory);
  const found: EvidenceListing[] = [];
  for (const entry of entries) {
    if (!entry.isDirectory() || entry.name.startsWith('.')) continue;
    const path = join(directory, entry.name);
    let verdict: EvidenceVerdict;
    try {
      verdict = await verifyEvidenceFolder(path, trust);
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      if (error.code === 'evidence-not-found') continue;
      verdict = { ok: false, problems: [error.message], notes: [], report: undefined, sha256: undefined, keyId: undefined, authentic: false };
    }
    const header = verdict.report?.header;
    found.push({
      folder: basename(path), path, ok: verdict.ok, signed: verdict.keyId !== undefined, authentic: verdict.authentic, kind: header?.kind ?? '?', service: header?.service ?? '',
      subject: header?.subject ?? '?', outcome: header?.outcome ?? '?', startedAt: header?.startedAt ?? entry.name.slice(0, 10), problem: verdict.problems[0], pending: pending.includes(entry.name),
    });
  }
  return found.sort((a, b) => (a.startedAt < b.startedAt ? 1 : -1));
}
