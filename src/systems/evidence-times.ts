import { dirname, resolve } from 'node:path';
import type { Plan } from '../model/execution.ts';
import { stepTimes, type StepTimes } from '../model/plan-view.ts';
import type { Context } from './context.ts';
import { listEvidence, verifyEvidenceFolder } from './evidence-folder.ts';

const RUNS = 5;

/**
 * How long each step took in the last intact, successful runs of the same runbook in the same mode, as far as their evidence lies on
 * this host. No evidence, no figure.
 */
export async function earlierTimes(context: Context, plan: Pick<Plan, 'kind' | 'runbook' | 'mode' | 'service'>): Promise<Record<string, StepTimes>> {
  const runs: { label: string; startMs: number; endMs: number }[][] = [];
  const listed = await listEvidence(resolve(dirname(context.configPath), context.config.evidence.directory)).catch(() => []);
  for (const entry of listed) {
    if (runs.length === RUNS) break;
    if (!entry.ok || entry.kind !== plan.kind || entry.service !== (plan.service ?? '') || !entry.outcome.startsWith('succeeded')) continue;
    const { report } = await verifyEvidenceFolder(entry.path);
    const ran = report?.facts.find((fact) => fact.kind === 'plan')?.data as Partial<Plan> | undefined;
    if (ran?.runbook !== plan.runbook || ran.mode !== plan.mode) continue;
    runs.push(report!.timeline.map(({ label, startMs, endMs }) => ({ label, startMs, endMs })));
  }
  return stepTimes(runs);
}
