import { Context as ActivityContext } from '@temporalio/activity';
import type { RunRecord } from '../src/model/compliance.ts';
import { writeRunRecord } from '../src/systems/backup-records.ts';
import type { Context } from '../src/systems/context.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

export type EndedRun = Pick<RunRecord, 'datastore' | 'startedAt' | 'finishedAt' | 'outcome' | 'degraded' | 'backups' | 'why'>;

export function createComplianceActivities(context: Context) {
  return withActivityFailures({
    /** Leaves in the store what a backup run came to. */
    recordBackupRun: (run: EndedRun): Promise<void> =>
      withHeartbeat('', (signal) => {
        const { workflowExecution } = ActivityContext.current().info;
        return writeRunRecord(context, { ...run, workflowId: workflowExecution?.workflowId ?? '', runId: workflowExecution?.runId ?? '' }, signal);
      }),
  });
}

export type ComplianceActivities = ReturnType<typeof createComplianceActivities>;
