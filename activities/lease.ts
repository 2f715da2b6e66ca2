import { HoldfastError } from '../src/model/errors.ts';
import type { StepRun } from './step-definition.ts';

/** The server gives a worker up 10 s after its last heartbeat (HEARTBEAT_MS of the interpreter); by then nothing of it may be under way. */
const LEASE_MS = 8000;
const RENEW_MS = 2000;
const LOOK_MS = 250;

/**
 * Work that must have ended before another worker begins it: an old image of an item that a worker wrongly taken for lost writes late would
 * stand over a newer one. The report is at the server every two seconds; when it could not be brought there for so long that the
 * server may have given this worker up, the work is cut off, requests under way too.
 */
export async function whileHeld<T>(step: StepRun, report: () => unknown, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const lost = new AbortController();
  let heldSinceMs = performance.now();
  let renewing = false;
  let renewAtMs = heldSinceMs + RENEW_MS;
  const timer = setInterval(() => {
    const nowMs = performance.now();
    if (nowMs - heldSinceMs > LEASE_MS) {
      lost.abort(new HoldfastError('lease-lost', 'the Temporal server was not reached for so long that another worker may have taken over: everything was cut off', { retryable: true, next: 'it goes on from what was written down last' }));
      return;
    }
    if (renewing || nowMs < renewAtMs) return;
    renewing = true;
    const askedMs = nowMs;
    step
      .journal(report())
      .then(() => {
        heldSinceMs = askedMs;
      })
      // Tried again, until it has been too long.
      .catch(() => {})
      .finally(() => {
        renewing = false;
        renewAtMs = performance.now() + RENEW_MS;
      });
  }, LOOK_MS);
  try {
    await step.journal(report());
    return await work(AbortSignal.any([step.signal, lost.signal]));
  } catch (error) {
    if (lost.signal.aborted && !step.signal.aborted) throw lost.signal.reason;
    throw error;
  } finally {
    clearInterval(timer);
    // What it came to is told as well when it failed: the next attempt goes on from it.
    step.heartbeat(report());
  }
}
