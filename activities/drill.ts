import { createHash } from 'node:crypto';
import { Context as ActivityContext } from '@temporalio/activity';
import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { postgresManifestOf, type Manifest } from '../src/model/manifest.ts';
import type { Proof } from '../src/model/proof.ts';
import { checksOn, servicesOf, strictestObjectives } from '../src/model/proof-check.ts';
import { folderTimeMs, idOf, listBackups, readManifest, removeMark, storeNameOf, writeMark } from '../src/systems/backup-catalogue.ts';
import type { BackupEngine, DrillCall as EngineCall, Restored, TargetMade } from '../src/systems/backup-engine.ts';
import { writeVerdict } from '../src/systems/backup-records.ts';
import { backedUpOf, serviceOf, type Context } from '../src/systems/context.ts';
import { drillName } from '../src/systems/drill-folder.ts';
import { engineOfBackup, engineOfDatastore } from '../src/systems/engines.ts';
import { drillInstance, drillPlace, type ManagedDrill } from '../src/systems/managed-drill.ts';
import { openStore, type Store } from '../src/systems/store.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

export type { Restored, TargetMade } from '../src/systems/backup-engine.ts';

export const CHECK_TIMEOUT_MS = 60_000;
/** Nobody's recovery waits for it, but the target stands so much longer. */
const DRIFT_TIMEOUT_MS = 30 * 60_000;
/** Kept of the activity's own deadline, to answer in. */
const DRIFT_MARGIN_MS = 60_000;
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
  /** The target is an instance that RDS makes, on no host of ours. */
  readonly managed?: ManagedDrill;
  /** So long may the target take to be destroyed; left out: minutes. */
  readonly destroyMs?: number;
}

export interface DrillCall extends EngineCall {
  readonly managed?: ManagedDrill;
}

export interface Checked {
  readonly checks: readonly CheckResult[];
  readonly finishedAtMs: number;
  /** For the proof: found out after `finishedAtMs`. */
  readonly notes?: readonly string[];
}

/** What a lost worker had found out before it began to look at the drift. */
interface CheckedSoFar {
  readonly checked: Checked;
  readonly drift: string;
}

export type DrillActivities = ReturnType<typeof createDrillActivities>;

