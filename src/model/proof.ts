import type { ObjectEntry } from './manifest-parts.ts';
import type { PostgresManifest, PostgresFingerprint, SequenceFingerprint } from './manifest-postgres.ts';

/** One difference between what was backed up and what was restored. */
export interface Difference {
  readonly kind:
    | 'table-missing' | 'table-unexpected' | 'rows' | 'content' | 'sequence' | 'large-objects' | 'extension' | 'role'
    | 'schema-missing' | 'schema-unexpected' | 'schema-changed' | 'check' | 'archive';
  readonly object: string;
  readonly expected: string;
  readonly found: string;
}

/** The outcome of comparing a restore with its manifest. `exact` only when there is no difference at all. */
export interface Proof {
  readonly exact: boolean;
  readonly differences: readonly Difference[];
  /** How much was compared, so that an empty comparison cannot pass for a proof. */
  readonly compared: {
    readonly tables: number;
    readonly rows: string;
    readonly sequences: number;
    readonly largeObjects: string;
    readonly extensions: number;
    readonly roles: number;
    readonly schemaObjects: number;
    /** What the engine calls them, where it has other words; then only these three are compared. */
    readonly words?: { readonly tables: string; readonly rows: string; readonly schemaObjects: string };
  };
  /** What could not be or was deliberately not compared, in words. */
  readonly notes: readonly string[];
  /** What the backup holds and no comparison can prove, e.g. tables that changed while a managed snapshot was taken. Then it is never `exact`. */
  readonly unproved?: readonly string[];
}

/** Nothing that could be compared differs. Only with `exact` could everything be compared. */
export function holds(proof: Proof): boolean {
  return proof.differences.length === 0 && (proof.exact || (proof.unproved?.length ?? 0) > 0);
}

/** Of a managed snapshot: neither a table nor a marker row was compared: then nothing is known of the backup, good or bad. */
export function nothingCompared(proof: Proof): boolean {
  return proof.differences.length === 0 && proof.compared.tables === 0 && (proof.unproved?.length ?? 0) > 0 && !proof.notes.some((note) => note.startsWith('marker rows:'));
}

/** What a restore is compared with: of the manifest, the part that says what the backup holds. */
export type Expected = Pick<PostgresManifest, 'fingerprint' | 'selection'> & { readonly objects: readonly (Pick<ObjectEntry, 'role'> & Partial<ObjectEntry>)[] };

/** Compare what was backed up with what was restored. Everything is compared; nothing is sampled, nothing is estimated. */
export function compareFingerprints(expected: Expected, found: PostgresFingerprint): Proof {
  const differences: Difference[] = [];
  const notes: string[] = [];
  const wanted = expected.fingerprint;
  if (wanted.method !== found.method) {
    differences.push({ kind: 'archive', object: 'fingerprint', expected: `method ${wanted.method}`, found: `method ${found.method}: the two cannot be compared` });
  }
  const tables = compareTables(expected, found, differences, notes);
  const sequences = compareSequences(wanted, found, differences);
  const largeObjects = compareLargeObjects(wanted, found, differences, notes);
  const extensions = compareExtensions(wanted, found, differences, notes);
  const roles = compareRoles(expected, found, differences, notes);
  const schemaObjects = compareSchema(wanted, found, differences);

  if (tables.count + sequences + schemaObjects === 0 && largeObjects === 0n && differences.length === 0) {
    differences.push({ kind: 'archive', object: 'backup', expected: 'at least one table, sequence, large object or schema object to compare', found: 'nothing: an empty comparison proves nothing' });
  } else if (tables.count === 0) {
    notes.push('the backup holds no tables, so no rows were compared');
  }
  if (!expected.selection.complete) notes.push(`the backup holds a selection only: ${describeSelection(expected.selection)}`);
  return {
    exact: differences.length === 0,
    differences,
    compared: { tables: tables.count, rows: String(tables.rows), sequences, largeObjects: String(largeObjects), extensions, roles, schemaObjects },
    notes,
  };
}

function describeSelection({ include, exclude }: PostgresManifest['selection']): string {
  const part = (word: string, items: readonly string[]): string[] => (items.length === 0 ? [] : [`${word} ${items.join(', ')}`]);
  const parts = [
    ...part('schemas', include.schemas), ...part('tables', include.tables),
    ...part('without schemas', exclude.schemas), ...part('without tables', exclude.tables), ...part('without the rows of', exclude.tableData),
  ];
  return parts.length === 0 ? 'not said which' : parts.join('; ');
}

function keyOf({ schema, name }: { schema: string; name: string }): string {
  return JSON.stringify([schema, name]);
}

/** Names as people write them; quotes only where PostgreSQL needs them. */
function nameOf({ schema, name }: { schema: string; name: string }): string {
  return [schema, name].map((part) => (/^[a-z_][a-z0-9_$]*$/.test(part) ? part : `"${part.replaceAll('"', '""')}"`)).join('.');
}

