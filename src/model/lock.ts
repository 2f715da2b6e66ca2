/**
 * The lock of one datastore: pure state and transitions, kept by the workflow `resourceLock`. One run holds it exclusively, or several
 * share it. Time frees nothing: what a run held is freed by that run, by the run that it was nested in, or by a person.
 */
import type { CheckResult } from './api.ts';
import { stepKind } from './catalogue.ts';
import type { Plan } from './execution.ts';
import type { Override } from './rules.ts';
import { fillReferences } from './runbook-schema.ts';
import { formatDuration } from './units.ts';

/** `exclusive`: what changes the datastore. `shared`: what only reads it, and gives way to what changes it. */
export type LockMode = 'exclusive' | 'shared';

export interface Run {
  readonly workflowId: string;
  readonly runId: string;
}

export interface LockRequest extends Run {
  readonly mode: LockMode;
  /** For people: `planned failover of orders`. */
  readonly what: string;
  readonly by: string;
  /** It may promote: the cooldown speaks against it. */
  readonly heedsCooldown: boolean;
  /** Parent and root as Temporal names them: a run below a holder shares its hold. */
  readonly ancestors: readonly Run[];
  /** One run has one epoch: no lower one is given for this datastore, to it or to whoever comes after it. */
  readonly floor: number | null;
  readonly overrides: readonly Override[];
}

/** A workflow that closed without releasing. */
export interface Orphan {
  /** As Temporal says: `terminated`, `timed out`, ... or `gone` when it remembers nothing of it. */
  readonly how: string;
  readonly closedAtMs: number | null;
  readonly foundAtMs: number;
}

export interface Nested extends Run {
  readonly what: string;
  readonly sinceMs: number;
  readonly orphaned: Orphan | null;
}

export interface Hold extends Run {
  readonly mode: LockMode;
  readonly what: string;
  readonly by: string;
  readonly epoch: number;
  readonly sinceMs: number;
  readonly nested: readonly Nested[];
  readonly orphaned: Orphan | null;
  /** It has released; what is nested in it has not. */
  readonly releasing: boolean;
}

/** A hold that was taken away: its epoch is worth nothing any more, but its run may not know yet. */
export interface Superseded extends Run {
  readonly what: string;
  readonly epoch: number;
  /** Who or what took it away. */
  readonly by: string;
  readonly atMs: number;
  /** Its workflow is to be cancelled. */
  readonly stop: 'ask' | 'asked' | 'leave';
}

export interface Said {
  readonly by: string;
  readonly reason: string;
  readonly atMs: number;
}

export interface Cooldown extends Run {
  readonly service: string | null;
  readonly startedAtMs: number;
  readonly untilMs: number;
  readonly acknowledged: Said | null;
}

export interface LockState {
  readonly datastore: string;
  readonly lastEpoch: number;
  readonly exclusive: Hold | null;
  readonly shared: readonly Hold[];
  readonly superseded: readonly Superseded[];
  readonly cooldown: Cooldown | null;
  /** Runs that released: an acquire of theirs that arrives late must not take it again. */
  readonly ended: readonly string[];
  /** What happened last, refusals too. In full it stands in the workflow's history. */
  readonly log: readonly { readonly atMs: number; readonly text: string }[];
  readonly lookedAtMs: number | null;
}

export interface Granted {
  readonly granted: true;
  readonly epoch: number;
  readonly nested: boolean;
  /** What gives way to it. */
  readonly stopping: readonly string[];
  readonly checks: readonly CheckResult[];
}

export interface Refused {
  readonly granted: false;
  readonly code: 'lock-refused' | 'lock-orphaned' | 'cooldown';
  readonly message: string;
  readonly next: string;
  readonly check: CheckResult;
}

export type Acquired = Granted | Refused;

export interface ReleaseRequest extends Run {
  /** It passed the point of no return. */
  readonly promoted: { readonly service: string | null; readonly cooldownMs: number } | null;
  /** The epoch it worked under, which may come from another datastore's lock. */
  readonly epoch: number | null;
}

