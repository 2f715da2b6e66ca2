import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { DeterminismViolationError } from '@temporalio/workflow';
import { DefaultLogger, makeTelemetryFilterString, Runtime, Worker } from '@temporalio/worker';
import { beforeAll, describe, expect, it } from 'vitest';
import { bundleWorkflows, type WorkflowBundle } from '../../src/engine/bundle.ts';
import * as workflows from '../../workflows/index.ts';
import { EARLIER, HISTORIES, History, activitiesIn, workflowTypeOf } from './histories.ts';

const NEXT = 'running executions of this type would break with this change: guard it with patched(), or, when there are none, record anew (test/replay/README.md)';

let workflowBundle: WorkflowBundle;
beforeAll(async () => {
  // That a tampered history does not fit is what is expected here, not a warning.
  Runtime.install({ logger: new DefaultLogger('ERROR'), telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'ERROR', other: 'ERROR' }), forward: {} } } });
  workflowBundle = await bundleWorkflows({ encrypted: false });
}, 120_000);

const names = readdirSync(HISTORIES).filter((file) => file.endsWith('.binpb')).map((file) => file.slice(0, -'.binpb'.length)).sort();
const read = (name: string): ReturnType<typeof History.decode> => History.decode(readFileSync(join(HISTORIES, `${name}.binpb`)));
const replay = (history: ReturnType<typeof History.decode>): Promise<void> => Worker.runReplayHistory({ workflowBundle }, history, 'replayed');

describe('recorded histories', () => {
  it('there is one of each workflow type at least', () => {
    const recorded = new Set(names.map((name) => workflowTypeOf(read(name))));
    expect([...recorded].sort()).toEqual(Object.keys(workflows).sort());
    expect(names).toEqual(expect.arrayContaining(['failover.planned', 'failover.forced', 'failover.undone']));
  });

  it.each(names)('%s replays with the workflows of today', async (name) => {
    const why = await replay(read(name)).then(() => null, (error: unknown) => `${String(error)}\n${NEXT}`);
    expect(why).toBeNull();
  }, 60_000);
});

describe('histories recorded with an earlier version', () => {
  const earlier = readdirSync(EARLIER).filter((file) => file.endsWith('.binpb')).sort();

  it.each(earlier)('%s replays with the workflows of today', async (file) => {
    await expect(replay(History.decode(readFileSync(join(EARLIER, file))))).resolves.toBeUndefined();
  }, 60_000);
});

describe('a decision that came together with the loss of a worker', () => {
  it('is judged in the order in which it was taken', async () => {
    // Recorded by test/workflow/killed-at-each-step.test.ts: `markDone` and the timeout that parked its step lie in one workflow task,
    // and a query had shown the timeout to the worker before.
    const history = History.decode(readFileSync(join(HISTORIES, '../interleaved/failover.decided-as-a-worker-was-lost.binpb')));
    expect(history.events.some((event) => event.workflowExecutionUpdateAcceptedEventAttributes?.acceptedRequest?.input?.name === 'markDone')).toBe(true);
    await expect(replay(history)).resolves.toBeUndefined();
  }, 60_000);
});

describe('a history that does not fit the workflows', () => {
  // A lock that nobody had to look at asked for none.
  it.each(names.filter((name) => activitiesIn(read(name)).length > 0))('%s with another activity in the place of one is found out', async (name) => {
    const history = read(name);
    const scheduled = history.events.filter((event) => event.activityTaskScheduledEventAttributes != null);
    expect(scheduled.length).toBe(activitiesIn(history).length);
    // In the middle, so that what comes before it fits.
    const victim = scheduled[Math.floor(scheduled.length / 2)]!;
    victim.activityTaskScheduledEventAttributes!.activityType = { name: 'something.else:apply' };
    await expect(replay(history)).rejects.toThrow(DeterminismViolationError);
  }, 60_000);

  it('a promotion that was never asked for is found out', async () => {
    const history = read('failover.planned');
    const at = history.events.findIndex((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'postgres.promote:apply');
    expect(at).toBeGreaterThan(0);
    const id = history.events[at]!.eventId;
    const left = history.events.filter((event) => {
      const of = event.activityTaskStartedEventAttributes?.scheduledEventId ?? event.activityTaskCompletedEventAttributes?.scheduledEventId;
      return event.eventId !== id && String(of) !== String(id);
    });
    history.events.splice(0, history.events.length, ...left);
    // Ids stay without gaps: only the missing activity is wrong with it.
    renumber(history);
    await expect(replay(history)).rejects.toThrow(DeterminismViolationError);
  }, 60_000);
});

/** Gives the events ids without gaps again, and every reference to an event its new id. */
function renumber(history: ReturnType<typeof History.decode>): void {
  const ids = new Map(history.events.map((event, index) => [String(event.eventId), index + 1]));
  for (const event of history.events) rewrite(event as unknown as Record<string, unknown>, ids);
}

function rewrite(value: Record<string, unknown>, ids: ReadonlyMap<string, number>): void {
  for (const [key, item] of Object.entries(value)) {
    if (item === null || typeof item !== 'object' || item instanceof Uint8Array) continue;
    const isLong = 'low' in item && 'high' in item;
    if (isLong && /[eE]ventId$/.test(key)) {
      const id = ids.get(String(item));
      if (id !== undefined) value[key] = (item.constructor as unknown as { fromNumber(id: number): unknown }).fromNumber(id);
    } else if (!isLong) rewrite(item as Record<string, unknown>, ids);
  }
}
