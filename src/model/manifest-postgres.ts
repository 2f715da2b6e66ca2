import { z } from 'zod';
import { manifestCommon, time } from './manifest-parts.ts';

/** Order-free fingerprint: count and two sums of 64-bit row hashes with different seeds. */
export const tableFingerprintSchema = z.strictObject({
  schema: z.string(),
  name: z.string(),
  kind: z.enum(['table', 'materialized-view']),
  rows: z.string(),
  sum1: z.string(),
  sum2: z.string(),
  /** Only for an extension's configuration table: which rows are dumped. */
  condition: z.string().optional(),
});

export const sequenceFingerprintSchema = z.strictObject({
  schema: z.string(),
  name: z.string(),
  /** Sequences are outside the snapshot: the value just before and just after the dump; equal when nobody drew. */
  before: z.strictObject({ lastValue: z.string(), isCalled: z.boolean() }),
  after: z.strictObject({ lastValue: z.string(), isCalled: z.boolean() }),
});

export const postgresFingerprintSchema = z.strictObject({
  method: z.literal('hashtextextended-sum/1'),
  tables: z.array(tableFingerprintSchema),
  sequences: z.array(sequenceFingerprintSchema),
  largeObjects: z.strictObject({ count: z.string(), bytes: z.string(), sum1: z.string(), sum2: z.string() }).nullable(),
  extensions: z.array(z.strictObject({ name: z.string(), version: z.string(), schema: z.string() })),
  roles: z.array(
    z.strictObject({
      name: z.string(),
      attributes: z.array(z.string()),
      memberOf: z.array(z.string()),
      settings: z.array(z.string()),
    }),
  ),
  /** Object -> hex SHA-256 of its definition as pg_dump prints it, e.g. `INDEX public orders_by_day`. */
  schemaObjects: z.record(z.string(), z.string()),
  schemaSha256: z.string(),
});

/** Of a backup that is a managed snapshot: where it is, and what is known of the moment it was taken. */
export const managedSnapshotSchema = z.strictObject({
  kind: z.literal('rds-snapshot'),
  instance: z.string(),
  region: z.string(),
  identifier: z.string(),
  arn: z.string(),
  /** As RDS says them; null: it does not. */
  createdAt: time.nullable(),
  databaseTime: time.nullable(),
  engineVersion: z.string().nullable(),
  allocatedGiB: z.number().nullable(),
  encrypted: z.boolean(),
  kmsKeyId: z.string().nullable(),
  copies: z.array(z.strictObject({ region: z.string(), identifier: z.string(), arn: z.string(), kmsKeyId: z.string().nullable() })),
  sharedWith: z.array(z.string()),
  /** Marker rows around it; null: none could be written. */
  markers: z.strictObject({ present: z.array(z.string()), between: z.array(z.string()), absent: z.array(z.string()) }).nullable(),
  /** false: `fingerprint` is empty and no content can be compared. */
  fingerprinted: z.boolean(),
  /** By sequence: a physical copy is recovered as after a crash, which skips up to 32 values and what sessions cache. */
  sequenceSteps: z.record(z.string(), z.strictObject({ increment: z.string(), cache: z.string() })),
  /** What changed between the reading before it and the reading after it: of that, nothing can be proved exactly. */
  moving: z.array(z.strictObject({ what: z.enum(['table', 'sequence', 'schema', 'extension', 'role', 'large-objects']), object: z.string(), why: z.string() })),
});
export type ManagedSnapshot = z.infer<typeof managedSnapshotSchema>;

export const postgresManifestSchema = z.strictObject({
  /** 2: a managed snapshot, which has no objects in the store. */
  format: z.literal([1, 2]),
  engine: z.literal('postgres'),
  ...manifestCommon,
  source: z.strictObject({
    node: z.string(),
    role: z.enum(['primary', 'standby']),
    database: z.string(),
    systemIdentifier: z.string().nullable(),
    snapshotId: z.string(),
    lsn: z.string(),
    timeline: z.int().nullable(),
    serverVersion: z.string(),
    serverVersionNumber: z.int(),
    encoding: z.string(),
    collate: z.string(),
    ctype: z.string(),
    localeProvider: z.string(),
    databaseBytes: z.int().nullable(),
  }),
  selection: z.strictObject({
    complete: z.boolean(),
    include: z.strictObject({ schemas: z.array(z.string()), tables: z.array(z.string()) }),
    exclude: z.strictObject({ schemas: z.array(z.string()), tables: z.array(z.string()), tableData: z.array(z.string()) }),
  }),
  fingerprint: postgresFingerprintSchema,
  managed: managedSnapshotSchema.optional(),
}).superRefine((manifest, context) => {
  const managed = manifest.managed !== undefined;
  if (managed !== (manifest.format === 2)) context.addIssue({ code: 'custom', path: ['managed'], message: managed ? 'a managed snapshot has format 2' : 'format 2 needs managed' });
  if (managed === manifest.objects.length > 0) context.addIssue({ code: 'custom', path: ['objects'], message: managed ? 'a managed snapshot has no objects' : 'a dump has objects' });
});

export type PostgresManifest = z.infer<typeof postgresManifestSchema>;
export type TableFingerprint = z.infer<typeof tableFingerprintSchema>;
export type SequenceFingerprint = z.infer<typeof sequenceFingerprintSchema>;
export type PostgresFingerprint = z.infer<typeof postgresFingerprintSchema>;
