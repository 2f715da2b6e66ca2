import type { Command } from 'commander';
import type { ExecutionResult } from '../../../workflows/failover.ts';
import { WORKFLOW_IDS } from '../../model/api.ts';
import type { LifecycleRuleConfig } from '../../model/config-s3.ts';
import type { Config } from '../../model/config-schema.ts';
import { HoldfastError } from '../../model/errors.ts';
import { describeRule, lifecycleText, ruleDifferences, type LifecyclePlan } from '../../model/lifecycle.ts';
import { unknownName } from '../../systems/context.ts';
import { openBucket, openStoreBucket, whereOf } from '../../systems/s3-bucket.ts';
import { lifecyclePlanOf, readLifecycle } from '../../systems/s3-lifecycle.ts';
import { execute, timeId } from '../execute.ts';
import { showExecution } from '../execution-result.ts';
import type { Io } from '../io.ts';

export function define(command: Command, io: Io): void {
  command
    .description("Show how a bucket's lifecycle rules differ from what the configuration says, and with --apply make them so. Only rules whose ids begin with holdfast-<name>. are ours; all others are carried over as they are.")
    .argument('<name>', 'a datastore of engine s3, or a store of type s3')
    .option('--apply', 'change the rules; without it nothing is changed')
    .option('--reason <text>', 'why; kept in the audit', 'lifecycle rules of the configuration')
    .action(async (name: string, options: { apply?: boolean; reason: string }) => {
      const context = await io.context();
      const kind = kindOf(context.config, name);
      if (options.apply === true) {
        // A change is an execution: under the datastore's lock, in the audit, undone when it goes wrong.
        const workflowId = WORKFLOW_IDS.runbook('bucket-lifecycle', timeId(new Date()));
        const result = await execute<ExecutionResult>(io, { type: 'runbook', workflowId, input: { runbook: 'bucket-lifecycle', parameters: { [kind]: name }, reason: options.reason, requestedBy: io.by } }, { wait: true });
        if (result !== undefined) showExecution(io, workflowId, result);
        return;
      }
      const place = kind === 'datastore' ? await openBucket(context, name) : await openStoreBucket(context, name);
      const plan = lifecyclePlanOf(place, rulesOf(context.config, kind, name), await readLifecycle(place));
      io.result({ [kind]: name, bucket: place.bucket, differs: plan.differs, changes: plan.changes, foreign: plan.foreign }, () => describe(whereOf(place, ''), name, plan));
    });
}

function kindOf(config: Config, name: string): 'datastore' | 'store' {
  const [datastore, store] = [Object.hasOwn(config.datastores, name), Object.hasOwn(config.stores, name)];
  if (datastore && store) throw new HoldfastError('usage', `"${name}" is the name of a datastore and of a store`, { next: 'rename one of them in holdfast.yaml' });
  if (datastore) return 'datastore';
  if (store) return 'store';
  throw unknownName('datastore', name, [...Object.entries(config.datastores).flatMap(([other, { engine }]) => (engine === 's3' ? [other] : [])), ...Object.entries(config.stores).flatMap(([other, { type }]) => (type === 's3' ? [other] : []))]);
}

function rulesOf(config: Config, kind: 'datastore' | 'store', name: string): readonly LifecycleRuleConfig[] {
  const entry = kind === 'datastore' ? config.datastores[name]! : config.stores[name]!;
  return ('lifecycle' in entry ? entry.lifecycle : undefined) ?? [];
}

const MARKS = { add: '+', change: '~', remove: '-', same: ' ' } as const;

function describe(where: string, name: string, plan: LifecyclePlan): string {
  const lines = [`${where}, rules of ${name}: ${lifecycleText(plan)}`, ''];
  for (const change of plan.changes) {
    lines.push(`${MARKS[change.action]} ${change.id}  ${describeRule((change.to ?? change.from)!)}`);
    if (change.action === 'change') for (const line of ruleDifferences(change.from!, change.to!)) lines.push(`    ${line}`);
  }
  for (const id of plan.foreign) lines.push(`  ${id}  not ours: stays as it is`);
  lines.push('', plan.differs ? 'nothing was changed; apply with --apply' : 'as the configuration says');
  return lines.join('\n');
}
