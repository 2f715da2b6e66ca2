import { HoldfastError } from './errors.ts';
import type { Runbook, RunbookStep } from './runbook-schema.ts';

/** What the order of services follows from. */
export type ServiceOrder = Readonly<Record<string, { readonly dependsOn: readonly string[] }>>;

/**
 * The runbook with each `forEach` step written out: one step a service, named `<id>-<service>`. A service waits for those of the list
 * that it depends on, directly or through others; the rest run beside each other. What waits for the step waits for all of them. Pure.
 * @throws HoldfastError `for-each` for a service that is not there, one listed twice, or a circle.
 */
export function expandForEach(runbook: Runbook, parameters: Readonly<Record<string, unknown>>, services: ServiceOrder): Runbook {
  if (!runbook.steps.some((step) => step.forEach !== undefined)) return runbook;
  const written = new Map<string, readonly string[]>();
  const steps: RunbookStep[] = [];
  for (const step of runbook.steps) {
    const needs = step.needs?.flatMap((id) => written.get(id) ?? [id]);
    const { forEach, ...rest } = step;
    if (forEach === undefined) {
      steps.push(needs === undefined ? rest : { ...rest, needs });
      continue;
    }
    const before = needs ?? steps.map(({ id }) => id);
    const items = inOrder(listOf(forEach, parameters, step.id), services, step.id);
    const idOf = (item: string): string => `${step.id}-${item}`;
    written.set(step.id, items.map(idOf));
    for (const item of items) {
      const earlier = items.filter((other) => other !== item && dependsOn(services, item, other));
      steps.push({ ...(withItem(rest, item) as Omit<RunbookStep, 'forEach'>), id: idOf(item), needs: [...before, ...earlier.map(idOf)] });
    }
  }
  const twice = steps.find(({ id }, index) => steps.findIndex((other) => other.id === id) !== index);
  if (twice !== undefined) throw new HoldfastError('for-each', `two steps would be called "${twice.id}"`, { next: 'rename the step with forEach' });
  return { ...runbook, steps };
}

function listOf(forEach: string, parameters: Readonly<Record<string, unknown>>, step: string): readonly string[] {
  const name = /^\$\{parameters\.([A-Za-z0-9]+)\}$/.exec(forEach)?.[1];
  const value = name === undefined || !Object.hasOwn(parameters, name) ? undefined : parameters[name];
  if (Array.isArray(value) && value.every((item) => typeof item === 'string') && value.length > 0) return value;
  throw new HoldfastError('for-each', `step ${step}: ${forEach} is no list, or an empty one`, { next: `give the parameter ${name ?? ''} as a list of service names` });
}

/** The services so that each comes after what it depends on; otherwise as they are listed. */
function inOrder(items: readonly string[], services: ServiceOrder, step: string): string[] {
  const unknown = items.filter((item) => !Object.hasOwn(services, item));
  if (unknown.length > 0) throw new HoldfastError('for-each', `step ${step}: there is no service named ${unknown.map((item) => `"${item}"`).join(', ')}`, { next: `use: ${Object.keys(services).join(', ') || 'none is configured'}` });
  const double = items.filter((item, index) => items.indexOf(item) !== index);
  if (double.length > 0) throw new HoldfastError('for-each', `step ${step}: ${double.join(', ')} stands in the list twice`, { next: 'a service is recovered once' });
  const left = [...items];
  const ordered: string[] = [];
  while (left.length > 0) {
    const at = left.findIndex((item) => !left.some((other) => other !== item && dependsOn(services, item, other)));
    if (at < 0) throw new HoldfastError('for-each', `services ${left.join(', ')} depend on each other in a circle`, { next: 'correct dependsOn under services' });
    ordered.push(...left.splice(at, 1));
  }
  return ordered;
}

/** Directly, or through services that may not be in the list. */
export function dependsOn(services: ServiceOrder, service: string, other: string): boolean {
  const seen = new Set<string>();
  const look = (name: string): boolean => {
    for (const needed of Object.hasOwn(services, name) ? services[name]!.dependsOn : []) {
      if (needed === other) return true;
      if (seen.has(needed)) continue;
      seen.add(needed);
      if (look(needed)) return true;
    }
    return false;
  };
  return look(service);
}

function withItem(value: unknown, item: string): unknown {
  if (typeof value === 'string') return value.replaceAll(/\$\{\s*item\s*\}/g, () => item);
  if (Array.isArray(value)) return value.map((inner) => withItem(inner, item));
  if (value !== null && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, withItem(inner, item)]));
  return value;
}
