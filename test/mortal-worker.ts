// A worker in a process of its own that ends itself with SIGKILL at a named moment. Tests start it by test/mortal.ts.
import { readFileSync } from 'node:fs';
import { createActivities } from '../activities/index.ts';
import { connectNative, identity } from '../src/engine/connection.ts';
import { createWorker, installRuntime } from '../src/engine/worker.ts';
import type { PhaseCall } from '../src/model/step-call.ts';
import { loadConfig } from '../src/systems/config-file.ts';
import { createContext, type Context } from '../src/systems/context.ts';
import { createLogger } from '../src/systems/log.ts';
import type { Death, WorkerRole } from './mortal.ts';

const { configPath, runbookDirectory, bundlePath, death, role } = JSON.parse(process.argv[2]!) as { configPath: string; runbookDirectory: string; bundlePath: string; death: Death | null; role: WorkerRole };

function die(): void {
  process.kill(process.pid, 'SIGKILL');
}

/** Dies once the file has (or no longer has) what is waited for, between two steps of the activity. */
function watch({ path, has }: { readonly path: string; readonly has: string | null }): () => void {
  let watching = true;
  const look = (): void => {
    if (!watching) return;
    let text: string | null = null;
    try {
      text = readFileSync(path, 'utf8');
    } catch {
      // Not there.
    }
    if (has === null ? text === null : text?.includes(has) === true) die();
    setImmediate(look);
  };
  look();
  return () => {
    watching = false;
  };
}

const { config } = await loadConfig(configPath, { runbookDirectory });
const context: Context = createContext({ config, configPath, runbookDirectory, log: await createLogger({ format: 'json', level: process.env['HOLDFAST_TEST_LOG'] ?? 'fatal' }) });
installRuntime(context.log);

let armed = false;
let seen = 0;
// Loaded now: loading them while guards time their connections looks like a server that does not answer.
const regions = new Set(Object.values(config.datastores).flatMap((datastore) => (datastore.engine === 'postgres' ? Object.values(datastore.nodes).flatMap((node) => (node.rds === undefined ? [] : [node.rds.region ?? config.aws.region])) : [])));
const buckets = Object.values(config.datastores).flatMap((datastore) => (datastore.engine === 's3' ? [datastore] : []));
const tables = Object.values(config.datastores).flatMap((datastore) => (datastore.engine === 'dynamodb' ? [datastore, { region: datastore.drill.region ?? datastore.region, endpoint: datastore.drill.endpoint ?? datastore.endpoint, credentials: datastore.drill.credentials ?? datastore.credentials }] : []));
const stores = tables.length === 0 ? [] : Object.values(config.stores).flatMap((store) => (store.type === 's3' ? [store] : []));
// Places that are the same have one client: each is watched once.
const clients = [...new Set([await context.aws.secretsManager(), await context.aws.route53(), ...(await Promise.all([...regions].map((region) => context.aws.rds(region)))), ...(await Promise.all([...buckets, ...stores].map((place) => context.aws.s3(place)))), ...(await Promise.all(tables.flatMap((place) => [context.aws.dynamoItems(place), context.aws.dynamoStreams(place)])))])];
if (death?.afterRequest !== undefined) {
  // The middle of an apply whose effects are calls of an AWS API: right after one of them was answered.
  for (const client of clients) {
    const stack = client.middlewareStack as unknown as { add(middleware: (next: (args: unknown) => Promise<unknown>, about: { commandName?: string }) => (args: unknown) => Promise<unknown>, options: { step: 'initialize' }): void };
    stack.add((next, about) => async (args) => {
      const answer = await next(args);
      if (armed && about.commandName === death.afterRequest) {
        seen += 1;
        if (seen === (death.nth ?? 1)) die();
      }
      return answer;
    }, { step: 'initialize' });
  }
}

const activityInterceptors = [
  (about: { info: { activityType: string } }) => ({
    inbound: {
      async execute(input: { args: unknown[] }, next: (input: never) => Promise<unknown>): Promise<unknown> {
        const call = input.args[0] as Partial<PhaseCall> | undefined;
        const here = death !== null && about.info.activityType === death.at && (death.step === undefined || call?.step === death.step);
        if (!here) return next(input as never);
        if (death.before === true) die();
        armed = true;
        const stop = death.whenFile === undefined ? undefined : watch(death.whenFile);
        try {
          const result = await next(input as never);
          // Its effect is there; the server has not heard of it.
          if (death.afterRequest === undefined && death.whenFile === undefined) die();
          return result;
        } finally {
          stop?.();
        }
      },
    },
  }),
];

const bundle = { code: readFileSync(bundlePath, 'utf8'), sourceMap: '' };
async function create(): Promise<{ run(): Promise<void>; shutdown(): void }> {
  if (role === 'both') return createWorker(context, { workflowBundle: bundle, shutdownGraceMs: 500, activityInterceptors });
  const { Worker } = await import('@temporalio/worker');
  const common = { connection: await connectNative(config, context.secrets), namespace: config.temporal.namespace, identity: identity(), taskQueue: config.temporal.taskQueue, shutdownGraceTime: 500 };
  return Worker.create(role === 'workflows' ? { ...common, workflowBundle: bundle, stickyQueueScheduleToStartTimeout: 2000 } : { ...common, activities: createActivities(context), interceptors: { activity: activityInterceptors } });
}

const worker = await create();
let polling = false;
process.on('SIGTERM', () => (polling ? worker.shutdown() : process.exit(0)));
process.on('disconnect', () => process.exit(1));
const told = new Promise<void>((resolve) => {
  process.once('message', () => resolve());
});
process.send!('ready');
await told;
const running = worker.run();
polling = true;
process.send!('running');
await running;
process.exit(0);
