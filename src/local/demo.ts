// `npm run demo`: the whole chain on real servers of this machine, under writes. Exit code 0 only when every objective was met.
//   --keep            leave everything running and say what to try next, until Ctrl-C
//   --rows N          size of the shop database (default 1000000)
//   --writes N        writes a second of the application (default 400)
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { WORKFLOW_IDS, type BackupResult, type RestoreDrillResult, type RetentionResult, type WorkflowType } from '../model/api.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { formatBytes, formatDuration } from '../model/units.ts';
import { tellLock } from '../systems/lock.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import type { Figure } from './demo-report.ts';
import { checkEvidence, conclude, explain, forEver, print, step } from './demo-steps.ts';
import { DATABASE, RECORD, startEnvironment, type LocalEnvironment } from './environment.ts';
import { createProcesses, endOnSignals } from './stack.ts';
import { findTool } from './tools.ts';
import { startWriter, type Writer } from './writer.ts';

interface DemoOptions {
  readonly keep: boolean;
  readonly rows: number;
  readonly writesPerSecond: number;
}

type NodeName = 'a' | 'b';
const SERVICE = 'orders';

async function run<R>(environment: LocalEnvironment, type: WorkflowType, workflowId: string, input: object): Promise<R> {
  return (await environment.client.workflow.execute(type, { workflowId, taskQueue: environment.context.config.temporal.taskQueue, args: [input] })) as R;
}

const now = (): string => new Date().toISOString().replaceAll(/[-:]|\.\d+/g, '');

// ---------------------------------------------------------------- the chain

async function chain(environment: LocalEnvironment, writer: Writer, figures: Figure[], evidence: string[]): Promise<void> {
  const backup = (reason: string): Promise<BackupResult> => run<BackupResult>(environment, 'backup', WORKFLOW_IDS.backup('shop', now()), { datastore: 'shop', reason });
  const describeBackup = (result: BackupResult): string =>
    `${result.tables} tables, ${Number(result.rows).toLocaleString('en-US')} rows; ${formatBytes(result.plainBytes)} -> ${formatBytes(result.storedBytes)}, ${(result.plainBytes / 1e6 / (result.durationMs / 1000)).toFixed(0)} MB/s; ${result.id}`;
  for (const which of ['first', 'second', 'third']) await step(`backup, ${which}`, () => backup('demo'), describeBackup);

  await step(
    'retention',
    // Each backup starts it when it is committed; this is the run that the third one started.
    async () => (await environment.client.workflow.getHandle(WORKFLOW_IDS.retention('shop')).result()) as RetentionResult,
    (result) => `kept ${result.decisions.filter(({ action }) => action !== 'delete').map(({ id, reasons }) => `${id} (${reasons.join(', ')})`).join(', ')}; deleted ${result.deleted.length}, freed ${formatBytes(result.freedBytes)}`,
  );

  await step('restore drill', () => run<RestoreDrillResult>(environment, 'restoreDrill', WORKFLOW_IDS.restoreDrill('shop', now()), { datastore: 'shop', service: SERVICE, backup: 'newest', reason: 'demo' }), (result) => {
    for (const [what, measured, objective] of [
      ['RTO: restore to checks green', result.measuredRtoMs, result.objectives?.rtoMs],
      ['RPO: age of the restored data', result.measuredRpoMs, result.objectives?.rpoMs],
    ] as const) {
      figures.push({ of: 'restore drill', what, unit: 'ms', objective: objective ?? 0, measured });
    }
    if (result.evidence !== null) evidence.push(result.evidence);
    if (result.outcome !== 'verified' || result.proof?.exact !== true) throw new HoldfastError('demo-drill', `the drill ended as ${result.outcome}: ${result.message}`);
    const { compared } = result.proof;
    return `proved exactly: ${compared.tables} tables, ${Number(compared.rows).toLocaleString('en-US')} rows, ${compared.sequences} sequences, ${compared.largeObjects} large objects, ${compared.schemaObjects} schema objects, ${compared.roles} roles; ${result.checks.length} checks green`;
  });

  const { failback } = await switchOver(environment, writer, figures, evidence, 'planned failover', 'a', 'b', { purpose: 'failover' });
  if (failback?.document == null) throw new HoldfastError('demo-failback', `the failover generated no way back: ${failback?.reason ?? 'no reason given'}`);
  await switchOver(environment, writer, figures, evidence, 'planned failback', 'b', 'a', { purpose: 'failback', document: failback.document });
  await rebuild(environment, 'b');
  await step('acknowledge', () => acknowledge(environment), (text) => text);
  await forcedFailover(environment, writer, figures, evidence);
  await rebuild(environment, 'a');
}

