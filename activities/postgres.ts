import type { Client } from 'pg';
import type { CheckResult } from '../src/model/api.ts';
import type { NodeConfig, PostgresDatastore } from '../src/model/config-schema.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { NOT_BEGUN } from '../src/model/execution.ts';
import { downChecks, judgePrimary, lossBound, type DownVerdict, type StandbySaw, type WorkerSaw } from '../src/model/primary-down.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatBytes, formatDuration } from '../src/model/units.ts';
import { runChild } from '../src/systems/child.ts';
import { adminTarget, connectPostgres, withPostgres } from '../src/systems/postgres.ts';
import { parseConninfo } from '../src/model/postgres-conninfo.ts';
import { fenceEpoch, fenceWhole, withFence } from '../src/model/fence-text.ts';
import { allowWrites, fenceRights, leaveStandbySignal, readFence, refuseStale, refuseWrites, type RefuseOptions } from '../src/systems/postgres-fence.ts';
import { committedPosition, controlData, foreignFiles, hasHostAccess, hostRules, hostState, hostWord, lsnDifference, nodeByAddress, nodeByServer, nodeStatus, nodeTool, openNode, patientStatus, readiness, runOnNode, stopOnHost, walFileName, withNode, writeOnNode, type NodeStatus } from '../src/systems/postgres-node.ts';
import { readEndpoint } from '../src/systems/endpoint.ts';
import { furthest, lookAtRoles, type Roles } from '../src/systems/postgres-roles.ts';
import { prepareHold, releaseStandbys } from './postgres-hold.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

/** A guard has 45 s; a larger allowed lag is only looked for so long. */
const MAX_LAG_WAIT_MS = 15_000;

/** Forced: replay that has not moved for so long has nothing left to replay. */
const SETTLED_MS = 1000;

export function findRoles(step: StepRun): Promise<Roles> {
  const decided = step.call.facts['candidate'];
  return lookAtRoles(step.context, datastoreFor(step), { primary: optionalText(step, 'primary'), candidate: optionalText(step, 'candidate'), mode: step.call.mode, ...(typeof decided === 'string' ? { decided } : {}) });
}

/** Patient, but for a planned failover that has begun: writes are refused meanwhile, and going back soon is worth more than a busy candidate. */
function statusOfCandidate(step: StepRun, name: string): Promise<NodeStatus> {
  return (step.call.preflight || step.call.mode === 'forced' ? patientStatus : nodeStatus)(step.context, datastoreFor(step), name);
}

/** What must hold of the node that is to be promoted, in either mode. */
export async function candidateChecks(step: StepRun, candidate: NodeStatus | undefined, name: string | null): Promise<CheckResult[]> {
  if (name === null || candidate === undefined) return [check('candidate', false, 'a standby in recovery', 'none', 'rebuild a standby (runbook standby-rebuild) or name one with the parameter candidate')];
  if (!candidate.reachable) return [check('candidate', false, `${name} answers`, candidate.error ?? 'no answer', 'repair the standby or name another candidate')];
  const fence = candidate.superuser ? await withNode(step.context, datastoreFor(step), name, readFence) : null;
  const sync = candidate.synchronousStandbyNames.trim();
  return [
    check('candidate in recovery', candidate.inRecovery === true, `${name} is a standby`, candidate.inRecovery === true ? 'in recovery' : 'not in recovery', 'it is a primary itself: two primaries; stop and look'),
    check('replay not paused', candidate.replayPaused !== true, 'replay running', candidate.replayPaused === true ? 'paused' : 'running', `run select pg_wal_replay_resume() on ${name}`),
    check('no apply delay', (candidate.applyDelayMs ?? 0) === 0, 'recovery_min_apply_delay = 0', `${candidate.applyDelayMs ?? 0} ms`, 'a delayed standby is no failover candidate'),
    check('candidate will take writes', !candidate.readOnlyDefault, 'default_transaction_read_only = off', candidate.readOnlyDefault ? 'on' : 'off', `alter system reset default_transaction_read_only on ${name}`),
    check('candidate is not fenced', fence === null || fence.epoch === null, 'no fence in its pg_hba.conf', fence?.epoch == null ? 'none' : `the fence of epoch ${fence.epoch}`, `remove the block HOLDFAST FENCE from its pg_hba.conf and reload`),
    check('commits will not hang', sync === '' || (candidate.followers ?? 0) > 0, 'synchronous_standby_names empty, or standbys that stream from it', sync === '' ? 'empty' : `'${sync}' and ${candidate.followers ?? 0} standby(s)`, `alter system set synchronous_standby_names = '' on ${name} and reload: with no standby left, its commits would wait for ever`),
    check('promotion right', candidate.superuser, 'the admin user is superuser', candidate.superuser ? 'superuser' : 'not superuser', 'grant it, or use another admin user'),
  ];
}

/**
 * Lag as time: how long the standby takes from now to replay what the primary has written by now. Measured, so that an idle
 * primary does not look like a lagging standby. null when it does not get there within `limitMs`.
 */
export async function lagOf(step: StepRun, datastore: PostgresDatastore, primary: string, candidate: NodeStatus, limitMs: number): Promise<{ lagMs: number | null; lagBytes: number | null }> {
  const started = step.nowMs();
  const goal = await committedPosition(step.context, datastore, primary);
  if (candidate.replayedLsn === null) return { lagMs: null, lagBytes: null };
  const lagBytes = Math.max(0, Number(lsnDifference(candidate.replayedLsn, goal)));
  if (lagBytes === 0) return { lagMs: 0, lagBytes: 0 };
  if (candidate.replayPaused === true || candidate.receiverStatus !== 'streaming') return { lagMs: null, lagBytes };
  return withNode(step.context, datastore, candidate.node, async (client) => {
    for (;;) {
      const { replayed } = (await client.query('select pg_last_wal_replay_lsn()::text as replayed')).rows[0] as { replayed: string };
      if (lsnDifference(replayed, goal) <= 0n) return { lagMs: step.nowMs() - started, lagBytes };
      if (step.nowMs() - started > limitMs) return { lagMs: null, lagBytes };
      await pause(5, step.signal);
    }
  });
}

