import { HoldfastError } from '../model/errors.ts';
import { FAILBACK_FILE } from '../model/failback.ts';
import type { Context } from './context.ts';
import { openStore } from './store.ts';

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  [FAILBACK_FILE]: 'application/yaml',
  'report.html': 'text/html; charset=utf-8',
  'report.json': 'application/json',
  'report.md': 'text/markdown; charset=utf-8',
  'signature.json': 'application/json',
};

/**
 * Copy to `<prefix>/evidence/<folder>/` of a store, under object lock where it is configured, and never over something else.
 * signature.json goes last, so that a copy with it is whole.
 */
export async function copyEvidence(context: Context, storeName: string, folder: string, files: Readonly<Record<string, string>>, nowMs: number): Promise<string> {
  const store = await openStore(context, storeName);
  const prefix = `${store.prefix}evidence/${folder}/`;
  for (const name of Object.keys(files).sort((a, b) => Number(a === 'signature.json') - Number(b === 'signature.json'))) {
    const key = `${prefix}${name}`;
    try {
      await store.put(key, files[name]!, { ifAbsent: true, contentType: CONTENT_TYPES[name] ?? 'application/octet-stream', ...(store.lockForMs === undefined ? {} : { lockUntilMs: nowMs + store.lockForMs }) });
    } catch (error) {
      if (!(error instanceof HoldfastError) || error.code !== 'object-exists') throw error;
      // An earlier attempt of the same run got this far.
      if ((await store.getText(key)) !== files[name]) throw new HoldfastError('evidence-exists', `${store.describe()} already holds other evidence as ${key}; evidence is never overwritten`, { next: 'find out who wrote it' });
    }
  }
  return `${store.describe()} ${prefix}`;
}
