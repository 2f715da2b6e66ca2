import type { Manifest } from '../model/manifest.ts';
import type { StoredBackup } from '../systems/backup-engine.ts';
import type { Context } from '../systems/context.ts';
import type { PostgresTarget } from '../systems/postgres.ts';
import type { Io } from './io.ts';

/** What `holdfast restore` may be told; which of it an engine takes it says itself. */
export interface RestoreFlags {
  readonly datastore?: string;
  readonly to?: string;
  readonly sql?: string;
  readonly passwordFrom?: string;
  readonly table: readonly { schema: string; name: string }[];
  readonly create?: boolean;
  readonly allowNonEmpty?: boolean;
  readonly ifEmpty?: boolean;
  readonly username?: string;
  readonly settings?: boolean;
  readonly roles: boolean;
  readonly owner: boolean;
  readonly sslmode: PostgresTarget['sslmode'];
  readonly sslrootcert?: string;
}

/** How `holdfast restore` restores backups of one engine. */
export interface Restorer<M extends Manifest = Manifest> {
  /** Of the flags; `to` and `datastore` are for all. */
  readonly takes: readonly (keyof RestoreFlags)[];
  restore(io: Io, context: Context, backup: StoredBackup<M>, flags: RestoreFlags): Promise<void>;
}

/** Progress is noted this often, in milliseconds. */
export const NOTE_EVERY_MS = 2000;
