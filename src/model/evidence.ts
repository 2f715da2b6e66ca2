import type { CheckResult } from './api.ts';

/** Facts are chained: each carries the SHA-256 of the one before, so that a changed byte names its fact. */
export interface Fact {
  readonly index: number;
  /** ISO 8601. */
  readonly at: string;
  readonly kind: string;
  readonly data: unknown;
  readonly previousSha256: string;
  readonly sha256: string;
}

/** A fact before chaining: what workflows hand over. */
export interface FactInput {
  readonly at: string;
  readonly kind: string;
  readonly data: unknown;
}

export interface Measurement {
  readonly name: string;
  readonly unit: 'ms' | 'count' | 'bytes';
  /** null: there is no objective for it. */
  readonly objective: number | null;
  /** null: it was not measured; `note` says why. Never an estimate. */
  readonly measured: number | null;
  readonly note?: string;
}

/** What a workflow hands to the activity `writeEvidence`. */
export interface EvidenceInput {
  readonly kind: 'drill' | 'failover' | 'failback' | 'runbook';
  readonly subject: string;
  readonly service: string | null;
  readonly outcome: string;
  readonly title: string;
  readonly summary: string;
  readonly workflowId: string;
  readonly runId: string;
  readonly requestedBy: string;
  readonly reason: string;
  readonly startedAt: string;
  readonly finishedAt: string;
  readonly planHash: string | null;
  readonly measurements: readonly Measurement[];
  readonly timeline: readonly TimelineEntry[];
  readonly checks: readonly CheckResult[];
  readonly facts: readonly FactInput[];
  /** Markdown to append: e.g. the generated failback plan. */
  readonly appendix?: string;
}

export interface TimelineEntry {
  readonly label: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly outcome: string;
  readonly group?: string;
}

export interface EvidenceLocation {
  readonly id: string;
  readonly directory: string;
  readonly sha256: string;
  readonly signed: boolean;
}

/** What stands before the first fact. */
export const FIRST_PREVIOUS_SHA256 = '0'.repeat(64);
export const REPORT_FORMAT = 1;

/** Hex SHA-256 of a text's UTF-8 bytes; handed in, since the model does no I/O and holds no crypto. */
export type Sha256 = (text: string) => string;

/** The fields of the input that head the report; they are fact 0, so that nothing is outside the chain. */
export interface ReportHeader extends Omit<EvidenceInput, 'measurements' | 'timeline' | 'checks' | 'facts' | 'appendix'> {
  readonly id: string;
  readonly environment: string;
}

/** A report as its readers need it, put together from its facts only. */
export interface Report {
  readonly header: ReportHeader;
  readonly measurements: readonly Measurement[];
  readonly timeline: readonly TimelineEntry[];
  readonly checks: readonly CheckResult[];
  readonly appendix: string | undefined;
  readonly facts: readonly Fact[];
}

