import { CATALOGUE } from './catalogue.ts';
import { roleOfDrill } from './config-dynamodb.ts';
import { accountOf } from './config-words.ts';
import { isBackedUp, storeOfBackups, type Config, type DynamoDatastore, type S3StoreConfig } from './config-schema.ts';
import { MANAGED_POLICY_CHARACTERS, type PolicyDocument, type PolicyStatement } from './iam.ts';
import { HoldfastError } from './errors.ts';
import { joinPrefix } from './manifest.ts';
import { allow, type Permission } from './step-kind.ts';

/**
 * Least privilege: which AWS calls each part makes, on what, and IAM policies of that. Step kinds declare theirs in the catalogue; what is
 * no step kind declares its own here. Tests record the calls really made and hold them against this.
 */
export const ROLES = ['worker', 'backup-writer', 'retention-deleter', 'drill', 'failover'] as const;
export type Role = (typeof ROLES)[number];

export const ROLE_TEXTS: Readonly<Record<Role, string>> = {
  worker: 'What every worker needs, whatever it runs: references to secrets of Temporal, the receivers and the signing key; evidence written once and never again.',
  'backup-writer': 'Backups. It writes what is new, and can neither overwrite nor delete: what an attempt that failed leaves behind is removed by retention.',
  'retention-deleter': 'Retention. It reads, marks nothing, deletes, and cannot write.',
  drill: 'Restore drills. It reads backups, marks them proved or in use, and restores managed snapshots into instances of its own.',
  failover: "The runbooks of the services: what their steps' kinds declare, and readiness, which asks their guards.",
};


/** Not step kinds. Readiness asks guards with the rights of failover, and stores with its own. */
export const READINESS: readonly Permission[] = [...allow('assumedRoles', 'sts:AssumeRole'), ...allow('evidenceRole', 'sts:AssumeRole'), ...allow('databaseSecrets', 'secretsmanager:GetSecretValue'), ...allow('endpointSecret', 'secretsmanager:GetSecretValue', 'secretsmanager:DescribeSecret'), ...allow('endpointZone', 'route53:ListResourceRecordSets'), ...allow('instance', 'rds:DescribeDBInstances'), ...allow('cluster', 'rds:DescribeDBClusters'), ...allow('storeBucket', 's3:ListBucket'), ...allow('runRecords', 's3:GetObject'), ...allow('storeObjects', 's3:GetObject', 's3:GetObjectRetention', 's3:GetObjectLegalHold'), ...allow('storeProbe', 's3:PutObject'), ...allow('evidenceBucket', 's3:ListBucket'), ...allow('evidenceObjects', 's3:GetObject'), ...allow('storeSecrets', 'secretsmanager:GetSecretValue'), ...allow('tables', 'dynamodb:DescribeTable')];

