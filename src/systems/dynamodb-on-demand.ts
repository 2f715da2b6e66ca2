/** On-demand backups: begun once, found by their name, deleted only when they are ours. */
import type { BackupDescription, DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { onDemandName, whyNotOurBackup } from '../model/dynamodb-native.ts';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName } from './aws-failure.ts';
import { CLOCK, retried, type Clock } from './dynamodb.ts';

interface Access {
  /** Of `AwsClients.dynamo`. */
  readonly client: DynamoDBClient;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

/** To begin with: `once` tries a request one time only (`AwsClients.dynamoItems`), since a repeated one makes a second backup. */
interface BeginAccess extends Access {
  readonly once: DynamoDBClient;
}

export interface OnDemandBackup {
  readonly arn: string;
  readonly name: string;
  readonly table: string;
  readonly tableArn: string;
  readonly status: 'CREATING' | 'AVAILABLE' | 'DELETED';
  readonly createdAtMs: number;
  readonly bytes: number | null;
}

/** undefined: it is not there (any more). */
export async function findOnDemand(access: Access, arn: string): Promise<OnDemandBackup | undefined> {
  const { DescribeBackupCommand } = await import('@aws-sdk/client-dynamodb');
  try {
    const answer = await asked(access, 'dynamodb:DescribeBackup', arn, () => access.client.send(new DescribeBackupCommand({ BackupArn: arn }), { abortSignal: access.signal }));
    const found = factsOf(answer.BackupDescription);
    return found?.status === 'DELETED' ? undefined : found;
  } catch (error) {
    if (error instanceof HoldfastError && errorName(error.cause ?? error) === 'BackupNotFoundException') return undefined;
    throw error;
  }
}

/** Of one table (undefined: of all), those whose name begins so. The service names deleted ones for a while: they are none. */
export async function listOnDemand(access: Access, of: { readonly table?: string; readonly prefix: string }): Promise<OnDemandBackup[]> {
  const { ListBackupsCommand } = await import('@aws-sdk/client-dynamodb');
  const found: OnDemandBackup[] = [];
  for (let after: string | undefined; ; ) {
    const page = await asked(access, 'dynamodb:ListBackups', of.table ?? 'all tables', () =>
      access.client.send(new ListBackupsCommand({ BackupType: 'USER', ...(of.table === undefined ? {} : { TableName: of.table }), ...(after === undefined ? {} : { ExclusiveStartBackupArn: after }) }), { abortSignal: access.signal }),
    );
    for (const one of page.BackupSummaries ?? []) {
      if (one.BackupArn === undefined || one.BackupStatus === 'DELETED' || !one.BackupName?.startsWith(of.prefix)) continue;
      found.push({ arn: one.BackupArn, name: one.BackupName, table: one.TableName ?? '', tableArn: one.TableArn ?? '', status: one.BackupStatus ?? 'CREATING', createdAtMs: one.BackupCreationDateTime?.getTime() ?? 0, bytes: one.BackupSizeBytes ?? null });
    }
    after = page.LastEvaluatedBackupArn;
    if (after === undefined) return found;
  }
}

/**
 * Asked for once. The service takes no token and allows two of one name, so one that was begun and whose answer was lost is found by its
 * name, which is of this backup alone; were there two after all, the older one counts and the other is deleted.
 */
export async function beginOnDemand(access: BeginAccess, of: { readonly table: string; readonly name: string }): Promise<OnDemandBackup> {
  const { CreateBackupCommand } = await import('@aws-sdk/client-dynamodb');
  const before = await ours(access, of);
  if (before !== undefined) return before;
  const answer = await asked(access, 'dynamodb:CreateBackup', of.table, () => access.once.send(new CreateBackupCommand({ TableName: of.table, BackupName: of.name }), { abortSignal: access.signal }), false).catch(async (error: unknown) => {
    access.signal.throwIfAborted();
    // It may have begun all the same.
    if ((await ours(access, of)) === undefined) throw error;
    return undefined;
  });
  const begun = answer?.BackupDetails?.BackupArn;
  const made = (await ours(access, of)) ?? (begun === undefined ? undefined : await findOnDemand(access, begun));
  if (made === undefined) throw new HoldfastError('on-demand-answer', `a backup of ${of.table} was begun, and cannot be found`, { retryable: true });
  return made;
}

async function ours(access: Access, of: { readonly table: string; readonly name: string }): Promise<OnDemandBackup | undefined> {
  const found = (await listOnDemand(access, { table: of.table, prefix: of.name })).filter(({ name }) => name === of.name).sort((a, b) => a.createdAtMs - b.createdAtMs || (a.arn < b.arn ? -1 : 1));
  for (const extra of found.slice(1)) await deleteOnDemand(access, { arn: extra.arn, name: of.name, tableArn: extra.tableArn });
  return found[0];
}

/** @throws HoldfastError `on-demand-gone`. */
export async function awaitOnDemand(access: Access, arn: string, options: { readonly pollMs: number; readonly onProgress: (backup: OnDemandBackup) => void }): Promise<OnDemandBackup> {
  for (;;) {
    const found = await findOnDemand(access, arn);
    if (found === undefined) throw new HoldfastError('on-demand-gone', `backup ${arn} is not there any more: somebody deleted it while it was taken`, { next: 'find out who may delete backups' });
    if (found.status === 'AVAILABLE') return found;
    options.onProgress(found);
    await (access.clock ?? CLOCK).sleep(options.pollMs, access.signal);
  }
}

/** Only after its name and table were read. @returns why it was left; undefined: it is gone. */
export async function deleteOnDemand(access: Access, of: { readonly arn: string; readonly name: string; readonly tableArn: string }): Promise<string | undefined> {
  const { DeleteBackupCommand } = await import('@aws-sdk/client-dynamodb');
  const found = await findOnDemand(access, of.arn);
  if (found === undefined) return undefined;
  const why = whyNotOurBackup(found, of);
  if (why !== null) return `backup ${of.arn} is not ours: ${why}`;
  try {
    await asked(access, 'dynamodb:DeleteBackup', of.arn, () => access.client.send(new DeleteBackupCommand({ BackupArn: of.arn }), { abortSignal: access.signal }));
    return undefined;
  } catch (error) {
    const name = error instanceof HoldfastError ? errorName(error.cause ?? error) : '';
    if (name === 'BackupNotFoundException') return undefined;
    if (name === 'BackupInUseException') return `backup ${of.arn} is in use: it is restored, or still being taken`;
    throw error;
  }
}

/**
 * Those of runs that began and were never committed. Only ids that our own store knows: a backup has no tags, so one of another environment
 * in the same account would look like ours by its name alone.
 */
export async function orphanOnDemand(access: Access, of: { readonly datastore: string; readonly tables: readonly string[]; readonly uncommitted: readonly string[]; readonly beforeMs: number }): Promise<OnDemandBackup[]> {
  const names = new Set(of.uncommitted.map((id) => onDemandName(of.datastore, id)));
  if (names.size === 0) return [];
  const found: OnDemandBackup[] = [];
  for (const table of of.tables) for (const one of await listOnDemand(access, { table, prefix: onDemandName(of.datastore, '') })) if (names.has(one.name) && one.createdAtMs < of.beforeMs) found.push(one);
  return found;
}

function factsOf(description: BackupDescription | undefined): OnDemandBackup | undefined {
  const { BackupDetails: details, SourceTableDetails: source } = description ?? {};
  if (details?.BackupArn === undefined) return undefined;
  return {
    arn: details.BackupArn, name: details.BackupName ?? '', table: source?.TableName ?? '', tableArn: source?.TableArn ?? '', status: details.BackupStatus ?? 'CREATING',
    createdAtMs: details.BackupCreationDateTime?.getTime() ?? 0, bytes: details.BackupSizeBytes ?? null,
  };
}

async function asked<T>(access: Access, action: string, on: string, run: () => Promise<T>, again = true): Promise<T> {
  try {
    // Beginning is not repeated here: whether it took effect is looked up first.
    return again ? await retried(action, on, run, { signal: access.signal, clock: access.clock ?? CLOCK }) : await run();
  } catch (error) {
    access.signal.throwIfAborted();
    throw awsFailure('on-demand', action, on, error);
  }
}
