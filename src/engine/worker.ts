import { dirname, resolve } from 'node:path';
import { DefaultLogger, Runtime, Worker, makeTelemetryFilterString, type ActivityInterceptorsFactory, type LogEntry, type NativeConnection } from '@temporalio/worker';
import { asyncLocalStorage } from '@temporalio/activity';
import { createActivities } from '../../activities/index.ts';
import type { Context } from '../systems/context.ts';
import { setLogSurroundings, type Logger } from '../systems/log.ts';
import { messageOf } from '../model/errors.ts';
import { bundleWorkflows, type WorkflowBundle } from './bundle.ts';
import { connectClient, connectNative, identity } from './connection.ts';
import { sweepEndedDrills } from './drill-sweep.ts';
import { dataConverterOf } from './payload-encryption.ts';
import { registerSearchAttributes } from './search-attributes.ts';

export interface WorkerOptions {
  /** Built beforehand, e.g. once for a test suite; else workflows/index.ts is bundled. */
  readonly workflowBundle?: WorkflowBundle;
  /** Instead of the configured shared queue. The host queue is always `context.hostTaskQueue`. */
  readonly taskQueue?: string;
  /** Activities get this long to end by themselves on shutdown before they are cancelled; default 10 s. */
  readonly shutdownGraceMs?: number;
  /** Around every activity, e.g. to lose the worker at a chosen moment in a test. */
  readonly activityInterceptors?: readonly ActivityInterceptorsFactory[];
}

export interface HoldfastWorker {
  /** Polls both queues until `shutdown`. Rejects when one of the workers fails; the other is shut down first. */
  run(): Promise<void>;
  shutdown(): void;
  /** Run while `work` runs, then shut down and close. */
  runUntil<T>(work: Promise<T> | (() => Promise<T>)): Promise<T>;
  /** Of the connection; after `run` ended. */
  close(): Promise<void>;
}

/** After the grace time activities are cancelled and clean up; whatever still runs then is given up. */
const CLEAN_UP_MS = 60_000;
/**
 * Cancellation reaches an activity by the answer to a heartbeat. The SDK sends one heartbeat a throttle interval
 * (default: 80 % of the heartbeat timeout, up to 60 s), which would make an operator's abort wait that long.
 */
const HEARTBEAT_THROTTLE_MS = 1000;
/**
 * How long the server waits for the worker that holds an execution in memory before any other may take it. The SDK's 10 s would be
 * added to every loss of a worker, also while writes are refused.
 */
const STICKY_MS = 2000;

/** Workers for the shared queue (workflows and activities) and for this host's queue (activities) in this process. */
export async function createWorker(context: Context, options: WorkerOptions = {}): Promise<HoldfastWorker> {
  const { config } = context;
  const dataConverter = await dataConverterOf(config, context.secrets);
  const workflowBundle = options.workflowBundle ?? (await bundleWorkflows({ encrypted: dataConverter !== undefined }));
  const connection = await connectNative(config, context.secrets);
  const activities = createActivities(context);
  const shutdownGraceMs = options.shutdownGraceMs ?? 10_000;
  const common = {
    connection,
    namespace: config.temporal.namespace,
    identity: identity(),
    activities,
    ...(dataConverter === undefined ? {} : { dataConverter }),
    ...(options.activityInterceptors === undefined ? {} : { interceptors: { activity: [...options.activityInterceptors] } }),
    shutdownGraceTime: shutdownGraceMs,
    shutdownForceTime: shutdownGraceMs + CLEAN_UP_MS,
    maxHeartbeatThrottleInterval: HEARTBEAT_THROTTLE_MS,
    defaultHeartbeatThrottleInterval: HEARTBEAT_THROTTLE_MS,
  };
  let workers: Worker[];
  try {
    workers = await Promise.all([
      Worker.create({
        ...common,
        taskQueue: options.taskQueue ?? config.temporal.taskQueue,
        workflowBundle,
        stickyQueueScheduleToStartTimeout: STICKY_MS,
        maxConcurrentActivityTaskExecutions: 40,
        maxConcurrentWorkflowTaskExecutions: 40,
        maxConcurrentLocalActivityExecutions: 40,
      }),
      Worker.create({ ...common, taskQueue: context.hostTaskQueue, maxConcurrentActivityTaskExecutions: 10 }),
    ]);
  } catch (error) {
    await connection.close();
    throw error;
  }
  return assemble(workers, connection);
}

