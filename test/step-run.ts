import type { StepDefinition, StepRun } from '../activities/step-definition.ts';
import { stepKind, type Phase } from '../src/model/catalogue.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import type { Mode } from '../src/model/runbook-schema.ts';
import type { Context } from '../src/systems/context.ts';

/** One phase of a step kind against real servers, without the engine around it. */
export function runStep(
  definitions: Readonly<Record<string, StepDefinition>>,
  context: Context,
  uses: string,
  phase: Phase,
  input: Readonly<Record<string, unknown>>,
  call: { epoch?: number; mode?: Mode } = {},
): Promise<PhaseResult> {
  const epoch = call.epoch ?? 1;
  const step: StepRun = {
    context,
    call: { step: uses, uses, phase, preflight: false, with: input, mode: call.mode ?? 'planned', service: 'orders', environment: 'test', workflowId: 'test/step', runId: 'test', epoch, key: `test/step/${epoch}`, before: null, facts: {} },
    input: stepKind(uses)!.input.parse(input) as Readonly<Record<string, unknown>>,
    signal: new AbortController().signal,
    attempt: 1,
    previousDetails: undefined,
    nowMs: Date.now,
    heartbeat: () => {},
    log: context.log,
  };
  return definitions[uses]![phase]!(step);
}
