import type { Json } from '../runbook-schema.ts';

/** What is known of a step before it runs. */
export interface KnownStep {
  readonly id: string;
  readonly uses: string;
  /** Its inputs as far as they are known. */
  readonly inputs: Readonly<Record<string, unknown>>;
  /** What inspection found, null when it was not asked or did not answer. */
  readonly before: Json;
  readonly approvals: number;
  /** Who runs the servers of its datastore; undefined: the user. */
  readonly managed?: 'rds' | 'aurora' | 'aurora-global';
}

export interface StepText {
  /** What apply, or a step that only reads, would do. */
  readonly does: string;
  /** What goes back when a later step fails before the point of no return; null: nothing does. */
  readonly undo: string | null;
  /** What only the run itself can tell. */
  readonly unknown: readonly string[];
}

export function changes(does: string, ...unknown: string[]): StepText {
  return { does, undo: null, unknown };
}

export function reads(does: string, ...unknown: string[]): StepText {
  return { does: `${does} (reads only)`, undo: null, unknown };
}

export function nothing(does: string): StepText {
  return { does, undo: null, unknown: [] };
}

export function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

export function field(step: KnownStep, key: string, show: (value: unknown) => string): string {
  const value = recordOf(step.before)[key];
  return value === undefined || value === null ? '' : show(value);
}

export function text(step: KnownStep, key: string, missing: string): string {
  const value = step.inputs[key];
  return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : missing;
}

export function list(step: KnownStep, key: string): readonly unknown[] {
  const value = step.inputs[key];
  return Array.isArray(value) ? value : [];
}

const UNNAMED: Readonly<Record<string, string>> = { primary: 'the primary', candidate: 'the candidate', node: 'the node' };

export function name(step: KnownStep, key: string, missing = UNNAMED[key] ?? `the ${key}`): string {
  return text(step, key, missing);
}

export function datastore(step: KnownStep): string {
  return text(step, 'datastore', 'the datastore');
}
