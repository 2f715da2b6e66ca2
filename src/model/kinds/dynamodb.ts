import { z } from 'zod';
import { MOMENT_PATTERN } from '../s3-versions.ts';
import { allow, kind, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

const tableName = z.string().regex(/^[A-Za-z0-9_.-]{3,255}$/, 'expected a table name: 3 to 255 letters, digits, _ - or .');
/** Two places: where it is read, and where it is written. Only the latter is locked. */
const copyInputs = {
  source: z.string().min(1).meta({ description: 'Datastore of engine dynamodb that the table is read from; nothing of it is changed.' }),
  table: tableName.meta({ description: 'The table that is copied.' }),
  datastore: z.string().min(1).meta({ description: 'Datastore of engine dynamodb that the copy is written to: its Region, endpoint and credentials, or role.' }),
  targetTable: tableName.optional().meta({ description: 'Name of the copy; default: the same name.' }),
};
const position = z.unknown().optional().meta({ description: 'How far the stream is applied: ${steps.<id>.position} of the step that copied or followed before.' });
const poll = durationMs.prefault('1s').meta({ description: 'Pause before a shard that gave nothing is asked again. DynamoDB allows five reads a second of a shard, for all its readers.' });

const readsSource = allow('sourceTable', 'dynamodb:DescribeTable', 'dynamodb:Scan');
const seesTarget = allow('copyTable', 'dynamodb:DescribeTable', 'dynamodb:DescribeTimeToLive');
const readsStream = allow('sourceStream', 'dynamodb:DescribeStream', 'dynamodb:GetShardIterator', 'dynamodb:GetRecords');
const writesTarget = allow('copyTable', 'dynamodb:BatchWriteItem');

export const dynamodbKinds: Readonly<Record<string, StepKind>> = {
  'dynamodb.createTarget': kind({
    summary: "Creates the table of a copy with the source's keys, indexes and capacity; without time to live, stream and tags, which dynamodb.settings brings when the copy is exact. One that is there is held against the source, never changed.",
    input: z.strictObject(copyInputs),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 3_600_000,
    verifyMs: 60_000,
    permissions: [...allow('sourceTable', 'dynamodb:DescribeTable'), ...seesTarget, ...allow('copyTable', 'dynamodb:CreateTable')],
    facts: { table: 'name of the copy', arn: 'its ARN' },
  }),
  'dynamodb.copy': kind({
    summary: 'Copies every item of a table by a parallel scan, with a share of the read capacity of one and of the write capacity of the other, into an empty table with the same keys. Goes on where a lost worker stopped, segment by segment. With follow: the position in the stream is taken before the scan begins.',
    input: z.strictObject({
      ...copyInputs,
      position: z.unknown().optional().meta({ description: 'The position of an earlier run that copied these very tables and failed later: nothing is read again, and the stream is applied from there. Refused when the copy has a stream or time to live: it was given its settings, and people may write to it.' }),
      follow: z.boolean().default(true).meta({ description: 'The table is written to meanwhile: dynamodb.follow comes next. Reads consistently, which costs twice the capacity.' }),
      parallel: z.int().min(1).max(64).default(4).meta({ description: 'Segments that are read at the same time.' }),
      segments: z.int().min(1).max(20_000).optional().meta({ description: 'Parts of the scan: a lost worker repeats only those that it had begun. Default: by the size of the table, about 64 MB each.' }),
      readShare: z.number().gt(0).max(1).optional().meta({ description: "Of the source's read capacity; default: as its datastore says." }),
      writeShare: z.number().gt(0).max(1).optional().meta({ description: "Of the target's write capacity; default: as its datastore says." }),
    }),
    phases: ['inspect', 'guard', 'apply'],
    applyMs: 48 * 3_600_000,
    attempts: 10,
    permissions: [...readsSource, ...allow('copyTable', 'dynamodb:Scan'), ...seesTarget, ...allow('sourceStream', 'dynamodb:DescribeStream'), ...writesTarget],
    facts: {
      items: 'items that were written by the scan; those of a segment that was repeated count once',
      segments: 'parts of the scan',
      repeated: 'segments that a lost worker had begun and that were read again',
      position: 'position in the stream before the scan, null without follow',
      readUnits: 'read units that the last attempt used',
      writeUnits: 'write units that the last attempt used',
      startedAt: 'when the position was taken',
    },
  }),
  'dynamodb.follow': kind({
    summary: "Applies the source's stream to the copy, each key in order, from a position on. `caughtUp` ends when little is behind, while people write; `drained` when the writers have stopped and everything up to then is applied. Says so and ends when records may have gone before they were read.",
    input: z.strictObject({
      ...copyInputs,
      position,
      until: z.enum(['caughtUp', 'drained']).meta({ description: 'caughtUp: no shard is further behind than maxBehind. drained: the writers have stopped, and every shard is read to its end.' }),
      maxBehind: durationMs.prefault('2m').meta({ description: 'For caughtUp.' }),
      quiet: durationMs.prefault('10s').meta({ description: 'For drained: how long each shard must have given nothing.' }),
      patience: durationMs.prefault('30m').meta({ description: 'For drained: so long it drains once more when changes were made after it began. Then the step fails.' }),
      poll,
      writeShare: z.number().gt(0).max(1).optional().meta({ description: "Of the target's write capacity; default: as its datastore says." }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 48 * 3_600_000,
    attempts: 10,
    permissions: [...allow('sourceTable', 'dynamodb:DescribeTable'), ...readsStream, ...seesTarget, ...writesTarget],
    facts: {
      position: 'how far the stream is applied now',
      applied: 'records that the last attempt applied',
      behindMs: 'age of the oldest change that may not be applied yet',
      afterStop: 'for drained: changes made after it began to drain for the last time, not counting those of time to live; 0 when the writers had stopped',
      stoppedAt: 'for drained: when it began to drain for the last time',
      late: 'for drained: changes made since the step began; all of them are applied',
    },
  }),
  'dynamodb.verifyCopy': kind({
    summary: 'Reads both tables to their end, consistently and throttled, and compares them item by item through order-free sums. With a position it drains the stream first, and once more when they differ: what came late, by a writer or by time to live, is no reason to fail. When they differ still it finds out which keys, up to a number. The counts that DynamoDB stores are hours old and never used.',
    input: z.strictObject({
      ...copyInputs,
      position,
      quiet: durationMs.prefault('10s').meta({ description: 'With position: how long each shard must have given nothing.' }),
      poll,
      rounds: z.int().min(1).max(20).default(3).meta({ description: 'With position: at most so often both are read; again only when the stream has brought a change since.' }),
      writeShare: z.number().gt(0).max(1).optional().meta({ description: "With position: of the target's write capacity; default: as its datastore says." }),
      parallel: z.int().min(1).max(64).default(4).meta({ description: 'Segments that are read at the same time, of each table.' }),
      show: z.int().min(1).max(100).default(20).meta({ description: 'At most this many keys that differ are named.' }),
      readShare: z.number().gt(0).max(1).optional().meta({ description: 'Of the read capacity of both; default: as their datastores say.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 48 * 3_600_000,
    attempts: 10,
    permissions: [...readsSource, ...allow('sourceTable', 'dynamodb:GetItem'), ...readsStream, ...seesTarget, ...allow('copyTable', 'dynamodb:Scan', 'dynamodb:GetItem'), ...writesTarget],
    facts: { same: 'every item is in both, the same', difference: 'what differs, in words', position: 'with position: how far the stream is applied', late: 'with position: changes that it applied', rounds: 'how often both were read', items: 'items of the source', sum: 'order-free sum of all items', targetItems: 'items of the copy', targetSum: 'the same of the copy', differing: 'keys that differ, up to the number that is shown' },
  }),
  'dynamodb.settings': kind({
    summary: "Gives a copy, or a restored table, what the service does not bring along: time to live, stream, point-in-time recovery, tags and deletion protection, as the source has them; reads them back.",
    input: z.strictObject({ ...copyInputs, stream: z.boolean().default(true).meta({ description: "Turn on a stream of the source's view." }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 1_800_000,
    verifyMs: 120_000,
    permissions: [
      ...allow('sourceTable', 'dynamodb:DescribeTable', 'dynamodb:DescribeTimeToLive', 'dynamodb:DescribeContinuousBackups', 'dynamodb:ListTagsOfResource'),
      ...seesTarget,
      ...allow('copyTable', 'dynamodb:DescribeContinuousBackups', 'dynamodb:ListTagsOfResource', 'dynamodb:UpdateTable', 'dynamodb:UpdateTimeToLive', 'dynamodb:UpdateContinuousBackups', 'dynamodb:TagResource'),
    ],
    facts: { set: 'what was set', unsupported: 'what the server does not know, so that it was left' },
  }),
  'dynamodb.marker': kind({
    summary: "Writes one item of its own into a table, `before`, and when that is a while ago, `after`; something by which a restored table shows which moment it is of. dynamodb.removeMarker takes it away, and so does a run that goes back.",
    input: z.strictObject({ datastore: copyInputs.datastore, table: tableName, apart: durationMs.prefault('2s').meta({ description: 'Time between the two, in the middle of which is the moment. DynamoDB restores to the second.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    permissions: allow('copyTable', 'dynamodb:DescribeTable', 'dynamodb:GetItem', 'dynamodb:PutItem', 'dynamodb:DeleteItem'),
    facts: { key: 'its key', before: 'what a restored table must hold', after: 'what it must not hold', moment: 'the moment between them' },
  }),
  'dynamodb.removeMarker': kind({
    summary: 'Deletes the item that dynamodb.marker wrote; an item of anybody else is never deleted.',
    input: z.strictObject({ datastore: copyInputs.datastore, table: tableName, key: z.unknown().optional().meta({ description: '${steps.<id>.key} of dynamodb.marker.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    permissions: allow('copyTable', 'dynamodb:DescribeTable', 'dynamodb:GetItem', 'dynamodb:DeleteItem'),
    facts: {},
  }),
  'dynamodb.restoreToMoment': kind({
    summary: "Restores a table to a moment, into a new table beside it, and waits for it. Reads it to its end, and the marker where one was written. A table that is there is never touched.",
    input: z.strictObject({
      datastore: copyInputs.datastore,
      table: tableName.meta({ description: 'The table whose past is restored.' }),
      as: tableName.meta({ description: 'Name of the new table; a drill names it holdfast-moment-...' }),
      moment: z.string().regex(MOMENT_PATTERN, 'expected a time with its zone, such as 2026-11-21T03:15:00Z').optional().meta({ description: 'ISO 8601 with a time zone; default: the newest that can be restored.' }),
      wait: durationMs.prefault('12h').meta({ description: 'How long the service may take until the moment can be restored, and until the table is there.' }),
      poll: durationMs.prefault('20s').meta({ description: 'Pause between two looks.' }),
      markerKey: z.unknown().optional().meta({ description: '${steps.<id>.key} of dynamodb.marker.' }),
      markerBefore: z.string().optional().meta({ description: 'What the marker must hold: ${steps.<id>.before}.' }),
      markerAfter: z.string().optional().meta({ description: 'What it must not hold: ${steps.<id>.after}.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 24 * 3_600_000,
    verifyMs: 24 * 3_600_000,
    permissions: [...allow('copyTable', 'dynamodb:DescribeTable', 'dynamodb:DescribeContinuousBackups', 'dynamodb:RestoreTableToPointInTime'), ...allow('restoredTable', 'dynamodb:DescribeTable', 'dynamodb:Scan', 'dynamodb:GetItem', 'dynamodb:RestoreTableToPointInTime', 'dynamodb:BatchWriteItem', 'dynamodb:PutItem', 'dynamodb:UpdateItem', 'dynamodb:DeleteItem', 'dynamodb:Query')],
    facts: { table: 'name of the new table', moment: 'the moment it is of', restoreMs: 'milliseconds that it took', items: 'items that were read', sum: 'order-free sum of them', proved: 'what was shown of the moment' },
  }),
  'dynamodb.removeRestored': kind({
    summary: 'Deletes a table that a drill restored. Only one whose name begins with holdfast-moment- and that the service itself calls restored; nothing else is ever deleted.',
    input: z.strictObject({ datastore: copyInputs.datastore, as: tableName.meta({ description: 'The restored table.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 1_800_000,
    permissions: allow('restoredTable', 'dynamodb:DescribeTable', 'dynamodb:DeleteTable'),
    facts: {},
  }),
};
