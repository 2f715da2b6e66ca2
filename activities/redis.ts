import { createHash } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { formatDuration } from '../src/model/units.ts';
import { otherClients, redisOf, redisState, redisTarget, sentinelsOf, withRedis, type Redis, type RedisState, type RedisTarget } from '../src/systems/redis.ts';
import {
  differsBy, emptySubstitute, findSnapshot, foundKeys, readMark, readSnapshotHead, restoreSnapshot, snapshotFolder, storeSnapshot, type RestoredCounts, type SnapshotFolder,
} from '../src/systems/redis-substitute.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';
import { warmUp } from './warm-up.ts';

const POLL_MS = 100;

function targetFor(step: StepRun, input: string): Promise<RedisTarget> {
  return redisTarget(step.context, textInput(step, 'datastore'), textInput(step, input));
}

function folderFor(step: StepRun): Promise<SnapshotFolder> {
  const name = textInput(step, 'datastore');
  return snapshotFolder(step.context, name, redisOf(step.context, name));
}

/** What the server says, or why it says nothing. */
async function look<T>(target: RedisTarget, step: StepRun, work: (client: Redis) => Promise<T>): Promise<{ readonly found: T; readonly error: null } | { readonly found: null; readonly error: string }> {
  try {
    return { found: await withRedis(target, work, step.signal), error: null };
  } catch (error) {
    step.signal.throwIfAborted();
    if (error instanceof HoldfastError) return { found: null, error: error.message };
    throw error;
  }
}

function answers(target: RedisTarget, error: string | null): CheckResult {
  return check(`Redis ${target.node} answers`, error === null, `a reply from ${target.host}:${target.port}`, error ?? 'answers', 'check nodes, password and tls of the datastore, and that the server runs');
}

function newer(one: string, other: string): boolean {
  const [a, b] = [one, other].map((version) => version.split('.').map(Number));
  return a![0]! > b![0]! || (a![0] === b![0] && (a![1] ?? 0) > (b![1] ?? 0));
}

// ---------------------------------------------------------------- snapshot

/** Derived from the step's key, so that a killed attempt's file is found. */
function snapshotName(step: StepRun): string {
  return `${textInput(step, 'datastore')}-${createHash('sha256').update(step.call.key).digest('hex').slice(0, 16)}.rdb`;
}

async function storedSnapshot(step: StepRun): Promise<PhaseResult | null> {
  const folder = await folderFor(step);
  const name = snapshotName(step);
  const stored = await folder.store.head(folder.prefix + name);
  if (stored === undefined) return null;
  return { satisfied: true, outcome: 'already-satisfied', summary: `${name} is stored (${stored.bytes} bytes)`, facts: { snapshot: name, bytes: stored.bytes } };
}

const snapshot: StepDefinition = {
  async inspect(step) {
    return (await storedSnapshot(step)) ?? { satisfied: false, summary: 'not taken yet' };
  },
  async guard(step) {
    const target = await targetFor(step, 'node');
    const { found: state, error } = await look(target, step, redisState);
    const folder = await folderFor(step);
    await folder.store.head(`${folder.prefix}holdfast-none`);
    return guarded([answers(target, error), ...(state === null ? [] : [check('no cluster', !state.cluster, 'a server that holds all keys', state.cluster ? 'one shard of a cluster' : 'all keys', 'have the cloud take snapshots of a cluster')])]);
  },
  async apply(step) {
    const before = await storedSnapshot(step);
    if (before !== null) return before;
    const [target, folder, name] = [await targetFor(step, 'node'), await folderFor(step), snapshotName(step)];
    const summary = await storeSnapshot(target, folder, folder.prefix + name, step.signal, (bytes) => step.heartbeat({ bytes })).catch(async (error: unknown) => {
      // The attempt before it was only slow.
      if (error instanceof HoldfastError && error.code === 'object-exists') return null;
      throw error;
    });
    if (summary === null) return (await storedSnapshot(step))!;
    return {
      outcome: 'changed',
      summary: `${name}: ${summary.keys} keys, ${summary.bytes} bytes of ${target.node} in ${folder.store.describe()}`,
      after: { snapshot: name, keys: summary.keys },
      facts: { snapshot: name, keys: summary.keys, bytes: summary.bytes, snapshotAtMs: summary.createdAtMs ?? step.nowMs() },
    };
  },
  async verify(step) {
    // What the store gives back is what would be restored: it is read as far as its head, its end was checked on the way in.
    const folder = await folderFor(step);
    const name = snapshotName(step);
    const found = await findSnapshot(folder, name);
    const head = await readSnapshotHead(folder, found, step.signal);
    const bytes = step.call.facts['bytes'];
    return guarded([
      check('the store has it', bytes === undefined || found.bytes === bytes, `${String(bytes ?? 'some')} bytes`, `${found.bytes} bytes`, 'take it again'),
      check('it is a snapshot', head.redisVersion !== null, 'an RDB file', `of Redis ${head.redisVersion ?? '?'}`),
    ]);
  },
};

