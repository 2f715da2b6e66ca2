import { amountOf, per, plus } from '../model/amount.ts';
import { datastoreCostsSchema, priceTableSchema, type PriceTable, type Tier } from '../model/config-cost.ts';
import { isBackedUp, type DatastoreConfig, type StoreConfig } from '../model/config-schema.ts';
import { priceTwins, type CostInput, type DumpInput, type MeasuredFigure } from '../model/cost.ts';
import { findingsOf, shapeIssues, sortFindings } from '../model/document.ts';
import { ConfigError, HoldfastError, messageOf } from '../model/errors.ts';
import type { Report } from '../model/evidence.ts';
import { scheduleGaps, scheduleRuns } from '../model/schedule.ts';
import { listBackups } from './backup-catalogue.ts';
import { serviceOf, type Context } from './context.ts';
import { readDocument } from './document-file.ts';
import { listEvidence, verifyEvidenceFolder } from './evidence-folder.ts';
import { trustOf } from './evidence-keys.ts';
import { openStore } from './store.ts';

/** The owner's price table. @throws ConfigError with every finding; HoldfastError when there is none. */
export async function readPrices(context: Context): Promise<{ table: PriceTable; file: string }> {
  const { costs } = context.config;
  if (costs === undefined) throw new HoldfastError('costs-missing', 'the configuration has no section costs', { next: 'add costs: { prices: prices.yaml } and a price table beside it; prices.example.yaml shows its form, docs/cost.md what can be declared' });
  const file = costs.prices;
  const document = await readDocument(file, 'price table');
  const issues = document.value === undefined ? [] : shapeIssues(priceTableSchema, document.value);
  const parsed = priceTableSchema.safeParse(document.value);
  if (parsed.success) for (const index of priceTwins(parsed.data)) issues.push({ level: 'error', path: ['prices', index], message: 'another entry above is for the same unit, class and Regions' });
  const findings = sortFindings([...document.findings, ...findingsOf(document, issues)]);
  if (!parsed.success || findings.some(({ level }) => level === 'error')) throw new ConfigError(findings);
  return { table: parsed.data, file };
}

/** Everything that is known of a service's datastores: from the store, the evidence, the schedules, and what is declared. */
export async function costInputs(context: Context, serviceName: string, signal?: AbortSignal): Promise<{ inputs: CostInput[]; notes: string[] }> {
  const service = serviceOf(context.config, serviceName);
  const notes: string[] = [];
  const records = await evidenceOf(context, serviceName, service.datastores);
  notes.push(...records.notes);
  const inputs: CostInput[] = [];
  for (const name of service.datastores) {
    const config = context.config.datastores[name];
    if (config === undefined) continue; // Said by validate.
    const declared = datastoreCosts(context, name);
    const dumps = await dumpsOf(context, name, config, signal);
    if (dumps?.why !== undefined) notes.push(`${name}: ${dumps.why}`);
    inputs.push({
      datastore: name,
      region: declared.region ?? context.config.aws.region,
      tier: declared.tier ?? tierOf(config),
      declared,
      dumps,
      measured: { failoverRto: records.failover('RTO'), failoverRpo: records.failover('RPO'), restore: records.restore(name, false), snapshotRestore: records.restore(name, true) },
      objectives: { rtoMs: service.objectives.rto, rpoMs: service.objectives.rpo },
    });
  }
  return { inputs, notes };
}

function datastoreCosts(context: Context, name: string) {
  const declared = context.config.costs?.datastores ?? {};
  return Object.hasOwn(declared, name) ? declared[name]! : datastoreCostsSchema.parse({});
}

function tierOf(config: DatastoreConfig): Tier {
  if (config.engine !== 'postgres') return 'dump-only';
  if (Object.keys(config.nodes).length > 1) return 'warm-standby';
  return config.managed?.snapshots === undefined ? 'dump-only' : 'snapshot-copy';
}

