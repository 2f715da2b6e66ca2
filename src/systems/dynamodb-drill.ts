import { HoldfastError, messageOf, STORED_FAULTS } from '../model/errors.ts';
import { createInput, settingsOf } from '../model/dynamodb-settings.ts';
import type { AttributeValue, Item } from '../model/dynamodb-item.ts';
import type { DynamodbManifest, TableSums } from '../model/manifest-dynamodb.ts';
import { judgeCheck } from '../model/proof-check.ts';
import { compareTables, driftNote, type FoundTable } from '../model/proof-dynamodb.ts';
import { formatDuration } from '../model/units.ts';
import { awsFailure, isDenied } from './aws-failure.ts';
import type { DrillCall, DrillOptions, DrillTargets } from './backup-engine.ts';
import { allOrStop } from './backup-write.ts';
import type { Context } from './context.ts';
import { createSums, addSums, type ItemSums } from './dynamodb-hash.ts';
import { endedRestores, proveOnDemand, restoreOnDemand } from './dynamodb-native-drill.ts';
import { backupSources, importTable } from './dynamodb-import.ts';
import { dynamoOf, drillTables, sourceTables, type Tables } from './dynamodb-place.ts';
import { createTable, deleteTable, readTags } from './dynamodb-settings.ts';
import { scanSegment } from './dynamodb-scan.ts';
import { createThrottle } from './dynamodb-throttle.ts';
import { findTable, isPassing, retried, type TableFacts } from './dynamodb.ts';

/** Tags of every table that a drill makes; without them none is touched. */
const WORKFLOW_TAG = 'holdfast:drill';
const RUN_TAG = 'holdfast:run';
const ENVIRONMENT_TAG = 'holdfast:environment';
/** Of a table's name. */
const LONGEST_NAME = 255;

