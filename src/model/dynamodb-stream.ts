/**
 * Following a table by its stream. Pure: whoever reads the stream hands in what was listed and read.
 *
 * Why a copy of a live table ends exact. Let T be the moment at which the position was taken, before the scan began, and let the scan
 * read consistently and be finished before the first record is applied.
 *  - A key that nobody wrote since T has one value since T, and the scan read that one.
 *  - A key that was written since T has all its writes since T in the stream, in order: a key lives in one shard and its descendants. What
 *    the scan read of it may be any value since T, or nothing; it is replaced by the first of these writes. Replaying them all, in order,
 *    ends with the last one, which is what the source holds. Replaying some of them twice passes through older values and ends the same.
 * So the scan must end before the first record is applied: a scanned image that is written after a newer record would stay. And a shard is
 * read only after its parent was applied to the end: otherwise an older write of a key would come after a newer one.
 */
import { HoldfastError } from './errors.ts';

export interface ListedShard {
  readonly id: string;
  readonly parent?: string | undefined;
  /** Takes records still. A closed one can be read to its end. */
  readonly open: boolean;
}

/** How far one shard is applied. */
export interface ShardPosition {
  readonly shard: string;
  /** Sequence number of the last record that is applied; null: from the first one that is kept. */
  readonly after: string | null;
  /** Everything older is applied: the time of the last record, or when it was seen that there is none. */
  readonly atMs: number;
  /** Applied to its end; it stays here until a child of it is known. */
  readonly ended: boolean;
}

/**
 * Only the front is kept: the shards that are being read, and those that ended and whose children are not known yet. An ancestor of one of
 * them is applied. So the position grows with the partitions of the table, not with the age of the stream, and fits into a heartbeat.
 */
export interface StreamPosition {
  /** ARN: a stream that was turned off and on again is another one. */
  readonly stream: string;
  /** When it was taken: what is older is not needed. */
  readonly startedAtMs: number;
  readonly shards: readonly ShardPosition[];
  /** Which tables it was taken between, once every item of the scan is written: by it another run knows the copy for one it may go on with. */
  readonly copied?: { readonly source: string; readonly target: string };
}

/** DynamoDB keeps a record for 24 hours. */
export const KEPT_MS = 24 * 3_600_000;
/** Given up this much before records go: what goes while it is being read is not noticed everywhere. */
export const TRIM_MARGIN_MS = 30 * 60_000;
/** About 120 bytes each: more would not fit into a heartbeat. */
export const MOST_SHARDS = 8000;

export const USABLE_VIEWS = ['NEW_IMAGE', 'NEW_AND_OLD_IMAGES'] as const;

/** undefined: its records say what an item became. */
export function viewProblem(enabled: boolean, view: string | undefined): string | undefined {
  if (!enabled) return 'it has no stream';
  return USABLE_VIEWS.some((usable) => usable === view) ? undefined : `its stream is of ${view ?? 'no view'}: the records do not say what an item became`;
}

/**
 * The position to begin from: every shard that has no listed child, from its first record. A shard is rolled over after some hours, so up
 * to that much is applied twice; a position in the middle of a shard cannot be had without a record of it, and an iterator is good for 15 minutes.
 */
export function beginAt(stream: string, listed: readonly ListedShard[], nowMs: number): StreamPosition {
  const parents = new Set(listed.flatMap(({ parent }) => (parent === undefined ? [] : [parent])));
  const leaves = listed.filter(({ id }) => !parents.has(id));
  if (leaves.length === 0) throw new HoldfastError('stream-empty', `stream ${stream} lists no shard`, { retryable: true, next: 'a stream that was just turned on takes some seconds; try again' });
  return limited({ stream, startedAtMs: nowMs, shards: leaves.map(({ id }) => ({ shard: id, after: null, atMs: nowMs, ended: false })) });
}

/**
 * Takes in what is listed now: children of ended shards begin, ended shards with a known child go.
 * A listing lags: a child that is not listed yet is taken in later, and one whose parent is being read waits.
 * @throws HoldfastError `stream-gap` when records may be gone that were never applied.
 */
export function takeIn(position: StreamPosition, listed: readonly ListedShard[]): StreamPosition {
  const parentOf = new Map(listed.map(({ id, parent }) => [id, parent]));
  const front = new Map(position.shards.map((one) => [one.shard, one]));
  const applied = new Set<string>();
  for (const { shard } of position.shards) {
    for (let above = parentOf.get(shard); above !== undefined && !applied.has(above); above = parentOf.get(above)) applied.add(above);
  }
  const unknown = listed.filter(({ id }) => !front.has(id) && !applied.has(id));
  const waiting = new Set(unknown.map(({ id }) => id));
  const fresh: ShardPosition[] = [];
  for (const { id, parent } of unknown) {
    const above = parent === undefined ? undefined : front.get(parent);
    if (parent !== undefined && (waiting.has(parent) || above?.ended === false)) continue;
    if (above === undefined && (parent === undefined || !applied.has(parent))) {
      throw new HoldfastError('stream-gap', `shard ${id} of ${position.stream} follows ${parent ?? 'no shard'}, which was never read and is kept no more: changes may be missing`, { next: 'begin the copy anew, into an empty table', context: { shard: id } });
    }
    // A late brother of one that is read already: as far behind as the last of them.
    fresh.push({ shard: id, after: null, atMs: above?.atMs ?? Math.min(...position.shards.map(({ atMs }) => atMs)), ended: false });
  }
  const followed = new Set(fresh.map(({ shard }) => parentOf.get(shard)));
  for (const { shard } of position.shards) followed.add(parentOf.get(shard));
  return limited({ ...position, shards: [...position.shards.filter(({ shard, ended }) => !ended || !followed.has(shard)), ...fresh] });
}

