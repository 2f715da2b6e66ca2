import type { PostgresDatastore } from '../config-schema.ts';
import type { WalArchiveConfig } from '../config-wal.ts';
import { parseMoment } from '../moment.ts';
import { command, databaseOf, fetchSecret, isHost, onNode, psql, run, sh, textOf, word, type ByHand, type ByHandCall } from './words.ts';

export const walByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'wal.check': checkArchive,
  'wal.mark': mark,
  'wal.restoreToTime': restoreToTime,
};

function about(call: ByHandCall): { call: ByHandCall; datastore: PostgresDatastore; archive: WalArchiveConfig | undefined; primary: string } {
  const here = { ...call, inputs: { ...call.inputs, datastore: call.inputs['source'] } };
  const datastore = databaseOf(here);
  return { call: here, datastore, archive: datastore.walArchive, primary: call.roles.primary ?? Object.keys(datastore.nodes)[0]! };
}

function none(call: ByHandCall): ByHand {
  return { blocks: [], say: [`Datastore ${textOf(call.inputs['source'], '')} has no walArchive: there is nothing to rehearse.`], stop: [], broken: 'nothing can break here' };
}

function toolWords(archive: WalArchiveConfig): string[] {
  const file = archive.configFile;
  return archive.tool === 'pgbackrest' ? [...archive.command, ...(file === undefined ? [] : [`--config=${file}`]), `--stanza=${archive.stanza}`] : [...archive.command, ...(file === undefined ? [] : ['--config', file])];
}

/** The tool reads its secrets from the environment; they are never in an argument. */
function environment(call: ByHandCall, archive: WalArchiveConfig): string {
  return [...Object.entries(archive.environment).map(([name, value]) => `export ${name}=${sh(value)}`), ...Object.entries(archive.secrets).map(([name, reference]) => `${name}="$(${fetchSecret(call, reference)})"; export ${name}`)].map((line) => `${line}\n`).join('');
}

function checkArchive(given: ByHandCall): ByHand {
  const { call, datastore, archive, primary } = about(given);
  if (archive === undefined) return none(call);
  const node = datastore.nodes[primary]!;
  const content = archive.tool === 'pgbackrest' ? 'info' : 'backup-list';
  const file = archive.node.configFile ?? archive.configFile;
  const onHost = archive.node.command ?? archive.command;
  const proof = archive.tool === 'pgbackrest' ? [...onHost, ...(file === undefined ? [] : [`--config=${file}`]), `--stanza=${archive.stanza}`, 'check'] : [...onHost, ...(file === undefined ? [] : ['--config', file]), 'wal-verify', 'integrity', 'timeline'];
  return {
    blocks: [
      run('check', 'The server archives, and its last attempt succeeded.', psql(call, primary, `select current_setting('archive_mode') <> 'off' and last_archived_wal is not null and coalesce(last_failed_time < last_archived_time, true) from pg_stat_archiver`), ['t']),
      run('check', 'What the archive holds: look for a base backup that is young enough.', `${environment(call, archive)}${command([...toolWords(archive), content])}`, undefined, 'the newest base backup with its time'),
      ...(isHost(node) ? [run('do', 'Have the tool prove it with a WAL file of its own.', `${onNode(node, proof)}; echo "exit $?"`, ['exit 0'])] : []),
    ],
    stop: ['there is no base backup, or the archiver fails: nothing can be restored to a moment; make a base backup first'],
    broken: 'archiving is broken: until it is mended nothing after the last archived WAL file can be restored to a moment',
  };
}

