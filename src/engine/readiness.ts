import type { Client } from '@temporalio/client';
import { newestReadiness } from '../../activities/readiness-history.ts';
import type { ReadinessResult } from '../../workflows/readiness.ts';
import type { Config } from '../model/config-schema.ts';
import { scheduleGaps } from '../model/schedule.ts';

/** The newest result that Temporal still has, whoever asked for it. */
export async function lastReadiness(client: Client, config: Config, service: string): Promise<ReadinessResult | null> {
  return ((await newestReadiness(client, config.environment, service))?.result as ReadinessResult | undefined) ?? null;
}

/** Longest time between two runs of the schedules that evaluate a service; null without one that is not paused. */
export function readinessEveryMs(config: Config, service: string): number | null {
  const gaps = Object.values(config.schedules).flatMap((schedule) => (schedule.run === 'readiness' && schedule.service === service && !schedule.paused ? (scheduleGaps(schedule)?.longestMs ?? []) : []));
  return gaps.length === 0 ? null : Math.min(...gaps);
}

/** Does anybody take workflows from the shared queue? A poller is known for a few minutes after it went. */
export async function workerPolls(client: Client, config: Config): Promise<boolean> {
  const { namespace, taskQueue } = config.temporal;
  // temporal.api.enums.v1.TaskQueueType: 1 workflow
  const { pollers } = await client.connection.workflowService.describeTaskQueue({ namespace, taskQueue: { name: taskQueue }, taskQueueType: 1 });
  return (pollers ?? []).length > 0;
}
