import type { RetentionDecision, RetentionResult } from '../model/api.ts';
import { HoldfastError } from '../model/errors.ts';
import { isManaged, manifestSchema } from '../model/manifest.ts';
import { restorableMoments } from '../model/restorable.ts';
import { planRetention } from '../model/retention.ts';
import { COMMIT, listBackups, MANIFEST, readFolders, readManifest, storeNameOf } from './backup-catalogue.ts';
import type { BackupEngine } from './backup-engine.ts';
import { orphanAgeMs, reapOrphans } from './backup-write.ts';
import { backedUpOf, type Context } from './context.ts';
import { engineOfDatastore } from './engines.ts';
import { openStore, type Store } from './store.ts';

export interface RetentionOptions {
  readonly datastore: string;
  /** Without it nothing is changed: the plan is only made. */
  readonly apply: boolean;
  readonly nowMs: number;
  readonly signal?: AbortSignal;
  readonly onDeleted?: (deleted: number) => void;
}

/**
 * Plan and, when asked, delete. Everything is listed and planned before the first deletion; a failed listing deletes nothing.
 * @throws HoldfastError `retention-unset` when the datastore has no policy.
 */
export async function runRetention(context: Context, options: RetentionOptions): Promise<RetentionResult> {
  const datastore = backedUpOf(context.config, options.datastore);
  const policy = datastore.retention;
  if (policy === undefined) {
    throw new HoldfastError('retention-unset', `datastore ${options.datastore} has no retention policy, so everything is kept`, { next: `add datastores.${options.datastore}.retention with at least one of last, hourly, daily, weekly, monthly, yearly, within` });
  }
  const store = await openStore(context, storeNameOf(context, options.datastore));
  const damaged: RetentionDecision[] = [];
  const backups = await listBackups(store, store.prefix, options.datastore, {
    signal: options.signal,
    nowMs: options.nowMs,
    onDamaged: (location, why) => damaged.push({ id: location.slice(location.lastIndexOf('Z-') + 2, -1), location, snapshotAt: '', action: 'keep', reasons: [`damaged, needs a look: ${why}`] }),
  });
  const plan = planRetention({ backups, policy, nowMs: options.nowMs });
  const decisions = [...plan.decisions, ...damaged];
  const result = { datastore: options.datastore, applied: false, decisions, deleted: [] as string[], freedBytes: 0, reapedUploads: 0 };
  if (!options.apply) return { ...result, restorable: restorableMoments(backups, new Set(decisions.flatMap(({ action, id }) => (action === 'delete' ? [id] : [])))) };

  const { outside } = await engineOfDatastore(context, options.datastore);
  for (const [index, decision] of decisions.entries()) {
    if (decision.action !== 'delete') continue;
    options.signal?.throwIfAborted();
    const backup = backups.find(({ location }) => location === decision.location);
    const held = await deleteBackup(context, store, options.datastore, decision.location, backup?.kind === 'managed-snapshot' ? outside : undefined, options.nowMs);
    if (held !== undefined) {
      decisions[index] = { ...decision, action: 'keep', reasons: [held] };
      continue;
    }
    result.deleted.push(decision.id);
    result.freedBytes += backup?.storedBytes ?? 0;
    options.onDeleted?.(result.deleted.length);
  }
  const left = outside === undefined ? 0 : await reapOutside(context, store, options.datastore, outside, options.nowMs, options.signal);
  const reaped = await reapOrphans(context, options.datastore, orphanAgeMs(datastore.backup.timeout), options.nowMs, options.signal);
  return { ...result, applied: true, restorable: restorableMoments(backups, new Set(result.deleted)), reapedUploads: reaped.uploads + reaped.folders + left };
}

/** A manifest is written seconds before its COMMIT: an older one without is of a deletion that was cut off. */
const CUT_OFF_MS = 3_600_000;

/**
 * COMMIT first, so that a deletion that is interrupted leaves no half backup that looks whole; the manifest last, since it names what else
 * is to be deleted when it is resumed.
 * @returns why it was kept after all: a lock, a pin or a drill that came since the listing, or snapshots that are not ours.
 */
async function deleteBackup(context: Context, store: Store, datastore: string, location: string, outside: BackupEngine['outside'], nowMs: number): Promise<string | undefined> {
  const folder = (await readFolders(store, store.prefix, datastore, location)).get(location);
  if (folder === undefined) return undefined;
  const marks = [...folder.files.keys()].filter((name) => /^MARK-(pinned|in-use)/.test(name));
  if (marks.length > 0) return `${marks[0]} was set since the listing`;
  for (const name of folder.files.keys()) {
    const head = await store.head(location + name);
    if (head?.lockedUntilMs !== undefined && head.lockedUntilMs > nowMs) return `locked until ${Number.isFinite(head.lockedUntilMs) ? new Date(head.lockedUntilMs).toISOString() : 'its legal hold ends'}`;
  }
  const manifest = outside === undefined ? undefined : await readManifest(store, location);
  const foreign = manifest === undefined ? null : await outside!.mayDelete(context, manifest);
  if (foreign !== null) return foreign;
  await store.delete(location + COMMIT);
  if (manifest !== undefined) await outside!.delete(context, manifest);
  for (const name of [...folder.files.keys()].filter((name) => name !== COMMIT && name !== MANIFEST)) await store.delete(location + name);
  if (folder.files.has(MANIFEST)) await store.delete(location + MANIFEST);
  return undefined;
}

/**
 * What no committed backup names, outside the store. First that of deletions that were cut off: the manifest that is still there names it.
 * Then what the engine knows for ours and finds in no folder.
 */
async function reapOutside(context: Context, store: Store, datastore: string, outside: NonNullable<BackupEngine['outside']>, nowMs: number, signal: AbortSignal | undefined): Promise<number> {
  let removed = 0;
  const known = new Set<string>();
  for (const folder of (await readFolders(store, store.prefix, datastore)).values()) {
    signal?.throwIfAborted();
    if (folder.files.has(COMMIT)) {
      // Also a damaged one: somebody has to look at it first.
      known.add(folder.id);
      continue;
    }
    const manifestFile = folder.files.get(MANIFEST);
    if (manifestFile === undefined || manifestFile.modifiedMs > nowMs - CUT_OFF_MS) {
      // On its way, or without anything that could name it: by age, below.
      continue;
    }
    const manifest = manifestSchema.safeParse(JSON.parse(await store.getText(folder.location + MANIFEST)));
    if (!manifest.success || !isManaged(manifest.data) || manifest.data.datastore !== datastore) continue;
    await outside.delete(context, manifest.data);
    for (const name of folder.files.keys()) if (name !== MANIFEST) await store.delete(folder.location + name);
    await store.delete(folder.location + MANIFEST);
    removed += 1;
  }
  return removed + (await outside.reap(context, datastore, known, nowMs, signal));
}
