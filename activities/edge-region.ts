import { messageOf } from '../src/model/errors.ts';
import { judgeRegion, regionDownChecks, regionHealthyChecks, type ApiSaw, type CheckerSaw, type EndpointSaw, type RegionSeen } from '../src/model/region-down.ts';
import { errorName } from '../src/systems/aws-failure.ts';
import { probeHttp } from '../src/systems/http-probe.ts';
import { healthCheck, healthSeen, isHealthy } from '../src/systems/record-sets.ts';
import { guarded, pause, textInput, type StepDefinition, type StepRun } from './step-definition.ts';

function texts(step: StepRun, name: string): readonly string[] {
  return (step.input[name] as readonly string[] | undefined) ?? [];
}

async function checkerSaw(step: StepRun, id: string): Promise<CheckerSaw> {
  try {
    const state = await healthCheck(step.context, id);
    if (state.disabled || state.inverted) return { id, how: 'unclear', detail: state.disabled ? 'disabled' : 'inverted' };
    const seen = await healthSeen(step.context, state, step.nowMs());
    const healthy = isHealthy(seen);
    const detail = healthy === null ? 'no observation of the last 5 minutes' : `${seen.checkers - seen.failing} of ${seen.checkers} checkers succeed${seen.example === null ? '' : `; ${seen.example}`}`;
    return { id, how: healthy === null ? 'unclear' : healthy ? 'healthy' : 'failing', detail };
  } catch (error) {
    return { id, how: 'unclear', detail: messageOf(error).split('\n')[0]! };
  }
}

/** Good once is good; bad or silent only after all attempts. */
async function endpointSaw(step: StepRun, url: string): Promise<EndpointSaw> {
  const attempts = step.input['attempts'] as number;
  let last: EndpointSaw = { url, how: 'silent', detail: 'not asked' };
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    const found = await probeHttp(url, { timeoutMs: step.input['timeout'] as number, signal: step.signal });
    if (found.error === null) return { url, how: 'good', detail: `HTTP ${found.status}` };
    // What answered anything was reached.
    last = found.status === null ? (last.how === 'bad' ? last : { url, how: 'silent', detail: `${found.error}, ${attempt} attempt(s)` }) : { url, how: 'bad', detail: found.error };
    if (attempt < attempts) await pause(500, step.signal);
  }
  return last;
}

/** Within the time of a guard: the shared client would try for minutes. */
const API_MS = 8000;

async function apiSaw(step: StepRun, region: string): Promise<ApiSaw> {
  if (step.input['api'] === false) return { how: 'not-asked', detail: '' };
  const { DescribeDBInstancesCommand } = await import('@aws-sdk/client-rds');
  const client = await step.context.aws.rds(region);
  try {
    await client.send(new DescribeDBInstancesCommand({ MaxRecords: 20 }), { abortSignal: AbortSignal.any([step.signal, AbortSignal.timeout(API_MS)]) });
    return { how: 'answers', detail: 'answers' };
  } catch (error) {
    if (step.signal.aborted) throw step.signal.reason;
    const { $metadata } = error as { $metadata?: { httpStatusCode?: number } };
    const status = $metadata?.httpStatusCode;
    if (errorName(error) !== '' && status !== undefined && status < 500) return { how: 'refuses', detail: `${(error as Error).name}: ${(error as Error).message}` };
    return { how: 'silent', detail: status === undefined ? `no answer within ${API_MS / 1000} s` : `HTTP ${status}` };
  }
}

async function look(step: StepRun): Promise<RegionSeen> {
  const [region, other] = [textInput(step, 'region'), textInput(step, 'other')];
  const [checkers, endpoints, otherEndpoints, api, otherApi] = await Promise.all([
    Promise.all(texts(step, 'healthChecks').map((id) => checkerSaw(step, id))),
    Promise.all(texts(step, 'endpoints').map((url) => endpointSaw(step, url))),
    Promise.all(texts(step, 'otherEndpoints').map((url) => endpointSaw(step, url))),
    apiSaw(step, region),
    apiSaw(step, other),
  ]);
  return { region, other, checkers, endpoints, otherEndpoints, api, otherApi };
}

async function judged(step: StepRun) {
  const seen = await look(step);
  const verdict = judgeRegion(seen);
  const facts = { region: seen.region, other: seen.other, downFacts: verdict.facts.map((fact) => `${fact.place}: ${fact.says}`), downFactCount: new Set(verdict.facts.map((fact) => fact.place)).size, unclear: [...verdict.unclear], mayLoseMs: null };
  if (step.call.mode === 'planned') return { checks: regionHealthyChecks(seen), facts };
  return { checks: regionDownChecks(seen, verdict), facts };
}

const health: StepDefinition = {
  async guard(step) {
    const { checks, facts } = await judged(step);
    return { ...guarded(checks), facts };
  },
  async verify(step) {
    const { checks, facts } = await judged(step);
    return { checks, facts, summary: step.call.mode === 'planned' ? `${facts.region} and ${facts.other} are well` : `${facts.region} is down by ${facts.downFactCount} independent fact(s); ${facts.other} is ready as far as it was asked` };
  },
};

export const edgeRegionSteps: Readonly<Record<string, StepDefinition>> = { 'region.health': health };
