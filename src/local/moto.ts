import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool } from './tools.ts';

export interface AwsServer {
  readonly endpoint: string;
  readonly region: 'us-east-1';
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

/** The AWS emulator: Secrets Manager, Route 53, RDS, STS and more. It takes any credentials. */
export async function startMoto(options: { processes: Processes; directory: string }): Promise<AwsServer> {
  const port = await freePort();
  const child = await options.processes.spawn({ name: 'moto', cwd: options.directory, argv: [findTool('moto_server'), '-H', '127.0.0.1', '-p', String(port)] });
  const endpoint = `http://127.0.0.1:${port}`;
  await waitUntilReady(child, async () => {
    const answer = await fetch(`${endpoint}/moto-api/data.json`);
    await answer.arrayBuffer();
    return answer.ok || undefined;
  });
  return { endpoint, region: 'us-east-1', accessKeyId: 'local-access-key', secretAccessKey: 'local-secret-key' };
}
