import type { Progress, StepState } from '../model/execution.ts';
import { formatDuration } from '../model/units.ts';
import { formatTable } from './io.ts';

/** One execution as text: what runs, each step, the RTO clock, and what an operator can do now. */
export function formatProgress(workflowId: string, progress: Progress, nowMs: number): string {
  const { plan, state } = progress;
  if (plan === null || state === null) return `${workflowId}: planning`;
  const lines = [
    `${workflowId}  ${plan.title}`,
    `  runbook ${plan.runbook}, ${state.mode}${state.mode === plan.mode ? '' : ` (begun ${plan.mode})`}, plan ${plan.hash.slice(0, 12)}, requested by ${state.requestedBy}, epoch ${state.epoch}${state.dryRun ? ', DRY RUN' : ''}`,
    `  ${statusOf(progress)}`,
    `  ${formatRtoClock(progress, nowMs)}`,
  ];
  if (state.writesRefusedSinceMs !== null && !state.pastPointOfNoReturn) lines.push(`  WRITES REFUSED for ${formatDuration(nowMs - state.writesRefusedSinceMs)}`);
  for (const { rule, by, reason } of state.overrides) lines.push(`  RULE BROKEN on purpose: ${rule}, by ${by}: ${reason}`);
  if (progress.approval?.loss !== undefined) lines.push(`  MAY LOSE ${progress.approval.loss.mayLoseMs === null ? 'an unknown span of' : formatDuration(progress.approval.loss.mayLoseMs)} acknowledged writes: fewer than two facts say that the primary is down`);
  if (state.failure !== null) lines.push(`  going back because: ${state.failure}`);
  lines.push(
    '',
    formatTable(
      ['step', 'uses', 'outcome', 'attempt', 'took', 'summary'],
      state.steps.map((step) => [step.id, step.uses, outcomeOf(step), String(step.attempt), tookOf(step, nowMs), step.error ?? step.summary]),
    ),
  );
  if (state.decisions.length > 0) {
    lines.push('', 'decisions', ...state.decisions.map((decision) => `  ${new Date(decision.atMs).toISOString()} ${decision.action}${decision.step === null ? '' : ` ${decision.step}`} by ${decision.by}: ${decision.reason}`));
  }
  if (state.refusals.length > 0) lines.push('', 'refused', ...state.refusals.map((one) => `  ${new Date(one.atMs).toISOString()} ${one.action}${one.step === null ? '' : ` ${one.step}`} by ${one.by}: ${one.why}`));
  const next = nextCommands(workflowId, progress);
  if (next.length > 0) lines.push('', 'to go on', ...next.map((command) => `  ${command}`));
  return lines.join('\n');
}

/** What changed between two answers, one line a step: for following on a terminal or in a log. */
export function changedSteps(before: Progress | undefined, now: Progress, nowMs: number): string[] {
  const old = before?.state?.steps ?? [];
  const lines: string[] = [];
  for (const [index, step] of (now.state?.steps ?? []).entries()) {
    const was = old[index];
    if (was?.status === step.status && was.outcome === step.outcome && was.attempt === step.attempt) continue;
    if (step.status === 'pending') continue;
    const took = step.endedAtMs === null ? '' : ` ${tookOf(step, nowMs)}`;
    lines.push(`${step.id.padEnd(24)} ${outcomeOf(step)}${took}${step.error === null ? (step.summary === '' ? '' : `  ${step.summary}`) : `  ${step.error}`}`);
  }
  if (now.waitingFor !== null && now.waitingFor !== before?.waitingFor) lines.push(`waiting for ${now.waitingFor}`);
  return lines;
}

/** Elapsed against objective; stands still when it ended. */
export function formatRtoClock(progress: Progress, nowMs: number): string {
  const { plan, state, startedAtMs } = progress;
  const ended = state?.status === 'finished' ? Math.max(...state.steps.map((step) => step.endedAtMs ?? startedAtMs)) : nowMs;
  const elapsed = Math.max(0, ended - startedAtMs);
  const objective = plan?.objectives?.rtoMs ?? null;
  if (objective === null) return `clock ${formatDuration(elapsed)} (no objective)`;
  const left = objective - elapsed;
  return `RTO clock ${formatDuration(elapsed)} of ${formatDuration(objective)}${left >= 0 ? `, ${formatDuration(left)} left` : `, EXCEEDED by ${formatDuration(-left)}`}`;
}

function statusOf({ state, waitingFor }: Progress): string {
  if (state === null) return 'planning';
  if (state.status === 'finished') return `ended: ${state.final ?? 'failed'}`;
  const where = state.pastPointOfNoReturn ? ', past the point of no return' : '';
  return `${state.status}${state.paused ? ', paused' : ''}${where}${waitingFor === null ? '' : `; waiting for ${waitingFor}`}`;
}

function outcomeOf(step: StepState): string {
  if (step.status === 'done') return step.outcome ?? 'done';
  if (step.status === 'running') return step.phase === null ? 'running' : `running ${step.phase}`;
  if (step.status === 'parked') return `PARKED (${step.outcome ?? 'failed'})`;
  return step.status;
}

function tookOf(step: StepState, nowMs: number): string {
  if (step.startedAtMs === null) return '';
  return formatDuration((step.endedAtMs ?? nowMs) - step.startedAtMs);
}

/** The exact commands for what it waits for. */
export function nextCommands(workflowId: string, { state, parked, approval }: Progress): string[] {
  if (state === null || state.status === 'finished') return [];
  const step = parked?.[0];
  if (step !== undefined) {
    const verbs = { retry: 'retry', markDone: 'mark-done', skip: 'skip', override: 'override' } as const;
    const more = { retry: '', markDone: ' --evidence "..."', skip: '', override: ` --rule ${step.rule}` } as const;
    return step.actions.flatMap((action) => (action in verbs ? [`holdfast ${verbs[action as keyof typeof verbs]} ${workflowId} --step ${step.step} --attempt ${step.attempt}${more[action as keyof typeof more]} --reason "..."`] : []));
  }
  if (state.paused) return [`holdfast resume ${workflowId} --reason "..."`];
  if (approval != null) return [`holdfast approve ${workflowId} --observed ${approval.observed}${lossOption(approval)} --reason "..."`, `holdfast reject ${workflowId} --reason "..."`];
  return [];
}

function lossOption(approval: NonNullable<Progress['approval']>): string {
  if (approval.loss === undefined) return '';
  return ` --accept-loss ${approval.loss.mayLoseMs === null ? 'unknown' : formatDuration(approval.loss.mayLoseMs).replaceAll(' ', '')}`;
}
