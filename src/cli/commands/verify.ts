import type { Command } from 'commander';
import { formatBytes, formatDuration } from '../../model/units.ts';
import { findBackup, readManifest } from '../../systems/backup-catalogue.ts';
import { engineOfBackup } from '../../systems/engines.ts';
import type { Io } from '../io.ts';

export const summary = 'read a backup back in full and check every checksum';

const NOTE_EVERY_MS = 2000;

export function define(command: Command, io: Io): void {
  command
    .description(`${summary}; reads every object to its end, without a database. Only a drill proves that it restores.`)
    .argument('<id>', 'a backup id, or newest')
    .option('--datastore <name>', 'where the id is looked for; default: everywhere')
    .action(async (id: string, options: { datastore?: string }) => {
      const context = await io.context();
      const { store, storeName, summary } = await findBackup(context, id, options.datastore, { signal: io.interrupted });
      const manifest = await readManifest(store, summary.location);
      const started = performance.now();
      let noted = started;
      const engine = await engineOfBackup(context, manifest);
      const { how, ...read } = await engine.readBack(context, { storeName, location: summary.location, manifest }, {
        signal: io.interrupted,
        onProgress(object, plainBytes, ofBytes) {
          const now = performance.now();
          if (now - noted < NOTE_EVERY_MS) return;
          noted = now;
          io.note(`${object}: ${formatBytes(plainBytes)} of ${formatBytes(ofBytes)}`);
        },
      });
      const ms = performance.now() - started;
      io.result({ id: summary.id, datastore: summary.datastore, location: summary.location, ok: true, ...read, durationMs: Math.round(ms) }, () =>
        [
          `backup ${summary.id} of ${summary.datastore} was read back whole: ${read.objects} objects, ${formatBytes(read.storedBytes)} stored, ${formatBytes(read.plainBytes)} plain, in ${formatDuration(ms)}`,
          `every checksum is as committed, and ${how}`,
        ].join('\n'),
      );
    });
}
