import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool } from './tools.ts';

export interface KubernetesServer {
  readonly url: string;
  /** PEM file of the authority of the server's certificate. */
  readonly ca: string;
  /** A user who may do everything, for the tests' own calls. */
  readonly adminToken: string;
  /** kubeconfig files by user: `admin`, and those asked for, who may do nothing until a Role says so. Their only context is `local`. */
  readonly kubeconfigs: Readonly<Record<string, string>>;
  /** One call of the API as admin: JSON in and out; fails on anything but 2xx. */
  call<T = Record<string, unknown>>(method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, body?: object): Promise<T>;
}

/**
 * A Kubernetes control plane (src/local/kube): etcd, API server with RBAC and the workload controllers are Kubernetes' own; scheduler and
 * kubelet are stood for, so pods become ready, or fail as kube/node.go says, without any container being run.
 */
export async function startKubernetes(options: { processes: Processes; directory: string; users?: readonly string[] }): Promise<KubernetesServer> {
  const directory = join(options.directory, 'kubernetes');
  mkdirSync(directory, { recursive: true });
  const token = (): string => randomBytes(16).toString('hex');
  const tokens = Object.fromEntries(['admin', ...(options.users ?? [])].map((user) => [user, token()]));
  const tokensFile = join(directory, 'tokens.csv');
  writeFileSync(tokensFile, Object.entries(tokens).map(([user, value]) => `${value},${user},${user}${user === 'admin' ? ',"system:masters"' : ''}\n`).join(''), { mode: 0o600 });
  const port = await freePort();
  const child = await options.processes.spawn({ name: 'kubernetes', cwd: directory, argv: [findTool('kube'), directory, String(port), String(await freePort()), String(await freePort()), tokensFile] });
  const url = `https://127.0.0.1:${port}`;
  const ca = join(directory, 'certificates', 'apiserver.crt');
  const kubeconfigs: Record<string, string> = {};
  for (const [user, value] of Object.entries(tokens)) {
    kubeconfigs[user] = join(directory, `kubeconfig-${user}`);
    const document = {
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'local', cluster: { server: url, 'certificate-authority': ca } }],
      users: [{ name: user, user: { token: value } }],
      contexts: [{ name: 'local', context: { cluster: 'local', user } }],
      'current-context': 'local',
    };
    writeFileSync(kubeconfigs[user], stringify(document), { mode: 0o600 });
  }
  const server: KubernetesServer = {
    url,
    ca,
    adminToken: tokens['admin']!,
    kubeconfigs,
    async call<T>(method: string, path: string, body?: object): Promise<T> {
      const { status, text } = await request(`${url}${path}`, {
        method,
        ca: readFileSync(ca),
        headers: { authorization: `Bearer ${tokens['admin']}`, ...(body === undefined ? {} : { 'content-type': method === 'PATCH' ? 'application/merge-patch+json' : 'application/json' }) },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
      if (status > 299) throw new Error(`${method} ${path} answered ${status}: ${text}`);
      return JSON.parse(text) as T;
    },
  };
  await waitUntilReady(child, async () => {
    const node = await server.call<{ status: { conditions?: unknown[] } }>('GET', '/api/v1/nodes/node-1');
    return node.status.conditions?.length === 1 || undefined;
  });
  return server;
}

/** `fetch` takes no authority of its own. */
function request(url: string, options: { method: string; ca: Buffer; headers: Record<string, string>; body: string | undefined }): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const sent = httpsRequest(url, { method: options.method, ca: options.ca, headers: options.headers, agent: false, timeout: 10_000 }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (chunk: string) => (text += chunk)).once('end', () => resolve({ status: answer.statusCode ?? 0, text })).once('error', reject);
    });
    sent.once('error', reject).once('timeout', () => sent.destroy(new Error(`${url} did not answer within 10 s`)));
    sent.end(options.body);
  });
}
