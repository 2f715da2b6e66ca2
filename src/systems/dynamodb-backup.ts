import type { BackupResult } from '../model/api.ts';
import { HoldfastError } from '../model/errors.ts';
import { manifestSchema, type Manifest } from '../model/manifest.ts';
import type { DynamodbManifest } from '../model/manifest-dynamodb.ts';
import { storeNameOf } from './backup-catalogue.ts';
import type { BackupOptions, BackupRequest } from './backup-engine.ts';
import { manifestHead } from './backup-manifest.ts';
import { commitBackup, createProgress, removeLeftovers, resultOf } from './backup-write.ts';
import type { Context } from './context.ts';
import { exportTable, type ExportedTable } from './dynamodb-export.ts';
import { backUpByExport, backUpOnDemand } from './dynamodb-native-backup.ts';
import { dynamoOf, placeText, sourceTables, type Tables } from './dynamodb-place.ts';
import { describeTable } from './dynamodb.ts';
import { openStore, shellQuote, type Store } from './store.ts';

type Method = (context: Context, request: BackupRequest, options: BackupOptions) => Promise<BackupResult>;

/** One backup of the tables of a datastore by the way that its configuration names. */
export async function backUp(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult> {
  const { method } = dynamoOf(context, request.datastore).backup;
  return METHODS[method](context, request, options);
}

const METHODS: Record<'scan' | 'export' | 'on-demand', Method> = { scan: backUpByScan, export: backUpByExport, 'on-demand': backUpOnDemand };

export const SCAN_TEXT = 'a scan and no snapshot: each item is as it was at some moment between the times that its table was read from and to, and items written meanwhile may be in it or not, whatever was written before or after them';

async function backUpByScan(context: Context, request: BackupRequest, options: BackupOptions): Promise<BackupResult> {
  const datastore = dynamoOf(context, request.datastore);
  const { backup } = datastore;
  const storeName = storeNameOf(context, request.datastore);
  const store = await openStore(context, storeName);
  const startedAt = new Date();
  const clock = performance.now();
  const { progress, report } = createProgress(request, options, datastore.tables.length);
  const tables = await sourceTables(context, request.datastore);
  // Of all of them before the first is read: a name that is wrong is found now and not in the night.
  for (const table of datastore.tables) await describeTable(tables.client, table, options.signal);
  const lockUntilMs = store.lockForMs === undefined ? undefined : startedAt.getTime() + store.lockForMs;
  progress.phase = 'dump';
  report();
  try {
    const exported: ExportedTable[] = [];
    for (const table of datastore.tables) {
      exported.push(
        await exportTable({
          context, storeName, store, location: request.location, attempt: request.attempt ?? 1, table, client: tables.client, items: tables.items, readShare: backup.readShare, readUnitsPerSecond: backup.readUnitsPerSecond,
          segments: backup.segments, consistentRead: backup.consistentRead, pageItems: backup.pageItems, fileBytes: backup.fileSize, lockUntilMs, signal: options.signal,
          onProgress(more) {
            progress.plainBytes += more.plainBytes;
            progress.storedBytes += more.storedBytes;
            progress.bytesPerSecond = Math.round((progress.plainBytes / Math.max(1, performance.now() - clock)) * 1000);
            report();
          },
        }),
      );
      progress.tables += 1;
      report();
    }
    const items = exported.reduce((sum, { sums }) => sum + sums.items, 0);
    if (items < backup.minimumItems) throw new HoldfastError('backup-too-small', `the tables hold ${items} items, at least ${backup.minimumItems} are expected`, { next: 'find out where the items are; lower backup.minimumItems when fewer are right' });
    progress.phase = 'commit';
    report();
    const manifest = manifestOf(context, request, tables, store, exported, startedAt);
    const committed = await commitBackup(store, request, manifest, [], { ifAbsent: true, signal: options.signal, ...(lockUntilMs === undefined ? {} : { lockUntilMs }) }, options.mayCommit);
    await removeLeftovers(context, store, request.location, committed);
    return resultOf(committed, request.location, performance.now() - clock);
  } catch (error) {
    // Nothing is removed here: COMMIT may be there although its answer was lost, or be another attempt's. The settling after each attempt knows.
    options.signal.throwIfAborted();
    throw error;
  }
}

function manifestOf(context: Context, request: BackupRequest, tables: Tables, store: Store, exported: readonly ExportedTable[], startedAt: Date): Manifest {
  const { backup, tables: names } = dynamoOf(context, request.datastore);
  const objects = exported.flatMap((one) => one.objects);
  const from = exported.map((one) => one.backup.readFrom).sort()[0]!;
  return manifestSchema.parse({
    ...manifestHead(context, request, { startedAt: startedAt.toISOString(), degraded: request.degraded }),
    format: 3, engine: 'dynamodb', snapshotAt: from,
    source: { ...placeText(context, tables), method: 'scan', consistency: 'scan', consistencyText: SCAN_TEXT, consistentRead: backup.consistentRead },
    selection: { complete: true, tables: [...names] },
    objects,
    tables: exported.map((one) => one.backup),
    fingerprint: { method: 'sha256-sum/1', tables: exported.map(({ sums }) => sums) },
    commands: plainCommands(context, request, store, exported),
  } satisfies DynamodbManifest);
}

/** DynamoDB itself reads what was written, and so do people. */
function plainCommands(context: Context, request: BackupRequest, store: Store, exported: readonly ExportedTable[]): DynamodbManifest['commands'] {
  const encrypted = exported.some(({ objects }) => objects.some(({ encryption }) => encryption === 'age'));
  const name = storeNameOf(context, request.datastore);
  const config = context.config.stores[name]!;
  const folders = (one: ExportedTable): string[] => [...new Set(one.backup.files.map(({ object }) => object.slice(0, object.lastIndexOf('/') + 1)))];
  return exported.flatMap((one) => {
    const first = one.backup.files[0];
    return [
      ...(first === undefined ? [] : [{ what: `An item of ${one.backup.name}, as DynamoDB JSON; every file below data/ is like it`, command: `${store.plainRead(request.location + first.object)} | ${encrypted ? 'age --decrypt --identity <identity-file> | ' : ''}gunzip | head -n 1` }]),
      ...(encrypted || config.type !== 's3'
        ? [{ what: `To have DynamoDB import ${one.backup.name}, its plain .json.gz files must lie in Amazon S3`, command: `aws dynamodb import-table --s3-bucket-source S3Bucket=<bucket>,S3KeyPrefix=<prefix-of-the-files> --input-format DYNAMODB_JSON --input-compression-type GZIP --table-creation-parameters <from tables[].settings of this manifest>` }]
        : folders(one).map((folder) => ({ what: `DynamoDB's own import of ${one.backup.name} into a new table${folders(one).length === 1 ? '' : ' (one of several folders: it was written by several attempts)'}; needs the bucket to be in Amazon S3`, command: `aws dynamodb import-table --s3-bucket-source S3Bucket=${config.bucket},S3KeyPrefix=${shellQuote(request.location + folder)} --input-format DYNAMODB_JSON --input-compression-type GZIP --table-creation-parameters <from tables[].settings of this manifest>` }))),
    ];
  });
}
