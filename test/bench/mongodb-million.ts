/**
 * One million documents of a MongoDB wire server: backup, a tenth of them held to half that rate, restore and proof, beside the plain alternative (the
 * driver's find, a line of Extended JSON a document, gzip): node test/bench/mongodb-million.ts [documents]. Each is a process of its own;
 * memory is the kernel's figure (VmHWM) of that process.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { createGzip } from 'node:zlib';
import { BSON, MongoClient, type Document } from 'mongodb';
import { formatTable } from '../../src/cli/io.ts';
import { createBucket, createProcesses, startFerret, startVersity } from '../../src/local/stack.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import type { MongodbManifest } from '../../src/model/manifest-mongodb.ts';
import { formatBytes, formatDuration } from '../../src/model/units.ts';
import { readManifest } from '../../src/systems/backup-catalogue.ts';
import { createContext, type Context } from '../../src/systems/context.ts';
import { createLogger } from '../../src/systems/log.ts';
import { withMongodb } from '../../src/systems/mongodb.ts';
import { mongodbEngine, proveRestored, restoreStored } from '../../src/systems/mongodb-engine.ts';
import { insertRaw } from '../../src/systems/mongodb-raw.ts';
import { openStore } from '../../src/systems/store.ts';

type Work = 'backup' | 'restore' | 'prove' | 'lines';

interface Task {
  readonly work: Work;
  readonly config: object;
  readonly location: string;
  /** Where the restored server is, or where the lines go. */
  readonly target: string;
}

interface Outcome {
  readonly documents: number;
  readonly plainBytes: number;
  readonly ms: number;
  readonly startBytes: number;
  readonly peakBytes: number;
  readonly cpuMs: number;
  readonly note: string;
}

process.once('disconnect', () => process.exit()); // Whoever wanted the figure is gone.
if (process.send === undefined) await bench(Number(process.argv[2] ?? 1_000_000));
else process.once('message', (task) => void run(task as Task).then((outcome) => process.send!(outcome, () => process.disconnect())));

async function bench(documents: number): Promise<void> {
  const processes = createProcesses();
  try {
    const { directory } = processes;
    const [source, target, s3] = await Promise.all([startFerret({ processes, directory, name: 'source' }), startFerret({ processes, directory, name: 'target' }), startVersity({ processes, directory })]);
    await createBucket(s3, 'bench');
    const started = performance.now();
    await fill(source.uri, 'orders', documents);
    await fill(source.uri, 'part', Math.ceil(documents / 10));
    const filled = performance.now() - started;
    console.log(`${documents.toLocaleString('en-US')} documents filled in ${formatDuration(filled)}`);
    const config = (collection = 'orders', more: object = {}): object => ({
      version: 1, environment: 'bench', services: {},
      stores: { main: { type: 's3', bucket: 'bench', endpoint: s3.endpoint, region: s3.region, forcePathStyle: true, credentials: { accessKeyId: 'env:BENCH_KEY', secretAccessKey: 'env:BENCH_SECRET' } } },
      datastores: { shop: { engine: 'mongodb', uri: source.uri, store: 'main', backup: { include: { collections: [`shop.${collection}`] }, ...more } } },
    });
    const env = { ...process.env, BENCH_KEY: s3.accessKeyId, BENCH_SECRET: s3.secretAccessKey };
    const rows: string[][] = [];
    const measured = async (what: string, task: Task): Promise<Outcome> => {
      const child = fork(fileURLToPath(import.meta.url), [], { env });
      child.send(task);
      const [outcome] = (await Promise.race([once(child, 'message'), once(child, 'exit').then(() => Promise.reject(new Error(`the process of ${what} ended`)))])) as [Outcome];
      rows.push([what, formatDuration(outcome.ms), `${Math.round((outcome.documents / outcome.ms) * 1000).toLocaleString('en-US')}/s`, `${formatBytes(Math.round((outcome.plainBytes / outcome.ms) * 1000))}/s`, formatBytes(outcome.startBytes), formatBytes(outcome.peakBytes), formatDuration(outcome.cpuMs), outcome.note]);
      console.log(rows.at(-1)!.filter((cell) => cell !== '').join(', '));
      return outcome;
    };
    const whole = await measured('backup', { work: 'backup', config: config(), location: 'shop/2026/01/01/000000Z-one/', target: '' });
    const half = Math.round(whole.plainBytes / whole.ms / 2) * 1000;
    const throttled = await measured(`a tenth of it, at most ${formatBytes(half)}/s`, { work: 'backup', config: config('part', { maxBytesPerSecond: `${half}B` }), location: 'shop/2026/01/01/000000Z-two/', target: '' });
    await measured('restore', { work: 'restore', config: config(), location: 'shop/2026/01/01/000000Z-one/', target: target.uri });
    await measured('proof, every document read', { work: 'prove', config: config(), location: 'shop/2026/01/01/000000Z-one/', target: target.uri });
    await measured('alternative: find, Extended JSON lines, gzip', { work: 'lines', config: config(), location: source.uri, target: join(directory, 'lines.gz') });
    console.log(formatTable(['what', 'took', 'documents', 'plain', 'memory at start', 'peak', 'processor time', ''], rows));
    const share = ((throttled.plainBytes / throttled.ms) * 1000) / half;
    console.log(`share of the permitted rate that was used: ${(share * 100).toFixed(1)} %`);
    // A second's share may be saved up before it.
    if (throttled.plainBytes > half * (throttled.ms / 1000 + 1.1)) throw new Error('the throttle let more through than it was told to');
  } finally {
    await processes.end();
  }
}

