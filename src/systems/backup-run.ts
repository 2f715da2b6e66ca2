import { createHash } from 'node:crypto';
import { finished, pipeline, Readable } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import { constants, createZstdCompress } from 'node:zlib';
import type pg from 'pg';
import type { BackupResult } from '../model/api.ts';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { manifestSchema, type Manifest, type ObjectEntry, type PostgresFingerprint } from '../model/manifest.ts';
import { COMMIT, MANIFEST, readFolders, readManifest, storeNameOf } from './backup-catalogue.ts';
import { datastoreOf, storeOf, type Context } from './context.ts';
import { adminTarget, connectPostgres, withPostgres } from './postgres.ts';
import { checkToolVersions, dumpArchive, dumpGlobals, openSnapshot, toolVersions, type Snapshot } from './postgres-dump.ts';
import { fingerprintDatabase, joinSnapshot, readSequences, schemaObjects, type SequenceValue } from './postgres-fingerprint.ts';
import { isComplete, manifestSelection, selectRelations, type SelectedRelations } from './postgres-selection.ts';
import { openStore, type PutOptions, type Store } from './store.ts';
import packageJson from '../../package.json' with { type: 'json' };

/** Connections that read fingerprints beside the dump. More would finish sooner and cost the database more. */
const FINGERPRINT_CONNECTIONS = 2;
const TOOLS = ['pg_dump', 'pg_dumpall', 'pg_restore'] as const;

export interface BackupRequest {
  readonly datastore: string;
  readonly id: string;
  /** Folder in the store, ends with `/`; nobody else's. */
  readonly location: string;
  readonly reason: string;
  readonly workflowId: string;
  readonly runId: string;
}

export interface BackupProgress {
  readonly phase: 'connect' | 'dump' | 'commit';
  readonly location: string;
  readonly plainBytes: number;
  readonly storedBytes: number;
  /** Plain bytes a second since the dump began. */
  readonly bytesPerSecond: number;
  readonly tables: number;
  readonly ofTables: number;
}

export interface BackupOptions {
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: BackupProgress) => void;
  /** Asked last of all; throws when this backup must not be committed any more. */
  readonly mayCommit?: () => Promise<void>;
}

/**
 * One backup of a PostgreSQL database, from snapshot to COMMIT. In every outcome its children, sessions and uploads are ended;
 * when it throws nothing of it is committed and what it stored is removed as far as the store allows.
 */
