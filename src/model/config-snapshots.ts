import { z } from 'zod';
import { durationMs } from './units.ts';

const region = z.string().regex(/^[a-z]{2}(-[a-z]+)+-\d$/, 'expected a Region such as eu-west-1').meta({ description: 'AWS Region.' });
const tagName = z.string().regex(/^(?!holdfast:)(?!aws:).{1,128}$/, 'expected a tag name that does not begin with holdfast: or aws:');

/** `managed.snapshots` of a datastore: the managed snapshot is its first backup, a logical dump the one that stands in for it. */
export const managedSnapshotsSchema = z.strictObject({
  also: z.enum(['none', 'dump']).default('none').meta({ description: 'dump: a logical dump is taken beside every snapshot (double backup). none: only when the snapshot fails, is late or does not start.' }),
  startWithin: durationMs.prefault('10m').meta({ description: 'A snapshot that RDS has not accepted by then did not start: a dump runs.' }),
  completeWithin: durationMs.prefault('4h').meta({ description: 'A snapshot that is not available by then, counted from the start of the backup, is late: a dump runs. The late one is removed by a later retention run.' }),
  pollEvery: durationMs.prefault('30s').meta({ description: 'How often its state is asked, and a marker row is written, while waiting.' }),
  fingerprint: z.boolean().default(true).meta({ description: 'Read every table once before and once after the snapshot, so that a drill can prove what did not change in between. Off: only marker rows and the checks of the services prove it.' }),
  copies: z
    .array(z.strictObject({ region, kmsKeyId: z.string().min(1).optional().meta({ description: 'Key of that Region (an ARN, id or alias). Needed when the snapshot is encrypted; never a key of the source Region.' }) }))
    .default([])
    .meta({ description: 'Copies in other Regions. A copy that cannot be made leaves the backup degraded.' }),
  copyWithin: durationMs.prefault('12h').meta({ description: 'How long one copy may take.' }),
  share: z.array(z.string().regex(/^\d{12}$/, 'expected an AWS account id: 12 digits')).default([]).meta({ description: 'Accounts that may restore the snapshot. A snapshot under the default key aws/rds cannot be shared.' }),
  tags: z.record(tagName, z.string().max(256)).default({}).meta({ description: 'More tags for snapshots, copies and drill instances. Those with holdfast: are ours.' }),
  drill: z
    .strictObject({
      region: region.optional().meta({ description: 'Restore the copy in this Region instead of the snapshot: what would be left if the Region of the instance were lost. Points in time are restored in the Region of the instance all the same.' }),
      instanceClass: z.string().regex(/^db\.[a-z0-9-]+\.[a-z0-9]+$/, 'expected a class such as db.t4g.medium').meta({ description: 'Class of the restored instance.' }),
      subnetGroup: z.string().min(1).meta({ description: 'DB subnet group of the restored instance. It must not be the one of any instance of this datastore.' }),
      securityGroups: z.array(z.string().regex(/^sg-[0-9a-z]+$/, 'expected a security group id: sg-...')).min(1).meta({ description: 'VPC security groups of the restored instance: workers in, nothing out. None may be of an instance of this datastore.' }),
      parameterGroup: z.string().min(1).optional().meta({ description: 'DB parameter group; default: the default of the engine version.' }),
      timeout: durationMs.prefault('3h').meta({ description: 'How long each step may take: RDS making the instance available, reading it, deleting it.' }),
    })
    .optional()
    .meta({ description: 'Where a drill restores a managed snapshot, or a point in time. Without it neither can be drilled.' }),
});

export type ManagedSnapshots = z.output<typeof managedSnapshotsSchema>;

interface Checked {
  readonly store?: string | undefined;
  readonly retention?: unknown;
  readonly managed?: { readonly type: string; readonly snapshots?: ManagedSnapshots | undefined } | undefined;
  readonly nodes: Readonly<Record<string, { readonly rds?: { readonly region?: string | undefined } | undefined }>>;
  readonly backup: { readonly include: { readonly schemas: readonly string[]; readonly tables: readonly string[] }; readonly exclude: { readonly schemas: readonly string[]; readonly tables: readonly string[]; readonly tableData: readonly string[] } };
}

/** What is wrong with the managed snapshots of a datastore, with the path below it. */
export function snapshotProblems(datastore: Checked, defaultRegion: string): { level: 'error' | 'warning'; path: string[]; message: string; found?: string; allowed?: string }[] {
  const { managed, backup } = datastore;
  const snapshots = managed?.snapshots;
  if (managed === undefined || snapshots === undefined) return [];
  const problems: ReturnType<typeof snapshotProblems> = [];
  const at = ['managed', 'snapshots'];
  if (managed.type !== 'rds') problems.push({ level: 'error', path: at, message: 'managed snapshots are taken of RDS instances only, not of Aurora clusters', found: managed.type, allowed: 'type: rds, or no snapshots: then backups are logical dumps' });
  if (datastore.store === undefined) problems.push({ level: 'error', path: at, message: 'there is no store for the manifest of a snapshot and for the dump that stands in for it', allowed: 'store: <name>' });
  if (datastore.retention === undefined) problems.push({ level: 'warning', path: at, message: 'without retention no snapshot is ever deleted, and each costs' });
  if (snapshots.startWithin >= snapshots.completeWithin) problems.push({ level: 'error', path: [...at, 'completeWithin'], message: 'it must be longer than startWithin: both count from the start of the backup' });
  if (snapshots.pollEvery < 100) problems.push({ level: 'error', path: [...at, 'pollEvery'], message: 'RDS would throttle the account', allowed: '100ms or longer; 30s is usual' });
  const regions = new Set(Object.values(datastore.nodes).flatMap(({ rds }) => (rds === undefined ? [] : [rds.region ?? defaultRegion])));
  for (const [index, copy] of snapshots.copies.entries()) {
    const path = [...at, 'copies', String(index), 'region'];
    if (snapshots.copies.findIndex(({ region }) => region === copy.region) !== index) problems.push({ level: 'error', path, message: 'a copy in this Region stands here already', found: copy.region });
    else if (regions.size === 1 && regions.has(copy.region)) problems.push({ level: 'error', path, message: 'the instance itself is in this Region, so the snapshot is there already', found: copy.region });
  }
  const drilled = snapshots.drill?.region;
  if (drilled !== undefined && !regions.has(drilled) && !snapshots.copies.some((copy) => copy.region === drilled)) problems.push({ level: 'error', path: [...at, 'drill', 'region'], message: 'no copy is made in this Region', found: drilled, allowed: snapshots.copies.map((copy) => copy.region).join(', ') || 'add it to copies' });
  const selected = [...backup.include.schemas, ...backup.include.tables, ...backup.exclude.schemas, ...backup.exclude.tables, ...backup.exclude.tableData].length > 0;
  if (selected) problems.push({ level: 'warning', path: ['backup'], message: 'the selection holds for dumps only: a managed snapshot has the whole instance, and the dump that stands in for it has less' });
  return problems;
}
