import type { SQSClient } from '@aws-sdk/client-sqs';
import { CreateQueueCommand, DeleteMessageCommand, GetQueueAttributesCommand, ReceiveMessageCommand, SendMessageBatchCommand, SendMessageCommand } from '@aws-sdk/client-sqs';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { edgeSteps } from '../../activities/edge.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { RedriveReport } from '../../src/model/redrive.ts';
import type { Context } from '../../src/systems/context.ts';
import { awsProxy, THROTTLED_JSON, type AwsProxy } from '../aws-proxy.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

const region = 'eu-west-1';
let context: Context;
let proxy: AwsProxy;
let client: SQSClient;

beforeAll(async () => {
  proxy = await awsProxy(suite().aws.endpoint);
  context = await testConfig({ aws: { endpoint: proxy.url } });
  client = await (await testConfig()).aws.sqs(region);
});
afterAll(() => proxy?.close());
beforeEach(() => proxy.clear());

const run = (uses: string, phase: Phase, input: Record<string, unknown>, call: Parameters<typeof runStep>[5] = {}): Promise<PhaseResult> => runStep(edgeSteps, context, uses, phase, { region, ...input }, call);
const failing = (result: PhaseResult): string[] => result.checks!.filter((check) => !check.ok).map((check) => check.name);

interface Pair {
  readonly deadLetter: string;
  readonly queue: string;
  readonly input: Record<string, unknown>;
  readonly urls: { readonly deadLetter: string; readonly queue: string };
}

async function pair(options: { fifo?: boolean } = {}): Promise<Pair> {
  const end = options.fifo === true ? '.fifo' : '';
  const [deadLetter, queue] = [`${uniqueName('dead')}${end}`, `${uniqueName('orders')}${end}`];
  const fifo = options.fifo === true ? { FifoQueue: 'true' } : {};
  const dead = (await client.send(new CreateQueueCommand({ QueueName: deadLetter, Attributes: fifo }))).QueueUrl!;
  const { Attributes } = await client.send(new GetQueueAttributesCommand({ QueueUrl: dead, AttributeNames: ['QueueArn'] }));
  const url = (await client.send(new CreateQueueCommand({ QueueName: queue, Attributes: { ...fifo, RedrivePolicy: JSON.stringify({ deadLetterTargetArn: Attributes!.QueueArn, maxReceiveCount: 3 }) } }))).QueueUrl!;
  return { deadLetter, queue, urls: { deadLetter: dead, queue: url }, input: { deadLetterQueue: deadLetter, queue, method: 'batches', visibility: '5s' } };
}

async function fill(url: string, count: number, group?: string): Promise<string[]> {
  const bodies = Array.from({ length: count }, (_, index) => `order ${index}`);
  for (let from = 0; from < count; from += 10) {
    await client.send(new SendMessageBatchCommand({ QueueUrl: url, Entries: bodies.slice(from, from + 10).map((MessageBody, index) => ({ Id: String(index), MessageBody, MessageAttributes: { tenant: { DataType: 'String', StringValue: `t${index}` } }, ...(group === undefined ? {} : { MessageGroupId: group, MessageDeduplicationId: MessageBody }) })) }));
  }
  return bodies;
}

/** Everything in the queue, taken out. */
async function drain(url: string): Promise<{ body: string; tenant: string | undefined }[]> {
  const found: { body: string; tenant: string | undefined }[] = [];
  for (;;) {
    const { Messages = [] } = await client.send(new ReceiveMessageCommand({ QueueUrl: url, MaxNumberOfMessages: 10, MessageAttributeNames: ['All'], WaitTimeSeconds: 0 }));
    if (Messages.length === 0) return found;
    for (const message of Messages) {
      found.push({ body: message.Body!, tenant: message.MessageAttributes?.['tenant']?.StringValue });
      await client.send(new DeleteMessageCommand({ QueueUrl: url, ReceiptHandle: message.ReceiptHandle! }));
    }
  }
}

const bodiesIn = async (url: string): Promise<string[]> => (await drain(url)).map((message) => message.body).sort();

