import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { describe, expect, it } from 'vitest';
import type { Item } from '../../src/model/dynamodb-item.ts';
import type { Clock } from '../../src/systems/dynamodb.ts';
import { createThrottle } from '../../src/systems/dynamodb-throttle.ts';
import { createWriter } from '../../src/systems/dynamodb-write.ts';
import { virtualClock } from '../dynamo.ts';

// DynamoDB Local neither throttles nor leaves items unprocessed; what the service answers is said here, on a clock that passes only while somebody waits.

type Batch = readonly string[];

interface Fake {
  readonly client: DynamoDBClient;
  /** Keys of each request, in the order they were sent. */
  readonly batches: Batch[];
}

/** Takes everything, unless `answer` says otherwise: keys that stay unprocessed, or an error. */
function table(writeUnits: number, answer: (keys: Batch, count: number) => readonly string[] | Error = () => []): Fake {
  const batches: Batch[] = [];
  const client = {
    async send(command: { readonly constructor: { readonly name: string }; readonly input: { readonly RequestItems?: Record<string, { PutRequest: { Item: Item } }[]> } }) {
      if (command.constructor.name === 'DescribeTableCommand') {
        return { Table: { TableName: 'orders', TableStatus: 'ACTIVE', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], ProvisionedThroughput: { ReadCapacityUnits: 1, WriteCapacityUnits: writeUnits } } };
      }
      const requests = command.input.RequestItems!['orders']!;
      const keys = requests.map(({ PutRequest: { Item: item } }) => (item['id'] as { S: string }).S);
      batches.push(keys);
      const said = answer(keys, batches.length);
      if (said instanceof Error) throw said;
      return { UnprocessedItems: { orders: requests.filter((_, at) => said.includes(keys[at]!)) }, ConsumedCapacity: [{ TableName: 'orders', CapacityUnits: keys.length - said.length }] };
    },
  };
  return { client: client as unknown as DynamoDBClient, batches };
}

const item = (at: number, bytes = 10): Item => ({ id: { S: `k${at}` }, text: { S: 'x'.repeat(bytes) } });

function refusal(name: string, status = 400): Error {
  return Object.assign(new Error(name), { name, $metadata: { httpStatusCode: status } });
}

async function writerOf(fake: Fake, clock: Clock, share = 1) {
  const { signal } = new AbortController();
  const throttle = await createThrottle({ client: fake.client, table: 'orders', unit: 'write', share, signal, clock });
  return { throttle, writer: createWriter({ items: fake.client, table: 'orders', key: throttle.facts.key, throttle, signal, clock }) };
}

describe('a writer', () => {
  it('cuts its batches to a quarter of a second of its share, to one item at least', async () => {
    const sizes = async (writeUnits: number, bytes: number): Promise<number> => {
      const fake = table(writeUnits);
      const { writer } = await writerOf(fake, virtualClock());
      for (let at = 0; at < 60; at += 1) await writer.put(item(at, bytes));
      expect(await writer.end()).toBe(60);
      expect(new Set(fake.batches.flat()).size).toBe(60);
      return Math.max(...fake.batches.map((batch) => batch.length));
    };
    expect(await sizes(40, 10)).toBe(10);
    expect(await sizes(40, 4000)).toBe(2);
    expect(await sizes(1, 10)).toBe(1);
    expect(await sizes(4000, 10)).toBe(25);
  });

  it('does not take the wait for its own share for a service that does not answer', async () => {
    // 25 units at 0.05 a second: more than eight minutes of waiting before each try.
    const throttled = table(0.05, (_, count) => (count % 3 === 1 ? refusal('ProvisionedThroughputExceededException') : []));
    const one = await writerOf(throttled, virtualClock());
    for (let at = 0; at < 4; at += 1) await one.writer.put(item(at, 25_000));
    expect(await one.writer.end()).toBe(4);
    const unprocessed = table(0.05, (keys, count) => (count % 3 === 1 ? keys : []));
    const clock = virtualClock();
    const other = await writerOf(unprocessed, clock);
    for (let at = 0; at < 4; at += 1) await other.writer.put(item(at, 25_000));
    expect(await other.writer.end()).toBe(4);
    expect(clock.nowMs()).toBeGreaterThan(4 * 5 * 60_000);
  });

  it('gives up what the service leaves unprocessed for five minutes', async () => {
    const fake = table(4000, (keys) => keys);
    const clock = virtualClock();
    const { writer } = await writerOf(fake, clock);
    await writer.put(item(0));
    await expect(writer.end()).rejects.toMatchObject({ code: 'dynamodb-unprocessed', retryable: true });
    expect(clock.nowMs()).toBeGreaterThan(5 * 60_000);
    expect(clock.nowMs()).toBeLessThan(6 * 60_000);
  });

  it('sends nothing more once a batch has failed, whatever waits', async () => {
    const fake = table(8, (keys) => (keys.includes('k0') ? refusal('AccessDeniedException') : []));
    const clock = virtualClock();
    const { writer } = await writerOf(fake, clock);
    const put = (async () => {
      for (let at = 0; at < 300; at += 1) await writer.put(item(at));
    })();
    await expect(put).rejects.toMatchObject({ code: 'dynamodb-call' });
    const sent = fake.batches.length;
    await expect(writer.end()).rejects.toMatchObject({ code: 'dynamodb-call' });
    // Whoever would still wait for the share is let in by now.
    await clock.sleep(3_600_000, new AbortController().signal);
    expect(fake.batches.length).toBe(sent);
    expect(fake.batches.flat().length).toBeLessThan(300);
  });
});