export function createDrillActivities(context: Context) {
  return withActivityFailures({
    /** Settle what is drilled, by what it is measured, and on which host; the backup is marked as in use. */
    async chooseDrillBackup(asked: DrillRequest): Promise<DrillSubject> {
      return withHeartbeat('', async (signal) => {
        const { config } = context;
        const datastore = backedUpOf(config, asked.datastore);
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
          ...damaged.map(({ location, why }) => ({ id: idOf(location), location, storeName, snapshotAt: null, storedBytes: 0, plainBytes: 0, choice: request.backup, damaged: why })),
        ].sort(byTimeTaken); // The last one is the newest.
        const chosen = choose(candidates, request);
        const { drill } = await engineOfDatastore(context, request.datastore);
        const subject = {
          hostTaskQueue: context.hostTaskQueue, environment: config.environment, datastore: request.datastore, service: request.service ?? (services.length === 1 ? services[0]! : null), services, objectives,
          timeoutMs: datastore.drill.timeout, targetName: drillName(request), committed: candidates.length,
          ...(drill.destroyMs === undefined ? {} : { destroyMs: drill.destroyMs(context, request.datastore) }),
        };
        if (chosen === undefined) {
          const problem = candidates.length === 0 ? `there is no committed backup of ${request.datastore} in ${store.describe()}` : `there is no committed backup ${request.backup} of ${request.datastore} in ${store.describe()}`;
          return { ...subject, backup: null, problem };
        }
        const managed = chosen.damaged === null && datastore.engine === 'postgres' && summaries.find(({ location }) => location === chosen.location)?.kind === 'managed-snapshot' ? await managedDrill(store, chosen.location, request, signal) : undefined;
        await writeMark(store, chosen.location, { mark: 'in-use', at: new Date().toISOString(), by: request.workflowId, reason: 'a restore drill reads it' }, inUseName(request));
        return { ...subject, backup: chosen, problem: null, ...(managed === undefined ? {} : { targetName: managed.identifier, timeoutMs: drillPlace(context, request.datastore).timeout, managed }) };
      });
    },

    /** A fresh, isolated place like the source's. What an earlier attempt left is destroyed first. */
    async startDrillTarget(call: DrillCall): Promise<TargetMade> {
      return withHeartbeat('', async (signal, onProgress) => {
        const { engine, manifest } = await subjectOf(call, signal);
        const target = await engine.drill.start(context, call, manifest, { signal, onProgress });
        context.log.info({ target: target.name, isolation: target.isolation, server: target.serverVersion }, 'drill target started');
        return target;
      });
    },

    /** A backup that cannot be restored is a result; a fault of this host is an error. */
    async restoreDrillBackup(call: DrillCall): Promise<Restored> {
      return withHeartbeat('', async (signal, onProgress) => {
        const { engine, manifest } = await subjectOf(call, signal);
        const restored = await engine.drill.restore(context, call, manifest, { signal, onProgress });
        if (restored.bad === null) return restored;
        context.log.warn({ backup: call.location, why: restored.bad }, 'the backup could not be restored');
        return { ...restored, bad: shorten(restored.bad, TEXT_KEPT) };
      });
    },

    /** Compare everything that was restored with the manifest. */
    async proveDrillRestore(call: DrillCall): Promise<Proof> {
      return withHeartbeat('', async (signal, onProgress) => {
        const { engine, manifest } = await subjectOf(call, signal);
        return shortenProof(await engine.drill.prove(context, call, manifest, { signal, onProgress }));
      });
    },

    /** The services' own checks against what was restored. */
    async runDrillChecks(call: DrillCall): Promise<Checked> {
      return withHeartbeat<Checked, string | CheckedSoFar>(lastKnown() ?? '', async (signal, onProgress) => {
        const { config } = context;
        const checks = servicesOf(config.services, call.datastore, call.service ?? undefined).flatMap((name) => checksOn(config.services[name]!, call.datastore));
        const { drill } = await engineOfDatastore(context, call.datastore);
        const startedAtMs = Date.now();
        const checked: Checked = lastKnown()?.checked ?? {
          checks: checks.length === 0 ? [] : await drill.check(context, call, checks, { timeoutMs: CHECK_TIMEOUT_MS, signal, onProgress }), finishedAtMs: Date.now(),
        };
        if (drill.drift === undefined || !checked.checks.every(({ ok }) => ok)) return checked;
        // Another worker must not measure the recovery anew from here.
        const report = (drift: string): void => onProgress({ checked, drift });
        report('');
        const timeoutMs = Math.min(DRIFT_TIMEOUT_MS, ActivityContext.current().info.startToCloseTimeoutMs - (Date.now() - startedAtMs) - DRIFT_MARGIN_MS);
        if (timeoutMs <= 0) return { ...checked, notes: ['drift: not known; no time was left to read the live tables'] };
        try {
          const { manifest } = await subjectOf(call, signal);
          const notes = await drill.drift(context, call, manifest, { signal, onProgress: report, timeoutMs });
          return notes.length === 0 ? checked : { ...checked, notes: notes.map((note) => shorten(note, TEXT_KEPT)) };
        } catch (error) {
          signal.throwIfAborted();
          return { ...checked, notes: [`drift: not known: ${shorten(messageOf(error), TEXT_KEPT)}`] };
        }
      });
    },

    async destroyDrillTarget(call: Pick<DrillCall, 'datastore' | 'targetName'>): Promise<{ existed: boolean }> {
      return withHeartbeat('', async (signal) => (await engineOfDatastore(context, call.datastore)).drill.destroy(context, call, { signal }));
    },

    /** Mark the backup by what was found, and release it. `null`: nothing was found out about it. */
    async concludeDrill(call: DrillCall, found: { mark: 'verified' | 'bad'; reason: string } | null): Promise<void> {
      await withHeartbeat('', async (signal) => {
        signal.throwIfAborted();
        if (call.location === '') return; // A moment, no backup.
        const store = await openStore(context, call.storeName);
        const verdict = found === null ? null : { mark: found.mark, at: new Date().toISOString(), by: call.workflowId, reason: shorten(found.reason, 500) };
        if (verdict !== null) await writeMark(store, call.location, verdict);
        // Whatever becomes of the record: the backup is not in use any more, and retention waits for that.
        await removeMark(store, call.location, inUseName(call));
        if (verdict !== null) await writeVerdict(store, call.datastore, idOf(call.location), verdict);
      });
    },
  });

  async function managedDrill(store: Store, location: string, request: DrillRequest, signal: AbortSignal): Promise<ManagedDrill> {
    const place = drillPlace(context, request.datastore);
    const manifest = postgresManifestOf(await readManifest(store, location, signal));
    const managed = manifest.managed!;
    const found = [managed, ...managed.copies].find(({ region }) => region === (place.region ?? managed.region));
    if (found === undefined) throw new HoldfastError('copy-missing', `the backup has no copy in ${place.region}, where drills restore from`, { next: 'choose a backup that has one, or find out why it was not copied (it is degraded)' });
    return { region: found.region, identifier: drillInstance(request.datastore, request), from: { snapshot: found.identifier } };
  }

  async function subjectOf(call: DrillCall, signal: AbortSignal): Promise<{ engine: BackupEngine; manifest: Manifest }> {
    const manifest = await readManifest(await openStore(context, call.storeName), call.location, signal);
    return { engine: await engineOfBackup(context, manifest), manifest };
  }
}

function lastKnown(): CheckedSoFar | undefined {
  const details: unknown = ActivityContext.current().info.heartbeatDetails;
  return typeof details === 'object' && details !== null && 'checked' in details ? (details as CheckedSoFar) : undefined;
}

interface Taken {
  readonly id: string;
  readonly location: string;
  readonly snapshotAt: string | null;
}

/** In the order in which backups are listed. */
export function byTimeTaken(a: Taken, b: Taken): number {
  return takenAtMs(a) - takenAtMs(b) || (a.id < b.id ? -1 : 1);
}

/** Of a damaged one only the second in its folder's name is known, and it is passed over for none of that second. */
function takenAtMs({ snapshotAt, location }: Taken): number {
  return snapshotAt === null ? folderTimeMs(location) + 999 : Date.parse(snapshotAt);
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

export function shortenProof(proof: Proof): Proof {
  const { differences } = proof;
  if (differences.length <= DIFFERENCES_KEPT) return proof;
  return { ...proof, differences: differences.slice(0, DIFFERENCES_KEPT), notes: [...proof.notes, `${differences.length - DIFFERENCES_KEPT} more differences are not listed`] };
}

function shorten(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length)}...`;
}
