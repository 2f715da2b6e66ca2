import { CreateSecretCommand, PutSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createShop, SHOP_APPLICATION_ROLE } from '../../src/local/shop.ts';
import { createProcesses, startPostgres, startStandby, type PostgresServer } from '../../src/local/stack.ts';
import { startWebhook } from '../../src/local/webhook.ts';
import { startWriter } from '../../src/local/writer.ts';
import { queryOnce, suite, testDirectory, uniqueName } from '../support.ts';

describe('the shop and its application', () => {
  const processes = createProcesses();
  let primary: PostgresServer;
  let standby: PostgresServer;
  const secretId = uniqueName('shop-application');
  const { aws } = suite();
  const secrets = new SecretsManagerClient({ region: aws.region, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } });
  const secretFor = (server: PostgresServer): string =>
    JSON.stringify({ host: server.host, port: server.port, username: SHOP_APPLICATION_ROLE, password: 'application-password', dbname: 'shop' });

  beforeAll(async () => {
    primary = await startPostgres({ processes, directory: processes.directory, name: 'a' });
    await createShop((database) => primary.connectionString(database), { database: 'shop', rows: 2000, applicationPassword: 'application-password' });
    standby = await startStandby({ processes, directory: processes.directory, name: 'b', primary });
    await secrets.send(new CreateSecretCommand({ Name: secretId, SecretString: secretFor(primary) }));
  });
  afterAll(async () => {
    secrets.destroy();
    await processes.end();
  });

  it('has at least the rows asked for, and every kind of object', async () => {
    const [found] = await queryOnce(
      primary.connectionString('shop'),
      `select (select count(*)::int from shop.order_lines) as lines, (select count(*)::int from shop.orders) as orders, (select count(*)::int from pg_largeobject_metadata) as large_objects,
         (select count(*)::int from pg_extension where extname <> 'plpgsql') as extensions, (select count(*)::int from pg_policy) as policies,
         (select string_agg(distinct relkind::text, '' order by relkind::text) from pg_class c join pg_namespace n on n.oid = relnamespace where nspname in ('shop', 'Archive')) as kinds,
         (select count(*)::int from shop.revenue_by_day) as days, (select count(*)::int from shop.changes) as touched`,
    );
    expect(found).toMatchObject({ lines: 1200, orders: 500, large_objects: 10, extensions: 3, policies: 2, kinds: 'IScimprv', touched: 10 });
    expect(found?.['days']).toBeGreaterThan(100);
  });

  it('notes acknowledged writes, follows its secret to another node, and sees what a node has lost', async () => {
    const writer = await startWriter({ processes, directory: testDirectory('writer'), secretId, aws, run: 'switch', perSecond: 300 });
    await writer.waitForWrite();
    expect((await writer.lost(primary.connectionString('shop'))).lost).toEqual([]);
    const killedAtMs = Date.now();
    await primary.kill();
    await queryOnce(standby.connectionString(), 'select pg_promote()');
    await secrets.send(new PutSecretValueCommand({ SecretId: secretId, SecretString: secretFor(standby) }));
    const first = await writer.waitForWrite();
    await writer.stop();
    const gap = writer.gap(killedAtMs, first.atMs);
    expect(gap.firstAfter?.atMs).toBeGreaterThan(killedAtMs);
    expect(gap.lastBefore?.atMs).toBeLessThanOrEqual(gap.firstAfter?.atMs ?? 0);
    expect(Object.keys(gap.refusals)).not.toEqual([]);
    // The old primary never saw the new writes: they count as lost there, and nothing else may.
    await primary.start();
    const old = await writer.lost(primary.connectionString('shop'));
    expect(old.acknowledged).toBe(writer.acknowledged().length);
    expect(old.lost.length).toBeGreaterThan(0);
    expect(old.lost.every(({ atMs }) => atMs >= (gap.firstAfter?.atMs ?? 0))).toBe(true);
  });

  it('receives messages, and refuses when told to', async () => {
    const webhook = await startWebhook();
    const send = (body: string): Promise<number> => fetch(webhook.url, { method: 'POST', body }).then((answer) => answer.status);
    const waiting = webhook.waitFor(({ body }) => body.text === 'two');
    expect([await send('{"text":"one"}'), await send('not json'), await send('{"text":"two"}')]).toEqual([200, 400, 200]);
    expect((await waiting).body).toEqual({ text: 'two' });
    webhook.answerWith(500);
    expect(await send('{"text":"three"}')).toBe(500);
    expect(webhook.messages.map(({ body }) => body.text)).toEqual(['one', 'two']);
    await webhook.close();
  });
});
