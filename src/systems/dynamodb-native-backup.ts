/** Backups by the service's own means: an export to S3 whose files are ours, and on-demand backups that the service keeps. */
import { createHash } from 'node:crypto';
import { accountOf } from '../model/config-words.ts';
import type { BackupResult } from '../model/api.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { onDemandName, whyNotOurBackup } from '../model/dynamodb-native.ts';
import type { DynamodbManifest, TableBackup, TableSums } from '../model/manifest-dynamodb.ts';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import { manifestSchema, type Manifest } from '../model/manifest.ts';
import { COMMIT, readFolders, storeNameOf } from './backup-catalogue.ts';
import type { BackupEngine, BackupOptions, BackupRequest, ReadBack } from './backup-engine.ts';
import { manifestHead, plainEntry } from './backup-manifest.ts';
import { commitBackup, createProgress, orphanAgeMs, removeLeftovers, resultOf } from './backup-write.ts';
import { storeOf, type Context } from './context.ts';
import { awaitExport, beginExport, readExport, type ExportFacts, type ExportRequest } from './dynamodb-export-native.ts';
import { recoveryWindow } from './dynamodb-moment.ts';
import { awaitOnDemand, beginOnDemand, deleteOnDemand, findOnDemand, listOnDemand, orphanOnDemand, type OnDemandBackup } from './dynamodb-on-demand.ts';
import { dynamoOf, placeText, sourceTables, type Tables } from './dynamodb-place.ts';
import { readSettings } from './dynamodb-settings.ts';
import { describeTable, type TableFacts } from './dynamodb.ts';
import { openStore, putFirst, shellQuote, type Store } from './store.ts';

/** What an earlier attempt has settled holds for all: kept where they all look. */
async function settled<T>(store: Store, key: string, make: () => Promise<T>, signal: AbortSignal): Promise<T> {
  if ((await store.head(key)) === undefined) {
    await putFirst(store, key, JSON.stringify(await make()), { contentType: 'application/octet-stream', signal });
  }
  return JSON.parse(await store.getText(key, { signal })) as T;
}

/** What the service writes, or keeps itself, carries no lock of ours: a store that promises one must not hold it. */
function refuseLock(store: Store, storeName: string, method: string): void {
  if (store.lockForMs === undefined) return;
  throw new HoldfastError('backup-method', `store ${storeName} locks its backups, and what the service takes itself (${method}) would not be locked`, { next: 'set backup.method: scan, or give the datastore a store without objectLock' });
}

// --- export to S3 --------------------------------------------------------------------------------------------------------------------

const EXPORT_TEXT = 'a point-in-time export of the service: every table as it was at one and the same second';

