import { randomBytes, type KeyObject } from 'node:crypto';
import { access, constants, mkdir, mkdtemp, rmdir, statfs } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { Client } from '@temporalio/client';
import { isBackedUp, SECRET_REFERENCE_PATTERN, type Config, type PostgresDatastore, type S3StoreConfig } from '../model/config-schema.ts';
import { judgeRole } from '../model/managed-roles.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import { formatBytes, formatDuration } from '../model/units.ts';
import type { Context } from '../systems/context.ts';
import { engineOfDatastore } from '../systems/engines.ts';
import { sendNotice } from '../systems/notify.ts';
import { lookAtInstance } from '../systems/rds.ts';
import { hasHostAccess, hostState, nodeByAddress, nodeStatus, nodeTool, runOnNode, withNode, type NodeStatus } from '../systems/postgres-node.ts';
import { postgresTool } from '../systems/postgres.ts';
import { majorVersion, toolVersion } from '../systems/tool-version.ts';
import { openStore, readText, type Store } from '../systems/store.ts';
import { connectClient } from './connection.ts';
import { missingSearchAttributes, registerSearchAttributes } from './search-attributes.ts';

export interface Finding {
  readonly area: string;
  readonly level: 'ok' | 'warn' | 'fail';
  readonly what: string;
  /** What to do; on every warn and fail. */
  readonly next?: string;
}

export interface DoctorOptions {
  /** Register missing search attributes. */
  readonly fix: boolean;
  /** Really send a notice. */
  readonly notifyTest: boolean;
}

type Report = (level: Finding['level'], what: string, next?: string) => void;

const MINIMUM_NODE = [22, 18] as const;
const TOOL_TIMEOUT_MS = 10_000;
const SOURCE_TIMEOUT_MS = 20_000;
const MINIMUM_RETENTION_DAYS = 30;

/** Every check this host can make, each by itself: one that fails hides none of the others. Secrets are resolved and never shown. */
export async function runDoctor(context: Context, options: DoctorOptions): Promise<Finding[]> {
  const { config } = context;
  const groups: Promise<Finding[]>[] = [
    group('host', (report) => checkHost(context, report)),
    group('temporal', (report) => checkTemporal(context, options, report)),
    group('secrets', (report) => checkSecrets(context, report)),
    ...Object.entries(config.stores).map(([name, store]) => group(`store ${name}`, (report) => checkStore(context, name, store, report))),
    ...Object.entries(config.datastores).map(([name, datastore]) => group(`datastore ${name}`, (report) => (datastore.engine === 'postgres' ? checkDatastore(context, datastore, report) : checkSource(context, name, report)))),
    ...Object.keys(config.kubernetes).map((name) => group(`kubernetes ${name}`, (report) => checkKubernetes(context, name, report))),
    group('evidence', (report) => checkEvidence(context, report)),
    group('notify', (report) => checkNotify(context, options, report)),
  ];
  return (await Promise.all(groups)).flat();
}

/** What the engine itself says of its source. */
async function checkSource(context: Context, name: string, report: Report): Promise<void> {
  if (!isBackedUp(context.config.datastores[name]!)) return;
  for (const check of (await (await engineOfDatastore(context, name)).ready?.(context, name, AbortSignal.timeout(SOURCE_TIMEOUT_MS))) ?? []) {
    report(check.ok ? 'ok' : 'fail', `${check.name}: ${check.found}${check.ok ? '' : `, expected ${check.expected}`}`, check.next);
  }
}

async function group(area: string, check: (report: Report) => Promise<void>): Promise<Finding[]> {
  const found: Finding[] = [];
  const report: Report = (level, what, next) => found.push({ area, level, what, ...(next === undefined ? {} : { next }) });
  await attempt(report, () => check(report));
  return found;
}

/** A check that throws is a failed check. */
async function attempt(report: Report, check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    report('fail', error instanceof HoldfastError ? error.message : messageOf(error), error instanceof HoldfastError ? error.next : undefined);
  }
}

