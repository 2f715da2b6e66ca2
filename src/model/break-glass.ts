/**
 * The break-glass checklist: one execution as commands for a person with psql, aws, ssh and a shell, for when Temporal is down. Made of the
 * plan and the configuration, not of narratives; holds references to secrets, never a secret.
 */
import { byHand } from './by-hand.ts';
import { conninfo, fetchSecret, sh, type ByHandBlock, type ByHandCall } from './by-hand/words.ts';
import type { BreakGlassResults } from './break-glass-results.ts';
import { stepKind } from './catalogue.ts';
import { postgresNamed, type Config } from './config-schema.ts';
import type { Plan, PlannedStep } from './execution.ts';
import { fillReferences, referencesIn, type Json } from './runbook-schema.ts';
import { formatDuration } from './units.ts';

export interface BreakGlassInput {
  readonly plan: Plan;
  readonly config: Config;
  readonly roles: { readonly primary: string | null; readonly candidate: string | null };
  /** ISO 8601. */
  readonly madeAt: string;
  /** What was seen of each node when it was made, for people. */
  readonly seen: Readonly<Record<string, string>>;
}

export interface BreakGlass {
  /** Name without ending, the same for checklist and template. */
  readonly name: string;
  readonly markdown: string;
  readonly template: BreakGlassResults;
}

export function breakGlass(input: BreakGlassInput): BreakGlass {
  const { plan, roles } = input;
  const included = plan.steps.filter((step) => step.included);
  const name = `${plan.service ?? plan.runbook}-${plan.kind}-${plan.mode}`;
  const point = included.findIndex((step) => stepKind(step.uses)?.pointOfNoReturn === true);
  const calls = included.map((step) => callOf(input, step));
  const bodies = calls.map((call) => byHand(call) ?? { blocks: [], say: [`Step kind ${call.uses} has no text by hand. Inputs: ${JSON.stringify(call.inputs)}`], stop: [], broken: 'ask whoever added this step kind' });
  const out: string[] = [
    `# BREAK GLASS: ${plan.title}, ${plan.service ?? plan.runbook}, ${plan.mode}${roles.primary === null ? '' : `: ${roles.primary} -> ${roles.candidate ?? '?'}`}`,
    '',
    `For when Temporal is down and cannot be waited for. Needs psql, aws, a POSIX shell${usesHost(input) ? ' and the way to the hosts that the commands show' : ''}; nothing of Holdfast.`,
    `Made ${input.madeAt} from plan ${plan.hash.slice(0, 12)} of runbook ${plan.runbook} (environment ${plan.environment}). It holds no secret.`,
    '',
    '## Before anything',
    '',
    `1. **Is it still true?** It was made for ${roles.primary === null ? 'the nodes named in the steps' : `primary **${roles.primary}** and candidate **${roles.candidate ?? '?'}**`}. Step 1 asks; if it is otherwise, this is the wrong paper.`,
    '2. **Stop every Holdfast worker** (`systemctl stop holdfast`). A run under way would go on beside you the moment Temporal is back. Start them only when Temporal is back and `temporal workflow terminate` has ended that run (it needs no worker, and undoes nothing).',
    '3. One person types, one reads along. Write time and initials at every step, and keep what the commands print.',
    '4. Copy the file of results (`.results.template.json`) and fill it in, now or afterwards. When Temporal is back: `holdfast evidence import FILE`.',
    '',
    '| node | address | seen when this was made | data directory |',
    '| --- | --- | --- | --- |',
    ...nodeRows(input),
    '',
    ...(point < 0 ? [] : [`Before step ${point + 1} everything can be taken back: see "Going back" at the end. **STEP ${point + 1} IS THE POINT OF NO RETURN.** After it only forward.`, '']),
    'Do every block in order, in one terminal. After a block stands what its last line must be. Where it is something else: do not go on.',
    '',
    '## 0. Get ready',
    '',
    'Again in every new terminal. Values that later steps need are kept as files in that folder, readable by you only.',
    '',
    ...blockLines({ kind: 'do', text: 'A folder, an epoch, the passwords.', sh: prelude(input, name, calls), prints: ['ready'] }),
  ];
  included.forEach((step, index) => {
    const kind = stepKind(step.uses);
    const body = bodies[index]!;
    out.push(`## ${index + 1}. ${step.title}`, '');
    if (kind?.pointOfNoReturn === true) out.push('**POINT OF NO RETURN. AFTER THIS STEP NOTHING IS TAKEN BACK. READ IT TWICE.**', '');
    if (kind?.refusesWrites === true) out.push(`**WRITES ARE REFUSED FROM THIS STEP ON. READ UP TO THE PROMOTION BEFORE YOU BEGIN. AT MOST ${formatDuration(plan.readOnlyDeadlineMs)}.**`, '');
    out.push(`\`${step.id}\` (${step.uses})  Time ____________  Initials ______`, '');
    if (step.when !== undefined) out.push(`Only if all of this is so: ${step.when.map(({ value, ...rest }) => `\`${value}\` ${Object.entries(rest).map(([key, expected]) => `${key} ${JSON.stringify(expected)}`).join(', ')}`).join('; ')}.`, '');
    for (const text of body.say ?? []) out.push(text, '');
    for (const block of body.blocks) if (block.kind !== 'undo') out.push(...blockLines(block));
    for (const stop of body.stop) out.push(`- **Do not go on** when ${stop}.`);
    out.push(`- **If this breaks:** ${body.broken}.`, `- **Taking it back:** ${backText(body.blocks, index, point)}.`, '');
  });
  out.push('## Going back', '');
  const undone = point < 0 ? bodies : bodies.slice(0, point);
  const back = undone.map((body, index) => ({ step: included[index]!, number: index + 1, blocks: body.blocks.filter((block) => block.kind === 'undo') })).filter(({ blocks }) => blocks.length > 0).toReversed();
  if (point >= 0) out.push(`ONLY BEFORE STEP ${point + 1}. Never after the promotion was begun, also when its answer was lost.`, '');
  if (back.length === 0) out.push('There is nothing to take back.', '');
  for (const { step, number, blocks } of back) {
    out.push(`If step ${number} (\`${step.id}\`) was begun:`, '');
    for (const block of blocks) out.push(...blockLines(block));
  }
  out.push('## Afterwards', '', ...afterwards(input), '');
  const template: BreakGlassResults = {
    format: 1, service: plan.service, runbook: plan.runbook, kind: plan.kind, mode: plan.mode, environment: plan.environment, parameters: { ...plan.parameters }, planHash: plan.hash, madeAt: input.madeAt,
    primary: roles.primary, candidate: roles.candidate, by: '', reason: '', startedAt: '', finishedAt: '', lastGoodWriteAt: '', firstGoodWriteAt: '', lostTransactions: null,
    steps: included.map(({ id, uses }) => ({ id, uses, outcome: '', by: '', at: '', output: '' })),
  };
  return { name, markdown: `${out.join('\n').trimEnd()}\n`, template };
}

