import { compareShapes, type TableSettings } from './dynamodb-settings.ts';
import type { DynamodbManifest, TableSums } from './manifest-dynamodb.ts';
import type { Difference, Proof } from './proof.ts';

export interface FoundTable extends TableSums {
  readonly settings: Pick<TableSettings, 'key' | 'attributes' | 'globalIndexes' | 'localIndexes'>;
}

const WORDS = { tables: 'tables', rows: 'items', schemaObjects: 'keys and indexes' } as const;

/** Compare what was backed up with what was restored: every item by count and sums, keys and indexes by their definitions. */
export function compareTables(manifest: Pick<DynamodbManifest, 'fingerprint' | 'tables' | 'source' | 'selection'>, found: readonly FoundTable[], notes: readonly string[] = []): Proof {
  const differences: Difference[] = [];
  const restored = new Map(found.map((table) => [table.name, table]));
  let tables = 0;
  let items = 0;
  let shapes = 0;
  for (const wanted of manifest.fingerprint.tables) {
    const other = restored.get(wanted.name);
    restored.delete(wanted.name);
    if (other === undefined) {
      differences.push({ kind: 'table-missing', object: wanted.name, expected: `table with ${wanted.items} items`, found: 'not there' });
      continue;
    }
    tables += 1;
    items += other.items;
    if (wanted.items !== other.items) differences.push({ kind: 'rows', object: wanted.name, expected: `${wanted.items} items`, found: `${other.items} items` });
    else if (wanted.sum1 !== other.sum1 || wanted.sum2 !== other.sum2) differences.push({ kind: 'content', object: wanted.name, expected: `${wanted.items} items, sums ${wanted.sum1} / ${wanted.sum2}`, found: `as many items with other content, sums ${other.sum1} / ${other.sum2}` });
    const backup = manifest.tables.find(({ name }) => name === wanted.name);
    if (backup === undefined) differences.push({ kind: 'archive', object: wanted.name, expected: 'its settings in the manifest', found: 'none' });
    else {
      const shape = compareShapes(wanted.name, backup.settings, other.settings);
      shapes += shape.compared;
      differences.push(...shape.differences);
    }
  }
  for (const table of restored.values()) differences.push({ kind: 'table-unexpected', object: table.name, expected: 'not in the backup', found: `table with ${table.items} items` });
  if (tables === 0 && differences.length === 0) differences.push({ kind: 'archive', object: 'backup', expected: 'at least one table to compare', found: 'nothing: an empty comparison proves nothing' });
  return {
    exact: differences.length === 0,
    differences,
    compared: { tables, rows: String(items), sequences: 0, largeObjects: '0', extensions: 0, roles: 0, schemaObjects: shapes, words: WORDS },
    notes: [
      ...(manifest.source.consistency === 'scan' ? [`the backup is ${manifest.source.consistencyText}`] : []),
      'capacity, time to live, stream, tags, encryption and point-in-time recovery are in the manifest; the tables of a drill are made without them',
      ...notes,
    ],
  };
}

/** What a table has become since it was backed up, in words. Never a difference: the backup is what it was. */
export function driftNote(wanted: TableSums, live: TableSums, readAt: string): string {
  const same = wanted.items === live.items && wanted.sum1 === live.sum1 && wanted.sum2 === live.sum2;
  if (same) return `drift of ${wanted.name}: none; the live table, read until ${readAt}, holds exactly the ${wanted.items} items of the backup`;
  const more = live.items - wanted.items;
  return `drift of ${wanted.name}: the live table, read until ${readAt}, holds ${live.items} items (${more === 0 ? 'as many as' : `${Math.abs(more)} ${more > 0 ? 'more' : 'fewer'} than`} the backup), with other content`;
}
