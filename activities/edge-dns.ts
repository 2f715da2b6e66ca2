import type { ResourceRecordSet } from '@aws-sdk/client-route-53';
import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatDuration } from '../src/model/units.ts';
import { dnsAnswer } from '../src/systems/dns-answer.ts';
import { fingerprint, healthCheck, healthSeen, isHealthy, isInsync, mayChangeSets, maySetHealthCheck, recordSets, replaceSets, setHealthCheck, setsWithHealthCheck, type HealthCheckState, type RecordName } from '../src/systems/record-sets.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

type Weights = Readonly<Record<string, number>>;
const MAX_ROUNDS = 3;

function placeOf(step: StepRun): RecordName {
  return { hostedZoneId: textInput(step, 'hostedZoneId'), name: textInput(step, 'name'), type: String(step.input['type']) };
}

function weightsOf(sets: readonly ResourceRecordSet[]): Weights {
  return Object.fromEntries(sets.map((set) => [set.SetIdentifier ?? '', set.Weight ?? 0]));
}

function show(weights: Weights): string {
  return Object.entries(weights).map(([name, weight]) => `${name} ${weight}`).join(', ') || 'nothing';
}

/** All but the weights: what must survive the change unharmed. */
function restOf(sets: readonly ResourceRecordSet[]): string {
  return fingerprint(sets.map((set) => ({ ...set, Weight: undefined })));
}

function hasWeights(sets: readonly ResourceRecordSet[], wanted: Weights): boolean {
  const now = weightsOf(sets);
  return Object.entries(wanted).every(([name, weight]) => now[name] === weight);
}

interface SeenWeights {
  readonly weights: Weights;
  readonly rest: string;
}

function seenBefore(step: StepRun): SeenWeights | null {
  const before = step.call.before as { weights?: Weights; rest?: string } | null;
  return before?.weights === undefined || before.rest === undefined ? null : { weights: before.weights, rest: before.rest };
}

function changed(at: RecordName, was: string, now: string): HoldfastError {
  return new HoldfastError('dns-changed', `${at.type} ${at.name} in zone ${at.hostedZoneId} was changed by somebody else: it had ${was}, and has ${now} now. Nothing was changed`, { next: 'find out who changed it and why; then retry' });
}

/** Replaces the weights, carrying over everything else of each set; refused when the sets are not as they were `seen`. */
async function putWeights(step: StepRun, wanted: Weights, seen: SeenWeights | null): Promise<{ changeId: string | null; from: Weights; rest: string } | null> {
  const at = placeOf(step);
  let sentUpon: { from: Weights; rest: string; why: string } | null = null;
  for (let round = 1; round <= MAX_ROUNDS; round += 1) {
    const sets = await recordSets(step.context, at);
    const from = weightsOf(sets);
    // Refused although what we wanted is there: an answer was lost and the client sent the batch again. It is our change.
    if (hasWeights(sets, wanted)) return sentUpon === null || restOf(sets) !== sentUpon.rest ? null : { changeId: null, from: sentUpon.from, rest: sentUpon.rest };
    if (sentUpon !== null && show(from) === show(sentUpon.from) && restOf(sets) === sentUpon.rest) throw new HoldfastError('dns-refused', `Route 53 refuses to change ${at.type} ${at.name}, although it is as it was seen: ${sentUpon.why}`, { next: 'look at the sets of this name; nothing was changed' });
    if (seen !== null && (show(from) !== show(seen.weights) || restOf(sets) !== seen.rest)) throw changed(at, show(seen.weights), show(from) === show(seen.weights) ? 'other values' : show(from));
    const missing = Object.keys(wanted).filter((name) => !Object.hasOwn(from, name));
    if (missing.length > 0) throw new HoldfastError('dns-missing', `${at.type} ${at.name} has no set ${missing.join(', ')}; it has ${Object.keys(from).join(', ') || 'none'}`, { next: 'correct the set identifiers in `weights`' });
    const sent = await replaceSets(step.context, at, sets.filter((set) => wanted[set.SetIdentifier!] !== undefined && set.Weight !== wanted[set.SetIdentifier!]).map((set) => ({ seen: set, wanted: { ...set, Weight: wanted[set.SetIdentifier!]! } })), `holdfast ${step.call.key}`);
    // Kept where the next try finds it: without the id nobody can ask whether the change has spread.
    if ('changeId' in sent) {
      step.heartbeat({ changeId: sent.changeId });
      return { changeId: sent.changeId, from, rest: restOf(sets) };
    }
    sentUpon = { from, rest: restOf(sets), why: sent.refused };
    await pause(200, step.signal);
  }
  throw new HoldfastError('dns-contended', `${at.type} ${at.name} was changed ${MAX_ROUNDS} times while its weights were being set; nothing was changed`, { next: 'find out who changes it; then retry' });
}

