import { dirname, join, resolve } from 'node:path';
import { configOf } from '../model/config.ts';
import type { Config, DatastoreConfig, PostgresDatastore, StoreConfig } from '../model/config-schema.ts';
import { sortFindings } from '../model/document.ts';
import { ConfigError, type Finding } from '../model/errors.ts';
import type { Runbook } from '../model/runbook-schema.ts';
import { readDocument } from './document-file.ts';
import { readRunbooks } from './runbook-file.ts';

export interface ReadConfigOptions {
  /** Default: `runbooks` beside the file. References to runbooks are checked when the folder has any. */
  readonly runbookDirectory?: string;
}

/**
 * The configuration: parse -> normalise -> rules; relative paths in it are resolved against the file's folder.
 * @throws ConfigError with all findings at once; HoldfastError when the file cannot be read.
 */
export async function loadConfig(path: string, options: ReadConfigOptions = {}): Promise<{ config: Config; warnings: Finding[] }> {
  const { config, findings } = await readConfig(path, options);
  if (config === undefined) throw new ConfigError(findings);
  return { config, warnings: findings };
}

/** The same without throwing for what the file says: for `validate`. Findings of the runbooks' own files are not among them. */
export async function readConfig(path: string, options: ReadConfigOptions = {}): Promise<{ config: Config | undefined; findings: Finding[] }> {
  const document = await readDocument(path, 'configuration');
  const { files } = await readRunbooks(options.runbookDirectory ?? join(dirname(path), 'runbooks'));
  const runbooks = new Map<string, Runbook | undefined>(files.map(({ name, runbook }) => [name, runbook]));
  const { config, findings } = configOf(document, files.length > 0 || options.runbookDirectory !== undefined ? { runbooks } : {});
  return { config: config === undefined ? undefined : withAbsolutePaths(config, dirname(resolve(path))), findings: sortFindings(findings) };
}

/** Paths of this host made absolute. Paths on nodes (dataDirectory, passfile, ...) belong to the nodes and stay. */
export function withAbsolutePaths(config: Config, folder: string): Config {
  const path = <T extends string | undefined>(value: T): T => (value === undefined ? value : (resolve(folder, value) as T));
  const secret = <T extends string | undefined>(value: T): T => (value?.startsWith('file:') === true ? (`file:${resolve(folder, value.slice('file:'.length))}` as T) : value);
  const credentials = <T extends Config['aws']['credentials']>(value: T): T =>
    value === undefined
      ? value
      : { ...value, accessKeyId: secret(value.accessKeyId), secretAccessKey: secret(value.secretAccessKey), ...(value.sessionToken === undefined ? {} : { sessionToken: secret(value.sessionToken) }) };
  const store = (value: StoreConfig): StoreConfig => {
    const encryption = value.encryption === undefined ? {} : { encryption: { ...value.encryption, identity: secret(value.encryption.identity) } };
    return value.type === 'folder' ? { ...value, ...encryption, path: path(value.path) } : { ...value, ...encryption, credentials: credentials(value.credentials) };
  };
  const postgres = (value: PostgresDatastore): PostgresDatastore => ({
    ...value,
    admin: { ...value.admin, password: secret(value.admin.password), sslrootcert: path(value.admin.sslrootcert) },
    binDirectory: path(value.binDirectory),
    ...(value.controller?.type === 'patroni'
      ? { controller: { ...value.controller, password: secret(value.controller.password), ca: path(value.controller.ca), certificate: path(value.controller.certificate), key: secret(value.controller.key) } }
      : {}),
  });
  const datastore = (value: DatastoreConfig): DatastoreConfig => {
    switch (value.engine) {
      case 'postgres':
        return postgres(value);
      case 's3':
        return { ...value, credentials: credentials(value.credentials) };
      case 'redis':
        return { ...value, password: secret(value.password), nodes: mapValues(value.nodes, (node) => ({ ...node, password: secret(node.password) })), ...(value.tls === undefined ? {} : { tls: { ...value.tls, ca: path(value.tls.ca) } }) };
      case 'opensearch':
        return { ...value, password: secret(value.password), ca: path(value.ca), clusters: mapValues(value.clusters, (cluster) => ({ ...cluster, password: secret(cluster.password) })) };
      case 'mongodb': {
        const files = (tls: typeof value.tls): { tls?: typeof value.tls } => (tls === undefined ? {} : { tls: { ca: path(tls.ca), certificate: path(tls.certificate) } });
        return { ...value, password: secret(value.password), ...files(value.tls), drill: { ...value.drill, password: secret(value.drill.password), ...files(value.drill.tls) } };
      }
      case 'dynamodb':
        return { ...value, credentials: credentials(value.credentials), drill: { ...value.drill, credentials: credentials(value.drill.credentials) } };
      default:
        return value satisfies never;
    }
  };
  const { temporal } = config;
  return {
    ...config,
    workDirectory: path(config.workDirectory),
    temporal: {
      ...temporal,
      apiKey: secret(temporal.apiKey),
      encryptionKey: secret(temporal.encryptionKey),
      tls: temporal.tls === undefined ? undefined : { ...temporal.tls, ca: path(temporal.tls.ca), certificate: path(temporal.tls.certificate), key: secret(temporal.tls.key) },
    },
    aws: { ...config.aws, credentials: credentials(config.aws.credentials) },
    stores: mapValues(config.stores, store),
    datastores: mapValues(config.datastores, datastore),
    kubernetes: mapValues(config.kubernetes, (entry) => ({ ...entry, kubeconfig: secret(entry.kubeconfig) })),
    kafka: mapValues(config.kafka, (cluster) => ({
      ...cluster,
      ...(cluster.tls === undefined ? {} : { tls: { ...cluster.tls, ca: path(cluster.tls.ca) } }),
      ...(cluster.sasl === undefined ? {} : { sasl: { ...cluster.sasl, password: secret(cluster.sasl.password) } }),
    })),
    costs: config.costs === undefined ? undefined : { ...config.costs, prices: path(config.costs.prices) },
    notify: mapValues(config.notify, (entry) => ({ ...entry, url: secret(entry.url) })),
    evidence: { ...config.evidence, directory: path(config.evidence.directory), signingKey: secret(config.evidence.signingKey) },
  };
}

function mapValues<T>(record: Readonly<Record<string, T>>, map: (value: T) => T): Record<string, T> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value)]));
}
