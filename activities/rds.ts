import type { Client } from 'pg';
import type { CheckResult } from '../src/model/api.ts';

import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { NOT_BEGUN } from '../src/model/execution.ts';
import { describeLag, judgeRole, rdsSign, type JudgedRole } from '../src/model/managed-roles.ts';
import { downChecks, type DownVerdict } from '../src/model/primary-down.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatBytes, formatDuration } from '../src/model/units.ts';
import { runChild } from '../src/systems/child.ts';
import { nodeStatus, withNode, type NodeStatus } from '../src/systems/postgres-node.ts';
import {
  addTags,
  cloudWatchLag,
  FENCE_TAGS,
  isClosed,
  groupRules,
  instanceOf,
  lookAtInstance,
  managedNode,
  mayTag,
  promoteReplica,
  PROMOTION_TAGS,
  rebootInstance,
  regionOf,
  removeTags,
  setInstanceGroups,
  stopInstance,
  wasRefused,
  type ManagedInstance,
} from '../src/systems/rds.ts';
import { applicationRole, findRoles, lagOf, lookAtPrimary, lossOf, placesOf, postgresSteps, withLimits, type Held } from './postgres.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

/** A guard has 45 s. */
const MAX_LAG_WAIT_MS = 15_000;
/** Security groups are changed in seconds, and where RDS says so before every host has them, a session still gets in: so long nobody must have. */
const SETTLED_MS = 500;
/** RDS is asked rarely once it takes long: its API is limited by account. */
export const pollMs = (elapsedMs: number): number => (elapsedMs < 20_000 ? 250 : 2500);

/** What is known of a node by both: the server and RDS. */
export interface Seen {
  readonly status: NodeStatus;
  readonly instance: ManagedInstance | null;
  readonly judged: JudgedRole;
  readonly rds: Awaited<ReturnType<typeof lookAtInstance>>['saw'];
}

export async function see(step: StepRun, name: string, connectTimeoutMs = 3000): Promise<Seen> {
  const datastore = datastoreFor(step);
  const [status, { instance, saw }] = await Promise.all([nodeStatus(step.context, datastore, name, connectTimeoutMs), lookAtInstance(step.context, datastore, name)]);
  return { status, instance, rds: saw, judged: judgeRole(name, status, saw) };
}

/** The fence of a managed instance: its own security groups give way to those that let only workers in; tags say whose fence it is. */
export interface ManagedFence {
  readonly epoch: number | null;
  /** Its groups before, as the tag keeps them. */
  readonly before: readonly string[];
  readonly closed: boolean;
  readonly inForce: boolean;
}

export function fenceOf(instance: Pick<ManagedInstance, 'tags' | 'groups'>, fencingGroups: readonly string[]): ManagedFence {
  const epoch = Number(instance.tags.get(FENCE_TAGS.epoch) ?? Number.NaN);
  const closed = isClosed(instance.groups, fencingGroups);
  return {
    epoch: Number.isInteger(epoch) ? epoch : null,
    before: (instance.tags.get(FENCE_TAGS.groups) ?? '').split(' ').filter((id) => id !== ''),
    closed,
    inForce: closed && instance.groups.every((group) => group.active),
  };
}

function refuseStaleTags(instance: ManagedInstance, epoch: number): void {
  const found = Number(instance.tags.get(FENCE_TAGS.epoch) ?? Number.NaN);
  if (found > epoch) throw new HoldfastError('stale-epoch', `${instance.identifier} carries the fence of epoch ${found}, which is later than ours (${epoch})`, { next: 'a later execution took over: this one must end; look at `holdfast audit`' });
}

/**
 * Applications are let in no more. What the groups were is written to a tag first, so that whoever comes after a lost worker knows
 * what to give back. Connections that are there stay: who may is to end them.
 */
async function closeNetwork(step: StepRun, name: string, deadlineMs: number): Promise<ManagedInstance> {
  const datastore = datastoreFor(step);
  const { fencingGroups } = managedNode(datastore, name);
  if (fencingGroups.length === 0) throw new HoldfastError('no-fencing-groups', `node ${name} has no fencingGroups: nothing keeps applications out`, { next: `give nodes.${name}.rds.fencingGroups` });
  let asked = false;
  const started = step.nowMs();
  for (;;) {
    const instance = await instanceOf(step.context, datastore, name);
    refuseStaleTags(instance, step.call.epoch);
    const fence = fenceOf(instance, fencingGroups);
    if (fence.epoch !== step.call.epoch) {
      const ids = instance.groups.map((group) => group.id);
      const own = ids.filter((id) => !fencingGroups.includes(id));
      // An instance that an earlier execution left fenced still knows its groups from then.
      const before = fence.closed && fence.before.length > 0 ? fence.before : own;
      await addTags(step.context, instance, { [FENCE_TAGS.groups]: before.join(' '), [FENCE_TAGS.execution]: step.call.workflowId, [FENCE_TAGS.epoch]: String(step.call.epoch) });
      continue;
    }
    if (fence.inForce) return instance;
    if (instance.status === 'stopped') throw new HoldfastError('instance-stopped', `${instance.identifier} is stopped: RDS changes its security groups only once it runs`, { next: 'it takes no write while it is stopped' });
    if (!asked && !fence.closed) {
      try {
        await setInstanceGroups(step.context, instance, fencingGroups);
        asked = true;
      } catch (error) {
        // It may have taken effect: the next look tells.
        if (wasRefused(error) || step.nowMs() > deadlineMs) throw error;
        step.log.warn({ why: messageOf(error) }, 'the security groups may not have been changed: looking');
      }
    }
    step.signal.throwIfAborted();
    if (step.nowMs() > deadlineMs) throw new HoldfastError('groups-not-active', `RDS has not put the fencing groups of ${name} in force within ${formatDuration(step.nowMs() - started)}: ${describeGroups(instance)}`, { next: 'the step gives its groups back', retryable: true });
    await pause(pollMs(step.nowMs() - started), step.signal);
  }
}

function describeGroups(instance: ManagedInstance): string {
  return instance.groups.map((group) => `${group.id}${group.active ? '' : ' (not active yet)'}`).join(', ') || 'no group';
}

