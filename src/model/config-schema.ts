import { z } from 'zod';
import { durationMs, sizeBytes } from './units.ts';

/**
 * The shape of holdfast.yaml. One definition: types, parser, JSON Schema and reference all come from here.
 * Secrets stand here by reference only: `aws-sm:<id>#<field>`, `env:<NAME>`, `file:<path>`.
 */
export const NAME_PATTERN = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
export const SECRET_REFERENCE_PATTERN = /^(aws-sm:[^#\s]+(#[^\s]+)?|env:[A-Za-z_][A-Za-z0-9_]*|file:\S.*)$/;

const name = z.string().regex(NAME_PATTERN, 'expected lower-case letters, digits and inner hyphens, at most 63');
const secretReference = z
  .string()
  .regex(SECRET_REFERENCE_PATTERN, 'expected a reference, never the secret itself: aws-sm:<id>#<field>, env:<NAME> or file:<path>')
  .meta({ description: 'Where a secret is found: aws-sm:<id>#<field>, env:<NAME> or file:<path>. Never the secret itself.' });
const argv = z.array(z.string()).min(1).meta({ description: 'A command as an argument vector; no shell is involved.' });
const awsCredentials = z.strictObject({ accessKeyId: secretReference, secretAccessKey: secretReference, sessionToken: secretReference.optional() });
const port = z.int().min(1).max(65535);

export const temporalSchema = z.strictObject({
  address: z.string().default('127.0.0.1:7233'),
  namespace: z.string().default('default'),
  taskQueue: z.string().default('holdfast'),
  apiKey: secretReference.optional(),
  tls: z
    .strictObject({ serverName: z.string().optional(), ca: z.string().optional(), certificate: z.string().optional(), key: secretReference.optional() })
    .optional(),
  /** A 32-byte key in base64: payloads and failure texts are encrypted in history when it is given. */
  encryptionKey: secretReference.optional(),
});

export const awsSchema = z.strictObject({
  region: z.string().default('us-east-1'),
  endpoint: z.url().optional().meta({ description: 'Endpoint of every AWS API, for an emulator or a private endpoint.' }),
  credentials: awsCredentials.optional().meta({ description: "Static credentials; without them the SDK's own chain is used." }),
});

const encryptionSchema = z.strictObject({
  recipients: z.array(z.string().startsWith('age1')).min(1),
  /** Needed by verify, drill and restore, not by backup. */
  identity: secretReference.optional(),
});

export const storeSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('s3'),
    bucket: z.string().min(1),
    prefix: z.string().default(''),
    region: z.string().optional(),
    endpoint: z.url().optional(),
    forcePathStyle: z.boolean().default(false),
    credentials: awsCredentials.optional(),
    partSize: sizeBytes.prefault('8MiB'),
    uploadConcurrency: z.int().min(1).max(16).default(3),
    objectLock: z.strictObject({ mode: z.enum(['GOVERNANCE', 'COMPLIANCE']), retain: durationMs }).optional(),
    encryption: encryptionSchema.optional(),
  }),
  z.strictObject({
    type: z.literal('folder'),
    path: z.string().min(1),
    prefix: z.string().default(''),
    encryption: encryptionSchema.optional(),
  }),
]);

export const nodeSchema = z.strictObject({
  host: z.string().min(1),
  port: port.default(5432),
  /** Address the application reaches this node by, when it differs from host and port. */
  applicationHost: z.string().optional(),
  applicationPort: port.optional(),
  /** Where the server's files are, on the node; needed to fence from outside and to rebuild. */
  dataDirectory: z.string().optional(),
  binDirectory: z.string().optional(),
  exec: z
    .array(z.string())
    .optional()
    .meta({ description: 'How a command is run on the node: a prefix such as [ssh, db-a, --] or [runuser, -u, postgres, --]. Empty: as the worker itself.' }),
  fence: z
    .strictObject({ command: argv, verify: argv.optional() })
    .optional()
    .meta({ description: 'Fences the node from outside (stops the instance, closes its network). Gets HOLDFAST_NODE and HOLDFAST_EPOCH. Must be idempotent.' }),
  start: argv.optional().meta({ description: 'Starts the server, on the node. Default: pg_ctl in binDirectory with dataDirectory.' }),
  stop: argv.optional().meta({ description: 'Stops the server, on the node. Default: pg_ctl in binDirectory with dataDirectory.' }),
  replication: z
    .strictObject({ username: z.string(), passfile: z.string().optional(), slot: z.string().optional() })
    .optional()
    .meta({ description: 'How this node, when it is a standby, connects to the primary. passfile is a path on the node.' }),
});

