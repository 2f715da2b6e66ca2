import { z } from 'zod';
import { s3DatastoreSchema } from './config-engines.ts';
import { dynamodbDatastoreFields } from './config-dynamodb.ts';
import { kafkaSchema } from './config-kafka.ts';
import { costsSchema } from './config-cost.ts';
import { kubernetesSchema } from './config-kubernetes.ts';
import { managedNodeSchema, managedSchema } from './config-managed.ts';
import { mongodbDatastoreFields } from './config-mongodb.ts';
import { opensearchDatastoreSchema } from './config-opensearch.ts';
import { redisDatastoreSchema } from './config-redis.ts';
import { chaosSchema } from './config-chaos.ts';
import { rehearsalSchema } from './config-rehearsals.ts';
import { walArchiveSchema } from './config-wal.ts';
import { lifecycleSchema } from './config-s3.ts';
import { argv, assumeRole, awsCredentials, name, port, secretReference } from './config-words.ts';
import { GATE_DEFAULTS, GATE_RULES } from './readiness.ts';
import { durationMs, sizeBytes } from './units.ts';

export { NAME_PATTERN, SECRET_REFERENCE_PATTERN } from './config-words.ts';

/**
 * The shape of holdfast.yaml. One definition: types, parser, JSON Schema and reference all come from here.
 * Secrets stand here by reference only: `aws-sm:<id>#<field>`, `env:<NAME>`, `file:<path>`.
 */
export const temporalSchema = z.strictObject({
  address: z.string().default('127.0.0.1:7233').meta({ description: 'host:port of the Temporal server. TEMPORAL_ADDRESS and --address come before it.' }),
  namespace: z.string().default('default').meta({ description: 'Temporal namespace.' }),
  taskQueue: z.string().default('holdfast').meta({ description: 'Task queue of the workers. Each worker also polls one of its own host, for work bound to files there.' }),
  apiKey: secretReference.optional().meta({ description: 'API key, e.g. of Temporal Cloud.' }),
  tls: z
    .strictObject({
      serverName: z.string().optional().meta({ description: 'Name that the server certificate must carry, when it differs from the address.' }),
      ca: z.string().optional().meta({ description: 'PEM file of the authority; default: those of the system.' }),
      certificate: z.string().optional().meta({ description: "PEM file of the worker's own certificate." }),
      key: secretReference.optional().meta({ description: 'Its private key, PEM.' }),
    })
    .optional()
    .meta({ description: 'Encrypted connection; an empty mapping is enough for a public certificate.' }),
  encryptionKey: secretReference.optional().meta({ description: 'A 32-byte key in base64: payloads and failure texts are encrypted in history when it is given.' }),
});

export const awsSchema = z.strictObject({
  region: z.string().default('us-east-1').meta({ description: 'AWS region.' }),
  endpoint: z.url().optional().meta({ description: 'Endpoint of every AWS API, for an emulator or a private endpoint.' }),
  credentials: awsCredentials.optional().meta({ description: "Static credentials; without them the SDK's own chain is used." }),
});

const encryptionSchema = z.strictObject({
  recipients: z.array(z.string().startsWith('age1')).min(1).meta({ description: 'Public keys (age1...); any one of their identities decrypts.' }),
  identity: secretReference.optional().meta({ description: 'An age identity. Needed by verify, drill and restore, not by backup.' }),
}).meta({ description: 'Backups are encrypted with age before they leave the worker.' });