const health: StepDefinition = {
  async guard(step) {
    const datastore = datastoreFor(step);
    const { primary, candidate, statuses, timelines } = await findRoles(step);
    const primaryStatus = statuses.get(primary)!;
    const candidateStatus = candidate === null ? undefined : statuses.get(candidate);
    const others = [...statuses.values()].filter((status) => status.node !== primary && status.inRecovery === false);
    const checks: CheckResult[] = [];
    for (const other of others) {
      const fence = await withNode(step.context, datastore, other.node, readFence).catch(() => null);
      checks.push(check(`${other.node} is fenced`, fence !== null && fence.epoch !== null, 'every other node in recovery or fenced', fence?.epoch == null ? `${other.node} is a second writable primary` : 'fenced', 'stop it before anything else: writes to it will be lost'));
    }
    if (step.call.mode === 'planned') {
      checks.push(
        check('primary answers', primaryStatus.reachable, `${primary} answers`, primaryStatus.error ?? 'yes', 'if it is down, start a forced failover'),
        check('primary is writable', primaryStatus.inRecovery === false && !primaryStatus.readOnlyDefault, 'not in recovery, not read-only', primaryStatus.inRecovery === true ? 'in recovery' : primaryStatus.readOnlyDefault ? 'read-only by default' : 'writable'),
        ...(await candidateChecks(step, candidateStatus, candidate)),
      );
      if (candidateStatus?.inRecovery === true && primaryStatus.inRecovery === false) {
        checks.push(
          check('same system', candidateStatus.systemIdentifier === primaryStatus.systemIdentifier, primaryStatus.systemIdentifier ?? '?', candidateStatus.systemIdentifier ?? '?', 'the candidate belongs to another cluster'),
          check('candidate streams', candidateStatus.receiverStatus === 'streaming' && candidateStatus.timeline === primaryStatus.timeline, `streaming timeline ${primaryStatus.timeline}`, candidateStatus.receiverStatus === null ? 'no WAL receiver' : `${candidateStatus.receiverStatus} timeline ${candidateStatus.timeline}`, `check primary_conninfo and the log of ${candidate}`),
        );
        const maxLag = step.input['maxLag'] as number;
        const { lagMs, lagBytes } = await lagOf(step, datastore, primary, candidateStatus, Math.min(maxLag, MAX_LAG_WAIT_MS));
        checks.push({ ...check('lag', lagMs !== null && lagMs <= maxLag, `at most ${formatDuration(maxLag)}`, lagMs === null ? `more (${formatBytes(lagBytes ?? 0)} behind)` : `${formatDuration(lagMs)} (${formatBytes(lagBytes ?? 0)})`, 'wait until the standby has caught up'), rule: 'max-lag' });
      }
      return { ...guarded(checks), facts: { primary, candidate } };
    }
    checks.push(...(await candidateChecks(step, candidateStatus, candidate)));
    if (candidate !== null) {
      // The host of a primary that is down still knows its timeline, or the one before until its first checkpoint.
      const host = datastore.nodes[primary]!;
      const control = hasHostAccess(host) ? await controlData(host, step.signal).catch(() => null) : null;
      const newest = Math.max(...timelines.values(), control?.systemIdentifier === candidateStatus?.systemIdentifier ? (control?.timeline ?? 0) : 0);
      const own = timelines.get(candidate) ?? 0;
      checks.push(check('candidate is on the newest timeline', own === newest, `timeline ${newest}`, `timeline ${own}`, `${candidate} was left behind by an earlier failover: rebuild it, or leave the parameter candidate out`));
    }
    const verdict = await lookAtPrimary(step, datastore, primary, candidateStatus);
    checks.push(...downChecks(verdict));
    // Who approves with one fact only must know how much it may cost, and is asked to look again when it has become more.
    return { ...guarded(checks), facts: { primary, candidate, downFacts: verdict.facts.map((fact) => fact.says), downFactCount: placesOf(verdict), unclear: [...verdict.unclear], ...lossOf(candidateStatus) } };
  },
  async verify(step) {
    const datastore = datastoreFor(step);
    const { primary, candidate, statuses, timelines } = await findRoles(step);
    if (candidate === null) throw new HoldfastError('candidate-missing', 'no candidate is left', { retryable: false });
    const candidateStatus = statuses.get(candidate)!;
    const planned = step.call.mode === 'planned';
    if (!planned) {
      const verdict = await lookAtPrimary(step, datastore, primary, candidateStatus);
      const loss = lossOf(candidateStatus);
      const downFacts = verdict.facts.map((fact) => fact.says);
      const more = [...statuses.values()].filter((status) => status.node !== primary && status.inRecovery === true && timelines.get(status.node) === timelines.get(candidate) && furthest(status) > furthest(candidateStatus));
      return {
        checks: [check('roles', candidate !== primary, 'primary and candidate differ', `${primary} -> ${candidate}`)],
        summary: `primary ${primary} is down by ${downFacts.length} fact(s) (${downFacts.join('; ') || 'none'}), candidate ${candidate}; what was acknowledged in the last ${loss.mayLoseMs === null ? 'unknown time' : formatDuration(loss.mayLoseMs)} may be lost${more.map((status) => `; ${status.node} has received ${formatBytes(Number(furthest(status) - furthest(candidateStatus)))} more, which go if ${candidate} is promoted`).join('')}`,
        facts: { primary, candidate, lastCommitAt: candidateStatus.lastCommitAt, candidateLsn: candidateStatus.replayedLsn, lagMs: null, lagBytes: null, downFacts, downFactCount: placesOf(verdict), unclear: [...verdict.unclear], ...loss },
      };
    }
    const lag = await lagOf(step, datastore, primary, candidateStatus, MAX_LAG_WAIT_MS);
    return {
      checks: [check('roles', candidate !== primary, 'primary and candidate differ', `${primary} -> ${candidate}`)],
      summary: `primary ${primary}, candidate ${candidate}, lag ${lag.lagMs === null ? 'unknown' : formatDuration(lag.lagMs)}`,
      facts: { primary, candidate, lastCommitAt: candidateStatus.lastCommitAt, candidateLsn: candidateStatus.replayedLsn, lagMs: lag.lagMs, lagBytes: lag.lagBytes, downFacts: [] },
    };
  },
};

export function placesOf(verdict: DownVerdict): number {
  return new Set(verdict.facts.map((fact) => fact.place)).size;
}

/** What its promotion may lose, by what it knows itself. */
export function lossOf(candidate: NodeStatus | undefined): { mayLoseMs: number | null; mayLoseBytes: number | null } {
  if (candidate === undefined) return { mayLoseMs: null, mayLoseBytes: null };
  const { announcedLsn, receivedLsn } = candidate;
  const announcedBytes = announcedLsn !== null && receivedLsn !== null ? Number(lsnDifference(receivedLsn, announcedLsn)) : null;
  return lossBound({ silentMs: candidate.receiverSilentMs, announcedBytes, replayAgeMs: candidate.replayAgeMs });
}

