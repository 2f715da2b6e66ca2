import { Context as ActivityContext } from '@temporalio/activity';
import type { Client } from 'pg';
import type { CheckResult } from '../src/model/api.ts';
import type { PostgresDatastore } from '../src/model/config-schema.ts';
import type { WalArchiveConfig } from '../src/model/config-wal.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { parseMoment, type Moment } from '../src/model/moment.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatDuration } from '../src/model/units.ts';
import { postgresOf, serviceOf } from '../src/systems/context.ts';
import { serverUser } from '../src/systems/drill-target.ts';
import { hasHostAccess, nodeStatus, withNode } from '../src/systems/postgres-node.ts';
import { withPostgres } from '../src/systems/postgres.ts';
import { lookAtRoles } from '../src/systems/postgres-roles.ts';
import { runSqlChecks } from '../src/systems/proof-postgres.ts';
import { archiverStatus, openWalArchive, type ArchiveContent, type ArchiverStatus, type BaseBackup, type WalArchive } from '../src/systems/wal-archive.ts';
import { withMoment, type RestoredMoment } from '../src/systems/wal-drill.ts';
import { archivedPast, placeMarks, readMarks } from '../src/systems/wal-marks.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

const ARCHIVE_MS = 20_000;
const CHECK_MS = 240_000;
const LOOK_MS = 500;
const QUERY_MS = 60_000;
/** Clocks of the primary, of whoever made the backup and of this worker differ. */
const CLOCK_SLACK_MS = 60_000;

interface Source {
  readonly name: string;
  readonly datastore: PostgresDatastore;
  readonly config: WalArchiveConfig;
}

function sourceOf(step: StepRun): Source {
  const name = textInput(step, 'source');
  const datastore = postgresOf(step.context.config, name);
  if (datastore.walArchive === undefined) throw new HoldfastError('wal-archive-none', `datastore ${name} has no walArchive`, { next: `add datastores.${name}.walArchive; see docs/wal-archive.md` });
  return { name, datastore, config: datastore.walArchive };
}

function archiveOf(step: StepRun, { config }: Source): Promise<WalArchive> {
  return openWalArchive(step.context, config, serverUser());
}

function content(step: StepRun, archive: WalArchive): Promise<ArchiveContent> {
  return archive.content(AbortSignal.any([step.signal, AbortSignal.timeout(ARCHIVE_MS)]));
}

async function primaryOf(step: StepRun, { datastore }: Source): Promise<string> {
  return (await lookAtRoles(step.context, datastore, {})).primary;
}

function momentOf(text: string): Moment {
  const moment = parseMoment(text);
  if ('problem' in moment) throw new HoldfastError('wal-moment', moment.problem, { next: 'give it with its time zone, e.g. 2026-11-21T09:30:00Z' });
  return moment;
}

// --- the archive -------------------------------------------------------------------------------------------------------------------

function archiverChecks(status: ArchiverStatus, maxWalAgeMs: number): CheckResult[] {
  const timeout = status.archiveTimeoutMs;
  return [
    check('archive_mode', status.archiveMode === 'on' || status.archiveMode === 'always', 'on', status.archiveMode, 'set archive_mode = on and restart the server'),
    check('archive_command', status.command !== '', 'an archive_command or archive_library', status.command === '' ? 'none' : 'set', "set archive_command to the tool's own, e.g. pgbackrest --stanza=<stanza> archive-push %p"),
    check('archive_timeout', timeout > 0 && timeout <= maxWalAgeMs, `set, at most ${formatDuration(maxWalAgeMs)}: what is written in a quiet hour waits for it`, timeout === 0 ? '0: never' : formatDuration(timeout), `set archive_timeout = ${Math.max(1, Math.floor(maxWalAgeMs / 1000))}, or a longer maxWalAge`),
    check('archiver', !status.failing, 'its last attempt succeeded', status.failing ? `failed on ${status.failedWal}` : status.archivedWal === null ? 'it never archived anything' : 'succeeded', 'look at the log of the primary: archive_command says there what is wrong'),
    check('archived', status.archivedWal !== null, 'a WAL file was archived', status.archivedWal === null ? 'none' : `${status.archivedWal}, ${formatDuration(status.archivedAgeMs ?? 0)} ago`, 'select pg_switch_wal(); and look at the log of the primary'),
    check('waiting WAL', status.oldestWaitingMs === null || status.oldestWaitingMs <= maxWalAgeMs, `none older than ${formatDuration(maxWalAgeMs)}`, status.waiting === 0 ? 'none' : `${status.waiting} file(s), the oldest ${formatDuration(status.oldestWaitingMs ?? 0)}`, 'the archiver is behind: look at the log of the primary and at the archive'),
  ];
}

