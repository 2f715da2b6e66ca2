/**
 * Each step kind by hand: the commands that a person with psql, aws, ssh and a POSIX shell types when Temporal is down. One entry a kind;
 * a test holds this table against the catalogue. Pure: hosts, ports, folders and ids come from the configuration, secrets never do.
 */
import type { Config, NodeConfig, PostgresDatastore } from './config-schema.ts';
import { HoldfastError } from './errors.ts';
import type { Mode } from './runbook-schema.ts';
import { formatDuration } from './units.ts';

export interface ByHandCall {
  readonly step: string;
  readonly uses: string;
  readonly mode: Mode;
  readonly service: string | null;
  /** Inputs that are known, roles filled in. */
  readonly inputs: Readonly<Record<string, unknown>>;
  /** Inputs that come up on the way: the file below $HF in which an earlier step left them. */
  readonly kept: Readonly<Record<string, string>>;
  readonly roles: { readonly primary: string | null; readonly candidate: string | null };
  readonly approvals: number;
  readonly readOnlyDeadlineMs: number;
  readonly config: Pick<Config, 'datastores' | 'aws' | 'notify'>;
}

/** `check` comes before or after; `undo` and `else` are not part of the straight way. */
export interface ByHandBlock {
  readonly kind: 'check' | 'do' | 'undo' | 'else';
  readonly text: string;
  readonly sh: string;
  /** The last line it prints when all is well is one of these. */
  readonly prints?: readonly string[];
  /** What its last line looks like, where it cannot be foreseen. */
  readonly like?: string;
}

export interface ByHand {
  readonly blocks: readonly ByHandBlock[];
  /** Said where there is nothing to type. */
  readonly say?: readonly string[];
  /** When not to go on. */
  readonly stop: readonly string[];
  readonly broken: string;
}

type PatroniController = Extract<NonNullable<PostgresDatastore['controller']>, { type: 'patroni' }>;
type Host = NodeConfig & { readonly dataDirectory: string };

export const FENCE_BEGIN = '# BEGIN HOLDFAST FENCE';
export const FENCE_END = '# END HOLDFAST FENCE';

export const BY_HAND: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'postgres.health': (call) => (call.mode === 'planned' ? healthPlanned(call) : healthForced(call)),
  'operator.approval': (call) => {
    const count = typeof call.inputs['count'] === 'number' ? call.inputs['count'] : call.approvals;
    return {
      blocks: [],
      say: [count === 0 ? 'The policy asks for no approval. Say aloud, in the channel where people are, what you are about to do, and wait a moment.' : `${count} other ${count === 1 ? 'person' : 'people'} must agree, none of them the one who does this. Names and times: ____________________________`],
      stop: ['somebody who knows this service says no'],
      broken: 'nobody can be reached: write down whom you tried and when; the decision is yours',
    };
  },
  'operator.wait': (call) => ({ blocks: [run('do', 'Wait.', `sleep ${Math.ceil(Number(call.inputs['duration'] ?? 0) / 1000)}`)], stop: [], broken: 'nothing can break here' }),
  'postgres.checkpoint': (call) => ({
    blocks: ['primary', 'candidate'].map((role) => run('do', `Checkpoint on ${nodeName(call, role)}: promotion is quick when there is little left to write.`, `${psql(call, nodeName(call, role), 'checkpoint')} && echo done`, ['done'])),
    stop: [],
    broken: 'it only makes the promotion slower: go on without it',
  }),
  'secret.stage': secretStage,
  'canary.start': (call) => ({
    blocks: [],
    say: [`Left out by hand. Nothing depends on it, but without it the refused-write window and the lost writes are NOT MEASURED. Note the time of the last good write in the log of ${call.service ?? 'the application'} now and after the swap.`],
    stop: [],
    broken: 'nothing can break here',
  }),
  'postgres.readOnly': readOnly,
  'postgres.fence': fence,
  'postgres.awaitReplay': awaitReplay,
  'postgres.promote': promote,
  'postgres.verifyFence': (call) => {
    const node = nodeName(call, 'node');
    return {
      blocks: [run('check', `${node} is down, in recovery, or lets nobody but the administrator in.`, `${psql(call, node, `select pg_is_in_recovery() or (${FENCED_SQL} and ${IN_FORCE_SQL})`)} 2>/dev/null || echo down`, ['t', 'down'])],
      stop: [`it prints f: THERE ARE TWO PRIMARIES. Stop ${node} at once, by whatever means there is, before anything else`],
      broken: `no answer and no host access is "down" for you only: have somebody look at ${node} from another place`,
    };
  },
  'secret.swap': secretSwap,
  'route53.change': dns,
  'rollout.command': (call) => {
    const argv = texts(call.inputs['argv']);
    if (argv.length === 0) return { blocks: [], say: ['No rollout command is configured. Restart whatever reads the secret only when it starts.'], stop: [], broken: 'nothing can break here' };
    const verify = texts(call.inputs['verify']);
    return {
      blocks: [
        run('do', 'Make the application take the new endpoint.', `HOLDFAST_SERVICE=${sh(call.service ?? '')} HOLDFAST_MODE=${call.mode} HOLDFAST_EPOCH="$(cat "$HF/epoch")" ${command(argv)}; echo "exit $?"`, ['exit 0']),
        ...(verify.length === 0 ? [] : [run('check', 'It has.', `${command(verify)}; echo "exit $?"`, ['exit 0'])]),
      ],
      stop: [],
      broken: 'restart the application by whatever means there is: it reads its secret when it starts',
    };
  },
  'rollout.http': rolloutHttp,
  'postgres.verifyLag': (call) => {
    const primary = nodeName(call, 'primary');
    return {
      blocks: [run('check', `Which standbys stream from ${primary}: name, state, bytes behind. No line: there is no redundancy until one is rebuilt.`, psql(call, primary, 'select application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) from pg_stat_replication'))],
      stop: [],
      broken: 'a standby that does not stream is rebuilt later (runbook standby-rebuild); it does not hold this up',
    };
  },
  'postgres.measureLoss': measureLoss,
  'canary.verify': () => ({ blocks: [], say: ['Nothing to do by hand: no canary was started. The refused-write window and the lost writes are not measured; write that, and no figure, into the results.'], stop: [], broken: 'nothing can break here' }),
  'postgres.verifyRecentWrites': recentWrites,
  'postgres.rebuildStandby': rebuild,
  'notify.send': (call) => ({
    blocks: [],
    say: [`Tell people: "${textOf(call.inputs['title'], 'what was done')}"${textOf(call.inputs['text'], '') === '' ? '' : ` - ${textOf(call.inputs['text'], '')}`}`, ...Object.entries(call.config.notify).map(([name, receiver]) => `${name}: a ${receiver.type} webhook whose address is at ${receiver.url}`)],
    stop: [],
    broken: 'call somebody',
  }),
  'runbook.run': (call) => {
    const { runbook, service, purpose } = call.inputs;
    const exported = purpose === undefined ? textOf(runbook, 'RUNBOOK') : `${textOf(service, call.service ?? 'SERVICE')} --purpose ${textOf(purpose, 'failover')}`;
    return { blocks: [], say: [`Follow the checklist that \`holdfast plan ${exported} --export FOLDER\` wrote, to its end. It has a point of no return of its own where it promotes.`], stop: ['that checklist says so'], broken: 'see that checklist' };
  },
  'controller.pause': (call) => patroni(call, 'pause'),
  'controller.resume': (call) => patroni(call, 'resume'),
  'postgres.repointStandbys': repoint,
};

