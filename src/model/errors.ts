/**
 * Every error a user can meet. A message says what happened, where, what was expected; `next` says what to do.
 * `code` is stable and may be matched on; `context` never holds a secret.
 */
export class HoldfastError extends Error {
  readonly code: string;
  readonly next: string | undefined;
  readonly context: Readonly<Record<string, unknown>>;
  /** False when trying the same thing again cannot help (wrong password, refused guard, bad config). */
  readonly retryable: boolean;

  constructor(
    code: string,
    message: string,
    options: { next?: string; context?: Record<string, unknown>; retryable?: boolean; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'HoldfastError';
    this.code = code;
    this.next = options.next;
    this.context = Object.freeze({ ...options.context });
    this.retryable = options.retryable ?? false;
  }

  /** One text for people: the message and what to do next. */
  describe(): string {
    return this.next === undefined ? this.message : `${this.message}\n  next: ${this.next}`;
  }
}

/** The text of anything thrown, without a stack. */
export function messageOf(error: unknown): string {
  if (error instanceof HoldfastError) return error.describe();
  if (error instanceof AggregateError && error.errors.length > 0) {
    return error.errors.map((inner) => messageOf(inner)).join('; ');
  }
  if (error instanceof Error) return error.message === '' ? error.name : error.message;
  return String(error);
}

/** One finding in a configuration or runbook file. */
export interface Finding {
  readonly level: 'error' | 'warning';
  readonly file: string;
  /** 1-based line, 0 when the whole file is meant. */
  readonly line: number;
  /** Dotted path in the document, e.g. `services.orders.objectives.rto`. */
  readonly path: string;
  readonly message: string;
  readonly found?: string;
  readonly allowed?: string;
}

/** Thrown with all findings at once, never with the first only. */
export class ConfigError extends HoldfastError {
  readonly findings: readonly Finding[];

  constructor(findings: readonly Finding[]) {
    const errors = findings.filter((finding) => finding.level === 'error');
    super('config-invalid', `${errors.length} error(s) in the configuration:\n${findings.map(formatFinding).join('\n')}`, {
      next: 'correct the lines above and run `holdfast validate`',
    });
    this.name = 'ConfigError';
    this.findings = findings;
  }
}

export function formatFinding(finding: Finding): string {
  const where = finding.line > 0 ? `${finding.file}:${finding.line}` : finding.file;
  const found = finding.found === undefined ? '' : `; found ${finding.found}`;
  const allowed = finding.allowed === undefined ? '' : `; allowed: ${finding.allowed}`;
  return `  ${finding.level} ${where} ${finding.path}: ${finding.message}${found}${allowed}`;
}

/** Codes of errors that say that what is stored of a backup cannot be trusted, whoever reads it. */
export const STORED_FAULTS = ['object-damaged', 'object-missing', 'manifest-changed', 'manifest-invalid'] as const;
