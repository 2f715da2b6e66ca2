import { Context as ActivityContext } from '@temporalio/activity';
import { ActivityCancelledError } from '@temporalio/client';
import type { z } from 'zod';
import { CATALOGUE, PHASES, phaseActivity, stepKind } from '../src/model/catalogue.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import type { PhaseCall } from '../src/model/step-call.ts';
import type { Context } from '../src/systems/context.ts';
import { checkStanding, checkUndo } from '../src/systems/lock.ts';
import { redactValue, type Logger } from '../src/systems/log.ts';
import { auroraSteps } from './aurora.ts';
import { canarySteps } from './canary.ts';
import { chaosSteps } from './chaos.ts';
import { controllerSteps } from './controller.ts';
import { dynamodbCopySteps } from './dynamodb-copy.ts';
import { dynamodbMomentSteps } from './dynamodb-moment.ts';
import { edgeSteps } from './edge.ts';
import { toActivityFailure } from './failure.ts';
import { byManagement } from './managed.ts';
import { kubernetesSteps } from './kubernetes.ts';
import { kafkaSteps } from './kafka.ts';
import { notifySteps } from './notify-step.ts';
import { postgresSteps } from './postgres.ts';
import { rebuildSteps } from './postgres-rebuild.ts';
import { redisSteps } from './redis.ts';
import { repointSteps } from './postgres-repoint.ts';
import { rdsRebuildSteps } from './rds-rebuild.ts';
import { rdsSteps } from './rds.ts';
import { rolloutSteps } from './rollout.ts';
import { route53Steps } from './route53.ts';
import { s3Steps } from './s3.ts';
import { searchSteps } from './search.ts';
import { secretSteps } from './secret.ts';
import type { StepDefinition, StepRun } from './step-definition.ts';
import { walSteps } from './wal.ts';

const HEARTBEAT_MS = 1000;

const DEFINITIONS: Readonly<Record<string, StepDefinition>> = {
  ...byManagement({ ...postgresSteps, ...rebuildSteps, ...repointSteps }, { rds: { ...rdsSteps, ...rdsRebuildSteps }, aurora: auroraSteps }),
  ...secretSteps,
  ...route53Steps,
  ...canarySteps,
  ...controllerSteps,
  ...rolloutSteps,
  ...kubernetesSteps,
  ...notifySteps,
  ...edgeSteps,
  ...redisSteps,
  ...walSteps,
  ...s3Steps,
  ...searchSteps,
  ...chaosSteps,
  ...kafkaSteps,
  ...dynamodbCopySteps,
  ...dynamodbMomentSteps,
};

export type PhaseActivities = Record<string, (call: PhaseCall) => Promise<PhaseResult>>;

/** One activity per phase of each step kind, named `<kind>:<phase>`. Refuses to start when catalogue and definitions disagree. */
export function createStepActivities(context: Context): PhaseActivities {
  const activities: PhaseActivities = {};
  for (const [name, kind] of Object.entries(CATALOGUE)) {
    if (kind.runsIn !== 'activity') continue;
    const definition = DEFINITIONS[name];
    for (const phase of PHASES) {
      const declared = kind.phases.includes(phase);
      const run = definition?.[phase];
      if (declared !== (run !== undefined)) {
        throw new HoldfastError('catalogue-mismatch', `step kind ${name}: phase ${phase} is ${declared ? 'declared but not defined' : 'defined but not declared'}`);
      }
      if (run !== undefined) activities[phaseActivity(name, phase)] = (call) => runPhase(context, call, run);
    }
    if (definition?.background !== undefined) {
      const { name: suffix, run } = definition.background;
      activities[`${name}:${suffix}`] = (call) => runPhase(context, call, run);
    }
  }
  return activities;
}

/**
 * The phases that only read, called without Temporal: for a plan made while it is down. What changes something cannot be called this
 * way at all.
 */
export function createPhaseReader(context: Context): (call: PhaseCall, signal: AbortSignal) => Promise<PhaseResult> {
  return async (call, signal) => {
    const run = call.phase === 'apply' || call.phase === 'undo' ? undefined : DEFINITIONS[call.uses]?.[call.phase];
    if (run === undefined) throw new HoldfastError('phase-not-readable', `${phaseActivity(call.uses, call.phase)} is no phase that only reads`);
    const log = context.log.child({ workflowId: call.workflowId, step: call.step, phase: call.phase, uses: call.uses });
    return redactValue(await run({ context, call, input: parseInput(call), signal, attempt: 1, previousDetails: null, nowMs: Date.now, heartbeat: () => {}, journal: () => Promise.resolve(), log }));
  };
}

