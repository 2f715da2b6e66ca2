import { createHash } from 'node:crypto';
import { HoldfastError } from '../model/errors.ts';
import type { VersionEntry } from '../model/s3-versions.ts';
import { bucketError, headVersion, isRefused, objectLockOf, s3Call, tagsOf, whereOf, type Bucket } from './s3-bucket.ts';
import { readVersion } from './s3-restore.ts';
import { entriesOf } from './s3-versions.ts';

/** The object of an object-restore drill. Only below this may a drill write, and only there are versions ever removed. */
export const DRILL_FOLDER = '.holdfast-drill/';
const BYTES = 200_000;
const CONTENT_TYPE = 'application/x-holdfast-drill';
const STAGE = 'holdfast-stage';

export interface DrillMarker {
  readonly key: string;
  /** Of the first content, when it is there. */
  readonly original: string | undefined;
  readonly overwritten: boolean;
  /** Deleted after it was overwritten. */
  readonly deleted: boolean;
  readonly deletedAtMs: number | undefined;
}

export function drillKey(place: Bucket, call: { readonly workflowId: string; readonly step: string; readonly epoch: number }): string {
  return `${place.prefix}${DRILL_FOLDER}${createHash('sha256').update(`${call.workflowId}/${call.step}/${call.epoch}`).digest('hex').slice(0, 24)}`;
}

/** @throws HoldfastError for a key that no drill wrote: whatever a runbook says, nothing else is touched. */
export function checkDrillKey(place: Bucket, key: string): string {
  if (!key.startsWith(`${place.prefix}${DRILL_FOLDER}`) || key.length === place.prefix.length + DRILL_FOLDER.length) {
    throw new HoldfastError('s3-not-a-drill', `${whereOf(place, key)} is no object of a drill`, { next: `give the fact key of the s3.drillMarker step; it lies below ${place.prefix}${DRILL_FOLDER}` });
  }
  return key;
}

/** Bytes that follow from the key, so that whoever reads them knows what they must be. */
export function drillContent(key: string, stage: 'original' | 'overwritten'): Buffer {
  const blocks: Buffer[] = [];
  for (let size = 0; size < BYTES; size += 32) blocks.push(createHash('sha256').update(`${key}/${stage}/${blocks.length}`).digest());
  return Buffer.concat(blocks).subarray(0, BYTES);
}

export function drillMetadata(key: string): { contentType: string; metadata: Record<string, string>; tags: readonly { Key: string; Value: string }[] } {
  return { contentType: CONTENT_TYPE, metadata: { [STAGE]: 'original', 'holdfast-key': createHash('sha256').update(key).digest('hex') }, tags: [{ Key: 'holdfast', Value: 'drill' }] };
}

/** How far the writing of the marker is. */
export async function lookAtMarker(place: Bucket, key: string, signal: AbortSignal): Promise<DrillMarker> {
  const found: { original?: string; overwritten?: VersionEntry } = {};
  let latest: VersionEntry | undefined;
  for await (const entry of entriesOf(place, key, signal)) {
    if (entry.latest) latest = entry;
    if (entry.marker) continue;
    const stage = (await headVersion(place, key, entry.versionId))?.metadata[STAGE];
    // Newest first: a write that was repeated after a lost answer has left two, either of which will do.
    if (stage === 'original') found.original ??= entry.versionId;
    if (stage === 'overwritten') found.overwritten ??= entry;
  }
  const deleted = found.original !== undefined && found.overwritten !== undefined && latest?.marker === true;
  return { key, original: found.original, overwritten: found.overwritten !== undefined, deleted, deletedAtMs: deleted ? latest!.atMs : undefined };
}

/** Writes, overwrites and deletes the marker; what an attempt before has done of it stays. */
export async function makeMarker(place: Bucket, key: string, signal: AbortSignal): Promise<DrillMarker> {
  const { DeleteObjectCommand, PutObjectCommand } = await import('@aws-sdk/client-s3');
  const { metadata, tags, contentType } = drillMetadata(checkDrillKey(place, key));
  const put = (stage: 'original' | 'overwritten'): Promise<unknown> => {
    const body = drillContent(key, stage);
    return s3Call(place, 's3:PutObject', key, () =>
      place.client.send(
        new PutObjectCommand({
          Bucket: place.bucket, Key: key, Body: body, ContentLength: body.length, ChecksumAlgorithm: 'SHA256',
          ...(stage === 'original' ? { ContentType: contentType, Metadata: metadata, Tagging: tags.map((tag) => `${tag.Key}=${tag.Value}`).join('&') } : { Metadata: { [STAGE]: stage } }),
        }),
        { abortSignal: signal },
      ),
    );
  };
  const seen = await lookAtMarker(place, key, signal);
  if (seen.deleted) return seen;
  if (seen.original === undefined) await put('original');
  if (!seen.overwritten) await put('overwritten');
  await s3Call(place, 's3:DeleteObject', key, () => place.client.send(new DeleteObjectCommand({ Bucket: place.bucket, Key: key }), { abortSignal: signal }));
  const made = await lookAtMarker(place, key, signal);
  if (!made.deleted) throw new HoldfastError('s3-drill', `${whereOf(place, key)} was written, overwritten and deleted, and the store shows ${made.original === undefined ? 'no first version' : made.overwritten ? 'no delete marker' : 'no second version'}`, { next: 'is versioning on, and is this an S3 store?', retryable: true });
  return made;
}

