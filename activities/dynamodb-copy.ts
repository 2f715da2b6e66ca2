import type { CheckResult } from '../src/model/api.ts';
import { beginCopy, identityText, missingSettings, resumeCopy, sameTable, segmentsFor, takeOverProblem, unknownSettings, type CopyState, type TableIdentity } from '../src/model/dynamodb-copy.ts';
import { compareShapes, createInput, keyMismatch, settingsOf } from '../src/model/dynamodb-settings.ts';
import { beginAt, behindMs, readPosition, refuseTrimmed, viewProblem, type StreamPosition } from '../src/model/dynamodb-stream.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatBytes, formatDuration } from '../src/model/units.ts';
import { engineOf } from '../src/systems/context.ts';
import { CLOCK, describeTable, findTable, type TableFacts } from '../src/systems/dynamodb.ts';
import { compareTables, type Compared, type ReadSide } from '../src/systems/dynamodb-compare.ts';
import { copyTable, isEmpty } from '../src/systems/dynamodb-copy.ts';
import { followStream, type FollowOptions, type FollowProgress } from '../src/systems/dynamodb-follow.ts';
import { applySettings, createTable, readSettings, readTimeToLive } from '../src/systems/dynamodb-settings.ts';
import { describeStream } from '../src/systems/dynamodb-stream.ts';
import { createThrottle, type Throttle } from '../src/systems/dynamodb-throttle.ts';
import { createWriter } from '../src/systems/dynamodb-write.ts';
import { whileHeld } from './lease.ts';
import { check, guarded, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

/** One end of a copy: where its tables are, and by whom they are asked for. */
export async function openEnd(step: StepRun, input: 'source' | 'datastore') {
  const name = textInput(step, input);
  const config = engineOf(step.context.config, name, 'dynamodb');
  const { aws } = step.context;
  return { name, config, client: await aws.dynamo(config), items: await aws.dynamoItems(config), streams: () => aws.dynamoStreams(config) };
}

export type End = Awaited<ReturnType<typeof openEnd>>;

interface Ends {
  readonly source: End;
  readonly target: End;
  readonly table: string;
  readonly targetTable: string;
}

async function endsOf(step: StepRun): Promise<Ends> {
  const table = textInput(step, 'table');
  return { source: await openEnd(step, 'source'), target: await openEnd(step, 'datastore'), table, targetTable: (step.input['targetTable'] as string | undefined) ?? table };
}

function identityOf({ arn, id, description }: TableFacts): TableIdentity {
  return { arn, id, createdAtMs: description.CreationDateTime?.getTime() ?? 0 };
}

function pairOf(from: TableFacts, to: TableFacts): { source: string; target: string } {
  return { source: identityText(identityOf(from)), target: identityText(identityOf(to)) };
}

/** @throws HoldfastError `copy-same-table`: nothing may be written over what is copied. */
async function bothTables(step: StepRun, { source, target, table, targetTable }: Ends): Promise<{ from: TableFacts; to: TableFacts }> {
  const from = await describeTable(source.client, table, step.signal);
  const to = await describeTable(target.client, targetTable, step.signal);
  if (sameTable(identityOf(from), identityOf(to))) throw new HoldfastError('copy-same-table', `source and target are the same table: ${from.arn}`, { next: 'nothing was written; give another datastore, or targetTable' });
  return { from, to };
}

/** Its shape, without asking for anything more than the description. */
function shapeOf(table: TableFacts) {
  return settingsOf(table.description, { timeToLive: null, tags: null, pointInTime: null });
}

/** How keys and indexes of two tables differ; empty: they do not. */
function differencesOf(from: TableFacts, to: TableFacts): string[] {
  return compareShapes('', shapeOf(from), shapeOf(to)).differences.map(({ object, expected, found }) => `${object.trim()}: expected ${expected}, found ${found}`);
}

const shareInput = (step: StepRun, name: 'readShare' | 'writeShare', otherwise: number): number => (step.input[name] as number | undefined) ?? otherwise;

function throttleOf(step: StepRun, end: End, table: string, unit: 'read' | 'write', signal: AbortSignal): Promise<Throttle> {
  const share = unit === 'read' ? shareInput(step, 'readShare', end.config.backup.readShare) : shareInput(step, 'writeShare', end.config.restore.writeShare);
  const configured = unit === 'read' ? end.config.backup.readUnitsPerSecond : end.config.restore.writeUnitsPerSecond;
  return createThrottle({ client: end.client, table, unit, share, configured, signal, clock: CLOCK, onNote: (note) => step.log.info({ note }, 'capacity') });
}

const createTarget: StepDefinition = {
  async inspect(step) {
    const { source, target, table, targetTable } = await endsOf(step);
    const there = await findTable(target.client, targetTable, step.signal);
    if (there === undefined) return { satisfied: false, summary: `there is no table ${targetTable} in ${target.name}`, before: { there: false } };
    const from = await describeTable(source.client, table, step.signal);
    const differences = differencesOf(from, there);
    return { satisfied: differences.length === 0 && there.status === 'ACTIVE', summary: differences.length === 0 ? `table ${targetTable} is there, ${there.status}` : `table ${targetTable} is there and differs: ${differences.join('; ')}`, before: { there: true }, facts: { table: targetTable, arn: there.arn } };
  },
  async guard(step) {
    const { source, target, table, targetTable } = await endsOf(step);
    const from = await describeTable(source.client, table, step.signal);
    const there = await findTable(target.client, targetTable, step.signal);
    const differences = there === undefined ? [] : differencesOf(from, there);
    return guarded([
      check('source', from.status === 'ACTIVE', `${table} of ${source.name} is ACTIVE`, from.status),
      check('target', differences.length === 0, `no table ${targetTable} in ${target.name}, or one with the same keys and indexes`, there === undefined ? 'none' : differences.length === 0 ? 'one with the same keys and indexes' : differences.join('; '), 'nothing was changed; give another targetTable'),
    ]);
  },
  async apply(step) {
    const { source, target, table, targetTable } = await endsOf(step);
    const from = await describeTable(source.client, table, step.signal);
    // No table of that name: else it would have been held against the source, and this not be reached. Its key of another Region or account cannot be used.
    const there = await findTable(target.client, targetTable, step.signal);
    const made = there ?? (await createTable(target.client, createInput(targetTable, shapeOf(from), { keepEncryption: false, tags: {} }), step.signal));
    const differences = differencesOf(from, made);
    if (differences.length > 0) throw new HoldfastError('copy-target', `table ${targetTable} of ${target.name} differs from ${table}: ${differences.join('; ')}`, { next: 'nothing was changed; give another targetTable' });
    return { outcome: 'changed', summary: `table ${targetTable} is there, empty, with the keys and indexes of ${table}`, after: { arn: made.arn }, facts: { table: targetTable, arn: made.arn } };
  },
  async verify(step) {
    const ends = await endsOf(step);
    const { from, to } = await bothTables(step, ends);
    const differences = differencesOf(from, to);
    return { checks: [check('schema', differences.length === 0 && to.status === 'ACTIVE', 'the same keys and indexes, ACTIVE', differences.length === 0 ? to.status : differences.join('; '))], summary: `${ends.targetTable} is ${to.status}` };
  },
};

/** What must hold before the first write. `to` undefined: an earlier step makes it. */
async function copyChecks(step: StepRun, ends: Ends, from: TableFacts, to: TableFacts | undefined, ours: boolean): Promise<CheckResult[]> {
  const { source, target, table, targetTable } = ends;
  const checks = [check('source', from.status === 'ACTIVE', `${table} of ${source.name} is ACTIVE`, from.status)];
  if (step.input['follow'] === true) {
    const stream = from.description.StreamSpecification;
    const problem = viewProblem(stream?.StreamEnabled === true, stream?.StreamViewType);
    checks.push(check('stream', problem === undefined, 'a stream of view NEW_IMAGE or NEW_AND_OLD_IMAGES', problem ?? stream!.StreamViewType!, `aws dynamodb update-table --table-name ${table} --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES; or say follow: false, when nobody writes`));
  }
  const replicas = (from.description.Replicas ?? []).map(({ RegionName }) => RegionName ?? '');
  checks.push(check('global table', !replicas.includes(to?.arn.split(':')[3] ?? ' '), 'the target is no replica of the source', replicas.length === 0 ? 'the source is no global table' : `replicas in ${replicas.join(', ')}`, 'a replica is kept by the service: nothing is to be copied there'));
  if (to === undefined) return checks;
  if (sameTable(identityOf(from), identityOf(to))) return [...checks, check('another table', false, 'source and target differ', `both are ${from.arn}`, 'give another datastore, or targetTable')];
  const difference = keyMismatch(shapeOf(from), shapeOf(to));
  checks.push(check('target', to.status === 'ACTIVE' && difference === undefined, `${targetTable} of ${target.name} is ACTIVE and has the same key`, difference ?? to.status, 'create it by dynamodb.createTarget'));
  const ttl = await readTimeToLive(target.client, targetTable, step.signal);
  checks.push(check('time to live', ttl === null, 'off in the target until the copy is exact', ttl === null ? 'off' : `on, by ${ttl}`, 'turn it off: it would delete items that the source still has; dynamodb.settings turns it on at the end'));
  const position = readPosition(step.input['position']);
  if (position !== undefined) {
    const problem = takeOverProblem(position, pairOf(from, to), { stream: to.description.StreamSpecification?.StreamEnabled === true, timeToLive: ttl, sourceStream: from.description.LatestStreamArn });
    checks.push(check('position', problem === undefined, 'of a copy between these very tables, which nobody uses yet', problem ?? `taken ${new Date(position.startedAtMs).toISOString()}`, 'begin the copy anew, into an empty table and without a position'));
  } else if (!ours) {
    const empty = await isEmpty(target.items, targetTable, step.signal);
    checks.push(check('empty', empty, `${targetTable} of ${target.name} holds no item`, empty ? 'none' : 'it holds items that this execution did not write', 'choose another targetTable: nothing of others is written over'));
  }
  return checks;
}

const copy: StepDefinition = {
  async inspect(step) {
    const ends = await endsOf(step);
    const from = await describeTable(ends.source.client, ends.table, step.signal);
    const bytes = from.description.TableSizeBytes ?? 0;
    return { satisfied: false, summary: `${ends.table} of ${ends.source.name} is about ${formatBytes(bytes)} (as the service counted some hours ago)`, before: { bytes } };
  },
  async guard(step) {
    const ends = await endsOf(step);
    const from = await describeTable(ends.source.client, ends.table, step.signal);
    const to = await findTable(ends.target.client, ends.targetTable, step.signal);
    if (to === undefined && !step.call.preflight) return guarded([check('target', false, `a table ${ends.targetTable} in ${ends.target.name}`, 'none', 'create it by dynamodb.createTarget')]);
    const ours = to !== undefined && resumeCopy(step.previousDetails, pairOf(from, to)) !== undefined;
    return guarded(await copyChecks(step, ends, from, to, ours));
  },
  async apply(step): Promise<PhaseResult> {
    const ends = await endsOf(step);
    const { from, to } = await bothTables(step, ends);
    const of = pairOf(from, to);
    const earlier = resumeCopy(step.previousDetails, of);
    const failed = (await copyChecks(step, ends, from, to, earlier !== undefined)).filter(({ ok }) => !ok);
    if (failed.length > 0) throw new HoldfastError('copy-refused', `nothing was written: ${failed.map(({ name, expected, found }) => `${name}: expected ${expected}, found ${found}`).join('; ')}`, { next: failed[0]!.next ?? 'correct it, then retry' });
    const parallel = step.input['parallel'] as number;
    const follow = step.input['follow'] === true;
    const taken = readPosition(step.input['position']);
    if (taken !== undefined) {
      refuseTrimmed(taken, step.nowMs());
      return { outcome: 'already-satisfied', summary: `goes on with what an earlier run copied: changes since ${new Date(taken.startedAtMs).toISOString()} are applied next`, facts: { items: 0, segments: 0, repeated: 0, position: taken as unknown as Json, readUnits: 0, writeUnits: 0, startedAt: new Date(taken.startedAtMs).toISOString() } };
    }
    let state: CopyState = earlier ?? beginCopy({ ...of, segments: (step.input['segments'] as number | undefined) ?? segmentsFor(from.description.TableSizeBytes ?? 0, parallel), startedAtMs: step.nowMs(), position: follow ? await positionNow(step, ends, from) : null });
    // The first report tells the next attempt that what is in the target is ours: it is at the server before anything is written.
    return whileHeld(step, () => state, async (signal) => {
      const read = await throttleOf(step, ends.source, ends.table, 'read', signal);
      const write = await throttleOf(step, ends.target, ends.targetTable, 'write', signal);
      state = await copyTable({
        source: { items: ends.source.items, table: ends.table, throttle: read },
        target: { items: ends.target.items, facts: to, throttle: write },
        state, parallel, consistentRead: follow, signal,
        onState: (newer) => {
          state = newer;
          step.heartbeat(newer);
        },
      });
      const kept = [read.kept(), write.kept()] as const;
      return {
        outcome: 'changed' as const,
        summary: `${state.items} items in ${state.segments} segments, with ${Math.round(kept[0].consumedUnits)} read units (${percent(kept[0].used)} of ${kept[0].capacity} a second) and ${Math.round(kept[1].consumedUnits)} write units (${percent(kept[1].used)} of ${kept[1].capacity})${state.repeated === 0 ? '' : `; ${state.repeated} segments that a lost worker had begun were read again`}`,
        after: { items: state.items },
        facts: { items: state.items, segments: state.segments, repeated: state.repeated, position: (state.position === null ? null : { ...state.position, copied: of }) as unknown as Json, readUnits: kept[0].consumedUnits, writeUnits: kept[1].consumedUnits, startedAt: new Date(state.startedAtMs).toISOString() },
      };
    });
  },
};

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}

