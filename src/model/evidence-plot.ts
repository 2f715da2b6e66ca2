/** The timeline as SVG: black on white first, so that it reads the same from a laser printer; colour adds nothing that is not also said. */
import type { TimelineEntry, TimelineMark } from './evidence.ts';
import { formatDuration } from './units.ts';

/** In print 720 units are 182 mm, so that 12 units are 8.6 points. */
const WIDTH = 720;
const LABEL_WIDTH = 196;
const VALUE_WIDTH = 158;
const LEFT = LABEL_WIDTH;
const RIGHT = WIDTH - VALUE_WIDTH;
const LINE_HEIGHT = 14;
/** A plot is cut into pieces of this height: a page can break between them. */
const PIECE_HEIGHT = 300;
const LABEL_CHARACTERS = 30;
const DETAIL_CHARACTERS = 34;
/** A window narrower than this part of the whole is drawn once more, larger. */
const MAGNIFY_BELOW = 0.3;

interface Range {
  readonly from: number;
  readonly to: number;
}

/** Bars of all steps; what is marked gets a letter that the list below explains; short windows follow enlarged. */
export function renderTimeline(timeline: readonly TimelineEntry[], marks: readonly TimelineMark[] = [], zero?: string): string {
  if (timeline.length === 0) return '<p class="none">No steps were recorded.</p>';
  const origin = originOf(timeline);
  const end = timeline.reduce((latest, entry) => Math.max(latest, entry.endMs), origin);
  const span = Math.max(1, end - origin);
  // A mark far outside would press all bars into nothing: it is named in the list only.
  const near = marks.filter((mark) => mark.atMs >= origin - span * 0.1 && (mark.endMs ?? mark.atMs) <= end + span * 0.5);
  const whole: Range = { from: near.reduce((at, mark) => Math.min(at, mark.atMs), origin), to: near.reduce((at, mark) => Math.max(at, mark.endMs ?? mark.atMs), origin + span) };
  const lettered = marks.map((mark, index) => ({ ...mark, letter: letterOf(index), shown: near.includes(mark) }));
  const parts = [plot(timeline, lettered.filter((mark) => mark.shown), whole, origin, `Timeline of the steps, ${formatDuration(span)} in all`)];
  parts.push(legend(timeline, lettered, origin, zero));
  for (const window of lettered) {
    const width = (window.endMs ?? window.atMs) - window.atMs;
    if (window.kind !== 'window' || !window.shown || width <= 0 || width >= (whole.to - whole.from) * MAGNIFY_BELOW) continue;
    const range: Range = { from: window.atMs - width * 0.2, to: window.atMs + width * 1.2 };
    const within = timeline.filter((entry) => entry.endMs >= range.from && entry.startMs <= range.to);
    const inside = lettered.filter((mark) => mark.shown && (mark.endMs ?? mark.atMs) >= range.from && mark.atMs <= range.to);
    parts.push(`<h3>Enlarged: ${escapeMarkup(window.label)} (${window.letter}), ${formatDuration(width)}</h3>`, plot(within, inside, range, window.atMs, `Enlarged: ${window.label}`));
    parts.push(`<p class="note">Time counts from the beginning of ${window.letter}. An arrow means that a bar goes on beyond the edge; the figures at the right are for the whole step.</p>`);
  }
  return parts.join('\n');
}

interface Lettered extends TimelineMark {
  readonly letter: string;
  readonly shown: boolean;
}

