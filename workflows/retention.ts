import { ActivityCancellationType, log, proxyActivities, upsertSearchAttributes } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { createRetentionActivities } from '../activities/retention.ts';
import { retentionInputSchema, SEARCH_ATTRIBUTES, type Notice, type RetentionInput, type RetentionResult } from '../src/model/api.ts';
import { causeText, parseInput } from './input.ts';

const { applyRetention } = proxyActivities<ReturnType<typeof createRetentionActivities>>({
  startToCloseTimeout: '2 hours',
  scheduleToCloseTimeout: '6 hours',
  heartbeatTimeout: '30 seconds',
  retry: { maximumAttempts: 3, initialInterval: '10 seconds' },
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
});
const { notify } = proxyActivities<{ notify(notice: Notice): Promise<unknown> }>({ startToCloseTimeout: '1 minute', retry: { maximumAttempts: 3 } });

/** Which backups of a datastore are kept and why; with `apply` the others are deleted. */
export async function retention(input: RetentionInput): Promise<RetentionResult> {
  const { datastore, apply } = parseInput('retention', retentionInputSchema, input);
  upsertSearchAttributes([{ key: defineSearchAttributeKey(SEARCH_ATTRIBUTES.datastore, 'KEYWORD'), value: datastore }]);
  const outcome = (value: string): void => upsertSearchAttributes([{ key: defineSearchAttributeKey(SEARCH_ATTRIBUTES.outcome, 'KEYWORD'), value }]);
  try {
    const result = await applyRetention({ datastore, apply });
    outcome('succeeded');
    return result;
  } catch (error) {
    outcome('failed');
    await notify({ level: 'failure', title: `Retention of ${datastore} failed`, text: `${causeText(error)}\nBackups that were not deleted are kept.`, fields: { datastore } }).catch((inner: unknown) => {
      log.warn('the notification could not be sent', { error: causeText(inner) });
    });
    throw error;
  }
}