/** Sessions that are not ours nor the service's own. RDS's own roles are superusers, which nobody else is there. */
const STRANGERS_SQL = `
select a.pid, a.usename as who, coalesce(a.application_name, '') as application
from pg_stat_activity a join pg_roles r on r.oid = a.usesysid
where a.pid <> pg_backend_pid() and a.backend_type = 'client backend' and not r.rolsuper`;

async function strangers(client: Client): Promise<{ pid: number; who: string; application: string }[]> {
  return (await client.query(STRANGERS_SQL)).rows as { pid: number; who: string; application: string }[];
}

/** Until nobody has been in for a while: a session that began logging in under the rules before comes up meanwhile. */
async function endSessions(step: StepRun, client: Client, name: string, deadlineMs: number): Promise<number> {
  let ended = 0;
  let alone = step.nowMs();
  for (;;) {
    const found = await strangers(client);
    if (found.length > 0) {
      await client.query('select pg_terminate_backend(pid) from unnest($1::int[]) as pid', [found.map((session) => session.pid)]);
      ended = Math.max(ended, found.length);
      alone = step.nowMs();
    } else if (step.nowMs() - alone >= SETTLED_MS) return ended;
    step.signal.throwIfAborted();
    if (step.nowMs() > deadlineMs) {
      throw new HoldfastError('sessions-remain', `${found.length} session(s) on ${name} did not end, or come back: ${found.slice(0, 5).map((session) => `pid ${session.pid} (${session.who} ${session.application})`).join(', ')}`, { next: `look whether the groups ${managedNode(datastoreFor(step), name).fencingGroups.join(', ')} let applications in`, retryable: true });
    }
    await pause(20, step.signal);
  }
}

const LIMITS = (name: string): string[] => [`${name} runs: whoever reaches it from where its fencing groups let in, and has a password, can write to it; so can whoever gives it other groups`];

const health: StepDefinition = {
  async guard(step) {
    const datastore = datastoreFor(step);
    const { primary, candidate, statuses } = await findRoles(step);
    const seen = new Map(await Promise.all(Object.keys(datastore.nodes).map(async (name) => {
      const { instance, saw } = await lookAtInstance(step.context, datastore, name);
      const status = statuses.get(name)!;
      return [name, { status, instance, rds: saw, judged: judgeRole(name, status, saw) }] as const;
    })));
    const checks: CheckResult[] = [];
    for (const [name, { status, instance }] of seen) {
      if (name === primary || status.inRecovery !== false) continue;
      const fence = instance === null ? null : fenceOf(instance, managedNode(datastore, name).fencingGroups);
      checks.push(check(`${name} is fenced`, fence?.inForce === true, 'every other node in recovery or fenced', fence?.inForce === true ? `fenced (epoch ${fence.epoch ?? 'unknown'})` : `${name} is a second writable primary`, 'fence it before anything else: writes to it will be lost'));
    }
    const disagreements = [...seen.values()].flatMap((one) => one.judged.disagreements);
    checks.push({ ...check('RDS and the servers agree', true, 'the same roles', disagreements.length === 0 ? 'the same roles' : `${disagreements.join('; ')}. Who takes writes is what the server itself says`) });
    const ours = seen.get(primary)!;
    const theirs = candidate === null ? undefined : seen.get(candidate);
    checks.push(...candidateChecks(step, candidate, theirs));
    if (step.call.mode === 'planned') {
      const later = Number(ours.instance?.tags.get(FENCE_TAGS.epoch) ?? Number.NaN) > step.call.epoch;
      checks.push(
        check('primary answers', ours.status.reachable, `${primary} answers`, ours.status.error ?? 'yes', 'if it is down, start a forced failover'),
        check('primary is writable', ours.status.inRecovery === false && !ours.status.readOnlyDefault, 'not in recovery, not read-only', ours.status.inRecovery === true ? 'in recovery' : ours.status.readOnlyDefault ? 'read-only by default' : 'writable'),
        check('primary can be changed', ours.instance?.status === 'available', 'RDS says available', describeRds(ours), 'wait until RDS has done what it is at: security groups cannot be changed meanwhile'),
        check('no later fence', !later, `no fence later than epoch ${step.call.epoch}`, later ? `epoch ${ours.instance!.tags.get(FENCE_TAGS.epoch)}` : 'none', 'a later execution took over'),
      );
      if (theirs?.status.inRecovery === true && ours.status.inRecovery === false) {
        checks.push(
          check('same system', theirs.status.systemIdentifier === ours.status.systemIdentifier, ours.status.systemIdentifier ?? '?', theirs.status.systemIdentifier ?? '?', 'the candidate belongs to another database'),
          check('candidate streams', theirs.status.receiverStatus === 'streaming' && theirs.status.timeline === ours.status.timeline, `streaming timeline ${ours.status.timeline}`, theirs.status.receiverStatus === null ? 'no WAL receiver' : `${theirs.status.receiverStatus} timeline ${theirs.status.timeline}`, `look at the events and the log of ${managedNode(datastore, candidate!).instance}`),
        );
        const maxLag = step.input['maxLag'] as number;
        const [{ lagMs, lagBytes }, cloud] = await Promise.all([lagOf(step, datastore, primary, theirs.status, Math.min(maxLag, MAX_LAG_WAIT_MS)), cloudWatchLag(step.context, managedNode(datastore, candidate!), 'rds', step.nowMs())]);
        checks.push({ ...check('lag', lagMs !== null && lagMs <= maxLag, `at most ${formatDuration(maxLag)}`, `${describeLag(lagMs, cloud, datastore.managed!.maxReplicaLag)} (${formatBytes(lagBytes ?? 0)} behind)`, 'wait until the replica has caught up'), rule: 'max-lag' });
      }
      return { ...guarded(checks), facts: { primary, candidate } };
    }
    const verdict = withRds(await lookAtPrimary(step, datastore, primary, theirs?.status), primary, ours);
    checks.push(...downChecks(verdict));
    return { ...guarded(checks), facts: { primary, candidate, downFacts: verdict.facts.map((fact) => fact.says), downFactCount: placesOf(verdict), unclear: [...verdict.unclear], ...lossOf(theirs?.status) } };
  },
  async verify(step) {
    const result = await postgresSteps['postgres.health']!.verify!(step);
    const { candidate, primary } = (result.facts ?? {}) as { candidate?: string; primary?: string };
    if (typeof candidate !== 'string' || typeof primary !== 'string') return result;
    const [ours, theirs, cloud] = await Promise.all([see(step, primary), see(step, candidate), cloudWatchLag(step.context, managedNode(datastoreFor(step), candidate), 'rds', step.nowMs())]);
    const disagreements = [...ours.judged.disagreements, ...theirs.judged.disagreements];
    return {
      ...result,
      summary: `${result.summary}; RDS: ${describeRds(ours)} -> ${describeRds(theirs)}${disagreements.length === 0 ? '' : `; ${disagreements.join('; ')}`}`,
      facts: { ...result.facts, regions: { [primary]: regionOf(step.context, managedNode(datastoreFor(step), primary)), [candidate]: regionOf(step.context, managedNode(datastoreFor(step), candidate)) }, cloudWatchLagMs: cloud, disagreements },
    };
  },
};