export const WORKFLOW_PERMISSIONS: Readonly<Record<Role, readonly Permission[]>> = {
  worker: [
    ...allow('evidenceRole', 'sts:AssumeRole'),
    ...allow('workerSecrets', 'secretsmanager:GetSecretValue'),
    ...allow('evidenceBucket', 's3:ListBucket'),
    ...allow('evidenceObjects', 's3:GetObject', 's3:GetObjectRetention', 's3:GetObjectLegalHold', 's3:AbortMultipartUpload'),
    ...allow('newEvidenceObjects', 's3:PutObject'),
    ...allow('retainedEvidenceObjects', 's3:PutObjectRetention'),
  ],
  'backup-writer': [
    ...allow('assumedRoles', 'sts:AssumeRole'),
    ...allow('databaseSecrets', 'secretsmanager:GetSecretValue'),
    ...allow('storeSecrets', 'secretsmanager:GetSecretValue'),
    ...allow('storeBucket', 's3:ListBucket', 's3:ListBucketMultipartUploads'),
    ...allow('storeObjects', 's3:GetObject', 's3:GetObjectRetention', 's3:GetObjectLegalHold', 's3:AbortMultipartUpload'),
    ...allow('newStoreObjects', 's3:PutObject'),
    ...allow('newRunRecords', 's3:PutObject'),
    ...allow('runRecords', 's3:GetObject'),
    ...allow('retainedStoreObjects', 's3:PutObjectRetention'),
    ...allow('instance', 'rds:DescribeDBInstances', 'rds:CreateDBSnapshot'),
    ...allow('snapshot', 'rds:CreateDBSnapshot', 'rds:CopyDBSnapshot', 'rds:DescribeDBSnapshots', 'rds:DescribeDBSnapshotAttributes', 'rds:AddTagsToResource'),
    ...allow('sharedSnapshot', 'rds:ModifyDBSnapshotAttribute'),
    ...allow('tables', 'dynamodb:DescribeTable', 'dynamodb:DescribeTimeToLive', 'dynamodb:DescribeContinuousBackups', 'dynamodb:ListTagsOfResource', 'dynamodb:Scan'),
    ...allow('exportedTables', 'dynamodb:ExportTableToPointInTime'),
    ...allow('tableExports', 'dynamodb:DescribeExport'),
    ...allow('anyExport', 'dynamodb:ListExports'),
    ...allow('exportObjects', 's3:PutObject', 's3:PutObjectAcl', 's3:AbortMultipartUpload'),
    ...allow('onDemandTables', 'dynamodb:CreateBackup'),
    ...allow('tableBackups', 'dynamodb:DescribeBackup'),
    ...allow('anyBackup', 'dynamodb:ListBackups'),
  ],
  'retention-deleter': [
    ...allow('assumedRoles', 'sts:AssumeRole'),
    ...allow('storeSecrets', 'secretsmanager:GetSecretValue'),
    ...allow('storeBucket', 's3:ListBucket', 's3:ListBucketMultipartUploads'),
    ...allow('storeObjects', 's3:GetObject', 's3:GetObjectRetention', 's3:GetObjectLegalHold', 's3:DeleteObject', 's3:AbortMultipartUpload'),
    ...allow('snapshot', 'rds:DeleteDBSnapshot'),
    ...allow('anySnapshot', 'rds:DescribeDBSnapshots'),
    ...allow('tableBackups', 'dynamodb:DescribeBackup', 'dynamodb:DeleteBackup'),
    ...allow('anyBackup', 'dynamodb:ListBackups'),
  ],
  drill: [
    ...allow('assumedRoles', 'sts:AssumeRole'),
    ...allow('drillRoles', 'sts:AssumeRole'),
    ...allow('databaseSecrets', 'secretsmanager:GetSecretValue'),
    ...allow('storeSecrets', 'secretsmanager:GetSecretValue'),
    ...allow('identitySecrets', 'secretsmanager:GetSecretValue'),
    ...allow('storeBucket', 's3:ListBucket'),
    ...allow('storeObjects', 's3:GetObject', 's3:GetObjectRetention', 's3:GetObjectLegalHold'),
    ...allow('storeMarks', 's3:PutObject', 's3:DeleteObject'),
    ...allow('newRunRecords', 's3:PutObject'),
    ...allow('instance', 'rds:DescribeDBInstances'),
    ...allow('snapshot', 'rds:DescribeDBSnapshots', 'rds:RestoreDBInstanceFromDBSnapshot'),
    ...allow('pointInTime', 'rds:RestoreDBInstanceToPointInTime'),
    ...allow('drillInstance', 'rds:RestoreDBInstanceFromDBSnapshot', 'rds:RestoreDBInstanceToPointInTime', 'rds:DescribeDBInstances', 'rds:DeleteDBInstance', 'rds:AddTagsToResource'),
    ...allow('drillSurroundings', 'rds:RestoreDBInstanceFromDBSnapshot', 'rds:RestoreDBInstanceToPointInTime'),
    ...allow('tables', 'dynamodb:DescribeTable', 'dynamodb:Scan'),
    ...allow('anyTable', 'dynamodb:ListTables'),
    ...allow('drillTables', 'dynamodb:CreateTable', 'dynamodb:TagResource', 'dynamodb:ListTagsOfResource', 'dynamodb:DescribeTable', 'dynamodb:BatchWriteItem', 'dynamodb:Scan', 'dynamodb:PartiQLSelect', 'dynamodb:DeleteTable'),
    ...allow('tableBackups', 'dynamodb:DescribeBackup', 'dynamodb:RestoreTableFromBackup'),
    ...allow('restoredByService', 'dynamodb:RestoreTableFromBackup', 'dynamodb:PutItem', 'dynamodb:UpdateItem', 'dynamodb:DeleteItem', 'dynamodb:GetItem', 'dynamodb:Query'),
  ],
  failover: READINESS,
};

/** Activities that are no phases of step kinds: whose rights they need beside the worker's own. */
export const ACTIVITY_ROLES: Readonly<Record<string, Role>> = {
  planBackup: 'backup-writer', runBackup: 'backup-writer', settleBackup: 'backup-writer', recordBackupRun: 'backup-writer',
  beginManagedSnapshot: 'backup-writer', findManagedSnapshot: 'backup-writer', awaitManagedSnapshot: 'backup-writer', copyManagedSnapshot: 'backup-writer', shareManagedSnapshot: 'backup-writer', readBeforeSnapshot: 'backup-writer', readAfterSnapshot: 'backup-writer', commitManagedSnapshot: 'backup-writer', settleManagedBackup: 'backup-writer',
  applyRetention: 'retention-deleter',
  startDrillTarget: 'drill', chooseDrillBackup: 'drill', restoreDrillBackup: 'drill', proveDrillRestore: 'drill', concludeDrill: 'drill', destroyDrillTarget: 'drill', choosePointInTime: 'drill', startManagedTarget: 'drill', awaitManagedTarget: 'drill', proveManagedRestore: 'drill', runManagedChecks: 'drill', destroyManagedTarget: 'drill', runDrillChecks: 'drill',
  checkProofs: 'failover', checkRehearsals: 'failover', checkSurroundings: 'failover', checkForced: 'failover', readinessPlan: 'failover', readinessSubjects: 'failover', lastReadiness: 'failover', resolvePlan: 'failover',
  writeEvidence: 'worker', notify: 'worker', verifyImported: 'failover',
};

/**
 * What may be refused without harm, since it is only tidying up: a backup that failed removes what it wrote where it may; where it may not,
 * retention does. Given as `<activity> <action>`.
 */
export const MAY_BE_REFUSED: readonly string[] = ['runBackup s3:DeleteObject', 'settleBackup s3:DeleteObject', 'settleManagedBackup s3:DeleteObject', 'settleManagedBackup rds:DeleteDBSnapshot', 'runBackup dynamodb:DeleteBackup', 'settleBackup dynamodb:DeleteBackup'];

