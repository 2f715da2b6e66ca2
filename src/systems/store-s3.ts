import { Readable } from 'node:stream';
import type { CompletedPart, GetObjectCommandOutput, S3Client } from '@aws-sdk/client-s3';
import type { Config, S3StoreConfig } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { formatBytes } from '../model/units.ts';
import { abandonUpload } from './s3-abandon.ts';
import { alreadyThere, missingObject, readText, shellQuote, type PutOptions, type Store, type StoredObject } from './store.ts';

/** S3's own limit. */
const MAXIMUM_PARTS = 10_000;
const MINIMUM_PART_BYTES = 5 * 1024 * 1024;
/** A part may take as long as it needs at this speed; below it the line is taken for dead and the part sent again. */
const SLOWEST_BYTES_PER_SECOND = 50_000;
const SHORTEST_PART_TIMEOUT_MS = 60_000;
/** A read that gives nothing for so long is taken for dead. */
const READ_STALL_MS = 60_000;
/** A read that was cut is resumed at the byte it stopped, at most this often without a byte in between. */
const READ_RESUMES = 4;

/** A store in a bucket. Commands are the SDK's; retries of one request with the same bytes are the SDK's too. */
export async function createS3Store(client: S3Client, config: S3StoreConfig, prefix: string, aws: Config['aws']): Promise<Store> {
  const s3 = await import('@aws-sdk/client-s3');
  const bucket = config.bucket;
  const where = (key: string): string => `s3://${bucket}/${key}`;
  const endpoint = config.endpoint ?? aws.endpoint;

  async function call<T>(what: string, key: string, run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      throw s3Error(error, what, where(key), bucket, endpoint);
    }
  }

  function brokenListing(wanted: string): HoldfastError {
    return new HoldfastError('store-listing', `the listing of ${where(wanted)} broke off without saying where to go on`, { retryable: true, next: 'try again; a listing that is not whole is never taken for one' });
  }

  function lockOf(options: PutOptions): { ObjectLockMode?: 'GOVERNANCE' | 'COMPLIANCE'; ObjectLockRetainUntilDate?: Date } {
    if (options.lockUntilMs === undefined || config.objectLock === undefined) return {};
    return { ObjectLockMode: config.objectLock.mode, ObjectLockRetainUntilDate: new Date(options.lockUntilMs) };
  }

  async function putWhole(key: string, body: Buffer, options: PutOptions): Promise<{ bytes: number; etag: string | undefined }> {
    const answer = await call('written', key, () =>
      client.send(
        new s3.PutObjectCommand({
          Bucket: bucket,
          Key: key,
          Body: body,
          ContentLength: body.length,
          ContentType: options.contentType,
          ChecksumAlgorithm: 'SHA256',
          ...(options.ifAbsent === true ? { IfNoneMatch: '*' } : {}),
          ...lockOf(options),
        }),
        { abortSignal: options.signal },
      ),
    );
    options.onProgress?.(body.length);
    return { bytes: body.length, etag: answer.ETag };
  }

  async function put(key: string, body: Readable | Buffer | string, options: PutOptions = {}): Promise<{ bytes: number; etag?: string | undefined }> {
    options.signal?.throwIfAborted();
    if (typeof body === 'string' || Buffer.isBuffer(body)) return putWhole(key, Buffer.from(body as string), options);
    const wanted = Math.ceil((options.expectedBytes ?? 0) / (MAXIMUM_PARTS - 1000) / 1_048_576) * 1_048_576;
    const partBytes = Math.max(config.partSize, MINIMUM_PART_BYTES, wanted);
    const onAbort = (): void => void body.destroy(abortReason(options.signal));
    options.signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await putStream(key, body, partBytes, options);
    } finally {
      options.signal?.removeEventListener('abort', onAbort);
      body.destroy();
    }
  }

  async function putStream(key: string, body: Readable, partBytes: number, options: PutOptions): Promise<{ bytes: number }> {
    const cut = inParts(body, partBytes);
    const first = await cut.next();
    // The source has ended well with less than a part: one plain request does.
    if (first.done === true) return putWhole(key, Buffer.alloc(0), options);
    if (first.value.length < partBytes) {
      const next = await cut.next();
      if (next.done === true) return putWhole(key, first.value, options);
      throw new HoldfastError('store-internal', 'a short part was followed by another');
    }

    const made = await call('written', key, () =>
      client.send(
        new s3.CreateMultipartUploadCommand({ Bucket: bucket, Key: key, ContentType: options.contentType, ChecksumAlgorithm: 'CRC32', ...lockOf(options) }),
        { abortSignal: options.signal },
      ),
    );
    const uploadId = made.UploadId;
    if (uploadId === undefined) throw new HoldfastError('store-s3', `${where(key)}: the store began an upload without naming it`);
    // Parts still on their way are stopped as soon as one of them, or the source, has failed.
    const stop = new AbortController();
    const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
    const running = new Set<Promise<void>>();
    const parts: CompletedPart[] = [];
    let stored = 0;
    let failure: { error: unknown } | undefined;
    const send = (number: number, bytes: Buffer): void => {
      const sending: Promise<void> = call('written', key, () =>
        client.send(
          new s3.UploadPartCommand({ Bucket: bucket, Key: key, UploadId: uploadId, PartNumber: number, Body: bytes, ContentLength: bytes.length, ChecksumAlgorithm: 'CRC32' }),
          { abortSignal: signal, requestTimeout: Math.max(SHORTEST_PART_TIMEOUT_MS, (bytes.length / SLOWEST_BYTES_PER_SECOND) * 1000) },
        ),
      )
        .then((answer) => {
          parts.push({ PartNumber: number, ETag: answer.ETag, ChecksumCRC32: answer.ChecksumCRC32 });
          stored += bytes.length;
          options.onProgress?.(stored);
        })
        .catch((error: unknown) => {
          failure ??= { error };
          stop.abort();
          body.destroy(error as Error);
        })
        .finally(() => running.delete(sending));
      running.add(sending);
    };
    try {
      let number = 1;
      send(number, first.value);
      for await (const part of cut) {
        if (failure !== undefined) break;
        number += 1;
        if (number > MAXIMUM_PARTS) {
          throw new HoldfastError('store-parts', `${where(key)} needs more than ${MAXIMUM_PARTS} parts of ${formatBytes(partBytes)}`, { next: `raise partSize of the store to at least ${formatBytes(partBytes * 4)}` });
        }
        send(number, part);
        while (running.size >= config.uploadConcurrency) await Promise.race(running);
      }
      await Promise.all(running);
      if (failure !== undefined) throw failure.error;
      options.signal?.throwIfAborted();
      parts.sort((a, b) => a.PartNumber! - b.PartNumber!);
      await call('completed', key, () =>
        client.send(
          new s3.CompleteMultipartUploadCommand({ Bucket: bucket, Key: key, UploadId: uploadId, MultipartUpload: { Parts: parts }, ...(options.ifAbsent === true ? { IfNoneMatch: '*' } : {}) }),
          { abortSignal: options.signal },
        ),
      );
    } catch (error) {
      // Before the others are stopped: their complaints about that are not the cause.
      const cause: unknown = options.signal?.aborted === true ? options.signal.reason : (failure?.error ?? error);
      stop.abort();
      body.destroy();
      await Promise.all(running); // A part that lands after the abort would stay for ever.
      await abandon(key, uploadId).catch(() => {}); // What cannot be abandoned now is the reaper's.
      throw cause;
    }
    const there = await head(key);
    if (there?.bytes !== stored) {
      throw new HoldfastError('store-size', `${where(key)} was stored with ${there?.bytes ?? 'no'} bytes, ${stored} were sent`, { retryable: true, next: 'the store lost data; run the backup again and tell its operator' });
    }
    return { bytes: stored };
  }

  function abandon(key: string, uploadId: string): Promise<void> {
    return call('abandoned', key, () => abandonUpload(client, { Bucket: bucket, Key: key, UploadId: uploadId }));
  }

  async function get(key: string, options: { signal?: AbortSignal } = {}): Promise<Readable> {
    const open = async (from: number, etag: string | undefined): Promise<GetObjectCommandOutput> =>
      call('read', key, () =>
        client.send(
          new s3.GetObjectCommand({ Bucket: bucket, Key: key, ...(from === 0 ? {} : { Range: `bytes=${from}-`, IfMatch: etag }) }),
          { abortSignal: options.signal },
        ),
      );
    const opened = await open(0, undefined);
    return Readable.from(resumed(opened, open, where(key), options.signal), { objectMode: false, highWaterMark: 1024 * 1024 });
  }

  async function head(key: string): Promise<{ bytes: number; lockedUntilMs?: number } | undefined> {
    try {
      const found = await client.send(new s3.HeadObjectCommand({ Bucket: bucket, Key: key }));
      const held = found.ObjectLockLegalHoldStatus === 'ON';
      const lockedUntilMs = held ? Number.POSITIVE_INFINITY : found.ObjectLockRetainUntilDate?.getTime();
      return { bytes: found.ContentLength ?? 0, ...(lockedUntilMs === undefined ? {} : { lockedUntilMs }) };
    } catch (error) {
      // A HEAD has no body: a missing bucket looks like a missing key here. Listings and writes tell them apart.
      if (statusOf(error) === 404) return undefined;
      throw s3Error(error, 'looked at', where(key), bucket, endpoint);
    }
  }

  async function* list(wanted: string): AsyncIterable<StoredObject> {
    let token: string | undefined;
    do {
      const page = await call('listed', wanted, () => client.send(new s3.ListObjectsV2Command({ Bucket: bucket, Prefix: wanted, ContinuationToken: token })));
      for (const object of page.Contents ?? []) yield { key: object.Key!, bytes: object.Size ?? 0, modifiedMs: object.LastModified?.getTime() ?? 0 };
      if (page.IsTruncated === true && page.NextContinuationToken === undefined) {
        throw brokenListing(wanted);
      }
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
  }

  async function* superseded(wanted: string): AsyncIterable<{ key: string; modifiedMs: number; deleted: boolean }> {
    let [keyMarker, versionMarker]: (string | undefined)[] = [];
    for (;;) {
      const page = await call('listed', wanted, () => client.send(new s3.ListObjectVersionsCommand({ Bucket: bucket, Prefix: wanted, KeyMarker: keyMarker, VersionIdMarker: versionMarker })));
      for (const marker of page.DeleteMarkers ?? []) if (marker.IsLatest === true) yield { key: marker.Key!, modifiedMs: marker.LastModified?.getTime() ?? 0, deleted: true };
      for (const version of page.Versions ?? []) if (version.IsLatest !== true) yield { key: version.Key!, modifiedMs: version.LastModified?.getTime() ?? 0, deleted: false };
      if (page.IsTruncated !== true) return;
      if (page.NextKeyMarker === undefined) throw brokenListing(wanted);
      [keyMarker, versionMarker] = [page.NextKeyMarker, page.NextVersionIdMarker];
    }
  }

  return {
    prefix,
    lockForMs: config.objectLock?.retain,
    superseded,
    put,
    get,
    getText: async (key, options) => readText(await get(key, options)),
    head,
    list,
    async delete(key) {
      await call('deleted', key, () => client.send(new s3.DeleteObjectCommand({ Bucket: bucket, Key: key })));
    },
    async reapUploads(wanted, olderThanMs, nowMs) {
      let reaped = 0;
      let keyMarker: string | undefined;
      let uploadMarker: string | undefined;
      for (;;) {
        const page = await call('listed', wanted, () =>
          client.send(new s3.ListMultipartUploadsCommand({ Bucket: bucket, Prefix: wanted, KeyMarker: keyMarker, UploadIdMarker: uploadMarker })),
        );
        for (const upload of page.Uploads ?? []) {
          // `Initiated` has whole seconds on some stores: an upload of this very second counts as old when the limit is 0.
          if ((upload.Initiated?.getTime() ?? 0) > nowMs - olderThanMs || upload.Key === undefined || upload.UploadId === undefined) continue;
          await abandon(upload.Key, upload.UploadId);
          reaped += 1;
        }
        if (page.IsTruncated !== true) return reaped;
        if (page.NextKeyMarker === undefined) throw brokenListing(wanted);
        keyMarker = page.NextKeyMarker;
        uploadMarker = page.NextUploadIdMarker;
      }
    },
    describe: () => `s3://${bucket}/${prefix}${endpoint === undefined ? '' : ` at ${endpoint}`}`,
    plainRead: (key) => ['aws', 's3', 'cp', shellQuote(where(key)), '-', '--quiet', ...(endpoint === undefined ? [] : ['--endpoint-url', shellQuote(endpoint)]), '--region', config.region ?? aws.region].join(' '),
  };
}