export const storeSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('s3'),
    bucket: z.string().min(1).meta({ description: 'Bucket.' }),
    prefix: z.string().default('').meta({ description: 'Everything is put below this, as <prefix>/<datastore>/<yyyy>/<mm>/<dd>/...' }),
    region: z.string().optional().meta({ description: 'Default: aws.region.' }),
    endpoint: z.url().optional().meta({ description: 'Endpoint of an S3-compatible store; default: Amazon S3.' }),
    forcePathStyle: z.boolean().default(false).meta({ description: 'The bucket stands in the path instead of the host name; most other stores need it.' }),
    credentials: awsCredentials.optional().meta({ description: "Static credentials of this store; without them the SDK's own chain is used." }),
    assumeRole: assumeRole.optional().meta({ description: 'A role that is assumed first, by these credentials: backups in an account of their own are out of reach for whoever has the first.' }),
    partSize: sizeBytes.prefault('8MiB').meta({ description: 'Size of an upload part, 5MiB to 5GiB. S3 takes at most 10,000 parts. Memory for one upload is about partSize x uploadConcurrency.' }),
    uploadConcurrency: z.int().min(1).max(16).default(3).meta({ description: 'Parts on their way at the same time.' }),
    objectLock: z.strictObject({ mode: z.enum(['GOVERNANCE', 'COMPLIANCE']).meta({ description: 'COMPLIANCE: nobody can shorten it, the account owner included.' }), retain: durationMs.meta({ description: 'How long, from the upload.' }) }).optional().meta({ description: 'Nobody can delete a backup before this has passed. The bucket must have object lock enabled.' }),
    lifecycle: lifecycleSchema,
    encryption: encryptionSchema.optional(),
  }),
  z.strictObject({
    type: z.literal('folder'),
    path: z.string().min(1).meta({ description: 'Folder.' }),
    prefix: z.string().default('').meta({ description: 'Everything is put below this, as <prefix>/<datastore>/<yyyy>/<mm>/<dd>/...' }),
    encryption: encryptionSchema.optional(),
  }),
]);

export const nodeSchema = z.strictObject({
  host: z.string().min(1).meta({ description: 'Address by which workers reach the server.' }),
  port: port.default(5432).meta({ description: 'Its port.' }),
  applicationHost: z.string().optional().meta({ description: 'Address by which the application reaches this node, when it differs from host.' }),
  applicationPort: port.optional().meta({ description: 'Its port, when it differs from port.' }),
  dataDirectory: z.string().optional().meta({ description: "Where the server's files are, on the node; needed to fence from outside and to rebuild." }),
  binDirectory: z.string().optional().meta({ description: "Folder of the server's programs, on the node." }),
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
  rds: managedNodeSchema.optional(),
  replication: z
    .strictObject({ username: z.string(), passfile: z.string().optional(), slot: z.string().optional() })
    .optional()
    .meta({ description: 'How this node, when it is a standby, connects to the primary. passfile is a path on the node.' }),
});

const controllerMemberSchema = z.strictObject({
  api: z.url({ protocol: /^https?$/ }).meta({ description: "Base URL of this node's Patroni REST interface, e.g. http://10.0.0.1:8008." }),
  name: z.string().min(1).optional().meta({ description: "The node's name in Patroni; default: its name here." }),
});

export const controllerSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('patroni').meta({ description: 'The nodes are managed by Patroni: it is paused before anything changes and resumed afterwards.' }),
    members: z.record(name, controllerMemberSchema).meta({ description: 'Every node with its Patroni.' }),
    username: z.string().min(1).optional().meta({ description: "User of the REST interface's restapi.authentication." }),
    password: secretReference.optional(),
    ca: z.string().optional().meta({ description: 'PEM file of the authority that signed the certificates of https members; default: those of the system.' }),
    certificate: z.string().optional().meta({ description: "PEM file of the worker's own certificate, where the interface asks for one." }),
    key: secretReference.optional(),
    wait: durationMs.prefault('60s').meta({ description: 'How long all members may take to acknowledge a pause, to agree on the leader, and to follow it after they were resumed. Their loop_wait is the usual time.' }),
  }),
  z.strictObject({ type: z.literal('none').meta({ description: 'There is none: files that a former Patroni left in the data directory do not count. One that is connected still does.' }) }),
]);

