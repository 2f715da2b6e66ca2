import type { MongodbCollection, MongodbFingerprint, MongodbSelection, MongodbView } from './manifest-mongodb.ts';
import { qualified } from './mongodb-selection.ts';
import type { Difference, Proof } from './proof.ts';

/** Compare what was backed up with what a server holds now. Everything is compared; nothing is sampled. */
export function compareMongodb(expected: { fingerprint: MongodbFingerprint; selection: MongodbSelection }, found: MongodbFingerprint, options: { readonly consistencyNote?: string | null } = {}): Proof {
  const differences: Difference[] = [];
  const notes: string[] = [];
  const wanted = expected.fingerprint;
  if (wanted.method !== found.method) differences.push({ kind: 'archive', object: 'fingerprint', expected: `method ${wanted.method}`, found: `method ${found.method}: the two cannot be compared` });
  const restored = new Map(found.collections.map((collection) => [qualified(collection), collection]));
  let [documents, indexes] = [0n, 0];
  for (const collection of wanted.collections) {
    const name = qualified(collection);
    const other = restored.get(name);
    restored.delete(name);
    if (other === undefined) {
      differences.push({ kind: 'table-missing', object: name, expected: `a collection with ${collection.documents} documents`, found: 'not there' });
      continue;
    }
    documents += BigInt(other.documents);
    indexes += collection.indexes.length;
    compareCollection(collection, other, differences);
  }
  for (const collection of restored.values()) differences.push({ kind: 'table-unexpected', object: qualified(collection), expected: 'not in the backup', found: `a collection with ${collection.documents} documents` });
  compareViews(wanted.views, found.views, differences);
  if (wanted.collections.length + wanted.views.length === 0) differences.push({ kind: 'archive', object: 'backup', expected: 'at least one collection or view to compare', found: 'nothing: an empty comparison proves nothing' });
  if (!expected.selection.complete) notes.push(`the backup holds a selection only: ${describeSelection(expected.selection)}`);
  if (options.consistencyNote != null) notes.push(`not everything was read as of one moment: ${options.consistencyNote}`);
  notes.push('users and roles are not part of a backup of MongoDB');
  return {
    exact: differences.length === 0,
    differences,
    compared: { tables: wanted.collections.length, rows: String(documents), sequences: 0, largeObjects: '0', extensions: 0, roles: 0, schemaObjects: indexes + wanted.collections.length + wanted.views.length, words: { tables: 'collections', rows: 'documents', schemaObjects: 'indexes, options and views' } },
    notes,
  };
}

function compareCollection(wanted: MongodbCollection, found: MongodbCollection, differences: Difference[]): void {
  const object = qualified(wanted);
  const expiring = wanted.indexes.some(({ text }) => text.includes('"expireAfterSeconds"'));
  const hint = expiring && BigInt(found.documents) < BigInt(wanted.documents) ? '; the collection has an index that lets documents expire, and the server may have removed them since: switch its TTL monitor off for drills' : '';
  if (wanted.documents !== found.documents) differences.push({ kind: 'rows', object, expected: `${wanted.documents} documents`, found: `${found.documents} documents${hint}` });
  else if (wanted.bytes !== found.bytes || wanted.sum1 !== found.sum1 || wanted.sum2 !== found.sum2) differences.push({ kind: 'content', object, expected: `${wanted.documents} documents of ${wanted.bytes} bytes, sums ${wanted.sum1} / ${wanted.sum2}`, found: `as many documents of ${found.bytes} bytes with other content, sums ${found.sum1} / ${found.sum2}` });
  else if (wanted.orderedSha256 !== undefined && wanted.orderedSha256 !== found.orderedSha256) differences.push({ kind: 'content', object, expected: 'the documents of the capped collection in their order', found: 'the same documents in another order' });
  if (wanted.options !== found.options) differences.push({ kind: 'schema-changed', object: `options of ${object}`, expected: wanted.options, found: found.options });
  const others = new Map(found.indexes.map((index) => [index.name, index.text]));
  for (const { name, text } of wanted.indexes) {
    const other = others.get(name);
    others.delete(name);
    if (other === undefined) differences.push({ kind: 'schema-missing', object: `index ${name} of ${object}`, expected: text, found: 'not there' });
    else if (other !== text) differences.push({ kind: 'schema-changed', object: `index ${name} of ${object}`, expected: text, found: other });
  }
  for (const [name, text] of others) differences.push({ kind: 'schema-unexpected', object: `index ${name} of ${object}`, expected: 'not in the backup', found: text });
}

function compareViews(wanted: readonly MongodbView[], found: readonly MongodbView[], differences: Difference[]): void {
  const others = new Map(found.map((view) => [qualified(view), view]));
  for (const view of wanted) {
    const object = `view ${qualified(view)}`;
    const other = others.get(qualified(view));
    others.delete(qualified(view));
    if (other === undefined) differences.push({ kind: 'schema-missing', object, expected: view.options, found: 'not there' });
    else if (other.options !== view.options) differences.push({ kind: 'schema-changed', object, expected: view.options, found: other.options });
  }
  for (const view of others.values()) differences.push({ kind: 'schema-unexpected', object: `view ${qualified(view)}`, expected: 'not in the backup', found: view.options });
}

function describeSelection({ include, exclude }: MongodbSelection): string {
  const part = (word: string, items: readonly string[]): string[] => (items.length === 0 ? [] : [`${word} ${items.join(', ')}`]);
  return [...part('databases', include.databases), ...part('collections', include.collections), ...part('without databases', exclude.databases), ...part('without collections', exclude.collections)].join('; ');
}
