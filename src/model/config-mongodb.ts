import { z } from 'zod';
import { argv, name, secretReference } from './config-words.ts';
import { durationMs, sizeBytes } from './units.ts';

/** `db`, `db.collection`, with `*` for any characters. */
const pattern = z.string().min(1).regex(/^[^\s/\\"$]+$/u, 'expected a name, with * for any characters');
/** Names of collections may hold almost anything, blanks too. */
const collectionPattern = z.string().regex(/^[^\s/\\"$.]+\.[^\0$]+$/u, 'expected database.collection, with * for any characters');

/** No secret in it: everybody who reads the file, or a list of processes, would read it too. */
export const mongodbUri = z
  .string()
  .regex(/^mongodb(\+srv)?:\/\/[^\s]+$/, 'expected mongodb://host:port/ or mongodb+srv://host/')
  .refine((uri) => !/^mongodb(\+srv)?:\/\/[^/?]*@/.test(uri), 'takes no user and no password: use username and password')
  .refine((uri) => !/[?&][^=&]*(password|token|key(?!File))[^=&]*=/i.test(uri), 'takes no password among its options: use password');

const selection = z.strictObject({
  databases: z.array(pattern).default([]).meta({ description: 'Databases, e.g. shop or tenant-*.' }),
  collections: z.array(collectionPattern).default([]).meta({ description: 'Collections and views, e.g. shop.orders or shop.log-*.' }),
});

const tls = z.strictObject({
  ca: z.string().optional().meta({ description: 'PEM file of the authority that signed the server certificates; default: those of the system.' }),
  certificate: z.string().optional().meta({ description: "PEM file of the worker's own certificate and its key." }),
}).meta({ description: 'Encrypted connection; an empty mapping is enough for a public certificate.' });

export const mongodbBackupSchema = z.strictObject({
  include: selection.prefault({}).meta({ description: 'Only these; empty: everything but admin, local, config and system collections. What is named here and not there is an error.' }),
  exclude: selection.prefault({}).meta({ description: 'Not these.' }),
  tool: z.enum(['driver', 'mongodump']).default('driver').meta({ description: 'mongodump: its own program on PATH reads the documents; it cannot read several collections as of one moment.' }),
  consistency: z.enum(['preferred', 'required']).default('preferred').meta({ description: 'All collections as of one moment (replica set or sharded cluster of MongoDB 5.0 or newer). preferred: where the server cannot, each collection by itself, and the manifest says so; required: refuse.' }),
  from: z.enum(['primary', 'secondary', 'secondaryPreferred']).default('primary').meta({ description: 'Which member is read while a moment is held. A secondary spares the primary. Without one moment the primary is read in any case: a member that lags would show each collection of another time, or none.' }),
  compression: z.enum(['zstd', 'gzip']).default('zstd').meta({ description: 'gzip is what `mongorestore --gzip` reads by itself.' }),
  compressionLevel: z.int().min(1).max(19).default(3).meta({ description: 'zstd 1 to 19, gzip 1 to 9.' }),
  concurrency: z.int().min(1).max(16).default(2).meta({ description: 'Collections read at the same time.' }),
  batchDocuments: z.int().min(1).max(100_000).default(1000).meta({ description: 'Documents asked for at once. A server sends 16 MiB at most.' }),
  maxBytesPerSecond: sizeBytes.optional().meta({ description: 'Not more than this is read from the servers in a second, all collections together, e.g. 20MiB.' }),
  timeout: durationMs.prefault('12h').meta({ description: 'A backup that takes longer is ended and leaves nothing behind.' }),
  minimumSize: sizeBytes.prefault('0B').meta({ description: 'Fewer plain bytes are refused: it would mean that something is missing.' }),
}).superRefine((backup, context) => {
  if (backup.compression === 'gzip' && backup.compressionLevel > 9) context.addIssue({ code: 'custom', path: ['compressionLevel'], message: 'gzip knows the levels 1 to 9' });
  if (backup.tool === 'mongodump' && backup.consistency === 'required') context.addIssue({ code: 'custom', path: ['consistency'], message: 'mongodump reads collection by collection; use tool: driver' });
  if (backup.tool === 'mongodump' && backup.from !== 'primary') context.addIssue({ code: 'custom', path: ['from'], message: 'mongodump holds no moment, and a secondary that lags would show each collection of another time; use from: primary' });
});

export const mongodbRestoreSchema = z.strictObject({
  batchDocuments: z.int().min(1).max(100_000).default(1000).meta({ description: 'Documents inserted at once, 8 MiB at most.' }),
  concurrency: z.int().min(1).max(16).default(2).meta({ description: 'Collections written at the same time.' }),
  writeConcern: z.union([z.literal('majority'), z.int().min(1).max(50)]).default('majority').meta({ description: 'How many members must have a batch before the next one is sent.' }),
});

export const mongodbDrillSchema = z.strictObject({
  backup: z.enum(['newest', 'random']).default('newest').meta({ description: 'Which backup is restored.' }),
  timeout: durationMs.prefault('6h').meta({ description: 'A restore that takes longer has failed.' }),
  maxAge: durationMs.prefault('35d').meta({ description: 'An older last drill counts as a failed one.' }),
  server: argv.optional().meta({ description: 'Starts the server of a drill on the worker, on 127.0.0.1, in the foreground. {port}, {directory} and {socket} (a path for a Unix socket) are filled in. Default: mongod from PATH, without the deletion of expired documents.' }),
  uri: mongodbUri.optional().meta({ description: 'Instead: an existing server that is empty and belongs to drills only; everything restored there is dropped afterwards.' }),
  username: z.string().min(1).optional().meta({ description: 'User on the server of drill.uri.' }),
  password: secretReference.optional(),
  authSource: z.string().min(1).optional().meta({ description: 'Database of that user; default: admin.' }),
  tls: tls.optional(),
}).superRefine((drill, context) => {
  if (drill.server !== undefined && drill.uri !== undefined) context.addIssue({ code: 'custom', path: ['uri'], message: 'give one of server and uri' });
  if (drill.server !== undefined && !drill.server.some((word) => /\{(port|socket)\}/.test(word))) context.addIssue({ code: 'custom', path: ['server'], message: 'says nowhere on which {port} or {socket} it must listen' });
  if (drill.uri === undefined && (drill.username ?? drill.password ?? drill.authSource ?? drill.tls) !== undefined) context.addIssue({ code: 'custom', path: ['uri'], message: 'username, password, authSource and tls belong to uri' });
});

/** All but `retention`, which every engine has alike: config-schema.ts adds it. */
export const mongodbDatastoreFields = {
  engine: z.literal('mongodb'),
  uri: mongodbUri.meta({ description: 'mongodb://host:port,host:port/?replicaSet=rs0 or mongodb+srv://host/, without user and password.' }),
  username: z.string().min(1).optional().meta({ description: 'User that Holdfast logs in as: role backup for backups, backup and restore for restores.' }),
  password: secretReference.optional(),
  authSource: z.string().min(1).default('admin').meta({ description: 'Database of that user.' }),
  tls: tls.optional(),
  store: name.optional().meta({ description: 'Where its backups go: a name under stores.' }),
  backup: mongodbBackupSchema.prefault({}).meta({ description: 'What is read, and how.' }),
  restore: mongodbRestoreSchema.prefault({}).meta({ description: 'How documents are put back, also in drills.' }),
  drill: mongodbDrillSchema.prefault({}).meta({ description: 'How restores are rehearsed.' }),
} as const;

export type MongodbRestoreConfig = z.output<typeof mongodbRestoreSchema>;