// ---------------------------------------------------------------- substitute

function substituteFacts(counts: RestoredCounts): Record<string, string | number> {
  return { ...counts };
}

function healthChecks(step: StepRun, state: RedisState): CheckResult[] {
  const policy = optionalText(step, 'maxmemoryPolicy');
  return [
    check('role', state.role === 'master', 'master', state.role === 'master' ? 'master' : `replica of ${state.masterHost}:${state.masterPort}`, 'promote it (redis.promote) instead of filling it'),
    check('no cluster', !state.cluster, 'a server that holds all keys', state.cluster ? 'one shard of a cluster' : 'all keys', 'clusters are not supported here: have the cloud restore its own snapshot'),
    check('loaded', !state.loading, 'not loading', state.loading ? 'loads a file' : 'loaded', 'wait until it has loaded'),
    ...(policy === undefined ? [] : [check('maxmemory-policy', state.maxmemoryPolicy === policy, policy, state.maxmemoryPolicy, `set it: CONFIG SET maxmemory-policy ${policy}, or in the parameter group`)]),
  ];
}

const substitute: StepDefinition = {
  async inspect(step) {
    const target = await targetFor(step, 'node');
    const { found, error } = await look(target, step, async (client) => ({ state: await redisState(client), mark: await readMark(client) }));
    if (found === null) return { satisfied: false, summary: error };
    const { state, mark } = found;
    if (step.input['from'] === 'cold') {
      const empty = state.role === 'master' && state.keys === 0 && !state.loading;
      return { satisfied: empty, summary: empty ? `${target.node} is an empty primary` : `${target.node} is ${state.role} with ${state.keys} keys`, before: { keys: state.keys, role: state.role } };
    }
    if (mark?.key === step.call.key && mark.state === 'done' && mark.counts !== undefined) return { satisfied: true, summary: `${target.node} holds ${mark.snapshot} already`, facts: substituteFacts(mark.counts) };
    return { satisfied: false, summary: `${target.node} is ${state.role} with ${state.keys} keys`, before: { keys: state.keys, role: state.role } };
  },
  async guard(step) {
    const target = await targetFor(step, 'node');
    const { found, error } = await look(target, step, async (client) => ({ state: await redisState(client), mark: await readMark(client) }));
    const checks = [answers(target, error)];
    if (found !== null) {
      const { state, mark } = found;
      const ours = mark?.key === step.call.key;
      checks.push(...healthChecks(step, state), check('empty', state.keys === 0 || ours, 'no key', state.keys === 0 ? 'no key' : ours ? `${state.keys} keys of this execution` : `${state.keys} keys`, 'check that it is the right server; empty it by hand (FLUSHALL) only when it serves nobody'));
    }
    if (step.input['from'] === 'cold') return guarded(checks);
    const folder = await folderFor(step);
    const wanted = textInput(step, 'snapshot');
    const snapshot = await findSnapshot(folder, wanted).catch((problem: unknown) => {
      if (problem instanceof HoldfastError && problem.code === 'snapshot-missing') return problem.message;
      throw problem;
    });
    if (typeof snapshot === 'string') return guarded([...checks, check('snapshot', false, wanted === 'newest' ? 'at least one' : wanted, snapshot, 'take one (redis.snapshot), copy one there, or use `from: cold`')]);
    const head = await readSnapshotHead(folder, snapshot, step.signal).catch((problem: unknown) => {
      if (problem instanceof HoldfastError && problem.code === 'rdb-broken') return problem.message;
      throw problem;
    });
    if (typeof head === 'string') return guarded([...checks, check('snapshot', false, 'an RDB file', `${snapshot.name}: ${head}`, 'name another one by `snapshot`')]);
    const ageMs = step.nowMs() - (head.createdAtMs ?? snapshot.modifiedMs);
    const maxAge = step.input['maxAge'] as number | undefined;
    checks.push(check('age of the snapshot', maxAge === undefined || ageMs <= maxAge, maxAge === undefined ? 'any' : `at most ${formatDuration(maxAge)}`, `${snapshot.name}: ${formatDuration(Math.max(0, ageMs))}`, 'use `from: cold`, or accept the age'));
    if (found !== null) {
      if (head.redisVersion !== null) checks.push(check('version', !newer(head.redisVersion, found.state.version), `Redis ${head.redisVersion} or newer`, found.state.version, 'use a server at least as new as the one that wrote the snapshot'));
      if (head.usedMemory !== null && found.state.maxmemory > 0) checks.push(check('memory', head.usedMemory <= found.state.maxmemory, `${head.usedMemory} bytes, as the snapshot's server used`, `maxmemory ${found.state.maxmemory}`, 'give it as much memory as the lost one had'));
    }
    return guarded(checks);
  },
  async apply(step) {
    const target = await targetFor(step, 'node');
    if (step.input['from'] === 'cold') return { outcome: 'already-satisfied', summary: `${target.node} stays as it is: cold` };
    const folder = await folderFor(step);
    const mark = await withRedis(target, readMark, step.signal);
    if (mark?.key === step.call.key && mark.state === 'done' && mark.counts !== undefined) return { outcome: 'already-satisfied', summary: `${target.node} holds ${mark.snapshot} already`, facts: substituteFacts(mark.counts) };
    // A killed attempt had chosen one; a newer one would only be another choice, but it was approved as this.
    const chosen = await findSnapshot(folder, mark?.key === step.call.key ? mark.snapshot : textInput(step, 'snapshot'));
    const counts = await restoreSnapshot(target, folder, chosen, { key: step.call.key, signal: step.signal, nowMs: step.nowMs, report: step.heartbeat });
    return {
      outcome: 'changed',
      summary: `${counts.keys} keys of ${chosen.name} (${formatDuration(counts.snapshotAgeMs)} old) restored into ${target.node} in ${formatDuration(counts.restoreMs)}; ${counts.expiredBefore} had expired`,
      after: { keys: counts.keys, snapshot: chosen.name },
      facts: substituteFacts(counts),
    };
  },
  async verify(step) {
    const target = await targetFor(step, 'node');
    const { found, error } = await look(target, step, async (client) => ({ state: await redisState(client), mark: await readMark(client), clients: await otherClients(client).catch(() => null) }));
    if (found === null) return guarded([answers(target, error)]);
    const { state, mark, clients } = found;
    const checks = [answers(target, null), ...healthChecks(step, state)];
    const { facts } = step.call;
    if (step.input['from'] === 'cold') {
      checks.push(check('empty', state.keys === 0, 'no key', `${state.keys} keys`, 'somebody writes to it already: find out who'));
      return { ...guarded(checks), summary: `${target.node} is a healthy, empty primary: cold` };
    }
    const counts = { keys: Number(facts['keys']), expiredKeys: Number(facts['expiredKeys']), runId: String(facts['runId']) };
    const keys = foundKeys(state, mark);
    const difference = differsBy(state, mark, counts);
    if (difference === null) {
      const atLeast = counts.keys - Number(facts['expiring']);
      checks.push(check('keys', keys >= atLeast && keys <= counts.keys, `${atLeast} to ${counts.keys}: it was restarted, and lost its count of expired keys`, String(keys), 'it does not keep its keys over a restart: retry the step, which fills it again'));
    } else {
      const expired = state.expiredKeys - counts.expiredKeys;
      checks.push(check('keys', difference === 0, `${counts.keys} restored, less ${expired} expired since`, String(keys), difference > 0 ? 'somebody writes to it already: find out who' : 'keys were deleted: find out who, then retry'));
      checks.push(check('nothing evicted', state.evictedKeys === Number(facts['evictedKeys']), '0 keys', `${state.evictedKeys - Number(facts['evictedKeys'])} keys`, 'give it as much memory as the lost one had'));
    }
    const minimum = Number(step.input['minimumKeys']);
    checks.push(check('enough keys', counts.keys >= minimum, `at least ${minimum}`, String(counts.keys), 'the snapshot holds too little: name another one'));
    return { ...guarded(checks), summary: `${keys} keys in ${target.node}; ${clients === null ? 'whether others are connected could not be asked' : `${clients} other client(s) connected`}` };
  },
  async undo(step) {
    const target = await targetFor(step, 'node');
    if (step.input['from'] === 'cold') return { outcome: 'already-satisfied', summary: `nothing was put into ${target.node}` };
    switch (await emptySubstitute(target, step.call.key, step.signal)) {
      case 'emptied':
        return { outcome: 'changed', summary: `${target.node} is empty again` };
      case 'not-ours':
        return { outcome: 'already-satisfied', summary: `${target.node} holds nothing of this execution` };
      default:
        throw new HoldfastError('redis-written-to', `Redis ${target.node} holds more than was restored into it: somebody uses it, so it is not emptied`, { next: 'find out who writes to it; empty it by hand (FLUSHALL) once nobody does' });
    }
  },
};

