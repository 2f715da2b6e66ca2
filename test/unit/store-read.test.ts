import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { resumed } from '../../src/systems/store-s3.ts';

async function read(source: AsyncIterable<Buffer>): Promise<string> {
  let text = '';
  for await (const chunk of source) text += chunk.toString('latin1');
  return text;
}

test('a read that falls silent goes on at the next byte, of the same version', async () => {
  const silent = new Readable({ read() {} });
  silent.push('abc');
  const asked: unknown[] = [];
  const open = (from: number, etag: string | undefined): Promise<{ Body: Readable }> => {
    asked.push([from, etag]);
    return Promise.resolve({ Body: Readable.from([Buffer.from('abcdef').subarray(from)]) });
  };
  expect(await read(resumed({ Body: silent, ContentLength: 6, ETag: 'v1' }, open, 'x', undefined, 20))).toBe('abcdef');
  expect(asked).toEqual([[3, 'v1']]);
  expect(silent.destroyed).toBe(true);
});

test('a read that never goes on fails with the byte it stopped at, and a short one is not taken for whole', async () => {
  let opened = 0;
  const open = (): Promise<{ Body: Readable }> => {
    opened += 1;
    return Promise.resolve({ Body: Readable.from([]) });
  };
  const short = resumed({ Body: Readable.from([Buffer.from('ab')]), ContentLength: 6, ETag: 'v1' }, open, 's3://b/k', undefined, 1000);
  await expect(read(short)).rejects.toMatchObject({ code: 'store-read', retryable: true, message: 'reading s3://b/k broke off at byte 2 of 6' });
  expect(opened).toBe(4);
});

test('an abort ends a read that waits', async () => {
  const silent = new Readable({ read() {} });
  silent.push('abc');
  const controller = new AbortController();
  const open = (): Promise<never> => Promise.reject(new Error('must not be opened again'));
  const reading = read(resumed({ Body: silent, ContentLength: 6, ETag: 'v1' }, open, 'x', controller.signal, 60_000));
  controller.abort(new Error('enough'));
  await expect(reading).rejects.toThrow('enough');
});
