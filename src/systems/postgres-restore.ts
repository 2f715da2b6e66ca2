import { createWriteStream } from 'node:fs';
import { link, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Transform, Writable } from 'node:stream';
import { pipeline as writeWhole } from 'node:stream/promises';
import { createGzip, createZstdCompress } from 'node:zlib';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import type { PostgresManifest } from '../model/manifest-postgres.ts';
import { openObject } from './backup-catalogue.ts';
import { parseToc, selectTables, targetHas, type TableName, type TableSelection } from './backup-tables.ts';
import { childFailed, runChild, startChild } from './child.ts';
import type { Context } from './context.ts';
import { createFeeder } from './postgres-dump.ts';
import { libpqEnvironment, postgresTool, quoteIdentifier, withPostgres, type PostgresTarget } from './postgres.ts';
import { readText } from './store.ts';

export interface RestoreOptions {
  readonly storeName: string;
  readonly location: string;
  readonly manifest: PostgresManifest;
  readonly target: PostgresTarget;
  readonly binDirectory?: string;
  /** Make the database first: as it was, when it has the same name, else an empty one with the same encoding and locale. */
  readonly create?: boolean;
  /** Roles first. Default true. Roles the target has already are left as they are. */
  readonly globals?: boolean;
  /** Only these tables, with their partitions, indexes, constraints, sequences and types; the target must not have them. */
  readonly tables?: readonly TableName[];
  /** Default true: the target rarely has the same tablespaces. */
  readonly noTablespaces?: boolean;
  readonly noOwner?: boolean;
  /** More than one reader needs a file: the archive is then staged in this folder, which must have room for its plain bytes. */
  readonly parallel?: { readonly jobs: number; readonly stageDirectory: string };
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: { phase: 'globals' | 'data'; plainBytes: number; ofBytes: number }) => void;
}

export interface RestoreOutcome {
  readonly globalsMs: number;
  readonly dataMs: number;
  readonly totalMs: number;
  readonly plainBytes: number;
  /** Roles that existed on the target and were not touched. */
  readonly skippedRoles: readonly string[];
  /** With `tables` given: what came in the end, and what belongs to it and did not come (triggers, foreign keys, policies, grants). */
  readonly tables: readonly TableName[];
  readonly left: readonly string[];
}

/** Stream a backup into a server: roles by psql, the archive by pg_restore, both stopping at the first error. */
export async function restoreInto(context: Context, options: RestoreOptions): Promise<RestoreOutcome> {
  const { manifest, target, signal } = options;
  const started = performance.now();
  const data = objectOf(manifest, 'data');
  const globals = manifest.objects.find((object) => object.role === 'globals');
  const maintenance: PostgresTarget = options.create === true ? { ...target, database: target.database === 'postgres' ? 'template1' : 'postgres' } : target;
  const environment = (of: PostgresTarget): Record<string, string> => libpqEnvironment(of, 'holdfast restore');
  let skippedRoles: string[] = [];
  if (globals !== undefined && options.globals !== false) {
    const text = await readText(await openObject(context, options.storeName, options.location, globals, { signal }));
    options.onProgress?.({ phase: 'globals', plainBytes: 0, ofBytes: globals.plainBytes });
    const existing = await withPostgres(maintenance, async (client) => (await client.query<{ name: string }>('SELECT rolname AS name FROM pg_catalog.pg_roles')).rows.map((row) => row.name));
    const missing = withoutRoles(text, existing);
    skippedRoles = missing.skipped;
    await runChild([postgresTool(options, 'psql'), '--no-psqlrc', '--quiet', '--no-password', '--set=ON_ERROR_STOP=1', '--output=/dev/null'], { env: environment(maintenance), input: missing.text, signal });
  }
  const globalsMs = performance.now() - started;

  const recreate = options.create === true && target.database === manifest.source.database;
  if (options.create === true && !recreate) await createDatabase(maintenance, target.database, manifest);
  const tables = options.tables === undefined || options.tables.length === 0 ? undefined : await planTables(context, options, data, options.tables);
  const argv = [
    postgresTool(options, 'pg_restore'), '--exit-on-error', '--no-password', `--dbname=${pgRestoreName(recreate ? maintenance.database : target.database)}`,
    ...(recreate ? ['--create'] : []),
    ...(options.noTablespaces === false ? [] : ['--no-tablespaces']),
    ...(options.noOwner === true ? ['--no-owner'] : []),
    ...(tables === undefined ? [] : [`--use-list=${tables.listFile}`]),
  ];
  try {
    const stream = await openObject(context, options.storeName, options.location, data, {
      signal,
      onProgress: (plainBytes) => options.onProgress?.({ phase: 'data', plainBytes, ofBytes: data.plainBytes }),
    });
    const child = { env: environment(recreate ? maintenance : target), signal };
    if (options.parallel === undefined || options.parallel.jobs < 2) await feedToEnd(argv, stream, child);
    else await restoreStaged(argv, stream, manifest.id, options.parallel, child);
  } finally {
    await tables?.remove();
  }
  const totalMs = performance.now() - started;
  return { globalsMs, dataMs: totalMs - globalsMs, totalMs, plainBytes: data.plainBytes, skippedRoles, tables: tables?.tables ?? [], left: tables?.left ?? [] };
}