async function runPhase(context: Context, call: PhaseCall, run: (step: StepRun) => Promise<PhaseResult>): Promise<PhaseResult> {
  const activity = ActivityContext.current();
  const log = context.log.child({ workflowId: call.workflowId, step: call.step, phase: call.phase, uses: call.uses });
  let details: unknown = activity.info.heartbeatDetails ?? null;
  const heartbeat = setInterval(() => activity.heartbeat(details), HEARTBEAT_MS);
  try {
    await mayChange(context, call, log);
    const result = await run({
      context,
      call,
      input: parseInput(call),
      signal: activity.cancellationSignal,
      attempt: activity.info.attempt,
      previousDetails: activity.info.heartbeatDetails ?? call.lastReport,
      nowMs: Date.now,
      heartbeat: (value) => {
        details = value;
      },
      journal: async (value) => {
        details = value;
        activity.heartbeat(value);
        // Not by the timer, and answered by the server: whoever comes after a lost worker finds it for certain.
        await activity.client.activity.heartbeat(activity.info.taskToken, value).catch((error: unknown) => {
          // That it is to be cancelled comes by the signal as well.
          if (!(error instanceof ActivityCancelledError)) throw new HoldfastError('journal', `what was about to be done could not be written down: ${(error as Error).message}`, { retryable: true, next: 'nothing was done since; it is tried again', cause: error });
        });
      },
      log,
    });
    log.info({ outcome: result.outcome, summary: result.summary }, 'phase ended');
    // History is read by more people than secrets are for.
    return redactValue(result);
  } catch (error) {
    log.warn({ err: error }, 'phase did not succeed');
    throw toActivityFailure(error, call.phase === 'apply' ? details : null);
  } finally {
    clearInterval(heartbeat);
  }
}

/** Whoever changes a datastore holds its lock, and says so each time right before the change. */
async function mayChange(context: Context, call: PhaseCall, log: Logger): Promise<void> {
  const { datastore } = call.with;
  if ((call.phase !== 'apply' && call.phase !== 'undo') || call.locks === undefined || typeof datastore !== 'string') return;
  const place = { client: ActivityContext.current().client, environment: context.config.environment, datastore };
  const epoch = Object.hasOwn(call.locks, datastore) ? call.locks[datastore] : undefined;
  if (call.phase === 'undo') {
    const unsure = epoch === undefined ? null : await checkUndo(place, call, epoch);
    if (unsure !== null) log.warn({ why: unsure }, 'undone without the lock: nobody else holds it, or nobody answers');
    return;
  }
  if (epoch === undefined) {
    throw new HoldfastError('lock-missing', `step ${call.step} would change datastore ${datastore}, which this execution did not lock; it locked ${Object.keys(call.locks).join(', ')}`, {
      next: 'name the datastore in the runbook or by a parameter: one that only comes up while it runs cannot be locked beforehand',
    });
  }
  try {
    await checkStanding(place, call, epoch);
  } catch (error) {
    // Asked and not answered is no reason to try the change: it ends here, as not begun.
    if (error instanceof HoldfastError && error.code === 'lock-unanswered') throw new HoldfastError(error.code, `nothing was changed: ${error.message}`, { next: error.next!, cause: error });
    throw error;
  }
}

function parseInput(call: PhaseCall): Readonly<Record<string, unknown>> {
  const kind = stepKind(call.uses);
  if (kind === undefined) throw new HoldfastError('unknown-step-kind', `there is no step kind "${call.uses}"`, { next: 'run `holdfast validate`' });
  const parsed = (kind.input as z.ZodType<Record<string, unknown>>).safeParse(call.with);
  if (!parsed.success) {
    const issues = parsed.error.issues.map((issue) => `${issue.path.join('.') || '(input)'}: ${issue.message}`).join('; ');
    throw new HoldfastError('step-input', `step ${call.step} (${call.uses}): ${issues}`, { next: 'correct `with` of this step in the runbook' });
  }
  return parsed.data;
}

