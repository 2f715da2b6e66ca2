import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ApplicationFailure, WorkflowFailedError, type Client, type WorkflowHandle } from '@temporalio/client';
import pg from 'pg';
import { afterAll, inject } from 'vitest';
import { stringify } from 'yaml';
import type { HoldfastWorker, WorkerOptions } from '../src/engine/worker.ts';
import { connectToxiproxy, createBucket, type Toxiproxy } from '../src/local/stack.ts';
import { configSchema } from '../src/model/config-schema.ts';
import type { Progress } from '../src/model/execution.ts';
import { createContext, type Context } from '../src/systems/context.ts';
import { createLogger } from '../src/systems/log.ts';
import type { ExecutionResult } from '../workflows/failover.ts';
import type { PostgresTarget } from '../src/systems/postgres.ts';
import { undeclared, judge } from './aws-permissions.ts';
import { watchAwsCalls } from './aws-calls.ts';
import type { SuiteAddresses } from './setup.ts';

// Least privilege: whatever AWS call an activity makes in any test is one that the generated policies allow.
afterAll(() => {
  if (undeclared.size > 0) throw new Error(`AWS calls that no generated policy allows; declare them in \`permissions\` of the step kind, or in src/model/permissions.ts:\n${[...undeclared].join('\n')}`);
});

/** Addresses of the servers that test/setup.ts started. Only in tests of the project `servers`. */
export function suite(): SuiteAddresses {
  return inject('suite');
}

export function toxiproxy(): Toxiproxy {
  return connectToxiproxy(suite().toxiproxyUrl);
}

export function uniqueName(name: string): string {
  return `${name}-${randomBytes(4).toString('hex')}`;
}

/** A new folder below the run's temporary folder. */
export function testDirectory(name: string): string {
  const directory = join(suite().directory, uniqueName(name));
  mkdirSync(directory, { recursive: true });
  return directory;
}

export interface TestDatabase {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
  readonly target: PostgresTarget;
  readonly connectionString: string;
  /** One statement on a connection of its own; gives its rows. */
  query<T extends pg.QueryResultRow = Record<string, unknown>>(sql: string, values?: unknown[]): Promise<T[]>;
  drop(): Promise<void>;
}

/** A new database on the shared server, owned by its superuser. */
export async function testDatabase(name: string, options: { template?: string } = {}): Promise<TestDatabase> {
  const { host, port, superuser, password } = suite().postgres;
  const database = uniqueName(name).replaceAll('-', '_');
  const server = (target: string): string => `postgresql://${superuser}:${password}@${host}:${port}/${target}`;
  await queryOnce(server('postgres'), `create database ${pg.escapeIdentifier(database)}${options.template === undefined ? '' : ` template ${pg.escapeIdentifier(options.template)}`}`);
  return {
    host,
    port,
    user: superuser,
    password,
    database,
    target: { host, port, user: superuser, password, database, sslmode: 'disable' },
    connectionString: server(database),
    query: (sql, values) => queryOnce(server(database), sql, values),
    drop: async () => void (await queryOnce(server('postgres'), `drop database if exists ${pg.escapeIdentifier(database)} with (force)`)),
  };
}

/** One statement on a connection of its own. */
export async function queryOnce<T extends pg.QueryResultRow = Record<string, unknown>>(connectionString: string, sql: string, values?: unknown[]): Promise<T[]> {
  const client = new pg.Client({ connectionString });
  client.on('error', () => {}); // The query says it; a session that is ended while it says goodbye must not end the test.
  await client.connect();
  try {
    return (await client.query<T>(sql, values)).rows;
  } finally {
    await client.end();
  }
}

/** A new, empty bucket on the shared S3 server; gives its name. */
export async function testBucket(options: { objectLock?: boolean; versioning?: boolean } = {}): Promise<string> {
  const bucket = uniqueName('bucket');
  await createBucket(suite().s3, bucket, options);
  return bucket;
}

