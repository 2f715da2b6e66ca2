/** What a person wrote down on a break-glass checklist: checked in full, and made into a record that says where it comes from. */
import { z } from 'zod';
import type { CheckResult } from './api.ts';
import { stepKind } from './catalogue.ts';
import type { EvidenceInput, Measurement, TimelineEntry } from './evidence.ts';
import type { Plan } from './execution.ts';
import { secretShape } from './secret-shape.ts';

export const BY_HAND_OUTCOMES = ['done', 'skipped', 'failed', 'not begun'] as const;

/** Times are ISO 8601 with a zone. An empty text, or null for a figure: nobody saw it. */
export const breakGlassResultsSchema = z.strictObject({
  format: z.literal(1),
  service: z.string().nullable(),
  runbook: z.string(),
  kind: z.enum(['failover', 'failback', 'runbook']),
  mode: z.enum(['planned', 'forced']),
  environment: z.string(),
  parameters: z.record(z.string(), z.unknown()),
  planHash: z.string(),
  madeAt: z.string(),
  primary: z.string().nullable(),
  candidate: z.string().nullable(),
  by: z.string(),
  reason: z.string(),
  startedAt: z.string(),
  finishedAt: z.string(),
  lastGoodWriteAt: z.string(),
  firstGoodWriteAt: z.string(),
  lostTransactions: z.number().nullable(),
  steps: z.array(z.strictObject({ id: z.string(), uses: z.string(), outcome: z.string(), by: z.string(), at: z.string(), output: z.string() })).min(1),
});

/** The file of results: the template that an export writes, filled in. */
export type BreakGlassResults = z.output<typeof breakGlassResultsSchema>;

/** Everything that is wrong with a filled-in file, at once; none means that it can be recorded. */
export function resultsProblems(value: unknown, nowMs: number): string[] {
  const parsed = breakGlassResultsSchema.safeParse(value);
  if (!parsed.success) return parsed.error.issues.map((issue) => `${issue.path.join('.') || 'file'}: ${issue.message}`);
  const results = parsed.data;
  const problems: string[] = [];
  const filled = (path: string, text: string, what: string): void => {
    if (text.trim() === '') problems.push(`${path}: empty; expected ${what}`);
  };
  const time = (path: string, text: string, required: boolean): number | null => {
    if (text.trim() === '') {
      if (required) problems.push(`${path}: empty; expected a time such as 2026-11-21T03:12:45+09:00`);
      return null;
    }
    const ms = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(text) ? Date.parse(text) : Number.NaN;
    if (Number.isNaN(ms)) problems.push(`${path}: found "${text}"; expected a time with its zone such as 2026-11-21T03:12:45+09:00`);
    else if (ms > nowMs + 60_000) problems.push(`${path}: ${text} is in the future`);
    else return ms;
    return null;
  };
  filled('by', results.by, 'who did it');
  filled('reason', results.reason, 'why it was done');
  const started = time('startedAt', results.startedAt, true);
  const finished = time('finishedAt', results.finishedAt, true);
  if (started !== null && finished !== null && finished < started) problems.push(`finishedAt: ${results.finishedAt} is before startedAt ${results.startedAt}`);
  const lastGood = time('lastGoodWriteAt', results.lastGoodWriteAt, false);
  const firstGood = time('firstGoodWriteAt', results.firstGoodWriteAt, false);
  if (lastGood !== null && firstGood !== null && firstGood < lastGood) problems.push('firstGoodWriteAt: before lastGoodWriteAt; it is the first write on the NEW primary');
  if (firstGood !== null && started !== null && firstGood < started) problems.push('firstGoodWriteAt: before startedAt; it is the first write on the NEW primary');
  if (results.lostTransactions !== null && (!Number.isInteger(results.lostTransactions) || results.lostTransactions < 0)) problems.push('lostTransactions: expected a whole number that was counted, or null when nobody counted');
  const seen = new Set<string>();
  for (const [index, step] of results.steps.entries()) {
    const path = `steps.${index} (${step.id})`;
    if (seen.has(step.id)) problems.push(`${path}: this step stands twice`);
    seen.add(step.id);
    if (stepKind(step.uses) === undefined) problems.push(`${path}.uses: there is no step kind "${step.uses}"`);
    if (!(BY_HAND_OUTCOMES as readonly string[]).includes(step.outcome)) problems.push(`${path}.outcome: found "${step.outcome}"; expected one of ${BY_HAND_OUTCOMES.join(', ')}`);
    if (step.outcome === 'skipped') filled(`${path}.output`, step.output, 'why it was skipped');
    const secret = secretShape(step.output);
    if (secret !== undefined) problems.push(`${path}.output: it looks like ${secret}, and history would keep it; take it out`);
    if (step.outcome !== 'done' && step.outcome !== 'failed') continue;
    filled(`${path}.by`, step.by, 'initials or a name');
    const at = time(`${path}.at`, step.at, true);
    if (at !== null && started !== null && finished !== null && (at < started || at > finished)) problems.push(`${path}.at: ${step.at} is not between startedAt and finishedAt`);
  }
  if (results.service === null && results.kind !== 'runbook') problems.push(`service: empty; expected the service, since this is a ${results.kind}`);
  if (promoted(results) && (results.primary === null || results.candidate === null)) problems.push('primary, candidate: expected both node names, since a promotion was done');
  return problems;
}

/** A step that cannot be taken back was done. */
export function promoted(results: BreakGlassResults): boolean {
  return results.steps.some((step) => step.outcome === 'done' && stepKind(step.uses)?.pointOfNoReturn === true);
}

