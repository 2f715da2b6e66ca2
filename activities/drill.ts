import { createHash } from 'node:crypto';
import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import type { Manifest } from '../src/model/manifest.ts';
import { compareFingerprints, type Proof } from '../src/model/proof.ts';
import { checksOn, servicesOf, strictestObjectives } from '../src/model/proof-check.ts';
import { formatBytes } from '../src/model/units.ts';
import { listBackups, readManifest, removeMark, restoreInto, storeNameOf, writeMark } from '../src/systems/backup-catalogue.ts';
import { datastoreOf, serviceOf, type Context } from '../src/systems/context.ts';
import { createDrillTarget, destroyDrillTarget, drillName, openDrillTarget, type DrillTarget } from '../src/systems/drill-target.ts';
import { quoteIdentifier, withPostgres } from '../src/systems/postgres.ts';
import { fingerprintTarget, runSqlChecks } from '../src/systems/proof-postgres.ts';
import { openStore } from '../src/systems/store.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

const CHECK_TIMEOUT_MS = 60_000;
/** History takes 2 MB a payload; a restore that differs in everything is described well enough by its first differences. */
const DIFFERENCES_KEPT = 200;
const TEXT_KEPT = 4000;

export interface DrillRequest {
  readonly datastore: string;
  /** `newest`, `random` or an id; null: what the datastore's `drill.backup` says. */
  readonly backup: string | null;
  readonly service: string | null;
  readonly workflowId: string;
  readonly runId: string;
}

/** What the drill is about: settled once, at its start. */
export interface DrillSubject {
  readonly hostTaskQueue: string;
  readonly environment: string;
  readonly datastore: string;
  readonly service: string | null;
  readonly services: readonly string[];
  readonly objectives: { readonly rtoMs: number; readonly rpoMs: number } | null;
  readonly timeoutMs: number;
  readonly targetName: string;
  /** null: there is none, and `problem` says so. */
  readonly backup: {
    readonly id: string;
    readonly location: string;
    readonly storeName: string;
    readonly snapshotAt: string | null;
    readonly storedBytes: number;
    readonly plainBytes: number;
    readonly choice: string;
    /** Committed, but its manifest cannot be trusted or read: bad without any restore. */
    readonly damaged: string | null;
  } | null;
  readonly problem: string | null;
  readonly committed: number;
}

export interface DrillCall {
  readonly datastore: string;
  readonly service: string | null;
  readonly workflowId: string;
  readonly runId: string;
  readonly storeName: string;
  readonly location: string;
  readonly targetName: string;
}

export interface TargetMade {
  readonly name: string;
  readonly serverVersion: string;
  readonly isolation: string;
  readonly systemIdentifier: string;
  readonly tookMs: number;
}

export interface Restored {
  readonly startedAtMs: number;
  readonly finishedAtMs: number;
  readonly globalsMs: number | null;
  readonly dataMs: number | null;
  readonly plainBytes: number;
  /** What in the backup kept it from being restored; null when it was. */
  readonly bad: string | null;
}

export interface Checked {
  readonly checks: readonly CheckResult[];
  readonly finishedAtMs: number;
}

export type DrillActivities = ReturnType<typeof createDrillActivities>;

