import { CATALOGUE } from '../src/model/catalogue.ts';
import type { Config } from '../src/model/config-schema.ts';
import { allows, neededFor, type PolicyDocument } from '../src/model/iam.ts';
import { ACTIVITY_ROLES, MAY_BE_REFUSED, permissionsOf, policyOf, WORKFLOW_PERMISSIONS, type Need, type PolicyScope } from '../src/model/permissions.ts';
import type { AwsCall } from './aws-calls.ts';

/** Calls that were made and that no policy allows: `<activity>: <action> on <resource>`. */
export const undeclared = new Set<string>();
/** Calls that were allowed, as `<activity> <action>`. */
export const declared = new Set<string>();

export function scopeOf(config: Config): PolicyScope {
  return { config, datastores: Object.keys(config.datastores), account: '*', partition: 'aws' };
}

const policies = new WeakMap<Config, Map<string, PolicyDocument>>();

/** The policy of whoever makes the call: the step kind's own permissions, or the workflow's, and what every worker may. */
function policyFor(config: Config, call: AwsCall): PolicyDocument | null {
  const kind = call.activity.split(':', 1)[0]!;
  const role = ACTIVITY_ROLES[call.activity];
  const own: Need | null = Object.hasOwn(CATALOGUE, kind) ? { permissions: permissionsOf(kind), inputs: call.input ?? {}, whose: kind } : role === undefined ? null : { permissions: WORKFLOW_PERMISSIONS[role], inputs: {}, whose: role };
  if (own === null) return null;
  const known = policies.get(config) ?? new Map<string, PolicyDocument>();
  policies.set(config, known);
  // Tests change the configuration under way.
  const key = JSON.stringify([own.whose, own.inputs, config.datastores, config.stores, config.evidence]);
  const found = known.get(key) ?? policyOf(scopeOf(config), [own, { permissions: WORKFLOW_PERMISSIONS.worker, inputs: {}, whose: 'worker' }]);
  known.set(key, found);
  return found;
}

export function judge(config: Config, call: AwsCall): void {
  // An environment without a workflow around it, for a phase that a test calls itself.
  if (call.activity === 'unknown') return;
  const policy = policyFor(config, call);
  const { sent, command, service } = call;
  const creates = ['PutObject', 'CompleteMultipartUpload', 'CopyObject'].includes(command);
  const context = service === 's3' ? { 's3:if-none-match': sent['IfNoneMatch'] as string | undefined, 's3:ObjectCreationOperation': String(creates) } : {};
  for (const needed of neededFor(service, command, sent)) {
    if (MAY_BE_REFUSED.includes(`${call.activity} ${needed.action}`)) continue;
    if (policy !== null && allows(policy, needed, context)) declared.add(`${call.activity} ${needed.action}`);
    else undeclared.add(`${call.activity}: ${needed.action} on ${needed.resource}${policy === null ? ' (this activity has no role)' : ''}`);
  }
}
