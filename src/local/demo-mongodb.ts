// `npm run demo -- mongodb`: a MongoDB wire server under a writer is backed up by its schedule, drilled, thinned out, restored into an empty
// server as a container would at its start, and measured against its objectives. Exit code 0 only when all of it was proved.
//   --documents 50000   how many the shop has when the writer begins
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Client } from '@temporalio/client';
import { MongoClient } from 'mongodb';
import { stringify } from 'yaml';
import { connectClient } from '../engine/connection.ts';
import { syncSchedules } from '../engine/schedules.ts';
import { WORKFLOW_IDS, type RestoreDrillResult, type RetentionResult } from '../model/api.ts';
import { describeCompliance } from '../model/compliance.ts';
import { HoldfastError } from '../model/errors.ts';
import type { BackupSummary } from '../model/manifest.ts';
import { describeProof } from '../model/proof.ts';
import { describeRestorable } from '../model/restorable.ts';
import { scheduleIdOf } from '../model/schedule.ts';
import { formatBytes } from '../model/units.ts';
import { listBackups } from '../systems/backup-catalogue.ts';
import { measureCompliance } from '../systems/backup-records.ts';
import { runChild } from '../systems/child.ts';
import { loadConfig } from '../systems/config-file.ts';
import { createContext, type Context } from '../systems/context.ts';
import { generateSigningKey } from '../systems/evidence-keys.ts';
import { createLogger } from '../systems/log.ts';
import { openStore } from '../systems/store.ts';
import type { Figure } from './demo-report.ts';
import { checkEvidence, conclude, explain, step } from './demo-steps.ts';
import { startWorker } from './environment.ts';
import { ferretArgv } from './ferretdb.ts';
import { createBucket, createProcesses, endOnSignals, startFerret, startTemporal, startVersity, type FerretServer, type LocalProcess } from './stack.ts';

const PROGRAM = fileURLToPath(new URL('../cli/main.ts', import.meta.url));
const RTO_MS = 600_000;
const RPO_MS = 3_600_000;
const COMPLIANCE = 99;
const EVERY = '20s';
const BUCKET = 'shop-backups';

