import { cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import type { PlanView, PlanViewStep } from '../../src/model/plan-view.ts';
import { secretVersions } from '../../src/systems/endpoint.ts';
import { databasePair, type DatabasePair } from '../database-pair.ts';
import { queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';
import { runHere, type ProgramExit } from './program.ts';
import { postgresOf } from '../../src/systems/context.ts';

/** Nobody listens there. */
const NO_TEMPORAL = ['--address', '127.0.0.1:1'];
const service = uniqueName('orders');
let processes: Processes;
let pair: DatabasePair;

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('plan') });
  pair = await databasePair(processes, {
    services: {
      [service]: {
        objectives: { rto: '15m', rpo: '1m', refusedWrites: '30s', lostWrites: 0 },
        datastores: ['shop'],
        runbooks: { failover: 'database-failover', failback: 'database-failback' },
        parameters: { recentQuery: 'select max(id) as newest from orders', rolloutCommand: ['true', 'restart'] },
        approval: { planned: 2, forced: 1 },
      },
    },
  });
  await queryOnce(pair.servers.a.connectionString('shop'), 'insert into orders (id) values (1)');
});
afterAll(async () => {
  await processes?.end();
  pair?.context.close();
});

function run(...args: string[]): Promise<ProgramExit> {
  return runHere([...args, '--config', pair.context.configPath, '--runbooks', pair.context.runbookDirectory]);
}

async function planned(...args: string[]): Promise<{ code: number | null; view: PlanView & { from: string } }> {
  const { code, out, err } = await run('plan', ...args, ...NO_TEMPORAL, '--json');
  expect(err).toBe('');
  return { code, view: JSON.parse(out) as PlanView & { from: string } };
}

function stepOf(view: PlanView, id: string): PlanViewStep {
  return view.steps.find((step) => step.id === id)!;
}

