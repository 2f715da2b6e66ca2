import { connect } from 'node:net';
import { Connection } from '@temporalio/client';
import { SEARCH_ATTRIBUTES } from '../model/api.ts';
import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool } from './tools.ts';

export interface TemporalServer {
  readonly address: string;
  readonly uiAddress?: string;
  readonly namespace: 'default';
  /** Ends it at once, with SIGKILL; another one on the same port and database file goes on where it was. */
  kill(): Promise<void>;
}

/** Temporal's development server with Holdfast's search attributes; in memory unless it has a database file. */
export async function startTemporal(options: { processes: Processes; directory: string; ui?: boolean; databaseFile?: string; port?: number }): Promise<TemporalServer> {
  const port = options.port ?? (await freePort());
  const uiPort = options.ui === true ? await freePort() : undefined;
  const child = await options.processes.spawn({
    name: 'temporal',
    cwd: options.directory,
    argv: [
      findTool('temporal'), 'server', 'start-dev', '--ip', '127.0.0.1', '--port', String(port), '--http-port', String(await freePort()), '--metrics-port', String(await freePort()),
      ...(options.databaseFile === undefined ? [] : ['--db-filename', options.databaseFile]),
      ...(uiPort === undefined ? ['--headless'] : ['--ui-ip', '127.0.0.1', '--ui-port', String(uiPort)]),
      '--log-level', 'error',
      // Off by default in this server: the first activity goes back with the workflow task, 14 ms instead of 54 ms.
      '--dynamic-config-value', 'system.enableActivityEagerExecution=true',
      ...Object.values(SEARCH_ATTRIBUTES).flatMap((name) => ['--search-attribute', `${name}=Keyword`]),
    ],
  });
  const address = `127.0.0.1:${port}`;
  await waitUntilReady(child, async () => {
    await listening(port);
    const connection = await Connection.connect({ address, connectTimeout: '5s' });
    try {
      await connection.workflowService.describeNamespace({ namespace: 'default' });
      return true;
    } finally {
      await connection.close();
    }
  });
  async function kill(): Promise<void> {
    child.signal('SIGKILL');
    await child.exited;
  }
  return { address, namespace: 'default', kill, ...(uiPort === undefined ? {} : { uiAddress: `http://127.0.0.1:${uiPort}` }) };
}

/** Resolves when something accepts connections on the loopback port. */
export function listening(port: number): Promise<true> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', reject);
  });
}
