import type { DBCluster, DBInstance, GlobalCluster, RDSClient, Tag } from '@aws-sdk/client-rds';
import type { ManagedNode } from '../model/config-managed.ts';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import type { RdsSaw } from '../model/managed-roles.ts';
import { tagValue } from '../model/managed-roles.ts';
import type { Context } from './context.ts';

/** What the RDS API says of an instance. */
export interface ManagedInstance {
  readonly identifier: string;
  readonly region: string;
  readonly arn: string;
  readonly status: string;
  /** Identifier or ARN of what it replicates from; null: nothing. */
  readonly source: string | null;
  readonly replicas: readonly string[];
  readonly groups: readonly { readonly id: string; readonly active: boolean }[];
  readonly tags: ReadonlyMap<string, string>;
  readonly cluster: string | null;
  /** As it was answered, for a replacement that shall be like it. */
  readonly raw: DBInstance;
}

export interface ManagedCluster {
  readonly identifier: string;
  readonly region: string;
  readonly arn: string;
  readonly status: string;
  readonly members: readonly { readonly instance: string; readonly writer: boolean }[];
  readonly groups: readonly { readonly id: string; readonly active: boolean }[];
  readonly tags: ReadonlyMap<string, string>;
}

export interface ManagedGlobal {
  readonly identifier: string;
  readonly status: string;
  readonly members: readonly { readonly arn: string; readonly writer: boolean }[];
}

/** What carries the fence of a managed database. */
export const FENCE_TAGS = { execution: 'holdfast:execution', epoch: 'holdfast:epoch', groups: 'holdfast:groups' } as const;
/** What tells whose promotion it is, so that one begun by a lost worker is found and never begun again. */
export const PROMOTION_TAGS = { execution: 'holdfast:promotion-execution', epoch: 'holdfast:promotion-epoch' } as const;

export function managedNode(datastore: PostgresDatastore, node: string): ManagedNode {
  const found = datastore.nodes[node]?.rds;
  if (found === undefined) throw new HoldfastError('not-managed', `node ${node} names no RDS instance`, { next: `give nodes.${node}.rds: { instance, region }` });
  return found;
}

/** Its groups are the fencing groups and nothing else: applications are let in no more, whether that is in force yet or not. */
export function isClosed(groups: readonly { readonly id: string }[], fencingGroups: readonly string[]): boolean {
  return fencingGroups.length > 0 && groups.length === fencingGroups.length && groups.every(({ id }) => fencingGroups.includes(id));
}

export function regionOf(context: Context, node: ManagedNode): string {
  return node.region ?? context.config.aws.region;
}

/** @returns null when RDS knows no such instance */
export async function describeInstance(context: Context, region: string, identifier: string): Promise<ManagedInstance | null> {
  const { DescribeDBInstancesCommand } = await import('@aws-sdk/client-rds');
  const answer = await rdsCall(context, region, 'rds:DescribeDBInstances', identifier, (client) => client.send(new DescribeDBInstancesCommand({ DBInstanceIdentifier: identifier }))).catch(absent);
  const raw = answer?.DBInstances?.[0];
  if (raw === undefined) return null;
  return {
    identifier: raw.DBInstanceIdentifier ?? identifier,
    region,
    arn: raw.DBInstanceArn ?? '',
    status: raw.DBInstanceStatus ?? 'unknown',
    source: raw.ReadReplicaSourceDBInstanceIdentifier || null,
    replicas: raw.ReadReplicaDBInstanceIdentifiers ?? [],
    groups: groupsOf(raw.VpcSecurityGroups),
    tags: tagsOf(raw.TagList),
    cluster: raw.DBClusterIdentifier ?? null,
    raw,
  };
}