/** A step resolves references to secrets in its own inputs, and in the configuration of its datastore. */
const REFERENCES: readonly Permission[] = allow('inputSecret', 'secretsmanager:GetSecretValue');
const DATASTORE_REFERENCES: readonly Permission[] = [...allow('databaseSecrets', 'secretsmanager:GetSecretValue'), ...allow('assumedRoles', 'sts:AssumeRole')];

/** All that a step kind needs: what it declares, and the secrets it may be told of by reference. */
export function permissionsOf(kind: string): readonly Permission[] {
  const found = Object.hasOwn(CATALOGUE, kind) ? CATALOGUE[kind]! : undefined;
  if (found === undefined || found.runsIn !== 'activity') return [];
  return [...found.permissions, ...REFERENCES, ...(takesDatastore(found.input) ? DATASTORE_REFERENCES : [])];
}

function takesDatastore(input: unknown): boolean {
  const schema = input as { readonly shape?: Readonly<Record<string, unknown>>; readonly def?: { readonly in?: unknown } };
  return schema.shape !== undefined ? Object.hasOwn(schema.shape, 'datastore') : schema.def?.in !== undefined && takesDatastore(schema.def.in);
}

/** One use of a step kind, with what is known of its inputs. */
export interface Use {
  readonly kind: string;
  readonly inputs: Readonly<Record<string, unknown>>;
}

export interface PolicyScope {
  readonly config: Config;
  /** Names under datastores. */
  readonly datastores: readonly string[];
  /** Twelve digits, or `*`. */
  readonly account: string;
  readonly partition: string;
}

interface Resolved {
  readonly resources: readonly string[];
  readonly conditions?: readonly NonNullable<PolicyStatement['Condition']>[];
  /** The resource could not be named: a pattern stands for all of its sort. */
  readonly wide?: boolean;
}

type Resolver = (scope: PolicyScope, inputs: Readonly<Record<string, unknown>>) => Resolved;

/**
 * Only what is not there yet: the request says If-None-Match, which S3 then keeps; parts of an upload create nothing. Source: S3 user guide,
 * "Enforce conditional writes on Amazon S3 buckets".
 */
const NEW_ONLY: readonly NonNullable<PolicyStatement['Condition']>[] = [{ Null: { 's3:if-none-match': 'false' } }, { Bool: { 's3:ObjectCreationOperation': 'false' } }];

interface Word {
  readonly meaning: string;
  readonly resolve: Resolver;
}

