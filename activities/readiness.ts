import { access, constants } from 'node:fs/promises';
import { createPrivateKey } from 'node:crypto';
import { dirname, resolve } from 'node:path';
import { Context as ActivityContext } from '@temporalio/activity';
import type { RehearsalConfig } from '../src/model/config-rehearsals.ts';
import { isBackedUp, type PostgresDatastore } from '../src/model/config-schema.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import type { Plan } from '../src/model/execution.ts';
import { backupChecks, backupsNotSeen, complianceCheck, forcedChecks, rehearsalCheck, unanswered, type EarlierReadiness, type ForcedOutlook, type ReadinessCheck } from '../src/model/readiness.ts';
import { rehearsalReadiness } from '../src/model/rehearsal.ts';
import type { Mode, Runbook } from '../src/model/runbook-schema.ts';
import { measureCompliance } from '../src/systems/backup-records.ts';
import { listBackups } from '../src/systems/backup-catalogue.ts';
import { runChild } from '../src/systems/child.ts';
import { datastoreOf, postgresOf, serviceOf, storeOf, type Context } from '../src/systems/context.ts';
import { engineOfDatastore } from '../src/systems/engines.ts';
import { redactValue } from '../src/systems/log.ts';
import { lookAtInstance, managedNode, regionOf } from '../src/systems/rds.ts';
import { controlData, hasHostAccess, hostState, lsnDifference, nodeStatus, nodeTool, runOnNode } from '../src/systems/postgres-node.ts';
import { postgresTool } from '../src/systems/postgres.ts';
import { loadRunbook } from '../src/systems/runbook-file.ts';
import { mayWrite } from '../src/systems/store-rights.ts';
import { openStore } from '../src/systems/store.ts';
import { majorVersion, toolVersion } from '../src/systems/tool-version.ts';
import { withActivityFailures } from './failure.ts';
import { configurationHash, documentHash, resolvePlan } from './plan.ts';
import { newestReadiness, rehearsalsOf } from './readiness-history.ts';
import { rehearsalStates } from './rehearsals.ts';

const HOST_TIMEOUT_MS = 10_000;
const SOURCE_TIMEOUT_MS = 20_000;

/** Roles as the health step of the failover runbook found them, by datastore. */
export type Roles = Readonly<Record<string, { readonly primary: string; readonly candidate: string | null }>>;

export interface ReadinessPlan {
  readonly plan: Plan | null;
  /** Why there is none. */
  readonly why: string | null;
  /** Parameters that nobody gave and that were filled in for the sake of asking. */
  readonly assumed: Readonly<Record<string, string>>;
}

/** All of them only read. */
export function createReadinessActivities(context: Context) {
  return withActivityFailures({
    readinessSubjects: async (service: string): Promise<{ purposes: string[]; datastores: string[]; environment: string }> => {
      const found = serviceOf(context.config, service);
      return { purposes: Object.keys(found.runbooks), datastores: found.datastores, environment: context.config.environment };
    },
    readinessPlan: (service: string, purpose: string, mode: Mode, roles: Roles): Promise<ReadinessPlan> => planFor(context, service, purpose, mode, roles),
    checkProofs: async (service: string, nowMs: number): Promise<ReadinessCheck[]> => redactValue(await checkProofs(context, service, nowMs)),
    /** The service's runbooks, or the one that is about to run. */
    checkRehearsals: async (service: string, only: string | null): Promise<ReadinessCheck[]> => redactValue(await checkRehearsals(context, service, only)),
    checkSurroundings: async (service: string): Promise<ReadinessCheck[]> => redactValue(await checkSurroundings(context, service)),
    checkForced: async (service: string, roles: Roles): Promise<{ checks: ReadinessCheck[]; outlooks: ForcedOutlook[]; notChecked: string[] }> => redactValue(await checkForced(context, service, roles)),
    lastReadiness: (service: string): Promise<EarlierReadiness | null> => {
      const { client } = ActivityContext.current();
      return newestReadiness(client, context.config.environment, service).then((found) => found?.result ?? null);
    },
  });
}

