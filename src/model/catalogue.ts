import { z } from 'zod';
import { durationMs } from './units.ts';

/**
 * The step kinds: one entry each. The activities `<kind>:<phase>` implement the phases named here; the interpreter,
 * `validate`, JSON Schema and docs/reference/step-kinds.md read this table and nothing else.
 */
export const PHASES = ['inspect', 'guard', 'apply', 'verify', 'undo'] as const;
export type Phase = (typeof PHASES)[number];

export interface StepKind {
  readonly summary: string;
  readonly input: z.ZodType;
  /** Phases there are. Without `apply` it only reads. */
  readonly phases: readonly Phase[];
  /** `workflow`: done by the interpreter itself (approval, wait). `child`: an execution of its own. */
  readonly runsIn: 'activity' | 'workflow' | 'child';
  /** After its apply nothing is undone automatically. */
  readonly pointOfNoReturn: boolean;
  /** An operator may skip it. */
  readonly skippable: boolean;
  /** Writes are refused while it is in effect before the point of no return: starts the dead-man deadline. */
  readonly refusesWrites: boolean;
  /** It interrupts the service, or cannot be taken back: all guards are asked once more right before the first such step. */
  readonly disruptive: boolean;
  /** Its guard is asked again then, although it is done. */
  readonly askedAgain: boolean;
  /** Within the refused-write window: its inspection and guards were done beforehand, apply inspects again itself. */
  readonly critical: boolean;
  /** Deadline of one attempt of apply or undo; reading phases have 30 s unless stated. */
  readonly applyMs: number;
  readonly verifyMs: number;
  /** Attempts of apply, each after a new inspection. */
  readonly attempts: number;
  /** Facts that must still be the same when its guard is asked again: what people approved. */
  readonly boundFacts: readonly string[];
  /** Facts it yields for `${steps.<id>.<fact>}`. */
  readonly facts: Readonly<Record<string, string>>;
}

const datastore = z.string().meta({ description: 'Datastore name.' });
const node = z.string().meta({ description: 'Node name within the datastore.' });
/** Known only while the runbook runs; may be absent in preflight. */
const lateNode = node.optional();

function kind(entry: Partial<StepKind> & Pick<StepKind, 'summary' | 'input' | 'phases'>): StepKind {
  return {
    runsIn: 'activity',
    pointOfNoReturn: false,
    skippable: false,
    refusesWrites: false,
    critical: false,
    disruptive: false,
    askedAgain: false,
    applyMs: 60_000,
    verifyMs: 30_000,
    attempts: 3,
    boundFacts: [],
    facts: {},
    ...entry,
  };
}

