import { HoldfastError } from '../model/errors.ts';
import { segment, segments, shardRows, type SearchCluster, type Shards } from './opensearch.ts';

/** What a snapshot says of the documents in it, counted when it began. At most 1024 bytes of metadata are allowed. */
export interface RecordedCounts {
  readonly documents: number;
  readonly operations: number;
  readonly indices: number;
}

interface SnapshotAnswer {
  readonly snapshot: string;
  readonly state: string;
  readonly indices: readonly string[];
  readonly start_time_in_millis: number;
  readonly end_time_in_millis?: number;
  readonly shards?: Shards;
  readonly failures?: readonly { readonly index?: string; readonly shard_id?: number; readonly reason?: string }[];
  readonly metadata?: { readonly holdfast?: RecordedCounts & { readonly key: string } };
}

export interface SearchSnapshot {
  readonly name: string;
  readonly state: string;
  readonly indices: readonly string[];
  readonly startedAtMs: number;
  readonly shards: Shards;
  readonly failures: readonly string[];
  /** Of the step that took it. */
  readonly key: string | null;
  readonly recorded: RecordedCounts | null;
}

export function repositoryOf(cluster: SearchCluster): string {
  if (cluster.repository === undefined) throw new HoldfastError('repository-missing', `datastore ${cluster.datastore} names no snapshot repository`, { next: 'register one on every cluster (PUT _snapshot/<name>) and add repository: <name>' });
  return cluster.repository;
}

export async function findSnapshots(cluster: SearchCluster, name: string): Promise<SearchSnapshot[]> {
  const answer = await cluster.find<{ snapshots: SnapshotAnswer[] }>(`/_snapshot/${segment(repositoryOf(cluster))}/${segment(name)}`, { query: { ignore_unavailable: true }, timeoutMs: 120_000 });
  return (answer?.snapshots ?? []).map((found) => ({
    name: found.snapshot,
    state: found.state,
    indices: found.indices,
    startedAtMs: found.start_time_in_millis,
    shards: found.shards ?? { total: 0, successful: 0, failed: 0 },
    failures: (found.failures ?? []).map(({ index, shard_id, reason }) => `${index ?? '?'}[${shard_id ?? '?'}]: ${(reason ?? '').slice(0, 120)}`),
    key: found.metadata?.holdfast?.key ?? null,
    recorded: found.metadata?.holdfast === undefined ? null : { documents: found.metadata.holdfast.documents, operations: found.metadata.holdfast.operations, indices: found.metadata.holdfast.indices },
  }));
}

/** Why a snapshot cannot be restored whole; null when it can. */
export function unfit(snapshot: SearchSnapshot, indices: readonly string[]): string | null {
  if (snapshot.state !== 'SUCCESS') return `its state is ${snapshot.state}${snapshot.failures.length === 0 ? '' : ` (${snapshot.failures.slice(0, 3).join('; ')})`}`;
  if (snapshot.shards.failed > 0) return `${snapshot.shards.failed} of its shards failed`;
  const missing = indices.filter((index) => !snapshot.indices.includes(index));
  return missing.length === 0 ? null : `it lacks ${missing.join(', ')}`;
}

/** @throws HoldfastError `snapshot-missing` with what was passed over, and why */
export async function chooseSnapshot(cluster: SearchCluster, wanted: string): Promise<SearchSnapshot> {
  const all = await findSnapshots(cluster, wanted === 'newest' ? '_all' : wanted);
  const newestFirst = all.toSorted((a, b) => b.startedAtMs - a.startedAtMs);
  const good = newestFirst.find((snapshot) => unfit(snapshot, cluster.indices) === null);
  if (good !== undefined) return good;
  const passed = newestFirst.slice(0, 5).map((snapshot) => `${snapshot.name}: ${unfit(snapshot, cluster.indices) ?? ''}`);
  throw new HoldfastError('snapshot-missing', `repository ${repositoryOf(cluster)} of ${cluster.name} has no complete snapshot ${wanted === 'newest' ? '' : `${wanted} `}of ${cluster.indices.join(', ')}${passed.length === 0 ? '' : `; passed over: ${passed.join('; ')}`}`, { next: 'name an older one, or fill the indices from their source (search.reindex)' });
}

