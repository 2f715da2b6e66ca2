import { randomBytes } from 'node:crypto';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { CloudFrontClient, CreateDistributionCommand } from '@aws-sdk/client-cloudfront';
import { AuthorizeSecurityGroupIngressCommand, CreateSecurityGroupCommand, EC2Client } from '@aws-sdk/client-ec2';
import { CreateDBInstanceCommand, CreateDBInstanceReadReplicaCommand, RDSClient } from '@aws-sdk/client-rds';
import { ChangeResourceRecordSetsCommand, CreateHealthCheckCommand, CreateHostedZoneCommand, Route53Client } from '@aws-sdk/client-route-53';
import { CreateSecretCommand, GetSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import { CreateQueueCommand, GetQueueAttributesCommand, SendMessageCommand, SQSClient } from '@aws-sdk/client-sqs';
import { PutParameterCommand, SSMClient } from '@aws-sdk/client-ssm';
import pg from 'pg';
import { stringify } from 'yaml';
import { loadConfig } from '../systems/config-file.ts';
import { createContext, type Context } from '../systems/context.ts';
import { generateSigningKey } from '../systems/evidence-keys.ts';
import { createLogger } from '../systems/log.ts';
import { createBucket, startKubernetes, startMoto, startRedis, startSearch, startTemporal, startVersity, type AwsServer, type KubernetesServer, type Processes, type RedisServer, type SearchServer, type TemporalServer } from './stack.ts';
import { startRds, WORKER_NETWORK, APPLICATION_NETWORK, type LocalInstance, type LocalRds, type RdsAnswer } from './rds.ts';
import { startWebhook, type Webhook } from './webhook.ts';

/** Two Regions of an organisation on this machine: the AWS emulator tells them apart by the request's signature, the servers are real. */
export const HOME = 'us-east-1';
export const AWAY = 'eu-west-1';
export const SERVICES = ['orders', 'auth', 'catalogue'] as const;
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const ADMIN = 'dba';
const APPLICATION = 'app';
const INDEX = 'products';
const REPOSITORY = 'shared';

export interface RegionEstate {
  readonly processes: Processes;
  readonly directory: string;
  readonly temporal: TemporalServer;
  readonly rds: LocalRds;
  readonly s3: AwsServer;
  readonly webhook: Webhook;
  readonly caches: Readonly<Record<'home' | 'away', RedisServer>>;
  readonly search: Readonly<Record<'home' | 'away', SearchServer>>;
  readonly kubernetes: KubernetesServer;
  /** DB instances by service and side. */
  readonly databases: Readonly<Record<'auth' | 'orders', Readonly<Record<'home' | 'away', LocalInstance>>>>;
  /** The shop's front door of each Region: 200 when the Region's application can write an order. */
  readonly fronts: Readonly<Record<'home' | 'away', Front>>;
  readonly zoneId: string;
  readonly healthCheckId: string;
  readonly distributionId: string;
  readonly queues: { readonly main: string; readonly dead: string };
  readonly flag: string;
  readonly configPath: string;
  readonly context: Context;
  readonly evidenceDirectory: string;
  readonly publicKey: string;
  /** Everything of the home Region that serves goes down at once, as by a loss of power. */
  loseHome(): Promise<void>;
  close(): Promise<void>;
}

export interface RegionOptions {
  readonly processes: Processes;
  readonly evidenceDirectory: string;
  readonly ui: boolean;
  readonly products: number;
  readonly keys: number;
  readonly deadLetters: number;
  readonly step: <T>(what: string, work: () => Promise<T>, describe: (result: T) => string) => Promise<T>;
}

/** The application of one Region, as its load balancer sees it. */
export interface Front {
  readonly url: string;
  /** A Region that is gone answers nobody. */
  close(): Promise<void>;
}

export async function startRegionEstate(options: RegionOptions): Promise<RegionEstate> {
  const { processes, step } = options;
  const { directory } = processes;
  let homeUrl = '';
  const servers = await step(
    'servers',
    async () => {
      const moto = startMoto({ processes, directory });
      const home = startSearch({ processes, directory, name: 'home' });
      const [temporal, s3, webhook, rds, cacheHome, cacheAway, searchHome, searchAway, kubernetes] = await Promise.all([
        startTemporal({ processes, directory, ui: options.ui }),
        startVersity({ processes, directory }),
        startWebhook(),
        moto.then((started) => startRds({ processes, directory, moto: started, settings: { fsync: 'off' }, elsewhere: (call) => checkers(call, () => homeUrl) })),
        startRedis({ processes, directory, name: 'home' }),
        startRedis({ processes, directory, name: 'away' }),
        home,
        // The repository is what both Regions share, as a replicated bucket is.
        home.then(({ repositories }) => startSearch({ processes, directory, name: 'away', repositories })),
        startKubernetes({ processes, directory, users: ['holdfast'] }),
      ]);
      return { temporal, s3, webhook, rds, caches: { home: cacheHome, away: cacheAway }, search: { home: searchHome, away: searchAway }, kubernetes };
    },
    () => `Temporal, AWS emulator, S3 store, Kubernetes; in each of ${HOME} and ${AWAY}: Redis, OpenSearch`,
  );
  const { temporal, s3, webhook, rds, caches, search, kubernetes } = servers;
  const { aws } = rds;
  const clients = cloud(aws);
  const adminPassword = randomBytes(12).toString('hex');
  const applicationPassword = randomBytes(12).toString('hex');

  const fencing = { [HOME]: await securityGroup(clients, HOME, 'fence', WORKER_NETWORK), [AWAY]: await securityGroup(clients, AWAY, 'fence', WORKER_NETWORK) } as const;
  const databases = await step(
    'databases',
    async () => {
      const groups = { [HOME]: await securityGroup(clients, HOME, 'applications', APPLICATION_NETWORK), [AWAY]: await securityGroup(clients, AWAY, 'applications', APPLICATION_NETWORK) };
      const made = await Promise.all((['auth', 'orders'] as const).map(async (name) => [name, await database(rds, clients, { name, adminPassword, applicationPassword, groups })] as const));
      return Object.fromEntries(made) as RegionEstate['databases'];
    },
    () => `auth and orders: each an RDS instance in ${HOME} and a read replica in ${AWAY} (real PostgreSQL behind moto)`,
  );

  await step('cache and search', () => fill(caches.home, search, databases.orders.home, options), () => `${options.keys.toLocaleString('en-US')} keys, ${options.products.toLocaleString('en-US')} products`);

  const secretOf = (name: string): string => `${name}/application`;
  for (const name of ['auth', 'orders'] as const) {
    const { port } = databases[name].home;
    // Written into both Regions, as replication does: moto does not replicate.
    for (const region of [HOME, AWAY]) await clients.secret(region, secretOf(name), { engine: 'postgres', host: '127.0.0.1', port, username: APPLICATION, password: applicationPassword, dbname: name });
  }
  await clients.secret(HOME, 'admin', { username: ADMIN, password: adminPassword });
  await clients.secret(AWAY, 'admin', { username: ADMIN, password: adminPassword });
  await clients.secret(AWAY, 'webhook', { url: webhook.url });

  const fronts = { home: await front(aws, HOME, secretOf('orders')), away: await front(aws, AWAY, secretOf('orders')) };
  homeUrl = fronts.home.url;
  const edge = await step('edge', () => makeEdge(clients, fronts, options.deadLetters), ({ distributionId }) => `failover records www.shop.example with a health check, distribution ${distributionId}, queue with ${options.deadLetters} dead letters, flag`);
  await deployment(kubernetes);

  const bucket = 'estate-backups';
  await createBucket(s3, bucket, { versioning: true });
  const { privatePem, publicPem, publicBase64 } = generateSigningKey();
  mkdirSync(join(directory, 'secrets'), { mode: 0o700 });
  mkdirSync(join(directory, 'work'), { mode: 0o755 });
  symlinkSync(join(ROOT, 'runbooks'), join(directory, 'runbooks'));
  const file = (name: string, text: string): string => {
    const path = join(directory, 'secrets', name);
    writeFileSync(path, text, { mode: 0o600 });
    return `file:${path}`;
  };
  const credentials = (name: string, server: AwsServer): object => ({ accessKeyId: file(`${name}-id`, server.accessKeyId), secretAccessKey: file(`${name}-secret`, server.secretAccessKey) });
  const datastore = (name: 'auth' | 'orders'): object => ({
    engine: 'postgres',
    database: name,
    store: 'main',
    admin: { username: ADMIN, password: 'aws-sm:admin#password' },
    managed: { type: 'rds' },
    nodes: Object.fromEntries((['home', 'away'] as const).map((side) => [side, { host: '127.0.0.1', port: databases[name][side].port, rds: { instance: databases[name][side].identifier, region: databases[name][side].region, fencingGroups: [fencing[side === 'home' ? HOME : AWAY]] } }])),
    endpoint: { secret: secretOf(name), secretRegion: AWAY },
  });
  const objectives = { rto: '15m', rpo: '1m', refusedWrites: '1m', lostWrites: 0 };
  const document = {
    version: 1,
    environment: 'region-demo',
    workDirectory: join(directory, 'work'),
    temporal: { address: temporal.address, namespace: temporal.namespace, taskQueue: 'holdfast' },
    // Whatever Holdfast needs to act must not lie in the Region that is lost.
    aws: { region: AWAY, endpoint: aws.endpoint, credentials: credentials('aws', aws) },
    kubernetes: { away: { kubeconfig: `file:${kubernetes.kubeconfigs['admin']}`, namespace: 'default' } },
    stores: { main: { type: 's3', bucket, region: s3.region, endpoint: s3.endpoint, forcePathStyle: true, credentials: credentials('s3', s3) } },
    datastores: {
      'auth-db': datastore('auth'),
      'orders-db': datastore('orders'),
      'orders-cache': {
        engine: 'redis',
        nodes: Object.fromEntries((['home', 'away'] as const).map((side) => [side, { host: '127.0.0.1', port: caches[side].port, password: file(`cache-${side}`, caches[side].password) }])),
        snapshots: { store: 'main', prefix: 'cache' },
      },
      products: { engine: 'opensearch', clusters: { home: { url: search.home.url }, away: { url: search.away.url, repository: REPOSITORY } }, indices: [INDEX], repository: REPOSITORY },
    },
    services: {
      auth: { description: 'Lets people in', objectives, datastores: ['auth-db'], runbooks: { region: 'region-database' }, parameters: { datastore: 'auth-db', candidate: 'away', recentQuery: 'select max(at) as newest from events' }, cooldown: '0s', gate: { planned: [] } },
      orders: {
        description: 'Takes the orders',
        objectives,
        dependsOn: ['auth'],
        datastores: ['orders-db', 'orders-cache'],
        runbooks: { region: 'region-database' },
        parameters: { datastore: 'orders-db', candidate: 'away', cache: 'orders-cache', cluster: 'away', workloads: ['deployment/orders'], recentQuery: 'select max(at) as newest from events' },
        cooldown: '0s',
        gate: { planned: [] },
      },
      catalogue: { description: 'Finds the products', objectives, datastores: ['products'], runbooks: { region: 'region-search' }, parameters: { datastore: 'products' }, cooldown: '0s', gate: { planned: [] } },
    },
    notify: { chat: { type: 'slack', url: 'aws-sm:webhook#url' } },
    evidence: { directory: options.evidenceDirectory, signingKey: file('evidence-key.pem', privatePem), trustedKeys: [{ publicKey: publicBase64 }] },
  };
  const configPath = join(directory, 'holdfast.yaml');
  writeFileSync(configPath, stringify(document, { lineWidth: 140 }));
  const { config } = await loadConfig(configPath);
  const context = createContext({ config, configPath, runbookDirectory: join(ROOT, 'runbooks'), log: await createLogger({ format: 'json', level: 'error' }) });
  return {
    processes, directory, temporal, rds, s3, webhook, caches, search, kubernetes, databases, fronts, ...edge, configPath, context, evidenceDirectory: options.evidenceDirectory, publicKey: publicPem,
    async loseHome() {
      await Promise.all([fronts.home.close(), caches.home.kill(), search.home.kill(), ...Object.values(databases).map(({ home }) => home.server!.kill())]);
    },
    async close() {
      context.close();
      clients.close();
      await Promise.all([fronts.home.close(), fronts.away.close(), webhook.close(), rds.close()]);
    },
  };
}

/** Route 53's checkers look from three places; moto always says that they succeed. These really ask the front of home, from here. */
async function checkers(call: { service: string; path: string }, url: () => string): Promise<RdsAnswer | null> {
  if (call.service !== 'route53' || !/^\/2013-04-01\/healthcheck\/[^/]+\/status$/.test(call.path)) return null;
  const found = await fetch(url(), { signal: AbortSignal.timeout(4000) }).then((answer) => (answer.ok ? `Success: HTTP Status Code ${answer.status}, OK` : `Failure: HTTP Status Code ${answer.status}`), (error: unknown) => `Failure: The endpoint could not be reached (${(error as Error).message})`);
  const seen = ['us-west-1', 'ap-southeast-1', 'sa-east-1'].map((place, index) => `<HealthCheckObservation><Region>${place}</Region><IPAddress>15.177.${index}.1</IPAddress><StatusReport><Status>${found}</Status><CheckedTime>${new Date().toISOString()}</CheckedTime></StatusReport></HealthCheckObservation>`);
  return { status: 200, body: `<?xml version="1.0" encoding="UTF-8"?><GetHealthCheckStatusResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HealthCheckObservations>${seen.join('')}</HealthCheckObservations></GetHealthCheckStatusResponse>` };
}

type Cloud = ReturnType<typeof cloud>;

/** The calls that make the estate; what Holdfast calls itself stands in src/systems. */
function cloud(aws: AwsServer) {
  const open: { destroy(): void }[] = [];
  const settings = (region: string): { region: string; endpoint: string; credentials: { accessKeyId: string; secretAccessKey: string } } => ({ region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
  const kept = <T extends { destroy(): void }>(client: T): T => {
    open.push(client);
    return client;
  };
  return {
    aws,
    rds: (region: string) => kept(new RDSClient(settings(region))),
    ec2: (region: string) => kept(new EC2Client(settings(region))),
    route53: kept(new Route53Client(settings(AWAY))),
    cloudFront: kept(new CloudFrontClient(settings(AWAY))),
    sqs: kept(new SQSClient(settings(AWAY))),
    ssm: kept(new SSMClient(settings(AWAY))),
    async secret(region: string, id: string, value: object): Promise<void> {
      const client = new SecretsManagerClient(settings(region));
      try {
        await client.send(new CreateSecretCommand({ Name: id, SecretString: JSON.stringify(value) }));
      } finally {
        client.destroy();
      }
    },
    close: () => open.forEach((client) => client.destroy()),
  };
}

async function securityGroup(clients: Cloud, region: string, name: string, network: string): Promise<string> {
  const client = clients.ec2(region);
  const { GroupId } = await client.send(new CreateSecurityGroupCommand({ GroupName: name, Description: name }));
  await client.send(new AuthorizeSecurityGroupIngressCommand({ GroupId: GroupId!, IpPermissions: [{ IpProtocol: 'tcp', FromPort: 0, ToPort: 65535, IpRanges: [{ CidrIp: network }] }] }));
  return GroupId!;
}

async function database(rds: LocalRds, clients: Cloud, of: { name: string; adminPassword: string; applicationPassword: string; groups: Readonly<Record<string, string>> }): Promise<Record<'home' | 'away', LocalInstance>> {
  const { name } = of;
  const [homeName, awayName] = [`${name}-home`, `${name}-away`];
  const home = clients.rds(HOME);
  const made = await home.send(new CreateDBInstanceCommand({ DBInstanceIdentifier: homeName, DBInstanceClass: 'db.t4g.medium', Engine: 'postgres', AllocatedStorage: 20, MasterUsername: ADMIN, MasterUserPassword: of.adminPassword, DBName: name, VpcSecurityGroupIds: [of.groups[HOME]!] }));
  const primary = await available(rds, HOME, homeName);
  await withClient(primary.connectionString(name), async (client) => {
    await client.query(`create role ${APPLICATION} login password ${pg.escapeLiteral(of.applicationPassword)}`);
    await client.query('create table events (id bigint generated always as identity primary key, what text not null, at timestamptz not null default clock_timestamp())');
    await client.query('create table products (id bigint primary key, name text not null)');
    await client.query(`grant select, insert on events, products to ${APPLICATION}`);
    await client.query("insert into events (what) select 'before' from generate_series(1, 1000)");
  });
  await clients.rds(AWAY).send(new CreateDBInstanceReadReplicaCommand({ DBInstanceIdentifier: awayName, SourceDBInstanceIdentifier: made.DBInstance!.DBInstanceArn!, DBInstanceClass: 'db.t4g.medium', VpcSecurityGroupIds: [of.groups[AWAY]!] }));
  const replica = await available(rds, AWAY, awayName);
  // A replica that never replayed a commit cannot say how far behind it is.
  await withClient(primary.connectionString(name), (client) => client.query("insert into events (what) values ('replicated')"));
  return { home: primary, away: replica };
}

/** As a waiter of the SDK, without its 30 s between looks. */
async function available(rds: LocalRds, region: string, identifier: string): Promise<LocalInstance> {
  for (const until = Date.now() + 120_000; Date.now() < until; ) {
    const found = rds.find(region, identifier);
    if (found?.server?.running() === true && found.status === null) return found;
    await pause(100);
  }
  throw new Error(`${identifier} in ${region} did not become available`);
}

async function withClient<T>(connectionString: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** The shop's front: an order is written through the Region's own secret at each look; anything else than 200 is an outage. */
async function front(aws: AwsServer, region: string, secretId: string): Promise<Front> {
  const client = new SecretsManagerClient({ region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
  const server: Server = createServer((_, response) => {
    void (async () => {
      const { SecretString } = await client.send(new GetSecretValueCommand({ SecretId: secretId, VersionStage: 'AWSCURRENT' }));
      const { host, port, username, password, dbname } = JSON.parse(SecretString!) as Record<string, string>;
      const connection = new pg.Client({ host: host!, port: Number(port), user: username!, password: password!, database: dbname!, connectionTimeoutMillis: 2000 });
      connection.on('error', () => {});
      try {
        await connection.connect();
        await connection.query("insert into events (what) values ('order')");
      } finally {
        await connection.end().catch(() => {});
      }
    })().then(
      () => response.writeHead(200).end('ok'),
      (error: unknown) => response.writeHead(503).end((error as Error).message),
    );
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  let closed = false;
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    async close() {
      if (closed) return;
      closed = true;
      client.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => {
        server.close(resolve);
      });
    },
  };
}

/** Rows in the database, documents in the index, a snapshot in the shared repository, keys in the cache of home. */
async function fill(cache: RedisServer, search: RegionEstate['search'], orders: LocalInstance, options: RegionOptions): Promise<void> {
  await withClient(orders.connectionString('orders'), (client) => client.query("insert into products select n, 'product ' || n from generate_series(1, $1) n", [options.products]));
  await search.home.request('PUT', `/_snapshot/${REPOSITORY}`, { type: 'fs', settings: { location: REPOSITORY } });
  await search.home.request('PUT', `/${INDEX}`, { settings: { number_of_shards: 1, number_of_replicas: 0 } });
  for (let from = 1; from <= options.products; from += 5000) {
    const lines = Array.from({ length: Math.min(5000, options.products - from + 1) }, (_, at) => `${JSON.stringify({ index: { _id: String(from + at) } })}\n${JSON.stringify({ name: `product ${from + at}` })}\n`);
    const answer = await fetch(`${search.home.url}/${INDEX}/_bulk`, { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body: lines.join('') });
    if (!answer.ok || ((await answer.json()) as { errors: boolean }).errors) throw new Error('the index could not be filled');
  }
  await search.home.request('POST', `/${INDEX}/_refresh`);
  await search.away.request('PUT', `/_snapshot/${REPOSITORY}`, { type: 'fs', settings: { location: REPOSITORY, readonly: true } });
  for (let from = 0; from < options.keys; from += 1000) {
    await cache.command('MSET', ...Array.from({ length: Math.min(1000, options.keys - from) }, (_, at) => [`session:${from + at}`, `value ${from + at}`]).flat());
  }
}

async function makeEdge(clients: Cloud, fronts: RegionEstate['fronts'], deadLetters: number): Promise<Pick<RegionEstate, 'zoneId' | 'healthCheckId' | 'distributionId' | 'queues' | 'flag'>> {
  const { route53, cloudFront, sqs, ssm } = clients;
  const zone = await route53.send(new CreateHostedZoneCommand({ Name: 'shop.example', CallerReference: randomBytes(8).toString('hex') }));
  const zoneId = (zone.HostedZone?.Id ?? '').replace('/hostedzone/', '');
  const check = await route53.send(new CreateHealthCheckCommand({ CallerReference: randomBytes(8).toString('hex'), HealthCheckConfig: { Type: 'HTTP', FullyQualifiedDomainName: 'home.shop.example', Port: 80, ResourcePath: '/', RequestInterval: 10, FailureThreshold: 3 } }));
  const healthCheckId = check.HealthCheck!.Id!;
  await route53.send(
    new ChangeResourceRecordSetsCommand({
      HostedZoneId: zoneId,
      ChangeBatch: {
        Changes: [
          { Action: 'CREATE', ResourceRecordSet: { Name: 'www.shop.example', Type: 'CNAME', TTL: 30, SetIdentifier: 'home', Failover: 'PRIMARY', HealthCheckId: healthCheckId, ResourceRecords: [{ Value: 'home.shop.example' }] } },
          { Action: 'CREATE', ResourceRecordSet: { Name: 'www.shop.example', Type: 'CNAME', TTL: 30, SetIdentifier: 'away', Failover: 'SECONDARY', ResourceRecords: [{ Value: 'away.shop.example' }] } },
        ],
      },
    }),
  );
  const origin = (id: string, front: Front): object => ({ Id: id, DomainName: `${id}.shop.example`, CustomOriginConfig: { HTTPPort: Number(new URL(front.url).port), HTTPSPort: 443, OriginProtocolPolicy: 'http-only' } });
  const distribution = await cloudFront.send(
    new CreateDistributionCommand({
      DistributionConfig: {
        CallerReference: randomBytes(8).toString('hex'),
        Comment: 'The shop',
        Enabled: true,
        Origins: { Quantity: 2, Items: [origin('home', fronts.home), origin('away', fronts.away)] as never },
        DefaultCacheBehavior: { TargetOriginId: 'home', ViewerProtocolPolicy: 'redirect-to-https', ForwardedValues: { QueryString: true, Cookies: { Forward: 'all' } }, MinTTL: 0 },
      },
    }),
  );
  const dead = (await sqs.send(new CreateQueueCommand({ QueueName: 'orders-dead' }))).QueueUrl!;
  const { Attributes } = await sqs.send(new GetQueueAttributesCommand({ QueueUrl: dead, AttributeNames: ['QueueArn'] }));
  const main = (await sqs.send(new CreateQueueCommand({ QueueName: 'orders', Attributes: { RedrivePolicy: JSON.stringify({ deadLetterTargetArn: Attributes!['QueueArn'], maxReceiveCount: 3 }) } }))).QueueUrl!;
  for (let at = 0; at < deadLetters; at += 1) await sqs.send(new SendMessageCommand({ QueueUrl: dead, MessageBody: JSON.stringify({ order: at }) }));
  const flag = '/shop/recommendations';
  await ssm.send(new PutParameterCommand({ Name: flag, Type: 'String', Value: 'on' }));
  return { zoneId, healthCheckId, distributionId: distribution.Distribution!.Id!, queues: { main, dead }, flag };
}

async function deployment(kubernetes: KubernetesServer): Promise<void> {
  const labels = { app: 'orders' };
  await kubernetes.call('POST', '/apis/apps/v1/namespaces/default/deployments', {
    metadata: { name: 'orders' },
    spec: { replicas: 2, selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers: [{ name: 'orders', image: 'orders:1' }] } } },
  });
}
