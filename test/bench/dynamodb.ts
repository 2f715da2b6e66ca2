/**
 * A million items of DynamoDB: node test/bench/dynamodb.ts [items] [bytes of an item]; default 1000000 and 250.
 * The backup runs in a process of its own against a real DynamoDB Local and a real S3 store. Beside it, in the same run: a plain loop
 * that only scans, and a short backup within a quarter of a provisioned capacity. Memory is the kernel's figure (VmHWM).
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CreateTableCommand, DynamoDBClient, ScanCommand, UpdateTableCommand } from '@aws-sdk/client-dynamodb';
import { formatTable } from '../../src/cli/io.ts';
import { createBucket, createProcesses, startDynamo, startVersity } from '../../src/local/stack.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import type { DynamodbManifest } from '../../src/model/manifest-dynamodb.ts';
import { formatBytes, formatDuration } from '../../src/model/units.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import { createContext } from '../../src/systems/context.ts';
import { dynamodbEngine } from '../../src/systems/dynamodb-engine.ts';
import { createThrottle } from '../../src/systems/dynamodb-throttle.ts';
import { createWireClient } from '../../src/systems/dynamodb-wire.ts';
import { createWriter } from '../../src/systems/dynamodb-write.ts';
import { createLogger } from '../../src/systems/log.ts';
import { openStore } from '../../src/systems/store.ts';

interface Outcome {
  readonly items: number;
  readonly ms: number;
  readonly plainBytes: number;
  readonly storedBytes: number;
  readonly startBytes: number;
  readonly peakBytes: number;
  readonly cpuMs: number;
  readonly capacity: NonNullable<DynamodbManifest['tables'][number]['capacity']>;
}

const { signal } = new AbortController();
/**
 * Of the plain loop and of the backups. DynamoDB Local sorts what is left of a segment for each page, so that a million items in one segment take
 * it a quarter of an hour to read; more segments cost the service nothing either.
 */
const SEGMENTS = 16;
/** Reading and writing of the loading and of the plain loop are not throttled. */
const UNLIMITED = 1e9;

process.once('disconnect', () => process.exit()); // Whoever wanted the figure is gone.
if (process.send === undefined) await bench(...process.argv.slice(2).map(Number));
else await backUp(process.argv[2]!);

