import { createHash } from 'node:crypto';
import { pipeline, Readable } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { isBackedUp, storeOfBackups, type StoreConfig } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { commitSchema, isManaged, manifestSchema, markSchema, type BackupSummary, type Manifest, type Mark } from '../model/manifest.ts';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import { backedUpOf, storeOf, type Context } from './context.ts';
import { openStore, type Store } from './store.ts';

export const COMMIT = 'COMMIT';
export const MANIFEST = 'manifest.json';
/** A drill that was killed leaves its mark; after this long it protects nothing any more. */
export const IN_USE_EXPIRES_MS = 7 * 86_400_000;
const FOLDER_PATTERN = /^(\d{4}\/\d{2}\/\d{2}\/\d{6}Z-([a-z0-9-]+)\/)(.+)$/;
const READERS = 8;

export interface CatalogueOptions {
  readonly signal?: AbortSignal;
  /** For the expiry of in-use marks; default: the clock. */
  readonly nowMs?: number;
  /** Only the backup with this id: the others are not read. */
  readonly id?: string;
  /** Told of folders with a COMMIT that cannot be trusted; they are no backups, but somebody should look. */
  readonly onDamaged?: (location: string, why: string) => void;
}

/**
 * Every committed backup of a datastore, oldest first. A folder counts only when its COMMIT names the digest of the manifest beside it.
 * @throws whenever the listing or a read fails: an incomplete list must never look like a complete one.
 */
export async function listBackups(store: Store, prefix: string, datastore: string, options: CatalogueOptions = {}): Promise<BackupSummary[]> {
  const folders = await readFolders(store, prefix, datastore);
  const nowMs = options.nowMs ?? Date.now();
  const waiting = [...folders.values()].filter((folder) => folder.files.has(COMMIT) && (options.id === undefined || folder.id === options.id));
  const found: BackupSummary[] = [];
  await Promise.all(
    Array.from({ length: READERS }, async () => {
      for (let folder = waiting.shift(); folder !== undefined; folder = waiting.shift()) {
        options.signal?.throwIfAborted();
        try {
          found.push(await summarise(store, folder, nowMs, options.signal));
        } catch (error) {
          if (!(error instanceof HoldfastError) || !DAMAGE.has(error.code)) {
            waiting.length = 0;
            throw error;
          }
          options.onDamaged?.(folder.location, error.message);
        }
      }
    }),
  );
  return found.sort((a, b) => a.snapshotAtMs - b.snapshotAtMs || (a.id < b.id ? -1 : 1));
}

const DAMAGE = new Set(['manifest-changed', 'manifest-invalid', 'object-missing']);

export interface BackupFolder {
  /** Ends with `/`. */
  readonly location: string;
  readonly id: string;
  /** By name below the location; objects in folders of their own too. */
  readonly files: ReadonlyMap<string, { readonly bytes: number; readonly modifiedMs: number }>;
}

/** The id in the folder of a backup; the folder itself when there is none in it. */
export function idOf(location: string): string {
  return /Z-([a-z0-9-]+)\/$/.exec(location)?.[1] ?? location;
}

/** The second in the name of a backup's folder, as epoch milliseconds. */
export function folderTimeMs(location: string): number {
  const [, year, month, day, hour, minute, second] = /(\d{4})\/(\d{2})\/(\d{2})\/(\d{2})(\d{2})(\d{2})Z-[a-z0-9-]+\/$/.exec(location)?.map(Number) ?? [];
  return Date.UTC(year ?? 1970, (month ?? 1) - 1, day ?? 1, hour ?? 0, minute ?? 0, second ?? 0);
}

/** Every folder of a backup, committed or not; or the one at `location` only. */
export async function readFolders(store: Store, prefix: string, datastore: string, location?: string): Promise<Map<string, BackupFolder>> {
  const root = `${prefix}${datastore}/`;
  const folders = new Map<string, { location: string; id: string; files: Map<string, { bytes: number; modifiedMs: number }> }>();
  for await (const object of store.list(location ?? root)) {
    const match = FOLDER_PATTERN.exec(object.key.slice(root.length));
    if (match === null) continue; // Somebody else's file.
    const location = root + match[1]!;
    let folder = folders.get(location);
    if (folder === undefined) {
      folder = { location, id: match[2]!, files: new Map() };
      folders.set(location, folder);
    }
    folder.files.set(match[3]!, { bytes: object.bytes, modifiedMs: object.modifiedMs });
  }
  return folders;
}

