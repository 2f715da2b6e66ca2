import { hash, randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { BSON, type Db, type Document, type MongoClient } from 'mongodb';
import { createFrames, createSums, hasEmptyTimestamp, idOf } from '../model/bson-frame.ts';
import type { MongodbRestoreConfig } from '../model/config-mongodb.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { MongodbCollection, MongodbFingerprint, MongodbView } from '../model/manifest-mongodb.ts';
import { MARKER_DATABASE, qualified } from '../model/mongodb-selection.ts';
import { answerLost, codeOf, databasesOf, roleChanged } from './mongodb.ts';
import { readDefinition } from './mongodb-dump.ts';
import { interruptedRestore, takeLease, WRITTEN, type LeaseTimes } from './mongodb-mark.ts';
import { databasesIn } from './mongodb-proof.ts';
import { checkDriver, extendedJson, idValue, insertRaw, orderedOf, rawDocuments, type InsertAnswer, type Ordered } from './mongodb-raw.ts';

/** A message has 48 MB at most; documents of 16 MiB go alone. */
const BATCH_BYTES = 8 * 1024 * 1024;
const TRIES = 6;
const WRITE_CONCERN_MS = 60_000;
const NAMESPACE_EXISTS = 48;
const DUPLICATE_KEY = 11000;
const DEFAULT_INDEX_VERSION = 2;
/** UnknownReplWriteConcern, UnsatisfiableWriteConcern: there are not as many members. */
const NEVER_SATISFIED = new Set([79, 100]);
/** IDLUnknownField, FailedToParse: the server is too old for a field of a command. */
const UNKNOWN_FIELD = new Set([40415, 9]);

export interface MongodbRestoreOptions {
  readonly backupId: string;
  readonly fingerprint: MongodbFingerprint;
  /** The plain documents of a collection; it fails at its end when they are not those of the manifest. */
  readonly open: (collection: MongodbCollection) => Promise<AsyncIterable<Buffer>>;
  readonly settings: MongodbRestoreConfig;
  /** Write although one of the databases holds something. What is there already and is the same stays. */
  readonly allowNonEmpty?: boolean;
  readonly signal?: AbortSignal;
  /** Asked while the mark still says that the target is not whole: unless it gives true, the mark stays. Without it nothing is asked. */
  readonly prove?: (signal: AbortSignal) => Promise<boolean>;
  /** Somebody else is restoring into this server; called again and again. */
  readonly onWait?: (backup: string | undefined) => void;
  readonly leaseTimes?: LeaseTimes;
  readonly onProgress?: (done: { collections: number; ofCollections: number; documents: number; plainBytes: number }) => void;
}

export interface MongodbRestored {
  readonly collections: number;
  readonly views: number;
  readonly indexes: number;
  readonly documents: number;
  readonly plainBytes: number;
  /** Documents that were there already, byte for byte. */
  readonly alreadyThere: number;
  /** An interrupted restore of the same backup was gone on with. */
  readonly resumed: boolean;
}

/** What stands in the databases, for people; empty: nothing does. */
export async function contentsOf(client: MongoClient, databases?: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const database of databases ?? (await databasesOf(client))) {
    if (['admin', 'local', 'config', MARKER_DATABASE].includes(database) && databases?.includes(database) !== true) continue;
    for (const raw of await rawDocuments(client.db(database), { listCollections: 1, nameOnly: true })) {
      const name = String(orderedOf(raw).get('name'));
      if (!name.startsWith('system.')) found.push(`${database}.${name}`);
    }
  }
  return found;
}

/**
 * Collections with their options, documents, indexes, views, in this order. A mark in the target says meanwhile that it is not whole:
 * the same backup may then be restored again and goes on. Of two at once, one waits and then looks again.
 * @throws HoldfastError `target-not-empty`, `target-half-restored`, `restore-taken-over`, `write-concern`, `collection-differs`, `document-differs`, `document-refused`, `object-damaged`
 */
export async function restoreMongodb(client: MongoClient, options: MongodbRestoreOptions): Promise<MongodbRestored> {
  checkDriver();
  // Nothing is written where it is plain that nothing will be restored.
  if ((await interruptedRestore(client)) === undefined) await checkEmpty(client, options);
  const lease = await takeLease(client, { signal: options.signal, onWait: options.onWait, times: options.leaseTimes });
  try {
    const { begun } = lease;
    if (begun !== undefined && begun !== options.backupId) throw new HoldfastError('target-half-restored', `a restore of backup ${begun} was begun on this server and not ended`, { next: `go on with that backup, or drop what is there and the database ${MARKER_DATABASE} first` });
    if (begun === undefined) {
      try {
        await checkEmpty(client, options);
      } catch (error) {
        await lease.end();
        throw error;
      }
      await lease.mark(options.backupId);
    }
    const signal = options.signal === undefined ? lease.signal : AbortSignal.any([options.signal, lease.signal]);
    const restored = await restoreAll(client, { ...options, signal }, begun !== undefined);
    if (options.prove === undefined || (await options.prove(signal))) await lease.end();
    return restored;
  } finally {
    await lease.leave();
  }
}

