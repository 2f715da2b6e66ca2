import { mkdir, open, readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import { measurementRow } from '../../model/evidence-report.ts';
import { generateSigningKey, listEvidence, verifyEvidenceFolder, type EvidenceVerdict } from '../../systems/evidence-folder.ts';
import { EXIT, formatTable, type Io } from '../io.ts';

export const summary = 'verify, list and show signed evidence of drills and failovers';

export function define(command: Command, io: Io): void {
  command
    .command('verify')
    .description('check the chain of facts, the hashes and the signature of one evidence folder; needs no network and no configuration')
    .argument('<path>', 'the folder that holds report.json')
    .option('--public-key <file>', 'PEM file of the key that must have signed it')
    .action(async (path: string, options: { publicKey?: string }) => {
      const verdict = await verifyEvidenceFolder(path, options.publicKey === undefined ? undefined : await readKey(options.publicKey));
      io.result(jsonOf(path, verdict), () => describe(path, verdict));
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
    .command('list')
    .description('list the evidence folders, newest first; each is verified while it is listed')
    .option('--directory <path>', 'where they are; default: evidence.directory of holdfast.yaml')
    .action(async (options: { directory?: string }) => {
      const listed = await listEvidence(await directoryOf(io, options.directory));
      io.result(listed, () =>
        listed.length === 0
          ? 'no evidence yet; a drill writes some: holdfast drill DATASTORE'
          : formatTable(
              ['started', 'kind', 'service', 'subject', 'outcome', 'integrity', 'folder'],
              listed.map((entry) => [entry.startedAt, entry.kind, entry.service, entry.subject, entry.outcome, entry.ok ? (entry.signed ? 'intact, signed' : 'intact, NOT SIGNED') : `CHANGED: ${entry.problem}`, entry.folder]),
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
        for (const problem of verdict.problems) io.note(`CHANGED: ${problem}`);
        io.exit(EXIT.failed);
      }
      const text = await readFile(join(path, 'report.md'), 'utf8');
      io.result(verdict.report ?? null, () => text.trimEnd());
    });

  command
    .command('keygen')
    .description('make an Ed25519 key pair for signing evidence; nothing is overwritten')
    .argument('<file>', 'where the private key goes (PKCS#8 PEM, readable by you only); the public key goes to <file>.pub')
    .action(async (file: string) => {
      const { privatePem, publicPem, keyId } = generateSigningKey();
      await mkdir(dirname(resolve(file)), { recursive: true });
      await writeNew(`${file}.pub`, publicPem, 0o644);
      await writeNew(file, privatePem, 0o600);
      io.result({ privateKey: resolve(file), publicKey: resolve(`${file}.pub`), keyId, reference: `file:${resolve(file)}` }, () =>
        [
          `private key  ${resolve(file)}  (keep it where only workers read it)`,
          `public key   ${resolve(`${file}.pub`)}  (give it to whoever verifies)`,
          `key id       ${keyId}`,
          '',
          'in holdfast.yaml:',
          '  evidence:',
          `    signingKey: file:${resolve(file)}`,
        ].join('\n'),
      );
    });
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

function jsonOf(path: string, verdict: EvidenceVerdict): unknown {
  const { ok, problems, notes, keyId, authentic, report } = verdict;
  return { path: resolve(path), ok, signed: keyId !== undefined, keyId: keyId ?? null, authentic, problems, notes, header: report?.header ?? null, measurements: report?.measurements ?? null };
}

function describe(path: string, verdict: EvidenceVerdict): string {
  const lines: string[] = [];
  const header = verdict.report?.header;
  if (verdict.ok && header !== undefined) {
    const signed = verdict.keyId === undefined ? 'NOT SIGNED' : verdict.authentic ? `signed by the given key ${verdict.keyId}` : `signed by embedded key ${verdict.keyId}`;
    lines.push(`intact, ${signed}: ${path}`, `  ${header.title}`, `  ${header.summary}`);
    if (verdict.report!.measurements.length > 0) lines.push('', formatTable(['what', 'objective', 'measured', 'result'], verdict.report!.measurements.map(measurementRow)));
  } else {
    lines.push(`CHANGED: ${path} is not what was written`, ...verdict.problems.map((problem) => `  ${problem}`));
  }
  if (verdict.notes.length > 0) lines.push('', ...verdict.notes.map((note) => `note: ${note}`));
  return lines.join('\n');
}
