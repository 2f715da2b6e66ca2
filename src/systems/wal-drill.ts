/**
 * A base backup and WAL, restored to a moment in a server that nobody can reach and that reaches nobody: in a network namespace of its
 * own where this host allows it. So it cannot ask the archive itself; the worker hands it each WAL file it asks for, and knows which one
 * was missing when recovery ends early.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { chmod, chown, mkdir, readFile, readdir, rename, rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { PostgresDatastore } from '../model/config-schema.ts';
import type { WalArchiveConfig } from '../model/config-wal.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { Moment } from '../model/moment.ts';
import { formatBytes } from '../model/units.ts';
import { runChild, type RunningChild } from './child.ts';
import type { Context } from './context.ts';
import { writeIdentity, type DrillIdentity } from './drill-folder.ts';
import { canIsolateNetwork, destroyDrillTarget, drillsDirectory, layoutOf, serverBinaries, serverUser, startServer, type DrillTarget, type Layout } from './drill-target.ts';
import { withPostgres, type PostgresTarget } from './postgres.ts';
import { nextWalFile, openWalArchive, type BaseBackup, type OsUser, type WalArchive } from './wal-archive.ts';

const PORT = 5432;
const LOOK_MS = 20;
/** WAL files fetched before they are asked for. */
const AHEAD = 2;
const LOG_LINES = 40;
/** Settings by which the drill server could be reached, could act outside, or would not end where it was told to. */
const KEPT = /^(listen_addresses|port|unix_socket_.*|hba_file|ident_file|data_directory|external_pid_file|archive_.*|restore_command|recovery_.*|primary_.*|promote_.*|hot_standby|ssl.*|krb_.*|max_logical_replication_workers|logging_collector|log_destination|lc_messages)$/i;

export interface MomentRestore {
  readonly identity: DrillIdentity;
  readonly step: string;
  readonly datastore: PostgresDatastore;
  readonly config: WalArchiveConfig;
  readonly backup: BaseBackup;
  readonly moment: Moment;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
}

export interface RestoredMoment {
  readonly name: string;
  readonly connection: PostgresTarget;
  readonly isolation: DrillTarget['isolation'];
  readonly serverVersion: string;
  readonly restoreMs: number;
  readonly recoverMs: number;
  /** WAL files that recovery asked for and was given. */
  readonly walFiles: number;
  readonly lastWal: string | null;
  /** Commit time of the last transaction that was replayed, as the server wrote it. */
  readonly lastCommit: string | null;
  /** In the server's own words. */
  readonly stoppedAt: string | null;
  readonly timeline: number;
}

/** Deterministic, so that a later attempt destroys what an earlier one left. */
export function momentDrillName(identity: DrillIdentity, step: string): string {
  return `${identity.datastore}-wal-${createHash('sha256').update(`${identity.workflowId}\0${identity.runId}\0${step}`).digest('hex').slice(0, 12)}`;
}

/**
 * Restore, recover to the moment, hand the server to `work`, and destroy it, whatever happens.
 * @throws HoldfastError `wal-missing`: a file is not in the archive, named; `wal-not-reached`: WAL ended before the moment;
 * `wal-archive-tool`: the archive's tool failed; `wal-drill-*`: this host is at fault.
 */
export async function withMoment<T>(context: Context, options: MomentRestore, work: (restored: RestoredMoment) => Promise<T>): Promise<T> {
  if (!existsSync('/proc/self/cwd')) throw new HoldfastError('wal-drill-host', `drill targets are told from other servers by /proc, which this host (${process.platform}) does not have`, { next: 'run the worker that drills on Linux' });
  const name = momentDrillName(options.identity, options.step);
  await destroyDrillTarget(context, name);
  try {
    return await work(await restore(context, name, options));
  } finally {
    await destroyDrillTarget(context, name);
  }
}