/** Forced: everybody who may know is asked; what it amounts to is decided by `judgePrimary`. */
export async function lookAtPrimary(step: StepRun, datastore: PostgresDatastore, primary: string, candidate: NodeStatus | undefined): Promise<DownVerdict> {
  const worker = await workerSees(step, datastore, primary);
  // Every standby is asked, and after the attempts: one needs a moment to notice that its stream ended.
  const [standbys, host] = await Promise.all([
    Promise.all(Object.keys(datastore.nodes).filter((name) => name !== primary).map((name) => standbySees(step, datastore, primary, name))),
    hostWord(datastore.nodes[primary]!, candidate?.systemIdentifier ?? null, step.signal),
  ]);
  return judgePrimary({ primary, worker, standbys, host });
}

async function workerSees(step: StepRun, datastore: PostgresDatastore, primary: string): Promise<WorkerSaw> {
  const attempts = step.input['attempts'] as number;
  let last: NodeStatus | undefined;
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    last = await nodeStatus(step.context, datastore, primary, 2000);
    if (last.reachable) break;
    if (attempt < attempts) await pause(300, step.signal);
  }
  const detail = last?.error?.split('\n')[0] ?? 'no answer';
  const code = last?.errorCode ?? null;
  if (last?.reachable !== true) {
    // Class 08 is what a proxy in front of a server that is gone says.
    if (code === null || code.startsWith('08')) return { how: 'silent', attempts, detail };
    return code.startsWith('57P') ? { how: 'not-ready', detail } : { how: 'refuses', detail };
  }
  if (last.inRecovery === true) return { how: 'recovery' };
  const fence = last.superuser ? await withNode(step.context, datastore, primary, readFence).catch(() => null) : null;
  return fence !== null && fence.epoch === step.call.epoch && fence.inForce && fence.strangers.length === 0 ? { how: 'our-fence' } : { how: 'writable' };
}

async function standbySees(step: StepRun, datastore: PostgresDatastore, primary: string, name: string): Promise<StandbySaw> {
  const status = await nodeStatus(step.context, datastore, name);
  const asked = status.reachable && status.inRecovery === true;
  const from = status.receiverHost === null || status.receiverPort === null ? null : nodeByServer(datastore, status.receiverHost, status.receiverPort);
  let follows = from === primary || from === name ? null : from;
  const node = datastore.nodes[name]!;
  let probe: StandbySaw['probe'] = null;
  if (asked && status.receiverStatus === null) {
    // The address it streams from, as it is seen from there; not ours.
    const text = await withNode(step.context, datastore, name, async (client) => ((await client.query("select current_setting('primary_conninfo') as text")).rows[0] as { text: string }).text, { connectTimeoutMs: 3000, queryTimeoutMs: 5000 }).catch(() => '');
    const address = parseConninfo(text);
    const host = address?.get('hostaddr') ?? address?.get('host');
    const meant = host === undefined ? null : nodeByServer(datastore, host, Number(address?.get('port') ?? 5432));
    // One that was pointed to somebody else and gets no stream from there says nothing of the primary.
    if (meant !== null && meant !== primary && meant !== name) follows = meant;
    if (host !== undefined && meant === primary && hasHostAccess(node)) probe = await readiness(node, { host, port: address?.get('port') ?? 5432 }, step.signal);
  }
  return { node: name, asked, follows, receiver: status.receiverStatus, silentMs: status.receiverSilentMs, probe };
}

const checkpoint: StepDefinition = {
  async guard(step) {
    if (optionalText(step, 'primary') === undefined) return guarded([]);
    return guarded([check('nodes', nodeInput(step, 'primary') !== nodeInput(step, 'candidate'), 'two nodes', 'two nodes')]);
  },
  async apply(step) {
    const datastore = datastoreFor(step);
    const started = step.nowMs();
    await withNode(step.context, datastore, nodeInput(step, 'primary'), (client) => client.query('checkpoint'), { connectTimeoutMs: 15_000, queryTimeoutMs: 600_000 });
    await withNode(step.context, datastore, nodeInput(step, 'candidate'), (client) => client.query('checkpoint'), { connectTimeoutMs: 15_000, queryTimeoutMs: 600_000 });
    return { outcome: 'changed', summary: `checkpoint and restartpoint in ${formatDuration(step.nowMs() - started)}` };
  },
  async verify(step) {
    const status = await patientStatus(step.context, datastoreFor(step), nodeInput(step, 'candidate'));
    return { checks: [check('candidate answers', status.reachable, 'answers', status.error ?? 'answers')], summary: 'candidate answers' };
  },
};

