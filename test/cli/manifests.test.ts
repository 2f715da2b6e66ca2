import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadAllYaml, type V1CronJob, type V1Deployment } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseAllDocuments, stringify } from 'yaml';
import { createProcesses, startKubernetes, type KubernetesServer, type Processes } from '../../src/local/stack.ts';
import { testDirectory, uniqueName } from '../support.ts';
import { runHere, type ProgramExit } from './program.ts';

let processes: Processes;
let server: KubernetesServer;
let folder: string;
let namespace: string;

const DATASTORE = { engine: 'postgres', database: 'shop', store: 'main', admin: { username: 'holdfast', password: 'env:SHOP_PASSWORD' }, nodes: { a: { host: '10.0.0.1' } }, backup: { timeout: '2h' }, drill: { timeout: '30m' }, retention: { last: 7 } };

function document(schedules: object, more: object = {}): string {
  const path = join(folder, `${uniqueName('holdfast')}.yaml`);
  writeFileSync(path, stringify({
    version: 1,
    stores: { main: { type: 's3', bucket: 'b', credentials: { accessKeyId: 'env:S3_KEY', secretAccessKey: 'file:secrets/s3-secret' } } },
    datastores: { shop: DATASTORE },
    services: { orders: { objectives: { rto: '15m', rpo: '1m' }, datastores: ['shop'] } },
    evidence: { store: 'main', signingKey: 'file:/run/keys/evidence.pem' },
    schedules,
    ...more,
  }));
  return path;
}

const ALL = {
  nightly: { run: 'backup', datastore: 'shop', cron: '5 3 * * *', timezone: 'Asia/Seoul', jitter: '2m', catchUp: '15m' },
  expire: { run: 'retention', datastore: 'shop', every: '6h' },
  'monthly-drill-of-the-shop-with-a-name-too-long-for-it': { run: 'restoreDrill', datastore: 'shop', service: 'orders', backup: 'random', cron: '0 4 1 jan-dec *', overlap: 'cancelOther', catchUp: '1s' },
  ready: { run: 'readiness', service: 'orders', every: '5m', paused: true },
  rehearse: { run: 'runbook', runbook: 'standby-rebuild', parameters: { datastore: 'shop', node: 'a' }, cron: '30 1 * * sun,sat' },
};

function print(path: string, ...args: string[]): Promise<ProgramExit> {
  return runHere(['manifests', 'cronjobs', '--config', path, '--runbooks', join(import.meta.dirname, '../../runbooks'), ...args]);
}

beforeAll(async () => {
  processes = createProcesses({ directory: testDirectory('manifests') });
  server = await startKubernetes({ processes, directory: processes.directory });
  folder = join(processes.directory, 'config');
  mkdirSync(folder);
  namespace = uniqueName('holdfast');
  // Kubernetes itself refuses here whatever is not of its strictest profile for pods.
  await server.call('POST', '/api/v1/namespaces', { metadata: { name: namespace, labels: { 'pod-security.kubernetes.io/enforce': 'restricted' } } });
});
afterAll(() => processes?.end());

const GROUPS = { CronJob: 'batch/v1', Deployment: 'apps/v1', Job: 'batch/v1' } as const;

function create<T = unknown>(kind: keyof typeof GROUPS, body: object): Promise<T> {
  return server.call('POST', `/apis/${GROUPS[kind]}/namespaces/${namespace}/${kind.toLowerCase()}s?fieldValidation=Strict`, body);
}

