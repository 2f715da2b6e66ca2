/**
 * How far a redrive has come. It goes to the server before and after each batch, so that whoever comes after a lost worker knows of
 * every message whether it was sent: bounded, whatever the queue's length.
 */
export interface RedriveReport {
  readonly beganAtMs: number;
  readonly lastSeenAtMs: number;
  /** Sent and deleted, counted one by one. */
  readonly moved: number;
  /** About to be sent: whether they were, only the worker that sent them knew. */
  readonly sending: readonly string[];
  /** Sent, and not yet deleted from the dead-letter queue. */
  readonly sent: readonly string[];
  /** Whether they were sent is not known, and cannot be asked. They stay where they are. */
  readonly doubtful: readonly string[];
  /** When they were about to be sent, epoch milliseconds. */
  readonly doubtSinceMs: number | null;
  /** What the queue did not take, and why. */
  readonly refused: readonly string[];
  /** Left on purpose: how many, by why. */
  readonly left: Readonly<Record<string, number>>;
  /** Workers lost on the way. */
  readonly takenOver: number;
}

const MOST_REFUSED = 20;
/** Within this a FIFO queue takes the same message once. */
const DEDUPLICATED_MS = 240_000;

export function beginRedrive(nowMs: number): RedriveReport {
  return { beganAtMs: nowMs, lastSeenAtMs: nowMs, moved: 0, sending: [], sent: [], doubtful: [], doubtSinceMs: null, refused: [], left: {}, takenOver: 0 };
}

/** What a lost worker left. What it was about to send is in doubt now. @returns null when it left nothing. */
export function takeOver(details: unknown): RedriveReport | null {
  if (details === null || typeof details !== 'object' || !Object.hasOwn(details, 'sending')) return null;
  const report = details as RedriveReport;
  return { ...report, sending: [], doubtful: [...report.doubtful, ...report.sending], doubtSinceMs: report.sending.length === 0 ? report.doubtSinceMs : (report.doubtSinceMs ?? report.lastSeenAtMs), left: {}, takenOver: report.takenOver + 1 };
}

export function addToReport(report: RedriveReport, change: { readonly sending?: readonly string[]; readonly sent?: readonly string[]; readonly deleted?: readonly string[]; readonly doubtful?: readonly string[]; readonly refused?: readonly string[]; readonly left?: string; readonly atMs?: number }): RedriveReport {
  const gone = new Set(change.deleted ?? []);
  const sent = [...report.sent, ...(change.sent ?? [])];
  const known = new Set(change.sent ?? []);
  return {
    ...report,
    lastSeenAtMs: change.atMs ?? report.lastSeenAtMs,
    moved: report.moved + sent.filter((id) => gone.has(id)).length,
    sending: change.sending ?? report.sending,
    sent: sent.filter((id) => !gone.has(id)),
    doubtful: [...report.doubtful.filter((id) => !known.has(id)), ...(change.doubtful ?? [])],
    refused: [...report.refused, ...(change.refused ?? [])].slice(0, MOST_REFUSED),
    left: change.left === undefined ? report.left : { ...report.left, [change.left]: (report.left[change.left] ?? 0) + 1 },
  };
}

export interface DeadLetter {
  readonly id: string;
  readonly sentAtMs: number;
  /** The queue it came from, where SQS says so. */
  readonly source: string | null;
  readonly target: string;
  readonly fifo: boolean;
  readonly nowMs: number;
}

/** Why a message stays in the dead-letter queue; null: it is moved. */
export function leftBehind(report: RedriveReport, message: DeadLetter): string | null {
  if (message.source !== null && message.source !== message.target) return 'of another queue';
  // What was moved and failed again comes back as a message sent after the beginning: moving it on would never end.
  if (message.sentAtMs > report.beganAtMs) return 'sent since this began';
  if (report.doubtful.includes(message.id) && !(message.fifo && message.nowMs - (report.doubtSinceMs ?? report.beganAtMs) < DEDUPLICATED_MS)) return 'in doubt';
  return null;
}
