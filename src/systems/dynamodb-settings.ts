import type { CreateTableCommandInput, DynamoDBClient } from '@aws-sdk/client-dynamodb';
import type { TableSettings } from '../model/dynamodb-settings.ts';
import { settingsOf } from '../model/dynamodb-settings.ts';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName } from './aws-failure.ts';
import { CLOCK, describeTable, findTable, retried, type Clock, type TableFacts } from './dynamodb.ts';

/** What a server that is not the service itself does not know. */
export function isUnknownOperation(error: unknown): boolean {
  return errorName(error) === 'UnknownOperationException';
}

/** One answer, or null where the server does not know the question. */
async function known<T>(action: string, table: string, signal: AbortSignal, ask: () => Promise<T>): Promise<T | null> {
  try {
    return await ask();
  } catch (error) {
    signal.throwIfAborted();
    if (isUnknownOperation(error)) return null;
    throw awsFailure('dynamodb-settings', action, table, error);
  }
}

export async function readSettings(client: DynamoDBClient, facts: TableFacts, signal: AbortSignal): Promise<TableSettings> {
  const { DescribeContinuousBackupsCommand } = await import('@aws-sdk/client-dynamodb');
  const options = { abortSignal: signal };
  const timeToLive = await readTimeToLive(client, facts.name, signal);
  const pointInTime = await known('dynamodb:DescribeContinuousBackups', facts.name, signal, async () => {
    const found = (await client.send(new DescribeContinuousBackupsCommand({ TableName: facts.name }), options)).ContinuousBackupsDescription?.PointInTimeRecoveryDescription;
    return { enabled: found?.PointInTimeRecoveryStatus === 'ENABLED', days: found?.RecoveryPeriodInDays ?? null };
  });
  return settingsOf(facts.description, { timeToLive, tags: await readTags(client, facts, signal), pointInTime });
}

/** By which attribute; null: it is off, or the server knows none. */
export async function readTimeToLive(client: DynamoDBClient, table: string, signal: AbortSignal): Promise<string | null> {
  const { DescribeTimeToLiveCommand } = await import('@aws-sdk/client-dynamodb');
  return known('dynamodb:DescribeTimeToLive', table, signal, async () => {
    const { TimeToLiveDescription: found } = await retried('dynamodb:DescribeTimeToLive', table, () => client.send(new DescribeTimeToLiveCommand({ TableName: table }), { abortSignal: signal }), { signal });
    return found?.TimeToLiveStatus === 'ENABLED' || found?.TimeToLiveStatus === 'ENABLING' ? (found.AttributeName ?? null) : null;
  });
}

/** null: the server knows no tags. Those of the service itself (`aws:`) cannot be set by anybody and are left out. */
export async function readTags(client: DynamoDBClient, facts: Pick<TableFacts, 'name' | 'arn'>, signal: AbortSignal): Promise<Record<string, string> | null> {
  const { ListTagsOfResourceCommand } = await import('@aws-sdk/client-dynamodb');
  return known('dynamodb:ListTagsOfResource', facts.name, signal, async () => {
    const tags: Record<string, string> = {};
    let token: string | undefined;
    do {
      const page = await client.send(new ListTagsOfResourceCommand({ ResourceArn: facts.arn, NextToken: token }), { abortSignal: signal });
      for (const { Key, Value } of page.Tags ?? []) if (Key !== undefined && !Key.startsWith('aws:')) tags[Key] = Value ?? '';
      token = page.NextToken;
    } while (token !== undefined);
    return tags;
  });
}

const POLL_MS = 500;
const LONGEST_POLL_MS = 10_000;

/** Made and usable, with its indexes. */
export async function createTable(client: DynamoDBClient, input: CreateTableCommandInput, signal: AbortSignal, clock: Clock = CLOCK): Promise<TableFacts> {
  const { CreateTableCommand } = await import('@aws-sdk/client-dynamodb');
  try {
    await client.send(new CreateTableCommand(input), { abortSignal: signal });
  } catch (error) {
    signal.throwIfAborted();
    throw awsFailure('dynamodb-create', 'dynamodb:CreateTable', input.TableName ?? '', error);
  }
  return awaitActive(client, input.TableName ?? '', signal, clock);
}

