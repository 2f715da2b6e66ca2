import type { ExecutionResult } from '../../workflows/failover.ts';
import { HoldfastError } from '../model/errors.ts';
import type { PlanView, PlanViewStep } from '../model/plan-view.ts';
import { formatDuration } from '../model/units.ts';
import { formatChecks } from './execution-result.ts';
import { EXIT, type Io } from './io.ts';

/** Shows what an execution would do. @param heading where the view comes from */
export function showPlan(io: Io, view: PlanView, source: { readonly from: 'this host' | 'a worker'; readonly workflowId: string | null }): void {
  io.result({ ...view, ...source }, () => formatPlan(view, source.workflowId));
  if (!view.couldStart) io.exit(EXIT.failed);
}

export function formatPlan(view: PlanView, workflowId: string | null): string {
  const moved = view.primary === null ? '' : `, ${view.primary} -> ${view.candidate ?? '?'}`;
  const subject = view.service ?? view.runbook;
  const lines = [
    `${workflowId === null ? `plan of ${subject}` : workflowId}: ${view.couldStart ? 'checked' : 'WOULD BE REFUSED'} (${view.runbook}, ${view.mode}${moved}, plan ${view.planHash.slice(0, 12)})`,
    ...view.why.map((why) => `  because: ${why}`),
    `  ${workflowId === null ? 'asked from this host, without Temporal' : 'asked by a worker'}; nothing was changed`,
    '',
  ];
  view.steps.forEach((step, index) => lines.push(...formatStep(step, index + 1, view), ''));
  lines.push('what cannot be known in advance', ...view.unknown.map((what) => `  ${what}`));
  const checks = view.steps.flatMap((step) => step.checks.map((check) => ({ ...check, name: `${step.id}: ${check.name}` })));
  if (checks.length > 0) lines.push('', formatChecks(checks));
  return lines.join('\n');
}

function formatStep(step: PlanViewStep, number: number, view: PlanView): string[] {
  const marks = [step.pointOfNoReturn ? 'POINT OF NO RETURN' : null, step.refusesWrites ? `WRITES REFUSED for at most ${formatDuration(view.readOnlyDeadlineMs)} before promotion` : null].filter((mark) => mark !== null);
  const lines = [`${String(number).padStart(2)}. ${step.id} (${step.uses})${marks.length === 0 ? '' : `  ** ${marks.join('; ')} **`}`];
  const line = (label: string, text: string): void => void lines.push(`    ${label.padEnd(9)} ${text}`);
  if (step.leftOut !== null) {
    line('left out', step.leftOut);
    return lines;
  }
  if (step.condition?.holds === 'unknown') line('only if', step.condition.why);
  if (step.needs !== null) line('beside', step.needs.length === 0 ? 'everything: it waits for no other step' : `all but ${step.needs.join(', ')}, which it waits for`);
  line('does', step.does);
  if (step.finds === 'already satisfied') line('finds', `already satisfied: ${step.found ?? ''}`);
  else if (step.finds === 'would change') line('finds', `${step.found ?? ''}${step.before === null ? '' : `; before: ${JSON.stringify(step.before)}`}`);
  else if (step.finds === 'no answer') line('finds', 'NO ANSWER');
  else if (step.found !== null) line('finds', step.found);
  for (const error of step.errors) line('ERROR', error);
  const wrong = step.checks.filter((check) => !check.ok);
  if (step.checks.length > 0) line('guards', wrong.length === 0 ? `${step.checks.length} hold` : `${wrong.length} of ${step.checks.length} DO NOT HOLD: ${wrong.map((check) => check.name).join(', ')}`);
  if (step.inputs.length > 0) line('inputs', step.inputs.map(({ name, value, from }) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}${from === null ? '' : ` (${from})`}`).join(', '));
  for (const { name, reference } of step.comesUp) line('', `${name} comes up in the run: \${${reference}}`);
  if (step.deadlineMs !== null) line('deadline', `${formatDuration(step.deadlineMs)}${step.stepDeadlineMs === null ? '' : ` an attempt, ${formatDuration(step.stepDeadlineMs)} in all`}${step.attempts === null ? '' : `, ${step.attempts} attempt${step.attempts === 1 ? '' : 's'}`}`);
  line('took', step.took === null ? 'not known: no evidence of an earlier run here' : `${formatDuration(step.took.leastMs)}${step.took.runs === 1 ? '' : ` to ${formatDuration(step.took.mostMs)}`} in the last ${step.took.runs} run${step.took.runs === 1 ? '' : 's'}`);
  if (step.attempts !== null) line('undo', step.undo ?? 'none: it is not undone by itself');
  return lines;
}

/** What a dry run by a worker found, in the same form: its plan and its answers come out of its history. */
export async function showDryRun(io: Io, workflowId: string, { failure, checks }: Pick<ExecutionResult, 'failure' | 'checks'>): Promise<void> {
  const [{ auditExecution }, { looksOf }, { planView }, { earlierTimes }] = await Promise.all([import('../engine/history.ts'), import('../engine/dry-run.ts'), import('../model/plan-view.ts'), import('../systems/evidence-times.ts')]);
  const context = await io.context();
  const { plan, looks } = looksOf((await auditExecution(await io.temporal(), workflowId)).activities);
  if (plan === null) throw new HoldfastError('plan-missing', `${workflowId} ended before it had a plan: ${failure ?? 'no reason recorded'}`, { next: `holdfast audit ${workflowId}` });
  // A nested run asks its own guards, in a history of its own: what they said is in the result.
  for (const { id } of plan.steps) {
    const own = checks.filter((check) => check.name.startsWith(`${id}: `)).map((check) => ({ ...check, name: check.name.slice(id.length + 2) }));
    if (own.length > 0 && !looks.some((look) => look.step === id)) looks.push({ step: id, phase: 'guard', result: { summary: '', checks: own }, error: null });
  }
  const view = planView(plan, looks, await earlierTimes(context, plan));
  // The worker's word counts: it knows what was overridden, and ends at the first finding.
  showPlan(io, { ...view, couldStart: failure === null, why: failure === null ? [] : view.why.length > 0 ? view.why : [failure] }, { from: 'a worker', workflowId });
}
