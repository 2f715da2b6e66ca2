/* oxlint-disable vitest/no-conditional-expect -- what is asked of an answer depends on which it is: a value or a named error */
/** Everything that reads what others wrote: whatever that is, the answer is findings or a named error. Evidence and documents have files of their own. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ApplicationFailure, defaultPayloadConverter, type Payload } from '@temporalio/common';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createEncryptionCodec } from '../../src/engine/payload-encryption.ts';
import { workflowInputSchemas, type WorkflowType } from '../../src/model/api.ts';
import { OPERATOR_ACTIONS, reduce, refusal, startExecution, type ExecutionState, type OperatorAction, type OperatorRequest, type Plan } from '../../src/model/execution.ts';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import { parseCron } from '../../src/model/schedule.ts';
import { parseDurationMs, parseSizeBytes } from '../../src/model/units.ts';
import { jsonParameters, overridesOf } from '../../src/cli/parameters.ts';
import { listBackups, openObject, readManifest } from '../../src/systems/backup-catalogue.ts';
import { parseToc, selectTables } from '../../src/systems/backup-tables.ts';
import type { Context } from '../../src/systems/context.ts';
import { configSchema } from '../../src/model/config-schema.ts';
import { readConfig } from '../../src/systems/config-file.ts';
import { patternToRegexes } from '../../src/systems/postgres-selection.ts';
import { createSecretResolver } from '../../src/systems/secrets.ts';
import { createFolderStore } from '../../src/systems/store-folder.ts';
import { parseInput } from '../../workflows/input.ts';
import { FUZZ_TIMEOUT_MS, anyBytes, anyJson, edited, edits, effort, mutatedJson, named, namedAsync } from '../fuzz.ts';
import { runHere } from '../cli/program.ts';
import { nextAction, goodResult, planOf, shippedPlan } from './execution-plans.ts';

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-fuzz-'));
});
afterAll(() => rm(root, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 }));

describe('a store of backups, whatever lies in it', { timeout: FUZZ_TIMEOUT_MS }, () => {
  const data = randomBytes(300);
  const digest = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex');
  const MANIFEST: PostgresManifest = {
    format: 1, id: 'abc', datastore: 'shop', engine: 'postgres', environment: 'test', snapshotAt: '2026-11-21T03:00:00.000Z', startedAt: '2026-11-21T03:00:00.000Z', finishedAt: '2026-11-21T03:01:00.000Z', reason: 'manual', workflowId: 'w', runId: 'r',
    source: { node: 'a', role: 'primary', database: 'shop', systemIdentifier: '1', snapshotId: 's', lsn: '0/1', timeline: 1, serverVersion: '15', serverVersionNumber: 150000, encoding: 'UTF8', collate: 'C', ctype: 'C', localeProvider: 'c', databaseBytes: 1 },
    tools: {}, selection: { complete: true, include: { schemas: [], tables: [] }, exclude: { schemas: [], tables: [], tableData: [] } },
    objects: [{ name: 'data.bin', role: 'data', storedBytes: data.length, plainBytes: data.length, storedSha256: digest(data), plainSha256: digest(data), compression: 'none', encryption: 'none' }],
    fingerprint: { method: 'hashtextextended-sum/1', tables: [], sequences: [], largeObjects: null, extensions: [], roles: [], schemaObjects: {}, schemaSha256: '' },
    commands: [],
  };
  const location = 'shop/2026/11/21/030000Z-abc/';
  const manifestBytes = fc.oneof(mutatedJson(MANIFEST).map((value) => Buffer.from(JSON.stringify(value) ?? '')), anyBytes, edits.map((list) => edited(Buffer.from(JSON.stringify(MANIFEST)), list)));

  test('every backup that is listed can be reasoned with; all others are told as damaged, never as a crash', async () => {
    let number = 0;
    const commit = fc.oneof(
      { weight: 3, arbitrary: fc.constant('of this manifest' as const) },
      anyBytes,
      mutatedJson({ format: 1, id: 'abc', manifestSha256: digest(JSON.stringify(MANIFEST)), committedAt: '2026-11-21T03:01:00.000Z' }).map((value) => Buffer.from(JSON.stringify(value) ?? '')),
    );
    const marks = fc.array(fc.record({ name: fc.constantFrom('MARK-verified.json', 'MARK-x.json', 'MARK-.json', 'other'), content: fc.oneof(anyBytes, mutatedJson({ mark: 'verified', at: '2026-11-21T03:01:00.000Z', by: 'x', reason: 'y' }).map((value) => Buffer.from(JSON.stringify(value) ?? ''))) }), { maxLength: 1 });
    await fc.assert(fc.asyncProperty(manifestBytes, commit, marks, async (manifest, committed, notes) => {
      number += 1;
      const path = join(root, `store-${number}`);
      const folder = join(path, location);
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, 'manifest.json'), manifest);
      await writeFile(join(folder, 'COMMIT'), Buffer.isBuffer(committed) ? committed : JSON.stringify({ format: 1, id: 'abc', manifestSha256: digest(manifest), committedAt: '2026-11-21T03:01:00.000Z' }));
      await writeFile(join(folder, 'data.bin'), data);
      for (const { name, content } of notes) await writeFile(join(folder, name), content);
      const store = createFolderStore(path, '');
      const damaged: string[] = [];
      const listed = await namedAsync(() => listBackups(store, '', 'shop', { nowMs: 0, onDamaged: (where, why) => damaged.push(`${where} ${why}`) }));
      if (typeof listed === 'string') expect(listed).toMatch(/^(mark-invalid|store-folder)$/);
      else {
        expect(listed.length + damaged.length).toBe(1);
        for (const backup of listed) expect([backup.snapshotAtMs, backup.committedAtMs, backup.storedBytes, backup.plainBytes].every(Number.isFinite)).toBe(true);
      }
      expect(damaged.every((text) => text.length < 2000 && !text.includes('[object'))).toBe(true);
      const read = await namedAsync(() => readManifest(store, location));
      if (typeof read === 'string') return;
      const context = { config: configSchema.parse({ version: 1, stores: { main: { type: 'folder', path } }, datastores: {}, services: {} }) } as unknown as Context;
      for (const entry of read.objects) await namedAsync(async () => {
        for await (const _ of await openObject(context, 'main', location, entry)) void _;
      });
    }), effort(120));
  });
});

describe('what operators and clients send', { timeout: FUZZ_TIMEOUT_MS }, () => {
  test('input of every workflow is taken or refused by name', () => {
    const good: Record<WorkflowType, unknown> = {
      backup: { datastore: 'shop' }, retention: { datastore: 'shop', apply: true }, restoreDrill: { datastore: 'shop', backup: 'newest' }, readiness: { service: 'orders' },
      failover: { service: 'orders', mode: 'planned', reason: 'x', requestedBy: 'ana', parameters: { node: 'a' }, overrides: [{ rule: 'cooldown', reason: 'y' }] }, runbook: { runbook: 'r', parameters: {}, overrides: [] }, imported: { results: {}, importedBy: 'ana' },
    };
    fc.assert(fc.property(fc.constantFrom(...(Object.keys(workflowInputSchemas) as WorkflowType[])).chain((type) => fc.tuple(fc.constant(type), fc.oneof(anyJson, mutatedJson(good[type]), fc.constant(undefined)))), ([type, input]) => {
      try {
        expect(typeof parseInput(type, workflowInputSchemas[type], input)).toBe('object');
      } catch (error) {
        expect(error).toBeInstanceOf(ApplicationFailure);
        expect(error).toMatchObject({ type: 'input-invalid', nonRetryable: true, message: expect.stringContaining(`the input of ${type} is wrong: `) });
        expect((error as Error).message.length).toBeLessThan(20_000);
      }
    }), effort(600));
  });

  test('an operator request of any shape is refused with a reason or can be carried out', async () => {
    const shipped = await shippedPlan('failover', 'planned');
    const small = planOf([{ id: 'look', uses: 'postgres.health' }, { id: 'ask', uses: 'operator.approval', with: {} }, { id: 'promote', uses: 'postgres.promote' }]);
    const states = [shipped, small].flatMap((plan) => statesOf(plan).map((state) => ({ plan, state })));
    expect(states.length).toBeGreaterThan(10);
    const request = fc.oneof(anyJson, fc.constant(undefined), fc.constantFrom(...states).chain(({ state }) => mutatedJson({ by: 'ben', reason: 'because', step: state.steps[0]!.id, attempt: 1, evidence: 'seen', facts: {}, plan: 'h', observed: 'o', acceptLossMs: 1, rule: 'cooldown' })),
      fc.record({ by: fc.oneof(fc.string(), anyJson), reason: fc.oneof(fc.string(), anyJson), step: fc.oneof(fc.constantFrom('look', 'ask', 'promote', 'canary', 'constructor', '__proto__'), anyJson), attempt: fc.oneof(fc.constantFrom<unknown>(1, 2, '1', 1.5, null, Number.POSITIVE_INFINITY, -0), anyJson), evidence: fc.oneof(fc.string(), anyJson), facts: anyJson, rule: anyJson }, { requiredKeys: ['by', 'reason'] }));
    const action = fc.oneof({ weight: 9, arbitrary: fc.constantFrom<string>(...OPERATOR_ACTIONS) }, fc.constantFrom('constructor', '', '__proto__'));
    fc.assert(fc.property(fc.constantFrom(...states), action, request, ({ plan, state }, name, sent) => {
      const why = refusal(plan, state, name as OperatorAction, sent as OperatorRequest);
      if (why !== null) {
        expect(why.length).toBeGreaterThan(5);
        expect(why.length).toBeLessThan(5000);
        return;
      }
      const next = reduce(plan, state, { type: 'operator', action: name as OperatorAction, request: sent as OperatorRequest, atMs: 2 });
      expect(next.decisions).toHaveLength(state.decisions.length + 1);
      expect(() => nextAction(plan, next)).not.toThrow();
      // What is taken goes into history, and must come back from there.
      expect(JSON.parse(JSON.stringify(next.decisions))).toEqual(next.decisions);
    }), effort(1500));
  });
});

/** Some states that an execution goes through, among them waiting, parked and going back. */
function statesOf(plan: Plan): ExecutionState[] {
  const states: ExecutionState[] = [];
  for (const failAt of [Number.POSITIVE_INFINITY, 3, 5, 8]) {
    let state = startExecution(plan, { epoch: 1, requestedBy: 'ana', dryRun: false });
    for (let turn = 0; turn < 14; turn += 1) {
      states.push(state);
      const action = nextAction(plan, state);
      if (action.type === 'finish') break;
      if (action.type === 'preflight') state = reduce(plan, state, { type: 'preflightDone', results: action.calls.map(({ step, phase }) => ({ step, phase, result: goodResult(plan.steps[step]!.uses, phase), error: null })), atMs: 1 });
      else if (action.type === 'phase') {
        const { step, phase } = action;
        state = reduce(plan, reduce(plan, state, { type: 'began', step, phase, atMs: 1 }), turn >= failAt ? { type: 'phaseFailed', step, phase, how: 'unknown', error: 'lost', atMs: 1 } : { type: 'phaseDone', step, phase, result: goodResult(plan.steps[step]!.uses, phase), atMs: 1 });
      } else if (action.type === 'approval') {
        if (action.expiresAtMs !== null) break;
        state = reduce(plan, state, { type: 'approvalBegan', step: action.step, atMs: 1 });
      } else break;
    }
    states.push(state);
  }
  return states;
}

