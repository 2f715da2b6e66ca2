/** Evidence beyond one host: the copy in a store, and the chain that orders the records of a service. */
import { mkdir, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { chainLinkSchema, checkChains, linkName, nextPosition, serialiseLink, type ChainedRecord, type ChainLink } from '../model/evidence-chain.ts';
import type { ChainPosition } from '../model/evidence.ts';
import { FILES_IN_FACTS } from '../model/evidence-files.ts';
import { FAILBACK_FILE } from '../model/failback.ts';
import { storeOf, type Context } from './context.ts';
import { MAXIMUM_FILE_BYTES, listEvidence, listPending, readFolder, settlePending, type PreparedEvidence } from './evidence-folder.ts';
import type { Trust } from './evidence-keys.ts';
import { EVIDENCE_FILES, RECORD_NAME, sha256Hex, verifyEvidence, type EvidenceVerdict } from './evidence-verify.ts';
import { createFolderStore } from './store-folder.ts';
import { openStore, putFirst, type Store } from './store.ts';

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  [FAILBACK_FILE]: 'application/yaml',
  'facts.sha256': 'text/plain; charset=utf-8',
  'report.html': 'text/html; charset=utf-8',
  'report.json': 'application/json',
  'report.md': 'text/markdown; charset=utf-8',
  'signature.json': 'application/json',
};
/** How far back another attempt of a run looks for the place it took. */
const LOOK_BACK = 20;
/** Each round somebody else took the place: so many writers of one service at once do not exist. */
const CLAIM_ROUNDS = 50;
/** Clocks of store and worker differ. */
const LOCK_SLACK_MS = 60_000;

/** Where a chain is kept: in the store where there is one, else in this host's own folder. */
export interface ChainPlace {
  readonly store: Store;
  /** Ends with `/`. */
  readonly prefix: string;
  readonly lockForMs: number | undefined;
}

export async function storeChain(context: Context, storeName: string): Promise<ChainPlace> {
  const store = await openStore(context, storeName);
  return { store, prefix: `${store.prefix}evidence/chain/`, lockForMs: lockOf(context, storeName, store) };
}

export async function folderChain(directory: string): Promise<ChainPlace> {
  await mkdir(resolve(directory), { recursive: true });
  return { store: createFolderStore(resolve(directory), ''), prefix: '.chain/', lockForMs: undefined };
}

function lockOf(context: Context, storeName: string, store: Store): number | undefined {
  // Without object lock of the store there is nothing that `evidence.retain` could lengthen.
  return store.lockForMs === undefined || context.config.evidence.store !== storeName ? store.lockForMs : (context.config.evidence.retain ?? store.lockForMs);
}

/**
 * Takes the next number of a chain for a record, by a write that only succeeds when nobody has: however many workers write, the numbers have
 * no gap and no fork. Another attempt of the same run finds the number it took.
 * @param prepare makes the record for a position; called again when somebody else was faster.
 */
export async function claimPosition(place: ChainPlace, chain: string, prepare: (position: ChainPosition) => PreparedEvidence, nowMs: number, signal?: AbortSignal): Promise<PreparedEvidence> {
  const prefix = `${place.prefix}${chain}/`;
  for (let round = 0; round < CLAIM_ROUNDS; round += 1) {
    signal?.throwIfAborted();
    const keys: string[] = [];
    for await (const { key } of place.store.list(prefix)) if (/^\d{8,}\.json$/.test(key.slice(prefix.length))) keys.push(key);
    const newest = keys.sort((a, b) => a.length - b.length || (a < b ? -1 : 1)).at(-1);
    const last = newest === undefined ? undefined : await readLink(place.store, newest, signal);
    const prepared = prepare(nextPosition(chain, last));
    for (const key of keys.slice(-LOOK_BACK)) {
      const link = key === newest ? last! : await readLink(place.store, key, signal);
      if (link.id !== prepared.id) continue;
      const again = prepare({ chain, sequence: link.sequence, previous: link.previous });
      if (sha256Hex(again.files['report.json']) === link.sha256) return again;
      throw new HoldfastError('evidence-chain', `${place.store.describe()}: number ${link.sequence} of chain ${chain} was taken for ${link.folder} with other content`, { next: 'another attempt of the same run wrote it with another key or version; look at both with `holdfast evidence verify`' });
    }
    const { sequence, previous } = prepared.position!;
    const link: ChainLink = { format: 1, chain, sequence, id: prepared.id, folder: prepared.folder, sha256: sha256Hex(prepared.files['report.json']), previous };
    try {
      await place.store.put(`${prefix}${linkName(sequence)}`, serialiseLink(link), {
        ifAbsent: true, contentType: 'application/json', ...(signal === undefined ? {} : { signal }), ...(place.lockForMs === undefined ? {} : { lockUntilMs: nowMs + place.lockForMs }),
      });
      return prepared;
    } catch (error) {
      // Somebody else took it, or our own first try did and its answer was lost: look again.
      if (!(error instanceof HoldfastError) || error.code !== 'object-exists') throw error;
    }
  }
  throw new HoldfastError('evidence-chain', `chain ${chain} in ${place.store.describe()}: others took the next number ${CLAIM_ROUNDS} times`, { retryable: true });
}

