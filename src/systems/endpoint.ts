import { createHash } from 'node:crypto';
import type { SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import { HoldfastError } from '../model/errors.ts';
import type { Context } from './context.ts';
import { readManagedSecret } from './aws.ts';
import { registerSecret } from './log.ts';

/** The application's connection as its secret says: the standard JSON of a database secret. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

const CURRENT = 'AWSCURRENT';
/** Our own stage label: the version that a swap makes current. */
export const STAGED_LABEL = 'HOLDFAST-STAGED';

/** @throws HoldfastError when the secret is missing or lacks a field; never shows its content. */
export async function readEndpoint(context: Context, secretId: string, region?: string): Promise<Endpoint> {
  return parseEndpoint(secretId, await readManagedSecret(context.aws, secretId, region));
}

function parseEndpoint(secretId: string, text: string): Endpoint {
  const fields = parseSecret(secretId, text);
  const host = fields['host'];
  const port = Number(fields['port'] ?? 5432);
  const user = fields['username'];
  const password = fields['password'];
  const database = fields['dbname'] ?? fields['database'];
  if (typeof password === 'string') registerSecret(password);
  if (typeof host !== 'string' || typeof user !== 'string' || typeof password !== 'string' || typeof database !== 'string' || !Number.isInteger(port)) {
    const has = Object.keys(fields).join(', ');
    throw new HoldfastError('secret-shape', `secret ${secretId} is no database secret: it has the fields ${has || '(none)'}`, { next: 'it needs host, port, username, password and dbname' });
  }
  return { host, port, user, password, database };
}

function parseSecret(secretId: string, text: string): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(text);
    if (parsed !== null && typeof parsed === 'object' && !Array.isArray(parsed)) return parsed as Record<string, unknown>;
  } catch {
    // Said below, without the content.
  }
  registerSecret(text);
  throw new HoldfastError('secret-shape', `secret ${secretId} is not a JSON object`, { next: 'store it as JSON with host, port, username, password and dbname' });
}

export interface SecretVersions {
  readonly current: string;
  /** Versions that carry our label. */
  readonly staged: readonly string[];
  /** Where the current version points. */
  readonly currentHost: string;
  readonly currentPort: number;
}