/** Inputs as by hand: what a health check would have found is given, other facts stand in files that the steps leave. */
function callOf({ plan, config, roles }: BreakGlassInput, step: PlannedStep): ByHandCall {
  const steps: Record<string, Record<string, Json>> = {};
  for (const { id, uses } of plan.steps) if (uses === 'postgres.health') steps[id] = { ...(roles.primary === null ? {} : { primary: roles.primary }), ...(roles.candidate === null ? {} : { candidate: roles.candidate }) };
  const scope = { service: plan.service, mode: plan.mode, parameters: plan.parameters, steps };
  const inputs: Record<string, unknown> = {};
  const kept: Record<string, string> = {};
  for (const [name, given] of Object.entries(step.with)) {
    const { value, missing } = fillReferences(given, scope);
    if (value !== undefined) inputs[name] = value;
    const [reference] = referencesIn(given);
    const [head, id, fact] = reference?.split('.') ?? [];
    const source = plan.steps.find((other) => other.id === id);
    if (missing.length > 0 && head === 'steps' && source?.included === true) kept[name] = `${id}.${fact}`;
  }
  if (inputs['datastore'] !== undefined) {
    if (step.uses === 'postgres.health' && roles.primary !== null) inputs['primary'] ??= roles.primary;
    if (step.uses === 'postgres.health' && roles.candidate !== null) inputs['candidate'] ??= roles.candidate;
    if (step.uses === 'postgres.rebuildStandby' && roles.primary !== null) inputs['primary'] ??= roles.primary;
  }
  return { step: step.id, uses: step.uses, mode: plan.mode, service: plan.service, inputs, kept, roles, approvals: plan.approval.count, readOnlyDeadlineMs: plan.readOnlyDeadlineMs, config };
}

function datastoresOf(calls: readonly ByHandCall[]): ByHandCall[] {
  const seen = new Set<unknown>();
  return calls.filter(({ inputs, config }) => {
    const name = inputs['datastore'];
    if (typeof name !== 'string' || !Object.hasOwn(config.datastores, name) || seen.has(name)) return false;
    seen.add(name);
    return true;
  });
}

