import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import type { Collection, MongoClient } from 'mongodb';
import { HoldfastError } from '../model/errors.ts';
import { MARKER_DATABASE } from '../model/mongodb-selection.ts';
import { answerLost, codeOf } from './mongodb.ts';

// The mark of a restore under way, in the target itself: which backup it is of, and who is at it. Only inserts, finds and the drop of its
// collection: the roles backup and restore have no update. Times are the server's, so that clocks of two hosts need not agree.

const COLLECTION = 'under_way';
/** Where mongodb-restore.ts waits for the members. */
export const WRITTEN = 'written';
const DUPLICATE_KEY = 11000;
const NAMESPACE_NOT_FOUND = 26;
const CONCERN_MS = 10_000;
const TRIES = 5;

export interface LeaseTimes {
  readonly renewMs: number;
  /** An owner that was not heard of for so long is taken for dead. */
  readonly freshMs: number;
  /** Between two looks at another's lease. */
  readonly pollMs: number;
}

export const LEASE_TIMES: LeaseTimes = { renewMs: 15_000, freshMs: 75_000, pollMs: 2000 };

/** `restore`: the backup. `owner <n>`: who took it as nth. `beat <n> <k>`: that one lives. `left <n>`: that one has stopped by itself. */
interface Entry {
  readonly _id: string;
  readonly kind: 'restore' | 'owner' | 'beat' | 'left';
  readonly n?: number;
  readonly owner?: string;
  readonly backup?: string;
  readonly at: Date;
}

export interface RestoreLease {
  /** Aborts when somebody else has taken over. */
  readonly signal: AbortSignal;
  /** The backup whose restore was begun here before us and not ended. */
  readonly begun: string | undefined;
  mark(backup: string): Promise<void>;
  /** The target is whole, or nothing was changed: nothing of the mark stays. */
  end(): Promise<void>;
  /** The mark stays; whoever comes next need not wait. Never throws. */
  leave(): Promise<void>;
}

function entriesOf(client: MongoClient): Collection<Entry> {
  return client.db(MARKER_DATABASE).collection<Entry>(COLLECTION);
}

/** The backup whose restore was begun here and not ended. */
export async function interruptedRestore(client: MongoClient): Promise<string | undefined> {
  return (await entriesOf(client).findOne({ _id: 'restore' }))?.backup;
}

async function nowOf(client: MongoClient): Promise<Date> {
  const { localTime } = (await client.db('admin').command({ hello: 1 })) as { localTime?: Date };
  return localTime ?? new Date();
}

/** After a lost answer it is looked for before it is sent again. @returns false: another one is there already. */
async function insert(client: MongoClient, entry: Omit<Entry, 'at'>): Promise<boolean> {
  const { _id, owner } = entry;
  for (let attempt = 1; ; attempt += 1) {
    try {
      if (attempt > 1) {
        const there = await entriesOf(client).findOne({ _id });
        if (there !== null) return there.owner === owner;
      }
      await entriesOf(client).insertOne({ ...entry, at: await nowOf(client) }, { writeConcern: { w: 'majority', wtimeoutMS: CONCERN_MS } });
      return true;
    } catch (error) {
      // It is in, on fewer members; a target that cannot do more than restore.writeConcern asks for is restored too.
      if (error instanceof Error && error.name === 'MongoWriteConcernError') return true;
      if (codeOf(error) === DUPLICATE_KEY) return false;
      if (!answerLost(error) || attempt >= TRIES) throw error;
      await pause(50 * 2 ** attempt);
    }
  }
}

async function drop(client: MongoClient, name: string): Promise<void> {
  await client.db(MARKER_DATABASE).collection(name).drop().catch((error: unknown) => {
    if (codeOf(error) !== NAMESPACE_NOT_FOUND) throw error;
  });
}

/** Waits while somebody else's restore into this server lives. The first insert of an owner's number wins. */
export async function takeLease(client: MongoClient, options: { readonly signal?: AbortSignal | undefined; readonly onWait?: ((backup: string | undefined) => void) | undefined; readonly times?: LeaseTimes | undefined }): Promise<RestoreLease> {
  const times = options.times ?? LEASE_TIMES;
  const owner = randomBytes(8).toString('hex');
  for (;;) {
    options.signal?.throwIfAborted();
    const entries = await entriesOf(client).find().toArray();
    const n = Math.max(0, ...entries.map((entry) => entry.n ?? 0));
    const heard = Math.max(0, ...entries.filter((entry) => entry.n === n && (entry.kind === 'owner' || entry.kind === 'beat')).map(({ at }) => at.getTime()));
    const free = n === 0 || entries.some((entry) => entry.n === n && entry.kind === 'left') || (await nowOf(client)).getTime() - heard > times.freshMs;
    if (free && (await insert(client, { _id: `owner ${n + 1}`, kind: 'owner', n: n + 1, owner }))) return leaseOf(client, n + 1, owner, times, await interruptedRestore(client));
    options.onWait?.(entries.find(({ kind }) => kind === 'restore')?.backup);
    await pause(times.pollMs, undefined, options.signal === undefined ? {} : { signal: options.signal });
  }
}

function leaseOf(client: MongoClient, n: number, owner: string, times: LeaseTimes, begun: string | undefined): RestoreLease {
  const stop = new AbortController();
  const lost = new AbortController();
  const isOurs = async (): Promise<boolean> => (await entriesOf(client).findOne({ _id: `owner ${n + 1}` })) === null && (await entriesOf(client).findOne({ _id: `owner ${n}` }))?.owner === owner;
  const takenOver = (): HoldfastError => new HoldfastError('restore-taken-over', 'another restore into this server took this one for dead and goes on with it', { next: 'let that one end; nothing needs to be done' });
  async function renew(): Promise<void> {
    for (let k = 1; ; k += 1) {
      await pause(times.renewMs, undefined, { signal: stop.signal });
      try {
        await insert(client, { _id: `beat ${n} ${k}`, kind: 'beat', n });
        if (!(await isOurs())) return void lost.abort(takenOver());
      } catch {
        // The server may be away for a while; who has not been heard of for long enough loses it, and finds that here.
      }
    }
  }
  const renewing = renew().catch(() => {}); // It was stopped.
  let ended = false;
  async function stopped(): Promise<void> {
    stop.abort();
    await renewing;
  }
  return {
    signal: lost.signal,
    begun,
    async mark(backup) {
      await insert(client, { _id: 'restore', kind: 'restore', backup });
    },
    async end() {
      await stopped();
      if (!(await isOurs())) throw takenOver();
      await drop(client, WRITTEN);
      await drop(client, COLLECTION);
      ended = true;
    },
    async leave() {
      await stopped();
      if (ended) return;
      await insert(client, { _id: `left ${n}`, kind: 'left', n }).catch(() => {}); // Then whoever comes next waits.
    },
  };
}
