import { dirname } from 'node:path';
import type { Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import type { Io } from '../io.ts';

interface CronJobFlags {
  readonly image: string;
  readonly into: string;
  readonly configMap: string;
  readonly runbooksMap: string;
  readonly secret: string;
  readonly fileSecret: string;
  readonly serviceAccount: string;
  readonly workers: string;
}

export function define(command: Command, io: Io): void {
  command
    .command('cronjobs')
    .description("print Kubernetes CronJobs of the configuration's schedules and a Deployment of workers; nothing is applied. What you must provide is said on stderr")
    .option('--image <image>', 'image of docker/Dockerfile, with a tag or digest of yours', 'holdfast:latest')
    .option('--into <namespace>', "Kubernetes namespace of everything (--namespace is Temporal's)", 'holdfast')
    .option('--config-map <name>', 'ConfigMap with holdfast.yaml', 'holdfast-config')
    .option('--runbooks-map <name>', 'ConfigMap with the runbooks', 'holdfast-runbooks')
    .option('--secret <name>', 'Secret with the values of env: references', 'holdfast-secrets')
    .option('--file-secret <name>', 'Secret with the files of file: references', 'holdfast-files')
    .option('--service-account <name>', 'service account of the workers', 'holdfast')
    .option('--workers <number>', 'how many workers', '2')
    .action(async (flags: CronJobFlags) => {
      const { config, configPath } = await io.context();
      const workers = Number(flags.workers);
      if (!Number.isInteger(workers) || workers < 0) throw new HoldfastError('usage', `--workers "${flags.workers}" is no number of workers`, { next: 'a whole number' });
      const { cronJobManifests } = await import('../../model/manifests.ts');
      const { stringify } = await import('yaml');
      const { manifests, notes } = cronJobManifests(config, { ...flags, namespace: flags.into, workers, configFolder: dirname(configPath) });
      if (!/[:@][^/]+$/.test(flags.image) || flags.image.endsWith(':latest')) notes.push(`image ${flags.image} may be another one tomorrow: give a tag or digest of yours by --image`);
      for (const note of notes) io.note(`note: ${note}`);
      io.result({ manifests, notes }, () => manifests.map((manifest) => stringify(manifest, { lineWidth: 0, aliasDuplicateObjects: false }).trimEnd()).join('\n---\n'));
    });
}
