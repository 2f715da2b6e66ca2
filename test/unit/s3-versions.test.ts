import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { actionFor, archivedBecause, copyRanges, copySource, entryTime, etagsSay, gatherKey, parseMoment, ulidMs, type VersionEntry } from '../../src/model/s3-versions.ts';

/** What a store with whole seconds answers: versions and markers apart, each newest first. */
function listing(history: readonly { readonly atMs: number; readonly marker: boolean }[]): VersionEntry[] {
  const entries = history.map(({ atMs, marker }, index): VersionEntry => ({ key: 'k', versionId: String(index), marker, latest: index === history.length - 1, atMs: Math.floor(atMs / 1000) * 1000 })).toReversed();
  return [...entries.filter((entry) => !entry.marker), ...entries.filter((entry) => entry.marker)];
}

describe('the version of a moment', () => {
  it('is the true one in every history where it can be known, and one of two where the order is lost', () => {
    let [known, lost] = [0, 0];
    fc.assert(
      fc.property(fc.array(fc.record({ gap: fc.integer({ min: 0, max: 2500 }), marker: fc.boolean() }), { minLength: 1, maxLength: 12 }), fc.integer({ min: -1000, max: 20_000 }), (steps, offset) => {
        let atMs = 1_000_000_000_000;
        const history = steps.map(({ gap, marker }) => ({ atMs: (atMs += gap), marker }));
        const momentMs = 1_000_000_000_000 + offset;
        const truth = history.findLastIndex((item) => item.atMs <= momentMs);
        const gathered = gatherKey(momentMs, 'refuse', Number.POSITIVE_INFINITY);
        for (const entry of listing(history)) gathered.add(entry);
        const state = gathered.state('k');
        expect(state.latest?.versionId).toBe(String(history.length - 1));
        if (state.sameSecond) return; // Not to be known: said, and refused.
        const candidates = state.unordered ?? [state.was];
        if (state.unordered === undefined) known += 1;
        else lost += 1;
        expect(candidates.map((entry) => entry?.versionId)).toContain(truth < 0 ? undefined : String(truth));
      }),
      { numRuns: 4000, seed: 7 },
    );
    expect(known).toBeGreaterThan(500);
    expect(lost).toBeGreaterThan(20);
  });

  it('counts what was written within the second of the moment as asked', () => {
    const entries: VersionEntry[] = [{ key: 'k', versionId: 'new', marker: false, latest: true, atMs: 5000 }, { key: 'k', versionId: 'old', marker: false, latest: false, atMs: 1000 }];
    const of = (rule: 'refuse' | 'before' | 'after', momentMs: number): string | undefined => {
      const gathered = gatherKey(momentMs, rule, 5500);
      for (const entry of entries) gathered.add(entry);
      const state = gathered.state('k');
      expect(state.since).toBe(1);
      return `${state.was?.versionId ?? 'none'}${state.sameSecond ? '?' : ''}`;
    };
    expect([of('before', 5400), of('after', 5400), of('before', 5000), of('refuse', 4999), of('refuse', 5999)]).toEqual(['new?', 'old?', 'new?', 'old', 'new']);
  });

  it('is read from ids that are ULIDs where that is configured, and a store that stamps anew is found out', () => {
    expect(ulidMs('01ARZ3NDEKTSV4RRFFQ69G5FAV')).toBe(1_469_922_850_259);
    for (const id of ['null', '9cc206f7-749c-4be8-8e00-cf0189252133', '01ARZ3NDEKTSV4RRFFQ69G5FAI', '3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY', '81ARZ3NDEKTSV4RRFFQ69G5FAV']) expect(ulidMs(id)).toBeUndefined();
    expect(entryTime('01ARZ3NDEKTSV4RRFFQ69G5FAV', 1_469_922_900_000, 'ulid')).toEqual({ atMs: 1_469_922_850_259, exact: true });
    expect(entryTime('01ARZ3NDEKTSV4RRFFQ69G5FAV', 1_469_922_900_000, 'stamp').restamped).toBe(true);
    expect(entryTime('01ARZ3NDEKTSV4RRFFQ69G5FAV', 1_469_922_851_000, 'stamp').restamped).toBeUndefined();
    expect(entryTime('null', 5, 'ulid')).toEqual({ atMs: 5 });
  });
});

