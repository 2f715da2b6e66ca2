/** A backup that is a managed snapshot, phase by phase. Every phase finds what an earlier attempt of it did: in RDS by name and tags, in the store by its folder. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Client } from 'pg';
import { postgresManifestOf } from '../model/manifest.ts';
import type { BackupResult } from '../model/api.ts';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { NO_FINGERPRINT, TAG_BACKUP, TAG_COMMITTED, isMarkerTable, settle, snapshotIdentifier, snapshotTags, whyNotOurs, type ChangeCounters, type Reading } from '../model/managed-snapshot.ts';
import { postgresManifestSchema, type ManagedSnapshot, type PostgresManifest } from '../model/manifest-postgres.ts';
import { COMMIT, readManifest, storeNameOf } from './backup-catalogue.ts';
import type { BackupRequest } from './backup-engine.ts';
import { manifestHead } from './backup-manifest.ts';
import { commitBackup, removeStored, resultOf } from './backup-write.ts';
import { postgresOf, type Context } from './context.ts';
import { connectPostgres, withPostgres, type PostgresTarget } from './postgres.ts';
import { openSnapshot } from './postgres-dump.ts';
import { EVERYTHING, fingerprintDatabase, joinSnapshot, readSequences, schemaObjects } from './postgres-fingerprint.ts';
import { askNodes, primaryAmong } from './postgres-primary.ts';
import { selectRelations } from './postgres-selection.ts';
import { copySnapshot, createSnapshot, deleteSnapshot, describeSnapshot, listSnapshots, shareSnapshot, tagCommitted, type SnapshotFacts } from './rds-snapshots.ts';
import { ensureMarkerTable, expectationOf, readMarkers, writeMarker } from './recovery-marker.ts';
import { openStore, putFirst, type Store } from './store.ts';

const BEFORE = 'reading-before.json';
const AFTER = 'reading-after.json';

/** One managed backup, settled at its start. */
export interface ManagedRequest extends Omit<BackupRequest, 'degraded'> {
  /** Backup id; name of the snapshot, tag and subject of the marker rows follow from it. */
  readonly id: string;
  readonly startedAtMs: number;
}

/** Where the snapshot is. */
export interface SnapshotRef {
  readonly instance: string;
  readonly region: string;
  readonly identifier: string;
  readonly arn: string;
}

/** What is known of the source from before the snapshot, kept in the backup's folder until it is committed. */
interface StoredReading extends Reading {
  readonly at: string;
  readonly source: PostgresManifest['source'];
  readonly fingerprinted: boolean;
  readonly sequenceSteps: ManagedSnapshot['sequenceSteps'];
}

export function managedOf(context: Context, datastoreName: string): { datastore: PostgresDatastore; snapshots: NonNullable<NonNullable<PostgresDatastore['managed']>['snapshots']> } {
  const datastore = postgresOf(context.config, datastoreName);
  const snapshots = datastore.managed?.snapshots;
  if (snapshots === undefined) throw new HoldfastError('not-managed', `datastore ${datastoreName} takes no managed snapshots`, { next: `add datastores.${datastoreName}.managed.snapshots` });
  return { datastore, snapshots };
}

/** Instances of the datastore, by node. */
export function instancesOf(context: Context, datastore: PostgresDatastore): { node: string; instance: string; region: string; host: string; port: number }[] {
  return Object.entries(datastore.nodes).flatMap(([node, { rds, host, port }]) => (rds === undefined ? [] : [{ node, instance: rds.instance, region: rds.region ?? context.config.aws.region, host, port }]));
}

export async function primaryOf(context: Context, datastore: PostgresDatastore): Promise<{ node: string; instance: string; region: string; target: PostgresTarget }> {
  const instances = instancesOf(context, datastore);
  const seen = await askNodes(context, datastore, instances.map(({ node }) => node));
  const primary = await primaryAmong(context, datastore, seen);
  const found = instances.find(({ node }) => node === primary?.node);
  if (found !== undefined && primary !== undefined) return { ...found, target: primary.target };
  const problems = [...seen.nodes.map(({ node, standby }) => `${node} is ${standby ? 'a replica' : 'fenced'}`), ...seen.problems];
  throw new HoldfastError('no-primary', `no RDS instance of the datastore answers as its primary: ${problems.join('; ')}`, { retryable: true, next: 'check that the instance runs, that this worker reaches it, and nodes.<n>.rds' });
}

