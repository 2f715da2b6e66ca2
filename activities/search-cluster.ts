import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { withSearch, type IndexCount, type SearchCluster } from '../src/systems/opensearch.ts';
import { check, optionalText, textInput, type StepRun } from './step-definition.ts';

/** Works on the cluster that the step names. */
export function inCluster(step: StepRun, work: (cluster: SearchCluster) => Promise<PhaseResult>): Promise<PhaseResult> {
  return withSearch(step.context, textInput(step, 'datastore'), optionalText(step, 'cluster'), step.signal, work);
}

/** The health of what is searched now, for a guard. */
export async function answersCheck(cluster: SearchCluster): Promise<CheckResult> {
  const found = await cluster.request<{ status: string; cluster_name: string }>('GET', '/_cluster/health', { query: { timeout: '5s' } }).then(
    ({ cluster_name, status }) => ({ ok: true, text: `${cluster_name}, ${status}` }),
    (error: unknown) => {
      if (error instanceof HoldfastError) return { ok: false, text: error.message };
      throw error;
    },
  );
  return check(`cluster ${cluster.name} answers`, found.ok, `a reply from ${cluster.url}`, found.text, 'check url, user and password of the cluster');
}

export function shardChecks(count: IndexCount | null, rows: readonly { prirep: string; state: string; index: string; shard: string }[]): CheckResult[] {
  const lost = rows.filter(({ prirep, state }) => prirep === 'p' && state !== 'STARTED' && state !== 'RELOCATING').map(({ index, shard }) => `${index}[${shard}]`);
  const failed = count?.shards.failed ?? null;
  return [check('shards', failed === 0 && lost.length === 0, 'every shard answers', failed === null ? `none can be counted${lost.length === 0 ? '' : `; missing: ${lost.join(', ')}`}` : lost.length > 0 ? `missing: ${lost.join(', ')}` : `${failed} failed`, 'look at _cluster/allocation/explain; restore anew where the data is gone')];
}