async function checkHost(context: Context, report: Report): Promise<void> {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const enough = major > MINIMUM_NODE[0] || (major === MINIMUM_NODE[0] && minor >= MINIMUM_NODE[1]);
  report(enough ? 'ok' : 'fail', `Node.js ${process.versions.node}`, enough ? undefined : `use ${MINIMUM_NODE.join('.')} or newer`);
  if (process.platform === 'linux') {
    const setpriv = await toolVersion(['/usr/bin/setpriv', '--version']);
    if (setpriv === undefined) report('warn', 'setpriv is missing: children outlive a worker that is killed with SIGKILL', 'install util-linux');
    else report('ok', `setpriv (${setpriv}): children die with the worker`);
  }
  const zstd = await toolVersion(['zstd', '--version']);
  report('ok', zstd === undefined ? 'zstd is not installed; only needed to restore without Holdfast' : `zstd (${zstd})`);
  await mkdir(context.workDirectory, { recursive: true });
  const probe = await mkdtemp(`${context.workDirectory}/doctor-`);
  await rmdir(probe);
  const { bavail, bsize } = await statfs(context.workDirectory);
  report('ok', `work directory ${context.workDirectory} is writable, ${formatBytes(bavail * bsize)} free; a drill needs the size of the restored database`);
}

async function checkTemporal(context: Context, options: DoctorOptions, report: Report): Promise<void> {
  const { config } = context;
  const client = await connectClient(config, context.secrets);
  try {
    const { namespaceInfo, config: namespaceConfig } = await client.connection.workflowService.describeNamespace({ namespace: config.temporal.namespace });
    report('ok', `reachable at ${config.temporal.address}, namespace ${namespaceInfo?.name ?? config.temporal.namespace}`);
    const days = Number(namespaceConfig?.workflowExecutionRetentionTtl?.seconds ?? 0) / 86_400;
    if (days >= MINIMUM_RETENTION_DAYS) report('ok', `histories are kept ${Math.round(days)} days`);
    else {
      report('warn', `histories are kept ${days < 1 ? `${Math.round(days * 24)} hours` : `${Math.round(days)} day(s)`}: \`audit\` sees nothing older`, `temporal operator namespace update --namespace ${config.temporal.namespace} --retention 90d; evidence is kept apart from it`);
    }
    await attempt(report, () => checkSearchAttributes(client, options.fix, report));
    await attempt(report, () => checkWorkers(client, context, report));
    if (config.temporal.encryptionKey === undefined) report('warn', 'payloads and failure texts stand in histories in plain text (never secrets)', 'set temporal.encryptionKey: a 32-byte key in base64 (openssl rand -base64 32)');
    else report('ok', 'payloads and failure texts are encrypted in histories');
  } finally {
    await client.connection.close();
  }
}

async function checkSearchAttributes(client: Client, fix: boolean, report: Report): Promise<void> {
  if (fix) {
    const added = await registerSearchAttributes(client);
    report('ok', added.length === 0 ? 'search attributes are registered' : `search attributes registered now: ${added.join(', ')}`);
    return;
  }
  const missing = await missingSearchAttributes(client);
  if (missing.length === 0) report('ok', 'search attributes are registered');
  else report('fail', `search attributes are not registered: ${missing.join(', ')}`, 'holdfast doctor --fix, or start a worker: it registers them');
}

async function checkWorkers(client: Client, context: Context, report: Report): Promise<void> {
  const { namespace, taskQueue } = context.config.temporal;
  // temporal.api.enums.v1.TaskQueueType: 1 workflow, 2 activity
  for (const [taskQueueType, what] of [[1, 'workflows'], [2, 'activities']] as const) {
    const { pollers } = await client.connection.workflowService.describeTaskQueue({ namespace, taskQueue: { name: taskQueue }, taskQueueType });
    const names = [...new Set((pollers ?? []).map((poller) => poller.identity ?? 'unknown'))];
    if (names.length === 0) report('warn', `no worker polls task queue ${taskQueue} for ${what}`, 'start one: holdfast worker');
    else report('ok', `${names.length} worker(s) poll ${taskQueue} for ${what}: ${names.join(', ')}`);
  }
}

