import type { Client } from 'pg';
import { HoldfastError } from '../model/errors.ts';
import { fenceEpoch, fenceWhole, withFence, withoutFence } from '../model/fence-text.ts';
import { connectPostgres, type PostgresTarget } from './postgres.ts';

export interface FenceView {
  readonly epoch: number | null;
  /** Of the fence: written in postgresql.auto.conf, or still in effect because the server has not read its files since it was taken away. */
  readonly readOnlyDefault: boolean;
  /** Client sessions other than our own. */
  readonly sessions: number;
  /** Sessions of others than the administrator, and whatever else holds a transaction that writes. */
  readonly strangers: readonly string[];
  readonly standbySignal: boolean;
  /** The fence is whole and comes first, and the server has loaded the rules as they are written now, without an error in them. */
  readonly inForce: boolean;
}

/** @param client a session opened for this look: only a new one shows when the postmaster loaded its files. */
export async function readFence(client: Client): Promise<FenceView> {
  const row = (
    await client.query(`
      select pg_read_file(current_setting('hba_file')) as hba, session_user::text as admin,
             pg_conf_load_time() >= (pg_stat_file(current_setting('hba_file'))).modification
               and not exists (select from pg_hba_file_rules where error is not null) as loaded,
             exists (select from pg_file_settings where name = 'default_transaction_read_only' and setting in ('on','true','yes','1') and sourcefile like '%postgresql.auto.conf')
               or exists (select from pg_settings where name = 'default_transaction_read_only' and reset_val = 'on' and source = 'configuration file') as file_ro,
             (select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid())::int as sessions,
             (select coalesce(array_agg(format('pid %s (%s)', pid, coalesce(usename, backend_type))), '{}') from pg_stat_activity
              where pid <> pg_backend_pid() and ((backend_type = 'client backend' and usename is distinct from session_user)
                or (backend_xid is not null and backend_type not in ('client backend', 'autovacuum worker')))) as strangers,
             (pg_stat_file('standby.signal', true)).size is not null as standby_signal`)
  ).rows[0] as { hba: string; admin: string; loaded: boolean; file_ro: boolean; sessions: number; strangers: string[]; standby_signal: boolean };
  return { epoch: fenceEpoch(row.hba), readOnlyDefault: row.file_ro, sessions: row.sessions, strangers: row.strangers, standbySignal: row.standby_signal, inForce: row.loaded && fenceWhole(row.hba, row.admin) };
}

export interface Refused {
  readonly lsn: string;
  readonly refusedFromMs: number;
  readonly sessionsEnded: number;
  /** Prepared transactions that are left. They are part of the WAL up to `lsn`, so they wait on the new primary too. */
  readonly preparedTransactions: number;
  /** What the fence cannot know or hold on a server that runs. */
  readonly limits: readonly string[];
  /** Milliseconds by part, for the report. */
  readonly parts: Readonly<Record<string, number>>;
}

export interface RefuseOptions {
  readonly epoch: number;
  readonly execution: string;
  readonly timeoutMs: number;
  readonly nowMs: () => number;
  readonly signal?: AbortSignal;
  /** Ends a server process on its host: a connection that has not yet sent who it is cannot be ended by SQL. */
  readonly endProcess?: (pid: number) => Promise<void>;
  /** Called once no session is left, before the last WAL position is read. */
  readonly whenRefused?: () => Promise<void>;
}

/** Known to write nothing that a session, a subscription or a job asked for. */
const HARMLESS = ['client backend', 'parallel worker', 'autovacuum launcher', 'autovacuum worker', 'logical replication launcher', 'background writer', 'checkpointer', 'walwriter', 'walsender', 'walreceiver', 'archiver', 'startup', 'walsummarizer', 'io worker', 'slotsync worker'];

/**
 * Let nobody in but the administrator and replication, end every session, and return the WAL position after the last
 * acknowledged write, flushed. Idempotent. Writes are refused from `refusedFromMs` (worker clock).
 * @throws HoldfastError `sessions-remain` when a session cannot be ended in time, `stale-epoch` when a newer execution fenced it
 */