function compareTables(expected: Expected, found: PostgresFingerprint, differences: Difference[], notes: string[]): { count: number; rows: bigint } {
  const restored = new Map(found.tables.map((table) => [keyOf(table), table]));
  const known = new Set<string>();
  let count = 0;
  let rows = 0n;
  for (const table of expected.fingerprint.tables) {
    known.add(keyOf(table));
    const other = restored.get(keyOf(table));
    if (other === undefined) {
      differences.push({ kind: 'table-missing', object: nameOf(table), expected: `${table.kind} with ${table.rows} rows`, found: 'not there' });
      continue;
    }
    const sameRows = BigInt(table.rows) === BigInt(other.rows);
    const sameContent = sameRows && table.sum1 === other.sum1 && table.sum2 === other.sum2;
    if (table.kind === 'materialized-view') {
      // A restore refreshes it from the restored tables; the source may have been refreshed long before its last change.
      if (!sameContent) notes.push(`materialized view ${nameOf(table)} was refreshed by the restore and differs from the source (${table.rows} rows there, ${other.rows} here): it was stale there, or its query is not stable`);
      continue;
    }
    count += 1;
    rows += BigInt(other.rows);
    if (!sameRows) differences.push({ kind: 'rows', object: nameOf(table), expected: `${table.rows} rows`, found: `${other.rows} rows` });
    else if (!sameContent) differences.push({ kind: 'content', object: nameOf(table), expected: `${table.rows} rows, sums ${table.sum1} / ${table.sum2}`, found: `as many rows with other content, sums ${other.sum1} / ${other.sum2}` });
  }
  for (const table of found.tables) {
    if (known.has(keyOf(table))) continue;
    differences.push({ kind: 'table-unexpected', object: nameOf(table), expected: 'not in the backup', found: `${table.kind} with ${table.rows} rows` });
  }
  return { count, rows };
}

type SequenceState = SequenceFingerprint['before'];

function compareSequences(wanted: PostgresFingerprint, found: PostgresFingerprint, differences: Difference[]): number {
  const restored = new Map(found.sequences.map((sequence) => [keyOf(sequence), sequence]));
  let compared = 0;
  for (const sequence of wanted.sequences) {
    const other = restored.get(keyOf(sequence));
    restored.delete(keyOf(sequence));
    const expected = describeSequence(sequence);
    if (other === undefined) {
      differences.push({ kind: 'sequence', object: nameOf(sequence), expected, found: 'not there' });
      continue;
    }
    compared += 1;
    // Nobody draws from a restored copy; if its two readings differ, something wrote to it while it was being proved.
    if (!sameState(other.before, other.after)) differences.push({ kind: 'sequence', object: nameOf(sequence), expected: 'a restored sequence that nobody draws from', found: describeSequence(other) });
    else if (!within(sequence, other.after)) differences.push({ kind: 'sequence', object: nameOf(sequence), expected, found: describeState(other.after) });
  }
  for (const sequence of restored.values()) differences.push({ kind: 'sequence', object: nameOf(sequence), expected: 'not in the backup', found: describeSequence(sequence) });
  return compared;
}

/**
 * Sequences stand outside the snapshot: the dump read its value at some moment between `before` and `after`.
 * `2, not called` comes before `2, called`, whichever way the sequence counts.
 */
function within({ before, after }: SequenceFingerprint, value: SequenceState): boolean {
  if (sameState(before, after)) return sameState(before, value);
  const sign = BigInt(after.lastValue) < BigInt(before.lastValue) ? -1n : 1n;
  const position = (state: SequenceState): bigint => 2n * sign * BigInt(state.lastValue) + (state.isCalled ? 1n : 0n);
  // Reset meanwhile, e.g. by setval(..., false) or TRUNCATE RESTART IDENTITY: no order is left, only the end points are sure.
  if (before.isCalled && !after.isCalled) return sameState(before, value) || sameState(after, value);
  return position(before) <= position(value) && position(value) <= position(after);
}

function sameState(a: SequenceState, b: SequenceState): boolean {
  return BigInt(a.lastValue) === BigInt(b.lastValue) && a.isCalled === b.isCalled;
}

function describeState({ lastValue, isCalled }: SequenceState): string {
  return isCalled ? lastValue : `${lastValue} (not drawn yet)`;
}

function describeSequence({ before, after }: SequenceFingerprint): string {
  return sameState(before, after) ? describeState(before) : `between ${describeState(before)} and ${describeState(after)}`;
}

function compareLargeObjects(wanted: PostgresFingerprint, found: PostgresFingerprint, differences: Difference[], notes: string[]): bigint {
  const expected = wanted.largeObjects;
  const restored = found.largeObjects;
  const describe = (some: NonNullable<typeof expected>): string => `${some.count} large objects, ${some.bytes} bytes, sums ${some.sum1} / ${some.sum2}`;
  if (expected === null) {
    if (restored !== null && BigInt(restored.count) > 0n) differences.push({ kind: 'large-objects', object: 'large objects', expected: 'none in the backup', found: describe(restored) });
    else notes.push('large objects are not part of this backup');
    return 0n;
  }
  if (restored === null) {
    differences.push({ kind: 'large-objects', object: 'large objects', expected: describe(expected), found: 'not read' });
    return 0n;
  }
  const same = BigInt(expected.count) === BigInt(restored.count) && BigInt(expected.bytes) === BigInt(restored.bytes) && expected.sum1 === restored.sum1 && expected.sum2 === restored.sum2;
  if (!same) differences.push({ kind: 'large-objects', object: 'large objects', expected: describe(expected), found: describe(restored) });
  return BigInt(restored.count);
}

