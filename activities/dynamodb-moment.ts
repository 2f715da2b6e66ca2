import { createHash } from 'node:crypto';
import type { CheckResult } from '../src/model/api.ts';
import { DRILL_TABLE_PREFIX, momentWithin, whyNotDrillTable } from '../src/model/dynamodb-native.ts';
import type { Item } from '../src/model/dynamodb-item.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { parseMoment } from '../src/model/s3-versions.ts';
import { formatDuration } from '../src/model/units.ts';
import { CLOCK, describeTable, findTable, type TableFacts } from '../src/systems/dynamodb.ts';
import { sumTable } from '../src/systems/dynamodb-compare.ts';
import { awaitRestored, beginRestore, deleteDrillTable, markerKey, readMarker, recoveryWindow, removeMarker, restoredFrom, whyOtherRestore, writeMarker } from '../src/systems/dynamodb-moment.ts';
import { createThrottle } from '../src/systems/dynamodb-throttle.ts';
import { openEnd } from './dynamodb-copy.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

async function placeOf(step: StepRun) {
  const end = await openEnd(step, 'datastore');
  return { end, access: { client: end.client, signal: step.signal } };
}

/** Of this execution and step: a repeated try finds its own. */
function markerKeyOf(step: StepRun, table: TableFacts): Item {
  const types = Object.fromEntries((table.description.AttributeDefinitions ?? []).map(({ AttributeName, AttributeType }) => [AttributeName ?? '', AttributeType ?? '']));
  return markerKey(table.key, types, createHash('sha256').update(step.call.key).digest('hex').slice(0, 16));
}

function optionalFact(step: StepRun, name: string): string | undefined {
  const fact = step.call.facts[name];
  return typeof fact === 'string' ? fact : undefined;
}

interface MarkerReport {
  readonly before: string;
  readonly moment: string;
}

const marker: StepDefinition = {
  async inspect(step) {
    const { end } = await placeOf(step);
    const table = await describeTable(end.client, textInput(step, 'table'), step.signal);
    const found = await readMarker(end.items, table.name, markerKeyOf(step, table), step.signal);
    return { satisfied: false, summary: found === undefined ? 'no marker is written' : 'a marker of an earlier try is there', before: { there: found !== undefined } };
  },
  async guard(step) {
    const { end } = await placeOf(step);
    const table = await describeTable(end.client, textInput(step, 'table'), step.signal);
    return guarded([check('table', table.status === 'ACTIVE', 'ACTIVE', table.status)]);
  },
  async apply(step) {
    const { end } = await placeOf(step);
    const apartMs = step.input['apart'] as number;
    const table = await describeTable(end.client, textInput(step, 'table'), step.signal);
    const key = markerKeyOf(step, table);
    const before = await writeMarker(end.items, table.name, key, 'before', step.signal);
    // A whole second lies between them: that is the finest that can be restored. By the clock of this worker, which the service's is near to.
    await pause(apartMs, step.signal);
    const moment = new Date(Math.floor(step.nowMs() / 1000) * 1000).toISOString();
    await pause(apartMs, step.signal);
    const after = await writeMarker(end.items, table.name, key, 'after', step.signal);
    const said: MarkerReport & { after: string } = { before, moment, after };
    return { outcome: 'changed', summary: `an item of ours was written into ${table.name} before and after ${moment}`, after: { ...said }, facts: { key: key as unknown as Json, ...said } };
  },
  async verify(step) {
    const { end } = await placeOf(step);
    const table = await describeTable(end.client, textInput(step, 'table'), step.signal);
    const found = await readMarker(end.items, table.name, markerKeyOf(step, table), step.signal);
    const wanted = optionalFact(step, 'after');
    return {
      checks: [check('marker', wanted !== undefined && found === wanted, 'what was written after the moment', found === undefined ? 'no marker' : found === wanted ? 'so' : 'another value', 'somebody deleted or overwrote it: repeat the step')],
      summary: `the marker is in ${table.name}`,
    };
  },
  async undo(step) {
    const { end } = await placeOf(step);
    const table = await describeTable(end.client, textInput(step, 'table'), step.signal);
    await removeMarker(end.items, table.name, markerKeyOf(step, table), step.signal);
    return { outcome: 'changed', summary: `the marker is gone from ${table.name}` };
  },
};