/** Every reference that stands in the configuration, with where it stands. */
export function secretReferences(config: Config): { path: string; reference: string }[] {
  const found: { path: string; reference: string }[] = [];
  const walk = (value: unknown, path: string): void => {
    if (typeof value === 'string') {
      if (SECRET_REFERENCE_PATTERN.test(value)) found.push({ path, reference: value });
    } else if (typeof value === 'object' && value !== null) {
      for (const [key, item] of Object.entries(value)) walk(item, path === '' ? key : `${path}.${key}`);
    }
  };
  walk(config, '');
  return found;
}

async function checkSecrets(context: Context, report: Report): Promise<void> {
  const references = secretReferences(context.config);
  const byReference = Map.groupBy(references, ({ reference }) => reference);
  for (const [reference, places] of byReference) {
    const where = places.map(({ path }) => path).join(', ');
    try {
      await context.secrets.resolve(reference);
      report('ok', `${reference} resolves (${where})`);
    } catch (error) {
      report('fail', `${where}: ${error instanceof HoldfastError ? error.message : messageOf(error)}`, (error as HoldfastError).next ?? 'correct the reference');
    }
  }
}

async function checkStore(context: Context, name: string, config: Config['stores'][string], report: Report): Promise<void> {
  const store = await openStore(context, name);
  const key = `${store.prefix}.holdfast-doctor/${randomBytes(8).toString('hex')}`;
  const text = `written by holdfast doctor ${randomBytes(8).toString('hex')}`;
  await store.put(key, text, { ifAbsent: true });
  try {
    const back = await readText(await store.get(key));
    if (back === text) report('ok', `${store.describe()}: written and read back`);
    else report('fail', `${store.describe()}: what was read back is not what was written`, 'do not use this store');
    await attempt(report, () => checkConditionalWrite(store, key, report));
    let listed = false;
    for await (const object of store.list(`${store.prefix}.holdfast-doctor/`)) listed ||= object.key === key;
    if (listed) report('ok', 'the listing shows what was just written');
    else report('fail', 'the listing does not show what was just written', 'retention needs a complete listing; use a store with read-after-write consistency');
  } finally {
    await store.delete(key);
  }
  if ((await store.head(key)) === undefined) report('ok', 'deleting works');
  else report('fail', 'a deleted object is still there', 'check the rights: retention needs delete');
  if (config.type === 's3') await attempt(report, () => checkBucket(context, config, report));
  else report('warn', 'a folder is no place for backups that must survive this host', 'use an S3 store for anything but a trial');
  if (config.encryption === undefined) report('warn', 'backups are not encrypted by Holdfast', 'set encryption.recipients (age), or rely on the encryption of the bucket');
}

async function checkConditionalWrite(store: Store, key: string, report: Report): Promise<void> {
  try {
    await store.put(key, 'overwritten', { ifAbsent: true });
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.code !== 'object-exists') throw error;
    report('ok', 'conditional writes (If-None-Match: *) are honoured: nothing is overwritten');
    return;
  }
  report('fail', 'the store ignores If-None-Match: two backups could overwrite each other', 'use a store that honours conditional writes');
}

