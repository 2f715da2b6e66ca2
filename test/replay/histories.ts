import proto from '@temporalio/proto';
import { fileURLToPath } from 'node:url';

export type History = proto.temporal.api.history.v1.IHistory;
export const { History } = proto.temporal.api.history.v1;

/** `<workflow type>.<what happened>.binpb`, a binary `temporal.api.history.v1.History` each. */
export const HISTORIES = fileURLToPath(new URL('./histories', import.meta.url));

/** Recorded before the engine had groups, locks, bound approvals and a start gate; executions of that time must go on. */
export const EARLIER = fileURLToPath(new URL('./earlier', import.meta.url));

/** Type of the workflow whose history it is. */
export function workflowTypeOf(history: History): string {
  const name = history.events?.[0]?.workflowExecutionStartedEventAttributes?.workflowType?.name;
  if (typeof name !== 'string') throw new Error('not a history: its first event is no WorkflowExecutionStarted with a workflow type');
  return name;
}

/** Names of scheduled activities, in order. */
export function activitiesIn(history: History): string[] {
  return (history.events ?? []).flatMap((event) => event.activityTaskScheduledEventAttributes?.activityType?.name ?? []);
}
