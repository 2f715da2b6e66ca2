import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Client } from '@opensearch-project/opensearch';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { engineOf, unknownName, type Context } from './context.ts';

export interface SearchRequest {
  readonly body?: unknown;
  /** Lines of JSON instead of one document. */
  readonly bulk?: readonly unknown[];
  readonly query?: Readonly<Record<string, string | number | boolean>>;
  readonly headers?: Readonly<Record<string, string>>;
  /** Of this one request. */
  readonly timeoutMs?: number;
}

export interface SearchCluster {
  readonly datastore: string;
  readonly name: string;
  readonly url: string;
  readonly repository: string | undefined;
  readonly indices: readonly string[];
  /** @throws HoldfastError `search-request`, `search-connect`; null for 404 */
  find<T>(path: string, request?: SearchRequest): Promise<T | null>;
  request<T>(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, request?: SearchRequest): Promise<T>;
  close(): Promise<void>;
}

const REQUEST_MS = 30_000;

/** The cluster that a step names, or the only one. */
export async function withSearch<T>(context: Context, datastoreName: string, name: string | undefined, signal: AbortSignal, work: (cluster: SearchCluster) => Promise<T>): Promise<T> {
  const cluster = await openSearch(context, datastoreName, name, signal);
  try {
    return await work(cluster);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    await cluster.close();
  }
}

async function openSearch(context: Context, datastoreName: string, wanted: string | undefined, signal: AbortSignal): Promise<SearchCluster> {
  const datastore = engineOf(context.config, datastoreName, 'opensearch');
  const names = Object.keys(datastore.clusters);
  const name = wanted ?? (names.length === 1 ? names[0]! : undefined);
  if (name === undefined) throw new HoldfastError('cluster-unknown', `datastore ${datastoreName} has several clusters, and the step names none`, { next: `give cluster: one of ${names.join(', ')}` });
  if (!Object.hasOwn(datastore.clusters, name)) throw unknownName('cluster', name, names);
  const found = datastore.clusters[name]!;
  const [username, password] = [found.username ?? datastore.username, found.password ?? datastore.password];
  const { Client } = await import('@opensearch-project/opensearch');
  const client: Client = new Client({
    node: found.url,
    ...(username === undefined || password === undefined ? {} : { auth: { username, password: await context.secrets.resolve(password) } }),
    ...(datastore.ca === undefined ? {} : { ssl: { ca: readFileSync(datastore.ca, 'utf8') } }),
    requestTimeout: REQUEST_MS,
    // Only what reads is repeated, below: a change that was not answered may have been made.
    maxRetries: 0,
  });
  const place = `OpenSearch ${name} of ${datastoreName} at ${found.url}`;

  async function once<R>(method: string, path: string, request: SearchRequest): Promise<R> {
    const params = { method, path, ...(request.query === undefined ? {} : { querystring: request.query }), ...(request.body === undefined ? {} : { body: request.body }), ...(request.bulk === undefined ? {} : { bulkBody: request.bulk }) };
    const waiting = client.transport.request(params as never, { requestTimeout: request.timeoutMs ?? REQUEST_MS, ...(request.headers === undefined ? {} : { headers: { ...request.headers } }) });
    const onAbort = (): void => void (waiting as unknown as { abort?: () => void }).abort?.();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return (await waiting).body as R;
    } catch (error) {
      signal.throwIfAborted();
      throw searchError(place, method, path, error);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }
  async function request<R>(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, options: SearchRequest = {}): Promise<R> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await once<R>(method, path, options);
      } catch (error) {
        const again = error instanceof HoldfastError && error.retryable && (method === 'GET' || error.context['status'] === 429);
        if (!again || attempt >= 4) throw error;
        await new Promise((resolve) => {
          setTimeout(resolve, 200 * 2 ** attempt);
        });
        signal.throwIfAborted();
      }
    }
  }
  return {
    datastore: datastoreName,
    name,
    url: found.url,
    repository: found.repository ?? datastore.repository,
    indices: datastore.indices,
    request,
    async find<R>(path: string, options: SearchRequest = {}) {
      try {
        return await request<R>('GET', path, options);
      } catch (error) {
        if (error instanceof HoldfastError && error.context['status'] === 404) return null;
        throw error;
      }
    },
    close: () => client.close().catch(() => {}),
  };
}

interface ErrorBody {
  readonly error?: { readonly type?: string; readonly reason?: string } | string;
}

