import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { formatDuration } from '../src/model/units.ts';
import { readEndpoint } from '../src/systems/endpoint.ts';
import {
  LOOKED_FOR, changePause, isBusyOtherwise, lookForController, mayChange, memberName, readMember, readMembers, readPatroniCluster, readSettings, reinitialize,
  type ControllerSigns, type PatroniConfig, type PatroniMember, type PatroniSettings, type PauseMark,
} from '../src/systems/patroni.ts';
import { fenceEpoch, withoutFence } from '../src/model/fence-text.ts';
import { allowWrites, readFence } from '../src/systems/postgres-fence.ts';
import { hasHostAccess, nodeByAddress, nodeStatus, openNode, runOnNode, withNode, writeOnNode, type NodeStatus } from '../src/systems/postgres-node.ts';
import { check, datastoreFor, guarded, nodeInput, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

const POLL_MS = 200;
const ASK_AGAIN_MS = 2000;

/** After its members have read that they are resumed, one more loop of each shows what they make of it; and some, for the machine. */
const LOOPS_WATCHED = 1;
const WATCH_MARGIN_MS = 1000;

/** What there is beside us that switches roles. `undeclared`: it shows on the servers, and nothing says how to pause it. */
type Controller =
  | { readonly kind: 'none'; readonly summary: string }
  | { readonly kind: 'undeclared'; readonly facts: readonly string[]; readonly declaredNone: boolean }
  | { readonly kind: 'patroni'; readonly patroni: PatroniConfig };

async function findController(step: StepRun): Promise<Controller> {
  const datastore = datastoreFor(step);
  if (datastore.controller?.type === 'patroni') return { kind: 'patroni', patroni: datastore.controller };
  const seen = await Promise.all(Object.keys(datastore.nodes).map((node) => lookForController(step.context, datastore, node, step.signal)));
  return judge(seen, datastore.controller?.type === 'none');
}

/** Files alone may be a former Patroni's, which the configuration may say; a session is not. */
export function judge(seen: readonly ControllerSigns[], declaredNone: boolean): Controller {
  const said = (signs: (one: ControllerSigns) => readonly string[]): string[] => seen.flatMap((one) => signs(one).map((sign) => `${one.node}: ${sign}`));
  const live = said((one) => one.live);
  const traces = said((one) => one.traces);
  if (live.length > 0 || (traces.length > 0 && !declaredNone)) return { kind: 'undeclared', facts: [...live, ...traces], declaredNone };
  const silent = seen.filter((one) => one.silent !== null).map((one) => one.node);
  const asked = silent.length === 0 ? '' : `; ${silent.join(', ')} could not be asked by SQL`;
  const left = traces.length === 0 ? '' : `; left behind, and declared to mean nothing: ${traces.join(', ')}`;
  return { kind: 'none', summary: `no controller found: looked for ${LOOKED_FOR}${asked}${left}` };
}

function undeclaredCheck(step: StepRun, found: Extract<Controller, { kind: 'undeclared' }>): CheckResult {
  const datastore = textInput(step, 'datastore');
  const nodes = Object.keys(datastoreFor(step).nodes).map((node) => `${node}: { api: "http://<host of ${node}>:8008" }`);
  const patroni = `datastores.${datastore}.controller: { type: patroni, members: { ${nodes.join(', ')} }, username: ..., password: env:... }`;
  return check('no other controller', false, 'none, or one that can be paused', `Patroni by ${found.facts.join('; ')}`, `add to holdfast.yaml: ${patroni}${found.declaredNone ? ' (controller.type is none, but it is connected now)' : '; or, if these are left from a former one, controller: { type: none }'}`);
}

function markOf(step: StepRun): PauseMark {
  return { execution: step.call.workflowId, epoch: step.call.epoch };
}

function isOurs(step: StepRun, mark: PauseMark | null): boolean {
  return mark !== null && mark.execution === step.call.workflowId && mark.epoch === step.call.epoch;
}

function pausedBy(settings: PatroniSettings): string {
  return settings.mark === null ? 'somebody else (patronictl pause, or PATCH /config)' : `the execution ${settings.mark.execution} of epoch ${settings.mark.epoch}`;
}

function describeMember(member: PatroniMember): string {
  return member.answers ? `${member.node} ${member.role ?? '?'} ${member.state ?? '?'}${member.paused ? ' paused' : ''}` : `${member.node} silent (${member.error})`;
}

/** The pause must reach everybody who could act. In a forced run the lost primary may be silent: its key in the store runs out. */
async function pauseChecks(step: StepRun, patroni: PatroniConfig): Promise<CheckResult[]> {
  const datastore = datastoreFor(step);
  const lost = step.call.mode === 'forced' ? optionalText(step, 'primary') : undefined;
  const [members, statuses] = await Promise.all([
    readMembers(step.context, patroni, step.signal),
    Promise.all(Object.keys(datastore.nodes).map((node) => nodeStatus(step.context, datastore, node))),
  ]);
  const checks: CheckResult[] = [];
  for (const member of members) {
    if (!member.answers && member.node === lost && members.some((other) => other.answers)) continue;
    checks.push(check(`Patroni of ${member.node} answers`, member.answers, `GET /patroni at ${patroni.members[member.node]!.api}`, member.answers ? `Patroni ${member.version ?? ''}`.trim() : member.error!, `check that it runs and datastores.${textInput(step, 'datastore')}.controller.members.${member.node}.api`));
  }
  const answering = members.filter((member) => member.answers);
  if (answering.length === 0) return checks;
  const refusals = await Promise.all(answering.map((member) => mayChange(step.context, patroni, member.node, step.signal)));
  for (const [index, member] of answering.entries()) {
    // Another cluster's Patroni would be paused, and this one would not.
    const known = statuses.find((status) => status.node === member.node)?.systemIdentifier ?? statuses.find((status) => status.systemIdentifier !== null)?.systemIdentifier ?? null;
    if (known !== null && member.systemIdentifier !== null) checks.push(check(`Patroni of ${member.node} is this cluster's`, known === member.systemIdentifier, `system identifier ${known}`, member.systemIdentifier, `correct controller.members.${member.node}.api`));
    const why = refusals[index] ?? null;
    checks.push(check(`right to pause Patroni of ${member.node}`, why === null, 'a change that changes nothing is accepted', why ?? 'accepted', 'give controller.username and controller.password of its restapi.authentication'));
  }
  const cluster = await readPatroniCluster(step.context, patroni, step.signal);
  const names = Object.keys(patroni.members).map((node) => memberName(patroni, node));
  const strangers = cluster.members.filter((member) => !names.includes(member.name)).map((member) => member.name);
  checks.push(
    check('every member is known', strangers.length === 0, names.join(', '), strangers.length === 0 ? names.join(', ') : `also ${strangers.join(', ')}`, 'add them to nodes and controller.members: whoever cannot be asked may act during a pause'),
    check('no switchover scheduled', cluster.scheduledSwitchover === null, 'none', cluster.scheduledSwitchover ?? 'none', 'cancel it: patronictl flush <cluster> switchover'),
  );
  const primary = optionalText(step, 'primary');
  if (primary !== undefined) {
    const expected = memberName(patroni, primary);
    if (step.call.mode === 'planned') checks.push(check('Patroni sees the same primary', cluster.leader === expected, expected, cluster.leader ?? 'no leader', 'wait until Patroni has settled, or correct the application’s secret'));
    const node = datastore.nodes[primary];
    const stoppable = node !== undefined && (hasHostAccess(node) || node.fence !== undefined);
    // While its server runs the old leader's Patroni keeps the leader's key, and the new primary would be demoted on resume.
    checks.push(check('the old leader can be stopped', stoppable, `dataDirectory and exec, or fence.command, of ${primary}`, stoppable ? 'configured' : 'neither', `configure datastores.${textInput(step, 'datastore')}.nodes.${primary}.dataDirectory and exec`));
  }
  return checks;
}

const pauseStep: StepDefinition = {
  async inspect(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind !== 'patroni') return { satisfied: false, summary: found.kind === 'none' ? found.summary : found.facts.join('; ') };
    const settings = await readSettings(step.context, found.patroni, step.signal);
    if (!settings.paused) return { satisfied: false, summary: 'Patroni acts', before: { paused: false } };
    const ours = isOurs(step, settings.mark);
    return {
      satisfied: true,
      summary: ours ? 'Patroni is paused' : `Patroni is paused already, by ${pausedBy(settings)}: it will be left paused`,
      before: { paused: !ours, ...(ours ? {} : { pausedBy: pausedBy(settings) }) },
      facts: { controller: 'patroni', pausedBefore: !ours, pausedAtMs: step.nowMs() },
    };
  },
  async guard(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind === 'none') return { checks: [check('no other controller', true, 'none, or one that can be paused', 'none')], summary: found.summary };
    if (found.kind === 'undeclared') return guarded([undeclaredCheck(step, found)]);
    const checks = await pauseChecks(step, found.patroni);
    // Asked again once it was paused: somebody may have resumed it since.
    if (step.call.facts['controller'] === 'patroni') {
      const settings = await readSettings(step.context, found.patroni, step.signal);
      checks.push(check('Patroni is still paused', settings.paused, 'paused', settings.paused ? 'paused' : 'resumed by somebody else', 'find out who resumed it and why before this is started again'));
      const members = settings.paused ? await readMembers(step.context, found.patroni, step.signal) : [];
      for (const member of members) if (member.answers) checks.push(check(`${member.node} is still paused`, member.paused, 'paused', member.paused ? 'paused' : 'acts', `look at the log of its Patroni`));
    }
    return guarded(checks);
  },
  async apply(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind === 'none') return { outcome: 'skipped', summary: found.summary };
    if (found.kind === 'undeclared') throw new HoldfastError('controller-undeclared', `Patroni is at work: ${found.facts.join('; ')}`, { next: undeclaredCheck(step, found).next });
    const before = await readSettings(step.context, found.patroni, step.signal);
    if (before.paused && !isOurs(step, before.mark)) {
      return { outcome: 'already-satisfied', summary: `Patroni is paused already, by ${pausedBy(before)}: it will be left paused`, before: { paused: true, pausedBy: pausedBy(before) }, after: { paused: true }, facts: { controller: 'patroni', pausedBefore: true, pausedAtMs: step.nowMs() } };
    }
    await changePause(step.context, found.patroni, markOf(step), step.signal);
    return { outcome: 'changed', summary: 'Patroni told to pause', before: { paused: false }, after: { paused: true, by: { ...markOf(step) } }, facts: { controller: 'patroni', pausedBefore: false, pausedAtMs: step.nowMs() } };
  },
  async verify(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind !== 'patroni') throw new HoldfastError('controller-gone', 'the configuration no longer names the controller', { next: 'put controller back into holdfast.yaml' });
    const { patroni } = found;
    const lost = step.call.mode === 'forced' ? optionalText(step, 'primary') : undefined;
    const started = step.nowMs();
    for (;;) {
      const [settings, members] = await Promise.all([readSettings(step.context, patroni, step.signal), readMembers(step.context, patroni, step.signal)]);
      const listed = lost === undefined ? [] : (await readPatroniCluster(step.context, patroni, step.signal)).members.map((member) => member.name);
      const sinceMs = step.nowMs() - Number(step.call.facts['pausedAtMs'] ?? started);
      const checks = members.map((member) => {
        if (!member.answers && member.node === lost) {
          // A live Patroni renews its key each loop, and reads the pause in the same loop; a dead one's runs out.
          const gone = !listed.includes(member.name);
          return check(`${member.node} is paused`, gone || sinceMs > settings.ttlMs + settings.loopWaitMs, 'paused, gone from the store, or one life of its key has passed', gone ? 'gone from the store' : `silent, paused for ${formatDuration(sinceMs)}`);
        }
        return check(`${member.node} is paused`, member.answers && member.paused, 'GET /patroni says pause: true', describeMember(member), 'look at the log of its Patroni');
      });
      checks.push(check('the store says paused', settings.paused, 'pause: true', settings.paused ? 'pause: true' : 'not paused'));
      if (checks.every((one) => one.ok) || step.nowMs() - started > patroni.wait) {
        const silent = members.filter((member) => !member.answers).map((member) => `${member.node} silent${listed.includes(member.name) ? '' : " and gone from Patroni's store"}`);
        return { checks, summary: [`paused: ${members.filter((member) => member.paused).map((member) => member.node).join(', ')} in ${formatDuration(sinceMs)}`, ...silent].join('; '), facts: { acknowledgedMs: sinceMs } };
      }
      await pause(POLL_MS, step.signal);
    }
  },
  async undo(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind !== 'patroni') return { outcome: 'already-satisfied', summary: 'there is no controller to resume' };
    const settings = await readSettings(step.context, found.patroni, step.signal);
    if (!settings.paused) return { outcome: 'already-satisfied', summary: 'Patroni acts already' };
    if (!isOurs(step, settings.mark)) return { outcome: 'already-satisfied', summary: `Patroni is paused by ${pausedBy(settings)} and stays so` };
    const resumed = await resume(step, found.patroni, await onlyPrimary(step), settings);
    return { outcome: 'changed', summary: resumed.summary, after: { paused: false, leader: resumed.leader } };
  },
};