export function createDrillActivities(context: Context) {
  return withActivityFailures({
    /** Settle what is drilled, by what it is measured, and on which host; the backup is marked as in use. */
    async chooseDrillBackup(asked: DrillRequest): Promise<DrillSubject> {
      return withHeartbeat('', async (signal) => {
        const { config } = context;
        const datastore = datastoreOf(config, asked.datastore);
        const request = { ...asked, backup: asked.backup ?? datastore.drill.backup };
        if (request.service !== null && !serviceOf(config, request.service).datastores.includes(request.datastore)) {
          throw new HoldfastError('service-mismatch', `service ${request.service} does not live on datastore ${request.datastore}`, { next: `its datastores: ${serviceOf(config, request.service).datastores.join(', ')}` });
        }
        const services = servicesOf(config.services, request.datastore, request.service ?? undefined);
        const objectives = strictestObjectives(services.map((name) => config.services[name]!));
        const storeName = storeNameOf(context, request.datastore);
        const store = await openStore(context, storeName);
        const damaged: { location: string; why: string }[] = [];
        const summaries = await listBackups(store, store.prefix, request.datastore, { signal, onDamaged: (location, why) => damaged.push({ location, why }) });
        // Damaged ones take part in the choice: a drill that passed over them would report an older backup as the newest.
        const candidates: NonNullable<DrillSubject['backup']>[] = [
          ...summaries.map((summary) => ({
            id: summary.id, location: summary.location, storeName, snapshotAt: new Date(summary.snapshotAtMs).toISOString(), storedBytes: summary.storedBytes, plainBytes: summary.plainBytes, choice: request.backup, damaged: null,
          })),
          ...damaged.map(({ location, why }) => ({ id: /Z-([a-z0-9-]+)\/$/.exec(location)?.[1] ?? location, location, storeName, snapshotAt: null, storedBytes: 0, plainBytes: 0, choice: request.backup, damaged: why })),
        ].sort((a, b) => (a.location < b.location ? -1 : 1)); // The folder names carry the time, so the last one is the newest.
        const chosen = choose(candidates, request);
        const subject = {
          hostTaskQueue: context.hostTaskQueue, environment: config.environment, datastore: request.datastore, service: request.service ?? (services.length === 1 ? services[0]! : null), services, objectives,
          timeoutMs: datastore.drill.timeout, targetName: drillName(request), committed: candidates.length,
        };
        if (chosen === undefined) {
          const problem = candidates.length === 0 ? `there is no committed backup of ${request.datastore} in ${store.describe()}` : `there is no committed backup ${request.backup} of ${request.datastore} in ${store.describe()}`;
          return { ...subject, backup: null, problem };
        }
        await writeMark(store, chosen.location, { mark: 'in-use', at: new Date().toISOString(), by: request.workflowId, reason: 'a restore drill reads it' }, inUseName(request));
        return { ...subject, backup: chosen, problem: null };
      });
    },

    /** A fresh, isolated server like the source's. What an earlier attempt left is destroyed first. */
    async startDrillTarget(call: DrillCall): Promise<TargetMade> {
      return withHeartbeat('', async (signal) => {
        const started = performance.now();
        const manifest = await manifestOf(call, signal);
        const target = await createDrillTarget(context, call, manifest, { binDirectory: datastoreOf(context.config, call.datastore).binDirectory, staged: datastoreOf(context.config, call.datastore).drill.jobs > 1, signal });
        context.log.info({ target: target.name, isolation: target.isolation, server: target.serverVersion }, 'drill target started');
        return { name: target.name, serverVersion: target.serverVersion, isolation: target.isolation, systemIdentifier: target.systemIdentifier, tookMs: Math.round(performance.now() - started) };
      });
    },

    /** Globals, then the archive. A backup that cannot be restored is a result; a fault of this host is an error. */
    async restoreDrillBackup(call: DrillCall): Promise<Restored> {
      return withHeartbeat('', async (signal, progress) => {
        const target = await openDrillTarget(context, call.targetName);
        const manifest = await manifestOf(call, signal);
        await refuseUsed(target, manifest);
        const startedAtMs = Date.now();
        try {
          await prepareRoles(target, manifest);
          const done = await restoreInto(context, {
            storeName: call.storeName,
            location: call.location,
            manifest,
            target: target.connection,
            binDirectory: datastoreOf(context.config, call.datastore).binDirectory,
            create: true,
            parallel: { jobs: datastoreOf(context.config, call.datastore).drill.jobs, stageDirectory: target.directory },
            signal,
            onProgress: ({ phase, plainBytes, ofBytes }) => progress(`${phase}: ${formatBytes(plainBytes)} of ${formatBytes(ofBytes)}`),
          });
          return { startedAtMs, finishedAtMs: Date.now(), globalsMs: Math.round(done.globalsMs), dataMs: Math.round(done.dataMs), plainBytes: done.plainBytes, bad: null };
        } catch (error) {
          signal.throwIfAborted();
          if (!isFaultOfBackup(error)) throw error;
          // A server that is gone explains every error of its clients.
          await openDrillTarget(context, call.targetName);
          context.log.warn({ backup: call.location, err: error }, 'the backup could not be restored');
          return { startedAtMs, finishedAtMs: Date.now(), globalsMs: null, dataMs: null, plainBytes: 0, bad: shorten(messageOf(error), TEXT_KEPT) };
        }
      });
    },

    /** Compare everything in the restored database with the manifest. */
    async proveDrillRestore(call: DrillCall): Promise<Proof> {
      return withHeartbeat('', async (signal, progress) => {
        const target = await openDrillTarget(context, call.targetName);
        const manifest = await manifestOf(call, signal);
        const found = await fingerprintTarget(target.connection, { binDirectory: datastoreOf(context.config, call.datastore).binDirectory, signal, onProgress: progress });
        return shortenProof(compareFingerprints(manifest, found));
      });
    },

    /** The services' own SQL checks against the restored database. */
    async runDrillChecks(call: DrillCall): Promise<Checked> {
      return withHeartbeat('', async (signal, progress) => {
        const target = await openDrillTarget(context, call.targetName);
        const { config } = context;
        const checks = servicesOf(config.services, call.datastore, call.service ?? undefined).flatMap((name) => checksOn(config.services[name]!, call.datastore));
        if (checks.length > 0) {
          // A restore brings no statistics; without them a query may take its worst plan.
          progress('analyzing');
          await withPostgres(target.connection, (client) => client.query('ANALYZE'));
          progress(`running ${checks.length} checks`);
        }
        const results = await runSqlChecks(target.connection, checks, { timeoutMs: CHECK_TIMEOUT_MS, signal });
        return { checks: results, finishedAtMs: Date.now() };
      });
    },

    async destroyDrillTarget(call: Pick<DrillCall, 'targetName'>): Promise<{ existed: boolean }> {
      return withHeartbeat('', () => destroyDrillTarget(context, call.targetName));
    },

    /** Mark the backup by what was found, and release it. `null`: nothing was found out about it. */
    async concludeDrill(call: DrillCall, found: { mark: 'verified' | 'bad'; reason: string } | null): Promise<void> {
      await withHeartbeat('', async (signal) => {
        signal.throwIfAborted();
        const store = await openStore(context, call.storeName);
        if (found !== null) await writeMark(store, call.location, { mark: found.mark, at: new Date().toISOString(), by: call.workflowId, reason: shorten(found.reason, 500) });
        await removeMark(store, call.location, inUseName(call));
      });
    },
  });

  async function manifestOf(call: DrillCall, signal: AbortSignal): Promise<Manifest> {
    return readManifest(await openStore(context, call.storeName), call.location, signal);
  }
}

