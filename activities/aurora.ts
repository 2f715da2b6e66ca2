import type { CheckResult } from '../src/model/api.ts';
import type { PostgresDatastore } from '../src/model/config-schema.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { NOT_BEGUN, type PhaseResult } from '../src/model/execution.ts';
import { describeLag, judgeRole, rdsSign, type JudgedRole, type RdsSaw } from '../src/model/managed-roles.ts';
import { downChecks, judgePrimary } from '../src/model/primary-down.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatDuration } from '../src/model/units.ts';
import { nodeStatus, type NodeStatus } from '../src/systems/postgres-node.ts';
import { lookAtRoles } from '../src/systems/postgres-roles.ts';
import { addTags, cloudWatchLag, describeCluster, describeGlobal, describeInstance, failoverCluster, FENCE_TAGS, managedNode, moveGlobal, PROMOTION_TAGS, regionOf, removeTags, setClusterGroups, wasRefused, type ManagedCluster } from '../src/systems/rds.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText as optional, pause, type StepDefinition, type StepRun } from './step-definition.ts';
import { placesOf, postgresSteps, withLimits, type Held } from './postgres.ts';
import { fenceOf, givenUp, groupChecks, measureLoss, pollMs, tagCheck } from './rds.ts';

/**
 * Aurora keeps one storage for all instances of a cluster and moves the writer itself: it refuses writes while it does, and nothing
 * acknowledged is lost within a Region. A global database replicates its storage to other Regions; a switchover waits for that, a
 * failover takes what has arrived.
 */
interface Standing {
  readonly cluster: ManagedCluster | null;
  /** RDS's word: does this node's instance (of this node's cluster) take the writes? null: it does not say. */
  readonly writer: boolean | null;
  /** `available` when nothing is under way, in the cluster and in the global database. */
  readonly state: string;
  readonly saw: RdsSaw;
}

interface Seen extends Standing {
  readonly status: NodeStatus;
  readonly judged: JudgedRole;
}

function isGlobal(datastore: PostgresDatastore): boolean {
  return datastore.managed!.type === 'aurora-global';
}

function clusterNameOf(datastore: PostgresDatastore, name: string): string {
  const found = isGlobal(datastore) ? managedNode(datastore, name).cluster : datastore.managed!.cluster;
  if (found === undefined) throw new HoldfastError('cluster-unknown', `which DB cluster node ${name} belongs to is not said`, { next: isGlobal(datastore) ? `give nodes.${name}.rds.cluster` : 'give managed.cluster' });
  return found;
}

async function standing(step: StepRun, name: string): Promise<Standing> {
  const datastore = datastoreFor(step);
  const rds = managedNode(datastore, name);
  const region = regionOf(step.context, rds);
  try {
    const [cluster, instance] = await Promise.all([describeCluster(step.context, region, clusterNameOf(datastore, name)), describeInstance(step.context, region, rds.instance)]);
    const member = cluster.members.find((one) => one.instance.toLowerCase() === rds.instance.toLowerCase());
    if (member === undefined) return { cluster, writer: null, state: cluster.status, saw: { answers: true, found: false } };
    let { writer } = member;
    let state = cluster.status;
    if (isGlobal(datastore)) {
      const global = await describeGlobal(step.context, region, datastore.managed!.globalCluster!);
      writer &&= global.members.some((one) => one.arn === cluster.arn && one.writer);
      if (global.status !== 'available') state = global.status;
    }
    return { cluster, writer, state, saw: { answers: true, found: true, status: state === 'available' ? (instance?.status ?? state) : state, source: writer ? null : `the writer of ${datastore.managed!.globalCluster ?? cluster.identifier}` } };
  } catch (error) {
    return { cluster: null, writer: null, state: 'unknown', saw: { answers: false, error: messageOf(error).split('\n')[0]! } };
  }
}

