import type { Context } from '../src/systems/context.ts';
import { createEvidenceActivities } from './evidence.ts';
import { createNotifyActivities } from './notify.ts';

/** Every activity there is, bound to one context. Each file of this folder adds its line. */
export function createActivities(context: Context) {
  return {
    ...createEvidenceActivities(context),
    ...createNotifyActivities(context),
  };
}

export type Activities = ReturnType<typeof createActivities>;
