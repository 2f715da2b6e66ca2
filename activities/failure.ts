import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { redact, redactValue } from '../src/systems/log.ts';

/**
 * What an activity throws to Temporal: the message people read, secrets masked, and whether another attempt can help.
 * Stacks and causes stay out of history: they are logged where they happened.
 * @param report how far it had come, for the next try.
 */
export function toActivityFailure(error: unknown, report: unknown = null): Error {
  if (error instanceof CancelledFailure || error instanceof ApplicationFailure) return error;
  const known = error instanceof HoldfastError ? error : undefined;
  const failure = ApplicationFailure.create({
    message: redact(messageOf(error)),
    type: known?.code ?? 'unexpected',
    nonRetryable: known !== undefined && !known.retryable,
    ...(report === null ? {} : { details: [redactValue(report)] }),
  });
  failure.stack = '';
  return failure;
}

type ActivityFunction = (...args: never[]) => Promise<unknown>;

/** Wraps every activity of a factory so that only `toActivityFailure` errors reach history. */
export function withActivityFailures<T extends Record<string, ActivityFunction>>(activities: T): T {
  return Object.fromEntries(
    Object.entries(activities).map(([name, run]) => [
      name,
      async (...args: never[]) => {
        try {
          return await run(...args);
        } catch (error) {
          throw toActivityFailure(error);
        }
      },
    ]),
  ) as T;
}
