import { z } from 'zod';
import { datastore, kind, lateNode, node, type Permission, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

/** Who is the primary is asked of the application's secret. */
const reads: readonly Permission[] = [{ action: 'secretsmanager:GetSecretValue', on: 'endpointSecret' }];

export const controlKinds: Readonly<Record<string, StepKind>> = {
  'controller.pause': kind({
    summary: 'Pauses whatever else switches roles here (Patroni), so that two controllers never act at once; found but with no way to pause it, nothing is begun.',
    input: z.strictObject({ datastore, primary: lateNode }),
    permissions: reads,
    phases: ['inspect', 'guard', 'apply', 'verify', 'undo'],
    askedAgain: true,
    verifyMs: 300_000,
    facts: {
      controller: 'what was paused; absent when there is none',
      pausedBefore: 'true when somebody else had paused it: it is then left paused',
      pausedAtMs: 'epoch milliseconds, worker clock',
      acknowledgedMs: 'milliseconds until every member had read it',
    },
  }),
  'controller.resume': kind({
    summary: 'Resumes the controller that this execution paused, once it sees the new primary as its leader, and shows that it leaves the roles as they are.',
    input: z.strictObject({ datastore, primary: node.optional().meta({ description: "Who must be its leader. Default: the node the application's secret points to." }) }),
    permissions: reads,
    phases: ['inspect', 'guard', 'apply', 'verify'],
    applyMs: 900_000,
    verifyMs: 300_000,
    facts: { resumed: 'false when it was left paused', resumedAtMs: 'epoch milliseconds, worker clock', timeline: 'of the primary when it was resumed', followers: 'nodes that follow the leader under the controller' },
  }),
  'operator.approval': kind({
    summary: 'Waits for approvals by people other than the requester; expires into denied.',
    input: z.strictObject({
      count: z.union([z.int().min(0), z.literal('policy')]).default('policy').meta({ description: "How many; `policy`: the service's approval policy for the mode." }),
      expires: durationMs.optional(),
    }),
    phases: [],
    runsIn: 'workflow',
    facts: { approvedBy: 'who approved' },
  }),
  'operator.wait': kind({
    summary: 'Waits for a time.',
    input: z.strictObject({ duration: durationMs }),
    phases: [],
    runsIn: 'workflow',
    skippable: true,
  }),
  'runbook.run': kind({
    summary: 'Runs another runbook as an execution of its own, with its own guards, approval, point of no return and evidence, and waits for its end.',
    input: z
      .strictObject({
        runbook: z.string().optional().meta({ description: 'Name of the runbook; or give service and purpose.' }),
        service: z.string().optional().meta({ description: 'Service it is run for.' }),
        purpose: z.string().optional().meta({ description: "Which of the service's runbooks: failover, failback." }),
        mode: z.enum(['planned', 'forced']).optional().meta({ description: 'Default: the mode of this run.' }),
        parameters: z.record(z.string(), z.unknown()).default({}),
      })
      .refine((input) => (input.runbook === undefined) !== (input.purpose === undefined) && (input.purpose === undefined || input.service !== undefined), { message: 'give either runbook, or service and purpose' }),
    phases: ['guard', 'apply'],
    runsIn: 'child',
    applyMs: 24 * 3_600_000,
    attempts: 1,
    facts: { execution: 'workflow id of the nested run', evidence: 'folder of its evidence', primary: 'primary before, when it was a failover', candidate: 'primary after, when it was a failover' },
  }),
};
