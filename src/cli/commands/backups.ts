import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import { isBackedUp } from '../../model/config-schema.ts';
import type { BackupSummary } from '../../model/manifest.ts';
import { formatBytes } from '../../model/units.ts';
import { findBackup, listBackups, removeMark, storeNameOf, writeMark } from '../../systems/backup-catalogue.ts';
import { backedUpOf } from '../../systems/context.ts';
import { openStore } from '../../systems/store.ts';
import { formatTable, type Io } from '../io.ts';

export const summary = 'list the committed backups of a datastore';

export function define(command: Command, io: Io): void {
  command
    .argument('[datastore]', 'default: all of them')
    .option('--pin <id>', 'keep this backup whatever the retention policy says')
    .option('--unpin <id>', 'give it back to the policy')
    .option('--reason <text>', 'why it is pinned')
    .action(async (datastore: string | undefined, options: { pin?: string; unpin?: string; reason?: string }) => {
      const context = await io.context();
      if (datastore !== undefined) backedUpOf(context.config, datastore);
      if (options.pin !== undefined) {
        if (options.reason === undefined) throw new HoldfastError('usage', '--pin needs --reason: a pin without a reason is never taken away again', { next: 'add --reason "..."' });
        const { store, summary } = await findBackup(context, options.pin, datastore);
        await writeMark(store, summary.location, { mark: 'pinned', at: new Date().toISOString(), by: io.by, reason: options.reason });
        io.note(`${summary.id} is pinned`);
      }
      if (options.unpin !== undefined) {
        const { store, summary } = await findBackup(context, options.unpin, datastore);
        await removeMark(store, summary.location, 'pinned');
        io.note(`${summary.id} is no longer pinned`);
      }
      const found: BackupSummary[] = [];
      for (const name of datastore === undefined ? Object.keys(context.config.datastores).filter((one) => isBackedUp(context.config.datastores[one]!)) : [datastore]) {
        const store = await openStore(context, storeNameOf(context, name));
        found.push(...(await listBackups(store, store.prefix, name, { onDamaged: (location, why) => io.note(`NOT A BACKUP ${location}: ${why}`) })));
      }
      found.sort((a, b) => b.snapshotAtMs - a.snapshotAtMs);
      io.result(found.map(jsonOf), () =>
        found.length === 0
          ? `there is no committed backup${datastore === undefined ? '' : ` of ${datastore}`}; make one: holdfast backup ${datastore ?? 'DATASTORE'}`
          : formatTable(
              ['id', 'datastore', 'snapshot', 'plain', 'stored', 'proof', 'reason', 'notes'],
              found.map((backup) => [
                backup.id, backup.datastore, new Date(backup.snapshotAtMs).toISOString().slice(0, 19).replace('T', ' '),
                ...(backup.kind === undefined ? [formatBytes(backup.plainBytes), formatBytes(backup.storedBytes)] : ['-', '-']), backup.proof, backup.reason, notesOf(backup),
              ]),
            ),
      );
    });
}

function notesOf(backup: BackupSummary): string {
  return [
    backup.kind === undefined ? '' : 'managed snapshot',
    backup.complete ? '' : 'partial',
    backup.pinned ? 'pinned' : '',
    backup.inUse ? 'in use' : '',
    backup.lockedUntilMs === undefined ? '' : Number.isFinite(backup.lockedUntilMs) ? `locked until ${new Date(backup.lockedUntilMs).toISOString().slice(0, 10)}` : 'legal hold',
    backup.degraded === undefined ? '' : 'degraded',
  ].filter((note) => note !== '').join(', ');
}

function jsonOf(backup: BackupSummary): Record<string, unknown> {
  const { snapshotAtMs, committedAtMs, provedAtMs, lockedUntilMs, ...rest } = backup;
  const iso = (ms: number | undefined): string | null => (ms === undefined ? null : Number.isFinite(ms) ? new Date(ms).toISOString() : 'legal-hold');
  return { ...rest, degraded: backup.degraded ?? null, snapshotAt: iso(snapshotAtMs), committedAt: iso(committedAtMs), provedAt: iso(provedAtMs), lockedUntil: iso(lockedUntilMs) };
}
