import type { Command } from 'commander';
import type { Io } from '../io.ts';

export function define(command: Command, io: Io): void {
  command
    .description(
      'Run what executes backups, drills and failovers, until SIGTERM or Ctrl-C. Running activities get time to end, then are cancelled and ' +
        'tried again by another worker; a second signal ends at once.',
    )
    .option('--grace <seconds>', 'time for running activities to end by themselves', '10')
    .action(async (options: { grace: string }) => {
      const context = await io.context();
      const graceSeconds = Number(options.grace);
      if (!Number.isFinite(graceSeconds) || graceSeconds < 0) command.error(`error: --grace "${options.grace}" is no number of seconds`);
      const { runWorker } = await import('../../engine/worker.ts');
      await runWorker(context, { shutdownGraceMs: graceSeconds * 1000 });
    });
}