function searchError(place: string, method: string, path: string, error: unknown): HoldfastError {
  const { statusCode, body } = error as { statusCode?: number; body?: ErrorBody };
  if (statusCode === undefined) {
    return new HoldfastError('search-connect', `${place} did not answer ${method} ${path}: ${messageOf(error)}`, { retryable: true, next: 'check that the cluster runs and that this worker reaches it', cause: error });
  }
  const said = typeof body?.error === 'object' ? `${body.error.type ?? ''}: ${body.error.reason ?? ''}` : String(body?.error ?? messageOf(error));
  const busy = statusCode === 429 || statusCode >= 502;
  const refused = statusCode === 401 || statusCode === 403;
  return new HoldfastError('search-request', `${place} answered ${method} ${path} with ${statusCode}: ${said.slice(0, 500)}`, {
    retryable: busy,
    context: { status: statusCode, type: typeof body?.error === 'object' ? body.error.type : undefined },
    next: refused ? 'check the user, its password reference and its roles' : busy ? 'the cluster is busy: look at its thread pools and circuit breakers' : 'see what it says',
    cause: error,
  });
}

/** A name that only this step gives: what a killed attempt left is found by it. */
export function stepHash(key: string): string {
  return createHash('sha256').update(key).digest('hex').slice(0, 16);
}

export function segment(name: string): string {
  return encodeURIComponent(name);
}

export function segments(names: readonly string[]): string {
  return names.map((name) => encodeURIComponent(name)).join(',');
}

export interface Shards {
  readonly total: number;
  readonly successful: number;
  readonly failed: number;
}

/** Documents that a search would find now, and whether every shard said so. */
export interface IndexCount {
  readonly documents: number;
  readonly shards: Shards;
  /** Sum of the highest sequence numbers of all primary shards: it grows with each write and each delete. */
  readonly operations: number;
  /** The same as the last commit has it: right after a restore, as the snapshot had it. */
  readonly committed: number;
}

/** Refreshed first, and counted as a search counts: figures of _stats lag behind and count nested documents too. */
export async function countDocuments(cluster: SearchCluster, indices: readonly string[]): Promise<IndexCount> {
  const path = segments(indices);
  // A refresh waits a minute for a shard that is nowhere, and then there is nothing to prove anyhow.
  const complete = ((await shardRows(cluster, indices)) ?? []).every(({ prirep, state }) => prirep !== 'p' || state === 'STARTED' || state === 'RELOCATING');
  const { _shards: refreshed } = complete ? await cluster.request<{ _shards: Shards }>('POST', `/${path}/_refresh`, { timeoutMs: 120_000 }) : { _shards: { failed: 1 } };
  const { count, _shards: counted } = await cluster.request<{ count: number; _shards: Shards }>('GET', `/${path}/_count`, { timeoutMs: 120_000 });
  interface ShardStats {
    readonly routing: { readonly primary: boolean };
    readonly seq_no?: { readonly max_seq_no: number };
    readonly commit?: { readonly user_data?: { readonly max_seq_no?: string } };
  }
  const stats = await cluster.request<{ indices: Record<string, { shards?: Record<string, ShardStats[]> }> }>('GET', `/${path}/_stats/docs`, { query: { level: 'shards' } });
  let [operations, committed] = [0, 0];
  for (const index of Object.values(stats.indices)) {
    for (const copies of Object.values(index.shards ?? {})) {
      const primary = copies.find((copy) => copy.routing.primary);
      // -1 for a shard that never had a write: one less than the first.
      operations += (primary?.seq_no?.max_seq_no ?? -1) + 1;
      committed += Number(primary?.commit?.user_data?.max_seq_no ?? -1) + 1;
    }
  }
  return { documents: count, shards: { ...counted, failed: Math.max(counted.failed, refreshed.failed, counted.total - counted.successful) }, operations, committed };
}

export interface ShardRow {
  readonly index: string;
  readonly shard: string;
  readonly prirep: string;
  readonly state: string;
  readonly 'unassigned.reason': string | null;
  readonly 'unassigned.details': string | null;
}

export function shardRows(cluster: SearchCluster, indices: readonly string[]): Promise<ShardRow[] | null> {
  return cluster.find<ShardRow[]>(`/_cat/shards/${segments(indices)}`, { query: { format: 'json', h: 'index,shard,prirep,state,unassigned.reason,unassigned.details' } });
}

/** Names of those indices that exist (closed ones too), aliases resolved to themselves being none. */
export async function existing(cluster: SearchCluster, indices: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const index of indices) if ((await cluster.find(`/${segment(index)}`)) !== null) found.push(index);
  return found;
}
