/**
 * The place a backup of a MongoDB is restored into for a drill: a server started for it on this host, which listens on 127.0.0.1 or a
 * socket of its own folder, or an empty one that belongs to drills. All about it lies in one folder whose name follows from the run.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { z } from 'zod';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { MongodbManifest } from '../model/manifest-mongodb.ts';
import { MARKER_DATABASE } from '../model/mongodb-selection.ts';
import { startChild, type RunningChild } from './child.ts';
import type { Context } from './context.ts';
import { drillName, identityFile, sweepDrillFolders, writeIdentity, type DrillIdentity } from './drill-folder.ts';
import { freePort } from './free-port.ts';
import { factsOf, hostsOf, mongodbOf, mongodbTarget, withMongodb, type MongodbTarget } from './mongodb.ts';
import { checkClaim, checkFit, claimServer, expiryMonitorOf, giveUpClaim, releaseServer } from './mongodb-drill-claim.ts';
import { databasesIn } from './mongodb-proof.ts';
import { contentsOf } from './mongodb-restore.ts';
import { processStart, statFields } from './process-stat.ts';

const START_MS = 60_000;
const STOP_MS = 10_000;
/** Restored documents whose time has come must not vanish while they are counted. */
const DEFAULT_SERVER = ['mongod', '--dbpath', '{directory}', '--port', '{port}', '--bind_ip', '127.0.0.1', '--nounixsocket', '--setParameter', 'ttlMonitorEnabled=false'];

export interface MongodbDrillTarget {
  readonly name: string;
  readonly connection: MongodbTarget;
  readonly isolation: string;
  readonly serverVersion: string;
}

interface Layout {
  readonly root: string;
  readonly data: string;
  readonly socket: string;
  readonly identity: string;
  readonly server: string;
}

const identitySchema = z.object({ datastore: z.string(), workflowId: z.string(), runId: z.string() });
/** A server of ours, by pid and start time; or one that stays. */
const serverSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('started'), pid: z.int(), start: z.string(), uri: z.string(), isolation: z.string() }),
  /** What to drop on it stands in the server's own claim. */
  z.object({ kind: z.literal('given') }),
]);

function directoryOf(context: Pick<Context, 'workDirectory'>): string {
  return join(context.workDirectory, 'drills-mongodb');
}

function layoutOf(context: Pick<Context, 'workDirectory'>, name: string): Layout {
  const root = join(directoryOf(context), name);
  return { root, data: join(root, 'data'), socket: join(root, 'mongodb.sock'), identity: identityFile(root), server: join(root, 'server.json') };
}

/** @throws HoldfastError `drill-*`: the fault is this host's or of the target, never the backup's. */
export async function createMongodbTarget(context: Context, identity: DrillIdentity, manifest: MongodbManifest, signal: AbortSignal): Promise<MongodbDrillTarget> {
  if (!existsSync('/proc/self/stat')) throw new HoldfastError('drill-host', `drill targets are told from other servers by /proc, which this host (${process.platform}) does not have`, { next: 'run the worker that drills on Linux' });
  const name = drillName(identity);
  const layout = layoutOf(context, name);
  await destroyMongodbTarget(context, name);
  const { drill } = mongodbOf(context.config, identity.datastore);
  try {
    await mkdir(layout.data, { recursive: true, mode: 0o700 });
    await writeIdentity(layout.root, identity);
    if (drill.uri === undefined) await startServer(layout, drill.server ?? DEFAULT_SERVER, signal);
    else await takeServer(context, identity.datastore, name, layout, manifest, signal);
    const target = await openMongodbTarget(context, name);
    const found = await withMongodb(target.connection, async (client) => {
      checkFit(target.connection.what, await factsOf(client), await expiryMonitorOf(client), manifest);
      return contentsOf(client);
    }, { signal });
    if (found.length > 0) throw new HoldfastError('drill-target-used', `the drill target ${target.connection.what} is not empty: it holds ${found.slice(0, 3).join(', ')}${found.length > 3 ? ` and ${found.length - 3} more` : ''}`, { next: 'a drill restores into an empty server only; nothing was changed' });
    return target;
  } catch (error) {
    await destroyMongodbTarget(context, name);
    signal.throwIfAborted();
    throw error;
  }
}