interface Recovery {
  readonly shards: readonly { readonly primary: boolean; readonly type: string; readonly stage: string; readonly source?: { readonly repository?: string; readonly snapshot?: string } }[];
}

/** The snapshot that an index was made from; null when it was not, undefined when there is no such index. */
export async function restoredFrom(cluster: SearchCluster, index: string): Promise<string | null | undefined> {
  if ((await cluster.find(`/${segment(index)}`)) === null) return undefined;
  const answer = await cluster.find<Record<string, Recovery>>(`/${segment(index)}/_recovery`);
  const primaries = Object.values(answer ?? {}).flatMap(({ shards }) => shards.filter(({ primary }) => primary));
  const sources = new Set(primaries.map(({ type, source }) => (type === 'SNAPSHOT' && source?.repository === repositoryOf(cluster) ? (source.snapshot ?? null) : null)));
  if (sources.size === 1) return [...sources][0]!;
  if (sources.size > 1) return null;
  // No shard has begun yet: its routing says where it will come from.
  const state = await cluster.request<{ routing_table?: { indices?: Record<string, { shards: Record<string, { primary: boolean; recovery_source?: { type: string; repository?: string; snapshot?: string } }[]> }> } }>('GET', `/_cluster/state/routing_table/${segment(index)}`);
  const copies = Object.values(state.routing_table?.indices?.[index]?.shards ?? {}).flat();
  const source = copies.find((copy) => copy.primary)?.recovery_source;
  return source?.type === 'SNAPSHOT' ? (source.snapshot ?? null) : null;
}

/** Which step restored an index, in `_meta` of its mapping: a snapshot has the same name for everybody. */
export async function markRestored(cluster: SearchCluster, index: string, key: string): Promise<void> {
  await cluster.request('PUT', `/${segment(index)}/_mapping`, { timeoutMs: 120_000, body: { _meta: { ...(await metaOf(cluster, index)), holdfastRestore: key } } });
}

export async function restoredBy(cluster: SearchCluster, index: string): Promise<string | null> {
  const { holdfastRestore: key } = await metaOf(cluster, index);
  return typeof key === 'string' ? key : null;
}

async function metaOf(cluster: SearchCluster, index: string): Promise<Readonly<Record<string, unknown>>> {
  const answer = await cluster.find<Record<string, { mappings: { _meta?: Readonly<Record<string, unknown>> } }>>(`/${segment(index)}/_mapping`);
  const { _meta: meta } = answer?.[index]?.mappings ?? {};
  return meta ?? {};
}

export interface RestoreProgress {
  readonly done: boolean;
  readonly started: number;
  readonly primaries: number;
  /** Shards that gave up. */
  readonly failed: readonly string[];
}

export async function restoreProgress(cluster: SearchCluster, indices: readonly string[]): Promise<RestoreProgress> {
  const rows = (await shardRows(cluster, indices)) ?? [];
  const primaries = rows.filter(({ prirep }) => prirep === 'p');
  const started = primaries.filter(({ state }) => state === 'STARTED' || state === 'RELOCATING').length;
  const failed = primaries.filter((row) => row.state === 'UNASSIGNED' && row['unassigned.reason'] === 'ALLOCATION_FAILED').map((row) => `${row.index}[${row.shard}]: ${(row['unassigned.details'] ?? '').slice(0, 300)}`);
  const present = new Set(rows.map(({ index }) => index));
  return { done: failed.length === 0 && primaries.length > 0 && started === primaries.length && indices.every((index) => present.has(index)), started, primaries: primaries.length, failed };
}

export async function aliasesOf(cluster: SearchCluster, indices: readonly string[]): Promise<string[]> {
  const answer = (await cluster.find<Record<string, { aliases: Record<string, unknown> }>>(`/${segments(indices)}/_alias`)) ?? {};
  return [...new Set(Object.values(answer).flatMap(({ aliases }) => Object.keys(aliases)))];
}
