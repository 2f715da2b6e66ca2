import { createHash } from 'node:crypto';
import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DATA, EXPORT_ROOT, exportId, FILES, FILES_MD5, filesText, STARTED, SUMMARY, SUMMARY_MD5, summaryText, type ExportFile } from '../model/dynamodb-export.ts';
import type { Item } from '../model/dynamodb-item.ts';
import type { TableBackup, TableSums } from '../model/manifest-dynamodb.ts';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import type { ScanState } from '../model/scan-state.ts';
import { plainEntry } from './backup-manifest.ts';
import { allOrStop } from './backup-write.ts';
import { storeOf, type Context } from './context.ts';
import { createDataFile, PACKED_BYTES } from './dynamodb-data-file.ts';
import { addSums } from './dynamodb-hash.ts';
import { readStates, stateFolder, writeState, type StatePlace } from './dynamodb-scan-state.ts';
import { scanSegment } from './dynamodb-scan.ts';
import { readSettings } from './dynamodb-settings.ts';
import { createThrottle } from './dynamodb-throttle.ts';
import { putOwn, type PutOptions, type Store } from './store.ts';

export interface TableExport {
  readonly context: Context;
  readonly storeName: string;
  readonly store: Store;
  /** Of the backup; ends with `/`. */
  readonly location: string;
  readonly attempt: number;
  readonly table: string;
  readonly client: DynamoDBClient;
  readonly items: DynamoDBClient;
  readonly readShare: number;
  readonly readUnitsPerSecond?: number | undefined;
  readonly segments: number;
  readonly consistentRead: boolean;
  readonly pageItems?: number | undefined;
  readonly fileBytes: number;
  readonly lockUntilMs: number | undefined;
  readonly signal: AbortSignal;
  readonly onProgress: (more: { readonly plainBytes: number; readonly storedBytes: number; readonly items: number }) => void;
}

export interface ExportedTable {
  readonly backup: TableBackup;
  readonly sums: TableSums;
  readonly objects: readonly ObjectEntry[];
}

/** A file of a table that is read slowly ends after so long, so that a lost worker loses no more. */
const FILE_MS = 5 * 60_000;

