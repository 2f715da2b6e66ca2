import { formatDuration } from './units.ts';
import type { Json } from './runbook-schema.ts';

/** What is known of a step before it runs. */
export interface KnownStep {
  readonly id: string;
  readonly uses: string;
  /** Its inputs as far as they are known. */
  readonly inputs: Readonly<Record<string, unknown>>;
  /** What inspection found, null when it was not asked or did not answer. */
  readonly before: Json;
  readonly approvals: number;
}

export interface StepText {
  /** What apply, or a step that only reads, would do. */
  readonly does: string;
  /** What goes back when a later step fails before the point of no return; null: nothing does. */
  readonly undo: string | null;
  /** What only the run itself can tell. */
  readonly unknown: readonly string[];
}

/** What each step kind would do, in exact words. One entry a kind; a test holds this table against the catalogue. */
export const STEP_TEXTS: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'postgres.health': (step) => reads(`looks at every node of ${datastore(step)}, at the application's secret and at the lag; names primary and candidate`, 'the lag and the roles at that time'),
  'operator.approval': (step) => changes(approvalText(step), 'whether enough people approve in time'),
  'operator.wait': (step) => nothing(`waits ${typeof step.inputs['duration'] === 'number' ? formatDuration(step.inputs['duration']) : text(step, 'duration', 'a time')}`),
  'postgres.checkpoint': (step) => changes(`runs CHECKPOINT on ${name(step, 'primary')} and a restartpoint on ${name(step, 'candidate')}`, 'how much is left to write'),
  'secret.stage': (step) => ({
    does: `puts a new version of the application's secret, pointing to ${name(step, 'candidate')}, beside the current one${field(step, 'current', (version) => ` (${String(version)}${field(step, 'points', (points) => `, pointing to ${String(points)}`)})`)} under the label HOLDFAST-STAGED; applications do not see it`,
    undo: 'takes the label HOLDFAST-STAGED off that version; the current one is never touched',
    unknown: ['the id of the new version'],
  }),
  'canary.start': (step) => ({
    does: `starts a writer through the application's own secret, one row ${typeof step.inputs['intervalMs'] === 'number' ? `each ${step.inputs['intervalMs']} ms` : 'every few milliseconds'} into holdfast.canary on ${name(step, 'primary')}`,
    undo: 'ends the writer; its rows stay',
    unknown: ['whether the application is let in at that time'],
  }),
  'postgres.readOnly': (step) => ({
    does: `puts the fence block of the run's epoch at the head of pg_hba.conf on ${name(step, 'primary')}, sets default_transaction_read_only, reloads, ends every client session${field(step, 'sessions', (count) => ` (${String(count)} now)`)} and reads the WAL position. WRITES ARE REFUSED FROM HERE`,
    undo: `takes the block out again and reloads on ${name(step, 'primary')}, once no other node has left recovery`,
    unknown: ['how many sessions there are then, and whether all of them end', 'the last WAL position'],
  }),
  'postgres.fence': (step) => changes(`keeps ${name(step, 'node')} from taking writes, also after a restart: fence command where one is configured, fence block and standby.signal, server stopped where its host can be reached`, "whether the old primary's host answers at that time"),
  'postgres.awaitReplay': (step) => reads(`waits until ${name(step, 'candidate')} has replayed ${step.inputs['lsn'] === undefined ? 'the last WAL position, or all it received when there is none' : text(step, 'lsn', '')}`, 'how long replay takes'),
  'postgres.promote': (step) => changes(`promotes ${name(step, 'candidate')} with pg_promote(). Never repeated, never undone`, 'how long promotion takes, the new timeline and where it begins'),
  'postgres.verifyFence': (step) => reads(`asks ${name(step, 'node')} whether it is down, in recovery, or refusing; anything else parks the run`, 'what the old primary answers then'),
  'secret.swap': (step) => changes(`makes the staged version of the application's secret current, only if the version it was made from${field(step, 'current', (version) => ` (now ${String(version)})`)} still is; applications then read ${name(step, 'candidate')}`, 'whether somebody changes the secret meanwhile', 'when each application reads it again'),
  'postgres.repointStandbys': (step) => changes(`has every standby but ${name(step, 'old')} follow ${name(step, 'primary')} (primary_conninfo, reloaded); one that is past the point where the timelines part is left alone and named`, 'which standbys answer then, and which of them can follow'),
  'route53.change': dnsText,
  'rollout.command': (step) => (list(step, 'argv').length === 0 ? nothing('no rollout command is configured: it is skipped') : changes(`runs ${JSON.stringify(list(step, 'argv'))} on the worker${list(step, 'verify').length === 0 ? '; its exit code is all that is looked at' : `, then ${JSON.stringify(list(step, 'verify'))} until it exits with 0`}`, 'what the command does and how long it takes')),
  'rollout.http': (step) => (text(step, 'url', '') === '' ? nothing('no rollout URL is configured: it is skipped') : changes(`calls ${text(step, 'method', 'POST')} ${text(step, 'url', '')}${text(step, 'verifyUrl', '') === '' ? '; a 2xx answer is all that is looked at' : `, then ${text(step, 'verifyUrl', '')} until it answers 2xx`}`, 'what the endpoint answers')),
  'postgres.verifyLag': (step) => reads(`waits for every remaining standby to stream from ${name(step, 'primary')} within ${typeof step.inputs['maxLag'] === 'number' ? formatDuration(step.inputs['maxLag']) : text(step, 'maxLag', 'the allowed lag')}`, 'which standbys follow the new primary by themselves'),
  'postgres.measureLoss': (step) => reads(`counts the COMMIT records in the WAL of ${name(step, 'node')} after the point where the new timeline began`, 'the figure; whether its host can be reached at all'),
  'canary.verify': (step) => reads(`ends the canary and reads every write that was acknowledged to it back from ${name(step, 'primary')}`, 'the refused-write window and the lost writes: both are measured, never foreseen'),
  'postgres.verifyRecentWrites': (step) => reads(`logs in to ${name(step, 'primary')} with the application's secret${step.inputs['query'] === undefined ? '' : ` and shows what "${text(step, 'query', '')}" gives`}`, 'the newest transaction'),
  'postgres.rebuildStandby': (step) => changes(`stops ${name(step, 'node')}, rewinds it with pg_rewind to where the timelines parted${step.inputs['allowBaseBackup'] === false ? '' : ' (else a new base backup)'}, starts it as a standby of ${name(step, 'primary', 'the present primary')} and lifts its fence. What ${name(step, 'node')} alone has is discarded`, 'whether pg_rewind is enough', 'how long copying takes'),
  'controller.pause': (step) => ({
    does: `looks for Patroni beside the servers of ${datastore(step)} and pauses it, so that two controllers never act at once${field(step, 'pausedBy', (who) => ` (paused already, by ${String(who)}: it is left so)`)}; where there is none, nothing`,
    undo: 'resumes it, unless somebody else had paused it',
    unknown: ['how long every member takes to read the pause'],
  }),
  'controller.resume': (step) => changes(`resumes Patroni, if this run paused it, once it names ${name(step, 'primary')} as its leader, and watches that it leaves the roles as they are; where there is none, nothing`, 'how long Patroni takes to see the new leader'),
  'runbook.run': (step) => ({
    does: `runs ${step.inputs['purpose'] === undefined ? `runbook ${text(step, 'runbook', '?')}` : `the runbook that ${text(step, 'service', 'the service')} has for ${text(step, 'purpose', '?')}`} as an execution of its own, with its own guards, approval and point of no return, and waits for its end`,
    undo: null,
    unknown: ['what that execution comes to; plan it by its own name to see its steps'],
  }),
  'notify.send': (step) => changes(`tells people: "${text(step, 'title', '...')}"`, 'whether the receivers answer; they never stop a recovery'),
};

