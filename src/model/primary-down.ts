import type { CheckResult } from './api.ts';
import { formatDuration } from './units.ts';

/** A primary sends at least a keepalive each half of wal_sender_timeout (60 s); longer silence is a dead stream. */
export const SILENT_STREAM_MS = 35_000;

/** What the worker's own connections saw. All its attempts together are one observation: the fault may be the worker's. */
export type WorkerSaw =
  | { readonly how: 'writable' }
  /** It carries the fence of this execution, whole and loaded: nobody else could have put it there. */
  | { readonly how: 'our-fence' }
  | { readonly how: 'recovery' }
  /** It answered with an error of its own (too many connections, a wrong password): it lives, and others may get in. */
  | { readonly how: 'refuses'; readonly detail: string }
  /** It starts, stops or recovers from a crash: it takes nothing now, and comes back with everything it acknowledged. */
  | { readonly how: 'not-ready'; readonly detail: string }
  | { readonly how: 'silent'; readonly attempts: number; readonly detail: string };

/** What a standby says of the primary. */
export interface StandbySaw {
  readonly node: string;
  /** It answers and is in recovery; otherwise it is no witness. */
  readonly asked: boolean;
  /** A node of ours other than the primary that it streams from, or is pointed to: then it says nothing of the primary. */
  readonly follows: string | null;
  /** Status of its WAL receiver, null when it has none. */
  readonly receiver: string | null;
  readonly silentMs: number | null;
  /** pg_isready, run on the standby's host against the address it streams from; null when it could not be run. */
  readonly probe: 'accepts' | 'rejects' | 'silent' | null;
}

/** What the primary's own host says. `none`: it cannot be asked. */
export type HostSaw = { readonly state: 'none' | 'unknown' | 'stopped' | 'accepts' | 'rejects' | 'silent' | 'recovery' | 'other-cluster'; readonly detail?: string };

export interface PrimarySeen {
  readonly primary: string;
  readonly worker: WorkerSaw;
  readonly standbys: readonly StandbySaw[];
  readonly host: HostSaw;
}

/** A fact that the primary takes no writes. Facts from one place are one fact, however many there are. */
export interface DownFact {
  readonly place: string;
  readonly says: string;
}

export interface DownVerdict {
  readonly facts: readonly DownFact[];
  /** Signs of life. One is enough: a forced failover of a primary that takes writes is refused whatever anybody overrides. */
  readonly alive: readonly string[];
  /** What was looked at and says neither. */
  readonly unclear: readonly string[];
  /** Why no second fact is needed. */
  readonly certain: string | null;
}

/** What the observations amount to. At most one fact a place: the worker, each standby with its host, the primary's host. */
export function judgePrimary(seen: PrimarySeen): DownVerdict {
  const { primary, worker, host } = seen;
  const facts: DownFact[] = [];
  const alive: string[] = [];
  const unclear: string[] = [];

  switch (worker.how) {
    case 'our-fence':
      return { facts: [{ place: 'worker', says: `${primary} refuses everybody: it carries the fence of this execution` }], alive: [], unclear: [], certain: 'the fence of this execution is in force on it' };
    case 'writable':
      alive.push(`${primary} answers to the worker and takes writes`);
      break;
    case 'refuses':
      alive.push(`${primary} answers to the worker (${worker.detail})`);
      break;
    case 'not-ready':
      unclear.push(`${primary} takes no connections now, and may soon (${worker.detail})`);
      break;
    case 'recovery':
      facts.push({ place: 'worker', says: `${primary} says itself that it is in recovery` });
      break;
    case 'silent':
      facts.push({ place: 'worker', says: `no connection to ${primary} from the worker in ${worker.attempts} attempts (${worker.detail})` });
      break;
    default:
      return worker satisfies never;
  }
  // That it answers is known then; what counts is that it takes no writes.
  const recovering = worker.how === 'recovery';

  for (const standby of seen.standbys) {
    const { node } = standby;
    const place = `standby ${node}`;
    if (!standby.asked) unclear.push(`${node} cannot be asked`);
    else if (standby.follows !== null) unclear.push(`${node} follows ${standby.follows}, not ${primary}`);
    else if (standby.receiver === 'streaming') {
      const silent = standby.silentMs ?? 0;
      if (silent < SILENT_STREAM_MS) alive.push(`${node} still streams from it (last message ${formatDuration(silent)} ago; after ${formatDuration(SILENT_STREAM_MS)} of silence it counts as lost)`);
      else facts.push({ place, says: `${node} has heard nothing in its WAL stream for ${formatDuration(silent)}` });
    } else if (standby.receiver !== null) unclear.push(`the WAL stream of ${node} is ${standby.receiver}`);
    else if (standby.probe === 'accepts') (recovering ? unclear : alive).push(`${node} has no WAL stream, and from its host ${primary} takes connections`);
    else if (standby.probe === 'rejects') unclear.push(`${node} has lost its WAL stream; from its host ${primary} answers that it takes no connections yet`);
    else facts.push({ place, says: `${node} has lost its WAL stream${standby.probe === 'silent' ? ' and its host gets no answer either' : ''}` });
  }

  switch (host.state) {
    case 'stopped':
      facts.push({ place: 'host', says: 'its host says that no server runs in the data directory' });
      break;
    case 'silent':
      // Asked on its own host, not concluded from the worker's silence. The fence stops it for sure before anything is promoted.
      facts.push({ place: 'host', says: 'its host says that the server runs, and gets no answer from it either: it hangs' });
      break;
    case 'recovery':
      facts.push({ place: 'host', says: 'its host says that it runs in recovery' });
      break;
    case 'accepts':
      (recovering ? unclear : alive).push('its host says that it takes connections');
      break;
    case 'rejects':
      unclear.push('its host says that it runs and takes no connections yet');
      break;
    case 'other-cluster':
      unclear.push(`the data directory on its host does not count: ${host.detail ?? 'it holds another cluster'}`);
      break;
    case 'unknown':
      unclear.push(`its host cannot be asked${host.detail === undefined ? '' : ` (${host.detail})`}`);
      break;
    case 'none':
      break;
    default:
      host.state satisfies never;
  }
  return { facts, alive, unclear, certain: null };
}