// ---------------------------------------------------------------- promote

interface Pair {
  readonly primary: { readonly target: RedisTarget; readonly state: RedisState | null; readonly error: string | null };
  readonly candidate: { readonly target: RedisTarget; readonly state: RedisState | null; readonly error: string | null };
}

async function pair(step: StepRun): Promise<Pair> {
  const [primary, candidate] = await Promise.all(
    ['primary', 'candidate'].map(async (role) => {
      const target = await targetFor(step, role);
      const { found, error } = await look(target, step, redisState);
      return { target, state: found, error };
    }),
  );
  return { primary: primary!, candidate: candidate! };
}

/** The replica as its master knows it: FAILOVER takes no other name. */
async function knownAs(master: RedisState, target: RedisTarget): Promise<{ host: string; port: number; online: boolean; offset: number } | undefined> {
  const here = master.replicas.filter((replica) => replica.port === target.port);
  const direct = here.find((replica) => replica.host === target.host);
  if (direct !== undefined) return direct;
  const addresses = await lookup(target.host, { all: true }).catch(() => []);
  return here.find((replica) => addresses.some(({ address }) => address === replica.host));
}

const promoted = (now: Pair): boolean => now.candidate.state?.role === 'master';
/** The old one follows the new one: it takes no write. By the id of what they replicate, since addresses differ behind NAT and by name. */
const follows = (now: Pair): boolean => now.primary.state?.role === 'replica' && now.candidate.state !== null && now.primary.state.replicationId === now.candidate.state.replicationId;

