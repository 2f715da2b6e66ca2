import { ConfigError, HoldfastError, messageOf } from '../model/errors.ts';
import { EXIT } from './io.ts';

/** Codes of errors that mean "cannot be reached". */
const UNREACHABLE = new Set(['temporal-unreachable', 'temporal-namespace', 'no-worker', 'postgres-connect', 'store-s3', 'store-bucket-missing', 'store-folder', 'kubernetes-unreachable', 'secret-unreadable', 'secret-call', 'dns-call']);
const USAGE = new Set(['usage', 'config-invalid', 'config-missing', 'config-unreadable', 'costs-missing', 'prices-missing', 'prices-unreadable', 'kubernetes-config', 'runbook-invalid', 'runbooks-unreadable', 'secret-reference', 'secret-missing', 'secret-shape', 'parameters', 'node-unknown', 'results-invalid', 'temporal-tls', 'encryption-key']);
const NOT_FOUND = new Set(['backup-missing', 'execution-not-found', 'runbook-missing', 'schedule-not-found', 'evidence-not-found', 'object-missing', 'table-missing']);
const REFUSED = new Set(['file-exists', 'already-running', 'operator-refused', 'target-not-empty', 'key-exists', 'evidence-exists', 'object-exists', 'switch-unknown']);

/** The documented exit code of anything thrown. */
export function exitCodeOf(error: unknown): number {
  if (!(error instanceof HoldfastError)) return EXIT.failed;
  if (error instanceof ConfigError || USAGE.has(error.code)) return EXIT.usage;
  if (error.code.startsWith('unknown-') || NOT_FOUND.has(error.code) || error.code.endsWith('-not-found')) return EXIT.notFound;
  if (REFUSED.has(error.code) || error.code.endsWith('-refused')) return EXIT.refused;
  if (UNREACHABLE.has(error.code)) return EXIT.unreachable;
  if (error.code === 'interrupted') return 130;
  return EXIT.failed;
}

interface Caused {
  readonly cause?: unknown;
}

/**
 * The text of a failure for people. Temporal wraps what happened ("Workflow execution failed" because "Activity task
 * failed" because ...): the innermost message is the one that says something.
 */
export function failureText(error: unknown): string {
  if (error instanceof HoldfastError) return error.describe();
  const texts: string[] = [];
  for (let at: unknown = error, depth = 0; at !== undefined && at !== null && depth < 10; at = (at as Caused).cause, depth += 1) {
    const text = messageOf(at);
    if (!WRAPPERS.has(text) && !texts.some((known) => known.includes(text))) texts.push(text);
  }
  return texts.length === 0 ? messageOf(error) : texts.join('\n  because: ');
}

const WRAPPERS = new Set(['Workflow execution failed', 'Activity task failed', 'Activity execution failed', 'Child Workflow execution failed', 'Workflow Update failed']);
