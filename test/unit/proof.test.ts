import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PostgresFingerprint, SequenceFingerprint } from '../../src/model/manifest-postgres.ts';
import { compareFingerprints, describeProof, type Difference, type Expected, type Proof } from '../../src/model/proof.ts';

const COMPLETE: Expected['selection'] = { complete: true, include: { schemas: [], tables: [] }, exclude: { schemas: [], tables: [], tableData: [] } };
const DIGEST = 'a'.repeat(64);
const GLOBALS: Expected['objects'] = [
  { name: 'globals.sql.zst', role: 'globals', storedBytes: 1, plainBytes: 1, storedSha256: DIGEST, plainSha256: DIGEST, compression: 'zstd', encryption: 'none' },
];

function sequence(before: [string, boolean], after: [string, boolean] = before, name = 'orders_id_seq'): SequenceFingerprint {
  const state = ([lastValue, isCalled]: [string, boolean]) => ({ lastValue, isCalled });
  return { schema: 'public', name, before: state(before), after: state(after) };
}

const FINGERPRINT: PostgresFingerprint = {
  method: 'hashtextextended-sum/1',
  tables: [
    { schema: 'public', name: 'orders', kind: 'table', rows: '3', sum1: '-77', sum2: '12345678901234567890' },
    { schema: 'Mixed', name: 'Case', kind: 'table', rows: '0', sum1: '0', sum2: '0' },
    { schema: 'public', name: 'totals', kind: 'materialized-view', rows: '1', sum1: '5', sum2: '6' },
  ],
  sequences: [sequence(['41', true])],
  largeObjects: { count: '2', bytes: '300', sum1: '1', sum2: '2' },
  extensions: [{ name: 'plpgsql', version: '1.0', schema: 'pg_catalog' }, { name: 'pgcrypto', version: '1.3', schema: 'public' }],
  roles: [{ name: 'app', attributes: ['login', 'inherit'], memberOf: ['readers'], settings: [] }],
  schemaObjects: { 'TABLE public orders': 'h1', 'INDEX public orders_by_day': 'h2', 'ACL public TABLE orders': 'h3' },
  schemaSha256: 's',
};

function manifest(fingerprint: PostgresFingerprint = FINGERPRINT, over: Partial<Expected> = {}): Expected {
  return { fingerprint, selection: COMPLETE, objects: GLOBALS, ...over };
}

function changed(change: (copy: Mutable) => void): PostgresFingerprint {
  const copy = structuredClone(FINGERPRINT) as Mutable;
  change(copy);
  return copy as PostgresFingerprint;
}
type Mutable = { -readonly [K in keyof PostgresFingerprint]: PostgresFingerprint[K] };

function kinds(proof: Proof): [Difference['kind'], string][] {
  return proof.differences.map((difference) => [difference.kind, difference.object]);
}

test('an equal restore is exact, says how much was compared, and bears roles of the target', () => {
  const proof = compareFingerprints(manifest(), changed((copy) => void copy.roles.push({ name: 'holdfast_drill', attributes: ['superuser'], memberOf: [], settings: [] })));
  expect(proof.differences).toEqual([]);
  expect(proof).toMatchObject({ exact: true, compared: { tables: 2, rows: '3', sequences: 1, largeObjects: '2', extensions: 2, roles: 1, schemaObjects: 3 }, notes: [] });
  expect(describeProof(proof)).toBe('exact: 2 tables with 3 rows, 1 sequences, 2 large objects, 3 schema objects, 2 extensions, 1 roles compared, no difference');
});