/** A planned switch under writes: what Holdfast measured, beside what the application itself saw. */
async function switchOver(environment: LocalEnvironment, writer: Writer, figures: Figure[], evidence: string[], name: string, from: NodeName, to: NodeName, input: object): Promise<ExecutionResult> {
  const { result } = await step(
    name,
    async () => {
      const fromMs = Date.now();
      const result = await run<ExecutionResult>(environment, 'failover', WORKFLOW_IDS.failover(SERVICE), { service: SERVICE, mode: 'planned', reason: 'demo', requestedBy: 'demo', ...input });
      await writer.waitForWrite();
      const gap = writer.gap(fromMs, Date.now());
      await expectPrimary(environment, to);
      const { lost, acknowledged } = await writer.lost(environment.nodes[to].connectionString(DATABASE));
      recordExecution(result, name, figures, evidence);
      const objectives = environment.context.config.services[SERVICE]!.objectives;
      figures.push(
        { of: name, what: 'refused writes, as the application saw it', unit: 'ms', objective: objectives.refusedWrites ?? null, measured: gap.firstAfter === undefined ? null : gap.lengthMs, note: codes(gap.refusals) },
        { of: name, what: 'acknowledged writes lost, application', unit: 'count', objective: objectives.lostWrites, measured: lost.length, note: `of ${acknowledged.toLocaleString('en-US')}` },
      );
      return { result, gap, lost };
    },
    ({ result, gap, lost }) => `${from} -> ${to}; application without writes for ${formatDuration(gap.lengthMs)}, ${lost.length} acknowledged lost; ${parts(result)}`,
  );
  return result;
}

async function forcedFailover(environment: LocalEnvironment, writer: Writer, figures: Figure[], evidence: string[]): Promise<void> {
  const name = 'forced failover';
  const killedAtMs = Date.now();
  await step('kill the primary', () => environment.nodes.a.kill(), () => 'SIGKILL to a and all its processes, while it is written');
  await step(
    name,
    async () => {
      const result = await run<ExecutionResult>(environment, 'failover', WORKFLOW_IDS.failover(SERVICE), { service: SERVICE, mode: 'forced', reason: 'the primary was killed', requestedBy: 'demo' });
      await writer.waitForWrite();
      const gap = writer.gap(killedAtMs - 1000, Date.now());
      await expectPrimary(environment, 'b');
      recordExecution(result, name, figures, evidence);
      const { rto, rpo } = environment.context.config.services[SERVICE]!.objectives;
      const { lost, acknowledged } = await writer.lost(environment.nodes.b.connectionString(DATABASE));
      const lastKept = writer.acknowledged().filter(({ atMs }) => atMs <= (gap.lastBefore?.atMs ?? 0)).filter((write) => !lost.some((other) => other.connection === write.connection && other.sequence === write.sequence));
      const lastKeptMs = lastKept.reduce((latest, { atMs }) => Math.max(latest, atMs), 0);
      const lastLostMs = lost.reduce((latest, { atMs }) => Math.max(latest, atMs), 0);
      figures.push(
        { of: name, what: 'RTO, as the application saw it', unit: 'ms', objective: rto, measured: gap.firstAfter === undefined ? null : gap.lengthMs, note: codes(gap.refusals) },
        { of: name, what: 'RPO: span of lost writes, application', unit: 'ms', objective: rpo, measured: lastKeptMs === 0 ? null : Math.max(0, lastLostMs - lastKeptMs) },
        { of: name, what: 'acknowledged writes lost, application', unit: 'count', objective: null, measured: lost.length, note: `of ${acknowledged.toLocaleString('en-US')}; asynchronous replication, counted not promised` },
      );
      return { gap, lost, result };
    },
    ({ gap, lost, result }) => `a -> b; application without writes for ${formatDuration(gap.lengthMs)}, ${lost.length} acknowledged lost; ${parts(result)}`,
  );
  await step('old primary back', () => startOldPrimary(environment), (refusals) => `a started again and takes no write: ${refusals.join('; ')}`);
}