describe('the command line', { timeout: FUZZ_TIMEOUT_MS }, () => {
  /** Commands that end by themselves without any server. */
  const words = fc.constantFrom('validate', 'evidence', 'verify', 'list', 'show', 'keygen', 'push', 'status', 'help', 'plan', 'backups', 'retention', '--json', '--config', '/nowhere/holdfast.yaml', '--directory', '--public-key', '--store', '/nowhere', '--by', '--help', '--version', '--log-level', 'loud', '--parameter', 'a', '=', '__proto__=1', '--', '-', '', '\0', '--no-such', '-c', 'constructor', '🙂');
  test('any arguments end with a documented code and words, never with a stack', async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.oneof({ weight: 4, arbitrary: words }, fc.string({ maxLength: 12 })), { maxLength: 6 }), async (args) => {
      // Nothing is written where the tests run, and nothing is asked of a Temporal on this host.
      fc.pre(!args.includes('keygen') || args.includes('--help'));
      const { code, out, err } = await runHere(args, { cwd: root, env: { TEMPORAL_ADDRESS: '127.0.0.1:1', HOLDFAST_CONFIG: join(root, 'missing.yaml') } });
      expect([0, 1, 2, 3, 4, 5]).toContain(code);
      expect(`${out}${err}`).not.toMatch(/^\s+at .*\(?(file:|\/|node:)/m);
      expect(err).not.toMatch(/TypeError|ReferenceError|RangeError|is not a function|Cannot read prop/);
      if (code !== 0) expect(`${out}${err}`.trim()).not.toBe('');
    }), effort(120));
  });

  test('parameters and overrides', () => {
    const text = fc.oneof(fc.string(), fc.constantFrom('__proto__=1', 'constructor=1', 'toString=x', 'a=1', '=', 'a=', 'cooldown=why', 'cooldown=', 'a={"__proto__":1}'));
    fc.assert(fc.property(fc.array(text, { maxLength: 4 }), (texts) => {
      const parameters = named(() => jsonParameters(texts));
      if (typeof parameters !== 'string') {
        expect(Object.keys(parameters)).toHaveLength(texts.length);
        expect(Object.getPrototypeOf(parameters)).toBe(Object.prototype);
      } else expect(texts.some((one) => one.indexOf('=') < 1) || new Set(texts.map((one) => one.slice(0, one.indexOf('=')))).size < texts.length).toBe(true);
      named(() => overridesOf(texts));
    }), effort(300));
  });
});