const tagsFor = (context: Context, request: ManagedRequest) => snapshotTags({ environment: context.config.environment, datastore: request.datastore, backup: request.id }, managedOf(context, request.datastore).snapshots.tags);

function refuseForeign(context: Context, request: ManagedRequest, found: SnapshotFacts): void {
  const why = whyNotOurs(found.tags, { environment: context.config.environment, datastore: request.datastore, backup: request.id });
  if (why !== null) throw new HoldfastError('snapshot-foreign', `snapshot ${found.identifier} in ${found.region} exists and is not of this backup: ${why}`, { next: 'nothing was changed; find out who made it' });
}

/** Before the snapshot: the marker table, and what every table holds. Repeated by an attempt that finds nothing stored. */
export async function readBefore(context: Context, request: ManagedRequest, options: { signal: AbortSignal; onProgress: (text: string) => void }): Promise<void> {
  const store = await openStore(context, storeNameOf(context, request.datastore));
  if ((await store.head(request.location + BEFORE)) !== undefined) return;
  const { datastore, snapshots } = managedOf(context, request.datastore);
  const { node, target } = await primaryOf(context, datastore);
  await ensureMarkerTable(target);
  await writeMarker(target, request.id, 'before');
  const reading = await readDatabase(datastore, node, target, request.id, snapshots.fingerprint, options);
  await putFirst(store, request.location + BEFORE, JSON.stringify(reading), { contentType: 'application/json', signal: options.signal });
}

/** By its name, in every Region an instance of the datastore is in. @throws HoldfastError `snapshot-foreign`. */
export async function findSnapshot(context: Context, request: ManagedRequest): Promise<SnapshotRef | null> {
  const { datastore } = managedOf(context, request.datastore);
  const identifier = snapshotIdentifier(request.datastore, request.id);
  for (const region of new Set(instancesOf(context, datastore).map((one) => one.region))) {
    const found = await describeSnapshot(context, { region, identifier });
    if (found === undefined) continue;
    refuseForeign(context, request, found);
    return refOf(found);
  }
  return null;
}

/** Ask RDS for it once. What an earlier attempt began is found by its name; a marker is written only when it surely has not begun. */
export async function beginSnapshot(context: Context, request: ManagedRequest, signal: AbortSignal): Promise<SnapshotRef> {
  const { datastore } = managedOf(context, request.datastore);
  const found = await findSnapshot(context, request);
  if (found !== null) return found;
  const { instance, region, target } = await primaryOf(context, datastore);
  // A second one is written when an earlier request of ours may have been taken after all: then it proves nothing of before.
  await readMarkers(target, request.id).then((known) => writeMarker(target, request.id, known.some(({ phase }) => phase === 'during') || known.filter(({ phase }) => phase === 'before').length > 1 ? 'during' : 'before')).catch((error: unknown) => {
    context.log.warn({ backup: request.id, error: messageOf(error) }, 'no marker row could be written before the managed snapshot');
  });
  signal.throwIfAborted();
  const made = await createSnapshot(context, { region, identifier: snapshotIdentifier(request.datastore, request.id), instance, tags: tagsFor(context, request) });
  refuseForeign(context, request, made);
  return refOf(made);
}

function refOf({ instance, region, identifier, arn }: SnapshotFacts): SnapshotRef {
  return { instance, region, identifier, arn };
}

/**
 * Wait until it is available, writing marker rows meanwhile.
 * @throws HoldfastError `snapshot-late`, `snapshot-failed`, `snapshot-gone`: final. Anything else: ask again.
 */