/** @returns undefined for a kind that nobody has described. */
export function byHand(call: ByHandCall): ByHand | undefined {
  return Object.hasOwn(BY_HAND, call.uses) ? BY_HAND[call.uses]!(call) : undefined;
}

const FENCED_SQL = `pg_read_file(current_setting('hba_file')) like '%${FENCE_BEGIN}%'`;
const IN_FORCE_SQL = "pg_conf_load_time() >= (pg_stat_file(current_setting('hba_file'))).modification and not exists (select from pg_hba_file_rules where error is not null)";

function healthPlanned(call: ByHandCall): ByHand {
  const [primary, candidate] = [nodeName(call, 'primary'), nodeName(call, 'candidate')];
  const datastore = databaseOf(call);
  return {
    blocks: [
      ...secretPoints(call, datastore, primary, 'The application is told the present primary.'),
      run('check', `${primary} takes writes.`, psql(call, primary, "select pg_is_in_recovery() or current_setting('default_transaction_read_only')::bool"), ['f']),
      run('check', `${candidate} is a standby, replays without pause or delay, will take writes, and carries no fence.`, psql(call, candidate, `select pg_is_in_recovery() and not pg_is_wal_replay_paused() and (select setting = '0' from pg_settings where name = 'recovery_min_apply_delay') and not current_setting('default_transaction_read_only')::bool and not ${FENCED_SQL}`), ['t']),
      run('check', `${candidate} streams.`, psql(call, candidate, "select count(*) from pg_stat_wal_receiver where status = 'streaming'"), ['1']),
      run('check', 'Both belong to the same cluster.', `[ "$(${psql(call, primary, 'select system_identifier from pg_control_system()')})" = "$(${psql(call, candidate, 'select system_identifier from pg_control_system()')})" ] && echo same || echo DIFFERENT`, ['same']),
      run('check', 'Bytes that the standby furthest behind has not replayed.', psql(call, primary, 'select max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) from pg_stat_replication'), undefined, '0, or a number that does not grow'),
      run('check', `Commits on ${candidate} will not wait for a standby it does not have.`, psql(call, candidate, "select current_setting('synchronous_standby_names') = ''"), ['t']),
      run('check', 'You are superuser on both.', `for x in ${dq(conninfo(call, primary))} ${dq(conninfo(call, candidate))}; do psql -X -At "$x" -c "select rolsuper from pg_roles where rolname = current_user"; done | sort -u`, ['t']),
      ...others(call, [primary, candidate]),
    ],
    stop: ['anything prints something else', `${primary} does not answer: use the checklist for a forced failover`, 'the bytes behind grow: wait for the standby', `synchronous_standby_names is set on ${candidate} and no other standby is left: alter system set synchronous_standby_names = '' there first`],
    broken: 'nothing was changed yet: stop, and ask',
  };
}

function healthForced(call: ByHandCall): ByHand {
  const [primary, candidate] = [nodeName(call, 'primary'), nodeName(call, 'candidate')];
  const datastore = databaseOf(call);
  const node = nodeOf(call, primary);
  const standbys = Object.keys(datastore.nodes).filter((name) => name !== primary);
  return {
    blocks: [
      ...secretPoints(call, datastore, primary, 'The application is told the primary that is lost.'),
      run('check', `Fact 1: ${primary} does not answer you. Three times.`, `for i in 1 2 3; do pg_isready -q -t 3 -h ${sh(node.host)} -p ${node.port}; r=$?; echo "$r"; sleep 1; done`, ['2']),
      ...standbys.map((name) => run('check', `Fact 2: ${name} hears nothing from it. A stream that says nothing counts as lost after 35 s, so wait that long.`, psql(call, name, "select count(*) from pg_stat_wal_receiver where status = 'streaming' and clock_timestamp() - last_msg_receipt_time < interval '35 s'"), ['0'])),
      ...(isHost(node) ? [run('check', `Fact 3: what its host says. "exit 3": no server runs. "exit 0": it runs, and answers nobody. Anything else: its host cannot be asked, and that is no fact.`, `${onNode(node, [tool(node, 'pg_ctl'), '-D', node.dataDirectory, 'status'])} >/dev/null 2>&1; echo "exit $?"`, undefined, 'exit 3')] : []),
      run('check', `${candidate} is a standby, and replays.`, psql(call, candidate, `select pg_is_in_recovery() and not pg_is_wal_replay_paused() and not ${FENCED_SQL}`), ['t']),
      run('check', `Commits on ${candidate} will not wait for a standby it does not have.`, psql(call, candidate, "select current_setting('synchronous_standby_names') = ''"), ['t']),
      run('check', `What ${candidate} has, and the time of the last commit it replayed. Write both down: what ${primary} acknowledged after that may be lost.`, psql(call, candidate, 'select pg_last_wal_replay_lsn(), pg_last_xact_replay_timestamp()'), undefined, '0/3000148|2026-11-21 03:12:45.123+00'),
    ],
    stop: [`fewer than two facts say that ${primary} is down`, `${primary} answers anybody, or a standby still streams from it: it is alive; use the checklist for a planned failover`],
    broken: 'nothing was changed yet: stop, and ask',
  };
}

