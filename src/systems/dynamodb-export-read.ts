import { createHash } from 'node:crypto';
import { pipeline, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { configSchema, type S3StoreConfig } from '../model/config-schema.ts';
import { dataFileName, EXPORT_ROOT, FILES, FILES_MD5, parseFiles, parseSummary, SUMMARY, SUMMARY_MD5 } from '../model/dynamodb-export.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { Context } from './context.ts';
import type { TableSource } from './dynamodb-import.ts';
import { createS3Store } from './store-s3.ts';
import type { Store } from './store.ts';

/**
 * An export of the service, or of ours without encryption: `s3://bucket/<prefix>/AWSDynamoDB/<id>/`. Its manifests and their checksums are
 * held against each other and every data file is looked for before anything is written; each file's own checksum is judged when it is read.
 * @throws HoldfastError `export-invalid`, `object-missing`, `object-damaged`.
 */
export async function openExport(context: Context, url: string, signal: AbortSignal): Promise<TableSource> {
  const match = /^s3:\/\/([^/]+)\/(.+)$/.exec(url);
  if (match === null) throw new HoldfastError('usage', `${url} is no address of an export`, { next: `write it as s3://bucket/prefix/${EXPORT_ROOT}/<export id>/` });
  const bucket = match[1]!;
  const folder = match[2]!.endsWith('/') ? match[2]! : `${match[2]!}/`;
  const store = await bucketOf(context, bucket);
  const where = `s3://${bucket}/${folder}`;
  const summaryText = await checkedText(store, folder, SUMMARY, SUMMARY_MD5, where, signal);
  const summary = parseSummary(summaryText, `${where}${SUMMARY}`);
  const files = parseFiles(await checkedText(store, folder, FILES, FILES_MD5, where, signal), `${where}${FILES}`);
  const counted = files.reduce((sum, { itemCount }) => sum + itemCount, 0);
  if (counted !== summary.itemCount) throw new HoldfastError('export-invalid', `${where}: its summary says ${summary.itemCount} items, its files hold ${counted}`, { next: 'choose another export; nothing was written' });
  if (new Set(files.map((file) => file.dataFileS3Key)).size !== files.length) throw new HoldfastError('export-invalid', `${where}: a data file is named twice`, { next: 'choose another export; nothing was written' });
  const parent = folder.slice(0, folder.lastIndexOf(`${EXPORT_ROOT}/`));
  const keys = files.map(({ dataFileS3Key }) => {
    const at = dataFileS3Key.lastIndexOf(`${EXPORT_ROOT}/`);
    // What was copied to another place still names keys of its first one.
    return at >= 0 && folder.includes(`${EXPORT_ROOT}/`) ? `${parent}${dataFileS3Key.slice(at)}` : `${folder}data/${dataFileName(dataFileS3Key)}`;
  });
  for (const key of keys) if ((await store.head(key)) === undefined) throw new HoldfastError('object-missing', `${where} names ${key}, which is not there`, { next: 'choose another export; nothing was written' });
  return {
    table: summary.tableArn.slice(summary.tableArn.lastIndexOf('/') + 1),
    describe: `export ${where}`,
    settings: null,
    items: summary.itemCount,
    sums: null,
    files: files.map((file, index) => ({ name: keys[index]!, items: file.itemCount, open: (within) => openDataFile(store, keys[index]!, file.md5Checksum, within) })),
  };
}

/** The credentials and endpoint of a store on that bucket, where there is one. */
async function bucketOf(context: Context, bucket: string): Promise<Store> {
  const known = Object.values(context.config.stores).find((store): store is S3StoreConfig => store.type === 's3' && store.bucket === bucket);
  const config = known ?? (configSchema.shape.stores.valueType.parse({ type: 's3', bucket }) as S3StoreConfig);
  return createS3Store(await context.aws.s3(config), config, '', context.config.aws);
}

async function checkedText(store: Store, folder: string, name: string, md5Name: string, where: string, signal: AbortSignal): Promise<string> {
  const text = await store.getText(`${folder}${name}`, { signal });
  const found = createHash('md5').update(text).digest();
  const expected = (await store.getText(`${folder}${md5Name}`, { signal })).trim();
  if (expected !== found.toString('base64') && expected !== found.toString('hex')) throw new HoldfastError('object-damaged', `${where}${name} has the MD5 ${found.toString('base64')}, ${md5Name} says ${expected}`, { next: 'choose another export; nothing was written' });
  return text;
}

async function openDataFile(store: Store, key: string, md5: string | undefined, signal: AbortSignal): Promise<Readable> {
  const raw = await store.get(key, { signal });
  const damaged = (why: string, cause?: unknown): HoldfastError => new HoldfastError('object-damaged', `${key} is damaged: ${why}`, { next: 'do not rely on this export; choose another one', cause });
  async function* stored(): AsyncGenerator<Buffer> {
    const hash = createHash('md5');
    for await (const chunk of raw as AsyncIterable<Buffer>) {
      hash.update(chunk);
      yield chunk;
    }
    const digest = hash.digest('base64');
    if (md5 !== undefined && digest !== md5) throw damaged(`its MD5 is ${digest}, the manifest says ${md5}`);
  }
  const source = Readable.from(stored(), { objectMode: false });
  // Exports of other tools may be plain.
  if (!key.endsWith('.gz')) return source;
  const unpacked = createGunzip();
  pipeline(source, unpacked, () => {}); // Errors travel on through the last stream.
  async function* plain(): AsyncGenerator<Buffer> {
    try {
      yield* unpacked as AsyncIterable<Buffer>;
    } catch (error) {
      signal.throwIfAborted();
      throw error instanceof HoldfastError || !((error as NodeJS.ErrnoException).code ?? '').startsWith('Z_') ? error : damaged(messageOf(error), error);
    } finally {
      raw.destroy();
      unpacked.destroy();
    }
  }
  return Readable.from(plain(), { objectMode: false });
}
