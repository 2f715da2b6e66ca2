import { z } from 'zod';
import { MOMENT_PATTERN, SAME_SECOND } from '../s3-versions.ts';
import { datastore, kind, type Permission, type StepKind } from '../step-kind.ts';

const moment = z.string().regex(MOMENT_PATTERN, 'expected a time with its zone, such as 2026-11-21T03:15:00Z').meta({ description: 'ISO 8601 with a time zone, such as 2026-11-21T03:15:00Z.' });
const sameSecond = z.enum(SAME_SECOND).default('refuse').meta({ description: 'Stores stamp with whole seconds. What was written within the second of the moment: refuse, or take it for written before or after it.' });
const prefix = z.string().default('').meta({ description: "Below the datastore's own prefix; empty: all of it." });
const archived = z.enum(['refuse', 'leave']).default('refuse').meta({ description: 'What lies in an archive class cannot be copied before it was restored from there: refuse to begin, or leave such keys as they are and say so.' });

const reads: readonly Permission[] = [
  { action: 's3:GetBucketVersioning', on: 'bucket' },
  { action: 's3:ListBucketVersions', on: 'bucket' },
  { action: 's3:ListBucket', on: 'bucket' },
  { action: 's3:GetObject', on: 'objects' },
  { action: 's3:GetObjectVersion', on: 'objects' },
  { action: 's3:GetObjectTagging', on: 'objects' },
  { action: 's3:GetObjectVersionTagging', on: 'objects' },
];
const copies: readonly Permission[] = [
  { action: 's3:PutObject', on: 'objects' },
  { action: 's3:PutObjectTagging', on: 'objects' },
  { action: 's3:AbortMultipartUpload', on: 'objects' },
];