/** What a permission may be `on`. */
export const RESOURCES: Readonly<Record<string, Word>> = {
  '*': { meaning: 'everything: IAM knows no resource for the action, or the account', resolve: () => ({ resources: ['*'] }) },
  bucket: { meaning: 'the bucket of the datastore (or, for lifecycle rules, of the store)', resolve: (scope, inputs) => ({ resources: [...bucketsOf(scope, inputs).map(({ bucket }) => s3(scope, bucket)), ...namedStore(scope, inputs).map(({ bucket }) => s3(scope, bucket))] }) },
  objects: { meaning: 'objects below the prefix of the datastore', resolve: (scope, inputs) => ({ resources: bucketsOf(scope, inputs).map(({ bucket, prefix }) => s3(scope, `${bucket}/${joinPrefix(prefix)}*`)) }) },
  cacheBucket: { meaning: 'the bucket of the store that snapshots of the cache lie in', resolve: (scope, inputs) => ({ resources: cacheSnapshotsOf(scope, inputs).map(({ store }) => s3(scope, store.bucket)) }) },
  cacheSnapshots: { meaning: 'snapshots of the cache', resolve: (scope, inputs) => ({ resources: cacheSnapshotsOf(scope, inputs).map(({ store, prefix }) => s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}${joinPrefix(prefix)}*`)) }) },
  drillObjects: { meaning: 'objects of drills, below .holdfast-drill/ of the datastore', resolve: (scope, inputs) => ({ resources: bucketsOf(scope, inputs).map(({ bucket, prefix }) => s3(scope, `${bucket}/${joinPrefix(prefix)}.holdfast-drill/*`)) }) },
  storeBucket: { meaning: 'buckets of the stores that backups of the datastores go to', resolve: (scope) => ({ resources: storesOf(scope).map(({ store }) => s3(scope, store.bucket)) }) },
  storeObjects: { meaning: 'backups of the datastores', resolve: (scope) => ({ resources: backupsOf(scope) }) },
  newRunRecords: { meaning: 'records of backup runs and of verdicts of drills (runs/<datastore>/) that are not there yet', resolve: (scope) => ({ resources: storesOf(scope).map(({ store, datastore }) => s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}runs/${datastore}/*`)), conditions: NEW_ONLY }) },
  runRecords: { meaning: 'records of backup runs and of verdicts of drills', resolve: (scope) => ({ resources: storesOf(scope).map(({ store, datastore }) => s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}runs/${datastore}/*`)) }) },
  newStoreObjects: { meaning: 'backups of the datastores that are not there yet (If-None-Match)', resolve: (scope) => ({ resources: backupsOf(scope), conditions: NEW_ONLY }) },
  retainedStoreObjects: { meaning: 'backups that are put under object lock', resolve: (scope) => ({ resources: backupsOf(scope, (store) => store.objectLock !== undefined) }) },
  storeMarks: { meaning: 'marks on backups (MARK-*): proved, in use, pinned', resolve: (scope) => ({ resources: storesOf(scope).map(({ store, datastore }) => s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}${datastore}/*/MARK-*`)) }) },
  storeProbe: { meaning: 'an object that is never written: readiness asks for the right to', resolve: (scope) => ({ resources: storesOf(scope).map(({ store }) => s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}.holdfast-permission-check`)) }) },
  evidenceBucket: { meaning: 'the bucket of the evidence', resolve: (scope) => ({ resources: evidenceOf(scope).map((store) => s3(scope, store.bucket)) }) },
  evidenceObjects: { meaning: 'evidence', resolve: (scope) => ({ resources: evidenceObjectsOf(scope) }) },
  newEvidenceObjects: { meaning: 'evidence that is not there yet (If-None-Match)', resolve: (scope) => ({ resources: evidenceObjectsOf(scope), conditions: NEW_ONLY }) },
  retainedEvidenceObjects: { meaning: 'evidence that is put under object lock', resolve: (scope) => ({ resources: evidenceOf(scope).some((store) => store.objectLock !== undefined) ? evidenceObjectsOf(scope) : [] }) },
  workerSecrets: { meaning: 'secrets of Temporal, the receivers of notices and the signing key', resolve: (scope) => ({ resources: secretsIn(scope, [scope.config.temporal, scope.config.notify, scope.config.evidence]) }) },
  assumedRoles: { meaning: 'roles that are assumed for the datastores and their stores (assumeRole)', resolve: (scope, inputs) => ({ resources: rolesOf(scope, inputs) }) },
  drillRoles: { meaning: 'roles that are assumed for drills (drill.assumeRole)', resolve: (scope, inputs) => ({ resources: arnsOf(dynamoOf(scope, inputs).map(roleOfDrill)) }) },
  evidenceRole: { meaning: 'the role that is assumed for the store of the evidence', resolve: (scope) => ({ resources: arnsOf(evidenceOf(scope).map(({ assumeRole }) => assumeRole)) }) },
  databaseSecrets: { meaning: 'secrets that the datastores themselves name', resolve: (scope, inputs) => ({ resources: secretsIn(scope, datastoresOf(scope, inputs).map((name) => scope.config.datastores[name])) }) },
  storeSecrets: { meaning: 'credentials of the stores', resolve: (scope) => ({ resources: secretsIn(scope, storesOf(scope).map(({ store }) => store.credentials)) }) },
  identitySecrets: { meaning: 'identities that decrypt backups', resolve: (scope) => ({ resources: secretsIn(scope, scope.datastores.map((name) => storeFor(scope, name)?.encryption)) }) },
  endpointSecret: { meaning: "the application's connection secret (endpoint.secret)", resolve: (scope, inputs) => ({ resources: postgresOf(scope, inputs).flatMap(({ endpoint }) => (endpoint === undefined ? [] : [secretArn(scope, endpoint.secret, regionOf(scope, inputs))])) }) },
  inputSecret: { meaning: 'a secret that an input of the step refers to', resolve: (scope, inputs) => ({ resources: secretsIn(scope, [inputs]) }) },
  clusterSecrets: { meaning: 'secrets that the Kubernetes clusters of the configuration name', resolve: (scope) => ({ resources: secretsIn(scope, [scope.config.kubernetes]) }) },
  endpointZone: { meaning: 'the hosted zone of endpoint.dns', resolve: (scope, inputs) => ({ resources: postgresOf(scope, inputs).flatMap(({ endpoint }) => (endpoint?.dns === undefined ? [] : [`arn:${scope.partition}:route53:::hostedzone/${endpoint.dns.hostedZoneId.replace(/^\/hostedzone\//, '')}`])) }) },
  endpointChange: { meaning: 'changes of record sets, which have no zone in their ARN, where the datastore has endpoint.dns', resolve: (scope, inputs) => ({ resources: postgresOf(scope, inputs).some(({ endpoint }) => endpoint?.dns !== undefined) ? [`arn:${scope.partition}:route53:::change/*`] : [] }) },
  secret: { meaning: 'the secret that the step names', resolve: (scope, inputs) => byInput(inputs, ['secret'], (id) => secretArn(scope, id, '*'), `arn:${scope.partition}:secretsmanager:*:${scope.account}:secret:*`) },
  hostedzone: { meaning: 'the hosted zone that the step names', resolve: (scope, inputs) => byInput(inputs, ['hostedZoneId'], (id) => `arn:${scope.partition}:route53:::hostedzone/${id.replace(/^\/hostedzone\//, '')}`, `arn:${scope.partition}:route53:::hostedzone/*`) },
  change: { meaning: 'changes of record sets, which have no zone in their ARN', resolve: (scope) => ({ resources: [`arn:${scope.partition}:route53:::change/*`] }) },
  healthcheck: { meaning: 'the health checks that the step names', resolve: (scope, inputs) => byInput(inputs, ['healthCheckId', 'healthChecks'], (id) => `arn:${scope.partition}:route53:::healthcheck/${id}`, `arn:${scope.partition}:route53:::healthcheck/*`) },
  distribution: { meaning: 'the distribution that the step names', resolve: (scope, inputs) => byInput(inputs, ['distributionId'], (id) => `arn:${scope.partition}:cloudfront::${scope.account}:distribution/${id}`, `arn:${scope.partition}:cloudfront::${scope.account}:distribution/*`) },
  queue: { meaning: 'the queues that the step names', resolve: (scope, inputs) => byInput(inputs, ['deadLetterQueue', 'queue'], (id) => `arn:${scope.partition}:sqs:${regionOf(scope, inputs)}:${scope.account}:${id.split('/').at(-1)!}`, `arn:${scope.partition}:sqs:*:${scope.account}:*`) },
  parameter: { meaning: 'the parameter that the step names', resolve: (scope, inputs) => byInput(inputs, ['name'], (id) => `arn:${scope.partition}:ssm:${regionOf(scope, inputs)}:${scope.account}:parameter/${id.replace(/^\//, '')}`, `arn:${scope.partition}:ssm:*:${scope.account}:parameter/*`) },
  instance: { meaning: 'the RDS instances of the datastore', resolve: (scope, inputs) => ({ resources: instancesOf(scope, inputs).map(({ region, instance }) => rds(scope, region, 'db', instance)) }) },
  replacedInstance: { meaning: 'the RDS instances of the datastore, those renamed when they were replaced, and what a new replica needs', resolve: (scope, inputs) => ({ resources: instancesOf(scope, inputs).flatMap(({ region, instance }) => [rds(scope, region, 'db', instance), rds(scope, region, 'db', `${instance}-old-*`), rds(scope, region, 'snapshot', `${instance}-*`), rds(scope, region, 'subgrp', '*'), rds(scope, region, 'pg', '*'), rds(scope, region, 'og', '*')]) }) },
  cluster: { meaning: 'the DB clusters of the datastore', resolve: (scope, inputs) => ({ resources: clustersOf(scope, inputs) }) },
  globalCluster: { meaning: 'the global database of the datastore', resolve: (scope, inputs) => ({ resources: postgresOf(scope, inputs).flatMap(({ managed }) => (managed?.globalCluster === undefined ? [] : [`arn:${scope.partition}:rds::${scope.account}:global-cluster:${managed.globalCluster}`])) }) },
  managed: { meaning: 'everything, where the datastore is managed: IAM knows no resource for the action', resolve: (scope, inputs) => ({ resources: postgresOf(scope, inputs).some(({ managed }) => managed !== undefined) ? ['*'] : [] }) },
  snapshot: { meaning: "snapshots of the datastore that are ours (holdfast-<datastore>-*), in all of its Regions", resolve: (scope, inputs) => ({ resources: snapshotsOf(scope, inputs, () => true) }) },
  anySnapshot: { meaning: 'every snapshot in the Regions of the datastore: only looked at, to find those that no backup names', resolve: (scope, inputs) => ({ resources: snapshotsOf(scope, inputs, () => true).map((arn) => arn.replace(/:snapshot:.*$/, ':snapshot:*')) }) },
  sharedSnapshot: { meaning: 'the same, where snapshots are shared', resolve: (scope, inputs) => ({ resources: snapshotsOf(scope, inputs, (snapshots) => snapshots.share.length > 0) }) },
  pointInTime: { meaning: 'the RDS instances of the datastore, for a restore to a point in time', resolve: (scope, inputs) => ({ resources: postgresOf(scope, inputs).some(({ managed }) => managed?.snapshots?.drill !== undefined) ? instancesOf(scope, inputs).map(({ region, instance }) => rds(scope, region, 'db', instance)) : [] }) },
  drillInstance: { meaning: 'instances of drills (holdfast-drill-*)', resolve: (scope, inputs) => ({ resources: drillRegions(scope, inputs).map((region) => rds(scope, region, 'db', 'holdfast-drill-*')) }) },
  sourceTable: { meaning: 'the DynamoDB table that is copied', resolve: (scope, inputs) => tablesOf(scope, inputs['source'], [inputs['table']]) },
  sourceStream: { meaning: 'streams of the DynamoDB table that is copied', resolve: (scope, inputs) => tablesOf(scope, inputs['source'], [inputs['table']], '/stream/*') },
  copyTable: { meaning: 'the DynamoDB table that is written to, or whose past is restored', resolve: (scope, inputs) => tablesOf(scope, inputs['datastore'], [inputs['targetTable'] ?? inputs['table']]) },
  restoredTable: { meaning: 'the DynamoDB table that is restored beside it', resolve: (scope, inputs) => tablesOf(scope, inputs['datastore'], [inputs['as']]) },
  tables: { meaning: 'the tables of the DynamoDB datastores', resolve: (scope, inputs) => ({ resources: dynamoOf(scope, inputs).flatMap(({ tables, ...place }) => tables.map((table) => dynamoTable(scope, place, table))) }) },
  drillTables: { meaning: 'tables of drills (drill.prefix), with their indexes', resolve: (scope, inputs) => ({ resources: dynamoOf(scope, inputs).map((datastore) => dynamoTable(scope, drillPlaceOf(datastore), `${datastore.drill.prefix}*`)) }) },
  exportedTables: { meaning: 'tables that backup.method: export has the service export', resolve: (scope, inputs) => ({ resources: byMethod(scope, inputs, 'export') }) },
  tableExports: { meaning: 'exports of them', resolve: (scope, inputs) => ({ resources: byMethod(scope, inputs, 'export', '/export/*') }) },
  anyExport: { meaning: 'everything, where the service exports: IAM knows no resource for the action', resolve: (scope, inputs) => ({ resources: byMethod(scope, inputs, 'export').length > 0 ? ['*'] : [] }) },
  exportObjects: { meaning: 'backups of those datastores, written by the service on our behalf; it says no If-None-Match', resolve: (scope) => ({ resources: storesOf(scope).flatMap(({ store, datastore }) => { const found = scope.config.datastores[datastore]; return found?.engine === 'dynamodb' && found.backup.method === 'export' ? [s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}${datastore}/*`)] : []; }), conditions: [{ Bool: { 'aws:ViaAWSService': 'true' } }] }) },
  onDemandTables: { meaning: 'tables that backup.method: on-demand has the service back up', resolve: (scope, inputs) => ({ resources: byMethod(scope, inputs, 'on-demand') }) },
  tableBackups: { meaning: 'on-demand backups of them', resolve: (scope, inputs) => ({ resources: byMethod(scope, inputs, 'on-demand', '/backup/*') }) },
  anyBackup: { meaning: 'everything, where the service backs up: IAM knows no resource for the action', resolve: (scope, inputs) => ({ resources: byMethod(scope, inputs, 'on-demand').length > 0 ? ['*'] : [] }) },
  restoredByService: { meaning: 'tables of drills (drill.prefix), where the service fills them from an on-demand backup', resolve: (scope, inputs) => ({ resources: dynamoOf(scope, inputs).flatMap((datastore) => (datastore.backup.method === 'on-demand' ? [dynamoTable(scope, drillPlaceOf(datastore), `${datastore.drill.prefix}*`)] : [])) }) },
  anyTable: { meaning: 'everything, where there is a DynamoDB datastore: IAM knows no resource for the action', resolve: (scope, inputs) => ({ resources: dynamoOf(scope, inputs).length > 0 ? ['*'] : [] }) },
  drillSurroundings: { meaning: 'subnet and parameter groups of drills', resolve: (scope, inputs) => ({ resources: postgresOf(scope, inputs).flatMap(({ managed }) => (managed?.snapshots?.drill === undefined ? [] : drillRegions(scope, inputs).flatMap((region) => [rds(scope, region, 'subgrp', managed.snapshots!.drill!.subnetGroup), rds(scope, region, 'pg', managed.snapshots!.drill!.parameterGroup ?? 'default.*'), rds(scope, region, 'og', 'default:*')]))) }) },
};

export interface PolicyPart {
  readonly name: string;
  readonly document: PolicyDocument;
  /** Without white space, as IAM counts. */
  readonly characters: number;
}

export interface RolePolicies {
  readonly role: Role;
  readonly text: string;
  readonly policies: readonly PolicyPart[];
  /** What could not be narrowed, and what to give so that it can. */
  readonly notes: readonly string[];
}

/** What somebody needs, and what is known of its inputs. */
export interface Need {
  readonly permissions: readonly Permission[];
  readonly inputs: Readonly<Record<string, unknown>>;
  readonly whose: string;
}

/** Policies of a role, narrowed to what the configuration names. `uses` are the steps of the runbooks, for `failover`. */
export function policiesFor(role: Role, scope: PolicyScope, uses: readonly Use[]): RolePolicies {
  const steps = role === 'failover' ? uses.map(({ kind, inputs }): Need => ({ permissions: permissionsOf(kind), inputs, whose: kind })) : [];
  const { statements, notes } = statementsFor(scope, [{ permissions: WORKFLOW_PERMISSIONS[role], inputs: {}, whose: role }, ...steps]);
  return { role, text: ROLE_TEXTS[role], policies: inParts(`holdfast-${role}`, statements), notes };
}

/** One document of everything that is needed, however long. */
export function policyOf(scope: PolicyScope, needs: readonly Need[]): PolicyDocument {
  return documentOf(statementsFor(scope, needs).statements);
}

function statementsFor(scope: PolicyScope, needs: readonly Need[]): { statements: PolicyStatement[]; notes: string[] } {
  const statements = new Map<string, { on: string; service: string; actions: Set<string>; resources: readonly string[]; condition: PolicyStatement['Condition'] }>();
  const notes = new Set<string>();
  const add = ({ action, on }: Permission, { inputs, whose }: Need): void => {
    const word = Object.hasOwn(RESOURCES, on) ? RESOURCES[on] : undefined;
    if (word === undefined) throw new HoldfastError('permission-unknown-resource', `${whose}: there is no resource "${on}"`, { next: `use one of: ${Object.keys(RESOURCES).join(', ')}` });
    const { resources, conditions, wide } = word.resolve(scope, inputs);
    if (resources.length === 0) return;
    if (wide === true) notes.add(`${whose}: ${on} is not narrowed, since what it names is only known when the runbook runs; write it into the runbook or under parameters of the service`);
    const service = action.split(':', 1)[0]!;
    const sorted = [...new Set(resources)].sort();
    for (const condition of conditions ?? [undefined]) {
      const key = JSON.stringify([service, sorted, condition ?? null]);
      const found = statements.get(key) ?? { on, service, actions: new Set(), resources: sorted, condition };
      found.actions.add(action);
      statements.set(key, found);
    }
  };
  for (const need of needs) for (const permission of need.permissions) add(permission, need);
  const words = new Map<string, number>();
  const made = [...statements.values()].map(({ on, service, actions, resources, condition }): PolicyStatement => {
    const word = `${service.replaceAll(/[^A-Za-z0-9]/g, '')}${on === '*' ? 'All' : `${on[0]!.toUpperCase()}${on.slice(1)}`}`;
    const number = (words.get(word) ?? 0) + 1;
    words.set(word, number);
    return { Sid: `${word}${number === 1 ? '' : number}`, Effect: 'Allow', Action: [...actions].sort(), Resource: resources, ...(condition === undefined ? {} : { Condition: condition }) };
  });
  return { statements: made, notes: [...notes] };
}

/** As many policies as it takes to stay below IAM's limit. */
function inParts(name: string, statements: readonly PolicyStatement[]): PolicyPart[] {
  const parts: PolicyStatement[][] = [];
  for (const statement of statements) {
    const last = parts.at(-1);
    if (last === undefined || sizeOf([...last, statement]) > MANAGED_POLICY_CHARACTERS) parts.push([statement]);
    else last.push(statement);
  }
  return parts.map((part, index) => ({ name: parts.length === 1 ? name : `${name}-${index + 1}`, document: documentOf(part), characters: sizeOf(part) }));
}

function documentOf(statements: readonly PolicyStatement[]): PolicyDocument {
  return { Version: '2012-10-17', Statement: statements };
}

function sizeOf(statements: readonly PolicyStatement[]): number {
  return JSON.stringify(documentOf(statements)).length;
}

function datastoresOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): readonly string[] {
  // `source`: a datastore that is only read, whose lock is not taken.
  const named = inputs['datastore'] ?? inputs['source'];
  return typeof named === 'string' && Object.hasOwn(scope.config.datastores, named) ? [named] : scope.datastores;
}

function postgresOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>) {
  return datastoresOf(scope, inputs).flatMap((name) => {
    const datastore = scope.config.datastores[name];
    return datastore?.engine === 'postgres' ? [{ ...datastore, name }] : [];
  });
}

function bucketsOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>) {
  if (typeof inputs['store'] === 'string' && inputs['store'] !== '' && inputs['datastore'] === undefined) return [];
  return datastoresOf(scope, inputs).flatMap((name) => {
    const datastore = scope.config.datastores[name];
    return datastore?.engine === 's3' ? [datastore] : [];
  });
}

/** Where the snapshots of Redis datastores lie; folders need no policy. */
function cacheSnapshotsOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): readonly { readonly store: S3StoreConfig; readonly prefix: string }[] {
  return datastoresOf(scope, inputs).flatMap((name) => {
    const datastore = scope.config.datastores[name];
    if (datastore?.engine !== 'redis' || datastore.snapshots === undefined) return [];
    const store = scope.config.stores[datastore.snapshots.store];
    return store?.type === 's3' ? [{ store, prefix: datastore.snapshots.prefix }] : [];
  });
}

