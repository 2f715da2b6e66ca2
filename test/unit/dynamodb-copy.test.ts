import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { whileHeld } from '../../activities/lease.ts';
import type { StepRun } from '../../activities/step-definition.ts';
import { nativeProblems } from '../../src/model/config-dynamodb.ts';
import { beginCopy, identityText, missingSegments, missingSettings, resumeCopy, sameTable, segmentsFor, takeOverProblem, unknownSettings, withSegment, type LateSettings } from '../../src/model/dynamodb-copy.ts';
import { exportDisagreements, exportIdOf, exportKey, momentWithin, onDemandName, sameMd5, whyNotDrillTable, whyNotOurBackup } from '../../src/model/dynamodb-native.ts';
import { readPosition, type StreamPosition } from '../../src/model/dynamodb-stream.ts';

const of = { source: 'a', target: 'b' };

describe('what a copy writes down', () => {
  it('knows which segments are left, in whatever order they were done, and stays short', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.nat(40)), (order) => {
        let state = beginCopy({ ...of, segments: 41, startedAtMs: 0, position: null });
        for (const segment of order) state = withSegment(JSON.parse(JSON.stringify(state)) as typeof state, segment, segment);
        expect(new Set([...missingSegments(state), ...order])).toEqual(new Set(Array.from({ length: 41 }, (_, at) => at)));
        expect(missingSegments(state).length + order.length).toBe(41);
        expect(state.items).toBe(order.reduce((sum, one) => sum + one, 0));
      }),
    );
    let state = beginCopy({ ...of, segments: 5000, startedAtMs: 0, position: null });
    for (let at = 0; at < 5000; at += 1) state = withSegment(state, at, 1);
    expect(state.done).toBe('0-4999');
    expect(missingSegments(state)).toEqual([]);
  });

  it('is taken over only for the very same tables; what was under way is read again', () => {
    const state = { ...withSegment(beginCopy({ ...of, segments: 4, startedAtMs: 0, position: null }), 2, 10), begun: [0, 1] };
    expect(resumeCopy(JSON.parse(JSON.stringify(state)), of)).toMatchObject({ done: '2', items: 10, repeated: 2, begun: [] });
    expect(() => resumeCopy(state, { ...of, target: 'made anew' })).toThrow('other tables');
    // Of another step, or nothing.
    for (const other of [null, undefined, { kind: 'dynamodb.follow/1' }, { read: 3 }]) expect(resumeCopy(other, of)).toBeUndefined();
  });

  it('knows a table by more than its name', () => {
    const table = { arn: 'arn:aws:dynamodb:eu-central-1:1:table/orders', id: null, createdAtMs: 1 };
    expect(sameTable(table, { ...table })).toBe(true);
    // As DynamoDB Local gives tables of two Regions.
    expect(sameTable(table, { ...table, createdAtMs: 2 })).toBe(false);
    expect(identityText(table)).not.toBe(identityText({ ...table, createdAtMs: 2 }));
    expect(identityText({ ...table, id: 'x' })).toBe(`${table.arn} (x)`);
    expect([segmentsFor(0, 4), segmentsFor(64_000_000 * 100, 4), segmentsFor(1e15, 4)]).toEqual([8, 100, 10_000]);
  });
});

describe('settings that nothing brings along', () => {
  const wanted: LateSettings = { stream: 'NEW_IMAGE', timeToLive: 'until', tags: { team: 'a', keep: 'b' }, pointInTime: { enabled: true, days: 7 }, deletionProtection: true };
  const none: LateSettings = { stream: null, timeToLive: null, tags: {}, pointInTime: { enabled: false, days: null }, deletionProtection: false };

  it('are those the source has and the copy lacks; what it has more is left', () => {
    expect(missingSettings(wanted, none).words).toEqual(['stream NEW_IMAGE', 'time to live by until', 'tags team, keep', 'point-in-time recovery', 'deletion protection']);
    expect(missingSettings(none, wanted).words).toEqual([]);
    expect(missingSettings(wanted, wanted)).toEqual({ words: [], settings: { stream: null, timeToLive: null, tags: null, pointInTime: null, deletionProtection: false } });
    expect(missingSettings(wanted, { ...wanted, tags: { team: 'a', keep: 'c' } }).settings.tags).toEqual({ keep: 'b' });
  });

  it('are not missed where the server does not know them, and that is said', () => {
    const local: LateSettings = { ...wanted, tags: null, pointInTime: null };
    expect(missingSettings(wanted, local).words).toEqual([]);
    expect(unknownSettings(wanted, local)).toEqual(['tags', 'point-in-time recovery']);
  });
});