export const retentionSchema = z.strictObject({
  last: z.int().min(0).optional().meta({ description: 'Keeps this many of the newest backups.' }),
  hourly: z.int().min(0).optional().meta({ description: 'Keeps the newest backup of each of the last N hours that have one.' }),
  daily: z.int().min(0).optional().meta({ description: 'The same for days.' }),
  weekly: z.int().min(0).optional().meta({ description: 'The same for ISO weeks.' }),
  monthly: z.int().min(0).optional().meta({ description: 'The same for months.' }),
  yearly: z.int().min(0).optional().meta({ description: 'The same for years.' }),
  within: durationMs.optional().meta({ description: 'Keeps everything this much older than the newest good backup, or less.' }),
  minVerified: z.int().min(1).default(1).meta({ description: 'Never fewer than this that a drill has proved.' }),
  maxDeletions: z.int().min(1).default(20).meta({ description: 'At most this many backups are deleted in one run.' }),
  timezone: z.string().default('UTC').meta({ description: 'Where hours, days, weeks, months and years begin. IANA name.' }),
});

const selectionSchema = z.strictObject({
  schemas: z.array(z.string()).default([]).meta({ description: 'pg_dump patterns, e.g. public.' }),
  tables: z.array(z.string()).default([]).meta({ description: 'pg_dump patterns, e.g. public.orders or "Mixed"."Case".' }),
});

export const postgresBackupSchema = z.strictObject({
  include: selectionSchema.prefault({}).meta({ description: 'Only these; empty: everything. Recorded in the manifest and honoured by the proof.' }),
  exclude: selectionSchema.extend({ tableData: z.array(z.string()).default([]).meta({ description: 'Tables whose definition is kept and whose rows are not.' }) }).prefault({}),
  compressionLevel: z.int().min(1).max(19).default(3).meta({ description: 'zstd level.' }),
  from: z.enum(['primary', 'standby']).default('primary').meta({ description: 'Which node is read. A standby spares the primary; its snapshot is a little behind.' }),
  globals: z.boolean().default(true).meta({ description: 'Roles and their grants too.' }),
  timeout: durationMs.prefault('12h').meta({ description: 'A backup that takes longer is ended and leaves nothing behind.' }),
  minimumSize: sizeBytes.prefault('0B').meta({ description: 'A smaller dump is refused: it would mean that something is missing.' }),
});

export const postgresDatastoreSchema = z.strictObject({
  engine: z.literal('postgres'),
  database: z.string().min(1).meta({ description: 'Database name.' }),
  store: name.optional().meta({ description: 'Where its backups go: a name under stores.' }),
  admin: z.strictObject({
    username: z.string().min(1).meta({ description: 'Role that Holdfast logs in as.' }),
    password: secretReference.meta({ description: 'Its password.' }),
    sslmode: z.enum(['disable', 'require', 'verify-ca', 'verify-full']).default('disable').meta({ description: "As libpq's." }),
    sslrootcert: z.string().optional().meta({ description: 'PEM file of the authority that signed the server certificates.' }),
  }).meta({ description: 'Who Holdfast is on the database.' }),
  nodes: z.record(name, nodeSchema).meta({ description: 'Every server of the cluster. Which one is the primary is asked of the servers.' }),
  managed: managedSchema.optional(),
  controller: controllerSchema.optional().meta({ description: 'What else switches roles here, such as Patroni. Two controllers must never act at once: one that is found and cannot be paused refuses every runbook that changes roles.' }),
  endpoint: z
    .strictObject({
      secret: z.string().min(1).meta({ description: "Secrets Manager id of the application's connection secret (JSON: host, port, username, password, dbname)." }),
      secretRegion: z.string().min(1).optional().meta({ description: 'Region whose secret is read and swapped, e.g. that of a replica; default: aws.region.' }),
      dns: z
        .strictObject({
          hostedZoneId: z.string().meta({ description: 'Route 53 hosted zone.' }),
          name: z.string().meta({ description: 'Record name.' }),
          ttlSeconds: z.int().min(0).default(30).meta({ description: 'How long resolvers may keep the old answer, in seconds.' }),
          type: z.enum(['A', 'CNAME']).default('CNAME').meta({ description: 'Record type.' }),
        })
        .optional()
        .meta({ description: 'DNS record that a failover points to the new primary.' }),
    })
    .optional()
    .meta({ description: 'How the application finds the primary.' }),
  walArchive: walArchiveSchema.optional(),
  binDirectory: z.string().optional().meta({ description: "Folder of this worker's own pg_dump, pg_restore, psql." }),
  backup: postgresBackupSchema.prefault({}).meta({ description: 'What is dumped, and how.' }),
  retention: retentionSchema.optional().meta({ description: 'Which backups are kept; without it all are.' }),
  drill: z
    .strictObject({
      backup: z.enum(['newest', 'random']).default('newest').meta({ description: 'Which backup is restored.' }),
      timeout: durationMs.prefault('6h').meta({ description: 'A restore that takes longer has failed.' }),
      maxAge: durationMs.prefault('35d').meta({ description: 'An older last drill counts as a failed one.' }),
      jobs: z.int().min(1).max(32).default(1).meta({ description: 'Parallel jobs of the restore. With more than one the plain archive is staged in workDirectory first, since several readers need a file.' }),
    })
    .prefault({})
    .meta({ description: 'How restores are rehearsed.' }),
});

