import { posix } from 'node:path';
import type { Client } from 'pg';
import type { NodeConfig, PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { HostSaw } from '../model/primary-down.ts';
import { runChild, type ChildOutput } from './child.ts';
import type { Context } from './context.ts';
import { adminTarget, connectPostgres, withPostgres, type PostgresTarget } from './postgres.ts';

/** What one look at a node shows. Times are the server's own. */
export interface NodeStatus {
  readonly node: string;
  readonly reachable: boolean;
  /** It said nothing for as long as it was waited for; nothing refused us. */
  readonly timedOut: boolean;
  /** Why not, when it is not. */
  readonly error: string | null;
  /** SQLSTATE of a server that answered and did not let us in, or let us go. */
  readonly errorCode: string | null;
  readonly inRecovery: boolean | null;
  readonly systemIdentifier: string | null;
  readonly serverVersion: number | null;
  /** Standby: what it received and replayed; primary: its own position as both. */
  readonly receivedLsn: string | null;
  readonly replayedLsn: string | null;
  readonly lastCommitAt: string | null;
  /** Milliseconds since the last replayed transaction. */
  readonly replayAgeMs: number | null;
  readonly receiverStatus: string | null;
  readonly receiverHost: string | null;
  readonly receiverPort: number | null;
  /** Standby: timeline it streams, null without a stream; primary: its own. Says which primary a standby follows, whatever the addresses. */
  readonly timeline: number | null;
  /** Milliseconds since the stream last said anything; null without a stream. */
  readonly receiverSilentMs: number | null;
  /** How far the primary had got by the last message in the stream; null without one. */
  readonly announcedLsn: string | null;
  /** Standbys that stream from this node. */
  readonly followers: number | null;
  readonly replayPaused: boolean | null;
  readonly applyDelayMs: number | null;
  readonly synchronousStandbyNames: string;
  readonly readOnlyDefault: boolean;
  readonly superuser: boolean;
}

const STATUS_SQL = `
select pg_is_in_recovery() as in_recovery,
       (select system_identifier::text from pg_control_system()) as system_identifier,
       current_setting('server_version_num')::int as server_version,
       case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end::text as received,
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text as replayed,
       to_char(pg_last_xact_replay_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as last_commit_at,
       extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000 as replay_age_ms,
       (select status from pg_stat_wal_receiver) as receiver_status,
       (select sender_host from pg_stat_wal_receiver) as receiver_host,
       (select sender_port from pg_stat_wal_receiver) as receiver_port,
       case when pg_is_in_recovery() then (select received_tli from pg_stat_wal_receiver)
            else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end as timeline,
       (select extract(epoch from clock_timestamp() - last_msg_receipt_time) * 1000 from pg_stat_wal_receiver) as receiver_silent_ms,
       (select latest_end_lsn::text from pg_stat_wal_receiver) as announced,
       (select count(*) from pg_stat_replication where state = 'streaming')::int as followers,
       case when pg_is_in_recovery() then pg_is_wal_replay_paused() end as replay_paused,
       (select setting::bigint from pg_settings where name = 'recovery_min_apply_delay') as apply_delay_ms,
       current_setting('synchronous_standby_names') as synchronous_standby_names,
       (select reset_val = 'on' from pg_settings where name = 'default_transaction_read_only') as read_only_default,
       (select rolsuper from pg_roles where rolname = current_user) as superuser`;

/** Aurora's storage replicates, not its WAL: a reader has no receiver, and functions that tell WAL positions are refused there. */
const AURORA_STATUS_SQL = `
select pg_is_in_recovery() as in_recovery, null as system_identifier, current_setting('server_version_num')::int as server_version, null as received, null as replayed,
       null as last_commit_at, null as replay_age_ms, null as receiver_status, null as receiver_host, null as receiver_port, null as timeline, null as receiver_silent_ms, null as announced,
       null as followers, null as replay_paused, null as apply_delay_ms, '' as synchronous_standby_names,
       (select reset_val = 'on' from pg_settings where name = 'default_transaction_read_only') as read_only_default,
       (select rolsuper from pg_roles where rolname = current_user) as superuser`;

/** Milliseconds of a look, and of one that comes after one without an answer in time. */
const LOOK = { connectTimeoutMs: 3000, queryTimeoutMs: 5000 } as const;
const SECOND_LOOK = { connectTimeoutMs: 4000, queryTimeoutMs: 6000 } as const;

/** Look at a node; an unreachable one is a finding, not an error. */
export async function nodeStatus(context: Context, datastore: PostgresDatastore, node: string, connectTimeoutMs: number = LOOK.connectTimeoutMs, queryTimeoutMs: number = LOOK.queryTimeoutMs): Promise<NodeStatus> {
  const began = performance.now();
  try {
    return await withNode(context, datastore, node, (client) => statusOf(client, node, (datastore.managed?.type ?? 'rds') === 'rds' ? STATUS_SQL : AURORA_STATUS_SQL), { connectTimeoutMs, queryTimeoutMs });
  } catch (error) {
    const errorCode = sqlStateOf(error);
    return {
      node, reachable: false, timedOut: errorCode === null && performance.now() - began >= connectTimeoutMs, error: messageOf(error), errorCode, inRecovery: null, systemIdentifier: null, serverVersion: null, receivedLsn: null, replayedLsn: null,
      lastCommitAt: null, replayAgeMs: null, receiverStatus: null, receiverHost: null, receiverPort: null, timeline: null, receiverSilentMs: null, announcedLsn: null, followers: null, replayPaused: null, applyDelayMs: null,
      synchronousStandbyNames: '', readOnlyDefault: false, superuser: false,
    };
  }
}

/** What was seen, or, when there was no answer in time, what a second and longer look shows. */
export async function lookAgain(context: Context, datastore: PostgresDatastore, seen: NodeStatus): Promise<NodeStatus> {
  return seen.timedOut ? nodeStatus(context, datastore, seen.node, SECOND_LOOK.connectTimeoutMs, SECOND_LOOK.queryTimeoutMs) : seen;
}

/** Look at a node of which it would be held against the whole run that it does not answer: a busy one is not a lost one. */
export async function patientStatus(context: Context, datastore: PostgresDatastore, node: string): Promise<NodeStatus> {
  return lookAgain(context, datastore, await nodeStatus(context, datastore, node));
}

/** SQLSTATE of what a server said; null when it said nothing (no connection, no answer in time). */
function sqlStateOf(error: unknown): string | null {
  const code = error instanceof HoldfastError ? error.context['sqlstate'] : (error as { code?: unknown }).code;
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : null;
}

export async function statusOf(client: Client, node: string, sql = STATUS_SQL): Promise<NodeStatus> {
  const row = (await client.query(sql)).rows[0] as Record<string, unknown>;
  return {
    node,
    reachable: true,
    timedOut: false,
    error: null,
    errorCode: null,
    inRecovery: row['in_recovery'] as boolean,
    systemIdentifier: row['system_identifier'] as string,
    serverVersion: row['server_version'] as number,
    receivedLsn: row['received'] as string | null,
    replayedLsn: row['replayed'] as string | null,
    lastCommitAt: row['last_commit_at'] as string | null,
    replayAgeMs: row['replay_age_ms'] === null ? null : Number(row['replay_age_ms']),
    receiverStatus: row['receiver_status'] as string | null,
    receiverHost: row['receiver_host'] as string | null,
    receiverPort: row['receiver_port'] as number | null,
    timeline: row['timeline'] as number | null,
    receiverSilentMs: row['receiver_silent_ms'] === null ? null : Number(row['receiver_silent_ms']),
    announcedLsn: row['announced'] as string | null,
    followers: row['followers'] as number | null,
    replayPaused: row['replay_paused'] as boolean | null,
    applyDelayMs: row['apply_delay_ms'] === null ? null : Number(row['apply_delay_ms']),
    synchronousStandbyNames: row['synchronous_standby_names'] as string,
    readOnlyDefault: row['read_only_default'] as boolean,
    superuser: row['superuser'] as boolean,
  };
}

/** An administrative connection to a node; the session may write even where the default is read-only. */
export async function withNode<T>(
  context: Context,
  datastore: PostgresDatastore,
  node: string,
  work: (client: Client) => Promise<T>,
  options: { connectTimeoutMs?: number; queryTimeoutMs?: number; database?: string } = {},
): Promise<T> {
  const target = await adminTarget(context, datastore, node, options.database);
  return withPostgres(target, work, { applicationName: 'holdfast-step', connectTimeoutMs: options.connectTimeoutMs, queryTimeoutMs: options.queryTimeoutMs ?? 60_000 });
}

/**
 * A WAL position of the primary that every standby can reach. An idle primary leaves its last WAL page half written: what is
 * flushed may end within a record, which no standby can replay. An empty commit ends it; nothing else is changed.
 */
export async function committedPosition(context: Context, datastore: PostgresDatastore, primary: string): Promise<string> {
  return withNode(context, datastore, primary, async (client) => {
    await client.query('begin read write');
    await client.query('set local synchronous_commit = local');
    await client.query('select pg_current_xact_id()');
    await client.query('commit');
    return ((await client.query('select pg_current_wal_flush_lsn()::text as lsn')).rows[0] as { lsn: string }).lsn;
  });
}

/** The physical replication slot of a standby: none comes with a promotion, and without it the standby does not stream. It keeps nothing back before the standby has come. */
export async function ensureSlot(context: Context, datastore: PostgresDatastore, primary: string, slot: string): Promise<void> {
  await withNode(context, datastore, primary, (client) => client.query('select pg_create_physical_replication_slot($1, false) where not exists (select from pg_replication_slots where slot_name = $1)', [slot]));
}

/** Bytes from `from` to `to`; negative when `to` is behind. */
export function lsnDifference(from: string, to: string): bigint {
  return lsnValue(to) - lsnValue(from);
}

export function lsnValue(lsn: string): bigint {
  const match = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i.exec(lsn);
  if (match === null) throw new HoldfastError('lsn-shape', `"${lsn}" is no WAL position`, { next: 'expected two hexadecimal numbers such as 0/3000148' });
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
}

/**
 * Why a standby cannot follow a primary: it has WAL that is not in the primary's history. null: it can. The history says where each
 * earlier timeline was left. Source: PostgreSQL documentation, 26.3.6 "Timelines".
 */
export function beyondFork(primary: { history: string; timeline: number }, standby: { timeline: number; lsn: string }): string | null {
  if (standby.timeline === primary.timeline) return null;
  for (const line of primary.history.split('\n')) {
    const parted = /^(\d+)\t([0-9A-F]+\/[0-9A-F]+)/i.exec(line);
    if (parted === null || Number(parted[1]) !== standby.timeline) continue;
    const ahead = lsnDifference(parted[2]!, standby.lsn);
    return ahead > 0n ? `it has ${ahead} bytes of WAL of timeline ${standby.timeline} beyond ${parted[2]!}, where the new primary parted from it` : null;
  }
  return `its timeline ${standby.timeline} is not in the history of timeline ${primary.timeline}`;
}

/** Name of the WAL segment that holds a position. Source: PostgreSQL's XLogFileName, access/xlog_internal.h. */
export function walFileName(timeline: number, lsn: string, segmentBytes: number): string {
  const segment = lsnValue(lsn) / BigInt(segmentBytes);
  const perId = 0x1_0000_0000n / BigInt(segmentBytes);
  const hex = (value: bigint): string => value.toString(16).toUpperCase().padStart(8, '0');
  return `${hex(BigInt(timeline))}${hex(segment / perId)}${hex(segment % perId)}`;
}

/** The address applications reach a node by. */
export function applicationAddress(node: NodeConfig): { host: string; port: number } {
  return { host: node.applicationHost ?? node.host, port: node.applicationPort ?? node.port };
}

/** Run a command on the node's host by its `exec` prefix. */
export async function runOnNode(
  node: NodeConfig,
  argv: readonly string[],
  options: { input?: string; env?: Record<string, string>; signal?: AbortSignal; allowFailure?: boolean } = {},
): Promise<ChildOutput> {
  return runChild([...(node.exec ?? []), ...argv], { ...options, killAfterMs: 10_000 });
}

/**
 * Put new text into a file on the node's host. Beside it first: `tee` empties the file before the text has come, and a worker or a
 * connection that is lost in between would leave rules that are empty or cut off. `cp` keeps owner and mode, and follows a link.
 */
export async function writeOnNode(node: NodeConfig & { dataDirectory: string }, file: string, text: string, signal?: AbortSignal): Promise<void> {
  const fresh = posix.join(node.dataDirectory, 'holdfast-new.conf');
  await runOnNode(node, ['tee', fresh], { input: text, signal });
  await runOnNode(node, ['cp', fresh, file], { signal });
  await runOnNode(node, ['rm', '-f', fresh], { signal });
}

/** True when files and processes of the node can be reached by `exec`. */
export function hasHostAccess(node: NodeConfig): node is NodeConfig & { dataDirectory: string } {
  return node.dataDirectory !== undefined;
}

export function nodeTool(node: NodeConfig, tool: string): string {
  return node.binDirectory === undefined ? tool : posix.join(node.binDirectory, tool);
}

/** `running`, `stopped`, or `unknown` when the host cannot be asked. Source: pg_ctl status exits with 0, 3, 4. */
export async function hostState(node: NodeConfig & { dataDirectory: string }, signal?: AbortSignal): Promise<'running' | 'stopped' | 'unknown'> {
  const answer = await runOnNode(node, [nodeTool(node, 'pg_ctl'), '-D', node.dataDirectory, 'status'], { allowFailure: true, signal });
  if (answer.code === 0) return (await isOurs(node, signal)) ? 'running' : 'stopped';
  return answer.code === 3 ? 'stopped' : 'unknown';
}

/** What pg_controldata says of the node's files; null for what it does not say (no files, no control file, another host's fault). */
export interface ControlData {
  readonly systemIdentifier: string | null;
  /** E.g. `in production`, `shut down`, `in archive recovery`. */
  readonly state: string | null;
  /** Of the latest checkpoint: a promoted server shows the timeline before its own until its first one. */
  readonly timeline: number | null;
  readonly segmentBytes: number | null;
}

export async function controlData(node: NodeConfig & { dataDirectory: string }, signal?: AbortSignal): Promise<ControlData> {
  const { stdout } = await runOnNode(node, ['env', 'LC_ALL=C', nodeTool(node, 'pg_controldata'), node.dataDirectory], { allowFailure: true, signal });
  const line = (label: string): string | null => stdout.split('\n').find((text) => text.startsWith(`${label}:`))?.slice(label.length + 1).trim() ?? null;
  const number = (label: string): number | null => (line(label) === null ? null : Number(line(label)));
  return {
    systemIdentifier: line('Database system identifier'),
    state: line('Database cluster state'),
    timeline: number("Latest checkpoint's TimeLineID"),
    segmentBytes: number('Bytes per WAL segment'),
  };
}

/**
 * pg_ctl only asks whether the process of postmaster.pid is alive. After a reboot that number may belong to another server, which
 * must not be stopped for this one; and a dead postmaster counts as alive until its parent has collected it, which in a container
 * without an init never happens. Where there is no /proc, pg_ctl is believed.
 */
async function isOurs(node: NodeConfig & { dataDirectory: string }, signal?: AbortSignal): Promise<boolean> {
  const pid = await postmasterPid(node, signal);
  if (pid === null) return true;
  const stat = await runOnNode(node, ['cat', `/proc/${pid}/stat`], { allowFailure: true, signal });
  if (/\) Z /.test(stat.stdout)) return false;
  // The postmaster works in its data directory.
  const at = await runOnNode(node, ['readlink', '-f', `/proc/${pid}/cwd`, node.dataDirectory], { allowFailure: true, signal });
  const [cwd, directory] = at.stdout.trim().split('\n');
  return at.code !== 0 || directory === undefined || cwd === directory;
}