function namedStore(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): readonly S3StoreConfig[] {
  const name = inputs['store'];
  const store = typeof name === 'string' && Object.hasOwn(scope.config.stores, name) ? scope.config.stores[name] : undefined;
  return store?.type === 's3' ? [store] : [];
}

function storeFor(scope: PolicyScope, datastore: string): Config['stores'][string] | undefined {
  const entry = scope.config.datastores[datastore];
  const name = entry !== undefined && isBackedUp(entry) ? storeOfBackups(scope.config, entry) : undefined;
  return name === undefined ? undefined : scope.config.stores[name];
}

/** Tables by name at the place of a datastore of engine dynamodb; one that is not named there: all of that name everywhere. */
function tablesOf(scope: PolicyScope, datastore: unknown, names: readonly unknown[], suffix = ''): Resolved {
  const known = names.filter((one): one is string => typeof one === 'string' && one !== '' && !one.includes('${'));
  const places = typeof datastore === 'string' && Object.hasOwn(scope.config.datastores, datastore) ? [datastore] : scope.datastores;
  const found = places.flatMap((name) => {
    const datastore = scope.config.datastores[name];
    return datastore?.engine === 'dynamodb' ? [datastore] : [];
  });
  const arns = [...new Set(found.flatMap((place) => (known.length === 0 ? ['*'] : known).map((name) => `${dynamoTable(scope, place, name)}${suffix}`)))];
  return { resources: arns, wide: known.length === 0 && arns.length > 0 };
}

function dynamoOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>) {
  return datastoresOf(scope, inputs).flatMap((name) => {
    const datastore = scope.config.datastores[name];
    return datastore?.engine === 'dynamodb' ? [datastore] : [];
  });
}

function byMethod(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>, method: 'export' | 'on-demand', suffix = ''): string[] {
  return dynamoOf(scope, inputs).flatMap(({ backup, tables, ...place }) => (backup.method === method ? tables.map((table) => `${dynamoTable(scope, place, table)}${suffix}`) : []));
}

type TablePlace = Pick<DynamoDatastore, 'region' | 'assumeRole'>;

/** Of a datastore with a role in that role's account: there the statement belongs. */
function dynamoTable(scope: PolicyScope, { region, assumeRole }: TablePlace, table: string): string {
  return `arn:${scope.partition}:dynamodb:${region ?? scope.config.aws.region}:${assumeRole === undefined ? scope.account : accountOf(assumeRole)}:table/${table}`;
}

function drillPlaceOf({ drill, ...source }: DynamoDatastore): TablePlace {
  return { region: drill.region ?? source.region, assumeRole: roleOfDrill({ drill, ...source }) };
}

/** Of the datastores, also of the one that a copy reads, and of every store that they or the step name. */
function rolesOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): string[] {
  const source = inputs['source'];
  const names = new Set([...datastoresOf(scope, inputs), ...(typeof source === 'string' && Object.hasOwn(scope.config.datastores, source) ? [source] : [])]);
  const roles = [...names].flatMap((name) => {
    const datastore = scope.config.datastores[name];
    if (datastore === undefined) return [];
    const stores = [storeFor(scope, name), datastore.engine === 'redis' && datastore.snapshots !== undefined ? scope.config.stores[datastore.snapshots.store] : undefined];
    return [datastore.engine === 'dynamodb' || datastore.engine === 's3' ? datastore.assumeRole : undefined, ...stores.map((store) => (store?.type === 's3' ? store.assumeRole : undefined))];
  });
  return arnsOf([...roles, ...namedStore(scope, inputs).map(({ assumeRole }) => assumeRole)]);
}

