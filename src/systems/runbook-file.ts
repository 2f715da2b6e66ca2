import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { NAME_PATTERN } from '../model/config-schema.ts';
import { ConfigError, HoldfastError, messageOf, type Finding } from '../model/errors.ts';
import { runbookOf } from '../model/runbook-check.ts';
import type { Runbook } from '../model/runbook-schema.ts';
import { unknownName } from './context.ts';
import { readDocument } from './document-file.ts';

export interface RunbookFile {
  readonly name: string;
  readonly file: string;
  /** Undefined when the file has errors. */
  readonly runbook: Runbook | undefined;
}

/** All runbooks of a folder with every finding; throws only when the folder cannot be read. A missing folder has none. */
export async function readRunbooks(directory: string): Promise<{ files: RunbookFile[]; findings: Finding[] }> {
  const files: RunbookFile[] = [];
  const findings: Finding[] = [];
  const seen = new Map<string, string>();
  for (const { name, file } of await runbookNames(directory)) {
    const other = seen.get(name);
    if (other !== undefined) {
      findings.push({ level: 'error', file, line: 0, path: '(file)', message: `another file has the same runbook name`, found: other, allowed: 'one file of each name' });
      continue;
    }
    seen.set(name, file);
    if (!NAME_PATTERN.test(name)) {
      findings.push({ level: 'error', file, line: 0, path: '(file)', message: 'a runbook is called like its file, and this is no name', allowed: 'lower-case letters, digits and inner hyphens, at most 63' });
    }
    const read = runbookOf(await readDocument(file, 'runbook'), name);
    files.push({ name, file, runbook: read.runbook });
    findings.push(...read.findings);
  }
  return { files, findings };
}

/** All runbooks of a folder. @throws ConfigError with the findings of all files. */
export async function loadRunbooks(directory: string): Promise<{ runbooks: ReadonlyMap<string, Runbook>; warnings: Finding[] }> {
  const { files, findings } = await readRunbooks(directory);
  if (findings.some((finding) => finding.level === 'error')) throw new ConfigError(findings);
  return { runbooks: new Map(files.map(({ name, runbook }) => [name, runbook!])), warnings: findings };
}

/** One runbook. @throws HoldfastError `unknown-runbook` naming those there are; ConfigError with all findings of its file. */
export async function loadRunbook(directory: string, name: string): Promise<{ runbook: Runbook; file: string; warnings: Finding[] }> {
  const names = await runbookNames(directory);
  const found = NAME_PATTERN.test(name) ? names.find((entry) => entry.name === name) : undefined;
  if (found === undefined) throw unknownName('runbook', name, names.map((entry) => entry.name));
  const { runbook, findings } = runbookOf(await readDocument(found.file, 'runbook'), name);
  if (runbook === undefined) throw new ConfigError(findings);
  return { runbook, file: found.file, warnings: findings };
}

async function runbookNames(directory: string): Promise<{ name: string; file: string }[]> {
  let entries: string[];
  try {
    entries = await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new HoldfastError('runbooks-unreadable', `the folder of runbooks ${directory} cannot be read: ${messageOf(error)}`, { next: 'check that it is a folder and that this user may read it', cause: error });
  }
  return entries
    .filter((entry) => /\.ya?ml$/.test(entry) && !entry.startsWith('.'))
    .sort()
    .map((entry) => ({ name: entry.replace(/\.ya?ml$/, ''), file: join(directory, entry) }));
}
