import { formatDuration } from '../units.ts';
import { list, reads, text, type KnownStep, type StepText } from './words.ts';

export const streamTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'kafka.lagGate': (step) => reads(`waits${typeof step.inputs['wait'] === 'number' ? `, at most ${formatDuration(step.inputs['wait'])},` : ''} until ${list(step, 'groups').join(', ') || 'the consumer groups'} are at most ${text(step, 'maxLag', '0')} messages behind`, 'how far they are behind at that time'),
};
