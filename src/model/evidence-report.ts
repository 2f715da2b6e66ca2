/** How evidence is read by people: report.md and report.html, both made from the facts of report.json and nothing else. */
import { judge, type Measurement, type Report, type TimelineEntry } from './evidence.ts';
import { formatBytes, formatDuration } from './units.ts';

const PLOT_WIDTH = 1000;
const LABEL_WIDTH = 300;
const VALUE_WIDTH = 190;
const ROW_HEIGHT = 26;

export function formatFigure(unit: Measurement['unit'], value: number): string {
  if (unit === 'ms') return formatDuration(value);
  return unit === 'bytes' ? formatBytes(value) : String(value);
}

/** One row of the table objective against measured, in words. */
export function measurementRow(measurement: Measurement): [name: string, objective: string, measured: string, result: string] {
  const result = judge(measurement);
  return [
    measurement.name,
    measurement.objective === null ? 'none' : `at most ${formatFigure(measurement.unit, measurement.objective)}`,
    measurement.measured === null ? `not measured: ${measurement.note ?? 'no reason was recorded'}` : formatFigure(measurement.unit, measurement.measured),
    measurement.measured !== null && measurement.note !== undefined ? `${result} (${measurement.note})` : result,
  ];
}

function headerRows(report: Report): [string, string][] {
  const { header } = report;
  return [
    ['Outcome', header.outcome],
    ...(header.service === null ? [] : [['Service', header.service] as [string, string]]),
    ['Subject', header.subject],
    ['Environment', header.environment],
    ['Started', header.startedAt],
    ['Finished', header.finishedAt],
    ['Took', formatDuration(Date.parse(header.finishedAt) - Date.parse(header.startedAt))],
    ['Requested by', header.requestedBy],
    ['Reason', header.reason],
    ['Workflow', header.workflowId],
    ['Run', header.runId],
    ...(header.planHash === null ? [] : [['Plan hash', header.planHash] as [string, string]]),
    ['Evidence id', header.id],
  ];
}

export function renderMarkdown(report: Report): string {
  const { header } = report;
  const out: string[] = [`# ${line(header.title)}`, '', line(header.summary), ''];
  out.push(...markdownTable(['', ''], headerRows(report)), '');
  out.push('## Objective against measured', '');
  if (report.measurements.length === 0) out.push('Nothing was measured.');
  else out.push(...markdownTable(['what', 'objective', 'measured', 'result'], report.measurements.map(measurementRow)));
  out.push('', '## Timeline', '');
  if (report.timeline.length === 0) out.push('No steps were recorded.');
  else {
    const origin = originOf(report.timeline);
    const grouped = report.timeline.some((entry) => entry.group !== undefined);
    out.push(...markdownTable(['step', ...(grouped ? ['group'] : []), 'starts after', 'took', 'outcome'], report.timeline.map((entry) => [
      entry.label, ...(grouped ? [entry.group ?? ''] : []), formatDuration(entry.startMs - origin), formatDuration(entry.endMs - entry.startMs), entry.outcome,
    ])));
  }
  out.push('', '## Checks', '');
  if (report.checks.length === 0) out.push('No checks were run.');
  else out.push(...markdownTable(['check', 'result', 'found', 'expected'], report.checks.map((check) => [check.name, check.ok ? 'holds' : 'DOES NOT HOLD', check.found, check.expected])));
  out.push('', '## Facts', '');
  out.push(...markdownTable(['no.', 'at', 'kind', 'what'], report.facts.map((fact) => [String(fact.index), fact.at, fact.kind, JSON.stringify(fact.data) ?? ''])));
  if (report.appendix !== undefined) out.push('', report.appendix.trimEnd());
  out.push('', '---', '', 'The facts are in report.json, chained by SHA-256; signature.json covers all three reports. Check them offline: `holdfast evidence verify <this folder>`.', '');
  return out.join('\n');
}

function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const row = (cells: readonly string[]): string => `| ${cells.map((cell) => line(cell).replaceAll('\\', '\\\\').replaceAll('|', '\\|')).join(' | ')} |`;
  return [row(columns), `| ${columns.map(() => '---').join(' | ')} |`, ...rows.map(row)];
}

function line(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, ' ');
}

