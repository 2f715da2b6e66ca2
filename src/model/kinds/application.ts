import { z } from 'zod';
import { allow, datastore, kind, lateNode, type Permission, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

const secretRegion = z.string().min(1).optional().meta({ description: "Region whose secret is meant; default: the datastore's endpoint.secretRegion." });

const reads: readonly Permission[] = [...allow('endpointSecret', 'secretsmanager:GetSecretValue', 'secretsmanager:DescribeSecret'), ...allow('databaseSecrets', 'secretsmanager:GetSecretValue'), ...allow('instance', 'rds:DescribeDBInstances'), ...allow('cluster', 'rds:DescribeDBClusters'), ...allow('globalCluster', 'rds:DescribeGlobalClusters')];

export const applicationKinds: Readonly<Record<string, StepKind>> = {
  'secret.stage': kind({
    summary: "Prepares the application's secret with the new endpoint as a pending version, so that the swap is one call.",
    input: z.strictObject({ datastore, primary: lateNode, candidate: lateNode, region: secretRegion }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    permissions: [...reads, ...allow('endpointSecret', 'secretsmanager:PutSecretValue', 'secretsmanager:UpdateSecretVersionStage')],
    facts: { secretId: 'secret', currentVersion: 'version id that is current', stagedVersion: 'version id that is pending' },
  }),
  'canary.start': kind({
    summary: "Starts a writer through the application's own secret and endpoint that records each acknowledged write.",
    input: z.strictObject({
      datastore,
      primary: lateNode,
      candidate: lateNode,
      intervalMs: z.int().min(1).max(10_000).default(10),
      settle: durationMs.prefault('2s').meta({ description: 'Good writes for this long on the new primary end it.' }),
      maximum: durationMs.prefault('1h'),
      region: secretRegion,
    }),
    phases: ['guard', 'apply', 'verify', 'undo'],
    permissions: reads,
    facts: { execution: 'under which name its writes are stored' },
  }),
  'secret.swap': kind({
    summary: "Makes the staged version of the application's secret current, by compare-and-set on the version.",
    input: z.strictObject({ datastore, candidate: lateNode, currentVersion: z.string().optional(), stagedVersion: z.string().optional(), region: secretRegion }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    permissions: [...reads, ...allow('endpointSecret', 'secretsmanager:PutSecretValue', 'secretsmanager:UpdateSecretVersionStage')],
    critical: true,
    facts: { version: 'version id that is current now', swappedAtMs: 'epoch milliseconds, worker clock' },
  }),
  'route53.change': kind({
    summary: "Points the datastore's DNS record to the candidate and waits until Route 53 says INSYNC.",
    input: z.strictObject({ datastore, candidate: lateNode }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    permissions: [...allow('endpointZone', 'route53:ListResourceRecordSets', 'route53:ChangeResourceRecordSets'), ...allow('endpointChange', 'route53:GetChange')],
    skippable: true,
    applyMs: 300_000,
    facts: { changeId: 'Route 53 change', insyncMs: 'milliseconds from the change to INSYNC' },
  }),
  'rollout.command': kind({
    summary: 'Runs a command (argument vector, no shell) that makes the application take the new endpoint.',
    input: z.strictObject({
      argv: z.array(z.string()).default([]),
      verify: z.array(z.string()).default([]).meta({ description: 'A command that exits with 0 once the application uses the new endpoint; tried until `timeout`.' }),
      timeout: durationMs.prefault('5m'),
    }),
    phases: ['guard', 'apply', 'verify'],
    skippable: true,
    applyMs: 900_000,
    verifyMs: 900_000,
    attempts: 1,
  }),
  'rollout.http': kind({
    summary: 'Calls an HTTP endpoint that makes the application take the new endpoint; 2xx is success.',
    input: z.strictObject({
      url: z.string().default(''),
      method: z.enum(['POST', 'PUT', 'GET']).default('POST'),
      body: z.record(z.string(), z.unknown()).optional(),
      verifyUrl: z.string().default('').meta({ description: 'Answers 2xx to GET once the application uses the new endpoint; tried until `timeout`.' }),
      authorization: z.string().optional().meta({ description: 'Secret reference whose value becomes the Authorization header.' }),
      timeout: durationMs.prefault('30s'),
    }),
    phases: ['guard', 'apply', 'verify'],
    permissions: allow('inputSecret', 'secretsmanager:GetSecretValue'),
    skippable: true,
    applyMs: 300_000,
    verifyMs: 300_000,
    attempts: 1,
  }),
  'canary.verify': kind({
    summary: 'Ends the canary, reads every acknowledged write back from the new primary and counts what is missing.',
    input: z.strictObject({ datastore, primary: lateNode, wait: durationMs.prefault('60s'), region: secretRegion }),
    phases: ['verify'],
    permissions: reads,
    skippable: true,
    verifyMs: 300_000,
    facts: {
      acknowledged: 'writes acknowledged',
      lost: 'acknowledged writes missing on the new primary',
      refusedWindowMs: 'last acknowledged write on the old primary to first on the new one, null when either is missing',
      firstGoodWriteAtMs: 'epoch milliseconds of the first acknowledged write on the new primary',
    },
  }),
  'notify.send': kind({
    summary: 'Tells people. A receiver that is down never stops a recovery.',
    input: z.strictObject({ title: z.string().min(1), text: z.string().default(''), level: z.enum(['success', 'failure', 'attention']).default('attention') }),
    phases: ['apply', 'verify'],
    skippable: true,
    applyMs: 60_000,
    attempts: 1,
  }),
};
