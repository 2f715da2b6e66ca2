import type { Socket } from 'node:net';
import pg from 'pg';
import { messageOf } from '../src/model/errors.ts';
import { formatConninfo, parseConninfo, redirectConninfo } from '../src/model/postgres-conninfo.ts';
import { MASK } from '../src/systems/log.ts';
import { adminTarget, connectPostgres } from '../src/systems/postgres.ts';
import { readFence } from '../src/systems/postgres-fence.ts';
import { nodeByServer, nodeStatus, type NodeStatus } from '../src/systems/postgres-node.ts';
import { byController, presentConninfo, quietLog, RELOADS_CONNINFO, setConninfo } from './postgres-repoint.ts';
import { datastoreFor, nodeInput, optionalText, pause, type StepRun } from './step-definition.ts';

/** Looking at the third nodes, before writes are refused. One that takes longer is not turned. */
const PREPARE_MS = 3000;
/** A third node that is slow costs refused writes no more than this; it takes some 10 ms. */
const TURN_MS = 2000;
/** The way back of one node. */
const RELEASE_MS = 3000;
/** A receiver that was being started with the old address is seen, or gone, after this. */
const STARTING_MS = 100;

const UPSTREAM_KEYS = ['host', 'hostaddr', 'port'] as const;

/** Whom a standby followed, in its own words, and the node it was turned to. Nothing secret is among them. */
type Turn = Readonly<Record<(typeof UPSTREAM_KEYS)[number], string | null>> & { readonly to: string };
/** By node. In the heartbeat before the first of them is turned, and in the facts of the step. */
type Turns = Readonly<Record<string, Turn>>;

interface Ready {
  readonly node: string;
  readonly client: pg.Client;
  /** What it connects with from then on: its own login at the candidate's address. */
  readonly conninfo: string;
}

/** The other standbys of a planned switch, about to be given everything by way of the candidate. */
interface Hold {
  readonly turns: Turns;
  /** From its end the nodes it names receive nothing from the primary. `problems`: what was not achieved, in words. */
  engage(): Promise<{ readonly turned: readonly string[]; readonly problems: readonly string[] }>;
  close(): void;
}

/**
 * After writes are refused a primary goes on writing WAL of its own: checkpoints, snapshots for standbys. What of it reached a
 * third node and not the candidate before the promotion would put that node past the fork, and it could only be rebuilt. So the
 * other standbys are turned to the candidate before: it sends no more than it has itself. Whatever takes time is done here, and
 * nothing is changed before `engage`, which is called while writes are refused and before the last WAL position is read.
 * @throws HoldfastError `journal`: what is about to be done could not be written down
 */
export async function prepareHold(step: StepRun): Promise<Hold> {
  const known = turnsIn(step.previousDetails);
  const nothing: Hold = { turns: known, engage: () => Promise.resolve({ turned: [], problems: [] }), close: () => {} };
  if (step.call.mode !== 'planned' || optionalText(step, 'candidate') === undefined) return nothing;
  const [primary, candidate] = [nodeInput(step, 'primary'), nodeInput(step, 'candidate')];
  const others = Object.keys(datastoreFor(step).nodes).filter((name) => name !== primary && name !== candidate && !byController(step, name));
  if (others.length === 0) return nothing;
  const ready: Ready[] = [];
  const problems: string[] = [];
  const turns: Record<string, Turn> = { ...known };
  const clients = new Set<pg.Client>();
  const close = (): void => {
    for (const client of clients) drop(client);
  };
  const target = await adminTarget(step.context, datastoreFor(step), candidate);
  const ofCandidate = nodeStatus(step.context, datastoreFor(step), candidate, PREPARE_MS, PREPARE_MS);
  await Promise.all(others.map(async (node) => {
    const late = new AbortController();
    const looked = lookAt(step, node, { ofCandidate, known: known[node] !== undefined, late: late.signal, keep: clients }).catch((error: unknown) => messageOf(error).split('\n')[0]!);
    const found = await within(PREPARE_MS, looked);
    if (found === undefined) late.abort();
    if (found === undefined || typeof found === 'string') problems.push(`${node} (${found ?? `no answer in ${PREPARE_MS} ms`})`);
    else if (found !== null) {
      turns[node] ??= { ...found.upstream, to: candidate };
      ready.push({ node, client: found.client, conninfo: formatConninfo(redirectConninfo(found.present, target.host, target.port)) });
    }
  }));
  try {
    step.signal.throwIfAborted();
    // Known before the first of them is changed, whatever becomes of this worker. And whoever was taken for lost meanwhile gets no further.
    await step.journal({ turns });
  } catch (error) {
    close();
    throw error;
  }
  return {
    turns,
    close,
    async engage() {
      const turned: string[] = [];
      await Promise.all(ready.map(async ({ node, client, conninfo }) => {
        const done = await within(TURN_MS, turn(step, client, conninfo, target).then(() => true, (error: unknown) => messageOf(error).split('\n')[0]!));
        if (done === true) turned.push(node);
        else {
          problems.push(`${node} (${done ?? `still another receiver after ${TURN_MS} ms`})`);
          drop(client, 0);
        }
      }));
      return { turned: turned.toSorted(), problems: problems.map((problem) => `third node not turned, it may have to be rebuilt: ${problem}`) };
    },
  };
}

