import { HoldfastError } from '../model/errors.ts';
import { RULE_NAMES, RULES, type RuleName } from '../model/rules.ts';

export interface ParameterOption {
  readonly parameter: readonly string[];
}

export function collectParameters(text: string, before: readonly string[]): string[] {
  return [...before, text];
}

/** `name=value` as JSON where it is JSON (`5`, `true`, `["a"]`), else as text. */
export function jsonParameters(texts: readonly string[]): Record<string, unknown> {
  // A name may be any, also one that every object has.
  const parameters = new Map<string, unknown>();
  for (const text of texts) {
    const equals = text.indexOf('=');
    if (equals < 1) throw new HoldfastError('usage', `--parameter "${text}" is not of the form name=value`);
    const name = text.slice(0, equals);
    if (parameters.has(name)) throw new HoldfastError('usage', `--parameter ${name} is given twice`);
    parameters.set(name, jsonOrText(text.slice(equals + 1)));
  }
  return Object.fromEntries(parameters);
}

/** `rule=reason`, each rule by its exact name. */
export function overridesOf(texts: readonly string[]): { rule: RuleName; reason: string }[] {
  return texts.map((text) => {
    const equals = text.indexOf('=');
    const rule = text.slice(0, Math.max(0, equals));
    const reason = text.slice(equals + 1).trim();
    const known = RULE_NAMES.find((name) => name === rule);
    if (known === undefined || reason === '') throw new HoldfastError('usage', `--override "${text}" is not of the form rule=reason`, { next: `there is no general force; the rules are: ${RULE_NAMES.map((name) => `${name} (${RULES[name].says})`).join('; ')}` });
    return { rule: known, reason };
  });
}

export function jsonOrText(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
