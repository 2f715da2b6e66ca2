import { z } from 'zod';
import { NAME_PATTERN } from './config-schema.ts';

/** Backups are ordered and aged by their times: a text that is none must not pass for one. */
const time = z.string().refine((text) => !Number.isNaN(Date.parse(text)), 'expected a time, ISO 8601');

/**
 * What a committed backup says of itself. `format` grows when a reader must know; unknown formats are refused.
 * Sums are decimal strings of exact integers, since JSON numbers are not exact above 2^53.
 */
export const objectEntrySchema = z.strictObject({
  /** File name below the backup's folder. */
  name: z.string(),
  /** What it holds: a `pg_dump -Fc` archive, globals as SQL, the schema as SQL. */
  role: z.enum(['data', 'globals', 'schema']),
  storedBytes: z.int().min(0),
  plainBytes: z.int().min(0),
  /** Hex SHA-256 of the stored bytes (compressed, encrypted) and of the plain bytes. */
  storedSha256: z.string().regex(/^[0-9a-f]{64}$/),
  plainSha256: z.string().regex(/^[0-9a-f]{64}$/),
  compression: z.enum(['zstd', 'none']),
  encryption: z.enum(['age', 'none']),
});

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

export const manifestSchema = z.strictObject({
  format: z.literal(1),
  id: z.string(),
  datastore: z.string().regex(NAME_PATTERN),
  engine: z.literal('postgres'),
  environment: z.string(),
  /** The moment of the snapshot, ISO 8601, by the database's clock. */
  snapshotAt: time,
  startedAt: time,
  finishedAt: time,
  reason: z.string(),
  degraded: z.string().optional(),
  workflowId: z.string(),
  runId: z.string(),
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
  tools: z.record(z.string(), z.string()),
  selection: z.strictObject({
    complete: z.boolean(),
    include: z.strictObject({ schemas: z.array(z.string()), tables: z.array(z.string()) }),
    exclude: z.strictObject({ schemas: z.array(z.string()), tables: z.array(z.string()), tableData: z.array(z.string()) }),
  }),
  objects: z.array(objectEntrySchema).min(1),
  fingerprint: postgresFingerprintSchema,
  /** What restores this backup without Holdfast, in order, with placeholders in <angle brackets>. */
  commands: z.array(z.strictObject({ what: z.string(), command: z.string() })),
});

export type Manifest = z.infer<typeof manifestSchema>;
export type ObjectEntry = z.infer<typeof objectEntrySchema>;
export type TableFingerprint = z.infer<typeof tableFingerprintSchema>;
export type SequenceFingerprint = z.infer<typeof sequenceFingerprintSchema>;
export type PostgresFingerprint = z.infer<typeof postgresFingerprintSchema>;

/** `COMMIT`, written last with If-None-Match: *. It names the manifest it commits. */
export const commitSchema = z.strictObject({
  format: z.literal(1),
  id: z.string(),
  manifestSha256: z.string(),
  committedAt: time,
});

/** `MARK-<name>.json` beside a committed backup: later findings; the backup itself is never overwritten. */
export const markSchema = z.strictObject({
  mark: z.enum(['verified', 'bad', 'pinned', 'in-use']),
  at: time,
  by: z.string(),
  reason: z.string(),
});
export type Mark = z.infer<typeof markSchema>;

/** What lists, retention and drills know of one committed backup. */
export interface BackupSummary {
  readonly id: string;
  readonly datastore: string;
  /** Folder in the store, ends with `/`. */
  readonly location: string;
  readonly snapshotAtMs: number;
  readonly committedAtMs: number;
  readonly storedBytes: number;
  readonly plainBytes: number;
  readonly reason: string;
  readonly degraded: string | undefined;
  readonly complete: boolean;
  /** `verified` and `bad` by the newest drill; `unproved` before any. */
  readonly proof: 'verified' | 'bad' | 'unproved';
  readonly provedAtMs: number | undefined;
  readonly pinned: boolean;
  readonly inUse: boolean;
  /** Object lock holds it until then, undefined when not locked. */
  readonly lockedUntilMs: number | undefined;
}

/** `YYYY/MM/DD/HHMMSSZ-<id>/` of a backup that began at `startedAtMs` (UTC). */
export function backupFolder(prefix: string, datastore: string, startedAtMs: number, id: string): string {
  const iso = new Date(startedAtMs).toISOString();
  const day = iso.slice(0, 10).replaceAll('-', '/');
  const time = iso.slice(11, 19).replaceAll(':', '');
  return `${joinPrefix(prefix)}${datastore}/${day}/${time}Z-${id}/`;
}

export function joinPrefix(prefix: string): string {
  const trimmed = prefix.replace(/^\/+|\/+$/g, '');
  return trimmed === '' ? '' : `${trimmed}/`;
}
