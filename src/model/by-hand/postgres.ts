import { FENCE_BEGIN, FENCE_END, fenceBlock } from '../fence-text.ts';
import { conninfoValue, settingValue } from '../postgres-conninfo.ts';
import { formatDuration } from '../units.ts';
import { command, conninfo, databaseOf, dq, isHost, jsonField, literal, nodeName, nodeOf, onNode, portField, psql, run, secretAws, secretPoints, sh, sqlFile, textOf, tool, waitFor, word, type ByHand, type ByHandBlock, type ByHandCall } from './words.ts';

const FENCED_SQL = `pg_read_file(current_setting('hba_file')) like '%${FENCE_BEGIN}%'`;
const IN_FORCE_SQL = "pg_conf_load_time() >= (pg_stat_file(current_setting('hba_file'))).modification and not exists (select from pg_hba_file_rules where error is not null)";

export const postgresByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'postgres.health': (call) => (call.mode === 'planned' ? healthPlanned(call) : healthForced(call)),
  'postgres.checkpoint': (call) => ({
    blocks: ['primary', 'candidate'].map((role) => run('do', `Checkpoint on ${nodeName(call, role)}: promotion is quick when there is little left to write.`, `${psql(call, nodeName(call, role), 'checkpoint')} && echo done`, ['done'])),
    stop: [],
    broken: 'it only makes the promotion slower: go on without it',
  }),
  'postgres.readOnly': readOnly,
  'postgres.fence': fence,
  'postgres.awaitReplay': (call) => awaitReplay(call),
  'postgres.promote': promote,
  'postgres.verifyFence': (call) => {
    const node = nodeName(call, 'node');
    return {
      blocks: [run('check', `${node} is down, in recovery, or lets nobody but the administrator in.`, `${psql(call, node, `select pg_is_in_recovery() or (${FENCED_SQL} and ${IN_FORCE_SQL})`)} 2>/dev/null || echo down`, ['t', 'down'])],
      stop: [`it prints f: THERE ARE TWO PRIMARIES. Stop ${node} at once, by whatever means there is, before anything else`],
      broken: `no answer and no host access is "down" for you only: have somebody look at ${node} from another place`,
    };
  },
  'postgres.verifyLag': (call) => {
    const primary = nodeName(call, 'primary');
    return {
      blocks: [run('check', `Which standbys stream from ${primary}: name, state, bytes behind. No line: there is no redundancy until one is rebuilt.`, psql(call, primary, 'select application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) from pg_stat_replication'))],
      stop: [],
      broken: 'a standby that does not stream is rebuilt later (runbook standby-rebuild); it does not hold this up',
    };
  },
  'postgres.measureLoss': measureLoss,
  'postgres.verifyRecentWrites': recentWrites,
  'postgres.rebuildStandby': rebuild,
  'postgres.repointStandbys': repoint,
};

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

