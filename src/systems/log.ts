import pino, { type Logger } from 'pino';

export type { Logger };

/** Stands where a secret was. */
export const MASK = '[redacted]';
/** The one registry of secrets: every value a resolver hands out is entered here, and every log line passes it. */
const secrets = new Set<string>();

/** Remember a value that must never be shown. Short values are ignored: masking them would garble everything. */
export function registerSecret(value: string): void {
  for (const form of [value, encodeURIComponent(value), JSON.stringify(value).slice(1, -1), value.replaceAll("'", "''")]) {
    if (form.length >= 4) secrets.add(form);
  }
}

/** The text with every registered secret and every password in a URL masked. */
export function redact(text: string): string {
  let result = text.replaceAll(/(\b[a-z][a-z0-9+.-]*:\/\/[^\s:/@]+:)[^\s@/]+@/gi, `$1${MASK}@`);
  // Longest first, so that a secret that contains another leaves nothing behind.
  for (const secret of [...secrets].sort((a, b) => b.length - a.length)) result = result.replaceAll(secret, MASK);
  return result;
}

/** A deep copy in which every text passed `redact`. For what leaves by another way than the log. */
export function redactValue<T>(value: T): T {
  if (typeof value === 'string') return redact(value) as T;
  if (Array.isArray(value)) return value.map((item) => redactValue(item)) as T;
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, redactValue(item)])) as T;
  }
  return value;
}

let surroundings: () => Record<string, unknown> = () => ({});

/** What every line carries besides its own fields, e.g. which execution it belongs to; asked for each line. */
export function setLogSurroundings(ask: () => Record<string, unknown>): void {
  surroundings = ask;
}

export interface LogOptions {
  readonly format: 'json' | 'pretty';
  readonly level: string;
  /** File descriptor; default 2, since stdout belongs to results. */
  readonly destination?: number;
}

/** A logger whose every line, whatever its shape, passes the registry before it is written. */
export async function createLogger(options: LogOptions): Promise<Logger> {
  const fd = options.destination ?? 2;
  let sink: { write(line: string): void } = pino.destination({ dest: fd, sync: true });
  if (options.format === 'pretty') {
    const { default: pretty } = await import('pino-pretty');
    sink = pretty({ destination: fd, sync: true, ignore: 'pid,hostname', translateTime: 'SYS:HH:MM:ss.l' }) as unknown as typeof sink;
  }
  return pino(
    { level: options.level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime, mixin: () => surroundings() },
    { write: (line: string) => sink.write(redact(line)) },
  );
}
