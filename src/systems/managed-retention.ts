import { HoldfastError } from '../model/errors.ts';
import { TAG_BACKUP, whyNotOurs } from '../model/managed-snapshot.ts';
import type { PostgresManifest } from '../model/manifest-postgres.ts';
import type { BackupEngine } from './backup-engine.ts';
import { orphanAgeMs } from './backup-write.ts';
import { postgresOf, type Context } from './context.ts';
import { deleteOurs, managedOf, orphanSnapshots } from './managed-backup.ts';
import { describeSnapshot } from './rds-snapshots.ts';

/** The snapshots of RDS that are backups of ours, for retention. */
export const managedOutside: NonNullable<BackupEngine<PostgresManifest>['outside']> = { mayDelete: foreignSnapshot, delete: deleteSnapshots, reap: reapSnapshots };

type SnapshotPlace = { readonly region: string; readonly identifier: string };

/** The copies first: while its COMMIT is there a backup has at least the snapshot itself. */
function placesOf(manifest: PostgresManifest): SnapshotPlace[] {
  const managed = manifest.managed!;
  return [...managed.copies, managed].map(({ region, identifier }) => ({ region, identifier }));
}

/** One of them carries other tags than ours: nothing of the backup is touched. One that is gone is fine. */
async function foreignSnapshot(context: Context, manifest: PostgresManifest): Promise<string | null> {
  for (const place of placesOf(manifest)) {
    const found = await describeSnapshot(context, place);
    const why = found === undefined ? null : whyNotOurs(found.tags, { environment: manifest.environment, datastore: manifest.datastore, backup: manifest.id });
    if (why !== null) return `snapshot ${place.identifier} in ${place.region} is not ours: ${why}`;
  }
  return null;
}

/** @throws when one cannot be deleted now: the next run finds the manifest without a COMMIT and goes on. */
async function deleteSnapshots(context: Context, manifest: PostgresManifest): Promise<void> {
  for (const place of placesOf(manifest)) {
    const left = await deleteOurs(context, manifest.datastore, { ...place, backup: manifest.id, environment: manifest.environment });
    if (left !== undefined) throw new HoldfastError('snapshot-left', left, { retryable: true, next: 'the next retention run deletes it; if it stays, delete it yourself' });
  }
}

/** What carries our tags and was never committed (late ones, those of killed runs), older than any backup can still be running. */
async function reapSnapshots(context: Context, datastore: string, known: ReadonlySet<string>, nowMs: number, signal: AbortSignal | undefined): Promise<number> {
  if (postgresOf(context.config, datastore).managed?.snapshots === undefined) return 0;
  let removed = 0;
  const { snapshots } = managedOf(context, datastore);
  const ageMs = orphanAgeMs(postgresOf(context.config, datastore).backup.timeout) + snapshots.completeWithin + snapshots.copyWithin;
  for (const orphan of await orphanSnapshots(context, datastore, known, ageMs, nowMs)) {
    signal?.throwIfAborted();
    const left = await deleteOurs(context, datastore, { region: orphan.region, identifier: orphan.identifier, backup: orphan.tags[TAG_BACKUP]!, environment: context.config.environment });
    if (left === undefined) removed += 1;
    else context.log.warn({ snapshot: orphan.identifier, region: orphan.region, left }, 'a managed snapshot that was never committed could not be removed');
  }
  return removed;
}
