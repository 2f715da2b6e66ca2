import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { CreateBucketCommand, PutBucketVersioningCommand, S3Client } from '@aws-sdk/client-s3';
import { waitUntilReady, type Processes } from './processes.ts';
import { freePort } from '../systems/free-port.ts';
import type { AwsServer } from './moto.ts';
import { listening } from './temporal.ts';
import { findTool } from './tools.ts';

/** An S3-compatible store over a folder: multipart, versioning, object lock, conditional writes, checksums. */
export async function startVersity(options: { processes: Processes; directory: string }): Promise<AwsServer> {
  const port = await freePort();
  const data = join(options.directory, 's3');
  const versions = join(options.directory, 's3-versions');
  for (const folder of [data, versions]) mkdirSync(folder, { recursive: true });
  const accessKeyId = `local${randomBytes(6).toString('hex')}`;
  const secretAccessKey = randomBytes(16).toString('hex');
  const child = await options.processes.spawn({
    name: 'versitygw',
    cwd: options.directory,
    // By environment: an argument could be read by every user of the machine.
    env: { ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
    argv: [findTool('versitygw'), '--quiet', '--port', `127.0.0.1:${port}`, 'posix', '--versioning-dir', versions, data],
  });
  await waitUntilReady(child, () => listening(port));
  return { endpoint: `http://127.0.0.1:${port}`, region: 'us-east-1', accessKeyId, secretAccessKey };
}

export function s3Client(server: AwsServer): S3Client {
  return new S3Client({
    endpoint: server.endpoint,
    region: server.region,
    forcePathStyle: true,
    credentials: { accessKeyId: server.accessKeyId, secretAccessKey: server.secretAccessKey },
  });
}

/** Object lock brings versioning with it. */
export async function createBucket(server: AwsServer, bucket: string, options: { objectLock?: boolean; versioning?: boolean } = {}): Promise<void> {
  const client = s3Client(server);
  try {
    await client.send(new CreateBucketCommand({ Bucket: bucket, ObjectLockEnabledForBucket: options.objectLock === true }));
    if (options.versioning === true && options.objectLock !== true) {
      await client.send(new PutBucketVersioningCommand({ Bucket: bucket, VersioningConfiguration: { Status: 'Enabled' } }));
    }
  } finally {
    client.destroy();
  }
}
