import { readFile } from 'node:fs/promises';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import type { RedisClientType } from '@redis/client';
import type { RedisDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { engineOf, unknownName, type Context } from './context.ts';

/** A server as it is talked to. The password never leaves this object but on the wire. */
export interface RedisTarget {
  readonly datastore: string;
  readonly node: string;
  readonly host: string;
  readonly port: number;
  readonly username: string | undefined;
  readonly password: string | undefined;
  readonly tls: { readonly ca?: string; readonly servername?: string } | null;
}

export interface RedisReplica {
  readonly host: string;
  readonly port: number;
  readonly online: boolean;
  readonly offset: number;
}

/** One `INFO`: everything in it is of the same moment. */
export interface RedisState {
  readonly role: 'master' | 'replica';
  readonly version: string;
  /** Changes with every start: counters of two different ones cannot be compared. */
  readonly runId: string;
  readonly cluster: boolean;
  /** Of the data set that it replicates: a replica that is in step has its primary's. */
  readonly replicationId: string;
  readonly loading: boolean;
  readonly keys: number;
  readonly expiring: number;
  readonly expiredKeys: number;
  readonly evictedKeys: number;
  readonly usedMemory: number;
  readonly maxmemory: number;
  readonly maxmemoryPolicy: string;
  /** Of a replica: whom it follows, and how far it is; of a master: how far it is, and who follows. */
  readonly offset: number;
  readonly masterHost: string | null;
  readonly masterPort: number | null;
  readonly linkUp: boolean;
  readonly linkDownSeconds: number | null;
  readonly replicas: readonly RedisReplica[];
  readonly failover: string;
}

export type Redis = RedisClientType;
const CONNECT_MS = 5000;
/** A server that says nothing for this long is taken for gone. */
const SILENCE_MS = 30_000;

export function redisOf(context: Context, name: string): RedisDatastore {
  return engineOf(context.config, name, 'redis');
}

export async function redisTarget(context: Context, name: string, node: string): Promise<RedisTarget> {
  const datastore = redisOf(context, name);
  const found = Object.hasOwn(datastore.nodes, node) ? datastore.nodes[node] : undefined;
  if (found === undefined) throw unknownName('node', node, Object.keys(datastore.nodes));
  const password = found.password ?? datastore.password;
  const { tls } = datastore;
  return {
    datastore: name,
    node,
    host: found.host,
    port: found.port,
    username: found.username ?? datastore.username,
    password: password === undefined ? undefined : await context.secrets.resolve(password),
    tls: tls === undefined ? null : { ...servername(tls.serverName ?? found.host), ...(tls.ca === undefined ? {} : { ca: await readFile(tls.ca, 'utf8') }) },
  };
}

/** TLS names no IP address: a certificate for one is checked by the address itself. */
function servername(name: string): { servername?: string } {
  return isIP(name) === 0 ? { servername: name } : {};
}

/** Connect, work, and always disconnect. @throws HoldfastError `redis-connect`, `redis-command` */
export async function withRedis<T>(target: RedisTarget, work: (client: Redis) => Promise<T>, signal?: AbortSignal): Promise<T> {
  const { createClient } = await import('@redis/client');
  signal?.throwIfAborted();
  const socket = { host: target.host, port: target.port, connectTimeout: CONNECT_MS, socketTimeout: SILENCE_MS, reconnectStrategy: false as const, keepAlive: true };
  const client = createClient({
    RESP: 2,
    socket: target.tls === null ? socket : { ...socket, tls: true as const, ...target.tls },
    ...(target.username === undefined ? {} : { username: target.username }),
    ...(target.password === undefined ? {} : { password: target.password }),
    name: 'holdfast',
    disableClientInfo: true,
    disableOfflineQueue: true,
  } as Parameters<typeof createClient>[0]) as unknown as Redis;
  client.on('error', () => {}); // What waits for an answer is rejected with it.
  const onAbort = (): void => client.destroy();
  try {
    await client.connect();
  } catch (error) {
    throw connectError(target, error);
  }
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    return await work(client);
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof HoldfastError) throw error;
    const text = messageOf(error);
    const refused = /^(NOPERM|NOAUTH|WRONGPASS|ERR unknown command|OOM|READONLY|MISCONF)/.test(text);
    throw new HoldfastError(text.startsWith('OOM') ? 'redis-full' : 'redis-command', `Redis ${target.node} of ${target.datastore} at ${target.host}:${target.port}: ${text}`, {
      retryable: !refused,
      next: text.startsWith('OOM') ? 'give it more memory, or an eviction policy that fits a cache' : refused ? 'check the ACL of the user, and what a managed Redis lets its users do' : 'check that the server runs and that this worker reaches it',
      cause: error,
    });
  } finally {
    signal?.removeEventListener('abort', onAbort);
    if (client.isOpen) client.destroy();
  }
}

