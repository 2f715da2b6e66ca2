import { z } from 'zod';
import { argv } from '../config-words.ts';
import { datastore, kind, lateNode, node, type Permission, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

/** Of the store that holds snapshots, when it is a bucket. */
const reads: readonly Permission[] = [
  { action: 's3:ListBucket', on: 'cacheBucket' },
  { action: 's3:GetObject', on: 'cacheSnapshots' },
];

export const cacheKinds: Readonly<Record<string, StepKind>> = {
  'redis.snapshot': kind({
    summary: "Takes a snapshot (RDB file) of a Redis as a replica does, without host access, into the store of the datastore's `snapshots`; read to its end and checked while it is stored.",
    input: z.strictObject({ datastore, node }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 6 * 3_600_000,
    verifyMs: 300_000,
    permissions: [...reads, { action: 's3:PutObject', on: 'cacheSnapshots' }, { action: 's3:AbortMultipartUpload', on: 'cacheSnapshots' }],
    facts: { snapshot: 'name of the snapshot', keys: 'keys in it', bytes: 'its size', snapshotAtMs: 'epoch milliseconds, of the moment that it shows' },
  }),
  'redis.substitute': kind({
    summary: 'Makes an empty Redis ready to take the place of a lost one: filled from a snapshot, key by key and counted, or cold. No application knows it yet.',
    input: z.strictObject({
      datastore,
      node,
      from: z.enum(['snapshot', 'cold']).default('snapshot').meta({ description: '`cold`: it stays empty and is only shown to be a healthy primary; `redis.warmUp` fills it once it is in service.' }),
      snapshot: z.string().min(1).default('newest').meta({ description: "`newest`, or the name of a file in the folder of the datastore's `snapshots`." }),
      maxAge: durationMs.optional().meta({ description: 'A snapshot older than this is refused before anything changes.' }),
      minimumKeys: z.int().min(0).default(1).meta({ description: 'A snapshot that gives fewer keys is not believed.' }),
      maxmemoryPolicy: z.string().optional().meta({ description: 'What maxmemory-policy must be, e.g. allkeys-lru.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    applyMs: 6 * 3_600_000,
    verifyMs: 60_000,
    permissions: reads,
    facts: {
      snapshot: 'name of the snapshot',
      keys: 'keys there when all was restored',
      expiredBefore: 'keys of the snapshot that had expired by then',
      expiring: 'keys of it that will expire',
      expiredKeys: "the server's own count of expired keys at that time",
      evictedKeys: "the server's own count of evicted keys at that time",
      runId: 'run of the server that these counts belong to',
      restoreMs: 'milliseconds that it took',
      snapshotAtMs: 'epoch milliseconds, of the moment that the snapshot shows',
      snapshotAgeMs: 'age of the snapshot when it was restored: what was written since is lost',
    },
  }),
  'redis.promote': kind({
    summary: 'Makes a replica the primary. Planned: FAILOVER, which holds writes until the replica has them all and makes the old primary its replica. Forced: REPLICAOF NO ONE.',
    input: z.strictObject({
      datastore,
      primary: lateNode,
      candidate: lateNode,
      maxLagBytes: z.int().min(0).default(16 * 1024 * 1024).meta({ description: 'Planned: a replica further behind is refused before anything changes.' }),
      timeout: durationMs.prefault('10s').meta({ description: 'Planned: how long writes may be held. Afterwards Redis gives up by itself, and nothing has changed.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    disruptive: true,
    askedAgain: true,
    applyMs: 120_000,
    verifyMs: 60_000,
    facts: {
      promotedAtMs: 'epoch milliseconds, worker clock',
      heldMs: 'planned: milliseconds from FAILOVER to the new primary',
      offset: "replication offset of the candidate when it was promoted",
      linkDownSeconds: 'forced: for how long the candidate had heard nothing; what was written in that time may be lost',
    },
  }),
  'redis.warmUp': kind({
    summary: 'Warms a cold cache by the way that fills it in daily use: HTTP requests to the application, at a limited rate.',
    input: z
      .strictObject({
        datastore: datastore.optional(),
        node: lateNode.meta({ description: 'Whose keys are counted for minimumKeys.' }),
        urls: z.array(z.url({ protocol: /^https?$/ })).default([]).meta({ description: 'Asked by GET; 2xx is success.' }),
        url: z.string().optional().meta({ description: 'Asked for each item, with `{item}` in place of it.' }),
        items: z.array(z.string()).optional().meta({ description: 'Items for `url`.' }),
        command: argv.optional().meta({ description: 'A command (argument vector, no shell) that prints the items, one a line.' }),
        query: z.string().optional().meta({ description: 'One SELECT that gives the items in its first column, asked of `database`.' }),
        database: z.string().optional().meta({ description: 'Datastore of engine postgres for `query`.' }),
        databaseNode: z.string().optional().meta({ description: "Its node; default: where the application's secret points to." }),
        limit: z.int().min(1).max(1_000_000).default(10_000).meta({ description: 'At most this many items are taken.' }),
        ratePerSecond: z.number().min(0.1).max(10_000).default(50).meta({ description: 'Requests a second.' }),
        concurrency: z.int().min(1).max(100).default(8).meta({ description: 'Requests on their way at the same time.' }),
        allowFailed: z.number().min(0).max(1).default(0.01).meta({ description: 'Share of requests that may fail.' }),
        minimumKeys: z.int().min(0).default(0).meta({ description: 'Keys that must be in the cache afterwards.' }),
        timeout: durationMs.prefault('30m').meta({ description: 'When the rest is left.' }),
      })
      .refine((input) => (input.query === undefined) === (input.database === undefined), { message: '`query` needs `database`, and the other way round' })
      .refine((input) => (input.url !== undefined) === ([input.items, input.command, input.query].filter((given) => given !== undefined).length === 1), { message: '`url` needs exactly one of `items`, `command` and `query`' })
      .refine((input) => input.url === undefined || input.url.includes('{item}'), { message: '`url` has no `{item}`' })
      .refine((input) => input.minimumKeys === 0 || (input.datastore !== undefined && input.node !== undefined), { message: '`minimumKeys` needs `datastore` and `node`' }),
    phases: ['guard', 'apply', 'verify'],
    skippable: true,
    applyMs: 6 * 3_600_000,
    attempts: 2,
    facts: { requests: 'requests made', failed: 'how many did not answer 2xx', left: 'how many were not made in time', warmedMs: 'milliseconds that it took' },
  }),
};
