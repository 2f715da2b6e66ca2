import { createHash } from 'node:crypto';
import type { CompletedPart, CopyObjectCommandInput } from '@aws-sdk/client-s3';
import { HoldfastError } from '../model/errors.ts';
import { actionFor, archivedBecause, copyRanges, copySource, COPY_WHOLE_BYTES, count, counted, etagsSay, type Counted, type KeyState, type SameSecond, type VersionEntry } from '../model/s3-versions.ts';
import { formatBytes } from '../model/units.ts';
import { abandonUpload } from './s3-abandon.ts';
import { bucketError, headVersion, httpStatus, isUnsupported, plainEtag, s3Call, tagsOf, whereOf, type Bucket, type ObjectHead } from './s3-bucket.ts';
import { keyAtMoment, keysAtMoment } from './s3-versions.ts';
import { resumed } from './store-s3.ts';

/** A server-side copy is given up when it is slower than this. */
const SLOWEST_COPY_BYTES_PER_SECOND = 5_000_000;
const PART_BYTES = 512 * 1024 ** 2;
const PARTS_AT_ONCE = 4;
/** A key that somebody else writes to is looked at anew so often before it is left to the verification. */
const OVERTAKEN_TRIES = 3;

export interface CopyOptions {
  readonly signal: AbortSignal;
  /** Larger objects are copied in parts; S3's own limit unless a test lowers it. */
  readonly wholeBytes?: number;
  readonly partBytes?: number;
}

/** Stores that took a condition for a header they do not know; asked once a process. */
const unconditional = new WeakSet<object>();

/**
 * Sends a change only if the object still is what was looked at, where the store can (If-Match on the destination). One without it
 * changes the object in any case; what another writer put there meanwhile then stays as an old version, and verification names the key.
 */
async function conditionally<T>(place: Bucket, action: string, key: string, current: VersionEntry | undefined, send: (condition: { IfMatch?: string; IfNoneMatch?: string }) => Promise<T>): Promise<T> {
  const there = current !== undefined && !current.marker;
  const condition = there ? (current.etag === undefined ? {} : { IfMatch: `"${current.etag}"` }) : { IfNoneMatch: '*' };
  const attempt = async (conditions: { IfMatch?: string; IfNoneMatch?: string }): Promise<T> => {
    try {
      return await send(conditions);
    } catch (error) {
      if (httpStatus(error) === 412 || httpStatus(error) === 409 || (httpStatus(error) === 404 && there)) {
        throw new HoldfastError('s3-overtaken', `${whereOf(place, key)} was written by somebody else meanwhile`, { retryable: true, next: 'stop the writers, or leave the key to them', cause: error });
      }
      throw error;
    }
  };
  try {
    return await attempt(unconditional.has(place.client) ? {} : condition);
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    if (!isUnsupported(error) || unconditional.has(place.client)) throw bucketError(place, action, key, error);
    unconditional.add(place.client);
    return s3Call(place, action, key, () => send({}));
  }
}

/** What makes an object unreadable now, and so not to be copied; null when nothing does. */
export function unreadableBecause(head: ObjectHead): string | null {
  if (head.customerKey) return 'it is encrypted with a key that only its owner has (SSE-C)';
  return archivedBecause(head);
}

/**
 * Makes a version the current content of its key again, with its metadata, tags, content headers and storage class, by a copy within
 * the store. No version is removed. @throws HoldfastError `s3-overtaken` when somebody else wrote meanwhile.
 */
export async function restoreVersion(place: Bucket, key: string, versionId: string, current: VersionEntry | undefined, options: CopyOptions): Promise<{ versionId: string | undefined; etag: string | undefined; bytes: number }> {
  const head = await headVersion(place, key, versionId);
  if (head === undefined) throw new HoldfastError('s3-version-missing', `${whereOf(place, key)} has no version ${versionId}`, { next: 'it may have been removed by a lifecycle rule: choose another moment, or another copy' });
  const unreadable = unreadableBecause(head);
  if (unreadable !== null) throw archived(place, key, versionId, unreadable);
  if (head.bytes > (options.wholeBytes ?? COPY_WHOLE_BYTES)) return copyInParts(place, key, versionId, head, current, options);
  const { CopyObjectCommand } = await import('@aws-sdk/client-s3');
  const input: CopyObjectCommandInput = {
    Bucket: place.bucket, Key: key, CopySource: copySource(place.bucket, key, versionId), MetadataDirective: 'COPY', TaggingDirective: 'COPY',
    ...(head.storageClass === undefined ? {} : { StorageClass: head.storageClass }),
    ...(head.redirect === undefined ? {} : { WebsiteRedirectLocation: head.redirect }),
    ...encryptionOf(head),
  };
  const answer = await conditionally(place, 's3:PutObject', key, current, (condition) =>
    place.client.send(new CopyObjectCommand({ ...input, ...condition }), { abortSignal: options.signal, requestTimeout: timeoutFor(head.bytes) }),
  );
  return { versionId: answer.VersionId, etag: plainEtag(answer.CopyObjectResult?.ETag), bytes: head.bytes };
}

