import { HoldfastError } from '../model/errors.ts';
import { entryTime, gatherKey, type KeyState, type SameSecond, type VersionEntry } from '../model/s3-versions.ts';
import { plainEtag, s3Call, whereOf, type Bucket } from './s3-bucket.ts';

export interface MomentOptions {
  readonly momentMs: number;
  readonly sameSecond: SameSecond;
  /** Entries stamped since then are counted, so that writers who were active meanwhile are noticed. */
  readonly sinceMs?: number;
  readonly signal?: AbortSignal;
  /** After each page: how many entries were read so far. */
  readonly onPage?: (entries: number) => void;
  /** Entries in a page; the store's own limit is 1,000. */
  readonly pageSize?: number;
}

interface Page {
  readonly entries: readonly VersionEntry[];
  readonly more: boolean;
  readonly nextKey: string | undefined;
  readonly nextVersion: string | undefined;
}

async function readPage(place: Bucket, prefix: string, from: { key: string | undefined; version: string | undefined }, pageSize: number | undefined, signal: AbortSignal | undefined): Promise<Page> {
  const { ListObjectVersionsCommand } = await import('@aws-sdk/client-s3');
  const page = await s3Call(place, 's3:ListBucketVersions', prefix, () =>
    place.client.send(
      // Encoded: XML cannot carry every character that a key may have.
      new ListObjectVersionsCommand({ Bucket: place.bucket, Prefix: prefix, KeyMarker: from.key, VersionIdMarker: from.version, MaxKeys: pageSize, EncodingType: 'url' }),
      signal === undefined ? {} : { abortSignal: signal },
    ),
  );
  // Stores that do not know the encoding answer with plain keys and do not name it.
  const decode = page.EncodingType === 'url' ? (text: string): string => decodeURIComponent(text.replaceAll('+', ' ')) : (text: string): string => text;
  const versions = (page.Versions ?? []).map((version): VersionEntry => ({
    key: decode(version.Key ?? ''), versionId: version.VersionId ?? 'null', marker: false, latest: version.IsLatest === true, ...entryTime(version.VersionId ?? 'null', version.LastModified?.getTime() ?? 0, place.versionTime),
    ...(version.ETag === undefined ? {} : { etag: plainEtag(version.ETag)! }), bytes: version.Size ?? 0, ...(version.StorageClass === undefined ? {} : { storageClass: version.StorageClass }),
  }));
  const markers = (page.DeleteMarkers ?? []).map((marker): VersionEntry => ({ key: decode(marker.Key ?? ''), versionId: marker.VersionId ?? 'null', marker: true, latest: marker.IsLatest === true, ...entryTime(marker.VersionId ?? 'null', marker.LastModified?.getTime() ?? 0, place.versionTime) }));
  const more = page.IsTruncated === true;
  if (more && page.NextKeyMarker === undefined) throw new HoldfastError('s3-listing', `the listing of versions below ${whereOf(place, prefix)} broke off without saying where to go on`, { retryable: true, next: 'try again; without a whole listing nothing is restored' });
  return { entries: [...versions, ...markers], more, nextKey: more ? decode(page.NextKeyMarker!) : undefined, nextVersion: more ? page.NextVersionIdMarker : undefined };
}

/**
 * Every key below a prefix with what it shows now and what it showed at a moment. Memory is that of one page and of the keys
 * that a page break cut through, however many objects and versions there are. Throws when the listing is not complete.
 */
export async function* keysAtMoment(place: Bucket, prefix: string, options: MomentOptions): AsyncGenerator<KeyState> {
  const { momentMs, sameSecond, signal } = options;
  const gather = (): ReturnType<typeof gatherKey> => gatherKey(momentMs, sameSecond, options.sinceMs ?? Number.POSITIVE_INFINITY);
  let open = new Map<string, ReturnType<typeof gatherKey>>();
  let from: { key: string | undefined; version: string | undefined } = { key: undefined, version: undefined };
  let read = 0;
  for (;;) {
    signal?.throwIfAborted();
    const page = await readPage(place, prefix, from, options.pageSize, signal);
    read += page.entries.length;
    options.onPage?.(read);
    const here = new Map(open);
    // A key goes on on the next page only when it is the last one of this page: of its versions, of its markers, or by name.
    const last = new Set<string>(page.nextKey === undefined ? [] : [page.nextKey]);
    let lastVersion: string | undefined;
    let lastMarker: string | undefined;
    for (const entry of page.entries) {
      let gathered = here.get(entry.key);
      if (gathered === undefined) here.set(entry.key, (gathered = gather()));
      gathered.add(entry);
      if (entry.marker) lastMarker = entry.key;
      else lastVersion = entry.key;
    }
    if (lastVersion !== undefined) last.add(lastVersion);
    if (lastMarker !== undefined) last.add(lastMarker);
    open = new Map();
    for (const [key, gathered] of here) {
      if (page.more && last.has(key)) open.set(key, gathered);
      else yield await ordered(place, gathered.state(key), signal);
    }
    if (!page.more) return;
    if (page.nextKey === from.key && page.nextVersion === from.version) throw new HoldfastError('s3-listing', `the listing of versions below ${whereOf(place, prefix)} does not get any further than ${page.nextKey}`, { next: 'tell the operator of the store' });
    from = { key: page.nextKey, version: page.nextVersion };
  }
}

/** Entries of a key that are looked through to see which of two comes first. */
const LOOK_THROUGH = 2000;

/**
 * A version and a delete marker of the same second: an answer lists them apart, so their order is lost. Pages of one entry keep it.
 * Undecided when even that does not name one of them.
 */
async function ordered(place: Bucket, state: KeyState, signal: AbortSignal | undefined): Promise<KeyState> {
  if (state.unordered === undefined) return state;
  let from: { key: string | undefined; version: string | undefined } = { key: undefined, version: undefined };
  for (let looked = 0; looked < LOOK_THROUGH; looked += 1) {
    const page = await readPage(place, state.key, from, 1, signal);
    const [entry] = page.entries;
    if (entry !== undefined && entry.key !== state.key) break;
    const found = entry === undefined ? undefined : state.unordered.find((candidate) => candidate.versionId === entry.versionId && candidate.marker === entry.marker);
    if (found !== undefined) return { ...state, was: found, unordered: undefined };
    if (!page.more || (page.nextKey === from.key && page.nextVersion === from.version)) break;
    from = { key: page.nextKey, version: page.nextVersion };
  }
  return state;
}

/** One key's state at a moment; undefined when it has no versions at all. */
export async function keyAtMoment(place: Bucket, key: string, options: MomentOptions): Promise<KeyState | undefined> {
  for await (const state of keysAtMoment(place, key, { ...options, pageSize: 1000 })) {
    if (state.key === key) return state;
    // Keys come in order, and no key with this prefix comes before the key itself.
    break;
  }
  return undefined;
}

/** Every version and delete marker of one key; the versions newest first, and so the markers. */
export async function* entriesOf(place: Bucket, key: string, signal: AbortSignal): AsyncGenerator<VersionEntry> {
  let from: { key: string | undefined; version: string | undefined } = { key: undefined, version: undefined };
  for (;;) {
    const page = await readPage(place, key, from, undefined, signal);
    for (const entry of page.entries) if (entry.key === key) yield entry;
    // Other keys with this prefix come after it.
    if (!page.more || page.nextKey !== key) return;
    from = { key: page.nextKey, version: page.nextVersion };
  }
}
