/** The words that all of these checklists are made of. Pure: hosts, ports, folders and ids come from the configuration, secrets never do. */
import type { Config, NodeConfig, PostgresDatastore } from '../config-schema.ts';
import { HoldfastError } from '../errors.ts';
import { conninfoValue } from '../postgres-conninfo.ts';
import type { Mode } from '../runbook-schema.ts';

export interface ByHandCall {
  readonly step: string;
  readonly uses: string;
  readonly mode: Mode;
  readonly service: string | null;
  /** Inputs that are known, roles filled in. */
  readonly inputs: Readonly<Record<string, unknown>>;
  /** Inputs that come up on the way: the file below $HF in which an earlier step left them. */
  readonly kept: Readonly<Record<string, string>>;
  readonly roles: { readonly primary: string | null; readonly candidate: string | null };
  readonly approvals: number;
  readonly readOnlyDeadlineMs: number;
  readonly config: Pick<Config, 'datastores' | 'aws' | 'notify' | 'kubernetes' | 'kafka'>;
}

/** `check` comes before or after; `undo` and `else` are not part of the straight way. */
export interface ByHandBlock {
  readonly kind: 'check' | 'do' | 'undo' | 'else';
  readonly text: string;
  readonly sh: string;
  /** The last line it prints when all is well is one of these. */
  readonly prints?: readonly string[];
  /** What its last line looks like, where it cannot be foreseen. */
  readonly like?: string;
}

export interface ByHand {
  readonly blocks: readonly ByHandBlock[];
  /** Said where there is nothing to type. */
  readonly say?: readonly string[];
  /** When not to go on. */
  readonly stop: readonly string[];
  readonly broken: string;
}

export type PatroniController = Extract<NonNullable<PostgresDatastore['controller']>, { type: 'patroni' }>;
export type Host = NodeConfig & { readonly dataDirectory: string };

/** A shell command that prints the secret behind a reference; the value is never in an argument. */
export function fetchSecret(call: Pick<ByHandCall, 'config'>, reference: string): string {
  const colon = reference.indexOf(':');
  const rest = reference.slice(colon + 1);
  if (reference.startsWith('env:')) return `printf '%s\\n' "\${${rest}:?set ${rest} first}"`;
  if (reference.startsWith('file:')) return `cat ${sh(rest)}`;
  const hash = rest.lastIndexOf('#');
  const get = `${aws(call)} secretsmanager get-secret-value --secret-id ${sh(hash < 0 ? rest : rest.slice(0, hash))} --version-stage AWSCURRENT --query SecretString --output text`;
  return hash < 0 ? get : `${get} | ${jsonField('', rest.slice(hash + 1))}`;
}

/** One text field of a flat JSON object; nothing when it holds an escape, which sed cannot read. */
export function jsonField(file: string, field: string): string {
  return `sed -n 's/.*"${field}" *: *"\\([^"\\\\]*\\)".*/\\1/p'${file === '' ? '' : ` ${file}`}`;
}

export function portField(file: string): string {
  return `sed -n 's/.*"port" *: *"\\{0,1\\}\\([0-9]*\\).*/\\1/p' ${file}`;
}

export function showAddress(file: string): string {
  return `echo "$(${jsonField(file, 'host')}):$(${portField(file)})"`;
}

export function run(kind: ByHandBlock['kind'], text: string, command: string, prints?: readonly string[], like?: string): ByHandBlock {
  return { kind, text, sh: command, ...(prints === undefined ? {} : { prints }), ...(like === undefined ? {} : { like }) };
}

/** Repeats a command until its last line is `want`, at most 50 times by default, and prints that line. */
export function waitFor(commandText: string, want: string, times = 50): string {
  return `i=0; while [ $i -lt ${times} ]; do x="$(${commandText})"; [ "$x" = ${sh(want)} ] && break; i=$((i+1)); sleep 0.2; done; echo "$x"`;
}

export function psql(call: ByHandCall, node: string, statement: string): string {
  return `psql -X -qAt ${dq(conninfo(call, node))} -c ${dq(statement)}`;
}

/** Several statements by a quoted here-document, so that the shell touches nothing in them. */
export function sqlFile(call: ByHandCall, node: string, variables: Readonly<Record<string, string>>, statements: string, to?: string): string {
  const given = Object.entries(variables).map(([name, shell]) => ` -v ${name}=${shell}`).join('');
  return `psql -X -qAt -v ON_ERROR_STOP=1${given} ${dq(conninfo(call, node))}${to === undefined ? '' : ` > ${to}`} <<'SQL'\n${statements}\nSQL`;
}

export function conninfo(call: Pick<ByHandCall, 'config' | 'inputs'>, node: string): string {
  const datastore = databaseOf(call);
  const { host, port } = nodeOf(call, node);
  const root = datastore.admin.sslrootcert === undefined ? '' : ` sslrootcert=${conninfoValue(datastore.admin.sslrootcert)}`;
  return `host=${conninfoValue(host)} port=${port} user=${conninfoValue(datastore.admin.username)} dbname=${conninfoValue(datastore.database)} sslmode=${datastore.admin.sslmode}${root}`;
}