export function describeRds({ rds, instance }: Pick<Seen, 'rds' | 'instance'>): string {
  if (instance !== null) return `${instance.identifier} ${instance.status}${instance.source === null ? '' : `, replica of ${instance.source}`}`;
  return rds.answers ? 'no such instance' : `RDS does not answer (${rds.error})`;
}

function withRds(verdict: DownVerdict, primary: string, seen: Seen): DownVerdict {
  const { fact, unclear } = rdsSign(primary, seen.rds);
  return { ...verdict, facts: [...verdict.facts, ...(fact === null ? [] : [{ place: 'host', says: fact }])], unclear: [...verdict.unclear, ...(unclear === null ? [] : [unclear])] } as DownVerdict;
}

/** What must hold of the replica that is to be promoted, in either mode. */
function candidateChecks(step: StepRun, name: string | null, seen: Seen | undefined): CheckResult[] {
  if (name === null || seen === undefined) return [check('candidate', false, 'a read replica in recovery', 'none', 'create one (runbook standby-rebuild) or name one with the parameter candidate')];
  const { status, instance } = seen;
  if (!status.reachable) return [check('candidate', false, `${name} answers`, status.error ?? 'no answer', 'repair the replica or name another candidate')];
  const rds = managedNode(datastoreFor(step), name);
  const fence = instance === null ? null : fenceOf(instance, rds.fencingGroups);
  return [
    check('candidate in recovery', status.inRecovery === true, `${name} is a standby`, status.inRecovery === true ? 'in recovery' : 'not in recovery', 'it is a primary itself: two primaries; stop and look'),
    check('candidate is a read replica for RDS', instance?.source != null, 'RDS names what it replicates from', describeRds(seen), `look at ${rds.instance} in ${regionOf(step.context, rds)}`),
    check('candidate can be promoted', instance?.status === 'available', 'RDS says available (a replica that is being backed up or changed is not promoted)', describeRds(seen), 'wait until RDS has done what it is at'),
    check('replay not paused', status.replayPaused !== true, 'replay running', status.replayPaused === true ? 'paused' : 'running', 'resume it'),
    check('no apply delay', (status.applyDelayMs ?? 0) === 0, 'recovery_min_apply_delay = 0', `${status.applyDelayMs ?? 0} ms`, 'a delayed replica is no failover candidate'),
    check('candidate will take writes', !status.readOnlyDefault, 'default_transaction_read_only = off', status.readOnlyDefault ? 'on' : 'off', 'take default_transaction_read_only out of its parameter group'),
    check('candidate is not fenced', fence?.closed !== true, 'no fencing groups on it', fence?.closed === true ? `fencing groups${fence.epoch === null ? '' : ` of epoch ${fence.epoch}`}` : 'none', 'give it back its own security groups'),
  ];
}

const checkpoint: StepDefinition = {
  guard: (step) => postgresSteps['postgres.checkpoint']!.guard!(step),
  async apply(step) {
    const done: string[] = [];
    for (const name of [nodeInput(step, 'primary'), nodeInput(step, 'candidate')]) {
      try {
        await withNode(step.context, datastoreFor(step), name, (client) => client.query('checkpoint'), { queryTimeoutMs: 600_000 });
        done.push(name);
      } catch (error) {
        // Only from version 15 on may somebody who is not superuser (pg_checkpoint).
        if ((error as { code?: string }).code !== '42501') throw error;
      }
    }
    return { outcome: done.length === 0 ? 'skipped' : 'changed', summary: done.length === 0 ? 'the admin user may not: RDS checkpoints by itself every five minutes' : `checkpoint on ${done.join(' and ')}` };
  },
  verify: (step) => postgresSteps['postgres.checkpoint']!.verify!(step),
};

