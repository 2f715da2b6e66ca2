/**
 * The public API: what `temporal workflow start --type T --input JSON` takes, and what comes back.
 * All of it is plain JSON. Inputs are parsed strictly: an unknown key is an error that names the allowed ones.
 */
import { z } from 'zod';
import { breakGlassResultsSchema } from './break-glass-results.ts';
import type { ContentWords } from './manifest.ts';
import type { Proof } from './proof.ts';
import type { Restorable } from './restorable.ts';
import { MAX_DOCUMENT_CHARACTERS } from './failback.ts';
import { RULE_NAMES, type RuleName } from './rules.ts';

const why = z.string().min(1);
/** SHA-256 of the runbook's document: another one is refused. A nested run gets it from its parent. */
const expectedDocument = z.string().optional();
const overrides = z.array(z.strictObject({ rule: z.enum(RULE_NAMES), reason: why })).default([]);

export const backupInputSchema = z.strictObject({ datastore: z.string(), reason: why.default('manual') });
export const retentionInputSchema = z.strictObject({ datastore: z.string(), apply: z.boolean().default(true) });
export const restoreDrillInputSchema = z.strictObject({
  datastore: z.string(),
  /** `newest`, `random` or a backup id; default: what the datastore's `drill.backup` says. */
  backup: z.string().optional(),
  /** Instead of a backup: RDS restores the instance to this moment (ISO 8601), or to `now`. Proved by marker rows on both sides of it. */
  pointInTime: z.string().refine((text) => text === 'now' || (/^\d{4}-\d{2}-\d{2}T/.test(text) && !Number.isNaN(Date.parse(text))), 'expected a time such as 2026-11-21T03:00:00Z, or now').optional(),
  service: z.string().optional(),
  reason: why.default('scheduled'),
  requestedBy: z.string().min(1).default('schedule'),
}).refine((input) => input.backup === undefined || input.pointInTime === undefined, 'backup and pointInTime exclude each other');
export const failoverInputSchema = z.strictObject({
  service: z.string(),
  mode: z.enum(['planned', 'forced']),
  reason: why,
  requestedBy: z.string().min(1),
  /** Which of the service's runbooks: `failover` or `failback`. */
  purpose: z.string().default('failover'),
  parameters: z.record(z.string(), z.unknown()).default({}),
  /** A runbook as YAML text, instead of the service's own: what a failover's result carries as its way back. */
  document: z.string().min(1).max(MAX_DOCUMENT_CHARACTERS, `at most ${MAX_DOCUMENT_CHARACTERS} characters`).optional(),
  dryRun: z.boolean().default(false),
  /** Rules that the requester breaks on purpose; each needs its own reason. */
  overrides,
  expectedDocument,
});
export const runbookInputSchema = z.strictObject({
  runbook: z.string(),
  service: z.string().optional(),
  mode: z.enum(['planned', 'forced']).default('planned'),
  parameters: z.record(z.string(), z.unknown()).default({}),
  reason: why.default('manual'),
  requestedBy: z.string().default('schedule'),
  dryRun: z.boolean().default(false),
  overrides,
  expectedDocument,
});
export const readinessInputSchema = z.strictObject({ service: z.string() });
/** What was done by hand while Temporal was down, recorded afterwards. */
export const importedInputSchema = z.strictObject({ results: breakGlassResultsSchema, importedBy: z.string().min(1) });

export const workflowInputSchemas = {
  backup: backupInputSchema,
  retention: retentionInputSchema,
  restoreDrill: restoreDrillInputSchema,
  failover: failoverInputSchema,
  runbook: runbookInputSchema,
  readiness: readinessInputSchema,
  imported: importedInputSchema,
} as const;
export type WorkflowType = keyof typeof workflowInputSchemas;

export type BackupInput = z.input<typeof backupInputSchema>;
export type RetentionInput = z.input<typeof retentionInputSchema>;
export type RestoreDrillInput = z.input<typeof restoreDrillInputSchema>;
export type FailoverInput = z.input<typeof failoverInputSchema>;
export type RunbookInput = z.input<typeof runbookInputSchema>;
export type ReadinessInput = z.input<typeof readinessInputSchema>;
export type ImportedInput = z.input<typeof importedInputSchema>;

