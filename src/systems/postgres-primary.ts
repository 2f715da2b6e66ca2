import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { Context } from './context.ts';
import { adminTarget, withPostgres, type PostgresTarget } from './postgres.ts';
import { isClosed, lookAtInstance, managedNode } from './rds.ts';

export interface SeenNode {
  readonly node: string;
  readonly target: PostgresTarget;
  readonly standby: boolean;
  /** null on a standby. */
  readonly timeline: number | null;
}

export interface SeenNodes {
  readonly nodes: readonly SeenNode[];
  readonly problems: readonly string[];
}

/** Every node is asked. Wrong credentials are wrong everywhere and end it; a node that is down does not. */
export async function askNodes(context: Context, datastore: PostgresDatastore, names: readonly string[] = Object.keys(datastore.nodes)): Promise<SeenNodes> {
  const nodes: SeenNode[] = [];
  const problems: string[] = [];
  const asked = await Promise.allSettled(names.map(async (node): Promise<SeenNode> => {
    const target = await adminTarget(context, datastore, node);
    const sql = `select pg_catalog.pg_is_in_recovery() as standby, case when pg_catalog.pg_is_in_recovery() then null else ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int end as timeline`;
    return { node, target, ...(await withPostgres(target, async (client) => (await client.query<{ standby: boolean; timeline: number | null }>(sql)).rows[0]!, { queryTimeoutMs: 10_000 })) };
  }));
  for (const [index, one] of asked.entries()) {
    if (one.status === 'fulfilled') nodes.push(one.value);
    else if (one.reason instanceof HoldfastError && !one.reason.retryable) throw one.reason;
    else problems.push(`${names[index]}: ${messageOf(one.reason)}`);
  }
  return { nodes, problems };
}

/**
 * Who is the primary now. A former one that runs behind its fence takes the administrator's connections too, and is not in recovery: of several
 * the one on the newest timeline is it, and one that RDS shows behind its fencing groups never is.
 * @throws HoldfastError `two-primaries` when that does not tell.
 */
export async function primaryAmong(context: Context, datastore: PostgresDatastore, { nodes }: SeenNodes): Promise<SeenNode | undefined> {
  const writers: SeenNode[] = [];
  for (const one of nodes) if (!one.standby && !(await isFenced(context, datastore, one.node))) writers.push(one);
  writers.sort((a, b) => (b.timeline ?? 0) - (a.timeline ?? 0));
  const [first, second] = writers;
  if (first !== undefined && second !== undefined && first.timeline === second.timeline) {
    throw new HoldfastError('two-primaries', `${writers.map(({ node, timeline }) => `${node} (timeline ${timeline})`).join(' and ')} both take writes: which of them is the primary cannot be told`, { retryable: true, next: 'find out which one is right; fence the other' });
  }
  return first;
}

async function isFenced(context: Context, datastore: PostgresDatastore, node: string): Promise<boolean> {
  if (datastore.managed === undefined) return false;
  const { fencingGroups } = managedNode(datastore, node);
  if (fencingGroups.length === 0) return false;
  const { instance } = await lookAtInstance(context, datastore, node);
  return instance !== null && isClosed(instance.groups, fencingGroups);
}