/** All tables of one second, written by the service into the backup's own folder, and read through before it counts. */
export async function backUpByExport(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult> {
  const { signal } = options;
  const clock = performance.now();
  const { tables: names, backup } = dynamoOf(context, request.datastore);
  const storeName = storeNameOf(context, request.datastore);
  const config = storeOf(context.config, storeName);
  if (config.type !== 's3') throw new HoldfastError('backup-method', `the service exports to Amazon S3 only; store ${storeName} is a folder`, { next: 'set backup.method: scan, or give the datastore a store in Amazon S3' });
  if (config.encryption !== undefined) throw new HoldfastError('backup-method', `the service would write to ${storeName} in plain, and the store says that backups are encrypted`, { next: 'set backup.method: scan; or take encryption from the store, and let the bucket encrypt by its own key' });
  const store = await openStore(context, storeName);
  refuseLock(store, storeName, 'export');
  const tables = await sourceTables(context, request.datastore);
  const { progress, report } = createProgress(request, options, names.length);
  const startedAt = new Date();
  const facts = new Map<string, TableFacts>();
  for (const name of names) facts.set(name, await describeTable(tables.client, name, signal));
  const { momentMs } = await settled(store, `${request.location}state/export.json`, async () => ({ momentMs: await newestCommonMoment(tables, names, signal) }), signal);

  progress.phase = 'dump';
  report();
  const requestOf = (name: string): ExportRequest => ({
    client: tables.client, once: tables.items, tableArn: facts.get(name)!.arn, bucket: config.bucket, bucketOwner: config.assumeRole === undefined ? undefined : accountOf(config.assumeRole), prefix: `${request.location}${name}`, momentMs, signal,
    token: createHash('sha256').update(JSON.stringify([context.config.environment, request.location, name])).digest('hex').slice(0, 36),
  });
  const begun = new Map<string, ExportFacts>();
  for (const name of names) begun.set(name, await beginExport(requestOf(name)));
  const exported: { backup: TableBackup; sums: TableSums; objects: ObjectEntry[] }[] = [];
  for (const name of names) {
    const done = await awaitExport(requestOf(name), begun.get(name)!.arn, { pollMs: backup.pollEvery, onProgress: report });
    exported.push(await takeIn(store, request, { tables, facts: facts.get(name)!, done, momentMs }, signal, (bytes) => {
      progress.storedBytes += bytes;
      progress.bytesPerSecond = Math.round((progress.storedBytes / Math.max(1, performance.now() - clock)) * 1000);
      report();
    }));
    progress.tables += 1;
    report();
  }
  const items = exported.reduce((sum, { sums }) => sum + sums.items, 0);
  if (items < backup.minimumItems) throw new HoldfastError('backup-too-small', `the tables held ${items} items, at least ${backup.minimumItems} are expected`, { next: 'find out where the items are; lower backup.minimumItems when fewer are right' });
  progress.phase = 'commit';
  report();
  const place = placeText(context, tables);
  const manifest = manifestSchema.parse({
    ...manifestHead(context, request, { startedAt: startedAt.toISOString(), degraded: request.degraded }),
    format: 3, engine: 'dynamodb', snapshotAt: new Date(momentMs).toISOString(),
    source: { ...place, method: 'export', consistency: 'point-in-time', consistencyText: EXPORT_TEXT, consistentRead: false },
    selection: { complete: true, tables: [...names] },
    objects: exported.flatMap((one) => one.objects),
    tables: exported.map((one) => one.backup),
    fingerprint: { method: 'sha256-sum/1', tables: exported.map(({ sums }) => sums) },
    commands: exported.map(({ backup: { name, export: folder } }) => ({ what: `DynamoDB's own import of ${name} into a new table`, command: `aws dynamodb import-table --s3-bucket-source S3Bucket=${config.bucket},S3KeyPrefix=${shellQuote(`${request.location}${folder}data/`)} --input-format DYNAMODB_JSON --input-compression-type GZIP --table-creation-parameters <from tables[].settings of this manifest>` })),
  } satisfies DynamodbManifest);
  const committed = await commitBackup(store, request, manifest, [], { ifAbsent: true, signal }, options.mayCommit);
  await removeLeftovers(context, store, request.location, committed);
  return resultOf(committed, request.location, performance.now() - clock);
}

/** Whole seconds, which is what the service exports by. @throws HoldfastError `export-refused` when a table cannot be exported. */
async function newestCommonMoment(tables: Tables, names: readonly string[], signal: AbortSignal): Promise<number> {
  let newest = Math.floor(Date.now() / 1000) * 1000;
  for (const name of names) {
    const window = await recoveryWindow({ client: tables.client, signal }, name);
    if (window?.enabled !== true) throw new HoldfastError('export-refused', `point-in-time recovery of ${name} is ${window === undefined ? 'not known to this server' : 'off'}: the service exports from it`, { next: `aws dynamodb update-continuous-backups --table-name ${name} --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true; or set backup.method: scan` });
    if (window.latestMs !== null) newest = Math.min(newest, Math.floor(window.latestMs / 1000) * 1000);
  }
  return newest;
}

async function takeIn(store: Store, request: BackupRequest, of: { tables: Tables; facts: TableFacts; done: ExportFacts; momentMs: number }, signal: AbortSignal, onBytes: (bytes: number) => void): Promise<{ backup: TableBackup; sums: TableSums; objects: ObjectEntry[] }> {
  const { name, arn, id } = of.facts;
  const prefix = `${request.location}${name}`;
  const read = await readExport(store, { prefix, arn: of.done.arn, tableArn: arn, items: of.done.items }, { signal });
  const nameOf = (key: string): string => {
    if (!key.startsWith(request.location)) throw new HoldfastError('export-damaged', `the export of ${name} names ${key}, which does not lie in ${request.location}`, { next: 'nothing was committed; find out who can write to the bucket' });
    return key.slice(request.location.length);
  };
  const objects: ObjectEntry[] = read.files.map((file) => ({ name: nameOf(file.key), role: 'data', compression: 'gzip', encryption: 'none', storedBytes: file.storedBytes, storedSha256: file.storedSha256, plainBytes: file.plainBytes, plainSha256: file.plainSha256 }));
  for (const { storedBytes } of read.files) onBytes(storedBytes);
  for (const key of read.others) {
    const bytes = Buffer.from(await store.getText(key, { signal }));
    objects.push(plainEntry(nameOf(key), bytes));
  }
  const summary = nameOf(read.others[0]!);
  const at = new Date(of.momentMs).toISOString();
  return {
    objects, sums: { name, ...read.sums },
    backup: {
      name, arn, id, export: summary.slice(0, summary.lastIndexOf('/') + 1), settings: await readSettings(of.tables.client, of.facts, signal), readFrom: at, readTo: at,
      files: read.files.map((file) => ({ object: nameOf(file.key), items: file.items })),
    },
  };
}

// --- on-demand backups ---------------------------------------------------------------------------------------------------------------

const ON_DEMAND_TEXT = 'on-demand backups of the service, one for each table, begun one after the other: each is of its own moment, and nothing is said of writes across items and tables';

/** Found again by their names; nothing of them lies in the store but the manifest. */
export async function backUpOnDemand(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult> {
  const { signal } = options;
  const clock = performance.now();
  const { tables: names, backup } = dynamoOf(context, request.datastore);
  const storeName = storeNameOf(context, request.datastore);
  const store = await openStore(context, storeName);
  refuseLock(store, storeName, 'on-demand');
  const tables = await sourceTables(context, request.datastore);
  const { progress, report } = createProgress(request, options, names.length);
  const startedAt = new Date();
  const access = { client: tables.client, signal };
  const name = onDemandName(request.datastore, request.id);
  // Known to the store before the service is asked: what a killed run leaves is found by it, and by nothing else.
  await settled(store, `${request.location}state/on-demand.json`, () => Promise.resolve({ name, tables: names }), signal);
  progress.phase = 'dump';
  report();
  const begun: { facts: TableFacts; backup: OnDemandBackup }[] = [];
  for (const table of names) {
    const facts = await describeTable(tables.client, table, signal);
    begun.push({ facts, backup: await beginOnDemand({ ...access, once: tables.items }, { table, name }) });
  }
  const done: { facts: TableFacts; backup: OnDemandBackup }[] = [];
  for (const one of begun) {
    done.push({ facts: one.facts, backup: await awaitOnDemand(access, one.backup.arn, { pollMs: backup.pollEvery, onProgress: report }) });
    progress.tables += 1;
    report();
  }
  progress.phase = 'commit';
  report();
  const place = placeText(context, tables);
  const created = done.map((one) => one.backup.createdAtMs);
  const manifest = manifestSchema.parse({
    ...manifestHead(context, request, { startedAt: startedAt.toISOString(), degraded: request.degraded }),
    format: 3, engine: 'dynamodb', snapshotAt: new Date(Math.min(...created)).toISOString(),
    source: { ...place, method: 'on-demand', consistency: 'point-in-time', consistencyText: ON_DEMAND_TEXT, consistentRead: false },
    selection: { complete: true, tables: [...names] },
    objects: [],
    tables: await Promise.all(done.map(async ({ facts, backup: { createdAtMs } }): Promise<TableBackup> => {
      const at = new Date(createdAtMs).toISOString();
      return { name: facts.name, arn: facts.arn, id: facts.id, export: '', settings: await readSettings(tables.client, facts, signal), readFrom: at, readTo: at, files: [] };
    })),
    fingerprint: { method: 'sha256-sum/1', tables: [] },
    managed: { kind: 'dynamodb-on-demand', region: place.region, backups: done.map((one) => ({ table: one.facts.name, tableArn: one.facts.arn, name, arn: one.backup.arn, createdAt: new Date(one.backup.createdAtMs).toISOString(), bytes: one.backup.bytes })) },
    commands: done.map((one) => ({ what: `Table ${one.facts.name} as a new table`, command: `aws dynamodb restore-table-from-backup --region ${place.region} --target-table-name <new-table> --backup-arn ${one.backup.arn}` })),
  } satisfies DynamodbManifest);
  const committed = await commitBackup(store, request, manifest, [], { ifAbsent: true, signal }, async () => {
    await options.mayCommit?.();
    // Last of all: whoever took this run for ended removes what it began.
    for (const one of done) {
      const status = (await findOnDemand(access, one.backup.arn))?.status;
      if (status !== 'AVAILABLE') throw new HoldfastError('on-demand-gone', `backup ${one.backup.arn} of ${one.facts.name} is ${status ?? 'not there any more'}: nothing is committed`, { retryable: true, next: 'another attempt takes it anew; if it happens again, find out who deletes backups' });
    }
  });
  await removeLeftovers(context, store, request.location, committed);
  return resultOf(committed, request.location, performance.now() - clock);
}

/** There, and restorable, as far as the service says: its content cannot be read without restoring it. */
export async function lookAtOnDemand(context: Context, manifest: DynamodbManifest, signal: AbortSignal): Promise<ReadBack> {
  const tables = await sourceTables(context, manifest.datastore);
  let bytes = 0;
  for (const one of manifest.managed!.backups) {
    const found = await findOnDemand({ client: tables.client, signal }, one.arn);
    if (found?.status !== 'AVAILABLE') throw new HoldfastError('on-demand-gone', `backup ${one.arn} of ${one.table} is ${found?.status ?? 'not there'}`, { next: 'do not rely on this backup; find out who may delete backups' });
    const why = whyNotOurBackup(found, one);
    if (why !== null) throw new HoldfastError('on-demand-foreign', `backup ${one.arn}: ${why}`, { next: 'do not rely on this backup' });
    bytes += found.bytes ?? 0;
  }
  return { objects: 0, storedBytes: bytes, plainBytes: bytes, how: `the service says that ${manifest.managed!.backups.length} on-demand backup(s) are available; only a drill can read them` };
}

async function deleteAll(context: Context, manifest: DynamodbManifest, onLeft: (why: string) => void): Promise<void> {
  const tables = await sourceTables(context, manifest.datastore);
  for (const { arn, name, tableArn } of manifest.managed!.backups) {
    const left = await deleteOnDemand({ client: tables.client, signal: AbortSignal.timeout(5 * 60_000) }, { arn, name, tableArn });
    if (left !== undefined) onLeft(left);
  }
}

function onDemandOf(manifest: Manifest): DynamodbManifest {
  if (manifest.engine === 'dynamodb' && manifest.managed !== undefined) return manifest;
  throw new HoldfastError('wrong-engine', `backup ${manifest.id} is no on-demand backup of DynamoDB`, { next: 'correct the engine of the datastore' });
}

/** The same retention as for every backup. What does not carry our name, or is of another table, is never touched. */
export const onDemandOutside: NonNullable<BackupEngine<DynamodbManifest>['outside']> = {
  async mayDelete(context, manifest) {
    const { client } = await sourceTables(context, manifest.datastore);
    for (const one of onDemandOf(manifest).managed!.backups) {
      const expected = onDemandName(manifest.datastore, manifest.id);
      if (one.name !== expected) return `the manifest names a backup ${one.name}; ours would be ${expected}`;
      const found = await findOnDemand({ client, signal: AbortSignal.timeout(60_000) }, one.arn);
      const why = found === undefined ? null : whyNotOurBackup(found, one);
      if (why !== null) return `backup ${one.arn} is not ours: ${why}`;
    }
    return null;
  },
  delete: (context, manifest) =>
    deleteAll(context, onDemandOf(manifest), (left) => {
      throw new HoldfastError('on-demand-left', left, { retryable: true, next: 'the next retention run deletes it; if it stays, delete it yourself' });
    }),
  async reap(context, datastore, known, nowMs, signal) {
    const { tables: names, backup } = dynamoOf(context, datastore);
    const store = await openStore(context, storeNameOf(context, datastore));
    const uncommitted = [...(await readFolders(store, store.prefix, datastore)).values()].filter(({ id, files }) => !files.has(COMMIT) && !known.has(id)).map(({ id }) => id);
    const { client } = await sourceTables(context, datastore);
    const access = { client, signal: signal ?? AbortSignal.timeout(5 * 60_000) };
    let removed = 0;
    for (const { arn, name, tableArn } of await orphanOnDemand(access, { datastore, tables: names, uncommitted, beforeMs: nowMs - orphanAgeMs(backup.timeout) })) {
      const left = await deleteOnDemand(access, { arn, name, tableArn });
      if (left === undefined) removed += 1;
      else context.log.warn({ backup: arn, left }, 'an on-demand backup that was never committed could not be removed');
    }
    return removed;
  },
};

/** Of attempts that are over: what they began and did not commit. One that is still being taken cannot be deleted yet; retention does. */
export async function removeUncommitted(context: Context, datastore: string, ids: readonly string[]): Promise<number> {
  const { tables: names, backup } = dynamoOf(context, datastore);
  if (backup.method !== 'on-demand') return 0;
  const store = await openStore(context, storeNameOf(context, datastore));
  const committed = new Set([...(await readFolders(store, store.prefix, datastore)).values()].flatMap(({ id, files }) => (files.has(COMMIT) ? [id] : [])));
  const access = { client: (await sourceTables(context, datastore)).client, signal: AbortSignal.timeout(60_000) };
  let removed = 0;
  for (const name of ids.filter((id) => !committed.has(id)).map((id) => onDemandName(datastore, id))) {
    for (const table of names) {
      for (const one of await listOnDemand(access, { table, prefix: name })) {
        if (one.name !== name) continue;
        const left = await deleteOnDemand(access, one).catch((error: unknown) => messageOf(error));
        if (left === undefined) removed += 1;
        else context.log.warn({ backup: one.arn, left }, 'an on-demand backup that was not committed could not be removed');
      }
    }
  }
  return removed;
}
