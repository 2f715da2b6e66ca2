import { mkdir, open, readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import { measurementRow } from '../../model/evidence-report.ts';
import { listEvidence, verifyEvidenceFolder } from '../../systems/evidence-folder.ts';
import { TRUST_NOBODY, generateSigningKey, trustOf, trustedKey, type Trust } from '../../systems/evidence-keys.ts';
import type { EvidenceSurvey } from '../../systems/evidence-store.ts';
import type { EvidenceVerdict } from '../../systems/evidence-verify.ts';
import { EXIT, formatTable, type Io } from '../io.ts';

export const summary = 'verify, list and show signed evidence of drills and failovers';

export function define(command: Command, io: Io): void {
  command
    .command('verify')
    .description('check the chain of facts, the hashes and the signature of one record, or of all and that none was taken away; one record needs no network and no configuration')
    .argument('[record]', 'the folder that holds report.json; with --store the name of a record; without it every record is checked')
    .option('--public-key <file>', 'PEM file of a key that must have signed it; may be repeated (default: evidence.trustedKeys of holdfast.yaml, where there is one)', (file: string, before: string[]) => [...before, file], [])
    .option('--store <name>', 'check the copies in this store instead')
    .option('--directory <path>', 'where the folders of this host are; default: evidence.directory of holdfast.yaml')
    .action(async (path: string | undefined, options: { publicKey: string[]; store?: string; directory?: string }) => {
      const { trust, note } = await trustFor(io, options.publicKey, path === undefined || options.store !== undefined);
      if (note !== undefined) io.note(`note: ${note}`);
      if (path === undefined) {
        const { surveyFolder, surveyStore } = await import('../../systems/evidence-store.ts');
        const directory = await directoryOf(io, options.directory);
        const survey = options.store === undefined ? await surveyFolder(directory, trust) : await surveyStore(await io.context(), options.store, directory, trust);
        const ok = survey.problems.length === 0 && survey.records.every(({ verdict }) => verdict.ok);
        io.result(jsonOfSurvey(survey, ok), () => describeSurvey(survey));
        if (!ok) io.exit(EXIT.failed);
        return;
      }
      const stored = options.store === undefined ? undefined : await (await import('../../systems/evidence-store.ts')).verifyStoredEvidence(await io.context(), options.store, path, trust);
      const verdict = stored?.verdict ?? (await verifyEvidenceFolder(path, trust));
      const where = options.store === undefined ? resolve(path) : `${options.store}: ${path}`;
      io.result({ ...jsonOf(where, verdict), ...(stored === undefined ? {} : { lockedUntil: lockText(stored.lockedUntilMs) }) }, () => describe(where, verdict, stored === undefined ? undefined : lockText(stored.lockedUntilMs)));
      if (!verdict.ok) io.exit(EXIT.failed);
    });

  command
    .command('import')
    .description('record what was done by hand from a break-glass checklist: checked in full, held against the live systems, signed as evidence; needs Temporal and a worker')
    .argument('<file>', 'the filled-in results template that `holdfast plan --export` wrote')
    .action(async (file: string) => {
      const { importResults } = await import('../import-results.ts');
      await importResults(io, file);
    });

  command
    .command('push')
    .description('make the copies to evidence.store that could not be made when the records were written')
    .action(async () => {
      const context = await io.context();
      const { store } = context.config.evidence;
      if (store === undefined) throw new HoldfastError('usage', 'evidence.store is not configured', { next: 'name a store under evidence in holdfast.yaml' });
      const { pushPending } = await import('../../systems/evidence-store.ts');
      const { copied, left, problem } = await pushPending(context, await directoryOf(io, undefined), store, Date.now());
      io.result({ copied, left, problem: problem ?? null }, () =>
        [...copied.map((folder) => `copied  ${folder}`), ...left.map((folder) => `left    ${folder}`), ...(problem === undefined ? [] : [`it stopped: ${problem}`]), ...(copied.length + left.length === 0 ? ['nothing waits to be copied'] : [])].join('\n'),
      );
      if (problem !== undefined) io.exit(EXIT.failed);
    });

  command
    .command('list')
    .description('list the evidence folders, newest first; each is verified while it is listed')
    .option('--directory <path>', 'where they are; default: evidence.directory of holdfast.yaml')
    .action(async (options: { directory?: string }) => {
      const listed = await listEvidence(await directoryOf(io, options.directory), (await trustFor(io, [], options.directory === undefined)).trust);
      io.result(listed, () =>
        listed.length === 0
          ? 'no evidence yet; a drill writes some: holdfast drill DATASTORE'
          : formatTable(
              ['started', 'kind', 'service', 'subject', 'outcome', 'integrity', 'folder'],
              listed.map((entry) => [entry.startedAt, entry.kind, entry.service, entry.subject, entry.outcome, `${entry.ok ? (entry.authentic ? 'intact, signed by a trusted key' : entry.signed ? 'intact, signed' : 'intact, NOT SIGNED') : `NOT GOOD: ${entry.problem}`}${entry.pending ? ', NOT COPIED' : ''}`, entry.folder]),
            ),
      );
      if (listed.some((entry) => !entry.ok)) io.exit(EXIT.failed);
    });

  command
    .command('show')
    .description('print one report; the folder may be given by its path, its name or its id')
    .argument('<evidence>')
    .option('--directory <path>', 'where the folders are; default: evidence.directory of holdfast.yaml')
    .action(async (name: string, options: { directory?: string }) => {
      const path = await find(io, name, options.directory);
      const verdict = await verifyEvidenceFolder(path);
      if (!verdict.ok) {
        for (const problem of verdict.problems) io.note(`NOT GOOD: ${problem}`);
        io.exit(EXIT.failed);
      }
      for (const note of verdict.notes) io.note(`note: ${note}`);
      const text = await readFile(join(path, 'report.md'), 'utf8');
      io.result(verdict.report ?? null, () => text.trimEnd());
    });

  command
    .command('keygen')
    .description('make an Ed25519 key pair for signing evidence; nothing is overwritten')
    .argument('<file>', 'where the private key goes (PKCS#8 PEM, readable by you only); the public key goes to <file>.pub')
    .action(async (file: string) => {
      const { privatePem, publicPem, publicBase64, keyId } = generateSigningKey();
      await mkdir(dirname(resolve(file)), { recursive: true });
      await writeNew(`${file}.pub`, publicPem, 0o644);
      await writeNew(file, privatePem, 0o600);
      io.result({ privateKey: resolve(file), publicKey: resolve(`${file}.pub`), publicKeyText: publicBase64, keyId, reference: `file:${resolve(file)}` }, () =>
        [
          `private key  ${resolve(file)}  (keep it where only workers read it, best in a secret manager)`,
          `public key   ${resolve(`${file}.pub`)}  (give it to whoever verifies)`,
          `key id       ${keyId}`,
          '',
          'in holdfast.yaml, older trusted keys stay:',
          '  evidence:',
          `    signingKey: file:${resolve(file)}`,
          '    trustedKeys:',
          `      - publicKey: ${publicBase64}`,
          `        validFrom: ${new Date().toISOString().slice(0, 10)}`,
        ].join('\n'),
      );
    });
}

/**
 * Whose signatures count: what the command line says, else the configuration. One folder can be checked where there is no configuration, by an
 * auditor on a machine of his own; then only what is given counts.
 */
async function trustFor(io: Io, files: readonly string[], configured: boolean): Promise<{ trust: Trust; note?: string }> {
  const given = await Promise.all(files.map(async (file) => trustedKey(await readKey(file), 'the given key')));
  try {
    const trust = trustOf((await io.context()).config.evidence);
    return { trust: given.length > 0 ? { keys: given, revoked: trust.revoked } : trust };
  } catch (error) {
    if (configured || !(error instanceof HoldfastError)) throw error;
    const trust = given.length > 0 ? { keys: given, revoked: [] } : TRUST_NOBODY;
    return error.code === 'config-missing' ? { trust } : { trust, note: `no keys were taken from the configuration: ${error.message.split('\n')[0]}` };
  }
}

async function directoryOf(io: Io, given: string | undefined): Promise<string> {
  if (given !== undefined) return resolve(given);
  const context = await io.context();
  return resolve(dirname(context.configPath), context.config.evidence.directory);
}

async function find(io: Io, name: string, directory: string | undefined): Promise<string> {
  if (name.includes('/')) return name;
  const where = await directoryOf(io, directory);
  const listed = await listEvidence(where);
  const matches = listed.filter((entry) => entry.folder === name || entry.folder.endsWith(`-${name}`));
  if (matches.length === 1) return matches[0]!.path;
  throw new HoldfastError(matches.length === 0 ? 'evidence-not-found' : 'evidence-ambiguous', `${matches.length === 0 ? 'no' : 'more than one'} evidence folder in ${where} is named "${name}"`, {
    next: 'see `holdfast evidence list`',
  });
}

async function readKey(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new HoldfastError('public-key', `${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`, { next: 'give the .pub file that `holdfast evidence keygen` wrote', cause: error });
  }
}