const STYLE = `
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #16181d; background: #fff; max-width: 1040px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.55rem; margin: 0 0 .35rem; } h2 { font-size: 1.12rem; margin: 1.7rem 0 .5rem; border-bottom: 1px solid #c9ced6; padding-bottom: .2rem; }
p.summary { font-size: 1.05rem; margin: .2rem 0 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .32rem .6rem .32rem 0; border-bottom: 1px solid #e3e6eb; overflow-wrap: anywhere; }
th { font-weight: 600; color: #454b57; white-space: nowrap; } table.head th { width: 9.5rem; } td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
code, pre { font: 12.5px/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; } pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f8; padding: .7rem; margin: 0; }
td pre { background: none; padding: 0; }
.bad { font-weight: 700; color: #a30f1e; } .good { font-weight: 600; color: #14612d; } .none { color: #5b6270; font-style: italic; }
svg { width: 100%; height: auto; display: block; } svg text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #16181d; } svg text.group { font-weight: 700; } svg text.small { font-size: 11.5px; fill: #454b57; }
footer { margin-top: 2rem; font-size: .85rem; color: #454b57; }
@page { size: A4; margin: 14mm; }
@media print { body { margin: 0; max-width: none; padding: 0; font-size: 10.5pt; } h2 { break-after: avoid; } tr, svg { break-inside: avoid; } thead { display: table-header-group; } pre { background: none; border: 1px solid #c9ced6; } }
`.trim();

