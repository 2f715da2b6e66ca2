import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument as parseYaml, type Alias, type Document, type ErrorCode, type Node } from 'yaml';
import { z } from 'zod';
import { NAME_PATTERN, SECRET_REFERENCE_PATTERN } from './config-schema.ts';
import type { Finding } from './errors.ts';
import { secretShape } from './secret-shape.ts';
import { DURATION_PATTERN, SIZE_PATTERN } from './units.ts';

/**
 * A YAML document and where its parts stand. Parsing never throws: what is wrong comes back as findings, all at once.
 * Nothing here may show a text that could be a secret: YAML messages quote their source, so they are replaced by our own.
 */
export interface ParsedDocument {
  readonly file: string;
  /** Plain data; undefined when the text is no YAML at all. */
  readonly value: unknown;
  readonly findings: readonly Finding[];
  /** 1-based line of the value at the path, or of the nearest part above it that exists. */
  lineOf(path: DocumentPath): number;
  /** The same for the key itself, when the path ends in a key. */
  lineOfKey(path: DocumentPath): number;
}

export type DocumentPath = readonly PropertyKey[];

/** A rule's finding before it has a file and a line. */
export interface Issue {
  readonly level: Finding['level'];
  readonly path: DocumentPath;
  readonly message: string;
  readonly found?: string;
  readonly allowed?: string;
  /** The path ends in a key, and the key is meant, not its value. */
  readonly atKey?: boolean;
}

/** Far above any sensible file; keeps a hostile one from filling memory or the stack. */
const MAX_CHARACTERS = 1_000_000;
const MAX_DEPTH = 64;
const MAX_PARTS = 100_000;
/** How much aliases may multiply a document (the "billion laughs"). */
const MAX_ALIASES = 100;

const SYNTAX: Readonly<Partial<Record<ErrorCode, string>>> = {
  ALIAS_PROPS: 'an alias (*name) cannot have an anchor or a tag',
  BAD_ALIAS: 'this alias (*name) or anchor (&name) cannot be used; quote the text if it merely begins with * or &',
  BAD_DIRECTIVE: 'this YAML directive (%...) is not understood',
  BAD_DQ_ESCAPE: 'this backslash sequence is not known in a double-quoted text; use single quotes for a literal backslash',
  BAD_INDENT: 'the indentation does not fit the lines above',
  BAD_SCALAR_START: 'a plain text cannot begin with this character; put it in quotes',
  BLOCK_AS_IMPLICIT_KEY: 'a second ": " stands on this line; quote the text or begin a new line',
  DUPLICATE_KEY: 'this key stands twice in the same mapping; only one can count',
  MISSING_CHAR: 'a character is missing here: a closing quote, a bracket, a comma, or ": " after a key',
  MULTIPLE_DOCS: 'there is more than one document (---) in the file; one is expected',
  RESOURCE_EXHAUSTION: 'it is nested too deeply',
  TAB_AS_INDENT: 'tabs cannot indent YAML; use spaces',
  TAG_RESOLVE_FAILED: 'tags (!name) are not used here; quote the text if it merely begins with !',
  UNEXPECTED_TOKEN: 'this does not belong here; check quotes, brackets and indentation',
};