async function see(step: StepRun, name: string, connectTimeoutMs = 3000): Promise<Seen> {
  const [status, place] = await Promise.all([nodeStatus(step.context, datastoreFor(step), name, connectTimeoutMs), standing(step, name)]);
  return { ...place, status, judged: judgeRole(name, status, place.saw) };
}

function describe(seen: Standing): string {
  if (!seen.saw.answers) return `RDS does not answer (${seen.saw.error})`;
  return `${seen.cluster?.identifier ?? '?'} ${seen.state}, ${seen.writer === null ? 'not a member' : seen.writer ? 'writer' : 'reader'}`;
}

function lagWord(step: StepRun, name: string): Promise<number | null> {
  const datastore = datastoreFor(step);
  return cloudWatchLag(step.context, managedNode(datastore, name), datastore.managed!.type, step.nowMs());
}

const health: StepDefinition = {
  async guard(step): Promise<PhaseResult> {
    const datastore = datastoreFor(step);
    const decided = step.call.facts['candidate'];
    const { primary, candidate } = await lookAtRoles(step.context, datastore, { primary: optional(step, 'primary'), candidate: optional(step, 'candidate') ?? onlyOther(step), mode: step.call.mode, ...(typeof decided === 'string' ? { decided } : {}) });
    const seen = new Map(await Promise.all(Object.keys(datastore.nodes).map(async (name) => [name, await see(step, name)] as const)));
    const disagreements = [...seen.values()].flatMap((one) => one.judged.disagreements);
    const ours = seen.get(primary)!;
    const theirs = candidate === null ? undefined : seen.get(candidate);
    const checks: CheckResult[] = [{ ...check('RDS and the servers agree', true, 'the same roles', disagreements.length === 0 ? 'the same roles' : `${disagreements.join('; ')}. Who takes writes is what the server itself says`) }];
    const planned = step.call.mode === 'planned';
    checks.push(...candidateChecks(candidate, theirs, planned));
    if (planned) {
      const limit = datastore.managed!.maxReplicaLag;
      const cloud = candidate === null ? null : await lagWord(step, candidate);
      checks.push(
        check('primary answers', ours.status.reachable, `${primary} answers`, ours.status.error ?? 'yes', 'if it is down, start a forced failover'),
        check('primary is writable', ours.status.inRecovery === false, 'the writer', ours.status.inRecovery === true ? 'a reader' : (ours.status.error ?? 'the writer')),
        check('Aurora can act', ours.state === 'available', 'RDS says available', describe(ours), 'wait until Aurora has done what it is at'),
        { ...check('lag', cloud === null || (cloud >= 0 && cloud <= limit), `CloudWatch at most ${formatDuration(limit)}`, describeLag(null, cloud, limit), 'wait until it has caught up'), rule: 'max-lag' },
      );
      return { ...guarded(checks), facts: { primary, candidate } };
    }
    const verdict = await down(step, primary);
    checks.push(...downChecks(verdict));
    return { ...guarded(checks), facts: { primary, candidate, downFacts: verdict.facts.map((fact) => fact.says), downFactCount: placesOf(verdict), unclear: [...verdict.unclear], mayLoseMs: await mayLose(step, candidate), mayLoseBytes: null } };
  },
  async verify(step) {
    const datastore = datastoreFor(step);
    const { primary, candidate } = await lookAtRoles(step.context, datastore, { primary: optional(step, 'primary'), candidate: optional(step, 'candidate') ?? onlyOther(step), mode: step.call.mode });
    if (candidate === null) throw new HoldfastError('candidate-missing', 'no candidate is left', { retryable: false });
    const [ours, theirs, cloud] = await Promise.all([see(step, primary), see(step, candidate), lagWord(step, candidate)]);
    const disagreements = [...ours.judged.disagreements, ...theirs.judged.disagreements];
    const forced = step.call.mode === 'forced' ? await down(step, primary) : null;
    return {
      checks: [check('roles', candidate !== primary, 'primary and candidate differ', `${primary} -> ${candidate}`)],
      summary: `primary ${primary} (${describe(ours)}), candidate ${candidate} (${describe(theirs)}); ${describeLag(null, cloud, datastore.managed!.maxReplicaLag)}${disagreements.length === 0 ? '' : `; ${disagreements.join('; ')}`}`,
      facts: { primary, candidate, lastCommitAt: null, candidateLsn: null, lagMs: null, lagBytes: null, cloudWatchLagMs: cloud, disagreements, downFacts: forced?.facts.map((fact) => fact.says) ?? [], ...(forced === null ? {} : { downFactCount: placesOf(forced), unclear: [...forced.unclear], mayLoseMs: await mayLose(step, candidate), mayLoseBytes: null }) },
    };
  },
};

