import { WorkflowNotFoundError, type Client } from '@temporalio/client';
import { messageOf } from '../model/errors.ts';
import type { Context } from '../systems/context.ts';
import { sweepDrillTargets } from '../systems/drill-target.ts';

/**
 * Destroy what ended drills have left on this host: their worker was killed, or their host restarted. A failure is logged and told
 * nowhere else, since a worker must start for failovers even where an old drill cannot be cleaned away.
 */
export async function sweepEndedDrills(context: Context, client: Client): Promise<string[]> {
  try {
    return await sweepDrillTargets(context, async (workflowId, runId) => {
      try {
        return (await client.workflow.getHandle(workflowId, runId).describe()).status.name === 'RUNNING';
      } catch (error) {
        if (error instanceof WorkflowNotFoundError) return false;
        throw error;
      }
    });
  } catch (error) {
    context.log.error({ err: error }, `drill targets that were left on this host could not be destroyed: ${messageOf(error)}`);
    return [];
  }
}