/** A connection to a node that is to be turned, and whom it follows; null: it is none of those; words: why it cannot be. */
async function lookAt(step: StepRun, node: string, of: { ofCandidate: Promise<NodeStatus>; known: boolean; late: AbortSignal; keep: Set<pg.Client> }): Promise<{ client: pg.Client; present: Map<string, string>; upstream: Omit<Turn, 'to'> } | string | null> {
  const datastore = datastoreFor(step);
  const [status, { systemIdentifier }] = await Promise.all([nodeStatus(step.context, datastore, node, PREPARE_MS, PREPARE_MS), of.ofCandidate]);
  if (!status.reachable) return status.error?.split('\n')[0] ?? 'no answer';
  if (systemIdentifier === null) return 'the candidate did not answer';
  // What it is instead is said where the standbys are repointed.
  if (status.inRecovery !== true || status.systemIdentifier !== systemIdentifier) return null;
  if (!status.superuser) return 'the admin user is no superuser there';
  if ((status.serverVersion ?? 0) < RELOADS_CONNINFO) return 'before PostgreSQL 13 a restart is needed';
  // The startup process looks for another address only when it has nothing to replay. Source: WaitForWALToBecomeAvailable, xlogrecovery.c.
  if (status.replayPaused === true || (status.applyDelayMs ?? 0) > 0) return status.replayPaused === true ? 'its replay is paused' : 'it replays with a delay';
  const client = await connectPostgres(await adminTarget(step.context, datastore, node), { applicationName: 'holdfast-step', connectTimeoutMs: PREPARE_MS, queryTimeoutMs: PREPARE_MS });
  let keep = false;
  try {
    if ((await readFence(client)).epoch !== null) return null;
    const present = await presentConninfo(client);
    if (present === null) return 'its primary_conninfo is not understood';
    if (present.size === 0) return null;
    // One that gets everything from another of ours is no further than that one.
    const from = status.receiverHost !== null && status.receiverPort !== null ? nodeByServer(datastore, status.receiverHost, status.receiverPort) : nodeByServer(datastore, present.get('hostaddr') ?? present.get('host') ?? '', portOf(present));
    if (!of.known && from !== null && from !== nodeInput(step, 'primary')) return null;
    await quietLog(client);
    keep = !of.late.aborted;
    if (keep) of.keep.add(client);
    return { client, present, upstream: upstreamOf(present) };
  } finally {
    if (!keep) drop(client);
  }
}

/** The standby is told, and the receiver that was connected to somebody else is gone. As few round trips as it takes: writes are refused meanwhile. */
async function turn(step: StepRun, client: pg.Client, conninfo: string, target: { host: string; port: number }): Promise<void> {
  const started = step.nowMs();
  step.signal.throwIfAborted();
  await client.query(`alter system set primary_conninfo = ${pg.escapeLiteral(conninfo)}`);
  step.signal.throwIfAborted();
  const { pid: first } = (await client.query('select (select pid from pg_stat_wal_receiver) as pid, pg_reload_conf()')).rows[0] as { pid: number | null };
  for (;;) {
    const { text, pid, host, port } = (await client.query("select current_setting('primary_conninfo') as text, pid, sender_host as host, sender_port as port from (select) as one left join pg_stat_wal_receiver on true")).rows[0] as { text: string; pid: number | null; host: string | null; port: number | null };
    const gone = pid === null ? first !== null || step.nowMs() - started > STARTING_MS : host === target.host && port === target.port;
    const present = parseConninfo(text);
    if (gone && present !== null && pointsTo(present, target)) return;
    step.signal.throwIfAborted();
    await pause(3, step.signal);
  }
}

/** Who was turned by this step, also when its answer was lost. */
function turnsOf(step: StepRun): Turns {
  const known = turnsIn({ turns: step.call.facts['turns'] });
  return Object.keys(known).length > 0 ? known : turnsIn(step.call.lastReport);
}

/** What became of the nodes on their way back. `failed`: those that did not answer, or whose record cannot be used. */
interface Released {
  readonly changed: boolean;
  readonly texts: readonly string[];
  readonly failed: readonly string[];
}

