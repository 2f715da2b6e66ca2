import { WorkflowNotFoundError, type Client } from '@temporalio/client';
import type { Context } from '../systems/context.ts';
import { sweepManagedTargets } from '../systems/managed-drill.ts';
import { enginesInUse } from '../systems/engines.ts';

/** Destroy what ended drills have left on this host (their worker was killed, or the host restarted) and in RDS. @returns the names of the targets. */
export async function sweepEndedDrills(context: Context, client: Client): Promise<string[]> {
  const isRunning = async (workflowId: string, runId: string): Promise<boolean> => {
    try {
      return (await client.workflow.getHandle(workflowId, runId).describe()).status.name === 'RUNNING';
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return false;
      throw error;
    }
  };
  const swept: string[] = [];
  for (const { drill } of await enginesInUse(context)) swept.push(...(await drill.sweep(context, isRunning)));
  return [...swept, ...(await sweepManagedTargets(context, isRunning))];
}
