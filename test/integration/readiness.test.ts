import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ApplicationFailure, WorkflowFailedError, type Client } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rehearsalsOf } from '../../activities/readiness-history.ts';
import { lastReadiness } from '../../src/engine/readiness.ts';
import { syncSchedules, triggerSchedule } from '../../src/engine/schedules.ts';
import { createProcesses, type Processes } from '../../src/local/processes.ts';
import { startWebhook, type Webhook } from '../../src/local/webhook.ts';
import { configSchema, notifySchema, type PostgresDatastore, type ServiceConfig } from '../../src/model/config-schema.ts';
import { secretVersions } from '../../src/systems/endpoint.ts';
import { openStore } from '../../src/systems/store.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import type { ReadinessResult } from '../../workflows/readiness.ts';
import { databasePair, tryToWrite, type DatabasePair } from '../database-pair.ts';
import { connectTemporal, queryOnce, runningWorker, testDirectory, uniqueName } from '../support.ts';
import { postgresOf } from '../../src/systems/context.ts';

let processes: Processes;
let pair: DatabasePair;
let client: Client;
let worker: { stop(): Promise<void> };
let webhook: Webhook;
let datastore: PostgresDatastore;
let service: ServiceConfig;
let runbooks: string;
/** Readiness of this file's service alone: visibility is shared by the whole suite. */
const SERVICE = uniqueName('orders');

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('readiness') });
  webhook = await startWebhook();
  process.env['HOLDFAST_TEST_READINESS_WEBHOOK'] = webhook.url;
  const made = await databasePair(processes, {
    stores: { main: { prefix: 'estate' } },
    services: {
      [SERVICE]: {
        objectives: { rto: '15m', rpo: '1m', refusedWrites: '30s', lostWrites: 0, backupAge: '1h' },
        datastores: ['shop'],
        cooldown: '0s',
        runbooks: { failover: 'database-failover', failback: 'database-failback' },
        parameters: { recentQuery: 'select max(id) as newest from orders' },
      },
    },
  });
  runbooks = testDirectory('runbooks');
  cpSync(made.context.runbookDirectory, runbooks, { recursive: true });
  pair = { ...made, service: SERVICE, context: { ...made.context, runbookDirectory: runbooks } };
  pair.context.config.notify['team'] = notifySchema.parse({ type: 'slack', url: 'env:HOLDFAST_TEST_READINESS_WEBHOOK' });
  datastore = postgresOf(pair.context.config, 'shop');
  service = pair.context.config.services[SERVICE]!;
  client = await connectTemporal(pair.context);
  worker = await runningWorker(pair.context);
  await queryOnce(pair.servers.a.connectionString('shop'), 'insert into orders (id) values (1)');
  // It takes transaction numbers of its own, and these are counted below.
  for (const server of [pair.servers.a, pair.servers.b]) {
    await queryOnce(server.connectionString(), 'alter system set autovacuum = off');
    await queryOnce(server.connectionString(), 'select pg_reload_conf()');
  }
});

afterAll(async () => {
  await worker?.stop();
  await client?.connection.close();
  await processes?.end();
  await webhook?.close();
  pair?.context.close();
});

async function execute<T>(type: string, input: Record<string, unknown>): Promise<T> {
  return client.workflow.execute(type, { taskQueue: pair.context.config.temporal.taskQueue, workflowId: uniqueName(type), args: [input] });
}

function failover(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  return execute('failover', { service: SERVICE, mode: 'planned', reason: 'rehearsal', requestedBy: 'ann', ...more });
}

async function refused(more: Record<string, unknown> = {}): Promise<ExecutionResult> {
  try {
    await failover(more);
  } catch (error) {
    if (error instanceof WorkflowFailedError && error.cause instanceof ApplicationFailure) return error.cause.details![0] as ExecutionResult;
    throw error;
  }
  throw new Error('it succeeded, a refusal was expected');
}

function rebuild(node: string): Promise<ExecutionResult> {
  return execute('runbook', { runbook: 'standby-rebuild', service: SERVICE, parameters: { node } });
}