function prelude({ config }: BreakGlassInput, name: string, calls: readonly ByHandCall[]): string {
  const lines = [
    `HF="\${HF:-$HOME/holdfast-${name}}"; umask 077; mkdir -p "$HF"; chmod 700 "$HF"`,
    '[ -s "$HF/epoch" ] || echo "$(date +%s)000" > "$HF/epoch"',
    'export PGCONNECT_TIMEOUT=5 PGPASSFILE="$HF/pgpass" AWS_PAGER=""',
  ];
  const credentials = config.aws.credentials;
  for (const [variable, reference] of Object.entries({ AWS_ACCESS_KEY_ID: credentials?.accessKeyId, AWS_SECRET_ACCESS_KEY: credentials?.secretAccessKey, AWS_SESSION_TOKEN: credentials?.sessionToken })) {
    if (reference !== undefined) lines.push(`${variable}="$(${fetchSecret({ config }, reference)})"; export ${variable}`);
  }
  lines.push(': > "$HF/pgpass"');
  for (const call of datastoresOf(calls)) {
    const datastore = postgresNamed(config.datastores, String(call.inputs['datastore']));
    if (datastore === undefined) continue;
    lines.push(`# the password of ${datastore.admin.username}: ${datastore.admin.password}`, `p="$(${fetchSecret({ config }, datastore.admin.password)})"; [ -n "$p" ] || echo "STOP: no password"`);
    for (const node of Object.values(datastore.nodes)) {
      lines.push(`printf '%s:%s\\n' ${sh(`${node.host}:${node.port}:*:${datastore.admin.username.replaceAll('\\', '\\\\').replaceAll(':', '\\:')}`)} "$(printf %s "$p" | sed -e 's/\\\\/\\\\\\\\/g' -e 's/:/\\\\:/g')" >> "$HF/pgpass"`);
    }
    lines.push('unset p');
  }
  lines.push('echo ready');
  return lines.join('\n');
}

function nodeRows({ plan, config, roles, seen }: BreakGlassInput): string[] {
  const names = new Set(plan.steps.flatMap((step) => [step.with['datastore']]).map((given) => fillReferences(given, { service: plan.service, mode: plan.mode, parameters: plan.parameters, steps: {} }).value).filter((name): name is string => typeof name === 'string'));
  return [...names].flatMap((name) => {
    const datastore = postgresNamed(config.datastores, name);
    return Object.entries(datastore?.nodes ?? {}).map(([id, node]) => `| ${id}${id === roles.primary ? ' (primary)' : id === roles.candidate ? ' (candidate)' : ''} | ${conninfo({ config, inputs: { datastore: name } }, id)} | ${seen[id] ?? 'not asked'} | ${node.dataDirectory ?? 'not configured'} |`);
  });
}

function usesHost({ config, plan }: BreakGlassInput): boolean {
  return plan.datastores.some((name) => Object.values(postgresNamed(config.datastores, name)?.nodes ?? {}).some((node) => node.dataDirectory !== undefined));
}

function blockLines(block: ByHandBlock): string[] {
  const after = block.prints !== undefined ? [`Prints ${block.prints.map((line) => `\`${line}\``).join(' or ')}`, ''] : block.like !== undefined ? [`Prints something like: ${block.like}`, ''] : [];
  return [block.text, '', `\`\`\`sh ${block.kind}`, block.sh, '```', '', ...after];
}

function backText(blocks: readonly ByHandBlock[], index: number, point: number): string {
  if (point >= 0 && index >= point) return 'not any more';
  return blocks.some((block) => block.kind === 'undo') ? 'see "Going back"' : 'nothing to take back';
}

function afterwards({ plan, roles }: BreakGlassInput): string[] {
  const lines = ['1. `rm -rf "$HF"` once the results are safe: it holds passwords.', '2. Fill in the results: for each step `done`, `skipped`, `failed` or `not begun`, by whom, when (with the zone: 2026-11-21T03:12:45+09:00), and what it printed. Leave empty what was not seen; write no figure that was not counted.', '3. When Temporal is back: `temporal workflow terminate` for what still runs of this service, then start the workers, then `holdfast evidence import FILE`.'];
  if (plan.kind !== 'runbook' && roles.primary !== null && plan.service !== null) lines.push(`4. ${roles.primary} stays fenced, and there is no redundancy on it, until: \`holdfast failover ${plan.service} --purpose failback --mode planned --reason "return to ${roles.primary}" --parameter node=${roles.primary}\``);
  return lines;
}
