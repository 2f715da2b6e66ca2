/**
 * The way back, generated from what an execution's own record says was changed: a complete runbook document in the format of
 * runbooks/*.yaml. Pure. What the record does not say for sure is looked at first, and said in the narrative. Never run by itself.
 */
import { stepKind } from './catalogue.ts';
import { NAME_PATTERN } from './config-schema.ts';
import { isIncluded, stepInput, type ExecutionState, type Plan, type PlannedStep, type StepState } from './execution-state.ts';
import type { Json, Mode } from './runbook-schema.ts';
import { secretShape } from './secret-shape.ts';

/** Which execution a document was generated from; stands in its head as one line of JSON. */
export interface FailbackOrigin {
  readonly service: string;
  /** What the document is for: `failback`, or `failover` when it was generated from a failback. */
  readonly purpose: 'failback' | 'failover';
  readonly workflowId: string;
  readonly runId: string;
  readonly planHash: string;
  readonly epoch: number;
  /** The primary after that execution; null when its record does not say. */
  readonly primary: string | null;
  /** The node that becomes the primary again. */
  readonly returnsTo: string | null;
  readonly generatedAt: string;
}

export interface GeneratedFailback {
  /** The runbook as YAML, null when there is nothing to return from. */
  readonly document: string | null;
  /** Why there is no document. */
  readonly reason: string | null;
  readonly origin: FailbackOrigin | null;
  /** What a person must know before starting it. */
  readonly cautions: readonly string[];
}

/** Far above what is generated (about 12 kB), far below what Temporal takes as one payload (2 MB). */
export const MAX_DOCUMENT_CHARACTERS = 262_144;
export const FAILBACK_FILE = 'failback.yaml';

const ORIGIN_LINE = '# holdfast-origin: ';

/** Where a generated document comes from; null for one that was not generated, or whose head was changed beyond reading. */
export function originOf(document: string): FailbackOrigin | null {
  for (const line of document.split('\n', 60)) {
    if (!line.startsWith(ORIGIN_LINE)) continue;
    try {
      const found = JSON.parse(line.slice(ORIGIN_LINE.length)) as Record<string, unknown>;
      const texts = ['service', 'workflowId', 'runId', 'planHash', 'generatedAt'].every((key) => typeof found[key] === 'string');
      const nodes = ['primary', 'returnsTo'].every((key) => found[key] === null || typeof found[key] === 'string');
      const whole = texts && nodes && typeof found['epoch'] === 'number' && (found['purpose'] === 'failback' || found['purpose'] === 'failover');
      return whole ? (found as unknown as FailbackOrigin) : null;
    } catch {
      return null;
    }
  }
  return null;
}

/** For people: how to run it. */
export function failbackText({ document, reason, origin, cautions }: GeneratedFailback): string {
  if (document === null || origin === null) return `There is no way back: ${reason ?? 'no reason recorded'}.`;
  const { service, purpose } = origin;
  const back = origin.returnsTo ?? 'the old primary';
  return [
    `The primary is now ${origin.primary ?? 'not named in the record'}; there is no redundancy on ${back} until it is rebuilt, and it must not be started by hand without standby.signal.`,
    `The way back to ${back} was generated from what was changed and lies beside this report as ${FAILBACK_FILE}. It is never run by itself. When the cause is mended:`,
    '',
    `    holdfast failback ${service} --reason "return to ${back}"${purpose === 'failover' ? ' --forth' : ''}`,
    '',
    'or, without the command line of Holdfast:',
    '',
    `    temporal workflow start --type failover --workflow-id failover/${service} --task-queue <queue> --input "$(jq -n --rawfile document ${FAILBACK_FILE} '{service: "${service}", mode: "planned", purpose: "${purpose}", reason: "return to ${back}", requestedBy: "<you>", document: $document}')"`,
    ...(cautions.length === 0 ? [] : ['', 'Mind:', '', ...cautions.map((text) => `- ${text}`)]),
  ].join('\n');
}

/** What the record says about a step. `found`: it was so already. `left out`: by the mode or a condition. */
type Standing = 'changed' | 'found' | 'by hand' | 'skipped' | 'nothing to do' | 'left out' | 'not reached' | 'unknown';

interface Past {
  readonly planned: PlannedStep;
  readonly state: StepState;
  readonly index: number;
  readonly standing: Standing;
  /** Who decided to skip it or declared it done, and why. */
  readonly decision: string | null;
}

interface Step {
  readonly id: string;
  readonly title: string;
  readonly uses: string;
  readonly after?: string;
  /** Deadlines and attempts where the failover's runbook had its own. */
  readonly timeoutMs?: number;
  readonly attempts?: number;
  readonly retryDelayMs?: number;
  readonly deadlineMs?: number;
  readonly narrative: readonly (string | null)[];
  readonly with: Readonly<Record<string, Json>>;
}

interface Parameter {
  readonly type: string;
  readonly description: string;
  readonly required?: boolean;
  readonly default?: Json;
}

/** Kinds whose effects this way back returns, or that leave none. What else changed something is named as not returned. */
const RETURNED = new Set([
  'postgres.readOnly', 'postgres.fence', 'postgres.promote', 'postgres.checkpoint', 'postgres.rebuildStandby', 'secret.stage', 'secret.swap', 'canary.start',
  'route53.change', 'rollout.command', 'rollout.http', 'notify.send', 'controller.pause', 'controller.resume', 'postgres.repointStandbys',
]);
/** Inputs that say who and where: they are not taken over, the roles are other ones now. */
const ROLES = new Set(['datastore', 'primary', 'old', 'candidate', 'node', 'lsn', 'currentVersion', 'stagedVersion', 'forkLsn', 'timeline']);
const CERTAIN: readonly Standing[] = ['changed', 'found'];

