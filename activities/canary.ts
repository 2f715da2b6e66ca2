import { HoldfastError } from '../src/model/errors.ts';
import { formatDuration } from '../src/model/units.ts';
import { countCanaryRows, countOfRanges, EMPTY_CANARY, ensureCanaryTable, runCanary, type CanaryState, type Ranges } from '../src/systems/canary.ts';
import { nodeStatus, withNode } from '../src/systems/postgres-node.ts';
import { readEndpoint } from '../src/systems/endpoint.ts';
import { check, datastoreFor, endpointSecret, guarded, nodeInput, pause, secretRegion, type StepDefinition, type StepRun } from './step-definition.ts';

/** The execution's own rows: a run id, so that a later execution of the same workflow id never counts them. */
function executionName(step: StepRun): string {
  return `${step.call.workflowId}/${step.call.runId}`;
}

const start: StepDefinition = {
  async guard(step) {
    const endpoint = await readEndpoint(step.context, endpointSecret(step), secretRegion(step));
    return guarded([check('application secret', true, 'host, port, username, password, dbname', `${endpoint.user}@${endpoint.host}:${endpoint.port}/${endpoint.database}`)]);
  },
  async apply(step) {
    if (step.call.mode === 'planned') await ensureCanaryTable(step.context, datastoreFor(step), nodeInput(step, 'primary'), endpointSecret(step), secretRegion(step));
    return { outcome: 'changed', summary: 'canary begins', facts: { execution: executionName(step) } };
  },
  async verify(step) {
    if (step.call.mode === 'forced') return { checks: [], summary: 'the primary is down: the canary tries until the new one takes its writes' };
    const primary = nodeInput(step, 'primary');
    const deadline = step.nowMs() + 15_000;
    for (;;) {
      const rows = await withNode(step.context, datastoreFor(step), primary, (client) => countCanaryRows(client, executionName(step), [[1, Number.MAX_SAFE_INTEGER]]));
      if (rows >= 3) return { checks: [check('canary', true, 'acknowledged writes', `${rows} rows`)], summary: `${rows} writes through the application's own endpoint` };
      if (step.nowMs() > deadline) return { checks: [check('canary', false, 'at least 3 rows within 15 s', `${rows} rows`, "check that the application's role may log in and insert into holdfast.canary")], summary: 'the canary does not write' };
      await pause(100, step.signal);
    }
  },
  async undo() {
    return { outcome: 'changed', summary: 'canary ended' };
  },
  background: { name: 'write', run: write },
};

async function write(step: StepRun) {
  // What the canary before this one reported last. It may have been lost before its first report; its rows are there all the same.
  const resumed = (step.previousDetails as CanaryState | null | undefined) ?? EMPTY_CANARY;
  const startState: CanaryState = step.attempt === 1 ? EMPTY_CANARY : { ...resumed, nextSequence: step.attempt * 1_000_000_000 + 1 };
  const state = await runCanary(step.context, {
    execution: executionName(step),
    datastore: datastoreFor(step),
    secretId: endpointSecret(step),
    secretRegion: secretRegion(step),
    oldPrimary: nodeInput(step, 'primary'),
    intervalMs: step.input['intervalMs'] as number,
    settleMs: step.input['settle'] as number,
    maximumMs: step.input['maximum'] as number,
    signal: step.signal,
    nowMs: step.nowMs,
    onState: step.heartbeat,
    start: startState,
  });
  const refusedWindowMs = state.lastOnOldMs === null || state.firstOnNewMs === null ? null : state.firstOnNewMs - state.lastOnOldMs;
  return {
    summary: `${state.acknowledged} writes acknowledged`,
    facts: {
      acknowledged: state.acknowledged,
      ranges: state.ranges,
      refusedWindowMs,
      lastOnOldMs: state.lastOnOldMs,
      firstGoodWriteAtMs: state.firstOnNewMs,
      longestGapMs: state.longestGapMs,
      unanswered: state.unanswered,
      lastError: state.firstOnNewMs === null ? state.lastError : null,
      canaries: step.attempt,
    },
  };
}

const verify: StepDefinition = {
  async verify(step) {
    const primary = nodeInput(step, 'primary');
    const datastore = datastoreFor(step);
    const { acknowledged, ranges, refusedWindowMs, firstGoodWriteAtMs, note, lastError, canaries } = step.call.facts;
    if (typeof note === 'string') return { checks: [check('canary', false, 'a canary that reported', note, 'lost writes were not measured by it')], summary: note };
    const known = (ranges as unknown as Ranges | undefined) ?? [];
    const endpoint = await readEndpoint(step.context, endpointSecret(step), secretRegion(step));
    const status = await nodeStatus(step.context, datastore, primary);
    if (!status.reachable) throw new HoldfastError('primary-unreachable', `${primary} does not answer: ${status.error}`, { retryable: true });
    // Without any acknowledged write there may be no table to read.
    const found = known.length === 0 ? 0 : await withNode(step.context, datastore, primary, (client) => countCanaryRows(client, executionName(step), known), { database: endpoint.database });
    const expected = countOfRanges(known);
    const lost = expected - found;
    const checks = [check('good write on the new primary', typeof firstGoodWriteAtMs === 'number', `an acknowledged write on ${primary}`, typeof firstGoodWriteAtMs === 'number' ? 'yes' : `none (${String(lastError ?? 'no error seen')})`, "check that the application's role can write there")];
    const notes = [expected === acknowledged ? null : `${Number(acknowledged) - expected} acknowledged writes were not remembered one by one`, typeof canaries === 'number' && canaries > 1 ? `the canary changed workers ${canaries - 1} time(s): what it did between its last report and each change is not counted, and its times are upper bounds` : null].filter((item) => item !== null);
    return {
      checks,
      summary: `${expected} acknowledged writes read back, ${lost} lost${typeof refusedWindowMs === 'number' ? `, refused for ${formatDuration(refusedWindowMs)}` : ''}${notes.length > 0 ? `; ${notes.join('; ')}` : ''}`,
      facts: { lost, readBack: found, notes },
    };
  },
};

export const canarySteps: Readonly<Record<string, StepDefinition>> = { 'canary.start': start, 'canary.verify': verify };
