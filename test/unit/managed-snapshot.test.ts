import { describe, expect, test } from 'vitest';
import { checkConfig } from '../../src/model/config.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import {
  drillInstanceIdentifier, judgeMarkers, proveManaged, provePointInTime, refusesEndpoint, refusesTarget, settle, snapshotIdentifier, snapshotTags, whyNotOurs, NO_FINGERPRINT, type Reading,
} from '../../src/model/managed-snapshot.ts';
import { postgresManifestSchema, type PostgresManifest, type PostgresFingerprint } from '../../src/model/manifest-postgres.ts';
import { describeProof, holds } from '../../src/model/proof.ts';


const table = (name: string, rows: string, sum1 = '1') => ({ schema: 'public', name, kind: 'table' as const, rows, sum1, sum2: '2' });
function fingerprint(more: Partial<PostgresFingerprint> = {}): PostgresFingerprint {
  return { ...NO_FINGERPRINT, tables: [table('a', '1'), table('b', '2'), { ...table('recovery_marker', '3'), schema: 'holdfast' }], schemaObjects: { 'TABLE public a': 'x', 'TABLE public b': 'y' }, largeObjects: { count: '0', bytes: '0', sum1: '0', sum2: '0' }, ...more };
}
const reading = (more: Partial<PostgresFingerprint> = {}, changes: Record<string, string> = { 'public.a': '1', 'public.b': '2' }): Reading => ({ fingerprint: fingerprint(more), changes });

function manifest(before: Reading, after: Reading, markers: NonNullable<PostgresManifest['managed']>['markers'] = { present: ['m/1'], between: ['m/2', 'm/3'], absent: ['m/4'] }): PostgresManifest {
  const settled = settle(before, after);
  return postgresManifestSchema.parse({
    format: 2, id: 'x', datastore: 'shop', engine: 'postgres', environment: 'test', snapshotAt: '2026-11-21T00:00:00Z', startedAt: '2026-11-21T00:00:00Z', finishedAt: '2026-11-21T00:01:00Z', reason: 'test', workflowId: 'w', runId: 'r',
    source: { node: 'a', role: 'primary', database: 'shop', systemIdentifier: null, snapshotId: '', lsn: '', timeline: null, serverVersion: '15', serverVersionNumber: 150004, encoding: '', collate: '', ctype: '', localeProvider: '', databaseBytes: null },
    tools: {}, selection: { complete: true, include: { schemas: [], tables: [] }, exclude: { schemas: [], tables: [], tableData: [] } }, objects: [], fingerprint: settled.fingerprint, commands: [],
    managed: { kind: 'rds-snapshot', instance: 'i', region: 'eu-central-1', identifier: 's', arn: 'arn', createdAt: null, databaseTime: null, engineVersion: null, allocatedGiB: null, encrypted: false, kmsKeyId: null, copies: [], sharedWith: [], markers, fingerprinted: true, moving: settled.moving, sequenceSteps: { 'public.up': { increment: '1', cache: '1' }, 'public.down': { increment: '-2', cache: '1' } } },
  });
}
const seen = (...ids: string[]) => new Set(ids);

describe('names and tags', () => {
  test('are what RDS takes: a letter first, single hyphens, no hyphen at the end, 63 characters for an instance', () => {
    expect(snapshotIdentifier('a--b', 'x1')).toBe('holdfast-a-b-x1');
    for (const datastore of ['a', 'shop', 'x'.repeat(63), `${'y'.repeat(35)}-z`]) {
      const name = drillInstanceIdentifier(datastore, '0123456789ab');
      expect(name).toMatch(/^[a-z](-?[a-z0-9])*$/);
      expect(name.length).toBeLessThanOrEqual(63);
      expect(name.endsWith('0123456789ab')).toBe(true);
    }
  });

  test("ours is what carries all of our tags; a user's own tags cannot take their place", () => {
    const of = { environment: 'production', datastore: 'shop', backup: 'x' };
    expect(whyNotOurs(snapshotTags(of, { 'holdfast:backup': 'forged', team: 'data' }), of)).toBeNull();
    expect(whyNotOurs({}, of)).toContain('is missing');
    expect(whyNotOurs(snapshotTags({ ...of, environment: 'staging' }, {}), of)).toContain('"staging", expected "production"');
  });
});

