import type { Client } from 'pg';
import { HoldfastError } from '../model/errors.ts';
import { connectPostgres, type PostgresTarget } from './postgres.ts';

const BEGIN = '# BEGIN HOLDFAST FENCE';
const END = '# END HOLDFAST FENCE';
/**
 * Refusing writes by pg_hba.conf: survives a restart, is not replicated to the standby (as ALTER ROLE and ALTER DATABASE
 * would be), and no session can switch it off (as it can default_transaction_read_only). Replication connections pass,
 * since `all` does not match `replication`. Source: PostgreSQL documentation, 21.1 "The pg_hba.conf File".
 */
export function withFence(hba: string, options: { admin: string; epoch: number; execution: string }): string {
  const admin = `"${options.admin.replaceAll('"', '""')}"`;
  // md5 as a method accepts SCRAM verifiers too and is thus right for either password encryption.
  const block = [
    `${BEGIN} epoch=${options.epoch} execution=${options.execution.replaceAll(/[^\w./:-]/g, '_')}`,
    '# Writes are refused: only the recovery administrator and replication are let in. Remove this block and reload to lift it by hand.',
    `local all ${admin} md5`,
    `host all ${admin} all md5`,
    'local all all reject',
    'host all all all reject',
    END,
  ];
  return `${block.join('\n')}\n${withoutFence(hba)}`;
}

/** The rules without the fence. Also mends a block whose end is missing: the fence's own lines are recognised one by one. */
export function withoutFence(hba: string): string {
  const kept: string[] = [];
  let inside = false;
  for (const line of hba.split('\n')) {
    if (line.startsWith(BEGIN)) inside = true;
    else if (line.startsWith(END)) inside = false;
    else if (!inside) kept.push(line);
  }
  return kept.join('\n');
}

/** Epoch of the fence in these rules, null when there is none. */
export function fenceEpoch(hba: string): number | null {
  const match = /^# BEGIN HOLDFAST FENCE epoch=(\d+)/m.exec(hba);
  return match === null ? null : Number(match[1]);
}

export interface FenceView {
  readonly epoch: number | null;
  readonly readOnlyDefault: boolean;
  /** Client sessions other than our own. */
  readonly sessions: number;
  readonly standbySignal: boolean;
  /** The server has loaded the rules as they are written now, without an error in them. */
  readonly inForce: boolean;
}

/** @param client a session opened for this look: only a new one shows when the postmaster loaded its files. */
export async function readFence(client: Client): Promise<FenceView> {
  const row = (
    await client.query(`
      select pg_read_file(current_setting('hba_file')) as hba,
             pg_conf_load_time() >= (pg_stat_file(current_setting('hba_file'))).modification
               and not exists (select from pg_hba_file_rules where error is not null) as in_force,
             exists (select from pg_file_settings where name = 'default_transaction_read_only' and setting in ('on','true','yes','1') and sourcefile like '%postgresql.auto.conf') as file_ro,
             (select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid())::int as sessions,
             (pg_stat_file('standby.signal', true)).size is not null as standby_signal`)
  ).rows[0] as { hba: string; in_force: boolean; file_ro: boolean; sessions: number; standby_signal: boolean };
  return { epoch: fenceEpoch(row.hba), readOnlyDefault: row.file_ro, sessions: row.sessions, standbySignal: row.standby_signal, inForce: row.in_force };
}

export interface Refused {
  readonly lsn: string;
  readonly refusedFromMs: number;
  readonly sessionsEnded: number;
  /** Milliseconds by part, for the report. */
  readonly parts: Readonly<Record<string, number>>;
}

/**
 * Let nobody in but the administrator and replication, end every session, and return the WAL position after the last
 * acknowledged write, flushed. Idempotent. Writes are refused from `refusedFromMs` (worker clock).
 * @throws HoldfastError `sessions-remain` when a session cannot be ended in time
 */
