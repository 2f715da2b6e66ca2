import { setTimeout as sleep } from 'node:timers/promises';
import type { S3Client } from '@aws-sdk/client-s3';

/** An upload is abandoned at most this often, after pauses of 0.1, 0.2 and 0.4 s. */
const ATTEMPTS = 4;
const PAUSE_MS = 100;

/**
 * Until the store says that there is no such upload: a part that was on its way may land after the first abort and stay, unseen and paid
 * for. Source: S3 API reference, AbortMultipartUpload ("it might be necessary to abort a given multipart upload multiple times").
 * @throws what the store said last, when it never could
 */
export async function abandonUpload(client: S3Client, upload: { readonly Bucket: string; readonly Key: string; readonly UploadId: string }): Promise<void> {
  const { AbortMultipartUploadCommand } = await import('@aws-sdk/client-s3');
  let failure: unknown;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
    if (attempt > 1) await sleep(PAUSE_MS * 2 ** (attempt - 2));
    try {
      await client.send(new AbortMultipartUploadCommand(upload));
      failure = undefined;
    } catch (error) {
      if ((error as Error).name === 'NoSuchUpload') return;
      failure = error;
    }
  }
  if (failure !== undefined) throw failure;
}