const removeMarkerStep: StepDefinition = {
  async inspect(step) {
    const { end } = await placeOf(step);
    const key = step.input['key'] as Item | null | undefined;
    if (key === undefined || key === null) return { satisfied: false, summary: 'its key is not known yet' };
    const found = await readMarker(end.items, textInput(step, 'table'), key, step.signal);
    return { satisfied: found === undefined, summary: found === undefined ? 'it is not there' : 'it is there' };
  },
  guard: async (step) => {
    const { end } = await placeOf(step);
    const table = await describeTable(end.client, textInput(step, 'table'), step.signal);
    return guarded([check('table', table.status === 'ACTIVE', 'ACTIVE', table.status)]);
  },
  async apply(step) {
    const { end } = await placeOf(step);
    const key = step.input['key'] as Item | null | undefined;
    if (key === undefined || key === null) throw new HoldfastError('step-input', `step ${step.call.step} (dynamodb.removeMarker) has no key`, { next: 'give key: ${steps.<id of dynamodb.marker>.key}' });
    await removeMarker(end.items, textInput(step, 'table'), key, step.signal);
    return { outcome: 'changed', summary: `the marker is gone from ${textInput(step, 'table')}` };
  },
  async verify(step) {
    const { end } = await placeOf(step);
    const found = await readMarker(end.items, textInput(step, 'table'), step.input['key'] as Item, step.signal);
    return { checks: [check('marker', found === undefined, 'no marker', found === undefined ? 'none' : 'it is there', 'repeat the step')], summary: `no marker in ${textInput(step, 'table')}` };
  },
};

function momentInput(step: StepRun): number | null {
  const text = optionalText(step, 'moment');
  if (text === undefined) return null;
  const ms = parseMoment(text);
  if (ms === undefined) throw new HoldfastError('step-input', `step ${step.call.step}: moment "${text}" is no time`, { next: 'write it as 2026-11-21T03:15:00Z' });
  return ms;
}

const restoreToMoment: StepDefinition = {
  async inspect(step) {
    const { end } = await placeOf(step);
    const as = textInput(step, 'as');
    const found = await findTable(end.client, as, step.signal);
    const from = found === undefined ? undefined : restoredFrom(found);
    return { satisfied: false, summary: found === undefined ? `there is no table ${as}` : `table ${as} is there, ${from === undefined ? 'not restored' : `restored from ${from.tableArn}`}`, before: { there: found !== undefined } };
  },
  async guard(step) {
    const { end, access } = await placeOf(step);
    const source = await describeTable(end.client, textInput(step, 'table'), step.signal);
    const as = textInput(step, 'as');
    const window = await recoveryWindow(access, source.name);
    const checks: CheckResult[] = [check('point-in-time recovery', window?.enabled === true, 'on', window === undefined ? 'this server does not know it' : window.enabled ? 'on' : 'off', `aws dynamodb update-continuous-backups --table-name ${source.name} --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true; what was before cannot be restored`)];
    const moment = momentInput(step);
    if (window?.enabled === true && moment !== null) {
      const within = momentWithin(window, moment, step.nowMs());
      checks.push(check('moment', within.is !== 'outside', 'within what can be restored', within.is === 'outside' ? within.why : within.is === 'wait' ? 'in a few minutes' : new Date(moment).toISOString(), 'correct the moment'));
    }
    const there = await findTable(end.client, as, step.signal);
    const other = there === undefined ? null : as.startsWith(DRILL_TABLE_PREFIX) ? whyOtherRestore(there, { source, from: { momentMs: moment }, sinceMs: step.nowMs() }) : 'one is there';
    checks.push(check('new table', other === null || step.previousDetails !== undefined && step.previousDetails !== null, `no table ${as}`, there === undefined ? 'none' : (other ?? 'of this restore'), 'nothing was changed; give another name'));
    return guarded(checks);
  },
  async apply(step) {
    const { end, access } = await placeOf(step);
    const source = await describeTable(end.client, textInput(step, 'table'), step.signal);
    const as = textInput(step, 'as');
    const [waitMs, pollMs] = [step.input['wait'] as number, step.input['poll'] as number];
    const earlier = step.previousDetails as { startedAtMs?: number } | null | undefined;
    const startedAtMs = earlier?.startedAtMs ?? step.nowMs();
    const momentMs = momentInput(step);
    // A restore whose answer was lost is known again by this: it is at the server before the service is asked.
    await step.journal({ startedAtMs });
    if (momentMs !== null) await untilWithin(step, access, source.name, momentMs, startedAtMs + waitMs, pollMs);
    // A rehearsal's table is read once and goes.
    const request = { source, as, from: { momentMs }, sinceMs: startedAtMs, onDemand: as.startsWith(DRILL_TABLE_PREFIX) };
    await beginRestore(access, request);
    const made = await awaitRestored(access, request, { deadlineMs: startedAtMs + waitMs, pollMs, onProgress: (status) => step.heartbeat({ startedAtMs, status }) });
    const restoreMs = step.nowMs() - startedAtMs;
    const is = restoredFrom(made)?.momentMs ?? momentMs;
    return { outcome: 'changed', summary: `table ${as} is there after ${formatDuration(restoreMs)}, as ${source.name} was at ${is === null ? 'the newest moment' : new Date(is).toISOString()}`, after: { table: as }, facts: { table: as, moment: is === null ? null : new Date(is).toISOString(), restoreMs } };
  },
  async verify(step) {
    const { end } = await placeOf(step);
    const as = textInput(step, 'as');
    const [source, made] = [await describeTable(end.client, textInput(step, 'table'), step.signal), await describeTable(end.client, as, step.signal)];
    const from = restoredFrom(made);
    const wanted = momentInput(step);
    const checks: CheckResult[] = [check('restored', from?.tableArn === source.arn, `from ${source.arn}`, from?.tableArn ?? 'it is no restored table')];
    if (wanted !== null && from?.momentMs != null) checks.push(check('moment', Math.floor(from.momentMs / 1000) === Math.floor(wanted / 1000), new Date(wanted).toISOString(), new Date(from.momentMs).toISOString(), 'the service restored another moment than was asked for: do not use this table'));
    const proved: string[] = [];
    const key = step.input['markerKey'] as Item | undefined;
    if (key !== undefined && key !== null) {
      const found = await readMarker(end.items, as, key, step.signal);
      const before = optionalText(step, 'markerBefore');
      checks.push(check('marker', found === before, 'what was written before the moment, not what was written after it', found === undefined ? 'no marker: the table is of an earlier moment' : found === before ? 'so' : found === optionalText(step, 'markerAfter') ? 'what was written after it: the table is of a later moment' : 'another value', 'this table is not of the moment that was asked for'));
      if (found === before) proved.push('the marker written before the moment is there, the one after it is not');
    }
    const throttle = await createThrottle({ client: end.client, table: as, unit: 'read', share: 1, signal: step.signal, clock: CLOCK });
    let read = 0;
    const sums = await sumTable({ items: end.items, table: as, throttle }, { parallel: 4, signal: step.signal, onItems: (items) => step.heartbeat({ read: (read += items) }) });
    proved.push(`every item was read: ${sums.items}`);
    return { checks, summary: proved.join('; '), facts: { items: sums.items, sum: `${sums.sum1}:${sums.sum2}`, proved: proved.join('; ') } };
  },
};

