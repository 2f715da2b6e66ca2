import type { Client } from '@temporalio/client';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { SEARCH_ATTRIBUTES } from '../model/api.ts';
import { grpcCodeOf } from './connection.ts';

/** temporal.api.enums.v1.IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD */
const KEYWORD = 2;
/** gRPC status code. */
const INVALID_ARGUMENT = 3;
/** A new attribute is usable when the server's caches have seen it; a cluster refreshes them within about a minute. */
const USABLE_WITHIN_MS = 75_000;

/** Names that are not registered in the namespace. */
export async function missingSearchAttributes(client: Client): Promise<string[]> {
  const answer = await client.connection.operatorService.listSearchAttributes({ namespace: client.options.namespace });
  const there = answer.customAttributes ?? {};
  for (const name of Object.values(SEARCH_ATTRIBUTES)) {
    const type = there[name];
    if (type !== undefined && type !== KEYWORD) {
      throw new HoldfastError('search-attribute-type', `search attribute ${name} is registered with another type than Keyword`, {
        next: `remove it with \`temporal operator search-attribute remove --name ${name}\` or use another namespace`,
      });
    }
  }
  return Object.values(SEARCH_ATTRIBUTES).filter((name) => there[name] === undefined);
}

/**
 * Register what is missing and wait until it can be searched by. Calling it again changes nothing.
 * @returns the names that were added.
 * @throws HoldfastError `search-attributes` with the commands to do it by hand.
 */
export async function registerSearchAttributes(client: Client, wait: (ms: number) => Promise<void> = pause): Promise<string[]> {
  const { namespace } = client.options;
  let missing: string[];
  try {
    missing = await missingSearchAttributes(client);
    if (missing.length > 0) {
      await client.connection.operatorService.addSearchAttributes({
        namespace,
        searchAttributes: Object.fromEntries(missing.map((name) => [name, KEYWORD])),
      });
    }
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'search-attribute-type') throw error;
    // Whoever may not administrate the namespace may still use attributes that somebody else registered.
    if (await usable(client, Object.values(SEARCH_ATTRIBUTES))) return [];
    throw new HoldfastError('search-attributes', `search attributes cannot be registered in namespace ${namespace}: ${messageOf(error)}`, {
      next: `let an administrator run: ${Object.values(SEARCH_ATTRIBUTES).map((name) => `temporal operator search-attribute create --namespace ${namespace} --name ${name} --type Keyword`).join('; ')}`,
      cause: error,
    });
  }
  if (missing.length > 0) await untilUsable(client, missing, wait);
  return missing;
}

async function untilUsable(client: Client, names: readonly string[], wait: (ms: number) => Promise<void>): Promise<void> {
  for (let waitedMs = 0; waitedMs <= USABLE_WITHIN_MS; waitedMs += 500) {
    if (await usable(client, names)) return;
    await wait(500);
  }
  throw new HoldfastError('search-attributes', `search attributes were registered but cannot be used after ${USABLE_WITHIN_MS / 1000} s: ${names.join(', ')}`, {
    next: "wait a minute and start again; see the Temporal server's log if it stays so",
  });
}

/** The server refuses a query by an attribute that it does not know. */
async function usable(client: Client, names: readonly string[]): Promise<boolean> {
  try {
    await client.workflow.count(names.map((name) => `${name} = 'x'`).join(' AND '));
    return true;
  } catch (error) {
    if (grpcCodeOf(error) === INVALID_ARGUMENT) return false;
    throw error;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
