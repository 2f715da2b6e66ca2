/**
 * The tools that keep base backups and WAL of a self-managed PostgreSQL, by one contract: what is in the archive, one base backup into a
 * folder, one WAL file into a file. Secrets reach them by environment only.
 */
import { rename, rm } from 'node:fs/promises';
import type { Client } from 'pg';
import type { WalArchiveConfig } from '../model/config-wal.ts';
import type { NodeConfig } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { runChild, type ChildOutput } from './child.ts';
import type { Context } from './context.ts';
import { runOnNode } from './postgres-node.ts';

export interface BaseBackup {
  readonly label: string;
  /** By the clock of whoever made it. A moment before it cannot be restored from it. */
  readonly finishedAtMs: number;
  readonly startWal: string;
  /** null: the tool does not say. */
  readonly systemIdentifier: string | null;
  readonly bytes: number | null;
}

export interface ArchiveContent {
  /** Oldest first; those the tool itself calls damaged are left out. */
  readonly backups: readonly BaseBackup[];
  readonly damaged: readonly string[];
  /** Newest WAL file in the archive; null: none, or the tool does not say. */
  readonly newestWal: string | null;
}

export interface OsUser {
  readonly uid: number;
  readonly gid: number;
}

export interface WalArchive {
  readonly tool: WalArchiveConfig['tool'];
  version(signal?: AbortSignal): Promise<string>;
  content(signal?: AbortSignal): Promise<ArchiveContent>;
  /** Into an empty folder: no setting of recovery is left to the tool, no link and no tablespace goes where it was. */
  restore(backup: BaseBackup, to: { data: string; tablespaces: string; locks: string }, signal: AbortSignal): Promise<void>;
  /** false: the archive has no such file. The file appears under its name when it is complete. */
  fetch(file: string, path: string, at: { data: string; locks: string }, signal: AbortSignal): Promise<boolean>;
  /** The tool's own proof that archiving works, on the host where `archive_command` runs. Forces a WAL switch. */
  checkOnNode(node: NodeConfig, signal: AbortSignal): Promise<string>;
}

/** How many kilobytes of a tool's words go into an error. */
const SAID = 1500;
/** wal-g: `the file does not exist`, told apart from every other failure. Source: wal-g pull request 1195. */
const WALG_ABSENT = 74;
/** pgBackRest's archive-get: not found. Everything else has codes from 25 on. Source: its user guide. */
const PGBACKREST_ABSENT = 1;

/** @param osUser who the drill server runs as: what is restored must belong to it. */
export async function openWalArchive(context: Context, config: WalArchiveConfig, osUser: OsUser | undefined): Promise<WalArchive> {
  const env: Record<string, string> = { ...config.environment };
  for (const [name, reference] of Object.entries(config.secrets)) env[name] = await context.secrets.resolve(reference);
  const run = (args: readonly string[], options: { signal?: AbortSignal; allowFailure?: boolean }): Promise<ChildOutput> => runChild([...config.command, ...args], { ...osUser, env, cwd: '/', killAfterMs: 10_000, groupDiesWithParent: true, ...options });
  return config.tool === 'pgbackrest' ? pgbackrest(config, run) : walg(config, run);
}

type Run = (args: readonly string[], options: { signal?: AbortSignal; allowFailure?: boolean }) => Promise<ChildOutput>;

