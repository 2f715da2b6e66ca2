import { randomBytes } from 'node:crypto';
import { AuthorizeSecurityGroupIngressCommand, CreateSecurityGroupCommand, DescribeVpcsCommand, EC2Client } from '@aws-sdk/client-ec2';
import {
  CreateDBClusterCommand,
  CreateDBInstanceCommand,
  CreateDBInstanceReadReplicaCommand,
  CreateGlobalClusterCommand,
  DescribeDBInstancesCommand,
  RDSClient,
  type DBInstance,
} from '@aws-sdk/client-rds';
import type { Processes } from '../src/local/processes.ts';
import { APPLICATION_NETWORK, startRds, WORKER_NETWORK, type LocalInstance, type LocalRds } from '../src/local/rds.ts';
import type { PostgresServer } from '../src/local/stack.ts';
import type { Context } from '../src/systems/context.ts';
import { makeZone, pairContext, type DatabasePair } from './database-pair.ts';
import { queryOnce, suite, testDirectory, testSecret, uniqueName, type ConfigOverrides } from './support.ts';

export const EAST = 'us-east-1';
export const WEST = 'eu-west-1';

/** An RDS primary in one Region and its replica in another, with what `DatabasePair` has; `servers` are seen past all security groups. */
export interface RdsFleet extends DatabasePair {
  readonly rds: LocalRds;
  readonly instances: { readonly a: () => LocalInstance; readonly b: () => LocalInstance };
  readonly identifiers: Readonly<Record<'a' | 'b', string>>;
  readonly regions: Readonly<Record<'a' | 'b', string>>;
  readonly groups: Readonly<Record<'a' | 'b', { readonly application: string; readonly fencing: string }>>;
  client(region: string): RDSClient;
  describe(node: 'a' | 'b'): Promise<DBInstance>;
  tags(node: 'a' | 'b'): Promise<Record<string, string>>;
}

export type FleetType = 'rds' | 'aurora' | 'aurora-global';

