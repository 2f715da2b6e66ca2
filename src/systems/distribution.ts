import type { CacheBehavior, DefaultCacheBehavior, DistributionConfig } from '@aws-sdk/client-cloudfront';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, errorName, probeAnswer } from './aws-failure.ts';
import type { Context } from './context.ts';

/** What is read of a distribution, and by which tag it may be replaced. */
export interface DistributionSeen {
  readonly id: string;
  readonly etag: string;
  readonly config: DistributionConfig;
  readonly status: string;
  readonly domainName: string;
}

export async function readDistribution(context: Context, id: string): Promise<DistributionSeen> {
  const { GetDistributionCommand } = await import('@aws-sdk/client-cloudfront');
  const client = await context.aws.cloudFront();
  try {
    const answer = await client.send(new GetDistributionCommand({ Id: id }));
    const distribution = answer.Distribution!;
    return { id, etag: answer.ETag!, config: distribution.DistributionConfig!, status: distribution.Status!, domainName: distribution.DomainName! };
  } catch (error) {
    throw awsFailure('cdn-call', 'cloudfront:GetDistribution', id, error, errorName(error) === 'NoSuchDistribution' ? 'correct distributionId' : undefined);
  }
}

/** The name of the behaviour that takes whatever no path pattern takes. */
export const DEFAULT_BEHAVIOR = 'default';

/** Where each cache behaviour gets its objects, by path pattern. */
export function behaviorTargets(config: DistributionConfig): Readonly<Record<string, string>> {
  return { [DEFAULT_BEHAVIOR]: config.DefaultCacheBehavior?.TargetOriginId ?? '', ...Object.fromEntries((config.CacheBehaviors?.Items ?? []).map((behavior) => [behavior.PathPattern ?? '', behavior.TargetOriginId ?? ''])) };
}

/** Members of an origin group, the one tried first at the head; null: there is no such group. */
export function groupMembers(config: DistributionConfig, group: string): readonly string[] | null {
  const found = (config.OriginGroups?.Items ?? []).find((one) => one.Id === group);
  return found === undefined ? null : (found.Members?.Items ?? []).map((member) => member.OriginId ?? '');
}

/** Origins and origin groups: both may be the target of a behaviour. */
export function targetIds(config: DistributionConfig): readonly string[] {
  return [...(config.Origins?.Items ?? []).map((origin) => origin.Id ?? ''), ...(config.OriginGroups?.Items ?? []).map((group) => group.Id ?? '')];
}

/** The whole configuration with other targets: an update replaces it as a whole, so everything else is carried over. */
export function withTargets(config: DistributionConfig, targets: Readonly<Record<string, string>>): DistributionConfig {
  const retarget = <T extends DefaultCacheBehavior | CacheBehavior>(behavior: T, name: string): T => (targets[name] === undefined ? behavior : { ...behavior, TargetOriginId: targets[name] });
  return {
    ...config,
    DefaultCacheBehavior: retarget(config.DefaultCacheBehavior!, DEFAULT_BEHAVIOR),
    ...(config.CacheBehaviors?.Items === undefined ? {} : { CacheBehaviors: { ...config.CacheBehaviors, Items: config.CacheBehaviors.Items.map((behavior) => retarget(behavior, behavior.PathPattern ?? '')) } }),
  };
}

export function withMembers(config: DistributionConfig, group: string, order: readonly string[]): DistributionConfig {
  return {
    ...config,
    OriginGroups: { ...config.OriginGroups!, Items: config.OriginGroups!.Items!.map((one) => (one.Id === group ? { ...one, Members: { Quantity: order.length, Items: order.map((origin) => ({ OriginId: origin })) } } : one)) },
  };
}

/** Replaces the configuration only if it still is the one that `etag` names. @returns its new tag; null when it is not. */
export async function updateDistribution(context: Context, id: string, etag: string, config: DistributionConfig): Promise<string | null> {
  const { UpdateDistributionCommand } = await import('@aws-sdk/client-cloudfront');
  const client = await context.aws.cloudFront();
  try {
    return (await client.send(new UpdateDistributionCommand({ Id: id, IfMatch: etag, DistributionConfig: config }))).ETag ?? '';
  } catch (error) {
    if (/PreconditionFailed|InvalidIfMatchVersion/.test(errorName(error))) return null;
    throw awsFailure('cdn-call', 'cloudfront:UpdateDistribution', id, error);
  }
}

/** May we change it? Asked by writing what is there already under a tag that it does not have. */
export async function mayUpdateDistribution(context: Context, seen: DistributionSeen): Promise<{ allowed: boolean; found: string }> {
  const { UpdateDistributionCommand } = await import('@aws-sdk/client-cloudfront');
  const client = await context.aws.cloudFront();
  try {
    await client.send(new UpdateDistributionCommand({ Id: seen.id, IfMatch: `${seen.etag}-NOT`, DistributionConfig: seen.config }));
    return { allowed: true, found: 'allowed' };
  } catch (error) {
    return probeAnswer('cloudfront:UpdateDistribution', seen.id, error);
  }
}

/** The same reference gives the same invalidation again. @returns its id */
export async function invalidate(context: Context, id: string, paths: readonly string[], reference: string): Promise<string> {
  const { CreateInvalidationCommand } = await import('@aws-sdk/client-cloudfront');
  const client = await context.aws.cloudFront();
  try {
    const answer = await client.send(new CreateInvalidationCommand({ DistributionId: id, InvalidationBatch: { CallerReference: reference, Paths: { Quantity: paths.length, Items: [...paths] } } }));
    return answer.Invalidation!.Id!;
  } catch (error) {
    throw awsFailure('cdn-call', 'cloudfront:CreateInvalidation', id, error);
  }
}

export async function invalidationStatus(context: Context, id: string, invalidation: string): Promise<string> {
  const { GetInvalidationCommand } = await import('@aws-sdk/client-cloudfront');
  const client = await context.aws.cloudFront();
  const answer = await client.send(new GetInvalidationCommand({ DistributionId: id, Id: invalidation })).catch((error: unknown) => {
    throw awsFailure('cdn-call', 'cloudfront:GetInvalidation', `${id}/${invalidation}`, error);
  });
  const status = answer.Invalidation?.Status;
  if (status === undefined) throw new HoldfastError('cdn-call', `cloudfront:GetInvalidation on ${id}/${invalidation} gave no status`, { retryable: true });
  return status;
}
