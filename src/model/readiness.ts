/**
 * Could a service be recovered right now, and how do we know: what the checks of the workflow `readiness` come to, since when, whom
 * to tell, and which failed proofs stop a failover before its first change. Pure: whoever asks hands in what was found.
 */
import type { CheckResult, Notice } from './api.ts';
import type { Compliance } from './compliance.ts';
import type { BackupSummary } from './manifest.ts';
import type { Mode } from './runbook-schema.ts';
import type { Override, RuleName } from './rules.ts';
import { formatBytes, formatDuration } from './units.ts';

/** Best to worst. `unknown`: something that decides could not be asked. */
export const READINESS_LEVELS = ['ready', 'degraded', 'unknown', 'not-ready'] as const;
export type ReadinessLevel = (typeof READINESS_LEVELS)[number];

export interface ReadinessCheck extends CheckResult {
  /**
   * What it means when it fails. `hard`: the service cannot be recovered as its runbooks say. `lowers`: it can, but something it
   * counts on is worse than it should be. `unknown`: it could not be asked. Left out: `lowers` for the rules of LOWERING, else `hard`.
   */
  readonly weight?: 'hard' | 'lowers' | 'unknown';
}

/** Rules whose breach leaves a service recoverable. */
const LOWERING: ReadonlySet<RuleName> = new Set<RuleName>(['backup-age', 'drill-freshness', 'runbook-rehearsed', 'cooldown']);

function weightOf(check: ReadinessCheck): 'hard' | 'lowers' | 'unknown' {
  return check.weight ?? (check.rule !== undefined && LOWERING.has(check.rule) ? 'lowers' : 'hard');
}

/** A question without an answer; the text of a HoldfastError says behind `next:` what to do. */
export function unanswered(name: string, text: string, more: Partial<ReadinessCheck> = {}): ReadinessCheck {
  const [found, next] = text.split('\n  next: ');
  return { name, weight: 'unknown', ok: false, expected: 'an answer', ...more, found: found!, ...(next === undefined ? {} : { next }) };
}

/** What holds, or fails, in the same words for another mode or runbook is listed once. */
export function onlyNew(known: readonly ReadinessCheck[], others: readonly ReadinessCheck[]): ReadinessCheck[] {
  return others.filter((other) => !known.some((check) => other.name.endsWith(`: ${check.name}`) && check.ok === other.ok && check.found === other.found && check.expected === other.expected));
}

export interface Verdict {
  readonly level: ReadinessLevel;
  /** null: not known, since something that decides could not be asked. */
  readonly recoverable: boolean | null;
  /** The worst first. */
  readonly why: readonly string[];
}

/** What the checks come to. Nothing checked at all is no readiness. */
export function judgeReadiness(checks: readonly ReadinessCheck[]): Verdict {
  if (checks.length === 0) return { level: 'unknown', recoverable: null, why: ['nothing could be checked'] };
  const failed = checks.filter((check) => !check.ok);
  const of = (weight: ReadinessCheck['weight']): ReadinessCheck[] => failed.filter((check) => weightOf(check) === weight);
  const [hard, unknown, lowers] = [of('hard'), of('unknown'), of('lowers')];
  const level = hard.length > 0 ? 'not-ready' : unknown.length > 0 ? 'unknown' : lowers.length > 0 ? 'degraded' : 'ready';
  return { level, recoverable: level === 'unknown' ? null : level !== 'not-ready', why: describeGroups([...hard, ...unknown, ...lowers]) };
}

/** One cause found by several steps is said once. */
function describeGroups(checks: readonly ReadinessCheck[]): string[] {
  const groups = Map.groupBy(checks, (check) => JSON.stringify([check.expected, check.found, check.next ?? null]));
  return [...groups.values()].map((group) => {
    const [first] = group;
    const names = [...new Set(group.map((check) => check.name))];
    return `${names.join(', ')}: expected ${first!.expected}, found ${first!.found}${first!.next === undefined ? '' : ` (${first!.next})`}`;
  });
}

