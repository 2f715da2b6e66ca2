import { HoldfastError } from '../model/errors.ts';
import type { DynamodbManifest } from '../model/manifest-dynamodb.ts';
import { formatDuration } from '../model/units.ts';
import type { Context } from '../systems/context.ts';
import { applySettings } from '../systems/dynamodb-settings.ts';
import { backupSources, checkTargets, importTable, type Imported, type ImportTarget, type TableSource } from '../systems/dynamodb-import.ts';
import { dynamoOf, openTables, type Tables } from '../systems/dynamodb-place.ts';
import type { Io } from './io.ts';
import { NOTE_EVERY_MS, type Restorer, type RestoreFlags } from './restore.ts';

export const dynamodbRestorer: Restorer<DynamodbManifest> = {
  takes: ['table', 'create', 'allowNonEmpty', 'settings'],
  async restore(io, context, backup, flags) {
    if (flags.to === undefined) throw new HoldfastError('usage', '--sql says nothing to a backup of dynamodb', { next: 'give --to dynamodb://<region>/<prefix of the tables>' });
    const { tables, prefix } = await openTarget(context, backup.manifest.datastore, flags.to);
    const wanted = flags.table.map(({ schema, name }) => (schema === 'public' ? name : `${schema}.${name}`));
    const all = backupSources(context, backup);
    const missing = wanted.filter((name) => !all.some(({ table }) => table === name));
    if (missing.length > 0) throw new HoldfastError('unknown-table', `backup ${backup.manifest.id} holds no table ${missing.join(', ')}`, { next: `it holds ${all.map(({ table }) => table).join(', ')}` });
    const sources = wanted.length === 0 ? all : all.filter(({ table }) => wanted.includes(table));
    const sourceRegion = backup.manifest.source.region;
    await restoreTables(io, context, { label: `backup ${backup.manifest.id}`, datastore: backup.manifest.datastore, id: backup.manifest.id }, sources, tables, prefix, flags, (tables.place.region ?? context.config.aws.region) === sourceRegion);
  },
};

/** `dynamodb://<region>/<prefix>[?endpoint=<url>]`; the rest is that of the datastore. */
export async function openTarget(context: Context, datastore: string, text: string): Promise<{ tables: Tables; prefix: string }> {
  const next = 'write it as dynamodb://<region>/<prefix of the tables>, e.g. dynamodb://eu-west-1/restored-; without a prefix they are called as at the source';
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new HoldfastError('usage', '--to is no URL', { next });
  }
  const prefix = decodeURIComponent(url.pathname.replace(/^\//, ''));
  if (url.protocol !== 'dynamodb:' || url.hostname === '' || url.username !== '' || url.password !== '' || !/^[A-Za-z0-9_.-]*$/.test(prefix)) throw new HoldfastError('usage', `--to is not a complete target: ${text}`, { next });
  const { endpoint, credentials, assumeRole } = dynamoOf(context, datastore);
  return { tables: await openTables(context, { region: url.hostname, endpoint: url.searchParams.get('endpoint') ?? endpoint, credentials, assumeRole }), prefix };
}

export async function restoreTables(io: Io, context: Context, what: { readonly label: string; readonly datastore: string; readonly id: string }, sources: readonly TableSource[], tables: Tables, prefix: string, flags: Pick<RestoreFlags, 'create' | 'allowNonEmpty' | 'settings'>, sameRegion: boolean): Promise<void> {
  const { restore } = dynamoOf(context, what.datastore);
  const started = performance.now();
  const targets = sources.map((source): ImportTarget => ({
    tables, table: `${prefix}${source.table}`, allowNonEmpty: flags.allowNonEmpty === true,
    create: flags.create === true ? { onDemand: false, keepEncryption: sameRegion, tags: {} } : null,
  }));
  await checkTargets(sources.map((source, index) => ({ source, target: targets[index]! })), io.interrupted);
  const imported: Imported[] = [];
  let noted = started;
  for (const [index, source] of sources.entries()) {
    let items = 0;
    imported.push(await importTable(source, targets[index]!, {
      writeShare: restore.writeShare, writeUnitsPerSecond: restore.writeUnitsPerSecond, concurrency: restore.concurrency, signal: io.interrupted,
      onProgress(more) {
        items += more.items;
        const now = performance.now();
        if (now - noted < NOTE_EVERY_MS) return;
        noted = now;
        io.note(`${more.table}: ${items} of ${source.items} items`);
      },
    }));
  }
  // Only when the items of all tables are there: what could not be set leaves a restore that is whole.
  const done: (Imported & { readonly settings: readonly string[] })[] = [];
  for (const [index, { settings }] of sources.entries()) done.push({ ...imported[index]!, settings: flags.settings === true && settings !== null ? await applySettings(tables.client, imported[index]!.table, settings, io.interrupted) : [] });
  const ms = performance.now() - started;
  io.result({ id: what.id, datastore: what.datastore, target: `${tables.where}/${prefix}`, durationMs: Math.round(ms), tables: done }, () =>
    [
      `${what.label} of ${what.datastore} is restored into ${tables.where} in ${formatDuration(ms)}`,
      ...done.map(({ table, items, created, settings, kept }) => `  ${table}  ${items} items${created ? ', table made' : ''}; ${Math.round(kept.consumedUnits)} write units used, ${(kept.used * 100).toFixed(0)} % of the capacity${settings.length === 0 ? '' : `; set: ${settings.join(', ')}`}`),
      ...(flags.settings === true || sources.every(({ settings }) => settings === null) ? [] : ['  stream, time to live, tags, point-in-time recovery and deletion protection are as they were on the target: --settings sets them from the backup']),
    ].join('\n'),
  );
}