const readOnly: StepDefinition = {
  async inspect(step) {
    const datastore = datastoreFor(step);
    const fence = await withNode(step.context, datastore, nodeInput(step, 'primary'), readFence);
    // Satisfied is never said here: the WAL position must be read by apply, after the last session ended.
    return { satisfied: false, summary: fence.epoch === null ? 'writes are allowed' : `the fence of epoch ${fence.epoch} is written${fence.inForce ? ' and in force' : ''}`, before: { ...fence } as Json };
  },
  async guard(step) {
    if (optionalText(step, 'primary') === undefined) return guarded([]);
    const primary = nodeInput(step, 'primary');
    const datastore = datastoreFor(step);
    const [rights, application] = await Promise.all([withNode(step.context, datastore, primary, fenceRights), applicationRole(step, datastore)]);
    return guarded([
      check('the application is not the administrator', application !== datastore.admin.username, `another role than ${datastore.admin.username}`, application ?? 'no endpoint secret', 'give the application a role of its own: the fence lets the administrator in'),
      check('right to fence', rights.superuser, 'the admin user is superuser (pg_hba.conf, ALTER SYSTEM, end sessions)', rights.superuser ? 'superuser' : 'not superuser', 'use a superuser as admin.username'),
      check('hba_file', rights.hbaFile !== '', 'a readable hba_file', rights.hbaFile === '' ? 'none' : rights.hbaFile),
      check('rules without errors', rights.hbaErrors === null, 'pg_hba_file_rules without errors', rights.hbaErrors ?? 'none', 'mend pg_hba.conf: with an error in it the server keeps its old rules'),
      check('no prepared transactions', rights.preparedTransactions === 0, '0', String(rights.preparedTransactions), 'commit or roll back what pg_prepared_xacts shows'),
      check('no subscriptions', rights.subscriptions === 0, '0 enabled', String(rights.subscriptions), 'disable the subscriptions: they would go on writing'),
    ]);
  },
  async apply(step) {
    const datastore = datastoreFor(step);
    const hold = await prepareHold(step);
    let opened: Awaited<ReturnType<typeof openNode>> | undefined;
    let turned: readonly string[] = [];
    let problems: readonly string[] = [];
    try {
      opened = await openNode(step.context, datastore, nodeInput(step, 'primary'));
      const refused = await refuseWrites(opened.client, opened.target, {
        ...refuseOptions(step, datastore.nodes[nodeInput(step, 'primary')]!, 10_000),
        whenRefused: async () => void ({ turned, problems } = await hold.engage()),
      });
      const parts = [
        `writes refused, ${refused.sessionsEnded} session(s) ended`,
        turned.length === 0 ? '' : `${turned.join(', ')} turned to ${nodeInput(step, 'candidate')}`,
        `WAL position ${refused.lsn}`,
        refused.preparedTransactions === 0 ? '' : `${refused.preparedTransactions} prepared transaction(s) left, which wait on the new primary too`,
      ].filter((part) => part !== '').join(', ');
      return {
        outcome: 'changed',
        summary: [parts, ...(refused.limits.length === 0 ? [] : [`not held: ${refused.limits.join('; ')}`]), ...problems].join('; '),
        after: { lsn: refused.lsn, epoch: step.call.epoch },
        facts: { lsn: refused.lsn, refusedFromMs: refused.refusedFromMs, sessionsEnded: refused.sessionsEnded, limits: [...refused.limits], parts: { ...refused.parts }, ...(Object.keys(hold.turns).length === 0 ? {} : { turns: hold.turns as unknown as Json }) },
      };
    } finally {
      hold.close();
      await opened?.client.end().catch(() => {});
    }
  },
  async verify(step) {
    const datastore = datastoreFor(step);
    const primary = nodeInput(step, 'primary');
    const status = await nodeStatus(step.context, datastore, primary);
    if (!status.reachable && (await hostStopped(step, primary))) return { checks: [check('fence', true, 'rules in force, or stopped', 'stopped')], summary: 'it was stopped meanwhile' };
    const fence = await withNode(step.context, datastore, primary, readFence);
    return {
      checks: [
        check('fence epoch', fence.epoch === step.call.epoch, String(step.call.epoch), String(fence.epoch)),
        check('rules in force', fence.inForce, 'the fence whole and first in pg_hba.conf, loaded, no errors', fence.inForce ? 'in force' : 'changed, or not loaded'),
        check('nobody inside', fence.strangers.length === 0, 'no session of others, no transaction that writes', fence.strangers.join(', ') || 'none'),
      ],
      summary: 'only the administrator is let in',
    };
  },
  async undo(step) {
    const datastore = datastoreFor(step);
    const primary = nodeInput(step, 'primary');
    // Roles first: to let writes in again beside a promoted candidate would make two primaries.
    for (const name of Object.keys(datastore.nodes)) {
      if (name === primary) continue;
      const status = await nodeStatus(step.context, datastore, name);
      if (status.inRecovery === false && !(await withNode(step.context, datastore, name, readFence)).epoch) {
        throw new HoldfastError('promoted-meanwhile', `${name} is not in recovery: it may have been promoted; writes on ${primary} stay refused`, { next: 'find out which node is the primary; then markDone, or fence one of them' });
      }
    }
    const { client, target } = await openNode(step.context, datastore, primary);
    try {
      const fence = await readFence(client);
      const open = fence.epoch === null && !fence.readOnlyDefault;
      const allow = (): Promise<void> => allowWrites(client, target, { epoch: step.call.epoch, timeoutMs: 10_000, nowMs: step.nowMs });
      // Another execution's fence is refused there, and nothing of its standbys is touched.
      if (fence.epoch !== null && fence.epoch !== step.call.epoch) await allow();
      // Beside it, not after: commits may wait for a standby that was turned.
      const [released, allowed] = await Promise.allSettled([releaseStandbys(step), open ? undefined : allow()]);
      if (allowed.status === 'rejected') throw allowed.reason;
      if (released.status === 'rejected') throw released.reason;
      // Whoever held the rules until now may have turned one meanwhile: looked at once more, with the lock in our hands.
      const again = open ? null : await releaseStandbys(step, released.value.failed);
      const texts = [...new Set([...released.value.texts, ...(again?.texts ?? [])])];
      const changed = released.value.changed || again?.changed === true;
      if (open && !changed) return { outcome: 'already-satisfied', summary: ['writes are allowed', ...texts].join('; ') };
      return { outcome: 'changed', summary: [`writes are allowed on ${primary}${open ? '' : ' again'}`, ...texts].join('; '), after: { ...(await readFence(client)) } as Json };
    } finally {
      await client.end().catch(() => {});
    }
  },
};

function refuseOptions(step: StepRun, node: NodeConfig, timeoutMs: number): RefuseOptions {
  const endProcess = hasHostAccess(node) ? async (pid: number): Promise<void> => void (await runOnNode(node, [nodeTool(node, 'pg_ctl'), 'kill', 'TERM', String(pid)], { allowFailure: true, signal: step.signal })) : undefined;
  return { epoch: step.call.epoch, execution: step.call.workflowId, timeoutMs, nowMs: step.nowMs, signal: step.signal, ...(endProcess === undefined ? {} : { endProcess }) };
}

/** Who the application logs in as; null without an endpoint. */
export async function applicationRole(step: StepRun, datastore: PostgresDatastore): Promise<string | null> {
  return datastore.endpoint === undefined ? null : (await readEndpoint(step.context, datastore.endpoint.secret, datastore.endpoint.secretRegion)).user;
}

