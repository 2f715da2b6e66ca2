import type { RetentionDecision, RetentionResult } from '../model/api.ts';
import { HoldfastError } from '../model/errors.ts';
import { planRetention } from '../model/retention.ts';
import { COMMIT, listBackups, readFolders, storeNameOf } from './backup-catalogue.ts';
import { orphanAgeMs, reapOrphans } from './backup-run.ts';
import { datastoreOf, type Context } from './context.ts';
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
  const datastore = datastoreOf(context.config, options.datastore);
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
  if (!options.apply) return result;

  for (const [index, decision] of decisions.entries()) {
    if (decision.action !== 'delete') continue;
    options.signal?.throwIfAborted();
    const held = await deleteBackup(store, options.datastore, decision.location, options.nowMs);
    if (held !== undefined) {
      decisions[index] = { ...decision, action: 'keep', reasons: [held] };
      continue;
    }
    result.deleted.push(decision.id);
    result.freedBytes += backups.find((backup) => backup.location === decision.location)?.storedBytes ?? 0;
    options.onDeleted?.(result.deleted.length);
  }
  const reaped = await reapOrphans(context, options.datastore, orphanAgeMs(datastore.backup.timeout), options.nowMs, options.signal);
  return { ...result, applied: true, reapedUploads: reaped.uploads + reaped.folders };
}

/**
 * COMMIT first, so that a deletion that is interrupted leaves no half backup that looks whole.
 * @returns why it was kept after all: a lock, a pin or a drill that came since the listing.
 */
async function deleteBackup(store: Store, datastore: string, location: string, nowMs: number): Promise<string | undefined> {
  const folder = (await readFolders(store, store.prefix, datastore, location)).get(location);
  if (folder === undefined) return undefined;
  const marks = [...folder.files.keys()].filter((name) => /^MARK-(pinned|in-use)/.test(name));
  if (marks.length > 0) return `${marks[0]} was set since the listing`;
  for (const name of folder.files.keys()) {
    const head = await store.head(location + name);
    if (head?.lockedUntilMs !== undefined && head.lockedUntilMs > nowMs) return `locked until ${Number.isFinite(head.lockedUntilMs) ? new Date(head.lockedUntilMs).toISOString() : 'its legal hold ends'}`;
  }
  await store.delete(location + COMMIT);
  for (const name of folder.files.keys()) if (name !== COMMIT) await store.delete(location + name);
  return undefined;
}
