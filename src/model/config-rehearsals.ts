import { z } from 'zod';
import { name } from './config-words.ts';
import { durationMs } from './units.ts';

/** A rehearsal that is held again and again; its schedule is made by `holdfast schedules sync`. */
export const rehearsalSchema = z
  .strictObject({
    name: name.meta({ description: 'Its name within the service.' }),
    every: z.enum(['monthly', 'quarterly', 'half-yearly']).meta({ description: 'How often it is held.' }),
    runbook: name.optional().meta({ description: 'Runbook that is run for the service; or give drill.' }),
    drill: name.optional().meta({ description: 'Datastore of the service whose backup is restored; or give runbook.' }),
    mode: z.enum(['planned', 'forced']).default('planned').meta({ description: 'Mode of the runbook.' }),
    parameters: z.record(z.string(), z.unknown()).default({}).meta({ description: "Values for the runbook's parameters." }),
    month: z.int().min(1).max(12).default(1).meta({ description: 'A month in which it is held; the others follow from it: 2 and quarterly are February, May, August and November.' }),
    day: z.int().min(1).max(28).default(1).meta({ description: 'Day of the month.' }),
    time: z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'expected a time of day such as 03:00').default('03:00').meta({ description: 'Time of day.' }),
    timezone: z.string().default('UTC').meta({ description: 'Where day and time are read. IANA name.' }),
    grace: durationMs.prefault('7d').meta({ description: 'So long after it was due it is overdue, and readiness says so.' }),
    scheduled: z.boolean().default(true).meta({ description: 'false: people start it themselves, e.g. a Region day; when it is due is watched all the same.' }),
  })
  .refine((entry) => (entry.runbook === undefined) !== (entry.drill === undefined), { message: 'give either runbook or drill' });

export type RehearsalConfig = z.output<typeof rehearsalSchema>;