export const CATALOGUE: Readonly<Record<string, StepKind>> = {
  'postgres.health': kind({
    summary: 'Confirms the alarm and the roles. Planned: primary writable, candidate streaming. Forced: the primary is down by two independent facts.',
    input: z.strictObject({
      datastore,
      primary: node.optional().meta({ description: "Default: the node the application's secret points to." }),
      candidate: node.optional().meta({ description: 'Default: the streaming standby that has replayed most.' }),
      attempts: z.int().min(1).max(20).default(3).meta({ description: 'Connection attempts before a silent primary counts as down.' }),
      maxLag: durationMs.prefault('10s').meta({ description: 'Planned: a candidate further behind is refused before anything changes.' }),
    }),
    phases: ['guard', 'verify'],
    askedAgain: true,
    boundFacts: ['primary', 'candidate'],
    verifyMs: 60_000,
    facts: {
      primary: 'node that holds the primary role',
      candidate: 'node to be promoted',
      lastCommitAt: 'time of the last transaction the candidate replayed (ISO 8601)',
      candidateLsn: 'last WAL position the candidate replayed',
      lagMs: 'replication lag in milliseconds, null when unknown',
      downFacts: 'forced: what says that the primary is down',
      downFactCount: 'forced: how many independent places say so',
      unclear: 'forced: what was looked at and says neither',
      mayLoseMs: 'forced: whatever was acknowledged in this many milliseconds before the look may be lost, null when unknown; an idle service loses less',
      mayLoseBytes: 'forced: WAL that the primary had announced and the candidate has not received, null when unknown; what came after the last message is not in it',
    },
  }),
  'controller.pause': kind({
    summary: 'Pauses whatever else switches roles here (Patroni), so that two controllers never act at once; found but with no way to pause it, nothing is begun.',
    input: z.strictObject({ datastore, primary: lateNode }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    askedAgain: true,
    verifyMs: 300_000,
    facts: {
      controller: 'what was paused; absent when there is none',
      pausedBefore: 'true when somebody else had paused it: it is then left paused',
      pausedAtMs: 'epoch milliseconds, worker clock',
      acknowledgedMs: 'milliseconds until every member had read it',
    },
  }),
  'controller.resume': kind({
    summary: 'Resumes the controller that this execution paused, once it sees the new primary as its leader, and shows that it leaves the roles as they are.',
    input: z.strictObject({ datastore, primary: node.optional().meta({ description: "Who must be its leader. Default: the node the application's secret points to." }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 900_000,
    verifyMs: 300_000,
    facts: { resumed: 'false when it was left paused', resumedAtMs: 'epoch milliseconds, worker clock', timeline: 'of the primary when it was resumed', followers: 'nodes that follow the leader under the controller' },
  }),
  'operator.approval': kind({
    summary: 'Waits for approvals by people other than the requester; expires into denied.',
    input: z.strictObject({
      count: z.union([z.int().min(0), z.literal('policy')]).default('policy').meta({ description: "How many; `policy`: the service's approval policy for the mode." }),
      expires: durationMs.optional(),
    }),
    phases: [],
    runsIn: 'workflow',
    facts: { approvedBy: 'who approved' },
  }),
  'operator.wait': kind({
    summary: 'Waits for a time.',
    input: z.strictObject({ duration: durationMs }),
    phases: [],
    runsIn: 'workflow',
    skippable: true,
  }),
  'runbook.run': kind({
    summary: 'Runs another runbook as an execution of its own, with its own guards, approval, point of no return and evidence, and waits for its end.',
    input: z
      .strictObject({
        runbook: z.string().optional().meta({ description: 'Name of the runbook; or give service and purpose.' }),
        service: z.string().optional().meta({ description: 'Service it is run for.' }),
        purpose: z.string().optional().meta({ description: "Which of the service's runbooks: failover, failback." }),
        mode: z.enum(['planned', 'forced']).optional().meta({ description: 'Default: the mode of this run.' }),
        parameters: z.record(z.string(), z.unknown()).default({}),
      })
      .refine((input) => (input.runbook === undefined) !== (input.purpose === undefined) && (input.purpose === undefined || input.service !== undefined), { message: 'give either runbook, or service and purpose' }),
    phases: ['guard', 'apply'],
    runsIn: 'child',
    applyMs: 24 * 3_600_000,
    attempts: 1,
    facts: { execution: 'workflow id of the nested run', evidence: 'folder of its evidence', primary: 'primary before, when it was a failover', candidate: 'primary after, when it was a failover' },
  }),
  'postgres.checkpoint': kind({
    summary: 'Checkpoints primary and candidate, so that promotion has little left to do.',
    input: z.strictObject({ datastore, primary: lateNode, candidate: lateNode }),
    phases: ['guard', 'apply', 'verify'],
    skippable: true,
    applyMs: 600_000,
    attempts: 1,
  }),
  'secret.stage': kind({
    summary: "Prepares the application's secret with the new endpoint as a pending version, so that the swap is one call.",
    input: z.strictObject({ datastore, primary: lateNode, candidate: lateNode }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    facts: { secretId: 'secret', currentVersion: 'version id that is current', stagedVersion: 'version id that is pending' },
  }),
  'canary.start': kind({
    summary: "Starts a writer through the application's own secret and endpoint that records each acknowledged write.",
    input: z.strictObject({
      datastore,
      primary: lateNode,
      candidate: lateNode,
      intervalMs: z.int().min(1).max(10_000).default(10),
      settle: durationMs.prefault('2s').meta({ description: 'Good writes for this long on the new primary end it.' }),
      maximum: durationMs.prefault('1h'),
    }),
    phases: ['guard', 'apply', 'verify', 'undo'],
    facts: { execution: 'under which name its writes are stored' },
  }),
  'postgres.readOnly': kind({
    summary: 'Refuses writes on the primary: no application connection is let in, sessions are ended, nothing remains; yields the last WAL position.',
    input: z.strictObject({ datastore, primary: lateNode }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    refusesWrites: true,
    disruptive: true,
    critical: true,
    applyMs: 20_000,
    attempts: 2,
    facts: { lsn: 'WAL position after the last acknowledged write', refusedFromMs: 'epoch milliseconds, worker clock', sessionsEnded: 'number of ended sessions', limits: 'what the fence does not hold against while the server runs' },
  }),
  'postgres.fence': kind({
    summary: 'Fences the old primary so that it takes no write, also after a restart.',
    input: z.strictObject({ datastore, node: lateNode }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    disruptive: true,
    applyMs: 120_000,
    facts: { methods: 'how it was fenced', problems: 'what of it did not succeed', limits: 'what it does not hold against; empty once the server is stopped' },
  }),
  'postgres.awaitReplay': kind({
    summary: "Waits until the candidate has replayed the primary's last WAL position (planned) or all it received (forced).",
    input: z.strictObject({ datastore, candidate: lateNode, lsn: z.string().optional(), timeout: durationMs.prefault('20s') }),
    phases: ['guard', 'verify'],
    critical: true,
    verifyMs: 300_000,
    facts: { replayedLsn: 'WAL position replayed', receivedLsn: 'WAL position received' },
  }),
  'postgres.promote': kind({
    summary: 'Promotes the candidate. The point of no return.',
    input: z.strictObject({ datastore, primary: lateNode, candidate: lateNode }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    pointOfNoReturn: true,
    disruptive: true,
    critical: true,
    applyMs: 120_000,
    facts: { promotedAtMs: 'epoch milliseconds, worker clock', timeline: 'new timeline', forkLsn: 'WAL position where the new timeline begins', parentTimeline: 'timeline it parted from' },
  }),
  'postgres.verifyFence': kind({
    summary: 'Proves that the old primary takes no write: down, in recovery, or refusing.',
    input: z.strictObject({ datastore, node: lateNode }),
    phases: ['verify'],
    critical: true,
    facts: { how: 'why it takes no write', limits: 'what it does not hold against' },
  }),
  'secret.swap': kind({
    summary: "Makes the staged version of the application's secret current, by compare-and-set on the version.",
    input: z.strictObject({ datastore, candidate: lateNode, currentVersion: z.string().optional(), stagedVersion: z.string().optional() }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    critical: true,
    facts: { version: 'version id that is current now', swappedAtMs: 'epoch milliseconds, worker clock' },
  }),
  'postgres.repointStandbys': kind({
    summary: 'Has every standby that is left follow the new primary. One that has WAL beyond the fork is named for a rebuild, never forced.',
    input: z.strictObject({ datastore, primary: lateNode, old: lateNode, wait: durationMs.prefault('5s').meta({ description: 'How long it is looked whether they stream.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    skippable: true,
    verifyMs: 120_000,
    facts: { following: 'nodes that stream from the new primary', notFollowing: 'nodes that do not, and why' },
  }),
  'route53.change': kind({
    summary: "Points the datastore's DNS record to the candidate and waits until Route 53 says INSYNC.",
    input: z.strictObject({ datastore, candidate: lateNode }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    skippable: true,
    applyMs: 300_000,
    facts: { changeId: 'Route 53 change', insyncMs: 'milliseconds from the change to INSYNC' },
  }),
  'rollout.command': kind({
    summary: 'Runs a command (argument vector, no shell) that makes the application take the new endpoint.',
    input: z.strictObject({
      argv: z.array(z.string()).default([]),
      verify: z.array(z.string()).default([]).meta({ description: 'A command that exits with 0 once the application uses the new endpoint; tried until `timeout`.' }),
      timeout: durationMs.prefault('5m'),
    }),
    phases: ['guard', 'apply', 'verify'],
    skippable: true,
    applyMs: 900_000,
    verifyMs: 900_000,
    attempts: 1,
  }),
  'rollout.http': kind({
    summary: 'Calls an HTTP endpoint that makes the application take the new endpoint; 2xx is success.',
    input: z.strictObject({
      url: z.string().default(''),
      method: z.enum(['POST', 'PUT', 'GET']).default('POST'),
      body: z.record(z.string(), z.unknown()).optional(),
      verifyUrl: z.string().default('').meta({ description: 'Answers 2xx to GET once the application uses the new endpoint; tried until `timeout`.' }),
      authorization: z.string().optional().meta({ description: 'Secret reference whose value becomes the Authorization header.' }),
      timeout: durationMs.prefault('30s'),
    }),
    phases: ['guard', 'apply', 'verify'],
    skippable: true,
    applyMs: 300_000,
    verifyMs: 300_000,
    attempts: 1,
  }),
  'postgres.verifyLag': kind({
    summary: 'Verifies that every remaining standby streams from the new primary within the allowed lag; says so when none remains.',
    input: z.strictObject({ datastore, primary: lateNode, maxLag: durationMs.prefault('10s'), wait: durationMs.prefault('20s') }),
    phases: ['verify'],
    skippable: true,
    verifyMs: 300_000,
    facts: { standbys: 'number of streaming standbys' },
  }),
  'postgres.measureLoss': kind({
    summary: 'Counts the transactions that the old primary acknowledged after the point where the new timeline began, from its own WAL.',
    input: z.strictObject({ datastore, node: lateNode, forkLsn: z.string().optional(), timeline: z.int().optional().meta({ description: "The old primary's timeline; default: what its control file says." }) }),
    phases: ['verify'],
    skippable: true,
    verifyMs: 300_000,
    facts: { lostTransactions: 'count, null when it could not be measured', note: 'how, or why not' },
  }),
  'canary.verify': kind({
    summary: 'Ends the canary, reads every acknowledged write back from the new primary and counts what is missing.',
    input: z.strictObject({ datastore, primary: lateNode, wait: durationMs.prefault('60s') }),
    phases: ['verify'],
    skippable: true,
    verifyMs: 300_000,
    facts: {
      acknowledged: 'writes acknowledged',
      lost: 'acknowledged writes missing on the new primary',
      refusedWindowMs: 'last acknowledged write on the old primary to first on the new one, null when either is missing',
      firstGoodWriteAtMs: 'epoch milliseconds of the first acknowledged write on the new primary',
    },
  }),
  'postgres.verifyRecentWrites': kind({
    summary: 'Shows that the new primary accepts a write through the application’s secret and still has the newest transactions.',
    input: z.strictObject({ datastore, primary: lateNode, query: z.string().optional().meta({ description: 'One SELECT giving the newest business transaction, shown in the evidence.' }) }),
    phases: ['verify'],
    skippable: true,
    facts: { newest: 'what the query gave' },
  }),
  'postgres.rebuildStandby': kind({
    summary: 'Rebuilds a fenced node as a standby of the primary: pg_rewind, else a new base backup; then it streams.',
    input: z.strictObject({ datastore, primary: node.optional().meta({ description: "Default: the node the application's secret points to." }), node: lateNode, allowBaseBackup: z.boolean().default(true), wait: durationMs.prefault('5m') }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 6 * 3_600_000,
    verifyMs: 600_000,
    attempts: 2,
    facts: { node: 'rebuilt node', method: 'pg_rewind or base backup' },
  }),
  'notify.send': kind({
    summary: 'Tells people. A receiver that is down never stops a recovery.',
    input: z.strictObject({ title: z.string().min(1), text: z.string().default(''), level: z.enum(['success', 'failure', 'attention']).default('attention') }),
    phases: ['apply', 'verify'],
    skippable: true,
    applyMs: 60_000,
    attempts: 1,
  }),
};

export function stepKind(name: string): StepKind | undefined {
  return Object.hasOwn(CATALOGUE, name) ? CATALOGUE[name] : undefined;
}

/** Name of the activity that does a phase of a kind. */
export function phaseActivity(kindName: string, phase: Phase): string {
  return `${kindName}:${phase}`;
}
