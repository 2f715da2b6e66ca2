/** What each backup run came to, kept in the store: retention deletes backups and Temporal forgets histories, and compliance is asked for later. */
import type { Client } from '@temporalio/client';
import { judgeCompliance, runRecordSchema, type Compliance, type ComplianceBackup, type RunRecord } from '../model/compliance.ts';
import { messageOf } from '../model/errors.ts';
import { servicesOf } from '../model/proof-check.ts';
import { scheduleIdOf } from '../model/schedule.ts';
import { idOf, listBackups, storeNameOf } from './backup-catalogue.ts';
import { backedUpOf, type Context } from './context.ts';
import { openStore, putFirst, type Store } from './store.ts';

const DAY_MS = 86_400_000;
const READERS = 8;
const VERDICTS = 'verdicts/';
export const DEFAULT_TARGET = { percent: 99, periodMs: 30 * DAY_MS } as const;

const rootOf = (store: Store, datastore: string): string => `${store.prefix}runs/${datastore}/`;
const dayOf = (ms: number): string => new Date(ms).toISOString().slice(0, 10).replaceAll('-', '/');

/** Written once a run; written again by a repeated attempt it is the same. */
export async function writeRunRecord(context: Context, record: Omit<RunRecord, 'format' | 'environment'>, signal?: AbortSignal): Promise<void> {
  const store = await openStore(context, storeNameOf(context, record.datastore));
  const startedAtMs = Date.parse(record.startedAt);
  const time = new Date(startedAtMs).toISOString().slice(11, 19).replaceAll(':', '');
  const key = `${rootOf(store, record.datastore)}${dayOf(startedAtMs)}/${time}Z-${record.runId}.json`;
  await putFirst(store, key, `${JSON.stringify(runRecordSchema.parse({ ...record, format: 1, environment: context.config.environment }))}\n`, { contentType: 'application/json', ...(signal === undefined ? {} : { signal }) });
}

/** A drill's verdict on a backup, kept beside the records of runs: the mark in the backup's own folder, which says why, goes with it. */
export async function writeVerdict(store: Store, datastore: string, id: string, { mark, at, by }: { readonly mark: 'verified' | 'bad'; readonly at: string; readonly by: string }): Promise<void> {
  const time = new Date(at).toISOString().replace(/[-:]/g, '');
  await putFirst(store, `${rootOf(store, datastore)}${VERDICTS}${id}.${time}.${mark}.json`, `${JSON.stringify({ format: 1, backup: id, mark, at, by })}\n`, { contentType: 'application/json' });
}

/** The last verdict on each backup that was drilled, whether the backup is still there or not. */
export async function readVerdicts(store: Store, datastore: string): Promise<ReadonlyMap<string, 'verified' | 'bad'>> {
  const folder = `${rootOf(store, datastore)}${VERDICTS}`;
  const last = new Map<string, { time: string; mark: 'verified' | 'bad' }>();
  for await (const { key } of store.list(folder)) {
    const [, id, time, mark] = /^([a-z0-9-]+)\.(\d{8}T\d{6}\.\d{3}Z)\.(verified|bad)\.json$/.exec(key.slice(folder.length)) ?? [];
    if (id !== undefined && time! >= (last.get(id)?.time ?? '')) last.set(id, { time: time!, mark: mark as 'verified' | 'bad' });
  }
  return new Map([...last].map(([id, { mark }]) => [id, mark]));
}

