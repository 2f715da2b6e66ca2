import { setTimeout as pause } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import { CloudFrontClient, GetDistributionCommand } from '@aws-sdk/client-cloudfront';
import { GetHealthCheckCommand, Route53Client } from '@aws-sdk/client-route-53';
import { GetQueueAttributesCommand, SQSClient } from '@aws-sdk/client-sqs';
import { GetParameterCommand, SSMClient } from '@aws-sdk/client-ssm';
import { resultIn } from '../engine/executions.ts';
import type { Progress } from '../model/execution.ts';
import type { ExecutionResult } from '../../workflows/failover.ts';
import { AWAY, HOME, SERVICES, type RegionEstate } from './region.ts';

export interface RegionRun {
  /** Of the run over all services. */
  readonly whole: ExecutionResult;
  /** Of each service, by name. */
  readonly services: Readonly<Record<string, ExecutionResult>>;
}

/** What a visitor of the shop saw, asking both front doors all the time. */
export interface Visitor {
  /** ms since the epoch of the last good answer of home, and of the first good one of away after it; null: none yet. */
  seen(): { lastAtHomeMs: number | null; firstAwayMs: number | null };
  /** Resolves once home has answered. */
  readonly served: Promise<void>;
  stop(): Promise<void>;
}

export function startVisitor(estate: RegionEstate): Visitor {
  const stop = new AbortController();
  let lastAtHomeMs: number | null = null;
  let firstAwayMs: number | null = null;
  let homeFailed = false;
  const { promise: served, resolve: isServed } = Promise.withResolvers<void>();
  const ask = async (url: string): Promise<boolean> => fetch(url, { signal: AbortSignal.timeout(3000) }).then(async (answer) => (await answer.text(), answer.ok), () => false);
  const running = (async () => {
    while (!stop.signal.aborted) {
      const home = await ask(estate.fronts.home.url);
      if (home) {
        [lastAtHomeMs, homeFailed, firstAwayMs] = [Date.now(), false, null];
        isServed();
      } else homeFailed = true;
      // Before home is lost the other Region's application writes to the home database; that is no recovery.
      if (homeFailed && firstAwayMs === null && (await ask(estate.fronts.away.url))) firstAwayMs = Date.now();
      await pause(50);
    }
  })();
  return {
    seen: () => ({ lastAtHomeMs, firstAwayMs }),
    served,
    async stop() {
      stop.abort();
      await running;
    },
  };
}

const taskQueue = (estate: RegionEstate): string => estate.context.config.temporal.taskQueue;

/** What the nightly run keeps ready: snapshots of cache and search. */
export async function prepare(estate: RegionEstate, client: Client): Promise<ExecutionResult> {
  return (await client.workflow.execute('runbook', { taskQueue: taskQueue(estate), workflowId: `runbook/region-prepare/${Date.now()}`, args: [{ runbook: 'region-prepare', parameters: { from: HOME, to: AWAY, cache: 'orders-cache', search: 'products' }, reason: 'nightly', requestedBy: 'schedule' }] })) as ExecutionResult;
}

/** Runbook B, started as by Temporal's own command line, approved by two people. */
export async function failOver(estate: RegionEstate, client: Client, options: { mode: 'planned' | 'forced'; watchFor: string; onProgress?: (text: string) => void }): Promise<RegionRun> {
  const input = {
    runbook: 'region-failover',
    mode: options.mode,
    parameters: {
      from: HOME, to: AWAY, services: [...SERVICES], approvals: 2,
      healthChecks: [estate.healthCheckId], endpoints: [estate.fronts.home.url],
      flag: estate.flag, hostedZoneId: estate.zoneId, record: 'www.shop.example', distributionId: estate.distributionId, origin: 'away',
      deadLetterQueue: estate.queues.dead, queue: estate.queues.main, frontUrl: estate.fronts.away.url, watchFor: options.watchFor,
    },
    reason: 'the Region does not answer', requestedBy: 'ann',
  };
  const handle = await client.workflow.start('runbook', { taskQueue: taskQueue(estate), workflowId: `runbook/region-failover/${Date.now()}`, args: [input] });
  const ended = handle.result().then(() => true, () => true);
  for (const by of ['bo', 'cy']) {
    for (;;) {
      const { approval } = await handle.query<Progress>('progress');
      if (approval != null) {
        await handle.executeUpdate('approve', { args: [{ by, reason: 'seen it', plan: approval.plan, observed: approval.observed }] });
        options.onProgress?.(`approved by ${by}`);
        break;
      }
      if (await Promise.race([ended, pause(200, false)])) break;
    }
  }
  const whole = await resultOf(handle);
  const services: Record<string, ExecutionResult> = {};
  for (const name of SERVICES) {
    if (whole.steps.some(({ id, outcome }) => id === `service-${name}` && outcome !== 'not begun')) services[name] = await resultOf(client.workflow.getHandle(`failover/${name}`)).catch(() => whole);
  }
  return { whole, services };
}

/** The result, of one that did not succeed too. */
async function resultOf(handle: { result(): Promise<unknown> }): Promise<ExecutionResult> {
  try {
    return (await handle.result()) as ExecutionResult;
  } catch (error) {
    const result = resultIn(error);
    if (result !== undefined) return result;
    throw error;
  }
}

/** The estate as the systems themselves say, without Holdfast. */
export async function lookAround(estate: RegionEstate) {
  const { aws } = estate.rds;
  const settings = { region: AWAY, endpoint: aws.endpoint, credentials: { accessKeyId: aws.accessKeyId, secretAccessKey: aws.secretAccessKey } };
  const clients = { route53: new Route53Client(settings), cloudFront: new CloudFrontClient(settings), sqs: new SQSClient(settings), ssm: new SSMClient(settings) };
  try {
    const depth = async (url: string): Promise<number> => Number((await clients.sqs.send(new GetQueueAttributesCommand({ QueueUrl: url, AttributeNames: ['ApproximateNumberOfMessages'] }))).Attributes?.['ApproximateNumberOfMessages']);
    const { HealthCheck } = await clients.route53.send(new GetHealthCheckCommand({ HealthCheckId: estate.healthCheckId }));
    const { Distribution } = await clients.cloudFront.send(new GetDistributionCommand({ Id: estate.distributionId }));
    const documents = await estate.search.away.request<{ count: number }>('GET', '/products/_count').then(({ count }) => count, () => null);
    return {
      healthCheck: { inverted: HealthCheck?.HealthCheckConfig?.Inverted === true, disabled: HealthCheck?.HealthCheckConfig?.Disabled === true },
      origin: Distribution?.DistributionConfig?.DefaultCacheBehavior?.TargetOriginId,
      dead: await depth(estate.queues.dead),
      queued: await depth(estate.queues.main),
      flag: (await clients.ssm.send(new GetParameterCommand({ Name: estate.flag }))).Parameter?.Value,
      keys: Number(await estate.caches.away.command('DBSIZE')),
      documents,
    };
  } finally {
    for (const client of Object.values(clients)) client.destroy();
  }
}