export async function secretVersions(context: Context, secretId: string, region?: string): Promise<SecretVersions> {
  const { GetSecretValueCommand, DescribeSecretCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(region);
  const value = await call(secretId, 'secretsmanager:GetSecretValue', () => client.send(new GetSecretValueCommand({ SecretId: secretId, VersionStage: CURRENT })));
  const endpoint = parseEndpoint(secretId, value.SecretString ?? '');
  const described = await call(secretId, 'secretsmanager:DescribeSecret', () => client.send(new DescribeSecretCommand({ SecretId: secretId })));
  const staged = Object.entries(described.VersionIdsToStages ?? {}).filter(([, stages]) => stages.includes(STAGED_LABEL)).map(([version]) => version);
  return { current: value.VersionId!, staged, currentHost: endpoint.host, currentPort: endpoint.port };
}

/**
 * A new version of the secret with another host and port, labelled but not current. Idempotent under `key`: the
 * version id is derived from it. @returns the version id
 */
export async function stageEndpoint(context: Context, secretId: string, address: { host: string; port: number }, key: string, region?: string): Promise<{ staged: string; basedOn: string }> {
  const { GetSecretValueCommand, PutSecretValueCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(region);
  const value = await call(secretId, 'secretsmanager:GetSecretValue', () => client.send(new GetSecretValueCommand({ SecretId: secretId, VersionStage: CURRENT })));
  const fields = parseSecret(secretId, value.SecretString ?? '');
  registerSecret(String(fields['password'] ?? ''));
  // The port keeps the type it has: some applications read it as text.
  const port = typeof fields['port'] === 'string' ? String(address.port) : address.port;
  const token = versionToken(`${key}/${value.VersionId!}`);
  await call(secretId, 'secretsmanager:PutSecretValue', () =>
    client.send(new PutSecretValueCommand({ SecretId: secretId, ClientRequestToken: token, SecretString: JSON.stringify({ ...fields, host: address.host, port }), VersionStages: [STAGED_LABEL] })),
  );
  return { staged: token, basedOn: value.VersionId! };
}

/** Make `staged` current only if `expected` still is. @returns false when another version became current meanwhile. */
export async function swapVersion(context: Context, secretId: string, staged: string, expected: string, region?: string): Promise<boolean> {
  const { UpdateSecretVersionStageCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(region);
  try {
    await client.send(new UpdateSecretVersionStageCommand({ SecretId: secretId, VersionStage: CURRENT, MoveToVersionId: staged, RemoveFromVersionId: expected }));
    return true;
  } catch (error) {
    const now = await currentVersion(client, secretId);
    if (now === staged) return true;
    if (now !== expected) return false;
    throw secretError(secretId, 'secretsmanager:UpdateSecretVersionStage', error);
  }
}

/** Take our label off a version; the version itself stays. */
export async function dropStaged(context: Context, secretId: string, staged: string, region?: string): Promise<void> {
  const { UpdateSecretVersionStageCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(region);
  await call(secretId, 'secretsmanager:UpdateSecretVersionStage', () => client.send(new UpdateSecretVersionStageCommand({ SecretId: secretId, VersionStage: STAGED_LABEL, RemoveFromVersionId: staged })));
}

/** A version that nobody made. */
const NO_VERSION = '00000000-0000-5000-a000-000000000000';

/**
 * May we move the secret's labels? Asked by taking our label off a version that does not exist: to who may, Secrets Manager answers
 * that it cannot be, to who may not, AccessDenied. Nothing changes either way.
 */
export async function maySwap(context: Context, secretId: string, region?: string): Promise<{ allowed: boolean; found: string }> {
  const { UpdateSecretVersionStageCommand } = await import('@aws-sdk/client-secrets-manager');
  const client = await context.aws.secretsManager(region);
  try {
    await client.send(new UpdateSecretVersionStageCommand({ SecretId: secretId, VersionStage: STAGED_LABEL, RemoveFromVersionId: NO_VERSION }));
  } catch (error) {
    const { name, message, $metadata } = error as Error & { $metadata?: { httpStatusCode?: number } };
    if ($metadata === undefined) throw secretError(secretId, 'secretsmanager:UpdateSecretVersionStage', error);
    if (/AccessDenied|NotAuthorized|UnrecognizedClient/.test(name) || $metadata.httpStatusCode === 403) return { allowed: false, found: `${name}: ${message} (HTTP ${$metadata.httpStatusCode})` };
  }
  return { allowed: true, found: 'allowed' };
}

async function currentVersion(client: SecretsManagerClient, secretId: string): Promise<string> {
  const { DescribeSecretCommand } = await import('@aws-sdk/client-secrets-manager');
  const described = await call(secretId, 'secretsmanager:DescribeSecret', () => client.send(new DescribeSecretCommand({ SecretId: secretId })));
  return Object.entries(described.VersionIdsToStages ?? {}).find(([, stages]) => stages.includes(CURRENT))?.[0] ?? '';
}

/** A version id is a UUID-shaped token of 32-64 characters; a request repeated with it changes nothing. */
function versionToken(key: string): string {
  const hex = createHash('sha256').update(key).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

async function call<T>(secretId: string, action: string, send: () => Promise<T>): Promise<T> {
  try {
    return await send();
  } catch (error) {
    throw secretError(secretId, action, error);
  }
}

function secretError(secretId: string, action: string, error: unknown): HoldfastError {
  const name = (error as Error).name;
  const final = /NotFound|AccessDenied|InvalidRequest|UnrecognizedClient|InvalidParameter/.test(name);
  return new HoldfastError('secret-call', `${action} on ${secretId}: ${name}: ${(error as Error).message}`, {
    retryable: !final,
    next: name === 'ResourceNotFoundException' ? `create the secret ${secretId} or correct endpoint.secret` : `check that the worker may call ${action} and reaches the endpoint`,
    cause: error,
  });
}
