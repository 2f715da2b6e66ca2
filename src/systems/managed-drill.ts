/**
 * A drill into a managed instance: RDS restores a snapshot, or a moment, into an isolated subnet group. The instance is known by its name,
 * which follows from the run, and by its tags: whoever knows the run, or lists what drills left, can destroy it.
 */
import { createHash } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { ManagedSnapshots } from '../model/config-snapshots.ts';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { TAG_DATASTORE, TAG_DRILL, TAG_DRILL_RUN, TAG_ENVIRONMENT, drillInstanceIdentifier, refusesEndpoint, refusesTarget, type ProductionInstance } from '../model/managed-snapshot.ts';
import { datastoreOf, postgresOf, type Context } from './context.ts';
import { instancesOf, managedOf, primaryOf } from './managed-backup.ts';
import { adminTarget, withPostgres, type PostgresTarget } from './postgres.ts';
import { deleteInstance, describeDrillInstance, describeSnapshot, listDrillInstances, restoreInstance, type InstanceFacts, type Place } from './rds-snapshots.ts';
import { ensureMarkerTable, markersAround, writeMarker } from './recovery-marker.ts';

const POLL_MS = 10_000;
const SWEEP_MS = 15_000;
/** A marker's time is a little before its commit, which decides: nearer ones prove nothing. */
export const MARKER_MARGIN_MS = 1000;
const ENDED = /^(failed|incompatible-.*|restore-error|storage-full|inaccessible-encryption-credentials.*)$/;

/** Settled once, when the drill begins. */
export interface ManagedDrill {
  readonly region: string;
  /** Of the instance that is made. */
  readonly identifier: string;
  readonly from: { readonly snapshot: string } | { readonly instance: string; readonly at: string; readonly before: string; readonly after: string };
}

export interface ManagedDrillCall {
  readonly datastore: string;
  readonly workflowId: string;
  readonly runId: string;
  readonly managed: ManagedDrill;
}

interface Waiting {
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
}

export function drillInstance(datastore: string, identity: { workflowId: string; runId: string }): string {
  return drillInstanceIdentifier(datastore, createHash('sha256').update(`${identity.workflowId}\0${identity.runId}`).digest('hex').slice(0, 12));
}

/** @throws HoldfastError `drill-unset` when nothing says where to. */
export function drillPlace(context: Context, datastore: string): NonNullable<ManagedSnapshots['drill']> {
  const { drill } = managedOf(context, datastore).snapshots;
  if (drill === undefined) throw new HoldfastError('drill-unset', `datastore ${datastore} does not say where a managed snapshot is restored for a drill`, { next: `add datastores.${datastore}.managed.snapshots.drill: instanceClass, subnetGroup, securityGroups` });
  return drill;
}

/**
 * The moment that is drilled, and the marker rows on both sides of it. `now`: markers are written and the moment lies between them.
 * @returns why there is nothing to prove it with, or the moment.
 */
export async function choosePoint(context: Context, datastoreName: string, wanted: string, signal: AbortSignal): Promise<{ problem: string } | { instance: string; region: string; at: string; before: string; after: string; latestRestorable: string | null }> {
  const datastore = postgresOf(context.config, datastoreName);
  const { instance, region, target } = await primaryOf(context, datastore);
  const described = await describeDrillInstance(context, { region, identifier: instance });
  if (described === undefined) throw new HoldfastError('instance-missing', `instance ${instance} is not in ${region}`, { next: `check datastores.${datastoreName}.nodes.<node>.rds` });
  const about = { instance, region, latestRestorable: described.latestRestorableTime };
  if (wanted === 'now') {
    await ensureMarkerTable(target);
    const before = await writeMarker(target, 'point-in-time', 'before');
    await pause(MARKER_MARGIN_MS + 1000, undefined, { signal });
    const at = wholeSecond(await withPostgres(target, async (client) => (await client.query<{ at: Date }>('select clock_timestamp() as at')).rows[0]!.at));
    await pause(100, undefined, { signal });
    const after = await writeMarker(target, 'point-in-time', 'after');
    return { ...about, at, before: before.id, after: after.id };
  }
  const at = wholeSecond(new Date(wanted));
  const { before, after } = await markersAround(target, at, MARKER_MARGIN_MS);
  if (before === null || after === null) {
    return { problem: `there is no marker row ${before === null ? 'before' : 'after'} ${at}, so a restore to it could not be proved: every managed snapshot writes some, and pointInTime: now writes its own` };
  }
  return { ...about, at, before: before.id, after: after.id };
}

/** RDS restores to whole seconds. */
function wholeSecond(at: Date): string {
  return new Date(Math.floor(at.getTime() / 1000) * 1000).toISOString();
}

