import { z } from 'zod';
import { assumeRole, awsCredentials } from './config-words.ts';
import { lifecycleSchema, s3ExpectSchema, s3RestoreSchema } from './config-s3.ts';

/** Datastores that are no database servers of their own: what is checked, restored or replaced when a Region is lost. */
export const s3DatastoreSchema = z.strictObject({
  engine: z.literal('s3'),
  bucket: z.string().min(1).meta({ description: 'Bucket.' }),
  prefix: z.string().default('').meta({ description: 'Only what lies below this.' }),
  region: z.string().optional().meta({ description: 'Default: aws.region.' }),
  endpoint: z.url().optional().meta({ description: 'Endpoint of an S3-compatible store; default: Amazon S3.' }),
  forcePathStyle: z.boolean().default(false).meta({ description: 'The bucket stands in the path instead of the host name.' }),
  credentials: awsCredentials.optional().meta({ description: "Static credentials; without them the SDK's own chain is used." }),
  assumeRole: assumeRole.optional().meta({ description: 'A role that is assumed first, by these credentials: a bucket of another account.' }),
  versionTime: z.enum(['stamp', 'ulid']).default('stamp').meta({ description: "When a version was written, for restores to a moment: the store's stamp (Amazon S3), or the version id where it is a ULID (VersityGW, which stamps a version anew when it is replaced)." }),
  expect: s3ExpectSchema,
  restore: s3RestoreSchema,
  lifecycle: lifecycleSchema,
});