describe('configuration from disk', { timeout: FUZZ_TIMEOUT_MS }, () => {
  test('bytes that are no text, other line ends, NUL and BOM, anywhere in the example', async () => {
    const example = await readFile(join(import.meta.dirname, '..', '..', 'holdfast.example.yaml'));
    const file = join(root, 'config', 'holdfast.yaml');
    await mkdir(dirname(file), { recursive: true });
    const whole = fc.constantFrom<(text: Buffer) => Buffer>(
      (text) => Buffer.concat([Buffer.from('\uFEFF'), text]), (text) => Buffer.from(text.toString().replaceAll('\n', '\r\n')), (text) => Buffer.from(text.toString().replaceAll('\n', '\r')), (text) => Buffer.from(text.toString().replaceAll('  ', '\t')),
      (text) => Buffer.from(text.toString(), 'utf16le'), (text) => Buffer.concat([text, Buffer.from([0])]), (text) => text.subarray(0, text.length >> 1), (text) => Buffer.concat([text, text]), (text) => text,
    );
    const insert = fc.constantFrom(Buffer.from([0]), Buffer.from([0xff]), Buffer.from([0xc3]), Buffer.from([0xed, 0xa0, 0x80]), Buffer.from('\u2028'), Buffer.from('9'.repeat(400)), Buffer.from('1e999'), Buffer.from('&a *a'), Buffer.from('<<: *x'), Buffer.from('!!js/function x'), Buffer.from('? '), Buffer.from('---\n'), Buffer.from('%YAML 9.9\n'));
    await fc.assert(fc.asyncProperty(whole, fc.array(fc.record({ at: fc.nat(20_000), cut: fc.nat(4), insert }), { maxLength: 2 }), async (change, list) => {
      await writeFile(file, edited(change(example), list));
      const answer = await namedAsync(() => readConfig(file));
      if (typeof answer === 'string') return;
      expect(answer.config === undefined).toBe(answer.findings.some((finding) => finding.level === 'error'));
      expect(answer.findings.every((finding) => finding.message !== '' && finding.path !== '')).toBe(true);
    }), effort(150));
  });
});

