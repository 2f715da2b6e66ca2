import { formatDuration } from '../units.ts';
import { changes, field, list, nothing, reads, recordOf, text, type KnownStep, type StepText } from './words.ts';

export const edgeTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'region.health': (step) => reads(`asks Route 53's checkers, ${list(step, 'endpoints').length + list(step, 'otherEndpoints').length} endpoint(s) and the RDS API of both Regions whether ${text(step, 'region', 'the Region')} is down, or whether both are well when planned`, 'what they answer then'),
  'route53.weights': (step) => ({
    does: `sets the weights of ${text(step, 'type', 'A')} ${text(step, 'name', 'the name')} to ${show(step.inputs['weights'])}${field(step, 'weights', (now) => ` (now ${show(now)})`)} in one batch, only if the sets still are as they were seen, and waits for INSYNC`,
    undo: 'puts the weights back, unless somebody else has changed them since',
    unknown: ['how long Route 53 takes; resolvers keep the old answer for the TTL'],
  }),
  'route53.failoverRecord': (step) => ({
    does: text(step, 'to', 'secondary') === 'secondary' ? `disables and inverts the health check${field(step, 'healthCheck', (id) => ` ${String(id)}`)} of the PRIMARY set of ${text(step, 'name', 'the name')}: Route 53 answers with the SECONDARY` : `enables the health check${field(step, 'healthCheck', (id) => ` ${String(id)}`)} of the PRIMARY set of ${text(step, 'name', 'the name')} and takes the inversion off: Route 53 decides by itself`,
    undo: 'puts both settings of the health check back, unless somebody else has changed them since',
    unknown: ['when checkers and resolvers have it'],
  }),
  'cloudfront.origin': (step) => ({
    does: `has distribution ${text(step, 'distributionId', '?')} ${step.inputs['originGroup'] === undefined ? `take origin ${text(step, 'origin', '?')} for ${list(step, 'behaviors').join(', ') || 'default'}` : `try ${String(recordOf(step.inputs['originGroup'])['first'] ?? '?')} first in origin group ${String(recordOf(step.inputs['originGroup'])['id'] ?? '?')}`}${field(step, 'choice', (now) => ` (now ${show(now)})`)}, only if it still is as it was read, and waits until it is Deployed${list(step, 'invalidate').length === 0 ? '' : `; then takes ${list(step, 'invalidate').join(' ')} out of the caches`}`,
    undo: 'puts the origins back, unless somebody else has changed them since',
    unknown: ['how long deploying takes: minutes'],
  }),
  'secret.replicate': (step) => ({ does: `has Secrets Manager keep a replica of ${text(step, 'secret', 'the secret')} in ${text(step, 'region', 'the other Region')}${field(step, 'replica', (status) => ` (now ${String(status)})`)} and waits until it is in sync`, undo: 'takes the replica away again, if it was not there before', unknown: ['how long it takes'] }),
  'secret.verifyReplica': (step) => reads(`asks whether the replica of ${text(step, 'secret', 'the secret')} in ${text(step, 'region', 'the other Region')} is in sync`, 'with the other Region lost: whether it has the last change'),
  'secret.promoteReplica': (step) => changes(`makes the replica of ${text(step, 'secret', 'the secret')} in ${text(step, 'region', 'the other Region')} a secret of its own. Nothing undoes it`, 'whether it had the last change'),
  'sqs.redrive': (step) => changes(`moves the messages of ${text(step, 'deadLetterQueue', 'the dead-letter queue')}${field(step, 'deadLetter', (counts) => ` (about ${String(recordOf(counts)['waiting'] ?? '?')} now)`)} back to ${text(step, 'queue', 'their queue')}${text(step, 'method', 'task') === 'task' ? ' by a move task of SQS' : ' one batch after the other'}`, 'how many there are: SQS counts about', 'whether they succeed this time'),
  'sqs.verifyEmpty': (step) => reads(`looks ${text(step, 'looks', '3')} times whether ${text(step, 'queue', 'the queue')} is empty`),
  'flag.set': (step) => ({ does: `sets parameter ${text(step, 'name', '?')} to "${text(step, 'value', '?')}"${field(step, 'value', (now) => ` (now "${String(now)}")`)}, only upon the version that was seen`, undo: 'puts the old value back, or deletes it if there was none, unless somebody else has changed it since', unknown: ['when each application reads it'] }),
  'flag.restore': (step) => changes(`puts ${step.inputs['existed'] === false ? `parameter ${text(step, 'name', '?')} away again` : `the old value of parameter ${text(step, 'name', '?')} back`}, unless somebody else has changed it since`),
  'service.watch': (step) => {
    const sources = ['http', 'canary', 'metric'].filter((source) => step.inputs[source] !== undefined);
    return sources.length === 0 ? nothing('has nothing to watch') : reads(`watches ${sources.join(', ')} for ${typeof step.inputs['duration'] === 'number' ? formatDuration(step.inputs['duration']) : text(step, 'duration', 'a while')} and fails under the objective`, 'every figure: they are measured, never foreseen');
  },
};

function show(value: unknown): string {
  const entries = Object.entries(recordOf(value));
  return entries.length === 0 ? '?' : entries.map(([name, item]) => `${name} ${String(item)}`).join(', ');
}
