// `npm run demo -- region`: a Region is lost under visitors, and runbook B brings its services back in the other one. Exit code 0 only when
// every service is back within its objectives and everything was proved.
//   --keep            leave everything running until Ctrl-C
//   --planned         leave the Region on purpose instead of losing it
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Client } from '@temporalio/client';
import { connectClient } from '../engine/connection.ts';
import { HoldfastError } from '../model/errors.ts';
import { formatDuration } from '../model/units.ts';
import type { Figure } from './demo-report.ts';
import { checkEvidence, conclude, explain, forEver, step } from './demo-steps.ts';
import { startWorker } from './environment.ts';
import type { LocalProcess } from './processes.ts';
import { AWAY, HOME, startRegionEstate, type RegionEstate } from './region.ts';
import { failOver, lookAround, prepare, startVisitor, type RegionRun, type Visitor } from './region-scenario.ts';
import { createProcesses, endOnSignals } from './stack.ts';

const PRODUCTS = 20_000;
const KEYS = 20_000;
const DEAD_LETTERS = 120;
const WATCH = '20s';
/** What the practice asks of a whole Region. */
const OBJECTIVE_MS = 15 * 60_000;

async function chain(estate: RegionEstate, client: Client, visitor: Visitor, mode: 'planned' | 'forced', figures: Figure[]): Promise<void> {
  await step('nightly run', () => prepare(estate, client), (result) => result.steps.filter(({ outcome }) => outcome === 'changed').map(({ summary }) => summary.split(';')[0]).join('; '));
  await visitor.served;
  if (mode === 'forced') await step('lose the Region', () => estate.loseHome(), () => `SIGKILL to every database, cache and search node of ${HOME}; its front door answers nobody`);
  const run = await step(
    'runbook B',
    async () => {
      const made = await failOver(estate, client, { mode, watchFor: WATCH });
      if (made.whole.outcome !== 'succeeded') throw new HoldfastError('demo-region', `${made.whole.outcome}: ${made.whole.failure ?? ''}`);
      return made;
    },
    ({ whole }) => whole.steps.filter(({ outcome }) => outcome === 'changed').map(({ id, ms }) => `${id} ${formatDuration(ms ?? 0)}`).join(', '),
  );
  for (const [name, { measurements }] of Object.entries(run.services)) {
    for (const { name: what, unit, objective, measured, note } of measurements) {
      if (unit === 'bytes' || objective === null) continue;
      // What RDS lets nobody measure is said, and is no objective that was met.
      figures.push({ of: name, what, unit, objective: measured === null ? null : objective, measured, ...(measured === null && note !== undefined ? { note } : {}) });
    }
  }
  // Both fronts are asked all the time; in planned mode home goes on answering until its database refuses.
  const { lastAtHomeMs, firstAwayMs } = visitor.seen();
  figures.push({ of: 'region', what: 'visitors without service', unit: 'ms', objective: OBJECTIVE_MS, measured: lastAtHomeMs === null || firstAwayMs === null ? null : firstAwayMs - lastAtHomeMs });
  await step('look around', () => lookAround(estate), (seen) => {
    const wrong = Object.entries({ documents: seen.documents === PRODUCTS, keys: seen.keys >= KEYS, 'dead letters': seen.dead === 0 && seen.queued === DEAD_LETTERS, origin: seen.origin === 'away', 'health check': seen.healthCheck.inverted, flag: seen.flag === 'off' }).filter(([, right]) => !right);
    if (wrong.length > 0) throw new HoldfastError('demo-region', `not as it should be in ${AWAY}: ${wrong.map(([what]) => what).join(', ')}: ${JSON.stringify(seen)}`);
    return `${seen.documents} documents counted, ${seen.keys} keys, ${seen.queued} messages given back, origin ${seen.origin}, flag ${seen.flag}, as the systems themselves say`;
  });
  await step('evidence verify', () => evidenceOf(run, estate), (count) => `${count} records intact and signed`);
}

async function evidenceOf({ whole, services }: RegionRun, estate: RegionEstate): Promise<number> {
  const folders = [whole, ...Object.values(services)].map(({ evidence }) => evidence);
  for (const folder of folders) await checkEvidence(folder, estate.publicKey);
  return folders.length;
}

async function main(options: { keep: boolean; mode: 'planned' | 'forced' }): Promise<number> {
  const processes = createProcesses();
  endOnSignals(processes, () => console.log('\nending everything ...'));
  const figures: Figure[] = [];
  const failed: string[] = [];
  const evidenceDirectory = join(process.cwd(), 'evidence', 'dr');
  let estate: RegionEstate | undefined;
  let client: Client | undefined;
  let visitor: Visitor | undefined;
  let worker: LocalProcess | undefined;
  try {
    console.log(`Holdfast demo of a Region: ${HOME} is ${options.mode === 'forced' ? 'lost' : 'left'}, ${AWAY} takes over; everything on 127.0.0.1 below ${processes.directory}`);
    const made = await startRegionEstate({ processes, evidenceDirectory, ui: options.keep, products: PRODUCTS, keys: KEYS, deadLetters: DEAD_LETTERS, step });
    estate = made;
    const connected = await connectClient(made.context.config, made.context.secrets);
    client = connected;
    worker = await step('worker', () => startWorker(processes, made.configPath, connected, made.context.config.temporal.taskQueue), (child) => `Holdfast worker, process ${child.pid}`);
    visitor = startVisitor(made);
    await chain(made, connected, visitor, options.mode, figures);
  } catch (error) {
    failed.push(explain(error));
    if (worker !== undefined) console.log(`\nlast lines of the worker:\n${worker.logTail()}`);
  }
  try {
    const code = conclude(figures, failed, `Every objective that could be measured was met. Evidence: ${evidenceDirectory}`);
    if (options.keep && estate !== undefined) {
      console.log(`\nEverything is left running; Ctrl-C ends it all.\n  Temporal UI     ${estate.temporal.uiAddress ?? '-'}\n  configuration   ${estate.configPath}`);
      await forEver();
    }
    return code;
  } finally {
    await visitor?.stop();
    await client?.connection.close();
    await estate?.close();
    await processes.end();
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false }, planned: { type: 'boolean', default: false } } });
  process.exit(await main({ keep: values.keep, mode: values.planned ? 'planned' : 'forced' }));
}
