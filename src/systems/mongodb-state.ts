import { mongodbBegunSchema, mongodbDoneSchema, type MongodbBegun, type MongodbDone } from '../model/manifest-mongodb.ts';
import { putFirst, putOwn, type Store } from './store.ts';

/**
 * What the attempts of one backup tell each other, as small objects below `<location>state/`. Nobody writes over what another wrote: an
 * attempt that was only taken for dead disturbs nothing.
 */
export interface BackupState {
  /** As the first attempt fixed it. */
  begin(first: () => Promise<MongodbBegun>): Promise<MongodbBegun>;
  /** Collections that earlier attempts have finished and whose objects are still there. */
  readonly done: readonly MongodbDone[];
  finished(done: MongodbDone): Promise<void>;
  /** Removes everything, so that the next attempt begins anew. */
  forget(): Promise<void>;
}

const STATE = 'state/';
const BEGUN = `${STATE}begun.json`;

export async function openState(store: Store, location: string, attempt: number, signal: AbortSignal): Promise<BackupState> {
  const done: MongodbDone[] = [];
  const keys: string[] = [];
  let written = 0;
  for await (const { key } of store.list(`${location}${STATE}`)) keys.push(key);
  for (const key of keys) {
    if (key === location + BEGUN) continue;
    const one = mongodbDoneSchema.parse(JSON.parse(await store.getText(key, { signal })));
    let whole = true;
    for (const { name, storedBytes } of one.objects) whole &&= (await store.head(location + name))?.bytes === storedBytes;
    if (whole) done.push(one);
  }
  const textOf = (value: object): string => `${JSON.stringify(value)}\n`;
  const put = { contentType: 'application/json', signal };
  return {
    done,
    async begin(first) {
      if (!keys.includes(location + BEGUN)) {
        const begun = mongodbBegunSchema.parse(await first());
        // What is there is ours, whose answer was lost, or of an attempt which was taken for dead: one holds for all.
        if (await putFirst(store, location + BEGUN, textOf(begun), put)) return begun;
      }
      return mongodbBegunSchema.parse(JSON.parse(await store.getText(location + BEGUN, { signal })));
    },
    async finished(one) {
      written += 1;
      await putOwn(store, `${location}${STATE}${attempt}-${written}.json`, Buffer.from(textOf(one)), put);
    },
    async forget() {
      for await (const { key } of store.list(`${location}${STATE}`)) await store.delete(key);
    },
  };
}
