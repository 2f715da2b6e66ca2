import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { waitUntilReady, type LocalProcess, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool, javaClassPath } from './tools.ts';

export interface SearchServer {
  readonly name: string;
  readonly url: string;
  /** Repositories of type fs may lie here; servers started with the same folder share their snapshots. */
  readonly repositories: string;
  /** A request as `curl` makes it; gives the parsed answer, refuses any other than 2xx. */
  request<T = Record<string, unknown>>(method: string, path: string, body?: object): Promise<T>;
  kill(): Promise<void>;
  running(): boolean;
}

/** A single OpenSearch node without security, on 127.0.0.1 and free ports. */
export async function startSearch(options: { processes: Processes; directory: string; name: string; repositories?: string }): Promise<SearchServer> {
  const [port, transport] = [await freePort(), await freePort()];
  const folder = join(options.directory, `search-${options.name}`);
  const repositories = options.repositories ?? join(options.directory, 'search-repositories');
  for (const path of [folder, join(folder, 'home'), join(folder, 'data'), repositories]) mkdirSync(path, { recursive: true });
  const settings = {
    'path.home': join(folder, 'home'), 'path.data': join(folder, 'data'), 'path.repo': repositories,
    'cluster.name': options.name, 'node.name': options.name, 'discovery.type': 'single-node', 'network.host': '127.0.0.1', 'http.port': port, 'transport.port': transport, 'http.type': 'netty4', 'transport.type': 'netty4',
    // A full disk of the machine that tests run on is not what is tested.
    'cluster.routing.allocation.disk.threshold_enabled': false,
    'action.auto_create_index': false,
  };
  const child: LocalProcess = await options.processes.spawn({
    name: `search-${options.name}`,
    cwd: folder,
    argv: [findTool('java'), '-Xms128m', '-Xmx384m', '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', '-cp', javaClassPath('opensearch'), 'SearchNode', ...Object.entries(settings).map(([name, value]) => `${name}=${value}`)],
  });
  const url = `http://127.0.0.1:${port}`;
  await waitUntilReady(child, async () => {
    const answer = await fetch(`${url}/_cluster/health`);
    await answer.arrayBuffer();
    return answer.ok || undefined;
  });
  return {
    name: options.name, url, repositories,
    async request<T>(method: string, path: string, body?: object) {
      const answer = await fetch(`${url}${path}`, { method, ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }) });
      const text = await answer.text();
      if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
      return (text === '' ? {} : JSON.parse(text)) as T;
    },
    running: () => child.running(),
    async kill() {
      child.signal('SIGKILL');
      await child.exited;
    },
  };
}
