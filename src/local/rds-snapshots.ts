import { chownSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { runChild } from '../systems/child.ts';
import { startFromCopy, type PostgresServer } from './postgres.ts';
import type { Processes } from './processes.ts';
import { failure, members, replaced, textOf, type LocalRds, type MasterUser, type RdsAnswer, type RdsCall } from './rds.ts';

/**
 * Snapshots for the local RDS: moto keeps the records, a physical copy of the real server behind the instance is the content, and what
 * is restored from it is a real PostgreSQL again. What moto cannot show (being taken, failing, WAL up to a moment) is added here.
 */
export interface LocalSnapshots {
  /** How long a snapshot and a copy are `creating` at least, in ms; may be set at any time. */
  readonly delays: { snapshotMs: number; copyMs: number };
  /** The next snapshots or copies: `fails` ends as failed, `stuck` stays `creating` until `release`. */
  misbehave(how: 'fails' | 'stuck', options?: { action?: 'CreateDBSnapshot' | 'CopyDBSnapshot'; times?: number }): void;
  /** What is stuck becomes available. */
  release(): void;
  /** What an automated backup is for: a base copy now, so that any later moment can be restored. The server must archive (ARCHIVING). */
  keepBase(region: string, identifier: string): Promise<void>;
  readonly snapshots: readonly LocalSnapshot[];
}

export interface LocalSnapshot {
  readonly region: string;
  readonly identifier: string;
  status: string;
  percent: number;
  readonly createdAt: Date;
  readonly of: PostgresServer;
  readonly master: MasterUser;
  readonly files: string;
}

/** Settings of a server whose WAL can be restored to a moment. */
export const ARCHIVING = { archive_mode: 'on', archive_command: 'mkdir -p ../archive && test ! -f ../archive/%f && cp %p ../archive/%f' } as const;

export function addSnapshots(rds: LocalRds, options: { processes: Processes; directory: string; settings?: Readonly<Record<string, string>> }): LocalSnapshots {
  const { processes, directory } = options;
  const settings = { max_connections: '60', shared_buffers: '16MB', wal_keep_size: '64MB', max_wal_size: '256MB', ...options.settings };
  const snapshots: LocalSnapshot[] = [];
  const bases: { region: string; identifier: string; files: string; atMs: number }[] = [];
  const plans: { how: 'fails' | 'stuck'; action: string; left: number }[] = [];
  const stuck = new Set<LocalSnapshot>();
  const delays = { snapshotMs: 100, copyMs: 100 };
  let folders = 0;

  const find = (region: string, identifier: string): LocalSnapshot | undefined => snapshots.find((one) => one.region === region && one.identifier === identifier.toLowerCase());

  function folder(of: PostgresServer): string {
    const root = join(directory, 'snapshots');
    mkdirSync(root, { recursive: true, mode: 0o755 });
    if (of.osUser !== undefined) chownSync(root, of.osUser.uid, of.osUser.gid);
    return join(root, String((folders += 1)));
  }

  /** A consistent copy of a running server, of the moment it ends. */
  async function copyOf(server: PostgresServer): Promise<string> {
    const files = folder(server);
    const conninfo = `host=${server.host} port=${server.port} user=${server.replication.username} passfile=${server.replication.passfile}`;
    await runChild([join(server.binDirectory, 'pg_basebackup'), '-d', conninfo, '-D', files, '-X', 'stream', '--checkpoint=fast', '--no-sync'], { ...server.osUser, cwd: '/' });
    return files;
  }

  async function settle(snapshot: LocalSnapshot, action: string, waitMs: number): Promise<void> {
    const at = plans.findIndex((plan) => plan.action === action && plan.left > 0);
    const how = at === -1 ? undefined : plans[at]!.how;
    if (at !== -1) plans[at]!.left -= 1;
    snapshot.percent = 40;
    await new Promise((resolve) => {
      setTimeout(resolve, waitMs);
    });
    if (how === 'stuck') {
      stuck.add(snapshot);
      return;
    }
    snapshot.status = how === 'fails' ? 'failed' : 'available';
    snapshot.percent = how === 'fails' ? 40 : 100;
  }

  function described(region: string, body: string): string {
    return body.replaceAll(/<DBSnapshot>.*?<\/DBSnapshot>/gs, (block) => {
      const snapshot = find(region, textOf(block, 'DBSnapshotIdentifier') ?? '');
      if (snapshot === undefined) return block;
      let text = replaced(block, 'Status', snapshot.status);
      text = replaced(text, 'PercentProgress', String(snapshot.percent));
      return replaced(text, 'SnapshotCreateTime', snapshot.createdAt.toISOString());
    });
  }
  const answered = (call: RdsCall, answer: RdsAnswer): RdsAnswer => (answer.status === 200 ? { ...answer, body: described(call.region, answer.body) } : answer);

  rds.handle('DescribeDBSnapshots', async (call) => answered(call, await call.forward()));

  rds.handle('CreateDBSnapshot', async (call) => {
    const instance = rds.find(call.region, call.parameters.get('DBInstanceIdentifier') ?? '');
    if (instance !== undefined && (instance.status !== null || instance.server?.running() !== true)) return failure(400, 'InvalidDBInstanceState', `Cannot create a snapshot because the database instance ${instance.identifier} is not currently in the available state.`);
    const answer = await call.forward();
    if (answer.status !== 200 || instance === undefined) return answer;
    const of = instance.server!;
    const snapshot: LocalSnapshot = { region: call.region, identifier: call.parameters.get('DBSnapshotIdentifier')!.toLowerCase(), status: 'creating', percent: 0, createdAt: new Date(), of, master: instance.master, files: '' };
    snapshots.push(snapshot);
    rds.later(async () => {
      Object.assign(snapshot, { files: await copyOf(of) });
      await settle(snapshot, 'CreateDBSnapshot', delays.snapshotMs);
    });
    return answered(call, answer);
  });

  rds.handle('CopyDBSnapshot', async (call) => {
    const named = call.parameters.get('SourceDBSnapshotIdentifier') ?? '';
    const arn = /^arn:aws[\w-]*:rds:([\w-]+):\d*:snapshot:(.+)$/.exec(named);
    const source = arn === null ? find(call.region, named) : find(arn[1]!, arn[2]!);
    if (source !== undefined && source.status !== 'available') return failure(400, 'InvalidDBSnapshotState', `The source snapshot ${source.identifier} is ${source.status}.`);
    const answer = await call.forward();
    if (answer.status !== 200 || source === undefined) return answer;
    const snapshot: LocalSnapshot = { ...source, region: call.region, identifier: call.parameters.get('TargetDBSnapshotIdentifier')!.toLowerCase(), status: 'creating', percent: 0, createdAt: new Date() };
    snapshots.push(snapshot);
    rds.later(async () => {
      const files = folder(source.of);
      await runChild(['cp', '-a', source.files, files], { ...source.of.osUser, cwd: '/' });
      Object.assign(snapshot, { files });
      await settle(snapshot, 'CopyDBSnapshot', delays.copyMs);
    });
    return answered(call, answer);
  });

  rds.handle('DeleteDBSnapshot', async (call) => {
    const snapshot = find(call.region, call.parameters.get('DBSnapshotIdentifier') ?? '');
    if (snapshot?.status === 'creating') return failure(400, 'InvalidDBSnapshotState', `Cannot delete the snapshot because it is not currently in the available or failed state.`);
    const answer = await call.forward();
    if (answer.status !== 200 || snapshot === undefined) return answer;
    snapshots.splice(snapshots.indexOf(snapshot), 1);
    if (snapshot.files !== '') rmSync(snapshot.files, { recursive: true, force: true });
    return answer;
  });

  async function restore(call: RdsCall, identifier: string, from: { of: PostgresServer; master: MasterUser; files: string; recovery?: { archive: string; targetTime: string } }): Promise<RdsAnswer> {
    const name = identifier.toLowerCase();
    const server = await startFromCopy({ processes, directory, name: `${name.slice(0, 30)}-r${(folders += 1)}`, settings: { ...settings, archive_mode: 'off' }, port: await rds.portOf(call.region, name), files: from.files, of: from.of, ...(from.recovery === undefined ? {} : { recovery: from.recovery }) });
    const answer = await call.forward();
    if (answer.status !== 200) {
      await server.stop('immediate');
      return answer;
    }
    const instance = await rds.adopt(call.region, name, server, { master: from.master, groups: members(call.parameters, 'VpcSecurityGroupIds'), status: 'creating' });
    rds.later(async () => {
      await new Promise((resolve) => {
        setTimeout(resolve, rds.delays.createMs);
      });
      instance.status = null;
    });
    return answer;
  }

  rds.handle('RestoreDBInstanceFromDBSnapshot', async (call) => {
    const snapshot = find(call.region, call.parameters.get('DBSnapshotIdentifier') ?? '');
    if (snapshot === undefined) return failure(404, 'DBSnapshotNotFound', `DBSnapshot ${call.parameters.get('DBSnapshotIdentifier')} not found.`);
    if (snapshot.status !== 'available') return failure(400, 'InvalidDBSnapshotState', `The snapshot ${snapshot.identifier} is ${snapshot.status}.`);
    const identifier = call.parameters.get('DBInstanceIdentifier')!;
    if (rds.find(call.region, identifier) !== undefined) return failure(400, 'DBInstanceAlreadyExists', 'DB instance already exists');
    return restore(call, identifier, snapshot);
  });

  rds.handle('RestoreDBInstanceToPointInTime', async (call) => {
    const source = rds.find(call.region, call.parameters.get('SourceDBInstanceIdentifier') ?? '');
    if (source?.server == null) return failure(404, 'DBInstanceNotFound', 'the source is not there');
    const identifier = call.parameters.get('TargetDBInstanceIdentifier')!;
    if (rds.find(call.region, identifier) !== undefined) return failure(400, 'DBInstanceAlreadyExists', 'DB instance already exists');
    const time = call.parameters.get('RestoreTime') ?? '';
    const base = bases.filter((one) => one.region === call.region && one.identifier === source.identifier && one.atMs <= Date.parse(time)).at(-1);
    if (base === undefined) return failure(400, 'InvalidParameterValue', `The restore time ${time} is before the earliest time that can be restored.`);
    // What is only in the server's own WAL is archived now, as RDS does every five minutes.
    const client = new pg.Client({ connectionString: source.insideString() });
    await client.connect();
    await client.query('select pg_switch_wal()').finally(() => client.end());
    await new Promise((resolve) => {
      setTimeout(resolve, 500);
    });
    return restore(call, identifier, { of: source.server, master: source.master, files: base.files, recovery: { archive: join(source.server.dataDirectory, '..', 'archive'), targetTime: new Date(time).toISOString().replace('T', ' ').replace('Z', '+00') } });
  });

  return {
    delays,
    misbehave: (how, { action = 'CreateDBSnapshot', times = 1 } = {}) => void plans.push({ how, action, left: times }),
    release() {
      for (const snapshot of stuck) Object.assign(snapshot, { status: 'available', percent: 100 });
      stuck.clear();
    },
    async keepBase(region, identifier) {
      const { server } = rds.instance(region, identifier);
      bases.push({ region, identifier, files: await copyOf(server!), atMs: Date.now() });
    },
    snapshots,
  };
}
