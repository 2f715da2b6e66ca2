import { randomBytes } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { findTool } from '../../src/local/tools.ts';
import { runChild } from '../../src/systems/child.ts';
import type { Context } from '../../src/systems/context.ts';
import { holdfast, secretsOfTest, startHoldfast, type ProgramExit } from '../cli/program.ts';
import { suite, testConfig, testDatabase, testDatastore, testSecret, type TestDatabase } from '../support.ts';

/** Nothing that stands anywhere by chance. */
const PASSWORD = `Pw-${randomBytes(18).toString('hex')}/'"%&`;
const HOOK_TOKEN = `hook${randomBytes(18).toString('hex')}`;
let database: TestDatabase;
let context: Context;

beforeAll(async () => {
  database = await testDatabase('secrets');
  const role = `secrets_${randomBytes(4).toString('hex')}`;
  await database.query(`create role ${role} superuser login password ${pg.escapeLiteral(PASSWORD)}`);
  await database.query('create table item (id int primary key, note text); insert into item select g, repeat(md5(g::text), 20) from generate_series(1, 40000) g');
  process.env['HOLDFAST_TEST_HOOK_URL'] = `http://127.0.0.1:1/services/${HOOK_TOKEN}`;
  process.env['HOLDFAST_TEST_KEY'] = randomBytes(32).toString('base64');
  const secret = await testSecret('admin', { username: role, password: PASSWORD });
  context = await testConfig({
    datastores: {
      shop: testDatastore(database, { admin: { username: role, password: `aws-sm:${secret}#password` } }),
      broken: testDatastore(database, { database: 'no_such_database', admin: { username: role, password: `aws-sm:${secret}#password` } }),
    },
    notify: { ops: { type: 'slack', url: 'env:HOLDFAST_TEST_HOOK_URL' } },
  });
});
afterAll(() => database?.drop());

/** A worker as its own process at its most talkative; gives what it said. */
async function withWorker<T>(configPath: string, work: (log: () => string) => Promise<T>): Promise<T> {
  const { child, exited } = startHoldfast(['worker', '--config', configPath, '--log-level', 'trace', '--grace', '1'], { env: secretsOfTest() });
  let log = '';
  const started = new Promise<void>((resolve, reject) => {
    child.stderr!.on('data', (text: string) => {
      log += text;
      if (log.includes('worker started')) resolve();
    });
    child.once('close', () => reject(new Error(`the worker ended: ${log}`)));
  });
  try {
    await started;
    return await work(() => log);
  } finally {
    child.kill('SIGTERM');
    await exited;
  }
}

/** Of all processes: what everybody on the host can read. */
function commandLines(): string {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map((pid) => {
      try {
        return readFileSync(join('/proc', pid, 'cmdline'), 'utf8').replaceAll('\0', ' ');
      } catch {
        return ''; // It ended meanwhile.
      }
    })
    .join('\n');
}

/** The history as Temporal's own client gives it, with every base64 payload also in plain. */
async function historyText(workflowId: string): Promise<string> {
  const { stdout } = await runChild([findTool('temporal'), 'workflow', 'show', '--address', suite().temporal.address, '--workflow-id', workflowId, '--output', 'json']);
  const texts = [stdout];
  const walk = (value: unknown): void => {
    if (typeof value === 'string') texts.push(value, Buffer.from(value, 'base64').toString('utf8'));
    else if (typeof value === 'object' && value !== null) for (const item of Object.values(value)) walk(item);
  };
  walk(JSON.parse(stdout));
  return texts.join('\n');
}

/** As it is, in a URL, in JSON, in SQL, in base64 at each of the three alignments. */
function formsOf(secret: string): string[] {
  const inner = (text: string): string => text.slice(4, -4);
  return [secret, encodeURIComponent(secret), JSON.stringify(secret).slice(1, -1), secret.replaceAll("'", "''"), ...['', 'x', 'xx'].map((pad) => inner(Buffer.from(pad + secret).toString('base64')))];
}

function expectNoSecret(text: string): void {
  const found = [PASSWORD, HOOK_TOKEN, suite().s3.secretAccessKey].flatMap((secret) => formsOf(secret).filter((form) => text.includes(form)));
  expect(found).toEqual([]);
}

async function run(configPath: string, ...args: string[]): Promise<{ code: number | null; text: string; out: string }> {
  const { code, out, err } = await holdfast([...args, '--config', configPath, '--log-level', 'trace'], { env: secretsOfTest() });
  return { code, out, text: `${out}\n${err}` };
}