async function main(documents: number): Promise<number> {
  const processes = createProcesses();
  endOnSignals(processes, () => console.log('\nending everything ...'));
  const figures: Figure[] = [];
  const failed: string[] = [];
  let writer: Writer | undefined;
  let client: Client | undefined;
  let context: Context | undefined;
  let worker: LocalProcess | undefined;
  try {
    console.log(`Holdfast demo of MongoDB (FerretDB, which speaks its wire protocol): everything on 127.0.0.1 below ${processes.directory}`);
    const { directory } = processes;
    const [temporal, s3, source] = await step('servers', () => Promise.all([startTemporal({ processes, directory }), startVersity({ processes, directory }), startFerret({ processes, directory, name: 'shop' })]), ([, , server]) => `Temporal, S3 store, MongoDB wire server on 127.0.0.1:${server.port}`);
    await createBucket(s3, BUCKET);
    await step('shop', () => fill(source, documents), (ms) => `${documents.toLocaleString('en-US')} orders, ${Math.round(documents / (ms / 1000)).toLocaleString('en-US')} a second`);
    const { privatePem, publicPem } = generateSigningKey();
    const configPath = configure(directory, { temporal: temporal.address, s3, source, signingKey: privatePem });
    const made = createContext({ config: (await loadConfig(configPath)).config, configPath, runbookDirectory: join(directory, 'runbooks'), log: await createLogger({ format: 'json', level: 'error' }) });
    context = made;
    const connected = await connectClient(made.config, made.secrets);
    client = connected;
    worker = await step('worker', () => startWorker(processes, configPath, connected, made.config.temporal.taskQueue), (child) => `Holdfast worker, process ${child.pid}`);
    writer = startWriter(source);

    const backups = await step('two backups', () => scheduledBackups(made, connected), (all) => `by the schedule, every ${EVERY}, while the writer goes on: ${all.map((one) => `${one.id} (${formatBytes(one.plainBytes)} plain, ${formatBytes(one.storedBytes)} stored)`).join(', ')}`);
    const compliance = await step('compliance', () => measureCompliance(made, connected, 'shop', { nowMs: Date.now() }), describeCompliance);
    figures.push({ of: 'shop', what: `scheduled backups that failed (${COMPLIANCE} % must succeed)`, unit: 'count', objective: Math.floor((compliance.required * (100 - COMPLIANCE)) / 100), measured: compliance.required === 0 ? null : compliance.required - compliance.successful });

    const drill = await step('restore drill', async () => {
      const result = (await connected.workflow.execute('restoreDrill', { taskQueue: made.config.temporal.taskQueue, workflowId: `drill/shop/demo-${Date.now()}`, args: [{ datastore: 'shop' }] })) as RestoreDrillResult;
      if (result.outcome !== 'verified') throw new HoldfastError('demo-drill', `the drill ended as ${result.outcome}: ${result.message}`);
      return result;
    }, (result) => `${describeProof(result.proof!)}; ${result.checks.length} checks of the service hold`);
    figures.push({ of: 'shop', what: 'RTO, start of restore to checks green', unit: 'ms', objective: RTO_MS, measured: drill.measuredRtoMs }, { of: 'shop', what: 'RPO, drill minus the moment of the backup', unit: 'ms', objective: RPO_MS, measured: drill.measuredRpoMs });
    await step('evidence verify', () => checkEvidence(drill.evidence, publicPem), (folder) => `intact and signed: ${folder}`);
    await step('retention', async () => (await connected.workflow.execute('retention', { taskQueue: made.config.temporal.taskQueue, workflowId: WORKFLOW_IDS.retention('shop'), workflowIdConflictPolicy: 'USE_EXISTING', args: [{ datastore: 'shop', apply: true }] })) as RetentionResult, (result) => `${result.deleted.length} deleted of ${result.decisions.length}; ${result.restorable === undefined ? '' : describeRestorable(result.restorable, true).join(' ')}`);

    const fresh = await startFerret({ processes, directory, name: 'fresh' });
    const restore = (): Promise<string> => program(configPath, ['restore', 'newest', '--datastore', 'shop', '--to', fresh.uri, '--if-empty']);
    const started = performance.now();
    await step('a container starts', restore, (text) => text.split('\n').map((line) => line.trim()).join('; '));
    figures.push({ of: 'shop', what: 'restore into an empty server by one command, proof included', unit: 'ms', objective: RTO_MS, measured: performance.now() - started });
    await step('it starts again', async () => {
      const text = await restore();
      if (!text.includes('nothing was restored')) throw new HoldfastError('demo-restore', `expected that nothing is restored: ${text}`);
      return text;
    }, (text) => text.trim());
    const written = await writer.stop();
    figures.push({ of: 'shop', what: 'documents written meanwhile', unit: 'count', objective: null, measured: written }, { of: 'shop', what: 'backups the schedule required', unit: 'count', objective: null, measured: backups.length });
  } catch (error) {
    failed.push(explain(error));
    if (worker !== undefined) console.log(`\nlast lines of the worker:\n${worker.logTail()}`);
  }
  try {
    return conclude(figures, failed, 'Every objective was met, and every document was compared.');
  } finally {
    await writer?.stop();
    await client?.connection.close();
    context?.close();
    await processes.end();
  }
}

async function fill(server: FerretServer, documents: number): Promise<number> {
  const client = new MongoClient(server.uri);
  const started = performance.now();
  try {
    const orders = client.db('shop').collection<{ _id: number; customer: number; total: number; at: Date; note: string }>('orders');
    await orders.createIndexes([{ key: { customer: 1 }, name: 'customer' }, { key: { at: -1 }, name: 'newest' }]);
    for (let at = 0; at < documents; at += 1000) await orders.insertMany(Array.from({ length: Math.min(1000, documents - at) }, (_, index) => ({ _id: at + index, customer: (at + index) % 997, total: (at + index) / 4, at: new Date(1_700_000_000_000 + at + index), note: `order ${at + index}` })));
    await client.db('shop').collection('audit').insertOne({ at: new Date(), what: 'opened' });
  } finally {
    await client.close();
  }
  return performance.now() - started;
}