function secretStage(call: ByHandCall): ByHand {
  const datastore = databaseOf(call);
  const secret = datastore.endpoint?.secret;
  if (secret === undefined) return noEndpoint(call);
  const { host, port } = addressOf(datastore.nodes[nodeName(call, 'candidate')]!);
  const [current, staged] = [`"$HF/${call.step}.currentVersion"`, `"$HF/${call.step}.stagedVersion"`];
  return {
    blocks: [
      run('do', 'Read the current version. It holds the password: the file is yours alone and goes at the end.', [
        `${aws(call)} secretsmanager get-secret-value --secret-id ${sh(secret)} --version-stage AWSCURRENT --query SecretString --output text > "$HF/secret.json"`,
        `${aws(call)} secretsmanager get-secret-value --secret-id ${sh(secret)} --version-stage AWSCURRENT --query VersionId --output text | tee ${current}`,
      ].join('\n'), undefined, 'a version id'),
      run('do', `The same with the address of ${nodeName(call, 'candidate')}. Only host and port differ.`, [
        `sed -e 's/\\("host" *: *"\\)[^"]*"/\\1${sed(host)}"/' -e 's/\\("port" *: *"\\{0,1\\}\\)[0-9]*/\\1${port}/' "$HF/secret.json" > "$HF/secret-new.json"`,
        showAddress('"$HF/secret-new.json"'),
      ].join('\n'), [`${host}:${port}`]),
      run('do', 'Put it beside the current version. Applications do not see it.', `${aws(call)} secretsmanager put-secret-value --secret-id ${sh(secret)} --secret-string "file://$HF/secret-new.json" --version-stages HOLDFAST-STAGED --query VersionId --output text | tee ${staged}`, undefined, 'another version id'),
      run('undo', 'Take the label off; the current version was never touched.', `${aws(call)} secretsmanager update-secret-version-stage --secret-id ${sh(secret)} --version-stage HOLDFAST-STAGED --remove-from-version-id "$(cat ${staged})"; rm -f "$HF/secret.json" "$HF/secret-new.json"`),
    ],
    stop: ['the new address is not printed: the secret is not in the usual form; make the new version by hand in the console'],
    broken: 'Secrets Manager does not answer: the database can still be failed over, but the application will not follow by itself. Decide now whether you can tell it the new address another way',
  };
}

function readOnly(call: ByHandCall): ByHand {
  const primary = nodeName(call, 'primary');
  const datastore = databaseOf(call);
  const standbys = Object.keys(datastore.nodes).filter((name) => name !== primary);
  return {
    blocks: [
      run('check', 'No prepared transaction, and no error in the rules (with one the server would keep its old rules).', psql(call, primary, 'select (select count(*) from pg_prepared_xacts) + (select count(*) from pg_hba_file_rules where error is not null)'), ['0']),
      run('do', `WRITES ARE REFUSED FROM HERE. Read on to the promotion before you begin: it must be done or undone within ${formatDuration(call.readOnlyDeadlineMs)}. The rules let you and replication in, and nobody else. (With an editor on the host instead: these lines first in pg_hba.conf, with the number in $HF/epoch for the epoch, then pg_ctl reload.)`, sqlFile(call, primary, { epoch: '"$(cat "$HF/epoch")"' }, fenceSql(call)), ['reloaded']),
      run('check', 'The rules are in force (asked by a new session; it may take a moment).', waitFor(psql(call, primary, `select ${FENCED_SQL} and ${IN_FORCE_SQL}`), 't'), ['t']),
      run('do', 'End every session.', waitFor(psql(call, primary, "select count(pg_terminate_backend(pid)) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"), '0'), ['0']),
      run('do', 'The last WAL position, after a commit of our own that flushes everything before it.', `${sqlFile(call, primary, {}, "begin read write;\nselect pg_logical_emit_message(true, 'holdfast', 'read-only by hand') \\g /dev/null\nset local synchronous_commit = local;\ncommit;\nselect pg_current_wal_flush_lsn();", `"$HF/${call.step}.lsn"`)}\ncat "$HF/${call.step}.lsn"`, undefined, '0/3000148'),
      run('undo', `Let writes in again. Only while ${standbys.join(', ')} ${standbys.length === 1 ? 'is' : 'are'} still in recovery, which is asked first; never after the promotion was begun.`, [
        'ok=yes',
        // A standby that does not answer holds nothing up; the one that may have been promoted must say that it was not.
        ...standbys.map((name) => `x="$(${psql(call, name, 'select pg_is_in_recovery()')})"; [ "$x" ${name === call.roles.candidate || standbys.length === 1 ? '= t' : '!= f'} ] || { echo "STOP: is ${name} in recovery? It says: $x"; ok=; }`),
        `[ -n "$ok" ] && ${sqlFile(call, primary, {}, `alter system reset default_transaction_read_only;\n${rewriteHba(WITHOUT_FENCE_SQL)}\nselect pg_reload_conf() \\g /dev/null\nselect 'open';`)}`,
      ].join('\n'), ['open']),
    ],
    stop: ['a session does not end', `more than ${formatDuration(call.readOnlyDeadlineMs)} have passed and nothing was promoted: undo`],
    broken: 'undo, and look again',
  };
}

function fence(call: ByHandCall): ByHand {
  const name = nodeName(call, 'node');
  const node = nodeOf(call, name);
  const blocks: ByHandBlock[] = [];
  if (node.fence !== undefined) {
    const env = `HOLDFAST_NODE=${sh(name)} HOLDFAST_EPOCH="$(cat "$HF/epoch")"`;
    blocks.push(run('do', `Fence ${name} from outside.`, `${env} ${command(node.fence.command)}; echo "exit $?"`, ['exit 0']));
    if (node.fence.verify !== undefined) blocks.push(run('check', 'The fence holds.', `${env} ${command(node.fence.verify)}; echo "exit $?"`, ['exit 0']));
  }
  if (isHost(node)) {
    const mode = call.mode === 'forced' ? 'immediate' : 'fast';
    const stop = mode === 'fast' && node.stop !== undefined ? node.stop : [tool(node, 'pg_ctl'), '-D', node.dataDirectory, '-m', mode, '-w', '-t', '60', 'stop'];
    blocks.push(
      run('do', `On the host of ${name}: the signal first, so that no later start is writable; then stop it.`, `${onNode(node, ['touch', `${node.dataDirectory}/standby.signal`])}\n${onNode(node, stop)} || echo "it may have been stopped already"`),
      run('check', 'No server runs (exit 3), and the signal is there.', `${onNode(node, ['test', '-e', `${node.dataDirectory}/standby.signal`])} && { ${onNode(node, [tool(node, 'pg_ctl'), '-D', node.dataDirectory, 'status'])} >/dev/null 2>&1; echo "exit $?"; }`, ['exit 3']),
    );
  } else if (call.mode === 'planned') {
    blocks.push(
      run('do', `Make ${name} start in recovery. (How to reach its host is not configured: stop the server there as well if you can.)`, sqlFile(call, name, {}, "begin read write;\nselect lo_from_bytea(0, '') as oid \\gset\nselect lo_export(:oid, current_setting('data_directory') || '/standby.signal') \\g /dev/null\nrollback;\nselect (pg_stat_file('standby.signal', true)).size;"), ['0']),
    );
  } else if (blocks.length === 0) {
    return { blocks: [], say: [`No way to reach ${name} is configured (no fence.command, no dataDirectory). Switch its machine off, or take its network away, and have a second person confirm it.`], stop: [`nobody can say for certain that ${name} takes no more writes`], broken: `without a fence there may be two primaries: do not promote` };
  }
  return {
    blocks: [...blocks, ...(call.mode === 'planned' || !isHost(node) ? [] : [run('undo', `Only while nothing was promoted, and only if ${name} is to be the primary again.`, `${onNode(node, ['rm', '-f', `${node.dataDirectory}/standby.signal`])}\n${onNode(node, node.start ?? [tool(node, 'pg_ctl'), '-D', node.dataDirectory, '-l', `${node.dataDirectory}/holdfast-start.log`, '-w', 'start'])}`)])],
    stop: call.mode === 'forced' ? [`it cannot be shown that ${name} is fenced: DO NOT PROMOTE`] : [],
    broken: call.mode === 'forced' ? `switch off the machine of ${name} by other means, and have it confirmed` : `it is fenced by its rules already; keep ${name} from being started without standby.signal`,
  };
}