export const mongodbDatastoreSchema = z.strictObject({ ...mongodbDatastoreFields, retention: retentionSchema.optional().meta({ description: 'Which backups are kept; without it all are.' }) });

export const dynamodbDatastoreSchema = z.strictObject({ ...dynamodbDatastoreFields, retention: retentionSchema.optional().meta({ description: 'Which backups are kept; without it all are.' }) });

/** Other engines join this union; each is one entry here, one file in activities and one in systems. */
export const datastoreSchema = z.discriminatedUnion('engine', [postgresDatastoreSchema, s3DatastoreSchema, redisDatastoreSchema, opensearchDatastoreSchema, mongodbDatastoreSchema, dynamodbDatastoreSchema]);

/** Also for a promotion by a runbook that belongs to no service. */
export const DEFAULT_COOLDOWN_MS = 3_600_000;

const checkSchema = z.strictObject({
  name: z.string().min(1).meta({ description: 'What it shows, in words.' }),
  datastore: name.optional().meta({ description: 'Which datastore is asked; needed when the service has several.' }),
  sql: z.string().min(1).optional().meta({ description: 'Of a PostgreSQL: one read-only SELECT that gives one value.' }),
  mongodb: z
    .strictObject({
      database: z.string().min(1).meta({ description: 'Database.' }),
      collection: z.string().min(1).meta({ description: 'Collection.' }),
      pipeline: z.array(z.record(z.string(), z.unknown())).min(1).meta({ description: 'Aggregation pipeline that reads; the first field (but _id) of its first document is the value.' }),
    })
    .optional()
    .meta({ description: 'Of a MongoDB.' }),
  dynamodb: z
    .strictObject({
      table: z.string().min(3).meta({ description: 'Table, by its name at the source.' }),
      statement: z.string().min(1).meta({ description: 'One PartiQL SELECT from "{table}"; the first attribute of its first item is the value.' }),
    })
    .optional()
    .meta({ description: 'Of a DynamoDB.' }),
  expect: z
    .strictObject({
      equals: z.union([z.string(), z.number(), z.boolean()]).optional().meta({ description: 'Exactly this.' }),
      atLeast: z.number().optional().meta({ description: 'This or more.' }),
      atMost: z.number().optional().meta({ description: 'This or less.' }),
    })
    .meta({ description: 'What the value must be; without a condition the query must merely give a true value or a row.' })
    .prefault({}),
});

