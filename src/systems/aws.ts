import { NodeHttpHandler } from '@smithy/node-http-handler';
import type { SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import type { Route53Client } from '@aws-sdk/client-route-53';
import type { S3Client } from '@aws-sdk/client-s3';
import type { Config, S3StoreConfig } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import type { SecretResolver } from './secrets.ts';

interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

interface ClientSettings {
  readonly region: string;
  readonly endpoint?: string;
  readonly credentials?: Credentials;
  readonly retryMode: 'adaptive';
  readonly maxAttempts: number;
  readonly requestHandler: NodeHttpHandler;
}

/** Clients by service, made once, SDKs loaded on first use. */
export interface AwsClients {
  secretsManager(): Promise<SecretsManagerClient>;
  route53(): Promise<Route53Client>;
  s3(store: S3StoreConfig): Promise<S3Client>;
  close(): void;
}

/**
 * @param resolve resolves references to static credentials; these may only be `env:` or `file:`, since `aws-sm:` needs them first.
 */
export function createAwsClients(aws: Config['aws'], resolve: SecretResolver): AwsClients {
  const made = new Map<string, Promise<{ destroy(): void }>>();

  async function settings(overrides: { region?: string; endpoint?: string; credentials?: Config['aws']['credentials'] } = {}): Promise<ClientSettings> {
    const references = overrides.credentials ?? aws.credentials;
    const endpoint = overrides.endpoint ?? aws.endpoint;
    return {
      region: overrides.region ?? aws.region,
      ...(endpoint === undefined ? {} : { endpoint }),
      ...(references === undefined ? {} : { credentials: await credentialsOf(references, resolve) }),
      retryMode: 'adaptive',
      maxAttempts: 4,
      requestHandler: new NodeHttpHandler({ connectionTimeout: 5000, requestTimeout: 60_000, throwOnRequestTimeout: true }),
    };
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
    secretsManager: () =>
      once('secretsmanager', async () => new (await import('@aws-sdk/client-secrets-manager')).SecretsManagerClient(await settings())),
    route53: () => once('route53', async () => new (await import('@aws-sdk/client-route-53')).Route53Client(await settings())),
    s3: (store) =>
      once(`s3 ${JSON.stringify(store)}`, async () => {
        const { S3Client } = await import('@aws-sdk/client-s3');
        return new S3Client({
          ...(await settings({ region: store.region, endpoint: store.endpoint, credentials: store.credentials })),
          forcePathStyle: store.forcePathStyle,
        });
      }),
    close() {
      for (const client of made.values()) void client.then((made) => made.destroy()).catch(() => {});
      made.clear();
    },
  };
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
export async function readManagedSecret(clients: AwsClients, id: string): Promise<string> {
  const { GetSecretValueCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await clients.secretsManager();
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
