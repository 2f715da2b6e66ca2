/** RDS as the keeper of snapshots: every call of it that backups, retention and drills make. What a call found stands in the answer; nothing is remembered. */
import type * as Rds from '@aws-sdk/client-rds';
import type { DBInstance, DBSnapshot, RDSClient, Tag } from '@aws-sdk/client-rds';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { TAG_COMMITTED, TAG_DATASTORE, TAG_DRILL, TAG_ENVIRONMENT, type Tags } from '../model/managed-snapshot.ts';
import type { Context } from './context.ts';

export interface SnapshotFacts {
  readonly identifier: string;
  readonly arn: string;
  readonly region: string;
  readonly instance: string;
  /** `creating`, `available`, `copying`, `failed`, `deleting` and whatever RDS adds. */
  readonly status: string;
  readonly percent: number | null;
  readonly createdAt: string | null;
  readonly databaseTime: string | null;
  readonly engineVersion: string | null;
  readonly allocatedGiB: number | null;
  readonly encrypted: boolean;
  readonly kmsKeyId: string | null;
  readonly tags: Tags;
}

export interface InstanceFacts {
  readonly identifier: string;
  readonly region: string;
  readonly status: string;
  readonly address: string | null;
  readonly port: number | null;
  readonly subnetGroup: string | null;
  readonly securityGroups: readonly string[];
  readonly engineVersion: string | null;
  readonly publiclyAccessible: boolean;
  readonly latestRestorableTime: string | null;
  readonly tags: Tags;
}

export interface Place {
  readonly region: string;
  readonly identifier: string;
}

/** Errors that no second attempt can mend: rights, quotas, keys, wrong names. */
const FINAL = /^(AccessDenied|Unauthorized|UnrecognizedClient|InvalidClientTokenId|SignatureDoesNotMatch|OptInRequired|AuthFailure|.*QuotaExceeded|.*NotFound|KMSKeyNotAccessible|InvalidParameter|InvalidVPCNetworkState|InvalidSubnet|InsufficientDBInstanceCapacity|StorageTypeNotSupported|ValidationError|MissingParameter|DBSubnetGroup|InvalidRestore|PointInTimeRestoreNotEnabled)/;

function rdsError(error: unknown, what: string): HoldfastError {
  if (error instanceof HoldfastError) return error;
  const name = (error as Error).name ?? 'Error';
  const final = FINAL.test(name);
  return new HoldfastError(final ? 'rds-refused' : 'rds-unavailable', `${what}: ${name}: ${messageOf(error)}`, {
    retryable: !final,
    next: final ? 'check the rights of the worker, the quotas of the account, the key and the names in managed' : 'RDS is asked again; if it goes on, look at the events of the instance and at the throttling of the account',
    context: { awsError: name },
    cause: error,
  });
}

async function call<T>(context: Context, region: string, what: string, work: (client: RDSClient, sdk: typeof Rds) => Promise<T>): Promise<T> {
  try {
    return await work(await context.aws.rds(region), await import('@aws-sdk/client-rds'));
  } catch (error) {
    throw rdsError(error, what);
  }
}

function isNamed(error: unknown, pattern: RegExp): boolean {
  return pattern.test((error as Error).name ?? '');
}

const tagsOf = (list: readonly Tag[] | undefined): Tags => Object.fromEntries((list ?? []).flatMap(({ Key, Value }) => (Key === undefined ? [] : [[Key, Value ?? '']])));
const tagList = (tags: Tags): Tag[] => Object.entries(tags).map(([Key, Value]) => ({ Key, Value }));
const iso = (date: Date | undefined): string | null => date?.toISOString() ?? null;

