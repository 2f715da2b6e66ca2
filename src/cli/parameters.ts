import { HoldfastError } from '../model/errors.ts';

export interface ParameterOption {
  readonly parameter: readonly string[];
}

export function collectParameters(text: string, before: readonly string[]): string[] {
  return [...before, text];
}

/** `name=value` as JSON where it is JSON (`5`, `true`, `["a"]`), else as text. */
export function jsonParameters(texts: readonly string[]): Record<string, unknown> {
  const parameters: Record<string, unknown> = {};
  for (const text of texts) {
    const equals = text.indexOf('=');
    if (equals < 1) throw new HoldfastError('usage', `--parameter "${text}" is not of the form name=value`);
    const name = text.slice(0, equals);
    if (name in parameters) throw new HoldfastError('usage', `--parameter ${name} is given twice`);
    parameters[name] = jsonOrText(text.slice(equals + 1));
  }
  return parameters;
}

function jsonOrText(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}