function awaitReplay(call: ByHandCall): ByHand {
  const candidate = nodeName(call, 'candidate');
  const lsn = word(call, 'lsn');
  const forced = lsn === null;
  return {
    blocks: [
      forced
        ? run('check', `${candidate} has replayed all it received, or stands still at an incomplete record, which is never replayed.`, `while :; do x="$(${psql(call, candidate, 'select pg_last_wal_replay_lsn()')})"; sleep 2; [ "$x" = "$(${psql(call, candidate, 'select pg_last_wal_replay_lsn()')})" ] && break; done; echo "settled at $x"`, undefined, 'settled at 0/3000148')
        : run('check', `${candidate} has replayed that position.`, waitFor(`psql -X -qAt ${dq(conninfo(call, candidate))} -v lsn=${lsn} <<'SQL'\nselect pg_wal_lsn_diff(pg_last_wal_replay_lsn(), :'lsn') >= 0;\nSQL\n`, 't'), ['t']),
    ],
    stop: forced ? [] : [`it still prints f: undo the refusal of writes, and find out why ${candidate} does not replay`],
    broken: forced ? 'the candidate does not answer: choose another standby, and begin again' : 'undo the refusal of writes',
  };
}

function promote(call: ByHandCall): ByHand {
  const candidate = nodeName(call, 'candidate');
  const history = "with t as (select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as hex), l as (select regexp_split_to_array(btrim(pg_read_file('pg_wal/' || hex || '.history'), E'\\n'), E'\\n') as lines from t) select split_part(lines[array_length(lines, 1)], E'\\t', PART) from l";
  return {
    blocks: [
      ...(call.mode === 'planned' ? [run('check', `${nodeName(call, 'primary')} still carries the fence.`, psql(call, nodeName(call, 'primary'), `select ${FENCED_SQL}`), ['t'])] : []),
      run('do', `PROMOTE ${candidate}. AFTER THIS NOTHING IS UNDONE. If the answer is lost, do not repeat it: look first.`, psql(call, candidate, 'select pg_promote(true, 60)'), ['t']),
      run('check', `${candidate} is the primary.`, waitFor(psql(call, candidate, 'select pg_is_in_recovery()'), 'f'), ['f']),
      run('check', 'Where the new timeline begins, for the count of what was lost.', [
        `${psql(call, candidate, history.replace('PART', '2'))} > "$HF/${call.step}.forkLsn"`,
        `${psql(call, candidate, history.replace('PART', '1'))} > "$HF/${call.step}.parentTimeline"`,
        `cat "$HF/${call.step}.forkLsn"`,
      ].join('\n'), undefined, '0/3000148'),
    ],
    stop: ['the promotion printed f or an error: it may still take effect. Ask again until it is clear; do not open the old primary meanwhile'],
    broken: 'keep the old primary fenced. Two primaries are worse than none',
  };
}

function secretSwap(call: ByHandCall): ByHand {
  const datastore = databaseOf(call);
  const secret = datastore.endpoint?.secret;
  if (secret === undefined) return noEndpoint(call);
  const [current, staged] = [word(call, 'currentVersion'), word(call, 'stagedVersion')];
  const { host, port } = addressOf(datastore.nodes[nodeName(call, 'candidate')]!);
  if (current === null || staged === null) return { blocks: [], say: [`Make a version of secret ${secret} with host ${host} and port ${port} current.`], stop: [], broken: 'do it in the console' };
  const id = sh(secret);
  return {
    blocks: [
      run('check', 'Nobody has changed the secret meanwhile.', `[ "$(${aws(call)} secretsmanager get-secret-value --secret-id ${id} --version-stage AWSCURRENT --query VersionId --output text)" = ${current} ] && echo unchanged || echo CHANGED`, ['unchanged']),
      run('do', 'Make the staged version current. Applications read the new address from here.', `${aws(call)} secretsmanager update-secret-version-stage --secret-id ${id} --version-stage AWSCURRENT --move-to-version-id ${staged} --remove-from-version-id ${current} --query Name --output text`, [secret.split(':').at(-1)!, secret]),
      run('do', 'Take our label off again.', `${aws(call)} secretsmanager update-secret-version-stage --secret-id ${id} --version-stage HOLDFAST-STAGED --remove-from-version-id ${staged} --query Name --output text; rm -f "$HF/secret.json" "$HF/secret-new.json"; echo done`, ['done']),
      ...secretPoints(call, datastore, nodeName(call, 'candidate'), 'The application is told the new primary.'),
    ],
    stop: ['it prints CHANGED: somebody rotated the password. Stage again upon the new version, then go on here'],
    broken: 'change host and port of the secret in the console, keep everything else',
  };
}

function dns(call: ByHandCall): ByHand {
  const datastore = databaseOf(call);
  const record = datastore.endpoint?.dns;
  if (record === undefined) return { blocks: [], say: ['No DNS record is configured for this datastore.'], stop: [], broken: 'nothing can break here' };
  const wanted = addressOf(datastore.nodes[nodeName(call, 'candidate')]!).host;
  const name = record.name.endsWith('.') ? record.name : `${record.name}.`;
  const show = `${aws(call)} route53 list-resource-record-sets --hosted-zone-id ${sh(record.hostedZoneId)} --query ${sh(`ResourceRecordSets[?Name=='${name}' && Type=='${record.type}'].ResourceRecords[].Value`)} --output text`;
  const change = (value: string): string => JSON.stringify({ Comment: 'holdfast, by hand', Changes: [{ Action: 'UPSERT', ResourceRecordSet: { Name: name, Type: record.type, TTL: record.ttlSeconds, ResourceRecords: [{ Value: value }] } }] });
  return {
    blocks: [
      run('check', 'What it says now. Write it down.', `${show} | tee "$HF/${call.step}.before"`, undefined, 'the old address'),
      run('do', `Point ${name} to ${wanted}.`, [
        `cat > "$HF/dns.json" <<'JSON'\n${change(wanted)}\nJSON`,
        `${aws(call)} route53 change-resource-record-sets --hosted-zone-id ${sh(record.hostedZoneId)} --change-batch "file://$HF/dns.json" --query ChangeInfo.Id --output text > "$HF/${call.step}.change"`,
        `${aws(call)} route53 wait resource-record-sets-changed --id "$(cat "$HF/${call.step}.change")" && echo INSYNC`,
      ].join('\n'), ['INSYNC']),
      run('check', 'It says the new address. Resolvers may keep the old one for the TTL.', show, [wanted]),
    ],
    stop: [],
    broken: 'whatever reads the secret works without DNS; change the record in the console',
  };
}

