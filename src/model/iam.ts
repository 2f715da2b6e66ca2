/**
 * IAM policies: their grammar, how they are evaluated as far as ours use it, and which actions an AWS command needs. Pure.
 * Sources: IAM user guide, "Grammar of the IAM JSON policy language"; service authorization reference, Amazon S3; S3 user guide, "Required
 * permissions for Amazon S3 API operations".
 */
export interface PolicyStatement {
  readonly Sid: string;
  readonly Effect: 'Allow' | 'Deny';
  readonly Action: readonly string[];
  readonly Resource: readonly string[];
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, string | readonly string[]>>>>;
}

export interface PolicyDocument {
  readonly Version: '2012-10-17';
  readonly Statement: readonly PolicyStatement[];
}

/** Characters of a managed policy, without white space. Source: IAM user guide, "IAM and AWS STS quotas". */
export const MANAGED_POLICY_CHARACTERS = 6144;

/** IAM's name of a service, by the name of its package in the SDK. */
export const SERVICES: Readonly<Record<string, string>> = {
  s3: 's3', rds: 'rds', 'route-53': 'route53', 'secrets-manager': 'secretsmanager', cloudwatch: 'cloudwatch', cloudfront: 'cloudfront', sqs: 'sqs', ssm: 'ssm', ec2: 'ec2', dynamodb: 'dynamodb', 'dynamodb-streams': 'dynamodb',
};

export interface NeededAction {
  readonly action: string;
  /** `*` where it is not known from the input. */
  readonly resource: string;
}

type Input = Readonly<Record<string, unknown>>;

const BUCKET_ACTIONS: Readonly<Record<string, string>> = {
  ListObjectsV2: 'ListBucket', HeadBucket: 'ListBucket', ListObjectVersions: 'ListBucketVersions', ListMultipartUploads: 'ListBucketMultipartUploads',
  GetBucketVersioning: 'GetBucketVersioning', GetObjectLockConfiguration: 'GetBucketObjectLockConfiguration', GetPublicAccessBlock: 'GetBucketPublicAccessBlock', GetBucketReplication: 'GetReplicationConfiguration',
  GetBucketLifecycleConfiguration: 'GetLifecycleConfiguration', PutBucketLifecycleConfiguration: 'PutLifecycleConfiguration', DeleteBucketLifecycle: 'PutLifecycleConfiguration', CreateBucket: 'CreateBucket', PutBucketVersioning: 'PutBucketVersioning',
};
const OBJECT_ACTIONS: Readonly<Record<string, string>> = {
  GetObject: 'GetObject', HeadObject: 'GetObject', GetObjectAttributes: 'GetObject', GetObjectTagging: 'GetObjectTagging', GetObjectRetention: 'GetObjectRetention', PutObject: 'PutObject', CreateMultipartUpload: 'PutObject', UploadPart: 'PutObject',
  CompleteMultipartUpload: 'PutObject', AbortMultipartUpload: 'AbortMultipartUpload', DeleteObject: 'DeleteObject', CopyObject: 'PutObject', UploadPartCopy: 'PutObject', ListParts: 'ListMultipartUploadParts',
};
const WITH_VERSION: Readonly<Record<string, string>> = { GetObject: 'GetObjectVersion', GetObjectTagging: 'GetObjectVersionTagging', DeleteObject: 'DeleteObjectVersion' };
/** Commands whose action has another name. Everything else is called as the command. */
const RENAMED: Readonly<Record<string, string>> = {
  'sqs:SendMessageBatch': 'sqs:SendMessage', 'sqs:DeleteMessageBatch': 'sqs:DeleteMessage', 'sqs:ChangeMessageVisibilityBatch': 'sqs:ChangeMessageVisibility', 'rds:SwitchoverGlobalCluster': 'rds:SwitchoverGlobalCluster', 'dynamodb:ExecuteStatement': 'dynamodb:PartiQLSelect',
};
/** Actions that no command is called after, with a command that needs them. */
export const ACTIONS_OF_COMMANDS: Readonly<Record<string, string>> = Object.fromEntries([
  ...Object.entries(BUCKET_ACTIONS).map(([command, action]) => [`s3:${action}`, command]),
  ...Object.entries(OBJECT_ACTIONS).map(([command, action]) => [`s3:${action}`, command]),
  ...Object.entries(WITH_VERSION).map(([action, versioned]) => [`s3:${versioned}`, action === 'DeleteObject' ? 'DeleteObject' : action]),
  ['s3:PutObjectTagging', 'PutObjectTagging'], ['s3:PutObjectRetention', 'PutObjectRetention'], ['s3:GetObjectLegalHold', 'GetObjectLegalHold'], ['dynamodb:PartiQLSelect', 'ExecuteStatement'],
]);