function pgbackrest(config: Extract<WalArchiveConfig, { tool: 'pgbackrest' }>, run: Run): WalArchive {
  const at = [...(config.configFile === undefined ? [] : [`--config=${config.configFile}`]), `--stanza=${config.stanza}`];
  // Its own log files would belong to whoever ran it first.
  const quiet = ['--log-level-file=off', '--log-level-console=off', '--log-level-stderr=warn'];
  return {
    tool: 'pgbackrest',
    async version(signal) {
      return (await run(['version'], { signal })).stdout.trim();
    },
    async content(signal) {
      const answer = await run([...at, ...quiet, 'info', '--output=json'], { signal, allowFailure: true });
      if (answer.code !== 0) throw refused('pgbackrest info', answer, config);
      return pgbackrestContent(answer.stdout, config.stanza);
    },
    async restore(backup, { data, tablespaces, locks }, signal) {
      const args = [...at, ...quiet, `--pg1-path=${data}`, `--set=${backup.label}`, '--type=none', '--archive-mode=off', `--tablespace-map-all=${tablespaces}`, `--lock-path=${locks}`, 'restore'];
      const answer = await run(args, { signal, allowFailure: true });
      if (answer.code !== 0) throw refused(`pgbackrest restore of ${backup.label}`, answer, config);
    },
    async fetch(file, path, { data, locks }, signal) {
      const part = `${path}.part`;
      await rm(part, { force: true });
      const answer = await run([...at, ...quiet, '--no-archive-async', `--pg1-path=${data}`, `--lock-path=${locks}`, 'archive-get', file, part], { signal, allowFailure: true });
      if (answer.code === PGBACKREST_ABSENT) return false;
      if (answer.code !== 0) throw refused(`pgbackrest archive-get ${file}`, answer, config);
      await rename(part, path);
      return true;
    },
    async checkOnNode(node, signal) {
      const file = config.node.configFile ?? config.configFile;
      const argv = [...(config.node.command ?? config.command), ...(file === undefined ? [] : [`--config=${file}`]), `--stanza=${config.stanza}`, ...quiet, 'check'];
      const answer = await runOnNode(node, argv, { signal, allowFailure: true });
      if (answer.code !== 0) throw refused('pgbackrest check on the primary', answer, config);
      return 'pgbackrest check: a WAL segment was switched and found in the archive';
    },
  };
}

interface PgbackrestInfo {
  readonly name: string;
  readonly status?: { readonly code: number; readonly message: string };
  readonly repo?: readonly { readonly status?: { readonly code: number; readonly message: string } }[];
  readonly archive?: readonly { readonly max: string | null; readonly database?: { readonly id: number } }[];
  readonly db?: readonly { readonly id: number; readonly 'system-id': number }[];
  readonly backup?: readonly {
    readonly label: string;
    readonly error?: boolean;
    readonly timestamp: { readonly stop: number };
    readonly archive: { readonly start: string };
    readonly database?: { readonly id: number };
    readonly info?: { readonly size?: number };
  }[];
}

/** Pure, for the tests. Status codes: 0 ok, 1 no such stanza, 2 no backup yet, anything else a repository that cannot be read. */
export function pgbackrestContent(text: string, stanza: string): ArchiveContent {
  let list: readonly PgbackrestInfo[];
  try {
    list = JSON.parse(text) as readonly PgbackrestInfo[];
  } catch (error) {
    throw new HoldfastError('wal-archive-answer', `pgbackrest info did not answer with JSON: ${text.slice(0, 200)}`, { next: 'check that walArchive.command is pgBackRest 2.x', cause: error });
  }
  const found = list.find((entry) => entry.name === stanza);
  const code = found?.status?.code ?? 1;
  if (found === undefined || code === 1) throw new HoldfastError('wal-archive-stanza', `the archive has no stanza "${stanza}"${list.length === 0 ? '' : `; it has ${list.map(({ name }) => name).join(', ')}`}`, { next: 'correct walArchive.stanza, or run: pgbackrest stanza-create' });
  const unread = [found.status, ...(found.repo ?? []).map(({ status }) => status)].find((status) => status !== undefined && status.code !== 0 && status.code !== 2 && status.code !== 4);
  if (unread !== undefined && (found.backup ?? []).length === 0) throw new HoldfastError('wal-archive-unread', `the archive cannot be read: ${(found.repo?.find(({ status }) => status?.code === unread.code)?.status ?? unread).message.slice(0, SAID)}`, { next: "check the repository's address, its credentials and the network", retryable: true });
  // Numbers of 64 bits lose their last digits in JSON.parse; as text they stay.
  const identifiers = new Map([...text.matchAll(/"id":(\d+),"repo-key":\d+,"system-id":(\d+)/g)].map((match) => [Number(match[1]), match[2]!]));
  const all = found.backup ?? [];
  const segments = (found.archive ?? []).map(({ max }) => max).filter((max) => max !== null);
  return {
    backups: all
      .filter(({ error }) => error !== true)
      .map((backup) => ({ label: backup.label, finishedAtMs: backup.timestamp.stop * 1000, startWal: backup.archive.start, systemIdentifier: identifiers.get(backup.database?.id ?? -1) ?? null, bytes: backup.info?.size ?? null }))
      .toSorted((a, b) => a.finishedAtMs - b.finishedAtMs),
    damaged: all.filter(({ error }) => error === true).map(({ label }) => label),
    newestWal: segments.toSorted().at(-1) ?? null,
  };
}