const fence: StepDefinition = {
  async inspect(step) {
    const { holds, how, limits } = await fenceHolds(step, nodeInput(step, 'node'), true);
    // One that runs and could be stopped is not fenced for good yet, also when a try before was cut off in between.
    const more = limits.length > 0 && hasHostAccess(datastoreFor(step).nodes[nodeInput(step, 'node')]!);
    return { satisfied: holds && !more, summary: withLimits(how, limits) };
  },
  async guard(step) {
    const name = optionalText(step, 'node');
    if (name === undefined) return guarded([]);
    const datastore = datastoreFor(step);
    const node = datastore.nodes[nodeInput(step, 'node')]!;
    const ways: string[] = [];
    if (node.fence !== undefined) ways.push('fence command');
    if (hasHostAccess(node) && (await hostState(node, step.signal).catch(() => 'unknown')) !== 'unknown') ways.push('its host');
    // The fence by SQL lets the administrator in; it holds nobody who is called the same.
    if ((await nodeStatus(step.context, datastore, name)).reachable && (await applicationRole(step, datastore)) !== datastore.admin.username) ways.push('SQL');
    const foreign = await foreignFiles(step.context, datastore, name, step.signal);
    const provable = ways.includes('its host') || ways.includes('SQL') || node.fence?.verify !== undefined;
    return guarded([
      check('its own files', foreign === null, `${name}'s files in ${node.dataDirectory ?? 'no dataDirectory'}`, foreign ?? 'nothing else', `correct datastores.*.nodes.${name}.dataDirectory and exec: another server would be stopped`),
      check('the fence can be proved', ways.length === 0 || provable, 'fence.verify, or a host or server that can be asked', provable ? 'yes' : 'only fence.command, whose effect nobody can see', `configure datastores.*.nodes.${name}.fence.verify`),
      check('a way to fence', ways.length > 0, `a way to reach ${name}: fence.command, dataDirectory with exec, or SQL`, ways.join(', ') || 'none', `configure datastores.*.nodes.${name}.fence.command`),
    ]);
  },
  async apply(step) {
    const datastore = datastoreFor(step);
    const name = nodeInput(step, 'node');
    const node = datastore.nodes[name]!;
    const methods: string[] = [];
    const problems: string[] = [];
    const foreign = await foreignFiles(step.context, datastore, name, step.signal);
    if (foreign !== null) problems.push(foreign);
    if (node.fence !== undefined) {
      await runChild(node.fence.command, { env: { HOLDFAST_NODE: name, HOLDFAST_EPOCH: String(step.call.epoch) }, signal: step.signal });
      methods.push('fence command');
    }
    const status = await nodeStatus(step.context, datastore, name);
    if (status.reachable && status.inRecovery === false) {
      try {
        const { client, target } = await openNode(step.context, datastore, name);
        try {
          await refuseWrites(client, target, refuseOptions(step, node, 15_000));
          await leaveStandbySignal(client);
          methods.push('pg_hba.conf and standby.signal by SQL');
        } finally {
          await client.end().catch(() => {});
        }
        // What it has goes to whoever still streams from it; the host makes sure below.
        if (hasHostAccess(node) && foreign === null) await stopOnHost(node, 'fast', step.signal);
      } catch (error) {
        if (error instanceof HoldfastError && error.code === 'stale-epoch') throw error;
        problems.push(messageOf(error));
      }
    }
    if (hasHostAccess(node) && foreign === null) {
      try {
        methods.push(await fenceOnHost(step, node, datastore.admin.username));
      } catch (error) {
        if (error instanceof HoldfastError && error.code === 'stale-epoch') throw error;
        problems.push(messageOf(error));
      }
    }
    if (methods.length === 0) {
      throw new HoldfastError('not-fenced', `${name} could not be fenced: ${problems.join('; ') || 'no way to reach it is configured'}`, { next: `stop it by hand and keep it down, or configure nodes.${name}.fence.command`, retryable: problems.length > 0 });
    }
    return { outcome: 'changed', summary: `${name} fenced: ${methods.join(', ')}${problems.length === 0 ? '' : `; what did not succeed: ${problems.join('; ')}`}`, after: { methods }, facts: { methods, problems } };
  },
  async verify(step) {
    const name = nodeInput(step, 'node');
    const { holds, how, limits } = await fenceHolds(step, name, true);
    return { checks: [check('fence', holds, `${name} takes no write, also after a restart`, how, 'fence it by hand now')], summary: withLimits(how, limits), facts: { limits } };
  },
};

/**
 * On its host, whoever else reaches it: standby.signal, so that it starts in recovery; stopped; the fence in its rules, so that it
 * lets nobody in either when somebody takes one of the two away.
 */
async function fenceOnHost(step: StepRun, node: NodeConfig & { dataDirectory: string }, admin: string): Promise<string> {
  const rules = await hostRules(node, step.signal);
  if (rules !== null) refuseStale(rules.text, step.call.epoch, node);
  // The signal first: whatever happens to the stop, no later start is writable.
  const signal = `${node.dataDirectory}/standby.signal`;
  await runOnNode(node, ['touch', signal], { signal: step.signal });
  await stopOnHost(node, 'immediate', step.signal);
  if (rules !== null) await writeOnNode(node, rules.file, withFence(rules.text, { admin, epoch: step.call.epoch, execution: step.call.workflowId }), step.signal);
  // A power cut right after must not take them back.
  await runOnNode(node, ['sync', signal, node.dataDirectory, ...(rules === null ? [] : [rules.file])], { allowFailure: true, signal: step.signal });
  return `server stopped and standby.signal${rules === null ? '' : ' and pg_hba.conf'} left on its host`;
}

export interface Held {
  readonly holds: boolean;
  readonly how: string;
  /** What would get past it all the same; said, because nothing here can prevent it. */
  readonly limits: string[];
}

export function withLimits(how: string, limits: readonly string[]): string {
  return limits.length === 0 ? how : `${how}; NOT held: ${limits.join('; ')}`;
}