function plot(timeline: readonly TimelineEntry[], marks: readonly Lettered[], range: Range, zeroMs: number, name: string): string {
  const x = (ms: number): number => LEFT + ((Math.min(range.to, Math.max(range.from, ms)) - range.from) / (range.to - range.from)) * (RIGHT - LEFT);
  const pieces: string[] = [];
  let rows: string[] = [];
  const head = 20 + flagRows(marks, x) * 15;
  // Pieces of about the same height, not a last one with a single bar.
  const total = timeline.reduce((sum, entry) => sum + rowHeight(entry), 0);
  const limit = head + total / Math.ceil(total / PIECE_HEIGHT) + 24;
  let y = head;
  const close = (): void => {
    if (rows.length > 0) pieces.push(frame(rows, marks, range, zeroMs, x, head, y, pieces.length === 0 ? name : `${name}, continued`));
    rows = [];
    y = head;
  };
  let group: string | undefined;
  for (const [index, entry] of timeline.entries()) {
    const height = rowHeight(entry);
    // A name for one step only is no group; it stands below the step's own name.
    const grouped = entry.group !== undefined && (timeline[index - 1]?.group === entry.group || timeline[index + 1]?.group === entry.group);
    const opens = grouped && entry.group !== group;
    if (rows.length > 0 && y + height + (opens ? 18 : 0) > limit) close();
    if (grouped && (opens || rows.length === 0)) {
      rows.push(`<text x="0" y="${y + 14}" class="group">${escapeMarkup(shorten(entry.group!, 90))}</text>`);
      y += 18;
    }
    group = grouped ? entry.group : undefined;
    rows.push(row(entry, grouped, range, x, y, height));
    y += height;
  }
  close();
  return pieces.join('\n');
}

function rowHeight(entry: TimelineEntry): number {
  return Math.max(22, (wrap(entry.label, LABEL_CHARACTERS).length + (entry.detail === undefined ? 0 : wrap(entry.detail, DETAIL_CHARACTERS).length)) * LINE_HEIGHT + 6);
}

function row(entry: TimelineEntry, grouped: boolean, range: Range, x: (ms: number) => number, y: number, height: number): string {
  const [left, right] = [x(entry.startMs), x(entry.endMs)];
  const width = Math.max(2, right - left);
  const at = Math.min(left, RIGHT - width);
  const indent = grouped ? 10 : 0;
  const label = wrap(entry.label, LABEL_CHARACTERS);
  const lines = [...label.map((text) => ['label', text]), ...(entry.detail === undefined ? [] : wrap(entry.detail, DETAIL_CHARACTERS).map((text) => ['small', text]))];
  const texts = lines.map(([style, text], line) => `<text x="${indent}" y="${y + 13 + line * LINE_HEIGHT}"${style === 'small' ? ' class="small"' : ''}>${escapeMarkup(text!)}</text>`).join('');
  const failed = isFailure(entry.outcome);
  const arrows = `${entry.startMs < range.from ? `<path d="M${LEFT - 1} ${y + 11}l7 -5v10z"/>` : ''}${entry.endMs > range.to ? `<path d="M${RIGHT + 1} ${y + 11}l-7 -5v10z"/>` : ''}`;
  return (
    `<g><title>${escapeMarkup(`${entry.label}: ${entry.outcome}, took ${formatDuration(entry.endMs - entry.startMs)}`)}</title>` +
    `<line x1="0" y1="${y + height - 1}" x2="${WIDTH}" y2="${y + height - 1}" class="rule"/>${texts}` +
    `<rect x="${at.toFixed(1)}" y="${y + 4}" width="${width.toFixed(1)}" height="14" ${STYLES[styleOf(entry.outcome)].paint}/>${arrows}` +
    `<text x="${RIGHT + 10}" y="${y + 13}" class="figure">${escapeMarkup(formatDuration(entry.endMs - entry.startMs))}</text>` +
    `<text x="${WIDTH}" y="${y + 13}" class="${failed ? 'alarm' : 'small'}" text-anchor="end">${escapeMarkup(shorten(failed ? entry.outcome.toUpperCase() : entry.outcome, 18))}</text></g>`
  );
}

