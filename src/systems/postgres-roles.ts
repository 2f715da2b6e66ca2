import type { Client } from 'pg';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import type { Mode } from '../model/runbook-schema.ts';
import type { Context } from './context.ts';
import { readEndpoint } from './endpoint.ts';
import { readFence } from './postgres-fence.ts';
import { lookAgain, lsnValue, nodeByAddress, nodeStatus, walTimeline, withNode, type NodeStatus } from './postgres-node.ts';

export interface Roles {
  readonly primary: string;
  readonly candidate: string | null;
  readonly statuses: ReadonlyMap<string, NodeStatus>;
  /** Of each standby's newest WAL; 0 when it could not be read. */
  readonly timelines: ReadonlyMap<string, number>;
}

export interface RolesWanted {
  readonly primary?: string | undefined;
  readonly candidate?: string | undefined;
  readonly mode?: Mode;
  /** The candidate that was decided on before. */
  readonly decided?: string;
}

/** The primary is what the application's secret points to: a server that merely thinks so does not count. */
export async function lookAtRoles(context: Context, datastore: PostgresDatastore, given: RolesWanted): Promise<Roles> {
  const names = Object.keys(datastore.nodes);
  const [looks, endpoint] = await Promise.all([
    Promise.all(names.map((name) => nodeStatus(context, datastore, name))),
    datastore.endpoint === undefined ? null : readEndpoint(context, datastore.endpoint.secret, datastore.endpoint.secretRegion),
  ]);
  const pointed = endpoint === null ? null : nodeByAddress(datastore, endpoint.host, endpoint.port);
  // A standby that is slow to answer may be the one that got furthest. A forced failover does not wait for its primary as well.
  const lost = given.mode === 'forced' ? (given.primary ?? pointed) : null;
  const statuses = await Promise.all(looks.map((status) => (status.node === lost ? status : lookAgain(context, datastore, status))));
  const byName = new Map(statuses.map((status) => [status.node, status]));
  const writable = statuses.filter((status) => status.inRecovery === false && !status.readOnlyDefault);
  const primary = given.primary ?? pointed ?? (writable.length === 1 ? writable[0]!.node : null);
  if (primary === null || !byName.has(primary)) {
    const where = endpoint === null ? 'there is no endpoint secret' : `the secret points to ${endpoint.host}:${endpoint.port}`;
    throw new HoldfastError('primary-unknown', `which node is the primary cannot be told: ${where}, and ${writable.length} node(s) are writable (${names.join(', ')})`, {
      next: 'give the parameter primary, or correct the nodes’ addresses in holdfast.yaml',
    });
  }
  if (given.candidate !== undefined && !byName.has(given.candidate)) throw new HoldfastError('unknown-node', `there is no node named "${given.candidate}"`, { next: `use one of: ${names.join(', ')}` });
  const standbys = statuses.filter((status) => status.node !== primary && status.inRecovery === true);
  // Positions of different timelines do not compare: a standby that was left behind on an old one may show the larger number.
  const seen = new Map(await Promise.all(standbys.map(async (status) => [status.node, await standingOf(context, datastore, status)] as const)));
  const timelines = new Map([...seen].map(([node, { timeline }]) => [node, timeline]));
  // What was decided on stays: two standbys of a primary that takes writes are ahead of each other by turns.
  const decided = (status: NodeStatus): number => (status.node === given.decided ? 1 : 0);
  const planned = (given.mode ?? 'planned') === 'planned';
  standbys.sort((a, b) =>
    Number(seen.get(a.node)!.fenced) - Number(seen.get(b.node)!.fenced)
    || timelines.get(b.node)! - timelines.get(a.node)!
    || (planned ? decided(b) - decided(a) || Number(b.receiverStatus === 'streaming') - Number(a.receiverStatus === 'streaming') : 0)
    || Number(furthest(b) - furthest(a))
    || decided(b) - decided(a));
  return { primary, candidate: given.candidate ?? standbys[0]?.node ?? null, statuses: byName, timelines };
}

/** Where a standby stands that may be promoted. Timeline 0: not known. */
async function standingOf(context: Context, datastore: PostgresDatastore, status: NodeStatus): Promise<{ timeline: number; fenced: boolean }> {
  if (!status.superuser) return { timeline: 0, fenced: false };
  const look = async (client: Client): Promise<{ timeline: number; fenced: boolean }> => ({ timeline: (await walTimeline(client)) ?? 0, fenced: (await readFence(client)).epoch !== null });
  return withNode(context, datastore, status.node, look).catch(() => ({ timeline: 0, fenced: false }));
}

/** How far a standby got: what it received counts, also what it has not replayed yet. */
export function furthest(status: NodeStatus): bigint {
  return [status.receivedLsn, status.replayedLsn].reduce((most, lsn) => (lsn !== null && lsnValue(lsn) > most ? lsnValue(lsn) : most), 0n);
}
