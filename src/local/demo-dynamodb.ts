// `npm run demo -- dynamodb`: tables under a live writer are backed up twice and more, kept, proved by a drill and restored beside the
// live ones, on a real DynamoDB Local. Exit code 0 only when everything was proved.
//   --items N         items of the larger table (default 50000)
import { execFile } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { CreateTableCommand, DynamoDBClient, PutItemCommand } from '@aws-sdk/client-dynamodb';
import type { Client } from '@temporalio/client';
import { stringify } from 'yaml';
import { connectClient } from '../engine/connection.ts';
import { WORKFLOW_IDS, type BackupResult, type RestoreDrillResult, type RetentionResult, type WorkflowType } from '../model/api.ts';
import type { Item } from '../model/dynamodb-item.ts';
import { HoldfastError } from '../model/errors.ts';
import type { DynamodbManifest } from '../model/manifest-dynamodb.ts';
import { formatBytes } from '../model/units.ts';
import { listBackups, readManifest } from '../systems/backup-catalogue.ts';
import { loadConfig } from '../systems/config-file.ts';
import { createContext, type Context } from '../systems/context.ts';
import { createSums, type ItemSums } from '../systems/dynamodb-hash.ts';
import { scanSegment } from '../systems/dynamodb-scan.ts';
import { createThrottle } from '../systems/dynamodb-throttle.ts';
import { createWireClient } from '../systems/dynamodb-wire.ts';
import { createWriter } from '../systems/dynamodb-write.ts';
import { generateSigningKey } from '../systems/evidence-keys.ts';
import { createLogger } from '../systems/log.ts';
import { openStore } from '../systems/store.ts';
import type { Figure } from './demo-report.ts';
import { checkEvidence, conclude, explain, step } from './demo-steps.ts';
import { startWorker } from './environment.ts';
import type { LocalProcess } from './processes.ts';
import { createBucket, createProcesses, endOnSignals, startDynamo, startTemporal, startVersity, type DynamoServer, type Processes } from './stack.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const { signal } = new AbortController();

interface Estate {
  readonly server: DynamoServer;
  readonly client: DynamoDBClient;
  readonly items: DynamoDBClient;
  readonly context: Context;
  readonly configPath: string;
  readonly publicKey: string;
}

async function startEstate(processes: Processes, evidenceDirectory: string): Promise<Estate> {
  const { directory } = processes;
  const [temporal, s3, server] = await step('servers', () => Promise.all([startTemporal({ processes, directory }), startVersity({ processes, directory }), startDynamo({ processes, directory, heapMb: 1024 })]), () => 'Temporal, S3 store, DynamoDB Local');
  await createBucket(s3, 'backups', { versioning: true });
  const { privatePem, publicPem, publicBase64 } = generateSigningKey();
  mkdirSync(join(directory, 'secrets'), { mode: 0o700 });
  mkdirSync(join(directory, 'work'), { mode: 0o755 });
  symlinkSync(join(ROOT, 'runbooks'), join(directory, 'runbooks'));
  const file = (name: string, text: string): string => {
    writeFileSync(join(directory, 'secrets', name), text, { mode: 0o600 });
    return `file:${join(directory, 'secrets', name)}`;
  };
  const credentials = (name: string, of: { accessKeyId: string; secretAccessKey: string }): object => ({ accessKeyId: file(`${name}-id`, of.accessKeyId), secretAccessKey: file(`${name}-key`, of.secretAccessKey) });
  const configPath = join(directory, 'holdfast.yaml');
  writeFileSync(configPath, stringify({
    version: 1, environment: 'demo', workDirectory: join(directory, 'work'),
    temporal: { address: temporal.address, namespace: temporal.namespace, taskQueue: 'holdfast' },
    stores: { main: { type: 's3', bucket: 'backups', region: s3.region, endpoint: s3.endpoint, forcePathStyle: true, credentials: credentials('s3', s3) } },
    datastores: { shop: { engine: 'dynamodb', tables: ['orders', 'customers'], region: server.region, endpoint: server.endpoint, credentials: credentials('dynamodb', server), store: 'main', backup: { readShare: 0.5, fileSize: '4MiB' }, restore: { writeShare: 1 }, retention: { last: 2 } } },
    services: { orders: { objectives: { rto: '10m', rpo: '10m' }, datastores: ['shop'], checks: [{ name: 'the first order is there', dynamodb: { table: 'orders', statement: `SELECT total FROM "{table}" WHERE id = 'order-0'` }, expect: { atLeast: 1 } }] } },
    evidence: { directory: evidenceDirectory, signingKey: file('evidence.pem', privatePem), trustedKeys: [{ publicKey: publicBase64 }] },
  }), { mode: 0o600 });
  const { config } = await loadConfig(configPath, { runbookDirectory: join(ROOT, 'runbooks') });
  const place = { region: server.region, endpoint: server.endpoint, credentials: { accessKeyId: server.accessKeyId, secretAccessKey: server.secretAccessKey } };
  const context = createContext({ config, configPath, runbookDirectory: join(ROOT, 'runbooks'), log: await createLogger({ format: 'json', level: 'fatal' }) });
  return { server, client: new DynamoDBClient(place), items: createWireClient({ ...place, maxAttempts: 1 }), context, configPath, publicKey: publicPem };
}

