import type { Command } from 'commander';
import type { ReadinessResult } from '../../../workflows/readiness.ts';
import { WORKFLOW_IDS } from '../../model/api.ts';
import { execute } from '../execute.ts';
import { showReadiness } from '../execution-result.ts';
import type { Io } from '../io.ts';

export function define(command: Command, io: Io): void {
  command
    .description('Evaluate every guard of every runbook of a service, read-only: could it be recovered right now, and if not, what to do.')
    .argument('<service>')
    .option('--no-wait', 'start it and return')
    .action(async (service: string, options: { wait: boolean }) => {
      const { config } = await io.context();
      const { serviceOf } = await import('../../systems/context.ts');
      serviceOf(config, service);
      const workflowId = WORKFLOW_IDS.readiness(service);
      const result = await execute<ReadinessResult>(io, { type: 'readiness', workflowId, input: { service } }, options);
      if (result !== undefined) showReadiness(io, result);
    });
}
