import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { resolvePlan } from '../../activities/plan.ts';
import { BY_HAND, byHand } from '../../src/model/by-hand.ts';
import { sh } from '../../src/model/by-hand/words.ts';
import { breakGlass, type BreakGlass } from '../../src/model/break-glass.ts';
import { CATALOGUE } from '../../src/model/catalogue.ts';
import { configSchema, type Config } from '../../src/model/config-schema.ts';
import { planView, stepTimes } from '../../src/model/plan-view.ts';
import type { Mode } from '../../src/model/runbook-schema.ts';
import { STEP_TEXTS } from '../../src/model/step-text.ts';
import type { Context } from '../../src/systems/context.ts';
import { planOf } from './execution-plans.ts';
import { postgresOf } from '../../src/systems/context.ts';

/** Awkward on purpose: ssh, a fence command, another address for applications, names with quotes and blanks. */
const CONFIG = configSchema.parse({
  version: 1,
  environment: 'test',
  aws: { region: 'eu-central-1', endpoint: 'http://127.0.0.1:5000', credentials: { accessKeyId: 'env:KEY_ID', secretAccessKey: 'file:/etc/holdfast/aws key' } },
  stores: { main: { type: 'folder', path: '/nowhere' } },
  datastores: {
    shop: {
      engine: 'postgres', database: 'shop db', store: 'main', admin: { username: `o'brien"s`, password: 'env:ADMIN_PASSWORD', sslmode: 'verify-full', sslrootcert: '/etc/ssl/db ca.pem' },
      nodes: {
        a: { host: 'db-a.internal', port: 5432, dataDirectory: '/data/a', binDirectory: '/usr/lib/postgresql/15/bin', exec: ['ssh', 'db-a', 'sudo', '-u', 'postgres', '--'], replication: { username: 'replicator', passfile: '/data/pass' } },
        b: { host: 'db-b.internal', port: 5433, applicationHost: 'b.apps', fence: { command: ['fence-node', 'b'], verify: ['fence-node', '--check'] }, replication: { username: 'replicator' } },
        c: { host: 'db-c.internal' },
      },
      endpoint: { secret: 'prod/shop', dns: { hostedZoneId: 'Z123', name: 'db.shop.example', type: 'CNAME' } },
    },
  },
  services: {
    orders: {
      objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], runbooks: { failover: 'database-failover', failback: 'database-failback' }, approval: { planned: 1, forced: 2 },
      parameters: { rolloutCommand: ['kubectl', 'rollout', 'restart', 'deployment/orders api'], rolloutUrl: 'https://orders.example/rollout?x=1&y=2', recentQuery: `select max(id) as "newest" from orders where note <> 'it''s'` },
    },
  },
  notify: { team: { type: 'slack', url: 'aws-sm:holdfast/slack#url' } },
});

async function made(purpose: 'failover' | 'failback', mode: Mode, config: Config = CONFIG): Promise<BreakGlass & { plan: Awaited<ReturnType<typeof resolvePlan>> }> {
  const context = { config, runbookDirectory: fileURLToPath(new URL('../../runbooks', import.meta.url)) } as unknown as Context;
  const plan = await resolvePlan(context, { type: 'failover', service: 'orders', purpose, runbook: null, mode, parameters: purpose === 'failback' ? { node: 'a' } : {} });
  const roles = purpose === 'failover' ? { primary: 'a', candidate: 'b' } : { primary: 'b', candidate: 'a' };
  return { plan, ...breakGlass({ plan, config, roles, madeAt: '2026-11-21T03:00:00.000Z', seen: { a: 'primary' } }) };
}

const ALL = (['failover', 'failback'] as const).flatMap((purpose) => (['planned', 'forced'] as const).map((mode) => ({ purpose, mode })));

function blocks(markdown: string): { kind: string; sh: string }[] {
  return [...markdown.matchAll(/^```sh (\w+)\n([\s\S]*?)\n```$/gm)].map((match) => ({ kind: match[1]!, sh: match[2]! }));
}

