/**
 * Which version of an object was current at a moment. Pure: entries come from ListObjectVersions, newest first within a key.
 *
 * Stores stamp versions with whole seconds (Amazon S3 does; others stamp some with milliseconds and some without), so an entry stamped
 * within the second of the moment may be older or younger than it: that is said, never guessed. Among entries the order of the
 * listing decides, not the stamp.
 */
export interface VersionEntry {
  readonly key: string;
  readonly versionId: string;
  /** A delete marker: behind it the object is gone. */
  readonly marker: boolean;
  readonly latest: boolean;
  readonly atMs: number;
  /** To the millisecond; otherwise a whole second may stand for any time within it. */
  readonly exact?: boolean;
  /** Its id carries another time than its stamp: the store stamps versions anew when they are replaced. */
  readonly restamped?: boolean;
  /** Without quotes; none for a marker. */
  readonly etag?: string;
  readonly bytes?: number;
  readonly storageClass?: string;
}

/** What to do with entries stamped within the very second of the moment. */
export const SAME_SECOND = ['refuse', 'before', 'after'] as const;
export type SameSecond = (typeof SAME_SECOND)[number];

export interface KeyState {
  readonly key: string;
  /** What the key shows now; a marker when it is deleted, undefined when the listing named no latest entry. */
  readonly latest: VersionEntry | undefined;
  /** The newest entry of the moment, by the rule for the same second; undefined: the key did not exist. */
  readonly was: VersionEntry | undefined;
  /** Two entries of which the listing, as it is answered, does not say which is newer; the store must be asked. */
  readonly unordered: readonly [VersionEntry, VersionEntry] | undefined;
  /** An entry lies within the second of the moment. */
  readonly sameSecond: boolean;
  /** The stamps of its entries are not those of their writing. */
  readonly restamped: boolean;
  /** Entries stamped at or after `sinceMs`. */
  readonly since: number;
}

/** A stamp without milliseconds stands for its whole second. */
function lastMs(entry: VersionEntry): number {
  return entry.exact !== true && entry.atMs % 1000 === 0 ? entry.atMs + 999 : entry.atMs;
}

const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';

/** The time in a version id that is a ULID; undefined when it is none. Source: the ULID specification, 48 bits of milliseconds in ten digits of base 32. */
export function ulidMs(id: string): number | undefined {
  if (!/^[0-7][0-9A-HJKMNP-TV-Z]{25}$/.test(id)) return undefined;
  return Array.from(id.slice(0, 10)).reduce((ms, digit) => ms * 32 + CROCKFORD.indexOf(digit), 0);
}

/** Stamps and ids are made by different clocks, at the begin and the end of a write. */
const STAMP_TOLERANCE_MS = 10_000;

/** @param versionTime whether the store's stamps count, or the ids where they are ULIDs */
export function entryTime(versionId: string, stampMs: number, versionTime: 'stamp' | 'ulid'): Pick<VersionEntry, 'atMs' | 'exact' | 'restamped'> {
  const inId = ulidMs(versionId);
  if (inId === undefined) return { atMs: stampMs };
  if (versionTime === 'ulid') return { atMs: inId, exact: true };
  return stampMs - inId > STAMP_TOLERANCE_MS ? { atMs: stampMs, restamped: true } : { atMs: stampMs };
}

function whenOf(entry: VersionEntry, momentMs: number): 'before' | 'after' | 'same-second' {
  if (lastMs(entry) <= momentMs) return 'before';
  return entry.atMs > momentMs ? 'after' : 'same-second';
}

interface Gathered {
  latest: VersionEntry | undefined;
  version: VersionEntry | undefined;
  marker: VersionEntry | undefined;
  sameSecond: boolean;
  restamped: boolean;
  since: number;
}

/** Gathers a key's entries as pages come in; holds three of them, however many there are. */
export function gatherKey(momentMs: number, sameSecond: SameSecond, sinceMs: number): { add(entry: VersionEntry): void; state(key: string): KeyState } {
  const found: Gathered = { latest: undefined, version: undefined, marker: undefined, sameSecond: false, restamped: false, since: 0 };
  return {
    add(entry) {
      if (entry.latest) found.latest ??= entry;
      if (entry.restamped === true) found.restamped = true;
      if (lastMs(entry) >= sinceMs) found.since += 1;
      const when = whenOf(entry, momentMs);
      if (when === 'same-second') found.sameSecond = true;
      if (when === 'after' || (when === 'same-second' && sameSecond !== 'before')) return;
      // Versions come newest first, and so do markers; between the two the page says nothing.
      if (entry.marker) found.marker ??= entry;
      else found.version ??= entry;
    },
    state(key) {
      const { latest, version, marker } = found;
      const base = { key, latest, sameSecond: found.sameSecond, restamped: found.restamped, since: found.since };
      if (version === undefined || marker === undefined) return { ...base, was: version ?? marker, unordered: undefined };
      const newer = newerOf(version, marker);
      return newer === undefined ? { ...base, was: undefined, unordered: [version, marker] } : { ...base, was: newer, unordered: undefined };
    },
  };
}

