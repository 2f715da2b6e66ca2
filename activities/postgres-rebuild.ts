import { posix } from 'node:path';
import type { CheckResult } from '../src/model/api.ts';
import type { NodeConfig } from '../src/model/config-schema.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { describeCheck } from '../src/model/execution.ts';
import { formatDuration } from '../src/model/units.ts';
import { readEndpoint } from '../src/systems/endpoint.ts';
import { adminTarget } from '../src/systems/postgres.ts';
import { conninfoValue, settingValue } from '../src/model/postgres-conninfo.ts';
import { fenceEpoch, withFence, withoutFence } from '../src/model/fence-text.ts';
import { readFence, refuseStale } from '../src/systems/postgres-fence.ts';
import { committedPosition, controlData, ensureSlot, hasHostAccess, hostRules, hostState, lsnDifference, nodeByAddress, nodeStatus, nodeTool, runOnNode, startOnHost, stopOnHost, withNode, writeOnNode, type NodeStatus } from '../src/systems/postgres-node.ts';
import { rebuildByController } from './controller.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

/** How long a node may take to stream before it is copied anew. */
const FOLLOW_MS = 30_000;

type Host = NodeConfig & { dataDirectory: string };

function hostOf(step: StepRun): { name: string; host: Host } {
  const name = nodeInput(step, 'node');
  const node = datastoreFor(step).nodes[name]!;
  if (!hasHostAccess(node)) throw new HoldfastError('no-host-access', `node ${name} has no dataDirectory: it cannot be rebuilt`, { next: `give nodes.${name}.dataDirectory and, on another host, exec` });
  return { name, host: node };
}

export async function primaryOf(step: StepRun): Promise<string> {
  if (optionalText(step, 'primary') !== undefined) return nodeInput(step, 'primary');
  const datastore = datastoreFor(step);
  if (datastore.endpoint === undefined) throw new HoldfastError('primary-unknown', 'no primary is named and there is no endpoint secret', { next: 'give the parameter primary' });
  const endpoint = await readEndpoint(step.context, datastore.endpoint.secret, datastore.endpoint.secretRegion);
  const found = nodeByAddress(datastore, endpoint.host, endpoint.port);
  if (found === null) throw new HoldfastError('primary-unknown', `the application's secret points to ${endpoint.host}:${endpoint.port}, which is no node of ours`, { next: 'correct the secret or the node addresses' });
  return found;
}

/** Streams the present primary's timeline: addresses cannot tell, they may be names, and ports are often all the same. */
export async function streams(step: StepRun): Promise<{ ok: boolean; found: string }> {
  const datastore = datastoreFor(step);
  const primary = await nodeStatus(step.context, datastore, await primaryOf(step));
  const status = await nodeStatus(step.context, datastore, nodeInput(step, 'node'));
  if (!status.reachable) return { ok: false, found: status.error?.split('\n')[0] ?? 'no answer' };
  if (status.inRecovery !== true) return { ok: false, found: 'not in recovery' };
  if (status.receiverStatus === null) return { ok: false, found: 'no WAL receiver' };
  return { ok: status.receiverStatus === 'streaming' && primary.timeline !== null && status.timeline === primary.timeline, found: `${status.receiverStatus} timeline ${status.timeline}` };
}

/** Nothing may be rebuilt from a fenced server, and no live primary may be rebuilt: the secret alone does not say who is right. */
async function roleChecks(step: StepRun): Promise<CheckResult[]> {
  const datastore = datastoreFor(step);
  const name = nodeInput(step, 'node');
  const primary = await primaryOf(step);
  const [source, target] = await Promise.all([nodeStatus(step.context, datastore, primary), nodeStatus(step.context, datastore, name)]);
  const epochOf = async (status: NodeStatus): Promise<number | null> => (status.reachable && status.superuser ? (await withNode(step.context, datastore, status.node, readFence)).epoch : null);
  const sourceEpoch = await epochOf(source);
  const alive = target.reachable ? target.inRecovery === false && (await epochOf(target)) === null : await runsUnseen(step);
  return [
    check('another node', name !== primary, 'not the primary itself', name),
    check('primary writable', source.inRecovery === false, `${primary} is the primary`, source.reachable ? (source.inRecovery === true ? 'in recovery' : 'primary') : (source.error ?? 'no answer')),
    check('primary is not fenced', sourceEpoch === null, 'no fence', sourceEpoch === null ? 'none' : `the fence of epoch ${sourceEpoch}`, `the application's secret points to a fenced node: finish the failover first`),
    check('target is no live primary', !alive, `${name} stopped, fenced or a standby`, alive ? 'a primary that takes writes' : 'no primary', 'two primaries: find out which one is right before anything is discarded'),
  ];
}

