import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { expect } from 'vitest';
import { createShop } from '../../src/local/shop.ts';
import { createProcesses, startPostgres, type PostgresServer } from '../../src/local/stack.ts';
import type { RestoreDrillInput, RestoreDrillResult } from '../../src/model/api.ts';
import { backupFolder, type BackupSummary } from '../../src/model/manifest.ts';
import { listBackups } from '../../src/systems/backup-catalogue.ts';
import { runBackup } from '../../src/systems/postgres-backup.ts';
import type { Context } from '../../src/systems/context.ts';
import { drillsDirectory } from '../../src/systems/drill-target.ts';
import { generateSigningKey } from '../../src/systems/evidence-keys.ts';
import { openStore, type Store } from '../../src/systems/store.ts';
import { connectTemporal, testConfig, uniqueName, type ConfigOverrides } from '../support.ts';

export const PROGRAM = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

export interface DrillFixture {
  readonly context: Context;
  readonly source: PostgresServer;
  readonly store: Store;
  readonly publicKeyFile: string;
  /** Every notice that the webhook got. */
  readonly notices: string[];
  /** One statement on the source. */
  sql(text: string): Promise<void>;
  backUp(): Promise<BackupSummary>;
  backups(): Promise<BackupSummary[]>;
  find(id: string): Promise<BackupSummary>;
  drill(input?: Partial<RestoreDrillInput>): Promise<RestoreDrillResult>;
  end(): Promise<void>;
}

/** A shop on a server of its own (roles are the server's: other tests must not make any meanwhile), a store, a service with checks. */
export async function drillFixture(name: string, overrides: ConfigOverrides = {}): Promise<DrillFixture> {
  const processes = createProcesses();
  const notices: string[] = [];
  const webhook = await receiver(notices);
  try {
    const source = await startPostgres({ processes, directory: processes.directory, name, settings: { fsync: 'off' } });
    await createShop((database) => source.connectionString(database), { database: 'shop', rows: 2000, applicationPassword: 'drill-application-password' });
    const key = generateSigningKey();
    const keyFile = join(processes.directory, 'evidence.key');
    writeFileSync(keyFile, key.privatePem);
    writeFileSync(`${keyFile}.pub`, key.publicPem);
    process.env['HOLDFAST_TEST_DRILL_PASSWORD'] = source.password;
    process.env['HOLDFAST_TEST_DRILL_WEBHOOK'] = `http://127.0.0.1:${(webhook.address() as AddressInfo).port}/hook`;
    const context = await testConfig({
      datastores: {
        shop: {
          engine: 'postgres', database: 'shop', store: 'main', binDirectory: source.binDirectory,
          admin: { username: source.superuser, password: 'env:HOLDFAST_TEST_DRILL_PASSWORD' },
          nodes: { a: { host: source.host, port: source.port } },
        },
      },
      services: {
        orders: {
          objectives: { rto: '15m', rpo: '1h' }, datastores: ['shop'],
          checks: [{ name: 'customers are there', sql: 'select count(*) from shop.customers', expect: { equals: 200 } }, { name: 'orders are recent', sql: "select max(ordered_at) > '2026-01-01' from shop.orders" }],
        },
        reporting: { objectives: { rto: '4h', rpo: '30m' }, datastores: ['shop'] },
      },
      evidence: { signingKey: `file:${keyFile}`, store: 'main' },
      notify: { team: { type: 'slack', url: 'env:HOLDFAST_TEST_DRILL_WEBHOOK' } },
      ...overrides,
    });
    const store = await openStore(context, 'main');
    const backups = (): Promise<BackupSummary[]> => listBackups(store, store.prefix, 'shop');
    let lastMs = 0;
    return {
      context, source, store, notices, publicKeyFile: `${keyFile}.pub`, backups,
      async sql(text) {
        const client = new pg.Client({ connectionString: source.connectionString('shop') });
        await client.connect();
        await client.query(text).finally(() => client.end());
      },
      find: async (id) => (await backups()).find((backup) => backup.id === id)!,
      async backUp() {
        const id = uniqueName('b').replace('b-', 'b');
        // Folders carry seconds: each backup of a test gets one of its own, so that "newest" is sure.
        lastMs = Math.max(Date.now(), lastMs + 1000);
        const request = { datastore: 'shop', id, location: backupFolder(store.prefix, 'shop', lastMs, id), reason: 'test', workflowId: `test/${id}`, runId: id };
        await runBackup(context, request, { signal: new AbortController().signal });
        return (await backups()).find((backup) => backup.id === id)!;
      },
      async drill(input = {}) {
        const client = await connectTemporal(context);
        try {
          return await client.workflow.execute('restoreDrill', { taskQueue: context.config.temporal.taskQueue, workflowId: uniqueName('drill/shop'), args: [{ datastore: 'shop', ...input }] });
        } finally {
          await client.connection.close();
        }
      },
      async end() {
        context.close();
        webhook.close();
        await processes.end();
      },
    };
  } catch (error) {
    webhook.close();
    await processes.end();
    throw error;
  }
}

async function receiver(notices: string[]): Promise<Server> {
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => (body += text)).on('end', () => {
      notices.push(body);
      response.end('ok');
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

/** Nothing of any target is left on this host: no folder, no process. */
export function expectNoTargets(context: Context): void {
  const directory = drillsDirectory(context);
  expect(existsSync(directory) ? readdirSync(directory) : []).toEqual([]);
  expect(serversBelow(directory)).toEqual([]);
}

export function serversBelow(directory: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readlinkSync(`/proc/${pid}/cwd`).startsWith(directory);
    } catch {
      return false; // It ended while we looked.
    }
  });
}

/** The real program in a process of its own. */
export function holdfast(args: readonly string[]): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [PROGRAM, ...args], { env: environment(), stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, err] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text));
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, out, err }));
  });
}

/** The worker as people start it, in a process of its own. `check` throws when it ended before it was told to. */
export function startWorkerProcess(context: Context): { kill(signal: NodeJS.Signals): Promise<void>; check(): void } {
  const child = spawn(process.execPath, [PROGRAM, 'worker', '--config', context.configPath], { env: environment(), stdio: ['ignore', 'ignore', 'pipe'] });
  let err = '';
  let told = false;
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err = (err + text).slice(-4000)));
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  return {
    async kill(signal) {
      told = true;
      child.kill(signal);
      await ended;
    },
    check() {
      if (!told && (child.exitCode !== null || child.signalCode !== null)) throw new Error(`the worker ended by itself (${child.exitCode ?? child.signalCode}): ${err}`);
    },
  };
}

export function environment(): Record<string, string | undefined> {
  return { PATH: process.env['PATH'], ...Object.fromEntries(Object.entries(process.env).filter(([name]) => name.startsWith('HOLDFAST_TEST_'))) };
}
