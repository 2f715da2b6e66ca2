import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { describeCheck } from '../src/model/execution.ts';
import { replacedName, tagValue } from '../src/model/managed-roles.ts';
import { formatDuration } from '../src/model/units.ts';
import { createReplica, deleteInstance, describeInstance, FENCE_TAGS, instanceOf, managedNode, PROMOTION_TAGS, regionOf, renameInstance, setInstanceGroups, startInstance, stopInstance, type ManagedInstance } from '../src/systems/rds.ts';
import { primaryOf, rebuildSteps, streams } from './postgres-rebuild.ts';
import { describeRds, fenceOf, pollMs, see } from './rds.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

/** Of the instance that was made by a rebuild, so that another try after a lost worker knows it. */
const REBUILT_TAG = 'holdfast:rebuilt';

interface Place {
  readonly name: string;
  readonly region: string;
  readonly identifier: string;
  readonly primary: string;
}

async function placeOf(step: StepRun): Promise<Place> {
  const name = nodeInput(step, 'node');
  const rds = managedNode(datastoreFor(step), name);
  return { name, region: regionOf(step.context, rds), identifier: rds.instance.toLowerCase(), primary: await primaryOf(step) };
}

/** Nothing may be made from a fenced instance, and no live primary may be replaced: the secret alone does not say who is right. */
async function roleChecks(step: StepRun, { name, primary }: Place): Promise<CheckResult[]> {
  const datastore = datastoreFor(step);
  const [source, target] = await Promise.all([see(step, primary), see(step, name)]);
  const fenced = (seen: typeof source, node: string): boolean => seen.instance !== null && fenceOf(seen.instance, managedNode(datastore, node).fencingGroups).closed;
  const alive = target.status.reachable ? target.status.inRecovery === false && !fenced(target, name) : target.instance !== null && target.instance.source === null && !fenced(target, name) && target.instance.status !== 'stopped';
  return [
    check('another node', name !== primary, 'not the primary itself', name),
    check('primary writable', source.status.inRecovery === false, `${primary} is the primary`, source.status.reachable ? (source.status.inRecovery === true ? 'in recovery' : 'primary') : (source.status.error ?? 'no answer')),
    check('primary can be copied', source.instance?.status === 'available', 'RDS says available', describeRds(source), 'wait until RDS has done what it is at'),
    check('primary has backups', (source.instance?.raw.BackupRetentionPeriod ?? 0) > 0, 'a backup retention period above zero', `${source.instance?.raw.BackupRetentionPeriod ?? 'unknown'}`, 'RDS makes read replicas only of an instance with automated backups: aws rds modify-db-instance --backup-retention-period 1 --apply-immediately'),
    check('primary is not fenced', !fenced(source, primary), 'no fencing groups', fenced(source, primary) ? 'fencing groups' : 'none', `the application's secret points to a fenced node: finish the failover first`),
    check('target is no live primary', !alive, `${name} stopped, fenced, a replica, or gone`, alive ? `a primary that lets applications in (${describeRds(target)})` : 'no primary', 'two primaries: find out which one is right before anything is replaced'),
  ];
}