/** The one node that takes writes. Resumed beside two, Patroni would demote one of them, and nobody says which. */
async function onlyPrimary(step: StepRun): Promise<string> {
  const { writable, seen } = await roles(step);
  if (writable.length === 1) return writable[0]!;
  throw new HoldfastError('roles-unsettled', `${writable.length} node(s) take writes (${seen}): Patroni stays paused`, { next: 'find out which node is the primary and fence every other one, then retry', retryable: writable.length === 0 });
}

async function roles(step: StepRun): Promise<{ writable: string[]; statuses: NodeStatus[]; seen: string }> {
  const datastore = datastoreFor(step);
  const statuses = await Promise.all(Object.keys(datastore.nodes).map((node) => nodeStatus(step.context, datastore, node)));
  const writable: string[] = [];
  const seen: string[] = [];
  for (const status of statuses) {
    const fenced = status.inRecovery === false && status.superuser && (await withNode(step.context, datastore, status.node, readFence)).epoch !== null;
    if (status.inRecovery === false && !fenced) writable.push(status.node);
    seen.push(`${status.node} ${!status.reachable ? 'does not answer' : status.inRecovery === true ? 'in recovery' : fenced ? 'fenced' : 'writable'}`);
  }
  return { writable, statuses, seen: seen.join(', ') };
}

