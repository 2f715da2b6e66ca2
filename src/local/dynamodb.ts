import { mkdirSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import { findTool, javaClassPath } from './tools.ts';

export interface DynamoServer {
  readonly endpoint: string;
  readonly region: 'us-east-1';
  /** It keeps tables by key id and Region: another key id sees other tables, as another account does. Letters and digits only. */
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  kill(): Promise<void>;
  running(): boolean;
}

/** DynamoDB Local in memory, on 127.0.0.1 and a free port. It neither throttles nor keeps tags, backups or exports. */
export async function startDynamo(options: { processes: Processes; directory: string; name?: string; heapMb?: number }): Promise<DynamoServer> {
  const name = options.name ?? 'dynamodb';
  const port = await freePort();
  const folder = join(options.directory, name);
  mkdirSync(folder, { recursive: true });
  const classPath = javaClassPath('dynamodb');
  const library = dirname(classPath.split(delimiter)[1]!);
  const child = await options.processes.spawn({
    name,
    cwd: folder,
    argv: [findTool('java'), '-Xms128m', `-Xmx${options.heapMb ?? 512}m`, '-XX:TieredStopAtLevel=1', '-XX:+UseSerialGC', `-Djava.library.path=${library}`, '-cp', classPath, 'DynamoNode', '-inMemory', '-disableTelemetry', '-port', String(port)],
  });
  const endpoint = `http://127.0.0.1:${port}`;
  await waitUntilReady(child, async () => {
    // Any request without a signature is answered with 400.
    const answer = await fetch(endpoint);
    await answer.arrayBuffer();
    return answer.status === 400 || undefined;
  });
  return {
    endpoint, region: 'us-east-1', accessKeyId: 'localaccesskey', secretAccessKey: 'local-secret-key',
    running: () => child.running(),
    async kill() {
      child.signal('SIGKILL');
      await child.exited;
    },
  };
}
