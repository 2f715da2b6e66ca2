import { createHash } from 'node:crypto';
import type { ObjectEntry } from '../model/manifest-parts.ts';
import type { BackupRequest } from './backup-engine.ts';
import type { Context } from './context.ts';
import packageJson from '../../package.json' with { type: 'json' };

/** What every engine says alike of a backup that ends now. `tools`: beside Holdfast and Node. */
export function manifestHead(context: Context, request: Pick<BackupRequest, 'id' | 'datastore' | 'reason' | 'workflowId' | 'runId'>, of: { readonly startedAt: string; readonly degraded?: string | undefined; readonly tools?: Readonly<Record<string, string>> }) {
  const { id, datastore, reason, workflowId, runId } = request;
  return {
    id, datastore, environment: context.config.environment, startedAt: of.startedAt, finishedAt: new Date().toISOString(), reason,
    ...(of.degraded === undefined ? {} : { degraded: of.degraded }),
    workflowId, runId, tools: { holdfast: packageJson.version, node: process.versions.node, ...of.tools },
  };
}

/** The entry of a small object that describes others and is stored as it is: it holds no data. */
export function plainEntry(name: string, bytes: Buffer): ObjectEntry {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  return { name, role: 'metadata', compression: 'none', encryption: 'none', storedBytes: bytes.length, storedSha256: sha256, plainBytes: bytes.length, plainSha256: sha256 };
}