function frame(rows: readonly string[], marks: readonly Lettered[], range: Range, zeroMs: number, x: (ms: number) => number, top: number, bottom: number, name: string): string {
  const windows = marks.filter(isSpan).map((mark) => {
    const width = Math.max(1.5, x(mark.endMs ?? mark.atMs) - x(mark.atMs));
    return `<rect x="${x(mark.atMs).toFixed(1)}" y="${top}" width="${width.toFixed(1)}" height="${bottom - top}" ${mark.kind === 'waiting' ? 'fill="url(#rows)"' : 'fill="#d4d4d4"'} stroke="#6b6b6b" stroke-width=".6"/>`;
  });
  const ticks = axisTicks(range, zeroMs).map((ms) => {
    const at = x(zeroMs + ms).toFixed(1);
    return `<line x1="${at}" y1="${top - 4}" x2="${at}" y2="${bottom}" class="tick"/><text class="small" x="${at}" y="${top - 7}" text-anchor="middle">${escapeMarkup(formatTick(ms))}</text>`;
  });
  const ends: number[] = [];
  const flags = [...marks].sort((a, b) => a.atMs - b.atMs).map((mark) => {
    const centre = isSpan(mark) ? (x(mark.atMs) + x(mark.endMs ?? mark.atMs)) / 2 : x(mark.atMs);
    const level = levelOf(ends, centre);
    const y = 9 + level * 15;
    const line = isSpan(mark) ? '' : `<line x1="${centre.toFixed(1)}" y1="${y + 6}" x2="${centre.toFixed(1)}" y2="${bottom}" stroke="#000" stroke-width="${mark.kind === 'no-return' ? 2.2 : 1.2}" stroke-dasharray="${mark.kind === 'no-return' ? '7 3' : mark.kind === 'objective' ? '2 2' : '1 4'}"/>`;
    return `${line}<circle cx="${centre.toFixed(1)}" cy="${y}" r="7" fill="#fff" stroke="#000"/><text x="${centre.toFixed(1)}" y="${y + 3.7}" class="flag" text-anchor="middle">${mark.letter}</text>`;
  });
  return `<svg viewBox="0 0 ${WIDTH} ${bottom + 4}" role="img" aria-label="${escapeMarkup(name)}">${DEFINITIONS}${windows.join('')}${ticks.join('')}${rows.join('\n')}${flags.join('')}</svg>`;
}

function isSpan(mark: TimelineMark): boolean {
  return mark.kind === 'window' || mark.kind === 'waiting';
}

/** Flags that would lie on each other stand in rows. */
function levelOf(ends: number[], centre: number): number {
  let level = ends.findIndex((end) => centre - end >= 16);
  if (level < 0) level = ends.length;
  ends[level] = centre;
  return level;
}

function flagRows(marks: readonly Lettered[], x: (ms: number) => number): number {
  const ends: number[] = [];
  for (const mark of [...marks].sort((a, b) => a.atMs - b.atMs)) levelOf(ends, isSpan(mark) ? (x(mark.atMs) + x(mark.endMs ?? mark.atMs)) / 2 : x(mark.atMs));
  return ends.length;
}

function legend(timeline: readonly TimelineEntry[], marks: readonly Lettered[], origin: number, zero: string | undefined): string {
  const styles = [...new Set(timeline.map((entry) => styleOf(entry.outcome)))];
  const items = styles.map((style) => `<span class="key"><svg viewBox="0 0 26 14" aria-hidden="true">${DEFINITIONS}<rect x="1" y="1" width="24" height="12" ${STYLES[style].paint}/></svg>${STYLES[style].text}</span>`);
  const rows = marks.map((mark) => {
    const at = mark.endMs === undefined ? `at ${formatMoment(mark.atMs - origin)}` : `from ${formatMoment(mark.atMs - origin)} to ${formatMoment(mark.endMs - origin)}, ${formatDuration(mark.endMs - mark.atMs)}`;
    return `<li><b>${mark.letter}</b> ${escapeMarkup(mark.label)}: ${at}${mark.shown ? '' : ' (outside the drawing)'}</li>`;
  });
  return `<p class="note">${items.join(' ')}</p>${rows.length === 0 ? '' : `<ul class="marks">${rows.join('')}</ul>`}${zero === undefined ? '' : `<p class="note">Time counts from ${escapeMarkup(zero)}.</p>`}`;
}

