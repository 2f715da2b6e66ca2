import { HoldfastError, messageOf } from '../model/errors.ts';
import { formatDuration } from '../model/units.ts';
import { verifyEvidenceFolder } from '../systems/evidence-folder.ts';
import { trustOnly } from '../systems/evidence-keys.ts';
import { formatFigures, reasonsToFail, type Figure } from './demo-report.ts';

const startedAt = performance.now();

/** One line a step of a demo: when it ended, what it was, how long it took, what came of it. */
export async function step<T>(what: string, work: () => Promise<T>, describe: (result: T) => string): Promise<T> {
  const started = performance.now();
  try {
    const result = await work();
    print(what, started, describe(result));
    return result;
  } catch (error) {
    print(what, started, `FAILED: ${explain(error)}`);
    throw error;
  }
}

/** @param started by `performance.now()`; left out: since the demo began. */
export function print(what: string, started: number | undefined, text: string): void {
  const at = `${((performance.now() - startedAt) / 1000).toFixed(1)} s`;
  console.log(`[${at.padStart(8)}] ${what.padEnd(18)} ${formatDuration(performance.now() - (started ?? startedAt)).padStart(9)}  ${text}`);
}

/** The innermost reason: Temporal wraps it several times. */
export function explain(error: unknown): string {
  let reason = error;
  while (reason instanceof Error && reason.cause instanceof Error && !(reason instanceof HoldfastError)) reason = reason.cause;
  return messageOf(reason);
}

/** @throws HoldfastError unless it was written, is intact, and is signed by the key of this run. */
export async function checkEvidence(folder: string | null, publicKey: string): Promise<string> {
  const verdict = folder === null ? null : await verifyEvidenceFolder(folder, trustOnly(publicKey));
  if (folder === null || verdict?.ok !== true || !verdict.authentic) throw new HoldfastError('demo-evidence', `${folder ?? 'no evidence'}: ${verdict === null ? 'not written' : verdict.problems.join('; ') || 'not signed by the key of this run'}`);
  return folder;
}

/** The last table and the verdict. @returns the exit code: 0 only when nothing failed and every objective was met. */
export function conclude(figures: readonly Figure[], failed: readonly string[], met: string): number {
  if (figures.length > 0) console.log(`\n${formatFigures(figures)}\n`);
  const reasons = reasonsToFail(figures, failed);
  console.log(reasons.length === 0 ? met : `NOT MET:\n${reasons.map((reason) => `  - ${reason}`).join('\n')}`);
  return reasons.length === 0 ? 0 : 1;
}

/** Keeps the process, and with it all servers, until somebody ends it. */
export function forEver(): Promise<never> {
  return new Promise(() => {
    setInterval(() => {}, 60_000);
  });
}