/** Starts the old primary as a reboot would, and tries to write to it as the application and as superuser. */
async function startOldPrimary(environment: LocalEnvironment): Promise<string[]> {
  await environment.nodes.a.start();
  const refusals: string[] = [];
  for (const [who, url] of [
    ['application', environment.applicationUrl('a')],
    ['superuser', environment.nodes.a.connectionString(DATABASE)],
  ] as const) {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 3000, query_timeout: 3000 });
    client.on('error', () => {});
    try {
      await client.connect();
      await client.query(`insert into shop.checkouts (run, connection, sequence, basket) values ('after-fence', 0, 1, '{}')`);
    } catch (error) {
      const code = (error as { code?: string }).code;
      // Only a refusal by the server counts: a server that is not there proves nothing.
      if (code === undefined || !/^[0-9A-Z]{5}$/.test(code) || code === '57P03') throw new HoldfastError('demo-fence', `whether the old primary takes writes could not be seen: ${messageOf(error)}`);
      refusals.push(`${who}: ${(error as Error).message}`);
      continue;
    } finally {
      await client.end().catch(() => {});
    }
    throw new HoldfastError('demo-fence', `the fenced old primary took a write of the ${who}`);
  }
  return refusals;
}

/** Without it the next failover would be refused for an hour: somebody has to have understood the last one. */
function acknowledge({ client, context }: LocalEnvironment): Promise<string> {
  return tellLock({ client, environment: context.config.environment, datastore: 'shop' }, 'acknowledge', { by: 'demo', reason: 'there and back was planned' });
}

async function rebuild(environment: LocalEnvironment, node: NodeName): Promise<void> {
  await step(
    `rebuild ${node}`,
    () => run<ExecutionResult>(environment, 'runbook', WORKFLOW_IDS.runbook('standby-rebuild', now()), { runbook: 'standby-rebuild', service: SERVICE, parameters: { datastore: 'shop', node }, reason: 'demo', requestedBy: 'demo' }),
    (result) => result.steps.find((step) => step.uses === 'postgres.rebuildStandby')?.summary ?? '',
  );
}

/** Roles as the servers themselves say, and the DNS record as Route 53 has it. */
async function expectPrimary(environment: LocalEnvironment, node: NodeName): Promise<void> {
  const client = new pg.Client({ connectionString: environment.nodes[node].connectionString() });
  await client.connect();
  try {
    const { rows } = await client.query<{ standby: boolean }>('select pg_is_in_recovery() as standby');
    if (rows[0]?.standby !== false) throw new HoldfastError('demo-role', `${node} should be the primary now and is in recovery`);
  } finally {
    await client.end();
  }
  const resolved = await environment.resolvedAddress();
  const wanted = environment.applicationHosts[node];
  if (resolved !== wanted) throw new HoldfastError('demo-dns', `${RECORD} should be ${wanted} now and is ${resolved}`);
}

function recordExecution(result: ExecutionResult, name: string, figures: Figure[], evidence: string[]): void {
  for (const { name: what, unit, objective, measured, note } of result.measurements) {
    if (unit !== 'bytes' && objective !== null) figures.push({ of: name, what, unit, objective, measured, ...(measured === null && note !== undefined ? { note } : {}) });
  }
  if (result.evidence === null) throw new HoldfastError('demo-evidence', `${name}: no evidence was written`);
  evidence.push(result.evidence);
}

/** Where the time between the first refused write and the first good one goes. */
function parts(result: ExecutionResult): string {
  return ['read-only', 'fence-first', 'await-replay', 'promote', 'check-fence', 'swap-secret']
    .map((id) => result.steps.find((one) => one.id === id))
    .filter((one) => one !== undefined && one.ms !== null && one.outcome !== 'skipped')
    .map((one) => `${one!.id} ${formatDuration(one!.ms!)}`)
    .join(', ');
}

function codes(refusals: Readonly<Record<string, number>>): string {
  const seen = Object.entries(refusals).map(([code, count]) => `${code} x${count}`).join(', ');
  return seen === '' ? '' : `refusals: ${seen}`;
}

async function verifyEvidence(environment: LocalEnvironment, evidence: readonly string[], publicKeyFile: string): Promise<void> {
  await step(
    'evidence verify',
    async () => {
      for (const folder of evidence) await checkEvidence(folder, environment.publicKey);
      if (evidence.length < 4) throw new HoldfastError('demo-evidence', `only ${evidence.length} of 4 records of evidence were written`);
    },
    () => `${evidence.length} records intact and signed; key ${publicKeyFile}`,
  );
}

// ---------------------------------------------------------------- around it