export const serviceSchema = z.strictObject({
  description: z.string().optional().meta({ description: 'What it is, for people.' }),
  objectives: z.strictObject({
    rto: durationMs.meta({ description: 'How long it may take until the service is back.' }),
    rpo: durationMs.meta({ description: 'How much work, in time, may be lost.' }),
    refusedWrites: durationMs.optional().meta({ description: 'Objective for the window in which writes are refused in a planned failover.' }),
    lostWrites: z.int().min(0).default(0).meta({ description: 'Acknowledged writes that a planned failover may lose.' }),
    backupAge: durationMs.optional().meta({ description: 'How old the newest good backup may be. Default: rpo; set it where the RPO is met by a standby and backups are the last resort.' }),
    compliance: z
      .strictObject({
        target: z.number().min(0).max(100).default(99).meta({ description: 'Per cent of the required backups that must have succeeded.' }),
        period: durationMs.prefault('30d').meta({ description: 'Counted back from now.' }),
        degraded: z.enum(['count', 'miss']).default('count').meta({ description: 'Whether a degraded backup counts as a success. It is shown as degraded either way.' }),
      })
      .optional()
      .meta({ description: 'How many of the backups that its schedules require must succeed.' }),
  }),
  datastores: z.array(name).min(1).meta({ description: 'What it needs: names under datastores.' }),
  dependsOn: z.array(name).default([]).meta({ description: 'Services that must be back before this one; a runbook with forEach recovers them first.' }),
  runbooks: z.record(name, z.string()).default({}).meta({ description: 'Which runbook serves which purpose: failover, failback, ...' }),
  parameters: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.array(z.string())])).default({}).meta({ description: "Values for the runbooks' parameters." }),
  checks: z.array(checkSchema).default([]).meta({ description: 'Asked of every restore.' }),
  chaos: chaosSchema.optional(),
  rehearsals: z.array(rehearsalSchema).default([]).meta({ description: 'What is rehearsed regularly. `schedules sync` makes a schedule of each; readiness says when one is overdue.' }),
  cooldown: durationMs.prefault(`${DEFAULT_COOLDOWN_MS / 3_600_000}h`).meta({ description: 'After a failover the next one is refused for so long, unless somebody has acknowledged the first (holdfast acknowledge). 0s: never.' }),
  approval: z
    .strictObject({
      planned: z.int().min(0).default(0).meta({ description: 'For a planned failover.' }),
      forced: z.int().min(0).default(0).meta({ description: 'For a forced one.' }),
      failback: z.int().min(0).optional().meta({ description: "For the way back; default: planned's." }),
      approvers: z.array(z.string().min(1)).default([]).meta({ description: 'Only these people may approve or reject; empty: anybody but the one who asked.' }),
      expires: durationMs.prefault('30m').meta({ description: 'Too few approvals by then mean: denied.' }),
    })
    .prefault({})
    .meta({ description: 'How many people, other than the one who asks, must agree before anything changes.' }),
  gate: z
    .strictObject({
      planned: z.array(z.enum(GATE_RULES)).default([...GATE_DEFAULTS.planned]).meta({ description: 'Rules whose breach stops a planned failover, unless the requester overrides them by name.' }),
      forced: z.array(z.enum(GATE_RULES)).default([...GATE_DEFAULTS.forced]).meta({ description: 'The same for a forced one. Empty: what is wrong is recorded and told, and stops nothing.' }),
    })
    .prefault({})
    .meta({ description: 'What is asked before a failover begins: is there a young enough backup, was one proved lately.' }),
});

const scheduleFields = {
  cron: z.string().optional().meta({ description: 'Five fields: minute hour day-of-month month day-of-week.' }),
  every: durationMs.optional().meta({ description: 'Interval, instead of cron.' }),
  timezone: z.string().default('UTC').meta({ description: 'Where cron is read. IANA name.' }),
  jitter: durationMs.prefault('0s').meta({ description: 'Runs begin up to this much later, at random.' }),
  catchUp: durationMs.prefault('10m').meta({ description: 'Missed runs older than this are not made up for.' }),
  overlap: z.enum(['skip', 'bufferOne', 'cancelOther', 'terminateOther', 'allowAll']).default('skip').meta({ description: 'What happens when the run before has not ended.' }),
  paused: z.boolean().default(false).meta({ description: 'It exists and does not run.' }),
};