async function checkEmpty(client: MongoClient, { fingerprint, allowNonEmpty }: MongodbRestoreOptions): Promise<void> {
  if (allowNonEmpty === true) return;
  const there = await contentsOf(client, databasesIn(fingerprint));
  if (there.length === 0) return;
  throw new HoldfastError('target-not-empty', `the target holds ${there.slice(0, 3).join(', ')}${there.length > 3 ? ` and ${there.length - 3} more` : ''}`, { next: 'restore into an empty server, or allow a non-empty one when you are sure; nothing was changed' });
}

async function restoreAll(client: MongoClient, options: MongodbRestoreOptions, resumed: boolean): Promise<MongodbRestored> {
  const { fingerprint, settings, signal } = options;
  const server = { keepsEmptyTimestamps: true };
  for (const collection of fingerprint.collections) {
    signal?.throwIfAborted();
    await createCollection(client, collection);
  }
  const counted = { documents: 0, plainBytes: 0, alreadyThere: 0, collections: 0 };
  const report = (): void => options.onProgress?.({ collections: counted.collections, ofCollections: fingerprint.collections.length, documents: counted.documents, plainBytes: counted.plainBytes });
  // The largest first: what is left for the end is short.
  const waiting = [...fingerprint.collections].sort((a, b) => Number(BigInt(b.bytes) - BigInt(a.bytes)));
  const stop = new AbortController();
  const either = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
  const results = await Promise.allSettled(Array.from({ length: Math.min(settings.concurrency, Math.max(1, waiting.length)) }, async () => {
    try {
      for (let collection = waiting.shift(); collection !== undefined; collection = waiting.shift()) {
        const writer: Writer = { db: client.db(collection.database), collection, settings, signal: either, careful: resumed || options.allowNonEmpty === true, server };
        await restoreDocuments(writer, await options.open(collection), (documents, bytes, already) => {
          counted.documents += documents;
          counted.plainBytes += bytes;
          counted.alreadyThere += already;
          report();
        });
        counted.collections += 1;
        report();
      }
    } catch (error) {
      stop.abort(error);
      throw error;
    }
  }));
  signal?.throwIfAborted();
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw stop.signal.reason as Error;

  let indexes = 0;
  for (const collection of fingerprint.collections) {
    signal?.throwIfAborted();
    indexes += await createIndexes(client, collection);
  }
  for (const view of fingerprint.views) await createView(client, view);
  await awaitConcern(client, settings);
  return { collections: fingerprint.collections.length, views: fingerprint.views.length, indexes, documents: counted.documents, plainBytes: counted.plainBytes, alreadyThere: counted.alreadyThere, resumed };
}

/** `create` as the source's server would have to be asked for this collection or view. */
export function createCommand({ name, optionsBson }: Pick<MongodbCollection, 'name' | 'optionsBson'>): Document {
  // Option names are never numbers, so an object keeps their order; what is below them may have such keys and stays a map.
  return { create: name, ...Object.fromEntries(orderedOf(Buffer.from(optionsBson, 'base64'))) };
}

/** `createIndexes` of all but those that come with the collection. */
export function createIndexesCommand({ name, indexes }: Pick<MongodbCollection, 'name' | 'indexes'>): Document | undefined {
  const definitions: Ordered[] = indexes
    .map(({ bson }) => orderedOf(Buffer.from(bson, 'base64')))
    .filter((definition) => definition.get('name') !== '_id_' && definition.get('clustered') !== true)
    .map((definition) => new Map([...definition].filter(([key, value]) => key !== 'ns' && key !== 'background' && !(key === 'v' && Number(value) === DEFAULT_INDEX_VERSION))));
  return definitions.length === 0 ? undefined : { createIndexes: name, indexes: definitions };
}

async function createCollection(client: MongoClient, collection: MongodbCollection): Promise<void> {
  try {
    await client.db(collection.database).command(createCommand(collection));
  } catch (error) {
    if (codeOf(error) !== NAMESPACE_EXISTS) throw error;
    await checkSame(client, collection);
  }
}

async function createView(client: MongoClient, view: MongodbView): Promise<void> {
  try {
    await client.db(view.database).command(createCommand(view));
  } catch (error) {
    if (codeOf(error) !== NAMESPACE_EXISTS) throw error;
    await checkSame(client, view);
  }
}

