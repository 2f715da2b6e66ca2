import { randomBytes } from 'node:crypto';
import { chownSync, existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import pg from 'pg';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { runChild } from '../systems/child.ts';
import type { LocalProcess, Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { statFields } from '../systems/process-stat.ts';
import { postgresBinDirectory } from './tools.ts';

export type StopMode = 'fast' | 'smart' | 'immediate';

/** A PostgreSQL cluster on 127.0.0.1. It is known by its data directory, so a server that somebody else started on it counts too. */
export interface PostgresServer {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly dataDirectory: string;
  readonly binDirectory: string;
  readonly superuser: string;
  readonly password: string;
  /** PostgreSQL refuses root: the user it runs as then; undefined when we are not root. */
  readonly osUser: { readonly uid: number; readonly gid: number } | undefined;
  /** Prefix that runs a command as the server's OS user; empty when that is ours. For `exec` of a node in holdfast.yaml. */
  readonly exec: string[];
  readonly replication: { readonly username: string; readonly password: string; readonly passfile: string };
  readonly logFile: string;
  start(): Promise<void>;
  stop(mode?: StopMode): Promise<void>;
  /** SIGKILL to the postmaster and all its children at once, as when the machine is gone. */
  kill(): Promise<void>;
  running(): boolean;
  connectionString(database?: string): string;
}

export interface PostgresOptions {
  readonly processes: Processes;
  /** The cluster's files go to `<directory>/<name>/`. */
  readonly directory: string;
  readonly name: string;
  readonly settings?: Readonly<Record<string, string>>;
  /** Default: a free one. */
  readonly port?: number;
}

export const SUPERUSER = 'holdfast';
export const REPLICATOR = 'replicator';
export const STOP_SIGNALS: Readonly<Record<StopMode, NodeJS.Signals>> = { fast: 'SIGINT', smart: 'SIGTERM', immediate: 'SIGQUIT' };

interface Layout {
  readonly root: string;
  readonly data: string;
  readonly socket: string;
  readonly passfile: string;
  readonly log: string;
}

/** A new, empty primary that takes standbys. @throws HoldfastError when a program is missing or the server does not come up. */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const password = randomBytes(12).toString('hex');
  const replicationPassword = randomBytes(12).toString('hex');
  const osUser = serverUser();
  const layout = createLayout(options, osUser, replicationPassword);
  const binDirectory = postgresBinDirectory();
  const pwfile = join(layout.root, 'initial-password');
  writeOwned(pwfile, `${password}\n`, osUser);
  try {
    await runChild(
      [join(binDirectory, 'initdb'), '-D', layout.data, '-U', SUPERUSER, '--pwfile', pwfile, '-A', 'scram-sha-256', '--data-checksums', '--encoding=UTF8', '--locale=C.UTF-8', '--no-sync'],
      { ...osUser, cwd: layout.root },
    );
  } finally {
    rmSync(pwfile, { force: true });
  }
  // The same line on every node: each includes its own file beside its data directory, which pg_basebackup and pg_rewind leave alone.
  writeOwned(join(layout.data, 'postgresql.conf'), "include '../server.conf'\n", osUser);
  const port = options.port ?? (await freePort());
  writeServerConf(layout, port, options.settings, osUser);
  const server = makeServer(options, layout, { port, password, replicationPassword, binDirectory, osUser });
  await server.start();
  await withClient(server, 'template1', (client) => prepare(client, replicationPassword));
  await withClient(server, 'postgres', (client) => grantRewind(client));
  return server;
}

/** A streaming hot standby of `primary`, by pg_basebackup; its application_name is its name. */
export async function startStandby(options: PostgresOptions & { readonly primary: PostgresServer }): Promise<PostgresServer> {
  const { primary } = options;
  const layout = createLayout(options, primary.osUser, primary.replication.password);
  const conninfo = `host=${primary.host} port=${primary.port} user=${REPLICATOR} passfile=${layout.passfile} application_name=${options.name}`;
  await runChild(
    [join(primary.binDirectory, 'pg_basebackup'), '-d', conninfo, '-D', layout.data, '-X', 'stream', '-R', '--checkpoint=fast', '--no-sync'],
    { ...primary.osUser, cwd: layout.root },
  );
  const port = options.port ?? (await freePort());
  writeServerConf(layout, port, options.settings, primary.osUser);
  const server = makeServer(options, layout, {
    port,
    password: primary.password,
    replicationPassword: primary.replication.password,
    binDirectory: primary.binDirectory,
    osUser: primary.osUser,
  });
  await server.start();
  await withClient(primary, 'postgres', async (client) => {
    const deadline = Date.now() + 30_000;
    for (;;) {
      const { rows } = await client.query(`select 1 from pg_stat_replication where application_name = $1 and state = 'streaming'`, [options.name]);
      if (rows.length > 0) return;
      if (Date.now() > deadline) throw new HoldfastError('standby-not-streaming', `standby ${options.name} does not stream from ${primary.name}: ${tail(layout.log)}`);
      await pause(20);
    }
  });
  return server;
}

/** A server on files that pg_basebackup wrote earlier (they are copied). With `recovery` it replays archived WAL up to that time, and takes no connections before. */
export async function startFromCopy(options: PostgresOptions & { readonly files: string; readonly of: PostgresServer; readonly recovery?: { readonly archive: string; readonly targetTime: string } }): Promise<PostgresServer> {
  const { of, recovery } = options;
  const layout = createLayout(options, of.osUser, of.replication.password);
  await runChild(['cp', '-a', options.files, layout.data], { ...of.osUser, cwd: layout.root });
  const port = options.port ?? (await freePort());
  const extra: Record<string, string> = recovery === undefined ? {} : { restore_command: `cp ${recovery.archive}/%f %p`, recovery_target_time: recovery.targetTime, recovery_target_action: 'promote', hot_standby: 'off' };
  writeServerConf(layout, port, { ...options.settings, ...extra }, of.osUser);
  for (const signal of ['standby.signal', 'postgresql.auto.conf']) rmSync(join(layout.data, signal), { force: true });
  if (recovery !== undefined) writeOwned(join(layout.data, 'recovery.signal'), '', of.osUser);
  const server = makeServer(options, layout, { port, password: of.password, replicationPassword: of.replication.password, binDirectory: of.binDirectory, osUser: of.osUser });
  await server.start();
  return server;
}

function makeServer(
  options: PostgresOptions,
  layout: Layout,
  facts: { port: number; password: string; replicationPassword: string; binDirectory: string; osUser: PostgresServer['osUser'] },
): PostgresServer {
  const { processes, name } = options;
  const { port, password, binDirectory, osUser } = facts;
  processes.watchCluster(layout.data);
  return {
    name,
    host: '127.0.0.1',
    port,
    dataDirectory: layout.data,
    binDirectory,
    superuser: SUPERUSER,
    password,
    osUser,
    exec: osUser === undefined ? [] : ['/usr/bin/setpriv', `--reuid=${osUser.uid}`, `--regid=${osUser.gid}`, '--init-groups', '--'],
    replication: { username: REPLICATOR, password: facts.replicationPassword, passfile: layout.passfile },
    logFile: layout.log,
    async start() {
      if (postmasterOf(layout.data) !== undefined) return;
      const child = await processes.spawn({ name: `postgres-${name}`, argv: [join(binDirectory, 'postgres'), '-D', layout.data], cwd: layout.data, logFile: layout.log, ...osUser });
      await waitForReady(layout, child, name);
    },
    async stop(mode = 'fast') {
      await signalAndWait(layout.data, STOP_SIGNALS[mode]);
    },
    async kill() {
      await killCluster(layout.data);
    },
    running: () => postmasterOf(layout.data) !== undefined,
    connectionString: (database = 'postgres') => `postgresql://${SUPERUSER}:${password}@127.0.0.1:${port}/${database}`,
  };
}

/** The same stopped cluster, to be started on another port. */
export function onPort(server: PostgresServer, port: number): PostgresServer {
  const conf = join(dirname(server.dataDirectory), 'server.conf');
  writeOwned(conf, readFileSync(conf, 'utf8').replace(/^port = .*$/m, `port = '${port}'`), server.osUser);
  return { ...server, port, connectionString: (database = 'postgres') => `postgresql://${SUPERUSER}:${server.password}@127.0.0.1:${port}/${database}` };
}

function createLayout(options: PostgresOptions, osUser: PostgresServer['osUser'], replicationPassword: string): Layout {
  const root = join(options.directory, options.name);
  const layout = { root, data: join(root, 'data'), socket: join(root, 'socket'), passfile: join(root, 'replication.pgpass'), log: join(root, 'server.log') };
  if (existsSync(layout.data)) throw new HoldfastError('cluster-exists', `${layout.data} exists already`, { next: 'choose another name or folder' });
  for (const folder of [root, layout.socket]) {
    mkdirSync(folder, { recursive: true, mode: 0o755 });
    if (osUser !== undefined) chownSync(folder, osUser.uid, osUser.gid);
  }
  writeOwned(layout.passfile, `*:*:*:${REPLICATOR}:${replicationPassword}\n`, osUser);
  writeOwned(layout.log, '', osUser);
  return layout;
}

function writeServerConf(layout: Layout, port: number, overrides: PostgresOptions['settings'], osUser: PostgresServer['osUser']): void {
  const settings: Record<string, string> = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    // A socket path longer than 107 bytes cannot be bound.
    unix_socket_directories: layout.socket.length > 85 ? '' : layout.socket,
    max_connections: '100',
    shared_buffers: '128MB',
    wal_level: 'replica',
    hot_standby: 'on',
    wal_log_hints: 'on',
    max_wal_senders: '10',
    max_replication_slots: '10',
    wal_keep_size: '512MB',
    max_wal_size: '2GB',
    wal_retrieve_retry_interval: '500ms',
    log_line_prefix: '%m [%p] %a ',
    ...overrides,
  };
  const text = Object.entries(settings).map(([key, value]) => `${key} = '${value.replaceAll("'", "''")}'\n`).join('');
  writeOwned(join(layout.root, 'server.conf'), text, osUser);
}