async function checkBucket(context: Context, config: S3StoreConfig, report: Report): Promise<void> {
  const { GetBucketVersioningCommand, GetObjectLockConfigurationCommand } = await import('@aws-sdk/client-s3');
  const client = await context.aws.s3(config);
  try {
    const { Status: versioning } = await client.send(new GetBucketVersioningCommand({ Bucket: config.bucket }));
    if (versioning === 'Enabled') report('ok', 'versioning is enabled: a deleted backup can be brought back');
    else report('warn', `versioning is ${versioning?.toLowerCase() ?? 'not enabled'}: a deleted backup is gone`, `aws s3api put-bucket-versioning --bucket ${config.bucket} --versioning-configuration Status=Enabled, with a lifecycle rule for old versions`);
  } catch (error) {
    report('warn', `versioning cannot be read: ${(error as Error).name}`, 'allow s3:GetBucketVersioning to see it here');
  }
  let locked: boolean;
  try {
    const { ObjectLockConfiguration } = await client.send(new GetObjectLockConfigurationCommand({ Bucket: config.bucket }));
    locked = ObjectLockConfiguration?.ObjectLockEnabled === 'Enabled';
  } catch (error) {
    const { name } = error as Error;
    if (name !== 'ObjectLockConfigurationNotFoundError' && name !== 'ObjectLockConfigurationNotFound') {
      report('warn', `object lock cannot be read: ${name}`, 'allow s3:GetBucketObjectLockConfiguration to see it here');
      return;
    }
    locked = false;
  }
  if (locked && config.objectLock !== undefined) report('ok', `object lock is on; backups are locked ${config.objectLock.mode} for ${formatDuration(config.objectLock.retain)}`);
  else if (locked) report('warn', 'the bucket has object lock, but objectLock is not configured: backups are not locked', 'set stores.<name>.objectLock');
  else if (config.objectLock !== undefined) report('fail', 'objectLock is configured, but the bucket has no object lock', 'object lock is given to a bucket when it is created: make a new one');
  else report('warn', 'no object lock: whoever has the credentials can delete every backup', 'use a bucket with object lock and set objectLock');
}

async function checkDatastore(context: Context, datastore: PostgresDatastore, report: Report): Promise<void> {
  const statuses = await Promise.all(Object.keys(datastore.nodes).map((node) => nodeStatus(context, datastore, node)));
  for (const status of statuses) {
    if (!status.reachable) report('fail', `${status.node}: ${(status.error ?? '').split('\n')[0]}`, 'check that the server runs, that this host reaches it, and the admin user and password');
    else report('ok', `${status.node}: PostgreSQL ${formatServerVersion(status.serverVersion)}, ${status.inRecovery === true ? `standby (${status.receiverStatus ?? 'not receiving'})` : 'primary'}${status.readOnlyDefault ? ', READ-ONLY by default' : ''}`);
  }
  const reachable = statuses.filter((status) => status.reachable);
  await attempt(report, () => checkTools(datastore, reachable, report));
  const primaries = reachable.filter((status) => status.inRecovery === false);
  if (reachable.length > 0) await attempt(report, () => checkReplication(context, datastore, primaries, reachable, report));
  for (const status of reachable) {
    if (!status.superuser && datastore.managed === undefined) {
      report(
        'warn',
        `${status.node}: ${datastore.admin.username} is no superuser: backups need pg_read_all_data and BYPASSRLS, failover needs ALTER SYSTEM, pg_promote and pg_terminate_backend`,
        `grant pg_read_all_data, pg_monitor, pg_signal_backend to ${datastore.admin.username}; a failover of a self-managed server needs a superuser`,
      );
    }
  }
  for (const [name, node] of Object.entries(datastore.nodes)) {
    if (datastore.managed !== undefined) {
      const { instance, saw } = await lookAtInstance(context, datastore, name);
      if (instance === null) report('fail', `${name}: ${saw.answers ? 'RDS knows no such instance' : `RDS does not answer: ${saw.error}`}`, `check nodes.${name}.rds, and that this host may call rds:DescribeDBInstances there`);
      else report('ok', `${name}: RDS says ${instance.status}${instance.source === null ? '' : `, replica of ${instance.source}`}`);
      const sql = statuses.find((status) => status.node === name)!;
      for (const text of judgeRole(name, sql, saw).disagreements) report('warn', text, 'who takes writes is what the server itself says');
      continue;
    }
    if (!hasHostAccess(node)) {
      report('warn', `${name}: no dataDirectory: the node cannot be fenced on its host nor rebuilt as a standby`, 'set dataDirectory, binDirectory and exec of the node');
      continue;
    }
    await attempt(report, async () => {
      const state = await hostState(node, AbortSignal.timeout(TOOL_TIMEOUT_MS));
      if (state === 'unknown') report('fail', `${name}: the host does not say whether the server runs`, `check exec and that it may run ${nodeTool(node, 'pg_ctl')} -D ${node.dataDirectory} status`);
      else report('ok', `${name}: commands run on its host; the server is ${state}`);
      for (const tool of ['pg_rewind', 'pg_basebackup']) {
        const answer = await runOnNode(node, [nodeTool(node, tool), '--version'], { allowFailure: true, signal: AbortSignal.timeout(TOOL_TIMEOUT_MS) });
        if (answer.code !== 0) report('warn', `${name}: ${tool} does not run on its host`, `install it, or set binDirectory of the node; failback needs it`);
      }
    });
  }
  await attempt(report, () => checkEndpoint(context, datastore, primaries, report));
}