function backupChecks(found: ArchiveContent, systemIdentifier: string | null, maxAgeMs: number, nowMs: number): CheckResult[] {
  const newest = found.backups.at(-1);
  const age = newest === undefined ? null : nowMs - newest.finishedAtMs;
  return [
    check('base backup', age !== null && age <= maxAgeMs && age >= -CLOCK_SLACK_MS, `at most ${formatDuration(maxAgeMs)} old`, newest === undefined ? `none${found.damaged.length > 0 ? `; ${found.damaged.join(', ')} are damaged, as the tool says` : ''}` : age! < -CLOCK_SLACK_MS ? `${newest.label}, dated ${formatDuration(-age!)} in the future: clocks differ` : `${newest.label}, ${formatDuration(Math.max(0, age!))} old`, 'make one, e.g. pgbackrest --stanza=<stanza> backup'),
    ...(newest?.systemIdentifier == null || systemIdentifier === null ? [] : [check('cluster', newest.systemIdentifier === systemIdentifier, `the archive is of this cluster (${systemIdentifier})`, newest.systemIdentifier, 'walArchive.stanza or configFile names the archive of another cluster')]),
  ];
}

const checkArchive: StepDefinition = {
  /** Proved anew each time; after a lost answer too. */
  inspect: async () => ({ satisfied: false, summary: 'the archive is to be proved' }),
  async guard(step) {
    const source = sourceOf(step);
    const archive = await archiveOf(step, source);
    const primary = await primaryOf(step, source);
    const [status, found] = await Promise.all([withNode(step.context, source.datastore, primary, archiverStatus), content(step, archive)]);
    return guarded([
      ...archiverChecks(status, (step.input['maxWalAge'] as number | undefined) ?? source.config.maxWalAge),
      ...backupChecks(found, status.systemIdentifier, (step.input['maxBackupAge'] as number | undefined) ?? source.config.maxBackupAge, step.nowMs()),
    ]);
  },
  async apply(step) {
    const source = sourceOf(step);
    const primary = await primaryOf(step, source);
    const node = source.datastore.nodes[primary]!;
    const archive = await archiveOf(step, source);
    // By its exec where there is one; a node without is this host.
    const said = hasHostAccess(node) ? await archive.checkOnNode(node, AbortSignal.any([step.signal, AbortSignal.timeout(CHECK_MS)])) : null;
    const [status, found] = await Promise.all([withNode(step.context, source.datastore, primary, archiverStatus), content(step, archive)]);
    const newest = found.backups.at(-1);
    return {
      outcome: said === null ? 'already-satisfied' : 'changed',
      summary: said ?? `${archive.tool} was not asked on ${primary}: its host cannot be reached (no dataDirectory, no exec)`,
      facts: { primary, backup: newest?.label ?? null, backupAt: newest === undefined ? null : new Date(newest.finishedAtMs).toISOString(), backups: found.backups.length, newestWal: found.newestWal, archivedWal: status.archivedWal },
    };
  },
  async verify(step) {
    const source = sourceOf(step);
    const status = await withNode(step.context, source.datastore, String(step.call.facts['primary'] ?? (await primaryOf(step, source))), archiverStatus);
    return { checks: archiverChecks(status, (step.input['maxWalAge'] as number | undefined) ?? source.config.maxWalAge), summary: `last archived: ${status.archivedWal}` };
  },
};

// --- the moment --------------------------------------------------------------------------------------------------------------------

