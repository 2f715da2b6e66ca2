import type { Command } from 'commander';
import type { ExecutionResult } from '../../../workflows/failover.ts';
import { WORKFLOW_IDS } from '../../model/api.ts';
import { HoldfastError } from '../../model/errors.ts';
import { execute, timeId } from '../execute.ts';
import { showExecution } from '../execution-result.ts';
import type { Io } from '../io.ts';
import { collectParameters, jsonParameters, overridesOf, type ParameterOption } from '../parameters.ts';
import { showDryRun } from '../plan-text.ts';

interface Options extends ParameterOption {
  readonly service?: string;
  readonly mode: string;
  readonly reason: string;
  readonly dryRun?: boolean;
  readonly wait: boolean;
  readonly override: readonly string[];
}

export function define(command: Command, io: Io): void {
  command
    .description("Execute a runbook by its name. For a service's failover use `holdfast failover`, which lets only one run at a time.")
    .argument('<runbook>', 'file name in the runbook folder, without .yaml')
    .requiredOption('--reason <text>', 'why; kept in the audit')
    .option('--service <name>', 'the service it is for')
    .option('--mode <mode>', 'planned or forced', 'planned')
    .option('-p, --parameter <name=value>', 'a parameter; may be given several times; the value is JSON or text', collectParameters, [])
    .option('--dry-run', 'evaluate every guard against live state, then end; nothing is changed')
    .option('--override <rule=reason>', 'a rule that is broken on purpose, with its reason; may be given several times', collectParameters, [])
    .option('--no-wait', 'start it and return')
    .action(async (runbook: string, options: Options) => {
      if (options.mode !== 'planned' && options.mode !== 'forced') throw new HoldfastError('usage', `--mode "${options.mode}" is not known`, { next: 'use planned or forced' });
      const workflowId = WORKFLOW_IDS.runbook(runbook, timeId(new Date()));
      const input = {
        runbook,
        ...(options.service === undefined ? {} : { service: options.service }),
        mode: options.mode,
        parameters: jsonParameters(options.parameter),
        reason: options.reason,
        requestedBy: io.by,
        dryRun: options.dryRun === true,
        overrides: overridesOf(options.override),
      };
      const result = await execute<ExecutionResult>(io, { type: 'runbook', workflowId, input }, { wait: options.wait });
      if (result === undefined) return;
      if (options.dryRun === true) await showDryRun(io, workflowId, result);
      else showExecution(io, workflowId, result);
    });
}