/** One run, and then until it can be found: visibility follows a moment later. */
async function ready(): Promise<ReadinessResult> {
  const workflowId = uniqueName('readiness');
  const result: ReadinessResult = await client.workflow.execute('readiness', { taskQueue: pair.context.config.temporal.taskQueue, workflowId, args: [{ service: SERVICE }] });
  await visible(`WorkflowId = '${workflowId}' AND ExecutionStatus = 'Completed'`);
  return result;
}

async function visible(query: string): Promise<void> {
  await expect.poll(async () => (await client.workflow.count(query)).count, { timeout: 20_000 }).toBeGreaterThan(0);
}

/** What it says while something is wrong; `restore` is called in every outcome. */
async function whileWrong(change: () => unknown, restore: () => unknown): Promise<ReadinessResult> {
  await change();
  try {
    return await ready();
  } finally {
    await restore();
  }
}

function whySaid(result: ReadinessResult): string {
  return result.why.join('\n');
}

describe('what it says', () => {
  it('with a proved backup and runbooks that never ran: recoverable, degraded, and nothing older is known', async () => {
    await execute('backup', { datastore: 'shop' });
    await execute('restoreDrill', { datastore: 'shop' });
    const result = await ready();
    expect(result).toMatchObject({ level: 'degraded', recoverable: true, sinceKnown: false, before: null, since: result.checkedAt });
    expect(result.why).toEqual(['failover', 'failback'].map((name) => expect.stringMatching(new RegExp(`^database-${name}: rehearsed: expected a run in full since it was last changed, found no run in full is known`))));
    expect(result.forced).toEqual([expect.objectContaining({ primary: 'a', candidate: 'b', streams: true, host: 'running', observers: ['the worker', 'the stream of b', 'the host of a'] })]);
    expect(result.checks.map((check) => check.name)).toEqual(
      expect.arrayContaining([
        'confirm: lag', 'dns: DNS permission', 'swap-secret: right to swap', 'stage-secret: secret points to the primary', 'promote: promotion right', 'read-only: right to fence', 'shop: restore drill', 'shop: pg_restore',
        'store main: right to write', 'forced: shop: a way to fence it when it is silent', 'rebuild shop/a: programs', 'failback: rebuild: replication user',
      ]),
    );
    expect(result.notChecked).toEqual(expect.arrayContaining([
      'failover, forced: confirm: asks for a primary that is down', 'failback: was asked as if started with node=b', 'failback: confirm: can only hold once what stands before it is done',
      expect.stringMatching(/^stage-secret: the right to put a new version/), expect.stringMatching(/^failover: check-fence, .*only verifies what was done/),
    ]));
    expect(webhook.messages.length).toBeGreaterThan(0);
  });

  it('after both runbooks ran: ready, and since when is kept by the next run', async () => {
    expect((await failover()).outcome).toBe('succeeded');
    expect((await failover({ purpose: 'failback', parameters: { node: 'a' } })).outcome).toBe('succeeded');
    expect((await rebuild('b')).outcome).toBe('succeeded');
    await visible(`HoldfastService = '${SERVICE}' AND HoldfastRunbook = 'database-failback' AND ExecutionStatus = 'Completed'`);
    const first = await ready();
    // Whatever a dry run would find, readiness finds.
    expect(first.checks.map((check) => check.name)).toEqual(expect.arrayContaining((await failover({ dryRun: true })).checks.map((check) => check.name)));
    expect(whySaid(first)).toBe('');
    expect(first).toMatchObject({ level: 'ready', recoverable: true, sinceKnown: true, since: first.checkedAt, before: { level: 'degraded' } });
    const told = webhook.messages.length;
    const second = await ready();
    expect(second).toMatchObject({ level: 'ready', since: first.since, sinceKnown: true, before: first.before });
    expect(Date.parse(second.checkedAt)).toBeGreaterThan(Date.parse(first.checkedAt));
    // The same is no news.
    expect(webhook.messages.length).toBe(told);
  });

  it('only reads: two empty commits to measure lag, and nothing else anywhere', async () => {
    const seen = async (): Promise<unknown> => {
      const store = await openStore(pair.context, 'main');
      const keys: string[] = [];
      for await (const object of store.list('')) keys.push(`${object.key} ${object.bytes} ${object.modifiedMs}`);
      const [rows] = await queryOnce(pair.servers.a.connectionString('shop'), "select sum(n_tup_ins + n_tup_upd + n_tup_del)::text as changed from pg_stat_all_tables where schemaname not in ('pg_catalog', 'pg_toast', 'information_schema')");
      return { keys: keys.sort(), secret: await secretVersions(pair.context, pair.secretId), record: await pair.record(), rows, settings: await queryOnce(pair.servers.a.connectionString(), 'select sourcefile, name, setting from pg_file_settings order by 1, 2') };
    };
    const next = async (): Promise<bigint> => BigInt((await queryOnce<{ xid: string }>(pair.servers.a.connectionString(), 'select pg_snapshot_xmax(pg_current_snapshot())::text as xid'))[0]!.xid);
    const before = { world: await seen(), xid: await next() };
    expect((await ready()).level).toBe('ready');
    expect(await next() - before.xid).toBe(2n);
    expect(await seen()).toEqual(before.world);
  });
});

