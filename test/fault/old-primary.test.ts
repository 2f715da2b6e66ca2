import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Client, WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure, WorkflowFailedError } from '@temporalio/client';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { postgresSteps } from '../../activities/postgres.ts';
import { secretSteps } from '../../activities/secret.ts';
import type { StepDefinition } from '../../activities/step-definition.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { PHASES } from '../../src/model/catalogue.ts';
import type { Progress } from '../../src/model/execution.ts';
import { withoutFence } from '../../src/model/fence-text.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { ApplicationWriter, databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';

/** `npm test` takes the worst of them once, `npm run test:fault` all of them several times. */
const LONG = process.env['HOLDFAST_TEST_ROUNDS'] === 'long';
const ROUNDS = LONG ? 3 : 1;

/** What the meddler does to the old primary; `start` where it was killed before, `restart` where it runs. */
type Act = 'start' | 'restart' | 'restart after a while' | 'start without standby.signal' | 'start without the rules';

/** `<step>:<phase>:before` or `:after`, within the worker, so that nothing happens in between. */
const FORCED: readonly { moment: string; act: Act; short: boolean }[] = [
  { moment: 'confirm:verify:after', act: 'start', short: true },
  { moment: 'fence-first:inspect:before', act: 'start', short: false },
  { moment: 'fence-first:inspect:after', act: 'start', short: false },
  { moment: 'fence-first:apply:before', act: 'start', short: true },
  { moment: 'fence-first:apply:after', act: 'start', short: true },
  { moment: 'promote:apply:before', act: 'start', short: false },
  { moment: 'promote:apply:before', act: 'start without standby.signal', short: true },
  { moment: 'promote:apply:after', act: 'start without the rules', short: true },
  { moment: 'promote:apply:after', act: 'start', short: false },
  { moment: 'swap-secret:apply:before', act: 'start', short: false },
  { moment: 'swap-secret:apply:after', act: 'start without standby.signal', short: false },
  { moment: 'verify-lag:verify:before', act: 'start', short: false },
];
const PLANNED: readonly { moment: string; act: Act; short: boolean }[] = [
  { moment: 'read-only:apply:after', act: 'restart', short: true },
  { moment: 'await-replay:verify:before', act: 'restart', short: false },
  { moment: 'promote:apply:before', act: 'restart', short: false },
  { moment: 'promote:apply:before', act: 'restart after a while', short: true },
  { moment: 'promote:apply:after', act: 'restart', short: true },
  { moment: 'swap-secret:apply:before', act: 'restart', short: false },
  { moment: 'fence:apply:before', act: 'restart', short: false },
  { moment: 'fence:apply:after', act: 'restart', short: true },
  { moment: 'fence:apply:after', act: 'start without standby.signal', short: false },
];

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let meddler: { readonly moment: string; readonly act: () => Promise<void>; times: number } | null = null;
let promoted = false;
let nextId = 1;

async function at(moment: string): Promise<void> {
  if (moment === 'promote:apply:after') promoted = true;
  if (meddler?.moment !== moment || meddler.times > 0) return;
  meddler.times += 1;
  await meddler.act();
}

/** The worker's own phases with the meddler around them. */
function watch(definitions: Readonly<Record<string, StepDefinition>>): void {
  for (const definition of Object.values(definitions)) {
    for (const phase of PHASES) {
      const run = definition[phase];
      if (run === undefined) continue;
      Object.assign(definition, {
        [phase]: (async (step) => {
          if (step.call.preflight) return run(step);
          await at(`${step.call.step}:${phase}:before`);
          const result = await run(step);
          await at(`${step.call.step}:${phase}:after`);
          return result;
        }) satisfies typeof run,
      });
    }
  }
}

beforeAll(async () => {
  watch(postgresSteps);
  watch(secretSteps);
  processes = createProcesses({ directory: testDirectory('old-primary') });
  pair = await databasePair(processes);
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  pair?.context.close();
});

/** An application that never heard of any failover: it tries the old primary again and again, and says that it wants to write. */
class Straggler {
  readonly wroteAfterPromotion: string[] = [];
  attempts = 0;
  #stopping = false;
  readonly #done: Promise<void>;