const mark: StepDefinition = {
  async inspect(step) {
    if (optionalText(step, 'time') !== undefined) return { satisfied: false, summary: 'the moment was given' };
    const source = sourceOf(step);
    const found = await withNode(step.context, source.datastore, await primaryOf(step, source), (client) => readMarks(client, step.call.key));
    // Apply goes on from what is there: it reads the moment back and switches the WAL.
    return { satisfied: false, summary: found.after ? 'both rows are committed' : found.before ? 'the first row is committed' : 'no row is committed', before: { ...found } };
  },
  async guard(step) {
    const source = sourceOf(step);
    const given = optionalText(step, 'time');
    if (given === undefined) {
      const primary = await primaryOf(step, source);
      const status = await nodeStatus(step.context, source.datastore, primary);
      return guarded([check('primary takes writes', status.inRecovery === false && !status.readOnlyDefault, `${primary}: two rows are committed there`, status.inRecovery === null ? 'it does not answer' : status.inRecovery ? 'it is a standby' : status.readOnlyDefault ? 'it is read-only' : 'it does')]);
    }
    const moment = parseMoment(given);
    if ('problem' in moment) return guarded([check('moment', false, 'a moment with a time zone', moment.problem)]);
    return guarded([
      check('moment', moment.ms <= step.nowMs(), 'in the past', moment.ms <= step.nowMs() ? given : `${given} is ${formatDuration(moment.ms - step.nowMs())} ahead`, 'check its time zone'),
      check('proof of the moment', source.config.proof !== undefined, 'walArchive.proof: no rows were marked around a given moment', source.config.proof === undefined ? 'none' : 'upTo and after', `add datastores.${source.name}.walArchive.proof, or leave the time out`),
    ]);
  },
  async apply(step) {
    const source = sourceOf(step);
    const given = optionalText(step, 'time');
    if (given !== undefined) {
      const { postgres } = momentOf(given);
      return { outcome: 'already-satisfied', summary: `the moment was given: ${postgres}`, facts: { moment: given, marks: '', wal: null } };
    }
    const primary = await primaryOf(step, source);
    const before = await withNode(step.context, source.datastore, primary, (client) => readMarks(client, step.call.key));
    const marks = await withNode(step.context, source.datastore, primary, (client) => placeMarks(client, step.call.key));
    return { outcome: before.after ? 'already-satisfied' : 'changed', summary: `one row before ${marks.moment} and one after it, on ${primary}`, facts: { moment: marks.moment, marks: step.call.key, wal: marks.wal } };
  },
  async verify(step) {
    const source = sourceOf(step);
    const { wal } = step.call.facts;
    if (typeof wal !== 'string') return { checks: [], summary: 'nothing was written that would have to be archived' };
    const began = step.nowMs();
    const deadline = began + (step.input['wait'] as number);
    for (;;) {
      const found = await withNode(step.context, source.datastore, await primaryOf(step, source), (client) => archivedPast(client, wal)).catch((error: unknown) => ({ done: false, last: null, failed: messageOf(error).split('\n')[0]! }));
      if (found.done) return { checks: [check('archived', true, `${wal} or a later file`, found.last!)], summary: `${wal} is archived`, facts: { archivedMs: step.nowMs() - began } };
      if (step.nowMs() > deadline) {
        return { checks: [check('archived', false, `${wal} within ${formatDuration(step.input['wait'] as number)}`, `the last archived is ${found.last ?? 'not known'}${found.failed === null ? '' : `; it fails: ${found.failed}`}`, 'look at archive_command in the log of the primary')], summary: `${wal} was not archived in time` };
      }
      await pause(LOOK_MS, step.signal);
    }
  },
};

// --- the restore -------------------------------------------------------------------------------------------------------------------

/** The newest base backup that was finished before the moment: recovery cannot go back from one. */
function backupBefore(backups: readonly BaseBackup[], moment: Moment): BaseBackup | undefined {
  return backups.findLast(({ finishedAtMs }) => finishedAtMs < moment.ms);
}

function describeBackups(found: ArchiveContent): string {
  const oldest = found.backups[0];
  return oldest === undefined ? 'there is no base backup' : `the first base backup, ${oldest.label}, ended at ${new Date(oldest.finishedAtMs).toISOString()}`;
}

