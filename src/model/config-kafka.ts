import { z } from 'zod';
import { name, secretReference } from './config-words.ts';

export const kafkaSchema = z.record(
  name,
  z.strictObject({
    brokers: z.array(z.string().regex(/^[^\s:/]+:\d{1,5}$/, 'expected host:port')).min(1).meta({ description: 'Bootstrap brokers, host:port.' }),
    tls: z
      .strictObject({
        ca: z.string().optional().meta({ description: 'PEM file of the authority that signed the broker certificates; default: those of the system.' }),
        serverName: z.string().optional().meta({ description: 'Name that the certificates must carry, when it differs from the host.' }),
      })
      .optional()
      .meta({ description: 'Encrypted connection; an empty mapping is enough for a public certificate.' }),
    sasl: z
      .strictObject({
        mechanism: z.enum(['PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512']).meta({ description: 'How the password is shown to the broker.' }),
        username: z.string().min(1).meta({ description: 'User.' }),
        password: secretReference,
      })
      .optional()
      .meta({ description: 'Login.' }),
  }),
);
