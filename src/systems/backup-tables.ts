import type pg from 'pg';
import { HoldfastError } from '../model/errors.ts';

/** One entry of an archive's table of contents, as `pg_restore --verbose --schema-only` prints it. */
export interface TocEntry {
  readonly id: number;
  readonly type: string;
  readonly schema: string;
  readonly name: string;
  readonly dependencies: readonly number[];
}

export interface TableName {
  readonly schema: string;
  readonly name: string;
}

export interface TableSelection {
  /** Lines of `pg_restore --list`, for --use-list. */
  readonly list: string;
  /** Everything that comes, partitions and parents included. */
  readonly tables: readonly TableName[];
  /** In which schemas all of it lies. */
  readonly schemas: readonly string[];
  /** What belongs to these tables and does not come, in words. */
  readonly left: readonly string[];
}

const RELATIONS = new Set(['TABLE', 'MATERIALIZED VIEW']);
/** Comes with its table. Triggers, foreign keys, policies and grants reach beyond the table and do not. */
const BELONGS = new Set(['DEFAULT', 'CONSTRAINT', 'CHECK CONSTRAINT', 'INDEX', 'SEQUENCE', 'SEQUENCE OWNED BY', 'STATISTICS', 'COMMENT']);
const REACHES_BEYOND = new Set(['TRIGGER', 'FK CONSTRAINT', 'POLICY', 'ROW SECURITY', 'ACL', 'RULE', 'PUBLICATION TABLE']);
/** Needed before the table can be made; taken from the archive unless the target has it. */
const PREREQUISITES = new Set(['TYPE', 'DOMAIN', 'FUNCTION', 'SEQUENCE', 'COLLATION', 'EXTENSION', 'AGGREGATE', 'OPERATOR', 'PROCEDURAL LANGUAGE']);

export function parseToc(text: string): TocEntry[] {
  const entries: TocEntry[] = [];
  const pattern = /^-- TOC entry (\d+) \(class \d+ OID \d+\)\n(?:-- Dependencies:([ \d]*)\n)?-- Name: (.*); Type: ([^;]*); Schema: (.*); Owner: .*$/gm;
  for (const [, id, dependencies, name, type, schema] of text.matchAll(pattern)) {
    entries.push({ id: Number(id), type: type!, schema: schema!, name: name!, dependencies: (dependencies ?? '').trim().split(' ').filter(Boolean).map(Number) });
  }
  return entries;
}

/**
 * What has to be restored for these tables: their partitions and parents, indexes, constraints, defaults, sequences, and the types
 * and functions they need.
 * @param has tells what the target has already.
 */
