import type { MongoClient } from 'mongodb';
import { FINGERPRINT_METHOD, type MongodbCollection, type MongodbFingerprint, type MongodbView } from '../model/manifest-mongodb.ts';
import { MARKER_DATABASE, qualified } from '../model/mongodb-selection.ts';
import { databasesOf } from './mongodb.ts';
import { collectionEntry, dumpCollection, listNamespaces, readDefinition, viewEntry } from './mongodb-dump.ts';

const SERVER_DATABASES = new Set(['admin', 'local', 'config', MARKER_DATABASE]);

export interface FingerprintOptions {
  /** Looked for although they are of the server, or named system.*. */
  readonly wanted: MongodbFingerprint;
  /** Only the databases of `wanted`; else all that there are. */
  readonly ownDatabases: boolean;
  readonly batchDocuments: number;
  readonly concurrency: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: { collections: number; ofCollections: number; plainBytes: number }) => void;
}

/** Everything that a server holds, read to its last document. */
export async function fingerprintMongodb(client: MongoClient, options: FingerprintOptions): Promise<MongodbFingerprint> {
  const wanted = new Set([...options.wanted.collections, ...options.wanted.views].map(qualified));
  const databases = databasesIn(options.wanted);
  const looked = options.ownDatabases ? databases : [...new Set([...(await databasesOf(client)).filter((name) => !SERVER_DATABASES.has(name)), ...databases])];
  const found = (await listNamespaces(client, { databases: looked, collections: [] }, { databases: [], collections: [] })).filter((namespace) => wanted.has(qualified(namespace)) || (!namespace.name.startsWith('system.') && !SERVER_DATABASES.has(namespace.database)));
  const collections: MongodbCollection[] = [];
  const views: MongodbView[] = [];
  const waiting = [...found];
  let plainBytes = 0;
  await Promise.all(Array.from({ length: options.concurrency }, async () => {
    try {
      for (let namespace = waiting.shift(); namespace !== undefined; namespace = waiting.shift()) {
        options.signal?.throwIfAborted();
        const definition = await readDefinition(client, namespace);
        if (definition.type === 'view') {
          views.push(viewEntry(definition));
          continue;
        }
        const dump = dumpCollection(client, definition, {
          batchDocuments: options.batchDocuments, ...(options.signal === undefined ? {} : { signal: options.signal }),
          onBytes: (bytes) => {
            plainBytes += bytes;
            options.onProgress?.({ collections: collections.length, ofCollections: found.length, plainBytes });
          },
        });
        for await (const chunk of dump.stream) void chunk;
        collections.push(collectionEntry(definition, dump.result()));
        options.onProgress?.({ collections: collections.length, ofCollections: found.length, plainBytes });
      }
    } catch (error) {
      waiting.length = 0;
      throw error;
    }
  }));
  return { method: FINGERPRINT_METHOD, collections, views };
}

export function databasesIn({ collections, views }: Pick<MongodbFingerprint, 'collections' | 'views'>): string[] {
  return [...new Set([...collections, ...views].map(({ database }) => database))].sort();
}