/** With two nodes there is no choice; with more the reader that answers is chosen, by name, since Aurora tells no position. */
function onlyOther(step: StepRun): string | undefined {
  const primary = optional(step, 'primary');
  const names = Object.keys(datastoreFor(step).nodes).filter((name) => name !== primary);
  return primary !== undefined && names.length === 1 ? names[0] : undefined;
}

/** Within a Region nothing is lost, whoever writes: the storage is shared. */
async function mayLose(step: StepRun, candidate: string | null): Promise<number | null> {
  if (!isGlobal(datastoreFor(step))) return 0;
  return candidate === null ? null : lagWord(step, candidate);
}

async function down(step: StepRun, primary: string) {
  const seen = await see(step, primary, 2000);
  const attempts = step.input['attempts'] as number;
  let { status } = seen;
  for (let attempt = 1; !status.reachable && attempt < attempts; attempt += 1) {
    await pause(300, step.signal);
    status = await nodeStatus(step.context, datastoreFor(step), primary, 2000);
  }
  const detail = status.error?.split('\n')[0] ?? 'no answer';
  const worker = status.reachable ? (status.inRecovery === true ? ({ how: 'recovery' } as const) : ({ how: 'writable' } as const)) : ({ how: 'silent', attempts, detail } as const);
  const verdict = judgePrimary({ primary, worker, standbys: [], host: { state: 'none' } });
  const { fact, unclear } = rdsSign(primary, seen.saw);
  const moved = seen.writer === false ? `RDS says that ${primary} is the writer no more` : null;
  return { ...verdict, facts: [...verdict.facts, ...[fact, moved].flatMap((says) => (says === null ? [] : [{ place: 'host', says }]))], unclear: [...verdict.unclear, ...(unclear === null ? [] : [unclear])] } as typeof verdict;
}

function candidateChecks(name: string | null, seen: Seen | undefined, planned: boolean): CheckResult[] {
  if (name === null || seen === undefined) return [check('candidate', false, 'a reader', 'none', 'add an instance to the cluster, or name one with the parameter candidate')];
  // Aurora fails over by itself when its writer is gone: then there is nothing left to promote.
  const role = seen.status.inRecovery === true || (!planned && seen.status.inRecovery === false && seen.writer === true);
  return [
    check('candidate answers', seen.status.reachable, `${name} answers`, seen.status.error ?? 'yes', 'repair it or name another candidate'),
    check('candidate is a reader', role, planned ? 'in recovery' : 'in recovery, or made the writer by Aurora itself', seen.status.inRecovery === null ? 'no answer' : seen.status.inRecovery ? 'in recovery' : 'not in recovery', 'it is a writer itself: stop and look'),
    check('candidate is a member', seen.writer !== null, 'a member of the cluster', describe(seen), `look at managed and nodes.${name}.rds`),
    check('candidate can be promoted', seen.state === 'available' || (!planned && seen.saw.answers), 'RDS says available', describe(seen), 'wait until Aurora has done what it is at'),
  ];
}

const checkpoint: StepDefinition = {
  guard: (step) => postgresSteps['postgres.checkpoint']!.guard!(step),
  async apply() {
    return { outcome: 'skipped', summary: 'Aurora has no checkpoints: its storage applies what is logged' };
  },
  async verify() {
    return { checks: [], summary: 'nothing to look at' };
  },
};