const readOnly: StepDefinition = {
  async inspect(step) {
    const name = nodeInput(step, 'primary');
    const instance = await instanceOf(step.context, datastoreFor(step), name);
    const fence = fenceOf(instance, managedNode(datastoreFor(step), name).fencingGroups);
    const sessions = await withNode(step.context, datastoreFor(step), name, async (client) => (await strangers(client)).length).catch(() => null);
    // Satisfied is never said here: the WAL position must be read by apply, after the last session ended.
    return { satisfied: false, summary: fence.closed ? `the fencing groups are on it${fence.inForce ? ' and in force' : ''}${fence.epoch === null ? '' : ` (epoch ${fence.epoch})`}` : 'writes are allowed', before: { epoch: fence.epoch, groups: instance.groups.map((group) => group.id), sessions } };
  },
  async guard(step) {
    if (optionalText(step, 'primary') === undefined) return guarded([]);
    const name = nodeInput(step, 'primary');
    const datastore = datastoreFor(step);
    const rds = managedNode(datastore, name);
    const [instance, application, rights] = await Promise.all([
      instanceOf(step.context, datastore, name),
      applicationRole(step, datastore),
      withNode(step.context, datastore, name, async (client) =>
        (await client.query(`select pg_has_role(current_user, 'pg_signal_backend', 'member') as signal, pg_has_role(current_user, 'pg_monitor', 'member') as monitor,
           (select count(*) from pg_prepared_xacts)::int as prepared, (select count(*) from pg_subscription where subenabled)::int as subscriptions`)).rows[0] as { signal: boolean; monitor: boolean; prepared: number; subscriptions: number }),
    ]);
    return guarded([
      check('the application is not the administrator', application !== datastore.admin.username, `another role than ${datastore.admin.username}`, application ?? 'no endpoint secret', 'give the application a role of its own'),
      ...(await groupChecks(step, name, instance)),
      await tagCheck(step, instance),
      check('right to end sessions', rights.signal && rights.monitor, 'pg_signal_backend and pg_monitor (rds_superuser has both)', rights.signal && rights.monitor ? 'both' : `${rights.signal ? '' : 'no pg_signal_backend '}${rights.monitor ? '' : 'no pg_monitor'}`.trim(), `grant rds_superuser to ${datastore.admin.username}`),
      check('no prepared transactions', rights.prepared === 0, '0', String(rights.prepared), 'commit or roll back what pg_prepared_xacts shows'),
      check('no subscriptions', rights.subscriptions === 0, '0 enabled', String(rights.subscriptions), 'disable the subscriptions: they would go on writing'),
      check('right to change security groups', true, 'rds:ModifyDBInstance', `not checked: RDS has no dry run for it (${rds.instance})`),
    ]);
  },
  async apply(step) {
    const name = nodeInput(step, 'primary');
    const datastore = datastoreFor(step);
    const refusedFromMs = step.nowMs();
    await closeNetwork(step, name, refusedFromMs + 240_000);
    const closedMs = step.nowMs() - refusedFromMs;
    const deadline = step.nowMs() + 20_000;
    return withNode(
      step.context, datastore, name,
      async (client) => {
        const sessionsEnded = await endSessions(step, client, name, deadline);
        await client.query('begin read write');
        await client.query("select pg_logical_emit_message(true, 'holdfast', $1)", [`read-only epoch ${step.call.epoch}`]);
        await client.query('set local synchronous_commit = local');
        await client.query('commit');
        const { lsn } = (await client.query('select pg_current_wal_flush_lsn()::text as lsn')).rows[0] as { lsn: string };
        const parts = { groupsInForce: closedMs, sessionsEnded: step.nowMs() - refusedFromMs - closedMs };
        return { outcome: 'changed' as const, summary: `writes refused by fencing groups (in force after ${formatDuration(closedMs)}), ${sessionsEnded} session(s) ended, WAL position ${lsn}`, after: { lsn, epoch: step.call.epoch }, facts: { lsn, refusedFromMs, sessionsEnded, limits: LIMITS(name), parts } };
      },
      { queryTimeoutMs: 20_000 },
    ).catch((error: unknown) => {
      if (error instanceof HoldfastError && error.code === 'postgres-connect') throw new HoldfastError('locked-out', `behind its fencing groups ${name} no longer lets this worker in: ${error.message}`, { next: `let the workers' network in by ${managedNode(datastore, name).fencingGroups.join(', ')}; the step gives the groups back`, retryable: false, cause: error });
      throw error;
    });
  },
  async verify(step) {
    const name = nodeInput(step, 'primary');
    const seen = await see(step, name);
    const fence = seen.instance === null ? null : fenceOf(seen.instance, managedNode(datastoreFor(step), name).fencingGroups);
    if (seen.instance !== null && ['stopping', 'stopped'].includes(seen.instance.status) && fence?.inForce === true) return { checks: [check('fence', true, 'groups in force, or stopped', seen.instance.status)], summary: 'it was stopped meanwhile' };
    const inside = await withNode(step.context, datastoreFor(step), name, strangers);
    return {
      checks: [
        check('fence epoch', fence?.epoch === step.call.epoch, String(step.call.epoch), String(fence?.epoch ?? describeRds(seen))),
        check('groups in force', fence?.inForce === true, managedNode(datastoreFor(step), name).fencingGroups.join(', '), seen.instance === null ? describeRds(seen) : describeGroups(seen.instance)),
        check('nobody inside', inside.length === 0, 'no session of others', inside.map((session) => `pid ${session.pid} (${session.who})`).join(', ') || 'none'),
      ],
      summary: 'only workers are let in',
    };
  },
  async undo(step) {
    const datastore = datastoreFor(step);
    const primary = nodeInput(step, 'primary');
    // Roles first: to let writes in again beside a promoted candidate would make two primaries.
    for (const name of Object.keys(datastore.nodes)) {
      if (name === primary) continue;
      const { status, instance, rds } = await see(step, name);
      const fenced = instance !== null && fenceOf(instance, managedNode(datastore, name).fencingGroups).inForce;
      const promoted = (status.inRecovery === false || (rds.answers && rds.found && rds.source === null)) && !fenced;
      const underWay = instance?.tags.get(PROMOTION_TAGS.epoch) === String(step.call.epoch) && instance.status !== 'available';
      if (promoted || underWay) throw new HoldfastError('promoted-meanwhile', `${name} was promoted, or is being promoted (${describeRds({ rds, instance })}, ${status.inRecovery === false ? 'not in recovery' : 'in recovery'}); writes on ${primary} stay refused`, { next: 'find out which node is the primary; then markDone, or fence one of them' });
    }
    return openNetwork(step, primary);
  },
};