/**
 * Only once Patroni itself names the primary as its leader: a primary without the leader's key is demoted by the first loop after
 * the pause. Then until every member that answers has read that it is resumed.
 */
async function resume(step: StepRun, patroni: PatroniConfig, primary: string, settings: PatroniSettings): Promise<{ summary: string; leader: string }> {
  const leader = memberName(patroni, primary);
  const started = step.nowMs();
  await awaitLeader(step, patroni, leader);
  const agreedMs = step.nowMs() - started;
  await changePause(step.context, patroni, null, step.signal);
  const resumedMs = step.nowMs();
  for (;;) {
    const waiting = (await readMembers(step.context, patroni, step.signal)).filter((member) => member.answers && member.paused);
    if (waiting.length === 0) break;
    if (step.nowMs() - resumedMs > Math.max(patroni.wait, 2 * settings.loopWaitMs)) {
      throw new HoldfastError('resume-unread', `${waiting.map((member) => member.node).join(', ')} has not read within ${formatDuration(patroni.wait)} that Patroni is resumed`, { next: 'look at the log of its Patroni', retryable: true });
    }
    await pause(POLL_MS, step.signal);
  }
  return { summary: `Patroni resumed with ${leader} as leader (agreed in ${formatDuration(agreedMs)}, read by all in ${formatDuration(step.nowMs() - resumedMs)})`, leader };
}