/** A node's instance. @throws HoldfastError `instance-missing` */
export async function instanceOf(context: Context, datastore: PostgresDatastore, node: string): Promise<ManagedInstance> {
  const rds = managedNode(datastore, node);
  const region = regionOf(context, rds);
  const found = await describeInstance(context, region, rds.instance);
  if (found === null) throw new HoldfastError('instance-missing', `RDS knows no instance ${rds.instance} in ${region} (node ${node})`, { next: `correct nodes.${node}.rds` });
  return found;
}

/** The same, never an error: that RDS does not answer is a finding. */
export async function lookAtInstance(context: Context, datastore: PostgresDatastore, node: string): Promise<{ readonly instance: ManagedInstance | null; readonly saw: RdsSaw }> {
  try {
    const rds = managedNode(datastore, node);
    const instance = await describeInstance(context, regionOf(context, rds), rds.instance);
    return { instance, saw: instance === null ? { answers: true, found: false } : { answers: true, found: true, status: instance.status, source: instance.source } };
  } catch (error) {
    return { instance: null, saw: { answers: false, error: (error as Error).message.split('\n')[0]! } };
  }
}

export async function describeCluster(context: Context, region: string, identifier: string): Promise<ManagedCluster> {
  const { DescribeDBClustersCommand } = await import('@aws-sdk/client-rds');
  const answer = await rdsCall(context, region, 'rds:DescribeDBClusters', identifier, (client) => client.send(new DescribeDBClustersCommand({ DBClusterIdentifier: identifier }))).catch(absent);
  const raw: DBCluster | undefined = answer?.DBClusters?.[0];
  if (raw === undefined) throw new HoldfastError('cluster-missing', `RDS knows no DB cluster ${identifier} in ${region}`, { next: 'correct managed.cluster, or nodes.<node>.rds.cluster and region' });
  return {
    identifier: raw.DBClusterIdentifier ?? identifier,
    region,
    arn: raw.DBClusterArn ?? '',
    status: raw.Status ?? 'unknown',
    members: (raw.DBClusterMembers ?? []).map((member) => ({ instance: member.DBInstanceIdentifier ?? '', writer: member.IsClusterWriter === true })),
    groups: groupsOf(raw.VpcSecurityGroups),
    tags: tagsOf(raw.TagList),
  };
}

/** @param region any Region where the global database has a cluster: each answers for all of it */
export async function describeGlobal(context: Context, region: string, identifier: string): Promise<ManagedGlobal> {
  const { DescribeGlobalClustersCommand } = await import('@aws-sdk/client-rds');
  const answer = await rdsCall(context, region, 'rds:DescribeGlobalClusters', identifier, (client) => client.send(new DescribeGlobalClustersCommand({ GlobalClusterIdentifier: identifier }))).catch(absent);
  const raw: GlobalCluster | undefined = answer?.GlobalClusters?.[0];
  if (raw === undefined) throw new HoldfastError('cluster-missing', `RDS knows no global cluster ${identifier}`, { next: 'correct managed.globalCluster' });
  return { identifier, status: raw.Status ?? 'unknown', members: (raw.GlobalClusterMembers ?? []).map((member) => ({ arn: member.DBClusterArn ?? '', writer: member.IsWriter === true })) };
}

/** Security groups in place of those there are now: network rules of the instance itself, which no replica takes over. */
export async function setInstanceGroups(context: Context, instance: ManagedInstance, groups: readonly string[]): Promise<void> {
  const { ModifyDBInstanceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, instance.region, 'rds:ModifyDBInstance', instance.identifier, (client) => client.send(new ModifyDBInstanceCommand({ DBInstanceIdentifier: instance.identifier, VpcSecurityGroupIds: [...groups], ApplyImmediately: true })));
}

export async function setClusterGroups(context: Context, cluster: ManagedCluster, groups: readonly string[]): Promise<void> {
  const { ModifyDBClusterCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, cluster.region, 'rds:ModifyDBCluster', cluster.identifier, (client) => client.send(new ModifyDBClusterCommand({ DBClusterIdentifier: cluster.identifier, VpcSecurityGroupIds: [...groups], ApplyImmediately: true })));
}

