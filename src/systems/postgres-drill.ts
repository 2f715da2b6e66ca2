import { HoldfastError, messageOf, STORED_FAULTS } from '../model/errors.ts';
import type { PostgresManifest } from '../model/manifest-postgres.ts';
import { compareFingerprints } from '../model/proof.ts';
import { formatBytes } from '../model/units.ts';
import type { DrillTargets } from './backup-engine.ts';
import { postgresOf } from './context.ts';
import { createDrillTarget, destroyDrillTarget, openDrillTarget, sweepDrillTargets, type DrillTarget } from './drill-target.ts';
import { quoteIdentifier, withPostgres } from './postgres.ts';
import { restoreInto } from './postgres-restore.ts';
import { fingerprintTarget, runSqlChecks } from './proof-postgres.ts';

/** Drills of PostgreSQL dumps: a server of the same major version, made for the drill on the worker's host. */
export const postgresDrill: DrillTargets<PostgresManifest> = {
  async start(context, call, manifest, { signal }) {
    const started = performance.now();
    const { binDirectory, drill } = postgresOf(context.config, call.datastore);
    const target = await createDrillTarget(context, call, manifest, { binDirectory, staged: drill.jobs > 1, signal });
    return { name: target.name, serverVersion: `PostgreSQL ${target.serverVersion}`, isolation: target.isolation, systemIdentifier: target.systemIdentifier, tookMs: Math.round(performance.now() - started) };
  },

  /** Globals, then the archive. */
  async restore(context, call, manifest, { signal, onProgress }) {
    const target = await openDrillTarget(context, call.targetName);
    await refuseUsed(target, manifest);
    const { binDirectory, drill } = postgresOf(context.config, call.datastore);
    const startedAtMs = Date.now();
    try {
      await prepareRoles(target, manifest);
      const done = await restoreInto(context, {
        storeName: call.storeName, location: call.location, manifest, target: target.connection, binDirectory, create: true, parallel: { jobs: drill.jobs, stageDirectory: target.directory }, signal,
        onProgress: ({ phase, plainBytes, ofBytes }) => onProgress(`${phase}: ${formatBytes(plainBytes)} of ${formatBytes(ofBytes)}`),
      });
      return { startedAtMs, finishedAtMs: Date.now(), globalsMs: Math.round(done.globalsMs), dataMs: Math.round(done.dataMs), plainBytes: done.plainBytes, bad: null };
    } catch (error) {
      signal.throwIfAborted();
      if (!isFaultOfBackup(error)) throw error;
      // A server that is gone explains every error of its clients.
      await openDrillTarget(context, call.targetName);
      return { startedAtMs, finishedAtMs: Date.now(), globalsMs: null, dataMs: null, plainBytes: 0, bad: messageOf(error) };
    }
  },

  async prove(context, call, manifest, { signal, onProgress }) {
    const target = await openDrillTarget(context, call.targetName);
    const found = await fingerprintTarget(target.connection, { binDirectory: postgresOf(context.config, call.datastore).binDirectory, signal, onProgress });
    return compareFingerprints(manifest, found);
  },

  async check(context, call, checks, { timeoutMs, signal, onProgress }) {
    const target = await openDrillTarget(context, call.targetName);
    // A restore brings no statistics; without them a query may take its worst plan.
    onProgress('analyzing');
    await withPostgres(target.connection, (client) => client.query('ANALYZE'));
    onProgress(`running ${checks.length} checks`);
    return runSqlChecks(target.connection, checks, { timeoutMs, signal });
  },

  destroy: (context, { targetName }) => destroyDrillTarget(context, targetName),
  sweep: sweepDrillTargets,
};

/** A restore goes into a server without user databases; whatever else is there came from an earlier attempt or from elsewhere. */
async function refuseUsed(target: DrillTarget, manifest: PostgresManifest): Promise<void> {
  const others = await withPostgres({ ...target.connection, database: 'template1' }, async (client) =>
    (await client.query<{ datname: string }>(`select datname from pg_database where datname not in ('postgres', 'template0', 'template1') or datname = $1`, [manifest.source.database === 'postgres' ? '' : manifest.source.database])).rows.map((row) => row.datname),
  );
  if (others.length > 0) {
    throw new HoldfastError('drill-target-gone', `drill target ${target.name} already holds ${others.join(', ')}: an earlier attempt was cut off`, { next: 'the drill starts over with a new target' });
  }
}

/**
 * A backup without globals leaves its roles to whoever restores it: here they are made empty, so that owners and grants can be
 * restored and compared all the same. The proof says that roles themselves were not.
 */
export async function prepareRoles(target: DrillTarget, manifest: PostgresManifest): Promise<void> {
  if (manifest.objects.some((object) => object.role === 'globals')) return;
  await withPostgres({ ...target.connection, database: 'template1' }, async (client) => {
    for (const { name } of manifest.fingerprint.roles) await client.query(`create role ${quoteIdentifier(name)}`);
  });
}

const BACKUP_FAULTS = new Set<string>(STORED_FAULTS);
/** What pg_restore and psql say when this host, not the backup, is at fault. */
const HOST_FAULTS = [
  /No space left on device/i, /could not (extend|write|create) file/i, /Cannot allocate memory|out of memory|out of shared memory/i, /server closed the connection|connection to server .* (failed|was lost)|terminating connection/i,
  /the database system is (shutting down|starting up|in recovery)/i, /could not open extension control file|extension "[^"]*" is not available|could not access file "\$libdir/i, /could not open shared library|could not load library/i,
  /invalid (LC_COLLATE|LC_CTYPE|locale)|locale name/i, /must be loaded via shared_preload_libraries/i, /unsupported version \(.*\) in file header/i,
];

function isFaultOfBackup(error: unknown): boolean {
  if (!(error instanceof HoldfastError)) return false;
  if (BACKUP_FAULTS.has(error.code)) return true;
  if (error.code !== 'child-failed' || error.context['signal'] !== null) return false;
  return !HOST_FAULTS.some((pattern) => pattern.test(error.message));
}
