import pg from 'pg';
import type { Client } from '@temporalio/client';
import { addSnapshots, ARCHIVING, type LocalSnapshots } from '../../src/local/rds-snapshots.ts';
import { startRds, WORKER_NETWORK, type LocalInstance, type LocalRds } from '../../src/local/rds.ts';
import { createProcesses, type Processes } from '../../src/local/stack.ts';
import { startWebhook, type Webhook } from '../../src/local/webhook.ts';
import { WORKFLOW_IDS, type BackupInput, type BackupResult } from '../../src/model/api.ts';
import type { BackupSummary } from '../../src/model/manifest.ts';
import { listBackups } from '../../src/systems/backup-catalogue.ts';
import type { Context } from '../../src/systems/context.ts';
import { openStore, type Store } from '../../src/systems/store.ts';
import { suite, testConfig, uniqueName, type ConfigOverrides } from '../support.ts';

export const REGION = 'eu-central-1';
export const OTHER_REGION = 'eu-west-1';

export interface RdsFixture {
  readonly processes: Processes;
  readonly rds: LocalRds;
  readonly snapshots: LocalSnapshots;
  readonly instance: LocalInstance;
  readonly webhook: Webhook;
  readonly drillGroup: string;
  /** A context of its own: environment, queue, bucket; the instance is shared. */
  context(more?: { snapshots?: ConfigOverrides; datastore?: ConfigOverrides; document?: ConfigOverrides }): Promise<Context>;
  sql<T extends pg.QueryResultRow = Record<string, unknown>>(text: string): Promise<T[]>;
  end(): Promise<void>;
}

/** One RDS instance with a real PostgreSQL behind it, an isolated subnet group and security group for drills in two Regions, and a webhook. */
export async function rdsFixture(name: string): Promise<RdsFixture> {
  const processes = createProcesses();
  const { aws } = suite();
  // Identifiers and groups live in the suite's moto, which other files use too.
  const identifier = uniqueName(name);
  const rds = await startRds({ processes, directory: processes.directory, moto: aws, settings: { fsync: 'off', ...ARCHIVING } });
  const snapshots = addSnapshots(rds, { processes, directory: processes.directory, settings: { fsync: 'off' } });
  const webhook = await startWebhook();
  const credentials = { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey };
  const { CreateDBInstanceCommand, CreateDBSubnetGroupCommand, RDSClient } = await import('@aws-sdk/client-rds');
  const { AuthorizeSecurityGroupIngressCommand, CreateSecurityGroupCommand, DescribeSubnetsCommand, EC2Client } = await import('@aws-sdk/client-ec2');
  let drillGroup = '';
  for (const region of [REGION, OTHER_REGION]) {
    const ec2 = new EC2Client({ region, endpoint: aws.endpoint, credentials });
    const client = new RDSClient({ region, endpoint: rds.aws.endpoint, credentials });
    const { Subnets } = await ec2.send(new DescribeSubnetsCommand({}));
    const make = async (what: string): Promise<string> => {
      const { GroupId } = await ec2.send(new CreateSecurityGroupCommand({ GroupName: `${identifier}-${what}`, Description: what, VpcId: Subnets![0]!.VpcId! }));
      await ec2.send(new AuthorizeSecurityGroupIngressCommand({ GroupId: GroupId!, IpPermissions: [{ IpProtocol: 'tcp', FromPort: 0, ToPort: 65535, IpRanges: [{ CidrIp: WORKER_NETWORK }] }] }));
      return GroupId!;
    };
    for (const group of ['production', 'drills']) await client.send(new CreateDBSubnetGroupCommand({ DBSubnetGroupName: `${identifier}-${group}`, DBSubnetGroupDescription: group, SubnetIds: Subnets!.map((subnet) => subnet.SubnetId!) }));
    if (region === REGION) {
      drillGroup = await make('drills');
      await client.send(
        new CreateDBInstanceCommand({
          DBInstanceIdentifier: identifier, Engine: 'postgres', EngineVersion: '15.4', DBInstanceClass: 'db.t4g.micro', AllocatedStorage: 20, MasterUsername: 'master', MasterUserPassword: 'master-password', DBName: 'shop',
          DBSubnetGroupName: `${identifier}-production`, VpcSecurityGroupIds: [await make('production')],
        }),
      );
    }
    ec2.destroy();
    client.destroy();
  }
  for (const deadline = Date.now() + 60_000; rds.instance(REGION, identifier).status !== null; ) {
    if (Date.now() > deadline) throw new Error('the instance does not come up');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const instance = rds.instance(REGION, identifier);
  process.env['HOLDFAST_TEST_RDS_PASSWORD'] = instance.master.password;
  process.env['HOLDFAST_TEST_RDS_WEBHOOK'] = webhook.url;
  const sql = async <T extends pg.QueryResultRow>(text: string): Promise<T[]> => {
    const client = new pg.Client({ connectionString: instance.connectionString('shop') });
    await client.connect();
    return client.query<T>(text).then(({ rows }) => rows).finally(() => client.end());
  };
  await sql(`create table customers (id int primary key, name text); insert into customers select n, 'customer ' || n from generate_series(1, 500) n;
    create table orders (id bigserial primary key, customer int references customers, at timestamptz default now()); insert into orders (customer) select 1 + n % 500 from generate_series(1, 1000) n`);
  return {
    processes, rds, snapshots, instance, webhook, drillGroup, sql,
    context: ({ snapshots: managed = {}, datastore = {}, document = {} } = {}) =>
      testConfig({
        aws: { region: REGION, endpoint: rds.aws.endpoint },
        notify: { people: { type: 'slack', url: 'env:HOLDFAST_TEST_RDS_WEBHOOK' } },
        datastores: {
          shop: {
            engine: 'postgres', database: 'shop', store: 'main', binDirectory: suite().postgres.binDirectory,
            admin: { username: instance.master.username, password: 'env:HOLDFAST_TEST_RDS_PASSWORD' },
            nodes: { a: { host: '127.0.0.1', port: instance.port, rds: { instance: identifier, region: REGION } } },
            managed: { type: 'rds', snapshots: { pollEvery: '200ms', drill: { instanceClass: 'db.t4g.small', subnetGroup: `${identifier}-drills`, securityGroups: [drillGroup] }, ...managed } },
            ...datastore,
          },
        },
        services: { orders: { objectives: { rto: '15m', rpo: '1h' }, datastores: ['shop'], checks: [{ name: 'customers are there', sql: 'select count(*) from customers', expect: { equals: 500 } }] } },
        ...document,
      }),
    async end() {
      await webhook.close();
      await rds.close();
      await processes.end();
    },
  };
}

export async function startBackup(context: Context, client: Client, reason = 'test', workflowId = WORKFLOW_IDS.backup('shop', uniqueName('t'))): Promise<{ workflowId: string; result: Promise<BackupResult> }> {
  const input: BackupInput = { datastore: 'shop', reason };
  const handle = await client.workflow.start('backup', { taskQueue: context.config.temporal.taskQueue, workflowId, args: [input] });
  const result = handle.result() as Promise<BackupResult>;
  result.catch(() => {});
  return { workflowId, result };
}

export async function backupsOf(context: Context): Promise<{ store: Store; backups: BackupSummary[] }> {
  const store = await openStore(context, 'main');
  return { store, backups: await listBackups(store, store.prefix, 'shop') };
}
