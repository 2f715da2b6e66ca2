import type { CheckResult } from '../src/model/api.ts';
import { HoldfastError, messageOf } from '../src/model/errors.ts';
import { addSample, availability, beginWatch, percentile, resumeWatch, showShare, watchedFrom, type Watched } from '../src/model/service-level.ts';
import type { Json } from '../src/model/runbook-schema.ts';
import { formatDuration } from '../src/model/units.ts';
import { readEndpoint } from '../src/systems/endpoint.ts';
import { probeHttp } from '../src/systems/http-probe.ts';
import { metricPoints, type MetricQuery } from '../src/systems/metric.ts';
import { connectPostgres } from '../src/systems/postgres.ts';
import { postgresOf } from '../src/systems/context.ts';
import { check, guarded, pause, type StepDefinition, type StepRun } from './step-definition.ts';

interface HttpInput {
  readonly url: string;
  readonly authorization?: string;
  readonly statuses?: readonly number[];
  readonly contains?: string;
}

interface MetricInput {
  readonly region?: string;
  readonly namespace: string;
  readonly name: string;
  readonly dimensions: Readonly<Record<string, string>>;
  readonly statistic: string;
  readonly period: number;
  readonly unit?: string;
  readonly atMost?: number;
  readonly atLeast?: number;
  readonly minSamples?: number;
}

interface Sample {
  readonly latencyMs: number | null;
  readonly error: string | null;
}

/** One thing that is sampled; what it needs to remember between samples lies in it. */
interface Source {
  readonly name: 'http' | 'canary' | 'metric';
  readonly intervalMs: number;
  /** @returns none: nothing new to say. */
  sample(): Promise<readonly Sample[]>;
}

async function sourcesOf(step: StepRun): Promise<Source[]> {
  const http = step.input['http'] as HttpInput | undefined;
  const canary = step.input['canary'] as { datastore: string; execution?: string } | undefined;
  const metric = step.input['metric'] as MetricInput | undefined;
  const intervalMs = step.input['interval'] as number;
  const timeoutMs = step.input['timeout'] as number;
  const sources: Source[] = [];
  if (http !== undefined) {
    const headers: Record<string, string> = http.authorization === undefined ? {} : { authorization: await step.context.secrets.resolve(http.authorization) };
    sources.push({ name: 'http', intervalMs, sample: async () => [await probeHttp(http.url, { timeoutMs, signal: step.signal, headers, statuses: http.statuses, contains: http.contains })] });
  }
  if (canary !== undefined) sources.push(canarySource(step, canary, intervalMs, timeoutMs));
  if (metric !== undefined) sources.push(metricSource(step, metric));
  return sources;
}

/** The canary's rows, read as the application reads: it writes as long as it is let in, so rows that come are writes that succeed. */
function canarySource(step: StepRun, input: { datastore: string; execution?: string }, intervalMs: number, timeoutMs: number): Source {
  const datastore = postgresOf(step.context.config, input.datastore);
  const secret = datastore.endpoint?.secret;
  if (secret === undefined) throw new HoldfastError('endpoint-missing', `datastore ${input.datastore} has no endpoint.secret`, { next: "add endpoint: { secret: <id of the application's connection secret> }" });
  const execution = input.execution ?? `${step.call.workflowId}/${step.call.runId}`;
  let last: bigint | null = null;
  let looked = false;
  return {
    name: 'canary',
    intervalMs,
    async sample() {
      const began = performance.now();
      try {
        const endpoint = await readEndpoint(step.context, secret, datastore.endpoint?.secretRegion);
        const client = await connectPostgres({ ...endpoint, sslmode: datastore.admin.sslmode, sslrootcert: datastore.admin.sslrootcert }, { applicationName: 'holdfast-watch', connectTimeoutMs: timeoutMs, queryTimeoutMs: timeoutMs });
        try {
          const { rows } = await client.query<{ seq: string }>('select seq from holdfast.canary where execution = $1 order by seq desc limit 1', [execution]);
          const newest = rows[0] === undefined ? null : BigInt(rows[0].seq);
          const before = last;
          last = newest ?? last;
          const first = !looked;
          looked = true;
          // The first look has nothing to compare with.
          if (first) return [];
          return [{ latencyMs: performance.now() - began, error: newest !== null && (before === null || newest > before) ? null : 'no new row of the canary' }];
        } finally {
          await client.end().catch(() => {});
        }
      } catch (error) {
        if (step.signal.aborted) throw step.signal.reason;
        const { code } = error as { code?: string };
        return [{ latencyMs: null, error: code ?? messageOf(error).split('\n')[0]!.slice(0, 100) }];
      }
    },
  };
}

function metricSource(step: StepRun, input: MetricInput): Source {
  const query: MetricQuery = { region: input.region, namespace: input.namespace, name: input.name, dimensions: input.dimensions, statistic: input.statistic, periodMs: input.period, unit: input.unit };
  let from = step.nowMs() - input.period;
  return {
    name: 'metric',
    intervalMs: Math.max(1000, Math.min(input.period, 15_000)),
    async sample() {
      const nowMs = step.nowMs();
      // CloudWatch rounds the start down to a whole period, or to more when it is long ago: what was seen comes again.
      // And a period has its value some time after it is over: what is told of it comes late.
      const points = (await metricPoints(step.context, query, from, nowMs)).filter(({ atMs }) => atMs >= from && atMs + 2 * input.period <= nowMs);
      from = (points.at(-1)?.atMs ?? from - 1) + 1;
      return points.map(({ value }) => ({ latencyMs: null, error: (input.atMost !== undefined && value > input.atMost) || (input.atLeast !== undefined && value < input.atLeast) ? `${input.name} out of its bounds` : null }));
    },
  };
}