async function waitInsync(step: StepRun, changeId: string, deadlineMs: number): Promise<number | null> {
  const began = step.nowMs();
  while (!(await isInsync(step.context, changeId))) {
    if (step.nowMs() > deadlineMs) return null;
    step.heartbeat({ changeId });
    await pause(1000, step.signal);
  }
  return step.nowMs() - began;
}

function changeIdOf(step: StepRun): string | null {
  const known = step.call.facts['changeId'] ?? (step.previousDetails as { changeId?: unknown } | null | undefined)?.changeId;
  return typeof known === 'string' ? known : null;
}

/** INSYNC: Route 53's own servers answer it. What resolvers have kept they answer until the TTL is over. */
async function insyncCheck(step: StepRun): Promise<{ check: CheckResult; facts: Readonly<Record<string, Json>>; text: string }> {
  const changeId = changeIdOf(step);
  if (changeId === null) return { check: check('INSYNC', true, 'asked by the id of the change', 'not asked: this run holds no id of a change'), facts: { insyncMs: null }, text: 'whether it has spread was not asked' };
  const waitMs = step.input['wait'] as number;
  const insyncMs = await waitInsync(step, changeId, step.nowMs() + waitMs);
  return { check: check('INSYNC', insyncMs !== null, `INSYNC within ${formatDuration(waitMs)}`, insyncMs === null ? 'PENDING' : 'INSYNC', 'look at the change in Route 53, then retry'), facts: { changeId, insyncMs }, text: insyncMs === null ? 'not INSYNC' : `INSYNC ${formatDuration(insyncMs)} after it was looked at` };
}

/** What a name server answers, until it is one of `expected`. */
async function answerCheck(step: StepRun, expected: readonly string[]): Promise<{ checks: CheckResult[]; facts: Readonly<Record<string, Json>>; text: string }> {
  const server = optionalText(step, 'resolver');
  const at = placeOf(step);
  const given = step.input['answer'] as readonly string[] | undefined;
  const wanted = (given ?? expected).map((value) => value.replace(/\.$/, '').toLowerCase());
  if (server === undefined) return { checks: [], facts: { answer: null }, text: 'what DNS answers was not looked at: no resolver is given' };
  if (wanted.length === 0) return { checks: [check('DNS answer', false, 'a value to compare with', 'an alias has none', 'give `answer`')], facts: { answer: null }, text: 'the answer cannot be judged' };
  const deadline = step.nowMs() + (step.input['wait'] as number);
  const began = step.nowMs();
  for (;;) {
    const found = await dnsAnswer(server, at.name, at.type).then((values) => values.map((value) => value.toLowerCase()), (error: unknown) => messageOf(error));
    const right = typeof found !== 'string' && found.length > 0 && found.every((value) => wanted.includes(value.replace(/\.$/, '')));
    if (right || step.nowMs() > deadline) {
      const text = typeof found === 'string' ? `no answer: ${found}` : found.join(', ') || 'nothing';
      return { checks: [check('DNS answer', right, `${wanted.join(' or ')} from ${server}`, text, 'resolvers keep the old answer until its TTL is over; wait, then retry')], facts: { answer: text, answerMs: right ? step.nowMs() - began : null }, text: `${server} answers ${text}` };
    }
    step.heartbeat({ changeId: changeIdOf(step), answer: found });
    await pause(1000, step.signal);
  }
}

async function healthOf(step: StepRun, set: ResourceRecordSet, what: string): Promise<CheckResult[]> {
  if (set.HealthCheckId === undefined) return [];
  const state = await healthCheck(step.context, set.HealthCheckId);
  if (state.disabled || state.inverted) return [check(`health of ${what}`, false, `health check ${state.id} enabled and not inverted`, [state.disabled ? 'disabled' : '', state.inverted ? 'inverted' : ''].filter((item) => item !== '').join(' and '), 'its answer says nothing of the endpoint: put the check right first')];
  const seen = await healthSeen(step.context, state, step.nowMs());
  const healthy = isHealthy(seen);
  return [check(`health of ${what}`, healthy === true, 'more than 18 % of the checkers succeed', healthy === null ? 'no observation of the last 5 minutes' : `${seen.checkers - seen.failing} of ${seen.checkers} succeed${seen.example === null ? '' : ` (${seen.example})`}`, 'Route 53 would not send anybody there: look at the endpoint and its health check')];
}

