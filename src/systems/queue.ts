import type { ListMessageMoveTasksResultEntry, Message, MessageAttributeValue, SendMessageBatchRequestEntry, SQSClient } from '@aws-sdk/client-sqs';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName, isDenied, isThrottled } from './aws-failure.ts';
import type { Context } from './context.ts';

export interface Queue {
  readonly url: string;
  readonly arn: string;
  readonly region: string | undefined;
  readonly fifo: boolean;
  /** ARN of its dead-letter queue and after how many receives a message goes there; null: none. */
  readonly redrive: { readonly deadLetterArn: string; readonly maxReceiveCount: number } | null;
  readonly visibilityMs: number;
}

/** All three are approximate: SQS adds up what its servers said some seconds ago. */
export interface QueueCounts {
  readonly waiting: number;
  readonly inFlight: number;
  readonly delayed: number;
}

async function clientOf(context: Context, region: string | undefined): Promise<SQSClient> {
  return context.aws.sqs(region);
}

/** @param name a queue's name or URL */
export async function openQueue(context: Context, name: string, region: string | undefined): Promise<Queue> {
  const { GetQueueAttributesCommand, GetQueueUrlCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, region);
  const where = region ?? context.config.aws.region;
  try {
    const url = /^https?:/.test(name) ? name : (await client.send(new GetQueueUrlCommand({ QueueName: name }))).QueueUrl!;
    const { Attributes: found = {} } = await client.send(new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ['All'] }));
    const policy = found['RedrivePolicy'] === undefined ? null : (JSON.parse(found['RedrivePolicy']) as { deadLetterTargetArn?: string; maxReceiveCount?: number | string });
    return {
      url,
      region,
      arn: found['QueueArn'] ?? '',
      fifo: found['FifoQueue'] === 'true',
      redrive: policy?.deadLetterTargetArn === undefined ? null : { deadLetterArn: policy.deadLetterTargetArn, maxReceiveCount: Number(policy.maxReceiveCount ?? 0) },
      visibilityMs: Number(found['VisibilityTimeout'] ?? 30) * 1000,
    };
  } catch (error) {
    throw awsFailure('queue-call', 'sqs:GetQueueAttributes', `${name} in ${where}`, error, /NonExistent|DoesNotExist/.test(errorName(error)) ? 'correct the name of the queue and its Region' : undefined);
  }
}

export async function queueCounts(context: Context, queue: Queue): Promise<QueueCounts> {
  const { GetQueueAttributesCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, queue.region);
  const { Attributes: found = {} } = await client.send(new GetQueueAttributesCommand({ QueueUrl: queue.url, AttributeNames: ['ApproximateNumberOfMessages', 'ApproximateNumberOfMessagesNotVisible', 'ApproximateNumberOfMessagesDelayed'] })).catch((error: unknown) => {
    throw awsFailure('queue-call', 'sqs:GetQueueAttributes', queue.url, error);
  });
  return { waiting: Number(found['ApproximateNumberOfMessages'] ?? 0), inFlight: Number(found['ApproximateNumberOfMessagesNotVisible'] ?? 0), delayed: Number(found['ApproximateNumberOfMessagesDelayed'] ?? 0) };
}

/** Queues whose messages come here, by ARN. */
export async function sourcesOf(context: Context, deadLetter: Queue): Promise<string[]> {
  const { ListDeadLetterSourceQueuesCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, deadLetter.region);
  const urls: string[] = [];
  let next: string | undefined;
  do {
    const answer: { queueUrls?: string[]; NextToken?: string } = await client.send(new ListDeadLetterSourceQueuesCommand({ QueueUrl: deadLetter.url, MaxResults: 1000, ...(next === undefined ? {} : { NextToken: next }) })).catch((error: unknown) => {
      throw awsFailure('queue-call', 'sqs:ListDeadLetterSourceQueues', deadLetter.url, error);
    });
    urls.push(...(answer.queueUrls ?? []));
    next = answer.NextToken === undefined || answer.NextToken === next ? undefined : answer.NextToken;
  } while (next !== undefined);
  return urls;
}