const order = (at: number): Item => ({ id: { S: `order-${at}` }, customer: { S: `customer-${at % 500}` }, total: { N: String(100 + (at % 900)) }, lines: { L: [{ M: { sku: { S: `sku-${at % 77}` }, count: { N: '1' } } }] }, tags: { SS: ['new', 'web'] } });

async function fill({ client, items }: Estate, count: number): Promise<void> {
  const definitions = [{ AttributeName: 'id', AttributeType: 'S' as const }];
  await client.send(new CreateTableCommand({
    TableName: 'orders', BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: [...definitions, { AttributeName: 'customer', AttributeType: 'S' }],
    GlobalSecondaryIndexes: [{ IndexName: 'by-customer', KeySchema: [{ AttributeName: 'customer', KeyType: 'HASH' }], Projection: { ProjectionType: 'KEYS_ONLY' } }],
  }));
  await client.send(new CreateTableCommand({ TableName: 'customers', BillingMode: 'PAY_PER_REQUEST', KeySchema: [{ AttributeName: 'id', KeyType: 'HASH' }], AttributeDefinitions: definitions }));
  for (const [table, make, of] of [['orders', order, count], ['customers', (at: number): Item => ({ id: { S: `customer-${at}` }, name: { S: `Customer ${at}` } }), 500]] as const) {
    const throttle = await createThrottle({ client, table, unit: 'write', share: 1, configured: 100_000, signal });
    const writer = createWriter({ items, table, key: throttle.facts.key, throttle, signal });
    for (let at = 0; at < of; at += 1) await writer.put(make(at));
    await writer.end();
  }
}

/** An application that goes on placing and changing orders. */
function startApplication({ client }: Estate, from: number): { stop(): Promise<number> } {
  const stop = new AbortController();
  let written = 0;
  const running = (async () => {
    while (!stop.signal.aborted) {
      const at = written % 3 === 0 ? written : from + written;
      await client.send(new PutItemCommand({ TableName: 'orders', Item: { ...order(at), changed: { N: String(written) } } as never }));
      written += 1;
    }
  })();
  return {
    async stop() {
      stop.abort();
      await running;
      return written;
    },
  };
}

async function sumsOf({ client, items }: Estate, table: string): Promise<ItemSums> {
  const throttle = await createThrottle({ client, table, unit: 'read', share: 1, configured: 100_000, signal });
  const sums = createSums();
  for await (const page of scanSegment({ items, table, segment: 0, segments: 1, consistentRead: true, after: null, throttle, signal })) for (const item of page.items) sums.add(item);
  return sums.sums();
}