/**
 * The checks of a forced failover. Only that there are two facts is a matter of policy: with one, a person may say that it is
 * enough and how much may be lost. A sign of life is none: a primary that takes writes can be failed over as planned without
 * losing anything, and whoever wants it gone can stop it first. With no fact at all there is nothing to decide on.
 */
export function downChecks(verdict: DownVerdict): CheckResult[] {
  const found = verdict.facts.map((fact) => fact.says).join('; ') || 'none';
  const unclear = verdict.unclear.length === 0 ? '' : `; unclear: ${verdict.unclear.join('; ')}`;
  const checks: CheckResult[] = verdict.alive.map((sign) => ({ name: 'primary is down', ok: false, expected: 'no sign of life', found: sign, next: 'use a planned failover; if it must go, stop it on its host first' }));
  if (verdict.facts.length === 0) checks.push({ name: 'a sign that it is down', ok: false, expected: 'at least one fact', found: `none${unclear}`, next: 'look at the primary: nothing says that it is down' });
  const enough = verdict.certain !== null || new Set(verdict.facts.map((fact) => fact.place)).size >= 2;
  checks.push({
    name: 'two independent facts',
    ok: enough,
    expected: 'at least two facts, from different places, that the primary is down',
    found: enough ? found : `${found}${unclear}`,
    rule: 'two-facts',
    ...(enough ? {} : { next: 'wait, or look at the primary by another way' }),
  });
  return checks;
}

/** What a candidate knows of how far the primary got. */
export interface CandidateKnows {
  /** Since the last message in its WAL stream; null without a stream. */
  readonly silentMs: number | null;
  /** WAL that the primary has announced in the stream and the candidate has not received; null without a stream. */
  readonly announcedBytes: number | null;
  /** Since the last transaction that it replayed; null when it has replayed none since its start. */
  readonly replayAgeMs: number | null;
}

/**
 * What a promotion may lose, never less than the truth: whatever was acknowledged in the last `mayLoseMs` may be missing. An idle
 * service loses less, which nobody can know here. null: unknown, which is not zero.
 */
export function lossBound(knows: CandidateKnows): { readonly mayLoseMs: number | null; readonly mayLoseBytes: number | null } {
  const caughtUp = knows.silentMs !== null && knows.announcedBytes !== null && knows.announcedBytes <= 0;
  const ms = caughtUp ? knows.silentMs : knows.replayAgeMs;
  return { mayLoseMs: ms === null ? null : Math.max(0, Math.ceil(ms)), mayLoseBytes: knows.announcedBytes === null ? null : Math.max(0, knows.announcedBytes) };
}
