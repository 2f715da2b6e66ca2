import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { AwsServer } from './moto.ts';
import { onPort, startPostgres, startStandby, SUPERUSER, REPLICATOR, writeOwned, type PostgresServer } from './postgres.ts';
import type { Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';

/**
 * Glue between two real components, no server of our own: moto answers for RDS's control plane, and behind each of its DB instances
 * runs a real PostgreSQL. This proxy passes every AWS call to moto and lets what changes an instance happen to its server; in what
 * moto describes it corrects address, status, roles and security groups. Calls that moto lacks are answered in the documented shape.
 */
export interface LocalRds {
  /** moto with this in front of it; for `aws.endpoint`. */
  readonly aws: AwsServer;
  instance(region: string, identifier: string): LocalInstance;
  find(region: string, identifier: string): LocalInstance | undefined;
  /** All RDS calls so far, oldest first. */
  readonly calls: readonly RdsCallRecord[];
  /** Whose connections come from the workers' network: all do here, so by default the master user's; `everybody`: what a worker sees on AWS, whoever it logs in as. */
  workersAre: 'master' | 'everybody';
  /** How long each change takes to be reported as done, in ms; may be set at any time. */
  readonly delays: Delays;
  /** The next matching calls go wrong. */
  inject(fault: Fault): void;
  /** No fault is left. */
  heal(): void;
  /** Later handlers go first; used by src/local/rds-snapshots.ts. */
  handle(action: string, handler: RdsHandler): void;
  /** Gives an instance of moto a server: the one named, started by the caller. */
  adopt(region: string, identifier: string, server: PostgresServer, options: { master: MasterUser; groups?: readonly string[]; status?: string | null }): Promise<LocalInstance>;
  /** A port that stays with the identifier, as an RDS address does. */
  portOf(region: string, identifier: string): Promise<number>;
  /** Lets a handler go on after its answer; awaited at the end. */
  later(work: () => Promise<void>): void;
  close(): Promise<void>;
}

export interface MasterUser {
  readonly username: string;
  readonly password: string;
}

export interface LocalInstance {
  readonly region: string;
  identifier: string;
  readonly master: MasterUser;
  server: PostgresServer | null;
  readonly port: number;
  /** What is reported instead of moto's status; null: moto's. */
  status: string | null;
  /** The instance it replicates from. */
  source: LocalInstance | null;
  groups: string[];
  groupsStatus: 'active' | 'adding';
  cluster: LocalCluster | null;
  arn: string;
  /** Not superuser: the master user. */
  connectionString(database?: string): string;
  /** The superuser that RDS keeps for itself; for what a test must see past all rules. */
  insideString(database?: string): string;
}

export interface LocalCluster {
  readonly region: string;
  readonly identifier: string;
  readonly arn: string;
  readonly master: MasterUser;
  readonly database: string | null;
  readonly members: LocalInstance[];
  writer: LocalInstance | null;
  status: string;
  groups: string[];
  global: LocalGlobalCluster | null;
}

export interface LocalGlobalCluster {
  readonly identifier: string;
  readonly members: LocalCluster[];
  writer: LocalCluster;
  status: string;
  moving: { readonly to: LocalCluster; readonly lossAllowed: boolean } | null;
}

export interface Delays {
  promoteMs: number;
  stopMs: number;
  startMs: number;
  createMs: number;
  deleteMs: number;
  groupsMs: number;
  failoverMs: number;
}

export interface RdsCallRecord {
  readonly action: string;
  readonly region: string;
  readonly parameters: Readonly<Record<string, string>>;
  readonly atMs: number;
}

export interface Fault {
  /** `*`: any. */
  readonly action: string;
  /** Default: everywhere. */
  readonly region?: string;
  /** Default: once. */
  readonly times?: number;
  /** `cut-after`: it takes effect and its answer is lost; `cut-before`: nothing happens and nothing is answered. */
  readonly how: 'throttle' | 'cut-after' | 'cut-before' | 'deny' | 'hang';
}

export interface RdsCall {
  readonly action: string;
  readonly region: string;
  readonly parameters: URLSearchParams;
  /** Ask moto, with some parameters changed (null: left out). */
  forward(changes?: Readonly<Record<string, string | null>>): Promise<RdsAnswer>;
}

export interface RdsAnswer {
  readonly status: number;
  readonly body: string;
}

export type RdsHandler = (call: RdsCall) => Promise<RdsAnswer>;

export interface RdsOptions {
  readonly processes: Processes;
  readonly directory: string;
  readonly moto: AwsServer;
  /** Answers in moto's place to calls of other services that moto only has a fixed answer for; null: moto answers. */
  readonly elsewhere?: (call: { service: string; method: string; path: string }) => Promise<RdsAnswer | null>;
  readonly settings?: Readonly<Record<string, string>>;
}

/** Where Holdfast's workers are, as security groups see it. All connections come from this machine, so the role stands for the network: the master user for the workers, any other for the applications. */
export const WORKER_NETWORK = '10.99.0.0/16';
export const APPLICATION_NETWORK = '10.0.0.0/16';
const ACCOUNT = '123456789012';

export async function startRds(options: RdsOptions): Promise<LocalRds> {
  const { processes, directory, moto } = options;
  const settings = { max_connections: '60', shared_buffers: '16MB', wal_keep_size: '64MB', max_wal_size: '256MB', ...options.settings };
  const instances = new Map<string, LocalInstance>();
  const clusters = new Map<string, LocalCluster>();
  const globals = new Map<string, LocalGlobalCluster>();
  const ports = new Map<string, number>();
  const handlers = new Map<string, RdsHandler>();
  const faults: { fault: Fault; left: number }[] = [];
  const calls: RdsCallRecord[] = [];
  const delays: Delays = { promoteMs: 300, stopMs: 100, startMs: 100, createMs: 100, deleteMs: 100, groupsMs: 50, failoverMs: 300 };
  const running = new Set<Promise<void>>();
  const failures: unknown[] = [];
  let folders = 0;
  let closed = false;

  const keyOf = (region: string, identifier: string): string => `${region}/${identifier.toLowerCase()}`;
  const nextName = (identifier: string): string => `${identifier}-${(folders += 1)}`;
  const find = (region: string, identifier: string): LocalInstance | undefined => {
    const arn = /^arn:aws[\w-]*:rds:([\w-]*):\d*:db:(.+)$/.exec(identifier);
    return arn === null ? instances.get(keyOf(region, identifier)) : instances.get(keyOf(arn[1]!, arn[2]!));
  };
  const findCluster = (region: string, identifier: string): LocalCluster | undefined => {
    const arn = /^arn:aws[\w-]*:rds:([\w-]*):\d*:cluster:(.+)$/.exec(identifier);
    return arn === null ? clusters.get(keyOf(region, identifier)) : clusters.get(keyOf(arn[1]!, arn[2]!));
  };

  function later(work: () => Promise<void>): void {
    const done = work().catch((error: unknown) => void (closed || failures.push(error)));
    running.add(done);
    void done.finally(() => running.delete(done));
  }

  async function portOf(region: string, identifier: string): Promise<number> {
    const key = keyOf(region, identifier);
    const port = ports.get(key) ?? (await freePort());
    ports.set(key, port);
    return port;
  }

  function make(region: string, identifier: string, master: MasterUser, port: number, groups: readonly string[]): LocalInstance {
    const url = (user: string, password: string, database: string): string => `postgresql://${user}:${encodeURIComponent(password)}@127.0.0.1:${port}/${database}`;
    const made: LocalInstance = {
      region,
      identifier,
      master,
      server: null,
      port,
      status: 'creating',
      source: null,
      groups: [...groups],
      groupsStatus: 'active',
      cluster: null,
      arn: `arn:aws:rds:${region}:${ACCOUNT}:db:${identifier}`,
      connectionString: (database = 'postgres') => url(master.username, master.password, database),
      insideString: (database = 'postgres') => url(SUPERUSER, made.server?.password ?? '', database),
    };
    instances.set(keyOf(region, identifier), made);
    return made;
  }

  /** What the security groups let in, by their real rules in moto's EC2. */
  async function admitted(region: string, groups: readonly string[], headers: IncomingMessage['headers']): Promise<'all' | 'workers' | 'nobody'> {
    if (groups.length === 0) return 'all';
    const query = new URLSearchParams({ Action: 'DescribeSecurityGroups', Version: '2016-11-15' });
    groups.forEach((group, index) => query.set(`GroupId.${index + 1}`, group));
    const authorization = (headers.authorization ?? '').replace(/Credential=([^/]+)\/(\d+)\/([^/]+)\/rds\//, `Credential=$1/$2/${region}/ec2/`);
    const answer = await passOn(moto.endpoint, { method: 'POST', path: '/', headers: { ...headers, authorization, host: `ec2.${region}.amazonaws.com` } }, Buffer.from(query.toString()));
    const ingress = [...answer.body.toString().matchAll(/<ipPermissions>(.*?)<\/ipPermissions>/gs)].map((match) => match[1]!).join('');
    const networks = [...ingress.matchAll(/<cidrIp>(.*?)<\/cidrIp>/g)].map((match) => match[1]!);
    const byGroup = /<groups>\s*<item>/.test(ingress);
    // A default group names itself: whoever is in it.
    if (byGroup || answer.status !== 200 || networks.some((network) => network !== WORKER_NETWORK)) return 'all';
    return networks.length > 0 ? 'workers' : 'nobody';
  }

  async function applyGroups(instance: LocalInstance, headers: IncomingMessage['headers']): Promise<void> {
    const { server } = instance;
    if (server === null) return;
    const who = await admitted(instance.region, instance.cluster?.groups ?? instance.groups, headers);
    const rules = [
      `host all ${SUPERUSER},${REPLICATOR} 127.0.0.1/32 scram-sha-256`,
      `host replication ${REPLICATOR} 127.0.0.1/32 scram-sha-256`,
      ...(who === 'workers' ? [`host all "${instance.master.username}" 127.0.0.1/32 scram-sha-256`] : []),
      ...(who === 'all' || (who === 'workers' && local.workersAre === 'everybody') ? ['host all all 127.0.0.0/8 scram-sha-256'] : []),
    ];
    writeOwned(join(server.dataDirectory, 'pg_hba.conf'), `${rules.join('\n')}\n`, server.osUser);
    if (server.running()) await inside(instance, (client) => client.query('select pg_reload_conf()'));
  }

  async function inside<T>(instance: LocalInstance, work: (client: pg.Client) => Promise<T>, database = 'postgres'): Promise<T> {
    const client = new pg.Client({ connectionString: instance.insideString(database), application_name: 'rdsadmin' });
    client.on('error', () => {});
    try {
      await client.connect();
      return await work(client);
    } finally {
      await client.end().catch(() => {});
    }
  }

  /** A role that may do what rds_superuser may, and no more. */
  async function createMaster(instance: LocalInstance, database: string | null): Promise<void> {
    const { username, password } = instance.master;
    await inside(instance, async (client) => {
      await client.query('create role rds_superuser nologin');
      await client.query('grant pg_monitor, pg_signal_backend, pg_checkpoint to rds_superuser with admin option');
      await client.query(`create role ${pg.escapeIdentifier(username)} login createrole createdb password ${pg.escapeLiteral(password)} in role rds_superuser`);
      await client.query(`grant all on database postgres to ${pg.escapeIdentifier(username)}`);
      if (database !== null) await client.query(`create database ${pg.escapeIdentifier(database)} owner ${pg.escapeIdentifier(username)}`);
    });
    if (database !== null) await inside(instance, (client) => client.query(`alter schema public owner to ${pg.escapeIdentifier(username)}`), database);
  }

  async function follow(instance: LocalInstance, source: LocalInstance, headers: IncomingMessage['headers']): Promise<void> {
    instance.source = source;
    instance.server = await startStandby({ processes, directory, name: nextName(instance.identifier), primary: source.server!, settings, port: instance.port });
    await applyGroups(instance, headers);
  }

  /** A server that was primary begins anew as a standby of another. */
  async function rejoin(instance: LocalInstance, source: LocalInstance, headers: IncomingMessage['headers']): Promise<void> {
    if (instance.server?.running() === true) await instance.server.stop('immediate');
    await follow(instance, source, headers);
  }

  async function promoteServer(instance: LocalInstance): Promise<void> {
    await inside(instance, (client) => client.query('select pg_promote(true, 30)'));
    instance.source = null;
  }

  /** One server after the other, as the storage of an Aurora cluster gives the same to all. */
  async function moveWriter(cluster: LocalCluster, target: LocalInstance, headers: IncomingMessage['headers']): Promise<void> {
    const before = cluster.writer;
    if (before === target) return;
    if (before?.server?.running() === true) {
      // The storage is shared: whatever the writer acknowledged is there for the reader.
      await before.server.stop('fast');
    }
    await promoteServer(target);
    cluster.writer = target;
    for (const member of cluster.members) if (member !== target) await rejoin(member, target, headers);
  }

  const builtIn: Record<string, (call: RdsCall, headers: IncomingMessage['headers']) => Promise<RdsAnswer>> = {
    async CreateDBInstance(call, headers) {
      const answer = await call.forward();
      if (answer.status !== 200) return answer;
      const identifier = call.parameters.get('DBInstanceIdentifier')!.toLowerCase();
      const cluster = call.parameters.has('DBClusterIdentifier') ? findCluster(call.region, call.parameters.get('DBClusterIdentifier')!) : undefined;
      const master = cluster?.master ?? { username: call.parameters.get('MasterUsername') ?? 'postgres', password: call.parameters.get('MasterUserPassword') ?? '' };
      const instance = make(call.region, identifier, master, await portOf(call.region, identifier), cluster?.groups ?? members(call.parameters, 'VpcSecurityGroupIds'));
      if (cluster !== undefined) {
        instance.cluster = cluster;
        cluster.members.push(instance);
      }
      later(async () => {
        const source = cluster === undefined ? null : (cluster.writer ?? cluster.global?.writer.writer ?? null);
        if (cluster !== undefined && cluster.writer === null) cluster.writer = instance;
        if (source !== null) await follow(instance, source, headers);
        else {
          instance.server = await startPostgres({ processes, directory, name: nextName(identifier), settings, port: instance.port });
          await createMaster(instance, cluster?.database ?? call.parameters.get('DBName'));
          await applyGroups(instance, headers);
        }
        await pause(delays.createMs);
        instance.status = null;
      });
      return answer;
    },
    async CreateDBInstanceReadReplica(call, headers) {
      const source = find(call.region, call.parameters.get('SourceDBInstanceIdentifier') ?? '');
      if (source?.server?.running() !== true) return failure(400, 'InvalidDBInstanceState', 'the source is not available');
      const answer = await call.forward();
      if (answer.status !== 200) return answer;
      const identifier = call.parameters.get('DBInstanceIdentifier')!.toLowerCase();
      const groups = members(call.parameters, 'VpcSecurityGroupIds');
      const instance = make(call.region, identifier, source.master, await portOf(call.region, identifier), groups.length > 0 ? groups : source.region === call.region ? source.groups : []);
      instance.source = source;
      // moto makes a replica by copying the source, tags and all; RDS does not.
      const copied = [...answer.body.matchAll(/<Tag><Key>(.*?)<\/Key>/gs)].map((match) => match[1]!);
      const given = [...call.parameters.keys()].some((key) => key.startsWith('Tags.'));
      if (!given && copied.length > 0) await call.forward({ Action: 'RemoveTagsFromResource', ResourceName: instance.arn, ...Object.fromEntries(copied.map((key, index) => [`TagKeys.member.${index + 1}`, key])) });
      later(async () => {
        await follow(instance, source, headers);
        await pause(delays.createMs);
        instance.status = null;
      });
      return answer;
    },
    async PromoteReadReplica(call) {
      const instance = find(call.region, call.parameters.get('DBInstanceIdentifier') ?? '');
      if (instance !== undefined && (instance.source === null || instance.status !== null)) return failure(400, 'InvalidDBInstanceState', `DB instance ${instance.identifier} is not a read replica, or not available`);
      const answer = await call.forward();
      if (answer.status !== 200 || instance === undefined) return answer;
      instance.status = 'modifying';
      later(async () => {
        await pause(delays.promoteMs);
        await promoteServer(instance);
        // RDS reboots a promoted replica.
        instance.status = 'rebooting';
        await instance.server!.stop('fast');
        await instance.server!.start();
        instance.status = null;
      });
      return answer;
    },
    async ModifyDBInstance(call, headers) {
      const instance = find(call.region, call.parameters.get('DBInstanceIdentifier') ?? '');
      if (instance?.status != null) return failure(400, 'InvalidDBInstanceState', `DB instance ${instance.identifier} is not in available state`);
      const answer = await call.forward();
      if (answer.status !== 200 || instance === undefined) return answer;
      const groups = members(call.parameters, 'VpcSecurityGroupIds');
      if (groups.length > 0) {
        instance.groups = groups;
        instance.groupsStatus = 'adding';
        later(async () => {
          await pause(delays.groupsMs);
          await applyGroups(instance, headers);
          instance.groupsStatus = 'active';
        });
      }
      const renamed = call.parameters.get('NewDBInstanceIdentifier')?.toLowerCase();
      if (renamed !== undefined) {
        instances.delete(keyOf(instance.region, instance.identifier));
        // The address goes with the name: whoever takes the old name gets the old port.
        const port = await portOf(instance.region, renamed);
        const moved = make(instance.region, renamed, instance.master, port, instance.groups);
        Object.assign(moved, { source: instance.source, cluster: instance.cluster, groupsStatus: instance.groupsStatus, status: 'renaming' });
        const { server } = instance;
        instance.server = null;
        later(async () => {
          if (server !== null) {
            await server.stop('fast');
            moved.server = onPort(server, port);
            await moved.server.start();
          }
          moved.status = null;
        });
      }
      return answer;
    },
    async StopDBInstance(call) {
      const instance = find(call.region, call.parameters.get('DBInstanceIdentifier') ?? '');
      if (instance !== undefined && [...instances.values()].some((other) => other.source === instance)) return failure(400, 'InvalidDBInstanceState', `DB instance ${instance.identifier} has read replicas and cannot be stopped`);
      if (instance?.status != null) return failure(400, 'InvalidDBInstanceState', `DB instance ${instance.identifier} is not in available state`);
      const answer = await call.forward();
      if (answer.status !== 200 || instance === undefined) return answer;
      instance.status = 'stopping';
      later(async () => {
        await pause(delays.stopMs);
        if (instance.server?.running() === true) await instance.server.stop('fast');
        instance.status = 'stopped';
      });
      return answer;
    },
    async StartDBInstance(call) {
      const answer = await call.forward();
      const instance = find(call.region, call.parameters.get('DBInstanceIdentifier') ?? '');
      if (answer.status !== 200 || instance === undefined) return answer;
      instance.status = 'starting';
      later(async () => {
        await pause(delays.startMs);
        await instance.server?.start();
        instance.status = null;
      });
      return answer;
    },
    async RebootDBInstance(call) {
      const answer = await call.forward();
      const instance = find(call.region, call.parameters.get('DBInstanceIdentifier') ?? '');
      if (answer.status !== 200 || instance === undefined) return answer;
      instance.status = 'rebooting';
      later(async () => {
        await instance.server?.stop('fast');
        await instance.server?.start();
        instance.status = null;
      });
      return answer;
    },
    async DeleteDBInstance(call) {
      const instance = find(call.region, call.parameters.get('DBInstanceIdentifier') ?? '');
      const answer = await call.forward();
      if (answer.status !== 200 || instance === undefined) return answer;
      instances.delete(keyOf(instance.region, instance.identifier));
      if (instance.cluster !== null) {
        instance.cluster.members.splice(instance.cluster.members.indexOf(instance), 1);
        if (instance.cluster.writer === instance) instance.cluster.writer = null;
      }
      for (const other of instances.values()) if (other.source === instance) other.source = null;
      const { server } = instance;
      later(async () => {
        if (server?.running() === true) await server.stop('immediate');
      });
      return answer;
    },
    async CreateDBCluster(call) {
      const answer = await call.forward();
      if (answer.status !== 200) return answer;
      const identifier = call.parameters.get('DBClusterIdentifier')!.toLowerCase();
      const global = globals.get(call.parameters.get('GlobalClusterIdentifier')?.toLowerCase() ?? '') ?? null;
      const master = global?.writer.master ?? { username: call.parameters.get('MasterUsername') ?? 'postgres', password: call.parameters.get('MasterUserPassword') ?? '' };
      const cluster: LocalCluster = { region: call.region, identifier, arn: `arn:aws:rds:${call.region}:${ACCOUNT}:cluster:${identifier}`, master, database: call.parameters.get('DatabaseName'), members: [], writer: null, status: 'available', groups: members(call.parameters, 'VpcSecurityGroupIds'), global };
      clusters.set(keyOf(call.region, identifier), cluster);
      global?.members.push(cluster);
      return answer;
    },
    async ModifyDBCluster(call, headers) {
      const answer = await call.forward();
      const cluster = findCluster(call.region, call.parameters.get('DBClusterIdentifier') ?? '');
      const groups = members(call.parameters, 'VpcSecurityGroupIds');
      if (answer.status !== 200 || cluster === undefined || groups.length === 0) return answer;
      cluster.groups = groups;
      later(async () => {
        await pause(delays.groupsMs);
        for (const member of cluster.members) await applyGroups(member, headers);
      });
      return answer;
    },
    async FailoverDBCluster(call, headers) {
      const cluster = findCluster(call.region, call.parameters.get('DBClusterIdentifier') ?? '');
      const named = call.parameters.get('TargetDBInstanceIdentifier');
      const target = named === null ? cluster?.members.find((member) => member !== cluster.writer) : find(call.region, named);
      if (cluster !== undefined && cluster.status !== 'available') return failure(400, 'InvalidDBClusterStateFault', `Database cluster:${cluster.identifier} is in ${cluster.status} state`);
      const answer = await call.forward();
      if (answer.status !== 200 || cluster === undefined || target === undefined) return answer;
      cluster.status = 'failing-over';
      later(async () => {
        await pause(delays.failoverMs);
        await moveWriter(cluster, target, headers);
        cluster.status = 'available';
      });
      return answer;
    },
    async CreateGlobalCluster(call) {
      const answer = await call.forward();
      const source = findCluster(call.region, call.parameters.get('SourceDBClusterIdentifier') ?? '');
      if (answer.status !== 200 || source === undefined) return answer;
      const identifier = call.parameters.get('GlobalClusterIdentifier')!.toLowerCase();
      const global: LocalGlobalCluster = { identifier, members: [source], writer: source, status: 'available', moving: null };
      source.global = global;
      globals.set(identifier, global);
      return answer;
    },
    SwitchoverGlobalCluster: (call, headers) => Promise.resolve(moveGlobal(call, headers, false)),
    FailoverGlobalCluster: (call, headers) => Promise.resolve(moveGlobal(call, headers, call.parameters.get('AllowDataLoss') === 'true')),
    DescribeGlobalClusters(call) {
      const wanted = call.parameters.get('GlobalClusterIdentifier')?.toLowerCase();
      const found = wanted === undefined ? [...globals.values()] : [...globals.values()].filter((global) => global.identifier === wanted);
      if (wanted !== undefined && found.length === 0) return Promise.resolve(failure(404, 'GlobalClusterNotFoundFault', `Global cluster ${wanted} not found`));
      return Promise.resolve(success(call.action, `<GlobalClusters>${found.map((global) => `<GlobalClusterMember>${globalXml(global)}</GlobalClusterMember>`).join('')}</GlobalClusters>`));
    },
  };

  /** Neither call is in moto. Shapes: RDS API reference, SwitchoverGlobalCluster, FailoverGlobalCluster, GlobalCluster. */
  function moveGlobal(call: RdsCall, headers: IncomingMessage['headers'], lossAllowed: boolean): RdsAnswer {
    const global = globals.get(call.parameters.get('GlobalClusterIdentifier')?.toLowerCase() ?? '');
    const target = findCluster(call.region, call.parameters.get('TargetDbClusterIdentifier') ?? '');
    if (global === undefined) return failure(404, 'GlobalClusterNotFoundFault', 'the global cluster was not found');
    if (target?.writer == null || target.global !== global) return failure(404, 'DBClusterNotFoundFault', 'the target cluster is no member of the global cluster');
    if (global.status !== 'available') return failure(400, 'InvalidGlobalClusterStateFault', `the global cluster is ${global.status}`);
    if (target === global.writer) return failure(400, 'InvalidDBClusterStateFault', 'the target is the primary cluster already');
    const before = global.writer;
    global.status = lossAllowed ? 'failing-over' : 'switching-over';
    global.moving = { to: target, lossAllowed };
    later(async () => {
      await pause(delays.failoverMs);
      const old = before.writer!;
      // A switchover stops writes and waits for replication; a failover takes what has arrived.
      if (old.server?.running() === true) await old.server.stop(lossAllowed ? 'immediate' : 'fast');
      await promoteServer(target.writer!);
      global.writer = target;
      for (const cluster of global.members) for (const member of cluster.members) if (member !== target.writer) await rejoin(member, target.writer!, headers);
      global.status = 'available';
      global.moving = null;
    });
    return success(call.action, `<GlobalCluster>${globalXml(global)}</GlobalCluster>`);
  }

  function rewrite(region: string, body: string): string {
    return body.replaceAll(/<DBInstance>.*?<\/DBInstance>/gs, (block) => instanceXml(region, block)).replaceAll(/<DBCluster>.*?<\/DBCluster>/gs, (block) => clusterXml(region, block));
  }

  function instanceXml(region: string, block: string): string {
    const instance = find(region, textOf(block, 'DBInstanceIdentifier') ?? '');
    if (instance === undefined) return block;
    const named = (other: LocalInstance): string => (other.region === instance.region ? other.identifier : other.arn);
    const replicas = [...instances.values()].filter((other) => other.cluster === null && other.source === instance);
    let text = replaced(block, 'DBInstanceStatus', instance.status ?? (textOf(block, 'DBInstanceStatus') === 'stopped' ? 'stopped' : 'available'));
    text = replaced(text, 'DBInstanceArn', instance.arn);
    text = replaced(text, 'Endpoint', instance.status === 'creating' ? null : `<Address>127.0.0.1</Address><Port>${instance.port}</Port><HostedZoneId>LOCAL</HostedZoneId>`);
    text = replaced(text, 'ReadReplicaSourceDBInstanceIdentifier', instance.source === null || instance.cluster !== null ? null : named(instance.source));
    text = replaced(text, 'ReadReplicaDBInstanceIdentifiers', replicas.map((other) => `<ReadReplicaDBInstanceIdentifier>${named(other)}</ReadReplicaDBInstanceIdentifier>`).join(''));
    text = replaced(text, 'StatusInfos', instance.source === null || instance.cluster !== null ? null : `<DBInstanceStatusInfo><StatusType>read replication</StatusType><Normal>${instance.server?.running() === true}</Normal><Status>${instance.server?.running() === true ? 'replicating' : 'error'}</Status></DBInstanceStatusInfo>`);
    const groups = instance.cluster?.groups ?? instance.groups;
    if (groups.length > 0) text = replaced(text, 'VpcSecurityGroups', groups.map((group) => `<VpcSecurityGroupMembership><VpcSecurityGroupId>${group}</VpcSecurityGroupId><Status>${instance.groupsStatus}</Status></VpcSecurityGroupMembership>`).join(''));
    return text;
  }

  function clusterXml(region: string, block: string): string {
    const cluster = findCluster(region, textOf(block, 'DBClusterIdentifier') ?? '');
    if (cluster === undefined) return block;
    // In a secondary cluster of a global database nobody is the writer of the database, yet one member is the cluster's first.
    const member = (one: LocalInstance): string => `<DBClusterMember><DBInstanceIdentifier>${one.identifier}</DBInstanceIdentifier><IsClusterWriter>${one === cluster.writer}</IsClusterWriter><DBClusterParameterGroupStatus>in-sync</DBClusterParameterGroupStatus><PromotionTier>1</PromotionTier></DBClusterMember>`;
    let text = replaced(block, 'DBClusterMembers', cluster.members.map(member).join(''));
    text = replaced(text, 'Status', cluster.status);
    text = replaced(text, 'DBClusterArn', cluster.arn);
    if (cluster.writer !== null) text = replaced(replaced(text, 'Endpoint', '127.0.0.1'), 'Port', String(cluster.writer.port));
    if (cluster.groups.length > 0) text = replaced(text, 'VpcSecurityGroups', cluster.groups.map((group) => `<VpcSecurityGroupMembership><VpcSecurityGroupId>${group}</VpcSecurityGroupId><Status>active</Status></VpcSecurityGroupMembership>`).join(''));
    return text;
  }

  async function answerRds(request: IncomingMessage, body: Buffer, region: string): Promise<RdsAnswer> {
    const parameters = new URLSearchParams(body.toString());
    const action = parameters.get('Action') ?? '';
    calls.push({ action, region, parameters: Object.fromEntries(parameters), atMs: Date.now() });
    const at = faults.findIndex(({ fault, left }) => left > 0 && (fault.action === action || fault.action === '*') && (fault.region === undefined || fault.region === region));
    const how = at === -1 ? undefined : faults[at]!.fault.how;
    if (at !== -1) faults[at]!.left -= 1;
    if (how === 'throttle') return failure(400, 'Throttling', 'Rate exceeded');
    if (how === 'deny') return failure(403, 'AccessDenied', `User: arn:aws:iam::${ACCOUNT}:user/holdfast is not authorized to perform: rds:${action}`);
    if (how === 'cut-before') return { status: 0, body: '' };
    if (how === 'hang') return new Promise(() => {});
    const call: RdsCall = {
      action,
      region,
      parameters,
      async forward(changes = {}) {
        const changed = new URLSearchParams(parameters);
        for (const [key, value] of Object.entries(changes)) {
          if (value === null) changed.delete(key);
          else changed.set(key, value);
        }
        const passed = await passOn(moto.endpoint, { method: request.method!, path: request.url!, headers: request.headers }, Buffer.from(changed.toString()));
        return { status: passed.status, body: passed.body.toString() };
      },
    };
    const handler = handlers.get(action) ?? (builtIn[action] === undefined ? undefined : (one: RdsCall) => builtIn[action]!(one, request.headers));
    const answer = handler === undefined ? await call.forward() : await handler(call);
    return how === 'cut-after' ? { status: 0, body: '' } : { status: answer.status, body: rewrite(region, answer.body) };
  }

  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => void answer(request, response, Buffer.concat(chunks)));
  });

  async function answer(request: IncomingMessage, response: ServerResponse, body: Buffer): Promise<void> {
    try {
      const scope = /Credential=[^/]+\/\d+\/([^/]+)\/([^/]+)\//.exec(request.headers.authorization ?? '');
      if (scope?.[2] !== 'rds') {
        const own = (await options.elsewhere?.({ service: scope?.[2] ?? '', method: request.method!, path: request.url! })) ?? null;
        if (own !== null) {
          response.writeHead(own.status, { 'content-type': 'text/xml' }).end(own.body);
          return;
        }
        const passed = await passOn(moto.endpoint, { method: request.method!, path: request.url!, headers: request.headers }, body);
        response.writeHead(passed.status, passed.headers).end(passed.body);
        return;
      }
      const { status, body: text } = await answerRds(request, body, scope[1]!);
      if (status === 0) request.socket.destroy();
      else response.writeHead(status, { 'content-type': 'text/xml' }).end(text);
    } catch (error) {
      if (!closed) response.writeHead(500, { 'content-type': 'text/xml' }).end(failure(500, 'InternalFailure', messageOf(error)).body);
    }
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  server.unref();

  const local: LocalRds = {
    workersAre: 'master',
    aws: { ...moto, endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}` },
    find,
    instance(region, identifier) {
      const found = find(region, identifier);
      if (found === undefined) throw new HoldfastError('no-instance', `there is no DB instance ${identifier} in ${region}`);
      return found;
    },
    calls,
    delays,
    inject: (fault) => void faults.push({ fault, left: fault.times ?? 1 }),
    heal: () => void faults.splice(0),
    handle: (action, handler) => void handlers.set(action, handler),
    async adopt(region, identifier, adopted, facts) {
      const instance = make(region, identifier.toLowerCase(), facts.master, adopted.port, facts.groups ?? []);
      ports.set(keyOf(region, identifier), adopted.port);
      instance.server = adopted;
      instance.status = facts.status ?? null;
      await applyGroups(instance, { authorization: `AWS4-HMAC-SHA256 Credential=local/20260101/${region}/rds/aws4_request`, 'content-type': 'application/x-www-form-urlencoded' });
      return instance;
    },
    portOf,
    later,
    async close() {
      closed = true;
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      await Promise.all(running);
      for (const instance of instances.values()) if (instance.server?.running() === true) await instance.server.stop('immediate').catch(() => {});
      if (failures.length > 0) throw new HoldfastError('rds-emulation', `what RDS was told to do could not be done to its server: ${failures.map(messageOf).join('; ')}`);
    },
  };
  return local;
}

function globalXml(global: LocalGlobalCluster): string {
  const member = (cluster: LocalCluster): string => {
    const readers = cluster === global.writer ? global.members.filter((other) => other !== cluster) : [];
    return `<GlobalClusterMember><DBClusterArn>${cluster.arn}</DBClusterArn><Readers>${readers.map((other) => `<member>${other.arn}</member>`).join('')}</Readers><IsWriter>${cluster === global.writer}</IsWriter><GlobalWriteForwardingStatus>disabled</GlobalWriteForwardingStatus><SynchronizationStatus>connected</SynchronizationStatus></GlobalClusterMember>`;
  };
  const moving = global.moving === null ? '' : `<FailoverState><Status>${global.status}</Status><FromDbClusterArn>${global.writer.arn}</FromDbClusterArn><ToDbClusterArn>${global.moving.to.arn}</ToDbClusterArn><IsDataLossAllowed>${global.moving.lossAllowed}</IsDataLossAllowed></FailoverState>`;
  return `<GlobalClusterIdentifier>${global.identifier}</GlobalClusterIdentifier><GlobalClusterArn>arn:aws:rds::${ACCOUNT}:global-cluster:${global.identifier}</GlobalClusterArn><Status>${global.status}</Status><Engine>aurora-postgresql</Engine><GlobalClusterMembers>${global.members.map(member).join('')}</GlobalClusterMembers>${moving}`;
}

export function success(action: string, result: string): RdsAnswer {
  return { status: 200, body: `<?xml version="1.0"?><${action}Response xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><${action}Result>${result}</${action}Result><ResponseMetadata><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ResponseMetadata></${action}Response>` };
}

export function failure(status: number, code: string, message: string): RdsAnswer {
  return { status, body: `<?xml version="1.0"?><ErrorResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><Error><Type>${status >= 500 ? 'Receiver' : 'Sender'}</Type><Code>${code}</Code><Message>${message.replaceAll('&', '&amp;').replaceAll('<', '&lt;')}</Message></Error><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>` };
}

/** A list parameter of the query protocol, whatever its members are called. */
export function members(parameters: URLSearchParams, name: string): string[] {
  return [...parameters.entries()].filter(([key]) => new RegExp(`^${name}\\.\\w+\\.\\d+$`).test(key)).map(([, value]) => value);
}

export function textOf(block: string, element: string): string | undefined {
  return new RegExp(`<${element}>(.*?)</${element}>`, 's').exec(block)?.[1];
}

/** The first element of that name gets new content; null takes it out, and one that is missing is put at the end. */
export function replaced(block: string, element: string, content: string | null): string {
  const written = content === null ? '' : `<${element}>${content}</${element}>`;
  const pattern = new RegExp(`<${element}>.*?</${element}>|<${element}\\s*/>`, 's');
  if (pattern.test(block)) return block.replace(pattern, () => written);
  return block.replace(/<\/\w+>$/, (end) => `${written}${end}`);
}

interface Passed {
  readonly status: number;
  readonly headers: Record<string, string | string[]>;
  readonly body: Buffer;
}

function passOn(endpoint: string, call: { method: string; path: string; headers: IncomingMessage['headers'] }, body: Buffer): Promise<Passed> {
  const { hostname, port } = new URL(endpoint);
  const headers = Object.fromEntries(Object.entries(call.headers).filter(([name]) => !['content-length', 'connection', 'transfer-encoding', 'expect'].includes(name)));
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest({ hostname, port, method: call.method, path: call.path, headers: { ...headers, 'content-length': body.length, connection: 'close' } }, (incoming) => {
      const chunks: Buffer[] = [];
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
      incoming.on('error', reject);
      incoming.on('end', () => {
        const back = Object.entries(incoming.headers).filter((entry): entry is [string, string | string[]] => entry[1] !== undefined && !['connection', 'transfer-encoding', 'content-length'].includes(entry[0]));
        resolve({ status: incoming.statusCode ?? 502, headers: Object.fromEntries(back), body: Buffer.concat(chunks) });
      });
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}
