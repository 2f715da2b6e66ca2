import type { Phase } from './catalogue.ts';
import type { Json, Mode } from './runbook-schema.ts';

/** What a phase activity `<kind>:<phase>` is called with. */
export interface PhaseCall {
  readonly step: string;
  readonly uses: string;
  readonly phase: Phase;
  /** Asked before the first change: inputs that only come up while running may be missing. */
  readonly preflight: boolean;
  readonly with: Readonly<Record<string, unknown>>;
  readonly mode: Mode;
  readonly service: string | null;
  readonly environment: string;
  readonly workflowId: string;
  readonly runId: string;
  /** Grows with every execution; a fence carries it. */
  readonly epoch: number;
  /** Locks that the execution took, by datastore, each with the epoch it was given; none: it is older than locks, or changes nothing. */
  readonly locks?: Readonly<Record<string, number>>;
  /** Rules that a person broke by name for this execution; none: absent. */
  readonly overrides?: readonly string[];
  /** Idempotency key `workflowId/stepId/epoch`. */
  readonly key: string;
  /** What inspection found before apply. */
  readonly before: Json;
  /** What an earlier apply of this step that did not end had reported last; its worker may be gone. */
  readonly lastReport?: Json;
  /** This step's own facts so far. */
  readonly facts: Readonly<Record<string, Json>>;
}
