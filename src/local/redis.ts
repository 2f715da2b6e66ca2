import { randomBytes } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createClient } from '@redis/client';
import { waitUntilReady, type LocalProcess, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool } from './tools.ts';

export interface RedisServer {
  readonly name: string;
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly password: string;
  readonly dataDirectory: string;
  /** One command on a connection of its own. */
  command(...words: string[]): Promise<unknown>;
  /** Ends it at once, with SIGKILL. */
  kill(): Promise<void>;
  /** The same server again: same port, same files. */
  start(): Promise<void>;
  running(): boolean;
}

export interface RedisOptions {
  readonly processes: Processes;
  readonly directory: string;
  readonly name: string;
  /** Follows this server; both need the same password. */
  readonly replicaOf?: RedisServer;
  readonly password?: string;
  /** Lines of its configuration. */
  readonly settings?: Readonly<Record<string, string>>;
}

/** A Redis on 127.0.0.1 and a free port that saves only when told to. */
export async function startRedis(options: RedisOptions): Promise<RedisServer> {
  const port = await freePort();
  const password = options.password ?? options.replicaOf?.password ?? randomBytes(12).toString('hex');
  const dataDirectory = join(options.directory, `redis-${options.name}`);
  mkdirSync(dataDirectory, { recursive: true });
  const configuration = join(dataDirectory, 'redis.conf');
  const settings = {
    bind: '127.0.0.1', port: String(port), dir: dataDirectory, requirepass: password, masterauth: password, save: '""', maxmemory: '256mb', 'repl-diskless-sync-delay': '0',
    ...(options.replicaOf === undefined ? {} : { replicaof: `${options.replicaOf.host} ${options.replicaOf.port}` }),
    ...options.settings,
  };
  // A file, since an argument could be read by every user of the machine.
  writeFileSync(configuration, Object.entries(settings).map(([name, value]) => `${name} ${value}\n`).join(''), { mode: 0o600 });
  let child: LocalProcess;
  async function command(...words: string[]): Promise<unknown> {
    const client = createClient({ socket: { host: '127.0.0.1', port, connectTimeout: 5000, reconnectStrategy: false }, password });
    client.on('error', () => {});
    await client.connect();
    try {
      return await client.sendCommand(words);
    } finally {
      client.destroy();
    }
  }
  async function start(): Promise<void> {
    child = await options.processes.spawn({ name: `redis-${options.name}`, cwd: dataDirectory, argv: [findTool('redis-server'), configuration] });
    await waitUntilReady(child, async () => ((await command('PING')) === 'PONG' ? true : undefined));
  }
  await start();
  return {
    name: options.name, host: '127.0.0.1', port, password, dataDirectory, command, start,
    running: () => child.running(),
    async kill() {
      child.signal('SIGKILL');
      await child.exited;
    },
  };
}
