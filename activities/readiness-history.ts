import { dirname, join, resolve } from 'node:path';
import type { Client } from '@temporalio/client';
import { SEARCH_ATTRIBUTES } from '../src/model/api.ts';
import type { EarlierReadiness, Rehearsal } from '../src/model/readiness.ts';
import type { Context } from '../src/systems/context.ts';
import { listEvidence, verifyEvidenceFolder } from '../src/systems/evidence-folder.ts';
import { trustOf } from '../src/systems/evidence-keys.ts';

/** Enough to find one run of today's document among runs of others. */
const RUNS_LOOKED_AT = 20;

interface Closed {
  readonly workflowId: string;
  readonly runId: string;
  readonly closedAt: string;
}

/** Completed executions, newest first. Names have no quotes: the configuration's schema says so. */
async function completed(client: Client, query: string, limit: number): Promise<Closed[]> {
  const found: Closed[] = [];
  for await (const info of client.workflow.list({ query: `${query} AND ExecutionStatus = 'Completed'`, pageSize: 100 })) {
    found.push({ workflowId: info.workflowId, runId: info.runId, closedAt: (info.closeTime ?? info.startTime).toISOString() });
    // The server lists by the time of closing; sorted below where it does not.
    if (found.length >= Math.max(limit, 100)) break;
  }
  return found.sort((a, b) => b.closedAt.localeCompare(a.closedAt)).slice(0, limit);
}

/** The newest result of the workflow `readiness` for a service, whoever started it, that the namespace still has. */
export async function newestReadiness(client: Client, environment: string, service: string): Promise<{ workflowId: string; runId: string; result: EarlierReadiness } | null> {
  const [newest] = await completed(client, `WorkflowType = 'readiness' AND ${SEARCH_ATTRIBUTES.environment} = '${environment}' AND ${SEARCH_ATTRIBUTES.service} = '${service}'`, 1);
  if (newest === undefined) return null;
  const result = (await client.workflow.getHandle(newest.workflowId, newest.runId).result()) as EarlierReadiness;
  return { workflowId: newest.workflowId, runId: newest.runId, result };
}

/**
 * Runs of a runbook for a service that succeeded in full (a dry run does not count), newest first: from Temporal while it keeps them,
 * else from the evidence on this worker.
 */
export async function rehearsalsOf(context: Context, client: Client, service: string, runbook: string): Promise<{ runs: Rehearsal[]; looked: string }> {
  const { environment } = context.config;
  const query = [
    `WorkflowType IN ('failover', 'runbook')`, `${SEARCH_ATTRIBUTES.environment} = '${environment}'`, `${SEARCH_ATTRIBUTES.service} = '${service}'`, `${SEARCH_ATTRIBUTES.runbook} = '${runbook}'`,
    `${SEARCH_ATTRIBUTES.outcome} IN ('succeeded', 'objectives-missed')`,
  ].join(' AND ');
  const runs: Rehearsal[] = [];
  for (const { workflowId, runId, closedAt } of await completed(client, query, RUNS_LOOKED_AT)) {
    const result = (await client.workflow.getHandle(workflowId, runId).result()) as { mode?: string; document?: string | null; configuration?: string | null; byPeople?: readonly string[] };
    // What a person skipped or declared was not rehearsed.
    if ((result.byPeople ?? []).length > 0) continue;
    runs.push({ workflowId, finishedAt: closedAt, mode: result.mode ?? '?', document: result.document ?? null, configuration: result.configuration ?? null });
  }
  if (runs.length === 0) runs.push(...(await rehearsalsInEvidence(context, service, runbook)));
  return { runs, looked: "looked in Temporal's histories and in the evidence of this worker" };
}

/** Only evidence that is intact speaks, and where keys are trusted only what they signed. */
async function rehearsalsInEvidence(context: Context, service: string, runbook: string): Promise<Rehearsal[]> {
  const directory = resolve(dirname(context.configPath), context.config.evidence.directory);
  const trust = trustOf(context.config.evidence);
  const runs: Rehearsal[] = [];
  for (const entry of await listEvidence(directory, trust)) {
    if (!entry.ok || entry.service !== service || !entry.outcome.startsWith('succeeded')) continue;
    const { report } = await verifyEvidenceFolder(join(directory, entry.folder), trust);
    const plan = report?.facts.find((fact) => fact.kind === 'plan')?.data as { runbook?: string; mode?: string; environment?: string; document?: string; configuration?: string } | undefined;
    if (report === undefined || plan?.runbook !== runbook || plan.environment !== context.config.environment) continue;
    if (report.facts.some(({ kind, data }) => kind === 'decision' && ['skip', 'markDone'].includes((data as { action: string }).action))) continue;
    runs.push({ workflowId: report.header.workflowId, finishedAt: report.header.finishedAt, mode: plan.mode ?? '?', document: plan.document ?? null, configuration: plan.configuration ?? null });
  }
  return runs;
}
