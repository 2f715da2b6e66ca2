import type { Command } from 'commander';
import { describeCompliance, type Compliance } from '../../model/compliance.ts';
import { HoldfastError } from '../../model/errors.ts';
import { parseDurationMs } from '../../model/units.ts';
import { EXIT, formatTable, type Io } from '../io.ts';

const ANSWER_MS = 5000;

export function define(command: Command, io: Io): void {
  command
    .description(
      'Of the backups that the schedules required in a period, how many succeeded: successful / required, from the records and backups in the store. Degraded ones are shown as degraded; what cannot be known counts as not successful. ' +
        'Exit code: 0 every target is met, 1 one is missed.',
    )
    .argument('[datastore]', 'default: every datastore that a schedule backs up')
    .option('--period <duration>', 'counted back from now, e.g. 30d; default: what the service says, else 30d')
    .option('--all', 'list every required backup, not only those that were missed or degraded')
    .action(async (only: string | undefined, options: { period?: string; all?: boolean }) => {
      const periodMs = options.period === undefined ? undefined : parseDurationMs(options.period);
      if (options.period !== undefined && (periodMs === undefined || periodMs < 1)) throw new HoldfastError('usage', `"${options.period}" is no period`, { next: 'give a duration such as 24h, 7d or 30d' });
      const context = await io.context();
      const { config } = context;
      const { backedUpOf } = await import('../../systems/context.ts');
      const { measureCompliance } = await import('../../systems/backup-records.ts');
      const scheduled = [...new Set(Object.values(config.schedules).flatMap((schedule) => (schedule.run === 'backup' ? [schedule.datastore] : [])))];
      const datastores = only === undefined ? scheduled : [only];
      for (const name of datastores) backedUpOf(config, name);
      if (datastores.length === 0) throw new HoldfastError('usage', 'no schedule backs up anything, so nothing is required', { next: 'add a schedule with run: backup, or name a datastore' });
      const client = await temporalOrNull(io);
      if (client === null) io.note('Temporal does not answer: since when a schedule exists is not known');
      const nowMs = Date.now();
      const found: Compliance[] = [];
      for (const name of datastores) found.push(await measureCompliance(context, client, name, { nowMs, signal: io.interrupted, ...(periodMs === undefined ? {} : { periodMs }) }));
      io.result(found, () => found.map((one) => formatCompliance(one, options.all === true)).join('\n\n'));
      if (found.some((one) => one.meets === false)) io.exit(EXIT.failed);
    });
}

/** The figure comes from the store; Temporal only adds since when a schedule exists. */
async function temporalOrNull(io: Io): Promise<Awaited<ReturnType<Io['temporal']>> | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), ANSWER_MS);
  });
  const asked = io.temporal().catch(() => null);
  return Promise.race([asked, late]).finally(() => clearTimeout(timer));
}

function formatCompliance(found: Compliance, all: boolean): string {
  const shown = found.occurrences.filter((one) => all || one.state === 'missed' || one.state === 'degraded' || one.state === 'unknown');
  const rows = shown.slice(-200);
  return [
    describeCompliance(found),
    `  target by ${found.targetBy}${found.additional === 0 ? '' : `; ${found.additional} more runs committed a backup that no schedule required`}`,
    ...found.notes.map((note) => `  ${note}`),
    ...(rows.length === 0 ? [] : ['', formatTable(['due', 'came to', 'backup', 'why'], rows.map((one) => [one.at.slice(0, 19).replace('T', ' '), one.state, one.backup ?? '', one.why ?? '']))]),
    ...(shown.length > rows.length ? [`  ${shown.length - rows.length} older ones are not listed; see --json`] : []),
  ].join('\n');
}