/** Datastores of a service whose primary no runbook's own look has named, and nothing says why: then nobody has asked whether they could be recovered. */
export function notLookedAt(datastores: readonly string[], known: readonly string[], checks: readonly ReadinessCheck[]): ReadinessCheck[] {
  if (checks.some((check) => !check.ok && weightOf(check) !== 'lowers')) return [];
  return datastores
    .filter((name) => !known.includes(name))
    .map((name) => unanswered(`${name}: recovery`, 'no step of the failover runbook that can be asked now looks for its primary', { expected: 'a runbook that fails it over', next: `add a postgres.health step for ${name}, or look at the readiness of the service whose runbook recovers it` }));
}

// --- since when ------------------------------------------------------------------------------------------------------------------

/** What a result says about time; carried from result to result, so that it outlives the histories it came from. */
export interface Since {
  readonly level: ReadinessLevel;
  /** ISO 8601: the first known result of this level in a row. */
  readonly since: string;
  /** false: nothing older is known, so it may have been so for longer. */
  readonly sinceKnown: boolean;
  /** The level before, and when it was last seen. */
  readonly before: { readonly level: ReadinessLevel; readonly lastSeenAt: string } | null;
}

/** A result as it was found in history; older ones say only whether it was recoverable. */
export interface EarlierReadiness extends Partial<Since> {
  readonly checkedAt: string;
  readonly recoverable: boolean | null;
}

export function sinceWhen(earlier: EarlierReadiness | null, level: ReadinessLevel, checkedAt: string): Since {
  if (earlier === null) return { level, since: checkedAt, sinceKnown: false, before: null };
  const was = levelOf(earlier);
  if (was !== level) return { level, since: checkedAt, sinceKnown: true, before: { level: was, lastSeenAt: earlier.checkedAt } };
  return { level, since: earlier.since ?? earlier.checkedAt, sinceKnown: earlier.sinceKnown ?? false, before: earlier.before ?? null };
}

export function levelOf(earlier: EarlierReadiness): ReadinessLevel {
  return earlier.level ?? (earlier.recoverable === null ? 'unknown' : earlier.recoverable ? 'ready' : 'not-ready');
}

export function describeSince(since: Since): string {
  const from = since.sinceKnown ? `since ${since.since}` : `since ${since.since} at the latest; nothing older is known`;
  return since.before === null ? from : `${from}; ${since.before.level} before, last seen so ${since.before.lastSeenAt}`;
}

/** Whom to tell what: a change for the worse needs someone, a change for the better is good news, the same is no news. */
export function readinessNotice(service: string, earlier: EarlierReadiness | null, verdict: Verdict, since: Since): Notice | null {
  const now = READINESS_LEVELS.indexOf(verdict.level);
  // Never looked at before: only what is wrong is news.
  const was = earlier === null ? 0 : READINESS_LEVELS.indexOf(levelOf(earlier));
  if (now === was) return null;
  return {
    level: now > was ? 'attention' : 'success',
    title: `${service}: ${earlier === null ? '' : `${levelOf(earlier)} -> `}${verdict.level}`,
    text: verdict.why.length === 0 ? 'every check holds' : verdict.why.join('\n'),
    fields: { recoverable: verdict.recoverable === null ? 'not known' : verdict.recoverable ? 'yes' : 'no', since: describeSince(since) },
  };
}

/** Why a result is too old to speak of now, or null. `everyMs`: longest time between two scheduled runs, null without a schedule. */
export function overdue(checkedAtMs: number, everyMs: number | null, nowMs: number): string | null {
  const age = nowMs - checkedAtMs;
  if (everyMs === null) return age > WITHOUT_SCHEDULE_MS ? `it is ${formatDuration(age)} old and no schedule evaluates it` : null;
  return age > 2 * everyMs ? `it is ${formatDuration(age)} old, and its schedule runs at least every ${formatDuration(everyMs)}: overdue` : null;
}

const WITHOUT_SCHEDULE_MS = 3_600_000;

// --- proofs ----------------------------------------------------------------------------------------------------------------------

