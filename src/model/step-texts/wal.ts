import { changes, reads, text, type KnownStep, type StepText } from './words.ts';

const source = (step: KnownStep): string => text(step, 'source', 'the datastore');

export const walTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'wal.check': (step) => changes(`asks the archiver of ${source(step)} and its archive, then has the tool switch one WAL file and find it in the archive`, 'how long the archive takes'),
  'wal.mark': (step) =>
    text(step, 'time', '') === ''
      ? changes(`commits two rows into holdfast.wal_mark on the primary of ${source(step)} around a moment that its own clock says, switches the WAL and waits until it is archived`, 'the moment')
      : reads(`takes ${text(step, 'time', '')} as the moment and waits until the archive has passed it`),
  'wal.restoreToTime': (step) => changes(`restores ${source(step)} to ${text(step, 'moment', 'the moment')} into a server of its own on the worker, without network, asks it for the proof, and destroys it; nothing else is changed`, 'how long it takes', 'whether the archive has no hole'),
};
