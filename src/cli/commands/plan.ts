import type { Command } from 'commander';
import type { ExecutionResult } from '../../../workflows/failover.ts';
import { HoldfastError } from '../../model/errors.ts';
import { execute, timeId } from '../execute.ts';
import { showExecution } from '../execution-result.ts';
import type { Io } from '../io.ts';
import { collectParameters, jsonParameters, type ParameterOption } from '../parameters.ts';

interface Options extends ParameterOption {
  readonly mode: string;
  readonly purpose: string;
}

export function define(command: Command, io: Io): void {
  command
    .description('What a failover of this service would do: every step, and every guard evaluated against live state. Nothing is changed, and a running failover is not disturbed.')
    .argument('<service>')
    .option('--mode <mode>', 'planned or forced', 'planned')
    .option('--purpose <name>', "which of the service's runbooks", 'failover')
    .option('-p, --parameter <name=value>', "a parameter of the runbook, before the service's own", collectParameters, [])
    .action(async (service: string, options: Options) => {
      if (options.mode !== 'planned' && options.mode !== 'forced') throw new HoldfastError('usage', `--mode "${options.mode}" is not known`, { next: 'use planned or forced' });
      const { config } = await io.context();
      const { serviceOf } = await import('../../systems/context.ts');
      serviceOf(config, service);
      const workflowId = `plan/${service}/${timeId(new Date())}`;
      const input = {
        service,
        mode: options.mode,
        reason: 'plan: what would it do',
        requestedBy: io.by,
        purpose: options.purpose,
        parameters: jsonParameters(options.parameter),
        dryRun: true,
      };
      const result = await execute<ExecutionResult>(io, { type: 'failover', workflowId, input }, { wait: true });
      if (result === undefined) return;
      showExecution(io, workflowId, result);
    });
}