/** Nothing is restored before the whole archive is there and its checksums hold. */
async function restoreStaged(argv: readonly string[], stream: Readable, id: string, { jobs, stageDirectory }: { jobs: number; stageDirectory: string }, child: { env: Record<string, string>; signal?: AbortSignal }): Promise<void> {
  const path = join(stageDirectory, `archive-${id}`);
  try {
    await writeWhole(stream, createWriteStream(path, { mode: 0o600 }), { signal: child.signal });
    await runChild([...argv, `--jobs=${jobs}`, path], child);
  } finally {
    await rm(path, { force: true });
  }
}

/**
 * The backup as one plain SQL script, for people and for tools that read nothing else. Written beside its name and given it when it is
 * whole; gzip or zstd by the name's end (.gz, .zst). Roles are not in it.
 * @throws HoldfastError `file-exists`: nothing is overwritten.
 */
export async function writeSql(context: Context, options: Pick<RestoreOptions, 'storeName' | 'location' | 'manifest' | 'binDirectory' | 'signal' | 'noOwner' | 'onProgress'> & { readonly path: string }): Promise<{ bytes: number }> {
  const { path, signal } = options;
  const data = objectOf(options.manifest, 'data');
  const partial = `${path}.partial-${process.pid}`;
  const stream = await openObject(context, options.storeName, options.location, data, { signal, onProgress: (plainBytes) => options.onProgress?.({ phase: 'data', plainBytes, ofBytes: data.plainBytes }) });
  try {
    const compress = path.endsWith('.gz') ? [createGzip()] : path.endsWith('.zst') ? [createZstdCompress()] : [];
    await feedToEnd([postgresTool(options, 'pg_restore'), '--file=-', ...(options.noOwner === true ? ['--no-owner'] : [])], stream, { ...(signal === undefined ? {} : { signal }), into: [...compress, createWriteStream(partial, { flags: 'wx', mode: 0o600, flush: true })] });
    await link(partial, path).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'EEXIST' ? new HoldfastError('file-exists', `${path} exists already`, { next: 'give another name; nothing is overwritten' }) : error;
    });
    return { bytes: (await stat(path)).size };
  } finally {
    stream.destroy();
    await rm(partial, { force: true });
  }
}

/** Read every object back: stored and plain checksums, and the whole archive through pg_restore. */
export async function readBack(context: Context, options: Pick<RestoreOptions, 'storeName' | 'location' | 'manifest' | 'binDirectory' | 'signal'> & { onProgress?: (object: string, plainBytes: number, ofBytes: number) => void }): Promise<{ objects: number; storedBytes: number; plainBytes: number }> {
  refuseManaged(options.manifest);
  let storedBytes = 0;
  let plainBytes = 0;
  for (const entry of options.manifest.objects) {
    const stream = await openObject(context, options.storeName, options.location, entry, {
      signal: options.signal,
      onProgress: (bytes) => options.onProgress?.(entry.name, bytes, entry.plainBytes),
    });
    if (entry.role === 'data') await feedToEnd([postgresTool(options, 'pg_restore'), '--file=/dev/null'], stream, { signal: options.signal });
    else for await (const chunk of stream) void chunk;
    storedBytes += entry.storedBytes;
    plainBytes += entry.plainBytes;
  }
  return { objects: options.manifest.objects.length, storedBytes, plainBytes };
}

/** A managed snapshot cannot be read, only restored by RDS. */
function refuseManaged({ id, datastore, managed }: PostgresManifest): void {
  if (managed === undefined) return;
  throw new HoldfastError('managed-snapshot', `backup ${id} is the managed snapshot ${managed.identifier} in ${managed.region}: nothing of it can be read without restoring it`, { next: `prove it with: holdfast drill ${datastore} --backup ${id}; restore it with the commands in its manifest, or choose a dump` });
}

export function objectOf(manifest: PostgresManifest, role: ObjectEntry['role']): ObjectEntry {
  refuseManaged(manifest);
  const entry = manifest.objects.find((object) => object.role === role);
  if (entry === undefined) throw new HoldfastError('object-missing', `backup ${manifest.id} has no ${role} object`, { next: 'choose another backup' });
  return entry;
}

/**
 * Give a child the whole stream. When it ends well before the last byte (an archive's end holds nothing it needs) the rest is still
 * read, because the checksums are judged at the end.
 */