/** Gives an instance the groups that the tag keeps, and takes our tags off. Idempotent. */
export async function openNetwork(step: StepRun, name: string): Promise<{ outcome: 'changed' | 'already-satisfied'; summary: string; after?: Json }> {
  const datastore = datastoreFor(step);
  const { fencingGroups } = managedNode(datastore, name);
  const started = step.nowMs();
  let asked = false;
  for (;;) {
    const instance = await instanceOf(step.context, datastore, name);
    const fence = fenceOf(instance, fencingGroups);
    if (fence.epoch === null && !fence.closed) return { outcome: 'already-satisfied', summary: 'writes are allowed' };
    if (fence.epoch !== step.call.epoch) throw new HoldfastError('foreign-fence', `${name} carries ${fence.epoch === null ? 'fencing groups without a tag that says whose they are' : `the fence of epoch ${fence.epoch}`}, not ours (${step.call.epoch})`, { next: fence.epoch === null ? `give it back its own groups by hand: aws rds modify-db-instance --db-instance-identifier ${instance.identifier} --vpc-security-group-ids ... --apply-immediately` : 'another execution fenced it: look at `holdfast audit`' });
    if (fence.before.length === 0) throw new HoldfastError('groups-unknown', `which security groups ${name} had is not known: its tag ${FENCE_TAGS.groups} is empty`, { next: `give it back its own groups by hand, then take the tags ${Object.values(FENCE_TAGS).join(', ')} off` });
    const restored = instance.groups.length === fence.before.length && instance.groups.every((group) => group.active && fence.before.includes(group.id));
    if (restored) {
      await removeTags(step.context, instance, Object.values(FENCE_TAGS));
      return { outcome: 'changed', summary: `writes are allowed on ${name} again: ${fence.before.join(', ')}`, after: { groups: [...fence.before] } };
    }
    if (!asked) {
      await setInstanceGroups(step.context, instance, fence.before);
      asked = true;
    }
    step.signal.throwIfAborted();
    if (step.nowMs() - started > 240_000) throw new HoldfastError('groups-not-active', `RDS has not given ${name} its groups back: ${describeGroups(instance)}`, { retryable: true });
    await pause(pollMs(step.nowMs() - started), step.signal);
  }
}

/** The fencing groups exist and let in fewer than the instance's own. Who is behind a source nobody can tell; that applications are out is seen when they are. */
export async function groupChecks(step: StepRun, name: string, instance: Pick<ManagedInstance, 'region' | 'groups' | 'tags'>): Promise<CheckResult[]> {
  const { fencingGroups } = managedNode(datastoreFor(step), name);
  const next = `give nodes.${name}.rds.fencingGroups: security groups that let only the workers in`;
  if (fencingGroups.length === 0) return [check('fencing groups', false, 'at least one', 'none', next)];
  const fence = fenceOf(instance, fencingGroups);
  // Fenced already, by an earlier try or execution: the tag keeps what it had before.
  const own = fence.epoch !== null && fence.before.length > 0 ? fence.before : instance.groups.map((group) => group.id);
  const [fencing, present] = await Promise.all([groupRules(step.context, instance.region, fencingGroups), groupRules(step.context, instance.region, own)]);
  if (fencing.error !== null) return [check('fencing groups exist', false, fencingGroups.join(', '), fencing.error, next)];
  const everybody = fencing.sources.filter((source) => source === '0.0.0.0/0' || source === '::/0');
  const kept = present.sources.filter((source) => !fencing.sources.includes(source));
  return [
    check('fencing groups let workers in', fencing.sources.length > 0, 'at least one source', fencing.sources.join(', ') || 'nobody', 'let the workers in by them, or the fence locks Holdfast out'),
    check('fencing groups keep applications out', everybody.length === 0 && (kept.length > 0 || present.error !== null), 'not everybody, and not all that its own groups let in', everybody.length > 0 ? `they let in ${everybody.join(', ')}` : kept.length > 0 ? `kept out: ${kept.join(', ')}` : present.error !== null ? `its own groups could not be read (${present.error})` : `they let in all that its own groups (${own.join(', ')}) let in`, next),
  ];
}

export async function tagCheck(step: StepRun, of: { region: string; arn: string }): Promise<CheckResult> {
  const { allowed, found } = await mayTag(step.context, of);
  return check('right to tag', allowed, 'rds:RemoveTagsFromResource on a tag that is not there', found, 'allow rds:AddTagsToResource and rds:RemoveTagsFromResource: the fence is kept in tags');
}

const fence: StepDefinition = {
  async inspect(step) {
    const name = nodeInput(step, 'node');
    const { holds, how, limits, more } = await managedHolds(step, name, true);
    return { satisfied: holds && !more, summary: withLimits(how, limits) };
  },
  async guard(step) {
    if (optionalText(step, 'node') === undefined) return guarded([]);
    const name = nodeInput(step, 'node');
    const datastore = datastoreFor(step);
    const { instance, saw } = await lookAtInstance(step.context, datastore, name);
    const ways = [...(datastore.nodes[name]!.fence === undefined ? [] : ['fence command']), ...(instance !== null && managedNode(datastore, name).fencingGroups.length > 0 ? ['its security groups'] : [])];
    // Where neither RDS nor the server answers nobody can fence it from here; whether to go on all the same is for a person to say.
    const lost = step.call.mode === 'forced' && !saw.answers;
    return guarded([
      {
        ...check('a way to fence', ways.length > 0, `RDS in ${regionOf(step.context, managedNode(datastore, name))} answers and fencingGroups are given, or fence.command`, ways.join(', ') || (saw.answers ? 'none' : `RDS does not answer: ${saw.error}`), lost ? `have ${name} kept from the applications by other means, then start again with --override unfenced="..."; or give nodes.${name}.fence.command and verify` : `give nodes.${name}.rds.fencingGroups`),
        ...(lost && ways.length === 0 ? { rule: 'unfenced' } : {}),
      },
      ...(instance === null ? [] : await groupChecks(step, name, instance)),
    ]);
  },
  async apply(step) {
    const name = nodeInput(step, 'node');
    const datastore = datastoreFor(step);
    const { fence: command } = datastore.nodes[name]!;
    const methods: string[] = [];
    const problems: string[] = [];
    if (command !== undefined) {
      await runChild(command.command, { env: { HOLDFAST_NODE: name, HOLDFAST_EPOCH: String(step.call.epoch) }, signal: step.signal });
      methods.push('fence command');
    }
    const deadline = step.nowMs() + 120_000;
    try {
      const instance = await closeNetwork(step, name, deadline);
      methods.push('fencing groups');
      methods.push(...(await endConnections(step, name, instance, deadline, problems)));
    } catch (error) {
      if (error instanceof HoldfastError && error.code === 'stale-epoch') throw error;
      step.signal.throwIfAborted();
      if (error instanceof HoldfastError && error.code === 'instance-stopped') methods.push('stopped already');
      problems.push(messageOf(error));
    }
    if (methods.length === 0 && (await givenUp(step, name))) return { outcome: 'skipped', summary: `${name} is NOT FENCED, as the override of the rule unfenced allows: ${problems.join('; ')}. Fence it as soon as its Region answers: holdfast run standby-rebuild replaces it only then`, facts: { methods, problems } };
    if (methods.length === 0) throw new HoldfastError('not-fenced', `${name} could not be fenced: ${problems.join('; ')}`, { next: `keep applications out of it by hand, or configure nodes.${name}.fence.command`, retryable: true });
    if (datastore.managed!.stopFenced && methods.includes('fencing groups')) {
      const instance = await instanceOf(step.context, datastore, name);
      // RDS stops no instance that has read replicas; before the promotion the candidate is one.
      if (instance.replicas.length > 0) problems.push(`not stopped: RDS stops no instance with read replicas (${instance.replicas.join(', ')})`);
      else if (instance.source !== null) problems.push('not stopped: RDS stops no read replica');
      else if (['stopping', 'stopped'].includes(instance.status)) methods.push(instance.status);
      else {
        await stopInstance(step.context, instance).then(() => methods.push('stopping'), (error: unknown) => problems.push(`not stopped: ${messageOf(error)}`));
      }
    }
    return { outcome: 'changed', summary: `${name} fenced: ${methods.join(', ')}${problems.length === 0 ? '' : `; what did not succeed: ${problems.join('; ')}`}`, after: { methods }, facts: { methods, problems } };
  },
  async verify(step) {
    const name = nodeInput(step, 'node');
    const { holds, how, limits } = await managedHolds(step, name, true);
    return { checks: [check('fence', holds, `${name} takes no write, also after a restart`, how, 'fence it by hand now')], summary: withLimits(how, limits), facts: { limits } };
  },
};

