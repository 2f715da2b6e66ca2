import type { ExecutionResult } from '../../workflows/failover.ts';
import type { CheckResult } from '../model/api.ts';
import { measurementRow } from '../model/evidence-report.ts';
import { formatDuration } from '../model/units.ts';
import { EXIT, formatTable, type Io } from './io.ts';

/** Prints what a runbook came to and sets the exit code: a missed objective is a failure too. */
export function showExecution(io: Io, workflowId: string, result: ExecutionResult): void {
  io.result(result, () => formatExecution(workflowId, result));
  const good = (result.outcome === 'succeeded' || result.outcome === 'checked') && result.objectivesMet !== false && result.failure === null;
  // Denied: a person said no, and nothing was changed.
  if (!good) io.exit(result.outcome === 'denied' ? EXIT.refused : EXIT.failed);
}

function formatExecution(workflowId: string, result: ExecutionResult): string {
  const moved = result.primary === null ? '' : `, ${result.primary} -> ${result.candidate ?? '?'}`;
  const lines = [
    `${workflowId}: ${result.outcome}${result.objectivesMet === false ? ', OBJECTIVES MISSED' : ''} (${result.runbook}, ${result.mode}${moved}, plan ${result.planHash.slice(0, 12)})`,
  ];
  if (result.failure !== null) lines.push(`  because: ${result.failure}`);
  for (const missed of result.missed) lines.push(`  missed: ${missed}`);
  lines.push('', formatTable(['step', 'uses', 'outcome', 'took', 'summary'], result.steps.map((step) => [step.id, step.uses, step.outcome, step.ms === null ? '' : formatDuration(step.ms), step.summary])));
  if (result.measurements.length > 0) lines.push('', formatTable(['what', 'objective', 'measured', 'result'], result.measurements.map(measurementRow)));
  const wrong = result.checks.filter((check) => !check.ok);
  if (wrong.length > 0) lines.push('', formatChecks(wrong));
  else if (result.outcome === 'checked' && result.checks.length > 0) lines.push('', formatChecks(result.checks));
  if (result.evidence !== null) lines.push('', `evidence: ${result.evidence}`);
  if (result.evidenceProblem != null && result.evidenceProblem !== result.evidence) lines.push(`EVIDENCE NEEDS ATTENTION: ${result.evidenceProblem}`);
  const origin = result.failback?.origin;
  if (origin != null) lines.push('', `way ${origin.purpose === 'failback' ? 'back' : 'forth again'} to ${origin.returnsTo ?? 'the old primary'}: holdfast failback ${origin.service} --reason "..."${origin.purpose === 'failback' ? '' : ' --forth'}`, ...(result.failback?.cautions ?? []).map((text) => `  mind: ${text}`));
  lines.push('', `in full: holdfast audit ${workflowId}`);
  return lines.join('\n');
}

export function formatChecks(checks: readonly CheckResult[]): string {
  const table = formatTable(['', 'check', 'found', 'expected'], checks.map((check) => [check.ok ? 'ok' : 'NO', check.name, check.found, check.expected]));
  const next = checks.filter((check) => !check.ok && check.next !== undefined).map((check) => `  ${check.name}: ${check.next}`);
  return next.length === 0 ? table : `${table}\n\nwhat to do\n${next.join('\n')}`;
}
