import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { searchSteps } from '../../activities/search.ts';
import { createProcesses, startSearch, type Processes, type SearchServer } from '../../src/local/stack.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { stepHash } from '../../src/systems/opensearch.ts';
import { runStep } from '../step-run.ts';
import { testConfig, testDatabase, testDatastore, testDirectory, uniqueName, type ConfigOverrides, type TestDatabase } from '../support.ts';
import { surviveDeath } from '../survive-death.ts';

let processes: Processes;
let east: SearchServer;
let west: SearchServer;
let database: TestDatabase;

const failed = (result: { checks?: readonly { ok: boolean; name: string }[] }): string[] => (result.checks ?? []).filter(({ ok }) => !ok).map(({ name }) => name);

async function load(server: SearchServer, index: string, from: number, to: number): Promise<void> {
  const lines: string[] = [];
  for (let id = from; id < to; id += 1) lines.push(JSON.stringify({ index: { _id: String(id) } }), JSON.stringify({ id, name: `item ${id}` }));
  const answer = await fetch(`${server.url}/${index}/_bulk`, { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body: `${lines.join('\n')}\n` });
  expect(((await answer.json()) as { errors: boolean }).errors).toBe(false);
}

interface Estate {
  readonly context: Context;
  readonly index: string;
  readonly repository: string;
  step(uses: string, phase: 'inspect' | 'guard' | 'apply' | 'verify' | 'undo', input?: Record<string, unknown>, more?: { epoch?: number; facts?: PhaseResult['facts'] }): Promise<PhaseResult>;
}

/** An index and a repository of its own: east has both, west may read the repository. */
async function estate(name: string, more: ConfigOverrides = {}): Promise<Estate> {
  const [index, repository] = [uniqueName(name), uniqueName('repository')];
  await east.request('PUT', `/_snapshot/${repository}`, { type: 'fs', settings: { location: repository } });
  await west.request('PUT', `/_snapshot/${repository}`, { type: 'fs', settings: { location: repository, readonly: true } });
  await east.request('PUT', `/${index}`, { settings: { number_of_shards: 2, number_of_replicas: 0 } });
  const context = await testConfig({
    datastores: { search: { engine: 'opensearch', clusters: { east: { url: east.url }, west: { url: west.url } }, indices: [index], repository, ...more }, shop: testDatastore(database) },
  });
  return { context, index, repository, step: (uses, phase, input = {}, options = {}) => runStep(searchSteps, context, uses, phase, { datastore: 'search', ...input }, options) };
}

beforeAll(async () => {
  const directory = testDirectory('search');
  processes = createProcesses({ directory });
  [east, west, database] = await Promise.all([startSearch({ processes, directory, name: 'east' }), startSearch({ processes, directory, name: 'west' }), testDatabase('search')]);
  await database.query(`create table items as select id::bigint as id, 'item ' || id as name, now() as at from generate_series(1, 3000) id; create table texts (id text primary key, n text); insert into texts values ('a', '1'), ('b', 'two'), ('c', '3')`);
});

afterAll(async () => {
  await processes?.end();
  await database?.drop();
});

