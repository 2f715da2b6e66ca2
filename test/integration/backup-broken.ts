import { execFileSync } from 'node:child_process';
import { chmodSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3';
import { expect } from 'vitest';
import { s3Client, type PostgresServer } from '../../src/local/stack.ts';
import { reapOrphans } from '../../src/systems/backup-write.ts';
import type { Context } from '../../src/systems/context.ts';
import { queryOnce, suite, testDirectory } from '../support.ts';

/** Rows that do not compress, so that the pipes fill and a slow store holds pg_dump back. */
export const BULKY = `
  create table bulky (id int primary key, body bytea);
  insert into bulky select i, (select decode(string_agg(md5(random()::text || i || j), ''), 'hex') from generate_series(1, 512) j) from generate_series(1, 2000) i;`;

/** Pids of our descendants whose program is one of these. */
export function childrenNamed(names: readonly string[], parent = process.pid): { pid: number; name: string }[] {
  const found: { pid: number; name: string }[] = [];
  const parents = new Map<number, { parent: number; name: string }>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8');
      const close = stat.lastIndexOf(')');
      const [state, ppid] = stat.slice(close + 2).split(' ');
      if (state !== 'Z') parents.set(Number(entry), { parent: Number(ppid), name: stat.slice(stat.indexOf('(') + 1, close) });
    } catch {
      // Ended meanwhile.
    }
  }
  for (const [pid, { name }] of parents) {
    if (!names.includes(name)) continue;
    for (let at: number | undefined = pid; at !== undefined && at > 1; at = parents.get(at)?.parent) {
      if (at !== parent) continue;
      found.push({ pid, name });
      break;
    }
  }
  return found;
}

export async function uploadsIn(context: Context): Promise<number> {
  const store = context.config.stores['main']!;
  if (store.type !== 's3') throw new Error('an S3 store is needed');
  const client = s3Client(suite().s3);
  try {
    return (await client.send(new ListMultipartUploadsCommand({ Bucket: store.bucket }))).Uploads?.length ?? 0;
  } finally {
    client.destroy();
  }
}

/** But the records that runs leave for compliance: they are no part of a backup. */
export async function keysIn(context: Context): Promise<string[]> {
  const store = context.config.stores['main']!;
  if (store.type !== 's3') throw new Error('an S3 store is needed');
  const client = s3Client(suite().s3);
  try {
    return ((await client.send(new ListObjectsV2Command({ Bucket: store.bucket }))).Contents ?? []).map((object) => object.Key!).filter((key) => !/(^|\/)runs\//.test(key));
  } finally {
    client.destroy();
  }
}

/** What must hold after every failure. `direct` reaches the store without the broken proxy. */
export async function expectNothingLeft(direct: Context, server: PostgresServer, committedBefore = 0): Promise<void> {
  await reapOrphans(direct, 'shop', 0, Date.now() + 60_000);
  expect(await uploadsIn(direct), 'uploads that never ended').toBe(0);
  const keys = await keysIn(direct);
  expect(keys.filter((key) => key.endsWith('/COMMIT')), 'committed backups').toHaveLength(committedBefore);
  expect(new Set(keys.map((key) => key.slice(0, key.lastIndexOf('/')))).size, 'folders in the store').toBe(committedBefore);
  expect(childrenNamed(['pg_dump', 'pg_restore', 'pg_dumpall', 'psql']), 'children').toEqual([]);
  await expect.poll(() => sessions(server), { timeout: 30_000, interval: 100 }).toEqual([]);
}

/** The server sees the end of a connection a moment after we closed it; a session that stays is the failure. */
async function sessions(server: PostgresServer): Promise<unknown[]> {
  return queryOnce(server.connectionString('postgres'), "select pid, state, application_name, query from pg_stat_activity where application_name like 'holdfast backup%' and state <> 'disabled'");
}

/** The real tools, but for pg_dump, which is this script; `$REAL` in it is the real one. */
export function binDirectoryWith(script: string): string {
  const real = suite().postgres.binDirectory;
  const directory = testDirectory('bin');
  for (const tool of ['pg_restore', 'pg_dumpall', 'psql']) symlinkSync(join(real, tool), join(directory, tool));
  writeFileSync(join(directory, 'pg_dump'), `#!/bin/bash\nREAL=${join(real, 'pg_dump')}\n${script}\n`);
  chmodSync(join(directory, 'pg_dump'), 0o755);
  execFileSync(join(directory, 'pg_dump'), ['--version']);
  return directory;
}

export interface BreakingProxy {
  readonly endpoint: string;
  /** How the next requests are answered: a status, or undefined to pass them on. */
  answer: (request: IncomingMessage) => number | undefined;
  readonly refused: () => number;
  close(): Promise<void>;
}

/** An HTTP proxy in front of the real store that answers what it is told to. */
export async function startBreakingProxy(upstream: string): Promise<BreakingProxy> {
  const target = new URL(upstream);
  let refused = 0;
  const proxy = { answer: (() => undefined) as BreakingProxy['answer'] };
  const server = createServer((request, response) => {
    const status = proxy.answer(request);
    if (status !== undefined) {
      refused += 1;
      request.resume();
      request.on('end', () => response.writeHead(status, { 'content-type': 'application/xml' }).end('<Error><Code>InternalError</Code><Message>planted</Message></Error>'));
      return;
    }
    const forward = httpRequest({ host: target.hostname, port: target.port, method: request.method, path: request.url, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(response);
    });
    forward.on('error', () => response.destroy());
    request.pipe(forward);
  });
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get answer() {
      return proxy.answer;
    },
    set answer(value) {
      proxy.answer = value;
    },
    refused: () => refused,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
