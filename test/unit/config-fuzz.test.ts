import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isMap, isScalar, isSeq, parseDocument as parseYaml, stringify, visit, type Document, type Node, type Pair } from 'yaml';
import { configOf } from '../../src/model/config.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { parseDocument, valueAt } from '../../src/model/document.ts';
import type { Finding } from '../../src/model/errors.ts';
import { configJsonSchema, runbookJsonSchema } from '../../src/model/json-schema.ts';
import { runbookOf } from '../../src/model/runbook-check.ts';
import { FUZZ_TIMEOUT_MS, effort } from '../fuzz.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const EXAMPLE = readFileSync(join(ROOT, 'holdfast.example.yaml'), 'utf8');
const RUNBOOK = readFileSync(join(ROOT, 'runbooks', 'database-failover.yaml'), 'utf8');

const KINDS = {
  configuration: { text: EXAMPLE, read: (text: string) => { const { config, findings } = configOf(parseDocument('f.yaml', text)); return { value: config, findings }; } },
  ...Object.fromEntries(
    readdirSync(join(ROOT, 'runbooks')).filter((file) => file.endsWith('.yaml')).map((file) => [
      `runbook ${file}`,
      { text: readFileSync(join(ROOT, 'runbooks', file), 'utf8'), read: (text: string) => { const { runbook, findings } = runbookOf(parseDocument('f.yaml', text), file.replace(/\.yaml$/, '')); return { value: runbook as unknown, findings }; } },
    ]),
  ),
};

/** Which findings a person could not go to, and whether there is a value or an error, never both and never neither. */
function flaws(text: string, answer: { value: unknown; findings: readonly Finding[] }): { oneOutcome: boolean; lost: Finding[] } {
  const lines = text.split('\n').length;
  const errors = answer.findings.some((finding) => finding.level === 'error');
  return {
    oneOutcome: (answer.value === undefined) === errors,
    // Line 0 means the whole file.
    lost: answer.findings.filter(({ file, path, message, line }) => file !== 'f.yaml' || path === '' || message === '' || line < (path === '(file)' ? 0 : 1) || line > lines),
  };
}

const NONE = { oneOutcome: true, lost: [] };

/** Values that fit nowhere or look as if they did. */
const oddValue = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, 0, -1, Number.POSITIVE_INFINITY, Number.NaN, '', ' ', '${', '${steps.x.y}', '__proto__', 'constructor', 'env:', 'aws-sm:#', '1h', '5MiB', [], {}, [[]], { __proto__x: 1 }),
  fc.string({ maxLength: 20 }),
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom('__proto__', 'constructor', 'toString', 'hasOwnProperty').map((key) => JSON.parse(`{"${key}": {"x": 1}}`) as unknown),
);
const mutation = fc.record({ at: fc.nat(10_000), how: fc.constantFrom('delete', 'replace', 'rename', 'repeat', 'copy') , value: oddValue, from: fc.nat(10_000) });

/** Every pair and every list item of a document, in order. */
function places(document: Document): { pair?: Pair; seq?: { items: unknown[] }; index?: number; map?: { items: Pair[] } }[] {
  const found: ReturnType<typeof places> = [];
  visit(document, {
    Map: (_, map) => void map.items.forEach((pair) => found.push({ pair, map: map as { items: Pair[] } })),
    Seq: (_, seq) => void seq.items.forEach((_item, index) => found.push({ seq, index })),
  });
  return found;
}

function mutate(text: string, mutations: readonly { at: number; how: string; value: unknown; from: number }[]): string {
  const document = parseYaml(text);
  for (const { at, how, value, from } of mutations) {
    const all = places(document);
    if (all.length === 0) break;
    const place = all[at % all.length]!;
    const node = document.createNode(value) as Node;
    if (place.pair !== undefined && place.map !== undefined) {
      const other = all[from % all.length]!.pair;
      if (how === 'delete') place.map.items.splice(place.map.items.indexOf(place.pair), 1);
      else if (how === 'replace') place.pair.value = node;
      else if (how === 'rename') place.pair.key = document.createNode(typeof value === 'string' ? value : 'renamed');
      else if (how === 'repeat') place.map.items.push(document.createPair(isScalar(place.pair.key) ? place.pair.key.value : 'x', value));
      else if (other !== undefined && isNodeWithClone(other.value)) place.pair.value = other.value.clone() as Node;
    } else if (place.seq !== undefined) {
      if (how === 'delete') place.seq.items.splice(place.index!, 1);
      else if (how === 'repeat') place.seq.items.push(node);
      else place.seq.items[place.index!] = node;
    }
  }
  return document.toString();
}

function isNodeWithClone(value: unknown): value is Node {
  return isMap(value) || isSeq(value) || isScalar(value);
}

