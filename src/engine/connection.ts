import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { hostname } from 'node:os';
import { Client, Connection, isGrpcServiceError, type ConnectionOptions } from '@temporalio/client';
import type { NativeConnection } from '@temporalio/worker';
import type { Config } from '../model/config-schema.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { SecretResolver } from '../systems/secrets.ts';
import { dataConverterOf } from './payload-encryption.ts';

interface ConnectOptions {
  address: string;
  tls?: ConnectionOptions['tls'];
  apiKey?: string;
}

const CONNECT_TIMEOUT_MS = 5000;
const DEFAULT_PORT = 7233;
/** gRPC status codes. */
const NOT_FOUND = 5;
const UNAUTHENTICATED = 16;

/**
 * A client on the configured server and namespace, with payload encryption when a key is configured. Close it with
 * `client.connection.close()`.
 * @throws HoldfastError `temporal-unreachable` or `temporal-namespace`, naming the address and what to do.
 */
export async function connectClient(config: Config, secrets: SecretResolver): Promise<Client> {
  const options = await connectOptions(config, secrets);
  const dataConverter = await dataConverterOf(config, secrets);
  let connection: Connection;
  try {
    await probe(config.temporal.address);
    connection = await Connection.connect({ ...options, connectTimeout: CONNECT_TIMEOUT_MS });
  } catch (error) {
    throw unreachable(config, error);
  }
  try {
    await connection.workflowService.describeNamespace({ namespace: config.temporal.namespace });
  } catch (error) {
    // Whoever may use a namespace need not be allowed to describe it: only these two say that nothing will work.
    const code = grpcCodeOf(error);
    if (code === NOT_FOUND || code === UNAUTHENTICATED) {
      await connection.close();
      throw code === NOT_FOUND ? missingNamespace(config) : unreachable(config, error);
    }
  }
  return new Client({ connection, namespace: config.temporal.namespace, identity: identity(), dataConverter });
}

/** The worker's connection. @throws HoldfastError `temporal-unreachable`. */
export async function connectNative(config: Config, secrets: SecretResolver): Promise<NativeConnection> {
  const options = await connectOptions(config, secrets);
  // Commands that only ask need not load the native core.
  const { NativeConnection } = await import('@temporalio/worker');
  try {
    await probe(config.temporal.address);
    return await NativeConnection.connect(options);
  } catch (error) {
    throw unreachable(config, error);
  }
}

/** The gRPC status code of an error of the client, which may carry it in a cause; undefined for any other error. */
export function grpcCodeOf(error: unknown): number | undefined {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth += 1) {
    if (isGrpcServiceError(at)) return at.code;
  }
  return undefined;
}

/** Shown in histories as who did it. */
export function identity(): string {
  return `holdfast-${process.pid}@${hostname()}`;
}

/** gRPC tries until its deadline and then says only that it failed; a refused connection or an unknown name is known at once. */
async function probe(address: string): Promise<void> {
  const match = /^(?:\[([^\]]+)\]|([^:/]+))(?::(\d+))?$/.exec(address);
  // Through a proxy, or for a gRPC name such as dns:///..., only gRPC itself can tell.
  if (match === null || ['grpc_proxy', 'https_proxy', 'http_proxy'].some((name) => process.env[name])) return;
  const socket = connect({ host: match[1] ?? match[2]!, port: Number(match[3] ?? DEFAULT_PORT) });
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS) });
  } finally {
    socket.destroy();
  }
}

async function connectOptions(config: Config, secrets: SecretResolver): Promise<ConnectOptions> {
  const { address, apiKey, tls } = config.temporal;
  const options: ConnectOptions = { address };
  if (apiKey !== undefined) options.apiKey = await secrets.resolve(apiKey);
  if (tls !== undefined) {
    if ((tls.certificate === undefined) !== (tls.key === undefined)) {
      throw new HoldfastError('temporal-tls', 'temporal.tls has only one of certificate and key', { next: 'give both for mutual TLS, or neither' });
    }
    options.tls = {
      ...(tls.serverName === undefined ? {} : { serverNameOverride: tls.serverName }),
      ...(tls.ca === undefined ? {} : { serverRootCACertificate: await pem(tls.ca, 'temporal.tls.ca') }),
      ...(tls.certificate === undefined || tls.key === undefined
        ? {}
        : { clientCertPair: { crt: await pem(tls.certificate, 'temporal.tls.certificate'), key: Buffer.from(await secrets.resolve(tls.key)) } }),
    };
  } else if (apiKey !== undefined) {
    // An API key in the clear would be given away to the network.
    options.tls = true;
  }
  return options;
}

async function pem(path: string, where: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new HoldfastError('temporal-tls', `${where}: ${path} cannot be read: ${messageOf(error)}`, { next: 'correct the path or the permissions', cause: error });
  }
}

function unreachable(config: Config, error: unknown): HoldfastError {
  const { address, tls, apiKey } = config.temporal;
  const secured = tls !== undefined || apiKey !== undefined;
  return new HoldfastError('temporal-unreachable', `Temporal at ${address} cannot be reached${secured ? ' (with TLS)' : ''}: ${messageOf(error)}`, {
    retryable: true,
    next: `check that the server runs and that this host reaches ${address}; set temporal.address, TEMPORAL_ADDRESS or --address${secured ? '; check temporal.tls and temporal.apiKey' : ''}`,
    cause: error,
  });
}

function missingNamespace(config: Config): HoldfastError {
  const { address, namespace } = config.temporal;
  return new HoldfastError('temporal-namespace', `Temporal at ${address} has no namespace "${namespace}"`, {
    next: `create it: temporal operator namespace create --address ${address} --namespace ${namespace} --retention 90d`,
  });
}
