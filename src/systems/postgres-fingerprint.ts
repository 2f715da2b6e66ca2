import { createHash } from 'node:crypto';
import type pg from 'pg';
import { HoldfastError } from '../model/errors.ts';
import type { PostgresFingerprint, TableFingerprint } from '../model/manifest-postgres.ts';
import { runChild } from './child.ts';
import { libpqEnvironment, postgresTool, quoteIdentifier, type PostgresTarget } from './postgres.ts';
import { selectionArguments, selectRelations, type SelectedRelations, type SelectedTable, type Selection } from './postgres-selection.ts';

export const FINGERPRINT_METHOD = 'hashtextextended-sum/1';
export const EVERYTHING: Selection = { include: { schemas: [], tables: [] }, exclude: { schemas: [], tables: [], tableData: [] } };

/** Everything that changes how a value is printed, so that source and target print alike. */
const SESSION_SETTINGS: Readonly<Record<string, string>> = {
  search_path: '',
  datestyle: 'ISO, YMD',
  timezone: 'UTC',
  intervalstyle: 'postgres',
  extra_float_digits: '3',
  bytea_output: 'hex',
  xmlbinary: 'base64',
  lc_monetary: 'C',
  lc_numeric: 'C',
  // With policies in force rows would be missed in silence; off makes the server refuse instead.
  row_security: 'off',
  statement_timeout: '0',
  idle_in_transaction_session_timeout: '0',
  lock_timeout: '60s',
  // Rows are read once, from the first to the last; joining another scan midway gains nothing.
  synchronize_seqscans: 'off',
};

/** Prepare a session for reading fingerprints. Session-wide: give the client to nobody else afterwards. */
export async function prepareFingerprintSession(client: pg.Client): Promise<void> {
  await client.query('SELECT pg_catalog.set_config(key, value, false) FROM pg_catalog.jsonb_each_text($1)', [JSON.stringify(SESSION_SETTINGS)]);
}

/** Begin a read-only transaction that sees exactly the exported snapshot. */
export async function joinSnapshot(client: pg.Client, snapshotId: string): Promise<void> {
  if (!/^[0-9A-Fa-f-]+$/.test(snapshotId)) throw new HoldfastError('snapshot-id', `"${snapshotId}" is no snapshot id`);
  await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
  await client.query(`SET TRANSACTION SNAPSHOT '${snapshotId}'`);
}

export interface FingerprintOptions {
  /** What the dump holds; a restored target is compared whole, without it. */
  readonly selection?: Selection;
  readonly standby?: boolean;
  /** Relations already chosen, so that they are not looked up twice. */
  readonly relations?: SelectedRelations;
  readonly onProgress?: (done: { tables: number; ofTables: number; table: string }) => void;
  readonly signal?: AbortSignal;
}

export interface FingerprintParts {
  readonly method: typeof FINGERPRINT_METHOD;
  readonly tables: PostgresFingerprint['tables'];
  readonly largeObjects: NonNullable<PostgresFingerprint['largeObjects']>;
  readonly extensions: PostgresFingerprint['extensions'];
  readonly roles: PostgresFingerprint['roles'];
}

/**
 * Tables, large objects, extensions and roles as one snapshot sees them. Every client must be in a transaction of that
 * same snapshot (or, on a target nobody writes to, in any transaction). Tables are shared out among the clients, large ones first.
 * Aborting ends the work after the statement under way; close the clients to end that too.
 */
