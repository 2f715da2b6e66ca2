import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { formatDuration } from '../src/model/units.ts';
import { bulkIndex } from '../src/systems/opensearch-bulk.ts';
import { countDocuments, segment, shardRows, stepHash, type SearchCluster } from '../src/systems/opensearch.ts';
import { aliasesOf } from '../src/systems/opensearch-snapshots.ts';
import { queryTarget, rowsOf } from '../src/systems/postgres-rows.ts';
import { answersCheck, inCluster, shardChecks } from './search-cluster.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

/** Refused documents that are named. */
const NAMED = 5;
/** Rows after which the index remembers how far it is. */
const REMEMBER_ROWS = 20_000;
const POLL_MS = 300;

/** What the index says of who fills it, in `_meta` of its mapping. */
interface Mark {
  readonly key: string;
  readonly state: 'filling' | 'done';
  /** The last id that is in it for sure, as text. */
  readonly after?: string;
  readonly indexed: number;
}

interface Mapping {
  readonly mappings: { readonly _meta?: { readonly holdfast?: Mark } & Readonly<Record<string, unknown>> };
}

function metaOf(answer: Readonly<Record<string, Mapping>>, index: string): NonNullable<Mapping['mappings']['_meta']> {
  const { _meta: meta } = answer[index]?.mappings ?? {};
  return meta ?? {};
}

/** undefined: there is no such index; null: nobody's mark. */
async function readMark(cluster: SearchCluster, index: string): Promise<Mark | null | undefined> {
  const answer = await cluster.find<Record<string, Mapping>>(`/${segment(index)}/_mapping`);
  if (answer === null) return undefined;
  return metaOf(answer, index).holdfast ?? null;
}

async function writeMark(cluster: SearchCluster, index: string, mark: Mark): Promise<void> {
  const answer = await cluster.request<Record<string, Mapping>>('GET', `/${segment(index)}/_mapping`);
  await cluster.request('PUT', `/${segment(index)}/_mapping`, { body: { _meta: { ...metaOf(answer, index), holdfast: mark } } });
}

async function fromSql(step: StepRun, cluster: SearchCluster, index: string, mark: Mark, deadline: number): Promise<number> {
  const id = textInput(step, 'id');
  const target = await queryTarget(step.context, textInput(step, 'database'), optionalText(step, 'databaseNode'));
  const query = textInput(step, 'query').replace(/;\s*$/, '');
  const column = `holdfast_source."${id}"`;
  // By id, so that a killed attempt goes on behind the last one that is in the index for sure.
  const sql = `SELECT * FROM (${query}) AS holdfast_source ${mark.after === undefined ? '' : `WHERE ${column} > $1 `}ORDER BY ${column}`;
  let { indexed } = mark;
  let [after, remembered] = [mark.after, indexed];
  const refused: string[] = [];
  for await (const rows of rowsOf(target, sql, mark.after === undefined ? [] : [mark.after], { batch: step.input['batch'] as number, signal: step.signal })) {
    const documents = rows.map((row) => {
      const value = row[id];
      if (value === null || value === undefined) throw new HoldfastError('document-id', `a row has no value in column ${id}`, { next: 'name a column that is unique and not null by `id`' });
      const { [id]: _, ...source } = row;
      return { id: value instanceof Date ? value.toISOString() : String(value), source: { ...source, [id]: value } };
    });
    const result = await bulkIndex(cluster, index, documents, step.signal);
    indexed += result.indexed;
    refused.push(...result.refused);
    // Some documents are not like the others; if most are not, the mapping is wrong and the rest would be too.
    if (refused.length > 10_000 || (refused.length >= 1000 && indexed === mark.indexed)) break;
    after = documents.at(-1)!.id;
    step.heartbeat({ indexed, after });
    if (indexed - remembered >= REMEMBER_ROWS && refused.length === 0) {
      await writeMark(cluster, index, { ...mark, after, indexed });
      remembered = indexed;
    }
    if (step.nowMs() > deadline) throw new HoldfastError('reindex-late', `${indexed} documents are in ${index} after ${formatDuration(step.input['wait'] as number)}`, { retryable: true, next: 'retry: it goes on behind the last one' });
  }
  if (refused.length > 0) {
    throw new HoldfastError('documents-refused', `${refused.length} document(s) were refused by ${index}, ${indexed} are in it: ${refused.slice(0, NAMED).join('; ')}`, { next: 'correct the rows, the query or the mappings, remove the index (undo), and start anew' });
  }
  return indexed;
}