/** Ask RDS for the instance. @throws HoldfastError `drill-target-refused`; `snapshot-gone` says that the backup is none any more. */
export async function startInstance(context: Context, call: ManagedDrillCall, waiting: Waiting): Promise<InstanceFacts> {
  const { managed } = call;
  const place = drillPlace(context, call.datastore);
  const { datastore, snapshots } = managedOf(context, call.datastore);
  const refused = refusesTarget({ identifier: managed.identifier, region: managed.region, subnetGroup: place.subnetGroup, securityGroups: place.securityGroups }, await productionOf(context, datastore));
  if (refused.length > 0) throw new HoldfastError('drill-target-refused', `nothing is restored: the drill would not be apart from production: ${refused.join('; ')}`, { next: `give datastores.${call.datastore}.managed.snapshots.drill a subnet group and security groups of its own` });
  const found = await describeDrillInstance(context, managed);
  if (found !== undefined) {
    refuseForeign(context, call, found);
    return found;
  }
  if ('snapshot' in managed.from) {
    const snapshot = await describeSnapshot(context, { region: managed.region, identifier: managed.from.snapshot });
    if (snapshot?.status !== 'available') throw new HoldfastError('snapshot-gone', `the backup is committed, but its snapshot ${managed.from.snapshot} in ${managed.region} is ${snapshot === undefined ? 'not there' : snapshot.status}`, { next: 'find out who deleted it; take a new backup' });
  } else {
    await untilRestorable(context, managed.region, managed.from, waiting);
  }
  waiting.signal.throwIfAborted();
  const made = await restoreInstance(context, {
    region: managed.region, identifier: managed.identifier, from: 'snapshot' in managed.from ? managed.from : { instance: managed.from.instance, at: managed.from.at },
    instanceClass: place.instanceClass, subnetGroup: place.subnetGroup, securityGroups: place.securityGroups, parameterGroup: place.parameterGroup,
    tags: { ...snapshots.tags, [TAG_ENVIRONMENT]: context.config.environment, [TAG_DATASTORE]: call.datastore, [TAG_DRILL]: call.workflowId, [TAG_DRILL_RUN]: call.runId },
  });
  const described = (await describeDrillInstance(context, managed)) ?? made;
  refuseForeign(context, call, described);
  return described;
}

/** RDS archives WAL every few minutes: a moment of just now cannot be restored at once. */
async function untilRestorable(context: Context, region: string, { instance, at }: { instance: string; at: string }, { signal, onProgress }: Waiting): Promise<void> {
  for (;;) {
    const source = await tolerant(() => describeDrillInstance(context, { region, identifier: instance }));
    if (source?.latestRestorableTime != null && Date.parse(source.latestRestorableTime) >= Date.parse(at)) return;
    onProgress(`waiting until ${instance} can be restored to ${at}; now up to ${source?.latestRestorableTime ?? 'an unknown time'}`);
    await pause(POLL_MS, undefined, { signal });
  }
}

/** Wait until it takes connections; its address is checked before anybody connects. */
export async function awaitInstance(context: Context, call: ManagedDrillCall, { signal, onProgress }: Waiting, pollMs = POLL_MS): Promise<InstanceFacts> {
  for (;;) {
    const found = await tolerant(async () => {
      const facts = await describeDrillInstance(context, call.managed);
      if (facts === undefined) throw new HoldfastError('drill-target-gone', `instance ${call.managed.identifier} is not in ${call.managed.region} any more`, { next: 'somebody deleted it; start the drill again' });
      return facts;
    });
    if (found !== undefined) {
      refuseForeign(context, call, found);
      if (found.status === 'available' && found.address !== null) return found;
      if (ENDED.test(found.status)) throw new HoldfastError('drill-target-failed', `instance ${found.identifier} ended as ${found.status}`, { next: 'look at its events in RDS' });
    }
    onProgress(found?.status ?? 'RDS does not answer');
    await pause(pollMs, undefined, { signal });
  }
}

/** Where the restored database is. @throws HoldfastError `drill-target-refused` when it is, or looks like, production. */
export async function openInstance(context: Context, call: ManagedDrillCall): Promise<PostgresTarget> {
  const found = await describeDrillInstance(context, call.managed);
  if (found?.address == null) throw new HoldfastError('drill-target-gone', `instance ${call.managed.identifier} is ${found?.status ?? 'gone'}`, { next: 'start the drill again' });
  refuseForeign(context, call, found);
  const datastore = postgresOf(context.config, call.datastore);
  // It has the roles and passwords of the moment it is of.
  const admin = await adminTarget(context, datastore, Object.keys(datastore.nodes)[0]!);
  return { ...admin, host: found.address, port: found.port ?? 5432 };
}

