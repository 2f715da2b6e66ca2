import { HoldfastError } from '../model/errors.ts';

interface AwsError extends Error {
  readonly $metadata?: { readonly httpStatusCode?: number };
  readonly $retryable?: { readonly throttling?: boolean };
}

const FINAL = /AccessDenied|NotAuthorized|UnrecognizedClient|InvalidClientToken|ExpiredToken|SignatureDoesNotMatch|NotFound|NoSuch|NonExistent|DoesNotExist|Invalid|Validation|Malformed|AlreadyExists|PreconditionFailed|Mismatch|Unsupported|NotPermitted/;
const THROTTLED = /Throttl|ThroughputExceeded|TooManyRequests|RequestLimitExceeded|SlowDown|PriorRequestNotComplete|ServiceUnavailable/;

/** The service's own name of the error; empty when it never answered. */
export function errorName(error: unknown): string {
  const { name, $metadata } = error as AwsError;
  return $metadata?.httpStatusCode === undefined ? '' : name;
}

/** It answered that it did nothing because too much is asked of it: the same call may be sent again. */
export function isThrottled(error: unknown): boolean {
  const { name, $retryable, $metadata } = error as AwsError;
  return $retryable?.throttling === true || THROTTLED.test(name) || $metadata?.httpStatusCode === 429;
}

export function isDenied(error: unknown): boolean {
  return /AccessDenied|NotAuthorized|UnrecognizedClient/.test((error as Error).name) || (error as AwsError).$metadata?.httpStatusCode === 403;
}

/** An AWS call that did not succeed. No answer, throttling and faults of the service are worth another look; what it refused is not. */
export function awsFailure(code: string, action: string, on: string, error: unknown, next?: string): HoldfastError {
  if (error instanceof HoldfastError) return error;
  const { name, message } = error as Error;
  const refused = errorName(error) !== '' && !isThrottled(error) && (FINAL.test(name) || isDenied(error));
  return new HoldfastError(code, `${action} on ${on}: ${name}: ${message}`, {
    retryable: !refused,
    next: isDenied(error) ? `allow ${action} to the worker's role` : (next ?? `check that the worker may call ${action} and reaches the endpoint`),
    cause: error,
  });
}

/** Whether a call that cannot take effect was let through to where it is refused: nothing changes either way. */
export function probeAnswer(action: string, on: string, error: unknown): { readonly allowed: boolean; readonly found: string } {
  const { $metadata, name, message } = error as AwsError;
  if ($metadata?.httpStatusCode === undefined || isThrottled(error) || $metadata.httpStatusCode >= 500) throw awsFailure('permission-unknown', action, on, error);
  return isDenied(error) ? { allowed: false, found: `${name}: ${message} (HTTP ${$metadata.httpStatusCode})` } : { allowed: true, found: 'allowed' };
}
