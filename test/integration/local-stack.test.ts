import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { HeadBucketCommand } from '@aws-sdk/client-s3';
import pg from 'pg';
import { afterAll, describe, expect, it } from 'vitest';
import { processStart } from '../../src/systems/process-stat.ts';
import { createProcesses, s3Client, startPostgres, startStandby } from '../../src/local/stack.ts';
import { connectTemporal, queryOnce, suite, testBucket, testConfig, testDatabase, testSecret, testWorker, toxiproxy } from '../support.ts';

describe('local stack', () => {
  const processes = createProcesses();
  afterAll(() => processes.end());

  it('gives each test its own database, bucket, secret and worker on the shared servers', async () => {
    const database = await testDatabase('stack');
    expect(await database.query('select current_database() as name')).toEqual([{ name: database.database }]);
    const bucket = await testBucket();
    const s3 = s3Client(suite().s3);
    await s3.send(new HeadBucketCommand({ Bucket: bucket }));
    s3.destroy();
    const secret = await testSecret('stack', { password: 'a-password' });
    const context = await testConfig();
    expect(await context.secrets.resolve(`aws-sm:${secret}#password`)).toBe('a-password');
    const client = await connectTemporal(context);
    const worker = await testWorker(context);
    await worker.runUntil(async () => {
      const pollers = async (): Promise<number> => {
        const answer = await client.workflowService.describeTaskQueue({ namespace: 'default', taskQueue: { name: context.config.temporal.taskQueue }, taskQueueType: 1 });
        return answer.pollers?.length ?? 0;
      };
      await expect.poll(pollers, { timeout: 20_000 }).toBeGreaterThan(0);
    });
    await client.connection.close();
    context.close();
  });

  it('binds nothing but loopback', () => {
    const addresses = listeningAddresses(suite().directory);
    // Temporal's own services alone are several.
    expect(addresses.length).toBeGreaterThanOrEqual(5);
    // All of 127.0.0.0/8 is loopback, last byte first: a standby of another file listens on 127.0.0.2 as well, and Java writes it as ::ffff:127.0.0.1.
    expect(addresses.filter((address) => !/^(0{16}FFFF0000)?[0-9A-F]{6}7F:/.test(address))).toEqual([]);
  });

  it('cuts and restores a connection through toxiproxy', async () => {
    const { host, port, superuser, password } = suite().postgres;
    const proxy = await toxiproxy().proxy('pg', `${host}:${port}`);
    const url = `postgresql://${superuser}:${password}@${proxy.address}/postgres`;
    expect(await queryOnce(url, 'select 1 as one')).toEqual([{ one: 1 }]);
    await proxy.setEnabled(false);
    await expect(queryOnce(url, 'select 1')).rejects.toThrow(/ECONNREFUSED|ECONNRESET|terminated/);
    await proxy.setEnabled(true);
    expect(await queryOnce(url, 'select 1 as one')).toEqual([{ one: 1 }]);
    await proxy.delete();
  });

  it('streams to a standby, survives the kill of the primary with what was acknowledged, and starts again', async () => {
    const primary = await startPostgres({ processes, directory: processes.directory, name: 'a' });
    const standby = await startStandby({ processes, directory: processes.directory, name: 'b', primary });
    const client = new pg.Client({ connectionString: primary.connectionString() });
    client.on('error', () => {});
    await client.connect();
    await client.query('create table t (id int primary key); insert into t select generate_series(1, 1000)');
    await primary.kill();
    expect(primary.running()).toBe(false);
    await expect(queryOnce(primary.connectionString(), 'select 1')).rejects.toThrow('ECONNREFUSED');
    await primary.start();
    expect(await queryOnce(primary.connectionString(), 'select count(*)::int as n from t')).toEqual([{ n: 1000 }]);
    expect(await queryOnce(standby.connectionString(), 'select pg_is_in_recovery() as standby')).toEqual([{ standby: true }]);
    await standby.stop();
    await primary.stop();
    expect([primary.running(), standby.running()]).toEqual([false, false]);
  });

  it.each([['SIGKILL'], ['SIGINT'], ['SIGTERM']] as const)('leaves no process and no folder when its owner gets %s', async (signal) => {
    const child = spawn(process.execPath, [fileURLToPath(new URL('./local-stack-owner.ts', import.meta.url))], { stdio: ['ignore', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout });
    const [line] = (await once(lines, 'line')) as [string];
    const started = JSON.parse(line) as { directory: string; reaper: number; pids: { pid: number; start: string }[] };
    expect(started.pids.length).toBeGreaterThanOrEqual(4);
    expect(started.pids.every(({ pid, start }) => processStart(pid) === start)).toBe(true);
    child.kill(signal);
    await once(child, 'exit');
    await goneByEvent(started.reaper);
    expect(started.pids.filter(({ pid, start }) => processStart(pid) === start && !zombie(pid))).toEqual([]);
    expect(existsSync(started.directory)).toBe(false);
  });
});

/** Hexadecimal `address:port` of every listening TCP socket of the processes that work below a folder. */
function listeningAddresses(directory: string): string[] {
  const inodes = new Set<string>();
  for (const pid of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      if (!readlinkSync(`/proc/${pid}/cwd`).startsWith(directory)) continue;
      for (const fd of readdirSync(`/proc/${pid}/fd`)) inodes.add(/^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? '');
    } catch {
      // Ended meanwhile.
    }
  }
  return ['/proc/net/tcp', '/proc/net/tcp6']
    .flatMap((file) => readFileSync(file, 'utf8').trim().split('\n').slice(1))
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === '0A' && inodes.has(fields[9] ?? '-'))
    .map((fields) => fields[1] ?? '');
}

/** Resolves when a process that is not our child is gone: `tail --pid` ends with it. */
async function goneByEvent(pid: number): Promise<void> {
  await once(spawn('tail', [`--pid=${pid}`, '-s', '0.05', '-f', '/dev/null'], { stdio: 'ignore' }), 'exit');
}

function zombie(pid: number): boolean {
  return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
}