async function postmasterPid(node: NodeConfig & { dataDirectory: string }, signal?: AbortSignal): Promise<string | null> {
  const pid = (await pidFile(node, signal))[0];
  return pid !== undefined && /^\d+$/.test(pid) ? pid : null;
}

/** Lines of postmaster.pid. Source: PostgreSQL documentation, 73.1: pid, data directory, start time, port, socket directory, listen address, ... */
async function pidFile(node: NodeConfig & { dataDirectory: string }, signal?: AbortSignal): Promise<string[]> {
  return (await runOnNode(node, ['cat', posix.join(node.dataDirectory, 'postmaster.pid')], { allowFailure: true, signal })).stdout.split('\n').map((line) => line.trim());
}

/** pg_isready as run on a node's host: does a server at this address take connections? null when that could not be asked. */
export async function readiness(node: NodeConfig, address: { host: string; port: number | string }, signal?: AbortSignal): Promise<'accepts' | 'rejects' | 'silent' | null> {
  const answer = await runOnNode(node, [nodeTool(node, 'pg_isready'), '-h', address.host, '-p', String(address.port), '-t', '3'], { allowFailure: true, signal }).catch(() => null);
  return answer?.code === 0 ? 'accepts' : answer?.code === 1 ? 'rejects' : answer?.code === 2 ? 'silent' : null;
}

