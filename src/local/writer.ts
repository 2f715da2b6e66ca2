import { readFileSync, statSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { HoldfastError } from '../model/errors.ts';
import type { AwsServer } from './moto.ts';
import type { LocalProcess, Processes } from './processes.ts';
import type { WriterSettings } from './writer-process.ts';

/** One write that the database acknowledged to the application. */
export interface AcknowledgedWrite {
  readonly connection: number;
  readonly sequence: number;
  /** When the answer arrived, ms since the epoch. */
  readonly atMs: number;
}

export interface RefusedWrite {
  readonly connection: number;
  readonly atMs: number;
  /** SQLSTATE, system error code, or the message. */
  readonly code: string;
}

/** The longest time within an interval in which nothing was acknowledged. */
export interface WriteGap {
  readonly lengthMs: number;
  readonly lastBefore: AcknowledgedWrite | undefined;
  readonly firstAfter: AcknowledgedWrite | undefined;
  /** Refusals the application saw within it, by code. */
  readonly refusals: Readonly<Record<string, number>>;
}

export interface LostWrites {
  readonly acknowledged: number;
  readonly lost: readonly AcknowledgedWrite[];
  /** Written, but its answer never arrived: no loss. */
  readonly unacknowledged: number;
}

export interface Writer {
  readonly run: string;
  readonly process: LocalProcess;
  acknowledged(): AcknowledgedWrite[];
  refused(): RefusedWrite[];
  /** Resolves when another write was acknowledged after this call, or after `afterMs` (ms since the epoch). */
  waitForWrite(afterMs?: number): Promise<AcknowledgedWrite>;
  /** The longest gap that ends after `fromMs` and begins before `toMs`. */
  gap(fromMs: number, toMs: number): WriteGap;
  /** Acknowledged writes that the database there does not have. Exact when the writer was stopped before. */
  lost(connectionString: string, beforeMs?: number): Promise<LostWrites>;
  stop(): Promise<void>;
}

export interface WriterOptions {
  readonly processes: Processes;
  readonly directory: string;
  /** Secrets Manager id of the application's connection secret. */
  readonly secretId: string;
  readonly aws: AwsServer;
  readonly run: string;
  /** Default 2. */
  readonly connections?: number;
  /** Writes a second over all connections; default 400; 0: as fast as the answers come. */
  readonly perSecond?: number;
}

const WRITER_PROCESS = fileURLToPath(new URL('./writer-process.ts', import.meta.url));
const WAIT_MS = 60_000;

/** Starts the application and waits for its first acknowledged write. */
export async function startWriter(options: WriterOptions): Promise<Writer> {
  const file = join(options.directory, `${options.run}.acknowledged`);
  writeFileSync(file, '');
  const settings: WriterSettings = {
    secretId: options.secretId,
    run: options.run,
    connections: options.connections ?? 2,
    perSecond: options.perSecond ?? 400,
    file,
    region: options.aws.region,
    endpoint: options.aws.endpoint,
  };
  const child = await options.processes.spawn({
    name: `writer-${options.run}`,
    cwd: options.directory,
    argv: [process.execPath, '--disable-warning=ExperimentalWarning', WRITER_PROCESS, JSON.stringify(settings)],
    env: { AWS_ACCESS_KEY_ID: options.aws.accessKeyId, AWS_SECRET_ACCESS_KEY: options.aws.secretAccessKey },
  });
  const writer = followWriter(options.run, file, child);
  await writer.waitForWrite(0);
  return writer;
}

function followWriter(run: string, file: string, child: LocalProcess): Writer {
  function lines(): string[][] {
    const text = readFileSync(file, 'utf8');
    // The last line may still be under way.
    return text.slice(0, text.lastIndexOf('\n') + 1).split('\n').slice(0, -1).map((line) => line.split(' '));
  }
  function acknowledged(): AcknowledgedWrite[] {
    return lines().filter(([kind]) => kind === 'a').map(([, connection, sequence, at]) => ({ connection: Number(connection), sequence: Number(sequence), atMs: Number(at) }));
  }
  function refused(): RefusedWrite[] {
    return lines().filter(([kind]) => kind === 'r').map(([, connection, at, code]) => ({ connection: Number(connection), atMs: Number(at), code: code ?? '' }));
  }
  return {
    run,
    process: child,
    acknowledged,
    refused,
    waitForWrite(afterMs = Date.now()) {
      return new Promise((resolve, reject) => {
        let seenBytes = -1;
        const check = (): void => {
          const { size } = statSync(file);
          if (size === seenBytes) return;
          seenBytes = size;
          const found = acknowledged().find(({ atMs }) => atMs > afterMs);
          if (found !== undefined) finish(() => resolve(found));
        };
        const watcher = watch(file, check);
        const timer = setTimeout(
          () => finish(() => reject(new HoldfastError('writer-stalled', `no write was acknowledged within ${WAIT_MS / 1000} s; refused: ${JSON.stringify(countCodes(refused()))}; ${child.logTail()}`))),
          WAIT_MS,
        );
        function finish(settle: () => void): void {
          watcher.close();
          clearTimeout(timer);
          settle();
        }
        child.exited.then(
          () => finish(() => reject(new HoldfastError('writer-ended', `the writer ended: ${child.logTail()}`))),
          () => {},
        );
        check();
      });
    },
    gap(fromMs, toMs) {
      const writes = acknowledged().sort((a, b) => a.atMs - b.atMs);
      let longest: WriteGap = { lengthMs: 0, lastBefore: undefined, firstAfter: undefined, refusals: {} };
      for (const [index, firstAfter] of writes.entries()) {
        const lastBefore = writes[index - 1];
        if (lastBefore === undefined || firstAfter.atMs < fromMs || lastBefore.atMs > toMs) continue;
        const lengthMs = firstAfter.atMs - lastBefore.atMs;
        if (lengthMs > longest.lengthMs) longest = { lengthMs, lastBefore, firstAfter, refusals: {} };
      }
      const { lastBefore, firstAfter } = longest;
      const within = refused().filter(({ atMs }) => lastBefore !== undefined && firstAfter !== undefined && atMs >= lastBefore.atMs && atMs <= firstAfter.atMs);
      return { ...longest, refusals: countCodes(within) };
    },
    async lost(connectionString, beforeMs = Number.POSITIVE_INFINITY) {
      // Taken before the database is read: what is acknowledged later may be missing in what was read.
      const writes = acknowledged().filter(({ atMs }) => atMs < beforeMs);
      const client = new pg.Client({ connectionString });
      await client.connect();
      try {
        const { rows } = await client.query<{ connection: number; sequence: string }>('select connection, sequence from shop.checkouts where run = $1', [run]);
        const present = new Set(rows.map(({ connection, sequence }) => `${connection} ${sequence}`));
        const lost = writes.filter(({ connection, sequence }) => !present.has(`${connection} ${sequence}`));
        return { acknowledged: writes.length, lost, unacknowledged: Math.max(0, present.size - (writes.length - lost.length)) };
      } finally {
        await client.end();
      }
    },
    stop: () => child.end(),
  };
}

function countCodes(refusals: readonly RefusedWrite[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { code } of refusals) counts[code] = (counts[code] ?? 0) + 1;
  return counts;
}
