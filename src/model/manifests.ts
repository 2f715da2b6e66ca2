import { isBackedUp, type Config, type DatastoreConfig, type ScheduleConfig } from './config-schema.ts';
import { HoldfastError } from './errors.ts';
import { parseCron, type Cron } from './schedule.ts';
import { formatDuration } from './units.ts';

/** What of a cluster the manifests need to be told. */
export interface ManifestOptions {
  readonly image: string;
  readonly namespace: string;
  /** ConfigMaps with holdfast.yaml and with the runbooks; Secrets with values (`env:`) and with files (`file:`). */
  readonly configMap: string;
  readonly runbooksMap: string;
  readonly secret: string;
  readonly fileSecret: string;
  readonly serviceAccount: string;
  readonly workers: number;
  /** Folder of the configuration on the host that prints the manifests: paths below it are relative to the configuration's folder in the pod. */
  readonly configFolder: string;
}

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: 'CronJob' | 'Deployment';
  readonly metadata: { readonly name: string; readonly namespace: string; readonly labels: Readonly<Record<string, string>> };
  readonly spec: object;
}

const HOME = '/etc/holdfast';
/** The user of docker/Dockerfile. */
const USER = 1000;
/** Kubernetes adds eleven characters to the name of a CronJob for its Jobs. */
const LONGEST_NAME = 52;
/** The controller looks every ten seconds: less would skip runs. */
const SHORTEST_DEADLINE_SECONDS = 30;
const HOUR_SECONDS = 3600;

/** CronJobs of the schedules, a Deployment of workers, and what a person must know about them. */
export function cronJobManifests(config: Config, options: ManifestOptions): { manifests: Manifest[]; notes: string[] } {
  const notes: string[] = [];
  const environment = environmentReferences(config);
  const pod = podOf(config, options, environment, notes);
  const names = new Set<string>();
  const jobs = Object.entries(config.schedules).map(([name, schedule]) => {
    const job = cronJob(config, options, pod, name, schedule, notes);
    if (names.has(job.metadata.name)) throw new HoldfastError('config-invalid', `schedules.${name}: two schedules would give CronJobs of the same name ${job.metadata.name}`, { next: 'rename one' });
    names.add(job.metadata.name);
    return job;
  });
  if (jobs.length === 0) notes.push('the configuration has no schedules: only the worker is printed');
  notes.push(`either these CronJobs or \`holdfast schedules sync\`: both would run everything twice`);
  return { manifests: [...jobs, worker(config, options, pod)], notes };
}

interface Pod {
  readonly env: readonly object[];
  readonly mounts: readonly object[];
  readonly volumes: readonly object[];
  readonly security: object;
}

function podOf(config: Config, options: ManifestOptions, environment: readonly string[], notes: string[]): Pod {
  const files = fileReferences(config).map((path) => ({ path: inPod(path, options), key: path.slice(path.lastIndexOf('/') + 1).replaceAll(/[^-._a-zA-Z0-9]/g, '_') }));
  const twice = files.find((file, index) => files.findIndex(({ key }) => key === file.key) !== index);
  if (twice !== undefined) throw new HoldfastError('config-invalid', `two secret files are called ${twice.key}: one Secret cannot hold both`, { next: 'give one of them another name' });
  if (environment.length > 0) notes.push(`Secret ${options.secret} must hold: ${environment.join(', ')}`);
  if (files.length > 0) notes.push(`Secret ${options.fileSecret} must hold the files: ${files.map(({ key }) => key).join(', ')}; a changed one is seen when the pod starts anew`);
  const evidence = inPod(config.evidence.directory, options);
  if (config.evidence.store === undefined) notes.push('evidence.store is not configured: evidence would go with the pod that wrote it');
  const others = pathsOf(config, new Set(['sslrootcert', 'ca', 'certificate']));
  if (others.length > 0) notes.push(`certificates must be in the image or mounted by you: ${others.map((path) => inPod(path, options)).join(', ')}`);
  const writable = [{ name: 'temporary', path: '/tmp' }, { name: 'evidence', path: evidence }, ...(config.workDirectory === undefined ? [] : [{ name: 'work', path: inPod(config.workDirectory, options) }])];
  return {
    env: environment.map((name) => ({ name, valueFrom: { secretKeyRef: { name: options.secret, key: name } } })),
    mounts: [
      { name: 'config', mountPath: `${HOME}/holdfast.yaml`, subPath: 'holdfast.yaml', readOnly: true },
      { name: 'runbooks', mountPath: `${HOME}/runbooks`, readOnly: true },
      ...files.map(({ path, key }) => ({ name: 'files', mountPath: path, subPath: key, readOnly: true })),
      ...writable.map(({ name, path }) => ({ name, mountPath: path })),
    ],
    volumes: [
      { name: 'config', configMap: { name: options.configMap } },
      { name: 'runbooks', configMap: { name: options.runbooksMap } },
      ...(files.length === 0 ? [] : [{ name: 'files', secret: { secretName: options.fileSecret, defaultMode: 0o440 } }]),
      ...writable.map(({ name }) => ({ name, emptyDir: {} })),
    ],
    security: { runAsNonRoot: true, runAsUser: USER, runAsGroup: USER, fsGroup: USER, seccompProfile: { type: 'RuntimeDefault' } },
  };
}

