import { z } from 'zod';
import { NAME_PATTERN } from './config-schema.ts';
import { durationMs } from './units.ts';

/** A runbook document: what people read and change. The engine runs exactly this, frozen into a plan. */
const name = z.string().regex(NAME_PATTERN, 'expected lower-case letters, digits and inner hyphens, at most 63');

export const MODES = ['planned', 'forced'] as const;
export type Mode = (typeof MODES)[number];

export const parameterSchema = z.strictObject({
  type: z.enum(['string', 'number', 'boolean', 'duration', 'list']),
  description: z.string().min(1),
  required: z.boolean().default(false),
  default: z.union([z.string(), z.number(), z.boolean(), z.array(z.string())]).optional(),
});

const scalar = z.union([z.string(), z.number(), z.boolean()]);

/** One condition on a fact or parameter. Several in one entry must all hold. */
export const conditionSchema = z.strictObject({
  value: z.string().regex(/^\$\{[^}]+\}$/, 'expected one reference such as ${steps.confirm.lagMs}').meta({ description: 'One reference: ${steps.<id>.<fact>}, ${parameters.<name>}, ${mode} or ${service}.' }),
  equals: scalar.optional(),
  not: scalar.optional().meta({ description: 'Anything but this.' }),
  oneOf: z.array(scalar).min(1).optional(),
  atLeast: z.number().optional(),
  atMost: z.number().optional(),
  exists: z.boolean().optional().meta({ description: 'true: there is a value that is not null; false: there is none.' }),
});
export type Condition = z.output<typeof conditionSchema>;

export const runbookStepSchema = z.strictObject({
  id: name,
  title: z.string().min(1),
  uses: z.string().min(1).meta({ description: 'Step kind; docs/reference/step-kinds.md lists them.' }),
  narrative: z.string().min(1).meta({ description: 'What this does and how to do it by hand when everything else is down.' }),
  modes: z.array(z.enum(MODES)).min(1).default([...MODES]),
  after: name.optional().meta({ description: 'Id of an earlier step without which the guards of this one cannot hold: they are not asked before it is done.' }),
  needs: z
    .array(name)
    .optional()
    .meta({ description: 'Ids of the earlier steps it waits for; it runs beside all others. Left out, it waits for every step before it.' }),
  forEach: z
    .string()
    .regex(/^\$\{parameters\.[A-Za-z0-9]+\}$/, 'expected one reference to a parameter, such as ${parameters.services}')
    .optional()
    .meta({ description: 'Only for runbook.run: a parameter of type list with names of services. The step is carried out once for each, ${item} being its name: after the services it depends on (dependsOn), beside all others.' }),
  when: z.array(conditionSchema).min(1).optional().meta({ description: 'It is carried out only if all of these hold when its turn comes; otherwise it is skipped and says why.' }),
  with: z
    .record(z.string(), z.unknown())
    .default({})
    .meta({ description: 'Inputs of the step kind. ${parameters.x}, ${service}, ${mode} and ${steps.<id>.<fact>} are filled in.' }),
  timeout: durationMs.optional().meta({ description: 'Deadline of one attempt of the changing phase; default: the step kind’s own.' }),
  attempts: z.int().min(1).max(20).optional().meta({ description: 'How often the changing phase may be tried; default: the step kind’s own.' }),
  retryDelay: durationMs.optional().meta({ description: 'Time between an attempt that did not succeed and the next; default: none.' }),
  deadline: durationMs.optional().meta({ description: 'For the whole step, from its begin: no attempt is begun by itself after it.' }),
});

export const runbookSchema = z.strictObject({
  name,
  title: z.string().min(1),
  summary: z.string().min(1),
  parameters: z.record(z.string().regex(/^[a-z][A-Za-z0-9]*$/), parameterSchema).default({}),
  /** How long writes may be refused before the point of no return; then they are allowed again by undo. */
  readOnlyDeadline: durationMs.prefault('60s'),
  /** Automatic retries of all steps together; then the next failure counts at once. */
  retryBudget: z.int().min(0).max(1000).default(20),
  steps: z.array(runbookStepSchema).min(1),
});