interface ReindexTask {
  readonly completed: boolean;
  readonly task: { readonly status: { readonly total: number; readonly created: number; readonly version_conflicts: number } };
  readonly response?: { readonly total: number; readonly created: number; readonly version_conflicts: number; readonly failures: readonly { readonly id?: string; readonly cause?: { readonly type?: string; readonly reason?: string } }[]; readonly canceled?: string };
  readonly error?: { readonly type?: string; readonly reason?: string };
}

async function fromIndex(step: StepRun, cluster: SearchCluster, index: string, deadline: number): Promise<number> {
  const opaque = stepHash(step.call.key);
  const running = await cluster.request<{ nodes: Record<string, { tasks: Record<string, { headers?: Record<string, string>; parent_task_id?: string }> }> }>('GET', '/_tasks', { query: { actions: '*reindex', detailed: true } });
  const ours = Object.values(running.nodes).flatMap(({ tasks }) => Object.entries(tasks)).find(([, task]) => task.headers?.['X-Opaque-Id'] === opaque && task.parent_task_id === undefined);
  // It copies what a search finds: without a refresh the newest documents would be left out, and nobody told.
  if (ours === undefined) await cluster.request('POST', `/${segment(textInput(step, 'fromIndex'))}/_refresh`, { timeoutMs: 120_000 });
  // What a killed attempt has copied is left as it is: only what is missing is created.
  const task = ours?.[0] ?? (await cluster.request<{ task: string }>('POST', '/_reindex', { query: { wait_for_completion: false, refresh: true }, headers: { 'X-Opaque-Id': opaque }, body: { conflicts: 'proceed', source: { index: textInput(step, 'fromIndex') }, dest: { index, op_type: 'create' } } })).task;
  for (;;) {
    const found = await cluster.request<ReindexTask>('GET', `/_tasks/${encodeURIComponent(task)}`);
    step.heartbeat({ ...found.task.status });
    if (found.completed) {
      const failures = found.response?.failures ?? [];
      if (found.error !== undefined || failures.length > 0 || found.response?.canceled !== undefined) {
        const said = found.error !== undefined ? `${found.error.type ?? ''}: ${found.error.reason ?? ''}` : found.response?.canceled !== undefined ? `cancelled: ${found.response.canceled}` : failures.slice(0, NAMED).map(({ id, cause }) => `${id ?? '?'}: ${cause?.type ?? ''}: ${cause?.reason ?? ''}`).join('; ');
        throw new HoldfastError('documents-refused', `${failures.length} document(s) could not be copied to ${index}: ${said.slice(0, 1000)}`, { next: 'correct the mappings of the new index, remove it (undo), and start anew' });
      }
      return (found.response?.created ?? 0) + (found.response?.version_conflicts ?? 0);
    }
    if (step.nowMs() > deadline) throw new HoldfastError('reindex-late', `${found.task.status.created} of ${found.task.status.total} documents are copied after ${formatDuration(step.input['wait'] as number)}`, { retryable: true, next: 'retry: it waits for the same task' });
    await pause(POLL_MS, step.signal);
  }
}