async function checkSame(client: MongoClient, wanted: MongodbCollection | MongodbView): Promise<void> {
  const found = await readDefinition(client, wanted);
  if (found.type === wanted.kind && found.optionsText === wanted.options) return;
  throw new HoldfastError('collection-differs', `${qualified(wanted)} is there already as a ${found.type} with options ${found.optionsText}; the backup has a ${wanted.kind} with ${wanted.options}`, { next: 'drop or rename it, or restore into an empty server' });
}

async function createIndexes(client: MongoClient, collection: MongodbCollection): Promise<number> {
  const command = createIndexesCommand(collection);
  if (command === undefined) return 0;
  try {
    // A large index takes as long as it takes; the server says nothing meanwhile.
    await client.db(collection.database).command(command, { socketTimeoutMS: 0 } as Document);
  } catch (error) {
    if (codeOf(error) !== DUPLICATE_KEY) throw error;
    throw new HoldfastError('index-refused', `a unique index of ${qualified(collection)} cannot be built on the restored documents: ${messageOf(error)}`, { next: 'the collection was read while its documents changed places; take backups from a replica set, with consistency: required', cause: error });
  }
  return (command['indexes'] as unknown[]).length;
}

interface Writer {
  readonly db: Db;
  readonly collection: MongodbCollection;
  readonly settings: MongodbRestoreConfig;
  readonly signal: AbortSignal;
  /** Documents may be there already: each batch is looked for before it is sent. */
  readonly careful: boolean;
  /** Of all collections: what the server was found to know. */
  readonly server: { keepsEmptyTimestamps: boolean };
}

async function restoreDocuments(writer: Writer, source: AsyncIterable<Buffer>, onBatch: (documents: number, bytes: number, alreadyThere: number) => void): Promise<void> {
  const { collection, settings, signal } = writer;
  const what = qualified(collection);
  const frames = createFrames(what);
  const sums = createSums((document) => hash('sha256', document, 'buffer'));
  // The order of a capped collection is that of its inserts.
  const atOnce = collection.capped ? 1 : 2;
  const flying = new Set<Promise<void>>();
  let batch: Uint8Array[] = [];
  let size = 0;
  async function send(): Promise<void> {
    if (batch.length === 0) return;
    const [documents, bytes] = [batch, size];
    [batch, size] = [[], 0];
    while (flying.size >= atOnce) await Promise.race(flying);
    const sending: Promise<void> = insertBatch(writer, documents).then((already) => {
      flying.delete(sending);
      onBatch(documents.length, bytes, already);
    });
    sending.catch(() => {}); // Seen by whoever awaits the set.
    flying.add(sending);
  }
  try {
    for await (const chunk of source) {
      signal.throwIfAborted();
      for (const document of frames.push(chunk)) {
        if (size + document.length > BATCH_BYTES || batch.length >= settings.batchDocuments) await send();
        sums.add(document);
        // A copy, since it outlives its chunk.
        batch.push(Buffer.from(document));
        size += document.length;
      }
    }
    frames.end();
    await send();
    await Promise.all(flying);
  } finally {
    await Promise.allSettled(flying);
  }
  const found = sums.value();
  if (found.documents !== collection.documents || found.sum1 !== collection.sum1 || found.sum2 !== collection.sum2) {
    throw new HoldfastError('object-damaged', `${what}: the stored documents (${found.documents}, sums ${found.sum1} / ${found.sum2}) are not those of the manifest (${collection.documents}, sums ${collection.sum1} / ${collection.sum2})`, { next: 'do not rely on this backup; restore another one' });
  }
}

/**
 * Every document of the batch is there once, with exactly these bytes, when this returns. After a lost answer the server is asked what it has
 * before anything is sent again; a document with the same _id and other content is an error.
 * @returns how many were there before.
 */
async function insertBatch(writer: Writer, documents: readonly Uint8Array[]): Promise<number> {
  const { collection, settings, signal } = writer;
  let already = 0;
  let missing = documents;
  let look = writer.careful;
  // An answer was lost, or said that the members are behind: what is found is not known to be on as many as was asked for.
  let unconfirmed = false;
  for (let attempt = 1; ; attempt += 1) {
    signal.throwIfAborted();
    const keepEmptyTimestamps = writer.server.keepsEmptyTimestamps;
    try {
      if (look) {
        missing = await missingOf(writer, missing);
        if (attempt === 1) already = documents.length - missing.length;
      }
      if (missing.length === 0 && !unconfirmed) return already;
      // A server waits for the members also where every document is refused as doubled.
      const sent = missing.length === 0 ? documents : missing;
      const answer = await insertRaw(writer.db, collection.name, sent, { ordered: collection.capped, writeConcern: settings.writeConcern, writeConcernTimeoutMs: WRITE_CONCERN_MS, keepEmptyTimestamps });
      refuse(collection, sent, answer);
      unconfirmed = concernMissed(collection, answer, settings, attempt);
      if (unconfirmed) await pause(100 * 2 ** attempt, undefined, { signal });
      if (!unconfirmed && (missing.length === 0 || (answer.errors.length === 0 && answer.inserted === missing.length))) return already;
      // Others than those that are there already were refused by nobody: they went in, or are found missing now.
      if (!unconfirmed && attempt >= TRIES) throw new HoldfastError('document-refused', `${qualified(collection)}: ${missing.length - answer.inserted} of ${missing.length} documents were not inserted: ${answer.errors[0]?.message ?? 'the server does not say why'}`, { next: 'a unique index of the target, or an equal _id of another type, is in the way: restore into an empty server' });
    } catch (error) {
      signal.throwIfAborted();
      if (keepEmptyTimestamps && UNKNOWN_FIELD.has(codeOf(error) ?? 0)) {
        writer.server.keepsEmptyTimestamps = false;
        attempt = 0;
        continue;
      }
      if (!answerLost(error) || attempt >= TRIES) throw error;
      unconfirmed = true;
      await pause(100 * 2 ** attempt, undefined, { signal });
    }
    look = true;
  }
}

