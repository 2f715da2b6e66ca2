import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Config, PostgresDatastore, ServiceConfig } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import { createAwsClients, readManagedSecret, type AwsClients } from './aws.ts';
import type { Logger } from './log.ts';
import { createSecretResolver, type SecretResolver } from './secrets.ts';

/** What activities and commands work with: handed in, never global, so that tests bring their own. */
export interface Context {
  readonly config: Config;
  /** Absolute path of holdfast.yaml; relative paths in it are relative to its folder. */
  readonly configPath: string;
  /** Folder of runbook documents. */
  readonly runbookDirectory: string;
  readonly log: Logger;
  readonly secrets: SecretResolver;
  readonly aws: AwsClients;
  /** For drill targets and sockets, on this host. */
  readonly workDirectory: string;
  /** Queue that only workers of this host poll: for work bound to files or processes of one host. */
  readonly hostTaskQueue: string;
  close(): void;
}

export function createContext(options: { config: Config; configPath: string; runbookDirectory: string; log: Logger }): Context {
  const { config, log } = options;
  // Credentials of AWS itself come from env: or file: only, which need no client.
  const clients: AwsClients = createAwsClients(config.aws, createSecretResolver(() => Promise.reject(new HoldfastError('secret-reference', 'not available here'))));
  return {
    config,
    configPath: resolve(options.configPath),
    runbookDirectory: resolve(options.runbookDirectory),
    log,
    aws: clients,
    secrets: createSecretResolver((id) => readManagedSecret(clients, id)),
    workDirectory: config.workDirectory ?? join(tmpdir(), 'holdfast'),
    hostTaskQueue: `${config.temporal.taskQueue}-host-${hostname()}`,
    close: () => clients.close(),
  };
}

/** @throws HoldfastError naming the datastores there are. */
export function datastoreOf(config: Config, name: string): PostgresDatastore {
  // Own entries only: every object has a `constructor`.
  const datastore = Object.hasOwn(config.datastores, name) ? config.datastores[name] : undefined;
  if (datastore === undefined) throw unknownName('datastore', name, Object.keys(config.datastores));
  return datastore;
}

export function serviceOf(config: Config, name: string): ServiceConfig {
  const service = Object.hasOwn(config.services, name) ? config.services[name] : undefined;
  if (service === undefined) throw unknownName('service', name, Object.keys(config.services));
  return service;
}

export function storeOf(config: Config, name: string): Config['stores'][string] {
  const store = Object.hasOwn(config.stores, name) ? config.stores[name] : undefined;
  if (store === undefined) throw unknownName('store', name, Object.keys(config.stores));
  return store;
}

export function unknownName(what: string, name: string, known: readonly string[]): HoldfastError {
  return new HoldfastError(`unknown-${what}`, `there is no ${what} named "${name}"`, {
    next: known.length === 0 ? `add it to holdfast.yaml` : `use one of: ${known.join(', ')}`,
  });
}
