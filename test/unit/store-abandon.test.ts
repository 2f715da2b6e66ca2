import { Readable } from 'node:stream';
import type { S3Client } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import type { Config, S3StoreConfig } from '../../src/model/config-schema.ts';
import { createS3Store } from '../../src/systems/store-s3.ts';

const CONFIG = { type: 's3', bucket: 'b', partSize: 5 * 1024 * 1024, uploadConcurrency: 2 } as unknown as S3StoreConfig;

/** A store that takes parts for ever and answers to being told to abandon an upload as it is told here. */
function scripted(answers: readonly ('yes' | 'no' | 'gone')[]): { client: S3Client; asked: () => number } {
  let asked = 0;
  const send = (command: object, options?: { abortSignal?: AbortSignal }): Promise<unknown> => {
    const { name } = command.constructor;
    if (name === 'CreateMultipartUploadCommand') return Promise.resolve({ UploadId: 'u' });
    if (name === 'UploadPartCommand') return new Promise((_, reject) => options?.abortSignal?.addEventListener('abort', () => reject(options.abortSignal!.reason as Error)));
    if (name !== 'AbortMultipartUploadCommand') throw new Error(`${name} is not expected`);
    const answer = answers[Math.min(asked, answers.length - 1)]!;
    asked += 1;
    if (answer === 'yes') return Promise.resolve({});
    return Promise.reject(Object.assign(new Error(answer), { name: answer === 'gone' ? 'NoSuchUpload' : 'InternalError', $metadata: { httpStatusCode: answer === 'gone' ? 404 : 500 } }));
  };
  return { client: { send } as unknown as S3Client, asked: () => asked };
}

async function abandoned(answers: readonly ('yes' | 'no' | 'gone')[]): Promise<number> {
  const { client, asked } = scripted(answers);
  const store = await createS3Store(client, CONFIG, '', { region: 'eu-west-1' } as Config['aws']);
  const controller = new AbortController();
  const source = Readable.from((async function* () {
    for (;;) yield Buffer.alloc(1024 * 1024);
  })(), { objectMode: false });
  const putting = store.put('k', source, { signal: controller.signal });
  setTimeout(() => controller.abort(new Error('enough')), 20);
  await expect(putting).rejects.toThrow('enough');
  return asked();
}

test('an upload is abandoned until the store says that there is none: a part on its way may land after the first time', async () => {
  expect(await abandoned(['yes', 'yes', 'gone'])).toBe(3);
  expect(await abandoned(['yes', 'gone'])).toBe(2);
});

test('a store that cannot abandon it just now is asked again, and one that never says so is left alone after four times', async () => {
  expect(await abandoned(['no', 'yes', 'gone'])).toBe(3);
  expect(await abandoned(['yes'])).toBe(4);
  expect(await abandoned(['no'])).toBe(4);
});
