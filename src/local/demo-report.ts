import { formatDuration } from '../model/units.ts';

/** One line of the demo's last table. */
export interface Figure {
  readonly of: string;
  readonly what: string;
  readonly unit: 'ms' | 'count';
  /** null: there is no objective; then it is only shown. */
  readonly objective: number | null;
  /** null: it could not be measured, which is a miss when there is an objective. */
  readonly measured: number | null;
  readonly note?: string;
}

export function isMissed(figure: Figure): boolean {
  return figure.objective !== null && (figure.measured === null || figure.measured > figure.objective);
}

/** Objective against measured, aligned; what was missed is marked and counted. */
export function formatFigures(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => [
    figure.of,
    figure.what,
    figure.objective === null ? '-' : `<= ${value(figure.objective, figure.unit)}`,
    figure.measured === null ? 'not measured' : value(figure.measured, figure.unit),
    figure.objective === null ? '' : isMissed(figure) ? 'MISSED' : 'met',
    figure.note ?? '',
  ]);
  const header = ['', 'figure', 'objective', 'measured', '', ''];
  const widths = header.map((cell, column) => Math.max(cell.length, ...rows.map((row) => row[column]!.length)));
  const line = (cells: readonly string[]): string => `  ${cells.map((cell, column) => cell.padEnd(column === cells.length - 1 ? 0 : widths[column]!)).join('  ')}`.trimEnd();
  return [line(header), line(widths.map((width) => '-'.repeat(width)).slice(0, 5)), ...rows.map(line)].join('\n');
}

/** Why the demo did not succeed; empty when it did. */
export function reasonsToFail(figures: readonly Figure[], failedSteps: readonly string[]): string[] {
  const missed = figures.filter(isMissed).map((figure) => `${figure.of}: ${figure.what}: ${figure.measured === null ? 'not measured' : value(figure.measured, figure.unit)}, objective ${value(figure.objective ?? 0, figure.unit)}`);
  const none = figures.some((figure) => figure.objective !== null) ? [] : ['nothing was measured against an objective'];
  return [...failedSteps, ...missed, ...none];
}

function value(number: number, unit: Figure['unit']): string {
  return unit === 'ms' ? formatDuration(number) : String(number);
}