interface Writer {
  /** @returns how many it wrote. */
  stop(): Promise<number>;
}

function startWriter(server: FerretServer): Writer {
  const client = new MongoClient(server.uri);
  const stopped = new AbortController();
  let written = 0;
  const writing = (async () => {
    while (!stopped.signal.aborted) {
      await client.db('shop').collection<{ _id: string; at: Date }>('visits').insertOne({ _id: `visit ${written}`, at: new Date() });
      written += 1;
      await pause(5);
    }
  })();
  writing.catch(() => {});
  let ending: Promise<number> | undefined;
  return {
    stop() {
      ending ??= (async () => {
        stopped.abort();
        await writing.finally(() => client.close());
        return written;
      })();
      return ending;
    },
  };
}

function configure(directory: string, { temporal, s3, source, signingKey }: { temporal: string; s3: Awaited<ReturnType<typeof startVersity>>; source: FerretServer; signingKey: string }): string {
  for (const folder of ['secrets', 'work', 'runbooks']) mkdirSync(join(directory, folder), { recursive: true, mode: 0o700 });
  const file = (name: string, text: string): string => {
    const path = join(directory, 'secrets', name);
    writeFileSync(path, text, { mode: 0o600 });
    return `file:${path}`;
  };
  const document = {
    version: 1,
    environment: 'demo',
    workDirectory: join(directory, 'work'),
    temporal: { address: temporal, namespace: 'default', taskQueue: 'holdfast' },
    stores: { main: { type: 's3', bucket: BUCKET, prefix: 'demo', region: s3.region, endpoint: s3.endpoint, forcePathStyle: true, credentials: { accessKeyId: file('s3-id', s3.accessKeyId), secretAccessKey: file('s3-key', s3.secretAccessKey) } } },
    datastores: { shop: { engine: 'mongodb', uri: source.uri, store: 'main', retention: { last: 1 }, drill: { server: ferretArgv() } } },
    services: {
      orders: {
        description: 'Takes the orders of the shop',
        objectives: { rto: '10m', rpo: '1h', compliance: { target: COMPLIANCE, period: '1h' } },
        datastores: ['shop'],
        checks: [{ name: 'the first order is there', mongodb: { database: 'shop', collection: 'orders', pipeline: [{ $match: { _id: 0 } }, { $count: 'orders' }] }, expect: { equals: 1 } }],
      },
    },
    schedules: { often: { run: 'backup', datastore: 'shop', every: EVERY, catchUp: '10s' } },
    evidence: { directory: join(process.cwd(), 'evidence', 'dr'), signingKey: file('signing-key.pem', signingKey) },
  };
  const path = join(directory, 'holdfast.yaml');
  writeFileSync(path, stringify(document));
  return path;
}

/** Waits for two; then the schedule is paused, so that what follows is not crossed by a third. */
async function scheduledBackups(context: Context, client: Client): Promise<BackupSummary[]> {
  await syncSchedules(client, context.config, { dryRun: false });
  const store = await openStore(context, 'main');
  const deadline = Date.now() + 180_000;
  const seen = new Map<string, BackupSummary>();
  while (seen.size < 2) {
    if (Date.now() > deadline) throw new HoldfastError('demo-schedule', `the schedule made ${seen.size} backups within 3 minutes`);
    await pause(500);
    for (const backup of await listBackups(store, store.prefix, 'shop')) seen.set(backup.id, backup);
  }
  await client.schedule.getHandle(scheduleIdOf(context.config.environment, 'often')).pause('the demo goes on');
  return [...seen.values()];
}

/** The command line as people have it. */
async function program(configPath: string, args: readonly string[]): Promise<string> {
  const { stdout } = await runChild([process.execPath, '--disable-warning=ExperimentalWarning', PROGRAM, '--config', configPath, ...args]);
  return stdout;
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { documents: { type: 'string', default: '50000' } } });
  const documents = Number(values.documents);
  if (!Number.isInteger(documents) || documents < 1) {
    console.error('usage: npm run demo -- mongodb [--documents 50000]');
    process.exit(2);
  }
  process.exit(await main(documents));
}