async function summarise(store: Store, folder: BackupFolder, nowMs: number, signal: AbortSignal | undefined): Promise<BackupSummary> {
  const { manifest, committedAtMs } = await readCommitted(store, folder.location, signal);
  const marks: Mark[] = [];
  for (const name of folder.files.keys()) {
    if (!/^MARK-.*\.json$/.test(name)) continue;
    try {
      marks.push(markSchema.parse(JSON.parse(await store.getText(folder.location + name, { signal }))));
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'object-missing') continue; // Taken away since the listing.
      if (error instanceof HoldfastError) throw error;
      throw new HoldfastError('mark-invalid', `${folder.location}${name} cannot be read: ${messageOf(error)}`, { next: 'look at the file; delete it if it means nothing', cause: error });
    }
  }
  const proofs = marks.filter((mark) => mark.mark === 'verified' || mark.mark === 'bad').sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  const proof = proofs.at(-1);
  const head = await store.head(folder.location + COMMIT);
  const locked = head?.lockedUntilMs !== undefined && head.lockedUntilMs > nowMs;
  return {
    id: manifest.id,
    datastore: manifest.datastore,
    location: folder.location,
    snapshotAtMs: Date.parse(manifest.snapshotAt),
    committedAtMs,
    storedBytes: manifest.objects.reduce((sum, object) => sum + object.storedBytes, 0),
    plainBytes: manifest.objects.reduce((sum, object) => sum + object.plainBytes, 0),
    reason: manifest.reason,
    degraded: manifest.degraded,
    complete: manifest.selection.complete,
    workflowId: manifest.workflowId,
    ...(isManaged(manifest) ? { kind: 'managed-snapshot' as const } : {}),
    proof: proof === undefined ? 'unproved' : (proof.mark as 'verified' | 'bad'),
    provedAtMs: proof === undefined ? undefined : Date.parse(proof.at),
    pinned: marks.some((mark) => mark.mark === 'pinned'),
    inUse: marks.some((mark) => mark.mark === 'in-use' && Date.parse(mark.at) > nowMs - IN_USE_EXPIRES_MS),
    lockedUntilMs: locked ? head.lockedUntilMs : undefined,
  };
}

/** The manifest of a committed backup. @throws HoldfastError when there is no COMMIT, or it commits another manifest. */
export async function readManifest(store: Store, location: string, signal?: AbortSignal): Promise<Manifest> {
  return (await readCommitted(store, location, signal)).manifest;
}

async function readCommitted(store: Store, location: string, signal?: AbortSignal): Promise<{ manifest: Manifest; committedAtMs: number }> {
  let commit;
  try {
    commit = commitSchema.parse(JSON.parse(await store.getText(location + COMMIT, { signal })));
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    throw new HoldfastError('manifest-invalid', `${location}${COMMIT} is not what Holdfast writes: ${messageOf(error)}`, { next: 'this is no backup; look at who wrote the file', cause: error });
  }
  const text = await store.getText(location + MANIFEST, { signal });
  const digest = createHash('sha256').update(text).digest('hex');
  if (digest !== commit.manifestSha256) {
    throw new HoldfastError('manifest-changed', `${location}${MANIFEST} has SHA-256 ${digest}, but ${COMMIT} commits ${commit.manifestSha256}`, { next: 'the manifest was changed or damaged after the backup; use another backup and find out who wrote there' });
  }
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw new HoldfastError('manifest-invalid', `${location}${MANIFEST} is no JSON, although ${COMMIT} commits it: ${messageOf(error)}`, { next: 'this is no backup of Holdfast; look at who wrote the files', cause: error });
  }
  const parsed = manifestSchema.safeParse(document);
  if (!parsed.success) {
    const format = (document as { format?: unknown } | null)?.format;
    throw new HoldfastError('manifest-invalid', `${location}${MANIFEST} has a form this Holdfast does not know (format ${(JSON.stringify(format) ?? 'none').slice(0, 40)}): ${parsed.error.issues[0]?.path.join('.')}: ${parsed.error.issues[0]?.message}`, { next: 'use the Holdfast version that wrote it, or the plain commands in it' });
  }
  return { manifest: parsed.data, committedAtMs: Date.parse(commit.committedAt) };
}

/** A later finding about a backup. `name` keeps marks of one kind apart, e.g. two drills that use it at once. */
export async function writeMark(store: Store, location: string, mark: Mark, name: string = mark.mark): Promise<void> {
  await store.put(markKey(location, name), `${JSON.stringify(markSchema.parse(mark), null, 2)}\n`, { contentType: 'application/json' });
}

export async function removeMark(store: Store, location: string, name: string): Promise<void> {
  await store.delete(markKey(location, name));
}

function markKey(location: string, name: string): string {
  if (!/^[A-Za-z0-9._-]{1,100}$/.test(name)) throw new HoldfastError('mark-name', `"${name}" is no name for a mark`, { next: 'use letters, digits, dots, hyphens' });
  return `${location}MARK-${name}.json`;
}

export interface FoundBackup {
  readonly storeName: string;
  readonly store: Store;
  readonly summary: BackupSummary;
}

/** The store a datastore's backups are in. */
export function storeNameOf(context: Context, datastoreName: string): string {
  const datastore = backedUpOf(context.config, datastoreName);
  const name = storeOfBackups(context.config, datastore);
  if (name === undefined) {
    throw new HoldfastError('store-unclear', `datastore ${datastoreName} does not say which store its backups go to`, { next: `add \`store:\` with one of: ${Object.keys(context.config.stores).join(', ')}` });
  }
  storeOf(context.config, name);
  return name;
}

