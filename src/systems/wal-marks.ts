/**
 * Two rows on the primary, one committed before a moment and one after it, both by the server's own clock: what shows that a restore
 * stands exactly at that moment.
 */
import type { Client } from 'pg';
import { HoldfastError } from '../model/errors.ts';

export interface WalMarks {
  /** ISO 8601 with microseconds, UTC: between the two commits. */
  readonly moment: string;
  /** WAL file that holds the second commit. */
  readonly wal: string;
}

const KEEP_DAYS = 90;
const ISO = `'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'`;

export async function readMarks(client: Client, key: string): Promise<{ before: boolean; after: boolean; moment: string | null }> {
  const there = (await client.query(`select to_regclass('holdfast.wal_mark') is not null as there`)).rows[0] as { there: boolean };
  if (!there.there) return { before: false, after: false, moment: null };
  const { rows } = await client.query<{ side: string; moment: string | null }>(`select side, to_char(moment at time zone 'UTC', ${ISO}) as moment from holdfast.wal_mark where key = $1`, [key]);
  return { before: rows.some(({ side }) => side === 'before'), after: rows.some(({ side }) => side === 'after'), moment: rows.find(({ side }) => side === 'after')?.moment ?? null };
}

/**
 * Idempotent under `key`: a second call finds what the first has committed and goes on from there. A commit carries the time at which it
 * ended, so whatever committed before the clock was read is not later than it, and what begins after it is.
 */
export async function placeMarks(client: Client, key: string): Promise<WalMarks> {
  await client.query('create schema if not exists holdfast');
  await client.query(`create table if not exists holdfast.wal_mark (key text not null, side text not null check (side in ('before', 'after')), moment timestamptz, marked_at timestamptz not null default clock_timestamp(), primary key (key, side))`);
  if (!(await readMarks(client, key)).before) {
    await client.query(`delete from holdfast.wal_mark where marked_at < now() - make_interval(days => ${KEEP_DAYS})`);
    await client.query(`insert into holdfast.wal_mark (key, side) values ($1, 'before') on conflict do nothing`, [key]);
  }
  if (!(await readMarks(client, key)).after) {
    const { moment } = (await client.query(`select to_char(clock_timestamp() at time zone 'UTC', ${ISO}) as moment`)).rows[0] as { moment: string };
    await client.query('select pg_sleep(0.01)');
    const { rowCount } = await client.query(`insert into holdfast.wal_mark (key, side, moment) select $1, 'after', $2::timestamptz where clock_timestamp() > $2::timestamptz on conflict do nothing`, [key, moment]);
    if (rowCount === 0 && !(await readMarks(client, key)).after) throw new HoldfastError('wal-mark-clock', `the primary's clock went back behind ${moment}: no moment can be marked now`, { next: 'look at its time synchronisation', retryable: true });
  }
  const marks = await readMarks(client, key);
  // The file that holds the end of what was written: where nothing was written since the last switch, the one before the present file.
  const { wal } = (await client.query('select pg_walfile_name(pg_switch_wal()) as wal')).rows[0] as { wal: string };
  return { moment: marks.moment!, wal };
}

/** Archived, as the archiver itself says: in order, so a later file counts. Of another timeline: a failover came between. */
export async function archivedPast(client: Client, wal: string): Promise<{ done: boolean; last: string | null; failed: string | null }> {
  const row = (await client.query(`select last_archived_wal as last, case when last_failed_time > coalesce(last_archived_time, '-infinity') then last_failed_wal end as failed from pg_stat_archiver`)).rows[0] as { last: string | null; failed: string | null };
  const name = /^[0-9A-F]{24}/.exec(row.last ?? '')?.[0];
  return { done: name !== undefined && name.slice(0, 8) >= wal.slice(0, 8) && name.slice(8) >= wal.slice(8), ...row };
}