describe('a snapshot restored on another cluster', () => {
  it('has every document that was counted; one deleted or added after it, a missing shard and an index that was there are seen', async () => {
    const { step, index } = await estate('products');
    await load(east, index, 0, 500);
    expect(failed(await step('search.snapshot', 'guard', { cluster: 'east' }))).toEqual([]);
    expect(failed(await step('search.snapshot', 'guard', { cluster: 'west' }))).toEqual(['repository', `index ${index}`]);
    const taken = await step('search.snapshot', 'apply', { cluster: 'east' });
    expect(taken).toMatchObject({ outcome: 'changed', facts: { documents: 500, shards: 2 } });
    expect(failed(await step('search.snapshot', 'verify', { cluster: 'east' }))).toEqual([]);
    expect((await step('search.snapshot', 'apply', { cluster: 'east' })).outcome).toBe('already-satisfied');
    // What comes after it is not in it.
    await load(east, index, 500, 510);

    expect(failed(await step('search.restore', 'guard', { cluster: 'west' }))).toEqual([]);
    expect(failed(await step('search.restore', 'guard', { cluster: 'west', maxAge: '0s' }))).toEqual(['age of the snapshot']);
    expect(failed(await step('search.restore', 'guard', { cluster: 'east' }))).toEqual([`${index} is free`]);
    await expect(step('search.restore', 'apply', { cluster: 'east' })).rejects.toMatchObject({ code: 'index-exists' });
    const restored = await step('search.restore', 'apply', { cluster: 'west' });
    expect(restored).toMatchObject({ outcome: 'changed', facts: { documents: 500, recorded: 500, between: 0 } });
    const verify = (): Promise<PhaseResult> => step('search.restore', 'verify', { cluster: 'west' }, { facts: restored.facts! });
    expect(failed(await verify())).toEqual([]);
    expect((await step('search.restore', 'inspect', { cluster: 'west' })).satisfied).toBe(true);
    expect((await step('search.restore', 'apply', { cluster: 'west' })).outcome).toBe('already-satisfied');

    await west.request('DELETE', `/${index}/_doc/7`);
    expect(failed(await verify())).toEqual(['untouched since']);
    await west.request('PUT', `/${index}/_doc/7`, { id: 7 });
    // The count is right again, and it is not what was restored.
    expect(failed(await verify())).toEqual(['untouched since']);
    await west.request('PUT', `/${index}/_alias/${index}-live`);
    await expect(step('search.restore', 'undo', { cluster: 'west' }, { facts: restored.facts! })).rejects.toMatchObject({ code: 'index-in-use' });
    await west.request('DELETE', `/${index}/_alias/${index}-live`);
    expect((await step('search.restore', 'undo', { cluster: 'west' }, { facts: restored.facts! })).outcome).toBe('changed');
    expect((await step('search.restore', 'undo', { cluster: 'west' }, { facts: restored.facts! })).outcome).toBe('already-satisfied');
    // East's own was never restored: it is left.
    await expect(step('search.restore', 'undo', { cluster: 'east' })).rejects.toMatchObject({ code: 'index-not-ours' });
    expect(await east.request<{ count: number }>('GET', `/${index}/_count`)).toMatchObject({ count: 510 });
  });

  it('is never a partial one: a snapshot that misses a shard is passed over, named or newest; one that nobody counted is only taken when told so', async () => {
    const { step, index, repository } = await estate('partial');
    await load(east, index, 0, 100);
    const good = await step('search.snapshot', 'apply', { cluster: 'east' });
    // A shard that cannot be placed anywhere: the snapshot is PARTIAL.
    const other = uniqueName('lost');
    await fetch(`${east.url}/${other}?wait_for_active_shards=0&timeout=1s`, { method: 'PUT', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ settings: { number_of_replicas: 0, 'index.routing.allocation.require.name': 'nowhere' } }) });
    const { snapshot: bad } = await east.request<{ snapshot: { state: string } }>('PUT', `/_snapshot/${repository}/bad?wait_for_completion=true`, { indices: `${index},${other}`, partial: true });
    expect(bad.state).toBe('PARTIAL');
    await east.request('PUT', `/_snapshot/${repository}/uncounted?wait_for_completion=true`, { indices: `${index}-none`, ignore_unavailable: true });
    expect(failed(await step('search.restore', 'guard', { cluster: 'west', snapshot: 'bad' }))).toEqual(['snapshot']);
    await expect(step('search.restore', 'apply', { cluster: 'west', snapshot: 'bad' })).rejects.toMatchObject({ code: 'snapshot-missing', message: expect.stringContaining('PARTIAL') });
    await expect(step('search.restore', 'apply', { cluster: 'west', snapshot: 'uncounted' })).rejects.toMatchObject({ message: expect.stringContaining(`lacks ${index}`) });
    // Both are newer than the good one.
    expect((await step('search.restore', 'apply', { cluster: 'west' })).facts).toMatchObject({ snapshot: good.facts!['snapshot'], documents: 100 });

    await east.request('PUT', `/_snapshot/${repository}/strange?wait_for_completion=true`, { indices: index });
    expect(failed(await step('search.restore', 'guard', { cluster: 'west', as: 'renamed' }))).toEqual(['counted']);
    const renamed = await step('search.restore', 'apply', { cluster: 'west', as: 'renamed', uncounted: true });
    expect(renamed.facts!['index']).toMatch(new RegExp(`^${index}-[0-9a-f]{8}$`));
    expect(failed(await step('search.restore', 'verify', { cluster: 'west', as: 'renamed', uncounted: true }, { facts: renamed.facts! }))).toEqual([]);
    expect(failed(await step('search.restore', 'verify', { cluster: 'west', as: 'renamed' }, { facts: renamed.facts! }))).toEqual(['counted']);

    // And one of two shards that is nowhere: what the other one has is not all.
    expect(failed(await step('search.verify', 'verify', { cluster: 'west', documents: 100 }))).toEqual([]);
    const half = uniqueName('half');
    await west.request('PUT', `/${half}?wait_for_active_shards=0`, { settings: { number_of_shards: 2, number_of_replicas: 0, 'index.routing.allocation.total_shards_per_node': 1 } });
    await expect.poll(async () => (await west.request<{ state: string }[]>('GET', `/_cat/shards/${half}?format=json`)).map(({ state }) => state).sort()).toEqual(['STARTED', 'UNASSIGNED']);
    expect(failed(await step('search.verify', 'verify', { cluster: 'west', index: half, atLeast: 0 }))).toEqual(['shards']);
  });

  it('documents that come while it is taken widen what is accepted by exactly their number', async () => {
    const { step, index, repository } = await estate('busy');
    await load(east, index, 0, 50);
    const counted = await step('search.snapshot', 'apply', { cluster: 'east' });
    // As if ten had come between the count and the snapshot.
    await load(east, index, 50, 60);
    await east.request('PUT', `/_snapshot/${repository}/busy?wait_for_completion=true`, { indices: index, metadata: { holdfast: { key: 'x', documents: 50, operations: 50, indices: 1 } } });
    const restored = await step('search.restore', 'apply', { cluster: 'west', snapshot: 'busy' });
    expect(restored.facts).toMatchObject({ documents: 60, recorded: 50, between: 10 });
    expect(failed(await step('search.restore', 'verify', { cluster: 'west', snapshot: 'busy' }, { facts: restored.facts! }))).toEqual([]);
    expect(failed(await step('search.restore', 'verify', { cluster: 'west', snapshot: 'busy' }, { facts: { ...restored.facts!, recorded: 49 } }))).toEqual(['documents']);
    expect(counted.facts).toMatchObject({ documents: 50 });
  });
});