export async function awaitSnapshot(context: Context, request: ManagedRequest, place: { region: string; identifier: string }, options: { deadlineMs: number; pollMs: number; markers: boolean; signal: AbortSignal; onProgress: (text: string) => void }): Promise<SnapshotFacts> {
  const { datastore } = managedOf(context, request.datastore);
  let target: PostgresTarget | undefined;
  let unanswered = '';
  for (;;) {
    let found: SnapshotFacts | undefined;
    try {
      found = await describeSnapshot(context, place);
      unanswered = '';
      if (found === undefined) throw new HoldfastError('snapshot-gone', `snapshot ${place.identifier} is not in ${place.region} any more: somebody deleted it while it was taken`, { next: 'find out who may delete snapshots' });
      if (found.status === 'available') return found;
      if (found.status === 'failed' || found.status === 'deleting' || found.status.startsWith('incompatible')) throw new HoldfastError('snapshot-failed', `snapshot ${place.identifier} in ${place.region} ended as ${found.status}`, { next: 'look at the events of the instance' });
    } catch (error) {
      // Throttled, or away for a moment: it goes on in RDS all the same.
      if (!(error instanceof HoldfastError) || !error.retryable) throw error;
      unanswered = `; last answer: ${error.message}`;
    }
    if (Date.now() >= options.deadlineMs) {
      throw new HoldfastError('snapshot-late', `snapshot ${place.identifier} in ${place.region} is ${found === undefined ? 'of unknown state' : `still ${found.status}${found.percent === null ? '' : ` at ${found.percent} %`}`} ${new Date(options.deadlineMs).toISOString()}, when it had to be available${unanswered}`, { next: 'raise completeWithin if the instance needs longer' });
    }
    options.onProgress(found === undefined ? `not answered${unanswered}` : `${found.status}${found.percent === null ? '' : ` ${found.percent} %`}`);
    if (options.markers && found !== undefined) {
      try {
        target ??= (await primaryOf(context, datastore)).target;
        await writeMarker(target, request.id, 'during');
      } catch (error) {
        target = undefined;
        context.log.debug({ backup: request.id, error: messageOf(error) }, 'no marker row could be written while the snapshot is taken');
      }
    }
    await pause(Math.max(50, Math.min(options.pollMs, options.deadlineMs - Date.now())), undefined, { signal: options.signal });
  }
}

/** After it is available: the last marker, and what every table holds now. */
export async function readAfter(context: Context, request: ManagedRequest, options: { signal: AbortSignal; onProgress: (text: string) => void }): Promise<void> {
  const store = await openStore(context, storeNameOf(context, request.datastore));
  if ((await store.head(request.location + AFTER)) !== undefined) return;
  const { datastore, snapshots } = managedOf(context, request.datastore);
  const { node, target } = await primaryOf(context, datastore);
  await writeMarker(target, request.id, 'after');
  const reading = await readDatabase(datastore, node, target, request.id, snapshots.fingerprint, options);
  const markers = await readMarkers(target, request.id);
  await putFirst(store, request.location + AFTER, JSON.stringify({ ...reading, markers }), { contentType: 'application/json', signal: options.signal });
}

/** A copy in another Region, waited for. */
export async function copyTo(context: Context, request: ManagedRequest, source: SnapshotRef, to: { region: string; kmsKeyId?: string | undefined }, options: { deadlineMs: number; pollMs: number; signal: AbortSignal; onProgress: (text: string) => void }): Promise<ManagedSnapshot['copies'][number]> {
  const place = { region: to.region, identifier: source.identifier };
  if (to.region === source.region) throw new HoldfastError('copy-same-region', `the snapshot itself is in ${to.region} since the primary is: no copy is apart from it`, { next: 'after a failover let copies name the other Region' });
  const begun = (await describeSnapshot(context, place)) ?? (await copySnapshot(context, { source, to: place, kmsKeyId: to.kmsKeyId, tags: tagsFor(context, request) }));
  refuseForeign(context, request, begun);
  const done = await awaitSnapshot(context, request, place, { ...options, markers: false });
  return { region: done.region, identifier: done.identifier, arn: done.arn, kmsKeyId: done.kmsKeyId };
}

export function share(context: Context, request: ManagedRequest, ref: SnapshotRef): Promise<string[]> {
  return shareSnapshot(context, ref, managedOf(context, request.datastore).snapshots.share);
}

export interface CommitInput {
  readonly ref: SnapshotRef;
  readonly copies: ManagedSnapshot['copies'];
  readonly sharedWith: readonly string[];
  /** What is less than was asked for. */
  readonly degraded: readonly string[];
}

