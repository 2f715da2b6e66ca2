import { z } from 'zod';
import { datastore, kind, lateNode, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

export const chaosKinds: Readonly<Record<string, StepKind>> = {
  'chaos.killPrimary': kind({
    summary: 'Kills the server of the primary for real: SIGKILL to all its processes at once, on its own host. Only where the service allows it.',
    input: z.strictObject({
      datastore,
      primary: lateNode,
      objective: durationMs.prefault('15m').meta({ description: 'From the kill to the first good write; judged in the evidence.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    disruptive: true,
    permissions: ['databaseSecrets', 'endpointSecret'].map((on) => ({ action: 'secretsmanager:GetSecretValue', on })),
    applyMs: 60_000,
    facts: { node: 'whose server was killed', killedAtMs: 'epoch milliseconds, clock of the host of the primary', processes: 'how many processes were killed', objectiveMs: 'what the time to the first good write is judged by' },
  }),
  'chaos.pod': kind({
    summary: 'Deletes ready pods by a selector, as an outage would, and waits until others have taken their place.',
    input: z.strictObject({
      cluster: z.string().meta({ description: 'Name under kubernetes in the configuration.' }),
      namespace: z.string().optional().meta({ description: "Default: the cluster's." }),
      selector: z.string().min(1).meta({ description: 'Label selector, e.g. app=orders.' }),
      count: z.int().min(1).max(100).default(1).meta({ description: 'How many of them.' }),
      graceSeconds: z.int().min(0).max(300).default(0).meta({ description: '0: at once, as when a host is lost.' }),
      objective: durationMs.prefault('15m').meta({ description: 'From the deletion to as many ready pods as before; judged in the evidence.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify'],
    disruptive: true,
    verifyMs: 1_800_000,
    facts: { pods: 'which pods', readyBefore: 'ready pods before', deletedAtMs: 'epoch milliseconds, worker clock', recoveredMs: 'milliseconds until as many were ready again', objectiveMs: 'what that is judged by' },
  }),
  'chaos.proxyLink': kind({
    summary: 'Cuts or slows a network link that goes through Toxiproxy, or restores it. Undo restores what it was.',
    input: z.strictObject({
      link: z.string().meta({ description: "Name under the service's chaos.links." }),
      effect: z.enum(['cut', 'latency', 'restore']).meta({ description: 'cut: connections are refused and open ones end. restore: heals what an earlier step of the same run broke.' }),
      latency: durationMs.prefault('500ms').meta({ description: 'For latency: added to each direction.' }),
    }),
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    disruptive: true,
    applyMs: 30_000,
    facts: { brokenAtMs: 'epoch milliseconds, worker clock', restoredAtMs: 'epoch milliseconds, worker clock' },
  }),
};