async function readLink(store: Store, key: string, signal?: AbortSignal): Promise<ChainLink> {
  const text = await store.getText(key, signal === undefined ? {} : { signal });
  try {
    const link = chainLinkSchema.parse(JSON.parse(text));
    if (serialiseLink(link) !== text) throw new Error('it was rewritten');
    if (!key.endsWith(`/${link.chain}/${linkName(link.sequence)}`)) throw new Error(`it is number ${link.sequence} of chain ${link.chain}`);
    return link;
  } catch (error) {
    throw new HoldfastError('evidence-chain', `${key} in ${store.describe()} is no link of a chain: ${firstLine(error)}`, { next: 'find out who wrote it; compare with the older versions of the object', cause: error });
  }
}

function firstLine(error: unknown): string {
  return messageOf(error).split('\n')[0]!.slice(0, 200);
}

/**
 * Copy to `<prefix>/evidence/<folder>/` of a store, under object lock where it is configured, never over something else, and read back.
 * signature.json goes last, so that a copy with it is whole.
 * @returns where it is.
 */
export async function copyEvidence(context: Context, storeName: string, folder: string, files: Readonly<Record<string, Buffer | string>>, nowMs: number, signal?: AbortSignal): Promise<string> {
  const store = await openStore(context, storeName);
  const lockForMs = lockOf(context, storeName, store);
  const prefix = `${store.prefix}evidence/${folder}/`;
  for (const name of [...FILES_IN_FACTS, ...EVIDENCE_FILES]) {
    const content = files[name];
    if (content === undefined) continue; // A record of an older format, or without the file.
    const key = `${prefix}${name}`;
    // An earlier attempt of the same run may have got this far.
    const own = await putFirst(store, key, Buffer.from(content), { contentType: CONTENT_TYPES[name] ?? 'application/octet-stream', ...(signal === undefined ? {} : { signal }), ...(lockForMs === undefined ? {} : { lockUntilMs: nowMs + lockForMs }) });
    const there = await readObject(store, key, signal);
    if (!there.equals(Buffer.from(content))) {
      throw own
        ? new HoldfastError('evidence-copy', `${store.describe()} gives back ${key} otherwise than it was sent`, { retryable: true, next: 'the store does not keep what it takes; tell its operator' })
        : new HoldfastError('evidence-exists', `${store.describe()} already holds other evidence as ${key}; evidence is never overwritten`, { next: 'find out who wrote it' });
    }
    if (lockForMs !== undefined) {
      const until = (await store.head(key))?.lockedUntilMs;
      if (until === undefined || (own && until < nowMs + lockForMs - LOCK_SLACK_MS)) {
        throw new HoldfastError('evidence-lock', `${key} in ${store.describe()} is ${until === undefined ? 'not locked' : `locked until ${new Date(until).toISOString()} only`}, although object lock is configured`, { next: 'enable object lock on the bucket, and let the worker set the retention (s3:PutObjectRetention)' });
      }
    }
  }
  return `${store.describe()} ${prefix}`;
}

async function readObject(store: Store, key: string, signal?: AbortSignal): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of (await store.get(key, signal === undefined ? {} : { signal })) as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAXIMUM_FILE_BYTES) throw new HoldfastError('evidence-size', `${key} in ${store.describe()} has more than ${MAXIMUM_FILE_BYTES} bytes; no file of a record has`, { next: 'this is not what was written' });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/**
 * Make the copies that are still to be made on this host. What is wrong with one record keeps no other from its copy; a store that is not
 * there ends it. @returns what was copied, and what kept the rest.
 */
