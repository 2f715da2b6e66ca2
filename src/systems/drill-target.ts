/**
 * The place a backup is restored into for a drill: a PostgreSQL made for it, reachable only through a socket in its own folder,
 * and, where this host allows it, in a network namespace of its own, so that nothing restored can reach out either.
 * Everything about it lies in one folder whose name follows from the run: whoever knows the run can find and destroy it.
 */
import { createHash, randomBytes } from 'node:crypto';
import { chownSync, existsSync, readFileSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { chmod, chown, mkdir, readFile, rm, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, sep } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { PostgresManifest } from '../model/manifest-postgres.ts';
import { formatBytes } from '../model/units.ts';
import { runChild, startChild, type RunningChild } from './child.ts';
import type { Context } from './context.ts';
import { drillName, sweepDrillFolders, writeIdentity, type DrillIdentity } from './drill-folder.ts';
import { registerSecret } from './log.ts';
import { connectPostgres, withPostgres, type PostgresTarget } from './postgres.ts';

export interface DrillTarget {
  readonly name: string;
  readonly directory: string;
  readonly serverVersion: string;
  readonly systemIdentifier: string;
  /** `network namespace`: it can neither be reached nor reach out; `socket only`: it cannot be reached. */
  readonly isolation: 'network namespace' | 'socket only';
  /** What the restore connects to; the password is in here. */
  readonly connection: PostgresTarget;
}

const SETPRIV = '/usr/bin/setpriv';
const UNSHARE = '/usr/bin/unshare';
const PORT = 5432;
const START_MS = 60_000;
const STOP_MS = 10_000;
/** Extensions that refuse to work unless their library was loaded at start. */
const PRELOADED = ['timescaledb', 'citus', 'pg_cron', 'pgaudit', 'pglogical'];

export function drillsDirectory(context: Pick<Context, 'workDirectory'>): string {
  return join(context.workDirectory, 'drills');
}

export interface Layout {
  readonly name: string;
  readonly root: string;
  readonly data: string;
  readonly socket: string;
  readonly password: string;
  readonly connection: string;
}

export function layoutOf(context: Pick<Context, 'workDirectory'>, name: string): Layout {
  const root = join(drillsDirectory(context), name);
  const inside = join(root, 'socket');
  // A socket's path may have 107 bytes; a deep work folder leaves no room for it.
  const socket = inside.length <= 90 ? inside : join(tmpdir(), `holdfast-drill-${createHash('sha256').update(root).digest('hex').slice(0, 16)}`);
  return { name, root, data: join(root, 'data'), socket, password: join(root, 'password'), connection: join(root, 'connection.json') };
}

/**
 * Make and start a target for this backup. What an earlier attempt of the same run left is destroyed first.
 * @throws HoldfastError `drill-*`: the fault is this host's, never the backup's.
 */
export async function createDrillTarget(context: Context, identity: DrillIdentity, manifest: Pick<PostgresManifest, 'source' | 'fingerprint' | 'objects'>, options: { binDirectory?: string; staged?: boolean; signal?: AbortSignal } = {}): Promise<DrillTarget> {
  if (!existsSync('/proc/self/cwd')) {
    throw new HoldfastError('drill-host', `drill targets are told from other servers by /proc, which this host (${process.platform}) does not have`, { next: 'run the worker that drills on Linux' });
  }
  const layout = layoutOf(context, drillName(identity));
  const { source } = manifest;
  const binDirectory = serverBinaries(source.serverVersionNumber, options.binDirectory);
  await destroyDrillTarget(context, layout.name);
  await checkDiskSpace(context, manifest, options.staged === true);
  const osUser = serverUser();
  try {
    await mkdir(layout.root, { recursive: true, mode: 0o755 });
    await writeIdentity(layout.root, identity);
    for (const folder of [layout.data, layout.socket]) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      await chmod(folder, 0o700);
      if (osUser !== undefined) await chown(folder, osUser.uid, osUser.gid);
    }
    const password = randomBytes(24).toString('hex');
    registerSecret(password);
    await writeFile(layout.password, password, { mode: 0o600 });
    const superuser = superuserFor(manifest);
    await initdb(layout, binDirectory, superuser, password, osUser, options.signal);
    await writeConfiguration(layout, binDirectory, manifest, osUser);
    const isolation = (await canIsolateNetwork()) ? 'network namespace' : 'socket only';
    const server = startServer(layout, binDirectory, isolation, osUser);
    const admin: PostgresTarget = { host: layout.socket, port: PORT, user: superuser, password, database: 'template1', sslmode: 'disable' };
    await waitUntilReady(server, admin, options.signal);
    await checkLocale(admin, source);
    await writeFile(layout.connection, JSON.stringify({ superuser, database: source.database, isolation, sourceSystemIdentifier: source.systemIdentifier }));
    return await openDrillTarget(context, layout.name);
  } catch (error) {
    await destroyDrillTarget(context, layout.name);
    throw error;
  }
}

