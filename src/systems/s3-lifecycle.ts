import type { BucketLifecycleConfiguration, TransitionDefaultMinimumObjectSize } from '@aws-sdk/client-s3';
import type { LifecycleRuleConfig } from '../model/config-s3.ts';
import { HoldfastError } from '../model/errors.ts';
import { documentDifferences, planLifecycle, sameDocument, wantedRule, type LifecycleDocument, type LifecyclePlan, type LifecycleRule } from '../model/lifecycle.ts';
import { isUnsupported, bucketError, s3Call, whereOf, type Bucket } from './s3-bucket.ts';

/** The bucket's document; without one it has no rules. @throws HoldfastError `lifecycle-unsupported` for a store without lifecycles. */
export async function readLifecycle(place: Bucket): Promise<LifecycleDocument> {
  const { GetBucketLifecycleConfigurationCommand } = await import('@aws-sdk/client-s3');
  try {
    const found = await place.client.send(new GetBucketLifecycleConfigurationCommand({ Bucket: place.bucket }));
    // Dates as text: what is kept in a history is JSON.
    const rules = JSON.parse(JSON.stringify(found.Rules ?? [])) as LifecycleRule[];
    return { rules, ...(found.TransitionDefaultMinimumObjectSize === undefined ? {} : { minimumSize: found.TransitionDefaultMinimumObjectSize }) };
  } catch (error) {
    if ((error as Error).name === 'NoSuchLifecycleConfiguration') return { rules: [] };
    if (isUnsupported(error)) throw new HoldfastError('lifecycle-unsupported', `lifecycle rules are not supported by the store of ${whereOf(place, '')}${place.endpoint === undefined ? '' : ` at ${place.endpoint}`}`, { next: "use the store's own means to expire objects, and remove `lifecycle` from the configuration", cause: error });
    throw bucketError(place, 's3:GetLifecycleConfiguration', '', error);
  }
}

export function lifecyclePlanOf(place: Bucket, rules: readonly LifecycleRuleConfig[], current: LifecycleDocument): LifecyclePlan {
  return planLifecycle(place.name, current, rules.map((rule) => wantedRule(place.name, place.prefix, rule)));
}

/**
 * Replaces the bucket's document, when it still is what the change was planned from. S3 has no compare-and-set here: a change by
 * somebody else between our last look and the replacement is lost, in well under a second; one after it is found by reading again.
 */
export async function replaceLifecycle(place: Bucket, expected: LifecycleDocument, wanted: LifecycleDocument): Promise<void> {
  const before = await readLifecycle(place);
  if (!sameDocument(before, expected)) {
    throw new HoldfastError('lifecycle-contended', `the lifecycle rules of ${whereOf(place, '')} were changed by somebody else while ours were planned: ${documentDifferences(expected, before).slice(0, 5).join('; ')}`, { retryable: true, next: 'look at the difference again, then retry' });
  }
  if (wanted.rules.length === 0) {
    const { DeleteBucketLifecycleCommand } = await import('@aws-sdk/client-s3');
    await s3Call(place, 's3:PutLifecycleConfiguration', '', () => place.client.send(new DeleteBucketLifecycleCommand({ Bucket: place.bucket })));
  } else {
    const { PutBucketLifecycleConfigurationCommand } = await import('@aws-sdk/client-s3');
    await s3Call(place, 's3:PutLifecycleConfiguration', '', () =>
      place.client.send(
        new PutBucketLifecycleConfigurationCommand({
          Bucket: place.bucket,
          LifecycleConfiguration: { Rules: wanted.rules.map(withDates) },
          // Left out it would be set back to its default.
          ...(wanted.minimumSize === undefined ? {} : { TransitionDefaultMinimumObjectSize: wanted.minimumSize as TransitionDefaultMinimumObjectSize }),
        }),
      ),
    );
  }
}

/** How the bucket's document differs from what was put, in words. */
export async function lifecycleDrift(place: Bucket, wanted: LifecycleDocument): Promise<string[]> {
  return documentDifferences(wanted, await readLifecycle(place));
}

type SdkRule = NonNullable<BucketLifecycleConfiguration['Rules']>[number];

/** Dates of the rules of others, as the SDK wants them. */
function withDates(rule: LifecycleRule): SdkRule {
  const dated = <T extends { readonly Date?: string }>(item: T): Omit<T, 'Date'> & { Date?: Date } => {
    const { Date: date, ...rest } = item;
    return { ...rest, ...(date === undefined ? {} : { Date: new Date(date) }) };
  };
  return { ...rule, ...(rule.Expiration === undefined ? {} : { Expiration: dated(rule.Expiration) }), ...(rule.Transitions === undefined ? {} : { Transitions: rule.Transitions.map(dated) }) } as SdkRule;
}