/** A page of a shard is applied. `after` null: it was empty. */
export function advanced(position: StreamPosition, shard: string, to: { readonly after: string | null; readonly atMs: number; readonly ended: boolean }): StreamPosition {
  return { ...position, shards: position.shards.map((one) => (one.shard === shard ? { shard, after: to.after ?? one.after, atMs: Math.max(one.atMs, to.atMs), ended: to.ended } : one)) };
}

/** Age of the oldest change that may not be applied yet. */
export function behindMs(position: StreamPosition, nowMs: number): number {
  return Math.max(0, nowMs - Math.min(...position.shards.map(({ atMs }) => atMs)));
}

/** @throws HoldfastError `stream-trimmed` when records may have gone before they were read. */
export function refuseTrimmed(position: StreamPosition, nowMs: number): void {
  const behind = behindMs(position, nowMs);
  if (behind <= KEPT_MS - TRIM_MARGIN_MS) return;
  const oldest = position.shards.reduce((one, other) => (other.atMs < one.atMs ? other : one));
  throw new HoldfastError('stream-trimmed', `the follow-up is ${Math.round(behind / 60_000)} minutes behind in shard ${oldest.shard}; DynamoDB keeps records for 24 hours, so changes may be gone`, {
    next: 'begin the copy anew into an empty table: with more of the capacity, or at a quieter time',
  });
}

/** What was seen of one shard of late: empty answers, or, after its end, listings without a child of it. */
export interface Quiet {
  /** When the first of them in a row was asked for. */
  readonly sinceMs: number;
  readonly answers: number;
}

export interface DrainRule {
  /** Nobody writes since. */
  readonly stoppedAtMs: number;
  /** GetRecords answers nothing also before the end of a shard: once is not enough. */
  readonly answers: number;
  readonly quietMs: number;
}

/**
 * Everything up to the stop is applied, as far as the stream says: each shard has given nothing several times, over some time that began
 * after the stop. A shard that ended counts by its listings: its child may be listed late, and hold what was written before the stop.
 * A stream has no end to be asked for, so the proof is reading both tables.
 */
export function drained(position: StreamPosition, quiet: ReadonlyMap<string, Quiet>, rule: DrainRule, nowMs: number): boolean {
  return position.shards.every(({ shard }) => {
    const seen = quiet.get(shard);
    return seen !== undefined && seen.sinceMs >= rule.stoppedAtMs && seen.answers >= rule.answers && nowMs - seen.sinceMs >= rule.quietMs;
  });
}

/** The last write of each key of a page: within a batch DynamoDB keeps no order, so a key may stand in it only once. */
export function lastOfEach<R>(records: readonly R[], keyOf: (record: R) => string): R[] {
  const last = new Map<string, R>();
  for (const record of records) {
    const key = keyOf(record);
    last.delete(key);
    last.set(key, record);
  }
  return [...last.values()];
}

/** A position as it came back from a heartbeat or a fact, or as somebody pasted it. @throws HoldfastError when it is none. */
export function readPosition(given: unknown): StreamPosition | undefined {
  if (given === null || given === undefined || given === '') return undefined;
  const value = typeof given === 'string' ? parsed(given) : given;
  const found = value as Partial<StreamPosition>;
  const whole = typeof found === 'object' && found !== null && typeof found.stream === 'string' && typeof found.startedAtMs === 'number' && Array.isArray(found.shards) && found.shards.every((one: unknown) => {
    const shard = one as Partial<ShardPosition> | null;
    return typeof shard?.shard === 'string' && (shard.after === null || typeof shard.after === 'string') && typeof shard.atMs === 'number' && typeof shard.ended === 'boolean';
  }) && (found.copied === undefined || (typeof found.copied?.source === 'string' && typeof found.copied.target === 'string'));
  if (!whole) throw new HoldfastError('stream-position', 'this is no position of a stream', { next: 'give ${steps.<id>.position} of the step that copied or followed before' });
  return found as StreamPosition;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function limited(position: StreamPosition): StreamPosition {
  if (position.shards.length <= MOST_SHARDS) return position;
  throw new HoldfastError('stream-too-wide', `stream ${position.stream} has ${position.shards.length} shards to be read at once; ${MOST_SHARDS} are the most`, { next: 'follow it with a consumer of your own, or restore the table from a backup in the other Region' });
}