async function awaitLeader(step: StepRun, patroni: PatroniConfig, leader: string): Promise<void> {
  const started = step.nowMs();
  for (;;) {
    const cluster = await readPatroniCluster(step.context, patroni, step.signal);
    if (cluster.leader === leader) return;
    if (step.nowMs() - started > patroni.wait) {
      throw new HoldfastError('leader-unsettled', `Patroni names ${cluster.leader ?? 'nobody'} as leader and not ${leader}, after ${formatDuration(patroni.wait)}; it stays paused, since it would demote ${leader}`, {
        next: `look at patronictl list: the server of the old leader must be stopped for its Patroni to give up the leader's key; then retry`,
      });
    }
    await pause(POLL_MS, step.signal);
  }
}

/** Input, else the application's word: who is to be the leader. */
async function newPrimary(step: StepRun): Promise<string> {
  if (optionalText(step, 'primary') !== undefined) return nodeInput(step, 'primary');
  const datastore = datastoreFor(step);
  if (datastore.endpoint === undefined) return onlyPrimary(step);
  const endpoint = await readEndpoint(step.context, datastore.endpoint.secret, datastore.endpoint.secretRegion);
  const node = nodeByAddress(datastore, endpoint.host, endpoint.port);
  if (node === null) throw new HoldfastError('primary-unknown', `the application's secret points to ${endpoint.host}:${endpoint.port}, which is no node of ours`, { next: 'correct the secret or the node addresses' });
  return node;
}

