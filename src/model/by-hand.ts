import { applicationByHand } from './by-hand/application.ts';
import { cacheByHand } from './by-hand/cache.ts';
import { controlByHand } from './by-hand/control.ts';
import { dynamodbByHand } from './by-hand/dynamodb.ts';
import { edgeByHand } from './by-hand/edge.ts';
import { kubernetesByHand } from './by-hand/kubernetes.ts';
import { managedByHand } from './by-hand/managed.ts';
import { postgresByHand } from './by-hand/postgres.ts';
import { chaosByHand } from './by-hand/chaos.ts';
import { walByHand } from './by-hand/wal.ts';
import { s3ByHand } from './by-hand/s3.ts';
import { searchByHand } from './by-hand/search.ts';
import { streamByHand } from './by-hand/stream.ts';
import type { ByHand, ByHandCall } from './by-hand/words.ts';

/**
 * Each step kind by hand: the commands that a person with psql, aws, kubectl, ssh and a POSIX shell types when Temporal is down. One entry a kind;
 * a test holds this table against the catalogue.
 */
export const BY_HAND: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  ...controlByHand,
  ...postgresByHand,
  ...applicationByHand,
  ...edgeByHand,
  ...kubernetesByHand,
  ...walByHand,
  ...s3ByHand,
  ...chaosByHand,
  ...cacheByHand,
  ...searchByHand,
  ...streamByHand,
  ...dynamodbByHand,
};

/** @returns undefined for a kind that nobody has described. */
export function byHand(call: ByHandCall): ByHand | undefined {
  const name = call.inputs['datastore'];
  const datastore = typeof name === 'string' && Object.hasOwn(call.config.datastores, name) ? call.config.datastores[name] : undefined;
  if (datastore?.engine === 'postgres' && datastore.managed !== undefined && Object.hasOwn(managedByHand, call.uses)) return managedByHand[call.uses]!(call);
  return Object.hasOwn(BY_HAND, call.uses) ? BY_HAND[call.uses]!(call) : undefined;
}