describe('an index filled from its source', () => {
  it('has a document for each row, proved by count and by every id; refused rows are named', async () => {
    const { step, index } = await estate('rows');
    const into = `${index}-new`;
    const source = { query: 'select id, name, at from items', database: 'shop' };
    const input = { cluster: 'west', into, ...source, batch: 700 };
    expect(failed(await step('search.reindex', 'guard', input))).toEqual([]);
    expect(failed(await step('search.reindex', 'guard', { ...input, query: 'select nothing from items' }))).toEqual(['query']);
    const filled = await step('search.reindex', 'apply', input);
    expect(filled).toMatchObject({ outcome: 'changed', facts: { documents: 3000, indexed: 3000 } });
    expect(failed(await step('search.reindex', 'verify', input, { facts: filled.facts! }))).toEqual([]);
    expect((await step('search.reindex', 'apply', input)).outcome).toBe('already-satisfied');
    const full = await step('search.verify', 'verify', { cluster: 'west', index: into, ...source, ids: 'full' });
    expect([failed(full), full.facts]).toEqual([[], { documents: 3000, expected: 3000, idsChecked: 3000, idsHow: 'full' }]);

    await west.request('DELETE', `/${into}/_doc/77`);
    await west.request('PUT', `/${into}/_doc/stranger`, { id: 0 });
    // The count is right again: only the ids tell.
    const wrong = await step('search.verify', 'verify', { cluster: 'west', index: into, ...source, ids: 'full' });
    expect([failed(wrong), wrong.checks!.find(({ name }) => name === 'ids')!.found]).toEqual([['ids'], '1 missing: 77']);
    expect(failed(await step('search.verify', 'verify', { cluster: 'west', index: into, ...source, ids: 'none' }))).toEqual([]);
    expect((await step('search.verify', 'verify', { cluster: 'west', index: into, ...source, sampleSize: 100, maxDifference: 1 })).facts).toMatchObject({ idsChecked: 100, idsHow: 'sample' });
    expect(failed(await step('search.verify', 'verify', { cluster: 'west', index: into, documents: 2999 }))).toEqual(['documents']);
    expect(failed(await step('search.verify', 'verify', { cluster: 'west', index: `${into}-none`, atLeast: 1 }))).toEqual(['index']);
    // Full of somebody's documents: another execution keeps off.
    expect(failed(await step('search.reindex', 'guard', input, { epoch: 2 }))).toEqual([`${into} is free`]);
    await expect(step('search.reindex', 'apply', input, { epoch: 2 })).rejects.toMatchObject({ code: 'index-exists' });
    expect((await step('search.reindex', 'undo', input, { epoch: 2 })).outcome).toBe('already-satisfied');
    expect((await step('search.reindex', 'undo', input)).outcome).toBe('changed');

    const texts = { cluster: 'west', into: `${index}-texts`, query: 'select id, n from texts', database: 'shop', mappings: { properties: { n: { type: 'integer' } } } };
    await expect(step('search.reindex', 'apply', texts)).rejects.toMatchObject({ code: 'documents-refused', message: expect.stringMatching(/1 document\(s\) were refused .* 2 are in it: b: mapper_parsing_exception/) });
    await database.query(`update texts set n = '2' where id = 'b'`);
    // Tried again it is the same index, and every document once.
    expect((await step('search.reindex', 'apply', texts)).facts).toMatchObject({ documents: 3 });
  });

  it('goes on behind the row that the index says is in it for sure, in the order of the database', async () => {
    const { step, index } = await estate('resumed');
    const into = `${index}-new`;
    // As a worker killed on its way leaves it: its mark, the documents before it, and some behind it.
    await west.request('PUT', `/${into}`, { mappings: { _meta: { owner: 'shop', holdfast: { key: stepHash('test/step/1'), state: 'filling', after: '2000', indexed: 2000 } } } });
    await load(west, into, 1, 2101);
    const filled = await step('search.reindex', 'apply', { cluster: 'west', into, query: 'select id, name, 1 as again from items', database: 'shop' });
    expect(filled.facts).toMatchObject({ documents: 3000, indexed: 3000 });
    const again = await west.request<{ count: number }>('POST', `/${into}/_count`, { query: { exists: { field: 'again' } } });
    expect(again.count).toBe(1000);
    expect(await west.request('GET', `/${into}/_mapping`)).toMatchObject({ [into]: { mappings: { _meta: { owner: 'shop', holdfast: { state: 'done' } } } } });
  });

  it('is copied from another index by the cluster itself, and what is there already is not copied twice', async () => {
    const { step, index } = await estate('copy');
    await load(east, index, 0, 400);
    const input = { cluster: 'east', into: `${index}-v2`, fromIndex: index, settings: { number_of_replicas: 0 } };
    expect(failed(await step('search.reindex', 'guard', input))).toEqual([]);
    const filled = await step('search.reindex', 'apply', input);
    expect(filled.facts).toMatchObject({ documents: 400, indexed: 400 });
    expect(failed(await step('search.reindex', 'verify', input, { facts: filled.facts! }))).toEqual([]);
    await load(east, index, 400, 405);
    expect(failed(await step('search.reindex', 'verify', input, { facts: filled.facts! }))).toEqual(['documents']);
  });
});