export async function refuseWrites(
  client: Client,
  target: PostgresTarget,
  options: { epoch: number; execution: string; timeoutMs: number; nowMs: () => number; signal?: AbortSignal },
): Promise<Refused> {
  const parts: Record<string, number> = {};
  let mark = options.nowMs();
  const lap = (name: string): void => {
    parts[name] = options.nowMs() - mark;
    mark = options.nowMs();
  };
  const deadline = options.nowMs() + options.timeoutMs;
  const hba = await readServerFile(client, 'hba_file');
  const fenced = withFence(hba, { admin: target.user, epoch: options.epoch, execution: options.execution });
  await client.query('alter system set default_transaction_read_only = on');
  const hbaFile = await settingOf(client, 'hba_file');
  if (fenced !== hba) await writeServerFile(client, hbaFile, fenced);
  lap('rulesWritten');
  // Nothing is refused before the server loads the rules.
  const refusedFromMs = options.nowMs();
  try {
    await reload(client, target, deadline, options.nowMs, options.signal);
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'locked-out') throw error;
    // We would shut ourselves out: through the session that is still open everything goes back as it was.
    await writeServerFile(client, hbaFile, hba);
    await client.query('alter system reset default_transaction_read_only');
    await client.query('select pg_reload_conf()');
    throw error;
  }
  lap('rulesInForce');
  let sessionsEnded = 0;
  for (;;) {
    const rows = (
      await client.query(`
        select pid, pg_terminate_backend(pid) as told, coalesce(usename, '') as who, coalesce(application_name, '') as application
        from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()`)
    ).rows as { pid: number; who: string; application: string }[];
    if (rows.length === 0) break;
    sessionsEnded = Math.max(sessionsEnded, rows.length);
    options.signal?.throwIfAborted();
    if (options.nowMs() > deadline) {
      throw new HoldfastError('sessions-remain', `${rows.length} session(s) on ${target.host}:${target.port} did not end: ${rows.slice(0, 5).map((row) => `pid ${row.pid} (${row.who} ${row.application})`).join(', ')}`, {
        next: 'look at these backends on the server; the step lifts read-only again',
        retryable: true,
      });
    }
    await pause(2);
  }
  lap('sessionsEnded');
  // A commit of our own flushes whatever was acknowledged before it was on disk (synchronous_commit = off).
  await client.query('begin read write');
  await client.query("select pg_logical_emit_message(true, 'holdfast', $1)", [`read-only epoch ${options.epoch}`]);
  await client.query('set local synchronous_commit = local');
  await client.query('commit');
  const lsn = ((await client.query('select pg_current_wal_flush_lsn()::text as lsn')).rows[0] as { lsn: string }).lsn;
  lap('walPosition');
  return { lsn, refusedFromMs, sessionsEnded, parts };
}

/** Let everybody in again. Idempotent. */
export async function allowWrites(client: Client, target: PostgresTarget, options: { timeoutMs: number; nowMs: () => number }): Promise<void> {
  const hba = await readServerFile(client, 'hba_file');
  const open = withoutFence(hba);
  if (open !== hba) await writeServerFile(client, await settingOf(client, 'hba_file'), open);
  await client.query('alter system reset default_transaction_read_only');
  await reload(client, target, options.nowMs() + options.timeoutMs, options.nowMs);
}

/** After a restart the server comes up in recovery: it cannot be written, whatever a session says. */
export async function leaveStandbySignal(client: Client): Promise<void> {
  const directory = await settingOf(client, 'data_directory');
  await writeServerFile(client, `${directory}/standby.signal`, '');
}

/**
 * Have the server read its files again, and know that it has: a backend inherits the postmaster's load time when it is
 * forked, so a new session with a later one was let in by the new rules. Works whatever language the server speaks and
 * whatever the other rules say.
 * @throws HoldfastError `locked-out` when the administrator is no longer let in, `rules-wrong` when pg_hba.conf has an error
 */
async function reload(client: Client, target: PostgresTarget, deadlineMs: number, nowMs: () => number, signal?: AbortSignal): Promise<void> {
  const { before } = (await client.query('select clock_timestamp()::text as before')).rows[0] as { before: string };
  await client.query('select pg_reload_conf()');
  for (;;) {
    let loaded = false;
    try {
      const session = await connectPostgres(target, { applicationName: 'holdfast-step', connectTimeoutMs: 3000, queryTimeoutMs: 5000 });
      try {
        const row = (await session.query("select pg_conf_load_time() >= $1::timestamptz as loaded, (select string_agg(format('line %s: %s', line_number, error), '; ') from pg_hba_file_rules where error is not null) as errors", [before])).rows[0] as { loaded: boolean; errors: string | null };
        if (row.errors !== null) throw new HoldfastError('rules-wrong', `pg_hba.conf of ${target.host}:${target.port} has errors, so the server keeps its old rules: ${row.errors}`, { next: 'mend pg_hba.conf, then start again' });
        loaded = row.loaded;
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
    if (loaded) return;
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
             (select count(*) from pg_stat_subscription where pid is not null)::int as subscriptions`)
  ).rows[0] as { superuser: boolean; hba_file: string | null; hba_errors: string | null; prepared: number; subscriptions: number };
  return { superuser: row.superuser, hbaFile: row.hba_file ?? '', hbaErrors: row.hba_errors, preparedTransactions: row.prepared, subscriptions: row.subscriptions };
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
