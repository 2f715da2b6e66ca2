import type { MongoClient, MongoClientOptions } from 'mongodb';
import type { Config, MongodbDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { topologyOf, type Hello } from '../model/mongodb-snapshot.ts';
import { engineOf, type Context } from './context.ts';

/** Servers as they are talked to. The password stands in this object only, never in `uri`. */
export interface MongodbTarget {
  /** For people: `MongoDB shop at a:27017,b:27017`. */
  readonly what: string;
  readonly uri: string;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly authSource?: string | undefined;
  readonly tls?: { readonly ca?: string | undefined; readonly certificate?: string | undefined } | undefined;
}

export interface MongodbFacts {
  readonly hosts: readonly string[];
  readonly topology: 'standalone' | 'replica set' | 'sharded';
  readonly replicaSet: string | null;
  readonly serverVersion: string;
  readonly hello: Hello;
  /** The member that was asked takes writes. */
  readonly primary: boolean;
  /** mongod or mongos; another server that speaks its protocol says so in buildInfo. */
  readonly genuine: boolean;
}

const CONNECT_MS = 10_000;
/** A server that says nothing for this long is taken for gone; index builds have no such limit. */
const SILENCE_MS = 120_000;

export function mongodbOf(config: Config, name: string): MongodbDatastore {
  return engineOf(config, name, 'mongodb');
}

export async function mongodbTarget(context: Context, name: string): Promise<MongodbTarget> {
  const { uri, username, password, authSource, tls } = mongodbOf(context.config, name);
  return { what: `MongoDB ${name} at ${hostsOf(uri).join(',')}`, uri, username, password: password === undefined ? undefined : await context.secrets.resolve(password), authSource, tls };
}

/** `host:port` of each member named in a URI, without what follows them. */
export function hostsOf(uri: string): string[] {
  const hosts = /^mongodb(?:\+srv)?:\/\/(?:[^@/?]*@)?([^/?]*)/.exec(uri)?.[1] ?? '';
  const srv = uri.startsWith('mongodb+srv:');
  return hosts.split(',').filter((host) => host !== '').map((host) => (srv || /:\d+$/.test(host) ? host : `${host}:27017`).toLowerCase());
}

/** Connect, work, and always disconnect; an abort closes every connection. @throws HoldfastError `mongodb-connect`, `mongodb-command`, `mongodb-denied` */
export async function withMongodb<T>(target: MongodbTarget, work: (client: MongoClient) => Promise<T>, options: { readonly signal?: AbortSignal | undefined; readonly connections?: number; readonly appName?: string } = {}): Promise<T> {
  const { signal } = options;
  signal?.throwIfAborted();
  const client = await openMongodb(target, options);
  const onAbort = (): void => void client.close(true).catch(() => {});
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await connected(client, target);
    return await work(client);
  } catch (error) {
    signal?.throwIfAborted();
    throw mongodbError(target, error);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    await client.close(true).catch(() => {});
  }
}

async function openMongodb(target: MongodbTarget, options: { readonly connections?: number; readonly appName?: string }): Promise<MongoClient> {
  const { MongoClient } = await import('mongodb');
  const { username, password, tls } = target;
  const settings: MongoClientOptions = {
    appName: options.appName ?? 'holdfast',
    ...unlessSaid(target.uri, { serverSelectionTimeoutMS: CONNECT_MS, connectTimeoutMS: CONNECT_MS, socketTimeoutMS: SILENCE_MS }), maxPoolSize: options.connections ?? 4,
    // Retries are ours: a batch is asked for before it is sent again.
    retryWrites: false,
    // Whatever the URI says: definitions, and what a restore looks for, are those of the primary. backup.from is said where it holds.
    readPreference: 'primary',
    ...(username === undefined ? {} : { auth: { username, password: password ?? '' }, authSource: target.authSource ?? 'admin' }),
    ...(tls === undefined ? {} : { tls: true, ...(tls.ca === undefined ? {} : { tlsCAFile: tls.ca }), ...(tls.certificate === undefined ? {} : { tlsCertificateKeyFile: tls.certificate }) }),
  };
  try {
    return new MongoClient(target.uri, settings);
  } catch (error) {
    throw new HoldfastError('mongodb-connect', `${target.what}: the URI or its options cannot be used: ${messageOf(error)}`, { next: 'correct uri of the datastore', cause: error });
  }
}

/** What stands in the URI goes before what is said here. */
function unlessSaid<T extends object>(uri: string, settings: T): Partial<T> {
  return Object.fromEntries(Object.entries(settings).filter(([key]) => !new RegExp(`[?&]${key}=`, 'i').test(uri))) as Partial<T>;
}

async function connected(client: MongoClient, target: MongodbTarget): Promise<void> {
  try {
    await client.connect();
  } catch (error) {
    throw connectError(target, error);
  }
}