describe('secrets stay where they belong', () => {
  test('not in the log, the output, the history or any command line: of a backup, of a failing one, of doctor and audit', async () => {
    await withWorker(context.configPath, async (log) => {
      const seen = new Set<string>();
      const backup = startHoldfast(['backup', 'shop', '--json', '--config', context.configPath, '--log-level', 'trace'], { env: secretsOfTest() });
      let ended: ProgramExit | undefined;
      while (ended === undefined) {
        for (const line of commandLines().split('\n')) seen.add(line);
        ended = await Promise.race([backup.exited, new Promise<undefined>((resolve) => setImmediate(() => resolve(undefined)))]);
      }
      expect(ended).toMatchObject({ code: 0 });
      const lines = [...seen].join('\n');
      // The dump was really seen while it ran.
      expect(lines).toMatch(/pg_dump .*--snapshot/);
      expectNoSecret(lines);
      expectNoSecret(ended.out + ended.err);

      const failed = await run(context.configPath, 'backup', 'broken');
      expect(failed.code).toBe(1);
      expect(failed.text).toContain('no_such_database');
      expectNoSecret(failed.text);

      const listed = JSON.parse((await run(context.configPath, 'audit', '--kind', 'backup', '--since', '1h', '--json')).out) as { workflowId: string; datastore: string | null; environment: string | null }[];
      const ours = listed.filter(({ workflowId }) => /^backup\/(shop|broken)\//.test(workflowId));
      const [good, bad] = [ours.find(({ workflowId }) => workflowId.startsWith('backup/shop/')), ours.find(({ workflowId }) => workflowId.startsWith('backup/broken/'))];
      const goodHistory = await historyText(good!.workflowId);
      expect(goodHistory).toContain('"datastore":"shop"');
      expectNoSecret(goodHistory);
      const badHistory = await historyText(bad!.workflowId);
      expect(badHistory).toContain('no_such_database');
      expectNoSecret(badHistory);

      const audit = await run(context.configPath, 'audit', good!.workflowId, '--inputs');
      expect(audit).toMatchObject({ code: 0 });
      expectNoSecret(audit.text);
      expectNoSecret((await run(context.configPath, 'doctor')).text);
      const undelivered = log().split('\n').find((line) => line.includes('a notification was not delivered'));
      expect(JSON.parse(undelivered!)).toMatchObject({ activity: 'notify', workflowId: expect.stringMatching(/^backup\//), receiver: 'ops' });
      expectNoSecret(log());
    });
  });

  test('with a key, history holds neither inputs nor results nor failure texts, and we still read them', async () => {
    const encrypted = await testConfig({
      temporal: { encryptionKey: 'env:HOLDFAST_TEST_KEY' },
      datastores: { vault: testDatastore(database), lost: testDatastore(database, { database: 'no_such_database' }) },
    });
    await withWorker(encrypted.configPath, async () => {
      const good = await run(encrypted.configPath, 'backup', 'vault', '--json', '--reason', 'very-private-reason');
      expect(good).toMatchObject({ code: 0 });
      const { id, location } = JSON.parse(good.out) as { id: string; location: string };
      const failed = await run(encrypted.configPath, 'backup', 'lost', '--reason', 'very-private-reason');
      expect(failed).toMatchObject({ code: 1 });
      expect(failed.text).toContain('no_such_database');

      const listed = JSON.parse((await run(encrypted.configPath, 'audit', '--kind', 'backup', '--since', '1h', '--json')).out) as { workflowId: string }[];
      const workflowOf = (prefix: string): string => listed.find(({ workflowId }) => workflowId.startsWith(prefix))!.workflowId;
      const histories = `${await historyText(workflowOf('backup/vault/'))}${await historyText(workflowOf('backup/lost/'))}`;
      for (const hidden of ['very-private-reason', 'no_such_database', id, location]) expect(histories).not.toContain(hidden);
      expect(histories).toContain('binary/encrypted');
      const audit = await run(encrypted.configPath, 'audit', workflowOf('backup/lost/'));
      expect(audit.text).toContain('very-private-reason');
      expect(audit.text).toContain('no_such_database');

      // Another key reads nothing, and says which one is needed.
      const other = await holdfast(['audit', workflowOf('backup/vault/'), '--config', encrypted.configPath], { env: { ...secretsOfTest(), HOLDFAST_TEST_KEY: randomBytes(32).toString('base64') } });
      expect(other).toMatchObject({ code: 2, err: expect.stringMatching(/history was encrypted with key [0-9a-f]{16}[\s\S]*add the old key behind the new one/) });
    });
  });
});
