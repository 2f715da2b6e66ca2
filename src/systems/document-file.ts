import { readFile } from 'node:fs/promises';
import { parseDocument, type ParsedDocument } from '../model/document.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';

const CODES = { configuration: 'config', runbook: 'runbook', 'price table': 'prices' } as const;

/** A YAML file, parsed. @throws HoldfastError when it cannot be read; what is wrong inside it comes back as findings. */
export async function readDocument(file: string, what: 'configuration' | 'runbook' | 'price table'): Promise<ParsedDocument> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const missing = code === 'ENOENT';
    throw new HoldfastError(`${CODES[what]}-${missing ? 'missing' : 'unreadable'}`, missing ? `${what} ${file} does not exist` : `${what} ${file} cannot be read: ${code ?? messageOf(error)}`, {
      next: missing ? `create it (${what === 'price table' ? 'prices.example.yaml shows its form; the prices are yours to look up' : 'holdfast.example.yaml is a narrated start'}), or name another one` : 'check that it is a file and that this user may read it',
      context: { file },
      cause: error,
    });
  }
  try {
    return parseDocument(file, new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    return { file, value: undefined, findings: [{ level: 'error', file, line: 0, path: '(file)', message: 'it is not text in UTF-8' }], lineOf: () => 0, lineOfKey: () => 0 };
  }
}