export async function runBackup(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult> {
  const datastore = datastoreOf(context.config, request.datastore);
  const storeName = storeNameOf(context, request.datastore);
  const store = await openStore(context, storeName);
  const startedAt = new Date();
  const clock = performance.now();
  const progress: { -readonly [K in keyof BackupProgress]: BackupProgress[K] } = {
    phase: 'connect', location: request.location, plainBytes: 0, storedBytes: 0, bytesPerSecond: 0, tables: 0, ofTables: 0,
  };
  const report = (): void => options.onProgress?.({ ...progress });
  report();
  // A missing bucket or a wrong key is found before the database is bothered.
  for await (const object of store.list(request.location)) {
    throw new HoldfastError('backup-folder-used', `${object.key} exists already in ${store.describe()}`, { next: 'start the backup again; it gets a folder of its own' });
  }

  const { node, degraded } = await chooseNode(context, datastore);
  const target = await adminTarget(context, datastore, node);
  const applicationName = `holdfast backup ${request.id}`;
  const tools = await toolVersions(datastore.binDirectory, TOOLS);
  const stop = new AbortController();
  const written: string[] = [];
  let snapshot: Snapshot | undefined;
  const clients: pg.Client[] = [];
  try {
    snapshot = await openSnapshot(target, applicationName);
    const signal = AbortSignal.any([options.signal, stop.signal, snapshot.lost]);
    const { facts } = snapshot;
    checkToolVersions(tools, facts.serverVersionNumber, `${target.host}:${target.port}`);
    const selection = datastore.backup;
    const relations = await selectRelations(snapshot.client, selection, facts.standby);
    progress.ofTables = relations.tables.length;
    const before = await withPostgres(target, (client) => readSequences(client, relations.sequences), { applicationName });
    for (let at = 0; at < FINGERPRINT_CONNECTIONS; at += 1) {
      const client = await connectPostgres(target, { applicationName });
      clients.push(client);
      await joinSnapshot(client, snapshot.id);
    }
    progress.phase = 'dump';
    report();
    const dumpClock = performance.now();
    const put = { ifAbsent: true, signal, ...(store.lockForMs === undefined ? {} : { lockUntilMs: startedAt.getTime() + store.lockForMs }) } satisfies PutOptions;
    const write = { context, storeName, store, location: request.location, written, put, level: datastore.backup.compressionLevel };

    const [data, globals, fingerprint, schema] = await allOrStop(stop, [
      () =>
        writeObject(write, 'data.dump', 'data', dumpArchive({
          target, binDirectory: datastore.binDirectory, snapshotId: snapshot!.id, selection, encoding: facts.encoding, applicationName, signal,
          minimumBytes: datastore.backup.minimumSize,
          onProgress: (bytes) => {
            progress.plainBytes = bytes;
            progress.bytesPerSecond = Math.round((bytes / Math.max(1, performance.now() - dumpClock)) * 1000);
            report();
          },
        }), {
          expectedBytes: facts.databaseBytes ?? 0,
          onProgress: (bytes) => {
            progress.storedBytes = bytes;
            report();
          },
        }),
      async () => {
        if (!datastore.backup.globals) return undefined;
        const text = await dumpGlobals({ target, binDirectory: datastore.binDirectory, applicationName, signal, rolePasswords: facts.rolePasswords });
        return writeObject(write, 'globals.sql', 'globals', Readable.from([Buffer.from(text)], { objectMode: false }), {});
      },
      async () => {
        const abandon = (): void => void clients.forEach((client) => client.end().catch(() => {}));
        signal.addEventListener('abort', abandon, { once: true });
        try {
          return await fingerprintDatabase(clients, {
            relations, signal, standby: facts.standby,
            onProgress: ({ tables }) => {
              progress.tables = tables;
              report();
            },
          });
        } catch (error) {
          signal.throwIfAborted(); // Its connections were closed because of it.
          throw error;
        } finally {
          signal.removeEventListener('abort', abandon);
        }
      },
      () => schemaObjects(target, { binDirectory: datastore.binDirectory, snapshotId: snapshot!.id, selection, signal, applicationName, encoding: facts.encoding }),
    ] as const, signal);
    checkTablesInSchema(relations, Object.keys(schema.objects), selection.include.tables.length > 0);
    const after = await withPostgres(target, (client) => readSequences(client, relations.sequences), { applicationName });
    const dumpMs = performance.now() - dumpClock;
    await snapshot.close();

    progress.phase = 'commit';
    report();
    const objects = [data, ...(globals === undefined ? [] : [globals])];
    const manifest = manifestSchema.parse({
      format: 1, id: request.id, datastore: request.datastore, engine: 'postgres', environment: context.config.environment,
      snapshotAt: snapshot.at.toISOString(), startedAt: startedAt.toISOString(), finishedAt: new Date().toISOString(), reason: request.reason,
      ...(degraded === undefined ? {} : { degraded }),
      workflowId: request.workflowId, runId: request.runId,
      source: {
        node, role: facts.standby ? 'standby' : 'primary', database: target.database, systemIdentifier: facts.systemIdentifier, snapshotId: snapshot.id,
        lsn: snapshot.lsn, timeline: facts.timeline, serverVersion: facts.serverVersion, serverVersionNumber: facts.serverVersionNumber,
        encoding: facts.encoding, collate: facts.collate, ctype: facts.ctype, localeProvider: facts.localeProvider, databaseBytes: facts.databaseBytes,
      },
      tools: { holdfast: packageJson.version, node: process.versions.node, zstd: process.versions.zstd ?? 'unknown', ...tools },
      selection: manifestSelection(selection),
      objects,
      fingerprint: {
        ...fingerprint,
        sequences: joinSequences(before, after),
        schemaObjects: schema.objects,
        schemaSha256: schema.sha256,
      } satisfies PostgresFingerprint,
      commands: plainCommands(store, request.location, objects, target.database, isComplete(selection)),
    } satisfies Manifest);
    await commit(store, request, manifest, objects, written, { ...put, signal: options.signal }, options.mayCommit);
    return resultOf(manifest, request.location, dumpMs);
  } catch (error) {
    stop.abort();
    await cleanUp(context, store, request.location, written);
    options.signal.throwIfAborted();
    throw error;
  } finally {
    context.log.debug({ backup: request.id, ms: Math.round(performance.now() - clock) }, 'backup ended');
    await Promise.allSettled([...clients.map((client) => client.end()), snapshot?.close()]);
  }
}

export function resultOf(manifest: Manifest, location: string, durationMs: number): BackupResult {
  return {
    id: manifest.id,
    datastore: manifest.datastore,
    location,
    snapshotAt: manifest.snapshotAt,
    storedBytes: manifest.objects.reduce((sum, object) => sum + object.storedBytes, 0),
    plainBytes: manifest.objects.reduce((sum, object) => sum + object.plainBytes, 0),
    durationMs: Math.round(durationMs),
    tables: manifest.fingerprint.tables.length,
    rows: String(manifest.fingerprint.tables.reduce((sum, table) => sum + BigInt(table.rows), 0n)),
    ...(manifest.degraded === undefined ? {} : { degraded: manifest.degraded }),
  };
}

/** All together; the first failure stops the others, and nothing is left running when it is thrown. */
async function allOrStop<T extends readonly (() => Promise<unknown>)[]>(stop: AbortController, tasks: T, signal: AbortSignal): Promise<{ -readonly [K in keyof T]: Awaited<ReturnType<T[K]>> }> {
  let first: { error: unknown } | undefined;
  const results = await Promise.all(
    tasks.map(async (task) => {
      try {
        return await task();
      } catch (error) {
        // What breaks because of an abort is not the cause of it; the reason of the abort is.
        first ??= { error: signal.aborted && !stop.signal.aborted ? signal.reason : error };
        stop.abort();
        return undefined;
      }
    }),
  );
  if (first !== undefined) throw first.error;
  return results as { -readonly [K in keyof T]: Awaited<ReturnType<T[K]>> };
}

async function chooseNode(context: Context, datastore: PostgresDatastore): Promise<{ node: string; degraded: string | undefined }> {
  const wanted = datastore.backup.from;
  const unreachable: unknown[] = [];
  let other: string | undefined;
  for (const node of Object.keys(datastore.nodes)) {
    try {
      const target = await adminTarget(context, datastore, node);
      const standby = await withPostgres(target, async (client) => (await client.query<{ standby: boolean }>('SELECT pg_catalog.pg_is_in_recovery() AS standby')).rows[0]!.standby, { queryTimeoutMs: 10_000 });
      if (standby === (wanted === 'standby')) return { node, degraded: undefined };
      other ??= node;
    } catch (error) {
      // Wrong credentials are wrong everywhere; a node that is down is not.
      if (error instanceof HoldfastError && !error.retryable) throw error;
      unreachable.push(error);
    }
  }
  const problems = unreachable.map((error) => messageOf(error)).join('; ');
  if (other !== undefined) return { node: other, degraded: `no ${wanted} could be reached, so ${other} was read${problems === '' ? '' : ` (${problems})`}` };
  throw new HoldfastError('postgres-connect', `no node of the database can be reached: ${problems}`, { retryable: true, next: 'check that the servers run and that this worker reaches them' });
}

interface WriteOptions {
  readonly context: Context;
  readonly storeName: string;
  readonly store: Store;
  readonly location: string;
  readonly written: string[];
  readonly put: PutOptions;
  readonly level: number;
}

/** plain -> zstd -> (age) -> store, with sizes and digests of both ends. */
async function writeObject(options: WriteOptions, baseName: string, role: ObjectEntry['role'], source: Readable, put: PutOptions): Promise<ObjectEntry> {
  const encryption = storeOf(options.context.config, options.storeName).encryption;
  const name = `${baseName}.zst${encryption === undefined ? '' : '.age'}`;
  const plain = createMeter(source);
  // It runs on a thread of its own. ZSTD_c_nbWorkers must stay unset: with it Node 24 loses input and ends the stream early.
  const packed = createZstdCompress({
    chunkSize: 256 * 1024,
    params: { [constants.ZSTD_c_compressionLevel]: options.level, [constants.ZSTD_c_checksumFlag]: 1 },
  });
  const closed = new Promise<void>((resolve) => void source.once('close', resolve));
  pipeline(plain.stream, packed, () => {}); // An error of one end destroys the other, and so reaches the store's reader.
  const sealed = encryption === undefined ? packed : await encrypted(packed, encryption.recipients);
  const stored = createMeter(sealed);
  const key = options.location + name;
  options.written.push(key);
  try {
    await options.store.put(key, stored.stream, { ...options.put, ...put, contentType: 'application/octet-stream' });
  } finally {
    stored.stream.destroy();
    sealed.destroy();
    packed.destroy();
    source.destroy();
    await closed; // Children of the source are gone only then.
  }
  return {
    name, role, compression: 'zstd', encryption: encryption === undefined ? 'none' : 'age',
    storedBytes: stored.bytes(), storedSha256: stored.sha256(), plainBytes: plain.bytes(), plainSha256: plain.sha256(),
  };
}

function createMeter(source: Readable): { stream: Readable; bytes(): number; sha256(): string } {
  const hash = createHash('sha256');
  let bytes = 0;
  let digest: string | undefined;
  async function* measured(): AsyncGenerator<Buffer> {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
    digest = hash.digest('hex');
  }
  return {
    stream: Readable.from(measured(), { objectMode: false }),
    bytes: () => bytes,
    sha256() {
      if (digest === undefined) throw new HoldfastError('stream-unfinished', 'a digest was asked for before its stream had ended');
      return digest;
    },
  };
}

async function encrypted(source: Readable, recipients: readonly string[]): Promise<Readable> {
  const { Encrypter } = await import('age-encryption');
  const encrypter = new Encrypter();
  for (const recipient of recipients) encrypter.addRecipient(recipient);
  const sealed = await encrypter.encrypt(Readable.toWeb(source) as unknown as globalThis.ReadableStream<Uint8Array>);
  const stream = Readable.fromWeb(sealed as unknown as ReadableStream);
  finished(source, (error) => {
    if (error) stream.destroy(error);
  });
  return stream;
}

/** Names and quoting differ nowhere between us and pg_dump, or the proof would be of other tables than the dump's. */
function checkTablesInSchema(relations: SelectedRelations, objects: readonly string[], tablesOnly: boolean): void {
  const dumped = new Set(objects.filter((key) => key.startsWith('TABLE ') || key.startsWith('MATERIALIZED VIEW ')));
  const expected = new Set<string>();
  for (const table of relations.tables) {
    if (table.condition !== undefined) continue; // Made by its extension.
    const key = `${table.kind === 'table' ? 'TABLE' : 'MATERIALIZED VIEW'} ${sanitised(table.schema)} ${sanitised(table.name)}`;
    expected.add(key);
    if (!dumped.has(key)) throw selectionDiffers(`${key} was selected, but pg_dump does not dump it`);
  }
  if (tablesOnly) return; // Partitioned parents and views come and go with the patterns; the tables with rows are what counts.
  for (const key of dumped) {
    if (key.startsWith('MATERIALIZED VIEW ') && !expected.has(key)) throw selectionDiffers(`${key} is dumped, but was not selected`);
  }
}

/** pg_dump prints line breaks in names as spaces in its comments. */
function sanitised(name: string): string {
  return name.replaceAll(/[\r\n]/g, ' ');
}

function selectionDiffers(why: string): HoldfastError {
  return new HoldfastError('selection-differs', `the selection is read differently by pg_dump: ${why}`, { next: 'simplify the patterns under backup.include and backup.exclude, and report this' });
}

function joinSequences(before: readonly SequenceValue[], after: readonly SequenceValue[]): PostgresFingerprint['sequences'] {
  const later = new Map(after.map((value) => [`${value.schema}\0${value.name}`, value]));
  return before.map((value) => {
    const then = later.get(`${value.schema}\0${value.name}`) ?? value;
    return {
      schema: value.schema, name: value.name,
      before: { lastValue: value.lastValue, isCalled: value.isCalled },
      after: { lastValue: then.lastValue, isCalled: then.isCalled },
    };
  });
}

function plainCommands(store: Store, location: string, objects: readonly ObjectEntry[], database: string, complete: boolean): Manifest['commands'] {
  const read = (object: ObjectEntry): string =>
    [store.plainRead(location + object.name), ...(object.encryption === 'age' ? ['age --decrypt --identity <identity-file>'] : []), ...(object.compression === 'zstd' ? ['zstd --decompress --stdout'] : [])].join(' | ');
  const data = objects.find((object) => object.role === 'data')!;
  const globals = objects.find((object) => object.role === 'globals');
  const connection = '--host=<host> --port=<port> --username=<superuser>';
  return [
    { what: 'Before all else, in the shell: stop when any part of a pipe fails', command: 'set -o pipefail' },
    ...objects.map((object) => ({ what: `Check the stored bytes of ${object.name}: must print ${object.storedSha256}`, command: `${store.plainRead(location + object.name)} | sha256sum` })),
    ...(globals === undefined ? [] : [{ what: "Roles, on a server that may have some of them; passwords become the source's, also that of the role you connect as if both have it", command: `${read(globals)} | psql --no-psqlrc --set=ON_ERROR_STOP=1 ${connection} --dbname=postgres` }]),
    {
      what: `The database ${database}, which must not exist yet`,
      command: `${read(data)} | pg_restore --exit-on-error --no-tablespaces --create ${connection} --dbname=postgres`,
    },
    {
      what: `Or into an empty database that exists${complete ? '' : '; the backup holds a selection only'}`,
      command: `${read(data)} | pg_restore --exit-on-error --no-tablespaces ${connection} --dbname=<database>`,
    },
  ];
}

async function commit(store: Store, request: BackupRequest, manifest: Manifest, objects: readonly ObjectEntry[], written: string[], put: PutOptions, mayCommit: () => Promise<void> = () => Promise.resolve()): Promise<void> {
  const text = `${JSON.stringify(manifest, null, 1)}\n`;
  written.push(request.location + MANIFEST);
  await store.put(request.location + MANIFEST, text, { ...put, contentType: 'application/json' });
  // Somebody who took us for dead may have removed objects meanwhile.
  for (const object of objects) {
    const head = await store.head(request.location + object.name);
    if (head?.bytes === object.storedBytes) continue;
    throw new HoldfastError('object-vanished', `${request.location}${object.name} has ${head?.bytes ?? 'no'} bytes in the store, ${object.storedBytes} were written`, { retryable: true, next: 'another attempt of this backup took over; nothing needs to be done' });
  }
  const manifestSha256 = createHash('sha256').update(text).digest('hex');
  const body = `${JSON.stringify({ format: 1, id: manifest.id, manifestSha256, committedAt: new Date().toISOString() })}\n`;
  await mayCommit();
  put.signal?.throwIfAborted();
  written.push(request.location + COMMIT);
  try {
    await store.put(request.location + COMMIT, body, { ...put, contentType: 'application/json' });
  } catch (error) {
    // The answer to our first try may have been lost, and the second found our own COMMIT.
    if (!(error instanceof HoldfastError) || error.code !== 'object-exists') throw error;
    if ((await readManifest(store, request.location)).id !== manifest.id) throw error;
  }
}

/** COMMIT first: from then on no reader takes it for a backup. */
async function cleanUp(context: Context, store: Store, location: string, written: readonly string[]): Promise<void> {
  for (const key of [...written].reverse()) {
    try {
      await store.delete(key);
    } catch (error) {
      context.log.warn({ key, error: messageOf(error) }, 'an object of a failed backup could not be removed; the reaper will');
    }
  }
  await store.reapUploads(location, 0, Date.now() + 1000).catch((error: unknown) => context.log.warn({ location, error: messageOf(error) }, 'uploads of a failed backup could not be looked for; the reaper will'));
}

/**
 * After an attempt that may have died anywhere: adopt its backup when it was committed, else remove whatever it left.
 * @returns the adopted backup, or undefined.
 */
export async function settleAttempt(context: Context, datastoreName: string, location: string): Promise<BackupResult | undefined> {
  const store = await openStore(context, storeNameOf(context, datastoreName));
  const nowMs = Date.now() + 1000;
  if ((await store.head(location + COMMIT)) !== undefined) {
    const manifest = await readManifest(store, location);
    return resultOf(manifest, location, Date.parse(manifest.finishedAt) - Date.parse(manifest.startedAt));
  }
  await store.reapUploads(location, 0, nowMs);
  const keys: string[] = [];
  for await (const object of store.list(location)) keys.push(object.key);
  // The manifest first: with it gone a late COMMIT of a process that was only believed dead commits nothing.
  keys.sort((a, b) => Number(b.endsWith(MANIFEST)) - Number(a.endsWith(MANIFEST)));
  for (const key of keys) await store.delete(key);
  return undefined;
}

/**
 * End the database sessions that an attempt left behind when its worker died. They carry the backup's id in their name;
 * the server would notice the dead client itself, but only at its next write to it.
 */
export async function endSessions(context: Context, datastoreName: string, ids: readonly string[]): Promise<number> {
  const datastore = datastoreOf(context.config, datastoreName);
  let ended = 0;
  for (const node of Object.keys(datastore.nodes)) {
    try {
      const target = await adminTarget(context, datastore, node);
      ended += await withPostgres(target, async (client) => {
        const answer = await client.query<{ pid: number }>(
          'SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = ANY ($1) AND pid <> pg_catalog.pg_backend_pid() AND pg_catalog.pg_terminate_backend(pid)',
          [ids.map((id) => `holdfast backup ${id}`)],
        );
        return answer.rows.length;
      });
    } catch (error) {
      context.log.warn({ node, error: messageOf(error) }, 'sessions of a failed backup could not be looked for');
    }
  }
  return ended;
}

/** Older than that nothing can still be running: an attempt's deadline, twice for the others, and a day. */
export function orphanAgeMs(backupTimeoutMs: number): number {
  return backupTimeoutMs * 2 + 86_400_000;
}

/**
 * The reaper: uploads that never ended and folders that were never committed, both older than any backup can still be running.
 * @returns how many of both were removed.
 */
export async function reapOrphans(context: Context, datastoreName: string, olderThanMs: number, nowMs: number, signal?: AbortSignal): Promise<{ uploads: number; folders: number }> {
  const store = await openStore(context, storeNameOf(context, datastoreName));
  const uploads = await store.reapUploads(`${store.prefix}${datastoreName}/`, olderThanMs, nowMs);
  let folders = 0;
  for (const folder of (await readFolders(store, store.prefix, datastoreName)).values()) {
    signal?.throwIfAborted();
    if (folder.files.has(COMMIT)) continue;
    if ([...folder.files.values()].some((file) => file.modifiedMs >= nowMs - olderThanMs)) continue;
    for (const name of folder.files.keys()) await store.delete(folder.location + name);
    folders += 1;
  }
  return { uploads, folders };
}