/** Of runs that began in the period or up to a day before; and when the very first one began. */
export async function readRunRecords(store: Store, datastore: string, fromMs: number, toMs: number, signal?: AbortSignal): Promise<{ records: RunRecord[]; sinceMs: number | null; unreadable: string[] }> {
  const root = rootOf(store, datastore);
  let sinceMs: number | null = null;
  for await (const { key } of store.list(root)) {
    const match = /^(\d{4})\/(\d{2})\/(\d{2})\/(\d{2})(\d{2})(\d{2})Z-/.exec(key.slice(root.length));
    if (match === null) continue;
    sinceMs = Date.parse(`${match[1]}-${match[2]}-${match[3]}T${match[4]}:${match[5]}:${match[6]}Z`);
    break; // Key order is time order.
  }
  const keys: string[] = [];
  for (let day = Math.floor(fromMs / DAY_MS) * DAY_MS - DAY_MS; day <= toMs; day += DAY_MS) for await (const { key } of store.list(`${root}${dayOf(day)}/`)) keys.push(key);
  const records: RunRecord[] = [];
  const unreadable: string[] = [];
  await Promise.all(
    Array.from({ length: READERS }, async () => {
      for (let key = keys.shift(); key !== undefined; key = keys.shift()) {
        const text = await store.getText(key, signal === undefined ? {} : { signal });
        try {
          records.push(runRecordSchema.parse(JSON.parse(text)));
        } catch (error) {
          unreadable.push(`${key}: ${messageOf(error).split('\n')[0]!}`);
        }
      }
    }),
  );
  return { records: records.sort((a, b) => Date.parse(a.startedAt) - Date.parse(b.startedAt)), sinceMs, unreadable };
}

/**
 * What the store and the schedules say. Temporal is only asked since when a schedule exists; when it does not answer, that is said.
 * @throws when the store cannot be read: an incomplete look is no figure.
 */
export async function measureCompliance(context: Context, client: Client | null, datastoreName: string, options: { periodMs?: number; nowMs: number; signal?: AbortSignal }): Promise<Compliance> {
  const { config } = context;
  const datastore = backedUpOf(config, datastoreName);
  const store = await openStore(context, storeNameOf(context, datastoreName));
  const asked = servicesOf(config.services, datastoreName, undefined).flatMap((service) => {
    const { compliance } = config.services[service]!.objectives;
    return compliance === undefined ? [] : [{ service, ...compliance }];
  });
  const strictest = asked.toSorted((a, b) => b.target - a.target || Number(a.degraded === 'count') - Number(b.degraded === 'count'))[0];
  const fromMs = options.nowMs - (options.periodMs ?? strictest?.period ?? DEFAULT_TARGET.periodMs);
  const damaged: string[] = [];
  const gone: ComplianceBackup[] = [];
  const backups = await listBackups(store, store.prefix, datastoreName, { nowMs: options.nowMs, ...(options.signal === undefined ? {} : { signal: options.signal }), onDamaged: (location) => damaged.push(idOf(location)) });
  const { records, sinceMs, unreadable } = await readRunRecords(store, datastoreName, fromMs, options.nowMs, options.signal);
  const there = new Set(backups.map(({ id }) => id));
  // Retention has deleted them, and the mark that a drill left with them; that they were bad still counts.
  for (const [id, proof] of await readVerdicts(store, datastoreName)) if (proof === 'bad' && !there.has(id)) gone.push({ id, degraded: undefined, proof });
  const schedules = await Promise.all(
    Object.entries(config.schedules).flatMap(([name, schedule]) => (schedule.run === 'backup' && schedule.datastore === datastoreName ? [createdAt(client, scheduleIdOf(config.environment, name)).then((createdAtMs) => ({ ...schedule, name, createdAtMs }))] : [])),
  );
  const snapshots = datastore.engine === 'postgres' ? datastore.managed?.snapshots : undefined;
  const found = judgeCompliance({
    datastore: datastoreName, schedules, records, backups: [...backups, ...gone], damaged, recordedSinceMs: sinceMs, fromMs, nowMs: options.nowMs,
    runMs: datastore.backup.timeout + (snapshots === undefined ? 0 : snapshots.completeWithin + (snapshots.copies.length === 0 ? 0 : snapshots.copyWithin)),
    target: strictest === undefined ? { percent: DEFAULT_TARGET.percent, degraded: 'count', by: 'default' } : { percent: strictest.target, degraded: strictest.degraded, by: `service ${strictest.service}` },
  });
  return unreadable.length === 0 ? found : { ...found, notes: [...found.notes, `${unreadable.length} records cannot be read and count for nothing: ${unreadable.slice(0, 3).join('; ')}`] };
}

async function createdAt(client: Client | null, scheduleId: string): Promise<number | null> {
  if (client === null) return null;
  try {
    return (await client.schedule.getHandle(scheduleId).describe()).info.createdAt.getTime();
  } catch {
    return null; // It does not answer: the figure does not depend on it, and says what is not known.
  }
}