export async function refuseWrites(client: Client, target: PostgresTarget, options: RefuseOptions): Promise<Refused> {
  const parts: Record<string, number> = {};
  let mark = options.nowMs();
  const lap = (name: string): void => {
    parts[name] = options.nowMs() - mark;
    mark = options.nowMs();
  };
  const deadline = options.nowMs() + options.timeoutMs;
  await lockRules(client, true);
  const hba = await readServerFile(client, 'hba_file');
  refuseStale(hba, options.epoch, target);
  const fenced = withFence(hba, { admin: target.user, epoch: options.epoch, execution: options.execution });
  await client.query('alter system set default_transaction_read_only = on');
  const hbaFile = await settingOf(client, 'hba_file');
  if (fenced !== hba) await writeServerFile(client, hbaFile, fenced);
  lap('rulesWritten');
  // Nothing is refused before the server loads the rules.
  const refusedFromMs = options.nowMs();
  let firstUnderRules: number | null = null;
  try {
    firstUnderRules = await reload(client, target, deadline, options.nowMs, options.signal);
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'locked-out') throw error;
    // We would shut ourselves out: through the session that is still open everything goes back as it was.
    await writeServerFile(client, hbaFile, hba);
    await client.query('alter system reset default_transaction_read_only');
    await client.query('select pg_reload_conf()');
    throw error;
  }
  lap('rulesInForce');
  const limits: string[] = [];
  if (firstUnderRules === null) limits.push('connections that were logging in when the rules were loaded could not be looked for (no /proc)');
  let sessionsEnded = 0;
  let looks = 0;
  for (;;) {
    // First the connections that are not sessions yet, then the sessions: what becomes one in between is seen as one.
    const logins = firstUnderRules === null ? [] : await loginsUnderWay(client, firstUnderRules);
    const rows = (
      await client.query(`
        select pid, pg_terminate_backend(pid) as told, coalesce(usename, backend_type) as who, coalesce(application_name, '') as application
        from pg_stat_activity
        where pid <> pg_backend_pid() and (backend_type = 'client backend' or (backend_xid is not null and backend_type not in ('autovacuum worker', 'walsender')))`)
    ).rows as { pid: number; who: string; application: string }[];
    if (rows.length === 0 && logins.length === 0) break;
    sessionsEnded = Math.max(sessionsEnded, rows.length);
    // A login takes some milliseconds and is then a session; one that dawdles is ended.
    if (looks === 20) {
      for (const login of logins) {
        await client.query('select pg_terminate_backend($1)', [login]);
        await options.endProcess?.(login);
      }
    }
    looks += 1;
    options.signal?.throwIfAborted();
    if (options.nowMs() > deadline) {
      const found = [...rows.slice(0, 5).map((row) => `pid ${row.pid} (${row.who} ${row.application})`), ...logins.slice(0, 5).map((login) => `pid ${login} (connected under the rules before and still logging in)`)];
      throw new HoldfastError('sessions-remain', `${rows.length + logins.length} session(s) on ${target.host}:${target.port} did not end: ${found.join(', ')}`, {
        next: 'look at these backends on the server; the step lifts read-only again',
        retryable: true,
      });
    }
    await pause(2);
  }
  lap('sessionsEnded');
  const left = (
    await client.query(
      `select (select count(*) from pg_prepared_xacts)::int as prepared, (select count(*) from pg_subscription where subenabled)::int as subscriptions,
              (select coalesce(array_agg(distinct backend_type), '{}') from pg_stat_activity where backend_type <> all($1::text[])) as workers`,
      [HARMLESS],
    )
  ).rows[0] as { prepared: number; subscriptions: number; workers: string[] };
  // What a subscription applies asks neither pg_hba.conf nor read-only.
  if (left.subscriptions > 0) throw new HoldfastError('writers-remain', `${left.subscriptions} enabled subscription(s) on ${target.host}:${target.port} go on writing whatever is refused`, { next: 'alter subscription ... disable, then start again; the step lifts read-only again', retryable: false });
  if (left.workers.length > 0) limits.push(`background workers of the server run beside sessions (${left.workers.join(', ')}): read-only is only their default`);
  if (options.whenRefused !== undefined) {
    await options.whenRefused();
    lap('standbysTurned');
  }
  // A commit of our own flushes whatever was acknowledged before it was on disk (synchronous_commit = off).
  await client.query('begin read write');
  await client.query("select pg_logical_emit_message(true, 'holdfast', $1)", [`read-only epoch ${options.epoch}`]);
  await client.query('set local synchronous_commit = local');
  await client.query('commit');
  const lsn = ((await client.query('select pg_current_wal_flush_lsn()::text as lsn')).rows[0] as { lsn: string }).lsn;
  lap('walPosition');
  return { lsn, refusedFromMs, sessionsEnded, preparedTransactions: left.prepared, limits, parts };
}

