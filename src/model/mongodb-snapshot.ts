/**
 * Reading many collections as of one moment: `readConcern: {level: snapshot}` outside transactions, of MongoDB 5.0 and newer. The first
 * read is given a cluster time, all others ask for it. Servers keep that much history for a while only (300 s by default).
 */
export interface ClusterTime {
  readonly seconds: number;
  readonly increment: number;
}

/** Wire version of MongoDB 5.0. */
const FIRST_WIRE_VERSION = 13;
/** SnapshotUnavailable, SnapshotTooOld: what happened since then, or that moment itself, is not there any more. */
const GONE = new Set([246, 239]);
/** InvalidOptions, CommandNotSupported, NotAReplicaSet, ReadConcernMajorityNotEnabled and others: this server never will. */
const NOT_OFFERED = new Set([72, 115, 123, 148, 9, 40415, 238, 20]);

export interface Hello {
  readonly setName?: string | undefined;
  readonly msg?: string | undefined;
  readonly maxWireVersion: number;
}

export function topologyOf({ setName, msg }: Hello): 'standalone' | 'replica set' | 'sharded' {
  if (msg === 'isdbgrid') return 'sharded';
  return setName === undefined ? 'standalone' : 'replica set';
}

/** Why a server has no snapshot for us; undefined: it may have one. */
export function noSnapshotBecause(hello: Hello): string | undefined {
  if (topologyOf(hello) === 'standalone') return 'the server is no member of a replica set, so it cannot show several collections as of one moment';
  if (hello.maxWireVersion < FIRST_WIRE_VERSION) return 'the server is older than MongoDB 5.0, which cannot show several collections as of one moment';
  return undefined;
}

/** The read concern of every read of one snapshot; of the first one, which is given its time, without `at`. */
export function snapshotConcern<T>(at: T | undefined): { level: 'snapshot'; atClusterTime?: T } {
  return at === undefined ? { level: 'snapshot' } : { level: 'snapshot', atClusterTime: at };
}

/** SnapshotUnavailable: of a capped collection, what MongoDB 5.0 to 7.x always answer. */
export function hasNoMoments(code: number | undefined): boolean {
  return code === 246;
}

/** What an error of a snapshot read means. */
export function snapshotVerdict(code: number | undefined): 'gone' | 'not-offered' | 'other' {
  if (code === undefined) return 'other';
  return GONE.has(code) ? 'gone' : NOT_OFFERED.has(code) ? 'not-offered' : 'other';
}

/**
 * What a later attempt may go on with. A collection that was read at another moment than the one that holds now is read again; one that was
 * read after the moment was lost means that it is lost for the whole backup.
 * @param moment of the backup; null: each collection by itself
 */
export function usableOf<T extends { readonly atClusterTime: string | null; readonly alone?: boolean | undefined }>(moment: string | null, done: readonly T[]): { readonly usable: T[]; readonly lost: boolean } {
  const usable = done.filter(({ atClusterTime }) => atClusterTime === null || atClusterTime === moment);
  return { usable, lost: moment !== null && usable.some(({ atClusterTime, alone }) => atClusterTime === null && alone !== true) };
}

export const SNAPSHOT_GONE_NEXT = 'let the servers keep more history: setParameter minSnapshotHistoryWindowInSeconds must be longer than the backup takes';

export function clusterTimeText({ seconds, increment }: ClusterTime): string {
  return `${seconds},${increment}`;
}

export function parseClusterTime(text: string): ClusterTime {
  const [seconds, increment] = text.split(',').map(Number);
  if (!Number.isInteger(seconds) || !Number.isInteger(increment)) throw new RangeError(`"${text}" is no cluster time`);
  return { seconds: seconds!, increment: increment! };
}