/** Why a node takes no write. `afterRestart`: it must hold through a restart too. */
async function fenceHolds(step: StepRun, name: string, afterRestart: boolean): Promise<Held> {
  const datastore = datastoreFor(step);
  const node = datastore.nodes[name]!;
  // Planned, it answered a moment ago: one that is slow is not taken for one that runs and cannot be asked. Nobody waits for it in a forced run.
  const status = await (step.call.mode === 'planned' ? patientStatus : nodeStatus)(step.context, datastore, name);
  if (status.reachable) {
    if (!status.superuser) return { holds: status.inRecovery === true && !afterRestart, how: `${name} is ${status.inRecovery === true ? '' : 'not '}in recovery; more cannot be seen without a superuser`, limits: [] };
    const [seen, entered] = await Promise.all([withNode(step.context, datastore, name, readFence), status.inRecovery === true ? null : applicationEnters(step, datastore, name)]);
    if (status.inRecovery === true) {
      // A recovery that no standby.signal holds ends by itself.
      return { holds: seen.standbySignal, how: `${name} is in recovery${seen.standbySignal ? '' : ' without standby.signal: it ends that by itself or at the next start'}`, limits: [`whoever promotes ${name} by hand or by another tool`] };
    }
    const refusing = seen.epoch !== null && seen.inForce && seen.strangers.length === 0 && entered === null;
    const why = entered !== null ? entered : seen.epoch === null ? 'not fenced' : !seen.inForce ? 'its fence was changed or is not loaded' : `others are inside: ${seen.strangers.join(', ')}`;
    return {
      holds: refusing && (!afterRestart || seen.standbySignal),
      how: refusing ? `${name} lets only the administrator in (epoch ${seen.epoch})${seen.standbySignal ? ' and starts in recovery' : ''}` : `${name} is not in recovery and ${why}`,
      limits: refusing ? [`it runs: whoever has the password of ${datastore.admin.username} can write to it, and whoever rewrites its pg_hba.conf and reloads opens it`] : [],
    };
  }
  if (node.fence?.verify !== undefined) {
    const answer = await runChild(node.fence.verify, { env: { HOLDFAST_NODE: name, HOLDFAST_EPOCH: String(step.call.epoch) }, allowFailure: true, signal: step.signal });
    if (answer.code === 0) return { holds: true, how: `the fence command's verification says that ${name} is fenced`, limits: [] };
    return { holds: false, how: `the fence command's verification exited with ${answer.code}`, limits: [] };
  }
  if (hasHostAccess(node)) {
    const foreign = await foreignFiles(step.context, datastore, name, step.signal);
    if (foreign !== null) return { holds: false, how: `${name} does not answer, and ${foreign}`, limits: [] };
    const state = await hostState(node, step.signal).catch(() => 'unknown' as const);
    const signal = await runOnNode(node, ['test', '-e', `${node.dataDirectory}/standby.signal`], { allowFailure: true, signal: step.signal }).catch(() => null);
    const left = signal?.code === 0;
    const rules = await hostRules(node, step.signal).catch(() => null);
    const whole = rules !== null && fenceWhole(rules.text, datastore.admin.username);
    return {
      // Its rules alone would hold too; where they can be read they must, so that neither alone decides.
      holds: state === 'stopped' && (!afterRestart || (left && (rules === null || whole))),
      how: `its host says: server ${state}, standby.signal ${left ? 'there' : 'missing'}, pg_hba.conf ${rules === null ? 'not found' : whole ? `fenced (epoch ${fenceEpoch(rules.text)})` : 'not fenced'}`,
      limits: [],
    };
  }
  return { holds: !afterRestart, how: `${name} does not answer (${status.error?.split('\n')[0] ?? ''})`, limits: [`nobody can be asked whether ${name} runs: if only the worker cannot reach it, what was put in its pg_hba.conf is all that holds it`] };
}

/** The application's own login is tried: null when it is turned away or cannot write, else what it could do. */
async function applicationEnters(step: StepRun, datastore: PostgresDatastore, name: string): Promise<string | null> {
  if (datastore.endpoint === undefined) return null;
  const endpoint = await readEndpoint(step.context, datastore.endpoint.secret, datastore.endpoint.secretRegion);
  const { host, port } = datastore.nodes[name]!;
  try {
    const client = await connectPostgres({ ...endpoint, host, port, sslmode: datastore.admin.sslmode, sslrootcert: datastore.admin.sslrootcert }, { applicationName: 'holdfast-verify', connectTimeoutMs: 3000, queryTimeoutMs: 3000 });
    await client.end().catch(() => {});
    return `lets the application in (as ${endpoint.user})`;
  } catch {
    return null;
  }
}

async function hostStopped(step: StepRun, name: string): Promise<boolean> {
  const node = datastoreFor(step).nodes[name]!;
  return hasHostAccess(node) && (await hostState(node, step.signal).catch(() => 'unknown' as const)) === 'stopped';
}

const awaitReplay: StepDefinition = {
  async guard(step) {
    if (optionalText(step, 'candidate') === undefined) return guarded([]);
    const candidate = nodeInput(step, 'candidate');
    const status = await statusOfCandidate(step, candidate);
    return guarded([
      check('candidate answers', status.reachable, 'answers', status.error ?? 'answers'),
      check('replay not paused', status.replayPaused !== true, 'running', status.replayPaused === true ? 'paused' : 'running', `select pg_wal_replay_resume() on ${candidate}`),
      check('candidate streams', step.call.mode === 'forced' || status.receiverStatus === 'streaming', 'streaming', status.receiverStatus ?? 'no WAL receiver', 'wait until it streams again'),
    ]);
  },
  async verify(step) {
    const wanted = optionalText(step, 'lsn');
    if (step.call.mode === 'planned' && wanted === undefined) {
      throw new HoldfastError('lsn-unknown', "the primary's last WAL position is not known: what the candidate lacks could not be told", { next: 'the step that refuses writes gives it; it cannot be declared done by hand' });
    }
    const candidate = nodeInput(step, 'candidate');
    const started = step.nowMs();
    const timeoutMs = step.input['timeout'] as number;
    let last = { replayed: '', sinceMs: started };
    return withNode(step.context, datastoreFor(step), candidate, async (client) => {
      for (;;) {
        const row = (await client.query('select pg_last_wal_receive_lsn()::text as received, pg_last_wal_replay_lsn()::text as replayed, pg_is_in_recovery() as recovering')).rows[0] as { received: string | null; replayed: string; recovering: boolean };
        // Nothing received since its start: what it replayed from its own files is all there is.
        const goal = wanted ?? row.received ?? row.replayed;
        const behind = row.recovering ? lsnDifference(row.replayed, goal) : 0n;
        const facts = { replayedLsn: row.replayed, receivedLsn: row.received, waitedMs: step.nowMs() - started };
        if (behind <= 0n) return { checks: [check('replayed', true, goal, row.replayed)], summary: `${candidate} has replayed ${row.replayed}`, facts };
        if (row.replayed !== last.replayed) last = { replayed: row.replayed, sinceMs: step.nowMs() };
        if (wanted === undefined && step.nowMs() - last.sinceMs > SETTLED_MS) {
          // A stream that broke ends in the middle of a record, which can never be replayed. Promotion replays what there is.
          return { checks: [check('replayed', true, 'all complete records', row.replayed)], summary: `${candidate} has replayed ${row.replayed}; the last ${behind} bytes it received are no complete record`, facts };
        }
        step.signal.throwIfAborted();
        if (step.nowMs() - started > timeoutMs) {
          return { checks: [check('replayed', false, goal, `${row.replayed}, ${behind} bytes behind after ${formatDuration(timeoutMs)}`, 'the standby does not keep up, or its stream is broken')], summary: 'not replayed in time', facts };
        }
        await pause(3, step.signal);
      }
    });
  },
};