export function parseDocument(file: string, text: string): ParsedDocument {
  const lineCounter = new LineCounter();
  const whole = (message: string): ParsedDocument => ({
    file, value: undefined, findings: [{ level: 'error', file, line: 0, path: '(file)', message }], lineOf: () => 0, lineOfKey: () => 0,
  });
  if (text.length > MAX_CHARACTERS) return whole(`it has ${text.length} characters; at most ${MAX_CHARACTERS} are read`);
  let document: Document.Parsed;
  try {
    // logLevel `silent` would also keep silent about a second document.
    document = parseYaml(text, { lineCounter, prettyErrors: false, strict: true, version: '1.2', schema: 'core', merge: false, uniqueKeys: true, logLevel: 'error' });
  } catch (error) {
    if (error instanceof RangeError) return whole('it is nested too deeply');
    throw error;
  }
  const lineAt = (offset: number): number => Math.max(1, lineCounter.linePos(offset).line);
  const findings: Finding[] = [...document.errors, ...document.warnings].map((error) => ({
    level: 'error' as const,
    file,
    line: lineAt(error.pos[0]),
    path: '(syntax)',
    message: SYNTAX[error.code] ?? 'this is no valid YAML',
  }));
  const lineOf = (path: DocumentPath, key = false): number => {
    const offset = offsetOf(document, path, key);
    return lineAt(offset);
  };
  const failed = (line: number, message: string): ParsedDocument => ({
    file, value: undefined, findings: [...findings, { level: 'error', file, line, path: '(syntax)', message }], lineOf: (path) => lineOf(path), lineOfKey: (path) => lineOf(path, true),
  });
  let value: unknown;
  // After a syntax error the data are a guess; rules on a guess would only confuse. Duplicate keys leave the data whole.
  if (document.errors.every((error) => error.code === 'DUPLICATE_KEY')) {
    try {
      value = document.toJS({ maxAliasCount: MAX_ALIASES });
    } catch (error) {
      if (error instanceof RangeError) return failed(1, 'it is nested too deeply');
      // yaml says by ReferenceError that an alias has no anchor before it, or that aliases multiply beyond the limit.
      if (error instanceof ReferenceError) return failed(firstAliasLine(document, lineAt), `an alias (*name) has no anchor (&name) before it, or aliases multiply the document more than ${MAX_ALIASES} times`);
      throw error;
    }
    const excess = tooLarge(value);
    if (excess !== undefined) return failed(lineOf(excess.path), excess.message);
    for (const path of reservedKeys(value)) {
      findings.push({ level: 'error', file, line: lineOf(path, true), path: pathText(path), message: `the name "${String(path.at(-1))}" is reserved and cannot be used` });
    }
  }
  return { file, value, findings, lineOf: (path) => lineOf(path), lineOfKey: (path) => lineOf(path, true) };
}

function offsetOf(document: Document.Parsed, path: DocumentPath, key: boolean): number {
  let node: unknown = document.contents;
  let offset = isNode(node) ? (node.range?.[0] ?? 0) : 0;
  for (const [index, step] of path.entries()) {
    if (isAlias(node)) node = resolveAlias(node, document);
    if (isMap(node)) {
      // The last of doubled keys is the one that counts.
      const pair = node.items.findLast((item) => keyText(item.key) === String(step));
      if (pair === undefined) return offset;
      const keyNode = isNode(pair.key) ? pair.key : undefined;
      const valueNode = isNode(pair.value) ? pair.value : undefined;
      // A block value begins on the line below its key: the key's line is what a reader looks for.
      const wantsKey = (key && index === path.length - 1) || !isScalar(valueNode);
      offset = (wantsKey ? keyNode?.range?.[0] : (valueNode?.range?.[0] ?? keyNode?.range?.[0])) ?? offset;
      node = pair.value;
    } else if (isSeq(node)) {
      const item = node.items[Number(step)];
      if (!isNode(item)) return offset;
      offset = item.range?.[0] ?? offset;
      node = item;
    } else return offset;
  }
  return offset;
}

function resolveAlias(alias: Alias, document: Document.Parsed): Node | undefined {
  try {
    return alias.resolve(document);
  } catch {
    return undefined; // The alias itself is reported by toJS.
  }
}

function firstAliasLine(document: Document.Parsed, lineAt: (offset: number) => number): number {
  let first: number | undefined;
  const stack: unknown[] = [document.contents];
  while (stack.length > 0) {
    const node = stack.pop();
    if (isAlias(node)) first = Math.min(first ?? Infinity, node.range?.[0] ?? Infinity);
    else if (isMap(node)) stack.push(...node.items.flatMap((pair) => [pair.key, pair.value]));
    else if (isSeq(node)) stack.push(...node.items);
  }
  return first === undefined || !Number.isFinite(first) ? 1 : lineAt(first);
}