/** Buffers of exactly `partBytes`, the last one shorter; ends only when the source ended well. */
async function* inParts(source: Readable, partBytes: number): AsyncGenerator<Buffer> {
  let part = Buffer.allocUnsafe(partBytes);
  let filled = 0;
  for await (const chunk of source as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; ) {
      const copied = chunk.copy(part, filled, at, at + partBytes - filled);
      at += copied;
      filled += copied;
      if (filled < partBytes) continue;
      yield part;
      part = Buffer.allocUnsafe(partBytes);
      filled = 0;
    }
  }
  if (filled > 0) yield part.subarray(0, filled);
}

export interface OpenedBody {
  readonly Body?: unknown;
  readonly ContentLength?: number;
  readonly ETag?: string;
}

/** The whole object although the connection may be cut or fall silent: goes on at the next byte, of the same version only. */
export async function* resumed(
  opened: OpenedBody,
  open: (from: number, etag: string | undefined) => Promise<OpenedBody>,
  where: string,
  signal: AbortSignal | undefined,
  stallMs = READ_STALL_MS,
): AsyncGenerator<Buffer> {
  const total = opened.ContentLength;
  let body = opened.Body as Readable;
  let position = 0;
  let resumes = 0;
  const onAbort = (): void => void body.destroy(abortReason(signal));
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    for (;;) {
      let cause: unknown;
      const chunks = (body as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
      try {
        for (;;) {
          // Only the wait for the store counts, not the time our own reader takes.
          const current = body;
          const timer = setTimeout(() => current.destroy(new Error(`nothing came for ${stallMs} ms`)), stallMs);
          const next = await chunks.next().finally(() => clearTimeout(timer));
          if (next.done === true) break;
          position += next.value.length;
          resumes = 0;
          yield next.value;
        }
      } catch (error) {
        cause = error;
      }
      signal?.throwIfAborted();
      if (cause === undefined && (total === undefined || position >= total)) return;
      resumes += 1;
      if (resumes > READ_RESUMES) {
        throw new HoldfastError('store-read', `reading ${where} broke off at byte ${position} of ${total ?? '?'}${cause instanceof Error ? `: ${cause.message}` : ''}`, { retryable: true, next: 'check the connection to the store', cause });
      }
      body = (await open(position, opened.ETag)).Body as Readable;
    }
  } finally {
    signal?.removeEventListener('abort', onAbort);
    body.destroy();
  }
}

