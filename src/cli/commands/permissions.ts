import { Option, type Command } from 'commander';
import { HoldfastError } from '../../model/errors.ts';
import { policiesFor, ROLES, type PolicyScope, type Role, type RolePolicies, type Use } from '../../model/permissions.ts';
import { knownInputs, neverRuns } from '../../model/runbook-check.ts';
import { MODES, type Runbook } from '../../model/runbook-schema.ts';
import { serviceOf, type Context } from '../../systems/context.ts';
import { readRunbooks } from '../../systems/runbook-file.ts';
import type { Io } from '../io.ts';

interface Options {
  readonly role?: Role;
  readonly service?: string;
  readonly account: string;
  readonly partition: string;
}

export function define(command: Command, io: Io): void {
  command
    .description("Print IAM policies of what Holdfast calls, by role, narrowed to the buckets, prefixes, secrets, zones and instances of the configuration. They are made from what the step kinds declare, and the tests hold that against the calls really made.")
    .addOption(new Option('--role <role>', 'only this one').choices([...ROLES]))
    .option('--service <name>', 'only what this service needs: its datastores and its runbooks')
    .option('--account <id>', 'account id for ARNs; without it any', '*')
    .option('--partition <name>', 'aws, aws-cn or aws-us-gov', 'aws')
    .action(async (options: Options) => {
      if (options.account !== '*' && !/^\d{12}$/.test(options.account)) throw new HoldfastError('usage', `--account "${options.account}" is no account id`, { next: 'give twelve digits' });
      if (!/^aws(-cn|-us-gov)?$/.test(options.partition)) throw new HoldfastError('usage', `--partition "${options.partition}" is not known`, { next: 'use aws, aws-cn or aws-us-gov' });
      const context = await io.context();
      const services = options.service === undefined ? Object.keys(context.config.services) : [options.service];
      for (const service of services) serviceOf(context.config, service);
      const datastores = options.service === undefined ? Object.keys(context.config.datastores) : serviceOf(context.config, options.service).datastores;
      const scope: PolicyScope = { config: context.config, datastores, account: options.account, partition: options.partition };
      const uses = await usesOf(context, services, options.service === undefined);
      const roles = (options.role === undefined ? ROLES : [options.role]).map((role) => policiesFor(role, scope, uses));
      io.result(roles, () => roles.map(describe).join('\n\n'));
    });
}

/** Every step of the services' runbooks, and of those they run, with the inputs that are known beforehand. */
async function usesOf(context: Context, services: readonly string[], all: boolean): Promise<Use[]> {
  const { files } = await readRunbooks(context.runbookDirectory);
  const known = new Map(files.flatMap(({ name, runbook }) => (runbook === undefined ? [] : [[name, runbook] as const])));
  const uses = new Map<string, Use>();
  const visited = new Set<string>();
  const visit = (name: string, service: string | null, given: Readonly<Record<string, unknown>>): void => {
    const runbook = known.get(name);
    const key = JSON.stringify([name, service, given]);
    if (runbook === undefined || visited.has(key)) return;
    visited.add(key);
    const parameters = parametersOf(runbook, service === null ? {} : context.config.services[service]!.parameters, given, service === null ? [] : context.config.services[service]!.datastores);
    for (const mode of MODES) {
      for (const step of runbook.steps) {
        if (!step.modes.includes(mode) || neverRuns(step, { service, mode, parameters })) continue;
        const inputs = knownInputs(step, { service, mode, parameters });
        if (step.uses === 'runbook.run') {
          const nested = (inputs['parameters'] ?? {}) as Readonly<Record<string, unknown>>;
          const of = typeof inputs['service'] === 'string' && Object.hasOwn(context.config.services, inputs['service']) ? inputs['service'] : service;
          const purpose = typeof inputs['purpose'] === 'string' && of !== null ? context.config.services[of]!.runbooks[inputs['purpose']] : undefined;
          const runbookName = typeof inputs['runbook'] === 'string' ? inputs['runbook'] : purpose;
          if (runbookName !== undefined) visit(runbookName, of, nested);
        } else uses.set(JSON.stringify([step.uses, inputs]), { kind: step.uses, inputs });
      }
    }
  };
  for (const service of services) for (const runbook of Object.values(context.config.services[service]!.runbooks)) visit(runbook, service, {});
  if (all) for (const schedule of Object.values(context.config.schedules)) if (schedule.run === 'runbook') visit(schedule.runbook, null, schedule.parameters);
  return [...uses.values()];
}

function parametersOf(runbook: Runbook, ofService: Readonly<Record<string, unknown>>, given: Readonly<Record<string, unknown>>, datastores: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(runbook.parameters).flatMap(([name, definition]) => {
      const value = given[name] ?? ofService[name] ?? definition.default ?? (name === 'datastore' && datastores.length === 1 ? datastores[0] : undefined);
      return value === undefined ? [] : [[name, value] as const];
    }),
  );
}

function describe({ role, text, policies, notes }: RolePolicies): string {
  const lines = [`# ${role}: ${text}`];
  if (policies.length === 0) lines.push('# nothing of AWS: no policy is needed');
  for (const { name, document, characters } of policies) lines.push(`# ${name}: ${characters} of 6144 characters`, JSON.stringify(document, null, 2));
  for (const note of notes) lines.push(`# ${note}`);
  return lines.join('\n');
}