/** A backup by its id, or the newest one, of one datastore or of all. @throws HoldfastError `backup-missing`. */
export async function findBackup(context: Context, id: string, datastoreName?: string, options: CatalogueOptions = {}): Promise<FoundBackup> {
  const datastores = datastoreName === undefined ? Object.keys(context.config.datastores).filter((name) => isBackedUp(context.config.datastores[name]!)) : [datastoreName];
  const seen: FoundBackup[] = [];
  for (const name of datastores) {
    const storeName = storeNameOf(context, name);
    const store = await openStore(context, storeName);
    for (const summary of await listBackups(store, store.prefix, name, { ...options, ...(id === 'newest' ? {} : { id }) })) seen.push({ storeName, store, summary });
  }
  const wanted = id === 'newest' ? [...seen].sort((a, b) => b.summary.snapshotAtMs - a.summary.snapshotAtMs).slice(0, 1) : seen.filter(({ summary }) => summary.id === id);
  if (wanted.length === 1) return wanted[0]!;
  throw new HoldfastError('backup-missing', wanted.length === 0 ? `there is no committed backup ${id}${datastoreName === undefined ? '' : ` of ${datastoreName}`}` : `${wanted.length} datastores have a backup ${id}`, {
    next: wanted.length === 0 ? 'list them with `holdfast backups`' : 'name the datastore with --datastore',
  });
}

export interface OpenObjectOptions {
  readonly signal?: AbortSignal;
  /** Plain bytes handed out so far. */
  readonly onProgress?: (plainBytes: number) => void;
}

/**
 * The plain bytes of one object: decrypted, decompressed. The stream ends well only when stored and plain sizes and SHA-256
 * are what the manifest says; whoever consumes it must treat an error at the very end as the error it is.
 */
export async function openObject(context: Context, storeName: string, location: string, entry: ObjectEntry, options: OpenObjectOptions = {}): Promise<Readable> {
  const store = await openStore(context, storeName);
  const where = `${location}${entry.name}`;
  const damaged = (why: string, cause?: unknown): HoldfastError =>
    new HoldfastError('object-damaged', `${where} in ${store.describe()} is damaged: ${why}`, { next: 'do not rely on this backup; restore another one and find out what changed the object', cause });

  const raw = await store.get(where, { signal: options.signal });
  async function* stored(): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of raw as AsyncIterable<Buffer>) {
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
    if (bytes !== entry.storedBytes) throw damaged(`${bytes} bytes are stored, the manifest says ${entry.storedBytes}`);
    const digest = hash.digest('hex');
    if (digest !== entry.storedSha256) throw damaged(`the stored bytes have SHA-256 ${digest}, the manifest says ${entry.storedSha256}`);
  }
  let stream: Readable = Readable.from(stored(), { objectMode: false });
  if (entry.encryption === 'age') stream = await decrypted(context, storeOf(context.config, storeName), storeName, stream, damaged);
  if (entry.compression !== 'none') {
    const source = stream;
    const unpacked = entry.compression === 'zstd' ? createZstdDecompress() : createGunzip();
    pipeline(source, unpacked, () => {}); // Errors travel on through the last stream.
    stream = unpacked;
  }
  const packed = stream;
  async function* plain(): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    let bytes = 0;
    try {
      for await (const chunk of packed as AsyncIterable<Buffer>) {
        hash.update(chunk);
        bytes += chunk.length;
        options.onProgress?.(bytes);
        yield chunk;
      }
    } catch (error) {
      options.signal?.throwIfAborted();
      const code = (error as NodeJS.ErrnoException).code ?? '';
      throw error instanceof HoldfastError || (!code.startsWith('ZSTD') && !code.startsWith('Z_') && !code.startsWith('ERR_ZSTD')) ? error : damaged(messageOf(error), error);
    } finally {
      raw.destroy();
      packed.destroy();
    }
    if (bytes !== entry.plainBytes) throw damaged(`it unpacks to ${bytes} bytes, the manifest says ${entry.plainBytes}`);
    const digest = hash.digest('hex');
    if (digest !== entry.plainSha256) throw damaged(`the unpacked bytes have SHA-256 ${digest}, the manifest says ${entry.plainSha256}`);
  }
  return Readable.from(plain(), { objectMode: false });
}

async function decrypted(context: Context, config: StoreConfig, storeName: string, source: Readable, damaged: (why: string, cause?: unknown) => HoldfastError): Promise<Readable> {
  const reference = config.encryption?.identity;
  if (reference === undefined) {
    throw new HoldfastError('identity-missing', `the backup is encrypted, but store ${storeName} names no identity to decrypt it with`, { next: `add stores.${storeName}.encryption.identity: a reference to the age secret key` });
  }
  const { Decrypter } = await import('age-encryption');
  const decrypter = new Decrypter();
  decrypter.addIdentity((await context.secrets.resolve(reference)).trim());
  try {
    const plain = await decrypter.decrypt(Readable.toWeb(source) as unknown as globalThis.ReadableStream<Uint8Array>);
    return Readable.fromWeb(plain as unknown as ReadableStream);
  } catch (error) {
    source.destroy();
    throw error instanceof HoldfastError ? error : damaged(`it cannot be decrypted with the configured identity: ${messageOf(error)}`, error);
  }
}