it('every message goes back once, with its attributes, counted one by one', async () => {
  const { urls, input } = await pair();
  const bodies = await fill(urls.deadLetter, 37);
  const inspected = await run('sqs.redrive', 'inspect', input);
  expect(inspected).toMatchObject({ satisfied: false, before: { deadLetter: { waiting: 37 }, queue: { waiting: 0 } } });
  expect(failing(await run('sqs.redrive', 'guard', input))).toEqual([]);
  expect(failing(await run('sqs.verifyEmpty', 'verify', { queue: input['deadLetterQueue'], wait: '100ms' }))).toEqual(['queue is empty']);
  const applied = await run('sqs.redrive', 'apply', input);
  expect(applied).toMatchObject({ outcome: 'changed', facts: { moved: 37, exact: true, doubtful: [], left: '' } });
  const verified = await run('sqs.redrive', 'verify', input, { facts: applied.facts! });
  expect(failing(verified)).toEqual([]);
  expect(verified.facts).toMatchObject({ deadLetterAfter: { waiting: 0, inFlight: 0 }, queueAfter: { waiting: 37 } });
  expect(failing(await run('sqs.verifyEmpty', 'verify', { queue: input['deadLetterQueue'] }))).toEqual([]);
  const moved = await drain(urls.queue);
  expect(moved.map((message) => message.body).sort()).toEqual([...bodies].sort());
  expect(moved.every((message) => /^t\d$/.test(message.tenant ?? ''))).toBe(true);
  expect(await run('sqs.redrive', 'apply', input)).toMatchObject({ outcome: 'already-satisfied', facts: { moved: 0 } });
});

it('a lost answer to a send leaves that batch in doubt: nothing is sent twice, nothing is lost, and the step says which', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 15);
  let sends = 0;
  proxy.rule((call) => (call.target === 'AmazonSQS.SendMessageBatch' && ++sends === 1 ? { cut: true } : undefined));
  const applied = await run('sqs.redrive', 'apply', input);
  expect(applied).toMatchObject({ outcome: 'changed', facts: { moved: 5, left: '' } });
  const doubtful = applied.facts!['doubtful'] as string[];
  expect(doubtful).toHaveLength(10);
  // The client did not repeat it by itself.
  expect(sends).toBe(2);
  expect(failing(await run('sqs.redrive', 'verify', input, { facts: applied.facts! }))).toEqual(['nothing in doubt']);
  expect(await bodiesIn(urls.queue)).toHaveLength(15);
  expect(new Set(await bodiesIn(urls.deadLetter)).size).toBe(10);
});

it('throttling is no doubt: what was refused for now is sent again, once', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 12);
  let sends = 0;
  proxy.rule((call) => (call.target === 'AmazonSQS.SendMessageBatch' && ++sends <= 2 ? { answer: { ...THROTTLED_JSON, headers: { 'content-type': 'application/x-amz-json-1.0' } } } : undefined));
  expect(await run('sqs.redrive', 'apply', input)).toMatchObject({ facts: { moved: 12, doubtful: [] } });
  expect(sends).toBe(4);
  expect(await bodiesIn(urls.queue)).toHaveLength(12);
});

it('partial failures: a message that a batch refuses is tried alone, and one that is never taken stays', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 10);
  proxy.rule((call) => {
    if (call.target !== 'AmazonSQS.SendMessageBatch') return undefined;
    const { Entries } = JSON.parse(call.body) as { Entries: { Id: string; MessageBody: string }[] };
    const bad = Entries.find((entry) => entry.MessageBody === 'order 3');
    if (bad === undefined) return undefined;
    if (Entries.length === 1) return { answer: { status: 200, headers: { 'content-type': 'application/x-amz-json-1.0' }, body: JSON.stringify({ Failed: [{ Id: bad.Id, Code: 'InvalidMessageContents', Message: 'not taken', SenderFault: true }] }) } };
    // The batch of the emulator takes them all: the others really are sent, this one is said to have failed and is taken back out.
    return { rewrite: (body) => {
      const answer = JSON.parse(body) as { Successful: { Id: string }[] };
      return JSON.stringify({ Successful: answer.Successful.filter((one) => one.Id !== bad.Id), Failed: [{ Id: bad.Id, Code: 'InternalError', Message: 'try again', SenderFault: false }] });
    } };
  });
  const applied = await run('sqs.redrive', 'apply', input);
  expect(applied).toMatchObject({ facts: { moved: 9, doubtful: [], refused: [expect.stringContaining('InvalidMessageContents')] } });
  expect(await bodiesIn(urls.deadLetter)).toEqual(['order 3']);
});

it('a batch that is too long together is sent one by one', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 4);
  proxy.rule((call) => {
    if (call.target !== 'AmazonSQS.SendMessageBatch' || (JSON.parse(call.body) as { Entries: unknown[] }).Entries.length < 2) return undefined;
    return { answer: { status: 400, headers: { 'content-type': 'application/x-amz-json-1.0', 'x-amzn-query-error': 'AWS.SimpleQueueService.BatchRequestTooLong;Sender' }, body: '{"__type":"com.amazonaws.sqs#BatchRequestTooLong","message":"Batch requests cannot be longer than 1048576 bytes."}' } };
  });
  expect(await run('sqs.redrive', 'apply', input)).toMatchObject({ facts: { moved: 4, refused: [], doubtful: [] } });
  expect(await bodiesIn(urls.queue)).toHaveLength(4);
});

