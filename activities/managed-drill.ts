import { postgresManifestOf } from '../src/model/manifest.ts';
import { checksOn, servicesOf, strictestObjectives } from '../src/model/proof-check.ts';
import { HoldfastError } from '../src/model/errors.ts';
import { proveManaged, provePointInTime } from '../src/model/managed-snapshot.ts';
import type { Proof } from '../src/model/proof.ts';
import { readManifest, storeNameOf } from '../src/systems/backup-catalogue.ts';
import { postgresOf, serviceOf, type Context } from '../src/systems/context.ts';
import { managedOf } from '../src/systems/managed-backup.ts';
import { awaitInstance, choosePoint, destroyInstance, drillInstance, drillPlace, openInstance, startInstance, type ManagedDrillCall } from '../src/systems/managed-drill.ts';
import { withPostgres } from '../src/systems/postgres.ts';
import { fingerprintTarget, runSqlChecks } from '../src/systems/proof-postgres.ts';
import { presentMarkers } from '../src/systems/recovery-marker.ts';
import { openStore } from '../src/systems/store.ts';
import { CHECK_TIMEOUT_MS, shortenProof, type Checked, type DrillCall, type DrillRequest, type DrillSubject, type TargetMade } from './drill.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

export type ManagedDrillActivities = ReturnType<typeof createManagedDrillActivities>;

/** The steps of a drill whose target RDS makes. They run on any worker: what they made is found by its name. */
export function createManagedDrillActivities(context: Context) {
  return withActivityFailures({
    /** For a moment instead of a backup. */
    async choosePointInTime(request: DrillRequest & { pointInTime: string }): Promise<DrillSubject> {
      return withHeartbeat('', async (signal) => {
        const { config } = context;
        postgresOf(config, request.datastore);
        if (request.service !== null && !serviceOf(config, request.service).datastores.includes(request.datastore)) {
          throw new HoldfastError('service-mismatch', `service ${request.service} does not live on datastore ${request.datastore}`, { next: `its datastores: ${serviceOf(config, request.service).datastores.join(', ')}` });
        }
        const place = drillPlace(context, request.datastore);
        const services = servicesOf(config.services, request.datastore, request.service ?? undefined);
        const about = {
          hostTaskQueue: context.hostTaskQueue, environment: config.environment, datastore: request.datastore, service: request.service ?? (services.length === 1 ? services[0]! : null), services,
          objectives: strictestObjectives(services.map((name) => config.services[name]!)), timeoutMs: place.timeout, targetName: drillInstance(request.datastore, request), committed: 0,
        };
        const point = await choosePoint(context, request.datastore, request.pointInTime, signal);
        if ('problem' in point) return { ...about, backup: null, problem: point.problem };
        const { instance, region, at, before, after, latestRestorable } = point;
        return {
          ...about, problem: null,
          backup: { id: `point-in-time-${at}`, location: '', storeName: storeNameOf(context, request.datastore), snapshotAt: latestRestorable, storedBytes: 0, plainBytes: 0, choice: request.pointInTime, damaged: null },
          managed: { region, identifier: about.targetName, from: { instance, at, before, after } },
        };
      });
    },

    startManagedTarget: (call: DrillCall): Promise<TargetMade> =>
      withHeartbeat('', async (signal, onProgress) => {
        const started = performance.now();
        const made = await startInstance(context, managedCall(call), { signal, onProgress });
        const { subnetGroup, instanceClass } = drillPlace(context, call.datastore);
        return { name: made.identifier, serverVersion: made.engineVersion ?? 'of unknown version', isolation: `${instanceClass} in subnet group ${subnetGroup} of ${made.region}`, systemIdentifier: '', tookMs: Math.round(performance.now() - started) };
      }),

    /** @returns when RDS called it available. */
    awaitManagedTarget: (call: DrillCall): Promise<{ availableAtMs: number }> =>
      withHeartbeat('', async (signal, onProgress) => {
        await awaitInstance(context, managedCall(call), { signal, onProgress }, pollOf(call));
        return { availableAtMs: Date.now() };
      }),

    proveManagedRestore: (call: DrillCall): Promise<Proof> =>
      withHeartbeat('', async (signal, onProgress) => {
        const managed = managedCall(call);
        const target = await openInstance(context, managed);
        const recovering = await withPostgres(target, async (client) => (await client.query<{ on: boolean }>('select pg_is_in_recovery() as on')).rows[0]!.on);
        if (recovering) throw new HoldfastError('drill-target-recovering', `instance ${managed.managed.identifier} still replays WAL: nothing can be said of it yet`, { retryable: true, next: 'it is asked again' });
        const found = await fingerprintTarget(target, { binDirectory: postgresOf(context.config, call.datastore).binDirectory, signal, onProgress });
        const { from } = managed.managed;
        if ('at' in from) {
          const rows = found.tables.reduce((sum, table) => sum + BigInt(table.rows), 0n);
          return provePointInTime(from, await presentMarkers(target, [from.before, from.after]), { tables: found.tables.length, rows: String(rows) });
        }
        const manifest = postgresManifestOf(await readManifest(await openStore(context, call.storeName), call.location, signal));
        const { markers } = manifest.managed!;
        return shortenProof(proveManaged(manifest, found, markers === null ? new Set() : await presentMarkers(target, [...markers.present, ...markers.between, ...markers.absent])));
      }),

    runManagedChecks: (call: DrillCall): Promise<Checked> =>
      withHeartbeat('', async (signal) => {
        const target = await openInstance(context, managedCall(call));
        const { config } = context;
        const checks = servicesOf(config.services, call.datastore, call.service ?? undefined).flatMap((name) => checksOn(config.services[name]!, call.datastore));
        const results = await runSqlChecks(target, checks, { timeoutMs: CHECK_TIMEOUT_MS, signal });
        return { checks: results, finishedAtMs: Date.now() };
      }),

    destroyManagedTarget: (call: DrillCall): Promise<{ existed: boolean }> => withHeartbeat('', (signal, onProgress) => destroyInstance(context, managedCall(call), { signal, onProgress }, pollOf(call))),
  });

  function pollOf({ datastore }: DrillCall): number {
    return Math.min(10_000, managedOf(context, datastore).snapshots.pollEvery);
  }
}

function managedCall(call: DrillCall): ManagedDrillCall {
  return { datastore: call.datastore, workflowId: call.workflowId, runId: call.runId, managed: call.managed! };
}