/** A runbook that is only started by someone with time to say more (failback: to which node?) is asked as if the candidate had been named. */
async function planFor(context: Context, service: string, purpose: string, mode: Mode, roles: Roles): Promise<ReadinessPlan> {
  const assumed: Record<string, string> = {};
  try {
    const { runbook } = await loadRunbook(context.runbookDirectory, serviceOf(context.config, service).runbooks[purpose] ?? purpose);
    const [only] = Object.values(roles);
    if (needsNode(runbook) && !Object.hasOwn(serviceOf(context.config, service).parameters, 'node') && only?.candidate != null) assumed['node'] = only.candidate;
    const plan = await resolvePlan(context, { type: 'failover', service, purpose, runbook: null, mode, parameters: assumed });
    return { plan, why: null, assumed };
  } catch (error) {
    if (error instanceof HoldfastError && error.retryable) throw error;
    return { plan: null, why: messageOf(error), assumed };
  }
}

function needsNode(runbook: Runbook): boolean {
  return Object.hasOwn(runbook.parameters, 'node') && runbook.parameters['node']!.required === true && runbook.parameters['node']!.default === undefined;
}

async function checkProofs(context: Context, serviceName: string, nowMs: number): Promise<ReadinessCheck[]> {
  const service = serviceOf(context.config, serviceName);
  const checks: ReadinessCheck[] = [];
  for (const name of service.datastores) {
    const datastore = datastoreOf(context.config, name);
    if (!isBackedUp(datastore)) continue;
    if (datastore.store === undefined) {
      checks.push(...backupChecks(name, [], { backupAgeMs: service.objectives.backupAge ?? service.objectives.rpo, drillMaxAgeMs: datastore.drill.maxAge }, nowMs).map((check) => ({ ...check, found: 'none: no store is configured', next: `add datastores.${name}.store` })));
      continue;
    }
    try {
      const store = await openStore(context, datastore.store);
      const backups = await listBackups(store, store.prefix, name);
      if (service.objectives.compliance !== undefined) checks.push(complianceCheck(await measureCompliance(context, ActivityContext.current().client, name, { nowMs, periodMs: service.objectives.compliance.period })));
      checks.push(...backupChecks(name, backups, { backupAgeMs: service.objectives.backupAge ?? service.objectives.rpo, drillMaxAgeMs: datastore.drill.maxAge }, nowMs));
    } catch (error) {
      checks.push(...backupsNotSeen(name, messageOf(error)));
    }
  }
  return checks;
}

async function checkRehearsals(context: Context, serviceName: string, only: string | null): Promise<ReadinessCheck[]> {
  const service = serviceOf(context.config, serviceName);
  const { client } = ActivityContext.current();
  const checks: ReadinessCheck[] = [];
  for (const [purpose, name] of Object.entries(service.runbooks)) {
    if (only !== null && only !== name) continue;
    try {
      const { runbook } = await loadRunbook(context.runbookDirectory, name);
      const { runs, looked } = await rehearsalsOf(context, client, serviceName, name);
      const next = `rehearse it: holdfast failover ${serviceName} --mode planned${purpose === 'failover' ? '' : ` --purpose ${purpose}`} --reason rehearsal`;
      checks.push(rehearsalCheck(name, { document: documentHash(runbook), configuration: configurationHash(context.config, service) }, runs, looked, next));
    } catch (error) {
      checks.push(unanswered(`${name}: rehearsed`, messageOf(error), { rule: 'runbook-rehearsed', expected: 'a runbook that can be read, and histories that can be asked' }));
    }
  }
  return only === null ? [...checks, ...(await checkCalendar(context, serviceName))] : checks;
}

/** Are the rehearsals of the calendar held when they are due? */
async function checkCalendar(context: Context, serviceName: string): Promise<ReadinessCheck[]> {
  try {
    const { rehearsals } = serviceOf(context.config, serviceName);
    const states = await rehearsalStates(context, ActivityContext.current().client, serviceName, Date.now());
    return states.map((state, index) => rehearsalReadiness(state, howToRehearse(serviceName, rehearsals[index]!)));
  } catch (error) {
    return [unanswered('rehearsals', messageOf(error), { weight: 'lowers', expected: 'histories and evidence that can be asked' })];
  }
}

function howToRehearse(service: string, { name, runbook, drill, mode, parameters }: RehearsalConfig): string {
  if (drill !== undefined) return `holdfast drill ${drill}`;
  const given = Object.entries(parameters).map(([key, value]) => ` -p ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`).join('');
  return `holdfast run ${runbook} --service ${service}${mode === 'planned' ? '' : ` --mode ${mode}`}${given} --reason "rehearsal ${name}"`;
}

