import { once } from 'node:events';
import { Readable } from 'node:stream';
import type pg from 'pg';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { formatBytes } from '../model/units.ts';
import { childFailed, runChild, startChild, type RunningChild } from './child.ts';
import { connectPostgres, libpqEnvironment, postgresTool, type PostgresTarget } from './postgres.ts';
import { isComplete, selectionArguments, type Selection } from './postgres-selection.ts';

/** A smaller custom-format archive does not exist: even an empty database gives more. */
const SMALLEST_ARCHIVE_BYTES = 256;
const ARCHIVE_MAGIC = 'PGDMP';
const KEEP_ALIVE_MS = 10_000;

export interface ServerFacts {
  readonly standby: boolean;
  readonly systemIdentifier: string | null;
  readonly timeline: number | null;
  readonly serverVersion: string;
  readonly serverVersionNumber: number;
  readonly encoding: string;
  readonly collate: string;
  readonly ctype: string;
  readonly localeProvider: string;
  readonly databaseBytes: number | null;
  /** May this user read role passwords (hashes)? */
  readonly rolePasswords: boolean;
}

export interface Snapshot {
  readonly id: string;
  /** By the database's clock, taken just before the snapshot: everything committed before it is in. */
  readonly at: Date;
  readonly lsn: string;
  readonly client: pg.Client;
  readonly facts: ServerFacts;
  /** Aborted when the session that holds the snapshot is lost. */
  readonly lost: AbortSignal;
  /** End the session, in every outcome. */
  close(): Promise<void>;
}

/** Open a session that holds an exported snapshot until it is closed. */
export async function openSnapshot(target: PostgresTarget, applicationName: string): Promise<Snapshot> {
  const client = await connectPostgres(target, { applicationName });
  const lost = new AbortController();
  let closed = false;
  const lose = (why: string): void => {
    if (!closed) lost.abort(new HoldfastError('snapshot-lost', `the session that holds the snapshot on ${target.host}:${target.port} ended: ${why}`, { retryable: true, next: 'the database was restarted, or the session was ended from outside; the next attempt starts afresh' }));
  };
  client.on('error', (error) => lose(error.message));
  client.on('end', () => lose('the server closed the connection'));
  let timer: NodeJS.Timeout | undefined;
  const close = async (): Promise<void> => {
    closed = true;
    clearInterval(timer);
    await client.end().catch(() => {});
  };
  try {
    await client.query('SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; SET idle_session_timeout = 0').catch(async (error: { code?: string }) => {
      // idle_session_timeout is unknown before PostgreSQL 14.
      if (error.code !== '42704') throw error;
      await client.query('SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0');
    });
    const facts = await readServerFacts(client);
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    const lsn = facts.standby ? 'pg_last_wal_replay_lsn()' : 'pg_current_wal_lsn()';
    const answer = await client.query<{ at: Date; id: string; lsn: string }>(
      `SELECT pg_catalog.statement_timestamp() AS at, pg_catalog.pg_export_snapshot() AS id, pg_catalog.${lsn}::text AS lsn`,
    );
    const row = answer.rows[0]!;
    // Some networks drop silent connections, and a silent loss must be noticed: something is said every few seconds.
    timer = setInterval(() => void client.query('SELECT 1').catch((error: unknown) => lose(messageOf(error))), KEEP_ALIVE_MS);
    return { id: row.id, at: row.at, lsn: row.lsn, client, facts, lost: lost.signal, close };
  } catch (error) {
    await close();
    throw error instanceof HoldfastError
      ? error
      : new HoldfastError('snapshot', `no snapshot could be taken on ${target.host}:${target.port}: ${messageOf(error)}`, { retryable: true, next: 'check the server; a standby needs hot_standby = on', cause: error });
  }
}

async function readServerFacts(client: pg.Client): Promise<ServerFacts> {
  const answer = await client.query<{ standby: boolean; version: string; number: string; database: Record<string, string | null>; encoding: string; passwords: boolean }>(
    `SELECT pg_catalog.pg_is_in_recovery() AS standby, pg_catalog.current_setting('server_version') AS version,
            pg_catalog.current_setting('server_version_num') AS number, pg_catalog.to_jsonb(d) AS database,
            pg_catalog.pg_encoding_to_char(d.encoding) AS encoding,
            pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS passwords
       FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`,
  );
  const row = answer.rows[0]!;
  const icu = row.database.datlocale ?? row.database.daticulocale;
  const system = await optional<{ id: string }>(client, 'SELECT system_identifier::text AS id FROM pg_catalog.pg_control_system()');
  const timeline = await optional<{ timeline: number }>(client, 'SELECT timeline_id AS timeline FROM pg_catalog.pg_control_checkpoint()');
  const size = await optional<{ bytes: string }>(client, 'SELECT pg_catalog.pg_database_size(pg_catalog.current_database())::text AS bytes');
  return {
    standby: row.standby,
    systemIdentifier: system?.id ?? null,
    timeline: timeline?.timeline ?? null,
    serverVersion: row.version,
    serverVersionNumber: Number(row.number),
    encoding: row.encoding,
    collate: row.database.datcollate ?? '',
    ctype: row.database.datctype ?? '',
    localeProvider: row.database.datlocprovider === 'i' ? `icu ${icu ?? ''}`.trim() : row.database.datlocprovider === 'b' ? 'builtin' : 'libc',
    databaseBytes: size === undefined ? null : Number(size.bytes),
    rolePasswords: row.passwords,
  };
}

