import type pg from 'pg';
import { messageOf } from '../src/model/errors.ts';
import { formatConninfo, redirectConninfo } from '../src/model/postgres-conninfo.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { adminTarget, connectPostgres } from '../src/systems/postgres.ts';
import { readFence } from '../src/systems/postgres-fence.ts';
import { nodeStatus } from '../src/systems/postgres-node.ts';
import { byController, presentConninfo, RELOADS_CONNINFO, setConninfo } from './postgres-repoint.ts';
import { datastoreFor, nodeInput, optionalText, pause, type StepRun } from './step-definition.ts';

/** A third node that is slow costs writes no more than this. */
const HOLD_MS = 2000;
const CONNECT_MS = 2000;
const QUERY_MS = 3000;
/** A receiver that was being started with the old address is seen, or gone, after this. */
const STARTING_MS = 100;

/** Where a standby connected to, in its own words. Nothing secret is among them. */
type Upstream = Readonly<Record<'host' | 'hostaddr' | 'port', string | null>>;
type Upstreams = Readonly<Record<string, Upstream>>;

const UPSTREAM_KEYS = ['host', 'hostaddr', 'port'] as const;

interface Held {
  readonly node: string;
  readonly client: pg.Client;
}

/** The other standbys of a planned switch, about to be given everything by way of the candidate. */
export interface Hold {
  /** Where they connected to, for the way back. */
  readonly from: Upstreams;
  /** From its end no WAL reaches them from the primary. @returns what was not achieved, in words */
  engage(): Promise<string[]>;
  close(): Promise<void>;
}

/**
 * After writes are refused a primary goes on writing WAL of its own: checkpoints, snapshots for standbys. What of it reached a
 * third node and not the candidate before the promotion would put that node past the fork, and it could only be rebuilt. So the
 * other standbys are turned to the candidate before: it sends no more than it has itself. Whatever takes time is done here, and
 * nothing is changed before `engage`, which is called while writes are refused and before the last WAL position is read.
 */
export async function prepareHold(step: StepRun): Promise<Hold> {
  const datastore = datastoreFor(step);
  const known = heldBefore(step.previousDetails);
  if (step.call.mode !== 'planned' || optionalText(step, 'candidate') === undefined) return { from: known, engage: () => Promise.resolve([]), close: () => Promise.resolve() };
  const candidate = nodeInput(step, 'candidate');
  const primary = nodeInput(step, 'primary');
  const target = await adminTarget(step.context, datastore, candidate);
  const others = Object.keys(datastore.nodes).filter((name) => name !== primary && name !== candidate && !byController(step, name));
  if (others.length === 0) return { from: known, engage: () => Promise.resolve([]), close: () => Promise.resolve() };
  const { systemIdentifier } = await nodeStatus(step.context, datastore, candidate);
  const held: Held[] = [];
  const limits: string[] = [];
  const from: Record<string, Upstream> = { ...known };
  const close = async (): Promise<void> => void (await Promise.all(held.map(({ client }) => client.end().catch(() => {}))));
  try {
    await Promise.all(others.map(async (node) => {
      const status = await nodeStatus(step.context, datastore, node, CONNECT_MS, QUERY_MS);
      // What it is instead is said where the standbys are repointed.
      if (!status.reachable || status.inRecovery !== true || status.systemIdentifier !== systemIdentifier) return;
      if (!status.superuser || (status.serverVersion ?? 0) < RELOADS_CONNINFO) {
        limits.push(`${node} still receives from ${primary} (${status.superuser ? 'before PostgreSQL 13 a restart is needed' : 'the admin user is no superuser there'})`);
        return;
      }
      try {
        const client = await connect(step, node);
        held.push({ node, client });
        const present = (await readFence(client)).epoch === null ? await presentConninfo(client) : null;
        const follows = present !== null && present.size > 0 && (known[node] !== undefined || !pointsTo(present, target));
        if (!follows) {
          held.splice(held.findIndex((item) => item.node === node), 1);
          await client.end();
          return;
        }
        from[node] ??= upstreamOf(present);
      } catch (error) {
        limits.push(`${node} still receives from ${primary} (${messageOf(error)})`);
      }
    }));
    // Known before the first of them is changed, whatever becomes of this worker.
    if (held.length > 0) await step.journal({ held: from });
  } catch (error) {
    await close();
    throw error;
  }
  return {
    from,
    close,
    engage: async () => {
      const late = await Promise.all(held.map(({ node, client }) => turn(step, client, target).then((done) => (done ? [] : [`${node} still receives from ${primary} after ${HOLD_MS} ms`]), (error: unknown) => [`${node} still receives from ${primary} (${messageOf(error)})`])));
      return [...limits, ...late.flat()];
    },
  };
}