export async function addTags(context: Context, of: { region: string; arn: string }, tags: Readonly<Record<string, string>>): Promise<void> {
  const { AddTagsToResourceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, of.region, 'rds:AddTagsToResource', of.arn, (client) => client.send(new AddTagsToResourceCommand({ ResourceName: of.arn, Tags: Object.entries(tags).map(([Key, value]) => ({ Key, Value: tagValue(value) })) })));
}

export async function removeTags(context: Context, of: { region: string; arn: string }, keys: readonly string[]): Promise<void> {
  const { RemoveTagsFromResourceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, of.region, 'rds:RemoveTagsFromResource', of.arn, (client) => client.send(new RemoveTagsFromResourceCommand({ ResourceName: of.arn, TagKeys: [...keys] })));
}

/** May we? Asked by taking away a tag that is not there: nothing changes. RDS has no dry run for what matters more. */
export async function mayTag(context: Context, of: { region: string; arn: string }): Promise<{ allowed: boolean; found: string }> {
  try {
    await removeTags(context, of, ['holdfast:not-there']);
    return { allowed: true, found: 'allowed' };
  } catch (error) {
    return { allowed: false, found: (error as Error).message };
  }
}

/** What lets whom in by these groups. @returns null when EC2 does not say */
export async function groupRules(context: Context, region: string, groups: readonly string[]): Promise<{ readonly sources: readonly string[]; readonly error: string | null }> {
  const { DescribeSecurityGroupsCommand } = await import('@aws-sdk/client-ec2');
  try {
    const client = await context.aws.ec2(region);
    const { SecurityGroups = [] } = await client.send(new DescribeSecurityGroupsCommand({ GroupIds: [...groups] }));
    const permissions = SecurityGroups.flatMap((group) => group.IpPermissions ?? []);
    const sources = permissions.flatMap((permission) => [
      ...(permission.IpRanges ?? []).map((range) => range.CidrIp ?? '?'),
      ...(permission.Ipv6Ranges ?? []).map((range) => range.CidrIpv6 ?? '?'),
      ...(permission.UserIdGroupPairs ?? []).map((pair) => pair.GroupId ?? '?'),
      ...(permission.PrefixListIds ?? []).map((list) => list.PrefixListId ?? '?'),
    ]);
    return { sources: [...new Set(sources)], error: SecurityGroups.length < groups.length ? `only ${SecurityGroups.length} of ${groups.length} exist` : null };
  } catch (error) {
    return { sources: [], error: `${(error as Error).name}: ${(error as Error).message}` };
  }
}

export async function promoteReplica(context: Context, instance: ManagedInstance): Promise<void> {
  const { PromoteReadReplicaCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, instance.region, 'rds:PromoteReadReplica', instance.identifier, (client) => client.send(new PromoteReadReplicaCommand({ DBInstanceIdentifier: instance.identifier })));
}

export async function failoverCluster(context: Context, cluster: ManagedCluster, target: string): Promise<void> {
  const { FailoverDBClusterCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, cluster.region, 'rds:FailoverDBCluster', cluster.identifier, (client) => client.send(new FailoverDBClusterCommand({ DBClusterIdentifier: cluster.identifier, TargetDBInstanceIdentifier: target })));
}

/** Asked in the target's Region: the other one may be lost. */
export async function moveGlobal(context: Context, region: string, global: string, targetArn: string, allowDataLoss: boolean): Promise<void> {
  const { FailoverGlobalClusterCommand, SwitchoverGlobalClusterCommand } = await import('@aws-sdk/client-rds');
  if (allowDataLoss) await rdsCall(context, region, 'rds:FailoverGlobalCluster', global, (client) => client.send(new FailoverGlobalClusterCommand({ GlobalClusterIdentifier: global, TargetDbClusterIdentifier: targetArn, AllowDataLoss: true })));
  else await rdsCall(context, region, 'rds:SwitchoverGlobalCluster', global, (client) => client.send(new SwitchoverGlobalClusterCommand({ GlobalClusterIdentifier: global, TargetDbClusterIdentifier: targetArn })));
}