/** May we receive and send? Asked with a receipt that is none and a batch that is empty: neither does anything. */
export async function mayMove(context: Context, from: Queue, to: Queue): Promise<readonly { readonly action: string; readonly allowed: boolean; readonly found: string }[]> {
  const { DeleteMessageBatchCommand, SendMessageBatchCommand } = await import('@aws-sdk/client-sqs');
  const ask = async (action: string, queue: Queue, send: (client: SQSClient) => Promise<unknown>) => {
    try {
      await send(await clientOf(context, queue.region));
      return { action, allowed: true, found: 'allowed' };
    } catch (error) {
      if (errorName(error) === '' || isThrottled(error)) throw awsFailure('queue-call', action, queue.url, error);
      return isDenied(error) ? { action, allowed: false, found: `${(error as Error).name}: ${(error as Error).message}` } : { action, allowed: true, found: 'allowed' };
    }
  };
  return [
    await ask('sqs:DeleteMessage', from, (client) => client.send(new DeleteMessageBatchCommand({ QueueUrl: from.url, Entries: [] }))),
    await ask('sqs:SendMessage', to, (client) => client.send(new SendMessageBatchCommand({ QueueUrl: to.url, Entries: [] }))),
  ];
}

export async function receive(context: Context, queue: Queue, visibilityMs: number): Promise<Message[]> {
  const { ReceiveMessageCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, queue.region);
  try {
    // A long poll asks all servers; a short one may miss what is there.
    const answer = await client.send(new ReceiveMessageCommand({ QueueUrl: queue.url, MaxNumberOfMessages: 10, WaitTimeSeconds: 1, VisibilityTimeout: Math.ceil(visibilityMs / 1000), MessageSystemAttributeNames: ['All'], MessageAttributeNames: ['All'] }));
    return answer.Messages ?? [];
  } catch (error) {
    throw awsFailure('queue-call', 'sqs:ReceiveMessage', queue.url, error);
  }
}

/** What became of each message that was to be sent, by message id of the one it is a copy of. */
export interface Sent {
  readonly sent: readonly string[];
  /** The queue said that it did not take it. */
  readonly refused: readonly { readonly id: string; readonly why: string }[];
  /** No answer: it may be there or not. */
  readonly unknown: readonly string[];
  /** The whole call was refused: none of it was taken. */
  readonly error?: HoldfastError;
}

const THROTTLED_WAIT_MS = [200, 500, 1000, 2000, 4000];

/**
 * Sends copies, body and attributes as they are. Never repeated by the SDK: a send that took effect and whose answer was lost would be
 * there twice. What was refused for now (throttled) is sent again, since it certainly is not there.
 */
export async function sendCopies(context: Context, to: Queue, messages: readonly Message[], wait: (ms: number) => Promise<void>): Promise<Sent> {
  const { SendMessageBatchCommand, SQSClient } = await import('@aws-sdk/client-sqs');
  const shared = await clientOf(context, to.region);
  const { region, credentials, requestHandler, endpoint } = shared.config;
  const once = new SQSClient({ region, credentials, requestHandler, ...(endpoint === undefined ? {} : { endpoint }), maxAttempts: 1 });
  for (let round = 0; ; round += 1) {
    try {
      const answer = await once.send(new SendMessageBatchCommand({ QueueUrl: to.url, Entries: messages.map((message, index) => entryOf(message, index, to.fifo)) }));
      const failed = (answer.Failed ?? []).map((one) => ({ id: messages[Number(one.Id)]!.MessageId!, why: `${one.Code ?? '?'}: ${one.Message ?? ''}` }));
      return { sent: (answer.Successful ?? []).map((one) => messages[Number(one.Id)]!.MessageId!), refused: failed, unknown: [] };
    } catch (error) {
      if (isThrottled(error) && round < THROTTLED_WAIT_MS.length) {
        await wait(THROTTLED_WAIT_MS[round]!);
        continue;
      }
      // Too long together is not too long alone.
      if (/BatchRequestTooLong/.test(errorName(error)) && messages.length > 1) return { sent: [], refused: messages.map((message) => ({ id: message.MessageId!, why: 'the batch was too long' })), unknown: [] };
      // Answered with a refusal of the whole call: none of it was taken. A fault of the service (5xx) may have come after it was.
      const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
      if (status !== undefined && status < 500) return { sent: [], refused: [], unknown: [], error: awsFailure('queue-call', 'sqs:SendMessage', to.url, error) };
      return { sent: [], refused: [], unknown: messages.map((message) => message.MessageId!) };
    }
  }
}