/** The snapshot becomes a backup of the catalogue: manifest, then COMMIT. */
export async function commitManaged(context: Context, request: ManagedRequest, input: CommitInput, options: { signal: AbortSignal; mayCommit?: () => Promise<void> }): Promise<BackupResult> {
  const { signal } = options;
  const store = await openStore(context, storeNameOf(context, request.datastore));
  const already = await committed(store, request.location);
  if (already !== undefined) return already;
  const found = await describeSnapshot(context, input.ref);
  if (found?.status !== 'available') throw new HoldfastError('snapshot-gone', `snapshot ${input.ref.identifier} in ${input.ref.region} is ${found?.status ?? 'gone'} as it was to be committed`, { next: 'find out who may delete snapshots' });
  refuseForeign(context, request, found);
  const before = await readingOf(store, request.location + BEFORE, signal);
  const after = await readingOf(store, request.location + AFTER, signal);
  const both = before !== undefined && after !== undefined;
  const fingerprinted = both && before.fingerprinted && after.fingerprinted;
  const settled = fingerprinted ? settle(before, after) : { fingerprint: NO_FINGERPRINT, moving: [] };
  const markers = expectationOf(after?.markers ?? []);
  const first = after?.markers?.filter(({ phase }) => phase === 'before').at(-1);
  const { datastore } = managedOf(context, request.datastore);
  const node = instancesOf(context, datastore).find((one) => one.instance === found.instance)?.node ?? found.instance;
  const degraded = [...input.degraded, ...(markers === null ? ['no marker rows around the snapshot: the moment it is of cannot be proved'] : [])];
  const [major = '0', minor = '0'] = (found.engineVersion ?? '0').split('.');
  const manifest = postgresManifestSchema.parse({
    ...manifestHead(context, request, { startedAt: new Date(request.startedAtMs).toISOString(), degraded: degraded.length === 0 ? undefined : degraded.join('; ') }),
    format: 2, engine: 'postgres',
    // The last row acknowledged before it: everything up to there is in it, by the database's clock.
    snapshotAt: first?.at ?? found.databaseTime ?? found.createdAt ?? new Date(request.startedAtMs).toISOString(),
    source: before?.source ?? after?.source ?? {
      node, role: 'primary', database: datastore.database, systemIdentifier: null, snapshotId: '', lsn: '', timeline: null, serverVersion: found.engineVersion ?? 'unknown', serverVersionNumber: Number(major) * 10_000 + Number(minor),
      encoding: '', collate: '', ctype: '', localeProvider: '', databaseBytes: null,
    },
    selection: { complete: true, include: { schemas: [], tables: [] }, exclude: { schemas: [], tables: [], tableData: [] } },
    objects: [],
    fingerprint: settled.fingerprint,
    commands: plainCommands(found, input.copies),
    managed: {
      kind: 'rds-snapshot', instance: found.instance, region: found.region, identifier: found.identifier, arn: found.arn, createdAt: found.createdAt, databaseTime: found.databaseTime, engineVersion: found.engineVersion,
      allocatedGiB: found.allocatedGiB, encrypted: found.encrypted, kmsKeyId: found.kmsKeyId, copies: input.copies, sharedWith: [...input.sharedWith], markers: markers === null ? null : { present: [...markers.present], between: [...markers.between], absent: [...markers.absent] },
      fingerprinted, moving: settled.moving, sequenceSteps: fingerprinted ? after.sequenceSteps : {},
    },
  } satisfies PostgresManifest);
  const put = { ifAbsent: true, signal, ...(store.lockForMs === undefined ? {} : { lockUntilMs: request.startedAtMs + store.lockForMs }) };
  const committing = await commitBackup(store, request, manifest, [], put, async () => {
    await options.mayCommit?.();
    // Whatever becomes of the store: what was committed once is never taken for a leftover.
    for (const place of [{ region: found.region, identifier: found.identifier }, ...input.copies]) await tagCommitted(context, place, `${store.describe()} ${request.location}`);
  });
  return managedResult(committing, request.location);
}

export function managedResult(manifest: PostgresManifest, location: string): BackupResult {
  const managed = manifest.managed!;
  return {
    ...resultOf(manifest, location, Date.parse(manifest.finishedAt) - Date.parse(manifest.startedAt)),
    managed: { identifier: managed.identifier, region: managed.region, allocatedGiB: managed.allocatedGiB, copies: managed.copies.map(({ region }) => region) },
  };
}

/**
 * After the last attempt, or a cancellation: the backup when it was committed after all; else what it stored goes, and its snapshot with
 * its copies, as far as RDS deletes them now. What is still being taken is removed by a later retention run.
 */