async function bench(count = 1_000_000, bytes = 250): Promise<void> {
  const processes = createProcesses();
  try {
    const { directory } = processes;
    const [server, s3] = await Promise.all([startDynamo({ processes, directory, heapMb: 4096 }), startVersity({ processes, directory })]);
    await createBucket(s3, 'bench');
    const place = { region: server.region, endpoint: server.endpoint, credentials: { accessKeyId: server.accessKeyId, secretAccessKey: server.secretAccessKey } };
    const client = new DynamoDBClient(place);
    const items = createWireClient({ ...place, maxAttempts: 1 });
    const rows: string[][] = [];
    const told = (what: string, n: number, ms: number, more: readonly string[] = []): void => {
      rows.push([what, n.toLocaleString('en-US'), formatDuration(ms), `${Math.round(n / (ms / 1000)).toLocaleString('en-US')}/s`, ...more]);
      console.log(`${what} done`);
    };

    await client.send(new CreateTableCommand({ TableName: 'bench', BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'id', AttributeType: 'S' }] }));
    let clock = performance.now();
    const throttle = await createThrottle({ client, table: 'bench', unit: 'write', share: 1, configured: UNLIMITED, signal });
    const writer = createWriter({ items, table: 'bench', key: throttle.facts.key, throttle, signal });
    for (let at = 0; at < count; at += 1) await writer.put({ id: { S: `item-${at}` }, n: { N: String(at) }, text: { S: `${at * 7919} `.repeat(Math.ceil((bytes - 40) / 9)).slice(0, bytes - 40) } });
    await writer.end();
    told('loading (BatchWriteItem)', count, performance.now() - clock);

    clock = performance.now();
    let seen = 0;
    await Promise.all(Array.from({ length: SEGMENTS }, async (_, segment) => {
      let after: never | undefined;
      do {
        const page = await client.send(new ScanCommand({ TableName: 'bench', Segment: segment, TotalSegments: SEGMENTS, ...(after === undefined ? {} : { ExclusiveStartKey: after }) }));
        seen += page.Items?.length ?? 0;
        after = page.LastEvaluatedKey as never;
      } while (after !== undefined);
    }));
    const plainMs = performance.now() - clock;
    told(`plain scan loops of the SDK, ${SEGMENTS} segments`, seen, plainMs);

    const run = async (backup: object): Promise<Outcome> => {
      const config = {
        version: 1, environment: 'bench', services: {},
        stores: { main: { type: 's3', bucket: 'bench', endpoint: s3.endpoint, region: s3.region, forcePathStyle: true, credentials: { accessKeyId: 'env:BENCH_KEY', secretAccessKey: 'env:BENCH_SECRET' } } },
        datastores: { items: { engine: 'dynamodb', tables: ['bench'], region: server.region, endpoint: server.endpoint, credentials: { accessKeyId: 'env:BENCH_DYNAMO_KEY', secretAccessKey: 'env:BENCH_DYNAMO_SECRET' }, store: 'main', backup } },
      };
      const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(config)], { env: { ...process.env, BENCH_KEY: s3.accessKeyId, BENCH_SECRET: s3.secretAccessKey, BENCH_DYNAMO_KEY: server.accessKeyId, BENCH_DYNAMO_SECRET: server.secretAccessKey } });
      const [outcome] = (await Promise.race([once(child, 'message'), once(child, 'exit').then(() => Promise.reject(new Error('the backup process ended')))])) as [Outcome];
      return outcome;
    };
    const used = ({ capacity }: Outcome): string => `${((capacity.consumedUnits / capacity.seconds / capacity.unitsPerSecond) * 100).toFixed(1)} % of ${capacity.unitsPerSecond.toLocaleString('en-US')}/s`;
    const whole = await run({ readShare: 1, readUnitsPerSecond: UNLIMITED, segments: SEGMENTS });
    told('backup, not throttled', whole.items, whole.ms, [`${(whole.ms / plainMs).toFixed(2)} x the plain loop`, `${formatBytes(whole.plainBytes)} -> ${formatBytes(whole.storedBytes)}`, formatBytes(whole.startBytes), formatBytes(whole.peakBytes), formatDuration(whole.cpuMs)]);
    // So few that a quarter of them takes longer than DynamoDB Local itself: 80 s for a million small items.
    const units = Math.max(4, Math.round(whole.capacity.consumedUnits / 20));
    await client.send(new UpdateTableCommand({ TableName: 'bench', BillingMode: 'PROVISIONED', ProvisionedThroughput: { ReadCapacityUnits: Math.min(40_000, units), WriteCapacityUnits: 10 } }));
    const quarter = await run({ readShare: 0.25, segments: SEGMENTS });
    told('backup within 25 % of the capacity', quarter.items, quarter.ms, [used(quarter), `${formatBytes(quarter.plainBytes)} -> ${formatBytes(quarter.storedBytes)}`, formatBytes(quarter.startBytes), formatBytes(quarter.peakBytes), formatDuration(quarter.cpuMs)]);
    console.log(formatTable(['', 'items', 'took', 'rate', 'against', 'plain and stored', 'memory at start', 'peak', 'processor time'], rows.map((row) => [...row, ...Array.from({ length: 9 - row.length }, () => '')])));
    if (whole.items !== count || quarter.items !== count || seen !== count) throw new Error(`${count} items were written, ${seen}, ${whole.items} and ${quarter.items} were read`);
    client.destroy();
    items.destroy();
  } finally {
    await processes.end();
  }
}

async function backUp(document: string): Promise<void> {
  const log = await createLogger({ format: 'json', level: 'warn' });
  const context = createContext({ config: configSchema.parse(JSON.parse(document)), configPath: join(process.cwd(), 'holdfast.yaml'), runbookDirectory: 'runbooks', log });
  const startBytes = peak();
  const before = process.cpuUsage();
  const clock = performance.now();
  const location = `${Date.now()}/items/2026/01/01/000000Z-bench/`;
  const result = await dynamodbEngine.backUp(context, { datastore: 'items', id: 'bench', location, reason: 'bench', workflowId: '', runId: '' }, { signal });
  const ms = performance.now() - clock;
  const cpu = process.cpuUsage(before);
  const manifest = (await readManifest(await openStore(context, 'main'), location)) as DynamodbManifest;
  context.close();
  process.send!({ items: Number(result.rows), ms, plainBytes: result.plainBytes, storedBytes: result.storedBytes, startBytes, peakBytes: peak(), cpuMs: (cpu.user + cpu.system) / 1000, capacity: manifest.tables[0]!.capacity! } satisfies Outcome);
  process.disconnect();
}

function peak(): number {
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) * 1024;
}