/** Clocks of database, worker and Temporal differ; what is dated beyond that would count as young until its date. */
const CLOCK_SLACK_MS = 300_000;

/** Is there a backup, is it young enough, and did a drill prove one lately? An overdue drill counts as a failed one. */
export function backupChecks(datastore: string, backups: readonly BackupSummary[], limits: { backupAgeMs: number; drillMaxAgeMs: number }, nowMs: number): ReadinessCheck[] {
  const newest = backups.filter((backup) => backup.proof !== 'bad').toSorted((a, b) => b.snapshotAtMs - a.snapshotAtMs)[0];
  const age = newest === undefined ? null : nowMs - newest.snapshotAtMs;
  const expected = `a committed backup that no drill found bad, at most ${formatDuration(limits.backupAgeMs)} old`;
  const backup: ReadinessCheck = {
    name: `${datastore}: newest backup`,
    rule: 'backup-age',
    // With none there is nothing to fall back on; an old one is at least something.
    weight: newest === undefined ? 'hard' : 'lowers',
    ok: age !== null && age <= limits.backupAgeMs && age >= -CLOCK_SLACK_MS,
    expected,
    found: age !== null && age < -CLOCK_SLACK_MS ? `${newest!.id}, dated ${formatDuration(-age)} in the future: clocks differ, so its age is not known` : newest === undefined ? (backups.length === 0 ? 'none' : `${backups.length}, all found bad`) : `${newest.id}, ${formatDuration(age!)} old, ${newest.proof}`,
    next: `holdfast backup ${datastore}`,
  };
  const judged = backups.filter((item) => item.provedAtMs !== undefined).toSorted((a, b) => b.provedAtMs! - a.provedAtMs!)[0];
  const sinceDrill = judged === undefined ? null : nowMs - judged.provedAtMs!;
  const drill: ReadinessCheck = {
    name: `${datastore}: restore drill`,
    rule: 'drill-freshness',
    ok: judged?.proof === 'verified' && sinceDrill! <= limits.drillMaxAgeMs && sinceDrill! >= -CLOCK_SLACK_MS,
    expected: `a backup proved by a restore within ${formatDuration(limits.drillMaxAgeMs)}`,
    found: judged === undefined ? 'none was proved' : judged.proof === 'verified' ? (sinceDrill! < -CLOCK_SLACK_MS ? `${judged.id}, dated ${formatDuration(-sinceDrill!)} in the future: clocks differ` : `${judged.id} ${formatDuration(Math.max(0, sinceDrill!))} ago`) : `${judged.id} was found bad ${formatDuration(sinceDrill!)} ago`,
    next: judged?.proof === 'bad' ? `look at the drill's evidence; then holdfast backup ${datastore} and holdfast drill ${datastore}` : `holdfast drill ${datastore}`,
  };
  return [backup, drill].map(withoutNextWhenOk);
}

/** Nothing required is no compliance: whoever sets a target wants to know that no schedule could meet it. */
export function complianceCheck(found: Compliance): ReadinessCheck {
  const { required, percent, target, degraded, missed, unknown } = found;
  return withoutNextWhenOk({
    name: `${found.datastore}: backup compliance`,
    weight: 'lowers',
    ok: found.meets === true,
    expected: `at least ${target} % of the backups required in ${formatDuration(Date.parse(found.to) - Date.parse(found.from))}`,
    found: required === 0 ? 'nothing was required: no schedule backs it up, or it is new' : `${percent} % of ${required}${degraded > 0 ? `, ${degraded} of them degraded` : ''}${missed > 0 ? `, ${missed} missed` : ''}${unknown > 0 ? `, ${unknown} not known` : ''}`,
    next: `holdfast compliance ${found.datastore}`,
  });
}

/** Backups that could not be looked at are no proof. */
export function backupsNotSeen(datastore: string, why: string): ReadinessCheck[] {
  const names = { 'backup-age': 'newest backup', 'drill-freshness': 'restore drill' } as const;
  return (Object.keys(names) as (keyof typeof names)[]).map((rule) => unanswered(`${datastore}: ${names[rule]}`, why, { rule, expected: 'a store that can be asked' }));
}

