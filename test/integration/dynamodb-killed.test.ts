/** Workers that die right after a step has changed something of a table. moto stands for the service: DynamoDB Local restores nothing. */
import { CreateTableCommand, DeleteTableCommand, DescribeTableCommand, DescribeTimeToLiveCommand, DynamoDBClient, PutItemCommand, ScanCommand, UpdateContinuousBackupsCommand, UpdateTimeToLiveCommand } from '@aws-sdk/client-dynamodb';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Context } from '../../src/systems/context.ts';
import { surviveDeath } from '../survive-death.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

let client: DynamoDBClient;
const contexts: Context[] = [];

beforeAll(() => {
  const { aws } = suite();
  client = new DynamoDBClient({ region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
});

afterAll(() => {
  for (const context of contexts) context.close();
  client?.destroy();
});

/** A table with three items and time to live, and the configuration that names it. */
async function made(): Promise<{ table: string; context: Context }> {
  const table = uniqueName('orders');
  await client.send(new CreateTableCommand({ TableName: table, BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }] }));
  await client.send(new UpdateContinuousBackupsCommand({ TableName: table, PointInTimeRecoverySpecification: { PointInTimeRecoveryEnabled: true } }));
  await client.send(new UpdateTimeToLiveCommand({ TableName: table, TimeToLiveSpecification: { Enabled: true, AttributeName: 'until' } }));
  for (const id of ['a', 'b', 'c']) await client.send(new PutItemCommand({ TableName: table, Item: { id: { S: id } } }));
  const context = await testConfig({
    datastores: { items: { engine: 'dynamodb', tables: [table], endpoint: suite().aws.endpoint, region: suite().aws.region, credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' } } },
  });
  contexts.push(context);
  return { table, context };
}

async function idsOf(table: string): Promise<string[]> {
  return ((await client.send(new ScanCommand({ TableName: table }))).Items ?? []).map((item) => item['id']!.S!).sort();
}

// Each kill costs the 10 s after which the server misses a heartbeat: they run side by side.
describe.concurrent('a worker that is killed', () => {
  it('after the marker, the restore, its settings, its removal and that of the marker: each is done once, and nothing stays', async () => {
    const { table, context } = await made();
    const as = `holdfast-moment-${table}`;
    const of = { datastore: 'items', table };
    const result = await surviveDeath(
      context,
      [
        { id: 'marker', uses: 'dynamodb.marker', with: { ...of, apart: '10ms' } },
        { id: 'restore', uses: 'dynamodb.restoreToMoment', with: { ...of, as, poll: '50ms' } },
        { id: 'settings', uses: 'dynamodb.settings', with: { source: 'items', table, datastore: 'items', targetTable: as } },
        { id: 'remove', uses: 'dynamodb.removeRestored', with: { datastore: 'items', as } },
        { id: 'clean', uses: 'dynamodb.removeMarker', with: { ...of, key: '${steps.marker.key}' } },
      ],
      [{ at: 'dynamodb.marker:apply' }, { at: 'dynamodb.restoreToMoment:apply' }, { at: 'dynamodb.settings:apply' }, { at: 'dynamodb.removeRestored:apply' }, { at: 'dynamodb.removeMarker:apply' }],
    );
    expect(result).toMatchObject({ outcome: 'succeeded', failure: null });
    expect(await idsOf(table)).toEqual(['a', 'b', 'c']);
    await expect(client.send(new DescribeTableCommand({ TableName: as }))).rejects.toMatchObject({ name: 'ResourceNotFoundException' });
    expect((await client.send(new DescribeTimeToLiveCommand({ TableName: table }))).TimeToLiveDescription?.TimeToLiveStatus).toBe('ENABLED');
    await client.send(new DeleteTableCommand({ TableName: table }));
  }, 480_000);

  it('after the marker was written and after it was taken back leaves the table as it was', async () => {
    const { table, context } = await made();
    const result = await surviveDeath(
      context,
      [
        { id: 'marker', uses: 'dynamodb.marker', with: { datastore: 'items', table, apart: '10ms' } },
        { id: 'fail', uses: 'rollout.command', with: { argv: ['/bin/false'] } },
      ],
      [{ at: 'dynamodb.marker:apply' }, { at: 'dynamodb.marker:undo' }],
    );
    expect(result.steps.find(({ id }) => id === 'marker')?.outcome).toBe('undone');
    expect(await idsOf(table)).toEqual(['a', 'b', 'c']);
    await client.send(new DeleteTableCommand({ TableName: table }));
  }, 180_000);
});
