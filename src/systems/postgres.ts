import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { unknownName, type Context } from './context.ts';

/** Where and as whom to connect. The password never leaves this object but through `pg` or a child's environment. */
export interface PostgresTarget {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
  readonly sslmode: PostgresDatastore['admin']['sslmode'];
  readonly sslrootcert?: string;
}

export interface ConnectOptions {
  readonly applicationName?: string;
  /** Default 5000 ms. */
  readonly connectTimeoutMs?: number;
  /** Server-side limit for a statement; 0 or undefined: none. */
  readonly statementTimeoutMs?: number;
  /** Client-side limit for an answer: a dead network is noticed without the server's help. */
  readonly queryTimeoutMs?: number;
}

/** The administrative target of one node. */
export async function adminTarget(context: Context, datastore: PostgresDatastore, node: string, database = datastore.database): Promise<PostgresTarget> {
  const found = datastore.nodes[node];
  if (found === undefined) throw unknownName('node', node, Object.keys(datastore.nodes));
  return {
    host: found.host,
    port: found.port,
    user: datastore.admin.username,
    password: await context.secrets.resolve(datastore.admin.password),
    database,
    sslmode: datastore.admin.sslmode,
    sslrootcert: datastore.admin.sslrootcert,
  };
}

/** A connected client. @throws HoldfastError `postgres-connect`, retryable unless the server refused the login. */
export async function connectPostgres(target: PostgresTarget, options: ConnectOptions = {}): Promise<pg.Client> {
  const client = new pg.Client({
    host: target.host,
    port: target.port,
    user: target.user,
    password: target.password,
    database: target.database,
    application_name: options.applicationName ?? 'holdfast',
    connectionTimeoutMillis: options.connectTimeoutMs ?? 5000,
    statement_timeout: options.statementTimeoutMs || undefined,
    query_timeout: options.queryTimeoutMs,
    keepAlive: true,
    ssl: sslOf(target),
  });
  client.on('error', () => {}); // A lost idle connection shows in the next query; it must not end the worker.
  try {
    await client.connect();
    return client;
  } catch (error) {
    void client.end().catch(() => {});
    throw connectError(target, error);
  }
}

/** Connect, work, and always disconnect. */
export async function withPostgres<T>(target: PostgresTarget, work: (client: pg.Client) => Promise<T>, options: ConnectOptions = {}): Promise<T> {
  const client = await connectPostgres(target, options);
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

function sslOf(target: PostgresTarget): pg.ClientConfig['ssl'] {
  if (target.sslmode === 'disable') return false;
  const ca = target.sslrootcert === undefined ? {} : { ca: readFileSync(target.sslrootcert, 'utf8') };
  if (target.sslmode === 'require') return { rejectUnauthorized: false, ...ca };
  // verify-ca checks the chain only, verify-full the name too.
  return target.sslmode === 'verify-ca' ? { rejectUnauthorized: true, checkServerIdentity: () => undefined, ...ca } : { rejectUnauthorized: true, ...ca };
}

/** SQLSTATEs after which another attempt with the same credentials cannot help. */
const REFUSED = new Set(['28P01', '28000', '3D000', '42501']);

export function connectError(target: PostgresTarget, error: unknown): HoldfastError {
  const code = (error as { code?: string }).code;
  const refused = code !== undefined && REFUSED.has(code);
  return new HoldfastError('postgres-connect', `PostgreSQL at ${target.host}:${target.port} (database ${target.database}, user ${target.user}) cannot be reached: ${messageOf(error)}`, {
    retryable: !refused,
    next: refused ? 'check the user, the password the secret reference gives, the database name and pg_hba.conf' : 'check that the server runs and that this worker reaches its address',
    context: { sqlstate: code },
    cause: error,
  });
}

/** Environment for libpq tools: the password goes here and never into argv. */
export function libpqEnvironment(target: PostgresTarget, applicationName = 'holdfast'): Record<string, string> {
  return {
    PGHOST: target.host,
    PGPORT: String(target.port),
    PGUSER: target.user,
    PGPASSWORD: target.password,
    PGDATABASE: target.database,
    PGSSLMODE: target.sslmode,
    ...(target.sslrootcert === undefined ? {} : { PGSSLROOTCERT: target.sslrootcert }),
    PGAPPNAME: applicationName,
    PGCONNECT_TIMEOUT: '10',
    PGCLIENTENCODING: 'UTF8',
  };
}

/** Path of a PostgreSQL client tool: from the configured folder, else from PATH. */
export function postgresTool(datastore: Pick<PostgresDatastore, 'binDirectory'> | undefined, tool: string): string {
  return datastore?.binDirectory === undefined ? tool : join(datastore.binDirectory, tool);
}

/** A quoted identifier. */
export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