async function feedToEnd(argv: readonly string[], stream: Readable, options: { env?: Record<string, string>; signal?: AbortSignal; into?: readonly [...Transform[], Writable] }): Promise<void> {
  const child = startChild(argv, { env: options.env, stdin: 'pipe', stdout: options.into === undefined ? 'ignore' : 'pipe', signal: options.signal });
  // Awaited at the end; what it says before is said by the child as well.
  const drained = options.into === undefined ? Promise.resolve() : writeWhole([child.stdout!, ...options.into]);
  drained.catch(() => void child.end().catch(() => {}));
  const feeder = createFeeder(child);
  let feeding = true;
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      if (!feeding) continue;
      try {
        await feeder.write(chunk);
      } catch {
        feeding = false;
        const exit = await child.exited;
        if (exit.code !== 0) throw childFailed(argv, exit);
      }
    }
    feeder.end();
    const exit = await child.exited;
    options.signal?.throwIfAborted();
    if (exit.code !== 0) throw childFailed(argv, exit);
    await drained;
  } catch (error) {
    options.signal?.throwIfAborted();
    throw error;
  } finally {
    stream.destroy();
    await child.end().catch(() => {});
  }
}

/** `ALTER ROLE x WITH ..` and `CREATE ROLE x` of roles that exist would change their passwords: their lines are left out. */
function withoutRoles(text: string, existing: readonly string[]): { text: string; skipped: string[] } {
  const known = new Map(existing.flatMap((name) => [[name, name], [quoteIdentifier(name), name]] as const));
  const skipped = new Set<string>();
  const kept = text.split('\n').filter((line) => {
    const role = /^(?:DO \$role\d*\$ BEGIN CREATE ROLE|ALTER ROLE) ("(?:[^"]|"")*"|[^\s;]+)/.exec(line)?.[1];
    const name = role === undefined ? undefined : known.get(role);
    if (name !== undefined) skipped.add(name);
    return name === undefined;
  });
  return { text: kept.join('\n'), skipped: [...skipped].sort() };
}

async function createDatabase(maintenance: PostgresTarget, name: string, manifest: PostgresManifest): Promise<void> {
  const { source } = manifest;
  const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`;
  const icu = /^icu (.+)$/.exec(source.localeProvider)?.[1];
  await withPostgres(maintenance, async (client) => {
    try {
      await client.query(
        `CREATE DATABASE ${quoteIdentifier(name)} TEMPLATE template0 ENCODING ${literal(source.encoding)} LC_COLLATE ${literal(source.collate)} LC_CTYPE ${literal(source.ctype)}` +
          (icu === undefined ? '' : ` LOCALE_PROVIDER icu ICU_LOCALE ${literal(icu)}`),
      );
    } catch (error) {
      const exists = (error as { code?: string }).code === '42P04';
      throw new HoldfastError(exists ? 'target-exists' : 'target-create', `database ${name} cannot be created on ${maintenance.host}:${maintenance.port}: ${messageOf(error)}`, {
        next: exists ? 'restore without --create, or choose another name' : 'install the same locale on the target, or create the database yourself and restore without --create',
        cause: error,
      });
    }
  });
}

interface TableRestore extends TableSelection {
  readonly listFile: string;
  remove(): Promise<void>;
}

/** What of the archive these tables need; the list goes to pg_restore by a file, since its stdin is the archive. */
async function planTables(context: Context, options: RestoreOptions, data: ObjectEntry, tables: readonly TableName[]): Promise<TableRestore> {
  const head = async (...flags: string[]): Promise<string> =>
    readHead([postgresTool(options, 'pg_restore'), ...flags], await openObject(context, options.storeName, options.location, data, { signal: options.signal }), options.signal);
  const toc = parseToc(await head('--verbose', '--schema-only', '--file=-'));
  const list = await head('--list');
  const selected = await withPostgres(options.target, async (client) => {
    const selection = await selectTables(toc, list, tables, (entry) => targetHas(client, entry));
    for (const { schema, name } of selection.tables) {
      const there = await client.query<{ there: boolean }>('SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2) AS there', [schema, name]);
      if (there.rows[0]!.there) throw new HoldfastError('target-not-empty', `the target has a table ${schema}.${name} already`, { next: 'restore into another database and copy the rows you want, or rename the table first; nothing was changed' });
    }
    for (const schema of selection.schemas) await client.query(`CREATE SCHEMA IF NOT EXISTS ${quoteIdentifier(schema)}`);
    return selection;
  });
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-restore-'));
  const listFile = join(folder, 'list');
  await writeFile(listFile, selected.list);
  return { ...selected, listFile, remove: () => rm(folder, { recursive: true, force: true }) };
}

/** The output of a child that needs the beginning of a stream only, and ends when it has seen it. */
async function readHead(argv: readonly string[], stream: Readable, signal: AbortSignal | undefined): Promise<string> {
  const child = startChild(argv, { stdin: 'pipe', stdout: 'pipe', signal });
  const output = readText(child.stdout!);
  output.catch(() => {}); // Awaited below, after its end is known.
  const feeder = createFeeder(child);
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      try {
        await feeder.write(chunk);
      } catch {
        break; // It has what it needs, or failed: its exit tells.
      }
    }
    feeder.end();
    const exit = await child.exited;
    signal?.throwIfAborted();
    if (exit.code !== 0) throw childFailed(argv, exit);
    return await output;
  } finally {
    stream.destroy();
    await child.end().catch(() => {});
  }
}

/** pg_restore reads a --dbname that looks like a connection string as one. */
function pgRestoreName(database: string): string {
  return /[=:/]/.test(database) ? `dbname='${database.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'` : database;
}
