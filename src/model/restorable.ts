import { formatDuration } from './units.ts';

/** Which moments of a datastore can still be restored from backups, and which cannot. */
export interface Restorable {
  readonly moments: number;
  /** ISO 8601; null: nothing at all can be restored. Nothing before it can. */
  readonly oldest: string | null;
  readonly newest: string | null;
  /** Between two moments only the earlier one can be restored: the longest such stretch, in milliseconds. */
  readonly longestGapMs: number;
  /** What this retention run took away: moments that could be restored before it, none of them any more. */
  readonly givenUp: { readonly moments: number; readonly from: string; readonly to: string } | null;
}

interface Moment {
  readonly id: string;
  readonly snapshotAtMs: number;
  readonly proof: 'verified' | 'bad' | 'unproved';
}

/**
 * Pure. A backup that a drill found bad restores nothing; one that was never drilled counts as what it claims to be, as everywhere else.
 * @param deleted ids of `backups` that are gone, or would be
 */
export function restorableMoments(backups: readonly Moment[], deleted: ReadonlySet<string>): Restorable {
  const good = backups.filter(({ proof, snapshotAtMs }) => proof !== 'bad' && Math.abs(snapshotAtMs) <= 8.64e15).map(({ id, snapshotAtMs }) => ({ id, at: snapshotAtMs })).sort((a, b) => a.at - b.at);
  const kept = good.filter(({ id }) => !deleted.has(id)).map(({ at }) => at);
  const gone = good.filter(({ id }) => deleted.has(id)).map(({ at }) => at);
  const iso = (ms: number | undefined): string | null => (ms === undefined ? null : new Date(ms).toISOString());
  return {
    moments: kept.length,
    oldest: iso(kept[0]),
    newest: iso(kept.at(-1)),
    longestGapMs: kept.reduce((longest, at, index) => (index === 0 ? 0 : Math.max(longest, at - kept[index - 1]!)), 0),
    givenUp: gone.length === 0 ? null : { moments: gone.length, from: iso(gone[0])!, to: iso(gone.at(-1))! },
  };
}

/** For people, one fact a line. */
export function describeRestorable(restorable: Restorable, applied: boolean): string[] {
  const { moments, oldest, newest, longestGapMs, givenUp } = restorable;
  const lines =
    oldest === null
      ? ['NOTHING can be restored: there is no good backup']
      : [
          `restorable: ${moments === 1 ? `one moment, ${oldest}` : `${moments} moments from ${oldest} to ${newest}`}`,
          `no longer restorable: anything before ${oldest}${moments === 1 ? '' : `; between two moments only the earlier one is (they are up to ${formatDuration(longestGapMs)} apart)`}`,
        ];
  if (givenUp !== null) {
    const period = givenUp.moments === 1 ? `the moment ${givenUp.from}` : `${givenUp.moments} moments from ${givenUp.from} to ${givenUp.to}`;
    lines.push(applied ? `given up by this run: ${period}` : `would be given up: ${period}`);
  }
  return lines;
}
