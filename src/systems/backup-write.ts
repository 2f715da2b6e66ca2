import { createHash } from 'node:crypto';
import { finished, pipeline, Readable, type Duplex } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import { constants, createGzip, createZstdCompress } from 'node:zlib';
import type { BackupResult } from '../model/api.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { contentOf, manifestSchema, type Manifest } from '../model/manifest.ts';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import type { BackupOptions, BackupProgress, BackupRequest } from './backup-engine.ts';
import { COMMIT, MANIFEST, readFolders, readManifest, storeNameOf } from './backup-catalogue.ts';
import { storeOf, type Context } from './context.ts';
import { isAlreadyThere, openStore, type PutOptions, type Store } from './store.ts';

/** What is told of a backup under way: changed by whoever makes it, and told by `report`, the first time at once. */
export function createProgress({ location }: Pick<BackupRequest, 'location'>, { onProgress }: Pick<BackupOptions, 'onProgress'>, ofTables = 0): { readonly progress: { -readonly [K in keyof BackupProgress]: BackupProgress[K] }; report(): void } {
  const progress: { -readonly [K in keyof BackupProgress]: BackupProgress[K] } = { phase: 'connect', location, plainBytes: 0, storedBytes: 0, bytesPerSecond: 0, tables: 0, ofTables };
  const report = (): void => onProgress?.({ ...progress });
  report();
  return { progress, report };
}

export function resultOf(manifest: Manifest, location: string, durationMs: number): BackupResult {
  return {
    id: manifest.id,
    datastore: manifest.datastore,
    location,
    snapshotAt: manifest.snapshotAt,
    storedBytes: manifest.objects.reduce((sum, object) => sum + object.storedBytes, 0),
    plainBytes: manifest.objects.reduce((sum, object) => sum + object.plainBytes, 0),
    durationMs: Math.round(durationMs),
    ...contentOf(manifest),
    ...(manifest.degraded === undefined ? {} : { degraded: manifest.degraded }),
  };
}

/** All together; the first failure stops the others, and nothing is left running when it is thrown. */
export async function allOrStop<T extends readonly (() => Promise<unknown>)[]>(stop: AbortController, tasks: T, signal: AbortSignal): Promise<{ -readonly [K in keyof T]: Awaited<ReturnType<T[K]>> }> {
  let first: { error: unknown } | undefined;
  const results = await Promise.all(
    tasks.map(async (task) => {
      try {
        return await task();
      } catch (error) {
        // What breaks because of an abort is not the cause of it; the reason of the abort is.
        first ??= { error: signal.aborted && !stop.signal.aborted ? signal.reason : error };
        stop.abort();
        return undefined;
      }
    }),
  );
  if (first !== undefined) throw first.error;
  return results as { -readonly [K in keyof T]: Awaited<ReturnType<T[K]>> };
}

export interface WriteOptions {
  readonly context: Context;
  readonly storeName: string;
  readonly store: Store;
  readonly location: string;
  /** Every key is noted here before it is written, for whoever cleans up. */
  readonly written: string[];
  readonly put: PutOptions;
  /** Default: zstd, whose level goes from 1 to 19; of gzip from 1 to 9. */
  readonly compression?: 'zstd' | 'gzip';
  readonly level: number;
}

/** plain -> zstd or gzip -> (age) -> store, with sizes and digests of both ends. The source is destroyed and closed in every outcome. */
export async function writeObject(options: WriteOptions, baseName: string, role: ObjectEntry['role'], source: Readable, put: PutOptions): Promise<ObjectEntry> {
  const encryption = storeOf(options.context.config, options.storeName).encryption;
  const compression = options.compression ?? 'zstd';
  const name = `${baseName}${ENDINGS[compression]}${encryption === undefined ? '' : '.age'}`;
  const plain = createMeter(source);
  const packed = compressor(compression, options.level);
  const closed = new Promise<void>((resolve) => void source.once('close', resolve));
  pipeline(plain.stream, packed, () => {}); // An error of one end destroys the other, and so reaches the store's reader.
  const sealed = encryption === undefined ? packed : await encrypted(packed, encryption.recipients);
  const stored = createMeter(sealed);
  const key = options.location + name;
  options.written.push(key);
  try {
    await options.store.put(key, stored.stream, { ...options.put, ...put, contentType: 'application/octet-stream' });
  } catch (error) {
    // Nobody else writes under this name: what is there, whole, was stored by a first try whose answer was lost.
    if (!isAlreadyThere(error) || !stored.ended() || (await options.store.head(key))?.bytes !== stored.bytes()) throw error;
  } finally {
    stored.stream.destroy();
    sealed.destroy();
    packed.destroy();
    source.destroy();
    await closed; // Children of the source are gone only then.
  }
  return {
    name, role, compression, encryption: encryption === undefined ? 'none' : 'age',
    storedBytes: stored.bytes(), storedSha256: stored.sha256(), plainBytes: plain.bytes(), plainSha256: plain.sha256(),
  };
}