describe('on a schedule', () => {
  it('runs by itself, and the next one knows since when', async () => {
    const { config } = pair.context;
    const scheduled = { ...config, schedules: configSchema.shape.schedules.parse({ [`ready-${SERVICE.slice(-8)}`]: { run: 'readiness', service: SERVICE, every: '1h' } }) };
    await syncSchedules(client, scheduled, { dryRun: false });
    const [name] = Object.keys(scheduled.schedules);
    await triggerSchedule(client, scheduled, name!);
    await visible(`WorkflowType = 'readiness' AND HoldfastService = '${SERVICE}' AND WorkflowId STARTS_WITH 'readiness/${SERVICE}-' AND ExecutionStatus = 'Completed'`);
    await client.schedule.getHandle(`holdfast/${config.environment}/${name}`).delete();
    const last = await lastReadiness(client, config, SERVICE);
    expect(last).toMatchObject({ service: SERVICE, level: 'ready' });
    expect((await ready()).since).toBe(last!.since);
  });
});

describe('when Temporal has forgotten', () => {
  it('a rehearsal is known from the evidence on this worker, unless somebody touched that', async () => {
    const forgotten = { workflow: { list: () => [] } } as unknown as Client;
    const known = async (): Promise<unknown[]> => (await rehearsalsOf(pair.context, forgotten, SERVICE, 'database-failover')).runs;
    const [fromTemporal] = (await rehearsalsOf(pair.context, client, SERVICE, 'database-failover')).runs;
    expect(await known()).toEqual([expect.objectContaining({ workflowId: fromTemporal!.workflowId, mode: 'planned', document: fromTemporal!.document, configuration: fromTemporal!.configuration })]);
    expect(fromTemporal!.document).toMatch(/^[0-9a-f]{64}$/);
    const { evidence } = (await client.workflow.getHandle(fromTemporal!.workflowId).result()) as ExecutionResult;
    const file = join(evidence!, 'report.json');
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, text.replace(fromTemporal!.document!, '0'.repeat(64)));
    expect(await known()).toEqual([]);
    writeFileSync(file, text);
    expect(await known()).toHaveLength(1);
  });
});