it('what becomes of a key follows from what it shows and what it showed', () => {
  const version = (versionId: string, more: Partial<VersionEntry> = {}): VersionEntry => ({ key: 'k', versionId, marker: false, latest: true, atMs: 0, etag: 'e', bytes: 1, ...more });
  const marker = version('m', { marker: true });
  expect(actionFor({ latest: version('1'), was: undefined })).toBe('remove');
  expect(actionFor({ latest: version('1'), was: marker })).toBe('remove');
  expect(actionFor({ latest: marker, was: undefined })).toBe('stays-away');
  expect(actionFor({ latest: marker, was: version('1') })).toBe('bring-back');
  expect(actionFor({ latest: version('1'), was: version('1') })).toBe('same');
  expect(actionFor({ latest: version('2'), was: version('1') })).toBe('same-content');
  expect(actionFor({ latest: version('2', { etag: 'f' }), was: version('1') })).toBe('replace');
  expect(actionFor({ latest: version('2', { bytes: 2 }), was: version('1') })).toBe('replace');
});

it('ETags are believed as far as they go', () => {
  const [a, b] = ['0'.repeat(32), '1'.repeat(32)];
  expect([etagsSay(a, a, true), etagsSay(a, b, true), etagsSay(a, b, false), etagsSay(a, `${b}-2`, true), etagsSay(a, undefined, true)]).toEqual(['same', 'different', 'nothing', 'nothing', 'nothing']);
});

it('an archived object is said to be so until its restored copy is ready', () => {
  expect(archivedBecause({ storageClass: 'GLACIER' })).toBe('it lies in GLACIER');
  expect(archivedBecause({ storageClass: 'DEEP_ARCHIVE', restore: 'ongoing-request="true"' })).toContain('not ready');
  expect(archivedBecause({ storageClass: 'GLACIER', restore: 'ongoing-request="false", expiry-date="Fri, 21 Dec 2026 00:00:00 GMT"' })).toBeNull();
  expect(archivedBecause({ storageClass: 'INTELLIGENT_TIERING', archiveStatus: 'DEEP_ARCHIVE_ACCESS' })).toBe('it lies in DEEP_ARCHIVE_ACCESS');
  expect(archivedBecause({ storageClass: 'GLACIER_IR' })).toBeNull();
});

it('ranges of a copy cover every byte once, in the parts of the original where they are known', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5_000_000_000_000 }), fc.integer({ min: 5_000_000, max: 5_000_000_000 }), (bytes, wanted) => {
      const ranges = copyRanges(bytes, wanted);
      expect(ranges.length).toBeLessThanOrEqual(10_000);
      expect(ranges[0]!.from).toBe(0);
      expect(ranges.at(-1)!.to).toBe(bytes - 1);
      expect(ranges.filter((range, index) => index > 0 && range.from !== ranges[index - 1]!.to + 1)).toEqual([]);
    }),
    { numRuns: 20, seed: 7 },
  );
  expect(copyRanges(25, 100, { parts: 3, firstPartBytes: 10 })).toEqual([{ from: 0, to: 9 }, { from: 10, to: 19 }, { from: 20, to: 24 }]);
  // Parts of several sizes: the original cannot be followed.
  expect(copyRanges(25, 100, { parts: 4, firstPartBytes: 10 })).toEqual([{ from: 0, to: 24 }]);
});

it('keys and moments are taken as they are meant', () => {
  expect(copySource('b', 'a/ä +?&%#".txt', 'v=1')).toBe('b/a/%C3%A4%20%2B%3F%26%25%23%22.txt?versionId=v%3D1');
  expect(parseMoment('2026-11-21T03:15:00+09:00')).toBe(Date.parse('2026-11-20T18:15:00Z'));
  for (const text of ['2026-11-21T03:15:00', '2026-11-21', 'yesterday', '2026-13-21T03:15:00Z']) expect(parseMoment(text)).toBeUndefined();
});
