import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { bundleWorkflows } from '../src/engine/bundle.ts';
import { createProcesses, startMoto, startPostgres, startTemporal, startToxiproxy, startVersity } from '../src/local/stack.ts';
import type { AwsServer } from '../src/local/stack.ts';

export interface SuiteAddresses {
  /** Temporary folder of the run; goes when the run ends. */
  readonly directory: string;
  readonly temporal: { readonly address: string; readonly namespace: string };
  readonly aws: AwsServer;
  readonly s3: AwsServer;
  readonly toxiproxyUrl: string;
  readonly postgres: { readonly host: string; readonly port: number; readonly superuser: string; readonly password: string; readonly binDirectory: string };
  /** Path of the bundled workflows (for configurations without payload encryption). */
  readonly workflowBundle: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    suite: SuiteAddresses;
  }
}

/** One of each server and one workflow bundle for the whole run; clusters that a test breaks it starts itself. */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const processes = createProcesses({ keepDirectory: process.env['HOLDFAST_KEEP'] === '1' });
  const { directory } = processes;
  try {
    const [temporal, aws, s3, toxiproxy, postgres, workflowBundle] = await Promise.all([
      startTemporal({ processes, directory }),
      startMoto({ processes, directory }),
      startVersity({ processes, directory }),
      startToxiproxy({ processes, directory }),
      startPostgres({ processes, directory, name: 'base', settings: { fsync: 'off', max_connections: '200' } }),
      bundle(directory),
    ]);
    project.provide('suite', {
      directory,
      temporal: { address: temporal.address, namespace: temporal.namespace },
      aws,
      s3,
      toxiproxyUrl: toxiproxy.apiUrl,
      postgres: { host: postgres.host, port: postgres.port, superuser: postgres.superuser, password: postgres.password, binDirectory: postgres.binDirectory },
      workflowBundle,
    });
  } catch (error) {
    await processes.end();
    throw error;
  }
  return () => processes.end();
}

async function bundle(directory: string): Promise<string> {
  const { code } = await bundleWorkflows({ encrypted: false });
  const path = join(directory, 'workflows.js');
  await writeFile(path, code);
  return path;
}
