/** How evidence is read by people: report.md and report.html, both made from the facts of report.json and nothing else. */
import type { CheckResult } from './api.ts';
import { judge, type Fact, type Measurement, type Report, type ReportHeader } from './evidence.ts';
import { escapeMarkup, formatMoment, isFailure, originOf, renderTimeline } from './evidence-plot.ts';
import { formatBytes, formatDuration } from './units.ts';

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

/** What must be known before the figures are believed, most weighty first. Made from the facts only, so that nobody can leave it out. */
export function attentionOf(report: Report): string[] {
  const { header, measurements, checks, facts } = report;
  const out: string[] = [];
  if (header.signedBy === null) out.push(`This record is NOT SIGNED: ${header.unsigned ?? 'no reason was recorded'}. Whoever can write there can replace it.`);
  const missed = measurements.filter((measurement) => judge(measurement) === 'MISSED');
  if (missed.length > 0) out.push(`Objective MISSED: ${missed.map((measurement) => measurementRow(measurement)).map(([name, objective, measured]) => `${name}, ${measured} (${objective})`).join('; ')}.`);
  for (const measurement of measurements) if (measurement.objective !== null && measurement.measured === null) out.push(`NOT MEASURED although there is an objective: ${measurement.name}: ${measurement.note ?? 'no reason was recorded'}.`);
  for (const check of checks) if (check.overridden !== undefined) out.push(`OVERRIDDEN: the rule ${check.rule ?? 'of this check'} was broken on purpose by ${check.overridden}. It says: ${check.name}: expected ${check.expected}, found ${check.found}.`);
  for (const { kind, data } of facts) {
    const { rule, by, reason } = kind === 'override' && data !== null && typeof data === 'object' ? (data as Record<string, unknown>) : {};
    if (rule !== undefined && !checks.some((check) => check.overridden !== undefined && check.rule === rule)) out.push(`The rule ${word(rule)} was allowed to be broken by ${word(by)}: ${word(reason)}. No check needed it.`);
  }
  const broken = checks.filter((check) => !check.ok && check.overridden === undefined);
  if (broken.length > 0) out.push(`${broken.length} of ${checks.length} checks DO NOT HOLD: ${broken.map((check) => check.name).join('; ')}.`);
  out.push(...facts.flatMap(byHand), ...report.cautions);
  const refused = facts.filter((fact) => fact.kind === 'refusal').length;
  if (refused > 0) out.push(`${refused} request${refused === 1 ? '' : 's'} of operators ${refused === 1 ? 'was' : 'were'} refused; they are among the facts.`);
  if (header.position === null) out.push(`This record stands in no chain: ${header.unchained ?? 'no reason was recorded'}. Nobody would notice if it were taken away.`);
  return out;
}

/** What a person declared, skipped or changed, which nobody measured. */
function byHand({ kind, data }: Fact): string[] {
  if (data === null || typeof data !== 'object') return [];
  const { action, step, by, reason, evidence, tainted, id } = data as Record<string, unknown>;
  if (kind === 'step' && typeof tainted === 'string') return [`TAINTED: what step ${word(id)} gives was found by nobody: ${tainted}.`];
  if (kind !== 'decision') return [];
  const who = `${word(by)}: ${word(reason)}`;
  if (action === 'markDone') return [`DECLARED BY HAND: step ${word(step)} was said to be done by ${who} (shown by: ${word(evidence ?? 'nothing')}). Nothing measured it.`];
  if (action === 'skip') return [`SKIPPED BY HAND: step ${word(step)} by ${who}.`];
  return action === 'switchToForced' ? [`The run was switched from planned to forced by ${who}.`] : [];
}

/** Facts may hold anything, also objects that cannot be made into text. */
function word(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? 'nothing');
}

/** In words, as the table shows it. */
export function checkResult(check: CheckResult): string {
  if (check.overridden !== undefined) return `OVERRIDDEN by ${check.overridden}`;
  return check.ok ? 'holds' : 'DOES NOT HOLD';
}

function headerRows({ header }: Report): [string, string][] {
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
    ['Record', `${header.id}${header.position == null ? '' : `, number ${header.position.sequence} of ${header.position.chain}${header.position.previous === null ? ', the first' : `, after ${header.position.previous.id}`}`}`],
    ...signedRow(header),
  ];
}

function signedRow({ signedBy, unsigned }: ReportHeader): [string, string][] {
  // Format 1 did not say it in the report.
  if (signedBy === undefined) return [];
  return [['Signed', signedBy === null ? `NOT SIGNED: ${unsigned ?? 'no reason was recorded'}` : `by key ${signedBy}`]];
}

const CLOSING = 'The facts are in report.json, chained by SHA-256 and listed in facts.sha256; signature.json covers all of them, signed or not as said above.';

