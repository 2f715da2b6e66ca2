import { z } from 'zod';
import { name, port, secretReference } from './config-words.ts';

const redisNodeSchema = z.strictObject({
  host: z.string().min(1).meta({ description: 'Address by which workers reach the server.' }),
  port: port.default(6379).meta({ description: 'Its port.' }),
  applicationHost: z.string().optional().meta({ description: 'Address by which the application reaches this node, when it differs from host.' }),
  applicationPort: port.optional().meta({ description: 'Its port, when it differs from port.' }),
  username: z.string().optional().meta({ description: 'ACL user on this node, when it differs.' }),
  password: secretReference.optional(),
});

export const redisDatastoreSchema = z.strictObject({
  engine: z.literal('redis'),
  nodes: z.record(name, redisNodeSchema).refine((nodes) => Object.keys(nodes).length > 0, 'a datastore has at least one node').meta({ description: 'Every server: the one in service, its replicas, the substitute of another Region.' }),
  username: z.string().optional().meta({ description: 'ACL user; default: the default user.' }),
  password: secretReference.optional(),
  tls: z
    .strictObject({
      ca: z.string().optional().meta({ description: 'PEM file of the authority that signed the server certificates; default: those of the system.' }),
      serverName: z.string().optional().meta({ description: 'Name that the certificates must carry, when it differs from host.' }),
    })
    .optional()
    .meta({ description: 'Encrypted connection; an empty mapping is enough for a public certificate.' }),
  endpoint: z.strictObject({ secret: z.string().min(1).meta({ description: "Secrets Manager id of the application's connection secret (JSON: host, port, ...)." }) }).optional().meta({ description: 'How the application finds the cache.' }),
  snapshots: z
    .strictObject({
      store: name.meta({ description: 'A name under stores.' }),
      prefix: z.string().min(1).meta({ description: "Folder below the store's prefix; every *.rdb in it is a snapshot, also one that a cloud exported." }),
    })
    .optional()
    .meta({ description: 'Where snapshots (RDB files) lie.' }),
});
