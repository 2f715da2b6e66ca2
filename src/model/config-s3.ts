import { z } from 'zod';
import { durationMs, sizeBytes } from './units.ts';

/** What is particular to a bucket as a datastore; src/model/config-engines.ts makes the engine of it. */
const days = z.int().min(1);
export const STORAGE_CLASSES = ['STANDARD_IA', 'ONEZONE_IA', 'INTELLIGENT_TIERING', 'GLACIER_IR', 'GLACIER', 'DEEP_ARCHIVE'] as const;
const transition = z.strictObject({ afterDays: z.int().min(0).meta({ description: 'Days; for a version that was replaced, since then.' }), to: z.enum(STORAGE_CLASSES).meta({ description: 'Storage class. GLACIER and DEEP_ARCHIVE must be restored for hours before they can be read.' }) });

export const lifecycleRuleSchema = z.strictObject({
  id: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'expected lower-case letters, digits and inner hyphens, at most 63').meta({ description: 'Name of the rule; in the bucket it is holdfast-<datastore or store>.<id>.' }),
  enabled: z.boolean().default(true).meta({ description: 'A disabled rule stands in the bucket and does nothing.' }),
  prefix: z.string().default('').meta({ description: 'Only keys below this, itself below the prefix of the datastore or store.' }),
  tags: z.record(z.string().min(1).max(128), z.string().max(256)).optional().meta({ description: 'Only objects with all of these tags.' }),
  largerThan: sizeBytes.optional().meta({ description: 'Only objects larger than this.' }),
  expireAfterDays: days.optional().meta({ description: 'Deletes objects that old; in a versioned bucket behind a delete marker. Refused for a store: there retention decides.' }),
  transitions: z.array(transition).default([]).meta({ description: 'Moves objects to a cheaper storage class.' }),
  noncurrent: z
    .strictObject({
      expireAfterDays: days.optional().meta({ description: 'Deletes versions that were replaced or deleted so long ago, for good: what is gone cannot be restored.' }),
      keepNewest: z.int().min(1).max(100).optional().meta({ description: 'The newest ones of them stay.' }),
      transitions: z.array(transition).default([]).meta({ description: 'Moves them to a cheaper storage class.' }),
    })
    .optional()
    .meta({ description: 'What becomes of old versions.' }),
  removeLoneDeleteMarkers: z.boolean().default(false).meta({ description: 'Removes delete markers with no version behind them. Not together with expireAfterDays.' }),
  abortUploadsAfterDays: days.optional().meta({ description: 'Removes the parts of uploads that never ended.' }),
});
export type LifecycleRuleConfig = z.output<typeof lifecycleRuleSchema>;

export const lifecycleSchema = z.array(lifecycleRuleSchema).optional().meta({ description: 'Lifecycle rules of the bucket that are ours. `holdfast lifecycle` shows what would change, `--apply` changes it; rules of others are never touched.' });

export const s3ExpectSchema = z
  .strictObject({
    versioning: z.boolean().default(true).meta({ description: 'Versioning must be on: without it nothing can be restored.' }),
    objectLock: z
      .strictObject({ mode: z.enum(['GOVERNANCE', 'COMPLIANCE']).meta({ description: 'Default retention of new versions: nobody can shorten COMPLIANCE.' }), days: days.meta({ description: 'At least so many days.' }) })
      .optional()
      .meta({ description: 'Object lock must be on, with a default retention of at least this.' }),
    replication: z
      .strictObject({
        bucket: z.string().min(3).meta({ description: 'Name of the bucket it must replicate to.' }),
        maxPending: durationMs.prefault('15m').meta({ description: 'An object that waits for its replication for longer has failed.' }),
        sample: z.int().min(1).max(10_000).default(200).meta({ description: 'How many of the newest objects are asked for their replication status.' }),
      })
      .optional()
      .meta({ description: 'It must replicate, and be up to date.' }),
    publicAccessBlocked: z.boolean().default(true).meta({ description: 'All four settings that block public access must be on.' }),
    mfaDelete: z.boolean().default(false).meta({ description: 'MFA delete must be on. It is reported either way; only the account owner can turn it on, with a device at hand.' }),
  })
  .prefault({})
  .meta({ description: 'What readiness and s3.check hold the bucket against. A store that lacks an API is said not to support it, never to be fine.' });

