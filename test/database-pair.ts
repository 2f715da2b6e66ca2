import { randomBytes } from 'node:crypto';
import type { Route53Client } from '@aws-sdk/client-route-53';
import pg from 'pg';
import type { Processes } from '../src/local/processes.ts';
import { startPostgres, startStandby, type PostgresServer } from '../src/local/stack.ts';
import type { Context } from '../src/systems/context.ts';
import { queryOnce, suite, testConfig, testDirectory, testSecret, uniqueName, type ConfigOverrides } from './support.ts';

/** Where applications reach b: another address, so that the DNS record really changes. */
export const SECOND_ADDRESS = '127.0.0.2';

/** A primary, a standby, an application role with its secret, a DNS record, and the configuration that knows them. */
export interface DatabasePair {
  readonly context: Context;
  readonly servers: Readonly<Record<'a' | 'b', PostgresServer>>;
  readonly service: string;
  readonly secretId: string;
  readonly hostedZoneId: string;
  /** Node the application's secret points to. */
  pointsTo(): Promise<'a' | 'b'>;
  /** Value of the DNS record. */
  record(): Promise<string>;
  applicationUrl(node: 'a' | 'b'): string;
  /** Version ids of the application's secret that are current, and those that wait for a swap. */
  secretLabels(): Promise<{ current: string[]; staged: string[] }>;
  /** Of the primary: each promotion begins one. */
  timeline(node: 'a' | 'b'): Promise<number>;
}

export async function databasePair(processes: Processes, overrides: ConfigOverrides = {}): Promise<DatabasePair> {
  const directory = testDirectory('pair');
  const a = await startPostgres({ processes, directory, name: 'a', settings: { shared_buffers: '32MB', fsync: 'off' } });
  return pairOn(a, () => startStandby({ processes, directory, name: 'b', primary: a, settings: { shared_buffers: '32MB', fsync: 'off', listen_addresses: `127.0.0.1,${SECOND_ADDRESS}` } }), overrides);
}

/** The same on servers that somebody else starts. @param startB called once the database is there @param datastore more of the datastore's configuration */
export async function pairOn(a: PostgresServer, startB: () => Promise<PostgresServer>, overrides: ConfigOverrides = {}, datastore: ConfigOverrides = {}): Promise<DatabasePair> {
  const applicationPassword = randomBytes(12).toString('hex');
  await queryOnce(a.connectionString(), `create role shop_app login password '${applicationPassword}'`);
  await queryOnce(a.connectionString(), 'create database shop owner shop_app');
  await queryOnce(a.connectionString('shop'), 'create table orders (id bigint primary key, at timestamptz not null default clock_timestamp()); alter table orders owner to shop_app');
  const b = await startB();
  const secretId = await testSecret('shop-app', { engine: 'postgres', host: a.host, port: a.port, username: 'shop_app', password: applicationPassword, dbname: 'shop' });
  const hostedZoneId = await makeZone(a.host);
  // A name of its own: a test may have more than one pair.
  const passwordVariable = `HOLDFAST_TEST_PAIR_PASSWORD_${a.port}`;
  process.env[passwordVariable] = a.password;
  const node = (server: PostgresServer, applicationHost: string): object => ({
    host: server.host,
    applicationHost,
    port: server.port,
    dataDirectory: server.dataDirectory,
    binDirectory: server.binDirectory,
    exec: server.exec,
    replication: { username: server.replication.username, passfile: server.replication.passfile },
  });
  const service = 'orders';
  const context = await pairContext({
    service,
    datastore: {
      engine: 'postgres',
      database: 'shop',
      store: 'main',
      admin: { username: a.superuser, password: `env:${passwordVariable}` },
      binDirectory: a.binDirectory,
      nodes: { a: node(a, a.host), b: node(b, SECOND_ADDRESS) },
      endpoint: { secret: secretId, dns: { hostedZoneId, name: 'db.shop.example', type: 'A', ttlSeconds: 5 } },
      ...datastore,
    },
    overrides,
  });
  const servers = { a, b };
  return {
    context,
    servers,
    service,
    secretId,
    hostedZoneId,
    async pointsTo() {
      const { readEndpoint } = await import('../src/systems/endpoint.ts');
      const endpoint = await readEndpoint(context, secretId);
      return endpoint.port === a.port ? 'a' : 'b';
    },
    record: () => withRoute53(async (client) => {
      const { ListResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
      const answer = await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: hostedZoneId }));
      return answer.ResourceRecordSets?.find((set) => set.Type === 'A')?.ResourceRecords?.[0]?.Value ?? 'missing';
    }),
    secretLabels: async () => {
      const { ListSecretVersionIdsCommand } = await import('@aws-sdk/client-secrets-manager');
      const { Versions = [] } = await (await context.aws.secretsManager()).send(new ListSecretVersionIdsCommand({ SecretId: secretId }));
      const labelled = (label: string): string[] => Versions.filter((version) => version.VersionStages?.some((stage) => stage.startsWith(label))).map((version) => version.VersionId!);
      return { current: labelled('AWSCURRENT'), staged: labelled('HOLDFAST') };
    },
    timeline: async (name) => {
      const [row] = await queryOnce<{ timeline: string }>(servers[name].connectionString(), 'select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline');
      return Number.parseInt(row!.timeline, 16);
    },
    applicationUrl: (name) => `postgresql://shop_app:${applicationPassword}@${servers[name].host}:${servers[name].port}/shop`,
  };
}

