import type { Notice } from '../src/model/api.ts';
import type { Context } from '../src/systems/context.ts';
import { sendNotice, type NotifyResult } from '../src/systems/notify.ts';
import { withActivityFailures } from './failure.ts';

export type { NotifyResult };

/** Tells people. Never throws for a receiver: what failed is in the result and in the log. */
export function createNotifyActivities(context: Context) {
  return withActivityFailures({
    notify: (notice: Notice): Promise<NotifyResult> => sendNotice(context.config.notify, context.secrets, context.log, notice),
  });
}