function snapshotFacts(found: DBSnapshot, region: string): SnapshotFacts {
  return {
    identifier: found.DBSnapshotIdentifier ?? '', arn: found.DBSnapshotArn ?? '', region, instance: found.DBInstanceIdentifier ?? '', status: found.Status ?? 'unknown', percent: found.PercentProgress ?? null,
    createdAt: iso(found.SnapshotCreateTime), databaseTime: iso(found.SnapshotDatabaseTime), engineVersion: found.EngineVersion ?? null, allocatedGiB: found.AllocatedStorage ?? null,
    encrypted: found.Encrypted ?? false, kmsKeyId: found.KmsKeyId ?? null, tags: tagsOf(found.TagList),
  };
}

function instanceFacts(found: DBInstance, region: string): InstanceFacts {
  return {
    identifier: found.DBInstanceIdentifier ?? '', region, status: found.DBInstanceStatus ?? 'unknown', address: found.Endpoint?.Address ?? null, port: found.Endpoint?.Port ?? null,
    subnetGroup: found.DBSubnetGroup?.DBSubnetGroupName ?? null, securityGroups: (found.VpcSecurityGroups ?? []).flatMap((group) => group.VpcSecurityGroupId ?? []),
    engineVersion: found.EngineVersion ?? null, publiclyAccessible: found.PubliclyAccessible ?? false, latestRestorableTime: iso(found.LatestRestorableTime), tags: tagsOf(found.TagList),
  };
}

/** undefined: there is none. */
export function describeSnapshot(context: Context, { region, identifier }: Place): Promise<SnapshotFacts | undefined> {
  return call(context, region, `snapshot ${identifier} in ${region} cannot be described`, async (client, { DescribeDBSnapshotsCommand }) => {
    try {
      const { DBSnapshots } = await client.send(new DescribeDBSnapshotsCommand({ DBSnapshotIdentifier: identifier }));
      const found = DBSnapshots?.find((one) => one.DBSnapshotIdentifier === identifier);
      return found === undefined ? undefined : snapshotFacts(found, region);
    } catch (error) {
      if (isNamed(error, /^DBSnapshotNotFound/)) return undefined;
      throw error;
    }
  });
}

/** Asks RDS to take it. One of that name that is there already is given back: whose it is, the caller judges by its tags. */
export function createSnapshot(context: Context, request: Place & { instance: string; tags: Tags }): Promise<SnapshotFacts> {
  const { region, identifier, instance } = request;
  return call(context, region, `no snapshot of ${instance} in ${region} could be begun`, async (client, { CreateDBSnapshotCommand }) => {
    try {
      const { DBSnapshot } = await client.send(new CreateDBSnapshotCommand({ DBSnapshotIdentifier: identifier, DBInstanceIdentifier: instance, Tags: tagList(request.tags) }));
      return snapshotFacts(DBSnapshot ?? {}, region);
    } catch (error) {
      const there = isNamed(error, /^DBSnapshotAlreadyExists/) ? await describeSnapshot(context, request) : undefined;
      if (there === undefined) throw error;
      return there;
    }
  });
}

/** Asked in the Region that gets the copy. One that is there already is given back. */
export function copySnapshot(context: Context, request: { source: Pick<SnapshotFacts, 'arn' | 'region'>; to: Place; kmsKeyId: string | undefined; tags: Tags }): Promise<SnapshotFacts> {
  const { source, to } = request;
  return call(context, to.region, `${source.arn} could not be copied to ${to.region}`, async (client, { CopyDBSnapshotCommand }) => {
    try {
      const { DBSnapshot } = await client.send(
        new CopyDBSnapshotCommand({ SourceDBSnapshotIdentifier: source.arn, TargetDBSnapshotIdentifier: to.identifier, Tags: tagList(request.tags), ...(request.kmsKeyId === undefined ? {} : { KmsKeyId: request.kmsKeyId }) }),
      );
      return snapshotFacts(DBSnapshot ?? {}, to.region);
    } catch (error) {
      const there = isNamed(error, /^DBSnapshotAlreadyExists/) ? await describeSnapshot(context, to) : undefined;
      if (there === undefined) throw error;
      return there;
    }
  });
}