describe('small readers', { timeout: FUZZ_TIMEOUT_MS }, () => {
  test('payloads that were not encrypted by us, or were changed', async () => {
    const key = randomBytes(32).toString('base64');
    const codec = createEncryptionCodec(key);
    const [good] = await codec.encode([defaultPayloadConverter.toPayload({ a: 'b'.repeat(50) })!]);
    const damagedPayload = fc.oneof(
      edits.map((list): Payload => ({ ...good!, data: edited(Buffer.from(good!.data!), list) })),
      fc.uint8Array({ maxLength: 60 }).map((data): Payload => ({ ...good!, data })),
      fc.constant<Payload>({ metadata: good!.metadata! }),
      fc.record({ encoding: fc.uint8Array({ maxLength: 20 }), 'encryption-key-id': fc.uint8Array({ maxLength: 20 }) }).map((metadata): Payload => ({ metadata: { ...good!.metadata, ...metadata }, data: good!.data! })),
      fc.uint8Array({ maxLength: 20 }).map((id): Payload => ({ metadata: { ...good!.metadata, 'encryption-key-id': id }, data: good!.data! })),
      fc.constant<Payload>({}),
    );
    await fc.assert(fc.asyncProperty(damagedPayload, async (payload) => {
      const answer = await namedAsync(() => codec.decode([payload]));
      if (typeof answer === 'string') expect(answer).toMatch(/^(encryption-key|payload-damaged)$/);
    }), effort(400));
    for (const wrong of ['', ',', 'x', `${key},short`, '\0']) expect(() => createEncryptionCodec(wrong)).toThrow(expect.objectContaining({ code: 'encryption-key' }));
  });

  test('references to secrets, and what they lead to', async () => {
    const reference = fc.oneof(fc.string({ maxLength: 30 }), fc.tuple(fc.constantFrom('env:', 'file:', 'aws-sm:', 'ENV:', ':', ''), fc.string({ maxLength: 20 })).map(([scheme, rest]) => scheme + rest), fc.constantFrom('env:__proto__', 'env:constructor', 'file:\0', 'file:/', 'aws-sm:x#__proto__', 'aws-sm:x#a.b', 'aws-sm:#'));
    await fc.assert(fc.asyncProperty(reference, fc.oneof(fc.string(), anyJson.map((value) => JSON.stringify(value))), async (text, stored) => {
      const resolver = createSecretResolver(async () => stored, { HOME: '/x' });
      expect(typeof (await namedAsync(() => resolver.resolve(text)))).toBe('string');
    }), effort(400));
  });

  test('tables of contents of dumps, patterns, cron lines, durations and sizes', async () => {
    const toc = ';\n-- TOC entry 1 (class 1259 OID 1)\n-- Dependencies: 2 3\n-- Name: orders; Type: TABLE; Schema: public; Owner: x\n--\n-- TOC entry 2 (class 1259 OID 2)\n-- Name: t; Type: TYPE; Schema: public; Owner: x\n1; 1259 1 TABLE public orders x\n';
    await fc.assert(fc.asyncProperty(fc.oneof(fc.string(), edits.map((list) => edited(Buffer.from(toc), list).toString())), fc.string({ maxLength: 30 }), async (text, other) => {
      const entries = parseToc(text);
      await namedAsync(() => selectTables(entries, text, [{ schema: 'public', name: 'orders' }, ...(other.length > 20 ? [{ schema: other, name: other }] : [])], () => Promise.resolve(false)));
      expect(patternToRegexes(other).length).toBeGreaterThan(0);
      expect(parseCron(other)).toBeTypeOf('object');
      for (const value of [parseDurationMs(other), parseSizeBytes(other), parseDurationMs(`${'9'.repeat(other.length * 20)}d`)]) expect(Number.isNaN(value)).toBe(false);
    }), effort(400));
  });

});