function connectError(target: RedisTarget, error: unknown): HoldfastError {
  const text = messageOf(error);
  const refused = /WRONGPASS|NOAUTH|NOPERM|AUTH <|certificate|altnames|self.signed/i.test(text);
  return new HoldfastError('redis-connect', `Redis ${target.node} of ${target.datastore} at ${target.host}:${target.port} cannot be reached: ${text}`, {
    retryable: !refused,
    next: refused ? 'check user, password reference and tls of the datastore' : 'check that the server runs and that this worker reaches its address',
    cause: error,
  });
}

export async function redisState(client: Redis): Promise<RedisState> {
  return parseInfo(String(await client.sendCommand(['INFO'])));
}

export function parseInfo(text: string): RedisState {
  const fields = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const colon = line.indexOf(':');
    if (colon > 0 && !line.startsWith('#')) fields.set(line.slice(0, colon), line.slice(colon + 1));
  }
  const number = (name: string): number => Number(fields.get(name) ?? 0);
  let [keys, expiring] = [0, 0];
  const replicas: RedisReplica[] = [];
  for (const [name, value] of fields) {
    const parts = Object.fromEntries(value.split(',').map((part) => part.split('=') as [string, string]));
    if (/^db\d+$/.test(name)) {
      keys += Number(parts['keys']);
      expiring += Number(parts['expires']);
    }
    if (/^slave\d+$/.test(name)) replicas.push({ host: parts['ip'] ?? '', port: Number(parts['port']), online: parts['state'] === 'online', offset: Number(parts['offset']) });
  }
  const replica = fields.get('role') !== 'master';
  return {
    role: replica ? 'replica' : 'master',
    version: fields.get('redis_version') ?? '0',
    runId: fields.get('run_id') ?? '',
    cluster: fields.get('cluster_enabled') === '1',
    replicationId: fields.get('master_replid') ?? '',
    loading: fields.get('loading') === '1',
    keys,
    expiring,
    expiredKeys: number('expired_keys'),
    evictedKeys: number('evicted_keys'),
    usedMemory: number('used_memory'),
    maxmemory: number('maxmemory'),
    maxmemoryPolicy: fields.get('maxmemory_policy') ?? '',
    offset: number(replica ? 'slave_repl_offset' : 'master_repl_offset'),
    masterHost: replica ? (fields.get('master_host') ?? null) : null,
    masterPort: replica ? number('master_port') : null,
    linkUp: replica && fields.get('master_link_status') === 'up',
    linkDownSeconds: replica && fields.has('master_link_down_since_seconds') ? number('master_link_down_since_seconds') : null,
    replicas,
    failover: fields.get('master_failover_state') ?? 'no-failover',
  };
}

/** Sentinel keeps connections under this name to every server that it may promote or demote. */
export async function sentinelsOf(client: Redis): Promise<string[]> {
  const list = String(await client.sendCommand(['CLIENT', 'LIST']));
  return [...new Set([...list.matchAll(/addr=([^ ]+):\d+ .*?name=sentinel-\S*/g)].map((match) => match[1]!))];
}

/** Connections of others: neither ours, nor replication. */
export async function otherClients(client: Redis): Promise<number> {
  const list = String(await client.sendCommand(['CLIENT', 'LIST', 'TYPE', 'normal']));
  return list.split('\n').filter((line) => line.includes('addr=') && !/ name=(holdfast|sentinel-)/.test(line)).length;
}

/**
 * The whole data set as an RDB file, asked for as a replica does (SYNC): no host access is needed. The server forks and writes it
 * as it was at that moment. @throws HoldfastError `redis-sync`
 */