async function writeNew(path: string, content: string, mode: number): Promise<void> {
  try {
    const file = await open(path, 'wx', mode);
    try {
      await file.writeFile(content);
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    throw new HoldfastError('key-exists', `${path} exists already; a key is never overwritten`, { next: 'give another file name' });
  }
}

function jsonOf(where: string, verdict: EvidenceVerdict): Record<string, unknown> {
  const { ok, problems, notes, keyId, authentic, report } = verdict;
  return { path: where, ok, signed: keyId !== undefined, keyId: keyId ?? null, authentic, problems, notes, header: report?.header ?? null, measurements: report?.measurements ?? null };
}

function lockText(lockedUntilMs: number | undefined): string | null {
  if (lockedUntilMs === undefined) return null;
  return lockedUntilMs === Number.POSITIVE_INFINITY ? 'for ever' : new Date(lockedUntilMs).toISOString();
}

function signedText(verdict: EvidenceVerdict): string {
  if (verdict.keyId === undefined) return 'NOT SIGNED';
  return verdict.authentic ? `signed by the trusted key ${verdict.keyId}` : `signed by embedded key ${verdict.keyId}, which nobody vouches for`;
}

function describe(path: string, verdict: EvidenceVerdict, lock: string | null | undefined): string {
  const lines: string[] = [];
  const header = verdict.report?.header;
  if (verdict.ok && header !== undefined) {
    lines.push(`intact, ${signedText(verdict)}: ${path}`, `  ${header.title}`, `  ${header.summary}`, `  ${header.environment}, ${header.startedAt} to ${header.finishedAt}, requested by ${header.requestedBy}`);
    if (lock !== undefined) lines.push(`  ${lock === null ? 'not under object lock' : `under object lock until ${lock}`}`);
    if (verdict.report!.measurements.length > 0) lines.push('', formatTable(['what', 'objective', 'measured', 'result'], verdict.report!.measurements.map(measurementRow)));
  } else {
    lines.push(`NOT GOOD: ${path} is not what was written, or not by whom it must be`, ...verdict.problems.map((problem) => `  ${problem}`));
  }
  if (verdict.notes.length > 0) lines.push('', ...verdict.notes.map((note) => `note: ${note}`));
  return lines.join('\n');
}

function jsonOfSurvey({ where, records, problems, notes }: EvidenceSurvey, ok: boolean): unknown {
  return { where, ok, problems, notes, records: records.map(({ folder, verdict, lockedUntilMs }) => ({ ...jsonOf(folder, verdict), measurements: undefined, lockedUntil: lockText(lockedUntilMs) })) };
}

function describeSurvey({ where, records, problems, notes }: EvidenceSurvey): string {
  const bad = records.filter(({ verdict }) => !verdict.ok);
  const lines = [`${records.length} record${records.length === 1 ? '' : 's'} in ${where}: ${records.length - bad.length} intact, ${bad.length} not`];
  for (const { folder, verdict, lockedUntilMs } of records) {
    const header = verdict.report?.header;
    const position = header?.position == null ? 'in no chain' : `number ${header.position.sequence} of ${header.position.chain}`;
    lines.push(verdict.ok ? `  intact    ${folder}: ${signedText(verdict)}, ${position}${lockedUntilMs === undefined ? '' : `, locked until ${lockText(lockedUntilMs)}`}` : `  NOT GOOD  ${folder}`);
    lines.push(...verdict.problems.map((problem) => `              ${problem}`));
  }
  lines.push(...problems.map((problem) => `PROBLEM: ${problem}`), ...notes.map((note) => `note: ${note}`));
  return lines.join('\n');
}
