import { z } from 'zod';
import { name } from './config-words.ts';
import { durationMs, sizeBytes } from './units.ts';

/** What a price is per. GB as the table says (`gigabyte`). */
export const PRICE_UNITS = {
  'instance-hour': 'one hour of a database instance',
  'volume-gb-month': 'one GB of its volume for a month',
  'snapshot-gb-month': 'one GB of snapshots for a month',
  'object-gb-month': 'one GB in an object store for a month',
  'transfer-gb': 'one GB sent from one Region to another',
  'put-1000': 'a thousand writing requests to an object store',
} as const;
export type PriceUnit = keyof typeof PRICE_UNITS;
const UNIT_NAMES = Object.keys(PRICE_UNITS) as [PriceUnit, ...PriceUnit[]];

export const TIERS = ['warm-standby', 'pilot-light', 'snapshot-copy', 'dump-only'] as const;
export type Tier = (typeof TIERS)[number];

const decimal = z
  .union([z.string().regex(/^\d+(\.\d+)?$/, 'expected a decimal number such as 0.115'), z.number().min(0)])
  .meta({ description: 'A decimal number, also as text; calculated with exactly.' });
const region = z.string().min(1).optional();
const cloudClass = z.string().min(1).optional();
const count = z.int().min(1).max(100).default(1);

const quantitySchema = z.strictObject({
  name: z.string().min(1).meta({ description: 'What it is, for people.' }),
  unit: z.enum(UNIT_NAMES).meta({ description: 'Which price it is multiplied with.' }),
  quantity: decimal.meta({ description: 'How much of it a month.' }),
  class: cloudClass.meta({ description: 'Class the price is of.' }),
  region: region.meta({ description: "Default: the datastore's." }),
  to: region.meta({ description: 'transfer-gb: the other Region.' }),
  tiers: z.array(z.enum(TIERS)).min(1).default([...TIERS]).meta({ description: 'In which tiers it is needed.' }),
});

export const datastoreCostsSchema = z.strictObject({
  tier: z.enum(TIERS).optional().meta({ description: 'How it is protected now. Default: by the configuration: several nodes: warm-standby; managed snapshots: snapshot-copy; a store: dump-only.' }),
  region: region.meta({ description: 'Where the primary is; default: aws.region.' }),
  replica: z
    .strictObject({ class: z.string().min(1), count, region: region.meta({ description: "Default: the datastore's." }), volume: z.strictObject({ class: cloudClass, size: sizeBytes }).optional() })
    .optional()
    .meta({ description: 'warm-standby: the standby that can take the load at once.' }),
  pilot: z
    .strictObject({ class: z.string().min(1), count, resize: durationMs.optional().meta({ description: 'How long it takes to make it large enough for the load.' }) })
    .optional()
    .meta({ description: "pilot-light: a smaller standby in place of the replica, on the replica's volume and in its Region." }),
  snapshots: z
    .strictObject({
      size: sizeBytes.meta({ description: 'Size of the first one.' }),
      change: sizeBytes.prefault('0B').meta({ description: 'What each later one adds.' }),
      keep: z.int().min(1).meta({ description: 'How many are kept.' }),
      every: durationMs.meta({ description: 'Time between two.' }),
      copyTo: z.array(z.string().min(1)).default([]).meta({ description: 'Regions that each is copied to.' }),
      copy: durationMs.optional().meta({ description: 'How long a copy takes.' }),
      restore: durationMs.optional().meta({ description: 'How long a restore takes.' }),
    })
    .optional()
    .meta({ description: 'Managed snapshots.' }),
  changePerDay: sizeBytes.optional().meta({ description: 'Data changed a day (WAL): what a replica in another Region and a WAL archive receive.' }),
  walArchive: z
    .strictObject({ keep: durationMs, interval: durationMs.meta({ description: 'Longest time between a change and its arrival in the archive.' }), class: cloudClass, region: region.meta({ description: "Default: the datastore's." }), replay: durationMs.optional().meta({ description: 'How long the replay takes at most.' }) })
    .optional()
    .meta({ description: 'WAL archive beside snapshots or base backups.' }),
  storeClass: cloudClass.meta({ description: 'Class of the objects of its dumps, when prices differ by class.' }),
  also: z.array(quantitySchema).default([]).meta({ description: 'Anything else that its objectives cost.' }),
});
export type DatastoreCosts = z.output<typeof datastoreCostsSchema>;

export const costsSchema = z.strictObject({
  prices: z.string().min(1).default('prices.yaml').meta({ description: 'The price table, a file of yours; prices.example.yaml shows its form.' }),
  datastores: z.record(name, datastoreCostsSchema).default({}).meta({ description: 'What cannot be measured, by datastore.' }),
});

const priceSchema = z
  .strictObject({
    unit: z.enum(UNIT_NAMES),
    class: cloudClass.meta({ description: 'Only for this class; left out: any.' }),
    region: region.meta({ description: 'Only in this Region; left out: any. transfer-gb: where it comes from.' }),
    to: region.meta({ description: 'transfer-gb: only to this Region.' }),
    price: decimal,
  })
  .refine((price) => price.to === undefined || price.unit === 'transfer-gb', { message: 'only transfer-gb has `to`', path: ['to'] });

/** prices.yaml: whose prices, in which currency, of which day. */
export const priceTableSchema = z.strictObject({
  currency: z.string().regex(/^[A-Z]{3}$/, 'expected three letters such as USD').meta({ description: 'ISO 4217.' }),
  decimals: z.int().min(0).max(4).default(2).meta({ description: 'Decimals that amounts are shown with.' }),
  asOf: z.string().regex(/^\d{4}-\d{2}-\d{2}$/, 'expected a day such as 2026-11-21').meta({ description: 'The day these prices were looked up.' }),
  source: z.string().min(1).meta({ description: 'Where they come from, for whoever reads the result.' }),
  gigabyte: sizeBytes.prefault('1GiB').meta({ description: 'What the provider bills as a GB: 1GiB or 1GB.' }),
  monthHours: z.int().min(1).max(744).default(730).meta({ description: 'Hours of a month.' }),
  prices: z.array(priceSchema).min(1),
});
export type PriceTable = z.output<typeof priceTableSchema>;