interface Follower {
  readonly node: string;
  /** In recovery, streams from the leader, and its Patroni runs it as a replica. */
  readonly follows: boolean;
  /** Its Patroni answers, so that it may still come. */
  readonly managed: boolean;
  readonly fence: number | null;
  readonly readOnlyDefault: boolean;
  readonly found: string;
}

async function followers(step: StepRun, patroni: PatroniConfig, primary: string): Promise<Follower[]> {
  const datastore = datastoreFor(step);
  const { timeline } = await nodeStatus(step.context, datastore, primary);
  const others = Object.keys(patroni.members).filter((node) => node !== primary && Object.hasOwn(datastore.nodes, node));
  return Promise.all(
    others.map(async (node): Promise<Follower> => {
      const [status, member] = await Promise.all([nodeStatus(step.context, datastore, node), readMember(step.context, patroni, node, step.signal)]);
      if (!status.reachable) return { node, follows: false, managed: member.answers, fence: null, readOnlyDefault: false, found: `its server does not answer; Patroni: ${describeMember(member)}` };
      const fence = status.superuser ? await withNode(step.context, datastore, node, readFence) : null;
      const streams = status.inRecovery === true && status.receiverStatus === 'streaming' && status.timeline === timeline;
      const follows = streams && member.role === 'replica' && member.state !== null && ['running', 'streaming'].includes(member.state);
      return { node, follows, managed: member.answers, fence: fence?.epoch ?? null, readOnlyDefault: fence?.readOnlyDefault ?? false, found: `${status.inRecovery === true ? (streams ? `streams timeline ${status.timeline}` : 'in recovery, no stream') : 'not in recovery'}; Patroni: ${describeMember(member)}` };
    }),
  );
}

/**
 * A node that follows under Patroni again is a candidate for Patroni's own failover: with the fence still on it the application
 * would be locked out of the next primary. Patroni's pg_rewind copies the rules of the new primary, a mere restart does not.
 */
async function liftFences(step: StepRun, list: readonly Follower[]): Promise<string[]> {
  const datastore = datastoreFor(step);
  const lifted: string[] = [];
  for (const { node, follows, fence, readOnlyDefault } of list) {
    if (!follows || (fence === null && !readOnlyDefault)) continue;
    if (fence !== null) await openRulesOfStandby(step, node);
    const { client, target } = await openNode(step.context, datastore, node);
    try {
      // What was seen there, and nothing that a later execution put there.
      await allowWrites(client, target, { epoch: fence === null ? step.call.epoch : Math.min(fence, step.call.epoch), timeoutMs: 10_000, nowMs: step.nowMs });
      lifted.push(node);
    } finally {
      await client.end().catch(() => {});
    }
  }
  return lifted;
}

/** SQL cannot write files on a server in recovery: its host does, for `allowWrites` to load. */
async function openRulesOfStandby(step: StepRun, node: string): Promise<void> {
  const datastore = datastoreFor(step);
  const host = datastore.nodes[node]!;
  const address = `${host.host}:${host.port}`;
  if (!hasHostAccess(host)) throw new HoldfastError('fence-stays', `${node} follows again and its pg_hba.conf still carries the fence: promoted by Patroni, it would let no application in`, { next: `remove the block HOLDFAST FENCE from the pg_hba.conf of ${address} and reload, then retry; or configure nodes.${node}.dataDirectory and exec` });
  const file = await withNode(step.context, datastore, node, async (client) => ((await client.query("select current_setting('hba_file') as file")).rows[0] as { file: string }).file);
  const { stdout } = await runOnNode(host, ['cat', file], { signal: step.signal });
  const epoch = fenceEpoch(stdout);
  // Said otherwise than before a first change: Patroni is resumed already.
  if (epoch !== null && epoch > step.call.epoch) throw new HoldfastError('foreign-fence', `${address} carries the fence of epoch ${epoch}, which is later than ours (${step.call.epoch})`, { next: 'another execution fenced it: look at `holdfast audit`' });
  await writeOnNode(host, file, withoutFence(stdout), step.signal);
}

