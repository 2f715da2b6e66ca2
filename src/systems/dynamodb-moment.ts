/** A table restored to a moment, into a new table beside it; and the item by which it shows which moment it is of. */
import { randomBytes } from 'node:crypto';
import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { whyNotDrillTable, type RecoveryWindow } from '../model/dynamodb-native.ts';
import type { Item, KeyAttribute } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName } from './aws-failure.ts';
import { CLOCK, findTable, retried, type Clock, type TableFacts } from './dynamodb.ts';

interface Access {
  /** Of `AwsClients.dynamo`. */
  readonly client: DynamoDBClient;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

/** undefined: the server does not know continuous backups. */
export async function recoveryWindow(access: Access, table: string): Promise<RecoveryWindow | undefined> {
  const { DescribeContinuousBackupsCommand } = await import('@aws-sdk/client-dynamodb');
  try {
    const answer = await asked(access, 'dynamodb:DescribeContinuousBackups', table, () => access.client.send(new DescribeContinuousBackupsCommand({ TableName: table }), { abortSignal: access.signal }));
    const found = answer.ContinuousBackupsDescription?.PointInTimeRecoveryDescription;
    return { enabled: found?.PointInTimeRecoveryStatus === 'ENABLED', earliestMs: found?.EarliestRestorableDateTime?.getTime() ?? null, latestMs: found?.LatestRestorableDateTime?.getTime() ?? null };
  } catch (error) {
    if (error instanceof HoldfastError && errorName(error.cause ?? error) === 'UnknownOperationException') return undefined;
    throw error;
  }
}

/** Of a table that the service restored. */
export interface RestoredFrom {
  readonly tableArn: string;
  readonly backupArn: string | null;
  readonly momentMs: number | null;
  readonly inProgress: boolean;
}

export function restoredFrom({ description }: TableFacts): RestoredFrom | undefined {
  const found = description.RestoreSummary;
  if (found === undefined) return undefined;
  return { tableArn: found.SourceTableArn ?? '', backupArn: found.SourceBackupArn ?? null, momentMs: found.RestoreDateTime?.getTime() ?? null, inProgress: found.RestoreInProgress ?? false };
}

/** `moment` null: the newest that can be restored. */
export interface RestoreRequest {
  readonly source: Pick<TableFacts, 'name' | 'arn'>;
  readonly as: string;
  readonly from: { readonly momentMs: number | null } | { readonly backupArn: string };
  /** Whatever the source is: a table that is read once needs none of its capacity. */
  readonly onDemand?: boolean;
  /** Of the newest moment: when this was first asked for. An older table is of another run. */
  readonly sinceMs?: number;
}

/** So far may the newest moment lie behind: the service says about five minutes. */
const LAG_MS = 15 * 60_000;
/** Between the clocks of the worker and of the service. */
const SKEW_MS = 2 * 60_000;

/**
 * Asks for the new table. One of that name that the same restore has begun is given back: the service takes no token, so it is known by its
 * source, and by its moment as far as one was asked for. @throws HoldfastError `restore-target` when it is another one.
 */
export async function beginRestore(access: Access, request: RestoreRequest): Promise<TableFacts> {
  const there = await findTable(access.client, request.as, access.signal);
  if (there !== undefined) return sameRestore(there, request);
  const { RestoreTableFromBackupCommand, RestoreTableToPointInTimeCommand } = await import('@aws-sdk/client-dynamodb');
  const { source, as, from } = request;
  const billing = request.onDemand === true ? { BillingModeOverride: 'PAY_PER_REQUEST' as const } : {};
  const [action, run] = 'backupArn' in from
    ? (['dynamodb:RestoreTableFromBackup', () => access.client.send(new RestoreTableFromBackupCommand({ TargetTableName: as, BackupArn: from.backupArn, ...billing }), { abortSignal: access.signal })] as const)
    : ([
        'dynamodb:RestoreTableToPointInTime',
        () => access.client.send(new RestoreTableToPointInTimeCommand({ SourceTableName: source.name, TargetTableName: as, ...(from.momentMs === null ? { UseLatestRestorableTime: true } : { RestoreDateTime: new Date(from.momentMs) }), ...billing }), { abortSignal: access.signal }),
      ] as const);
  try {
    // At most 50 restores of an account at a time; several of one table are not taken.
    await asked(access, action, as, run as () => Promise<unknown>);
  } catch (error) {
    access.signal.throwIfAborted();
    // Begun by the try before, whose answer was lost.
    if (!(error instanceof HoldfastError) || !['TableAlreadyExistsException', 'ResourceInUseException'].includes(errorName(error.cause ?? error))) throw error;
  }
  const made = await findTable(access.client, as, access.signal);
  if (made === undefined) throw new HoldfastError('restore-answer', `${as} was to be restored, and cannot be found`, { retryable: true });
  return sameRestore(made, request);
}

function sameRestore(found: TableFacts, request: RestoreRequest): TableFacts {
  const why = whyOtherRestore(found, request);
  if (why !== null) throw new HoldfastError('restore-target', `table ${request.as} is there already: ${why}`, { next: 'nothing was changed; choose a name that is free' });
  return found;
}

/** Why a table of that name is not what this request has begun; null: it may be. */
export function whyOtherRestore(found: TableFacts, { source, from, sinceMs }: Pick<RestoreRequest, 'source' | 'from' | 'sinceMs'>): string | null {
  const is = restoredFrom(found);
  if (is === undefined) return 'it is no restored table';
  if (is.tableArn !== source.arn) return `it was restored from ${is.tableArn}`;
  if ('backupArn' in from) return is.backupArn === from.backupArn ? null : `it was restored from ${is.backupArn ?? 'a moment, not from a backup'}`;
  // To the second, as the service restores.
  if (from.momentMs !== null) return is.momentMs !== null && Math.floor(is.momentMs / 1000) !== Math.floor(from.momentMs / 1000) ? `it is of ${new Date(is.momentMs).toISOString()}` : null;
  if (sinceMs === undefined) return null;
  const madeMs = found.description.CreationDateTime?.getTime();
  if (madeMs !== undefined && madeMs < sinceMs - SKEW_MS) return `it was restored at ${new Date(madeMs).toISOString()}, before this was asked for`;
  return is.momentMs !== null && is.momentMs < sinceMs - LAG_MS ? `it is of ${new Date(is.momentMs).toISOString()}, which is not the newest moment` : null;
}

/** Until it is there with its indexes. */
export async function awaitRestored(access: Access, request: RestoreRequest, options: { readonly deadlineMs: number; readonly pollMs: number; readonly onProgress: (status: string) => void }): Promise<TableFacts> {
  const clock = access.clock ?? CLOCK;
  for (;;) {
    const found = await findTable(access.client, request.as, access.signal);
    if (found === undefined) throw new HoldfastError('restore-gone', `table ${request.as} is not there any more: the service gave up, or somebody deleted it`, { next: 'look at the events of the account, then retry' });
    sameRestore(found, request);
    const indexes = (found.description.GlobalSecondaryIndexes ?? []).every(({ IndexStatus }) => IndexStatus === undefined || IndexStatus === 'ACTIVE');
    if (found.status === 'ACTIVE' && indexes && restoredFrom(found)?.inProgress !== true) return found;
    if (Date.now() > options.deadlineMs) throw new HoldfastError('restore-late', `table ${request.as} is ${found.status} still`, { retryable: true, next: 'it goes on in the service: retry, or raise wait' });
    options.onProgress(found.status);
    await clock.sleep(options.pollMs, access.signal);
  }
}

/** A table that a drill restored, and nothing else. */
export async function deleteDrillTable(access: Access, name: string, pollMs: number): Promise<'deleted' | 'gone'> {
  const { DeleteTableCommand } = await import('@aws-sdk/client-dynamodb');
  const found = await findTable(access.client, name, access.signal);
  if (found === undefined) return 'gone';
  const why = whyNotDrillTable({ name, restored: restoredFrom(found) !== undefined, protected: found.description.DeletionProtectionEnabled ?? false });
  if (why !== null) throw new HoldfastError('not-a-drill', `table ${name} is not deleted: ${why}`, { next: 'nothing was changed; delete it yourself, if it may go' });
  if (found.status !== 'DELETING') {
    try {
      await asked(access, 'dynamodb:DeleteTable', name, () => access.client.send(new DeleteTableCommand({ TableName: name }), { abortSignal: access.signal }));
    } catch (error) {
      if (!(error instanceof HoldfastError) || errorName(error.cause ?? error) !== 'ResourceNotFoundException') throw error;
    }
  }
  while ((await findTable(access.client, name, access.signal)) !== undefined) await (access.clock ?? CLOCK).sleep(pollMs, access.signal);
  return 'deleted';
}

// --- the marker ----------------------------------------------------------------------------------------------------------------------

/** Attribute that says what it is; nobody else's item is ever written or deleted. */
export const MARKER_ATTRIBUTE = 'holdfast-marker';

/** A key that nobody else uses, of the types that the table has. The same run finds it again by `id`. */
export function markerKey(key: readonly KeyAttribute[], types: Readonly<Record<string, string>>, id: string): Item {
  return Object.fromEntries(key.map(({ name }) => {
    const type = types[name];
    // A number of 38 digits that is the same for the same run.
    if (type === 'N') return [name, { N: `-9${BigInt(`0x${Buffer.from(id).toString('hex').slice(0, 24) || '1'}`)}`.slice(0, 38) }];
    return [name, type === 'B' ? { B: Buffer.from(`holdfast-marker ${id}`).toString('base64') } : { S: `holdfast-marker ${id}` }];
  }));
}

/** Reads it consistently; undefined: there is none. @throws HoldfastError when the item is somebody else's. */
export async function readMarker(items: DynamoDBClient, table: string, key: Item, signal: AbortSignal): Promise<string | undefined> {
  const { GetItemCommand } = await import('@aws-sdk/client-dynamodb');
  const access = { client: items, signal };
  const { Item: found } = await asked(access, 'dynamodb:GetItem', table, () => items.send(new GetItemCommand({ TableName: table, Key: key as never, ConsistentRead: true }), { abortSignal: signal }));
  if (found === undefined) return undefined;
  const value = (found as unknown as Item)[MARKER_ATTRIBUTE];
  if (value === undefined || !('S' in value)) throw new HoldfastError('marker-foreign', `the item that a marker would be in ${table} is somebody else's`, { next: 'nothing was changed; try again: the next run has another key' });
  return value.S;
}

/** @returns what was written. */
export async function writeMarker(items: DynamoDBClient, table: string, key: Item, phase: string, signal: AbortSignal): Promise<string> {
  const { PutItemCommand } = await import('@aws-sdk/client-dynamodb');
  const value = `${phase} ${randomBytes(6).toString('hex')}`;
  const name = Object.keys(key)[0]!;
  await asked({ client: items, signal }, 'dynamodb:PutItem', table, () =>
    items.send(new PutItemCommand({ TableName: table, Item: { ...key, [MARKER_ATTRIBUTE]: { S: value } } as never, ConditionExpression: 'attribute_not_exists(#key) or attribute_exists(#ours)', ExpressionAttributeNames: { '#key': name, '#ours': MARKER_ATTRIBUTE } }), { abortSignal: signal }),
  );
  return value;
}

export async function removeMarker(items: DynamoDBClient, table: string, key: Item, signal: AbortSignal): Promise<void> {
  const { DeleteItemCommand } = await import('@aws-sdk/client-dynamodb');
  const name = Object.keys(key)[0]!;
  await asked({ client: items, signal }, 'dynamodb:DeleteItem', table, () =>
    items.send(new DeleteItemCommand({ TableName: table, Key: key as never, ConditionExpression: 'attribute_not_exists(#key) or attribute_exists(#ours)', ExpressionAttributeNames: { '#key': name, '#ours': MARKER_ATTRIBUTE } }), { abortSignal: signal }),
  );
}

async function asked<T>(access: Access, action: string, on: string, run: () => Promise<T>): Promise<T> {
  try {
    return await retried(action, on, run, { signal: access.signal, clock: access.clock ?? CLOCK });
  } catch (error) {
    access.signal.throwIfAborted();
    const cause = error instanceof HoldfastError ? (error.cause ?? error) : error;
    const hint = { PointInTimeRecoveryUnavailableException: 'turn on point-in-time recovery of the table', InvalidRestoreTimeException: 'choose a moment that can be restored', LimitExceededException: 'at most 50 restores of an account at a time: try later', TableInUseException: 'another restore of this table is under way' }[errorName(cause)];
    throw hint === undefined ? error : awsFailure('restore-refused', action, on, cause, hint);
  }
}
