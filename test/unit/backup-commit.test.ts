/** How attempts that share a folder commit, on a store in a real folder. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { PostgresManifest } from '../../src/model/manifest-postgres.ts';
import { COMMIT, MANIFEST, readManifest } from '../../src/systems/backup-catalogue.ts';
import { commitBackup } from '../../src/systems/backup-write.ts';
import type { Store } from '../../src/systems/store.ts';
import { createFolderStore } from '../../src/systems/store-folder.ts';

const root = mkdtempSync(join(tmpdir(), 'holdfast-commit-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const digest = (bytes: string): string => createHash('sha256').update(bytes).digest('hex');
let number = 0;

/** A manifest whose one object was written by this attempt. */
function manifestOf(attempt: number, more: Partial<PostgresManifest> = {}): PostgresManifest {
  const data = `data of attempt ${attempt}`;
  return {
    format: 1, id: 'abc', datastore: 'shop', engine: 'postgres', environment: 'test', snapshotAt: '2026-11-21T03:00:00.000Z', startedAt: '2026-11-21T03:00:00.000Z', finishedAt: `2026-11-21T03:0${attempt}:00.000Z`, reason: 'manual', workflowId: 'w', runId: 'r',
    source: { node: 'a', role: 'primary', database: 'shop', systemIdentifier: '1', snapshotId: 's', lsn: '0/1', timeline: 1, serverVersion: '15', serverVersionNumber: 150000, encoding: 'UTF8', collate: 'C', ctype: 'C', localeProvider: 'c', databaseBytes: 1 },
    tools: {}, selection: { complete: true, include: { schemas: [], tables: [] }, exclude: { schemas: [], tables: [], tableData: [] } },
    objects: [{ name: `${attempt}/data.bin`, role: 'data', storedBytes: data.length, plainBytes: data.length, storedSha256: digest(data), plainSha256: digest(data), compression: 'none', encryption: 'none' }],
    fingerprint: { method: 'hashtextextended-sum/1', tables: [], sequences: [], largeObjects: null, extensions: [], roles: [], schemaObjects: {}, schemaSha256: '' },
    commands: [], ...more,
  };
}

async function folder(): Promise<{ store: Store; request: { location: string }; attempt(number: number): Promise<PostgresManifest> }> {
  const store = createFolderStore(join(root, String((number += 1))), '');
  const request = { location: 'shop/2026/11/21/030000Z-abc/' };
  return {
    store, request,
    async attempt(which) {
      await store.put(`${request.location}${which}/data.bin`, `data of attempt ${which}`);
      return manifestOf(which);
    },
  };
}

const put = { ifAbsent: true };

describe('attempts that share a folder', () => {
  it('commit the manifest that is there: of an attempt that was lost, or only believed to be', async () => {
    const { store, request, attempt } = await folder();
    const first = await attempt(1);
    // It wrote its manifest and was not heard of any more.
    await expect(commitBackup(store, request, first, [], put, () => Promise.reject(new Error('lost')))).rejects.toThrow('lost');
    const second = await commitBackup(store, request, await attempt(2), [], put);
    expect(second.objects[0]!.name).toBe('1/data.bin');
    expect(await readManifest(store, request.location)).toEqual(first);
    // It was there after all, and comes late: the same.
    expect(await commitBackup(store, request, first, [], put)).toEqual(first);
    expect(await readManifest(store, request.location)).toEqual(first);
  });

  it('that meet at the commit leave one that can be read, and both know which', async () => {
    for (let round = 0; round < 20; round += 1) {
      const { store, request, attempt } = await folder();
      const manifests = [await attempt(1), await attempt(2)];
      const committed = await Promise.all(manifests.map((manifest) => commitBackup(store, request, manifest, [], put)));
      expect(committed[0]).toEqual(committed[1]);
      expect(await readManifest(store, request.location)).toEqual(committed[0]);
    }
  });

  it('never commit a manifest whose objects are gone, nor one of another backup', async () => {
    const { store, request, attempt } = await folder();
    const first = await attempt(1);
    await store.put(request.location + MANIFEST, `${JSON.stringify(first, null, 1)}\n`);
    await store.delete(`${request.location}1/data.bin`);
    await expect(commitBackup(store, request, await attempt(2), [], put)).rejects.toMatchObject({ code: 'object-vanished' });
    await store.put(request.location + MANIFEST, `${JSON.stringify(manifestOf(1, { runId: 'another' }), null, 1)}\n`);
    await expect(commitBackup(store, request, await attempt(2), [], put)).rejects.toMatchObject({ code: 'object-exists' });
    await store.put(request.location + MANIFEST, 'no manifest');
    await expect(commitBackup(store, request, await attempt(2), [], put)).rejects.toMatchObject({ code: 'object-exists' });
    expect(await store.head(request.location + COMMIT)).toBeUndefined();
  });
});
