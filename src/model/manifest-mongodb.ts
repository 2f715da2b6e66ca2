import { z } from 'zod';
import { manifestCommon, objectEntrySchema, time } from './manifest-parts.ts';

const sums = { documents: z.string(), bytes: z.string(), sum1: z.string(), sum2: z.string() };
const definition = {
  database: z.string(),
  name: z.string(),
  /** As the server shows them, canonical Extended JSON, keys in their order. */
  options: z.string(),
  /** What `create` needs, as BSON in base64: JSON readers put keys that are numbers into another order. */
  optionsBson: z.string(),
  /** The object beside the documents that mongorestore reads. */
  metadata: z.string().optional(),
};

export const mongodbCollectionSchema = z.strictObject({
  ...definition,
  kind: z.literal('collection'),
  capped: z.boolean(),
  uuid: z.string().nullable(),
  indexes: z.array(z.strictObject({ name: z.string(), text: z.string(), bson: z.string() })),
  ...sums,
  /** Hex SHA-256 of all documents in their order: a capped collection is its order too. */
  orderedSha256: z.string().optional(),
  /** The object with the documents. */
  data: z.string().optional(),
});

export const mongodbViewSchema = z.strictObject({ ...definition, kind: z.literal('view'), viewOn: z.string() });

export const mongodbFingerprintSchema = z.strictObject({
  /** Sums of the first two 64-bit words of each raw document's SHA-256. */
  method: z.literal('sha256-sum/1'),
  collections: z.array(mongodbCollectionSchema),
  views: z.array(mongodbViewSchema),
});

export const CONSISTENCIES = ['snapshot', 'per collection'] as const;

export const mongodbSourceSchema = z.strictObject({
  hosts: z.array(z.string()),
  topology: z.enum(['standalone', 'replica set', 'sharded']),
  replicaSet: z.string().nullable(),
  serverVersion: z.string(),
  /** `snapshot`: all documents as of one moment. `per collection`: each collection was read by itself while writers went on. */
  consistency: z.enum(CONSISTENCIES),
  /** Why it is not a snapshot, where it is not; of a snapshot, which collections are not of its moment. */
  consistencyNote: z.string().nullable(),
  /** `<seconds>,<increment>` of the cluster time. */
  atClusterTime: z.string().nullable(),
});

const names = z.strictObject({ databases: z.array(z.string()), collections: z.array(z.string()) });
export const mongodbSelectionSchema = z.strictObject({ complete: z.boolean(), include: names, exclude: names });

export const mongodbManifestSchema = z.strictObject({
  format: z.literal(3),
  engine: z.literal('mongodb'),
  ...manifestCommon,
  source: mongodbSourceSchema,
  selection: mongodbSelectionSchema,
  fingerprint: mongodbFingerprintSchema,
});

const begunName = z.strictObject({
  database: z.string(),
  name: z.string(),
  /** SHA-256 of its uuid, options and indexes at the moment; a later one belongs to other documents. */
  definition: z.string().optional(),
  /** Capped, on a server that shows such collections as they are now only: read without the moment. */
  alone: z.boolean().optional(),
});
/** `state/begun.json` of a backup under way: what all its attempts have in common. */
export const mongodbBegunSchema = z.strictObject({ format: z.literal(1), startedAt: time, atClusterTime: z.string().nullable(), note: z.string().nullable(), names: z.array(begunName), views: z.array(begunName).optional() });
/** `state/<attempt>-<n>.json`: a collection that need not be read again, and the objects it lies in. */
export const mongodbDoneSchema = z.strictObject({ format: z.literal(1), collection: mongodbCollectionSchema, atClusterTime: z.string().nullable(), alone: z.boolean().optional(), objects: z.array(objectEntrySchema) });

export type MongodbManifest = z.infer<typeof mongodbManifestSchema>;
export type MongodbBegun = z.infer<typeof mongodbBegunSchema>;
export type MongodbDone = z.infer<typeof mongodbDoneSchema>;
export type MongodbCollection = z.infer<typeof mongodbCollectionSchema>;
export type MongodbView = z.infer<typeof mongodbViewSchema>;
export type MongodbFingerprint = z.infer<typeof mongodbFingerprintSchema>;
export type MongodbSelection = z.infer<typeof mongodbSelectionSchema>;

export const FINGERPRINT_METHOD = 'sha256-sum/1';
