import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import type { Io } from '../io.ts';

export function define(command: Command, io: Io): void {
  command
    .description('Say that the last failover of a service was looked at and understood: its cooldown then no longer refuses the next one. Kept with the lock, by whom and why.')
    .argument('<service>')
    .requiredOption('--reason <text>', 'what was found out')
    .action(async (service: string, options: { reason: string }) => {
      const { config } = await io.context();
      const { serviceOf } = await import('../../systems/context.ts');
      const { readLock, tellLock } = await import('../../systems/lock.ts');
      const { cooldownCheck } = await import('../../model/lock.ts');
      const client = await io.temporal();
      const acknowledged: string[] = [];
      for (const datastore of serviceOf(config, service).datastores) {
        const place = { client, environment: config.environment, datastore };
        const lock = await readLock(place);
        if (lock === null || cooldownCheck(lock, Date.now()).ok) continue;
        await tellLock(place, 'acknowledge', { by: io.by, reason: options.reason });
        acknowledged.push(datastore);
      }
      if (acknowledged.length === 0) throw new HoldfastError('lock-refused', `refused: no datastore of ${service} has a cooldown to acknowledge`, { next: 'see: holdfast locks' });
      io.result({ service, datastores: acknowledged, by: io.by, reason: options.reason }, () => `acknowledged by ${io.by}: ${acknowledged.join(', ')} may be failed over again`);
    });
}