/** Let everybody in again, unless the fence is another execution's. Idempotent. */
export async function allowWrites(client: Client, target: PostgresTarget, options: { epoch: number; timeoutMs: number; nowMs: () => number }): Promise<void> {
  await lockRules(client, false);
  const hba = await readServerFile(client, 'hba_file');
  const epoch = fenceEpoch(hba);
  if (epoch !== null && epoch !== options.epoch) {
    throw new HoldfastError('foreign-fence', `${target.host}:${target.port} carries the fence of epoch ${epoch}, not ours (${options.epoch})`, { next: 'another execution fenced it: look at `holdfast audit`' });
  }
  const open = withoutFence(hba);
  if (open !== hba) await writeServerFile(client, await settingOf(client, 'hba_file'), open);
  await client.query('alter system reset default_transaction_read_only');
  await reload(client, target, options.nowMs() + options.timeoutMs, options.nowMs);
}

/**
 * Two workers must not change the rules at once: one of them would not see the epoch of the other. Held until the session ends.
 * `takeOver`: a holder that does not end, such as a worker that hangs, is ended; the epoch decides who is right.
 */
async function lockRules(client: Client, takeOver: boolean): Promise<void> {
  await client.query("set lock_timeout = '2s'");
  for (let attempt = 1; ; attempt += 1) {
    try {
      await client.query("select pg_advisory_lock(hashtextextended('holdfast fence', 0))");
      return;
    } catch (error) {
      if ((error as { code?: string }).code !== '55P03') throw error;
      if (!takeOver || attempt === 2) throw new HoldfastError('rules-busy', 'another session of Holdfast is changing the rules of this server', { next: 'see who holds the advisory lock: pg_locks, pg_stat_activity', retryable: true, cause: error });
      await client.query(`
        select pg_terminate_backend(pid) from pg_locks
        where locktype = 'advisory' and granted and pid <> pg_backend_pid() and ((classid::bigint << 32) | objid::bigint) = hashtextextended('holdfast fence', 0)`);
    }
  }
}

/** @throws HoldfastError `stale-epoch`: the node was fenced by a later execution, and whoever still holds an older epoch has no say */
export function refuseStale(hba: string, epoch: number, target: { host: string; port: number }): void {
  const found = fenceEpoch(hba);
  if (found !== null && found > epoch) {
    throw new HoldfastError('stale-epoch', `${target.host}:${target.port} carries the fence of epoch ${found}, which is later than ours (${epoch})`, { next: 'a later execution took over: this one must end; look at `holdfast audit`' });
  }
}

/**
 * Server processes that were begun under the rules before and are not in pg_stat_activity: they still read who the client is,
 * or its password, decide by the rules they were born with, and would be sessions after the last one was ended. Up to version
 * 17 only the operating system shows them.
 */
async function loginsUnderWay(client: Client, firstUnderRules: number): Promise<number[]> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const rows = (
        await client.query(
          `
          with process as (
            select name::int as pid, regexp_split_to_array(substring(pg_read_file('/proc/' || name || '/stat', 0, 1024, true) from '\\) (.*)$'), ' ') as stat
            from pg_ls_dir('/proc') as name where name ~ '^[0-9]+$')
          select process.pid
          from process cross join lateral (select encode(pg_read_binary_file('/proc/' || pid || '/cmdline', 0, 512, true), 'escape') as title) as shown
          where stat[2]::int = split_part(pg_read_file('postmaster.pid'), E'\n', 1)::int and stat[1] <> 'Z' and stat[20]::bigint <= $1
            and (title ~ '\\[local\\]|\\([0-9]+\\)' or title !~ '^postgres: ')
            and not exists (select from pg_stat_activity where pg_stat_activity.pid = process.pid)`,
          [firstUnderRules],
        )
      ).rows as { pid: number }[];
      return rows.map((row) => row.pid);
    } catch (error) {
      // A process that ended between its name and its file.
      if (attempt === 20) throw error;
    }
  }
}

/** After a restart the server comes up in recovery: it cannot be written, whatever a session says. */
export async function leaveStandbySignal(client: Client): Promise<void> {
  const directory = await settingOf(client, 'data_directory');
  await writeServerFile(client, `${directory}/standby.signal`, '');
  // Replacing postgresql.auto.conf makes the directory durable, and with it the new name: else a power cut could take it back.
  await client.query('alter system set default_transaction_read_only = on');
}