/**
 * The running target of that name, after it proved to be the one that was made for the drill.
 * @throws HoldfastError `drill-target-gone` when it does not run any more, `drill-target-refused` when it is not ours.
 */
export async function openDrillTarget(context: Context, name: string): Promise<DrillTarget> {
  const layout = layoutOf(context, name);
  let known: { superuser: string; database: string; isolation: DrillTarget['isolation']; sourceSystemIdentifier: string | null };
  let password: string;
  try {
    known = JSON.parse(await readFile(layout.connection, 'utf8')) as typeof known;
    password = await readFile(layout.password, 'utf8');
  } catch (error) {
    throw gone(name, error);
  }
  registerSecret(password);
  const connection: PostgresTarget = { host: layout.socket, port: PORT, user: known.superuser, password, database: known.database, sslmode: 'disable' };
  if (postmasterOf(layout.data) === undefined) throw gone(name);
  const facts = await withPostgres({ ...connection, database: 'template1' }, async (client) => {
    const { rows } = await client.query<{ id: string; directory: string; version: string; addresses: string }>(
      `select (select system_identifier::text from pg_control_system()) as id, current_setting('data_directory') as directory, current_setting('server_version') as version, current_setting('listen_addresses') as addresses`,
    );
    return rows[0]!;
  });
  refuseUnlessOwn(context, layout, facts, known.sourceSystemIdentifier);
  return { name, directory: layout.root, serverVersion: facts.version, systemIdentifier: facts.id, isolation: known.isolation, connection };
}

function gone(name: string, cause?: unknown): HoldfastError {
  return new HoldfastError('drill-target-gone', `the drill target ${name} does not run any more`, { next: 'its worker was probably ended; the drill starts over with a new target', retryable: false, cause });
}

/** Nothing is restored into a server that could be the source, or that was not made here. */
function refuseUnlessOwn(context: Context, layout: Layout, facts: { id: string; directory: string; addresses: string }, sourceSystemIdentifier: string | null): void {
  const wrong: string[] = [];
  const inside = realpathSync(drillsDirectory(context)) + sep;
  const directory = existsSync(facts.directory) ? realpathSync(facts.directory) : facts.directory;
  if (!directory.startsWith(inside) || directory !== realpathSync(layout.data)) wrong.push(`its data directory is ${facts.directory}, expected ${layout.data}`);
  if (sourceSystemIdentifier !== null && facts.id === sourceSystemIdentifier) wrong.push(`its system identifier ${facts.id} is that of the source of the backup`);
  if (facts.addresses !== '') wrong.push(`it listens on ${facts.addresses}, expected on its socket only`);
  if (wrong.length > 0) {
    throw new HoldfastError('drill-target-refused', `the server behind drill target ${layout.name} is not the one made for the drill: ${wrong.join('; ')}`, { next: 'nothing was restored into it; find out what runs there' });
  }
}

/** Stop and remove everything of that target; a target that is not there is no error. */
export async function destroyDrillTarget(context: Pick<Context, 'workDirectory'>, name: string): Promise<{ existed: boolean }> {
  const layout = layoutOf(context, name);
  const existed = existsSync(layout.root);
  const segment = sharedMemoryOf(layout.data);
  const postmaster = postmasterOf(layout.data);
  if (postmaster !== undefined) {
    signalProcess(postmaster, 'SIGQUIT');
    await waitForEnd(layout.data, STOP_MS);
  }
  // Server processes that outlived their postmaster, or a postmaster that does not answer.
  for (const pid of processesOf(layout.data)) signalProcess(pid, 'SIGKILL');
  const left = await waitForEnd(layout.data, STOP_MS);
  if (left.length > 0) throw new HoldfastError('drill-target-stuck', `processes ${left.join(', ')} of drill target ${name} do not end`, { next: `end them and remove ${layout.root}`, retryable: true });
  if (segment !== undefined) await removeSharedMemory(segment);
  await rm(layout.root, { recursive: true, force: true, maxRetries: 3 });
  await rm(layout.socket, { recursive: true, force: true });
  return { existed };
}

