import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { isBackedUp, type BackedUpDatastore, type Config, type DatastoreConfig, type PostgresDatastore, type ServiceConfig } from '../model/config-schema.ts';
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
export function datastoreOf(config: Config, name: string): DatastoreConfig {
  // Own entries only: every object has a `constructor`.
  const datastore = Object.hasOwn(config.datastores, name) ? config.datastores[name] : undefined;
  if (datastore === undefined) throw unknownName('datastore', name, Object.keys(config.datastores));
  return datastore;
}

/** A datastore of one engine. @throws HoldfastError when it is another one's. */
export function engineOf<E extends DatastoreConfig['engine']>(config: Config, name: string, engine: E): Extract<DatastoreConfig, { engine: E }> {
  const datastore = datastoreOf(config, name);
  if (datastore.engine === engine) return datastore as Extract<DatastoreConfig, { engine: E }>;
  const fitting = Object.entries(config.datastores).flatMap(([other, { engine: its }]) => (its === engine ? [other] : []));
  throw new HoldfastError('wrong-engine', `datastore ${name} is of engine ${datastore.engine}; this is done to ${engine} only`, { next: fitting.length === 0 ? `there is no datastore of engine ${engine}` : `use one of: ${fitting.join(', ')}` });
}

/** A datastore of an engine that has backups here. @throws HoldfastError when its engine has none. */
export function backedUpOf(config: Config, name: string): BackedUpDatastore {
  const datastore = datastoreOf(config, name);
  if (isBackedUp(datastore)) return datastore;
  const fitting = Object.entries(config.datastores).flatMap(([other, its]) => (isBackedUp(its) ? [other] : []));
  throw new HoldfastError('wrong-engine', `datastore ${name} is of engine ${datastore.engine}, which has no backups here`, { next: fitting.length === 0 ? 'there is no datastore that has' : `use one of: ${fitting.join(', ')}` });
}

export function postgresOf(config: Config, name: string): PostgresDatastore {
  return engineOf(config, name, 'postgres');
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
