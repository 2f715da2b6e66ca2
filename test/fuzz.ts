import fc from 'fast-check';
import { HoldfastError } from '../src/model/errors.ts';

const LONG = process.env['HOLDFAST_FUZZ'] === 'long';
const SEED = process.env['HOLDFAST_FUZZ_SEED'];

/**
 * How much a fuzz test tries: always the same few in `npm test`, ended after some seconds; with HOLDFAST_FUZZ=long fifty times as many of a
 * new seed each time. fast-check prints seed and counterexample of what it finds; HOLDFAST_FUZZ_SEED sets the seed.
 */
export function effort(numRuns: number): fc.Parameters<unknown> {
  return {
    numRuns: LONG ? numRuns * 50 : numRuns,
    seed: SEED !== undefined ? Number(SEED) : LONG ? Date.now() % 2 ** 31 : 20_261_121,
    interruptAfterTimeLimit: LONG ? 60_000 : 3000,
    markInterruptAsFailure: false,
  };
}

/** For the test around it. */
export const FUZZ_TIMEOUT_MS = LONG ? 180_000 : 20_000;

/** What was answered, or the code of the named error; anything else that is thrown goes on: it is what a fuzz test looks for. */
export function named<T>(run: () => T): T | string {
  try {
    return run();
  } catch (error) {
    return codeOf(error);
  }
}

export async function namedAsync<T>(run: () => Promise<T>): Promise<T | string> {
  try {
    return await run();
  } catch (error) {
    return codeOf(error);
  }
}

function codeOf(error: unknown): string {
  if (error instanceof HoldfastError && error.code !== '' && error.message !== '') return error.code;
  throw error;
}

const KEYS = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'length', 'then', 'by', 'reason', 'step', 'attempt', 'format', 'id'];

/** Any JSON, with the keys and values that trip programs. */
export const anyJson: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 3, arbitrary: fc.jsonValue({ maxDepth: 4 }) },
  fc.constantFrom<unknown>(null, true, 0, -0, -1, 1.5, 2 ** 53, 1e308, '', ' ', '\0', '\uFEFF', '\uD800', '__proto__', '../../etc/passwd', '${steps.x.y}', '0', '1', 'NaN', [], {}, [[]], [null], 'x'.repeat(100_000)),
  fc.dictionary(fc.constantFrom(...KEYS), fc.jsonValue({ maxDepth: 2 }), { maxKeys: 4 }).map((value) => JSON.parse(JSON.stringify(value)) as unknown),
  fc.constantFrom(...KEYS).map((key) => JSON.parse(`{${JSON.stringify(key)}: {"x": [1]}}`) as unknown),
  fc.integer({ min: 10, max: 3000 }).map((depth) => JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`) as unknown),
);

/** Bytes that may stand where JSON is expected. */
export const anyBytes: fc.Arbitrary<Buffer> = fc.oneof(
  fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
  fc.string({ unit: 'binary', maxLength: 100 }).map((text) => Buffer.from(text)),
  anyJson.map((value) => Buffer.from(JSON.stringify(value))),
  fc.constantFrom('', '{', '[]', 'null', '{}', '0', '"', '\uFEFF{}', '{"__proto__":null}', '{"a":1e999}', '{"a":1,"a":2}').map((text) => Buffer.from(text)),
);

export interface Edit {
  readonly at: number;
  readonly cut: number;
  readonly insert: Uint8Array;
}

/** Cuts and insertions anywhere in the bytes. */
export const edits: fc.Arbitrary<Edit[]> = fc.array(
  fc.record({ at: fc.nat(1_000_000), cut: fc.oneof(fc.nat(3), fc.nat(60)), insert: fc.oneof(fc.uint8Array({ maxLength: 6 }), fc.stringMatching(/^[\n\r\t :,"{}[\]0-9eE+.\\-]{0,6}$/).map((text) => Buffer.from(text))) }),
  { minLength: 1, maxLength: 4 },
);

export function edited(bytes: Buffer, list: readonly Edit[]): Buffer {
  return list.reduce((before, { at, cut, insert }) => {
    const from = before.length === 0 ? 0 : at % (before.length + 1);
    return Buffer.concat([before.subarray(0, from), insert, before.subarray(from + cut)]);
  }, bytes);
}

/** A JSON document with some of its values, at any depth, replaced, taken away, or added. */
export function mutatedJson(document: unknown): fc.Arbitrary<unknown> {
  const change = fc.record({ at: fc.nat(10_000), how: fc.constantFrom('replace', 'delete', 'add'), value: anyJson, key: fc.constantFrom(...KEYS, 'more') });
  return fc.array(change, { minLength: 1, maxLength: 4 }).map((changes) => {
    const root = { document: JSON.parse(JSON.stringify(document)) as unknown };
    for (const { at, how, value: shared, key } of changes) {
      const value = structuredClone(shared);
      const found: { holder: Record<string, unknown>; key: string }[] = [];
      const visit = (holder: Record<string, unknown>, depth: number): void => {
        for (const name of Object.keys(holder)) {
          found.push({ holder, key: name });
          const below = holder[name];
          if (below !== null && typeof below === 'object' && depth < 12) visit(below as Record<string, unknown>, depth + 1);
        }
      };
      visit(root, 0);
      const place = found[at % found.length];
      if (place === undefined) break;
      if (how === 'delete') Reflect.deleteProperty(place.holder, place.key);
      else if (how === 'replace' || typeof place.holder[place.key] !== 'object' || place.holder[place.key] === null) place.holder[place.key] = value;
      else if (Array.isArray(place.holder[place.key])) (place.holder[place.key] as unknown[]).push(value);
      else Object.defineProperty(place.holder[place.key], key, { value, enumerable: true, configurable: true, writable: true });
    }
    return root.document;
  });
}
