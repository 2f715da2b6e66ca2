import { ApplicationFailure } from '@temporalio/workflow';
import type { z } from 'zod';

/** Input from a command line is as often wrong as any: all that is wrong is said at once, and nothing is tried again. */
export function parseInput<T extends z.ZodType>(workflowType: string, schema: T, input: unknown): z.output<T> {
  const parsed = schema.safeParse(input);
  if (parsed.success) return parsed.data;
  const findings = parsed.error.issues.map((issue) => `${issue.path.length === 0 ? '' : `${issue.path.join('.')}: `}${issue.message}`);
  throw ApplicationFailure.nonRetryable(`the input of ${workflowType} is wrong: ${findings.join('; ')}`, 'input-invalid');
}

/** The innermost message of a failure: what happened, not that something did. */
export function causeText(error: unknown): string {
  let at = error;
  while (at instanceof Error && at.cause instanceof Error) at = at.cause;
  return at instanceof Error ? at.message : String(at);
}
