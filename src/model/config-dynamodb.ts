import { z } from 'zod';
import { assumeRole, awsCredentials, name } from './config-words.ts';
import { durationMs, sizeBytes } from './units.ts';

const tableName = z.string().regex(/^[A-Za-z0-9_.-]{3,255}$/, 'expected the name of a table: 3 to 255 letters, digits, "_", "-" and "."');
const share = z.number().gt(0).max(1);

const placeFields = {
  region: z.string().min(1).optional(),
  endpoint: z.url().optional(),
  credentials: awsCredentials.optional(),
  assumeRole: assumeRole.optional(),
};

export const dynamodbBackupSchema = z.strictObject({
  method: z.enum(['scan', 'export', 'on-demand']).default('scan').meta({ description: 'scan: read item by item, works everywhere, costs read capacity, and is no snapshot. export: the point-in-time export of the service. on-demand: a backup that the service keeps itself.' }),
  readShare: share.default(0.25).meta({ description: "Share of the table's read capacity that a scan may use, as the service reports it." }),
  readUnitsPerSecond: z.number().positive().optional().meta({ description: "On-demand tables: what the share is of. Default: the table's maximum, else its warm throughput, else 12000." }),
  segments: z.int().min(1).max(256).default(4).meta({ description: 'Parts of a table that are scanned at the same time. Each takes about 20 MB of memory.' }),
  consistentRead: z.boolean().default(false).meta({ description: 'Costs twice the capacity. It makes no snapshot of a scan.' }),
  pageItems: z.int().min(1).optional().meta({ description: 'At most so many items a request. Default: as many as cost a quarter of a second of the share; a request never brings more than 1 MB.' }),
  fileSize: sizeBytes.prefault('64MiB').meta({ description: 'A data file ends at so many bytes of JSON, at 8 MiB compressed, or after 5 minutes. A lost worker loses at most one file of each segment.' }),
  pollEvery: durationMs.prefault('15s').meta({ description: 'Pause between two looks at what the service does itself: an export, an on-demand backup, a restore of one.' }),
  timeout: durationMs.prefault('24h').meta({ description: 'An attempt that takes longer is ended.' }),
  minimumItems: z.int().min(0).default(0).meta({ description: 'Fewer items in all tables together are refused: it would mean that something is missing.' }),
});

/** Without `retention`, which is the same for every engine. */
export const dynamodbDatastoreFields = {
  engine: z.literal('dynamodb'),
  tables: z.array(tableName).min(1).refine((tables) => new Set(tables).size === tables.length, 'a table is named twice').meta({ description: 'Its tables, all in one Region.' }),
  region: placeFields.region.meta({ description: 'Default: aws.region.' }),
  endpoint: placeFields.endpoint.meta({ description: 'Endpoint of the service; default: aws.endpoint, else that of the Region.' }),
  credentials: placeFields.credentials.meta({ description: "Static credentials; without them the SDK's own chain is used." }),
  assumeRole: placeFields.assumeRole.meta({ description: 'A role that is assumed first, by these credentials: tables of another account.' }),
  store: name.optional().meta({ description: 'Where its backups go: a name under stores.' }),
  backup: dynamodbBackupSchema.prefault({}).meta({ description: 'How it is backed up.' }),
  restore: z
    .strictObject({
      writeShare: share.default(0.5).meta({ description: "Share of a table's write capacity that a restore may use." }),
      writeUnitsPerSecond: z.number().positive().optional().meta({ description: "On-demand tables: what the share is of. Default: the table's maximum, else its warm throughput, else 4000." }),
      concurrency: z.int().min(1).max(64).default(4).meta({ description: 'Data files that are read at the same time.' }),
    })
    .prefault({})
    .meta({ description: 'How it is restored.' }),
  drill: z
    .strictObject({
      backup: z.enum(['newest', 'random']).default('newest').meta({ description: 'Which backup is restored.' }),
      timeout: durationMs.prefault('12h').meta({ description: 'A restore that takes longer has failed.' }),
      maxAge: durationMs.prefault('35d').meta({ description: 'An older last drill counts as a failed one.' }),
      prefix: z.string().regex(/^[A-Za-z0-9_.-]{3,40}$/).default('holdfast-drill-').meta({ description: 'Tables of drills are called <prefix><12 hex digits of the run>-<table>. No table of yours may begin like this.' }),
      writeShare: share.default(1).meta({ description: 'Share of the write capacity of the tables of a drill, which nobody else uses.' }),
      drift: z.boolean().default(true).meta({ description: 'The live tables are read again, within readShare, and the report says how far they have moved on since the backup.' }),
      region: placeFields.region.meta({ description: "Where drills restore to; default: the datastore's." }),
      endpoint: placeFields.endpoint.meta({ description: "Default: the datastore's." }),
      credentials: placeFields.credentials.meta({ description: "Default: the datastore's. An account of its own keeps drills apart from production." }),
      assumeRole: placeFields.assumeRole.meta({ description: "Default: the datastore's, unless credentials are given here." }),
    })
    .prefault({})
    .meta({ description: 'How restores are rehearsed.' }),
};