/**
 * The way back: each standby that was turned connects to whom it did before. One that does not answer is named and holds nothing up:
 * it follows by way of the candidate until then, unless it uses a slot or the candidate stops.
 */
export async function releaseStandbys(step: StepRun, except: readonly string[] = []): Promise<Released> {
  const { nodes } = datastoreFor(step);
  const byHand = 'point its primary_conninfo back by hand; if commits wait for it (synchronous_standby_names), now';
  const results = await Promise.all(Object.entries(turnsOf(step)).filter(([node]) => !except.includes(node)).map(async ([node, back]) => {
    const failed = (why: string): { node: string; changed: false; failed: true; text: string } => ({ node, changed: false, failed: true, text: `${node} may still follow ${back.to} (${why}): ${byHand}` });
    if (![node, back.to].every((name) => Object.hasOwn(nodes, name))) return failed('it is not configured any more');
    // What looks like a secret is taken out of whatever is recorded; an address may hold the same letters.
    if (UPSTREAM_KEYS.some((key) => back[key]?.includes(MASK) === true)) return failed('whom it followed holds the letters of a secret and was not recorded');
    const late = new AbortController();
    const done = await within(RELEASE_MS, release(step, node, back, late.signal).catch((error: unknown) => failed(messageOf(error).split('\n')[0]!)));
    if (done === undefined) late.abort();
    // null: there was nothing to take back.
    return done === undefined ? failed(`no answer in ${RELEASE_MS} ms`) : done;
  }));
  const told = results.filter((result) => result !== null);
  return { changed: told.some((result) => result.changed), texts: told.map((result) => result.text), failed: told.filter((result) => result.failed).map((result) => result.node) };
}

async function release(step: StepRun, node: string, back: Turn, late: AbortSignal): Promise<{ node: string; changed: boolean; failed: boolean; text: string } | null> {
  const datastore = datastoreFor(step);
  const target = await adminTarget(step.context, datastore, back.to);
  const client = await connectPostgres(await adminTarget(step.context, datastore, node), { applicationName: 'holdfast-step', connectTimeoutMs: RELEASE_MS, queryTimeoutMs: RELEASE_MS });
  try {
    const present = await presentConninfo(client);
    // Written and not read yet by the server, the old address is still shown.
    const { text } = (await client.query("select (select setting from pg_file_settings where name = 'primary_conninfo' order by seqno desc limit 1) as text")).rows[0] as { text: string | null };
    const written = parseConninfo(text ?? '');
    if (present === null || written === null) return { node, changed: false, failed: false, text: `${node}: its primary_conninfo is not understood; it is left alone` };
    const asBefore = (conninfo: ReadonlyMap<string, string>): boolean => UPSTREAM_KEYS.every((key) => (conninfo.get(key) ?? null) === (back[key] ?? null));
    if (asBefore(present) && asBefore(written)) return null;
    if (![present, written].every((conninfo) => asBefore(conninfo) || pointsTo(conninfo, target))) return { node, changed: false, failed: false, text: `${node} was pointed elsewhere meanwhile and is left alone` };
    for (const key of UPSTREAM_KEYS) {
      const value = back[key] ?? null;
      if (value === null) present.delete(key);
      else present.set(key, value);
    }
    late.throwIfAborted();
    step.signal.throwIfAborted();
    await setConninfo(client, formatConninfo(present));
    await client.query('select pg_reload_conf()');
    return { node, changed: true, failed: false, text: `${node} follows as before` };
  } finally {
    drop(client);
  }
}

/** The result, or undefined when there is none in time; what is late is nobody's concern any more. */
async function within<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A goodbye that a server which hangs need not answer. */
function drop(client: pg.Client, afterMs = 500): void {
  void client.end().catch(() => {});
  const { stream } = (client as unknown as { connection: { stream: Socket } }).connection;
  setTimeout(() => stream.destroy(), afterMs).unref();
}

function portOf(conninfo: ReadonlyMap<string, string>): number {
  return Number(conninfo.get('port') ?? 5432);
}

function pointsTo(conninfo: ReadonlyMap<string, string>, target: { host: string; port: number }): boolean {
  return conninfo.get('host') === target.host && (conninfo.get('hostaddr') ?? '') === '' && portOf(conninfo) === target.port;
}

function upstreamOf(conninfo: ReadonlyMap<string, string>): Omit<Turn, 'to'> {
  return { host: conninfo.get('host') ?? null, hostaddr: conninfo.get('hostaddr') ?? null, port: conninfo.get('port') ?? null };
}

/** Out of what an attempt reported; an older version reported nothing of it. */
function turnsIn(report: unknown): Turns {
  const turns = typeof report === 'object' && report !== null ? (report as { turns?: unknown }).turns : undefined;
  return typeof turns === 'object' && turns !== null && !Array.isArray(turns) ? (turns as Turns) : {};
}
