import pg from 'pg';
import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { registerSecret } from '../src/systems/log.ts';
import { adminTarget } from '../src/systems/postgres.ts';
import { formatConninfo, parseConninfo, redirectConninfo } from '../src/model/postgres-conninfo.ts';
import { readFence } from '../src/systems/postgres-fence.ts';
import { beyondFork, ensureSlot, lsnValue, nodeStatus, walTimeline, withNode, type NodeStatus } from '../src/systems/postgres-node.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, type StepDefinition, type StepRun } from './step-definition.ts';

/** A reload takes primary_conninfo from this version on. */
export const RELOADS_CONNINFO = 130_000;

const NONE = 'there is no other standby';

/** What is to be done with a node that is neither the new primary nor the old one. */
type Finding = { readonly node: string; readonly is: 'following' | 'to repoint' } | { readonly node: string; readonly is: 'left alone' | 'to rebuild'; readonly why: string };

/** Patroni writes where its replicas stream from itself; a setting of ours beside it would stay and win. */
export function byController(step: StepRun, node: string): boolean {
  const { controller } = datastoreFor(step);
  return controller?.type === 'patroni' && Object.hasOwn(controller.members, node);
}

function others(step: StepRun): string[] {
  const primary = nodeInput(step, 'primary');
  return Object.keys(datastoreFor(step).nodes).filter((name) => name !== primary && name !== optionalText(step, 'old'));
}

async function look(step: StepRun): Promise<Finding[]> {
  const datastore = datastoreFor(step);
  const primary = nodeInput(step, 'primary');
  const source = await nodeStatus(step.context, datastore, primary);
  if (source.inRecovery !== false || source.timeline === null) throw new HoldfastError('no-primary', `${primary} is no primary: ${source.error ?? 'in recovery'}`, { next: 'nothing is repointed to a standby', retryable: true });
  const history = await withNode(step.context, datastore, primary, async (client) => {
    const row = (await client.query("select pg_read_file('pg_wal/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) || '.history', 0, 65536, true) as text")).rows[0] as { text: string | null };
    return row.text ?? '';
  });
  return Promise.all(others(step).map(async (node) => findingOf(step, node, { history, timeline: source.timeline!, systemIdentifier: source.systemIdentifier })));
}

async function findingOf(step: StepRun, node: string, primary: { history: string; timeline: number; systemIdentifier: string | null }): Promise<Finding> {
  const datastore = datastoreFor(step);
  const status = await nodeStatus(step.context, datastore, node);
  if (!status.reachable) return { node, is: 'left alone', why: `it does not answer (${status.error?.split('\n')[0] ?? ''})` };
  if (status.inRecovery !== true) return { node, is: 'left alone', why: 'it is not in recovery' };
  if (status.systemIdentifier !== primary.systemIdentifier) return { node, is: 'left alone', why: 'it belongs to another cluster' };
  if (status.receiverStatus === 'streaming' && status.timeline === primary.timeline) return { node, is: 'following' };
  if (byController(step, node)) return { node, is: 'left alone', why: 'Patroni has it follow its leader' };
  const { epoch, timeline } = await withNode(step.context, datastore, node, async (client) => ({ epoch: (await readFence(client)).epoch, timeline: await walTimeline(client) }));
  if (epoch !== null) return { node, is: 'left alone', why: `it is fenced (epoch ${epoch})` };
  const why = timeline === null ? 'its timeline is not known' : beyondFork(primary, { timeline, lsn: furthest(status) });
  return why === null ? { node, is: 'to repoint' } : { node, is: 'to rebuild', why };
}

function furthest(status: NodeStatus): string {
  const [first, second] = [status.receivedLsn, status.replayedLsn].filter((lsn) => lsn !== null);
  return second === undefined || lsnValue(first!) > lsnValue(second) ? (first ?? '0/0') : second;
}

function describe(findings: readonly Finding[]): string {
  const of = (is: Finding['is']): Finding[] => findings.filter((item) => item.is === is);
  const parts = [
    of('following').map((item) => `${item.node} follows`),
    of('to repoint').map((item) => `${item.node} does not follow yet`),
    findings.flatMap((item) => (item.is === 'to rebuild' ? [`${item.node} cannot follow: ${item.why}; rebuild it: holdfast run standby-rebuild --parameter node=${item.node}`] : item.is === 'left alone' ? [`${item.node} is left alone: ${item.why}`] : [])),
  ].flat();
  return parts.join('; ');
}

/** Whom the standby connects to, and as whom. The values may hold a password: they are given to nobody. */
export async function presentConninfo(client: pg.Client): Promise<Map<string, string> | null> {
  const { text } = (await client.query("select current_setting('primary_conninfo') as text")).rows[0] as { text: string };
  const present = parseConninfo(text);
  const password = present?.get('password');
  if (password !== undefined) registerSecret(password);
  return present;
}