/** Adds the accounts, and reads back who may restore it. */
export function shareSnapshot(context: Context, place: Place, accounts: readonly string[]): Promise<string[]> {
  return call(context, place.region, `snapshot ${place.identifier} could not be shared`, async (client, { DescribeDBSnapshotAttributesCommand, ModifyDBSnapshotAttributeCommand }) => {
    await client.send(new ModifyDBSnapshotAttributeCommand({ DBSnapshotIdentifier: place.identifier, AttributeName: 'restore', ValuesToAdd: [...accounts] }));
    const { DBSnapshotAttributesResult } = await client.send(new DescribeDBSnapshotAttributesCommand({ DBSnapshotIdentifier: place.identifier }));
    const shared = DBSnapshotAttributesResult?.DBSnapshotAttributes?.find((attribute) => attribute.AttributeName === 'restore')?.AttributeValues ?? [];
    const missing = accounts.filter((account) => !shared.includes(account));
    if (missing.length > 0) throw new HoldfastError('snapshot-not-shared', `snapshot ${place.identifier} is not shared with ${missing.join(', ')}, although RDS said so`, { retryable: true });
    if (shared.includes('all')) throw new HoldfastError('snapshot-public', `snapshot ${place.identifier} may be restored by everybody`, { next: 'take the attribute restore=all away from it now' });
    return shared;
  });
}

/** Says on the snapshot itself where its backup is committed. */
export function tagCommitted(context: Context, place: Place, where: string): Promise<void> {
  return call(context, place.region, `snapshot ${place.identifier} could not be tagged`, async (client, { AddTagsToResourceCommand, DescribeDBSnapshotsCommand }) => {
    const { DBSnapshots = [] } = await client.send(new DescribeDBSnapshotsCommand({ DBSnapshotIdentifier: place.identifier }));
    await client.send(new AddTagsToResourceCommand({ ResourceName: DBSnapshots[0]?.DBSnapshotArn, Tags: [{ Key: TAG_COMMITTED, Value: where.replaceAll(/[^\w .:/=+@-]/g, '_').slice(0, 256) }] }));
  });
}

/** `gone` is as good as deleted; `busy`: RDS does not delete it in the state it is in (being taken, being copied). */
export function deleteSnapshot(context: Context, { region, identifier }: Place): Promise<'deleted' | 'gone' | 'busy'> {
  return call(context, region, `snapshot ${identifier} in ${region} could not be deleted`, async (client, { DeleteDBSnapshotCommand }) => {
    try {
      await client.send(new DeleteDBSnapshotCommand({ DBSnapshotIdentifier: identifier }));
      return 'deleted';
    } catch (error) {
      if (isNamed(error, /^DBSnapshotNotFound/)) return 'gone';
      if (isNamed(error, /^InvalidDBSnapshotState/)) return 'busy';
      throw error;
    }
  });
}

/** Every manual snapshot of the Region that carries this datastore's tags, whatever it is of. */
export function listSnapshots(context: Context, region: string, of: { environment: string; datastore: string }): Promise<SnapshotFacts[]> {
  return call(context, region, `the snapshots in ${region} could not be listed`, async (client, { paginateDescribeDBSnapshots }) => {
    const found: SnapshotFacts[] = [];
    for await (const page of paginateDescribeDBSnapshots({ client, pageSize: 100 }, { SnapshotType: 'manual' })) {
      for (const one of page.DBSnapshots ?? []) {
        const facts = snapshotFacts(one, region);
        if (facts.tags[TAG_ENVIRONMENT] === of.environment && facts.tags[TAG_DATASTORE] === of.datastore) found.push(facts);
      }
    }
    return found;
  });
}

