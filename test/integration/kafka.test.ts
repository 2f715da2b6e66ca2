import { Admin, Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { kafkaSteps } from '../../activities/kafka.ts';
import { createProcesses, startKafka, type KafkaBroker, type Processes } from '../../src/local/stack.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { runStep } from '../step-run.ts';
import { testConfig, testDirectory } from '../support.ts';

let processes: Processes;
let broker: KafkaBroker;
let context: Context;
let admin: Admin;
let producer: Producer<string, string, string, string>;

const failed = (result: PhaseResult): string[] => (result.checks ?? []).filter(({ ok }) => !ok).map(({ name }) => name);
const found = (result: PhaseResult, name: string): string | undefined => result.checks!.find((one) => one.name === name)?.found;
const gate = (phase: 'guard' | 'verify', input: Record<string, unknown>, of = context): Promise<PhaseResult> => runStep(kafkaSteps, of, 'kafka.lagGate', phase, { wait: '0s', ...input });

async function send(topic: string, partition: number, count: number): Promise<void> {
  await producer.send({ messages: Array.from({ length: count }, (_, index) => ({ topic, partition, key: String(index), value: 'x' })) });
}
const commit = (group: string, topic: string, offsets: Readonly<Record<number, number>>): Promise<void> =>
  admin.alterConsumerGroupOffsets({ groupId: group, topics: [{ name: topic, partitionOffsets: Object.entries(offsets).map(([partition, offset]) => ({ partition: Number(partition), offset: BigInt(offset) })) }] });

beforeAll(async () => {
  const directory = testDirectory('kafka');
  processes = createProcesses({ directory });
  broker = await startKafka({ processes, directory, users: { holdfast: 'right-password-771' } });
  context = await testConfig({ kafka: { main: { brokers: [broker.address] } } });
  admin = new Admin({ clientId: 'test', bootstrapBrokers: [broker.address] });
  producer = new Producer({ clientId: 'test', bootstrapBrokers: [broker.address], serializers: stringSerializers });
  await admin.createTopics({ topics: ['orders', 'mails', 'cut'], partitions: 3, replicas: 1 });
  for (const partition of [0, 1, 2]) await send('orders', partition, 10);
  await send('mails', 0, 4);
});

afterAll(async () => {
  await producer?.close();
  await admin?.close();
  await processes?.end();
});

it('counts what each group has not read, over all partitions: one that was never committed counts whole', async () => {
  await commit('shipping', 'orders', { 0: 10, 1: 7 });
  const behind = await gate('verify', { groups: ['shipping'] });
  expect(failed(behind)).toEqual(['lag of shipping']);
  expect(behind.facts).toMatchObject({ lag: 13, partitions: 3 });
  expect(found(behind, 'lag of shipping')).toBe('13: orders[2] 10 (never committed), orders[1] 3');
  expect(failed(await gate('verify', { groups: ['shipping'], maxLag: 13 }))).toEqual([]);
  // A topic that it must have read, and never did.
  expect((await gate('verify', { groups: ['shipping'], topics: ['orders', 'mails'], maxLag: 13 })).facts).toMatchObject({ lag: 17, partitions: 6 });
  await commit('shipping', 'orders', { 1: 10, 2: 10 });
  expect(failed(await gate('verify', { groups: ['shipping'] }))).toEqual([]);
  expect(failed(await gate('verify', { groups: ['shipping', 'nobody'] }))).toEqual(['group nobody']);
  expect(failed(await gate('verify', { groups: ['shipping'], topics: ['orders', 'none'] }))).toEqual(['topics of shipping']);
  expect(failed(await gate('guard', { groups: ['shipping'], topics: ['none'] }))).toEqual(['topics of shipping']);
});

it('waits until a consumer has caught up, and asks for its state', async () => {
  await commit('billing', 'orders', { 0: 0, 1: 0, 2: 0 });
  expect(failed(await gate('guard', { groups: ['billing'] }))).toEqual([]);
  expect(failed(await gate('verify', { groups: ['billing'], state: 'stable' }))).toEqual(['state of billing', 'lag of billing']);
  const waiting = gate('verify', { groups: ['billing'], state: 'stable', wait: '60s' });
  const consumer = new Consumer({ clientId: 'billing', groupId: 'billing', bootstrapBrokers: [broker.address], deserializers: stringDeserializers, autocommit: 100 });
  const stream = await consumer.consume({ topics: ['orders'], mode: 'committed', fallbackMode: 'earliest' });
  stream.on('data', () => {});
  const caughtUp = await waiting;
  expect(failed(caughtUp)).toEqual([]);
  expect(caughtUp.facts).toMatchObject({ lag: 0, partitions: 3 });
  expect(failed(await gate('verify', { groups: ['billing'], state: 'empty' }))).toEqual(['state of billing']);
  await consumer.close(true);
  expect(failed(await gate('verify', { groups: ['billing'], state: 'empty', wait: '30s' }))).toEqual([]);
});

it('offsets that belong to another log are no small lag: beyond the end, or before the oldest message', async () => {
  await send('cut', 0, 20);
  await commit('ahead', 'cut', { 0: 500 });
  expect(failed(await gate('verify', { groups: ['ahead'], maxLag: 1_000_000 }))).toEqual(['offsets of ahead']);
  await commit('late', 'cut', { 0: 3 });
  await admin.deleteRecords({ topics: [{ name: 'cut', partitions: [{ partition: 0, offset: 8n }] }] });
  const late = await gate('verify', { groups: ['late'], maxLag: 1_000_000 });
  expect(failed(late)).toEqual(['offsets of late']);
  expect(found(late, 'offsets of late')).toContain('5 unread messages are gone');
});

it('logs in; a wrong password and a silent broker are told apart, and no password is shown', async () => {
  process.env['HOLDFAST_TEST_KAFKA'] = 'right-password-771';
  process.env['HOLDFAST_TEST_KAFKA_WRONG'] = 'wrong-password-772';
  const sasl = (password: string): object => ({ brokers: [broker.saslAddress!], sasl: { mechanism: 'PLAIN', username: 'holdfast', password } });
  const of = await testConfig({ kafka: { right: sasl('env:HOLDFAST_TEST_KAFKA'), wrong: sasl('env:HOLDFAST_TEST_KAFKA_WRONG'), none: { brokers: [broker.saslAddress!] }, silent: { brokers: ['127.0.0.1:9'] } } });
  await commit('mailer', 'mails', { 0: 4, 1: 0, 2: 0 });
  expect(failed(await gate('verify', { cluster: 'right', groups: ['mailer'] }, of))).toEqual([]);
  await expect(gate('verify', { cluster: 'wrong', groups: ['mailer'] }, of)).rejects.toMatchObject({ code: 'kafka-refused', retryable: false, message: expect.not.stringContaining('77') });
  expect(failed(await gate('guard', { cluster: 'wrong', groups: ['mailer'] }, of))).toEqual(['Kafka wrong answers']);
  await expect(gate('verify', { cluster: 'silent', groups: ['mailer'] }, of)).rejects.toMatchObject({ code: 'kafka-unanswered', retryable: true });
  await expect(gate('verify', { groups: ['mailer'] }, of)).rejects.toMatchObject({ code: 'cluster-unknown' });
});