export const scheduleSchema = z.discriminatedUnion('run', [
  z.strictObject({ run: z.literal('backup'), datastore: name, ...scheduleFields }),
  z.strictObject({ run: z.literal('retention'), datastore: name, ...scheduleFields }),
  z.strictObject({ run: z.literal('restoreDrill'), datastore: name, service: name.optional(), backup: z.enum(['newest', 'random']).optional().meta({ description: "Which backup is restored; default: what the datastore's drill.backup says." }), pointInTime: z.literal('now').optional().meta({ description: 'Instead of a backup: RDS restores the instance to the moment the drill begins, proved by marker rows on both sides of it.' }), ...scheduleFields }),
  z.strictObject({ run: z.literal('readiness'), service: name, ...scheduleFields }),
  z.strictObject({ run: z.literal('runbook'), runbook: name, service: name.optional().meta({ description: 'The service it is run for.' }), mode: z.enum(['planned', 'forced']).optional().meta({ description: 'Default: planned.' }), parameters: z.record(z.string(), z.unknown()).default({}), ...scheduleFields }),
]);

export const notifySchema = z.strictObject({
  type: z.literal('slack').meta({ description: 'A Slack-compatible incoming webhook.' }),
  url: secretReference.meta({ description: 'Where the URL is found; it is a secret.' }),
  on: z.array(z.enum(['success', 'failure', 'attention'])).default(['success', 'failure', 'attention']).meta({ description: 'What is told; attention: someone is needed.' }),
});

const instant = z.string().regex(/^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?Z)?$/, 'expected a day (2026-11-21) or a time in UTC (2026-11-21T03:00:00Z)');

export const evidenceSchema = z.strictObject({
  directory: z.string().default('evidence/dr').meta({ description: 'Folder of this host.' }),
  store: name.optional().meta({ description: 'Evidence is copied to this store too, under <prefix>/evidence/; under object lock where the store has it.' }),
  retain: durationMs.optional().meta({ description: "How long the copy is locked, from the upload; default: the store's objectLock.retain. Needs a store with objectLock." }),
  signingKey: secretReference.optional().meta({ description: 'Ed25519 private key, PKCS#8 PEM. Without it evidence is NOT SIGNED and says so.' }),
  trustedKeys: z
    .array(
      z.strictObject({
        publicKey: z.string().regex(/^MCowBQYDK2VwAyEA[A-Za-z0-9+/]{43}=$/, 'expected an Ed25519 public key on one line, as `holdfast evidence keygen` prints it').meta({ description: 'The public key on one line, as `holdfast evidence keygen` prints it.' }),
        validFrom: instant.optional().meta({ description: 'Records that ended earlier are not believed with this key.' }),
        validUntil: instant.optional().meta({ description: 'Records that ended later are not believed with this key.' }),
      }),
    )
    .default([])
    .meta({ description: 'Keys whose signatures count; keep those of the past. Without any, `evidence verify` can only use the key inside a record, which anybody could have put there.' }),
  revokedKeys: z
    .array(z.strictObject({ keyId: z.string().regex(/^[0-9a-f]{16}$/, 'expected 16 hexadecimal digits').meta({ description: 'As `holdfast evidence keygen` and `verify` print it.' }), since: instant.meta({ description: 'When it may have leaked. Later records are not believed, and earlier ones only from a store that took them before.' }), reason: z.string().min(1).meta({ description: 'Why; shown by `evidence verify`.' }) }))
    .default([])
    .meta({ description: 'Keys that leaked.' }),
});