export const retentionSchema = z.strictObject({
  last: z.int().min(0).optional(),
  hourly: z.int().min(0).optional(),
  daily: z.int().min(0).optional(),
  weekly: z.int().min(0).optional(),
  monthly: z.int().min(0).optional(),
  yearly: z.int().min(0).optional(),
  within: durationMs.optional(),
  minVerified: z.int().min(1).default(1),
  maxDeletions: z.int().min(1).default(20).meta({ description: 'At most this many backups are deleted in one run.' }),
  timezone: z.string().default('UTC').meta({ description: 'Where hours, days, weeks, months and years begin. IANA name.' }),
});

const selectionSchema = z.strictObject({
  schemas: z.array(z.string()).default([]),
  tables: z.array(z.string()).default([]).meta({ description: 'pg_dump patterns, e.g. public.orders or "Mixed"."Case".' }),
});

export const postgresBackupSchema = z.strictObject({
  include: selectionSchema.prefault({}),
  exclude: selectionSchema.extend({ tableData: z.array(z.string()).default([]) }).prefault({}),
  compressionLevel: z.int().min(1).max(19).default(3),
  /** Which node is read. A standby spares the primary; its snapshot is a little behind. */
  from: z.enum(['primary', 'standby']).default('primary'),
  globals: z.boolean().default(true),
  timeout: durationMs.prefault('12h'),
  minimumSize: sizeBytes.prefault('0B'),
});

export const postgresDatastoreSchema = z.strictObject({
  engine: z.literal('postgres'),
  database: z.string().min(1),
  store: name.optional(),
  admin: z.strictObject({
    username: z.string().min(1),
    password: secretReference,
    sslmode: z.enum(['disable', 'require', 'verify-ca', 'verify-full']).default('disable'),
    sslrootcert: z.string().optional(),
  }),
  nodes: z.record(name, nodeSchema),
  endpoint: z
    .strictObject({
      secret: z.string().min(1).meta({ description: "Secrets Manager id of the application's connection secret (JSON: host, port, username, password, dbname)." }),
      dns: z
        .strictObject({
          hostedZoneId: z.string(),
          name: z.string(),
          ttlSeconds: z.int().min(0).default(30),
          type: z.enum(['A', 'CNAME']).default('CNAME'),
        })
        .optional(),
    })
    .optional(),
  binDirectory: z.string().optional().meta({ description: "Folder of this worker's own pg_dump, pg_restore, psql." }),
  backup: postgresBackupSchema.prefault({}),
  retention: retentionSchema.optional(),
  drill: z
    .strictObject({
      backup: z.enum(['newest', 'random']).default('newest'),
      timeout: durationMs.prefault('6h'),
      maxAge: durationMs.prefault('35d').meta({ description: 'An older last drill counts as a failed one.' }),
      jobs: z.int().min(1).max(32).default(1),
    })
    .prefault({}),
});

/** Other engines join this union; each is one entry here, one file in activities and one in systems. */
export const datastoreSchema = z.discriminatedUnion('engine', [postgresDatastoreSchema]);

const sqlCheckSchema = z.strictObject({
  name: z.string().min(1),
  datastore: name.optional(),
  sql: z.string().min(1).meta({ description: 'One read-only SELECT that gives one value.' }),
  expect: z
    .strictObject({ equals: z.union([z.string(), z.number(), z.boolean()]).optional(), atLeast: z.number().optional(), atMost: z.number().optional() })
    .meta({ description: 'What the value must be; without a condition the query must merely give a true value or a row.' })
    .prefault({}),
});