/** Before the scan, so that every change since is in the stream. */
async function positionNow(step: StepRun, { source }: Ends, from: TableFacts): Promise<StreamPosition> {
  const stream = streamOf(from);
  const found = await describeStream({ client: await source.streams(), stream, signal: step.signal });
  const problem = viewProblem(found.status === 'ENABLED', found.view);
  if (problem !== undefined) throw new HoldfastError('stream-unusable', `${stream}: ${problem}`, { next: 'turn on a stream of view NEW_AND_OLD_IMAGES' });
  return beginAt(stream, found.shards, step.nowMs());
}

function streamOf(table: TableFacts): string {
  const stream = table.description.LatestStreamArn;
  if (stream === undefined) throw new HoldfastError('stream-missing', `table ${table.name} has no stream`, { next: 'turn one on before the copy begins' });
  return stream;
}

interface FollowReport {
  readonly kind: 'dynamodb.follow/1';
  readonly position: StreamPosition;
  /** Since when nobody should write: of the last draining. */
  readonly stoppedAtMs: number;
  /** Of `late`, how many came after it. */
  readonly afterStop: number;
  /** For drained: when the step began. */
  readonly sinceMs?: number;
  /** Changes made since then. */
  readonly late?: number;
}

function followReport(value: unknown): FollowReport | undefined {
  const report = value as Partial<FollowReport> | null | undefined;
  return report?.kind === 'dynamodb.follow/1' ? { ...(report as FollowReport), position: readPosition(report.position)! } : undefined;
}