const ENDINGS = { zstd: '.zst', gzip: '.gz' } as const;

function compressor(compression: keyof typeof ENDINGS, level: number): Duplex {
  if (compression === 'gzip') return createGzip({ level: Math.min(level, 9) });
  // It runs on a thread of its own. ZSTD_c_nbWorkers must stay unset: with it Node 24 loses input and ends the stream early.
  return createZstdCompress({ chunkSize: 256 * 1024, params: { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_checksumFlag]: 1 } });
}

function createMeter(source: Readable): { stream: Readable; bytes(): number; ended(): boolean; sha256(): string } {
  const hash = createHash('sha256');
  let bytes = 0;
  let digest: string | undefined;
  async function* measured(): AsyncGenerator<Buffer> {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
    digest = hash.digest('hex');
  }
  return {
    stream: Readable.from(measured(), { objectMode: false }),
    bytes: () => bytes,
    ended: () => digest !== undefined,
    sha256() {
      if (digest === undefined) throw new HoldfastError('stream-unfinished', 'a digest was asked for before its stream had ended');
      return digest;
    },
  };
}

async function encrypted(source: Readable, recipients: readonly string[]): Promise<Readable> {
  const { Encrypter } = await import('age-encryption');
  const encrypter = new Encrypter();
  for (const recipient of recipients) encrypter.addRecipient(recipient);
  const sealed = await encrypter.encrypt(Readable.toWeb(source) as unknown as globalThis.ReadableStream<Uint8Array>);
  const stream = Readable.fromWeb(sealed as unknown as ReadableStream);
  // Whoever reads it sees the error as well; before anybody does, an error without a listener would end the process.
  stream.on('error', () => {});
  finished(source, (error) => {
    if (error) stream.destroy(error);
  });
  return stream;
}

/** Objects that are asked for at the same time before a commit. */
const LOOKS = 8;

/**
 * Manifest, then COMMIT, both only where there is none. Before COMMIT every object is looked at again, and `mayCommit` is asked last.
 * Attempts that share a folder may meet here: a manifest of the same backup that is there already is whole as well, and is what is committed,
 * so that however many come, and whichever of them was believed dead, one manifest has one COMMIT.
 * @returns the manifest that was committed.
 * @throws HoldfastError `object-vanished`; whatever `mayCommit` throws.
 */
export async function commitBackup<M extends Manifest>(store: Store, request: Pick<BackupRequest, 'location'>, manifest: M, written: string[], put: PutOptions, mayCommit: () => Promise<void> = () => Promise.resolve()): Promise<M> {
  const { location } = request;
  const own = `${JSON.stringify(manifest, null, 1)}\n`;
  written.push(location + MANIFEST);
  let committed: M = manifest;
  let text = own;
  try {
    await store.put(location + MANIFEST, own, { ...put, contentType: 'application/json' });
  } catch (error) {
    if (!isAlreadyThere(error)) throw error;
    text = await store.getText(location + MANIFEST, { signal: put.signal });
    // The same text: the answer to our first try was lost, and the second found it.
    if (text !== own) committed = sameBackup(text, manifest, error);
  }
  await checkObjects(store, location, committed, put.signal);
  const manifestSha256 = createHash('sha256').update(text).digest('hex');
  const body = `${JSON.stringify({ format: 1, id: manifest.id, manifestSha256, committedAt: new Date().toISOString() })}\n`;
  await mayCommit();
  put.signal?.throwIfAborted();
  written.push(location + COMMIT);
  try {
    await store.put(location + COMMIT, body, { ...put, contentType: 'application/json' });
  } catch (error) {
    // The answer to our first try may have been lost, and the second found our own COMMIT; or another attempt was first.
    if (!isAlreadyThere(error)) throw error;
    const there = await readManifest(store, location);
    if (there.id !== manifest.id) throw error;
    return there as unknown as M;
  }
  return committed;
}

/** @throws `error` when what is there is not a manifest of this backup. */
function sameBackup<M extends Manifest>(text: string, manifest: M, error: unknown): M {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    throw error;
  }
  const parsed = manifestSchema.safeParse(document);
  if (!parsed.success || parsed.data.id !== manifest.id || parsed.data.engine !== manifest.engine || parsed.data.runId !== manifest.runId) throw error;
  // Of the same engine as `manifest`.
  return parsed.data as unknown as M;
}