export interface Released {
  readonly released: boolean;
  readonly superseded: { readonly by: string; readonly atMs: number } | null;
  /** Nested runs that have not released yet: the lock stays theirs. */
  readonly waitsFor: readonly string[];
}

export interface Seen extends Run {
  readonly running: boolean;
  readonly how: string;
  readonly closedAtMs: number | null;
}

/** What the lock answers to an operator. */
export type Told = { readonly ok: true; readonly text: string } | { readonly ok: false; readonly text: string; readonly next: string };

/** Updates of the workflow `resourceLock`. */
export const UPDATES = { acquire: 'acquire', release: 'release', takeAway: 'takeAway', acknowledge: 'acknowledge' } as const;
/** Key of its memo. */
export const MEMO = 'lock';

const KEPT_ENDED = 100;
const KEPT_LOG = 40;
const KEPT_SUPERSEDED = 20;

/**
 * After its workflow closed an activity may still act: until its heartbeat is refused (throttled to 1 s) or, without a connection, until its
 * heartbeat timeout (15 s at most) and the SDK's 5 s on top, and then until its children have ended (10 s). Nothing is freed because this has
 * passed; before it has passed a person must name the run.
 */
export const SETTLE_MS = 60_000;

export function startLock(datastore: string): LockState {
  return { datastore, lastEpoch: 0, exclusive: null, shared: [], superseded: [], cooldown: null, ended: [], log: [], lookedAtMs: null };
}

export function acquire(state: LockState, request: LockRequest, nowMs: number): { state: LockState; answer: Acquired } {
  const floored = request.floor === null ? state : { ...state, lastEpoch: Math.max(state.lastEpoch, request.floor) };
  const own = holds(state).find((hold) => sameRun(hold, request));
  // Asked again: the first answer was lost, or the epoch of another datastore came out higher.
  if (own !== undefined && own.orphaned === null && !own.releasing) {
    const epoch = own.nested.length === 0 ? Math.max(own.epoch, request.floor ?? 0) : own.epoch;
    return { state: replaceHold(floored, { ...own, epoch }), answer: granted(floored, epoch, false, [], []) };
  }
  if (state.ended.includes(request.runId)) return refuse(state, request, nowMs, { code: 'lock-refused', found: `${request.workflowId} has released it already`, next: 'start it again' });
  const parent = holds(state).find((hold) => hold.nested.some((nested) => sameRun(nested, request)) || request.ancestors.some((one) => sameRun(one, hold) || hold.nested.some((nested) => sameRun(one, nested))));
  if (parent !== undefined) return acquireNested(floored, parent, request, nowMs);
  if (state.exclusive !== null) return refuse(state, request, nowMs, heldBy(state, state.exclusive, request.mode, nowMs));
  return request.mode === 'shared' ? grant(state, request, nowMs, []) : acquireExclusive(state, request, nowMs);
}

function acquireNested(state: LockState, parent: Hold, request: LockRequest, nowMs: number): { state: LockState; answer: Acquired } {
  if (parent.nested.some((nested) => sameRun(nested, request))) return { state, answer: granted(state, parent.epoch, true, [], []) };
  if (parent.releasing || parent.orphaned !== null) return refuse(state, request, nowMs, heldBy(state, parent, request.mode, nowMs));
  if (request.mode === 'exclusive' && parent.mode === 'shared') {
    return refuse(state, request, nowMs, { code: 'lock-refused', found: `${parent.workflowId}, which it is nested in, only shares it`, next: 'start it on its own' });
  }
  const cooldown = askCooldown(state, request, nowMs, parent);
  if (cooldown?.ok === false) return refuse(state, request, nowMs, { code: 'cooldown', found: cooldown.found, next: cooldown.next!, check: cooldown });
  const nested: Nested = { workflowId: request.workflowId, runId: request.runId, what: request.what, sinceMs: nowMs, orphaned: null };
  const next = noted(replaceHold(state, { ...parent, nested: [...parent.nested, nested] }), nowMs, `${request.workflowId} (${request.what}) acts nested in ${parent.workflowId}, epoch ${parent.epoch}`);
  return { state: next, answer: granted(next, parent.epoch, true, [], cooldown === null ? [] : [cooldown]) };
}

