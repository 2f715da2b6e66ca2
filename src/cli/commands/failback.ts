import { postgresNamed } from '../../model/config-schema.ts';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import type { ExecutionResult } from '../../../workflows/failover.ts';
import type { Switch } from '../../engine/last-switch.ts';
import type { Trust } from '../../systems/evidence-keys.ts';
import { WORKFLOW_IDS } from '../../model/api.ts';
import { HoldfastError, messageOf } from '../../model/errors.ts';
import { FAILBACK_FILE, originOf, type FailbackOrigin } from '../../model/failback.ts';
import { execute } from '../execute.ts';
import { showExecution } from '../execution-result.ts';
import type { Io } from '../io.ts';

interface Options {
  readonly reason?: string;
  readonly run?: string;
  readonly from?: string;
  readonly print?: boolean;
  readonly forth?: boolean;
  readonly dryRun?: boolean;
  readonly wait: boolean;
}

interface Found {
  readonly document: string;
  readonly origin: FailbackOrigin;
  readonly cautions: readonly string[];
}

export function define(command: Command, io: Io): void {
  command
    .description(
      'Return to the first primary by the runbook that the last failover generated from what it changed: rebuild, resync, approval, switchover, figures of its own. ' +
        'Refused when another switch came after it. Nothing ever starts it but this command, or `temporal workflow start` with the same document.',
    )
    .argument('<service>')
    .option('--reason <text>', 'why; kept in the audit and in the evidence (needed unless --print)')
    .option('--run <runId>', 'the run whose document is meant; refused when it is not the last that promoted a node')
    .option('--from <path>', `an evidence folder or a ${FAILBACK_FILE}, instead of the result in Temporal`)
    .option('--print', 'print the runbook and end; nothing is started')
    .option('--forth', 'the last switch was itself a failback: switch away from the first primary again')
    .option('--dry-run', 'evaluate every guard that can be asked now, then end; nothing is changed')
    .option('--no-wait', 'start it and return')
    .action(async (service: string, options: Options) => {
      const context = await io.context();
      const { serviceOf } = await import('../../systems/context.ts');
      serviceOf(context.config, service);
      if (options.print !== true && (options.reason ?? '').trim() === '') throw new HoldfastError('usage', 'a failback needs a reason', { next: 'add --reason "...", or --print to look at the runbook only' });
      const { lastSwitch } = await import('../../engine/last-switch.ts');
      const { trustOf } = await import('../../systems/evidence-keys.ts');
      const { found, stale } = await source(service, options, trustOf(context.config.evidence), async () => lastSwitch(await io.temporal(), context.config.environment, service));
      if (options.print === true) {
        if (stale !== null) io.note(`warning: ${stale}`);
        io.result({ document: found.document, origin: found.origin, cautions: found.cautions, stale }, () => found.document.trimEnd());
        return;
      }
      if (stale !== null) throw new HoldfastError('failback-refused', stale, { next: `look at it: holdfast failback ${service} --print` });
      if (found.origin.purpose === 'failover' && options.forth !== true) {
        throw new HoldfastError('failback-refused', `the last switch of ${service} (run ${found.origin.runId}) was a failback: the first primary has its role again`, { next: 'add --forth to switch away from it again' });
      }
      await mustBePrimary(io, found.origin);
      io.note(`${found.origin.purpose} from ${found.origin.primary ?? '?'} to ${found.origin.returnsTo ?? '?'}, generated from ${found.origin.workflowId} run ${found.origin.runId} at ${found.origin.generatedAt}`);
      for (const caution of found.cautions) io.note(`mind: ${caution}`);
      const workflowId = WORKFLOW_IDS.failover(service);
      const input = { service, mode: 'planned', purpose: found.origin.purpose, reason: options.reason, requestedBy: io.by, document: found.document, dryRun: options.dryRun === true };
      const result = await execute<ExecutionResult>(io, { type: 'failover', workflowId, input }, { wait: options.wait });
      if (result !== undefined) showExecution(io, workflowId, result);
    });
}

