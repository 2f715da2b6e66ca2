import { formatDuration } from '../units.ts';
import { changes, datastore, field, name, reads, text, type KnownStep, type StepText } from './words.ts';

export const postgresTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'postgres.health': (step) => reads(`looks at every node of ${datastore(step)}, at the application's secret and at the lag; names primary and candidate`, 'the lag and the roles at that time'),
  'postgres.checkpoint': (step) => changes(`runs CHECKPOINT on ${name(step, 'primary')} and a restartpoint on ${name(step, 'candidate')}`, 'how much is left to write'),
  'postgres.readOnly': (step) => ({
    does: `puts the fence block of the run's epoch at the head of pg_hba.conf on ${name(step, 'primary')}, sets default_transaction_read_only, reloads, ends every client session${field(step, 'sessions', (count) => ` (${String(count)} now)`)}${step.inputs['candidate'] === undefined ? '' : `, turns every third node to ${name(step, 'candidate')} (primary_conninfo, reloaded)`} and reads the WAL position. WRITES ARE REFUSED FROM HERE`,
    undo: `takes the block out again and reloads on ${name(step, 'primary')}, once no other node has left recovery${step.inputs['candidate'] === undefined ? '' : '; points the third nodes back'}`,
    unknown: ['how many sessions there are then, and whether all of them end', 'the last WAL position'],
  }),
  'postgres.fence': (step) => changes(`keeps ${name(step, 'node')} from taking writes, also after a restart: fence command where one is configured, fence block and standby.signal, server stopped where its host can be reached`, "whether the old primary's host answers at that time"),
  'postgres.awaitReplay': (step) => reads(`waits until ${name(step, 'candidate')} has replayed ${step.inputs['lsn'] === undefined ? 'the last WAL position, or all it received when there is none' : text(step, 'lsn', '')}`, 'how long replay takes'),
  'postgres.promote': (step) => changes(`promotes ${name(step, 'candidate')} with pg_promote(). Never repeated, never undone`, 'how long promotion takes, the new timeline and where it begins'),
  'postgres.verifyFence': (step) => reads(`asks ${name(step, 'node')} whether it is down, in recovery, or refusing; anything else parks the run`, 'what the old primary answers then'),
  'postgres.repointStandbys': (step) => changes(`has every standby but ${name(step, 'old')} follow ${name(step, 'primary')} (primary_conninfo, reloaded); one that is past the point where the timelines part is left alone and named`, 'which standbys answer then, and which of them can follow'),
  'postgres.verifyLag': (step) => reads(`waits for every remaining standby to stream from ${name(step, 'primary')} within ${typeof step.inputs['maxLag'] === 'number' ? formatDuration(step.inputs['maxLag']) : text(step, 'maxLag', 'the allowed lag')}`, 'which standbys follow the new primary by themselves'),
  'postgres.measureLoss': (step) => reads(`counts the COMMIT records in the WAL of ${name(step, 'node')} after the point where the new timeline began`, 'the figure; whether its host can be reached at all'),
  'postgres.verifyRecentWrites': (step) => reads(`logs in to ${name(step, 'primary')} with the application's secret${step.inputs['query'] === undefined ? '' : ` and shows what "${text(step, 'query', '')}" gives`}`, 'the newest transaction'),
  'postgres.rebuildStandby': (step) => changes(`stops ${name(step, 'node')}, rewinds it with pg_rewind to where the timelines parted${step.inputs['allowBaseBackup'] === false ? '' : ' (else a new base backup)'}, starts it as a standby of ${name(step, 'primary', 'the present primary')} and lifts its fence. What ${name(step, 'node')} alone has is discarded`, 'whether pg_rewind is enough', 'how long copying takes'),
};
