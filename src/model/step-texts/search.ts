import { changes, datastore, name, reads, text, type KnownStep, type StepText } from './words.ts';

const cluster = (step: KnownStep): string => name(step, 'cluster', 'its cluster');

export const searchTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'search.snapshot': (step) => changes(`counts the documents of ${datastore(step)} on ${cluster(step)} and takes a snapshot of its indices into the repository, with the count in it`, 'how many documents there are then'),
  'search.restore': (step) => ({
    does: `restores the indices of ${datastore(step)} on ${cluster(step)} from ${text(step, 'snapshot', 'newest') === 'newest' ? 'the newest complete snapshot' : `snapshot ${text(step, 'snapshot', '')}`}${step.inputs['as'] === 'renamed' ? ', beside those that are there' : '; refused when an index of the name is there'}, and counts the documents`,
    undo: 'removes the restored indices, unless an alias points to them',
    unknown: ['how old the newest snapshot is then', 'how long it takes'],
  }),
  'search.reindex': (step) => ({
    does: `fills ${text(step, 'into', 'the index')} on ${cluster(step)} from ${step.inputs['fromIndex'] === undefined ? `the rows of a query to ${text(step, 'database', 'the database')}, in bulk` : text(step, 'fromIndex', '')}; refused when it holds documents of others`,
    undo: 'removes that index, unless an alias points to it',
    unknown: ['how many documents are refused'],
  }),
  'search.alias': (step) => ({
    does: `points the alias ${text(step, 'alias', '')} on ${cluster(step)} to ${text(step, 'index', 'the new index')} in one change; searches then read it`,
    undo: 'points it to where it pointed before, unless somebody else moved it',
    unknown: ['where it points at that time'],
  }),
  'search.verify': (step) => reads(`refreshes and counts ${text(step, 'index', `the indices of ${datastore(step)}`)} on ${cluster(step)}${step.inputs['query'] === undefined ? '' : `, compares with the rows of the query and looks ids up (${text(step, 'ids', 'sample')})`}`, 'the counts at that time'),
};
