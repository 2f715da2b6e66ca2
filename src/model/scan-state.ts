import { z } from 'zod';
import type { Item } from './dynamodb-item.ts';
import { objectEntrySchema } from './manifest-parts.ts';

/**
 * One finished data file of one segment: what it holds and where the next one begins. Each names the one before it, so that a chain of
 * them covers its part of the segment without gap or overlap whoever wrote which: a file begins exactly behind the key its predecessor
 * ends with. What two attempts wrote side by side are two branches, of which one is followed.
 */
export const scanStateSchema = z.strictObject({
  format: z.literal(1),
  segment: z.int().min(0),
  /** Name of the state before it; null: it begins the segment. */
  after: z.string().nullable(),
  /** null: nothing was left to read. */
  file: z.strictObject({ entry: objectEntrySchema, md5: z.string(), etag: z.string(), items: z.int(), sum1: z.string(), sum2: z.string() }).nullable(),
  /** Where to go on; null: the segment is finished. */
  lastKey: z.record(z.string(), z.unknown()).nullable(),
  consumedUnits: z.number(),
  fromMs: z.number(),
  toMs: z.number(),
});
export type ScanState = Omit<z.infer<typeof scanStateSchema>, 'lastKey'> & { readonly lastKey: Item | null };

/** The states of one segment that belong together, first to last: the finished chain, else the longest. Of many thousands in no time: each is looked at once. */
export function followStates(states: ReadonlyMap<string, ScanState>): { readonly name: string; readonly state: ScanState }[] {
  // How many states reach from the beginning of the segment up to this one; 0: a state whose predecessor cannot be read proves nothing of what lies before it.
  const lengths = new Map<string, number>();
  for (const name of states.keys()) {
    const open: string[] = [];
    let length = 0;
    for (let at: string | null = name; at !== null; ) {
      const known = lengths.get(at);
      if (known !== undefined) {
        length = known;
        break;
      }
      const state = states.get(at);
      if (state === undefined || open.length > states.size) {
        length = -1;
        break;
      }
      open.push(at);
      at = state.after;
    }
    // A broken chain stays broken all the way up.
    const broken = length === -1 || (length === 0 && open.length > 0 && states.get(open.at(-1)!)!.after !== null);
    for (const one of open.reverse()) lengths.set(one, broken ? 0 : (length += 1));
  }
  let best: string | null = null;
  const rank = (name: string): number => {
    const length = lengths.get(name) ?? 0;
    return length > 0 && states.get(name)!.lastKey === null ? 1e9 + length : length;
  };
  for (const name of [...states.keys()].sort()) if (rank(name) > (best === null ? 0 : rank(best))) best = name;
  const chain: { name: string; state: ScanState }[] = [];
  for (let at = best; at !== null; at = states.get(at)!.after) chain.push({ name: at, state: states.get(at)! });
  return chain.reverse();
}