/** Drills restore into tables of their own, made for the drill and known by name and tags. */
export const dynamodbDrill: DrillTargets<DynamodbManifest> = {
  async start(context, call, manifest, { signal }) {
    const started = performance.now();
    const tables = await drillTables(context, call.datastore);
    refuseProduction(context, call, manifest);
    // What the service restores for this very run goes on: it cannot be ended before it is done, which takes hours.
    const adopted = new Set(manifest.managed?.backups.map(({ arn }) => arn));
    await destroyTables(context, call.datastore, call.targetName, signal, ({ description }) => adopted.has(description.RestoreSummary?.SourceBackupArn ?? ''));
    return {
      name: tablePrefix(context, call), serverVersion: 'DynamoDB', systemIdentifier: tables.where,
      isolation: `tables of their own in ${tables.where}, named ${tablePrefix(context, call)}<table>, without stream and time to live`, tookMs: Math.round(performance.now() - started),
    };
  },

  /** Makes the tables, which is part of a recovery, and fills them. */
  async restore(context, call, manifest, { signal, onProgress }) {
    const { drill, restore } = dynamoOf(context, call.datastore);
    const tables = await drillTables(context, call.datastore);
    const startedAtMs = Date.now();
    let bytes = 0;
    let items = 0;
    if (manifest.managed !== undefined) return restoreOnDemand(tables, manifest, { nameOf: (table) => drillTable(context, call, table), tags: tagsOf(context, call), signal, onProgress, pollMs: dynamoOf(context, call.datastore).backup.pollEvery });
    try {
      for (const source of backupSources(context, { ...call, manifest })) {
        const table = drillTable(context, call, source.table);
        if ((await findTable(tables.client, table, signal)) !== undefined) throw new HoldfastError('drill-target-gone', `table ${table} is there already: an earlier attempt was cut off`, { next: 'the drill starts over with new tables' });
        await createTable(tables.client, createInput(table, source.settings!, { onDemand: true, keepEncryption: false, tags: tagsOf(context, call) }), signal);
        await importTable(source, { tables, table, create: null, allowNonEmpty: false }, {
          writeShare: drill.writeShare, writeUnitsPerSecond: restore.writeUnitsPerSecond, concurrency: restore.concurrency, signal,
          onProgress(more) {
            items += more.items;
            onProgress(`${source.table}: ${items} items`);
          },
        });
      }
      bytes = manifest.objects.reduce((sum, { role, plainBytes }) => sum + (role === 'data' ? plainBytes : 0), 0);
      return { startedAtMs, finishedAtMs: Date.now(), globalsMs: null, dataMs: Date.now() - startedAtMs, plainBytes: bytes, bad: null };
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof HoldfastError) || !BACKUP_FAULTS.has(error.code)) throw error;
      return { startedAtMs, finishedAtMs: Date.now(), globalsMs: null, dataMs: null, plainBytes: 0, bad: messageOf(error) };
    }
  },

  /** Every item that is there, consistently read, and the shape of each table. */
  async prove(context, call, manifest, { signal, onProgress }) {
    const { backup } = dynamoOf(context, call.datastore);
    const tables = await drillTables(context, call.datastore);
    const prefix = tablePrefix(context, call);
    const found: FoundTable[] = [];
    const original = new Map(manifest.tables.map(({ name }) => [drillTable(context, call, name), name]));
    for (const name of await listTables(tables, prefix, signal)) {
      const facts = await findTable(tables.client, name, signal);
      if (facts === undefined) continue;
      const sums = await sumTable(tables, name, { share: 1, configured: undefined, segments: backup.segments, consistentRead: true, signal, onProgress: (items) => onProgress(`${name}: ${items} items read`) });
      found.push({ name: original.get(name) ?? name, ...sums, settings: settingsOf(facts.description, { timeToLive: null, tags: null, pointInTime: null }) });
    }
    if (found.length === 0 && manifest.tables.length > 0) throw new HoldfastError('drill-target-gone', `the tables ${prefix}... have gone`, { next: 'the drill starts over with new tables' });
    if (manifest.managed !== undefined) return proveOnDemand(manifest, found);
    return compareTables(manifest, found);
  },

  async check(context, call, checks, { timeoutMs, signal }) {
    const { ExecuteStatementCommand } = await import('@aws-sdk/client-dynamodb');
    const { items } = await drillTables(context, call.datastore);
    const results = [];
    for (const check of checks) {
      if (check.dynamodb === undefined) throw new HoldfastError('check-engine', `check "${check.name}" is no check of a DynamoDB`, { next: 'give it `dynamodb: {table, statement}`' });
      const { table, statement } = check.dynamodb;
      const within = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
      try {
        // Pages may be empty before the one that holds the item.
        let token: string | undefined;
        let rows: unknown[][] = [];
        do {
          const command = { Statement: statement.replaceAll('{table}', drillTable(context, call, table)), NextToken: token, ConsistentRead: !statement.includes('{table}".') };
          const page = await retried('dynamodb:PartiQLSelect', drillTable(context, call, table), () => items.send(new ExecuteStatementCommand(command), { abortSignal: within }), { signal: within, withinMs: timeoutMs });
          rows = ((page.Items ?? []) as unknown as Item[]).slice(0, 1).map((item) => Object.values(item).slice(0, 1).map(plainValue));
          token = page.NextToken;
        } while (rows.length === 0 && token !== undefined);
        results.push(judgeCheck(check, rows));
      } catch (error) {
        signal.throwIfAborted();
        const cause = error instanceof HoldfastError ? (error.cause ?? error) : error;
        // No answer, or none to us, says nothing of the backup: that must not be marked bad for it.
        const unanswered = within.aborted || isPassing(cause) || cause instanceof SyntaxError;
        if (unanswered || isDenied(cause)) {
          throw new HoldfastError('check-not-run', `check "${check.name}" could not be run: ${within.aborted ? `no answer within ${timeoutMs / 1000} s` : messageOf(error)}`, { retryable: unanswered, next: 'nothing was found out about the backup; see that its statement is answered in time and allowed to the worker, and drill again', cause: error });
        }
        results.push({ name: check.name, ok: false, found: messageOf(error), expected: 'an answer', next: 'run its statement against the source: either the backup misses something, or the check is out of date' });
      }
    }
    return results;
  },

  /** Of the live tables, within the share that a backup may use, for as long as it may take. */
  async drift(context, call, manifest, { signal, onProgress, timeoutMs }) {
    if (!dynamoOf(context, call.datastore).drill.drift) return [];
    return drift(context, call.datastore, manifest.fingerprint.tables, { signal, onProgress, timeoutMs });
  },

  // The service deletes no table before it has restored it.
  destroyMs: (context, datastore) => dynamoOf(context, datastore).drill.timeout,

  async destroy(context, { datastore, targetName }, { signal } = {}) {
    const deadline = AbortSignal.timeout(dynamoOf(context, datastore).drill.timeout);
    return { existed: await destroyTables(context, datastore, targetName, signal === undefined ? deadline : AbortSignal.any([signal, deadline])) };
  },

  async sweep(context, isRunning) {
    const swept: string[] = [];
    for (const [datastore, config] of Object.entries(context.config.datastores)) {
      if (config.engine !== 'dynamodb') continue;
      try {
        const signal = AbortSignal.timeout(5 * 60_000);
        const tables = await drillTables(context, datastore);
        const untagged: TableFacts[] = [];
        for (const name of await listTables(tables, config.drill.prefix, signal)) {
          const facts = await findTable(tables.client, name, signal);
          const tags = facts === undefined ? null : await readTags(tables.client, facts, signal);
          const workflowId = tags?.[WORKFLOW_TAG];
          const runId = tags?.[RUN_TAG];
          // The service restores a table without tags.
          if (facts?.description.RestoreSummary?.SourceBackupArn !== undefined && workflowId === undefined) untagged.push(facts);
          // Somebody else's, another environment's, or of a server without tags: there a table is only removed by the drill that made it.
          if (workflowId === undefined || runId === undefined || tags?.[ENVIRONMENT_TAG] !== context.config.environment) continue;
          if (await isRunning(workflowId, runId)) continue;
          await deleteTable(tables.client, name, signal);
          swept.push(name);
        }
        for (const name of await endedRestores(context, datastore, untagged, Date.now(), signal)) {
          await deleteTable(tables.client, name, signal);
          swept.push(name);
        }
      } catch (error) {
        context.log.warn({ datastore, error: messageOf(error) }, 'tables of ended drills could not be looked for');
      }
    }
    return swept;
  },
};

