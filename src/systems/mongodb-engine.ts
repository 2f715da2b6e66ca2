import { hash } from 'node:crypto';
import { BSON } from 'mongodb';
import type { CheckResult } from '../model/api.ts';
import { createFrames, createSums } from '../model/bson-frame.ts';
import type { ServiceCheck } from '../model/config-schema.ts';
import { HoldfastError, messageOf, STORED_FAULTS } from '../model/errors.ts';
import type { MongodbCollection, MongodbManifest } from '../model/manifest-mongodb.ts';
import { qualified, selectNamespaces } from '../model/mongodb-selection.ts';
import { noSnapshotBecause } from '../model/mongodb-snapshot.ts';
import { sameMajor } from '../model/mongodb-version.ts';
import { judgeCheck } from '../model/proof-check.ts';
import { compareMongodb } from '../model/proof-mongodb.ts';
import { formatBytes } from '../model/units.ts';
import { openObject } from './backup-catalogue.ts';
import type { BackupEngine, DrillTargets, StoredBackup } from './backup-engine.ts';
import type { Context } from './context.ts';
import { factsOf, mongodbOf, mongodbTarget, withMongodb, type MongodbTarget } from './mongodb.ts';
import { backUpMongodb } from './mongodb-backup.ts';
import { expiryMonitorOf, hasExpiringIndex } from './mongodb-drill-claim.ts';
import { createMongodbTarget, destroyMongodbTarget, openMongodbTarget, sweepMongodbTargets } from './mongodb-drill-target.ts';
import { listNamespaces } from './mongodb-dump.ts';
import { fingerprintMongodb } from './mongodb-proof.ts';
import { contentsOf, restoreMongodb, type MongodbRestored, type MongodbRestoreOptions } from './mongodb-restore.ts';
import { mongodumpVersion } from './mongodb-tools.ts';

export const mongodbEngine: BackupEngine<MongodbManifest> = {
  name: 'mongodb',
  resumable: true,
  backUp: backUpMongodb,
  /** A cursor whose client is gone is ended by the server, at the latest after ten minutes; it holds no lock. */
  endSessions: () => Promise.resolve(0),
  readBack,
  ready,
  drill: drillTargets(),
};

/** What restores a stored backup into a server. */
export function restoreStored(context: Context, backup: StoredBackup<MongodbManifest>, target: MongodbTarget, options: Pick<MongodbRestoreOptions, 'allowNonEmpty' | 'onProgress' | 'onWait' | 'prove' | 'leaseTimes' | 'signal'>): Promise<MongodbRestored> {
  const { manifest } = backup;
  const { restore } = mongodbOf(context.config, manifest.datastore);
  const connections = restore.concurrency * 2 + 2;
  return withMongodb(target, (client) => restoreMongodb(client, {
    backupId: manifest.id, fingerprint: manifest.fingerprint, settings: restore, ...options,
    open: (collection) => openDocuments(context, backup, collection, options.signal),
  }), { signal: options.signal, connections, appName: 'holdfast restore' });
}

async function openDocuments(context: Context, { storeName, location, manifest }: StoredBackup<MongodbManifest>, collection: MongodbCollection, signal: AbortSignal | undefined): Promise<AsyncIterable<Buffer>> {
  const entry = manifest.objects.find(({ name }) => name === collection.data);
  if (entry === undefined) throw new HoldfastError('object-missing', `backup ${manifest.id} names no object with the documents of ${qualified(collection)}`, { next: 'choose another backup' });
  return openObject(context, storeName, location, entry, signal === undefined ? {} : { signal });
}

async function readBack(context: Context, backup: StoredBackup<MongodbManifest>, options: Parameters<BackupEngine<MongodbManifest>['readBack']>[2]): ReturnType<BackupEngine<MongodbManifest>['readBack']> {
  const { storeName, location, manifest } = backup;
  const collections = new Map(manifest.fingerprint.collections.map((collection) => [collection.data, collection]));
  let [storedBytes, plainBytes, documents] = [0, 0, 0n];
  for (const entry of manifest.objects) {
    const stream = await openObject(context, storeName, location, entry, { ...(options.signal === undefined ? {} : { signal: options.signal }), onProgress: (bytes) => options.onProgress?.(entry.name, bytes, entry.plainBytes) });
    const collection = collections.get(entry.name);
    if (collection === undefined) {
      let text = '';
      for await (const chunk of stream) text += String(chunk);
      if (entry.role === 'metadata') JSON.parse(text);
    } else documents += await checkDocuments(entry.name, collection, stream);
    collections.delete(entry.name);
    storedBytes += entry.storedBytes;
    plainBytes += entry.plainBytes;
  }
  const missing = [...collections.values()][0];
  if (missing !== undefined) throw new HoldfastError('object-missing', `backup ${manifest.id} names no object with the documents of ${qualified(missing)}`, { next: 'choose another backup' });
  return { objects: manifest.objects.length, storedBytes, plainBytes, how: `${documents} documents were read to their ends, and their sums are those of the manifest` };
}