function pastOf(plan: Plan, state: ExecutionState, index: number): Past {
  const planned = plan.steps[index]!;
  const step = state.steps[index]!;
  const decided = state.decisions.findLast((decision) => decision.step === step.id && (decision.action === 'skip' || decision.action === 'markDone'));
  const tries = state.ledger.filter((entry) => entry.step === step.id && entry.phase === 'apply' && entry.declaredBy === undefined).map((entry) => entry.outcome);
  const standing = ((): Standing => {
    if (step.status !== 'done') return step.applied || tries.length > 0 || step.status === 'undone' ? 'unknown' : 'not reached';
    // A step may have done its work and then been skipped or declared done because it could not be verified.
    if (tries.includes('changed')) return 'changed';
    if (step.outcome === 'skipped' && decided?.action !== 'skip') return tries.includes('skipped') ? 'nothing to do' : 'left out';
    if (step.outcome === 'skipped') return tries.includes('unknown') ? 'unknown' : 'skipped';
    if (decided?.action === 'markDone') return 'by hand';
    return step.outcome === 'changed' ? 'changed' : step.outcome === 'already-satisfied' ? 'found' : 'unknown';
  })();
  return { planned, state: step, index, standing, decision: decided === undefined ? null : `${said(decided.by)}: ${said(decided.reason)}` };
}

export function generateFailback(plan: Plan, state: ExecutionState, run: { workflowId: string; runId: string; atMs: number }): GeneratedFailback {
  const none = (reason: string): GeneratedFailback => ({ document: null, reason, origin: null, cautions: [] });
  if (!state.pastPointOfNoReturn) return none('nothing was promoted: there is nothing to return from');
  if (plan.service === null) return none('it ran for no service: return by hand with the runbook database-failback');
  const pasts = plan.steps.map((_, index) => pastOf(plan, state, index));
  const promote = pasts.find((past) => past.planned.uses === 'postgres.promote' && past.state.status === 'done');
  if (promote === undefined) {
    const nested = pasts.find((past) => past.planned.uses === 'runbook.run' && past.state.status === 'done');
    if (nested !== undefined) return none(`what was promoted was promoted by a run of its own (${nested.planned.id}, ${said(String(state.facts[nested.state.id]?.['execution'] ?? 'its record does not name it'))}): that one has its own way back`);
    const point = pasts.find((past) => stepKind(past.planned.uses)?.pointOfNoReturn === true);
    return none(`how to return from ${point === undefined ? 'it' : `${point.planned.id} (${point.planned.uses})`} is not known here: return by hand with the runbook database-failback`);
  }
  return new Writer(plan, state, pasts, promote, run).result(plan.service);
}

class Writer {
  readonly #plan: Plan;
  readonly #state: ExecutionState;
  readonly #pasts: readonly Past[];
  readonly #run: { readonly workflowId: string; readonly runId: string; readonly atMs: number };
  readonly #mode: Mode;
  /** The primary now, and the node it returns to; null when the record does not say. */
  readonly #now: string | null;
  readonly #back: string | null;
  /** The same as inputs of steps. */
  readonly #primary: string;
  readonly #candidate: string;
  readonly #datastore: string;
  readonly #parameters: Record<string, Parameter> = {};
  readonly #steps: Step[] = [];
  readonly #cautions: string[] = [];