describe('what lowers it', () => {
  it('paused replay: not ready, told once, and good news when it is over', async () => {
    const told = webhook.messages.length;
    const since = (await ready()).since;
    const result = await whileWrong(
      () => queryOnce(pair.servers.b.connectionString(), 'select pg_wal_replay_pause()'),
      () => queryOnce(pair.servers.b.connectionString(), 'select pg_wal_replay_resume()'),
    );
    expect(result).toMatchObject({ level: 'not-ready', recoverable: false, sinceKnown: true, before: { level: 'ready' } });
    expect(Date.parse(result.since)).toBeGreaterThan(Date.parse(since));
    expect(result.why[0]).toMatch(/replay not paused: expected replay running, found paused \(run select pg_wal_replay_resume\(\) on b\)/);
    const back = await ready();
    expect(back).toMatchObject({ level: 'ready', before: { level: 'not-ready' } });
    expect(webhook.messages.length).toBe(told + 2);
    expect(JSON.stringify(webhook.messages.at(-2)!.body)).toContain(`${SERVICE}: ready -&gt; not-ready`);
    expect(JSON.stringify(webhook.messages.at(-1)!.body)).toContain(`${SERVICE}: not-ready -&gt; ready`);
  });

  it('a secret that is not there: not ready, said once for all steps that need it, and what could not be asked is said', async () => {
    const { endpoint } = datastore;
    const secret = endpoint!.secret;
    const result = await whileWrong(() => (endpoint!.secret = 'no-such-secret'), () => (endpoint!.secret = secret));
    expect(result).toMatchObject({ level: 'not-ready', recoverable: false });
    // Two calls find it, four steps need it.
    const said = result.why.filter((why) => why.includes('no-such-secret'));
    expect(said).toEqual([expect.stringMatching(/^confirm: guard, canary: guard: /), expect.stringMatching(/^stage-secret: guard, swap-secret: guard: /)]);
    expect(result.notChecked.join('\n')).toMatch(/failover: .*promote.*: steps\.confirm\.\w+.* is not known/);
    expect(result.notChecked.join('\n')).toMatch(/forced: shop: fencing, standby and hosts, since which node is the primary is not known/);
  });

  it('a DNS zone that is not there: not ready', async () => {
    const dns = datastore.endpoint!.dns!;
    const zone = dns.hostedZoneId;
    const result = await whileWrong(() => (dns.hostedZoneId = 'ZMISSING'), () => (dns.hostedZoneId = zone));
    expect(result).toMatchObject({ level: 'not-ready', recoverable: false });
    expect(result.why[0]).toMatch(/^dns: guard: .*NoSuchHostedZone/);
    // The configuration that was rehearsed was another one.
    expect(whySaid(result)).toMatch(/database-failover: rehearsed.*nodes, endpoint or parameters in the configuration were changed since/);
  });

  it('a primary that could not be fenced from outside: not ready for a forced failover', async () => {
    const node = datastore.nodes['a']!;
    const { dataDirectory, exec } = node;
    const result = await whileWrong(
      () => Object.assign(node, { dataDirectory: undefined, exec: undefined, fence: { command: ['true'], verify: ['true'] } }),
      () => Object.assign(node, { dataDirectory, exec, fence: undefined }),
    );
    // The command is there, and its verification says "fenced" of a primary that takes writes.
    expect(result).toMatchObject({ level: 'not-ready', recoverable: false });
    expect(whySaid(result)).toMatch(/forced: shop: fence\.verify tells the truth: expected not fenced: a takes writes, found fenced/);
    expect(result.notChecked.join('\n')).toMatch(/what would be lost: the files of a cannot be read/);
    const without = await whileWrong(() => Object.assign(node, { dataDirectory: undefined, exec: undefined }), () => Object.assign(node, { dataDirectory, exec }));
    expect(whySaid(without)).toMatch(/forced: shop: a way to fence it when it is silent: expected a: its host, or fence\.command with fence\.verify, found no dataDirectory, no fence\.command/);
  });

  it('a stale drill, an old backup, a runbook changed by one word, no pg_dump, a key that cannot sign: recoverable, and degraded by each', async () => {
    const { drill, binDirectory } = datastore;
    const { maxAge } = drill;
    const stale = await whileWrong(() => (drill.maxAge = 1), () => (drill.maxAge = maxAge));
    expect(stale).toMatchObject({ level: 'degraded', recoverable: true, before: { level: 'not-ready' } });
    expect(stale.why).toEqual([expect.stringMatching(/^shop: restore drill: expected a backup proved by a restore within 1 ms, found \S+ .* ago \(holdfast drill shop\)/)]);

    const old = await whileWrong(() => (service.objectives.backupAge = 1), () => (service.objectives.backupAge = 3_600_000));
    expect(old).toMatchObject({ level: 'degraded', recoverable: true, since: stale.since });
    expect(old.why).toEqual([expect.stringMatching(/^shop: newest backup: .*at most 1 ms old, found .*verified \(holdfast backup shop\)/)]);

    const file = join(runbooks, 'database-failover.yaml');
    const text = readFileSync(file, 'utf8');
    const changed = await whileWrong(() => writeFileSync(file, text.replace('Do not believe the pager.', 'Believe the pager.')), () => writeFileSync(file, text));
    expect(changed).toMatchObject({ level: 'degraded', recoverable: true, since: stale.since });
    expect(changed.why).toEqual([expect.stringMatching(/^database-failover: rehearsed: .*planned.*the document was changed since/)]);

    const tools = await whileWrong(() => (datastore.binDirectory = testDirectory('empty')), () => (datastore.binDirectory = binDirectory));
    expect(tools).toMatchObject({ level: 'degraded', recoverable: true });
    expect(whySaid(tools)).toMatch(/shop: pg_dump, .*shop: pg_restore.*: expected major version 15 or newer, as the server, found not found/);

    process.env['HOLDFAST_TEST_BAD_KEY'] = 'no key';
    const key = await whileWrong(() => (pair.context.config.evidence.signingKey = 'env:HOLDFAST_TEST_BAD_KEY'), () => delete pair.context.config.evidence.signingKey);
    expect(key).toMatchObject({ level: 'degraded', recoverable: true });
    expect(key.why).toEqual([expect.stringMatching(/^evidence signing key: expected an Ed25519 private key, found no private key in PEM/)]);
  });

  it('a store that cannot be asked: not known, which is neither ready nor not', async () => {
    const store = pair.context.config.stores['main'] as { bucket: string };
    const { bucket } = store;
    const result = await whileWrong(() => (store.bucket = 'no-such-bucket-of-ours'), () => (store.bucket = bucket));
    expect(result).toMatchObject({ level: 'unknown', recoverable: null });
    expect(whySaid(result)).toMatch(/shop: newest backup, shop: restore drill: expected a store that can be asked, found .*no-such-bucket-of-ours/);
  });
});

