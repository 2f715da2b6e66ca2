import { z } from 'zod';
import { managedSnapshotsSchema } from './config-snapshots.ts';
import { durationMs } from './units.ts';

/** A database that a cloud runs: which instance a node is, and what the cloud is asked for. */
export const managedNodeSchema = z
  .strictObject({
    instance: z.string().min(1).meta({ description: 'DB instance identifier.' }),
    region: z.string().optional().meta({ description: 'Region of the instance; default: aws.region.' }),
    cluster: z.string().min(1).optional().meta({ description: 'aurora-global: identifier of the DB cluster that the instance belongs to.' }),
    fencingGroups: z
      .array(z.string().regex(/^sg-[0-9a-z]+$/, 'expected a security group id such as sg-0a1b2c3d'))
      .default([])
      .meta({ description: "Security groups that let only Holdfast's workers in. While writes are refused, and on a fenced instance for good, they stand in place of the instance's own." }),
  })
  .meta({ description: 'The node is an instance of Amazon RDS or Aurora.' });

export const managedSchema = z
  .strictObject({
    type: z.enum(['rds', 'aurora', 'aurora-global']).meta({ description: 'rds: instances and read replicas, in one Region or several. aurora: instances of one DB cluster. aurora-global: one instance each of the clusters of a global database.' }),
    cluster: z.string().min(1).optional().meta({ description: 'aurora: DB cluster identifier.' }),
    globalCluster: z.string().min(1).optional().meta({ description: 'aurora-global: global cluster identifier.' }),
    maxReplicaLag: durationMs.prefault('30s').meta({ description: 'What CloudWatch may say of the lag (ReplicaLag, AuroraReplicaLag, AuroraGlobalDBReplicationLag) before a planned run is refused. Where SQL can measure it (rds), CloudWatch is only compared with it.' }),
    promoteTimeout: durationMs.prefault('45m').meta({ description: 'How long RDS may take to promote. After that nobody knows: the run waits for an operator, and promotion is never asked for again.' }),
    stopFenced: z.boolean().default(true).meta({ description: 'rds: a fenced old primary is stopped too. RDS starts it again after seven days; its fencing groups hold then.' }),
    replaced: z.enum(['keep', 'delete']).default('keep').meta({ description: 'rds: what becomes of the old instance when a rebuild has put a new read replica in its place. keep: it stays, renamed and fenced, and costs. delete: it goes, after a final snapshot.' }),
    snapshots: managedSnapshotsSchema.optional().meta({ description: 'A backup of this datastore is a managed snapshot; a logical dump stands in when that fails. Only with type: rds.' }),
  })
  .meta({ description: 'The servers are managed by Amazon RDS or Aurora: no host access, no superuser.' });

export type ManagedConfig = z.output<typeof managedSchema>;
export type ManagedNode = z.output<typeof managedNodeSchema>;

interface Checked {
  readonly managed?: ManagedConfig | undefined;
  readonly controller?: unknown;
  readonly nodes: Readonly<Record<string, { readonly rds?: ManagedNode | undefined; readonly dataDirectory?: string | undefined; readonly exec?: readonly string[] | undefined; readonly replication?: unknown }>>;
}

/** What is wrong with a managed datastore, with the path below it. */
export function managedProblems(datastore: Checked, defaultRegion: string): { level: 'error' | 'warning'; path: string[]; message: string; found?: string; allowed?: string }[] {
  const problems: ReturnType<typeof managedProblems> = [];
  const { managed } = datastore;
  const nodes = Object.entries(datastore.nodes);
  if (managed === undefined) {
    for (const [name, node] of nodes) if (node.rds !== undefined) problems.push({ level: 'error', path: ['nodes', name, 'rds'], message: 'it names an RDS instance, but the datastore is not managed', allowed: 'managed: { type: rds } beside nodes' });
    return problems;
  }
  if (managed.type === 'aurora' && managed.cluster === undefined) problems.push({ level: 'error', path: ['managed', 'cluster'], message: 'which DB cluster it is is not said', allowed: 'the DB cluster identifier' });
  if (managed.type === 'aurora-global' && managed.globalCluster === undefined) problems.push({ level: 'error', path: ['managed', 'globalCluster'], message: 'which global database it is is not said', allowed: 'the global cluster identifier' });
  if (datastore.controller !== undefined) problems.push({ level: 'error', path: ['controller'], message: 'a managed database has no controller of its own' });
  const owners = new Map<string, string>();
  for (const [name, node] of nodes) {
    const at = ['nodes', name];
    if (node.rds === undefined) {
      problems.push({ level: 'error', path: at, message: 'which DB instance it is is not said', allowed: 'rds: { instance: <DB instance identifier>, region: <Region> }' });
      continue;
    }
    const key = `${node.rds.region ?? defaultRegion}/${node.rds.instance.toLowerCase()}`;
    const owner = owners.get(key);
    if (owner !== undefined) problems.push({ level: 'error', path: [...at, 'rds', 'instance'], message: `node "${owner}" is the same instance`, found: key });
    owners.set(key, name);
    if (managed.type === 'aurora-global' && node.rds.cluster === undefined) problems.push({ level: 'error', path: [...at, 'rds', 'cluster'], message: 'which DB cluster of the global database it belongs to is not said', allowed: 'the DB cluster identifier' });
    for (const host of ['dataDirectory', 'exec', 'replication'] as const) if (node[host] !== undefined) problems.push({ level: 'error', path: [...at, host], message: 'nobody reaches the host of a managed instance' });
    if (nodes.length > 1 && managed.type !== 'aurora' && node.rds.fencingGroups.length === 0) problems.push({ level: 'warning', path: [...at, 'rds'], message: 'without fencingGroups nothing keeps applications out of it: a failover from it is refused' });
  }
  return problems;
}
