import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import { formatDuration, parseDurationMs } from '../../model/units.ts';
import type { AuditRecord, ExecutionSummary } from '../../engine/history.ts';
import { formatTable, type Io } from '../io.ts';
import { workflowIdOf } from '../workflow-id.ts';

interface Options {
  readonly service?: string;
  readonly datastore?: string;
  readonly kind?: string;
  readonly outcome?: string;
  readonly since?: string;
  readonly requestedBy?: string;
  readonly limit: string;
  readonly run?: string;
  readonly inputs?: boolean;
}

export function define(command: Command, io: Io): void {
  command
    .description(
      'List executions (newest first), or print one in full: its input, plan hash, every activity with times, attempts and outcome, every operator ' +
        "decision with who and why, and its result. All of it comes from Temporal's workflow history, refused decisions included.",
    )
    .argument('[execution]', 'workflow id such as failover/orders; without it the executions are listed')
    .option('--service <name>')
    .option('--datastore <name>')
    .option('--kind <type>', 'backup, retention, restoreDrill, failover, runbook or readiness')
    .option('--outcome <text>', 'as in the column outcome')
    .option('--since <when>', 'a duration such as 7d, or a date such as 2026-11-01')
    .option('--requested-by <person>', 'who asked for it')
    .option('--limit <number>', 'at most this many', '50')
    .option('--run <id>', 'one run of an execution that ran several times')
    .option('--inputs', 'print inputs and results of activities too')
    .action(async (execution: string | undefined, options: Options) => {
      const { auditExecution, listExecutions } = await import('../../engine/history.ts');
      const client = await io.temporal();
      if (execution !== undefined) {
        const record = await auditExecution(client, workflowIdOf(execution), options.run);
        io.result(record, () => formatRecord(record, options.inputs === true));
        return;
      }
      const limit = Number(options.limit);
      if (!Number.isInteger(limit) || limit < 1) throw new HoldfastError('usage', `--limit "${options.limit}" is no number of 1 or more`);
      const { service, datastore, kind, outcome } = options;
      const sinceMs = options.since === undefined ? undefined : sinceOf(options.since, Date.now());
      const found = await listExecutions(client, { service, datastore, kind, outcome, by: options.requestedBy, sinceMs }, limit);
      io.result(found, () => formatList(found, limit));
    });
}

function sinceOf(text: string, nowMs: number): number {
  const durationMs = parseDurationMs(text);
  if (durationMs !== undefined) return nowMs - durationMs;
  const date = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(date)) throw new HoldfastError('usage', `--since "${text}" is neither a duration nor a date`, { next: 'write 24h, 7d or 2026-11-01' });
  return date;
}

function formatList(found: readonly ExecutionSummary[], limit: number): string {
  if (found.length === 0) return 'no execution matches';
  const table = formatTable(
    ['started', 'execution', 'status', 'outcome', 'took', 'mode', 'requested by'],
    found.map((one) => [one.startedAt, one.workflowId, one.status.toLowerCase(), one.outcome ?? '-', one.durationMs === null ? 'running' : formatDuration(one.durationMs), one.mode ?? '-', one.requestedBy ?? '-']),
  );
  return found.length === limit ? `${table}\n(the newest ${limit}; more with --limit)` : table;
}

function formatRecord(record: AuditRecord, withInputs: boolean): string {
  const lines = [
    `${record.workflowId}  (${record.type}, run ${record.runId})`,
    `  status       ${record.status.toLowerCase()}${record.failure === null ? '' : `: ${record.failure}`}`,
    `  started      ${record.startedAt} by ${record.startedBy ?? 'unknown'}`,
    `  ended        ${record.closedAt ?? 'still open'}${record.closedAt === null ? '' : ` after ${formatDuration(Date.parse(record.closedAt) - Date.parse(record.startedAt))}`}`,
    `  input        ${JSON.stringify(record.input, (key, value: unknown) => (key === 'document' && typeof value === 'string' ? `(a runbook of ${value.length} characters; --json shows it)` : value))}`,
    ...(record.planHash === null ? [] : [`  plan         ${record.planHash}`]),
    ...(Object.keys(record.searchAttributes).length === 0 ? [] : [`  attributes   ${Object.entries(record.searchAttributes).map(([name, value]) => `${name}=${String(value)}`).join(' ')}`]),
    ...(record.continuedAs === null ? [] : [`  continued as run ${record.continuedAs}`]),
    `  history      ${record.events} events`,
  ];
  if (record.updates.length > 0) {
    lines.push('', 'operator decisions', formatTable(['at', 'decision', 'by', 'outcome', 'reason'], record.updates.map((update) => [update.acceptedAt, update.name, update.by ?? '-', update.outcome, update.outcome === 'refused' ? `${update.reason ?? '-'} (refused: ${String(update.result)})` : (update.reason ?? '-')])));
  }
  if (record.other.length > 0) lines.push('', ...record.other.map(({ at, what }) => `${at}  ${what}`));
  if (record.activities.length > 0) {
    lines.push(
      '',
      formatTable(
        ['started', 'activity', 'attempts', 'outcome', 'took', 'said'],
        record.activities.map((activity) => [activity.startedAt ?? activity.scheduledAt, activity.activity, String(activity.attempts), activity.outcome, activity.durationMs === null ? '' : formatDuration(activity.durationMs), activity.failure ?? summaryIn(activity.result)]),
      ),
    );
    if (withInputs) for (const activity of record.activities) lines.push('', `${activity.activity} on ${activity.worker ?? 'no worker yet'}`, `  input  ${JSON.stringify(activity.input)}`, `  result ${JSON.stringify(activity.result)}`);
  }
  if (record.result !== null) lines.push('', 'result', JSON.stringify(record.result, null, 2));
  return lines.join('\n');
}

function summaryIn(result: unknown): string {
  const summary = typeof result === 'object' && result !== null && 'summary' in result ? result.summary : undefined;
  return typeof summary === 'string' ? summary : '';
}
