import { HoldfastError } from '../model/errors.ts';
import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool } from './tools.ts';

export interface Toxic {
  readonly type: 'latency' | 'bandwidth' | 'slow_close' | 'timeout' | 'reset_peer' | 'slicer' | 'limit_data';
  readonly name?: string;
  readonly stream?: 'upstream' | 'downstream';
  readonly toxicity?: number;
  readonly attributes?: Readonly<Record<string, number>>;
}

export interface ToxicProxy {
  /** host:port to connect to instead of the upstream. */
  readonly address: string;
  addToxic(toxic: Toxic): Promise<void>;
  removeToxics(): Promise<void>;
  /** Off: connections are refused and the open ones are cut. */
  setEnabled(on: boolean): Promise<void>;
  delete(): Promise<void>;
}

export interface Toxiproxy {
  readonly apiUrl: string;
  proxy(name: string, upstream: string): Promise<ToxicProxy>;
}

/** A TCP proxy that breaks connections on demand. */
export async function startToxiproxy(options: { processes: Processes; directory: string }): Promise<Toxiproxy> {
  const port = await freePort();
  const child = await options.processes.spawn({ name: 'toxiproxy', cwd: options.directory, argv: [findTool('toxiproxy'), '-host', '127.0.0.1', '-port', String(port)] });
  const apiUrl = `http://127.0.0.1:${port}`;
  await waitUntilReady(child, async () => {
    const answer = await fetch(`${apiUrl}/version`);
    await answer.arrayBuffer();
    return answer.ok || undefined;
  });
  return connectToxiproxy(apiUrl);
}

/** A running server's API, for a test file that did not start it. */
export function connectToxiproxy(apiUrl: string): Toxiproxy {
  async function call(method: string, path: string, body?: object): Promise<unknown> {
    const answer = await fetch(`${apiUrl}${path}`, {
      method,
      // Its API refuses anything that looks like a browser.
      headers: { 'user-agent': 'holdfast', ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new HoldfastError('toxiproxy', `toxiproxy answered ${method} ${path} with ${answer.status}: ${text}`);
    return text === '' ? undefined : JSON.parse(text);
  }
  return {
    apiUrl,
    async proxy(name, upstream) {
      const address = `127.0.0.1:${await freePort()}`;
      await call('POST', '/proxies', { name, listen: address, upstream, enabled: true });
      const path = `/proxies/${encodeURIComponent(name)}`;
      return {
        address,
        addToxic: async (toxic) => void (await call('POST', `${path}/toxics`, { stream: 'downstream', toxicity: 1, ...toxic })),
        async removeToxics() {
          for (const toxic of (await call('GET', `${path}/toxics`)) as { name: string }[]) await call('DELETE', `${path}/toxics/${encodeURIComponent(toxic.name)}`);
        },
        setEnabled: async (enabled) => void (await call('POST', path, { enabled })),
        delete: async () => void (await call('DELETE', path)),
      };
    },
  };
}