const resumeStep: StepDefinition = {
  async inspect(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind !== 'patroni') return { satisfied: false, summary: found.kind === 'none' ? found.summary : found.facts.join('; ') };
    const settings = await readSettings(step.context, found.patroni, step.signal);
    if (settings.paused && !isOurs(step, settings.mark)) {
      return { satisfied: true, summary: `Patroni was paused by ${pausedBy(settings)} and is left paused`, before: { paused: true, pausedBy: pausedBy(settings) }, facts: { resumed: false } };
    }
    const fenced = settings.paused ? [] : (await followers(step, found.patroni, await newPrimary(step))).filter((node) => node.follows && (node.fence !== null || node.readOnlyDefault));
    return {
      satisfied: !settings.paused && fenced.length === 0,
      summary: settings.paused ? 'Patroni is paused by this execution' : 'Patroni acts',
      before: { paused: settings.paused, ...(settings.mark === null ? {} : { by: { ...settings.mark } }) },
      ...(settings.paused ? {} : { facts: { resumed: true, resumedAtMs: step.nowMs() } }),
    };
  },
  async guard(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind === 'none') return { checks: [], summary: found.summary };
    // Before the first change the roles are still the old ones; what pausing needs, resuming needs.
    if (step.call.preflight) return { checks: [], summary: 'what resuming needs is asked by the step that pauses' };
    if (found.kind === 'undeclared') return guarded([undeclaredCheck(step, found)]);
    const primary = await newPrimary(step);
    const { writable, seen } = await roles(step);
    return guarded([
      check('one primary', writable.length === 1 && writable[0] === primary, `only ${primary} takes writes`, seen, 'fence every other node: Patroni would act on what it finds'),
    ]);
  },
  async apply(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind !== 'patroni') return { outcome: 'skipped', summary: found.kind === 'none' ? found.summary : found.facts.join('; ') };
    const { patroni } = found;
    const primary = await newPrimary(step);
    const before = await readSettings(step.context, patroni, step.signal);
    if (before.paused && !isOurs(step, before.mark)) return { outcome: 'already-satisfied', summary: `Patroni was paused by ${pausedBy(before)} and is left paused`, facts: { resumed: false } };
    // Promoted once more by Patroni, it would show another one.
    const { timeline } = await nodeStatus(step.context, datastoreFor(step), primary);
    const resumed = before.paused ? await resume(step, patroni, primary, before) : { summary: 'Patroni acts already', leader: memberName(patroni, primary) };
    const resumedAtMs = step.nowMs();
    let list = await followers(step, patroni, primary);
    while (list.some((one) => !one.follows && one.managed) && step.nowMs() - resumedAtMs <= patroni.wait) {
      await pause(POLL_MS, step.signal);
      list = await followers(step, patroni, primary);
    }
    const lifted = await liftFences(step, list);
    const after = list.map((one) => `${one.node} ${one.follows ? `follows (after ${formatDuration(step.nowMs() - resumedAtMs)})` : `does not follow yet: ${one.found}`}`);
    return {
      outcome: before.paused || lifted.length > 0 ? 'changed' : 'already-satisfied',
      summary: [resumed.summary, ...after, ...(lifted.length === 0 ? [] : [`fence lifted on ${lifted.join(', ')}`])].join('; '),
      before: { paused: before.paused },
      after: { paused: false, leader: resumed.leader, following: list.filter((one) => one.follows).map((one) => one.node), fenceLifted: lifted },
      facts: { resumed: true, resumedAtMs, timeline, followers: list.filter((one) => one.follows).map((one) => one.node) },
    };
  },
  async verify(step): Promise<PhaseResult> {
    const found = await findController(step);
    if (found.kind !== 'patroni') throw new HoldfastError('controller-gone', 'the configuration no longer names the controller', { next: 'put controller back into holdfast.yaml' });
    const { patroni } = found;
    const primary = await newPrimary(step);
    const started = step.nowMs();
    const settings = await readSettings(step.context, patroni, step.signal);
    const expectPaused = step.call.facts['resumed'] === false;
    if (expectPaused) await awaitLeader(step, patroni, memberName(patroni, primary));
    // A loop in which it could act must have passed, and nothing may have moved in it.
    const resumedAtMs = Number(step.call.facts['resumedAtMs'] ?? started);
    const until = expectPaused ? started : Math.max(started, resumedAtMs + LOOPS_WATCHED * settings.loopWaitMs + WATCH_MARGIN_MS);
    const timeline = typeof step.call.facts['timeline'] === 'number' ? step.call.facts['timeline'] : (await nodeStatus(step.context, datastoreFor(step), primary)).timeline;
    for (;;) {
      const { settled, read } = await afterChecks(step, patroni, primary, { paused: expectPaused, timeline });
      const checks = [...settled, ...read];
      const holds = checks.every((one) => one.ok);
      // What must not happen is not waited out; that a member reads on is.
      if ((holds && step.nowMs() >= until) || settled.some((one) => !one.ok) || step.nowMs() - started > Math.max(patroni.wait, 2 * settings.loopWaitMs)) {
        return { checks, summary: `${primary} leads${expectPaused ? ', still paused' : `, and nothing moved in the ${formatDuration(step.nowMs() - resumedAtMs)} since`}` };
      }
      await pause(POLL_MS, step.signal);
    }
  },
};