const BACKUP_FAULTS = new Set<string>([...STORED_FAULTS, 'export-line', 'dynamodb-item-refused', 'dynamodb-item-too-large', 'dynamodb-item-key']);

/** `<prefix><12 hex digits of the run>-`. */
function tablePrefix(context: Context, { datastore, targetName }: { datastore: string; targetName: string }): string {
  return `${dynamoOf(context, datastore).drill.prefix}${targetName.slice(-12)}-`;
}

export function drillTable(context: Context, call: { datastore: string; targetName: string }, table: string): string {
  const name = `${tablePrefix(context, call)}${table}`;
  if (name.length > LONGEST_NAME) throw new HoldfastError('drill-table-name', `${name} is longer than the ${LONGEST_NAME} characters that a name may have`, { next: 'shorten drill.prefix' });
  return name;
}

function tagsOf(context: Context, call: DrillCall): Record<string, string> {
  return { [WORKFLOW_TAG]: call.workflowId, [RUN_TAG]: call.runId, [ENVIRONMENT_TAG]: context.config.environment };
}

/** Tables of the configuration must never be taken for a drill's. */
function refuseProduction(context: Context, call: DrillCall, manifest: DynamodbManifest): void {
  const prefix = dynamoOf(context, call.datastore).drill.prefix;
  const ours = [...manifest.tables.map(({ name }) => name), ...Object.values(context.config.datastores).flatMap((datastore) => (datastore.engine === 'dynamodb' ? datastore.tables : []))];
  const taken = ours.find((name) => name.startsWith(prefix));
  if (taken !== undefined) throw new HoldfastError('drill-target-refused', `table ${taken} of production begins with ${prefix}, by which tables of drills are known`, { next: 'choose another drill.prefix' });
}

