import { execFile } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { findTool } from '../../src/local/tools.ts';
import type { BreakGlassResults } from '../../src/model/break-glass-results.ts';
import { fenceEpoch } from '../../src/model/fence-text.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import type { ImportedResult } from '../../workflows/imported.ts';
import { runHere, secretsOfTest } from '../cli/program.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, runningWorker, suite, testDirectory } from '../support.ts';

/** One block of a checklist, with what the paper says its last line must be. */
interface Block {
  readonly step: string;
  readonly kind: string;
  readonly sh: string;
  readonly prints: readonly string[] | null;
}

let processes: Processes;
let pair: DatabasePair;
let folder: string;
/** Nobody listens there: whatever needs Temporal fails. */
const NO_TEMPORAL = ['--address', '127.0.0.1:1'];

beforeAll(async () => {
  if ((await shell('aws --version && psql --version', '/')).code !== 0) throw new Error('this test types a checklist into a shell, which needs the AWS command line and psql; `npm test` brings them');
  processes = createProcesses({ directory: testDirectory('break-glass') });
  pair = await databasePair(processes);
  folder = testDirectory('paper');
  await queryOnce(pair.servers.a.connectionString('shop'), 'insert into orders (id) values (1)');
  const exported = await holdfast('plan', pair.service, '--export', folder);
  if (exported.code !== 0) throw new Error(exported.err);
});
afterAll(async () => {
  await processes?.end();
  pair?.context.close();
});

function holdfast(...args: string[]): ReturnType<typeof runHere> {
  return runHere([...args, '--config', pair.context.configPath, '--runbooks', pair.context.runbookDirectory, ...NO_TEMPORAL], { env: secretsOfTest() });
}

function withTemporal(...args: string[]): ReturnType<typeof runHere> {
  return runHere([...args, '--config', pair.context.configPath, '--runbooks', pair.context.runbookDirectory], { env: secretsOfTest() });
}

/** Reads the paper as a person does: headings, blocks, and the line after a block. */
function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = [];
  let step = '';
  const lines = markdown.split('\n');
  for (let at = 0; at < lines.length; at += 1) {
    const heading = /^## (.*)$/.exec(lines[at]!);
    if (heading !== null) step = heading[1]!;
    const begin = /^```sh (\w+)$/.exec(lines[at]!);
    if (begin === null) continue;
    const end = lines.indexOf('```', at);
    const after = /^Prints (`.*)$/.exec(lines[end + 2] ?? '');
    blocks.push({ step, kind: begin[1]!, sh: lines.slice(at + 1, end).join('\n'), prints: after === null ? null : [...after[1]!.matchAll(/`([^`]*)`/g)].map((match) => match[1]!) });
    at = end;
  }
  return blocks;
}

/** A shell as on a laptop: PATH, a home, and the secrets that the references name. */
function shell(script: string, home: string): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = execFile('sh', ['-c', script], { env: { PATH: `${dirname(findTool('aws'))}:${suite().postgres.binDirectory}:${process.env['PATH']}`, HOME: home, LC_ALL: 'C', AWS_CONFIG_FILE: '/dev/null', ...secretsOfTest() }, timeout: 60_000 }, (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code ?? 1), out, err }));
    child.stdin?.end();
  });
}

/** Types the blocks one after another, each in a new terminal: what is kept between them must be in files. */
async function follow(blocks: readonly Block[], home: string, log: string[] = []): Promise<string[]> {
  const [prelude] = blocks;
  for (const block of blocks) {
    const { code, out, err } = await shell(`${block === prelude ? '' : `{ ${prelude!.sh}\n} > /dev/null\n`}${block.sh}`, home);
    const last = out.trimEnd().split('\n').at(-1) ?? '';
    const said = `${block.step} [${block.kind}]\n${block.sh}\n=> ${code}: ${out}${err}`;
    log.push(said);
    const well = block.prints === null ? code === 0 || last !== '' : block.prints.includes(last);
    if (!well) throw new Error(`the paper says that it prints ${block.prints?.join(' or ') ?? 'something'}:\n${said}`);
  }
  return log;
}

function paper(mode: string): string {
  return readFileSync(join(folder, `${pair.service}-failover-${mode}.md`), 'utf8');
}

function home(): string {
  return testDirectory('laptop');
}

/** Everything in the order of the paper, without what goes back. */
function straight(markdown: string): Block[] {
  return blocksOf(markdown).filter((block) => block.kind === 'check' || block.kind === 'do');
}