/** It fails here, after it has waited for them, rather than after both tables were read for nothing. */
async function nobodyWrites(step: StepRun): Promise<PhaseResult> {
  const { afterStop, stoppedAt } = step.call.facts;
  if (step.input['until'] !== 'drained') return { checks: [], summary: 'people write still: nothing is to be verified yet' };
  const writes = typeof afterStop === 'number' ? afterStop : 0;
  return { checks: [check('nobody writes', writes === 0, `no change after ${typeof stoppedAt === 'string' ? stoppedAt : 'it began'}`, writes === 0 ? 'none' : `${writes}, which were applied as well`, 'find out who writes and stop it; then begin a new run with the position of this one: it reads nothing again')], summary: writes === 0 ? 'nobody writes' : `${writes} changes came in after it began` };
}

/** Whether the position is of the tables there are now. @throws HoldfastError `stream-other`, `copy-other-table`. */
function refuseOther(position: StreamPosition, from: TableFacts, to: TableFacts): void {
  if (streamOf(from) !== position.stream) throw new HoldfastError('stream-other', `the position is of ${position.stream}; the table's stream is ${streamOf(from)} now, so changes are missing`, { next: 'begin the copy anew, into an empty table' });
  const [of, now] = [position.copied, pairOf(from, to)];
  if (of !== undefined && (of.source !== now.source || of.target !== now.target)) throw new HoldfastError('copy-other-table', `the copy was made between other tables: ${of.source} to ${of.target}; now they are ${now.source} and ${now.target}`, { next: 'somebody made one of them anew: begin a new copy, into an empty table' });
}