export async function rdsFleet(processes: Processes, type: FleetType = 'rds', options: { managed?: ConfigOverrides; overrides?: ConfigOverrides; nodes?: Readonly<Record<string, ConfigOverrides>> } = {}): Promise<RdsFleet> {
  const { aws } = suite();
  const rds = await startRds({ processes, directory: testDirectory('rds'), moto: aws, settings: { fsync: 'off', listen_addresses: '127.0.0.1,127.0.0.2' } });
  const credentials = { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey };
  const clients = new Map<string, RDSClient>();
  const client = (region: string): RDSClient => {
    if (!clients.has(region)) clients.set(region, new RDSClient({ region, endpoint: rds.aws.endpoint, credentials }));
    return clients.get(region)!;
  };
  const identifiers = { a: uniqueName('orders-a'), b: uniqueName('orders-b') };
  const regions = { a: EAST, b: type === 'aurora' ? EAST : WEST };
  const clusters = { a: uniqueName('orders'), b: uniqueName('orders') };
  const [groupsA, groupsB] = await Promise.all([securityGroups(rds.aws.endpoint, regions.a), securityGroups(rds.aws.endpoint, regions.b)]);
  const groups = { a: groupsA, b: groupsB };
  const describe = async (node: 'a' | 'b'): Promise<DBInstance> => (await client(regions[node]).send(new DescribeDBInstancesCommand({ DBInstanceIdentifier: identifiers[node] }))).DBInstances![0]!;
  const available = async (node: 'a' | 'b'): Promise<DBInstance> => {
    for (;;) {
      const found = await describe(node);
      if (found.DBInstanceStatus === 'available') return found;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const master = { MasterUsername: 'dba', MasterUserPassword: randomBytes(12).toString('hex') };
  const size = { DBInstanceClass: 'db.r6g.large' };
  const engine = { Engine: 'aurora-postgresql', EngineVersion: '15.4' };
  if (type === 'rds') await client(regions.a).send(new CreateDBInstanceCommand({ DBInstanceIdentifier: identifiers.a, ...size, Engine: 'postgres', EngineVersion: '15.4', AllocatedStorage: 20, ...master, DBName: 'shop', VpcSecurityGroupIds: [groups.a.application], BackupRetentionPeriod: 1 }));
  else {
    await client(regions.a).send(new CreateDBClusterCommand({ DBClusterIdentifier: clusters.a, ...engine, ...master, DatabaseName: 'shop', VpcSecurityGroupIds: [groups.a.application] }));
    await client(regions.a).send(new CreateDBInstanceCommand({ DBInstanceIdentifier: identifiers.a, DBClusterIdentifier: clusters.a, ...size, Engine: engine.Engine }));
  }
  const a = await available('a');
  const admin = rds.instance(regions.a, identifiers.a);
  const applicationPassword = randomBytes(12).toString('hex');
  await queryOnce(admin.connectionString(), `create role shop_app login password '${applicationPassword}'`);
  await queryOnce(admin.connectionString('shop'), 'create table orders (id bigint primary key, at timestamptz not null default clock_timestamp())');
  await queryOnce(admin.connectionString('shop'), 'grant select, insert on orders to shop_app');
  const globalCluster = uniqueName('global');
  if (type === 'rds') await client(regions.b).send(new CreateDBInstanceReadReplicaCommand({ DBInstanceIdentifier: identifiers.b, SourceDBInstanceIdentifier: a.DBInstanceArn, VpcSecurityGroupIds: [groups.b.application] }));
  else if (type === 'aurora') await client(regions.b).send(new CreateDBInstanceCommand({ DBInstanceIdentifier: identifiers.b, DBClusterIdentifier: clusters.a, ...size, Engine: engine.Engine }));
  else {
    await client(regions.a).send(new CreateGlobalClusterCommand({ GlobalClusterIdentifier: globalCluster, SourceDBClusterIdentifier: `arn:aws:rds:${regions.a}:123456789012:cluster:${clusters.a}` }));
    await client(regions.b).send(new CreateDBClusterCommand({ DBClusterIdentifier: clusters.b, ...engine, GlobalClusterIdentifier: globalCluster, VpcSecurityGroupIds: [groups.b.application] }));
    await client(regions.b).send(new CreateDBInstanceCommand({ DBInstanceIdentifier: identifiers.b, DBClusterIdentifier: clusters.b, ...size, Engine: engine.Engine }));
  }
  await available('b');

  const instances = { a: () => rds.instance(regions.a, identifiers.a), b: () => rds.instance(regions.b, identifiers.b) };
  const ports = { a: instances.a().port, b: instances.b().port };
  const secretId = await testSecret('shop-app', { engine: 'postgres', host: '127.0.0.1', port: ports.a, username: 'shop_app', password: applicationPassword, dbname: 'shop' });
  const hostedZoneId = await makeZone('127.0.0.1');
  const passwordVariable = `HOLDFAST_TEST_PAIR_PASSWORD_${ports.a}`;
  process.env[passwordVariable] = master.MasterUserPassword;
  const node = (name: 'a' | 'b', applicationHost: string): object => ({
    host: '127.0.0.1',
    applicationHost,
    port: ports[name],
    rds: { instance: identifiers[name], region: regions[name], fencingGroups: [groups[name].fencing], ...(type === 'aurora-global' ? { cluster: clusters[name] } : {}) },
    ...options.nodes?.[name],
  });
  const service = 'orders';
  const managed = { type, ...(type === 'aurora' ? { cluster: clusters.a } : type === 'aurora-global' ? { globalCluster } : {}), ...options.managed };
  const context: Context = await pairContext({
    service,
    datastore: {
      engine: 'postgres',
      database: 'shop',
      store: 'main',
      admin: { username: master.MasterUsername, password: `env:${passwordVariable}` },
      binDirectory: suite().postgres.binDirectory,
      managed,
      nodes: { a: node('a', '127.0.0.1'), b: node('b', '127.0.0.2') },
      endpoint: { secret: secretId, dns: { hostedZoneId, name: 'db.shop.example', type: 'A', ttlSeconds: 5 } },
    },
    overrides: { aws: { endpoint: rds.aws.endpoint }, ...options.overrides },
  });
  // Past the security groups, and of the server that stands behind the name now.
  const server = (name: 'a' | 'b'): PostgresServer => new Proxy({} as PostgresServer, { get: (_, key) => (key === 'connectionString' ? (database?: string) => instances[name]().insideString(database) : Reflect.get(instances[name]().server ?? {}, key)) });
  return {
    context,
    servers: { a: server('a'), b: server('b') },
    service,
    secretId,
    hostedZoneId,
    rds,
    instances,
    identifiers,
    regions,
    groups,
    client,
    describe,
    tags: async (name) => Object.fromEntries(((await describe(name)).TagList ?? []).map(({ Key = '', Value = '' }) => [Key, Value])),
    async pointsTo() {
      const { readEndpoint } = await import('../src/systems/endpoint.ts');
      return (await readEndpoint(context, secretId)).port === ports.a ? 'a' : 'b';
    },
    record: () => Promise.reject(new Error('not asked of a fleet')),
    secretLabels: () => Promise.reject(new Error('not asked of a fleet')),
    timeline: () => Promise.reject(new Error('not asked of a fleet')),
    applicationUrl: (name) => `postgresql://shop_app:${applicationPassword}@127.0.0.1:${ports[name]}/shop`,
  };
}

/** Groups of a Region: one that lets the applications' network in, one that lets only the workers' in. */
async function securityGroups(endpoint: string, region: string): Promise<{ application: string; fencing: string }> {
  const { aws } = suite();
  const ec2 = new EC2Client({ region, endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
  try {
    const vpc = (await ec2.send(new DescribeVpcsCommand({}))).Vpcs![0]!.VpcId!;
    const make = async (name: string, networks: string[]): Promise<string> => {
      const { GroupId } = await ec2.send(new CreateSecurityGroupCommand({ GroupName: uniqueName(name), Description: name, VpcId: vpc }));
      await ec2.send(new AuthorizeSecurityGroupIngressCommand({ GroupId, IpPermissions: [{ IpProtocol: 'tcp', FromPort: 5432, ToPort: 5432, IpRanges: networks.map((CidrIp) => ({ CidrIp })) }] }));
      return GroupId!;
    };
    // In quiet times the instance lets workers and applications in.
    return { application: await make('application', [APPLICATION_NETWORK, WORKER_NETWORK]), fencing: await make('fencing', [WORKER_NETWORK]) };
  } finally {
    ec2.destroy();
  }
}