/** The configuration of a service on one datastore of two nodes. */
export function pairContext(of: { service: string; datastore: ConfigOverrides; overrides: ConfigOverrides }): Promise<Context> {
  return testConfig({
    datastores: { shop: of.datastore },
    services: {
      [of.service]: {
        objectives: { rto: '15m', rpo: '1m', refusedWrites: '30s', lostWrites: 0 },
        datastores: ['shop'],
        runbooks: { failover: 'database-failover', failback: 'database-failback' },
        // Tests fail over and over; what a cooldown does is shown by those of the locks.
        cooldown: '0s',
        parameters: { recentQuery: 'select max(id) as newest from orders' },
        // Most tests have no backups.
        gate: { planned: [] },
      },
    },
    ...of.overrides,
  });
}

async function withRoute53<T>(work: (client: Route53Client) => Promise<T>): Promise<T> {
  const { Route53Client } = await import('@aws-sdk/client-route-53');
  const { aws } = suite();
  const client = new Route53Client({ region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
  try {
    return await work(client);
  } finally {
    client.destroy();
  }
}

export function makeZone(address: string): Promise<string> {
  return withRoute53(async (client) => {
    const { ChangeResourceRecordSetsCommand, CreateHostedZoneCommand } = await import('@aws-sdk/client-route-53');
    const made = await client.send(new CreateHostedZoneCommand({ Name: 'shop.example', CallerReference: uniqueName('zone') }));
    const id = made.HostedZone!.Id!.replace('/hostedzone/', '');
    await client.send(
      new ChangeResourceRecordSetsCommand({
        HostedZoneId: id,
        ChangeBatch: { Changes: [{ Action: 'CREATE', ResourceRecordSet: { Name: 'db.shop.example', Type: 'A', TTL: 5, ResourceRecords: [{ Value: address }] } }] },
      }),
    );
    return id;
  });
}

/**
 * An application that writes as fast as it is let and remembers what was acknowledged; follows its secret like a real one.
 * Independent of the canary, so that neither proves itself.
 */
export class ApplicationWriter {
  readonly acknowledged: number[] = [];
  /** Epoch milliseconds of each acknowledgement. */
  readonly acknowledgedAtMs: number[] = [];
  /** Sent, and the connection was lost before an answer: it may be there or not. */
  readonly unanswered: number[] = [];
  /** Writes and logins that were refused, or found nobody. */
  refused = 0;
  #stopping = false;
  #done: Promise<void>;
  #next = 1;
  readonly #pair: DatabasePair;

  constructor(pair: DatabasePair, firstId = 1) {
    this.#pair = pair;
    this.#next = firstId;
    this.#done = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  /** Ids that were acknowledged and are not on the node. */
  async lostOn(node: 'a' | 'b'): Promise<number[]> {
    return this.missingOn(node, this.acknowledged);
  }

  async missingOn(node: 'a' | 'b', ids: readonly number[]): Promise<number[]> {
    if (ids.length === 0) return [];
    const rows = await queryOnce<{ id: string }>(this.#pair.servers[node].connectionString('shop'), 'select id from orders where id >= $1', [ids.reduce((least, id) => Math.min(least, id))]);
    const there = new Set(rows.map((row) => Number(row.id)));
    return ids.filter((id) => !there.has(id));
  }

  /** The longest time without an acknowledgement that ended after `sinceMs`; null without two of them. */
  longestGapMs(sinceMs: number): number | null {
    let longest: number | null = null;
    for (let index = this.acknowledgedAtMs.length - 1; index > 0 && this.acknowledgedAtMs[index]! >= sinceMs; index -= 1) {
      longest = Math.max(longest ?? 0, this.acknowledgedAtMs[index]! - this.acknowledgedAtMs[index - 1]!);
    }
    return longest;
  }

  async #run(): Promise<void> {
    let client: pg.Client | null = null;
    while (!this.#stopping) {
      let sent: number | null = null;
      try {
        if (client === null) {
          client = new pg.Client({ connectionString: this.#pair.applicationUrl(await this.#pair.pointsTo()), connectionTimeoutMillis: 1000, query_timeout: 3000 });
          client.on('error', () => {});
          await client.connect();
        }
        sent = this.#next;
        this.#next += 1;
        await client.query('insert into orders (id) values ($1)', [sent]);
        this.acknowledged.push(sent);
        this.acknowledgedAtMs.push(Date.now());
      } catch (error) {
        // An error of the server (a SQLSTATE) is a refusal; without one the connection was lost.
        const code = (error as { code?: string }).code;
        if (sent !== null && !(code !== undefined && /^[0-9A-Z]{5}$/.test(code))) this.unanswered.push(sent);
        else this.refused += 1;
        await client?.end().catch(() => {});
        client = null;
        await new Promise((resolve) => {
          setTimeout(resolve, 10);
        });
      }
      await new Promise((resolve) => {
        setTimeout(resolve, 1);
      });
    }
    await client?.end().catch(() => {});
  }
}

/** Try to write as the application and, harder, as a superuser that switches read-only off. Gives what was written. */
export async function tryToWrite(pair: DatabasePair, node: 'a' | 'b'): Promise<string[]> {
  const written: string[] = [];
  const urls = { application: pair.applicationUrl(node), superuser: pair.servers[node].connectionString('shop') };
  for (const [who, url] of Object.entries(urls)) {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 20_000 });
    client.on('error', () => {});
    try {
      await client.connect();
      await client.query('set default_transaction_read_only = off').catch(() => {});
      await client.query('begin read write');
      await client.query('insert into orders (id) values (-1)');
      await client.query('rollback');
      written.push(who);
    } catch {
      // Refused, as it should be.
    } finally {
      await client.end().catch(() => {});
    }
  }
  return written;
}