async function prepare(client: pg.Client, replicationPassword: string): Promise<void> {
  await client.query(`create role ${REPLICATOR} login replication password ${pg.escapeLiteral(replicationPassword)}`);
  await grantRewind(client);
}

/** What pg_rewind reads from the new primary; with this the replication role suffices. */
async function grantRewind(client: pg.Client): Promise<void> {
  await client.query(`
    grant execute on function pg_ls_dir(text, boolean, boolean) to ${REPLICATOR};
    grant execute on function pg_stat_file(text, boolean) to ${REPLICATOR};
    grant execute on function pg_read_binary_file(text) to ${REPLICATOR};
    grant execute on function pg_read_binary_file(text, bigint, bigint, boolean) to ${REPLICATOR};`);
}

/** `postgres` refuses to run as root, so root runs it as the user that Debian's package made. */
export function serverUser(): PostgresServer['osUser'] {
  if (process.getuid?.() !== 0) return undefined;
  const line = readFileSync('/etc/passwd', 'utf8').split('\n').find((entry) => entry.startsWith('postgres:'));
  const [, , uid, gid] = line?.split(':') ?? [];
  if (uid === undefined || gid === undefined) {
    throw new HoldfastError('postgres-user', 'PostgreSQL refuses to run as root and there is no user "postgres"', { next: 'apt-get install postgresql (it makes the user), or run as an ordinary user' });
  }
  return { uid: Number(uid), gid: Number(gid) };
}