async function restore(context: Context, name: string, options: MomentRestore): Promise<RestoredMoment> {
  const { identity, config, backup, signal, onProgress } = options;
  const layout = layoutOf(context, name);
  const osUser = serverUser();
  const folders = { spool: join(layout.root, 'wal'), tablespaces: join(layout.root, 'tablespaces'), locks: join(layout.root, 'locks') };
  await mkdir(drillsDirectory(context), { recursive: true, mode: 0o755 });
  await checkSpace(context, backup);
  await mkdir(layout.root, { recursive: true, mode: 0o755 });
  // First of all: from here on the sweep knows whose it is.
  await writeIdentity(layout.root, identity);
  for (const folder of [layout.data, layout.socket, ...Object.values(folders)]) {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await chmod(folder, 0o700);
    if (osUser !== undefined) await chown(folder, osUser.uid, osUser.gid);
  }
  const archive = await openWalArchive(context, config, osUser);
  const begun = performance.now();
  onProgress(`restoring base backup ${backup.label}`);
  await archive.restore(backup, { data: layout.data, tablespaces: folders.tablespaces, locks: folders.locks }, signal);
  signal.throwIfAborted();
  const restoreMs = Math.round(performance.now() - begun);

  const binDirectory = serverBinaries(Number((await readFile(join(layout.data, 'PG_VERSION'), 'utf8')).trim()) * 10_000, options.datastore.binDirectory);
  const control = await controlOf(layout, binDirectory, osUser, signal);
  await configure(layout, folders.spool, control, options, osUser);
  const isolation = (await canIsolateNetwork()) ? 'network namespace' : 'socket only';
  const log: string[] = [];
  const seen: { stopped: string | null; lastCommit: string | null } = { stopped: null, lastCommit: null };
  onProgress('recovering');
  const server = startServer(layout, binDirectory, isolation, osUser, (line) => {
    log.push(line);
    if (log.length > LOG_LINES) log.shift();
    const stopped = /recovery stopping (?:before|after) .*$/.exec(line)?.[0];
    if (stopped !== undefined) seen.stopped = stopped;
    const last = /last completed transaction was at log time (.+)$/.exec(line)?.[1];
    if (last !== undefined) seen.lastCommit = last;
  });
  const given = await serveWal(layout, server, archive, { ...folders, segmentBytes: control.segmentBytes, signal, onProgress, log, moment: options.moment });
  const recoverMs = Math.round(performance.now() - begun) - restoreMs;
  const connection: PostgresTarget = { host: layout.socket, port: PORT, user: options.datastore.admin.username, password: '', database: options.datastore.database, sslmode: 'disable' };
  const facts = await withPostgres(connection, async (client) => (await client.query<{ directory: string; version: string; addresses: string; archiving: string; recovering: boolean; timeline: number }>(
    `select current_setting('data_directory') as directory, current_setting('server_version') as version, current_setting('listen_addresses') as addresses, current_setting('archive_mode') as archiving, pg_is_in_recovery() as recovering, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as timeline`,
  )).rows[0]!);
  const wrong = [
    ...(realpathSync(facts.directory) === realpathSync(layout.data) ? [] : [`its data directory is ${facts.directory}`]),
    ...(facts.addresses === '' ? [] : [`it listens on ${facts.addresses}`]),
    ...(facts.archiving === 'off' ? [] : [`it archives (${facts.archiving})`]),
  ];
  if (wrong.length > 0) throw new HoldfastError('wal-drill-refused', `the server behind drill target ${name} is not the one made for the drill: ${wrong.join('; ')}`, { next: 'nothing was asked of it; find out what runs there' });
  return { name, connection, isolation, serverVersion: facts.version, restoreMs, recoverMs, walFiles: given.count, lastWal: given.last, lastCommit: seen.lastCommit, stoppedAt: seen.stopped, timeline: facts.timeline };
}

async function checkSpace(context: Context, backup: BaseBackup): Promise<void> {
  if (backup.bytes === null) return;
  const needed = Math.ceil(backup.bytes * 1.2) + 300_000_000;
  const { bavail, bsize } = await statfs(drillsDirectory(context));
  if (bavail * bsize < needed) throw new HoldfastError('wal-drill-disk', `${drillsDirectory(context)} has ${formatBytes(bavail * bsize)} free; this restore needs about ${formatBytes(needed)}`, { next: 'free space there, or set workDirectory to a larger file system' });
}

interface Control {
  readonly segmentBytes: number;
  /** What the primary had: recovery and prepared transactions need as much. */
  readonly settings: Readonly<Record<string, string>>;
}

async function controlOf(layout: Layout, binDirectory: string, osUser: OsUser | undefined, signal: AbortSignal): Promise<Control> {
  const text = (await runChild([join(binDirectory, 'pg_controldata'), '-D', layout.data], { ...osUser, cwd: '/', env: { LC_ALL: 'C' }, signal })).stdout;
  const value = (label: string): string | undefined => new RegExp(`^${label}:\\s*(\\S+)`, 'm').exec(text)?.[1];
  const settings: Record<string, string> = {};
  for (const [label, setting] of [['max_connections setting', 'max_connections'], ['max_worker_processes setting', 'max_worker_processes'], ['max_wal_senders setting', 'max_wal_senders'], ['max_prepared_xacts setting', 'max_prepared_transactions'], ['max_locks_per_xact setting', 'max_locks_per_transaction']] as const) {
    const found = value(label);
    if (found !== undefined && /^\d+$/.test(found)) settings[setting] = found;
  }
  return { segmentBytes: Number(value('Bytes per WAL segment') ?? 16 * 1024 * 1024), settings };
}

