import { z } from 'zod';
import { datastore, kind, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

const cluster = z.string().optional().meta({ description: 'Cluster of the datastore; may be left out when it has one.' });
const sqlSource = {
  query: z.string().optional().meta({ description: 'One SELECT, asked of `database`; each row is a document.' }),
  database: z.string().optional().meta({ description: 'Datastore of engine postgres.' }),
  databaseNode: z.string().optional().meta({ description: "Its node; default: where the application's secret points to." }),
  id: z.string().regex(/^[a-z_][a-z0-9_]*$/).default('id').meta({ description: 'Column that holds the document id; unique and not null.' }),
};

export const searchKinds: Readonly<Record<string, StepKind>> = {
  'search.snapshot': kind({
    summary: "Takes a snapshot of the datastore's indices into its repository, waits for it, and records how many documents were in them.",
    input: z.strictObject({ datastore, cluster, wait: durationMs.prefault('2h').meta({ description: 'How long it may take.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 3 * 3_600_000,
    facts: { snapshot: 'name of the snapshot', documents: 'documents counted when it began', shards: 'shards in it' },
  }),
  'search.restore': kind({
    summary: 'Restores the indices from a snapshot, the newest good one or by name, and proves the documents by counting them. An index that is there is never touched.',
    input: z.strictObject({
      datastore,
      cluster,
      snapshot: z.string().min(1).default('newest').meta({ description: '`newest`: the newest complete one that has every index; or a name.' }),
      as: z.enum(['own', 'renamed']).default('own').meta({ description: '`renamed`: beside the index that is there, as <index>-<hash of the run>; search.alias then switches.' }),
      maxAge: durationMs.optional().meta({ description: 'A snapshot older than this is refused before anything changes.' }),
      replicas: z.int().min(0).max(10).optional().meta({ description: 'Number of replicas; default: as in the snapshot.' }),
      uncounted: z.boolean().default(false).meta({ description: 'Accept a snapshot that carries no counts, since somebody else took it: then only its shards are proved. Count it by search.verify.' }),
      wait: durationMs.prefault('4h').meta({ description: 'How long it may take.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    applyMs: 6 * 3_600_000,
    verifyMs: 120_000,
    facts: {
      snapshot: 'name of the snapshot',
      indices: 'names of the restored indices',
      index: 'name of the first of them, for search.alias',
      documents: 'documents counted when all was restored',
      operations: 'sum of sequence numbers at that time: another one later means that somebody writes',
      recorded: 'documents that the snapshot says it has, null when it says nothing',
      between: 'operations that came between the count and the snapshot: by so many the count may differ',
      restoreMs: 'milliseconds that it took',
      snapshotAgeMs: 'age of the snapshot when it was restored: what was indexed since is missing',
    },
  }),
  'search.reindex': kind({
    summary: 'Fills an index from another index, or from rows of PostgreSQL in bulk; each document that is refused is named.',
    input: z
      .strictObject({
        datastore,
        cluster,
        into: z.string().min(1).meta({ description: 'Index to be filled: new, empty, or left by a killed attempt.' }),
        fromIndex: z.string().min(1).optional().meta({ description: 'Index on the same cluster.' }),
        ...sqlSource,
        settings: z.record(z.string(), z.unknown()).default({}).meta({ description: 'Settings of the new index.' }),
        mappings: z.record(z.string(), z.unknown()).default({}).meta({ description: 'Mappings of the new index.' }),
        batch: z.int().min(1).max(10_000).default(1000).meta({ description: 'Rows of one bulk request.' }),
        wait: durationMs.prefault('6h').meta({ description: 'How long it may take.' }),
      })
      .refine((input) => (input.fromIndex === undefined) !== (input.query === undefined), { message: 'give either `fromIndex`, or `query` with `database`' })
      .refine((input) => (input.query === undefined) === (input.database === undefined), { message: '`query` needs `database`, and the other way round' }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    applyMs: 8 * 3_600_000,
    verifyMs: 120_000,
    facts: { index: 'index that was filled', documents: 'documents in it at the end', indexed: 'documents that were written', reindexMs: 'milliseconds that it took' },
  }),
  'search.alias': kind({
    summary: 'Points an alias to another index, in one atomic change that is refused when it points elsewhere than expected.',
    input: z.strictObject({
      datastore,
      cluster,
      alias: z.string().min(1),
      index: z.string().optional().meta({ description: 'Index that the alias shall point to; may come up on the way.' }),
      from: z.array(z.string()).optional().meta({ description: 'Where it must point now; default: wherever it does.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    disruptive: true,
    facts: { alias: 'alias', index: 'index it points to', previous: 'indices it pointed to before' },
  }),
  'search.verify': kind({
    summary: 'Proves the documents of an index after a refresh: every shard answers, the count is that of a query or a number, and the ids are there, all or a sample.',
    input: z
      .strictObject({
        datastore,
        cluster,
        index: z.string().optional().meta({ description: 'Index or alias; default: all indices of the datastore together.' }),
        documents: z.int().min(0).optional().meta({ description: 'How many there must be.' }),
        atLeast: z.int().min(0).optional().meta({ description: 'How many there must be at least.' }),
        ...sqlSource,
        ids: z.enum(['none', 'sample', 'full']).default('sample').meta({ description: 'Which ids of the query are looked up. With `full` and equal counts both hold exactly the same ids.' }),
        sampleSize: z.int().min(1).max(1_000_000).default(1000).meta({ description: 'Ids of a sample, chosen by a hash: another one in each run.' }),
        maxDifference: z.int().min(0).default(0).meta({ description: 'By how many the counts, and the ids, may differ: what is being written meanwhile.' }),
        wait: durationMs.prefault('0s').meta({ description: 'How long it is looked again before it counts as wrong: an index that is fed a little later.' }),
      })
      .refine((input) => (input.query === undefined) === (input.database === undefined), { message: '`query` needs `database`, and the other way round' })
      .refine((input) => input.documents !== undefined || input.atLeast !== undefined || input.query !== undefined, { message: 'nothing to compare with: give `documents`, `atLeast`, or `query` with `database`' }),
    phases: ['guard', 'verify'],
    skippable: true,
    verifyMs: 2 * 3_600_000,
    facts: { documents: 'documents counted', expected: 'documents expected', idsChecked: 'ids looked up', idsHow: 'full, sample or none' },
  }),
};