export const s3Kinds: Readonly<Record<string, StepKind>> = {
  's3.check': kind({
    summary: 'Holds a bucket against what is expected of it: versioning, object lock, replication and how far it is, public access; reports MFA delete. What a store does not support is said, never taken for fine.',
    input: z.strictObject({ datastore }),
    phases: ['guard', 'verify'],
    verifyMs: 600_000,
    permissions: [
      { action: 's3:GetBucketVersioning', on: 'bucket' },
      { action: 's3:GetBucketObjectLockConfiguration', on: 'bucket' },
      { action: 's3:GetReplicationConfiguration', on: 'bucket' },
      { action: 's3:GetBucketPublicAccessBlock', on: 'bucket' },
      { action: 's3:ListBucketVersions', on: 'bucket' },
      { action: 's3:ListBucket', on: 'bucket' },
      { action: 's3:GetObject', on: 'objects' },
      { action: 's3:GetObjectVersion', on: 'objects' },
    ],
    facts: {
      versioning: 'Enabled, Suspended, Off, or that it could not be asked',
      objectLock: 'mode and days of the default retention, none, or that it could not be asked',
      mfaDelete: 'on, off, or that it could not be asked',
      publicAccess: 'blocked, the settings that are off, or that it could not be asked',
      replication: 'where it replicates to, none, or that it could not be asked',
      replicated: 'of the newest objects: how many are replicated',
      replicationPending: 'how many wait',
      replicationFailed: 'how many have failed',
      oldestPendingMs: 'age of the oldest that waits, null when none does',
    },
  }),
  's3.planPrefix': kind({
    summary: 'Says what a restore of a prefix to a moment would do: what comes back, what is replaced, what goes behind a delete marker, what cannot be decided. Only reads.',
    input: z.strictObject({ datastore, prefix, moment, sameSecond, archived }),
    phases: ['guard', 'verify'],
    verifyMs: 12 * 3_600_000,
    permissions: reads,
    facts: {
      plan: 'in one sentence',
      keys: 'keys below the prefix, deleted ones too',
      bringBack: 'how many come back',
      replace: 'how many get the content of that moment',
      remove: 'how many go behind a delete marker',
      unchanged: 'how many stay as they are',
      bytes: 'to be copied',
    },
  }),
  's3.restoreObject': kind({
    summary: 'Makes an old version of an object its content again, by a copy within the store, with metadata, tags and storage class; proves it. Never removes a version.',
    input: z.strictObject({
      datastore,
      key: z.string().min(1).optional().meta({ description: 'The whole key.' }),
      versionId: z.string().optional().meta({ description: 'Which version; or give a moment.' }),
      moment: moment.optional(),
      sameSecond,
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 6 * 3_600_000,
    verifyMs: 6 * 3_600_000,
    permissions: [...reads, ...copies],
    facts: { versionId: 'version that was restored', replaced: 'version that was current before; it is still there', current: 'version that is current now', bytes: 'size', proof: 'how the content was compared' },
  }),
  's3.restorePrefix': kind({
    summary: 'Brings a whole prefix back to a moment: planned first, by copies and delete markers only, so that no version is lost; then every key is proved. Goes on where a lost worker stopped.',
    input: z.strictObject({ datastore, prefix, moment, sameSecond, archived }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    disruptive: true,
    applyMs: 24 * 3_600_000,
    verifyMs: 24 * 3_600_000,
    attempts: 10,
    permissions: [...reads, ...copies, { action: 's3:DeleteObject', on: 'objects' }],
    facts: {
      startedAt: 'when it began: restoring to this moment takes it back',
      restored: 'copied by the last attempt',
      removed: 'put behind a delete marker by the last attempt',
      bytes: 'copied by the last attempt',
      keys: 'keys that were proved',
      right: 'keys with the content of the moment',
      gone: 'keys that are gone, as they were',
      byEtag: 'proved by ETag',
      byChecksum: 'proved by a checksum of the whole object',
      byReading: 'proved by reading both in full',
      severalSince: 'keys that were written more than once since it began: other writers, or a repeated try',
    },
  }),
  's3.drillMarker': kind({
    summary: "Writes an object of its own below the datastore's .holdfast-drill/, overwrites it and deletes it: something to be restored.",
    input: z.strictObject({ datastore }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    permissions: [
      { action: 's3:GetBucketVersioning', on: 'bucket' },
      { action: 's3:ListBucketVersions', on: 'bucket' },
      { action: 's3:ListBucket', on: 'bucket' },
      { action: 's3:GetBucketObjectLockConfiguration', on: 'bucket' },
      ...['s3:GetObject', 's3:GetObjectVersion', 's3:GetObjectRetention', 's3:GetObjectLegalHold', 's3:PutObject', 's3:PutObjectTagging', 's3:DeleteObject', 's3:DeleteObjectVersion'].map((action) => ({ action, on: 'drillObjects' })),
    ],
    facts: { key: 'its key', versionId: 'the first version: the one to be restored', sha256: 'of its content', bytes: 'size', deletedAt: 'when it was deleted' },
  }),
  's3.proveMarker': kind({
    summary: 'Reads the object of the drill back and compares it byte by byte with what was written first; metadata, tags and content type too.',
    input: z.strictObject({ datastore, key: z.string().optional() }),
    phases: ['verify'],
    verifyMs: 120_000,
    permissions: [
      { action: 's3:ListBucket', on: 'bucket' },
      { action: 's3:GetObject', on: 'drillObjects' },
      { action: 's3:GetObjectTagging', on: 'drillObjects' },
    ],
    facts: { sha256: 'of what was read', bytes: 'how many were compared' },
  }),
  's3.removeMarker': kind({
    summary: 'Removes the object of the drill with its versions; versions that object lock holds stay behind a delete marker and are counted.',
    input: z.strictObject({ datastore, key: z.string().optional() }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    permissions: [
      { action: 's3:ListBucketVersions', on: 'bucket' },
      { action: 's3:ListBucket', on: 'bucket' },
      { action: 's3:GetBucketObjectLockConfiguration', on: 'bucket' },
      ...['s3:GetObject', 's3:GetObjectVersion', 's3:GetObjectRetention', 's3:GetObjectLegalHold', 's3:DeleteObject', 's3:DeleteObjectVersion'].map((action) => ({ action, on: 'drillObjects' })),
    ],
    facts: { removed: 'versions and delete markers removed', locked: 'versions that object lock holds' },
  }),
  's3.lifecycle': kind({
    summary: "Makes the bucket's lifecycle rules of this datastore or store what the configuration says. Rules of others are carried over as they are.",
    input: z.strictObject({ datastore: datastore.optional(), store: z.string().optional().meta({ description: 'Store name, instead of a datastore.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    permissions: [
      { action: 's3:GetLifecycleConfiguration', on: 'bucket' },
      { action: 's3:PutLifecycleConfiguration', on: 'bucket' },
    ],
    verifyMs: 120_000,
    facts: { added: 'rules', changed: 'rules', removed: 'rules', foreign: 'rules of others, carried over' },
  }),
};
