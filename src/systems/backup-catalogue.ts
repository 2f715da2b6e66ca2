import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline, Readable } from 'node:stream';
import { pipeline as writeWhole } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { createZstdDecompress } from 'node:zlib';
import type { StoreConfig } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { commitSchema, manifestSchema, markSchema, type BackupSummary, type Manifest, type Mark, type ObjectEntry } from '../model/manifest.ts';
import { parseToc, selectTables, targetHas, type TableName, type TableSelection } from './backup-tables.ts';
import { childFailed, runChild, startChild } from './child.ts';
import { datastoreOf, storeOf, type Context } from './context.ts';
import { createFeeder } from './postgres-dump.ts';
import { libpqEnvironment, postgresTool, quoteIdentifier, withPostgres, type PostgresTarget } from './postgres.ts';
import { openStore, readText, type Store } from './store.ts';

export const COMMIT = 'COMMIT';
export const MANIFEST = 'manifest.json';
/** A drill that was killed leaves its mark; after this long it protects nothing any more. */
export const IN_USE_EXPIRES_MS = 7 * 86_400_000;
const FOLDER_PATTERN = /^(\d{4})\/(\d{2})\/(\d{2})\/(\d{6})Z-([a-z0-9-]+)\/([^/]+)$/;
const READERS = 8;

export interface CatalogueOptions {
  readonly signal?: AbortSignal;
  /** For the expiry of in-use marks; default: the clock. */
  readonly nowMs?: number;
  /** Only the backup with this id: the others are not read. */
  readonly id?: string;
  /** Told of folders with a COMMIT that cannot be trusted; they are no backups, but somebody should look. */
  readonly onDamaged?: (location: string, why: string) => void;
}

/**
 * Every committed backup of a datastore, oldest first. A folder counts only when its COMMIT names the digest of the manifest beside it.
 * @throws whenever the listing or a read fails: an incomplete list must never look like a complete one.
 */
export async function listBackups(store: Store, prefix: string, datastore: string, options: CatalogueOptions = {}): Promise<BackupSummary[]> {
  const folders = await readFolders(store, prefix, datastore);
  const nowMs = options.nowMs ?? Date.now();
  const waiting = [...folders.values()].filter((folder) => folder.files.has(COMMIT) && (options.id === undefined || folder.id === options.id));
  const found: BackupSummary[] = [];
  await Promise.all(
    Array.from({ length: READERS }, async () => {
      for (let folder = waiting.shift(); folder !== undefined; folder = waiting.shift()) {
        options.signal?.throwIfAborted();
        try {
          found.push(await summarise(store, folder, nowMs, options.signal));
        } catch (error) {
          if (!(error instanceof HoldfastError) || !DAMAGE.has(error.code)) {
            waiting.length = 0;
            throw error;
          }
          options.onDamaged?.(folder.location, error.message);
        }
      }
    }),
  );
  return found.sort((a, b) => a.snapshotAtMs - b.snapshotAtMs || (a.id < b.id ? -1 : 1));
}

const DAMAGE = new Set(['manifest-changed', 'manifest-invalid', 'object-missing']);

export interface BackupFolder {
  /** Ends with `/`. */
  readonly location: string;
  readonly id: string;
  readonly files: ReadonlyMap<string, { readonly bytes: number; readonly modifiedMs: number }>;
}

/** Every folder of a backup, committed or not; or the one at `location` only. */
export async function readFolders(store: Store, prefix: string, datastore: string, location?: string): Promise<Map<string, BackupFolder>> {
  const root = `${prefix}${datastore}/`;
  const folders = new Map<string, { location: string; id: string; files: Map<string, { bytes: number; modifiedMs: number }> }>();
  for await (const object of store.list(location ?? root)) {
    const match = FOLDER_PATTERN.exec(object.key.slice(root.length));
    if (match === null) continue; // Somebody else's file.
    const location = object.key.slice(0, object.key.lastIndexOf('/') + 1);
    let folder = folders.get(location);
    if (folder === undefined) {
      folder = { location, id: match[5]!, files: new Map() };
      folders.set(location, folder);
    }
    folder.files.set(match[6]!, { bytes: object.bytes, modifiedMs: object.modifiedMs });
  }
  return folders;
}

