import { hash } from 'node:crypto';
import fc from 'fast-check';
import { BSON, Decimal128, Double, Timestamp } from 'mongodb';
import { describe, expect, it } from 'vitest';
import { createFrames, createSums, elementsOf, hasEmptyTimestamp, idOf } from '../../src/model/bson-frame.ts';
import { checkDriver, extendedJson, orderedOf } from '../../src/systems/mongodb-raw.ts';
import { everyType } from '../mongodb-support.ts';

const DOCUMENT = fc.dictionary(fc.string({ minLength: 1, maxLength: 8 }).filter((key) => !key.includes('\0') && key !== '__proto__'), fc.oneof(fc.integer(), fc.double({ noNaN: true }), fc.string(), fc.boolean(), fc.constant(null), fc.uint8Array({ maxLength: 40 }), fc.array(fc.integer(), { maxLength: 4 })), { maxKeys: 6 });

function split(stream: Uint8Array, sizes: readonly number[]): Buffer[] {
  const frames = createFrames('a.b');
  const documents: Buffer[] = [];
  let at = 0;
  for (let turn = 0; at < stream.length; turn += 1) {
    const size = sizes[turn % sizes.length]!;
    documents.push(...frames.push(stream.subarray(at, at + size)).map((document) => Buffer.from(document)));
    at += size;
  }
  frames.end();
  return documents;
}

describe('frames of a BSON stream', () => {
  it('come out whole, however the stream is cut', () => {
    fc.assert(fc.property(fc.array(DOCUMENT, { minLength: 1, maxLength: 12 }), fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 5 }), (documents, sizes) => {
      const parts = documents.map((document) => Buffer.from(BSON.serialize(document)));
      expect(split(Buffer.concat(parts), sizes).map((part) => part.toString('hex'))).toEqual(parts.map((part) => part.toString('hex')));
    }));
  });

  it('a stream that was cut off is refused wherever it was cut, but between documents', () => {
    const parts = [{ a: 1 }, { b: 'text' }, {}].map((document) => Buffer.from(BSON.serialize(document)));
    const stream = Buffer.concat(parts);
    const whole = [0, parts[0]!.length, parts[0]!.length + parts[1]!.length, stream.length];
    const outcome = (length: number): unknown => {
      try {
        return split(stream.subarray(0, length), [7]).length;
      } catch (error) {
        return (error as { code?: string }).code;
      }
    };
    for (let length = 0; length <= stream.length; length += 1) expect(outcome(length), `cut after ${length} bytes`).toBe(whole.includes(length) ? whole.indexOf(length) : 'bson-truncated');
  });

  it('says where a length is impossible, and never waits for more than a document can have', () => {
    const good = Buffer.from(BSON.serialize({ a: 1 }));
    const huge = Buffer.concat([good, Buffer.from([0xff, 0xff, 0xff, 0x7f, 0])]);
    expect(() => split(huge, [5])).toThrowError(/a\.b: document 2 at byte 12 says it has 2147483647 bytes/);
    expect(() => split(Buffer.from([3, 0, 0, 0]), [4])).toThrowError(/document 1 at byte 0 says it has 3 bytes/);
    const unclosed = Buffer.from(good);
    unclosed[unclosed.length - 1] = 1;
    expect(() => split(unclosed, [100])).toThrowError(/does not end with a zero byte/);
  });

  it('elements are found with their types, doubled and deprecated ones too', () => {
    const document = everyType();
    const elements = [...elementsOf(document)];
    expect(elements.map(({ type }) => type)).toEqual([7, 1, 1, 2, 3, 4, 5, 8, 9, 10, 11, 3, 13, 15, 16, 17, 18, 19, 255, 127, 2, 6, 14, 12, 16, 16]);
    expect(elements.at(-1)).toMatchObject({ key: 'twice', end: document.length - 1 });
    expect(idOf(document)).toMatchObject({ key: '_id', type: 7 });
    expect(idOf(BSON.serialize({ a: 1 }))).toBeUndefined();
    for (let at = 4; at < document.length; at += 1) {
      const damaged = Buffer.from(document);
      damaged[at] = damaged[at]! ^ 0x80;
      // It ends, with all its elements or with an error of ours; nothing is read beyond it.
      let outcome: unknown = 'whole';
      let last = 0;
      try {
        for (const { end } of elementsOf(damaged)) last = end;
      } catch (error) {
        outcome = (error as { code?: string }).code;
      }
      expect(['whole', 'bson-invalid']).toContain(outcome);
      expect(last).toBeLessThan(damaged.length);
    }
  });

  it('an empty timestamp at the top is seen, since servers replace it', () => {
    expect(hasEmptyTimestamp(BSON.serialize({ _id: 1, at: new Timestamp({ t: 0, i: 0 }) }))).toBe(true);
    expect(hasEmptyTimestamp(BSON.serialize({ _id: new Timestamp({ t: 0, i: 0 }), at: new Timestamp({ t: 1, i: 0 }), in: { at: new Timestamp({ t: 0, i: 0 }) } }))).toBe(false);
  });
});