function container(options: ManifestOptions, pod: Pod, args: readonly string[], resources: object): object {
  return {
    name: 'holdfast',
    image: options.image,
    args,
    env: [{ name: 'HOLDFAST_CONFIG', value: `${HOME}/holdfast.yaml` }, { name: 'HOLDFAST_LOG_FORMAT', value: 'json' }, ...pod.env],
    volumeMounts: pod.mounts,
    resources,
    securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
  };
}

const labelsOf = (component: string): Record<string, string> => ({ 'app.kubernetes.io/name': 'holdfast', 'app.kubernetes.io/component': component });

function cronJob(config: Config, options: ManifestOptions, pod: Pod, name: string, schedule: ScheduleConfig, notes: string[]): Manifest {
  const overlap = { skip: 'Forbid', bufferOne: 'Forbid', cancelOther: 'Replace', terminateOther: 'Replace', allowAll: 'Allow' } as const;
  if (schedule.overlap === 'bufferOne') notes.push(`schedules.${name}: a CronJob cannot wait for the run before (bufferOne): it is left out instead`);
  if (schedule.overlap === 'cancelOther' || schedule.overlap === 'terminateOther') notes.push(`schedules.${name}: Replace ends the pod that waits, not the workflow it started`);
  if (schedule.jitter > 0) notes.push(`schedules.${name}: CronJobs have no jitter (${formatDuration(schedule.jitter)}): it begins on the minute`);
  return {
    apiVersion: 'batch/v1',
    kind: 'CronJob',
    metadata: { name: shortName(`holdfast-${name}`), namespace: options.namespace, labels: { ...labelsOf('schedule'), 'holdfast/schedule': name } },
    spec: {
      schedule: cronText(name, schedule),
      timeZone: schedule.timezone,
      concurrencyPolicy: overlap[schedule.overlap],
      startingDeadlineSeconds: Math.max(SHORTEST_DEADLINE_SECONDS, Math.ceil(schedule.catchUp / 1000)),
      suspend: schedule.paused,
      successfulJobsHistoryLimit: 3,
      failedJobsHistoryLimit: 3,
      jobTemplate: {
        metadata: { labels: { ...labelsOf('schedule'), 'holdfast/schedule': name } },
        spec: {
          // The workflow is what is retried, and it goes on without this pod.
          backoffLimit: 0,
          // A pod that waited for ever would keep all later runs out.
          activeDeadlineSeconds: deadlineOf(config, schedule),
          template: {
            metadata: { labels: { ...labelsOf('schedule'), 'holdfast/schedule': name } },
            spec: {
              restartPolicy: 'Never',
              automountServiceAccountToken: false,
              securityContext: pod.security,
              containers: [container(options, pod, commandOf(schedule), { requests: { cpu: '50m', memory: '192Mi' }, limits: { memory: '512Mi' } })],
              volumes: pod.volumes,
            },
          },
        },
      },
    },
  };
}

function worker(config: Config, options: ManifestOptions, pod: Pod): Manifest {
  const labels = labelsOf('worker');
  const inCluster = Object.values(config.kubernetes).some(({ kubeconfig }) => kubeconfig === undefined);
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'holdfast-worker', namespace: options.namespace, labels },
    spec: {
      replicas: options.workers,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          serviceAccountName: options.serviceAccount,
          automountServiceAccountToken: inCluster,
          // Longer than the worker's own --grace.
          terminationGracePeriodSeconds: 90,
          securityContext: pod.security,
          containers: [container(options, pod, ['worker', '--grace', '60'], { requests: { cpu: '500m', memory: '512Mi' }, limits: { memory: '2Gi' } })],
          volumes: pod.volumes,
        },
      },
    },
  };
}

/** The arguments of the image, whose entry point is the command line. */
function commandOf(schedule: ScheduleConfig): string[] {
  switch (schedule.run) {
    case 'backup':
      return ['backup', schedule.datastore, '--reason', 'scheduled'];
    case 'retention':
      return ['retention', schedule.datastore, '--apply'];
    case 'restoreDrill':
      return ['drill', schedule.datastore, ...(schedule.backup === undefined ? [] : ['--backup', schedule.backup]), ...(schedule.service === undefined ? [] : ['--service', schedule.service]), '--reason', 'scheduled'];
    case 'readiness':
      return ['readiness', schedule.service];
    case 'runbook':
      return ['run', schedule.runbook, '--reason', 'scheduled', '--by', 'schedule', ...Object.entries(schedule.parameters).flatMap(([name, value]) => ['--parameter', `${name}=${JSON.stringify(value)}`])];
    default:
      return schedule satisfies never;
  }
}

