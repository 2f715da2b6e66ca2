import { posix } from 'node:path';
import type { NodeConfig } from '../src/model/config-schema.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { formatDuration } from '../src/model/units.ts';
import { readEndpoint } from '../src/systems/endpoint.ts';
import { adminTarget } from '../src/systems/postgres.ts';
import { withoutFence } from '../src/systems/postgres-fence.ts';
import { hasHostAccess, hostState, lsnDifference, nodeByAddress, nodeStatus, nodeTool, runOnNode, startOnHost, stopOnHost, withNode } from '../src/systems/postgres-node.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

type Host = NodeConfig & { dataDirectory: string };

function hostOf(step: StepRun): { name: string; host: Host } {
  const name = nodeInput(step, 'node');
  const node = datastoreFor(step).nodes[name]!;
  if (!hasHostAccess(node)) throw new HoldfastError('no-host-access', `node ${name} has no dataDirectory: it cannot be rebuilt`, { next: `give nodes.${name}.dataDirectory and, on another host, exec` });
  return { name, host: node };
}

async function primaryOf(step: StepRun): Promise<string> {
  if (optionalText(step, 'primary') !== undefined) return nodeInput(step, 'primary');
  const datastore = datastoreFor(step);
  if (datastore.endpoint === undefined) throw new HoldfastError('primary-unknown', 'no primary is named and there is no endpoint secret', { next: 'give the parameter primary' });
  const endpoint = await readEndpoint(step.context, datastore.endpoint.secret);
  const found = nodeByAddress(datastore, endpoint.host, endpoint.port);
  if (found === null) throw new HoldfastError('primary-unknown', `the application's secret points to ${endpoint.host}:${endpoint.port}, which is no node of ours`, { next: 'correct the secret or the node addresses' });
  return found;
}

/** Streams from the wanted primary and replays. */
async function streams(step: StepRun): Promise<{ ok: boolean; found: string }> {
  const datastore = datastoreFor(step);
  const name = nodeInput(step, 'node');
  const primary = datastore.nodes[(await primaryOf(step))]!;
  const status = await nodeStatus(step.context, datastore, name);
  if (!status.reachable) return { ok: false, found: status.error?.split('\n')[0] ?? 'no answer' };
  if (status.inRecovery !== true) return { ok: false, found: 'not in recovery' };
  return { ok: status.receiverStatus === 'streaming' && status.receiverPort === primary.port, found: status.receiverStatus === null ? 'no WAL receiver' : `${status.receiverStatus} from ${status.receiverHost}:${status.receiverPort}` };
}

