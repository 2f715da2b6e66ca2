import type { ManagedNode } from '../config-managed.ts';
import { replacedName } from '../managed-roles.ts';
import { formatDuration } from '../units.ts';
import { awaitReplay } from './postgres.ts';
import { databaseOf, literal, nodeName, nodeOf, psql, run, secretPoints, sh, sqlFile, textOf, waitFor, type ByHand, type ByHandBlock, type ByHandCall } from './words.ts';

/** The same kinds on a datastore that Amazon RDS or Aurora runs: what a person types with aws and psql. A kind that is missing here is done as on any other server. */
export const managedByHand: Readonly<Record<string, (call: ByHandCall) => ByHand>> = {
  'postgres.health': health,
  'postgres.checkpoint': (call) => (isAurora(call) ? nothing('Nothing to do: Aurora has no checkpoints.') : { blocks: ['primary', 'candidate'].map((role) => run('do', `Checkpoint on ${nodeName(call, role)}, where you may.`, `${psql(call, nodeName(call, role), 'checkpoint')} && echo done`, ['done'])), stop: [], broken: 'it only makes the promotion slower: go on without it' }),
  'postgres.readOnly': readOnly,
  'postgres.fence': fence,
  'postgres.awaitReplay': (call) => (isAurora(call) ? nothing('Nothing to do: Aurora waits by itself where nothing may be lost.') : awaitReplay(call, 'another one')),
  'postgres.promote': promote,
  'postgres.verifyFence': (call) => {
    const node = nodeName(call, 'node');
    return {
      blocks: [
        run('check', `${node} is a reader, stopped, or behind its fencing groups.`, describe(call, node, isAurora(call) ? STATUS : GROUPS), undefined, isAurora(call) ? 'available' : `${rdsOf(call, node).fencingGroups.join('\\t')}`),
        run('check', `It does not take writes, or nobody but workers gets in. "f" with other security groups than the fencing ones means two primaries.`, `${psql(call, node, 'select pg_is_in_recovery()')} 2>/dev/null || echo down`, undefined, 't, down, or f behind its fencing groups'),
      ],
      stop: [`it prints f and its groups let applications in: THERE ARE TWO PRIMARIES. Give it its fencing groups at once`],
      broken: `no answer is "down" for you only: have somebody look at ${node} from another place`,
    };
  },
  'postgres.repointStandbys': (call) => nothing(isAurora(call) ? 'Nothing to do: readers follow the writer by themselves.' : 'RDS gives a read replica no other source. Those that are left are made anew, one after the other, when there is time.'),
  'postgres.verifyLag': (call) => {
    const primary = nodeName(call, 'primary');
    return isAurora(call)
      ? nothing('Look at AuroraReplicaLag or AuroraGlobalDBReplicationLag in CloudWatch.')
      : { blocks: [run('check', `Which replicas stream from ${primary}: name, state, bytes behind. No line: there is no redundancy until one is made.`, psql(call, primary, 'select application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) from pg_stat_replication'))], stop: [], broken: 'it does not hold this up' };
  },
  'postgres.measureLoss': () => nothing('NOT MEASURED: RDS shows the WAL of an instance to nobody. Write that, and no figure, into the results.'),
  'postgres.rebuildStandby': rebuild,
};

const STATUS = 'DBInstances[0].DBInstanceStatus';
const GROUPS = 'DBInstances[0].VpcSecurityGroups[].VpcSecurityGroupId';

function nothing(text: string): ByHand {
  return { blocks: [], say: [text], stop: [], broken: 'nothing can break here' };
}

function isAurora(call: ByHandCall): boolean {
  return databaseOf(call).managed!.type !== 'rds';
}

function rdsOf(call: ByHandCall, node: string): ManagedNode {
  return nodeOf(call, node).rds!;
}

/** `aws rds` in the Region of the node. */
function rds(call: ByHandCall, node: string): string {
  const { endpoint, region } = call.config.aws;
  return `aws --region ${sh(rdsOf(call, node).region ?? region)}${endpoint === undefined ? '' : ` --endpoint-url ${sh(endpoint)}`} rds`;
}

function describe(call: ByHandCall, node: string, query: string, identifier = rdsOf(call, node).instance): string {
  return `${rds(call, node)} describe-db-instances --db-instance-identifier ${sh(identifier)} --query ${sh(query)} --output text`;
}

function arnOf(call: ByHandCall, node: string): string {
  return `"$(${describe(call, node, 'DBInstances[0].DBInstanceArn')})"`;
}

function health(call: ByHandCall): ByHand {
  const [primary, candidate] = [nodeName(call, 'primary'), nodeName(call, 'candidate')];
  const forced = call.mode === 'forced';
  const node = nodeOf(call, primary);
  const blocks: ByHandBlock[] = [
    ...secretPoints(call, databaseOf(call), primary, forced ? 'The application is told the primary that is lost.' : 'The application is told the present primary.'),
    ...(forced
      ? [
          run('check', `Fact 1: ${primary} does not answer you. Three times.`, `for i in 1 2 3; do pg_isready -q -t 3 -h ${sh(node.host)} -p ${node.port}; r=$?; echo "$r"; sleep 1; done`, ['2']),
          run('check', `Fact 2: what RDS says of it. "available" is no sign of life: RDS may be behind, and no fact either.`, describe(call, primary, STATUS), undefined, 'stopped, failed, storage-full: it is down'),
        ]
      : [run('check', `${primary} takes writes.`, psql(call, primary, 'select pg_is_in_recovery()'), ['f']), run('check', `RDS is at nothing else with ${primary}.`, describe(call, primary, STATUS), ['available'])]),
    run('check', `${candidate} is a replica. Where RDS and the server disagree, believe the server.`, psql(call, candidate, 'select pg_is_in_recovery()'), ['t']),
    run('check', `RDS can promote ${candidate}.`, describe(call, candidate, STATUS), ['available']),
    ...(isAurora(call) ? [] : [run('check', forced ? `Fact 3: ${candidate} hears nothing from ${primary}.` : `${candidate} streams.`, psql(call, candidate, "select count(*) from pg_stat_wal_receiver where status = 'streaming'"), [forced ? '0' : '1'])]),
  ];
  return { blocks, stop: forced ? [`fewer than two facts say that ${primary} is down`, `${primary} answers anybody: use the checklist for a planned failover`] : ['anything prints something else', `${primary} does not answer: use the checklist for a forced failover`], broken: 'nothing was changed yet: stop, and ask' };
}

/** Security groups of an instance, and until RDS says that they are in force. */
function setGroups(call: ByHandCall, node: string, groups: string): string {
  const { instance } = rdsOf(call, node);
  return [
    `${rds(call, node)} modify-db-instance --db-instance-identifier ${sh(instance)} --vpc-security-group-ids ${groups} --apply-immediately --query ${sh('DBInstance.DBInstanceStatus')} --output text`,
    waitFor(describe(call, node, "length(DBInstances[0].VpcSecurityGroups[?Status!='active'])"), '0', 300),
  ].join(' &&\n');
}

function closeBlocks(call: ByHandCall, node: string): ByHandBlock[] {
  const { fencingGroups } = rdsOf(call, node);
  if (fencingGroups.length === 0) return [run('do', `No fencing groups are configured for ${node}: make a security group that lets only you in, and put it in place of its own.`, describe(call, node, GROUPS))];
  return [
    run('check', `Which security groups ${node} has. They are kept in a tag and in a file, to be given back.`, `${describe(call, node, GROUPS)} | tr '\\t' ' ' > "$HF/${call.step}.groups" && cat "$HF/${call.step}.groups"`, undefined, 'sg-0a1b2c3d, and none of the fencing groups'),
    run('do', 'The tags: whose fence it is, and what is to be given back.', `${rds(call, node)} add-tags-to-resource --resource-name ${arnOf(call, node)} --tags Key=holdfast:epoch,Value="$(cat "$HF/epoch")" Key=holdfast:execution,Value=by-hand Key=holdfast:groups,Value="$(cat "$HF/${call.step}.groups")" && echo done`, ['done']),
    run('do', `Only workers are let in from here. (RDS says "active" before every host has it: give it a moment.)`, setGroups(call, node, fencingGroups.map(sh).join(' ')), ['0']),
  ];
}

const STRANGERS = "from pg_stat_activity a join pg_roles r on r.oid = a.usesysid where a.backend_type = 'client backend' and a.pid <> pg_backend_pid() and not r.rolsuper";

function readOnly(call: ByHandCall): ByHand {
  if (isAurora(call)) return nothing('Nothing to do: Aurora itself refuses writes while it moves the writer.');
  const primary = nodeName(call, 'primary');
  const standbys = Object.keys(databaseOf(call).nodes).filter((name) => name !== primary);
  return {
    blocks: [
      run('check', `WRITES ARE REFUSED FROM THE NEXT STEP ON. Read on to the promotion before you begin: it must be begun or this undone within ${formatDuration(call.readOnlyDeadlineMs)}.`, psql(call, primary, 'select count(*) from pg_prepared_xacts'), ['0']),
      ...closeBlocks(call, primary),
      run('do', 'Connections that are open stay open: end every session, until none comes back.', waitFor(psql(call, primary, `select count(pg_terminate_backend(a.pid)) ${STRANGERS}`), '0'), ['0']),
      run('do', 'The last WAL position, after a commit of our own that flushes everything before it.', `${sqlFile(call, primary, {}, "begin read write;\nselect pg_logical_emit_message(true, 'holdfast', 'read-only by hand') \\g /dev/null\nset local synchronous_commit = local;\ncommit;\nselect pg_current_wal_flush_lsn();", `"$HF/${call.step}.lsn"`)}\ncat "$HF/${call.step}.lsn"`, undefined, '0/3000148'),
      run('undo', `Let writes in again. Only while ${standbys.join(', ')} ${standbys.length === 1 ? 'is' : 'are'} still in recovery, which is asked first; never after the promotion was begun.`, [
        'ok=yes',
        ...standbys.map((name) => `x="$(${psql(call, name, 'select pg_is_in_recovery()')})"; [ "$x" = t ] || { echo "STOP: is ${name} in recovery? It says: $x"; ok=; }`),
        `[ -n "$ok" ] && { ${setGroups(call, primary, `$(cat "$HF/${call.step}.groups")`)}; ${rds(call, primary)} remove-tags-from-resource --resource-name ${arnOf(call, primary)} --tag-keys holdfast:epoch holdfast:execution holdfast:groups; }`,
      ].join('\n'), ['0']),
    ],
    stop: ['a session does not end, or comes back: the fencing groups let applications in', `more than ${formatDuration(call.readOnlyDeadlineMs)} have passed and nothing was promoted: undo`],
    broken: 'undo, and look again',
  };
}

function fence(call: ByHandCall): ByHand {
  const node = nodeName(call, 'node');
  const { instance } = rdsOf(call, node);
  if (isAurora(call)) return { blocks: [run('check', `${node} is no writer any more: in a Region Aurora's storage takes one writer. In a lost Region give its cluster its fencing groups as soon as RDS there answers: aws rds modify-db-cluster --vpc-security-group-ids ...`, `${psql(call, node, 'select pg_is_in_recovery()')} 2>/dev/null || echo down`, ['t', 'down'])], stop: [`${node} takes writes after the promotion`], broken: 'Aurora fences a lost Region as well as it can reach it: keep the applications out of it' };
  return {
    blocks: [
      ...(call.mode === 'forced' || databaseOf(call).nodes[node] === undefined ? closeBlocks(call, node) : [run('check', `${node} is behind its fencing groups.`, describe(call, node, GROUPS), undefined, rdsOf(call, node).fencingGroups.join(', '))]),
      ...(call.mode === 'forced' ? [run('do', 'Connections that are open stay open: a reboot ends them, and behind the groups nobody comes back.', `${rds(call, node)} reboot-db-instance --db-instance-identifier ${sh(instance)} --query ${sh('DBInstance.DBInstanceStatus')} --output text`, undefined, 'rebooting')] : []),
      run('do', `Stop it. RDS refuses while it has read replicas: then it stays up behind its groups. RDS starts a stopped instance again after seven days.`, `${rds(call, node)} stop-db-instance --db-instance-identifier ${sh(instance)} --query ${sh('DBInstance.DBInstanceStatus')} --output text || echo "not stopped"`, undefined, 'stopping, or not stopped'),
    ],
    stop: ['its groups cannot be changed: keep the applications out of that Region by other means, and have a second person confirm it'],
    broken: 'without a fence there may be two primaries: do not promote',
  };
}

