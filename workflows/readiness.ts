import { proxyActivities, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import type { createPlanActivities } from '../activities/plan.ts';
import { SEARCH_ATTRIBUTES, readinessInputSchema, type CheckResult, type ReadinessInput } from '../src/model/api.ts';
import { describeCheck } from '../src/model/execution.ts';
import { checksOf } from '../src/model/measure.ts';
import { classify, createExecution } from './interpreter.ts';
import { parseInput } from './input.ts';

const { resolvePlan, readinessSubjects, checkProofs } = proxyActivities<ReturnType<typeof createPlanActivities>>({
  startToCloseTimeout: '30 seconds',
  scheduleToCloseTimeout: '2 minutes',
  retry: { maximumAttempts: 3 },
});

export interface ReadinessResult {
  readonly service: string;
  readonly recoverable: boolean;
  readonly why: readonly string[];
  readonly checks: readonly CheckResult[];
  /** Said, so that silence is not taken for health. */
  readonly notChecked: readonly string[];
  readonly checkedAt: string;
}

/** Could the service be failed over right now? Every guard of its failover runbook, read-only. */
export async function readiness(input: ReadinessInput): Promise<ReadinessResult> {
  const { service } = parseInput('readiness', readinessInputSchema, input);
  const execution = createExecution();
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.service]: [service] });
  const subjects = await readinessSubjects(service);
  const notChecked = subjects.purposes.filter((purpose) => purpose !== 'failover').map((purpose) => `runbook for ${purpose}: its guards hold only after a failover`);
  notChecked.push('forced mode: its guards ask for a primary that is down');
  const why: string[] = [];
  let checks: readonly CheckResult[] = [];
  if (!subjects.purposes.includes('failover')) why.push(`service ${service} has no failover runbook`);
  else {
    try {
      const plan = await resolvePlan({ type: 'failover', service, purpose: 'failover', runbook: null, mode: 'planned', parameters: {} });
      execution.setPlan(plan, { epoch: workflowInfo().runStartTime.getTime(), requestedBy: 'readiness', reason: 'readiness', dryRun: true });
      const state = await execution.run();
      checks = checksOf(state);
      if (state.failure !== null) why.push(state.failure);
      why.push(...checks.filter((check) => !check.ok).map(describeCheck).filter((text) => !(state.failure ?? '').includes(text)));
    } catch (error) {
      why.push(classify(error).text);
    }
  }
  try {
    const proofs = await checkProofs(service, Date.now());
    checks = [...checks, ...proofs];
    why.push(...proofs.filter((check) => !check.ok).map(describeCheck));
  } catch (error) {
    why.push(`backups could not be looked at: ${classify(error).text}`);
  }
  const recoverable = why.length === 0;
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.outcome]: [recoverable ? 'ready' : 'not-ready'] });
  return { service, recoverable, why, checks, notChecked, checkedAt: new Date(Date.now()).toISOString() };
}