function archived(place: Bucket, key: string, versionId: string, why: string): HoldfastError {
  const thaw = why.startsWith('it lies in');
  return new HoldfastError('s3-archived', `version ${versionId} of ${whereOf(place, key)} cannot be copied: ${why}`, {
    next: thaw ? `aws s3api restore-object --bucket ${place.bucket} --key '${key.replaceAll("'", `'\\''`)}' --version-id ${versionId} --restore-request '{"Days":7,"GlacierJobParameters":{"Tier":"Standard"}}', wait for hours, then retry` : why.includes('SSE-C') ? 'its owner must copy it with the key' : 'wait until it is ready, then retry',
  });
}

function encryptionOf(head: ObjectHead): Pick<CopyObjectCommandInput, 'ServerSideEncryption' | 'SSEKMSKeyId'> {
  return head.encryption === undefined || head.encryption === 'AES256' ? {} : { ServerSideEncryption: head.encryption, ...(head.kmsKey === undefined ? {} : { SSEKMSKeyId: head.kmsKey }) };
}

function timeoutFor(bytes: number): number {
  return Math.max(60_000, (bytes / SLOWEST_COPY_BYTES_PER_SECOND) * 1000);
}

async function copyInParts(place: Bucket, key: string, versionId: string, head: ObjectHead, current: VersionEntry | undefined, options: CopyOptions): Promise<{ versionId: string | undefined; etag: string | undefined; bytes: number }> {
  const { CompleteMultipartUploadCommand, CreateMultipartUploadCommand, UploadPartCopyCommand } = await import('@aws-sdk/client-s3');
  const tags = head.tagCount === 0 ? [] : await tagsOf(place, key, versionId);
  const made = await s3Call(place, 's3:PutObject', key, () =>
    place.client.send(
      new CreateMultipartUploadCommand({
        Bucket: place.bucket, Key: key, Metadata: { ...head.metadata },
        ContentType: head.contentType, CacheControl: head.cacheControl, ContentDisposition: head.contentDisposition, ContentEncoding: head.contentEncoding, ContentLanguage: head.contentLanguage,
        ...(head.expires === undefined || Number.isNaN(Date.parse(head.expires)) ? {} : { Expires: new Date(head.expires) }),
        ...(head.storageClass === undefined ? {} : { StorageClass: head.storageClass }),
        ...(head.redirect === undefined ? {} : { WebsiteRedirectLocation: head.redirect }),
        ...(tags.length === 0 ? {} : { Tagging: tags.map(({ Key, Value }) => `${encodeURIComponent(Key)}=${encodeURIComponent(Value)}`).join('&') }),
        ...encryptionOf(head),
      }),
      { abortSignal: options.signal },
    ),
  );
  const UploadId = made.UploadId;
  if (UploadId === undefined) throw new HoldfastError('s3-call', `${whereOf(place, key)}: the store began an upload without naming it`, { next: "tell the store's operator" });
  try {
    const ranges = copyRanges(head.bytes, options.partBytes ?? PART_BYTES, await partsOf(place, key, versionId, head));
    const parts: CompletedPart[] = [];
    await eachOf(ranges.entries(), PARTS_AT_ONCE, options.signal, async ([index, { from, to }]) => {
      const answer = await s3Call(place, 's3:PutObject', key, () =>
        place.client.send(
          new UploadPartCopyCommand({ Bucket: place.bucket, Key: key, UploadId, PartNumber: index + 1, CopySource: copySource(place.bucket, key, versionId), CopySourceRange: `bytes=${from}-${to}` }),
          { abortSignal: options.signal, requestTimeout: timeoutFor(to - from + 1) },
        ),
      );
      parts.push({ PartNumber: index + 1, ...(answer.CopyPartResult?.ETag === undefined ? {} : { ETag: answer.CopyPartResult.ETag }) });
    });
    parts.sort((a, b) => a.PartNumber! - b.PartNumber!);
    const done = await conditionally(place, 's3:PutObject', key, current, (condition) =>
      place.client.send(new CompleteMultipartUploadCommand({ Bucket: place.bucket, Key: key, UploadId, MultipartUpload: { Parts: parts }, ...condition }), { abortSignal: options.signal, requestTimeout: timeoutFor(0) * 5 }),
    );
    return { versionId: done.VersionId, etag: plainEtag(done.ETag), bytes: head.bytes };
  } catch (error) {
    // Parts that stay are paid for: without this they do until a lifecycle rule removes them, as they do when the worker is killed here.
    await abandonUpload(place.client, { Bucket: place.bucket, Key: key, UploadId }).catch(() => {});
    throw error;
  }
}

/** How the original was cut, so that the copy is cut the same way and gets the same ETag; undefined when the store does not say. */
async function partsOf(place: Bucket, key: string, versionId: string, head: ObjectHead): Promise<{ parts: number; firstPartBytes: number } | undefined> {
  const parts = /-(\d+)$/.exec(head.etag ?? '')?.[1];
  if (parts === undefined) return undefined;
  const { HeadObjectCommand } = await import('@aws-sdk/client-s3');
  try {
    const first = await place.client.send(new HeadObjectCommand({ Bucket: place.bucket, Key: key, VersionId: versionId, PartNumber: 1 }));
    return { parts: Number(parts), firstPartBytes: first.ContentLength ?? 0 };
  } catch {
    return undefined;
  }
}

export interface Sameness {
  readonly same: boolean;
  readonly how: 'etag' | 'checksum' | 'read' | 'size';
  /** What differs beside the content. */
  readonly differs: readonly string[];
}

/**
 * Have two versions of a key the same content and the same metadata? By ETag where it says something, else by a checksum of the whole
 * object that both have, else by reading both in full.
 */
export async function sameObject(place: Bucket, key: string, a: ObjectHead, b: ObjectHead, signal: AbortSignal): Promise<Sameness> {
  const content = await sameContent(place, key, a, b, signal);
  const differs: string[] = [];
  for (const field of ['contentType', 'cacheControl', 'contentDisposition', 'contentEncoding', 'contentLanguage', 'expires', 'redirect', 'storageClass', 'tagCount'] as const) {
    if ((a[field] ?? '') !== (b[field] ?? '') && !(field === 'storageClass' && (a[field] ?? 'STANDARD') === (b[field] ?? 'STANDARD'))) differs.push(field);
  }
  const flat = (metadata: Readonly<Record<string, string>>): string => JSON.stringify(Object.entries(metadata).sort(([x], [y]) => (x < y ? -1 : 1)));
  if (flat(a.metadata) !== flat(b.metadata)) differs.push('metadata');
  if (a.tagCount === b.tagCount && a.tagCount > 0 && JSON.stringify(await tagsOf(place, key, a.versionId)) !== JSON.stringify(await tagsOf(place, key, b.versionId))) differs.push('tags');
  return { ...content, differs };
}

async function sameContent(place: Bucket, key: string, a: ObjectHead, b: ObjectHead, signal: AbortSignal): Promise<Omit<Sameness, 'differs'>> {
  if (a.bytes !== b.bytes) return { same: false, how: 'size' };
  const plain = [a, b].every((head) => !head.customerKey && (head.encryption === undefined || head.encryption === 'AES256'));
  const said = etagsSay(a.etag, b.etag, plain);
  if (said !== 'nothing') return { same: said === 'same', how: 'etag' };
  const algorithm = (checksum: string): string => checksum.split(' ', 1)[0]!;
  for (const checksum of a.checksums) {
    const other = b.checksums.find((candidate) => algorithm(candidate) === algorithm(checksum));
    if (other !== undefined) return { same: other === checksum, how: 'checksum' };
  }
  const [first, second] = [await digestOf(place, key, a.versionId, signal), await digestOf(place, key, b.versionId, signal)];
  return { same: first === second, how: 'read' };
}

/** SHA-256 of a version, read in full; a read that is cut goes on where it stopped. */
export async function digestOf(place: Bucket, key: string, versionId: string | undefined, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of readVersion(place, key, versionId, signal)) hash.update(chunk);
  return hash.digest('hex');
}

export async function* readVersion(place: Bucket, key: string, versionId: string | undefined, signal: AbortSignal): AsyncGenerator<Buffer> {
  const { GetObjectCommand } = await import('@aws-sdk/client-s3');
  const open = (from: number, etag: string | undefined): Promise<{ Body?: unknown; ContentLength?: number; ETag?: string }> =>
    s3Call(place, versionId === undefined ? 's3:GetObject' : 's3:GetObjectVersion', key, () => place.client.send(new GetObjectCommand({ Bucket: place.bucket, Key: key, VersionId: versionId, ...(from === 0 ? {} : { Range: `bytes=${from}-`, IfMatch: etag }) }), { abortSignal: signal }));
  yield* resumed(await open(0, undefined), open, whereOf(place, key), signal);
}

/** Calls `run` for each, so many at a time. Ends after the first failure, once what was under way has ended. */
export async function eachOf<T>(items: Iterable<T> | AsyncIterable<T>, atOnce: number, signal: AbortSignal, run: (item: T) => Promise<void>): Promise<void> {
  const running = new Set<Promise<void>>();
  let failure: { error: unknown } | undefined;
  const start = (item: T): void => {
    const one: Promise<void> = run(item)
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => running.delete(one));
    running.add(one);
  };
  try {
    for await (const item of items) {
      signal.throwIfAborted();
      if (failure !== undefined) break;
      start(item);
      if (running.size >= atOnce) await Promise.race(running);
    }
  } finally {
    await Promise.all(running);
  }
  if (failure !== undefined) throw failure.error;
}

/** At most so many starts a second, evenly spread. */
export function createPace(perSecond: number): (signal: AbortSignal) => Promise<void> {
  const gapMs = 1000 / perSecond;
  let next = 0;
  return (signal) => {
    const now = performance.now();
    const at = Math.max(now, next);
    next = at + gapMs;
    if (at - now < 1) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal.reason as Error);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      }, at - now);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  };
}

export interface PrefixOptions extends CopyOptions {
  readonly momentMs: number;
  readonly sameSecond: SameSecond;
  readonly onProgress?: (progress: Readonly<Record<string, number>>) => void;
  readonly pageSize?: number;
}

export interface PrefixPlan {
  readonly keys: number;
  /** Keys that were there at the moment. */
  readonly existed: number;
  readonly bringBack: Counted;
  readonly replace: Counted;
  /** There now and not then: they go behind a delete marker. */
  readonly remove: Counted;
  readonly same: number;
  /** Another version with the same content: its metadata is compared when it is restored. */
  readonly sameContent: Counted;
  readonly staysAway: number;
  /** Keys with an entry within the second of the moment. */
  readonly sameSecond: Counted;
  /** Keys of which the store does not say what was newer at the moment. */
  readonly undecided: Counted;
  /** Keys whose stamps are not the times of their writing. */
  readonly restamped: Counted;
  /** Keys whose version must first be restored from its archive. */
  readonly archived: Counted;
  /** To be copied. */
  readonly bytes: number;
}

/** What a restore of the prefix to the moment would do. Only reads. */
export async function planPrefix(place: Bucket, prefix: string, options: PrefixOptions): Promise<PrefixPlan> {
  const plan = { keys: 0, existed: 0, bringBack: counted(), replace: counted(), remove: counted(), same: 0, sameContent: counted(), staysAway: 0, sameSecond: counted(), undecided: counted(), restamped: counted(), archived: counted(), bytes: 0 };
  for await (const state of keysAtMoment(place, prefix, { ...options, sameSecond: options.sameSecond === 'refuse' ? 'before' : options.sameSecond })) {
    plan.keys += 1;
    if (state.sameSecond) count(plan.sameSecond, state.key);
    if (state.restamped) count(plan.restamped, state.key);
    if (state.unordered !== undefined) {
      count(plan.undecided, state.key);
      continue;
    }
    if (state.was !== undefined && !state.was.marker) plan.existed += 1;
    const action = actionFor(state);
    if (action === 'remove') count(plan.remove, state.key);
    else if (action === 'same') plan.same += 1;
    else if (action === 'stays-away') plan.staysAway += 1;
    else if (action === 'same-content') count(plan.sameContent, state.key);
    else {
      count(action === 'bring-back' ? plan.bringBack : plan.replace, state.key);
      plan.bytes += state.was!.bytes ?? 0;
      if (state.was!.storageClass === 'GLACIER' || state.was!.storageClass === 'DEEP_ARCHIVE') {
        const head = await headVersion(place, state.key, state.was!.versionId);
        if (head !== undefined && archivedBecause(head) !== null) count(plan.archived, state.key);
      }
    }
    options.onProgress?.({ planned: plan.keys });
  }
  return plan;
}

/** Why the plan must not be carried out; null when it may. */
export function planRefusal(plan: PrefixPlan, place: Bucket, prefix: string, options: { momentMs: number; sameSecond: SameSecond; archived: 'refuse' | 'leave' }): { message: string; next: string } | null {
  const moment = new Date(options.momentMs).toISOString();
  const some = (counter: Counted): string => `${counter.count} key(s), such as ${counter.first.slice(0, 3).join(', ')}`;
  if (plan.restamped.count > 0) return { message: `${some(plan.restamped)} carry other times in their version ids than in their stamps: this store stamps versions anew when they are replaced, so its stamps say nothing about a moment`, next: `set datastores.${place.name}.versionTime: ulid` };
  if (plan.existed === 0) return { message: `nothing existed below ${whereOf(place, prefix)} at ${moment}: everything would be removed`, next: 'correct the moment or the prefix; to empty a prefix, delete it' };
  if (options.sameSecond === 'refuse' && plan.sameSecond.count > 0) {
    return { message: `${some(plan.sameSecond)} were written within the second of ${moment}; the store's stamps do not say whether before or after it`, next: 'choose a moment a second earlier or later, or say sameSecond: before (they count) or after (they do not)' };
  }
  if (plan.undecided.count > 0) return { message: `of ${some(plan.undecided)} the store does not say which of two entries of one second is the newer one`, next: 'restore these by version (s3.restoreObject), and choose a moment before them for the prefix' };
  if (options.archived === 'refuse' && plan.archived.count > 0) return { message: `${some(plan.archived)} lie in an archive class and cannot be copied before they were restored from it`, next: 'restore them first (aws s3api restore-object, or S3 Batch Operations for many), or say archived: leave' };
  return null;
}

export interface PrefixResult {
  readonly restored: number;
  readonly removed: number;
  readonly unchanged: number;
  readonly bytes: number;
  /** Somebody else wrote them while they were restored. */
  readonly overtaken: Counted;
  readonly left: Counted;
}

/**
 * Brings a whole prefix back to a moment. Key by key and without any memory of its own: what is right already is found and left, so
 * whoever begins again after a lost worker goes on.
 */
export async function restorePrefix(place: Bucket, prefix: string, options: PrefixOptions & { readonly concurrency: number; readonly requestsPerSecond: number }): Promise<PrefixResult> {
  const result = { restored: 0, removed: 0, unchanged: 0, bytes: 0, overtaken: counted(), left: counted() };
  const pace = createPace(options.requestsPerSecond);
  const { signal } = options;
  let seen = 0;
  await eachOf(keysAtMoment(place, prefix, options), options.concurrency, signal, async (listed) => {
    let state: KeyState | undefined = listed;
    for (let tried = 1; state !== undefined; tried += 1) {
      try {
        const bytes = await restoreKey(place, state, options, () => pace(signal));
        if (bytes === 'unchanged') result.unchanged += 1;
        else if (bytes === 'removed') result.removed += 1;
        else {
          result.restored += 1;
          result.bytes += bytes;
        }
        break;
      } catch (error) {
        const code = error instanceof HoldfastError ? error.code : '';
        if (code === 's3-archived') {
          count(result.left, state.key);
          break;
        }
        if (code !== 's3-overtaken') throw error;
        if (tried === OVERTAKEN_TRIES) {
          count(result.overtaken, state.key);
          break;
        }
        state = await keyAtMoment(place, state.key, options);
      }
    }
    seen += 1;
    options.onProgress?.({ keys: seen, restored: result.restored, removed: result.removed });
  });
  return result;
}

async function restoreKey(place: Bucket, state: KeyState, options: PrefixOptions, pace: () => Promise<void>): Promise<number | 'unchanged' | 'removed'> {
  const { key, latest, was } = state;
  const action = actionFor(state);
  if (state.unordered !== undefined || action === 'same' || action === 'stays-away') return 'unchanged';
  if (action === 'remove') {
    await pace();
    const { DeleteObjectCommand } = await import('@aws-sdk/client-s3');
    // Without a version: the key is hidden behind a delete marker and nothing is lost.
    await conditionally(place, 's3:DeleteObject', key, latest, ({ IfMatch }) => place.client.send(new DeleteObjectCommand({ Bucket: place.bucket, Key: key, ...(IfMatch === undefined ? {} : { IfMatch }) }), { abortSignal: options.signal }));
    return 'removed';
  }
  if (action === 'same-content' || (action === 'replace' && latest!.bytes === was!.bytes && etagsSay(latest!.etag, was!.etag, true) === 'nothing')) {
    const [old, now] = [await headVersion(place, key, was!.versionId), await headVersion(place, key, latest!.versionId)];
    if (old !== undefined && now !== undefined && unreadableBecause(old) === null) {
      const found = await sameObject(place, key, old, now, options.signal);
      if (found.same && found.differs.length === 0) return 'unchanged';
    }
  }
  await pace();
  return (await restoreVersion(place, key, was!.versionId, latest, options)).bytes;
}

export interface PrefixProof {
  readonly keys: number;
  readonly right: number;
  /** How the content of restored keys was compared. */
  readonly byEtag: number;
  readonly byChecksum: number;
  readonly byReading: number;
  /** Keys that did not exist then and are gone, or were deleted then and are. */
  readonly gone: number;
  readonly wrong: Counted;
  /** Keys with more than one entry since the restore began: other writers, or a repeated try. */
  readonly severalSince: Counted;
}

/** Reads the whole prefix once more and holds each key against the version that was current at the moment. */
export async function provePrefix(place: Bucket, prefix: string, options: PrefixOptions & { readonly concurrency: number; readonly sinceMs: number }): Promise<PrefixProof> {
  const proof = { keys: 0, right: 0, byEtag: 0, byChecksum: 0, byReading: 0, gone: 0, wrong: counted(), severalSince: counted() };
  await eachOf(keysAtMoment(place, prefix, options), options.concurrency, options.signal, async (state) => {
    proof.keys += 1;
    if (state.since > 1) count(proof.severalSince, state.key);
    if (state.unordered !== undefined) {
      count(proof.wrong, `${state.key}: undecided`);
    } else {
      const action = actionFor(state);
      if (action === 'stays-away') proof.gone += 1;
      else if (action === 'same') proof.right += 1;
      else if (action === 'remove') count(proof.wrong, `${state.key}: it did not exist then and is there, version ${state.latest!.versionId} of ${new Date(state.latest!.atMs).toISOString()}`);
      else if (action === 'bring-back') count(proof.wrong, `${state.key}: it is gone`);
      else await proveKey(place, state, options.signal, proof);
    }
    options.onProgress?.({ proved: proof.keys });
  });
  return proof;
}

async function proveKey(place: Bucket, state: KeyState, signal: AbortSignal, proof: { right: number; byEtag: number; byChecksum: number; byReading: number; wrong: Counted }): Promise<void> {
  const { key, latest, was } = state;
  const [old, now] = [await headVersion(place, key, was!.versionId), await headVersion(place, key, latest!.versionId)];
  if (old === undefined || now === undefined) return count(proof.wrong, `${key}: its version vanished while it was looked at`);
  const found = await sameObject(place, key, old, now, signal);
  if (!found.same) return count(proof.wrong, `${key}: version ${latest!.versionId} of ${new Date(latest!.atMs).toISOString()} differs in content`);
  if (found.differs.length > 0) return count(proof.wrong, `${key}: ${found.differs.join(', ')} differ`);
  proof.right += 1;
  if (found.how === 'etag') proof.byEtag += 1;
  else if (found.how === 'checksum') proof.byChecksum += 1;
  else proof.byReading += 1;
}

/** `3 come back, 2 get an older content, 1 goes, ...`. */
export function planText(plan: PrefixPlan): string {
  return `${plan.bringBack.count} come back, ${plan.replace.count} get the content of that moment (${formatBytes(plan.bytes)} in all), ${plan.remove.count} go behind a delete marker, ${plan.same + plan.sameContent.count + plan.staysAway} stay as they are`;
}