/** A fact that managed services may refuse to tell. */
async function optional<T extends pg.QueryResultRow>(client: pg.Client, sql: string): Promise<T | undefined> {
  try {
    return (await client.query<T>(sql)).rows[0];
  } catch (error) {
    if ((error as { code?: string }).code === '42501') return undefined;
    throw error;
  }
}

/** `{pg_dump: '15.14'}` for each tool. @throws HoldfastError `tool-missing`. */
export async function toolVersions(binDirectory: string | undefined, tools: readonly string[]): Promise<Record<string, string>> {
  const versions: Record<string, string> = {};
  for (const tool of tools) {
    const { stdout } = await runChild([postgresTool({ binDirectory }, tool), '--version'], { maxBytes: 10_000 });
    versions[tool] = /(\d+(?:\.\d+)*\S*)/.exec(stdout)?.[1] ?? stdout.trim();
  }
  return versions;
}

/** @throws HoldfastError when the client tools are older than the server: pg_dump would refuse midway or, worse, miss things. */
export function checkToolVersions(versions: Readonly<Record<string, string>>, serverVersionNumber: number, where: string): void {
  const server = Math.floor(serverVersionNumber / 10_000);
  if (server < 12) {
    throw new HoldfastError('server-too-old', `the server at ${where} is PostgreSQL ${server}; Holdfast backs up 12 and newer`, { next: 'upgrade the server' });
  }
  for (const [tool, version] of Object.entries(versions)) {
    const major = Number.parseInt(version, 10);
    if (major >= server && major >= 14) continue;
    throw new HoldfastError('client-too-old', `${tool} ${version} is too old for the server at ${where}, which is PostgreSQL ${server}`, {
      next: `install the PostgreSQL ${Math.max(server, 14)} client tools on this worker and set binDirectory to their folder`,
    });
  }
}

export interface DumpOptions {
  readonly target: PostgresTarget;
  readonly binDirectory: string | undefined;
  readonly snapshotId: string;
  readonly selection: Selection;
  /** Of the database. */
  readonly encoding: string;
  readonly minimumBytes: number;
  readonly applicationName: string;
  readonly signal: AbortSignal;
  /** Plain bytes so far. */
  readonly onProgress: (bytes: number) => void;
}

/**
 * The plain archive of `pg_dump -Fc -Z0` as a stream that ends well only when pg_dump exited with 0, the size is plausible, and
 * `pg_restore` has read the very same bytes to the end without an error. Anything else is an error of the stream, so that
 * whatever stores it drops it. Backpressure reaches pg_dump; nothing is kept but what is in the pipes.
 */
export function dumpArchive(options: DumpOptions): Readable {
  return Readable.from(archive(options), { objectMode: false });
}

async function* archive(options: DumpOptions): AsyncGenerator<Buffer> {
  const { target, signal } = options;
  signal.throwIfAborted();
  const dumpArgv = [
    postgresTool(options, 'pg_dump'), '--format=custom', '--compress=0', `--snapshot=${options.snapshotId}`, '--no-password', '--lock-wait-timeout=60s',
    ...encodingArguments(options.encoding, options.selection),
    ...selectionArguments(options.selection),
  ];
  const checkArgv = [postgresTool(options, 'pg_restore'), '--file=/dev/null'];
  const checker = startChild(checkArgv, { stdin: 'pipe', stdout: 'ignore' });
  const dump = startChild(dumpArgv, { env: libpqEnvironment(target, options.applicationName), stdout: 'pipe' });
  const feeder = createFeeder(checker);
  // Both are ended in `finally` alone, so that nobody reads their exit twice; an abort wakes the read below.
  const onAbort = (): void => void dump.stdout?.destroy(signal.reason as Error);
  signal.addEventListener('abort', onAbort, { once: true });
  let bytes = 0;
  let magic = '';
  try {
    for await (const chunk of dump.stdout as AsyncIterable<Buffer>) {
      if (bytes < ARCHIVE_MAGIC.length) magic += chunk.subarray(0, ARCHIVE_MAGIC.length - bytes).toString('latin1');
      bytes += chunk.length;
      await feeder.write(chunk);
      options.onProgress(bytes);
      yield chunk;
    }
    const exit = await dump.exited;
    if (exit.code !== 0) throw dumpFailed(dumpArgv, exit, target);
    feeder.end();
    const checked = await checker.exited;
    if (checked.code !== 0) throw truncated(checked.stderr, bytes);
    if (!feeder.complete()) throw truncated('pg_restore ended before it had read all', bytes);
    if (magic !== ARCHIVE_MAGIC) throw truncated('it does not begin like a PostgreSQL archive', bytes);
    if (bytes < Math.max(options.minimumBytes, SMALLEST_ARCHIVE_BYTES)) {
      throw new HoldfastError('dump-too-small', `the dump has ${formatBytes(bytes)}, less than the plausible ${formatBytes(Math.max(options.minimumBytes, SMALLEST_ARCHIVE_BYTES))}`, { next: 'look at the database; lower backup.minimumSize when it really shrank' });
    }
  } catch (error) {
    signal.throwIfAborted();
    // A checker that died, or a pipe that broke, is mostly a consequence: pg_dump's own end is the cause if it failed.
    if (error instanceof HoldfastError && error.code !== 'dump-checker-ended') throw error;
    const exit = await dump.end();
    if (exit.code !== 0 && exit.code !== null) throw dumpFailed(dumpArgv, exit, target);
    const checked = await checker.end();
    throw checked.code === 0 || checked.code === null ? error : truncated(checked.stderr, bytes);
  } finally {
    signal.removeEventListener('abort', onAbort);
    await Promise.allSettled([dump.end(), checker.end()]);
  }
}