/** What a recovery needs of this worker: client programs, the store, keys. Other workers may differ. */
async function checkSurroundings(context: Context, serviceName: string): Promise<ReadinessCheck[]> {
  const { datastores } = serviceOf(context.config, serviceName);
  const asked = await Promise.all([
    ...datastores.map((name) => asCheck(`${name}: source of backups`, () => checkSource(context, name))),
    ...[...new Set(datastores.flatMap((name) => (context.config.datastores[name] as { store?: string } | undefined)?.store ?? []))].map((store) => asCheck(`store ${store}`, () => checkStore(context, store))),
    asCheck('evidence', () => checkEvidence(context)),
  ]);
  return asked.flat();
}

/** What cannot be asked is said, and hides nothing else. */
async function asCheck(name: string, ask: () => Promise<ReadinessCheck[]>): Promise<ReadinessCheck[]> {
  try {
    return await ask();
  } catch (error) {
    return [unanswered(name, messageOf(error), { weight: 'lowers' })];
  }
}

/** What a backup needs of the source and of this host. */
async function checkSource(context: Context, name: string): Promise<ReadinessCheck[]> {
  const datastore = datastoreOf(context.config, name);
  if (datastore.engine === 'postgres') return checkClients(context, name);
  return isBackedUp(datastore) ? ((await (await engineOfDatastore(context, name)).ready?.(context, name, AbortSignal.timeout(SOURCE_TIMEOUT_MS))) ?? []) : [];
}

/** pg_dump refuses a server that is newer than itself. */
async function checkClients(context: Context, name: string): Promise<ReadinessCheck[]> {
  const datastore = postgresOf(context.config, name);
  const versions = await Promise.all(Object.keys(datastore.nodes).map(async (node) => (await nodeStatus(context, datastore, node)).serverVersion));
  const server = Math.max(0, ...versions.map((version) => Math.floor((version ?? 0) / 10_000)));
  return Promise.all(
    (['pg_dump', 'pg_dumpall', 'pg_restore', 'psql'] as const).map(async (tool): Promise<ReadinessCheck> => {
      const found = await toolVersion([postgresTool(datastore, tool), '--version']);
      const ok = found !== undefined && (majorVersion(found) ?? 0) >= server;
      return {
        name: `${name}: ${tool}`,
        weight: 'lowers',
        ok,
        expected: server === 0 ? 'it is there (no server answered to compare its version with)' : `major version ${server} or newer, as the server`,
        found: found ?? 'not found',
        ...(ok ? {} : { next: `install the PostgreSQL ${server === 0 ? '' : `${server} `}client on this worker, or set datastores.${name}.binDirectory` }),
      };
    }),
  );
}

async function checkStore(context: Context, name: string): Promise<ReadinessCheck[]> {
  const { allowed, found } = await mayWrite(context, name);
  const checks: ReadinessCheck[] = [{ name: `store ${name}: right to write`, weight: 'lowers', ok: allowed, expected: 'allowed', found, ...(allowed ? {} : { next: "allow writing to the worker's credentials; until then no backup can be made" }) }];
  const { encryption } = storeOf(context.config, name);
  if (encryption !== undefined) {
    const problem = encryption.identity === undefined ? 'none is configured' : await context.secrets.resolve(encryption.identity).then(() => null, messageOf);
    checks.push({ name: `store ${name}: age identity`, weight: 'lowers', ok: problem === null, expected: 'it resolves: without it no encrypted backup can be restored', found: problem ?? 'resolves', ...(problem === null ? {} : { next: `set stores.${name}.encryption.identity` }) });
  }
  return checks;
}

async function checkEvidence(context: Context): Promise<ReadinessCheck[]> {
  const { directory, signingKey } = context.config.evidence;
  const folder = resolve(dirname(context.configPath), directory);
  const writable = await nearestWritable(folder);
  const checks: ReadinessCheck[] = [{ name: 'evidence folder', weight: 'lowers', ok: writable, expected: `${folder} can be written`, found: writable ? 'writable' : 'not writable', ...(writable ? {} : { next: 'correct evidence.directory or the rights' }) }];
  if (signingKey === undefined) return checks;
  const found = await context.secrets.resolve(signingKey).then(
    (pem) => {
      try {
        return createPrivateKey(pem).asymmetricKeyType ?? 'of an unknown type';
      } catch {
        return 'no private key in PEM';
      }
    },
    messageOf,
  );
  return [...checks, { name: 'evidence signing key', weight: 'lowers', ok: found === 'ed25519', expected: 'an Ed25519 private key', found, ...(found === 'ed25519' ? {} : { next: 'make one with `holdfast evidence keygen FILE` and set evidence.signingKey' }) }];
}