/** Where the standby connects now, with its own login, at the address of `to`. The text may hold a password: it is given to nobody. */
async function redirected(step: StepRun, client: pg.Client, node: string, to: string): Promise<string> {
  const datastore = datastoreFor(step);
  const present = await presentConninfo(client);
  const { host, port, sslmode } = await adminTarget(step.context, datastore, to);
  if (present !== null && present.size > 0) return formatConninfo(redirectConninfo(present, host, port));
  const replication = datastore.nodes[node]!.replication;
  if (replication === undefined) throw new HoldfastError('no-login', `primary_conninfo of ${node} is ${present === null ? 'not understood' : 'empty'}`, { next: `configure nodes.${node}.replication, or set primary_conninfo by hand` });
  return formatConninfo(new Map(Object.entries({ host, port: String(port), user: replication.username, sslmode, application_name: node, ...(replication.passfile === undefined ? {} : { passfile: replication.passfile }) })));
}

/** Our statements must not stand in a server log: they may hold a password. That the server itself logs a changed parameter when it reads its files cannot be kept from here: a passfile holds the password better. */
export async function quietLog(client: pg.Client): Promise<void> {
  await client.query("set log_statement = 'none'; set log_min_duration_statement = -1; set log_min_error_statement = 'panic'");
}

export async function setConninfo(client: pg.Client, conninfo: string): Promise<void> {
  await quietLog(client);
  await client.query(`alter system set primary_conninfo = ${pg.escapeLiteral(conninfo)}`);
}

async function repointNode(step: StepRun, node: string): Promise<void> {
  const datastore = datastoreFor(step);
  await withNode(step.context, datastore, node, async (client) => {
    const conninfo = await redirected(step, client, node, nodeInput(step, 'primary'));
    const { slot: present } = (await client.query("select current_setting('primary_slot_name') as slot")).rows[0] as { slot: string };
    const slot = datastore.nodes[node]!.replication?.slot ?? present;
    if (slot !== '') await ensureSlot(step.context, datastore, nodeInput(step, 'primary'), slot);
    await setConninfo(client, conninfo);
    if (slot !== present) await client.query(`alter system set primary_slot_name = ${pg.escapeLiteral(slot)}`);
    await client.query('select pg_reload_conf()');
  });
}

const repoint: StepDefinition = {
  async inspect(step) {
    // Asked before anything changes too: the candidate is a standby itself then.
    const source = await nodeStatus(step.context, datastoreFor(step), nodeInput(step, 'primary'));
    if (source.inRecovery === true) return { satisfied: false, summary: `${source.node} is not promoted yet` };
    const findings = await look(step);
    const satisfied = findings.every((item) => item.is !== 'to repoint');
    return { satisfied, summary: describe(findings) || NONE, before: findings as unknown as Json, ...(satisfied ? { facts: factsOf(findings) } : {}) };
  },
  async guard(step) {
    if (optionalText(step, 'primary') === undefined) return guarded([]);
    const datastore = datastoreFor(step);
    const checks: CheckResult[] = [];
    for (const node of others(step)) {
      if (byController(step, node)) continue;
      const status = await nodeStatus(step.context, datastore, node);
      if (!status.reachable || status.inRecovery !== true) continue;
      const login = status.superuser
        ? await withNode(step.context, datastore, node, (client) => redirected(step, client, node, nodeInput(step, 'primary'))).then(() => null, (error: unknown) => messageOf(error))
        : 'the admin user is not superuser';
      const fits = (status.serverVersion ?? 0) >= RELOADS_CONNINFO;
      // A lost primary is not left without a successor for a third node's sake.
      checks.push(check(`${node} can be repointed`, step.call.mode === 'forced' || (login === null && fits), 'PostgreSQL 13 or later, a superuser, and a login for replication that is understood', login ?? (fits ? 'yes' : `version ${status.serverVersion}`), `mend it, or take ${node} out of the configuration`));
    }
    return guarded(checks);
  },
  async apply(step) {
    const findings = await look(step);
    const told: string[] = [];
    const failed: string[] = [];
    for (const { node, is } of findings) {
      if (is !== 'to repoint') continue;
      try {
        await repointNode(step, node);
        told.push(node);
      } catch (error) {
        // The others and the fence come first; the node is named here and by the check of the remaining standbys.
        failed.push(`${node}: ${messageOf(error)}`);
      }
    }
    return {
      outcome: told.length > 0 ? 'changed' : 'already-satisfied',
      summary: [told.length === 0 ? '' : `${told.join(', ')} told to follow ${nodeInput(step, 'primary')}`, failed.length === 0 ? '' : `not repointed: ${failed.join('; ')}`, describe(findings.filter((item) => item.is !== 'to repoint'))].filter((part) => part !== '').join('; ') || NONE,
      after: { told, failed },
    };
  },
  /** Says who follows. That somebody does not is judged by postgres.verifyLag, after the old primary is fenced for good: nothing may wait for a third node before. */
  async verify(step) {
    const deadline = step.nowMs() + (step.input['wait'] as number);
    for (;;) {
      const findings = await look(step);
      if (findings.every((item) => item.is !== 'to repoint') || step.nowMs() > deadline) return { checks: [], summary: describe(findings) || NONE, facts: factsOf(findings) };
      await pause(100, step.signal);
    }
  },
};

function factsOf(findings: readonly Finding[]): Record<string, Json> {
  return {
    following: findings.filter((item) => item.is === 'following').map((item) => item.node),
    notFollowing: findings.filter((item) => item.is !== 'following').map((item) => ({ node: item.node, is: item.is, why: 'why' in item ? item.why : 'it does not stream yet' })),
  };
}

export const repointSteps: Readonly<Record<string, StepDefinition>> = { 'postgres.repointStandbys': repoint };
