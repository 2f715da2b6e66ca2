import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import type { OperatorAction, OperatorRequest, Progress } from '../../model/execution.ts';
import { RULE_NAMES, type RuleName } from '../../model/rules.ts';
import type { Json } from '../../model/runbook-schema.ts';
import { parseDurationMs } from '../../model/units.ts';
import type { CommandModule } from '../commands.ts';
import type { Io } from '../io.ts';
import { jsonOrText } from '../parameters.ts';
import { workflowIdOf } from '../workflow-id.ts';

const DESCRIPTIONS: Readonly<Record<OperatorAction, string>> = {
  approve: 'Approve what waits for approval. Whoever requested it cannot approve it; two approvals need two people.',
  reject: 'Reject what waits for approval: the execution ends as denied and nothing was changed.',
  retry: 'Try a parked step again. It is inspected first, so what already happened is not done twice.',
  skip: 'Go on without a parked step. Only steps that the catalogue marks as skippable.',
  markDone: 'Say that a parked step was done by hand. Needs evidence: what shows that it is done.',
  pause: 'Hold before the next step. Refused while writes are refused: abort instead.',
  resume: 'Go on after a pause.',
  switchToForced: 'Go on in forced mode: the primary was lost under a planned failover. Its guards, and the approvals of that mode, are asked for anew.',
  override: 'Break one named rule on purpose, for a step that waits because of it. There is no general force.',
  abort: 'Stop and undo. Refused after the point of no return: then repair forward or run the failback runbook.',
};

const ABOUT_A_STEP: readonly OperatorAction[] = ['retry', 'skip', 'markDone', 'override'];

interface Options {
  readonly reason: string;
  readonly step?: string;
  readonly attempt?: string;
  readonly evidence?: string;
  readonly fact?: readonly string[];
  readonly rule?: string;
  readonly acceptLoss?: string;
  readonly plan?: string;
  readonly observed?: string;
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
      if (action === 'markDone') {
        command
          .requiredOption('--evidence <text>', 'what shows that it is done: a ticket, a query and its answer')
          .option('--fact <name=json>', 'what the step would have found out, for the steps that work with it; may be repeated', (value: string, all: string[]) => [...all, value], []);
      }
      if (action === 'override') command.requiredOption('--rule <name>', `the rule to break: ${RULE_NAMES.join(', ')}`);
      if (action === 'approve') {
        command
          .option('--accept-loss <duration>', 'when the rule two-facts is broken: how much acknowledged work may be lost, e.g. 90s, or "unknown"')
          .option('--plan <hash>', 'the plan you looked at (default: the one that waits now)')
          .option('--observed <digest>', 'the state you looked at, as `status` shows it (default: that of now)');
      }
      command.action(async (execution: string, options: Options) => {
        const { queryProgress, sendOperatorAction } = await import('../../engine/executions.ts');
        const client = await io.temporal();
        const workflowId = workflowIdOf(execution);
        let request: OperatorRequest = { by: io.by, reason: options.reason, ...(options.evidence === undefined ? {} : { evidence: options.evidence }) };
        if (action === 'approve') request = { ...request, ...approvalOf(options, await queryProgress(client, workflowId)) };
        if (options.fact !== undefined && options.fact.length > 0) request = { ...request, facts: factsOf(options.fact) };
        if (options.rule !== undefined) request = { ...request, rule: options.rule as RuleName };
        if (ABOUT_A_STEP.includes(action)) request = { ...request, ...parkedStep(options, await queryProgress(client, workflowId)) };
        await sendOperatorAction(client, workflowId, action, request);
        const about = request.step === undefined ? '' : ` step ${request.step} (attempt ${request.attempt})`;
        io.result({ workflowId, action, ...request }, () => `${workflowId}: ${action}${about} accepted, by ${request.by}`);
      });
    },
  };
}

/** What the approval is bound to: what was looked at, else what waits now. */
function approvalOf(options: Options, progress: Progress): Pick<OperatorRequest, 'plan' | 'observed' | 'acceptLossMs'> {
  const waiting = progress.approval ?? null;
  const plan = options.plan ?? waiting?.plan;
  const observed = options.observed ?? waiting?.observed;
  const loss = options.acceptLoss === undefined ? undefined : options.acceptLoss === 'unknown' ? ('unknown' as const) : parseDurationMs(options.acceptLoss);
  if (options.acceptLoss !== undefined && loss === undefined) throw new HoldfastError('usage', `--accept-loss "${options.acceptLoss}" is neither a duration nor "unknown"`, { next: 'write 90s, 5m or unknown' });
  return { ...(plan === undefined ? {} : { plan }), ...(observed === undefined ? {} : { observed }), ...(loss === undefined ? {} : { acceptLossMs: loss }) };
}

function factsOf(given: readonly string[]): Readonly<Record<string, Json>> {
  return Object.fromEntries(
    given.map((text) => {
      const at = text.indexOf('=');
      if (at < 1) throw new HoldfastError('usage', `--fact "${text}" is no name=value`, { next: 'write --fact lsn=0/3000060, or JSON after the equals sign' });
      return [text.slice(0, at), jsonOrText(text.slice(at + 1)) as Json];
    }),
  );
}

function parkedStep(options: Options, progress: Progress): { step: string; attempt: number } {
  const steps = progress.state?.steps ?? [];
  const waiting = progress.parked?.[0]?.step;
  const step = steps.find((candidate) => candidate.id === (options.step ?? waiting));
  if (step === undefined) {
    if (options.step !== undefined) throw new HoldfastError('unknown-step', `there is no step "${options.step}"`, { next: `use one of: ${steps.map(({ id }) => id).join(', ')}` });
    throw new HoldfastError('operator-refused', 'refused: no step is parked', { next: 'see what it does: holdfast status' });
  }
  const attempt = options.attempt === undefined ? step.attempt : Number(options.attempt);
  if (!Number.isInteger(attempt)) throw new HoldfastError('usage', `--attempt "${options.attempt}" is no number`);
  return { step: step.id, attempt };
}