export async function pushPending(context: Context, directory: string, storeName: string, nowMs: number, signal?: AbortSignal): Promise<{ copied: string[]; left: string[]; problem: string | undefined }> {
  const copied: string[] = [];
  const left: string[] = [];
  const problems: string[] = [];
  const pending = await listPending(directory);
  for (const [index, folder] of pending.entries()) {
    try {
      if (await absent(join(directory, folder))) {
        // Marked by a worker that was lost before it had written anything, or moved away by a person: there is nothing to copy.
        await settlePending(directory, folder);
        continue;
      }
      const { contents } = await readFolder(join(directory, folder));
      const verdict = verifyEvidence(contents, [], { name: folder });
      if (!verdict.ok) throw new HoldfastError('evidence-changed', `${folder} is not what was written: ${verdict.problems[0]}`, { next: 'look at it with `holdfast evidence verify`; a changed record is not copied' });
      await copyEvidence(context, storeName, folder, contents, nowMs, signal);
      await settlePending(directory, folder);
      copied.push(folder);
    } catch (error) {
      const oneRecord = error instanceof HoldfastError && !error.retryable && error.code.startsWith('evidence-');
      problems.push(messageOf(error));
      if (!oneRecord) return { copied, left: [...left, ...pending.slice(index)], problem: problems.join('; ') };
      left.push(folder);
    }
  }
  return { copied, left, problem: problems.length === 0 ? undefined : problems.join('; ') };
}

async function absent(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return true;
      throw error;
    },
  );
}

export interface RecordVerdict {
  readonly folder: string;
  readonly verdict: EvidenceVerdict;
  /** The lock of its signature, Infinity under a legal hold. */
  readonly lockedUntilMs?: number;
}

/** One record in a store. @throws HoldfastError `evidence-not-found`. */
export async function verifyStoredEvidence(context: Context, storeName: string, folder: string, trust: Trust): Promise<RecordVerdict> {
  const { store, folders } = await storedFolders(context, storeName, folder);
  const objects = folders.get(folder);
  if (objects === undefined) throw new HoldfastError('evidence-not-found', `${store.describe()} holds no evidence named ${folder}`, { next: 'see `holdfast evidence verify --store NAME`' });
  return verifyStored(context, storeName, store, folder, objects, trust);
}

interface StoredFile {
  readonly bytes: number;
  readonly modifiedMs: number;
}

async function storedFolders(context: Context, storeName: string, only?: string): Promise<{ store: Store; folders: Map<string, Map<string, StoredFile>> }> {
  const store = await openStore(context, storeName);
  const root = `${store.prefix}evidence/`;
  const folders = new Map<string, Map<string, StoredFile>>();
  for await (const { key, bytes, modifiedMs } of store.list(only === undefined ? root : `${root}${only}/`)) {
    const [folder, ...rest] = key.slice(root.length).split('/');
    if (folder === undefined || !RECORD_NAME.test(folder) || rest.length === 0) continue;
    folders.set(folder, (folders.get(folder) ?? new Map<string, StoredFile>()).set(rest.join('/'), { bytes, modifiedMs }));
  }
  return { store, folders };
}

async function verifyStored(context: Context, storeName: string, store: Store, folder: string, objects: ReadonlyMap<string, StoredFile>, trust: Trust): Promise<RecordVerdict> {
  const contents: Record<string, Buffer> = {};
  const extra: string[] = [];
  const prefix = `${store.prefix}evidence/${folder}/`;
  for (const name of objects.keys()) {
    if (FILES_IN_FACTS.includes(name) || EVIDENCE_FILES.some((known) => known === name)) contents[name] = await readObject(store, prefix + name);
    else extra.push(name);
  }
  // A folder's times can be set by whoever writes there; those of an S3 store cannot.
  const s3 = storeOf(context.config, storeName).type === 's3';
  const times = [...objects.values()].map((object) => object.modifiedMs);
  const verdict = verifyEvidence(contents, extra, { trust, name: folder, ...(s3 ? { storedAtMs: times.reduce((latest, ms) => Math.max(latest, ms), 0) } : {}) });
  const problems = [...verdict.problems];
  const notes = [...verdict.notes];
  const history = await overwritten(store, prefix);
  problems.push(...history.problems);
  notes.push(...history.notes);
  const locks = await Promise.all(Object.keys(contents).map(async (name) => (await store.head(prefix + name))?.lockedUntilMs));
  let lockedUntilMs: number | undefined;
  if (store.lockForMs !== undefined) {
    if (locks.some((until) => until === undefined)) notes.push('not under object lock, although the store is configured so: it was put there by other means, or before');
    else lockedUntilMs = locks.reduce<number>((least, until) => Math.min(least, until!), Number.POSITIVE_INFINITY);
  }
  return { folder, verdict: { ...verdict, ok: problems.length === 0, problems, notes }, ...(lockedUntilMs === undefined ? {} : { lockedUntilMs }) };
}