describe.each(Object.entries(KINDS))('%s, whatever it holds', { timeout: FUZZ_TIMEOUT_MS }, (_, { text, read }) => {
  it('is good before it is changed', () => {
    expect(read(text).value).toBeDefined();
  });

  it('random mutations never crash it, and every finding names a line', () => {
    fc.assert(fc.property(fc.array(mutation, { minLength: 1, maxLength: 6 }), (mutations) => {
      const changed = mutate(text, mutations);
      expect(flaws(changed, read(changed))).toEqual(NONE);
    }), effort(120));
  });

  it('random bytes in the middle never crash it', () => {
    const edit = fc.record({ at: fc.nat(text.length), cut: fc.nat(40), insert: fc.oneof(fc.string({ maxLength: 10 }), fc.stringMatching(/^[\n\t :\-#&*!|>'"%@`{}[\],?~$]{1,8}$/)) });
    fc.assert(fc.property(fc.array(edit, { minLength: 1, maxLength: 3 }), (edits) => {
      const changed = edits.reduce((before, { at, cut, insert }) => before.slice(0, at) + insert + before.slice(at + cut), text);
      expect(flaws(changed, read(changed))).toEqual(NONE);
    }), effort(120));
  });

  it('random text and random documents never crash it', () => {
    const deep = fc.integer({ min: 1, max: 5000 }).chain((depth) => fc.constantFrom('['.repeat(depth), `${'{a: '.repeat(depth)}1${'}'.repeat(depth)}`, `${'- '.repeat(depth)}x`, Array.from({ length: Math.min(depth, 300) }, (__, n) => `${' '.repeat(n)}a:`).join('\n')));
    fc.assert(fc.property(fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.object({ maxDepth: 4 }).map((value) => stringify(value)), deep), (random) => {
      const answer = read(random);
      expect(flaws(random, answer)).toEqual(NONE);
      expect(answer.value).toBeUndefined();
    }), effort(120));
  });

  it('anchors and aliases, also within themselves, are bounded', () => {
    const shape = fc.record({ width: fc.integer({ min: 1, max: 12 }), depth: fc.integer({ min: 1, max: 12 }), self: fc.boolean() });
    fc.assert(fc.property(shape, ({ width, depth, self }) => {
      const lines = Array.from({ length: depth }, (__, n) => `x${n}: &n${n} [${Array.from({ length: width }, () => (n === 0 ? (self ? '*n0' : 'x') : `*n${n - 1}`)).join(', ')}]`);
      const laughs = `${lines.join('\n')}\n${text}`;
      const answer = read(laughs);
      expect(flaws(laughs, answer)).toEqual(NONE);
      expect(answer.value).toBeUndefined();
    }), effort(40));
  });
});

describe('the schemas that editors use', { timeout: FUZZ_TIMEOUT_MS }, () => {
  const ajv = new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, formats: { uri: (text: string) => URL.canParse(text) } });

  it('refuse and take what the parser does, up to the rules that no schema can say', () => {
    const validate = ajv.compile(configJsonSchema());
    fc.assert(fc.property(fc.array(mutation, { minLength: 1, maxLength: 3 }), (mutations) => {
      const text = mutate(EXAMPLE, mutations);
      const { value, findings } = parseDocument('f.yaml', text);
      // What is no good YAML for us comes to no schema; numbers beyond all bounds are none in JSON.
      fc.pre(value !== undefined && findings.length === 0 && !/\.(inf|nan)/i.test(text));
      expect(validate(value)).toBe(configSchema.safeParse(value).success);
    }), effort(120));
  });

  it('take every runbook that the parser takes', () => {
    const validate = ajv.compile(runbookJsonSchema());
    fc.assert(fc.property(fc.array(mutation, { minLength: 1, maxLength: 2 }), (mutations) => {
      const { value } = parseDocument('f.yaml', mutate(RUNBOOK, mutations));
      const { runbook } = runbookOf(parseDocument('f.yaml', mutate(RUNBOOK, mutations)), 'database-failover');
      expect(runbook === undefined || validate(value)).toBe(true);
    }), effort(60));
  });
});

describe('secrets', { timeout: FUZZ_TIMEOUT_MS }, () => {
  const SECRET_PATHS = [
    ['datastores', 'orders-db', 'admin', 'password'], ['notify', 'team', 'url'], ['evidence', 'signingKey'], ['stores', 'offsite', 'encryption', 'identity'],
  ];

  it('a secret in the place of a reference never shows, whatever else is wrong', () => {
    const password = fc.stringMatching(/^[A-Za-z0-9!#%^*()_+=-]{8,30}$/).map((text) => `zq${text}`);
    // Anything but copies, which would carry the secret to a place where a text is expected and rightly shown.
    const harmless = mutation.filter(({ how }) => how !== 'copy');
    fc.assert(fc.property(password, fc.constantFrom(...SECRET_PATHS), fc.array(harmless, { maxLength: 4 }), (secret, path, mutations) => {
      const document = parseYaml(EXAMPLE);
      document.setIn(path, secret);
      const changed = mutate(document.toString(), mutations);
      const { value, findings } = KINDS.configuration.read(changed);
      expect(flaws(changed, { value, findings })).toEqual(NONE);
      // Nothing is left of it when a mutation took the place away.
      const still = valueAt(parseYaml(changed).toJS() as unknown, path) === secret;
      expect(value === undefined || !still).toBe(true);
      expect(JSON.stringify(findings)).not.toContain(secret);
    }), effort(120));
  });
});