export async function fingerprintDatabase(clients: readonly pg.Client[], options: FingerprintOptions = {}): Promise<FingerprintParts> {
  const [first] = clients;
  if (first === undefined) throw new HoldfastError('fingerprint-clients', 'a fingerprint needs at least one connection');
  for (const client of clients) await prepareFingerprintSession(client);
  const relations = options.relations ?? (await selectRelations(first, options.selection ?? EVERYTHING, options.standby));
  const waiting = [...relations.tables].sort((a, b) => b.bytes - a.bytes);
  const tables: TableFingerprint[] = [];
  const extensions = await readExtensions(first);
  const roles = await readRoles(first);
  let largeObjects: FingerprintParts['largeObjects'] | undefined;

  async function work(client: pg.Client, withLargeObjects: boolean): Promise<void> {
    if (withLargeObjects) largeObjects = await fingerprintLargeObjects(client, options.signal);
    for (let table = waiting.shift(); table !== undefined; table = waiting.shift()) {
      options.signal?.throwIfAborted();
      tables.push(await fingerprintTable(client, table));
      options.onProgress?.({ tables: tables.length, ofTables: relations.tables.length, table: `${table.schema}.${table.name}` });
    }
  }
  const results = await Promise.allSettled(clients.map((client, index) => work(client, index === clients.length - 1).catch((error: unknown) => {
    waiting.length = 0; // The others need not go on.
    throw error;
  })));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  tables.sort((a, b) => compareText(a.schema, b.schema) || compareText(a.name, b.name));
  return { method: FINGERPRINT_METHOD, tables, largeObjects: largeObjects!, extensions, roles };
}

async function fingerprintTable(client: pg.Client, table: SelectedTable): Promise<TableFingerprint> {
  const identity = { schema: table.schema, name: table.name, kind: table.kind, ...(table.condition === undefined ? {} : { condition: table.condition }) };
  if (table.withoutRows) return { ...identity, rows: '0', sum1: '0', sum2: '0' };
  const name = `${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`;
  // ROW(x.*) and not x::text, which would be a column named x if there is one. The text is made once (OFFSET 0 keeps the
  // planner from making it twice) and hashed twice; collation C makes the hash one of bytes.
  const only = table.kind === 'table' ? 'ONLY ' : '';
  // A condition (`WHERE NOT standard_entry`) is the extension's own, and unqualified names in it are columns.
  const sql = `SELECT pg_catalog.count(*)::text AS rows, coalesce(pg_catalog.sum(pg_catalog.hashtextextended(h.t, 1)), 0)::text AS sum1,
      coalesce(pg_catalog.sum(pg_catalog.hashtextextended(h.t, 2)), 0)::text AS sum2
    FROM (SELECT ROW(holdfast_row.*)::text COLLATE "C" AS t FROM ${only}${name} AS holdfast_row ${table.condition ?? ''} OFFSET 0) AS h`;
  try {
    const answer = await client.query<{ rows: string; sum1: string; sum2: string }>(sql);
    return { ...identity, ...answer.rows[0]! };
  } catch (error) {
    throw readError(error, `table ${table.schema}.${table.name}`);
  }
}

/** Chunks of 256 KiB hashed on the server, never more than one in memory; owner and grants belong to it. */
async function fingerprintLargeObjects(client: pg.Client, signal: AbortSignal | undefined): Promise<FingerprintParts['largeObjects']> {
  let after = '0';
  let count = 0n;
  let bytes = 0n;
  let sum1 = 0n;
  let sum2 = 0n;
  for (;;) {
    signal?.throwIfAborted();
    let answer;
    try {
      answer = await client.query<{ last: string | null; count: string; bytes: string; sum1: string; sum2: string }>(
        `WITH RECURSIVE batch AS MATERIALIZED (
           SELECT m.oid, pg_catalog.pg_get_userbyid(m.lomowner) AS owner,
                  (SELECT pg_catalog.string_agg(a::text, ',' ORDER BY a::text COLLATE "C") FROM pg_catalog.unnest(m.lomacl) AS a) AS acl
             FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid > $1::oid ORDER BY m.oid LIMIT 200
         ), chunks AS (
           SELECT b.oid, 0::bigint AS n, d.len, d.digest FROM batch b, LATERAL ${chunkOf('b.oid', '0::bigint')} AS d
           UNION ALL
           SELECT c.oid, c.n + 1, d.len, d.digest FROM chunks c, LATERAL ${chunkOf('c.oid', '(c.n + 1)')} AS d WHERE c.len = 262144
         ), facts AS (
           SELECT oid::text || ':' || n || ':' || digest AS t, len FROM chunks WHERE len > 0
           UNION ALL
           SELECT oid::text || ':owner:' || owner || ':' || coalesce(acl, ''), 0 FROM batch
         )
         SELECT (SELECT pg_catalog.max(oid)::text FROM batch) AS last, (SELECT pg_catalog.count(*)::text FROM batch) AS count,
                coalesce(pg_catalog.sum(len), 0)::text AS bytes,
                coalesce(pg_catalog.sum(pg_catalog.hashtextextended(t COLLATE "C", 1)), 0)::text AS sum1,
                coalesce(pg_catalog.sum(pg_catalog.hashtextextended(t COLLATE "C", 2)), 0)::text AS sum2 FROM facts`,
        [after],
      );
    } catch (error) {
      throw readError(error, 'large objects');
    }
    const row = answer.rows[0]!;
    if (row.last === null) return { count: String(count), bytes: String(bytes), sum1: String(sum1), sum2: String(sum2) };
    after = row.last;
    count += BigInt(row.count);
    bytes += BigInt(row.bytes);
    sum1 += BigInt(row.sum1);
    sum2 += BigInt(row.sum2);
  }
}

