import { createHash } from 'node:crypto';
import { HoldfastError } from '../src/model/errors.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatDuration } from '../src/model/units.ts';
import { behaviorTargets, groupMembers, invalidate, invalidationStatus, mayUpdateDistribution, readDistribution, targetIds, updateDistribution, withMembers, withTargets, type DistributionSeen } from '../src/systems/distribution.ts';
import { check, guarded, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

const MAX_ROUNDS = 5;

/** What this step decides: targets of behaviours, or the order of an origin group's members. Each by a name, as text. */
type Choice = Readonly<Record<string, string>>;

interface Group {
  readonly id: string;
  readonly first: string;
}

function groupOf(step: StepRun): Group | undefined {
  return step.input['originGroup'] as Group | undefined;
}

function behaviorsOf(step: StepRun): readonly string[] {
  return step.input['behaviors'] as readonly string[];
}

/** As it is now, of what this step decides; a behaviour or group that is missing has none. */
function choiceNow(step: StepRun, seen: DistributionSeen): Choice {
  const group = groupOf(step);
  if (group !== undefined) return { [group.id]: (groupMembers(seen.config, group.id) ?? []).join(' > ') };
  const targets = behaviorTargets(seen.config);
  return Object.fromEntries(behaviorsOf(step).map((name) => [name, targets[name] ?? '']));
}

function choiceWanted(step: StepRun, seen: DistributionSeen): Choice {
  const group = groupOf(step);
  if (group === undefined) return Object.fromEntries(behaviorsOf(step).map((name) => [name, textInput(step, 'origin')]));
  const members = groupMembers(seen.config, group.id) ?? [];
  return { [group.id]: [group.first, ...members.filter((member) => member !== group.first)].join(' > ') };
}

function same(a: Choice, b: Choice): boolean {
  return Object.keys(a).length === Object.keys(b).length && Object.entries(a).every(([name, value]) => b[name] === value);
}

function show(choice: Choice): string {
  return Object.entries(choice).map(([name, value]) => `${name}: ${value === '' ? 'none' : value}`).join(', ');
}

function choiceBefore(step: StepRun): Choice | null {
  return (step.call.before as { choice?: Choice } | null)?.choice ?? null;
}

function pathsOf(step: StepRun): readonly string[] {
  return step.input['invalidate'] as readonly string[];
}

/**
 * Changes the choice and nothing else, only if the distribution still is as it was read. Another writer in between: read again; what he
 * changed elsewhere is kept, what he changed here is not overwritten.
 */
async function put(step: StepRun, wanted: (seen: DistributionSeen) => Choice, expected: Choice | null): Promise<{ from: Choice; to: Choice } | null> {
  const id = textInput(step, 'distributionId');
  let sentUpon: Choice | null = null;
  for (let round = 1; round <= MAX_ROUNDS; round += 1) {
    const seen = await readDistribution(step.context, id);
    const from = choiceNow(step, seen);
    const to = wanted(seen);
    // Refused although it is as we wanted it: an answer was lost and the client sent it again.
    if (same(from, to)) return sentUpon === null ? null : { from: sentUpon, to };
    if (expected !== null && !same(from, expected)) {
      throw new HoldfastError('cdn-changed', `distribution ${id} was changed by somebody else: it had ${show(expected)}, and has ${show(from)} now. Nothing was changed`, { next: 'find out who changed it and why; then retry' });
    }
    const group = groupOf(step);
    const config = group === undefined ? withTargets(seen.config, to) : withMembers(seen.config, group.id, to[group.id]!.split(' > '));
    if ((await updateDistribution(step.context, id, seen.etag, config)) !== null) return { from, to };
    sentUpon = from;
    step.heartbeat({ contended: round });
    await pause(200 * round, step.signal);
  }
  throw new HoldfastError('cdn-contended', `distribution ${id} was changed ${MAX_ROUNDS} times while its origin was being switched; nothing was changed by this step`, { next: 'find out who changes it; then retry' });
}

/** Deployed: every edge location has it. Usually minutes. @returns null when it is not within the time */
async function waitDeployed(step: StepRun, waitMs: number): Promise<{ seen: DistributionSeen; ms: number } | null> {
  const began = step.nowMs();
  for (;;) {
    const seen = await readDistribution(step.context, textInput(step, 'distributionId'));
    if (seen.status === 'Deployed') return { seen, ms: step.nowMs() - began };
    if (step.nowMs() - began > waitMs) return null;
    step.heartbeat({ status: seen.status, waitedMs: step.nowMs() - began });
    await pause(step.input['pollMs'] as number, step.signal);
  }
}

const origin: StepDefinition = {
  async inspect(step) {
    const seen = await readDistribution(step.context, textInput(step, 'distributionId'));
    const now = choiceNow(step, seen);
    const there = same(now, choiceWanted(step, seen));
    // Without its id nobody can tell whether the invalidation was made: apply makes it again under the same reference.
    return { satisfied: there && pathsOf(step).length === 0, summary: `${show(now)}; ${seen.status}`, before: { distribution: seen.id, choice: { ...now } }, after: { choice: { ...now } } };
  },
  async guard(step) {
    const seen = await readDistribution(step.context, textInput(step, 'distributionId'));
    const group = groupOf(step);
    const checks = [check('distribution', seen.config.Enabled === true, 'enabled', seen.config.Enabled === true ? 'enabled' : 'disabled', 'enable it, or leave this step out')];
    if (group === undefined) {
      const wanted = textInput(step, 'origin');
      const ids = targetIds(seen.config);
      checks.push(check('origin', ids.includes(wanted), `an origin or origin group ${wanted}`, ids.join(', '), 'add the origin to the distribution, or correct `origin`'));
      const targets = behaviorTargets(seen.config);
      for (const name of behaviorsOf(step)) checks.push(check(`behaviour ${name}`, Object.hasOwn(targets, name), 'a cache behaviour of the distribution', Object.keys(targets).join(', '), 'correct `behaviors`: path patterns as they are written there'));
    } else {
      const members = groupMembers(seen.config, group.id);
      checks.push(check('origin group', members !== null, `an origin group ${group.id}`, members === null ? 'none' : members.join(' > '), 'correct `originGroup.id`'));
      if (members !== null) checks.push(check('member', members.includes(group.first), `${group.first} in the group`, members.join(' > '), 'correct `originGroup.first`'));
    }
    const right = await mayUpdateDistribution(step.context, seen);
    checks.push(check('CDN permission', right.allowed, 'cloudfront:UpdateDistribution is allowed', right.found, "allow it to the worker's role on this distribution"));
    return guarded(checks);
  },
  async apply(step) {
    const id = textInput(step, 'distributionId');
    const done = await put(step, (seen) => choiceWanted(step, seen), choiceBefore(step));
    const paths = pathsOf(step);
    let invalidation: string | null = null;
    if (paths.length > 0) {
      // Before every edge has the new origin, it could fill its cache from the old one again.
      const waitMs = step.input['wait'] as number;
      if ((await waitDeployed(step, waitMs)) === null) throw new HoldfastError('cdn-pending', `distribution ${id} is not Deployed after ${formatDuration(waitMs)}`, { retryable: true, next: 'wait; nothing was invalidated yet' });
      invalidation = await invalidate(step.context, id, paths, `holdfast-${createHash('sha256').update(step.call.key).digest('hex').slice(0, 32)}`);
    }
    const facts: Record<string, Json> = { invalidation };
    if (done === null) return { outcome: invalidation === null ? 'already-satisfied' : 'changed', summary: `${show(choiceBefore(step) ?? {})} already${invalidation === null ? '' : `; invalidation ${invalidation}`}`, facts };
    return { outcome: 'changed', summary: `${show(done.from)} -> ${show(done.to)}${invalidation === null ? '' : `; invalidation ${invalidation}`}`, before: { distribution: id, choice: { ...done.from } }, after: { choice: { ...done.to } }, facts: { ...facts, from: show(done.from), to: show(done.to) } };
  },
  async verify(step) {
    const waitMs = step.input['wait'] as number;
    const deployed = await waitDeployed(step, waitMs);
    const seen = deployed?.seen ?? (await readDistribution(step.context, textInput(step, 'distributionId')));
    const now = choiceNow(step, seen);
    const wanted = choiceWanted(step, seen);
    const checks = [
      check('origin', same(now, wanted), show(wanted), show(now), 'somebody changed it since'),
      check('Deployed', deployed !== null, `Deployed within ${formatDuration(waitMs)}`, seen.status, 'wait, then retry'),
    ];
    const { invalidation } = step.call.facts;
    if (typeof invalidation === 'string') {
      const deadline = step.nowMs() + waitMs;
      let status = await invalidationStatus(step.context, seen.id, invalidation);
      while (!/^completed$/i.test(status) && step.nowMs() < deadline) {
        step.heartbeat({ invalidation, status });
        await pause(step.input['pollMs'] as number, step.signal);
        status = await invalidationStatus(step.context, seen.id, invalidation);
      }
      checks.push(check('invalidation', /^completed$/i.test(status), 'Completed', status, 'wait, then retry'));
    }
    return { checks, summary: `${show(now)}; ${deployed === null ? seen.status : `Deployed ${formatDuration(deployed.ms)} after it was looked at`}`, facts: { deployedMs: deployed?.ms ?? null, domainName: seen.domainName } };
  },
  async undo(step) {
    const before = choiceBefore(step);
    const seen = await readDistribution(step.context, textInput(step, 'distributionId'));
    const now = choiceNow(step, seen);
    if (before === null || same(now, before)) return { outcome: 'already-satisfied', summary: `${show(now)}, as before` };
    await put(step, () => before, choiceWanted(step, seen));
    const deployed = await waitDeployed(step, step.input['wait'] as number);
    return { outcome: 'changed', summary: `${show(before)} again${deployed === null ? '; NOT Deployed yet' : ''}`, after: { choice: { ...before } } };
  },
};

export const edgeCdnSteps: Readonly<Record<string, StepDefinition>> = { 'cloudfront.origin': origin };