export async function stopInstance(context: Context, instance: ManagedInstance): Promise<void> {
  const { StopDBInstanceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, instance.region, 'rds:StopDBInstance', instance.identifier, (client) => client.send(new StopDBInstanceCommand({ DBInstanceIdentifier: instance.identifier })));
}

export async function startInstance(context: Context, instance: ManagedInstance): Promise<void> {
  const { StartDBInstanceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, instance.region, 'rds:StartDBInstance', instance.identifier, (client) => client.send(new StartDBInstanceCommand({ DBInstanceIdentifier: instance.identifier })));
}

/** Ends every connection, also those that a change of security groups leaves alone. */
export async function rebootInstance(context: Context, instance: ManagedInstance): Promise<void> {
  const { RebootDBInstanceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, instance.region, 'rds:RebootDBInstance', instance.identifier, (client) => client.send(new RebootDBInstanceCommand({ DBInstanceIdentifier: instance.identifier })));
}

export async function renameInstance(context: Context, instance: ManagedInstance, name: string): Promise<void> {
  const { ModifyDBInstanceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, instance.region, 'rds:ModifyDBInstance', instance.identifier, (client) => client.send(new ModifyDBInstanceCommand({ DBInstanceIdentifier: instance.identifier, NewDBInstanceIdentifier: name, ApplyImmediately: true })));
}

/** A read replica of `source` with the size, network and keys that `like` has. */
export async function createReplica(context: Context, wanted: { region: string; identifier: string; source: ManagedInstance; like: ManagedInstance; groups: readonly string[]; tags: Readonly<Record<string, string>> }): Promise<void> {
  const { CreateDBInstanceReadReplicaCommand } = await import('@aws-sdk/client-rds');
  const { region, identifier, source, like, groups, tags } = wanted;
  const { raw } = like;
  const abroad = source.region !== region;
  await rdsCall(context, region, 'rds:CreateDBInstanceReadReplica', identifier, (client) =>
    client.send(
      new CreateDBInstanceReadReplicaCommand({
        DBInstanceIdentifier: identifier,
        SourceDBInstanceIdentifier: abroad ? source.arn : source.identifier,
        ...(abroad ? { SourceRegion: source.region } : {}),
        DBInstanceClass: raw.DBInstanceClass,
        // A subnet group may only be named for a replica in another Region.
        ...(abroad && raw.DBSubnetGroup?.DBSubnetGroupName !== undefined ? { DBSubnetGroupName: raw.DBSubnetGroup.DBSubnetGroupName } : {}),
        ...(abroad && raw.StorageEncrypted === true && raw.KmsKeyId !== undefined ? { KmsKeyId: raw.KmsKeyId } : {}),
        ...(raw.MultiAZ === undefined ? {} : { MultiAZ: raw.MultiAZ }),
        ...(raw.PubliclyAccessible === undefined ? {} : { PubliclyAccessible: raw.PubliclyAccessible }),
        ...(raw.DeletionProtection === undefined ? {} : { DeletionProtection: raw.DeletionProtection }),
        ...(raw.Endpoint?.Port === undefined ? {} : { Port: raw.Endpoint.Port }),
        VpcSecurityGroupIds: [...groups],
        Tags: Object.entries(tags).map(([Key, Value]): Tag => ({ Key, Value })),
      }),
    ),
  );
}

export async function deleteInstance(context: Context, instance: ManagedInstance, finalSnapshot: string): Promise<void> {
  const { DeleteDBInstanceCommand } = await import('@aws-sdk/client-rds');
  await rdsCall(context, instance.region, 'rds:DeleteDBInstance', instance.identifier, (client) => client.send(new DeleteDBInstanceCommand({ DBInstanceIdentifier: instance.identifier, SkipFinalSnapshot: false, FinalDBSnapshotIdentifier: finalSnapshot })));
}