/** undefined: there is none. */
export function describeDrillInstance(context: Context, { region, identifier }: Place): Promise<InstanceFacts | undefined> {
  return call(context, region, `instance ${identifier} in ${region} cannot be described`, async (client, { DescribeDBInstancesCommand }) => {
    try {
      const { DBInstances } = await client.send(new DescribeDBInstancesCommand({ DBInstanceIdentifier: identifier }));
      const found = DBInstances?.find((one) => one.DBInstanceIdentifier === identifier);
      return found === undefined ? undefined : instanceFacts(found, region);
    } catch (error) {
      if (isNamed(error, /^DBInstanceNotFound/)) return undefined;
      throw error;
    }
  });
}

export interface RestoreRequest extends Place {
  readonly from: { readonly snapshot: string } | { readonly instance: string; readonly at: string };
  readonly instanceClass: string;
  readonly subnetGroup: string;
  readonly securityGroups: readonly string[];
  readonly parameterGroup: string | undefined;
  readonly tags: Tags;
}

/** Asks for a private, single instance that nothing protects from being deleted. One of that name that is there already is given back. */
export function restoreInstance(context: Context, request: RestoreRequest): Promise<InstanceFacts> {
  const { region, identifier, from } = request;
  const common = {
    DBInstanceClass: request.instanceClass, DBSubnetGroupName: request.subnetGroup, VpcSecurityGroupIds: [...request.securityGroups], PubliclyAccessible: false, MultiAZ: false, DeletionProtection: false,
    AutoMinorVersionUpgrade: false, CopyTagsToSnapshot: false, Tags: tagList(request.tags), ...(request.parameterGroup === undefined ? {} : { DBParameterGroupName: request.parameterGroup }),
  };
  return call(context, region, `${identifier} could not be restored in ${region}`, async (client, { RestoreDBInstanceFromDBSnapshotCommand, RestoreDBInstanceToPointInTimeCommand }) => {
    try {
      const { DBInstance } =
        'snapshot' in from
          ? await client.send(new RestoreDBInstanceFromDBSnapshotCommand({ ...common, DBInstanceIdentifier: identifier, DBSnapshotIdentifier: from.snapshot }))
          : await client.send(new RestoreDBInstanceToPointInTimeCommand({ ...common, TargetDBInstanceIdentifier: identifier, SourceDBInstanceIdentifier: from.instance, RestoreTime: new Date(from.at) }));
      return instanceFacts(DBInstance ?? {}, region);
    } catch (error) {
      const there = isNamed(error, /^DBInstanceAlreadyExists/) ? await describeDrillInstance(context, request) : undefined;
      if (there === undefined) throw error;
      return there;
    }
  });
}

/** Without a last snapshot and without its automated backups. `gone` is as good as asked for. */
export function deleteInstance(context: Context, { region, identifier }: Place): Promise<'asked' | 'gone'> {
  return call(context, region, `instance ${identifier} in ${region} could not be deleted`, async (client, { DeleteDBInstanceCommand }) => {
    try {
      await client.send(new DeleteDBInstanceCommand({ DBInstanceIdentifier: identifier, SkipFinalSnapshot: true, DeleteAutomatedBackups: true }));
      return 'asked';
    } catch (error) {
      if (isNamed(error, /^DBInstanceNotFound/)) return 'gone';
      // It is being deleted already.
      const there = isNamed(error, /^InvalidDBInstanceState/) ? await describeDrillInstance(context, { region, identifier }) : undefined;
      if (there?.status === 'deleting') return 'asked';
      throw error;
    }
  });
}

/** Instances that drills of this environment made, with the tags that say which drill. */
export function listDrillInstances(context: Context, region: string, environment: string): Promise<InstanceFacts[]> {
  return call(context, region, `the instances in ${region} could not be listed`, async (client, { paginateDescribeDBInstances }) => {
    const found: InstanceFacts[] = [];
    for await (const page of paginateDescribeDBInstances({ client, pageSize: 100 }, {})) {
      for (const one of page.DBInstances ?? []) {
        const facts = instanceFacts(one, region);
        if (facts.tags[TAG_DRILL] !== undefined && facts.tags[TAG_ENVIRONMENT] === environment) found.push(facts);
      }
    }
    return found;
  });
}