export async function awaitActive(client: DynamoDBClient, table: string, signal: AbortSignal, clock: Clock = CLOCK): Promise<TableFacts> {
  for (;;) {
    const facts = await describeTable(client, table, signal);
    if (facts.status === 'ACTIVE' && (facts.description.GlobalSecondaryIndexes ?? []).every(({ IndexStatus }) => (IndexStatus ?? 'ACTIVE') === 'ACTIVE')) return facts;
    if (facts.status !== 'CREATING' && facts.status !== 'UPDATING' && facts.status !== 'ACTIVE') throw new HoldfastError('dynamodb-table-state', `table ${table} is ${facts.status}`, { next: 'wait until it is ACTIVE, or choose another table' });
    await clock.sleep(POLL_MS, signal);
  }
}

/** Gone when it returns. @returns false: there was none. */
export async function deleteTable(client: DynamoDBClient, table: string, signal: AbortSignal, clock: Clock = CLOCK): Promise<boolean> {
  const { DeleteTableCommand } = await import('@aws-sdk/client-dynamodb');
  let asked = false;
  // One that is being restored can be deleted in hours only.
  for (let pauseMs = POLL_MS; ; pauseMs = Math.min(LONGEST_POLL_MS, pauseMs * 1.5)) {
    const facts = await findTable(client, table, signal);
    if (facts === undefined) return asked;
    if (facts.status === 'ACTIVE' || facts.status === 'ARCHIVED') {
      try {
        await client.send(new DeleteTableCommand({ TableName: table }), { abortSignal: signal });
        asked = true;
      } catch (error) {
        signal.throwIfAborted();
        if (errorName(error) === 'ResourceNotFoundException') return true;
        // Somebody else deletes or changes it just now; it is looked at again.
        if (errorName(error) !== 'ResourceInUseException') throw awsFailure('dynamodb-delete', 'dynamodb:DeleteTable', table, error);
      }
    }
    await clock.sleep(pauseMs, signal);
  }
}

/** What makes items come and go or names the table's owner: set only when the items are there. @returns what was set, in words. */
export async function applySettings(client: DynamoDBClient, table: string, settings: TableSettings, signal: AbortSignal, clock: Clock = CLOCK): Promise<string[]> {
  const sdk = await import('@aws-sdk/client-dynamodb');
  const options = { abortSignal: signal };
  const facts = await describeTable(client, table, signal);
  const done: string[] = [];
  async function set(what: string, action: string, run: () => Promise<unknown>): Promise<void> {
    try {
      await run();
      done.push(what);
    } catch (error) {
      signal.throwIfAborted();
      if (isUnknownOperation(error)) return;
      throw awsFailure('dynamodb-settings', action, table, error);
    }
    await awaitActive(client, table, signal, clock);
  }
  if (settings.stream !== null && facts.description.StreamSpecification?.StreamEnabled !== true) await set(`stream ${settings.stream}`, 'dynamodb:UpdateTable', () => client.send(new sdk.UpdateTableCommand({ TableName: table, StreamSpecification: { StreamEnabled: true, StreamViewType: settings.stream as 'NEW_IMAGE' } }), options));
  if (settings.tags !== null && Object.keys(settings.tags).length > 0) await set('tags', 'dynamodb:TagResource', () => client.send(new sdk.TagResourceCommand({ ResourceArn: facts.arn, Tags: Object.entries(settings.tags!).map(([Key, Value]) => ({ Key, Value })) }), options));
  if (settings.pointInTime?.enabled === true) await set('point-in-time recovery', 'dynamodb:UpdateContinuousBackups', () => client.send(new sdk.UpdateContinuousBackupsCommand({ TableName: table, PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true, ...(settings.pointInTime!.days === null ? {} : { RecoveryPeriodInDays: settings.pointInTime!.days }) } }), options));
  if (settings.deletionProtection && facts.description.DeletionProtectionEnabled !== true) await set('deletion protection', 'dynamodb:UpdateTable', () => client.send(new sdk.UpdateTableCommand({ TableName: table, DeletionProtectionEnabled: true }), options));
  // Last: from then on the service deletes what has expired. Turning on what is on is refused, also by the same attribute.
  if (settings.timeToLive !== null && settings.timeToLive !== (await readTimeToLive(client, table, signal))) await set(`time to live by ${settings.timeToLive}`, 'dynamodb:UpdateTimeToLive', () => client.send(new sdk.UpdateTimeToLiveCommand({ TableName: table, TimeToLiveSpecification: { Enabled: true, AttributeName: settings.timeToLive! } }), options));
  return done;
}
