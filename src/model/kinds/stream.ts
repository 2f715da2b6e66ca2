import { z } from 'zod';
import { kind, type StepKind } from '../step-kind.ts';
import { durationMs } from '../units.ts';

export const streamKinds: Readonly<Record<string, StepKind>> = {
  'kafka.lagGate': kind({
    summary: 'Goes on only when consumer groups have read what there is: end offsets less committed ones, over all partitions, and the state of each group.',
    input: z.strictObject({
      cluster: z.string().optional().meta({ description: 'Name under `kafka`; may be left out when there is one.' }),
      groups: z.array(z.string().min(1)).min(1).meta({ description: 'Consumer groups.' }),
      topics: z.array(z.string().min(1)).default([]).meta({ description: 'Topics that each group must have read; default: those that it has committed for.' }),
      maxLag: z.int().min(0).default(0).meta({ description: 'Messages that a group may be behind, all partitions together.' }),
      state: z.enum(['stable', 'empty', 'any']).default('any').meta({ description: '`stable`: its consumers run and no rebalance is under way; `empty`: they are stopped.' }),
      wait: durationMs.prefault('5m').meta({ description: 'How long groups may take to catch up.' }),
    }),
    phases: ['guard', 'verify'],
    skippable: true,
    verifyMs: 6 * 3_600_000,
    facts: { lag: 'messages that all groups together are behind', partitions: 'partitions that were looked at', waitedMs: 'milliseconds until they had caught up' },
  }),
};
