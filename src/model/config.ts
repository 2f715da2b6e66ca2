import { managedProblems } from './config-managed.ts';
import { nativeProblems } from './config-dynamodb.ts';
import { snapshotProblems } from './config-snapshots.ts';
import { configSchema, isBackedUp, storeOfBackups, type BackedUpDatastore, type Config, type DatastoreConfig, type PostgresDatastore, type ScheduleConfig, type ServiceConfig } from './config-schema.ts';
import { lifecycleProblems } from './config-s3.ts';
import { findingsOf, nearest, pastedSecrets, pathText, shapeIssues, shown, sortFindings, valueAt, withoutTwins, type DocumentPath, type Issue, type ParsedDocument } from './document.ts';
import type { Finding } from './errors.ts';
import { dependsOn } from './for-each.ts';
import { rehearsalScheduleName } from './rehearsal.ts';
import { isEmptyPolicy, isTimezone } from './retention.ts';
import { inputIssues, knownInputs, neverRuns, parameterProblem } from './runbook-check.ts';
import { MODES, type Runbook } from './runbook-schema.ts';
import { cronGaps, parseCron, scheduleGaps } from './schedule.ts';
import { formatDuration } from './units.ts';

/** What else is known while the configuration is checked. */
export interface ConfigSurroundings {
  /** By name; undefined for one whose own file is wrong. Absent: runbooks are not checked. */
  readonly runbooks?: ReadonlyMap<string, Runbook | undefined>;
  /** Names in the file whose entries have errors of their own: references to them are not errors again. */
  readonly broken?: Readonly<Partial<Record<NameSection, readonly string[]>>>;
}

export type NameSection = 'stores' | 'datastores' | 'services' | 'schedules' | 'notify';

const MIN_PART_BYTES = 5 * 1024 ** 2;
const MAX_PART_BYTES = 5 * 1024 ** 3;

/** Families of step kinds that are done to datastores of one engine. */
const ENGINES: Readonly<Record<string, DatastoreConfig['engine']>> = { postgres: 'postgres', redis: 'redis', search: 'opensearch' };

function nodesOf(datastore: DatastoreConfig | undefined): Readonly<Record<string, unknown>> {
  return datastore?.engine === 'postgres' || datastore?.engine === 'redis' ? datastore.nodes : {};
}