const REFUSES = 'Aurora itself refuses writes while it moves the writer, and none that it acknowledged is lost by that: nothing has to be refused before';

const readOnly: StepDefinition = {
  async inspect() {
    return { satisfied: true, summary: REFUSES };
  },
  async guard() {
    return guarded([]);
  },
  async apply(step) {
    return { outcome: 'already-satisfied', summary: REFUSES, facts: { limits: [], refusedFromMs: step.nowMs() } };
  },
  async verify() {
    return { checks: [], summary: REFUSES };
  },
  async undo() {
    return { outcome: 'already-satisfied', summary: 'nothing was refused' };
  },
};

const awaitReplay: StepDefinition = {
  async guard(step) {
    if (optional(step, 'candidate') === undefined) return guarded([]);
    const seen = await see(step, nodeInput(step, 'candidate'));
    return guarded([check('candidate answers', seen.status.reachable, 'answers', seen.status.error ?? 'answers')]);
  },
  async verify(step) {
    const name = nodeInput(step, 'candidate');
    const cloud = await lagWord(step, name);
    const word = !isGlobal(datastoreFor(step)) ? 'the storage is shared: it has what was acknowledged' : step.call.mode === 'planned' ? 'the switchover itself waits until the other Region has everything' : 'what has not arrived is lost';
    return { checks: [check('replayed', true, word, describeLag(null, cloud, datastoreFor(step).managed!.maxReplicaLag))], summary: `${name}: ${word}`, facts: { cloudWatchLagMs: cloud } };
  },
};

const promote: StepDefinition = {
  async inspect(step) {
    const name = nodeInput(step, 'candidate');
    const seen = await see(step, name);
    if (!seen.status.reachable && !seen.saw.answers) throw new HoldfastError('candidate-unreachable', `${name}: ${seen.judged.disagreements.join('; ')}`, { retryable: true });
    const satisfied = isWriter(seen);
    return { satisfied, summary: satisfied ? `${name} is the writer` : `${name}: ${describe(seen)}`, before: { inRecovery: seen.status.inRecovery, rds: describe(seen) } };
  },
  async guard(step) {
    if (optional(step, 'candidate') === undefined) return guarded([]);
    const name = nodeInput(step, 'candidate');
    const seen = await see(step, name);
    const action = !isGlobal(datastoreFor(step)) ? 'rds:FailoverDBCluster' : step.call.mode === 'planned' ? 'rds:SwitchoverGlobalCluster' : 'rds:FailoverGlobalCluster';
    return guarded([
      ...candidateChecks(name, seen, step.call.mode === 'planned'),
      ...(seen.cluster === null ? [] : [await tagCheck(step, seen.cluster)]),
      check('right to promote', true, action, 'not checked: RDS has no dry run for it'),
    ]);
  },
  async apply(step) {
    const name = nodeInput(step, 'candidate');
    const datastore = datastoreFor(step);
    const started = step.nowMs();
    const first = await beforePromotion(step, name);
    if (first.begun === null) {
      try {
        const { cluster } = first.seen;
        if (isGlobal(datastore)) await moveGlobal(step.context, cluster!.region, datastore.managed!.globalCluster!, cluster!.arn, step.call.mode === 'forced');
        else await failoverCluster(step.context, cluster!, managedNode(datastore, name).instance);
      } catch (error) {
        // Its answer may have been lost, and asked again it is refused since it is under way: what RDS shows counts.
        const seen = await see(step, name);
        if (begunBy(seen, step.call.epoch) === null) {
          if (wasRefused(error)) throw new HoldfastError(NOT_BEGUN, `not promoted: ${messageOf(error)}`, { cause: error, next: 'the execution goes back' });
          throw error;
        }
      }
    }
    const deadline = started + datastore.managed!.promoteTimeout;
    for (;;) {
      const seen = await see(step, name, 2000);
      if (isWriter(seen)) {
        const promotedAtMs = step.nowMs();
        const already = first.begun === 'before';
        return { outcome: already ? 'already-satisfied' : 'changed', summary: already ? `${name} is the writer already` : `${name} made the writer by Aurora in ${formatDuration(promotedAtMs - started)}${first.begun === 'ours' ? ', begun by an earlier try' : ''}`, before: { rds: describe(first.seen) }, after: { rds: describe(seen) }, ...(already ? {} : { facts: { promotedAtMs, promoteMs: promotedAtMs - started } }) };
      }
      step.heartbeat({ promoting: describe(seen) });
      step.signal.throwIfAborted();
      if (step.nowMs() > deadline) throw new HoldfastError('promotion-unknown', `Aurora has not made ${name} the writer within ${formatDuration(datastore.managed!.promoteTimeout)}: ${describe(seen)}`, { next: 'look at the events of the cluster; it is not asked for again while anything is under way', retryable: true });
      await pause(pollMs(step.nowMs() - started), step.signal);
    }
  },
  async verify(step) {
    const name = nodeInput(step, 'candidate');
    const seen = await see(step, name);
    return { checks: [check('promoted', seen.status.inRecovery === false, `${name} is the writer`, seen.status.reachable ? (seen.status.inRecovery === false ? 'not in recovery' : 'in recovery') : (seen.status.error ?? 'no answer'))], summary: `${describe(seen)}${seen.judged.disagreements.length === 0 ? '' : `; ${seen.judged.disagreements.join('; ')}`}` };
  },
};

