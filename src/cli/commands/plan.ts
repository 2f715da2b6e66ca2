import type { Command } from 'commander';
import type { PlanRequest } from '../../../activities/plan.ts';
import { HoldfastError } from '../../model/errors.ts';
import type { Mode } from '../../model/runbook-schema.ts';
import type { Context } from '../../systems/context.ts';
import type { Io } from '../io.ts';
import { collectParameters, jsonParameters, type ParameterOption } from '../parameters.ts';
import { showPlan } from '../plan-text.ts';

interface Options extends ParameterOption {
  readonly mode?: string;
  readonly purpose: string;
  readonly service?: string;
  readonly export?: string;
  readonly primary?: string;
  readonly candidate?: string;
}

export function define(command: Command, io: Io): void {
  command
    .description(
      'What a failover of this service, or any other runbook, would do: every step, every guard asked of the live systems, and what cannot be known in advance. Nothing is changed. ' +
        'Asked from this host: it needs neither Temporal nor a worker, only the configuration, its secrets and a way to the databases.',
    )
    .argument('<service|runbook>')
    .option('--mode <mode>', 'planned or forced (default: planned; --export to a folder: both)')
    .option('--purpose <name>', "which of the service's runbooks", 'failover')
    .option('--service <name>', 'of a runbook: the service it is for')
    .option('-p, --parameter <name=value>', "a parameter of the runbook, before the service's own", collectParameters, [])
    .option('--export <folder|file.md>', 'write the break-glass checklist: every step as exact commands for psql, aws and ssh, for when Temporal is down')
    .option('--primary <node>', 'of --export: the present primary, when no server and no secret can be asked')
    .option('--candidate <node>', 'of --export: the node to promote, likewise')
    .action(async (subject: string, options: Options) => {
      const modes = modesOf(options);
      const context = await io.context();
      const request = await requestOf(context, subject, options);
      const { resolvePlan } = await import('../../../activities/plan.ts');
      if (options.export !== undefined) {
        const { exportBreakGlass } = await import('../break-glass-files.ts');
        await exportBreakGlass(io, context, { subject, target: options.export, modes, primary: options.primary, candidate: options.candidate, plan: (mode) => resolvePlan(context, { ...request, mode }) });
        return;
      }
      const plan = await resolvePlan(context, { ...request, mode: modes[0]! });
      const [{ dryRun }, { earlierTimes }, { planView }] = await Promise.all([import('../../engine/dry-run.ts'), import('../../systems/evidence-times.ts'), import('../../model/plan-view.ts')]);
      const [looks, times] = await Promise.all([dryRun(context, plan, { requestedBy: io.by, nowMs: Date.now, signal: io.interrupted }), earlierTimes(context, plan)]);
      showPlan(io, planView(plan, looks, times), { from: 'this host', workflowId: null });
    });
}

function modesOf({ mode, export: target }: Options): readonly Mode[] {
  if (mode === undefined) return target === undefined || target.endsWith('.md') ? ['planned'] : ['planned', 'forced'];
  if (mode !== 'planned' && mode !== 'forced') throw new HoldfastError('usage', `--mode "${mode}" is not known`, { next: 'use planned or forced' });
  return [mode];
}

/** A service's name means its failover; anything else is a runbook. */
async function requestOf(context: Context, subject: string, options: Options): Promise<Omit<PlanRequest, 'mode'>> {
  const parameters = jsonParameters(options.parameter);
  const services = Object.keys(context.config.services);
  if (services.includes(subject)) return { type: 'failover', service: subject, purpose: options.purpose, runbook: null, parameters };
  const { readRunbooks } = await import('../../systems/runbook-file.ts');
  const runbooks = (await readRunbooks(context.runbookDirectory)).files.map((file) => file.name);
  if (!runbooks.includes(subject)) {
    throw new HoldfastError('unknown-subject', `there is no service and no runbook named "${subject}"`, { next: `services: ${services.join(', ') || 'none'}; runbooks: ${runbooks.join(', ') || 'none'}` });
  }
  return { type: 'runbook', service: options.service ?? null, purpose: null, runbook: subject, parameters };
}