/** Neither RDS nor the server answers, and a person has broken the rule by name. Asked at the time: what answers must be fenced. */
export async function givenUp(step: StepRun, name: string): Promise<boolean> {
  if (step.call.mode !== 'forced' || step.call.overrides?.includes('unfenced') !== true) return false;
  const { status, rds } = await see(step, name);
  return !status.reachable && !rds.answers;
}

/** A change of groups leaves connections alone. Where SQL cannot end them a reboot does, and behind the groups nobody comes back. */
async function endConnections(step: StepRun, name: string, instance: ManagedInstance, deadlineMs: number, problems: string[]): Promise<string[]> {
  if (['stopping', 'stopped'].includes(instance.status)) return [];
  const status = await nodeStatus(step.context, datastoreFor(step), name);
  if (status.reachable) {
    if (status.inRecovery === true) return [];
    const ended = await withNode(step.context, datastoreFor(step), name, (client) => endSessions(step, client, name, deadlineMs));
    return [`${ended} session(s) ended`];
  }
  try {
    await rebootInstance(step.context, instance);
    return ['rebooting, which ends every connection'];
  } catch (error) {
    problems.push(`connections that are open may go on: it does not answer (${status.error?.split('\n')[0] ?? ''}), and ${messageOf(error)}`);
    return [];
  }
}

/** Why a managed instance takes no write. `afterRestart`: it must hold through a restart too. `more`: it could be stopped still. */
async function managedHolds(step: StepRun, name: string, afterRestart: boolean): Promise<Held & { readonly more: boolean }> {
  const datastore = datastoreFor(step);
  const { fencingGroups } = managedNode(datastore, name);
  const { status, instance, rds } = await see(step, name);
  const fenced = instance === null ? null : fenceOf(instance, fencingGroups);
  const state = instance?.status ?? '';
  const sevenDays = 'RDS starts a stopped instance again after seven days; its fencing groups hold then';
  if (status.reachable && status.inRecovery === true) {
    return { holds: !afterRestart || instance?.source != null, how: `${name} is in recovery${instance === null ? '' : ` (${describeRds({ rds, instance })})`}`, limits: [`whoever promotes ${name} by hand or by another tool`], more: false };
  }
  if (instance !== null && fenced!.inForce) {
    const whose = fenced!.epoch === null ? 'with no tag that says whose fence it is' : `epoch ${fenced!.epoch}`;
    const canStop = datastore.managed!.stopFenced && instance.replicas.length === 0 && instance.source === null;
    if (state === 'stopped' || state === 'stopping') return { holds: true, how: `RDS says that ${name} is ${state}, behind fencing groups (${whose})`, limits: [sevenDays], more: false };
    if (!status.reachable) return { holds: true, how: `${name} is behind fencing groups (${whose}) and does not answer (RDS: ${state})`, limits: [...LIMITS(name), ...(state === 'rebooting' ? [] : ['a connection that was open before the groups changed may still be open'])], more: canStop && state === 'available' };
    const inside = await withNode(step.context, datastore, name, strangers);
    return { holds: inside.length === 0, how: inside.length === 0 ? `${name} lets only workers in (${whose})` : `${name} is behind fencing groups, but others are inside: ${inside.slice(0, 5).map((session) => `pid ${session.pid} (${session.who})`).join(', ')}`, limits: LIMITS(name), more: canStop && state === 'available' };
  }
  const { fence: command } = datastore.nodes[name]!;
  if (!status.reachable && command?.verify !== undefined) {
    const answer = await runChild(command.verify, { env: { HOLDFAST_NODE: name, HOLDFAST_EPOCH: String(step.call.epoch) }, allowFailure: true, signal: step.signal });
    return { holds: answer.code === 0, how: answer.code === 0 ? `the fence command's verification says that ${name} is fenced` : `the fence command's verification exited with ${answer.code}`, limits: [], more: false };
  }
  if (status.reachable) return { holds: false, how: `${name} is not in recovery and ${fenced === null ? `RDS does not say which groups it has (${rds.answers ? 'no such instance' : rds.error})` : fenced.closed ? 'its fencing groups are not in force yet' : `its groups let applications in: ${describeGroups(instance!)}`}`, limits: [], more: false };
  const stopped = state === 'stopped' || state === 'stopping';
  return {
    holds: stopped || !afterRestart,
    how: stopped ? `RDS says that ${name} is ${state}, but with groups that let applications in` : `${name} does not answer (${status.error?.split('\n')[0] ?? ''}); RDS: ${describeRds({ rds, instance })}`,
    limits: stopped ? ['RDS starts a stopped instance again after seven days, and its groups would let applications in'] : [`nobody can be asked whether ${name} takes writes: if only the worker cannot reach it, nothing holds it`],
    more: false,
  };
}