/** What a role must be allowed for a command of the SDK, from its input. */
export function neededFor(service: string, command: string, input: Input): NeededAction[] {
  if (service === 's3') return neededForS3(command, input);
  const action = RENAMED[`${service}:${command}`] ?? `${service}:${command}`;
  if (service === 'dynamodb') return neededForDynamo(action, input);
  return [{ action, resource: resourceOf(service, input) }];
}

function neededForS3(command: string, input: Input): NeededAction[] {
  const bucket = `arn:aws:s3:::${text(input['Bucket'])}`;
  const onBucket = BUCKET_ACTIONS[command];
  if (onBucket !== undefined) return [{ action: `s3:${onBucket}`, resource: bucket }];
  const resource = `${bucket}/${text(input['Key'])}`;
  const plain = OBJECT_ACTIONS[command] ?? command;
  const action = input['VersionId'] === undefined ? plain : (WITH_VERSION[plain] ?? plain);
  const needed = [{ action: `s3:${action}`, resource }];
  if (input['Tagging'] !== undefined && (command === 'PutObject' || command === 'CreateMultipartUpload')) needed.push({ action: 's3:PutObjectTagging', resource });
  if (input['ObjectLockRetainUntilDate'] !== undefined) needed.push({ action: 's3:PutObjectRetention', resource });
  if (command === 'CopyObject' || command === 'UploadPartCopy') {
    const [source = '', version] = text(input['CopySource']).split('?versionId=');
    const from = `arn:aws:s3:::${decodeURIComponent(source)}`;
    needed.push({ action: version === undefined ? 's3:GetObject' : 's3:GetObjectVersion', resource: from });
    // The tags go along, where there are any.
    if (command === 'CopyObject') needed.push({ action: version === undefined ? 's3:GetObjectTagging' : 's3:GetObjectVersionTagging', resource: from }, { action: 's3:PutObjectTagging', resource });
  }
  return needed;
}

/** Tables stand in the input by name, by ARN, as keys of a batch, or in a statement. */
function neededForDynamo(action: string, input: Input): NeededAction[] {
  const named = input['TableName'] ?? input['ResourceArn'] ?? input['TableArn'] ?? /\bfrom\s+"([^"]+)"/i.exec(text(input['Statement']))?.[1];
  const batch = input['RequestItems'];
  const tables = typeof named === 'string' ? [named] : typeof batch === 'object' && batch !== null ? Object.keys(batch) : [];
  const needed = tables.map((table) => ({ action, resource: `arn:aws:dynamodb:*:*:table/${table.replace(/^arn:[^/]*:table\//, '')}` }));
  if (action === 'dynamodb:CreateTable' && input['Tags'] !== undefined) needed.push(...needed.map(({ resource }) => ({ action: 'dynamodb:TagResource', resource })));
  return needed.length === 0 ? [{ action, resource: '*' }] : needed;
}

