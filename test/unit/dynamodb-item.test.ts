import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { canonicalNumber, canonicalText, itemBytes, keyText, type AttributeValue, type Item } from '../../src/model/dynamodb-item.ts';
import { addSums, createSums, sameSums } from '../../src/systems/dynamodb-hash.ts';

const { value } = fc.letrec<{ value: AttributeValue; map: Item }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.string({ unit: 'binary' }).map((S) => ({ S })), fc.bigInt({ min: -(10n ** 38n), max: 10n ** 38n }).map((n) => ({ N: String(n) })), fc.uint8Array().map((bytes) => ({ B: Buffer.from(bytes).toString('base64') })), fc.boolean().map((BOOL) => ({ BOOL })), fc.constant({ NULL: true }),
    fc.uniqueArray(fc.string(), { minLength: 1 }).map((SS) => ({ SS })), fc.uniqueArray(fc.integer().map(String), { minLength: 1 }).map((NS) => ({ NS })),
    fc.array(tie('value')).map((L) => ({ L })), tie('map').map((M) => ({ M })),
  ),
  map: fc.dictionary(fc.oneof(fc.string(), fc.constantFrom('__proto__', 'constructor', 'S', 'N', 'M')), tie('value'), { noNullPrototype: true }),
}));
const item = fc.dictionary(fc.string({ minLength: 1 }), value, { noNullPrototype: true });

/** The same item as another writer may have stored it: other order of attributes and of sets, other spelling of numbers. */
function shuffled(one: AttributeValue): AttributeValue {
  if ('M' in one) return { M: reordered(one.M) };
  if ('L' in one) return { L: one.L.map(shuffled) };
  if ('SS' in one) return { SS: [...one.SS].reverse() };
  if ('NS' in one) return { NS: [...one.NS].reverse().map((n) => `${n}.0`) };
  if ('N' in one) return { N: `${one.N}0E-1` };
  return one;
}
function reordered(map: Item): Item {
  return Object.fromEntries(Object.entries(map).reverse().map(([name, one]) => [name, shuffled(one)]));
}

describe('the text of an item', () => {
  it('is the same for the same item in another order and spelling', () => {
    fc.assert(fc.property(item, (one) => {
      expect(canonicalText(reordered(one))).toBe(canonicalText(one));
    }), { numRuns: 300 });
  });

  it('differs when anything in it differs', () => {
    const base: Item = { id: { S: 'a' }, n: { N: '12345678901234567890123456789012345678' }, b: { B: 'AQL/' }, l: { L: [{ N: '1' }, { S: '' }] }, s: { SS: ['a', 'b'] }, m: { M: { x: { NULL: true } } } };
    const changed: Item[] = [
      { ...base, n: { N: '12345678901234567890123456789012345679' } }, { ...base, n: { S: '12345678901234567890123456789012345678' } }, { ...base, b: { B: 'AQL+' } }, { ...base, b: { S: 'AQL/' } },
      { ...base, l: { L: [{ S: '' }, { N: '1' }] } }, { ...base, s: { L: [{ S: 'a' }, { S: 'b' }] } }, { ...base, s: { SS: ['ab'] } }, { ...base, s: { SS: ['a,b'] } }, { ...base, m: { M: { x: { BOOL: true } } } }, { ...base, m: { M: {} } }, { ...base, extra: { S: '' } },
      Object.fromEntries(Object.entries(base).filter(([name]) => name !== 'b')),
    ];
    const texts = [base, ...changed].map(canonicalText);
    expect(new Set(texts).size).toBe(texts.length);
  });

  it('has one spelling for a number, however many digits it has', () => {
    for (const same of [['100', '1E2', '100.0', '+100', '0100', '1e+2'], ['0', '-0', '0.00', '0E5'], ['0.0001', '1E-4', '.0001'], ['-15E-101', '-1.5E-100', `-0.${'0'.repeat(99)}15`], ['1234567890123456789012345678901234567800', '12345678901234567890123456789012345678E2']]) {
      expect(new Set(same.map(canonicalNumber)).size).toBe(1);
    }
    expect(canonicalNumber('1234567890123456789012345678901234567')).not.toBe(canonicalNumber('1234567890123456789012345678901234568'));
  });
});

describe('sums of items', () => {
  it('do not depend on the order nor on how they are split, and know a lost, doubled or changed item', () => {
    const items = Array.from({ length: 50 }, (_, at): Item => ({ id: { N: String(at) }, text: { S: `t${at % 7}` } }));
    const of = (some: readonly Item[]): ReturnType<ReturnType<typeof createSums>['sums']> => {
      const sums = createSums();
      for (const one of some) sums.add(one);
      return sums.sums();
    };
    const whole = of(items);
    expect(of([...items].reverse())).toEqual(whole);
    expect(addSums([of(items.slice(0, 20)), of(items.slice(20))])).toEqual(whole);
    expect(sameSums(whole, of(items.slice(1)))).toBe(false);
    expect(sameSums(whole, of([items[1]!, ...items.slice(1)]))).toBe(false);
    expect(sameSums(whole, of([...items.slice(1), { id: { N: '0' }, text: { S: 'T0' } }]))).toBe(false);
    const resumed = createSums(of(items.slice(0, 30)));
    for (const one of items.slice(30)) resumed.add(one);
    expect(resumed.sums()).toEqual(whole);
  });
});

describe('of an item', () => {
  it('the key is told in words, and cut when it is long', () => {
    const key = [{ name: 'id', kind: 'HASH' }, { name: 'day', kind: 'RANGE' }] as const;
    expect(keyText({ id: { S: 'a"b' }, day: { N: '7' } }, key)).toBe('id = "a\\"b", day = 7');
    expect(keyText({ id: { B: '/wA=' } }, key)).toBe('id = 0xff00, day is missing');
    expect(keyText({ id: { S: 'x'.repeat(2000) }, day: { N: '7' } }, key).length).toBeLessThan(160);
  });

  it('the size counts names, text as UTF-8 and binary without base64', () => {
    expect(itemBytes({ ab: { S: 'é😀' } })).toBe(2 + 6);
    expect(itemBytes({ b: { B: Buffer.alloc(1000).toString('base64') } })).toBe(1001);
    expect(itemBytes({ l: { L: [{ NULL: true }, { BOOL: true }] } })).toBe(1 + 3 + 4);
  });
});