describe('the start gate', () => {
  const overrides = [{ rule: 'backup-age', reason: 'the store is full; the change cannot wait' }];

  it('refuses a planned failover without a young backup, before anything is begun', async () => {
    service.objectives.backupAge = 1;
    const versions = await secretVersions(pair.context, pair.secretId);
    const result = await refused();
    expect(result).toMatchObject({ outcome: 'denied', measurements: [] });
    expect(result.failure).toMatch(/refused before anything was begun: start gate: shop: newest backup: .*holdfast backup shop.*To start all the same, break backup-age by name: --override backup-age="why"/);
    expect(result.steps.every((step) => step.outcome === 'not begun')).toBe(true);
    expect(result.evidence).toMatch(/failover/);
    expect(await secretVersions(pair.context, pair.secretId)).toEqual(versions);
    expect(await tryToWrite(pair, 'a')).toEqual(['application', 'superuser']);
    // Another rule's override breaks nothing.
    expect((await refused({ overrides: [{ rule: 'drill-freshness', reason: 'x' }] })).outcome).toBe('denied');
    // A dry run changes nothing and is not refused.
    expect((await failover({ dryRun: true })).outcome).toBe('checked');
  });

  it('goes on when the requester breaks that rule by name, and records who and why', async () => {
    const result = await failover({ overrides });
    expect(result.outcome).toBe('succeeded');
    expect(await pair.pointsTo()).toBe('b');
    expect(result.checks.find((check) => check.name === 'start gate: shop: newest backup')).toMatchObject({ ok: true, rule: 'backup-age', overridden: 'ann: the store is full; the change cannot wait' });
    expect(readFileSync(join(result.evidence!, 'report.json'), 'utf8')).toContain('"overridden":"ann: the store is full; the change cannot wait"');
  });

  it('never stops a forced failover: what is wrong is recorded and told', async () => {
    expect((await rebuild('a')).outcome).toBe('succeeded');
    await pair.servers.b.kill();
    const result = await failover({ mode: 'forced', reason: 'killed' });
    expect(result.outcome).toBe('succeeded');
    expect(await pair.pointsTo()).toBe('a');
    expect(result.checks.find((check) => check.name === 'start gate: shop: newest backup')).toMatchObject({ ok: false, rule: 'backup-age' });
    const told = webhook.messages.map((message) => JSON.stringify(message.body)).filter((text) => text.includes('start gate'));
    expect(told.at(-1)).toMatch(/start gate: shop: newest backup/);
  });
});