function chunkOf(oid: string, number: string): string {
  return `(SELECT pg_catalog.length(x) AS len, pg_catalog.encode(pg_catalog.sha256(x), 'hex') AS digest FROM (SELECT pg_catalog.lo_get(${oid}, ${number} * 262144, 262144) AS x OFFSET 0) AS y)`;
}

async function readExtensions(client: pg.Client): Promise<FingerprintParts['extensions']> {
  const answer = await client.query<{ name: string; version: string; schema: string }>(
    'SELECT e.extname AS name, e.extversion AS version, n.nspname AS schema FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY e.extname COLLATE "C"',
  );
  return answer.rows;
}

async function readRoles(client: pg.Client): Promise<FingerprintParts['roles']> {
  const answer = await client.query<{
    name: string; rolsuper: boolean; rolinherit: boolean; rolcreaterole: boolean; rolcreatedb: boolean; rolcanlogin: boolean; rolreplication: boolean;
    rolbypassrls: boolean; rolconnlimit: number; validuntil: string | null; memberof: string[]; settings: { setting: string; database: string | null }[];
  }>(`
    SELECT r.rolname AS name, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication, r.rolbypassrls, r.rolconnlimit,
           r.rolvaliduntil::text AS validuntil,
           ARRAY(SELECT g.rolname || CASE WHEN m.admin_option THEN ' with admin option' ELSE '' END FROM pg_catalog.pg_auth_members m
                   JOIN pg_catalog.pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1) AS memberof,
           (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object('setting', c) ORDER BY c COLLATE "C"), '[]')
              FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c
             WHERE s.setrole = r.oid AND s.setdatabase = 0) AS settings
      FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_' ORDER BY r.rolname COLLATE "C"`);
  return answer.rows.map((row) => {
    const flags: [boolean, string][] = [
      [row.rolsuper, 'superuser'], [row.rolinherit, 'inherit'], [row.rolcreaterole, 'createrole'], [row.rolcreatedb, 'createdb'],
      [row.rolcanlogin, 'login'], [row.rolreplication, 'replication'], [row.rolbypassrls, 'bypassrls'],
    ];
    return {
      name: row.name,
      attributes: [
        ...flags.filter(([on]) => on).map(([, name]) => name),
        ...(row.rolconnlimit === -1 ? [] : [`connection limit ${row.rolconnlimit}`]),
        ...(row.validuntil === null ? [] : [`valid until ${row.validuntil}`]),
      ],
      memberOf: [...new Set(row.memberof)],
      // Values may be secrets (app.jwt_secret is a habit): only a digest leaves the database.
      settings: row.settings.map(({ setting }) => {
        const equals = setting.indexOf('=');
        return `${setting.slice(0, equals)}=sha256:${sha256(setting.slice(equals + 1)).slice(0, 16)}`;
      }),
    };
  });
}

export interface SequenceValue {
  readonly schema: string;
  readonly name: string;
  readonly lastValue: string;
  readonly isCalled: boolean;
}