/** The rules that no schema can say: references, schedules, policies, objectives. Pure; the same input gives the same issues. */
export function checkConfig(config: Config, surroundings: ConfigSurroundings = {}): Issue[] {
  const issues: Issue[] = [];
  const error = (path: DocumentPath, message: string, more: Pick<Issue, 'found' | 'allowed'> = {}): void => {
    issues.push({ level: 'error', path, message, ...more });
  };
  const warning = (path: DocumentPath, message: string): void => {
    issues.push({ level: 'warning', path, message });
  };
  const known = (section: NameSection): string[] => [...Object.keys(config[section]), ...(surroundings.broken?.[section] ?? [])].sort();
  const exists = (section: NameSection, name: string): boolean => known(section).includes(name);
  const reference = (section: NameSection, what: string, name: string, path: DocumentPath): void => {
    if (exists(section, name)) return;
    error(path, `there is no ${what} of this name${maybe(name, known(section))}`, { found: shown(name, path), allowed: known(section).join(', ') || `none; add one under ${section}` });
  };

  for (const [name, store] of Object.entries(config.stores)) {
    if (store.type === 's3' && (store.partSize < MIN_PART_BYTES || store.partSize > MAX_PART_BYTES)) {
      error(['stores', name, 'partSize'], 'S3 does not take parts of this size', { found: `${store.partSize} bytes`, allowed: '5MiB to 5GiB' });
    }
  }
  for (const [section, entries] of [['stores', config.stores], ['datastores', config.datastores]] as const) {
    for (const [name, entry] of Object.entries(entries)) {
      for (const { index, key, message } of lifecycleProblems('lifecycle' in entry ? entry.lifecycle : undefined, section === 'stores' ? 'store' : 'datastore')) error([section, name, 'lifecycle', index, key], message);
    }
  }
  checkEvidence();
  for (const [key, value] of Object.entries(config.aws.credentials ?? {})) {
    if (value?.startsWith('aws-sm:')) {
      error(['aws', 'credentials', key], 'credentials of AWS itself cannot come from AWS Secrets Manager', { allowed: 'env:<NAME>, file:<path>' });
    }
  }

  for (const [name, datastore] of Object.entries(config.datastores)) {
    if (datastore.engine === 'postgres') checkDatastore(name, datastore);
    else if (isBackedUp(datastore)) checkBackedUp(name, datastore);
    else if (datastore.engine === 'redis' && datastore.snapshots !== undefined) reference('stores', 'store', datastore.snapshots.store, ['datastores', name, 'snapshots', 'store']);
  }
  for (const [name, service] of Object.entries(config.services)) checkService(name, service);
  for (const [name, schedule] of Object.entries(config.schedules)) checkSchedule(name, schedule);
  for (const [name, service] of Object.entries(config.services)) checkRehearsals(name, service);
  if (Object.keys(config.schedules).length > 0 && known('notify').length === 0) warning(['schedules'], 'scheduled runs are configured, but nobody is told when one fails: there is no entry under notify');
  return issues;

  function checkEvidence(): void {
    const { store, retain, trustedKeys, revokedKeys } = config.evidence;
    if (store !== undefined) reference('stores', 'store', store, ['evidence', 'store']);
    const target = store === undefined || !Object.hasOwn(config.stores, store) ? undefined : config.stores[store];
    if (retain !== undefined && (store === undefined || (target !== undefined && (target.type !== 's3' || target.objectLock === undefined)))) {
      error(['evidence', 'retain'], 'nothing would be locked: it needs evidence.store to be a store of type s3 with objectLock');
    }
    const moment = (path: DocumentPath, value: string | undefined): number | undefined => {
      const ms = value === undefined ? undefined : Date.parse(value);
      if (!Number.isNaN(ms)) return ms;
      error(path, 'there is no such day or time', { found: String(value) });
      return undefined;
    };
    for (const [index, { publicKey, validFrom, validUntil }] of trustedKeys.entries()) {
      const path = ['evidence', 'trustedKeys', index];
      if (trustedKeys.findIndex((key) => key.publicKey === publicKey) !== index) error([...path, 'publicKey'], 'this key stands here already');
      const [from, until] = [moment([...path, 'validFrom'], validFrom), moment([...path, 'validUntil'], validUntil)];
      if (from !== undefined && until !== undefined && from >= until) error([...path, 'validUntil'], 'it ends before it begins', { found: String(validUntil), allowed: `later than ${String(validFrom)}` });
    }
    for (const [index, { since }] of revokedKeys.entries()) moment(['evidence', 'revokedKeys', index, 'since'], since);
  }

  /** What holds for every engine that has backups. */
  function checkBackedUp(name: string, datastore: BackedUpDatastore): void {
    const path = ['datastores', name];
    if (datastore.store !== undefined) reference('stores', 'store', datastore.store, [...path, 'store']);
    if (datastore.engine === 'dynamodb') for (const { at, message, found, allowed } of nativeProblems(datastore, Object.hasOwn(config.stores, storeOfBackups(config, datastore) ?? '') ? config.stores[storeOfBackups(config, datastore)!] : undefined)) error([...path, ...at], message, { found, allowed });
    if (datastore.retention === undefined) return;
    const policy = datastore.retention;
    if (isEmptyPolicy(policy)) error([...path, 'retention'], 'the policy keeps nothing, so nothing will ever be deleted', { allowed: 'at least one of last, hourly, daily, weekly, monthly, yearly, within above zero' });
    if (!isTimezone(policy.timezone)) error([...path, 'retention', 'timezone'], 'this time zone is unknown', { found: shown(policy.timezone, path), allowed: 'an IANA name such as UTC, Asia/Seoul, Europe/Berlin' });
    if (datastore.store === undefined) error([...path, 'retention'], 'there is no store whose backups could be kept or deleted', { allowed: `store: ${known('stores').join(' or ') || '<name>'}` });
  }

  function checkDatastore(name: string, datastore: PostgresDatastore): void {
    const path = ['datastores', name];
    checkBackedUp(name, datastore);
    const nodes = Object.entries(datastore.nodes);
    for (const { level, path: at, message, found, allowed } of [...managedProblems(datastore, config.aws.region), ...snapshotProblems(datastore, config.aws.region)]) {
      if (level === 'error') error([...path, ...at], message, { ...(found === undefined ? {} : { found }), ...(allowed === undefined ? {} : { allowed }) });
      else warning([...path, ...at], message);
    }
    if (nodes.length === 0) error([...path, 'nodes'], 'at least one node is needed', { found: 'none', allowed: 'a mapping of node names to host and port' });
    const addresses = new Map<string, string>();
    const applications = new Map<string, string>();
    const files = new Map<string, string>();
    for (const [node, { host, port, applicationHost, applicationPort, exec, fence, dataDirectory }] of nodes) {
      const address = `${host}:${port}`;
      const other = addresses.get(address);
      if (other !== undefined) error([...path, 'nodes', node], `node "${other}" has the same address`, { found: address });
      addresses.set(address, node);
      // The application's secret says who is the primary: it must say one.
      const application = `${applicationHost ?? host}:${applicationPort ?? port}`;
      const twin = applications.get(application);
      if (twin !== undefined && other === undefined) error([...path, 'nodes', node, 'applicationHost'], `applications reach node "${twin}" by the same address: its secret could not tell which is the primary`, { found: application, allowed: 'an address of its own' });
      applications.set(application, node);
      if (dataDirectory !== undefined) {
        const place = JSON.stringify([exec ?? [], dataDirectory.replace(/(?<=.)\/+$/, '')]);
        const owner = files.get(place);
        if (owner !== undefined) error([...path, 'nodes', node, 'dataDirectory'], `node "${owner}" has the same folder on the same host: fencing or rebuilding one would hit the other`, { found: dataDirectory, allowed: 'its own folder, or the exec that reaches its own host' });
        files.set(place, node);
      }
      if (nodes.length > 1 && fence === undefined && dataDirectory === undefined && datastore.managed === undefined) {
        warning([...path, 'nodes', node], 'it can be fenced only while it answers: give fence.command, or dataDirectory with exec');
      }
    }
    if (datastore.controller?.type === 'patroni') {
      const { members, username, password, certificate, key } = datastore.controller;
      const at = [...path, 'controller'];
      for (const [node, member] of Object.entries(members)) {
        if (!Object.hasOwn(datastore.nodes, node)) error([...at, 'members', node], `there is no node of this name${maybe(node, Object.keys(datastore.nodes))}`, { found: shown(node, at), allowed: Object.keys(datastore.nodes).join(', ') });
        const url = new URL(member.api);
        if (url.username !== '' || url.password !== '') error([...at, 'members', node, 'api'], 'a password does not belong into the address', { allowed: 'controller.username, and controller.password as a secret reference' });
      }
      for (const [node] of nodes) if (!Object.hasOwn(members, node)) error([...at, 'members'], `the Patroni of node "${node}" is missing: it could not be asked whether it has paused`, { allowed: `${node}: { api: http://<host>:8008 }` });
      if ((username === undefined) !== (password === undefined)) error(at, 'username and password belong together', { found: username === undefined ? 'password only' : 'username only', allowed: 'both or none' });
      if ((certificate === undefined) !== (key === undefined)) error(at, 'certificate and key belong together', { found: certificate === undefined ? 'key only' : 'certificate only', allowed: 'both or none' });
      if (username === undefined && certificate === undefined) warning(at, 'without username and password anybody who reaches the interface may switch roles, unless Patroni asks for a certificate');
    }
    if (datastore.admin.sslmode.startsWith('verify') && datastore.admin.sslrootcert === undefined) {
      warning([...path, 'admin', 'sslmode'], 'there is no sslrootcert, so the server must have a certificate of a public authority');
    }
    const store = datastore.store === undefined ? undefined : own(config.stores, datastore.store);
    if (store?.encryption !== undefined && store.encryption.identity === undefined) {
      warning(['stores', datastore.store!, 'encryption'], `without identity no backup of "${name}" can be verified, drilled or restored by Holdfast`);
    }
    const { include, exclude } = datastore.backup;
    for (const kind of ['schemas', 'tables'] as const) {
      for (const [index, pattern] of exclude[kind].entries()) {
        if (include[kind].includes(pattern)) error([...path, 'backup', 'exclude', kind, index], 'it is included and excluded', { found: shown(pattern, path) });
      }
    }
  }

  function checkService(name: string, service: ServiceConfig): void {
    const path = ['services', name];
    service.datastores.forEach((datastore, index) => {
      reference('datastores', 'datastore', datastore, [...path, 'datastores', index]);
      if (service.datastores.indexOf(datastore) !== index) error([...path, 'datastores', index], 'it stands in the list twice', { found: shown(datastore, path) });
    });
    service.dependsOn.forEach((other, index) => {
      const at = [...path, 'dependsOn', index];
      reference('services', 'service', other, at);
      if (service.dependsOn.indexOf(other) !== index) error(at, 'it stands in the list twice', { found: shown(other, at) });
      else if (other === name) error(at, 'a service does not wait for itself', { found: shown(other, at) });
      else if (dependsOn(config.services, other, name)) error(at, `"${other}" depends on "${name}" as well: neither could be recovered first`, { found: shown(other, at) });
    });
    if (service.objectives.rto <= 0) error([...path, 'objectives', 'rto'], 'no recovery takes no time', { found: formatDuration(service.objectives.rto), allowed: 'a duration above zero' });
    const datastores = service.datastores.flatMap((datastore) => own(config.datastores, datastore) ?? []);

    for (const [purpose, runbook] of Object.entries(service.runbooks)) {
      const at = [...path, 'runbooks', purpose];
      const found = runbookNamed(runbook, at);
      if (found === undefined) continue;
      checkSteps(found, service, name, at);
      for (const [parameter, definition] of Object.entries(found.parameters)) {
        const given = own(service.parameters, parameter) ?? impliedDatastore(parameter, service);
        if (given !== undefined) checkParameter(given, definition, [...path, 'parameters', parameter]);
        else if (definition.required && definition.default === undefined && purpose === 'failover') {
          // Others (failback: which node?) are started by someone with time to say it; a failover should need one line.
          warning(at, `runbook "${runbook}" requires the parameter "${parameter}" (${definition.description}); without it under parameters it must be given at each start`);
        }
      }
    }
    if (surroundings.runbooks !== undefined) {
      const names = Object.values(service.runbooks);
      const all = names.flatMap((runbook) => Object.keys(surroundings.runbooks?.get(runbook)?.parameters ?? {}));
      const certain = names.every((runbook) => surroundings.runbooks?.get(runbook) !== undefined);
      for (const parameter of certain ? Object.keys(service.parameters) : []) {
        if (!all.includes(parameter)) warning([...path, 'parameters', parameter], `no runbook of this service has this parameter${maybe(parameter, all)}`);
      }
    }
    if (own(service.runbooks, 'failover') !== undefined && datastores.length === service.datastores.length) {
      if (!datastores.some((datastore) => datastore.engine === 'postgres' && Object.keys(datastore.nodes).length >= 2)) {
        error([...path, 'runbooks', 'failover'], 'no datastore of this service has a second node to fail over to', { allowed: 'at least two nodes in one of its datastores' });
      }
      for (const [index, datastore] of datastores.entries()) {
        if (datastore.engine === 'postgres' && Object.keys(datastore.nodes).length >= 2 && datastore.endpoint === undefined) {
          warning([...path, 'datastores', index], `datastore "${service.datastores[index]}" has no endpoint: the application cannot be led to the new primary`);
        }
      }
    }

    const names = new Set<string>();
    service.checks.forEach((check, index) => {
      const at = [...path, 'checks', index];
      if (names.has(check.name)) error([...at, 'name'], 'another check has this name', { found: shown(check.name, at) });
      names.add(check.name);
      if (check.datastore === undefined) {
        if (service.datastores.length > 1) error(at, 'the service has several datastores: say which one is asked', { allowed: `datastore: ${service.datastores.join(' or ')}` });
      } else if (!service.datastores.includes(check.datastore)) {
        error([...at, 'datastore'], `it is no datastore of this service${maybe(check.datastore, service.datastores)}`, { found: shown(check.datastore, at), allowed: service.datastores.join(', ') });
      }
      const asked = (['sql', 'mongodb', 'dynamodb'] as const).filter((key) => check[key] !== undefined);
      if (asked.length !== 1) error(at, 'a check asks one thing', { found: asked.join(' and ') || 'none', allowed: 'one of sql, mongodb, dynamodb' });
      const of: string | undefined = own(config.datastores, check.datastore ?? service.datastores[0]!)?.engine;
      const fitting = of === 'postgres' ? 'sql' : of;
      if (of !== undefined && asked.length === 1 && asked[0] !== fitting) error([...at, asked[0]!], `the datastore is of engine ${of}`, { found: asked[0]!, allowed: fitting === 'sql' || fitting === 'mongodb' || fitting === 'dynamodb' ? fitting : 'no checks' });
      if (check.dynamodb !== undefined && !/^\s*select\b[\s\S]*?\bfrom\s+"\{table\}"/i.test(check.dynamodb.statement)) error([...at, 'dynamodb', 'statement'], 'a check only reads, and only what was restored', { found: shown(firstWord(check.dynamodb.statement), at), allowed: 'one SELECT ... FROM "{table}": the name of the restored table is filled in' });
      if (check.sql !== undefined && !/^\s*(--[^\n]*\n\s*)*\(?\s*(select|with|values|table|show)\b/i.test(check.sql)) error([...at, 'sql'], 'a check only reads', { found: shown(firstWord(check.sql), at), allowed: 'one SELECT' });
      const { equals, atLeast, atMost } = check.expect;
      if (equals !== undefined && (atLeast !== undefined || atMost !== undefined)) error([...at, 'expect'], 'equals cannot be combined with atLeast or atMost');
      if (atLeast !== undefined && atMost !== undefined && atLeast > atMost) error([...at, 'expect'], 'atLeast is above atMost: no value can be both', { found: `${atLeast} and ${atMost}` });
    });

    for (const datastoreName of new Set(service.datastores)) {
      const datastore = own(config.datastores, datastoreName);
      if (datastore === undefined || !isBackedUp(datastore)) continue;
      const scheduled = (run: ScheduleConfig['run']): ScheduleConfig[] =>
        Object.values(config.schedules).filter((schedule) => !schedule.paused && schedule.run === run && 'datastore' in schedule && schedule.datastore === datastoreName);
      // A file without any schedule is driven by hand or by another scheduler: no reason to repeat it for every service.
      if (Object.keys(config.schedules).length === 0 || (surroundings.broken?.schedules ?? []).length > 0) continue;
      const backups = scheduled('backup');
      if (backups.length === 0) warning([...path, 'datastores'], `no schedule backs up "${datastoreName}"`);
      const gaps = backups.flatMap((schedule) => scheduleGaps(schedule)?.longestMs ?? []);
      if ((datastore.engine !== 'postgres' || Object.keys(datastore.nodes).length < 2) && gaps.length > 0 && Math.min(...gaps) > service.objectives.rpo) {
        warning([...path, 'objectives', 'rpo'], `"${datastoreName}" has ${datastore.engine === 'postgres' ? 'one node and ' : ''}a backup up to every ${formatDuration(Math.min(...gaps))}: an RPO of ${formatDuration(service.objectives.rpo)} cannot be met`);
      }
      if (scheduled('restoreDrill').length === 0) warning([...path, 'datastores'], `no schedule drills the restore of "${datastoreName}": its objectives will never be proved`);
    }
  }

  function checkSchedule(name: string, schedule: ScheduleConfig): void {
    const path = ['schedules', name];
    if (schedule.cron === undefined && schedule.every === undefined) error(path, 'it never runs: neither cron nor every is given', { allowed: 'one of cron, every' });
    if (schedule.cron !== undefined && schedule.every !== undefined) error([...path, 'every'], 'cron and every exclude each other', { allowed: 'one of cron, every' });
    if (!isTimezone(schedule.timezone)) error([...path, 'timezone'], 'this time zone is unknown', { found: shown(schedule.timezone, path), allowed: 'an IANA name such as UTC, Asia/Seoul, Europe/Berlin' });
    if (schedule.every !== undefined && schedule.every < 1000) error([...path, 'every'], 'it is too short', { found: formatDuration(schedule.every), allowed: '1s or longer' });
    if (schedule.cron !== undefined) {
      const parsed = parseCron(schedule.cron);
      if ('problem' in parsed) error([...path, 'cron'], parsed.problem, { found: shown(schedule.cron, path), allowed: 'five fields: minute hour day-of-month month day-of-week, e.g. "15 2 * * 1-5"' });
      else if (cronGaps(parsed.cron) === undefined) error([...path, 'cron'], 'no day of the calendar fits it: it never runs', { found: shown(schedule.cron, path) });
      else if (parsed.cron.bothDays) warning([...path, 'cron'], 'day of month and day of week must both fit (Temporal), unlike in a cron daemon, where either is enough');
    }
    const gaps = scheduleGaps(schedule);
    if (gaps !== undefined && schedule.jitter >= gaps.shortestMs) {
      error([...path, 'jitter'], 'it must be smaller than the time between two runs', { found: formatDuration(schedule.jitter), allowed: `below ${formatDuration(gaps.shortestMs)}` });
    }
    // Temporal raises a shorter window to this.
    if (schedule.catchUp < 10_000) warning([...path, 'catchUp'], 'Temporal makes up for missed runs of the last 10 s at least');

    if (schedule.run === 'readiness') reference('services', 'service', schedule.service, [...path, 'service']);
    if (schedule.run === 'runbook' && schedule.service !== undefined) reference('services', 'service', schedule.service, [...path, 'service']);
    if (schedule.run === 'runbook') {
      const parameters = runbookNamed(schedule.runbook, [...path, 'runbook'])?.parameters;
      for (const [parameter, definition] of Object.entries(parameters ?? {})) {
        const given = own(schedule.parameters, parameter);
        if (given !== undefined) checkParameter(given, definition, [...path, 'parameters', parameter]);
        else if (definition.required && definition.default === undefined) {
          error([...path, 'parameters'], `runbook "${schedule.runbook}" requires the parameter "${parameter}"`, { found: 'nothing', allowed: `${definition.type}: ${definition.description}` });
        }
      }
      for (const parameter of parameters === undefined ? [] : Object.keys(schedule.parameters)) {
        if (!Object.hasOwn(parameters!, parameter)) error([...path, 'parameters', parameter], `runbook "${schedule.runbook}" has no such parameter${maybe(parameter, Object.keys(parameters!))}`, { allowed: Object.keys(parameters!).join(', ') || 'none' });
      }
    }
    if (schedule.run !== 'backup' && schedule.run !== 'retention' && schedule.run !== 'restoreDrill') return;
    reference('datastores', 'datastore', schedule.datastore, [...path, 'datastore']);
    const datastore = own(config.datastores, schedule.datastore);
    if (datastore === undefined) return;
    if (!isBackedUp(datastore)) {
      error([...path, 'datastore'], `datastore "${schedule.datastore}" is of engine ${datastore.engine}, which has no backups here: ${schedule.run} cannot be done to it`, { found: datastore.engine, allowed: Object.keys(config.datastores).filter((name) => isBackedUp(config.datastores[name]!)).join(', ') || 'none' });
      return;
    }
    if (datastore.store === undefined) {
      error([...path, 'datastore'], `datastore "${schedule.datastore}" has no store, so it has no backups`, { allowed: `store: ${known('stores').join(' or ') || '<name>'} at datastores.${schedule.datastore}` });
    }
    if (schedule.run === 'retention' && datastore.retention === undefined) {
      error([...path, 'datastore'], `datastore "${schedule.datastore}" has no retention policy`, { allowed: `retention at datastores.${schedule.datastore}` });
    }
    if (schedule.run === 'restoreDrill') {
      const snapshots = datastore.engine === 'postgres' ? datastore.managed?.snapshots : undefined;
      if (schedule.pointInTime !== undefined) {
        if (schedule.backup !== undefined) error([...path, 'pointInTime'], 'backup and pointInTime exclude each other', { allowed: 'one of them' });
        if (snapshots?.drill === undefined) error([...path, 'pointInTime'], `datastore "${schedule.datastore}" does not say where a point in time is restored`, { allowed: `datastores.${schedule.datastore}.managed.snapshots.drill` });
      } else if (snapshots !== undefined && snapshots.drill === undefined) {
        error(path, `the backups of "${schedule.datastore}" are managed snapshots, and nothing says where a drill restores them`, { allowed: `datastores.${schedule.datastore}.managed.snapshots.drill` });
      }
      if (schedule.service !== undefined) {
        reference('services', 'service', schedule.service, [...path, 'service']);
        const service = own(config.services, schedule.service);
        if (service !== undefined && !service.datastores.includes(schedule.datastore)) {
          error([...path, 'service'], `datastore "${schedule.datastore}" does not belong to this service`, { found: shown(schedule.service, path), allowed: service.datastores.join(', ') });
        }
      }
      if (gaps !== undefined && gaps.longestMs > datastore.drill.maxAge) {
        error(path, `drills are up to ${formatDuration(gaps.longestMs)} apart, so each would be overdue before the next: datastores.${schedule.datastore}.drill.maxAge is ${formatDuration(datastore.drill.maxAge)}`, {
          found: formatDuration(gaps.longestMs), allowed: `at most ${formatDuration(datastore.drill.maxAge)} apart, or a longer maxAge`,
        });
      }
    }
  }

  function checkRehearsals(serviceName: string, service: ServiceConfig): void {
    const names = new Set<string>();
    service.rehearsals.forEach((rehearsal, index) => {
      const path = ['services', serviceName, 'rehearsals', index];
      if (names.has(rehearsal.name)) error([...path, 'name'], 'another rehearsal of this service has this name', { found: shown(rehearsal.name, path) });
      names.add(rehearsal.name);
      if (exists('schedules', rehearsalScheduleName(serviceName, rehearsal.name))) error([...path, 'name'], 'a schedule has the name that its own would get', { found: rehearsalScheduleName(serviceName, rehearsal.name) });
      if (!isTimezone(rehearsal.timezone)) error([...path, 'timezone'], 'this time zone is unknown', { found: shown(rehearsal.timezone, path), allowed: 'an IANA name such as UTC, Asia/Seoul, Europe/Berlin' });
      if (rehearsal.drill !== undefined) {
        reference('datastores', 'datastore', rehearsal.drill, [...path, 'drill']);
        if (exists('datastores', rehearsal.drill) && !service.datastores.includes(rehearsal.drill)) error([...path, 'drill'], 'it is no datastore of this service', { found: shown(rehearsal.drill, path), allowed: service.datastores.join(', ') });
        const datastore = own(config.datastores, rehearsal.drill);
        if (datastore !== undefined && (!isBackedUp(datastore) || datastore.store === undefined)) error([...path, 'drill'], 'it has no backups to restore', { found: shown(rehearsal.drill, path), allowed: 'a datastore of an engine with backups, and with a store' });
        if (Object.keys(rehearsal.parameters).length > 0) error([...path, 'parameters'], 'a drill takes none');
        return;
      }
      const parameters = runbookNamed(rehearsal.runbook!, [...path, 'runbook'])?.parameters;
      for (const [parameter, definition] of Object.entries(parameters ?? {})) {
        const given = own(rehearsal.parameters, parameter) ?? own(service.parameters, parameter) ?? impliedDatastore(parameter, service);
        if (given !== undefined) checkParameter(given, definition, [...path, 'parameters', parameter]);
        else if (definition.required && definition.default === undefined) error([...path, 'parameters'], `runbook "${rehearsal.runbook}" requires the parameter "${parameter}"`, { found: 'nothing', allowed: `${definition.type}: ${definition.description}` });
      }
      for (const parameter of parameters === undefined ? [] : Object.keys(rehearsal.parameters)) {
        if (!Object.hasOwn(parameters!, parameter)) error([...path, 'parameters', parameter], `runbook "${rehearsal.runbook}" has no such parameter${maybe(parameter, Object.keys(parameters!))}`, { allowed: Object.keys(parameters!).join(', ') || 'none' });
      }
    });
  }

  /** What the runbook's steps would be started with for this service: inputs that fit, datastores and nodes that exist. */
  function checkSteps(runbook: Runbook, service: ServiceConfig, name: string, path: DocumentPath): void {
    const defaults = Object.entries(runbook.parameters).flatMap(([parameter, definition]) => {
      const value = own(service.parameters, parameter) ?? definition.default ?? impliedDatastore(parameter, service);
      return value === undefined ? [] : [[parameter, value] as const];
    });
    const parameters = Object.fromEntries(defaults);
    // What is only given at a start cannot be looked at here; the start looks again.
    if (Object.entries(runbook.parameters).some(([parameter, definition]) => definition.required && !Object.hasOwn(parameters, parameter))) return;
    const said = new Set<string>();
    const once = (level: Issue['level'], message: string, more: Pick<Issue, 'found' | 'allowed'> = {}): void => {
      if (!said.has(message)) issues.push({ level, path, message, ...more });
      said.add(message);
    };
    for (const mode of MODES) {
      for (const issue of inputIssues(runbook, { service: name, mode, parameters })) {
        once('error', `runbook "${runbook.name}", ${pathText(issue.path)}: ${issue.message}`, { found: issue.found, allowed: issue.allowed });
      }
      for (const step of runbook.steps.filter((entry) => entry.modes.includes(mode) && !neverRuns(entry, { service: name, mode, parameters }))) {
        const inputs = knownInputs(step, { service: name, mode, parameters });
        const { cluster } = inputs;
        if (step.uses.startsWith('kubernetes.') && typeof cluster === 'string' && !cluster.includes('${') && own(config.kubernetes, cluster) === undefined) {
          once('error', `runbook "${runbook.name}", step "${step.id}": there is no kubernetes cluster of this name${maybe(cluster, Object.keys(config.kubernetes))}`, { found: shown(cluster, path), allowed: Object.keys(config.kubernetes).join(', ') || 'none; add one under kubernetes' });
        }
        const datastoreName = inputs['datastore'];
        if (typeof datastoreName !== 'string' || datastoreName.includes('${')) continue;
        const where = `runbook "${runbook.name}", step "${step.id}"`;
        if (!exists('datastores', datastoreName)) once('error', `${where}: there is no datastore of this name${maybe(datastoreName, known('datastores'))}`, { found: shown(datastoreName, path), allowed: known('datastores').join(', ') || 'none' });
        else if (!service.datastores.includes(datastoreName)) once('warning', `${where}: datastore "${datastoreName}" does not belong to this service`);
        const datastore = own(config.datastores, datastoreName);
        const wanted = own(ENGINES, step.uses.split('.')[0]!);
        if (datastore !== undefined && wanted !== undefined && datastore.engine !== wanted) {
          once('error', `${where}: ${step.uses} is done to ${wanted} only, and datastore "${datastoreName}" is of engine ${datastore.engine}`, { found: shown(datastoreName, path), allowed: Object.keys(config.datastores).filter((other) => config.datastores[other]!.engine === wanted).join(', ') || 'none' });
          continue;
        }
        for (const [what, keys, names] of [['node', ['primary', 'candidate', 'node'], Object.keys(nodesOf(datastore))], ['cluster', ['cluster'], datastore?.engine === 'opensearch' ? Object.keys(datastore.clusters) : []]] as const) {
          for (const key of keys) {
            const given = inputs[key];
            if (names.length > 0 && typeof given === 'string' && !given.includes('${') && !names.includes(given)) {
              once('error', `${where}: datastore "${datastoreName}" has no ${what} of this name${maybe(given, names)}`, { found: shown(given, path), allowed: names.join(', ') });
            }
          }
        }
      }
    }
  }

  /** The one datastore a service has need not be said. */
  function impliedDatastore(parameter: string, service: ServiceConfig): string | undefined {
    return parameter === 'datastore' && service.datastores.length === 1 ? service.datastores[0] : undefined;
  }

  function runbookNamed(runbook: string, path: DocumentPath): Runbook | undefined {
    if (surroundings.runbooks === undefined) return undefined;
    if (!surroundings.runbooks.has(runbook)) {
      const names = [...surroundings.runbooks.keys()].sort();
      error(path, `there is no runbook of this name${maybe(runbook, names)}`, { found: shown(runbook, path), allowed: names.join(', ') || 'none; add one to the folder of runbooks' });
    }
    return surroundings.runbooks.get(runbook);
  }

  function checkParameter(given: unknown, definition: Runbook['parameters'][string], path: DocumentPath): void {
    const problem = parameterProblem(given, definition.type);
    if (problem !== undefined) error(path, problem, { found: shown(given, path), allowed: `${definition.type}: ${definition.description}` });
  }
}

/** Own entries only: a datastore may be called `constructor` by mistake, and must then not be found. */
function own<T>(record: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}

function maybe(name: string, known: readonly string[]): string {
  const near = nearest(name, known);
  return near === undefined ? '' : `; did you mean "${near}"?`;
}

function firstWord(sql: string): string {
  return sql.trim().split(/\s+/, 1)[0] ?? '';
}

/** A parsed document as a configuration, with every finding: of syntax, shape and rules. `config` only when nothing is wrong. */
export function configOf(document: ParsedDocument, surroundings: ConfigSurroundings = {}): { config: Config | undefined; findings: Finding[] } {
  const findings = [...document.findings];
  if (document.value === undefined) return { config: undefined, findings };
  const shape = shapeIssues(configSchema, document.value);
  const issues = withoutTwins(pastedSecrets(document.value), shape);
  const { remainder, broken } = shape.length === 0 ? { remainder: document.value, broken: undefined } : withoutBroken(document.value, shape);
  const parsed = configSchema.safeParse(remainder);
  if (parsed.success) {
    issues.push(...checkConfig(parsed.data, { ...surroundings, broken }));
    if (broken !== undefined) issues.push(...brokenReferences(document.value, parsed.data, broken));
  }
  findings.push(...findingsOf(document, issues));
  const wrong = findings.some((finding) => finding.level === 'error');
  return { config: wrong || !parsed.success ? undefined : parsed.data, findings: sortFindings(findings) };
}

const NAME_SECTIONS: readonly NameSection[] = ['stores', 'datastores', 'services', 'schedules', 'notify'];

/** What is left when entries with errors of shape are taken out, so that the rules still speak about all others. */
function withoutBroken(value: unknown, shape: readonly Issue[]): { remainder: unknown; broken: ConfigSurroundings['broken'] } {
  const broken: Partial<Record<NameSection, string[]>> = {};
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return { remainder: value, broken };
  const remainder: Record<string, unknown> = { ...value };
  for (const { path } of shape) {
    const [section, name] = path;
    if (typeof section !== 'string') continue;
    const content = remainder[section];
    if (NAME_SECTIONS.includes(section as NameSection) && name !== undefined && content !== null && typeof content === 'object' && !Array.isArray(content)) {
      remainder[section] = Object.fromEntries(Object.entries(content).filter(([key]) => key !== String(name)));
      const names = (broken[section as NameSection] ??= []);
      if (!names.includes(String(name))) names.push(String(name));
    } else Reflect.deleteProperty(remainder, section);
  }
  remainder['version'] = 1;
  for (const section of ['stores', 'datastores', 'services']) remainder[section] ??= {};
  return { remainder, broken };
}

/** References in entries that the rules could not look at, so that their errors do not come out only after the others are corrected. */
function brokenReferences(value: unknown, rest: Config, broken: NonNullable<ConfigSurroundings['broken']>): Issue[] {
  const issues: Issue[] = [];
  const check = (path: DocumentPath, section: NameSection, what: string): void => {
    const name = valueAt(value, path);
    const known = [...Object.keys(rest[section]), ...(broken[section] ?? [])].sort();
    if (typeof name !== 'string' || known.includes(name)) return;
    issues.push({ level: 'error', path, message: `there is no ${what} of this name${maybe(name, known)}`, found: shown(name, path), allowed: known.join(', ') || `none; add one under ${section}` });
  };
  for (const name of broken.datastores ?? []) check(['datastores', name, 'store'], 'stores', 'store');
  for (const name of broken.services ?? []) {
    const listed = valueAt(value, ['services', name, 'datastores']);
    if (Array.isArray(listed)) listed.forEach((_, index) => check(['services', name, 'datastores', index], 'datastores', 'datastore'));
  }
  for (const name of broken.schedules ?? []) {
    check(['schedules', name, 'datastore'], 'datastores', 'datastore');
    check(['schedules', name, 'service'], 'services', 'service');
  }
  return issues;
}
