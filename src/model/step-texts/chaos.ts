import { changes, name, text, type KnownStep, type StepText } from './words.ts';

export const chaosTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'chaos.killPrimary': (step) => ({
    does: `kills every process of the server on ${name(step, 'primary')} with SIGKILL, for real: writes are refused until another node is promoted`,
    undo: 'starts that server again, unless another node was promoted or it is fenced',
    unknown: ['what the application had under way', 'how long it takes until writes are taken again'],
  }),
  'chaos.pod': (step) => changes(`deletes ${text(step, 'count', '1')} ready pod(s) ${text(step, 'selector', '')} in ${text(step, 'cluster', 'the cluster')}, without asking disruption budgets, and waits for others in their place`, 'which pods are ready then', 'how long it takes'),
  'chaos.proxyLink': (step) =>
    text(step, 'effect', '') === 'restore'
      ? changes(`heals the link ${text(step, 'link', '')}`)
      : { does: `${text(step, 'effect', '') === 'cut' ? 'cuts' : 'slows'} the link ${text(step, 'link', '')} at its Toxiproxy`, undo: 'heals the link', unknown: ['what goes through it then'] },
};
