import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runDoctor, type Finding } from '../../src/engine/doctor.ts';
import { generateSigningKey } from '../../src/systems/evidence-keys.ts';
import { connectTemporal, runningWorker, suite, testBucket, testConfig, testDatabase, testDatastore, testSecret, type TestDatabase } from '../support.ts';

const ASK = { fix: false, notifyTest: false };
let database: TestDatabase;

beforeAll(async () => {
  database = await testDatabase('doctor');
});
afterAll(() => database?.drop());

function texts(findings: readonly Finding[], area: string, level: Finding['level']): string {
  return findings.filter((finding) => finding.area === area && finding.level === level).map((finding) => `${finding.what}${finding.next === undefined ? '' : ` => ${finding.next}`}`).join('\n');
}

describe('doctor', () => {
  test('a host on which all is well has no failure, and says what it saw', async () => {
    const secret = await testSecret('endpoint', { host: database.host, port: database.port, username: 'app', password: 'never-shown-1234', dbname: database.database });
    process.env['HOLDFAST_TEST_SIGNING'] = generateSigningKey().privatePem;
    const context = await testConfig({
      datastores: { shop: testDatastore(database, { endpoint: { secret } }) },
      evidence: { signingKey: 'env:HOLDFAST_TEST_SIGNING' },
    });
    const worker = await runningWorker(context);
    try {
      const findings = await runDoctor(context, { ...ASK, fix: true });
      expect(findings.filter(({ level }) => level === 'fail').filter(({ what }) => !what.includes('fsync is off'))).toEqual([]);
      expect(texts(findings, 'temporal', 'ok')).toMatch(/reachable at 127\.0\.0\.1:\d+, namespace default[\s\S]*search attributes are registered[\s\S]*1 worker\(s\) poll/);
      expect(texts(findings, 'store main', 'ok')).toMatch(/written and read back[\s\S]*If-None-Match[\s\S]*listing shows[\s\S]*deleting works/);
      expect(texts(findings, 'store main', 'warn')).toMatch(/object lock/);
      expect(texts(findings, 'datastore shop', 'ok')).toMatch(/a: PostgreSQL 15\.\d+, primary[\s\S]*pg_dump \(PostgreSQL\) 15[\s\S]*drills can run here[\s\S]*endpoint secret .* points to a /);
      expect(texts(findings, 'evidence', 'ok')).toContain('Ed25519 private key');
      // The test server runs without fsync: exactly what must be told.
      expect(texts(findings, 'datastore shop', 'fail')).toMatch(/fsync is off/);
      const shown = JSON.stringify(findings);
      for (const hidden of ['never-shown-1234', database.password, suite().s3.secretAccessKey, 'PRIVATE KEY']) expect(shown).not.toContain(hidden);
    } finally {
      await worker.stop();
    }
  });

  test('each thing that is wrong is named, beside each other, with what to do', async () => {
    const context = await testConfig({
      temporal: { address: '127.0.0.1:1' },
      stores: { gone: { type: 's3', bucket: 'no-such-bucket-here', endpoint: suite().s3.endpoint, forcePathStyle: true, credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' } } },
      datastores: {
        down: testDatastore(database, { nodes: { a: { host: '127.0.0.1', port: 1 } } }),
        denied: testDatastore(database, { admin: { password: 'env:HOLDFAST_TEST_WRONG' }, binDirectory: '/nowhere' }),
        elsewhere: testDatastore(database, { endpoint: { secret: await testSecret('endpoint', { host: 'other', port: 5432, username: 'a', password: 'b', dbname: 'c' }) } }),
      },
      evidence: { signingKey: 'env:HOLDFAST_TEST_WRONG' },
      notify: { ops: { type: 'slack', url: 'env:HOLDFAST_TEST_NOT_SET' } },
    });
    process.env['HOLDFAST_TEST_WRONG'] = 'not-the-password';
    const findings = await runDoctor(context, { ...ASK, notifyTest: true });
    expect(texts(findings, 'temporal', 'fail')).toMatch(/127\.0\.0\.1:1 cannot be reached.*=> check that the server runs/);
    expect(texts(findings, 'store gone', 'fail')).toMatch(/no-such-bucket-here/);
    expect(texts(findings, 'store main', 'fail')).toBe('');
    expect(texts(findings, 'datastore down', 'fail')).toMatch(/a: PostgreSQL at 127\.0\.0\.1:1 .*cannot be reached/);
    expect(texts(findings, 'datastore denied', 'fail')).toMatch(/password authentication failed[\s\S]*pg_dump is not found => install/);
    expect(texts(findings, 'datastore elsewhere', 'fail')).toMatch(/points to other:5432, which is none of the nodes/);
    expect(texts(findings, 'secrets', 'fail')).toMatch(/notify\.ops\.url: environment variable HOLDFAST_TEST_NOT_SET is not set/);
    expect(texts(findings, 'evidence', 'fail')).toMatch(/no private key in PEM, expected Ed25519/);
    expect(texts(findings, 'notify', 'fail')).toMatch(/ops: environment variable/);
    expect(findings.filter((finding) => finding.level !== 'ok' && finding.next === undefined)).toEqual([]);
    expect(JSON.stringify(findings)).not.toContain('not-the-password');
  });

  test('object lock and versioning of a bucket are read, and a promise the bucket cannot keep fails', async () => {
    const [locked, plain] = [await testBucket({ objectLock: true }), await testBucket()];
    const objectLock = { mode: 'GOVERNANCE', retain: '1d' };
    const common = { type: 's3', endpoint: suite().s3.endpoint, forcePathStyle: true, credentials: { accessKeyId: 'env:HOLDFAST_TEST_S3_KEY', secretAccessKey: 'env:HOLDFAST_TEST_S3_SECRET' } };
    const context = await testConfig({ stores: { locked: { ...common, bucket: locked, objectLock }, promised: { ...common, bucket: plain, objectLock } } });
    const findings = await runDoctor(context, ASK);
    expect(texts(findings, 'store locked', 'ok')).toMatch(/object lock is on; backups are locked GOVERNANCE for 1d 00h/);
    expect(texts(findings, 'store locked', 'ok')).toMatch(/versioning is enabled/);
    expect(texts(findings, 'store promised', 'fail')).toMatch(/the bucket has no object lock/);
  });

  test('--fix registers search attributes in a namespace that has none, once', async () => {
    const context = await testConfig();
    const client = await connectTemporal(context);
    const namespace = `doctor-${Date.now()}`;
    try {
      await client.connection.workflowService.registerNamespace({ namespace, workflowExecutionRetentionPeriod: { seconds: 86_400 as never } });
    } finally {
      await client.connection.close();
    }
    const fresh = { ...context, config: { ...context.config, temporal: { ...context.config.temporal, namespace } } };
    const look = async (fix: boolean): Promise<Finding[]> => runDoctor(fresh, { ...ASK, fix });
    // A new namespace is known to every part of the server a moment later.
    await expect.poll(async () => texts(await look(false), 'temporal', 'fail'), { timeout: 60_000, interval: 500 }).toMatch(/^search attributes are not registered: HoldfastService.*=> holdfast doctor --fix/);
    expect(texts(await look(true), 'temporal', 'ok')).toMatch(/registered now: HoldfastService, HoldfastDatastore/);
    expect(texts(await look(false), 'temporal', 'ok')).toMatch(/search attributes are registered/);
    expect(texts(await look(true), 'temporal', 'ok')).toMatch(/search attributes are registered/);
    expect(texts(await look(false), 'temporal', 'warn')).toMatch(/histories are kept 1 day/);
  });
});
