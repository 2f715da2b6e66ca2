import type { StepDefinition, StepRun } from '../activities/step-definition.ts';
import { stepKind, type Phase } from '../src/model/catalogue.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import type { Json, Mode } from '../src/model/runbook-schema.ts';
import type { Context } from '../src/systems/context.ts';
import { asCaller } from './aws-calls.ts';

/** One phase of a step kind against real servers, without the engine around it. */
export function runStep(
  definitions: Readonly<Record<string, StepDefinition>>,
  context: Context,
  uses: string,
  phase: Phase,
  input: Readonly<Record<string, unknown>>,
  call: { epoch?: number; mode?: Mode; before?: Json; facts?: Readonly<Record<string, Json>>; lastReport?: Json; previousDetails?: unknown; attempt?: number; signal?: AbortSignal; nowMs?: () => number; heartbeat?: (details: unknown) => void } = {},
): Promise<PhaseResult> {
  const epoch = call.epoch ?? 1;
  const step: StepRun = {
    context,
    call: { step: uses, uses, phase, preflight: false, with: input, mode: call.mode ?? 'planned', service: 'orders', environment: 'test', workflowId: 'test/step', runId: 'test', epoch, key: `test/step/${epoch}`, before: call.before ?? null, facts: call.facts ?? {}, ...(call.lastReport === undefined ? {} : { lastReport: call.lastReport }) },
    input: stepKind(uses)!.input.parse(input) as Readonly<Record<string, unknown>>,
    signal: call.signal ?? new AbortController().signal,
    attempt: call.attempt ?? 1,
    previousDetails: call.previousDetails,
    nowMs: call.nowMs ?? Date.now,
    heartbeat: call.heartbeat ?? (() => {}),
    journal: async (details) => call.heartbeat?.(details),
    log: context.log,
  };
  return asCaller({ activity: `${uses}:${phase}`, input: step.input }, () => definitions[uses]![phase]!(step));
}