function formatServerVersion(version: number | null): string {
  return version === null ? '?' : `${Math.floor(version / 10_000)}.${version % 10_000}`;
}

async function checkTools(datastore: PostgresDatastore, reachable: readonly NodeStatus[], report: Report): Promise<void> {
  const serverMajor = Math.max(0, ...reachable.map((status) => Math.floor((status.serverVersion ?? 0) / 10_000)));
  for (const tool of ['pg_dump', 'pg_dumpall', 'pg_restore', 'psql'] as const) {
    const found = await toolVersion([postgresTool(datastore, tool), '--version']);
    const major = majorVersion(found ?? '') ?? 0;
    if (found === undefined) report('fail', `${tool} is not found`, `install the PostgreSQL ${serverMajor || ''} client, or set binDirectory of the datastore`);
    else if (major < serverMajor) report('fail', `${tool} ${major} is older than the server (${serverMajor}) and would be refused`, `install the PostgreSQL ${serverMajor} client, or set binDirectory of the datastore`);
    else report('ok', found);
  }
  for (const tool of ['initdb', 'postgres'] as const) {
    const found = await toolVersion([postgresTool(datastore, tool), '--version']);
    const major = majorVersion(found ?? '') ?? 0;
    if (found === undefined) report('warn', `${tool} is not found: restore drills cannot run on this host`, `install PostgreSQL ${serverMajor || ''} here (its server need not run), or set binDirectory`);
    else if (serverMajor > 0 && major !== serverMajor) report('warn', `${tool} is ${major}, the server ${serverMajor}: a drill must restore into the same major version`, `install PostgreSQL ${serverMajor} and set binDirectory`);
    else report('ok', `${found}: drills can run here`);
  }
}

async function checkReplication(context: Context, datastore: PostgresDatastore, primaries: readonly NodeStatus[], reachable: readonly NodeStatus[], report: Report): Promise<void> {
  if (primaries.length === 0) {
    report('fail', 'no reachable node is a primary', 'check the nodes; a failover in forced mode may be what is needed');
    return;
  }
  if (primaries.length > 1) {
    report('fail', `MORE THAN ONE PRIMARY: ${primaries.map(({ node }) => node).join(', ')} accept writes`, 'stop writes to all but the right one at once; then find out how it came to this');
    return;
  }
  const [primary] = primaries;
  const facts = await withNode(
    context,
    datastore,
    primary!.node,
    async (client) => {
      const { rows: settings } = await client.query<{ name: string; setting: string }>("select name, setting from pg_settings where name in ('wal_level', 'wal_log_hints', 'data_checksums', 'max_wal_senders', 'fsync', 'synchronous_commit')");
      const { rows: standbys } = await client.query<{ application_name: string; state: string; sync_state: string; lag: string | null }>(
        'select application_name, state, sync_state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::text as lag from pg_stat_replication order by application_name',
      );
      return { settings: new Map(settings.map(({ name, setting }) => [name, setting])), standbys };
    },
    { queryTimeoutMs: TOOL_TIMEOUT_MS },
  );
  if (facts.settings.get('fsync') === 'off') report('fail', `${primary!.node}: fsync is off: a crash of the host may destroy the database`, 'set fsync = on');
  if (Object.keys(datastore.nodes).length > 1) {
    for (const standby of facts.standbys) {
      report(standby.state === 'streaming' ? 'ok' : 'warn', `${primary!.node} -> ${standby.application_name}: ${standby.state}, ${standby.sync_state}, ${standby.lag === null ? 'lag unknown' : `${formatBytes(Number(standby.lag))} behind`}`, standby.state === 'streaming' ? undefined : 'wait until it streams, or look at its log');
    }
    if (facts.standbys.length === 0) report('fail', `${primary!.node}: no standby streams from it`, 'check primary_conninfo and pg_hba.conf of the standby');
    const rewindable = facts.settings.get('wal_log_hints') === 'on' || facts.settings.get('data_checksums') === 'on';
    report(rewindable ? 'ok' : 'warn', rewindable ? 'pg_rewind is possible after a failover' : 'neither data checksums nor wal_log_hints: after a failover the old primary must be copied anew', rewindable ? undefined : 'set wal_log_hints = on, or enable checksums with pg_checksums');
    const identifiers = new Set(reachable.map((status) => status.systemIdentifier));
    if (identifiers.size > 1) report('fail', `the nodes are not of one cluster: system identifiers ${[...identifiers].join(', ')}`, 'correct the addresses of the nodes');
  }
}

