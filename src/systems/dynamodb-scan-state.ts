import { createHash } from 'node:crypto';
import { followStates, scanStateSchema, type ScanState } from '../model/scan-state.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { storeOf, type Context } from './context.ts';
import { seal } from './dynamodb-data-file.ts';
import { putOwn, type Store } from './store.ts';

export interface StatePlace {
  readonly context: Context;
  readonly storeName: string;
  readonly store: Store;
  /** Of the states of one table scanned in one way; ends with `/`. */
  readonly folder: string;
  readonly signal: AbortSignal;
}

/** States of another table of that name, or of another division into segments, are of no use: they lie in another folder. */
export function stateFolder(location: string, table: string, scan: { readonly arn: string; readonly id: string | null; readonly createdAt: string; readonly segments: number; readonly consistentRead: boolean }): string {
  return `${location}state/${table}/${createHash('sha256').update(JSON.stringify([scan.arn, scan.id, scan.createdAt, scan.segments, scan.consistentRead])).digest('hex').slice(0, 12)}/`;
}

/** The keys in it are customers' data: where the store encrypts, it is encrypted as well. */
export async function writeState(place: StatePlace, name: string, state: ScanState): Promise<void> {
  const recipients = storeOf(place.context.config, place.storeName).encryption?.recipients;
  const plain = Buffer.from(JSON.stringify(state));
  await putOwn(place.store, `${place.folder}${name}`, recipients === undefined ? plain : await seal(plain, recipients), { signal: place.signal, contentType: 'application/octet-stream' });
}

/** What earlier attempts have finished, by segment. Where it cannot be decrypted everything is read anew, which costs time and nothing else. */
export async function readStates(place: StatePlace): Promise<Map<number, readonly { readonly name: string; readonly state: ScanState }[]>> {
  const { store, folder, signal, context, storeName } = place;
  const bySegment = new Map<number, Map<string, ScanState>>();
  let identity: string | undefined;
  const encryption = storeOf(context.config, storeName).encryption;
  for await (const { key } of store.list(folder)) {
    if (encryption !== undefined && identity === undefined) {
      try {
        // A role that only writes backups may not read it: then this is what it costs.
        if (encryption.identity === undefined) throw new HoldfastError('identity-missing', `store ${storeName} names no identity`);
        identity = (await context.secrets.resolve(encryption.identity)).trim();
      } catch (error) {
        context.log.warn({ folder, error: messageOf(error) }, 'what an earlier attempt has finished is encrypted and cannot be read: the table is read from the start');
        return new Map();
      }
    }
    const chunks: Buffer[] = [];
    for await (const chunk of (await store.get(key, { signal })) as AsyncIterable<Buffer>) chunks.push(chunk);
    try {
      const state = scanStateSchema.parse(JSON.parse((await open(Buffer.concat(chunks), identity)).toString('utf8'))) as ScanState;
      const states = bySegment.get(state.segment) ?? new Map<string, ScanState>();
      bySegment.set(state.segment, states.set(key.slice(folder.length), state));
    } catch (error) {
      context.log.warn({ key, error: messageOf(error) }, 'what an earlier attempt has noted cannot be read: that part is read again');
    }
  }
  return new Map([...bySegment].map(([segment, states]) => [segment, followStates(states)]));
}

async function open(bytes: Buffer, identity: string | undefined): Promise<Buffer> {
  if (identity === undefined) return bytes;
  const { Decrypter } = await import('age-encryption');
  const decrypter = new Decrypter();
  decrypter.addIdentity(identity);
  return Buffer.from(await decrypter.decrypt(bytes));
}