/** A run that succeeded in full, newest first in a list. */
export interface Rehearsal {
  readonly workflowId: string;
  readonly finishedAt: string;
  readonly mode: string;
  /** Hashes of what ran; null when the run is older than their recording. */
  readonly document: string | null;
  readonly configuration: string | null;
}

/** Did the runbook, as it is written now, ever run in full against the nodes as they are configured now? */
export function rehearsalCheck(runbook: string, now: { document: string; configuration: string }, runs: readonly Rehearsal[], looked: string, next: string): ReadinessCheck {
  const same = runs.find((run) => run.document === now.document && run.configuration === now.configuration);
  const [last] = runs;
  const found = (): string => {
    if (same !== undefined) return `as it is now: ${same.workflowId}, ${same.mode}, ${same.finishedAt}`;
    if (last === undefined) return `no run in full is known (${looked})`;
    const when = `last in full: ${last.workflowId}, ${last.mode}, ${last.finishedAt}`;
    if (last.document === null) return `${when}; which document it was is not recorded`;
    return last.document !== now.document ? `${when}; the document was changed since` : `${when}; nodes, endpoint or parameters in the configuration were changed since`;
  };
  return withoutNextWhenOk({ name: `${runbook}: rehearsed`, rule: 'runbook-rehearsed', ok: same !== undefined, expected: 'a run in full since it was last changed', found: found(), next });
}

// --- forced mode, while the primary is alive -------------------------------------------------------------------------------------

/** What a forced failover would meet if the primary went silent now. */
export interface ForcedOutlook {
  /** What RDS could do for a managed primary; absent: it is a server of one's own. */
  readonly managed?: { readonly answers: boolean; readonly fencingGroups: boolean; readonly region: string };
  readonly datastore: string;
  readonly primary: string;
  readonly candidate: string | null;
  /** The candidate streams; what it has not received of what the primary has written would be lost. */
  readonly streams: boolean;
  readonly missingBytes: number | null;
  /** `none`: no dataDirectory is configured. */
  readonly host: 'running' | 'stopped' | 'unknown' | 'none';
  readonly fenceCommand: 'none' | 'missing' | 'found';
  /** What fence.verify says of the primary as it is now. */
  readonly fenceVerify: 'none' | 'not fenced' | 'fenced' | 'cannot be run';
  readonly takesWrites: boolean;
  /** Who could say that it is down, each independent of the others. */
  readonly observers: readonly string[];
}

