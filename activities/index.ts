import type { Context } from '../src/systems/context.ts';
import { createBackupActivities } from './backup.ts';
import { createComplianceActivities } from './compliance.ts';
import { createDrillActivities } from './drill.ts';
import { createEvidenceActivities } from './evidence.ts';
import { createImportedActivities } from './imported.ts';
import { createLockActivities } from './lock.ts';
import { createManagedBackupActivities } from './managed-backup.ts';
import { createManagedDrillActivities } from './managed-drill.ts';
import { createNotifyActivities } from './notify.ts';
import { createPlanActivities } from './plan.ts';
import { createReadinessActivities } from './readiness.ts';
import { createRetentionActivities } from './retention.ts';
import { createStepActivities } from './steps.ts';

/** Every activity there is, bound to one context. Each file of this folder adds its line. */
export function createActivities(context: Context) {
  return {
    ...createBackupActivities(context),
    ...createComplianceActivities(context),
    ...createRetentionActivities(context),
    ...createDrillActivities(context),
    ...createEvidenceActivities(context),
    ...createImportedActivities(context),
    ...createLockActivities(context),
    ...createManagedBackupActivities(context),
    ...createManagedDrillActivities(context),
    ...createNotifyActivities(context),
    ...createPlanActivities(context),
    ...createReadinessActivities(context),
    ...createStepActivities(context),
  };
}

export type Activities = ReturnType<typeof createActivities>;