describe('an alias', () => {
  it('moves in one change, back again, and not when somebody else moved it', async () => {
    const { step, index } = await estate('alias');
    for (const version of ['v1', 'v2', 'v3']) await east.request('PUT', `/${index}-${version}`);
    const live = `${index}-live`;
    await east.request('PUT', `/${index}-v1/_alias/${live}`);
    const input = { cluster: 'east', alias: live, index: `${index}-v2`, from: [`${index}-v1`] };
    expect(failed(await step('search.alias', 'guard', input))).toEqual([]);
    expect(failed(await step('search.alias', 'guard', { ...input, from: [`${index}-v3`] }))).toEqual(['where it points']);
    expect(failed(await step('search.alias', 'guard', { ...input, alias: `${index}-v3` }))).toEqual(expect.arrayContaining(['a free name']));
    const moved = await step('search.alias', 'apply', input);
    expect(moved).toMatchObject({ outcome: 'changed', facts: { previous: [`${index}-v1`] } });
    expect(failed(await step('search.alias', 'verify', input))).toEqual([]);
    expect((await step('search.alias', 'apply', input)).outcome).toBe('already-satisfied');
    expect((await step('search.alias', 'undo', input, { facts: moved.facts! })).outcome).toBe('changed');
    expect(Object.keys(await east.request('GET', `/_alias/${live}`))).toEqual([`${index}-v1`]);
    await east.request('POST', '/_aliases', { actions: [{ remove: { index: `${index}-v1`, alias: live } }, { add: { index: `${index}-v3`, alias: live } }] });
    await expect(step('search.alias', 'apply', input)).rejects.toMatchObject({ code: 'alias-moved' });
    await expect(step('search.alias', 'undo', input, { facts: moved.facts! })).rejects.toMatchObject({ code: 'alias-moved' });
    expect(failed(await step('search.alias', 'verify', input))).toEqual(['alias']);
  });
});