/** @throws HoldfastError `drill-target-gone` when it does not run any more. */
export async function openMongodbTarget(context: Context, name: string): Promise<MongodbDrillTarget> {
  const layout = layoutOf(context, name);
  const gone = (why: string): HoldfastError => new HoldfastError('drill-target-gone', `drill target ${name} is gone: ${why}`, { next: 'the drill starts over with a new target' });
  const [identity, server] = await Promise.all([readJson(layout.identity, identitySchema), readJson(layout.server, serverSchema)]);
  if (identity === undefined || server === undefined) throw gone(`${layout.server} is not there`);
  if (server.kind === 'started' && startOf(server.pid) !== server.start) throw gone(`its server (process ${server.pid}) has ended`);
  const connection = server.kind === 'started' ? { what: `the drill target ${name}`, uri: server.uri } : await givenTarget(context, identity.datastore);
  const { serverVersion } = await withMongodb(connection, async (client) => {
    if (server.kind === 'given') await checkClaim(client, name);
    return factsOf(client);
  });
  return { name, connection, isolation: server.kind === 'started' ? server.isolation : 'a server of its own, by its address', serverVersion };
}

async function startServer(layout: Layout, argv: readonly string[], signal: AbortSignal): Promise<void> {
  const port = await freePort();
  const bySocket = argv.some((word) => word.includes('{socket}'));
  const filled = argv.map((word) => word.replaceAll('{port}', String(port)).replaceAll('{directory}', layout.data).replaceAll('{socket}', layout.socket));
  const uri = bySocket ? `mongodb://${encodeURIComponent(layout.socket)}/?directConnection=true` : `mongodb://127.0.0.1:${port}/?directConnection=true`;
  const server = startChild(filled, { cwd: layout.data, stdout: 'ignore' });
  const start = startOf(server.pid);
  if (start !== undefined) await writeFile(layout.server, JSON.stringify({ kind: 'started', pid: server.pid, start, uri, isolation: bySocket ? 'socket only' : 'loopback only' }));
  await waitUntilReady(server, { what: 'the drill target', uri: `${uri}&serverSelectionTimeoutMS=500` }, filled[0]!, signal);
}

async function waitUntilReady(server: RunningChild, target: MongodbTarget, program: string, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + START_MS;
  let ended: string | undefined;
  const watch = server.exited.then(
    (exit) => void (ended = exit.stderr === '' ? `exit code ${exit.code}` : exit.stderr),
    (error: unknown) => void (ended = messageOf(error)),
  );
  for (;;) {
    signal.throwIfAborted();
    if (ended !== undefined) throw new HoldfastError('drill-target-start', `the drill target (${program}) did not start: ${ended}`, { next: 'correct drill.server of the datastore, or install mongod on the worker; it is about this host, not about the backup', retryable: /address already in use/i.test(ended) });
    try {
      await withMongodb(target, (client) => client.db('admin').command({ ping: 1 }), { signal });
      return;
    } catch (error) {
      signal.throwIfAborted();
      if (Date.now() > deadline) {
        await server.end();
        throw new HoldfastError('drill-target-start', `the drill target (${program}) did not answer within ${START_MS / 1000} s: ${messageOf(error)}`, { next: 'check the load of this host', retryable: true });
      }
    }
    await Promise.race([watch, pause(50)]);
  }
}

async function givenTarget(context: Context, datastore: string): Promise<MongodbTarget> {
  const { drill } = mongodbOf(context.config, datastore);
  if (drill.uri === undefined) throw new HoldfastError('drill-target-gone', `datastore ${datastore} has no drill.uri any more`, { next: 'drop what drills have left on that server by hand' });
  const { uri, username, password, authSource, tls } = drill;
  return { what: `the drill server at ${hostsOf(uri).join(',')}`, uri, username, password: password === undefined ? undefined : await context.secrets.resolve(password), authSource, tls };
}