const weights: StepDefinition = {
  async inspect(step) {
    const sets = await recordSets(step.context, placeOf(step));
    const wanted = step.input['weights'] as Weights;
    return { satisfied: sets.length > 0 && hasWeights(sets, wanted), summary: `${textInput(step, 'name')} has ${show(weightsOf(sets))}`, before: { name: textInput(step, 'name'), weights: { ...weightsOf(sets) }, rest: restOf(sets) }, after: { weights: { ...weightsOf(sets) } } };
  },
  async guard(step) {
    const at = placeOf(step);
    const wanted = step.input['weights'] as Weights;
    const sets = await recordSets(step.context, at);
    const now = weightsOf(sets);
    const checks = [check('record sets', sets.length > 0, `weighted sets of ${at.type} ${at.name} in zone ${at.hostedZoneId}`, show(now), 'create them, or correct name, type and zone')];
    if (sets.length === 0) return guarded(checks);
    const other = sets.filter((set) => set.SetIdentifier === undefined || set.Weight === undefined);
    checks.push(check('weighted', other.length === 0, 'every set has a weight and a set identifier', other.length === 0 ? 'so' : `${other.length} of ${sets.length} have not`, 'this name has another routing policy'));
    const missing = Object.keys(wanted).filter((name) => !Object.hasOwn(now, name));
    checks.push(check('named sets', missing.length === 0, Object.keys(wanted).join(', '), missing.length === 0 ? 'all there' : `missing: ${missing.join(', ')}`, 'correct the set identifiers in `weights`'));
    // A set that nobody named goes on taking its share.
    const unnamed = sets.filter((set) => !Object.hasOwn(wanted, set.SetIdentifier ?? '') && (set.Weight ?? 0) > 0);
    checks.push(check('no other share', unnamed.length === 0, 'every set with a weight is named', unnamed.length === 0 ? 'so' : unnamed.map((set) => `${set.SetIdentifier} ${set.Weight}`).join(', '), 'name it in `weights` as well'));
    for (const set of sets) if ((wanted[set.SetIdentifier ?? ''] ?? 0) > (set.Weight ?? 0)) checks.push(...(await healthOf(step, set, set.SetIdentifier ?? '')));
    const right = await mayChangeSets(step.context, at, sets[0]!);
    checks.push(check('DNS permission', right.allowed, 'route53:ChangeResourceRecordSets is allowed', right.found, "allow it to the worker's role on this zone"));
    return guarded(checks);
  },
  async apply(step) {
    const wanted = step.input['weights'] as Weights;
    const done = await putWeights(step, wanted, seenBefore(step));
    if (done === null) return { outcome: 'already-satisfied', summary: `${textInput(step, 'name')} has ${show(wanted)} already`, after: { weights: { ...wanted } } };
    return { outcome: 'changed', summary: `${textInput(step, 'name')}: ${show(done.from)} -> ${show(wanted)}`, before: { name: textInput(step, 'name'), weights: { ...done.from }, rest: done.rest }, after: { weights: { ...wanted } }, facts: { changeId: done.changeId, weightsBefore: show(done.from), weights: show(wanted) } };
  },
  async verify(step) {
    const wanted = step.input['weights'] as Weights;
    const insync = await insyncCheck(step);
    const sets = await recordSets(step.context, placeOf(step));
    const seen = seenBefore(step);
    const values = sets.filter((set) => (set.Weight ?? 0) > 0).flatMap((set) => (set.ResourceRecords ?? []).map((record) => record.Value ?? ''));
    const answer = await answerCheck(step, values);
    return {
      checks: [
        insync.check,
        check('weights', hasWeights(sets, wanted), show(wanted), show(weightsOf(sets)), 'somebody changed them since'),
        ...(seen === null ? [] : [check('everything else of the sets', restOf(sets) === seen.rest, 'as before', restOf(sets) === seen.rest ? 'as before' : 'changed', 'compare with what CloudTrail holds of the change')]),
        ...answer.checks,
      ],
      summary: `${insync.text}; ${answer.text}`,
      facts: { ...insync.facts, ...answer.facts },
    };
  },
  async undo(step) {
    const at = placeOf(step);
    const seen = seenBefore(step);
    const wanted = step.input['weights'] as Weights;
    const sets = await recordSets(step.context, at);
    if (seen === null) {
      if (!hasWeights(sets, wanted)) return { outcome: 'already-satisfied', summary: 'nothing of ours is there' };
      throw new HoldfastError('undo-unknown', `the weights before the change of ${at.name} are not known`, { next: 'set them by hand, then markDone' });
    }
    const old = Object.fromEntries(Object.entries(seen.weights).filter(([name]) => Object.hasOwn(wanted, name)));
    if (hasWeights(sets, old)) return { outcome: 'already-satisfied', summary: `${at.name} has ${show(weightsOf(sets))}, as before` };
    if (!hasWeights(sets, wanted)) throw changed(at, show(wanted), show(weightsOf(sets)));
    const back = await putWeights(step, old, { weights: weightsOf(sets), rest: restOf(sets) });
    if (back?.changeId != null) await waitInsync(step, back.changeId, step.nowMs() + (step.input['wait'] as number));
    return { outcome: 'changed', summary: `${at.name} has ${show(old)} again`, after: { weights: { ...old } } };
  },
};