export async function settleManaged(context: Context, request: ManagedRequest): Promise<BackupResult | null> {
  const store = await openStore(context, storeNameOf(context, request.datastore));
  const already = await committed(store, request.location);
  if (already !== undefined) return already;
  await removeStored(context, store, request.location);
  const { datastore, snapshots } = managedOf(context, request.datastore);
  const identifier = snapshotIdentifier(request.datastore, request.id);
  for (const region of new Set([...snapshots.copies.map((copy) => copy.region), ...instancesOf(context, datastore).map((one) => one.region)])) {
    try {
      await deleteOurs(context, request.datastore, { region, identifier, backup: request.id, environment: context.config.environment });
    } catch (error) {
      context.log.warn({ snapshot: identifier, region, error: messageOf(error) }, 'a snapshot that was not committed could not be removed; a later retention run will');
    }
  }
  return null;
}

async function committed(store: Store, location: string): Promise<BackupResult | undefined> {
  if ((await store.head(location + COMMIT)) === undefined) return undefined;
  return managedResult(postgresManifestOf(await readManifest(store, location)), location);
}

/** Only after its tags were read. @returns why it was left, or undefined when it is gone or on its way. */
export async function deleteOurs(context: Context, datastore: string, of: { region: string; identifier: string; backup: string; environment: string }): Promise<string | undefined> {
  const found = await describeSnapshot(context, of);
  if (found === undefined) return undefined;
  const why = whyNotOurs(found.tags, { environment: of.environment, datastore, backup: of.backup });
  if (why !== null) return `snapshot ${of.identifier} in ${of.region} is not ours: ${why}`;
  // A copy that somebody made, with our tags copied along, is theirs.
  if (of.identifier !== snapshotIdentifier(datastore, of.backup)) return `snapshot ${of.identifier} in ${of.region} has our tags, but not the name that we give`;
  if (found.status === 'deleting') return undefined;
  const answer = await deleteSnapshot(context, of);
  return answer === 'busy' ? `snapshot ${of.identifier} in ${of.region} is ${found.status}: RDS does not delete it now` : undefined;
}

/** Regions that may hold snapshots of this datastore. */
export function regionsOf(context: Context, datastoreName: string): string[] {
  const { datastore, snapshots } = managedOf(context, datastoreName);
  return [...new Set([...instancesOf(context, datastore).map((one) => one.region), ...snapshots.copies.map((copy) => copy.region)])];
}

/** Snapshots with our tags and our name that were never committed: late ones, and what a killed run left. */
export async function orphanSnapshots(context: Context, datastoreName: string, committedIds: ReadonlySet<string>, olderThanMs: number, nowMs: number): Promise<SnapshotFacts[]> {
  const found: SnapshotFacts[] = [];
  for (const region of regionsOf(context, datastoreName)) {
    for (const snapshot of await listSnapshots(context, region, { environment: context.config.environment, datastore: datastoreName })) {
      const backup = snapshot.tags[TAG_BACKUP];
      // Without a time it cannot be told from one that is being taken right now.
      if (backup === undefined || committedIds.has(backup) || snapshot.tags[TAG_COMMITTED] !== undefined || snapshot.identifier !== snapshotIdentifier(datastoreName, backup) || snapshot.createdAt === null || Date.parse(snapshot.createdAt) > nowMs - olderThanMs) continue;
      found.push(snapshot);
    }
  }
  return found;
}

async function readingOf(store: Store, key: string, signal: AbortSignal): Promise<(StoredReading & { markers?: Awaited<ReturnType<typeof readMarkers>> }) | undefined> {
  if ((await store.head(key)) === undefined) return undefined;
  return JSON.parse(await store.getText(key, { signal })) as StoredReading;
}