function deadlineOf(config: Config, schedule: ScheduleConfig): number {
  const datastore: DatastoreConfig | undefined = 'datastore' in schedule ? config.datastores[schedule.datastore] : undefined;
  if (schedule.run === 'readiness') return 600;
  if (datastore !== undefined && isBackedUp(datastore) && schedule.run === 'backup') return Math.ceil(datastore.backup.timeout / 1000) + HOUR_SECONDS;
  if (datastore !== undefined && isBackedUp(datastore) && schedule.run === 'restoreDrill') return Math.ceil(datastore.drill.timeout / 1000) + HOUR_SECONDS;
  return 24 * HOUR_SECONDS;
}

/** Kubernetes takes numbers, 0-6 for weekdays, and runs when either of the two day fields fits: Temporal when both do. */
function cronText(name: string, schedule: ScheduleConfig): string {
  if (schedule.every !== undefined) return everyText(name, schedule.every);
  const parsed = parseCron(schedule.cron ?? '');
  if ('problem' in parsed) throw new HoldfastError('config-invalid', `schedules.${name}.cron "${schedule.cron ?? ''}": ${parsed.problem}`, { next: 'correct it and run `holdfast validate`' });
  const { cron } = parsed;
  if (cron.bothDays) throw new HoldfastError('config-invalid', `schedules.${name}.cron "${schedule.cron ?? ''}" restricts day of month and day of week: here both must fit, a CronJob would run when either does`, { next: 'restrict only one of them, or use `holdfast schedules sync`' });
  return fieldsOf(cron).join(' ');
}

function fieldsOf(cron: Cron): string[] {
  return [fieldText(cron.minutes, 0, 59), fieldText(cron.hours, 0, 23), fieldText(cron.daysOfMonth, 1, 31), fieldText(cron.months, 1, 12), fieldText(cron.daysOfWeek, 0, 6)];
}

function fieldText(values: readonly number[], first: number, last: number): string {
  if (values.length === last - first + 1) return '*';
  const parts: string[] = [];
  for (let at = 0; at < values.length; at += 1) {
    const begin = values[at]!;
    while (values[at + 1] === values[at]! + 1) at += 1;
    const end = values[at]!;
    parts.push(begin === end ? String(begin) : `${begin}-${end}`);
  }
  return parts.join(',');
}

function everyText(name: string, everyMs: number): string {
  const minutes = everyMs / 60_000;
  if (Number.isInteger(minutes) && minutes > 0 && minutes < 60 && 60 % minutes === 0) return minutes === 1 ? '* * * * *' : `*/${minutes} * * * *`;
  const hours = minutes / 60;
  if (Number.isInteger(hours) && hours > 0 && hours <= 24 && 24 % hours === 0) return hours === 24 ? '0 0 * * *' : hours === 1 ? '0 * * * *' : `0 */${hours} * * *`;
  throw new HoldfastError('config-invalid', `schedules.${name}.every ${formatDuration(everyMs)} cannot be said as a cron expression`, { next: 'an interval that divides an hour or a day, or cron instead of every' });
}

function shortName(name: string): string {
  if (name.length <= LONGEST_NAME) return name;
  let hash = 7;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)!) % 0xff_ff_ff;
  return `${name.slice(0, LONGEST_NAME - 7).replace(/-+$/, '')}-${hash.toString(16).padStart(6, '0')}`;
}

function inPod(path: string, options: ManifestOptions): string {
  const folder = options.configFolder.endsWith('/') ? options.configFolder : `${options.configFolder}/`;
  return path.startsWith(folder) ? `${HOME}/${path.slice(folder.length)}` : path.startsWith('/') ? path : `${HOME}/${path}`;
}

/** Every text of the configuration, with the key it stands under. */
function texts(value: unknown, key = ''): [string, string][] {
  if (typeof value === 'string') return [[key, value]];
  if (value === null || typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([name, item]) => texts(item, Array.isArray(value) ? key : name));
}

function environmentReferences(config: Config): string[] {
  return [...new Set(texts(config).flatMap(([, text]) => /^env:([A-Za-z_][A-Za-z0-9_]*)$/.exec(text)?.[1] ?? []))].sort();
}

function fileReferences(config: Config): string[] {
  return [...new Set(texts(config).flatMap(([, text]) => (text.startsWith('file:') ? [text.slice('file:'.length)] : [])))].sort();
}

function pathsOf(config: Config, keys: ReadonlySet<string>): string[] {
  return [...new Set(texts(config).flatMap(([key, text]) => (keys.has(key) ? [text] : [])))].sort();
}
