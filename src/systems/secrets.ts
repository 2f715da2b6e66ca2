import { readFile } from 'node:fs/promises';
import { HoldfastError } from '../model/errors.ts';
import { registerSecret } from './log.ts';

/** Reads one secret string from AWS Secrets Manager; handed in so that this file needs no AWS client. */
export type ReadManagedSecret = (id: string) => Promise<string>;

/** Resolves references; every value it hands out is registered for redaction first. Nothing is cached: secrets rotate. */
export interface SecretResolver {
  resolve(reference: string): Promise<string>;
}

export function createSecretResolver(readManagedSecret: ReadManagedSecret, environment: NodeJS.ProcessEnv = process.env): SecretResolver {
  return {
    async resolve(reference) {
      const value = await read(reference, readManagedSecret, environment);
      registerSecret(value);
      return value;
    },
  };
}

async function read(reference: string, readManagedSecret: ReadManagedSecret, environment: NodeJS.ProcessEnv): Promise<string> {
  const colon = reference.indexOf(':');
  const scheme = reference.slice(0, colon);
  const rest = reference.slice(colon + 1);
  switch (scheme) {
    case 'env': {
      const value = Object.hasOwn(environment, rest) ? environment[rest] : undefined;
      if (value === undefined || value === '') {
        throw new HoldfastError('secret-missing', `environment variable ${rest} is not set`, { next: `set ${rest} for the worker, or correct the reference ${reference}` });
      }
      return value;
    }
    case 'file':
      try {
        return (await readFile(rest, 'utf8')).replace(/\r?\n$/, '');
      } catch (error) {
        throw new HoldfastError('secret-missing', `secret file ${rest} cannot be read: ${(error as NodeJS.ErrnoException).code}`, { next: `create it, readable by the worker only, or correct the reference ${reference}`, cause: error });
      }
    case 'aws-sm': {
      const hash = rest.lastIndexOf('#');
      const id = hash < 0 ? rest : rest.slice(0, hash);
      const field = hash < 0 ? undefined : rest.slice(hash + 1);
      const text = await readManagedSecret(id);
      if (field === undefined) return text;
      let parsed: unknown;
      try {
        parsed = JSON.parse(text);
      } catch {
        registerSecret(text);
        throw new HoldfastError('secret-shape', `secret ${id} is not JSON, but field ${field} was asked for`, { next: `store it as JSON with the field ${field}, or refer to it as aws-sm:${id}` });
      }
      const value = parsed !== null && typeof parsed === 'object' && Object.hasOwn(parsed, field) ? (parsed as Record<string, unknown>)[field] : undefined;
      if (typeof value !== 'string' && typeof value !== 'number') {
        throw new HoldfastError('secret-shape', `secret ${id} has no field ${field}`, { next: `add the field ${field} to the secret, or correct the reference ${reference}` });
      }
      return String(value);
    }
    default:
      throw new HoldfastError('secret-reference', `"${scheme}:" is no kind of secret reference`, { next: 'use aws-sm:<id>#<field>, env:<NAME> or file:<path>' });
  }
}