describe('a drill apart from production', () => {
  const production = [{ identifier: 'shop', region: 'eu-central-1', address: 'db', subnetGroup: 'main', securityGroups: ['sg-1'] }];
  test('refuses names, subnet groups and security groups of production', () => {
    expect(refusesTarget({ identifier: 'drill', region: 'eu-central-1', subnetGroup: 'drills', securityGroups: ['sg-2'] }, production)).toEqual([]);
    expect(refusesTarget({ identifier: 'drill', region: 'eu-central-1', subnetGroup: 'Main', securityGroups: ['sg-2', 'sg-1'] }, production)).toHaveLength(2);
    expect(refusesTarget({ identifier: 'drill', region: 'eu-west-1', subnetGroup: 'main', securityGroups: ['sg-2'] }, production)).toEqual([]);
    expect(refusesTarget({ identifier: 'shop', region: 'eu-west-1', subnetGroup: 'drills', securityGroups: [] }, production)).toHaveLength(1);
  });
  test('refuses an address of production, missing tags, and what the internet reaches', () => {
    const expected = { workflowId: 'drill/1', environment: 'test' };
    const found = { identifier: 'drill', address: 'drill', port: 5432, tags: { 'holdfast:drill': 'drill/1', 'holdfast:environment': 'test' }, publiclyAccessible: false };
    expect(refusesEndpoint(found, expected, [{ host: 'db', port: 5432, what: 'shop/a' }])).toEqual([]);
    expect(refusesEndpoint({ ...found, address: 'db' }, expected, [{ host: 'db', port: 5432, what: 'shop/a' }])).toEqual(['db:5432 is the address of shop/a']);
    expect(refusesEndpoint({ ...found, publiclyAccessible: true, tags: {} }, expected, [])).toHaveLength(3);
  });
});

describe('what moved while the snapshot was taken', () => {
  test('nothing: everything can be proved', () => {
    const { fingerprint: settled, moving } = settle(reading(), reading());
    expect(moving).toEqual([]);
    expect(settled.tables.map(({ name }) => name)).toEqual(['a', 'b']);
  });
  test('a table with the same rows that was written to meanwhile is not called settled', () => {
    const { fingerprint: settled, moving } = settle(reading(), reading({}, { 'public.a': '3', 'public.b': '2' }));
    expect(settled.tables.map(({ name }) => name)).toEqual(['b']);
    expect(moving).toEqual([{ what: 'table', object: 'public.a', why: 'the same 1 rows, but written to meanwhile' }]);
  });
  test('tables, definitions, roles and large objects that came, went or changed are named', () => {
    const after = reading({ tables: [table('a', '9'), table('c', '1')], schemaObjects: { 'TABLE public a': 'other', 'TABLE public c': 'z' }, largeObjects: { count: '1', bytes: '1', sum1: '1', sum2: '1' }, roles: [{ name: 'r', attributes: [], memberOf: [], settings: [] }] });
    expect(settle(reading(), after).moving.map(({ what, object, why }) => `${what} ${object}: ${why}`)).toEqual([
      'table public.a: 1 rows before, 9 after', 'table public.b: gone afterwards', 'table public.c: made meanwhile', 'schema TABLE public a: its definition changed', 'schema TABLE public b: gone afterwards', 'schema TABLE public c: made meanwhile',
      'role r: made meanwhile', 'large-objects all: 0 before, 1 after',
    ]);
  });
});