/** What the host of a primary says of it. `systemIdentifier`: of the cluster it should be; another one's files say nothing. */
export async function hostWord(node: NodeConfig, systemIdentifier: string | null, signal?: AbortSignal): Promise<HostSaw> {
  if (!hasHostAccess(node)) return { state: 'none' };
  try {
    const state = await hostState(node, signal);
    if (state === 'unknown') return { state: 'unknown', detail: 'pg_ctl status gave no answer' };
    const control = await controlData(node, signal);
    if (control.systemIdentifier === null) return { state: 'unknown', detail: `no control file in ${node.dataDirectory}` };
    if (systemIdentifier !== null && control.systemIdentifier !== systemIdentifier) return { state: 'other-cluster', detail: `${node.dataDirectory} holds the cluster ${control.systemIdentifier}, not ${systemIdentifier}` };
    if (state === 'stopped') return { state: 'stopped' };
    const [, , , port, socket, listen] = await pidFile(node, signal);
    const host = socket !== undefined && socket !== '' ? socket : listen === '*' || listen === '0.0.0.0' ? '127.0.0.1' : listen;
    if (host === undefined || host === '' || port === undefined) return { state: 'unknown', detail: 'postmaster.pid does not say where it listens' };
    const word = await readiness(node, { host, port }, signal);
    if (word === 'accepts' && control.state === 'in archive recovery') return { state: 'recovery' };
    return word === null ? { state: 'unknown', detail: 'pg_isready could not be run' } : { state: word };
  } catch (error) {
    return { state: 'unknown', detail: messageOf(error).split('\n')[0]! };
  }
}