/** All that can fail before promotion is asked for; then it says that nothing was begun, and everything can be undone. */
async function beforePromotion(step: StepRun, candidate: string): Promise<Client> {
  const datastore = datastoreFor(step);
  try {
    const [{ client }, seen] = await Promise.all([
      openNode(step.context, datastore, candidate),
      // Between the last look and now someone may have let writes in again.
      step.call.mode === 'planned' ? withNode(step.context, datastore, nodeInput(step, 'primary'), readFence) : null,
    ]);
    if (seen !== null && (seen.epoch !== step.call.epoch || !seen.inForce || seen.strangers.length > 0)) {
      await client.end().catch(() => {});
      const found = seen.epoch !== step.call.epoch ? `found ${seen.epoch}` : !seen.inForce ? 'changed, or not loaded' : `others are inside: ${seen.strangers.join(', ')}`;
      throw new HoldfastError('primary-not-refusing', `${nodeInput(step, 'primary')} does not hold our fence (epoch ${step.call.epoch}; ${found})`);
    }
    return client;
  } catch (error) {
    throw new HoldfastError(NOT_BEGUN, `not promoted: ${messageOf(error)}`, { cause: error, next: 'the execution goes back' });
  }
}

const promote: StepDefinition = {
  async inspect(step) {
    const status = await nodeStatus(step.context, datastoreFor(step), nodeInput(step, 'candidate'));
    if (!status.reachable) throw new HoldfastError('candidate-unreachable', `${status.node} does not answer: ${status.error}`, { retryable: true });
    return { satisfied: status.inRecovery === false, summary: status.inRecovery === false ? `${status.node} is primary` : `${status.node} is a standby`, before: { inRecovery: status.inRecovery, lsn: status.replayedLsn } };
  },
  async guard(step) {
    if (optionalText(step, 'candidate') === undefined) return guarded([]);
    const status = await statusOfCandidate(step, nodeInput(step, 'candidate'));
    return guarded(await candidateChecks(step, status, status.node));
  },
  async apply(step) {
    const candidate = nodeInput(step, 'candidate');
    const client = await beforePromotion(step, candidate);
    try {
      const before = (await client.query('select pg_is_in_recovery() as recovering, pg_last_wal_replay_lsn()::text as lsn')).rows[0] as { recovering: boolean; lsn: string };
      const started = step.nowMs();
      if (before.recovering) {
        await client.query('select pg_promote(false)');
        for (;;) {
          if (!((await client.query('select pg_is_in_recovery() as recovering')).rows[0] as { recovering: boolean }).recovering) break;
          step.signal.throwIfAborted();
          await pause(3, step.signal);
        }
      }
      const promotedAtMs = step.nowMs();
      return {
        outcome: before.recovering ? 'changed' : 'already-satisfied',
        summary: before.recovering ? `${candidate} promoted in ${formatDuration(promotedAtMs - started)}` : `${candidate} is primary already`,
        before: { inRecovery: before.recovering, lsn: before.lsn },
        after: { inRecovery: false },
        ...(before.recovering ? { facts: { promotedAtMs, promoteMs: promotedAtMs - started } } : {}),
      };
    } finally {
      await client.end().catch(() => {});
    }
  },
  async verify(step) {
    const candidate = nodeInput(step, 'candidate');
    return withNode(step.context, datastoreFor(step), candidate, async (client) => {
      const { recovering } = (await client.query('select pg_is_in_recovery() as recovering')).rows[0] as { recovering: boolean };
      if (recovering) return { checks: [check('promoted', false, `${candidate} is primary`, 'in recovery')], summary: 'not promoted' };
      const { timeline, history } = (
        await client.query(`
          with t as (select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as hex)
          select ('x' || hex)::bit(32)::int as timeline, pg_read_file('pg_wal/' || hex || '.history', 0, 65536, true) as history from t`)
      ).rows[0] as { timeline: number; history: string | null };
      // The last line of a timeline's history says where it parted. Source: PostgreSQL documentation, 26.3.6 "Timelines".
      const parted = /^(\d+)\t([0-9A-F]+\/[0-9A-F]+)\t/i.exec(history?.trim().split('\n').at(-1) ?? '');
      const forkLsn = parted?.[2] ?? null;
      return { checks: [check('promoted', true, `${candidate} is primary`, `timeline ${timeline}`)], summary: `timeline ${timeline} from ${forkLsn ?? 'an unknown position'}`, facts: { timeline, forkLsn, parentTimeline: parted === null ? null : Number(parted[1]) } };
    });
  },
};

const verifyFence: StepDefinition = {
  async verify(step) {
    const name = nodeInput(step, 'node');
    const { holds, how, limits } = await fenceHolds(step, name, false);
    return { checks: [check('old primary takes no write', holds, `${name} down, in recovery, or refusing`, how, 'fence it by hand at once')], summary: withLimits(how, limits), facts: { how, limits } };
  },
};

const verifyLag: StepDefinition = {
  async verify(step) {
    const datastore = datastoreFor(step);
    const primary = nodeInput(step, 'primary');
    const maxLag = step.input['maxLag'] as number;
    const deadline = step.nowMs() + (step.input['wait'] as number);
    const names = Object.keys(datastore.nodes).filter((name) => name !== primary);
    for (;;) {
      const seen = await Promise.all(names.map((name) => nodeStatus(step.context, datastore, name)));
      const { timeline } = await nodeStatus(step.context, datastore, primary);
      // One without a stream is an orphan, not absent; one behind a fence is the old primary, started again, and no standby.
      const recovering = seen.filter((status) => status.inRecovery === true);
      const fenced = await Promise.all(recovering.map(async (status) => status.superuser && (await withNode(step.context, datastore, status.node, readFence).catch(() => null))?.epoch != null));
      const standbys = recovering.filter((_, index) => !fenced[index]);
      const behindFence = recovering.filter((_, index) => fenced[index]).map((status) => status.node);
      const streaming = standbys.filter((status) => status.receiverStatus === 'streaming' && status.timeline === timeline);
      const checks = await Promise.all(
        standbys.map(async (status) => {
          const { lagMs } = await lagOf(step, datastore, primary, status, Math.min(maxLag, MAX_LAG_WAIT_MS));
          const ok = streaming.includes(status) && lagMs !== null && lagMs <= maxLag;
          return check(`${status.node} streams`, ok, `from ${primary}, lag at most ${formatDuration(maxLag)}`, `${status.receiverStatus === null ? 'no stream' : `${status.receiverStatus} timeline ${status.timeline} from ${status.receiverHost}:${status.receiverPort}`}, lag ${lagMs === null ? 'unknown' : formatDuration(lagMs)}`, `rebuild it: holdfast run standby-rebuild --parameter node=${status.node}`);
        }),
      );
      if (checks.every((item) => item.ok) || step.nowMs() > deadline) {
        const summary = standbys.length === 0 ? 'no standby remains: there is no redundancy until failback has rebuilt one' : `${streaming.length} of ${standbys.length} standby(s) stream`;
        return { checks, summary: behindFence.length === 0 ? summary : `${summary}; ${behindFence.join(', ')} runs behind its fence, to be rebuilt`, facts: { standbys: streaming.length } };
      }
      await pause(250, step.signal);
    }
  },
};

