import type { S3Client, ServerSideEncryption, StorageClass } from '@aws-sdk/client-s3';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { joinPrefix } from '../model/manifest.ts';
import { engineOf, storeOf, type Context } from './context.ts';

/** A bucket, or a part of one, as a datastore: its client, and how to speak of it. */
export interface Bucket {
  readonly client: S3Client;
  readonly bucket: string;
  /** What every key of it begins with, as it stands. */
  readonly prefix: string;
  readonly endpoint: string | undefined;
  /** When a version was written: its stamp, or its id where that is a ULID. */
  readonly versionTime: 'stamp' | 'ulid';
  /** As in holdfast.yaml. */
  readonly name: string;
}

/** The bucket of a datastore of engine s3. */
export async function openBucket(context: Context, datastore: string): Promise<Bucket> {
  const config = engineOf(context.config, datastore, 's3');
  return { client: await context.aws.s3(config), bucket: config.bucket, prefix: joinPrefix(config.prefix), endpoint: config.endpoint ?? context.config.aws.endpoint, versionTime: config.versionTime, name: datastore };
}

/** The bucket of a store. */
export async function openStoreBucket(context: Context, store: string): Promise<Bucket> {
  const config = storeOf(context.config, store);
  if (config.type !== 's3') throw new HoldfastError('wrong-store', `store ${store} is of type ${config.type}; only a bucket has lifecycle rules`, { next: 'name a store of type s3' });
  return { client: await context.aws.s3(config), bucket: config.bucket, prefix: joinPrefix(config.prefix), endpoint: config.endpoint ?? context.config.aws.endpoint, versionTime: 'stamp', name: store };
}

export function whereOf(place: Bucket, key = place.prefix): string {
  return `s3://${place.bucket}/${key}`;
}

/** One call, with an error that names the action, the bucket and what to do. */
export async function s3Call<T>(place: Bucket, action: string, key: string | undefined, send: () => Promise<T>): Promise<T> {
  try {
    return await send();
  } catch (error) {
    throw bucketError(place, action, key, error);
  }
}

export function bucketError(place: Bucket, action: string, key: string | undefined, error: unknown): unknown {
  if (error instanceof HoldfastError || (error as Error).name === 'AbortError') return error;
  const { name } = error as Error;
  const status = httpStatus(error);
  const refused = isRefused(error);
  const missing = name === 'NoSuchBucket';
  return new HoldfastError('s3-call', `${action} on ${whereOf(place, key)}${place.endpoint === undefined ? '' : ` at ${place.endpoint}`}: ${name === 'Error' ? '' : `${name}: `}${messageOf(error)}${status === undefined ? '' : ` (HTTP ${status})`}`, {
    retryable: !refused && !missing && !isUnsupported(error),
    next: missing ? `create the bucket, or correct datastores.${place.name}.bucket` : refused ? `allow ${action} to the worker's role, see \`holdfast permissions\`` : isUnsupported(error) ? 'this store does not have the call: use one that does, or do without' : 'check that the store answers and that this worker reaches it; then retry',
    context: { name, status },
    cause: error,
  });
}

export function httpStatus(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
}

export function isRefused(error: unknown): boolean {
  const { name } = error as Error;
  return httpStatus(error) === 403 || httpStatus(error) === 401 || /AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|AllAccessDisabled/.test(name);
}

/** The store has no such call at all. */
export function isUnsupported(error: unknown): boolean {
  const { name } = error as Error;
  return httpStatus(error) === 501 || httpStatus(error) === 405 || name === 'NotImplemented' || name === 'MethodNotAllowed' || name === 'UnsupportedOperation';
}

/** The state of one facility of a bucket: what it is, that there is none, or that nobody can say. */
export type Answer<T> = { readonly is: 'set'; readonly value: T } | { readonly is: 'none' } | { readonly is: 'unsupported' } | { readonly is: 'refused'; readonly error: string };