export const s3RestoreSchema = z
  .strictObject({
    concurrency: z.int().min(1).max(64).default(8).meta({ description: 'Objects that are restored at the same time.' }),
    requestsPerSecond: z.number().min(0.1).max(3500).default(100).meta({ description: 'At most so many copies and deletions a second. S3 takes 3,500 a second and prefix.' }),
  })
  .prefault({})
  .meta({ description: 'How hard a restore may press.' });

/** Findings about lifecycle rules that the schema cannot say. `store`: retention decides there which backups go. */
export function lifecycleProblems(rules: readonly LifecycleRuleConfig[] | undefined, of: 'store' | 'datastore'): { readonly index: number; readonly key: string; readonly message: string }[] {
  const problems: { index: number; key: string; message: string }[] = [];
  const ids = new Set<string>();
  for (const [index, rule] of (rules ?? []).entries()) {
    const problem = (key: string, message: string): void => void problems.push({ index, key, message });
    if (ids.has(rule.id)) problem('id', `two rules are called ${rule.id}`);
    ids.add(rule.id);
    const does = rule.expireAfterDays !== undefined || rule.transitions.length > 0 || rule.noncurrent?.expireAfterDays !== undefined || (rule.noncurrent?.transitions.length ?? 0) > 0 || rule.removeLoneDeleteMarkers || rule.abortUploadsAfterDays !== undefined;
    if (!does) problem('id', 'it does nothing: give expireAfterDays, transitions, noncurrent, removeLoneDeleteMarkers or abortUploadsAfterDays');
    if (rule.expireAfterDays !== undefined && rule.removeLoneDeleteMarkers) problem('removeLoneDeleteMarkers', 'S3 takes either this or expireAfterDays in one rule; expiry removes lone delete markers too');
    if (of === 'store' && rule.expireAfterDays !== undefined) problem('expireAfterDays', 'it would delete backups by age alone, also pinned ones and the newest verified one: retention decides what goes; noncurrent.expireAfterDays removes what retention deleted');
    const narrow = Object.keys(rule.tags ?? {}).length > 0;
    if (narrow && rule.abortUploadsAfterDays !== undefined) problem('abortUploadsAfterDays', 'S3 takes no tags in a rule that removes uploads');
    if ((narrow || rule.largerThan !== undefined) && rule.removeLoneDeleteMarkers) problem('removeLoneDeleteMarkers', 'S3 takes neither tags nor sizes in a rule that removes delete markers');
    if (rule.largerThan !== undefined && rule.abortUploadsAfterDays !== undefined) problem('abortUploadsAfterDays', 'S3 takes no size in a rule that removes uploads');
    if (rule.noncurrent?.keepNewest !== undefined && rule.noncurrent.expireAfterDays === undefined) problem('noncurrent', 'keepNewest needs expireAfterDays: S3 keeps the newest of those that would go');
    for (const [kind, list, end] of [['transitions', rule.transitions, rule.expireAfterDays], ['noncurrent', rule.noncurrent?.transitions ?? [], rule.noncurrent?.expireAfterDays]] as const) {
      for (const [at, { afterDays, to }] of list.entries()) {
        if (end !== undefined && afterDays >= end) problem(kind, `${to} after ${afterDays} days comes no sooner than the end after ${end}`);
        if (at > 0 && afterDays <= list[at - 1]!.afterDays) problem(kind, `${to} after ${afterDays} days must come later than ${list[at - 1]!.to} after ${list[at - 1]!.afterDays}`);
        if ((to === 'STANDARD_IA' || to === 'ONEZONE_IA') && afterDays < 30) problem(kind, `S3 moves nothing to ${to} before 30 days`);
      }
    }
  }
  return problems;
}
