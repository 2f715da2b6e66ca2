import type { RetentionResult } from '../src/model/api.ts';
import { runRetention } from '../src/systems/backup-retention.ts';
import type { Context } from '../src/systems/context.ts';
import { withActivityFailures } from './failure.ts';
import { withHeartbeat } from './heartbeat.ts';

export function createRetentionActivities(context: Context) {
  return withActivityFailures({
    applyRetention: (input: { datastore: string; apply: boolean }): Promise<RetentionResult> =>
      withHeartbeat({ deleted: 0 }, (signal, report) =>
        runRetention(context, { ...input, signal, nowMs: Date.now(), onDeleted: (deleted) => report({ deleted }) }),
      ),
  });
}
