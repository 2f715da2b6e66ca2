/**
 * Marker rows: written, one after the other and each acknowledged, around a managed snapshot. Which of them a restored database has
 * shows which moment it is of. Nothing else can show that of a snapshot that somebody else takes.
 */
import type { Client } from 'pg';
import { MARKER_SCHEMA, MARKER_TABLE, type MarkerExpectation } from '../model/managed-snapshot.ts';
import { withPostgres, type PostgresTarget } from './postgres.ts';

const TABLE = `${MARKER_SCHEMA}.${MARKER_TABLE}`;
/** Long enough for every point in time that RDS can restore to (35 days) and the drill of it. */
const KEEP_DAYS = 60;
const UNDEFINED_TABLE = new Set(['42P01', '3F000']);
const TIMEOUTS = { applicationName: 'holdfast marker', connectTimeoutMs: 5000, queryTimeoutMs: 15_000 } as const;

/** `before`: when the snapshot had surely not begun; `during`: while it was taken, or perhaps was; `after`: when it was available. */
export type MarkerPhase = 'before' | 'during' | 'after';

export interface Marker {
  readonly id: string;
  readonly phase: MarkerPhase;
  /** By the database's clock. */
  readonly at: string;
}

/** Idempotent; old rows go. */
export async function ensureMarkerTable(target: PostgresTarget): Promise<void> {
  await withPostgres(target, async (client) => {
    await client.query('select pg_advisory_lock(7206543)');
    await client.query(`create schema if not exists ${MARKER_SCHEMA}`);
    await client.query(`create table if not exists ${TABLE} (subject text not null, seq bigint not null, phase text not null, at timestamptz not null default clock_timestamp(), primary key (subject, seq))`);
    await client.query(`delete from ${TABLE} where at < now() - interval '${KEEP_DAYS} days'`);
  }, TIMEOUTS);
}

/** Returns after the row is committed. */
export async function writeMarker(target: PostgresTarget, subject: string, phase: MarkerPhase): Promise<Marker> {
  return withPostgres(target, async (client) => {
    for (let attempt = 1; ; attempt += 1) {
      try {
        const row = (await client.query<{ seq: string; at: Date }>(`insert into ${TABLE} (subject, seq, phase) select $1, coalesce(max(seq), 0) + 1, $2 from ${TABLE} where subject = $1 returning seq, at`, [subject, phase])).rows[0]!;
        return { id: `${subject}/${row.seq}`, phase, at: row.at.toISOString() };
      } catch (error) {
        // Another attempt of the same backup, believed dead, took the number.
        if ((error as { code?: string }).code !== '23505' || attempt >= 5) throw error;
      }
    }
  }, TIMEOUTS);
}

/** Of one subject, in the order they were written. */
export async function readMarkers(target: PostgresTarget, subject: string): Promise<Marker[]> {
  return withPostgres(target, async (client) =>
    (await client.query<{ seq: string; phase: MarkerPhase; at: Date }>(`select seq, phase, at from ${TABLE} where subject = $1 order by seq`, [subject])).rows.map(({ seq, phase, at }) => ({ id: `${subject}/${seq}`, phase, at: at.toISOString() })), TIMEOUTS);
}

/** What a restore must, may and must not have of them. null: there is none before and one after, so they say nothing. */
export function expectationOf(markers: readonly Marker[]): MarkerExpectation | null {
  const of = (phase: MarkerPhase): string[] => markers.filter((marker) => marker.phase === phase).map(({ id }) => id);
  const found = { present: of('before'), between: of('during'), absent: of('after') };
  return found.present.length === 0 || found.absent.length === 0 ? null : found;
}

/** Ids of all markers a restored database has; none when it has no such table. */
export async function presentMarkers(target: PostgresTarget, wanted: readonly string[]): Promise<Set<string>> {
  return withPostgres(target, async (client) => {
    const rows = await tolerant(client, `select subject || '/' || seq as id from ${TABLE} where subject || '/' || seq = any ($1)`, [wanted]);
    return new Set(rows.map((row) => row['id'] as string));
  }, TIMEOUTS);
}

/**
 * The markers on both sides of a moment, as the source has them. A row's time is a little before its commit, and it is the commit that
 * decides: what lies within `marginMs` before the moment is asked for by nobody.
 */
export async function markersAround(target: PostgresTarget, at: string, marginMs: number): Promise<{ before: Marker | null; after: Marker | null }> {
  return withPostgres(target, async (client) => {
    const one = async (condition: string, order: string): Promise<Marker | null> => {
      const row = (await tolerant(client, `select subject || '/' || seq as id, phase, at from ${TABLE} where ${condition} order by at ${order} limit 1`, [at, marginMs]))[0];
      return row === undefined ? null : { id: row['id'] as string, phase: row['phase'] as MarkerPhase, at: (row['at'] as Date).toISOString() };
    };
    return { before: await one(`at <= $1::timestamptz - $2 * interval '1 millisecond'`, 'desc'), after: await one('at > $1::timestamptz and $2::float8 >= 0', 'asc') };
  }, TIMEOUTS);
}

async function tolerant(client: Client, sql: string, values: unknown[]): Promise<Record<string, unknown>[]> {
  try {
    return (await client.query(sql, values)).rows as Record<string, unknown>[];
  } catch (error) {
    if (UNDEFINED_TABLE.has((error as { code?: string }).code ?? '')) return [];
    throw error;
  }
}