export function renderMarkdown(report: Report): string {
  const { header } = report;
  const out: string[] = [`# ${plain(header.title)}`, '', plain(header.summary), ''];
  const attention = attentionOf(report);
  if (attention.length > 0) out.push('## Read this first', '', ...attention.map((text) => `- ${plain(text)}`), '');
  out.push('## Objective against measured', '');
  if (report.measurements.length === 0) out.push('Nothing was measured.');
  else out.push(...markdownTable(['what', 'objective', 'measured', 'result'], report.measurements.map(measurementRow)));
  out.push('', '## The run', '', ...markdownTable(['', ''], headerRows(report)));
  out.push('', '## Timeline', '');
  if (report.timeline.length === 0) out.push('No steps were recorded.');
  else {
    const origin = originOf(report.timeline);
    const grouped = report.timeline.some((entry) => entry.group !== undefined);
    out.push(...markdownTable(['step', ...(grouped ? ['group'] : []), 'starts after', 'took', 'outcome'], report.timeline.map((entry) => [
      entry.detail === undefined ? entry.label : `${entry.label} (${entry.detail})`, ...(grouped ? [entry.group ?? ''] : []), formatMoment(entry.startMs - origin), formatDuration(entry.endMs - entry.startMs), isFailure(entry.outcome) ? entry.outcome.toUpperCase() : entry.outcome,
    ])));
    if (report.marks.length > 0) {
      out.push('', ...report.marks.map((mark) => `- ${plain(mark.label)}: ${mark.endMs === undefined ? `at ${formatMoment(mark.atMs - origin)}` : `from ${formatMoment(mark.atMs - origin)} to ${formatMoment(mark.endMs - origin)}, ${formatDuration(mark.endMs - mark.atMs)}`}`));
    }
  }
  out.push('', '## Checks', '');
  if (report.checks.length === 0) out.push('No checks were run.');
  else out.push(...markdownTable(['check', 'result', 'found', 'expected'], report.checks.map((check) => [check.name, checkResult(check), check.found, check.expected])));
  out.push('', '## Facts', '');
  out.push(...markdownTable(['no.', 'at', 'kind', 'what'], report.facts.map((fact) => [String(fact.index), fact.at, fact.kind, JSON.stringify(fact.data) ?? ''])));
  if (report.appendix !== undefined) out.push('', report.appendix.trimEnd());
  out.push('', '---', '', `${CLOSING} Check them offline: \`holdfast evidence verify <this folder>\`.`, '');
  return out.join('\n');
}

function markdownTable(columns: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const row = (cells: readonly string[]): string => `| ${cells.map((cell) => plain(cell).replaceAll('|', '\\|')).join(' | ')} |`;
  return [row(columns), `| ${columns.map(() => '---').join(' | ')} |`, ...rows.map(row)];
}

/** One line in which nothing is markup: what people and servers wrote must not become headings, links or pictures. */
function plain(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, ' ').replaceAll('\\', '\\\\').replaceAll('<', '&lt;').replaceAll('[', '\\[').replaceAll('`', '\\`');
}

const STYLE = `
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #111; background: #fff; max-width: 900px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.55rem; line-height: 1.2; margin: 0 0 .35rem; } h2 { font-size: 1.12rem; margin: 1.8rem 0 .5rem; border-bottom: 1.5px solid #111; padding-bottom: .2rem; } h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
p.summary { font-size: 1.05rem; margin: .2rem 0 1rem; }
p.outcome { display: inline-block; margin: .2rem 0 .8rem; padding: .15rem .7rem; border: 2px solid #111; font-weight: 700; letter-spacing: .02em; } p.outcome.bad { background: #111; color: #fff; }
section.attention { border: 2px solid #111; border-left-width: 10px; padding: .3rem .9rem .5rem; margin: 0 0 1rem; } section.attention h2 { border: 0; margin: .3rem 0; } section.attention ul { margin: 0; padding-left: 1.1rem; } section.attention li { margin: .25rem 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .32rem .6rem .32rem 0; border-bottom: 1px solid #ccc; overflow-wrap: anywhere; }
th { font-weight: 600; color: #333; white-space: nowrap; } table.head th { width: 8.5rem; } table.facts { font-size: .82rem; } table.figures td:first-child { width: 27%; overflow-wrap: normal; } td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
code, pre { font: 12px/1.4 ui-monospace, "DejaVu Sans Mono", Menlo, monospace; } pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f4; padding: .7rem; margin: 0; }
td pre { background: none; padding: 0; font-size: 11px; }
.bad { font-weight: 700; color: #8c0f1b; } .good { font-weight: 600; } .none { color: #444; font-style: italic; }
svg { width: 100%; height: auto; display: block; } svg text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #111; } svg text.group { font-weight: 700; } svg text.small { font-size: 10.5px; fill: #333; } svg text.figure { font-variant-numeric: tabular-nums; font-size: 11px; } svg text.alarm { font-size: 10.5px; font-weight: 700; fill: #8c0f1b; } svg text.flag { font-size: 10px; font-weight: 700; } svg .rule { stroke: #e2e2e2; stroke-width: .7; } svg .tick { stroke: #aaa; stroke-width: .7; stroke-dasharray: 1 3; }
p.note { font-size: .85rem; color: #333; margin: .3rem 0; } .key { margin-right: 1.2rem; white-space: nowrap; } .key svg { display: inline-block; width: 26px; vertical-align: -2px; margin-right: .35rem; } ul.marks { list-style: none; padding: 0; margin: .3rem 0; font-size: .88rem; } ul.marks b { display: inline-block; min-width: 1.3em; }
footer { margin-top: 2rem; font-size: .85rem; color: #333; border-top: 1px solid #ccc; padding-top: .5rem; overflow-wrap: anywhere; }
@page { size: A4; margin: 14mm; @bottom-right { content: counter(page) " / " counter(pages); font-size: 8pt; } }
@media print {
  * { color: #000 !important; } p.outcome.bad { color: #fff !important; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { margin: 0; max-width: none; padding: 0; font-size: 10pt; } h1 { font-size: 16pt; } h2, h3 { break-after: avoid; } tr, svg, li, section.attention { break-inside: avoid; } table.facts tr { break-inside: auto; } thead { display: table-header-group; }
  pre { background: none; border: 1px solid #999; } td pre { border: 0; font-size: 7.5pt; } svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; } a { text-decoration: none; }
}
`.trim();