function mark(given: ByHandCall): ByHand {
  const { call, archive, primary } = about(given);
  if (archive === undefined) return none(call);
  const time = textOf(call.inputs['time'], '');
  if (time !== '') return { blocks: [run('do', 'The moment was given.', `echo ${sh(time)} | tee "$HF/${call.step}.moment"`, [time])], stop: [], broken: 'nothing can break here' };
  return {
    blocks: [
      run('do', 'A row before the moment.', psql(call, primary, `create schema if not exists holdfast; create table if not exists holdfast.wal_mark (key text not null, side text not null, moment timestamptz, marked_at timestamptz not null default clock_timestamp(), primary key (key, side)); insert into holdfast.wal_mark (key, side) values ('by-hand', 'before') on conflict (key, side) do update set marked_at = clock_timestamp(); delete from holdfast.wal_mark where key = 'by-hand' and side = 'after'`)),
      run('do', "The moment, by the server's own clock.", `${psql(call, primary, `select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00')`)} | tee "$HF/${call.step}.moment"; echo by-hand > "$HF/${call.step}.marks"; sleep 1`, undefined, 'a time in UTC'),
      run('do', 'A row after it, and the WAL switched away.', psql(call, primary, `insert into holdfast.wal_mark (key, side) values ('by-hand', 'after'); select pg_switch_wal()`), undefined, 'a WAL position'),
    ],
    stop: [],
    broken: 'the rows can stay; they are nothing but rows',
  };
}

function restoreToTime(given: ByHandCall): ByHand {
  const { call, datastore, archive } = about(given);
  if (archive === undefined) return none(call);
  const text = textOf(call.inputs['moment'], '');
  const moment = parseMoment(text);
  const target = 'problem' in moment ? (word(call, 'moment') ?? '"$(cat "$HF/moment")"') : sh(moment.postgres);
  const bin = datastore.binDirectory === undefined ? '' : `${datastore.binDirectory}/`;
  const tool = command(toolWords(archive));
  const fetch = archive.tool === 'pgbackrest' ? `${tool} --pg1-path="$PWD" archive-get %f "%p"` : `${tool} wal-fetch %f %p`;
  const restore = archive.tool === 'pgbackrest' ? `${tool} --pg1-path="$PWD/data" --type=none --archive-mode=off --tablespace-map-all="$PWD/tablespaces" restore` : `${tool} backup-fetch "$PWD/data" LATEST`;
  return {
    blocks: [
      run('do', 'As the OS user postgres, on a host that is not production: the newest base backup before the moment into an empty folder (choose an older one with --set=LABEL, or by its name).', `${environment(call, archive)}mkdir -p data tablespaces socket; chmod 700 data socket\n${restore}; echo "exit $?"`, ['exit 0']),
      run('do', 'A server that nobody reaches and that never archives: recovery ends at the moment.', [
        'rm -f data/standby.signal data/postmaster.pid; : > data/postgresql.auto.conf; touch data/recovery.signal; echo "local all all trust" > data/pg_hba.conf',
        `printf '%s\\n' "listen_addresses = ''" "unix_socket_directories = '$PWD/socket'" "archive_mode = off" "hot_standby = off" "max_connections = 500" "max_prepared_transactions = 500" "recovery_target_time = '"${target}"'" "recovery_target_action = promote" > data/postgresql.conf`,
        `printf '%s\\n' ${sh(`restore_command = '${fetch.replaceAll("'", "''")}'`)} >> data/postgresql.conf`,
        `${bin}pg_ctl -D data -l log -w -t 86400 start; grep 'recovery stopping' log`,
      ].join('\n'), undefined, 'recovery stopping before commit of transaction ..., time ...'),
      run('check', 'The row before the moment is there and the one after it is not.', `psql -X -qAt -h "$PWD/socket" -U ${sh(datastore.admin.username)} -d ${sh(datastore.database)} -c "select string_agg(side, ',') from holdfast.wal_mark where key = 'by-hand'"`, ['before']),
      run('do', 'Destroy it.', `${bin}pg_ctl -D data -m immediate stop; rm -rf data tablespaces socket log; echo gone`, ['gone']),
    ],
    stop: ['the log says that recovery ended before the moment was reached: it names the WAL file that was asked for last; the archive has a hole there'],
    broken: 'nothing of production was touched; remove the folder',
  };
}