describe('a cluster', () => {
  it('that is busy is asked again item by item; one that refuses the user is not, and shows no password', async () => {
    let bulks = 0;
    // OpenSearch itself answers so when its write queue is full; here on demand.
    const front = createServer((request, response) => {
      const parts: Buffer[] = [];
      request.on('data', (chunk: Buffer) => parts.push(chunk));
      request.on('end', () => {
        const body = Buffer.concat(parts);
        if (request.url!.endsWith('/_bulk') && (bulks += 1) === 1) {
          const items = body.toString().trim().split('\n').filter((_, line) => line % 2 === 0).map((line) => ({ index: { ...(JSON.parse(line) as { index: { _id: string } }).index, status: 429, error: { type: 'rejected_execution_exception', reason: 'queue is full' } } }));
          response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ took: 1, errors: true, items }));
          return;
        }
        if (request.headers.authorization === undefined) {
          response.writeHead(401, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { type: 'security_exception', reason: 'missing authentication' } }));
          return;
        }
        void fetch(`${west.url}${request.url!}`, { method: request.method!, headers: { 'content-type': String(request.headers['content-type'] ?? 'application/json') }, ...(body.length === 0 ? {} : { body }) }).then(async (answer) => response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? 'application/json' }).end(Buffer.from(await answer.arrayBuffer())));
      });
    });
    await new Promise<void>((resolve) => {
      front.listen(0, '127.0.0.1', resolve);
    });
    try {
      const url = `http://127.0.0.1:${(front.address() as AddressInfo).port}`;
      const password = join(testDirectory('search-secret'), 'password');
      writeFileSync(password, 'not-to-be-shown-3310');
      const { step, index } = await estate('front', { clusters: { front: { url, username: 'holdfast', password: `file:${password}` }, open: { url } } });
      const input = { cluster: 'front', into: `${index}-busy`, query: 'select id, name from items where id <= 20', database: 'shop' };
      expect((await step('search.reindex', 'apply', input)).facts).toMatchObject({ documents: 20 });
      expect(bulks).toBe(2);
      await expect(step('search.reindex', 'apply', { ...input, cluster: 'open' }, { epoch: 2 })).rejects.toMatchObject({ code: 'search-request', retryable: false, message: expect.stringMatching(/401: security_exception(?!.*3310)/) });
      expect(failed(await step('search.verify', 'guard', { cluster: 'open', atLeast: 1 }))).toEqual(['cluster open answers']);
    } finally {
      front.close();
    }
  });
});

/** Fails, so that what was done is undone. */
const fails = { id: 'fails', uses: 'rollout.command', with: { argv: ['false'] } };

describe('a worker that is killed', () => {
  it.concurrent('after a snapshot was taken, restored, and the restore was undone, before it said so', async () => {
    const { context, index, repository } = await estate('mortal');
    await load(east, index, 0, 30);
    const result = await surviveDeath(
      context,
      [{ id: 'take', uses: 'search.snapshot', with: { datastore: 'search', cluster: 'east' } }, { id: 'restore', uses: 'search.restore', after: 'take', with: { datastore: 'search', cluster: 'west' } }, fails],
      [{ at: 'search.snapshot:apply' }, { at: 'search.restore:apply' }, { at: 'search.restore:undo' }],
    );
    expect(Object.fromEntries(result.steps.map(({ id, outcome }) => [id, outcome]))).toMatchObject({ restore: 'undone' });
    expect((await fetch(`${west.url}/${index}`)).status).toBe(404);
    const { snapshots } = await east.request<{ snapshots: unknown[] }>('GET', `/_snapshot/${repository}/_all`);
    expect(snapshots).toHaveLength(1);
  });

  it.concurrent('after an index was filled, an alias was pointed to it, and both were undone, before it said so', async () => {
    const { context, index } = await estate('refill');
    const into = `${index}-new`;
    await west.request('PUT', `/${index}-old`);
    await west.request('PUT', `/${index}-old/_alias/${index}-live`);
    const result = await surviveDeath(
      context,
      [
        { id: 'fill', uses: 'search.reindex', with: { datastore: 'search', cluster: 'west', into, query: 'select id, name from items', database: 'shop' } },
        { id: 'count', uses: 'search.verify', after: 'fill', with: { datastore: 'search', cluster: 'west', index: into, documents: 3000 } },
        { id: 'alias', uses: 'search.alias', after: 'fill', with: { datastore: 'search', cluster: 'west', alias: `${index}-live`, index: '${steps.fill.index}' } },
        fails,
      ],
      [{ at: 'search.reindex:apply' }, { at: 'search.alias:apply' }, { at: 'search.alias:undo' }, { at: 'search.reindex:undo' }],
    );
    expect(Object.fromEntries(result.steps.map(({ id, outcome }) => [id, outcome]))).toMatchObject({ fill: 'undone', count: 'already-satisfied', alias: 'undone' });
    expect((await fetch(`${west.url}/${into}`)).status).toBe(404);
    expect(Object.keys(await west.request('GET', `/_alias/${index}-live`))).toEqual([`${index}-old`]);
  });
});