/** A folder of a host is no object store: nobody bills it by the GB. */
async function dumpsOf(context: Context, name: string, config: DatastoreConfig, signal?: AbortSignal): Promise<DumpInput | null> {
  const storeName = isBackedUp(config) ? config.store : undefined;
  const store: StoreConfig | undefined = storeName === undefined ? undefined : context.config.stores[storeName];
  if (storeName === undefined || store?.type !== 's3') return null;
  const base = { store: storeName, region: store.region ?? context.config.aws.region, schedule: scheduleOf(context, name), partBytes: store.partSize };
  try {
    const opened = await openStore(context, storeName);
    const found = (await listBackups(opened, opened.prefix, name, signal === undefined ? {} : { signal })).filter((backup) => backup.kind === undefined);
    const newest = found.toSorted((a, b) => b.snapshotAtMs - a.snapshotAtMs)[0];
    return { ...base, stored: { bytes: found.reduce((total, backup) => total + backup.storedBytes, 0), count: found.length, newestBytes: newest?.storedBytes ?? 0, newestTookMs: newest === undefined ? 0 : Math.max(0, newest.committedAtMs - newest.snapshotAtMs) } };
  } catch (error) {
    signal?.throwIfAborted();
    return { ...base, stored: null, why: `store ${storeName} could not be read: ${messageOf(error).split('\n')[0]}` };
  }
}

/** All schedules that back it up and are not paused, together. */
function scheduleOf(context: Context, datastore: string): DumpInput['schedule'] {
  let together: DumpInput['schedule'] = null;
  for (const schedule of Object.values(context.config.schedules)) {
    if (schedule.run !== 'backup' || schedule.datastore !== datastore || schedule.paused) continue;
    const [found, gaps] = [scheduleRuns(schedule), scheduleGaps(schedule)];
    if (found === undefined || gaps === undefined) continue;
    const runsPerDay = per(amountOf(found.runs), amountOf(found.days));
    const longestGapMs = gaps.longestMs + schedule.jitter;
    together = together === null ? { runsPerDay, longestGapMs } : { runsPerDay: plus(together.runsPerDay, runsPerDay), longestGapMs: Math.min(together.longestGapMs, longestGapMs) };
  }
  return together;
}

interface Records {
  readonly notes: string[];
  failover(name: 'RTO' | 'RPO'): MeasuredFigure | null;
  restore(datastore: string, managed: boolean): MeasuredFigure | null;
}

/** Newest records first that verify, and, where keys are trusted, are signed by one. By-hand figures are declared by people, so they do not count. */
async function evidenceOf(context: Context, service: string, datastores: readonly string[]): Promise<Records> {
  const { directory, trustedKeys } = context.config.evidence;
  const trust = trustOf(context.config.evidence);
  // Of one that cannot be read only the name of its folder is known.
  const named = new RegExp(`^\\d{4}-\\d\\d-\\d\\d-(${[service, ...datastores].join('|')})-(failover|drill)-`);
  const listed = (await listEvidence(directory, trust)).filter((entry) => (entry.kind === '?' && named.test(entry.folder)) || (entry.kind === 'failover' && entry.service === service) || (entry.kind === 'drill' && datastores.includes(entry.subject)));
  const notes: string[] = [];
  const reports: { folder: string; report: Report }[] = [];
  for (const entry of listed) {
    if (!entry.ok || (trustedKeys.length > 0 && !entry.authentic)) {
      notes.push(`evidence ${entry.folder} is not counted: ${entry.problem ?? 'it is not signed by a trusted key'}`);
      continue;
    }
    const { report } = await verifyEvidenceFolder(entry.path, trust);
    if (report !== undefined && report.header.environment === context.config.environment) reports.push({ folder: entry.folder, report });
  }
  const first = (of: (report: Report) => boolean, name: string): MeasuredFigure | null => {
    for (const { folder, report } of reports) {
      if (!of(report)) continue;
      const found = report.measurements.find((item) => item.name.startsWith(name) && !item.name.includes('by hand') && item.unit === 'ms' && item.measured !== null);
      if (found !== undefined) return { ms: found.measured!, from: `${found.name}, ${report.header.startedAt.slice(0, 10)}, evidence ${folder}` };
    }
    return null;
  };
  return {
    notes,
    failover: (name) => first(({ header }) => header.kind === 'failover' && header.outcome === 'succeeded', name),
    restore: (datastore, managed) => first(({ header, facts }) => header.kind === 'drill' && header.subject === datastore && header.outcome === 'verified' && isManaged(facts) === managed, 'RTO'),
  };
}

function isManaged(facts: Report['facts']): boolean {
  const subject = facts.find(({ kind }) => kind === 'subject')?.data;
  return subject !== null && typeof subject === 'object' && 'managed' in subject && subject.managed != null;
}
