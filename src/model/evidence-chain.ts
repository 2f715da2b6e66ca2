/** The chain across records: who came after whom, so that a record that was taken away is missed. Pure. */
import { z } from 'zod';
import type { ChainPosition } from './evidence.ts';

/** One object a record, written once under its number: the store decides who is next, however many workers write. */
export const chainLinkSchema = z.strictObject({
  format: z.literal(1),
  chain: z.string(),
  sequence: z.int().min(1),
  id: z.string(),
  /** Name of the record. */
  folder: z.string(),
  /** SHA-256 of its report.json. */
  sha256: z.string(),
  previous: z.strictObject({ id: z.string(), sha256: z.string() }).nullable(),
});
export type ChainLink = z.infer<typeof chainLinkSchema>;

export function serialiseLink(link: ChainLink): string {
  const { format, chain, sequence, id, folder, sha256, previous } = link;
  return `${JSON.stringify({ format, chain, sequence, id, folder, sha256, previous })}\n`;
}

export function linkName(sequence: number): string {
  return `${String(sequence).padStart(8, '0')}.json`;
}

export function nextPosition(chain: string, last: ChainLink | undefined): ChainPosition {
  return { chain, sequence: (last?.sequence ?? 0) + 1, previous: last === undefined ? null : { id: last.id, sha256: last.sha256 } };
}

/** What is known of a record that was found. */
export interface ChainedRecord {
  readonly folder: string;
  readonly sha256: string | undefined;
  readonly position: ChainPosition | null;
  readonly unchained: string | null;
}

/** Links against links, and links against records. What it cannot see: the newest records taken away together with their links. */
export function checkChains(links: readonly ChainLink[], records: readonly ChainedRecord[]): { problems: string[]; notes: string[] } {
  const problems: string[] = [];
  const notes: string[] = [];
  const byFolder = new Map(records.map((record) => [record.folder, record]));
  const chains = new Map<string, Map<number, ChainLink>>();
  for (const link of links) chains.set(link.chain, (chains.get(link.chain) ?? new Map<number, ChainLink>()).set(link.sequence, link));

  for (const [chain, numbered] of [...chains].sort(([a], [b]) => (a < b ? -1 : 1))) {
    let expected = 1;
    for (const [sequence, link] of [...numbered].sort(([a], [b]) => a - b)) {
      if (sequence > expected) problems.push(`chain ${chain}: number ${sequence - 1 === expected ? expected : `${expected} to ${sequence - 1}`} is missing before ${sequence}: its link was taken away`);
      expected = sequence + 1;
      const before = numbered.get(sequence - 1);
      if (sequence === 1 ? link.previous !== null : before !== undefined && (link.previous?.id !== before.id || link.previous.sha256 !== before.sha256)) {
        problems.push(`chain ${chain}: number ${sequence} (${link.folder}) does not follow number ${sequence - 1}: one of them was replaced`);
      }
      problems.push(...checkRecord(link, byFolder.get(link.folder), notes));
    }
  }
  for (const { folder, position, unchained } of records) {
    if (position === null) notes.push(`${folder} stands in no chain, so nobody would miss it: ${unchained ?? 'it was written before there was one'}`);
    else if (chains.get(position.chain)?.get(position.sequence)?.folder !== folder) problems.push(`${folder} says it is number ${position.sequence} of chain ${position.chain}, but that is ${chains.get(position.chain)?.get(position.sequence)?.folder ?? 'not there'}`);
  }
  return { problems, notes };
}

function checkRecord(link: ChainLink, record: ChainedRecord | undefined, notes: string[]): string[] {
  const name = `chain ${link.chain}: number ${link.sequence} (${link.folder})`;
  if (record === undefined) return [`${name} is not there: the record was taken away, or its copy never arrived`];
  if (record.position === null) {
    // Its writer lost the answer of the store, and went on without a place.
    notes.push(`${name} was reserved by a record that was then written without a place: ${record.unchained ?? '?'}`);
    return [];
  }
  if (record.sha256 !== link.sha256) return [`${name} is not the record that took this place: report.json has SHA-256 ${record.sha256 ?? 'none'}, the link names ${link.sha256}`];
  const { chain, sequence, previous } = record.position;
  if (chain !== link.chain || sequence !== link.sequence || previous?.id !== link.previous?.id || previous?.sha256 !== link.previous?.sha256) return [`${name} says of itself that it is number ${sequence} of ${chain} after ${previous?.id ?? 'none'}: the link was changed`];
  return [];
}
