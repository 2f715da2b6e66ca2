import { setTimeout as pause } from 'node:timers/promises';
import type { Command } from 'commander';
import type { ReadinessResult } from '../../../workflows/readiness.ts';
import { WORKFLOW_IDS } from '../../model/api.ts';
import { HoldfastError } from '../../model/errors.ts';
import type { Io } from '../io.ts';
import { formatReadiness, readinessExit, shownReadiness, type ShownReadiness } from '../readiness-view.ts';

/** An evaluation takes seconds; what asks in vain gives up within two minutes. */
const ANSWER_MS = 180_000;

export function define(command: Command, io: Io): void {
  command
    .description(
      'Could the service be recovered right now? Evaluates every guard of every runbook that can hold now, backups, drills, rehearsals and what a worker needs, read-only. ' +
        'Says what is wrong and what to do, since when, and what was not checked. Without a worker it shows the last known result and its age. ' +
        'Exit code: 0 all ready, 6 all recoverable but one degraded, 1 one not ready or not known.',
    )
    .argument('[service...]', 'default: every service of the configuration')
    .option('--now', 'evaluate anew (the default)')
    .option('--last', 'only show the last known result')
    .option('--no-wait', 'start the evaluation and return')
    .action(async (given: string[], options: { now?: boolean; last?: boolean; wait: boolean }) => {
      if (options.now === true && options.last === true) throw new HoldfastError('usage', '--now and --last exclude each other');
      const { config } = await io.context();
      const { serviceOf } = await import('../../systems/context.ts');
      const { lastReadiness, readinessEveryMs, workerPolls } = await import('../../engine/readiness.ts');
      const services = given.length > 0 ? [...new Set(given)] : Object.keys(config.services);
      if (services.length === 0) throw new HoldfastError('usage', 'the configuration has no services', { next: 'add one under services' });
      for (const service of services) serviceOf(config, service);
      const client = await io.temporal();
      const polled = options.last === true || (await workerPolls(client, config));
      if (!polled) io.note('no worker answers: what follows is the last known result. Start one: holdfast worker');
      const anew = options.last !== true && polled;

      const known = async (service: string): Promise<ShownReadiness> => shownReadiness(service, await lastReadiness(client, config, service), false, readinessEveryMs(config, service), Date.now());
      if (anew && !options.wait) {
        const started = await Promise.all(services.map((service) => start(io, service)));
        io.result(started, () => started.map(({ workflowId, runId }) => `started ${workflowId} (run ${runId})`).join('\n'));
        return;
      }
      const shown = await Promise.all(
        services.map(async (service) => {
          if (!anew) return known(service);
          const { workflowId, runId } = await start(io, service);
          const ended = client.workflow.getHandle(workflowId, runId).result() as Promise<ReadinessResult>;
          const result = await Promise.race([ended, pause(ANSWER_MS, undefined, { signal: io.interrupted, ref: false }).catch(() => undefined)]);
          if (result !== undefined) return shownReadiness(service, result, true, null, Date.now());
          ended.catch(() => {}); // Nobody waits for it any more.
          io.note(`${workflowId} has not ended; it goes on: holdfast status ${workflowId}`);
          return known(service);
        }),
      );
      io.result(shown, () => formatReadiness(shown));
      io.exit(readinessExit(shown));
    });
}

/** One evaluation a service at a time: whoever asks meanwhile gets the answer of the one under way. */
async function start(io: Io, service: string): Promise<{ workflowId: string; runId: string }> {
  const { startExecution } = await import('../../engine/executions.ts');
  const { describeExecution } = await import('../../engine/history.ts');
  const { config } = await io.context();
  const client = await io.temporal();
  const workflowId = WORKFLOW_IDS.readiness(service);
  try {
    const handle = await startExecution(client, config, { type: 'readiness', workflowId, input: { service } });
    return { workflowId, runId: handle.firstExecutionRunId };
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'already-running') throw error;
    return { workflowId, runId: (await describeExecution(client, workflowId)).summary.runId };
  }
}