/**
 * Rows travel as they are stored: a conversion costs time, and bytes that are no text in SQL_ASCII would not pass it.
 * Patterns though are UTF-8, and pg_dump hands them over as they are.
 */
function encodingArguments(encoding: string, selection: Selection): string[] {
  return isComplete(selection) || encoding === 'SQL_ASCII' ? [`--encoding=${encoding}`] : [];
}

function truncated(why: string, bytes: number): HoldfastError {
  return new HoldfastError('dump-unreadable', `the archive that pg_dump wrote (${formatBytes(bytes)}) cannot be read back whole: ${why === '' ? 'pg_restore failed without a word' : why}`, {
    retryable: true,
    next: 'nothing was committed; when it happens again check pg_dump on this worker',
  });
}

function dumpFailed(argv: readonly string[], exit: Parameters<typeof childFailed>[1], target: PostgresTarget): HoldfastError {
  const error = childFailed(argv, exit);
  const refused = /password authentication failed|permission denied|does not exist|no pg_hba\.conf entry/i.test(exit.stderr);
  const locked = /lock timeout|LOCK TABLE/i.test(exit.stderr);
  return new HoldfastError('dump-failed', `the dump of ${target.database} at ${target.host}:${target.port} failed: ${error.message}`, {
    retryable: !refused,
    next: locked
      ? 'another session holds a lock on a table (DDL, VACUUM FULL?); the backup is tried again'
      : refused
        ? 'give the backup user the rights it needs (pg_read_all_data), or correct its password'
        : 'nothing was committed; see what pg_dump said above and the log of the server',
    context: error.context,
  });
}

export interface Feeder {
  /** Resolves when the child can take more. @throws HoldfastError `dump-checker-ended` when it ended. */
  write(chunk: Buffer): Promise<void>;
  end(): void;
  /** Did the child take everything, up to the end? */
  complete(): boolean;
}

/** Writes to a child's stdin with backpressure, and notices when it ends early. */
export function createFeeder(child: RunningChild): Feeder {
  const stdin = child.stdin!;
  let broken = false;
  stdin.on('error', () => {
    broken = true; // EPIPE: its exit tells why.
  });
  const ended = child.exited.then(() => 'ended' as const, () => 'ended' as const);
  return {
    async write(chunk) {
      if (!broken && !stdin.write(chunk)) {
        const listening = new AbortController();
        const drained = once(stdin, 'drain', { signal: listening.signal }).catch(() => {});
        await Promise.race([drained, once(stdin, 'close', { signal: listening.signal }).catch(() => {}), ended]);
        listening.abort();
      }
      if (broken || stdin.destroyed) throw new HoldfastError('dump-checker-ended', `${child.command} ended before it had read all`, { retryable: true });
    },
    end: () => void stdin.end(),
    complete: () => !broken,
  };
}

/**
 * Roles, memberships and their settings as SQL that runs under ON_ERROR_STOP on a cluster where some of the roles exist.
 * Without the right to read password hashes they are left out.
 */
export async function dumpGlobals(options: Pick<DumpOptions, 'target' | 'binDirectory' | 'applicationName' | 'signal'> & { rolePasswords: boolean }): Promise<string> {
  const argv = [
    postgresTool(options, 'pg_dumpall'), '--roles-only', '--no-password', `--database=${options.target.database}`,
    ...(options.rolePasswords ? [] : ['--no-role-passwords']),
  ];
  const output = await runChild(argv, { env: libpqEnvironment(options.target, options.applicationName), signal: options.signal });
  if (!/^-- PostgreSQL database cluster dump complete\s+--\s*$/m.test(output.stdout.slice(-500))) {
    throw new HoldfastError('globals-truncated', 'pg_dumpall ended without its closing line', { retryable: true, next: 'nothing was committed; when it happens again check pg_dumpall on this worker' });
  }
  return output.stdout
    .split('\n')
    .map((line) => {
      if (!/^CREATE ROLE .*;$/.test(line)) return line;
      let tag = '$role$';
      for (let number = 1; line.includes(tag); number += 1) tag = `$role${number}$`;
      return `DO ${tag} BEGIN ${line} EXCEPTION WHEN duplicate_object THEN NULL; END ${tag};`;
    })
    .join('\n');
}