function readOnly(call: ByHandCall): ByHand {
  const primary = nodeName(call, 'primary');
  const datastore = databaseOf(call);
  const standbys = Object.keys(datastore.nodes).filter((name) => name !== primary);
  const candidate = call.mode === 'planned' && textOf(call.inputs['candidate'], '') !== '' ? nodeName(call, 'candidate') : null;
  const third = candidate === null ? [] : thirdNodes(call, [primary, candidate]);
  return {
    blocks: [
      run('check', 'No prepared transaction, and no error in the rules (with one the server would keep its old rules).', psql(call, primary, 'select (select count(*) from pg_prepared_xacts) + (select count(*) from pg_hba_file_rules where error is not null)'), ['0']),
      run('do', `WRITES ARE REFUSED FROM HERE. Read on to the promotion before you begin: it must be done or undone within ${formatDuration(call.readOnlyDeadlineMs)}. The rules let you and replication in, and nobody else. (With an editor on the host instead: these lines first in pg_hba.conf, with the number in $HF/epoch for the epoch, then pg_ctl reload.)`, sqlFile(call, primary, { epoch: '"$(cat "$HF/epoch")"' }, fenceSql(call)), ['reloaded']),
      run('check', 'The rules are in force (asked by a new session; it may take a moment).', waitFor(psql(call, primary, `select ${FENCED_SQL} and ${IN_FORCE_SQL}`), 't'), ['t']),
      run('do', 'End every session.', waitFor(psql(call, primary, "select count(pg_terminate_backend(pid)) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"), '0'), ['0']),
      ...third.map((name) => run('do', `${name} receives by way of ${candidate!} from here: what ${primary} still writes by itself must not take it past the point where the new timeline begins. Leave out one that does not answer, whose replay is paused, or that follows another third node.`, turnByHand(call, name, candidate!), ['0'])),
      run('do', 'The last WAL position, after a commit of our own that flushes everything before it.', `${sqlFile(call, primary, {}, "begin read write;\nselect pg_logical_emit_message(true, 'holdfast', 'read-only by hand') \\g /dev/null\nset local synchronous_commit = local;\ncommit;\nselect pg_current_wal_flush_lsn();", `"$HF/${call.step}.lsn"`)}\ncat "$HF/${call.step}.lsn"`, undefined, '0/3000148'),
      run('undo', `Let writes in again. Only while ${standbys.join(', ')} ${standbys.length === 1 ? 'is' : 'are'} still in recovery, which is asked first; never after the promotion was begun.`, [
        'ok=yes',
        // A standby that does not answer holds nothing up; the one that may have been promoted must say that it was not.
        ...standbys.map((name) => `x="$(${psql(call, name, 'select pg_is_in_recovery()')})"; [ "$x" ${name === call.roles.candidate || standbys.length === 1 ? '= t' : '!= f'} ] || { echo "STOP: is ${name} in recovery? It says: $x"; ok=; }`),
        `[ -n "$ok" ] && ${sqlFile(call, primary, {}, `alter system reset default_transaction_read_only;\n${rewriteHba(WITHOUT_FENCE_SQL)}\nselect pg_reload_conf() \\g /dev/null\nselect 'open';`)}`,
      ].join('\n'), ['open']),
      ...third.map((name) => run('undo', `${name} follows ${primary} again, once that has printed open. (Did it follow another one, or another address: that one.)`, `[ "$(${psql(call, primary, `select pg_is_in_recovery() or ${FENCED_SQL}`)})" = f ] && ${follow(call, name, primary)}`, ['told'])),
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

/** @param other what else could be promoted */
export function awaitReplay(call: ByHandCall, other = 'another standby'): ByHand {
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
    broken: forced ? `the candidate does not answer: choose ${other}, and begin again` : 'undo the refusal of writes',
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
        `${secretAws(call, datastore)} secretsmanager get-secret-value --secret-id ${sh(secret)} --version-stage AWSCURRENT --query SecretString --output text > "$HF/secret.json"`,
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
  const address = `host=${conninfoValue(source.host)} port=${source.port} sslmode=${datastore.admin.sslmode}${replication.passfile === undefined ? '' : ` passfile=${conninfoValue(replication.passfile)}`}`;
  const conninfoText = `${address} user=${conninfoValue(replication.username)} application_name=${conninfoValue(name)}`;
  const start = node.start ?? [tool(node, 'pg_ctl'), '-D', data, '-l', `${data}/holdfast-start.log`, '-w', '-t', '120', 'start'];
  const stop = node.stop ?? [tool(node, 'pg_ctl'), '-D', data, '-m', 'fast', '-w', '-t', '60', 'stop'];
  const block = fenceLines(datastore.admin.username, call, 0).map((line) => sh(line)).join(' ');
  const settings = [`primary_conninfo = ${settingValue(conninfoText)}`, ...(replication.slot === undefined ? [] : [`primary_slot_name = ${settingValue(replication.slot)}`])];
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
        `${onNode(node, [tool(node, 'pg_rewind'), '-R', `--target-pgdata=${data}`, `--source-server=${address} user=${conninfoValue(replication.username)} dbname=postgres`])}; echo "exit $?"; ${onNode(node, ['touch', `${data}/standby.signal`])}`,
      ].join('\n'), undefined, 'exit 0'),
      run('else', 'If pg_rewind did not end with 0: a new copy. The old files go when it is complete.', [
        `${onNode(node, [tool(node, 'pg_ctl'), '-D', data, 'status'])} > /dev/null 2>&1; r=$?`,
        // A second time it would move the new files into the folder of the old ones, under a server that runs.
        `{ [ $r -eq 3 ] || [ $r -eq 4 ]; } && ${onNode(node, ['test', '!', '-e', `${data}.holdfast-old`])} && ${onNode(node, ['rm', '-rf', `${data}.holdfast-new`])} &&`,
        `${onNode(node, [tool(node, 'pg_basebackup'), '-D', `${data}.holdfast-new`, '-d', `${address} user=${conninfoValue(replication.username)}`, '-X', 'stream', '-c', 'fast', '--no-password'])} && ${onNode(node, ['touch', `${data}.holdfast-new/standby.signal`])} &&`,
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

/** Standbys that are neither of the two, and that Patroni does not look after: it has its own follow its leader. */
function thirdNodes(call: ByHandCall, known: readonly string[]): string[] {
  const { nodes, controller } = databaseOf(call);
  return Object.keys(nodes).filter((name) => !known.includes(name) && !(controller?.type === 'patroni' && Object.hasOwn(controller.members, name)));
}

/** The standby takes its WAL from another node. With the login it has, which is shown to nobody: in a connection string the last word counts. */
function follow(call: ByHandCall, name: string, to: string): string {
  const datastore = databaseOf(call);
  const { host, port } = nodeOf(call, to);
  const { replication } = datastore.nodes[name]!;
  const login = `sslmode=${datastore.admin.sslmode} user=${conninfoValue(replication?.username ?? 'replicator')}${replication?.passfile === undefined ? '' : ` passfile=${conninfoValue(replication.passfile)}`} application_name=${conninfoValue(name)}`;
  const there = ` host=${conninfoValue(host)} port=${port} hostaddr=''`;
  return sqlFile(call, name, {}, [
    `select coalesce(nullif(current_setting('primary_conninfo'), ''), ${literal(login)}) || ${literal(there)} as conninfo, current_setting('primary_conninfo') ~ '^postgres(ql)?://' as is_uri \\gset`,
    '\\if :is_uri',
    "select 'STOP: its primary_conninfo is a URI; change the address in it by hand';",
    '\\else',
    // It may hold a password: not in the server's log, whatever that writes down.
    "set log_statement = 'none'; set log_min_duration_statement = -1; set log_min_error_statement = 'panic';",
    "alter system set primary_conninfo = :'conninfo';",
    'select pg_reload_conf() \\g /dev/null',
    "select 'told';",
    '\\endif',
  ].join('\n'));
}

/** Told, and no receiver of it is connected to anybody else. */
function turnByHand(call: ByHandCall, name: string, to: string): string {
  const { host, port } = nodeOf(call, to);
  const elsewhere = waitFor(psql(call, name, `select count(*) from pg_stat_wal_receiver where sender_host is distinct from ${literal(host)} or sender_port is distinct from ${port}`), '0');
  return `x="$(${follow(call, name, to)}\n)"; if [ "$x" = told ]; then ${elsewhere}; else echo "$x"; fi`;
}

function repoint(call: ByHandCall): ByHand {
  const primary = nodeName(call, 'primary');
  const standbys = thirdNodes(call, [primary, textOf(call.inputs['old'], call.roles.primary ?? '')]);
  return {
    blocks: standbys.map((name) => run('do', `${name} follows ${primary}.`, `${follow(call, name, primary)}\n${waitFor(psql(call, primary, `select count(*) from pg_stat_replication where state = 'streaming' and application_name = ${literal(name)}`), '1')}`, ['1'])),
    ...(standbys.length === 0 ? { say: ['There is no other standby.'] } : {}),
    stop: [],
    broken: 'a standby that does not stream is rebuilt later; it does not hold this up',
  };
}

/** The engine's own fence, under the name of who does it by hand. */
function fenceLines(admin: string, call: Pick<ByHandCall, 'service' | 'step'>, epoch: number | string): string[] {
  return fenceBlock({ admin, epoch, execution: `by-hand/${call.service ?? call.step}` });
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

function others(call: ByHandCall, known: readonly string[]): ByHandBlock[] {
  return Object.keys(databaseOf(call).nodes).filter((name) => !known.includes(name)).map((name) => run('check', `${name} is no second primary: in recovery, fenced, or down.`, `${psql(call, name, `select pg_is_in_recovery() or ${FENCED_SQL}`)} 2>/dev/null || echo down`, ['t', 'down']));
}