/** Credentials of the drill's own are for its own account: the role of the datastore is none of theirs. */
export function roleOfDrill<Role>({ assumeRole, drill }: { readonly assumeRole?: Role | undefined; readonly drill: { readonly credentials?: unknown; readonly assumeRole?: Role | undefined } }): Role | undefined {
  return drill.assumeRole ?? (drill.credentials === undefined ? assumeRole : undefined);
}

interface Checked {
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly credentials?: unknown;
  readonly assumeRole?: unknown;
  readonly backup: { readonly method: string };
  readonly drill: { readonly region?: string | undefined; readonly endpoint?: string | undefined; readonly credentials?: unknown; readonly assumeRole?: unknown };
}

/** What the service's own backups cannot do, with the path below the datastore. */
export function nativeProblems({ region, endpoint, credentials, assumeRole, backup, drill }: Checked, store: { readonly type: string; readonly encryption?: unknown; readonly objectLock?: unknown; readonly assumeRole?: unknown } | undefined): { readonly at: string[]; readonly message: string; readonly found: string; readonly allowed: string }[] {
  const at = ['backup', 'method'];
  if (backup.method === 'export' && store !== undefined && store.type !== 's3') return [{ at, message: 'the service exports to Amazon S3 only', found: `a store of type ${store.type}`, allowed: 'method: scan, or a store of type s3' }];
  if (backup.method === 'export' && store?.encryption !== undefined) return [{ at, message: 'the service writes exports itself, so they are not encrypted with age', found: 'a store with encryption', allowed: "method: scan, or a store without encryption whose bucket encrypts by its own key" }];
  // The service has to be told whose the bucket of another account is.
  if (backup.method === 'export' && assumeRole !== undefined && store !== undefined && store.assumeRole === undefined) return [{ at, message: 'the service exports into a bucket of another account only when it is told which, and the store does not say whose its bucket is', found: 'a datastore with assumeRole and a store without', allowed: 'method: scan, or a store with the assumeRole that reaches its bucket' }];
  // The service puts no lock on the files it writes, and an on-demand backup does not lie in the store at all.
  if (backup.method !== 'scan' && store?.objectLock !== undefined) return [{ at, message: backup.method === 'export' ? 'the service writes exports itself, so their files would not be locked' : 'an on-demand backup lies in DynamoDB, where whoever may delete it can', found: 'a store with objectLock', allowed: 'method: scan, or a store without objectLock' }];
  const own = JSON.stringify(roleOfDrill({ assumeRole, drill })) === JSON.stringify(assumeRole);
  const elsewhere = backup.method === 'on-demand' && !own ? (drill.assumeRole === undefined ? 'credentials' : 'assumeRole') : (['region', 'endpoint', 'credentials'] as const).find((key) => drill[key] !== undefined && JSON.stringify(drill[key]) !== JSON.stringify({ region, endpoint, credentials }[key]));
  if (backup.method === 'on-demand' && elsewhere !== undefined) return [{ at: ['drill', elsewhere], message: 'an on-demand backup is restored where it was taken', found: 'another place', allowed: 'leave it out, or method: scan or export' }];
  return [];
}