/** Sequences as they are now; no snapshot holds them. Those dropped meanwhile are left out. */
export async function readSequences(client: pg.Client, sequences: readonly { schema: string; name: string }[]): Promise<SequenceValue[]> {
  const values: SequenceValue[] = [];
  for (let at = 0; at < sequences.length; at += 200) {
    const batch = sequences.slice(at, at + 200);
    const sql = batch
      .map(({ schema, name }, index) => `SELECT ${index} AS i, last_value::text AS value, is_called AS called FROM ${quoteIdentifier(schema)}.${quoteIdentifier(name)}`)
      .join(' UNION ALL ');
    try {
      const answer = await client.query<{ i: number; value: string; called: boolean }>(sql);
      for (const row of answer.rows) values.push({ ...batch[row.i]!, lastValue: row.value, isCalled: row.called });
    } catch (error) {
      throw readError(error, 'sequences');
    }
  }
  return values;
}

export interface SchemaObjectsOptions {
  readonly binDirectory?: string;
  /** Exported snapshot, on the source. */
  readonly snapshotId?: string;
  readonly selection?: Selection;
  readonly signal?: AbortSignal;
  readonly applicationName?: string;
  /** Of the database; definitions are read as UTF-8 but from SQL_ASCII, which cannot be converted. */
  readonly encoding?: string;
}

export interface SchemaObjects {
  /** `TYPE schema name` -> hex SHA-256. The database itself stands as `DATABASE - <database>`. */
  readonly objects: Record<string, string>;
  readonly sha256: string;
}

/** Every object of the schema as pg_dump prints it, normalised, with a digest each, so that a difference has a name. */
export async function schemaObjects(target: PostgresTarget, options: SchemaObjectsOptions = {}): Promise<SchemaObjects> {
  const output = await runChild(
    [
      postgresTool(options, 'pg_dump'), '--schema-only', '--create', '--no-tablespaces', '--no-password', '--lock-wait-timeout=60s',
      ...(options.encoding === 'SQL_ASCII' ? ['--encoding=SQL_ASCII'] : []),
      ...(options.snapshotId === undefined ? [] : [`--snapshot=${options.snapshotId}`]),
      ...selectionArguments(options.selection ?? EVERYTHING),
    ],
    { env: libpqEnvironment(target, options.applicationName ?? 'holdfast schema'), signal: options.signal, maxBytes: 512 * 1024 * 1024 },
  );
  return splitSchema(output.stdout, target.database);
}

const OBJECT_HEADER = /^-- Name: (.*); Type: ([^;]*); Schema: (.*); Owner: (.*)$/;

/** Split the text of `pg_dump --schema-only --create` into objects. */
export function splitSchema(text: string, database: string): SchemaObjects {
  const objects: Record<string, string> = {};
  let key: string | undefined;
  let owner = '';
  let body: string[] = [];
  let accessMethod = 'heap';
  let bodyMethod = 'heap';
  const finish = (): void => {
    if (key === undefined) return;
    let unique = key;
    for (let copy = 2; unique in objects; copy += 1) unique = `${key} #${copy}`;
    // Built-in objects belong to whoever ran initdb, which no restore carries over.
    const ownedBy = key.startsWith('ACL pg_catalog ') ? '<bootstrap superuser>' : owner;
    objects[unique] = sha256(normaliseBody(key, body, bodyMethod, database) + `\n-- owner ${ownedBy}`);
    key = undefined;
  };
  for (const line of text.split('\n')) {
    const header = OBJECT_HEADER.exec(line);
    if (header !== null) {
      finish();
      const [, name, type, schema] = header as unknown as [string, string, string, string];
      key = type.startsWith('DATABASE') ? `${type} - <database>` : `${type} ${schema} ${name}`;
      if (schema === '-' && type !== 'DATABASE' && (name === `DATABASE ${database}` || name === `DATABASE ${quoteIdentifier(database)}`)) key = `${type} - DATABASE <database>`;
      owner = header[4]!;
      body = [];
      bodyMethod = accessMethod;
    } else if (key !== undefined) {
      const method = /^SET default_table_access_method = (.*);$/.exec(line);
      if (method !== null) bodyMethod = accessMethod = method[1]!;
      else body.push(line);
    }
  }
  finish();
  const sorted = Object.fromEntries(Object.entries(objects).sort(([a], [b]) => compareText(a, b)));
  return { objects: sorted, sha256: sha256(Object.entries(sorted).map(([name, digest]) => `${name}\0${digest}\n`).join('')) };
}

