import { measurementRow } from '../model/evidence-report.ts';
import type { Measurement } from '../model/evidence.ts';
import type { CheckResult } from '../model/api.ts';
import { EXIT, formatTable, type Io } from './io.ts';

/** What results of `failover`, `runbook` and `readiness` have in common; each part may be missing. */
interface ExecutionResult {
  readonly outcome?: string;
  readonly summary?: string;
  readonly failure?: string | null;
  readonly measurements?: readonly Measurement[];
  readonly checks?: readonly CheckResult[];
  readonly evidence?: string | { readonly directory?: string } | null;
}

const GOOD = new Set(['succeeded', 'checked', 'verified', 'ready', 'recoverable']);
/** A person or a rule said no; nothing was changed. */
const REFUSED = new Set(['denied']);

/** Prints a result and sets the exit code by its outcome. */
export function showResult(io: Io, workflowId: string, value: unknown): void {
  const result = (typeof value === 'object' && value !== null ? value : {}) as ExecutionResult;
  io.result(value, () => formatResult(workflowId, value, result));
  if (result.outcome === undefined || GOOD.has(result.outcome)) return;
  io.exit(REFUSED.has(result.outcome) ? EXIT.refused : EXIT.failed);
}

function formatResult(workflowId: string, value: unknown, result: ExecutionResult): string {
  if (result.outcome === undefined) return `${workflowId}\n${JSON.stringify(value, null, 2)}`;
  const lines = [`${workflowId}: ${result.outcome}`];
  if (result.summary) lines.push(`  ${result.summary}`);
  if (result.failure) lines.push(`  ${result.failure}`);
  if (result.measurements !== undefined && result.measurements.length > 0) lines.push('', formatTable(['what', 'objective', 'measured', 'result'], result.measurements.map(measurementRow)));
  if (result.checks !== undefined && result.checks.length > 0) lines.push('', formatChecks(result.checks));
  const evidence = typeof result.evidence === 'string' ? result.evidence : result.evidence?.directory;
  if (evidence) lines.push('', `evidence: ${evidence}`);
  lines.push('', `in full: holdfast audit ${workflowId}`);
  return lines.join('\n');
}

export function formatChecks(checks: readonly CheckResult[]): string {
  const table = formatTable(['', 'check', 'found', 'expected'], checks.map((check) => [check.ok ? 'ok' : 'NO', check.name, check.found, check.expected]));
  const next = checks.filter((check) => !check.ok && check.next !== undefined).map((check) => `  ${check.name}: ${check.next}`);
  return next.length === 0 ? table : `${table}\n\nwhat to do\n${next.join('\n')}`;
}