async function checkEndpoint(context: Context, datastore: PostgresDatastore, primaries: readonly NodeStatus[], report: Report): Promise<void> {
  const { endpoint } = datastore;
  if (endpoint === undefined) return;
  await attempt(report, async () => {
    const parsed = JSON.parse(await context.secrets.resolve(`aws-sm:${endpoint.secret}`)) as Record<string, unknown>;
    const missing = ['host', 'port', 'username', 'password', 'dbname'].filter((field) => parsed[field] === undefined);
    if (missing.length > 0) {
      report('fail', `endpoint secret ${endpoint.secret} has no ${missing.join(', ')}`, 'it must be JSON with host, port, username, password, dbname');
      return;
    }
    const pointsTo = nodeByAddress(datastore, String(parsed['host']), Number(parsed['port']));
    const where = `${String(parsed['host'])}:${String(parsed['port'])}`;
    if (pointsTo === null) report('fail', `endpoint secret ${endpoint.secret} points to ${where}, which is none of the nodes`, 'correct the secret, or host and applicationHost of the nodes');
    else if (primaries.length === 1 && pointsTo !== primaries[0]!.node) report('fail', `endpoint secret ${endpoint.secret} points to ${pointsTo}, but the primary is ${primaries[0]!.node}`, 'applications write to the wrong node: correct the secret');
    else report('ok', `endpoint secret ${endpoint.secret} points to ${pointsTo} (${where})`);
  });
  const { dns } = endpoint;
  if (dns === undefined) return;
  await attempt(report, async () => {
    const { ListResourceRecordSetsCommand } = await import('@aws-sdk/client-route-53');
    const client = await context.aws.route53();
    const answer = await client.send(new ListResourceRecordSetsCommand({ HostedZoneId: dns.hostedZoneId, StartRecordName: dns.name, StartRecordType: dns.type, MaxItems: 1 }));
    const record = answer.ResourceRecordSets?.find((set) => set.Name?.replace(/\.$/, '') === dns.name.replace(/\.$/, '') && set.Type === dns.type);
    if (record === undefined) report('fail', `hosted zone ${dns.hostedZoneId} has no ${dns.type} record ${dns.name}`, 'create it, or correct endpoint.dns');
    else report((record.TTL ?? 0) > 60 ? 'warn' : 'ok', `${dns.type} ${dns.name} -> ${record.ResourceRecords?.[0]?.Value ?? 'alias'}, TTL ${record.TTL ?? '-'} s`, (record.TTL ?? 0) > 60 ? 'lower the TTL to 60 s or less: clients keep the old address that long' : undefined);
  });
}

async function checkKubernetes(context: Context, name: string, report: Report): Promise<void> {
  const { connectKubernetes, mayDo } = await import('../systems/kubernetes.ts');
  const cluster = await connectKubernetes(context, name, AbortSignal.timeout(TOOL_TIMEOUT_MS));
  const { namespace } = cluster;
  const asks = [{ verb: 'patch', group: 'apps', resource: 'deployments', namespace }, { verb: 'list', resource: 'pods', namespace }];
  const answers = await Promise.all(asks.map((ask) => mayDo(cluster, ask)));
  report('ok', `the API server answers; steps that name no namespace work in ${namespace}`);
  const denied = asks.filter((_, index) => !answers[index]!.allowed).map(({ verb, resource }) => `${verb} ${resource}`);
  if (denied.length === 0) report('ok', `workloads of ${namespace} may be restarted`);
  else report('warn', `in ${namespace} it may not ${denied.join(', ')}: kubernetes.rollout would be refused there`, 'grant it by a Role; docs/kubernetes.md has one');
}