export const configSchema = z.strictObject({
  version: z.literal(1).meta({ description: 'Version of this format.' }),
  environment: name.default('production').meta({ description: 'Enters manifests, schedules, search attributes and evidence.' }),
  workDirectory: z.string().optional().meta({ description: 'Where drill targets and sockets live on a worker; default: a folder in the system temp folder.' }),
  temporal: temporalSchema.prefault({}).meta({ description: 'Where the engine is.' }),
  aws: awsSchema.prefault({}).meta({ description: 'AWS APIs for secrets and DNS, and the default of S3 stores.' }),
  stores: z.record(name, storeSchema).meta({ description: 'Where backups go.' }),
  datastores: z.record(name, datastoreSchema).meta({ description: 'What is backed up, restored and failed over.' }),
  kubernetes: z.record(name, kubernetesSchema).default({}).meta({ description: 'Clusters in which applications run, for the step kinds kubernetes.*.' }),
  kafka: kafkaSchema.default({}).meta({ description: 'Kafka clusters whose consumers are looked at.' }),
  services: z.record(name, serviceSchema).meta({ description: 'What the business recovers, with its objectives.' }),
  schedules: z.record(name, scheduleSchema).default({}).meta({ description: 'What runs by itself; made in Temporal by `holdfast schedules sync`.' }),
  costs: costsSchema.optional().meta({ description: 'What `holdfast cost` calculates with: a price table of yours, and what cannot be measured.' }),
  notify: z.record(name, notifySchema).default({}).meta({ description: 'Who is told.' }),
  evidence: evidenceSchema.prefault({}).meta({ description: 'Signed records of drills and failovers.' }),
});

/** The configuration after parsing: defaults filled in, durations in milliseconds, sizes in bytes. */
export type Config = z.output<typeof configSchema>;
export type StoreConfig = Config['stores'][string];
export type S3StoreConfig = Extract<StoreConfig, { type: 's3' }>;
export type FolderStoreConfig = Extract<StoreConfig, { type: 'folder' }>;
export type DatastoreConfig = Config['datastores'][string];
export type PostgresDatastore = Extract<DatastoreConfig, { engine: 'postgres' }>;
export type S3Datastore = Extract<DatastoreConfig, { engine: 's3' }>;
export type RedisDatastore = Extract<DatastoreConfig, { engine: 'redis' }>;
export type OpensearchDatastore = Extract<DatastoreConfig, { engine: 'opensearch' }>;
export type MongodbDatastore = Extract<DatastoreConfig, { engine: 'mongodb' }>;
export type DynamoDatastore = Extract<DatastoreConfig, { engine: 'dynamodb' }>;
export type KafkaCluster = Config['kafka'][string];
export type NodeConfig = PostgresDatastore['nodes'][string];
export type ServiceConfig = Config['services'][string];
export type ScheduleConfig = Config['schedules'][string];
export type RetentionPolicy = z.output<typeof retentionSchema>;
export type ServiceCheck = ServiceConfig['checks'][number];
/** The engines that have backups: they say how long one may take, which are kept, and how they are drilled. */
export type BackedUpDatastore = Extract<DatastoreConfig, { backup: { timeout: number }; drill: { maxAge: number } }>;

export function isBackedUp(datastore: DatastoreConfig): datastore is BackedUpDatastore {
  return 'backup' in datastore && 'drill' in datastore;
}

/** The store its backups go to: the one that it names, or the only one there is. */
export function storeOfBackups(config: Pick<Config, 'stores'>, datastore: BackedUpDatastore): string | undefined {
  const [only, ...others] = Object.keys(config.stores);
  return datastore.store ?? (others.length === 0 ? only : undefined);
}

/** The datastore of that name when it is a PostgreSQL; own entries only. */
export function postgresNamed(datastores: Config['datastores'], name: string): PostgresDatastore | undefined {
  const datastore = Object.hasOwn(datastores, name) ? datastores[name] : undefined;
  return datastore?.engine === 'postgres' ? datastore : undefined;
}
