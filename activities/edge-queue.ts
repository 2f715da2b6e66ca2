import type { Message } from '@aws-sdk/client-sqs';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { addToReport, beginRedrive, leftBehind, takeOver, type RedriveReport } from '../src/model/redrive.ts';
import { deleteMessages, letGo, mayMove, moveTasks, openQueue, queueCounts, receive, sameQueue, sendCopies, sourcesOf, startMove, type MoveTask, type Queue, type QueueCounts } from '../src/systems/queue.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

async function queuesOf(step: StepRun): Promise<{ deadLetter: Queue; target: Queue }> {
  const region = optionalText(step, 'region');
  return { deadLetter: await openQueue(step.context, textInput(step, 'deadLetterQueue'), region), target: await openQueue(step.context, textInput(step, 'queue'), region) };
}

function show(counts: QueueCounts): string {
  return `about ${counts.waiting} waiting, ${counts.inFlight} in flight${counts.delayed === 0 ? '' : `, ${counts.delayed} delayed`}`;
}

const redrive: StepDefinition = {
  async inspect(step) {
    const { deadLetter, target } = await queuesOf(step);
    const counts = await queueCounts(step.context, deadLetter);
    const before = { deadLetter: { ...counts }, queue: { ...(await queueCounts(step.context, target)) } };
    // The counts are approximate: that nothing is there only receiving shows.
    return { satisfied: false, summary: `${textInput(step, 'deadLetterQueue')} holds ${show(counts)}`, before };
  },
  async guard(step) {
    const { deadLetter, target } = await queuesOf(step);
    const names = target.redrive !== null && sameQueue(deadLetter, target.redrive.deadLetterArn);
    const checks = [
      check('redrive policy', names, `the redrive policy of ${textInput(step, 'queue')} names ${deadLetter.arn}`, target.redrive?.deadLetterArn ?? 'it has none', 'correct `queue` or `deadLetterQueue`: messages would go where they never came from'),
      check('kind of queue', deadLetter.fifo === target.fifo, 'both standard or both FIFO', `${deadLetter.fifo ? 'FIFO' : 'standard'} and ${target.fifo ? 'FIFO' : 'standard'}`),
    ];
    const sources = await sourcesOf(step.context, deadLetter);
    const others = sources.filter((url) => url.split('/').at(-1) !== target.url.split('/').at(-1));
    if (step.input['method'] === 'task') checks.push(check('one source', others.length === 0, `only ${textInput(step, 'queue')} has this dead-letter queue`, others.length === 0 ? 'so' : others.join(', '), 'a move task takes all messages: say method: batches, which leaves those of other queues'));
    if (step.input['method'] === 'task') {
      const running = (await moveTasks(step.context, deadLetter)).find((task) => task.status === 'RUNNING');
      checks.push(check('no other move', running === undefined || running.destination === target.arn, 'no move task to another queue is under way', running === undefined ? 'none' : `one to ${running.destination ?? 'the source queues'}`, 'wait for it, or cancel it'));
    } else {
      for (const right of await mayMove(step.context, deadLetter, target)) checks.push(check(`permission ${right.action}`, right.allowed, `${right.action} is allowed`, right.found, "allow it to the worker's role on this queue"));
    }
    return guarded(checks);
  },
  apply: (step) => (step.input['method'] === 'task' ? moveByTask(step) : moveByBatches(step)),
  async verify(step) {
    const { deadLetter, target } = await queuesOf(step);
    const counts = await queueCounts(step.context, deadLetter);
    const { left, doubtful } = step.call.facts;
    const doubts = Array.isArray(doubtful) ? doubtful : [];
    return {
      checks: [check('nothing in doubt', doubts.length === 0, 'every message was either moved once or left', doubts.length === 0 ? 'so' : `${doubts.length} may be in both queues: ${doubts.slice(0, 10).join(', ')}`, 'look whether they were taken already; then move or delete them by hand, and markDone')],
      summary: `${textInput(step, 'deadLetterQueue')} holds ${show(counts)}${typeof left === 'string' && left !== '' ? `; left: ${left}` : ''}`,
      facts: { deadLetterAfter: { ...counts }, queueAfter: { ...(await queueCounts(step.context, target)) } },
    };
  },
};

