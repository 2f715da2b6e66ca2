import { ActivityCancellationType, ApplicationFailure, log, proxyActivities, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import type { createEvidenceActivities } from '../activities/evidence.ts';
import type { createImportedActivities } from '../activities/imported.ts';
import type { createNotifyActivities } from '../activities/notify.ts';
import { SEARCH_ATTRIBUTES, importedInputSchema, type CheckResult, type ImportedInput } from '../src/model/api.ts';
import { importedOutcome, importedRecord, resultsProblems } from '../src/model/break-glass-results.ts';
import type { Measurement } from '../src/model/evidence.ts';
import { causeText, parseInput } from './input.ts';

const { verifyImported } = proxyActivities<ReturnType<typeof createImportedActivities>>({ startToCloseTimeout: '3 minutes', retry: { maximumAttempts: 3 } });
const { writeEvidence } = proxyActivities<ReturnType<typeof createEvidenceActivities>>({
  startToCloseTimeout: '2 minutes',
  scheduleToCloseTimeout: '10 minutes',
  cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
  retry: { maximumAttempts: 5, initialInterval: 500 },
});
const { notify } = proxyActivities<ReturnType<typeof createNotifyActivities>>({ startToCloseTimeout: '1 minute', scheduleToCloseTimeout: '3 minutes', retry: { maximumAttempts: 3 } });

export interface ImportedResult {
  readonly outcome: string;
  readonly service: string | null;
  readonly runbook: string;
  /** Everything that was written down and can still be seen agrees with the live systems. */
  readonly confirmed: boolean;
  readonly checks: readonly CheckResult[];
  readonly measurements: readonly Measurement[];
  readonly evidence: string;
}

/** Records what people did by hand while Temporal was down. Changes nothing; what it says is what they wrote, and is marked so. */
export async function imported(input: ImportedInput): Promise<ImportedResult> {
  const { results, importedBy } = parseInput('imported', importedInputSchema, input);
  const problems = resultsProblems(results, Date.now());
  if (problems.length > 0) throw ApplicationFailure.nonRetryable(`the results are wrong: ${problems.join('; ')}`, 'input-invalid');
  const { workflowId, runId } = workflowInfo();
  upsertSearchAttributes({
    ...(results.service === null ? {} : { [SEARCH_ATTRIBUTES.service]: [results.service] }),
    [SEARCH_ATTRIBUTES.mode]: [results.mode],
    [SEARCH_ATTRIBUTES.runbook]: [results.runbook],
    [SEARCH_ATTRIBUTES.environment]: [results.environment],
    [SEARCH_ATTRIBUTES.requestedBy]: [importedBy],
  });
  const view = await verifyImported(results);
  const outcome = importedOutcome(results, view.checks);
  const record = importedRecord(results, { importedBy, importedAt: new Date(Date.now()).toISOString(), workflowId, runId, ...view });
  const { directory } = await writeEvidence(record);
  upsertSearchAttributes({ [SEARCH_ATTRIBUTES.outcome]: [outcome] });
  const confirmed = view.checks.every((check) => check.ok);
  try {
    await notify({
      level: confirmed ? 'attention' : 'failure',
      title: `${record.title}: ${outcome}`,
      text: record.summary,
      fields: { 'done by': results.by, 'imported by': importedBy, started: results.startedAt, finished: results.finishedAt, evidence: directory },
    });
  } catch (error) {
    log.warn('nobody could be told', { error: causeText(error) });
  }
  return { outcome, service: results.service, runbook: results.runbook, confirmed, checks: view.checks, measurements: record.measurements, evidence: directory };
}
