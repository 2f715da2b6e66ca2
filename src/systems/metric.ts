import type { Dimension, StandardUnit, Statistic } from '@aws-sdk/client-cloudwatch';
import { awsFailure } from './aws-failure.ts';
import type { Context } from './context.ts';

export interface MetricQuery {
  readonly region?: string | undefined;
  readonly namespace: string;
  readonly name: string;
  readonly dimensions: Readonly<Record<string, string>>;
  readonly statistic: string;
  readonly periodMs: number;
  readonly unit?: string | undefined;
}

export interface MetricPoint {
  readonly atMs: number;
  readonly value: number;
}

/** Points since `fromMs`, oldest first. CloudWatch gives a period only some time after it is over; an empty answer is no zero. */
export async function metricPoints(context: Context, query: MetricQuery, fromMs: number, toMs: number): Promise<MetricPoint[]> {
  const { GetMetricStatisticsCommand } = await import('@aws-sdk/client-cloudwatch');
  const client = await context.aws.cloudWatch(query.region);
  const Dimensions: Dimension[] = Object.entries(query.dimensions).map(([Name, Value]) => ({ Name, Value }));
  const answer = await client
    .send(new GetMetricStatisticsCommand({ Namespace: query.namespace, MetricName: query.name, Dimensions, Period: Math.round(query.periodMs / 1000), Statistics: [query.statistic as Statistic], StartTime: new Date(fromMs), EndTime: new Date(toMs), ...(query.unit === undefined ? {} : { Unit: query.unit as StandardUnit }) }))
    .catch((error: unknown) => {
      throw awsFailure('metric-call', 'cloudwatch:GetMetricStatistics', `${query.namespace} ${query.name}`, error);
    });
  return (answer.Datapoints ?? [])
    .flatMap((point) => {
      const value = point[query.statistic as 'Average'];
      return value === undefined || point.Timestamp === undefined ? [] : [{ atMs: point.Timestamp.getTime(), value }];
    })
    .sort((a, b) => a.atMs - b.atMs);
}