function rolloutHttp(call: ByHandCall): ByHand {
  const url = textOf(call.inputs['url'], '');
  if (url === '') return { blocks: [], say: ['No rollout URL is configured.'], stop: [], broken: 'nothing can break here' };
  const method = textOf(call.inputs['method'], 'POST');
  const authorization = call.inputs['authorization'];
  const body = { service: call.service, mode: call.mode, ...(call.inputs['body'] as object | undefined) };
  const header = typeof authorization === 'string' ? `{ printf 'authorization: '; ${fetchSecret(call, authorization)}; } > "$HF/header"\n` : '';
  const curl = ['curl', '-sS', '-o', '/dev/null', '-w', '%{http_code}\\n', '-X', method, '-H', 'content-type: application/json', ...(method === 'GET' ? [] : ['-d', JSON.stringify(body)]), url];
  const verify = textOf(call.inputs['verifyUrl'], '');
  return {
    blocks: [
      run('do', 'Make the application take the new endpoint.', `${header}${command(curl)}${header === '' ? '' : ' -H @"$HF/header"; rm -f "$HF/header"'}`, ['200', '201', '202', '204']),
      ...(verify === '' ? [] : [run('check', 'It has.', command(['curl', '-sS', '-o', '/dev/null', '-w', '%{http_code}\\n', verify]), ['200', '204'])]),
    ],
    stop: [],
    broken: 'restart the application: it reads its secret when it starts',
  };
}

function measureLoss(call: ByHandCall): ByHand {
  const name = nodeName(call, 'node');
  const node = nodeOf(call, name);
  const [fork, timeline] = [word(call, 'forkLsn'), word(call, 'timeline')];
  if (!isHost(node) || fork === null || timeline === null) return { blocks: [], say: [`The files of ${name} cannot be reached from here (no dataDirectory): the loss is NOT MEASURED. Write that, and no figure, into the results.`], stop: [], broken: 'nothing can break here' };
  const other = call.roles.candidate ?? Object.keys(databaseOf(call).nodes).find((each) => each !== name)!;
  const segment = `psql -X -qAt ${dq(conninfo(call, other))} -v lsn=${fork} -v tli=${timeline} <<'SQL'\nwith s as (select setting::bigint as size from pg_settings where name = 'wal_segment_size'), n as (select div(pg_wal_lsn_diff(:'lsn', '0/0'), size) as seg, 4294967296 / size as per from s)\nselect upper(lpad(to_hex(:tli), 8, '0') || lpad(to_hex(div(seg, per)::bigint), 8, '0') || lpad(to_hex(mod(seg, per)::bigint), 8, '0')) from n;\nSQL\n`;
  return {
    blocks: [
      run('check', `Transactions that ${name} acknowledged and that are not on the new primary: COMMIT records in its own WAL after the fork. (pg_waldump ends with an error at the end of the WAL.)`, [
        `segment="$(${segment})"`,
        `${onNode(node, ['env', 'TZ=UTC', 'LC_ALL=C', tool(node, 'pg_waldump'), '--rmgr=Transaction'])} -s ${fork} -p ${sh(`${node.dataDirectory}/pg_wal`)} "$segment" > "$HF/lost.txt" 2> "$HF/lost.err"; cat "$HF/lost.err" >&2`,
        // As the engine judges it: it always ends with an error, at the end of the WAL. Another one means that nothing was read.
        `if [ -s "$HF/lost.txt" ] || grep -q -i -E 'invalid record|invalid magic|invalid resource|record with incorrect|could not find a valid record|zero-length|contrecord|could not open file' "$HF/lost.err"; then grep -c 'desc: COMMIT' "$HF/lost.txt"; else echo 'NOT MEASURED'; fi`,
      ].join('\n'), undefined, '0, or how many; NOT MEASURED when nothing could be read'),
    ],
    stop: [],
    broken: 'its host does not answer, or pg_waldump read nothing at all: the figure is "not measured", never an estimate',
  };
}

function recentWrites(call: ByHandCall): ByHand {
  const datastore = databaseOf(call);
  const primary = nodeName(call, 'primary');
  const query = textOf(call.inputs['query'], '');
  const secret = datastore.endpoint?.secret;
  return {
    blocks: [
      ...(secret === undefined ? [] : [run('check', "With the application's own secret: it logs in, and transactions are read-write.", [
        `${aws(call)} secretsmanager get-secret-value --secret-id ${sh(secret)} --version-stage AWSCURRENT --query SecretString --output text > "$HF/secret.json"`,
        `PGPASSWORD="$(${jsonField('"$HF/secret.json"', 'password')})" psql -X -At "host=$(${jsonField('"$HF/secret.json"', 'host')}) port=$(${portField('"$HF/secret.json"')}) user=$(${jsonField('"$HF/secret.json"', 'username')}) dbname=$(${jsonField('"$HF/secret.json"', 'dbname')}) sslmode=${datastore.admin.sslmode}" -c "select pg_is_in_recovery() or current_setting('transaction_read_only')::bool"; rm -f "$HF/secret.json"`,
      ].join('\n'), ['f'])]),
      ...(query === '' ? [] : [run('check', 'The newest business transaction. Look at it with your own eyes.', psql(call, primary, query), undefined, 'a row that you believe')]),
    ],
    stop: [],
    broken: 'the application cannot log in: compare host, port, user and database in its secret with the server',
  };
}