/** The newest point of a lag metric in the last minutes, in ms; null when there is none or CloudWatch does not answer. */
export async function cloudWatchLag(context: Context, node: ManagedNode, type: 'rds' | 'aurora' | 'aurora-global', nowMs: number): Promise<number | null> {
  const { GetMetricStatisticsCommand } = await import('@aws-sdk/client-cloudwatch');
  const metric = { rds: { MetricName: 'ReplicaLag', toMs: 1000 }, aurora: { MetricName: 'AuroraReplicaLag', toMs: 1 }, 'aurora-global': { MetricName: 'AuroraGlobalDBReplicationLag', toMs: 1 } }[type];
  const dimension = type === 'aurora-global' ? { Name: 'DBClusterIdentifier', Value: node.cluster } : { Name: 'DBInstanceIdentifier', Value: node.instance };
  try {
    const client = await context.aws.cloudWatch(regionOf(context, node));
    const { Datapoints = [] } = await client.send(
      new GetMetricStatisticsCommand({ Namespace: 'AWS/RDS', MetricName: metric.MetricName, Dimensions: [dimension], StartTime: new Date(nowMs - 300_000), EndTime: new Date(nowMs + 60_000), Period: 60, Statistics: ['Maximum'] }),
      { abortSignal: AbortSignal.timeout(5000) },
    );
    const newest = Datapoints.reduce<(typeof Datapoints)[number] | null>((latest, point) => (latest === null || (point.Timestamp?.getTime() ?? 0) > (latest.Timestamp?.getTime() ?? 0) ? point : latest), null);
    if (newest?.Maximum === undefined) return null;
    return newest.Maximum < 0 ? -1 : newest.Maximum * metric.toMs;
  } catch {
    return null;
  }
}

/** Errors of which another try cannot help. */
const FINAL = /AccessDenied|NotAuthorized|UnrecognizedClient|InvalidClientToken|NotFound|InvalidParameter|ValidationError|KMSKeyNotAccessible|QuotaExceeded|AlreadyExists|Unsupported/;
const ABSENT = /^(DBInstanceNotFound|DBClusterNotFound|GlobalClusterNotFound)/;

async function rdsCall<T>(context: Context, region: string, action: string, what: string, send: (client: RDSClient) => Promise<T>): Promise<T> {
  try {
    return await send(await context.aws.rds(region));
  } catch (error) {
    const { name, message } = error as Error;
    throw new HoldfastError('rds-call', `${action} on ${what} in ${region}: ${name}: ${message}`, {
      retryable: !FINAL.test(name),
      next: /AccessDenied|NotAuthorized/.test(name) ? `let the worker's role call ${action}` : /Throttl|TooManyRequests/.test(name) ? 'the account is being throttled: it is tried again' : `check that the worker reaches RDS in ${region}`,
      context: { name, answered: (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode !== undefined },
      cause: error,
    });
  }
}

function absent(error: unknown): undefined {
  if (error instanceof HoldfastError && ABSENT.test(String(error.context['name']))) return undefined;
  throw error;
}

/** RDS answered and refused; anything else leaves open whether it took effect. */
export function wasRefused(error: unknown): boolean {
  return error instanceof HoldfastError && error.code === 'rds-call' && error.context['answered'] === true && !error.retryable;
}

function groupsOf(groups: readonly { VpcSecurityGroupId?: string | undefined; Status?: string | undefined }[] | undefined): ManagedInstance['groups'] {
  // One that is on its way out still lets in.
  return (groups ?? []).map((group) => ({ id: group.VpcSecurityGroupId ?? '?', active: group.Status === 'active' }));
}

function tagsOf(tags: readonly Tag[] | undefined): ReadonlyMap<string, string> {
  return new Map((tags ?? []).map(({ Key = '', Value = '' }) => [Key, Value]));
}
