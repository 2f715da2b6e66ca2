import type { DescribeSecretCommandOutput } from '@aws-sdk/client-secrets-manager';
import { awsFailure, errorName } from './aws-failure.ts';
import type { Context } from './context.ts';

/** A secret as one Region holds it; never its value. */
export interface SecretSeen {
  readonly arn: string;
  /** Region of the secret that this one is a replica of; null: it is no replica. */
  readonly replicaOf: string | null;
  /** Version id that is current. */
  readonly current: string | null;
  readonly replicas: readonly { readonly region: string; readonly status: string; readonly message: string }[];
}

/** @returns null when there is none in that Region. */
export async function describeSecret(context: Context, secretId: string, region: string | undefined): Promise<SecretSeen | null> {
  const { DescribeSecretCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(region);
  let answer: DescribeSecretCommandOutput;
  try {
    answer = await client.send(new DescribeSecretCommand({ SecretId: secretId }));
  } catch (error) {
    if (errorName(error) === 'ResourceNotFoundException') return null;
    throw awsFailure('secret-call', 'secretsmanager:DescribeSecret', `${secretId} in ${region ?? 'the Region of the configuration'}`, error);
  }
  const own = answer.ARN?.split(':')[3] ?? region ?? '';
  return {
    arn: answer.ARN ?? secretId,
    replicaOf: answer.PrimaryRegion === undefined || answer.PrimaryRegion === own ? null : answer.PrimaryRegion,
    current: Object.entries(answer.VersionIdsToStages ?? {}).find(([, stages]) => stages.includes('AWSCURRENT'))?.[0] ?? null,
    replicas: (answer.ReplicationStatus ?? []).map((one) => ({ region: one.Region ?? '', status: String(one.Status ?? ''), message: one.StatusMessage ?? '' })),
  };
}

export async function replicateSecret(context: Context, secretId: string, from: string | undefined, to: { readonly region: string; readonly kmsKeyId: string | undefined }): Promise<void> {
  const { ReplicateSecretToRegionsCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(from);
  try {
    // Never over what somebody else keeps there under the same name.
    await client.send(new ReplicateSecretToRegionsCommand({ SecretId: secretId, AddReplicaRegions: [{ Region: to.region, ...(to.kmsKeyId === undefined ? {} : { KmsKeyId: to.kmsKeyId }) }], ForceOverwriteReplicaSecret: false }));
  } catch (error) {
    throw awsFailure('secret-call', 'secretsmanager:ReplicateSecretToRegions', secretId, error);
  }
}

export async function removeReplica(context: Context, secretId: string, from: string | undefined, region: string): Promise<void> {
  const { RemoveRegionsFromReplicationCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(from);
  try {
    await client.send(new RemoveRegionsFromReplicationCommand({ SecretId: secretId, RemoveReplicaRegions: [region] }));
  } catch (error) {
    throw awsFailure('secret-call', 'secretsmanager:RemoveRegionsFromReplication', secretId, error);
  }
}

/** Makes the replica a secret of its own. Asked in its own Region: that of the original may be lost. */
export async function promoteReplica(context: Context, secretId: string, region: string): Promise<string> {
  const { StopReplicationToReplicaCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(region);
  try {
    return (await client.send(new StopReplicationToReplicaCommand({ SecretId: secretId }))).ARN ?? secretId;
  } catch (error) {
    throw awsFailure('secret-call', 'secretsmanager:StopReplicationToReplica', `${secretId} in ${region}`, error);
  }
}