/** The check of the cooldown, with the override that the request brings. */
function askCooldown(state: LockState, request: LockRequest, nowMs: number, within: Hold | null): CheckResult | null {
  if (!request.heedsCooldown) return null;
  const check = cooldownCheck(state, nowMs, within);
  const override = request.overrides.find((one) => one.rule === 'cooldown');
  return check.ok || override === undefined ? check : { ...check, ok: true, overridden: `${override.by}: ${override.reason}` };
}

function acquireExclusive(state: LockState, request: LockRequest, nowMs: number): { state: LockState; answer: Acquired } {
  const cooldown = askCooldown(state, request, nowMs, null);
  if (cooldown?.ok === false) return refuse(state, request, nowMs, { code: 'cooldown', found: cooldown.found, next: cooldown.next!, check: cooldown });
  const checks = cooldown === null ? [] : [cooldown];
  // A backup or a drill can be repeated; a recovery does not wait six hours for one.
  const givingWay = state.shared.map((hold): Superseded => ({ workflowId: hold.workflowId, runId: hold.runId, what: hold.what, epoch: hold.epoch, by: `${request.workflowId} (${request.what})`, atMs: nowMs, stop: 'ask' }));
  const cleared: LockState = { ...state, shared: [], superseded: [...state.superseded, ...givingWay].slice(-KEPT_SUPERSEDED) };
  const noticed = cooldown?.overridden === undefined ? cleared : noted(cleared, nowMs, `the rule cooldown was broken for ${request.workflowId} by ${cooldown.overridden}`);
  return grant(noticed, request, nowMs, givingWay.map((hold) => `${hold.workflowId} (${hold.what})`), checks);
}

function grant(state: LockState, request: LockRequest, nowMs: number, stopping: readonly string[], checks: readonly CheckResult[] = []): { state: LockState; answer: Acquired } {
  const epoch = Math.max(state.lastEpoch + 1, request.floor ?? nowMs);
  const hold: Hold = { workflowId: request.workflowId, runId: request.runId, mode: request.mode, what: request.what, by: request.by, epoch, sinceMs: nowMs, nested: [], orphaned: null, releasing: false };
  const held: LockState = { ...state, lastEpoch: epoch, ...(request.mode === 'exclusive' ? { exclusive: hold } : { shared: [...state.shared, hold] }) };
  const next = noted(held, nowMs, `${request.workflowId} (${request.what}, by ${request.by}) ${request.mode === 'exclusive' ? 'holds it' : 'shares it'}, epoch ${epoch}${stopping.length === 0 ? '' : `; stopped for it: ${stopping.join(', ')}`}`);
  return { state: next, answer: granted(next, epoch, false, stopping, checks) };
}

function granted(state: LockState, epoch: number, nested: boolean, stopping: readonly string[], checks: readonly CheckResult[]): Granted {
  const found = `epoch ${epoch}${nested ? ', within the run that it is nested in' : ''}${stopping.length === 0 ? '' : `; stopped for it: ${stopping.join(', ')}`}`;
  return { granted: true, epoch, nested, stopping, checks: [{ name: `lock of ${state.datastore}`, ok: true, expected: 'held by this execution', found }, ...checks] };
}

function refuse(state: LockState, request: LockRequest, nowMs: number, why: { code: Refused['code']; found: string; next: string; check?: CheckResult }): { state: LockState; answer: Refused } {
  const check = why.check ?? { name: `lock of ${state.datastore}`, ok: false, expected: 'held by nobody else', found: why.found, next: why.next };
  return {
    state: noted(state, nowMs, `${request.workflowId} (${request.what}, by ${request.by}) was refused: ${why.found}`),
    answer: { granted: false, code: why.code, message: `datastore ${state.datastore}: ${why.found}`, next: why.next, check },
  };
}