export interface MarkerProof {
  readonly bytes: number;
  readonly sha256: string;
  /** The first byte that differs; null when none does. */
  readonly differsAt: number | null;
  readonly differs: readonly string[];
}

/** The object as a reader gets it, byte by byte against what was written first. undefined: there is none. */
export async function proveMarker(place: Bucket, key: string, signal: AbortSignal): Promise<MarkerProof | undefined> {
  const head = await headVersion(place, checkDrillKey(place, key));
  if (head === undefined) return undefined;
  const expected = drillContent(key, 'original');
  const hash = createHash('sha256');
  let at = 0;
  let differsAt: number | null = null;
  for await (const chunk of readVersion(place, key, undefined, signal)) {
    hash.update(chunk);
    const part = expected.subarray(at, at + chunk.length);
    if (differsAt === null && !part.equals(chunk)) differsAt = at + [...chunk].findIndex((byte, index) => byte !== part[index]);
    at += chunk.length;
  }
  if (differsAt === null && at !== expected.length) differsAt = Math.min(at, expected.length);
  const wanted = drillMetadata(key);
  const differs = [
    ...(head.contentType === wanted.contentType ? [] : [`content type ${head.contentType}`]),
    ...Object.entries(wanted.metadata).flatMap(([name, value]) => (head.metadata[name] === value ? [] : [`metadata ${name}: ${head.metadata[name] ?? 'none'}`])),
    ...(JSON.stringify(await tagsOf(place, key, undefined)) === JSON.stringify(wanted.tags) ? [] : ['tags']),
  ];
  return { bytes: at, sha256: hash.digest('hex'), differsAt, differs };
}

export interface MarkerRest {
  readonly removed: number;
  readonly locked: number;
  readonly lockedUntilMs: number | null;
}

/** What is left of the marker. `visible`: a reader still gets it. `free`: versions and markers that no lock holds. */
export async function restOfMarker(place: Bucket, key: string, nowMs: number, signal: AbortSignal): Promise<{ visible: boolean; free: VersionEntry[]; locked: VersionEntry[]; markers: VersionEntry[]; lockedUntilMs: number | null }> {
  // Some stores hold versions by the bucket's default and do not say so of the version itself.
  const byDefault = await objectLockOf(place);
  const heldMs = byDefault.is === 'set' && byDefault.value.mode !== null ? (byDefault.value.days ?? 0) * 86_400_000 : undefined;
  const rest = { visible: false, free: [] as VersionEntry[], locked: [] as VersionEntry[], markers: [] as VersionEntry[], lockedUntilMs: null as number | null };
  for await (const entry of entriesOf(place, checkDrillKey(place, key), signal)) {
    if (entry.marker) {
      rest.markers.push(entry);
      continue;
    }
    if (entry.latest) rest.visible = true;
    const until = (await headVersion(place, key, entry.versionId))?.lockedUntilMs ?? (heldMs === undefined ? undefined : entry.atMs + heldMs);
    if (until === undefined || until <= nowMs) rest.free.push(entry);
    else {
      rest.locked.push(entry);
      rest.lockedUntilMs = Math.max(rest.lockedUntilMs ?? 0, until);
    }
  }
  return rest;
}

/** Removes the marker. A version under object lock stays, behind a delete marker. */
export async function removeMarker(place: Bucket, key: string, nowMs: number, signal: AbortSignal): Promise<MarkerRest> {
  const { DeleteObjectCommand } = await import('@aws-sdk/client-s3');
  const remove = async (versionId: string | undefined): Promise<boolean> => {
    try {
      await place.client.send(new DeleteObjectCommand({ Bucket: place.bucket, Key: key, VersionId: versionId }), { abortSignal: signal });
      return true;
    } catch (error) {
      // A lock that HEAD does not show to this role.
      if (versionId !== undefined && isRefused(error)) return false;
      throw bucketError(place, versionId === undefined ? 's3:DeleteObject' : 's3:DeleteObjectVersion', key, error);
    }
  };
  const rest = await restOfMarker(place, key, nowMs, signal);
  if (rest.visible) await remove(undefined);
  let removed = 0;
  let locked = rest.locked.length;
  for (const { versionId } of rest.free) {
    if (await remove(versionId)) removed += 1;
    else locked += 1;
  }
  if (locked === 0) {
    for (const { versionId } of (await restOfMarker(place, key, nowMs, signal)).markers) if (await remove(versionId)) removed += 1;
  }
  return { removed, locked, lockedUntilMs: rest.lockedUntilMs };
}

