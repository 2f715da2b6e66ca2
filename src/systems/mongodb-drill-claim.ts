import type { MongoClient } from 'mongodb';
import { HoldfastError } from '../model/errors.ts';
import type { MongodbManifest } from '../model/manifest-mongodb.ts';
import { MARKER_DATABASE, qualified } from '../model/mongodb-selection.ts';
import { sameMajor } from '../model/mongodb-version.ts';
import { codeOf, type MongodbFacts } from './mongodb.ts';

// Drills of several datastores, and of several workers, may be given one server. Whose it is stands in the server itself.

const COLLECTION = 'drill';
const ID = 'drill';
const DUPLICATE_KEY = 11000;
const SERVER_DATABASES = new Set(['admin', 'local', 'config']);

interface Claim {
  readonly _id: string;
  /** Name of the drill target, which follows from the run. */
  readonly target: string;
  /** To drop when the drill ends. */
  readonly databases: readonly string[];
  /** Of databases of the server itself, which are never dropped. */
  readonly collections: readonly { readonly database: string; readonly name: string }[];
  readonly at: Date;
}

/** @throws HoldfastError `drill-target-busy`, `drill-target-unfit` */
export async function claimServer(client: MongoClient, what: string, target: string, { fingerprint }: Pick<MongodbManifest, 'fingerprint'>): Promise<void> {
  const all = [...fingerprint.collections, ...fingerprint.views];
  const collections = all.filter(({ database }) => SERVER_DATABASES.has(database)).map(({ database, name }) => ({ database, name }));
  const system = collections.find(({ name }) => name.startsWith('system.'));
  if (system !== undefined) throw new HoldfastError('drill-target-unfit', `the backup holds ${qualified(system)}, which belongs to the server itself and could not be taken off ${what} again`, { next: 'drill it with drill.server, or exclude that collection' });
  const databases = [...new Set(all.map(({ database }) => database))].filter((name) => !SERVER_DATABASES.has(name)).sort();
  try {
    await client.db(MARKER_DATABASE).collection<Claim>(COLLECTION).insertOne({ _id: ID, target, databases, collections, at: new Date() });
  } catch (error) {
    if (codeOf(error) !== DUPLICATE_KEY) throw error;
    const other = await client.db(MARKER_DATABASE).collection<Claim>(COLLECTION).findOne({ _id: ID });
    throw new HoldfastError('drill-target-busy', `${what} is in use by drill ${other?.target ?? 'that has just ended'}${other === null ? '' : `, since ${other.at.toISOString()}`}`, {
      retryable: true, next: other === null ? 'try again' : `wait for its end. When that drill does not run any more and its host is lost, drop on that server ${[...other.databases, ...other.collections.map(qualified), MARKER_DATABASE].join(', ')}`,
    });
  }
}

/** What the drill of this name restored, and at the end its claim. Of another drill nothing. @returns whether there was anything. */
export async function releaseServer(client: MongoClient, target: string): Promise<boolean> {
  const claim = await client.db(MARKER_DATABASE).collection<Claim>(COLLECTION).findOne({ _id: ID });
  if (claim?.target !== target) return false;
  for (const database of claim.databases) if (!SERVER_DATABASES.has(database)) await client.db(database).dropDatabase();
  for (const { database, name } of claim.collections) await client.db(database).collection(name).drop();
  await client.db(MARKER_DATABASE).dropDatabase();
  return true;
}

/** Of a claim that was just made; nothing else is touched. */
export async function giveUpClaim(client: MongoClient): Promise<void> {
  await client.db(MARKER_DATABASE).collection(COLLECTION).drop();
}

/** @throws HoldfastError `drill-target-gone` when it is not this drill's any more. */
export async function checkClaim(client: MongoClient, target: string): Promise<void> {
  const claim = await client.db(MARKER_DATABASE).collection<Claim>(COLLECTION).findOne({ _id: ID });
  if (claim?.target !== target) throw new HoldfastError('drill-target-gone', `drill target ${target} is gone: its server is not claimed for it any more`, { next: 'the drill starts over with a new target' });
}

export type ExpiryMonitor = 'off' | 'on' | 'unknown';

/** Whether the server deletes documents whose time has come. */
export async function expiryMonitorOf(client: MongoClient): Promise<ExpiryMonitor> {
  const answer: Record<string, unknown> = await client.db('admin').command({ getParameter: 1, ttlMonitorEnabled: 1 }).catch(() => ({}));
  return answer['ttlMonitorEnabled'] === true ? 'on' : answer['ttlMonitorEnabled'] === false ? 'off' : 'unknown';
}

export function hasExpiringIndex({ fingerprint }: Pick<MongodbManifest, 'fingerprint'>): boolean {
  return fingerprint.collections.some(({ indexes, options }) => options.includes('"expireAfterSeconds"') || indexes.some(({ text }) => text.includes('"expireAfterSeconds"')));
}

/**
 * What would make a good backup look bad is found before it is restored.
 * @throws HoldfastError `drill-target-version`, `drill-target-expiry`
 */
export function checkFit(what: string, facts: Pick<MongodbFacts, 'genuine' | 'serverVersion'>, monitor: ExpiryMonitor, manifest: Pick<MongodbManifest, 'fingerprint' | 'source'>): void {
  if (facts.genuine && sameMajor(facts.serverVersion, manifest.source.serverVersion) === false) {
    throw new HoldfastError('drill-target-version', `${what} is of version ${facts.serverVersion}, and the backup is of a server of version ${manifest.source.serverVersion}: another version may refuse or rewrite what it holds, which would say nothing about the backup`, { next: 'drill with a server of the same major version, by drill.server or drill.uri' });
  }
  if (monitor === 'on' && hasExpiringIndex(manifest)) {
    throw new HoldfastError('drill-target-expiry', `${what} deletes documents whose time has come, and the backup has indexes that let documents expire: they would be missing when it is compared`, { next: 'start that server with --setParameter ttlMonitorEnabled=false' });
  }
}