/** SQS moves them itself; only one move of a queue is under way at a time, so one whose start was lost is found again. */
async function moveByTask(step: StepRun): Promise<PhaseResult> {
  const { deadLetter, target } = await queuesOf(step);
  const began = (step.previousDetails as { beganAtMs?: number } | null | undefined)?.beganAtMs;
  const beganAtMs = began ?? step.nowMs();
  const before = await queueCounts(step.context, deadLetter);
  const newest = async (): Promise<MoveTask | undefined> => (await moveTasks(step.context, deadLetter)).sort((a, b) => b.startedAtMs - a.startedAtMs)[0];
  let task = await newest();
  // A second is what the clocks may differ by before a task of an earlier run would be taken for this one's.
  const ours = (found: MoveTask | undefined): found is MoveTask => found !== undefined && found.destination === target.arn && (found.status === 'RUNNING' || (began !== undefined && found.startedAtMs >= began - 1000));
  if (!ours(task)) {
    await step.journal({ beganAtMs });
    try {
      await startMove(step.context, deadLetter, target, step.input['perSecond'] as number | undefined);
      task = await newest();
    } catch (error) {
      // Refused as a second one, or no answer: it may be the first, which has begun all the same.
      task = await newest();
      if (task?.status !== 'RUNNING' || task.destination !== target.arn) throw error;
    }
  }
  while (task === undefined || task.status === 'RUNNING' || task.status === 'CANCELLING') {
    step.heartbeat({ beganAtMs, moved: task?.moved ?? null, toMove: task?.toMove ?? null });
    await pause(step.input['pollMs'] as number, step.signal);
    task = await newest();
  }
  if (task.status !== 'COMPLETED') throw new HoldfastError('redrive-failed', `the move from ${deadLetter.arn} ended as ${task.status} after about ${task.moved} message(s)${task.failure === null ? '' : `: ${task.failure}`}`, { next: 'look at both queues; a retry moves what is left' });
  return { outcome: task.moved === 0 ? 'already-satisfied' : 'changed', summary: `SQS moved about ${task.moved} message(s)`, before: { deadLetter: { ...before } }, after: { moved: task.moved }, facts: { method: 'task', moved: task.moved, exact: false, deadLetterBefore: { ...before }, left: '', doubtful: [] } };
}

/** More in doubt than this, and something is wrong that more tries do not cure. */
const MOST_DOUBTFUL = 50;
const MOST_UNDELETED = 200;
const MOST_HELD = 5000;
const FIFO_TRIES = 5;

/** Receives, sends, deletes: each batch is written down before it is sent and before it is deleted, so that nobody has to guess. */
async function moveByBatches(step: StepRun): Promise<PhaseResult> {
  const { deadLetter, target } = await queuesOf(step);
  const before = await queueCounts(step.context, deadLetter);
  let report: RedriveReport = takeOver(step.previousDetails) ?? beginRedrive(step.nowMs());
  const maximum = (step.input['maximum'] as number | undefined) ?? Number.POSITIVE_INFINITY;
  const perSecond = step.input['perSecond'] as number | undefined;
  const visibilityMs = step.input['visibility'] as number;
  const held = new Map<string, Message>();
  const wait = (ms: number): Promise<void> => pause(ms, step.signal);
  const startedMs = step.nowMs();
  let quiet = 0;
  const put = (change: Parameters<typeof addToReport>[1]): void => {
    report = addToReport(report, change);
    step.heartbeat(report);
  };
  await step.journal(report);

  while (quiet < 2 && report.moved < maximum) {
    step.signal.throwIfAborted();
    const beganMs = step.nowMs();
    const received = await receive(step.context, deadLetter, visibilityMs);
    if (received.length === 0) {
      const counts = await queueCounts(step.context, deadLetter);
      // Others in flight come back within the visibility timeout: those of a worker that was lost, too.
      const others = counts.inFlight - held.size;
      if ((counts.waiting === 0 && others <= 0) || step.nowMs() - Math.max(report.lastSeenAtMs, startedMs) > visibilityMs + 5000) quiet += 1;
      continue;
    }
    quiet = 0;
    put({ atMs: step.nowMs() });
    const known = received.filter((message) => report.sent.includes(message.MessageId!));
    if (known.length > 0) put({ sent: [], deleted: await deleted(step, deadLetter, known) });
    const rest = received.filter((message) => !known.includes(message));
    const moving: Message[] = [];
    for (const message of rest) {
      const why = leftBehind(report, { id: message.MessageId!, sentAtMs: Number(message.Attributes?.SentTimestamp ?? 0), source: message.Attributes?.DeadLetterQueueSourceArn ?? null, target: target.arn, fifo: target.fifo, nowMs: step.nowMs() });
      if (why === null && report.moved + moving.length < maximum) moving.push(message);
      else {
        if (!held.has(message.MessageId!) && why !== null) put({ left: why });
        if (held.size < MOST_HELD) held.set(message.MessageId!, message);
      }
    }
    // The order within a group is kept by sending one after the other.
    const batches = target.fifo ? moving.map((message) => [message]) : moving.length === 0 ? [] : [moving];
    for (const batch of batches) {
      put({ sending: batch.map((message) => message.MessageId!) });
      await step.journal(report);
      let result = await sendCopies(step.context, target, batch, wait);
      if (result.error !== undefined) {
        // None of it was taken, so none of it is in doubt.
        put({ sending: [] });
        await step.journal(report);
        await letGo(step.context, deadLetter, [...held.values(), ...moving]);
        throw result.error;
      }
      // Named after its original it is taken once within five minutes: asked again until there is an answer.
      for (let again = 0; target.fifo && result.unknown.length > 0 && again < FIFO_TRIES; again += 1) {
        await wait(500 * (again + 1));
        result = await sendCopies(step.context, target, batch, wait);
      }
      // What a batch refused is tried by itself once: the others of it may have been the reason (size).
      for (const refused of result.refused) {
        const alone = await sendCopies(step.context, target, batch.filter((message) => message.MessageId === refused.id), wait);
        result = { sent: [...result.sent, ...alone.sent], refused: [...result.refused.filter((one) => one.id !== refused.id), ...alone.refused, ...(alone.error === undefined ? [] : [{ id: refused.id, why: alone.error.message }])], unknown: [...result.unknown, ...alone.unknown] };
      }
      put({ sending: [], sent: result.sent, doubtful: target.fifo ? [] : result.unknown, refused: result.refused.map((one) => `${one.id}: ${one.why}`) });
      await step.journal(report);
      for (const message of batch) if (!result.sent.includes(message.MessageId!) && held.size < MOST_HELD) held.set(message.MessageId!, message);
      put({ sent: [], deleted: await deleted(step, deadLetter, batch.filter((message) => result.sent.includes(message.MessageId!))) });
      if (report.doubtful.length > MOST_DOUBTFUL || report.sent.length > MOST_UNDELETED) break;
      if (target.fifo && result.sent.length === 0) {
        await letGo(step.context, deadLetter, [...held.values(), ...moving.filter((message) => !result.sent.includes(message.MessageId!))]);
        throw new HoldfastError('redrive-order', `${report.moved} message(s) moved; ${batch[0]!.MessageId} was not taken (${result.refused[0]?.why ?? 'no answer'}), and what follows it would overtake it`, { retryable: result.refused.length === 0, next: 'look at this message; then retry' });
      }
    }
    if (report.doubtful.length > MOST_DOUBTFUL || report.sent.length > MOST_UNDELETED) break;
    if (perSecond !== undefined && moving.length > 0) await wait(Math.max(0, (moving.length / perSecond) * 1000 - (step.nowMs() - beganMs)));
  }
  await letGo(step.context, deadLetter, [...held.values()]);
  const left = Object.entries(report.left).map(([why, count]) => `${count} ${why}`).join(', ');
  const text = `${report.moved} message(s) moved, counted one by one${left === '' ? '' : `; left: ${left}`}${report.refused.length === 0 ? '' : `; refused: ${report.refused.slice(0, 5).join('; ')}`}${report.sent.length === 0 ? '' : `; ${report.sent.length} sent and NOT deleted from the dead-letter queue`}${report.doubtful.length === 0 ? '' : `; ${report.doubtful.length} in doubt`}`;
  if (report.sent.length > 0) throw new HoldfastError('redrive-undeleted', `${text}: ${report.sent.slice(0, 10).join(', ')}`, { retryable: true, next: 'retry: it deletes them without sending them again' });
  return {
    outcome: report.moved === 0 ? 'already-satisfied' : 'changed',
    summary: text,
    before: { deadLetter: { ...before } },
    after: { moved: report.moved },
    facts: { method: 'batches', moved: report.moved, exact: true, left, refused: [...report.refused], doubtful: [...report.doubtful], deadLetterBefore: { ...before }, takenOver: report.takenOver },
  };
}

