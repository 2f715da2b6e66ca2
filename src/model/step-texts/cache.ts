import { formatDuration } from '../units.ts';
import { changes, datastore, list, name, text, type KnownStep, type StepText } from './words.ts';

const node = (step: KnownStep): string => name(step, 'node');

export const cacheTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'redis.snapshot': (step) => changes(`reads the whole of ${node(step)} of ${datastore(step)} as a replica does (SYNC; the server forks), checks it to its end and stores it as one RDB file`, 'how many keys there are then, and how long it takes'),
  'redis.substitute': (step) =>
    step.inputs['from'] === 'cold'
      ? { does: `shows that ${node(step)} is an empty, healthy primary, and puts nothing into it: cold`, undo: 'nothing: nothing was put there', unknown: ['how slow the service is until the cache is warm'] }
      : {
          does: `puts every key of ${text(step, 'snapshot', 'newest') === 'newest' ? 'the newest snapshot' : `the snapshot ${text(step, 'snapshot', '')}`} of ${datastore(step)} into ${node(step)} by RESTORE and counts them; refused unless ${node(step)} is empty. No application knows it yet`,
          undo: `empties ${node(step)} (FLUSHALL), unless somebody else wrote to it`,
          unknown: ['how many keys have expired until then', 'how long it takes'],
        },
  'redis.promote': (step) => ({
    does: `planned: has ${name(step, 'primary')} hand over to ${name(step, 'candidate')} (FAILOVER): writes are held${typeof step.inputs['timeout'] === 'number' ? ` for at most ${formatDuration(step.inputs['timeout'])}` : ''} until the replica has them all, then the old primary follows the new one; forced: makes it a primary (REPLICAOF NO ONE), and ${name(step, 'primary')} has to follow if it answers again`,
    undo: 'hands over back again the same way; in a forced run there is no way back, and it waits for a person',
    unknown: ['how far the replica is behind at that time'],
  }),
  'redis.warmUp': (step) => changes(`asks ${list(step, 'urls').length === 0 ? '' : `${list(step, 'urls').length} URL(s)${step.inputs['url'] === undefined ? '' : ' and '}`}${step.inputs['url'] === undefined ? '' : `${text(step, 'url', '')} for each item`} by GET, at most ${text(step, 'ratePerSecond', '50')} a second, so that the application fills its cache`, 'how many items there are, and how many requests fail'),
};