async function waitForReady(layout: Layout, child: LocalProcess, name: string): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const lines = pidFile(layout.data);
    // Line 8 is the postmaster's status; `standby` is a server in recovery that refuses connections, `ready` takes them.
    if (Number(lines?.[0]) === child.pid && lines?.[7]?.trim() === 'ready') return;
    if (!child.running()) throw new HoldfastError('postgres-ended', `PostgreSQL ${name} ended while starting: ${tail(layout.log)}`);
    if (Date.now() > deadline) throw new HoldfastError('postgres-not-ready', `PostgreSQL ${name} takes no connections after 60 s: ${tail(layout.log)}`);
    await pause(10);
  }
}

function pidFile(data: string): string[] | undefined {
  try {
    return readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n');
  } catch {
    return undefined;
  }
}

/** Pid of the server that works in this data directory now; the file alone may be a leftover. */
export function postmasterOf(data: string): number | undefined {
  const pid = Number(pidFile(data)?.[0]);
  if (!(pid > 1)) return undefined;
  try {
    if (statFields(pid)?.[0] === 'Z' || readlinkSync(`/proc/${pid}/cwd`) !== realpathSync(data)) return undefined;
    return pid;
  } catch {
    return undefined;
  }
}

export async function signalAndWait(data: string, signal: NodeJS.Signals): Promise<void> {
  const pid = postmasterOf(data);
  if (pid === undefined) return;
  process.kill(pid, signal);
  await waitGone([pid], `PostgreSQL in ${data} after ${signal}`);
}

export async function killCluster(data: string): Promise<void> {
  const pid = postmasterOf(data);
  if (pid === undefined) return;
  // Stopped first, so that it starts no child between our look at them and their end.
  process.kill(pid, 'SIGSTOP');
  const all = [pid, ...childrenOf(pid)];
  for (const one of all) {
    try {
      process.kill(one, 'SIGKILL');
    } catch {
      // A backend that ended by itself.
    }
  }
  await waitGone(all, `PostgreSQL in ${data} after SIGKILL`);
}

function childrenOf(parent: number): number[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry) && Number(statFields(Number(entry))?.[1]) === parent)
    .map(Number);
}

async function waitGone(pids: readonly number[], what: string): Promise<void> {
  const started = Date.now();
  for (;;) {
    const states = pids.map((pid) => statFields(pid)?.[0]).filter((state) => state !== undefined);
    if (states.length === 0) return;
    // A zombie runs no more, but pg_ctl takes it for running until its parent has collected it; not every container's first process does.
    if (states.every((state) => state === 'Z') && Date.now() - started > 10_000) return;
    if (Date.now() - started > 30_000) throw new HoldfastError('postgres-not-stopped', `${what} still runs after 30 s`);
    await pause(10);
  }
}

async function withClient<T>(server: PostgresServer, database: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: server.connectionString(database) });
  try {
    await client.connect();
    return await work(client);
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    throw new HoldfastError('postgres-setup', `PostgreSQL ${server.name} could not be set up: ${messageOf(error)}`, { cause: error });
  } finally {
    await client.end().catch(() => {});
  }
}

export function writeOwned(path: string, text: string, osUser: PostgresServer['osUser']): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text, { mode: 0o600 });
  if (osUser !== undefined) chownSync(path, osUser.uid, osUser.gid);
}

function tail(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8').slice(-3000).trim() : '(no log)';
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