const verifyFence: StepDefinition = {
  async verify(step) {
    const name = nodeInput(step, 'node');
    const { holds, how, limits } = await managedHolds(step, name, false);
    return { checks: [check('old primary takes no write', holds, `${name} stopped, in recovery, or behind fencing groups`, how, 'fence it by hand at once')], summary: withLimits(how, limits), facts: { how, limits } };
  },
};

const promote: StepDefinition = {
  async inspect(step) {
    const name = nodeInput(step, 'candidate');
    const seen = await see(step, name);
    if (!seen.status.reachable && seen.instance === null) throw new HoldfastError('candidate-unreachable', `${name}: ${seen.judged.disagreements.join('; ')}`, { retryable: true });
    const satisfied = seen.status.inRecovery === false && (seen.instance === null || (seen.instance.status === 'available' && seen.instance.source === null));
    return { satisfied, summary: satisfied ? `${name} is primary` : `${name}: ${describeRds(seen)}, ${seen.status.inRecovery === null ? 'does not answer' : seen.status.inRecovery ? 'in recovery' : 'not in recovery'}`, before: { inRecovery: seen.status.inRecovery, lsn: seen.status.replayedLsn, rds: describeRds(seen) } };
  },
  async guard(step) {
    if (optionalText(step, 'candidate') === undefined) return guarded([]);
    const name = nodeInput(step, 'candidate');
    const seen = await see(step, name);
    return guarded([
      ...candidateChecks(step, name, seen),
      ...(seen.instance === null ? [] : [await tagCheck(step, seen.instance)]),
      check('right to promote', true, 'rds:PromoteReadReplica', `not checked: RDS has no dry run for it (${managedNode(datastoreFor(step), name).instance})`),
    ]);
  },
  async apply(step) {
    const name = nodeInput(step, 'candidate');
    const datastore = datastoreFor(step);
    const started = step.nowMs();
    const first = await beforePromotion(step, name);
    const before = { inRecovery: first.status.inRecovery, lsn: first.status.replayedLsn, rds: describeRds(first) };
    if (first.begun === null) {
      try {
        await promoteReplica(step.context, first.instance!);
      } catch (error) {
        // Its answer may have been lost, and asked again it is refused since it is under way: what RDS shows counts.
        const seen = await see(step, name);
        if (begunBy(seen, step.call.epoch) === null) {
          if (wasRefused(error)) throw new HoldfastError(NOT_BEGUN, `not promoted: ${messageOf(error)}`, { cause: error, next: 'the execution goes back' });
          throw error;
        }
        step.log.warn({ why: messageOf(error) }, 'the promotion is under way although its answer was lost');
      }
    }
    const at = Number((first.begun === null ? undefined : first.instance?.tags.get(PROMOTION_AT)) ?? started);
    const deadline = (Number.isFinite(at) && at > 0 ? at : started) + datastore.managed!.promoteTimeout;
    let silentSince: number | null = null;
    for (;;) {
      const seen = await see(step, name, 2000);
      const writable = seen.status.inRecovery === false;
      // RDS restarts what it has promoted: it is the primary for good once RDS is done with it.
      const settled = seen.instance !== null && seen.instance.status === 'available' && seen.instance.source === null;
      silentSince = writable && !seen.rds.answers ? (silentSince ?? step.nowMs()) : null;
      if (writable && (settled || (silentSince !== null && step.nowMs() - silentSince > 30_000))) {
        const promotedAtMs = step.nowMs();
        const already = first.begun === 'before';
        return {
          outcome: already ? 'already-satisfied' : 'changed',
          summary: already ? `${name} is primary already` : `${name} promoted by RDS in ${formatDuration(promotedAtMs - at)}${first.begun === 'ours' ? ', begun by an earlier try' : ''}${settled ? '' : '; RDS does not answer, the server itself says that it is the primary'}`,
          before,
          after: { inRecovery: false, rds: describeRds(seen) },
          ...(already ? {} : { facts: { promotedAtMs, promoteMs: promotedAtMs - at } }),
        };
      }
      step.heartbeat({ promoting: describeRds(seen) });
      step.signal.throwIfAborted();
      if (step.nowMs() > deadline) throw new HoldfastError('promotion-unknown', `RDS has not finished promoting ${name} within ${formatDuration(datastore.managed!.promoteTimeout)}: ${describeRds(seen)}, ${writable ? 'not in recovery' : seen.status.reachable ? 'in recovery' : 'no answer'}`, { next: `look at the events of ${managedNode(datastore, name).instance}; it is not asked for again`, retryable: true });
      await pause(pollMs(step.nowMs() - started), step.signal);
    }
  },
  async verify(step) {
    const name = nodeInput(step, 'candidate');
    const seen = await see(step, name);
    const promoted = seen.status.inRecovery === false;
    const { timeline } = seen.status;
    return {
      checks: [
        check('promoted', promoted, `${name} is primary`, promoted ? `timeline ${timeline}` : seen.status.reachable ? 'in recovery' : (seen.status.error ?? 'no answer')),
        check('takes writes', !seen.status.readOnlyDefault, 'default_transaction_read_only = off', seen.status.readOnlyDefault ? 'on' : 'off', 'take it out of its parameter group'),
      ],
      summary: `timeline ${timeline ?? 'unknown'}; ${describeRds(seen)}${seen.judged.disagreements.length === 0 ? '' : `; ${seen.judged.disagreements.join('; ')}`}`,
      // Where the timelines parted stands in a file that RDS shows to nobody.
      facts: { timeline },
    };
  },
};

const PROMOTION_AT = 'holdfast:promotion-at';

/** `ours`: begun by an earlier try of this execution; `before`: it is no replica any more, whoever did that. null: not begun. */
function begunBy(seen: Seen, epoch: number): 'ours' | 'before' | null {
  const ours = seen.instance?.tags.get(PROMOTION_TAGS.epoch) === String(epoch);
  if (seen.status.inRecovery === false || (seen.instance !== null && seen.instance.source === null)) return ours ? 'ours' : 'before';
  return ours && seen.instance !== null && seen.instance.status !== 'available' ? 'ours' : null;
}

