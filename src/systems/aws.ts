import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { fromTemporaryCredentials } from '@aws-sdk/credential-providers';
import type { CloudFrontClient } from '@aws-sdk/client-cloudfront';
import type { CloudWatchClient } from '@aws-sdk/client-cloudwatch';
import type { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import type { DynamoDBStreamsClient } from '@aws-sdk/client-dynamodb-streams';
import type { EC2Client } from '@aws-sdk/client-ec2';
import type { RDSClient } from '@aws-sdk/client-rds';
import type { Route53Client } from '@aws-sdk/client-route-53';
import type { S3Client } from '@aws-sdk/client-s3';
import type { SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import type { SQSClient } from '@aws-sdk/client-sqs';
import type { SSMClient } from '@aws-sdk/client-ssm';
import type { Config, S3StoreConfig } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { awsFailure, isDenied } from './aws-failure.ts';
import type { SecretResolver } from './secrets.ts';

interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

interface ClientSettings {
  readonly region: string;
  readonly endpoint?: string;
  readonly credentials?: Credentials | ReturnType<typeof fromTemporaryCredentials>;
  readonly retryMode: 'adaptive';
  readonly maxAttempts: number;
  readonly requestHandler: NodeHttpHandler;
}

/** Where a bucket is, of a store or a datastore. */
export type S3Place = Pick<S3StoreConfig, 'region' | 'endpoint' | 'credentials' | 'assumeRole' | 'forcePathStyle'>;

/** Where tables are: of a datastore, a drill or the other end of a copy. What is left out is that of the configuration. */
export interface DynamoPlace {
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
  readonly credentials?: Config['aws']['credentials'];
  readonly assumeRole?: S3StoreConfig['assumeRole'];
}

/** How long one try of a request may take until its answer begins. Four tries, with growing pauses between them. */
export interface AwsLimits {
  readonly connectMs: number;
  /** A call of an API: a guard has 45 s, so a second try must fit in. */
  readonly callMs: number;
  /** S3, where a listing or a copy within the store takes its time. Parts of an upload and copies get more by their size. */
  readonly storeMs: number;
}

const LIMITS: AwsLimits = { connectMs: 5000, callMs: 12_000, storeMs: 60_000 };

/** Clients by service, made once, SDKs loaded on first use. */
export interface AwsClients {
  /** Those with a Region: without one it is that of the configuration. */
  secretsManager(region?: string): Promise<SecretsManagerClient>;
  rds(region?: string): Promise<RDSClient>;
  cloudWatch(region?: string): Promise<CloudWatchClient>;
  sqs(region?: string): Promise<SQSClient>;
  ssm(region?: string): Promise<SSMClient>;
  ec2(region?: string): Promise<EC2Client>;
  route53(): Promise<Route53Client>;
  cloudFront(): Promise<CloudFrontClient>;
  s3(store: S3Place): Promise<S3Client>;
  /** Tables and their settings. */
  dynamo(place: DynamoPlace): Promise<DynamoDBClient>;
  /** Items, as they stand on the wire (see dynamodb-wire.ts). It tries once: whoever calls it counts capacity, and so must see each try. */
  dynamoItems(place: DynamoPlace): Promise<DynamoDBClient>;
  /** Records as they stand on the wire; it tries once, since those who read a stream retry themselves. */
  dynamoStreams(place: DynamoPlace): Promise<DynamoDBStreamsClient>;
  close(): void;
}

/**
 * @param resolve resolves references to static credentials; these may only be `env:` or `file:`, since `aws-sm:` needs them first.
 */
export function createAwsClients(aws: Config['aws'], resolve: SecretResolver, limits: AwsLimits = LIMITS): AwsClients {
  const made = new Map<string, Promise<{ destroy(): void }>>();

  async function settings(overrides: DynamoPlace & { readonly requestMs?: number } = {}): Promise<ClientSettings> {
    const references = overrides.credentials ?? aws.credentials;
    const endpoint = overrides.endpoint ?? aws.endpoint;
    const region = overrides.region ?? aws.region;
    const own = references === undefined ? undefined : await credentialsOf(references, resolve);
    const credentials = overrides.assumeRole === undefined ? own : await assumed(overrides.assumeRole, region, own);
    return {
      region,
      ...(endpoint === undefined ? {} : { endpoint }),
      ...(credentials === undefined ? {} : { credentials }),
      retryMode: 'adaptive',
      maxAttempts: 4,
      requestHandler: new NodeHttpHandler({ connectionTimeout: limits.connectMs, requestTimeout: overrides.requestMs ?? limits.callMs, throwOnRequestTimeout: true }),
    };
  }
  /** Of an hour each, renewed as they run out: a copy may take days. STS is asked in the same Region, so that a lost one is not needed for another. */
  async function assumed({ arn, externalId }: NonNullable<DynamoPlace['assumeRole']>, region: string, own: Credentials | undefined): Promise<ReturnType<typeof fromTemporaryCredentials>> {
    const providers = await import('@aws-sdk/credential-providers');
    const ask = providers.fromTemporaryCredentials({
      params: { RoleArn: arn, RoleSessionName: 'holdfast', DurationSeconds: 3600, ...(externalId === undefined ? {} : { ExternalId: externalId }) },
      ...(own === undefined ? {} : { masterCredentials: own }),
      clientConfig: { region, maxAttempts: 4, requestHandler: new NodeHttpHandler({ connectionTimeout: limits.connectMs, requestTimeout: limits.callMs, throwOnRequestTimeout: true }), ...(aws.endpoint === undefined ? {} : { endpoint: aws.endpoint }) },
    });
    return (client) => ask(client).catch((error: unknown) => {
      const failed = awsFailure('role-not-assumed', 'sts:AssumeRole', arn, error);
      throw isDenied(error) ? new HoldfastError(failed.code, failed.message, { next: `allow sts:AssumeRole on ${arn} to whoever the worker is, and have the trust policy of the role name it`, cause: error }) : failed;
    });
  }
  function once<T extends { destroy(): void }>(key: string, make: () => Promise<T>): Promise<T> {
    let client = made.get(key) as Promise<T> | undefined;
    if (client === undefined) {
      client = make();
      made.set(key, client);
      client.catch(() => made.delete(key));
    }
    return client;
  }

  return {
    secretsManager: (region) => once(`secretsmanager ${region ?? ''}`, async () => new (await import('@aws-sdk/client-secrets-manager')).SecretsManagerClient(await settings({ region }))),
    rds: (region) => once(`rds ${region ?? ''}`, async () => new (await import('@aws-sdk/client-rds')).RDSClient(await settings({ region }))),
    cloudWatch: (region) => once(`cloudwatch ${region ?? ''}`, async () => new (await import('@aws-sdk/client-cloudwatch')).CloudWatchClient(await settings({ region }))),
    sqs: (region) => once(`sqs ${region ?? ''}`, async () => new (await import('@aws-sdk/client-sqs')).SQSClient(await settings({ region }))),
    ssm: (region) => once(`ssm ${region ?? ''}`, async () => new (await import('@aws-sdk/client-ssm')).SSMClient(await settings({ region }))),
    ec2: (region) => once(`ec2 ${region ?? ''}`, async () => new (await import('@aws-sdk/client-ec2')).EC2Client(await settings({ region }))),
    cloudFront: () => once('cloudfront', async () => new (await import('@aws-sdk/client-cloudfront')).CloudFrontClient(await settings())),
    route53: () => once('route53', async () => new (await import('@aws-sdk/client-route-53')).Route53Client(await settings())),
    s3: (store) =>
      once(`s3 ${JSON.stringify([store.region, store.endpoint, store.credentials, store.assumeRole, store.forcePathStyle])}`, async () => {
        const { S3Client } = await import('@aws-sdk/client-s3');
        return new S3Client({
          ...(await settings({ region: store.region, endpoint: store.endpoint, credentials: store.credentials, assumeRole: store.assumeRole, requestMs: limits.storeMs })),
          forcePathStyle: store.forcePathStyle,
        });
      }),
    dynamo: (place) => once(`dynamodb ${placeKey(place)}`, async () => new (await import('@aws-sdk/client-dynamodb')).DynamoDBClient(await settings(place))),
    dynamoItems: (place) => once(`dynamodb items ${placeKey(place)}`, async () => (await import('./dynamodb-wire.ts')).createWireClient({ ...(await settings(place)), maxAttempts: 1 })),
    dynamoStreams: (place) => once(`dynamodb streams ${placeKey(place)}`, async () => (await import('./dynamodb-wire.ts')).onWire(new (await import('@aws-sdk/client-dynamodb-streams')).DynamoDBStreamsClient({ ...(await settings(place)), maxAttempts: 1 }))),
    close() {
      for (const client of made.values()) void client.then((made) => made.destroy()).catch(() => {});
      made.clear();
    },
  };
}

function placeKey({ region, endpoint, credentials, assumeRole }: DynamoPlace): string {
  return JSON.stringify([region ?? '', endpoint ?? '', credentials ?? null, assumeRole ?? null]);
}

async function credentialsOf(references: NonNullable<Config['aws']['credentials']>, resolve: SecretResolver): Promise<Credentials> {
  for (const reference of Object.values(references)) {
    if (reference?.startsWith('aws-sm:')) {
      throw new HoldfastError('secret-reference', 'AWS credentials cannot themselves come from Secrets Manager', { next: 'use env: or file: references under credentials' });
    }
  }
  return {
    accessKeyId: await resolve.resolve(references.accessKeyId),
    secretAccessKey: await resolve.resolve(references.secretAccessKey),
    ...(references.sessionToken === undefined ? {} : { sessionToken: await resolve.resolve(references.sessionToken) }),
  };
}

/** Reads a secret's current string. @throws HoldfastError when it is missing or binary. */
export async function readManagedSecret(clients: AwsClients, id: string, region?: string): Promise<string> {
  const { GetSecretValueCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await clients.secretsManager(region);
  try {
    const answer = await client.send(new GetSecretValueCommand({ SecretId: id, VersionStage: 'AWSCURRENT' }));
    if (answer.SecretString === undefined) throw new HoldfastError('secret-shape', `secret ${id} has no text value`, { next: 'store it as text' });
    return answer.SecretString;
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    const name = (error as Error).name;
    throw new HoldfastError('secret-unreadable', `secret ${id} cannot be read from Secrets Manager: ${name}: ${(error as Error).message}`, {
      next: name === 'ResourceNotFoundException' ? `create the secret ${id} or correct the reference` : 'check that the worker may call secretsmanager:GetSecretValue and reaches the endpoint',
      retryable: name !== 'ResourceNotFoundException' && name !== 'AccessDeniedException',
      cause: error,
    });
  }
}
