/**
 * What a service-level watch has seen. Bounded whatever its length: latencies are counted in buckets, each 5 % wider than the one
 * before, so that a percentile is the upper end of its bucket, at most 5 % too high and never too low.
 */
export interface Watched {
  readonly startedAtMs: number;
  readonly lastSampleAtMs: number | null;
  readonly samples: number;
  readonly good: number;
  /** Samples by bucket of their latency. */
  readonly latencies: Readonly<Record<string, number>>;
  readonly maxMs: number | null;
  /** What went wrong, how often: the first kinds of it. */
  readonly errors: Readonly<Record<string, number>>;
  /** Errors of kinds that are not listed any more. */
  readonly otherErrors: number;
  /** Times in which nobody looked, worker lost. */
  readonly gaps: readonly { readonly fromMs: number; readonly toMs: number }[];
  readonly gapMs: number;
}

const GROWTH = 1.05;
const MOST_ERRORS = 20;
const MOST_GAPS = 20;

export function beginWatch(nowMs: number): Watched {
  return { startedAtMs: nowMs, lastSampleAtMs: null, samples: 0, good: 0, latencies: {}, maxMs: null, errors: {}, otherErrors: 0, gaps: [], gapMs: 0 };
}

export interface Sample {
  readonly atMs: number;
  /** null: what was sampled has no latency (a metric), or never answered. */
  readonly latencyMs: number | null;
  /** null: good. */
  readonly error: string | null;
}

export function addSample(watched: Watched, sample: Sample): Watched {
  const { latencyMs, error } = sample;
  const bucket = latencyMs === null ? null : String(bucketOf(latencyMs));
  const listed = error !== null && (Object.hasOwn(watched.errors, error) || Object.keys(watched.errors).length < MOST_ERRORS);
  return {
    ...watched,
    lastSampleAtMs: sample.atMs,
    samples: watched.samples + 1,
    good: watched.good + (error === null ? 1 : 0),
    latencies: bucket === null ? watched.latencies : { ...watched.latencies, [bucket]: (watched.latencies[bucket] ?? 0) + 1 },
    maxMs: latencyMs === null ? watched.maxMs : Math.max(watched.maxMs ?? 0, latencyMs),
    errors: listed ? { ...watched.errors, [error]: (watched.errors[error] ?? 0) + 1 } : watched.errors,
    otherErrors: watched.otherErrors + (error !== null && !listed ? 1 : 0),
  };
}

/** Another worker goes on with what the one before reported last: what lies between is not known. */
export function resumeWatch(watched: Watched, nowMs: number): Watched {
  const fromMs = watched.lastSampleAtMs ?? watched.startedAtMs;
  const gap = { fromMs, toMs: Math.max(fromMs, nowMs) };
  return { ...watched, gaps: [...watched.gaps, gap].slice(-MOST_GAPS), gapMs: watched.gapMs + gap.toMs - gap.fromMs };
}

/** What a heartbeat brought back; null when it is none of ours. */
export function watchedFrom(details: unknown): Watched | null {
  if (details === null || typeof details !== 'object' || !Object.hasOwn(details, 'startedAtMs') || !Object.hasOwn(details, 'latencies')) return null;
  return details as Watched;
}

function bucketOf(latencyMs: number): number {
  return latencyMs <= 1 ? 0 : Math.ceil(Math.log(latencyMs) / Math.log(GROWTH) - 1e-9);
}

/** The latency that this share of the answered samples did not exceed; null without any. Never above the longest that was seen. */
export function percentile(watched: Watched, share: number): number | null {
  const buckets = Object.entries(watched.latencies).map(([bucket, count]): [number, number] => [Number(bucket), count]).sort((a, b) => a[0] - b[0]);
  const total = buckets.reduce((sum, [, count]) => sum + count, 0);
  if (total === 0) return null;
  const rank = Math.max(1, Math.ceil(share * total));
  let seen = 0;
  for (const [bucket, count] of buckets) {
    seen += count;
    if (seen >= rank) return Math.min(Math.ceil(GROWTH ** bucket), Math.ceil(watched.maxMs ?? Number.POSITIVE_INFINITY));
  }
  return null;
}

/** null without a sample: nothing was measured, which is neither 0 nor 1. */
export function availability(watched: Watched): number | null {
  return watched.samples === 0 ? null : watched.good / watched.samples;
}

/** `99.95 %`, cut and never rounded up: what is under an objective must not look as if it were not. */
export function showShare(share: number | null): string {
  return share === null ? 'not measured' : `${(Math.floor(share * 1e6 + 1e-3) / 1e4).toString()} %`;
}