function keyText(key: unknown): string {
  if (isScalar(key)) return key.value === null ? '' : String(key.value);
  return isNode(key) ? key.toString() : String(key);
}

function* entriesOf(value: unknown): Generator<[string | number, unknown]> {
  if (Array.isArray(value)) yield* value.entries();
  else if (value !== null && typeof value === 'object') yield* Object.entries(value);
}

/**
 * Depth and size after aliases were followed; also catches an alias inside its own anchor, which is endless.
 * Level by level, since recursion could not bear what this exists for.
 */
function tooLarge(value: unknown): { path: DocumentPath; message: string } | undefined {
  let level: { value: unknown; path: (string | number)[] }[] = [{ value, path: [] }];
  let count = 0;
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MAX_DEPTH) return { path: level[0]!.path.slice(0, 8), message: `it is nested more than ${MAX_DEPTH} levels deep, or an alias stands inside its own anchor` };
    const next: typeof level = [];
    for (const item of level) {
      for (const [key, inner] of entriesOf(item.value)) {
        count += 1;
        if (count > MAX_PARTS) return { path: item.path.slice(0, 8), message: `it has more than ${MAX_PARTS} parts once aliases are followed` };
        if (inner !== null && typeof inner === 'object') next.push({ value: inner, path: [...item.path, key] });
      }
    }
    level = next;
  }
  return undefined;
}

const RESERVED = new Set(['__proto__', 'constructor', 'prototype']);

/** Keys that mean something else to JavaScript objects: zod passes over `__proto__` in silence. */
function reservedKeys(value: unknown, path: DocumentPath = [], found: DocumentPath[] = []): DocumentPath[] {
  for (const [key, inner] of entriesOf(value)) {
    if (typeof key === 'string' && RESERVED.has(key)) found.push([...path, key]);
    reservedKeys(inner, [...path, key], found);
  }
  return found;
}

/** `services.orders.checks[0].sql`; names that are no names are shortened, since a pasted secret may stand there. */
export function pathText(path: DocumentPath): string {
  let text = '';
  for (const step of path) text += typeof step === 'number' ? `[${step}]` : `${text === '' ? '' : '.'}${keyShown(String(step))}`;
  return text === '' ? '(document)' : text;
}

export function keyShown(key: string): string {
  return /^[A-Za-z_][\w.-]{0,62}$/.test(key) && secretShape(key) === undefined ? key : `(a name of ${key.length} characters)`;
}

const SECRET_NAME = /pass(word|wd|phrase)?$|secret|token|credential|access.?key|private.?key|signing.?key|encryption.?key|api.?key|identity|authorization|webhook/i;

/** True when what stands at the path is, or should be a reference to, a secret: then it is never shown. */
export function isSecretPath(path: DocumentPath): boolean {
  return path.some((step) => typeof step === 'string' && SECRET_NAME.test(step));
}

/** How a found value is shown: its kind for a collection, and never a secret. */
export function shown(value: unknown, path: DocumentPath): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null (an empty value)';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object') return 'a mapping';
  if (isSecretPath(path)) return shownSecret(value);
  const text = String(value);
  const shape = secretShape(text);
  if (shape !== undefined) return `(not shown: ${shape})`;
  const short = text.length > 80 ? `${text.slice(0, 77)}...` : text;
  return typeof value === 'string' ? JSON.stringify(short) : short;
}

function shownSecret(value: unknown): string {
  return value === undefined || value === null || typeof value === 'object' ? shown(value, []) : '(not shown: it may be a secret)';
}

/** Every text that is a secret by its shape, wherever it stands; also in keys. The text itself is never part of the issue. */
export function pastedSecrets(value: unknown, path: DocumentPath = [], found: Issue[] = []): Issue[] {
  if (typeof value === 'string') {
    const shape = secretShape(value);
    if (shape !== undefined) found.push(pasted(path, shape, false));
    return found;
  }
  for (const [key, inner] of entriesOf(value)) {
    const shape = typeof key === 'string' ? secretShape(key) : undefined;
    if (shape !== undefined) found.push(pasted([...path, key], shape, true));
    pastedSecrets(inner, [...path, key], found);
  }
  return found;
}

