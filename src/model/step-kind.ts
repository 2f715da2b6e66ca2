import { z } from 'zod';

export const PHASES = ['inspect', 'guard', 'apply', 'verify', 'undo'] as const;
export type Phase = (typeof PHASES)[number];

/** One IAM action and what it is asked for; docs/permissions.md. */
export interface Permission {
  /** `service:Action`, as IAM names it. */
  readonly action: string;
  /** The kind of thing whose ARN the policy names; `*` where the service knows no resource for the action. */
  readonly on: string;
}

/** Several actions on the same thing. */
export function allow(on: string, ...actions: string[]): Permission[] {
  return actions.map((action) => ({ action, on }));
}

export interface StepKind {
  readonly summary: string;
  readonly input: z.ZodType;
  /** Phases there are. Without `apply` it only reads. */
  readonly phases: readonly Phase[];
  /** `workflow`: done by the interpreter itself (approval, wait). `child`: an execution of its own. */
  readonly runsIn: 'activity' | 'workflow' | 'child';
  /** After its apply nothing is undone automatically. */
  readonly pointOfNoReturn: boolean;
  /** An operator may skip it. */
  readonly skippable: boolean;
  /** Writes are refused while it is in effect before the point of no return: starts the dead-man deadline. */
  readonly refusesWrites: boolean;
  /** It interrupts the service, or cannot be taken back: all guards are asked once more right before the first such step. */
  readonly disruptive: boolean;
  /** Its guard is asked again then, although it is done. */
  readonly askedAgain: boolean;
  /** Within the refused-write window: its inspection and guards were done beforehand, apply inspects again itself. */
  readonly critical: boolean;
  /** Deadline of one attempt of apply or undo; reading phases have 30 s unless stated. */
  readonly applyMs: number;
  /** The same where the datastore is managed and a cloud takes minutes; default: applyMs. */
  readonly managedApplyMs?: number;
  readonly verifyMs: number;
  /** Attempts of apply, each after a new inspection. */
  readonly attempts: number;
  /** Facts that must still be the same when its guard is asked again: what people approved. */
  readonly boundFacts: readonly string[];
  /** AWS calls that its phases make: what the worker's role must allow. */
  readonly permissions: readonly Permission[];
  /** Facts it yields for `${steps.<id>.<fact>}`. */
  readonly facts: Readonly<Record<string, string>>;
}

/** Inputs that many kinds share. */
export const datastore = z.string().meta({ description: 'Datastore name.' });
export const node = z.string().meta({ description: 'Node name within the datastore.' });
/** Known only while the runbook runs; may be absent in preflight. */
export const lateNode = node.optional();

/** An entry with everything that is usual filled in. */
export function kind(entry: Partial<StepKind> & Pick<StepKind, 'summary' | 'input' | 'phases'>): StepKind {
  return {
    runsIn: 'activity',
    pointOfNoReturn: false,
    skippable: false,
    refusesWrites: false,
    critical: false,
    disruptive: false,
    askedAgain: false,
    applyMs: 60_000,
    verifyMs: 30_000,
    attempts: 3,
    boundFacts: [],
    permissions: [],
    facts: {},
    ...entry,
  };
}
