import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import type { Status } from '../../src/cli/commands/status.ts';
import { queryProgress } from '../../src/engine/executions.ts';
import type { AuditRecord, ExecutionSummary } from '../../src/engine/history.ts';
import { runChild } from '../../src/systems/child.ts';
import type { Context } from '../../src/systems/context.ts';
import { findTool } from '../../src/local/tools.ts';
import { connectTemporal, runningWorker, suite, testConfig, testDirectory, uniqueName } from '../support.ts';
import { runHere, secretsOfTest, startHoldfast, type ProgramExit } from './program.ts';

/** A runbook that waits for a person, runs a command and tells people: enough to be operated, without a database. */
const RUNBOOK = {
  name: 'rehearsal',
  title: 'Rehearsal',
  summary: 'Asks, acts, tells.',
  parameters: { command: { type: 'list', default: ['true'], description: 'what to run' } },
  steps: [
    { id: 'approve', title: 'Ask', uses: 'operator.approval', narrative: 'Ask somebody.', with: { count: 1 } },
    { id: 'act', title: 'Act', uses: 'rollout.command', narrative: 'Run it.', timeout: '30s', with: { argv: '${parameters.command}' } },
    { id: 'tell', title: 'Tell', uses: 'notify.send', narrative: 'Tell them.', with: { title: 'rehearsed' } },
  ],
};

const service = uniqueName('orders');
const id = `failover/${service}`;
let context: Context;
let client: Client;
let worker: { stop(): Promise<void> };

beforeAll(async () => {
  const runbookDirectory = join(testDirectory('runbooks'), 'runbooks');
  mkdirSync(runbookDirectory);
  writeFileSync(join(runbookDirectory, 'rehearsal.yaml'), stringify(RUNBOOK));
  context = await testConfig(
    {
      datastores: { shop: { engine: 'postgres', database: 'shop', admin: { username: 'x', password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, nodes: { a: { host: '127.0.0.1', port: 1 }, b: { host: '127.0.0.1', port: 2 } } } },
      services: { [service]: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'], runbooks: { failover: 'rehearsal' }, gate: { planned: [] } } },
    },
    { runbookDirectory },
  );
  client = await connectTemporal(context);
  worker = await runningWorker(context);
});
afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
});

function run(...args: string[]): Promise<ProgramExit> {
  return runHere([...args, '--config', context.configPath, '--runbooks', context.runbookDirectory]);
}

async function status(): Promise<Status> {
  return JSON.parse((await run('status', service, '--json')).out) as Status;
}

async function waitingFor(what: RegExp): Promise<void> {
  const answer = async (): Promise<string> => (await queryProgress(client, id)).waitingFor ?? '';
  await expect.poll(answer, { timeout: 30_000 }).toMatch(what);
}