/** Somebody who took us for dead may have removed objects meanwhile. */
async function checkObjects(store: Store, location: string, { objects }: Manifest, signal: AbortSignal | undefined): Promise<void> {
  const waiting = [...objects];
  await Promise.all(Array.from({ length: LOOKS }, async () => {
    for (let object = waiting.shift(); object !== undefined; object = waiting.shift()) {
      signal?.throwIfAborted();
      const head = await store.head(location + object.name);
      if (head?.bytes === object.storedBytes) continue;
      waiting.length = 0;
      throw new HoldfastError('object-vanished', `${location}${object.name} has ${head?.bytes ?? 'no'} bytes in the store, ${object.storedBytes} were written`, { retryable: true, next: 'another attempt of this backup took over; nothing needs to be done' });
    }
  }));
}

/** COMMIT first: from then on no reader takes it for a backup. */
export async function cleanUp(context: Context, store: Store, location: string, written: readonly string[]): Promise<void> {
  for (const key of [...written].reverse()) {
    try {
      await store.delete(key);
    } catch (error) {
      context.log.warn({ key, error: messageOf(error) }, 'an object of a failed backup could not be removed; the reaper will');
    }
  }
  await store.reapUploads(location, 0, Date.now() + 1000).catch((error: unknown) => context.log.warn({ location, error: messageOf(error) }, 'uploads of a failed backup could not be looked for; the reaper will'));
}

/**
 * After an attempt that may have died anywhere: adopt its backup when it was committed, else remove whatever it left.
 * @param keep what it left is of use to the next attempt, its manifest too: whoever comes next commits that one.
 * @returns the adopted backup, or undefined.
 */
export async function settleAttempt(context: Context, datastoreName: string, location: string, keep = false): Promise<BackupResult | undefined> {
  const store = await openStore(context, storeNameOf(context, datastoreName));
  const nowMs = Date.now() + 1000;
  if ((await store.head(location + COMMIT)) !== undefined) {
    const manifest = await readManifest(store, location);
    return resultOf(manifest, location, Date.parse(manifest.finishedAt) - Date.parse(manifest.startedAt));
  }
  if (keep) return undefined;
  await store.reapUploads(location, 0, nowMs);
  await removeStored(context, store, location);
  return undefined;
}

/** Everything in the folder of a backup that has no COMMIT. */
export async function removeStored(context: Context, store: Store, location: string): Promise<void> {
  const keys: string[] = [];
  for await (const object of store.list(location)) keys.push(object.key);
  // The manifest first: with it gone a late COMMIT of a process that was only believed dead commits nothing.
  keys.sort((a, b) => Number(b.endsWith(MANIFEST)) - Number(a.endsWith(MANIFEST)));
  for (const key of keys) {
    try {
      await store.delete(key);
    } catch (error) {
      // A role that only writes: without COMMIT it is no backup, and the next attempt has a folder of its own.
      if (!(error instanceof HoldfastError) || error.context['status'] !== 403) throw error;
      context.log.warn({ location, error: messageOf(error) }, 'what an attempt left may not be deleted here; retention removes it');
      break;
    }
  }
}

/**
 * What attempts that share a folder left, each in a folder of its own, and the committed manifest does not name. It harms nobody: where it may
 * not be removed, it goes with the backup.
 */
export async function removeLeftovers(context: Context, store: Store, location: string, { objects }: Manifest): Promise<void> {
  const named = new Set(objects.map(({ name }) => name));
  try {
    for await (const { key } of store.list(location)) {
      const name = key.slice(location.length);
      if (name.includes('/') && !named.has(name)) await store.delete(key);
    }
  } catch (error) {
    context.log.info({ location, error: messageOf(error) }, 'what attempts of this backup left could not be removed; it goes with the backup');
  }
}

/** Older than that nothing can still be running: an attempt's deadline, twice for the others, and a day. */
export function orphanAgeMs(backupTimeoutMs: number): number {
  return backupTimeoutMs * 2 + 86_400_000;
}

/**
 * The reaper: uploads that never ended and folders that were never committed, both older than any backup can still be running.
 * @returns how many of both were removed.
 */
export async function reapOrphans(context: Context, datastoreName: string, olderThanMs: number, nowMs: number, signal?: AbortSignal): Promise<{ uploads: number; folders: number }> {
  const store = await openStore(context, storeNameOf(context, datastoreName));
  const uploads = await store.reapUploads(`${store.prefix}${datastoreName}/`, olderThanMs, nowMs);
  let folders = 0;
  for (const folder of (await readFolders(store, store.prefix, datastoreName)).values()) {
    signal?.throwIfAborted();
    if (folder.files.has(COMMIT)) continue;
    if ([...folder.files.values()].some((file) => file.modifiedMs >= nowMs - olderThanMs)) continue;
    for (const name of folder.files.keys()) await store.delete(folder.location + name);
    folders += 1;
  }
  return { uploads, folders };
}