describe('plan, with Temporal down', () => {
  test('says for each step what it would do, what it finds now and what only the run can know, and changes nothing', async () => {
    const before = await secretVersions(pair.context, pair.secretId);
    const { code, view } = await planned(service);
    expect({ code, could: view.couldStart, why: view.why }).toEqual({ code: 0, could: true, why: [] });
    expect(view).toMatchObject({ from: 'this host', primary: 'a', candidate: 'b', mode: 'planned', approvals: 2 });
    const steps = Object.fromEntries(view.steps.map((step) => [step.id, step]));
    expect(view.steps.every((step) => !step.included || step.does !== '')).toBe(true);
    expect(steps['fence-first']).toMatchObject({ included: false, leftOut: 'not part of a planned run', finds: 'not asked' });
    expect(steps['confirm']).toMatchObject({ finds: 'reads only', errors: [] });
    expect(steps['confirm']!.checks.length).toBeGreaterThan(8);
    expect(steps['approve']!.does).toContain('waits for 2 approval(s)');
    expect(steps['read-only']).toMatchObject({ refusesWrites: true, finds: 'would change', attempts: 2, deadlineMs: 20_000, before: { epoch: null } });
    expect(steps['read-only']!.does).toMatch(/fence block of the run's epoch at the head of pg_hba.conf on a.*ends every client session \(\d+ now\)/);
    expect(steps['read-only']!.undo).toContain('takes the block out again');
    expect(steps['await-replay']!.comesUp).toEqual([{ name: 'lsn', reference: 'steps.read-only.lsn' }]);
    expect(steps['promote']).toMatchObject({ pointOfNoReturn: true, undo: null, finds: 'would change', found: 'b is a standby' });
    expect(steps['swap-secret']!.comesUp.map(({ reference }) => reference)).toEqual(['steps.stage-secret.currentVersion', 'steps.stage-secret.stagedVersion']);
    expect(steps['swap-secret']!.finds).toBe('not asked');
    expect(steps['stage-secret']!.does).toContain(`(${before.current}, pointing to 127.0.0.1:${pair.servers.a.port})`);
    expect(steps['dns']!.does).toBe('changes db.shop.example from 127.0.0.1 to 127.0.0.2 and waits for INSYNC');
    expect(steps['rollout']!.does).toContain('["true","restart"]');
    expect(steps['rollout-http']!.does).toContain('no rollout URL is configured');
    // No run was ever recorded here: no figure is made up.
    expect(view.steps.every((step) => step.took === null)).toBe(true);
    expect(view.unknown.join('\n')).toMatch(/await-replay: its input lsn comes up in the run/);
    expect(view.unknown.join('\n')).toMatch(/fence: whether the old primary's host answers/);

    expect(await secretVersions(pair.context, pair.secretId)).toEqual(before);
    expect(await queryOnce(pair.servers.a.connectionString(), "select pg_is_in_recovery() as standby, pg_read_file('pg_hba.conf') like '%HOLDFAST%' as fenced")).toEqual([{ standby: false, fenced: false }]);
    expect(await queryOnce(pair.servers.b.connectionString(), 'select pg_is_in_recovery() as standby')).toEqual([{ standby: true }]);
  });

  test('shows all findings at once, not the first', async () => {
    await queryOnce(pair.servers.b.connectionString(), 'select pg_wal_replay_pause()');
    try {
      const dns = postgresOf(pair.context.config, 'shop').endpoint!.dns!;
      // Forced, while the primary is well: refused, and still every later step was looked at.
      const { code, view } = await planned(service, '--mode', 'forced');
      expect(code).toBe(1);
      expect(view.why.join('\n')).toMatch(/primary is down: expected no sign of life[\s\S]*replay not paused|replay not paused[\s\S]*primary is down/);
      expect(stepOf(view, 'read-only').included).toBe(false);
      expect(stepOf(view, 'fence-first').finds).toBe('would change');
      expect(stepOf(view, 'dns').found).toBe(`${dns.name} is 127.0.0.1`);
      expect((await run('plan', service, '--mode', 'forced', ...NO_TEMPORAL)).out).toMatch(/WOULD BE REFUSED[\s\S]*because: confirm: /);
    } finally {
      await queryOnce(pair.servers.b.connectionString(), 'select pg_wal_replay_resume()');
    }
  });

  test('any runbook; a wrong name says which there are', async () => {
    const { code, view } = await planned('standby-rebuild', '--parameter', 'datastore=shop', '--parameter', 'node=b');
    expect(code).toBe(0);
    expect(stepOf(view, 'rebuild')).toMatchObject({ finds: 'already satisfied', found: 'b streams already' });
    expect(await run('plan', 'ordres', ...NO_TEMPORAL)).toMatchObject({ code: 3, err: expect.stringMatching(/no service and no runbook named "ordres"[\s\S]*standby-rebuild/) });
    expect(await run('plan', service, '--mode', 'sideways')).toMatchObject({ code: 2 });
  });

  test('a nested runbook is asked its own guards, and a condition that only the run can decide is said', async () => {
    const folder = testDirectory('runbooks');
    cpSync(pair.context.runbookDirectory, folder, { recursive: true });
    const step = (id: string, uses: string, more: object): object => ({ id, title: id, uses, narrative: 'x', ...more });
    writeFileSync(join(folder, 'outer.yaml'), stringify({
      name: 'outer', title: 'Outer', summary: 'x',
      steps: [
        step('confirm', 'postgres.health', { with: { datastore: 'shop' } }),
        step('inner', 'runbook.run', { with: { runbook: 'standby-rebuild', parameters: { datastore: 'shop', node: 'a' } } }),
        step('tell', 'notify.send', { with: { title: 'done' }, when: [{ value: '${steps.inner.evidence}', exists: true }] }),
        step('never', 'notify.send', { with: { title: 'no' }, when: [{ value: '${steps.confirm.primary}', equals: 'z' }] }),
      ],
    }));
    const { code, out } = await runHere(['plan', 'outer', '--service', service, '--config', pair.context.configPath, '--runbooks', folder, ...NO_TEMPORAL, '--json']);
    const view = JSON.parse(out) as PlanView;
    // a is the primary: the nested run would refuse to rebuild it.
    expect({ code, why: view.why }).toEqual({ code: 1, why: expect.arrayContaining([expect.stringMatching(/^inner: rebuild: another node: expected not the primary itself, found a/)]) });
    expect(stepOf(view, 'inner').does).toContain('runs runbook standby-rebuild as an execution of its own');
    expect(stepOf(view, 'tell')).toMatchObject({ leftOut: null, condition: { holds: 'unknown', why: '${steps.inner.evidence} comes up in the run' } });
    expect(stepOf(view, 'never')).toMatchObject({ leftOut: 'its condition does not hold: steps.confirm.primary is "a", the condition asks for "z"' });
  });

  test('--dry-run by a worker shows the same', async () => {
    const worker = await runningWorker(pair.context);
    try {
      const { code, out } = await run('failover', service, '--mode', 'planned', '--reason', 'look', '--dry-run', '--json');
      expect(code).toBe(0);
      const byWorker = JSON.parse(out) as PlanView & { from: string; workflowId: string };
      expect(byWorker).toMatchObject({ from: 'a worker', workflowId: `failover/${service}` });
      const { view } = await planned(service);
      const stable = ({ id, included, inputs, comesUp, finds, does, undo, errors }: PlanViewStep): unknown => ({ id, included, inputs, comesUp, finds, does: does.replace(/\(\d+ now\)/, ''), undo, errors });
      expect(byWorker.steps.map(stable)).toEqual(view.steps.map(stable));
      expect(byWorker.planHash).toBe(view.planHash);
      expect(byWorker.unknown).toEqual(view.unknown);
      const refused = await run('failover', service, '--mode', 'forced', '--reason', 'look', '--dry-run');
      expect(refused).toMatchObject({ code: 1, out: expect.stringMatching(/WOULD BE REFUSED[\s\S]*because: .*primary is down/) });
    } finally {
      await worker.stop();
    }
  });
});