function entryOf(message: Message, index: number, fifo: boolean): SendMessageBatchRequestEntry {
  const system = message.Attributes ?? {};
  const attributes = Object.fromEntries(Object.entries(message.MessageAttributes ?? {}).map(([name, value]): [string, MessageAttributeValue] => [name, { DataType: value.DataType, ...(value.StringValue === undefined ? {} : { StringValue: value.StringValue }), ...(value.BinaryValue === undefined ? {} : { BinaryValue: value.BinaryValue }) }]));
  return {
    Id: String(index),
    MessageBody: message.Body!,
    ...(Object.keys(attributes).length === 0 ? {} : { MessageAttributes: attributes }),
    ...(system.AWSTraceHeader === undefined ? {} : { MessageSystemAttributes: { AWSTraceHeader: { DataType: 'String', StringValue: system.AWSTraceHeader } } }),
    // Named after the message it is a copy of: sent twice within five minutes it is one.
    ...(fifo ? { MessageGroupId: system.MessageGroupId ?? 'holdfast', MessageDeduplicationId: message.MessageId! } : {}),
  };
}

/** Deletes by receipt; may be repeated. @returns message ids that are not deleted, and why */
export async function deleteMessages(context: Context, queue: Queue, messages: readonly Message[]): Promise<readonly { readonly id: string; readonly why: string }[]> {
  const { DeleteMessageBatchCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, queue.region);
  try {
    const answer = await client.send(new DeleteMessageBatchCommand({ QueueUrl: queue.url, Entries: messages.map((message, index) => ({ Id: String(index), ReceiptHandle: message.ReceiptHandle! })) }));
    return (answer.Failed ?? []).map((one) => ({ id: messages[Number(one.Id)]!.MessageId!, why: `${one.Code ?? '?'}: ${one.Message ?? ''}` }));
  } catch (error) {
    return messages.map((message) => ({ id: message.MessageId!, why: (error as Error).message }));
  }
}

/** Lets others see it at once. Best effort: it comes back by itself when its time is over. */
export async function letGo(context: Context, queue: Queue, messages: readonly Message[]): Promise<void> {
  const { ChangeMessageVisibilityBatchCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, queue.region);
  for (let from = 0; from < messages.length; from += 10) {
    await client.send(new ChangeMessageVisibilityBatchCommand({ QueueUrl: queue.url, Entries: messages.slice(from, from + 10).map((message, index) => ({ Id: String(index), ReceiptHandle: message.ReceiptHandle!, VisibilityTimeout: 0 })) })).catch(() => {});
  }
}

/** A move that SQS does by itself. */
export interface MoveTask {
  readonly status: string;
  readonly moved: number;
  /** null: SQS does not know yet. */
  readonly toMove: number | null;
  readonly startedAtMs: number;
  readonly destination: string | null;
  readonly failure: string | null;
}

export async function moveTasks(context: Context, deadLetter: Queue): Promise<MoveTask[]> {
  const { ListMessageMoveTasksCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, deadLetter.region);
  const answer = await client.send(new ListMessageMoveTasksCommand({ SourceArn: deadLetter.arn, MaxResults: 10 })).catch((error: unknown) => {
    throw awsFailure('queue-call', 'sqs:ListMessageMoveTasks', deadLetter.arn, error, 'where the service does not know move tasks, say method: batches');
  });
  return (answer.Results ?? []).map((task: ListMessageMoveTasksResultEntry) => ({
    status: task.Status ?? '',
    moved: Number(task.ApproximateNumberOfMessagesMoved ?? 0),
    toMove: task.ApproximateNumberOfMessagesToMove === undefined ? null : Number(task.ApproximateNumberOfMessagesToMove),
    startedAtMs: Number(task.StartedTimestamp ?? 0),
    destination: task.DestinationArn ?? null,
    failure: task.FailureReason ?? null,
  }));
}

/** One at a time: another one under way is answered by an error that says so. */
export async function startMove(context: Context, deadLetter: Queue, to: Queue, perSecond: number | undefined): Promise<void> {
  const { StartMessageMoveTaskCommand } = await import('@aws-sdk/client-sqs');
  const client = await clientOf(context, deadLetter.region);
  try {
    await client.send(new StartMessageMoveTaskCommand({ SourceArn: deadLetter.arn, DestinationArn: to.arn, ...(perSecond === undefined ? {} : { MaxNumberOfMessagesPerSecond: perSecond }) }));
  } catch (error) {
    throw awsFailure('queue-call', 'sqs:StartMessageMoveTask', deadLetter.arn, error);
  }
}

export function sameQueue(deadLetter: Queue, arn: string): boolean {
  if (arn === '') throw new HoldfastError('queue-call', `queue ${deadLetter.url} says nothing of its ARN`);
  return deadLetter.arn === arn;
}
