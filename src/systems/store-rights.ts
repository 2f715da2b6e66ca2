import { access, constants } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { joinPrefix } from '../model/manifest.ts';
import { storeOf, type Context } from './context.ts';

/**
 * May this worker write to a store? Asked without writing. S3: by a part for an upload that does not exist; to who may write the store
 * answers that there is no such upload, to who may not, AccessDenied. Source: S3 API reference, UploadPart (needs s3:PutObject;
 * error NoSuchUpload).
 */
export async function mayWrite(context: Context, name: string): Promise<{ allowed: boolean; found: string }> {
  const config = storeOf(context.config, name);
  if (config.type === 'folder') {
    for (let at = resolve(config.path); ; at = dirname(at)) {
      try {
        await access(at, constants.W_OK);
        return { allowed: true, found: `${at} is writable` };
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || at === dirname(at)) return { allowed: false, found: `${at} is not writable` };
      }
    }
  }
  const { UploadPartCommand } = await import('@aws-sdk/client-s3');
  const client = await context.aws.s3(config);
  try {
    await client.send(new UploadPartCommand({ Bucket: config.bucket, Key: `${joinPrefix(config.prefix)}.holdfast-permission-check`, UploadId: 'holdfast-permission-check', PartNumber: 1, Body: Buffer.alloc(1) }));
    return { allowed: false, found: 'the store took a part of an upload that does not exist: nothing it says can be relied on' };
  } catch (error) {
    const { name: code, message } = error as Error;
    if (code === 'NoSuchUpload') return { allowed: true, found: 'allowed' };
    const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
    return { allowed: false, found: `${code}: ${message}${status === undefined ? '' : ` (HTTP ${status})`}` };
  }
}
