import type { SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import { CreateSecretCommand, DescribeSecretCommand, GetSecretValueCommand, RemoveRegionsFromReplicationCommand, UpdateSecretCommand } from '@aws-sdk/client-secrets-manager';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { edgeSteps } from '../../activities/edge.ts';
import { secretSteps } from '../../activities/secret.ts';
import type { Phase } from '../../src/model/catalogue.ts';
import type { PhaseResult } from '../../src/model/execution.ts';
import type { Context } from '../../src/systems/context.ts';
import { readEndpoint } from '../../src/systems/endpoint.ts';
import { awsProxy, type AwsProxy } from '../aws-proxy.ts';
import { runStep } from '../step-run.ts';
import { suite, testConfig, uniqueName } from '../support.ts';

const [home, away] = ['us-east-1', 'eu-west-1'];
let context: Context;
let proxy: AwsProxy;
let here: SecretsManagerClient;
let there: SecretsManagerClient;

beforeAll(async () => {
  proxy = await awsProxy(suite().aws.endpoint);
  context = await testConfig({ aws: { endpoint: proxy.url } });
  const direct = await testConfig();
  [here, there] = [await direct.aws.secretsManager(home), await direct.aws.secretsManager(away)];
});
afterAll(() => proxy?.close());
beforeEach(() => proxy.clear());

const run = (uses: string, phase: Phase, input: Record<string, unknown>, call: Parameters<typeof runStep>[5] = {}): Promise<PhaseResult> => runStep(edgeSteps, context, uses, phase, input, call);
const VALUE = { host: '10.0.0.1', port: 5432, username: 'app', password: 'replicated-password', dbname: 'shop' };

async function secret(): Promise<string> {
  const name = uniqueName('app');
  await here.send(new CreateSecretCommand({ Name: name, SecretString: JSON.stringify(VALUE) }));
  return name;
}

const statusOf = async (name: string): Promise<string | undefined> => (await here.send(new DescribeSecretCommand({ SecretId: name }))).ReplicationStatus?.find((one) => one.Region === away)?.Status;
const failing = (result: PhaseResult): string[] => result.checks!.filter((check) => !check.ok).map((check) => check.name);

/** The emulator has no StopReplicationToReplica. This answers it in the documented shape, in the replica's Region, with its effect. */
function promotable(): void {
  proxy.rule(async (call) => {
    if (call.target !== 'secretsmanager.StopReplicationToReplica') return undefined;
    expect(call.region).toBe(away);
    const { SecretId } = JSON.parse(call.body) as { SecretId: string };
    const { ARN } = await there.send(new DescribeSecretCommand({ SecretId }));
    const { SecretString } = await there.send(new GetSecretValueCommand({ SecretId, VersionStage: 'AWSCURRENT' }));
    await here.send(new RemoveRegionsFromReplicationCommand({ SecretId, RemoveReplicaRegions: [away] }));
    await there.send(new CreateSecretCommand({ Name: SecretId, SecretString }));
    return { answer: { status: 200, headers: { 'content-type': 'application/x-amz-json-1.1' }, body: JSON.stringify({ ARN }) } };
  });
}

it('a secret gets a replica that is in sync with the same version, and the undo takes away only what it made', async () => {
  const name = await secret();
  const input = { secret: name, region: away, wait: '5s' };
  const inspected = await run('secret.replicate', 'inspect', input);
  expect(inspected).toMatchObject({ satisfied: false, before: { replica: null } });
  expect(failing(await run('secret.replicate', 'guard', input))).toEqual([]);
  expect(await run('secret.replicate', 'apply', input, { before: inspected.before! })).toMatchObject({ outcome: 'changed' });
  const verified = await run('secret.replicate', 'verify', input);
  expect(failing(verified)).toEqual([]);
  const original = await here.send(new GetSecretValueCommand({ SecretId: name }));
  expect(await there.send(new GetSecretValueCommand({ SecretId: name, VersionStage: 'AWSCURRENT' }))).toMatchObject({ VersionId: original.VersionId!, SecretString: original.SecretString! });
  expect(verified.facts).toEqual({ replica: 'InSync', version: original.VersionId });
  expect(JSON.stringify(verified)).not.toContain(VALUE.password);
  expect(await run('secret.replicate', 'apply', input)).toMatchObject({ outcome: 'already-satisfied' });
  expect(await run('secret.replicate', 'undo', input, { before: { replica: 'InSync' } })).toMatchObject({ outcome: 'already-satisfied' });
  expect(await statusOf(name)).toBe('InSync');
  expect(await run('secret.replicate', 'undo', input, { before: inspected.before! })).toMatchObject({ outcome: 'changed' });
  expect(await statusOf(name)).toBeUndefined();
});

it('a secret of the same name that is no replica is not overwritten', async () => {
  const name = await secret();
  await there.send(new CreateSecretCommand({ Name: name, SecretString: 'somebody else’s' }));
  const input = { secret: name, region: away, wait: '1s' };
  expect(failing(await run('secret.replicate', 'guard', input))).toEqual(['name is free']);
  // Put there after the guard: Secrets Manager itself refuses, and says so in the status.
  await run('secret.replicate', 'apply', input);
  await expect(run('secret.replicate', 'verify', input)).rejects.toMatchObject({ code: 'secret-replica', retryable: false });
  expect((await there.send(new GetSecretValueCommand({ SecretId: name, VersionStage: 'AWSCURRENT' }))).SecretString).toBe('somebody else’s');
});

it('a replica is verified against the original; with its Region lost a forced run says what nobody can know', async () => {
  const name = await secret();
  const input = { secret: name, region: away };
  expect(failing(await run('secret.verifyReplica', 'guard', input))).toEqual(['replica', 'in sync']);
  await run('secret.replicate', 'apply', { ...input, wait: '5s' });
  expect(await run('secret.verifyReplica', 'verify', input)).toMatchObject({ facts: { inSync: true } });
  proxy.rule((call) => (call.target === 'secretsmanager.DescribeSecret' && call.region === home ? { rewrite: (body) => body.replace('"InSync"', '"InProgress"') } : undefined));
  expect(failing(await run('secret.verifyReplica', 'guard', input))).toEqual(['in sync']);
  proxy.clear();
  proxy.rule((call) => (call.region === home ? { answer: { status: 503, body: '' } } : undefined));
  expect(failing(await run('secret.verifyReplica', 'guard', input, { mode: 'planned' }))).toEqual(['in sync']);
  const forced = await run('secret.verifyReplica', 'verify', input, { mode: 'forced' });
  expect(failing(forced)).toEqual([]);
  expect(forced).toMatchObject({ summary: 'there; whether it has the last change is not known', facts: { inSync: null } });
}, 60_000);

it('with its original lost the replica becomes a secret of its own, and is staged and swapped in its Region (the promotion in the documented shape)', async () => {
  const name = await secret();
  const input = { secret: name, region: away };
  await run('secret.replicate', 'apply', { ...input, wait: '5s' });
  promotable();
  proxy.rule((call) => (call.region === home ? { answer: { status: 503, body: '' } } : undefined));
  const inspected = await run('secret.promoteReplica', 'inspect', input);
  expect(inspected).toMatchObject({ satisfied: false, before: { replicaOf: home } });
  expect(failing(await run('secret.promoteReplica', 'guard', input, { mode: 'forced' }))).toEqual([]);
  const applied = await run('secret.promoteReplica', 'apply', input, { before: inspected.before! });
  expect(applied).toMatchObject({ outcome: 'changed', facts: { arn: expect.stringContaining(`:${away}:`) } });
  expect(failing(await run('secret.promoteReplica', 'verify', input))).toEqual([]);
  expect(await run('secret.promoteReplica', 'apply', input)).toMatchObject({ outcome: 'already-satisfied' });
  // The same steps as in a database failover, in the other Region.
  const datastores = { shop: { engine: 'postgres', database: 'shop', store: 'main', admin: { username: 'holdfast', password: 'env:HOLDFAST_TEST_PG_PASSWORD' }, nodes: { a: { host: '10.0.0.1', port: 5432 }, b: { host: '10.1.0.1', port: 5432 } }, endpoint: { secret: name } } };
  const shop = await testConfig({ aws: { endpoint: proxy.url }, datastores });
  const step = (uses: string, phase: Phase, more: Record<string, unknown> = {}, call = {}): Promise<PhaseResult> => runStep(secretSteps, shop, uses, phase, { datastore: 'shop', candidate: 'b', region: away, ...more }, call);
  const staged = await step('secret.stage', 'apply');
  expect((await step('secret.stage', 'verify', {}, { facts: staged.facts })).checks).toMatchObject([{ ok: true }]);
  // Somebody rotates the password there meanwhile: the swap keeps it.
  await there.send(new UpdateSecretCommand({ SecretId: name, SecretString: JSON.stringify({ ...VALUE, password: 'rotated-password' }) }));
  const swapped = await step('secret.swap', 'apply', { currentVersion: staged.facts!['currentVersion'], stagedVersion: staged.facts!['stagedVersion'] });
  expect(swapped.outcome).toBe('changed');
  expect(JSON.parse((await there.send(new GetSecretValueCommand({ SecretId: name, VersionStage: 'AWSCURRENT' }))).SecretString!)).toEqual({ ...VALUE, host: '10.1.0.1', password: 'rotated-password' });
  expect(JSON.parse((await here.send(new GetSecretValueCommand({ SecretId: name, VersionStage: 'AWSCURRENT' }))).SecretString!)).toEqual(VALUE);
  // The configuration can name that Region for everything that reads the secret.
  const configured = await testConfig({ aws: { endpoint: proxy.url }, datastores: { shop: { ...datastores.shop, endpoint: { secret: name, secretRegion: away } } } });
  expect(await readEndpoint(configured, name, away)).toMatchObject({ host: '10.1.0.1' });
  expect((await runStep(secretSteps, configured, 'secret.swap', 'verify', { datastore: 'shop', candidate: 'b' })).checks).toMatchObject([{ ok: true, found: 'b' }]);
}, 60_000);

it('a planned promotion is refused while the replica is behind', async () => {
  const name = await secret();
  const input = { secret: name, region: away };
  await run('secret.replicate', 'apply', { ...input, wait: '5s' });
  proxy.rule((call) => (call.target === 'secretsmanager.DescribeSecret' && call.region === home ? { rewrite: (body) => body.replace('"InSync"', '"InProgress"') } : undefined));
  expect(failing(await run('secret.promoteReplica', 'guard', input))).toEqual(['in sync']);
});
