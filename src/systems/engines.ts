import { HoldfastError } from '../model/errors.ts';
import type { BackupEngineName, Manifest } from '../model/manifest.ts';
import type { BackupEngine } from './backup-engine.ts';
import { backedUpOf, type Context } from './context.ts';

/** Loaded when they are asked for: a worker without a MongoDB loads no driver of one. */
const ENGINES: Readonly<Record<BackupEngineName, () => Promise<BackupEngine>>> = {
  mongodb: async () => (await import('./mongodb-engine.ts')).mongodbEngine,
  postgres: async () => (await import('./postgres-engine.ts')).postgresEngine,
  dynamodb: async () => (await import('./dynamodb-engine.ts')).dynamodbEngine,
};

/** @throws HoldfastError when the datastore is not there, or its engine has no backups here. */
export async function engineOfDatastore(context: Pick<Context, 'config'>, datastore: string): Promise<BackupEngine> {
  return ENGINES[backedUpOf(context.config, datastore).engine]();
}

/** The engine that made it. @throws HoldfastError when its datastore has another one today. */
export async function engineOfBackup(context: Pick<Context, 'config'>, manifest: Pick<Manifest, 'engine' | 'datastore' | 'id'>): Promise<BackupEngine> {
  const { engine } = backedUpOf(context.config, manifest.datastore);
  if (engine !== manifest.engine) throw new HoldfastError('wrong-engine', `backup ${manifest.id} is of engine ${manifest.engine}, and datastore ${manifest.datastore} is of engine ${engine} now`, { next: 'restore it with the commands in its manifest, or with a configuration in which the datastore has its engine' });
  return ENGINES[engine]();
}

/** The engines that the configuration has datastores of. */
export async function enginesInUse(context: Pick<Context, 'config'>): Promise<BackupEngine[]> {
  const names = Object.keys(ENGINES) as BackupEngineName[];
  const used = new Set(Object.values(context.config.datastores).map(({ engine }) => engine));
  return Promise.all(names.filter((name) => used.has(name)).map((name) => ENGINES[name]()));
}