function assemble(workers: readonly Worker[], connection: NativeConnection): HoldfastWorker {
  function shutdown(): void {
    for (const worker of workers) {
      if (worker.getState() === 'RUNNING') worker.shutdown();
    }
  }
  async function run(): Promise<void> {
    const runs = workers.map((worker) => worker.run());
    for (const run of runs) run.catch(shutdown);
    const ends = await Promise.allSettled(runs);
    const failed = ends.find((end) => end.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }
  return {
    run,
    shutdown,
    async runUntil(work) {
      const running = run();
      try {
        return await Promise.race([typeof work === 'function' ? work() : work, running.then(() => Promise.reject(new Error('the worker ended before the work')))]);
      } finally {
        shutdown();
        await running.finally(() => connection.close());
      }
    },
    close: () => connection.close(),
  };
}

/** SDK and core log lines go where ours go, through the same redaction. Once a process, before any connection. */
export function installRuntime(log: Logger): void {
  setLogSurroundings(() => {
    const info = asyncLocalStorage.getStore()?.info;
    return info === undefined ? {} : { workflowId: info.workflowExecution?.workflowId, runId: info.workflowExecution?.runId, activity: info.activityType, attempt: info.attempt };
  });
  const temporal = log.child({ component: 'temporal' });
  Runtime.install({
    logger: new DefaultLogger('DEBUG', (entry: LogEntry) => {
      const { meta, level, message } = entry;
      const fields = { ...(meta as Record<string, unknown> | undefined) };
      // pino prints errors under `err` only.
      if (fields['error'] instanceof Error) {
        fields['err'] = fields['error'];
        delete fields['error'];
      }
      // The worker's own state changes, and that the host queue has no workflows, are no news to anybody.
      const routine = fields['sdkComponent'] === 'worker' && (level === 'INFO' || message.startsWith('No workflows registered'));
      temporal[routine ? 'debug' : PINO_LEVELS[level]](fields, message);
    }),
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'WARN', other: 'ERROR' }), forward: {} } },
    // Signals are ours: the second one must end a worker that does not end.
    shutdownSignals: [],
  });
}

const PINO_LEVELS = { TRACE: 'trace', DEBUG: 'debug', INFO: 'info', WARN: 'warn', ERROR: 'error' } as const;

/**
 * A worker as a process: registers search attributes, runs until SIGTERM or SIGINT, lets activities end. A second
 * signal ends the process at once with 130; children of activities die with it.
 */
export async function runWorker(context: Context, options: WorkerOptions = {}): Promise<void> {
  const { log, config } = context;
  installRuntime(log);
  const client = await connectClient(config, context.secrets);
  try {
    const added = await registerSearchAttributes(client);
    if (added.length > 0) log.info({ added }, 'search attributes registered');
    await sweepEndedDrills(context, client);
  } finally {
    await client.connection.close();
  }
  void copyLeftEvidence(context);
  const worker = await createWorker(context, options);
  let signals = 0;
  const onSignal = (signal: NodeJS.Signals): void => {
    signals += 1;
    if (signals > 1) {
      log.warn({ signal }, 'second signal: ending at once; what was running is retried by another worker');
      process.exit(130);
    }
    log.info({ signal }, 'stopping: running activities get time to end; a second signal ends at once');
    worker.shutdown();
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
  log.info(
    { address: config.temporal.address, namespace: config.temporal.namespace, taskQueue: options.taskQueue ?? config.temporal.taskQueue, hostTaskQueue: context.hostTaskQueue, environment: config.environment },
    'worker started',
  );
  try {
    await worker.run();
    log.info('worker stopped');
  } finally {
    process.off('SIGTERM', onSignal);
    process.off('SIGINT', onSignal);
    await worker.close();
  }
}

/** Records of this host whose copy could not be made when they were written. Nothing waits for it: the store may still be away. */
async function copyLeftEvidence(context: Context): Promise<void> {
  const { store, directory } = context.config.evidence;
  if (store === undefined) return;
  try {
    const { pushPending } = await import('../systems/evidence-store.ts');
    const { copied, left, problem } = await pushPending(context, resolve(dirname(context.configPath), directory), store, Date.now());
    if (copied.length > 0) context.log.info({ copied }, 'evidence that was left here was copied to the store');
    if (problem !== undefined) context.log.error({ left, problem }, 'evidence is on this host only');
  } catch (error) {
    context.log.error({ error: messageOf(error) }, 'evidence that was left here could not be looked at');
  }
}