/** @returns ids that are deleted; what a batch did not delete is tried one by one. */
async function deleted(step: StepRun, deadLetter: Queue, messages: readonly Message[]): Promise<string[]> {
  if (messages.length === 0) return [];
  let open = new Set((await deleteMessages(step.context, deadLetter, messages)).map((one) => one.id));
  for (const message of messages.filter((one) => open.has(one.MessageId!))) {
    const again = await deleteMessages(step.context, deadLetter, [message]).catch((error: unknown) => [{ id: message.MessageId!, why: messageOf(error) }]);
    if (again.length === 0) open = new Set([...open].filter((id) => id !== message.MessageId));
  }
  return messages.map((message) => message.MessageId!).filter((id) => !open.has(id));
}

const verifyEmpty: StepDefinition = {
  async guard(step) {
    const queue = await openQueue(step.context, textInput(step, 'queue'), optionalText(step, 'region'));
    return guarded([check('queue', true, textInput(step, 'queue'), queue.arn)]);
  },
  async verify(step) {
    const queue = await openQueue(step.context, textInput(step, 'queue'), optionalText(step, 'region'));
    const deadline = step.nowMs() + (step.input['wait'] as number);
    const looks = step.input['looks'] as number;
    let empty = 0;
    for (;;) {
      const counts = await queueCounts(step.context, queue);
      const none = counts.waiting + counts.inFlight + counts.delayed === 0;
      empty = none ? empty + 1 : 0;
      if (empty >= looks || step.nowMs() > deadline) {
        // Approximate: one zero is not yet nothing.
        return { checks: [check('queue is empty', empty >= looks, `${looks} looks in a row that say: about 0 waiting, 0 in flight`, none ? `${empty} such look(s)` : show(counts), 'look at what is left; then retry')], summary: show(counts), facts: { ...counts } };
      }
      step.heartbeat({ ...counts });
      await pause(none ? 500 : 2000, step.signal);
    }
  },
};

export const edgeQueueSteps: Readonly<Record<string, StepDefinition>> = { 'sqs.redrive': redrive, 'sqs.verifyEmpty': verifyEmpty };