/** Both lists, less the findings of shape about a value that is already reported as a pasted secret. */
export function withoutTwins(secrets: readonly Issue[], shape: readonly Issue[]): Issue[] {
  const reported = new Set(secrets.map((issue) => pathText(issue.path)));
  return [...secrets, ...shape.filter((issue) => !reported.has(pathText(issue.path)))];
}

function pasted(path: DocumentPath, shape: string, atKey: boolean): Issue {
  return {
    level: 'error', path, atKey,
    message: `${shape} stands in the file; take it out, change it, since it has been read, and refer to it instead`,
    found: '(not shown)',
    allowed: 'aws-sm:<id>#<field>, env:<NAME> or file:<path>, where a reference is taken',
  };
}

/** Findings of issues, with file, line and path. */
export function findingsOf(document: ParsedDocument, issues: readonly Issue[]): Finding[] {
  return issues.map(({ level, path, message, found, allowed, atKey }) => ({
    level,
    file: document.file,
    line: atKey === true ? document.lineOfKey(path) : document.lineOf(path),
    path: pathText(path),
    message,
    ...(found === undefined ? {} : { found }),
    ...(allowed === undefined ? {} : { allowed }),
  }));
}

/** By file, then line; the order in which a person corrects them. */
export function sortFindings(findings: readonly Finding[]): Finding[] {
  const key = (finding: Finding): string => `${finding.file}\0${String(finding.line).padStart(8, '0')}`;
  const seen = new Set<string>();
  return findings
    .filter((finding) => {
      const identity = JSON.stringify(finding);
      return seen.has(identity) ? false : Boolean(seen.add(identity));
    })
    .sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
}

/** A JSON Schema as far as it is walked here. */
export interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: JsonSchema | boolean;
  readonly propertyNames?: JsonSchema;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly pattern?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
}

/** Making one takes longer than everything else here together. */
const inputSchemas = new WeakMap<z.ZodType, JsonSchema>();

/** The JSON Schema of what a person writes (before defaults and units). */
export function inputSchema(schema: z.ZodType): JsonSchema {
  let made = inputSchemas.get(schema);
  if (made === undefined) {
    made = z.toJSONSchema(schema, { io: 'input', target: 'draft-2020-12', reused: 'inline', unrepresentable: 'any' }) as JsonSchema;
    inputSchemas.set(schema, made);
  }
  return made;
}

/** What stands wrong in `value`, in words for people: each with what was found and what is allowed. */
export function shapeIssues(schema: z.ZodType, value: unknown, base: DocumentPath = []): Issue[] {
  const result = schema.safeParse(value);
  if (result.success) return [];
  return result.error.issues.flatMap((issue) => issueOf(issue, inputSchema(schema), value, base));
}