/** Asks for a facility; `none` are the error names that say there is none. What cannot be asked is never taken for fine. */
async function ask<T>(place: Bucket, action: string, none: RegExp, send: () => Promise<T | undefined>): Promise<Answer<T>> {
  try {
    const value = await send();
    return value === undefined ? { is: 'none' } : { is: 'set', value };
  } catch (error) {
    if (none.test((error as Error).name)) return { is: 'none' };
    if (isUnsupported(error)) return { is: 'unsupported' };
    if (isRefused(error)) return { is: 'refused', error: `${action}: ${(error as Error).name}: ${(error as Error).message}` };
    throw bucketError(place, action, '', error);
  }
}

export interface Versioning {
  readonly status: 'Enabled' | 'Suspended' | 'Off';
  readonly mfaDelete: boolean;
}

export function versioningOf(place: Bucket): Promise<Answer<Versioning>> {
  return ask(place, 's3:GetBucketVersioning', /^$/, async () => {
    const { GetBucketVersioningCommand } = await import('@aws-sdk/client-s3');
    const found = await place.client.send(new GetBucketVersioningCommand({ Bucket: place.bucket }));
    return { status: found.Status ?? 'Off', mfaDelete: found.MFADelete === 'Enabled' };
  });
}

export interface ObjectLock {
  /** Default retention of new versions; null when there is none. */
  readonly mode: string | null;
  readonly days: number | null;
}

export function objectLockOf(place: Bucket): Promise<Answer<ObjectLock>> {
  return ask(place, 's3:GetBucketObjectLockConfiguration', /^ObjectLockConfigurationNotFoundError$/, async () => {
    const { GetObjectLockConfigurationCommand } = await import('@aws-sdk/client-s3');
    const found = (await place.client.send(new GetObjectLockConfigurationCommand({ Bucket: place.bucket }))).ObjectLockConfiguration;
    if (found?.ObjectLockEnabled !== 'Enabled') return undefined;
    const rule = found.Rule?.DefaultRetention;
    // Some emulators fill in `Years: 0` beside the days.
    const years = rule?.Years ?? 0;
    return { mode: rule?.Mode ?? null, days: rule?.Mode === undefined ? null : (rule.Days ?? 0) + years * 365 };
  });
}

export interface ReplicationRule {
  readonly id: string;
  readonly enabled: boolean;
  readonly prefix: string;
  /** Only objects with tags are replicated. */
  readonly byTag: boolean;
  readonly bucket: string;
  readonly deleteMarkers: boolean;
}

export function replicationOf(place: Bucket): Promise<Answer<readonly ReplicationRule[]>> {
  return ask(place, 's3:GetReplicationConfiguration', /^ReplicationConfigurationNotFoundError$/, async () => {
    const { GetBucketReplicationCommand } = await import('@aws-sdk/client-s3');
    const rules = (await place.client.send(new GetBucketReplicationCommand({ Bucket: place.bucket }))).ReplicationConfiguration?.Rules ?? [];
    return rules.map((rule) => ({
      id: rule.ID ?? '',
      enabled: rule.Status === 'Enabled',
      prefix: rule.Filter?.And?.Prefix ?? rule.Filter?.Prefix ?? rule.Prefix ?? '',
      byTag: rule.Filter?.Tag !== undefined || (rule.Filter?.And?.Tags?.length ?? 0) > 0,
      bucket: (rule.Destination?.Bucket ?? '').replace(/^arn:[^:]*:s3:::/, ''),
      deleteMarkers: rule.DeleteMarkerReplication?.Status === 'Enabled',
    }));
  });
}

export interface PublicAccess {
  /** Names of the settings that are off. */
  readonly open: readonly string[];
}

export function publicAccessOf(place: Bucket): Promise<Answer<PublicAccess>> {
  return ask(place, 's3:GetBucketPublicAccessBlock', /^NoSuchPublicAccessBlockConfiguration$/, async () => {
    const { GetPublicAccessBlockCommand } = await import('@aws-sdk/client-s3');
    const found = (await place.client.send(new GetPublicAccessBlockCommand({ Bucket: place.bucket }))).PublicAccessBlockConfiguration ?? {};
    return { open: (['BlockPublicAcls', 'IgnorePublicAcls', 'BlockPublicPolicy', 'RestrictPublicBuckets'] as const).filter((name) => found[name] !== true) };
  });
}

