import type { Command } from 'commander';
import type { Io } from '../io.ts';

interface Options {
  readonly reason: string;
  readonly from?: string;
}

export function define(command: Command, io: Io): void {
  command
    .command('release')
    .description(
      'Free the lock of a datastore whose holder ended without releasing it (terminated, timed out). Look first at what it left: writes may be refused, a node may be promoted. ' +
        'While the holder runs, or may still act, this is refused unless it is named with --from; its next changing step is then refused.',
    )
    .argument('<datastore>')
    .requiredOption('--reason <text>', 'why it may be freed; kept with the lock and in its history')
    .option('--from <execution>', 'workflow id of the holder: take the lock from it although it may still act')
    .action(async (datastore: string, options: Options) => {
      const { config } = await io.context();
      const { datastoreOf } = await import('../../systems/context.ts');
      const { tellLock } = await import('../../systems/lock.ts');
      datastoreOf(config, datastore);
      const client = await io.temporal();
      const text = await tellLock({ client, environment: config.environment, datastore }, 'takeAway', { by: io.by, reason: options.reason, from: options.from ?? null });
      io.result({ datastore, by: io.by, reason: options.reason, released: true, text }, () => text);
    });
}