describe('the proof of a restored snapshot', () => {
  test('is exact only when nothing moved and nothing differs', () => {
    const proof = proveManaged(manifest(reading(), reading()), fingerprint(), seen('m/1', 'm/2'));
    expect(proof).toMatchObject({ exact: true, differences: [], compared: { tables: 2, rows: '3' } });
    expect(proof.unproved).toBeUndefined();
  });
  test('names what moved, is not exact, and still holds', () => {
    const proof = proveManaged(manifest(reading(), reading({ tables: [table('a', '9'), table('b', '2')] })), fingerprint({ tables: [table('a', '5'), table('b', '2')] }), seen('m/1'));
    expect(proof).toMatchObject({ exact: false, differences: [], compared: { tables: 1 }, unproved: ['table public.a (1 rows before, 9 after)'] });
    expect(holds(proof)).toBe(true);
    expect(describeProof(proof)).toMatch(/^no difference, but not exact/);
  });
  test('finds what differs, also beside what moved', () => {
    const proof = proveManaged(manifest(reading(), reading({ tables: [table('a', '9'), table('b', '2')] })), fingerprint({ tables: [table('a', '5'), table('b', '2', '7')] }), seen('m/1'));
    expect(proof.differences).toMatchObject([{ kind: 'content', object: 'public.b' }]);
    expect(holds(proof)).toBe(false);
  });
  test('a table made meanwhile may be there or not', () => {
    const made = manifest(reading(), reading({ tables: [table('a', '1'), table('b', '2'), table('c', '1')], schemaObjects: { ...fingerprint().schemaObjects, 'TABLE public c': 'z' } }));
    for (const tables of [[table('a', '1'), table('b', '2')], [table('a', '1'), table('b', '2'), table('c', '1')]]) expect(proveManaged(made, fingerprint({ tables }), seen('m/1'))).toMatchObject({ exact: false, differences: [] });
  });
  test.each([
    ['up', '100', '100', true, true], ['up', '100', '133', true, false], ['up', '100', '134', false, false], ['up', '100', '99', false, false],
    ['down', '100', '34', true, false], ['down', '100', '33', false, false], ['down', '100', '101', false, false],
  ])('a sequence that counts %s and was read as %s may stand at %s after recovery: %s', (name, read, stands, ok, exact) => {
    const sequence = (value: string) => [{ schema: 'public', name, before: { lastValue: value, isCalled: true }, after: { lastValue: value, isCalled: true } }];
    const proof = proveManaged(manifest(reading({ sequences: sequence(read) }), reading({ sequences: sequence(read) })), fingerprint({ sequences: sequence(stands) }), seen('m/1'));
    expect({ ok: holds(proof), exact: proof.exact }).toEqual({ ok, exact });
  });
  test('without markers, or without fingerprints, it says so and is never exact', () => {
    expect(proveManaged(manifest(reading(), reading(), null), fingerprint(), seen())).toMatchObject({ exact: false, unproved: [expect.stringContaining('the moment it is of')] });
    const unread = manifest(reading(), reading());
    const proof = proveManaged({ ...unread, fingerprint: NO_FINGERPRINT, managed: { ...unread.managed!, fingerprinted: false } }, fingerprint(), seen('m/1'));
    expect(proof).toMatchObject({ exact: false, differences: [], unproved: [expect.stringContaining('no fingerprints')] });
  });
});

describe('marker rows', () => {
  const expected = { present: ['m/1'], between: ['m/2', 'm/3'], absent: ['m/4'] };
  test('what is restored is a beginning of them', () => {
    expect(judgeMarkers(expected, seen('m/1', 'm/2'))).toEqual({ differences: [], reached: 1 });
    expect(judgeMarkers(expected, seen('m/1', 'm/2', 'm/3'))).toMatchObject({ differences: [], reached: 2 });
  });
  test.each([
    ['one that was acknowledged before is missing', seen(), 'm/1'],
    ['one that was written afterwards is there', seen('m/1', 'm/2', 'm/3', 'm/4'), 'm/4'],
    ['there is a gap', seen('m/1', 'm/3'), 'm/2'],
  ])('%s: a difference', (_, found, object) => {
    expect(judgeMarkers(expected, found).differences).toMatchObject([{ object: `marker row ${object}` }]);
  });
  test('a point in time holds by the two markers around it, and claims no exact content', () => {
    const of = { at: '2026-11-21T00:00:00Z', before: 'm/1', after: 'm/2' };
    expect(holds(provePointInTime(of, seen('m/1'), { tables: 3, rows: '9' }))).toBe(true);
    expect(provePointInTime(of, seen('m/1'), { tables: 3, rows: '9' }).exact).toBe(false);
    for (const found of [seen(), seen('m/1', 'm/2'), seen('m/2')]) expect(holds(provePointInTime(of, found, { tables: 3, rows: '9' }))).toBe(false);
  });
});

