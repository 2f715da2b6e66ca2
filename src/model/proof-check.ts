import type { CheckResult } from './api.ts';
import type { ServiceConfig, ServiceCheck } from './config-schema.ts';

const SHOWN = 200;

/** Whether the first value of a check's answer is what the service expects. */
export function judgeCheck(check: Pick<ServiceCheck, 'name' | 'expect'>, rows: readonly (readonly unknown[])[]): CheckResult {
  const { equals, atLeast, atMost } = check.expect;
  const conditions = [
    ...(equals === undefined ? [] : [`equal to ${String(equals)}`]),
    ...(atLeast === undefined ? [] : [`at least ${atLeast}`]),
    ...(atMost === undefined ? [] : [`at most ${atMost}`]),
  ];
  const expected = conditions.length === 0 ? 'a row with a true value' : conditions.join(' and ');
  if (rows.length === 0) return failed(check.name, 'no row', expected);
  const value = rows[0]![0] ?? null;
  const found = show(value);
  if (value === null) return failed(check.name, found, expected);
  const number = numeric(value);
  const ok =
    conditions.length === 0
      ? value !== false
      : (equals === undefined || same(value, equals)) &&
        (atLeast === undefined || (number !== undefined && number >= atLeast)) &&
        (atMost === undefined || (number !== undefined && number <= atMost));
  return ok ? { name: check.name, ok, found, expected } : failed(check.name, found, expected);
}

function failed(name: string, found: string, expected: string): CheckResult {
  return { name, ok: false, found, expected, next: 'run its query against the source: either the backup misses something, or the check is out of date' };
}

/** Integers and decimals come as text, since JavaScript's numbers are not exact. */
function numeric(value: unknown): number | undefined {
  if (typeof value === 'number') return value;
  return typeof value === 'string' && /^\s*-?\d+(\.\d+)?(e[+-]?\d+)?\s*$/i.test(value) ? Number(value) : undefined;
}

function same(value: unknown, equals: string | number | boolean): boolean {
  if (typeof equals === 'boolean') return value === equals;
  if (typeof equals === 'number') return numeric(value) === equals;
  return show(value) === equals;
}

function show(value: unknown): string {
  const text = value === null ? 'null' : value instanceof Date ? value.toISOString() : typeof value === 'object' ? JSON.stringify(value) : String(value);
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}...` : text;
}

/** The services that live on this datastore; with `only` that one. */
export function servicesOf(services: Readonly<Record<string, ServiceConfig>>, datastore: string, only: string | undefined): string[] {
  return Object.keys(services).filter((name) => services[name]!.datastores.includes(datastore) && (only === undefined || only === name));
}

/** Of several services the strictest of each; null when no service lives there. */
export function strictestObjectives(services: readonly Pick<ServiceConfig, 'objectives'>[]): { rtoMs: number; rpoMs: number } | null {
  if (services.length === 0) return null;
  return { rtoMs: Math.min(...services.map((service) => service.objectives.rto)), rpoMs: Math.min(...services.map((service) => service.objectives.rpo)) };
}

/** A check that names no datastore is about the service's first one. */
export function checksOn(service: Pick<ServiceConfig, 'checks' | 'datastores'>, datastore: string): ServiceCheck[] {
  return service.checks.filter((check) => (check.datastore ?? service.datastores[0]) === datastore);
}