/** One file with nothing outside it: no script, no font, no picture to load. */
export function renderHtml(report: Report): string {
  const { header } = report;
  const measurements = report.measurements.map((measurement) => {
    const [name, objective, measured, result] = measurementRow(measurement);
    const verdict = judge(measurement);
    return `<tr><td>${escapeMarkup(name)}</td><td class="n">${escapeMarkup(objective)}</td><td${measurement.measured === null ? ' class="none"' : ' class="n"'}>${escapeMarkup(measured)}</td><td><span class="${verdictClass(verdict)}">${escapeMarkup(verdict)}</span>${escapeMarkup(result.slice(verdict.length))}</td></tr>`;
  });
  const checks = report.checks.map(
    (check) => `<tr><td>${escapeMarkup(check.name)}</td><td class="${check.ok && check.overridden === undefined ? 'good' : 'bad'}">${escapeMarkup(checkResult(check))}</td><td>${escapeMarkup(check.found)}</td><td>${escapeMarkup(check.expected)}</td></tr>`,
  );
  const facts = report.facts.map(
    (fact) => `<tr><td class="n">${fact.index}</td><td class="n">${escapeMarkup(fact.at)}</td><td class="n">${escapeMarkup(fact.kind)}</td><td><pre>${escapeMarkup(layOut(fact.data))}</pre></td></tr>`,
  );
  const attention = attentionOf(report);
  const failed = isFailure(header.outcome) || report.measurements.some((measurement) => judge(measurement) === 'MISSED');
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeMarkup(header.title)}</title>
<style>
${STYLE}
</style>
</head>
<body>
<h1>${escapeMarkup(header.title)}</h1>
<p class="outcome${failed ? ' bad' : ''}">${escapeMarkup(header.outcome.toUpperCase())}</p>
<p class="summary">${escapeMarkup(header.summary)}</p>
${attention.length === 0 ? '' : `<section class="attention"><h2>Read this first</h2><ul>\n${attention.map((text) => `<li>${escapeMarkup(text)}</li>`).join('\n')}\n</ul></section>\n`}<h2>Objective against measured</h2>
${table(['what', 'objective', 'measured', 'result'], measurements, 'Nothing was measured.', 'figures')}
<h2>The run</h2>
<table class="head"><tbody>
${headerRows(report).map(([name, value]) => `<tr><th scope="row">${escapeMarkup(name)}</th><td>${escapeMarkup(value)}</td></tr>`).join('\n')}
</tbody></table>
<h2>Timeline</h2>
${renderTimeline(report.timeline, report.marks, zeroOf(report))}
<h2>Checks</h2>
${table(['check', 'result', 'found', 'expected'], checks, 'No checks were run.')}
<h2>Facts</h2>
${table(['no.', 'at', 'kind', 'what'], facts, 'No facts were recorded.', 'facts')}
${report.appendix === undefined ? '' : `<h2>Appendix</h2>\n<pre>${escapeMarkup(report.appendix.trimEnd())}</pre>\n`}<footer>${CLOSING} Check them offline: <code>holdfast evidence verify &lt;this folder&gt;</code>. Record ${escapeMarkup(header.id)}, ${escapeMarkup(header.workflowId)}.</footer>
</body>
</html>
`;
}

/** When the first step began, by the clock: timelines count in epoch milliseconds or from the start of the run. */
function zeroOf({ header, timeline }: Report): string {
  const origin = originOf(timeline);
  const at = origin > 1e11 ? origin : Date.parse(header.startedAt) + origin;
  return Math.abs(at) <= 8.64e15 ? `the start of the first step, ${new Date(at).toISOString()}` : 'the start of the first step';
}

function table(columns: readonly string[], rows: readonly string[], empty: string, style = ''): string {
  if (rows.length === 0) return `<p class="none">${escapeMarkup(empty)}</p>`;
  return `<table${style === '' ? '' : ` class="${style}"`}><thead><tr>${columns.map((column) => `<th scope="col">${escapeMarkup(column)}</th>`).join('')}</tr></thead><tbody>\n${rows.join('\n')}\n</tbody></table>`;
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