describe("the service's own backups", () => {
  it('are known by names that nobody else has', () => {
    expect(onDemandName('orders', 'k3x9')).toBe('holdfast-orders-k3x9');
    expect(onDemandName('or ders', 'k3x9')).toBe('holdfast-or-ders-k3x9');
    const expected = { name: 'holdfast-orders-k3x9', tableArn: 't' };
    expect(whyNotOurBackup(expected, expected)).toBeNull();
    expect(whyNotOurBackup({ ...expected, name: 'before-the-release' }, expected)).toContain('before-the-release');
    expect(whyNotOurBackup({ ...expected, tableArn: 'u' }, expected)).toContain('of the table u');
  });

  it('of an export are one folder, by either spelling of keys and checksums', () => {
    expect(exportIdOf('arn:aws:dynamodb:eu-central-1:1:table/orders/export/01693685827463-2d8752fd')).toBe('01693685827463-2d8752fd');
    expect(exportKey('a/b', 'AWSDynamoDB/1/data/x.json.gz')).toBe('a/b/AWSDynamoDB/1/data/x.json.gz');
    expect(exportKey('a/b', 'a/b/AWSDynamoDB/1/data/x.json.gz')).toBe('a/b/AWSDynamoDB/1/data/x.json.gz');
    expect(exportKey('', 'AWSDynamoDB/1/x')).toBe('AWSDynamoDB/1/x');
    const md5 = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
    expect([sameMd5(`${md5.toString('base64')}\n`, md5), sameMd5(md5.toString('hex'), md5), sameMd5('x', md5)]).toEqual([true, true, false]);
    const summary = { exportArn: 'e', tableArn: 't', itemCount: 3 } as Parameters<typeof exportDisagreements>[0];
    const expected = { arn: 'e', tableArn: 't' };
    expect(exportDisagreements(summary, [{ itemCount: 1, dataFileS3Key: 'x' }, { itemCount: 2, dataFileS3Key: 'y' }], expected)).toEqual([]);
    expect(exportDisagreements(summary, [{ itemCount: 2, dataFileS3Key: 'x' }, { itemCount: 2, dataFileS3Key: 'x' }], { arn: 'f', tableArn: 'u' })).toEqual(['the summary is of e, not of f', 'the summary is of the table t, not of u', 'the summary says 3 items, its files hold 4', 'x is named twice']);
  });

  it('to a moment are within the window, a few minutes before it, or outside', () => {
    const window = { enabled: true, earliestMs: 1000, latestMs: 5000 };
    expect(momentWithin(window, 4000, 9000)).toEqual({ is: 'within' });
    expect(momentWithin(window, 6000, 9000)).toEqual({ is: 'wait' });
    expect(momentWithin(window, 9500, 9000)).toMatchObject({ is: 'outside' });
    expect(momentWithin(window, 500, 9000)).toMatchObject({ is: 'outside' });
    expect(momentWithin({ ...window, enabled: false }, 4000, 9000)).toMatchObject({ is: 'outside', why: 'point-in-time recovery is off' });
  });

  it('never make anything but the table of a drill be deleted', () => {
    expect(whyNotDrillTable({ name: 'holdfast-moment-orders', restored: true, protected: false })).toBeNull();
    expect(whyNotDrillTable({ name: 'orders', restored: true, protected: false })).toContain('does not begin with');
    expect(whyNotDrillTable({ name: 'holdfast-moment-orders', restored: false, protected: false })).toContain('somebody made it');
    expect(whyNotDrillTable({ name: 'holdfast-moment-orders', restored: true, protected: true })).toContain('protected');
  });
});

