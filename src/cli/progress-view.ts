import type { Progress, StepState } from '../model/execution.ts';
import { formatDuration } from '../model/units.ts';
import { formatTable } from './io.ts';

/** One execution as text: what runs, each step, the RTO clock, and what an operator can do now. */
export function formatProgress(workflowId: string, progress: Progress, nowMs: number): string {
  const { plan, state } = progress;
  if (plan === null || state === null) return `${workflowId}: planning`;
  const lines = [
    `${workflowId}  ${plan.title}`,
    `  runbook ${plan.runbook}, ${plan.mode}, plan ${plan.hash.slice(0, 12)}, requested by ${state.requestedBy}, epoch ${state.epoch}${state.dryRun ? ', DRY RUN' : ''}`,
    `  ${statusOf(progress)}`,
    `  ${formatRtoClock(progress, nowMs)}`,
  ];
  if (state.writesRefusedSinceMs !== null && !state.pastPointOfNoReturn) lines.push(`  WRITES REFUSED for ${formatDuration(nowMs - state.writesRefusedSinceMs)}`);
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
export function nextCommands(workflowId: string, { state, waitingFor }: Progress): string[] {
  if (state === null || state.status === 'finished') return [];
  const parked = state.steps.find((step) => step.status === 'parked');
  if (parked !== undefined) {
    return ['retry', 'skip', 'mark-done --evidence "..."'].map((verb) => `holdfast ${verb.split(' ')[0]} ${workflowId} --step ${parked.id} --attempt ${parked.attempt}${verb.slice(verb.split(' ')[0]!.length)} --reason "..."`);
  }
  if (state.paused) return [`holdfast resume ${workflowId} --reason "..."`];
  if (waitingFor !== null && /^\d+ approval\(s\)$/.test(waitingFor)) return [`holdfast approve ${workflowId} --reason "..."`, `holdfast reject ${workflowId} --reason "..."`];
  return [];
}
