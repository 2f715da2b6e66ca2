import type { Command } from 'commander';
import { formatTable, type Io } from '../io.ts';

const SIGNS = { create: '+', update: '~', pause: '-', unpause: '+', keep: ' ' } as const;

export function define(command: Command, io: Io): void {
  command
    .command('sync')
    .description(
      'Make the schedules on the server what the configuration says: create, update, pause what left the configuration. Nothing is deleted, and ' +
        'only schedules that Holdfast made for this environment are touched. One that was paused by hand stays paused.',
    )
    .option('--dry-run', 'show what would be done and do nothing')
    .action(async (options: { dryRun?: boolean }) => {
      const dryRun = options.dryRun === true;
      const { config } = await io.context();
      const { syncSchedules } = await import('../../engine/schedules.ts');
      const changes = await syncSchedules(await io.temporal(), config, { dryRun });
      io.result({ dryRun, changes }, () => {
        const lines = changes.flatMap((change) => [`${SIGNS[change.action]} ${change.action.padEnd(7)} ${change.scheduleId}`, ...change.details.map((detail) => `            ${detail}`)]);
        const changed = changes.filter(({ action }) => action !== 'keep').length;
        lines.push(changed === 0 ? 'nothing to change' : `${changed} ${dryRun ? 'would be changed' : 'changed'}, ${changes.length - changed} as they should be`);
        return lines.join('\n');
      });
    });

  command
    .command('list')
    .description('The schedules on the server: when, next run, last run, what was skipped or missed.')
    .action(async () => {
      const { config } = await io.context();
      const { listSchedules } = await import('../../engine/schedules.ts');
      const schedules = await listSchedules(await io.temporal(), config);
      io.result(schedules, () =>
        schedules.length === 0
          ? 'no schedules yet; make them: holdfast schedules sync'
          : formatTable(
              ['name', 'runs', 'when', 'timezone', 'overlap', 'next', 'last', 'taken', 'skipped', 'missed', 'state'],
              schedules.map((schedule) => [
                schedule.name,
                schedule.workflow,
                schedule.when,
                schedule.timezone,
                schedule.overlap,
                schedule.next ?? '-',
                schedule.last?.at ?? '-',
                String(schedule.taken),
                String(schedule.skippedByOverlap),
                String(schedule.missed),
                schedule.paused ? `paused (${schedule.note})` : schedule.inConfiguration ? 'active' : 'active, NOT in the configuration: run schedules sync',
              ]),
            ),
      );
    });

  command
    .command('trigger')
    .description("Run a schedule now, under its own overlap policy. (Temporal's own trigger uses ALLOW_ALL and can run two at once.)")
    .argument('<name>', 'as in holdfast.yaml')
    .action(async (name: string) => {
      const { config } = await io.context();
      const { triggerSchedule } = await import('../../engine/schedules.ts');
      const triggered = await triggerSchedule(await io.temporal(), config, name);
      io.result(triggered, () => `${triggered.scheduleId} triggered (overlap ${triggered.overlap})`);
    });
}