/** Never the source: neither by address, nor by replica set. It is claimed only after it was found empty, and by one drill at a time. */
async function takeServer(context: Context, datastore: string, name: string, layout: Layout, manifest: MongodbManifest, signal: AbortSignal): Promise<void> {
  const target = await givenTarget(context, datastore);
  const given = await withMongodb(target, factsOf, { signal });
  const refuse = (why: string): HoldfastError => new HoldfastError('drill-target-production', `the drill server at ${hostsOf(target.uri).join(',')} is the source: ${why}`, { next: 'give drill.uri of a server that belongs to drills only' });
  const hosts = new Set([...hostsOf(target.uri), ...given.hosts]);
  const { uri } = mongodbOf(context.config, datastore);
  const source = [...hostsOf(uri), ...manifest.source.hosts];
  const same = source.find((host) => hosts.has(host));
  if (same !== undefined) throw refuse(`${same} is a host of both`);
  if (given.replicaSet !== null && given.replicaSet === manifest.source.replicaSet) throw refuse(`both are the replica set ${given.replicaSet}`);
  // It may be another name of the same server: the source is asked too, where it answers.
  const now = await mongodbTarget(context, datastore).then((one) => withMongodb(one, factsOf, { signal })).catch(() => undefined);
  const alias = now?.hosts.find((host) => hosts.has(host));
  if (alias !== undefined) throw refuse(`${alias} is a host of both`);
  // What is on it stays ours to drop only as long as the claim in it says so; this file merely says where to look.
  await writeFile(layout.server, JSON.stringify({ kind: 'given' }));
  await withMongodb(target, async (client) => {
    // An earlier attempt of this very run, on another host.
    await releaseServer(client, name);
    const own = databasesIn(manifest.fingerprint).filter((database) => database === 'admin');
    const look = async (): Promise<string[]> => [...(await contentsOf(client)), ...(own.length === 0 ? [] : await contentsOf(client, own))];
    const used = (what: readonly string[]): HoldfastError => new HoldfastError('drill-target-used', `${target.what} is not empty: it holds ${what.slice(0, 3).join(', ')}`, { next: 'a drill restores into an empty server only; nothing was changed' });
    const found = await look();
    const marks = await contentsOf(client, [MARKER_DATABASE]);
    // Another drill's claim is said as such; so is any other mark of ours.
    if (marks.length === 0 && found.length > 0) throw used(found);
    if (marks.length > 0 && !marks.includes(`${MARKER_DATABASE}.drill`)) throw new HoldfastError('drill-target-used', `${target.what} is not empty: a restore was begun there and not ended (${marks.join(', ')})`, { next: `a drill restores into an empty server only; drop what is there and ${MARKER_DATABASE}; nothing was changed` });
    await claimServer(client, target.what, name, manifest);
    // What somebody wrote between the look and the claim is not ours to drop.
    const since = await look();
    if (since.length === 0) return;
    await giveUpClaim(client);
    throw used(since);
  }, { signal });
}

/** Of a server that stays, what was restored is dropped. A target that is not there is no error. */
export async function destroyMongodbTarget(context: Context, name: string): Promise<{ existed: boolean }> {
  const layout = layoutOf(context, name);
  const existed = existsSync(layout.root);
  const [identity, server] = await Promise.all([readJson(layout.identity, identitySchema), readJson(layout.server, serverSchema)]);
  if (server?.kind === 'started') await endServer(server, name, layout);
  if (server?.kind === 'given' && identity !== undefined) {
    await withMongodb(await givenTarget(context, identity.datastore), (client) => releaseServer(client, name));
  }
  await rm(layout.root, { recursive: true, force: true, maxRetries: 3 });
  return { existed };
}

async function endServer({ pid, start }: { pid: number; start: string }, name: string, layout: Layout): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (startOf(pid) !== start) return;
    try {
      process.kill(-pid, signal);
    } catch {
      // It ended meanwhile.
    }
    const deadline = Date.now() + STOP_MS;
    while (startOf(pid) === start && Date.now() < deadline) await pause(25);
  }
  if (startOf(pid) === start) throw new HoldfastError('drill-target-stuck', `process ${pid} of drill target ${name} does not end`, { next: `end it and remove ${layout.root}`, retryable: true });
}

/** Never throws: see `sweepDrillFolders`. */
export function sweepMongodbTargets(context: Context, isRunning: (workflowId: string, runId: string) => Promise<boolean>): Promise<string[]> {
  return sweepDrillFolders(context, directoryOf(context), (name) => destroyMongodbTarget(context, name), isRunning);
}

async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    const parsed = schema.safeParse(JSON.parse(await readFile(path, 'utf8')));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}

/** When it started; undefined: it has ended, a zombie too. */
function startOf(pid: number): string | undefined {
  return statFields(pid)?.[0] === 'Z' ? undefined : processStart(pid);
}
