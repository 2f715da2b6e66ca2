import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { waitUntilReady, type LocalProcess, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool } from './tools.ts';

export interface FerretServer {
  readonly name: string;
  readonly host: '127.0.0.1';
  readonly port: number;
  readonly uri: string;
  /** Of the encrypted listener; only with `tls`. */
  readonly tlsPort: number | undefined;
  readonly dataDirectory: string;
  readonly pid: number;
  /** Ends it at once, with SIGKILL. */
  kill(): Promise<void>;
  /** The same server again: same ports, same files. */
  start(): Promise<void>;
  running(): boolean;
}

/** What starts it by hand, with `{directory}` and `{port}` as a drill server's argv has them. */
export function ferretArgv(): string[] {
  return [findTool('ferretdb'), '{directory}', '{port}'];
}

/**
 * FerretDB on 127.0.0.1 and a free port: MongoDB's wire protocol over SQLite files. It has no users, no sessions that read a snapshot,
 * no replica set, and refuses BSON types that MongoDB has deprecated.
 */
export async function startFerret(options: { processes: Processes; directory: string; name: string; tls?: { readonly certificate: string; readonly key: string } }): Promise<FerretServer> {
  const port = await freePort();
  const tlsPort = options.tls === undefined ? undefined : await freePort();
  const dataDirectory = join(options.directory, `ferretdb-${options.name}`);
  mkdirSync(dataDirectory, { recursive: true });
  const uri = `mongodb://127.0.0.1:${port}/?directConnection=true`;
  let child: LocalProcess;
  async function start(): Promise<void> {
    const tls = options.tls === undefined ? [] : [String(tlsPort), options.tls.certificate, options.tls.key];
    child = await options.processes.spawn({ name: `ferretdb-${options.name}`, cwd: dataDirectory, argv: [findTool('ferretdb'), dataDirectory, String(port), ...tls] });
    await waitUntilReady(child, () => answers(uri));
  }
  await start();
  return {
    name: options.name, host: '127.0.0.1', port, uri, tlsPort, dataDirectory, start,
    get pid() {
      return child.pid;
    },
    running: () => child.running(),
    async kill() {
      child.signal('SIGKILL');
      await child.exited;
    },
  };
}

async function answers(uri: string): Promise<true | undefined> {
  const { MongoClient } = await import('mongodb');
  const client = new MongoClient(uri, { serverSelectionTimeoutMS: 500, connectTimeoutMS: 500 });
  try {
    return (await client.db('admin').command({ ping: 1 }))['ok'] === 1 ? true : undefined;
  } finally {
    await client.close();
  }
}