function heldBy(state: LockState, hold: Hold, wanted: LockMode, nowMs: number): { code: Refused['code']; found: string; next: string } {
  const lost = orphanIn(hold);
  if (lost !== null && (hold.orphaned !== null || hold.releasing)) return { code: 'lock-orphaned', found: describeOrphan(hold, lost), next: releaseAdvice(state.datastore, lost.workflowId) };
  const nested = hold.nested.length === 0 ? '' : `, with ${hold.nested.map((one) => one.workflowId).join(', ')} nested in it`;
  return {
    code: 'lock-refused',
    found: `${hold.workflowId} (${hold.what}, by ${hold.by}) holds it since ${iso(hold.sinceMs)}, for ${formatDuration(Math.max(0, nowMs - hold.sinceMs))}${nested}`,
    next: wanted === 'shared' ? `it waits until ${hold.workflowId} has ended` : `wait until it has ended (holdfast status ${hold.workflowId} --watch) and start again; or stop it: holdfast abort ${hold.workflowId} --reason "..."`,
  };
}

function describeOrphan(hold: Hold, lost: Run & { readonly orphaned: Orphan }): string {
  const { how, closedAtMs } = lost.orphaned;
  const nested = sameRun(hold, lost) ? '' : `, nested in ${hold.workflowId}`;
  return `${lost.workflowId} (${hold.what}, by ${hold.by}${nested}) still holds it: its workflow ended (${how}${closedAtMs === null ? '' : ` at ${iso(closedAtMs)}`}) without releasing it, and nobody has looked at what it left`;
}

function releaseAdvice(datastore: string, workflowId: string): string {
  return `look at what it left (holdfast audit ${workflowId}, and the servers), then free it: holdfast lock release ${datastore} --reason "..."`;
}

/** Does the cooldown let another failover begin? */
export function cooldownCheck(state: LockState, nowMs: number, within: Hold | null = null): CheckResult {
  const name = `cooldown of ${state.datastore}`;
  const expected = 'none, passed, or acknowledged';
  const { cooldown } = state;
  if (cooldown === null) return { name, ok: true, rule: 'cooldown', expected, found: 'none' };
  const since = `${cooldown.workflowId} promoted a node and ended at ${iso(cooldown.startedAtMs)}`;
  // One runbook that promotes twice was meant to.
  if (within !== null && cooldown.startedAtMs > within.sinceMs) return { name, ok: true, rule: 'cooldown', expected, found: `${since}, within the same run` };
  if (nowMs >= cooldown.untilMs) return { name, ok: true, rule: 'cooldown', expected, found: `${since}; passed at ${iso(cooldown.untilMs)}` };
  if (cooldown.acknowledged !== null) return { name, ok: true, rule: 'cooldown', expected, found: `${since}; acknowledged by ${cooldown.acknowledged.by}: ${cooldown.acknowledged.reason}` };
  return {
    name, ok: false, rule: 'cooldown', expected, found: `${since}; its cooldown lasts until ${iso(cooldown.untilMs)}`,
    next: `find out why it was needed, then: holdfast acknowledge ${cooldown.service ?? state.datastore} --reason "..."; or break the rule cooldown on purpose`,
  };
}

/** What a new execution would meet, for a dry run and for readiness: nothing is taken. */
export function lockChecks(state: LockState, heedsCooldown: boolean, nowMs: number, ancestors: readonly Run[] = []): CheckResult[] {
  const expected = 'held by nobody';
  const name = `lock of ${state.datastore}`;
  const hold = state.exclusive;
  if (hold !== null && [hold, ...hold.nested].some((run) => ancestors.some((one) => sameRun(one, run)))) return [{ name, ok: true, expected: 'held by nobody, or by what it is nested in', found: `held by ${hold.workflowId}, which it is nested in` }, ...(heedsCooldown ? [cooldownCheck(state, nowMs, hold)] : [])];
  const sharing = state.shared.map((one) => `${one.workflowId} (${one.what})`).join(', ');
  const free = sharing === '' ? 'held by nobody' : `shared by ${sharing}, which would be stopped`;
  const found = hold === null ? null : heldBy(state, hold, 'exclusive', nowMs);
  return [found === null ? { name, ok: true, expected, found: free } : { name, ok: false, expected, found: found.found, next: found.next }, ...(heedsCooldown ? [cooldownCheck(state, nowMs)] : [])];
}

