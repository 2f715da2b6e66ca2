import type { Command } from 'commander';
import { startExecution } from '../../engine/executions.ts';
import { WORKFLOW_IDS, type RestoreDrillResult } from '../../model/api.ts';
import { measurementRow } from '../../model/evidence-report.ts';
import { judge, type Measurement } from '../../model/evidence.ts';
import { describeProof } from '../../model/proof.ts';
import { backedUpOf, serviceOf } from '../../systems/context.ts';
import { follow } from '../follow.ts';
import { EXIT, formatTable, type Io } from '../io.ts';

export const summary = 'restore a backup into an isolated target, prove it exactly, time it, and destroy the target';

interface Options {
  readonly backup?: string;
  readonly pointInTime?: string;
  readonly service?: string;
  readonly reason?: string;
  readonly wait: boolean;
}

export function define(command: Command, io: Io): void {
  command
    .argument('<datastore>', 'a datastore of holdfast.yaml')
    .option('--backup <which>', "newest, random, or the id of a backup; default: the datastore's drill.backup")
    .option('--point-in-time <time>', 'instead of a backup: let RDS restore the instance to this moment (ISO 8601), or to "now"; proved by marker rows on both sides of it')
    .option('--service <name>', 'measure by the objectives and checks of this service only; default: of every service on the datastore')
    .option('--reason <text>', 'why, for the audit')
    .option('--no-wait', 'start it and return')
    .action(async (datastore: string, options: Options) => {
      const { config } = await io.context();
      backedUpOf(config, datastore);
      if (options.service !== undefined) serviceOf(config, options.service);
      const client = await io.temporal();
      const workflowId = WORKFLOW_IDS.restoreDrill(datastore, new Date().toISOString());
      const input = { datastore, ...(options.backup === undefined ? {} : { backup: options.backup }), ...(options.pointInTime === undefined ? {} : { pointInTime: options.pointInTime }), ...(options.service === undefined ? {} : { service: options.service }), reason: options.reason ?? 'manual', requestedBy: io.by };
      const handle = await startExecution(client, config, { type: 'restoreDrill', workflowId, input });
      if (!options.wait) {
        io.result({ workflowId, runId: handle.firstExecutionRunId }, () => `started ${workflowId}\nlook at it: holdfast status ${workflowId}`);
        return;
      }
      io.note(`started ${workflowId}`);
      const followed = await follow<RestoreDrillResult>(io, client, workflowId, handle.firstExecutionRunId);
      if (!followed.ended) return io.exit(130);
      const { result } = followed;
      io.result({ workflowId, ...result }, () => describeDrill(result));
      if (result.outcome !== 'verified' || result.evidence === null || measurementsOf(result).some((measurement) => judge(measurement) === 'MISSED')) io.exit(EXIT.failed);
    });
}

function measurementsOf(result: RestoreDrillResult): Measurement[] {
  const note = 'the backup was not restored to a proven state';
  const one = (name: string, objective: number | undefined, measured: number | null): Measurement => ({ name, unit: 'ms', objective: objective ?? null, measured, ...(measured === null ? { note } : {}) });
  return [one('RTO (start of restore to checks green)', result.objectives?.rtoMs, result.measuredRtoMs), one(result.backup.startsWith('point-in-time-') ? 'RPO (drill start minus latest restorable time)' : 'RPO (drill start minus snapshot)', result.objectives?.rpoMs, result.measuredRpoMs)];
}

/** What was proved, by what it was measured, and where the record is. */
export function describeDrill(result: RestoreDrillResult): string {
  const lines = [`${result.outcome === 'verified' ? 'verified' : result.outcome.toUpperCase()}: backup ${result.backup === '' ? '(none)' : result.backup} of ${result.datastore}`, `  ${result.message}`];
  if (result.proof !== null) {
    const proof = describeProof(result.proof);
    if (!result.message.includes(proof)) lines.push('', `proof ${proof}`);
    if (result.proof.differences.length > 0) {
      lines.push('', formatTable(['difference', 'object', 'expected', 'found'], result.proof.differences.slice(0, 30).map((difference) => [difference.kind, difference.object, difference.expected, difference.found])));
      if (result.proof.differences.length > 30) lines.push(`and ${result.proof.differences.length - 30} more; all are in the evidence`);
    }
    for (const text of result.proof.notes) lines.push(`note: ${text}`);
  }
  if (result.checks.length > 0) lines.push('', formatTable(['check', 'result', 'found', 'expected'], result.checks.map((check) => [check.name, check.ok ? 'holds' : 'DOES NOT HOLD', check.found, check.expected])));
  lines.push('', formatTable(['what', 'objective', 'measured', 'result'], measurementsOf(result).map(measurementRow)));
  lines.push('', result.evidence === null ? 'evidence: NOT WRITTEN' : `evidence ${result.evidence}\ncheck it offline: holdfast evidence verify ${result.evidence}`);
  return lines.join('\n');
}
