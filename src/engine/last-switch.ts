import { WorkflowFailedError, type Client } from '@temporalio/client';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { WORKFLOW_IDS } from '../model/api.ts';
import { HoldfastError } from '../model/errors.ts';
import { resultIn } from './executions.ts';
import { auditExecution, describeExecution, listExecutions, type ExecutionSummary } from './history.ts';

/** So many executions back is looked; all of them without a promotion would be strange enough. */
const LOOK_BACK = 200;

export interface Switch {
  readonly summary: ExecutionSummary;
  readonly result: ExecutionResult;
}

/**
 * The last execution of a service that promoted a node, null when Temporal has none.
 * @throws HoldfastError `already-running` while a failover runs; `switch-unknown` when one ended without a result and may have promoted.
 */
export async function lastSwitch(client: Client, environment: string, service: string): Promise<Switch | null> {
  const listed = await Promise.all([listExecutions(client, { service, kind: 'failover' }, LOOK_BACK), listExecutions(client, { service, kind: 'runbook' }, LOOK_BACK)]);
  // Visibility is a moment behind: the newest of the usual id is asked for itself.
  const newest = await describeExecution(client, WORKFLOW_IDS.failover(service)).then(({ summary }) => [summary], whenMissing);
  const found = new Map([...listed.flat(), ...newest].map((summary) => [summary.runId, summary]));
  for (const summary of [...found.values()].sort((a, b) => b.startedAt.localeCompare(a.startedAt))) {
    // Two environments may share a namespace, and name their services alike.
    if (summary.environment !== null && summary.environment !== environment) continue;
    // What `holdfast plan` starts changes nothing, and neither waits for it.
    if (summary.workflowId.startsWith('plan/')) continue;
    const current = summary.status === 'RUNNING' ? (await describeExecution(client, summary.workflowId, summary.runId)).summary : summary;
    if (current.status === 'RUNNING') {
      if (current.type !== 'failover') continue;
      throw new HoldfastError('already-running', `${current.workflowId} is running: what it changes is not known yet`, { next: `look at it: holdfast status ${current.workflowId}` });
    }
    const result = await resultOf(client, current);
    if (result === undefined) await mustNotHavePromoted(client, current);
    else if (promoted(result)) return { summary: current, result };
  }
  return null;
}

/** The result of a closed run, also of one that failed with it; undefined when it ended without. */
async function resultOf(client: Client, { workflowId, runId }: ExecutionSummary): Promise<ExecutionResult | undefined> {
  try {
    return (await client.workflow.getHandle(workflowId, runId).result()) as ExecutionResult;
  } catch (error) {
    if (!(error instanceof WorkflowFailedError)) throw error;
    return resultIn(error);
  }
}

function promoted(result: ExecutionResult): boolean {
  // A nested run is an execution of its own, and comes up as such.
  if (result.steps.some(({ uses }) => uses === 'runbook.run') && !result.steps.some(({ uses }) => uses === 'postgres.promote')) return false;
  return (result.failback ?? null)?.document != null || result.promoted === true || result.steps.some(({ uses, outcome }) => uses === 'postgres.promote' && (outcome === 'changed' || outcome === 'already-satisfied'));
}

/** It was terminated, timed out or never got a plan: history tells whether a promotion was asked for. */
async function mustNotHavePromoted(client: Client, { workflowId, runId, status }: ExecutionSummary): Promise<void> {
  const { activities } = await auditExecution(client, workflowId, runId);
  if (!activities.some(({ activity }) => activity === 'postgres.promote:apply')) return;
  throw new HoldfastError('switch-unknown', `${workflowId} (run ${runId}) ended as ${status} after it had asked for a promotion, and left no result: which node is the primary is not known from here`, {
    next: `look at the nodes and at holdfast audit ${workflowId}; then return by hand with the runbook database-failback`,
  });
}

function whenMissing(error: unknown): ExecutionSummary[] {
  if (error instanceof HoldfastError && error.code === 'execution-not-found') return [];
  throw error;
}