/** Both say so: the server takes writes, and Aurora is done. Where RDS does not answer the server's word stands. */
function isWriter(seen: Seen): boolean {
  return seen.status.inRecovery === false && (!seen.saw.answers || (seen.writer === true && seen.state === 'available'));
}

function begunBy(seen: Seen, epoch: number): 'ours' | 'before' | null {
  const ours = seen.cluster?.tags.get(PROMOTION_TAGS.epoch) === String(epoch);
  if (isWriter(seen)) return ours ? 'ours' : 'before';
  // Whoever began it: another is refused while one is under way.
  return seen.saw.answers && seen.state !== 'available' ? (ours ? 'ours' : 'before') : null;
}

async function beforePromotion(step: StepRun, name: string): Promise<{ readonly seen: Seen; readonly begun: 'ours' | 'before' | null }> {
  try {
    const seen = await see(step, name);
    const begun = begunBy(seen, step.call.epoch);
    if (begun !== null) return { seen, begun };
    if (seen.cluster === null || seen.writer === null) throw new HoldfastError('candidate-unreachable', `${name}: ${describe(seen)}`, { retryable: true });
    const later = Number(seen.cluster.tags.get(PROMOTION_TAGS.epoch) ?? Number.NaN);
    if (later > step.call.epoch) throw new HoldfastError('stale-epoch', `${seen.cluster.identifier} was to be promoted by epoch ${later}, which is later than ours (${step.call.epoch})`, { next: 'a later execution took over: this one must end' });
    await addTags(step.context, seen.cluster, { [PROMOTION_TAGS.execution]: step.call.workflowId, [PROMOTION_TAGS.epoch]: String(step.call.epoch) });
    return { seen, begun };
  } catch (error) {
    throw new HoldfastError(NOT_BEGUN, `not promoted: ${messageOf(error)}`, { cause: error, next: 'the execution goes back' });
  }
}

