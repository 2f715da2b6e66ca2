import { z } from 'zod';
import { name } from './config-words.ts';

/** What a drill may break, and whether it may where it hurts. Nothing is allowed that is not named. */
export const chaosSchema = z
  .strictObject({
    allowed: z.array(z.enum(['killPrimary', 'pod', 'proxyLink'])).min(1).meta({ description: 'What a chaos drill of this service may break.' }),
    production: z.boolean().default(false).meta({ description: 'It may also where the environment is production, and then only after somebody other than the requester has approved the run.' }),
    links: z
      .record(name, z.strictObject({ api: z.url({ protocol: /^https?$/ }).meta({ description: 'Base URL of the API of Toxiproxy.' }), proxy: z.string().min(1).meta({ description: 'Name of the proxy there.' }) }))
      .default({})
      .meta({ description: 'Network links that go through Toxiproxy and may be cut or slowed.' }),
  })
  .meta({ description: 'Chaos drills of this service.' });

/** The default environment is called production: whoever names none has production. */
export function isProduction(environment: string): boolean {
  return /(^|-)\w*(prod|production|prd|live)\d*(-|$)/.test(environment);
}
