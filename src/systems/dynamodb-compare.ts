import { hash } from 'node:crypto';
import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { canonicalText, keyOf, keyText, type Item, type KeyAttribute } from '../model/dynamodb-item.ts';
import { addSums, createSums, sameSums, type ItemSums } from './dynamodb-hash.ts';
import { scanSegment } from './dynamodb-scan.ts';
import type { Throttle } from './dynamodb-throttle.ts';

export interface ReadSide {
  readonly items: DynamoDBClient;
  readonly table: string;
  readonly throttle: Throttle;
}

export interface CompareOptions {
  readonly source: ReadSide;
  readonly target: ReadSide;
  readonly key: readonly KeyAttribute[];
  /** Segments at the same time, of each. */
  readonly parallel: number;
  /** At most this many keys are named. */
  readonly show: number;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: { readonly phase: string; readonly sourceItems: number; readonly targetItems: number }) => void;
}

export interface Compared {
  readonly source: ItemSums;
  readonly target: ItemSums;
  readonly same: boolean;
  /** Keys that differ, and how; not more than were asked for. Read once more before they are named. */
  readonly differing: readonly { readonly key: string; readonly how: 'missing' | 'too much' | 'other content' }[];
  /** Of those that were found, how many were the same when they were read once more: somebody writes. */
  readonly settled: number;
  /** There are more than were looked at. */
  readonly more: boolean;
}

/** By a hash of the key: where the sums of a part differ, only that part is read again. */
const PARTS = 4096;
/** Keys of parts that differ, held in memory of each side: about 200 bytes each. */
const MOST_KEYS = 200_000;

/**
 * Both tables in full, consistently. Equal sums of 128 bits over all items mean equal tables. Memory does not grow with the tables:
 * one sum for each part, and on a difference the keys of as many parts as fit.
 */
export async function compareTables(options: CompareOptions): Promise<Compared> {
  const { source, target, key, show } = options;
  const seen = { sourceItems: 0, targetItems: 0 };
  const count = (phase: string, side: keyof typeof seen): ((items: number) => void) => (items) => {
    seen[side] += items;
    options.onProgress({ phase, ...seen });
  };
  const [here, there] = await both(partSums(source, options, count('reading', 'sourceItems')), partSums(target, options, count('reading', 'targetItems')));
  const sums = { source: addSums(here), target: addSums(there) };
  const different = here.flatMap((one, part) => (sameSums(one, there[part]!) ? [] : [part]));
  if (different.length === 0) return { ...sums, same: true, differing: [], settled: 0, more: false };

  const perPart = Math.max(1, ...different.map((part) => Math.max(here[part]!.items, there[part]!.items)));
  const parts = new Set(different.slice(0, Math.max(1, Math.floor(MOST_KEYS / perPart))));
  Object.assign(seen, { sourceItems: 0, targetItems: 0 });
  const [ours, theirs] = await both(keysIn(source, parts, options, count('finding', 'sourceItems')), keysIn(target, parts, options, count('finding', 'targetItems')));
  const candidates: Item[] = [];
  for (const [id, one] of ours) if (theirs.get(id)?.digest !== one.digest) candidates.push(one.key);
  for (const [id, one] of theirs) if (!ours.has(id)) candidates.push(one.key);

  const differing: { key: string; how: Compared['differing'][number]['how'] }[] = [];
  let settled = 0;
  let looked = 0;
  for (const candidate of candidates) {
    if (differing.length >= show || looked >= show * 5) break;
    looked += 1;
    const [is, copy] = await both(itemOf(source, candidate, options.signal), itemOf(target, candidate, options.signal));
    if (is === undefined && copy === undefined) settled += 1;
    else if (copy === undefined) differing.push({ key: keyText(candidate, key), how: 'missing' });
    else if (is === undefined) differing.push({ key: keyText(candidate, key), how: 'too much' });
    else if (canonicalText(is) !== canonicalText(copy)) differing.push({ key: keyText(candidate, key), how: 'other content' });
    else settled += 1;
  }
  return { ...sums, same: false, differing, settled, more: looked < candidates.length || parts.size < different.length };
}

/** A table in full: for a proof by reading. */
export async function sumTable(side: ReadSide, options: Pick<CompareOptions, 'parallel' | 'signal'> & { readonly onItems: (items: number) => void }): Promise<ItemSums> {
  const sums = createSums();
  await readAll(side, options, (items) => {
    for (const item of items) sums.add(item);
    options.onItems(items.length);
  });
  return sums.sums();
}

async function partSums(side: ReadSide, options: CompareOptions, onItems: (items: number) => void): Promise<ItemSums[]> {
  const parts = Array.from({ length: PARTS }, () => createSums());
  await readAll(side, options, (items) => {
    for (const item of items) parts[partOf(keyDigest(item, options.key))]!.add(item);
    onItems(items.length);
  });
  return parts.map((part) => part.sums());
}

async function keysIn(side: ReadSide, parts: ReadonlySet<number>, options: CompareOptions, onItems: (items: number) => void): Promise<Map<string, { key: Item; digest: string }>> {
  const found = new Map<string, { key: Item; digest: string }>();
  await readAll(side, options, (items) => {
    for (const item of items) {
      const id = keyDigest(item, options.key);
      if (!parts.has(partOf(id)) || found.size >= MOST_KEYS * 2) continue;
      found.set(id.toString('base64'), { key: keyOf(item, options.key), digest: hash('sha256', canonicalText(item), 'base64') });
    }
    onItems(items.length);
  });
  return found;
}

function keyDigest(item: Item, key: readonly KeyAttribute[]): Buffer {
  return hash('sha256', canonicalText(keyOf(item, key)), 'buffer');
}

function partOf(digest: Buffer): number {
  return digest.readUInt16LE(0) % PARTS;
}

async function readAll(side: ReadSide, { parallel, signal: outer }: Pick<CompareOptions, 'parallel' | 'signal'>, onPage: (items: readonly Item[]) => void): Promise<void> {
  const failed = new AbortController();
  const signal = AbortSignal.any([outer, failed.signal]);
  const lanes = Array.from({ length: parallel }, async (_, segment) => {
    try {
      for await (const page of scanSegment({ items: side.items, table: side.table, segment, segments: parallel, consistentRead: true, after: null, throttle: side.throttle, signal })) onPage(page.items);
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  });
  await Promise.allSettled(lanes);
  outer.throwIfAborted();
  if (failed.signal.aborted) throw failed.signal.reason;
}

async function itemOf(side: ReadSide, key: Item, signal: AbortSignal): Promise<Item | undefined> {
  const { GetItemCommand } = await import('@aws-sdk/client-dynamodb');
  return side.throttle.call('dynamodb:GetItem', 1, async () => {
    const { Item: found, ConsumedCapacity } = await side.items.send(new GetItemCommand({ TableName: side.table, Key: key as never, ConsistentRead: true, ReturnConsumedCapacity: 'TOTAL' }), { abortSignal: signal });
    return { answer: found as unknown as Item | undefined, consumed: { table: ConsumedCapacity?.CapacityUnits ?? 1, indexes: new Map<string, number>() } };
  });
}

/** The other one has ended before the error of one is seen: nothing reads on behind it. */
async function both<A, B>(a: Promise<A>, b: Promise<B>): Promise<[A, B]> {
  const [one, other] = await Promise.allSettled([a, b]);
  if (one.status === 'rejected') throw one.reason;
  if (other.status === 'rejected') throw other.reason;
  return [one.value, other.value];
}