function walg(config: Extract<WalArchiveConfig, { tool: 'wal-g' }>, run: Run): WalArchive {
  const at = config.configFile === undefined ? [] : ['--config', config.configFile];
  return {
    tool: 'wal-g',
    async version(signal) {
      return (await run(['--version'], { signal })).stdout.trim();
    },
    async content(signal) {
      const answer = await run([...at, 'backup-list', '--detail', '--json'], { signal, allowFailure: true });
      if (answer.code !== 0) throw refused('wal-g backup-list', answer, config);
      return walgContent(answer.stdout);
    },
    async restore(backup, { data }, signal) {
      const answer = await run([...at, 'backup-fetch', data, backup.label], { signal, allowFailure: true });
      if (answer.code !== 0) throw refused(`wal-g backup-fetch of ${backup.label}`, answer, config);
    },
    async fetch(file, path, _at, signal) {
      const part = `${path}.part`;
      await rm(part, { force: true });
      const answer = await run([...at, 'wal-fetch', file, part], { signal, allowFailure: true });
      if (answer.code === WALG_ABSENT) return false;
      if (answer.code !== 0) throw refused(`wal-g wal-fetch ${file}`, answer, config);
      await rename(part, path);
      return true;
    },
    async checkOnNode(node, signal) {
      const file = config.node.configFile ?? config.configFile;
      const argv = [...(config.node.command ?? config.command), ...(file === undefined ? [] : ['--config', file]), 'wal-verify', 'integrity', 'timeline', '--json'];
      const answer = await runOnNode(node, argv, { signal, allowFailure: true });
      if (answer.code !== 0 || /"status"\s*:\s*"FAILURE"/.test(answer.stdout)) throw refused('wal-g wal-verify on the primary', { ...answer, stderr: `${answer.stderr}\n${answer.stdout}` }, config);
      return 'wal-g wal-verify: integrity and timeline hold';
    },
  };
}