/** The standby is told, and the receiver that was connected to somebody else is gone. */
async function turn(step: StepRun, client: pg.Client, target: { host: string; port: number }): Promise<boolean> {
  const started = step.nowMs();
  const before = await presentConninfo(client);
  if (before === null) return false;
  await setConninfo(client, formatConninfo(redirectConninfo(before, target.host, target.port)));
  const { pid: first } = (await client.query('select (select pid from pg_stat_wal_receiver) as pid, pg_reload_conf()')).rows[0] as { pid: number | null };
  for (;;) {
    const present = await presentConninfo(client);
    const { pid, host, port } = (await client.query('select pid, sender_host as host, sender_port as port from (select) as one left join pg_stat_wal_receiver on true')).rows[0] as { pid: number | null; host: string | null; port: number | null };
    const gone = pid === null ? first !== null || step.nowMs() - started > STARTING_MS : host === target.host && port === target.port;
    if (gone && present !== null && pointsTo(present, target)) return true;
    if (step.nowMs() - started > HOLD_MS) return false;
    step.signal.throwIfAborted();
    await pause(3, step.signal);
  }
}

/**
 * The way back, once writes are let in again: each standby that was turned connects to whom it did before. It follows by way of the
 * candidate until then, so that one that does not answer is named and holds nothing up.
 */
export async function releaseStandbys(step: StepRun): Promise<string[]> {
  const held = heldBefore({ held: step.call.facts['held'] ?? heldBefore(step.call.lastReport) });
  const candidate = optionalText(step, 'candidate');
  if (candidate === undefined) return [];
  const target = await adminTarget(step.context, datastoreFor(step), nodeInput(step, 'candidate'));
  return Promise.all(Object.entries(held).map(async ([node, upstream]) => {
    try {
      const client = await connect(step, node);
      try {
        const present = await presentConninfo(client);
        // Written and not yet read by the server, it still shows the old address: written again all the same.
        if (present === null || !(pointsTo(present, target) || UPSTREAM_KEYS.every((key) => (present.get(key) ?? null) === upstream[key]))) return `${node} was pointed elsewhere meanwhile and is left alone`;
        for (const key of UPSTREAM_KEYS) {
          if (upstream[key] === null) present.delete(key);
          else present.set(key, upstream[key]);
        }
        await setConninfo(client, formatConninfo(present));
        await client.query('select pg_reload_conf()');
        return `${node} follows as before`;
      } finally {
        await client.end().catch(() => {});
      }
    } catch (error) {
      return `${node} still follows ${candidate} (${messageOf(error).split('\n')[0]!}): point its primary_conninfo back by hand`;
    }
  }));
}

async function connect(step: StepRun, node: string): Promise<pg.Client> {
  return connectPostgres(await adminTarget(step.context, datastoreFor(step), node), { applicationName: 'holdfast-step', connectTimeoutMs: CONNECT_MS, queryTimeoutMs: QUERY_MS });
}

function pointsTo(conninfo: ReadonlyMap<string, string>, target: { host: string; port: number }): boolean {
  return conninfo.get('host') === target.host && conninfo.get('hostaddr') === undefined && (conninfo.get('port') ?? '5432') === String(target.port);
}

function upstreamOf(conninfo: ReadonlyMap<string, string>): Upstream {
  return { host: conninfo.get('host') ?? null, hostaddr: conninfo.get('hostaddr') ?? null, port: conninfo.get('port') ?? null };
}

/** Out of what an attempt reported; an answer of an older version has nothing of it. */
function heldBefore(report: unknown): Upstreams {
  const held = typeof report === 'object' && report !== null ? (report as { held?: Json }).held : undefined;
  return typeof held === 'object' && held !== null && !Array.isArray(held) ? (held as unknown as Upstreams) : {};
}
