import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { link, mkdir, open, readdir, rename, rm, rmdir, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join, resolve, sep } from 'node:path';
import type { Readable } from 'node:stream';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { alreadyThere, missingObject, readText, shellQuote, type PutOptions, type Store, type StoredObject } from './store.ts';

/** Name of a file that is still being written; never listed, removed by the reaper. Nothing of the final name follows: that may be as long as a name can be. */
const UPLOAD_PREFIX = '.upload-';

/** A store in a folder, for a laptop or a mounted disk: same promises as S3, by temp name, fsync and link. */
export function createFolderStore(path: string, prefix: string): Store {
  const root = resolve(path);

  function fileOf(key: string): string {
    const file = resolve(root, key);
    if (file !== root && !file.startsWith(root + sep)) throw new HoldfastError('store-key', `key "${key}" leads out of the folder ${root}`);
    return file;
  }

  async function put(key: string, body: Readable | Buffer | string, options: PutOptions = {}): Promise<{ bytes: number }> {
    const file = fileOf(key);
    const temporary = join(dirname(file), `${UPLOAD_PREFIX}${randomBytes(8).toString('hex')}`);
    let bytes = 0;
    let handle: FileHandle | undefined;
    try {
      options.signal?.throwIfAborted();
      await mkdir(dirname(file), { recursive: true, mode: 0o700 });
      handle = await open(temporary, 'wx', 0o600);
      if (typeof body === 'string' || Buffer.isBuffer(body)) {
        const data = Buffer.from(body as string);
        await handle.writeFile(data);
        bytes = data.length;
      } else {
        for await (const chunk of body as AsyncIterable<Buffer>) {
          options.signal?.throwIfAborted();
          await handle.writeFile(chunk);
          bytes += chunk.length;
          options.onProgress?.(bytes);
        }
      }
      options.signal?.throwIfAborted();
      await handle.sync();
      await handle.close();
      handle = undefined;
      if (options.ifAbsent === true) {
        await link(temporary, file); // link never overwrites, rename would.
        await rm(temporary);
      } else {
        await rename(temporary, file);
      }
      await syncFolder(dirname(file));
      return { bytes };
    } catch (error) {
      await handle?.close().catch(() => {});
      await rm(temporary, { force: true }).catch(() => {});
      await removeEmptyFolders(dirname(file));
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw alreadyThere(file);
      if (typeof body === 'object' && !Buffer.isBuffer(body)) body.destroy();
      throw folderError(error, file);
    }
  }

  async function get(key: string, options: { signal?: AbortSignal } = {}): Promise<Readable> {
    const file = fileOf(key);
    try {
      const handle = await open(file, 'r');
      return createReadStream(file, { fd: handle, highWaterMark: 1024 * 1024, signal: options.signal });
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === 'ENOENT' ? missingObject(file) : folderError(error, file);
    }
  }

  async function head(key: string): Promise<{ bytes: number } | undefined> {
    try {
      return { bytes: (await stat(fileOf(key))).size };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw folderError(error, fileOf(key));
    }
  }

  async function* walk(folder: string, uploads: boolean): AsyncIterable<StoredObject> {
    let entries;
    try {
      entries = await readdir(join(root, folder), { withFileTypes: true });
    } catch (error) {
      // A folder that vanished while we walk was deleted by somebody; the root itself must be there.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT' && folder !== '') return;
      throw folderError(error, join(root, folder));
    }
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const key = `${folder}${entry.name}`;
      if (entry.isDirectory()) yield* walk(`${key}/`, uploads);
      else if (entry.name.startsWith(UPLOAD_PREFIX) === uploads) {
        const found = await stat(join(root, key)).catch((error: NodeJS.ErrnoException) => {
          if (error.code === 'ENOENT') return undefined;
          throw folderError(error, join(root, key));
        });
        if (found !== undefined) yield { key, bytes: found.size, modifiedMs: found.mtimeMs };
      }
    }
  }

  async function* list(wanted: string, uploads = false): AsyncIterable<StoredObject> {
    await stat(root).catch((error: unknown) => {
      throw folderError(error, root);
    });
    const folder = wanted.slice(0, wanted.lastIndexOf('/') + 1);
    fileOf(folder);
    for await (const object of walk(folder, uploads)) if (object.key.startsWith(wanted)) yield object;
  }

  async function removeEmptyFolders(folder: string): Promise<void> {
    for (let at = folder; at.startsWith(root + sep); at = dirname(at)) {
      try {
        await rmdir(at);
      } catch {
        return; // Not empty, or not there: both are fine.
      }
    }
  }

  return {
    prefix,
    lockForMs: undefined,
    put,
    get,
    getText: async (key, options) => readText(await get(key, options)),
    head,
    list: (wanted) => list(wanted),
    async delete(key) {
      const file = fileOf(key);
      await rm(file, { force: true }).catch((error: unknown) => {
        throw folderError(error, file);
      });
      await removeEmptyFolders(dirname(file));
    },
    async reapUploads(wanted, olderThanMs, nowMs) {
      let reaped = 0;
      for await (const object of list(wanted, true)) {
        if (object.modifiedMs >= nowMs - olderThanMs) continue;
        await rm(join(root, object.key), { force: true });
        await removeEmptyFolders(dirname(join(root, object.key)));
        reaped += 1;
      }
      return reaped;
    },
    describe: () => join(root, prefix),
    plainRead: (key) => `cat ${shellQuote(fileOf(key))}`,
  };
}

/** The new name must survive a power cut too. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function folderError(error: unknown, file: string): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (error instanceof HoldfastError || typeof code !== 'string' || !/^E[A-Z]+$/.test(code)) return error;
  return new HoldfastError('store-folder', `the store folder cannot be used at ${file}: ${messageOf(error)}`, {
    next: code === 'ENOSPC' ? 'make room on that disk' : 'check that the folder exists, is mounted and belongs to the worker',
    retryable: code === 'ENOSPC' || code === 'EIO' || code === 'EMFILE',
    cause: error,
  });
}
