import { formatDuration } from '../units.ts';
import { changes, datastore, field, name, nothing, text, type KnownStep, type StepText } from './words.ts';

export const controlTexts: Readonly<Record<string, (step: KnownStep) => StepText>> = {
  'operator.approval': (step) => changes(approvalText(step), 'whether enough people approve in time'),
  'operator.wait': (step) => nothing(`waits ${typeof step.inputs['duration'] === 'number' ? formatDuration(step.inputs['duration']) : text(step, 'duration', 'a time')}`),
  'controller.pause': (step) => ({
    does: `looks for Patroni beside the servers of ${datastore(step)} and pauses it, so that two controllers never act at once${field(step, 'pausedBy', (who) => ` (paused already, by ${String(who)}: it is left so)`)}; where there is none, nothing`,
    undo: 'resumes it, unless somebody else had paused it',
    unknown: ['how long every member takes to read the pause'],
  }),
  'controller.resume': (step) => changes(`resumes Patroni, if this run paused it, once it names ${name(step, 'primary')} as its leader, and watches that it leaves the roles as they are; where there is none, nothing`, 'how long Patroni takes to see the new leader'),
  'runbook.run': (step) => ({
    does: `runs ${step.inputs['purpose'] === undefined ? `runbook ${text(step, 'runbook', '?')}` : `the runbook that ${text(step, 'service', 'the service')} has for ${text(step, 'purpose', '?')}`} as an execution of its own, with its own guards, approval and point of no return, and waits for its end`,
    undo: null,
    unknown: ['what that execution comes to; plan it by its own name to see its steps'],
  }),
};

function approvalText(step: KnownStep): string {
  const count = typeof step.inputs['count'] === 'number' ? step.inputs['count'] : step.approvals;
  return count === 0 ? 'goes on at once: the policy asks for no approval' : `waits for ${count} approval(s) by people other than the requester; expires into denied`;
}
