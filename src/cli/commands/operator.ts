import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import type { OperatorAction, OperatorRequest, Progress } from '../../model/execution.ts';
import type { CommandModule } from '../commands.ts';
import type { Io } from '../io.ts';
import { workflowIdOf } from '../workflow-id.ts';

const DESCRIPTIONS: Readonly<Record<OperatorAction, string>> = {
  approve: 'Approve what waits for approval. Whoever requested it cannot approve it; two approvals need two people.',
  reject: 'Reject what waits for approval: the execution ends as denied and nothing was changed.',
  retry: 'Try a parked step again. It is inspected first, so what already happened is not done twice.',
  skip: 'Go on without a parked step. Only steps that the catalogue marks as skippable.',
  markDone: 'Say that a parked step was done by hand. Needs evidence: what shows that it is done.',
  pause: 'Hold before the next step. Refused while writes are refused: abort instead.',
  resume: 'Go on after a pause.',
  abort: 'Stop and undo. Refused after the point of no return: then repair forward or run the failback runbook.',
};

const ABOUT_A_STEP: readonly OperatorAction[] = ['retry', 'skip', 'markDone'];

interface Options {
  readonly reason: string;
  readonly step?: string;
  readonly attempt?: string;
  readonly evidence?: string;
}

/** One command for one Update: who, why, and for a parked step which attempt. */
export function operatorCommand(action: OperatorAction): CommandModule {
  return {
    define(command: Command, io: Io): void {
      command
        .description(DESCRIPTIONS[action])
        .argument('<execution>', 'workflow id such as failover/orders, or the name of a service')
        .requiredOption('--reason <text>', 'why; kept in the audit');
      if (ABOUT_A_STEP.includes(action)) {
        command
          .option('--step <id>', 'the parked step (default: the one that is parked)')
          .option('--attempt <number>', 'the attempt you looked at; another one is refused (default: the current one)');
      }
      if (action === 'markDone') command.requiredOption('--evidence <text>', 'what shows that it is done: a ticket, a query and its answer');
      command.action(async (execution: string, options: Options) => {
        const { queryProgress, sendOperatorAction } = await import('../../engine/executions.ts');
        const client = await io.temporal();
        const workflowId = workflowIdOf(execution);
        let request: OperatorRequest = { by: io.by, reason: options.reason, ...(options.evidence === undefined ? {} : { evidence: options.evidence }) };
        if (ABOUT_A_STEP.includes(action)) request = { ...request, ...parkedStep(options, await queryProgress(client, workflowId)) };
        await sendOperatorAction(client, workflowId, action, request);
        const about = request.step === undefined ? '' : ` step ${request.step} (attempt ${request.attempt})`;
        io.result({ workflowId, action, ...request }, () => `${workflowId}: ${action}${about} accepted, by ${request.by}`);
      });
    },
  };
}

function parkedStep(options: Options, progress: Progress): { step: string; attempt: number } {
  const steps = progress.state?.steps ?? [];
  const parked = steps.filter((step) => step.status === 'parked');
  const step = options.step === undefined ? parked[0] : steps.find((candidate) => candidate.id === options.step);
  if (step === undefined) {
    if (options.step !== undefined) throw new HoldfastError('unknown-step', `there is no step "${options.step}"`, { next: `use one of: ${steps.map(({ id }) => id).join(', ')}` });
    throw new HoldfastError('operator-refused', 'refused: no step is parked', { next: 'see what it does: holdfast status' });
  }
  const attempt = options.attempt === undefined ? step.attempt : Number(options.attempt);
  if (!Number.isInteger(attempt)) throw new HoldfastError('usage', `--attempt "${options.attempt}" is no number`);
  return { step: step.id, attempt };
}