const rebuild: StepDefinition = {
  async inspect(step) {
    const name = nodeInput(step, 'node');
    const { ok, found } = await streams(step);
    const seen = await see(step, name);
    const fence = seen.instance === null ? null : fenceOf(seen.instance, managedNode(datastoreFor(step), name).fencingGroups);
    // One that streams behind a fence would refuse every application after the next promotion.
    const satisfied = ok && seen.instance?.status === 'available' && fence?.closed === false;
    return { satisfied, summary: satisfied ? `${name} streams already` : `${name}: ${found}; ${describeRds(seen)}${fence?.closed === true ? `, behind fencing groups (epoch ${fence.epoch ?? 'unknown'})` : ''}`, before: { found }, ...(satisfied ? { facts: { node: name, method: 'none needed' } } : {}) };
  },
  async guard(step) {
    if (optionalText(step, 'node') === undefined) return guarded([]);
    const place = await placeOf(step);
    const [roles, instance] = await Promise.all([roleChecks(step, place), describeInstance(step.context, place.region, place.identifier)]);
    const old = await replacedInstance(step, place);
    return guarded([
      ...roles,
      check('an instance to be like', instance !== null || old !== null, `${place.identifier}, or the one it was renamed to, in ${place.region}`, instance === null ? (old?.identifier ?? 'neither') : `${instance.identifier} ${instance.status}`, `there is none whose size and network could be taken: aws rds create-db-instance-read-replica --region ${place.region} --db-instance-identifier ${place.identifier} --source-db-instance-identifier <primary> ...`),
      check('rights', true, 'rds:ModifyDBInstance, rds:CreateDBInstanceReadReplica, rds:AddTagsToResource', 'not checked: RDS has no dry run for them'),
    ]);
  },
  async apply(step) {
    const place = await placeOf(step);
    const { name, region, identifier, primary } = place;
    const datastore = datastoreFor(step);
    const { fencingGroups } = managedNode(datastore, name);
    const started = step.nowMs();
    const source = await instanceOf(step.context, datastore, primary);
    const done: string[] = [];

    // Whatever there is under the name gives it up first, and is kept until its successor streams.
    for (;;) {
      const instance = await describeInstance(step.context, region, identifier);
      if (instance === null || isSuccessor(instance, source)) break;
      const wrong = (await roleChecks(step, place)).filter((item) => !item.ok);
      if (wrong.length > 0) throw new HoldfastError('roles-changed', wrong.map(describeCheck).join('; '), { next: 'find the primary before anything is replaced' });
      const later = Number(instance.tags.get(FENCE_TAGS.epoch) ?? Number.NaN);
      if (later > step.call.epoch) throw new HoldfastError('stale-epoch', `${identifier} carries the fence of epoch ${later}, which is later than ours (${step.call.epoch})`, { next: 'a later execution took over: this one must end' });
      if (instance.status === 'stopped') {
        // Its groups are what keeps applications out while it runs.
        if (instance.source === null && !fenceOf(instance, fencingGroups).closed) throw new HoldfastError('not-fenced', `${identifier} is stopped, but started again its groups would let applications in`, { next: 'fence it first: give it its fencing groups' });
        await startInstance(step.context, instance);
      } else if (instance.status === 'available') {
        const to = replacedName(identifier, step.call.epoch);
        if ((await describeInstance(step.context, region, to)) !== null) throw new HoldfastError('name-taken', `${identifier} cannot be renamed: there is an instance ${to} already`, { next: `look what it is; delete or rename it` });
        await renameInstance(step.context, instance, to);
        done.push(`${identifier} renamed to ${to}`);
      }
      step.heartbeat({ waiting: `${identifier} ${instance.status}` });
      await pause(pollMs(step.nowMs() - started), step.signal);
    }

    const old = await replacedInstance(step, place);
    if ((await describeInstance(step.context, region, identifier)) === null) {
      if (old === null) throw new HoldfastError('nothing-to-be-like', `there is neither ${identifier} nor what it was renamed to: nothing says which size and network the new one shall have`, { next: 'make the read replica by hand, then run this again' });
      // It is being renamed; RDS gives the name away when that is done.
      await settled(step, region, old.identifier, started);
      const groups = groupsBefore(old, fencingGroups);
      if (groups.length === 0) throw new HoldfastError('groups-unknown', `which security groups ${identifier} had is not known: the tag ${FENCE_TAGS.groups} of ${old.identifier} is empty`, { next: `put its groups into that tag, separated by spaces, and run this again` });
      const ours = new Set<string>([...Object.values(FENCE_TAGS), ...Object.values(PROMOTION_TAGS), 'holdfast:promotion-at', REBUILT_TAG]);
      const tags = Object.fromEntries([...old.tags].filter(([key]) => !ours.has(key) && !key.startsWith('aws:')));
      await createReplica(step.context, { region, identifier, source, like: old, groups, tags: { ...tags, [REBUILT_TAG]: tagValue(`${step.call.workflowId}/${step.call.epoch}`) } }).catch(async (error: unknown) => {
        // Its answer may have been lost: then it is there, and ours.
        const made = await describeInstance(step.context, region, identifier).catch(() => null);
        if (made === null || !isSuccessor(made, source)) throw error;
      });
      done.push(`new read replica of ${source.identifier} (${source.region})`);
    }
    const replica = await settled(step, region, identifier, started);
    // A lost try may have left it with the groups it was made with, never with others.
    if (fenceOf(replica, fencingGroups).closed) {
      const groups = old === null ? [] : groupsBefore(old, fencingGroups);
      if (groups.length === 0) throw new HoldfastError('groups-unknown', `${identifier} stands behind its fencing groups, and which it had before is not known`, { next: 'give it its own groups by hand, then run this again' });
      await setInstanceGroups(step.context, replica, groups);
    }
    done.push(...(await retire(step, place, old)));
    return {
      outcome: 'changed',
      summary: `${name} rebuilt as a read replica of ${source.identifier} in ${formatDuration(step.nowMs() - started)}: ${done.join('; ')}`,
      after: { method: 'read replica', from: primary },
      facts: { node: name, method: 'read replica', rebuildMs: step.nowMs() - started, replaced: old?.identifier ?? null },
    };
  },
  verify: (step) => rebuildSteps['postgres.rebuildStandby']!.verify!(step),
};

