import type pg from 'pg';
import type { PostgresDatastore } from '../model/config-schema.ts';
import { HoldfastError } from '../model/errors.ts';
import type { PostgresManifest } from '../model/manifest-postgres.ts';

export type Selection = Pick<PostgresDatastore['backup'], 'include' | 'exclude'>;

/** One relation whose rows are part of the proof. */
export interface SelectedTable {
  readonly oid: string;
  readonly schema: string;
  readonly name: string;
  readonly kind: 'table' | 'materialized-view';
  /** Its rows are not in the dump (excluded, or unlogged on a standby): a restore leaves it empty. */
  readonly withoutRows: boolean;
  /** An extension's configuration table: the WHERE clause of its dumped rows, may be empty. */
  readonly condition: string | undefined;
  readonly bytes: number;
}

export interface SelectedRelations {
  readonly tables: readonly SelectedTable[];
  readonly sequences: readonly { readonly schema: string; readonly name: string }[];
}

export function isComplete(selection: Selection): boolean {
  const { include, exclude } = selection;
  return include.schemas.length + include.tables.length + exclude.schemas.length + exclude.tables.length + exclude.tableData.length === 0;
}

/** What the manifest says of the selection. */
export function manifestSelection(selection: Selection): PostgresManifest['selection'] {
  const { include, exclude } = selection;
  return {
    complete: isComplete(selection),
    include: { schemas: [...include.schemas], tables: [...include.tables] },
    exclude: { schemas: [...exclude.schemas], tables: [...exclude.tables], tableData: [...exclude.tableData] },
  };
}

/**
 * pg_dump's own arguments for the selection. With any `include` pg_dump leaves out large objects and extensions,
 * without which the selected tables often cannot be restored: they are asked for again.
 */
export function selectionArguments(selection: Selection): string[] {
  const { include, exclude } = selection;
  const each = (flag: string, patterns: readonly string[]): string[] => patterns.flatMap((pattern) => [`${flag}=${pattern}`]);
  const included = include.schemas.length + include.tables.length > 0;
  return [
    ...each('--schema', include.schemas),
    ...each('--table', include.tables),
    ...each('--exclude-schema', exclude.schemas),
    ...each('--exclude-table', exclude.tables),
    ...each('--exclude-table-data', exclude.tableData),
    ...(included ? ['--strict-names', '--blobs', '--extension=*'] : []),
  ];
}

/** @throws HoldfastError for a selection that pg_dump would silently read otherwise than it is written. */
export function checkSelection({ include, exclude }: Selection): void {
  if (include.tables.length > 0 && (include.schemas.length > 0 || exclude.schemas.length > 0)) {
    throw new HoldfastError('selection-ambiguous', 'backup.include.tables cannot be combined with schemas: pg_dump ignores schemas when tables are given', {
      next: 'write whole schemas as table patterns, e.g. tables: ["public.*", audit.log]',
    });
  }
}

/**
 * The relations a dump with this selection holds, by pg_dump's rules, as the client's snapshot sees them.
 * @param standby rows of unlogged tables cannot be read during recovery, and pg_dump leaves them out there.
 * @throws HoldfastError `selection-empty` when a pattern matches nothing: a typing error must not become a smaller backup.
 */
export async function selectRelations(client: pg.Client, selection: Selection, standby = false): Promise<SelectedRelations> {
  checkSelection(selection);
  const { include, exclude } = selection;
  // Visibility of patterns without a schema is judged by the user's own search_path, as pg_dump does.
  await client.query('RESET search_path');
  const matched = {
    schemas: await matchSchemas(client, 'include.schemas', include.schemas),
    tables: await matchTables(client, 'include.tables', include.tables, ['r', 'v', 'm', 'S', 'f', 'p']),
    noSchemas: await matchSchemas(client, 'exclude.schemas', exclude.schemas),
    noTables: await matchTables(client, 'exclude.tables', exclude.tables, ['r', 'v', 'm', 'S', 'f', 'p']),
    noData: await matchTables(client, 'exclude.tableData', exclude.tableData, ['r', 'v', 'm', 'S', 'f', 'p']),
  };
  await client.query("SELECT pg_catalog.set_config('search_path', '', false)");

  const answer = await client.query<{
    oid: string; schema: string; name: string; relkind: string; persistence: string; populated: boolean; nspoid: string; bytes: string;
    extension: string | null; config: boolean; condition: string | null; owner_oid: string | null;
  }>(`
    SELECT c.oid::text AS oid, n.nspname AS schema, c.relname AS name, c.relkind, c.relpersistence AS persistence, c.relispopulated AS populated,
           n.oid::text AS nspoid, CASE WHEN c.relkind IN ('r','m') THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END::text AS bytes,
           e.extname AS extension, coalesce(c.oid = ANY (e.extconfig), false) AS config,
           e.extcondition[pg_catalog.array_position(e.extconfig, c.oid)] AS condition,
           (SELECT d.refobjid::text FROM pg_catalog.pg_depend d
             WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0
               AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a','i') LIMIT 1) AS owner_oid
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_depend x ON x.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND x.objid = c.oid AND x.objsubid = 0
           AND x.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND x.deptype = 'e'
      LEFT JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid
     WHERE c.relkind IN ('r','m','S','p') AND c.relpersistence <> 't'
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
     ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`);

  const chosen = new Set<string>();
  for (const row of answer.rows) {
    if (row.relkind === 'S' && row.owner_oid !== null) continue; // Follows its table, below.
    const member = row.extension !== null;
    let dumped: boolean;
    if (member) dumped = row.config;
    else if (include.tables.length > 0) dumped = matched.tables.has(row.oid);
    else dumped = include.schemas.length === 0 || matched.schemas.has(row.nspoid);
    if (dumped && !matched.noTables.has(row.oid) && !matched.noSchemas.has(row.nspoid)) chosen.add(row.oid);
  }
  const tables: SelectedTable[] = [];
  const sequences: { schema: string; name: string }[] = [];
  for (const row of answer.rows) {
    if (row.relkind === 'S') {
      const owned = row.owner_oid !== null;
      const withTable = owned && chosen.has(row.owner_oid!);
      const alone = owned && (include.tables.length > 0 ? matched.tables.has(row.oid) : chosenBySchema(row.nspoid)) && !matched.noTables.has(row.oid);
      if (row.extension !== null && !row.config) continue;
      if (matched.noData.has(row.oid)) continue;
      if (chosen.has(row.oid) || withTable || alone) sequences.push({ schema: row.schema, name: row.name });
    } else if (chosen.has(row.oid) && row.relkind !== 'p') {
      tables.push({
        oid: row.oid,
        schema: row.schema,
        name: row.name,
        kind: row.relkind === 'm' ? 'materialized-view' : 'table',
        withoutRows: matched.noData.has(row.oid) || (row.relkind === 'm' && !row.populated) || (standby && row.persistence === 'u'),
        condition: row.extension === null ? undefined : (row.condition ?? ''),
        bytes: Number(row.bytes),
      });
    }
  }
  return { tables, sequences };

  function chosenBySchema(nspoid: string): boolean {
    return (include.schemas.length === 0 || matched.schemas.has(nspoid)) && !matched.noSchemas.has(nspoid);
  }
}

