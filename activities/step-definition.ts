import type { CheckResult } from '../src/model/api.ts';
import type { PostgresDatastore } from '../src/model/config-schema.ts';
import type { PhaseResult } from '../src/model/execution.ts';
import { HoldfastError } from '../src/model/errors.ts';
import type { PhaseCall } from '../src/model/step-call.ts';
import { postgresOf, unknownName, type Context } from '../src/systems/context.ts';
import type { Logger } from '../src/systems/log.ts';

/** What a phase works with. */
export interface StepRun {
  readonly context: Context;
  readonly call: PhaseCall;
  /** Parsed by the catalogue's schema. */
  readonly input: Readonly<Record<string, unknown>>;
  readonly signal: AbortSignal;
  readonly attempt: number;
  /** What the attempt before reported last, when its worker was lost. */
  readonly previousDetails: unknown;
  readonly nowMs: () => number;
  readonly heartbeat: (details: unknown) => void;
  /** Like heartbeat, and resolves when the server has it: for what must be known before something is done that cannot be done twice. */
  readonly journal: (details: unknown) => Promise<void>;
  readonly log: Logger;
}

export type PhaseRun = (step: StepRun) => Promise<PhaseResult>;

/** The phases of one step kind. All but apply and undo only read. */
export interface StepDefinition {
  readonly inspect?: PhaseRun;
  readonly guard?: PhaseRun;
  readonly apply?: PhaseRun;
  readonly verify?: PhaseRun;
  readonly undo?: PhaseRun;
  /** Goes on beside later steps until it ends by itself or is cancelled. */
  readonly background?: { readonly name: string; readonly run: PhaseRun };
}

export function datastoreFor(step: StepRun): PostgresDatastore {
  return postgresOf(step.context.config, textInput(step, 'datastore'));
}

/** Id of the secret the datastore's applications read. */
export function endpointSecret(step: StepRun): string {
  const secretId = datastoreFor(step).endpoint?.secret;
  if (secretId === undefined) {
    throw new HoldfastError('endpoint-missing', `datastore ${textInput(step, 'datastore')} has no endpoint.secret`, { next: "add endpoint: { secret: <id of the application's connection secret> }" });
  }
  return secretId;
}

/** Region whose secret is meant: the step's own, else the datastore's; undefined: that of the configuration. */
export function secretRegion(step: StepRun): string | undefined {
  return optionalText(step, 'region') ?? datastoreFor(step).endpoint?.secretRegion;
}

/** A text input that must be there by now. */
export function textInput(step: StepRun, name: string): string {
  const value = step.input[name];
  if (typeof value !== 'string' || value === '') {
    throw new HoldfastError('step-input', `step ${step.call.step} (${step.call.uses}) has no ${name}`, { next: `give ${name} in \`with\`, or check that the step whose fact it refers to ran before` });
  }
  return value;
}

export function optionalText(step: StepRun, name: string): string | undefined {
  const value = step.input[name];
  return typeof value === 'string' && value !== '' ? value : undefined;
}

/** A node named by an input; it must be one of the datastore's. */
export function nodeInput(step: StepRun, name: string): string {
  const node = textInput(step, name);
  const nodes = datastoreFor(step).nodes;
  if (!Object.hasOwn(nodes, node)) throw unknownName('node', node, Object.keys(nodes));
  return node;
}

export function check(name: string, ok: boolean, expected: string, found: string, next?: string): CheckResult {
  return ok || next === undefined ? { name, ok, expected, found } : { name, ok, expected, found, next };
}

export function guarded(checks: readonly CheckResult[]): PhaseResult {
  const failed = checks.filter((item) => !item.ok);
  return { checks, summary: failed.length === 0 ? `${checks.length} check(s) hold` : `${failed.length} of ${checks.length} check(s) do not hold` };
}

/** Wait, ended early by cancellation. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason as Error);
      return;
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    function onAbort(): void {
      clearTimeout(timer);
      reject(signal!.reason as Error);
    }
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
