/** Rules of a table-to-table copy. Pure. */
import type { TableSettings } from './dynamodb-settings.ts';
import type { StreamPosition } from './dynamodb-stream.ts';
import { HoldfastError } from './errors.ts';

/**
 * What a copy writes down: before its first write, and as it goes. No key and no value of an item is in it. A copy that finds this
 * of itself knows that what is in the target is its own.
 */
export interface CopyState {
  readonly kind: 'dynamodb.copy/1';
  /** Which source and which target: a table that was deleted and made anew is another one. */
  readonly source: string;
  readonly target: string;
  readonly segments: number;
  /** Segments that are written, as ranges: `0-3,7`. */
  readonly done: string;
  /** Of these segments. */
  readonly items: number;
  /** Segments that were begun and are not done. */
  readonly begun: readonly number[];
  /** Begun by a worker that was lost, and read again. */
  readonly repeated: number;
  readonly startedAtMs: number;
  /** Before the scan began; null: the table is not followed. */
  readonly position: StreamPosition | null;
}

/** So many bytes a segment: what a lost worker repeats of each segment under way. */
const SEGMENT_BYTES = 64_000_000;
const MOST_DEFAULT_SEGMENTS = 10_000;

/** The stored size is hours old: good enough for a number of parts. */
export function segmentsFor(bytes: number, parallel: number): number {
  return Math.min(MOST_DEFAULT_SEGMENTS, Math.max(parallel * 2, Math.ceil(bytes / SEGMENT_BYTES)));
}

export function beginCopy(of: { source: string; target: string; segments: number; startedAtMs: number; position: StreamPosition | null }): CopyState {
  return { kind: 'dynamodb.copy/1', ...of, done: '', items: 0, begun: [], repeated: 0 };
}

/** What a lost worker left, when it is of this very copy; segments that were under way are counted as repeated. */
export function resumeCopy(report: unknown, of: { source: string; target: string }): CopyState | undefined {
  const state = report as Partial<CopyState> | null | undefined;
  if (state?.kind !== 'dynamodb.copy/1') return undefined;
  if (state.source !== of.source || state.target !== of.target) {
    throw new HoldfastError('copy-other-table', `the copy began between other tables: ${state.source} to ${state.target}; now they are ${of.source} and ${of.target}`, { next: 'somebody made one of them anew: begin a new copy, into an empty table' });
  }
  const whole = state as CopyState;
  return { ...whole, begun: [], repeated: whole.repeated + whole.begun.length };
}

/** What the target of a copy shows of being in use already; both are what dynamodb.settings gives it at the end. */
export interface TargetInUse {
  readonly stream: boolean;
  readonly timeToLive: string | null;
}

/**
 * Why a run may not go on with what an earlier one copied; undefined: it may. The position says between which tables it was taken, and a
 * name that was used again is another table. Whoever applies the stream writes over everything that was written to the copy since, so
 * one that was given its settings is left alone: people may have been told of it.
 */
export function takeOverProblem(position: StreamPosition, of: { source: string; target: string }, found: TargetInUse & { readonly sourceStream: string | undefined }): string | undefined {
  const { copied } = position;
  if (copied === undefined) return 'the position does not say of which copy it is';
  if (copied.source !== of.source || copied.target !== of.target) return `the position is of a copy of ${copied.source} to ${copied.target}; the tables are ${of.source} and ${of.target}`;
  if (position.stream !== found.sourceStream) return `the position is of ${position.stream}; the table's stream is ${found.sourceStream ?? 'off'} now, so changes are missing`;
  if (found.stream || found.timeToLive !== null) return `the copy has ${found.stream ? 'a stream' : `time to live, by ${found.timeToLive}`}: it was given its settings, and people may write to it`;
  return undefined;
}

export function missingSegments(state: CopyState): number[] {
  const done = new Set(rangesOf(state.done).flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, index) => from + index)));
  return Array.from({ length: state.segments }, (_, index) => index).filter((segment) => !done.has(segment));
}

export function withSegment(state: CopyState, segment: number, items: number): CopyState {
  const ranges = [...rangesOf(state.done), [segment, segment] as const].sort(([a], [b]) => a - b);
  const joined: [number, number][] = [];
  for (const [from, to] of ranges) {
    const last = joined.at(-1);
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to);
    else joined.push([from, to]);
  }
  return { ...state, done: joined.map(([from, to]) => (from === to ? String(from) : `${from}-${to}`)).join(','), items: state.items + items, begun: state.begun.filter((one) => one !== segment) };
}

function rangesOf(text: string): (readonly [number, number])[] {
  return text === '' ? [] : text.split(',').map((part) => {
    const [from, to = from] = part.split('-');
    return [Number(from), Number(to)] as const;
  });
}

export interface TableIdentity {
  readonly arn: string;
  /** As the service numbers tables; emulators need not. */
  readonly id: string | null;
  readonly createdAtMs: number;
}

/** One text for one table: a name that was used again is another one. */
export function identityText({ arn, id, createdAtMs }: TableIdentity): string {
  return `${arn} (${id ?? new Date(createdAtMs).toISOString()})`;
}

/** Emulators give tables of all Regions and accounts the same ARN; on AWS it alone decides. */
export function sameTable(a: TableIdentity, b: TableIdentity): boolean {
  return a.arn === b.arn && a.id === b.id && a.createdAtMs === b.createdAtMs;
}

/** Settings that neither a copy nor a restore to a moment brings along. */
export type LateSettings = Pick<TableSettings, 'stream' | 'timeToLive' | 'tags' | 'pointInTime' | 'deletionProtection'>;

const NONE: LateSettings = { stream: null, timeToLive: null, tags: null, pointInTime: null, deletionProtection: false };

/** What the one has and the other lacks; what the other has more is left. A part that one of the servers does not know (null) is not missed. */
export function missingSettings(wanted: LateSettings, found: LateSettings): { readonly settings: LateSettings; readonly words: string[] } {
  const tags = wanted.tags === null || found.tags === null ? [] : Object.entries(wanted.tags).filter(([name, value]) => found.tags![name] !== value);
  const settings: LateSettings = {
    ...NONE,
    ...(wanted.stream !== null && wanted.stream !== found.stream ? { stream: wanted.stream } : {}),
    ...(wanted.timeToLive !== null && wanted.timeToLive !== found.timeToLive ? { timeToLive: wanted.timeToLive } : {}),
    ...(tags.length > 0 ? { tags: Object.fromEntries(tags) } : {}),
    ...(wanted.pointInTime?.enabled === true && found.pointInTime?.enabled === false ? { pointInTime: wanted.pointInTime } : {}),
    ...(wanted.deletionProtection && !found.deletionProtection ? { deletionProtection: true } : {}),
  };
  const words = [
    ...(settings.stream === null ? [] : [`stream ${settings.stream}`]),
    ...(settings.timeToLive === null ? [] : [`time to live by ${settings.timeToLive}`]),
    ...(settings.tags === null ? [] : [`tags ${Object.keys(settings.tags).join(', ')}`]),
    ...(settings.pointInTime === null ? [] : ['point-in-time recovery']),
    ...(settings.deletionProtection ? ['deletion protection'] : []),
  ];
  return { settings, words };
}

/** What a server other than the service does not know, in words. */
export function unknownSettings(...all: readonly LateSettings[]): string[] {
  return [...(all.some(({ tags }) => tags === null) ? ['tags'] : []), ...(all.some(({ pointInTime }) => pointInTime === null) ? ['point-in-time recovery'] : [])];
}
