import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { breakGlass, type BreakGlass } from '../model/break-glass.ts';
import { HoldfastError, messageOf } from '../model/errors.ts';
import type { Plan } from '../model/execution.ts';
import type { Mode } from '../model/runbook-schema.ts';
import { postgresOf, type Context } from '../systems/context.ts';
import { nodeStatus, type NodeStatus } from '../systems/postgres-node.ts';
import { lookAtRoles } from '../systems/postgres-roles.ts';
import type { Io } from './io.ts';

interface ExportRequest {
  readonly subject: string;
  /** A folder, or one file that ends in .md. */
  readonly target: string;
  readonly modes: readonly Mode[];
  readonly primary: string | undefined;
  readonly candidate: string | undefined;
  readonly plan: (mode: Mode) => Promise<Plan>;
}

/** Writes checklist and results template for each mode. An export of the same name is replaced; filled-in results have another name. */
export async function exportBreakGlass(io: Io, context: Context, request: ExportRequest): Promise<void> {
  const files: string[] = [];
  const toFile = request.target.endsWith('.md');
  if (toFile && request.modes.length !== 1) throw new HoldfastError('usage', 'one file holds one mode', { next: 'give a folder' });
  for (const mode of request.modes) {
    const plan = await request.plan(mode);
    const { roles, seen } = await look(io, context, plan, request);
    const made = breakGlass({ plan, config: context.config, roles, madeAt: new Date().toISOString(), seen });
    files.push(...(await write(resolve(request.target), toFile, made)));
  }
  io.result({ files }, () => ['written:', ...files.map((file) => `  ${file}`), '', 'Keep them where they can be read when everything else is down: on paper, on laptops. Make them anew after each failover and each change of', 'configuration; they name nodes and roles as they are now.'].join('\n'));
}

async function look(io: Io, context: Context, plan: Plan, request: ExportRequest): Promise<{ roles: { primary: string | null; candidate: string | null }; seen: Record<string, string> }> {
  const named = plan.parameters['datastore'];
  const name = typeof named === 'string' ? named : plan.datastores[0];
  if (name === undefined) return { roles: { primary: request.primary ?? null, candidate: request.candidate ?? null }, seen: {} };
  const datastore = postgresOf(context.config, name);
  const given = plan.parameters['candidate'] ?? (plan.kind === 'failback' ? plan.parameters['node'] : undefined);
  const wanted = { primary: request.primary, candidate: request.candidate ?? (typeof given === 'string' ? given : undefined) };
  try {
    const { primary, candidate, statuses } = await lookAtRoles(context, datastore, wanted);
    return { roles: { primary, candidate: candidate ?? onlyOther(Object.keys(datastore.nodes), primary) }, seen: Object.fromEntries([...statuses].map(([node, status]) => [node, seenText(status)])) };
  } catch (error) {
    if (wanted.primary === undefined || wanted.candidate === undefined) throw error;
    // The secret manager is down as well: the roles are taken as they were said.
    io.note(`the roles are taken as given, they could not be looked at: ${messageOf(error)}`);
    const statuses = await Promise.all(Object.keys(datastore.nodes).map((node) => nodeStatus(context, datastore, node).catch(() => null)));
    return { roles: { primary: wanted.primary, candidate: wanted.candidate }, seen: Object.fromEntries(statuses.filter((status) => status !== null).map((status) => [status.node, seenText(status)])) };
  }
}

function onlyOther(nodes: readonly string[], primary: string): string | null {
  const others = nodes.filter((node) => node !== primary);
  return others.length === 1 ? others[0]! : null;
}

function seenText(status: NodeStatus): string {
  if (!status.reachable) return `no answer (${status.error?.split('\n')[0] ?? ''})`;
  return status.inRecovery === true ? `standby, ${status.receiverStatus ?? 'no stream'}` : 'primary';
}

async function write(target: string, toFile: boolean, made: BreakGlass): Promise<string[]> {
  const base = toFile ? target.slice(0, -'.md'.length) : join(target, made.name);
  const files = { [`${base}.md`]: made.markdown, [`${base}.results.template.json`]: `${JSON.stringify(made.template, null, 2)}\n` };
  try {
    await mkdir(dirname(base), { recursive: true });
    for (const [file, text] of Object.entries(files)) await writeFile(file, text);
  } catch (error) {
    throw new HoldfastError('export-failed', `the checklist cannot be written to ${target}: ${messageOf(error)}`, { next: 'give a folder that this user may write to', cause: error });
  }
  return Object.keys(files);
}