it('a deletion that fails is tried alone; one that goes on failing is named, and the next try deletes without sending again', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 3);
  let broken = true;
  proxy.rule((call) => {
    if (!broken || call.target !== 'AmazonSQS.DeleteMessageBatch') return undefined;
    const { Entries } = JSON.parse(call.body) as { Entries: { Id: string }[] };
    return { answer: { status: 200, headers: { 'content-type': 'application/x-amz-json-1.0' }, body: JSON.stringify({ Successful: [], Failed: Entries.map((entry) => ({ Id: entry.Id, Code: 'InternalError', Message: 'try again', SenderFault: false })) }) } };
  });
  let report: unknown;
  const short = { ...input, visibility: '1s' };
  await expect(run('sqs.redrive', 'apply', { ...short, maximum: 3 }, { heartbeat: (details) => { report = details; }, signal: AbortSignal.timeout(4000) })).rejects.toThrow(/./);
  expect((report as RedriveReport).sent).toHaveLength(3);
  broken = false;
  const applied = await run('sqs.redrive', 'apply', short, { previousDetails: report });
  expect(applied).toMatchObject({ facts: { moved: 3, doubtful: [], takenOver: 1 } });
  expect(await bodiesIn(urls.queue)).toHaveLength(3);
  expect(await bodiesIn(urls.deadLetter)).toEqual([]);
}, 30_000);

it('what a lost worker was about to send is in doubt for the next one, what it had sent is only deleted', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 4);
  const ids: string[] = [];
  const { Messages } = await client.send(new ReceiveMessageCommand({ QueueUrl: urls.deadLetter, MaxNumberOfMessages: 10, VisibilityTimeout: 0 }));
  ids.push(...Messages!.map((message) => message.MessageId!));
  await client.send(new SendMessageCommand({ QueueUrl: urls.queue, MessageBody: Messages![0]!.Body! }));
  const left: RedriveReport = { beganAtMs: Date.now(), lastSeenAtMs: Date.now(), moved: 7, sending: [ids[1]!], sent: [ids[0]!], doubtful: [], doubtSinceMs: null, refused: [], left: {}, takenOver: 0 };
  const applied = await run('sqs.redrive', 'apply', input, { previousDetails: left });
  // 7 of before, one that was sent already, two that nobody had touched.
  expect(applied).toMatchObject({ facts: { moved: 10, doubtful: [ids[1]], left: '1 in doubt', takenOver: 1 } });
  expect(await bodiesIn(urls.queue)).toHaveLength(3);
  expect(await bodiesIn(urls.deadLetter)).toEqual([Messages!.find((message) => message.MessageId === ids[1])!.Body]);
});

it('a FIFO queue keeps its order, and takes a message whose answer was lost once', async () => {
  const { urls, input } = await pair({ fifo: true });
  await fill(urls.deadLetter, 6, 'customer-1');
  let cut = 0;
  proxy.rule((call) => (call.target === 'AmazonSQS.SendMessageBatch' && call.body.includes('order 2') && ++cut === 1 ? { cut: true } : undefined));
  const applied = await run('sqs.redrive', 'apply', { ...input, visibility: '2s' });
  expect(applied).toMatchObject({ facts: { moved: 6, doubtful: [] } });
  expect(cut).toBe(2);
  expect((await drain(urls.queue)).map((message) => message.body)).toEqual(['order 0', 'order 1', 'order 2', 'order 3', 'order 4', 'order 5']);
}, 30_000);

it('what comes in after the beginning, failed again or new, is left and counted; it would never end otherwise', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 5);
  let sends = 0;
  proxy.rule(async (call) => {
    // A consumer that fails at once: each message that is moved comes back as a new one.
    if (call.target === 'AmazonSQS.SendMessageBatch' && ++sends <= 3) await client.send(new SendMessageCommand({ QueueUrl: urls.deadLetter, MessageBody: 'failed again' }));
    return undefined;
  });
  const applied = await run('sqs.redrive', 'apply', input);
  expect(applied).toMatchObject({ facts: { moved: 5, left: '1 sent since this began' } });
  expect(await bodiesIn(urls.deadLetter)).toEqual(['failed again']);
});

it('limits hold: no more than a maximum, and no faster than the rate', async () => {
  const { urls, input } = await pair();
  await fill(urls.deadLetter, 20);
  const began = Date.now();
  expect(await run('sqs.redrive', 'apply', { ...input, maximum: 12, perSecond: 10 })).toMatchObject({ facts: { moved: 12 } });
  expect(Date.now() - began).toBeGreaterThan(1000);
  expect(await bodiesIn(urls.deadLetter)).toHaveLength(8);
});