function rebuild(call: ByHandCall): ByHand {
  const name = nodeName(call, 'node');
  const primary = nodeName(call, 'primary');
  const node = nodeOf(call, name);
  const source = nodeOf(call, primary);
  const datastore = databaseOf(call);
  if (!isHost(node) || node.replication === undefined) return { blocks: [], say: [`Host, dataDirectory or replication user of ${name} are not configured: rebuild it as your own documentation says, as a standby of ${primary}.`], stop: [], broken: 'there is no hurry: writes go on meanwhile' };
  const data = node.dataDirectory;
  const { replication } = node;
  const address = `host=${value(source.host)} port=${source.port} sslmode=${datastore.admin.sslmode}${replication.passfile === undefined ? '' : ` passfile=${value(replication.passfile)}`}`;
  const conninfoText = `${address} user=${value(replication.username)} application_name=${value(name)}`;
  const start = node.start ?? [tool(node, 'pg_ctl'), '-D', data, '-l', `${data}/holdfast-start.log`, '-w', '-t', '120', 'start'];
  const stop = node.stop ?? [tool(node, 'pg_ctl'), '-D', data, '-m', 'fast', '-w', '-t', '60', 'stop'];
  const block = fenceLines(datastore.admin.username, call).map((line) => sh(line)).join(' ');
  const settings = [`primary_conninfo = '${conninfoText.replaceAll("'", "''")}'`, ...(replication.slot === undefined ? [] : [`primary_slot_name = '${replication.slot.replaceAll("'", "''")}'`])];
  return {
    blocks: [
      run('check', `${primary} is the primary, and carries no fence.`, psql(call, primary, `select pg_is_in_recovery() or ${FENCED_SQL}`), ['f']),
      run('check', `${name} is down, fenced, or a standby: not a second primary. What it alone has will be discarded.`, `${psql(call, name, `select pg_is_in_recovery() or ${FENCED_SQL}`)} 2>/dev/null || echo down`, ['t', 'down']),
      run('do', 'Stop it.', `${onNode(node, stop)} || echo "it may have been stopped already"`),
      run('check', 'It is stopped.', `${onNode(node, [tool(node, 'pg_ctl'), '-D', data, 'status'])} >/dev/null 2>&1; echo "exit $?"`, ['exit 3']),
      run('do', 'Its rules get the fence, if they have none: whoever starts it meanwhile lets no application in.', `${onNode(node, ['grep', '-q', FENCE_BEGIN, `${data}/pg_hba.conf`])} || { { printf '%s\\n' ${block}; ${onNode(node, ['cat', `${data}/pg_hba.conf`])}; } > "$HF/hba.new" && ${onNode(node, ['tee', `${data}/pg_hba.conf`])} < "$HF/hba.new" > /dev/null; } && echo done`, ['done']),
      run('do', `Checkpoint on ${primary}, then rewind ${name} to where the timelines parted. A node that was not shut down cleanly must first recover, which standby.signal would prevent.`, [
        `case "$(${onNode(node, ['env', 'LC_ALL=C', tool(node, 'pg_controldata'), data])} | grep 'cluster state')" in *'shut down'*) ;; *) ${onNode(node, ['rm', '-f', `${data}/standby.signal`])} ;; esac`,
        psql(call, primary, 'checkpoint'),
        `${onNode(node, [tool(node, 'pg_rewind'), '-R', `--target-pgdata=${data}`, `--source-server=${address} user=${value(replication.username)} dbname=postgres`])}; echo "exit $?"; ${onNode(node, ['touch', `${data}/standby.signal`])}`,
      ].join('\n'), undefined, 'exit 0'),
      run('else', 'If pg_rewind did not end with 0: a new copy. The old files go when it is complete.', [
        `${onNode(node, [tool(node, 'pg_ctl'), '-D', data, 'status'])} > /dev/null 2>&1; r=$?`,
        // A second time it would move the new files into the folder of the old ones, under a server that runs.
        `{ [ $r -eq 3 ] || [ $r -eq 4 ]; } && ${onNode(node, ['test', '!', '-e', `${data}.holdfast-old`])} && ${onNode(node, ['rm', '-rf', `${data}.holdfast-new`])} &&`,
        `${onNode(node, [tool(node, 'pg_basebackup'), '-D', `${data}.holdfast-new`, '-d', `${address} user=${value(replication.username)}`, '-X', 'stream', '-c', 'fast', '--no-password'])} && ${onNode(node, ['touch', `${data}.holdfast-new/standby.signal`])} &&`,
        `{ ${onNode(node, ['test', '!', '-e', data])} || ${onNode(node, ['mv', data, `${data}.holdfast-old`])}; } && ${onNode(node, ['mv', `${data}.holdfast-new`, data])} && echo done || echo "STOP: a server runs on ${name}, or ${data}.holdfast-old is there already (look what it is, and move it away), or the copy failed"`,
      ].join('\n'), ['done']),
      run('do', 'Whom it follows.', `${onNode(node, ['cat', `${data}/postgresql.auto.conf`])} > "$HF/auto.was" && { grep -v -E '^ *(primary_conninfo|primary_slot_name|default_transaction_read_only) *=' "$HF/auto.was"; printf '%s\\n' ${settings.map((line) => sh(line)).join(' ')}; } > "$HF/auto.new" && ${onNode(node, ['tee', `${data}/postgresql.auto.conf`])} < "$HF/auto.new" > /dev/null && ${onNode(node, ['touch', `${data}/standby.signal`])} && echo done`, ['done']),
      run('do', 'Start it.', `${onNode(node, start)} > "$HF/start.log" 2>&1; echo "exit $?"`, ['exit 0']),
      run('check', `${primary} lists it.`, waitFor(psql(call, primary, `select count(*) from pg_stat_replication where state = 'streaming' and application_name = ${literal(name)}`), '1', 150), ['1']),
      run('do', 'It is a standby now, which is asked first: its fence goes, or it would refuse every application after the next promotion.', [
        `[ "$(${psql(call, name, 'select pg_is_in_recovery()')})" = t ] && hba="$(${psql(call, name, 'show hba_file')})" && ${onNode(node, ['cat'])} "$hba" > "$HF/hba.was" &&`,
        `sed '/^${FENCE_BEGIN}/,/^${FENCE_END}/d' "$HF/hba.was" > "$HF/hba.open" && [ -s "$HF/hba.open" ] && ${onNode(node, ['tee'])} "$hba" < "$HF/hba.open" > /dev/null &&`,
        `${psql(call, name, 'select pg_reload_conf()')} || echo "STOP: it is no standby, or its rules could not be read or written; they are as they were unless they were being written"`,
      ].join('\n'), ['t']),
    ],
    stop: [`the second check prints f: two primaries; find out which one is right before anything is discarded`],
    broken: 'there is no hurry: writes go on meanwhile. Take the way with the new copy',
  };
}

function repoint(call: ByHandCall): ByHand {
  const primary = nodeName(call, 'primary');
  const source = nodeOf(call, primary);
  const datastore = databaseOf(call);
  const old = textOf(call.inputs['old'], call.roles.primary ?? '');
  const standbys = Object.entries(datastore.nodes).filter(([name]) => name !== primary && name !== old);
  return {
    blocks: standbys.map(([name, node]) => {
      const text = `host=${value(source.host)} port=${source.port} sslmode=${datastore.admin.sslmode} user=${value(node.replication?.username ?? 'replicator')}${node.replication?.passfile === undefined ? '' : ` passfile=${value(node.replication.passfile)}`} application_name=${value(name)}`;
      return run('do', `${name} follows ${primary}.`, `${sqlFile(call, name, {}, `alter system set primary_conninfo = ${literal(text)};\nselect pg_reload_conf();`)}\n${waitFor(psql(call, primary, `select count(*) from pg_stat_replication where state = 'streaming' and application_name = ${literal(name)}`), '1')}`, ['1']);
    }),
    ...(standbys.length === 0 ? { say: ['There is no other standby.'] } : {}),
    stop: [],
    broken: 'a standby that does not stream is rebuilt later; it does not hold this up',
  };
}

