import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { formatDuration } from '../src/model/units.ts';
import { groupLags, kafkaName, type GroupLag } from '../src/systems/kafka.ts';
import { check, guarded, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

const POLL_MS = 1000;
/** Partitions that are named. */
const NAMED = 3;

function look(step: StepRun): Promise<GroupLag[]> {
  const name = kafkaName(step.context, optionalText(step, 'cluster'));
  return groupLags(step.context, name, step.input['groups'] as string[], step.input['topics'] as string[], step.signal);
}

function stateFits(wanted: unknown, state: string | null): boolean {
  if (wanted === 'any') return state !== null && !/^dead$/i.test(state);
  return state?.toLowerCase() === wanted;
}

function worst(found: GroupLag): string {
  const behind = found.partitions.filter(({ lag }) => lag > 0n).toSorted((a, b) => (b.lag > a.lag ? 1 : -1));
  return behind.slice(0, NAMED).map(({ topic, partition, lag, committed }) => `${topic}[${partition}] ${lag}${committed === null ? ' (never committed)' : ''}`).join(', ') + (behind.length > NAMED ? ', ...' : '');
}

/** What must hold at once, and what time may bring. */
function checksOf(step: StepRun, found: GroupLag): { readonly firm: CheckResult[]; readonly waited: CheckResult[] } {
  const { group, state, partitions, lag, missingTopics } = found;
  if (state === null) return { firm: [], waited: [check(`group ${group}`, false, 'known to the cluster', 'unknown', 'correct the name; a group whose offsets ran out is forgotten')] };
  const strange = partitions.flatMap((one) => (one.strange === null ? [] : [`${one.topic}[${one.partition}]: ${one.strange}`]));
  const maxLag = BigInt(step.input['maxLag'] as number);
  const wanted = step.input['state'];
  return {
    firm: [
      check(`topics of ${group}`, missingTopics.length === 0 && partitions.length > 0, 'at least one that is there', missingTopics.length > 0 ? `missing: ${missingTopics.join(', ')}` : partitions.length === 0 ? 'it has committed for none' : `${partitions.length} partitions`, 'name them by `topics`'),
      check(`offsets of ${group}`, strange.length === 0, 'offsets of this log', strange.length === 0 ? 'of this log' : strange.slice(0, NAMED).join('; '), 'reset the group on purpose (kafka-consumer-groups --reset-offsets), once it is known what was lost'),
    ],
    waited: [
      check(`state of ${group}`, stateFits(wanted, state), wanted === 'any' ? 'not dead' : String(wanted), state, wanted === 'empty' ? 'stop its consumers' : 'look at its consumers'),
      check(`lag of ${group}`, lag <= maxLag, `at most ${maxLag}`, lag <= maxLag ? String(lag) : `${lag}: ${worst(found)}`, 'look at its consumers; retry once they have caught up'),
    ],
  };
}

const lagGate: StepDefinition = {
  async guard(step) {
    // Groups may catch up until its turn comes: here only what no waiting helps.
    const name = kafkaName(step.context, optionalText(step, 'cluster'));
    try {
      const found = await look(step);
      return { ...guarded([check(`Kafka ${name} answers`, true, 'a reply', 'answers'), ...found.flatMap((one) => checksOf(step, one).firm)]), summary: found.map(({ group, lag, state }) => `${group}: ${state === null ? 'unknown' : `${lag} behind, ${state}`}`).join('; ') };
    } catch (error) {
      step.signal.throwIfAborted();
      if (error instanceof HoldfastError && error.code.startsWith('kafka-')) return guarded([check(`Kafka ${name} answers`, false, 'a reply', error.message, error.next)]);
      throw error;
    }
  },
  async verify(step): Promise<PhaseResult> {
    const started = step.nowMs();
    const wait = step.input['wait'] as number;
    for (;;) {
      const found = await look(step).catch((error: unknown) => {
        // A broker that is being moved comes back.
        if (error instanceof HoldfastError && error.retryable && step.nowMs() - started < wait) return null;
        throw error;
      });
      if (found !== null) {
        const parts = found.map((one) => checksOf(step, one));
        const [firm, waited] = [parts.flatMap((part) => part.firm), parts.flatMap((part) => part.waited)];
        const lag = found.reduce((sum, one) => sum + one.lag, 0n);
        step.heartbeat({ lag: String(lag) });
        const checks = [...firm, ...waited];
        if (checks.every(({ ok }) => ok) || firm.some(({ ok }) => !ok) || step.nowMs() - started >= wait) {
          const waitedMs = step.nowMs() - started;
          return { ...guarded(checks), summary: `${found.map((one) => `${one.group}: ${one.lag} behind, ${one.state ?? 'unknown'}`).join('; ')}, after ${formatDuration(waitedMs)}`, facts: { lag: Number(lag), partitions: found.reduce((sum, one) => sum + one.partitions.length, 0), waitedMs } };
        }
      }
      await pause(Math.min(POLL_MS, Math.max(50, wait - (step.nowMs() - started))), step.signal);
    }
  },
};

export const kafkaSteps: Readonly<Record<string, StepDefinition>> = { 'kafka.lagGate': lagGate };