async function summarise(store: Store, folder: BackupFolder, nowMs: number, signal: AbortSignal | undefined): Promise<BackupSummary> {
  const { manifest, committedAtMs } = await readCommitted(store, folder.location, signal);
  const marks: Mark[] = [];
  for (const name of folder.files.keys()) {
    if (!/^MARK-.*\.json$/.test(name)) continue;
    try {
      marks.push(markSchema.parse(JSON.parse(await store.getText(folder.location + name, { signal }))));
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'object-missing') continue; // Taken away since the listing.
      if (error instanceof HoldfastError) throw error;
      throw new HoldfastError('mark-invalid', `${folder.location}${name} cannot be read: ${messageOf(error)}`, { next: 'look at the file; delete it if it means nothing', cause: error });
    }
  }
  const proofs = marks.filter((mark) => mark.mark === 'verified' || mark.mark === 'bad').sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  const proof = proofs.at(-1);
  const head = await store.head(folder.location + COMMIT);
  const locked = head?.lockedUntilMs !== undefined && head.lockedUntilMs > nowMs;
  return {
    id: manifest.id,
    datastore: manifest.datastore,
    location: folder.location,
    snapshotAtMs: Date.parse(manifest.snapshotAt),
    committedAtMs,
    storedBytes: manifest.objects.reduce((sum, object) => sum + object.storedBytes, 0),
    plainBytes: manifest.objects.reduce((sum, object) => sum + object.plainBytes, 0),
    reason: manifest.reason,
    degraded: manifest.degraded,
    complete: manifest.selection.complete,
    proof: proof === undefined ? 'unproved' : (proof.mark as 'verified' | 'bad'),
    provedAtMs: proof === undefined ? undefined : Date.parse(proof.at),
    pinned: marks.some((mark) => mark.mark === 'pinned'),
    inUse: marks.some((mark) => mark.mark === 'in-use' && Date.parse(mark.at) > nowMs - IN_USE_EXPIRES_MS),
    lockedUntilMs: locked ? head.lockedUntilMs : undefined,
  };
}

/** The manifest of a committed backup. @throws HoldfastError when there is no COMMIT, or it commits another manifest. */
export async function readManifest(store: Store, location: string, signal?: AbortSignal): Promise<Manifest> {
  return (await readCommitted(store, location, signal)).manifest;
}

async function readCommitted(store: Store, location: string, signal?: AbortSignal): Promise<{ manifest: Manifest; committedAtMs: number }> {
  let commit;
  try {
    commit = commitSchema.parse(JSON.parse(await store.getText(location + COMMIT, { signal })));
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    throw new HoldfastError('manifest-invalid', `${location}${COMMIT} is not what Holdfast writes: ${messageOf(error)}`, { next: 'this is no backup; look at who wrote the file', cause: error });
  }
  const text = await store.getText(location + MANIFEST, { signal });
  const digest = createHash('sha256').update(text).digest('hex');
  if (digest !== commit.manifestSha256) {
    throw new HoldfastError('manifest-changed', `${location}${MANIFEST} has SHA-256 ${digest}, but ${COMMIT} commits ${commit.manifestSha256}`, { next: 'the manifest was changed or damaged after the backup; use another backup and find out who wrote there' });
  }
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw new HoldfastError('manifest-invalid', `${location}${MANIFEST} is no JSON, although ${COMMIT} commits it: ${messageOf(error)}`, { next: 'this is no backup of Holdfast; look at who wrote the files', cause: error });
  }
  const parsed = manifestSchema.safeParse(document);
  if (!parsed.success) {
    const format = (document as { format?: unknown } | null)?.format;
    throw new HoldfastError('manifest-invalid', `${location}${MANIFEST} has a form this Holdfast does not know (format ${(JSON.stringify(format) ?? 'none').slice(0, 40)}): ${parsed.error.issues[0]?.path.join('.')}: ${parsed.error.issues[0]?.message}`, { next: 'use the Holdfast version that wrote it, or the plain commands in it' });
  }
  return { manifest: parsed.data, committedAtMs: Date.parse(commit.committedAt) };
}