type Reports = Readonly<Record<string, Watched>>;

function reportsFrom(details: unknown): Reports | null {
  const found = (details as { watch?: Record<string, unknown> } | null | undefined)?.watch;
  if (found === undefined) return null;
  const reports = Object.fromEntries(Object.entries(found).flatMap(([name, value]) => {
    const watched = watchedFrom(value);
    return watched === null ? [] : [[name, watched] as const];
  }));
  return Object.keys(reports).length === 0 ? null : reports;
}

const watch: StepDefinition = {
  async guard(step) {
    const http = step.input['http'] as HttpInput | undefined;
    const checks: CheckResult[] = [];
    if (http !== undefined) {
      const valid = URL.canParse(http.url) && /^https?:$/.test(new URL(http.url).protocol) && new URL(http.url).password === '';
      checks.push(check('URL', valid, 'an http or https URL without a password', valid ? 'valid' : 'not valid', 'correct http.url; a password goes by http.authorization'));
    }
    const metric = step.input['metric'] as MetricInput | undefined;
    if (metric !== undefined) {
      await metricPoints(step.context, { ...metric, periodMs: metric.period }, step.nowMs() - metric.period, step.nowMs());
      checks.push(check('metric', true, 'cloudwatch:GetMetricStatistics is allowed', 'allowed'));
    }
    return guarded(checks);
  },
  async verify(step) {
    const durationMs = step.input['duration'] as number;
    const sources = await sourcesOf(step);
    const began = step.nowMs();
    const before = reportsFrom(step.previousDetails);
    let reports: Reports = Object.fromEntries(sources.map(({ name }) => [name, before?.[name] === undefined ? beginWatch(began) : resumeWatch(before[name], began)]));
    // The whole time is watched: what nobody looked at is added at the end.
    const endOf = (name: string): number => reports[name]!.startedAtMs + durationMs + reports[name]!.gapMs;
    const report = (): void => step.heartbeat({ watch: reports });
    report();
    await Promise.all(
      sources.map(async (source) => {
        let next = began;
        while (step.nowMs() < endOf(source.name)) {
          const samples = await source.sample();
          for (const { latencyMs, error } of samples) reports = { ...reports, [source.name]: addSample(reports[source.name]!, { atMs: step.nowMs(), latencyMs, error }) };
          if (samples.length > 0) report();
          // Late ticks are left out, not made up for: a slow service must not be asked faster.
          next = Math.max(next + source.intervalMs, step.nowMs());
          await pause(Math.max(0, Math.min(next, endOf(source.name)) - step.nowMs()), step.signal);
        }
      }),
    );
    return judge(step, sources, reports, durationMs);
  },
};

function judge(step: StepRun, sources: readonly Source[], reports: Reports, durationMs: number) {
  const objective = step.input['availability'] as number;
  const p95Objective = step.input['p95'] as number | undefined;
  const metric = step.input['metric'] as MetricInput | undefined;
  const minimumOf = (name: Source['name']): number => (name === 'metric' ? (metric?.minSamples ?? Math.max(1, Math.floor(durationMs / metric!.period) - 2)) : (step.input['minSamples'] as number));
  const checks: CheckResult[] = [];
  const texts: string[] = [];
  const facts: Record<string, Json> = { durationMs };
  for (const { name } of sources) {
    const seen = reports[name]!;
    const minimum = minimumOf(name);
    const share = availability(seen);
    const [p50, p95] = [percentile(seen, 0.5), percentile(seen, 0.95)];
    const errors = Object.entries(seen.errors).sort((a, b) => b[1] - a[1]);
    const why = errors.length === 0 ? '' : ` (${errors.slice(0, 5).map(([error, count]) => `${count} x ${error}`).join(', ')}${seen.otherErrors === 0 ? '' : `, ${seen.otherErrors} others`})`;
    checks.push(check(`${name}: samples`, seen.samples >= minimum, `at least ${minimum}`, String(seen.samples), 'too little was seen to judge: look why, then retry'));
    checks.push(check(`${name}: availability`, share !== null && share >= objective, `at least ${showShare(objective)}`, `${showShare(share)}: ${seen.good} of ${seen.samples}${why}`, 'look at the service; then retry, or decide to go back'));
    if (p95Objective !== undefined && name === 'http') checks.push(check('http: p95', p95 !== null && p95 <= p95Objective, `at most ${p95Objective} ms`, p95 === null ? 'not measured: nothing answered' : `${p95} ms`, 'look at the service; then retry'));
    texts.push(`${name}: ${showShare(share)} of ${seen.samples}${p95 === null ? '' : `, p50 ${p50} ms, p95 ${p95} ms`}${why}${seen.gaps.length === 0 ? '' : `; NOT WATCHED for ${formatDuration(seen.gapMs)} in ${seen.gaps.length} gap(s): a worker was lost`}`);
    facts[name] = { samples: seen.samples, good: seen.good, availability: share, p50Ms: p50, p95Ms: p95, maxMs: seen.maxMs === null ? null : Math.ceil(seen.maxMs), errors: { ...seen.errors }, otherErrors: seen.otherErrors, gapMs: seen.gapMs, gaps: seen.gaps.map((gap) => ({ ...gap })), fromMs: seen.startedAtMs, toMs: step.nowMs() };
  }
  const first = reports[sources[0]!.name]!;
  return { checks, summary: texts.join('; '), facts: { ...facts, availability: availability(first), p95Ms: percentile(first, 0.95), samples: first.samples } };
}

export const edgeWatchSteps: Readonly<Record<string, StepDefinition>> = { 'service.watch': watch };
