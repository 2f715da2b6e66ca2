/** What is wrong with a report.json, found from its text alone. Whatever the text holds, the answer is findings, never an error. */
import { z } from 'zod';
import { FIRST_PREVIOUS_SHA256, REPORT_FORMAT, REPORT_FORMATS, canonicalJson, type Fact, type Sha256 } from './evidence.ts';

const text = z.string();
const moment = text.refine((value) => !Number.isNaN(Date.parse(value)), 'expected a time');
/** What a clock can show. */
const milliseconds = z.number().min(-8.64e15).max(8.64e15);

const headerShape = z.looseObject({
  kind: text, subject: text, service: text.nullable(), outcome: text, title: text, summary: text, workflowId: text, runId: text, requestedBy: text, reason: text,
  startedAt: moment, finishedAt: moment, planHash: text.nullable(), id: text, environment: text,
});
const sealedHeaderShape = headerShape.extend({
  layout: z.int(),
  signedBy: text.nullable(),
  unsigned: text.nullable(),
  position: z.strictObject({ chain: text, sequence: z.int().min(1), previous: z.strictObject({ id: text, sha256: text }).nullable() }).nullable(),
  unchained: text.nullable(),
});

/** The facts that reports are made of; all others may hold anything. */
const SHAPES: readonly (readonly [kind: string, shape: z.ZodType])[] = [
  ['header', sealedHeaderShape],
  ['measurements', z.array(z.looseObject({ name: text, unit: z.enum(['ms', 'count', 'bytes']), objective: z.number().nullable(), measured: z.number().nullable(), note: text.optional() }))],
  ['timeline', z.array(z.looseObject({ label: text, startMs: milliseconds, endMs: milliseconds, outcome: text, group: text.optional(), detail: text.optional() }))],
  ['checks', z.array(z.looseObject({ name: text, ok: z.boolean(), found: text, expected: text, next: text.optional(), overridden: text.optional() }))],
  ['appendix', text.nullable()],
  ['annotations', z.strictObject({ marks: z.array(z.looseObject({ kind: text, label: text, atMs: milliseconds, endMs: milliseconds.optional() })), cautions: z.array(text) })],
];
const SHAPES_1: typeof SHAPES = [['header', headerShape], ...SHAPES.slice(1, 5)];

export interface CheckedReport {
  /** In order, as far as they could be read. */
  readonly facts: readonly Fact[];
  readonly format: number;
  /** Each names the fact it is about. */
  readonly problems: readonly string[];
}

/** @param signed the lines of facts.sha256, when that file is what was written: they tell which fact was replaced, moved, added or cut off. */
export function checkReport(report: string, sha256: Sha256, signed?: readonly string[]): CheckedReport {
  const problems: string[] = [];
  const facts: Fact[] = [];
  const lines = report.split('\n');
  const first = lines.shift();
  const format = REPORT_FORMATS.find((known) => first === `{"format":${known},"facts":[`);
  if (format === undefined) problems.push(`report.json line 1: expected {"format":${REPORT_FORMAT},"facts":[, found ${quote(first ?? '')}`);
  if (lines.pop() !== '' || lines.pop() !== ']}') problems.push('report.json end: expected the closing line ]}, so its end was changed or cut off');
  let previousSha256 = FIRST_PREVIOUS_SHA256;
  for (const [index, line] of lines.entries()) {
    const last = index === lines.length - 1;
    const body = line.endsWith(',') ? line.slice(0, -1) : line;
    const at = `report.json line ${index + 2}`;
    let fact: Fact;
    let canonical: string;
    let expected: string;
    try {
      fact = JSON.parse(body) as Fact;
      if (fact === null || typeof fact !== 'object' || Array.isArray(fact)) throw new SyntaxError('not an object');
      const { sha256: _stated, ...content } = fact;
      // Numbers beyond all bounds and endless nesting are JSON, but have no canonical form.
      canonical = canonicalJson(fact);
      expected = sha256(canonicalJson(content));
    } catch {
      problems.push(`fact ${index} (${at}) is no JSON any more: ${quote(body)}`);
      previousSha256 = '';
      continue;
    }
    const name = `fact ${index} (${typeof fact.kind === 'string' ? fact.kind.slice(0, 60) : 'of no kind'}, ${at})`;
    const stated: unknown = fact.sha256;
    if (fact.index !== index) problems.push(`${name} says it is fact ${quote(fact.index)}: a fact was removed, added or moved`);
    if (stated !== expected) problems.push(`${name} was changed: its SHA-256 is ${expected}, it states ${quote(stated)}`);
    else if (previousSha256 !== '' && fact.previousSha256 !== previousSha256) problems.push(`${name} does not follow the fact before it: a fact was removed, added, moved or changed`);
    if (canonical !== body || line.endsWith(',') === last) problems.push(`${name} was rewritten: its bytes are not in canonical form, first at column ${firstDifference(canonical, body) + 1}`);
    if (typeof fact.kind !== 'string' || typeof fact.at !== 'string') problems.push(`${name} has no kind or no time`);
    if (signed !== undefined && expected !== signed[index]) {
      const elsewhere = signed.indexOf(expected);
      problems.push(`${name} is not the one that was signed: ${elsewhere >= 0 ? `it is fact ${elsewhere}, moved here` : index >= signed.length ? 'it was added' : 'it was replaced'}`);
    }
    previousSha256 = typeof stated === 'string' ? stated : '';
    facts.push(fact);
  }
  if (lines.length === 0) problems.push('report.json holds no facts');
  else if (facts[0]?.kind !== 'header') problems.push('fact 0 is not the header');
  if (signed !== undefined && lines.length < signed.length) problems.push(`fact ${lines.length}${signed.length - lines.length === 1 ? '' : ` to ${signed.length - 1}`} cut off: ${signed.length} facts were signed, report.json holds ${lines.length}`);
  if (problems.length === 0) problems.push(...misshapen(facts, format ?? REPORT_FORMAT));
  return { facts, format: format ?? REPORT_FORMAT, problems };
}

/** A chain that holds over facts nobody of us would write: made by hand, or by a fault. Reports cannot be made of them. */
function misshapen(facts: readonly Fact[], format: number): string[] {
  return (format === 1 ? SHAPES_1 : SHAPES).flatMap(([kind, shape], index) => {
    const fact = facts[index];
    if (fact?.kind !== kind) return [`fact ${index} is ${fact === undefined ? 'not there' : quote(fact.kind)}, expected ${kind}`];
    const parsed = shape.safeParse(fact.data);
    const issue = parsed.success ? undefined : parsed.error.issues[0]!;
    return issue === undefined ? [] : [`fact ${index} (${kind}) has not the form of one: ${issue.path.join('.')}: ${issue.message}`];
  });
}

/** Index of the first character in which two texts differ. */
export function firstDifference(one: string, other: string): number {
  let at = 0;
  while (at < one.length && at < other.length && one[at] === other[at]) at += 1;
  return at;
}

/** For a message: bounded, on one line. */
export function quote(value: unknown): string {
  if (typeof value === 'number') return String(value);
  if (value === undefined) return 'nothing';
  const shown = typeof value === 'string' ? value : typeof value === 'object' && value !== null ? 'an object' : String(value);
  return JSON.stringify(shown.length > 80 ? `${shown.slice(0, 80)}...` : shown);
}