function patroni(call: ByHandCall, verb: 'pause' | 'resume'): ByHand {
  const datastore = databaseOf(call);
  const lost = call.mode === 'forced' ? call.roles.primary : null;
  const asked = Object.keys(datastore.nodes).filter((name) => name !== lost);
  const { controller } = datastore;
  if (controller?.type !== 'patroni') {
    return verb === 'resume'
      ? { blocks: [], say: ['No Patroni is configured: nothing was paused.'], stop: [], broken: 'nothing can break here' }
      : {
          blocks: asked.map((name) => run('check', `No Patroni is connected to ${name}.`, psql(call, name, "select count(*) from pg_stat_activity where application_name ilike 'patroni%'"), ['0'])),
          stop: ['it prints anything but 0: a Patroni that nobody configured would fight you. Find it, `patronictl pause --wait`, and look again'],
          broken: 'nothing was changed yet: stop, and ask',
        };
  }
  const curl = (node: string, path: string, ...more: string[]): string => patroniCurl(call, controller, controller.members[node]!.api, path, more);
  const members = Object.keys(controller.members).filter((node) => node !== lost);
  const one = members.find((node) => node === call.roles.candidate) ?? members[0]!;
  const change = (body: string): string => curl(one, '/config', '-o', '/dev/null', '-w', '%{http_code}\\n', '-X', 'PATCH', '-d', body);
  const pausedOf = (node: string): string => `${curl(node, '/patroni')} | tr -d ' ' | grep -c '"pause":true'`;
  if (verb === 'resume') {
    const leader = controller.members[nodeName(call, 'primary')]?.name ?? nodeName(call, 'primary');
    return {
      blocks: [
        run('check', `Patroni itself names ${leader} as its leader (it may take some of its loops).`, waitFor(`${curl(one, '/cluster')} | tr -d ' ' | grep -o '"name":"[^"]*","role":"leader"'`, `"name":"${leader}","role":"leader"`, 300), [`"name":"${leader}","role":"leader"`]),
        run('do', 'Let it act again. Leave it paused where somebody else had paused it before.', change('{"pause":null}'), ['200']),
        ...members.map((node) => run('check', `${node} has read it.`, waitFor(pausedOf(node), '0', 300), ['0'])),
      ],
      stop: [`it does not name ${leader}: leave it paused, it would demote the new primary`],
      broken: 'leave it paused, and say so to whoever comes next',
    };
  }
  return {
    blocks: [
      run('check', 'Is it paused already? (1: somebody else has; leave it paused afterwards.)', pausedOf(one), undefined, '0'),
      run('do', 'Patroni must not act meanwhile.', change('{"pause":true}'), ['200']),
      ...members.map((node) => run('check', `${node} has read it.`, waitFor(pausedOf(node), '1', 300), ['1'])),
      run('undo', 'Let it act again, if it was not paused before.', change('{"pause":null}')),
    ],
    stop: ['a member does not say that it is paused: two controllers would fight. Stop before the first change'],
    broken: '`patronictl pause --wait` on any node does the same',
  };
}

/** The password goes by curl's own configuration on standard input, never as an argument. */
function patroniCurl(call: ByHandCall, controller: PatroniController, api: string, path: string, more: readonly string[]): string {
  const login = controller.username === undefined || controller.password === undefined ? null : `printf 'user = "%s:%s"\\n' ${sh(controller.username)} "$(${fetchSecret(call, controller.password)} | sed 's/[\\\\"]/\\\\&/g')" | `;
  const key = controller.key === undefined ? '' : `(umask 077; ${fetchSecret(call, controller.key)} > "$HF/patroni.key"); `;
  const tls = [...(controller.ca === undefined ? [] : ['--cacert', controller.ca]), ...(controller.certificate === undefined ? [] : ['--cert', controller.certificate])];
  return `${key}${login ?? ''}${command(['curl', '-sS', '-m', '15', ...(login === null ? [] : ['-K', '-']), ...tls, ...more, `${api.replace(/\/$/, '')}${path}`])}${key === '' ? '' : ' --key "$HF/patroni.key"'}`;
}

/** What is written at the head of pg_hba.conf, with the epoch as `EPOCH`. The same lines as the engine's own fence. */
export function fenceLines(admin: string, call: Pick<ByHandCall, 'service' | 'step'>, epoch = '0'): string[] {
  const user = `"${admin.replaceAll('"', '""')}"`;
  return [
    `${FENCE_BEGIN} epoch=${epoch} execution=by-hand/${(call.service ?? call.step).replaceAll(/[^\w./:-]/g, '_')}`,
    '# Writes are refused: only the recovery administrator and replication are let in. Remove this block and reload to lift it by hand.',
    ...[`local all ${user} md5`, `host all ${user} all md5`, 'local all all reject', 'host all all all reject'].map((rule) => `${rule} # holdfast fence`),
    FENCE_END,
  ];
}

const WITHOUT_FENCE_SQL = `regexp_replace(pg_read_file(current_setting('hba_file')), '${FENCE_BEGIN}.*?${FENCE_END}[^\\n]*\\n', '', 'g')`;

/** COPY would escape; a large object that is rolled back carries the text byte for byte, and the file stays. */
function rewriteHba(text: string): string {
  return `begin read write;\nselect lo_from_bytea(0, convert_to(${text}, 'UTF8')) as oid \\gset\nselect lo_export(:oid, current_setting('hba_file')) \\g /dev/null\nrollback;`;
}

function fenceSql(call: ByHandCall): string {
  const [first, ...rest] = fenceLines(databaseOf(call).admin.username, call, 'EPOCH');
  const [before, after] = first!.split('EPOCH');
  const text = `${literal(before!)} || :'epoch'::bigint || ${literal(`${after!}\n${rest.join('\n')}\n`)} || ${WITHOUT_FENCE_SQL}`;
  return `${rewriteHba(text)}\nalter system set default_transaction_read_only = on;\nselect pg_reload_conf() \\g /dev/null\nselect 'reloaded';`;
}

function secretPoints(call: ByHandCall, datastore: PostgresDatastore, name: string, what: string): ByHandBlock[] {
  if (datastore.endpoint === undefined) return [];
  const { host, port } = addressOf(datastore.nodes[name]!);
  return [run('check', what, [`${aws(call)} secretsmanager get-secret-value --secret-id ${sh(datastore.endpoint.secret)} --version-stage AWSCURRENT --query SecretString --output text > "$HF/look.json"`, `${showAddress('"$HF/look.json"')}; rm -f "$HF/look.json"`].join('\n'), [`${host}:${port}`])];
}

function others(call: ByHandCall, known: readonly string[]): ByHandBlock[] {
  return Object.keys(databaseOf(call).nodes).filter((name) => !known.includes(name)).map((name) => run('check', `${name} is no second primary: in recovery, fenced, or down.`, `${psql(call, name, `select pg_is_in_recovery() or ${FENCED_SQL}`)} 2>/dev/null || echo down`, ['t', 'down']));
}