describe('every step kind', () => {
  it('says what it would do, and how it is done by hand', () => {
    const kinds = Object.keys(CATALOGUE);
    expect(kinds.filter((kind) => !Object.hasOwn(STEP_TEXTS, kind))).toEqual([]);
    expect(kinds.filter((kind) => !Object.hasOwn(BY_HAND, kind))).toEqual([]);
  });

  it('that can be undone says what goes back, in the plan and by hand', async () => {
    const planned = await made('failover', 'planned');
    const texts = Object.entries(CATALOGUE).map(([uses, kind]) => ({ uses, undoes: kind.phases.includes('undo'), ...STEP_TEXTS[uses]!({ id: 'x', uses, inputs: {}, before: null, approvals: 1 }) }));
    expect(texts.filter((text) => text.does === '' || (text.undo !== null) !== text.undoes)).toEqual([]);
    // The canary has nothing to take back by hand, since it is not started.
    expect(planned.markdown.split('## Going back')[1]).toMatch(/read-only[\s\S]*stage-secret/);
  });
});

describe('the checklist', () => {
  it.each(ALL)('of a $purpose, $mode, has every step of the mode in order, marks the point of no return, and is sound shell', async ({ purpose, mode }) => {
    const { plan, markdown, template } = await made(purpose, mode);
    const included = plan.steps.filter((step) => step.included);
    const at = included.map((step) => markdown.indexOf(`\n\`${step.id}\` (${step.uses})`));
    expect(at.every((position) => position > 0)).toBe(true);
    expect(at).toEqual(at.toSorted((a, b) => a - b));
    expect(template.steps.map((step) => step.id)).toEqual(included.map((step) => step.id));
    expect(plan.steps.filter((step) => !step.included).some((step) => markdown.includes(`\`${step.id}\` (`))).toBe(false);
    expect(markdown.slice(markdown.indexOf('Promote the candidate'))).toMatch(/^[^\n]*\n\n\*\*POINT OF NO RETURN/);
    expect(markdown.match(/\*\*If this breaks:\*\*/g)).toHaveLength(included.length);
    expect(markdown).not.toMatch(/undefined|\[object|NaN/);
    expect(blocks(markdown).length).toBeGreaterThan(15);
    for (const block of blocks(markdown)) execFileSync('sh', ['-n'], { input: block.sh, stdio: ['pipe', 'pipe', 'pipe'] });
    expect(markdown.includes('WRITES ARE REFUSED FROM THIS STEP ON')).toBe(included.some((step) => step.uses === 'postgres.readOnly'));
  });

  it('names references and no secret, whatever the environment holds', async () => {
    process.env['ADMIN_PASSWORD'] = 'correct-horse';
    try {
      const { markdown } = await made('failover', 'planned');
      expect(markdown).not.toContain('correct-horse');
      expect(markdown).toContain('env:ADMIN_PASSWORD');
      expect(markdown).toContain('aws-sm:holdfast/slack#url');
      expect(markdown).toContain("cat '/etc/holdfast/aws key'");
    } finally {
      delete process.env['ADMIN_PASSWORD'];
    }
  });

  it('points the other standbys to the new primary, and not the old one', async () => {
    for (const mode of ['planned', 'forced'] as const) {
      const { markdown } = await made('failover', mode);
      const repointed = blocks(markdown).filter((block) => block.sh.includes('alter system set primary_conninfo'));
      // Planned: once before the promotion, after it, and (at the end) what takes the first back.
      expect(repointed.map((block) => /host=db-(\w)\.internal port=\d+ user=/.exec(block.sh.slice(block.sh.lastIndexOf('psql', block.sh.indexOf('alter system'))))![1])).toEqual(mode === 'planned' ? ['c', 'c', 'c'] : ['c']);
      expect(repointed.map((block) => / host=db-(\w)\.internal port=\d+ hostaddr=/.exec(block.sh)![1])).toEqual(mode === 'planned' ? ['b', 'b', 'a'] : ['b']);
    }
  });

  it('quotes for the remote shell too, and says where nothing is configured', async () => {
    const { markdown } = await made('failover', 'forced');
    expect(markdown).toContain('ssh db-a sudo -u postgres -- touch /data/a/standby.signal');
    expect(markdown).toContain('**Do not go on** when it cannot be shown that a is fenced: DO NOT PROMOTE');
    const node = { ...postgresOf(CONFIG, 'shop'), nodes: { ...postgresOf(CONFIG, 'shop').nodes, a: { host: 'db-a', port: 5432 } } };
    const bare = { ...CONFIG, datastores: { shop: node } } as Config;
    const paper = await made('failover', 'forced', bare);
    expect(paper.markdown).toMatch(/No way to reach a is configured/);
    expect(paper.markdown).toMatch(/the loss is NOT MEASURED/);
  });

  it('pauses Patroni through every member, with its password by standard input only', async () => {
    const controller = { type: 'patroni', members: { a: { api: 'http://db-a:8008' }, b: { api: 'http://db-b:8008', name: 'pg-b' } }, username: 'admin', password: 'env:PATRONI_PASSWORD', wait: 60_000 };
    const managed = { ...CONFIG, datastores: { shop: { ...postgresOf(CONFIG, 'shop'), controller } } } as unknown as Config;
    const { markdown } = await made('failover', 'planned', managed);
    for (const block of blocks(markdown)) execFileSync('sh', ['-n'], { input: block.sh, stdio: ['pipe', 'pipe', 'pipe'] });
    expect(markdown.match(/curl -sS -m 15 -K - .*http:\/\/db-b:8008\/config/g)?.length).toBe(3); // Pause, resume, and on the way back.
    expect(markdown).toContain('Prints `"name":"pg-b","role":"leader"`');
    expect((await made('failover', 'forced', managed)).markdown).not.toContain('http://db-a:8008');
    expect((await made('failover', 'planned')).markdown).toContain("application_name ilike 'patroni%'");
  });

  it('asks for the roles where nobody knows them', () => {
    const call = { step: 'promote', uses: 'postgres.promote', mode: 'planned' as const, service: 'orders', inputs: { datastore: 'shop' }, kept: {}, roles: { primary: null, candidate: null }, approvals: 0, readOnlyDeadlineMs: 1, config: CONFIG };
    expect(() => byHand(call)).toThrow(/which node is the primary is not known|which node is the candidate is not known/);
  });

  it('gets ready: the password file is mine alone, and right for any password', async () => {
    const { markdown } = await made('failover', 'planned');
    const home = mkdtempSync(join(tmpdir(), 'holdfast-paper-'));
    try {
      const prelude = blocks(markdown)[0]!.sh.replace("cat '/etc/holdfast/aws key'", 'echo secret');
      const password = String.raw`a:b\c"d$e'f`;
      const out = execFileSync('sh', ['-c', prelude], { env: { PATH: process.env['PATH'], HOME: home, ADMIN_PASSWORD: password, KEY_ID: 'id' }, encoding: 'utf8' });
      expect(out).toBe('ready\n');
      const file = join(home, 'holdfast-orders-failover-planned', 'pgpass');
      expect(statSync(file).mode & 0o777).toBe(0o600);
      expect(readFileSync(file, 'utf8').split('\n')[0]).toBe(String.raw`db-a.internal:5432:*:o'brien"s:a\:b\\c"d$e'f`);
      expect(Number(readFileSync(join(home, 'holdfast-orders-failover-planned', 'epoch'), 'utf8'))).toBeGreaterThan(Date.now() - 60_000);
    } finally {
      rmSync(home, { recursive: true });
    }
  });

  it('pasted where it must not be, or while a host does not answer, it changes nothing', async () => {
    const [there, back] = await Promise.all([made('failover', 'planned'), made('failback', 'planned')]);
    const find = (paper: BreakGlass, kind: string, text: string): string => blocks(paper.markdown).find((block) => block.kind === kind && block.sh.includes(text))!.sh;
    const openAgain = find(there, 'undo', 'default_transaction_read_only');
    const follows = find(back, 'do', 'auto.new');
    const fenceGoes = find(back, 'do', 'hba.open');
    const copyAnew = find(back, 'else', 'pg_basebackup');
    const count = find(await made('failover', 'forced'), 'check', 'pg_waldump');
    const directory = mkdtempSync(join(tmpdir(), 'holdfast-paste-'));
    const [log, state] = [join(directory, 'log'), join(directory, 'recovery')];
    // What psql says of recovery, and how far ssh gets, is in files; what both are asked for is written down.
    const program = (name: string, text: string): void => writeFileSync(join(directory, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    program('psql', `case "$*" in *pg_is_in_recovery*) cat ${state};; *hba_file*) echo /data/a/pg_hba.conf;; *) echo "psql $*" >> ${log}; cat > /dev/null; echo t;; esac`);
    const type = (script: string, recovery: string, ssh: string): { out: string; asked: string } => {
      rmSync(log, { force: true });
      writeFileSync(state, recovery);
      program('ssh', `echo "ssh $*" >> ${log}\n${ssh}`);
      const out = execFileSync('sh', ['-c', script], { env: { PATH: `${directory}:/usr/bin:/bin`, HF: directory }, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
      return { out: out.trim(), asked: existsSync(log) ? readFileSync(log, 'utf8') : '' };
    };
    const lenient = (script: string): string => `${script}\n:`;
    try {
      for (const recovery of ['f', '']) expect(type(lenient(openAgain), recovery, 'exit 1')).toEqual({ out: expect.stringMatching(/^STOP: is b in recovery/), asked: '' });
      expect(type(openAgain, 't', 'exit 1').asked).toContain('psql');
      expect(type(lenient(follows), 't', 'exit 255')).toEqual({ out: '', asked: expect.not.stringContaining('tee') });
      expect(type(follows, 't', 'case "$*" in *cat*) echo "archive_mode = on";; *tee*) cat >> ' + log + ';; esac')).toEqual({ out: 'done', asked: expect.stringMatching(/archive_mode = on\nprimary_conninfo/) });
      expect(type(fenceGoes, 'f', 'cat')).toEqual({ out: expect.stringMatching(/^STOP/), asked: '' });
      expect(type(fenceGoes, 't', 'exit 255')).toEqual({ out: expect.stringMatching(/^STOP/), asked: expect.not.stringContaining('tee') });
      expect(type(fenceGoes, 't', 'case "$*" in *cat*) echo local;; esac')).toEqual({ out: 't', asked: expect.stringContaining('tee') });
      // A server runs, its host does not answer, or the old files of another time are there.
      for (const ssh of ['exit 0', 'exit 255', 'case "$*" in *status*) exit 3;; *) exit 1;; esac']) expect(type(copyAnew, 't', ssh)).toEqual({ out: expect.stringMatching(/^STOP/), asked: expect.not.stringMatching(/ (rm|mv) /) });
      expect(type(copyAnew, 't', 'case "$*" in *status*) exit 3;; *holdfast-old) exit 0;; *test*/data/a) exit 1;; esac')).toEqual({ out: 'done', asked: expect.stringMatching(/rm -rf .*\n.*pg_basebackup.*\n[\s\S]*mv \/data\/a \/data\/a\.holdfast-old\n.*mv \/data\/a\.holdfast-new \/data\/a/) });
      writeFileSync(join(directory, 'promote.forkLsn'), '0/3000000');
      writeFileSync(join(directory, 'promote.parentTimeline'), '1');
      expect(type(count, 't', 'exit 255').out).toBe('NOT MEASURED');
      expect(type(`${count} || :`, 't', 'echo "pg_waldump: error: error in WAL record at 0/3000148: invalid record length" >&2; exit 1').out).toBe('0');
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it('quotes any text for the shell', () => {
    for (const text of ['', 'plain', `it's`, '$HOME `id` "x" \\', 'a b\nc', '*']) expect(execFileSync('sh', ['-c', `printf %s ${sh(text)}`], { encoding: 'utf8' })).toBe(text);
  });
});

describe('the view of a plan', () => {
  it('counts what does not hold, also what did not answer, and takes no figure from nowhere', () => {
    const plan = planOf([{ id: 'confirm', uses: 'postgres.health' }, { id: 'read-only', uses: 'postgres.readOnly', with: { datastore: 'shop', primary: '${steps.confirm.primary}' } }, { id: 'promote', uses: 'postgres.promote', with: { datastore: 'shop', candidate: '${steps.confirm.candidate}' } }]);
    const bad = { name: 'lag', ok: false, expected: 'little', found: 'much' };
    const view = planView(plan, [
      { step: 'confirm', phase: 'guard', result: { summary: '', checks: [bad] }, error: null },
      { step: 'confirm', phase: 'verify', result: { summary: 'seen', facts: { primary: 'a' } }, error: null },
      { step: 'read-only', phase: 'inspect', result: null, error: 'no route' },
    ], stepTimes([[{ label: 'promote', startMs: 0, endMs: 300 }], [{ label: 'promote', startMs: 10, endMs: 110 }]]));
    expect(view.couldStart).toBe(false);
    expect(view.why).toEqual(['confirm: lag: expected little, found much', 'read-only (inspect: no route)']);
    expect(view.steps[1]).toMatchObject({ finds: 'no answer', inputs: [{ name: 'datastore' }, { name: 'primary', value: 'a', from: 'steps.confirm.primary' }], took: null });
    expect(view.steps[2]).toMatchObject({ comesUp: [{ name: 'candidate', reference: 'steps.confirm.candidate' }], took: { runs: 2, leastMs: 100, mostMs: 300 } });
  });
});