/** Aurora keeps the old writer from writing itself: in a Region by its storage, which takes one writer; in another as well as it can reach it. */
async function auroraHolds(step: StepRun, name: string): Promise<Held> {
  const datastore = datastoreFor(step);
  const seen = await see(step, name);
  const { fencingGroups } = managedNode(datastore, name);
  const fenced = seen.cluster !== null && fenceOf(seen.cluster, fencingGroups).inForce;
  const byTool = [`whoever makes ${name} the writer again`];
  if (seen.status.reachable && seen.status.inRecovery === true) return { holds: true, how: `${name} is in recovery (${describe(seen)})`, limits: byTool };
  if (fenced) return { holds: true, how: `${name}'s cluster is behind fencing groups (${describe(seen)})`, limits: [`whoever reaches it from where its fencing groups let in`] };
  if (seen.status.reachable) return { holds: false, how: `${name} is not in recovery (${describe(seen)})`, limits: [] };
  if (seen.writer === false) return { holds: true, how: `${name} does not answer, and Aurora has another writer (${describe(seen)})`, limits: isGlobal(datastore) ? ['Aurora fences the old Region as well as it can reach it: a Region that is cut off may go on taking writes from within'] : [] };
  return { holds: !isGlobal(datastore), how: `${name} does not answer (${seen.status.error?.split('\n')[0] ?? ''}); ${describe(seen)}`, limits: isGlobal(datastore) ? [`nobody can be asked whether ${name} takes writes`] : ['its storage takes one writer: Aurora shuts it out when it makes another one the writer'] };
}

const fence: StepDefinition = {
  async inspect(step) {
    const { holds, how, limits } = await auroraHolds(step, nodeInput(step, 'node'));
    return { satisfied: holds, summary: withLimits(how, limits) };
  },
  async guard(step) {
    if (optional(step, 'node') === undefined || !isGlobal(datastoreFor(step))) return guarded([]);
    const name = nodeInput(step, 'node');
    const place = await standing(step, name);
    const lost = step.call.mode === 'forced' && place.cluster === null;
    const found = place.cluster === null ? describe(place) : managedNode(datastoreFor(step), name).fencingGroups.length > 0 ? 'the security groups of its cluster' : 'no fencingGroups';
    // Aurora fences a lost Region as well as it can reach it, which is no proof.
    return guarded([{ ...check('a way to fence', step.call.mode === 'planned' || found.startsWith('the security'), 'the security groups of its cluster', found, lost ? `have ${name} kept from the applications by other means, then start again with --override unfenced="..."` : `give nodes.${name}.rds.fencingGroups`), ...(lost ? { rule: 'unfenced' } : {}) }, ...(place.cluster === null || managedNode(datastoreFor(step), name).fencingGroups.length === 0 ? [] : await groupChecks(step, name, place.cluster))]);
  },
  async apply(step): Promise<PhaseResult> {
    const name = nodeInput(step, 'node');
    const datastore = datastoreFor(step);
    const { fencingGroups } = managedNode(datastore, name);
    const before = await auroraHolds(step, name);
    if (before.holds) return { outcome: 'already-satisfied', summary: withLimits(before.how, before.limits), facts: { methods: ['Aurora itself'], problems: [], limits: before.limits } };
    const problems: string[] = [];
    const deadline = step.nowMs() + 60_000;
    const started = step.nowMs();
    let asked = false;
    // Before the promotion the old Region's cluster is the primary one, with its own groups.
    while (isGlobal(datastore) && fencingGroups.length > 0) {
      const place = await standing(step, name);
      const { cluster } = place;
      if (cluster === null) {
        problems.push(describe(place));
        break;
      }
      const now = fenceOf(cluster, fencingGroups);
      if ((now.epoch ?? 0) > step.call.epoch) throw new HoldfastError('stale-epoch', `${cluster.identifier} carries the fence of epoch ${now.epoch}, which is later than ours (${step.call.epoch})`, { next: 'a later execution took over: this one must end' });
      if (now.inForce && now.epoch === step.call.epoch) return { outcome: 'changed', summary: `${name} fenced: fencing groups on ${cluster.identifier}`, after: { methods: ['fencing groups'] }, facts: { methods: ['fencing groups'], problems: [] } };
      try {
        if (now.epoch !== step.call.epoch) await addTags(step.context, cluster, { [FENCE_TAGS.groups]: (now.closed && now.before.length > 0 ? now.before : cluster.groups.map((group) => group.id)).join(' '), [FENCE_TAGS.execution]: step.call.workflowId, [FENCE_TAGS.epoch]: String(step.call.epoch) });
        else if (!asked && !now.closed) {
          await setClusterGroups(step.context, cluster, fencingGroups);
          asked = true;
        }
      } catch (error) {
        if (wasRefused(error) || step.nowMs() > deadline) {
          problems.push(messageOf(error));
          break;
        }
      }
      step.signal.throwIfAborted();
      if (step.nowMs() > deadline) {
        problems.push('the fencing groups were not in force in time');
        break;
      }
      await pause(pollMs(step.nowMs() - started), step.signal);
    }
    if (await givenUp(step, name)) return { outcome: 'skipped', summary: `${name} is NOT FENCED, as the override of the rule unfenced allows: ${problems.join('; ')}. Aurora fences a lost Region as well as it can reach it`, facts: { methods: [], problems } };
    throw new HoldfastError('not-fenced', `${name} could not be fenced: ${problems.join('; ') || 'its cluster has no fencingGroups'}`, { next: 'keep applications out of that Region by hand (markDone with what was done), or wait until RDS there answers', retryable: true });
  },
  async verify(step) {
    const name = nodeInput(step, 'node');
    const { holds, how, limits } = await auroraHolds(step, name);
    return { checks: [check('fence', holds, `${name} takes no write`, how, 'keep applications out of it by hand now')], summary: withLimits(how, limits), facts: { limits } };
  },
};

