import type { Readable } from 'node:stream';
import { createInput, keyMismatch, settingsOf, type TableSettings } from '../model/dynamodb-settings.ts';
import { HoldfastError } from '../model/errors.ts';
import type { DynamodbManifest, TableSums } from '../model/manifest-dynamodb.ts';
import { openObject } from './backup-catalogue.ts';
import type { StoredBackup } from './backup-engine.ts';
import { allOrStop } from './backup-write.ts';
import type { Context } from './context.ts';
import { readItems } from './dynamodb-data-file.ts';
import { createSums, sameSums } from './dynamodb-hash.ts';
import type { Tables } from './dynamodb-place.ts';
import { createTable } from './dynamodb-settings.ts';
import { createThrottle, type ShareKept } from './dynamodb-throttle.ts';
import { createWriter } from './dynamodb-write.ts';
import { findTable, type TableFacts } from './dynamodb.ts';

/** The items of one table, wherever they lie: a backup of ours or an export of the service. */
export interface TableSource {
  readonly table: string;
  readonly describe: string;
  /** null: an export of the service says nothing of it. */
  readonly settings: TableSettings | null;
  readonly items: number;
  readonly sums: TableSums | null;
  readonly files: readonly { readonly name: string; readonly items: number; open(signal: AbortSignal): Promise<Readable> }[];
}

/** The tables of a backup. */
export function backupSources(context: Context, { storeName, location, manifest }: StoredBackup<DynamodbManifest>): TableSource[] {
  // It has no files: importing none would leave empty tables and look like a success.
  if (manifest.managed !== undefined) throw new HoldfastError('backup-outside', `backup ${manifest.id} is kept by the service itself (on-demand): there is nothing in the store to import`, { next: manifest.commands.map(({ command }) => command).join('; ') });
  const objects = new Map(manifest.objects.map((object) => [object.name, object]));
  return manifest.tables.map((table) => ({
    table: table.name,
    describe: `table ${table.name} of backup ${manifest.id}`,
    settings: table.settings,
    items: table.files.reduce((sum, file) => sum + file.items, 0),
    sums: manifest.fingerprint.tables.find(({ name }) => name === table.name) ?? null,
    files: table.files.map((file) => ({
      name: file.object,
      items: file.items,
      async open(signal) {
        const entry = objects.get(file.object);
        if (entry === undefined) throw new HoldfastError('object-missing', `backup ${manifest.id} names ${file.object} and does not describe it`, { next: 'choose another backup' });
        return openObject(context, storeName, location, entry, { signal });
      },
    })),
  }));
}

export interface ImportTarget {
  readonly tables: Tables;
  readonly table: string;
  /** Make it where it is not there. */
  readonly create: { readonly onDemand: boolean; readonly keepEncryption: boolean; readonly tags: Readonly<Record<string, string>> } | null;
  readonly allowNonEmpty: boolean;
}

export interface ImportOptions {
  readonly writeShare: number;
  readonly writeUnitsPerSecond?: number | undefined;
  readonly concurrency: number;
  readonly signal: AbortSignal;
  readonly onProgress: (more: { readonly items: number; readonly table: string }) => void;
}

export interface Imported {
  readonly table: string;
  readonly items: number;
  readonly created: boolean;
  readonly kept: ShareKept;
}

/**
 * Everything that can be known to be wrong is found before the first table is made or the first item written.
 * @returns by target table, the table that is there.
 */
export async function checkTargets(pairs: readonly { readonly source: TableSource; readonly target: ImportTarget }[], signal: AbortSignal): Promise<ReadonlyMap<string, TableFacts>> {
  const found = new Map<string, TableFacts>();
  const problems: string[] = [];
  for (const { source, target } of pairs) {
    const facts = await findTable(target.tables.client, target.table, signal);
    if (facts === undefined) {
      if (target.create === null) problems.push(`table ${target.table} is not there`);
      else if (source.settings === null) problems.push(`table ${target.table} is not there, and ${source.describe} does not say how to make it`);
      continue;
    }
    found.set(target.table, facts);
    if (facts.status !== 'ACTIVE') problems.push(`table ${target.table} is ${facts.status}`);
    const wrong = source.settings === null ? undefined : keyMismatch(source.settings, settingsOf(facts.description, { timeToLive: null, tags: null, pointInTime: null }));
    if (wrong !== undefined) problems.push(`table ${target.table}: ${wrong}`);
    else if (facts.status === 'ACTIVE' && !target.allowNonEmpty && (await holdsItems(target, signal))) problems.push(`table ${target.table} holds items already`);
  }
  if (problems.length > 0) throw new HoldfastError('target-refused', `nothing was written to ${pairs[0]!.target.tables.where}: ${problems.join('; ')}`, { next: 'choose another prefix, let missing tables be made (--create), or allow tables that hold items (--allow-non-empty): items of the same key are replaced, others stay' });
  return found;
}

