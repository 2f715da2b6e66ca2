import { Readable } from 'node:stream';
import type pg from 'pg';
import type { BackupResult } from '../model/api.ts';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import { postgresManifestSchema, type PostgresManifest, type PostgresFingerprint } from '../model/manifest-postgres.ts';
import { storeNameOf } from './backup-catalogue.ts';
import type { BackupOptions, BackupRequest } from './backup-engine.ts';
import { manifestHead } from './backup-manifest.ts';
import { allOrStop, cleanUp, commitBackup, createProgress, resultOf, writeObject } from './backup-write.ts';
import { postgresOf, type Context } from './context.ts';
import { adminTarget, connectPostgres, withPostgres } from './postgres.ts';
import { checkToolVersions, dumpArchive, dumpGlobals, openSnapshot, toolVersions, type Snapshot } from './postgres-dump.ts';
import { fingerprintDatabase, joinSnapshot, readSequences, schemaObjects, type SequenceValue } from './postgres-fingerprint.ts';
import { isComplete, manifestSelection, selectRelations, type SelectedRelations } from './postgres-selection.ts';
import { askNodes, primaryAmong } from './postgres-primary.ts';
import { openStore, type PutOptions, type Store } from './store.ts';

/** Connections that read fingerprints beside the dump. More would finish sooner and cost the database more. */
const FINGERPRINT_CONNECTIONS = 2;
const TOOLS = ['pg_dump', 'pg_dumpall', 'pg_restore'] as const;

/**
 * One backup of a PostgreSQL database, from snapshot to COMMIT. In every outcome its children, sessions and uploads are ended;
 * when it throws nothing of it is committed and what it stored is removed as far as the store allows.
 */
export async function runBackup(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult> {
  const datastore = postgresOf(context.config, request.datastore);
  const storeName = storeNameOf(context, request.datastore);
  const store = await openStore(context, storeName);
  const startedAt = new Date();
  const clock = performance.now();
  const { progress, report } = createProgress(request, options);
  // A missing bucket or a wrong key is found before the database is bothered.
  for await (const object of store.list(request.location)) {
    throw new HoldfastError('backup-folder-used', `${object.key} exists already in ${store.describe()}`, { next: 'start the backup again; it gets a folder of its own' });
  }

  const chosen = await chooseNode(context, datastore);
  const { node } = chosen;
  const degraded = [request.degraded, chosen.degraded].filter((why) => why !== undefined).join('; ') || undefined;
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
    const manifest = postgresManifestSchema.parse({
      ...manifestHead(context, request, { startedAt: startedAt.toISOString(), degraded, tools: { zstd: process.versions.zstd ?? 'unknown', ...tools } }),
      format: 1, engine: 'postgres', snapshotAt: snapshot.at.toISOString(),
      source: {
        node, role: facts.standby ? 'standby' : 'primary', database: target.database, systemIdentifier: facts.systemIdentifier, snapshotId: snapshot.id,
        lsn: snapshot.lsn, timeline: facts.timeline, serverVersion: facts.serverVersion, serverVersionNumber: facts.serverVersionNumber,
        encoding: facts.encoding, collate: facts.collate, ctype: facts.ctype, localeProvider: facts.localeProvider, databaseBytes: facts.databaseBytes,
      },
      selection: manifestSelection(selection),
      objects,
      fingerprint: {
        ...fingerprint,
        sequences: joinSequences(before, after),
        schemaObjects: schema.objects,
        schemaSha256: schema.sha256,
      } satisfies PostgresFingerprint,
      commands: plainCommands(store, request.location, objects, target.database, isComplete(selection)),
    } satisfies PostgresManifest);
    await commitBackup(store, request, manifest, written, { ...put, signal: options.signal }, options.mayCommit);
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

async function chooseNode(context: Context, datastore: PostgresDatastore): Promise<{ node: string; degraded: string | undefined }> {
  const wanted = datastore.backup.from;
  const seen = await askNodes(context, datastore);
  const standby = seen.nodes.find((one) => one.standby);
  if (wanted === 'standby' && standby !== undefined) return { node: standby.node, degraded: undefined };
  const primary = await primaryAmong(context, datastore, seen);
  if (wanted === 'primary' && primary !== undefined) return { node: primary.node, degraded: undefined };
  const other = primary ?? standby;
  const problems = seen.problems.join('; ');
  if (other !== undefined) return { node: other.node, degraded: `no ${wanted} could be reached, so ${other.node} was read${problems === '' ? '' : ` (${problems})`}` };
  throw new HoldfastError('postgres-connect', seen.nodes.length > 0 ? `${seen.nodes.map(({ node }) => node).join(', ')}: fenced, so none of them is the primary${problems === '' ? '' : `; ${problems}`}` : `no node of the database can be reached: ${problems}`, { retryable: true, next: 'check that the servers run and that this worker reaches them' });
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

function plainCommands(store: Store, location: string, objects: readonly ObjectEntry[], database: string, complete: boolean): PostgresManifest['commands'] {
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

/**
 * End the database sessions that an attempt left behind when its worker died. They carry the backup's id in their name;
 * the server would notice the dead client itself, but only at its next write to it.
 */
export async function endSessions(context: Context, datastoreName: string, ids: readonly string[]): Promise<number> {
  const datastore = postgresOf(context.config, datastoreName);
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
