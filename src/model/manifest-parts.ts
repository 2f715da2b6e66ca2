import { z } from 'zod';
import { NAME_PATTERN } from './config-words.ts';

/** Backups are ordered and aged by their times: a text that is none must not pass for one. */
export const time = z.string().refine((text) => !Number.isNaN(Date.parse(text)), 'expected a time, ISO 8601');

/**
 * What a committed backup says of itself. `format` grows when a reader must know; unknown formats are refused.
 * Sums are decimal strings of exact integers, since JSON numbers are not exact above 2^53.
 */
export const objectEntrySchema = z.strictObject({
  /** File name below the backup's folder; may have folders of its own. */
  name: z.string().regex(/^(?!\.\.?\/)[^/\0]+(\/(?!\.\.?(\/|$))[^/\0]+)*$/),
  /** What it holds: rows (a `pg_dump -Fc` archive, BSON, items), globals as SQL, the schema as SQL, or what describes the data. */
  role: z.enum(['data', 'globals', 'schema', 'metadata']),
  storedBytes: z.int().min(0),
  plainBytes: z.int().min(0),
  /** Hex SHA-256 of the stored bytes (compressed, encrypted) and of the plain bytes. */
  storedSha256: z.string().regex(/^[0-9a-f]{64}$/),
  plainSha256: z.string().regex(/^[0-9a-f]{64}$/),
  compression: z.enum(['zstd', 'gzip', 'none']),
  encryption: z.enum(['age', 'none']),
});

export type ObjectEntry = z.infer<typeof objectEntrySchema>;

/** What the manifest of every engine says. */
export const manifestCommon = {
  id: z.string(),
  datastore: z.string().regex(NAME_PATTERN),
  environment: z.string(),
  /** The moment of the snapshot, ISO 8601, by the database's clock; where there is none, the moment the reading began. */
  snapshotAt: time,
  startedAt: time,
  finishedAt: time,
  reason: z.string(),
  degraded: z.string().optional(),
  workflowId: z.string(),
  runId: z.string(),
  tools: z.record(z.string(), z.string()),
  objects: z.array(objectEntrySchema),
  /** What restores this backup without Holdfast, in order, with placeholders in <angle brackets>. */
  commands: z.array(z.strictObject({ what: z.string(), command: z.string() })),
};