const verifyFence: StepDefinition = {
  async verify(step) {
    const name = nodeInput(step, 'node');
    const { holds, how, limits } = await auroraHolds(step, name);
    return { checks: [check('old primary takes no write', holds, `${name} a reader, or out of reach of applications`, how, 'keep applications out of it by hand at once')], summary: withLimits(how, limits), facts: { how, limits } };
  },
};

const repointStandbys: StepDefinition = {
  async inspect(step) {
    return { satisfied: true, summary: 'readers of an Aurora cluster follow its writer by themselves', facts: { following: Object.keys(datastoreFor(step).nodes).filter((name) => name !== optional(step, 'primary') && name !== optional(step, 'old')), notFollowing: [] } };
  },
  async guard() {
    return guarded([]);
  },
  async apply() {
    return { outcome: 'skipped', summary: 'readers of an Aurora cluster follow its writer by themselves' };
  },
  async verify() {
    return { checks: [], summary: 'readers of an Aurora cluster follow its writer by themselves' };
  },
};

const verifyLag: StepDefinition = {
  async verify(step) {
    const datastore = datastoreFor(step);
    const primary = nodeInput(step, 'primary');
    const deadline = step.nowMs() + (step.input['wait'] as number);
    const names = Object.keys(datastore.nodes).filter((name) => name !== primary);
    const limit = datastore.managed!.maxReplicaLag;
    for (;;) {
      const found = await Promise.all(names.map(async (name) => ({ name, seen: await see(step, name), cloud: await lagWord(step, name) })));
      // One that does not answer may be starting anew as a reader; that it is none yet is said, and holds nothing up.
      const readers = found.filter(({ seen }) => seen.status.inRecovery === true);
      const late = found.filter(({ seen }) => seen.status.inRecovery !== true);
      const checks = readers.map(({ name, cloud }) => check(`${name} follows`, cloud === null || (cloud >= 0 && cloud <= limit), `CloudWatch at most ${formatDuration(limit)}`, describeLag(null, cloud, limit)));
      if ((late.length === 0 && checks.every((item) => item.ok)) || step.nowMs() > deadline) {
        return { checks, summary: `${readers.length} of ${names.length} other instance(s) are readers${late.map(({ name, seen }) => `; ${name}: ${describe(seen)}, ${seen.status.reachable ? 'not in recovery' : 'does not answer'}`).join('')}`, facts: { standbys: readers.length } };
      }
      await pause(250, step.signal);
    }
  },
};