/** A new secret in the emulated Secrets Manager; gives its id. */
export async function testSecret(name: string, value: string | Readonly<Record<string, unknown>>): Promise<string> {
  const { CreateSecretCommand, SecretsManagerClient } = await import('@aws-sdk/client-secrets-manager');
  const { aws } = suite();
  const client = new SecretsManagerClient({ region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
  const id = uniqueName(name);
  try {
    await client.send(new CreateSecretCommand({ Name: id, SecretString: typeof value === 'string' ? value : JSON.stringify(value) }));
    return id;
  } finally {
    client.destroy();
  }
}

/** Parts of holdfast.yaml as they are written there, laid over what `testConfig` gives. */
export type ConfigOverrides = Readonly<Record<string, unknown>>;

/**
 * A context of its own: temp folder, task queue, the emulated AWS, and a store `main` on a new bucket. The same configuration
 * lies at `context.configPath`, for tests that run the command line.
 */
export async function testConfig(overrides: ConfigOverrides = {}, options: { runbookDirectory?: string } = {}): Promise<Context> {
  const { temporal, aws, s3, postgres } = suite();
  Object.assign(process.env, {
    HOLDFAST_TEST_AWS_KEY: aws.accessKeyId,
    HOLDFAST_TEST_AWS_SECRET: aws.secretAccessKey,
    HOLDFAST_TEST_S3_KEY: s3.accessKeyId,
    HOLDFAST_TEST_S3_SECRET: s3.secretAccessKey,
    HOLDFAST_TEST_PG_PASSWORD: postgres.password,
  });
  const directory = testDirectory('context');
  const document = merge(
    {
      version: 1,
      // Locks are named after it: tests share one Temporal, and most call their datastore `shop`.
      environment: uniqueName('test'),
      workDirectory: join(directory, 'work'),
      temporal: { address: temporal.address, namespace: temporal.namespace, taskQueue: uniqueName('queue') },
      aws: { region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: 'env:HOLDFAST_TEST_AWS_KEY', secretAccessKey: 'env:HOLDFAST_TEST_AWS_SECRET' } },
      stores: {
        main: {
          type: 's3',
          bucket: await testBucket(),
          endpoint: s3.endpoint,
          region: s3.region,
          forcePathStyle: true,
          credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' },
        },
      },
      datastores: {},
      services: {},
      evidence: { directory: join(directory, 'evidence') },
    },
    overrides,
  );
  mkdirSync(join(directory, 'work'), { mode: 0o755 });
  const configPath = join(directory, 'holdfast.yaml');
  writeFileSync(configPath, stringify(document));
  const context = createContext({
    config: configSchema.parse(document),
    configPath,
    runbookDirectory: options.runbookDirectory ?? fileURLToPath(new URL('../runbooks', import.meta.url)),
    log: await createLogger({ format: 'json', level: process.env['HOLDFAST_TEST_LOG'] ?? 'fatal' }),
  });
  watchAwsCalls(context, (call) => judge(context.config, call));
  return context;
}

/** A datastore of holdfast.yaml on a test database: one node `a`, store `main`. For `testConfig({ datastores: { shop: ... } })`. */
export function testDatastore(database: TestDatabase, overrides: ConfigOverrides = {}): Readonly<Record<string, unknown>> {
  return merge(
    {
      engine: 'postgres',
      database: database.database,
      store: 'main',
      admin: { username: database.user, password: 'env:HOLDFAST_TEST_PG_PASSWORD' },
      binDirectory: suite().postgres.binDirectory,
      nodes: { a: { host: database.host, port: database.port } },
    },
    overrides,
  );
}

/** How an execution ended that nobody decides about: one that waits for an operator is an error that says where and why, and not a test that times out. */
export async function endOf(handle: WorkflowHandle): Promise<ExecutionResult> {
  const ended = new AbortController();
  const result = (handle.result() as Promise<ExecutionResult>).finally(() => ended.abort());
  result.catch(() => {});
  const parked = (async () => {
    while (!ended.signal.aborted) {
      await new Promise((resolve) => {
        setTimeout(resolve, 500);
      });
      // It cannot be asked while no worker runs.
      const progress = await handle.query<Progress>('progress').catch(() => null);
      if (!ended.signal.aborted && progress?.parked !== undefined && progress.parked.length > 0) throw new Error(`${handle.workflowId} waits for an operator: ${progress.parked.map(({ step, why }) => `${step}: ${why}`).join('; ')}`);
    }
  })();
  await Promise.race([result, parked]);
  return result;
}

let runtimeInstalled = false;

/** The real worker, on the context's own task queues, with the bundle built once for the run. Use `runUntil`, or `run` and `shutdown`. */
export async function testWorker(context: Context, overrides: WorkerOptions = {}): Promise<HoldfastWorker> {
  const { createWorker, installRuntime } = await import('../src/engine/worker.ts');
  if (!runtimeInstalled) {
    installRuntime(context.log);
    runtimeInstalled = true;
  }
  return createWorker(context, { shutdownGraceMs: 500, workflowBundle: { code: readFileSync(suite().workflowBundle, 'utf8'), sourceMap: '' }, ...overrides });
}

/** Like `testWorker`, polling from now until `stop`. For beforeAll and afterAll. */
export async function runningWorker(context: Context, overrides: WorkerOptions = {}): Promise<{ stop(): Promise<void> }> {
  const worker = await testWorker(context, overrides);
  const running = worker.run();
  running.catch(() => {}); // Whoever stops it sees the error.
  return {
    async stop() {
      worker.shutdown();
      await running.finally(() => worker.close());
    },
  };
}

/** Approves what waits, bound to what it shows now, as the command line does. */
export async function approve(handle: WorkflowHandle, by: string, more: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const { approval } = await handle.query<Progress>('progress');
  return handle.executeUpdate('approve', { args: [{ by, reason: 'test', ...(approval == null ? {} : { plan: approval.plan, observed: approval.observed }), ...more }] });
}

/** What a failed execution's workflow failed with. Throws when it succeeded. */
export async function applicationFailureOf(handle: WorkflowHandle): Promise<ApplicationFailure> {
  try {
    await handle.result();
  } catch (error) {
    if (error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure) return error.cause;
    throw error;
  }
  throw new Error(`${handle.workflowId} succeeded, a failure was expected`);
}

/** The full result of an execution that did not succeed. */
export async function failureOf(handle: WorkflowHandle): Promise<ExecutionResult> {
  return (await applicationFailureOf(handle)).details![0] as ExecutionResult;
}

/** A client of the context's server. Close it with `client.connection.close()`. */
export async function connectTemporal(context: Context): Promise<Client> {
  const { connectClient } = await import('../src/engine/connection.ts');
  return connectClient(context.config, context.secrets);
}

function merge(base: Readonly<Record<string, unknown>>, over: ConfigOverrides): Record<string, unknown> {
  const result: Record<string, unknown> = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const below = result[key];
    result[key] = isObject(value) && isObject(below) ? merge(below, value) : value;
  }
  return result;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