/** Never throws: see `sweepDrillFolders`. */
export function sweepDrillTargets(context: Context, isRunning: (workflowId: string, runId: string) => Promise<boolean>): Promise<string[]> {
  return sweepDrillFolders(context, drillsDirectory(context), (name) => destroyDrillTarget(context, name), isRunning);
}

/** The folder with `postgres` and `initdb` of the backup's own major version. */
export function serverBinaries(serverVersionNumber: number, configured: string | undefined): string {
  const major = Math.floor(serverVersionNumber / 10_000);
  const folders = [configured, `/usr/lib/postgresql/${major}/bin`, `/usr/pgsql-${major}/bin`, `/opt/homebrew/opt/postgresql@${major}/bin`, `/usr/local/opt/postgresql@${major}/bin`, '/usr/local/pgsql/bin', '/usr/local/bin', '/usr/bin'];
  const tried: string[] = [];
  for (const folder of folders) {
    if (folder === undefined || !existsSync(join(folder, 'initdb')) || !existsSync(join(folder, 'postgres'))) continue;
    const found = majorOf(folder);
    if (found === major) return folder;
    tried.push(`${folder} has ${found ?? 'an unknown version'}`);
  }
  throw new HoldfastError('drill-server-missing', `this backup is of PostgreSQL ${major}; no server programs of that version were found on this host${tried.length === 0 ? '' : ` (${tried.join('; ')})`}`, {
    next: `install the package postgresql-${major} on the worker, or set the datastore's binDirectory to a folder with initdb and postgres ${major}`,
  });
}

function majorOf(folder: string): number | undefined {
  // The version stands beside the programs; asking `postgres --version` would need a child for each folder.
  for (const path of [join(folder, '..', 'share', 'postgresql', 'PG_VERSION'), join(folder, '..', 'lib', 'pgxs', 'src', 'Makefile.global'), join(folder, '..', 'include', 'pg_config.h')]) {
    if (existsSync(path)) {
      const match = /(?:VERSION\s*=\s*|PG_MAJORVERSION_NUM\s+|^)(\d+)/m.exec(readFileSync(path, 'utf8'));
      if (match !== null) return Number(match[1]);
    }
  }
  const named = /(?:postgresql\/|pgsql-|postgresql@)(\d+)\/bin\/?$/.exec(folder);
  return named === null ? undefined : Number(named[1]);
}

/** PostgreSQL refuses root: then it runs as the user that its package made. */
export function serverUser(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const entry = readFileSync('/etc/passwd', 'utf8').split('\n').map((line) => line.split(':')).find(([name]) => name === 'postgres');
  if (entry === undefined) {
    throw new HoldfastError('drill-server-user', 'this worker runs as root, which PostgreSQL refuses, and there is no OS user postgres to run the drill target as', { next: 'run the worker as an ordinary user, or create the user postgres' });
  }
  return { uid: Number(entry[2]), gid: Number(entry[3]) };
}

/** No role of the backup may be ours: globals would collide with it, and its rights would change under us. */
function superuserFor(manifest: Pick<PostgresManifest, 'fingerprint'>): string {
  const taken = new Set(manifest.fingerprint.roles.map((role) => role.name));
  let name = 'holdfast_drill';
  for (let count = 2; taken.has(name); count += 1) name = `holdfast_drill_${count}`;
  return name;
}

/** @param staged the plain archive lies beside the database while it is restored. */
async function checkDiskSpace(context: Context, manifest: Pick<PostgresManifest, 'source' | 'objects'>, staged: boolean): Promise<void> {
  await mkdir(drillsDirectory(context), { recursive: true, mode: 0o755 });
  const plain = manifest.objects.reduce((sum, object) => sum + object.plainBytes, 0);
  // Tables, indexes, and the write-ahead log of the load.
  const needed = Math.ceil((manifest.source.databaseBytes ?? plain * 2) * 1.2) + (staged ? plain : 0) + 200_000_000;
  const { bavail, bsize } = await statfs(drillsDirectory(context));
  if (bavail * bsize < needed) {
    throw new HoldfastError('drill-disk', `${drillsDirectory(context)} has ${formatBytes(bavail * bsize)} free; this drill needs about ${formatBytes(needed)}`, { next: 'free space there, or set workDirectory to a larger file system' });
  }
}

