import type { PostgresManifest } from '../model/manifest-postgres.ts';
import type { BackupEngine } from './backup-engine.ts';
import { postgresOf } from './context.ts';
import { managedOutside } from './managed-retention.ts';
import { endSessions, runBackup } from './postgres-backup.ts';
import { postgresDrill } from './postgres-drill.ts';
import { readBack } from './postgres-restore.ts';

export const postgresEngine: BackupEngine<PostgresManifest> = {
  name: 'postgres',
  resumable: false,
  backUp: runBackup,
  endSessions,
  async readBack(context, backup, options) {
    const read = await readBack(context, { ...backup, binDirectory: postgresOf(context.config, backup.manifest.datastore).binDirectory, ...options });
    return { ...read, how: 'pg_restore read the archive to its end' };
  },
  drill: postgresDrill,
  outside: managedOutside,
};
