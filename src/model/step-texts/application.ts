import { changes, field, list, name, nothing, reads, recordOf, text, type KnownStep, type StepText } from './words.ts';

export const applicationTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'secret.stage': (step) => ({
    does: `puts a new version of the application's secret, pointing to ${name(step, 'candidate')}, beside the current one${field(step, 'current', (version) => ` (${String(version)}${field(step, 'points', (points) => `, pointing to ${String(points)}`)})`)} under the label HOLDFAST-STAGED; applications do not see it`,
    undo: 'takes the label HOLDFAST-STAGED off that version; the current one is never touched',
    unknown: ['the id of the new version'],
  }),
  'canary.start': (step) => ({
    does: `starts a writer through the application's own secret, one row ${typeof step.inputs['intervalMs'] === 'number' ? `each ${step.inputs['intervalMs']} ms` : 'every few milliseconds'} into holdfast.canary on ${name(step, 'primary')}`,
    undo: 'ends the writer; its rows stay',
    unknown: ['whether the application is let in at that time'],
  }),
  'secret.swap': (step) => changes(`makes the staged version of the application's secret current, only if the version it was made from${field(step, 'current', (version) => ` (now ${String(version)})`)} still is; applications then read ${name(step, 'candidate')}`, 'whether somebody changes the secret meanwhile', 'when each application reads it again'),
  'route53.change': dnsText,
  'rollout.command': (step) => (list(step, 'argv').length === 0 ? nothing('no rollout command is configured: it is skipped') : changes(`runs ${JSON.stringify(list(step, 'argv'))} on the worker${list(step, 'verify').length === 0 ? '; its exit code is all that is looked at' : `, then ${JSON.stringify(list(step, 'verify'))} until it exits with 0`}`, 'what the command does and how long it takes')),
  'rollout.http': (step) => (text(step, 'url', '') === '' ? nothing('no rollout URL is configured: it is skipped') : changes(`calls ${text(step, 'method', 'POST')} ${text(step, 'url', '')}${text(step, 'verifyUrl', '') === '' ? '; a 2xx answer is all that is looked at' : `, then ${text(step, 'verifyUrl', '')} until it answers 2xx`}`, 'what the endpoint answers')),
  'canary.verify': (step) => reads(`ends the canary and reads every write that was acknowledged to it back from ${name(step, 'primary')}`, 'the refused-write window and the lost writes: both are measured, never foreseen'),
  'notify.send': (step) => changes(`tells people: "${text(step, 'title', '...')}"`, 'whether the receivers answer; they never stop a recovery'),
};

function dnsText(step: KnownStep): StepText {
  const before = recordOf(step.before);
  if (before['name'] === undefined) return before['value'] === undefined ? nothing('no DNS record is configured: it is skipped') : changes(`points the DNS record to ${name(step, 'candidate')}`);
  return changes(`changes ${String(before['name'])} from ${String(before['value'] ?? 'missing')} to ${String(before['wanted'] ?? `the address of ${name(step, 'candidate')}`)} and waits for INSYNC`, 'how long Route 53 takes; resolvers keep the old answer for the TTL');
}