async function initdb(layout: Layout, binDirectory: string, superuser: string, password: string, osUser: { uid: number; gid: number } | undefined, signal: AbortSignal | undefined): Promise<void> {
  const pwfile = join(layout.socket, 'initial-password');
  await writeFile(pwfile, `${password}\n`, { mode: 0o600 });
  if (osUser !== undefined) chownSync(pwfile, osUser.uid, osUser.gid);
  try {
    await runChild(
      [join(binDirectory, 'initdb'), '-D', layout.data, '-U', superuser, '--pwfile', pwfile, '-A', 'scram-sha-256', '--encoding=UTF8', '--locale=C', '--no-sync', '--no-instructions'],
      { ...osUser, cwd: '/', signal },
    );
  } catch (error) {
    signal?.throwIfAborted();
    throw new HoldfastError('drill-initdb', `the drill target could not be initialised in ${layout.data}: ${messageOf(error)}`, {
      next: 'check that the OS user postgres may pass through every folder above it (workDirectory), and that there is space', cause: error,
    });
  } finally {
    await rm(pwfile, { force: true });
  }
}

async function writeConfiguration(layout: Layout, binDirectory: string, manifest: Pick<PostgresManifest, 'fingerprint' | 'source'>, osUser: { uid: number; gid: number } | undefined): Promise<void> {
  const needed = new Set(manifest.fingerprint.extensions.map((extension) => extension.name));
  const preload = PRELOADED.filter((name) => needed.has(name));
  const settings: Record<string, string> = {
    listen_addresses: '',
    port: String(PORT),
    unix_socket_directories: layout.socket,
    unix_socket_permissions: '0700',
    // It is thrown away: after a crash the drill starts over.
    fsync: 'off',
    full_page_writes: 'off',
    synchronous_commit: 'off',
    wal_level: 'minimal',
    max_wal_senders: '0',
    max_wal_size: '4GB',
    checkpoint_timeout: '30min',
    autovacuum: 'off',
    // A crash must show as one; a server that came back would let a broken restore look like a broken backup.
    restart_after_crash: 'off',
    max_connections: '60',
    shared_buffers: '256MB',
    maintenance_work_mem: '256MB',
    // Files in the data directory instead of /dev/shm: they go with it.
    dynamic_shared_memory_type: 'mmap',
    logging_collector: 'off',
    log_min_messages: 'warning',
    // A trigger, job or subscription that came with the backup must not act from here.
    max_logical_replication_workers: '0',
    ...(preload.length === 0 ? {} : { shared_preload_libraries: preload.join(',') }),
    ...(preload.includes('pg_cron') ? { 'cron.launch_active_jobs': 'off', 'cron.database_name': manifest.source.database } : {}),
  };
  for (const library of preload) {
    const path = (await runChild([join(binDirectory, 'pg_config'), '--pkglibdir'], { allowFailure: true })).stdout.trim();
    if (path !== '' && !existsSync(join(path, `${library}.so`))) {
      throw new HoldfastError('drill-extension-missing', `the backup needs the extension ${library}, which is not installed on this host`, { next: `install ${library} for this PostgreSQL version on the worker` });
    }
  }
  const file = join(layout.data, 'postgresql.conf');
  await writeFile(file, Object.entries(settings).map(([key, value]) => `${key} = '${value.replaceAll("'", "''")}'\n`).join(''));
  await writeFile(join(layout.data, 'pg_hba.conf'), 'local all all scram-sha-256\n');
  if (osUser !== undefined) await chown(file, osUser.uid, osUser.gid);
}

let networkIsolation: Promise<boolean> | undefined;

/** Root may put a process into a network namespace without any network, where the kernel lets it. */
export function canIsolateNetwork(): Promise<boolean> {
  networkIsolation ??= (async () => {
    if (process.getuid?.() !== 0 || !existsSync(UNSHARE) || !existsSync(SETPRIV)) return false;
    return (await runChild([UNSHARE, '--net', 'true'], { allowFailure: true })).code === 0;
  })();
  return networkIsolation;
}

export function startServer(layout: Layout, binDirectory: string, isolation: DrillTarget['isolation'], osUser: { uid: number; gid: number } | undefined, onStderrLine?: (line: string) => void): RunningChild {
  const server = [join(binDirectory, 'postgres'), '-D', layout.data];
  if (isolation === 'socket only') return startChild(server, { ...osUser, cwd: '/', stdout: 'ignore', onStderrLine });
  // The parent-death signal is forgotten when the user changes, so it is set after that.
  const asUser = osUser === undefined ? [] : [`--reuid=${osUser.uid}`, `--regid=${osUser.gid}`, '--init-groups'];
  return startChild([UNSHARE, '--net', '--', SETPRIV, ...asUser, '--pdeathsig', 'KILL', '--', ...server], { cwd: '/', stdout: 'ignore', onStderrLine });
}