export interface BackupResult {
  readonly id: string;
  readonly datastore: string;
  readonly location: string;
  readonly snapshotAt: string;
  readonly storedBytes: number;
  readonly plainBytes: number;
  /** Wall time of the dump and upload. */
  readonly durationMs: number;
  readonly tables: number;
  readonly rows: string;
  /** What the engine calls tables and rows, where it has other words. */
  readonly words?: ContentWords;
  readonly degraded?: string;
  /** It is a managed snapshot; nothing of it is in the store but its manifest. */
  readonly managed?: { readonly identifier: string; readonly region: string; readonly allocatedGiB: number | null; readonly copies: readonly string[] };
  /** The logical dump that was taken beside it (`managed.snapshots.also: dump`). */
  readonly also?: BackupResult;
}

export interface RetentionDecision {
  readonly id: string;
  readonly location: string;
  readonly snapshotAt: string;
  readonly action: 'keep' | 'delete' | 'deferred';
  /** Every rule that speaks for it, e.g. `daily 2026-11-21`, `newest verified`, `pinned`. */
  readonly reasons: readonly string[];
}

export interface RetentionResult {
  readonly datastore: string;
  readonly applied: boolean;
  readonly decisions: readonly RetentionDecision[];
  readonly deleted: readonly string[];
  readonly freedBytes: number;
  /** Parts of uploads that never ended, removed by the reaper. */
  readonly reapedUploads: number;
  /** Which moments are left, and which are not. Left out by runs of earlier versions. */
  readonly restorable?: Restorable;
}

export interface RestoreDrillResult {
  readonly datastore: string;
  readonly backup: string;
  readonly outcome: 'verified' | 'bad' | 'failed';
  readonly proof: Proof | null;
  readonly checks: readonly CheckResult[];
  /** Start of restore to checks green. */
  readonly measuredRtoMs: number | null;
  /** Drill start minus snapshot time: what would have been lost. */
  readonly measuredRpoMs: number | null;
  readonly objectives: { readonly rtoMs: number; readonly rpoMs: number } | null;
  readonly evidence: string | null;
  readonly message: string;
}

export interface CheckResult {
  readonly name: string;
  readonly ok: boolean;
  readonly found: string;
  readonly expected: string;
  /** What to do when it does not hold. */
  readonly next?: string;
  /** The rule of policy it stands for: only such a check may be overridden, by this name. */
  readonly rule?: RuleName;
  /** Who broke the rule, and why; set by the interpreter, never by an activity. */
  readonly overridden?: string;
}

/** Names of Temporal search attributes; all keywords but RTO. Registered by `doctor --fix` or the worker. */
export const SEARCH_ATTRIBUTES = {
  service: 'HoldfastService',
  datastore: 'HoldfastDatastore',
  runbook: 'HoldfastRunbook',
  mode: 'HoldfastMode',
  outcome: 'HoldfastOutcome',
  environment: 'HoldfastEnvironment',
  requestedBy: 'HoldfastRequestedBy',
} as const;

export const WORKFLOW_IDS = {
  backup: (datastore: string, time: string) => `backup/${datastore}/${time}`,
  retention: (datastore: string) => `retention/${datastore}`,
  restoreDrill: (datastore: string, time: string) => `drill/${datastore}/${time}`,
  failover: (service: string) => `failover/${service}`,
  runbook: (name: string, time: string) => `runbook/${name}/${time}`,
  readiness: (service: string) => `readiness/${service}`,
  imported: (subject: string, time: string) => `imported/${subject}/${time}`,
  /** Not started by people: the lock of a datastore (src/model/lock.ts). */
  lock: (environment: string, datastore: string) => `lock/${environment}/${datastore}`,
} as const;

/** What is told to people. Sent by the activity `notify`; a failure to send is logged, never thrown. */
export interface Notice {
  readonly level: 'success' | 'failure' | 'attention';
  readonly title: string;
  readonly text: string;
  readonly fields: Readonly<Record<string, string>>;
}