async function chain(estate: Estate, client: Client, figures: Figure[]): Promise<void> {
  const { context } = estate;
  const run = async <R>(type: WorkflowType, workflowId: string, input: object): Promise<R> => (await client.workflow.execute(type, { workflowId, taskQueue: context.config.temporal.taskQueue, args: [input] })) as R;
  const store = await openStore(context, 'main');
  const manifestOf = async (location: string): Promise<DynamodbManifest> => (await readManifest(store, location)) as DynamodbManifest;
  for (const which of ['first', 'second', 'third']) {
    const backup = await step(`backup, ${which}`, () => run<BackupResult>('backup', WORKFLOW_IDS.backup('shop', `${which}-${Date.now()}`), { datastore: 'shop', reason: 'demo' }), (result) => `${result.tables} tables, ${Number(result.rows).toLocaleString('en-US')} items; ${formatBytes(result.plainBytes)} -> ${formatBytes(result.storedBytes)}; ${result.id}`);
    for (const { name, capacity } of (await manifestOf(backup.location)).tables) {
      if (capacity === undefined || which !== 'first') continue;
      figures.push({ of: `backup of ${name}`, what: '% of the read capacity, at most', unit: 'count', objective: Math.round(capacity.share * 100), measured: Math.ceil((capacity.consumedUnits / Math.max(1, capacity.seconds) / capacity.unitsPerSecond) * 100) });
    }
  }
  await step('retention', async () => (await client.workflow.getHandle(WORKFLOW_IDS.retention('shop')).result()) as RetentionResult, (result) => `kept ${result.decisions.filter(({ action }) => action !== 'delete').map(({ id }) => id).join(', ')}; deleted ${result.deleted.length}`);
  const evidence = await step('restore drill', () => run<RestoreDrillResult>('restoreDrill', WORKFLOW_IDS.restoreDrill('shop', String(Date.now())), { datastore: 'shop', service: 'orders', backup: 'newest', reason: 'demo' }), (result) => {
    if (result.outcome !== 'verified' || result.proof?.exact !== true) throw new HoldfastError('demo-drill', `the drill ended as ${result.outcome}: ${result.message}`);
    figures.push({ of: 'restore drill', what: 'RTO: restore to checks green', unit: 'ms', objective: result.objectives?.rtoMs ?? 0, measured: result.measuredRtoMs }, { of: 'restore drill', what: 'RPO: age of the restored data', unit: 'ms', objective: result.objectives?.rpoMs ?? 0, measured: result.measuredRpoMs });
    return `${result.message}; ${result.checks.length} check green; ${result.proof.notes.filter((note) => note.startsWith('drift')).join('; ')}`;
  });
  await step('restore', async () => {
    const { stdout } = await promisify(execFile)(process.execPath, ['--disable-warning=ExperimentalWarning', join(ROOT, 'src/cli/main.ts'), '--config', estate.configPath, '--json', 'restore', 'newest', '--datastore', 'shop', '--to', `dynamodb://${estate.server.region}/restored-`, '--create'], { env: process.env });
    const restored = JSON.parse(stdout) as { id: string; durationMs: number; tables: { table: string; items: number }[] };
    const newest = (await listBackups(store, store.prefix, 'shop')).at(-1)!;
    for (const wanted of (await manifestOf(newest.location)).fingerprint.tables) {
      const found = await sumsOf(estate, `restored-${wanted.name}`);
      if (found.items !== wanted.items || found.sum1 !== wanted.sum1 || found.sum2 !== wanted.sum2) throw new HoldfastError('demo-restore', `restored-${wanted.name} holds ${found.items} items of other content than the ${wanted.items} of the backup`);
    }
    return restored;
  }, (restored) => `${restored.tables.map(({ table, items }) => `${table} ${items.toLocaleString('en-US')} items`).join(', ')}: exactly those of backup ${restored.id}`);
  await step('evidence verify', () => checkEvidence(evidence.evidence, estate.publicKey), (folder) => `${folder}: intact and signed`);
}

async function main(count: number): Promise<number> {
  const processes = createProcesses();
  endOnSignals(processes, () => console.log('\nending everything ...'));
  const figures: Figure[] = [];
  const failed: string[] = [];
  const evidenceDirectory = join(process.cwd(), 'evidence', 'dr');
  let estate: Estate | undefined;
  let client: Client | undefined;
  let worker: LocalProcess | undefined;
  let application: ReturnType<typeof startApplication> | undefined;
  try {
    console.log(`Holdfast demo of DynamoDB: everything on 127.0.0.1 below ${processes.directory}`);
    const made = await startEstate(processes, evidenceDirectory);
    estate = made;
    await step('tables', () => fill(made, count), () => `orders with ${count.toLocaleString('en-US')} items and an index, customers with 500`);
    client = await connectClient(made.context.config, made.context.secrets);
    const connected = client;
    worker = await step('worker', () => startWorker(processes, made.configPath, connected, made.context.config.temporal.taskQueue), (child) => `Holdfast worker, process ${child.pid}`);
    application = startApplication(made, count);
    await chain(made, connected, figures);
    const written = await application.stop();
    if (written === 0) throw new HoldfastError('demo-writer', 'the application wrote nothing meanwhile');
    console.log(`\nThe application wrote ${written.toLocaleString('en-US')} items meanwhile.`);
  } catch (error) {
    failed.push(explain(error));
    if (worker !== undefined) console.log(`\nlast lines of the worker:\n${worker.logTail()}`);
  }
  try {
    return conclude(figures, failed, `Everything was proved and every objective met. Evidence: ${evidenceDirectory}`);
  } finally {
    await application?.stop().catch(() => {});
    await client?.connection.close();
    estate?.client.destroy();
    estate?.items.destroy();
    estate?.context.close();
    await processes.end();
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { items: { type: 'string', default: '50000' } } });
  const count = Number(values.items);
  if (!Number.isSafeInteger(count) || count < 1) {
    console.error('--items: expected a whole number above 0');
    process.exit(2);
  }
  process.exit(await main(count));
}