async function nearestWritable(folder: string): Promise<boolean> {
  for (let at = folder; ; at = dirname(at)) {
    try {
      await access(at, constants.W_OK);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || at === dirname(at)) return false;
    }
  }
}

/** What a forced failover would meet if the primary went silent now, and what a failback would need of each node's host. */
async function checkForced(context: Context, serviceName: string, roles: Roles): Promise<{ checks: ReadinessCheck[]; outlooks: ForcedOutlook[]; notChecked: string[] }> {
  const checks: ReadinessCheck[] = [];
  const outlooks: ForcedOutlook[] = [];
  const notChecked: string[] = [];
  for (const name of serviceOf(context.config, serviceName).datastores) {
    const datastore = datastoreOf(context.config, name);
    if (datastore.engine !== 'postgres') continue;
    const known = Object.hasOwn(roles, name) ? roles[name] : undefined;
    if (known === undefined) notChecked.push(`forced: ${name}: fencing, standby and hosts, since which node is the primary is not known`);
    else {
      const outlook = await outlookOf(context, name, datastore, known);
      outlooks.push(outlook);
      checks.push(...forcedChecks(outlook));
      const node = datastore.nodes[known.primary]!;
      const countable = hasHostAccess(node) && (await controlData(node, AbortSignal.timeout(HOST_TIMEOUT_MS)).then((control) => control.segmentBytes !== null, () => false));
      if (datastore.managed !== undefined) notChecked.push(`forced: ${name}: what would be lost: RDS shows the WAL of an instance to nobody, so it could not be counted afterwards either`);
      else if (!countable) notChecked.push(`forced: ${name}: what would be lost: the files of ${known.primary} cannot be read (dataDirectory, exec), so it could not be counted afterwards either`);
    }
    checks.push(...(await Promise.all(Object.keys(datastore.nodes).map((node) => (datastore.managed === undefined ? rebuildChecks(name, datastore, node) : managedChecks(context, name, datastore, node))))).flat());
  }
  return { checks, outlooks, notChecked };
}

async function outlookOf(context: Context, name: string, datastore: PostgresDatastore, { primary, candidate }: { primary: string; candidate: string | null }): Promise<ForcedOutlook> {
  const node = datastore.nodes[primary]!;
  const standbys = Object.keys(datastore.nodes).filter((other) => other !== primary);
  const [here, host, ...others] = await Promise.all([
    nodeStatus(context, datastore, primary),
    hasHostAccess(node) ? hostState(node, AbortSignal.timeout(HOST_TIMEOUT_MS)).catch(() => 'unknown' as const) : ('none' as const),
    ...standbys.map((standby) => nodeStatus(context, datastore, standby)),
  ]);
  const streaming = others.filter((status) => status.inRecovery === true && status.receiverStatus === 'streaming');
  const chosen = others.find((status) => status.node === candidate);
  const { receivedLsn } = chosen ?? { receivedLsn: null };
  const rds = datastore.managed === undefined ? null : (await lookAtInstance(context, datastore, primary)).saw;
  const managed = rds === null ? null : { answers: rds.answers && rds.found, fencingGroups: managedNode(datastore, primary).fencingGroups.length > 0, region: regionOf(context, managedNode(datastore, primary)) };
  return {
    ...(managed === null ? {} : { managed }),
    datastore: name,
    primary,
    candidate,
    streams: streaming.some((status) => status.node === candidate),
    missingBytes: here.receivedLsn === null || receivedLsn === null ? null : Math.max(0, Number(lsnDifference(receivedLsn, here.receivedLsn))),
    host,
    fenceCommand: node.fence === undefined ? 'none' : (await canRun(node.fence.command)) ? 'found' : 'missing',
    fenceVerify: node.fence?.verify === undefined ? 'none' : await verifyFence(node.fence.verify, primary),
    takesWrites: here.inRecovery === false && !here.readOnlyDefault,
    observers: ['the worker', ...(managed?.answers === true ? [`RDS in ${managed.region}`] : []), ...streaming.map((status) => `the stream of ${status.node}`), ...(host === 'running' || host === 'stopped' ? [`the host of ${primary}`] : [])],
  };
}