function normaliseBody(key: string, lines: readonly string[], accessMethod: string, database: string): string {
  let kept = lines.filter((line) => line !== '--' && line !== '' && !/^\\(un)?restrict /.test(line) && line !== '-- PostgreSQL database dump complete');
  if (key.endsWith('<database>')) {
    // After the database's own lines follow \connect and session settings, which are no part of it.
    const connect = kept.findIndex((line) => line.startsWith('\\connect'));
    if (connect >= 0) kept = kept.slice(0, connect);
    for (const name of [quoteIdentifier(database), database]) kept = kept.map((line) => line.replaceAll(new RegExp(`(?<=DATABASE )${escapeRegExp(name)}(?=[ ;])`, 'g'), '<database>'));
  }
  // Grants are a set: the order is that of their making, which a restore does not repeat.
  if (key.startsWith('ACL ') || key.startsWith('DEFAULT ACL ')) kept = [...kept].sort(compareText);
  if (/^(TABLE|MATERIALIZED VIEW) /.test(key) && accessMethod !== 'heap') kept = [...kept, `-- access method ${accessMethod}`];
  return settleArrayCasts(kept.join('\n'));
}

/**
 * PostgreSQL prints `x IN ('a','b')` on a varchar as `(ARRAY['a'::character varying, ..])::text[]`; once that text was read back it
 * prints `ARRAY[('a'::character varying)::text, ..]`. Both mean the same, so the first is written as the second.
 */
export function settleArrayCasts(text: string): string {
  let result = '';
  let rest = text;
  for (;;) {
    const start = rest.indexOf('(ARRAY[');
    if (start < 0) return result + rest;
    const elements: string[] = [];
    let depth = 0;
    let quoted = false;
    let element = '';
    let at = start + '(ARRAY['.length;
    for (; at < rest.length; at += 1) {
      const char = rest[at]!;
      if (char === "'") quoted = !quoted; // A doubled quote switches twice, which is right.
      if (!quoted && depth === 0 && (char === ',' || char === ']')) {
        elements.push(element.trim());
        element = '';
        if (char === ']') break;
        continue;
      }
      if (!quoted && '([{'.includes(char)) depth += 1;
      if (!quoted && ')]}'.includes(char)) depth -= 1;
      element += char;
    }
    const cast = /^\]\)::("?[a-z_][a-z0-9_ ."]*?)\[\]/i.exec(rest.slice(at));
    if (cast === null) {
      result += rest.slice(0, start + 1);
      rest = rest.slice(start + 1);
      continue;
    }
    result += `${rest.slice(0, start)}ARRAY[${elements.map((one) => `(${one})::${cast[1]}`).join(', ')}]`;
    rest = rest.slice(at + cast[0].length);
  }
}

function readError(error: unknown, what: string): unknown {
  const code = (error as { code?: string }).code;
  if (typeof code !== 'string') return error;
  const next: Record<string, string> = {
    '42501': 'give the backup user SELECT on it (pg_read_all_data), and BYPASSRLS where row-level security is forced',
    '55P03': 'another session holds a lock on it (DDL?); run the backup when that has ended',
    '40001': 'the standby cancelled the read in favour of replay: set hot_standby_feedback = on there, or back up from the primary',
  };
  return new HoldfastError('fingerprint-read', `${what} cannot be read: ${(error as Error).message} (SQLSTATE ${code})`, {
    next: next[code] ?? 'see the message of the server above',
    retryable: code !== '42501',
    context: { sqlstate: code },
    cause: error,
  });
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function escapeRegExp(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