export async function streamSnapshot(target: RedisTarget, signal: AbortSignal): Promise<{ readonly bytes: number; readonly body: Readable }> {
  const socket = await openSocket(target, signal);
  const failed = (text: string, retryable = true): HoldfastError =>
    new HoldfastError('redis-sync', `Redis ${target.node} of ${target.datastore} at ${target.host}:${target.port} gave no snapshot: ${text}`, { retryable, next: 'a managed Redis that refuses SYNC exports snapshots itself: have it write them to the bucket of `snapshots`' });
  try {
    const words = target.password === undefined ? [] : ['AUTH', ...(target.username === undefined ? [] : [target.username]), target.password];
    if (words.length > 0) {
      socket.write(encode(words));
      const answer = await readLine(socket, signal);
      if (answer !== '+OK') throw failed(answer.slice(0, 200), false);
    }
    socket.write(encode(['SYNC']));
    // Empty lines keep the connection alive while the server forks and writes.
    let line = await readLine(socket, signal);
    while (line === '') line = await readLine(socket, signal);
    if (!/^\$\d+$/.test(line)) throw failed(line.slice(0, 200), !line.startsWith('-'));
    const bytes = Number(line.slice(1));
    return { bytes, body: await exactly(socket, bytes, signal) };
  } catch (error) {
    socket.destroy();
    signal.throwIfAborted();
    throw error instanceof HoldfastError ? error : failed(messageOf(error));
  }
}

/** The next bytes, then the connection ends: what comes after the file is replication. */
async function exactly(socket: Socket, bytes: number, signal: AbortSignal): Promise<Readable> {
  const { Readable } = await import('node:stream');
  async function* part(): AsyncGenerator<Buffer> {
    let left = bytes;
    try {
      for await (const chunk of socket as AsyncIterable<Buffer>) {
        signal.throwIfAborted();
        yield chunk.length > left ? chunk.subarray(0, left) : chunk;
        left -= chunk.length;
        if (left <= 0) return;
      }
      throw new HoldfastError('redis-sync', `the connection ended ${left} bytes before the end of the snapshot`, { retryable: true, next: 'look at the log of the Redis server' });
    } finally {
      socket.destroy();
    }
  }
  return Readable.from(part(), { objectMode: false });
}

function openSocket(target: RedisTarget, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket: Socket = target.tls === null ? connectTcp({ host: target.host, port: target.port }) : connectTls({ host: target.host, port: target.port, ...target.tls });
    const timer = setTimeout(() => socket.destroy(new Error(`no connection within ${CONNECT_MS / 1000} s`)), CONNECT_MS);
    const fail = (error: Error): void => {
      clearTimeout(timer);
      reject(connectError(target, error));
    };
    socket.once('error', fail);
    socket.once(target.tls === null ? 'connect' : 'secureConnect', () => {
      clearTimeout(timer);
      socket.off('error', fail);
      socket.on('error', () => {}); // Reading rejects with it.
      // Forking a large server may take long, but it says something each second.
      socket.setTimeout(SILENCE_MS, () => socket.destroy(new Error(`silent for ${SILENCE_MS / 1000} s`)));
      const onAbort = (): void => void socket.destroy(new Error('cancelled'));
      signal.addEventListener('abort', onAbort, { once: true });
      socket.once('close', () => signal.removeEventListener('abort', onAbort));
      resolve(socket);
    });
  });
}

function encode(words: readonly string[]): Buffer {
  return Buffer.concat([Buffer.from(`*${words.length}\r\n`), ...words.flatMap((word) => [Buffer.from(`$${Buffer.byteLength(word)}\r\n`), Buffer.from(word), Buffer.from('\r\n')])]);
}

/** One line, without touching what comes behind it. */
async function readLine(socket: Socket, signal: AbortSignal): Promise<string> {
  let line = '';
  for (;;) {
    signal.throwIfAborted();
    const byte = socket.read(1) as Buffer | null;
    if (byte !== null) {
      if (byte[0] === 10) return line.replace(/\r$/, '');
      line += byte.toString('latin1');
      if (line.length > 4096) throw new Error('an answer without an end');
      continue;
    }
    if (socket.destroyed || socket.readableEnded) throw new Error('the connection was closed');
    await new Promise<void>((resolve) => {
      const done = (): void => {
        for (const event of ['readable', 'close', 'end']) socket.off(event, done);
        resolve();
      };
      for (const event of ['readable', 'close', 'end']) socket.once(event, done);
    });
  }
}
