import { HoldfastError } from './errors.ts';
import type { MongodbSelection } from './manifest-mongodb.ts';

/** What `listCollections` says of one namespace. */
export interface Namespace {
  readonly database: string;
  readonly name: string;
  readonly type: string;
  readonly options: Readonly<Record<string, unknown>>;
}

export interface Names {
  readonly databases: readonly string[];
  readonly collections: readonly string[];
}

/** Of the server itself. */
const SERVER_DATABASES = new Set(['admin', 'local', 'config']);
/** A restore under way leaves its mark there; see mongodb-restore.ts. */
export const MARKER_DATABASE = 'holdfast_restore';
/** What the server keeps views and time series in: never restored by itself. */
const INTERNAL = /^system\.(views|buckets\..*|profile|indexes|namespaces)$/;

export function qualified({ database, name }: { readonly database: string; readonly name: string }): string {
  return `${database}.${name}`;
}

/** The databases that can be selected, where every name under include is exact; undefined: the server must list them. */
export function exactDatabases(include: Names): string[] | undefined {
  const named = [...include.databases, ...include.collections.map((pattern) => pattern.slice(0, pattern.indexOf('.')))];
  return named.length === 0 || named.some((name) => name.includes('*')) ? undefined : [...new Set(named)].sort();
}

/** Also for `listDatabases`: whether any of its collections can be selected at all. */
export function mayHold(database: string, include: Names, exclude: Names): boolean {
  if (database === MARKER_DATABASE || exclude.databases.some((pattern) => matches(pattern, database))) return false;
  const named = [...include.databases, ...include.collections.map((pattern) => pattern.slice(0, pattern.indexOf('.')))];
  if (named.length === 0) return !SERVER_DATABASES.has(database);
  return named.some((pattern) => (SERVER_DATABASES.has(database) ? pattern === database : matches(pattern, database)));
}

/**
 * The collections and views that belong to a backup, in a fixed order. Nothing is left out in silence: what cannot be put back and
 * proved is refused by name, and a name that selects nothing is an error.
 * @throws HoldfastError `selection-empty`, `selection-unmatched`, `collection-unsupported`
 */
export function selectNamespaces(all: readonly Namespace[], include: Names, exclude: Names): { collections: Namespace[]; views: Namespace[] } {
  const used = new Set<string>();
  const chosen = all.filter((namespace) => {
    const { database, name } = namespace;
    if (!mayHold(database, include, exclude)) return false;
    const full = qualified(namespace);
    const byCollection = include.collections.filter((pattern) => matches(pattern, full));
    const byDatabase = include.databases.filter((pattern) => matches(pattern, database));
    const everything = include.collections.length + include.databases.length === 0;
    // System collections only where somebody asked for them by their own name.
    const system = name.startsWith('system.');
    const wanted = system ? include.collections.includes(full) : everything || byCollection.length + byDatabase.length > 0;
    if (!wanted) return false;
    for (const pattern of [...byCollection, ...byDatabase]) used.add(pattern);
    return !exclude.collections.some((pattern) => matches(pattern, full));
  });
  const unmatched = [...include.databases, ...include.collections].filter((pattern) => !used.has(pattern));
  if (unmatched.length > 0) throw new HoldfastError('selection-unmatched', `nothing on the server matches ${unmatched.join(', ')} of backup.include`, { next: 'correct the names under backup.include; a backup that lacks what it names is refused' });
  if (chosen.length === 0) throw new HoldfastError('selection-empty', `nothing is selected for the backup; the server has ${all.length === 0 ? 'no collections' : all.slice(0, 5).map(qualified).join(', ')}`, { next: 'correct backup.include and backup.exclude, and look whether this is the right server' });
  const unsupported = chosen.flatMap((namespace) => {
    const why = unsupportedBecause(namespace);
    return why === undefined ? [] : [`${qualified(namespace)} (${why})`];
  });
  if (unsupported.length > 0) throw new HoldfastError('collection-unsupported', `these cannot be backed up so that a restore could be proved: ${unsupported.join(', ')}`, { next: 'back them up by other means and name them under backup.exclude.collections' });
  const sorted = [...chosen].sort((a, b) => (qualified(a) < qualified(b) ? -1 : 1));
  return { collections: sorted.filter(({ type }) => type !== 'view'), views: sorted.filter(({ type }) => type === 'view') };
}

function unsupportedBecause({ database, name, type, options }: Namespace): string | undefined {
  if (type === 'timeseries' || options['timeseries'] !== undefined) return 'a time-series collection: its documents are put together anew by each server';
  if (INTERNAL.test(name)) return 'kept by the server itself; views and time series bring their own';
  if (options['encryptedFields'] !== undefined) return 'queryable encryption: its documents belong to hidden collections';
  if (name.startsWith('enxcol_.')) return 'a hidden collection of queryable encryption';
  if (type !== 'collection' && type !== 'view') return `of type ${type}, which is not known here`;
  if (database === 'local' || database === 'config') return 'of the server itself';
  return undefined;
}

/** `*` stands for any characters, all else for itself. */
function matches(pattern: string, text: string): boolean {
  const source = pattern.split('*').map((part) => part.replaceAll(/[.+?^${}()|[\]\\]/g, String.raw`\$&`)).join('.*');
  return new RegExp(`^${source}$`, 'su').test(text);
}

export function selectionOf({ include, exclude }: { include: Names; exclude: Names }): MongodbSelection {
  const copy = ({ databases, collections }: Names): { databases: string[]; collections: string[] } => ({ databases: [...databases], collections: [...collections] });
  const complete = [include, exclude].every((names) => names.databases.length + names.collections.length === 0);
  return { complete, include: copy(include), exclude: copy(exclude) };
}

/** Longer ones are cut off and told apart by a hash, since a file name has 255 bytes at most, `.metadata.json.gz` included. */
const LONGEST = 238;

/** What objects of a backup add to it at most: `.metadata.json.zst.age`. */
const LONGEST_ENDING = 22;
const LONGEST_FILE_NAME = 255;

/**
 * The name of a collection's objects in a store, without endings: that of mongodump, unless a folder could not hold it.
 * @param escaped what `escapedName` gives
 * @param digest hex of the collection's name
 */
export function objectName(escaped: string, digest: string): string {
  // No escaped name has `%~` in it.
  return escaped.length + LONGEST_ENDING <= LONGEST_FILE_NAME ? escaped : `${escaped.slice(0, 180)}%~${digest.slice(0, 24)}`;
}

/**
 * The file name that mongodump gives a collection, without its ending.
 * @param sha1 base64url, without padding, of the name's SHA-1
 */
export function escapedName(collection: string, sha1: (text: string) => string): string {
  // What Go's url.PathEscape leaves as it is.
  const escaped = [...new TextEncoder().encode(collection)].map((byte) => (/[A-Za-z0-9\-_.~$&+=:@]/.test(String.fromCharCode(byte)) && byte < 0x80 ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`)).join('');
  return escaped.length <= LONGEST ? escaped : `${escaped.slice(0, 208)}%24${sha1(collection)}`;
}