describe('a configuration', () => {
  const datastore = { region: 'eu-central-1', backup: { method: 'export' }, drill: {} };

  it('asks of the service nothing that it cannot do', () => {
    expect(nativeProblems(datastore, { type: 's3' })).toEqual([]);
    expect(nativeProblems(datastore, { type: 'folder' })[0]).toMatchObject({ at: ['backup', 'method'], message: expect.stringContaining('Amazon S3 only') });
    expect(nativeProblems(datastore, { type: 's3', encryption: {} })[0]).toMatchObject({ message: expect.stringContaining('age') });
    const onDemand = { ...datastore, backup: { method: 'on-demand' } };
    expect(nativeProblems({ ...onDemand, drill: { region: 'eu-central-1' } }, { type: 'folder' })).toEqual([]);
    // The store promises a lock that the service would not set.
    for (const one of [datastore, onDemand]) expect(nativeProblems(one, { type: 's3', objectLock: { mode: 'COMPLIANCE', retain: 1 } })[0]).toMatchObject({ at: ['backup', 'method'], found: 'a store with objectLock' });
    expect(nativeProblems({ ...datastore, backup: { method: 'scan' } }, { type: 's3', objectLock: { mode: 'COMPLIANCE', retain: 1 } })).toEqual([]);
    expect(nativeProblems({ ...onDemand, drill: { region: 'eu-west-1' } }, undefined)[0]).toMatchObject({ at: ['drill', 'region'] });
    expect(nativeProblems({ ...datastore, backup: { method: 'scan' }, drill: { region: 'eu-west-1' } }, { type: 'folder' })).toEqual([]);
    const role = { arn: 'arn:aws:iam::210987654321:role/x' };
    const other = { arn: 'arn:aws:iam::210987654321:role/y' };
    // The service must be told whose the bucket of another account is.
    expect(nativeProblems({ ...datastore, assumeRole: role }, { type: 's3' })[0]).toMatchObject({ at: ['backup', 'method'], found: 'a datastore with assumeRole and a store without' });
    expect(nativeProblems({ ...datastore, assumeRole: role }, { type: 's3', assumeRole: role })).toEqual([]);
    // Credentials of the drill's own are for its own account, even when they are those by which the datastore's role is assumed.
    const credentials = { accessKeyId: 'env:A', secretAccessKey: 'env:B' };
    expect(nativeProblems({ ...onDemand, credentials, assumeRole: role, drill: { credentials } }, undefined)[0]).toMatchObject({ at: ['drill', 'credentials'] });
    expect(nativeProblems({ ...onDemand, assumeRole: role, drill: { assumeRole: other } }, undefined)[0]).toMatchObject({ at: ['drill', 'assumeRole'] });
    expect(nativeProblems({ ...onDemand, assumeRole: role, drill: { assumeRole: role } }, undefined)).toEqual([]);
    expect(nativeProblems({ ...onDemand, assumeRole: role, drill: {} }, undefined)).toEqual([]);
  });
});

describe('the lease of a worker', () => {
  afterEach(() => void vi.useRealTimers());

  const run = (journal: (details: unknown) => Promise<void>): StepRun => ({ signal: new AbortController().signal, journal, heartbeat: () => {} }) as unknown as StepRun;

  it('is at the server before the work begins', async () => {
    const seen: unknown[] = [];
    await expect(whileHeld(run((details) => Promise.resolve(void seen.push(details))), () => ({ at: 1 }), () => Promise.resolve(seen.length))).resolves.toBe(1);
    let began = false;
    await expect(whileHeld(run(() => Promise.reject(new Error('no server'))), () => ({}), () => Promise.resolve((began = true)))).rejects.toThrow('no server');
    expect(began).toBe(false);
  });

  it('cuts the work off when the server was not reached for so long that another worker may have begun', async () => {
    vi.useFakeTimers();
    let calls = 0;
    const held = whileHeld(
      run(() => ((calls += 1) === 1 ? Promise.resolve() : Promise.reject(new Error('away')))),
      () => ({}),
      (signal) => new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })),
    );
    const outcome = held.catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(9000);
    expect(await outcome).toMatchObject({ code: 'lease-lost', retryable: true });
    expect(calls).toBeGreaterThan(2);
  });
});

describe('a copy of an earlier run', () => {
  const position: StreamPosition = { stream: 's', startedAtMs: 1, shards: [{ shard: 'x', after: '5', atMs: 1, ended: false }], copied: of };
  const unused = { sourceStream: 's', stream: false, timeToLive: null };

  it('is gone on with only between the very tables that it was made of, with their stream, and while nobody uses it', () => {
    expect(takeOverProblem(position, of, unused)).toBeUndefined();
    const { copied: _none, ...old } = position;
    expect(takeOverProblem(old, of, unused)).toContain('does not say');
    expect(takeOverProblem(position, { ...of, target: 'b anew' }, unused)).toContain('a copy of a to b');
    expect(takeOverProblem(position, { ...of, source: 'other' }, unused)).toContain('the tables are other and b');
    expect(takeOverProblem(position, of, { ...unused, sourceStream: undefined })).toContain('changes are missing');
    expect(takeOverProblem(position, of, { ...unused, stream: true })).toContain('people may write');
    expect(takeOverProblem(position, of, { ...unused, timeToLive: 'until' })).toContain('people may write');
  });

  it('is named by a position that may be pasted as text; what is none is refused', () => {
    expect(readPosition(JSON.stringify(position))).toEqual(position);
    expect(readPosition('')).toBeUndefined();
    for (const wrong of ['[', 'null', '"text"', '{"stream":"s"}', JSON.stringify({ ...position, copied: { source: 1 } })]) expect(() => readPosition(wrong)).toThrow(/no position of a stream/);
  });
});