const promote: StepDefinition = {
  async inspect(step) {
    const now = await pair(step);
    const done = promoted(now) && (follows(now) || (step.call.mode === 'forced' && now.primary.state === null));
    return {
      satisfied: done,
      summary: `${now.candidate.target.node} is ${now.candidate.state?.role ?? 'silent'}, ${now.primary.target.node} is ${now.primary.state?.role ?? 'silent'}`,
      before: { candidate: now.candidate.state?.role ?? null, primary: now.primary.state?.role ?? null },
      ...(done ? { facts: { promotedAtMs: step.nowMs() } } : {}),
    };
  },
  async guard(step) {
    if (optionalText(step, 'primary') === undefined || optionalText(step, 'candidate') === undefined) return guarded([]);
    const now = await pair(step);
    const { primary, candidate } = now;
    const checks = [answers(candidate.target, candidate.error)];
    const planned = step.call.mode === 'planned';
    if (planned) checks.push(answers(primary.target, primary.error));
    if (candidate.state === null || (planned && primary.state === null)) return guarded(checks);
    if (promoted(now) && (follows(now) || !planned)) return guarded([...checks, check('roles', true, `${candidate.target.node} is the primary`, 'already')]);
    checks.push(check('candidate', candidate.state.role === 'replica', `a replica of ${primary.target.node}`, candidate.state.role === 'replica' ? `replica of ${candidate.state.masterHost}:${candidate.state.masterPort}` : 'master', 'name the replica as candidate'));
    const sentinels = await look(candidate.target, step, sentinelsOf);
    checks.push(check('no Sentinel', sentinels.found?.length === 0, 'none connected', sentinels.found === null ? sentinels.error : sentinels.found.join(', ') || 'none', 'two controllers must never act at once: let Sentinel do it (SENTINEL FAILOVER <name>), or have it forget this master (SENTINEL REMOVE <name>) first'));
    if (!planned) {
      checks.push(check('the primary is gone', primary.state?.role !== 'master', `${primary.target.node} does not answer as a primary`, primary.state === null ? 'silent' : primary.state.role, 'use mode planned while it answers: nothing is lost then'));
      return guarded(checks);
    }
    const known = await knownAs(primary.state!, candidate.target);
    const lag = known === undefined ? null : primary.state!.offset - known.offset;
    const maxLag = Number(step.input['maxLagBytes']);
    checks.push(
      check('primary', primary.state!.role === 'master', 'master', primary.state!.role, 'name the present primary'),
      check('replication', known?.online === true && candidate.state.linkUp, `${candidate.target.node} is an online replica of ${primary.target.node}`, known === undefined ? 'not among its replicas' : known.online ? 'online' : 'not online', 'wait until it has caught up'),
      check('lag', lag !== null && lag <= maxLag, `at most ${maxLag} bytes`, lag === null ? 'unknown' : `${lag} bytes`, 'wait until it has caught up'),
      check('no failover under way', primary.state!.failover === 'no-failover', 'no-failover', primary.state!.failover, 'wait for it, or end it: FAILOVER ABORT'),
    );
    return guarded(checks);
  },
  async apply(step) {
    const now = await pair(step);
    if (promoted(now) && follows(now)) return { outcome: 'already-satisfied', summary: `${now.candidate.target.node} is the primary, ${now.primary.target.node} follows it`, facts: { promotedAtMs: step.nowMs(), offset: now.candidate.state!.offset } };
    return step.call.mode === 'planned' ? handOver(step, now.primary.target, now.candidate.target) : force(step, now);
  },
  async verify(step) {
    const deadline = step.nowMs() + 20_000;
    for (;;) {
      const now = await pair(step);
      const silent = now.primary.state === null;
      const harmless = follows(now) || (step.call.mode === 'forced' && silent);
      const checks = [
        answers(now.candidate.target, now.candidate.error),
        check('new primary', promoted(now), `${now.candidate.target.node} is master`, now.candidate.state?.role ?? 'silent'),
        check('old primary', harmless, `${now.primary.target.node} follows it${step.call.mode === 'forced' ? ', or does not answer' : ''}`, silent ? 'silent' : now.primary.state!.role, `stop it, or: REPLICAOF ${now.candidate.target.host} ${now.candidate.target.port} on ${now.primary.target.node}; what it alone has is discarded`),
      ];
      if (checks.every((one) => one.ok) || step.nowMs() > deadline) {
        return { ...guarded(checks), summary: `${now.candidate.target.node} is ${now.candidate.state?.role ?? 'silent'}, ${now.primary.target.node} ${silent ? 'does not answer: nothing keeps it from taking writes if it comes back' : `is ${now.primary.state!.role}`}` };
      }
      await pause(POLL_MS, step.signal);
    }
  },
  async undo(step) {
    const now = await pair(step);
    if (now.primary.state?.role === 'master' && now.candidate.state?.role === 'replica') return { outcome: 'already-satisfied', summary: `${now.primary.target.node} is the primary` };
    if (step.call.mode === 'forced' || !promoted(now) || !follows(now)) {
      throw new HoldfastError('redis-no-way-back', `${now.primary.target.node} is ${now.primary.state?.role ?? 'silent'} and ${now.candidate.target.node} is ${now.candidate.state?.role ?? 'silent'}: there is no way back without loss`, { next: 'decide by hand which of them has the data that counts; mark it as done afterwards' });
    }
    return handOver(step, now.candidate.target, now.primary.target);
  },
};