/** One lease, one stretch of the stream. */
function applyStream(step: StepRun, ends: Ends, to: TableFacts, report: () => FollowReport, until: FollowOptions['until'], onProgress: (progress: FollowProgress) => void): Promise<FollowProgress> {
  return whileHeld(step, report, async (signal) => {
    const write = await throttleOf(step, ends.target, ends.targetTable, 'write', signal);
    return followStream({
      client: await ends.source.streams(),
      position: report().position,
      writer: () => createWriter({ items: ends.target.items, table: ends.targetTable, key: to.key, throttle: write, signal }),
      until,
      pollMs: step.input['poll'] as number,
      signal, clock: CLOCK, nowMs: step.nowMs,
      onProgress: (progress) => {
        onProgress(progress);
        step.heartbeat(report());
      },
    });
  });
}

const follow: StepDefinition = {
  async inspect(step) {
    const position = readPosition(step.input['position']);
    return { satisfied: false, summary: position === undefined ? 'the position is not known yet' : `the stream is applied up to ${formatDuration(behindMs(position, step.nowMs()))} ago, ${position.shards.length} shards to be read` };
  },
  async guard(step) {
    const ends = await endsOf(step);
    const from = await describeTable(ends.source.client, ends.table, step.signal);
    const position = readPosition(step.input['position']);
    if (position === undefined) {
      if (!step.call.preflight) textInput(step, 'position');
      return guarded([]);
    }
    const found = from.description.LatestStreamArn ?? 'none';
    return guarded([check('stream', found === position.stream, position.stream, found, 'the stream was turned off and on since, and changes are missing: begin the copy anew, into an empty table')]);
  },
  async apply(step) {
    const ends = await endsOf(step);
    const { from, to } = await bothTables(step, ends);
    const earlier = followReport(step.previousDetails);
    const position = earlier?.position ?? readPosition(step.input['position']);
    if (position === undefined) throw new HoldfastError('step-input', `step ${step.call.step} (dynamodb.follow) has no position`, { next: 'give position: ${steps.<id of the copy>.position}; the copy takes it when follow is true' });
    refuseOther(position, from, to);
    const drain = step.input['until'] === 'drained';
    const stoppedAtMs = earlier?.stoppedAtMs ?? step.nowMs();
    const sinceMs = earlier?.sinceMs ?? stoppedAtMs;
    let report: FollowReport = { kind: 'dynamodb.follow/1', position, stoppedAtMs, afterStop: earlier?.afterStop ?? 0, sinceMs, late: earlier?.late ?? 0 };
    let applied = 0;
    for (;;) {
      const before = report;
      const took = (progress: FollowProgress): void => {
        report = { ...before, position: progress.position, afterStop: before.afterStop + progress.afterStop, late: (before.late ?? 0) + progress.afterStop };
      };
      const result = await applyStream(step, ends, to, () => report, drain ? { stoppedAtMs: before.stoppedAtMs, quietMs: step.input['quiet'] as number } : { caughtUpMs: step.input['maxBehind'] as number }, took);
      took(result);
      applied += result.applied;
      const again = drain && report.afterStop > 0 && step.nowMs() - sinceMs < (step.input['patience'] as number);
      if (!again) {
        const late = report.late ?? 0;
        return {
          outcome: applied > 0 ? ('changed' as const) : ('already-satisfied' as const),
          summary: `${applied} changes applied; ${drain ? `every shard was quiet for ${formatDuration(step.input['quiet'] as number)}` : `${formatDuration(result.behindMs)} behind`}${late === 0 ? '' : `; ${late} of them were made after ${new Date(sinceMs).toISOString()}${report.afterStop === 0 ? ', none of late' : ': somebody writes still'}`}`,
          after: { applied },
          facts: { position: result.position as unknown as Json, applied, behindMs: result.behindMs, ...(drain ? { afterStop: report.afterStop, stoppedAt: new Date(report.stoppedAtMs).toISOString(), late } : {}) },
        };
      }
      // Somebody wrote after the stop: it is applied, and from now on nobody may. A run that ended here would cost the whole copy.
      step.log.warn({ changes: report.afterStop, table: ends.table }, 'somebody writes still; it is drained once more');
      report = { ...report, stoppedAtMs: step.nowMs(), afterStop: 0 };
    }
  },
  verify: nobodyWrites,
};

