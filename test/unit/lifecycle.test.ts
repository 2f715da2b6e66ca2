import { describe, expect, it } from 'vitest';
import { lifecycleProblems, lifecycleRuleSchema, type LifecycleRuleConfig } from '../../src/model/config-s3.ts';
import { describeRule, documentDifferences, planLifecycle, sameDocument, undoLifecycle, wantedRule, type LifecycleDocument, type LifecycleRule } from '../../src/model/lifecycle.ts';

const rule = (given: Record<string, unknown>): LifecycleRuleConfig => lifecycleRuleSchema.parse(given);
const foreign: LifecycleRule = { ID: 'theirs', Status: 'Enabled', Filter: { And: { Prefix: 'logs/', Tags: [{ Key: 'a', Value: 'b' }] } }, Expiration: { Date: '2030-01-01T00:00:00.000Z' }, Transitions: [{ Date: '2029-01-01T00:00:00.000Z', StorageClass: 'GLACIER' }] };

describe('lifecycle rules', () => {
  it('become what the API takes', () => {
    expect(wantedRule('files', 'shop/', rule({ id: 'tmp', prefix: 'tmp/', expireAfterDays: 7, transitions: [{ afterDays: 3, to: 'GLACIER_IR' }], noncurrent: { expireAfterDays: 30, keepNewest: 2, transitions: [{ afterDays: 10, to: 'GLACIER' }] }, abortUploadsAfterDays: 2 }))).toEqual({
      ID: 'holdfast-files.tmp', Status: 'Enabled', Filter: { Prefix: 'shop/tmp/' }, Expiration: { Days: 7 }, Transitions: [{ Days: 3, StorageClass: 'GLACIER_IR' }],
      NoncurrentVersionTransitions: [{ NoncurrentDays: 10, StorageClass: 'GLACIER' }], NoncurrentVersionExpiration: { NoncurrentDays: 30, NewerNoncurrentVersions: 2 }, AbortIncompleteMultipartUpload: { DaysAfterInitiation: 2 },
    });
    expect(wantedRule('files', '', rule({ id: 'a', tags: { x: 'y' }, expireAfterDays: 1 })).Filter).toEqual({ Tag: { Key: 'x', Value: 'y' } });
    expect(wantedRule('files', 'p/', rule({ id: 'a', tags: { x: 'y' }, largerThan: '1MB', expireAfterDays: 1 })).Filter).toEqual({ And: { Prefix: 'p/', Tags: [{ Key: 'x', Value: 'y' }], ObjectSizeGreaterThan: 1_000_000 } });
    expect(wantedRule('files', '', rule({ id: 'a', largerThan: '1MB', expireAfterDays: 1 })).Filter).toEqual({ ObjectSizeGreaterThan: 1_000_000 });
    expect(wantedRule('files', '', rule({ id: 'a', removeLoneDeleteMarkers: true })).Expiration).toEqual({ ExpiredObjectDeleteMarker: true });
  });

  it('of others, of other datastores too, are carried over untouched and in their order', () => {
    const others: LifecycleRule[] = [foreign, { ID: 'holdfast-files-2.tmp', Status: 'Disabled', Filter: { Prefix: '' }, Expiration: { Days: 1 } }, { Status: 'Enabled', Filter: {}, AbortIncompleteMultipartUpload: { DaysAfterInitiation: 1 } }];
    const current: LifecycleDocument = { minimumSize: 'varies_by_storage_class', rules: [others[0]!, { ID: 'holdfast-files.old', Status: 'Enabled', Filter: { Prefix: 'x' }, Expiration: { Days: 1 } }, ...others.slice(1), { ID: 'holdfast-files.tmp', Status: 'Enabled', Filter: { Prefix: 'tmp/' }, Expiration: { Days: 3 } }] };
    const before = structuredClone(current);
    const plan = planLifecycle('files', current, [wantedRule('files', '', rule({ id: 'tmp', prefix: 'tmp/', expireAfterDays: 7 })), wantedRule('files', '', rule({ id: 'new', expireAfterDays: 9 }))]);
    expect(plan.changes.map(({ id, action }) => [id, action])).toEqual([['holdfast-files.tmp', 'change'], ['holdfast-files.new', 'add'], ['holdfast-files.old', 'remove']]);
    expect(plan.wanted.rules.slice(0, 3)).toEqual(others);
    expect(plan.wanted.minimumSize).toBe('varies_by_storage_class');
    expect(plan.foreign).toEqual(['theirs', 'holdfast-files-2.tmp', '(no id) every object: uploads that never ended go after 1 d']);
    // What was changed by others meanwhile stays when ours goes back.
    const meanwhile = { ...plan.wanted, rules: [...plan.wanted.rules, { ...foreign, ID: 'newer' }] };
    expect(undoLifecycle('files', meanwhile, before).rules.map(({ ID }) => ID)).toEqual(['theirs', 'holdfast-files-2.tmp', undefined, 'newer', 'holdfast-files.old', 'holdfast-files.tmp']);
    expect(sameDocument(undoLifecycle('files', { ...plan.wanted, rules: plan.wanted.rules.filter(({ ID }) => ID !== undefined) }, { ...before, rules: before.rules.filter(({ ID }) => ID !== undefined) }), { ...before, rules: before.rules.filter(({ ID }) => ID !== undefined) })).toBe(true);
  });

  it('are the same however the store writes them', () => {
    const mine = wantedRule('files', '', rule({ id: 'a', expireAfterDays: 7 }));
    for (const Filter of [{}, { Prefix: '' }, { And: { Prefix: '' } }]) expect(planLifecycle('files', { rules: [{ ...mine, Filter }] }, [mine]).differs).toBe(false);
    expect(planLifecycle('files', { rules: [{ ...mine, Filter: { Prefix: 'x' } }] }, [mine]).differs).toBe(true);
    expect(planLifecycle('files', { rules: [{ ...mine, Status: 'Disabled' }] }, [mine]).differs).toBe(true);
  });

  it('take the old form where others have it, and refuse what it cannot say', () => {
    const old: LifecycleRule = { ID: 'old', Status: 'Enabled', Prefix: 'logs/', Expiration: { Days: 3 } };
    const plan = planLifecycle('files', { rules: [old] }, [wantedRule('files', 'p/', rule({ id: 'a', expireAfterDays: 7 }))]);
    expect(plan.wanted.rules).toEqual([old, { ID: 'holdfast-files.a', Status: 'Enabled', Prefix: 'p/', Expiration: { Days: 7 } }]);
    expect(() => planLifecycle('files', { rules: [old] }, [wantedRule('files', '', rule({ id: 'a', tags: { x: 'y' }, expireAfterDays: 7 }))])).toThrow('in the old form');
    expect(() => planLifecycle('files', { rules: [old] }, [wantedRule('files', '', rule({ id: 'a', noncurrent: { expireAfterDays: 7, keepNewest: 1 } }))])).toThrow('in the old form');
  });

  it('say how they differ and what they do', () => {
    const mine = wantedRule('files', '', rule({ id: 'a', expireAfterDays: 7 }));
    expect(documentDifferences({ rules: [mine, foreign] }, { rules: [{ ...mine, Expiration: { Days: 8 } }] })).toEqual(['holdfast-files.a: Expiration.Days: 7 -> 8', 'theirs is not there']);
    expect(documentDifferences({ rules: [], minimumSize: 'a' }, { rules: [mine], minimumSize: 'b' })).toEqual(['holdfast-files.a is there and was not expected', 'the default minimum size is b instead of a']);
    expect(describeRule(foreign)).toBe('logs/*, tagged a=b: to GLACIER on 2029-01-01T00:00:00.000Z; expire on 2030-01-01T00:00:00.000Z');
  });

  it('that S3 would refuse are refused before, and a store never loses backups by age', () => {
    const of = (given: Record<string, unknown>[], kind: 'store' | 'datastore' = 'datastore'): string[] => lifecycleProblems(given.map((item, index) => rule({ id: `r${index}`, ...item })), kind).map(({ index, key }) => `${index} ${key}`);
    expect(of([{}])).toEqual(['0 id']);
    expect(of([{ id: 'a', expireAfterDays: 1 }, { id: 'a', expireAfterDays: 1 }])).toEqual(['1 id']);
    expect(of([{ expireAfterDays: 1, removeLoneDeleteMarkers: true }])).toEqual(['0 removeLoneDeleteMarkers']);
    expect(of([{ expireAfterDays: 30 }], 'store')).toEqual(['0 expireAfterDays']);
    expect(of([{ noncurrent: { expireAfterDays: 30 } }], 'store')).toEqual([]);
    expect(of([{ tags: { a: 'b' }, abortUploadsAfterDays: 1 }])).toEqual(['0 abortUploadsAfterDays']);
    expect(of([{ transitions: [{ afterDays: 10, to: 'STANDARD_IA' }] }])).toEqual(['0 transitions']);
    expect(of([{ expireAfterDays: 5, transitions: [{ afterDays: 5, to: 'GLACIER' }] }])).toEqual(['0 transitions']);
    expect(of([{ transitions: [{ afterDays: 60, to: 'GLACIER' }, { afterDays: 30, to: 'DEEP_ARCHIVE' }] }])).toEqual(['0 transitions']);
    expect(of([{ noncurrent: { keepNewest: 2, transitions: [{ afterDays: 1, to: 'GLACIER' }] } }])).toEqual(['0 noncurrent']);
  });
});