/** Delete it and wait until it is gone. Only after its tags said that this drill made it. */
export async function destroyInstance(context: Context, call: ManagedDrillCall, { signal, onProgress }: Waiting, pollMs = POLL_MS): Promise<{ existed: boolean }> {
  const found = await describeDrillInstance(context, call.managed);
  if (found === undefined) return { existed: false };
  if (found.tags[TAG_DRILL] !== call.workflowId || found.tags[TAG_ENVIRONMENT] !== context.config.environment) {
    throw new HoldfastError('drill-target-refused', `instance ${found.identifier} in ${found.region} was not made by this drill (its tag ${TAG_DRILL} is ${found.tags[TAG_DRILL] ?? 'missing'}): it is left alone`, { next: 'find out who made it' });
  }
  await deleteWhenPossible(context, call.managed, found, { signal, onProgress }, pollMs);
  return { existed: true };
}

async function deleteWhenPossible(context: Context, place: Place, found: InstanceFacts, { signal, onProgress }: Waiting, pollMs: number): Promise<void> {
  let asked = found.status === 'deleting';
  for (;;) {
    if (!asked) {
      try {
        if ((await deleteInstance(context, place)) === 'gone') return;
        asked = true;
      } catch (error) {
        // While it is being made RDS may not delete it.
        if (!(error instanceof HoldfastError) || !error.retryable) throw error;
        onProgress(error.message);
      }
    }
    const now = await tolerant(async () => (await describeDrillInstance(context, place)) ?? null);
    if (now === null) return;
    onProgress(now?.status ?? 'RDS does not answer');
    await pause(pollMs, undefined, { signal });
  }
}

/** Throttled or away for a moment is no answer; anything that cannot be mended is thrown. */
async function tolerant<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof HoldfastError && error.retryable) return undefined;
    throw error;
  }
}

async function productionOf(context: Context, datastore: PostgresDatastore): Promise<(ProductionInstance & { region: string })[]> {
  return Promise.all(
    instancesOf(context, datastore).map(async ({ instance, region }) => {
      const found = await describeDrillInstance(context, { region, identifier: instance });
      return { identifier: instance, region, address: found?.address ?? null, subnetGroup: found?.subnetGroup ?? null, securityGroups: found?.securityGroups ?? [] };
    }),
  );
}

function refuseForeign(context: Context, call: ManagedDrillCall, found: InstanceFacts): void {
  const { config } = context;
  const production = Object.keys(config.datastores).flatMap((name) => {
    const datastore = datastoreOf(config, name);
    if (datastore.engine !== 'postgres') return [];
    return Object.entries(datastore.nodes).map(([node, { host, port }]) => ({ host, port, what: `${name}/${node}` }));
  });
  const problems = refusesEndpoint({ identifier: found.identifier, address: found.address, port: found.port, tags: found.tags, publiclyAccessible: found.publiclyAccessible }, { workflowId: call.workflowId, environment: config.environment }, production);
  if (problems.length > 0) throw new HoldfastError('drill-target-refused', `instance ${found.identifier} in ${found.region} is not what this drill made: ${problems.join('; ')}`, { next: 'nobody connects to it; find out what it is' });
}

/**
 * Delete the instances of drills that no longer run. For the start of a worker, which must start all the same: what fails is logged.
 * @returns their names; they are gone some minutes later.
 */
export async function sweepManagedTargets(context: Context, isRunning: (workflowId: string, runId: string) => Promise<boolean>): Promise<string[]> {
  const regions = new Set<string>();
  for (const datastore of Object.values(context.config.datastores)) {
    if (datastore.engine !== 'postgres' || datastore.managed?.snapshots?.drill === undefined) continue;
    for (const { region } of instancesOf(context, datastore)) regions.add(region);
    for (const { region } of datastore.managed.snapshots.copies) regions.add(region);
  }
  const swept: string[] = [];
  const sweep = async (region: string): Promise<void> => {
    for (const found of await listDrillInstances(context, region, context.config.environment)) {
      if (found.status === 'deleting' || (await isRunning(found.tags[TAG_DRILL]!, found.tags[TAG_DRILL_RUN] ?? ''))) continue;
      await deleteInstance(context, { region, identifier: found.identifier });
      context.log.warn({ instance: found.identifier, region, workflowId: found.tags[TAG_DRILL] }, 'deleting an instance that an ended drill had left');
      swept.push(found.identifier);
    }
  };
  await Promise.all(
    [...regions].map(async (region) => {
      const late = new AbortController();
      try {
        // A Region that is lost must not keep the worker from starting that is to fail over from it.
        await Promise.race([sweep(region), pause(SWEEP_MS, undefined, { signal: late.signal }).then(() => Promise.reject(new HoldfastError('rds-unavailable', `RDS in ${region} did not answer within ${SWEEP_MS / 1000} s`)))]);
      } catch (error) {
        context.log.error({ region, error: messageOf(error) }, 'the instances that ended drills left could not all be looked at or deleted; the next start tries again');
      } finally {
        late.abort();
      }
    }),
  );
  return swept;
}