function abortReason(signal: AbortSignal | undefined): Error {
  return signal?.reason instanceof Error ? signal.reason : new Error('aborted');
}

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
}

function s3Error(error: unknown, what: string, where: string, bucket: string, endpoint: string | undefined): unknown {
  if (error instanceof HoldfastError || (error as Error).name === 'AbortError') return error;
  const name = (error as Error).name;
  const status = statusOf(error);
  if (name === 'NoSuchBucket') {
    return new HoldfastError('store-bucket-missing', `bucket ${bucket} does not exist${endpoint === undefined ? '' : ` at ${endpoint}`}`, { next: 'create the bucket, or correct `bucket` of the store in holdfast.yaml', cause: error });
  }
  if (name === 'NoSuchKey') return missingObject(where);
  if (status === 412 || name === 'PreconditionFailed') return alreadyThere(where);
  const refused = status === 403 || status === 401 || name === 'AccessDenied' || name === 'InvalidAccessKeyId' || name === 'SignatureDoesNotMatch';
  return new HoldfastError('store-s3', `${where} could not be ${what}${endpoint === undefined ? '' : ` at ${endpoint}`}: ${name === 'Error' ? '' : `${name}: `}${(error as Error).message || `HTTP ${status}`}`, {
    next: refused ? "check the store's credentials and the bucket policy" : 'check that the store runs and that this worker reaches it; the next attempt starts afresh',
    retryable: !refused,
    context: { status, name },
    cause: error,
  });
}