/** @returns undefined for a kind that nobody described. */
export function stepText(step: KnownStep): StepText | undefined {
  return Object.hasOwn(STEP_TEXTS, step.uses) ? STEP_TEXTS[step.uses]!(step) : undefined;
}

function approvalText(step: KnownStep): string {
  const count = typeof step.inputs['count'] === 'number' ? step.inputs['count'] : step.approvals;
  return count === 0 ? 'goes on at once: the policy asks for no approval' : `waits for ${count} approval(s) by people other than the requester; expires into denied`;
}

function dnsText(step: KnownStep): StepText {
  const before = recordOf(step.before);
  if (before['name'] === undefined) return before['value'] === undefined ? nothing('no DNS record is configured: it is skipped') : changes(`points the DNS record to ${name(step, 'candidate')}`);
  return changes(`changes ${String(before['name'])} from ${String(before['value'] ?? 'missing')} to ${String(before['wanted'] ?? `the address of ${name(step, 'candidate')}`)} and waits for INSYNC`, 'how long Route 53 takes; resolvers keep the old answer for the TTL');
}

function changes(does: string, ...unknown: string[]): StepText {
  return { does, undo: null, unknown };
}

function reads(does: string, ...unknown: string[]): StepText {
  return { does: `${does} (reads only)`, undo: null, unknown };
}

function nothing(does: string): StepText {
  return { does, undo: null, unknown: [] };
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function field(step: KnownStep, key: string, show: (value: unknown) => string): string {
  const value = recordOf(step.before)[key];
  return value === undefined || value === null ? '' : show(value);
}

function text(step: KnownStep, key: string, missing: string): string {
  const value = step.inputs[key];
  return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : missing;
}

function list(step: KnownStep, key: string): readonly unknown[] {
  const value = step.inputs[key];
  return Array.isArray(value) ? value : [];
}

const UNNAMED: Readonly<Record<string, string>> = { primary: 'the primary', candidate: 'the candidate', node: 'the node' };

function name(step: KnownStep, key: string, missing = UNNAMED[key] ?? `the ${key}`): string {
  return text(step, key, missing);
}

function datastore(step: KnownStep): string {
  return text(step, 'datastore', 'the datastore');
}