async function listTables({ client, where }: Tables, prefix: string, signal: AbortSignal): Promise<string[]> {
  const { ListTablesCommand } = await import('@aws-sdk/client-dynamodb');
  const names: string[] = [];
  let after: string | undefined;
  try {
    do {
      const page = await client.send(new ListTablesCommand({ ExclusiveStartTableName: after }), { abortSignal: signal });
      names.push(...(page.TableNames ?? []).filter((name) => name.startsWith(prefix)));
      after = page.LastEvaluatedTableName;
    } while (after !== undefined);
  } catch (error) {
    signal.throwIfAborted();
    throw awsFailure('dynamodb-tables', 'dynamodb:ListTables', where, error);
  }
  return names;
}

/** Only tables that carry the tags of a drill. A server that knows no tags is not the service: there the name alone tells. */
async function destroyTables(context: Context, datastore: string, targetName: string, signal: AbortSignal, keep: (facts: TableFacts) => boolean = () => false): Promise<boolean> {
  const tables = await drillTables(context, datastore);
  let existed = false;
  for (const name of await listTables(tables, tablePrefix(context, { datastore, targetName }), signal)) {
    const facts = await findTable(tables.client, name, signal);
    if (facts === undefined || keep(facts)) continue;
    const tags = await readTags(tables.client, facts, signal);
    const local = tags === null && (tables.place.endpoint ?? context.config.aws.endpoint) !== undefined;
    // The service restores a table without tags; one that is restored from a backup into the name of this very run is of a drill that was cut off before it set them.
    if (!local && tags?.[WORKFLOW_TAG] === undefined && facts.description.RestoreSummary?.SourceBackupArn === undefined) throw new HoldfastError('drill-target-refused', `table ${name} in ${tables.where} has the name of a drill's and not its tags: it is somebody's`, { next: 'look whose it is; rename it or choose another drill.prefix' });
    existed = (await deleteTable(tables.client, name, signal)) || existed;
  }
  return existed;
}

interface SumOptions {
  readonly share: number;
  readonly configured: number | undefined;
  readonly segments: number;
  readonly consistentRead: boolean;
  readonly signal: AbortSignal;
  readonly onProgress: (items: number) => void;
}

async function sumTable(tables: Tables, table: string, options: SumOptions): Promise<ItemSums> {
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const throttle = await createThrottle({ client: tables.client, table, unit: 'read', share: options.share, configured: options.configured, signal });
  let items = 0;
  const sums = await allOrStop(
    stop,
    Array.from({ length: options.segments }, (_, segment) => async () => {
      const some = createSums();
      for await (const page of scanSegment({ items: tables.items, table, segment, segments: options.segments, consistentRead: options.consistentRead, after: null, throttle, signal })) {
        for (const item of page.items) some.add(item);
        items += page.items.length;
        options.onProgress(items);
      }
      return some.sums();
    }),
    signal,
  );
  return addSums(sums);
}

/** What cannot be read, or not in time, is said and harms nobody. */
async function drift(context: Context, datastore: string, wanted: readonly TableSums[], { signal, onProgress, timeoutMs }: DrillOptions & { readonly timeoutMs: number }): Promise<string[]> {
  const { backup } = dynamoOf(context, datastore);
  const deadline = AbortSignal.timeout(timeoutMs);
  const within = AbortSignal.any([signal, deadline]);
  const notes: string[] = [];
  for (const table of wanted) {
    try {
      const sums = await sumTable(await sourceTables(context, datastore), table.name, { share: backup.readShare, configured: backup.readUnitsPerSecond, segments: backup.segments, consistentRead: false, signal: within, onProgress: (items) => onProgress(`drift of ${table.name}: ${items} items`) });
      notes.push(driftNote(table, { name: table.name, ...sums }, new Date().toISOString()));
    } catch (error) {
      signal.throwIfAborted();
      notes.push(`drift of ${table.name}: not known; the live table could not be read${deadline.aborted ? ` to its end within readShare and the ${formatDuration(timeoutMs)} that there were for it` : `: ${messageOf(error)}`}`);
    }
  }
  return notes;
}

function plainValue(value: AttributeValue): unknown {
  if ('S' in value) return value.S;
  if ('N' in value) return value.N;
  if ('BOOL' in value) return value.BOOL;
  if ('NULL' in value) return null;
  return JSON.stringify(value);
}
