import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, type Logger as TemporalLogger, type WorkflowBundleWithSourceMap } from '@temporalio/worker';
import { ENCODED_FAILURES_PATH } from './payload-encryption.ts';

export type WorkflowBundle = WorkflowBundleWithSourceMap;

export const WORKFLOWS_PATH = fileURLToPath(new URL('../../workflows/index.ts', import.meta.url));

/** Bundle workflows/index.ts. `encrypted` must be what the worker's configuration says: the failure converter is part of the bundle. */
export async function bundleWorkflows(options: { encrypted: boolean; logger?: TemporalLogger }): Promise<WorkflowBundle> {
  return bundleWorkflowCode({
    workflowsPath: WORKFLOWS_PATH,
    ...(options.encrypted ? { failureConverterPath: ENCODED_FAILURES_PATH } : {}),
    logger: options.logger ?? quiet,
  });
}

const nothing = (): void => {};
/** Webpack's progress is of no use to anybody; its errors are thrown. */
const quiet: TemporalLogger = { log: nothing, trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing };
