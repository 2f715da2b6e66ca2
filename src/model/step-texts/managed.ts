import { formatDuration } from '../units.ts';
import { changes, datastore, field, name, nothing, reads, text, type KnownStep, type StepText } from './words.ts';

const AURORA = 'Aurora itself refuses writes while it moves the writer';

/** The same kinds on a datastore that Amazon RDS or Aurora runs. A kind that is missing here is done as on any other server. */
export const managedTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'postgres.health': (step) => reads(`asks RDS, CloudWatch and every server of ${datastore(step)} for roles and lag, and says where they disagree; who takes writes is what the server itself says`, 'the lag and the roles at that time'),
  'postgres.checkpoint': (step) => (isAurora(step) ? nothing('Aurora has no checkpoints: it is skipped') : changes(`runs CHECKPOINT on ${name(step, 'primary')} and ${name(step, 'candidate')} where the admin user may`, 'how much is left to write')),
  'postgres.readOnly': (step) =>
    isAurora(step)
      ? nothing(`${AURORA}: nothing has to be refused before`)
      : {
          does: `puts the fencing groups in place of the security groups of ${name(step, 'primary')}${field(step, 'groups', (groups) => ` (now ${Array.isArray(groups) ? groups.join(', ') : String(groups)})`)}, which are kept in a tag, ends every session${field(step, 'sessions', (count) => ` (${String(count)} now)`)} and reads the WAL position. WRITES ARE REFUSED FROM HERE`,
          undo: `gives ${name(step, 'primary')} its security groups back and takes the tags off, once neither RDS nor a server says that another node was promoted`,
          unknown: ['how long RDS takes to put the groups in force', 'how many sessions there are then, and whether all of them end', 'the last WAL position'],
        },
  'postgres.fence': (step) =>
    isAurora(step)
      ? changes(`makes sure that ${name(step, 'node')} takes no write: in a Region Aurora's storage takes one writer only; a lost Region's cluster gets its fencing groups where RDS there answers`, 'whether the lost Region answers at that time')
      : changes(`keeps applications away from ${name(step, 'node')} by its fencing groups and a tag with the epoch, ends its connections (by SQL, else by a reboot) and stops it where RDS allows it. RDS starts it again after seven days; the groups hold then`, 'whether RDS allows to stop it: not while it has read replicas'),
  'postgres.awaitReplay': (step) => (isAurora(step) ? reads(`asks CloudWatch how far ${name(step, 'candidate')} is behind; Aurora itself waits where nothing may be lost`) : reads(`waits until ${name(step, 'candidate')} has replayed ${step.inputs['lsn'] === undefined ? 'the last WAL position, or all it received when there is none' : text(step, 'lsn', '')}`, 'how long replay takes')),
  'postgres.promote': (step) => changes(`${isAurora(step) ? `has Aurora make ${name(step, 'candidate')} the writer (${step.managed === 'aurora' ? 'FailoverDBCluster' : 'planned: SwitchoverGlobalCluster; forced: FailoverGlobalCluster with AllowDataLoss'})` : `has RDS promote ${name(step, 'candidate')} (PromoteReadReplica)`} and waits until RDS is done and the server takes writes. Asked for once: a try whose worker was lost is found by what RDS shows and by a tag. Never undone`, 'how long RDS takes: minutes, not seconds'),
  'postgres.verifyFence': (step) => reads(`asks RDS and ${name(step, 'node')} whether it is stopped, in recovery, or behind its fencing groups; anything else parks the run`, 'what they answer then'),
  'postgres.repointStandbys': (step) => (isAurora(step) ? nothing('readers of an Aurora cluster follow its writer by themselves') : reads(`names the read replicas that stay with ${name(step, 'old')}: RDS gives a replica no other source, they have to be made anew`)),
  'postgres.verifyLag': (step) => reads(`waits for every remaining replica to follow ${name(step, 'primary')} within ${typeof step.inputs['maxLag'] === 'number' ? formatDuration(step.inputs['maxLag']) : text(step, 'maxLag', 'the allowed lag')}`, 'which replicas follow the new primary'),
  'postgres.measureLoss': () => nothing('not measured: RDS shows the WAL of an instance to nobody'),
  'postgres.rebuildStandby': (step) =>
    isAurora(step)
      ? changes(`waits until Aurora has made ${name(step, 'node')} a reader, and gives its cluster its own security groups back where it was fenced`, 'how long Aurora takes')
      : changes(`renames the instance of ${name(step, 'node')}, makes a new read replica of ${name(step, 'primary', 'the present primary')} under its name with its size and its security groups, and waits until that streams. The old instance is kept behind its fence, or deleted after a final snapshot (managed.replaced)`, 'how long RDS takes to copy'),
};

function isAurora(step: KnownStep): boolean {
  return step.managed !== 'rds';
}
