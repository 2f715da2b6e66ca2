import { PassThrough, type Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { RedisDatastore } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { joinPrefix } from '../model/manifest.ts';
import type { Context } from './context.ts';
import { rdbHead, rdbKeys, type RdbHead, type RdbSummary } from './rdb.ts';
import { otherClients, redisState, streamSnapshot, withRedis, type Redis, type RedisState, type RedisTarget } from './redis.ts';
import { openStore, type Store } from './store.ts';

/** Says whose work a substitute holds; it goes by itself after a while. */
export const MARK_KEY = 'holdfast:substitute';
const MARK_KEPT_MS = 7 * 86_400_000;
/** A key that expires within this time may be gone before the server has taken it, without being counted there. */
const RACED_MS = 30_000;

export interface RestoredCounts {
  readonly snapshot: string;
  readonly keys: number;
  readonly expiredBefore: number;
  readonly expiring: number;
  readonly expiredKeys: number;
  readonly evictedKeys: number;
  readonly runId: string;
  readonly restoreMs: number;
  readonly snapshotAtMs: number;
  readonly snapshotAgeMs: number;
}

export interface Mark {
  readonly key: string;
  readonly snapshot: string;
  readonly state: 'restoring' | 'done';
  readonly counts?: RestoredCounts;
}

export interface Snapshot {
  readonly name: string;
  readonly key: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

export interface SnapshotFolder {
  readonly store: Store;
  readonly prefix: string;
}

/** @throws HoldfastError `snapshots-missing` */
export async function snapshotFolder(context: Context, name: string, datastore: RedisDatastore): Promise<SnapshotFolder> {
  if (datastore.snapshots === undefined) throw new HoldfastError('snapshots-missing', `datastore ${name} does not say where its snapshots lie`, { next: 'add snapshots: { store: <name>, prefix: <folder> } to it' });
  const store = await openStore(context, datastore.snapshots.store);
  return { store, prefix: `${store.prefix}${joinPrefix(datastore.snapshots.prefix)}` };
}

/** @throws HoldfastError `snapshot-missing` naming the newest there are */
export async function findSnapshot(folder: SnapshotFolder, wanted: string): Promise<Snapshot> {
  let found: Snapshot | undefined;
  for await (const object of folder.store.list(folder.prefix)) {
    if (!object.key.endsWith('.rdb')) continue;
    const name = object.key.slice(folder.prefix.length);
    if (wanted === 'newest' ? found === undefined || object.modifiedMs > found.modifiedMs : name === wanted) found = { name, ...object };
  }
  if (found !== undefined) return found;
  throw new HoldfastError('snapshot-missing', `there is no snapshot ${wanted === 'newest' ? '' : `${wanted} `}below ${folder.store.describe()}: looked for ${folder.prefix}*.rdb`, { next: 'take one (redis.snapshot), copy one there, or use `from: cold`' });
}

export async function readSnapshotHead(folder: SnapshotFolder, snapshot: Snapshot, signal: AbortSignal): Promise<RdbHead> {
  const body = await folder.store.get(snapshot.key, { signal });
  try {
    return await rdbHead(body as AsyncIterable<Buffer>);
  } finally {
    body.destroy();
  }
}

/**
 * Into the store while it is read to its end: an object appears only when the whole file came and its checksum matched.
 * @returns null when this key is there already.
 */
export async function storeSnapshot(target: RedisTarget, folder: SnapshotFolder, key: string, signal: AbortSignal, report: (bytes: number) => void): Promise<RdbSummary> {
  const { bytes, body } = await streamSnapshot(target, signal);
  const out = new PassThrough();
  let counted: RdbSummary | undefined;
  async function* checked(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    // Parsed on its way: what cannot be restored later is no snapshot.
    const queue: Buffer[] = [];
    const keys = rdbKeys({
      async *[Symbol.asyncIterator]() {
        for await (const chunk of source) {
          queue.push(chunk);
          yield chunk;
        }
      },
    });
    for (;;) {
      const next = await keys.next();
      while (queue.length > 0) yield queue.shift()!;
      if (next.done === true) {
        counted = next.value;
        return;
      }
    }
  }
  const stored = folder.store.put(key, out, { ifAbsent: true, contentType: 'application/octet-stream', expectedBytes: bytes, signal, onProgress: report });
  stored.catch(() => out.destroy());
  try {
    await pipeline(body, checked, out, { signal });
  } catch (error) {
    // The upload must see that its source failed, and leave nothing.
    out.destroy(error as Error);
    await stored.catch(() => {});
    throw error;
  }
  await stored;
  if (counted === undefined || counted.bytes !== bytes) throw new HoldfastError('rdb-broken', `${counted?.bytes ?? 0} of ${bytes} bytes of the snapshot were read`, { next: 'take it again' });
  return counted;
}

export async function readMark(client: Redis): Promise<Mark | null> {
  const text = await client.sendCommand(['GET', MARK_KEY]).catch((error: unknown) => {
    // Somebody else's key of this name.
    if ((error as Error).message.startsWith('WRONGTYPE')) return '{}';
    throw error;
  });
  if (text === null) return null;
  try {
    return JSON.parse(String(text)) as Mark;
  } catch {
    return null;
  }
}

/** Keys that are there, without our mark. */
export function foundKeys(state: RedisState, mark: Mark | null): number {
  return state.keys - (mark === null ? 0 : 1);
}

/**
 * Keys that the server must hold, as far as its own counters tell: each key that expired meanwhile was counted by it.
 * @returns how many are too few or too many; null when the counters are of another run of the server.
 */
export function differsBy(state: RedisState, mark: Mark | null, counts: Pick<RestoredCounts, 'keys' | 'expiredKeys' | 'runId'>): number | null {
  if (state.runId !== counts.runId) return null;
  return foundKeys(state, mark) + (state.expiredKeys - counts.expiredKeys) - counts.keys;
}

/**
 * Fills an empty Redis with a snapshot by RESTORE, key by key, and counts. What a killed attempt of the same step left is removed first.
 * @throws HoldfastError `redis-not-empty`, `redis-full`, `redis-miscounted`, `rdb-broken`
 */
export async function restoreSnapshot(target: RedisTarget, folder: SnapshotFolder, snapshot: Snapshot, step: { readonly key: string; readonly signal: AbortSignal; readonly nowMs: () => number; readonly report: (details: unknown) => void }): Promise<RestoredCounts> {
  return withRedis(
    target,
    async (client) => {
      const started = step.nowMs();
      await takeEmpty(client, target, { key: step.key, snapshot: snapshot.name, state: 'restoring' });
      const base = await redisState(client);
      const [seconds, micros] = (await client.sendCommand(['TIME'])) as unknown as [string, string];
      // Redis expires by its own clock.
      const skew = Number(seconds) * 1000 + Math.floor(Number(micros) / 1000) - Date.now();
      const body: Readable = await folder.store.get(snapshot.key, { signal: step.signal });
      const mark = Buffer.from(MARK_KEY);
      let [database, restored, expiredBefore, expiring, raced] = [0, 0, 0, 0, 0];
      let summary: RdbSummary;
      try {
        const batches = rdbKeys(body as AsyncIterable<Buffer>);
        for (;;) {
          const batch = await batches.next();
          if (batch.done === true) {
            summary = batch.value;
            break;
          }
          step.signal.throwIfAborted();
          const now = Date.now() + skew;
          const answers: Promise<unknown>[] = [];
          for (const entry of batch.value) {
            // The snapshot may itself be of a substitute.
            if (entry.key.equals(mark)) continue;
            if (entry.expireAtMs !== null && entry.expireAtMs <= now) {
              expiredBefore += 1;
              continue;
            }
            if (entry.expireAtMs !== null) expiring += 1;
            if (entry.expireAtMs !== null && entry.expireAtMs <= now + RACED_MS) raced += 1;
            if (entry.database !== database) {
              database = entry.database;
              answers.push(client.sendCommand(['SELECT', String(database)]));
            }
            restored += 1;
            answers.push(client.sendCommand(['RESTORE', entry.key, String(entry.expireAtMs ?? 0), entry.payload, 'REPLACE', 'ABSTTL']));
          }
          await settled(answers, target, snapshot);
          step.report({ keys: restored });
        }
        for (const library of summary.functions) await client.sendCommand(['FUNCTION', 'LOAD', 'REPLACE', library]);
      } finally {
        body.destroy();
      }
      await client.sendCommand(['SELECT', '0']);
      const after = await redisState(client);
      const keys = after.keys - 1;
      const missing = restored - keys - (after.expiredKeys - base.expiredKeys);
      if (after.evictedKeys > base.evictedKeys) {
        throw new HoldfastError('redis-full', `Redis ${target.node} evicted ${after.evictedKeys - base.evictedKeys} keys while the snapshot was restored: it does not fit into maxmemory ${after.maxmemory}`, { next: 'give it as much memory as the lost one had, then retry' });
      }
      if (missing < 0 || missing > raced) {
        throw new HoldfastError('redis-miscounted', `${restored} keys were restored, and Redis ${target.node} holds ${keys}, with ${after.expiredKeys - base.expiredKeys} expired since: ${missing < 0 ? 'somebody else writes to it' : `${missing} are missing`}`, { next: 'keep applications away from the substitute until it is in service, then retry' });
      }
      const snapshotAtMs = summary.createdAtMs ?? snapshot.modifiedMs;
      const counts: RestoredCounts = { snapshot: snapshot.name, keys, expiredBefore, expiring, expiredKeys: after.expiredKeys, evictedKeys: after.evictedKeys, runId: after.runId, restoreMs: step.nowMs() - started, snapshotAtMs, snapshotAgeMs: Math.max(0, started - snapshotAtMs) };
      await client.sendCommand(['SET', MARK_KEY, JSON.stringify({ key: step.key, snapshot: snapshot.name, state: 'done', counts } satisfies Mark), 'PX', String(MARK_KEPT_MS)]);
      return counts;
    },
    step.signal,
  );
}

/** Ours from here on, and empty. */
async function takeEmpty(client: Redis, target: RedisTarget, mark: Mark): Promise<void> {
  const text = JSON.stringify(mark);
  // Nobody may write between the look and the mark.
  await client.sendCommand(['WATCH', MARK_KEY]);
  const [state, found] = [await redisState(client), await readMark(client)];
  const ours = found?.key === mark.key;
  if (state.keys > 0 && ours && (await otherClients(client)) > 0) {
    throw new HoldfastError('redis-not-empty', `Redis ${target.node} of ${target.datastore} holds ${state.keys} keys of an earlier attempt, and other clients are connected: what they wrote meanwhile would go with them`, { next: 'disconnect them, then retry' });
  }
  if (state.keys > 0 && !ours) {
    throw new HoldfastError('redis-not-empty', `Redis ${target.node} of ${target.datastore} holds ${state.keys} keys${found?.key === undefined ? '' : ` (a substitute that ${found.key} made)`}: nothing is put into it`, { next: 'check that it is the right server; empty it by hand (FLUSHALL) only when it serves nobody' });
  }
  await client.sendCommand(['MULTI']);
  if (state.keys > 0) await client.sendCommand(['FLUSHALL']);
  await client.sendCommand(['SET', MARK_KEY, text]);
  if ((await client.sendCommand(['EXEC'])) === null) throw new HoldfastError('redis-not-empty', `somebody else marked Redis ${target.node} at the same time`, { retryable: true, next: 'look for a second execution that fills it' });
}

async function settled(answers: readonly Promise<unknown>[], target: RedisTarget, snapshot: Snapshot): Promise<void> {
  const results = await Promise.allSettled(answers);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed === undefined) return;
  const text = (failed.reason as Error).message;
  if (/DUMP payload version|Bad data format/.test(text)) {
    throw new HoldfastError('rdb-unsupported', `Redis ${target.node} does not take the values of ${snapshot.name}: ${text}`, { next: 'use a server at least as new as the one that wrote the snapshot' });
  }
  throw failed.reason;
}

/** Takes away what this step put there, and nothing that others wrote. @returns what it found */
export async function emptySubstitute(target: RedisTarget, key: string, signal: AbortSignal): Promise<'emptied' | 'not-ours' | 'written-to'> {
  return withRedis(
    target,
    async (client) => {
      await client.sendCommand(['WATCH', MARK_KEY]);
      const [state, mark] = [await redisState(client), await readMark(client)];
      if (mark === null || mark.key !== key) return 'not-ours';
      if (state.role !== 'master') return 'written-to';
      if ((await otherClients(client)) > 0) return 'written-to';
      if (mark.counts !== undefined) {
        const more = differsBy(state, mark, mark.counts);
        if (more === null ? foundKeys(state, mark) > mark.counts.keys : more > 0) return 'written-to';
      }
      await client.sendCommand(['MULTI']);
      await client.sendCommand(['FLUSHALL']);
      return (await client.sendCommand(['EXEC'])) === null ? 'written-to' : 'emptied';
    },
    signal,
  );
}