async function matchSchemas(client: pg.Client, field: string, patterns: readonly string[]): Promise<Set<string>> {
  const found = new Set<string>();
  for (const pattern of patterns) {
    const parts = patternToRegexes(pattern);
    if (parts.length !== 1) throw badPattern(field, pattern, 'a schema pattern has no dot outside quotes');
    const rows = await client.query<{ oid: string }>('SELECT oid::text AS oid FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.~) $1 COLLATE pg_catalog.default', [parts[0]]);
    if (rows.rows.length === 0) throw nothingMatches(field, pattern);
    for (const row of rows.rows) found.add(row.oid);
  }
  return found;
}

async function matchTables(client: pg.Client, field: string, patterns: readonly string[], kinds: readonly string[]): Promise<Set<string>> {
  const found = new Set<string>();
  for (const pattern of patterns) {
    const parts = patternToRegexes(pattern);
    if (parts.length > 2) throw badPattern(field, pattern, 'at most schema.table is allowed');
    const [schema, name] = parts.length === 2 ? [parts[0]!, parts[1]!] : [null, parts[0]!];
    const rows = await client.query<{ oid: string }>(
      `SELECT c.oid::text AS oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind::text = ANY ($1) AND c.relname OPERATOR(pg_catalog.~) $2 COLLATE pg_catalog.default
          AND CASE WHEN $3::text IS NULL THEN pg_catalog.pg_table_is_visible(c.oid) ELSE n.nspname OPERATOR(pg_catalog.~) $3 COLLATE pg_catalog.default END
          AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')`,
      [kinds, name, schema],
    );
    if (rows.rows.length === 0) throw nothingMatches(field, pattern);
    for (const row of rows.rows) found.add(row.oid);
  }
  return found;
}

/** psql's pattern language, as pg_dump reads it: anchored regular expressions of the dotted parts. */
export function patternToRegexes(pattern: string): string[] {
  const parts: string[] = [];
  let current = '';
  let quoted = false;
  for (let at = 0; at < pattern.length; at += 1) {
    const char = pattern[at]!;
    if (char === '"') {
      if (quoted && pattern[at + 1] === '"') {
        current += '"';
        at += 1;
      } else quoted = !quoted;
    } else if (!quoted && char === '*') current += '.*';
    else if (!quoted && char === '?') current += '.';
    else if (!quoted && char === '.') {
      parts.push(current);
      current = '';
    } else if (char === '$') current += '\\$'; // Always literal, it is no anchor here.
    else if (quoted && '|*+?()[]{}.^\\'.includes(char)) current += `\\${char}`;
    else if (!quoted && char === '[' && pattern[at + 1] === ']') current += '\\['; // Array types, psql's own exception.
    else current += quoted ? char : char.toLowerCase();
  }
  parts.push(current);
  return parts.map((part) => `^(${part})$`);
}

function nothingMatches(field: string, pattern: string): HoldfastError {
  return new HoldfastError('selection-empty', `backup.${field} names "${pattern}", which matches nothing in the database`, {
    next: 'correct or remove the pattern; quote mixed-case names, e.g. "Mixed"."Case", and give the schema unless it is in the search_path',
  });
}

function badPattern(field: string, pattern: string, why: string): HoldfastError {
  return new HoldfastError('selection-pattern', `backup.${field} has the pattern "${pattern}": ${why}`, { next: 'quote names that contain a dot' });
}
