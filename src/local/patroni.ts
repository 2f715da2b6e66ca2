import { randomBytes } from 'node:crypto';
import { chownSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { waitUntilReady, type LocalProcess, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { REPLICATOR, STOP_SIGNALS, SUPERUSER, killCluster, postmasterOf, serverUser, signalAndWait, writeOwned, type PostgresServer } from './postgres.ts';
import { findTool, postgresBinDirectory } from './tools.ts';

/** One Patroni and the PostgreSQL it manages. `start` and `stop` are Patroni's business; `kill` is the loss of its PostgreSQL. */
export interface PatroniMember extends PostgresServer {
  readonly apiUrl: string;
  /** Patroni's own process; PostgreSQL outlives it. */
  readonly patroni: LocalProcess;
  /** GET of its REST interface. */
  read(path: string): Promise<Record<string, unknown>>;
  /** The process again, after it was ended. */
  restartPatroni(): Promise<void>;
}

export interface PatroniCluster {
  readonly scope: string;
  readonly members: Readonly<Record<string, PatroniMember>>;
  /** Who may change things by the REST interface. */
  readonly api: { readonly username: string; readonly password: string };
  readonly etcd: LocalProcess;
  readonly etcdUrl: string;
}

export interface PatroniOptions {
  readonly processes: Processes;
  readonly directory: string;
  /** The first becomes the leader. */
  readonly names: readonly string[];
  readonly scope?: string;
  readonly settings?: Readonly<Record<string, string>>;
  /** Addresses besides 127.0.0.1, by member. */
  readonly listen?: Readonly<Record<string, string>>;
  /** Seconds between two looks of Patroni; its default is 10. */
  readonly loopWait?: number;
  readonly ttl?: number;
}

const PATRONI_SUPERUSER = 'patroni_admin';

/**
 * etcd and one Patroni a name, each with PostgreSQL of its own, all on 127.0.0.1. The administrator of Holdfast is another role than
 * Patroni's own superuser, as where they belong to different teams.
 */
export async function startPatroni(options: PatroniOptions): Promise<PatroniCluster> {
  const { processes } = options;
  const directory = join(options.directory, 'patroni');
  const osUser = serverUser();
  const scope = options.scope ?? 'shop';
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  if (osUser !== undefined) chownSync(directory, osUser.uid, osUser.gid);
  const { etcd, url: etcdUrl } = await startEtcd(processes, directory, osUser);
  const secrets = { superuser: randomPassword(), replication: randomPassword(), admin: randomPassword(), api: randomPassword() };
  const api = { username: 'operator', password: secrets.api };
  const members: Record<string, PatroniMember> = {};
  let leader: PatroniMember | undefined;
  for (const name of options.names) {
    const member = await startMember({ ...options, directory, scope, name, etcdUrl, secrets, api, osUser });
    members[name] = member;
    // The first is known as the leader before the next one looks for somebody to copy.
    if (leader === undefined) {
      leader = member;
      await waitUntilReady(member.patroni, async () => ((await member.read('/patroni'))['state'] === 'running' && (await status(member, '/leader')) === 200 ? true : undefined));
      await prepare(member, secrets);
    }
  }
  const count = options.names.length;
  for (const member of Object.values(members)) {
    await waitUntilReady(member.patroni, async () => {
      const { members: listed } = (await member.read('/cluster')) as { members: { role: string; state: string; timeline?: number }[] };
      const followers = listed.filter((entry) => entry.role === 'replica' && ['running', 'streaming'].includes(entry.state));
      return followers.length === count - 1 && (await member.read('/patroni'))['state'] === 'running' ? true : undefined;
    });
  }
  return { scope, members, api, etcd, etcdUrl };
}

async function startEtcd(processes: Processes, directory: string, osUser: PostgresServer['osUser']): Promise<{ etcd: LocalProcess; url: string }> {
  const [client, peer] = [`http://127.0.0.1:${await freePort()}`, `http://127.0.0.1:${await freePort()}`];
  const etcd = await processes.spawn({
    name: 'etcd',
    ...osUser,
    cwd: directory,
    logFile: logOf(directory, 'etcd', osUser),
    argv: [findTool('etcd'), '--name', 'one', '--data-dir', join(directory, 'etcd'), '--listen-client-urls', client, '--advertise-client-urls', client, '--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', `one=${peer}`],
    // etcd 3.4 refuses to run on anything but amd64 unless it is told so.
    env: process.arch === 'arm64' ? { ETCD_UNSUPPORTED_ARCH: 'arm64' } : {},
  });
  await waitUntilReady(etcd, async () => (((await (await fetch(`${client}/health`)).json()) as { health: string }).health === 'true' ? true : undefined));
  return { etcd, url: client };
}

interface MemberOptions extends PatroniOptions {
  readonly name: string;
  readonly scope: string;
  readonly etcdUrl: string;
  readonly secrets: { readonly superuser: string; readonly replication: string; readonly admin: string; readonly api: string };
  readonly api: PatroniCluster['api'];
  readonly osUser: PostgresServer['osUser'];
}

async function startMember(options: MemberOptions): Promise<PatroniMember> {
  const { name, processes, secrets, osUser } = options;
  const root = join(options.directory, name);
  const [data, socket, log, passfile] = [join(root, 'data'), join(root, 'socket'), join(root, 'server.log'), join(root, 'replication.pgpass')];
  if (existsSync(root)) throw new HoldfastError('cluster-exists', `${root} exists already`, { next: 'choose another name or folder' });
  for (const folder of [root, socket]) {
    mkdirSync(folder, { recursive: true, mode: 0o755 });
    if (osUser !== undefined) chownSync(folder, osUser.uid, osUser.gid);
  }
  writeOwned(passfile, `*:*:*:${REPLICATOR}:${secrets.replication}\n`, osUser);
  const [port, apiPort] = [await freePort(), await freePort()];
  const apiUrl = `http://127.0.0.1:${apiPort}`;
  const binDirectory = postgresBinDirectory();
  const configuration = join(root, 'patroni.json');
  // Patroni reads YAML, of which JSON is a part.
  const text = JSON.stringify(patroniConfiguration(options, { root, data, socket, port, apiPort, binDirectory }), null, 1);
  writeOwned(configuration, text, osUser);
  processes.watchCluster(data);
  const spawnPatroni = (): Promise<LocalProcess> =>
    processes.spawn({ name: `patroni-${name}`, ...osUser, cwd: root, logFile: logOf(root, 'patroni', osUser), env: { HOME: root, PATH: '/usr/bin:/bin', PYTHONUNBUFFERED: '1' }, argv: [findTool('patroni'), configuration] });
  let patroni = await spawnPatroni();
  const member: PatroniMember = {
    name,
    host: '127.0.0.1',
    port,
    dataDirectory: data,
    binDirectory,
    superuser: SUPERUSER,
    password: secrets.admin,
    osUser,
    exec: osUser === undefined ? [] : ['/usr/bin/setpriv', `--reuid=${osUser.uid}`, `--regid=${osUser.gid}`, '--init-groups', '--'],
    replication: { username: REPLICATOR, password: secrets.replication, passfile },
    logFile: log,
    apiUrl,
    get patroni() {
      return patroni;
    },
    async read(path) {
      const answer = await fetch(`${apiUrl}${path}`, { signal: AbortSignal.timeout(3000) });
      return (await answer.json()) as Record<string, unknown>;
    },
    async restartPatroni() {
      if (!patroni.running()) patroni = await spawnPatroni();
    },
    async start() {
      throw new HoldfastError('managed', `PostgreSQL ${name} is started by its Patroni`);
    },
    stop: (mode = 'fast') => signalAndWait(data, STOP_SIGNALS[mode]),
    kill: () => killCluster(data),
    running: () => postmasterOf(data) !== undefined,
    connectionString: (database = 'postgres') => `postgresql://${SUPERUSER}:${secrets.admin}@127.0.0.1:${port}/${database}`,
  };
  await waitUntilReady(patroni, async () => ((await member.read('/patroni'))['state'] === undefined ? undefined : true));
  return member;
}

function patroniConfiguration(options: MemberOptions, own: { root: string; data: string; socket: string; port: number; apiPort: number; binDirectory: string }): object {
  const { name, secrets } = options;
  const parameters = { shared_buffers: '32MB', fsync: 'off', wal_log_hints: 'on', wal_keep_size: '256MB', wal_retrieve_retry_interval: '500ms', log_line_prefix: '%m [%p] %a ', ...options.settings };
  return {
    scope: options.scope,
    name,
    restapi: { listen: `127.0.0.1:${own.apiPort}`, connect_address: `127.0.0.1:${own.apiPort}`, authentication: options.api },
    etcd3: { host: options.etcdUrl.slice('http://'.length) },
    bootstrap: {
      dcs: { ttl: options.ttl ?? 10, loop_wait: options.loopWait ?? 1, retry_timeout: 3, postgresql: { use_pg_rewind: true, parameters } },
      initdb: [{ encoding: 'UTF8' }, { locale: 'C.UTF-8' }, { auth: 'scram-sha-256' }, 'data-checksums', 'no-sync'],
    },
    postgresql: {
      listen: `${['127.0.0.1', options.listen?.[name]].filter((address) => address !== undefined).join(',')}:${own.port}`,
      connect_address: `127.0.0.1:${own.port}`,
      data_dir: own.data,
      bin_dir: own.binDirectory,
      pgpass: join(own.root, 'patroni.pgpass'),
      authentication: { superuser: { username: PATRONI_SUPERUSER, password: secrets.superuser }, replication: { username: REPLICATOR, password: secrets.replication } },
      // A socket path longer than 107 bytes cannot be bound.
      parameters: { unix_socket_directories: own.socket.length > 85 ? '' : own.socket },
      pg_hba: ['local all all scram-sha-256', `host replication ${REPLICATOR} 127.0.0.0/8 scram-sha-256`, 'host all all 127.0.0.0/8 scram-sha-256'],
    },
  };
}

async function prepare(member: PatroniMember, secrets: MemberOptions['secrets']): Promise<void> {
  const client = new pg.Client({ host: member.host, port: member.port, user: PATRONI_SUPERUSER, password: secrets.superuser, database: 'postgres' });
  try {
    await client.connect();
    await client.query(`create role ${SUPERUSER} login superuser password ${pg.escapeLiteral(secrets.admin)}`);
    await client.query(`
      grant execute on function pg_ls_dir(text, boolean, boolean) to ${REPLICATOR};
      grant execute on function pg_stat_file(text, boolean) to ${REPLICATOR};
      grant execute on function pg_read_binary_file(text) to ${REPLICATOR};
      grant execute on function pg_read_binary_file(text, bigint, bigint, boolean) to ${REPLICATOR};`);
  } catch (error) {
    throw new HoldfastError('postgres-setup', `PostgreSQL ${member.name} could not be set up: ${messageOf(error)}; ${tail(member.patroni.logFile)}`, { cause: error });
  } finally {
    await client.end().catch(() => {});
  }
}

async function status(member: PatroniMember, path: string): Promise<number> {
  const answer = await fetch(`${member.apiUrl}${path}`, { signal: AbortSignal.timeout(3000) });
  await answer.arrayBuffer();
  return answer.status;
}

function logOf(folder: string, name: string, osUser: PostgresServer['osUser']): string {
  const path = join(folder, `${name}.log`);
  if (!existsSync(path)) writeOwned(path, '', osUser);
  return path;
}

function tail(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8').slice(-3000).trim() : '(no log)';
}

function randomPassword(): string {
  return randomBytes(12).toString('hex');
}
