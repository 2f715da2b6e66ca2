import { setTimeout as pause } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import type { Command } from 'commander';
import type { ExecutionSummary, PendingActivity } from '../../engine/history.ts';
import { HoldfastError, messageOf } from '../../model/errors.ts';
import type { Progress } from '../../model/execution.ts';
import { formatBytes, formatDuration } from '../../model/units.ts';
import { formatTable, type Io } from '../io.ts';
import { formatProgress, formatRtoClock } from '../progress-view.ts';
import { workflowIdOf } from '../workflow-id.ts';

const LOOK_EVERY_MS = 1000;
/** Workflow types that answer the query `progress`; the others show what their activities report. */
const WITH_PROGRESS = new Set(['failover', 'runbook', 'restoreDrill', 'readiness']);

export interface Status {
  readonly execution: ExecutionSummary;
  readonly progress: Progress | null;
  /** Why there is no progress: usually no worker. */
  readonly note: string | null;
  readonly pending: readonly PendingActivity[];
}

export function define(command: Command, io: Io): void {
  command
    .description('What is running now; or one execution: its steps and outcomes, the RTO clock, what it waits for and how to go on.')
    .argument('[execution]', 'workflow id such as failover/orders, or the name of a service')
    .option('--watch', 'look again every second until it ends or Ctrl-C')
    .action(async (execution: string | undefined, options: { watch?: boolean }) => {
      const client = await io.temporal();
      for (;;) {
        const shown = execution === undefined ? await all(client) : [await one(client, workflowIdOf(execution))];
        const over = execution !== undefined && shown[0]!.execution.status !== 'RUNNING';
        const text = (): string => (execution === undefined ? formatAll(shown) : formatOne(shown[0]!));
        if (options.watch !== true || io.json || over) {
          io.result(execution === undefined ? shown : shown[0], text);
          return;
        }
        if (process.stdout.isTTY) io.say(`\u001b[H\u001b[2J${new Date().toISOString()}\n${text()}`);
        else io.say(`${new Date().toISOString()}\n${text()}\n`);
        await pause(LOOK_EVERY_MS, undefined, { signal: io.interrupted }).catch(() => {});
        if (io.interrupted.aborted) return;
      }
    });
}

async function all(client: Client): Promise<Status[]> {
  const { listExecutions } = await import('../../engine/history.ts');
  const running = await listExecutions(client, { running: true }, 200);
  // One that cannot be asked hides none of the others: it may have ended since it was listed, or its worker may fail.
  return Promise.all(running.map((execution) => details(client, execution).catch((error: unknown): Status => ({ execution, progress: null, note: messageOf(error), pending: [] }))));
}

async function one(client: Client, workflowId: string): Promise<Status> {
  const { describeExecution } = await import('../../engine/history.ts');
  const { summary } = await describeExecution(client, workflowId);
  return details(client, summary);
}

async function details(client: Client, execution: ExecutionSummary): Promise<Status> {
  const { describeExecution } = await import('../../engine/history.ts');
  const { queryProgress } = await import('../../engine/executions.ts');
  let progress: Progress | null = null;
  let note: string | null = null;
  if (WITH_PROGRESS.has(execution.type)) {
    try {
      progress = await queryProgress(client, execution.workflowId, execution.runId);
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      note = error.describe();
    }
  }
  const { pending } = execution.status === 'RUNNING' ? await describeExecution(client, execution.workflowId, execution.runId) : { pending: [] };
  return { execution, progress, note, pending };
}

function formatAll(statuses: readonly Status[]): string {
  if (statuses.length === 0) return 'nothing is running; what ran: holdfast audit';
  return formatTable(
    ['execution', 'since', 'running', 'doing'],
    statuses.map((status) => [status.execution.workflowId, status.execution.startedAt, formatDuration(Date.now() - Date.parse(status.execution.startedAt)), doing(status)]),
  );
}

function doing({ progress, pending, note }: Status): string {
  if (note !== null) return note.split('\n')[0]!;
  if (progress !== null) return `${progress.waitingFor === null ? 'working' : progress.waitingFor}; ${formatRtoClock(progress, Date.now())}`;
  return pending.map((activity) => `${activity.activity}${activity.attempt > 1 ? ` (attempt ${activity.attempt})` : ''}${formatHeartbeat(activity.progress)}`).join(', ') || 'between activities';
}

function formatOne(status: Status): string {
  const { execution, progress, note, pending } = status;
  const lines: string[] = [];
  if (progress !== null) lines.push(formatProgress(execution.workflowId, progress, Date.now()));
  else {
    lines.push(`${execution.workflowId}  (${execution.type}, run ${execution.runId})`, `  ${execution.status.toLowerCase()} since ${execution.startedAt}${execution.durationMs === null ? '' : `, took ${formatDuration(execution.durationMs)}`}${execution.outcome === null ? '' : `, outcome ${execution.outcome}`}`);
  }
  if (note !== null) lines.push(`  ${note}`);
  if (pending.length > 0) {
    lines.push(
      '',
      formatTable(
        ['activity', 'state', 'attempt', 'last heartbeat', 'reports', 'last failure'],
        pending.map((activity) => [activity.activity, activity.state, String(activity.attempt), activity.lastHeartbeatAt ?? '-', formatHeartbeat(activity.progress).trim(), activity.lastFailure?.split('\n')[0] ?? '']),
      ),
    );
  }
  if (execution.status !== 'RUNNING') lines.push('', `in full: holdfast audit ${execution.workflowId}`);
  return lines.join('\n');
}

const REPORT_WIDTH = 120;

function formatHeartbeat(progress: unknown): string {
  if (progress === null || progress === undefined) return '';
  const text = typeof progress === 'object' ? Object.entries(progress).map(([key, value]) => formatReport(key, value)).join(', ') : String(progress);
  return ` ${text.length > REPORT_WIDTH ? `${text.slice(0, REPORT_WIDTH - 1)}…` : text}`;
}

/** By the unit in its name; a moment is told from a duration by its size. */
function formatReport(key: string, value: unknown): string {
  if (typeof value !== 'number') return `${key} ${String(value)}`;
  if (key.endsWith('Bytes')) return `${key.slice(0, -'Bytes'.length)} ${formatBytes(value)}`;
  if (key.endsWith('Ms')) return `${key.slice(0, -'Ms'.length)} ${value > 1e12 ? new Date(value).toISOString() : formatDuration(value)}`;
  return `${key} ${value}`;
}
