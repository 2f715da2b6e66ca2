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
  /** What is drawn over the timeline, on its clock. */
  readonly marks?: readonly TimelineMark[];
  /** What a reader must know before the figures: overridden rules, steps declared by hand, what was not looked at. */
  readonly cautions?: readonly string[];
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
  /** Steps that belong together, e.g. those that ran in parallel. */
  readonly group?: string;
  /** Smaller, below the label: e.g. the kind of the step. */
  readonly detail?: string;
}

/** `window` and `waiting` have an end and are shaded, all others are lines; a short `window` is drawn once more, enlarged. */
export interface TimelineMark {
  readonly kind: 'window' | 'waiting' | 'no-return' | 'objective' | 'moment';
  readonly label: string;
  readonly atMs: number;
  readonly endMs?: number;
}

export interface EvidenceLocation {
  readonly id: string;
  readonly directory: string;
  readonly sha256: string;
  readonly signed: boolean;
  /** Where the copy is, when a store is configured and took it. */
  readonly stored?: string | null;
  /** What a person must be told: it is unsigned against a wish, not copied, not in the chain. */
  readonly problem?: string | null;
}

/** Where a record stands among all of its environment and service: record n names record n - 1, so that a removed one is missed. */
export interface ChainPosition {
  /** `<environment>/<service or subject>`. */
  readonly chain: string;
  /** From 1. */
  readonly sequence: number;
  readonly previous: { readonly id: string; readonly sha256: string } | null;
}

/** What heads a report besides its input. */
export interface Sealing {
  /** Key id of who signs, null: nobody. */
  readonly signedBy: string | null;
  /** Why nobody signs it. */
  readonly unsigned: string | null;
  readonly position: ChainPosition | null;
  /** Why it has no position. */
  readonly unchained: string | null;
}

export const UNSEALED: Sealing = { signedBy: null, unsigned: 'no signing key is configured', position: null, unchained: 'it was written by itself' };

/** What stands before the first fact. */
export const FIRST_PREVIOUS_SHA256 = '0'.repeat(64);
export const REPORT_FORMAT = 2;
/** Formats that can still be read: 1 had neither facts.sha256 nor the fields of `Sealing` nor the fact `annotations`. */
export const REPORT_FORMATS: readonly number[] = [1, 2];
/** Grows whenever report.md or report.html of the same facts come out otherwise; a test holds it. */
export const REPORT_LAYOUT = 2;

/** Hex SHA-256 of a text's UTF-8 bytes; handed in, since the model does no I/O and holds no crypto. */
export type Sha256 = (text: string) => string;

/** The fields of the input that head the report; they are fact 0, so that nothing is outside the chain. */
export interface ReportHeader extends Omit<EvidenceInput, 'measurements' | 'timeline' | 'checks' | 'facts' | 'appendix' | 'marks' | 'cautions'>, Partial<Sealing> {
  readonly id: string;
  readonly environment: string;
  readonly layout?: number;
}

/** A report as its readers need it, put together from its facts only. */
export interface Report {
  readonly header: ReportHeader;
  readonly measurements: readonly Measurement[];
  readonly timeline: readonly TimelineEntry[];
  readonly marks: readonly TimelineMark[];
  readonly cautions: readonly string[];
  readonly checks: readonly CheckResult[];
  readonly appendix: string | undefined;
  readonly facts: readonly Fact[];
}

const DEEPEST = 200;

/** JSON with sorted keys and no spaces: one text for one value. @throws RangeError for what JSON cannot say. */
export function canonicalJson(value: unknown, depth = 0): string {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw new RangeError(`${value} has no form in JSON`);
    return JSON.stringify(value);
  }
  // Counted, since how deep the stack is differs from one machine to the next: the same text must be good everywhere.
  if (depth > DEEPEST) throw new RangeError(`it is nested more than ${DEEPEST} deep`);
  if (Array.isArray(value)) return `[${value.map((item) => canonicalJson(item ?? null, depth + 1)).join(',')}]`;
  if (typeof value === 'object') {
    const entries = Object.entries(value).filter(([, item]) => item !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item, depth + 1)}`).join(',')}}`;
  }
  throw new RangeError(`a ${typeof value} has no form in JSON`);
}

/** All that is known, as facts in order: header, measurements, timeline, checks, appendix, annotations, then what happened. */
export function factsOf(input: EvidenceInput, id: string, environment: string, sealing: Sealing = UNSEALED): FactInput[] {
  const { measurements, timeline, checks, facts, appendix, marks, cautions, ...header } = input;
  const at = input.finishedAt;
  return [
    { at: input.startedAt, kind: 'header', data: { ...header, id, environment, layout: REPORT_LAYOUT, ...sealing } },
    { at, kind: 'measurements', data: measurements },
    { at, kind: 'timeline', data: timeline },
    { at, kind: 'checks', data: checks },
    { at, kind: 'appendix', data: appendix ?? null },
    { at, kind: 'annotations', data: { marks: marks ?? [], cautions: cautions ?? [] } },
    ...facts,
  ];
}

/** The facts of a record without what another attempt of the same run may say otherwise: who signed it and where it stands. */
export function withoutSealing(facts: readonly FactInput[]): string {
  return canonicalJson(
    facts.map(({ at, kind, data }, index) => {
      if (index > 0) return { at, kind, data };
      const { layout: _layout, signedBy: _signedBy, unsigned: _unsigned, position: _position, unchained: _unchained, ...header } = data as ReportHeader;
      return { at, kind, data: header };
    }),
  );
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

/** facts.sha256: a line for each fact, signed with the reports, so that a fact that was replaced together with all after it is named too. */
export function serialiseFactList(facts: readonly Pick<Fact, 'index' | 'kind' | 'sha256'>[]): string {
  return facts.map(({ index, kind, sha256 }) => `${sha256}  fact ${index} ${kind.replaceAll(/[^\x21-\x7e]+/g, '-')}\n`).join('');
}

/** The report in the facts. @throws RangeError when there is no header. */
export function reportOf(facts: readonly Fact[]): Report {
  const [header, measurements, timeline, checks, appendix, ...others] = facts;
  if (header?.kind !== 'header') throw new RangeError('fact 0 is not the header');
  const annotated = others[0]?.kind === 'annotations';
  const annotations = annotated ? (others[0]!.data as { marks: TimelineMark[]; cautions: string[] }) : { marks: [], cautions: [] };
  return {
    header: header.data as ReportHeader,
    measurements: measurements?.data as Measurement[],
    timeline: timeline?.data as TimelineEntry[],
    marks: annotations.marks,
    cautions: annotations.cautions,
    checks: checks?.data as CheckResult[],
    appendix: typeof appendix?.data === 'string' ? appendix.data : undefined,
    facts: annotated ? others.slice(1) : others,
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
  return `${new Date(input.startedAt).toISOString().slice(0, 10)}-${subjectName(input)}-${input.kind}-${id}`;
}

/** Service or subject as a name in paths. */
export function subjectName(input: Pick<EvidenceInput, 'service' | 'subject'>): string {
  const name = (input.service ?? input.subject).toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').replaceAll(/^-+|-+$/g, '').slice(0, 60);
  return name === '' ? 'unnamed' : name;
}
