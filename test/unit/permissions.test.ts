import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { CATALOGUE } from '../../src/model/catalogue.ts';
import { configSchema, type Config, type PostgresDatastore } from '../../src/model/config-schema.ts';
import { ACTIONS_OF_COMMANDS, allows, MANAGED_POLICY_CHARACTERS, neededFor, policyProblems, SERVICES, type PolicyDocument } from '../../src/model/iam.ts';
import { ACTIVITY_ROLES, policiesFor, RESOURCES, ROLES, WORKFLOW_PERMISSIONS, type PolicyScope, type Role, type Use } from '../../src/model/permissions.ts';
import { loadConfig } from '../../src/systems/config-file.ts';
import { runHere } from '../cli/program.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** Actions by the names of the commands that the installed SDK has. */
const commands = new Map<string, ReadonlySet<string>>();

beforeAll(async () => {
  for (const [name, service] of Object.entries(SERVICES)) {
    const sdk = (await import(`@aws-sdk/client-${name}`)) as Record<string, unknown>;
    commands.set(service, new Set([...(commands.get(service) ?? []), ...Object.keys(sdk).filter((key) => key.endsWith('Command')).map((key) => key.slice(0, -'Command'.length))]));
  }
});

const isAction = (action: string): boolean => {
  // The SDK calls it itself when a role is assumed; the client of STS is none of ours.
  if (action === 'sts:AssumeRole') return true;
  const [service, name] = action.split(':') as [string, string];
  return commands.get(service)?.has(ACTIONS_OF_COMMANDS[action] ?? name) === true;
};