export function release(state: LockState, request: ReleaseRequest, nowMs: number): { state: LockState; answer: Released } {
  const gone = state.superseded.find((one) => sameRun(one, request));
  let next: LockState = {
    ...state,
    lastEpoch: Math.max(state.lastEpoch, request.epoch ?? 0),
    superseded: state.superseded.filter((one) => !sameRun(one, request)),
    ended: [...state.ended.filter((runId) => runId !== request.runId), request.runId].slice(-KEPT_ENDED),
    // It happened, whoever holds the lock by now.
    ...(request.promoted === null || request.promoted.cooldownMs <= 0 ? {} : { cooldown: cooldownOf(request, nowMs) }),
  };
  const hold = holds(next).find((one) => sameRun(one, request) || one.nested.some((nested) => sameRun(nested, request)));
  if (hold === undefined) return { state: next, answer: { released: false, superseded: gone === undefined ? null : { by: gone.by, atMs: gone.atMs }, waitsFor: [] } };
  const changed: Hold = sameRun(hold, request) ? { ...hold, releasing: true } : { ...hold, nested: hold.nested.filter((nested) => !sameRun(nested, request)) };
  const waitsFor = changed.nested.map((nested) => nested.workflowId);
  next = changed.releasing && waitsFor.length === 0 ? removeHold(next, changed) : replaceHold(next, changed);
  const text = `${request.workflowId} released it${request.promoted === null ? '' : ', after it promoted a node'}${changed.releasing && waitsFor.length > 0 ? `; ${waitsFor.join(', ')} still acts` : ''}`;
  return { state: noted(next, nowMs, text), answer: { released: true, superseded: null, waitsFor: sameRun(hold, request) ? waitsFor : [] } };
}

function cooldownOf(request: ReleaseRequest, nowMs: number): Cooldown {
  const { service, cooldownMs } = request.promoted!;
  return { workflowId: request.workflowId, runId: request.runId, service, startedAtMs: nowMs, untilMs: nowMs + cooldownMs, acknowledged: null };
}

/** Runs whose workflows are to be looked at. */
export function toLookAt(state: LockState): Run[] {
  return [...holds(state).flatMap((hold) => [...(hold.orphaned === null && !hold.releasing ? [hold] : []), ...hold.nested.filter((nested) => nested.orphaned === null)]), ...state.superseded].map(({ workflowId, runId }) => ({ workflowId, runId }));
}

/** When to look next: soon after it was taken, seldom later; null when there is nothing to look at. */
export function nextLookAtMs(state: LockState): number | null {
  if (toLookAt(state).length === 0) return null;
  const since = Math.min(...holds(state).map((hold) => hold.sinceMs), ...state.superseded.map((one) => one.atMs));
  const last = state.lookedAtMs === null || state.lookedAtMs < since ? since : state.lookedAtMs;
  return last + Math.min(300_000, Math.max(10_000, (last - since) / 4));
}

/** What Temporal says of the holders. A closed one loses nothing that could be dangerous: shared holds go, an exclusive one becomes an orphan. */
export function looked(state: LockState, seen: readonly Seen[], nowMs: number): { state: LockState; orphans: readonly string[] } {
  const orphans: string[] = [];
  const closedOf = (run: Run): Seen | undefined => seen.find((one) => sameRun(one, run) && !one.running);
  const orphanOf = (one: Seen): Orphan => ({ how: one.how, closedAtMs: one.closedAtMs, foundAtMs: nowMs });
  let next: LockState = { ...state, lookedAtMs: nowMs, shared: state.shared.filter((hold) => closedOf(hold) === undefined), superseded: state.superseded.filter((one) => closedOf(one) === undefined) };
  const hold = next.exclusive;
  if (hold !== null) {
    const closed = hold.releasing || hold.orphaned !== null ? undefined : closedOf(hold);
    if (closed !== undefined) orphans.push(describeOrphan(hold, { ...hold, orphaned: orphanOf(closed) }));
    const nested = hold.nested.map((one): Nested => {
      const lost = one.orphaned === null ? closedOf(one) : undefined;
      if (lost === undefined) return one;
      orphans.push(describeOrphan(hold, { ...one, orphaned: orphanOf(lost) }));
      return { ...one, orphaned: orphanOf(lost) };
    });
    next = { ...next, exclusive: { ...hold, nested, orphaned: closed === undefined ? hold.orphaned : orphanOf(closed) } };
  }
  for (const text of orphans) next = noted(next, nowMs, text);
  return { state: next, orphans };
}

