import { setTimeout as pause } from 'node:timers/promises';

/** Holds a stream of bytes to a rate; whoever has taken more than there was waits until it is paid for. */
export interface Throttle {
  take(bytes: number, signal?: AbortSignal): Promise<void>;
  /** How long all takers together have waited. */
  waitedMs(): number;
}

export function createThrottle(bytesPerSecond: number | undefined, clock: { now(): number; wait(ms: number, signal?: AbortSignal): Promise<void> } = REAL): Throttle {
  let paidUntil = clock.now();
  let waited = 0;
  return {
    async take(bytes, signal) {
      if (bytesPerSecond === undefined) return;
      const now = clock.now();
      // The time that reading itself took is paid back, or the rate would never be reached; more is not saved up, or a burst would follow a pause.
      paidUntil = Math.max(paidUntil, now - SAVED_UP_MS) + (bytes / bytesPerSecond) * 1000;
      const ms = paidUntil - now;
      if (ms < 1) return;
      waited += ms;
      await clock.wait(ms, signal);
    },
    waitedMs: () => waited,
  };
}

/** At most so much more than its share goes through, however long it was idle. */
export const SAVED_UP_MS = 1000;

const REAL = {
  now: () => performance.now(),
  wait: (ms: number, signal?: AbortSignal) => pause(ms, undefined, signal === undefined ? {} : { signal }),
};
