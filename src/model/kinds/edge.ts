import { z } from 'zod';
import { allow, kind, type StepKind } from '../step-kind.ts';
import { durationMs, parseDurationMs } from '../units.ts';

const region = z.string().min(1).optional().meta({ description: 'Default: aws.region.' });
const recordName = {
  hostedZoneId: z.string().min(1).meta({ description: 'Route 53 hosted zone.' }),
  name: z.string().min(1).meta({ description: 'Record name.' }),
  type: z.enum(['A', 'AAAA', 'CNAME', 'TXT']).default('A').meta({ description: 'Record type.' }),
};
const answered = {
  resolver: z.string().min(1).optional().meta({ description: 'Name server, `address` or `address:port`, that is asked until it answers with the new value; without one what DNS answers is not looked at.' }),
  answer: z.array(z.string()).optional().meta({ description: 'Values that are right; default: those of the sets that should answer. An alias has none: give them.' }),
};
/** A wait that is longer than the phase it happens in would end as a lost worker does. */
const upTo = (usual: string, most: string) => durationMs.refine((ms) => ms <= parseDurationMs(most)!, { message: `at most ${most}` }).prefault(usual);
const zone = 'hostedzone';
const share = z.number().min(0).max(1);

export const edgeKinds: Readonly<Record<string, StepKind>> = {
  'region.health': kind({
    summary: 'Confirms the alarm. Planned: both Regions are well. Forced: the Region is down by two independent facts (checkers of Route 53, the worker, the API of the Region), and the other one is ready.',
    input: z.strictObject({
      region: z.string().min(1).meta({ description: 'Region that is lost or to be left.' }),
      other: z.string().min(1).meta({ description: 'Region to go to.' }),
      healthChecks: z.array(z.string()).default([]).meta({ description: 'Route 53 health checks of endpoints in the Region.' }),
      endpoints: z.array(z.url()).default([]).meta({ description: 'URLs in the Region that answer 2xx to GET when the service is well.' }),
      otherEndpoints: z.array(z.url()).default([]).meta({ description: 'The same in the other Region.' }),
      api: z.boolean().default(true).meta({ description: 'Ask the RDS API of both Regions.' }),
      attempts: z.int().min(1).max(5).default(3).meta({ description: 'Attempts before an endpoint counts as bad or silent.' }),
      timeout: upTo('3s', '4s').meta({ description: 'Of each attempt.' }),
    }),
    phases: ['guard', 'verify'],
    askedAgain: true,
    verifyMs: 60_000,
    permissions: [...allow('healthcheck', 'route53:GetHealthCheck', 'route53:GetHealthCheckStatus'), ...allow('*', 'rds:DescribeDBInstances', 'cloudwatch:GetMetricStatistics')],
    facts: { region: 'Region that is lost or left', other: 'Region to go to', downFacts: 'what says that it is down', downFactCount: 'how many independent places say so', unclear: 'what was looked at and says neither', mayLoseMs: 'always null: what may be lost is for the datastores to say' },
  }),
  'route53.weights': kind({
    summary: 'Sets the weights of weighted record sets in one batch that Route 53 takes only if every set still is as it was seen; everything else of the sets stays.',
    input: z.strictObject({
      ...recordName,
      weights: z
        .record(z.string().min(1), z.int().min(0).max(255))
        .refine((weights) => Object.values(weights).some((weight) => weight > 0), { message: 'at least one weight over 0: with all at 0 Route 53 answers with all of them alike' })
        .meta({ description: 'Weight by set identifier.' }),
      ...answered,
      wait: upTo('5m', '6m').meta({ description: 'For INSYNC, and for the answer of the resolver.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    applyMs: 420_000,
    verifyMs: 900_000,
    permissions: [...allow(zone, 'route53:ListResourceRecordSets', 'route53:ChangeResourceRecordSets'), ...allow('change', 'route53:GetChange'), ...allow('healthcheck', 'route53:GetHealthCheck', 'route53:GetHealthCheckStatus'), ...allow('*', 'cloudwatch:GetMetricStatistics')],
    facts: { changeId: 'Route 53 change', weightsBefore: 'as text', weights: 'as text', insyncMs: 'milliseconds until INSYNC, from when it was first asked; null when it was not asked', answer: 'what the resolver answered, null without one', answerMs: 'milliseconds until it answered so' },
  }),
  'route53.failoverRecord': kind({
    summary: 'Has Route 53 answer with the SECONDARY set of failover records: disables and inverts the health check of the PRIMARY, which then is unhealthy whatever its endpoint does; or lets it decide by itself again.',
    input: z.strictObject({
      ...recordName,
      to: z.enum(['secondary', 'primary']).default('secondary').meta({ description: '`primary`: the health check is enabled and not inverted; Route 53 answers with the primary while that is healthy.' }),
      sharedHealthCheck: z.boolean().default(false).meta({ description: 'Other record sets may have the same health check: they move together.' }),
      ...answered,
      wait: upTo('5m', '14m').meta({ description: 'For the answer of the resolver.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    applyMs: 60_000,
    verifyMs: 900_000,
    permissions: [...allow(zone, 'route53:ListResourceRecordSets'), ...allow('healthcheck', 'route53:GetHealthCheck', 'route53:GetHealthCheckStatus', 'route53:UpdateHealthCheck'), ...allow('*', 'cloudwatch:GetMetricStatistics')],
    facts: { healthCheck: 'id of the health check', version: 'its version after the change', answer: 'what the resolver answered, null without one', answerMs: 'milliseconds until it answered so' },
  }),
  'cloudfront.origin': kind({
    summary: 'Has cache behaviours of a distribution take another origin (or origin group), or an origin group try another member first; only if the distribution still is as it was read; waits until it is Deployed.',
    input: z
      .strictObject({
        distributionId: z.string().min(1),
        origin: z.string().min(1).optional().meta({ description: 'Id of the origin or origin group that the behaviours are to take.' }),
        behaviors: z.array(z.string().min(1)).min(1).default(['default']).meta({ description: 'Which: `default`, or path patterns as they are written there.' }),
        originGroup: z.strictObject({ id: z.string().min(1), first: z.string().min(1).meta({ description: 'Id of the member that is to be tried first.' }) }).optional(),
        invalidate: z.array(z.string().startsWith('/')).default([]).meta({ description: 'Paths that are taken out of the caches once the change is Deployed.' }),
        wait: upTo('20m', '28m').meta({ description: 'For Deployed, and for the invalidation.' }),
        pollMs: z.int().min(100).max(60_000).default(5000).meta({ description: 'How often it is asked.' }),
      })
      .refine((input) => (input.origin === undefined) !== (input.originGroup === undefined), { message: 'give either origin or originGroup' }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    applyMs: 1_800_000,
    verifyMs: 3_600_000,
    permissions: [...allow('distribution', 'cloudfront:GetDistribution', 'cloudfront:UpdateDistribution', 'cloudfront:CreateInvalidation', 'cloudfront:GetInvalidation')],
    facts: { from: 'origins before, as text', to: 'origins after, as text', invalidation: 'id, null without one', deployedMs: 'milliseconds until Deployed, from when verification began', domainName: 'of the distribution' },
  }),
  'secret.replicate': kind({
    summary: 'Has Secrets Manager keep a replica of a secret in another Region, and waits until it is in sync. Never over a secret that stands there already.',
    input: z.strictObject({
      secret: z.string().min(1).meta({ description: 'Secrets Manager id.' }),
      from: region,
      region: z.string().min(1).meta({ description: 'Where the replica is to be.' }),
      kmsKeyId: z.string().min(1).optional().meta({ description: 'Key there; default: aws/secretsmanager of that Region.' }),
      wait: upTo('2m', '9m'),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    skippable: true,
    verifyMs: 600_000,
    permissions: allow('secret', 'secretsmanager:DescribeSecret', 'secretsmanager:ReplicateSecretToRegions', 'secretsmanager:RemoveRegionsFromReplication'),
    facts: { replica: 'its status', version: 'version id that is current there' },
  }),
  'secret.verifyReplica': kind({
    summary: 'Verifies that the replica of a secret is in sync. Forced, with the Region of the original lost: that it is there, and says that nobody can know whether it has the last change.',
    input: z.strictObject({ secret: z.string().min(1).meta({ description: 'Secrets Manager id.' }), from: region, region: z.string().min(1).meta({ description: 'Where the replica is.' }) }),
    phases: ['guard', 'verify'],
    verifyMs: 120_000,
    permissions: allow('secret', 'secretsmanager:DescribeSecret'),
    facts: { version: 'version id that is current there', inSync: 'null when it could not be asked' },
  }),
  'secret.promoteReplica': kind({
    summary: 'Makes the replica of a secret a secret of its own, so that it can be changed in its Region. What changes in the old Region no longer comes over; nothing undoes it.',
    input: z.strictObject({ secret: z.string().min(1).meta({ description: 'Secrets Manager id: its name, or the ARN of the replica.' }), from: region, region: z.string().min(1).meta({ description: 'Where the replica is.' }) }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    disruptive: true,
    verifyMs: 120_000,
    permissions: allow('secret', 'secretsmanager:DescribeSecret', 'secretsmanager:StopReplicationToReplica'),
    facts: { arn: 'ARN there' },
  }),
  'sqs.redrive': kind({
    summary: 'Moves the messages of a dead-letter queue back to their queue, counted; each message is sent once, or named as being in doubt and left.',
    input: z.strictObject({
      deadLetterQueue: z.string().min(1).meta({ description: 'Name or URL.' }),
      queue: z.string().min(1).meta({ description: 'Name or URL of the queue they came from.' }),
      region,
      method: z.enum(['task', 'batches']).default('task').meta({ description: '`task`: SQS moves them itself, and counts about. `batches`: received, sent, deleted by the worker, counted one by one; leaves those of other queues.' }),
      perSecond: z.int().min(1).max(500).optional().meta({ description: 'No more than this.' }),
      maximum: z.int().min(1).optional().meta({ description: '`batches`: no more than this altogether.' }),
      visibility: upTo('60s', '12h').meta({ description: '`batches`: for how long a received message is hidden from others.' }),
      pollMs: z.int().min(100).max(60_000).default(2000).meta({ description: '`task`: how often it is asked.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    skippable: true,
    applyMs: 6 * 3_600_000,
    verifyMs: 60_000,
    permissions: [...allow('queue', 'sqs:GetQueueUrl', 'sqs:GetQueueAttributes', 'sqs:ListDeadLetterSourceQueues', 'sqs:StartMessageMoveTask', 'sqs:ListMessageMoveTasks', 'sqs:ReceiveMessage', 'sqs:SendMessage', 'sqs:DeleteMessage', 'sqs:ChangeMessageVisibility')],
    facts: { method: 'how', moved: 'messages moved', exact: 'whether that was counted one by one', left: 'what was left, and why', refused: 'what the queue did not take', doubtful: 'message ids that may be in both queues', takenOver: 'tries that a lost worker left', deadLetterBefore: 'approximate counts', deadLetterAfter: 'approximate counts', queueAfter: 'approximate counts' },
  }),
  'sqs.verifyEmpty': kind({
    summary: 'Verifies that a queue is empty, by several looks in a row: the counts of SQS are approximate.',
    input: z.strictObject({ queue: z.string().min(1).meta({ description: 'Name or URL.' }), region, looks: z.int().min(1).max(20).default(3), wait: upTo('1m', '25m') }),
    phases: ['guard', 'verify'],
    skippable: true,
    verifyMs: 1_800_000,
    permissions: allow('queue', 'sqs:GetQueueUrl', 'sqs:GetQueueAttributes'),
    facts: { waiting: 'about', inFlight: 'about', delayed: 'about' },
  }),
  'flag.set': kind({
    summary: 'Sets a flag (SSM parameter): a kill switch, or what can be degraded. Only upon the version that was seen.',
    input: z.strictObject({ name: z.string().min(1).meta({ description: 'Parameter name; type String.' }), value: z.string().min(1).max(4096), region }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    skippable: true,
    permissions: [...allow('parameter', 'ssm:GetParameter', 'ssm:PutParameter', 'ssm:DeleteParameter'), ...allow('*', 'ssm:DescribeParameters')],
    facts: { version: 'version that was put', existed: 'whether it was there before', previous: 'value before, null when there was none', previousVersion: 'version before' },
  }),
  'flag.restore': kind({
    summary: 'Puts back what a step `flag.set` replaced, unless somebody else has changed it since.',
    input: z.strictObject({
      name: z.string().min(1).meta({ description: 'Parameter name.' }),
      previous: z.string().nullable().optional().meta({ description: 'Value to put back: ${steps.<id>.previous}.' }),
      existed: z.boolean().optional().meta({ description: '${steps.<id>.existed}; false: it is deleted.' }),
      version: z.int().optional().meta({ description: '${steps.<id>.version}: what is there must still be this version.' }),
      region,
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    skippable: true,
    permissions: [...allow('parameter', 'ssm:GetParameter', 'ssm:PutParameter', 'ssm:DeleteParameter'), ...allow('*', 'ssm:DescribeParameters')],
  }),
  'service.watch': kind({
    summary: 'Watches the service for a while (HTTP, the rows of the canary, a CloudWatch metric) and compares what it measured with the objective.',
    input: z
      .strictObject({
        duration: upTo('5m', '4h').meta({ description: 'How long; what nobody looked at, a worker being lost, is added.' }),
        interval: upTo('1s', '1h').meta({ description: 'Between two samples.' }),
        timeout: upTo('5s', '1m').meta({ description: 'Of one sample.' }),
        http: z
          .strictObject({
            url: z.url(),
            authorization: z.string().optional().meta({ description: 'Secret reference whose value becomes the Authorization header.' }),
            statuses: z.array(z.int().min(100).max(599)).optional().meta({ description: 'Good answers; default: 200 to 299.' }),
            contains: z.string().min(1).optional().meta({ description: 'Text that the body must hold.' }),
          })
          .optional(),
        canary: z.strictObject({ datastore: z.string(), execution: z.string().optional().meta({ description: "Default: this run's canary." }) }).optional().meta({ description: 'Rows of a running canary (canary.start with a long `settle`), read through the application’s secret: a sample is good when a new one has come.' }),
        metric: z
          .strictObject({
            region,
            namespace: z.string().min(1),
            name: z.string().min(1),
            dimensions: z.record(z.string(), z.string()).default({}),
            statistic: z.enum(['Average', 'Sum', 'Minimum', 'Maximum', 'SampleCount']).default('Average'),
            period: durationMs.prefault('1m'),
            unit: z.string().optional(),
            atMost: z.number().optional(),
            atLeast: z.number().optional(),
            minSamples: z.int().min(1).optional().meta({ description: 'With fewer points nothing is judged. Default: the periods of the duration less two, since CloudWatch is late; at least 1.' }),
          })
          .refine((metric) => metric.atMost !== undefined || metric.atLeast !== undefined, { message: 'give atMost or atLeast' })
          .optional()
          .meta({ description: 'A sample is each period that has been over for another one, once; no point is no sample.' }),
        availability: share.default(0.99).meta({ description: 'Good samples of all, at least; of each source.' }),
        p95: z.int().min(1).optional().meta({ description: 'Milliseconds that 95 of 100 answers of http must not exceed.' }),
        minSamples: z.int().min(1).default(10).meta({ description: 'With fewer of http or canary nothing is judged: the step fails.' }),
      })
      .refine((input) => input.http !== undefined || input.canary !== undefined || input.metric !== undefined, { message: 'give at least one of http, canary, metric' }),
    phases: ['guard', 'verify'],
    skippable: true,
    verifyMs: 12 * 3_600_000,
    permissions: [...allow('secret', 'secretsmanager:GetSecretValue'), ...allow('*', 'cloudwatch:GetMetricStatistics')],
    facts: { durationMs: 'how long it was to be', availability: 'good of all, 0 to 1, of the first source', p95Ms: 'of the first source, at most 5 % too high', samples: 'of the first source', http: 'all figures of http', canary: 'all figures of the canary', metric: 'all figures of the metric' },
  }),
};