function compareExtensions(wanted: PostgresFingerprint, found: PostgresFingerprint, differences: Difference[], notes: string[]): number {
  const restored = new Map(found.extensions.map((extension) => [extension.name, extension]));
  let compared = 0;
  for (const extension of wanted.extensions) {
    const other = restored.get(extension.name);
    restored.delete(extension.name);
    const expected = `version ${extension.version} in schema ${extension.schema}`;
    if (other === undefined) {
      differences.push({ kind: 'extension', object: extension.name, expected, found: 'not there' });
      continue;
    }
    compared += 1;
    if (other.version !== extension.version || other.schema !== extension.schema) {
      differences.push({ kind: 'extension', object: extension.name, expected, found: `version ${other.version} in schema ${other.schema}` });
    }
  }
  for (const extension of restored.values()) {
    // Every new database has it.
    if (extension.name === 'plpgsql') notes.push('the target has plpgsql, which the source had dropped');
    else differences.push({ kind: 'extension', object: extension.name, expected: 'not in the backup', found: `version ${extension.version}` });
  }
  return compared;
}

type RoleFingerprint = PostgresFingerprint['roles'][number];

/** The target has roles of its own, so the restored ones must be there and alike; more are allowed. */
function compareRoles(expected: Expected, found: PostgresFingerprint, differences: Difference[], notes: string[]): number {
  if (!expected.objects.some((object) => object.role === 'globals')) {
    notes.push('roles are not part of this backup (globals: false), so they were not compared');
    return 0;
  }
  const restored = new Map(found.roles.map((role) => [role.name, role]));
  let compared = 0;
  for (const role of expected.fingerprint.roles) {
    const other = restored.get(role.name);
    if (other === undefined) {
      differences.push({ kind: 'role', object: role.name, expected: describeRole(role), found: 'not there' });
      continue;
    }
    compared += 1;
    if (describeRole(role) !== describeRole(other)) differences.push({ kind: 'role', object: role.name, expected: describeRole(role), found: describeRole(other) });
  }
  return compared;
}

function describeRole({ attributes, memberOf, settings }: RoleFingerprint): string {
  const list = (items: readonly string[]): string => (items.length === 0 ? 'none' : [...items].sort().join(', '));
  return `attributes ${list(attributes)}; member of ${list(memberOf)}; settings ${list(settings)}`;
}

function compareSchema(wanted: PostgresFingerprint, found: PostgresFingerprint, differences: Difference[]): number {
  const restored = new Map(Object.entries(found.schemaObjects));
  let compared = 0;
  for (const [object, hash] of Object.entries(wanted.schemaObjects)) {
    const other = restored.get(object);
    restored.delete(object);
    if (other === undefined) {
      differences.push({ kind: 'schema-missing', object, expected: `definition ${hash.slice(0, 12)}`, found: 'not there' });
      continue;
    }
    compared += 1;
    if (other !== hash) differences.push({ kind: 'schema-changed', object, expected: `definition ${hash.slice(0, 12)}`, found: `definition ${other.slice(0, 12)}` });
  }
  for (const [object, hash] of restored) differences.push({ kind: 'schema-unexpected', object, expected: 'not in the backup', found: `definition ${hash.slice(0, 12)}` });
  return compared;
}

/** One line for people: what was compared, and what differs first. */
export function describeProof(proof: Proof): string {
  const { compared } = proof;
  const { words } = compared;
  const what = words !== undefined ? `${compared.tables} ${words.tables} with ${compared.rows} ${words.rows}, ${compared.schemaObjects} ${words.schemaObjects}` : `${compared.tables} tables with ${compared.rows} rows, ${compared.sequences} sequences, ${compared.largeObjects} large objects, ${compared.schemaObjects} schema objects, ${compared.extensions} extensions, ${compared.roles} roles`;
  if (proof.exact) return `exact: ${what} compared, no difference`;
  if (holds(proof)) return `no difference, but not exact: ${what} compared; not proved: ${proof.unproved!.slice(0, 3).join('; ')}${proof.unproved!.length > 3 ? ` and ${proof.unproved!.length - 3} more` : ''}`;
  const shown = proof.differences.slice(0, 3).map((difference) => `${difference.kind} ${difference.object}`);
  const more = proof.differences.length > shown.length ? ` and ${proof.differences.length - shown.length} more` : '';
  return `${proof.differences.length} difference(s): ${shown.join('; ')}${more} (${what} compared)`;
}
