import type { Context } from '../src/systems/context.ts';
import { createBackupActivities } from './backup.ts';
import { createEvidenceActivities } from './evidence.ts';
import { createNotifyActivities } from './notify.ts';
import { createRetentionActivities } from './retention.ts';

/** Every activity there is, bound to one context. Each file of this folder adds its line. */
export function createActivities(context: Context) {
  return {
    ...createBackupActivities(context),
    ...createRetentionActivities(context),
    ...createEvidenceActivities(context),
    ...createNotifyActivities(context),
  };
}

export type Activities = ReturnType<typeof createActivities>;
