import { canonicalJson } from './evidence.ts';
import { HoldfastError } from './errors.ts';
import type { LifecycleRuleConfig } from './config-s3.ts';

/**
 * Lifecycle rules: what the configuration wants, against what the bucket has. S3 keeps one document for a bucket and replaces it whole,
 * so the rules of others are carried over as they are. Ours are known by their id. The shapes are those of the S3 API (LifecycleRule).
 */
export interface LifecycleRule {
  readonly ID?: string;
  readonly Status: 'Enabled' | 'Disabled';
  /** Of the first version of the format; a document has either this or Filter. */
  readonly Prefix?: string;
  readonly Filter?: {
    readonly Prefix?: string;
    readonly Tag?: Tag;
    readonly ObjectSizeGreaterThan?: number;
    readonly ObjectSizeLessThan?: number;
    readonly And?: { readonly Prefix?: string; readonly Tags?: readonly Tag[]; readonly ObjectSizeGreaterThan?: number; readonly ObjectSizeLessThan?: number };
  };
  readonly Expiration?: { readonly Date?: string; readonly Days?: number; readonly ExpiredObjectDeleteMarker?: boolean };
  readonly Transitions?: readonly { readonly Date?: string; readonly Days?: number; readonly StorageClass?: string }[];
  readonly NoncurrentVersionTransitions?: readonly { readonly NoncurrentDays?: number; readonly StorageClass?: string; readonly NewerNoncurrentVersions?: number }[];
  readonly NoncurrentVersionExpiration?: { readonly NoncurrentDays?: number; readonly NewerNoncurrentVersions?: number };
  readonly AbortIncompleteMultipartUpload?: { readonly DaysAfterInitiation?: number };
}

interface Tag {
  readonly Key: string;
  readonly Value: string;
}

export interface LifecycleDocument {
  readonly rules: readonly LifecycleRule[];
  /** A setting of the whole document that a replacement without it would set back. */
  readonly minimumSize?: string;
}

/** S3 takes no more in one document. Source: S3 API reference, PutBucketLifecycleConfiguration. */
const MAXIMUM_RULES = 1000;
/** Names of datastores and stores have no dot, so that one's rules are never taken for another's. */
export const OWN_PREFIX = 'holdfast-';

export function ruleId(owner: string, id: string): string {
  return `${OWN_PREFIX}${owner}.${id}`;
}

export function isOwn(rule: LifecycleRule, owner: string): boolean {
  return rule.ID?.startsWith(`${OWN_PREFIX}${owner}.`) === true;
}

/** A rule of the configuration in the form of the API. `base` is the prefix of the datastore or store. */
export function wantedRule(owner: string, base: string, config: LifecycleRuleConfig): LifecycleRule {
  const Prefix = `${base}${config.prefix}`;
  const tags = Object.entries(config.tags ?? {}).map(([Key, Value]) => ({ Key, Value }));
  const ObjectSizeGreaterThan = config.largerThan;
  const several = tags.length + (Prefix === '' ? 0 : 1) + (ObjectSizeGreaterThan === undefined ? 0 : 1) > 1;
  const size = ObjectSizeGreaterThan === undefined ? {} : { ObjectSizeGreaterThan };
  const { noncurrent } = config;
  return {
    ID: ruleId(owner, config.id),
    Status: config.enabled ? 'Enabled' : 'Disabled',
    Filter: several ? { And: { ...(Prefix === '' ? {} : { Prefix }), ...(tags.length === 0 ? {} : { Tags: tags }), ...size } } : tags.length === 1 ? { Tag: tags[0]! } : ObjectSizeGreaterThan !== undefined ? size : { Prefix },
    ...(config.expireAfterDays !== undefined ? { Expiration: { Days: config.expireAfterDays } } : config.removeLoneDeleteMarkers ? { Expiration: { ExpiredObjectDeleteMarker: true } } : {}),
    ...(config.transitions.length === 0 ? {} : { Transitions: config.transitions.map(({ afterDays, to }) => ({ Days: afterDays, StorageClass: to })) }),
    ...(noncurrent === undefined || noncurrent.transitions.length === 0 ? {} : { NoncurrentVersionTransitions: noncurrent.transitions.map(({ afterDays, to }) => ({ NoncurrentDays: afterDays, StorageClass: to })) }),
    ...(noncurrent?.expireAfterDays === undefined ? {} : { NoncurrentVersionExpiration: { NoncurrentDays: noncurrent.expireAfterDays, ...(noncurrent.keepNewest === undefined ? {} : { NewerNoncurrentVersions: noncurrent.keepNewest }) } }),
    ...(config.abortUploadsAfterDays === undefined ? {} : { AbortIncompleteMultipartUpload: { DaysAfterInitiation: config.abortUploadsAfterDays } }),
  };
}