export function aws(call: Pick<ByHandCall, 'config'>, region = call.config.aws.region): string {
  const { endpoint } = call.config.aws;
  return `aws --region ${sh(region)}${endpoint === undefined ? '' : ` --endpoint-url ${sh(endpoint)}`}`;
}

export function databaseOf(call: Pick<ByHandCall, 'config' | 'inputs'>): PostgresDatastore {
  const name = textOf(call.inputs['datastore'], '');
  const found = Object.hasOwn(call.config.datastores, name) ? call.config.datastores[name] : undefined;
  if (found === undefined) throw new HoldfastError('unknown-datastore', `there is no datastore named "${name}"`, { next: 'give the parameter datastore' });
  if (found.engine !== 'postgres') throw new HoldfastError('wrong-engine', `datastore ${name} is of engine ${found.engine}`, { next: 'give the parameter datastore: one of engine postgres' });
  return found;
}

export function nodeName(call: ByHandCall, input: string): string {
  const name = call.inputs[input];
  const { nodes } = databaseOf(call);
  if (typeof name === 'string' && Object.hasOwn(nodes, name)) return name;
  throw new HoldfastError('node-unknown', `step ${call.step} (${call.uses}): which node is the ${input} is not known`, { next: `say it: --primary and --candidate, each one of ${Object.keys(nodes).join(', ')}` });
}

export function nodeOf(call: Pick<ByHandCall, 'config' | 'inputs'>, name: string): NodeConfig {
  return databaseOf(call).nodes[name]!;
}

export function addressOf(node: NodeConfig): { host: string; port: number } {
  return { host: node.applicationHost ?? node.host, port: node.applicationPort ?? node.port };
}

export function isHost(node: NodeConfig): node is Host {
  return node.dataDirectory !== undefined;
}

export function tool(node: NodeConfig, name: string): string {
  return node.binDirectory === undefined ? name : `${node.binDirectory}/${name}`;
}

/** A command on the node's host by its `exec` prefix. ssh hands its words to another shell, so they are quoted once more for that one. */
export function onNode(node: NodeConfig, argv: readonly string[]): string {
  const prefix = node.exec ?? [];
  const remote = /(^|\/)ssh$/.test(prefix[0] ?? '');
  return command([...prefix, ...argv.map((item) => (remote ? sh(item) : item))]);
}

/** The value of an input as a shell word: known, or kept in a file by an earlier step; null when neither. */
export function word(call: ByHandCall, input: string): string | null {
  const known = call.inputs[input];
  if (typeof known === 'string' || typeof known === 'number') return sh(String(known));
  const file = Object.hasOwn(call.kept, input) ? call.kept[input] : undefined;
  return file === undefined ? null : `"$(cat "$HF/${file}")"`;
}

export function command(argv: readonly string[]): string {
  return argv.map((item) => sh(item)).join(' ');
}

export function sh(text: string): string {
  return /^[\w%+,./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

export function dq(text: string): string {
  return `"${text.replaceAll(/[\\"$`]/g, String.raw`\$&`)}"`;
}

export function sed(text: string): string {
  return text.replaceAll(/[\\/&']/g, (found) => (found === "'" ? `'\\''` : `\\${found}`));
}

export function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

export function textOf(given: unknown, missing: string): string {
  return typeof given === 'string' && given !== '' ? given : missing;
}

export function texts(given: unknown): string[] {
  return Array.isArray(given) ? given.map(String) : [];
}

export function noEndpoint(call: ByHandCall): ByHand {
  return { blocks: [], say: [`Datastore ${textOf(call.inputs['datastore'], '')} has no endpoint.secret: tell the application its database address in your own way.`], stop: [], broken: 'nothing can break here' };
}

/** In the Region whose secret is meant. */
export function secretAws(call: Pick<ByHandCall, 'config' | 'inputs'>, datastore: PostgresDatastore): string {
  return aws(call, textOf(call.inputs['region'], datastore.endpoint?.secretRegion ?? call.config.aws.region));
}

export function secretPoints(call: ByHandCall, datastore: PostgresDatastore, name: string, what: string): ByHandBlock[] {
  if (datastore.endpoint === undefined) return [];
  const { host, port } = addressOf(datastore.nodes[name]!);
  return [run('check', what, [`${secretAws(call, datastore)} secretsmanager get-secret-value --secret-id ${sh(datastore.endpoint.secret)} --version-stage AWSCURRENT --query SecretString --output text > "$HF/look.json"`, `${showAddress('"$HF/look.json"')}; rm -f "$HF/look.json"`].join('\n'), [`${host}:${port}`])];
}