export type Runbook = z.output<typeof runbookSchema>;
export type RunbookStep = Runbook['steps'][number];
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

const REFERENCE = /\$\{([^}]*)\}/g;

/** All `${...}` references in a value, as written inside the braces. */
export function referencesIn(value: unknown): string[] {
  if (typeof value === 'string') return [...value.matchAll(REFERENCE)].map((match) => match[1]!.trim());
  if (Array.isArray(value)) return value.flatMap(referencesIn);
  if (value !== null && typeof value === 'object') return Object.values(value).flatMap(referencesIn);
  return [];
}

/** Where references look: own properties only, so that `${steps.__proto__}` finds nothing. */
export interface ReferenceScope {
  readonly service: string | null;
  readonly mode: Mode;
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly steps: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

/**
 * `value` with its references filled in. A text that is one reference keeps the referred value's type.
 * What is not known yet (a fact of a later step) becomes undefined and is left out; its reference is listed in `missing`.
 */
export function fillReferences(value: unknown, scope: ReferenceScope): { value: unknown; missing: string[] } {
  const missing: string[] = [];
  function fill(item: unknown): unknown {
    if (typeof item === 'string') {
      const whole = /^\$\{([^}]*)\}$/.exec(item);
      if (whole !== null) {
        const found = lookUp(whole[1]!.trim(), scope);
        if (found === undefined) missing.push(whole[1]!.trim());
        return found;
      }
      let incomplete = false;
      const text = item.replaceAll(REFERENCE, (_, reference: string) => {
        const found = lookUp(reference.trim(), scope);
        if (found === undefined) {
          missing.push(reference.trim());
          incomplete = true;
          return '';
        }
        return typeof found === 'string' ? found : JSON.stringify(found);
      });
      return incomplete ? undefined : text;
    }
    if (Array.isArray(item)) return item.map(fill).filter((entry) => entry !== undefined);
    if (item !== null && typeof item === 'object') {
      return Object.fromEntries(Object.entries(item).map(([key, entry]) => [key, fill(entry)] as const).filter(([, entry]) => entry !== undefined));
    }
    return item;
  }
  return { value: fill(value), missing };
}

/** What a condition asks for and does not find; null when it holds. A value that is not there fails only what asks for its existence. */
export function unmetBy(condition: Condition, found: unknown): string | null {
  if (condition.exists !== undefined) return (found !== undefined && found !== null) === condition.exists ? null : condition.exists ? 'a value' : 'none';
  if (found === undefined) return null;
  if (condition.equals !== undefined && found !== condition.equals) return JSON.stringify(condition.equals);
  if (condition.not !== undefined && found === condition.not) return `anything but ${JSON.stringify(condition.not)}`;
  if (condition.oneOf !== undefined && !condition.oneOf.some((one) => one === found)) return `one of ${JSON.stringify(condition.oneOf)}`;
  if (condition.atLeast !== undefined && !(typeof found === 'number' && found >= condition.atLeast)) return `at least ${condition.atLeast}`;
  if (condition.atMost !== undefined && !(typeof found === 'number' && found <= condition.atMost)) return `at most ${condition.atMost}`;
  return null;
}

/** What a reference (as written inside the braces) stands for; undefined when it is not there. */
export function lookUp(reference: string, scope: ReferenceScope): unknown {
  const [head, ...rest] = reference.split('.');
  if (head === 'service') return rest.length === 0 ? (scope.service ?? undefined) : undefined;
  if (head === 'mode') return rest.length === 0 ? scope.mode : undefined;
  let value: unknown = head === 'parameters' ? scope.parameters : head === 'steps' ? scope.steps : undefined;
  for (const key of rest) {
    if (value === null || typeof value !== 'object' || !Object.hasOwn(value, key)) return undefined;
    value = (value as Record<string, unknown>)[key];
  }
  return rest.length === 0 ? undefined : value;
}