function arnsOf(roles: readonly ({ readonly arn: string } | undefined)[]): string[] {
  return [...new Set(roles.flatMap((role) => (role === undefined ? [] : [role.arn])))];
}

/** The stores of the datastores, each once for each datastore; folders need no policy. */
function storesOf(scope: PolicyScope): readonly { readonly store: S3StoreConfig; readonly datastore: string }[] {
  return scope.datastores.flatMap((datastore) => {
    const store = storeFor(scope, datastore);
    return store?.type === 's3' ? [{ store, datastore }] : [];
  });
}

function backupsOf(scope: PolicyScope, only: (store: S3StoreConfig) => boolean = () => true): string[] {
  return storesOf(scope).filter(({ store }) => only(store)).map(({ store, datastore }) => s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}${datastore}/*`));
}

function evidenceOf(scope: PolicyScope): readonly S3StoreConfig[] {
  const name = scope.config.evidence.store;
  const store = name === undefined ? undefined : scope.config.stores[name];
  return store?.type === 's3' ? [store] : [];
}

function evidenceObjectsOf(scope: PolicyScope): string[] {
  return evidenceOf(scope).map((store) => s3(scope, `${store.bucket}/${joinPrefix(store.prefix)}evidence/*`));
}

function instancesOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): { region: string; instance: string }[] {
  return postgresOf(scope, inputs).flatMap((datastore) => Object.values(datastore.nodes).flatMap((node) => (node.rds === undefined ? [] : [{ region: node.rds.region ?? scope.config.aws.region, instance: node.rds.instance }])));
}

function clustersOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): string[] {
  return postgresOf(scope, inputs).flatMap((datastore) => [
    ...(datastore.managed?.cluster === undefined ? [] : [...new Set(Object.values(datastore.nodes).flatMap((node) => (node.rds === undefined ? [] : [node.rds.region ?? scope.config.aws.region])))].map((region) => rds(scope, region, 'cluster', datastore.managed!.cluster!))),
    ...Object.values(datastore.nodes).flatMap((node) => (node.rds?.cluster === undefined ? [] : [rds(scope, node.rds.region ?? scope.config.aws.region, 'cluster', node.rds.cluster)])),
  ]);
}

type Snapshots = NonNullable<NonNullable<ReturnType<typeof postgresOf>[number]['managed']>['snapshots']>;

function snapshotsOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>, only: (snapshots: Snapshots) => boolean): string[] {
  return postgresOf(scope, inputs).flatMap((datastore) => {
    const snapshots = datastore.managed?.snapshots;
    if (snapshots === undefined || !only(snapshots)) return [];
    const regions = [...Object.values(datastore.nodes).flatMap((node) => (node.rds === undefined ? [] : [node.rds.region ?? scope.config.aws.region])), ...snapshots.copies.map(({ region }) => region)];
    return [...new Set(regions)].map((region) => rds(scope, region, 'snapshot', `holdfast-${datastore.name}-*`));
  });
}

function drillRegions(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): string[] {
  return [...new Set(postgresOf(scope, inputs).flatMap((datastore) => (datastore.managed?.snapshots?.drill === undefined ? [] : Object.values(datastore.nodes).flatMap((node) => (node.rds === undefined ? [] : [node.rds.region ?? scope.config.aws.region])))))];
}

function byInput(inputs: Readonly<Record<string, unknown>>, names: readonly string[], arn: (id: string) => string, all: string): Resolved {
  const ids = names.flatMap((name) => (Array.isArray(inputs[name]) ? (inputs[name] as unknown[]) : [inputs[name]])).filter((id): id is string => typeof id === 'string' && id !== '' && !id.includes('${'));
  return ids.length === 0 ? { resources: [all], wide: true } : { resources: ids.map(arn) };
}

function regionOf(scope: PolicyScope, inputs: Readonly<Record<string, unknown>>): string {
  const region = inputs['region'];
  return typeof region === 'string' && /^[a-z0-9-]+$/.test(region) ? region : region === undefined ? scope.config.aws.region : '*';
}

function s3(scope: PolicyScope, path: string): string {
  return `arn:${scope.partition}:s3:::${path}`;
}

function rds(scope: PolicyScope, region: string, sort: string, name: string): string {
  return `arn:${scope.partition}:rds:${region}:${scope.account}:${sort}:${name.toLowerCase()}`;
}

/** Secrets Manager puts six characters of its own behind the name. */
function secretArn(scope: PolicyScope, id: string, region = scope.config.aws.region): string {
  return id.startsWith('arn:') ? id : `arn:${scope.partition}:secretsmanager:${region}:${scope.account}:secret:${id}-??????`;
}


/** Every secret that is referred to anywhere below. */
function secretsIn(scope: PolicyScope, values: readonly unknown[]): string[] {
  const found = new Set<string>();
  const look = (value: unknown): void => {
    if (typeof value === 'string') {
      if (value.startsWith('aws-sm:')) found.add(value.slice('aws-sm:'.length).split('#', 1)[0]!);
    } else if (value !== null && typeof value === 'object') for (const item of Object.values(value)) look(item);
  };
  for (const value of values) look(value);
  return [...found].map((id) => secretArn(scope, id));
}