/** A person frees it. Whoever held it is refused from its next changing step on. */
export function takeAway(state: LockState, request: { by: string; reason: string; from: string | null }, nowMs: number): { state: LockState; answer: Told } {
  const hold = state.exclusive;
  const refused = (text: string, next: string): { state: LockState; answer: Told } => ({ state: noted(state, nowMs, `the release by ${request.by} was refused: ${text}`), answer: { ok: false, text, next } });
  if (hold === null) return refused(`datastore ${state.datastore} is held by nobody${state.shared.length === 0 ? '' : ' exclusively; shared holds give way by themselves'}`, 'see: holdfast locks');
  if (request.from !== null && request.from !== hold.workflowId) return refused(`datastore ${state.datastore} is held by ${hold.workflowId}, not by ${request.from}`, 'look again: holdfast locks');
  if (request.from === null) {
    const acting = [...(hold.orphaned === null && !hold.releasing ? [hold] : []), ...hold.nested.filter((nested) => nested.orphaned === null)];
    if (acting.length > 0) {
      const names = acting.map((run) => run.workflowId).join(', ');
      return refused(`${names} has not ended and may act on datastore ${state.datastore} at any moment`, `stop it: holdfast abort ${hold.workflowId} --reason "..."; or, if it cannot be stopped, take the lock from it by its name: --from ${hold.workflowId}`);
    }
    const settledAtMs = Math.max(...[hold, ...hold.nested].flatMap((run) => (run.orphaned === null ? [] : [run.orphaned.closedAtMs ?? 0]))) + SETTLE_MS;
    if (nowMs < settledAtMs) return refused(`an activity of ${hold.workflowId} may still act for ${formatDuration(settledAtMs - nowMs)}`, `wait that long, or say that you know it does not: --from ${hold.workflowId}`);
  }
  const taken = [hold, ...hold.nested].map((run): Superseded => ({ workflowId: run.workflowId, runId: run.runId, what: run.what, epoch: hold.epoch, by: `${request.by}: ${request.reason}`, atMs: nowMs, stop: 'leave' }));
  const text = `${request.by} took it from ${hold.workflowId} (epoch ${hold.epoch}): ${request.reason}`;
  return {
    state: noted({ ...state, exclusive: null, superseded: [...state.superseded, ...taken].slice(-KEPT_SUPERSEDED) }, nowMs, text),
    answer: { ok: true, text: `datastore ${state.datastore} is free; it was held by ${hold.workflowId} with epoch ${hold.epoch}, whose changing steps are refused from now on` },
  };
}

export function acknowledge(state: LockState, request: { by: string; reason: string }, nowMs: number): { state: LockState; answer: Told } {
  const { cooldown } = state;
  const refused = (text: string): { state: LockState; answer: Told } => ({ state: noted(state, nowMs, `the acknowledgement by ${request.by} was refused: ${text}`), answer: { ok: false, text, next: 'see: holdfast locks' } });
  if (cooldown === null || nowMs >= cooldown.untilMs) return refused(`datastore ${state.datastore} has no cooldown to acknowledge`);
  if (cooldown.acknowledged !== null) return refused(`it was acknowledged already by ${cooldown.acknowledged.by}: ${cooldown.acknowledged.reason}`);
  const text = `${request.by} acknowledged the failover ${cooldown.workflowId}: ${request.reason}`;
  return { state: noted({ ...state, cooldown: { ...cooldown, acknowledged: { ...request, atMs: nowMs } } }, nowMs, text), answer: { ok: true, text: `datastore ${state.datastore}: the failover ${cooldown.workflowId} is acknowledged; another one may begin` } };
}

