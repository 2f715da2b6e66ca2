import { changes, datastore, field, reads, text, type KnownStep, type StepText } from './words.ts';

export const s3Texts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  's3.check': (step) => reads(`asks the bucket of ${datastore(step)} for versioning, object lock, replication, public access and MFA delete, and its newest objects for their replication status`, 'how many objects wait for replication then'),
  's3.planPrefix': (step) => reads(`lists every version below ${place(step)} and says what a restore to ${text(step, 'moment', 'the moment')} would bring back, replace and put behind delete markers`, 'the counts'),
  's3.restoreObject': (step) =>
    changes(`copies ${step.inputs['versionId'] === undefined ? `the version of ${text(step, 'moment', 'the moment')}` : `version ${text(step, 'versionId', '')}`} of ${text(step, 'key', 'the object')} over what is there${field(step, 'current', (version) => ` (version ${String(version)})`)}, with metadata, tags and storage class. What is there now stays as an old version`, 'whether somebody writes it meanwhile', 'how the content is compared: by ETag, by checksum or by reading both'),
  's3.restorePrefix': (step) =>
    changes(`brings ${place(step)} back to ${text(step, 'moment', 'the moment')} by copies and delete markers${field(step, 'plan', (plan) => `: ${String(plan)}`)}. No version is removed: restoring to the moment it began takes it back`, 'the counts at that time', 'who else writes meanwhile'),
  's3.drillMarker': (step) => ({ does: `writes an object below .holdfast-drill/ of ${datastore(step)}, overwrites it and deletes it`, undo: 'removes its versions, as far as no object lock holds them', unknown: [] }),
  's3.proveMarker': () => reads('reads the restored object and compares it byte by byte with what was written first'),
  's3.removeMarker': () => changes('removes the object of the drill with its versions; those under object lock stay behind a delete marker', 'how many versions are locked'),
  's3.lifecycle': (step) => ({
    does: `replaces the lifecycle document of the bucket of ${text(step, 'datastore', text(step, 'store', 'the datastore or store'))}: our rules as configured, rules of others as they are${field(step, 'foreign', (foreign) => (Array.isArray(foreign) ? ` (${foreign.length} now)` : ''))}`,
    undo: 'puts our rules back as they were, and leaves those of others',
    unknown: ['whether somebody changes the document in the same moment: S3 has no compare-and-set for it'],
  }),
};

function place(step: KnownStep): string {
  const prefix = text(step, 'prefix', '');
  return prefix === '' ? `all of ${datastore(step)}` : `${prefix} of ${datastore(step)}`;
}