/** One file with nothing outside it: no script, no font, no picture to load. */
export function renderHtml(report: Report): string {
  const { header } = report;
  const measurements = report.measurements.map((measurement) => {
    const [name, objective, measured, result] = measurementRow(measurement);
    const verdict = judge(measurement);
    return `<tr><td>${escape(name)}</td><td class="n">${escape(objective)}</td><td${measurement.measured === null ? ' class="none"' : ' class="n"'}>${escape(measured)}</td><td class="${verdictClass(verdict)}">${escape(result)}</td></tr>`;
  });
  const checks = report.checks.map(
    (check) =>
      `<tr><td>${escape(check.name)}</td><td class="${check.ok ? 'good' : 'bad'}">${check.ok ? 'holds' : 'DOES NOT HOLD'}</td><td>${escape(check.found)}</td><td>${escape(check.expected)}</td></tr>`,
  );
  const facts = report.facts.map(
    (fact) => `<tr><td class="n">${fact.index}</td><td class="n">${escape(fact.at)}</td><td class="n">${escape(fact.kind)}</td><td><pre>${escape(layOut(fact.data))}</pre></td></tr>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(header.title)}</title>
<style>
${STYLE}
</style>
</head>
<body>
<h1>${escape(header.title)}</h1>
<p class="summary">${escape(header.summary)}</p>
<table class="head"><tbody>
${headerRows(report).map(([name, value]) => `<tr><th scope="row">${escape(name)}</th><td>${escape(value)}</td></tr>`).join('\n')}
</tbody></table>
<h2>Objective against measured</h2>
${table(['what', 'objective', 'measured', 'result'], measurements, 'Nothing was measured.')}
<h2>Timeline</h2>
${renderTimeline(report.timeline)}
<h2>Checks</h2>
${table(['check', 'result', 'found', 'expected'], checks, 'No checks were run.')}
<h2>Facts</h2>
${table(['no.', 'at', 'kind', 'what'], facts, 'No facts were recorded.')}
${report.appendix === undefined ? '' : `<h2>Appendix</h2>\n<pre>${escape(report.appendix.trimEnd())}</pre>\n`}<footer>The facts are in report.json, chained by SHA-256; signature.json covers report.json, report.md and this page. Check them offline: <code>holdfast evidence verify &lt;this folder&gt;</code>.</footer>
</body>
</html>
`;
}

function table(columns: readonly string[], rows: readonly string[], empty: string): string {
  if (rows.length === 0) return `<p class="none">${escape(empty)}</p>`;
  return `<table><thead><tr>${columns.map((column) => `<th scope="col">${escape(column)}</th>`).join('')}</tr></thead><tbody>\n${rows.join('\n')}\n</tbody></table>`;
}

/** On one line while it is short, else a line for each field of the outermost value. */
function layOut(data: unknown): string {
  const text = JSON.stringify(data) ?? '';
  if (text.length <= 110 || data === null || typeof data !== 'object') return text;
  return Array.isArray(data) ? data.map((item) => JSON.stringify(item)).join('\n') : Object.entries(data).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join('\n');
}

function verdictClass(verdict: ReturnType<typeof judge>): string {
  if (verdict === 'met') return 'good';
  return verdict === 'MISSED' ? 'bad' : 'none';
}

/** A bar a step: label at its left, figures and outcome at its right; what failed is hatched and says so. */
export function renderTimeline(timeline: readonly TimelineEntry[]): string {
  if (timeline.length === 0) return '<p class="none">No steps were recorded.</p>';
  const origin = originOf(timeline);
  const span = Math.max(1, Math.max(...timeline.map((entry) => entry.endMs)) - origin);
  const plot = PLOT_WIDTH - LABEL_WIDTH - VALUE_WIDTH;
  const x = (ms: number): number => LABEL_WIDTH + ((ms - origin) / span) * plot;
  const top = 28;
  const rows: string[] = [];
  let y = top;
  let group: string | undefined;
  for (const entry of timeline) {
    if (entry.group !== undefined && entry.group !== group) {
      rows.push(`<text x="0" y="${y + 18}" class="group">${escape(shorten(entry.group, 44))}</text>`);
      y += ROW_HEIGHT;
    }
    group = entry.group;
    const failed = isFailure(entry.outcome);
    const left = x(entry.startMs);
    const width = Math.max(2, x(entry.endMs) - left);
    rows.push(
      `<g><title>${escape(`${entry.label}: ${entry.outcome}, from ${formatDuration(entry.startMs - origin)} to ${formatDuration(entry.endMs - origin)}`)}</title>` +
        `<text x="${entry.group === undefined ? 0 : 12}" y="${y + 17}">${escape(shorten(entry.label, entry.group === undefined ? 42 : 40))}</text>` +
        `<rect x="${left.toFixed(1)}" y="${y + 5}" width="${width.toFixed(1)}" height="${ROW_HEIGHT - 10}" fill="${failed ? 'url(#failed)' : entry.outcome === 'skipped' ? '#c9ced6' : '#2f6f9f'}" stroke="${failed ? '#a30f1e' : '#1d4a6d'}" stroke-width="1"/>` +
        `<text class="small" x="${PLOT_WIDTH - VALUE_WIDTH + 12}" y="${y + 17}">${escape(`${formatDuration(entry.endMs - entry.startMs)}, ${shorten(failed ? entry.outcome.toUpperCase() : entry.outcome, 18)}`)}</text></g>`,
    );
    y += ROW_HEIGHT;
  }
  const ticks = axisTicks(span).map((ms) => {
    const at = x(origin + ms).toFixed(1);
    return `<line x1="${at}" y1="${top - 4}" x2="${at}" y2="${y}" stroke="#d8dce2" stroke-width="1"/><text class="small" x="${at}" y="${top - 10}" text-anchor="middle">${escape(formatTick(ms))}</text>`;
  });
  return (
    `<svg viewBox="0 0 ${PLOT_WIDTH} ${y + 6}" role="img" aria-label="Timeline of the steps, ${escape(formatDuration(span))} in all">` +
    '<defs><pattern id="failed" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="7" height="7" fill="#fff"/><rect width="4" height="7" fill="#a30f1e"/></pattern></defs>' +
    `${ticks.join('')}${rows.join('\n')}</svg>`
  );
}

function originOf(timeline: readonly TimelineEntry[]): number {
  return Math.min(...timeline.map((entry) => entry.startMs));
}

function isFailure(outcome: string): boolean {
  return /fail|bad|unknown|miss|denied|abort|reject/i.test(outcome);
}

/** Round steps, at most six of them. */
function axisTicks(spanMs: number): number[] {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 43_200_000, 86_400_000];
  const step = steps.find((candidate) => spanMs / candidate <= 6) ?? Math.ceil(spanMs / 6);
  const ticks: number[] = [];
  for (let ms = 0; ms <= spanMs; ms += step) ticks.push(ms);
  return ticks;
}

function formatTick(ms: number): string {
  if (ms === 0) return '0';
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60_000) return `${ms / 1000} s`;
  return ms < 3_600_000 ? `${ms / 60_000} min` : `${ms / 3_600_000} h`;
}

function shorten(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;').replaceAll("'", '&#39;');
}
