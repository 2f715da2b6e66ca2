import { z } from 'zod';
import { HoldfastError } from './errors.ts';
import { time } from './manifest-parts.ts';
import { dynamodbManifestSchema } from './manifest-dynamodb.ts';
import { mongodbManifestSchema } from './manifest-mongodb.ts';
import { postgresManifestSchema, type PostgresManifest } from './manifest-postgres.ts';

/** Every engine that has backups is one entry here; src/systems/engines.ts has the other. */
export const manifestSchema = z.discriminatedUnion('engine', [postgresManifestSchema, mongodbManifestSchema, dynamodbManifestSchema]);
export type Manifest = z.infer<typeof manifestSchema>;
export type BackupEngineName = Manifest['engine'];

/** It lies outside the store (a managed snapshot): a manifest with a part `managed` has no objects. */
export function isManaged(manifest: Manifest): boolean {
  return 'managed' in manifest && manifest.managed !== undefined;
}

/** Managed snapshots are of PostgreSQL alone. @throws HoldfastError when it is another engine's. */
export function postgresManifestOf(manifest: Manifest): PostgresManifest {
  if (manifest.engine === 'postgres') return manifest;
  throw new HoldfastError('wrong-engine', `backup ${manifest.id} is of engine ${manifest.engine}, expected postgres`, { next: 'correct the engine of the datastore' });
}

/** How much it holds, in the engine's own words. */
export interface BackupContent {
  readonly tables: number;
  readonly rows: string;
  /** Left out: tables and rows. */
  readonly words?: ContentWords;
}
export interface ContentWords {
  readonly tables: string;
  readonly rows: string;
}

export function contentOf(manifest: Manifest): BackupContent {
  switch (manifest.engine) {
    case 'mongodb': {
      const { collections } = manifest.fingerprint;
      return { tables: collections.length, rows: String(collections.reduce((sum, { documents }) => sum + BigInt(documents), 0n)), words: { tables: 'collections', rows: 'documents' } };
    }
    case 'postgres':
      return { tables: manifest.fingerprint.tables.length, rows: String(manifest.fingerprint.tables.reduce((sum, table) => sum + BigInt(table.rows), 0n)) };
    case 'dynamodb':
      // Of an on-demand backup nobody but the service knows what is in it.
      return { tables: manifest.tables.length, rows: String(manifest.fingerprint.tables.reduce((sum, table) => sum + table.items, 0)), words: { tables: 'tables', rows: manifest.managed === undefined ? 'items' : 'items counted' } };
  }
}

/** `COMMIT`, written last with If-None-Match: *. It names the manifest it commits. */
export const commitSchema = z.strictObject({
  format: z.literal(1),
  id: z.string(),
  manifestSha256: z.string(),
  committedAt: time,
});

/** `MARK-<name>.json` beside a committed backup: later findings; the backup itself is never overwritten. */
export const markSchema = z.strictObject({
  mark: z.enum(['verified', 'bad', 'pinned', 'in-use']),
  at: time,
  by: z.string(),
  reason: z.string(),
});
export type Mark = z.infer<typeof markSchema>;

/** What lists, retention and drills know of one committed backup. */
export interface BackupSummary {
  readonly id: string;
  readonly datastore: string;
  /** Folder in the store, ends with `/`. */
  readonly location: string;
  readonly snapshotAtMs: number;
  readonly committedAtMs: number;
  readonly storedBytes: number;
  readonly plainBytes: number;
  readonly reason: string;
  readonly degraded: string | undefined;
  readonly complete: boolean;
  /** The run that made it. */
  readonly workflowId?: string;
  /** Left out: a dump. */
  readonly kind?: 'managed-snapshot';
  /** `verified` and `bad` by the newest drill; `unproved` before any. */
  readonly proof: 'verified' | 'bad' | 'unproved';
  readonly provedAtMs: number | undefined;
  readonly pinned: boolean;
  readonly inUse: boolean;
  /** Object lock holds it until then, undefined when not locked. */
  readonly lockedUntilMs: number | undefined;
}

/** `YYYY/MM/DD/HHMMSSZ-<id>/` of a backup that began at `startedAtMs` (UTC). */
export function backupFolder(prefix: string, datastore: string, startedAtMs: number, id: string): string {
  const iso = new Date(startedAtMs).toISOString();
  const day = iso.slice(0, 10).replaceAll('-', '/');
  const time = iso.slice(11, 19).replaceAll(':', '');
  return `${joinPrefix(prefix)}${datastore}/${day}/${time}Z-${id}/`;
}

export function joinPrefix(prefix: string): string {
  const trimmed = prefix.replace(/^\/+|\/+$/g, '');
  return trimmed === '' ? '' : `${trimmed}/`;
}