async function waitUntilReady(server: RunningChild, admin: PostgresTarget, signal: AbortSignal | undefined): Promise<void> {
  const deadline = Date.now() + START_MS;
  let ended: string | undefined;
  const watch = server.exited.then(
    (exit) => void (ended = exit.stderr === '' ? `exit code ${exit.code}` : exit.stderr),
    (error: unknown) => void (ended = messageOf(error)),
  );
  for (;;) {
    signal?.throwIfAborted();
    if (ended !== undefined) throw new HoldfastError('drill-target-start', `the drill target did not start: ${ended}`, { next: 'see the message above; it is about this host, not about the backup' });
    try {
      const client = await connectPostgres(admin, { connectTimeoutMs: 2000 });
      await client.end();
      return;
    } catch (error) {
      if (Date.now() > deadline) {
        await server.end();
        throw new HoldfastError('drill-target-start', `the drill target did not answer within ${START_MS / 1000} s: ${messageOf(error)}`, { next: 'check the load of this host', retryable: true });
      }
    }
    await Promise.race([watch, pause(50)]);
  }
}

/** Whether this host has the source's locale; the restore itself makes the database, with all its properties. */
async function checkLocale(admin: PostgresTarget, source: PostgresManifest['source']): Promise<void> {
  const text = (value: string): string => `'${value.replaceAll("'", "''")}'`;
  const icu = /^icu (.+)$/.exec(source.localeProvider)?.[1];
  const locale = `encoding ${text(source.encoding)} lc_collate ${text(source.collate)} lc_ctype ${text(source.ctype)}${icu === undefined ? '' : ` locale_provider icu icu_locale ${text(icu)}`}`;
  try {
    await withPostgres(admin, async (client) => {
      await client.query(`create database holdfast_probe template template0 ${locale}`);
      await client.query('drop database holdfast_probe');
      // The restore makes it anew, as it was.
      if (source.database === 'postgres') await client.query('drop database postgres');
    });
  } catch (error) {
    throw new HoldfastError('drill-locale', `the drill target cannot have a database like the source (${locale}): ${messageOf(error)}`, {
      next: 'install that locale on the worker, e.g. in /etc/locale.gen, and run locale-gen', cause: error,
    });
  }
}

/** The postmaster of that data directory; undefined when none runs. Its working directory tells it from a stranger with a reused pid. */
export function postmasterOf(dataDirectory: string): number | undefined {
  let pid: number;
  try {
    pid = Number(readFileSync(join(dataDirectory, 'postmaster.pid'), 'utf8').split('\n')[0]);
  } catch {
    return undefined;
  }
  return Number.isInteger(pid) && pid > 1 && workingDirectory(pid) === canonical(dataDirectory) ? pid : undefined;
}

function canonical(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function workingDirectory(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined;
  }
}

/** Every process of that cluster: all of them work in its data directory. */
async function waitForEnd(dataDirectory: string, limitMs: number): Promise<number[]> {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const left = processesOf(dataDirectory);
    if (left.length === 0 || Date.now() > deadline) return left;
    await pause(25);
  }
}

function processesOf(dataDirectory: string): number[] {
  if (!existsSync('/proc/self/cwd')) return []; // No target is made on such a host.
  const directory = canonical(dataDirectory);
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      const cwd = pid > 1 ? workingDirectory(pid) : undefined;
      return cwd === directory || cwd === `${directory} (deleted)`;
    });
}

function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended meanwhile.
  }
}

interface SharedMemory {
  readonly key: number;
  readonly id: number;
}

/** The System V segment by which a server guards its data directory; a killed one leaves it behind. */
function sharedMemoryOf(dataDirectory: string): SharedMemory | undefined {
  try {
    const [key, id] = readFileSync(join(dataDirectory, 'postmaster.pid'), 'utf8').split('\n')[6]!.trim().split(/\s+/).map(Number);
    return Number.isInteger(key) && Number.isInteger(id) ? { key: key!, id: id! } : undefined;
  } catch {
    return undefined;
  }
}

async function removeSharedMemory({ key, id }: SharedMemory): Promise<void> {
  let table: string;
  try {
    table = await readFile('/proc/sysvipc/shm', 'utf8');
  } catch {
    return;
  }
  const ours = table.split('\n').slice(1).map((row) => row.trim().split(/\s+/).map(Number)).find((row) => row[0] === key && row[1] === id && row[6] === 0);
  if (ours !== undefined) await runChild(['ipcrm', '-m', String(id)], { allowFailure: true });
}
