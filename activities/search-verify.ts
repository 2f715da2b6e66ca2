import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { countDocuments, segment, shardRows, type IndexCount, type SearchCluster } from '../src/systems/opensearch.ts';
import { queryTarget, rowsOf } from '../src/systems/postgres-rows.ts';
import { answersCheck, inCluster, shardChecks } from './search-cluster.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

const POLL_MS = 1000;
const LOOKED_UP_AT_ONCE = 1000;
const NAMED = 5;

function indicesOf(step: StepRun, cluster: SearchCluster): readonly string[] {
  const one = optionalText(step, 'index');
  return one === undefined ? cluster.indices : [one];
}

interface Ids {
  readonly rows: number;
  readonly checked: number;
  readonly missing: number;
  readonly named: readonly string[];
}

/** Rows are counted, and their ids looked up by realtime get, not by search: no refresh can hide one. */
async function lookUp(step: StepRun, cluster: SearchCluster, index: string): Promise<Ids> {
  const how = textInput(step, 'ids');
  const target = await queryTarget(step.context, textInput(step, 'database'), optionalText(step, 'databaseNode'));
  const column = `holdfast_source."${textInput(step, 'id')}"`;
  const from = `FROM (${textInput(step, 'query').replace(/;\s*$/, '')}) AS holdfast_source`;
  const collect = async (sql: string, values: unknown[], each: (ids: string[]) => Promise<void>): Promise<void> => {
    for await (const rows of rowsOf(target, sql, values, { batch: LOOKED_UP_AT_ONCE, signal: step.signal })) await each(rows.map((row) => String(row['id'])));
  };
  let [rows, checked, missing] = [0, 0, 0];
  const named: string[] = [];
  const found = async (ids: string[]): Promise<void> => {
    const answer = await cluster.request<{ docs: { _id: string; found?: boolean }[] }>('POST', `/${segment(index)}/_mget`, { query: { _source: false }, body: { ids }, timeoutMs: 120_000 });
    checked += ids.length;
    for (const { _id: id, found: there } of answer.docs) {
      if (there === true) continue;
      missing += 1;
      if (named.length < NAMED) named.push(id);
    }
    step.heartbeat({ checked, missing });
  };
  if (how === 'full') {
    await collect(`SELECT ${column}::text AS id ${from}`, [], async (ids) => {
      rows += ids.length;
      await found(ids);
    });
    return { rows, checked, missing, named };
  }
  await collect(`SELECT count(*)::text AS id ${from}`, [], async ([count]) => {
    rows = Number(count);
  });
  if (how === 'sample') await collect(`SELECT ${column}::text AS id ${from} ORDER BY md5(${column}::text || $1::text) LIMIT ${String(step.input['sampleSize'])}`, [step.call.key], found);
  return { rows, checked, missing, named };
}

async function look(step: StepRun, cluster: SearchCluster): Promise<PhaseResult> {
  const indices = indicesOf(step, cluster);
  let count: IndexCount | null;
  try {
    count = await countDocuments(cluster, indices);
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'search-request') throw error;
    if (error.context['status'] === 404) return guarded([check('index', false, indices.join(', '), 'missing', 'restore or fill it')]);
    count = null;
  }
  const checks = shardChecks(count, (await shardRows(cluster, indices)) ?? []);
  if (count === null) return guarded(checks);
  const [exactly, atLeast, tolerance] = [step.input['documents'] as number | undefined, step.input['atLeast'] as number | undefined, step.input['maxDifference'] as number];
  const give = tolerance === 0 ? '' : `, give or take ${tolerance}`;
  if (exactly !== undefined) checks.push(check('documents', Math.abs(count.documents - exactly) <= tolerance, `${exactly}${give}`, String(count.documents), 'restore or fill it anew'));
  if (atLeast !== undefined) checks.push(check('enough documents', count.documents >= atLeast, `at least ${atLeast}`, String(count.documents), 'restore or fill it anew'));
  let ids: Ids | null = null;
  if (step.input['query'] !== undefined) {
    ids = await lookUp(step, cluster, indices[0]!);
    checks.push(check('documents as rows', Math.abs(count.documents - ids.rows) <= tolerance, `${ids.rows} rows of the query${give}`, `${count.documents} documents`, 'fill it anew (search.reindex), or wait until what feeds it has caught up'));
    if (step.input['ids'] !== 'none') checks.push(check('ids', ids.missing <= tolerance, `${ids.checked} ids (${String(step.input['ids'])}) are there${give}`, ids.missing === 0 ? 'all' : `${ids.missing} missing: ${ids.named.join(', ')}${ids.missing > ids.named.length ? ', ...' : ''}`, 'fill it anew (search.reindex)'));
  }
  return {
    ...guarded(checks),
    summary: `${count.documents} documents in ${indices.join(', ')}${ids === null || ids.checked === 0 ? '; ids not looked up' : `; ${ids.checked} ids looked up (${String(step.input['ids'])})`}`,
    facts: { documents: count.documents, expected: ids?.rows ?? exactly ?? atLeast ?? null, idsChecked: ids?.checked ?? 0, idsHow: ids === null ? 'none' : String(step.input['ids']) },
  };
}

const verify: StepDefinition = {
  async guard(step) {
    return inCluster(step, async (cluster) => {
      if (step.input['query'] !== undefined && step.input['ids'] !== 'none' && indicesOf(step, cluster).length !== 1) {
        return guarded([check('one index', false, '`index`, since ids are looked up', `${indicesOf(step, cluster).length} indices`, 'name the index, or give ids: none')]);
      }
      return guarded([await answersCheck(cluster)]);
    });
  },
  async verify(step) {
    return inCluster(step, async (cluster) => {
      const deadline = step.nowMs() + (step.input['wait'] as number);
      for (;;) {
        const found = await look(step, cluster);
        if (found.checks!.every(({ ok }) => ok) || step.nowMs() >= deadline) return found;
        await pause(POLL_MS, step.signal);
      }
    });
  },
};

export const verifySteps: Readonly<Record<string, StepDefinition>> = { 'search.verify': verify };
