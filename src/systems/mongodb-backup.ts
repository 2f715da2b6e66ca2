import { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import type { MongoClient, Timestamp } from 'mongodb';
import type { BackupResult } from '../model/api.ts';
import type { MongodbDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { FINGERPRINT_METHOD, mongodbManifestSchema, type MongodbBegun, type MongodbCollection, type MongodbManifest, type MongodbView } from '../model/manifest-mongodb.ts';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import { qualified, selectionOf, selectNamespaces, type Namespace } from '../model/mongodb-selection.ts';
import { clusterTimeText, noSnapshotBecause, parseClusterTime, usableOf } from '../model/mongodb-snapshot.ts';
import { COMMIT, storeNameOf } from './backup-catalogue.ts';
import type { BackupOptions, BackupRequest } from './backup-engine.ts';
import { manifestHead } from './backup-manifest.ts';
import { commitBackup, createProgress, removeLeftovers, resultOf, writeObject, type WriteOptions } from './backup-write.ts';
import type { Context } from './context.ts';
import { answerLost, codeOf, factsOf, hostsOf, mongodbError, mongodbOf, mongodbTarget, withMongodb, type MongodbFacts, type MongodbTarget } from './mongodb.ts';
import { checkUnchanged, collectionEntry, definitionDigest, dumpCollection, dumpPath, listNamespaces, metadataText, objectPath, readDefinition, showsMoment, summed, takeSnapshot, viewEntry, type Definition } from './mongodb-dump.ts';
import { openState, type BackupState } from './mongodb-state.ts';
import { createThrottle, type Throttle } from './mongodb-throttle.ts';
import { mongodumpDocuments, mongodumpVersion } from './mongodb-tools.ts';
import { openStore, shellQuote, type Store } from './store.ts';

/** Of one collection within an attempt: a lost cursor or connection costs that collection only. */
const TRIES = 4;
/** How often the collections are listed until none came or went while the moment was taken. */
const LISTINGS = 5;
/** CursorNotFound, CursorKilled, QueryPlanKilled, CappedPositionLost, Interrupted: the server gave the cursor up. */
const CURSOR_LOST = new Set([43, 237, 175, 136, 11601]);

/**
 * One backup of a MongoDB, from the first look to COMMIT. All attempts of a run share the location; each writes below `<attempt>/`, and what
 * an earlier one has finished is not read again. When it throws nothing is committed.
 */
export async function backUpMongodb(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult> {
  const datastore = mongodbOf(context.config, request.datastore);
  const storeName = storeNameOf(context, request.datastore);
  const store = await openStore(context, storeName);
  const attempt = request.attempt ?? 1;
  const clock = performance.now();
  const { progress, report } = createProgress(request, options);
  // A missing bucket or a wrong key is found before the database is bothered.
  for await (const { key } of store.list(request.location)) {
    if (attempt === 1 || key === request.location + COMMIT) throw new HoldfastError('backup-folder-used', `${key} exists already in ${store.describe()}`, { next: 'start the backup again; it gets a folder of its own' });
    break;
  }
  const target = await mongodbTarget(context, request.datastore);
  const tools: Record<string, string> = datastore.backup.tool === 'mongodump' ? { mongodump: await mongodumpVersion() } : {};
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const written: string[] = [];
  const { backup } = datastore;
  const put = { ifAbsent: true, signal, ...(store.lockForMs === undefined ? {} : { lockUntilMs: Date.now() + store.lockForMs }) };
  const write: WriteOptions = { context, storeName, store, location: request.location, written, put, compression: backup.compression, level: backup.compressionLevel };
  try {
    return await withMongodb(target, async (client) => {
      const facts = await factsOf(client);
      const state = await openState(store, request.location, attempt, signal);
      const begun = await state.begin(() => begin(client, facts, datastore));
      const namespaces = selectNamespaces(await listNamespaces(client, backup.include, backup.exclude), backup.include, backup.exclude);
      // Of a moment, what was there at that moment; else what is there now.
      const collections: readonly BegunName[] = begun.atClusterTime === null ? namespaces.collections.map(({ database, name }) => ({ database, name })) : begun.names;
      const views: readonly BegunName[] = (begun.atClusterTime === null ? undefined : begun.views) ?? namespaces.views.map(({ database, name }) => ({ database, name }));
      progress.ofTables = collections.length;
      progress.phase = 'dump';
      report();
      const { usable, lost } = usableOf(begun.atClusterTime, state.done);
      const run: Run = {
        client, facts, target, datastore, dropped: [], write, state, signal, attempt, throttle: createThrottle(backup.maxBytesPerSecond), moment: begun.atClusterTime, at: begun.atClusterTime === null || lost ? undefined : await timestampOf(begun.atClusterTime),
        gone: lost ? 'not of one moment: an earlier attempt found that the server did not have it any more' : undefined, done: new Map(usable.map((one) => [qualified(one.collection), one])),
        onBytes(plain) {
          progress.plainBytes += plain;
          progress.bytesPerSecond = Math.round((progress.plainBytes / Math.max(1, performance.now() - clock)) * 1000);
          report();
        },
      };
      const done = await readAll(run, stop, collections, (objects) => {
        progress.tables += 1;
        for (const { storedBytes } of objects) progress.storedBytes += storedBytes;
        report();
      });
      const readViews = await readAllViews(run, views);
      progress.phase = 'commit';
      report();
      const objects = [...done.flatMap((one) => one.objects), ...readViews.flatMap((one) => one.objects)];
      const plain = objects.reduce((sum, { plainBytes }) => sum + plainBytes, 0);
      if (plain < backup.minimumSize) throw new HoldfastError('dump-too-small', `the backup has ${plain} plain bytes, and backup.minimumSize asks for ${backup.minimumSize}`, { next: 'look whether documents are missing on the server, or lower minimumSize' });
      const snapshot = run.at !== undefined;
      const alone = collections.filter((one) => one.alone === true).map(qualified);
      const note = snapshot ? (alone.length === 0 ? null : aloneNote(alone)) : (run.gone ?? begun.note);
      const dropped = run.dropped.length === 0 ? undefined : `dropped or renamed at the source while the backup ran, and left out: ${run.dropped.sort().join(', ')}`;
      const degraded = [request.degraded, run.gone, dropped].filter((why) => why !== undefined).join('; ') || undefined;
      const manifest: MongodbManifest = mongodbManifestSchema.parse({
        ...manifestHead(context, request, { startedAt: begun.startedAt, degraded, tools: { zstd: process.versions.zstd ?? 'unknown', ...tools } }),
        format: 3, engine: 'mongodb', snapshotAt: snapshot ? new Date(parseClusterTime(begun.atClusterTime!).seconds * 1000).toISOString() : begun.startedAt,
        source: { hosts: [...facts.hosts], topology: facts.topology, replicaSet: facts.replicaSet, serverVersion: facts.serverVersion, consistency: snapshot ? 'snapshot' : 'per collection', consistencyNote: note, atClusterTime: snapshot ? begun.atClusterTime : null },
        selection: selectionOf(backup), objects,
        fingerprint: { method: FINGERPRINT_METHOD, collections: done.map(({ collection }) => collection), views: readViews.map(({ view }) => view) },
        commands: plainCommands(store, request.location, objects, backup.compression, placesOf([...done.map(({ collection }) => collection), ...readViews.map(({ view }) => view)])),
      } satisfies MongodbManifest);
      const committed = await commitBackup(store, request, manifest, written, { ...put, signal: options.signal }, options.mayCommit);
      await removeLeftovers(context, store, request.location, committed);
      return resultOf(committed, request.location, performance.now() - clock);
    }, { signal, connections: backup.concurrency + 2, appName: `holdfast backup ${request.id}` });
  } catch (error) {
    stop.abort(error);
    // Finished collections stay for the next attempt; what was on its way is of no use.
    await store.reapUploads(`${request.location}${attempt}/`, 0, Date.now() + 1000).catch((reason: unknown) => context.log.warn({ location: request.location, error: messageOf(reason) }, 'uploads of a failed backup could not be looked for; the reaper will'));
    options.signal.throwIfAborted();
    throw error;
  }
}

interface Run {
  readonly client: MongoClient;
  readonly facts: MongodbFacts;
  readonly target: MongodbTarget;
  readonly datastore: MongodbDatastore;
  readonly write: WriteOptions;
  readonly state: BackupState;
  readonly signal: AbortSignal;
  readonly attempt: number;
  readonly throttle: Throttle;
  readonly onBytes: (plain: number) => void;
  readonly done: ReadonlyMap<string, Done>;
  /** Of the backup, as its first attempt fixed it. */
  readonly moment: string | null;
  /** The moment that is read; none: each collection by itself. */
  at: Timestamp | undefined;
  /** Why it could not be gone on with. */
  gone: string | undefined;
  /** Not there any more at the source, though it was at the moment. */
  readonly dropped: string[];
}

interface Done {
  readonly collection: MongodbCollection;
  readonly objects: readonly ObjectEntry[];
}

type BegunName = MongodbBegun['names'][number];

function aloneNote(names: readonly string[]): string {
  return `the capped collections ${names.join(', ')} were read by themselves, since the server shows such collections as they are now only`;
}

/** What holds for all attempts: the moment, and which collections there were then, as they were defined then. */
async function begin(client: MongoClient, facts: MongodbFacts, mongodb: MongodbDatastore): Promise<MongodbBegun> {
  const { backup } = mongodb;
  const list = async (): Promise<{ collections: Listed[]; views: Listed[] }> => {
    const { collections, views } = selectNamespaces(await listNamespaces(client, backup.include, backup.exclude), backup.include, backup.exclude);
    const listed = async (all: readonly Namespace[]): Promise<Listed[]> => {
      const defined: Listed[] = [];
      for (const { database, name, options } of all) defined.push({ database, name, capped: options['capped'] === true, definition: definitionDigest(await readDefinition(client, { database, name })) });
      return defined;
    };
    return { collections: await listed(collections), views: await listed(views) };
  };
  const startedAt = new Date().toISOString();
  const refused = (why: string): MongodbBegun => {
    if (backup.consistency === 'required') throw new HoldfastError('snapshot-required', `${why}, and backup.consistency is required`, { next: 'back up a replica set of MongoDB 5.0 or newer, or set consistency: preferred and let the manifest say that each collection was read by itself' });
    checkPrimary(facts, mongodb);
    return { format: 1, startedAt, atClusterTime: null, note: why, names: [] };
  };
  if (backup.tool === 'mongodump') return refused('mongodump reads collection by collection');
  const none = noSnapshotBecause(facts.hello);
  if (none !== undefined) return refused(none);
  for (let turn = 0; turn < LISTINGS; turn += 1) {
    let before: Awaited<ReturnType<typeof list>>;
    let after: Awaited<ReturnType<typeof list>>;
    let at: Timestamp;
    try {
      before = await list();
      const example = before.collections.find(({ capped }) => !capped);
      if (example === undefined) return refused('there are only views and capped collections');
      const taken = await takeSnapshot(client, facts, example);
      if ('none' in taken) return refused(taken.none);
      at = taken.at;
      after = await list();
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'collection-gone') continue;
      throw error;
    }
    // Equal before and after: so they were at the moment between.
    if (JSON.stringify(after) !== JSON.stringify(before)) continue;
    const alone = new Set<string>();
    for (const one of after.collections) if (one.capped && !(await showsMoment(client, one, at))) alone.add(qualified(one));
    if (alone.size > 0 && backup.consistency === 'required') throw new HoldfastError('snapshot-required', `this server shows capped collections as they are now only, and backup.consistency is required: ${[...alone].join(', ')}`, { next: 'name them under backup.exclude.collections, set consistency: preferred and let the manifest name them, or use MongoDB 8.0 or newer' });
    const named = ({ database, name, definition }: Listed): BegunName => ({ database, name, definition, ...(alone.has(qualified({ database, name })) ? { alone: true } : {}) });
    return { format: 1, startedAt, atClusterTime: clusterTimeText({ seconds: at.getHighBits(), increment: at.getLowBits() }), note: null, names: after.collections.map(named), views: after.views.map(named) };
  }
  throw new HoldfastError('collections-changing', `collections or their indexes come, go and change all the time: ${LISTINGS} lists of them differed`, { retryable: true, next: 'exclude what is made and dropped by the minute' });
}

interface Listed {
  readonly database: string;
  readonly name: string;
  readonly capped: boolean;
  readonly definition: string;
}

/** Without a moment a member that lags shows each collection of another time, or none. */
function checkPrimary(facts: MongodbFacts, { uri }: MongodbDatastore): void {
  if (facts.primary) return;
  throw new HoldfastError('source-lags', `${hostsOf(uri).join(',')} is a secondary, reached by itself, and no moment is held: what it shows may lie far back`, { next: 'name all members and replicaSet in uri, without directConnection' });
}

async function timestampOf(text: string): Promise<Timestamp> {
  const { Timestamp: Type } = await import('mongodb');
  const { seconds, increment } = parseClusterTime(text);
  return new Type({ t: seconds, i: increment });
}

/** Several at a time; in the order they were listed, without what was dropped at the source meanwhile. */
async function readAll(run: Run, stop: AbortController, collections: readonly BegunName[], onDone: (objects: readonly ObjectEntry[]) => void): Promise<Done[]> {
  const all: (Done | undefined)[] = Array.from({ length: collections.length });
  const waiting = [...collections.entries()];
  let first: { error: unknown } | undefined;
  await Promise.all(Array.from({ length: run.datastore.backup.concurrency }, async () => {
    try {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const [index, namespace] = next;
        const one = run.done.get(qualified(namespace)) ?? (await readCollection(run, namespace));
        all[index] = one;
        onDone(one?.objects ?? []);
      }
    } catch (error) {
      first ??= { error };
      waiting.length = 0;
      stop.abort(error);
    }
  }));
  if (first !== undefined) throw first.error;
  return all.filter((one) => one !== undefined);
}

/** @returns undefined: it is not there any more, and the backup says so. */
async function readCollection(run: Run, namespace: BegunName): Promise<Done | undefined> {
  for (let turn = 1; ; turn += 1) {
    run.signal.throwIfAborted();
    const at = namespace.alone === true ? undefined : run.at;
    try {
      const definition = await readDefinition(run.client, namespace);
      if (at !== undefined) checkDefinition(namespace, definition);
      const done = await storeCollection(run, definition, at);
      await run.state.finished({ format: 1, ...done, atClusterTime: at === undefined ? null : run.moment, ...(namespace.alone === true ? { alone: true } : {}), objects: [...done.objects] });
      return done;
    } catch (error) {
      run.signal.throwIfAborted();
      const code = error instanceof HoldfastError ? error.code : undefined;
      if (code === 'collection-gone' && (await leftOut(run, namespace, error as HoldfastError))) return undefined;
      // With a moment, documents of then and indexes of now would not be one collection.
      if (code === 'snapshot-gone' || (code === 'collection-changed' && at !== undefined)) {
        await momentGone(run, error as HoldfastError);
        continue;
      }
      const again = answerLost(error) || CURSOR_LOST.has(codeOf(error) ?? 0) || code === 'collection-changed';
      if (!again || turn >= TRIES) throw mongodbError(run.target, error);
      await pause(100 * 2 ** turn, undefined, { signal: run.signal });
    }
  }
}

/** @throws HoldfastError `snapshot-gone`: the documents of the moment belong to another definition than there is now. */
function checkDefinition(begun: BegunName, definition: Definition): void {
  if (begun.definition === undefined || begun.definition === definitionDigest(definition)) return;
  throw new HoldfastError('snapshot-gone', `${qualified(begun)} has other options or indexes, or was made anew, since the moment of this backup`, { next: 'let backups and changes of the schema not meet' });
}

/**
 * Dropped or renamed after the moment: it cannot be read as of it, and not as of now. Where no moment was taken, or it is named under
 * include, the next attempt looks again.
 */
async function leftOut(run: Run, namespace: BegunName, error: HoldfastError): Promise<boolean> {
  const name = qualified(namespace);
  if (run.moment === null || run.datastore.backup.include.collections.includes(name)) return false;
  await momentGone(run, error);
  run.dropped.push(name);
  return true;
}

/** The rest is read as it is now; where that is not allowed, the next attempt begins with a new moment. */
async function momentGone(run: Run, error: HoldfastError): Promise<void> {
  if (run.datastore.backup.consistency === 'required') {
    await run.state.forget();
    throw new HoldfastError('snapshot-gone', error.message, { retryable: true, ...(error.next === undefined ? {} : { next: error.next }), cause: error });
  }
  checkPrimary(run.facts, run.datastore);
  run.at = undefined;
  run.gone ??= `not of one moment: ${error.message}; ${error.next}`;
}

async function storeCollection(run: Run, definition: Definition, at: Timestamp | undefined): Promise<Done> {
  const { backup } = run.datastore;
  const path = `${run.attempt}/${objectPath(definition)}`;
  const shared = { throttle: run.throttle, signal: run.signal, onBytes: run.onBytes };
  const dump = backup.tool === 'mongodump'
    ? summed(definition, shared, dumpedByTool(run, definition))
    : dumpCollection(run.client, definition, { ...shared, batchDocuments: backup.batchDocuments, readPreference: at === undefined ? 'primary' : backup.from, ...(at === undefined ? {} : { at }) });
  const data = await writeObject(run.write, `${path}.bson`, 'data', dump.stream, { expectedBytes: await sizeOf(run.client, definition) });
  const metadata = await storeMetadata(run, path, definition);
  return { collection: { ...collectionEntry(definition, dump.result()), data: data.name, metadata: metadata.name }, objects: [data, metadata] };
}

async function* dumpedByTool(run: Run, definition: Definition): AsyncGenerator<Uint8Array[]> {
  yield* mongodumpDocuments(run.target, definition, { readPreference: 'primary', signal: run.signal });
  await checkUnchanged(run.client, definition);
}

function storeMetadata(run: Run, path: string, definition: Definition): Promise<ObjectEntry> {
  return writeObject(run.write, `${path}.metadata.json`, 'metadata', Readable.from([Buffer.from(metadataText(definition))], { objectMode: false }), {});
}

async function readAllViews(run: Run, views: readonly BegunName[]): Promise<{ view: MongodbView; objects: ObjectEntry[] }[]> {
  const all: { view: MongodbView; objects: ObjectEntry[] }[] = [];
  for (const namespace of views) {
    run.signal.throwIfAborted();
    try {
      const definition = await readDefinition(run.client, namespace);
      if (run.at !== undefined) checkDefinition(namespace, definition);
      all.push(await storeView(run, definition));
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      if (error.code === 'collection-gone' && (await leftOut(run, namespace, error))) continue;
      if (error.code !== 'snapshot-gone') throw error;
      await momentGone(run, error);
      all.push(await storeView(run, await readDefinition(run.client, namespace)));
    }
  }
  return all;
}

async function storeView(run: Run, definition: Definition): Promise<{ view: MongodbView; objects: ObjectEntry[] }> {
  const metadata = await storeMetadata(run, `${run.attempt}/${objectPath(definition)}`, definition);
  return { view: { ...viewEntry(definition), metadata: metadata.name }, objects: [metadata] };
}

/** A guess, for the size of upload parts. */
async function sizeOf(client: MongoClient, { database, name }: Definition): Promise<number> {
  const stats = await client.db(database).command({ collStats: name }).catch(() => ({}));
  return Number((stats as { size?: unknown }).size ?? 0) || 0;
}

/** Object by object, where mongorestore looks for it: its name in the store may be a shorter one. */
function placesOf(entries: readonly (MongodbCollection | MongodbView)[]): Map<string, string> {
  return new Map(entries.flatMap((entry) => [...(entry.kind === 'collection' && entry.data !== undefined ? [[entry.data, `${dumpPath(entry)}.bson`] as const] : []), ...(entry.metadata === undefined ? [] : [[entry.metadata, `${dumpPath(entry)}.metadata.json`] as const])]));
}

function plainCommands(store: Store, location: string, objects: readonly ObjectEntry[], compression: 'zstd' | 'gzip', places: ReadonlyMap<string, string>): MongodbManifest['commands'] {
  // mongorestore takes gzip as it is; zstd is unpacked on the way.
  const kept = compression === 'gzip' ? '.gz' : '';
  const place = (name: string): string => `dump/${places.get(name)}${kept}`;
  const fetch = ({ name, encryption }: ObjectEntry): string => {
    const file = place(name);
    const parts = [store.plainRead(location + name), ...(encryption === 'age' ? ['age --decrypt --identity <identity-file>'] : []), ...(compression === 'zstd' ? ['zstd --decompress --stdout'] : [])];
    return `mkdir -p ${shellQuote(file.slice(0, file.lastIndexOf('/')))} && ${parts.join(' | ')} > ${shellQuote(file)}`;
  };
  return [
    { what: 'Before all else, in the shell: stop when any part of a pipe fails', command: 'set -o pipefail' },
    ...objects.flatMap((object) => [
      { what: `Check the stored bytes of ${object.name}: must print ${object.storedSha256}`, command: `${store.plainRead(location + object.name)} | sha256sum` },
      { what: `${object.name} to its place in the folder`, command: fetch(object) },
    ]),
    { what: 'Everything, into an empty server; the password is asked for', command: `mongorestore${compression === 'gzip' ? ' --gzip' : ''} --host=<host:port> --username=<user> --authenticationDatabase=admin --dir=dump` },
  ];
}
