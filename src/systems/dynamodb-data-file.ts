import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { createGzip } from 'node:zlib';
import { itemLine, parseItemLine } from '../model/dynamodb-export.ts';
import type { Item } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import { createSums, type ItemSums } from './dynamodb-hash.ts';

/** A file ends here at the latest, so that it is stored by one request and takes no more memory than that. */
export const PACKED_BYTES = 8 * 1024 * 1024;

export interface PackedFile {
  /** Compressed, and encrypted where there are recipients. */
  readonly bytes: Buffer;
  readonly md5: Buffer;
  readonly storedSha256: string;
  readonly plainBytes: number;
  readonly plainSha256: string;
  readonly sums: ItemSums;
}

export interface DataFile {
  add(items: readonly Item[]): Promise<void>;
  readonly items: number;
  readonly plainBytes: number;
  readonly packedBytes: number;
  finish(): Promise<PackedFile>;
}

/** One data file in memory: a line for each item -> gzip -> (age). */
export function createDataFile(recipients: readonly string[] | undefined): DataFile {
  const gzip = createGzip({ level: 6 });
  const chunks: Buffer[] = [];
  let packedBytes = 0;
  let plainBytes = 0;
  const plainHash = createHash('sha256');
  const sums = createSums();
  let items = 0;
  gzip.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    packedBytes += chunk.length;
  });
  const ended = once(gzip, 'end');
  ended.catch(() => {}); // `finish` awaits it.
  return {
    async add(some) {
      let text = '';
      for (const item of some) {
        text += itemLine(item);
        sums.add(item);
      }
      if (text === '') return;
      items += some.length;
      const bytes = Buffer.from(text, 'utf8');
      plainBytes += bytes.length;
      plainHash.update(bytes);
      if (!gzip.write(bytes)) await once(gzip, 'drain');
    },
    get items() {
      return items;
    },
    get plainBytes() {
      return plainBytes;
    },
    get packedBytes() {
      return packedBytes;
    },
    async finish() {
      gzip.end();
      await ended;
      let bytes: Buffer = Buffer.concat(chunks);
      chunks.length = 0;
      if (recipients !== undefined) bytes = await seal(bytes, recipients);
      return { bytes, md5: createHash('md5').update(bytes).digest(), storedSha256: createHash('sha256').update(bytes).digest('hex'), plainBytes, plainSha256: plainHash.digest('hex'), sums: sums.sums() };
    },
  };
}

export async function seal(bytes: Buffer, recipients: readonly string[]): Promise<Buffer> {
  const { Encrypter } = await import('age-encryption');
  const encrypter = new Encrypter();
  for (const recipient of recipients) encrypter.addRecipient(recipient);
  return Buffer.from(await encrypter.encrypt(bytes));
}

/** No item is nearly that large, whatever its encoding. */
const LONGEST_LINE_BYTES = 16 * 1024 * 1024;
const NEWLINE = 0x0a;

/** The items of plain JSON lines, in groups as they come. @throws HoldfastError `export-line`. */
export async function* readItems(plain: Readable, file: string): AsyncGenerator<Item[]> {
  let rest: Buffer[] = [];
  let restBytes = 0;
  let line = 0;
  for await (const chunk of plain as AsyncIterable<Buffer>) {
    const items: Item[] = [];
    let from = 0;
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, from)) {
      const bytes = restBytes === 0 ? chunk.subarray(from, at) : Buffer.concat([...rest, chunk.subarray(from, at)]);
      rest = [];
      restBytes = 0;
      from = at + 1;
      line += 1;
      if (bytes.length > 0) items.push(parseItemLine(bytes.toString('utf8'), file, line));
    }
    if (from < chunk.length) {
      rest.push(chunk.subarray(from));
      restBytes += chunk.length - from;
      if (restBytes > LONGEST_LINE_BYTES) throw new HoldfastError('export-line', `${file}, line ${line + 1}: it is longer than any item`, { next: 'the data file is damaged or of another format; choose another backup or export' });
    }
    if (items.length > 0) yield items;
  }
  if (restBytes > 0) yield [parseItemLine(Buffer.concat(rest).toString('utf8'), file, line + 1)];
}