async function canRun(argv: readonly string[]): Promise<boolean> {
  return (await runChild(['sh', '-c', 'command -v "$0" >/dev/null', argv[0]!], { allowFailure: true, signal: AbortSignal.timeout(HOST_TIMEOUT_MS) })).code === 0;
}

/** Only asks, as its contract says. 126 and 127: a shell could not run it; 255: ssh did not get there. */
async function verifyFence(argv: readonly string[], node: string): Promise<ForcedOutlook['fenceVerify']> {
  try {
    const { code } = await runChild(argv, { env: { HOLDFAST_NODE: node, HOLDFAST_EPOCH: '0' }, allowFailure: true, signal: AbortSignal.timeout(HOST_TIMEOUT_MS) });
    return code === 0 ? 'fenced' : code === null || code === 126 || code === 127 || code === 255 ? 'cannot be run' : 'not fenced';
  } catch {
    return 'cannot be run';
  }
}

/** The same for an instance that RDS runs: made anew, it must be described, and its primary have backups to be copied from. */
async function managedChecks(context: Context, datastoreName: string, datastore: PostgresDatastore, name: string): Promise<ReadinessCheck[]> {
  if (Object.keys(datastore.nodes).length < 2) return [];
  const { instance, saw } = await lookAtInstance(context, datastore, name);
  const check = (what: string, ok: boolean, expected: string, found: string, next: string): ReadinessCheck => ({ name: `rebuild ${datastoreName}/${name}: ${what}`, weight: 'lowers', ok, expected, found, ...(ok ? {} : { next }) });
  const checks = [check('instance', instance !== null, `RDS describes ${managedNode(datastore, name).instance}`, instance?.status ?? (saw.answers ? 'no such instance' : `RDS does not answer: ${saw.error}`), `correct nodes.${name}.rds, and let the worker call rds:DescribeDBInstances`)];
  if (instance !== null && datastore.managed!.type === 'rds') {
    const days = instance.raw.BackupRetentionPeriod ?? 0;
    checks.push(check('automated backups', days > 0, 'a backup retention period above zero: RDS makes replicas of nothing else', `${days} day(s)`, `aws rds modify-db-instance --db-instance-identifier ${instance.identifier} --backup-retention-period 1 --apply-immediately`));
  }
  return checks;
}

/** After a failover every old primary must be rebuilt; that it cannot be is found now. */
async function rebuildChecks(datastoreName: string, datastore: PostgresDatastore, name: string): Promise<ReadinessCheck[]> {
  const node = datastore.nodes[name]!;
  const at = `rebuild ${datastoreName}/${name}`;
  if (Object.keys(datastore.nodes).length < 2) return [];
  const check = (what: string, ok: boolean, expected: string, found: string, next: string): ReadinessCheck => ({ name: `${at}: ${what}`, weight: 'lowers', ok, expected, found, ...(ok ? {} : { next }) });
  if (!hasHostAccess(node)) return [check('host', false, 'dataDirectory, and exec on another host', 'no dataDirectory is configured', `give nodes.${name}.dataDirectory, or rebuild it by other means after a failover`)];
  const run = async (tool: string): Promise<string | null> => {
    const answer = await runOnNode(node, [nodeTool(node, tool), '--version'], { allowFailure: true, signal: AbortSignal.timeout(HOST_TIMEOUT_MS) }).catch(() => null);
    return answer?.code === 0 ? answer.stdout.trim() : null;
  };
  const [state, rewind, copy] = await Promise.all([hostState(node, AbortSignal.timeout(HOST_TIMEOUT_MS)).catch(() => 'unknown' as const), run('pg_rewind'), run('pg_basebackup')]);
  return [
    check('host', state !== 'unknown', 'pg_ctl status answers', state, `check nodes.${name}.exec, dataDirectory and binDirectory`),
    check('programs', rewind !== null || copy !== null, 'pg_rewind or pg_basebackup', [rewind, copy].filter((item) => item !== null).join(', ') || 'neither can be run', `install them on its host, or set nodes.${name}.binDirectory`),
    check('replication user', node.replication !== undefined, `nodes.${name}.replication`, node.replication?.username ?? 'none', `add nodes.${name}.replication`),
  ];
}