describe('holdfast manifests cronjobs', () => {
  it('prints what the API server takes under strict validation, one CronJob a schedule and a worker', async () => {
    const { out, err, code } = await print(document(ALL), '--into', namespace, '--image', 'registry.example/holdfast:1.2');
    expect({ code, err }).toMatchObject({ code: 0 });
    const objects = parseAllDocuments(out).map((item) => item.toJS() as V1CronJob | V1Deployment);
    expect(objects.map(({ kind, metadata }) => `${kind} ${metadata?.name}`)).toEqual([
      'CronJob holdfast-nightly', 'CronJob holdfast-expire', expect.stringMatching(/^CronJob holdfast-monthly-drill-of-the-shop-with-a-nam-[0-9a-f]{6}$/), 'CronJob holdfast-ready', 'CronJob holdfast-rehearse', 'Deployment holdfast-worker',
    ]);
    for (const object of objects) await create(object.kind as 'CronJob', object);
    await expect(create('CronJob', { ...objects[0], metadata: { name: 'x' }, spec: { ...objects[0]!.spec, shedule: '* * * * *' } })).rejects.toThrow(/strict decoding error: unknown field .*spec\.shedule/);

    const typed = loadAllYaml(out) as V1CronJob[];
    const by = (name: string) => typed.find(({ metadata }) => metadata?.labels?.['holdfast/schedule']?.startsWith(name))!.spec!;
    expect(by('nightly')).toMatchObject({ schedule: '5 3 * * *', timeZone: 'Asia/Seoul', concurrencyPolicy: 'Forbid', startingDeadlineSeconds: 900, suspend: false, jobTemplate: { spec: { backoffLimit: 0, activeDeadlineSeconds: 3 * 3600, template: { spec: { restartPolicy: 'Never', containers: [{ args: ['backup', 'shop', '--reason', 'scheduled'] }] } } } } });
    expect(by('expire').schedule).toBe('0 */6 * * *');
    expect(by('monthly')).toMatchObject({ schedule: '0 4 1 * *', concurrencyPolicy: 'Replace', startingDeadlineSeconds: 30 });
    expect(by('ready')).toMatchObject({ schedule: '*/5 * * * *', suspend: true });
    expect(by('rehearse').schedule).toBe('30 1 * * 0,6');
    // Secrets by reference only, each where the configuration looks for it.
    const [container] = by('nightly').jobTemplate.spec!.template.spec!.containers;
    expect(container!.env!.filter(({ valueFrom }) => valueFrom !== undefined)).toEqual([
      { name: 'S3_KEY', valueFrom: { secretKeyRef: { name: 'holdfast-secrets', key: 'S3_KEY' } } },
      { name: 'SHOP_PASSWORD', valueFrom: { secretKeyRef: { name: 'holdfast-secrets', key: 'SHOP_PASSWORD' } } },
    ]);
    expect(container!.volumeMounts!.filter(({ name }) => name === 'files').map(({ mountPath, subPath }) => [mountPath, subPath])).toEqual([['/run/keys/evidence.pem', 'evidence.pem'], ['/etc/holdfast/secrets/s3-secret', 's3-secret']]);
    for (const note of ['Secret holdfast-secrets must hold: S3_KEY, SHOP_PASSWORD', 'Secret holdfast-files must hold the files: evidence.pem, s3-secret', 'schedules.nightly: CronJobs have no jitter', 'Replace ends the pod that waits', 'either these CronJobs or `holdfast schedules sync`']) expect(err).toContain(note);

    // What a CronJob starts is let in by the strictest profile and runs; one that is root is not.
    const nightly = typed[0]!;
    const job = { metadata: { name: 'by-hand' }, spec: nightly.spec!.jobTemplate.spec };
    const status = async (): Promise<unknown> => (await server.call<{ status: { succeeded?: number } }>('GET', `/apis/batch/v1/namespaces/${namespace}/jobs/by-hand`)).status.succeeded;
    await create('Job', job);
    const pods = async () => (await server.call<{ items: { metadata: { labels: Record<string, string> }; status: { containerStatuses?: { state: { waiting?: { reason: string; message: string } } }[] } }[] }>('GET', `/api/v1/namespaces/${namespace}/pods`)).items;
    await expect.poll(async () => (await pods()).flatMap(({ status: { containerStatuses } }) => containerStatuses?.[0]?.state.waiting?.message ?? []), { timeout: 30_000 }).toContain('secret "holdfast-secrets" not found');
    await server.call('POST', `/api/v1/namespaces/${namespace}/secrets`, { metadata: { name: 'holdfast-secrets' }, stringData: { S3_KEY: 'x', SHOP_PASSWORD: 'y' } });
    await expect.poll(status, { timeout: 30_000 }).toBe(1);
    await expect.poll(async () => (await server.call<{ status: { availableReplicas?: number } }>('GET', `/apis/apps/v1/namespaces/${namespace}/deployments/holdfast-worker`)).status.availableReplicas, { timeout: 30_000 }).toBe(2);
    const spec = nightly.spec!.jobTemplate.spec!.template.spec!;
    await expect(server.call('POST', `/api/v1/namespaces/${namespace}/pods`, { metadata: { name: 'root' }, spec: { ...spec, securityContext: { runAsUser: 0 } } })).rejects.toThrow(/violates PodSecurity .*restricted/);
  });

  it('what each of them runs is a command of this program', async () => {
    const path = document(ALL);
    const { manifests } = JSON.parse((await print(path, '--json')).out) as { manifests: V1CronJob[] };
    const jobs = manifests.filter(({ kind }) => kind === 'CronJob');
    expect(jobs).toHaveLength(5);
    const environment = { S3_KEY: 'x', SHOP_PASSWORD: 'y' };
    for (const job of jobs) {
      const { args } = job.spec!.jobTemplate.spec!.template.spec!.containers[0]!;
      // Nobody listens there: it got as far as calling Temporal, or says that no worker answers.
      const answer = await runHere([...args!, '--config', path, '--runbooks', join(import.meta.dirname, '../../runbooks'), '--address', '127.0.0.1:1'], { env: environment });
      expect({ args, code: answer.code, err: answer.err }).toMatchObject({ code: 5 });
    }
  });

  it('refuses what a CronJob would run at other times', async () => {
    const both = await print(document({ odd: { run: 'backup', datastore: 'shop', cron: '0 3 1 * mon' } }));
    expect(both).toMatchObject({ code: 2, err: expect.stringMatching(/schedules\.odd\.cron .*a CronJob would run when either does[\s\S]*schedules sync/) });
    const every = await print(document({ odd: { run: 'backup', datastore: 'shop', every: '7h' } }));
    expect(every).toMatchObject({ code: 2, err: expect.stringContaining('cannot be said as a cron expression') });
    expect(await print(document({}), '--workers', 'two')).toMatchObject({ code: 2 });
    const ephemeral = await print(document({}, { evidence: {} }));
    expect(ephemeral.err).toContain('evidence would go with the pod that wrote it');
  });
});
