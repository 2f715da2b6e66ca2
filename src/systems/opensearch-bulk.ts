import { HoldfastError } from '../model/errors.ts';
import type { SearchCluster } from './opensearch.ts';

export interface BulkDocument {
  readonly id: string;
  readonly source: Readonly<Record<string, unknown>>;
}

export interface BulkResult {
  readonly indexed: number;
  /** Documents that were refused for good, each with what was said of it. */
  readonly refused: readonly string[];
}

/** A request larger than this is refused by many clusters, and takes as much memory here. */
const MOST_BYTES = 5 * 1024 * 1024;
const ATTEMPTS = 8;

interface BulkAnswer {
  readonly errors: boolean;
  readonly items: readonly { readonly index: { readonly _id: string; readonly status: number; readonly error?: { readonly type?: string; readonly reason?: string } } }[];
}

/** Writes documents under their ids, so that a repeated one is the same one. What the cluster is too busy for is asked again, item by item. */
export async function bulkIndex(cluster: SearchCluster, index: string, documents: readonly BulkDocument[], signal: AbortSignal): Promise<BulkResult> {
  let indexed = 0;
  const refused: string[] = [];
  for (const group of groups(documents)) {
    let left = group;
    for (let attempt = 1; left.length > 0; attempt += 1) {
      const answer = await send(cluster, index, left);
      const busy = new Set<string>();
      for (const { index: { _id: id, status, error } } of answer.items) {
        if (status < 300) indexed += 1;
        else if (status === 429 || status === 503) busy.add(id);
        else refused.push(`${id}: ${error?.type ?? String(status)}: ${(error?.reason ?? '').slice(0, 200)}`);
      }
      left = left.filter((document) => busy.has(document.id));
      if (left.length === 0) break;
      if (attempt === ATTEMPTS) throw new HoldfastError('search-busy', `cluster ${cluster.name} refused ${left.length} documents ${ATTEMPTS} times, since it is too busy`, { retryable: true, next: 'look at its write thread pool; retry with a smaller `batch`' });
      await new Promise((resolve) => {
        setTimeout(resolve, 100 * 2 ** attempt);
      });
      signal.throwIfAborted();
    }
  }
  return { indexed, refused };
}

async function send(cluster: SearchCluster, index: string, documents: readonly BulkDocument[]): Promise<BulkAnswer> {
  const lines = documents.flatMap(({ id, source }) => [{ index: { _id: id } }, source]);
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await cluster.request<BulkAnswer>('POST', `/${encodeURIComponent(index)}/_bulk`, { bulk: lines, timeoutMs: 120_000 });
    } catch (error) {
      // Written twice under the same id it is written once: a lost answer may be asked for again.
      if (!(error instanceof HoldfastError) || !error.retryable || attempt >= 4) throw error;
      await new Promise((resolve) => {
        setTimeout(resolve, 500 * attempt);
      });
    }
  }
}

function groups(documents: readonly BulkDocument[]): BulkDocument[][] {
  const made: BulkDocument[][] = [];
  let [group, bytes]: [BulkDocument[], number] = [[], 0];
  for (const document of documents) {
    const size = JSON.stringify(document.source).length;
    if (group.length > 0 && bytes + size > MOST_BYTES) {
      made.push(group);
      [group, bytes] = [[], 0];
    }
    group.push(document);
    bytes += size;
  }
  return group.length === 0 ? made : [...made, group];
}