const measureLoss: StepDefinition = {
  async verify(step) {
    const forkLsn = optionalText(step, 'forkLsn');
    const name = nodeInput(step, 'node');
    const node = datastoreFor(step).nodes[name]!;
    const unmeasured = (note: string) => ({ checks: [], summary: `lost transactions not measured: ${note}`, facts: { lostTransactions: null, note } });
    if (forkLsn === undefined) return unmeasured('the point where the new timeline began is not known');
    if (!hasHostAccess(node)) return unmeasured(`the data directory of ${name} cannot be reached (dataDirectory, exec)`);
    if ((await hostState(node, step.signal).catch(() => 'unknown' as const)) === 'unknown') return unmeasured(`the host of ${name} cannot be reached`);
    const control = await controlData(node, step.signal);
    if (control.timeline === null || control.segmentBytes === null) return unmeasured(`pg_controldata of ${name} could not be read`);
    // A primary killed before its first checkpoint still shows the timeline before its own in its control file.
    const timeline = typeof step.input['timeline'] === 'number' ? step.input['timeline'] : control.timeline;
    // The segment is named: left to itself pg_waldump learns the segment size from any file, also from one made in advance, which is empty.
    const segment = walFileName(timeline, forkLsn, control.segmentBytes);
    // The zone is set on the node: an environment does not pass ssh.
    const answer = await runOnNode(node, ['env', 'TZ=UTC', 'LC_ALL=C', nodeTool(node, 'pg_waldump'), '--rmgr=Transaction', '-s', forkLsn, '-p', `${node.dataDirectory}/pg_wal`, segment], { allowFailure: true, signal: step.signal });
    // It always ends with an error at the end of the WAL; only one that read nothing at all is a failure.
    const commits = answer.stdout.split('\n').filter((line) => /desc: COMMIT/.test(line));
    if (answer.stdout.trim() === '' && !/invalid record length|invalid magic|invalid resource|record with incorrect|could not find a valid record|zero-length|contrecord|could not open file|invalid record/i.test(answer.stderr)) {
      return unmeasured(`pg_waldump: ${answer.stderr.slice(0, 300)}`);
    }
    const times = commits.flatMap((line) => {
      const match = /COMMIT (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d+) UTC/.exec(line);
      return match === null ? [] : [`${match[1]}T${match[2]!.slice(0, 12)}Z`];
    });
    const note = `COMMIT records in the WAL of ${name} after ${forkLsn} on timeline ${timeline} (pg_waldump)`;
    return { checks: [], summary: `${commits.length} transaction(s) of ${name} are not on the new primary`, facts: { lostTransactions: commits.length, lastLostAt: times.at(-1) ?? null, firstLostAt: times[0] ?? null, note } };
  },
};

const verifyRecentWrites: StepDefinition = {
  async verify(step) {
    const datastore = datastoreFor(step);
    const primary = nodeInput(step, 'primary');
    const checks: CheckResult[] = [];
    let found: string | null = null;
    if (datastore.endpoint !== undefined) {
      const endpoint = await readEndpoint(step.context, datastore.endpoint.secret, datastore.endpoint.secretRegion);
      const node = nodeByAddress(datastore, endpoint.host, endpoint.port);
      checks.push(check('application secret', node === primary, `points to ${primary}`, `${endpoint.host}:${endpoint.port} (${node ?? 'no node of ours'})`));
      try {
        const client = await connectPostgres({ ...endpoint, database: endpoint.database, sslmode: datastore.admin.sslmode, sslrootcert: datastore.admin.sslrootcert }, { applicationName: 'holdfast-verify', queryTimeoutMs: 10_000 });
        try {
          const row = (await client.query("select pg_is_in_recovery() as recovering, current_setting('transaction_read_only') as read_only")).rows[0] as { recovering: boolean; read_only: string };
          checks.push(check('writable for the application', !row.recovering && row.read_only === 'off', 'not in recovery, transactions read-write', `${row.recovering ? 'in recovery' : 'primary'}, read-only ${row.read_only}`));
        } finally {
          await client.end().catch(() => {});
        }
      } catch (error) {
        checks.push(check('application can log in', false, 'a connection with the application secret', messageOf(error).split('\n')[0]!));
      }
    }
    const query = optionalText(step, 'query');
    if (query !== undefined) {
      const target = await adminTarget(step.context, datastore, primary);
      found = await withPostgres(target, async (client) => {
        await client.query('begin read only');
        const row = (await client.query(query)).rows[0] as Record<string, unknown> | undefined;
        await client.query('rollback');
        return row === undefined ? null : JSON.stringify(row);
      }, { queryTimeoutMs: 20_000 });
      checks.push(check('newest transaction', found !== null, 'a row', found ?? 'no row'));
    }
    return { checks, summary: found === null ? `${primary} is writable for the application` : `${primary} is writable; newest: ${found.slice(0, 200)}`, facts: { newest: found } };
  },
};

export const postgresSteps: Readonly<Record<string, StepDefinition>> = {
  'postgres.health': health,
  'postgres.checkpoint': checkpoint,
  'postgres.readOnly': readOnly,
  'postgres.fence': fence,
  'postgres.awaitReplay': awaitReplay,
  'postgres.promote': promote,
  'postgres.verifyFence': verifyFence,
  'postgres.verifyLag': verifyLag,
  'postgres.measureLoss': measureLoss,
  'postgres.verifyRecentWrites': verifyRecentWrites,
};