it('the guard refuses queues that do not belong together, and a missing right', async () => {
  const [one, two] = [await pair(), await pair()];
  expect(failing(await run('sqs.redrive', 'guard', { ...one.input, queue: two.queue }))).toEqual(['redrive policy']);
  expect(failing(await run('sqs.redrive', 'guard', { ...one.input, queue: one.deadLetter }))).toEqual(['redrive policy']);
  await expect(run('sqs.redrive', 'guard', { ...one.input, queue: 'nobody' })).rejects.toMatchObject({ code: 'queue-call', retryable: false });
  proxy.rule((call) => (call.target === 'AmazonSQS.SendMessageBatch' ? { answer: { status: 403, headers: { 'content-type': 'application/x-amz-json-1.0', 'x-amzn-errortype': 'AccessDenied' }, body: '{"__type":"com.amazon.coral.service#AccessDeniedException","message":"not authorized"}' } } : undefined));
  expect(failing(await run('sqs.redrive', 'guard', one.input))).toEqual(['permission sqs:SendMessage']);
  await fill(one.urls.deadLetter, 2);
  let report: RedriveReport | undefined;
  await expect(run('sqs.redrive', 'apply', one.input, { heartbeat: (details) => { report = details as RedriveReport; } })).rejects.toMatchObject({ code: 'queue-call', retryable: false });
  // Refused as a whole: none of it is in doubt.
  expect(report).toMatchObject({ sending: [], sent: [], doubtful: [] });
  expect(await bodiesIn(one.urls.deadLetter)).toHaveLength(2);
});

/** Move tasks, which the emulator has not: requests and answers in the documented shape. */
function moveTasks(options: { failAs?: string; moved: number; lostStart?: boolean }): { started: string[] } {
  const started: string[] = [];
  let asked = 0;
  let task: Record<string, unknown> | null = null;
  const json = (body: unknown) => ({ answer: { status: 200, headers: { 'content-type': 'application/x-amz-json-1.0' }, body: JSON.stringify(body) } });
  proxy.rule((call) => {
    if (call.target === 'AmazonSQS.StartMessageMoveTask') {
      const { SourceArn, DestinationArn, MaxNumberOfMessagesPerSecond } = JSON.parse(call.body) as Record<string, unknown>;
      if (task !== null && task['Status'] === 'RUNNING') return { answer: { status: 400, headers: { 'content-type': 'application/x-amz-json-1.0', 'x-amzn-errortype': 'UnsupportedOperation' }, body: '{"__type":"com.amazonaws.sqs#UnsupportedOperation","message":"There is already a task running."}' } };
      started.push(`${String(SourceArn)} -> ${String(DestinationArn)} at ${String(MaxNumberOfMessagesPerSecond)}`);
      task = { TaskHandle: 'handle', Status: 'RUNNING', SourceArn, DestinationArn, ApproximateNumberOfMessagesMoved: 0, ApproximateNumberOfMessagesToMove: options.moved, StartedTimestamp: Date.now() };
      return options.lostStart === true && started.length === 1 ? { answer: { status: 500, body: '' } } : json({ TaskHandle: 'handle' });
    }
    if (call.target !== 'AmazonSQS.ListMessageMoveTasks') return undefined;
    asked += 1;
    if (task !== null && asked > 3) task = { ...task, Status: options.failAs ?? 'COMPLETED', ApproximateNumberOfMessagesMoved: options.moved, ...(options.failAs === 'FAILED' ? { FailureReason: 'CouldNotDetermineMessageSource' } : {}) };
    return json({ Results: task === null ? [] : [task] });
  });
  return { started };
}

it('SQS moves them by a task of its own: started once, waited for, a lost start found again (answers as the API documents them)', async () => {
  const { deadLetter, queue, input } = await pair();
  const task = { ...input, method: 'task', perSecond: 50, pollMs: 100 };
  const { started } = moveTasks({ moved: 42, lostStart: true });
  expect(failing(await run('sqs.redrive', 'guard', task))).toEqual([]);
  // Refused as a second one because the first, whose answer was lost, runs: it is that one.
  const applied = await run('sqs.redrive', 'apply', task);
  expect(applied).toMatchObject({ outcome: 'changed', facts: { method: 'task', moved: 42, exact: false } });
  expect(started).toEqual([expect.stringMatching(new RegExp(`${deadLetter} -> .*${queue} at 50`))]);
});

it('a move task that fails, or that somebody cancels, is no success', async () => {
  const { input } = await pair();
  moveTasks({ moved: 3, failAs: 'FAILED' });
  await expect(run('sqs.redrive', 'apply', { ...input, method: 'task', pollMs: 100 })).rejects.toMatchObject({ code: 'redrive-failed', message: expect.stringContaining('CouldNotDetermineMessageSource') });
});
