import type { Command } from 'commander';
import type { RehearsalState } from '../../model/rehearsal.ts';
import { EXIT, formatTable, type Io } from '../io.ts';

export function define(command: Command, io: Io): void {
  command
    .description(
      'The calendar of rehearsals: when each was last held, when it is due, and which are overdue. A run counts when it succeeded, met its objectives, has evidence, and no step of it was skipped or declared by a person. ' +
        'Looks in the histories that Temporal still has and in the evidence of this host. Exit code: 0 all held or due, 6 one is overdue or was never held.',
    )
    .argument('[service...]', 'default: every service that has rehearsals')
    .action(async (given: string[]) => {
      const context = await io.context();
      const { serviceOf } = await import('../../systems/context.ts');
      const { rehearsalStates } = await import('../../../activities/rehearsals.ts');
      for (const service of given) serviceOf(context.config, service);
      const services = given.length > 0 ? [...new Set(given)] : Object.keys(context.config.services);
      const client = await io.temporal();
      const nowMs = Date.now();
      const states = (await Promise.all(services.map((service) => rehearsalStates(context, client, service, nowMs)))).flat();
      io.result(states, () => formatRehearsals(states));
      io.exit(states.some(({ state }) => state === 'overdue' || state === 'never') ? EXIT.degraded : EXIT.ok);
    });
}

const SHOWN: Readonly<Record<RehearsalState['state'], string>> = { held: 'held', due: 'DUE', overdue: 'OVERDUE', never: 'NEVER HELD' };

function formatRehearsals(states: readonly RehearsalState[]): string {
  if (states.length === 0) return 'no rehearsals are configured; add them at services.<name>.rehearsals';
  const lines = [
    formatTable(
      ['service', 'rehearsal', 'every', 'what', 'last success', 'due', 'next', 'state'],
      states.map((item) => [item.service, item.name, item.scheduled ? item.every : `${item.every}, by people`, item.what, item.last?.finishedAt ?? 'never', item.dueAt ?? '-', item.nextAt ?? '-', SHOWN[item.state]]),
    ),
  ];
  for (const { service, name, last, notCounted } of states) {
    if (last !== null) lines.push('', `${service}/${name}: ${last.workflowId}, evidence ${last.evidence}`);
    if (notCounted !== null) lines.push('', `${service}/${name}: ${notCounted.workflowId} of ${notCounted.finishedAt} does not count: ${notCounted.why}`);
  }
  return lines.join('\n');
}
