import { changes, datastore, field, text, type KnownStep, type StepText } from './words.ts';

const from = (step: KnownStep): string => `${text(step, 'table', 'the table')} of ${text(step, 'source', 'the source')}`;
const to = (step: KnownStep): string => `${text(step, 'targetTable', text(step, 'table', 'the table'))} of ${datastore(step)}`;
const share = (step: KnownStep, key: string, what: string): string => `${text(step, key, 'the configured share')} of the ${what} capacity`;

export const dynamodbTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'dynamodb.createTarget': (step) => changes(`creates ${to(step)} with the keys, indexes and capacity of ${from(step)}, unless it is there and fits`),
  'dynamodb.copy': (step) =>
    changes(`reads every item of ${from(step)} with ${share(step, 'readShare', 'read')} and writes it to ${to(step)} with ${share(step, 'writeShare', 'write')}; refused when that holds items of others${step.inputs['follow'] === false ? '' : '. The position in the stream is taken before'}${field(step, 'bytes', (bytes) => ` (about ${String(bytes)} bytes, counted some hours ago)`)}`, 'how many items there are', 'how long it takes'),
  'dynamodb.follow': (step) =>
    changes(`applies the changes in the stream of ${from(step)} to ${to(step)}, each key in order, until ${text(step, 'until', 'caughtUp') === 'drained' ? 'nothing comes any more' : 'little is behind'}`, 'how many changes there are', 'whether somebody writes still'),
  // Whether there is a position is known only when it runs.
  'dynamodb.verifyCopy': (step) => changes(`applies what is left in the stream of ${from(step)}, where a position is given, then reads both tables to their end and compares ${to(step)} with it; what differs is named`, 'how many items there are then', 'whether changes come meanwhile'),
  'dynamodb.settings': (step) => changes(`sets on ${to(step)} what ${from(step)} has: time to live, stream, point-in-time recovery, tags, deletion protection${field(step, 'missing', (missing) => (Array.isArray(missing) && missing.length > 0 ? ` (missing now: ${missing.join(', ')})` : ''))}`),
  'dynamodb.marker': (step) => ({ does: `writes an item of its own into ${text(step, 'table', 'the table')} of ${datastore(step)}, twice, some seconds apart`, undo: 'deletes that item', unknown: [] }),
  'dynamodb.removeMarker': (step) => changes(`deletes the item that the drill wrote into ${text(step, 'table', 'the table')} of ${datastore(step)}`),
  'dynamodb.restoreToMoment': (step) => changes(`restores ${text(step, 'table', 'the table')} of ${datastore(step)} to ${text(step, 'moment', 'the newest moment')} as the new table ${text(step, 'as', '')}, and reads it; refused when there is one of that name`, 'how long the service takes', 'which moments can be restored then'),
  'dynamodb.removeRestored': (step) => changes(`deletes the table ${text(step, 'as', '')} of ${datastore(step)}, when a drill restored it`),
};