export interface LifecycleChange {
  readonly id: string;
  readonly action: 'add' | 'change' | 'remove' | 'same';
  readonly from: LifecycleRule | null;
  readonly to: LifecycleRule | null;
}

export interface LifecyclePlan {
  readonly changes: readonly LifecycleChange[];
  /** Ids of rules that are not ours; without an id: what they match. */
  readonly foreign: readonly string[];
  readonly wanted: LifecycleDocument;
  readonly differs: boolean;
}

/** What would be put in the bucket's document, and how that differs from what is there. @throws HoldfastError when it cannot be put at all. */
export function planLifecycle(owner: string, current: LifecycleDocument, ours: readonly LifecycleRule[]): LifecyclePlan {
  const foreign = current.rules.filter((rule) => !isOwn(rule, owner));
  // One document cannot mix the two forms of the format.
  const old = foreign.some((rule) => rule.Filter === undefined && rule.Prefix !== undefined);
  const own = old ? ours.map(inOldForm) : ours;
  const there = new Map(current.rules.filter((rule) => isOwn(rule, owner)).map((rule) => [rule.ID!, rule]));
  const changes: LifecycleChange[] = own.map((rule) => {
    const now = there.get(rule.ID!) ?? null;
    return { id: rule.ID!, action: now === null ? 'add' : sameRule(now, rule) ? 'same' : 'change', from: now, to: rule };
  });
  const kept = new Set(own.map((rule) => rule.ID));
  for (const [id, rule] of there) if (!kept.has(id)) changes.push({ id, action: 'remove', from: rule, to: null });
  const rules = [...foreign, ...own];
  if (rules.length > MAXIMUM_RULES) throw new HoldfastError('lifecycle-rules', `the bucket would have ${rules.length} lifecycle rules, ${foreign.length} of them not ours; S3 takes ${MAXIMUM_RULES}`, { next: 'configure fewer, or have others removed' });
  return { changes, foreign: foreign.map(foreignName), wanted: { ...current, rules }, differs: changes.some((change) => change.action !== 'same') };
}

/** `1 to add, 0 to change, ...`. */
export function lifecycleText(plan: LifecyclePlan): string {
  const of = (action: string): number => plan.changes.filter((change) => change.action === action).length;
  return `${of('add')} to add, ${of('change')} to change, ${of('remove')} to remove, ${of('same')} as wanted, ${plan.foreign.length} of others`;
}

/** The document with our rules as they were in `before`, and everybody else's as they are now. */
export function undoLifecycle(owner: string, current: LifecycleDocument, before: LifecycleDocument): LifecycleDocument {
  return { ...current, rules: [...current.rules.filter((rule) => !isOwn(rule, owner)), ...before.rules.filter((rule) => isOwn(rule, owner))] };
}

export function sameDocument(a: LifecycleDocument, b: LifecycleDocument): boolean {
  return documentDifferences(a, b).length === 0;
}

/** How two documents differ, rule by rule, in words; empty when they do not. */
export function documentDifferences(expected: LifecycleDocument, found: LifecycleDocument): string[] {
  const name = (rule: LifecycleRule, index: number): string => rule.ID ?? `${foreignName(rule)} #${index}`;
  const before = new Map(expected.rules.map((rule, index) => [name(rule, index), rule]));
  const after = new Map(found.rules.map((rule, index) => [name(rule, index), rule]));
  const differences: string[] = [];
  for (const [id, rule] of before) {
    const now = after.get(id);
    if (now === undefined) differences.push(`${id} is not there`);
    else for (const line of ruleDifferences(rule, now)) differences.push(`${id}: ${line}`);
  }
  for (const id of after.keys()) if (!before.has(id)) differences.push(`${id} is there and was not expected`);
  if (expected.minimumSize !== found.minimumSize && expected.minimumSize !== undefined) differences.push(`the default minimum size is ${found.minimumSize ?? 'not given'} instead of ${expected.minimumSize}`);
  return differences;
}

/** `Expiration.Days: 30 -> 60`. */
export function ruleDifferences(from: LifecycleRule, to: LifecycleRule): string[] {
  const before = flat(comparableRule(from));
  const after = flat(comparableRule(to));
  return [...new Set([...before.keys(), ...after.keys()])].filter((key) => before.get(key) !== after.get(key)).map((key) => `${key}: ${before.get(key) ?? 'none'} -> ${after.get(key) ?? 'none'}`);
}