export const serviceSchema = z.strictObject({
  description: z.string().optional(),
  objectives: z.strictObject({
    rto: durationMs,
    rpo: durationMs,
    refusedWrites: durationMs.optional().meta({ description: 'Objective for the window in which writes are refused in a planned failover.' }),
    lostWrites: z.int().min(0).default(0).meta({ description: 'Acknowledged writes that a planned failover may lose.' }),
  }),
  datastores: z.array(name).min(1),
  runbooks: z.record(name, z.string()).default({}).meta({ description: 'Which runbook serves which purpose: failover, failback, ...' }),
  parameters: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.array(z.string())])).default({}),
  checks: z.array(sqlCheckSchema).default([]),
  approval: z
    .strictObject({ planned: z.int().min(0).default(0), forced: z.int().min(0).default(0), expires: durationMs.prefault('30m') })
    .prefault({}),
});

const scheduleFields = {
  cron: z.string().optional().meta({ description: 'Five fields: minute hour day-of-month month day-of-week.' }),
  every: durationMs.optional(),
  timezone: z.string().default('UTC'),
  jitter: durationMs.prefault('0s'),
  catchUp: durationMs.prefault('10m').meta({ description: 'Missed runs older than this are not made up for.' }),
  overlap: z.enum(['skip', 'bufferOne', 'cancelOther', 'terminateOther', 'allowAll']).default('skip'),
  paused: z.boolean().default(false),
};

export const scheduleSchema = z.discriminatedUnion('run', [
  z.strictObject({ run: z.literal('backup'), datastore: name, ...scheduleFields }),
  z.strictObject({ run: z.literal('retention'), datastore: name, ...scheduleFields }),
  z.strictObject({ run: z.literal('restoreDrill'), datastore: name, service: name.optional(), backup: z.enum(['newest', 'random']).default('newest'), ...scheduleFields }),
  z.strictObject({ run: z.literal('readiness'), service: name, ...scheduleFields }),
  z.strictObject({ run: z.literal('runbook'), runbook: name, parameters: z.record(z.string(), z.unknown()).default({}), ...scheduleFields }),
]);

export const notifySchema = z.strictObject({
  type: z.literal('slack').meta({ description: 'A Slack-compatible incoming webhook.' }),
  url: secretReference,
  on: z.array(z.enum(['success', 'failure', 'attention'])).default(['success', 'failure', 'attention']),
});

export const evidenceSchema = z.strictObject({
  directory: z.string().default('evidence/dr'),
  store: name.optional().meta({ description: 'Evidence is copied to this store too, under <prefix>/evidence/.' }),
  signingKey: secretReference.optional().meta({ description: 'Ed25519 private key, PKCS#8 PEM.' }),
});

export const configSchema = z.strictObject({
  version: z.literal(1),
  environment: name.default('production'),
  workDirectory: z.string().optional().meta({ description: 'Where drill targets and sockets live on a worker; default: a folder in the system temp folder.' }),
  temporal: temporalSchema.prefault({}),
  aws: awsSchema.prefault({}),
  stores: z.record(name, storeSchema),
  datastores: z.record(name, datastoreSchema),
  services: z.record(name, serviceSchema),
  schedules: z.record(name, scheduleSchema).default({}),
  notify: z.record(name, notifySchema).default({}),
  evidence: evidenceSchema.prefault({}),
});

/** The configuration after parsing: defaults filled in, durations in milliseconds, sizes in bytes. */
export type Config = z.output<typeof configSchema>;
export type StoreConfig = Config['stores'][string];
export type S3StoreConfig = Extract<StoreConfig, { type: 's3' }>;
export type FolderStoreConfig = Extract<StoreConfig, { type: 'folder' }>;
export type DatastoreConfig = Config['datastores'][string];
export type PostgresDatastore = Extract<DatastoreConfig, { engine: 'postgres' }>;
export type NodeConfig = PostgresDatastore['nodes'][string];
export type ServiceConfig = Config['services'][string];
export type ScheduleConfig = Config['schedules'][string];
export type RetentionPolicy = z.output<typeof retentionSchema>;
export type SqlCheck = ServiceConfig['checks'][number];
