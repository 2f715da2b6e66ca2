import { Context as ActivityContext } from '@temporalio/activity';

const HEARTBEAT_MS = 2000;

/**
 * Runs long work: heartbeats on a timer with the newest details (cancellation only arrives by heartbeats), hands over the signal
 * that cancellation aborts, and reports a cancellation as one, whatever error the interrupted work ended with.
 */
export async function withHeartbeat<T, Details>(first: Details, work: (signal: AbortSignal, report: (details: Details) => void) => Promise<T>): Promise<T> {
  const activity = ActivityContext.current();
  let details = first;
  activity.heartbeat(details);
  const timer = setInterval(() => activity.heartbeat(details), HEARTBEAT_MS);
  try {
    return await work(activity.cancellationSignal, (newer) => {
      details = newer;
    });
  } catch (error) {
    if (activity.cancellationSignal.aborted) await activity.cancelled; // Rejects with the cancellation and its reason.
    throw error;
  } finally {
    clearInterval(timer);
  }
}