/** What a versioned bucket remembers: nothing of ours is ever written over or deleted. */
async function overwritten(store: Store, prefix: string): Promise<{ problems: string[]; notes: string[] }> {
  const problems: string[] = [];
  if (store.superseded === undefined) return { problems, notes: [] };
  try {
    for await (const { key, modifiedMs, deleted } of store.superseded(prefix)) {
      const at = new Date(modifiedMs).toISOString();
      problems.push(deleted ? `${key} was deleted at ${at}; its versions are still in the bucket` : `${key} was written over: an older version of ${at} is still in the bucket`);
    }
  } catch (error) {
    if (!(error instanceof HoldfastError) || !error.code.startsWith('store-')) throw error;
    return { problems, notes: [`older versions could not be looked at: ${firstLine(error)}`] };
  }
  return { problems, notes: [] };
}

export interface EvidenceSurvey {
  readonly where: string;
  readonly records: readonly RecordVerdict[];
  /** Beyond single records: links and records that are missing, and local records that the store lacks. */
  readonly problems: readonly string[];
  readonly notes: readonly string[];
}

/** Every record in a store, its chains, and what this host has that the store has not. */
export async function surveyStore(context: Context, storeName: string, directory: string, trust: Trust): Promise<EvidenceSurvey> {
  const { store, folders } = await storedFolders(context, storeName);
  const records: RecordVerdict[] = [];
  for (const [folder, objects] of folders) records.push(await verifyStored(context, storeName, store, folder, objects, trust));
  const { problems, notes } = await surveyChains(await storeChain(context, storeName), records.map(chained));
  // Written over is a finding about its record; what is gone has no record left to say it.
  for (const gone of (await overwritten(store, `${store.prefix}evidence/`)).problems) if (!records.some(({ verdict }) => verdict.problems.includes(gone))) problems.push(gone);
  const pending = await listPending(directory);
  for (const local of await listEvidence(directory)) {
    if (folders.has(local.folder)) continue;
    if (pending.includes(local.folder)) problems.push(`${local.folder} is on this host only: its copy is still to be made; \`holdfast evidence push\` makes it`);
    else if (context.config.evidence.store === storeName) problems.push(`${local.folder} is on this host, but not in the store: it was taken away there, or written before the store was configured`);
  }
  return { where: `${store.describe()} evidence/`, records, problems, notes };
}

/** Every record in a folder of this host, and the chains that are kept there. */
export async function surveyFolder(directory: string, trust: Trust): Promise<EvidenceSurvey> {
  const place = await folderChain(directory);
  const records: RecordVerdict[] = [];
  for (const { path } of await listEvidence(directory)) {
    const { contents, extra } = await readFolder(path);
    records.push({ folder: basename(path), verdict: verifyEvidence(contents, extra, { trust, name: basename(path) }) });
  }
  const links = await readLinks(place);
  if (links.links.length === 0 && links.problems.length === 0) {
    const elsewhere = records.some(({ verdict }) => verdict.report?.header.position != null);
    return { where: resolve(directory), records, problems: [], notes: elsewhere ? ['whether a record was taken away is known where their chain is kept: give --store'] : [] };
  }
  const { problems, notes } = checkChains(links.links, records.map(chained));
  return { where: resolve(directory), records, problems: [...links.problems, ...problems], notes };
}

function chained({ folder, verdict }: RecordVerdict): ChainedRecord {
  const header = verdict.report?.header;
  return { folder, sha256: verdict.sha256, position: header?.position ?? null, unchained: header === undefined ? 'its report.json is not what was written' : (header.unchained ?? null) };
}

async function surveyChains(place: ChainPlace, records: readonly ChainedRecord[]): Promise<{ problems: string[]; notes: string[] }> {
  const { links, problems } = await readLinks(place);
  const checked = checkChains(links, records);
  return { problems: [...problems, ...checked.problems], notes: checked.notes };
}

async function readLinks(place: ChainPlace): Promise<{ links: ChainLink[]; problems: string[] }> {
  const links: ChainLink[] = [];
  const problems: string[] = [];
  for await (const { key } of place.store.list(place.prefix)) {
    try {
      links.push(await readLink(place.store, key));
    } catch (error) {
      if (!(error instanceof HoldfastError) || (error.code !== 'evidence-chain' && error.code !== 'object-missing' && error.code !== 'object-too-large')) throw error;
      problems.push(error.message);
    }
  }
  return { links, problems };
}
