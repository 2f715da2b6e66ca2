import { randomBytes } from 'node:crypto';
import { defaultPayloadConverter, type Payload } from '@temporalio/common';
import { describe, expect, test } from 'vitest';
import { createEncryptionCodec } from '../../src/engine/payload-encryption.ts';
import { redact } from '../../src/systems/log.ts';

const key = (): string => randomBytes(32).toString('base64');
const payloads = (...values: unknown[]): Payload[] => values.map((value) => defaultPayloadConverter.toPayload(value)!);
const values = (decoded: readonly Payload[]): unknown[] => decoded.map((payload) => defaultPayloadConverter.fromPayload(payload));
const plain = (payload: Payload): string => `${JSON.stringify(payload.metadata)}${Buffer.from(payload.data ?? []).toString('latin1')}`;

describe('payload encryption', () => {
  test('gives back what it took, shows nothing of it, and never the same bytes twice', async () => {
    const codec = createEncryptionCodec(key());
    const given = { datastore: 'orders-db', nested: [1, null, 'text ünïcödé'] };
    const [first, second] = await codec.encode(payloads(given, given));
    expect(values(await codec.decode([first!, second!]))).toEqual([given, given]);
    expect(plain(first!)).not.toContain('orders-db');
    expect(Buffer.from(first!.data!).equals(Buffer.from(second!.data!))).toBe(false);
    expect(Buffer.from(first!.metadata!['encoding']!).toString()).toBe('binary/encrypted');
  });

  test('a new key in front encrypts, old ones still decrypt; without the old one it says which key is missing', async () => {
    const [old, current] = [key(), key()];
    const before = await createEncryptionCodec(old).encode(payloads('kept'));
    const rotated = createEncryptionCodec(`${current}, ${old}`);
    expect(values(await rotated.decode(before))).toEqual(['kept']);
    const after = await rotated.encode(payloads('new'));
    expect(values(await createEncryptionCodec(current).decode(after))).toEqual(['new']);
    const id = Buffer.from(before[0]!.metadata!['encryption-key-id']!).toString();
    await expect(createEncryptionCodec(current).decode(before)).rejects.toMatchObject({ code: 'encryption-key', message: expect.stringContaining(id) });
  });

  test('one changed bit is refused, in nonce, text or tag', async () => {
    const codec = createEncryptionCodec(key());
    const [payload] = await codec.encode(payloads('x'.repeat(50)));
    for (const at of [0, 20, payload!.data!.length - 1]) {
      const data = Buffer.from(payload!.data!);
      data[at]! ^= 1;
      await expect(codec.decode([{ ...payload!, data }])).rejects.toMatchObject({ code: 'payload-damaged' });
    }
  });

  test('what was never encrypted is passed on; a key of the wrong size is refused; keys are masked in texts', async () => {
    const mine = key();
    const codec = createEncryptionCodec(mine);
    expect(values(await codec.decode(payloads('plain')))).toEqual(['plain']);
    expect(() => createEncryptionCodec(randomBytes(16).toString('base64'))).toThrow(/16 bytes, expected 32/);
    expect(() => createEncryptionCodec(' ')).toThrow(/resolves to nothing/);
    expect(redact(`key=${mine}`)).toBe('key=[redacted]');
  });
});