describe('operating a failover from the command line', () => {
  test('start, look, refuse the second one, refuse the requester, approve by another, pause, resume, audit', async () => {
    const started = await run('failover', service, '--mode', 'planned', '--reason', 'rehearsal of the on-call', '--by', 'alice', '--no-wait', '-p', 'command=["true"]');
    expect(started).toMatchObject({ code: 0, err: '', out: expect.stringContaining(`holdfast status ${id} --watch`) });
    await waitingFor(/approval/);

    const second = await run('failover', service, '--mode', 'forced', '--reason', 'another one', '--by', 'bob');
    expect(second).toMatchObject({ code: 4, err: expect.stringContaining(`${id} is running already; a second one is refused`) });

    const shown = await run('status', service);
    expect(shown.out).toMatch(/approve +operator\.approval[\s\S]*act +rollout\.command +pending/);
    expect(shown.out).toMatch(/RTO clock .* of 15m 00s/);
    expect(shown.out).toContain(`holdfast approve ${id} --observed `);

    const own = await run('approve', service, '--reason', 'looks good to me', '--by', 'alice');
    expect(own).toMatchObject({ code: 4, err: expect.stringMatching(/alice requested this and cannot approve it/) });
    expect(await run('resume', id, '--reason', 'x')).toMatchObject({ code: 4, err: expect.stringContaining('it is not paused') });
    expect(await run('pause', service, '--reason', 'wait for the shift', '--by', 'carol')).toMatchObject({ code: 0 });
    expect(await run('approve', service, '--reason', 'seen the graphs', '--by', 'bob')).toMatchObject({ code: 0, out: expect.stringContaining('accepted, by bob') });

    // Paused while it waited: it stops before the next step, not in the middle of one.
    await waitingFor(/paused/);
    expect((await status()).progress!.state!.steps.map(({ status }) => status)).toEqual(['done', 'pending', 'pending']);
    expect((await run('status')).out).toContain('paused by an operator');
    expect(await run('retry', id, '--reason', 'x')).toMatchObject({ code: 4, err: expect.stringContaining('no step is parked') });
    expect(await run('skip', id, '--step', 'act', '--attempt', '1', '--reason', 'x')).toMatchObject({ code: 4, err: expect.stringContaining('step act is pending, not parked') });
    expect(await run('skip', id, '--step', 'nix', '--reason', 'x')).toMatchObject({ code: 3, err: expect.stringContaining('use one of: approve, act, tell') });
    expect(await run('mark-done', id, '--reason', 'x')).toMatchObject({ code: 2, err: expect.stringContaining("'--evidence <text>'") });
    expect(await run('resume', id, '--reason', 'seen enough', '--by', 'carol')).toMatchObject({ code: 0 });

    await client.workflow.getHandle(id).result();
    expect((await status()).execution.status).toBe('COMPLETED');

    const record = JSON.parse((await run('audit', service, '--json')).out) as AuditRecord;
    expect(record).toMatchObject({ type: 'failover', status: 'COMPLETED', input: { service, mode: 'planned', requestedBy: 'alice', reason: 'rehearsal of the on-call' }, failure: null });
    expect(record.planHash).toMatch(/^[0-9a-f]{64}$/);
    expect(record.updates.map(({ name, by, reason, outcome }) => ({ name, by, reason, outcome }))).toEqual([
      // Refusals too.
      { name: 'approve', by: 'alice', reason: 'looks good to me', outcome: 'refused' },
      { name: 'resume', by: expect.any(String), reason: 'x', outcome: 'refused' },
      { name: 'pause', by: 'carol', reason: 'wait for the shift', outcome: 'completed' },
      { name: 'approve', by: 'bob', reason: 'seen the graphs', outcome: 'completed' },
      { name: 'skip', by: expect.any(String), reason: 'x', outcome: 'refused' },
      { name: 'resume', by: 'carol', reason: 'seen enough', outcome: 'completed' },
    ]);
    const act = record.activities.find(({ activity }) => activity === 'rollout.command:apply');
    expect(act).toMatchObject({ outcome: 'completed', attempts: 1, failure: null });
    expect(record.activities.find(({ activity }) => activity === 'notify.send:apply')).toMatchObject({ outcome: 'completed' });
    const text = (await run('audit', id)).out;
    expect(text).toMatch(/approve +alice +refused +looks good to me \(refused: alice requested this and cannot approve it\)/);
    expect(text).toMatch(/operator decisions[\s\S]*approve +bob[\s\S]*resume +carol[\s\S]*rollout\.command:apply +1 +completed/);

    const decided = await run('retry', id, '--reason', 'too late', '--by', 'bob');
    expect([3, 4]).toContain(decided.code);
  });

  test('audit finds executions by service, kind, outcome, who and when', async () => {
    const list = async (...args: string[]): Promise<ExecutionSummary[]> => JSON.parse((await run('audit', '--json', ...args)).out) as ExecutionSummary[];
    await expect.poll(async () => (await list('--service', service)).map(({ workflowId }) => workflowId), { timeout: 30_000 }).toContain(id);
    expect(await list('--service', service, '--kind', 'failover', '--requested-by', 'alice', '--since', '1h', '--outcome', 'succeeded')).toMatchObject([{ workflowId: id, mode: 'planned', outcome: 'succeeded', environment: expect.stringMatching(/^test-/) }]);
    expect(await list('--service', service, '--requested-by', 'bob')).toEqual([]);
    expect(await list('--service', service, '--kind', 'backup')).toEqual([]);
    expect(await list('--service', service, '--since', '2999-01-01')).toEqual([]);
    expect(await run('audit', '--kind', 'nix')).toMatchObject({ code: 3, err: expect.stringContaining('restoreDrill') });
    expect(await run('audit', '--since', 'yesterday')).toMatchObject({ code: 2, err: expect.stringContaining('24h, 7d or 2026-11-01') });
  });

  test('run follows to the end and prints the steps; a denied one is exit code 4', async () => {
    const dry = await run('plan', service);
    expect(dry).toMatchObject({ code: 0, out: expect.stringMatching(/checked \(rehearsal, planned[\s\S]*act \(rollout\.command\)/) });

    const { child, exited } = startHoldfast(['run', 'rehearsal', '--reason', 'try', '--by', 'alice', '--config', context.configPath, '--runbooks', context.runbookDirectory], { env: secretsOfTest() });
    const said = await new Promise<string>((resolve, reject) => {
      let text = '';
      child.stderr!.on('data', (more: string) => {
        text += more;
        if (text.includes('waiting for 1 approval(s)')) resolve(text);
      });
      child.once('close', () => reject(new Error(`it ended: ${text}`)));
    });
    const workflowId = /runbook\/rehearsal\/\S+/.exec(said)![0];
    expect((JSON.parse((await run('status', '--json')).out) as Status[]).map(({ execution }) => execution.workflowId)).toContain(workflowId);
    expect(await run('reject', workflowId, '--reason', 'not today', '--by', 'bob')).toMatchObject({ code: 0 });
    const ended = await exited;
    expect(ended.code).toBe(4);
    expect(ended.out).toMatch(/: denied \(rehearsal/);
    expect(ended.err).toMatch(/waiting for 1 approval\(s\)/);
  });
});

/** The commands as they stand in docs/operations.md, for our service, queue and server. */
function documented(marker: string): string[][] {
  const text = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');
  const block = new RegExp(`<!-- tested: ${marker} -->\n\`\`\`sh\n([\\s\\S]*?)\n\`\`\``).exec(text)?.[1];
  if (block === undefined) throw new Error(`docs/operations.md has no block "${marker}"`);
  const ours = block.replaceAll('failover/orders', id).replaceAll('"service":"orders"', `"service":"${service}"`).replaceAll("= 'orders'", `= '${service}'`).replaceAll('--task-queue holdfast', `--task-queue ${context.config.temporal.taskQueue}`);
  return ours
    .replaceAll(/ \\\n\s*/g, ' ')
    .split('\n')
    .map((line) => [...line.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map(([, single, double, bare]) => single ?? double ?? bare!));
}

describe("Temporal's own command line, as docs/operations.md says", () => {
  test('starts a failover with plain JSON, is refused the second one, decides and looks', async () => {
    const temporal = async (argv: readonly string[], allowFailure = false): Promise<{ code: number | null; stdout: string; stderr: string }> =>
      runChild([findTool('temporal'), ...argv.slice(1), '--address', suite().temporal.address], { allowFailure });
    const [start] = documented('start');
    expect((await temporal(start!)).stdout).toContain(id);
    const { runId } = await client.workflow.getHandle(id).describe();
    expect(await temporal(start!, true)).toMatchObject({ code: 1, stderr: expect.stringMatching(/already (running|started)/i) });
    // Without that flag it says nothing, but no second one is started either.
    expect((await temporal(start!.filter((word) => word !== '--fail-existing'))).stdout).toContain(runId);

    await waitingFor(/approval/);
    const [query, look, written] = documented('decide');
    expect((await temporal(query!)).stdout).toContain('approval');
    // Bound to what was looked at: as it stands there, with placeholders, it is refused and says what it must carry.
    expect(await temporal(written!, true)).toMatchObject({ stderr: expect.stringContaining('an approval is bound to what was looked at') });
    const shown = (await temporal(look!)).stdout;
    const approve = written!.map((word) => word.replace('PLAN', /"plan": ?"(\w+)"/.exec(shown)![1]!).replace('OBSERVED', /"observed": ?"(\w+)"/.exec(shown)![1]!));
    expect((await temporal(approve)).stdout).toContain('approve by bob taken');
    const [result, show, list] = documented('look');
    expect((await temporal(result!)).stdout).toMatch(/COMPLETED[\s\S]*succeeded/);
    expect((await temporal(show!)).stdout).toContain('WorkflowExecutionUpdateAccepted');
    expect((await temporal(list!)).stdout).toContain(id);
    const refused = await temporal(approve, true);
    expect(refused.code).not.toBe(0);
  });

  test('a service that does not exist fails at once and says which there are', async () => {
    const unknown = uniqueName('payments');
    const [start] = documented('start');
    await runChild([findTool('temporal'), ...start!.slice(1).map((word) => word.replaceAll(service, unknown)), '--address', suite().temporal.address]);
    await expect(client.workflow.getHandle(`failover/${unknown}`).result()).rejects.toThrow('Workflow execution failed');
    expect((await run('audit', `failover/${unknown}`)).out).toMatch(new RegExp(`there is no service named "${unknown}"[\\s\\S]*use one of: ${service}`));
  });
});