const reindex: StepDefinition = {
  async inspect(step) {
    return inCluster(step, async (cluster) => {
      const index = textInput(step, 'into');
      const mark = await readMark(cluster, index);
      const done = mark?.key === stepHash(step.call.key) && mark.state === 'done';
      if (!done) return { satisfied: false, summary: mark === undefined ? `${index} is not there` : `${index} is there`, before: { there: mark !== undefined } };
      const { documents } = await countDocuments(cluster, [index]);
      return { satisfied: true, summary: `${index} is filled`, facts: { index, documents, indexed: mark!.indexed } };
    });
  },
  async guard(step) {
    return inCluster(step, async (cluster) => {
      const checks = [await answersCheck(cluster)];
      if (!checks[0]!.ok) return guarded(checks);
      const index = textInput(step, 'into');
      const mark = await readMark(cluster, index);
      const ours = mark?.key === stepHash(step.call.key);
      const documents = mark === undefined || ours ? 0 : (await countDocuments(cluster, [index])).documents;
      checks.push(check(`${index} is free`, documents === 0, 'no index of this name, or an empty one', mark === undefined ? 'free' : ours ? 'of this step' : `${documents} documents`, 'fill a new index and point the alias to it (search.alias)'));
      const source = optionalText(step, 'fromIndex');
      if (source !== undefined) checks.push(check(`source ${source}`, (await cluster.find(`/${segment(source)}`)) !== null, 'there', 'looked for', 'correct `fromIndex`'));
      else {
        const target = await queryTarget(step.context, textInput(step, 'database'), optionalText(step, 'databaseNode'));
        const rows = rowsOf(target, `SELECT "${textInput(step, 'id')}" FROM (${textInput(step, 'query').replace(/;\s*$/, '')}) AS holdfast_source LIMIT 1`, [], { batch: 1, signal: step.signal });
        const found = await rows.next().then(() => null, (error: unknown) => {
          if (error instanceof HoldfastError) return error.message;
          throw error;
        });
        await rows.return(undefined);
        checks.push(check('query', found === null, 'one SELECT with this id column', found ?? 'runs', 'try it with psql'));
      }
      return guarded(checks);
    });
  },
  async apply(step): Promise<PhaseResult> {
    return inCluster(step, async (cluster): Promise<PhaseResult> => {
      const started = step.nowMs();
      const index = textInput(step, 'into');
      const key = stepHash(step.call.key);
      let mark = await readMark(cluster, index);
      if (mark === undefined) {
        const mappings = step.input['mappings'] as Record<string, unknown>;
        const fresh: Mark = { key, state: 'filling', indexed: 0 };
        await cluster.request('PUT', `/${segment(index)}`, { body: { settings: step.input['settings'], mappings: { ...mappings, _meta: { ...(mappings['_meta'] as object | undefined), holdfast: fresh } } } });
        mark = fresh;
      } else if (mark?.key === key && mark.state === 'done') {
        return { outcome: 'already-satisfied', summary: `${index} is filled`, facts: { index, indexed: mark.indexed, documents: (await countDocuments(cluster, [index])).documents } };
      } else if (mark?.key !== key) {
        const { documents } = await countDocuments(cluster, [index]);
        if (documents > 0) throw new HoldfastError('index-exists', `${index} on ${cluster.name} holds ${documents} documents that this step did not write: nothing is put among them`, { next: 'fill a new index and point the alias to it (search.alias)' });
        mark = { key, state: 'filling', indexed: 0 };
        await writeMark(cluster, index, mark);
      }
      const deadline = started + (step.input['wait'] as number);
      const indexed = step.input['fromIndex'] === undefined ? await fromSql(step, cluster, index, mark, deadline) : await fromIndex(step, cluster, index, deadline);
      const { documents } = await countDocuments(cluster, [index]);
      await writeMark(cluster, index, { key, state: 'done', indexed });
      const reindexMs = step.nowMs() - started;
      return { outcome: 'changed', summary: `${documents} documents in ${index} after ${formatDuration(reindexMs)}`, after: { index, documents }, facts: { index, documents, indexed, reindexMs } };
    });
  },
  async verify(step) {
    return inCluster(step, async (cluster) => {
      const index = textInput(step, 'into');
      const mark = await readMark(cluster, index);
      if (mark === undefined) return guarded([check('index', false, index, 'missing', 'somebody removed it: retry the step')]);
      const count = await countDocuments(cluster, [index]);
      const source = optionalText(step, 'fromIndex');
      const wanted = source === undefined ? Number(step.call.facts['indexed']) : (await countDocuments(cluster, [source])).documents;
      return guarded([
        ...shardChecks(count, (await shardRows(cluster, [index])) ?? []),
        check('documents', count.documents === wanted, source === undefined ? `${wanted}, one for each row` : `${wanted}, as in ${source} now`, String(count.documents), source === undefined ? 'ids of the query are not unique, or somebody writes to the index' : 'the source is being written to: stop that, then retry; or prove it by search.verify with maxDifference'),
      ]);
    });
  },
  async undo(step) {
    return inCluster(step, async (cluster) => {
      const index = textInput(step, 'into');
      const mark = await readMark(cluster, index);
      if (mark?.key !== stepHash(step.call.key)) return { outcome: 'already-satisfied', summary: mark === undefined ? `${index} is not there` : `${index} is not of this step` };
      if ((step.call.before as { there?: boolean } | null)?.there === true) throw new HoldfastError('index-not-ours', `${index} on ${cluster.name} was there before this step, empty: it is left, with what was put into it`, { next: 'remove its documents by hand when it serves nobody' });
      const aliases = await aliasesOf(cluster, [index]);
      if (aliases.length > 0) throw new HoldfastError('index-in-use', `${index} on ${cluster.name} is what ${aliases.join(', ')} point(s) to: it is left`, { next: 'point the alias elsewhere, then remove it by hand' });
      await cluster.request('DELETE', `/${segment(index)}`, { timeoutMs: 120_000 });
      return { outcome: 'changed', summary: `${index} removed again` };
    });
  },
};

export const reindexSteps: Readonly<Record<string, StepDefinition>> = { 'search.reindex': reindex };