/**
 * Have the server read its files again, and know that it has: a backend inherits the postmaster's load time when it is
 * forked, so a new session with a later one was let in by the new rules. Works whatever language the server speaks and
 * whatever the other rules say.
 * @returns when a process born under the new rules began, in the system's clock ticks; null where there is no /proc
 * @throws HoldfastError `locked-out` when the administrator is no longer let in, `rules-wrong` when pg_hba.conf has an error
 */
async function reload(client: Client, target: PostgresTarget, deadlineMs: number, nowMs: () => number, signal?: AbortSignal): Promise<number | null> {
  const { before } = (await client.query('select clock_timestamp()::text as before')).rows[0] as { before: string };
  await client.query('select pg_reload_conf()');
  for (;;) {
    let loaded = false;
    let began: string | null = null;
    try {
      const session = await connectPostgres(target, { applicationName: 'holdfast-step', connectTimeoutMs: 3000, queryTimeoutMs: 5000 });
      try {
        const row = (await session.query("select pg_conf_load_time() >= $1::timestamptz as loaded, (select string_agg(format('line %s: %s', line_number, error), '; ') from pg_hba_file_rules where error is not null) as errors, (regexp_split_to_array(substring(pg_read_file('/proc/self/stat', 0, 1024, true) from '\\) (.*)$'), ' '))[20] as began", [before])).rows[0] as { loaded: boolean; errors: string | null; began: string | null };
        if (row.errors !== null) throw new HoldfastError('rules-wrong', `pg_hba.conf of ${target.host}:${target.port} has errors, so the server keeps its old rules: ${row.errors}`, { next: 'mend pg_hba.conf, then start again' });
        loaded = row.loaded;
        began = row.began;
      } finally {
        await session.end().catch(() => {});
      }
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'postgres-connect' && !error.retryable) {
        throw new HoldfastError('locked-out', `with the fence in pg_hba.conf ${target.host}:${target.port} no longer lets the administrator ${target.user} in by password: ${error.message}`, {
          next: 'give the administrator a password that the secret reference holds; trust, peer and certificate logins cannot pass the fence',
        });
      }
      if (!(error instanceof HoldfastError) || !error.retryable) throw error;
    }
    if (loaded) return began === null ? null : Number(began);
    signal?.throwIfAborted();
    if (nowMs() > deadlineMs) {
      throw new HoldfastError('rules-not-loaded', `${target.host}:${target.port} did not load the changed pg_hba.conf in time`, { next: 'look at the server log', retryable: true });
    }
    await pause(2);
  }
}

async function settingOf(client: Client, name: string): Promise<string> {
  return ((await client.query('select current_setting($1) as value', [name])).rows[0] as { value: string }).value;
}

async function readServerFile(client: Client, setting: string): Promise<string> {
  return ((await client.query('select pg_read_file(current_setting($1)) as text', [setting])).rows[0] as { text: string }).text;
}

/**
 * Write a file on the server byte for byte: COPY TO would escape backslashes and tabs. The large object that carries it is
 * rolled back, the file stays.
 */
async function writeServerFile(client: Client, path: string, content: string): Promise<void> {
  await client.query('begin read write');
  try {
    const oid = ((await client.query('select lo_from_bytea(0, $1) as oid', [Buffer.from(content, 'utf8')])).rows[0] as { oid: string }).oid;
    await client.query('select lo_export($1, $2)', [oid, path]);
  } finally {
    await client.query('rollback');
  }
}

/** What must hold for the fence to be possible at all; asked before the first change. */
export async function fenceRights(client: Client): Promise<{ superuser: boolean; hbaFile: string; hbaErrors: string | null; preparedTransactions: number; subscriptions: number }> {
  const row = (
    await client.query(`
      select (select rolsuper from pg_roles where rolname = current_user) as superuser, current_setting('hba_file', true) as hba_file,
             (select string_agg(format('line %s: %s', line_number, error), '; ') from pg_hba_file_rules where error is not null) as hba_errors,
             (select count(*) from pg_prepared_xacts)::int as prepared,
             (select count(*) from pg_subscription where subenabled)::int as subscriptions`)
  ).rows[0] as { superuser: boolean; hba_file: string | null; hba_errors: string | null; prepared: number; subscriptions: number };
  return { superuser: row.superuser, hbaFile: row.hba_file ?? '', hbaErrors: row.hba_errors, preparedTransactions: row.prepared, subscriptions: row.subscriptions };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
