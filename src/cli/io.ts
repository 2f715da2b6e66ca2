import type { Client } from '@temporalio/client';
import type { Context } from '../systems/context.ts';

/** Exit codes of every command; documented in docs/cli.md. */
export const EXIT = {
  ok: 0,
  /** It ran and did not succeed: a backup failed, a proof found a difference, an objective was missed. */
  failed: 1,
  /** Wrong arguments or configuration; nothing was tried. */
  usage: 2,
  /** The named thing does not exist. */
  notFound: 3,
  /** Refused by a rule: non-empty target, second failover, not skippable. */
  refused: 4,
  /** Temporal, the store or the database cannot be reached. */
  unreachable: 5,
  /** readiness: every service could be recovered, and what it counts on is worse than it should be for one. */
  degraded: 6,
} as const;

/** What a command talks through; tests bring their own. */
export interface Io {
  /** --json was given: stdout carries one JSON document and nothing else. */
  readonly json: boolean;
  /** A line for people on stdout; nothing under --json. */
  say(line: string): void;
  /** A line on stderr: progress, warnings. */
  note(line: string): void;
  /** The result: `value` under --json, else the text. */
  result(value: unknown, human: () => string): void;
  /** Configuration, secrets, clients; made on first use. */
  context(): Promise<Context>;
  temporal(): Promise<Client>;
  exit(code: number): void;
  /** Aborted on the first Ctrl-C. */
  readonly interrupted: AbortSignal;
  /** The flag --by, else HOLDFAST_USER, else the login name. */
  readonly by: string;
}

/** Rows as an aligned table with a header; numbers are right-aligned. */
export function formatTable(columns: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map((column, index) => Math.max(column.length, ...rows.map((row) => (row[index] ?? '').length)));
  const numeric = columns.map((_, index) => rows.length > 0 && rows.every((row) => /^-?[\d.,]+( ?[a-zA-Z%]+)?$/.test(row[index] ?? '')));
  const line = (cells: readonly string[]): string =>
    cells.map((cell, index) => (numeric[index] ? cell.padStart(widths[index]!) : cell.padEnd(widths[index]!))).join('  ').trimEnd();
  return [line(columns), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}