function issueOf(issue: z.core.$ZodIssue, root: JsonSchema, value: unknown, base: DocumentPath): Issue[] {
  const path = [...base, ...issue.path];
  const found = valueAt(value, issue.path);
  const schema = schemaAt(root, value, issue.path);
  const allowed = schema === undefined ? undefined : allowedText(schema);
  // A text in the place of a reference may be the secret itself, whatever its key is called.
  const secret = schema?.pattern === SECRET_REFERENCE_PATTERN.source || isSecretPath(path);
  const wrong = (message: string, what: string | undefined = allowed, foundText = secret ? shownSecret(found) : shown(found, path)): Issue[] => [
    { level: 'error', path, message, found: foundText, ...(what === undefined ? {} : { allowed: what }) },
  ];
  if (issue.code === 'unrecognized_keys') {
    const known = Object.keys(schema?.properties ?? {});
    return issue.keys.map((key) => {
      const near = nearest(key, known);
      return {
        level: 'error' as const, path: [...path, key], atKey: true,
        message: `there is no key "${keyShown(key)}" here${near === undefined ? '' : `; did you mean "${near}"?`}`,
        found: keyShown(key), allowed: known.join(', '),
      };
    });
  }
  if (issue.code === 'invalid_key') {
    return [{ level: 'error', path, atKey: true, message: 'this name cannot be used', found: keyShown(String(path.at(-1))), allowed: issue.issues[0]?.message.replace(/^expected /, '') }];
  }
  if (found === undefined && issue.path.length > 0) return wrong(`"${keyShown(String(path.at(-1)))}" is required`, issue.code === 'invalid_union' && allowed === undefined ? optionsText(issue) : allowed, 'nothing');
  switch (issue.code) {
    case 'invalid_type':
      return wrong(value === null || value === undefined ? 'it is empty' : `expected ${typeWord(issue.expected)}`);
    case 'invalid_value':
      return suggest(issue.values.map(String));
    case 'invalid_union': {
      const options = (issue as { options?: readonly unknown[] }).options;
      if (options !== undefined) return suggest(options.map(String));
      return wrong('it has none of the kinds that are possible here', allowed ?? optionsText(issue));
    }
    case 'invalid_format':
      return wrong(issue.message.startsWith('expected ') ? 'it has the wrong form' : sentence(issue.message), issue.message.startsWith('expected ') ? issue.message.slice('expected '.length) : allowed);
    case 'too_small':
      return wrong(issue.origin === 'string' && issue.minimum === 1 ? 'it must not be empty' : issue.origin === 'array' ? `at least ${issue.minimum} must be given` : `it must be at least ${issue.minimum}`);
    case 'too_big':
      return wrong(issue.origin === 'string' || issue.origin === 'array' ? `it must have at most ${issue.maximum}` : `it must be at most ${issue.maximum}`);
    default:
      return wrong(sentence(issue.message));
  }

  function suggest(options: readonly string[]): Issue[] {
    const near = typeof found === 'string' && !secret ? nearest(found, options) : undefined;
    return wrong(near === undefined ? 'this value is not possible here' : `this value is not possible here; did you mean "${near}"?`, options.join(', '));
  }
}

/** Zod's own words, which never quote the input for the checks used here. */
function sentence(message: string): string {
  return message.charAt(0).toLowerCase() + message.slice(1);
}

function optionsText(issue: z.core.$ZodIssue): string | undefined {
  const options = (issue as { options?: readonly unknown[] }).options;
  return options?.join(', ');
}

function typeWord(type: string): string {
  return { object: 'a mapping', record: 'a mapping', array: 'a list', string: 'a text', number: 'a number', int: 'a whole number', boolean: 'true or false' }[type] ?? type;
}

export function valueAt(value: unknown, path: DocumentPath): unknown {
  let current = value;
  for (const step of path) {
    if (current === null || typeof current !== 'object' || !Object.hasOwn(current, step)) return undefined;
    current = (current as Record<PropertyKey, unknown>)[step];
  }
  return current;
}

/** The part of a schema that governs a path; unions are decided by their discriminator in the data. */
export function schemaAt(root: JsonSchema, value: unknown, path: DocumentPath): JsonSchema | undefined {
  let schema: JsonSchema | undefined = choose(root, value);
  let current = value;
  for (const step of path) {
    if (schema === undefined) return undefined;
    current = valueAt(current, [step]);
    const inner: JsonSchema | undefined =
      typeof step === 'number'
        ? schema.items
        : schema.properties !== undefined && Object.hasOwn(schema.properties, step)
          ? schema.properties[String(step)]
          : typeof schema.additionalProperties === 'object'
            ? schema.additionalProperties
            : undefined;
    schema = inner === undefined ? discriminator(schema, String(step)) : choose(inner, current);
  }
  return schema;
}

