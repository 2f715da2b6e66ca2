/** Every workflow type of Holdfast, and one that begins a runbook nested in itself. For test/workflow/locks.test.ts. */
import { condition, defineSignal, executeChild, setHandler, startChild } from '@temporalio/workflow';
import type { Plan } from '../../src/model/execution.ts';
import { holdForPlan } from '../../workflows/hold.ts';

export { backup, failover, readiness, resourceLock, restoreDrill, retention, runbook } from '../../workflows/index.ts';

export interface ChildInput {
  readonly workflowId: string;
  readonly input: Readonly<Record<string, unknown>>;
}

/** A plan that changes `shop`. */
const lockPlan: Plan = {
  hash: 'x', kind: 'runbook', runbook: 'outer', title: 'Outer', service: null, environment: 'test', mode: 'planned', parameters: {}, objectives: null, approval: { count: 0, expiresMs: 0 },
  readOnlyDeadlineMs: 60_000, datastores: ['shop'],
  steps: [{ id: 'fence', title: 'Fence', uses: 'postgres.fence', with: { datastore: 'shop', node: 'b' }, included: true, applyMs: 1, attempts: 1 }],
};

export const go = defineSignal('go');

/** Takes the lock of `shop`, runs a runbook within it, and releases after it, or, when told to, while it still runs. */
export async function outer(input: { child: ChildInput; leave: boolean }): Promise<{ epoch: number; child: unknown }> {
  let told = false;
  setHandler(go, () => {
    told = true;
  });
  const held = await holdForPlan(lockPlan, { requestedBy: 'ann', overrides: [] });
  if (held === null) throw new Error('no lock was taken');
  const options = { workflowId: input.child.workflowId, args: [input.child.input] };
  if (input.leave) {
    await startChild('runbook', { ...options, parentClosePolicy: 'ABANDON' });
    await condition(() => told);
    await held.release();
    return { epoch: held.epoch, child: null };
  }
  const child: unknown = await executeChild('runbook', options);
  await condition(() => told);
  await held.release();
  return { epoch: held.epoch, child };
}