async function holdsItems({ tables, table }: ImportTarget, signal: AbortSignal): Promise<boolean> {
  const { ScanCommand } = await import('@aws-sdk/client-dynamodb');
  // Its own count is hours old.
  return ((await tables.items.send(new ScanCommand({ TableName: table, Limit: 1, ConsistentRead: true }), { abortSignal: signal })).Items?.length ?? 0) > 0;
}

/**
 * Every item of the source into the table, within a share of its write capacity. Each item is written whole under its key, so that whoever
 * repeats it after a loss writes the same table: nothing is lost, nothing is there twice. Call `checkTargets` before.
 */
export async function importTable(source: TableSource, target: ImportTarget, options: ImportOptions): Promise<Imported> {
  const { client, items } = target.tables;
  let created = false;
  if ((await findTable(client, target.table, options.signal)) === undefined) {
    if (target.create === null || source.settings === null) throw new HoldfastError('target-refused', `table ${target.table} has gone`, { next: 'restore again' });
    await createTable(client, createInput(target.table, source.settings, target.create), options.signal);
    created = true;
  }
  // The first file that fails ends the others.
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const throttle = await createThrottle({ client, table: target.table, unit: 'write', share: options.writeShare, configured: options.writeUnitsPerSecond, signal });
  const writer = createWriter({ items, table: target.table, key: throttle.facts.key, throttle, signal });
  const sums = createSums();
  const waiting = [...source.files];
  await allOrStop(
    stop,
    Array.from({ length: Math.min(options.concurrency, Math.max(1, waiting.length)) }, () => async () => {
      for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
        let count = 0;
        for await (const group of readItems(await file.open(signal), file.name)) {
          for (const item of group) {
            await writer.put(item);
            sums.add(item);
          }
          count += group.length;
          options.onProgress({ items: group.length, table: target.table });
        }
        if (count !== file.items) throw new HoldfastError('object-damaged', `${file.name} holds ${count} items, its manifest says ${file.items}`, { next: 'do not rely on this backup; restore another one and find out what changed it' });
      }
    }),
    signal,
  );
  await writer.end();
  const read = sums.sums();
  if (read.items !== source.items || (source.sums !== null && !sameSums(read, source.sums))) {
    throw new HoldfastError('object-damaged', `${source.describe} has other items than were backed up: ${read.items} with sums ${read.sum1} / ${read.sum2}, the manifest says ${source.sums === null ? source.items : `${source.sums.items} with sums ${source.sums.sum1} / ${source.sums.sum2}`}`, { next: 'do not rely on this backup; restore another one and find out what changed it' });
  }
  return { table: target.table, items: read.items, created, kept: throttle.kept() };
}

/** Every file of a backup to its end: checksums, each line an item, and the sums of all of them. @throws HoldfastError `object-damaged`, `export-line`. */
export async function readWhole(source: TableSource, signal: AbortSignal, onProgress: (file: string, items: number) => void): Promise<void> {
  const sums = createSums();
  for (const file of source.files) {
    let count = 0;
    for await (const group of readItems(await file.open(signal), file.name)) {
      for (const item of group) sums.add(item);
      count += group.length;
      onProgress(file.name, count);
    }
    if (count !== file.items) throw new HoldfastError('object-damaged', `${file.name} holds ${count} items, its manifest says ${file.items}`, { next: 'do not rely on this backup; restore another one and find out what changed it' });
  }
  if (source.sums !== null && !sameSums(sums.sums(), source.sums)) throw new HoldfastError('object-damaged', `${source.describe} has other items than were backed up, although every file is as its checksum says`, { next: 'do not rely on this backup; find out who can write to the store' });
}
