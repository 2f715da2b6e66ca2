import { createHash, hash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { Db, Document, MongoClient, Timestamp } from 'mongodb';
import { createSums, elementsOf, idOf, type DocumentSums } from '../model/bson-frame.ts';
import { HoldfastError } from '../model/errors.ts';
import type { MongodbCollection, MongodbView } from '../model/manifest-mongodb.ts';
import { escapedName, exactDatabases, mayHold, objectName, qualified, type Names, type Namespace } from '../model/mongodb-selection.ts';
import { hasNoMoments, noSnapshotBecause, snapshotConcern, snapshotVerdict, SNAPSHOT_GONE_NEXT } from '../model/mongodb-snapshot.ts';
import { codeOf, databasesOf, type MongodbFacts } from './mongodb.ts';
import { extendedJson, orderedOf, rawBatches, rawDocuments, type Ordered } from './mongodb-raw.ts';
import type { Throttle } from './mongodb-throttle.ts';

/** A collection or view as the server defines it now. */
export interface Definition extends Namespace {
  readonly uuid: string | null;
  readonly capped: boolean;
  readonly clustered: boolean;
  readonly optionsText: string;
  /** BSON. */
  readonly optionsRaw: Buffer;
  readonly indexes: readonly { readonly name: string; readonly text: string; readonly raw: Buffer }[];
}

/** Every collection and view of the databases that can belong to a selection. */
export async function listNamespaces(client: MongoClient, include: Names, exclude: Names): Promise<Namespace[]> {
  const found: Namespace[] = [];
  for (const database of exactDatabases(include) ?? (await databasesOf(client))) {
    if (!mayHold(database, include, exclude)) continue;
    for (const raw of await rawDocuments(client.db(database), { listCollections: 1 })) found.push(namespaceOf(database, orderedOf(raw)));
  }
  return found;
}

function namespaceOf(database: string, entry: Ordered): Namespace {
  const options = entry.get('options');
  return { database, name: String(entry.get('name')), type: String(entry.get('type') ?? 'collection'), options: options instanceof Map ? Object.fromEntries(options as Ordered) : {} };
}

/** @throws HoldfastError `collection-gone` when it is not there any more. */
export async function readDefinition(client: MongoClient, { database, name }: { readonly database: string; readonly name: string }): Promise<Definition> {
  const db = client.db(database);
  const [raw] = await rawDocuments(db, { listCollections: 1, filter: { name } });
  if (raw === undefined) throw new HoldfastError('collection-gone', `${database}.${name} is not there any more: collections were dropped or renamed while they were backed up`, { retryable: true, next: 'another attempt reads what is there then; let backups and changes of the schema not meet' });
  const entry = orderedOf(raw);
  const namespace = namespaceOf(database, entry);
  const optionsRaw = partOf(raw, 'options') ?? EMPTY;
  const indexes = namespace.type === 'view' ? [] : await readIndexes(db, name);
  const info = entry.get('info');
  return {
    ...namespace, uuid: info instanceof Map ? uuidText((info as Ordered).get('uuid')) : null, capped: namespace.options['capped'] === true, clustered: namespace.options['clusteredIndex'] !== undefined,
    optionsText: extendedJson(orderedOf(optionsRaw)), optionsRaw, indexes,
  };
}

const EMPTY = Buffer.from('0500000000', 'hex');
/** What servers add or drop by their version, without meaning. */
const WITHOUT_MEANING = new Set(['ns', 'background']);

async function readIndexes(db: Db, name: string): Promise<Definition['indexes']> {
  const all = await rawDocuments(db, { listIndexes: name });
  return all
    .map((raw) => {
      const definition = orderedOf(raw);
      return { name: String(definition.get('name')), text: extendedJson(new Map([...definition].filter(([key]) => !WITHOUT_MEANING.has(key)))), raw };
    })
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** An embedded document as it lies in its parent. */
function partOf(document: Buffer, key: string): Buffer | undefined {
  for (const element of elementsOf(document)) if (element.key === key) return document.subarray(element.valueStart, element.end);
  return undefined;
}

function uuidText(value: unknown): string | null {
  if (typeof value === 'string') return value.replaceAll('-', '');
  const bytes = (value as { buffer?: Uint8Array } | null | undefined)?.buffer;
  return bytes instanceof Uint8Array ? Buffer.from(bytes).toString('hex') : null;
}

function changed(why: string): HoldfastError {
  return new HoldfastError('collection-changed', `${why}: collections were changed while they were backed up`, { retryable: true, next: 'another attempt reads it as it is now; let backups and changes of the schema not meet' });
}

/** Of all that makes a collection this one: a hex SHA-256. */
export function definitionDigest({ type, uuid, optionsText, indexes }: Definition): string {
  return hash('sha256', JSON.stringify([type, uuid, optionsText, indexes.map((index) => index.text)]));
}

/**
 * The moment that all collections are read at, of the primary: a secondary waits until it has it. Or why there is none.
 * @param example not capped: servers before 8.0 show no capped collection as of a moment
 * @throws the driver's error when the server fails otherwise.
 */
export async function takeSnapshot(client: MongoClient, facts: MongodbFacts, example: Pick<Namespace, 'database' | 'name'>): Promise<{ at: Timestamp } | { none: string }> {
  const none = noSnapshotBecause(facts.hello);
  if (none !== undefined) return { none };
  try {
    const answer = await client.db(example.database).command({ find: example.name, limit: 1, batchSize: 1, singleBatch: true, readConcern: snapshotConcern(undefined) });
    const at = (answer as { cursor?: { atClusterTime?: Timestamp } }).cursor?.atClusterTime;
    return at === undefined ? { none: 'the server took a snapshot read and named no moment' } : { at };
  } catch (error) {
    if (snapshotVerdict(codeOf(error)) === 'other') throw error;
    return { none: `the server refused a snapshot read: ${error instanceof Error ? error.message : String(error)}` };
  }
}

/** Whether the server shows this collection as of a moment that it has just given. */
export async function showsMoment(client: MongoClient, { database, name }: Pick<Namespace, 'database' | 'name'>, at: Timestamp): Promise<boolean> {
  try {
    await client.db(database).command({ find: name, limit: 1, batchSize: 1, singleBatch: true, readConcern: snapshotConcern(at) });
    return true;
  } catch (error) {
    if (hasNoMoments(codeOf(error))) return false;
    throw error;
  }
}

export interface DumpOptions {
  readonly batchDocuments: number;
  readonly readPreference?: 'primary' | 'secondary' | 'secondaryPreferred' | undefined;
  /** All documents as of this moment. */
  readonly at?: Timestamp | undefined;
  readonly throttle?: Throttle;
  readonly signal?: AbortSignal;
  /** Plain bytes that were read since the last call. */
  readonly onBytes?: (bytes: number) => void;
}

/** The find of a dump. */
export function findCommand(definition: Definition, { batchDocuments, at }: Pick<DumpOptions, 'batchDocuments' | 'at'>): Document {
  // Without a snapshot, a document that is deleted and inserted again while the scan goes on would be met twice; along _id it is not.
  const byId = at === undefined && !definition.capped && !definition.clustered && definition.indexes.some(({ name }) => name === '_id_');
  return { find: definition.name, filter: {}, batchSize: batchDocuments, ...(byId ? { hint: { _id: 1 } } : {}), ...(at === undefined ? {} : { readConcern: snapshotConcern(at) }) };
}

export interface CollectionDump {
  /** Raw BSON, document after document. It fails when the collection is not what it was at the beginning. */
  readonly stream: Readable;
  /** Of what went through; known when the stream has ended. */
  result(): DocumentSums & { readonly orderedSha256?: string };
}

/**
 * One collection, from its first to its last document. A lost cursor ends the stream with an error: nothing is gone on with, since a
 * second cursor would see other documents.
 * @throws HoldfastError `snapshot-gone`, `document-without-id`, `collection-changed` (by the stream)
 */
export function dumpCollection(client: MongoClient, definition: Definition, options: DumpOptions): CollectionDump {
  return summed(definition, options, documents());
  async function* documents(): AsyncGenerator<Uint8Array[]> {
    try {
      yield* rawBatches(client.db(definition.database), findCommand(definition, options), { batchDocuments: options.batchDocuments, readPreference: options.readPreference, signal: options.signal });
    } catch (error) {
      options.signal?.throwIfAborted();
      if (options.at !== undefined && snapshotVerdict(codeOf(error)) === 'gone') throw new HoldfastError('snapshot-gone', `${qualified(definition)}: the server does not have the moment of this backup any more`, { next: SNAPSHOT_GONE_NEXT, cause: error });
      throw error;
    }
    await checkUnchanged(client, definition);
  }
}

/** @throws HoldfastError `collection-changed` */
export async function checkUnchanged(client: MongoClient, definition: Definition): Promise<void> {
  if (definitionDigest(definition) !== definitionDigest(await readDefinition(client, definition))) throw changed(`${qualified(definition)} has other options or indexes than when it was begun`);
}

/** Where the objects of a collection lie in a backup, below the attempt; the endings come behind it. */
export function objectPath({ database, name }: { readonly database: string; readonly name: string }): string {
  const path = dumpPath({ database, name });
  const slash = path.indexOf('/');
  return `${path.slice(0, slash)}/${objectName(path.slice(slash + 1), hash('sha256', name))}`;
}

/** Sums of batches of documents as they go by, and the bytes as a stream. */
export function summed(definition: Pick<Definition, 'database' | 'name' | 'capped'>, options: Pick<DumpOptions, 'throttle' | 'signal' | 'onBytes'>, batches: AsyncIterable<Uint8Array[]>): CollectionDump {
  const sums = createSums((document) => hash('sha256', document, 'buffer'));
  const ordered = definition.capped ? createHash('sha256') : undefined;
  let value: DocumentSums | undefined;
  let orderedSha256: string | undefined;
  async function* bytes(): AsyncGenerator<Buffer> {
    let at = 0;
    for await (const batch of batches) {
      let size = 0;
      for (const document of batch) {
        at += 1;
        size += document.length;
        if (idOf(document) === undefined) throw new HoldfastError('document-without-id', `${definition.database}.${definition.name}: document ${at} has no _id, so nobody could tell whether it was restored twice`, { next: 'name the collection under backup.exclude.collections, and back it up by other means' });
        sums.add(document);
      }
      if (size === 0) continue;
      await options.throttle?.take(size, options.signal);
      const joined = Buffer.concat(batch, size);
      ordered?.update(joined);
      options.onBytes?.(size);
      yield joined;
    }
    value = sums.value();
    orderedSha256 = ordered?.digest('hex');
  }
  return {
    stream: Readable.from(bytes(), { objectMode: false, highWaterMark: 256 * 1024 }),
    result() {
      if (value === undefined) throw new HoldfastError('stream-unfinished', `sums of ${qualified(definition)} were asked for before its last document`);
      return { ...value, ...(orderedSha256 === undefined ? {} : { orderedSha256 }) };
    },
  };
}

/** `<db>/<collection>` of the folder that mongorestore reads; the endings come behind it. */
export function dumpPath({ database, name }: { readonly database: string; readonly name: string }): string {
  return `${database}/${escapedName(name, (text) => createHash('sha1').update(text).digest('base64url'))}`;
}

/** The text of `<collection>.metadata.json`, as mongodump writes it. */
export function metadataText(definition: Definition): string {
  const indexes = definition.indexes.map(({ raw }) => orderedOf(raw));
  return extendedJson(new Map<string, unknown>([
    ...(definition.optionsRaw.length > EMPTY.length ? [['options', orderedOf(definition.optionsRaw)] as const] : []),
    ['indexes', indexes],
    ...(definition.uuid === null ? [] : [['uuid', definition.uuid] as const]),
    ['collectionName', definition.name],
    ['type', definition.type],
  ]));
}

export function collectionEntry(definition: Definition, dumped: ReturnType<CollectionDump['result']>): MongodbCollection {
  const { database, name, capped, uuid, optionsText, optionsRaw } = definition;
  return {
    kind: 'collection', database, name, capped, uuid, options: optionsText, optionsBson: optionsRaw.toString('base64'),
    indexes: definition.indexes.map((index) => ({ name: index.name, text: index.text, bson: index.raw.toString('base64') })), ...dumped,
  };
}

export function viewEntry(definition: Definition): MongodbView {
  const { database, name, optionsText, optionsRaw } = definition;
  return { kind: 'view', database, name, options: optionsText, optionsBson: optionsRaw.toString('base64'), viewOn: String(definition.options['viewOn']) };
}
