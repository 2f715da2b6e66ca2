import { createRequire } from 'node:module';
import { BSON, type Db, type Document } from 'mongodb';
import { BSON_TYPE, elementsOf, idOf } from '../model/bson-frame.ts';
import { HoldfastError } from '../model/errors.ts';

// Documents that must stay as they are, byte for byte. An object of JavaScript cannot hold every document: keys that are numbers move to
// the front, doubled keys and deprecated types are lost. So documents are read and sent raw, and definitions become ordered maps.

interface DocumentSequence {
  readonly serializedDocumentsLength: number;
  push(document: Document, buffer: Uint8Array): number;
}

let Sequence: (new (field: string) => DocumentSequence) | undefined;

/**
 * The driver sends a `DocumentSequence` as the bytes that were pushed, but does not export it. Checked before anything is written.
 * @throws HoldfastError `driver-unfit`
 */
export function checkDriver(): void {
  if (Sequence !== undefined) return;
  const require = createRequire(import.meta.url);
  const unfit = (why: string, cause?: unknown): HoldfastError => new HoldfastError('driver-unfit', `this version of the npm package mongodb cannot send raw documents: ${why}`, { next: 'install the version of package-lock.json (npm ci); nothing was written', cause });
  let found: { DocumentSequence?: new (field: string) => DocumentSequence; OpMsgRequest?: new (db: string, command: Document, options: Document) => { toBin(): Promise<Uint8Array[]> | Uint8Array[] } };
  try {
    found = require('mongodb/lib/cmap/commands.js') as typeof found;
  } catch (error) {
    throw unfit('its file lib/cmap/commands.js cannot be loaded', error);
  }
  const { DocumentSequence: Found, OpMsgRequest } = found;
  if (Found === undefined || OpMsgRequest === undefined) throw unfit('DocumentSequence or OpMsgRequest is not there');
  // {"2": 1, "1": 2}: an object of JavaScript would have turned it round.
  const probe = Buffer.from('13000000103200010000001031000200000000', 'hex');
  const sequence = new Found('documents');
  sequence.push({}, probe);
  const bytes = new OpMsgRequest('probe', { insert: 'probe', documents: sequence }, {}).toBin();
  if (!Array.isArray(bytes) || !Buffer.concat(bytes).includes(probe)) throw unfit('a pushed document is not sent as it is');
  Sequence = Found;
}

export interface InsertAnswer {
  readonly inserted: number;
  /** By position in the batch. */
  readonly errors: readonly { readonly index: number; readonly code: number; readonly message: string }[];
  /** What was inserted is not known to be on as many members as was asked for. */
  readonly concern?: { readonly code: number; readonly message: string };
}

export interface InsertOptions {
  readonly ordered: boolean;
  readonly writeConcern: 'majority' | number;
  readonly writeConcernTimeoutMs: number;
  /** Empty timestamps stay as they are: MongoDB 8.0 and later releases of 5.0 to 7.0. */
  readonly keepEmptyTimestamps: boolean;
}

/** One `insert` of raw documents. Errors of single documents are in the answer; anything else is thrown by the driver. */
export async function insertRaw(db: Db, collection: string, documents: readonly Uint8Array[], options: InsertOptions): Promise<InsertAnswer> {
  checkDriver();
  const sequence = new Sequence!('documents');
  for (const document of documents) sequence.push({}, document);
  const answer = await withConcern({
    insert: collection, documents: sequence, ordered: options.ordered, bypassDocumentValidation: true,
    writeConcern: { w: options.writeConcern, wtimeout: options.writeConcernTimeoutMs },
    ...(options.keepEmptyTimestamps ? { bypassEmptyTsReplacement: true } : {}),
  });
  const { writeConcernError: concern } = answer;
  return {
    inserted: Number(answer.n ?? 0), errors: (answer.writeErrors ?? []).map(({ index, code, errmsg }) => ({ index, code, message: errmsg ?? '' })),
    ...(concern === undefined ? {} : { concern: { code: concern.code, message: concern.errmsg ?? '' } }),
  };

  async function withConcern(command: Document): Promise<Answer> {
    try {
      return (await db.command(command)) as Answer;
    } catch (error) {
      // The driver throws the answer away with it, but the documents are in.
      const { name, result } = error as { name?: string; result?: Answer };
      if (name === 'MongoWriteConcernError' && result?.writeConcernError !== undefined) return result;
      throw error;
    }
  }
}

interface Answer {
  readonly n?: number;
  readonly writeErrors?: readonly { readonly index: number; readonly code: number; readonly errmsg?: string }[];
  readonly writeConcernError?: { readonly code: number; readonly errmsg?: string };
}

export interface RawCursorOptions {
  readonly batchDocuments: number;
  readonly readPreference?: 'primary' | 'secondary' | 'secondaryPreferred' | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The raw documents of a command with a cursor, batch by batch. */
export async function* rawBatches(db: Db, command: Document, options: RawCursorOptions): AsyncGenerator<Buffer[]> {
  const cursor = db.runCursorCommand(command, { raw: true, ...(options.readPreference === undefined ? {} : { readPreference: options.readPreference }) } as Document);
  cursor.setBatchSize(options.batchDocuments);
  try {
    while (await cursor.hasNext()) {
      options.signal?.throwIfAborted();
      const documents = cursor.readBufferedDocuments() as unknown as Uint8Array[];
      yield documents.map((document) => Buffer.from(document.buffer, document.byteOffset, document.byteLength));
    }
    options.signal?.throwIfAborted();
  } finally {
    await cursor.close().catch(() => {});
  }
}

export async function rawDocuments(db: Db, command: Document): Promise<Buffer[]> {
  const all: Buffer[] = [];
  for await (const batch of rawBatches(db, command, { batchDocuments: 1000 })) all.push(...batch.map((document) => Buffer.from(document)));
  return all;
}

/** A document as a map: every key where it was, every type as it was; arrays are arrays. */
export type Ordered = Map<string, unknown>;

export function orderedOf(document: Uint8Array): Ordered {
  const map: Ordered = new Map();
  for (const element of elementsOf(document)) map.set(element.key, valueOf(document, element));
  return map;
}

/** The value of `_id`, to ask for the document with. */
export function idValue(document: Uint8Array): unknown {
  const element = idOf(document);
  return element === undefined ? undefined : valueOf(document, element);
}

const EXACT = { promoteValues: false, promoteLongs: false, promoteBuffers: false, bsonRegExp: true } as const;

function valueOf(document: Uint8Array, { type, start, valueStart, end }: { type: number; start: number; valueStart: number; end: number }): unknown {
  if (type === BSON_TYPE.document) return orderedOf(document.subarray(valueStart, end));
  if (type === BSON_TYPE.array) return [...orderedOf(document.subarray(valueStart, end)).values()];
  // One element as a document of its own.
  const single = Buffer.alloc(end - start + 5);
  single.writeInt32LE(single.length, 0);
  single.set(document.subarray(start, end), 4);
  return Object.values(BSON.deserialize(single, EXACT))[0];
}

/** Canonical Extended JSON with every key where it was. */
export function extendedJson(value: unknown): string {
  if (value instanceof Map) return `{${[...(value as Ordered)].map(([key, inner]) => `${JSON.stringify(key)}:${extendedJson(inner)}`).join(',')}}`;
  if (Array.isArray(value)) return `[${value.map(extendedJson).join(',')}]`;
  const text = BSON.EJSON.stringify({ v: value }, { relaxed: false });
  return text === '{}' ? '{"$undefined":true}' : text.slice('{"v":'.length, -1);
}