/** The worker gets no answer, and its host says that it runs, in no recovery and behind no fence: whoever reaches it writes to it. */
async function runsUnseen(step: StepRun): Promise<boolean> {
  const { host } = hostOf(step);
  if ((await hostState(host, step.signal)) !== 'running' || (await controlData(host, step.signal)).state === 'in archive recovery') return false;
  // A fresh copy shows the state of its source until it has begun.
  if ((await runOnNode(host, ['test', '-e', posix.join(host.dataDirectory, 'standby.signal')], { allowFailure: true, signal: step.signal })).code === 0) return false;
  const rules = await hostRules(host, step.signal);
  return rules === null || fenceEpoch(rules.text) === null;
}

const rebuild: StepDefinition = {
  async inspect(step) {
    const name = nodeInput(step, 'node');
    const { ok, found } = await streams(step);
    // One that streams behind a fence would refuse every application after the next promotion.
    const epoch = ok ? (await withNode(step.context, datastoreFor(step), name, readFence)).epoch : null;
    const satisfied = ok && epoch === null;
    return { satisfied, summary: satisfied ? `${name} streams already` : `${name}: ${found}${epoch === null ? '' : `, fence of epoch ${epoch}`}`, before: { found }, ...(satisfied ? { facts: { node: name, method: 'none needed' } } : {}) };
  },
  async guard(step) {
    if (optionalText(step, 'node') === undefined) return guarded([]);
    const { name, host } = hostOf(step);
    const roles = await roleChecks(step);
    const primaryStatus = await nodeStatus(step.context, datastoreFor(step), await primaryOf(step));
    const empty = await withoutFiles(host, step.signal);
    const state = empty ? 'no files' : await hostState(host, step.signal);
    const { systemIdentifier: identifier } = await controlData(host, step.signal);
    return guarded([
      ...roles,
      check('host answers', state !== 'unknown', 'pg_ctl status', state, `check nodes.${name}.exec, dataDirectory and binDirectory`),
      check('same cluster', identifier === null || identifier === primaryStatus.systemIdentifier, primaryStatus.systemIdentifier ?? '?', identifier ?? 'no control file (a base backup is taken)', `${host.dataDirectory} holds another cluster: refusing to overwrite it`),
      check('replication user', host.replication !== undefined, `nodes.${name}.replication.username`, host.replication?.username ?? 'none', `add nodes.${name}.replication`),
    ]);
  },
  async apply(step) {
    const { name, host } = hostOf(step);
    const datastore = datastoreFor(step);
    const primary = await primaryOf(step);
    // Asked again: whatever is discarded here cannot be had back.
    const wrong = (await roleChecks(step)).filter((item) => !item.ok);
    if (wrong.length > 0) throw new HoldfastError('roles-changed', wrong.map(describeCheck).join('; '), { next: 'find the primary before anything is rebuilt' });
    const rules = await hostRules(host, step.signal);
    if (rules !== null) refuseStale(rules.text, step.call.epoch, host);
    const byController = await rebuildByController(step, name, primary);
    if (byController !== null) return byController;
    const source = await adminTarget(step.context, datastore, primary, 'postgres');
    const replication = host.replication!;
    const passfile = replication.passfile === undefined ? '' : ` passfile=${conninfoValue(replication.passfile)}`;
    // With a passfile on the node no password travels there; without one the administrator's goes by environment, which ssh drops.
    const login: { user: string; env: Record<string, string> } = replication.passfile === undefined ? { user: source.user, env: { PGPASSWORD: source.password } } : { user: replication.username, env: {} };
    const address = `host=${conninfoValue(source.host)} port=${source.port} sslmode=${source.sslmode}${passfile}`;
    const settings = { primaryConninfo: `${address} user=${conninfoValue(replication.username)} application_name=${conninfoValue(name)}`, slot: replication.slot };
    const copying = `application_name=${copierName(name)}`;
    const started = step.nowMs();
    const alone = await endOrphans(step, host, name, primary);
    if (replication.slot !== undefined) await ensureSlot(step.context, datastore, primary, replication.slot);
    // A new host, or one whose disk was lost: nothing runs there that could be stopped.
    if (!(await withoutFiles(host, step.signal))) await stopOnHost(host, 'fast', step.signal);
    let method: string | null = await rewind(step, { host, alone, primary, sourceServer: `${address} user=${conninfoValue(login.user)} dbname=postgres ${copying}`, env: login.env, admin: source.user });
    if (method !== null) {
      await writeStandbySettings(step, host, settings);
      // One that went its own way behind standby.signal may not even start: its timeline is no part of the primary's history.
      const follows = await startOnHost(host, step.signal).then(() => becomesStandby(step), (error: unknown) => {
        step.log.warn({ why: messageOf(error) }, 'it does not start after that');
        step.signal.throwIfAborted();
        return false;
      });
      if (!follows) {
        step.log.warn({ method }, 'it does not stream after that; taking a base backup');
        await stopOnHost(host, 'fast', step.signal);
        method = null;
      }
    }
    if (method === null) {
      if (step.input['allowBaseBackup'] !== true) throw new HoldfastError('not-rewound', `${name} could not be brought back by pg_rewind`, { next: 'allow a base backup (allowBaseBackup: true) and run it again' });
      method = 'base backup';
      await baseBackup(step, host, alone, `${address} user=${conninfoValue(login.user)} ${copying}`, login.env);
      await writeStandbySettings(step, host, settings);
      await startOnHost(host, step.signal);
      if (!(await becomesStandby(step))) throw new HoldfastError('does-not-follow', `${name} does not stream from ${primary} after a new base backup: ${(await streams(step)).found}`, { next: `look at the server log of ${name}; check replication.username, passfile and pg_hba.conf of ${primary}` });
    }
    await openRules(step, host, name);
    return {
      outcome: 'changed',
      summary: `${name} rebuilt by ${method} from ${primary} in ${formatDuration(step.nowMs() - started)}`,
      after: { method, from: primary },
      facts: { node: name, method, rebuildMs: step.nowMs() - started },
    };
  },
  async verify(step) {
    const name = nodeInput(step, 'node');
    const datastore = datastoreFor(step);
    const primary = await primaryOf(step);
    const deadline = step.nowMs() + (step.input['wait'] as number);
    let goal: string | undefined;
    for (;;) {
      const { ok, found } = await streams(step);
      let replayed: string | null = null;
      if (ok) {
        // A position of the new timeline: a standby still on the old one streams for a moment and never gets there.
        goal ??= await committedPosition(step.context, datastore, primary);
        replayed = (await nodeStatus(step.context, datastore, name)).replayedLsn;
        if (replayed !== null && lsnDifference(replayed, goal) <= 0n) {
          return { checks: [check('streams', true, `${name} streams and has replayed ${goal}`, `${found}, ${replayed}`)], summary: `${name} streams and has caught up` };
        }
      }
      if (step.nowMs() > deadline) {
        return { checks: [check('streams', false, `${name} streams from ${primary} and has replayed ${goal ?? 'its position'}`, `${found}, replayed ${replayed ?? 'nothing'}`, `look at the server log of ${name}`)], summary: found };
      }
      await pause(100, step.signal);
    }
  },
};

