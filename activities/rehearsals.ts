import { dirname, join, resolve } from 'node:path';
import type { Client } from '@temporalio/client';
import { SEARCH_ATTRIBUTES } from '../src/model/api.ts';
import type { RehearsalConfig } from '../src/model/config-rehearsals.ts';
import { judgeRehearsal, type RehearsalRun, type RehearsalState } from '../src/model/rehearsal.ts';
import { serviceOf, type Context } from '../src/systems/context.ts';
import { listEvidence, verifyEvidenceFolder } from '../src/systems/evidence-folder.ts';
import { trustOf } from '../src/systems/evidence-keys.ts';

/** Enough to find a success among runs that do not count. */
const RUNS_LOOKED_AT = 20;

interface Ended {
  readonly outcome?: string;
  readonly objectivesMet?: boolean | null;
  readonly measuredRtoMs?: number | null;
  readonly objectives?: { readonly rtoMs: number } | null;
  readonly evidence?: string | null;
  readonly byPeople?: readonly string[];
}

/** Every rehearsal of a service: when it was held, when it is due. From histories while Temporal has them, and from the evidence on this host. */
export async function rehearsalStates(context: Context, client: Client, service: string, nowMs: number): Promise<RehearsalState[]> {
  const { rehearsals } = serviceOf(context.config, service);
  if (rehearsals.length === 0) return [];
  const recorded = await recordedRuns(context);
  return Promise.all(
    rehearsals.map(async (rehearsal) => {
      const runs = await runsInHistory(context, client, service, rehearsal);
      const known = new Set(runs.map(({ workflowId }) => workflowId));
      return judgeRehearsal(service, rehearsal, [...runs, ...recorded.filter((one) => one.fits(service, rehearsal) && !known.has(one.run.workflowId)).map(({ run }) => run)], nowMs);
    }),
  );
}

/** Names have no quotes: the configuration's schema says so, and runbooks are known by theirs. */
async function runsInHistory(context: Context, client: Client, service: string, rehearsal: RehearsalConfig): Promise<RehearsalRun[]> {
  const environment = `${SEARCH_ATTRIBUTES.environment} = '${context.config.environment}'`;
  const which = rehearsal.drill === undefined
    ? `WorkflowType IN ('failover', 'runbook') AND ${SEARCH_ATTRIBUTES.service} = '${service}' AND ${SEARCH_ATTRIBUTES.runbook} = '${rehearsal.runbook!.replaceAll("'", '')}'`
    : `WorkflowType = 'restoreDrill' AND ${SEARCH_ATTRIBUTES.datastore} = '${rehearsal.drill}'`;
  const found: { workflowId: string; runId: string; closedAt: string }[] = [];
  for await (const info of client.workflow.list({ query: `${which} AND ${environment} AND ExecutionStatus = 'Completed'`, pageSize: 100 })) {
    found.push({ workflowId: info.workflowId, runId: info.runId, closedAt: (info.closeTime ?? info.startTime).toISOString() });
    if (found.length >= 100) break;
  }
  const newest = found.sort((a, b) => b.closedAt.localeCompare(a.closedAt)).slice(0, RUNS_LOOKED_AT);
  const runs: RehearsalRun[] = [];
  for (const { workflowId, runId, closedAt } of newest) {
    const result = (await client.workflow.getHandle(workflowId, runId).result()) as Ended;
    // A dry run changes nothing and rehearses nothing.
    if (result.outcome === 'checked') continue;
    runs.push({ workflowId, finishedAt: closedAt, outcome: result.outcome ?? '?', objectivesMet: objectivesMet(result), evidence: folderOf(result.evidence), byPeople: result.byPeople ?? [] });
  }
  return runs;
}

function objectivesMet(result: Ended): boolean | null {
  if (result.objectivesMet !== undefined) return result.objectivesMet;
  return result.measuredRtoMs == null || result.objectives == null ? null : result.measuredRtoMs <= result.objectives.rtoMs;
}

/** A record that could not be written says so where its folder would stand. */
function folderOf(evidence: string | null | undefined): string | null {
  return evidence == null || evidence.startsWith('not written') ? null : evidence;
}

interface Recorded {
  readonly run: RehearsalRun;
  fits(service: string, rehearsal: RehearsalConfig): boolean;
}

/** Only evidence that is intact speaks, and where keys are trusted only what they signed. */
async function recordedRuns(context: Context): Promise<Recorded[]> {
  const directory = resolve(dirname(context.configPath), context.config.evidence.directory);
  const trust = trustOf(context.config.evidence);
  const found: Recorded[] = [];
  for (const entry of await listEvidence(directory, trust)) {
    if (!entry.ok) continue;
    const { report } = await verifyEvidenceFolder(join(directory, entry.folder), trust);
    if (report === undefined) continue;
    const facts = (kind: string): readonly Record<string, unknown>[] => report.facts.filter((fact) => fact.kind === kind).map((fact) => fact.data as Record<string, unknown>);
    const [plan] = facts('plan');
    const { header } = report;
    const environment = plan?.['environment'] ?? (header as { environment?: string }).environment;
    if (environment !== context.config.environment) continue;
    const run: RehearsalRun = {
      workflowId: header.workflowId, finishedAt: header.finishedAt, outcome: header.outcome.split(',')[0]!, objectivesMet: header.outcome.includes('objectives missed') ? false : null, evidence: join(directory, entry.folder),
      byPeople: [...new Set(facts('decision').filter(({ action }) => action === 'skip' || action === 'markDone').map(({ step }) => String(step)))],
    };
    found.push({
      run,
      fits: (service, rehearsal) => (rehearsal.drill === undefined ? plan?.['runbook'] === rehearsal.runbook && header.service === service : header.kind === 'drill' && header.subject === rehearsal.drill),
    });
  }
  return found;
}
