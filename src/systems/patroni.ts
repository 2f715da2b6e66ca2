import { readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { Context } from './context.ts';
import { hasHostAccess, runOnNode, withNode } from './postgres-node.ts';

/**
 * Patroni as its REST interface shows it. Source: Patroni documentation, "Patroni REST API" and "Pause/Resume mode for the cluster".
 * Its dynamic configuration lies in one key of its store; a member acts on it when its next loop has read it, and shows that it
 * has in GET /patroni.
 */
export type PatroniConfig = Extract<NonNullable<PostgresDatastore['controller']>, { type: 'patroni' }>;

/** A paused member answers late while its PostgreSQL refuses it: it retries first. */
const CONNECT_MS = 3000;
const READ_MS = 10_000;
const CHANGE_MS = 15_000;
const ANSWER_LIMIT = 1_000_000;

/** What a member says of itself. */
export interface PatroniMember {
  /** Our node. */
  readonly node: string;
  /** Its name in Patroni. */
  readonly name: string;
  readonly answers: boolean;
  readonly error: string | null;
  /** Its last loop has read that the cluster is paused. */
  readonly paused: boolean;
  readonly state: string | null;
  readonly role: string | null;
  readonly timeline: number | null;
  readonly systemIdentifier: string | null;
  readonly version: string | null;
}

/** What Patroni's store says of the cluster, read by a member. */
export interface PatroniCluster {
  readonly leader: string | null;
  readonly paused: boolean;
  readonly members: readonly { readonly name: string; readonly role: string; readonly state: string; readonly timeline: number | null }[];
  readonly scheduledSwitchover: string | null;
}

/** Who paused it, as left beside the pause in Patroni's dynamic configuration. */
export interface PauseMark {
  readonly execution: string;
  readonly epoch: number;
}

export interface PatroniSettings {
  readonly paused: boolean;
  readonly mark: PauseMark | null;
  readonly loopWaitMs: number;
  readonly ttlMs: number;
}

/** Name of our key in Patroni's dynamic configuration, which keeps what it does not know. */
const MARK = 'holdfast';

export function memberName(controller: PatroniConfig, node: string): string {
  return controller.members[node]?.name ?? node;
}

export async function readMember(context: Context, controller: PatroniConfig, node: string, signal?: AbortSignal): Promise<PatroniMember> {
  const name = memberName(controller, node);
  try {
    const { body } = await call(context, controller, node, 'GET', '/patroni', { signal });
    const patroni = body['patroni'] as { version?: string } | undefined;
    if (patroni === undefined) throw new HoldfastError('no-patroni', 'something answers that is no Patroni');
    return {
      node, name, answers: true, error: null,
      paused: body['pause'] === true,
      state: textOf(body['state']),
      role: roleOf(body['role']),
      timeline: typeof body['timeline'] === 'number' ? body['timeline'] : null,
      systemIdentifier: textOf(body['database_system_identifier']),
      version: patroni.version ?? null,
    };
  } catch (error) {
    signal?.throwIfAborted();
    return { node, name, answers: false, error: messageOf(error).split('\n')[0]!, paused: false, state: null, role: null, timeline: null, systemIdentifier: null, version: null };
  }
}

export function readMembers(context: Context, controller: PatroniConfig, signal?: AbortSignal): Promise<PatroniMember[]> {
  return Promise.all(Object.keys(controller.members).map((node) => readMember(context, controller, node, signal)));
}

export async function readPatroniCluster(context: Context, controller: PatroniConfig, signal?: AbortSignal): Promise<PatroniCluster> {
  const { body } = await anyMember(context, controller, '/cluster', signal);
  return clusterOf(body);
}

export function clusterOf(body: Readonly<Record<string, unknown>>): PatroniCluster {
  const members = (body['members'] as Readonly<Record<string, unknown>>[] | undefined ?? []).map((member) => ({
    name: String(member['name']),
    role: roleOf(member['role']) ?? 'unknown',
    state: textOf(member['state']) ?? 'unknown',
    timeline: typeof member['timeline'] === 'number' ? member['timeline'] : null,
  }));
  const switchover = body['scheduled_switchover'] as { at?: string } | undefined;
  return { leader: members.find((member) => member.role === 'leader' || member.role === 'standby_leader')?.name ?? null, paused: body['pause'] === true, members, scheduledSwitchover: switchover === undefined ? null : (switchover.at ?? 'at a time it does not name') };
}

export async function readSettings(context: Context, controller: PatroniConfig, signal?: AbortSignal): Promise<PatroniSettings> {
  const { body } = await anyMember(context, controller, '/config', signal);
  return settingsOf(body);
}

export function settingsOf(body: Readonly<Record<string, unknown>>): PatroniSettings {
  const mark = body[MARK] as Partial<PauseMark> | undefined;
  const seconds = (name: string, otherwise: number): number => (typeof body[name] === 'number' ? body[name] : otherwise) * 1000;
  return {
    // As Patroni itself reads booleans; whoever writes it by hand may write text.
    paused: body['pause'] === true || ['true', 'on', 'yes', '1'].includes(String(body['pause']).toLowerCase()),
    mark: typeof mark?.execution === 'string' && typeof mark.epoch === 'number' ? { execution: mark.execution, epoch: mark.epoch } : null,
    // Defaults: Patroni documentation, "Dynamic Configuration Settings".
    loopWaitMs: seconds('loop_wait', 10),
    ttlMs: seconds('ttl', 30),
  };
}

/** Pause the cluster and say who did, in one change; resume it and take our name away. */
export async function changePause(context: Context, controller: PatroniConfig, mark: PauseMark | null, signal?: AbortSignal): Promise<PatroniSettings> {
  const change = mark === null ? { pause: null, [MARK]: null } : { pause: true, [MARK]: { ...mark } };
  for (let attempt = 1; ; attempt += 1) {
    try {
      // One that has just read the store can write to it.
      const { node } = await anyMember(context, controller, '/config', signal);
      return settingsOf((await call(context, controller, node, 'PATCH', '/config', { body: change, signal })).body);
    } catch (error) {
      // 409: somebody changed the configuration at the same time.
      if (!(error instanceof HoldfastError) || error.context['status'] !== 409 || attempt === 5) throw error;
    }
  }
}

/**
 * Have Patroni throw the node's files away and copy them anew from its leader, as `patronictl reinit`; also while it is paused.
 * Not forced: one that is under way goes on. @returns what it said
 */
export async function reinitialize(context: Context, controller: PatroniConfig, node: string, signal?: AbortSignal): Promise<string> {
  const ask = async (force: boolean): Promise<string> => {
    try {
      return (await call(context, controller, node, 'POST', '/reinitialize', { body: { force }, signal })).text;
    } catch (error) {
      if (error instanceof HoldfastError && String(error.context['said']).includes('already in progress')) return String(error.context['said']);
      throw error;
    }
  };
  const said = await ask(false);
  // Patroni tries to start what is to be thrown away, and would try for ever: only its own rebuilding is left to go on.
  return isBusyOtherwise(said) ? ask(true) : said;
}

/** Patroni refused a rebuild because of another task, not because it rebuilds already. */
export function isBusyOtherwise(said: string): boolean {
  return said.includes('already in progress') && !said.includes('reinitialize');
}

/** Removing a key that is not there changes nothing, and is refused to whom a change would be. */
export async function mayChange(context: Context, controller: PatroniConfig, node: string, signal?: AbortSignal): Promise<string | null> {
  try {
    await call(context, controller, node, 'PATCH', '/config', { body: { 'holdfast-permission': null }, signal });
    return null;
  } catch (error) {
    signal?.throwIfAborted();
    return messageOf(error).split('\n')[0]!;
  }
}

/** What shows on a server that Patroni is at work, and what it merely left there. */
export interface ControllerSigns {
  readonly node: string;
  /** It is there now. */
  readonly live: readonly string[];
  /** It is, or was once. */
  readonly traces: readonly string[];
  /** Why the node could not be asked. */
  readonly silent: string | null;
}

export const LOOKED_FOR = "sessions named Patroni, patroni.dynamic.json and postgresql.base.conf, a server started with Patroni's command line";

interface SignsRow {
  readonly sessions: readonly string[];
  readonly dynamic: boolean;
  readonly base: boolean;
  readonly options: string | null;
}

const SIGNS_SQL = `
select array(select distinct application_name || ' (' || coalesce(usename, '?') || ')' from pg_stat_activity
             where application_name ~* '^patroni' and backend_type = 'client backend') as sessions`;

/** Only a superuser may look at files. Patroni starts the server with the settings it owns as arguments, which postmaster.opts keeps. */
const FILES_SQL = `
select (pg_stat_file('patroni.dynamic.json', true)).size is not null as dynamic,
       (pg_stat_file(regexp_replace(current_setting('config_file'), '[^/]*$', 'postgresql.base.conf'), true)).size is not null as base,
       pg_read_file('postmaster.opts', 0, 20000, true) as options`;

export function signsOf(node: string, row: SignsRow): ControllerSigns {
  const traces: string[] = [];
  if (row.dynamic) traces.push('patroni.dynamic.json in its data directory');
  if (row.base) traces.push('postgresql.base.conf beside its postgresql.conf');
  if (startedByPatroni(row.options ?? '')) traces.push("a server started with Patroni's command line (postmaster.opts)");
  return { node, live: row.sessions.map((session) => `a session of ${session}`), traces, silent: null };
}

/** No packaging starts PostgreSQL with these together. Source: CMDLINE_OPTIONS in patroni/postgresql/config.py. */
function startedByPatroni(options: string): boolean {
  return ['cluster_name', 'wal_level', 'max_connections', 'track_commit_timestamp'].every((name) => options.includes(`--${name}=`));
}

export async function lookForController(context: Context, datastore: PostgresDatastore, node: string, signal?: AbortSignal): Promise<ControllerSigns> {
  try {
    return await withNode(
      context, datastore, node,
      async (client) => {
        const { sessions } = (await client.query(SIGNS_SQL)).rows[0] as { sessions: string[] };
        const { superuser } = (await client.query('select rolsuper as superuser from pg_roles where rolname = current_user')).rows[0] as { superuser: boolean };
        const files = superuser ? ((await client.query(FILES_SQL)).rows[0] as Omit<SignsRow, 'sessions'>) : { dynamic: false, base: false, options: null };
        return signsOf(node, { sessions, ...files });
      },
      { connectTimeoutMs: 3000, queryTimeoutMs: 5000 },
    );
  } catch (error) {
    const silent = messageOf(error).split('\n')[0]!;
    const host = datastore.nodes[node]!;
    if (!hasHostAccess(host)) return { node, live: [], traces: [], silent };
    const found = await runOnNode(host, ['test', '-e', `${host.dataDirectory}/patroni.dynamic.json`], { allowFailure: true, signal }).catch(() => null);
    return { node, live: [], traces: found?.code === 0 ? ['patroni.dynamic.json in its data directory'] : [], silent };
  }
}

interface CallOptions {
  readonly body?: object;
  readonly signal?: AbortSignal;
}

/** All at once, the first answer counts: a member whose machine is gone must not cost the others' time. */
async function anyMember(context: Context, controller: PatroniConfig, path: string, signal?: AbortSignal): Promise<{ node: string; body: Record<string, unknown> }> {
  const nodes = Object.keys(controller.members);
  try {
    return await Promise.any(nodes.map(async (node) => ({ node, ...(await call(context, controller, node, 'GET', path, { signal })) })));
  } catch (error) {
    signal?.throwIfAborted();
    if (!(error instanceof AggregateError)) throw error;
    const all = error.errors as Error[];
    const final = all.find((one) => !(one instanceof HoldfastError) || !one.retryable);
    if (final !== undefined) throw final;
    throw new HoldfastError('patroni-silent', all.map((one) => one.message).join('; '), { next: 'check that Patroni runs and that this worker reaches its REST interface', retryable: true });
  }
}

/** @throws HoldfastError `patroni-silent` (retryable), `patroni-refused`, with the status in its context */
async function call(context: Context, controller: PatroniConfig, node: string, method: 'GET' | 'PATCH' | 'POST', path: string, options: CallOptions): Promise<{ body: Record<string, unknown>; text: string }> {
  const url = new URL(path, controller.members[node]!.api);
  const headers: Record<string, string> = { accept: 'application/json' };
  const text = options.body === undefined ? undefined : JSON.stringify(options.body);
  if (text !== undefined) Object.assign(headers, { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) });
  if (controller.username !== undefined && controller.password !== undefined) {
    headers['authorization'] = `Basic ${Buffer.from(`${controller.username}:${await context.secrets.resolve(controller.password)}`).toString('base64')}`;
  }
  const tls = url.protocol !== 'https:' ? {} : {
    ...(controller.ca === undefined ? {} : { ca: readFileSync(controller.ca) }),
    ...(controller.certificate === undefined || controller.key === undefined ? {} : { cert: readFileSync(controller.certificate), key: await context.secrets.resolve(controller.key) }),
  };
  const what = `Patroni of ${node} (${method} ${url.origin}${path})`;
  let answer: { status: number; text: string };
  try {
    answer = await send(url, { method, headers, ...tls, signal: timeLimit(method === 'GET' ? READ_MS : CHANGE_MS, options.signal) }, text);
  } catch (error) {
    options.signal?.throwIfAborted();
    const late = error instanceof Error && (error.name === 'TimeoutError' || error.name === 'AbortError');
    throw new HoldfastError('patroni-silent', `${what} cannot be reached: ${late ? 'no answer in time' : messageOf(error)}`, { next: 'check that Patroni runs and that this worker reaches its REST interface', retryable: true });
  }
  // A read answers 503 where a load balancer should not go; the body is as good.
  const unhealthy = method === 'GET' && answer.status === 503;
  if ((answer.status < 200 || answer.status > 299) && !unhealthy) {
    const refused = answer.status === 401 || answer.status === 403;
    const said = method === 'POST' ? answer.text.slice(0, 200) : '';
    throw new HoldfastError('patroni-refused', `${what} answered ${answer.status}${said === '' ? '' : ` ${said}`}`, {
      next: refused ? "check controller.username and controller.password against restapi.authentication in Patroni's own configuration, and restapi.allowlist" : "look at this Patroni's log",
      context: { status: answer.status, said },
      // What one member cannot do (its store is out of its reach) another may.
      retryable: answer.status >= 500,
    });
  }
  // An action is answered in words.
  if (method === 'POST') return { body: {}, text: answer.text };
  try {
    return { body: JSON.parse(answer.text) as Record<string, unknown>, text: answer.text };
  } catch {
    throw new HoldfastError('patroni-shape', `${what} did not answer with JSON`, { next: 'check the address: it must be that of the REST interface', retryable: unhealthy });
  }
}

function timeLimit(ms: number, signal?: AbortSignal): AbortSignal {
  const limit = AbortSignal.timeout(ms);
  return signal === undefined ? limit : AbortSignal.any([limit, signal]);
}

/** Not `fetch`: it takes no authority of our own. Redirects are not followed. */
function send(url: URL, options: RequestOptions, body: string | undefined): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)(url, { ...options, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
        if (text.length > ANSWER_LIMIT) request.destroy(new Error('its answer is too long'));
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      response.on('error', reject);
    });
    const unconnected = setTimeout(() => request.destroy(new Error(`no connection within ${CONNECT_MS / 1000} s`)), CONNECT_MS);
    request.on('socket', (socket) => socket.once('connect', () => clearTimeout(unconnected)));
    request.on('close', () => clearTimeout(unconnected));
    request.on('error', reject);
    request.end(body);
  });
}

/** `master` until version 4. */
function roleOf(value: unknown): string | null {
  return value === 'master' ? 'primary' : textOf(value);
}

function textOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}