function newerOf(a: VersionEntry, b: VersionEntry): VersionEntry | undefined {
  if (a.latest !== b.latest) return a.latest ? a : b;
  if (a.atMs > lastMs(b)) return a;
  return b.atMs > lastMs(a) ? b : undefined;
}

/**
 * `bring-back`: it is gone and was there. `replace`: it shows another version. `remove`: it is there and was not.
 * `same`: it shows that very version. `same-content`: another version with the same ETag and size. `stays-away`: gone, as then.
 */
export type KeyAction = 'bring-back' | 'replace' | 'remove' | 'same' | 'same-content' | 'stays-away';

export function actionFor(state: Pick<KeyState, 'latest' | 'was'>): KeyAction {
  const { latest, was } = state;
  const wasThere = was !== undefined && !was.marker;
  const isThere = latest !== undefined && !latest.marker;
  if (!wasThere) return isThere ? 'remove' : 'stays-away';
  if (!isThere) return 'bring-back';
  if (latest.versionId === was.versionId) return 'same';
  return latest.etag !== undefined && latest.etag === was.etag && latest.bytes === was.bytes ? 'same-content' : 'replace';
}

/**
 * What two ETags say of two contents of the same size. An ETag of one upload is its MD5 unless it was encrypted with a key of KMS or
 * the customer's; one with a dash depends on how the object was cut into parts. Source: S3 API reference, Object.
 */
export function etagsSay(a: string | undefined, b: string | undefined, plain: boolean): 'same' | 'different' | 'nothing' {
  if (a === undefined || b === undefined) return 'nothing';
  if (a === b) return 'same';
  return plain && /^[0-9a-f]{32}$/.test(a) && /^[0-9a-f]{32}$/.test(b) ? 'different' : 'nothing';
}

/** Classes whose objects cannot be read or copied before they were restored from the archive. */
const ARCHIVED = new Set(['GLACIER', 'DEEP_ARCHIVE']);

/** Why an object cannot be copied now; null when it can. `restore` is the header x-amz-restore. */
export function archivedBecause(head: { storageClass?: string | undefined; archiveStatus?: string | undefined; restore?: string | undefined }): string | null {
  if (!ARCHIVED.has(head.storageClass ?? '') && head.archiveStatus === undefined) return null;
  if (head.restore?.includes('ongoing-request="false"') === true) return null;
  if (head.restore?.includes('ongoing-request="true"') === true) return `it is being restored from ${head.archiveStatus ?? head.storageClass} and not ready yet`;
  return `it lies in ${head.archiveStatus ?? head.storageClass}`;
}

/** Copies over 5 GB go in parts; a copy is at most 5 GB. Source: S3 user guide, "Amazon S3 multipart upload limits". */
export const COPY_WHOLE_BYTES = 5 * 1024 ** 3;
const MAXIMUM_PARTS = 10_000;

/**
 * Ranges of a copy in parts: with the parts of the original where they are known, so that the copy gets the same ETag.
 * @param firstPartBytes of the original, when it was uploaded in `parts` parts
 */
export function copyRanges(bytes: number, wanted: number, original?: { readonly parts: number; readonly firstPartBytes: number }): { from: number; to: number }[] {
  const fits = original !== undefined && original.firstPartBytes > 0 && Math.ceil(bytes / original.firstPartBytes) === original.parts;
  const size = fits ? original.firstPartBytes : Math.max(wanted, Math.ceil(bytes / MAXIMUM_PARTS));
  const ranges: { from: number; to: number }[] = [];
  for (let from = 0; from < bytes; from += size) ranges.push({ from, to: Math.min(from + size, bytes) - 1 });
  return ranges;
}

/** The value of x-amz-copy-source: every octet that could mean something else is encoded. */
export function copySource(bucket: string, key: string, versionId: string): string {
  return `${encodeURIComponent(bucket)}/${key.split('/').map(encodeURIComponent).join('/')}?versionId=${encodeURIComponent(versionId)}`;
}

/** A moment as people write it: ISO 8601 with a time zone. */
export const MOMENT_PATTERN = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,3})?)?(Z|[+-]\d{2}:\d{2})$/;

/** @returns undefined when it is no moment. */
export function parseMoment(text: string): number | undefined {
  if (!MOMENT_PATTERN.test(text)) return undefined;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? undefined : ms;
}

/** A counter with the first few of what it counted, so that a result stays small however many there are. */
export interface Counted {
  count: number;
  readonly first: string[];
}

export function counted(): Counted {
  return { count: 0, first: [] };
}

export function count(counter: Counted, what: string, keep = 5): void {
  counter.count += 1;
  if (counter.first.length < keep) counter.first.push(what);
}

/** `3 (a, b, c)`, `12 (a, b, c, d, e, ...)`, `0`. */
export function countText(counter: Counted): string {
  return counter.count === 0 ? '0' : `${counter.count} (${counter.first.join(', ')}${counter.count > counter.first.length ? ', ...' : ''})`;
}