/** Redis's own coordinated failover: it holds writes, waits for the replica, swaps the roles, or gives up and changes nothing. */
async function handOver(step: StepRun, from: RedisTarget, to: RedisTarget): Promise<PhaseResult> {
  const timeout = Number(step.input['timeout']);
  const started = step.nowMs();
  await withRedis(
    from,
    async (client) => {
      const state = await redisState(client);
      // A killed attempt's is waited for.
      if (state.role !== 'master' || state.failover !== 'no-failover') return;
      const known = await knownAs(state, to);
      if (known === undefined) throw new HoldfastError('redis-no-replica', `${to.node} is not among the replicas of ${from.node}`, { next: 'wait until it follows; then retry' });
      await client.sendCommand(['FAILOVER', 'TO', known.host, String(known.port), 'TIMEOUT', String(timeout)]);
    },
    step.signal,
  );
  for (;;) {
    const [old, next] = await Promise.all([look(from, step, redisState), look(to, step, redisState)]);
    if (next.found?.role === 'master') {
      const heldMs = step.nowMs() - started;
      return { outcome: 'changed', summary: `${to.node} is the primary, ${from.node} follows it; writes were held for at most ${formatDuration(heldMs)}`, after: { primary: to.node, replica: from.node }, facts: { promotedAtMs: step.nowMs(), heldMs, offset: next.found.offset } };
    }
    if (old.found?.role === 'master' && old.found.failover === 'no-failover') {
      throw new HoldfastError('redis-failover-aborted', `${to.node} did not catch up within ${formatDuration(timeout)}: Redis gave up, ${from.node} is still the primary and takes writes`, { retryable: true, next: 'look at the replication between them, then retry' });
    }
    if (step.nowMs() - started > timeout + 30_000) throw new HoldfastError('redis-failover-unclear', `${from.node} and ${to.node} did not settle within ${formatDuration(timeout + 30_000)}`, { next: 'look at INFO replication of both' });
    await pause(POLL_MS, step.signal);
  }
}

