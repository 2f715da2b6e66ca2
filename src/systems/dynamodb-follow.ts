import type { DynamoDBStreamsClient } from '@aws-sdk/client-dynamodb-streams';
import { advanced, behindMs, drained, lastOfEach, refuseTrimmed, takeIn, type Quiet, type StreamPosition } from '../model/dynamodb-stream.ts';
import { canonicalText } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import type { Clock } from './dynamodb.ts';
import { describeStream, readShard, type ShardReader, type StreamRecord } from './dynamodb-stream.ts';
import type { Writer } from './dynamodb-write.ts';

export interface FollowOptions {
  readonly client: DynamoDBStreamsClient;
  readonly position: StreamPosition;
  /** Of the copy. Ended after each page, so that what is written down as applied is applied. */
  readonly writer: () => Writer;
  readonly until: { readonly caughtUpMs: number } | { readonly quietMs: number; readonly stoppedAtMs: number };
  readonly pollMs: number;
  readonly signal: AbortSignal;
  /** What can be gone on from: everything before it is applied. */
  readonly onProgress: (progress: FollowProgress) => void;
  readonly clock: Clock;
  /** Of the wall: records carry it. */
  readonly nowMs: () => number;
  readonly pageRecords?: number;
}

export interface FollowProgress {
  readonly position: StreamPosition;
  readonly applied: number;
  readonly behindMs: number;
  readonly afterStop: number;
}

/** Pages that are on their way at once, of different shards. */
const READERS = 8;
/** DescribeStream may be called ten times a second, by everybody in the account. */
const LIST_EVERY_MS = 5000;
const DRAIN_ANSWERS = 3;
/** Pause before it is looked which shard is due. */
const LOOK_MS = 100;
/** A shard may be read five times a second, by all its readers together. */
const READ_EVERY_MS = 250;
/** An empty answer is no proof of the end; so many in a row over this time are taken for it when the lag is told. */
const TIP_ANSWERS = 3;
const TIP_MS = 5000;

/**
 * Applies a stream until it has caught up or is drained. Shards go on side by side, each page in order and wholly applied before it counts.
 * @throws HoldfastError `stream-trimmed`, `stream-gap`, `stream-off`.
 */
export async function followStream(options: FollowOptions): Promise<FollowProgress> {
  const { client, until, pollMs, signal, clock, nowMs } = options;
  const { stream } = options.position;
  const access = { client, stream, signal, clock };
  let position = options.position;
  let applied = 0;
  let afterStop = 0;
  const readers = new Map<string, { reader: ShardReader; dueMs: number }>();
  const quiet = new Map<string, Quiet>();
  /** Asked at least once: a step that follows and has asked nothing would be of no use. */
  const asked = new Set<string>();
  const running = new Map<string, Promise<void>>();
  let failure: { readonly error: unknown } | undefined;
  let listedMs = Number.NEGATIVE_INFINITY;
  let relist = true;

  const progress = (): FollowProgress => ({ position, applied, behindMs: behindMs(position, nowMs()), afterStop });

  async function list(): Promise<void> {
    const askedMs = nowMs();
    const found = await describeStream(access);
    if (found.status !== 'ENABLED') throw new HoldfastError('stream-off', `${stream} is ${found.status}: changes since are in no stream`, { next: 'begin the copy anew, with the stream on until it is exact' });
    position = takeIn(position, found.shards);
    listedMs = clock.nowMs();
    relist = false;
    for (const { shard, ended } of position.shards) if (ended) still(shard, askedMs);
  }

  /** Nothing came of it again. */
  function still(shard: string, askedMs: number): Quiet {
    const before = quiet.get(shard);
    const now = { sinceMs: before?.sinceMs ?? askedMs, answers: (before?.answers ?? 0) + 1 };
    quiet.set(shard, now);
    return now;
  }

  async function page(shard: string): Promise<void> {
    const known = position.shards.find((one) => one.shard === shard)!;
    const entry = readers.get(shard) ?? { reader: readShard(access, shard, known.after, options.pageRecords), dueMs: 0 };
    readers.set(shard, entry);
    const askedMs = nowMs();
    const { records, ended } = await entry.reader.next();
    const nextMs = clock.nowMs() + READ_EVERY_MS;
    await apply(records);
    asked.add(shard);
    const last = records.at(-1);
    if (last === undefined) {
      const now = still(shard, askedMs);
      const tip = ended || (now.answers >= TIP_ANSWERS && nowMs() - now.sinceMs >= TIP_MS);
      position = advanced(position, shard, { after: null, atMs: tip ? now.sinceMs : 0, ended });
      entry.dueMs = Math.max(nextMs, clock.nowMs() + pollMs);
    } else {
      quiet.delete(shard);
      position = advanced(position, shard, { after: last.sequence, atMs: last.atMs, ended });
      entry.dueMs = nextMs;
    }
    if (ended) {
      readers.delete(shard);
      quiet.delete(shard);
      relist = true;
    }
    options.onProgress(progress());
  }

  async function apply(records: readonly StreamRecord[]): Promise<void> {
    if (records.length === 0) return;
    const writer = options.writer();
    try {
      for (const { key, image } of lastOfEach(records, (record) => canonicalText(record.key))) await (image === null ? writer.delete(key) : writer.put(image));
    } finally {
      // Also when a batch has failed: others of the page must not arrive after what the next attempt applies.
      await writer.end();
    }
    applied += records.length;
    // Rounded down, so that one just before the stop never counts.
    if ('stoppedAtMs' in until) afterStop += records.filter(({ atMs, expired }) => atMs > until.stoppedAtMs && !expired).length;
  }

  function finished(): boolean {
    if (relist) return false;
    if ('quietMs' in until) return drained(position, quiet, { stoppedAtMs: until.stoppedAtMs, answers: DRAIN_ANSWERS, quietMs: until.quietMs }, nowMs());
    return position.shards.every(({ shard, atMs, ended }) => (ended || asked.has(shard)) && (nowMs() - atMs <= until.caughtUpMs || (quiet.get(shard)?.answers ?? 0) >= TIP_ANSWERS));
  }

  try {
    for (;;) {
      signal.throwIfAborted();
      if (failure !== undefined) throw failure.error;
      refuseTrimmed(position, nowMs());
      // An ended shard without a known child is only waited for by listing again.
      const waits = position.shards.some(({ ended }) => ended);
      if (relist || clock.nowMs() - listedMs >= (waits ? Math.min(pollMs, LIST_EVERY_MS) : LIST_EVERY_MS)) await list();
      if (finished()) {
        // A shard may have been split since the last look: what its children hold is missing still.
        const before = position;
        await list();
        if (position.shards.length === before.shards.length && position.shards.every((one, index) => one.shard === before.shards[index]!.shard) && finished()) return progress();
        continue;
      }
      const due = position.shards.filter(({ shard, ended }) => !ended && !running.has(shard) && (readers.get(shard)?.dueMs ?? 0) <= clock.nowMs()).slice(0, READERS - running.size);
      for (const { shard } of due) {
        const run = page(shard)
          .catch((error: unknown) => {
            failure ??= { error };
          })
          .finally(() => running.delete(shard));
        running.set(shard, run);
      }
      // Others become due while one is being applied.
      await Promise.race([...running.values(), clock.sleep(Math.min(pollMs, LOOK_MS), signal)]);
    }
  } finally {
    // Nothing is written once this has returned.
    await Promise.allSettled(running.values());
  }
}
