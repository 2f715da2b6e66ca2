import type { DynamodbManifest } from '../model/manifest-dynamodb.ts';
import { messageOf } from '../model/errors.ts';
import { openObject } from './backup-catalogue.ts';
import type { BackupEngine } from './backup-engine.ts';
import { backUp } from './dynamodb-backup.ts';
import { lookAtOnDemand, onDemandOutside, removeUncommitted } from './dynamodb-native-backup.ts';
import { dynamodbDrill } from './dynamodb-drill.ts';
import { backupSources, readWhole } from './dynamodb-import.ts';
import { dynamoOf, sourceTables } from './dynamodb-place.ts';
import { describeTable } from './dynamodb.ts';

export const dynamodbEngine: BackupEngine<DynamodbManifest> = {
  name: 'dynamodb',
  resumable: true,
  backUp,
  // Requests end by themselves; what may be held at the source are on-demand backups that no attempt has committed.
  endSessions: removeUncommitted,

  async readBack(context, backup, { signal = new AbortController().signal, onProgress } = {}) {
    if (backup.manifest.managed !== undefined) return lookAtOnDemand(context, backup.manifest, signal);
    const { objects, fingerprint } = backup.manifest;
    for (const entry of objects) {
      if (entry.role === 'data') continue;
      for await (const chunk of await openObject(context, backup.storeName, backup.location, entry, { signal })) void chunk;
    }
    for (const source of backupSources(context, backup)) {
      await readWhole(source, signal, (file) => {
        const entry = objects.find(({ name }) => name === file);
        if (entry !== undefined) onProgress?.(file, entry.plainBytes, entry.plainBytes);
      });
    }
    return {
      objects: objects.length,
      storedBytes: objects.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
      plainBytes: objects.reduce((sum, { plainBytes }) => sum + plainBytes, 0),
      how: `every one of ${fingerprint.tables.reduce((sum, { items }) => sum + items, 0)} items was read, and the sums are those of the manifest`,
    };
  },

  drill: dynamodbDrill,
  outside: onDemandOutside,

  async ready(context, datastore, signal) {
    const tables = await sourceTables(context, datastore);
    return Promise.all(
      dynamoOf(context, datastore).tables.map(async (name) => {
        try {
          const { status } = await describeTable(tables.client, name, signal);
          return { name: `table ${name}`, ok: status === 'ACTIVE', found: status, expected: 'ACTIVE', next: 'wait, or look at the table' };
        } catch (error) {
          return { name: `table ${name}`, ok: false, found: messageOf(error), expected: 'a description of the table', next: 'check the name, the Region and the rights of the worker' };
        }
      }),
    );
  },
};