function isSuccessor(instance: ManagedInstance, source: ManagedInstance): boolean {
  return instance.source !== null && [source.identifier.toLowerCase(), source.arn.toLowerCase()].includes(instance.source.toLowerCase());
}

/** The instance that had the name before: of this execution, or of an earlier one that did not get to the end. */
async function replacedInstance(step: StepRun, { region, identifier }: Place): Promise<ManagedInstance | null> {
  for (let epoch = step.call.epoch; epoch > Math.max(0, step.call.epoch - 5); epoch -= 1) {
    const found = await describeInstance(step.context, region, replacedName(identifier, epoch));
    if (found !== null) return found;
  }
  return null;
}

function groupsBefore(old: ManagedInstance, fencingGroups: readonly string[]): string[] {
  const kept = (old.tags.get(FENCE_TAGS.groups) ?? '').split(' ').filter((id) => id !== '');
  return kept.length > 0 ? kept : old.groups.map((group) => group.id).filter((id) => !fencingGroups.includes(id));
}

/** Until RDS is done with it; how long that takes depends on the size of the data. */
async function settled(step: StepRun, region: string, identifier: string, startedMs: number): Promise<ManagedInstance> {
  for (;;) {
    const instance = await describeInstance(step.context, region, identifier);
    if (instance?.status === 'available') return instance;
    if (instance !== null && /^(failed|incompatible|inaccessible|restore-error)/.test(instance.status)) throw new HoldfastError('instance-failed', `RDS says that ${identifier} is ${instance.status}`, { next: `look at its events: aws rds describe-events --region ${region} --source-type db-instance --source-identifier ${identifier}` });
    step.heartbeat({ waiting: `${identifier} ${instance?.status ?? 'not there yet'}` });
    step.signal.throwIfAborted();
    await pause(pollMs(step.nowMs() - startedMs), step.signal);
  }
}

/** Only once its successor streams; what cannot be done is said and holds nothing up. */
async function retire(step: StepRun, { name }: Place, old: ManagedInstance | null): Promise<string[]> {
  if (old === null) return [];
  const managed = datastoreFor(step).managed!;
  const now = await describeInstance(step.context, old.region, old.identifier).catch(() => null);
  if (now === null) return [];
  const deadline = step.nowMs() + 300_000;
  for (;;) {
    if ((await streams(step)).ok) break;
    if (step.nowMs() > deadline) return [`${old.identifier} is kept: ${name} does not stream yet`];
    await pause(500, step.signal);
  }
  try {
    if (managed.replaced === 'delete' && now.raw.DeletionProtection !== true) {
      await deleteInstance(step.context, now, `${now.identifier}-final`);
      return [`${now.identifier} is being deleted, its final snapshot is ${now.identifier}-final`];
    }
    if (managed.stopFenced && now.status === 'available' && now.replicas.length === 0 && now.source === null) {
      await stopInstance(step.context, now);
      return [`${now.identifier} is kept behind its fencing groups and is being stopped; RDS starts it again after seven days: delete it when nobody needs what it alone has`];
    }
    return [`${now.identifier} is kept behind its fencing groups: delete it when nobody needs what it alone has`];
  } catch (error) {
    return [`${now.identifier} is kept: ${messageOf(error)}`];
  }
}

export const rdsRebuildSteps: Readonly<Record<string, StepDefinition>> = { 'postgres.rebuildStandby': rebuild };