/**
 * Why the files that are configured for a node are not this cluster's: another server's state says nothing of it, and stopping that one
 * stops nothing here. Known by what the other nodes that answer belong to; null when they are this cluster's, or nobody can say.
 */
export async function foreignFiles(context: Context, datastore: PostgresDatastore, name: string, signal?: AbortSignal): Promise<string | null> {
  const node = datastore.nodes[name]!;
  if (!hasHostAccess(node)) return null;
  const [own, others] = await Promise.all([
    controlData(node, signal).then(({ systemIdentifier }) => systemIdentifier, () => null),
    Promise.all(Object.keys(datastore.nodes).filter((other) => other !== name).map((other) => nodeStatus(context, datastore, other))),
  ]);
  signal?.throwIfAborted();
  const known = others.map((status) => status.systemIdentifier).filter((identifier) => identifier !== null);
  return own === null || known.length === 0 || known.includes(own) ? null : `${node.dataDirectory} holds the cluster ${own}, not ${known[0]}`;
}

/**
 * The timeline of the newest WAL a standby has, whether it streams or not: a position is only worth comparing on one timeline.
 * Needs a superuser or pg_monitor.
 */
export async function walTimeline(client: Client): Promise<number | null> {
  const row = (await client.query("select greatest((select received_tli from pg_stat_wal_receiver), (select max(('x' || substr(name, 1, 8))::bit(32)::int) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$')) as timeline")).rows[0] as { timeline: number | null };
  return row.timeline;
}