/** As what pg_rewind and pg_basebackup are known on the primary. */
function copierName(node: string): string {
  return `holdfast-rebuild-${node}`;
}

/**
 * A command on the node outlives a worker that was killed: the parent-death signal ends with a change of user and with ssh. Two of
 * them in one data directory would mix their files, so what the lost try left is ended and waited for.
 * @returns the prefix under which no second one can run at the same time; empty when the host has no flock
 */
async function endOrphans(step: StepRun, host: Host, name: string, primary: string): Promise<readonly string[]> {
  const copier = copierName(name);
  await withNode(step.context, datastoreFor(step), primary, (client) => client.query('select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1', [copier]));
  const alone = ['flock', `${host.dataDirectory}.holdfast-lock`];
  const free = await runOnNode(host, [...alone, 'true'], { allowFailure: true, signal: step.signal });
  if (free.code === 0) return alone;
  step.log.warn({ why: free.stderr }, 'the host has no flock: what a lost worker left running there is not waited for');
  return [];
}

/**
 * Bring the data directory to where the timelines parted. At no moment a start by somebody else lets applications in: the
 * rules on the host carry the fence whenever standby.signal is missing.
 * @returns what was done, null when only a base backup can help
 */
async function rewind(step: StepRun, how: { host: Host; alone: readonly string[]; primary: string; sourceServer: string; env: Record<string, string>; admin: string }): Promise<string | null> {
  const { host, alone, primary, sourceServer, env, admin } = how;
  const signal = posix.join(host.dataDirectory, 'standby.signal');
  const { state } = await controlData(host, step.signal);
  if (state === null) return null;
  // A standby that was killed, or what an earlier rewind left: it mends itself by starting. pg_rewind would end its recovery
  // with a checkpoint of its own on the shared timeline, and then see nothing to rewind.
  if (state === 'in archive recovery') return 'restart';
  try {
    await fenceRules(step, host, admin);
    if (!state.startsWith('shut down')) {
      // pg_rewind first ends crash recovery in single-user mode, which refuses to run with standby.signal.
      await runOnNode(host, ['rm', '-f', signal], { signal: step.signal });
    }
    // Until its first checkpoint a promoted server's control file shows the old timeline, and pg_rewind before version 16
    // takes that for "no rewind required".
    await withNode(step.context, datastoreFor(step), primary, (client) => client.query('checkpoint'), { queryTimeoutMs: 600_000 });
    // -R leaves standby.signal at its end.
    await runOnNode(host, [...alone, nodeTool(host, 'pg_rewind'), '-R', `--target-pgdata=${host.dataDirectory}`, `--source-server=${sourceServer}`], { env, signal: step.signal });
    return 'pg_rewind';
  } catch (error) {
    step.log.warn({ why: messageOf(error) }, 'pg_rewind did not succeed');
    step.signal.throwIfAborted();
    return null;
  } finally {
    // Not cancelled with the rest: a node without it could start writable.
    await runOnNode(host, ['touch', signal]);
  }
}