async function afterChecks(step: StepRun, patroni: PatroniConfig, primary: string, expected: { paused: boolean; timeline: number | null }): Promise<{ settled: CheckResult[]; read: CheckResult[] }> {
  const [settings, cluster, members, { writable, statuses, seen }] = await Promise.all([
    readSettings(step.context, patroni, step.signal), readPatroniCluster(step.context, patroni, step.signal), readMembers(step.context, patroni, step.signal), roles(step),
  ]);
  const leader = memberName(patroni, primary);
  const state = (paused: boolean): string => (paused ? 'paused' : 'resumed');
  const timeline = statuses.find((status) => status.node === primary)?.timeline ?? null;
  return {
    settled: [
      check('Patroni', settings.paused === expected.paused, state(expected.paused), state(settings.paused), settings.paused ? 'resume it: patronictl resume' : 'find out who resumed it'),
      check('leader', cluster.leader === leader, leader, cluster.leader ?? 'none', 'look at patronictl list and at the logs of all members'),
      check('one primary', writable.length === 1 && writable[0] === primary, `only ${primary} takes writes`, seen, 'fence every other node at once'),
      check('timeline', timeline === expected.timeline, String(expected.timeline), String(timeline), 'it was promoted once more: look at the log of its Patroni'),
    ],
    read: members.filter((member) => member.answers).map((member) => check(`${member.node} has read it`, member.paused === expected.paused, state(expected.paused), describeMember(member), 'look at the log of its Patroni')),
  };
}

/**
 * Under Patroni a node's configuration is Patroni's to write: a copy started by pg_ctl would carry the address, port and paths of the
 * server it was copied from. So Patroni rebuilds it. @returns null when there is no controller
 */
export async function rebuildByController(step: StepRun, node: string, primary: string): Promise<PhaseResult | null> {
  const { controller } = datastoreFor(step);
  if (controller?.type !== 'patroni') return null;
  const started = step.nowMs();
  await awaitLeader(step, controller, memberName(controller, primary));
  let said = await reinitialize(step.context, controller, node, step.signal);
  let busyMs = step.nowMs();
  let askedMs = busyMs;
  for (;;) {
    const [follower, member] = await Promise.all([followers(step, controller, primary).then((list) => list.find((one) => one.node === node)), readMember(step.context, controller, node, step.signal)]);
    if (follower?.follows === true) break;
    if (isBusyOtherwise(said) && member.state !== 'creating replica' && step.nowMs() - askedMs > ASK_AGAIN_MS) {
      said = await reinitialize(step.context, controller, node, step.signal);
      askedMs = step.nowMs();
    }
    // As long as it copies it may take; idle and not following it has failed.
    if (member.state === 'creating replica') busyMs = step.nowMs();
    if (step.nowMs() - busyMs > controller.wait) {
      throw new HoldfastError('not-reinitialized', `Patroni was told to rebuild ${node} (${said}) and it does not follow ${primary}: ${follower?.found ?? describeMember(member)}`, { next: `look at the log of the Patroni of ${node}; then retry` });
    }
    await pause(POLL_MS, step.signal);
  }
  const ms = step.nowMs() - started;
  return { outcome: 'changed', summary: `${node} rebuilt by Patroni (reinitialize) from ${primary} in ${formatDuration(ms)}`, after: { method: 'Patroni reinitialize', from: primary }, facts: { node, method: 'Patroni reinitialize', rebuildMs: ms } };
}

export const controllerSteps: Readonly<Record<string, StepDefinition>> = { 'controller.pause': pauseStep, 'controller.resume': resumeStep };