/** The service is some minutes behind: a moment just now has to be waited for. */
async function untilWithin(step: StepRun, access: { client: Awaited<ReturnType<typeof openEnd>>['client']; signal: AbortSignal }, table: string, momentMs: number, deadlineMs: number, pollMs: number): Promise<void> {
  for (;;) {
    const window = await recoveryWindow(access, table);
    if (window === undefined) throw new HoldfastError('restore-refused', 'this server does not know point-in-time recovery', { next: 'restore a backup instead' });
    const within = momentWithin(window, momentMs, step.nowMs());
    if (within.is === 'within') return;
    if (within.is === 'outside') throw new HoldfastError('restore-refused', `${table} cannot be restored to ${new Date(momentMs).toISOString()}: ${within.why}`, { next: 'nothing was changed; correct the moment' });
    if (step.nowMs() > deadlineMs) throw new HoldfastError('restore-late', `${new Date(momentMs).toISOString()} cannot be restored yet: the newest moment is ${window.latestMs === null ? 'not said' : new Date(window.latestMs).toISOString()}`, { retryable: true, next: 'retry, or raise wait' });
    await pause(pollMs, step.signal);
  }
}

const removeRestored: StepDefinition = {
  async inspect(step) {
    const { end } = await placeOf(step);
    const as = textInput(step, 'as');
    const found = await findTable(end.client, as, step.signal);
    return { satisfied: found === undefined, summary: found === undefined ? `there is no table ${as}` : `table ${as} is ${found.status}` };
  },
  async guard(step) {
    const { end } = await placeOf(step);
    const as = textInput(step, 'as');
    const found = await findTable(end.client, as, step.signal);
    const why = found === undefined ? (as.startsWith(DRILL_TABLE_PREFIX) ? null : `its name does not begin with ${DRILL_TABLE_PREFIX}`) : whyNotDrillTable({ name: as, restored: restoredFrom(found) !== undefined, protected: found.description.DeletionProtectionEnabled ?? false });
    return guarded([check('of a drill', why === null, 'a table that a drill restored', why ?? 'so', 'nothing else is ever deleted')]);
  },
  async apply(step) {
    const { access } = await placeOf(step);
    const as = textInput(step, 'as');
    const done = await deleteDrillTable(access, as, 1000);
    return { outcome: done === 'deleted' ? 'changed' : 'already-satisfied', summary: `table ${as} is gone` };
  },
  async verify(step) {
    const { end } = await placeOf(step);
    const found = await findTable(end.client, textInput(step, 'as'), step.signal);
    return { checks: [check('gone', found === undefined, 'no such table', found?.status ?? 'none')], summary: found === undefined ? 'it is gone' : `it is ${found.status}` };
  },
};

export const dynamodbMomentSteps: Readonly<Record<string, StepDefinition>> = { 'dynamodb.marker': marker, 'dynamodb.removeMarker': removeMarkerStep, 'dynamodb.restoreToMoment': restoreToMoment, 'dynamodb.removeRestored': removeRestored };