export async function selectTables(toc: readonly TocEntry[], list: string, tables: readonly TableName[], has: (entry: TocEntry) => Promise<boolean>): Promise<TableSelection> {
  const byId = new Map(toc.map((entry) => [entry.id, entry]));
  const chosen = new Set<number>();
  const skipped = new Set<number>();

  for (const table of tables) {
    const entry = toc.find(({ type, schema, name }) => RELATIONS.has(type) && schema === table.schema && name === table.name);
    if (entry === undefined) {
      const known = toc.filter(({ type }) => RELATIONS.has(type)).map(({ schema, name }) => `${schema}.${name}`);
      throw new HoldfastError('table-missing', `the backup has no table ${table.schema}.${table.name}`, { next: `it has: ${known.slice(0, 30).join(', ')}${known.length > 30 ? ', ...' : ''}` });
    }
    chosen.add(entry.id);
  }
  for (let before = -1; before !== chosen.size + skipped.size; ) {
    before = chosen.size + skipped.size;
    for (const entry of toc) {
      if (chosen.has(entry.id) || skipped.has(entry.id)) continue;
      const relations = entry.dependencies.filter((id) => RELATIONS.has(byId.get(id)?.type ?? ''));
      if (entry.type === 'TABLE ATTACH') {
        // The first of both is the parent: with it come all its partitions. A partition alone stays alone.
        const [parent] = relations.filter((id) => byId.get(id)!.name !== entry.name);
        if (parent !== undefined && chosen.has(parent)) for (const id of [entry.id, ...relations]) chosen.add(id);
      } else if (entry.type === 'INDEX ATTACH') {
        if (entry.dependencies.length > 0 && entry.dependencies.every((id) => chosen.has(id))) chosen.add(entry.id);
      } else if (BELONGS.has(entry.type) && relations.length > 0 && relations.every((id) => chosen.has(id))) chosen.add(entry.id);
    }
    for (const id of chosen) {
      for (const needed of byId.get(id)!.dependencies) {
        const entry = byId.get(needed);
        if (entry === undefined || chosen.has(needed) || skipped.has(needed)) continue;
        // Inherits from it, or is computed from it; a partition is a table like any other until it is attached.
        if (RELATIONS.has(entry.type) && RELATIONS.has(byId.get(id)!.type) && !isPartition(id, needed)) chosen.add(needed);
        else if (PREREQUISITES.has(entry.type)) (await has(entry) ? skipped : chosen).add(needed);
      }
    }
  }

  function isPartition(id: number, parent: number): boolean {
    return toc.some((entry) => entry.type === 'TABLE ATTACH' && entry.dependencies.includes(id) && entry.dependencies.includes(parent));
  }

  const entries = [...chosen].map((id) => byId.get(id)!);
  const rows = new Set<string>();
  for (const entry of entries) {
    if (RELATIONS.has(entry.type)) rows.add(`${entry.type === 'TABLE' ? 'TABLE DATA' : 'MATERIALIZED VIEW DATA'} ${entry.schema} ${entry.name} `);
    if (entry.type === 'SEQUENCE') rows.add(`SEQUENCE SET ${entry.schema} ${entry.name} `);
  }
  const kept = list.split('\n').filter((line) => {
    const match = /^(\d+); \d+ \d+ (.*)$/.exec(line);
    if (match === null) return false;
    return chosen.has(Number(match[1])) || [...rows].some((start) => match[2]!.startsWith(start));
  });
  const left = toc.filter((entry) => REACHES_BEYOND.has(entry.type) && (entry.type === 'ACL' ? entries.some(({ schema, name }) => entry.schema === schema && entry.name === `TABLE ${name}`) : entry.dependencies.some((id) => chosen.has(id) && RELATIONS.has(byId.get(id)!.type))));
  return {
    list: `${kept.join('\n')}\n`,
    tables: entries.filter(({ type }) => RELATIONS.has(type)).map(({ schema, name }) => ({ schema, name })),
    schemas: [...new Set(entries.map(({ schema }) => schema))].filter((schema) => schema !== '-'),
    left: left.map(({ type, schema, name }) => `${type} ${schema} ${name}`),
  };
}

/** Is this type, function, sequence or extension on the target? */
export async function targetHas(client: pg.Client, entry: TocEntry): Promise<boolean> {
  const bare = entry.name.replace(/\(.*$/s, '');
  const answer = await client.query<{ found: boolean }>(
    `SELECT CASE
       WHEN $1 IN ('TYPE', 'DOMAIN') THEN EXISTS (SELECT FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = $2 AND t.typname = $3)
       WHEN $1 IN ('FUNCTION', 'AGGREGATE') THEN EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $2 AND p.proname = $4)
       WHEN $1 = 'SEQUENCE' THEN EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3)
       WHEN $1 = 'COLLATION' THEN EXISTS (SELECT FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace WHERE n.nspname = $2 AND c.collname = $3)
       WHEN $1 = 'OPERATOR' THEN EXISTS (SELECT FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE n.nspname = $2 AND o.oprname = $3)
       WHEN $1 = 'EXTENSION' THEN EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = $3)
       ELSE EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanname = $3) END AS found`,
    [entry.type, entry.schema, entry.name, bare],
  );
  return answer.rows[0]!.found;
}
