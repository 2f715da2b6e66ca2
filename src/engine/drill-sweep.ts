import { WorkflowNotFoundError, type Client } from '@temporalio/client';
import type { Context } from '../systems/context.ts';
import { sweepDrillTargets } from '../systems/drill-target.ts';

/** Destroy what ended drills have left on this host: their worker was killed, or the host restarted. @returns the names of the targets. */
export async function sweepEndedDrills(context: Context, client: Client): Promise<string[]> {
  return sweepDrillTargets(context, async (workflowId, runId) => {
    try {
      return (await client.workflow.getHandle(workflowId, runId).describe()).status.name === 'RUNNING';
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return false;
      throw error;
    }
  });
}