/** What a rule does, for people. */
export function describeRule(rule: LifecycleRule): string {
  const filter = rule.Filter ?? {};
  const inner = filter.And ?? filter;
  const tags = filter.And?.Tags ?? (filter.Tag === undefined ? [] : [filter.Tag]);
  const prefix = rule.Prefix ?? inner.Prefix ?? '';
  const what = [
    prefix === '' ? 'every object' : `${prefix}*`,
    ...tags.map((tag) => `tagged ${tag.Key}=${tag.Value}`),
    ...(inner.ObjectSizeGreaterThan === undefined ? [] : [`larger than ${inner.ObjectSizeGreaterThan} bytes`]),
    ...(inner.ObjectSizeLessThan === undefined ? [] : [`smaller than ${inner.ObjectSizeLessThan} bytes`]),
  ].join(', ');
  const does = [
    ...(rule.Transitions ?? []).map((item) => `to ${item.StorageClass} ${item.Days === undefined ? `on ${item.Date}` : `after ${item.Days} d`}`),
    ...(rule.Expiration?.Days === undefined ? [] : [`expire after ${rule.Expiration.Days} d`]),
    ...(rule.Expiration?.Date === undefined ? [] : [`expire on ${rule.Expiration.Date}`]),
    ...(rule.Expiration?.ExpiredObjectDeleteMarker === true ? ['remove delete markers with nothing behind them'] : []),
    ...(rule.NoncurrentVersionTransitions ?? []).map((item) => `old versions to ${item.StorageClass} after ${item.NoncurrentDays} d`),
    ...(rule.NoncurrentVersionExpiration === undefined ? [] : [`old versions go after ${rule.NoncurrentVersionExpiration.NoncurrentDays} d${rule.NoncurrentVersionExpiration.NewerNoncurrentVersions === undefined ? '' : `, the newest ${rule.NoncurrentVersionExpiration.NewerNoncurrentVersions} stay`}`]),
    ...(rule.AbortIncompleteMultipartUpload === undefined ? [] : [`uploads that never ended go after ${rule.AbortIncompleteMultipartUpload.DaysAfterInitiation} d`]),
  ].join('; ');
  return `${what}: ${does === '' ? 'nothing' : does}${rule.Status === 'Disabled' ? ' (disabled)' : ''}`;
}

/** The form before Filter: only a prefix. What it cannot say is refused. */
function inOldForm(rule: LifecycleRule): LifecycleRule {
  const { Filter, ...rest } = rule;
  const sayable = Filter === undefined || (Filter.And === undefined && Filter.Tag === undefined && Filter.ObjectSizeGreaterThan === undefined && Filter.ObjectSizeLessThan === undefined);
  if (!sayable || rule.NoncurrentVersionExpiration?.NewerNoncurrentVersions !== undefined) {
    throw new HoldfastError('lifecycle-form', `${rule.ID} selects by tag, size or number of versions, and the bucket has rules of others in the old form (Prefix instead of Filter); S3 takes no document with both`, {
      next: 'have the owner of the other rules write them with Filter, or select by prefix only',
    });
  }
  return { ...rest, Prefix: Filter?.Prefix ?? '' };
}

function foreignName(rule: LifecycleRule): string {
  return rule.ID ?? `(no id) ${describeRule(rule)}`;
}

function sameRule(a: LifecycleRule, b: LifecycleRule): boolean {
  return canonicalJson(comparableRule(a)) === canonicalJson(comparableRule(b));
}

/** The same rule can be written in several ways: no filter, an empty one, an empty prefix. */
function comparableRule(rule: LifecycleRule): Record<string, unknown> {
  const { Filter, Prefix, ...rest } = rule;
  const inner = Filter?.And ?? Filter ?? {};
  const tags = Filter?.And?.Tags ?? (Filter?.Tag === undefined ? [] : [Filter.Tag]);
  return {
    ...defined(rest),
    Match: defined({
      Prefix: Prefix ?? inner.Prefix ?? '',
      Tags: tags.length === 0 ? undefined : [...tags].sort((a, b) => (a.Key < b.Key ? -1 : 1)).map(({ Key, Value }) => `${Key}=${Value}`),
      ObjectSizeGreaterThan: inner.ObjectSizeGreaterThan,
      ObjectSizeLessThan: inner.ObjectSizeLessThan,
    }),
  };
}

function defined(value: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined && !(Array.isArray(item) && item.length === 0)));
}

function flat(value: unknown, path = '', into = new Map<string, string>()): Map<string, string> {
  if (value !== null && typeof value === 'object') {
    for (const [key, item] of Object.entries(value)) if (item !== undefined) flat(item, path === '' ? key : `${path}.${key}`, into);
  } else if (value !== undefined) into.set(path, JSON.stringify(value));
  return into;
}