/** Everything as one MVCC snapshot sees it; the change counters are read first, so that a write in between counts as a change. */
async function readDatabase(datastore: PostgresDatastore, node: string, target: PostgresTarget, id: string, withFingerprint: boolean, options: { signal: AbortSignal; onProgress: (text: string) => void }): Promise<StoredReading> {
  const applicationName = `holdfast backup ${id}`;
  const changes = withFingerprint ? await readChanges(target) : {};
  const snapshot = await openSnapshot(target, applicationName);
  const signal = AbortSignal.any([options.signal, snapshot.lost]);
  const clients: Awaited<ReturnType<typeof connectPostgres>>[] = [];
  const abandon = (): void => void clients.forEach((client) => client.end().catch(() => {}));
  signal.addEventListener('abort', abandon, { once: true });
  try {
    const { facts } = snapshot;
    const source: PostgresManifest['source'] = {
      node, role: 'primary', database: target.database, systemIdentifier: facts.systemIdentifier, snapshotId: '', lsn: snapshot.lsn, timeline: facts.timeline, serverVersion: facts.serverVersion,
      serverVersionNumber: facts.serverVersionNumber, encoding: facts.encoding, collate: facts.collate, ctype: facts.ctype, localeProvider: facts.localeProvider, databaseBytes: facts.databaseBytes,
    };
    const about = { at: snapshot.at.toISOString(), source, changes };
    if (!withFingerprint) return { ...about, fingerprint: NO_FINGERPRINT, fingerprinted: false, sequenceSteps: {} };
    for (let at = 0; at < 2; at += 1) {
      const client = await connectPostgres(target, { applicationName });
      clients.push(client);
      await joinSnapshot(client, snapshot.id);
    }
    const relations = await selectRelations(snapshot.client, EVERYTHING, false);
    const sequencesBefore = await withPostgres(target, (client) => readSequences(client, relations.sequences), { applicationName });
    const parts = await fingerprintDatabase(clients, { relations: { ...relations, tables: relations.tables.filter((table) => !isMarkerTable(table)) }, signal, onProgress: ({ tables, ofTables }) => options.onProgress(`read ${tables} of ${ofTables} tables`) });
    const schema = await schemaObjects(target, { binDirectory: datastore.binDirectory, snapshotId: snapshot.id, signal, applicationName, encoding: facts.encoding });
    const sequencesAfter = await withPostgres(target, (client) => readSequences(client, relations.sequences), { applicationName });
    const sequences = sequencesBefore.map(({ schema: space, name, lastValue, isCalled }) => {
      const then = sequencesAfter.find((one) => one.schema === space && one.name === name);
      return { schema: space, name, before: { lastValue, isCalled }, after: { lastValue: then?.lastValue ?? lastValue, isCalled: then?.isCalled ?? isCalled } };
    });
    const sequenceSteps = await withPostgres(target, readSteps, { applicationName });
    return { ...about, fingerprinted: true, sequenceSteps, fingerprint: { ...parts, sequences, schemaObjects: schema.objects, schemaSha256: schema.sha256 } };
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', abandon);
    await Promise.allSettled([...clients.map((client) => client.end()), snapshot.close()]);
  }
}

async function readSteps(client: Client): Promise<ManagedSnapshot['sequenceSteps']> {
  const { rows } = await client.query<{ name: string; increment: string; cache: string }>(`SELECT schemaname || '.' || sequencename AS name, increment_by::text AS increment, cache_size::text AS cache FROM pg_catalog.pg_sequences`);
  return Object.fromEntries(rows.map(({ name, increment, cache }) => [name, { increment, cache }]));
}

async function readChanges(target: PostgresTarget): Promise<ChangeCounters> {
  return withPostgres(target, async (client) => {
    const { rows } = await client.query<{ name: string; changes: string }>(`SELECT schemaname || '.' || relname AS name, (n_tup_ins + n_tup_upd + n_tup_del)::text AS changes FROM pg_catalog.pg_stat_user_tables`);
    return Object.fromEntries(rows.map((row) => [row.name, row.changes]));
  });
}

function plainCommands(snapshot: SnapshotFacts, copies: ManagedSnapshot['copies']): PostgresManifest['commands'] {
  const restore = (identifier: string, region: string): string => `aws rds restore-db-instance-from-db-snapshot --region ${region} --db-instance-identifier <new-instance> --db-snapshot-identifier ${identifier} --db-instance-class <class> --db-subnet-group-name <subnet-group> --vpc-security-group-ids <security-group> --no-publicly-accessible`;
  return [
    { what: 'That it is there: must print available', command: `aws rds describe-db-snapshots --region ${snapshot.region} --db-snapshot-identifier ${snapshot.identifier} --query 'DBSnapshots[0].Status' --output text` },
    { what: 'A new instance from it', command: restore(snapshot.identifier, snapshot.region) },
    { what: 'Wait for it', command: `aws rds wait db-instance-available --region ${snapshot.region} --db-instance-identifier <new-instance>` },
    ...copies.map((copy) => ({ what: `Or from its copy in ${copy.region}`, command: restore(copy.identifier, copy.region) })),
  ];
}