async function checkEvidence(context: Context, report: Report): Promise<void> {
  const directory = resolve(dirname(context.configPath), context.config.evidence.directory);
  let at = directory;
  for (;;) {
    try {
      await access(at, constants.W_OK);
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw new HoldfastError('evidence-directory', `${at} is not writable`, { next: 'correct evidence.directory or the rights', cause: error });
      at = dirname(at);
    }
  }
  report('ok', `evidence goes to ${directory}`);
  const reference = context.config.evidence.signingKey;
  if (reference === undefined) {
    report('warn', 'evidence is not signed', 'make a key with `holdfast evidence keygen FILE` and set evidence.signingKey');
    return;
  }
  const { createPrivateKey, createPublicKey } = await import('node:crypto');
  const { keyIdOf } = await import('../systems/evidence-keys.ts');
  let key: KeyObject | undefined;
  try {
    key = createPrivateKey(await context.secrets.resolve(reference));
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
  }
  const type = key?.asymmetricKeyType;
  if (key === undefined || type !== 'ed25519') {
    report('fail', `the signing key is ${type === undefined ? 'no private key in PEM' : `of type ${type}`}, expected Ed25519`, 'make one with `holdfast evidence keygen FILE`');
    return;
  }
  const { trustedKeys, revokedKeys } = context.config.evidence;
  const publicKey = createPublicKey(key);
  const keyId = keyIdOf(publicKey);
  const line = publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
  const trusted = trustedKeys.find((one) => one.publicKey === line);
  const now = Date.now();
  const trustIt = `add to evidence.trustedKeys: publicKey: ${line}`;
  if (revokedKeys.some((revoked) => revoked.keyId === keyId)) report('fail', `the signing key ${keyId} is revoked: nothing it signs is believed`, 'make another with `holdfast evidence keygen FILE` and point evidence.signingKey to it');
  else if (trustedKeys.length > 0 && trusted === undefined) report('fail', `the signing key ${keyId} is not among evidence.trustedKeys: what it signs is not believed`, trustIt);
  else if ((trusted?.validUntil !== undefined && Date.parse(trusted.validUntil) < now) || (trusted?.validFrom !== undefined && Date.parse(trusted.validFrom) > now)) report('fail', `the signing key ${keyId} is trusted ${trusted.validFrom === undefined ? '' : `from ${trusted.validFrom} `}${trusted.validUntil === undefined ? '' : `until ${trusted.validUntil}`}, not now`, 'rotate it, or correct its validity');
  else report('ok', `the signing key is an Ed25519 private key, ${keyId}${trusted === undefined ? '' : ', and trusted'}`);
  if (trustedKeys.length === 0) report('warn', 'no key is trusted here, so `evidence verify` cannot say who signed', trustIt);
}

async function checkNotify(context: Context, options: DoctorOptions, report: Report): Promise<void> {
  const names = Object.keys(context.config.notify);
  if (names.length === 0) {
    report('warn', 'nobody is told when something fails', 'add a webhook under notify');
    return;
  }
  if (!options.notifyTest) {
    for (const name of names) report('ok', `${name}: not tested; a webhook cannot be asked without sending (--notify-test sends a notice)`);
    return;
  }
  const everything = Object.fromEntries(Object.entries(context.config.notify).map(([name, receiver]) => [name, { ...receiver, on: ['attention' as const] }]));
  const { sent, failed } = await sendNotice(everything, context.secrets, context.log, {
    level: 'attention',
    title: 'test from holdfast doctor',
    text: 'Nothing happened. If you read this, notifications work.',
    fields: { environment: context.config.environment },
  });
  for (const name of sent) report('ok', `${name}: a test notice was taken`);
  for (const why of failed) report('fail', why, 'check the webhook address in its secret');
}
