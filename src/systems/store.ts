import type { Readable } from 'node:stream';
import { HoldfastError } from '../model/errors.ts';
import { joinPrefix } from '../model/manifest.ts';
import { storeOf, type Context } from './context.ts';

export interface PutOptions {
  /** Refuse when the key exists already (`If-None-Match: *`). */
  readonly ifAbsent?: boolean;
  readonly contentType?: string;
  /** Object lock until then, where the store has it. */
  readonly lockUntilMs?: number;
  /** A guess of the size, so that parts are large enough for the store's limit on their number. */
  readonly expectedBytes?: number;
  readonly signal?: AbortSignal;
  /** Bytes that the store has confirmed so far. */
  readonly onProgress?: (storedBytes: number) => void;
}

export interface StoredObject {
  readonly key: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/**
 * Where backups go. Keys are whole keys, prefix included. A `put` either leaves the whole object or nothing:
 * the object appears only after its source ended well.
 */
export interface Store {
  /** Configured prefix, ends with `/` unless empty. */
  readonly prefix: string;
  /** How long a backup is to be locked, when the store is configured so. */
  readonly lockForMs: number | undefined;
  put(key: string, body: Readable | Buffer | string, options?: PutOptions): Promise<{ bytes: number; etag?: string | undefined }>;
  get(key: string, options?: { signal?: AbortSignal }): Promise<Readable>;
  getText(key: string, options?: { signal?: AbortSignal }): Promise<string>;
  /** undefined when there is no such object. `lockedUntilMs` is Infinity under a legal hold. */
  head(key: string): Promise<{ bytes: number; lockedUntilMs?: number } | undefined>;
  /** Every object below the prefix, in key order. Throws when the listing is not complete. */
  list(prefix: string): AsyncIterable<StoredObject>;
  /** Where the store keeps versions: every object below the prefix that was written over or deleted later. */
  superseded?(prefix: string): AsyncIterable<{ readonly key: string; readonly modifiedMs: number; readonly deleted: boolean }>;
  /** A plain delete: in a versioned bucket older versions stay until the bucket's own lifecycle removes them. */
  delete(key: string): Promise<void>;
  /** Abandon uploads below the prefix that began before `nowMs - olderThanMs`. @returns how many. */
  reapUploads(prefix: string, olderThanMs: number, nowMs: number): Promise<number>;
  /** For people: `s3://bucket/prefix`, `/path/of/folder`. */
  describe(): string;
  /** A shell command that writes the object to stdout without Holdfast. */
  plainRead(key: string): string;
}

export async function openStore(context: Context, storeName: string): Promise<Store> {
  const config = storeOf(context.config, storeName);
  const prefix = joinPrefix(config.prefix);
  if (config.type === 'folder') {
    const { createFolderStore } = await import('./store-folder.ts');
    return createFolderStore(config.path, prefix);
  }
  const { createS3Store } = await import('./store-s3.ts');
  return createS3Store(await context.aws.s3(config), config, prefix, context.config.aws);
}

export function alreadyThere(where: string): HoldfastError {
  return new HoldfastError('object-exists', `${where} exists already and is never overwritten`, { next: 'find out who wrote it; a new backup gets a folder of its own' });
}

export function isAlreadyThere(error: unknown): boolean {
  return error instanceof HoldfastError && error.code === 'object-exists';
}

/** Whoever comes first has it: what is there already stays. @returns false: it was there. */
export async function putFirst(store: Store, key: string, body: Buffer | string, options: Omit<PutOptions, 'ifAbsent'>): Promise<boolean> {
  try {
    await store.put(key, body, { ...options, ifAbsent: true });
    return true;
  } catch (error) {
    if (!isAlreadyThere(error)) throw error;
    return false;
  }
}

/** Under a name that nobody else uses: what is there already, of this size, was stored by a first try of ours whose answer was lost. Then there is no `etag`. */
export async function putOwn(store: Store, key: string, bytes: Buffer, options: Omit<PutOptions, 'ifAbsent'>): Promise<{ etag: string | undefined }> {
  try {
    return { etag: (await store.put(key, bytes, { ...options, ifAbsent: true })).etag };
  } catch (error) {
    if (!isAlreadyThere(error) || (await store.head(key))?.bytes !== bytes.length) throw error;
    return { etag: undefined };
  }
}

export function missingObject(where: string): HoldfastError {
  return new HoldfastError('object-missing', `${where} is not there`, { next: 'the backup is damaged or was deleted; choose another one with `holdfast backups`' });
}

/** One string quoted for a POSIX shell, as it stands in the plain commands. */
export function shellQuote(text: string): string {
  return /^[A-Za-z0-9_./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

export async function readText(stream: Readable, limitBytes = 512 * 1024 * 1024): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limitBytes) throw new HoldfastError('object-too-large', `an object of more than ${limitBytes} bytes was to be read as text`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
