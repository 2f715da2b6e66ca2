import { randomBytes } from 'node:crypto';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ChangeResourceRecordSetsCommand, CreateHostedZoneCommand, ListResourceRecordSetsCommand, Route53Client } from '@aws-sdk/client-route-53';
import { CreateSecretCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import type { Client } from '@temporalio/client';
import { stringify } from 'yaml';
import { connectClient } from '../engine/connection.ts';
import { loadConfig } from '../systems/config-file.ts';
import { createContext, type Context } from '../systems/context.ts';
import { generateSigningKey } from '../systems/evidence-keys.ts';
import { createLogger } from '../systems/log.ts';
import type { AwsServer } from './moto.ts';
import { waitUntilReady, type LocalProcess, type Processes } from './processes.ts';
import { createShop, SHOP_APPLICATION_ROLE, type LoadedShop } from './shop.ts';
import { createBucket, startMoto, startPostgres, startStandby, startTemporal, startVersity, type PostgresServer, type TemporalServer } from './stack.ts';
import { startWebhook, type Webhook } from './webhook.ts';

/** A whole estate on this machine: what a service needs, and Holdfast configured for it. */
export interface LocalEnvironment {
  readonly processes: Processes;
  readonly directory: string;
  readonly temporal: TemporalServer;
  readonly aws: AwsServer;
  readonly s3: AwsServer;
  readonly bucket: string;
  readonly nodes: Readonly<Record<'a' | 'b', PostgresServer>>;
  readonly shop: LoadedShop;
  readonly webhook: Webhook;
  /** Secrets Manager id of the application's connection secret. */
  readonly applicationSecret: string;
  /** What the secret and the DNS record say for each node. */
  readonly applicationHosts: Readonly<Record<'a' | 'b', string>>;
  /** The address in the DNS record now. */
  resolvedAddress(): Promise<string>;
  /** Connects to a node as the application's role. */
  applicationUrl(node: 'a' | 'b'): string;
  readonly configPath: string;
  readonly context: Context;
  readonly client: Client;
  readonly worker: LocalProcess;
  readonly evidenceDirectory: string;
  /** PEM of the key that evidence must be signed with. */
  readonly publicKey: string;
}

export interface EnvironmentOptions {
  readonly processes: Processes;
  /** Rows of the shop. */
  readonly rows: number;
  readonly evidenceDirectory: string;
  /** Serve Temporal's web interface. */
  readonly ui: boolean;
  readonly step: <T>(what: string, work: () => Promise<T>, describe: (result: T) => string) => Promise<T>;
}

export const DATABASE = 'shop';
const ZONE = 'shop.internal';
export const RECORD = `db.${ZONE}`;
/** Another loopback address than the primary's, so that the DNS record has something to change. */
const STANDBY_ADDRESS = '127.0.0.2';
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export async function startEnvironment(options: EnvironmentOptions): Promise<LocalEnvironment> {
  const { processes, step } = options;
  const { directory } = processes;
  const applicationPassword = randomBytes(12).toString('hex');

  // Side by side: the servers come up while the database is loaded.
  const servers = step(
    'servers',
    async () => {
      const [temporal, aws, s3, webhook] = await Promise.all([
        startTemporal({ processes, directory, ui: options.ui }),
        startMoto({ processes, directory }),
        startVersity({ processes, directory }),
        startWebhook(),
      ]);
      return { temporal, aws, s3, webhook };
    },
    () => 'Temporal, AWS emulator, S3 store, webhook receiver',
  );
  servers.catch(() => {}); // Awaited below; the database may fail first.
  const a = await step('primary', () => startPostgres({ processes, directory, name: 'a' }), (server) => `PostgreSQL a on 127.0.0.1:${server.port}`);
  const shop = await step(
    'shop database',
    () => createShop((database) => a.connectionString(database), { database: DATABASE, rows: options.rows, applicationPassword }),
    ({ rows, databaseBytes, durationMs }) => `${rows.toLocaleString('en-US')} rows, ${(databaseBytes / 1e6).toFixed(0)} MB, ${Math.round(rows / (durationMs / 1000)).toLocaleString('en-US')} rows/s`,
  );
  const { temporal, aws, s3, webhook } = await servers;
  const b = await step('standby', () => startStandby({ processes, directory, name: 'b', primary: a, settings: { listen_addresses: `${a.host},${STANDBY_ADDRESS}` } }), (server) => `PostgreSQL b on 127.0.0.1:${server.port}, streaming from a`);

  const bucket = 'shop-backups';
  const secrets = { admin: 'shop/admin', application: 'shop/application', slack: 'shop/webhook' };
  const zoneId = await step(
    'cloud resources',
    async () => {
      await createBucket(s3, bucket, { versioning: true });
      await createSecrets(aws, {
        [secrets.admin]: { username: a.superuser, password: a.password },
        [secrets.application]: { engine: 'postgres', host: a.host, port: a.port, username: SHOP_APPLICATION_ROLE, password: applicationPassword, dbname: DATABASE },
        [secrets.slack]: { url: webhook.url },
      });
      return createZone(aws, a.host);
    },
    () => `secrets, DNS zone ${ZONE}, versioned bucket ${bucket}`,
  );

  const applicationHosts = { a: a.host, b: STANDBY_ADDRESS };
  const { privatePem, publicPem, publicBase64 } = generateSigningKey();
  const file = (name: string, text: string): string => {
    const path = join(directory, 'secrets', name);
    writeFileSync(path, text, { mode: 0o600 });
    return `file:${path}`;
  };
  mkdirSync(join(directory, 'secrets'), { mode: 0o700 });
  // Drill targets run as another user, who must be able to pass.
  mkdirSync(join(directory, 'work'), { mode: 0o755 });
  symlinkSync(join(ROOT, 'runbooks'), join(directory, 'runbooks'));
  const node = (server: PostgresServer, applicationHost: string): object => ({
    host: server.host,
    port: server.port,
    applicationHost,
    dataDirectory: server.dataDirectory,
    binDirectory: server.binDirectory,
    ...(server.exec.length === 0 ? {} : { exec: server.exec }),
    replication: { username: server.replication.username, passfile: server.replication.passfile },
  });
  const credentials = (name: string, server: AwsServer): object => ({
    accessKeyId: file(`${name}-access-key-id`, server.accessKeyId),
    secretAccessKey: file(`${name}-secret-access-key`, server.secretAccessKey),
  });
  const document = {
    version: 1,
    environment: 'demo',
    workDirectory: join(directory, 'work'),
    temporal: { address: temporal.address, namespace: temporal.namespace, taskQueue: 'holdfast' },
    aws: { region: aws.region, endpoint: aws.endpoint, credentials: credentials('aws', aws) },
    stores: { main: { type: 's3', bucket, prefix: 'demo', region: s3.region, endpoint: s3.endpoint, forcePathStyle: true, credentials: credentials('s3', s3) } },
    datastores: {
      shop: {
        engine: 'postgres',
        database: DATABASE,
        store: 'main',
        binDirectory: a.binDirectory,
        admin: { username: a.superuser, password: `aws-sm:${secrets.admin}#password` },
        nodes: { a: node(a, applicationHosts.a), b: node(b, applicationHosts.b) },
        endpoint: { secret: secrets.application, dns: { hostedZoneId: zoneId, name: RECORD, type: 'A', ttlSeconds: 5 } },
        retention: { last: 2, minVerified: 1 },
      },
    },
    services: {
      orders: {
        description: 'Takes the orders of the shop',
        objectives: { rto: '2m', rpo: '5m', refusedWrites: '1s', lostWrites: 0, backupAge: '90m' },
        datastores: ['shop'],
        runbooks: { failover: 'database-failover', failback: 'database-failback' },
        parameters: { datastore: 'shop', recentQuery: 'select max(at) as newest from shop.checkouts' },
        checks: [
          { name: 'there are customers', sql: 'select count(*) from shop.customers', expect: { atLeast: 20 } },
          { name: 'every order has a customer', sql: 'select count(*) from shop.orders o left join shop.customers c on c.id = o.customer_id where c.id is null', expect: { equals: 0 } },
        ],
      },
    },
    schedules: {
      'shop-hourly': { run: 'backup', datastore: 'shop', cron: '0 * * * *', overlap: 'skip', jitter: '30s' },
      'shop-retention': { run: 'retention', datastore: 'shop', cron: '20 3 * * *' },
      'shop-drill': { run: 'restoreDrill', datastore: 'shop', cron: '0 4 1 * *' },
      'orders-readiness': { run: 'readiness', service: 'orders', every: '15m' },
    },
    notify: { chat: { type: 'slack', url: `aws-sm:${secrets.slack}#url` } },
    evidence: { directory: options.evidenceDirectory, store: 'main', signingKey: file('evidence-key.pem', privatePem), trustedKeys: [{ publicKey: publicBase64 }] },
  };
  const configPath = join(directory, 'holdfast.yaml');
  writeFileSync(configPath, `# yaml-language-server: $schema=${join(ROOT, 'holdfast.schema.json')}\n${stringify(document, { lineWidth: 140 })}`);
  const { config } = await loadConfig(configPath);
  const context = createContext({ config, configPath, runbookDirectory: join(ROOT, 'runbooks'), log: await createLogger({ format: 'json', level: 'error' }) });
  const client = await connectClient(config, context.secrets);

  const worker = await step('worker', () => startWorker(processes, configPath, client, config.temporal.taskQueue), (child) => `Holdfast worker, process ${child.pid}, polling ${config.temporal.taskQueue}`);
  return {
    processes,
    directory,
    temporal,
    aws,
    s3,
    bucket,
    nodes: { a, b },
    shop,
    webhook,
    applicationSecret: secrets.application,
    applicationHosts,
    resolvedAddress: () => recordAddress(aws, zoneId),
    applicationUrl: (name) => `postgresql://${SHOP_APPLICATION_ROLE}:${applicationPassword}@127.0.0.1:${{ a, b }[name].port}/${DATABASE}`,
    configPath,
    context,
    client,
    worker,
    evidenceDirectory: options.evidenceDirectory,
    publicKey: publicPem,
  };
}

/** The worker as its users start it: the command line in a process of its own. */
export async function startWorker(processes: Processes, configPath: string, client: Client, taskQueue: string): Promise<LocalProcess> {
  const child = await processes.spawn({
    name: 'worker',
    cwd: ROOT,
    argv: [process.execPath, '--disable-warning=ExperimentalWarning', join(ROOT, 'src/cli/main.ts'), '--config', configPath, 'worker'],
  });
  await waitUntilReady(child, async () => {
    const answers = await Promise.all(
      [1, 2].map((taskQueueType) => client.workflowService.describeTaskQueue({ namespace: client.options.namespace, taskQueue: { name: taskQueue }, taskQueueType })),
    );
    return answers.every(({ pollers }) => (pollers?.length ?? 0) > 0) || undefined;
  });
  return child;
}

async function createSecrets(aws: AwsServer, values: Readonly<Record<string, object>>): Promise<void> {
  const client = new SecretsManagerClient(settings(aws));
  try {
    for (const [id, value] of Object.entries(values)) await client.send(new CreateSecretCommand({ Name: id, SecretString: JSON.stringify(value) }));
  } finally {
    client.destroy();
  }
}

async function createZone(aws: AwsServer, address: string): Promise<string> {
  const client = new Route53Client(settings(aws));
  try {
    const made = await client.send(new CreateHostedZoneCommand({ Name: ZONE, CallerReference: randomBytes(8).toString('hex') }));
    const id = (made.HostedZone?.Id ?? '').replace('/hostedzone/', '');
    await client.send(
      new ChangeResourceRecordSetsCommand({
        HostedZoneId: id,
        ChangeBatch: { Changes: [{ Action: 'CREATE', ResourceRecordSet: { Name: RECORD, Type: 'A', TTL: 5, ResourceRecords: [{ Value: address }] } }] },
      }),
    );
    return id;
  } finally {
    client.destroy();
  }
}

async function recordAddress(aws: AwsServer, zoneId: string): Promise<string> {
  const client = new Route53Client(settings(aws));
  try {
    const { ResourceRecordSets } = await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: zoneId }));
    return ResourceRecordSets?.find(({ Name, Type }) => Type === 'A' && Name?.replace(/\.$/, '') === RECORD)?.ResourceRecords?.[0]?.Value ?? '(no record)';
  } finally {
    client.destroy();
  }
}

function settings(aws: AwsServer): { region: string; endpoint: string; credentials: { accessKeyId: string; secretAccessKey: string } } {
  return { region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } };
}