async function configure(layout: Layout, spool: string, control: Control, { config, moment }: MomentRestore, osUser: OsUser | undefined): Promise<void> {
  const script = join(layout.root, 'give-wal.sh');
  const settings: Record<string, string> = {
    ...control.settings,
    ...Object.fromEntries(Object.entries(config.settings).filter(([name]) => !KEPT.test(name))),
    listen_addresses: '',
    port: String(PORT),
    unix_socket_directories: layout.socket,
    unix_socket_permissions: '0700',
    hba_file: join(layout.data, 'pg_hba.conf'),
    ident_file: join(layout.data, 'pg_ident.conf'),
    lc_messages: 'C',
    ssl: 'off',
    // It is thrown away: after a crash the drill starts over.
    fsync: 'off',
    full_page_writes: 'off',
    restart_after_crash: 'off',
    autovacuum: 'off',
    dynamic_shared_memory_type: 'mmap',
    logging_collector: 'off',
    log_destination: 'stderr',
    // What it replays and writes must never reach the archive it came from, and no subscription or slot may act from here.
    archive_mode: 'off',
    max_logical_replication_workers: '0',
    synchronous_standby_names: '',
    // Nobody is let in before it stands at the moment; then it is a server of its own.
    hot_standby: 'off',
    restore_command: `sh ${quoteShell(script)} %f %p ${quoteShell(spool)}`,
    recovery_target_time: moment.postgres,
    recovery_target_inclusive: 'on',
    recovery_target_timeline: 'latest',
    recovery_target_action: 'promote',
  };
  await writeFile(script, GIVE_WAL, { mode: 0o755 });
  const file = async (path: string, text: string): Promise<void> => {
    const at = join(layout.data, path);
    await rm(at, { force: true });
    await writeFile(at, text, { mode: 0o600 });
    if (osUser !== undefined) await chown(at, osUser.uid, osUser.gid);
  };
  await file('postgresql.conf', Object.entries(settings).map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`).join(''));
  // What the primary had set by ALTER SYSTEM, its own archive_command among it.
  await file('postgresql.auto.conf', '');
  // The folder of the socket is the server's OS user's alone; whoever may enter it may read the files too.
  await file('pg_hba.conf', 'local all all trust\n');
  await file('pg_ident.conf', '');
  await file('recovery.signal', '');
  for (const left of ['standby.signal', 'postmaster.pid', 'postmaster.opts']) await rm(join(layout.data, left), { force: true });
}

function quoteShell(text: string): string {
  // % has a meaning in restore_command.
  return `'${text.replaceAll("'", `'\\''`).replaceAll('%', '%%')}'`;
}

/**
 * Asks the worker for a file by an empty one beside it. Codes above 125 end recovery at once; 1 says that there is no such file. It runs in the
 * data directory, below the startup process, which waits for it and outlives a postmaster that was killed: so the postmaster is looked at.
 */
const GIVE_WAL = `#!/bin/sh
: > "$3/$1.want" || exit 255
while :; do
  [ -e "$3/$1.ready" ] && { mv "$3/$1.ready" "$2" && exit 0; exit 255; }
  [ -e "$3/$1.absent" ] && { rm -f "$3/$1.absent"; exit 1; }
  { read -r postmaster < postmaster.pid; } 2>/dev/null && kill -0 "$postmaster" 2>/dev/null || exit 255
  [ -d "$3" ] || exit 255
  sleep 0.02
done
`;

interface Serving {
  readonly spool: string;
  readonly locks: string;
  readonly segmentBytes: number;
  readonly signal: AbortSignal;
  readonly onProgress: (text: string) => void;
  readonly log: readonly string[];
  readonly moment: Moment;
}

/** Hands WAL to the server until it takes connections. */
async function serveWal(layout: Layout, server: RunningChild, archive: WalArchive, { spool, locks, segmentBytes, signal, onProgress, log, moment }: Serving): Promise<{ count: number; last: string | null }> {
  let ended: string | undefined;
  void server.exited.then((exit) => void (ended = exit.stderr === '' ? `exit code ${exit.code}` : exit.stderr), (error: unknown) => void (ended = messageOf(error)));
  const fetching = new Map<string, Promise<boolean>>();
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  const fetch = (file: string): Promise<boolean> => {
    let found = fetching.get(file);
    if (found === undefined) {
      found = archive.fetch(file, join(spool, `${file}.fetched`), { data: layout.data, locks }, either);
      found.catch(() => {}); // Fetched ahead: it only counts when it is asked for.
      fetching.set(file, found);
    }
    return found;
  };
  let count = 0;
  let last: string | null = null;
  let absent: string | null = null;
  try {
    for (;;) {
      signal.throwIfAborted();
      if (ended !== undefined) throw await whyEnded(ended, { absent, last, log, archive, moment, segmentBytes, spool, locks, data: layout.data, signal });
      if (statusLine(layout.data) === 'ready') return { count, last };
      for (const request of (await readdir(spool)).filter((entry) => entry.endsWith('.want'))) {
        const file = request.slice(0, -'.want'.length);
        await rm(join(spool, request), { force: true });
        const there = await fetch(file);
        fetching.delete(file);
        if (!there) {
          if (/^[0-9A-F]{24}$/.test(file)) absent ??= file;
          await writeFile(join(spool, `${file}.absent`), '');
          continue;
        }
        if (/^[0-9A-F]{24}$/.test(file)) {
          count += 1;
          last = file;
          absent = null;
          onProgress(`replaying WAL file ${file}, the ${count}.`);
        }
        await rename(join(spool, `${file}.fetched`), join(spool, `${file}.ready`));
        let next = nextWalFile(file, segmentBytes);
        for (let ahead = 0; ahead < AHEAD && next !== undefined; ahead += 1, next = nextWalFile(next, segmentBytes)) void fetch(next);
      }
      await pause(LOOK_MS);
    }
  } finally {
    stop.abort();
    await Promise.allSettled(fetching.values());
  }
}

/** Line 8 of postmaster.pid: the server's state. Asking it by a connection would fill its log with refusals. */
function statusLine(data: string): string | undefined {
  try {
    return readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[7]?.trim();
  } catch {
    return undefined;
  }
}

interface Ended extends Pick<Serving, 'log' | 'segmentBytes' | 'spool' | 'locks' | 'signal' | 'moment'> {
  readonly data: string;
  readonly absent: string | null;
  readonly last: string | null;
  readonly archive: WalArchive;
}

async function whyEnded(said: string, ended: Ended): Promise<HoldfastError> {
  const { absent, last, log, moment } = ended;
  const words = (log.length > 0 ? log.join('\n') : said).slice(-2000);
  if (!/recovery ended before configured recovery target was reached|WAL ends before end of online backup|WAL ends before consistent recovery point|could not locate required checkpoint record/i.test(words)) {
    return new HoldfastError('wal-drill-start', `the drill server ended before it had recovered to ${moment.postgres}: ${words}`, { next: 'see the message above; settings it needs go to walArchive.settings' });
  }
  if (absent === null) return new HoldfastError('wal-not-reached', `WAL is cut off or damaged in ${last ?? 'the first file'}: recovery ended before ${moment.postgres}. The server said: ${words}`, { next: 'the archive is damaged there: make a new base backup now' });
  const later = await laterWal(absent, ended);
  if (later !== null) {
    return new HoldfastError('wal-missing', `WAL file ${absent} is missing in the archive, which has ${later} after it: recovery ended before ${moment.postgres}. Nothing between the base backup and the next one can be restored past it`, { next: 'make a new base backup now; then find out who deleted it' });
  }
  return new HoldfastError('wal-not-reached', `the archive ends before ${moment.postgres}: WAL file ${absent} is not in it, nor any later one`, { next: 'choose an earlier moment, or wait until that file is archived: select pg_switch_wal()' });
}

/** A later file of the same timeline: then the absent one is a hole, not the end. */
async function laterWal(absent: string, { archive, segmentBytes, spool, locks, data, signal }: Ended): Promise<string | null> {
  const newest = await archive.content(signal).then(({ newestWal }) => newestWal, () => null);
  if (newest !== null && newest.slice(8) > absent.slice(8)) return newest;
  const next = nextWalFile(absent, segmentBytes);
  return next !== undefined && (await archive.fetch(next, join(spool, `${next}.looked`), { data, locks }, signal).catch(() => false)) ? next : null;
}
