/** The service's own export of a table to S3: started once, awaited, and proved against its manifests by reading every file. */
import { createHash } from 'node:crypto';
import { createGunzip } from 'node:zlib';
import { pipeline } from 'node:stream/promises';
import { Transform, type Readable } from 'node:stream';
import type { DynamoDBClient, ExportDescription } from '@aws-sdk/client-dynamodb';
import { parseFiles, parseSummary, SUMMARY, type ExportSummary } from '../model/dynamodb-export.ts';
import { damaged, exportDisagreements, exportIdOf, exportKey, sameMd5 } from '../model/dynamodb-native.ts';
import type { Item } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName } from './aws-failure.ts';
import { CLOCK, isPassing, retried, type Clock } from './dynamodb.ts';
import { readItems } from './dynamodb-data-file.ts';
import { createSums, type ItemSums } from './dynamodb-hash.ts';
import type { Store } from './store.ts';

export interface ExportRequest {
  /** Of `AwsClients.dynamo`. */
  readonly client: DynamoDBClient;
  /** Of `AwsClients.dynamoItems`: it tries a request one time only. */
  readonly once: DynamoDBClient;
  readonly tableArn: string;
  readonly bucket: string;
  /** Account of the bucket, where it is not that of the table. */
  readonly bucketOwner?: string | undefined;
  /** Without a slash at its end. Of this backup alone: by it an export is found again. */
  readonly prefix: string;
  /** The same one gives the same export, for eight hours. */
  readonly token: string;
  /** The moment it is of, to the second; null: now. */
  readonly momentMs: number | null;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

export interface ExportFacts {
  readonly arn: string;
  readonly status: 'IN_PROGRESS' | 'COMPLETED' | 'FAILED';
  readonly failure: string | null;
  readonly exportTimeMs: number | null;
  readonly items: number | null;
  readonly manifestKey: string | null;
}

/** Exports that are looked through for one that was begun and whose answer was lost. They are listed newest first. */
const MOST_LOOKED_AT = 50;

/** Tries of beginning one; each after a look whether the one before has begun it. */
const TRIES = 4;

/**
 * Begun once, however often it is asked: before each try the exports of the table are looked through for the one with this prefix, and the
 * token has the service take a repeated request for the first one, also when two come at the same time. @throws HoldfastError `export-refused`.
 */
export async function beginExport(request: ExportRequest): Promise<ExportFacts> {
  const { ExportTableToPointInTimeCommand } = await import('@aws-sdk/client-dynamodb');
  const { once, tableArn, bucket, bucketOwner, prefix, token, momentMs, signal, clock = CLOCK } = request;
  for (let tries = 1; ; tries += 1) {
    const found = await findExport(request);
    if (found !== undefined) return found;
    try {
      // On the wire a time is seconds since 1970.
      const time = momentMs === null ? {} : { ExportTime: (momentMs / 1000) as unknown as Date };
      const { ExportDescription: begun } = await once.send(new ExportTableToPointInTimeCommand({ TableArn: tableArn, S3Bucket: bucket, ...(bucketOwner === undefined ? {} : { S3BucketOwner: bucketOwner }), S3Prefix: prefix, ClientToken: token, ExportFormat: 'DYNAMODB_JSON', ExportType: 'FULL_EXPORT', ...time }), { abortSignal: signal });
      return factsOf(await describe(request, begun?.ExportArn ?? ''), tableArn);
    } catch (error) {
      signal.throwIfAborted();
      if (!isPassing(error) || tries >= TRIES) throw refused(request, 'dynamodb:ExportTableToPointInTime', error);
      await clock.sleep(500 * tries, signal);
    }
  }
}

export async function findExport(request: ExportRequest): Promise<ExportFacts | undefined> {
  const { ListExportsCommand } = await import('@aws-sdk/client-dynamodb');
  const { client, tableArn, bucket, prefix, signal } = request;
  let looked = 0;
  let failed: ExportFacts | undefined;
  for (let after: string | undefined; looked < MOST_LOOKED_AT; ) {
    const page = await asked(request, 'dynamodb:ListExports', () => client.send(new ListExportsCommand({ TableArn: tableArn, MaxResults: 25, ...(after === undefined ? {} : { NextToken: after }) }), { abortSignal: signal }));
    for (const { ExportArn } of page.ExportSummaries ?? []) {
      if (ExportArn === undefined) continue;
      looked += 1;
      const description = await describe(request, ExportArn);
      if (description?.S3Bucket !== bucket || description.S3Prefix !== prefix) continue;
      const facts = factsOf(description, tableArn);
      if (facts.status !== 'FAILED') return facts;
      failed ??= facts;
    }
    after = page.NextToken;
    if (after === undefined) break;
  }
  return failed;
}

/** @throws HoldfastError `export-failed`: final. Anything else: it goes on in the service all the same. */
export async function awaitExport(request: ExportRequest, arn: string, options: { readonly pollMs: number; readonly onProgress: (facts: ExportFacts) => void }): Promise<ExportFacts> {
  const { clock = CLOCK, signal } = request;
  for (;;) {
    const description = await describe(request, arn);
    if (description === undefined) throw new HoldfastError('export-gone', `export ${arn} is not known any more`, { next: 'make a new export' });
    const facts = factsOf(description, request.tableArn);
    if (facts.status === 'COMPLETED') return facts;
    if (facts.status === 'FAILED') throw new HoldfastError('export-failed', `export ${arn} failed: ${facts.failure ?? 'without a reason'}`, { next: 'check that the service may write to the bucket (s3:PutObject, s3:AbortMultipartUpload, s3:PutObjectAcl) and use its key' });
    options.onProgress(facts);
    await clock.sleep(options.pollMs, signal);
  }
}

async function describe(request: ExportRequest, arn: string): Promise<ExportDescription | undefined> {
  const { DescribeExportCommand } = await import('@aws-sdk/client-dynamodb');
  try {
    return (await asked(request, 'dynamodb:DescribeExport', () => request.client.send(new DescribeExportCommand({ ExportArn: arn }), { abortSignal: request.signal }))).ExportDescription;
  } catch (error) {
    if (error instanceof HoldfastError && errorName(error.cause ?? error) === 'ExportNotFoundException') return undefined;
    throw error;
  }
}

function factsOf(found: ExportDescription | undefined, tableArn: string): ExportFacts {
  if (found?.ExportArn === undefined) throw new HoldfastError('export-answer', `an export of ${tableArn} was described without its ARN`, { retryable: true });
  return {
    arn: found.ExportArn,
    status: found.ExportStatus === 'COMPLETED' || found.ExportStatus === 'FAILED' ? found.ExportStatus : 'IN_PROGRESS',
    failure: found.FailureCode === undefined ? (found.FailureMessage ?? null) : `${found.FailureCode}: ${found.FailureMessage ?? ''}`,
    exportTimeMs: found.ExportTime?.getTime() ?? null,
    items: found.ItemCount ?? null,
    manifestKey: found.ExportManifest ?? null,
  };
}

async function asked<T>(request: ExportRequest, action: string, run: () => Promise<T>): Promise<T> {
  try {
    return await retried(action, request.tableArn, run, { signal: request.signal, clock: request.clock ?? CLOCK });
  } catch (error) {
    request.signal.throwIfAborted();
    throw refused(request, action, error);
  }
}

function refused(request: ExportRequest, action: string, error: unknown): unknown {
  const cause = error instanceof HoldfastError ? (error.cause ?? error) : error;
  const hint = { PointInTimeRecoveryUnavailableException: 'turn on point-in-time recovery of the table; the service exports from it', InvalidExportTimeException: 'choose a moment that can be restored', ExportConflictException: 'the token was used for another export: begin a new backup', LimitExceededException: 'at most 300 exports, or 100 TB, at the same time: try later' }[errorName(cause)];
  return hint === undefined ? awsFailure('dynamodb-export', action, request.tableArn, error) : awsFailure('export-refused', action, request.tableArn, cause, hint);
}

/** One data file, as it was read. */
export interface ReadFile {
  /** Whole key in the store. */
  readonly key: string;
  readonly items: number;
  readonly storedBytes: number;
  readonly plainBytes: number;
  readonly storedSha256: string;
  readonly plainSha256: string;
}

export interface ReadExport {
  readonly summary: ExportSummary;
  readonly files: readonly ReadFile[];
  /** The manifests and their checksums, which are part of the backup too. */
  readonly others: readonly string[];
  readonly sums: ItemSums;
}

/**
 * Reads an export through: both manifests against their checksums, the totals against each other, and of each file its MD5, its number of
 * items, and that it parses to its end. @throws HoldfastError `export-damaged` with the file.
 */
export async function readExport(store: Store, of: { readonly prefix: string; readonly arn: string; readonly tableArn: string; readonly items: number | null }, options: { readonly signal: AbortSignal; readonly onItem?: (item: Item) => void; readonly onProgress?: (done: { files: number; ofFiles: number; items: number }) => void }): Promise<ReadExport> {
  const folder = exportKey(of.prefix, `AWSDynamoDB/${exportIdOf(of.arn)}/`);
  const summaryKey = `${folder}${SUMMARY}`;
  const summaryFile = await checkedText(store, summaryKey, options.signal);
  const summary = parseSummary(summaryFile.text, summaryKey);
  const filesKey = exportKey(of.prefix, summary.manifestFilesS3Key);
  const filesFile = await checkedText(store, filesKey, options.signal);
  const files = parseFiles(filesFile.text, filesKey);
  const disagreements = exportDisagreements(summary, files, of);
  if (of.items !== null && of.items !== summary.itemCount) disagreements.push(`the service says ${of.items} items, the summary ${summary.itemCount}`);
  if (disagreements.length > 0) throw damaged(summaryKey, disagreements.join('; '));
  const sums = createSums();
  const read: ReadFile[] = [];
  let items = 0;
  for (const file of files) {
    options.signal.throwIfAborted();
    const one = await readDataFile(store, exportKey(of.prefix, file.dataFileS3Key), file, (item) => {
      sums.add(item);
      options.onItem?.(item);
    }, options.signal);
    read.push(one);
    items += one.items;
    options.onProgress?.({ files: read.length, ofFiles: files.length, items });
  }
  return { summary, files: read, others: [summaryKey, summaryFile.checksum, filesKey, filesFile.checksum], sums: sums.sums() };
}

/** The service names it `.md5`, its guide `.checksum`. @returns the text and the key of its checksum. */
async function checkedText(store: Store, key: string, signal: AbortSignal): Promise<{ readonly text: string; readonly checksum: string }> {
  const text = await store.getText(key, { signal });
  const md5 = createHash('md5').update(text).digest();
  for (const ending of ['.md5', '.checksum']) {
    const checksum = key.replace(/\.json$/, ending);
    if ((await store.head(checksum)) === undefined) continue;
    if (!sameMd5(await store.getText(checksum, { signal }), md5)) throw damaged(key, `it does not have the MD5 that ${ending} says`);
    return { text, checksum };
  }
  throw damaged(key, 'there is no checksum beside it');
}

async function readDataFile(store: Store, key: string, file: { readonly itemCount: number; readonly md5Checksum?: string | undefined }, onItem: (item: Item) => void, signal: AbortSignal): Promise<ReadFile> {
  const [md5, stored, plain] = [createHash('md5'), createHash('sha256'), createHash('sha256')];
  let [storedBytes, plainBytes, items] = [0, 0, 0];
  const counted = (each: (chunk: Buffer) => void): Transform =>
    new Transform({
      transform(chunk: Buffer, _, done) {
        each(chunk);
        done(null, chunk);
      },
    });
  const before = counted((chunk) => {
    md5.update(chunk);
    stored.update(chunk);
    storedBytes += chunk.length;
  });
  const after = counted((chunk) => {
    plain.update(chunk);
    plainBytes += chunk.length;
  });
  try {
    await pipeline(
      await store.get(key, { signal }), before, createGunzip(), after,
      async (lines) => {
        for await (const group of readItems(lines as unknown as Readable, key)) {
          items += group.length;
          for (const item of group) onItem(item);
        }
      },
      { signal },
    );
  } catch (error) {
    signal.throwIfAborted();
    const { code = '', message } = error as { code?: string; message: string };
    if (code === 'export-line') throw damaged(key, message);
    if (code.startsWith('Z_') || message === 'unexpected end of file') throw damaged(key, `it cannot be unpacked to its end: ${message}`);
    throw error;
  }
  const found = md5.digest('base64');
  if (file.md5Checksum === undefined) throw damaged(key, 'the manifest names no MD5 of it');
  if (found !== file.md5Checksum) throw damaged(key, `its MD5 is ${found}, the manifest says ${file.md5Checksum}`);
  if (items !== file.itemCount) throw damaged(key, `it holds ${items} items, the manifest says ${file.itemCount}`);
  return { key, items, storedBytes, plainBytes, storedSha256: stored.digest('hex'), plainSha256: plain.digest('hex') };
}
