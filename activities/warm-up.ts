import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { formatDuration } from '../src/model/units.ts';
import { runChild } from '../src/systems/child.ts';
import { queryTarget, rowsOf } from '../src/systems/postgres-rows.ts';
import { redisState, redisTarget, withRedis } from '../src/systems/redis.ts';
import { check, guarded, optionalText, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

const REQUEST_MS = 30_000;
const COMMAND_MS = 10 * 60_000;

async function itemsOf(step: StepRun): Promise<readonly string[]> {
  const limit = step.input['limit'] as number;
  const argv = step.input['command'] as readonly string[] | undefined;
  if (argv !== undefined) {
    const answer = await runChild(argv, { signal: AbortSignal.any([step.signal, AbortSignal.timeout(COMMAND_MS)]) });
    return answer.stdout.split('\n').filter((line) => line !== '').slice(0, limit);
  }
  const sql = optionalText(step, 'query');
  if (sql !== undefined) {
    const target = await queryTarget(step.context, textInput(step, 'database'), optionalText(step, 'databaseNode'));
    const items: string[] = [];
    for await (const rows of rowsOf(target, sql, [], { batch: Math.min(limit, 5000), signal: step.signal })) {
      for (const row of rows) items.push(String(Object.values(row)[0] ?? ''));
      if (items.length >= limit) break;
    }
    return items.filter((item) => item !== '').slice(0, limit);
  }
  return ((step.input['items'] as readonly string[] | undefined) ?? []).slice(0, limit);
}

async function urlsOf(step: StepRun): Promise<string[]> {
  const template = optionalText(step, 'url');
  const items = template === undefined ? [] : await itemsOf(step);
  const urls = [...(step.input['urls'] as readonly string[]), ...items.map((item) => template!.replaceAll('{item}', encodeURIComponent(item)))];
  const wrong = urls.find((url) => !URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol));
  if (wrong !== undefined) throw new HoldfastError('warm-up-url', `"${wrong.slice(0, 200)}" is no http or https URL`, { next: 'correct `url` and `urls` of the step' });
  return urls;
}

export const warmUp: StepDefinition = {
  async guard(step) {
    const [program] = (step.input['command'] as readonly string[] | undefined) ?? [];
    if (program === undefined) return guarded([]);
    const found = await runChild(['sh', '-c', 'command -v "$0" >/dev/null', program], { allowFailure: true, signal: step.signal });
    return guarded([check('command', found.code === 0, `${program} can be run by the worker`, found.code === 0 ? 'found' : 'not found', 'install it or correct `command`')]);
  },
  async apply(step): Promise<PhaseResult> {
    const urls = await urlsOf(step);
    if (urls.length === 0) return { outcome: 'skipped', summary: 'nothing is configured to be warmed', facts: { requests: 0, failed: 0, left: 0, warmedMs: 0 } };
    let [next, failed, firstFailure] = [0, 0, ''];
    const started = step.nowMs();
    const deadline = started + (step.input['timeout'] as number);
    const everyMs = 1000 / (step.input['ratePerSecond'] as number);
    let slot = started;
    const worker = async (): Promise<void> => {
      while (next < urls.length && step.nowMs() < deadline) {
        const index = next;
        next += 1;
        slot = Math.max(slot + everyMs, step.nowMs());
        if (slot > step.nowMs()) await pause(slot - step.nowMs(), step.signal);
        const answer = await ask(urls[index]!, step.signal);
        if (answer !== null) {
          failed += 1;
          firstFailure ||= answer;
        }
        step.heartbeat({ asked: next, of: urls.length, failed });
      }
    };
    await Promise.all(Array.from({ length: Math.min(step.input['concurrency'] as number, urls.length) }, worker));
    const left = urls.length - next;
    const tookMs = step.nowMs() - started;
    return {
      outcome: 'changed',
      summary: `${next} of ${urls.length} requests in ${formatDuration(tookMs)}; ${failed} failed${firstFailure === '' ? '' : ` (first: ${firstFailure})`}${left === 0 ? '' : `; ${left} left, out of time`}`,
      after: { requests: next, failed },
      facts: { requests: next, failed, left, warmedMs: tookMs },
    };
  },
  async verify(step) {
    const { facts } = step.call;
    const [made, failed, left] = ['requests', 'failed', 'left'].map((name) => Number(facts[name] ?? 0)) as [number, number, number];
    const allowed = Math.floor((made + left) * (step.input['allowFailed'] as number));
    const checks = made + left === 0 ? [] : [check('requests', failed + left <= allowed, `at most ${allowed} of ${made + left} without a good answer`, `${failed} failed, ${left} not made in time`, 'look at the application, then retry or skip')];
    const minimum = step.input['minimumKeys'] as number;
    const name = optionalText(step, 'datastore');
    if (minimum > 0 && name !== undefined) {
      const target = await redisTarget(step.context, name, textInput(step, 'node'));
      const { keys } = await withRedis(target, redisState, step.signal);
      checks.push(check('keys', keys >= minimum, `at least ${minimum}`, String(keys), 'is this the cache that the application uses? Look at its secret and its log'));
    }
    return guarded(checks);
  },
};

/** @returns null for 2xx; the URL stays out of what is said, since it may carry a token. */
async function ask(url: string, signal: AbortSignal): Promise<string | null> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(REQUEST_MS)]), redirect: 'follow' });
    await answer.arrayBuffer();
    return answer.ok ? null : `${new URL(url).origin} answered ${answer.status}`;
  } catch (error) {
    signal.throwIfAborted();
    return `${new URL(url).origin}: ${(error as Error).message}`;
  }
}