/** Everything there is: two Regions, RDS with snapshots, buckets, object lock, secrets everywhere. */
const CONFIG: Config = configSchema.parse({
  version: 1,
  environment: 'test',
  aws: { region: 'eu-central-1' },
  temporal: { apiKey: 'aws-sm:temporal/key' },
  stores: {
    main: { type: 's3', bucket: 'backups', prefix: 'holdfast', objectLock: { mode: 'GOVERNANCE', retain: '3d' }, credentials: { accessKeyId: 'aws-sm:store/keys#id', secretAccessKey: 'aws-sm:store/keys#secret' }, encryption: { recipients: ['age1x'], identity: 'aws-sm:age/identity' } },
    disk: { type: 'folder', path: '/backups' },
    vault: { type: 's3', bucket: 'vault', assumeRole: { arn: 'arn:aws:iam::210987654321:role/vault' } },
  },
  datastores: {
    shop: {
      engine: 'postgres', database: 'shop', store: 'main', admin: { username: 'h', password: 'aws-sm:shop/admin#password' },
      managed: { type: 'rds', snapshots: { copies: [{ region: 'eu-west-1' }], drill: { instanceClass: 'db.t4g.medium', subnetGroup: 'Isolated', securityGroups: ['sg-1'] } } },
      nodes: { a: { host: 'a', rds: { instance: 'Shop-A' } }, b: { host: 'b', rds: { instance: 'shop-b', region: 'eu-west-1' } } },
      endpoint: { secret: 'shop/app', dns: { hostedZoneId: 'Z1', name: 'db.shop' } },
    },
    local: { engine: 'postgres', database: 'local', store: 'disk', admin: { username: 'h', password: 'env:X' }, nodes: { a: { host: 'c' } } },
    files: { engine: 's3', bucket: 'files', prefix: 'orders' },
    items: { engine: 'dynamodb', tables: ['orders'], store: 'main', drill: { region: 'eu-west-1' } },
    theirs: { engine: 'dynamodb', tables: ['orders'], store: 'vault', assumeRole: { arn: 'arn:aws:iam::210987654321:role/tables' }, drill: { assumeRole: { arn: 'arn:aws:iam::210987654321:role/drills' } } },
  },
  services: { orders: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop', 'files'] } },
  evidence: { store: 'main' },
});

const scope = (config: Config = CONFIG, datastores = Object.keys(config.datastores)): PolicyScope => ({ config, datastores, account: '123456789012', partition: 'aws' });
const USES: Use[] = Object.keys(CATALOGUE).map((kind) => ({ kind, inputs: {} }));

function documents(role: Role, uses = USES, of = scope()): PolicyDocument[] {
  return policiesFor(role, of, uses).policies.map(({ document }) => document);
}

function allowed(role: Role, action: string, resource: string, context: Record<string, string> = {}): boolean {
  return documents(role).some((document) => allows(document, { action, resource }, context));
}

const NEW = { 's3:if-none-match': '*', 's3:ObjectCreationOperation': 'true' };
const PLAIN = { 's3:ObjectCreationOperation': 'true' };
const PART = { 's3:ObjectCreationOperation': 'false' };
const BACKUP = 'arn:aws:s3:::backups/holdfast/shop/2026/11/21/030000Z-x/data.zst';

describe('every policy', () => {
  it.each(ROLES)('of %s is one by the grammar of IAM, names every action, and is no longer than IAM takes', (role) => {
    for (const uses of [USES, []]) {
      for (const document of documents(role, uses)) {
        expect(policyProblems(JSON.parse(JSON.stringify(document)), { isAction })).toEqual([]);
        expect(JSON.stringify(document).length).toBeLessThanOrEqual(MANAGED_POLICY_CHARACTERS);
      }
    }
  });

  it('is split where it would be too long, and loses nothing by it', () => {
    const uses: Use[] = Array.from({ length: 120 }, (_, index) => ({ kind: 'sqs.verifyEmpty', inputs: { queue: `queue-with-a-long-name-${index}`, region: 'eu-west-1' } }));
    const { policies } = policiesFor('failover', scope(), uses);
    expect(policies.length).toBeGreaterThan(2);
    expect(policies.every(({ characters }) => characters <= MANAGED_POLICY_CHARACTERS)).toBe(true);
    for (let index = 0; index < 120; index += 1) expect(policies.some(({ document }) => allows(document, { action: 'sqs:GetQueueUrl', resource: `arn:aws:sqs:eu-west-1:123456789012:queue-with-a-long-name-${index}` }))).toBe(true);
  });

  it('has only what the catalogue and the roles declare, on words that are known, with actions that AWS has', () => {
    const declared = [...Object.entries(CATALOGUE).map(([whose, { permissions }]) => ({ whose, permissions })), ...ROLES.map((whose) => ({ whose: whose as string, permissions: WORKFLOW_PERMISSIONS[whose] }))];
    const wrong = declared.flatMap(({ whose, permissions }) => permissions.flatMap(({ action, on }) => [...(isAction(action) ? [] : [`${whose}: ${action} is no action`]), ...(Object.hasOwn(RESOURCES, on) ? [] : [`${whose}: on ${on}`])]));
    expect(wrong).toEqual([]);
    expect(Object.values(ACTIVITY_ROLES).filter((role) => !ROLES.includes(role))).toEqual([]);
  });
});

describe('the roles', () => {
  it('backup-writer writes what is new, and can neither delete nor overwrite', () => {
    expect(allowed('backup-writer', 's3:PutObject', BACKUP, NEW)).toBe(true);
    expect(allowed('backup-writer', 's3:PutObject', BACKUP, PART)).toBe(true);
    expect(allowed('backup-writer', 's3:PutObject', BACKUP, PLAIN)).toBe(false);
    for (const action of documents('backup-writer').flatMap((document) => document.Statement.flatMap((statement) => statement.Action))) expect(action).not.toMatch(/Delete|Bypass|PutLifecycle|PutBucket/);
    expect(allowed('backup-writer', 'secretsmanager:GetSecretValue', 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:age/identity-AbCdEf')).toBe(false);
    expect(allowed('backup-writer', 's3:GetObject', 'arn:aws:s3:::backups/other/shop/x')).toBe(false);
  });

  it('of DynamoDB: a backup only reads its tables, a drill writes only tables of drills, in their Region', () => {
    const table = (name: string, region = 'eu-central-1'): string => `arn:aws:dynamodb:${region}:123456789012:table/${name}`;
    expect(allowed('backup-writer', 'dynamodb:Scan', table('orders'))).toBe(true);
    expect(allowed('backup-writer', 'dynamodb:Scan', table('others'))).toBe(false);
    for (const role of ['backup-writer', 'drill'] as const) for (const action of ['dynamodb:BatchWriteItem', 'dynamodb:DeleteTable', 'dynamodb:CreateTable', 'dynamodb:UpdateTable']) expect(allowed(role, action, table('orders'))).toBe(false);
    expect(allowed('drill', 'dynamodb:DeleteTable', table('holdfast-drill-0123456789ab-orders', 'eu-west-1'))).toBe(true);
    expect(allowed('drill', 'dynamodb:PartiQLSelect', table('holdfast-drill-0123456789ab-orders/index/by-day', 'eu-west-1'))).toBe(true);
    expect(neededFor('dynamodb', 'ExecuteStatement', { Statement: 'SELECT n FROM "holdfast-drill-1-orders"."by-day" WHERE d = 1' })).toEqual([{ action: 'dynamodb:PartiQLSelect', resource: 'arn:aws:dynamodb:*:*:table/holdfast-drill-1-orders' }]);
    expect(neededFor('dynamodb', 'CreateTable', { TableName: 'a', Tags: [] }).map(({ action }) => action)).toEqual(['dynamodb:CreateTable', 'dynamodb:TagResource']);
    expect(neededFor('dynamodb', 'BatchWriteItem', { RequestItems: { a: [], b: [] } }).map(({ resource }) => resource)).toEqual(['arn:aws:dynamodb:*:*:table/a', 'arn:aws:dynamodb:*:*:table/b']);
  });

  it('a datastore with a role has its tables in the account of that role, which every role may assume and no other', () => {
    const theirs = 'arn:aws:dynamodb:eu-central-1:210987654321:table/orders';
    const without = scope(CONFIG, ['items']);
    const evidence = scope({ ...CONFIG, evidence: { ...CONFIG.evidence, store: 'vault' } });
    expect(JSON.stringify(documents('worker', [], evidence))).toContain('role/vault');
    expect(JSON.stringify(documents('worker'))).not.toContain('sts:AssumeRole');
    // A drill's own role is for drills.
    for (const role of ['backup-writer', 'retention-deleter', 'drill'] as const) expect({ role, drills: JSON.stringify(documents(role)).includes('role/drills') }).toEqual({ role, drills: role === 'drill' });
    // A copy reads by the role of its source, and a lifecycle rule is set by that of the store that is named.
    expect(JSON.stringify(documents('failover', [{ kind: 'dynamodb.copy', inputs: { source: 'theirs', datastore: 'items', table: 'orders', targetTable: 'orders' } }], scope(CONFIG, ['items'])))).toContain('role/tables');
    expect(JSON.stringify(documents('failover', [{ kind: 's3.lifecycle', inputs: { store: 'vault' } }], without))).toContain('role/vault');
    expect(JSON.stringify(documents('backup-writer'))).toContain(`"${theirs}"`);
    expect(JSON.stringify(documents('backup-writer', [], without))).not.toContain('210987654321');
    for (const role of ['backup-writer', 'retention-deleter', 'drill', 'failover'] as const) {
      expect({ role, vault: allowed(role, 'sts:AssumeRole', 'arn:aws:iam::210987654321:role/vault'), other: allowed(role, 'sts:AssumeRole', 'arn:aws:iam::210987654321:role/admin') }).toEqual({ role, vault: true, other: false });
      expect(JSON.stringify(documents(role, [], without))).not.toContain('sts:AssumeRole');
    }
  });

  it('the only store there is need not be named to be in the policies', () => {
    const { store: _, ...local } = CONFIG.datastores['local'] as PostgresDatastore;
    const config = (stores: Config['stores']): Config => ({ ...CONFIG, stores, datastores: { local }, evidence: { ...CONFIG.evidence, store: undefined } });
    const { main, vault } = CONFIG.stores;
    expect(JSON.stringify(documents('backup-writer', [], scope(config({ main: main! }))))).toContain('arn:aws:s3:::backups/holdfast/local/*');
    expect(JSON.stringify(documents('backup-writer', [], scope(config({ main: main!, vault: vault! }))))).not.toContain('arn:aws:s3');
  });

  it('retention-deleter deletes and cannot write', () => {
    expect(allowed('retention-deleter', 's3:DeleteObject', BACKUP)).toBe(true);
    expect(allowed('retention-deleter', 's3:DeleteObjectVersion', BACKUP)).toBe(false);
    for (const action of documents('retention-deleter').flatMap((document) => document.Statement.flatMap((statement) => statement.Action))) expect(action).not.toMatch(/Put|Create|Copy|Modify|Restore|AddTags/);
    expect(allowed('retention-deleter', 's3:DeleteObject', 'arn:aws:s3:::backups/holdfast/evidence/x')).toBe(false);
    expect(allowed('retention-deleter', 'rds:DeleteDBSnapshot', 'arn:aws:rds:eu-west-1:123456789012:snapshot:holdfast-shop-x')).toBe(true);
    expect(allowed('retention-deleter', 'rds:DeleteDBSnapshot', 'arn:aws:rds:eu-west-1:123456789012:snapshot:of-somebody-else')).toBe(false);
  });

  it('drill marks backups, touches none of their data, and deletes no instance but its own', () => {
    expect(allowed('drill', 's3:PutObject', 'arn:aws:s3:::backups/holdfast/shop/2026/11/21/030000Z-x/MARK-verified.json')).toBe(true);
    expect(allowed('drill', 's3:DeleteObject', BACKUP)).toBe(false);
    expect(allowed('drill', 's3:PutObject', BACKUP, NEW)).toBe(false);
    expect(allowed('drill', 'rds:DeleteDBInstance', 'arn:aws:rds:eu-central-1:123456789012:db:holdfast-drill-shop-1')).toBe(true);
    expect(allowed('drill', 'rds:DeleteDBInstance', 'arn:aws:rds:eu-central-1:123456789012:db:shop-a')).toBe(false);
  });

  it('failover has what its steps declare, on what the configuration names', () => {
    const uses: Use[] = [{ kind: 'postgres.promote', inputs: { datastore: 'shop' } }, { kind: 'secret.swap', inputs: { datastore: 'shop' } }, { kind: 'route53.change', inputs: { datastore: 'shop' } }];
    const of = (action: string, resource: string): boolean => documents('failover', uses).some((document) => allows(document, { action, resource }));
    expect(of('rds:PromoteReadReplica', 'arn:aws:rds:eu-west-1:123456789012:db:shop-b')).toBe(true);
    expect(of('rds:PromoteReadReplica', 'arn:aws:rds:eu-west-1:123456789012:db:shop-c')).toBe(false);
    expect(of('rds:DeleteDBInstance', 'arn:aws:rds:eu-west-1:123456789012:db:shop-b')).toBe(false);
    expect(of('secretsmanager:UpdateSecretVersionStage', 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop/app-AbCdEf')).toBe(true);
    expect(of('secretsmanager:UpdateSecretVersionStage', 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop/other-AbCdEf')).toBe(false);
    expect(of('route53:ChangeResourceRecordSets', 'arn:aws:route53:::hostedzone/Z1')).toBe(true);
    expect(of('route53:ChangeResourceRecordSets', 'arn:aws:route53:::hostedzone/Z2')).toBe(false);
    // A datastore that is not managed has nothing of RDS in its policy.
    expect(documents('failover', [{ kind: 'postgres.promote', inputs: { datastore: 'local' } }], scope(CONFIG, ['local'])).flatMap((document) => document.Statement.flatMap(({ Action }) => Action)).filter((action) => action.startsWith('rds:'))).toEqual([]);
  });

  it('a step restores objects of its datastore and removes versions of drills only', () => {
    const uses: Use[] = Object.keys(CATALOGUE).filter((kind) => kind.startsWith('s3.')).map((kind) => ({ kind, inputs: { datastore: 'files' } }));
    const of = (action: string, resource: string): boolean => documents('failover', uses).some((document) => allows(document, { action, resource }));
    expect(of('s3:PutObject', 'arn:aws:s3:::files/orders/1')).toBe(true);
    expect(of('s3:PutObject', 'arn:aws:s3:::files/elsewhere/1')).toBe(false);
    expect(of('s3:DeleteObjectVersion', 'arn:aws:s3:::files/orders/1')).toBe(false);
    expect(of('s3:DeleteObjectVersion', 'arn:aws:s3:::files/orders/.holdfast-drill/x')).toBe(true);
  });

  it('what is only known when a runbook runs is said to be wide', () => {
    const { notes } = policiesFor('failover', scope(), [{ kind: 'sqs.redrive', inputs: { deadLetterQueue: '${steps.x.queue}', queue: '${steps.x.y}' } }]);
    expect(notes).toEqual([expect.stringContaining('sqs.redrive: queue is not narrowed')]);
  });
});

describe('the validator', () => {
  const good = { Version: '2012-10-17', Statement: [{ Sid: 'a', Effect: 'Allow', Action: ['s3:GetObject'], Resource: ['arn:aws:s3:::b/*'] }] };
  const of = (change: (document: { Version: string; Statement: Record<string, unknown>[] }) => void): string[] => {
    const document = structuredClone(good) as unknown as { Version: string; Statement: Record<string, unknown>[] };
    change(document);
    return policyProblems(document, { isAction });
  };

  it('takes a policy and finds what is wrong with one', () => {
    expect(of(() => {})).toEqual([]);
    expect(of((document) => (document.Version = '2008-10-17'))).toHaveLength(1);
    expect(of((document) => document.Statement.push(structuredClone(good.Statement[0]!)))).toEqual(['Statement[1]: Sid a is there twice']);
    expect(of((document) => (document.Statement[0]!['Sid'] = 'not-allowed'))).toHaveLength(1);
    expect(of((document) => (document.Statement[0]!['Effect'] = 'allow'))).toHaveLength(1);
    expect(of((document) => (document.Statement[0]!['Action'] = ['s3:*']))).toHaveLength(1);
    expect(of((document) => (document.Statement[0]!['Action'] = ['s3:GetObjekt']))).toEqual(['Statement[0]: s3:GetObjekt is no action that AWS has']);
    expect(of((document) => (document.Statement[0]!['Action'] = 's3:GetObject'))).toHaveLength(1);
    expect(of((document) => (document.Statement[0]!['Resource'] = ['b/*']))).toHaveLength(1);
    expect(of((document) => (document.Statement[0]!['Resource'] = ['arn:aws:rds:eu-west-1:123456789012:db:x']))).toHaveLength(1);
    expect(of((document) => (document.Statement[0]!['NotAction'] = []))).toHaveLength(1);
    expect(of((document) => (document.Statement[0]!['Condition'] = { Nul: { 's3:if-none-match': 'false' } }))).toHaveLength(1);
    expect(policyProblems({ Version: '2012-10-17', Statement: [] }, { isAction })).toHaveLength(1);
    expect(policyProblems(null, { isAction })).toHaveLength(1);
  });

  it('knows which actions a command needs, and denies win', () => {
    const needed = neededFor('s3', 'CopyObject', { Bucket: 'b', Key: 'k', CopySource: 'b/k%20x?versionId=1' });
    expect(needed.map(({ action, resource }) => `${action} ${resource}`)).toEqual(['s3:PutObject arn:aws:s3:::b/k', 's3:GetObjectVersion arn:aws:s3:::b/k x', 's3:GetObjectVersionTagging arn:aws:s3:::b/k x', 's3:PutObjectTagging arn:aws:s3:::b/k']);
    expect(neededFor('s3', 'DeleteObject', { Bucket: 'b', Key: 'k', VersionId: '1' })).toEqual([{ action: 's3:DeleteObjectVersion', resource: 'arn:aws:s3:::b/k' }]);
    expect(neededFor('sqs', 'DeleteMessageBatch', {})).toEqual([{ action: 'sqs:DeleteMessage', resource: '*' }]);
    const both: PolicyDocument = { Version: '2012-10-17', Statement: [...good.Statement, { Sid: 'b', Effect: 'Deny', Action: ['s3:GetObject'], Resource: ['arn:aws:s3:::b/secret*'] }] as PolicyDocument['Statement'] };
    expect(allows(both, { action: 's3:GetObject', resource: 'arn:aws:s3:::b/x' })).toBe(true);
    expect(allows(both, { action: 's3:GetObject', resource: 'arn:aws:s3:::b/secret/x' })).toBe(false);
    expect(allows(both, { action: 's3:GetObject', resource: 'arn:aws:s3:::c/x' })).toBe(false);
  });
});

it('the command prints policies of one role, narrowed to a service, and refuses what it does not know', async () => {
  const run = (...args: string[]) => runHere(['--config', `${ROOT}/holdfast.example.yaml`, '--runbooks', `${ROOT}/runbooks`, 'permissions', ...args]);
  const shown = await run('--role', 'failover', '--service', 'orders', '--account', '123456789012', '--json');
  expect(shown).toMatchObject({ code: 0, err: '' });
  const [role] = JSON.parse(shown.out) as { policies: { document: PolicyDocument }[] }[];
  const { config } = await loadConfig(`${ROOT}/holdfast.example.yaml`, { runbookDirectory: `${ROOT}/runbooks` });
  const zone = (config.datastores['orders-db'] as { endpoint: { dns: { hostedZoneId: string } } }).endpoint.dns.hostedZoneId;
  expect(role!.policies.some(({ document }) => allows(document, { action: 'route53:ChangeResourceRecordSets', resource: `arn:aws:route53:::hostedzone/${zone}` }))).toBe(true);
  for (const { document } of role!.policies) expect(policyProblems(document, { isAction })).toEqual([]);
  expect((await run('--role', 'backup-writer')).out).toContain('holdfast-backup-writer');
  expect((await run('--role', 'everything')).code).toBe(2);
  expect((await run('--service', 'nothing')).code).toBe(3);
  expect((await run('--account', '12')).code).toBe(2);
});
