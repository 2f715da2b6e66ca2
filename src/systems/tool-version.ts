import { HoldfastError } from '../model/errors.ts';
import { runChild } from './child.ts';

const TOOL_TIMEOUT_MS = 10_000;

/** First line of what a program says to `--version` or the like, undefined when it is not there. */
export async function toolVersion(argv: readonly string[]): Promise<string | undefined> {
  try {
    const { stdout } = await runChild(argv, { maxBytes: 10_000, signal: AbortSignal.timeout(TOOL_TIMEOUT_MS) });
    return stdout.split('\n')[0]?.trim() ?? '';
  } catch (error) {
    if (error instanceof HoldfastError) return undefined;
    throw error;
  }
}

/** `pg_dump (PostgreSQL) 15.6 (Debian ...)` is of major version 15; null when no number stands there. */
export function majorVersion(text: string): number | null {
  const found = /(\d+)(\.\d+)?/.exec(text)?.[1];
  return found === undefined ? null : Number(found);
}