function whatToTry(environment: LocalEnvironment): string {
  const { temporal, nodes, s3, configPath, context } = environment;
  const input = JSON.stringify({ service: SERVICE, mode: 'planned', reason: 'trying it', requestedBy: process.env['USER'] ?? 'me' });
  const holdfast = `npm run --silent holdfast -- --config ${configPath}`;
  return `
Everything is left running; Ctrl-C ends it all and removes ${environment.directory}.
  Temporal UI     ${temporal.uiAddress ?? '-'}
  Temporal        ${temporal.address}, namespace ${temporal.namespace}, task queue ${context.config.temporal.taskQueue}
  primary b       ${nodes.b.connectionString(DATABASE)}
  standby a       ${nodes.a.connectionString(DATABASE)}
  S3              ${s3.endpoint}, bucket ${environment.bucket}
  AWS emulator    ${environment.aws.endpoint}
  configuration   ${configPath}
  evidence        ${environment.evidenceDirectory}

Try next, in another terminal, from this folder:
  A planned failover by Temporal's own command line, once the last one is acknowledged:
    ${holdfast} acknowledge ${SERVICE} --reason "trying it"
    ${findTool('temporal')} workflow start --fail-existing --address ${temporal.address} --task-queue ${context.config.temporal.taskQueue} --type failover --workflow-id failover/${SERVICE} --input '${input}'
  Watch it, and every other execution:
    ${holdfast} status ${SERVICE}
    ${holdfast} audit
  A backup, the list of backups, and what retention would do:
    ${holdfast} backup shop
    ${holdfast} backups shop
    ${holdfast} retention shop --explain
  What is in the bucket, without Holdfast:
    AWS_ACCESS_KEY_ID=${s3.accessKeyId} AWS_SECRET_ACCESS_KEY=${s3.secretAccessKey} aws --endpoint-url ${s3.endpoint} s3 ls --recursive s3://${environment.bucket}`;
}

async function main(options: DemoOptions): Promise<number> {
  const processes = createProcesses();
  const evidenceDirectory = join(process.cwd(), 'evidence', 'dr');
  endOnSignals(processes, () => console.log('\nending everything ...'));
  const figures: Figure[] = [];
  const evidence: string[] = [];
  const failed: string[] = [];
  let environment: LocalEnvironment | undefined;
  let writer: Writer | undefined;
  try {
    console.log(`Holdfast demo: ${options.rows.toLocaleString('en-US')} rows, ${options.writesPerSecond} writes/s, everything on 127.0.0.1 below ${processes.directory}`);
    environment = await startEnvironment({ processes, rows: options.rows, evidenceDirectory, ui: options.keep, step });
    const { applicationSecret, aws, directory } = environment;
    writer = await step(
      'application',
      () => startWriter({ processes, directory, secretId: applicationSecret, aws, run: 'demo', perSecond: options.writesPerSecond }),
      () => `writes ${options.writesPerSecond} checkouts/s through its secret ${applicationSecret} and notes each acknowledged one`,
    );
    print('set-up', undefined, 'done; now the chain');
    const publicKeyFile = join(evidenceDirectory, '..', `demo-${now()}.pub`);
    mkdirSync(evidenceDirectory, { recursive: true });
    writeFileSync(publicKeyFile, environment.publicKey);
    await chain(environment, writer, figures, evidence);
    await verifyEvidence(environment, evidence, publicKeyFile);
    const { webhook } = environment;
    await step('notifications', () => Promise.resolve(webhook.messages.length), (count) => {
      if (count === 0) throw new HoldfastError('demo-webhook', 'no notification arrived');
      return `${count} messages arrived at the webhook`;
    });
  } catch (error) {
    failed.push(explain(error));
    if (environment !== undefined) console.log(`\nlast lines of the worker:\n${environment.worker.logTail()}`);
  }
  try {
    // With --keep it goes on writing: a failover is only interesting under writes.
    if (!options.keep) await writer?.stop();
    const code = conclude(figures, failed, `Every objective was met. Evidence: ${evidenceDirectory}`);
    if (options.keep && environment !== undefined) {
      console.log(whatToTry(environment));
      await forEver();
    }
    return code;
  } finally {
    await environment?.client.connection.close();
    environment?.context.close();
    await processes.end();
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false }, rows: { type: 'string', default: '1000000' }, writes: { type: 'string', default: '400' } } });
  const rows = Number(values.rows);
  const writesPerSecond = Number(values.writes);
  if (!Number.isInteger(rows) || rows < 1 || !Number.isFinite(writesPerSecond) || writesPerSecond < 0) {
    console.error('usage: npm run demo -- [--keep] [--rows N] [--writes N]');
    process.exit(2);
  }
  process.exit(await main({ keep: values.keep, rows, writesPerSecond }));
}