function choose(schema: JsonSchema, value: unknown): JsonSchema {
  const options = schema.oneOf ?? schema.anyOf;
  if (options === undefined) return schema;
  const fitting = options.filter((option) =>
    Object.entries(option.properties ?? {}).every(([key, property]) => property.const === undefined || valueAt(value, [key]) === property.const),
  );
  return fitting.length === 1 && fitting[0]!.properties !== undefined ? fitting[0]! : schema;
}

/** The possible values of a key that decides between the options of a union. */
function discriminator(schema: JsonSchema, key: string): JsonSchema | undefined {
  const values = (schema.oneOf ?? schema.anyOf ?? []).flatMap((option) => {
    const value = option.properties?.[key]?.const;
    return value === undefined ? [] : [value];
  });
  return values.length === 0 ? undefined : { enum: values };
}

/** What a schema takes, in words. */
export function allowedText(schema: JsonSchema): string | undefined {
  if (schema.enum !== undefined) return schema.enum.map(String).join(', ');
  if (schema.const !== undefined) return String(schema.const);
  const options = schema.anyOf ?? schema.oneOf;
  if (options !== undefined) {
    const texts = options.map((option) => allowedText(option)).filter((text) => text !== undefined);
    return texts.length === 0 ? undefined : [...new Set(texts)].join(' or ');
  }
  if (schema.properties !== undefined) return `a mapping with the keys ${Object.keys(schema.properties).join(', ')}`;
  const type = schema.type;
  if (typeof type !== 'string' && type !== undefined) return type.map((one) => allowedText({ ...schema, type: one })).join(' or ');
  switch (type) {
    case 'integer':
    case 'number': {
      const word = type === 'integer' ? 'a whole number' : 'a number';
      const minimum = schema.minimum !== undefined && schema.minimum > -Number.MAX_SAFE_INTEGER ? `from ${schema.minimum}` : '';
      const maximum = schema.maximum !== undefined && schema.maximum < Number.MAX_SAFE_INTEGER ? `to ${schema.maximum}` : '';
      return [word, minimum, maximum].filter((text) => text !== '').join(' ');
    }
    case 'boolean':
      return 'true, false';
    case 'array':
      return schema.items === undefined ? 'a list' : `a list${allowedText(schema.items) === undefined ? '' : `, each ${allowedText(schema.items)}`}`;
    case 'object':
      return 'a mapping';
    case 'string':
      return formOf(schema) ?? (schema.description === undefined ? 'a text' : `a text: ${words(schema.description)}`);
    default:
      return schema.description === undefined ? undefined : words(schema.description);
  }
}

/** The form of a text that has one of the forms used here; a description says what it is for, not how it is written. */
export function formOf(schema: JsonSchema): string | undefined {
  if (schema.pattern === SECRET_REFERENCE_PATTERN.source) return 'a secret reference: aws-sm:<id>#<field>, env:<NAME> or file:<path>';
  if (schema.pattern === DURATION_PATTERN.source) return 'a duration such as 30s, 15m, 1h30m, 7d';
  if (schema.pattern === SIZE_PATTERN.source) return 'a size such as 8MiB, 100MB, 1GB';
  if (schema.pattern === NAME_PATTERN.source) return 'lower-case letters, digits and inner hyphens, at most 63';
  return undefined;
}

/** A description as part of a sentence. */
function words(description: string): string {
  return description.charAt(0).toLowerCase() + description.slice(1).replace(/\.$/, '');
}

/** The known name that is most like the given one; undefined when none is like it. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  if (name.length > 64) return undefined;
  let best: string | undefined;
  let bestDistance = Infinity;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best !== undefined && bestDistance <= Math.max(1, Math.floor(Math.max(name.length, best.length) / 3)) ? best : undefined;
}

/** Insertions, deletions, replacements and swaps of neighbours. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(previous[j]! + 1, row[j - 1]! + 1, previous[j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) cost = Math.min(cost, before[j - 2]! + 1);
      row.push(cost);
    }
    [before, previous] = [previous, row];
  }
  return previous[b.length]!;
}