function resourceOf(service: string, input: Input): string {
  const arn = Object.values(input).find((value): value is string => typeof value === 'string' && /^arn:aws[\w-]*:/.test(value));
  if (service === 'secretsmanager') return arn ?? (input['SecretId'] === undefined ? '*' : `arn:aws:secretsmanager:*:*:secret:${text(input['SecretId'])}-AbCdEf`);
  if (service === 'route53') {
    if (input['HostedZoneId'] !== undefined) return `arn:aws:route53:::hostedzone/${text(input['HostedZoneId']).replace(/^\/hostedzone\//, '')}`;
    if (input['HealthCheckId'] !== undefined) return `arn:aws:route53:::healthcheck/${text(input['HealthCheckId'])}`;
    return input['Id'] === undefined ? '*' : `arn:aws:route53:::change/${text(input['Id']).replace(/^\/change\//, '')}`;
  }
  return '*';
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

const ELEMENTS = new Set(['Sid', 'Effect', 'Action', 'Resource', 'Condition']);
const OPERATORS = new Set(['Bool', 'Null', 'StringEquals', 'StringNotEquals', 'StringLike', 'NumericLessThanEquals']);
/** Resources that IAM allows no ARN for are `*`; everything else names partition, service, and a resource. */
const ARN = /^arn:(aws|aws-cn|aws-us-gov):([a-z0-9-]+):([a-z0-9-]*|\*):(\d{12}|\*|):(.+)$/;

/** Everything that is wrong with a policy document by IAM's grammar and by our own rules; empty when nothing is. */
export function policyProblems(value: unknown, known: { readonly isAction: (action: string) => boolean }): string[] {
  const problems: string[] = [];
  if (!isRecord(value)) return ['a policy is an object'];
  for (const key of Object.keys(value)) if (key !== 'Version' && key !== 'Statement' && key !== 'Id') problems.push(`there is no element ${key}`);
  if (value['Version'] !== '2012-10-17') problems.push(`Version is ${JSON.stringify(value['Version'])}`);
  const statements = value['Statement'];
  if (!Array.isArray(statements) || statements.length === 0) return [...problems, 'there is no Statement'];
  const sids = new Set<string>();
  for (const [index, statement] of statements.entries()) {
    const at = (message: string): void => void problems.push(`Statement[${index}]: ${message}`);
    if (!isRecord(statement)) {
      at('it is no object');
      continue;
    }
    for (const key of Object.keys(statement)) if (!ELEMENTS.has(key)) at(`there is no element ${key}`);
    const sid = statement['Sid'];
    if (typeof sid !== 'string' || !/^[A-Za-z0-9]+$/.test(sid)) at(`Sid ${JSON.stringify(sid)} has other characters than letters and digits`);
    else if (sids.has(sid)) at(`Sid ${sid} is there twice`);
    else sids.add(sid);
    if (statement['Effect'] !== 'Allow' && statement['Effect'] !== 'Deny') at(`Effect is ${JSON.stringify(statement['Effect'])}`);
    const actions = strings(statement['Action']);
    if (actions === null) at('Action is no list of texts');
    for (const action of actions ?? []) {
      if (action.includes('*') || action.includes('?')) at(`${action} is a pattern: every action is named`);
      else if (!/^[a-z0-9-]+:[A-Za-z0-9]+$/.test(action)) at(`${action} is no action`);
      else if (!known.isAction(action)) at(`${action} is no action that AWS has`);
    }
    const resources = strings(statement['Resource']);
    if (resources === null) at('Resource is no list of texts');
    for (const resource of resources ?? []) {
      const arn = ARN.exec(resource);
      if (resource !== '*' && arn === null) at(`${resource} is no ARN`);
      else if (arn !== null && actions?.some((action) => (action === 'sts:AssumeRole' ? 'iam' : action.split(':')[0]) !== arn[2]) === true) at(`${resource} is no resource of ${actions.join(', ')}`);
    }
    if (statement['Condition'] !== undefined) problems.push(...conditionProblems(statement['Condition']).map((message) => `Statement[${index}]: ${message}`));
  }
  return problems;
}

function conditionProblems(value: unknown): string[] {
  if (!isRecord(value)) return ['Condition is no object'];
  return Object.entries(value).flatMap(([operator, keys]) => {
    if (!OPERATORS.has(operator)) return [`there is no operator ${operator}`];
    if (!isRecord(keys) || Object.keys(keys).length === 0) return [`${operator} has no keys`];
    return Object.entries(keys).flatMap(([key, values]) => [...(/^[a-z0-9]+:[A-Za-z0-9-]+$/.test(key) ? [] : [`${key} is no condition key`]), ...(typeof values === 'string' || strings(values) !== null ? [] : [`${key} has no values`])]);
  });
}

function strings(value: unknown): readonly string[] | null {
  return Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'string') ? value : null;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}

/** Does the policy allow it? Deny wins; conditions hold where `context` says so. A resource that is not known is allowed when any is. */
export function allows(policy: PolicyDocument, needed: NeededAction, context: Readonly<Record<string, string | undefined>> = {}): boolean {
  const of = (effect: 'Allow' | 'Deny'): boolean =>
    policy.Statement.some((statement) => statement.Effect === effect && statement.Action.includes(needed.action) && (needed.resource === '*' || statement.Resource.some((pattern) => matches(pattern, needed.resource))) && conditionHolds(statement.Condition, context));
  return of('Allow') && !of('Deny');
}

function conditionHolds(condition: PolicyStatement['Condition'], context: Readonly<Record<string, string | undefined>>): boolean {
  return Object.entries(condition ?? {}).every(([operator, keys]) =>
    Object.entries(keys).every(([key, wanted]) => {
      const values = typeof wanted === 'string' ? [wanted] : wanted;
      if (operator === 'Null') return values.includes(String(context[key] === undefined));
      return context[key] !== undefined && values.includes(context[key]);
    }),
  );
}

function matches(pattern: string, resource: string): boolean {
  if (pattern === '*') return true;
  const [wanted, given] = [pattern.split(':'), resource.split(':')];
  // Region and account are not known of every call.
  const open = [wanted, given].map((parts) => parts.map((part, index) => (index === 3 || index === 4 ? '*' : part)).join(':'));
  return new RegExp(`^${open[0]!.replaceAll(/[.+^${}()|[\]\\]/g, String.raw`\$&`).replaceAll('*', '.*').replaceAll('?', '.')}$`).test(open[1]!);
}
