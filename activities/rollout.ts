import { HoldfastError } from '../src/model/errors.ts';
import { runChild } from '../src/systems/child.ts';
import { check, guarded, pause, type StepDefinition, type StepRun } from './step-definition.ts';

function argvOf(step: StepRun): readonly string[] {
  return (step.input['argv'] as readonly string[] | undefined) ?? [];
}

const command: StepDefinition = {
  async guard(step) {
    const [program] = argvOf(step);
    if (program === undefined) return guarded([]);
    const found = await runChild(['sh', '-c', 'command -v "$0" >/dev/null', program], { allowFailure: true, signal: step.signal });
    return guarded([check('rollout command', found.code === 0, `${program} can be run by the worker`, found.code === 0 ? 'found' : 'not found', 'install it or correct argv')]);
  },
  async apply(step) {
    const argv = argvOf(step);
    if (argv.length === 0) return { outcome: 'skipped', summary: 'no rollout command is configured' };
    const limit = AbortSignal.any([step.signal, AbortSignal.timeout(step.input['timeout'] as number)]);
    const answer = await runChild(argv, {
      signal: limit,
      env: { HOLDFAST_SERVICE: step.call.service ?? '', HOLDFAST_MODE: step.call.mode, HOLDFAST_EPOCH: String(step.call.epoch), HOLDFAST_KEY: step.call.key },
    });
    return { outcome: 'changed', summary: `${argv[0]} exited with 0`, after: { exitCode: answer.code } };
  },
  async verify(step) {
    const argv = (step.input['verify'] as readonly string[] | undefined) ?? [];
    if (argv.length === 0) return { checks: [], summary: argvOf(step).length === 0 ? 'nothing to verify' : 'not verified beyond its exit code: no verify command is configured' };
    const deadline = step.nowMs() + (step.input['timeout'] as number);
    for (;;) {
      const answer = await runChild(argv, { allowFailure: true, signal: step.signal });
      if (answer.code === 0) return { checks: [check('rollout', true, `${argv[0]} exits with 0`, '0')], summary: 'rolled out' };
      if (step.nowMs() > deadline) return { checks: [check('rollout', false, `${argv[0]} exits with 0`, `${answer.code ?? answer.signal}: ${answer.stderr.slice(-300)}`, 'look at the rollout, then retry or skip')], summary: 'not rolled out in time' };
      await pause(1000, step.signal);
    }
  },
};

const http: StepDefinition = {
  async guard(step) {
    const url = String(step.input['url'] ?? '');
    if (url === '') return guarded([]);
    const valid = URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
    return guarded([check('rollout URL', valid, 'an http or https URL', valid ? 'valid' : url)]);
  },
  async apply(step) {
    const url = String(step.input['url'] ?? '');
    if (url === '') return { outcome: 'skipped', summary: 'no rollout URL is configured' };
    const headers: Record<string, string> = { 'content-type': 'application/json', 'idempotency-key': step.call.key };
    if (typeof step.input['authorization'] === 'string') headers['authorization'] = await step.context.secrets.resolve(step.input['authorization']);
    const method = String(step.input['method']);
    const body = { service: step.call.service, mode: step.call.mode, epoch: step.call.epoch, ...(step.input['body'] as object | undefined) };
    let status: number;
    try {
      const answer = await fetch(url, {
        method,
        headers,
        ...(method === 'GET' ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.any([step.signal, AbortSignal.timeout(step.input['timeout'] as number)]),
      });
      await answer.body?.cancel();
      status = answer.status;
    } catch (error) {
      throw new HoldfastError('rollout-http', `${method} ${new URL(url).origin} did not answer: ${(error as Error).message}`, { retryable: true, next: 'check the application’s rollout endpoint', cause: error });
    }
    if (status < 200 || status > 299) throw new HoldfastError('rollout-http', `${method} ${new URL(url).origin} answered ${status}, expected 2xx`, { next: 'look at the application’s log, then retry or skip' });
    return { outcome: 'changed', summary: `${new URL(url).origin} answered ${status}`, after: { status } };
  },
  async verify(step) {
    const url = String(step.input['verifyUrl'] ?? '');
    if (url === '') return { checks: [], summary: String(step.input['url'] ?? '') === '' ? 'nothing to verify' : 'not verified beyond its answer: no verifyUrl is configured' };
    const deadline = step.nowMs() + (step.input['timeout'] as number);
    for (;;) {
      const found = await fetch(url, { signal: AbortSignal.any([step.signal, AbortSignal.timeout(5000)]) }).then(
        async (answer) => {
          await answer.body?.cancel();
          return String(answer.status);
        },
        (error: unknown) => (error as Error).message,
      );
      if (/^2\d\d$/.test(found)) return { checks: [check('rollout', true, `${new URL(url).origin} answers 2xx`, found)], summary: 'rolled out' };
      if (step.nowMs() > deadline) return { checks: [check('rollout', false, `${new URL(url).origin} answers 2xx`, found, 'look at the rollout, then retry or skip')], summary: 'not rolled out in time' };
      await pause(1000, step.signal);
    }
  },
};

export const rolloutSteps: Readonly<Record<string, StepDefinition>> = { 'rollout.command': command, 'rollout.http': http };
