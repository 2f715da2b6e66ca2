import { Readable } from 'node:stream';
import { randomBytes } from 'node:crypto';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Context } from '../../src/systems/context.ts';
import { openStore, type Store } from '../../src/systems/store.ts';
import { suite, testBucket, testConfig, testDirectory, toxiproxy, uniqueName, type ConfigOverrides } from '../support.ts';
import { uploadsIn } from './backup-broken.ts';

const PART = 5 * 1024 * 1024;

const STORES = ['s3', 'folder'];

async function opened(kind: string, overrides: ConfigOverrides = {}): Promise<{ context: Context; store: Store }> {
  const context = await testConfig({ stores: kind === 's3' ? { main: { partSize: '5MiB', uploadConcurrency: 2, ...overrides } } : { disk: { type: 'folder', path: testDirectory('store') } } });
  return { context, store: await openStore(context, kind === 's3' ? 'main' : 'disk') };
}

async function bytesOf(store: Store, key: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of await store.get(key)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function streamOf(data: Buffer, chunk = 60_001): Readable {
  return Readable.from(
    (function* () {
      for (let at = 0; at < data.length; at += chunk) yield data.subarray(at, at + chunk);
    })(),
    { objectMode: false },
  );
}

test.each(STORES)('%s: what is put is got, in every size around a part', async (kind) => {
  const { context, store } = await opened(kind);
  try {
    for (const size of [0, 1, PART - 1, PART, PART + 1, 3 * PART]) {
      const data = randomBytes(size);
      const progress: number[] = [];
      expect(await store.put(`a/${size}`, streamOf(data), { ifAbsent: true, onProgress: (bytes) => progress.push(bytes) })).toMatchObject({ bytes: size });
      expect((await bytesOf(store, `a/${size}`)).equals(data)).toBe(true);
      expect(await store.head(`a/${size}`)).toEqual({ bytes: size });
      expect(progress.at(-1) ?? 0).toBe(size);
    }
    const keys: string[] = [];
    for await (const object of store.list('a/')) keys.push(object.key);
    expect(keys).toHaveLength(6);
    await store.delete('a/0');
    await store.delete('a/0');
    expect(await store.head('a/0')).toBeUndefined();
    await expect(store.get('a/0')).rejects.toMatchObject({ code: 'object-missing' });
    await expect(store.getText('b/nothing')).rejects.toMatchObject({ code: 'object-missing' });
  } finally {
    context.close();
  }
});

test.each(STORES)('%s: nothing is overwritten where that was asked for, small or in parts', async (kind) => {
  const { context, store } = await opened(kind);
  try {
    await store.put('x', 'first', { ifAbsent: true });
    await expect(store.put('x', 'second', { ifAbsent: true })).rejects.toMatchObject({ code: 'object-exists', retryable: false });
    await expect(store.put('x', streamOf(randomBytes(2 * PART)), { ifAbsent: true })).rejects.toMatchObject({ code: 'object-exists' });
    expect(await store.getText('x')).toBe('first');
    await store.put('x', 'third');
    expect(await store.getText('x')).toBe('third');
    expect(await store.reapUploads('', 0, Date.now() + 60_000)).toBe(0);
  } finally {
    context.close();
  }
});

test.each(STORES)('%s: a source that breaks, or an abort, leaves no object and no upload', async (kind) => {
  const { context, store } = await opened(kind);
  try {
    for (const size of [1000, 2 * PART + 5]) {
      const broken = Readable.from(
        (async function* () {
          yield randomBytes(size);
          throw new Error('the source broke');
        })(),
        { objectMode: false },
      );
      await expect(store.put('broken', broken, { ifAbsent: true })).rejects.toThrow('the source broke');
    }
    const controller = new AbortController();
    const endless = Readable.from(
      (async function* () {
        for (;;) yield randomBytes(1024 * 1024);
      })(),
      { objectMode: false },
    );
    await expect(store.put('endless', endless, { signal: controller.signal, onProgress: () => controller.abort(new Error('enough')) })).rejects.toThrow('enough');
    expect(endless.destroyed).toBe(true);
    const keys: string[] = [];
    for await (const object of store.list('')) keys.push(object.key);
    expect(keys).toEqual([]);
    expect(await store.reapUploads('', 0, Date.now() + 60_000)).toBe(0);
  } finally {
    context.close();
  }
});

test('s3: a read that is cut goes on at the next byte', async () => {
  const proxy = await toxiproxy().proxy(uniqueName('cut'), new URL(suite().s3.endpoint).host);
  const bucket = await testBucket();
  const direct = await opened('s3', { bucket });
  const { context, store } = await opened('s3', { bucket, endpoint: `http://${proxy.address}` });
  try {
    const data = randomBytes(12_000_000);
    await direct.store.put('big', streamOf(data));
    // Every connection is cut after five million bytes: three are needed.
    await proxy.addToxic({ type: 'limit_data', stream: 'downstream', attributes: { bytes: 5_000_000 } });
    expect((await bytesOf(store, 'big')).equals(data)).toBe(true);
  } finally {
    await proxy.delete();
    context.close();
    direct.context.close();
  }
});

test('s3: an upload whose process died is reaped by age and prefix', async () => {
  const { context, store } = await opened('s3');
  try {
    const { CreateMultipartUploadCommand } = await import('@aws-sdk/client-s3');
    const config = context.config.stores['main']!;
    const client = await context.aws.s3(config as Extract<typeof config, { type: 's3' }>);
    for (const key of ['mine/1', 'other/1']) await client.send(new CreateMultipartUploadCommand({ Bucket: (config as { bucket: string }).bucket, Key: key }));
    expect(await store.reapUploads('mine/', 3_600_000, Date.now())).toBe(0);
    expect(await uploadsIn(context)).toBe(2);
    expect(await store.reapUploads('mine/', 0, Date.now() + 2000)).toBe(1);
    expect(await uploadsIn(context)).toBe(1);
  } finally {
    context.close();
  }
});

test('folder: the remains of a killed writer are not listed and are reaped', async () => {
  const { context, store } = await opened('folder');
  try {
    await store.put('a/b/c', 'whole');
    const folder = join(store.describe(), 'a/b');
    writeFileSync(join(folder, '.upload-123456-d'), 'half');
    const keys: string[] = [];
    for await (const object of store.list('a/')) keys.push(object.key);
    expect(keys).toEqual(['a/b/c']);
    expect(await store.reapUploads('a/', 3_600_000, Date.now())).toBe(0);
    expect(await store.reapUploads('a/', 0, Date.now() + 60_000)).toBe(1);
    expect(readdirSync(folder)).toEqual(['c']);
    await expect(store.put('../outside', 'x')).rejects.toMatchObject({ code: 'store-key' });
  } finally {
    context.close();
  }
});

test('a store that is not there fails a listing loudly', async () => {
  const s3 = await opened('s3', { bucket: 'not-there-at-all' });
  const disk = await testConfig({ stores: { disk: { type: 'folder', path: join(testDirectory('gone'), 'missing') } } });
  const read = async (store: Store): Promise<void> => {
    for await (const object of store.list('')) void object;
  };
  await expect(read(s3.store)).rejects.toMatchObject({ code: 'store-bucket-missing' });
  await expect(read(await openStore(disk, 'disk'))).rejects.toMatchObject({ code: 'store-folder' });
  s3.context.close();
  disk.close();
});
