/** What is true of the files of one record. Whatever they hold, the answer is a verdict, never an error. */
import { createHash, createPublicKey, verify, type KeyObject } from 'node:crypto';
import { checkReport, firstDifference, quote } from '../model/evidence-check.ts';
import { evidenceFolder, reportOf, serialiseFactList, REPORT_LAYOUT, type Fact, type Report } from '../model/evidence.ts';
import { FILES_IN_FACTS, filesInFacts } from '../model/evidence-files.ts';
import { renderHtml, renderMarkdown } from '../model/evidence-report.ts';
import { keyIdOf, publicPem, TRUST_NOBODY, type Trust } from './evidence-keys.ts';

/** What the signature covers, by format. */
const SIGNED_FILES = { 1: ['report.html', 'report.json', 'report.md'], 2: ['facts.sha256', 'report.html', 'report.json', 'report.md'] } as const;
export const REPORT_FILES = SIGNED_FILES[2];
export const EVIDENCE_FILES = [...REPORT_FILES, 'signature.json'] as const;
export type EvidenceFile = (typeof EVIDENCE_FILES)[number];
/** `<yyyy-mm-dd>-<name>-<kind>-<id>`. */
export const RECORD_NAME = /^\d{4}-\d{2}-\d{2}-.+-[0-9a-f]{10}$/;