/**
 * The host answers and says that the data directory is missing or empty. What it may not look into, or what holds anything at all,
 * is not empty: a server of somebody else may live there.
 */
async function withoutFiles(host: Host, signal: AbortSignal): Promise<boolean> {
  const ask = (argv: readonly string[]): ReturnType<typeof runOnNode> => runOnNode(host, argv, { allowFailure: true, signal });
  if ((await ask(['test', '-e', host.dataDirectory])).code === 1) return (await ask(['test', '-x', posix.dirname(host.dataDirectory)])).code === 0;
  const inside = await ask(['find', host.dataDirectory, '-mindepth', '1', '-maxdepth', '1', '-print', '-quit']);
  return inside.code === 0 && inside.stdout === '';
}

/** The fence in the node's own files, for whoever starts it meanwhile. Lifted by `openRules` once it is a standby. */
async function fenceRules(step: StepRun, host: Host, admin: string): Promise<void> {
  const file = posix.join(host.dataDirectory, 'pg_hba.conf');
  const hba = await runOnNode(host, ['cat', file], { allowFailure: true, signal: step.signal });
  if (hba.code === 0) await writeOnNode(host, file, withFence(hba.stdout, { admin, epoch: step.call.epoch, execution: step.call.workflowId }), step.signal);
}

