import type { CheckResult } from './api.ts';

/** Facts are chained: each carries the SHA-256 of the one before, so that a changed byte names its fact. */
export interface Fact {
  readonly index: number;
  /** ISO 8601. */
  readonly at: string;
  readonly kind: string;
  readonly data: unknown;
  readonly previousSha256: string;
  readonly sha256: string;
}

/** A fact before chaining: what workflows hand over. */
export interface FactInput {
  readonly at: string;
  readonly kind: string;
  readonly data: unknown;
}

export interface Measurement {
  readonly name: string;
  readonly unit: 'ms' | 'count' | 'bytes';
  /** null: there is no objective for it. */
  readonly objective: number | null;
  /** null: it was not measured; `note` says why. Never an estimate. */
  readonly measured: number | null;
  readonly note?: string;
}

/** What a workflow hands to the activity `writeEvidence`. */
export interface EvidenceInput {
  readonly kind: 'drill' | 'failover' | 'failback' | 'runbook';
  readonly subject: string;
  readonly service: string | null;
  readonly outcome: string;
  readonly title: string;
  readonly summary: string;
  readonly workflowId: string;
  readonly runId: string;
  readonly requestedBy: string;
  readonly reason: string;
  readonly startedAt: string;
  readonly finishedAt: string;
  readonly planHash: string | null;
  readonly measurements: readonly Measurement[];
  readonly timeline: readonly TimelineEntry[];
  readonly checks: readonly CheckResult[];
  readonly facts: readonly FactInput[];
  /** Markdown to append: e.g. the generated failback plan. */
  readonly appendix?: string;
}

export interface TimelineEntry {
  readonly label: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly outcome: string;
  readonly group?: string;
}

export interface EvidenceLocation {
  readonly id: string;
  readonly directory: string;
  readonly sha256: string;
  readonly signed: boolean;
}
