/** Targets of drills that lie on this host: one folder each, whose name follows from the run, and a file in it that says whose it is. */
import { createHash } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Context } from './context.ts';

/** Which drill a target belongs to. */
export interface DrillIdentity {
  readonly datastore: string;
  readonly workflowId: string;
  readonly runId: string;
}

/** Deterministic, so that a later attempt and the sweep find what an earlier one left. */
export function drillName(identity: DrillIdentity): string {
  return `${identity.datastore}-${createHash('sha256').update(`${identity.workflowId}\0${identity.runId}`).digest('hex').slice(0, 12)}`;
}

/** Of the target whose folder it is. */
export function identityFile(folder: string): string {
  return join(folder, 'drill.json');
}

/** First of all: from here on the sweep knows whose the folder is. */
export async function writeIdentity(folder: string, { datastore, workflowId, runId }: DrillIdentity): Promise<void> {
  await writeFile(identityFile(folder), JSON.stringify({ datastore, workflowId, runId }));
}

/**
 * Destroy the targets in this folder whose drill no longer runs. For the start of a worker, which must start for failovers
 * even where an old drill cannot be cleaned away: what fails is logged.
 * @returns the names of what was destroyed.
 */
export async function sweepDrillFolders(context: Context, directory: string, destroy: (name: string) => Promise<unknown>, isRunning: (workflowId: string, runId: string) => Promise<boolean>): Promise<string[]> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') context.log.error({ directory, err: error }, 'the folder of drill targets cannot be looked at');
    return [];
  });
  const destroyed: string[] = [];
  for (const name of names) {
    try {
      const owner = await ownerOf(join(directory, name));
      if (owner === 'unknown' || (owner !== undefined && (await isRunning(owner.workflowId, owner.runId)))) continue;
      await destroy(name);
      context.log.warn({ target: name, workflowId: owner?.workflowId }, 'destroyed a drill target that an ended drill had left');
      destroyed.push(name);
    } catch (error) {
      // One that resists must not protect the others; the next start tries again.
      context.log.error({ target: name, err: error }, 'this drill target could not be looked at or destroyed; remove it by hand if it stays');
    }
  }
  return destroyed;
}

/** `unknown`: made this moment by another worker, which has not written it yet. */
async function ownerOf(folder: string): Promise<{ workflowId: string; runId: string } | undefined | 'unknown'> {
  try {
    return JSON.parse(await readFile(identityFile(folder), 'utf8')) as { workflowId: string; runId: string };
  } catch {
    const made = await stat(folder).catch(() => undefined);
    return made !== undefined && Date.now() - made.mtimeMs < 60_000 ? 'unknown' : undefined;
  }
}
