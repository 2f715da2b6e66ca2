import type { Command } from 'commander';
import { WORKFLOW_IDS, type RetentionInput, type RetentionResult } from '../../model/api.ts';
import { describeRestorable } from '../../model/restorable.ts';
import { formatBytes } from '../../model/units.ts';
import { runRetention } from '../../systems/backup-retention.ts';
import { backedUpOf } from '../../systems/context.ts';
import { formatTable, type Io } from '../io.ts';

export const summary = 'plan, explain and delete what the keep rules no longer hold';

export function define(command: Command, io: Io): void {
  command
    .argument('<datastore>')
    .option('--explain', 'print each backup, kept or deleted, and why (this is the default without --apply)')
    .option('--apply', 'delete what the plan says; without it nothing is changed')
    .action(async (datastore: string, options: { explain?: boolean; apply?: boolean }) => {
      const context = await io.context();
      backedUpOf(context.config, datastore);
      const result = options.apply === true ? await apply(io, datastore) : await runRetention(context, { datastore, apply: false, nowMs: Date.now(), signal: io.interrupted });
      io.result(result, () => describe(result, options.explain === true || options.apply !== true));
    });
}

/** Deleting is a workflow: one at a time for a datastore, and in the audit. Planning needs the store only. */
async function apply(io: Io, datastore: string): Promise<RetentionResult> {
  const { config } = await io.context();
  const client = await io.temporal();
  const input: RetentionInput = { datastore, apply: true };
  return (await client.workflow.execute('retention', { taskQueue: config.temporal.taskQueue, workflowId: WORKFLOW_IDS.retention(datastore), args: [input] })) as RetentionResult;
}

function describe(result: RetentionResult, explain: boolean): string {
  const of = (action: string): number => result.decisions.filter((decision) => decision.action === action).length;
  const deleted = result.applied ? `${result.deleted.length} deleted (${formatBytes(result.freedBytes)})` : `${of('delete')} would be deleted`;
  const lines = [`${result.datastore}: ${of('keep')} kept, ${deleted}, ${of('deferred')} left for later runs${result.applied ? `, ${result.reapedUploads} leftovers of failed backups removed` : ''}`];
  if (explain && result.decisions.length > 0) {
    lines.unshift(
      formatTable(
        ['id', 'snapshot', 'action', 'why'],
        result.decisions.map((decision) => [decision.id, decision.snapshotAt.slice(0, 19).replace('T', ' '), decision.action, decision.reasons.join('; ')]),
      ),
      '',
    );
  }
  if (result.restorable !== undefined) lines.push(...describeRestorable(result.restorable, result.applied));
  if (!result.applied) lines.push('nothing was changed; delete with --apply');
  return lines.join('\n');
}