describe('each planted difference is named', () => {
  const cases: [string, (copy: Mutable) => void, Difference['kind'], string][] = [
    ['a missing row', (copy) => void (copy.tables[0] = { ...copy.tables[0]!, rows: '2', sum1: '1', sum2: '2' }), 'rows', 'public.orders'],
    ['a changed row', (copy) => void (copy.tables[0] = { ...copy.tables[0]!, sum2: '9' }), 'content', 'public.orders'],
    ['a changed row that meets the first sum', (copy) => void (copy.tables[0] = { ...copy.tables[0]!, sum1: '-77', sum2: '0' }), 'content', 'public.orders'],
    ['a row in a table that was empty', (copy) => void (copy.tables[1] = { ...copy.tables[1]!, rows: '1' }), 'rows', '"Mixed"."Case"'],
    ['a missing table', (copy) => void copy.tables.shift(), 'table-missing', 'public.orders'],
    ['a missing materialized view', (copy) => void copy.tables.pop(), 'table-missing', 'public.totals'],
    ['an unexpected table', (copy) => void copy.tables.push({ schema: 'public', name: 'more', kind: 'table', rows: '0', sum1: '0', sum2: '0' }), 'table-unexpected', 'public.more'],
    ['a changed sequence', (copy) => void (copy.sequences = [sequence(['40', true])]), 'sequence', 'public.orders_id_seq'],
    ['a sequence not called', (copy) => void (copy.sequences = [sequence(['41', false])]), 'sequence', 'public.orders_id_seq'],
    ['a missing sequence', (copy) => void (copy.sequences = []), 'sequence', 'public.orders_id_seq'],
    ['an unexpected sequence', (copy) => void copy.sequences.push(sequence(['1', true], ['1', true], 'other')), 'sequence', 'public.other'],
    ['a sequence drawn from meanwhile', (copy) => void (copy.sequences = [sequence(['41', true], ['42', true])]), 'sequence', 'public.orders_id_seq'],
    ['a missing large object', (copy) => void (copy.largeObjects = { count: '1', bytes: '100', sum1: '3', sum2: '4' }), 'large-objects', 'large objects'],
    ['a changed large object', (copy) => void (copy.largeObjects = { count: '2', bytes: '300', sum1: '1', sum2: '3' }), 'large-objects', 'large objects'],
    ['large objects not read', (copy) => void (copy.largeObjects = null), 'large-objects', 'large objects'],
    ['a missing extension', (copy) => void copy.extensions.pop(), 'extension', 'pgcrypto'],
    ['another extension version', (copy) => void (copy.extensions[1] = { ...copy.extensions[1]!, version: '1.4' }), 'extension', 'pgcrypto'],
    ['an extension elsewhere', (copy) => void (copy.extensions[1] = { ...copy.extensions[1]!, schema: 'ext' }), 'extension', 'pgcrypto'],
    ['an unexpected extension', (copy) => void copy.extensions.push({ name: 'dblink', version: '1.2', schema: 'public' }), 'extension', 'dblink'],
    ['a missing role', (copy) => void (copy.roles = []), 'role', 'app'],
    ['a role with other rights', (copy) => void (copy.roles = [{ ...copy.roles[0]!, attributes: ['login', 'inherit', 'superuser'] }]), 'role', 'app'],
    ['a lost membership', (copy) => void (copy.roles = [{ ...copy.roles[0]!, memberOf: [] }]), 'role', 'app'],
    ['a missing index', (copy) => void delete copy.schemaObjects['INDEX public orders_by_day'], 'schema-missing', 'INDEX public orders_by_day'],
    ['a lost grant', (copy) => void (copy.schemaObjects['ACL public TABLE orders'] = 'h4'), 'schema-changed', 'ACL public TABLE orders'],
    ['an unexpected trigger', (copy) => void (copy.schemaObjects['TRIGGER public orders t'] = 'h5'), 'schema-unexpected', 'TRIGGER public orders t'],
  ];
  test.each(cases)('%s', (_name, change, kind, object) => {
    const proof = compareFingerprints(manifest(), changed(change));
    expect(proof.exact).toBe(false);
    expect(kinds(proof)).toEqual([[kind, object]]);
    expect(proof.differences[0]!.expected).not.toBe(proof.differences[0]!.found);
    expect(describeProof(proof)).toContain(object);
  });
});

test('roles in another order of attributes are the same', () => {
  expect(compareFingerprints(manifest(), changed((copy) => void (copy.roles = [{ ...copy.roles[0]!, attributes: ['inherit', 'login'] }]))).exact).toBe(true);
});

test('a materialized view that the restore refreshed is a note, not a difference', () => {
  const proof = compareFingerprints(manifest(), changed((copy) => void (copy.tables[2] = { ...copy.tables[2]!, rows: '2', sum1: '8' })));
  expect(proof.exact).toBe(true);
  expect(proof.notes.join()).toContain('materialized view public.totals was refreshed');
});

test('without globals in the backup roles are not compared, and that is said', () => {
  const proof = compareFingerprints(manifest(FINGERPRINT, { objects: [] }), changed((copy) => void (copy.roles = [])));
  expect(proof).toMatchObject({ exact: true, compared: { roles: 0 } });
  expect(proof.notes.join()).toContain('roles are not part of this backup');
});

test('a selection is said', () => {
  const selection = { complete: false, include: { schemas: ['app'], tables: [] }, exclude: { schemas: [], tables: [], tableData: ['app.log'] } };
  expect(compareFingerprints(manifest(FINGERPRINT, { selection }), FINGERPRINT).notes).toEqual(['the backup holds a selection only: schemas app; without the rows of app.log']);
});

describe('an empty comparison is never a proof', () => {
  const EMPTY: PostgresFingerprint = { ...FINGERPRINT, tables: [], sequences: [], largeObjects: null, extensions: [], roles: [], schemaObjects: {} };
  test('nothing against nothing', () => {
    const proof = compareFingerprints(manifest(EMPTY), EMPTY);
    expect(proof.exact).toBe(false);
    expect(kinds(proof)).toEqual([['archive', 'backup']]);
  });
  test('everything against nothing', () => {
    expect(compareFingerprints(manifest(), EMPTY)).toMatchObject({ exact: false, compared: { tables: 0 } });
  });
  test('a backup without tables is proved by what else it holds, and says so', () => {
    const some = { ...EMPTY, schemaObjects: { 'SCHEMA - app': 'h' } };
    const proof = compareFingerprints(manifest(some), some);
    expect(proof.exact).toBe(true);
    expect(proof.notes).toContain('the backup holds no tables, so no rows were compared');
  });
});

