import { z } from 'zod';
import { name, secretReference } from './config-words.ts';

const searchClusterSchema = z.strictObject({
  url: z.url({ protocol: /^https?$/ }).meta({ description: 'Base URL by which workers reach it, without user and password.' }),
  username: z.string().optional().meta({ description: 'User on this cluster, when it differs.' }),
  password: secretReference.optional(),
  repository: z.string().min(1).optional().meta({ description: 'Name of the snapshot repository on this cluster, when it differs. A restoring cluster should have it registered as readonly.' }),
});

export const opensearchDatastoreSchema = z.strictObject({
  engine: z.literal('opensearch'),
  clusters: z.record(name, searchClusterSchema).refine((clusters) => Object.keys(clusters).length > 0, 'a datastore has at least one cluster').meta({ description: 'The cluster in service and those that can take its place.' }),
  username: z.string().optional().meta({ description: 'User.' }),
  password: secretReference.optional(),
  ca: z.string().optional().meta({ description: 'PEM file of the authority that signed the certificates; default: those of the system.' }),
  indices: z.array(z.string().regex(/^[^A-Z\s"*\\<>|,/?#:_+.-][^A-Z\s"*\\<>|,/?#:]*$/, 'expected the name of one index: lower case, no wildcard')).min(1).meta({ description: 'Indices that make it up: what is snapshotted, restored and counted.' }),
  repository: z.string().min(1).optional().meta({ description: 'Snapshot repository, registered on the clusters beforehand.' }),
});