/** The document, and why it is no longer about the present, when it is not. */
async function source(service: string, options: Options, trust: Trust, ask: () => Promise<Switch | null>): Promise<{ found: Found; stale: string | null }> {
  if (options.from !== undefined) {
    const found = await readFrom(options.from, trust);
    if (found.origin.service !== service) throw new HoldfastError('usage', `${options.from} is about ${found.origin.service}, not ${service}`, { next: `holdfast failback ${found.origin.service} --from ${options.from}` });
    if (options.run !== undefined && options.run !== found.origin.runId) throw new HoldfastError('usage', `${options.from} was generated from run ${found.origin.runId}, not ${options.run}`);
    let last: Switch | null;
    try {
      last = await ask();
    } catch (error) {
      // To read it nobody needs to know what came after it.
      if (options.print !== true) throw error;
      return { found, stale: `whether it is still about the present is not known: ${messageOf(error)}` };
    }
    // Histories end; the files of evidence outlive them.
    const newer = last !== null && last.summary.runId !== found.origin.runId && Date.parse(last.summary.startedAt) > found.origin.epoch;
    return { found, stale: newer && last !== null ? staleBecause(service, found.origin.runId, last) : null };
  }
  const last = await ask();
  if (last === null) throw new HoldfastError('execution-not-found', `Temporal knows no execution that promoted a node of ${service}`, { next: `with the evidence of it: holdfast failback ${service} --from <evidence folder>; else run database-failback by hand: holdfast failover ${service} --purpose failback --parameter node=<node> ...` });
  if (options.run !== undefined && options.run !== last.summary.runId) throw new HoldfastError('failback-refused', staleBecause(service, options.run, last), { next: `without --run: holdfast failback ${service} --print` });
  const { failback } = last.result;
  if (failback?.document == null || failback.origin === null) {
    throw new HoldfastError('failback-refused', `run ${last.summary.runId} promoted ${last.result.candidate ?? 'a node'} and generated no way back: ${failback?.reason ?? 'it was made by an earlier version'}`, {
      next: `run database-failback by hand: holdfast failover ${service} --purpose failback --mode planned --parameter node=${last.result.primary ?? '<node>'} --reason "..."`,
    });
  }
  return { found: { document: failback.document, origin: failback.origin, cautions: failback.cautions }, stale: null };
}

function staleBecause(service: string, runId: string, last: Switch): string {
  const { summary, result } = last;
  return `run ${runId} is not the last that promoted a node of ${service}: ${summary.workflowId} run ${summary.runId} did so at ${summary.closedAt ?? summary.startedAt} (${result.primary ?? '?'} -> ${result.candidate ?? '?'})`;
}

async function readFrom(path: string, trust: Trust): Promise<Found> {
  let file = path;
  let cautions: readonly string[] = [];
  if (await stat(path).then((found) => found.isDirectory(), () => false)) {
    const { verifyEvidenceFolder } = await import('../../systems/evidence-folder.ts');
    const verdict = await verifyEvidenceFolder(path, trust);
    if (!verdict.ok) throw new HoldfastError('failback-refused', `${path} is not what was written: ${verdict.problems.join('; ')}`, { next: `holdfast evidence verify ${path}; who is sure of the document all the same gives the file itself: --from ${join(path, FAILBACK_FILE)}` });
    const recorded = verdict.report?.facts.find(({ kind }) => kind === 'failback')?.data as { cautions?: unknown } | undefined;
    if (Array.isArray(recorded?.cautions)) cautions = recorded.cautions.map(String);
    file = join(path, FAILBACK_FILE);
  }
  const document = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new HoldfastError('document-not-found', `${file} cannot be read: ${error.code}`, { next: `give an evidence folder of a failover, or its ${FAILBACK_FILE}`, cause: error });
  });
  const origin = originOf(document);
  if (origin === null) throw new HoldfastError('usage', `${file} does not say from which execution it was generated (the line "# holdfast-origin:")`, { next: 'give the file as it was generated; a runbook of your own is started with `temporal workflow start` (docs/failover.md)' });
  return { document, origin, cautions };
}

/** Asked here so that it is said at once; the guards ask it again, and ask more. */
async function mustBePrimary(io: Io, origin: FailbackOrigin): Promise<void> {
  const context = await io.context();
  const { config } = context;
  const { readEndpoint } = await import('../../systems/endpoint.ts');
  const { nodeByAddress } = await import('../../systems/postgres-node.ts');
  for (const name of config.services[origin.service]!.datastores) {
    const datastore = postgresNamed(config.datastores, name);
    if (datastore?.endpoint === undefined || origin.primary === null || !Object.hasOwn(datastore.nodes, origin.primary)) continue;
    const endpoint = await readEndpoint(context, datastore.endpoint.secret, datastore.endpoint.secretRegion).catch((error: unknown) => {
      io.note(`which node the application's secret points to could not be asked from here (${messageOf(error)}); the guards ask it`);
      return null;
    });
    const found = endpoint === null ? origin.primary : nodeByAddress(datastore, endpoint.host, endpoint.port);
    if (found !== origin.primary) {
      throw new HoldfastError('failback-refused', `the way back was generated while ${origin.primary} was the primary of ${name}, and its secret points to ${found ?? `${endpoint!.host}:${endpoint!.port}`} now`, { next: 'find out who changed it; then return by hand with the runbook database-failback' });
    }
  }
}
