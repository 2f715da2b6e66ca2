import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { ImportedResult } from '../../workflows/imported.ts';
import { WORKFLOW_IDS } from '../model/api.ts';
import { breakGlassResultsSchema, resultsProblems } from '../model/break-glass-results.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { measurementRow } from '../model/evidence-report.ts';
import { formatChecks } from './execution-result.ts';
import { EXIT, formatTable, type Io } from './io.ts';

/** Checks the whole file here, so that all that is wrong is said at once, and has it recorded by a worker: there the signing key is. */
export async function importResults(io: Io, file: string): Promise<void> {
  const value = await readJson(file);
  const problems = resultsProblems(value, Date.now());
  if (problems.length > 0) {
    throw new HoldfastError('results-invalid', `${problems.length} thing(s) in ${file} cannot be recorded as they are:\n${problems.map((problem) => `  ${problem}`).join('\n')}`, { next: 'correct them and import again; nothing was recorded' });
  }
  const results = breakGlassResultsSchema.parse(value);
  const workflowId = WORKFLOW_IDS.imported(results.service ?? results.runbook, new Date(results.startedAt).toISOString());
  const { startExecution } = await import('../engine/executions.ts');
  const { config } = await io.context();
  const handle = await startExecution(await io.temporal(), config, { type: 'imported', workflowId, input: { results, importedBy: io.by } });
  io.note(`started ${workflowId} (run ${handle.firstExecutionRunId}); a worker records it`);
  const result = (await handle.result()) as ImportedResult;
  io.result(result, () => describe(workflowId, result));
  if (!result.confirmed) io.exit(EXIT.failed);
}

async function readJson(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(resolve(file), 'utf8')) as unknown;
  } catch (error) {
    throw new HoldfastError('results-invalid', `${file} cannot be read as JSON: ${messageOf(error)}`, { next: 'give the results file that was filled in from the template', cause: error });
  }
}

function describe(workflowId: string, result: ImportedResult): string {
  const lines = [`${workflowId}: ${result.outcome} (${result.runbook})`, '', formatChecks(result.checks)];
  if (result.measurements.length > 0) lines.push('', formatTable(['what', 'objective', 'as written down', 'result'], result.measurements.map(measurementRow)));
  lines.push('', `evidence: ${result.evidence}`);
  return lines.join('\n');
}