/** Stop the server on its host; not running is fine. `immediate` for what must not write another byte. */
export async function stopOnHost(node: NodeConfig & { dataDirectory: string }, mode: 'fast' | 'immediate', signal?: AbortSignal): Promise<void> {
  if ((await hostState(node, signal)) === 'stopped') return;
  const argv = mode === 'fast' && node.stop !== undefined ? node.stop : [nodeTool(node, 'pg_ctl'), '-D', node.dataDirectory, '-m', mode, '-w', '-t', mode === 'fast' ? '60' : '5', 'stop'];
  await runOnNode(node, argv, { allowFailure: true, signal });
  let state = await hostState(node, signal);
  if (state === 'running' && mode === 'immediate') {
    // A stopped or hung process does not hear SIGQUIT. Its children end with it.
    const pid = await postmasterPid(node, signal);
    if (pid !== null) await runOnNode(node, [nodeTool(node, 'pg_ctl'), 'kill', 'KILL', pid], { allowFailure: true, signal });
    for (let round = 0; round < 50 && state === 'running'; round += 1) {
      await new Promise((resolve) => {
        setTimeout(resolve, 100);
      });
      state = await hostState(node, signal);
    }
  }
  if (state !== 'stopped') {
    throw new HoldfastError('node-not-stopped', `the server in ${node.dataDirectory} is ${state} after it was told to stop`, { next: 'stop it by hand on its host, then retry the step', retryable: true });
  }
}