interface Pair {
  readonly primary: ResourceRecordSet | undefined;
  readonly secondary: ResourceRecordSet | undefined;
  readonly sets: readonly ResourceRecordSet[];
}

async function pairOf(step: StepRun): Promise<Pair> {
  const sets = await recordSets(step.context, placeOf(step));
  return { primary: sets.find((set) => set.Failover === 'PRIMARY'), secondary: sets.find((set) => set.Failover === 'SECONDARY'), sets };
}

type Flags = { readonly inverted: boolean; readonly disabled: boolean };

/**
 * A disabled check counts as healthy and an inverted one as its opposite: both together are unhealthy whatever the endpoint does.
 * Inverted alone would send everybody back to an endpoint that is really down.
 */
function flagsFor(step: StepRun): Flags {
  const away = step.input['to'] === 'secondary';
  return { inverted: away, disabled: away };
}

function same(a: Flags, b: Flags): boolean {
  return a.inverted === b.inverted && a.disabled === b.disabled;
}

function showFlags(flags: Flags): string {
  return `${flags.disabled ? 'disabled' : 'enabled'}, ${flags.inverted ? 'inverted' : 'not inverted'}`;
}

async function primaryCheck(step: StepRun): Promise<HealthCheckState> {
  const { primary } = await pairOf(step);
  if (primary?.HealthCheckId === undefined) throw new HoldfastError('dns-failover', `the PRIMARY set of ${textInput(step, 'name')} has no health check`, { next: 'give it one: without it Route 53 never fails over' });
  return healthCheck(step.context, primary.HealthCheckId);
}

function flagsBefore(step: StepRun): (Flags & { version: number }) | null {
  const before = step.call.before as { inverted?: boolean; disabled?: boolean; version?: number } | null;
  return before?.inverted === undefined || before.disabled === undefined || before.version === undefined ? null : { inverted: before.inverted, disabled: before.disabled, version: before.version };
}

async function putFlags(step: StepRun, wanted: Flags, expected: Flags | null): Promise<{ from: HealthCheckState; to: HealthCheckState } | HealthCheckState> {
  let sentUpon: HealthCheckState | null = null;
  for (let round = 1; round <= MAX_ROUNDS; round += 1) {
    const now = await primaryCheck(step);
    // Refused although it is as we wanted it, one version on: an answer was lost and the client sent it again.
    if (same(now, wanted)) return sentUpon !== null && now.version <= sentUpon.version + 1 ? { from: sentUpon, to: now } : now;
    if (expected !== null && !same(now, expected)) {
      throw new HoldfastError('health-check-changed', `health check ${now.id} was changed by somebody else: it was ${showFlags(expected)}, and is ${showFlags(now)} now. Nothing was changed`, { next: 'find out who changed it and why; then retry' });
    }
    const to = await setHealthCheck(step.context, now.id, now.version, wanted);
    if (to !== null) return { from: now, to };
    sentUpon = now;
  }
  throw new HoldfastError('health-check-contended', `the health check of ${textInput(step, 'name')} was changed ${MAX_ROUNDS} times meanwhile; nothing was changed`, { next: 'find out who changes it; then retry' });
}