async function force(step: StepRun, now: Pair): Promise<PhaseResult> {
  const { candidate, primary } = now;
  const before = candidate.state;
  if (before === null) throw new HoldfastError('redis-connect', candidate.error!, { retryable: true, next: 'choose another candidate' });
  if (before.role === 'replica') {
    await withRedis(candidate.target, (client) => client.sendCommand(['REPLICAOF', 'NO', 'ONE']), step.signal);
  }
  // It came back: what it alone has is older than what the new primary takes from here on.
  const back = primary.state?.role === 'master';
  if (back) await withRedis(primary.target, (client) => client.sendCommand(['REPLICAOF', candidate.target.host, String(candidate.target.port)]), step.signal);
  return {
    outcome: before.role === 'replica' || back ? 'changed' : 'already-satisfied',
    summary: `${candidate.target.node} is the primary at offset ${before.offset}${back ? `; ${primary.target.node} came back and follows it` : ''}`,
    after: { primary: candidate.target.node },
    facts: { promotedAtMs: step.nowMs(), offset: before.offset, linkDownSeconds: before.linkDownSeconds },
  };
}

export const redisSteps: Readonly<Record<string, StepDefinition>> = { 'redis.snapshot': snapshot, 'redis.substitute': substitute, 'redis.promote': promote, 'redis.warmUp': warmUp };

