/**
 * Peak memory of a backup process for databases of growing size: node test/bench/backup-memory.ts [MB ...]; default 100 2000.
 * The backup runs in a process of its own, against a real PostgreSQL and a real S3 store; figures are the kernel's (VmHWM).
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { createBucket, createProcesses, startPostgres, startVersity } from '../../src/local/stack.ts';
import type { BackupResult } from '../../src/model/api.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { formatBytes, formatDuration } from '../../src/model/units.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import { createContext } from '../../src/systems/context.ts';
import { createLogger } from '../../src/systems/log.ts';
import { formatTable } from '../../src/cli/io.ts';

interface Outcome {
  readonly result: BackupResult;
  readonly peakBytes: number;
  readonly startBytes: number;
  readonly childrenBytes: number;
  readonly cpuMs: number;
}

process.once('disconnect', () => process.exit()); // Whoever wanted the figure is gone.
if (process.send === undefined) await bench(process.argv.slice(2).map(Number));
else await backUp(process.argv[2]!);

async function bench(sizes: readonly number[]): Promise<void> {
  const processes = createProcesses();
  try {
    const { directory } = processes;
    const [postgres, s3] = await Promise.all([
      startPostgres({ processes, directory, name: 'bench', settings: { fsync: 'off', autovacuum: 'off', max_wal_size: '2GB' } }),
      startVersity({ processes, directory }),
    ]);
    await createBucket(s3, 'bench');
    const rows: string[][] = [];
    for (const megabytes of sizes.length === 0 ? [100, 2000] : sizes) {
      const database = `size_${megabytes}`;
      await fill(postgres.connectionString('postgres'), postgres.connectionString(database), database, megabytes);
      const config = {
        version: 1, environment: 'bench', services: {},
        stores: { main: { type: 's3', bucket: 'bench', endpoint: s3.endpoint, region: s3.region, forcePathStyle: true, credentials: { accessKeyId: 'env:BENCH_KEY', secretAccessKey: 'env:BENCH_SECRET' } } },
        datastores: {
          shop: {
            engine: 'postgres', database, store: 'main', binDirectory: postgres.binDirectory,
            admin: { username: postgres.superuser, password: 'env:BENCH_PASSWORD' },
            nodes: { a: { host: postgres.host, port: postgres.port } },
          },
        },
      };
      const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(config)], {
        env: { ...process.env, BENCH_KEY: s3.accessKeyId, BENCH_SECRET: s3.secretAccessKey, BENCH_PASSWORD: postgres.password },
      });
      const [outcome] = (await Promise.race([once(child, 'message'), once(child, 'exit').then(() => Promise.reject(new Error('the backup process ended')))])) as [Outcome];
      const { result } = outcome;
      rows.push([
        formatBytes(result.plainBytes), formatBytes(result.storedBytes), formatDuration(result.durationMs), `${formatBytes(Math.round((result.plainBytes / result.durationMs) * 1000))}/s`,
        formatBytes(outcome.startBytes), formatBytes(outcome.peakBytes), formatBytes(outcome.childrenBytes), formatDuration(outcome.cpuMs),
      ]);
      console.log(`${megabytes} MB done`);
    }
    console.log(formatTable(['plain', 'stored', 'took', 'rate', 'memory at start', 'peak', 'peak of its children', 'processor time'], rows));
  } finally {
    await processes.end();
  }
}

async function fill(admin: string, target: string, database: string, megabytes: number): Promise<void> {
  const run = async (url: string, sql: string): Promise<void> => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(sql).finally(() => client.end());
  };
  await run(admin, `create database ${database}`);
  // Half a kilobyte a row that does not compress below its half.
  const text = Array.from({ length: 15 }, (_, index) => `md5((i * 16 + ${index})::text)`).join(' || ');
  await run(target, `create unlogged table filler as select i, ${text} as body from generate_series(1, ${megabytes * 2000}) i`);
}

async function backUp(document: string): Promise<void> {
  const log = await createLogger({ format: 'json', level: 'warn' });
  const context = createContext({ config: configSchema.parse(JSON.parse(document)), configPath: join(process.cwd(), 'holdfast.yaml'), runbookDirectory: 'runbooks', log });
  const startBytes = peakOf(process.pid) ?? 0;
  const children = new Map<number, number>();
  const timer = setInterval(() => {
    for (const pid of readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number)) {
      const peak = peakOf(pid);
      if (peak !== undefined) children.set(pid, peak);
    }
  }, 100);
  const before = process.cpuUsage();
  const result = await runBackup(
    context,
    { datastore: 'shop', id: 'bench', location: `${Date.now()}/shop/2026/01/01/000000Z-bench/`, reason: 'bench', workflowId: '', runId: '' },
    { signal: new AbortController().signal },
  );
  clearInterval(timer);
  const used = process.cpuUsage(before);
  context.close();
  process.send!({ result, startBytes, peakBytes: peakOf(process.pid) ?? 0, childrenBytes: [...children.values()].reduce((sum, bytes) => sum + bytes, 0), cpuMs: (used.user + used.system) / 1000 } satisfies Outcome);
  process.disconnect();
}

function peakOf(pid: number): number | undefined {
  try {
    return Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024;
  } catch {
    return undefined; // It has ended.
  }
}