const failoverRecord: StepDefinition = {
  async inspect(step) {
    const state = await primaryCheck(step);
    return { satisfied: same(state, flagsFor(step)), summary: `health check ${state.id} of the primary is ${showFlags(state)}`, before: { name: textInput(step, 'name'), healthCheck: state.id, inverted: state.inverted, disabled: state.disabled, version: state.version }, after: { inverted: state.inverted, disabled: state.disabled, version: state.version } };
  },
  async guard(step) {
    const at = placeOf(step);
    const { primary, secondary, sets } = await pairOf(step);
    const checks = [
      check('failover sets', primary !== undefined && secondary !== undefined && sets.length === 2, `one PRIMARY and one SECONDARY set of ${at.type} ${at.name}`, sets.map((set) => `${set.SetIdentifier ?? '(none)'} ${set.Failover ?? 'no failover'}`).join(', ') || 'none', 'create them, or correct name, type and zone'),
      check('health check of the primary', primary?.HealthCheckId !== undefined, 'a health check on the PRIMARY set', primary?.HealthCheckId ?? 'none', 'give it one: without it Route 53 never fails over'),
    ];
    if (primary?.HealthCheckId === undefined || secondary === undefined) return guarded(checks);
    const state = await healthCheck(step.context, primary.HealthCheckId);
    if (step.input['sharedHealthCheck'] !== true) {
      const others = (await setsWithHealthCheck(step.context, at.hostedZoneId, state.id)).filter((set) => !(set.Name === primary.Name && set.Type === primary.Type && set.SetIdentifier === primary.SetIdentifier));
      checks.push(check('health check decides on nothing else', others.length === 0, `no other set of the zone has health check ${state.id}`, others.length === 0 ? 'none' : others.slice(0, 5).map((set) => `${set.Type} ${set.Name} (${set.SetIdentifier ?? '-'})`).join(', '), 'give this set a health check of its own, or say sharedHealthCheck: true when they are to move together'));
    }
    if (secondary.HealthCheckId === primary.HealthCheckId) checks.push(check('health check of the secondary', false, 'another one than that of the primary', state.id, 'both would be unhealthy at once'));
    else if (step.input['to'] === 'secondary') checks.push(...(await healthOf(step, secondary, 'the secondary')));
    const right = await maySetHealthCheck(step.context, state);
    checks.push(check('health check permission', right.allowed, 'route53:UpdateHealthCheck is allowed', right.found, "allow it to the worker's role"));
    return guarded(checks);
  },
  async apply(step) {
    const wanted = flagsFor(step);
    const done = await putFlags(step, wanted, flagsBefore(step));
    const to = String(step.input['to']);
    if (!('from' in done)) return { outcome: 'already-satisfied', summary: `health check ${done.id} is ${showFlags(done)} already`, facts: { healthCheck: done.id, version: done.version } };
    return {
      outcome: 'changed',
      summary: `health check ${done.from.id} is ${showFlags(done.to)}: ${to === 'secondary' ? 'Route 53 answers with the secondary' : 'Route 53 decides by the health of the primary again'}`,
      before: { name: textInput(step, 'name'), healthCheck: done.from.id, inverted: done.from.inverted, disabled: done.from.disabled, version: done.from.version },
      after: { inverted: done.to.inverted, disabled: done.to.disabled, version: done.to.version },
      facts: { healthCheck: done.from.id, version: done.to.version },
    };
  },
  async verify(step) {
    const { primary, secondary } = await pairOf(step);
    const state = await primaryCheck(step);
    const wanted = flagsFor(step);
    const chosen = step.input['to'] === 'secondary' ? secondary : primary;
    const answer = await answerCheck(step, (chosen?.ResourceRecords ?? []).map((record) => record.Value ?? ''));
    return { checks: [check('health check', same(state, wanted), showFlags(wanted), showFlags(state), 'somebody changed it since'), ...answer.checks], summary: answer.text, facts: answer.facts };
  },
  async undo(step) {
    const before = flagsBefore(step);
    const now = await primaryCheck(step);
    if (before === null) {
      if (!same(now, flagsFor(step))) return { outcome: 'already-satisfied', summary: 'nothing of ours is there' };
      throw new HoldfastError('undo-unknown', `what health check ${now.id} was before is not known`, { next: 'set it by hand, then markDone' });
    }
    if (same(now, before)) return { outcome: 'already-satisfied', summary: `health check ${now.id} is ${showFlags(now)}, as before` };
    await putFlags(step, before, flagsFor(step));
    return { outcome: 'changed', summary: `health check ${now.id} is ${showFlags(before)} again`, after: { inverted: before.inverted, disabled: before.disabled } };
  },
};

export const edgeDnsSteps: Readonly<Record<string, StepDefinition>> = { 'route53.weights': weights, 'route53.failoverRecord': failoverRecord };
