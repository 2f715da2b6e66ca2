/** A moment to which a database is restored: written with its time zone, kept to the microsecond that PostgreSQL knows. */
export interface Moment {
  /** As `recovery_target_time` takes it. */
  readonly postgres: string;
  /** Rounded up to a millisecond, for comparisons only. */
  readonly ms: number;
}

const MOMENT = /^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(\.\d{1,6})?(Z|[+-]\d{2}(?::?\d{2})?)$/;

/** What is wrong with it is returned in words. A time without a zone is refused: it would be read in whatever zone a server has. */
export function parseMoment(text: string): Moment | { readonly problem: string } {
  const match = MOMENT.exec(text.trim());
  if (match === null) return { problem: `"${text}" is no moment with a time zone, such as 2026-11-21T09:30:00Z or 2026-11-21 18:30:00.250+09:00` };
  const [, day, time, fraction = '', zone] = match as unknown as [string, string, string, string | undefined, string];
  const offset = zone === 'Z' ? '+00:00' : zone.length === 3 ? `${zone}:00` : zone.includes(':') ? zone : `${zone.slice(0, 3)}:${zone.slice(3)}`;
  const [hours, minutes] = offset.slice(1).split(':').map(Number) as [number, number];
  const whole = Date.parse(`${day}T${time}${offset}`);
  // JavaScript takes 30 February for 2 March.
  if (Number.isNaN(whole) || hours > 15 || minutes > 59 || new Date(Date.parse(`${day}T00:00:00Z`)).toISOString().slice(0, 10) !== day) return { problem: `"${text}" is a moment that no calendar has` };
  return { postgres: `${day} ${time}${fraction}${offset}`, ms: whole + Math.ceil(Number(`0${fraction === '' ? '.0' : fraction}`) * 1000) };
}
