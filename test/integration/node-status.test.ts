import { afterAll, beforeAll, expect, it } from 'vitest';
import type { PostgresDatastore } from '../../src/model/config-schema.ts';
import type { Context } from '../../src/systems/context.ts';
import { freePort } from '../../src/systems/free-port.ts';
import { lookAtRoles } from '../../src/systems/postgres-roles.ts';
import { nodeStatus, patientStatus } from '../../src/systems/postgres-node.ts';
import type { ToxicProxy } from '../../src/local/stack.ts';
import { suite, testConfig, testDatabase, testDatastore, toxiproxy, uniqueName, type TestDatabase } from '../support.ts';

// A link that is slow for a while: the first look (3 s to connect) ends without an answer, the second one has it.
const SLOW_MS = 60_000;
const HEALED_AFTER_MS = 3500;

let database: TestDatabase;
let proxy: ToxicProxy;
let context: Context;

beforeAll(async () => {
  database = await testDatabase('shop');
  proxy = await toxiproxy().proxy(uniqueName('slow'), `127.0.0.1:${suite().postgres.port}`);
  const nodes = { a: { host: database.host, port: database.port }, slow: { host: '127.0.0.1', port: Number(proxy.address.split(':')[1]) }, gone: { host: '127.0.0.1', port: await freePort() } };
  context = await testConfig({ datastores: { shop: testDatastore(database, { nodes }) } });
});

afterAll(async () => {
  context?.close();
  await database?.drop();
});

const shop = (): PostgresDatastore => context.config.datastores['shop'] as PostgresDatastore;

async function whileSlow<T>(look: () => Promise<T>): Promise<T> {
  await proxy.addToxic({ type: 'latency', stream: 'downstream', attributes: { latency: SLOW_MS } });
  const healing = new Promise((resolve) => setTimeout(resolve, HEALED_AFTER_MS)).then(() => proxy.removeToxics());
  try {
    return await look();
  } finally {
    await healing;
  }
}

it('one look says that there was no answer in time, which is not that the server is down', async () => {
  expect(await whileSlow(() => nodeStatus(context, shop(), 'slow'))).toMatchObject({ reachable: false, timedOut: true, errorCode: null });
});

it('a node that is slow to answer is looked at once more', async () => {
  expect(await whileSlow(() => patientStatus(context, shop(), 'slow'))).toMatchObject({ reachable: true, timedOut: false, inRecovery: false });
});

it('what refuses at once is not asked again', async () => {
  const status = await patientStatus(context, shop(), 'gone');
  expect(status).toMatchObject({ reachable: false, timedOut: false });
  expect(status.error).toContain('ECONNREFUSED');
});

it('who is looked for among the nodes is looked at again, but for the primary that a forced failover gives up', async () => {
  const planned = await whileSlow(() => lookAtRoles(context, shop(), { primary: 'a' }));
  expect(planned.statuses.get('slow')).toMatchObject({ reachable: true });
  const forced = await whileSlow(() => lookAtRoles(context, shop(), { primary: 'slow', mode: 'forced' }));
  expect(forced.statuses.get('slow')).toMatchObject({ reachable: false, timedOut: true });
  expect(forced.statuses.get('a')).toMatchObject({ reachable: true });
});