/** All about a version that a copy must keep or a comparison needs. */
export interface ObjectHead {
  readonly versionId: string | undefined;
  readonly etag: string | undefined;
  readonly bytes: number;
  readonly atMs: number;
  readonly contentType: string | undefined;
  readonly cacheControl: string | undefined;
  readonly contentDisposition: string | undefined;
  readonly contentEncoding: string | undefined;
  readonly contentLanguage: string | undefined;
  readonly expires: string | undefined;
  readonly redirect: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly storageClass: StorageClass | undefined;
  readonly archiveStatus: string | undefined;
  readonly restore: string | undefined;
  readonly replication: string | undefined;
  readonly tagCount: number;
  readonly encryption: ServerSideEncryption | undefined;
  readonly kmsKey: string | undefined;
  /** Encrypted with a key only the customer has: it can be neither read nor copied without. */
  readonly customerKey: boolean;
  /** Checksums over the whole object, `CRC32 abc=`. One over parts says nothing about another cut. */
  readonly checksums: readonly string[];
  readonly lockedUntilMs: number | undefined;
}

/** @returns undefined when there is no such object (or version), or a delete marker in its place. */
export async function headVersion(place: Bucket, key: string, versionId?: string): Promise<ObjectHead | undefined> {
  const { HeadObjectCommand } = await import('@aws-sdk/client-s3');
  let found;
  try {
    found = await place.client.send(new HeadObjectCommand({ Bucket: place.bucket, Key: key, VersionId: versionId, ChecksumMode: 'ENABLED' }));
  } catch (error) {
    // A marker asked for by its version is answered with 405.
    if (httpStatus(error) === 404 || httpStatus(error) === 405) return undefined;
    throw bucketError(place, 's3:GetObject', key, error);
  }
  const whole = found.ChecksumType !== 'COMPOSITE';
  const checksums = whole
    ? ([['CRC32', found.ChecksumCRC32], ['CRC32C', found.ChecksumCRC32C], ['CRC64NVME', found.ChecksumCRC64NVME], ['SHA1', found.ChecksumSHA1], ['SHA256', found.ChecksumSHA256]] as const).flatMap(([name, value]) => (value === undefined || value.includes('-') ? [] : [`${name} ${value}`]))
    : [];
  return {
    versionId: found.VersionId,
    etag: plainEtag(found.ETag),
    bytes: found.ContentLength ?? 0,
    atMs: found.LastModified?.getTime() ?? 0,
    contentType: found.ContentType,
    cacheControl: found.CacheControl,
    contentDisposition: found.ContentDisposition,
    contentEncoding: found.ContentEncoding,
    contentLanguage: found.ContentLanguage,
    expires: found.ExpiresString,
    redirect: found.WebsiteRedirectLocation,
    metadata: found.Metadata ?? {},
    storageClass: found.StorageClass,
    archiveStatus: found.ArchiveStatus,
    restore: found.Restore,
    replication: found.ReplicationStatus,
    tagCount: found.TagCount ?? 0,
    encryption: found.ServerSideEncryption,
    kmsKey: found.SSEKMSKeyId,
    customerKey: found.SSECustomerAlgorithm !== undefined,
    checksums,
    lockedUntilMs: found.ObjectLockLegalHoldStatus === 'ON' ? Number.POSITIVE_INFINITY : found.ObjectLockRetainUntilDate?.getTime(),
  };
}

export function plainEtag(etag: string | undefined): string | undefined {
  return etag?.replace(/^W\//, '').replaceAll('"', '');
}

export async function tagsOf(place: Bucket, key: string, versionId: string | undefined): Promise<readonly { readonly Key: string; readonly Value: string }[]> {
  const { GetObjectTaggingCommand } = await import('@aws-sdk/client-s3');
  const found = await s3Call(place, 's3:GetObjectVersionTagging', key, () => place.client.send(new GetObjectTaggingCommand({ Bucket: place.bucket, Key: key, VersionId: versionId })));
  return (found.TagSet ?? []).map(({ Key, Value }) => ({ Key: Key ?? '', Value: Value ?? '' })).sort((a, b) => (a.Key < b.Key ? -1 : 1));
}
