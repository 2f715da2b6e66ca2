import type { Fact } from './evidence.ts';
import { FAILBACK_FILE } from './failback.ts';

/** Names of all such files. */
export const FILES_IN_FACTS: readonly string[] = [FAILBACK_FILE];

/**
 * Files that lie beside the reports for whoever needs them as files. Each is a text that stands in a fact, so the chain and the
 * signature cover it: a file that differs from its fact was changed.
 */
export function filesInFacts(facts: readonly Pick<Fact, 'kind' | 'data'>[]): Record<string, string> {
  const files: Record<string, string> = {};
  for (const { kind, data } of facts) {
    if (kind !== 'failback' || data === null || typeof data !== 'object' || !('document' in data) || typeof data.document !== 'string') continue;
    files[FAILBACK_FILE] = data.document;
  }
  return files;
}