function wordsOf(found: Compared, named: readonly string[]): string {
  if (found.differing.length > 0) return `${named.join('; ')}${found.more ? '; and more' : ''}`;
  return `the sums differ; ${found.settled === 0 ? 'no key was found that does' : `${found.settled} keys that did were the same when read once more: somebody writes`}`;
}

const verifyCopy: StepDefinition = {
  async inspect(step) {
    const position = readPosition(step.input['position']);
    return { satisfied: false, summary: `both tables are to be read${position === undefined ? '' : ', and what is left in the stream to be applied before'}` };
  },
  async guard(step) {
    const ends = await endsOf(step);
    const from = await describeTable(ends.source.client, ends.table, step.signal);
    return guarded([check('source', from.status === 'ACTIVE', `${ends.table} of ${ends.source.name} is ACTIVE`, from.status)]);
  },
  /**
   * One late writer, or one item that time to live deletes after the drain, must not cost the copy: what is left in the stream is applied
   * here, before the tables are compared and once more when they differ. When nothing came meanwhile the difference is of another kind, and stays.
   */
  async apply(step) {
    const ends = await endsOf(step);
    const { from, to } = await bothTables(step, ends);
    const earlier = followReport(step.previousDetails);
    const position = earlier?.position ?? readPosition(step.input['position']);
    if (position !== undefined) refuseOther(position, from, to);
    let report: FollowReport | undefined = position === undefined ? undefined : { kind: 'dynamodb.follow/1', position, stoppedAtMs: step.nowMs(), afterStop: 0, late: earlier?.late ?? 0 };

    /** @returns how many changes came. */
    async function drain(): Promise<number> {
      if (report === undefined) return 0;
      const before = { ...report, stoppedAtMs: step.nowMs() };
      const took = (progress: FollowProgress): void => {
        report = { ...before, position: progress.position, late: (before.late ?? 0) + progress.applied };
      };
      const result = await applyStream(step, ends, to, () => report!, { stoppedAtMs: before.stoppedAtMs, quietMs: step.input['quiet'] as number }, took);
      took(result);
      return result.applied;
    }

    const side = async (end: End, table: string): Promise<ReadSide> => ({ items: end.items, table, throttle: await throttleOf(step, end, table, 'read', step.signal) });
    const [source, target] = [await side(ends.source, ends.table), await side(ends.target, ends.targetTable)];
    await drain();
    let rounds = 0;
    let found: Compared;
    do {
      rounds += 1;
      found = await compareTables({ source, target, key: from.key, parallel: step.input['parallel'] as number, show: step.input['show'] as number, signal: step.signal, onProgress: (progress) => step.heartbeat({ ...report, progress }) });
    } while (!found.same && rounds < (step.input['rounds'] as number) && (await drain()) > 0);
    // What came while they were read, into parts that were read already, shows in no sum.
    if (found.same) await drain();
    const named = found.differing.map(({ key, how }) => `${key}: ${how === 'missing' ? 'missing in the copy' : how === 'too much' ? 'only in the copy' : how}`);
    const late = report?.late ?? 0;
    return {
      outcome: late > 0 ? 'changed' : 'already-satisfied',
      summary: `both tables were read${rounds === 1 ? '' : ` ${rounds} times`}${late === 0 ? '' : `; ${late} changes came late and were applied`}`,
      after: { applied: late },
      facts: {
        same: found.same, difference: found.same ? null : wordsOf(found, named), rounds, late, ...(report === undefined ? {} : { position: report.position as unknown as Json }),
        items: found.source.items, sum: `${found.source.sum1}:${found.source.sum2}`, targetItems: found.target.items, targetSum: `${found.target.sum1}:${found.target.sum2}`, differing: named,
      },
    };
  },
  /** Judges what apply has read: reading both again would cost as much once more. */
  async verify(step) {
    const { same, difference, items, targetItems } = step.call.facts;
    const { table, targetTable } = await endsOf(step);
    const words = typeof difference === 'string' ? difference : 'nothing was compared';
    return {
      checks: [
        check('items', typeof items === 'number' && items === targetItems, `${String(items)} items, counted by reading`, String(targetItems)),
        check('content', same === true, `every item of ${table} in ${targetTable}, and no other`, same === true ? 'the same: both were read to their end' : words, 'stop the writers, then begin a new run with the position of this one: it drains the stream once more and reads nothing else again; what differs then was written to the copy by somebody else'),
      ],
      summary: same === true ? `both tables hold the same ${String(items)} items` : words,
    };
  },
};