const restoreToTime: StepDefinition = {
  /** Nothing of an earlier attempt counts: its server went with its worker, and what it left is destroyed first. */
  inspect: async () => ({ satisfied: false, summary: 'to be restored' }),
  async guard(step) {
    const source = sourceOf(step);
    const archive = await archiveOf(step, source);
    const version = await archive.version(AbortSignal.any([step.signal, AbortSignal.timeout(ARCHIVE_MS)])).catch((error: unknown) => messageOf(error));
    const checks = [check(`${archive.tool} on this worker`, !version.includes('next:') && version !== '', 'it runs', version.split('\n')[0] ?? '', `install ${archive.tool} on the worker, or set walArchive.command`)];
    const found = await content(step, archive);
    const given = optionalText(step, 'moment');
    if (given === undefined) return guarded([...checks, check('base backup', found.backups.length > 0, 'one', describeBackups(found), 'make one, e.g. pgbackrest backup')]);
    const moment = parseMoment(given);
    if ('problem' in moment) return guarded([...checks, check('moment', false, 'a moment with a time zone', moment.problem)]);
    const backup = backupBefore(found.backups, moment);
    return guarded([
      ...checks,
      check('moment', moment.ms <= step.nowMs() + CLOCK_SLACK_MS, 'in the past', moment.ms <= step.nowMs() + CLOCK_SLACK_MS ? given : `${given} is ${formatDuration(moment.ms - step.nowMs())} ahead`, 'check its time zone'),
      check('base backup before the moment', backup !== undefined, `one that ended before ${given}`, backup?.label ?? describeBackups(found), 'choose a later moment: nothing earlier can be restored'),
      check('proof of the moment', optionalText(step, 'marks') !== undefined || source.config.proof !== undefined, 'marked rows, or walArchive.proof', optionalText(step, 'marks') !== undefined ? 'marked rows' : source.config.proof === undefined ? 'neither' : 'walArchive.proof', `add datastores.${source.name}.walArchive.proof`),
    ]);
  },

  async apply(step) {
    const source = sourceOf(step);
    const moment = momentOf(textInput(step, 'moment'));
    const marks = optionalText(step, 'marks') ?? null;
    const archive = await archiveOf(step, source);
    const found = await content(step, archive);
    const backup = backupBefore(found.backups, moment);
    if (backup === undefined) throw new HoldfastError('wal-moment-too-early', `${moment.postgres} is before every base backup: ${describeBackups(found)}`, { next: 'choose a later moment: nothing earlier can be restored' });
    const begun = performance.now();
    const limit = AbortSignal.timeout(source.config.timeout);
    const identity = { datastore: source.name, workflowId: step.call.workflowId, runId: runIdOf(step) };
    try {
      const facts = await withMoment(step.context, { identity, step: step.call.step, datastore: source.datastore, config: source.config, backup, moment, signal: AbortSignal.any([step.signal, limit]), onProgress: (text) => step.heartbeat(text) }, async (restored) => {
        step.heartbeat('proving');
        const proving = performance.now();
        const proof = await prove(step, source, restored, moment, marks);
        const { name: _, connection: __, ...figures } = restored;
        return { ...figures, proveMs: Math.round(performance.now() - proving), rtoMs: Math.round(performance.now() - begun), proof };
      });
      const failed = facts.proof.filter(({ ok }) => !ok).length;
      return {
        outcome: 'changed',
        summary: `restored to ${moment.postgres} in ${formatDuration(facts.rtoMs)} from ${backup.label} and ${facts.walFiles} WAL file(s); ${failed === 0 ? 'proved' : `${failed} check(s) of the proof failed`}; the drill server is destroyed`,
        facts: { ...(facts as unknown as Record<string, Json>), moment: moment.postgres, backup: backup.label },
      };
    } catch (error) {
      if (limit.aborted && !step.signal.aborted) throw new HoldfastError('wal-restore-late', `the restore to ${moment.postgres} took longer than ${formatDuration(source.config.timeout)}; the drill server is destroyed`, { next: 'raise walArchive.timeout, or make base backups more often', cause: error });
      throw error;
    }
  },

  /** The server is gone; what it said decides. */
  verify: async (step) => {
    const proof = step.call.facts['proof'] as unknown as readonly CheckResult[] | undefined;
    if (!Array.isArray(proof) || proof.length === 0) return { checks: [check('proof', false, 'the checks of the restored server', 'none', 'run the step again')], summary: 'nothing was proved' };
    return { checks: proof, summary: proof.every(({ ok }) => ok) ? `proved by ${proof.length} check(s)` : 'the restore is not what it should be' };
  },
};

/** The run to which the drill server belongs: the sweep asks Temporal whether it still goes on. */
function runIdOf(step: StepRun): string {
  try {
    return ActivityContext.current().info.workflowExecution?.runId ?? step.call.runId;
  } catch {
    return step.call.runId;
  }
}