async function checkDocuments(name: string, collection: MongodbCollection, stream: AsyncIterable<Buffer>): Promise<bigint> {
  const frames = createFrames(name);
  const sums = createSums((document) => hash('sha256', document, 'buffer'));
  for await (const chunk of stream) for (const document of frames.push(chunk)) sums.add(document);
  frames.end();
  const found = sums.value();
  if (found.documents === collection.documents && found.sum1 === collection.sum1 && found.sum2 === collection.sum2) return BigInt(found.documents);
  throw new HoldfastError('object-damaged', `${name} holds ${found.documents} documents with sums ${found.sum1} / ${found.sum2}; the manifest says ${collection.documents} with ${collection.sum1} / ${collection.sum2}`, { next: 'do not rely on this backup; restore another one' });
}

async function ready(context: Context, name: string, signal: AbortSignal): ReturnType<NonNullable<BackupEngine['ready']>> {
  const { backup } = mongodbOf(context.config, name);
  try {
    const target = await mongodbTarget(context, name);
    const version = backup.tool === 'mongodump' ? await mongodumpVersion() : undefined;
    const { facts, chosen } = await withMongodb(target, async (client) => ({ facts: await factsOf(client), chosen: selectNamespaces(await listNamespaces(client, backup.include, backup.exclude), backup.include, backup.exclude) }), { signal });
    const none = noSnapshotBecause(facts.hello);
    const moment = none === undefined || backup.consistency !== 'required';
    return [
      { name: `MongoDB ${name} answers`, ok: true, expected: 'an answer', found: `${facts.topology}, version ${facts.serverVersion}${version === undefined ? '' : `, ${version}`}` },
      { name: `what MongoDB ${name} has can be backed up`, ok: true, expected: 'a selection', found: `${chosen.collections.length} collections, ${chosen.views.length} views` },
      { name: `MongoDB ${name} shows all collections as of one moment`, ok: moment, expected: backup.consistency, found: none ?? 'it can', ...(moment ? {} : { next: 'use a replica set of MongoDB 5.0 or newer, or consistency: preferred' }) },
    ];
  } catch (error) {
    const known = error instanceof HoldfastError ? error : undefined;
    return [{ name: `MongoDB ${name} answers`, ok: false, expected: 'an answer, and a selection that can be backed up', found: messageOf(error), next: known?.next ?? 'look at the message', ...(known?.code === 'mongodb-connect' ? { weight: 'unknown' as const } : {}) }];
  }
}

/** What in the backup itself keeps it from being restored. */
const BACKUP_FAULTS = new Set<string>([...STORED_FAULTS, 'bson-truncated', 'bson-invalid', 'document-differs', 'document-refused', 'index-refused']);
/** Of them, what may as well be the other version of the server. */
const VERSION_FAULTS = new Set(['document-refused', 'index-refused']);

