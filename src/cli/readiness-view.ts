import type { ReadinessResult } from '../../workflows/readiness.ts';
import { describeSince, levelOf, overdue, type ReadinessLevel } from '../model/readiness.ts';
import { formatDuration } from '../model/units.ts';
import { formatChecks } from './execution-result.ts';
import { EXIT, formatTable } from './io.ts';

/** What is known of one service, asked just now or the last time. */
export interface ShownReadiness {
  readonly service: string;
  readonly level: ReadinessLevel;
  readonly recoverable: boolean | null;
  readonly result: ReadinessResult | null;
  /** false: the last known result; it speaks of the time at which it was checked. */
  readonly fresh: boolean;
  readonly ageMs: number | null;
  /** Why it does not speak of now; then the level is `unknown`, whatever the result says. */
  readonly old: string | null;
}

export function shownReadiness(service: string, result: ReadinessResult | null, fresh: boolean, everyMs: number | null, nowMs: number): ShownReadiness {
  if (result === null) return { service, level: 'unknown', recoverable: null, result, fresh, ageMs: null, old: 'it was never evaluated, or Temporal no longer has the result' };
  const checkedAtMs = Date.parse(result.checkedAt);
  const old = fresh ? null : overdue(checkedAtMs, everyMs, nowMs);
  return { service, level: old === null ? levelOf(result) : 'unknown', recoverable: old === null ? result.recoverable : null, result, fresh, ageMs: Math.max(0, nowMs - checkedAtMs), old };
}

/** 0 when all are ready; the worst one decides. Not known counts as not recoverable. */
export function readinessExit(shown: readonly ShownReadiness[]): number {
  if (shown.some(({ level }) => level === 'not-ready' || level === 'unknown')) return EXIT.failed;
  return shown.some(({ level }) => level === 'degraded') ? EXIT.degraded : EXIT.ok;
}

export function formatReadiness(shown: readonly ShownReadiness[]): string {
  const lines = [
    formatTable(
      ['service', 'recoverable', 'level', 'checked'],
      shown.map(({ service, recoverable, level, ageMs, fresh }) => [service, recoverable === null ? 'NOT KNOWN' : recoverable ? 'yes' : 'NO', level, ageMs === null ? 'never' : fresh ? 'now' : `${formatDuration(ageMs)} ago`]),
    ),
  ];
  for (const { service, result, old, fresh } of shown) {
    lines.push('', service);
    if (old !== null) lines.push(`  OLD: ${old}`);
    if (result === null) continue;
    if (!fresh) lines.push(`  the last known result, of ${result.checkedAt}: ${levelOf(result)}`);
    lines.push(`  ${levelOf(result)} ${describeSince({ ...result, since: result.since ?? result.checkedAt, before: result.before ?? null })}`);
    for (const why of result.why) lines.push(`  because: ${why}`);
    for (const { datastore, primary, candidate, missingBytes } of result.forced ?? []) {
      lines.push(`  if ${primary} (${datastore}) were down now: ${candidate === null ? 'nothing to promote' : `${candidate} would be promoted; ${missingBytes === null ? 'what it lacks is not known' : `${missingBytes} bytes were on their way to it`}`}`);
    }
    if (result.notChecked.length > 0) lines.push('  not checked', ...result.notChecked.map((what) => `    ${what}`));
  }
  const [only] = shown;
  if (shown.length === 1 && only?.result != null && only.result.checks.length > 0) lines.push('', formatChecks(only.result.checks));
  return lines.join('\n');
}
