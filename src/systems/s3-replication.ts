import { HoldfastError } from '../model/errors.ts';
import { count, counted, type Counted } from '../model/s3-versions.ts';
import { formatDuration } from '../model/units.ts';
import { headVersion, s3Call, whereOf, type Bucket } from './s3-bucket.ts';
import { eachOf } from './s3-restore.ts';

export interface ReplicationState {
  /** Objects below the prefix. */
  readonly listed: number;
  readonly asked: number;
  readonly replicated: number;
  readonly pending: Counted;
  readonly failed: Counted;
  /** Without a status: no rule took them. */
  readonly none: Counted;
  readonly oldestPendingMs: number | null;
  /** Those that wait for longer than this. */
  overdue(maxPendingMs: number): Counted;
}

/** The replication status of the newest objects. S3 lists by key, so all are listed to find the newest; memory is that of the sample. */
export async function newestReplication(place: Bucket, sample: number, nowMs: number, options: { readonly signal: AbortSignal; readonly onProgress?: (listed: number) => void }): Promise<ReplicationState> {
  const { ListObjectsV2Command } = await import('@aws-sdk/client-s3');
  let newest: { key: string; atMs: number }[] = [];
  let listed = 0;
  let token: string | undefined;
  do {
    const page = await s3Call(place, 's3:ListBucket', place.prefix, () => place.client.send(new ListObjectsV2Command({ Bucket: place.bucket, Prefix: place.prefix, ContinuationToken: token }), { abortSignal: options.signal }));
    for (const object of page.Contents ?? []) newest.push({ key: object.Key ?? '', atMs: object.LastModified?.getTime() ?? 0 });
    listed += page.Contents?.length ?? 0;
    if (newest.length > sample) newest = newest.sort((a, b) => b.atMs - a.atMs).slice(0, sample);
    options.onProgress?.(listed);
    if (page.IsTruncated === true && page.NextContinuationToken === undefined) throw new HoldfastError('s3-listing', `the listing of ${whereOf(place)} broke off without saying where to go on`, { retryable: true, next: 'try again' });
    token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
  } while (token !== undefined);
  const waiting: { key: string; ageMs: number }[] = [];
  const state = { listed, asked: 0, replicated: 0, pending: counted(), failed: counted(), none: counted() };
  await eachOf(newest, 8, options.signal, async ({ key, atMs }) => {
    const head = await headVersion(place, key);
    if (head === undefined) return; // Deleted since the listing.
    state.asked += 1;
    const ageMs = nowMs - (head.atMs || atMs);
    const shown = `${key}, ${formatDuration(Math.max(0, ageMs))} old`;
    // The SDK types COMPLETE; S3 itself says COMPLETED. REPLICA: it is itself a copy.
    const status: string = head.replication ?? '';
    if (status.startsWith('COMPLETE') || status === 'REPLICA') state.replicated += 1;
    else if (status === 'PENDING') {
      count(state.pending, shown);
      waiting.push({ key: shown, ageMs });
    } else if (status === 'FAILED') count(state.failed, shown);
    else count(state.none, shown);
  });
  return {
    ...state,
    oldestPendingMs: waiting.length === 0 ? null : Math.max(...waiting.map(({ ageMs }) => ageMs)),
    overdue(maxPendingMs) {
      const late = counted();
      for (const { key, ageMs } of waiting) if (ageMs > maxPendingMs) count(late, key);
      return late;
    },
  };
}
