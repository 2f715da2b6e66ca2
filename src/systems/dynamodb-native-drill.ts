/** Drills of on-demand backups: restored by the service into tables of the drill, read to their end. */
import { compareShapes } from '../model/dynamodb-settings.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { DynamodbManifest } from '../model/manifest-dynamodb.ts';
import type { FoundTable } from '../model/proof-dynamodb.ts';
import type { Difference, Proof } from '../model/proof.ts';
import { awsFailure } from './aws-failure.ts';
import { listBackups, readFolders, readManifest, storeNameOf } from './backup-catalogue.ts';
import type { Restored } from './backup-engine.ts';
import type { Context } from './context.ts';
import { awaitRestored, beginRestore } from './dynamodb-moment.ts';
import { findOnDemand } from './dynamodb-on-demand.ts';
import { dynamoOf, type Tables } from './dynamodb-place.ts';
import { isUnknownOperation } from './dynamodb-settings.ts';
import type { TableFacts } from './dynamodb.ts';
import { openStore } from './store.ts';

export async function restoreOnDemand(tables: Tables, manifest: DynamodbManifest, options: { readonly nameOf: (table: string) => string; readonly tags: Readonly<Record<string, string>>; readonly signal: AbortSignal; readonly pollMs: number; readonly onProgress: (what: string) => void }): Promise<Restored> {
  const { signal } = options;
  const access = { client: tables.client, signal };
  let startedAtMs = Date.now();
  const bad = (why: string): Restored => ({ startedAtMs, finishedAtMs: Date.now(), globalsMs: null, dataMs: null, plainBytes: 0, bad: why });
  const requests = manifest.managed!.backups.map((one) => ({ source: { name: one.table, arn: one.tableArn }, as: options.nameOf(one.table), from: { backupArn: one.arn }, onDemand: true }));
  for (const { table, arn, name } of manifest.managed!.backups) {
    const found = await findOnDemand(access, arn);
    if (found === undefined) return bad(`the on-demand backup of ${table} (${arn}) is not there: it was deleted, or the drill looks in another account or Region`);
    if (found.name !== name) return bad(`the on-demand backup of ${table} is named ${found.name}, the manifest says ${name}`);
  }
  try {
    for (const request of requests) {
      const { description } = await beginRestore(access, request);
      // One that an attempt before this has begun: the recovery began with it.
      startedAtMs = Math.min(startedAtMs, description.CreationDateTime?.getTime() ?? startedAtMs);
    }
    for (const request of requests) {
      const made = await awaitRestored(access, request, { deadlineMs: Number.POSITIVE_INFINITY, pollMs: options.pollMs, onProgress: (status) => options.onProgress(`${request.source.name}: ${status}`) });
      await tag(tables, made.arn, options.tags, signal);
    }
    return { startedAtMs, finishedAtMs: Date.now(), globalsMs: null, dataMs: Date.now() - startedAtMs, plainBytes: 0, bad: null };
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof HoldfastError && error.code === 'restore-gone') return bad(messageOf(error));
    throw error;
  }
}

/** By its tags another worker knows whose it is. A server that knows none is not the service. */
async function tag(tables: Tables, arn: string, tags: Readonly<Record<string, string>>, signal: AbortSignal): Promise<void> {
  const { TagResourceCommand } = await import('@aws-sdk/client-dynamodb');
  try {
    await tables.client.send(new TagResourceCommand({ ResourceArn: arn, Tags: Object.entries(tags).map(([Key, Value]) => ({ Key, Value })) }), { abortSignal: signal });
  } catch (error) {
    signal.throwIfAborted();
    if (!isUnknownOperation(error)) throw awsFailure('dynamodb-tag', 'dynamodb:TagResource', arn, error);
  }
}

/** What is over after this: a drill makes at most three attempts to restore, each within its timeout. */
const LONGEST_RESTORES = 4;

/**
 * Which of these tables without tags drills of ours have left: the service restored it from a backup that a manifest of ours names, and the
 * drill whose 12 digits it carries has released that backup, or marked it longer ago than any drill restores. @returns names of those that can be deleted.
 */
export async function endedRestores(context: Context, datastore: string, untagged: readonly TableFacts[], nowMs: number, signal: AbortSignal): Promise<string[]> {
  if (untagged.length === 0) return [];
  const { drill } = dynamoOf(context, datastore);
  const store = await openStore(context, storeNameOf(context, datastore));
  const folders = await readFolders(store, store.prefix, datastore);
  const named = new Map<string, { readonly location: string; readonly table: string }>();
  for (const { kind, location } of await listBackups(store, store.prefix, datastore, { signal })) {
    if (kind !== 'managed-snapshot') continue;
    const manifest = await readManifest(store, location, signal);
    if (manifest.engine === 'dynamodb') for (const { arn, table } of manifest.managed?.backups ?? []) named.set(arn, { location, table });
  }
  return untagged.flatMap(({ name, status, description }) => {
    const from = named.get(description.RestoreSummary?.SourceBackupArn ?? '');
    const run = name.slice(drill.prefix.length, drill.prefix.length + 12);
    if (from === undefined || name !== `${drill.prefix}${run}-${from.table}`) return [];
    const mark = folders.get(from.location)?.files.get(`MARK-in-use-${run}.json`);
    if (mark !== undefined && mark.modifiedMs > nowMs - LONGEST_RESTORES * drill.timeout) return [];
    if (status === 'ACTIVE') return [name];
    context.log.warn({ table: name, status }, 'a table that a drill has left cannot be deleted yet; the next worker that starts does');
    return [];
  });
}

const WORDS = { tables: 'tables', rows: 'items', schemaObjects: 'keys and indexes' } as const;

/** Every item was read, and keys and indexes compared. With what content, only the service knows: nothing was read when it was taken. */
export function proveOnDemand(manifest: Pick<DynamodbManifest, 'tables' | 'managed'>, found: readonly FoundTable[]): Proof {
  const differences: Difference[] = [];
  let shapes = 0;
  for (const wanted of manifest.tables) {
    const other = found.find(({ name }) => name === wanted.name);
    if (other === undefined) {
      differences.push({ kind: 'table-missing', object: wanted.name, expected: 'a restored table', found: 'not there' });
      continue;
    }
    const shape = compareShapes(wanted.name, wanted.settings, other.settings);
    shapes += shape.compared;
    differences.push(...shape.differences);
  }
  const items = found.reduce((sum, one) => sum + one.items, 0);
  return {
    exact: false, differences,
    compared: { tables: found.length, rows: '0', sequences: 0, largeObjects: '0', extensions: 0, roles: 0, schemaObjects: shapes, words: WORDS },
    notes: [`every item was read: ${items} items in ${found.length} tables`, 'time to live, stream, tags, auto scaling and point-in-time recovery are not restored by the service'],
    unproved: ['the content of every item: an on-demand backup is not read when it is taken, so there is nothing to compare with; the checks of the services are what shows it'],
  };
}