/** Pure, for the tests. */
export function walgContent(text: string): ArchiveContent {
  let list: readonly { backup_name: string; finish_time?: string; time?: string; modified?: string; wal_file_name?: string; system_identifier?: number; uncompressed_size?: number }[];
  try {
    // An empty archive is told in words on stderr, with nothing on stdout.
    list = text.trim() === '' ? [] : ((JSON.parse(text) as typeof list | null) ?? []);
  } catch (error) {
    throw new HoldfastError('wal-archive-answer', `wal-g backup-list did not answer with JSON: ${text.slice(0, 200)}`, { next: 'check that walArchive.command is wal-g for PostgreSQL', cause: error });
  }
  const identifiers = new Map([...text.matchAll(/"backup_name"\s*:\s*"([^"]+)"[^{}]*?"system_identifier"\s*:\s*(\d+)/g)].map((match) => [match[1]!, match[2]!]));
  const backups = list.flatMap((backup): BaseBackup[] => {
    const finishedAtMs = Date.parse(backup.finish_time ?? backup.time ?? backup.modified ?? '');
    if (Number.isNaN(finishedAtMs)) return [];
    return [{ label: backup.backup_name, finishedAtMs, startWal: backup.wal_file_name ?? '', systemIdentifier: identifiers.get(backup.backup_name) ?? null, bytes: backup.uncompressed_size ?? null }];
  });
  return { backups: backups.toSorted((a, b) => a.finishedAtMs - b.finishedAtMs), damaged: [], newestWal: null };
}

/** What pgBackRest's codes say of who is at fault. Source: its list of error codes. */
const MEANING: Readonly<Record<number, { text: string; retryable: boolean; next: string }>> = {
  27: { text: 'a path or file is missing', retryable: false, next: 'check the paths in its configuration' },
  29: { text: 'a file in the archive is cut off or not what it should be', retryable: false, next: 'the archive is damaged there: make a new base backup now, then find out how it came about' },
  31: { text: 'an option is wrong', retryable: false, next: 'check its configuration with: pgbackrest info' },
  39: { text: 'the repository did not answer as expected', retryable: true, next: "check the repository's credentials and address" },
  41: { text: 'a file could not be opened', retryable: false, next: 'check the rights of the OS user that the drill server runs as' },
  42: { text: 'a file could not be read', retryable: true, next: 'check the network to the repository' },
  49: { text: 'the repository cannot be reached', retryable: true, next: 'check address, port and TLS of the repository' },
  50: { text: 'another pgBackRest holds its lock', retryable: true, next: 'wait until it has ended' },
  82: { text: 'WAL did not reach the archive in time', retryable: true, next: 'look at archive_command in the log of the primary' },
  95: { text: 'a file in the repository was not as recorded', retryable: false, next: 'the archive is damaged there: make a new base backup now' },
};

function refused(what: string, exit: ChildOutput, config: WalArchiveConfig): HoldfastError {
  const said = exit.stderr.trim() === '' ? exit.stdout.trim().slice(-SAID) : exit.stderr.trim().slice(-SAID);
  const meaning = config.tool === 'pgbackrest' && exit.code !== null ? MEANING[exit.code] : undefined;
  const ended = exit.signal === null ? `ended with exit code ${exit.code}${meaning === undefined ? '' : ` (${meaning.text})`}` : `was ended by ${exit.signal}`;
  return new HoldfastError('wal-archive-tool', `${what} ${ended}: ${said === '' ? '(it said nothing)' : said}`, { next: meaning?.next ?? 'see what it said; run the same command by hand', retryable: exit.signal !== null || (meaning?.retryable ?? false), context: { exitCode: exit.code } });
}

// --- the server that archives ------------------------------------------------------------------------------------------------------

export interface ArchiverStatus {
  readonly inRecovery: boolean;
  readonly systemIdentifier: string;
  readonly archiveMode: string;
  readonly command: string;
  readonly archiveTimeoutMs: number;
  readonly archivedWal: string | null;
  readonly archivedAgeMs: number | null;
  readonly failedWal: string | null;
  /** The last failure came after the last success. */
  readonly failing: boolean;
  /** Segments that are complete and not archived yet. */
  readonly waiting: number;
  readonly oldestWaitingMs: number | null;
  readonly currentWal: string;
}

const ARCHIVER_SQL = `
select pg_is_in_recovery() as in_recovery,
       (select system_identifier::text from pg_control_system()) as system_identifier,
       current_setting('archive_mode') as archive_mode,
       coalesce(nullif(current_setting('archive_command'), ''), '') || coalesce(nullif(current_setting('archive_library', true), ''), '') as command,
       (select setting::bigint * 1000 from pg_settings where name = 'archive_timeout') as archive_timeout_ms,
       a.last_archived_wal as archived_wal,
       extract(epoch from clock_timestamp() - a.last_archived_time) * 1000 as archived_age_ms,
       a.last_failed_wal as failed_wal,
       coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false) as failing,
       (select count(*)::int from pg_ls_archive_statusdir() where name like '%.ready') as waiting,
       (select extract(epoch from clock_timestamp() - min(modification)) * 1000 from pg_ls_archive_statusdir() where name like '%.ready') as oldest_waiting_ms,
       case when pg_is_in_recovery() then '' else pg_walfile_name(pg_current_wal_lsn()) end as current_wal
  from pg_stat_archiver a`;

export async function archiverStatus(client: Client): Promise<ArchiverStatus> {
  const row = (await client.query(ARCHIVER_SQL)).rows[0] as Record<string, unknown>;
  const numeric = (value: unknown): number | null => (value === null ? null : Math.max(0, Math.round(Number(value))));
  return {
    inRecovery: row['in_recovery'] as boolean,
    systemIdentifier: row['system_identifier'] as string,
    archiveMode: row['archive_mode'] as string,
    command: row['command'] as string,
    archiveTimeoutMs: Number(row['archive_timeout_ms']),
    archivedWal: row['archived_wal'] as string | null,
    archivedAgeMs: numeric(row['archived_age_ms']),
    failedWal: row['failed_wal'] as string | null,
    failing: row['failing'] as boolean,
    waiting: row['waiting'] as number,
    oldestWaitingMs: numeric(row['oldest_waiting_ms']),
    currentWal: row['current_wal'] as string,
  };
}

/** The next WAL file of the same timeline. Source: PostgreSQL's XLogFileName; 0x100000000 bytes share the middle part. */
export function nextWalFile(file: string, segmentBytes: number): string | undefined {
  if (!/^[0-9A-F]{24}$/.test(file)) return undefined;
  const perId = Math.floor(0x1_0000_0000 / segmentBytes);
  let id = Number.parseInt(file.slice(8, 16), 16);
  let segment = Number.parseInt(file.slice(16), 16) + 1;
  if (segment >= perId) [id, segment] = [id + 1, 0];
  const hex = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');
  return `${file.slice(0, 8)}${hex(id)}${hex(segment)}`;
}