function connectError(target: MongodbTarget, error: unknown): HoldfastError {
  const text = messageOf(error);
  const refused = codeOf(error) === 18 || /auth|certificate|altnames|self.signed|ENOENT/i.test(text);
  return new HoldfastError('mongodb-connect', `${target.what} cannot be reached: ${text}`, {
    retryable: !refused,
    next: refused ? 'check username, password reference, authSource and tls' : 'check that the servers run and that this worker reaches them',
    cause: error,
  });
}

const UNAUTHORIZED = 13;
/** Unauthorized, AuthenticationFailed. */
const DENIED = new Set([UNAUTHORIZED, 18]);
/** Not by doing the same again: NamespaceNotFound .. are named where they matter. */
const HOPELESS = new Set([2, 9, 14, 59, 73, 79, 100, 115, 121, 238, 11000, 40415]);

/** What any call of the driver threw, as people and Temporal need it. Driver errors name hosts, never passwords. */
export function mongodbError(target: MongodbTarget, error: unknown): Error {
  if (error instanceof HoldfastError) return error;
  const name = error instanceof Error ? error.name : '';
  if (name === 'MongoServerSelectionError') return connectError(target, error);
  if (!name.startsWith('Mongo')) return error instanceof Error ? error : new Error(String(error));
  const code = codeOf(error);
  const text = `${target.what}: ${messageOf(error)}${code === undefined ? '' : ` (code ${code})`}`;
  if (code !== undefined && DENIED.has(code)) return new HoldfastError('mongodb-denied', text, { next: 'give the user the built-in role backup on admin (to read), and backup and restore (to restore)', cause: error, context: { code } });
  const retryable = code === undefined ? !/Parse|InvalidArgument|API/.test(name) : !HOPELESS.has(code);
  return new HoldfastError('mongodb-command', text, { retryable, next: retryable ? 'look at the log of the server; the next attempt goes on' : 'see the message above', cause: error, context: code === undefined ? {} : { code } });
}

/** The server's error code, also behind our own error. */
export function codeOf(error: unknown): number | undefined {
  if (error instanceof HoldfastError) return typeof error.context['code'] === 'number' ? error.context['code'] : undefined;
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'number' ? code : undefined;
}

/** The connection went, or the server changed its role: the answer is not known. */
export function answerLost(error: unknown): boolean {
  const name = error instanceof Error ? error.name : '';
  const labels = (error as { hasErrorLabel?: (label: string) => boolean } | null)?.hasErrorLabel;
  if (/^Mongo(Network|NetworkTimeout|ServerSelection|PoolCleared|ServerClosed)/.test(name)) return true;
  if (typeof labels === 'function' && (labels.call(error, 'RetryableWriteError') || labels.call(error, 'RetryableError'))) return true;
  const code = codeOf(error);
  return code !== undefined && roleChanged(code);
}

/** HostUnreachable .. PrimarySteppedDown, NotWritablePrimary and others: another member answers next. */
export function roleChanged(code: number): boolean {
  return [6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436].includes(code);
}

export async function factsOf(client: MongoClient): Promise<MongodbFacts> {
  const admin = client.db('admin');
  const hello = (await admin.command({ hello: 1 })) as Record<string, unknown>;
  const build = (await admin.command({ buildInfo: 1 })) as Record<string, unknown>;
  const seen: Hello = { setName: textOf(hello['setName']), msg: textOf(hello['msg']), maxWireVersion: Number(hello['maxWireVersion'] ?? 0) };
  const members = Array.isArray(hello['hosts']) ? hello['hosts'].map(String) : client.options.hosts.map(String);
  return { hosts: members.map((host) => host.toLowerCase()), topology: topologyOf(seen), replicaSet: seen.setName ?? null, serverVersion: textOf(build['version']) ?? 'unknown', hello: seen, primary: hello['secondary'] !== true, genuine: !Object.keys(build).some((key) => /ferret|documentdb|cosmos/i.test(key)) };
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/**
 * Databases on the server, those of the server itself too; all of them, or an error: a user without the right to list them is shown only what
 * it may read unless it is asked for this way, and whoever trusts that leaves whole databases out.
 * @throws HoldfastError `mongodb-denied`
 */
export async function databasesOf(client: MongoClient): Promise<string[]> {
  try {
    const answer = (await client.db('admin').command({ listDatabases: 1, nameOnly: true, authorizedDatabases: false })) as { databases: { name: string }[] };
    return answer.databases.map(({ name }) => name).sort();
  } catch (error) {
    if (codeOf(error) !== UNAUTHORIZED) throw error;
    throw new HoldfastError('mongodb-denied', `the user may not list all databases of the server, so nobody could say that none is left out: ${messageOf(error)}`, { next: 'give the user the built-in role backup on admin (it has listDatabases), or name the databases under backup.include without *', cause: error, context: { code: UNAUTHORIZED } });
  }
}