/** `random` follows from the run, so that another attempt chooses, and marks, the same one. */
function choose<T extends { id: string }>(candidates: readonly T[], request: DrillRequest): T | undefined {
  if (request.backup === 'newest') return candidates.at(-1);
  if (request.backup === 'random') {
    if (candidates.length === 0) return undefined;
    return candidates[createHash('sha256').update(request.runId).digest().readUInt32BE(0) % candidates.length];
  }
  return candidates.find((candidate) => candidate.id === request.backup);
}

/** Of its own for each run: two drills may use one backup at once. */
function inUseName({ workflowId, runId }: { workflowId: string; runId: string }): string {
  return `in-use-${createHash('sha256').update(`${workflowId}\0${runId}`).digest('hex').slice(0, 12)}`;
}

/** A restore goes into a server without user databases; whatever else is there came from an earlier attempt or from elsewhere. */
async function refuseUsed(target: DrillTarget, manifest: Manifest): Promise<void> {
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
export async function prepareRoles(target: DrillTarget, manifest: Manifest): Promise<void> {
  if (manifest.objects.some((object) => object.role === 'globals')) return;
  await withPostgres({ ...target.connection, database: 'template1' }, async (client) => {
    for (const { name } of manifest.fingerprint.roles) await client.query(`create role ${quoteIdentifier(name)}`);
  });
}

const BACKUP_FAULTS = new Set(['object-damaged', 'object-missing', 'manifest-changed', 'manifest-invalid']);
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

function shortenProof(proof: Proof): Proof {
  const { differences } = proof;
  if (differences.length <= DIFFERENCES_KEPT) return proof;
  return { ...proof, differences: differences.slice(0, DIFFERENCES_KEPT), notes: [...proof.notes, `${differences.length - DIFFERENCES_KEPT} more differences are not listed`] };
}

function shorten(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length)}...`;
}
