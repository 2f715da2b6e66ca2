/** What a program that runs one child after the other keeps: the child at work, and whether it was told to stop. */
export interface AtWork {
  child: { kill(signal: NodeJS.Signals): unknown } | undefined;
  interrupted: boolean;
}

/** Signals to end go on to the child at work, which ends in its own way; nothing else should be started then. */
export function passSignalsOn(): AtWork {
  const work: AtWork = { child: undefined, interrupted: false };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      work.interrupted = true;
      // The terminal gave Ctrl-C to the child as well.
      if (signal !== 'SIGINT' || !process.stdin.isTTY) work.child?.kill(signal);
    });
  }
  return work;
}
