import { messageOf } from '../model/errors.ts';

export interface ProbeOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
  /** Default: 200 to 299. */
  readonly statuses?: readonly number[] | undefined;
  /** Text that the body must hold. */
  readonly contains?: string | undefined;
}

export interface Probed {
  /** From the request to the end of its body; null: it never answered. */
  readonly latencyMs: number | null;
  readonly status: number | null;
  /** null: as it should be. Short and of few kinds, so that it can be counted. */
  readonly error: string | null;
}

/** Enough to find a text in; a service that sends without end must not fill the worker. */
const MOST_BYTES = 1024 * 1024;

/** One GET as a client would make it, measured on a clock that never goes back. Redirects are an answer, not followed. */
export async function probeHttp(url: string, options: ProbeOptions): Promise<Probed> {
  const limit = AbortSignal.timeout(options.timeoutMs);
  const began = performance.now();
  try {
    const answer = await fetch(url, { redirect: 'manual', signal: AbortSignal.any([options.signal, limit]), headers: { 'cache-control': 'no-cache', ...options.headers } });
    const body = await readSome(answer);
    const latencyMs = performance.now() - began;
    const right = options.statuses === undefined ? answer.status >= 200 && answer.status <= 299 : options.statuses.includes(answer.status);
    if (!right) return { latencyMs, status: answer.status, error: `HTTP ${answer.status}` };
    if (options.contains !== undefined && !body.includes(options.contains)) return { latencyMs, status: answer.status, error: 'its body lacks the text' };
    return { latencyMs, status: answer.status, error: null };
  } catch (error) {
    if (options.signal.aborted) throw options.signal.reason;
    if (limit.aborted) return { latencyMs: null, status: null, error: `no answer within ${options.timeoutMs} ms` };
    const cause = (error as { cause?: { code?: string } }).cause;
    return { latencyMs: null, status: null, error: cause?.code ?? messageOf(error).split('\n')[0]!.slice(0, 100) };
  }
}

async function readSome(answer: Response): Promise<string> {
  if (answer.body === null) return '';
  const reader = answer.body.getReader();
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    bytes += value.byteLength;
    if (bytes > MOST_BYTES) {
      await reader.cancel();
      break;
    }
  }
  return Buffer.concat(parts).toString('utf8');
}