/** A later finding about a backup. `name` keeps marks of one kind apart, e.g. two drills that use it at once. */
export async function writeMark(store: Store, location: string, mark: Mark, name: string = mark.mark): Promise<void> {
  await store.put(markKey(location, name), `${JSON.stringify(markSchema.parse(mark), null, 2)}\n`, { contentType: 'application/json' });
}

export async function removeMark(store: Store, location: string, name: string): Promise<void> {
  await store.delete(markKey(location, name));
}

function markKey(location: string, name: string): string {
  if (!/^[A-Za-z0-9._-]{1,100}$/.test(name)) throw new HoldfastError('mark-name', `"${name}" is no name for a mark`, { next: 'use letters, digits, dots, hyphens' });
  return `${location}MARK-${name}.json`;
}

export interface FoundBackup {
  readonly storeName: string;
  readonly store: Store;
  readonly summary: BackupSummary;
}

/** The store a datastore's backups are in. */
export function storeNameOf(context: Context, datastoreName: string): string {
  const datastore = datastoreOf(context.config, datastoreName);
  const names = Object.keys(context.config.stores);
  const name = datastore.store ?? (names.length === 1 ? names[0] : undefined);
  if (name === undefined) {
    throw new HoldfastError('store-unclear', `datastore ${datastoreName} does not say which store its backups go to`, { next: `add \`store:\` with one of: ${names.join(', ')}` });
  }
  storeOf(context.config, name);
  return name;
}

/** A backup by its id, or the newest one, of one datastore or of all. @throws HoldfastError `backup-missing`. */
export async function findBackup(context: Context, id: string, datastoreName?: string, options: CatalogueOptions = {}): Promise<FoundBackup> {
  const datastores = datastoreName === undefined ? Object.keys(context.config.datastores) : [datastoreName];
  const seen: FoundBackup[] = [];
  for (const name of datastores) {
    const storeName = storeNameOf(context, name);
    const store = await openStore(context, storeName);
    for (const summary of await listBackups(store, store.prefix, name, { ...options, ...(id === 'newest' ? {} : { id }) })) seen.push({ storeName, store, summary });
  }
  const wanted = id === 'newest' ? [...seen].sort((a, b) => b.summary.snapshotAtMs - a.summary.snapshotAtMs).slice(0, 1) : seen.filter(({ summary }) => summary.id === id);
  if (wanted.length === 1) return wanted[0]!;
  throw new HoldfastError('backup-missing', wanted.length === 0 ? `there is no committed backup ${id}${datastoreName === undefined ? '' : ` of ${datastoreName}`}` : `${wanted.length} datastores have a backup ${id}`, {
    next: wanted.length === 0 ? 'list them with `holdfast backups`' : 'name the datastore with --datastore',
  });
}

export interface OpenObjectOptions {
  readonly signal?: AbortSignal;
  /** Plain bytes handed out so far. */
  readonly onProgress?: (plainBytes: number) => void;
}

/**
 * The plain bytes of one object: decrypted, decompressed. The stream ends well only when stored and plain sizes and SHA-256
 * are what the manifest says; whoever consumes it must treat an error at the very end as the error it is.
 */