const STYLES = {
  done: { text: 'done', paint: 'fill="#31577a" stroke="#000" stroke-width=".8"' },
  satisfied: { text: 'nothing had to be done', paint: 'fill="#fff" stroke="#000" stroke-width="1.2"' },
  undone: { text: 'undone', paint: 'fill="#fff" stroke="#000" stroke-width="1.2" stroke-dasharray="3 2"' },
  skipped: { text: 'skipped', paint: 'fill="url(#dots)" stroke="#000" stroke-width=".6"' },
  declared: { text: 'declared by a person, not seen', paint: 'fill="url(#dots)" stroke="#000" stroke-width="1.2" stroke-dasharray="3 2"' },
  failed: { text: 'failed or not known', paint: 'fill="url(#hatch)" stroke="#000" stroke-width="1.2"' },
} as const;

const DEFINITIONS =
  '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/><rect width="3" height="6" fill="#8c0f1b"/></pattern>' +
  '<pattern id="dots" width="4" height="4" patternUnits="userSpaceOnUse"><rect width="4" height="4" fill="#fff"/><circle cx="1.5" cy="1.5" r=".8" fill="#000"/></pattern>' +
  '<pattern id="rows" width="6" height="6" patternUnits="userSpaceOnUse"><rect width="6" height="6" fill="#fff"/><line x1="0" y1="3" x2="6" y2="3" stroke="#ccc" stroke-width="1"/></pattern></defs>';

function styleOf(outcome: string): keyof typeof STYLES {
  if (isFailure(outcome)) return 'failed';
  if (/undone/i.test(outcome)) return 'undone';
  if (/skip/i.test(outcome)) return 'skipped';
  if (/declared/i.test(outcome)) return 'declared';
  return /satisfied/i.test(outcome) ? 'satisfied' : 'done';
}

export function isFailure(outcome: string): boolean {
  return /fail|bad|unknown|miss|denied|abort|reject/i.test(outcome);
}

export function originOf(timeline: readonly TimelineEntry[]): number {
  return timeline.reduce((earliest, entry) => Math.min(earliest, entry.startMs), timeline[0]?.startMs ?? 0);
}

const TICK_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 14_400_000, 43_200_000, 86_400_000];

/** Round steps, at most six of them, counted from zero. */
function axisTicks({ from, to }: Range, zeroMs: number): number[] {
  const span = to - from;
  const step = TICK_STEPS.find((candidate) => span / candidate <= 6) ?? Math.ceil(span / 6);
  const first = Math.ceil((from - zeroMs) / step);
  const ticks: number[] = [];
  for (let count = 0; count <= 7 && (first + count) * step <= to - zeroMs; count += 1) ticks.push((first + count) * step + 0);
  return ticks;
}

function formatTick(ms: number): string {
  if (ms < 0) return `-${formatTick(-ms)}`;
  if (ms === 0) return '0';
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60_000) return `${ms / 1000} s`;
  if (ms < 3_600_000) return `${ms / 60_000} min`;
  return ms < 86_400_000 * 2 ? `${ms / 3_600_000} h` : `${Math.round(ms / 86_400_000)} d`;
}

/** To the millisecond: what is marked is compared with each other. */
export function formatMoment(ms: number): string {
  if (ms < 0) return `-${formatMoment(-ms)}`;
  const rounded = Math.round(ms);
  const seconds = `${String(Math.floor((rounded % 60_000) / 1000)).padStart(2, '0')}.${String(rounded % 1000).padStart(3, '0')}`;
  const minutes = Math.floor(rounded / 60_000);
  return minutes < 60 ? `${String(minutes).padStart(2, '0')}:${seconds}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, '0')}:${seconds}`;
}

/** A, B, ... Z, then numbers. */
function letterOf(index: number): string {
  return index < 26 ? String.fromCharCode(65 + index) : String(index - 25);
}

/** At most three lines; words are broken where they are too long for one. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let rest = text.trim().slice(0, 500);
  while (rest.length > width && lines.length < 2) {
    const blank = Math.max(rest.lastIndexOf(' ', width), rest.lastIndexOf('-', width - 1) + 1, rest.lastIndexOf('.', width - 1) + 1);
    const cut = blank > width / 3 ? blank : width;
    lines.push(rest.slice(0, cut).trim());
    rest = rest.slice(cut).trim();
  }
  return [...lines, shorten(rest, width)];
}

function shorten(text: string, length: number): string {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

export function escapeMarkup(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;').replaceAll("'", '&#39;');
}
