import { mkdir, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { S3StoreConfig } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { joinPrefix } from '../model/manifest.ts';
import { storeOf, type Context } from './context.ts';
import { EVIDENCE_FILES, type EvidenceFile } from './evidence-folder.ts';

const CONTENT_TYPES: Readonly<Record<EvidenceFile, string>> = {
  'report.html': 'text/html; charset=utf-8',
  'report.json': 'application/json',
  'report.md': 'text/markdown; charset=utf-8',
  'signature.json': 'application/json',
};

/** Copy to `<prefix>/evidence/<folder>/` of a store, never over something else; signature.json last, so that a copy with it is whole. */
export async function copyEvidence(context: Context, storeName: string, folder: string, files: Readonly<Record<EvidenceFile, string>>, nowMs: number): Promise<string> {
  const store = storeOf(context.config, storeName);
  const prefix = `${joinPrefix(store.prefix)}evidence/${folder}/`;
  for (const name of EVIDENCE_FILES) {
    if (store.type === 's3') await putObject(context, store, `${prefix}${name}`, name, files[name], nowMs);
    else await putFile(join(store.path, prefix), name, files[name]);
  }
  return store.type === 's3' ? `s3://${store.bucket}/${prefix}` : join(store.path, prefix);
}

async function putObject(context: Context, store: S3StoreConfig, key: string, name: EvidenceFile, content: string, nowMs: number): Promise<void> {
  const { PutObjectCommand, GetObjectCommand } = await import('@aws-sdk/client-s3');
  const client = await context.aws.s3(store);
  try {
    await client.send(
      new PutObjectCommand({
        Bucket: store.bucket, Key: key, Body: content, ContentType: CONTENT_TYPES[name], IfNoneMatch: '*', ChecksumAlgorithm: 'SHA256',
        ...(store.objectLock === undefined ? {} : { ObjectLockMode: store.objectLock.mode, ObjectLockRetainUntilDate: new Date(nowMs + store.objectLock.retain) }),
      }),
    );
  } catch (error) {
    const name = (error as Error).name;
    if (name === 'PreconditionFailed') {
      const existing = await client.send(new GetObjectCommand({ Bucket: store.bucket, Key: key }));
      if ((await existing.Body?.transformToString()) === content) return;
      throw alreadyThere(`s3://${store.bucket}/${key}`);
    }
    throw new HoldfastError('evidence-copy', `evidence could not be copied to s3://${store.bucket}/${key}: ${name}: ${messageOf(error)}`, {
      next: 'check the store in holdfast.yaml and that the worker may call s3:PutObject there', retryable: true, cause: error,
    });
  }
}

async function putFile(directory: string, name: EvidenceFile, content: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const path = join(directory, name);
  try {
    const file = await open(path, 'wx', 0o644);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    if ((await readFile(path, 'utf8')) !== content) throw alreadyThere(path);
  }
}

function alreadyThere(where: string): HoldfastError {
  return new HoldfastError('evidence-exists', `${where} already holds other evidence; evidence is never overwritten`, { next: 'move it away and retry' });
}