/** @returns whether it must be asked for again. @throws HoldfastError `write-concern` when that is of no use, or was done often enough. */
function concernMissed(collection: Pick<MongodbCollection, 'database' | 'name'>, { concern }: InsertAnswer, settings: MongodbRestoreConfig, attempt: number): boolean {
  if (concern === undefined) return false;
  const never = NEVER_SATISFIED.has(concern.code);
  if (!never && attempt < TRIES) return true;
  throw new HoldfastError('write-concern', `${qualified(collection)}: what was written is not on as many members as restore.writeConcern (${settings.writeConcern}) asks for: ${concern.message} (code ${concern.code})`, {
    retryable: !never, next: never ? 'set restore.writeConcern to what the target can do; the restore may then be started again and goes on' : `look why members are behind${roleChanged(concern.code) ? ' or change their roles' : ''}; the restore may be started again and goes on`, context: { code: concern.code },
  });
}

/** All that was written before, indexes and options too, is on as many members as was asked for: replication keeps the order. */
async function awaitConcern(client: MongoClient, settings: MongodbRestoreConfig): Promise<void> {
  const place = { database: MARKER_DATABASE, name: WRITTEN };
  for (let attempt = 1; ; attempt += 1) {
    const answer: InsertAnswer | undefined = await insertRaw(client.db(place.database), place.name, [BSON.serialize({ _id: `${Date.now()} ${attempt} ${randomBytes(6).toString('hex')}` })], { ordered: true, writeConcern: settings.writeConcern, writeConcernTimeoutMs: WRITE_CONCERN_MS, keepEmptyTimestamps: false }).catch((error: unknown) => {
      if (!answerLost(error) || attempt >= TRIES) throw error;
      return undefined;
    });
    if (answer !== undefined && !concernMissed(place, answer, settings, attempt)) return;
    await pause(100 * 2 ** attempt);
  }
}

/** Anything but a doubled _id is the server's last word. */
function refuse(collection: MongodbCollection, documents: readonly Uint8Array[], answer: InsertAnswer): void {
  const other = answer.errors.find(({ code }) => code !== DUPLICATE_KEY);
  if (other === undefined) return;
  throw new HoldfastError('document-refused', `${qualified(collection)}: the server refuses the document with _id ${shownId(documents[other.index])}: ${other.message} (code ${other.code})`, { next: 'restore into a server of the version that the backup is of' });
}

/** Those that the server does not have. @throws HoldfastError `document-differs` */
async function missingOf({ db, collection }: Writer, documents: readonly Uint8Array[]): Promise<Uint8Array[]> {
  const found = new Map<string, Buffer>();
  for (const raw of await rawDocuments(db, { find: collection.name, filter: { _id: { $in: documents.map(idValue) } }, batchSize: documents.length })) found.set(idKey(raw), raw);
  return documents.filter((document) => {
    const there = found.get(idKey(document));
    if (there === undefined) return true;
    if (Buffer.compare(there, document) === 0) return false;
    const why = hasEmptyTimestamp(document) ? '; the backup has an empty timestamp in it, which this server replaces by the time of the insert' : '';
    throw new HoldfastError('document-differs', `${qualified(collection)} has a document with _id ${shownId(document)} and other content than the backup${why}`, { next: 'restore into an empty server; nothing was overwritten' });
  });
}

function idKey(document: Uint8Array): string {
  const id = idOf(document);
  return id === undefined ? '' : `${id.type}:${Buffer.from(document.subarray(id.valueStart, id.end)).toString('latin1')}`;
}

function shownId(document: Uint8Array | undefined): string {
  return document === undefined ? '?' : extendedJson(idValue(document)).slice(0, 100);
}