/** Holds that gave way and whose workflows have not been asked to stop yet. */
export function toStop(state: LockState): Superseded[] {
  return state.superseded.filter((one) => one.stop === 'ask');
}

export function asked(state: LockState, run: Run): LockState {
  return { ...state, superseded: state.superseded.map((one) => (sameRun(one, run) ? { ...one, stop: 'asked' } : one)) };
}

export type Standing =
  | { readonly held: true }
  /** `other`: who holds it exclusively instead. */
  | { readonly held: false; readonly why: string; readonly other: Run | null };

/** May this run change the datastore under this epoch? Asked before every change. */
export function standing(state: LockState, run: Run, epoch: number): Standing {
  const hold = holds(state).find((one) => one.epoch === epoch && ((sameRun(one, run) && one.orphaned === null && !one.releasing) || one.nested.some((nested) => sameRun(nested, run) && nested.orphaned === null)));
  if (hold !== undefined) return { held: true };
  const taken = state.superseded.find((one) => sameRun(one, run));
  const other = state.exclusive;
  const by = taken === undefined ? '' : `; it was taken away at ${iso(taken.atMs)} by ${taken.by}`;
  const now = other === null ? 'nobody holds it now' : `${other.workflowId} holds it now with epoch ${other.epoch}`;
  return { held: false, why: `epoch ${epoch} of ${run.workflowId} does not hold datastore ${state.datastore} any more${by}; ${now}`, other: other === null || sameRun(other, run) ? null : { workflowId: other.workflowId, runId: other.runId } };
}

/** Datastores that steps of the plan change, whatever its mode becomes; those whose name is not known yet count with all of the service's. */
export function lockedDatastores(plan: Pick<Plan, 'steps' | 'service' | 'mode' | 'parameters' | 'datastores'>): string[] {
  const names = new Set<string>();
  for (const step of plan.steps) {
    if (stepKind(step.uses)?.phases.includes('apply') !== true || !Object.hasOwn(step.with, 'datastore')) continue;
    const { value } = fillReferences({ datastore: step.with['datastore']! }, { service: plan.service, mode: plan.mode, parameters: plan.parameters, steps: {} });
    const name = (value as { datastore?: unknown }).datastore;
    if (typeof name === 'string' && name !== '') names.add(name);
    else for (const datastore of plan.datastores) names.add(datastore);
  }
  // One order for everybody.
  return [...names].sort();
}

/** A failback has its own approval; whatever else may promote waits for the cooldown. */
export function heedsCooldown(plan: Pick<Plan, 'kind' | 'steps'>): boolean {
  return plan.kind !== 'failback' && plan.steps.some((step) => stepKind(step.uses)?.pointOfNoReturn === true);
}

/** What stands in the memo of the lock's workflow. */
export function memoOf(state: LockState): LockState {
  return { ...state, ended: [], log: state.log.slice(-10) };
}

export function holds(state: LockState): readonly Hold[] {
  return state.exclusive === null ? state.shared : [state.exclusive, ...state.shared];
}

/** The run of a hold that ended without releasing, the hold's own first. */
export function orphanIn(hold: Hold): (Run & { readonly orphaned: Orphan }) | null {
  for (const run of [hold, ...hold.nested]) if (run.orphaned !== null) return { workflowId: run.workflowId, runId: run.runId, orphaned: run.orphaned };
  return null;
}

function sameRun(one: Run, other: Run): boolean {
  return one.workflowId === other.workflowId && one.runId === other.runId;
}

function replaceHold(state: LockState, hold: Hold): LockState {
  return hold.mode === 'exclusive' ? { ...state, exclusive: hold } : { ...state, shared: state.shared.map((one) => (sameRun(one, hold) ? hold : one)) };
}

function removeHold(state: LockState, hold: Hold): LockState {
  return hold.mode === 'exclusive' ? { ...state, exclusive: null } : { ...state, shared: state.shared.filter((one) => !sameRun(one, hold)) };
}

function noted(state: LockState, atMs: number, text: string): LockState {
  return { ...state, log: [...state.log, { atMs, text }].slice(-KEPT_LOG) };
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