const settings: StepDefinition = {
  async inspect(step) {
    const { target, targetTable } = await endsOf(step);
    // An earlier step makes it: before the first change there is nothing to compare with.
    if ((await findTable(target.client, targetTable, step.signal)) === undefined) return { satisfied: false, summary: `${targetTable} is not there yet` };
    const { missing, unsupported } = await settingsFor(step);
    return { satisfied: missing.words.length === 0, summary: missing.words.length === 0 ? 'nothing is missing' : `missing: ${missing.words.join(', ')}`, before: { missing: missing.words }, facts: { unsupported } };
  },
  async guard(step) {
    const ends = await endsOf(step);
    const from = await describeTable(ends.source.client, ends.table, step.signal);
    return guarded([check('source', true, `settings of ${ends.table} can be read`, from.status)]);
  },
  async apply(step) {
    const { ends, missing, all, unsupported } = await settingsFor(step);
    if (missing.settings.stream !== null && all.found.stream !== null) throw new HoldfastError('settings-stream', `table ${ends.targetTable} has a stream of ${all.found.stream}, ${ends.table} one of ${missing.settings.stream}: the view of a stream cannot be changed`, { next: 'turn the stream of the copy off, wait, and retry; or leave it out: stream: false' });
    const set = await applySettings(ends.target.client, ends.targetTable, { ...all.found, ...missing.settings }, step.signal);
    return { outcome: set.length === 0 ? 'already-satisfied' : 'changed', summary: set.length === 0 ? 'nothing was missing' : `set: ${set.join(', ')}`, after: { set }, facts: { set, unsupported } };
  },
  async verify(step) {
    const { missing, unsupported } = await settingsFor(step);
    return {
      checks: [check('settings', missing.words.length === 0, 'those of the source', missing.words.length === 0 ? `the same${unsupported.length === 0 ? '' : `, as far as the server knows them: not ${unsupported.join(', ')}`}` : `missing: ${missing.words.join(', ')}`)],
      summary: `${missing.words.length === 0 ? 'set' : missing.words.join(', ')}; auto scaling, alarms and resource policies are not brought along: set them yourself`,
    };
  },
};

async function settingsFor(step: StepRun) {
  const ends = await endsOf(step);
  const { from, to } = await bothTables(step, ends);
  const read = await readSettings(ends.source.client, from, step.signal);
  const wanted = step.input['stream'] === true ? read : { ...read, stream: null };
  const found = await readSettings(ends.target.client, to, step.signal);
  return { ends, all: { wanted, found }, missing: missingSettings(wanted, found), unsupported: unknownSettings(wanted, found) };
}

export const dynamodbCopySteps: Readonly<Record<string, StepDefinition>> = { 'dynamodb.createTarget': createTarget, 'dynamodb.copy': copy, 'dynamodb.follow': follow, 'dynamodb.verifyCopy': verifyCopy, 'dynamodb.settings': settings };