async function prove(step: StepRun, source: Source, restored: RestoredMoment, moment: Moment, marks: string | null): Promise<CheckResult[]> {
  const { datastore, config } = source;
  const reached = check('recovery stopped at the moment', restored.stoppedAt !== null && restored.stoppedAt.startsWith('recovery stopping before commit'), `before the first commit after ${moment.postgres}`, restored.stoppedAt ?? 'it did not say so', 'the archive had no commit after the moment');
  const rows = marks === null ? await proveByQueries(step, source, restored, moment) : await proveByMarks(step, source, restored, marks);
  const { service } = step.call;
  const asked = service === null ? [] : serviceOf(step.context.config, service).checks.filter((item) => item.datastore === undefined || item.datastore === source.name);
  const own = await runSqlChecks(restored.connection, asked, { timeoutMs: QUERY_MS, signal: step.signal });
  return [reached, ...rows, ...own.map((item) => ({ ...item, name: `${datastore.database}: ${item.name}` })), ...(config.proof === undefined || marks === null ? [] : await proveByQueries(step, source, restored, moment, 'marked'))];
}

/** The absence of the second row only says something while the primary has it. */
async function proveByMarks(step: StepRun, source: Source, restored: RestoredMoment, key: string): Promise<CheckResult[]> {
  const there = await withPostgres(restored.connection, (client) => readMarks(client, key), { queryTimeoutMs: QUERY_MS });
  const onPrimary = await primaryOf(step, source).then((primary) => withNode(step.context, source.datastore, primary, (client) => readMarks(client, key)), () => null).catch(() => null);
  const shown = (found: { before: boolean; after: boolean } | null): string => (found === null ? 'it does not answer' : `${found.before ? 'the row before' : 'no row before'}, ${found.after ? 'the row after' : 'no row after'}`);
  return [
    check('last row before the moment', there.before, 'there', there.before ? 'there' : 'missing', 'the restore stands before the moment'),
    check('first row after the moment', !there.after, 'not there', there.after ? 'there' : 'not there', 'the restore stands after the moment'),
    check('both rows on the primary', onPrimary?.before === true && onPrimary.after, 'both: otherwise the absence of the second proves nothing', shown(onPrimary)),
  ];
}

async function proveByQueries(step: StepRun, source: Source, restored: RestoredMoment, moment: Moment, also?: 'marked'): Promise<CheckResult[]> {
  const { proof } = source.config;
  if (proof === undefined) return [check('proof of the moment', false, 'marked rows, or walArchive.proof', 'neither', `add datastores.${source.name}.walArchive.proof`)];
  const primary = await primaryOf(step, source);
  const onPrimary = async (sql: string): Promise<string | null> => withNode(step.context, source.datastore, primary, (client) => askOne(client, sql, moment));
  const inRestore = (sql: string): Promise<string | null> => withPostgres(restored.connection, (client) => askOne(client, sql, moment), { queryTimeoutMs: QUERY_MS });
  const [upToThere, upToHere, afterThere, afterHere] = [await inRestore(proof.upTo), await onPrimary(proof.upTo), await inRestore(proof.after), await onPrimary(proof.after)];
  return [
    check('last row up to the moment', upToHere !== null && upToThere === upToHere, `${upToHere ?? 'a row'}, as on ${primary}`, upToThere ?? 'none', upToHere === null ? `${primary} has no row up to ${moment.postgres}: this proves nothing` : 'the restore stands before the moment, or the row was changed since'),
    check('first row after the moment is absent', afterThere === null, 'none', afterThere ?? 'none', 'the restore stands after the moment, or the row began before it and was committed after it'),
    // What was just marked may be the last thing that happened.
    ...(also === 'marked' ? [] : [check('first row after the moment, on the primary', afterHere !== null, 'a row: otherwise its absence proves nothing', afterHere ?? 'none', 'choose a moment after which something was written')]),
  ];
}

async function askOne(client: Client, sql: string, moment: Moment): Promise<string | null> {
  await client.query('begin read only');
  try {
    const { rows } = await client.query<unknown[]>({ text: sql, values: [moment.postgres], rowMode: 'array' });
    const value = rows[0]?.[0];
    return value === undefined || value === null ? null : value instanceof Date ? value.toISOString() : String(value);
  } finally {
    await client.query('rollback').catch(() => {});
  }
}

export const walSteps: Readonly<Record<string, StepDefinition>> = { 'wal.check': checkArchive, 'wal.mark': mark, 'wal.restoreToTime': restoreToTime };