/** What the file says about itself, before any system is asked. */
export function consistencyChecks(results: BreakGlassResults, presentPlanHash: string | null, planned?: readonly { readonly id: string; readonly uses: string }[]): CheckResult[] {
  const expected = presentPlanHash === results.planHash ? planned : undefined;
  const names = (steps: readonly { readonly id: string; readonly uses: string }[]): string => steps.map(({ id, uses }) => `${id} (${uses})`).join(', ');
  const of = (kind: string): string => results.steps.find((step) => step.uses === kind && step.outcome === 'done')?.at ?? '';
  const fencedAt = of('postgres.readOnly') || of('postgres.fence');
  const promotedAt = of('postgres.promote');
  return [
    ...(promotedAt === '' ? [] : [{ name: 'fenced before promoted', ok: fencedAt !== '' && Date.parse(fencedAt) <= Date.parse(promotedAt), expected: 'the old primary fenced or refusing writes, then the promotion', found: fencedAt === '' ? 'no fencing was written down' : `${fencedAt}, ${promotedAt}`, next: 'look for writes on the old primary after the promotion' }]),
    // A step that was taken out of the file would be missed by nobody.
    ...(expected === undefined ? [] : [{ name: 'steps of the checklist', ok: names(results.steps) === names(expected), expected: names(expected), found: names(results.steps), next: 'fill in the template as it was written, every step of it' }]),
    { name: 'checklist and runbook', ok: presentPlanHash === results.planHash, expected: `plan ${results.planHash.slice(0, 12)}`, found: presentPlanHash === null ? 'no plan can be made of the present configuration' : `plan ${presentPlanHash.slice(0, 12)}`, next: 'configuration or runbook changed since the checklist was made: make new ones' },
  ];
}

export interface ImportedContext {
  readonly importedBy: string;
  readonly importedAt: string;
  readonly workflowId: string;
  readonly runId: string;
  readonly title: string;
  readonly objectives: Plan['objectives'];
  /** Consistency and live state. */
  readonly checks: readonly CheckResult[];
}

/** `succeeded by hand`, `failed by hand` or `not completed by hand`, with what makes that doubtful. */
export function importedOutcome(results: BreakGlassResults, checks: readonly CheckResult[]): string {
  const outcome = results.steps.some((step) => step.outcome === 'failed') ? 'failed' : results.steps.some(leftUndone) ? 'not completed' : 'succeeded';
  return `${outcome} by hand${checks.every((check) => check.ok) ? '' : ', not confirmed'}`;
}

/** Not begun, or left out although nobody may leave it out: a failover without its promotion succeeded at nothing. */
function leftUndone({ uses, outcome }: BreakGlassResults['steps'][number]): boolean {
  return outcome === 'not begun' || (outcome === 'skipped' && stepKind(uses)?.pointOfNoReturn === true);
}

export function importedRecord(results: BreakGlassResults, context: ImportedContext): EvidenceInput {
  const written = `as written down by ${results.by}`;
  const started = Date.parse(results.startedAt);
  const [last, first] = [results.lastGoodWriteAt, results.firstGoodWriteAt].map((text) => (text === '' ? null : Date.parse(text)));
  const none = 'done by hand, and nobody wrote it down';
  const { objectives } = context;
  const planned = results.mode === 'planned';
  const figure = (name: string, unit: Measurement['unit'], objective: number | null, measured: number | null): Measurement => ({ name, unit, objective, measured, note: measured === null ? none : written });
  const measurements: Measurement[] = promoted(results)
    ? [
        // Forced: it was down before anybody began; without the time of its last write nobody knows for how long.
        planned
          ? figure('RTO by hand: start to first good write', 'ms', objectives?.rtoMs ?? null, first == null ? null : Math.max(0, first - started))
          : figure('RTO by hand: last good write to first good write', 'ms', objectives?.rtoMs ?? null, first == null || last == null ? null : first - last),
        { ...figure('RPO: work lost', 'ms', objectives?.rpoMs ?? null, null), note: 'done by hand: no canary ran, so work lost was not measured as time' },
        figure('refused-write window', 'ms', planned ? (objectives?.refusedWritesMs ?? null) : null, first == null || last == null ? null : first - last),
        figure('acknowledged writes lost', 'count', planned ? (objectives?.lostWrites ?? null) : null, results.lostTransactions),
      ]
    : [];
  const timeline: TimelineEntry[] = results.steps
    .filter((step) => step.at !== '')
    // One time was written down for a step: a moment, not a duration.
    .map((step) => ({ label: step.id, startMs: Date.parse(step.at), endMs: Date.parse(step.at), outcome: step.outcome === 'done' ? 'done by hand' : step.outcome, group: step.uses }));
  const { steps, ...head } = results;
  return {
    kind: results.kind,
    subject: results.service ?? results.runbook,
    service: results.service,
    outcome: importedOutcome(results, context.checks),
    title: `${context.title}: ${results.service ?? results.runbook} (${results.mode}, BY HAND)`,
    summary: `${results.primary === null ? '' : `${results.primary} -> ${results.candidate ?? '?'}, `}done by hand from a break-glass checklist and imported afterwards; times and outcomes are ${written}, not measured by Holdfast`,
    workflowId: context.workflowId,
    runId: context.runId,
    requestedBy: results.by,
    reason: results.reason,
    startedAt: new Date(started).toISOString(),
    finishedAt: new Date(Date.parse(results.finishedAt)).toISOString(),
    planHash: results.planHash,
    measurements,
    timeline,
    checks: context.checks,
    facts: [
      { at: context.importedAt, kind: 'source', data: { source: 'imported, by hand', importedBy: context.importedBy, importedAt: context.importedAt, results: head } },
      ...steps.map((step) => ({ at: step.at === '' ? context.importedAt : new Date(Date.parse(step.at)).toISOString(), kind: 'step by hand', data: step })),
    ],
  };
}