const rebuild: StepDefinition = {
  async inspect(step) {
    const { ok, found } = await streams(step);
    return { satisfied: ok, summary: ok ? `${nodeInput(step, 'node')} streams already` : `${nodeInput(step, 'node')}: ${found}`, before: { found }, ...(ok ? { facts: { node: nodeInput(step, 'node'), method: 'none needed' } } : {}) };
  },
  async guard(step) {
    if (optionalText(step, 'node') === undefined) return guarded([]);
    const { name, host } = hostOf(step);
    const primary = (await primaryOf(step));
    const datastore = datastoreFor(step);
    const primaryStatus = await nodeStatus(step.context, datastore, primary);
    const state = await hostState(host, step.signal);
    const control = await controlData(step, host);
    const identifier = /^Database system identifier:\s+(\d+)/m.exec(control)?.[1] ?? null;
    return guarded([
      check('another node', name !== primary, 'not the primary itself', name),
      check('primary writable', primaryStatus.inRecovery === false, `${primary} is the primary`, primaryStatus.reachable ? 'in recovery' : (primaryStatus.error ?? 'no answer')),
      check('host answers', state !== 'unknown', 'pg_ctl status', state, `check nodes.${name}.exec, dataDirectory and binDirectory`),
      check('same cluster', identifier === null || identifier === primaryStatus.systemIdentifier, primaryStatus.systemIdentifier ?? '?', identifier ?? 'no control file (a base backup is taken)', `${host.dataDirectory} holds another cluster: refusing to overwrite it`),
      check('replication user', host.replication !== undefined, `nodes.${name}.replication.username`, host.replication?.username ?? 'none', `add nodes.${name}.replication`),
    ]);
  },
  async apply(step) {
    const { name, host } = hostOf(step);
    const datastore = datastoreFor(step);
    const primary = (await primaryOf(step));
    const status = await nodeStatus(step.context, datastore, primary);
    if (status.inRecovery !== false) throw new HoldfastError('primary-lost', `${primary} is not a writable primary now: ${status.error ?? 'in recovery'}`, { next: 'find the primary before anything is rebuilt', retryable: true });
    const source = await adminTarget(step.context, datastore, primary, 'postgres');
    const replication = host.replication!;
    const passfile = replication.passfile === undefined ? '' : ` passfile=${conninfo(replication.passfile)}`;
    // With a passfile on the node no password travels there; without one the administrator's goes by environment, which ssh drops.
    const login: { user: string; env: Record<string, string> } = replication.passfile === undefined ? { user: source.user, env: { PGPASSWORD: source.password } } : { user: replication.username, env: {} };
    const started = step.nowMs();
    await stopOnHost(host, 'fast', step.signal);
    const tool = (program: string): string => nodeTool(host, program);
    let method = 'pg_rewind';
    try {
      // pg_rewind ends crash recovery in single-user mode, which refuses to run with standby.signal.
      await runOnNode(host, ['rm', '-f', posix.join(host.dataDirectory, 'standby.signal')], { signal: step.signal });
      // Until its first checkpoint a promoted server's control file shows the old timeline, and pg_rewind before version 16
      // takes that for "no rewind required".
      await withNode(step.context, datastore, primary, (client) => client.query('checkpoint'), { queryTimeoutMs: 600_000 });
      await runOnNode(
        host,
        [tool('pg_rewind'), `--target-pgdata=${host.dataDirectory}`, `--source-server=host=${conninfo(source.host)} port=${source.port} user=${conninfo(login.user)} dbname=postgres sslmode=${source.sslmode}${passfile}`],
        { env: login.env, signal: step.signal },
      );
    } catch (error) {
      step.signal.throwIfAborted();
      await runOnNode(host, ['touch', posix.join(host.dataDirectory, 'standby.signal')], { signal: step.signal, allowFailure: true });
      if (step.input['allowBaseBackup'] !== true) throw error;
      step.log.warn({ why: messageOf(error) }, 'pg_rewind did not succeed; taking a base backup');
      method = 'base backup';
      await baseBackup(step, host, `host=${conninfo(source.host)} port=${source.port} user=${conninfo(login.user)} sslmode=${source.sslmode}${passfile}`, login.env);
    }
    const primaryConninfo = `host=${conninfo(source.host)} port=${source.port} user=${conninfo(replication.username)} application_name=${conninfo(name)} sslmode=${source.sslmode}${passfile}`;
    await writeStandbySettings(step, host, primaryConninfo);
    await startOnHost(host, step.signal);
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
    let goal: string | null = null;
    for (;;) {
      const { ok, found } = await streams(step);
      let replayed: string | null = null;
      if (ok) {
        // A position of the new timeline: a standby still on the old one streams for a moment and never gets there.
        goal ??= (await nodeStatus(step.context, datastore, primary)).replayedLsn;
        replayed = (await nodeStatus(step.context, datastore, name)).replayedLsn;
        if (goal !== null && replayed !== null && lsnDifference(replayed, goal) <= 0n) {
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

async function controlData(step: StepRun, host: Host): Promise<string> {
  return (await runOnNode(host, [nodeTool(host, 'pg_controldata'), host.dataDirectory], { allowFailure: true, env: { LC_ALL: 'C' }, signal: step.signal })).stdout;
}

/** A fresh copy beside the old one; the old one is removed only when the copy is complete. */
async function baseBackup(step: StepRun, host: Host, conninfoText: string, env: Record<string, string>): Promise<void> {
  const fresh = `${host.dataDirectory}.holdfast-new`;
  const old = `${host.dataDirectory}.holdfast-old`;
  await runOnNode(host, ['rm', '-rf', fresh], { signal: step.signal });
  await runOnNode(host, [nodeTool(host, 'pg_basebackup'), '-D', fresh, '-d', conninfoText, '-X', 'stream', '-c', 'fast', '--no-password'], { env, signal: step.signal });
  await runOnNode(host, ['rm', '-rf', old], { signal: step.signal });
  await runOnNode(host, ['mv', host.dataDirectory, old], { signal: step.signal });
  await runOnNode(host, ['mv', fresh, host.dataDirectory], { signal: step.signal });
  await runOnNode(host, ['rm', '-rf', old], { signal: step.signal });
}

/** standby.signal first, then who to follow, then the fence's own lines go: at no moment could it start writable. */
async function writeStandbySettings(step: StepRun, host: Host, primaryConninfo: string): Promise<void> {
  const file = (name: string): string => posix.join(host.dataDirectory, name);
  await runOnNode(host, ['touch', file('standby.signal')], { signal: step.signal });
  const auto = (await runOnNode(host, ['cat', file('postgresql.auto.conf')], { signal: step.signal })).stdout
    .split('\n')
    .filter((line) => !/^\s*(primary_conninfo|primary_slot_name|default_transaction_read_only)\s*=/.test(line))
    .filter((line) => line.trim() !== '');
  auto.push(`primary_conninfo = '${primaryConninfo.replaceAll("'", "''")}'`);
  if (host.replication?.slot !== undefined) auto.push(`primary_slot_name = '${host.replication.slot.replaceAll("'", "''")}'`);
  await runOnNode(host, ['tee', file('postgresql.auto.conf')], { input: `${auto.join('\n')}\n`, signal: step.signal });
  const hba = await runOnNode(host, ['cat', file('pg_hba.conf')], { allowFailure: true, signal: step.signal });
  if (hba.code === 0) {
    const open = withoutFence(hba.stdout);
    if (open !== hba.stdout) await runOnNode(host, ['tee', file('pg_hba.conf')], { input: open, signal: step.signal });
  }
}

/** A value in a libpq connection string. */
function conninfo(value: string): string {
  return /^[\w.:/-]+$/.test(value) ? value : `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}

export const rebuildSteps: Readonly<Record<string, StepDefinition>> = { 'postgres.rebuildStandby': rebuild };