/** Does it stream within a while? A node that cannot follow says so in its log and waits for ever. */
async function becomesStandby(step: StepRun): Promise<boolean> {
  const deadline = step.nowMs() + FOLLOW_MS;
  for (;;) {
    if ((await streams(step)).ok) return true;
    if (step.nowMs() > deadline) return false;
    await pause(200, step.signal);
  }
}

/** A fresh copy beside the old one; the old one is removed only when the copy is complete. */
async function baseBackup(step: StepRun, host: Host, alone: readonly string[], conninfoText: string, env: Record<string, string>): Promise<void> {
  const fresh = `${host.dataDirectory}.holdfast-new`;
  const old = `${host.dataDirectory}.holdfast-old`;
  await runOnNode(host, ['rm', '-rf', fresh], { signal: step.signal });
  await runOnNode(host, [...alone, nodeTool(host, 'pg_basebackup'), '-D', fresh, '-d', conninfoText, '-X', 'stream', '-c', 'fast', '--no-password'], { env, signal: step.signal });
  // A standby before it has its name: in its place it can never start writable.
  await runOnNode(host, ['touch', posix.join(fresh, 'standby.signal')], { signal: step.signal });
  await runOnNode(host, ['rm', '-rf', old], { signal: step.signal });
  await runOnNode(host, ['mv', host.dataDirectory, old], { allowFailure: true, signal: step.signal });
  // Still there, `mv` would put the copy inside it: a mount point cannot be moved.
  if ((await runOnNode(host, ['test', '-e', host.dataDirectory], { allowFailure: true, signal: step.signal })).code !== 1) {
    throw new HoldfastError('data-directory-busy', `${host.dataDirectory} cannot be moved out of the way (is it a mount point?); the new copy is in ${fresh}`, { next: 'make the data directory a folder below the mount point, then retry the step' });
  }
  await runOnNode(host, ['mv', fresh, host.dataDirectory], { signal: step.signal });
  await runOnNode(host, ['rm', '-rf', old], { signal: step.signal });
}

/** standby.signal first, then whom to follow; what pg_rewind or a copy brought of another node's settings goes. */
async function writeStandbySettings(step: StepRun, host: Host, settings: { primaryConninfo: string; slot: string | undefined }): Promise<void> {
  const file = (name: string): string => posix.join(host.dataDirectory, name);
  await runOnNode(host, ['touch', file('standby.signal')], { signal: step.signal });
  const auto = (await runOnNode(host, ['cat', file('postgresql.auto.conf')], { signal: step.signal })).stdout
    .split('\n')
    .filter((line) => !/^\s*(primary_conninfo|primary_slot_name|default_transaction_read_only)\s*=/.test(line))
    .filter((line) => line.trim() !== '');
  auto.push(`primary_conninfo = ${settingValue(settings.primaryConninfo)}`);
  if (settings.slot !== undefined) auto.push(`primary_slot_name = ${settingValue(settings.slot)}`);
  await writeOnNode(host, file('postgresql.auto.conf'), `${auto.join('\n')}\n`, step.signal);
}

/** It is a standby now: the fence in its rules goes, wherever they are (Debian keeps them outside the data directory). */
async function openRules(step: StepRun, host: Host, name: string): Promise<void> {
  const datastore = datastoreFor(step);
  await withNode(step.context, datastore, name, async (client) => {
    const { recovering, file } = (await client.query("select pg_is_in_recovery() as recovering, current_setting('hba_file') as file")).rows[0] as { recovering: boolean; file: string };
    if (!recovering) throw new HoldfastError('not-a-standby', `${name} started and is not in recovery: its fence stays`, { next: `stop it at once and look at ${host.dataDirectory}` });
    const hba = (await runOnNode(host, ['cat', file], { signal: step.signal })).stdout;
    const open = withoutFence(hba);
    if (open === hba) return;
    await writeOnNode(host, file, open, step.signal);
    await client.query('select pg_reload_conf()');
  });
}

export const rebuildSteps: Readonly<Record<string, StepDefinition>> = { 'postgres.rebuildStandby': rebuild };