/** signature.json, keys in this order. */
export interface SignatureDocument {
  readonly format: 1 | 2;
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

export function serialiseSignature({ format, algorithm, keyId, publicKey, files, signature }: SignatureDocument): string {
  const ordered = Object.fromEntries(SIGNED_FILES[format].map((name) => [name, files[name]]));
  return `${JSON.stringify({ format, algorithm, keyId, publicKey, files: ordered, signature }, null, 2)}\n`;
}

/** What `sha256sum` of the covered files prints, so that openssl alone can check the signature. */
export function signedText({ format, files }: Pick<SignatureDocument, 'format' | 'files'>): string {
  return SIGNED_FILES[format].map((name) => `${files[name]}  ${name}\n`).join('');
}

/** Derived from the run, so that another attempt of the activity writes the same folder. */
export function evidenceId(runId: string, kind: string): string {
  return sha256Hex(`${runId}/${kind}`).slice(0, 10);
}

export interface EvidenceVerdict {
  readonly ok: boolean;
  /** What is wrong, each naming its file and, where it can be told, its fact. */
  readonly problems: readonly string[];
  /** What a reader must know although nothing is wrong. */
  readonly notes: readonly string[];
  /** Only when report.json is what was written. */
  readonly report: Report | undefined;
  /** SHA-256 of report.json. */
  readonly sha256: string | undefined;
  /** Of the key whose signature holds; undefined when there is none. */
  readonly keyId: string | undefined;
  /** True when the signature was made by a key that the caller trusts. */
  readonly authentic: boolean;
}

export interface VerifyOptions {
  readonly trust?: Trust;
  /** Name of the folder the files are in: a record under another record's name is none. */
  readonly name?: string;
  /** When the store took it, by the store's own clock: only this can tell a record of before a key leaked from one made later. */
  readonly storedAtMs?: number;
}

/** Files that are the text of a fact: the chain and the signature cover them through it. */
function attachedProblems(facts: readonly Fact[], contents: Readonly<Record<string, Buffer>>): string[] {
  const attached = filesInFacts(facts);
  return FILES_IN_FACTS.flatMap((name) => {
    const content = contents[name];
    const text = attached[name];
    if (text === undefined) return content === undefined ? [] : [`${name} is not part of the evidence: no fact holds it; take it away`];
    if (content === undefined) return [`${name} is missing: its text stands in report.json`];
    const expected = Buffer.from(text);
    if (content.equals(expected)) return [];
    let at = 0;
    while (at < content.length && content[at] === expected[at]) at += 1;
    return [`${name} was changed at byte ${at}: it is not the text that stands in report.json`];
  });
}

export function verifyEvidence(contents: Readonly<Record<string, Buffer>>, extra: readonly string[], options: VerifyOptions = {}): EvidenceVerdict {
  const problems: string[] = [];
  const notes: string[] = [];
  const trust = options.trust ?? TRUST_NOBODY;
  const signature = contents['signature.json'] === undefined ? undefined : readSignature(contents['signature.json'], problems);
  const format = signature?.format ?? 2;
  for (const name of [...SIGNED_FILES[format], 'signature.json']) if (contents[name] === undefined) problems.push(`${name} is missing`);
  for (const name of [...extra, ...Object.keys(contents).filter((file) => file !== 'signature.json' && !FILES_IN_FACTS.includes(file) && !SIGNED_FILES[format].some((known) => known === file))]) {
    problems.push(`${name} is not part of the evidence: no signature covers it; take it away`);
  }

  const changed = new Set<string>();
  for (const name of signature === undefined ? [] : SIGNED_FILES[format]) {
    const content = contents[name];
    if (content !== undefined && sha256Hex(content) !== signature!.files[name]) changed.add(name);
  }
  const list = contents['facts.sha256']?.toString('latin1');
  const listed = list === undefined || signature === undefined || changed.has('facts.sha256') ? undefined : list.split('\n').slice(0, -1).map((line) => line.slice(0, 64));
  let report: Report | undefined;
  let facts: readonly Fact[] = [];
  if (contents['report.json'] !== undefined) {
    const checked = checkReport(contents['report.json'].toString('utf8'), sha256Hex, listed);
    facts = checked.facts;
    problems.push(...checked.problems);
    if (signature !== undefined && checked.problems.length === 0 && checked.format !== signature.format) problems.push(`report.json has format ${checked.format}, signature.json format ${signature.format}`);
    if (checked.problems.length === 0) report = reportOf(facts);
  }
  for (const name of changed) problems.push(`${name} was changed: its SHA-256 is not the one in signature.json (or signature.json was changed)${whereChanged(name, contents[name]!, report, facts)}`);
  if (report !== undefined) problems.push(...attachedProblems(facts, contents));
  if (report !== undefined) problems.push(...disagreements(report, facts, contents, changed), ...misnamed(report, options.name, notes));

  const verdict = { report, sha256: contents['report.json'] === undefined ? undefined : sha256Hex(contents['report.json']) };
  if (signature === undefined) return { ...verdict, ok: false, problems, notes, keyId: undefined, authentic: false };
  if (report?.header.signedBy !== undefined && report.header.signedBy !== signature.keyId) {
    problems.push(`signature.json: the header says that the record was signed by ${report.header.signedBy ?? 'nobody'}, but ${signature.keyId === null ? 'it is not signed: the signature was taken away' : `it is signed by ${signature.keyId}`}`);
  }
  if (signature.algorithm === 'none') {
    if (trust.keys.length > 0) problems.push(`signature.json: the evidence is NOT SIGNED, although keys are trusted to sign it (${trust.keys.map((key) => key.keyId).join(', ')})`);
    else notes.push('the evidence is NOT SIGNED: what was checked is only that it agrees with itself; whoever can write the folder can make another');
    return { ...verdict, ok: problems.length === 0, problems, notes, keyId: undefined, authentic: false };
  }
  const holds = checkSignature(signature, trust, problems);
  if (holds) checkKey(signature.keyId!, trust, report, options.storedAtMs, problems, notes);
  if (holds && trust.keys.length === 0) {
    notes.push(`authenticity was checked only against the key embedded in the folder (key id ${signature.keyId}); give --public-key FILE, or evidence.trustedKeys in holdfast.yaml, to check who signed it`);
  }
  return { ...verdict, ok: problems.length === 0, problems, notes, keyId: holds ? (signature.keyId ?? undefined) : undefined, authentic: holds && trust.keys.length > 0 };
}

/** The readable reports are made from the facts and nothing else: where this Holdfast makes them as the writer did, the first changed byte can be told. */
function made(name: string, report: Report, facts: readonly Fact[]): string | undefined {
  if (report.header.layout !== REPORT_LAYOUT) return undefined;
  if (name === 'report.html') return renderHtml(report);
  if (name === 'report.md') return renderMarkdown(report);
  return name === 'facts.sha256' ? serialiseFactList(facts) : undefined;
}

function whereChanged(name: string, content: Buffer, report: Report | undefined, facts: readonly Fact[]): string {
  const expected = report === undefined ? undefined : made(name, report, facts);
  return expected === undefined ? '' : `; first at ${place(Buffer.from(expected), content)}`;
}

/** Signed or not, a page that says other things than the facts is none of ours. */
function disagreements(report: Report, facts: readonly Fact[], contents: Readonly<Record<string, Buffer>>, changed: ReadonlySet<string>): string[] {
  return ['facts.sha256', 'report.html', 'report.md'].flatMap((name) => {
    const content = contents[name];
    const expected = content === undefined || changed.has(name) ? undefined : made(name, report, facts);
    return expected === undefined || Buffer.from(expected).equals(content!) ? [] : [`${name} does not say what the facts of report.json say; first at ${place(Buffer.from(expected), content!)}`];
  });
}

function place(expected: Buffer, content: Buffer): string {
  const at = firstDifference(expected.toString('latin1'), content.toString('latin1'));
  return `byte ${at} (line ${content.subarray(0, at).toString('latin1').split('\n').length})`;
}

function misnamed(report: Report, name: string | undefined, notes: string[]): string[] {
  const { header } = report;
  const problems: string[] = [];
  if (header.id !== evidenceId(header.runId, header.kind)) problems.push(`fact 0 (header): id ${quote(header.id)} is not that of run ${quote(header.runId)}`);
  const own = evidenceFolder(header, header.id);
  if (name !== undefined && name !== own) {
    if (RECORD_NAME.test(name)) problems.push(`the folder is named ${name}, but it holds the record ${own}: an old record was put under a new name`);
    else notes.push(`the folder is named ${quote(name)}; the record's own name is ${own}`);
  }
  return problems;
}

function readSignature(content: Buffer, problems: string[]): SignatureDocument | undefined {
  const text = content.toString('utf8');
  let document: SignatureDocument;
  try {
    document = JSON.parse(text) as SignatureDocument;
  } catch {
    problems.push('signature.json was changed: it is no JSON any more');
    return undefined;
  }
  const shape =
    document !== null && typeof document === 'object' && (document.format === 1 || document.format === 2) && typeof document.files === 'object' && document.files !== null &&
    SIGNED_FILES[document.format].every((name) => typeof document.files[name] === 'string') &&
    (document.algorithm === 'none'
      ? document.keyId === null && document.publicKey === null && document.signature === null
      : document.algorithm === 'ed25519' && [document.keyId, document.publicKey, document.signature].every((field) => typeof field === 'string'));
  const expected = shape ? serialiseSignature(document) : undefined;
  if (expected !== text) {
    problems.push(`signature.json was changed: it is not in the form in which it was written${expected === undefined ? '' : `, first at ${place(Buffer.from(expected), content)}`}`);
    return undefined;
  }
  return document;
}

function checkSignature(signature: SignatureDocument, trust: Trust, problems: string[]): boolean {
  let embedded: KeyObject;
  try {
    embedded = createPublicKey(signature.publicKey!);
    if (embedded.asymmetricKeyType !== 'ed25519') throw new Error('not ed25519');
  } catch {
    problems.push('signature.json was changed: its public key is no readable Ed25519 key');
    return false;
  }
  if (publicPem(embedded) !== signature.publicKey || keyIdOf(embedded) !== signature.keyId) {
    problems.push('signature.json was changed: its public key and key id do not belong together');
    return false;
  }
  const trusted = trust.keys.find(({ key }) => key.equals(embedded));
  if (trust.keys.length > 0 && trusted === undefined) {
    problems.push(`signature.json: signed by key ${signature.keyId}, not by ${trust.keys.length === 1 ? `${trust.keys[0]!.source} ${trust.keys[0]!.keyId}` : `one of the trusted keys ${trust.keys.map((key) => key.keyId).join(', ')}`}`);
    return false;
  }
  const bytes = Buffer.from(signature.signature!, 'base64');
  if (bytes.toString('base64') !== signature.signature || !verify(null, Buffer.from(signedText(signature)), embedded, bytes)) {
    problems.push('signature.json: the signature does not hold for the hashes it names, so they or it were changed');
    return false;
  }
  return true;
}

/** A good signature of a key that did not count then, or counts no more. */
function checkKey(keyId: string, trust: Trust, report: Report | undefined, storedAtMs: number | undefined, problems: string[], notes: string[]): void {
  const iso = (ms: number): string => new Date(ms).toISOString();
  const revoked = trust.revoked.find((key) => key.keyId === keyId);
  if (revoked !== undefined) {
    const says = `signature.json: key ${keyId} is revoked since ${iso(revoked.sinceMs)} (${revoked.reason})`;
    if (storedAtMs === undefined) problems.push(`${says}: the times in a record are its signer's word, so one of before cannot be told from a forged one; check the copy in the store with --store`);
    else if (storedAtMs >= revoked.sinceMs) problems.push(`${says}; the store took this record at ${iso(storedAtMs)}`);
    else notes.push(`key ${keyId} is revoked since ${iso(revoked.sinceMs)} (${revoked.reason}); the store took this record before, at ${iso(storedAtMs)}`);
  }
  if (report === undefined) return;
  const finishedMs = Date.parse(report.header.finishedAt);
  const { validFromMs, validUntilMs } = trust.keys.find((key) => key.keyId === keyId) ?? {};
  if (validFromMs !== undefined && finishedMs < validFromMs) problems.push(`signature.json: key ${keyId} is trusted from ${iso(validFromMs)}, the record says it ended at ${report.header.finishedAt}`);
  if (validUntilMs !== undefined && finishedMs > validUntilMs) problems.push(`signature.json: key ${keyId} is trusted until ${iso(validUntilMs)}, the record says it ended at ${report.header.finishedAt}`);
}