describe('sequences drawn from during the dump', () => {
  const cases: [string, [string, boolean], [string, boolean], [string, boolean], boolean][] = [
    ['between', ['10', true], ['20', true], ['15', true], true],
    ['at the first value', ['10', true], ['20', true], ['10', true], true],
    ['at the last value', ['10', true], ['20', true], ['20', true], true],
    ['before it', ['10', true], ['20', true], ['9', true], false],
    ['after it', ['10', true], ['20', true], ['21', true], false],
    ['first draw: not called', ['1', false], ['1', true], ['1', false], true],
    ['first draw: called', ['1', false], ['1', true], ['1', true], true],
    ['first draw: too far', ['1', false], ['1', true], ['2', true], false],
    ['descending, between', ['-1', true], ['-9', true], ['-5', true], true],
    ['descending, before it', ['-2', true], ['-9', true], ['-1', true], false],
    ['descending, after it', ['-2', true], ['-9', true], ['-10', true], false],
    ['beyond 2^53', ['9007199254740993', true], ['9007199254740995', true], ['9007199254740994', true], true],
    ['beyond 2^53, after it', ['9007199254740993', true], ['9007199254740993', true], ['9007199254740992', true], false],
    ['restarted meanwhile, between', ['50', true], ['1', false], ['20', true], false],
    ['restarted meanwhile, at its end', ['50', true], ['1', false], ['1', false], true],
  ];
  test.each(cases)('%s', (_name, before, after, found, exact) => {
    const proof = compareFingerprints(manifest(changed((copy) => void (copy.sequences = [sequence(before, after)]))), changed((copy) => void (copy.sequences = [sequence(found)])));
    expect(proof.exact).toBe(exact);
  });
});

test('any fingerprint is exact against itself and never against one with any leaf changed', () => {
  const name = fc.stringMatching(/^[a-z"A-Z.]{1,6}$/);
  const digits = fc.bigInt({ min: 0n, max: 2n ** 70n }).map(String);
  const table = fc.record({ schema: name, name, kind: fc.constant('table' as const), rows: digits, sum1: digits, sum2: digits });
  const fingerprint: fc.Arbitrary<PostgresFingerprint> = fc.record({
    method: fc.constant('hashtextextended-sum/1' as const),
    tables: fc.uniqueArray(table, { selector: (one) => JSON.stringify([one.schema, one.name]), minLength: 1, maxLength: 4 }),
    sequences: fc.constant([]),
    largeObjects: fc.option(fc.record({ count: digits, bytes: digits, sum1: digits, sum2: digits })),
    extensions: fc.uniqueArray(fc.record({ name, version: name, schema: name }), { selector: (one) => one.name, maxLength: 3 }),
    roles: fc.uniqueArray(fc.record({ name, attributes: fc.uniqueArray(name), memberOf: fc.uniqueArray(name), settings: fc.uniqueArray(name) }), { selector: (one) => one.name, maxLength: 3 }),
    schemaObjects: fc.dictionary(name, digits, { maxKeys: 4 }),
    schemaSha256: digits,
  });
  fc.assert(
    fc.property(fingerprint, fc.nat(), (one, pick) => {
      expect(compareFingerprints(manifest(one), structuredClone(one)).exact).toBe(true);
      const other = structuredClone(one) as Mutable;
      const leaves: (() => void)[] = [];
      other.tables.forEach((_, index) => {
        for (const field of ['rows', 'sum1', 'sum2'] as const) leaves.push(() => void (other.tables[index] = { ...other.tables[index]!, [field]: `${BigInt(other.tables[index]![field]) + 1n}` }));
        for (const field of ['schema', 'name'] as const) leaves.push(() => void (other.tables[index] = { ...other.tables[index]!, [field]: `${other.tables[index]![field]}!` }));
      });
      if (other.largeObjects !== null) for (const field of ['count', 'bytes', 'sum1', 'sum2'] as const) leaves.push(() => void (other.largeObjects = { ...other.largeObjects!, [field]: `${BigInt(other.largeObjects![field]) + 1n}` }));
      other.extensions.forEach((_, index) => {
        for (const field of ['name', 'version', 'schema'] as const) leaves.push(() => void (other.extensions[index] = { ...other.extensions[index]!, [field]: `${other.extensions[index]![field]}!` }));
      });
      other.roles.forEach((_, index) => {
        for (const field of ['attributes', 'memberOf', 'settings'] as const) leaves.push(() => void (other.roles[index] = { ...other.roles[index]!, [field]: [...other.roles[index]![field], 'extra!'] }));
      });
      for (const key of Object.keys(other.schemaObjects)) leaves.push(() => void (other.schemaObjects = { ...other.schemaObjects, [key]: `${other.schemaObjects[key]}0` }));
      leaves[pick % leaves.length]!();
      expect(compareFingerprints(manifest(one), other).exact).toBe(false);
    }),
    { numRuns: 400 },
  );
});