/** JSON with sorted keys and no spaces: one text for one value. @throws RangeError for what JSON cannot say. */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new RangeError(`${value} has no form in JSON`);
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map((item) => canonicalJson(item ?? null)).join(',')}]`;
  if (typeof value === 'object') {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`).join(',')}}`;
  }
  throw new RangeError(`a ${typeof value} has no form in JSON`);
}

/** All that is known, as facts in order: header, measurements, timeline, checks, appendix, then what happened. */
export function factsOf(input: EvidenceInput, id: string, environment: string): FactInput[] {
  const { measurements, timeline, checks, facts, appendix, ...header } = input;
  const at = input.finishedAt;
  return [
    { at: input.startedAt, kind: 'header', data: { ...header, id, environment } },
    { at, kind: 'measurements', data: measurements },
    { at, kind: 'timeline', data: timeline },
    { at, kind: 'checks', data: checks },
    { at, kind: 'appendix', data: appendix ?? null },
    ...facts,
  ];
}

export function chainFacts(facts: readonly FactInput[], sha256: Sha256): Fact[] {
  let previousSha256 = FIRST_PREVIOUS_SHA256;
  return facts.map(({ at, kind, data }, index) => {
    const body = { index, at, kind, data, previousSha256 };
    const hash = sha256(canonicalJson(body));
    previousSha256 = hash;
    return { ...body, sha256: hash };
  });
}

/** report.json: one fact a line, so that a changed byte names its fact even where it is no JSON any more. */
export function serialiseReport(facts: readonly Fact[]): string {
  return `{"format":${REPORT_FORMAT},"facts":[\n${facts.map((fact) => canonicalJson(fact)).join(',\n')}\n]}\n`;
}

/** What is wrong with a report.json, each finding with the fact it is about; none means that the chain holds. */
export function checkReport(text: string, sha256: Sha256): { facts: Fact[]; problems: string[] } {
  const problems: string[] = [];
  const facts: Fact[] = [];
  const lines = text.split('\n');
  const first = lines.shift();
  if (first !== `{"format":${REPORT_FORMAT},"facts":[`) problems.push(`report.json line 1: expected {"format":${REPORT_FORMAT},"facts":[, found ${quote(first ?? '')}`);
  if (lines.pop() !== '' || lines.pop() !== ']}') problems.push('report.json end: expected the closing line ]}, so its end was changed or cut off');
  let previousSha256 = FIRST_PREVIOUS_SHA256;
  for (const [index, line] of lines.entries()) {
    const last = index === lines.length - 1;
    const body = line.endsWith(',') ? line.slice(0, -1) : line;
    let fact: Fact;
    try {
      fact = JSON.parse(body) as Fact;
      if (fact === null || typeof fact !== 'object' || Array.isArray(fact)) throw new SyntaxError('not an object');
    } catch {
      problems.push(`fact ${index} (report.json line ${index + 2}) is no JSON any more: ${quote(body)}`);
      previousSha256 = '';
      continue;
    }
    const name = `fact ${index} (${typeof fact.kind === 'string' ? fact.kind : 'of no kind'}, report.json line ${index + 2})`;
    const { sha256: stated, ...content } = fact;
    const expected = sha256(canonicalJson(content));
    if (fact.index !== index) problems.push(`${name} says it is fact ${String(fact.index)}: a fact was removed, added or moved`);
    if (stated !== expected) problems.push(`${name} was changed: its SHA-256 is ${expected}, it states ${String(stated)}`);
    else if (previousSha256 !== '' && fact.previousSha256 !== previousSha256) problems.push(`${name} does not follow the fact before it: a fact was removed, added, moved or changed`);
    if (canonicalJson(fact) !== body || line.endsWith(',') === last) problems.push(`${name} was rewritten: its bytes are not in canonical form`);
    previousSha256 = typeof stated === 'string' ? stated : '';
    facts.push(fact);
  }
  if (lines.length === 0) problems.push('report.json holds no facts');
  else if (facts[0]?.kind !== 'header') problems.push('fact 0 is not the header');
  return { facts, problems };
}

function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text);
}

/** The report in the facts. @throws RangeError when there is no header. */
export function reportOf(facts: readonly Fact[]): Report {
  const [header, measurements, timeline, checks, appendix, ...rest] = facts;
  if (header?.kind !== 'header') throw new RangeError('fact 0 is not the header');
  return {
    header: header.data as ReportHeader,
    measurements: measurements?.data as Measurement[],
    timeline: timeline?.data as TimelineEntry[],
    checks: checks?.data as CheckResult[],
    appendix: typeof appendix?.data === 'string' ? appendix.data : undefined,
    facts: rest,
  };
}

export type MeasurementResult = 'met' | 'MISSED' | 'not measured' | 'no objective';

/** Only a measured figure can meet an objective; a figure equal to it does. */
export function judge(measurement: Measurement): MeasurementResult {
  if (measurement.measured === null) return 'not measured';
  if (measurement.objective === null) return 'no objective';
  return measurement.measured <= measurement.objective ? 'met' : 'MISSED';
}

/** `<yyyy-mm-dd>-<service or subject>-<kind>-<id>`. */
export function evidenceFolder(input: Pick<EvidenceInput, 'startedAt' | 'service' | 'subject' | 'kind'>, id: string): string {
  const name = (input.service ?? input.subject).toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 60);
  return `${new Date(input.startedAt).toISOString().slice(0, 10)}-${name === '' ? 'unnamed' : name}-${input.kind}-${id}`;
}