describe('sums of documents', () => {
  const digest = (document: Uint8Array): Buffer => hash('sha256', document, 'buffer');
  function sumsOf(documents: readonly Uint8Array[]): object {
    const sums = createSums(digest);
    for (const document of documents) sums.add(document);
    return sums.value();
  }

  it('are those of plain arithmetic, whatever the order', () => {
    const documents = Array.from({ length: 500 }, (_, index) => BSON.serialize({ _id: index, text: 'x'.repeat(index) }));
    const words = (at: number): bigint => documents.reduce((sum, document) => sum + digest(document).readBigUInt64LE(at), 0n);
    const expected = { documents: '500', bytes: String(documents.reduce((sum, { length }) => sum + length, 0)), sum1: String(words(0)), sum2: String(words(8)) };
    expect(sumsOf(documents)).toEqual(expected);
    expect(sumsOf([...documents].reverse())).toEqual(expected);
  });

  it('tell a changed, a missing, a doubled and an added document', () => {
    const documents = [1, 2, 3].map((_id) => BSON.serialize({ _id }));
    const whole = sumsOf(documents);
    for (const other of [documents.slice(1), [...documents, documents[0]!], [...documents.slice(1), BSON.serialize({ _id: 4 })], [...documents, BSON.serialize({ _id: 9 })]]) expect(sumsOf(other)).not.toEqual(whole);
  });
});

describe('definitions', () => {
  it('keep the order of keys that are numbers, on their way to JSON and back to BSON', () => {
    const raw = Buffer.from('13000000103200010000001031000200000000', 'hex');
    const ordered = orderedOf(raw);
    expect(extendedJson(ordered)).toBe('{"2":{"$numberInt":"1"},"1":{"$numberInt":"2"}}');
    expect(Buffer.from(BSON.serialize(ordered)).equals(raw)).toBe(true);
    expect(JSON.stringify(BSON.deserialize(raw))).toBe('{"1":2,"2":1}'); // Why they are no objects.
  });

  it('every type is written as canonical Extended JSON, as the library reads it', () => {
    const text = extendedJson(orderedOf(everyType()));
    const read = BSON.EJSON.parse(text, { relaxed: false }) as Record<string, unknown>;
    expect(read['negativeZero']).toEqual(new Double(-0));
    expect(read['decimal']).toEqual(Decimal128.fromString('1.50'));
    expect(text).toContain('"document":{"b":{"$numberInt":"1"},"10":{"$numberInt":"2"},"2":{"$numberInt":"3"}}');
    expect(text).toContain('"long":{"$numberLong":"9007199254740993"}');
  });

  it('the installed driver sends raw documents as they are', () => {
    expect(() => checkDriver()).not.toThrow();
  });
});