describe('the break-glass checklist, typed into a shell without Temporal', { timeout: 300_000 }, () => {
  it('is written for both modes, with real addresses, and holds no secret', async () => {
    const secrets = Object.values(secretsOfTest()).concat(pair.servers.a.password, new URL(pair.applicationUrl('a')).password);
    expect(readdirSync(folder).sort()).toEqual(['forced', 'planned'].flatMap((mode) => [`orders-failover-${mode}.md`, `orders-failover-${mode}.results.template.json`]));
    for (const file of readdirSync(folder)) {
      const text = readFileSync(join(folder, file), 'utf8');
      for (const secret of secrets) expect(text.includes(secret), `${file} holds a secret`).toBe(false);
    }
    for (const mode of ['planned', 'forced']) {
      expect(paper(mode)).toContain(`port=${pair.servers.b.port}`);
      expect(paper(mode)).toContain(pair.secretId);
      expect(paper(mode)).toContain(pair.hostedZoneId);
      expect(paper(mode)).toContain('POINT OF NO RETURN');
    }
  });

  it('planned, up to where writes are refused, and back again', async () => {
    const laptop = home();
    const blocks = blocksOf(paper('planned'));
    const upTo = blocks.findIndex((block) => block.sh.includes('pg_promote'));
    const begun = blocks.slice(0, upTo).filter((block) => block.kind !== 'else' && block.kind !== 'undo');
    // The check of the step that promotes belongs to it.
    await follow(begun, laptop);
    expect(await tryToWrite(pair, 'a')).not.toContain('application');
    await follow([blocks[0]!, ...blocks.filter((block) => block.step === 'Going back')], laptop);
    expect(await tryToWrite(pair, 'a')).toContain('application');
    expect(fenceEpoch(readFileSync(join(pair.servers.a.dataDirectory, 'pg_hba.conf'), 'utf8'))).toBe(null);
    expect(await pair.pointsTo()).toBe('a');
  });

  it('planned: b is the primary, a is fenced, the secret and DNS say b, no acknowledged write is lost', async () => {
    const laptop = home();
    const writer = new ApplicationWriter(pair, 10);
    try {
      await follow(straight(paper('planned')), laptop);
      const before = writer.acknowledged.length;
      await expect.poll(() => writer.acknowledged.length, { timeout: 20_000 }).toBeGreaterThan(before + 10);
    } finally {
      await writer.stop();
    }
    expect(writer.acknowledged.length).toBeGreaterThan(20);
    expect(await writer.lostOn('b')).toEqual([]);
    expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as standby')).toEqual([{ standby: false }]);
    expect(await tryToWrite(pair, 'a')).toEqual([]);
    expect(await pair.pointsTo()).toBe('b');
    expect(await pair.record()).toBe('127.0.0.2');
    // The hand-made fence carries an epoch that Holdfast reads, and lets nobody in after a start either.
    const epoch = fenceEpoch(readFileSync(join(pair.servers.a.dataDirectory, 'pg_hba.conf'), 'utf8'));
    expect(epoch).toBeGreaterThan(Date.now() - 600_000);
    expect(epoch).toBeLessThanOrEqual(Date.now());
    await pair.servers.a.start();
    expect(await tryToWrite(pair, 'a')).toEqual([]);
  });

  it('what was written down is checked in full, held against the live systems, and recorded once', async () => {
    const template = JSON.parse(readFileSync(join(folder, `${pair.service}-failover-planned.results.template.json`), 'utf8')) as BreakGlassResults;
    const now = Date.now();
    const at = (secondsAgo: number): string => new Date(now - secondsAgo * 1000).toISOString();
    const filled: BreakGlassResults = {
      ...template, by: 'ann', reason: 'Temporal was down', startedAt: at(60), finishedAt: at(1), lastGoodWriteAt: at(40), firstGoodWriteAt: at(20),
      steps: template.steps.map((step, index) => ({ ...step, outcome: step.uses.startsWith('canary') ? 'skipped' : 'done', by: 'ann', at: at(50 - index), output: step.uses.startsWith('canary') ? 'not by hand' : 'as printed on the paper' })),
    };
    const file = (name: string, results: unknown): string => {
      const path = join(testDirectory('results'), name);
      writeFileSync(path, JSON.stringify(results));
      return path;
    };
    const wrong = await holdfast('evidence', 'import', file('wrong.json', { ...filled, by: '', finishedAt: at(120), steps: [{ ...filled.steps[0]!, outcome: 'maybe' }, { ...filled.steps[1]!, at: '3 o’clock' }] }));
    expect(wrong.code).toBe(2);
    for (const part of ['by: empty', 'finishedAt: ', 'steps.0 (confirm).outcome: found "maybe"', 'steps.1 (approve).at: found "3 o’clock"']) expect(wrong.err).toContain(part);
    expect((await holdfast('evidence', 'import', file('template.json', template))).err).toMatch(/\d+ thing\(s\)/);

    const worker = await runningWorker(pair.context);
    try {
      const good = file('good.json', filled);
      const { code, out, err } = await withTemporal('evidence', 'import', good, '--by', 'bob', '--json');
      const result = JSON.parse(out) as ImportedResult;
      if (result.checks === undefined) throw new Error(`${out}${err}`);
      expect({ wrong: result.checks.filter((check) => !check.ok), code, err }).toMatchObject({ wrong: [], code: 0 });
      expect(result).toMatchObject({ outcome: 'succeeded by hand', confirmed: true, service: pair.service });
      expect(result.checks.map((check) => check.name).join('\n')).toMatch(/fenced before promoted[\s\S]*promote now: promoted[\s\S]*check-fence now: [\s\S]*swap-secret now: [\s\S]*dns now: /);
      expect(result.measurements.find((item) => item.name === 'refused-write window')).toMatchObject({ measured: 20_000, note: 'as written down by ann' });
      expect(result.measurements.find((item) => item.name === 'acknowledged writes lost')).toMatchObject({ measured: null });
      expect(await withTemporal('evidence', 'verify', result.evidence)).toMatchObject({ code: 0, out: expect.stringContaining('intact') });
      const report = readFileSync(join(result.evidence, 'report.md'), 'utf8');
      expect(report).toContain('BY HAND');
      expect(report).toContain('"source":"imported, by hand"');
      expect(await withTemporal('evidence', 'import', good)).toMatchObject({ code: 4, err: expect.stringContaining('was imported already') });
      // Somebody claims that b was fenced and a promoted: the live systems say otherwise, and the record says so.
      const claim = await withTemporal('evidence', 'import', file('claim.json', { ...filled, primary: 'b', candidate: 'a', startedAt: at(61) }), '--json');
      expect(claim.code).toBe(1);
      expect(JSON.parse(claim.out)).toMatchObject({ outcome: 'succeeded by hand, not confirmed', confirmed: false });
      expect((await withTemporal('audit', '--kind', 'imported')).out).toMatch(/succeeded by hand/);
    } finally {
      await worker.stop();
    }
  });

  it('a failback by Holdfast copes with the fence that was made by hand', async () => {
    const client = await connectTemporal(pair.context);
    const worker = await runningWorker(pair.context);
    try {
      const { taskQueue } = pair.context.config.temporal;
      const input = { service: pair.service, mode: 'planned', reason: 'back', requestedBy: 'tester', purpose: 'failback', parameters: { node: 'a' } };
      const result = (await client.workflow.execute('failover', { taskQueue, workflowId: `failover/${taskQueue}`, args: [input] })) as ExecutionResult;
      expect(result).toMatchObject({ outcome: 'succeeded', primary: 'b', candidate: 'a' });
      // b is fenced now: it becomes a standby again for what follows.
      const rebuilt = (await client.workflow.execute('runbook', { taskQueue, workflowId: `runbook/${taskQueue}`, args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { datastore: 'shop', node: 'b' } }] })) as ExecutionResult;
      expect(rebuilt.outcome).toBe('succeeded');
    } finally {
      await worker.stop();
      await client.connection.close();
    }
    expect(await tryToWrite(pair, 'a')).toContain('application');
  });

  it('forced, with a primary that was killed: b is the primary, a does not come back writable, what it could not send is counted', async () => {
    const laptop = home();
    const writer = new ApplicationWriter(pair, 1_000_000);
    await expect.poll(() => writer.acknowledged.length, { timeout: 20_000 }).toBeGreaterThan(20);
    await pair.servers.a.kill();
    try {
      const log = await follow(straight(paper('forced')), laptop);
      const lost = Number(/grep -c[\s\S]*=> \d: (\d+)/.exec(log.findLast((entry) => entry.includes('desc: COMMIT'))!)![1]);
      const before = writer.acknowledged.length;
      await expect.poll(() => writer.acknowledged.length, { timeout: 20_000 }).toBeGreaterThan(before + 10);
      await writer.stop();
      // Asynchronous replication may lose the last ones; the paper's count says how many, and not fewer.
      expect((await writer.lostOn('b')).length).toBeLessThanOrEqual(lost);
    } finally {
      await writer.stop();
    }
    expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as standby')).toEqual([{ standby: false }]);
    expect(await pair.pointsTo()).toBe('b');
    await pair.servers.a.start().catch(() => {});
    expect(await tryToWrite(pair, 'a')).toEqual([]);
  });
});
