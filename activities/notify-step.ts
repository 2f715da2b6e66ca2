import { sendNotice } from '../src/systems/notify.ts';
import type { StepDefinition } from './step-definition.ts';

const send: StepDefinition = {
  async apply(step) {
    const result = await sendNotice(step.context.config.notify, step.context.secrets, step.log, {
      level: step.input['level'] as 'success' | 'failure' | 'attention',
      title: String(step.input['title']),
      text: String(step.input['text'] ?? ''),
      fields: { service: step.call.service ?? '-', mode: step.call.mode, workflow: step.call.workflowId },
    });
    if (result.sent.length === 0 && result.failed.length === 0) return { outcome: 'skipped', summary: 'nobody is configured to be told' };
    return { outcome: 'changed', summary: `told ${result.sent.join(', ') || 'nobody'}${result.failed.length > 0 ? `; not delivered: ${result.failed.join(', ')}` : ''}`, after: { sent: result.sent, failed: result.failed }, facts: { sent: result.sent, failed: result.failed } };
  },
  async verify(step) {
    const failed = step.call.facts['failed'];
    const undelivered = Array.isArray(failed) ? failed.length : 0;
    // Said, never fatal: a recovery does not stop because a chat is down.
    return { checks: [], summary: undelivered === 0 ? 'every receiver took it' : `${undelivered} receiver(s) did not take it` };
  },
};

export const notifySteps: Readonly<Record<string, StepDefinition>> = { 'notify.send': send };