function drillTargets(): DrillTargets<MongodbManifest> {
  return {
    async start(context, call, manifest, { signal }) {
      const started = performance.now();
      const target = await createMongodbTarget(context, call, manifest, signal);
      return { name: target.name, serverVersion: `MongoDB ${target.serverVersion}`, isolation: target.isolation, systemIdentifier: target.name, tookMs: Math.round(performance.now() - started) };
    },

    async restore(context, call, manifest, { signal, onProgress }) {
      const target = await openMongodbTarget(context, call.targetName);
      const found = await withMongodb(target.connection, (client) => contentsOf(client), { signal });
      if (found.length > 0) throw new HoldfastError('drill-target-gone', `drill target ${call.targetName} already holds ${found[0]}: an earlier attempt was cut off`, { next: 'the drill starts over with a new target' });
      const startedAtMs = Date.now();
      try {
        const of = formatBytes(manifest.objects.reduce((sum, { plainBytes }) => sum + plainBytes, 0));
        const done = await restoreStored(context, { storeName: call.storeName, location: call.location, manifest }, target.connection, { signal, onProgress: ({ collections, ofCollections, plainBytes }) => onProgress(`${collections} of ${ofCollections} collections, ${formatBytes(plainBytes)} of ${of}`) });
        const finishedAtMs = Date.now();
        return { startedAtMs, finishedAtMs, globalsMs: null, dataMs: finishedAtMs - startedAtMs, plainBytes: done.plainBytes, bad: null };
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof HoldfastError) || !BACKUP_FAULTS.has(error.code)) throw error;
        await openMongodbTarget(context, call.targetName);
        if (VERSION_FAULTS.has(error.code) && sameMajor(target.serverVersion, manifest.source.serverVersion) !== true) throw new HoldfastError('drill-target-version', `a server of version ${target.serverVersion} refuses what one of version ${manifest.source.serverVersion} held, which says nothing about the backup: ${error.message}`, { next: 'drill with a server of the same version', cause: error });
        return { startedAtMs, finishedAtMs: Date.now(), globalsMs: null, dataMs: null, plainBytes: 0, bad: messageOf(error) };
      }
    },

    async prove(context, call, manifest, { signal, onProgress }) {
      const target = await openMongodbTarget(context, call.targetName);
      const proof = await proveRestored(context, target.connection, manifest, { ownDatabases: false, signal, onProgress });
      if (!hasExpiringIndex(manifest) || (await withMongodb(target.connection, expiryMonitorOf, { signal })) === 'off') return proof;
      return { ...proof, notes: [...proof.notes, 'the drill server does not say that its TTL monitor is off: documents whose time had come may have been deleted before they were compared'] };
    },

    async check(context, call, checks, { timeoutMs, signal, onProgress }) {
      const target = await openMongodbTarget(context, call.targetName);
      onProgress(`running ${checks.length} checks`);
      return runPipelineChecks(target.connection, checks, { timeoutMs, signal });
    },

    destroy: (context, { targetName }) => destroyMongodbTarget(context, targetName),
    sweep: sweepMongodbTargets,
  };
}

/** Reads everything in a restored server and compares it with the manifest. */
export async function proveRestored(context: Context, target: MongodbTarget, manifest: MongodbManifest, options: { readonly ownDatabases: boolean; readonly signal?: AbortSignal | undefined; readonly onProgress?: (what: string) => void }): Promise<ReturnType<typeof compareMongodb>> {
  const { backup } = mongodbOf(context.config, manifest.datastore);
  const found = await withMongodb(target, (client) => fingerprintMongodb(client, {
    wanted: manifest.fingerprint, ownDatabases: options.ownDatabases, batchDocuments: backup.batchDocuments, concurrency: backup.concurrency, ...(options.signal === undefined ? {} : { signal: options.signal }),
    onProgress: ({ collections, ofCollections, plainBytes }) => options.onProgress?.(`compared ${collections} of ${ofCollections} collections, ${formatBytes(plainBytes)}`),
  }), { signal: options.signal, connections: backup.concurrency + 2, appName: 'holdfast proof' });
  return compareMongodb(manifest, found, { consistencyNote: manifest.source.consistencyNote });
}

/** Stages that write. */
const WRITES = new Set(['$out', '$merge']);

/**
 * The service's own questions: one value each, the first field but _id of the first document.
 * @throws HoldfastError `check-not-run` when the server could not answer; a wrong answer is a result.
 */
async function runPipelineChecks(target: MongodbTarget, checks: readonly ServiceCheck[], options: { readonly timeoutMs: number; readonly signal: AbortSignal }): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const check of checks) {
    const { database, collection, pipeline } = check.mongodb!;
    const failed = (found: string): CheckResult => ({ name: check.name, ok: false, found, expected: 'an answer', next: 'run its query against the source: either the backup misses something, or the check is out of date' });
    if (pipeline.some((stage) => Object.keys(stage).some((key) => WRITES.has(key)))) {
      results.push(failed('error: it writes ($out, $merge), and a check only reads'));
      continue;
    }
    try {
      const stages = BSON.EJSON.parse(JSON.stringify(pipeline)) as Record<string, unknown>[];
      const [document] = await withMongodb(target, (client) => client.db(database).collection(collection).aggregate(stages, { maxTimeMS: options.timeoutMs }).limit(1).toArray(), { signal: options.signal });
      const value = document === undefined ? undefined : Object.entries(document).find(([key]) => key !== '_id')?.[1];
      results.push(judgeCheck(check, value === undefined ? [] : [[plainValue(value)]]));
    } catch (error) {
      options.signal.throwIfAborted();
      if (error instanceof HoldfastError && error.code === 'mongodb-command') results.push(failed(`error: ${error.message}`));
      else throw new HoldfastError('check-not-run', `check "${check.name}" could not be run: ${messageOf(error)}`, { next: 'look at the log of the server it ran on', retryable: true, cause: error });
    }
  }
  return results;
}

/** Numbers that JavaScript cannot hold exactly come as text. */
function plainValue(value: unknown): unknown {
  return typeof value === 'object' && value !== null && '_bsontype' in value ? String(value) : value;
}