/** Fencing from outside, and proving it, with every way that needs the primary's own answer left out. */
export function forcedChecks(outlook: ForcedOutlook): ReadinessCheck[] {
  const { primary, candidate, host, fenceCommand, fenceVerify, managed } = outlook;
  const ways = [...(managed?.answers === true && managed.fencingGroups ? [`its fencing groups, by RDS in ${managed.region}`] : []), ...(host === 'running' || host === 'stopped' ? ['its host'] : []), ...(fenceCommand === 'found' && (fenceVerify === 'not fenced' || fenceVerify === 'fenced') ? ['fence.command with fence.verify'] : [])];
  const lacking = [
    managed !== undefined ? (managed.answers ? 'no fencingGroups' : `RDS in ${managed.region} does not answer`) : host === 'none' ? 'no dataDirectory' : host === 'unknown' ? 'its host does not answer' : '',
    fenceCommand === 'none' ? 'no fence.command' : fenceCommand === 'missing' ? 'fence.command cannot be run here' : fenceVerify === 'none' ? 'no fence.verify' : fenceVerify === 'cannot be run' ? 'fence.verify cannot be run here' : '',
  ].filter((text) => text !== '');
  const checks: ReadinessCheck[] = [
    { name: 'candidate', ok: candidate !== null, expected: `a standby to promote if ${primary} were down now`, found: candidate ?? 'none', next: 'rebuild a standby (runbook standby-rebuild)' },
    { name: 'a way to fence it when it is silent', ok: ways.length > 0, expected: managed === undefined ? `${primary}: its host, or fence.command with fence.verify` : `${primary}: RDS and fencingGroups, or fence.command with fence.verify`, found: ways.length > 0 ? ways.join(', ') : lacking.join(', '), next: managed === undefined ? `give nodes.${primary} dataDirectory and exec, or fence.command and fence.verify; see docs/failover.md` : `give nodes.${primary}.rds.fencingGroups; see docs/cloud.md` },
    { name: 'two facts that it is down could be had', ok: outlook.observers.length >= 2, expected: 'two independent observers', found: outlook.observers.join(', '), next: `give nodes.${primary} dataDirectory and exec, or a second standby` },
  ];
  if (candidate !== null) {
    checks.push({ name: 'candidate has what was written', ok: outlook.streams, expected: `${candidate} streams from ${primary}`, found: `${outlook.streams ? 'streams' : 'does not stream'}; it has received ${outlook.missingBytes === null ? 'an unknown part' : outlook.missingBytes === 0 ? 'all' : `all but ${formatBytes(outlook.missingBytes)}`}`, next: `look at the log of ${candidate}` });
  }
  if (fenceVerify !== 'none' && outlook.takesWrites) {
    checks.push({ name: 'fence.verify tells the truth', ok: fenceVerify !== 'fenced', expected: `not fenced: ${primary} takes writes`, found: fenceVerify, next: `correct nodes.${primary}.fence.verify: it would prove a fence that is not there` });
  }
  return checks.map((check) => withoutNextWhenOk({ ...check, name: `forced: ${outlook.datastore}: ${check.name}` }));
}

function withoutNextWhenOk(check: ReadinessCheck): ReadinessCheck {
  const { next, ...rest } = check;
  return check.ok || next === undefined ? rest : check;
}

/** What no question can tell, by step kind: said, so that silence is not taken for health. */
export const NOT_ASKED: Readonly<Record<string, string>> = {
  'secret.stage': 'the right to put a new version (secretsmanager:PutSecretValue): it cannot be asked without writing',
  'canary.start': "the application's right to write to the canary's table: it is made when the canary starts",
  'notify.send': 'receivers: they cannot be asked without sending',
  'rollout.command': 'whether the rollout command works: only that it is there',
  'rollout.http': 'whether the rollout URL answers: calling it would roll out',
};

// --- the start gate --------------------------------------------------------------------------------------------------------------

/** Rules that may stop a failover at its start. A runbook must be rehearsable a first time, so `runbook-rehearsed` is none. */
export const GATE_RULES = ['backup-age', 'drill-freshness'] as const satisfies readonly RuleName[];
export type GateRule = (typeof GATE_RULES)[number];
/** A failover at three in the morning is not refused because a drill is stale. */
export const GATE_DEFAULTS: Readonly<Record<Mode, readonly GateRule[]>> = { planned: ['backup-age', 'drill-freshness'], forced: [] };

/**
 * Which of the failed proofs stop the run. What was overridden passes and says by whom and why; what stops nothing stays a failed
 * check in the record.
 */
export function gate(checks: readonly CheckResult[], stops: readonly string[], overrides: readonly Override[]): { checks: CheckResult[]; refusal: string | null } {
  const judged = checks.map((check): CheckResult => {
    const override = check.ok || check.rule === undefined ? undefined : overrides.find((item) => item.rule === check.rule);
    return override === undefined ? check : { ...check, ok: true, overridden: `${override.by}: ${override.reason}` };
  });
  const stopping = judged.filter((check) => !check.ok && check.rule !== undefined && stops.includes(check.rule));
  if (stopping.length === 0) return { checks: judged, refusal: null };
  const rules = [...new Set(stopping.map((check) => check.rule!))];
  return {
    checks: judged,
    refusal: `refused before anything was begun: ${describeGroups(stopping).join('; ')}. To start all the same, break ${rules.join(' and ')} by name: ${rules.map((rule) => `--override ${rule}="why"`).join(' ')}`,
  };
}