  constructor(url: string) {
    this.#done = this.#run(url);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  async #run(url: string): Promise<void> {
    while (!this.#stopping) {
      const session = new pg.Client({ connectionString: url, connectionTimeoutMillis: 1000, query_timeout: 1000 });
      session.on('error', () => {});
      try {
        await session.connect();
        for (;;) {
          const after = promoted;
          await session.query('begin read write');
          nextId += 1;
          await session.query('insert into orders (id) values ($1)', [-nextId]);
          await session.query('rollback');
          this.attempts += 1;
          // Begun after the promotion was known, and not refused.
          if (after) this.wroteAfterPromotion.push(new Date().toISOString());
          if (this.#stopping) break;
          await pause(5);
        }
      } catch {
        this.attempts += 1;
      } finally {
        await session.end().catch(() => {});
      }
      await pause(5);
    }
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

interface Ended {
  readonly how: 'succeeded' | 'went back' | 'parked';
  readonly why: string;
  readonly result: ExecutionResult | null;
}

/** To its end; or to where it waits for somebody, with its reason. */
async function endOf(handle: WorkflowHandle): Promise<Ended> {
  let ended: Ended | undefined;
  const result = handle.result().then(
    (value: ExecutionResult) => {
      ended = { how: 'succeeded', why: '', result: value };
    },
    (error: unknown) => {
      if (!(error instanceof WorkflowFailedError) || !(error.cause instanceof ApplicationFailure)) throw error;
      const value = error.cause.details![0] as ExecutionResult;
      ended = { how: 'went back', why: String(value.failure), result: value };
    },
  );
  const deadline = Date.now() + 120_000;
  for (;;) {
    await Promise.race([result, pause(300)]);
    if (ended !== undefined) return ended;
    if (Date.now() > deadline) throw new Error(`it neither ended nor parked: ${JSON.stringify(await handle.query<Progress>('progress')).slice(0, 3000)}`);
    const parked = (await handle.query<Progress>('progress')).state?.steps.find((step) => step.status === 'parked');
    if (parked !== undefined) {
      // Nobody decides here: what it waits for is the finding.
      await handle.terminate('the test has seen why it waits');
      await result.catch(() => {});
      return { how: 'parked', why: `${parked.id}: ${parked.error}`, result: null };
    }
  }
}

async function begin(mode: 'planned' | 'forced'): Promise<WorkflowHandle> {
  return client.workflow.start('failover', { taskQueue: pair.context.config.temporal.taskQueue, workflowId: `failover/${uniqueName('old-primary')}`, args: [{ service: pair.service, mode, reason: 'fault test', requestedBy: 'tester' }] });
}

/** A pair as it should be: whoever is the primary, the other one follows it. */
async function mend(): Promise<{ old: 'a' | 'b'; next: 'a' | 'b' }> {
  const old = await pair.pointsTo();
  const next = old === 'a' ? 'b' : 'a';
  await pair.servers[old].start();
  const { taskQueue } = pair.context.config.temporal;
  await client.workflow.execute('runbook', { taskQueue, workflowId: `runbook/${uniqueName('mend')}`, args: [{ runbook: 'standby-rebuild', service: pair.service, parameters: { node: next } }] });
  return { old, next };
}

function measured(result: ExecutionResult, name: string): number | null {
  return result.measurements.find((item) => item.name.startsWith(name))!.measured;
}

async function meddle(node: 'a' | 'b', act: Act): Promise<void> {
  const server = pair.servers[node];
  const rules = join(server.dataDirectory, 'pg_hba.conf');
  if (act.startsWith('restart')) await server.kill();
  if (act === 'restart after a while') {
    void pause(4000).then(() => server.start());
    return;
  }
  if (act === 'start without standby.signal') rmSync(join(server.dataDirectory, 'standby.signal'), { force: true });
  if (act === 'start without the rules') writeFileSync(rules, withoutFence(readFileSync(rules, 'utf8')));
  await server.start().catch(() => {}); // It may be stopped while it starts.
}

/** How the run ended; what must hold in every round is asked here. */
async function round(mode: 'planned' | 'forced', moment: string, act: Act): Promise<Ended['how']> {
  const { old, next } = await mend();
  promoted = false;
  const server = pair.servers[old];
  nextId += 1_000_000;
  const writer = new ApplicationWriter(pair, nextId);
  const straggler = new Straggler(pair.applicationUrl(old));
  try {
    while (writer.acknowledged.length < 50) await pause(5);
    meddler = { moment, times: 0, act: () => meddle(old, act) };
    if (mode === 'forced') {
      // It acknowledges what it can no longer send: lost, unless it comes back in time to send it.
      const [sender] = await queryOnce<{ pid: number }>(server.connectionString(), 'select pid from pg_stat_replication');
      process.kill(sender!.pid, 'SIGSTOP');
      const sent = writer.acknowledged.length;
      while (writer.acknowledged.length < sent + 30) await pause(5);
      await server.kill();
    }
    const ended = await endOf(await begin(mode));
    expect(meddler.times).toBe(1);
    const there = await pair.pointsTo();
    // The application goes on somewhere, whatever became of the run.
    const written = writer.acknowledged.length;
    await expect.poll(() => writer.acknowledged.length, { timeout: 20_000 }).toBeGreaterThan(written);
    // Once more at the very end, by somebody who knows of nothing.
    await server.start().catch(() => {});
    const tried = straggler.attempts;
    await expect.poll(() => straggler.attempts, { timeout: 20_000 }).toBeGreaterThan(tried + 5);
    await straggler.stop();
    await writer.stop();
    const lost = await writer.lostOn(there);
    const counted = ended.result === null || !promoted ? 0 : measured(ended.result, 'acknowledged writes lost');
    console.log(`${mode}, ${moment}, ${act}: ${ended.how}${ended.why === '' ? '' : ` (${ended.why.slice(0, 300)})`}; ${writer.acknowledged.length} acknowledged, ${lost.length} lost, ${counted} counted, ${straggler.attempts} tries of the straggler`);
    expect(straggler.wroteAfterPromotion).toEqual([]);
    expect({ there, getsIn: (await tryToWrite(pair, old)).includes('application') }).toEqual(promoted ? { there: next, getsIn: false } : { there: old, getsIn: true });
    expect({ ended: ended.how, reasoned: ended.how === 'succeeded' || ended.why.length > 20 }).toEqual({ ended: ended.how, reasoned: true });
    expect(counted).not.toBeNull();
    expect(lost.length).toBeLessThanOrEqual(mode === 'planned' ? 0 : counted!);
    return ended.how;
  } finally {
    meddler = null;
    await straggler.stop();
    await writer.stop();
  }
}

describe('the old primary comes back', () => {
  const rounds = (cases: typeof FORCED): { moment: string; act: Act; nth: number }[] => Array.from({ length: ROUNDS }, (_, nth) => cases.filter((item) => LONG || item.short).map((item) => ({ ...item, nth }))).flat();
  it.each(rounds(FORCED))('in a forced failover, $moment: $act', async ({ moment, act }) => expect(await round('forced', moment, act)).toMatch(/^(succeeded|went back|parked)$/), 240_000);
  it.each(rounds(PLANNED))('in a planned failover, $moment: $act', async ({ moment, act }) => expect(await round('planned', moment, act)).toMatch(/^(succeeded|went back|parked)$/), 240_000);
});