export async function openObject(context: Context, storeName: string, location: string, entry: ObjectEntry, options: OpenObjectOptions = {}): Promise<Readable> {
  const store = await openStore(context, storeName);
  const where = `${location}${entry.name}`;
  const damaged = (why: string, cause?: unknown): HoldfastError =>
    new HoldfastError('object-damaged', `${where} in ${store.describe()} is damaged: ${why}`, { next: 'do not rely on this backup; restore another one and find out what changed the object', cause });

  const raw = await store.get(where, { signal: options.signal });
  async function* stored(): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of raw as AsyncIterable<Buffer>) {
      hash.update(chunk);
      bytes += chunk.length;
      yield chunk;
    }
    if (bytes !== entry.storedBytes) throw damaged(`${bytes} bytes are stored, the manifest says ${entry.storedBytes}`);
    const digest = hash.digest('hex');
    if (digest !== entry.storedSha256) throw damaged(`the stored bytes have SHA-256 ${digest}, the manifest says ${entry.storedSha256}`);
  }
  let stream: Readable = Readable.from(stored(), { objectMode: false });
  if (entry.encryption === 'age') stream = await decrypted(context, storeOf(context.config, storeName), storeName, stream, damaged);
  if (entry.compression === 'zstd') {
    const source = stream;
    const unpacked = createZstdDecompress();
    pipeline(source, unpacked, () => {}); // Errors travel on through the last stream.
    stream = unpacked;
  }
  const packed = stream;
  async function* plain(): AsyncGenerator<Buffer> {
    const hash = createHash('sha256');
    let bytes = 0;
    try {
      for await (const chunk of packed as AsyncIterable<Buffer>) {
        hash.update(chunk);
        bytes += chunk.length;
        options.onProgress?.(bytes);
        yield chunk;
      }
    } catch (error) {
      options.signal?.throwIfAborted();
      const code = (error as NodeJS.ErrnoException).code ?? '';
      throw error instanceof HoldfastError || (!code.startsWith('ZSTD') && !code.startsWith('Z_') && !code.startsWith('ERR_ZSTD')) ? error : damaged(messageOf(error), error);
    } finally {
      raw.destroy();
      packed.destroy();
    }
    if (bytes !== entry.plainBytes) throw damaged(`it unpacks to ${bytes} bytes, the manifest says ${entry.plainBytes}`);
    const digest = hash.digest('hex');
    if (digest !== entry.plainSha256) throw damaged(`the unpacked bytes have SHA-256 ${digest}, the manifest says ${entry.plainSha256}`);
  }
  return Readable.from(plain(), { objectMode: false });
}

async function decrypted(context: Context, config: StoreConfig, storeName: string, source: Readable, damaged: (why: string, cause?: unknown) => HoldfastError): Promise<Readable> {
  const reference = config.encryption?.identity;
  if (reference === undefined) {
    throw new HoldfastError('identity-missing', `the backup is encrypted, but store ${storeName} names no identity to decrypt it with`, { next: `add stores.${storeName}.encryption.identity: a reference to the age secret key` });
  }
  const { Decrypter } = await import('age-encryption');
  const decrypter = new Decrypter();
  decrypter.addIdentity((await context.secrets.resolve(reference)).trim());
  try {
    const plain = await decrypter.decrypt(Readable.toWeb(source) as unknown as globalThis.ReadableStream<Uint8Array>);
    return Readable.fromWeb(plain as unknown as ReadableStream);
  } catch (error) {
    source.destroy();
    throw error instanceof HoldfastError ? error : damaged(`it cannot be decrypted with the configured identity: ${messageOf(error)}`, error);
  }
}

export interface RestoreOptions {
  readonly storeName: string;
  readonly location: string;
  readonly manifest: Manifest;
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

/** Read every object back: stored and plain checksums, and the whole archive through pg_restore. */
export async function readBack(context: Context, options: Pick<RestoreOptions, 'storeName' | 'location' | 'manifest' | 'binDirectory' | 'signal'> & { onProgress?: (object: string, plainBytes: number, ofBytes: number) => void }): Promise<{ objects: number; storedBytes: number; plainBytes: number }> {
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

export function objectOf(manifest: Manifest, role: ObjectEntry['role']): ObjectEntry {
  const entry = manifest.objects.find((object) => object.role === role);
  if (entry === undefined) throw new HoldfastError('object-missing', `backup ${manifest.id} has no ${role} object`, { next: 'choose another backup' });
  return entry;
}

/**
 * Give a child the whole stream. When it ends well before the last byte (an archive's end holds nothing it needs) the rest is still
 * read, because the checksums are judged at the end.
 */
async function feedToEnd(argv: readonly string[], stream: Readable, options: { env?: Record<string, string>; signal?: AbortSignal }): Promise<void> {
  const child = startChild(argv, { env: options.env, stdin: 'pipe', stdout: 'ignore', signal: options.signal });
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

async function createDatabase(maintenance: PostgresTarget, name: string, manifest: Manifest): Promise<void> {
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