function promote(call: ByHandCall): ByHand {
  const candidate = nodeName(call, 'candidate');
  const { managed } = databaseOf(call);
  const { instance, cluster } = rdsOf(call, candidate);
  const clusterArn = `"$(${rds(call, candidate)} describe-db-clusters --db-cluster-identifier ${sh(cluster ?? '')} --query 'DBClusters[0].DBClusterArn' --output text)"`;
  const ask =
    managed!.type === 'rds'
      ? `${rds(call, candidate)} promote-read-replica --db-instance-identifier ${sh(instance)} --query ${sh('DBInstance.DBInstanceStatus')} --output text`
      : managed!.type === 'aurora'
        ? `${rds(call, candidate)} failover-db-cluster --db-cluster-identifier ${sh(managed!.cluster ?? '')} --target-db-instance-identifier ${sh(instance)} --query ${sh('DBCluster.Status')} --output text`
        : `${rds(call, candidate)} ${call.mode === 'forced' ? 'failover-global-cluster --allow-data-loss' : 'switchover-global-cluster'} --global-cluster-identifier ${sh(managed!.globalCluster ?? '')} --target-db-cluster-identifier ${clusterArn} --query ${sh('GlobalCluster.Status')} --output text`;
  return {
    blocks: [
      ...(managed!.type === 'rds' && call.mode === 'planned' ? [run('check', `${nodeName(call, 'primary')} is still behind its fencing groups.`, describe(call, nodeName(call, 'primary'), GROUPS), undefined, rdsOf(call, nodeName(call, 'primary')).fencingGroups.join(', '))] : []),
      run('do', `PROMOTE ${candidate}. AFTER THIS NOTHING IS UNDONE. If the answer is lost, do not repeat it: look first.`, ask, undefined, 'modifying, failing-over, switching-over or available'),
      run('check', `${candidate} takes writes. RDS takes minutes, and restarts what it has promoted.`, waitFor(psql(call, candidate, 'select pg_is_in_recovery()'), 'f', 6000), ['f']),
      run('check', 'RDS is done with it.', waitFor(describe(call, candidate, STATUS), 'available', 6000), ['available']),
    ],
    stop: ['RDS printed an error: it may still be under way. Look at the status until it is clear; do not open the old primary meanwhile'],
    broken: 'keep the old primary fenced. Two primaries are worse than none',
  };
}

function rebuild(call: ByHandCall): ByHand {
  const name = nodeName(call, 'node');
  const primary = nodeName(call, 'primary');
  if (isAurora(call)) return { blocks: [run('check', `Aurora has made ${name} a reader by itself.`, waitFor(psql(call, name, 'select pg_is_in_recovery()'), 't', 600), ['t'])], say: ['Where its cluster was fenced, give it its security groups back: aws rds modify-db-cluster --vpc-security-group-ids ...; they are in its tag holdfast:groups.'], stop: [`${name} takes writes`], broken: 'there is no hurry: writes go on meanwhile' };
  const { instance } = rdsOf(call, name);
  const old = replacedName(instance, 0).replace(/-0$/, '');
  const abroad = rdsOf(call, name).region !== rdsOf(call, primary).region;
  return {
    blocks: [
      run('check', `${primary} is the primary.`, psql(call, primary, 'select pg_is_in_recovery()'), ['f']),
      run('check', `${name} is down, a replica, or behind its fencing groups: not a second primary.`, describe(call, name, GROUPS), undefined, rdsOf(call, name).fencingGroups.join(', ')),
      run('do', 'Start it if it is stopped: RDS renames only what runs. Its fencing groups hold.', `${rds(call, name)} start-db-instance --db-instance-identifier ${sh(instance)} --query ${sh('DBInstance.DBInstanceStatus')} --output text; ${waitFor(describe(call, name, STATUS), 'available', 6000)}`, ['available']),
      run('do', `Its name goes to its successor; what it alone has is kept as ${old}.`, `${rds(call, name)} modify-db-instance --db-instance-identifier ${sh(instance)} --new-db-instance-identifier ${sh(old)} --apply-immediately --query ${sh('DBInstance.DBInstanceStatus')} --output text; ${waitFor(describe(call, name, STATUS, old), 'available', 6000)}`, ['available']),
      run('do', `A new read replica of ${primary} under the old name. Its size, subnet group, key and security groups as the old one has them (the groups from before are in the tag holdfast:groups).`, [
        `class="$(${describe(call, name, 'DBInstances[0].DBInstanceClass', old)})"; groups="$(${describe(call, name, "DBInstances[0].TagList[?Key=='holdfast:groups'].Value | [0]", old)})"`,
        `${rds(call, name)} create-db-instance-read-replica --db-instance-identifier ${sh(instance)} --source-db-instance-identifier ${abroad ? arnOf(call, primary) : sh(rdsOf(call, primary).instance)}${abroad && rdsOf(call, primary).region !== undefined ? ` --source-region ${sh(rdsOf(call, primary).region!)}` : ''} --db-instance-class "$class" --vpc-security-group-ids $groups --query ${sh('DBInstance.DBInstanceStatus')} --output text; ${waitFor(describe(call, name, STATUS), 'available', 36_000)}`,
      ].join('\n'), ['available']),
      run('check', `It streams.`, waitFor(psql(call, name, "select count(*) from pg_stat_wal_receiver where status = 'streaming'"), '1', 600), ['1']),
    ],
    stop: ['the second check shows groups that let applications in, and the node takes writes: two primaries; find out which one is right before anything is replaced'],
    broken: `there is no hurry: writes go on meanwhile. ${textOf(call.inputs['node'], name)} keeps its data under ${literal(old)} until somebody deletes it`,
  };
}