/** Aurora makes the old writer a reader by itself; what is left to do is to let applications in again where its cluster was fenced. */
const rebuildStandby: StepDefinition = {
  async inspect(step) {
    const name = nodeInput(step, 'node');
    const seen = await see(step, name);
    const closed = seen.cluster !== null && fenceOf(seen.cluster, managedNode(datastoreFor(step), name).fencingGroups).closed;
    const satisfied = seen.status.inRecovery === true && seen.state === 'available' && seen.writer === false && !closed;
    return { satisfied, summary: `${name}: ${describe(seen)}${closed ? ', behind fencing groups' : ''}`, before: { found: describe(seen) }, ...(satisfied ? { facts: { node: name, method: 'none needed' } } : {}) };
  },
  async guard(step) {
    if (optional(step, 'node') === undefined) return guarded([]);
    const name = nodeInput(step, 'node');
    const seen = await see(step, name);
    return guarded([
      check('a member', seen.writer !== null, 'a member of its cluster, and its cluster of the global database', describe(seen), 'a cluster that was taken out of the global database is added by hand: aws rds create-db-cluster --global-cluster-identifier ...'),
      check('no live writer', seen.status.inRecovery !== false, 'a reader, or starting', seen.status.inRecovery === false ? 'it takes writes' : 'no writer', 'two writers: find out which one is right'),
    ]);
  },
  async apply(step) {
    const name = nodeInput(step, 'node');
    const { fencingGroups } = managedNode(datastoreFor(step), name);
    const started = step.nowMs();
    let opened = false;
    for (;;) {
      const seen = await see(step, name);
      const ready = seen.status.inRecovery === true && seen.state === 'available' && seen.writer === false;
      if (seen.status.inRecovery === false) throw new HoldfastError('roles-changed', `${name} takes writes (${describe(seen)})`, { next: 'find out which node is the writer' });
      const now = seen.cluster === null ? null : fenceOf(seen.cluster, fencingGroups);
      if (now !== null && (now.epoch ?? 0) > step.call.epoch) throw new HoldfastError('stale-epoch', `${seen.cluster!.identifier} carries the fence of epoch ${now.epoch}, which is later than ours (${step.call.epoch})`, { next: 'a later execution took over: this one must end' });
      if (ready && now !== null && !now.closed) {
        if (now.epoch !== null) await removeTags(step.context, seen.cluster!, Object.values(FENCE_TAGS));
        return { outcome: 'changed', summary: `${name} is a reader${opened ? ', and its cluster has its own groups again' : ''}`, after: { method: 'Aurora itself' } as Json, facts: { node: name, method: 'Aurora itself', rebuildMs: step.nowMs() - started } };
      }
      if (ready && now?.closed === true && !opened) {
        if (now.before.length === 0) throw new HoldfastError('groups-unknown', `which security groups ${seen.cluster!.identifier} had is not known: its tag ${FENCE_TAGS.groups} is empty`, { next: 'give them back by hand' });
        await setClusterGroups(step.context, seen.cluster!, now.before);
        opened = true;
      }
      step.heartbeat({ waiting: describe(seen) });
      step.signal.throwIfAborted();
      await pause(pollMs(step.nowMs() - started), step.signal);
    }
  },
  async verify(step) {
    const name = nodeInput(step, 'node');
    const seen = await see(step, name);
    return { checks: [check('follows', seen.status.inRecovery === true && seen.writer === false, `${name} is a reader`, `${describe(seen)}, ${seen.status.inRecovery === true ? 'in recovery' : (seen.status.error ?? 'not in recovery')}`)], summary: `${name} is a reader` };
  },
};

export const auroraSteps: Readonly<Record<string, StepDefinition>> = {
  'postgres.health': health,
  'postgres.checkpoint': checkpoint,
  'postgres.readOnly': readOnly,
  'postgres.fence': fence,
  'postgres.awaitReplay': awaitReplay,
  'postgres.promote': promote,
  'postgres.verifyFence': verifyFence,
  'postgres.repointStandbys': repointStandbys,
  'postgres.verifyLag': verifyLag,
  'postgres.measureLoss': measureLoss,
  'postgres.verifyRecentWrites': postgresSteps['postgres.verifyRecentWrites']!,
  'postgres.rebuildStandby': rebuildStandby,
};