/** Reads a whole table into the layout of the service's own export. What an earlier attempt has finished is taken over. */
export async function exportTable(options: TableExport): Promise<ExportedTable> {
  const { context, storeName, store, location, attempt, table, client, items, segments, consistentRead } = options;
  // The first segment that fails ends the others.
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const throttle = await createThrottle({
    client, table, unit: 'read', share: options.readShare, configured: options.readUnitsPerSecond, signal,
    onNote: (note) => context.log.info({ table }, note),
  });
  const { facts } = throttle;
  const settings = await readSettings(client, facts, signal);
  const startedAtMs = Date.now();
  // An attempt that is taken for dead and lives on writes into a folder of its own.
  const id = exportId(startedAtMs, createHash('sha256').update(JSON.stringify([location, table, attempt])).digest('hex'));
  const root = `${table}/${EXPORT_ROOT}/${id}/`;
  const recipients = storeOf(context.config, storeName).encryption?.recipients;
  const folder = stateFolder(location, table, { arn: facts.arn, id: facts.id, createdAt: facts.description.CreationDateTime?.toISOString() ?? '', segments, consistentRead });
  const place: StatePlace = { context, storeName, store, folder, signal };
  const put = { signal, contentType: 'application/octet-stream', ...(options.lockUntilMs === undefined ? {} : { lockUntilMs: options.lockUntilMs }) } satisfies PutOptions;
  await putOwn(store, `${location}${root}${STARTED}`, Buffer.alloc(0), put);

  const known = await readStates(place);
  const chains = Array.from({ length: segments }, (_, segment) => [...(known.get(segment) ?? [])]);
  for (const { state } of chains.flat()) if (state.file !== null) options.onProgress({ plainBytes: state.file.entry.plainBytes, storedBytes: state.file.entry.storedBytes, items: state.file.items });

  async function readSegment(segment: number): Promise<void> {
    const chain = chains[segment]!;
    const last = chain.at(-1);
    if (last !== undefined && last.state.lastKey === null) return;
    let file = createDataFile(recipients);
    let began = Date.now();
    let units = 0;
    let noted = 0;
    for await (const page of scanSegment({ items, table, segment, segments, consistentRead, after: last?.state.lastKey ?? null, throttle, pageItems: options.pageItems, signal })) {
      await file.add(page.items);
      units += page.consumedUnits;
      options.onProgress({ plainBytes: file.plainBytes - noted, storedBytes: 0, items: page.items.length });
      noted = file.plainBytes;
      const full = file.plainBytes >= options.fileBytes || file.packedBytes >= PACKED_BYTES || (Date.now() - began >= FILE_MS && file.items > 0);
      if (!full && page.lastKey !== null) continue;
      await finishFile(segment, file, page.lastKey, { units, fromMs: began });
      file = createDataFile(recipients);
      began = Date.now();
      units = 0;
      noted = 0;
    }
  }

  /** First the file, then the note of it: a worker that is lost between the two leaves a file that nothing names. */
  async function finishFile(segment: number, file: ReturnType<typeof createDataFile>, lastKey: Item | null, { units, fromMs }: { units: number; fromMs: number }): Promise<void> {
    const chain = chains[segment]!;
    const label = `s${String(segment).padStart(3, '0')}-${String(chain.length + 1).padStart(6, '0')}`;
    let finished: ScanState['file'] = null;
    if (file.items > 0) {
      const packed = await file.finish();
      const name = `${root}${DATA}${label}.json.gz${recipients === undefined ? '' : '.age'}`;
      const { etag } = await putOwn(store, `${location}${name}`, packed.bytes, put);
      const entry: ObjectEntry = {
        name, role: 'data', compression: 'gzip', encryption: recipients === undefined ? 'none' : 'age',
        storedBytes: packed.bytes.length, storedSha256: packed.storedSha256, plainBytes: packed.plainBytes, plainSha256: packed.plainSha256,
      };
      finished = { entry, md5: packed.md5.toString('base64'), etag: etag?.replaceAll('"', '') ?? packed.md5.toString('hex'), ...packed.sums };
      options.onProgress({ plainBytes: 0, storedBytes: packed.bytes.length, items: 0 });
    }
    const state: ScanState = { format: 1, segment, after: chain.at(-1)?.name ?? null, file: finished, lastKey, consumedUnits: units, fromMs, toMs: Date.now() };
    const name = `${label}-a${attempt}.json`;
    await writeState(place, name, state);
    chain.push({ name, state });
  }

  await allOrStop(stop, Array.from({ length: segments }, (_, segment) => () => readSegment(segment)), signal);

  const states = chains.flatMap((chain) => chain.map(({ state }) => state));
  const files = states.flatMap(({ file }) => (file === null ? [] : [file]));
  const sums = addSums(files);
  const [fromMs, toMs] = [Math.min(...states.map((state) => state.fromMs)), Math.max(...states.map((state) => state.toMs))];
  const listed: ExportFile[] = files.map((file) => ({ itemCount: file.items, md5Checksum: file.md5, etag: file.etag, dataFileS3Key: `${location}${file.entry.name}` }));
  const config = storeOf(context.config, storeName);
  const filesJson = filesText(listed);
  const summary = summaryText({
    version: '2020-06-30', exportArn: `${facts.arn}/export/${id}`, startTime: new Date(startedAtMs).toISOString(), endTime: new Date().toISOString(), tableArn: facts.arn, tableId: facts.id, exportTime: new Date(fromMs).toISOString(),
    s3Bucket: config.type === 's3' ? config.bucket : '', s3Prefix: `${location}${table}`, s3SseAlgorithm: null, s3SseKmsKeyId: null, manifestFilesS3Key: `${location}${root}${FILES}`, billedSizeBytes: 0, itemCount: sums.items, outputFormat: 'DYNAMODB_JSON', exportType: 'FULL_EXPORT',
  });
  const described: ObjectEntry[] = [plainEntry(`${root}${STARTED}`, Buffer.alloc(0))];
  for (const [name, text] of [[FILES, filesJson], [FILES_MD5, md5Of(filesJson)], [SUMMARY, summary], [SUMMARY_MD5, md5Of(summary)]] as const) {
    const bytes = Buffer.from(text);
    await putOwn(store, `${location}${root}${name}`, bytes, put);
    described.push(plainEntry(`${root}${name}`, bytes));
  }
  const kept = throttle.kept();
  return {
    backup: {
      name: table, arn: facts.arn, id: facts.id, export: root, settings, readFrom: new Date(fromMs).toISOString(), readTo: new Date(toMs).toISOString(),
      files: files.map((file) => ({ object: file.entry.name, items: file.items })),
      capacity: { share: kept.share, unitsPerSecond: kept.capacity, source: kept.source, consumedUnits: states.reduce((sum, state) => sum + state.consumedUnits, 0), seconds: Math.round(kept.seconds * 10) / 10, throttled: kept.throttled, retries: kept.retries },
    },
    sums: { name: table, items: sums.items, sum1: sums.sum1, sum2: sums.sum2 },
    objects: [...files.map(({ entry }) => entry), ...described],
  };
}

function md5Of(text: string): string {
  return createHash('md5').update(text).digest('base64');
}