  constructor(plan: Plan, state: ExecutionState, pasts: readonly Past[], promote: Past, run: { workflowId: string; runId: string; atMs: number }) {
    this.#plan = plan;
    this.#state = state;
    this.#pasts = pasts;
    this.#run = run;
    this.#mode = state.mode;
    const inputs = stepInput(plan, state, promote.index).value;
    this.#now = nodeName(inputs['candidate']) ?? nodeName(this.#fact('postgres.health', 'candidate'));
    const before = nodeName(inputs['primary']) ?? nodeName(this.#fact('postgres.health', 'primary'));
    this.#back = before === this.#now ? null : before;
    this.#primary = this.#now ?? '${steps.confirm.primary}';
    this.#candidate = this.#back ?? '${parameters.node}';
    const datastore = nodeName(inputs['datastore']);
    this.#datastore = datastore ?? '${parameters.datastore}';
    if (datastore === null) this.#parameters['datastore'] = { type: 'string', required: true, description: 'The PostgreSQL datastore; the record does not name it.' };
    if (this.#back === null) {
      this.#parameters['node'] = { type: 'string', required: true, description: 'The fenced node to return to; the record does not name it.' };
      this.#caution('the record does not say which node was the primary before: look at it and give the parameter node');
    }
    if (this.#now === null) this.#caution('the record does not say which node was promoted: the node that the secret points to is taken for the primary');
  }

  result(service: string): GeneratedFailback {
    this.#write();
    const purpose = this.#plan.kind === 'failback' ? 'failover' : 'failback';
    const origin: FailbackOrigin = {
      service, purpose, workflowId: this.#run.workflowId, runId: this.#run.runId, planHash: this.#plan.hash, epoch: this.#state.epoch,
      primary: this.#now, returnsTo: this.#back, generatedAt: new Date(this.#run.atMs).toISOString(),
    };
    return { document: this.#document(origin), reason: null, origin, cautions: this.#cautions };
  }

  /** The order is that of runbooks/database-failback.yaml, which is the same way by hand; a test holds both together. */
  #write(): void {
    const [now, back] = [this.#now ?? 'the present primary', this.#back ?? 'the old primary'];
    const roles = { primary: this.#primary, candidate: this.#candidate };
    const fence = this.#fenceSeen();
    const promoted = this.#of('postgres.promote').some(({ standing }) => CERTAIN.includes(standing));
    const swaps = this.#of('secret.swap');
    const endpoint = [...swaps, ...this.#of('canary.start')].some(({ standing }) => standing !== 'left out');
    const fenced = fence.methods.length === 0 ? `The record does not say how ${back} was fenced.` : `The failover fenced ${back}: ${fence.methods.join('; ')} (epoch ${this.#state.epoch}).`;
    const approve = `$ holdfast approve ${plain(this.#run.workflowId)} --reason "..."`;

    if (this.#now !== null && (!promoted || (swaps.length > 0 && !swaps.some(({ standing }) => CERTAIN.includes(standing))))) {
      const why = promoted ? this.#doubt('that the secret was swapped', swaps) : this.#doubt(`that ${now} was promoted`, this.#of('postgres.promote'));
      this.#caution(why);
      this.#add({
        id: 'check-primary', title: `Look first: is ${now} the primary?`, uses: 'postgres.verifyRecentWrites',
        narrative: [`${capital(why)}. So nothing is changed before the application's own secret points to ${now}, lets it log in, and finds it writable.`, `By hand on ${now}:`, "$ select pg_is_in_recovery(), current_setting('transaction_read_only');"],
        with: { datastore: this.#datastore, primary: this.#primary },
      });
    }
    if (!fence.certain) {
      const why = this.#doubt(`that ${back} is fenced`, this.#of('postgres.fence'));
      this.#caution(why);
      this.#add({
        id: 'check-old-fence', title: `Look first: does ${back} take no write?`, uses: 'postgres.verifyFence',
        narrative: [`${capital(why)}. It must be down, in recovery, or refusing before anything else is done.`, `If it lets anyone write there are two primaries: stop it by hand, and find out what was written there.`],
        with: { datastore: this.#datastore, node: this.#candidate },
      });
    }
    const loss = this.#loss();
    if (loss !== null) {
      this.#caution(loss);
      this.#add({
        id: 'approve-discard', title: `Approve that what only ${back} holds is discarded`, uses: 'operator.approval',
        narrative: [
          `${capital(loss)}. The rebuild that comes next discards them for good: ${back} is their only copy.`,
          'Keep a copy of its data directory first if anybody will want them; the second command shows the commits.',
          '$ cp -a <data> <elsewhere>',
          '$ pg_waldump --rmgr=Transaction -p <data>/pg_wal <first segment after the fork>',
          "As many people as the service's policy asks for, none of them the one who started this.",
          approve,
        ],
        with: {},
      });
    }
    // Whatever else switches roles is looked for as in the failover, also where that found none: it may be there by now.
    const controller = this.#of('controller.pause').some(({ standing }) => standing !== 'left out');
    const pause = (id: string, title: string, why: string, primary: string | null): void => {
      this.#add({ id, title, uses: 'controller.pause', narrative: [`${why} Without Patroni nothing is done. By hand:`, '$ patronictl pause --wait <cluster>'], with: { datastore: this.#datastore, ...(primary === null ? {} : { primary }) } });
    };
    const resume = (id: string, title: string, why: string, primary: string | null): void => {
      this.#add({ id, title, uses: 'controller.resume', narrative: [`${why} By hand, when the list shows the primary as Leader:`, '$ patronictl list <cluster>', '$ patronictl resume --wait <cluster>'], with: { datastore: this.#datastore, ...(primary === null ? {} : { primary }) } });
    };
    if (controller) pause('pause-for-rebuild', 'Pause Patroni for the rebuild', `While the files of ${back} are being replaced Patroni must not start it.`, this.#now);
    const host = this.#hostReached();
    if (!host && this.#mode === 'forced') this.#caution(`nobody reached the host of ${back} during the failover: it must be there again before this is started; an empty data directory is enough`);
    this.#add({
      id: 'rebuild', title: `Rebuild ${back} as a standby of ${now}`, uses: 'postgres.rebuildStandby',
      narrative: [
        `${fenced} Its server is stopped, rewound to where the timelines parted (pg_rewind), and started as a standby of ${now}; what it wrote after that point is discarded. If it cannot be rewound (no wal_log_hints or checksums, WAL that is gone, no files), it gets a new base backup; the old files are removed only when that is complete. Writes go on meanwhile. It is done when ${back} streams and has replayed a position of ${now}.`,
        host || this.#mode !== 'forced' ? null : `Nobody reached its host during the failover. Give it one first, at the address of nodes.${back} in holdfast.yaml, with the server's programs; without files there is nothing to rewind, and it gets a base backup.`,
        ...this.#keptFrom('postgres.rebuildStandby'),
        `By hand on ${back}:`,
        '$ pg_ctl -D <data> -m fast stop',
        `$ pg_rewind -R --target-pgdata=<data> --source-server="host=<${now}> user=<admin> dbname=postgres"`,
        'or, into an empty directory:',
        `$ pg_basebackup -R -D <data> -d "host=<${now}> user=<replication>" -X stream -c fast`,
        'then, with standby.signal and primary_conninfo in place:',
        '$ pg_ctl -D <data> start',
        'and when it is in recovery, remove the lines from BEGIN to END HOLDFAST FENCE in pg_hba.conf and reload.',
      ],
      with: { datastore: this.#datastore, ...(this.#now === null ? {} : { primary: this.#now }), node: this.#candidate, ...this.#carried('postgres.rebuildStandby') },
    });
    if (controller) resume('resume-after-rebuild', 'Resume Patroni with the rebuilt node', `Patroni takes ${back} over as its replica, and protects the service again while this waits for approval.`, this.#now);
    this.#add({
      id: 'confirm', title: 'Confirm the roles', uses: 'postgres.health', after: 'rebuild',
      narrative: [
        `${now} answers and is writable; ${back} is in recovery, streams from it, and its lag is small.`,
        ...this.#keptFrom('postgres.health'),
        'By hand on each node:',
        '$ select pg_is_in_recovery(), pg_last_wal_replay_lsn();',
      ],
      with: { datastore: this.#datastore, ...(this.#now === null ? {} : { primary: this.#now }), candidate: this.#candidate, ...this.#carried('postgres.health', ['attempts']) },
    });
    this.#add({
      id: 'approve', title: 'Wait for approval of the switchover', uses: 'operator.approval',
      narrative: [
        `An approval of its own: that of the failover does not count here. As many people as the service's policy asks for (approval.failback), none of them the one who started this. It expires into denied; ${back} then stays what it is by now, a standby.`,
        approve,
      ],
      with: {},
    });
    if (endpoint) {
      this.#add({
        id: 'stage-secret', title: "Prepare the application's secret", uses: 'secret.stage',
        narrative: [
          `A new version of the secret, pointing to ${back}, is put beside the current one; applications do not see it yet. Refused when the secret does not point to ${now}: then this document is no longer about the present.`,
          `By hand, with the host and port of ${back} in new.json:`,
          '$ aws secretsmanager put-secret-value --secret-id <id> --version-stages HOLDFAST-STAGED --secret-string file://new.json',
        ],
        with: { datastore: this.#datastore, ...roles },
      });
    }
    if (controller) pause('pause-controller', 'Pause Patroni', `Two controllers must not act at once: a Patroni that is not told would demote ${back} once it is promoted. Every member must say itself that it has read the pause.`, this.#primary);
    this.#add({
      id: 'checkpoint', title: 'Checkpoint both nodes', uses: 'postgres.checkpoint', after: 'rebuild',
      narrative: ['Promotion is quick when there is little left to write. By hand on both nodes:', '$ checkpoint;'],
      with: { datastore: this.#datastore, ...roles },
    });
    if (endpoint) {
      this.#add({
        id: 'canary', title: 'Start the canary', uses: 'canary.start',
        narrative: [
          "A writer through the application's own secret and endpoint records each acknowledged write. It measures for how long writes were refused and whether any was lost, for this switchover alone.",
          ...this.#keptFrom('canary.start'),
          'By hand: a loop of inserts with a counter and the time.',
        ],
        with: { datastore: this.#datastore, ...roles, ...this.#carried('canary.start') },
      });
    } else this.#caution('there is no endpoint secret: nothing measures the refused writes and what was lost');
    this.#add({
      id: 'read-only', title: `Refuse writes on ${now}`, uses: 'postgres.readOnly',
      narrative: [
        'From here writes are refused. Nobody but the administrator and replication is let in any more, every session is ended, any third node is turned to the node that is promoted next (what this one still writes by itself must not take it past the point where the new timeline begins), and the WAL position after the last acknowledged write is read.',
        `By hand on ${now}: put "host all all all reject" (and "local all all reject") first in pg_hba.conf, below a line for yourself, then:`,
        '$ select pg_reload_conf();',
        "$ select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid();",
        'On each third node, then again here:',
        `$ alter system set primary_conninfo = 'host=<${back}> ...'; select pg_reload_conf();`,
        '$ select pg_current_wal_flush_lsn();',
        'Back: remove the lines and reload; point the third nodes back. If nothing goes on within the deadline, that is done by itself.',
      ],
      with: { datastore: this.#datastore, ...roles },
    });
    this.#add({
      id: 'await-replay', title: `Wait until ${back} has everything`, uses: 'postgres.awaitReplay', after: 'rebuild',
      narrative: [`Until ${back} has replayed the WAL position read above. By hand on ${back}:`, '$ select pg_last_wal_replay_lsn();'],
      with: { datastore: this.#datastore, candidate: this.#candidate, lsn: '${steps.read-only.lsn}', ...this.#carried('postgres.awaitReplay') },
    });
    this.#add({
      id: 'promote', title: `Promote ${back} (point of no return)`, uses: 'postgres.promote', after: 'rebuild',
      narrative: ['After this nothing is undone. If the answer is lost, look before you repeat: select pg_is_in_recovery();', `By hand on ${back}:`, '$ select pg_promote();'],
      with: { datastore: this.#datastore, ...roles },
    });
    this.#add({
      id: 'check-fence', title: `Prove that ${now} takes no write`, uses: 'postgres.verifyFence',
      narrative: ['Down, in recovery, or refusing. If it lets anyone write now there are two primaries: stop it by hand at once.'],
      with: { datastore: this.#datastore, node: this.#primary },
    });
    if (endpoint) {
      this.#add({
        id: 'swap-secret', title: 'Give the application the new endpoint', uses: 'secret.swap',
        narrative: [
          'The prepared version becomes current, only if the version it was made from still is (nobody rotated the password meanwhile; if somebody did, the change is kept and carried over).',
          'By hand:',
          '$ aws secretsmanager update-secret-version-stage --secret-id <id> --version-stage AWSCURRENT --move-to-version-id <staged> --remove-from-version-id <current>',
        ],
        with: { datastore: this.#datastore, candidate: this.#candidate, currentVersion: '${steps.stage-secret.currentVersion}', stagedVersion: '${steps.stage-secret.stagedVersion}' },
      });
    }
    this.#add({
      id: 'repoint', title: `Have the other standbys follow ${back}`, uses: 'postgres.repointStandbys', after: 'rebuild',
      narrative: [
        `Before ${now} is stopped: what it would still send on its way down would take them past the point where the new timeline began. One that is past it already is left alone and named: it has to be rebuilt. By hand on each:`,
        `$ alter system set primary_conninfo = 'host=<${back}> ...'; select pg_reload_conf();`,
      ],
      with: { datastore: this.#datastore, primary: this.#candidate, old: this.#primary, ...this.#carried('postgres.repointStandbys') },
    });
    for (const past of this.#of('route53.change')) this.#addDns(past, back);
    this.#add({
      id: 'fence', title: `Fence ${now} for good`, uses: 'postgres.fence',
      narrative: [
        'It already refuses everybody but the administrator. Now it is also made to start in recovery, so that a reboot does not bring it back writable, and it is stopped where its host can be reached.',
        `By hand on ${now}:`,
        '$ touch <data>/standby.signal',
        '$ pg_ctl -D <data> -m fast stop',
      ],
      with: { datastore: this.#datastore, node: this.#primary },
    });
    for (const past of this.#pasts) if (past.planned.uses.startsWith('rollout.')) this.#addRollout(past);
    this.#add({
      id: 'verify-lag', title: 'Verify the remaining standbys', uses: 'postgres.verifyLag',
      narrative: [
        `Every standby that is left follows ${back}. If none is left there is no redundancy: rebuild ${now} (runbook standby-rebuild).`,
        `By hand on ${back}:`,
        '$ select application_name, state, replay_lag from pg_stat_replication;',
      ],
      with: { datastore: this.#datastore, primary: this.#candidate, ...this.#carried('postgres.verifyLag') },
    });
    if (endpoint) {
      this.#add({
        id: 'verify-canary', title: 'Read every acknowledged canary write back', uses: 'canary.verify',
        narrative: [`Each write that was acknowledged must be on ${back}. The time between the last one on ${now} and the first one on ${back} is the refused-write window.`],
        with: { datastore: this.#datastore, primary: this.#candidate, ...this.#carried('canary.verify') },
      });
    }
    this.#add({
      id: 'verify-writes', title: 'Verify recent transactions', uses: 'postgres.verifyRecentWrites',
      narrative: [
        "With the application's own secret: it logs in, the server is not in recovery and transactions are read-write. Look at the newest business transaction with your own eyes.",
        ...this.#keptFrom('postgres.verifyRecentWrites'),
      ],
      with: { datastore: this.#datastore, primary: this.#candidate, ...this.#carried('postgres.verifyRecentWrites') },
    });
    if (controller) resume('resume-controller', 'Resume Patroni', `Only once Patroni itself names ${back} as its leader: it would demote a primary without the leader's key. Then it starts ${now} as a replica by itself.`, this.#candidate);
    this.#add({
      id: 'tell', title: 'Tell people', uses: 'notify.send',
      narrative: [`Say that ${back} is the primary again, and that ${now} is fenced and no standby until it is rebuilt.`],
      with: { title: `\${service} runs on ${this.#candidate} again`, text: `Switched back from ${this.#primary} to ${this.#candidate}, as generated from run ${plain(this.#run.runId)}. The evidence follows.` },
    });
    this.#others();
  }

  /** The record was changed, or may have been: then it is looked at first, and left alone when it is right. */
  #addDns(past: Past, back: string): void {
    const { standing, planned } = past;
    if (standing === 'skipped' || standing === 'not reached') {
      this.#caution(`DNS is left alone as in the failover (${planned.id}: ${past.decision === null ? standing : `skipped by ${past.decision}`}): look by hand where the record points`);
      return;
    }
    if (standing === 'left out' || standing === 'nothing to do') return;
    const doubt = CERTAIN.includes(standing) ? null : this.#doubt('that the DNS record was changed', [past]);
    if (doubt !== null) this.#caution(doubt);
    this.#add({
      id: this.#free(planned.id, 'dns'), title: `Point the DNS record to ${back}`, uses: 'route53.change',
      narrative: [
        'For whatever finds the database by name. Waits until Route 53 says INSYNC; resolvers may keep the old answer for the record’s TTL.',
        doubt === null ? null : `${capital(doubt)}. It is read first, and left alone when it points to ${back} already.`,
        'By hand:',
        '$ aws route53 change-resource-record-sets --hosted-zone-id <zone> --change-batch file://change.json',
      ],
      with: { datastore: this.#datastore, candidate: this.#candidate },
    });
  }

  #addRollout(past: Past): void {
    const { standing, planned } = past;
    if (standing === 'skipped' || standing === 'not reached') {
      this.#caution(`${planned.id} is left out as in the failover (${past.decision === null ? standing : `skipped by ${past.decision}`}): the application may have to be told by hand`);
      return;
    }
    if (standing === 'left out' || standing === 'nothing to do') return;
    const inputs = this.#inputsOf(past);
    // Declared done although nothing was configured: there is nothing to run here either.
    const what = planned.uses === 'rollout.command' ? inputs['argv'] : inputs['url'];
    if (what === undefined || what === '' || (Array.isArray(what) && what.length === 0)) {
      if (!CERTAIN.includes(standing)) this.#caution(`${planned.id} was not done by Holdfast (${past.decision ?? standing}): the application may have to be told by hand`);
      return;
    }
    const doubt = CERTAIN.includes(standing) ? null : this.#doubt(`that ${planned.id} did its work`, [past]);
    if (doubt !== null) this.#caution(doubt);
    this.#add({
      id: this.#free(planned.id, 'rollout'), title: said(planned.title), uses: planned.uses,
      narrative: [
        'The same as the failover did, with the same inputs: for applications that read their secret only when they are told to or start.',
        doubt === null ? null : `${capital(doubt)}. Look at the inputs before you start this.`,
        `By hand: ${planned.uses === 'rollout.command' ? 'run the command below' : 'call the URL below'}, or what makes the application read its secret again, such as kubectl rollout restart deployment/<name>`,
      ],
      with: inputs,
    });
  }

  /** Effects of kinds that this way back does not return. */
  #others(): void {
    for (const { planned, standing } of this.#pasts) {
      const changes = stepKind(planned.uses)?.phases.includes('apply') === true;
      if (!changes || RETURNED.has(planned.uses) || !['changed', 'by hand', 'unknown'].includes(standing)) continue;
      this.#caution(`${planned.id} (${planned.uses}) changed something that is not returned here: look at its effect in the evidence`);
    }
  }

  #of(uses: string): Past[] {
    return this.#pasts.filter((past) => past.planned.uses === uses);
  }

  #fact(uses: string, fact: string): Json | undefined {
    for (const step of this.#state.steps) {
      const facts = step.uses === uses ? this.#state.facts[step.id] : undefined;
      if (facts !== undefined && Object.hasOwn(facts, fact)) return facts[fact];
    }
    return undefined;
  }

  #fenceSeen(): { certain: boolean; methods: string[] } {
    const fences = this.#of('postgres.fence');
    const methods = this.#state.ledger
      .filter((entry) => entry.uses === 'postgres.fence' && entry.phase === 'apply')
      .flatMap((entry) => (entry.after !== null && typeof entry.after === 'object' && 'methods' in entry.after && Array.isArray(entry.after.methods) ? entry.after.methods.map(String) : []));
    const refused = this.#of('postgres.readOnly').some(({ standing }) => standing === 'changed') ? ['the block in pg_hba.conf'] : [];
    return { certain: fences.some(({ standing }) => CERTAIN.includes(standing)), methods: [...new Set([...refused, ...methods])].map(said) };
  }

  /** Somebody was on the old primary's host, or in its server, while it was failed over. */
  #hostReached(): boolean {
    return this.#fenceSeen().methods.some((method) => /host|SQL|pg_hba/.test(method)) || typeof this.#fact('postgres.measureLoss', 'lostTransactions') === 'number';
  }

  /** What the old primary acknowledged and nobody else has. null when it is known to be nothing. */
  #loss(): string | null {
    const back = this.#back ?? 'the old primary';
    if (this.#mode !== 'forced') {
      const missing = this.#fact('canary.verify', 'lost');
      if (typeof missing === 'number' && missing > 0) return `${missing} write(s) that ${back} acknowledged to the canary are nowhere else, and whatever else was acknowledged then`;
      const awaits = this.#of('postgres.awaitReplay').filter(({ standing }) => standing !== 'left out');
      if (awaits.length === 0 || awaits.some(({ standing }) => standing === 'changed' || standing === 'found')) return null;
      return `nobody saw that ${this.#now ?? 'the present primary'} had replayed everything that ${back} acknowledged (${awaits.map(({ planned, standing, decision }) => `${planned.id}: ${standing}${decision === null ? '' : `, ${decision}`}`).join('; ')}); what it lacks was not measured`;
    }
    const declared = this.#of('postgres.measureLoss').find(({ standing }) => standing === 'by hand');
    if (declared !== undefined) return `how many transactions ${back} acknowledged that are nowhere else was declared, not measured (${declared.decision ?? 'by hand'})`;
    const lost = this.#fact('postgres.measureLoss', 'lostTransactions');
    if (lost === 0) return null;
    return typeof lost === 'number' ? `${lost} transaction(s) were acknowledged by ${back} and are nowhere else` : `how many transactions ${back} acknowledged that are nowhere else was not measured`;
  }

  #doubt(what: string, pasts: readonly Past[]): string {
    const said = pasts.filter(({ standing }) => standing !== 'left out').map(({ planned, standing, decision }) => `${planned.id}: ${standing}${standing === 'by hand' && decision !== null ? `, ${decision}` : ''}`);
    return `the record does not show ${what} (${said.length === 0 ? 'no step did it' : said.join('; ')})`;
  }

  /** Inputs of the failover's step of that kind, as it ran, without the roles. */
  #carried(uses: string, without: readonly string[] = []): Record<string, Json> {
    const past = this.#of(uses).find(({ index }) => isIncluded(this.#plan, this.#state, index));
    if (past === undefined) return {};
    const kept = Object.entries(this.#inputsOf(past)).filter(([key]) => !ROLES.has(key) && !without.includes(key));
    return Object.fromEntries(kept);
  }

  #keptFrom(uses: string): string[] {
    return Object.keys(this.#carried(uses, ['attempts'])).length === 0 ? [] : ['Its other inputs are those of the failover.'];
  }

  /** A step's inputs as written, with the parameters of that run filled in and facts referred to where this document has them. */
  #inputsOf({ planned }: Past): Record<string, Json> {
    const filled: Record<string, Json> = {};
    for (const [key, value] of Object.entries(planned.with)) {
      const found = this.#translate(value);
      if (found !== undefined) filled[key] = found;
    }
    return filled;
  }

  #translate(value: Json): Json | undefined {
    if (typeof value === 'string') return this.#translateText(value);
    if (Array.isArray(value)) return value.map((item: Json) => this.#translate(item)).filter((item) => item !== undefined);
    if (value === null || typeof value !== 'object') return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.#translate(item as Json)] as const).filter((entry): entry is [string, Json] => entry[1] !== undefined));
  }

  #translateText(text: string): Json | undefined {
    const pieces = text.split(/(\$\{[^}]*\})/).filter((piece) => piece !== '');
    const resolved: { readonly value: Json; readonly reference: boolean }[] = [];
    for (const piece of pieces) {
      if (!piece.startsWith('${')) {
        resolved.push({ value: piece, reference: false });
        continue;
      }
      const found = this.#reference(piece.slice(2, -1).trim());
      if (found === undefined) return undefined;
      resolved.push(found);
    }
    const [only] = resolved;
    if (resolved.length === 1 && typeof only!.value !== 'string') return this.#literal(only!.value, text);
    // Texts beside each other are one text: only so can what looks like a reference in them be seen.
    let result = '';
    let literal = '';
    const flush = (): void => {
      result += literal.includes('${') || secretShape(literal) !== undefined ? String(this.#literal(literal, text)) : literal;
      literal = '';
    };
    for (const { value, reference } of resolved) {
      if (!reference) literal += typeof value === 'string' ? value : JSON.stringify(value);
      else {
        flush();
        result += String(value);
      }
    }
    flush();
    return result;
  }

  /** What a reference of the failover's runbook stands for: a value of that run, or a reference that this document has as well. */
  #reference(name: string): { value: Json; reference: boolean } | undefined {
    const [head, part, fact] = name.split('.');
    if (head === 'service' || head === 'mode') return { value: `\${${head}}`, reference: true };
    if (head === 'parameters') {
      const value = part !== undefined && Object.hasOwn(this.#plan.parameters, part) ? this.#plan.parameters[part] : undefined;
      return value === undefined ? undefined : { value, reference: false };
    }
    if (head !== 'steps' || part === undefined || fact === undefined) return undefined;
    const uses = this.#plan.steps.find((step) => step.id === part)?.uses;
    const here = this.#steps.findLast((step) => step.uses === uses);
    if (here !== undefined && uses !== undefined && Object.hasOwn(stepKind(uses)?.facts ?? {}, fact)) return { value: `\${steps.${here.id}.${fact}}`, reference: true };
    const facts = this.#state.facts[part];
    const value = facts !== undefined && Object.hasOwn(facts, fact) ? facts[fact] : undefined;
    if (value === undefined) return undefined;
    this.#caution(`an input holds ${fact} of the failover's step ${said(part)}, as it was then`);
    return { value, reference: false };
  }

  /** A value of that run as it can stand in a document: what looks like a reference goes by a parameter, a secret stays out. */
  #literal(value: Json, written: string): Json {
    if (Array.isArray(value)) return value.map((item: Json) => this.#literal(item, ''));
    if (value !== null && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.#literal(item as Json, '')]));
    if (typeof value !== 'string') return value;
    if (secretShape(value) !== undefined) {
      const name = /^\$\{parameters\.([a-z][A-Za-z0-9]*)\}$/.exec(written)?.[1] ?? this.#freeParameter('withheld');
      this.#parameters[name] ??= { type: 'string', required: true, description: 'As in the failover; kept out of this document, since it looks like a secret.' };
      this.#caution(`the parameter ${name} must be given: its value looks like a secret and is not in the document`);
      return `\${parameters.${name}}`;
    }
    if (!value.includes('${')) return value;
    const known = Object.entries(this.#parameters).find(([, parameter]) => parameter.default === value)?.[0];
    const name = known ?? this.#freeParameter('asRun');
    this.#parameters[name] = { type: 'string', default: value, description: 'A text of the failover’s inputs, taken as it is.' };
    return `\${parameters.${name}}`;
  }

  #freeParameter(stem: string): string {
    for (let number = 1; ; number += 1) if (!Object.hasOwn(this.#parameters, `${stem}${number}`)) return `${stem}${number}`;
  }

  /** The id that the step had, or one that is free. */
  #free(wanted: string, stem: string): string {
    const taken = (id: string): boolean => this.#steps.some((step) => step.id === id) || FIXED_IDS.has(id);
    if (NAME_PATTERN.test(wanted) && !taken(wanted)) return wanted;
    for (let number = 1; ; number += 1) if (!taken(`${stem}-${number}`)) return `${stem}-${number}`;
  }

  #add(step: Step): void {
    const kind = stepKind(step.uses)!;
    const before = this.#of(step.uses).find(({ index }) => isIncluded(this.#plan, this.#state, index))?.planned;
    const own = before === undefined || !kind.phases.includes('apply') ? {} : { ...(before.applyMs === kind.applyMs ? {} : { timeoutMs: before.applyMs }), ...(before.attempts === kind.attempts ? {} : { attempts: before.attempts }), ...(before.retryDelayMs === undefined ? {} : { retryDelayMs: before.retryDelayMs }), ...(before.deadlineMs == null ? {} : { deadlineMs: before.deadlineMs }) };
    this.#steps.push({ ...own, ...step });
  }

  #caution(text: string): void {
    if (!this.#cautions.includes(text)) this.#cautions.push(text);
  }

  #document(origin: FailbackOrigin): string {
    const [now, back] = [this.#now ?? 'the present primary', this.#back ?? 'the old primary'];
    const effects = this.#state.ledger.filter((entry) => entry.outcome === 'changed' || entry.outcome === 'unknown');
    const word = origin.purpose === 'failback' ? 'Failback' : 'Way forth again';
    const lines = [
      `# ${word} of ${plain(origin.service)}: from ${now} to ${back}. Generated by Holdfast; never run by itself.`,
      `# From the ${this.#mode} ${plain(this.#plan.kind)} ${plain(origin.workflowId)}, run ${plain(origin.runId)}, runbook ${plain(this.#plan.runbook)},`,
      `# plan ${plain(origin.planHash)}, epoch ${origin.epoch}; at ${origin.generatedAt}.`,
      '# Run it, when the cause is mended:',
      `#   holdfast failback ${plain(origin.service)} --reason "..."${origin.purpose === 'failover' ? ' --forth' : ''}`,
      `${ORIGIN_LINE}${JSON.stringify(origin)}`,
      `name: generated-${origin.purpose}`,
      `title: ${scalar(`${word} to ${back}`)}`,
      ...block('summary', [
        `Returns ${plain(origin.service)} from ${now} to ${back}, as generated from run ${plain(origin.runId)} of ${plain(origin.workflowId)}. ${back} is rebuilt as a standby, catches up, and a planned switchover with an approval and figures of its own makes it the primary. Valid only while ${now} is the primary; the guards refuse it otherwise.`,
        'What that run changed:',
        ...(effects.length === 0 ? ['- nothing that is in its ledger'] : effects.map((entry) => `- ${entry.step} (${entry.uses})${entry.phase === 'undo' ? ', undone' : ''}: ${entry.declaredBy === undefined ? entry.outcome : `declared done by ${said(entry.declaredBy)}`}${entry.outcome === 'changed' && entry.declaredBy === undefined ? `, ${shownJson(entry.before)} -> ${shownJson(entry.after)}` : ''}`)),
        ...(this.#cautions.length === 0 ? [] : ['Mind:', ...this.#cautions.map((text) => `- ${text}`)]),
      ], ''),
    ];
    if (Object.keys(this.#parameters).length > 0) {
      lines.push('parameters:');
      for (const [name, parameter] of Object.entries(this.#parameters)) lines.push(`  ${name}:`, ...Object.entries(parameter).map(([key, value]) => `    ${key}: ${scalar(value as Json)}`));
    }
    lines.push(`readOnlyDeadline: ${this.#plan.readOnlyDeadlineMs}ms`, ...(this.#plan.retryBudget === undefined ? [] : [`retryBudget: ${this.#plan.retryBudget}`]), 'steps:');
    for (const [index, step] of this.#steps.entries()) {
      if (index > 0) lines.push('');
      lines.push(`  - id: ${scalar(step.id)}`, `    title: ${scalar(step.title)}`, `    uses: ${step.uses}`);
      if (step.after !== undefined) lines.push(`    after: ${step.after}`);
      if (step.timeoutMs !== undefined) lines.push(`    timeout: ${step.timeoutMs}ms`);
      if (step.attempts !== undefined) lines.push(`    attempts: ${step.attempts}`);
      if (step.retryDelayMs !== undefined) lines.push(`    retryDelay: ${step.retryDelayMs}ms`);
      if (step.deadlineMs !== undefined) lines.push(`    deadline: ${step.deadlineMs}ms`);
      lines.push(...block('narrative', step.narrative, '    '));
      const inputs = Object.entries(step.with);
      if (inputs.length > 0) lines.push('    with:', ...inputs.map(([key, value]) => `      ${scalar(key)}: ${scalar(value)}`));
    }
    return `${lines.join('\n')}\n`;
  }
}

/** Ids that this document uses itself. */
const FIXED_IDS = new Set([
  'pause-for-rebuild', 'resume-after-rebuild', 'pause-controller', 'resume-controller', 'check-primary', 'check-old-fence', 'approve-discard', 'rebuild', 'confirm', 'approve', 'stage-secret', 'checkpoint', 'canary', 'read-only', 'await-replay', 'promote',
  'check-fence', 'swap-secret', 'repoint', 'fence', 'verify-lag', 'verify-canary', 'verify-writes', 'tell',
]);

function nodeName(value: unknown): string | null {
  return typeof value === 'string' && NAME_PATTERN.test(value) ? value : null;
}

/** Text of somebody else on one line: nothing that could end it, and no secret. */
function plain(text: string): string {
  const line = text.replaceAll(/[\p{C}\s]+/gu, ' ').trim();
  return secretShape(line) === undefined ? line : '(not shown: it looks like a secret)';
}

function said(text: string): string {
  const line = plain(text);
  return line.length > 200 ? `${line.slice(0, 197).toWellFormed()}...` : line;
}

function shownJson(value: Json): string {
  return said(typeof value === 'string' ? value : JSON.stringify(value));
}

function capital(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`;
}

const WIDTH = 116;

/** A literal block of wrapped paragraphs. What begins with `$ ` is a command: it stands on a line of its own, as it is to be typed. */
function block(key: string, paragraphs: readonly (string | null)[], indent: string): string[] {
  const lines = paragraphs.filter((paragraph) => paragraph !== null).flatMap((paragraph) => (paragraph.startsWith('$ ') ? [`  ${plain(paragraph.slice(2))}`] : wrap(plain(paragraph)).map((line, index) => (index > 0 && paragraph.startsWith('- ') ? `  ${line}` : line))));
  return [`${indent}${key}: |`, ...lines.map((line) => `${indent}  ${line}`)];
}

function wrap(text: string): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > WIDTH) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].filter((text) => text !== '');
}

/** JSON is YAML; bare where nobody could read it as something else. */
function scalar(value: Json): string {
  if (typeof value === 'string' && (/^\$\{[\w.-]+\}$/.test(value) || (/^[A-Za-z][\w ,().'’/?-]*$/.test(value) && !/\s$/.test(value) && !/^(true|false|null|yes|no|on|off|y|n)$/i.test(value)))) return value;
  // YAML takes no raw control characters, not even those that JSON leaves as they are.
  return JSON.stringify(value).replaceAll(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
