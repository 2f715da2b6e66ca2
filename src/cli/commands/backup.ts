import { setTimeout as pause } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import type { Command } from 'commander';
import { WORKFLOW_IDS, type BackupInput, type BackupResult } from '../../model/api.ts';
import { formatBytes, formatDuration } from '../../model/units.ts';
import type { BackupProgress } from '../../systems/backup-engine.ts';
import { backedUpOf } from '../../systems/context.ts';
import type { Io } from '../io.ts';

export const summary = 'back up a datastore now';

const LOOK_EVERY_MS = 1000;

export function define(command: Command, io: Io): void {
  command
    .argument('<datastore>')
    .option('--reason <text>', 'why, for the manifest and the audit', 'manual')
    .option('--no-wait', 'start it and return')
    .action(async (datastore: string, options: { reason: string; wait: boolean }) => {
      const context = await io.context();
      backedUpOf(context.config, datastore); // An unknown name is refused here, before anything is started.
      const client = await io.temporal();
      const input: BackupInput = { datastore, reason: options.reason };
      const handle = await client.workflow.start('backup', {
        taskQueue: context.config.temporal.taskQueue,
        workflowId: WORKFLOW_IDS.backup(datastore, new Date().toISOString()),
        args: [input],
      });
      if (!options.wait) {
        io.result({ workflowId: handle.workflowId, runId: handle.firstExecutionRunId }, () => `started ${handle.workflowId}`);
        return;
      }
      io.note(`started ${handle.workflowId}`);
      const ended: Promise<{ value: BackupResult } | { error: unknown }> = handle.result().then(
        (value: unknown) => ({ value: value as BackupResult }),
        (error: unknown) => ({ error }),
      );
      let last = '';
      for (;;) {
        const result = await Promise.race([ended, pause(LOOK_EVERY_MS, undefined, { signal: io.interrupted }).catch(() => undefined)]);
        if (io.interrupted.aborted) {
          io.note(`no longer looking; ${handle.workflowId} goes on. Stop it: temporal workflow cancel --workflow-id ${handle.workflowId}`);
          return;
        }
        if (result === undefined) {
          const line = await progressLine(client, handle.workflowId);
          if (line !== undefined && line !== last) io.note(line);
          last = line ?? last;
          continue;
        }
        if ('error' in result) throw result.error;
        io.result(result.value, () => describe(result.value));
        return;
      }
    });
}

/** What the activities of a managed snapshot are about. */
const MANAGED_PHASES: Readonly<Record<string, string>> = {
  readBeforeSnapshot: 'reading the database before the snapshot',
  beginManagedSnapshot: 'asking RDS for the snapshot',
  awaitManagedSnapshot: 'managed snapshot',
  readAfterSnapshot: 'reading the database after the snapshot',
  copyManagedSnapshot: 'copy',
  shareManagedSnapshot: 'sharing',
  commitManagedSnapshot: 'committing',
};

function describe(result: BackupResult): string {
  if (result.managed !== undefined) {
    const { identifier, region, allocatedGiB, copies } = result.managed;
    return [
      `backup ${result.id} of ${result.datastore} is committed: managed snapshot ${identifier} in ${region}${allocatedGiB === null ? '' : ` (${allocatedGiB} GiB allocated)`}`,
      `  of        ${result.snapshotAt}`,
      `  rows      ${result.tables === 0 ? 'not read' : `${result.rows} in ${result.tables} tables that did not change meanwhile`}`,
      ...(copies.length === 0 ? [] : [`  copies    ${copies.join(', ')}`]),
      ...(result.also === undefined ? [] : [`  dump      ${result.also.id}, stored ${formatBytes(result.also.storedBytes)}`]),
      `  took      ${formatDuration(result.durationMs)}`,
      `  at        ${result.location}`,
      ...(result.degraded === undefined ? [] : [`  but       ${result.degraded}`]),
    ].join('\n');
  }
  return [
    `backup ${result.id} of ${result.datastore} is committed`,
    `  snapshot  ${result.snapshotAt}`,
    `  ${(result.words?.rows ?? 'rows').padEnd(9)} ${result.rows} in ${result.tables} ${result.words?.tables ?? 'tables'}`,
    `  size      ${formatBytes(result.plainBytes)}, stored ${formatBytes(result.storedBytes)}`,
    `  took      ${formatDuration(result.durationMs)} (${formatBytes(Math.round(result.plainBytes / Math.max(0.001, result.durationMs / 1000)))}/s)`,
    `  at        ${result.location}`,
    ...(result.degraded === undefined ? [] : [`  but       ${result.degraded}`]),
  ].join('\n');
}

/** What the running attempt last said of itself in its heartbeat. */
async function progressLine(client: Client, workflowId: string): Promise<string | undefined> {
  const { raw } = await client.workflow.getHandle(workflowId).describe();
  const pending = raw.pendingActivities ?? [];
  const running = pending.find((activity) => activity.activityType?.name === 'runBackup') ?? pending.find((activity) => MANAGED_PHASES[activity.activityType?.name ?? ''] !== undefined);
  const payload = running?.heartbeatDetails?.payloads?.[0];
  if (running === undefined) return undefined;
  const attempt = (running.attempt ?? 1) > 1 ? ` (attempt ${running.attempt}: ${running.lastFailure?.message ?? 'the one before ended'})` : '';
  if (payload === undefined || payload === null) return attempt === '' ? undefined : `waiting${attempt}`;
  const { payloadConverter, payloadCodecs } = client.options.loadedDataConverter;
  let [decoded] = [payload];
  for (const codec of [...payloadCodecs].reverse()) [decoded] = (await codec.decode([decoded!])) as [typeof payload];
  const progress = payloadConverter.fromPayload<BackupProgress | string>(decoded!);
  if (typeof progress === 'string') return `${MANAGED_PHASES[running.activityType!.name!] ?? running.activityType!.name}${progress === '' ? '' : `: ${progress}`}${attempt}`;
  return `${progress.phase}: ${formatBytes(progress.plainBytes)} read, ${formatBytes(progress.storedBytes)} stored, ${formatBytes(progress.bytesPerSecond)}/s, ${progress.tables} of ${progress.ofTables} tables fingerprinted${attempt}`;
}
