import type { Command } from 'commander';
import type { ExecutionResult } from '../../../workflows/failover.ts';
import { WORKFLOW_IDS } from '../../model/api.ts';
import { HoldfastError } from '../../model/errors.ts';
import { execute } from '../execute.ts';
import { showExecution } from '../execution-result.ts';
import type { Io } from '../io.ts';
import { collectParameters, jsonParameters, overridesOf, type ParameterOption } from '../parameters.ts';
import { showDryRun } from '../plan-text.ts';

interface Options extends ParameterOption {
  readonly mode: string;
  readonly reason: string;
  readonly purpose: string;
  readonly dryRun?: boolean;
  readonly wait: boolean;
  readonly override: readonly string[];
}

export function define(command: Command, io: Io): void {
  command
    .description(
      "Execute the service's failover runbook. planned: the old primary is alive and hands over, no acknowledged write is lost. forced: it is dead or " +
        'unreachable and is fenced from outside. A second failover of the same service is refused while one runs.',
    )
    .argument('<service>')
    .requiredOption('--mode <mode>', 'planned or forced')
    .requiredOption('--reason <text>', 'why; kept in the audit and in the evidence')
    .option('--purpose <name>', "which of the service's runbooks", 'failover')
    .option('-p, --parameter <name=value>', "a parameter of the runbook, before the service's own; may be given several times", collectParameters, [])
    .option('--dry-run', 'evaluate every guard against live state, then end; nothing is changed')
    .option('--override <rule=reason>', 'a rule that is broken on purpose, with its reason; may be given several times', collectParameters, [])
    .option('--no-wait', 'start it and return')
    .action(async (service: string, options: Options) => {
      if (options.mode !== 'planned' && options.mode !== 'forced') throw new HoldfastError('usage', `--mode "${options.mode}" is not known`, { next: 'use planned or forced' });
      const { config } = await io.context();
      const { serviceOf } = await import('../../systems/context.ts');
      serviceOf(config, service);
      const workflowId = WORKFLOW_IDS.failover(service);
      const input = {
        service,
        mode: options.mode,
        reason: options.reason,
        requestedBy: io.by,
        purpose: options.purpose,
        parameters: jsonParameters(options.parameter),
        dryRun: options.dryRun === true,
        overrides: overridesOf(options.override),
      };
      const result = await execute<ExecutionResult>(io, { type: 'failover', workflowId, input }, { wait: options.wait });
      if (result === undefined) return;
      if (options.dryRun === true) await showDryRun(io, workflowId, result);
      else showExecution(io, workflowId, result);
    });
}