/** All that can fail before promotion is asked for; then it says that nothing was begun, and everything can be undone. */
async function beforePromotion(step: StepRun, name: string): Promise<Seen & { readonly begun: 'ours' | 'before' | null }> {
  const datastore = datastoreFor(step);
  let tagged = false;
  try {
    const seen = await see(step, name);
    const begun = begunBy(seen, step.call.epoch);
    if (begun !== null) return { ...seen, begun };
    if (seen.instance === null) throw new HoldfastError('candidate-unreachable', `${name}: ${describeRds(seen)}`, { retryable: true });
    if (seen.status.inRecovery !== true) throw new HoldfastError('candidate-unreachable', `${name} does not answer: ${seen.status.error ?? ''}`, { retryable: true });
    if (seen.instance.status !== 'available') throw new HoldfastError('candidate-busy', `RDS says that ${seen.instance.identifier} is ${seen.instance.status}: it promotes only what is available`);
    const later = Number(seen.instance.tags.get(PROMOTION_TAGS.epoch) ?? Number.NaN);
    if (later > step.call.epoch) throw new HoldfastError('stale-epoch', `${seen.instance.identifier} was to be promoted by epoch ${later}, which is later than ours (${step.call.epoch})`, { next: 'a later execution took over: this one must end' });
    if (step.call.mode === 'planned') {
      // Between the last look and now someone may have let writes in again.
      const primary = nodeInput(step, 'primary');
      const instance = await instanceOf(step.context, datastore, primary);
      const fenced = fenceOf(instance, managedNode(datastore, primary).fencingGroups);
      const inside = await withNode(step.context, datastore, primary, strangers);
      if (fenced.epoch !== step.call.epoch || !fenced.inForce || inside.length > 0) {
        const found = fenced.epoch !== step.call.epoch ? `found ${fenced.epoch}` : !fenced.inForce ? `its groups are ${describeGroups(instance)}` : `others are inside: ${inside.map((session) => `pid ${session.pid} (${session.who})`).join(', ')}`;
        throw new HoldfastError('primary-not-refusing', `${primary} does not hold our fence (epoch ${step.call.epoch}; ${found})`);
      }
    }
    tagged = true;
    await addTags(step.context, seen.instance, { [PROMOTION_TAGS.execution]: step.call.workflowId, [PROMOTION_TAGS.epoch]: String(step.call.epoch), [PROMOTION_AT]: String(step.nowMs()) });
    return { ...seen, begun };
  } catch (error) {
    throw new HoldfastError(NOT_BEGUN, `not promoted: ${messageOf(error)}`, { cause: error, next: tagged ? 'the execution goes back; the tags holdfast:promotion-* may be left on the candidate and mean nothing' : 'the execution goes back' });
  }
}

/** RDS gives a read replica no other source: those that are left have to be made anew. */
const repointStandbys: StepDefinition = {
  async inspect(step) {
    const findings = await leftBehind(step);
    const satisfied = findings.every((item) => item.why !== null);
    return { satisfied: satisfied || findings.length === 0, summary: describeFindings(findings), facts: factsOf(findings) };
  },
  async guard() {
    return guarded([]);
  },
  async apply(step) {
    const findings = await leftBehind(step);
    return { outcome: 'skipped', summary: describeFindings(findings), facts: factsOf(findings) };
  },
  async verify(step) {
    const findings = await leftBehind(step);
    return { checks: [], summary: describeFindings(findings), facts: factsOf(findings) };
  },
};

interface Left {
  readonly node: string;
  /** null: it follows. */
  readonly why: string | null;
}

async function leftBehind(step: StepRun): Promise<Left[]> {
  const datastore = datastoreFor(step);
  const primary = nodeInput(step, 'primary');
  const here = managedNode(datastore, primary).instance.toLowerCase();
  const names = Object.keys(datastore.nodes).filter((name) => name !== primary && name !== optionalText(step, 'old'));
  return Promise.all(
    names.map(async (node) => {
      const { rds } = await see(step, node);
      if (!rds.answers || !rds.found) return { node, why: rds.answers ? 'RDS knows no such instance' : `RDS does not answer (${rds.error})` };
      const source = rds.source?.split(':').at(-1)?.toLowerCase() ?? null;
      return { node, why: source === here ? null : `RDS has it replicate from ${source ?? 'nothing'} and gives a replica no other source: it is rebuilt (holdfast run standby-rebuild --parameter node=${node})` };
    }),
  );
}

function describeFindings(findings: readonly Left[]): string {
  return findings.map((item) => `${item.node} ${item.why === null ? 'follows' : `does not follow: ${item.why}`}`).join('; ') || 'there is no other replica';
}

function factsOf(findings: readonly Left[]): Record<string, Json> {
  return { following: findings.filter((item) => item.why === null).map((item) => item.node), notFollowing: findings.filter((item) => item.why !== null).map((item) => ({ node: item.node, is: 'to rebuild', why: item.why })) };
}

export const measureLoss: StepDefinition = {
  async verify() {
    const note = 'RDS shows the WAL of an instance to nobody: what was acknowledged and not replicated cannot be counted; the canary tells of its own writes, and the restore of the old instance to its latest time shows the rest';
    return { checks: [], summary: `lost transactions not measured: ${note}`, facts: { lostTransactions: null, note } };
  },
};

export const rdsSteps: Readonly<Record<string, StepDefinition>> = {
  'postgres.health': health,
  'postgres.checkpoint': checkpoint,
  'postgres.readOnly': readOnly,
  'postgres.fence': fence,
  'postgres.awaitReplay': postgresSteps['postgres.awaitReplay']!,
  'postgres.promote': promote,
  'postgres.verifyFence': verifyFence,
  'postgres.repointStandbys': repointStandbys,
  'postgres.verifyLag': postgresSteps['postgres.verifyLag']!,
  'postgres.measureLoss': measureLoss,
  'postgres.verifyRecentWrites': postgresSteps['postgres.verifyRecentWrites']!,
};