function noEndpoint(call: ByHandCall): ByHand {
  return { blocks: [], say: [`Datastore ${textOf(call.inputs['datastore'], '')} has no endpoint.secret: tell the application its database address in your own way.`], stop: [], broken: 'nothing can break here' };
}

/** A shell command that prints the secret behind a reference; the value is never in an argument. */
export function fetchSecret(call: Pick<ByHandCall, 'config'>, reference: string): string {
  const colon = reference.indexOf(':');
  const rest = reference.slice(colon + 1);
  if (reference.startsWith('env:')) return `printf '%s\\n' "\${${rest}:?set ${rest} first}"`;
  if (reference.startsWith('file:')) return `cat ${sh(rest)}`;
  const hash = rest.lastIndexOf('#');
  const get = `${aws(call)} secretsmanager get-secret-value --secret-id ${sh(hash < 0 ? rest : rest.slice(0, hash))} --version-stage AWSCURRENT --query SecretString --output text`;
  return hash < 0 ? get : `${get} | ${jsonField('', rest.slice(hash + 1))}`;
}

/** One text field of a flat JSON object; nothing when it holds an escape, which sed cannot read. */
function jsonField(file: string, field: string): string {
  return `sed -n 's/.*"${field}" *: *"\\([^"\\\\]*\\)".*/\\1/p'${file === '' ? '' : ` ${file}`}`;
}

function portField(file: string): string {
  return `sed -n 's/.*"port" *: *"\\{0,1\\}\\([0-9]*\\).*/\\1/p' ${file}`;
}

function showAddress(file: string): string {
  return `echo "$(${jsonField(file, 'host')}):$(${portField(file)})"`;
}

function run(kind: ByHandBlock['kind'], text: string, command: string, prints?: readonly string[], like?: string): ByHandBlock {
  return { kind, text, sh: command, ...(prints === undefined ? {} : { prints }), ...(like === undefined ? {} : { like }) };
}

/** Repeats a command until its last line is `want`, at most 50 times by default, and prints that line. */
function waitFor(commandText: string, want: string, times = 50): string {
  return `i=0; while [ $i -lt ${times} ]; do x="$(${commandText})"; [ "$x" = ${sh(want)} ] && break; i=$((i+1)); sleep 0.2; done; echo "$x"`;
}

function psql(call: ByHandCall, node: string, statement: string): string {
  return `psql -X -qAt ${dq(conninfo(call, node))} -c ${dq(statement)}`;
}

/** Several statements by a quoted here-document, so that the shell touches nothing in them. */
function sqlFile(call: ByHandCall, node: string, variables: Readonly<Record<string, string>>, statements: string, to?: string): string {
  const given = Object.entries(variables).map(([name, shell]) => ` -v ${name}=${shell}`).join('');
  return `psql -X -qAt -v ON_ERROR_STOP=1${given} ${dq(conninfo(call, node))}${to === undefined ? '' : ` > ${to}`} <<'SQL'\n${statements}\nSQL`;
}

export function conninfo(call: Pick<ByHandCall, 'config' | 'inputs'>, node: string): string {
  const datastore = databaseOf(call);
  const { host, port } = nodeOf(call, node);
  const root = datastore.admin.sslrootcert === undefined ? '' : ` sslrootcert=${value(datastore.admin.sslrootcert)}`;
  return `host=${value(host)} port=${port} user=${value(datastore.admin.username)} dbname=${value(datastore.database)} sslmode=${datastore.admin.sslmode}${root}`;
}

function aws(call: Pick<ByHandCall, 'config'>): string {
  const { region, endpoint } = call.config.aws;
  return `aws --region ${sh(region)}${endpoint === undefined ? '' : ` --endpoint-url ${sh(endpoint)}`}`;
}

function databaseOf(call: Pick<ByHandCall, 'config' | 'inputs'>): PostgresDatastore {
  const name = textOf(call.inputs['datastore'], '');
  const found = Object.hasOwn(call.config.datastores, name) ? call.config.datastores[name] : undefined;
  if (found === undefined) throw new HoldfastError('unknown-datastore', `there is no datastore named "${name}"`, { next: 'give the parameter datastore' });
  return found;
}

function nodeName(call: ByHandCall, input: string): string {
  const name = call.inputs[input];
  const { nodes } = databaseOf(call);
  if (typeof name === 'string' && Object.hasOwn(nodes, name)) return name;
  throw new HoldfastError('node-unknown', `step ${call.step} (${call.uses}): which node is the ${input} is not known`, { next: `say it: --primary and --candidate, each one of ${Object.keys(nodes).join(', ')}` });
}

function nodeOf(call: Pick<ByHandCall, 'config' | 'inputs'>, name: string): NodeConfig {
  return databaseOf(call).nodes[name]!;
}

function addressOf(node: NodeConfig): { host: string; port: number } {
  return { host: node.applicationHost ?? node.host, port: node.applicationPort ?? node.port };
}

function isHost(node: NodeConfig): node is Host {
  return node.dataDirectory !== undefined;
}

function tool(node: NodeConfig, name: string): string {
  return node.binDirectory === undefined ? name : `${node.binDirectory}/${name}`;
}

/** A command on the node's host by its `exec` prefix. ssh hands its words to another shell, so they are quoted once more for that one. */
function onNode(node: NodeConfig, argv: readonly string[]): string {
  const prefix = node.exec ?? [];
  const remote = /(^|\/)ssh$/.test(prefix[0] ?? '');
  return command([...prefix, ...argv.map((item) => (remote ? sh(item) : item))]);
}

/** The value of an input as a shell word: known, or kept in a file by an earlier step; null when neither. */
function word(call: ByHandCall, input: string): string | null {
  const known = call.inputs[input];
  if (typeof known === 'string' || typeof known === 'number') return sh(String(known));
  const file = Object.hasOwn(call.kept, input) ? call.kept[input] : undefined;
  return file === undefined ? null : `"$(cat "$HF/${file}")"`;
}

function command(argv: readonly string[]): string {
  return argv.map((item) => sh(item)).join(' ');
}

export function sh(text: string): string {
  return /^[\w%+,./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function dq(text: string): string {
  return `"${text.replaceAll(/[\\"$`]/g, String.raw`\$&`)}"`;
}

function sed(text: string): string {
  return text.replaceAll(/[\\/&']/g, (found) => (found === "'" ? `'\\''` : `\\${found}`));
}

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** A value in a libpq connection string. */
function value(text: string): string {
  return /^[\w.:/-]+$/.test(text) ? text : `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}

function textOf(given: unknown, missing: string): string {
  return typeof given === 'string' && given !== '' ? given : missing;
}

function texts(given: unknown): string[] {
  return Array.isArray(given) ? given.map(String) : [];
}