export async function startOnHost(node: NodeConfig & { dataDirectory: string }, signal?: AbortSignal): Promise<void> {
  if ((await hostState(node, signal)) === 'running') return;
  const argv = node.start ?? [nodeTool(node, 'pg_ctl'), '-D', node.dataDirectory, '-l', posix.join(node.dataDirectory, 'holdfast-start.log'), '-w', '-t', '120', 'start'];
  await runOnNode(node, argv, { signal });
}

/** The node an address belongs to, null when it is none of ours. */
export function nodeByAddress(datastore: PostgresDatastore, host: string, port: number): string | null {
  for (const [name, node] of Object.entries(datastore.nodes)) {
    const address = applicationAddress(node);
    if (address.host === host && address.port === port) return name;
  }
  return null;
}

/** The node that a server's own address belongs to, as workers and standbys reach it. */
export function nodeByServer(datastore: PostgresDatastore, host: string, port: number): string | null {
  return Object.entries(datastore.nodes).find(([, node]) => node.host === host && node.port === port)?.[0] ?? nodeByAddress(datastore, host, port);
}

/** The rules of a server as its host has them, running or not: Debian keeps them outside the data directory. null when they are not found. */
export async function hostRules(node: NodeConfig & { dataDirectory: string }, signal?: AbortSignal): Promise<{ file: string; text: string } | null> {
  // How it was started last, options and all. Source: PostgreSQL documentation, 73.1, postmaster.opts.
  const opts = (await runOnNode(node, ['cat', posix.join(node.dataDirectory, 'postmaster.opts')], { allowFailure: true, signal })).stdout.trim();
  const program = /^\S+/.exec(opts)?.[0];
  const files: string[] = [];
  if (program !== undefined) {
    const given = [...opts.matchAll(/"([^"]*)"/g)].map((match) => match[1]!);
    const at = given.some((argument) => argument.startsWith('-D')) ? [] : ['-D', node.dataDirectory];
    const asked = await runOnNode(node, [program, ...at, ...given, '-C', 'hba_file'], { allowFailure: true, signal });
    const file = asked.stdout.trim().split('\n').at(-1) ?? '';
    if (asked.code === 0 && file.startsWith('/')) files.push(file);
  }
  for (const file of [...files, posix.join(node.dataDirectory, 'pg_hba.conf')]) {
    const text = await runOnNode(node, ['cat', file], { allowFailure: true, signal });
    if (text.code === 0) return { file, text: text.stdout };
  }
  return null;
}

export async function openNode(context: Context, datastore: PostgresDatastore, node: string): Promise<{ client: Client; target: PostgresTarget }> {
  const target = await adminTarget(context, datastore, node);
  return { target, client: await connectPostgres(target, { applicationName: 'holdfast-step', queryTimeoutMs: 60_000 }) };
}