async function fill(uri: string, collection: string, documents: number): Promise<void> {
  await withMongodb({ what: 'bench', uri }, async (client) => {
    await client.db('shop').command({ create: collection });
    for (let at = 0; at < documents; at += 1000) {
      const batch = Array.from({ length: Math.min(1000, documents - at) }, (_, index) => BSON.serialize(order(at + index)));
      const { errors } = await insertRaw(client.db('shop'), collection, batch, { ordered: false, writeConcern: 1, writeConcernTimeoutMs: 60_000, keepEmptyTimestamps: false });
      if (errors.length > 0) throw new Error(errors[0]!.message);
    }
  });
}

function order(index: number): Document {
  return { _id: index, number: `N-${index}`, customer: index % 997, at: new Date(1_700_000_000_000 + index), lines: [{ sku: `s${index % 1013}`, count: index % 5 }], note: `order ${index} of customer ${index % 997}` };
}

async function run({ work, config, location, target }: Task): Promise<Outcome> {
  const log = await createLogger({ format: 'json', level: 'warn' });
  const context = createContext({ config: configSchema.parse(config), configPath: join(process.cwd(), 'holdfast.yaml'), runbookDirectory: 'runbooks', log });
  const startBytes = peakBytes();
  const before = process.cpuUsage();
  const started = performance.now();
  const done = await WORK[work](context, location, target);
  const ms = performance.now() - started;
  const used = process.cpuUsage(before);
  context.close();
  return { ...done, ms, startBytes, peakBytes: peakBytes(), cpuMs: (used.user + used.system) / 1000 };
}

type Done = Pick<Outcome, 'documents' | 'plainBytes' | 'note'>;

const WORK: Readonly<Record<Work, (context: Context, location: string, target: string) => Promise<Done>>> = {
  async backup(context, location) {
    const result = await mongodbEngine.backUp(context, { datastore: 'shop', id: location.slice(-4, -1), location, reason: 'bench', workflowId: '', runId: '' }, { signal: new AbortController().signal });
    return { documents: Number(result.rows), plainBytes: result.plainBytes, note: `${formatBytes(result.storedBytes)} stored` };
  },
  async restore(context, location, target) {
    const manifest = await manifestOf(context, location);
    const done = await restoreStored(context, { storeName: 'main', location, manifest }, { what: 'bench', uri: target }, {});
    return { documents: done.documents, plainBytes: done.plainBytes, note: '' };
  },
  async prove(context, location, target) {
    const manifest = await manifestOf(context, location);
    const proof = await proveRestored(context, { what: 'bench', uri: target }, manifest, { ownDatabases: true });
    if (!proof.exact) throw new Error(JSON.stringify(proof.differences));
    return { documents: Number(proof.compared.rows), plainBytes: manifest.fingerprint.collections.reduce((sum, { bytes }) => sum + Number(bytes), 0), note: 'exact' };
  },
  async lines(_context, uri, path) {
    const client = new MongoClient(uri);
    let [documents, plainBytes] = [0, 0];
    async function* lines(): AsyncGenerator<string> {
      for await (const document of client.db('shop').collection('orders').find({}, { batchSize: 1000 })) {
        const line = `${BSON.EJSON.stringify(document, { relaxed: false })}\n`;
        documents += 1;
        plainBytes += line.length;
        yield line;
      }
    }
    await pipeline(Readable.from(lines()), createGzip(), createWriteStream(path));
    await client.close();
    return { documents, plainBytes, note: 'to a file; nothing summed, nothing proved, types and keys not as they were' };
  },
};

async function manifestOf(context: Context, location: string): Promise<MongodbManifest> {
  return (await readManifest(await openStore(context, 'main'), location)) as MongodbManifest;
}

function peakBytes(): number {
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) * 1024;
}
