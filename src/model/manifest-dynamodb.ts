import { z } from 'zod';
import { tableSettingsSchema } from './dynamodb-settings.ts';
import { manifestCommon, time } from './manifest-parts.ts';

/** Of one table: how many items, and the two sums of them that do not depend on their order. */
export const itemSumsSchema = z.strictObject({ name: z.string(), items: z.int().min(0), sum1: z.string(), sum2: z.string() });

export const tableBackupSchema = z.strictObject({
  name: z.string(),
  arn: z.string(),
  /** null: the server gives none. */
  id: z.string().nullable(),
  /** Below the backup's folder, ends with `/`: the export in the service's own layout. */
  export: z.string(),
  settings: tableSettingsSchema,
  /** When the first and the last item were read. */
  readFrom: time,
  readTo: time,
  files: z.array(z.strictObject({ object: z.string(), items: z.int().min(0) })),
  /** What the reading has used of the table's capacity; left out: none. */
  capacity: z
    .strictObject({ share: z.number(), unitsPerSecond: z.number(), source: z.string(), consumedUnits: z.number(), seconds: z.number(), throttled: z.int(), retries: z.int() })
    .optional(),
});
export type TableBackup = z.infer<typeof tableBackupSchema>;

/** A backup that the service keeps itself: one for each table, at about the same moment. */
export const onDemandSchema = z.strictObject({
  kind: z.literal('dynamodb-on-demand'),
  region: z.string(),
  backups: z.array(z.strictObject({ table: z.string(), tableArn: z.string(), name: z.string(), arn: z.string(), createdAt: time, bytes: z.int().nullable() })).min(1),
});

export const dynamodbManifestSchema = z.strictObject({
  format: z.literal(3),
  engine: z.literal('dynamodb'),
  ...manifestCommon,
  source: z.strictObject({
    region: z.string(),
    endpoint: z.string().nullable(),
    method: z.enum(['scan', 'export', 'on-demand']),
    /** `scan`: no snapshot. Items that were written while it was read may be in it in their old or their new state, whatever else was written before or after them. */
    consistency: z.enum(['scan', 'point-in-time']),
    consistencyText: z.string(),
    consistentRead: z.boolean(),
  }),
  selection: z.strictObject({ complete: z.boolean(), tables: z.array(z.string()) }),
  tables: z.array(tableBackupSchema),
  fingerprint: z.strictObject({ method: z.literal('sha256-sum/1'), tables: z.array(itemSumsSchema) }),
  managed: onDemandSchema.optional(),
}).superRefine((manifest, context) => {
  if ((manifest.managed !== undefined) === manifest.objects.length > 0) context.addIssue({ code: 'custom', path: ['objects'], message: manifest.managed === undefined ? 'a backup in the store has objects' : 'an on-demand backup has no objects' });
});
export type DynamodbManifest = z.infer<typeof dynamodbManifestSchema>;
export type TableSums = z.infer<typeof itemSumsSchema>;