describe('the manifest', () => {
  test('a managed snapshot has format 2 and no objects; a dump has format 1 and objects', () => {
    const good = manifest(reading(), reading());
    expect(postgresManifestSchema.safeParse({ ...good, format: 1 }).success).toBe(false);
    const { managed: _, ...dump } = good;
    expect(postgresManifestSchema.safeParse({ ...dump, format: 1 }).success).toBe(false);
    expect(postgresManifestSchema.safeParse(dump).success).toBe(false);
  });
});

describe('the configuration', () => {
  const check = (datastore: object, more: object = {}): string[] => {
    const document = {
      version: 1, stores: { main: { type: 'folder', path: '/x' } }, services: {}, ...more,
      datastores: { shop: { engine: 'postgres', database: 'shop', store: 'main', retention: { last: 3 }, admin: { username: 'a', password: 'env:X' }, nodes: { a: { host: 'db', rds: { instance: 'shop', region: 'eu-central-1' } } }, managed: { type: 'rds', snapshots: {} }, ...datastore } },
    };
    return checkConfig(configSchema.parse(document)).map(({ level, path, message }) => `${level} ${path.join('.')}: ${message}`);
  };
  test('managed snapshots need an RDS instance and a store', () => {
    expect(check({})).toEqual([]);
    expect(check({ managed: { type: 'aurora', cluster: 'c', snapshots: {} } })).toEqual([expect.stringContaining('not of Aurora clusters')]);
    expect(check({ store: undefined, retention: undefined })).toEqual([expect.stringContaining('no store for the manifest'), expect.stringContaining('without retention')]);
  });
  test('what cannot hold is refused: deadlines in the wrong order, a copy in the same Region, twice', () => {
    expect(check({ managed: { type: 'rds', snapshots: { startWithin: '2h', completeWithin: '1h' } } })).toEqual([expect.stringContaining('must be longer than startWithin')]);
    expect(check({ managed: { type: 'rds', snapshots: { copies: [{ region: 'eu-central-1' }, { region: 'eu-west-1' }, { region: 'eu-west-1' }] } } })).toEqual([expect.stringContaining('the instance itself'), expect.stringContaining('stands here already')]);
    const drill = { region: 'us-east-1', instanceClass: 'db.t4g.small', subnetGroup: 'drills', securityGroups: ['sg-1'] };
    expect(check({ managed: { type: 'rds', snapshots: { drill } } })).toEqual([expect.stringContaining('no copy is made in this Region')]);
    expect(check({ managed: { type: 'rds', snapshots: { drill, copies: [{ region: 'us-east-1' }] } } })).toEqual([]);
    expect(check({ backup: { include: { schemas: ['public'] } } })).toEqual([expect.stringContaining('the selection holds for dumps only')]);
  });
  test('a scheduled drill needs somewhere to restore', () => {
    const schedules = (more: object) => ({ schedules: { monthly: { run: 'restoreDrill', datastore: 'shop', cron: '0 3 1 * *', ...more } }, notify: { x: { type: 'slack', url: 'env:X' } } });
    expect(check({}, schedules({}))).toEqual([expect.stringContaining('nothing says where a drill restores them')]);
    expect(check({}, schedules({ pointInTime: 'now' }))).toEqual([expect.stringContaining('does not say where a point in time is restored')]);
    const drill = { instanceClass: 'db.t4g.small', subnetGroup: 'drills', securityGroups: ['sg-1'] };
    expect(check({ managed: { type: 'rds', snapshots: { drill } } }, schedules({ pointInTime: 'now' }))).toEqual([]);
    expect(check({ managed: { type: 'rds', snapshots: { drill } } }, schedules({ pointInTime: 'now', backup: 'newest' }))).toEqual([expect.stringContaining('exclude each other')]);
  });
});
